//! `POST /v1/mini/feedback`: what a person says of an answer; `GET /v1/admin/feedback`: what people said.
//!
//! Only whoever asked may say something. A trace id proves nothing, for clients choose theirs; and a mark
//! of every request, for the few that are rated, would cost each of them an operation of the store. So the
//! audit ledger is the proof: it has who asked, under the same keyed hash, for as long as it keeps the
//! record. Without a ledger nothing can be rated. Nobody's word may count twice: a second one takes the
//! place of the first.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Exchange, Phase,
    audit::Passage,
    gates::{Caller, STORE_PATIENCE, ask_signer},
    metrics::version_of,
    record,
    standing::{blocked, too_many},
    trace,
};
use crate::{
    policy::{Policy, auth},
    seam::{Find, Input, MODEL, Moment, Output},
    state::{
        Op, Outcome,
        caller::{Enter, Standing},
        rating::{Note, Opinions, Rate, Rating, Said},
        rollout::{Judge, Version},
    },
    wire::{
        failure::{Code, Failure},
        is_trace_id, json,
    },
};

/// The cell of all that was said.
const ALL: &str = "opinions";
/// The most characters of a comment.
const LONGEST_COMMENT: usize = 500;
/// The most characters of a user's name, as everywhere.
const LONGEST_USER: usize = 128;

/// A word, on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Rated {
    pub(super) id: u32,
    trace: String,
    rating: Rating,
    comment: String,
    /// Whose turn it must be.
    subject: String,
    /// The turn, once it is found.
    turn: Option<Answered>,
}

/// What the ledger says of a turn.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Answered {
    request: String,
    intent: Option<String>,
    profile: String,
    version: Option<Version>,
}

/// What the ledger is told of a word.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) trace: String,
    pub(super) request: String,
    pub(super) rating: Rating,
    pub(super) comment: Option<Passage>,
    pub(super) profile: String,
    pub(super) version: Option<Version>,
    pub(super) replaced: bool,
}

/// `up` or `down`, in any letters; also 1 and -1, which is what a switch in a page says.
fn rating(value: &Value) -> Option<Rating> {
    match value {
        Value::String(word) if word.trim().eq_ignore_ascii_case("up") => Some(Rating::Up),
        Value::String(word) if word.trim().eq_ignore_ascii_case("down") => Some(Rating::Down),
        Value::Number(number) if number.as_i64() == Some(1) => Some(Rating::Up),
        Value::Number(number) if number.as_i64() == Some(-1) => Some(Rating::Down),
        _ => None,
    }
}

impl Exchange {
    /// `{"traceId", "rating", "comment", "userId"}`.
    pub(super) fn rate_answer(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            trace_id: String,
            rating: Value,
            #[serde(default)]
            comment: Option<String>,
            #[serde(default, alias = "user")]
            user_id: Option<String>,
        }
        let Ok(body) = json::object::<Body>(body) else {
            let message =
                "body: send {\"traceId\": \"…\", \"rating\": \"up\" or \"down\", \"comment\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let subject = self.subject(policy, body.user_id.as_deref());
        self.story.subject = Some(subject.clone());
        let comment = body.comment.unwrap_or_default().trim().to_owned();
        let flaw = match rating(&body.rating) {
            _ if body.user_id.is_some_and(|user| !(1..=LONGEST_USER).contains(&user.chars().count())) => {
                Failure::new(Code::UserInvalid, "userId: 1 to 128 characters")
            }
            _ if !is_trace_id(&body.trace_id) => {
                Failure::new(Code::InputInvalid, "traceId: the one that the answer had")
            }
            None => Failure::new(Code::InputInvalid, "rating: use up or down"),
            _ if comment.chars().count() > LONGEST_COMMENT => {
                Failure::new(Code::InputTooLong, "comment: at most 500 characters")
            }
            Some(rating) => {
                let rated = Rated { id: 0, trace: body.trace_id, rating, comment, subject, turn: None };
                return self.ask_rater(policy, rated, now);
            }
        };
        self.fail(policy, &flaw, now);
    }

    /// Who says it, how often, and whether the login still holds.
    fn ask_rater(&mut self, policy: &Policy, rated: Rated, now: Moment) {
        let (role, login_s) = match &self.facts.caller {
            Caller::Session { role, login_s, .. } => (policy.role(role), *login_s),
            _ => (policy.role(""), 0),
        };
        let mut ops = Vec::new();
        if let Caller::Session { signer, .. } = &self.facts.caller {
            ops.push(ask_signer(signer));
        }
        let enter = Enter { rate: role.rate, cost: 1, thresholds: policy.abuse, login_s, ..Enter::default() };
        ops.push((format!("user:{}", rated.subject), Op::Enter(enter)));
        self.ask_for_rating(rated, |id| Output::Store { id, ops }, now);
    }

    fn ask_for_rating(&mut self, mut rated: Rated, ask: impl FnOnce(u32) -> Output, now: Moment) {
        rated.id = self.take_id();
        self.outputs.push_back(ask(rated.id));
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Rating(Box::new(rated));
    }

    pub(super) fn in_rating(&mut self, policy: &Policy, rated: Box<Rated>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == rated.id => {
                self.timers.store = None;
                self.rating_goes_on(policy, *rated, outcomes, now);
            }
            Input::StoreFailed { id } if *id == rated.id => self.rating_failed(policy, now),
            _ => self.phase = Phase::Rating(rated),
        }
    }

    /// The rater is asked about first, then the ledger, then what was said before.
    fn rating_goes_on(&mut self, policy: &Policy, mut rated: Rated, outcomes: &[Outcome], now: Moment) {
        match (outcomes.last(), &rated.turn) {
            (Some(Outcome::Entered { .. }), None) => {
                if let Some(failure) = outcomes.iter().find_map(refusal) {
                    return self.fail(policy, &failure, now);
                }
                let find = Find::About(rated.trace.clone());
                self.ask_for_rating(rated, |id| Output::Ledger { id, find }, now);
            }
            (Some(Outcome::Value(lines)), None) => {
                let records = trace::records(lines.as_deref().map(Vec::as_slice).unwrap_or_default());
                let Some(turn) = self.own_turn(policy, &rated.subject, &records) else {
                    let message = "no answer of this trace was the caller's, or not any more; \
                                   one of a moment ago may be found a moment later";
                    return self.fail(policy, &Failure::new(Code::TraceUnknown, message), now);
                };
                rated.turn = Some(turn);
                let rate = Rate { rating: rated.rating, ttl_ms: policy.audit_keep_ms() };
                let ops = vec![(format!("rating:{}", rated_id(policy, &rated)), Op::Rate(rate))];
                self.ask_for_rating(rated, |id| Output::Store { id, ops }, now);
            }
            (Some(Outcome::Rated { before }), Some(_)) => self.rating_kept(policy, rated, *before, now),
            _ => self.rating_failed(policy, now),
        }
    }

    /// The newest answer of a trace that this caller was given: clients choose traces, and may give one to
    /// several questions.
    fn own_turn(&self, policy: &Policy, subject: &str, records: &[Value]) -> Option<Answered> {
        let key = match &self.facts.caller {
            Caller::Key(id) => Some(id.as_str()),
            _ => None,
        };
        let own = |record: &&Value| {
            record["kind"] == "turn"
                && record["status"] == 200
                && record["subject"] == subject
                && decision(record, "auth").is_some_and(|auth| auth["key"].as_str() == key)
        };
        let newest = records.iter().rfind(own)?;
        // Of a turn that outlives its connection there are its client's request and its run, which is where
        // it was decided who answers.
        let ran = |record: &&Value| {
            own(record) && record["part"] == "run" && record["requestId"] == newest["requestId"]
        };
        let record = records.iter().rfind(ran).unwrap_or(newest);
        let word = |value: &Value| value.as_str().map(str::to_owned);
        let chosen = decision(record, "profile");
        let model = || decision(record, "model").and_then(|chosen| word(&chosen["model"]));
        let profile = chosen.and_then(|chosen| word(&chosen["profile"]));
        let profile = profile.unwrap_or_else(|| format!("{MODEL}{}", model().unwrap_or_default()));
        let version = chosen.and_then(|chosen| serde_json::from_value(chosen["version"].clone()).ok());
        // Another one that stood in is no version.
        let version = version.filter(|_| version_of(policy, &profile).is_some());
        let intent = chosen.and_then(|chosen| word(&chosen["intent"]));
        Some(Answered { request: word(&record["requestId"])?, intent, profile, version })
    }

    /// It is kept, and told to everybody who counts.
    fn rating_kept(&mut self, policy: &Policy, rated: Rated, before: Option<Rating>, now: Moment) {
        let id = rated_id(policy, &rated);
        let Rated { trace, rating, comment, turn, .. } = rated;
        let Answered { request, intent, profile, version } = turn.unwrap_or_default();
        let keeps = policy.audits_content();
        let said = Said {
            id,
            at_ms: now.unix_ms,
            until_ms: now.unix_ms.saturating_add(policy.audit_keep_ms()),
            trace: trace.clone(),
            profile: profile.clone(),
            version,
            rating,
            comment: if keeps { record::excerpt(policy, &comment) } else { String::new() },
        };
        self.tell(ALL.to_owned(), Op::Note(Note { said, before }));
        let rollout = intent.and_then(|intent| policy.catalog.intent(&intent)?.rollout.as_ref());
        if let (Some(rollout), Some(version)) = (rollout, version)
            && rollout.profile(version) == profile
        {
            let judge = Judge { plan: rollout.plan.clone(), version, rating, before };
            self.tell(rollout.key(), Op::Judge(judge));
        }
        let replaced = before.is_some();
        let body = json!({
            "traceId": trace, "requestId": request, "rating": rating, "replaced": replaced,
        });
        let comment = (!comment.is_empty()).then(|| Passage::of(policy, &comment));
        self.story.feedback =
            Some(Box::new(Given { trace, request, rating, comment, profile, version, replaced }));
        self.respond_json(policy, 200, body.to_string(), now);
    }

    /// Nobody knows whether it is the caller's turn, or whether the word was kept.
    pub(super) fn rating_failed(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let message = "the rating cannot be kept now, or this host has no audit ledger";
        self.fail(policy, &Failure::new(Code::StoreUnavailable, message).after(5), now);
    }

    /// What people said, the newest first.
    pub(super) fn show_feedback(&mut self, now: Moment) {
        if let Caller::Key(name) = &self.facts.caller {
            self.story.subject = Some(name.clone());
        }
        let id = self.take_id();
        self.outputs.push_back(Output::Store { id, ops: vec![(ALL.to_owned(), Op::Opinions)] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Feedback(id);
    }

    pub(super) fn in_feedback(&mut self, policy: &Policy, asked: u32, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == asked => match outcomes.first() {
                Some(Outcome::Opinions(all)) => {
                    self.timers.store = None;
                    self.respond_json(policy, 200, show(policy, all).to_string(), now);
                }
                _ => self.rating_failed(policy, now),
            },
            Input::StoreFailed { id } if *id == asked => self.rating_failed(policy, now),
            _ => self.phase = Phase::Feedback(asked),
        }
    }
}

fn show(policy: &Policy, all: &Opinions) -> Value {
    let said = all.said.iter().rev().map(|said| {
        let mut shown = json!({
            "at": record::timestamp(said.at_ms), "traceId": said.trace, "rating": said.rating,
            "profile": said.profile, "version": said.version,
        });
        if policy.audits_content() && !said.comment.is_empty() {
            shown["comment"] = said.comment.as_str().into();
        }
        shown
    });
    let counts = all.counts.iter().map(|(profile, version, votes)| {
        json!({"profile": profile, "version": version, "up": votes.up, "down": votes.down})
    });
    json!({"feedback": said.collect::<Vec<_>>(), "counts": counts.collect::<Vec<_>>()})
}

/// Out of the ledger's records of a trace: the newest word of each person about each answer.
pub(super) fn of_trace(records: &[Value]) -> Vec<Value> {
    let given: Vec<&Value> = records
        .iter()
        .filter(|record| record["kind"] == "feedback" && record["rating"].is_string())
        .collect();
    let newest = given.iter().enumerate().filter(|(at, record)| {
        let of = |record: &Value| (record["subject"].clone(), record["about"].clone());
        given.iter().skip(at + 1).all(|later| of(later) != of(record))
    });
    let shown = newest.map(|(_, record)| {
        let mut shown = json!({"at": record["at"], "rating": record["rating"]});
        if let Some(comment) = record["comment"]["text"].as_str() {
            shown["comment"] = comment.into();
        }
        shown
    });
    shown.collect()
}

/// One decision of a record.
fn decision<'r>(record: &'r Value, what: &str) -> Option<&'r Value> {
    record["decisions"].as_array()?.iter().find(|decision| decision["what"] == what)
}

/// What stands for a person and a turn. Not its trace: a word about another answer of the same trace is
/// another word, and what it is counted for may be another profile.
fn rated_id(policy: &Policy, rated: &Rated) -> String {
    let request = rated.turn.as_ref().map_or("", |turn| turn.request.as_str());
    auth::subject(policy, &format!("rating {}", rated.subject), request)
}

fn refusal(outcome: &Outcome) -> Option<Failure> {
    match outcome {
        Outcome::Entered { revoked: true, .. } => {
            Some(Failure::new(Code::TokenInvalid, "the token was revoked; log in again"))
        }
        Outcome::Entered { standing: Standing::Blocked { for_ms }, .. } => Some(blocked(*for_ms)),
        Outcome::Entered { granted: false, retry_after_ms, .. } => {
            Some(too_many("requests", *retry_after_ms))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn a_rating_is_up_or_down() {
        for up in [json!("up"), json!("UP "), json!(1)] {
            assert_eq!(rating(&up), Some(Rating::Up), "{up}");
        }
        for down in [json!("down"), json!("Down"), json!(-1)] {
            assert_eq!(rating(&down), Some(Rating::Down), "{down}");
        }
        for other in [json!(0), json!(5), json!(true), json!(null), json!("good"), json!(["up"]), json!(1.5)]
        {
            assert_eq!(rating(&other), None, "{other}");
        }
    }

    #[test]
    fn a_trace_shows_each_persons_last_word() {
        let given =
            |subject: &str, rating: &str| json!({"kind": "feedback", "subject": subject, "rating": rating});
        let records = [
            json!({"kind": "turn"}),
            given("a", "down"),
            given("b", "up"),
            json!({"kind": "feedback", "subject": "c", "code": "trace_unknown"}),
            given("a", "up"),
        ];
        let words = |records: &[Value]| -> Vec<Value> {
            of_trace(records).iter().map(|shown| shown["rating"].clone()).collect()
        };
        assert_eq!(words(&records), ["up", "up"]);
        let [mut first, mut second] = [given("a", "down"), given("a", "up")];
        (first["about"], second["about"]) = ("req_1".into(), "req_2".into());
        assert_eq!(words(&[first, second]), ["down", "up"], "of two answers");
    }
}
