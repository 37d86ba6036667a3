//! Who may ask an upstream now, who waits, and who is sent away: one cell for each upstream.
//!
//! OpenClaw runs a handful of turns at once, never sheds load, and lets a turn that retries
//! hold its slot for minutes (`openclaw` 2026.9.6). So slots are leases here, the queue is
//! bounded and fair between callers, and a breaker remembers failures that everybody shares.
//! All of it is one reducer: whichever host applies an operation sees the whole.
//!
//! * **Leases** end by themselves: a host that died frees its slots.
//! * **The queue** is weighted fair (start-time fair queueing): each caller's requests get
//!   virtual finish times, and the earliest goes first. When it is full, the caller with the
//!   most places loses its last one to a caller with fewer.
//! * **A session** runs one turn at a time: its second turn waits here and takes no slot.
//! * **The breaker** opens per model after failures in a row of more than one caller or on a
//!   failure that is known to last, and lets one request through to try.
//! * **Replicas** of a model are slots of one cell: a lease names the one that is least busy of
//!   those whose breaker lets it pass.
//!
//! Nothing in here may grow with the number of callers that are not waiting.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};
use crate::measure::BreakerState;

/// A weight of 1 makes a request this long in virtual time.
const COST: u64 = 1 << 20;
/// A place in the queue is lost when its holder has not asked again for so long.
pub const PLACE_MS: u64 = 6_000;
/// A slot that was given to a waiting ticket is lost when it is not taken up.
const CLAIM_MS: u64 = 4_000;
/// What a turn is taken to last until one has been seen.
const FIRST_SERVICE_MS: u64 = 2_000;
/// Failures in a row that open a breaker.
const FAILURES: u8 = 5;
/// A failure counts as in a row with one before only within this time.
const FAILURES_MS: u64 = 60_000;
/// How long a breaker stays open, at first and at most. It doubles with each failed try.
const OPEN_MS: (u64, u64) = (2_000, 60_000);

/// A request for a lease, or for news of one's place in the queue: the same ticket may ask
/// again at any time, and is to do so at least every [`PLACE_MS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admit {
    /// Unique and unguessable.
    pub ticket: u64,
    /// A hash of the caller: the queue is fair between flows.
    pub flow: u64,
    /// The caller's share, at least 1.
    pub weight: u32,
    /// A hash of the session, when turns of one session must follow each other.
    pub session: Option<u64>,
    /// A hash of the model.
    pub model: u64,
    /// When the request is worth nothing any more, in milliseconds since 1970.
    pub give_up_ms: u64,
    /// How long the lease lasts unless it is renewed.
    pub lease_ms: u32,
    /// Leases of the upstream at once.
    pub slots: u16,
    /// Leases of each replica of the model at once.
    pub model_slots: u16,
    /// Places in the queue.
    pub places: u16,
    /// Servers that answer for the model, numbered from 0; at least 1.
    pub replicas: u8,
    /// The one that has just failed this request.
    pub avoid: Option<u8>,
}

/// What stands for one replica's health where a hash of the model does, in [`Release::model`].
pub fn replica(model: u64, number: u8) -> u64 {
    model.wrapping_add(u64::from(number))
}

/// The end of a lease, or of waiting for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The ticket.
    pub ticket: u64,
    /// The [`replica`] of the model.
    pub model: u64,
    /// A hash of the caller.
    pub flow: u64,
    /// What the upstream made of it.
    pub verdict: Verdict,
    /// Leases of the upstream at once.
    pub slots: u16,
}

/// What a turn says about the health of its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// It answered, or refused for a reason that lies in the request.
    Well,
    /// Nothing: the client left, or the turn never got so far.
    Unknown,
    /// It failed.
    Failed,
    /// It failed, and will for everybody for so long.
    FailedFor {
        /// Milliseconds.
        ms: u64,
    },
}

/// Why a request is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// No place in the queue.
    Full,
    /// Its turn would come too late.
    TooLate,
    /// The breaker is open.
    Unhealthy,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Lease {
    ticket: u64,
    model: u64,
    replica: u8,
    session: Option<u64>,
    since_ms: u64,
    until_ms: u64,
    /// It was given to a ticket that waited and has not been taken up yet.
    offered: bool,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Place {
    ticket: u64,
    flow: u64,
    session: Option<u64>,
    model: u64,
    model_slots: u16,
    replicas: u8,
    avoid: Option<u8>,
    /// The virtual time at which the request begins and ends.
    start: u64,
    finish: u64,
    seen_ms: u64,
    give_up_ms: u64,
}

/// The health of one model's replica.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Breaker {
    model: u64,
    failures: u8,
    failed_ms: u64,
    /// Who failed first, and whether others did too: what fails for one caller alone may lie
    /// with that caller.
    flow: u64,
    shared: bool,
    /// Closed again, for one request, from then on.
    open_until_ms: u64,
    /// How long it was open last time; 0 is a breaker that is closed.
    open_ms: u64,
    /// Who tries, until when that is believed.
    trial: Option<(u64, u64)>,
}

impl Breaker {
    /// When nothing of it matters any more.
    fn forgotten_ms(&self) -> u64 {
        self.failed_ms.saturating_add(FAILURES_MS).saturating_add(self.open_ms)
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Upstream {
    leases: Vec<Lease>,
    places: Vec<Place>,
    /// The last finish time of each flow that is ahead of `virtual_now`.
    flows: Vec<(u64, u64)>,
    virtual_now: u64,
    /// A moving average of how long a turn holds its slot; 0 is not known.
    service_ms: u64,
    breakers: Vec<Breaker>,
}

/// Asks for a lease.
pub(super) fn admit(admit: &Admit, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut upstream = Upstream::read(old, now);
    let mut wake = upstream.promote(admit.slots, now);
    let outcome = upstream.admit(admit, now, &mut wake);
    upstream.reduced(outcome, wake, now)
}

/// Keeps a lease. One that has ended stays ended: somebody else may have the slot.
pub(super) fn renew(ticket: u64, lease_ms: u32, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut upstream = Upstream::read(old, now);
    if let Some(lease) = upstream.leases.iter_mut().find(|lease| lease.ticket == ticket) {
        lease.until_ms = now.saturating_add(u64::from(lease_ms));
    }
    upstream.reduced(Outcome::Written, Vec::new(), now)
}

/// Gives back what a ticket holds, and hands the slot on.
pub(super) fn release(release: &Release, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut upstream = Upstream::read(old, now);
    upstream.places.retain(|place| place.ticket != release.ticket);
    if let Some(at) = upstream.leases.iter().position(|lease| lease.ticket == release.ticket) {
        let lease = upstream.leases.swap_remove(at);
        let took = now.saturating_sub(lease.since_ms);
        // A turn that its client gave up says nothing about how long turns take.
        if release.verdict != Verdict::Unknown {
            let known = upstream.service_ms;
            upstream.service_ms = if known == 0 { took } else { known - known / 8 + took / 8 };
        }
    }
    let mut wake = upstream.judge(release, now);
    wake.extend(upstream.promote(release.slots, now));
    upstream.reduced(Outcome::Written, wake, now)
}

/// Says how it is.
pub(super) fn inspect(old: Option<&[u8]>, now: u64) -> Reduced {
    let upstream = Upstream::read(old, now);
    let count = |list: usize| u32::try_from(list).unwrap_or(u32::MAX);
    let open = upstream.breakers.iter().filter(|breaker| breaker.open_ms > 0);
    let state = |breaker: &Breaker| match breaker.open_until_ms > now {
        true => BreakerState::Open,
        false => BreakerState::HalfOpen,
    };
    let outcome = Outcome::Load {
        waiting: count(upstream.places.len()),
        leases: count(upstream.leases.len()),
        breakers: open.map(|breaker| (breaker.model, state(breaker))).collect(),
    };
    upstream.reduced(outcome, Vec::new(), now)
}

impl Upstream {
    /// What is stored, without what has ended.
    fn read(old: Option<&[u8]>, now: u64) -> Self {
        let mut upstream: Self = old.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        upstream.leases.retain(|lease| lease.until_ms > now);
        upstream
            .places
            .retain(|place| place.give_up_ms > now && place.seen_ms.saturating_add(PLACE_MS) > now);
        upstream.breakers.retain(|breaker| breaker.forgotten_ms() > now);
        upstream
    }

    fn reduced(mut self, outcome: Outcome, wake: Vec<u64>, now: u64) -> Reduced {
        if self.leases.is_empty() && self.places.is_empty() {
            self.flows.clear();
            self.virtual_now = 0;
        }
        let virtual_now = self.virtual_now;
        self.flows.retain(|(_, finish)| *finish > virtual_now);
        let lease = self.leases.iter().map(|lease| lease.until_ms).max().unwrap_or_default();
        let breaker = self.breakers.iter().map(Breaker::forgotten_ms).max().unwrap_or_default();
        let until = lease.max(breaker).max(now.saturating_add(PLACE_MS));
        // The length of a turn is worth remembering for an hour.
        let ttl_ms = until.saturating_sub(now).saturating_add(3_600_000);
        Reduced { wake, ..Reduced::new(encode(&self), ttl_ms, outcome) }
    }

    fn admit(&mut self, admit: &Admit, now: u64, wake: &mut Vec<u64>) -> Outcome {
        if let Some(lease) = self.leases.iter_mut().find(|lease| lease.ticket == admit.ticket) {
            // Offered, or asked for twice.
            lease.until_ms = now.saturating_add(u64::from(admit.lease_ms));
            if lease.offered {
                lease.offered = false;
                lease.since_ms = now;
            }
            return admitted(lease.replica);
        }
        let replicas = Replicas { model: admit.model, count: admit.replicas, avoid: admit.avoid };
        if let Some(retry_after_ms) = self.nobody_well(replicas, now) {
            self.places.retain(|place| place.ticket != admit.ticket);
            return self.refuse(Refusal::Unhealthy, retry_after_ms);
        }
        if let Some(place) = self.places.iter_mut().find(|place| place.ticket == admit.ticket) {
            place.seen_ms = now;
            let finish = place.finish;
            return Outcome::Queued { ahead: self.ahead(finish) };
        }
        let start = self.flow(admit.flow).max(self.virtual_now);
        let place = Place {
            ticket: admit.ticket,
            flow: admit.flow,
            session: admit.session,
            model: admit.model,
            model_slots: admit.model_slots,
            replicas: admit.replicas,
            avoid: admit.avoid,
            start,
            finish: start.saturating_add(COST / u64::from(admit.weight.max(1))),
            seen_ms: now,
            give_up_ms: admit.give_up_ms,
        };
        // Whoever could go was promoted before: with a free slot nobody that waits can use it.
        if self.leases.len() < usize::from(admit.slots)
            && let Some(replica) = self.may_run(&place, now)
        {
            self.set_flow(place.flow, place.finish);
            self.lease(&place, replica, now.saturating_add(u64::from(admit.lease_ms)), now, false);
            return admitted(replica);
        }
        let ahead = self.ahead(place.finish);
        let wait_ms = self.wait_ms(ahead, admit);
        let done_ms = now.saturating_add(wait_ms).saturating_add(self.needed_ms());
        if done_ms >= admit.give_up_ms {
            return self.refuse(Refusal::TooLate, wait_ms);
        }
        if self.places.len() >= usize::from(admit.places) {
            match self.evict(admit.flow) {
                Some(evicted) => wake.push(evicted),
                None => return self.refuse(Refusal::Full, wait_ms),
            }
        }
        self.set_flow(place.flow, place.finish);
        self.places.push(place);
        Outcome::Queued { ahead }
    }

    fn refuse(&self, reason: Refusal, retry_after_ms: u64) -> Outcome {
        let waiting = u32::try_from(self.places.len()).unwrap_or(u32::MAX);
        Outcome::Refused { reason, retry_after_ms: retry_after_ms.max(1), waiting }
    }

    /// Those that go before a place with that finish time.
    fn ahead(&self, finish: u64) -> u32 {
        let before = self.places.iter().filter(|place| place.finish < finish).count();
        u32::try_from(before).unwrap_or(u32::MAX)
    }

    /// What a turn needs, with something to spare.
    fn needed_ms(&self) -> u64 {
        self.service().saturating_mul(3) / 2
    }

    fn service(&self) -> u64 {
        if self.service_ms == 0 { FIRST_SERVICE_MS } else { self.service_ms }
    }

    /// About how long a new place would wait.
    fn wait_ms(&self, ahead: u32, admit: &Admit) -> u64 {
        let slots = u64::from(admit.slots.min(admit.model_slots).max(1));
        self.service().saturating_mul(u64::from(ahead) + 1) / slots
    }

    /// Gives free slots to those that wait, in order, and says whom to wake: also those whose
    /// turn could not be over in time any more, who would only hold a slot for nothing.
    fn promote(&mut self, slots: u16, now: u64) -> Vec<u64> {
        let mut wake = Vec::new();
        let done_ms = now.saturating_add(self.needed_ms());
        self.places.retain(|place| {
            let hopeless = place.give_up_ms <= done_ms;
            if hopeless {
                wake.push(place.ticket);
            }
            !hopeless
        });
        while self.leases.len() < usize::from(slots) {
            let places = self.places.iter().enumerate();
            let next = places.filter_map(|(at, place)| Some((at, place, self.may_run(place, now)?)));
            let Some((at, _, replica)) = next.min_by_key(|(_, place, _)| (place.finish, place.ticket)) else {
                break;
            };
            let place = self.places.swap_remove(at);
            wake.push(place.ticket);
            self.lease(&place, replica, now.saturating_add(CLAIM_MS), now, true);
        }
        wake
    }

    fn lease(&mut self, place: &Place, number: u8, until_ms: u64, now: u64, offered: bool) {
        self.virtual_now = self.virtual_now.max(place.start);
        let model = replica(place.model, number);
        let open = |breaker: &&mut Breaker| breaker.model == model && breaker.open_ms > 0;
        if let Some(breaker) = self.breakers.iter_mut().find(open) {
            breaker.trial = Some((place.ticket, until_ms));
        }
        self.leases.push(Lease {
            ticket: place.ticket,
            model: place.model,
            replica: number,
            session: place.session,
            since_ms: now,
            until_ms,
            offered,
        });
    }

    /// The replica at which a slot, if there is one, may go to this place: the least busy one.
    fn may_run(&self, place: &Place, now: u64) -> Option<u8> {
        let session_is_free =
            place.session.is_none() || self.leases.iter().all(|lease| lease.session != place.session);
        if !session_is_free {
            return None;
        }
        let busy = |number: u8| {
            let at = |lease: &&Lease| lease.model == place.model && lease.replica == number;
            self.leases.iter().filter(at).count()
        };
        let replicas = place.replicas().numbers();
        // While one request tries whether the upstream is well again, the others wait for it.
        let well = replicas.filter(|number| self.unhealthy(replica(place.model, *number), now).is_none());
        let free = well.filter(|number| busy(*number) < usize::from(place.model_slots));
        // Of those that have as much to do, another one for each request.
        let turn = |number: u8| (u64::from(number) + place.ticket) % u64::from(place.replicas.max(1));
        free.min_by_key(|number| (busy(*number), turn(*number)))
    }

    /// How long no replica takes anything, if that is so.
    fn nobody_well(&self, replicas: Replicas, now: u64) -> Option<u64> {
        let mut least = OPEN_MS.1;
        for number in replicas.numbers() {
            least = least.min(self.unhealthy(replica(replicas.model, number), now)?);
        }
        Some(least)
    }

    /// Takes the last place of the flow that has most, if that is more than the newcomer would
    /// have.
    fn evict(&mut self, newcomer: u64) -> Option<u64> {
        let count = |flow: u64| self.places.iter().filter(|place| place.flow == flow).count();
        let largest =
            self.places.iter().max_by_key(|place| (count(place.flow), place.finish, place.ticket))?;
        if count(largest.flow) <= count(newcomer) + 1 {
            return None;
        }
        let (ticket, flow, start) = (largest.ticket, largest.flow, largest.start);
        self.places.retain(|place| place.ticket != ticket);
        // The flow's next request takes over the virtual time that was not used.
        self.set_flow(flow, start);
        Some(ticket)
    }

    fn flow(&self, flow: u64) -> u64 {
        self.flows.iter().find(|(key, _)| *key == flow).map_or(0, |(_, finish)| *finish)
    }

    fn set_flow(&mut self, flow: u64, finish: u64) {
        match self.flows.iter_mut().find(|(key, _)| *key == flow) {
            Some((_, last)) => *last = finish,
            None => self.flows.push((flow, finish)),
        }
    }

    /// How long a replica's breaker is still open, if it is.
    fn unhealthy(&self, model: u64, now: u64) -> Option<u64> {
        let breaker = self.breakers.iter().find(|breaker| breaker.model == model)?;
        if breaker.open_ms == 0 {
            return None;
        }
        if breaker.open_until_ms > now {
            return Some(breaker.open_until_ms - now);
        }
        // Half open: whoever comes first tries, the others come back.
        let (_, until) = breaker.trial.filter(|(_, until)| *until > now)?;
        Some((until - now).min(OPEN_MS.0))
    }

    /// Learns from a turn; gives the tickets that must not wait any longer.
    fn judge(&mut self, release: &Release, now: u64) -> Vec<u64> {
        let at = self.breakers.iter().position(|breaker| breaker.model == release.model);
        let for_ms = match release.verdict {
            Verdict::Well => {
                if let Some(at) = at {
                    self.breakers.swap_remove(at);
                }
                return Vec::new();
            }
            Verdict::Unknown => {
                if let Some(breaker) = at.map(|at| &mut self.breakers[at]) {
                    breaker.trial = breaker.trial.filter(|(ticket, _)| *ticket != release.ticket);
                }
                return Vec::new();
            }
            Verdict::Failed => None,
            Verdict::FailedFor { ms } => Some(ms.clamp(1, OPEN_MS.1)),
        };
        let at = at.unwrap_or_else(|| {
            self.breakers.push(Breaker {
                model: release.model,
                failures: 0,
                failed_ms: now,
                flow: release.flow,
                shared: false,
                open_until_ms: 0,
                open_ms: 0,
                trial: None,
            });
            self.breakers.len() - 1
        });
        let breaker = &mut self.breakers[at];
        let in_a_row = now.saturating_sub(breaker.failed_ms) <= FAILURES_MS;
        breaker.failures = if in_a_row { breaker.failures.saturating_add(1) } else { 1 };
        breaker.shared |= breaker.flow != release.flow;
        breaker.failed_ms = now;
        let tried = breaker.open_ms > 0 && breaker.open_until_ms <= now;
        let open_ms = match for_ms {
            Some(ms) => ms,
            None if tried => breaker.open_ms.saturating_mul(2).min(OPEN_MS.1),
            None if breaker.open_ms == 0 && breaker.failures >= FAILURES && breaker.shared => OPEN_MS.0,
            // Not yet, or open already: those are turns that began before.
            None => return Vec::new(),
        };
        breaker.open_ms = open_ms;
        breaker.open_until_ms = breaker.open_until_ms.max(now.saturating_add(open_ms));
        breaker.trial = None;
        // Those that nobody else can serve are told at once.
        let places = core::mem::take(&mut self.places);
        let lost = |place: &Place| {
            let mut numbers = place.replicas().numbers();
            numbers.any(|number| replica(place.model, number) == release.model)
                && self.nobody_well(place.replicas(), now).is_some()
        };
        let (lost, places): (Vec<_>, Vec<_>) = places.into_iter().partition(lost);
        self.places = places;
        lost.iter().map(|place| place.ticket).collect()
    }
}

impl Place {
    fn replicas(&self) -> Replicas {
        Replicas { model: self.model, count: self.replicas, avoid: self.avoid }
    }
}

/// Those that may serve a request.
#[derive(Clone, Copy)]
struct Replicas {
    model: u64,
    count: u8,
    avoid: Option<u8>,
}

impl Replicas {
    fn numbers(self) -> impl Iterator<Item = u8> {
        (0..self.count.max(1)).filter(move |number| Some(*number) != self.avoid)
    }
}

/// Where there is one server, there is no choice to tell.
fn admitted(replica: u8) -> Outcome {
    match replica {
        0 => Outcome::Admitted,
        replica => Outcome::AdmittedTo { replica },
    }
}

#[cfg(test)]
mod tests;
