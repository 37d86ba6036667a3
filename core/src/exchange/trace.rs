//! `GET /v1/admin/trace/{id}`: what became of one request, by its trace id or its own id.
//!
//! The audit ledger tells it; what is still known of a turn that outlived its connection is added. Nothing
//! may be shown here that is not in the ledger, but for how the turn stands.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::{Exchange, Phase, approvals, feedback, gates::STORE_PATIENCE, record, turns};
use crate::{
    ledger,
    policy::Policy,
    seam::{Find, Input, Moment, Output},
    state::{
        Op, Outcome,
        turn::{Awaited, TurnOp, TurnOutcome, View, Watch},
    },
    wire::{
        failure::{Code, Failure},
        is_trace_id,
    },
};

/// What precedes the id in the path.
pub(super) const PATH: &str = "/v1/admin/trace/";

/// The trace or the request that a path names.
pub(super) fn asked_for(path: &str) -> Option<Find> {
    let id = path.strip_prefix(PATH)?;
    is_trace_id(id).then(|| Find::About(id.to_owned()))
}

/// What the ledger has, while the store is asked for the turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Found {
    pub(super) store_id: u32,
    lines: ByteBuf,
}

/// The records in lines of the ledger.
pub(super) fn records(lines: &[u8]) -> Vec<Value> {
    let lines = core::str::from_utf8(lines).unwrap_or_default().lines();
    lines.filter_map(|line| serde_json::from_str(ledger::record(line)?).ok()).collect()
}

impl Exchange {
    pub(super) fn trace_found(&mut self, policy: &Policy, lines: ByteBuf, now: Moment) {
        let found = records(&lines);
        if found.is_empty() {
            let message =
                "nothing is known of it; a record may come a moment later, and goes when its time is over";
            return self.fail(policy, &Failure::new(Code::TraceUnknown, message), now);
        }
        let turn = found.iter().find(|record| record["kind"] == "turn");
        let turn = turn.and_then(|record| record["requestId"].as_str()).and_then(turns::of_request);
        let Some(turn) = turn else {
            let found = Found { store_id: 0, lines };
            return self.tell_trace(policy, &found, None, now);
        };
        let watch = Watch { owner: None, ticket: 0, awaited: Awaited::Nothing, after: u32::MAX };
        let ops = vec![(turns::cell(&turn), Op::Turn(TurnOp::Watch(watch)))];
        let store_id = self.take_id();
        self.outputs.push_back(Output::Store { id: store_id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Trace(Box::new(Found { store_id, lines }));
    }

    pub(super) fn in_trace(&mut self, policy: &Policy, found: Box<Found>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == found.store_id => {
                let view = match outcomes.first() {
                    Some(Outcome::Turn(TurnOutcome::Seen(view))) => Some(&**view),
                    _ => None,
                };
                self.tell_trace(policy, &found, view, now);
            }
            Input::StoreFailed { id } if *id == found.store_id => self.tell_trace(policy, &found, None, now),
            _ => self.phase = Phase::Trace(found),
        }
    }

    /// What is known, with the turn or without it.
    pub(super) fn tell_trace(&mut self, policy: &Policy, found: &Found, view: Option<&View>, now: Moment) {
        self.timers.store = None;
        let records = records(&found.lines);
        let turn = records.iter().find(|record| record["kind"] == "turn");
        let turn = turn.and_then(|record| record["requestId"].as_str());
        let turn = turn.zip(view).map(|(id, view)| show(id, view));
        let body = json!({"turn": turn, "feedback": feedback::of_trace(&records), "records": records});
        self.respond_json(policy, 200, body.to_string(), now);
    }
}

/// How a turn stands, without a word of what was said in it.
fn show(id: &str, view: &View) -> Value {
    let approval = view.approval.as_ref().map(|approval| {
        json!({
            "approvalId": approvals::id_of(id, approval.call),
            "tool": approval.tool,
            "need": approval.need,
            "given": approval.given.len(),
            "expiresAt": record::timestamp(approval.until_ms),
        })
    });
    json!({
        "requestId": id,
        "state": view.state,
        "since": record::timestamp(view.created_ms),
        "status": view.ended.as_ref().map(|ended| ended.status),
        "approval": approval,
    })
}
