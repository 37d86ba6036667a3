//! A draft as a whole answer, and `GET /v1/mini/turns/{id}`, where the real answer is found later.
//!
//! The exchange that gave the draft goes on after the end of its answer, and what it comes to is
//! kept for a while under the request's id. Nobody but whoever asked may see it, and nothing may
//! be sent to the client any more.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    chat::{Turn, Voice},
    gates::{Caller, STORE_PATIENCE},
};
use crate::{
    policy::Policy,
    seam::{Input, Moment, Output, PIECE},
    state::{Op, Outcome},
    wire::{
        answer::Answer,
        failure::{Code, Failure},
        links,
        reply::Ending,
    },
};

/// What precedes the id in the path.
pub(super) const PATH: &str = "/v1/mini/turns/";
/// Milliseconds for which the end of a turn is kept.
const KEPT: u64 = 600_000;
/// Milliseconds after the turn's deadline for which one that says nothing more counts as running.
const OVERDUE: u64 = 5_000;
/// Seconds after which a client may look.
const LOOK_AFTER: u64 = 2;
/// The most bytes of an answer that is kept: with its owner it is one value of a store.
const MOST_BYTES: usize = PIECE - 1024;

/// The turn that a path names, when it is the id of one.
pub(super) fn named(path: &str) -> Option<String> {
    let id = path.strip_prefix(PATH)?;
    let hex = id.strip_prefix("req_")?;
    let valid = hex.len() == 32 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| id.to_owned())
}

fn key(id: &str) -> String {
    format!("turn:{id}")
}

/// What is kept.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    owner: String,
    state: State,
}

/// How a turn stands.
#[derive(Debug, Serialize, Deserialize)]
enum State {
    Running,
    /// The whole answer, a JSON object.
    Done(String),
    /// A failure's body, a JSON object.
    Failed(String),
}

/// A draft that is shown as soon as its turn can be found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Draft {
    turn: Turn,
    answer: Answer,
    pub(super) store_id: u32,
}

impl Exchange {
    /// A draft has come: its turn is marked as running before anybody can look for it.
    pub(super) fn mark_turn(&mut self, turn: Turn, answer: Answer, now: Moment) {
        let store_id = self.take_id();
        let left = self.timers.turn.unwrap_or(now.unix_ms).saturating_sub(now.unix_ms);
        let mark = self.turn_is(State::Running, left + OVERDUE);
        self.outputs.push_back(Output::Store { id: store_id, ops: vec![mark] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Draft(Box::new(Draft { turn, answer, store_id }));
    }

    pub(super) fn in_draft(&mut self, policy: &Policy, draft: Box<Draft>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, .. } if *id == draft.store_id => self.give_draft(policy, *draft, now),
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
        let state = match self.story.code {
            Some(_) => State::Failed(body),
            None if body.len() > MOST_BYTES => {
                let failure = Failure::new(Code::UpstreamProtocol, "the answer is too long to be kept");
                self.story.code = Some(failure.code);
                State::Failed(self.failure_body(&failure))
            }
            None => State::Done(body),
        };
        let (key, op) = self.turn_is(state, KEPT);
        self.tell(key, op);
        self.finish(policy, now);
    }

    fn turn_is(&self, state: State, ttl_ms: u64) -> (String, Op) {
        let kept = Kept { owner: self.owner(), state };
        // Encoding into memory does not fail for these types.
        let value = ByteBuf::from(postcard::to_allocvec(&kept).unwrap_or_default());
        (key(&self.facts.request_id), Op::Write { value, ttl_ms })
    }

    /// Whose turns a caller may see. A key says nothing of who asks with it: whoever has it and
    /// knows an id, which nobody can guess, began that turn or was told of it.
    fn owner(&self) -> String {
        match &self.facts.caller {
            Caller::Anyone => String::new(),
            Caller::Key(id) => format!("key:{id}"),
            Caller::Session { subject, .. } => format!("person:{subject}"),
        }
    }

    /// `GET /v1/mini/turns/{id}`.
    pub(super) fn look_for_turn(&mut self, policy: &Policy, now: Moment) {
        if let Caller::Session { subject, .. } = &self.facts.caller {
            self.story.subject = Some(subject.clone());
        }
        let Some(id) = &self.facts.turn else { return self.fail(policy, &unknown(), now) };
        let ops = vec![(key(id), Op::Read)];
        let store_id = self.take_id();
        self.outputs.push_back(Output::Store { id: store_id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Turn(store_id);
    }

    pub(super) fn in_turn(&mut self, policy: &Policy, store_id: u32, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == store_id => {
                self.timers.store = None;
                let kept = match outcomes.first() {
                    Some(Outcome::Value(Some(value))) => postcard::from_bytes::<Kept>(value).ok(),
                    _ => None,
                };
                match kept.filter(|kept| kept.owner == self.owner()) {
                    Some(kept) => self.show_turn(policy, kept.state, now),
                    None => self.fail(policy, &unknown(), now),
                }
            }
            Input::StoreFailed { id } if *id == store_id => self.turn_not_read(policy, now),
            _ => self.phase = Phase::Turn(store_id),
        }
    }

    fn show_turn(&mut self, policy: &Policy, state: State, now: Moment) {
        let (state, rest) = match &state {
            State::Running => {
                let headers = vec![("retry-after".into(), LOOK_AFTER.to_string())];
                return self.respond(policy, 200, headers, r#"{"state":"running"}"#.into(), now);
            }
            State::Done(body) => ("done", body),
            State::Failed(body) => ("failed", body),
        };
        let rest = rest.strip_prefix('{').unwrap_or("}");
        self.respond_json(policy, 200, format!("{{\"state\":\"{state}\",{rest}"), now);
    }

    pub(super) fn turn_not_read(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let failure = Failure::new(Code::StoreUnavailable, "nobody knows now how the turn stands");
        self.fail(policy, &failure.after(LOOK_AFTER), now);
    }
}

fn unknown() -> Failure {
    Failure::new(Code::TurnUnknown, "no such turn, or not any more, or not the caller's")
}
