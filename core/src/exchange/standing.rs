//! The standing of whoever asks: what is held against an address or a person, and what a credential
//! that is not valid costs.
//!
//! Whether an address is blocked is found out before anything is said about a credential, so that a
//! blocked guesser learns nothing from any answer.

use super::{
    Exchange,
    credential::Rejected,
    gates::{Caller, STORE_PATIENCE, ask_signer},
    operators,
    phase::Phase,
    routes::Route,
};
use crate::{
    policy::{Policy, StoreFailure},
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        caller::{Enter, Standing, Strike},
    },
    wire::failure::{Code, Failure},
};

/// Points for a request that cannot be valid, and for a credential that is not.
const INVALID_POINTS: u16 = 1;
const UNAUTHORIZED_POINTS: u16 = 5;
const LOGIN_POINTS: u16 = 3;

impl Exchange {
    /// What is asked about the address of a right key before anything else is done: a guesser
    /// who is blocked sees no difference between the right key and the others, not in an
    /// answer about the rest of the request and not in whether its body is read. A token cannot
    /// be guessed, and many phones share an address: it is let in from anywhere.
    /// But it may have been revoked, which the gates ask for those who begin a turn and the door for
    /// those who come back to one.
    pub(super) fn door(&self, policy: &Policy) -> Vec<(String, Op)> {
        if let Some(operator) = &self.facts.operator {
            // Its cookie cannot be guessed either, but it may have been given back.
            return vec![operators::ask_session(&operator.session)];
        }
        if let Caller::Session { signer, subject, login_s, .. } = &self.facts.caller {
            if !self.facts.route.is_about_a_turn() {
                return Vec::new();
            }
            let enter = Enter { login_s: *login_s, ..Enter::default() };
            return vec![ask_signer(signer), (format!("user:{subject}"), Op::Enter(enter))];
        }
        let rate = match self.facts.route {
            Route::Chat | Route::Ask | Route::Rate => policy.rates.address,
            route if route.is_about_a_turn() || route.is_operators() => None,
            _ => return Vec::new(),
        };
        if policy.abuse.block == 0 {
            return Vec::new();
        }
        let enter = Enter { rate, cost: 1, thresholds: policy.abuse, ..Enter::default() };
        vec![(self.facts.address_key(policy), Op::Enter(enter))]
    }

    pub(super) fn ask_door(&mut self, ops: Vec<(String, Op)>, flaw: Option<Failure>) {
        let store_id = self.take_id();
        self.outputs.push_back(Output::Store { id: store_id, ops });
        self.timers.store = Some(self.facts.started_ms + STORE_PATIENCE);
        self.phase = Phase::Door(store_id, flaw);
    }

    pub(super) fn in_door(
        &mut self,
        policy: &Policy,
        store_id: u32,
        flaw: Option<Failure>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == store_id => {
                self.timers.store = None;
                // The list ends at the first that says no.
                match outcomes.last() {
                    Some(Outcome::Entered { standing: Standing::Blocked { for_ms }, .. }) => {
                        self.fail(policy, &blocked(*for_ms), now);
                    }
                    Some(Outcome::Entered { revoked: true, .. }) => {
                        let failure = match self.facts.operator {
                            Some(_) => operators::logged_out(),
                            None => revoked(),
                        };
                        self.refuse_credential(policy, &failure, now);
                    }
                    Some(Outcome::Entered { granted: false, retry_after_ms, .. }) => {
                        self.fail(policy, &too_many("requests from this address", *retry_after_ms), now);
                    }
                    Some(Outcome::Entered { standing, .. }) => {
                        self.facts.restricted = *standing == Standing::Restricted;
                        self.admitted(policy, flaw, now);
                    }
                    _ => self.door_failed(policy, flaw, now),
                }
            }
            Input::StoreFailed { id } if *id == store_id => self.door_failed(policy, flaw, now),
            _ => self.phase = Phase::Door(store_id, flaw),
        }
    }

    pub(super) fn door_failed(&mut self, policy: &Policy, flaw: Option<Failure>, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        match policy.store_failure {
            StoreFailure::Open => self.admitted(policy, flaw, now),
            StoreFailure::Closed => {
                let failure = Failure::new(Code::StoreUnavailable, "the limits cannot be checked now");
                self.fail(policy, &failure.after(5), now);
            }
        }
    }

    /// Counts a request that cannot be valid against whoever sent it.
    pub(super) fn strike(&mut self, policy: &Policy, code: Code) {
        // Whoever holds one of the operator's keys is not an abuser.
        if policy.abuse.block == 0 || !self.facts.route.is_guarded() || self.facts.route.is_operators() {
            return;
        }
        let points = match code {
            // Counted where it is found.
            Code::Unauthorized | Code::TokenInvalid | Code::TokenExpired => return,
            // Whoever looks too late for a turn is no abuser, and no id can be guessed.
            Code::TurnUnknown | Code::TraceUnknown | Code::ApprovalGone | Code::GrantInvalid => return,
            Code::LoginCodeInvalid | Code::LoginCodeUsed => LOGIN_POINTS,
            _ if code.is_clients_mistake() => INVALID_POINTS,
            _ => return,
        };
        let key = match (&self.facts.caller, &self.story.subject) {
            (Caller::Session { subject, .. }, _) | (_, Some(subject)) => format!("user:{subject}"),
            _ => self.facts.address_key(policy),
        };
        self.tell(key, Op::Strike(Strike { points, thresholds: policy.abuse }));
    }

    /// A credential that is not valid. Whether an address is blocked is found before it is said
    /// what is wrong, so that a blocked guesser learns nothing from the answer.
    pub(super) fn unauthorized(&mut self, policy: &Policy, rejected: Rejected, now: Moment) {
        let Rejected { failure, guessed } = rejected;
        if policy.abuse.block == 0 || !guessed {
            return self.refuse_credential(policy, &failure, now);
        }
        let strike = Strike { points: UNAUTHORIZED_POINTS, thresholds: policy.abuse };
        let store_id = self.take_id();
        let key = self.facts.address_key(policy);
        self.outputs.push_back(Output::Store { id: store_id, ops: vec![(key, Op::Strike(strike))] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Unauthorized(store_id, failure);
    }

    pub(super) fn in_unauthorized(
        &mut self,
        policy: &Policy,
        store_id: u32,
        failure: Failure,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == store_id => {
                if let Some(Outcome::Struck(Standing::Blocked { for_ms })) = outcomes.first() {
                    return self.fail(policy, &blocked(*for_ms), now);
                }
                self.refuse_credential(policy, &failure, now);
            }
            Input::StoreFailed { id } if *id == store_id => self.refuse_credential(policy, &failure, now),
            _ => self.phase = Phase::Unauthorized(store_id, failure),
        }
    }

    pub(super) fn refuse_credential(&mut self, policy: &Policy, failure: &Failure, now: Moment) {
        self.timers.store = None;
        // RFC 9110, 11.6.1: a 401 names the scheme.
        self.fail_with(policy, failure, vec![("www-authenticate".into(), "Bearer".into())], now);
    }
}

/// A token of a person, or by a key, that was revoked.
pub(super) fn revoked() -> Failure {
    Failure::new(Code::TokenInvalid, "the token was revoked; log in again")
}

pub(super) fn blocked(for_ms: u64) -> Failure {
    let seconds = for_ms.div_ceil(1000).max(1);
    let message = format!("blocked after too many refused or unusual requests; try again in {seconds} s");
    Failure::new(Code::Blocked, message).after(seconds)
}

pub(super) fn too_many(what: &str, retry_after_ms: u64) -> Failure {
    let seconds = retry_after_ms.div_ceil(1000).max(1);
    Failure::new(Code::RateLimited, format!("too many {what}; try again in {seconds} s")).after(seconds)
}
