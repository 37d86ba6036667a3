//! The gates of a turn: who asks, how often, and whether OpenClaw has room.
//!
//! One list of operations asks the store for all of them; the list stops at the first that
//! says no. A turn that another exchange runs is made after them, with what they said of the caller.
//! What a gate decides is the reducers' and the policy's; this file puts the question and reads the
//! answer. A lease that was taken here is given back wherever the exchange ends.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Facts, Phase,
    chat::Waiting,
    inspection::{self, Inspection, Progress},
    queue::{LEASE_RENEWAL, QUEUE_REFRESH, refused},
    standing::{self, blocked, too_many},
};
use crate::{
    policy::{Policy, StoreFailure, auth},
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        budget::Cap,
        cache::{Found, Lookup},
        caller::{Enter, Rate, Standing},
    },
    wire::{
        answer::Warning,
        chat,
        failure::{Code, Failure},
    },
};

/// Milliseconds after which a store that does not answer counts as one that failed.
pub(super) const STORE_PATIENCE: u64 = 2_000;
/// What a restricted caller's turn is told. The agent's own tools are not ours to switch off.
const EXPLAIN_ONLY: &str = "For this request only explain in words. Do not call any tool, do not run \
    anything, do not change or send anything, even if the user asks for it.";

/// Who is asking, as far as a credential says so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Caller {
    /// Nobody in particular: no key is asked for in dev.
    #[default]
    Anyone,
    /// Whoever has one of the client keys, or of the admin keys: its keyed hash.
    Key(String),
    /// A person who logged in.
    Session {
        /// The keyed hash that stands for the person.
        subject: String,
        /// The role in the token.
        role: String,
        /// When the person logged in, in seconds since 1970.
        login_s: u64,
        /// The id of the key that signed the token.
        signer: String,
    },
}

/// Which operation an outcome belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Gate {
    /// The key that signed the caller's token.
    Signer,
    /// The caller's own rate and standing.
    User,
    /// The address's: whoever has only a shared key may call itself anything.
    Address,
    /// The shared key's.
    Key,
    /// An answer that is kept.
    Cache,
    /// A part of the day's tokens, of the person's or of the role's.
    Budget,
    /// The slot of an attempt that is over.
    Release,
    /// The upstream's slots.
    Upstream,
    /// The turn that another exchange runs.
    Create,
}

/// What is asked about the key that signed a token: whether it was revoked. The same cell and
/// operation as a person's, and no claim of the token decides anything: who has the key writes
/// what they want into it.
pub(super) fn ask_signer(id: &str) -> (String, Op) {
    (signer_cell(id), Op::Enter(Enter { login_s: 1, ..Enter::default() }))
}

/// The cell of a signing key.
pub(super) fn signer_cell(id: &str) -> String {
    format!("signer:{id}")
}

impl Facts {
    /// The address's cell. All addresses of an IPv6 subscriber are one.
    pub(super) fn address_key(&self, policy: &Policy) -> String {
        format!("addr:{}", self.address(policy))
    }

    /// A keyed hash of the address.
    pub(super) fn address(&self, policy: &Policy) -> String {
        let address = match self.client.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
            Ok(IpAddr::V6(v6)) => format!("{:x?}", &v6.segments()[..4]),
            Ok(v4) => v4.to_string(),
            Err(_) => self.client.clone(),
        };
        auth::subject(policy, "address", &address)
    }
}

impl Exchange {
    /// Asks all gates, or goes on where there are none.
    pub(super) fn ask_gates(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        let mut ops = Vec::with_capacity(6);
        let mut gate = |gate, key: String, op| {
            waiting.gates.push(gate);
            ops.push((key, op));
        };
        let (role, is_session, login_s) = match &self.facts.caller {
            Caller::Session { role, login_s, .. } => (policy.role(role), true, *login_s),
            _ => (policy.role(""), false, 0),
        };
        if let Caller::Session { signer, .. } = &self.facts.caller {
            // First, so that a forged token costs nobody anything: not a person whom it names, and
            // no slot. The list stops here.
            let (key, op) = ask_signer(signer);
            gate(Gate::Signer, key, op);
        }
        let abuse = policy.abuse;
        if role.rate.is_some() || abuse.block > 0 || is_session {
            let subject = self.story.subject.as_deref().unwrap_or_default();
            let enter = Enter {
                rate: role.rate,
                cost: waiting.weight.cost,
                thresholds: abuse,
                // An address stands for many people: what they repeat together is no repetition.
                fingerprint: if waiting.named { self.facts.fingerprint } else { 0 },
                bytes: if waiting.named {
                    u32::try_from(self.facts.body_bytes).unwrap_or(u32::MAX)
                } else {
                    0
                },
                refusal_points: u16::from(waiting.named),
                login_s,
            };
            gate(Gate::User, format!("user:{subject}"), Op::Enter(enter));
        }
        let enter = |rate| Enter { rate, cost: 1, ..Enter::default() };
        waiting.explain_only = self.facts.restricted;
        // Where guesses are counted it was asked at the door.
        let by_address = !is_session && self.robot.is_none();
        if by_address && policy.rates.address.is_some() && abuse.block == 0 {
            let key = self.facts.address_key(policy);
            gate(Gate::Address, key, Op::Enter(enter(policy.rates.address)));
        }
        if let (Some(rate), Caller::Key(id)) = (policy.rates.key, &self.facts.caller) {
            gate(Gate::Key, format!("key:{id}"), Op::Enter(enter(Some(rate))));
        }
        if self.durable.is_some() {
            // Whoever runs the turn asks for the rest, and is told what is found out here about the
            // caller: a restricted one's turn is offered no tools. So it is made after that.
        } else if let Some(shelf) = &waiting.cache {
            let lookup = self.lookup(policy);
            gate(Gate::Cache, shelf.key.clone(), Op::Lookup(lookup));
        } else if waiting.text.is_none() && waiting.curated.is_none() {
            // A text that is to be checked takes no slot meanwhile, and an answer that is there needs none.
            self.want_turn(policy, &mut waiting, &mut ops);
        }
        if ops.is_empty() {
            return self.go_on(policy, waiting, now);
        }
        self.store(Box::new(waiting), ops, now);
    }

    /// Adds what a turn of the model's needs: a part of the day's tokens, and a slot.
    fn want_turn(&mut self, policy: &Policy, waiting: &mut Waiting, ops: &mut Vec<(String, Op)>) {
        for (key, reserve) in self.reservations(policy, waiting.tokens) {
            waiting.gates.push(Gate::Budget);
            ops.push((key, Op::Reserve(reserve)));
        }
        self.want_lease(policy, waiting, ops);
    }

    /// The callers' gates are passed: the text is checked where that is wanted, then the lease
    /// is asked for where it was not yet.
    fn go_on(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        if self.durable.is_some() {
            return self.make_turn(policy, Box::new(waiting), now);
        }
        if let Some(answer) = waiting.curated.take() {
            return self.give_kept(policy, waiting, answer, now);
        }
        if waiting.cache.is_some() && waiting.text.is_none() && !self.dues.asked_for_turn {
            return self.after_check(policy, waiting, now);
        }
        let Some(text) = waiting.text.take() else { return self.ask(policy, waiting, now) };
        let pictures = std::mem::take(&mut waiting.pictures);
        match self.inspect_all(policy, &text, pictures, now) {
            Ok(Some(inspection)) => self.phase = Phase::CheckText(inspection, Box::new(waiting)),
            Ok(None) => self.after_check(policy, waiting, now),
            Err(()) => self.fail(policy, &inspection::unchecked(), now),
        }
    }

    /// A turn whose caller's gates were passed before begins here.
    pub(super) fn begin_run(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        waiting.explain_only = self.facts.restricted;
        if let Some(shelf) = waiting.cache.as_ref().filter(|_| waiting.curated.is_none()) {
            let ops = vec![(shelf.key.clone(), Op::Lookup(self.lookup(policy)))];
            waiting.gates = vec![Gate::Cache];
            return self.store(Box::new(waiting), ops, now);
        }
        if waiting.text.is_none() && waiting.curated.is_none() {
            return self.after_check(policy, waiting, now);
        }
        self.go_on(policy, waiting, now);
    }

    fn after_check(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        let mut ops = Vec::new();
        self.dues.asked_for_turn = true;
        self.want_turn(policy, &mut waiting, &mut ops);
        if ops.is_empty() {
            return self.ask(policy, waiting, now);
        }
        self.store(Box::new(waiting), ops, now);
    }

    pub(super) fn in_text_check(
        &mut self,
        policy: &Policy,
        mut inspection: Box<Inspection>,
        waiting: Box<Waiting>,
        input: &Input<'_>,
        now: Moment,
    ) {
        let progress = self.inspect_on(policy, &mut inspection, input, now);
        self.text_checked(policy, progress, inspection, waiting, now);
    }

    pub(super) fn text_checked(
        &mut self,
        policy: &Policy,
        progress: Progress,
        inspection: Box<Inspection>,
        waiting: Box<Waiting>,
        now: Moment,
    ) {
        match progress {
            Progress::Passed => self.after_check(policy, *waiting, now),
            Progress::Refused => self.fail(policy, &inspection::refused(), now),
            Progress::Unchecked => self.fail(policy, &inspection::unchecked(), now),
            Progress::Waiting | Progress::NotMine => self.phase = Phase::CheckText(inspection, waiting),
        }
    }

    pub(super) fn store(&mut self, mut waiting: Box<Waiting>, ops: Vec<(String, Op)>, now: Moment) {
        waiting.store_id = self.take_id();
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.outputs.push_back(Output::Store { id: waiting.store_id, ops });
        self.phase = Phase::Gates(waiting);
    }

    /// The gates have answered.
    pub(super) fn in_gates(&mut self, policy: &Policy, waiting: Box<Waiting>, input: Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if id == waiting.store_id => {
                self.timers.store = None;
                self.pass_gates(policy, waiting, outcomes, now);
            }
            Input::StoreFailed { id } if id == waiting.store_id => self.store_failed(policy, *waiting, now),
            _ => self.phase = Phase::Gates(waiting),
        }
    }

    fn pass_gates(
        &mut self,
        policy: &Policy,
        mut waiting: Box<Waiting>,
        outcomes: Vec<Outcome>,
        now: Moment,
    ) {
        let gates = std::mem::take(&mut waiting.gates);
        for (gate, outcome) in gates.iter().zip(&outcomes) {
            match outcome {
                Outcome::Entered { .. } => {
                    if let Err((failure, headers)) = self.entered(policy, *gate, &mut waiting, outcome) {
                        if outcomes.len() < gates.len() {
                            // The list stopped here, before anybody was asked for a lease.
                            self.lease = None;
                        }
                        return self.fail_with(policy, &failure, headers, now);
                    }
                }
                Outcome::Admitted if *gate == Gate::Upstream => {}
                Outcome::AdmittedTo { replica } if *gate == Gate::Upstream => {
                    waiting.fetch.upstream = format!("{}#{replica}", waiting.weight.upstream);
                    self.leased_at(*replica);
                }
                _ if *gate == Gate::Release => {}
                Outcome::Cached(found) if *gate == Gate::Cache => {
                    self.dues.waits = None;
                    match found {
                        Found::Hit { value, .. } => {
                            let answer = String::from_utf8_lossy(value).into_owned();
                            return self.give_kept(policy, *waiting, answer, now);
                        }
                        Found::Wait => {
                            self.outputs.push_back(Output::Watch { id: waiting.store_id });
                            self.timers.queue = Some(now.unix_ms + QUEUE_REFRESH);
                            self.dues.waits = waiting.cache.clone();
                            self.phase = Phase::Shared(waiting);
                            return;
                        }
                        Found::Lead => self.dues.lead = waiting.cache.clone(),
                        Found::Miss => {}
                    }
                }
                Outcome::Reserved { tokens, .. } if *gate == Gate::Budget => {
                    self.reserved(&mut waiting, *tokens);
                }
                Outcome::Exhausted { cap, retry_after_ms } if *gate == Gate::Budget => {
                    self.lease = None;
                    return self.fail(policy, &exhausted(*cap, *retry_after_ms), now);
                }
                Outcome::Turn(outcome) if *gate == Gate::Create => {
                    return self.created(policy, *waiting, outcome, now);
                }
                Outcome::Queued { .. } if *gate == Gate::Upstream => {
                    self.outputs.push_back(Output::Watch { id: waiting.store_id });
                    self.timers.queue = Some(now.unix_ms + QUEUE_REFRESH);
                    self.story.queued = true;
                    self.phase = Phase::Queue(waiting);
                    return;
                }
                Outcome::Refused { reason, retry_after_ms, waiting: others } if *gate == Gate::Upstream => {
                    self.lease = None;
                    let failure = refused(*reason, *retry_after_ms, *others);
                    return self.not_admitted(policy, *waiting, &failure, now);
                }
                _ => return self.store_failed(policy, *waiting, now),
            }
        }
        if outcomes.len() < gates.len() {
            return self.store_failed(policy, *waiting, now);
        }
        self.go_on(policy, *waiting, now);
    }

    /// One caller's answer: go on, or a refusal with its headers.
    fn entered(
        &mut self,
        policy: &Policy,
        gate: Gate,
        waiting: &mut Waiting,
        outcome: &Outcome,
    ) -> Result<(), (Failure, Vec<(String, String)>)> {
        let Outcome::Entered { granted, remaining, retry_after_ms, full_after_ms, standing, revoked, .. } =
            outcome
        else {
            return Ok(());
        };
        self.notice(outcome);
        if *revoked {
            return Err((standing::revoked(), Vec::new()));
        }
        let role = match &self.facts.caller {
            Caller::Session { role, .. } => role,
            _ => "",
        };
        self.rate_headers(gate, policy.role(role).rate, waiting, *remaining, *full_after_ms);
        match standing {
            Standing::Blocked { for_ms } => return Err((blocked(*for_ms), vec![])),
            Standing::Restricted => {
                waiting.explain_only = true;
                self.facts.restricted = true;
            }
            Standing::Slowed | Standing::Good => {}
        }
        if *granted {
            return Ok(());
        }
        let what = match gate {
            Gate::User => "requests",
            Gate::Address => "requests from this address",
            _ => "requests with this key",
        };
        Err((too_many(what, *retry_after_ms), std::mem::take(&mut waiting.turn.rate_headers)))
    }

    /// The caller's own limit is what the client is told.
    fn rate_headers(&self, gate: Gate, rate: Option<Rate>, waiting: &mut Waiting, left: u32, full_ms: u64) {
        if let (Gate::User, Some(rate)) = (gate, rate) {
            waiting.turn.rate_headers = vec![
                ("ratelimit-limit".into(), rate.burst.to_string()),
                ("ratelimit-remaining".into(), left.to_string()),
                ("ratelimit-reset".into(), full_ms.div_ceil(1000).to_string()),
            ];
        }
    }

    /// How an answer that is kept is looked for.
    fn lookup(&self, policy: &Policy) -> Lookup {
        let lead_ms = u32::try_from(policy.deadlines.turn + 5_000).unwrap_or(u32::MAX);
        Lookup { ticket: self.facts.ticket, lead_ms, places: policy.admission.places }
    }

    /// Waits for somebody else's answer: woken, or time to look again.
    pub(super) fn in_shared(
        &mut self,
        policy: &Policy,
        waiting: Box<Waiting>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Woken { id } if *id == waiting.store_id => self.look_again(policy, waiting, now),
            _ => self.phase = Phase::Shared(waiting),
        }
    }

    pub(super) fn look_again(&mut self, policy: &Policy, mut waiting: Box<Waiting>, now: Moment) {
        self.timers.queue = None;
        waiting.gates = vec![Gate::Cache];
        let key = waiting.cache.as_ref().map(|shelf| shelf.key.clone()).unwrap_or_default();
        let ops = vec![(key, Op::Lookup(self.lookup(policy)))];
        self.store(waiting, ops, now);
    }

    pub(super) fn store_failed(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        if self.durable.is_some() {
            if waiting.gates.contains(&Gate::Create) && self.facts.idempotency_key.is_none() {
                // Its answer may be all that was lost. Who asks again without a key would have two.
                self.end_turn(&self.facts.request_id.clone());
            }
            return self.not_created(policy, now);
        }
        match policy.store_failure {
            StoreFailure::Open => self.go_on(policy, waiting, now),
            StoreFailure::Closed => {
                let failure = Failure::new(Code::StoreUnavailable, "the limits cannot be checked now");
                self.fail(policy, &failure.after(5), now);
            }
        }
    }

    /// The last stage before OpenClaw.
    pub(super) fn restrict(&mut self, waiting: &mut Waiting, now: Moment) {
        if waiting.explain_only {
            let (api, at) = (waiting.turn.api, waiting.system_at);
            chat::instruct(&mut waiting.fetch.body, api, at, EXPLAIN_ONLY);
        }
        // A turn in which a call was refused explains too, and its caller did nothing unusual.
        if waiting.explain_only && self.facts.restricted {
            waiting.turn.warn(Warning::ExplainOnly);
            if !self.story.warnings.contains(&Warning::ExplainOnly) {
                self.story.warnings.push(Warning::ExplainOnly);
            }
        }
        if self.lease.is_some() {
            self.timers.lease = Some(now.unix_ms + LEASE_RENEWAL);
        }
    }

    /// An operation that nobody waits for.
    pub(super) fn tell(&mut self, key: String, op: Op) {
        self.outputs.push_back(Output::Store { id: 0, ops: vec![(key, op)] });
    }
}

fn exhausted(cap: Cap, retry_after_ms: u64) -> Failure {
    let what = match cap {
        Cap::Requests => "requests",
        Cap::Tokens => "tokens",
    };
    let seconds = retry_after_ms.div_ceil(1000).max(1);
    Failure::new(Code::BudgetExhausted, format!("today's {what} are used up; the day ends in {seconds} s"))
        .after(seconds)
}
