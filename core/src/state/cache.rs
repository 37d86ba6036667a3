//! One answer that is kept for the same question: one cell for each question.
//!
//! Whoever asks first leads: it asks the agent and fills the cell. Those who ask meanwhile wait
//! for it, so that a question which everybody asks at nine o'clock costs one turn. What counts as
//! the same question is the key's: it must have everything in it that may make a difference (the
//! profile's version, the prompt's, the environment and, unless the intent is shared, the
//! person). Nothing in here may look into an answer.
//!
//! * **A lead ends by itself** after its time: a host that died does not keep the others waiting,
//!   the next of them that asks becomes the leader. So who waits asks again, as in the queue of
//!   [`admission`](super::admission), at least every [`PLACE_MS`].
//! * **A leader that fails** hands the lead to the first that waits, which is woken; it is to take
//!   it up within [`CLAIM_MS`].
//! * **An answer that may not be kept** (too large, or not fit for others) is filled in as empty
//!   bytes: all are woken, and for a while everybody asks the agent without waiting, instead of
//!   one after the other.
//! * **Who waits is bounded**; whoever comes when all places are taken asks the agent itself.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Outcome, Reduced, admission::PLACE_MS, encode};

/// A larger answer is not kept. A cell is written as a whole by each change, and the smallest
/// engine takes 128 KiB (a Durable Object's value).
pub const MOST_BYTES: usize = 64 * 1024;
/// A lead that was handed on is lost when it is not taken up.
const CLAIM_MS: u64 = 4_000;
/// How long nobody waits for an answer that may not be kept.
const UNKEPT_MS: u64 = 60_000;

/// Asks for the answer. The same ticket may ask again at any time; its last outcome counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lookup {
    /// Unique and unguessable; the exchange's ticket.
    pub ticket: u64,
    /// How long a lead lasts: no shorter than the turn may take, or there are two.
    pub lead_ms: u32,
    /// How many may wait; 0 where nobody is to.
    pub places: u16,
}

/// Ends a lead with an answer. Whoever asked the agent without leading may fill as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fill {
    /// Who was asking.
    pub ticket: u64,
    /// The answer as the exchange wants to read it again; empty where it may not be kept.
    pub value: ByteBuf,
    /// How long it may be given out.
    pub ttl_ms: u64,
}

/// What a [`Lookup`] finds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// The answer. The list of operations ends here.
    Hit {
        /// What was filled in.
        value: ByteBuf,
        /// When, in milliseconds since 1970.
        stored_ms: u64,
    },
    /// Ask the agent; then fill, or abandon.
    Lead,
    /// Somebody asks: wait to be woken, then look up again. The list of operations ends here;
    /// the gates that were passed count.
    Wait,
    /// Ask the agent; nobody waits for it.
    Miss,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Lead {
    ticket: u64,
    until_ms: u64,
}

#[derive(Serialize, Deserialize)]
struct Answer {
    /// Empty: it may not be kept.
    value: ByteBuf,
    stored_ms: u64,
    until_ms: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Question {
    answer: Option<Answer>,
    lead: Option<Lead>,
    /// Tickets in order of their coming, and when each asked last.
    waiting: Vec<(u64, u64)>,
}

/// Gives the answer, or says who is to find it.
pub(super) fn lookup(lookup: &Lookup, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut question = Question::read(old, now);
    let found = question.lookup(lookup, now);
    question.reduced(Outcome::Cached(found), Vec::new(), now)
}

/// Keeps an answer, and wakes all that wait for it.
pub(super) fn fill(fill: &Fill, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut question = Question::read(old, now);
    let kept = !fill.value.is_empty() && fill.value.len() <= MOST_BYTES;
    let (value, ttl_ms) =
        if kept { (fill.value.clone(), fill.ttl_ms) } else { (ByteBuf::new(), fill.ttl_ms.min(UNKEPT_MS)) };
    // An answer that is there is not thrown away for one that may not be kept.
    if kept || question.answer.is_none() {
        question.answer = Some(Answer { value, stored_ms: now, until_ms: now.saturating_add(ttl_ms) });
    }
    question.lead = question.lead.filter(|lead| lead.ticket != fill.ticket);
    let wake = question.waiting.drain(..).map(|(ticket, _)| ticket).collect();
    question.reduced(Outcome::Written, wake, now)
}

/// Gives a lead, or a place among those that wait, back.
pub(super) fn abandon(ticket: u64, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut question = Question::read(old, now);
    question.waiting.retain(|(waiting, _)| *waiting != ticket);
    let mut wake = Vec::new();
    if question.lead.is_some_and(|lead| lead.ticket == ticket) {
        question.lead = None;
        if !question.waiting.is_empty() {
            let (next, _) = question.waiting.remove(0);
            question.lead = Some(Lead { ticket: next, until_ms: now.saturating_add(CLAIM_MS) });
            wake.push(next);
        }
    }
    question.reduced(Outcome::Written, wake, now)
}

impl Question {
    /// What is stored, without what has ended.
    fn read(old: Option<&[u8]>, now: u64) -> Self {
        let mut question: Self = old.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        question.answer = question.answer.filter(|answer| answer.until_ms > now);
        question.lead = question.lead.filter(|lead| lead.until_ms > now);
        question.waiting.retain(|(_, seen_ms)| seen_ms.saturating_add(PLACE_MS) > now);
        question
    }

    fn reduced(&self, outcome: Outcome, wake: Vec<u64>, now: u64) -> Reduced {
        let answer = self.answer.as_ref().map(|answer| answer.until_ms);
        let lead = self.lead.map(|lead| lead.until_ms);
        let place = self.waiting.iter().map(|(_, seen_ms)| seen_ms.saturating_add(PLACE_MS)).max();
        let until = answer.max(lead).max(place);
        let bytes = if until.is_some() { encode(self) } else { Vec::new() };
        let ttl_ms = until.unwrap_or_default().saturating_sub(now).max(1);
        Reduced { wake, ..Reduced::new(bytes, ttl_ms, outcome) }
    }

    fn lookup(&mut self, lookup: &Lookup, now: u64) -> Found {
        let ticket = lookup.ticket;
        let leads = self.lead.is_some_and(|lead| lead.ticket == ticket);
        if let Some(answer) = &self.answer {
            self.waiting.retain(|(waiting, _)| *waiting != ticket);
            if leads {
                self.lead = None;
            }
            if answer.value.is_empty() {
                return Found::Miss;
            }
            return Found::Hit { value: answer.value.clone(), stored_ms: answer.stored_ms };
        }
        if self.lead.is_none() || leads {
            self.waiting.retain(|(waiting, _)| *waiting != ticket);
            self.lead = Some(Lead { ticket, until_ms: now.saturating_add(u64::from(lookup.lead_ms)) });
            return Found::Lead;
        }
        if let Some((_, seen_ms)) = self.waiting.iter_mut().find(|(waiting, _)| *waiting == ticket) {
            *seen_ms = now.max(*seen_ms);
            return Found::Wait;
        }
        if self.waiting.len() >= usize::from(lookup.places) {
            return Found::Miss;
        }
        self.waiting.push((ticket, now));
        Found::Wait
    }
}

#[cfg(test)]
mod tests;
