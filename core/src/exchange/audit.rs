//! The record of a request for the audit ledger: who asked, what was decided at each step and by
//! which rule, and what came of it.
//!
//! One record for each request that decides something; none for those that only look. What was
//! said is in it as a keyed hash and a size, and as a redacted text only where the policy allows
//! it ([`Policy::audits_content`]). The hash is keyed because an answer of one word is found by
//! trying all words.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use sha2::{
    Digest, Sha256,
    digest::common::hazmat::{SerializableState, SerializedState},
};

use super::{
    Facts,
    gates::Caller,
    record::{Story, timestamp},
    routes::Route,
};
use crate::{
    VERSION,
    policy::{
        Policy, auth,
        redact::{Rules, redact},
    },
    seam::{Moment, Output},
    state::rollout::Change,
    wire::failure::Code,
};

/// The most bytes of a text that is kept where the policy allows it.
const KEPT: usize = 16 * 1024;

/// A text, as a ledger may know it. It may come in pieces.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Passage {
    /// The state of the hash while pieces come; the end of the text is in it.
    state: ByteBuf,
    /// The hash of a text that is whole.
    hash: Option<String>,
    bytes: u64,
    chars: u64,
    /// Its beginning, not redacted yet, where the policy allows it.
    text: String,
}

impl Passage {
    /// A whole text.
    pub(super) fn of(policy: &Policy, text: &str) -> Self {
        let mut passage = Self::default();
        passage.push(policy, text);
        passage.hash = Some(passage.tag(policy));
        passage.state.clear();
        passage
    }

    /// The next piece.
    pub(super) fn push(&mut self, policy: &Policy, text: &str) {
        let mut hash = self.hasher(policy);
        hash.update(text.as_bytes());
        self.state = ByteBuf::from(hash.serialize().to_vec());
        self.bytes += text.len() as u64;
        self.chars += text.chars().count() as u64;
        if policy.audits_content() && self.text.len() < KEPT {
            self.text.push_str(&text[..text.floor_char_boundary(KEPT - self.text.len())]);
        }
    }

    fn hasher(&self, policy: &Policy) -> Sha256 {
        let state = SerializedState::<Sha256>::try_from(self.state.as_slice()).ok();
        state.and_then(|state| Sha256::deserialize(&state).ok()).unwrap_or_else(|| {
            // One whole block, so that the state has nothing of it.
            Sha256::new().chain_update(auth::passage_key(policy).repeat(2))
        })
    }

    fn tag(&self, policy: &Policy) -> String {
        auth::passage_tag(policy, &self.hasher(policy).finalize().into())
    }

    fn show(&self, policy: &Policy) -> Value {
        let hash = self.hash.clone().unwrap_or_else(|| self.tag(policy));
        let mut shown = json!({"hmac": hash, "bytes": self.bytes, "chars": self.chars});
        if policy.audits_content() {
            let mut rules = Rules::all();
            rules.custom.clone_from(&policy.catalog.redaction.custom);
            shown["text"] = redact(&rules, &self.text).into();
        }
        shown
    }
}

/// The stage whose decision a code is.
fn stage(code: Code) -> &'static str {
    match code {
        Code::Unauthorized
        | Code::TokenInvalid
        | Code::TokenExpired
        | Code::LoginCodeInvalid
        | Code::LoginCodeUsed
        | Code::PushNotSigned
        | Code::LoginBlocked
        | Code::ProfileForbidden => "auth",
        Code::RateLimited | Code::Blocked | Code::BudgetExhausted | Code::QueueFull | Code::QueueTimeout => {
            "limits"
        }
        Code::ContentRefused | Code::ContentUnchecked => "moderation",
        Code::AnswerInvalid => "schema",
        Code::ModelNotAllowed | Code::IntentUnknown | Code::ProfileNotAllowed => "profile",
        _ => "request",
    }
}

/// What kind of record a route's is; `None` where nothing is decided.
fn kind(facts: &Facts) -> Option<&'static str> {
    // Asked every few seconds by Prometheus and by the operator's page. One approval is looked at by somebody.
    let is_watched = match facts.route {
        Route::Metrics | Route::Rollouts => true,
        Route::Approvals => facts.approval.is_none(),
        _ => false,
    };
    Some(match facts.route {
        Route::Chat | Route::Ask | Route::Robot => "turn",
        Route::Login | Route::Renew | Route::Token => "login",
        Route::Revoke => "revoke",
        Route::Steer => "order",
        Route::Configure | Route::RollBack => "configuration",
        Route::Decide | Route::OperatorDecides => "approval",
        Route::CancelTurn => "cancel",
        Route::Completions => "completion",
        Route::Rate => "feedback",
        Route::LogIn => "operator_login",
        Route::LogOut => "operator_logout",
        Route::Send => "send",
        route if route.is_polled() || is_watched => return None,
        route if route.is_operators() => "look",
        _ => return None,
    })
}

/// The record of a request that is over.
pub(super) fn record(
    policy: &Policy,
    facts: &Facts,
    story: &Story,
    runs: bool,
    now: Moment,
) -> Option<Output> {
    // A browser's question whether it may ask decides nothing.
    if story.status == 204 || !policy.audits() {
        return None;
    }
    let mut record = head(policy, facts, kind(facts)?, now.unix_ms);
    record["route"] = facts.route.name().into();
    record["status"] = if story.client_gone { 499 } else { story.status }.into();
    record["ms"] = now.unix_ms.saturating_sub(facts.started_ms).into();
    if let Some(code) = story.code {
        record["code"] = code.name().into();
    }
    if let Some(subject) = &story.subject {
        record["subject"] = subject.as_str().into();
    }
    record["decisions"] = decisions(facts, story);
    // Of a turn that outlives its connection: what its client's request was to it, or what its runner did.
    if runs {
        record["part"] = "run".into();
    } else if let Some(turn) = story.turn {
        record["part"] = json!(turn);
    }
    for (name, passage) in [("input", &story.asked), ("answer", &story.answered)] {
        if let Some(passage) = passage {
            record[name] = passage.show(policy);
        }
    }
    if let Some(given) = &story.feedback {
        // Where whoever looks for the turn finds it.
        record["traceId"] = given.trace.as_str().into();
        record["about"] = given.request.as_str().into();
        record["rating"] = json!(given.rating);
        record["profile"] = given.profile.as_str().into();
        record["version"] = json!(given.version);
        record["replaced"] = given.replaced.into();
        if let Some(comment) = &given.comment {
            record["comment"] = comment.show(policy);
        }
    }
    if let Some(usage) = story.usage {
        record["usage"] = json!({"input": usage.input, "output": usage.output});
    }
    if let Some(asked) = story.asked_ms {
        let first = story.first_ms.map(|first| first.saturating_sub(asked));
        record["times"] = json!({"queuedMs": asked.saturating_sub(facts.started_ms), "upstreamMs": first});
    }
    Some(Output::Audit { record: record.to_string() })
}

/// The record of a change of a rollout, once.
pub(super) fn rollout(policy: &Policy, facts: &Facts, intent: &str, change: &Change) -> Output {
    let mut record = head(policy, facts, "rollout", change.at_ms);
    record["intent"] = intent.into();
    record["change"] = json!(change.event);
    record["step"] = change.step.into();
    record["shareBasisPoints"] = change.share.into();
    Output::Audit { record: record.to_string() }
}

/// The record of a configuration that a host took by itself.
pub(super) fn configuration(
    policy: &Policy,
    facts: &Facts,
    (before, after): (&str, &str),
    by: &str,
    now: Moment,
) -> Option<Output> {
    if !policy.audits() {
        return None;
    }
    let mut record = head(policy, facts, "configuration", now.unix_ms);
    record["subject"] = by.into();
    record["decisions"] = json!([configured(before, after)]);
    Some(Output::Audit { record: record.to_string() })
}

fn configured(before: &str, after: &str) -> Value {
    json!({"what": "configuration", "from": before, "to": after})
}

/// What every record has: when, for which request, and which program under which rules.
fn head(policy: &Policy, facts: &Facts, kind: &str, unix_ms: u64) -> Value {
    let mut head = json!({
        "kind": kind,
        "at": timestamp(unix_ms),
        "traceId": facts.trace_id,
        "requestId": facts.request_id,
        "host": policy.host.name,
        "env": policy.environment.name(),
        "program": VERSION,
        "module": policy.host.module_sha256,
        "config": policy.catalog.version,
    });
    // The configuration that the turn was begun with is not to be had any more.
    if facts.config != policy.catalog.version {
        head["begunWith"] = facts.config.as_str().into();
    }
    head
}

/// In the order in which they were made.
fn decisions(facts: &Facts, story: &Story) -> Value {
    let refused_by = story.code.map(stage);
    let outcome = |here: &str| match (refused_by, story.code) {
        (Some(stage), Some(code)) if stage == here => code.name(),
        _ => "passed",
    };
    let mut all = Vec::new();
    // A head that is no request is refused before anybody looks at the credential.
    if story.code.is_none() || facts.caller != Caller::Anyone || refused_by != Some("request") {
        all.push(auth_decision(facts, outcome("auth")));
    }
    if let (Some(profile), Some(reason)) = (&story.profile, story.reason) {
        let mut chosen = json!({
            "what": "profile", "intent": story.intent, "profile": profile, "by": reason.name(),
            "ignored": story.ignored.map(|ignored| ignored.name()), "outcome": outcome("profile"),
        });
        if let Some(version) = story.version {
            chosen["version"] = json!(version);
        }
        all.push(chosen);
    } else if let Some(model) = &story.model {
        all.push(json!({"what": "model", "model": model, "outcome": outcome("profile")}));
    } else if refused_by == Some("profile") {
        all.push(json!({"what": "profile", "outcome": outcome("profile")}));
    }
    // What was refused before has met no limit.
    let met = story.code.is_none() || story.asked_ms.is_some() || story.cached;
    if met || matches!(refused_by, Some("limits" | "moderation")) {
        all.push(json!({
            "what": "limits", "outcome": outcome("limits"), "queued": story.queued,
            "retryAfterS": story.retry_after_s, "storeFailed": story.store_failed,
        }));
    }
    let checked = story.content_label.is_some() || story.unchecked || !story.picture_traces.is_empty();
    if checked || refused_by == Some("moderation") {
        all.push(json!({
            "what": "moderation", "outcome": outcome("moderation"), "label": story.content_label,
            "wechatTrace": story.content_trace, "pictureTraces": story.picture_traces,
            "unchecked": story.unchecked, "because": story.check_failed.map(Code::name),
        }));
    }
    if let Some(rank) = story.risk_rank {
        all.push(json!({"what": "risk", "rank": rank}));
    }
    if let Some(order) = story.order {
        all.push(json!({"what": "order", "intent": story.intent, "order": order}));
    }
    if let Some((before, after)) = &story.configured {
        all.push(configured(before, after));
    }
    if story.cached {
        all.push(json!({"what": "cache", "outcome": "kept"}));
    }
    if story.attempts > 0 {
        all.push(json!({
            "what": "attempts", "count": story.attempts, "upstreamStatus": story.upstream_status,
            "drafted": story.drafted, "stream": story.stream, "attachments": story.attachments,
        }));
    }
    if let Some(code) = story.fell_back {
        all.push(json!({"what": "fallback", "because": code.name()}));
    }
    if !story.violations.is_empty() || refused_by == Some("schema") {
        all.push(json!({
            "what": "schema", "outcome": outcome("schema"), "violations": story.violations,
        }));
    }
    if story.takeover || story.lost || story.cancelled {
        all.push(json!({
            "what": "run", "takeover": story.takeover, "lost": story.lost, "cancelled": story.cancelled,
        }));
    }
    all.extend(story.calls.iter().map(|call| {
        json!({
            "what": "tool", "tool": call.tool, "class": call.class, "outcome": call.outcome,
            "arguments": call.digest, "by": call.by,
        })
    }));
    if let (Some(tool), Some(approves)) = (&story.tool, story.approves) {
        all.push(json!({
            "what": "approval", "tool": tool, "approves": approves, "arguments": story.shown,
            "by": story.subject, "outcome": story.decided,
        }));
    }
    Value::from(all)
}

fn auth_decision(facts: &Facts, outcome: &str) -> Value {
    let mut decision = json!({"what": "auth", "outcome": outcome, "restricted": facts.restricted});
    match &facts.caller {
        // Of some routes it is not known which of the operator's keys was shown.
        Caller::Anyone if facts.route.is_operators() => decision["caller"] = "operator".into(),
        Caller::Anyone => decision["caller"] = "anyone".into(),
        Caller::Key(id) => {
            decision["caller"] = if facts.route.is_operators() { "operator" } else { "key" }.into();
            decision["key"] = id.as_str().into();
        }
        Caller::Session { role, signer, .. } => {
            decision["caller"] = "person".into();
            decision["role"] = role.as_str().into();
            decision["signer"] = signer.as_str().into();
        }
    }
    decision
}
