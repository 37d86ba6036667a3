//! What one exchange waits for and another one brings: a verdict that WeChat pushes to whichever
//! host it reaches.
//!
//! It may come before anybody asks, and more than once: what came first stays, so a message that
//! is repeated changes nothing.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Outcome, Reduced, encode};

/// Those that are remembered as waiting for one thing; one is usual.
const MOST_WAITING: usize = 8;

/// What is stored under a key.
#[derive(Default, Serialize, Deserialize)]
struct News {
    value: Option<ByteBuf>,
    /// Tickets to wake when it comes.
    waiting: Vec<u64>,
    until_ms: u64,
}

fn read(old: Option<&[u8]>, now: u64) -> News {
    let news = old.and_then(|bytes| postcard::from_bytes::<News>(bytes).ok());
    news.filter(|news| news.until_ms > now).unwrap_or_default()
}

/// Gives what is there, or remembers who waits.
pub(super) fn wait(ticket: u64, ttl_ms: u64, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut news = read(old, now);
    if news.value.is_none() {
        news.until_ms = news.until_ms.max(now.saturating_add(ttl_ms));
        if !news.waiting.contains(&ticket) && news.waiting.len() < MOST_WAITING {
            news.waiting.push(ticket);
        }
    }
    let outcome = match &news.value {
        Some(value) => Outcome::Value(Some(value.clone())),
        None => Outcome::Queued { ahead: 0 },
    };
    Reduced::new(encode(&news), (news.until_ms - now).max(1), outcome)
}

/// Keeps it, when nothing is there, and wakes who waits.
pub(super) fn bring(value: &ByteBuf, ttl_ms: u64, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut news = read(old, now);
    if news.value.is_none() {
        news.value = Some(value.clone());
        news.until_ms = now.saturating_add(ttl_ms.max(1));
    }
    let wake = core::mem::take(&mut news.waiting);
    Reduced { wake, ..Reduced::new(encode(&news), news.until_ms - now, Outcome::Written) }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::state::{Op, reduce};

    /// One key.
    #[derive(Default)]
    struct Cell(Option<ByteBuf>);

    impl Cell {
        fn apply(&mut self, op: &Op, now: u64) -> Reduced {
            let reduced = reduce(op, self.0.as_deref().map(Vec::as_slice), now);
            assert!(reduced.ttl_ms > 0);
            self.0 = Some(reduced.new.clone());
            reduced
        }

        fn wait(&mut self, ticket: u64, now: u64) -> Option<Vec<u8>> {
            match self.apply(&Op::Await { ticket, ttl_ms: 100 }, now).outcome {
                Outcome::Value(Some(value)) => Some(value.into_vec()),
                Outcome::Queued { ahead: 0 } => None,
                other => panic!("{other:?}"),
            }
        }

        fn bring(&mut self, value: &[u8], now: u64) -> Vec<u64> {
            self.apply(&Op::Bring { value: ByteBuf::from(value), ttl_ms: 1_000 }, now).wake
        }
    }

    #[test]
    fn whoever_waits_is_woken_once_and_finds_what_came_first() {
        let mut cell = Cell::default();
        assert_eq!((cell.wait(7, 1), cell.wait(7, 2), cell.wait(8, 3)), (None, None, None));
        assert_eq!(cell.bring(b"first", 4), [7, 8]);
        assert_eq!(cell.bring(b"second", 5), [0_u64; 0], "a message that comes again");
        assert_eq!(cell.wait(7, 6), Some(b"first".to_vec()));
        assert_eq!(cell.wait(7, 1_003), Some(b"first".to_vec()));
        assert_eq!(cell.wait(7, 1_004), None, "it has had its time");
    }

    #[test]
    fn what_comes_before_it_is_asked_for_is_found() {
        let mut cell = Cell::default();
        assert_eq!(cell.bring(b"v", 1), [0_u64; 0]);
        assert_eq!(cell.wait(7, 2), Some(b"v".to_vec()));
    }

    #[test]
    fn nobody_waits_for_ever_and_few_are_remembered() {
        let mut cell = Cell::default();
        for ticket in 0..20 {
            assert_eq!(cell.wait(ticket, 1), None);
        }
        assert_eq!(cell.bring(b"v", 2).len(), MOST_WAITING);
        let mut cell = Cell::default();
        assert_eq!(cell.wait(7, 1), None);
        assert_eq!(cell.bring(b"v", 101), [0_u64; 0], "it has given up");
        for bytes in [&b""[..], &[0xff; 40]] {
            assert!(reduce(&Op::Await { ticket: 1, ttl_ms: 1 }, Some(bytes), 5).wake.is_empty());
        }
    }
}
