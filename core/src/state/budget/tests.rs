#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
use serde_bytes::ByteBuf;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::{Op, reduce};

/// Noon of 2026-11-22 in China.
const NOON: u64 = 1_795_320_000_000;
const TODAY: u32 = 20_779;

/// One key's cell.
#[derive(Default)]
struct Cell(Option<ByteBuf>);

impl Cell {
    fn apply(&mut self, op: &Op, now: u64) -> Outcome {
        let reduced = reduce(op, self.0.as_deref().map(Vec::as_slice), now);
        assert!(reduced.ttl_ms > 0);
        self.0 = Some(reduced.new);
        reduced.outcome
    }

    /// The tokens that are granted, or the cap that is reached.
    fn reserve(&mut self, want_tokens: u32, now: u64) -> Result<u32, Cap> {
        let reserve = Reserve { want_tokens, ..request(day(now)) };
        match self.apply(&Op::Reserve(reserve), now) {
            Outcome::Reserved { tokens, .. } => Ok(tokens),
            Outcome::Exhausted { cap, retry_after_ms } => {
                assert_eq!(retry_after_ms, end_ms(day(now)) - now);
                Err(cap)
            }
            other => panic!("{other:?}"),
        }
    }

    fn settle(&mut self, reserved: u32, used: u32, now: u64) {
        let settle = Settle { day: day(now), reserved, used, happened: true };
        assert_eq!(self.apply(&Op::Settle(settle), now), Outcome::Written);
    }
}

/// Three turns and 10,000 tokens a day.
fn request(day: u32) -> Reserve {
    Reserve { day, requests_cap: Some(3), tokens_cap: Some(10_000), want_tokens: 2_000, least_tokens: 500 }
}

#[test]
fn a_day_is_chinas() {
    assert_eq!(day(NOON), TODAY);
    assert_eq!(end_ms(TODAY), NOON + 12 * 3_600_000);
    assert_eq!(day(end_ms(TODAY) - 1), TODAY);
    assert_eq!(day(end_ms(TODAY)), TODAY + 1);
}

#[test]
fn turns_are_capped() {
    let mut cell = Cell::default();
    for left in [2, 1, 0] {
        let Outcome::Reserved { tokens: 2_000, requests_left, .. } =
            cell.apply(&Op::Reserve(request(TODAY)), NOON)
        else {
            panic!()
        };
        assert_eq!(requests_left, Some(left));
    }
    let refused = cell.apply(&Op::Reserve(request(TODAY)), NOON);
    assert_eq!(refused, Outcome::Exhausted { cap: Cap::Requests, retry_after_ms: 12 * 3_600_000 });
    assert!(refused.stops(), "nobody else is asked");
    assert_eq!(cell.reserve(2_000, end_ms(TODAY)), Ok(2_000), "the next day");
}

#[test]
fn tokens_are_reserved_and_settled() {
    let mut cell = Cell::default();
    assert_eq!(cell.reserve(9_000, NOON), Ok(9_000));
    assert_eq!(cell.reserve(2_000, NOON), Ok(1_000), "less than wanted, and enough to begin");
    assert_eq!(cell.reserve(2_000, NOON), Err(Cap::Tokens));
    cell.settle(9_000, 8_000, NOON);
    cell.settle(1_000, 400, NOON);
    assert_eq!(cell.reserve(2_000, NOON), Ok(1_600));
    // A turn may cost more than it reserved: an agent calls tools. The next ones pay for it.
    cell.settle(1_600, 50_000, NOON);
    assert_eq!(cell.reserve(500, NOON), Err(Cap::Requests));
    assert_eq!(cell.reserve(500, end_ms(TODAY)), Ok(500));
}

/// The role's cell refuses: the exchange takes the person's reservation back.
#[test]
fn what_did_not_happen_counts_as_nothing() {
    let mut cell = Cell::default();
    let before = cell.reserve(2_000, NOON).map(|tokens| (tokens, cell.0.clone()));
    let (tokens, before) = before.expect("granted");
    assert_eq!(cell.reserve(2_000, NOON), Ok(tokens));
    let settle = Settle { day: TODAY, reserved: tokens, used: 0, happened: false };
    cell.apply(&Op::Settle(settle), NOON);
    assert_eq!(cell.0, before);
}

#[test]
fn a_dead_hosts_reservation_ends_with_the_day() {
    let mut cell = Cell::default();
    cell.reserve(10_000, NOON).expect("granted");
    assert_eq!(cell.reserve(500, end_ms(TODAY) - 1), Err(Cap::Tokens));
    assert_eq!(cell.reserve(10_000, end_ms(TODAY)), Ok(10_000));
}

#[test]
fn what_was_reserved_before_midnight_is_not_the_next_days() {
    let mut cell = Cell::default();
    cell.reserve(5_000, NOON).expect("granted");
    let tomorrow = end_ms(TODAY) + 1;
    cell.reserve(10_000, tomorrow).expect("granted");
    let late = Settle { day: TODAY, reserved: 5_000, used: 5_000, happened: true };
    cell.apply(&Op::Settle(late), tomorrow);
    assert_eq!(cell.reserve(500, tomorrow), Err(Cap::Tokens), "nothing was given back");
    // A host whose clock is behind does not bring yesterday back.
    let behind = cell.apply(&Op::Reserve(request(TODAY)), tomorrow);
    assert!(matches!(behind, Outcome::Exhausted { cap: Cap::Tokens, .. }));
}

#[test]
fn no_caps_grant_everything() {
    let open = Reserve { requests_cap: None, tokens_cap: None, least_tokens: 9_999, ..request(TODAY) };
    let mut cell = Cell::default();
    for _ in 0..100 {
        let outcome = cell.apply(&Op::Reserve(open), NOON);
        assert_eq!(outcome, Outcome::Reserved { tokens: 2_000, requests_left: None, tokens_left: None });
    }
    let nothing = Reserve { tokens_cap: Some(0), ..open };
    assert!(cell.apply(&Op::Reserve(nothing), NOON).stops());
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// Over any history, what was settled and what may still come are together never over the
    /// cap while no turn costs more than it reserved; and what is settled is free again.
    #[test]
    fn never_over_the_cap(
        events in proptest::collection::vec((any::<bool>(), 0u32..4_000, 0u64..20_000_000), 1..200),
    ) {
        let (mut cell, mut now, mut today) = (Cell::default(), NOON, TODAY);
        let (mut open, mut used, mut requests) = (Vec::new(), 0_u64, 0_u32);
        for (is_reserve, number, gap) in events {
            now += gap;
            if day(now) != today {
                (today, used, requests) = (day(now), 0, 0);
                open.clear();
            }
            if is_reserve {
                let reserve = Reserve { want_tokens: number, requests_cap: Some(30), ..request(today) };
                match cell.apply(&Op::Reserve(reserve), now) {
                    Outcome::Reserved { tokens, requests_left, tokens_left } => {
                        open.push(tokens);
                        requests += 1;
                        prop_assert!(tokens <= number && tokens >= number.min(500));
                        let reserved: u64 = open.iter().map(|tokens| u64::from(*tokens)).sum();
                        prop_assert_eq!(tokens_left, Some(10_000 - used - reserved));
                        prop_assert_eq!(requests_left, Some(30 - requests));
                    }
                    Outcome::Exhausted { cap, .. } => {
                        let reserved: u64 = open.iter().map(|tokens| u64::from(*tokens)).sum();
                        let least = u64::from(number.min(500));
                        prop_assert_eq!(cap == Cap::Requests, requests == 30);
                        prop_assert!(cap == Cap::Requests || used + reserved + least > 10_000);
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            } else if !open.is_empty() {
                let reserved = open.swap_remove(number as usize % open.len());
                let happened = number % 3 > 0;
                let cost = if happened { number.min(reserved) } else { 0 };
                (used, requests) = (used + u64::from(cost), requests - u32::from(!happened));
                cell.apply(&Op::Settle(Settle { day: today, reserved, used: cost, happened }), now);
            }
            prop_assert!(cell.0.as_ref().is_none_or(|bytes| bytes.len() < 40));
        }
    }

    /// Bytes of any kind are survived.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..40), now in 0u64..1 << 60) {
        let mut cell = Cell(Some(ByteBuf::from(bytes)));
        cell.apply(&Op::Reserve(request(5)), now);
        cell.apply(&Op::Settle(Settle { day: 5, reserved: 9, used: 9, happened: true }), now);
    }
}
