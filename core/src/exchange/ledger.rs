//! `GET /v1/admin/audit`: lines of the audit ledger, as they are, for whoever checks or searches it.

use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    gates::{Caller, STORE_PATIENCE},
    routes::Route,
};
use crate::{
    policy::Policy,
    seam::{Find, Input, Moment, Output},
    state::Outcome,
    wire::{
        failure::{Code, Failure},
        is_trace_id,
    },
};

/// What a query asks for: `about=ID` of a trace or a request, or `after=NUMBER` of a line.
pub(super) fn asked_for(query: &str) -> Option<Find> {
    query.split('&').find_map(|pair| match pair.split_once('=')? {
        ("about", id) => is_trace_id(id).then(|| Find::About(id.to_owned())),
        ("after", number) => number.parse().ok().map(Find::After),
        _ => None,
    })
}

impl Exchange {
    pub(super) fn look_into_ledger(&mut self, policy: &Policy, now: Moment) {
        if let Caller::Key(id) = &self.facts.caller {
            self.story.subject = Some(id.clone());
        }
        let Some(find) = self.facts.find.clone() else {
            let message = "send about=ID, of a trace or a request, or after=NUMBER, 0 for the first lines";
            return self.fail(policy, &Failure::new(Code::InputInvalid, message), now);
        };
        let id = self.take_id();
        self.outputs.push_back(Output::Ledger { id, find });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Ledger(id);
    }

    pub(super) fn in_ledger(&mut self, policy: &Policy, asked: u32, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == asked => {
                self.timers.store = None;
                match outcomes.first() {
                    Some(Outcome::Value(lines)) => {
                        let lines = lines.clone().unwrap_or_else(ByteBuf::new);
                        if self.facts.route == Route::Trace {
                            return self.trace_found(policy, lines, now);
                        }
                        let kind = vec![("content-type".into(), "application/x-ndjson".into())];
                        self.respond_with(policy, 200, kind, lines, now);
                    }
                    _ => self.ledger_not_read(policy, now),
                }
            }
            Input::StoreFailed { id } if *id == asked => self.ledger_not_read(policy, now),
            _ => self.phase = Phase::Ledger(asked),
        }
    }

    pub(super) fn ledger_not_read(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let message = "the audit ledger cannot be read, or this host has none";
        self.fail(policy, &Failure::new(Code::StoreUnavailable, message), now);
    }
}
