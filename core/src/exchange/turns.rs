//! How a request becomes a turn that another exchange runs, and drafts whose answer is found later.
//!
//! A request with an idempotency key, one whose client will come back for the answer, and one whose
//! profile does things are not run by the exchange of their connection: once its
//! caller's gates are passed it leaves a checkpoint in the turn's cell, whose alarm begins a
//! [runner](super::runner), and [watches](super::watching) like any other client. A second
//! request with the same key finds the cell and runs nothing.
//!
//! An exchange that gave a draft goes on after the end of its answer, and what it comes to is kept in
//! a cell of the same kind. Nothing may be sent to its client any more.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    chat::{Turn, Voice, Waiting},
    gates::{Gate, STORE_PATIENCE},
    record::TurnStory,
    routes::Route,
    runner::{Next, named_by},
    watching::{Manner, Watching},
};
use crate::{
    policy::{Policy, catalog::Profile},
    seam::{Input, Moment, Output, restore},
    state::{
        Op, Outcome,
        turn::{Create, Ended, State, TurnOp, TurnOutcome},
    },
    wire::{
        answer::Answer,
        failure::{Code, Failure},
        links,
        reply::Ending,
    },
};

/// What precedes the id in the path.
pub(super) const PATH: &str = "/v1/mini/turns/";
/// What follows it where the events are wanted.
pub(super) const EVENTS: &str = "/events";
/// What precedes the id in the cell's key.
pub(super) const CELL: &str = "turn:";
/// Milliseconds for which the end of a draft's turn is kept.
const KEPT: u64 = 600_000;
/// Milliseconds after the turn's deadline for which one that says nothing more counts as running.
const OVERDUE: u64 = 5_000;
/// Seconds after which a client may look.
const LOOK_AFTER: u64 = 2;
/// The most bytes of a whole answer that is kept: a value of a Durable Object has 2 MB.
const MOST_BYTES: usize = 512 * 1024;
/// The most bytes of a turn's begin. With its events and its answer that is one value, too.
const MOST_KEPT: usize = 1024 * 1024;
/// The most characters of an idempotency key.
const LONGEST_KEY: usize = 128;

/// The turn that a path names, when it is the id of one.
pub(super) fn named(path: &str) -> Option<String> {
    let id = path.strip_prefix(PATH)?;
    of_request(id.strip_suffix(EVENTS).unwrap_or(id))
}

/// The turn of a request, when that is the id of one.
pub(super) fn of_request(id: &str) -> Option<String> {
    let hex = id.strip_prefix("req_")?;
    let valid = hex.len() == 32 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| id.to_owned())
}

/// The key of a turn's cell.
pub(super) fn cell(id: &str) -> String {
    format!("{CELL}{id}")
}

/// What is wrong with an idempotency key.
pub(super) fn check_key(key: &str) -> Result<(), Failure> {
    let valid = (1..=LONGEST_KEY).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    valid.then_some(()).ok_or_else(|| {
        let message = "Idempotency-Key, requestId: 1 to 128 visible ASCII characters, as a UUID";
        Failure::new(Code::IdempotencyKeyInvalid, message)
    })
}

/// A request that another exchange is to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Durable {
    /// The turn goes on without its connection.
    outlives: bool,
    /// After so many milliseconds a client that waits is told to come back.
    sync_ms: Option<u64>,
    /// How long it may take and is kept, in milliseconds.
    timeout_ms: u64,
    keep_ms: u64,
    /// How long people may be waited for meanwhile at most, in milliseconds.
    asking_ms: u64,
    /// Where its request's body lies, when the model needs it.
    body: Option<(String, u64)>,
}

/// A draft that is shown as soon as its turn can be found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Draft {
    turn: Turn,
    answer: Answer,
    pub(super) store_id: u32,
}

impl Exchange {
    /// A name that the client gave its request: in a header, or else in the body.
    pub(super) fn take_wishes(&mut self, key: Option<&str>, asynchronous: bool) -> Result<(), Failure> {
        if self.facts.idempotency_key.is_none() {
            self.facts.idempotency_key = key.map(str::to_owned);
        }
        self.facts.respond_async |= asynchronous;
        self.facts.idempotency_key.as_deref().map_or(Ok(()), check_key)
    }

    /// A request with a key is called by it: a second one gets the same id.
    pub(super) fn take_name(
        &mut self,
        policy: &Policy,
        user: Option<&str>,
        digest: impl FnOnce() -> [u8; 32],
    ) {
        if let Some(key) = &self.facts.idempotency_key {
            self.facts.request_id = named_by(policy, &self.owner(), user.unwrap_or_default(), key);
            self.facts.digest = digest();
        }
    }

    /// Whether another exchange runs the turn, and how.
    pub(super) fn durably(&mut self, policy: &Policy, profile: Option<&Profile>) {
        if self.robot.is_some() {
            // It is one already.
            return;
        }
        let keyed = self.facts.idempotency_key.is_some();
        let sync_ms = profile.and_then(|profile| profile.sync_deadline_ms).map(u64::from);
        let acts = profile.is_some_and(|profile| !profile.tools.is_empty());
        let outlives = keyed || self.facts.respond_async;
        if !outlives && sync_ms.is_none() && !acts {
            return;
        }
        let rules = policy.catalog.turns;
        let patient = self.facts.respond_async || sync_ms.is_some();
        let usual = self.timers.turn.unwrap_or_default().saturating_sub(self.facts.started_ms);
        let timeout_ms = if patient { usual.max(rules.timeout_ms.into()) } else { usual };
        self.durable = Some(Durable {
            outlives,
            sync_ms,
            timeout_ms,
            keep_ms: u64::from(rules.keep_s) * 1_000,
            asking_ms: profile.map_or(0, |profile| longest_asking(policy, profile)),
            body: None,
        });
    }

    /// Whether the turn that is made ends with its client.
    pub(super) fn is_attached(&self) -> bool {
        self.durable.as_ref().is_some_and(|durable| !durable.outlives && durable.sync_ms.is_none())
    }

    /// The operation that makes the turn, with everything that a runner needs.
    fn create(&self, waiting: &Waiting) -> Option<(Gate, String, Op)> {
        let durable = self.durable.as_ref()?;
        if waiting.fetch.body.refers_to_the_body() && durable.body.is_none() {
            // The body is kept first.
            return None;
        }
        let mut waiting = waiting.clone();
        waiting.gates.clear();
        waiting.turn.rate_headers.clear();
        let mut runner = self.clone();
        runner.durable = None;
        if let Voice::Mini(plan) = &mut waiting.turn.voice {
            plan.run_for_others();
        }
        let next = Next::Begin(Box::new(waiting));
        let create = Create {
            owner: self.owner(),
            digest: self.facts.digest,
            checkpoint: runner.checkpoint(next, durable.body.clone(), durable.timeout_ms),
            timeout_ms: durable.timeout_ms,
            keep_ms: durable.keep_ms,
        };
        Some((Gate::Create, cell(&self.facts.request_id), Op::Turn(TurnOp::Create(create))))
    }

    /// The caller's gates are passed: the turn is made, and before it the request's body is kept where
    /// whoever runs it wants that.
    pub(super) fn make_turn(&mut self, policy: &Policy, mut waiting: Box<Waiting>, now: Moment) {
        match self.create(&waiting) {
            Some((_, _, Op::Turn(TurnOp::Create(create)))) if create.checkpoint.len() > MOST_KEPT => {
                let message = format!(
                    "a request that can be found again may have about {} KB of text; send less of the history",
                    MOST_KEPT / 1024
                );
                self.fail(policy, &Failure::new(Code::InputTooLong, message), now);
            }
            Some((gate, key, op)) => {
                waiting.gates = vec![gate];
                self.store(waiting, vec![(key, op)], now);
            }
            None => self.keep_body(waiting),
        }
    }

    fn keep_body(&mut self, waiting: Box<Waiting>) {
        let Some(durable) = &mut self.durable else { return };
        let len = self.facts.body_bytes;
        // Its own: places in a body are in the checkpoint, and a request that joins may mean the same
        // with other bytes.
        let key = format!("body:{}:{:016x}", self.facts.request_id, self.facts.ticket);
        durable.body = Some((key.clone(), len));
        // It is forgotten with the turn's end; this is for a turn that never has one.
        let ttl_ms = durable.timeout_ms.saturating_add(durable.keep_ms).saturating_add(durable.asking_ms);
        let id = self.take_id();
        self.outputs.push_back(Output::KeepBody { id, key, ttl_ms });
        self.phase = Phase::KeepBody(id, waiting);
    }

    pub(super) fn in_keep_body(
        &mut self,
        policy: &Policy,
        id: u32,
        waiting: Box<Waiting>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id: done, .. } if *done == id => self.make_turn(policy, waiting, now),
            Input::StoreFailed { id: failed } if *failed == id => self.not_created(policy, now),
            _ => self.phase = Phase::KeepBody(id, waiting),
        }
    }

    /// A turn that can be found again cannot be begun without the store.
    pub(super) fn not_created(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let failure = Failure::new(Code::StoreUnavailable, "the request cannot be kept now; send it again");
        self.fail(policy, &failure.after(5), now);
    }

    /// The store knows the turn now.
    pub(super) fn created(&mut self, policy: &Policy, waiting: Waiting, outcome: &TurnOutcome, now: Moment) {
        match outcome {
            TurnOutcome::Fresh => self.story.turn = Some(TurnStory::Begun),
            TurnOutcome::Joined => self.story.turn = Some(TurnStory::Joined),
            TurnOutcome::Conflict => {
                let message = "another request had this Idempotency-Key or requestId; give each its own";
                return self.fail(policy, &Failure::new(Code::IdempotencyConflict, message), now);
            }
            _ => return self.not_created(policy, now),
        }
        let attached = self.is_attached();
        let Some(durable) = self.durable.take() else { return };
        if let (TurnOutcome::Joined, Some((key, len))) = (outcome, &durable.body) {
            // Whoever runs the turn has the body of the request that began it.
            for (piece, _) in restore(key, *len) {
                self.tell(piece, Op::Forget);
            }
        }
        // Whoever runs it owes what it owes.
        self.owes_nothing();
        self.timers.turn = None;
        let comes_back = self.facts.respond_async;
        let manner = if waiting.stream && !comes_back { Manner::Events } else { Manner::Whole };
        let left = durable.timeout_ms.saturating_add(OVERDUE);
        let wait = match (manner, durable.sync_ms) {
            // How it stands, or its answer.
            _ if comes_back => 0,
            (Manner::Events, _) if self.facts.route == Route::Ask => STREAM.min(left),
            (Manner::Whole, Some(sync_ms)) => sync_ms.min(left),
            _ => left.min(policy.deadlines.turn.saturating_add(OVERDUE)),
        };
        let watching = Watching {
            id: self.facts.request_id.clone(),
            manner,
            rate_headers: waiting.turn.rate_headers,
            // Who is told to come back may go.
            attached,
            until_ms: self.facts.started_ms.saturating_add(wait),
            after: self.facts.last_event,
            began: true,
            store_id: 0,
            waits: false,
        };
        if comes_back && self.story.turn == Some(TurnStory::Begun) {
            return self.accepted(policy, watching, State::Queued, None, now);
        }
        self.watch(watching, now);
    }

    /// A draft has come: its turn is marked as running before anybody can look for it.
    pub(super) fn mark_turn(&mut self, turn: Turn, answer: Answer, now: Moment) {
        let store_id = self.take_id();
        let left = self.timers.turn.unwrap_or(now.unix_ms).saturating_sub(now.unix_ms);
        let create = Create {
            owner: self.owner(),
            digest: [0; 32],
            checkpoint: ByteBuf::new(),
            timeout_ms: left + OVERDUE,
            keep_ms: KEPT,
        };
        let op = Op::Turn(TurnOp::Create(create));
        self.outputs.push_back(Output::Store { id: store_id, ops: vec![(cell(&self.facts.request_id), op)] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Draft(Box::new(Draft { turn, answer, store_id }));
    }

    pub(super) fn in_draft(&mut self, policy: &Policy, draft: Box<Draft>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == draft.store_id => match outcomes.first() {
                Some(Outcome::Turn(TurnOutcome::Fresh)) => self.give_draft(policy, *draft, now),
                _ => self.drop_draft(policy, *draft, now),
            },
            Input::StoreFailed { id } if *id == draft.store_id => self.drop_draft(policy, *draft, now),
            _ => self.phase = Phase::Draft(draft),
        }
    }

    /// The real answer could not be found later: it is given now, as if there were no draft.
    pub(super) fn drop_draft(&mut self, policy: &Policy, draft: Draft, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let Turn { voice: Voice::Mini(plan), rate_headers, .. } = draft.turn else { return };
        self.refine(policy, *plan, rate_headers, now);
    }

    /// The draft is the whole answer for now, and the real one is asked for.
    fn give_draft(&mut self, policy: &Policy, draft: Draft, now: Moment) {
        self.timers.store = None;
        let Draft { turn: Turn { voice: Voice::Mini(plan), mut rate_headers, .. }, answer, .. } = draft
        else {
            return;
        };
        let mut reply = plan.reply.clone();
        reply.profile.clone_from(&plan.profile);
        reply.draft = true;
        let links = links::find(&answer.text);
        let usage = self.story.usage.unwrap_or(answer.usage);
        let ending = Ending { finish: answer.finish, usage, links: &links, data: None };
        let body = reply.whole(&answer.text, ending);
        rate_headers.push(("location".into(), format!("{PATH}{}", self.facts.request_id)));
        rate_headers.push(("retry-after".into(), LOOK_AFTER.to_string()));
        self.send_json(200, rate_headers, body);
        self.story.drafted = true;
        self.refine(policy, *plan, Vec::new(), now);
    }

    /// The turn is over: its end is kept in place of being sent.
    pub(super) fn keep_turn(&mut self, policy: &Policy, body: String, now: Moment) {
        let (state, status, body) = match self.story.code {
            Some(code) => (State::Failed, code.status(), body),
            None if body.len() > MOST_BYTES => {
                let failure = Failure::new(Code::UpstreamProtocol, "the answer is too long to be kept");
                self.story.code = Some(failure.code);
                (State::Failed, failure.code.status(), self.failure_body(&failure))
            }
            None => (State::Done, 200, body),
        };
        let body = ByteBuf::from(body.into_bytes());
        let ended = Ended { state, status, retry_after_s: self.story.retry_after_s, again: false, body };
        let end = TurnOp::End { epoch: 0, ended, errand: None };
        self.tell(cell(&self.facts.request_id), Op::Turn(end));
        self.finish(policy, now);
    }
}

/// An event stream ends itself, and its client comes back, before `wx.request` gives up after 60 s.
const STREAM: u64 = 50_000;

/// How long a turn of that profile may wait for people, all its calls together, in milliseconds.
fn longest_asking(policy: &Policy, profile: &Profile) -> u64 {
    let tools = policy.catalog.tools_of(profile);
    let longest = tools.iter().map(|tool| u64::from(tool.approve_within_s)).max().unwrap_or_default();
    longest.saturating_mul(profile.max_tool_calls.into()).saturating_mul(1_000)
}
