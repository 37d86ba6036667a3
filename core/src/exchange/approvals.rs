//! What a person is asked before something is done, and what the person says.
//!
//! `GET` shows the call with the very arguments that will be sent, and a grant: a signature over who
//! is shown what, for a while. `POST` takes the grant back with a yes or a no. That a word
//! counts once, and only for what was shown, is the turn's cell's to say
//! ([`state::turn`](crate::state::turn)). Nobody may agree to what they were not shown.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Exchange, Phase,
    gates::{Caller, STORE_PATIENCE},
    record, turns,
    watching::unknown,
};
use crate::{
    policy::{Policy, auth},
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        register::Entry,
        turn::{Approval, Awaited, Decide, Decided, TurnOp, TurnOutcome, Verdict, View, Watch},
    },
    wire::{
        failure::{Code, Failure},
        json,
    },
};

/// What precedes the id in the path of a person's, and of an operator's.
pub(super) const MINE: &str = "/v1/mini/approvals/";
pub(super) const ALL: &str = "/v1/admin/approvals";
/// The list of what waits for a person.
pub(super) const LIST: &str = "approvals";
/// The longest that somebody may look at what is shown before saying yes, in milliseconds.
const GRANT: u64 = 600_000;

/// A call that a person is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Named {
    turn: String,
    call: u32,
}

/// The call that a path names.
pub(super) fn named(path: &str) -> Option<Named> {
    let id = path.strip_prefix(MINE).or_else(|| path.strip_prefix(ALL)?.strip_prefix('/'))?;
    let (hex, call) = id.strip_prefix("apr_")?.split_once('_')?;
    let turn = turns::named(&format!("{}req_{hex}", turns::PATH))?;
    Some(Named { turn, call: call.parse().ok()? })
}

/// The id of a question.
pub(super) fn id_of(turn: &str, call: u32) -> String {
    format!("apr_{}_{call}", turn.trim_start_matches("req_"))
}

/// What the store was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) store_id: u32,
    /// What is said, once it is known what was shown.
    word: Option<Word>,
    /// It has been said.
    said: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Word {
    approves: bool,
    grant: String,
}

impl Asked {
    /// Whether a word may be lost.
    pub(super) fn said(&self) -> bool {
        self.said
    }
}

impl Exchange {
    /// Whose turns may be seen: `None` is an operator, who sees all.
    fn viewer(&self) -> Option<String> {
        (!self.facts.route.is_operators()).then(|| self.owner())
    }

    /// What stands for whoever decides.
    fn decider(&self) -> String {
        match &self.facts.caller {
            Caller::Key(id) if self.facts.route.is_operators() => format!("operator:{id}"),
            _ => self.owner(),
        }
    }

    /// `GET` of a question, or of the list of all.
    pub(super) fn show_approvals(&mut self, policy: &Policy, now: Moment) {
        self.story.subject = Some(self.decider());
        if self.facts.approval.is_none() && self.facts.route.is_operators() {
            let asked = Asked { store_id: self.take_id(), word: None, said: false };
            return self.ask_approvals(asked, LIST.to_owned(), Op::List, now);
        }
        self.look_at_question(policy, None, now);
    }

    /// `POST`: `{"decision": "approve" or "refuse", "grant": "…"}`.
    pub(super) fn decide(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        struct Body {
            decision: String,
            #[serde(default)]
            grant: String,
        }
        self.story.subject = Some(self.decider());
        let Ok(Body { decision, grant }) = json::object::<Body>(body) else {
            let message = "body: send {\"decision\": \"approve\" or \"refuse\", \"grant\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let approves = match decision.as_str() {
            "approve" => true,
            "refuse" => false,
            _ => {
                let message = "decision: use approve or refuse";
                return self.fail(policy, &Failure::new(Code::DecisionUnknown, message), now);
            }
        };
        self.look_at_question(policy, Some(Word { approves, grant }), now);
    }

    fn look_at_question(&mut self, policy: &Policy, word: Option<Word>, now: Moment) {
        let Some(named) = self.facts.approval.clone() else { return self.fail(policy, &unknown(), now) };
        let watch = Watch { owner: self.viewer(), ticket: 0, awaited: Awaited::Nothing, after: u32::MAX };
        let asked = Asked { store_id: self.take_id(), word, said: false };
        self.ask_approvals(asked, turns::cell(&named.turn), Op::Turn(TurnOp::Watch(watch)), now);
    }

    fn ask_approvals(&mut self, asked: Asked, key: String, op: Op, now: Moment) {
        self.outputs.push_back(Output::Store { id: asked.store_id, ops: vec![(key, op)] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Approvals(Box::new(asked));
    }

    pub(super) fn in_approvals(
        &mut self,
        policy: &Policy,
        asked: Box<Asked>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == asked.store_id => {
                self.timers.store = None;
                match outcomes.first() {
                    Some(Outcome::Listed(entries)) => self.list_approvals(policy, entries, now),
                    Some(Outcome::Turn(TurnOutcome::Seen(view))) => {
                        self.question_seen(policy, *asked, view, now);
                    }
                    Some(Outcome::Turn(TurnOutcome::Decided(decided))) => self.decided(policy, *decided, now),
                    _ => self.fail(policy, &unknown(), now),
                }
            }
            Input::StoreFailed { id } if *id == asked.store_id => {
                self.approvals_not_read(policy, asked.said, now);
            }
            _ => self.phase = Phase::Approvals(asked),
        }
    }

    pub(super) fn approvals_not_read(&mut self, policy: &Policy, said: bool, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let message = if said { "the decision may be lost; send it again" } else { "it cannot be read now" };
        self.fail(policy, &Failure::new(Code::StoreUnavailable, message).after(2), now);
    }

    fn list_approvals(&mut self, policy: &Policy, entries: &[Entry], now: Moment) {
        let waiting: Vec<Value> = entries
            .iter()
            .map(|entry| {
                let note = serde_json::from_str::<Value>(&entry.note).unwrap_or_default();
                json!({"approvalId": entry.id, "expiresAt": record::timestamp(entry.until_ms), "about": note})
            })
            .collect();
        self.respond_json(policy, 200, json!({"approvals": waiting}).to_string(), now);
    }

    fn question_seen(&mut self, policy: &Policy, asked: Asked, view: &View, now: Moment) {
        let Some(named) = self.facts.approval.clone() else { return self.fail(policy, &unknown(), now) };
        let Some(approval) = view.approval.as_ref().filter(|approval| approval.call == named.call) else {
            let failure =
                Failure::new(Code::ApprovalGone, "nothing is asked here any more; look at the turn");
            return self.fail(policy, &failure, now);
        };
        let Some(word) = asked.word else {
            let shown = self.approval_shown(policy, &named.turn, view);
            return self.respond_json(policy, 200, shown.to_string(), now);
        };
        // A no needs no proof of what was seen.
        if word.approves && !self.grant_is_valid(policy, &named.turn, approval, &word.grant, now) {
            let message = "grant: not the one that was shown with this question to this person, or too old; \
                           get the question again";
            return self.fail(policy, &Failure::new(Code::GrantInvalid, message), now);
        }
        self.story.tool = Some(approval.tool.clone());
        self.story.approves = Some(word.approves);
        self.story.shown = Some(auth::hex(&approval.digest[..8]));
        let decide = Decide {
            owner: self.viewer(),
            call: named.call,
            digest: approval.digest,
            by: self.decider(),
            approves: word.approves,
        };
        let asked = Asked { store_id: self.take_id(), word: None, said: true };
        self.ask_approvals(asked, turns::cell(&named.turn), Op::Turn(TurnOp::Decide(decide)), now);
    }

    fn decided(&mut self, policy: &Policy, decided: Decided, now: Moment) {
        let Some(named) = self.facts.approval.clone() else { return };
        self.story.decided = Some(format!("{decided:?}").to_lowercase());
        let (state, complete) = match decided {
            Decided::Waiting => ("waiting", false),
            Decided::Now(verdict) => (word(verdict), true),
            Decided::Before(verdict) => {
                let message = format!("it was {} before", word(verdict));
                return self.fail(policy, &Failure::new(Code::ApprovalGone, message), now);
            }
            Decided::Void => {
                let failure =
                    Failure::new(Code::ApprovalGone, "something else is asked now; look at the turn");
                return self.fail(policy, &failure, now);
            }
            Decided::Late => {
                return self.fail(policy, &Failure::new(Code::ApprovalGone, "the time for it is over"), now);
            }
            Decided::NotAsked => {
                let failure = Failure::new(Code::ApprovalForbidden, "somebody else is asked");
                return self.fail(policy, &failure, now);
            }
        };
        if complete {
            self.tell(LIST.to_owned(), Op::Delist { id: id_of(&named.turn, named.call) });
        }
        let body = json!({
            "approvalId": id_of(&named.turn, named.call), "requestId": named.turn,
            "traceId": self.facts.trace_id, "decision": state,
        });
        self.respond_json(policy, 200, body.to_string(), now);
    }

    /// A question as whoever asks for it sees it.
    pub(super) fn approval_shown(&self, policy: &Policy, turn: &str, view: &View) -> Value {
        let Some(approval) = &view.approval else { return Value::Null };
        let description = policy.catalog.tool(&approval.tool).map(|tool| tool.description.as_str());
        // The grant's time counts from when the request came.
        let until_ms = approval.until_ms.min(self.facts.started_ms.saturating_add(GRANT));
        json!({
            "approvalId": id_of(turn, approval.call),
            "requestId": turn,
            "tool": approval.tool,
            "description": description,
            "arguments": serde_json::from_str::<Value>(&approval.arguments).unwrap_or_default(),
            "sha256": auth::hex(&approval.digest),
            "need": approval.need,
            "given": approval.given.len(),
            "expiresAt": record::timestamp(approval.until_ms),
            "grant": self.grant(policy, turn, approval, until_ms),
        })
    }

    /// Proves that this question, with these arguments, was shown to this person.
    fn grant(&self, policy: &Policy, turn: &str, approval: &Approval, until_ms: u64) -> String {
        let call = format!("{}/{}/{until_ms}", turn, approval.call);
        let shown = auth::hex(&approval.digest);
        format!("{until_ms}.{}", auth::grant(policy, &[&self.decider(), &call, &approval.tool, &shown]))
    }

    fn grant_is_valid(
        &self,
        policy: &Policy,
        turn: &str,
        approval: &Approval,
        grant: &str,
        now: Moment,
    ) -> bool {
        let until_ms = grant.split_once('.').and_then(|(until, _)| until.parse::<u64>().ok()).unwrap_or(0);
        let expected = self.grant(policy, turn, approval, until_ms);
        until_ms > now.unix_ms && auth::is_same(&expected, grant)
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Approved => "approved",
        Verdict::Refused => "refused",
    }
}
