//! The gates of a turn: who asks, how often, and whether OpenClaw has room.
//!
//! One list of operations asks the store for all of them; the list stops at the first that
//! says no. What a gate decides is the reducers' and the policy's; this file puts the question
//! and reads the answer. A lease that was taken here is given back wherever the exchange ends.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Facts, Phase,
    chat::Waiting,
    inspection::{self, Inspection, Progress},
    operators,
    routes::{Rejected, Route},
};
use crate::{
    policy::{Policy, StoreFailure, auth},
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        admission::{self, Admit, Refusal, Release, Verdict},
        budget::Cap,
        cache::{Found, Lookup},
        caller::{Enter, Rate, Standing, Strike},
    },
    wire::{
        answer::Warning,
        chat,
        failure::{Code, Failure},
    },
};

/// Milliseconds after which a store that does not answer counts as one that failed.
pub(super) const STORE_PATIENCE: u64 = 2_000;
/// Milliseconds after which a place in the queue is asked for again, which keeps it.
pub(super) const QUEUE_REFRESH: u64 = admission::PLACE_MS / 3;
/// Milliseconds after which a lease is renewed: twice in its life.
pub(super) const LEASE_RENEWAL: u64 = LEASE as u64 / 3;
/// A lease of a host that died ends after so many milliseconds.
pub(super) const LEASE: u32 = 15_000;
/// Points for a request that cannot be valid, and for a credential that is not.
const INVALID_POINTS: u16 = 1;
const UNAUTHORIZED_POINTS: u16 = 5;
const LOGIN_POINTS: u16 = 3;
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

/// A lease that is held or asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// The upstream's cell.
    pub(super) key: String,
    pub(super) ticket: u64,
    pub(super) flow: u64,
    pub(super) model: u64,
}

/// What precedes an upstream's name in the key of its cell.
const UPSTREAM: &str = "upstream:";

/// The cell of an upstream's slots.
pub(super) fn upstream_key(name: &str) -> String {
    format!("{UPSTREAM}{name}")
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
    /// What is asked about the address of a right key before anything else is done: a guesser
    /// who is blocked sees no difference between the right key and the others, not in an
    /// answer about the rest of the request and not in whether its body is read. A token cannot
    /// be guessed, and many phones share an address: it is let in from anywhere.
    pub(super) fn door(&self, policy: &Policy) -> Option<(String, Op)> {
        if let Some(operator) = &self.facts.operator {
            // Its cookie cannot be guessed either, but it may have been given back.
            return Some(operators::ask_session(&operator.session));
        }
        let by_key = !matches!(self.facts.caller, Caller::Session { .. });
        let rate = match self.facts.route {
            Route::Chat | Route::Ask | Route::Rate => policy.rates.address,
            Route::Turn | Route::TurnEvents | Route::CancelTurn | Route::Approval | Route::Decide => None,
            route if route.is_operators() => None,
            _ => return None,
        };
        let enter = Enter { rate, cost: 1, thresholds: policy.abuse, ..Enter::default() };
        (by_key && policy.abuse.block > 0).then(|| (self.facts.address_key(policy), Op::Enter(enter)))
    }

    pub(super) fn ask_door(&mut self, asks: (String, Op), flaw: Option<Failure>) {
        let store_id = self.take_id();
        let ops = vec![asks];
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
                match outcomes.first() {
                    Some(Outcome::Entered { standing: Standing::Blocked { for_ms }, .. }) => {
                        self.fail(policy, &blocked(*for_ms), now);
                    }
                    Some(Outcome::Entered { revoked: true, .. }) => {
                        self.refuse_credential(policy, &operators::logged_out(), now);
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
            // Whoever runs the turn asks for the rest.
            if let Some((gate, key, op)) = self.create(&waiting) {
                waiting.gates.push(gate);
                ops.push((key, op));
            }
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

    fn want_lease(&mut self, policy: &Policy, waiting: &mut Waiting, ops: &mut Vec<(String, Op)>) {
        if policy.admission.slots > 0 {
            let admit = self.admit(policy, waiting);
            let key = upstream_key(&waiting.weight.upstream);
            let Admit { ticket, flow, model, .. } = admit;
            self.lease = Some(Lease { key: key.clone(), ticket, flow, model });
            waiting.gates.push(Gate::Upstream);
            ops.push((key, Op::Admit(admit)));
        }
    }

    /// The callers' gates are passed: the text is checked where that is wanted, then the lease
    /// is asked for where it was not yet.
    fn go_on(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        if self.durable.is_some() {
            return self.keep_body(Box::new(waiting));
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

    /// Asks for the slot of another attempt, after the last one's is given back.
    pub(super) fn ask_slot(
        &mut self,
        policy: &Policy,
        mut waiting: Waiting,
        release: Option<(String, Op)>,
        now: Moment,
    ) {
        let mut ops = Vec::with_capacity(2);
        if let Some(release) = release {
            waiting.gates.push(Gate::Release);
            ops.push(release);
        }
        self.want_lease(policy, &mut waiting, &mut ops);
        if ops.is_empty() {
            return self.ask(policy, waiting, now);
        }
        self.store(Box::new(waiting), ops, now);
    }

    pub(super) fn store(&mut self, mut waiting: Box<Waiting>, ops: Vec<(String, Op)>, now: Moment) {
        waiting.store_id = self.take_id();
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.outputs.push_back(Output::Store { id: waiting.store_id, ops });
        self.phase = Phase::Gates(waiting);
    }

    fn admit(&self, policy: &Policy, waiting: &Waiting) -> Admit {
        let party = self.party();
        let role = match &self.facts.caller {
            Caller::Session { role, .. } => role,
            _ => "",
        };
        Admit {
            ticket: self.facts.ticket,
            flow: auth::number(party),
            weight: policy.role(role).weight,
            session: waiting.session.then(|| auth::number(party)),
            model: auth::number(&waiting.weight.model),
            give_up_ms: self.timers.turn.unwrap_or(u64::MAX),
            lease_ms: LEASE,
            slots: policy.slots_at(&waiting.weight.upstream),
            model_slots: waiting.weight.model_slots,
            places: policy.admission.places,
            replicas: policy.replicas(&waiting.weight.upstream),
            avoid: None,
        }
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
            let failure = Failure::new(Code::TokenInvalid, "the token was revoked; log in again");
            return Err((failure, Vec::new()));
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

    /// In the queue: woken, or time to say that one is still there.
    pub(super) fn in_queue(
        &mut self,
        policy: &Policy,
        waiting: Box<Waiting>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Woken { id } if *id == waiting.store_id => self.ask_again(policy, waiting, now),
            _ => self.phase = Phase::Queue(waiting),
        }
    }

    /// Asks for the lease again, by the same ticket.
    pub(super) fn ask_again(&mut self, policy: &Policy, mut waiting: Box<Waiting>, now: Moment) {
        self.timers.queue = None;
        waiting.gates = vec![Gate::Upstream];
        let key = upstream_key(&waiting.weight.upstream);
        let ops = vec![(key, Op::Admit(self.admit(policy, &waiting)))];
        self.store(waiting, ops, now);
    }

    pub(super) fn store_failed(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        if self.durable.is_some() {
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

    /// Keeps the lease.
    pub(super) fn renew_lease(&mut self, now: Moment) {
        self.timers.lease = None;
        if let Some(Lease { key, ticket, .. }) = self.lease.clone() {
            self.tell(key, Op::Renew { ticket, lease_ms: LEASE });
            self.timers.lease = Some(now.unix_ms + LEASE_RENEWAL);
        }
    }

    /// Gives the lease, or the place in the queue, back.
    pub(super) fn release_lease(&mut self, policy: &Policy) {
        if let Some((key, release)) = self.release(policy, self.story.code) {
            self.tell(key, release);
        }
    }

    /// The lease is of this replica: what becomes of the request is said of it.
    pub(super) fn leased_at(&mut self, replica: u8) {
        if let Some(lease) = &mut self.lease {
            lease.model = admission::replica(lease.model, replica);
        }
    }

    /// The operation that gives the lease back; what went wrong says how the upstream is.
    pub(super) fn release(&mut self, policy: &Policy, code: Option<Code>) -> Option<(String, Op)> {
        let lease = self.lease.take()?;
        let release = Release {
            ticket: lease.ticket,
            model: lease.model,
            verdict: self.verdict(code),
            flow: lease.flow,
            slots: policy.slots_at(lease.key.strip_prefix(UPSTREAM).unwrap_or_default()),
        };
        Some((lease.key, Op::Release(release)))
    }

    /// What this turn says about OpenClaw's health.
    fn verdict(&self, code: Option<Code>) -> Verdict {
        if self.story.client_gone || self.story.asked_ms.is_none() {
            return Verdict::Unknown;
        }
        let ms = self.story.retry_after_s.map(|seconds| seconds * 1000);
        match code {
            // OpenClaw puts a provider's key that was refused aside for everybody.
            Some(Code::ModelUnavailable) => match ms {
                Some(ms) => Verdict::FailedFor { ms },
                None => Verdict::Failed,
            },
            Some(
                Code::UpstreamUnreachable
                | Code::UpstreamError
                | Code::UpstreamProtocol
                | Code::UpstreamMisconfigured
                | Code::UpstreamOverloaded
                | Code::UpstreamTimeout,
            ) => Verdict::Failed,
            Some(Code::Internal) => Verdict::Unknown,
            _ => Verdict::Well,
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

    /// An operation that nobody waits for.
    pub(super) fn tell(&mut self, key: String, op: Op) {
        self.outputs.push_back(Output::Store { id: 0, ops: vec![(key, op)] });
    }
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

fn exhausted(cap: Cap, retry_after_ms: u64) -> Failure {
    let what = match cap {
        Cap::Requests => "requests",
        Cap::Tokens => "tokens",
    };
    let seconds = retry_after_ms.div_ceil(1000).max(1);
    Failure::new(Code::BudgetExhausted, format!("today's {what} are used up; the day ends in {seconds} s"))
        .after(seconds)
}

fn refused(reason: Refusal, retry_after_ms: u64, waiting: u32) -> Failure {
    let seconds = retry_after_ms.div_ceil(1000).max(1);
    let (code, message) = match reason {
        Refusal::Full => (Code::QueueFull, "the agent is busy and the queue is full"),
        Refusal::TooLate => (Code::QueueFull, "the agent is busy; an answer would come too late"),
        Refusal::Unhealthy => (Code::UpstreamUnavailable, "the agent failed just now and is given a rest"),
    };
    Failure::new(code, message).after(seconds).behind(waiting)
}
