//! What hosts without a memory of their own have counted, and how often something happened.
//!
//! Cells only grow: a reader that adds them up sees counters that are never reset while the store
//! lives.

use serde_bytes::ByteBuf;

use super::{Outcome, Reduced, encode};
use crate::measure::Totals;

/// Counts that nobody added to for so long begin anew.
const KEPT_MS: u64 = 30 * 86_400_000;
/// The most bytes of a cell: a value of a Durable Object may have 128 KiB.
const MOST_BYTES: usize = 120 * 1024;

/// Adds totals to those that are there.
pub(super) fn absorb(more: &[u8], old: Option<&[u8]>) -> Reduced {
    let mut totals = old.map(Totals::decode).unwrap_or_default();
    totals.merge(&Totals::decode(more));
    let mut bytes = totals.encode();
    if bytes.len() > MOST_BYTES {
        totals.forget_recent();
        bytes = totals.encode();
    }
    Reduced::new(bytes, KEPT_MS, Outcome::Written)
}

/// Gives them.
pub(super) fn totals(old: Option<&[u8]>) -> Reduced {
    let bytes = old.map(<[u8]>::to_vec).unwrap_or_default();
    let value = (!bytes.is_empty()).then(|| ByteBuf::from(bytes.clone()));
    Reduced::new(bytes, KEPT_MS, Outcome::Value(value))
}

/// Counts.
pub(super) fn count(add: u32, old: Option<&[u8]>) -> Reduced {
    let known = old.and_then(|bytes| postcard::from_bytes::<u64>(bytes).ok()).unwrap_or_default();
    let sum = known.saturating_add(u64::from(add));
    Reduced::new(encode(&sum), KEPT_MS, Outcome::Counted(sum))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use crate::{
        measure::{Sample, Totals},
        state::{Op, Outcome, reduce},
    };
    use serde_bytes::ByteBuf;

    #[test]
    fn counts_of_two_hosts_are_one_sum() {
        let mut totals = Totals::default();
        totals.absorb(&Sample { route: "/api/chat".into(), status: 200, ..Sample::default() }, 5);
        let op = Op::Absorb { totals: ByteBuf::from(totals.encode()) };
        let one = reduce(&op, None, 5);
        let two = reduce(&op, Some(&one.new), 6);
        totals.merge(&totals.clone());
        assert_eq!(reduce(&Op::Totals, Some(&two.new), 7).outcome, Outcome::Value(Some(two.new.clone())));
        assert_eq!(Totals::decode(&two.new), totals);
        assert_eq!(reduce(&Op::Totals, None, 7).outcome, Outcome::Value(None));
    }

    #[test]
    fn starts_are_counted() {
        let one = reduce(&Op::Count { add: 1 }, None, 5);
        let two = reduce(&Op::Count { add: 1 }, Some(&one.new), 5);
        assert_eq!((one.outcome, two.outcome), (Outcome::Counted(1), Outcome::Counted(2)));
        assert_eq!(reduce(&Op::Count { add: 0 }, Some(&two.new), 5).outcome, Outcome::Counted(2));
    }
}
