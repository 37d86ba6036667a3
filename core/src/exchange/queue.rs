//! A place in an upstream's queue and the lease that comes of it, from asking to giving back.
//!
//! Who is admitted is the reducer's (`state/admission.rs`). A lease that was taken here is given
//! back wherever the exchange ends, with what the exchange learned of the upstream's health.

use serde::{Deserialize, Serialize};

use super::{
    Exchange,
    chat::Waiting,
    gates::{Caller, Gate},
    phase::Phase,
};
use crate::{
    policy::{Policy, auth},
    seam::{Input, Moment},
    state::{
        Op,
        admission::{self, Admit, Refusal, Release, Verdict},
    },
    wire::failure::{Code, Failure},
};

/// Milliseconds after which a place in the queue is asked for again, which keeps it.
pub(super) const QUEUE_REFRESH: u64 = admission::PLACE_MS / 3;
/// Milliseconds after which a lease is renewed: twice in its life.
pub(super) const LEASE_RENEWAL: u64 = LEASE as u64 / 3;
/// A lease of a host that died ends after so many milliseconds.
pub(super) const LEASE: u32 = 15_000;

/// What precedes an upstream's name in the key of its cell.
const UPSTREAM: &str = "upstream:";

/// The cell of an upstream's slots.
pub(super) fn upstream_key(name: &str) -> String {
    format!("{UPSTREAM}{name}")
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

impl Exchange {
    pub(super) fn want_lease(&mut self, policy: &Policy, waiting: &mut Waiting, ops: &mut Vec<(String, Op)>) {
        if policy.admission.slots > 0 {
            let admit = self.admit(policy, waiting);
            let key = upstream_key(&waiting.weight.upstream);
            let Admit { ticket, flow, model, .. } = admit;
            self.lease = Some(Lease { key: key.clone(), ticket, flow, model });
            waiting.gates.push(Gate::Upstream);
            ops.push((key, Op::Admit(admit)));
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

    pub(super) fn admit(&self, policy: &Policy, waiting: &Waiting) -> Admit {
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
    pub(super) fn verdict(&self, code: Option<Code>) -> Verdict {
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
}

pub(super) fn refused(reason: Refusal, retry_after_ms: u64, waiting: u32) -> Failure {
    let seconds = retry_after_ms.div_ceil(1000).max(1);
    let (code, message) = match reason {
        Refusal::Full => (Code::QueueFull, "the agent is busy and the queue is full"),
        Refusal::TooLate => (Code::QueueFull, "the agent is busy; an answer would come too late"),
        Refusal::Unhealthy => (Code::UpstreamUnavailable, "the agent failed just now and is given a rest"),
    };
    Failure::new(code, message).after(seconds).behind(waiting)
}
