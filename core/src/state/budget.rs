//! What may be used in a day: one cell for a person, or for all of a role together.
//!
//! A turn reserves what it may cost before it is asked for, and settles what it did cost when it
//! is over: so turns that run at the same time cannot exceed a cap together. The caps come with
//! each operation; only counts are stored. Nothing in here may say who was counted.
//!
//! * **Two keys** (the person's and the role's) are two operations of one list, which stops at
//!   the first refusal. What the keys before it have reserved is given back by telling each of
//!   them a [`Settle`] with `happened: false`; so is everything when a later gate refuses.
//! * **A reservation that is never settled** (its host died) stays counted until the day ends.
//!   Its turn has probably been paid for, an upper bound of a cost is the safe side of a cap, and
//!   it is at most one turn's for each turn that was lost. To end it by time would free what a
//!   long turn still uses.
//! * **Over midnight**, a turn belongs to the day on which it was reserved: what it settles later
//!   is dropped with that day.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};

/// A day's end belongs to China's time, which is UTC+8 without summer time.
const OFFSET_MS: u64 = 8 * 3_600_000;
const DAY_MS: u64 = 86_400_000;

/// The day in China's time, counted from 1970.
pub fn day(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms.saturating_add(OFFSET_MS) / DAY_MS).unwrap_or(u32::MAX)
}

/// When that day ends, in milliseconds since 1970.
fn end_ms(day: u32) -> u64 {
    (u64::from(day) + 1) * DAY_MS - OFFSET_MS
}

/// Reserves a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    /// The [day] of the turn.
    pub day: u32,
    /// Turns in a day; `None` is no cap.
    pub requests_cap: Option<u32>,
    /// Tokens in a day, in and out; `None` is no cap.
    pub tokens_cap: Option<u64>,
    /// What the turn costs at most: its estimated input and the longest answer.
    pub want_tokens: u32,
    /// With less it is not worth beginning: its input and a short answer.
    pub least_tokens: u32,
}

/// Ends a reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// The day of the [`Reserve`].
    pub day: u32,
    /// What it granted.
    pub reserved: u32,
    /// What the turn cost, in and out. Where the upstream did not say, what was reserved.
    pub used: u32,
    /// Whether the turn took place. If not, it counts as no request either, and `used` is 0.
    pub happened: bool,
}

/// Which cap is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cap {
    /// Turns.
    Requests,
    /// Tokens.
    Tokens,
}

/// A day's counts.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Used {
    day: u32,
    requests: u32,
    /// Settled.
    tokens: u64,
    /// Not settled yet.
    reserved: u64,
}

impl Used {
    /// The counts of that day. A host whose clock is behind counts into the day that others have
    /// begun.
    fn read(old: Option<&[u8]>, day: u32) -> Self {
        let stored = old.and_then(|bytes| postcard::from_bytes::<Self>(bytes).ok());
        stored.filter(|used| used.day >= day).unwrap_or(Self { day, ..Self::default() })
    }

    fn reduced(&self, outcome: Outcome, now: u64) -> Reduced {
        Reduced::new(encode(self), end_ms(self.day).saturating_sub(now).max(1), outcome)
    }
}

/// Grants what is left of the day, up to what is wanted.
pub(super) fn reserve(reserve: &Reserve, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut used = Used::read(old, reserve.day);
    let requests_left = reserve.requests_cap.map(|cap| cap.saturating_sub(used.requests));
    let taken = used.tokens.saturating_add(used.reserved);
    let tokens_left = reserve.tokens_cap.map(|cap| cap.saturating_sub(taken));
    let granted = tokens_left
        .map_or(reserve.want_tokens, |left| reserve.want_tokens.min(u32::try_from(left).unwrap_or(u32::MAX)));
    let cap = if requests_left == Some(0) {
        Some(Cap::Requests)
    } else if granted < reserve.least_tokens.min(reserve.want_tokens) {
        Some(Cap::Tokens)
    } else {
        None
    };
    let outcome = if let Some(cap) = cap {
        Outcome::Exhausted { cap, retry_after_ms: end_ms(used.day).saturating_sub(now).max(1) }
    } else {
        used.requests = used.requests.saturating_add(1);
        used.reserved = used.reserved.saturating_add(u64::from(granted));
        Outcome::Reserved {
            tokens: granted,
            requests_left: requests_left.map(|left| left - 1),
            tokens_left: tokens_left.map(|left| left - u64::from(granted)),
        }
    };
    used.reduced(outcome, now)
}

/// Puts what was used in the place of what was reserved.
pub(super) fn settle(settle: &Settle, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut used = Used::read(old, settle.day);
    if used.day == settle.day {
        used.reserved = used.reserved.saturating_sub(u64::from(settle.reserved));
        if settle.happened {
            used.tokens = used.tokens.saturating_add(u64::from(settle.used));
        } else {
            used.requests = used.requests.saturating_sub(1);
        }
    }
    used.reduced(Outcome::Written, now)
}

/// Says what is used.
pub(super) fn inspect(day: u32, old: Option<&[u8]>, now: u64) -> Reduced {
    let used = Used::read(old, day);
    let tokens = used.tokens.saturating_add(used.reserved);
    used.reduced(Outcome::Used { requests: used.requests, tokens }, now)
}

#[cfg(test)]
mod tests;
