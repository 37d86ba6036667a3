//! The stages of an intent's answer: held against its schema, checked, and given, whole or as
//! events.

use serde::de::IgnoredAny;
use serde_json::Value;

use super::{
    Exchange, Phase,
    audit::Passage,
    chat::{Turn, Voice, Waiting},
    pieces::Pieces,
    plan::Plan,
    record,
    stream::Streaming,
};
use crate::{
    policy::{
        Policy,
        redact::redact,
        schema::{self, Violation},
    },
    seam::Moment,
    wire::{
        answer::{Answer, Finish, Usage},
        extract,
        failure::{Code, Failure},
        links,
        reply::{Ending, Part},
    },
};

impl Exchange {
    /// A whole answer of a model: a value is held against its schema, and asked for once more when
    /// it is not what it should be.
    pub(super) fn accept_answer(
        &mut self,
        policy: &Policy,
        mut turn: Box<Turn>,
        mut answer: Answer,
        now: Moment,
    ) {
        self.stop_attempt();
        let Voice::Mini(plan) = &mut turn.voice else { return };
        if plan.json {
            match value_in(&answer.text, plan.schema(policy)) {
                Ok(value) => answer.text = value,
                Err(unfit) => {
                    self.story.violations = unfit.for_logs;
                    if !plan.may_repair() || self.is_too_late(now) {
                        let message = "the model's answer is not valid against its schema, twice";
                        return self.fail(policy, &Failure::new(Code::AnswerInvalid, message), now);
                    }
                    // The whole of a long answer would not fit beside its question again.
                    let said = answer.text.chars().take(LONGEST_REPEATED).collect();
                    let Turn { voice: Voice::Mini(mut plan), rate_headers, .. } = *turn else { return };
                    plan.repair = Some((said, unfit.for_model));
                    return self.next_attempt(policy, *plan, rate_headers, None, now);
                }
            }
        }
        if plan.redacts(policy) {
            answer.text = redacted(policy, answer.text, plan.json);
        }
        self.check_answer(policy, turn, answer, now);
    }

    /// An answer that may be shown goes to the client.
    pub(super) fn give_mini(&mut self, policy: &Policy, mut turn: Box<Turn>, answer: &Answer, now: Moment) {
        if let Voice::Mini(plan) = &mut turn.voice
            && plan.part == Part::Draft
        {
            if !self.is_too_late(now) {
                return self.mark_turn(*turn, answer.clone(), now);
            }
            // The draft is all that there will be.
            plan.reply.profile.clone_from(&plan.profile);
            plan.reply.degraded = true;
        }
        let usage = self.story.usage.unwrap_or(answer.usage);
        self.keep(policy, &turn, answer);
        self.give(policy, turn, Answer { usage, ..answer.clone() }, now);
    }

    /// Keeps an answer for the next one who asks, where it may be.
    fn keep(&mut self, policy: &Policy, turn: &Turn, answer: &Answer) {
        let Voice::Mini(plan) = &turn.voice else { return };
        if policy.logs_content() {
            self.story.answer = Some(record::excerpt(policy, &answer.text));
        }
        let shareable = answer.finish == Finish::Stop && !plan.reply.degraded && !self.facts.restricted;
        if let Some(shelf) = self.dues.lead.clone().filter(|_| shareable) {
            self.dues.fill = Some((shelf, answer.text.clone()));
        }
    }

    /// An answer that was there already.
    pub(super) fn give_kept(&mut self, policy: &Policy, waiting: Waiting, text: String, now: Moment) {
        let mut turn = Box::new(waiting.turn);
        if let Voice::Mini(plan) = &mut turn.voice {
            plan.reply.cached = true;
            plan.part = Part::Answer;
        }
        self.lease = None;
        self.story.cached = true;
        let answer = Answer { text, finish: Finish::Stop, usage: Usage::default(), calls: Vec::new() };
        self.give(policy, turn, answer, now);
    }

    fn give(&mut self, policy: &Policy, mut turn: Box<Turn>, answer: Answer, now: Moment) {
        let Answer { text, finish, usage, .. } = &answer;
        self.story.answered = Some(Passage::of(policy, text));
        let links = links::find(text);
        let Voice::Mini(plan) = &mut turn.voice else { return };
        let data = plan.json.then_some(text.as_str());
        let data = data.filter(|text| serde_json::from_str::<IgnoredAny>(text).is_ok());
        let ending = Ending { finish: *finish, usage: *usage, links: &links, data };
        if !plan.stream {
            let body = plan.reply.whole(text, ending);
            let headers = std::mem::take(&mut turn.rate_headers);
            return self.respond(policy, 200, headers, body, now);
        }
        self.open_stream(policy, &mut turn, now);
        let Voice::Mini(plan) = &mut turn.voice else { return };
        let mut out = String::with_capacity(text.len() + 512);
        plan.reply.delta(&mut out, plan.part, text);
        plan.reply.done(&mut out, ending);
        let whole = plan.reply.whole(text, ending);
        self.send(policy, out, now);
        self.keep_end(200, whole);
        self.end_answer();
        self.finish(policy, now);
    }

    /// A draft or an answer has been streamed to its end.
    pub(super) fn mini_streamed(
        &mut self,
        policy: &Policy,
        turn: Turn,
        pieces: Pieces,
        usage: Usage,
        finish: Finish,
        now: Moment,
    ) {
        self.story.spent(usage);
        self.stop_attempt();
        match turn {
            Turn { voice: Voice::Mini(mut plan), rate_headers, .. } if plan.part == Part::Draft => {
                plan.drafted = true;
                plan.draft_text = pieces.into_whole();
                self.refine(policy, *plan, rate_headers, now);
            }
            turn => {
                if let Some(text) = pieces.into_whole() {
                    self.keep_whole(&turn, &text, finish, usage);
                    self.keep(policy, &turn, &Answer { text, finish, usage, calls: Vec::new() });
                }
                self.end_answer();
                self.finish(policy, now);
            }
        }
    }

    /// The whole answer of a turn whose clients are elsewhere.
    fn keep_whole(&mut self, turn: &Turn, text: &str, finish: Finish, usage: Usage) {
        if self.run.is_none() {
            return;
        }
        let links = links::find(text);
        let body = match &turn.voice {
            Voice::Mini(plan) => plan.reply.whole(text, Ending { finish, usage, links: &links, data: None }),
            Voice::Chat { envelope, .. } => {
                envelope.whole(&Answer { text: text.to_owned(), finish, usage, calls: Vec::new() }, &links)
            }
        };
        self.keep_end(200, body);
    }

    /// The end of a chat that was streamed, likewise.
    pub(super) fn keep_chat(&mut self, turn: &Turn, streaming: &Streaming) {
        if let Some(text) = streaming.chat_text() {
            let finish = streaming.finish_or_stop();
            self.keep_whole(turn, text, finish, streaming.usage());
        }
    }

    /// A stream has broken off.
    pub(super) fn mini_stream_failed(
        &mut self,
        policy: &Policy,
        turn: Turn,
        streaming: Streaming,
        failure: &Failure,
        now: Moment,
    ) {
        self.stop_attempt();
        let shown = streaming.has_shown();
        let Turn { voice: Voice::Mini(mut plan), rate_headers, .. } = turn else { return };
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

    /// The time is over while the real answer waits for its slot.
    pub(super) fn keep_drafted(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        if let Voice::Mini(plan) = waiting.turn.voice {
            self.keep_draft(policy, *plan, now);
        }
    }

    /// The draft is all that there will be.
    pub(super) fn keep_draft(&mut self, policy: &Policy, mut plan: Plan, now: Moment) {
        plan.reply.degraded = true;
        let mut out = String::new();
        let usage = self.story.usage.unwrap_or_default();
        let ending = Ending { finish: Finish::Stop, usage, links: &[], data: None };
        plan.reply.done(&mut out, ending);
        self.send(policy, out, now);
        self.keep_end(200, plan.reply.whole(plan.draft_text.as_deref().unwrap_or_default(), ending));
        self.end_answer();
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

/// The most characters of an answer that the model is shown again.
const LONGEST_REPEATED: usize = 8_000;

/// Why a value is not accepted.
struct Unfit {
    for_model: String,
    for_logs: Vec<String>,
}

/// The value in an answer, as JSON text, when it is what the schema wants.
fn value_in(answer: &str, schema: Option<&str>) -> Result<String, Unfit> {
    const AGAIN: &str = "Answer again with the corrected JSON value only.";
    let found = extract::json_in(answer).and_then(|range| answer.get(range));
    let Some(value) = found else {
        return Err(Unfit {
            for_model: format!("There is no complete JSON value in your answer. {AGAIN}"),
            for_logs: vec!["json".into()],
        });
    };
    let violations = schema.map(|schema| schema::violations(schema, value)).unwrap_or_default();
    if violations.is_empty() {
        return Ok(value.to_owned());
    }
    let mut for_model = String::from("Your JSON value is not valid:\n");
    for violation in &violations {
        for_model.push_str(&format!("- {}\n", violation.for_model()));
    }
    for_model.push_str(AGAIN);
    Err(Unfit { for_model, for_logs: violations.iter().map(Violation::for_log).collect() })
}

/// An answer without what may not be shown. A value stays one: its strings are looked at, and a
/// number that is somebody's becomes a string.
fn redacted(policy: &Policy, text: String, json: bool) -> String {
    let rules = &policy.catalog.redaction;
    let shown = redact(rules, &text);
    if !json {
        return shown.into_owned();
    }
    match serde_json::from_str::<Value>(&text) {
        Ok(mut value) if shown != text => {
            redact_value(policy, &mut value);
            value.to_string()
        }
        _ => text,
    }
}

fn redact_value(policy: &Policy, value: &mut Value) {
    let rules = &policy.catalog.redaction;
    match value {
        Value::String(text) => *text = redact(rules, text).into_owned(),
        Value::Number(number) => {
            let text = number.to_string();
            let shown = redact(rules, &text);
            if shown != text {
                *value = Value::String(shown.into_owned());
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| redact_value(policy, item)),
        Value::Object(fields) => fields.values_mut().for_each(|item| redact_value(policy, item)),
        Value::Null | Value::Bool(_) => {}
    }
}
