//! One HTTP request, from its head to the end of its answer, as a state machine.
//!
//! This folder only puts the stages in order; what they decide is in `policy`, what they
//! read and write is in `wire`. An exchange holds no body, no secret and no handle, so it
//! can be stored between any two inputs and go on in another instance.

mod approvals;
mod ask;
mod attempts;
mod audit;
mod chat;
mod configuration;
mod credential;
mod deadlines;
mod downloads;
mod dues;
mod faults;
mod feedback;
mod gates;
mod head;
mod inspection;
mod lasting;
mod ledger;
mod login;
mod measure;
mod metrics;
mod model;
mod notices;
mod operations;
mod operators;
mod page;
mod phase;
mod pictures;
mod pieces;
mod plan;
mod queue;
mod record;
mod replay;
mod reply;
mod response;
mod risk;
mod robot;
mod rollouts;
mod routes;
mod runner;
mod saying;
mod sending;
mod standing;
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

use crate::{
    policy::{Policy, auth, operator::Operator},
    seam::{Find, Input, Moment, Output, RequestHead},
    wire::failure::{Code, Failure, Language},
};
pub use configuration::{adopted_from_file, files_of, texts_of};
pub use metrics::{questions, snapshot};

use deadlines::Timers;
use dues::Dues;
use gates::Caller;
use head::Origin;
use phase::Phase;
use queue::Lease;
use record::Story;
pub(crate) use record::timestamp;
use routes::Route;
use runner::Run;
use turns::Durable;

/// The version of the encoded state, its first byte.
const STATE_VERSION: u8 = 9;

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
        Self::of(head::facts(policy, head, now))
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
        if let Some(allowed) = head::preflight(policy, head, route) {
            return self.respond_empty(policy, 204, allowed, now);
        }
        match credential::admit(policy, head, route, now) {
            Err(credential::Refusal::Credential(rejected)) => self.unauthorized(policy, rejected, now),
            Err(credential::Refusal::Request(failure, extra)) => self.fail_with(policy, &failure, extra, now),
            Ok((caller, operator)) => {
                (self.facts.caller, self.facts.operator) = (caller, operator);
                match route {
                    Route::Picture => return self.send_picture(policy, head, now),
                    Route::Push => return self.begin_push(policy, head, now),
                    Route::Robot => return self.begin_robot(policy, head, now),
                    Route::Page => return self.send_page(policy, head, now),
                    _ => {}
                }
                let flaw = head::flaw(policy, head, route);
                match self.door(policy) {
                    asks if asks.is_empty() => self.admitted(policy, flaw, now),
                    asks => self.ask_door(asks, flaw),
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

    fn take_id(&mut self) -> u32 {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
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
