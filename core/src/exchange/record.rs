//! The log line of a request: what was decided and how long it took, never what was said.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::{Duration, SystemTime};

use super::{Facts, audit::Passage, feedback::Given, gates::Caller, tools::CallStory};
use crate::{
    measure::Sign,
    policy::{
        Policy,
        redact::{Rules, redact},
        routing::{Ignored, Reason},
    },
    seam::{Level, Moment, Output},
    state::rollout::{Change, Event, Order, Version},
    wire::{
        answer::{Usage, Warning},
        failure::Code,
    },
};

/// Whether a model has seen a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Sight {
    /// It cannot have: no connection, or a status that says so.
    #[default]
    Unseen,
    /// The host cannot tell.
    Unclear,
    /// It has, or may have.
    Seen,
}

/// What has been learned of a request on its way.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Story {
    /// The status that was sent; 0 when the client left before.
    pub status: u16,
    /// How it failed.
    pub code: Option<Code>,
    /// Whether a model has seen what it was asked last.
    pub sight: Sight,
    /// Whether a model may have seen what it was asked before that.
    pub seen: bool,
    /// The version of the configuration before a change, and after it.
    pub configured: Option<(String, String)>,
    /// The client left.
    pub client_gone: bool,
    /// A keyed hash of the user or address.
    pub subject: Option<String>,
    /// The model's name for the client.
    pub model: Option<String>,
    /// The intent, who answered it and why, and what was asked for in vain.
    pub intent: Option<String>,
    pub profile: Option<String>,
    pub reason: Option<Reason>,
    pub ignored: Option<Ignored>,
    /// What the profile is to the intent's rollout.
    pub version: Option<Version>,
    /// What a person wanted of the intent's rollout.
    pub order: Option<Order>,
    /// Requests to a model: more than one after a failure, a draft or a repair.
    pub attempts: u32,
    /// What went wrong with a profile that another one stood in for.
    pub fell_back: Option<Code>,
    /// The head of an event stream has been sent.
    pub opened: bool,
    /// What was said so far is no part of the answer: the next text begins anew.
    pub anew: bool,
    /// Whether it was streamed.
    pub stream: bool,
    /// The number of attachments.
    pub attachments: usize,
    /// When the upstream was asked.
    pub asked_ms: Option<u64>,
    /// When it began to answer: of a stream, its first text.
    pub first_ms: Option<u64>,
    /// Its status.
    pub upstream_status: Option<u16>,
    /// What it cost.
    pub usage: Option<Usage>,
    /// What was left out of the request.
    pub warnings: Vec<Warning>,
    /// When the client was told to come back, in seconds.
    pub retry_after_s: Option<u64>,
    /// What WeChat's content check said against a text or picture: its label, and how WeChat finds it again.
    pub content_label: Option<u32>,
    pub content_trace: Option<String>,
    /// How WeChat finds the checks of this turn's pictures.
    pub picture_traces: Vec<String>,
    /// A text or picture passed or was refused without a check, and why the check failed.
    pub unchecked: bool,
    pub check_failed: Option<Code>,
    /// How risky WeChat holds who logged in; or why it did not say, and its `errcode`.
    pub risk_rank: Option<u8>,
    pub risk_failed: Option<Code>,
    pub risk_errcode: Option<i64>,
    /// What looked like abuse.
    pub signs: Vec<Sign>,
    /// Messages that a model's server was not given, since it does not hold them.
    pub trimmed: u32,
    /// It waited in the upstream's queue.
    pub queued: bool,
    /// The store failed and the request passed all the same.
    pub store_failed: bool,
    /// It was answered from what is kept: `curated` or `kept`.
    pub cached: bool,
    /// A draft was the whole answer; what comes after it is kept.
    pub drafted: bool,
    /// The request began a turn that another exchange runs, or joined one.
    pub turn: Option<TurnStory>,
    /// This runner took the turn over from one that died; it lost it to another; its person did not want it.
    pub takeover: bool,
    pub lost: bool,
    pub cancelled: bool,
    /// What was done, or was not, and how often a call was sent again; who agreed to the present one.
    pub calls: Vec<CallStory>,
    pub call_retries: u32,
    pub approved_by: Option<String>,
    /// What a person was asked about, and what the person said.
    pub tool: Option<String>,
    pub approves: Option<bool>,
    pub shown: Option<String>,
    pub decided: Option<String>,
    /// What was wrong with an answer that was asked for again: keywords and places of its schema.
    pub violations: Vec<String>,
    /// The first words of what was asked, redacted, where a notice shows them. Never logged.
    pub title: Option<String>,
    /// What was said, redacted, where it may be logged at all.
    pub input: Option<String>,
    pub answer: Option<String>,
    /// What the audit ledger says of both, and what was decided beside the usual.
    pub asked: Option<Passage>,
    pub answered: Option<Passage>,
    /// What a person said of an answer.
    pub feedback: Option<Box<Given>>,
}

/// What a request was to a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum TurnStory {
    Begun,
    Joined,
}

/// The most characters of a text in a log line.
const EXCERPT: usize = 500;

/// The beginning of a text, without personal data and keys.
pub(super) fn excerpt(policy: &Policy, text: &str) -> String {
    let mut rules = Rules::all();
    rules.custom.clone_from(&policy.catalog.redaction.custom);
    let shown = redact(&rules, text);
    shown.chars().take(EXCERPT).collect()
}

/// A rollout has gone on, or back: a line of its own, once.
pub(super) fn rollout(policy: &Policy, facts: &Facts, intent: &str, change: &Change) -> Output {
    let (level, event, because) = match change.event {
        Event::Began => (Level::Info, "began", None),
        Event::Stepped => (Level::Info, "stepped", None),
        Event::Promoted => (Level::Info, "promoted", None),
        Event::RolledBack(finding) => (Level::Error, "rolled_back", Some(json!(finding))),
        Event::Ordered(order) => (Level::Info, "ordered", Some(json!(order))),
    };
    let mut line = json!({
        "ts": timestamp(change.at_ms), "level": level_name(level), "event": "rollout", "traceId": facts.trace_id,
        "host": policy.host.name, "env": policy.environment.name(), "config": policy.catalog.version,
        "intent": intent, "change": event, "step": change.step, "shareBasisPoints": change.share,
    });
    if let Some(because) = because {
        line["because"] = because;
    }
    // An order is told to whoever gave it.
    if let (Event::Ordered(_), Caller::Key(id)) = (change.event, &facts.caller) {
        line["by"] = id.as_str().into();
    }
    Output::Record { level, line: line.to_string() }
}

/// What came of a notice about a turn, or of one attempt to give it: a line of its own.
pub(super) struct Told<'a> {
    pub event: &'static str,
    /// When it happened that is told.
    pub at_ms: u64,
    pub intent: &'a str,
    pub way: &'static str,
    pub outcome: &'static str,
    pub attempts: u32,
    /// The backend's status; WeChat's `errcode`; why there is no access token.
    pub status: Option<i64>,
    pub errcode: Option<i64>,
    pub code: Option<Code>,
}

impl Told<'_> {
    /// The line, unless the settings do not want it.
    pub(super) fn record(&self, policy: &Policy, facts: &Facts, level: Level, now: Moment) -> Option<Output> {
        if level < policy.log_level {
            return None;
        }
        let mut line = json!({
            "ts": timestamp(now.unix_ms), "level": level_name(level), "event": "notice",
            "traceId": facts.trace_id, "requestId": facts.request_id, "host": policy.host.name,
            "env": policy.environment.name(), "intent": self.intent, "about": self.event, "way": self.way,
            "outcome": self.outcome, "attempts": self.attempts, "ms": now.unix_ms.saturating_sub(self.at_ms),
        });
        for (name, number) in [("status", self.status), ("errcode", self.errcode)] {
            if let Some(number) = number {
                line[name] = number.into();
            }
        }
        if let Some(code) = self.code {
            line["code"] = code.name().into();
        }
        Some(Output::Record { level, line: line.to_string() })
    }
}

/// What came of something that was to be said in a robot's conversation: a line of its own, with nothing
/// that was said.
pub(super) struct Said<'a> {
    pub kind: &'static str,
    pub since_ms: u64,
    pub channel: &'a str,
    pub outcome: &'static str,
    /// DingTalk's own, where it refused.
    pub code: &'a str,
    pub messages: usize,
    pub attempts: u32,
}

impl Said<'_> {
    /// The line, unless the settings do not want it.
    pub(super) fn record(&self, policy: &Policy, facts: &Facts, level: Level, now: Moment) -> Option<Output> {
        if level < policy.log_level {
            return None;
        }
        let mut line = json!({
            "ts": timestamp(now.unix_ms), "level": level_name(level), "event": "said",
            "traceId": facts.trace_id, "requestId": facts.request_id, "host": policy.host.name,
            "env": policy.environment.name(), "channel": self.channel, "what": self.kind,
            "outcome": self.outcome, "messages": self.messages, "attempts": self.attempts,
            "ms": now.unix_ms.saturating_sub(self.since_ms),
        });
        if !self.code.is_empty() {
            line["reason"] = self.code.into();
        }
        Some(Output::Record { level, line: line.to_string() })
    }
}

impl Story {
    /// Adds what a request to a model cost.
    pub(super) fn spent(&mut self, usage: Usage) {
        let sum = self.usage.get_or_insert_default();
        sum.input += usage.input;
        sum.output += usage.output;
        sum.total += usage.total;
    }

    /// Whether the same request may be begun again under its key: it failed in a way that passes, and
    /// no model and no tool has seen anything of it.
    pub(super) fn may_begin_anew(&self) -> bool {
        let unseen = match self.code {
            Some(Code::UpstreamUnreachable | Code::UpstreamOverloaded) => true,
            _ => self.asked_ms.is_none(),
        };
        unseen
            && !self.seen
            && self.sight == Sight::Unseen
            && self.calls.is_empty()
            && !self.takeover
            && self.code.is_some_and(Code::retryable)
    }

    /// An operator must act, though the request went well.
    fn is_misconfigured(&self) -> bool {
        [self.check_failed, self.risk_failed].contains(&Some(Code::WechatMisconfigured))
    }

    /// The line, unless the settings do not want it. `event` says what it is of: a `request`, a `turn`
    /// whose clients are elsewhere, or a `notice` that could not be read.
    pub(super) fn line(&self, policy: &Policy, facts: &Facts, event: &str, now: Moment) -> Option<Output> {
        let level = match self.code {
            Some(code) => code.level(),
            None if self.store_failed || self.is_misconfigured() => Level::Error,
            None if self.unchecked || self.risk_failed.is_some() => Level::Warn,
            // A load balancer asks every few seconds.
            None if facts.route.is_operational() || facts.route.is_polled() => Level::Debug,
            None => Level::Info,
        };
        if level < policy.log_level {
            return None;
        }
        let mut line = Map::new();
        let mut put = |key: &str, value: Value| line.insert(key.into(), value);
        put("ts", timestamp(now.unix_ms).into());
        put("level", level_name(level).into());
        put("event", event.into());
        put("traceId", facts.trace_id.as_str().into());
        put("requestId", facts.request_id.as_str().into());
        put("host", policy.host.name.as_str().into());
        put("env", policy.environment.name().into());
        put("route", facts.route.name().into());
        put("status", if self.client_gone { 499 } else { self.status }.into());
        put("ms", now.unix_ms.saturating_sub(facts.started_ms).into());
        if let Some(code) = self.code {
            put("code", code.name().into());
        }
        if self.client_gone {
            put("clientGone", true.into());
        }
        if facts.body_bytes > 0 {
            put("bytesIn", facts.body_bytes.into());
        }
        if let Some(subject) = &self.subject {
            put("subject", subject.as_str().into());
        }
        if let Some(model) = &self.model {
            put("model", model.as_str().into());
            put("stream", self.stream.into());
            put("attachments", self.attachments.into());
        }
        if let Some(asked) = self.asked_ms {
            put("queuedMs", asked.saturating_sub(facts.started_ms).into());
            if let Some(first) = self.first_ms {
                put("upstreamMs", first.saturating_sub(asked).into());
            }
        }
        if let Some(intent) = &self.intent {
            put("intent", intent.as_str().into());
            put("config", policy.catalog.version.as_str().into());
        }
        if let Some(order) = self.order {
            put("order", json!(order));
        }
        if let (Some(profile), Some(reason)) = (&self.profile, self.reason) {
            put("profile", profile.as_str().into());
            put("profileBy", reason.name().into());
        }
        if let Some(ignored) = self.ignored {
            put("profileIgnored", ignored.name().into());
        }
        if self.cached {
            put("cached", true.into());
        }
        if self.drafted {
            put("drafted", true.into());
        }
        if let Some(turn) = self.turn {
            put("turn", json!(turn));
        }
        if !self.calls.is_empty() {
            put("calls", json!(self.calls));
            put("callRetries", self.call_retries.into());
        }
        if let Some(tool) = &self.tool {
            put("tool", tool.as_str().into());
        }
        if let Some(approves) = self.approves {
            put("approves", approves.into());
        }
        if let Some(given) = &self.feedback {
            put("about", given.trace.as_str().into());
            put("rating", json!(given.rating));
        }
        for (name, is) in [("takeover", self.takeover), ("lost", self.lost), ("cancelled", self.cancelled)] {
            if is {
                put(name, true.into());
            }
        }
        if !self.violations.is_empty() {
            put("violations", self.violations.iter().map(|text| Value::from(text.as_str())).collect());
        }
        if let Some(input) = &self.input {
            put("input", input.as_str().into());
        }
        if let Some(answer) = &self.answer {
            put("answer", answer.as_str().into());
        }
        if self.attempts > 1 {
            put("attempts", self.attempts.into());
        }
        if let Some(code) = self.fell_back {
            put("fellBack", code.name().into());
        }
        if let Some(status) = self.upstream_status {
            put("upstreamStatus", status.into());
        }
        if let Some(usage) = self.usage {
            put("inputTokens", usage.input.into());
            put("outputTokens", usage.output.into());
        }
        if !self.warnings.is_empty() {
            put("warnings", self.warnings.iter().map(|warning| Value::from(warning.name())).collect());
        }
        if let Some(label) = self.content_label {
            put("contentLabel", label.into());
        }
        if let Some(trace) = &self.content_trace {
            put("contentTrace", trace.as_str().into());
        }
        if !self.picture_traces.is_empty() {
            put(
                "pictureTraces",
                self.picture_traces.iter().map(|trace| Value::from(trace.as_str())).collect(),
            );
        }
        if self.unchecked {
            put("contentUnchecked", true.into());
            if let Some(code) = self.check_failed {
                put("contentCheck", code.name().into());
            }
        }
        if let Some(rank) = self.risk_rank {
            put("riskRank", rank.into());
        }
        if let Some(code) = self.risk_failed {
            put("riskUnknown", code.name().into());
        }
        if let Some(errcode) = self.risk_errcode {
            put("riskErrcode", errcode.into());
        }
        if self.trimmed > 0 {
            put("trimmedMessages", self.trimmed.into());
        }
        if self.queued {
            put("queued", true.into());
        }
        if self.store_failed {
            put("storeFailed", true.into());
        }
        Some(Output::Record { level, line: Value::Object(line).to_string() })
    }
}

/// RFC 3339 in UTC, to the millisecond.
pub(crate) fn timestamp(unix_ms: u64) -> String {
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::Debug => "debug",
        Level::Info => "info",
        Level::Warn => "warn",
        Level::Error => "error",
    }
}
