//! The stage of a turn in which its model wants something done.
//!
//! A call is held against its tool's schema, then: one that only reads is sent; one that changes something
//! waits for a person, who is shown the very arguments; one that cannot be put right is not even
//! offered unless there is an audit. Only a [runner](super::runner) is here: a call that changes
//! something is saved as begun before it is sent, so whoever takes the turn over knows that it
//! may have been done, and does not do it again. Whoever refuses, and every doubt, ends in an
//! answer that only explains.

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Phase,
    approvals::{LIST, id_of},
    chat::{Turn, Voice},
    plan::Plan,
    runner::{Next, cancelled},
};
use crate::{
    policy::{
        Policy, auth,
        catalog::{Approval as Approvers, Tool, ToolClass},
        notify::Event,
    },
    seam::{FetchFailure, Input, Moment, Output, find_header},
    state::{
        Op,
        register::Entry,
        turn::{Approval, Need, Then, Verdict},
    },
    wire::{
        answer::Answer,
        failure::{Code, Failure},
        tool::{self, Order, Outcome, ToolCall},
    },
};

/// How often a call is sent again that was not done, or is done once however often it is sent.
const MOST_TRIES: u8 = 3;
/// The longest wait before that, in milliseconds; a server that wants more has refused.
const LONGEST_WAIT: u64 = 15_000;
/// The first wait, where the server says nothing.
const BACKOFF: u64 = 500;

/// The calls of one answer, one after the other.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Calling {
    plan: Box<Plan>,
    rate_headers: Vec<(String, String)>,
    /// What the model said beside.
    text: String,
    calls: Vec<ToolCall>,
    /// What came of those that are done with.
    results: Vec<String>,
    /// The arguments of the present one, canonical.
    arguments: String,
    pub(super) fetch_id: u32,
    tries: u8,
    /// It has been sent, or is about to be.
    begun: bool,
    /// It was sent, and nobody knows what came of it.
    in_doubt: bool,
}

/// What was done of a turn, for its person, the log and the audit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CallStory {
    pub(super) tool: String,
    pub(super) class: ToolClass,
    /// `done`, `refused`, `rejected`, `unknown`, `not_approved`, `unfit`, `cancelled`.
    pub(super) outcome: String,
    /// The first 16 hex digits of the hash over tool and arguments.
    pub(super) digest: String,
    /// Who said the last word about it.
    pub(super) by: Option<String>,
}

impl Calling {
    fn call(&self) -> Option<&ToolCall> {
        self.calls.get(self.results.len())
    }

    /// The number of the present call within its turn, from 1: its part of the idempotency key.
    fn number(&self) -> u32 {
        self.plan.calls_before + u32::try_from(self.results.len()).unwrap_or(u32::MAX) + 1
    }

    fn tool<'p>(&self, policy: &'p Policy) -> Option<&'p Tool> {
        let profile = policy.catalog.profile(&self.plan.profile)?;
        let name = &self.call()?.name;
        policy.catalog.tools_of(profile).into_iter().find(|tool| tool.name == *name)
    }
}

impl Exchange {
    /// The model wants tools called.
    pub(super) fn take_calls(&mut self, policy: &Policy, turn: Turn, answer: Answer, now: Moment) {
        self.stop_attempt();
        self.release_lease(policy);
        let Turn { voice: Voice::Mini(plan), rate_headers, .. } = turn else { return };
        let Answer { text, calls, .. } = answer;
        let calling = Calling {
            plan,
            rate_headers,
            text,
            calls,
            results: Vec::new(),
            arguments: String::new(),
            fetch_id: 0,
            tries: 0,
            begun: false,
            in_doubt: false,
        };
        self.next_call(policy, calling, now);
    }

    /// The next call of the answer, or the model again with what came of them.
    fn next_call(&mut self, policy: &Policy, mut calling: Calling, now: Moment) {
        loop {
            let Some(call) = calling.call().cloned() else {
                return self.tell_model(policy, calling, now);
            };
            let most =
                policy.catalog.profile(&calling.plan.profile).map_or(0, |profile| profile.max_tool_calls);
            if calling.number() > u32::from(most) {
                calling.plan.explains = true;
                calling.results.push("Not called: this turn has made all the calls that it may.".into());
                continue;
            }
            let Some(tool) = calling.tool(policy).filter(|_| !calling.plan.explains) else {
                calling.results.push("Not called: there is no such tool here.".into());
                continue;
            };
            match tool::check(tool, &call.arguments) {
                Ok(arguments) => calling.arguments = arguments,
                Err(found) => {
                    self.note_call(&mut calling, tool, "unfit", None);
                    calling.results.push(tool::unfit(&found));
                    continue;
                }
            }
            (calling.tries, calling.begun) = (0, false);
            return match tool.approve {
                None => self.send_call(policy, calling, now),
                Some(approvers) => self.ask_person(policy, calling, tool, approvers, now),
            };
        }
    }

    /// A person is to say whether this may be done.
    fn ask_person(
        &mut self,
        policy: &Policy,
        calling: Calling,
        tool: &Tool,
        approvers: Approvers,
        now: Moment,
    ) {
        let approval = Approval {
            call: calling.number(),
            tool: tool.name.clone(),
            digest: tool::digest(&tool.name, &calling.arguments),
            arguments: calling.arguments.clone(),
            need: match approvers {
                Approvers::User => Need::User,
                Approvers::Operator => Need::Operator,
                Approvers::TwoOperators => Need::TwoOperators,
                Approvers::UserAndOperator => Need::UserAndOperator,
            },
            until_ms: now.unix_ms.saturating_add(u64::from(tool.approve_within_s) * 1_000),
            given: Vec::new(),
            verdict: None,
            by: None,
        };
        let id = id_of(&self.facts.request_id, approval.call);
        let note = serde_json::json!({
            "requestId": self.facts.request_id, "traceId": self.facts.trace_id, "tool": tool.name,
            "class": tool.class, "need": approval.need, "intent": self.story.intent,
            "subject": self.story.subject,
        });
        let entry = Entry { id: id.clone(), until_ms: approval.until_ms, note: note.to_string() };
        self.tell(LIST.to_owned(), Op::Enlist(entry));
        let event = serde_json::json!({"approvalId": id, "tool": tool.name, "need": approval.need});
        self.keep_events(&format!("event: approval\ndata: {event}\n\n"));
        self.give_notice(policy, Event::NeedsApproval, Some(&id), now);
        self.save(Next::Asked(Box::new(calling)), Then::Ask(approval), now);
    }

    /// A person has said something, or has said nothing in time.
    pub(super) fn answered(
        &mut self,
        policy: &Policy,
        mut calling: Calling,
        approval: Option<&Approval>,
        now: Moment,
    ) {
        let Some(tool) = calling.tool(policy) else {
            calling.results.push("Not called: there is no such tool here any more.".into());
            return self.next_call(policy, calling, now);
        };
        let by = approval.and_then(|approval| approval.by.clone());
        let digest = tool::digest(&tool.name, &calling.arguments);
        let granted = approval.filter(|approval| {
            approval.verdict == Some(Verdict::Approved)
                && approval.digest == digest
                && approval.call == calling.number()
        });
        if granted.is_some() {
            self.story.approved_by.clone_from(&by);
            return self.send_call(policy, calling, now);
        }
        let refused = approval.is_some_and(|approval| approval.verdict == Some(Verdict::Refused));
        self.note_call(&mut calling, tool, "not_approved", by);
        calling.plan.explains = true;
        calling.results.push(
            if refused {
                "Not called: the person in charge said no. Do not try it in another way; explain what was not done."
            } else {
                "Not called: nobody agreed to it in time. Explain what was not done."
            }
            .to_owned(),
        );
        self.next_call(policy, calling, now);
    }

    /// The call goes to the tool's server. One that changes something is saved as begun before.
    fn send_call(&mut self, policy: &Policy, mut calling: Calling, now: Moment) {
        let Some(tool) = calling.tool(policy) else {
            return self.call_done(policy, calling, Outcome::Unknown, now);
        };
        if tool.class != ToolClass::Read && !calling.begun {
            calling.begun = true;
            return self.save(Next::Call(Box::new(calling)), Then::GoOn, now);
        }
        calling.begun = true;
        calling.tries += 1;
        calling.fetch_id = self.take_id();
        // The call's own: after a takeover the model may want something else as its n-th call.
        let digest = auth::hex(&tool::digest(&tool.name, &calling.arguments)[..4]);
        let key = format!("{}-{}-{digest}", self.facts.request_id, calling.number());
        let order = Order {
            tool,
            arguments: &calling.arguments,
            idempotency_key: &key,
            user: self.story.subject.as_deref().unwrap_or_default(),
            trace_id: &self.facts.trace_id,
            request_id: &self.facts.request_id,
        };
        self.outputs.push_back(Output::Fetch(order.fetch(calling.fetch_id)));
        self.timers.attempt = Some(now.unix_ms.saturating_add(tool.timeout_ms.into()));
        self.phase = Phase::Calling(Box::new(calling));
    }

    /// It is kept that the call is about to be sent, or it was kept by a runner that has died.
    pub(super) fn call_saved(
        &mut self,
        policy: &Policy,
        mut calling: Calling,
        taken_over: bool,
        now: Moment,
    ) {
        if taken_over && !calling.tool(policy).is_some_and(|tool| tool.idempotent) {
            // It may have been sent, and its server would do it again.
            return self.call_done(policy, calling, Outcome::Unknown, now);
        }
        // That may have been heard, whatever becomes of the next try.
        calling.in_doubt |= taken_over;
        self.send_call(policy, calling, now);
    }

    pub(super) fn in_calling(
        &mut self,
        policy: &Policy,
        calling: Box<Calling>,
        input: &Input<'_>,
        now: Moment,
    ) {
        let outcome = match input {
            Input::FetchWhole { id, status, headers, body } if *id == calling.fetch_id => {
                tool::outcome(*status, find_header(headers, "retry-after"), body)
            }
            Input::FetchFailed { id, failure } if *id == calling.fetch_id => tool::fetch_outcome(*failure),
            _ => {
                self.phase = Phase::Calling(calling);
                return;
            }
        };
        self.call_answered(policy, *calling, outcome, now);
    }

    /// The tool's server has had its time.
    pub(super) fn call_timed_out(&mut self, policy: &Policy, calling: Calling, now: Moment) {
        if self.timers.turn.is_some_and(|turn| turn <= now.unix_ms) {
            return self.call_abandoned(policy, calling, &super::chat::timed_out(), now);
        }
        self.call_answered(policy, calling, tool::fetch_outcome(FetchFailure::Reset), now);
    }

    fn call_answered(&mut self, policy: &Policy, mut calling: Calling, outcome: Outcome, now: Moment) {
        self.timers.attempt = None;
        calling.in_doubt |= outcome == Outcome::Unknown;
        let tool = calling.tool(policy);
        let again = tool.is_some_and(|tool| outcome.may_be_sent_again(tool)) && calling.tries < MOST_TRIES;
        let asked = match &outcome {
            Outcome::Rejected { after_s } => after_s * 1_000,
            _ => 0,
        };
        let random = u64::from(now.entropy[2]) * 256 + u64::from(now.entropy[3]);
        let wait = asked.max((BACKOFF << calling.tries.min(8)) * random / 65_536);
        let left = self.timers.turn.unwrap_or(u64::MAX).saturating_sub(now.unix_ms);
        if again && wait <= LONGEST_WAIT && wait < left && !self.is_unwanted() {
            self.story.call_retries += 1;
            self.timers.backoff = Some(now.unix_ms + wait);
            self.phase = Phase::CallAgain(Box::new(calling));
            return;
        }
        self.call_done(policy, calling, outcome, now);
    }

    /// The wait before the call is sent again is over.
    pub(super) fn call_again(&mut self, policy: &Policy, calling: Calling, now: Moment) {
        self.send_call(policy, calling, now);
    }

    /// It is known what came of the call, or known that it is not.
    fn call_done(&mut self, policy: &Policy, mut calling: Calling, outcome: Outcome, now: Moment) {
        // A later try that was turned away does not undo an earlier one that may have been heard.
        let undone = matches!(outcome, Outcome::Rejected { .. } | Outcome::Refused { .. });
        let outcome = if calling.in_doubt && undone { Outcome::Unknown } else { outcome };
        let class = calling.tool(policy).map(|tool| {
            self.note_call(&mut calling, tool, outcome.name(), self.story.approved_by.clone());
            tool.class
        });
        self.story.approved_by = None;
        calling.plan.explains |= outcome == Outcome::Unknown && class != Some(ToolClass::Read);
        calling.results.push(outcome.for_model());
        (calling.begun, calling.in_doubt) = (false, false);
        if class == Some(ToolClass::Read) {
            return self.next_call(policy, calling, now);
        }
        self.save(Next::Called(Box::new(calling)), Then::GoOn, now);
    }

    /// What came of the call is kept.
    pub(super) fn called(&mut self, policy: &Policy, calling: Calling, now: Moment) {
        if self.is_unwanted() {
            return self.fail(policy, &cancelled(), now);
        }
        self.next_call(policy, calling, now);
    }

    /// The turn ends while a call is under way.
    pub(super) fn call_abandoned(
        &mut self,
        policy: &Policy,
        mut calling: Calling,
        failure: &Failure,
        now: Moment,
    ) {
        let class = calling.tool(policy).map(|tool| {
            self.note_call(&mut calling, tool, Outcome::Unknown.name(), self.story.approved_by.clone());
            tool.class
        });
        if class == Some(ToolClass::Read) {
            return self.fail(policy, failure, now);
        }
        let message = "the turn ended while something was being done; whether it was done is not known";
        self.fail(policy, &Failure::new(Code::ActionUnknown, message), now);
    }

    /// A turn that ends while it is not known whether something was done says so. Gives false where
    /// there is no such thing.
    pub(super) fn abandon_doubt(&mut self, policy: &Policy, failure: &Failure, now: Moment) -> bool {
        let is_doubt = |next: &Next| matches!(next, Next::Call(_));
        let next = match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::CallAgain(calling) if calling.in_doubt => Next::Call(calling),
            Phase::Restoring(id, saved) if is_doubt(&saved.next) => {
                self.outputs.push_back(Output::Cancel { id });
                saved.next
            }
            Phase::Under(moving) if is_doubt(&moving.saved.next) => moving.saved.next,
            phase => {
                self.phase = phase;
                return false;
            }
        };
        let Next::Call(calling) = next else { return false };
        self.timers.backoff = None;
        self.call_abandoned(policy, *calling, failure, now);
        true
    }

    /// Whether the call that runs must not be broken off: nobody would know whether it was done.
    pub(super) fn must_finish_call(&self, policy: &Policy) -> bool {
        match &self.phase {
            Phase::Calling(calling) => calling.tool(policy).is_some_and(|tool| tool.class != ToolClass::Read),
            _ => false,
        }
    }

    /// The model gets the results, and goes on.
    fn tell_model(&mut self, policy: &Policy, calling: Calling, now: Moment) {
        let Calling { mut plan, rate_headers, text, calls, results, .. } = calling;
        plan.calls_before += u32::try_from(results.len()).unwrap_or(u32::MAX);
        plan.rounds.push((text, calls.into_iter().zip(results).collect()));
        if self.is_too_late(now) {
            return self.fail(policy, &super::chat::timed_out(), now);
        }
        self.next_attempt(policy, *plan, rate_headers, None, now);
    }

    fn note_call(&mut self, calling: &mut Calling, tool: &Tool, outcome: &str, by: Option<String>) {
        let digest = tool::digest(&tool.name, &calling.arguments);
        let story = CallStory {
            tool: tool.name.clone(),
            class: tool.class,
            outcome: outcome.to_owned(),
            digest: auth::hex(&digest[..8]),
            by,
        };
        let event = serde_json::json!({"tool": story.tool, "outcome": story.outcome});
        self.keep_events(&format!("event: tool\ndata: {event}\n\n"));
        calling.plan.reply.actions.push((story.tool.clone(), story.outcome.clone()));
        self.story.calls.push(story);
    }
}
