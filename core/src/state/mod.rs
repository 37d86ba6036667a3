//! What outlives a request, as pure reducers.
//!
//! An operation turns the old bytes of one key into new ones. The host provides the
//! bytes, the key's serialisation and the time to live; it knows nothing of what the
//! bytes mean. Nothing here may know a storage engine, and no reducer may fail: bytes
//! that it cannot read count as absent.

pub mod admission;
pub mod budget;
pub mod cache;
pub mod caller;
mod comparison;
pub mod editions;
pub mod histogram;
mod news;
pub mod rating;
pub mod register;
pub mod rollout;
mod stats;
pub mod turn;
pub mod usage;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::measure::BreakerState;
use admission::{Admit, Refusal, Release};
use budget::{Cap, Reserve, Settle};
use cache::{Fill, Found, Lookup};
use caller::{Enter, Standing, Strike};
use editions::{Adopt, Edition};
use rating::{Note, Opinions, Rate, Rating, Votes};
use rollout::{Change, Consult, Judge, Observe, Report, Steer};
use turn::{Awaited, TurnOp, TurnOutcome};
use usage::{Calibration, Learn};

/// An operation on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// A caller makes a request: its rate, its standing, its revocation.
    Enter(Enter),
    /// A caller did something that only an abuser does often.
    Strike(Strike),
    /// Tokens of this caller that were issued before that second are void.
    Revoke {
        /// Seconds since 1970.
        before_s: u64,
        /// How long it matters: the longest life of a token.
        ttl_ms: u64,
    },
    /// Asks for a lease of an upstream, or for the place in its queue.
    Admit(Admit),
    /// Keeps a lease.
    Renew {
        /// The ticket.
        ticket: u64,
        /// How long the lease is to last from now.
        lease_ms: u32,
    },
    /// Gives a lease or a place in the queue back.
    Release(Release),
    /// Marks a key as used, and says whether it was the first to do so.
    Once {
        /// How long the mark lasts.
        ttl_ms: u64,
    },
    /// Takes a mark of [`Op::Once`] back: what it was for did not happen.
    Forget,
    /// Reads what [`Op::Write`] wrote.
    Read,
    /// Writes bytes.
    Write {
        /// The bytes.
        value: ByteBuf,
        /// How long they matter.
        ttl_ms: u64,
    },
    /// Asks for what [`Op::Bring`] brings, or to be woken when it comes.
    Await {
        /// Who is to be woken.
        ticket: u64,
        /// How long it waits at most.
        ttl_ms: u64,
    },
    /// Brings what somebody waits for, or will ask for. What came first stays.
    Bring {
        /// The bytes.
        value: ByteBuf,
        /// How long they matter.
        ttl_ms: u64,
    },
    /// Writes a mark, to see whether the store can.
    Probe,
    /// A turn of an intent with two versions is over. To be told.
    Observe(Observe),
    /// Asks how far a new version has come, and what has changed since somebody asked.
    Consult(Consult),
    /// A person holds, promotes or rolls back.
    Steer(Steer),
    /// A change of a rollout is in the audit trail. To be told.
    Heard {
        /// The change's number.
        number: u32,
    },
    /// Takes a turn's tokens out of a day's.
    Reserve(Reserve),
    /// Says what the turn did cost. To be told.
    Settle(Settle),
    /// What an upstream counted for a request. To be told.
    Learn(Learn),
    /// Asks what was learned.
    Calibrate,
    /// Asks for an answer that may be kept.
    Lookup(Lookup),
    /// Keeps an answer.
    Fill(Fill),
    /// Adds something to a list of what waits.
    Enlist(register::Entry),
    /// Takes something out of such a list.
    Delist {
        /// What.
        id: String,
    },
    /// Asks for such a list.
    List,
    /// Something happens to a turn that outlives its connection.
    Turn(TurnOp),
    /// There will be no answer, or it is not waited for any more.
    Abandon {
        /// The ticket.
        ticket: u64,
    },
    /// Adds [`Totals`](crate::measure::Totals), encoded.
    Absorb {
        /// The bytes.
        totals: ByteBuf,
    },
    /// Asks for what was added.
    Totals,
    /// Counts, and says how many there are now. Adding nothing only asks.
    Count {
        /// How many more.
        add: u32,
    },
    /// Asks how an upstream is.
    InspectUpstream,
    /// Asks what is used of a day.
    InspectDay {
        /// The [day](budget::day).
        day: u32,
    },
    /// A person says what the answer was worth.
    Rate(Rate),
    /// The same, for the list of all. To be told.
    Note(Note),
    /// Asks for that list.
    Opinions,
    /// The same, for the rollout that the turn was a part of. To be told.
    Judge(Judge),
    /// A configuration is taken.
    Adopt(Adopt),
    /// Asks which configurations were taken.
    Editions,
}

impl Op {
    /// Whether the outcome may be given before the change is on disk. A lost token or lease
    /// is worth nothing a minute later; a used code that is forgotten could be used again.
    pub fn is_relaxed(&self) -> bool {
        match self {
            Self::Enter(_) | Self::Strike(_) | Self::Admit(_) | Self::Renew { .. } | Self::Release(_) => true,
            Self::Forget => true,
            Self::Read => true,
            // A step or a rollback that is forgotten is found again by the next turns.
            Self::Observe(_) | Self::Consult(_) | Self::Heard { .. } => true,
            Self::Reserve(_) | Self::Settle(_) | Self::Learn(_) | Self::Calibrate => true,
            Self::Lookup(_) | Self::Fill(_) | Self::Abandon { .. } => true,
            Self::Await { .. } | Self::Bring { .. } => true,
            // What it names is found in its own cell.
            Self::Enlist(_) | Self::Delist { .. } | Self::List => true,
            Self::Revoke { .. } | Self::Once { .. } | Self::Write { .. } | Self::Probe => false,
            Self::Steer(_) => false,
            // A claim is not: the numbers of a runner's events are of its epoch, and a client remembers
            // those that it saw when the store has forgotten who was begun.
            Self::Turn(op) => {
                matches!(op, TurnOp::Heed { .. } | TurnOp::Append { .. } | TurnOp::Watch(_))
            }
            Self::Absorb { .. } | Self::Totals | Self::Count { .. } => true,
            Self::InspectUpstream | Self::InspectDay { .. } | Self::Editions => true,
            Self::Note(_) | Self::Opinions | Self::Judge(_) => true,
            Self::Rate(_) | Self::Adopt(_) => false,
        }
    }

    /// Whether it changes nothing: a host need not write what it reads.
    pub fn is_read(&self) -> bool {
        match self {
            Self::Read | Self::List | Self::Opinions | Self::Editions => true,
            Self::Totals | Self::InspectUpstream | Self::InspectDay { .. } => true,
            Self::Turn(TurnOp::Watch(watch)) => watch.awaited == Awaited::Nothing,
            _ => false,
        }
    }

    /// The ticket that a later operation on the same key may wake: a host begins to listen for
    /// it before it applies this one. Of several such operations in a list, for the first.
    pub fn ticket(&self) -> Option<u64> {
        match self {
            Self::Admit(admit) => Some(admit.ticket),
            Self::Lookup(lookup) => Some(lookup.ticket),
            Self::Await { ticket, .. } | Self::Turn(TurnOp::Heed { ticket, .. }) => Some(*ticket),
            Self::Turn(TurnOp::Watch(watch)) if watch.awaited != Awaited::Nothing => Some(watch.ticket),
            _ => None,
        }
    }
}

/// What an operation says to the exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of [`Op::Enter`].
    Entered {
        /// Whether the rate allows it.
        granted: bool,
        /// Whole tokens that are left.
        remaining: u32,
        /// Milliseconds until the request would be granted.
        retry_after_ms: u64,
        /// Milliseconds until the bucket is full.
        full_after_ms: u64,
        /// What is thought of the caller.
        standing: Standing,
        /// The person's tokens are void.
        revoked: bool,
        /// The same request came more often than people ask.
        repeated: bool,
        /// The request is far larger than the caller's usual one.
        spiked: bool,
    },
    /// Of [`Op::Strike`].
    Struck(Standing),
    /// Of [`Op::Admit`]: go on, at the first replica.
    Admitted,
    /// Of [`Op::Admit`]: go on, at this replica.
    AdmittedTo {
        /// Its number, from 1.
        replica: u8,
    },
    /// Of [`Op::Admit`] and [`Op::Await`]: wait to be woken.
    Queued {
        /// Those before this one, in a queue.
        ahead: u32,
    },
    /// Of [`Op::Admit`]: no.
    Refused {
        /// Why.
        reason: Refusal,
        /// When to come back, in milliseconds.
        retry_after_ms: u64,
        /// Those that wait.
        waiting: u32,
    },
    /// Of [`Op::Once`].
    Once {
        /// Whether the key was not marked before.
        first: bool,
    },
    /// Of [`Op::Read`]; of [`Op::Await`] when it is there.
    Value(Option<ByteBuf>),
    /// Of an operation that has nothing to say.
    Written,
    /// Of [`Op::Consult`] and [`Op::Steer`].
    Rollout {
        /// How it stands.
        state: rollout::State,
        /// The step, from 0.
        step: u8,
        /// Who has the new version: buckets below this one.
        share: u16,
        /// What has changed and is not in the audit trail yet: write it, then tell
        /// [`Op::Heard`] for each.
        changes: Vec<Change>,
        /// The counts, where they were asked for.
        report: Option<Box<Report>>,
        /// What people said of both: of the running version, and of the new one.
        votes: (Votes, Votes),
    },
    /// Of [`Op::Reserve`]: go on.
    Reserved {
        /// What the turn may cost: at most what was wanted. The answer's limit is this without
        /// the estimated input.
        tokens: u32,
        /// Turns that are left of the day after this one; `None` is no cap.
        requests_left: Option<u32>,
        /// Tokens that are left of the day after this turn; `None` is no cap.
        tokens_left: Option<u64>,
    },
    /// Of [`Op::Reserve`]: no, and nothing is reserved.
    Exhausted {
        /// Which cap.
        cap: Cap,
        /// Milliseconds until the next day.
        retry_after_ms: u64,
    },
    /// Of [`Op::Calibrate`].
    Calibrated(Calibration),
    /// Of [`Op::Lookup`].
    Cached(Found),
    /// Of [`Op::List`].
    Listed(Vec<register::Entry>),
    /// Of [`Op::Turn`].
    Turn(TurnOutcome),
    /// Of [`Op::Count`].
    Counted(u64),
    /// Of [`Op::InspectUpstream`].
    Load {
        /// Those that wait.
        waiting: u32,
        /// Turns that run.
        leases: u32,
        /// Hashes of models whose breakers are not closed.
        breakers: Vec<(u64, BreakerState)>,
    },
    /// Of [`Op::InspectDay`].
    Used {
        /// Turns.
        requests: u32,
        /// Tokens, with those that are reserved.
        tokens: u64,
    },
    /// Of [`Op::Rate`].
    Rated {
        /// What was said before.
        before: Option<Rating>,
    },
    /// Of [`Op::Opinions`].
    Opinions(Box<Opinions>),
    /// Of [`Op::Adopt`] and [`Op::Editions`].
    Editions {
        /// The oldest first. The last one counts.
        editions: Vec<Edition>,
        /// Those whose texts nobody can ask for any more.
        forgotten: Vec<Edition>,
    },
}

impl Outcome {
    /// Whether the operations after this one in a list are not to be applied: nobody takes a
    /// lease for a request that its rate refuses.
    pub fn stops(&self) -> bool {
        match self {
            Self::Entered { granted, standing, revoked, .. } => {
                !granted || *revoked || matches!(standing, Standing::Blocked { .. })
            }
            Self::Once { first } => !first,
            Self::Exhausted { .. } => true,
            Self::Cached(found) => matches!(found, Found::Hit { .. } | Found::Wait),
            Self::Turn(TurnOutcome::Conflict | TurnOutcome::Lost) => true,
            _ => false,
        }
    }

    /// Whether the operation's ticket will be woken.
    pub fn waits(&self) -> bool {
        match self {
            Self::Queued { .. } | Self::Cached(Found::Wait) => true,
            Self::Turn(TurnOutcome::Heeded { cancel }) => !cancel,
            Self::Turn(TurnOutcome::Seen(view)) => view.waits,
            _ => false,
        }
    }
}

/// The result of a reducer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduced {
    /// What to store; empty bytes mean that the key may be forgotten at once.
    pub new: ByteBuf,
    /// How long it matters, in milliseconds. After that the key may be forgotten.
    pub ttl_ms: u64,
    /// What to tell the exchange.
    pub outcome: Outcome,
    /// Tickets whose operation may be applied again now.
    pub wake: Vec<u64>,
    /// When an [alarm](crate::seam::Step::Alarm) is wanted for this key, in milliseconds since 1970;
    /// a time that has passed is now. It stands until the next operation on the key says another, and
    /// is given again after a while for as long as none does. `None` is no alarm.
    pub alarm_ms: Option<u64>,
}

impl Reduced {
    fn new(new: Vec<u8>, ttl_ms: u64, outcome: Outcome) -> Self {
        Self { new: ByteBuf::from(new), ttl_ms, outcome, wake: Vec::new(), alarm_ms: None }
    }
}

/// Applies an operation to what is stored.
pub fn reduce(op: &Op, old: Option<&[u8]>, unix_ms: u64) -> Reduced {
    match op {
        Op::Enter(enter) => caller::enter(enter, old, unix_ms),
        Op::Strike(strike) => caller::strike(strike, old, unix_ms),
        Op::Revoke { before_s, ttl_ms } => caller::revoke(*before_s, *ttl_ms, old, unix_ms),
        Op::Admit(admit) => admission::admit(admit, old, unix_ms),
        Op::Renew { ticket, lease_ms } => admission::renew(*ticket, *lease_ms, old, unix_ms),
        Op::Release(release) => admission::release(release, old, unix_ms),
        Op::Once { ttl_ms } => {
            // The first mark keeps its time: trying again must not make it last.
            let marked_until = old.and_then(|bytes| postcard::from_bytes::<u64>(bytes).ok());
            let until = marked_until.filter(|until| *until > unix_ms);
            let kept = until.unwrap_or(unix_ms.saturating_add(*ttl_ms));
            let outcome = Outcome::Once { first: until.is_none() };
            Reduced::new(encode(&kept), kept - unix_ms, outcome)
        }
        Op::Forget => Reduced::new(Vec::new(), 1, Outcome::Written),
        Op::Read => {
            let value = old.and_then(|bytes| postcard::from_bytes::<Value>(bytes).ok());
            let value = value.filter(|value| value.until_ms > unix_ms);
            let left = value.as_ref().map_or(0, |value| value.until_ms - unix_ms);
            let bytes = value.as_ref().map(encode).unwrap_or_default();
            Reduced::new(bytes, left, Outcome::Value(value.map(|value| value.bytes)))
        }
        Op::Write { value, ttl_ms } => {
            let value = Value { bytes: value.clone(), until_ms: unix_ms.saturating_add(*ttl_ms) };
            Reduced::new(encode(&value), *ttl_ms, Outcome::Written)
        }
        Op::Observe(observe) => rollout::observe(observe, old, unix_ms),
        Op::Consult(consult) => rollout::consult(consult, old, unix_ms),
        Op::Steer(steer) => rollout::steer(steer, old, unix_ms),
        Op::Heard { number } => rollout::heard(*number, old),
        Op::Reserve(reserve) => budget::reserve(reserve, old, unix_ms),
        Op::Settle(settle) => budget::settle(settle, old, unix_ms),
        Op::Learn(learn) => usage::learn(learn, old),
        Op::Calibrate => usage::calibrate(old),
        Op::Lookup(lookup) => cache::lookup(lookup, old, unix_ms),
        Op::Fill(fill) => cache::fill(fill, old, unix_ms),
        Op::Enlist(entry) => register::enlist(entry, old, unix_ms),
        Op::Delist { id } => register::delist(id, old, unix_ms),
        Op::List => register::list(old, unix_ms),
        Op::Turn(op) => turn::reduce(op, old, unix_ms),
        Op::Abandon { ticket } => cache::abandon(*ticket, old, unix_ms),
        Op::Await { ticket, ttl_ms } => news::wait(*ticket, *ttl_ms, old, unix_ms),
        Op::Bring { value, ttl_ms } => news::bring(value, *ttl_ms, old, unix_ms),
        Op::Absorb { totals } => stats::absorb(totals, old),
        Op::Totals => stats::totals(old),
        Op::Count { add } => stats::count(*add, old),
        Op::InspectUpstream => admission::inspect(old, unix_ms),
        Op::InspectDay { day } => budget::inspect(*day, old, unix_ms),
        Op::Rate(rate) => rating::rate(rate, old, unix_ms),
        Op::Note(note) => rating::note(note, old, unix_ms),
        Op::Opinions => rating::opinions(old, unix_ms),
        Op::Judge(judge) => rollout::judge(judge, old, unix_ms),
        Op::Adopt(adopt) => editions::adopt(adopt, old, unix_ms),
        Op::Editions => editions::editions(old),
        Op::Probe => Reduced::new(unix_ms.to_le_bytes().to_vec(), 60_000, Outcome::Written),
    }
}

/// What [`Op::Write`] stores. It carries its own end, so that no engine's timing matters.
#[derive(Serialize, Deserialize)]
struct Value {
    bytes: ByteBuf,
    until_ms: u64,
}

/// Encoding into memory does not fail for these types.
fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn apply(op: &Op, bytes: &mut Option<ByteBuf>, now: u64) -> Outcome {
        let reduced = reduce(op, bytes.as_deref().map(Vec::as_slice), now);
        *bytes = (!reduced.new.is_empty()).then_some(reduced.new);
        reduced.outcome
    }

    #[test]
    fn a_mark_is_first_once_and_trying_again_does_not_prolong_it() {
        let (op, mut bytes) = (Op::Once { ttl_ms: 100 }, None);
        assert_eq!(apply(&op, &mut bytes, 1_000), Outcome::Once { first: true });
        assert_eq!(apply(&op, &mut bytes, 1_099), Outcome::Once { first: false });
        assert_eq!(apply(&op, &mut bytes, 1_100), Outcome::Once { first: true });
    }

    #[test]
    fn a_value_is_read_until_its_end() {
        let mut bytes = None;
        assert_eq!(apply(&Op::Read, &mut bytes, 1), Outcome::Value(None));
        apply(&Op::Write { value: ByteBuf::from(*b"v"), ttl_ms: 10 }, &mut bytes, 1);
        assert_eq!(apply(&Op::Read, &mut bytes, 10), Outcome::Value(Some(ByteBuf::from(*b"v"))));
        assert_eq!(apply(&Op::Read, &mut bytes, 11), Outcome::Value(None));
        assert_eq!(bytes, None, "an outlived value is forgotten");
    }

    #[test]
    fn bytes_of_another_kind_count_as_absent() {
        for op in [Op::Once { ttl_ms: 1 }, Op::Read, Op::Probe] {
            let _ = reduce(&op, Some(&[0xff; 40]), 5);
            let _ = reduce(&op, Some(&[]), 5);
        }
    }
}
