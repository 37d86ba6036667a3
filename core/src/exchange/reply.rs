//! The stages of an intent's answer: held against its schema, checked, and given, whole or as
//! events.

use super::{
    Exchange, Phase,
    ask::Plan,
    chat::{Turn, Voice},
    pieces::Pieces,
    stream::Streaming,
};
use crate::{
    policy::Policy,
    seam::{Moment, Output},
    wire::{
        answer::{Answer, Finish, Usage},
        failure::Failure,
        links,
        reply::{Ending, Part},
    },
};

impl Exchange {
    /// A whole answer of a model.
    pub(super) fn accept_answer(&mut self, policy: &Policy, turn: Box<Turn>, answer: Answer, now: Moment) {
        self.check_answer(policy, turn, answer, now);
    }

    /// An answer that may be shown goes to the client.
    pub(super) fn give_mini(&mut self, policy: &Policy, mut turn: Box<Turn>, answer: &Answer, now: Moment) {
        let usage = self.story.usage.unwrap_or(answer.usage);
        let links = links::find(&answer.text);
        let Voice::Mini(plan) = &mut turn.voice else { return };
        let data = plan.json.then_some(answer.text.as_str());
        let ending = Ending { finish: answer.finish, usage, links: &links, data };
        if !plan.stream {
            let body = plan.reply.whole(&answer.text, ending);
            let headers = std::mem::take(&mut turn.rate_headers);
            return self.respond(policy, 200, headers, body, now);
        }
        self.open_stream(policy, &mut turn, now);
        let Voice::Mini(plan) = &mut turn.voice else { return };
        let mut out = String::with_capacity(answer.text.len() + 512);
        plan.reply.delta(&mut out, plan.part, &answer.text);
        plan.reply.done(&mut out, ending);
        self.send(policy, out, now);
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// A draft or an answer has been streamed to its end.
    pub(super) fn mini_streamed(
        &mut self,
        policy: &Policy,
        turn: Box<Turn>,
        _pieces: Pieces,
        usage: Usage,
        now: Moment,
    ) {
        self.story.spent(usage);
        self.stop_attempt();
        match *turn {
            Turn { voice: Voice::Mini(mut plan), rate_headers, .. } if plan.part == Part::Draft => {
                plan.drafted = true;
                self.refine(policy, *plan, rate_headers, now);
            }
            _ => {
                self.outputs.push_back(Output::End);
                self.finish(policy, now);
            }
        }
    }

    /// A stream has broken off.
    pub(super) fn mini_stream_failed(
        &mut self,
        policy: &Policy,
        turn: Box<Turn>,
        streaming: Streaming,
        failure: &Failure,
        now: Moment,
    ) {
        self.stop_attempt();
        let shown = streaming.has_shown();
        let Turn { voice: Voice::Mini(mut plan), rate_headers, .. } = *turn else { return };
        if plan.part == Part::Draft {
            // What was shown of it is replaced by the real answer.
            plan.drafted |= shown;
            return self.refine(policy, *plan, rate_headers, now);
        }
        if shown {
            return self.fail_stream(policy, failure, String::new(), now);
        }
        self.attempt_failed(policy, *plan, rate_headers, failure, now);
    }

    /// The draft is all that there will be.
    pub(super) fn keep_draft(&mut self, policy: &Policy, mut plan: Plan, now: Moment) {
        plan.reply.degraded = true;
        let mut out = String::new();
        let usage = self.story.usage.unwrap_or_default();
        plan.reply.done(&mut out, Ending { finish: Finish::Stop, usage, links: &[], data: None });
        self.send(policy, out, now);
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// It is time for an event with the text that has come.
    pub(super) fn frame_due(&mut self, policy: &Policy, now: Moment) {
        self.timers.frame = None;
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Streaming(mut turn, mut streaming) => {
                let mut out = String::new();
                streaming.write_frame(&mut turn, &mut out, now);
                self.phase = Phase::Streaming(turn, streaming);
                self.send(policy, out, now);
            }
            phase => self.phase = phase,
        }
    }

    /// Nothing of the attempt is waited for any more.
    pub(super) fn stop_attempt(&mut self) {
        let timers = &mut self.timers;
        timers.attempt = None;
        timers.first_byte = None;
        timers.idle = None;
        timers.frame = None;
    }
}
