//! One HTTP request, from its head to the end of its answer, as a state machine.
//!
//! This folder only puts the stages in order; what they decide is in `policy`, what they
//! read and write is in `wire`. An exchange holds no body, no secret and no handle, so it
//! can be stored between any two inputs and go on in another instance.

mod approvals;
mod ask;
mod audit;
mod chat;
mod configuration;
mod downloads;
mod dues;
mod faults;
mod feedback;
mod gates;
mod inspection;
mod ledger;
mod login;
mod measure;
mod metrics;
mod model;
mod notices;
mod operations;
mod operators;
mod page;
mod pictures;
mod pieces;
mod record;
mod replay;
mod reply;
mod risk;
mod robot;
mod rollouts;
mod routes;
mod runner;
mod saying;
mod sending;
mod stream;
mod tools;
mod trace;
mod turns;
mod warming;
mod watching;
mod wechat;
mod wechat_token;

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    policy::{Policy, auth, operator::Operator},
    seam::{DeadlineReason, Find, Input, Moment, Output, RequestHead},
    wire::{
        answer::Answer,
        failure::{Code, Failure, Language},
    },
};
pub use configuration::{adopted_from_file, files_of, texts_of};
pub use metrics::{questions, snapshot};

use ask::Asking;
use chat::{Turn, Waiting};
use dues::Dues;
use gates::{Caller, Lease};
use inspection::Inspection;
use notices::Notifying;
use record::Story;
pub(crate) use record::timestamp;
use routes::{Origin, Route};
use runner::{Run, Saved};
use sending::Sending;
use stream::{Refusal, Streaming};
use tools::Calling;
use turns::Durable;
use warming::Warming;
use watching::Watching;

/// The version of the encoded state, its first byte.
const STATE_VERSION: u8 = 8;

/// Where an exchange stands. Each variant names what it waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Phase {
    /// The request's body.
    Body,
    /// The address's standing, before a wrong credential is refused.
    Unauthorized(u32, Failure),
    /// The address's standing, before anything is done for a right key; and what is wrong with
    /// the rest of the head.
    Door(u32, Option<Failure>),
    /// What is known of an intent's rollout and of its profile's tokens.
    Consult(Box<Asking>),
    /// The gates.
    Gates(Box<Waiting>),
    /// Somebody else's answer to the same question.
    Shared(Box<Waiting>),
    /// A place in the upstream's queue.
    Queue(Box<Waiting>),
    /// The check of what the person wrote and sent.
    CheckText(Box<Inspection>, Box<Waiting>),
    /// The check of what the agent wrote.
    CheckAnswer(Box<Inspection>, Box<Turn>, Answer),
    /// A whole answer.
    Answer(Box<Turn>),
    /// The head of a stream.
    StreamHead(Box<Turn>),
    /// The rest of a stream's refusal.
    StreamRefusal(Box<Turn>, Refusal),
    /// More of a stream.
    Streaming(Box<Turn>, Box<Streaming>),
    /// The gates of a login.
    LoginGates(Box<login::Asked>),
    /// The time to try again.
    Backoff(Box<Waiting>),
    /// WeChat's answer to a login.
    LoginAnswer(login::Code2Session),
    /// WeChat's opinion of who logs in.
    LoginRisk(Box<risk::Asked>),
    /// A piece of a picture that WeChat fetches.
    SendPicture(Box<wechat::Sending>),
    /// A message that WeChat pushes.
    Push(Box<wechat::Pushed>),
    /// The mark of a turn whose draft is shown as soon as it is there.
    Draft(Box<turns::Draft>),
    /// The request's body in the store, for whoever runs the turn.
    KeepBody(u32, Box<Waiting>),
    /// News of a turn that another exchange runs.
    Watching(Box<Watching>),
    /// Whether this is to run a turn.
    Claiming(u32, String),
    /// The request's body out of the store.
    Restoring(u32, Box<Saved>),
    /// The store's word that a point is kept from which another runner could go on.
    Saved(Box<Saved>),
    /// The store's word that the turn's end is kept.
    Ending,
    /// The answer of a tool's server.
    Calling(Box<Calling>),
    /// The time to send a call again.
    CallAgain(Box<Calling>),
    /// Whoever is told of a turn, or what is needed to tell them.
    Notifying(Box<Notifying>),
    /// The store's word that a message to a robot is kept.
    Hearing(u32),
    /// A picture or file that came with a message to a robot.
    Downloading(Box<downloads::Download>),
    /// Whoever takes what is said in a robot's conversation, or what is needed to say it.
    Saying(Box<saying::Saying>),
    /// What a person is asked, or what became of the person's word.
    Approvals(Box<approvals::Asked>),
    /// How rollouts stand, after an order or without one.
    Rollouts(Box<rollouts::Asked>),
    /// Lines of the audit ledger.
    Ledger(u32),
    /// The turn that a request left.
    Trace(Box<trace::Found>),
    /// Whether a person may rate an answer, and what was said before.
    Rating(Box<feedback::Rated>),
    /// What people said.
    Feedback(u32),
    /// The store's word that an operator's session is over.
    LoggingOut(u32),
    /// What is remembered of configurations, or a step of a change.
    Configuration(Box<configuration::Changing>),
    /// The policy that the turn was begun with.
    Under(Box<runner::Moving>),
    /// What is shown at `/metrics`.
    Metrics(Box<metrics::Asked>),
    /// What a model's own server is asked.
    Model(Box<model::Asked>),
    /// DingTalk, which is to carry an operator's words.
    Sending(Box<Sending>),
    /// Servers of a model that is to be warm.
    Warming(Box<Warming>),
    /// The two probes of `/readyz`.
    Probes(operations::Probes),
    /// Nothing.
    Done,
}

/// What is known of a request from its head on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Facts {
    request_id: String,
    trace_id: String,
    language: Language,
    route: Route,
    started_ms: u64,
    client: String,
    origin: Option<Origin>,
    head_only: bool,
    body_bytes: u64,
    /// All that is not ASCII is to be escaped.
    ascii: bool,
    /// Stands for what is asked, to be known again.
    fingerprint: u32,
    caller: Caller,
    /// The address's standing allows explanations only.
    restricted: bool,
    /// The trace id came with the head.
    traced: bool,
    /// The profile that the client would like.
    wanted_profile: Option<String>,
    /// Stands for this request in the upstream's queue.
    ticket: u64,
    /// The turn that is asked about.
    turn: Option<String>,
    /// The question to a person that is asked about.
    approval: Option<approvals::Named>,
    /// The model that is asked about.
    model: Option<String>,
    /// The version of a configuration that is asked about.
    edition: Option<String>,
    /// The version of the configuration that this was begun with.
    config: String,
    /// What the client calls its request, so that it is not run twice.
    idempotency_key: Option<String>,
    /// Of what is asked, where the request has a key.
    digest: [u8; 32],
    /// The client will come back for the answer.
    respond_async: bool,
    /// The number of the last event that the client has.
    last_event: u32,
    /// How long the client would wait for the turn that is asked about, in seconds.
    wait_s: u64,
    /// The lines of the audit ledger that are asked for.
    find: Option<Find>,
    /// The trace and the span that the client is in: W3C trace context, in hex.
    parent: Option<(String, String)>,
    /// The session, where an operator shows one.
    operator: Option<Operator>,
}

/// The times at which something must happen, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Timers {
    body: Option<u64>,
    turn: Option<u64>,
    first_byte: Option<u64>,
    idle: Option<u64>,
    heartbeat: Option<u64>,
    store: Option<u64>,
    queue: Option<u64>,
    lease: Option<u64>,
    check: Option<u64>,
    attempt: Option<u64>,
    frame: Option<u64>,
    backoff: Option<u64>,
    watch: Option<u64>,
    run: Option<u64>,
}

impl Timers {
    /// The next one, and whose it is.
    fn next(&self) -> Option<(u64, DeadlineReason)> {
        [
            (self.body, DeadlineReason::Body),
            (self.turn, DeadlineReason::Turn),
            (self.first_byte, DeadlineReason::FirstByte),
            (self.idle, DeadlineReason::Idle),
            (self.heartbeat, DeadlineReason::Heartbeat),
            (self.store, DeadlineReason::Store),
            (self.queue, DeadlineReason::Queue),
            (self.lease, DeadlineReason::Lease),
            (self.check, DeadlineReason::Check),
            (self.attempt, DeadlineReason::Attempt),
            (self.frame, DeadlineReason::Frame),
            (self.backoff, DeadlineReason::Backoff),
            (self.watch, DeadlineReason::Watch),
            (self.run, DeadlineReason::Run),
        ]
        .into_iter()
        .filter_map(|(at, reason)| at.map(|at| (at, reason)))
        .min_by_key(|(at, _)| *at)
    }
}

/// One request. See the [crate's documentation](crate) for how to drive it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Exchange {
    phase: Phase,
    facts: Facts,
    timers: Timers,
    story: Story,
    lease: Option<Lease>,
    dues: Dues,
    /// Another exchange is to run the turn.
    durable: Option<Durable>,
    /// This one runs a turn whose clients are elsewhere.
    run: Option<Run>,
    /// It is about a message to a robot.
    robot: Option<Box<robot::Heard>>,
    stages: measure::Stages,
    next_id: u32,
    #[serde(skip)]
    outputs: VecDeque<Output>,
}

impl Exchange {
    /// Begins with a request's head. Drain it.
    pub fn new(policy: &Policy, head: RequestHead, now: Moment) -> Self {
        let mut exchange = Self::blank(policy, &head, now);
        exchange.begin(policy, &head, now);
        exchange.settle(policy, now);
        exchange
    }

    fn blank(policy: &Policy, head: &RequestHead, now: Moment) -> Self {
        Self::of(routes::facts(policy, head, now))
    }

    /// One with these facts that has done nothing yet.
    fn of(facts: Facts) -> Self {
        Self {
            phase: Phase::Done,
            facts,
            timers: Timers::default(),
            story: Story::default(),
            lease: None,
            dues: Dues::default(),
            durable: None,
            run: None,
            robot: None,
            stages: measure::Stages::default(),
            next_id: 1,
            outputs: VecDeque::new(),
        }
    }

    /// Begins where a key's [alarm](crate::state::Reduced::alarm_ms) has gone off. There is no
    /// client: nothing is answered. Drain it.
    pub fn alarm(policy: &Policy, key: &str, now: Moment) -> Self {
        let mut exchange = Self::blank(policy, &RequestHead::default(), now);
        match warming::alias(key) {
            Some(alias) => exchange.begin_warming(policy, alias, now),
            None => exchange.claim(key, now),
        }
        exchange.settle(policy, now);
        exchange
    }

    /// Takes in what happened. Drain it afterwards.
    ///
    /// An input that nothing waits for is passed over: answers may cross cancellations.
    pub fn handle_input(&mut self, policy: &Policy, input: Input<'_>, now: Moment) {
        debug_assert!(self.outputs.is_empty(), "drain before input");
        match input {
            Input::ClientGone => self.client_gone(policy, now),
            Input::Deadline => self.deadline(policy, now),
            input if self.in_run(policy, &input, now) => {}
            input => self.advance(policy, input, now),
        }
        self.settle(policy, now);
    }

    /// The next thing to do; `None` when all is done. To be called until then after
    /// [`Exchange::new`] and after each [`handle_input`](Self::handle_input).
    #[must_use]
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Whether it is over.
    pub fn is_done(&self) -> bool {
        matches!(self.phase, Phase::Done)
    }

    /// The trace id, for a host's own log lines about this request.
    pub fn trace_id(&self) -> &str {
        &self.facts.trace_id
    }

    /// The state as bytes, to be stored between two inputs.
    pub fn encode(&self) -> Vec<u8> {
        debug_assert!(self.outputs.is_empty(), "drain before storing");
        postcard::to_extend(self, vec![STATE_VERSION]).unwrap_or_default()
    }

    /// The exchange in those bytes, when they are of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == STATE_VERSION).then(|| postcard::from_bytes(rest).ok())?
    }

    /// The outputs of a host whose module failed at a step: the same error shape, log line
    /// and end as any other failure. `begun` is the moment of the exchange's begin;
    /// `streaming` says that a stream's head was sent already.
    pub fn broken(
        policy: &Policy,
        head: &RequestHead,
        begun: Moment,
        now: Moment,
        streaming: bool,
    ) -> Vec<Output> {
        let mut exchange = Self::blank(policy, head, begun);
        let failure = Failure::new(Code::Internal, "a defect of the gateway; other requests are not touched");
        if streaming {
            exchange.story.status = 200;
            exchange.story.opened = true;
            exchange.fail_stream(policy, &failure, String::new(), now);
        } else {
            exchange.fail(policy, &failure, now);
        }
        exchange.settle(policy, now);
        exchange.outputs.into()
    }

    /// Ends a drain: done, or when to come back.
    fn settle(&mut self, policy: &Policy, now: Moment) {
        self.enter_stage(now);
        self.pass_trace_on(policy);
        self.flush_run(now);
        if self.is_done() {
            self.outputs.push_back(Output::Done);
        } else if let Some((at_ms, reason)) = self.timers.next() {
            self.outputs.push_back(Output::Deadline { at_ms, reason });
        }
    }

    fn begin(&mut self, policy: &Policy, head: &RequestHead, now: Moment) {
        faults::inject(policy, head);
        let route = self.facts.route;
        if let Some(allowed) = routes::preflight(policy, head, route) {
            return self.respond_empty(policy, 204, allowed, now);
        }
        match routes::admit(policy, head, route, now) {
            Err(routes::Refusal::Credential(rejected)) => self.unauthorized(policy, rejected, now),
            Err(routes::Refusal::Request(failure, extra)) => self.fail_with(policy, &failure, extra, now),
            Ok((caller, operator)) => {
                (self.facts.caller, self.facts.operator) = (caller, operator);
                match route {
                    Route::Picture => return self.send_picture(policy, head, now),
                    Route::Push => return self.begin_push(policy, head, now),
                    Route::Robot => return self.begin_robot(policy, head, now),
                    Route::Page => return self.send_page(policy, head, now),
                    _ => {}
                }
                let flaw = routes::flaw(policy, head, route);
                match self.door(policy) {
                    Some(asks) => self.ask_door(asks, flaw),
                    None => self.admitted(policy, flaw, now),
                }
            }
        }
    }

    /// The caller may come in: each route's first step.
    fn admitted(&mut self, policy: &Policy, flaw: Option<Failure>, now: Moment) {
        if let Some(flaw) = flaw {
            return self.fail(policy, &flaw, now);
        }
        self.keep_for_replay(policy);
        match self.facts.route {
            Route::Chat
            | Route::Ask
            | Route::Login
            | Route::Renew
            | Route::Token
            | Route::Revoke
            | Route::Completions
            | Route::Steer
            | Route::Send
            | Route::Configure
            | Route::RollBack
            | Route::Decide
            | Route::OperatorDecides
            | Route::LogIn
            | Route::Rate => {
                self.phase = Phase::Body;
                self.timers.body = Some(now.unix_ms + policy.deadlines.body);
                self.outputs.push_back(Output::ReadBody { limit: self.facts.route.body_limit(policy) });
            }
            Route::Rollouts => self.show_rollouts(policy, now),
            Route::Approval | Route::Approvals => self.show_approvals(policy, now),
            Route::Turn | Route::TurnEvents | Route::CancelTurn => self.look_for_turn(policy, now),
            Route::Ledger | Route::Trace => self.look_into_ledger(policy, now),
            Route::Feedback => self.show_feedback(now),
            Route::WhoAmI => self.say_who(policy, now),
            Route::LogOut => self.log_out(policy, now),
            Route::Configuration => self.show_configuration(now),
            Route::Models => self.list_models(policy, now),
            Route::Model => self.show_model(policy, now),
            Route::Health => self.respond_json(policy, 200, r#"{"status":"live"}"#.into(), now),
            Route::Version => self.respond_json(policy, 200, operations::version(policy), now),
            Route::Ready => self.probe(policy, now),
            Route::Metrics | Route::Overview => self.show_metrics(now),
            Route::Picture | Route::Push | Route::Robot | Route::Page | Route::Unknown => {}
        }
    }

    /// One input in the phase that waits for it.
    fn advance(&mut self, policy: &Policy, input: Input<'_>, now: Moment) {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Body => self.in_body(policy, input, now),
            Phase::Unauthorized(id, failure) => self.in_unauthorized(policy, id, failure, &input, now),
            Phase::Door(id, flaw) => self.in_door(policy, id, flaw, &input, now),
            Phase::Consult(asking) => self.in_consult(policy, asking, &input, now),
            Phase::Gates(waiting) => self.in_gates(policy, waiting, input, now),
            Phase::Shared(waiting) => self.in_shared(policy, waiting, &input, now),
            Phase::Queue(waiting) => self.in_queue(policy, waiting, &input, now),
            Phase::CheckText(inspection, waiting) => {
                self.in_text_check(policy, inspection, waiting, &input, now);
            }
            Phase::CheckAnswer(inspection, turn, answer) => {
                self.in_answer_check(policy, inspection, turn, answer, &input, now);
            }
            Phase::Answer(turn) => self.in_answer(policy, turn, input, now),
            Phase::StreamHead(turn) => self.in_stream_head(policy, turn, input, now),
            Phase::StreamRefusal(turn, refusal) => self.in_stream_refusal(policy, turn, refusal, input, now),
            Phase::Streaming(turn, streaming) => self.in_stream(policy, turn, streaming, input, now),
            phase @ Phase::Backoff(_) => self.phase = phase,
            Phase::LoginGates(asked) => self.in_login_gates(policy, asked, input, now),
            Phase::LoginAnswer(asked) => self.in_login_answer(policy, asked, &input, now),
            Phase::LoginRisk(asked) => self.in_login_risk(policy, asked, &input, now),
            Phase::SendPicture(sending) => self.in_sending(policy, sending, input, now),
            Phase::Push(pushed) => self.in_push(policy, *pushed, input, now),
            Phase::Draft(draft) => self.in_draft(policy, draft, &input, now),
            Phase::KeepBody(id, waiting) => self.in_keep_body(policy, id, waiting, &input, now),
            Phase::Watching(watching) => self.in_watching(policy, watching, &input, now),
            Phase::Claiming(id, key) => self.in_claim(policy, id, key, &input, now),
            Phase::Restoring(id, saved) => self.in_restoring(policy, id, saved, &input, now),
            Phase::Calling(calling) => self.in_calling(policy, calling, &input, now),
            Phase::Notifying(notifying) => self.in_notifying(policy, notifying, &input, now),
            Phase::Hearing(id) => self.in_hearing(policy, id, &input, now),
            Phase::Downloading(download) => self.in_download(policy, download, &input, now),
            Phase::Saying(saying) => self.in_saying(policy, saying, &input, now),
            phase @ (Phase::Saved(_) | Phase::Ending | Phase::CallAgain(_)) => self.phase = phase,
            Phase::Ledger(id) => self.in_ledger(policy, id, &input, now),
            Phase::Trace(found) => self.in_trace(policy, found, &input, now),
            Phase::LoggingOut(id) => self.in_log_out(policy, id, &input, now),
            Phase::Rating(rated) => self.in_rating(policy, rated, &input, now),
            Phase::Feedback(id) => self.in_feedback(policy, id, &input, now),
            Phase::Configuration(changing) => self.in_configuration(policy, *changing, &input, now),
            Phase::Under(moving) => self.in_under(policy, moving, &input, now),
            Phase::Rollouts(asked) => self.in_rollouts(policy, asked, &input, now),
            Phase::Approvals(asked) => self.in_approvals(policy, asked, &input, now),
            Phase::Metrics(asked) => self.in_metrics(policy, asked, input, now),
            Phase::Model(asked) => self.in_model(policy, asked, input, now),
            Phase::Sending(sending) => self.in_robots_sending(policy, sending, &input, now),
            Phase::Warming(warming) => self.in_warming(policy, warming, &input, now),
            Phase::Probes(probes) => self.in_probes(policy, probes, input, now),
            Phase::Done => {}
        }
    }

    fn client_gone(&mut self, policy: &Policy, now: Moment) {
        // Who has the end of a draft may go; the real answer is kept.
        if self.is_done() || self.story.drafted {
            return;
        }
        self.leave_turn();
        self.cancel();
        self.story.client_gone = true;
        self.finish(policy, now);
    }

    /// The earliest timer has run out, if it really has: a host may come early.
    fn deadline(&mut self, policy: &Policy, now: Moment) {
        let Some((at, reason)) = self.timers.next() else { return };
        if at > now.unix_ms || self.is_done() {
            return;
        }
        match reason {
            DeadlineReason::Heartbeat => {
                self.outputs.push_back(Output::Chunk(ByteBuf::from(*b": keep-alive\n\n")));
                self.timers.heartbeat = Some(now.unix_ms + policy.deadlines.heartbeat);
            }
            DeadlineReason::Body => {
                let message = format!("the body did not arrive within {} s", policy.deadlines.body / 1000);
                self.fail(policy, &Failure::new(Code::BodyTimeout, message), now);
            }
            DeadlineReason::Lease => self.renew_lease(now),
            DeadlineReason::Queue => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Shared(waiting) => {
                    self.outputs.push_back(Output::Cancel { id: waiting.store_id });
                    self.look_again(policy, waiting, now);
                }
                Phase::Queue(waiting) => {
                    self.outputs.push_back(Output::Cancel { id: waiting.store_id });
                    self.ask_again(policy, waiting, now);
                }
                Phase::Model(asked) => self.ask_model_slot_again(policy, asked, now),
                phase => {
                    self.timers.queue = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Check => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::CheckText(mut inspection, waiting) => {
                    let progress = self.inspection_timed_out(policy, &mut inspection, now);
                    self.text_checked(policy, progress, inspection, waiting, now);
                }
                Phase::CheckAnswer(mut inspection, turn, answer) => {
                    let progress = self.inspection_timed_out(policy, &mut inspection, now);
                    self.answer_checked(policy, progress, inspection, turn, answer, now);
                }
                Phase::Streaming(turn, streaming) => {
                    self.stream_check_timed_out(policy, turn, streaming, now)
                }
                Phase::LoginRisk(asked) => self.risk_timed_out(policy, *asked, now),
                phase => {
                    self.timers.check = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Store => {
                self.timers.store = None;
                self.cancel();
                match std::mem::replace(&mut self.phase, Phase::Done) {
                    Phase::Consult(asking) => self.consulted(policy, *asking, &[], now),
                    Phase::Gates(waiting) => self.store_failed(policy, *waiting, now),
                    Phase::Model(asked) => self.model_store_failed(policy, asked, now),
                    Phase::Unauthorized(_, failure) => self.refuse_credential(policy, &failure, now),
                    Phase::Door(_, flaw) => self.door_failed(policy, flaw, now),
                    Phase::LoginGates(asked) => self.login_store_failed(policy, *asked, now),
                    Phase::SendPicture(sending) => self.piece_failed(policy, &sending, now),
                    Phase::Push(_) => self.push_done(policy, true, now),
                    Phase::Draft(draft) => self.drop_draft(policy, *draft, now),
                    Phase::Watching(watching) => self.watch_failed(policy, *watching, now),
                    // The alarm comes again.
                    Phase::Claiming(..) => {}
                    Phase::Ledger(_) => self.ledger_not_read(policy, now),
                    Phase::Trace(found) => self.tell_trace(policy, &found, None, now),
                    Phase::LoggingOut(_) => self.log_out_failed(policy, now),
                    Phase::Rating(_) | Phase::Feedback(_) => self.rating_failed(policy, now),
                    Phase::Configuration(_) => self.configuration_not_stored(policy, now),
                    Phase::Notifying(notifying) => self.notice_unanswered(policy, *notifying, true, now),
                    Phase::Hearing(_) => self.not_heard(policy, now),
                    Phase::Downloading(_) => self.download_late(policy, now),
                    Phase::Saying(saying) => self.saying_unanswered(policy, *saying, now),
                    Phase::Rollouts(_) => self.rollouts_store_failed(policy, now),
                    Phase::Approvals(asked) => self.approvals_not_read(policy, asked.said(), now),
                    Phase::Metrics(asked) => self.metrics_late(policy, *asked, now),
                    phase => self.phase = phase,
                }
            }
            DeadlineReason::Frame => self.frame_due(policy, now),
            DeadlineReason::Backoff => self.try_again(policy, now),
            DeadlineReason::Run => self.run_due(policy, now),
            DeadlineReason::Watch => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Watching(watching) => self.look_again_at_turn(*watching, now),
                Phase::Warming(warming) => self.look_at_servers(policy, warming, now),
                phase => {
                    self.timers.watch = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Turn
            | DeadlineReason::FirstByte
            | DeadlineReason::Idle
            | DeadlineReason::Attempt => {
                self.cancel();
                match std::mem::replace(&mut self.phase, Phase::Done) {
                    Phase::Queue(waiting) if waiting.has_draft() => {
                        self.keep_drafted(policy, *waiting, now);
                    }
                    phase @ (Phase::Queue(_) | Phase::Shared(_)) => {
                        self.phase = phase;
                        let failure = Failure::new(Code::QueueTimeout, "the agent was busy all the time");
                        self.fail(policy, &failure.after(10), now);
                    }
                    Phase::Probes(probes) => self.probes_done(policy, probes, now),
                    Phase::Warming(warming) => self.servers_silent(warming, now),
                    Phase::Calling(calling) => self.call_timed_out(policy, *calling, now),
                    Phase::Model(asked) => self.model_timed_out(policy, asked, reason, now),
                    Phase::Notifying(notifying) => self.notice_unanswered(policy, *notifying, false, now),
                    Phase::Saying(saying) => self.saying_unanswered(policy, *saying, now),
                    Phase::Downloading(_) if reason == DeadlineReason::Attempt => {
                        self.download_late(policy, now);
                    }
                    Phase::Streaming(turn, streaming) => self.stream_timed_out(policy, turn, streaming, now),
                    Phase::Answer(turn) | Phase::StreamHead(turn) | Phase::StreamRefusal(turn, _) => {
                        self.turn_failed(policy, *turn, &chat::timed_out(), now);
                    }
                    Phase::LoginAnswer(asked) => {
                        self.forget_code(policy, asked.code_key, &login::timed_out(), now);
                    }
                    phase => {
                        self.phase = phase;
                        self.fail(policy, &chat::timed_out(), now);
                    }
                }
            }
        }
    }

    fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }

    /// Gives up what the phase waits for.
    fn cancel(&mut self) {
        let id = match &self.phase {
            Phase::Answer(turn) | Phase::StreamHead(turn) | Phase::StreamRefusal(turn, _) => {
                Some(turn.fetch_id)
            }
            Phase::Streaming(turn, streaming) => {
                self.outputs.extend(streaming.inspection_id().map(|id| Output::Cancel { id }));
                streaming.is_open().then_some(turn.fetch_id)
            }
            Phase::CheckText(inspection, _) | Phase::CheckAnswer(inspection, ..) => Some(inspection.id()),
            Phase::Model(asked) => asked.waits_for(),
            Phase::Probes(probes) => probes.waiting_fetch(),
            Phase::Gates(waiting) | Phase::Queue(waiting) | Phase::Shared(waiting) => Some(waiting.store_id),
            Phase::Consult(asking) => Some(asking.store_id),
            Phase::Unauthorized(id, _) | Phase::Door(id, _) => Some(*id),
            Phase::LoginAnswer(asked) => Some(asked.fetch_id),
            Phase::LoginRisk(asked) => Some(asked.id),
            Phase::Draft(draft) => Some(draft.store_id),
            Phase::KeepBody(id, _) | Phase::Claiming(id, _) | Phase::Restoring(id, _) => Some(*id),
            Phase::Watching(watching) => Some(watching.store_id),
            Phase::Calling(calling) => Some(calling.fetch_id),
            Phase::Ledger(id) | Phase::LoggingOut(id) | Phase::Feedback(id) => Some(*id),
            Phase::Rating(rated) => Some(rated.id),
            Phase::Trace(found) => Some(found.store_id),
            Phase::Configuration(changing) => Some(changing.id),
            Phase::Notifying(notifying) => Some(notifying.id),
            Phase::Hearing(id) => Some(*id),
            Phase::Saying(saying) => Some(saying.id),
            Phase::Downloading(download) => Some(download.id),
            Phase::LoginGates(asked) => Some(asked.store_id),
            Phase::SendPicture(sending) => Some(sending.store_id),
            Phase::Push(pushed) => pushed.store_id(),
            Phase::Rollouts(asked) => Some(asked.store_id),
            Phase::Sending(sending) => Some(sending.fetch_id),
            Phase::Approvals(asked) => Some(asked.store_id),
            Phase::Body
            | Phase::Backoff(_)
            | Phase::CallAgain(_)
            | Phase::Saved(_)
            | Phase::Under(_)
            | Phase::Ending
            | Phase::Warming(_)
            | Phase::Done => None,
            Phase::Metrics(asked) => Some(asked.id()),
        };
        if let Some(id) = id {
            self.outputs.push_back(Output::Cancel { id });
        }
    }

    /// Headers that every answer has.
    fn common_headers(&self) -> Vec<(String, String)> {
        let mut headers: Vec<(String, String)> = vec![
            ("cache-control".into(), "no-store".into()),
            ("x-content-type-options".into(), "nosniff".into()),
            ("x-request-id".into(), self.facts.request_id.clone()),
            ("x-trace-id".into(), self.facts.trace_id.clone()),
        ];
        if let Some(origin) = &self.facts.origin {
            origin.write(&mut headers);
        }
        headers
    }

    /// Answers with a failure, as a whole response.
    fn fail(&mut self, policy: &Policy, failure: &Failure, now: Moment) {
        self.fail_with(policy, failure, Vec::new(), now);
    }

    fn fail_with(&mut self, policy: &Policy, failure: &Failure, extra: Vec<(String, String)>, now: Moment) {
        if self.story.opened || self.run.as_ref().is_some_and(Run::has_said) {
            // The status was sent long ago.
            self.strike(policy, failure.code);
            return self.fail_stream(policy, failure, String::new(), now);
        }
        let mut headers = extra;
        // RFC 9110, 11.6.1: a 401 names the scheme.
        if failure.code.status() == 401 && !headers.iter().any(|(name, _)| name == "www-authenticate") {
            headers.push(("www-authenticate".into(), "Bearer".into()));
        }
        if let Some(seconds) = failure.retry_after_s {
            headers.push(("retry-after".into(), seconds.to_string()));
        }
        self.story.code = Some(failure.code);
        self.story.retry_after_s = failure.retry_after_s;
        self.strike(policy, failure.code);
        let body = self.failure_body(failure);
        self.respond(policy, failure.code.status(), headers, body, now);
    }

    /// A failure as JSON, in the letters that the client wants.
    fn failure_body(&self, failure: &Failure) -> String {
        if self.facts.route.is_openai() {
            return failure.openai_body(&self.facts.trace_id);
        }
        let body = failure.body(&self.facts.trace_id, self.facts.language);
        if self.facts.ascii { crate::wire::reply::ascii(&body) } else { body }
    }

    fn respond_json(&mut self, policy: &Policy, status: u16, body: String, now: Moment) {
        self.respond(policy, status, Vec::new(), body, now);
    }

    /// A whole response with a JSON body.
    fn respond(
        &mut self,
        policy: &Policy,
        status: u16,
        mut extra: Vec<(String, String)>,
        body: String,
        now: Moment,
    ) {
        if self.story.drafted {
            return self.keep_turn(policy, body, now);
        }
        extra.extend(self.prolong_session(policy, now));
        self.send_json(status, extra, body);
        self.finish(policy, now);
    }

    /// A whole response with a JSON body, which need not be the end of the exchange.
    fn send_json(&mut self, status: u16, extra: Vec<(String, String)>, body: String) {
        let mut headers = vec![("content-type".into(), "application/json; charset=utf-8".into())];
        headers.extend(extra);
        self.send_whole(status, headers, ByteBuf::from(body.into_bytes()));
    }

    /// A whole response; its type is among the headers.
    fn respond_with(
        &mut self,
        policy: &Policy,
        status: u16,
        extra: Vec<(String, String)>,
        body: ByteBuf,
        now: Moment,
    ) {
        self.send_whole(status, extra, body);
        self.finish(policy, now);
    }

    fn send_whole(&mut self, status: u16, mut extra: Vec<(String, String)>, body: ByteBuf) {
        if self.run.is_some() {
            self.story.status = status;
            return self.keep_end(status, String::from_utf8_lossy(&body).into_owned());
        }
        let mut headers = self.common_headers();
        // In the order in which they always were.
        extra.insert(1, ("content-length".into(), body.len().to_string()));
        headers.extend(extra);
        self.story.status = status;
        self.outputs.push_back(Output::Head { status, headers });
        if !self.facts.head_only && !body.is_empty() {
            self.outputs.push_back(Output::Chunk(body));
        }
        self.outputs.push_back(Output::End);
    }

    fn respond_empty(&mut self, policy: &Policy, status: u16, extra: Vec<(String, String)>, now: Moment) {
        let mut headers = self.common_headers();
        headers.extend(extra);
        self.story.status = status;
        self.outputs.push_back(Output::Head { status, headers });
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// Gives back what is held, writes the log line and is done.
    fn finish(&mut self, policy: &Policy, now: Moment) {
        self.release_lease(policy);
        self.pay(now);
        let event = match &self.run {
            None => "request",
            Some(run) if run.is_notice() => "notice",
            Some(_) => "turn",
        };
        if let Some(record) = self.story.line(policy, &self.facts, event, now) {
            self.outputs.push_back(record);
        }
        self.outputs.extend(audit::record(policy, &self.facts, &self.story, self.run.is_some(), now));
        self.measure(policy, now);
        self.keep_for_replay(policy);
        self.phase = Phase::Done;
        self.end_run(policy, now);
    }

    /// The last of an answer has been sent.
    fn end_answer(&mut self) {
        if self.run.is_none() {
            self.outputs.push_back(Output::End);
        }
    }

    /// What stands for the caller in stores and logs.
    fn subject(&self, policy: &Policy, user: Option<&str>) -> String {
        match (&self.facts.caller, user) {
            (Caller::Session { subject, .. }, _) => subject.clone(),
            (_, Some(user)) => auth::subject(policy, "user", user),
            (_, None) => auth::subject(policy, "client", &self.facts.client),
        }
    }
}

#[cfg(test)]
mod tests;
