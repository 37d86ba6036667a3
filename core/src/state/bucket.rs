//! A token bucket: a caller may burst up to its size and then goes at its rate.
//!
//! Counted in 1/60,000 of a token, so that one millisecond at one token per minute is
//! exactly one unit and nothing is lost to rounding.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Outcome, Reduced};

/// Units in a token: milliseconds in a minute.
const TOKEN: u64 = 60_000;

/// What is stored under a key.
#[derive(Serialize, Deserialize)]
struct Bucket {
    units: u64,
    at_ms: u64,
}

/// Takes a token if there is one. A clock that ran backwards gives nothing and takes
/// nothing.
pub(super) fn take(capacity: u32, per_minute: u32, old: Option<&[u8]>, now: u64) -> Reduced {
    let rate = u64::from(per_minute.max(1));
    let full = u64::from(capacity.max(1)) * TOKEN;
    let stored = old.and_then(|bytes| postcard::from_bytes::<Bucket>(bytes).ok());
    let (mut units, at_ms) = match stored {
        Some(Bucket { units, at_ms }) => {
            let gained = now.saturating_sub(at_ms).saturating_mul(rate);
            (units.saturating_add(gained).min(full), at_ms.max(now))
        }
        None => (full, now),
    };
    let granted = units >= TOKEN;
    if granted {
        units -= TOKEN;
    }
    let full_after_ms = (full - units).div_ceil(rate);
    Reduced {
        new: ByteBuf::from(postcard::to_allocvec(&Bucket { units, at_ms }).unwrap_or_default()),
        ttl_ms: full_after_ms.max(1),
        outcome: Outcome::Token {
            granted,
            remaining: u32::try_from(units / TOKEN).unwrap_or(u32::MAX),
            retry_after_ms: TOKEN.saturating_sub(units).div_ceil(rate),
            full_after_ms,
        },
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn granted(reduced: &Reduced) -> bool {
        matches!(reduced.outcome, Outcome::Token { granted: true, .. })
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut bytes: Option<ByteBuf> = None;
        let mut passed = 0;
        for _ in 0..10 {
            let reduced = take(3, 60, bytes.as_deref().map(Vec::as_slice), 1_000);
            passed += u32::from(granted(&reduced));
            bytes = Some(reduced.new);
        }
        assert_eq!(passed, 3);
        let reduced = take(3, 60, bytes.as_deref().map(Vec::as_slice), 1_999);
        let Outcome::Token { granted, retry_after_ms, .. } = reduced.outcome else { panic!() };
        assert!(!granted);
        assert_eq!(retry_after_ms, 1);
        assert!(matches!(
            take(3, 60, bytes.as_deref().map(Vec::as_slice), 2_000).outcome,
            Outcome::Token { granted: true, remaining: 0, .. }
        ));
    }

    #[test]
    fn unreadable_bytes_count_as_absent() {
        assert!(granted(&take(1, 1, Some(&[0xff; 3]), 5)));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        /// Over any history, no more passes than the burst plus what the rate gave.
        #[test]
        fn never_more_than_burst_plus_rate(
            capacity in 1u32..50, per_minute in 1u32..6000,
            gaps in proptest::collection::vec(0u64..3000, 1..200),
        ) {
            let (mut now, mut passed, mut bytes) = (1_000_000u64, 0u64, None::<ByteBuf>);
            let start = now;
            for gap in gaps {
                now += gap;
                let reduced = take(capacity, per_minute, bytes.as_deref().map(Vec::as_slice), now);
                if let Outcome::Token { granted, remaining, retry_after_ms, .. } = reduced.outcome {
                    passed += u64::from(granted);
                    prop_assert!(remaining < capacity || !granted);
                    prop_assert!(granted || retry_after_ms > 0);
                }
                bytes = Some(reduced.new);
            }
            let allowed = u64::from(capacity) + (now - start) * u64::from(per_minute) / 60_000;
            prop_assert!(passed <= allowed, "{passed} > {allowed}");
        }
    }
}
