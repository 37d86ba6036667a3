#[cfg(not(target_arch = "wasm32"))]
use std::collections::BTreeMap;

#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::{Op, reduce};

const LEAD: u32 = 60_000;

/// One question's cell, and who was woken.
#[derive(Default)]
struct Cell {
    bytes: Option<ByteBuf>,
    woken: Vec<u64>,
}

impl Cell {
    fn apply(&mut self, op: &Op, now: u64) -> Outcome {
        let reduced = reduce(op, self.bytes.as_deref().map(Vec::as_slice), now);
        assert!(reduced.ttl_ms > 0);
        self.bytes = (!reduced.new.is_empty()).then_some(reduced.new);
        self.woken = reduced.wake;
        reduced.outcome
    }

    fn look(&mut self, ticket: u64, now: u64) -> Found {
        let op = Op::Lookup(Lookup { ticket, lead_ms: LEAD, places: 3 });
        assert_eq!(op.ticket(), Some(ticket));
        let outcome = self.apply(&op, now);
        assert!(self.woken.is_empty());
        match outcome {
            Outcome::Cached(found) => found,
            other => panic!("{other:?}"),
        }
    }

    fn fill(&mut self, ticket: u64, value: &[u8], ttl_ms: u64, now: u64) {
        let fill = Fill { ticket, value: ByteBuf::from(value), ttl_ms };
        assert_eq!(self.apply(&Op::Fill(fill), now), Outcome::Written);
    }

    fn abandon(&mut self, ticket: u64, now: u64) {
        assert_eq!(self.apply(&Op::Abandon { ticket }, now), Outcome::Written);
    }
}

fn hit(value: &[u8], stored_ms: u64) -> Found {
    Found::Hit { value: ByteBuf::from(value), stored_ms }
}

#[test]
fn one_asks_and_the_others_get_its_answer() {
    let mut cell = Cell::default();
    assert_eq!(cell.look(1, 0), Found::Lead);
    assert_eq!(cell.look(2, 10), Found::Wait);
    assert_eq!(cell.look(3, 20), Found::Wait);
    assert_eq!(cell.look(2, 2_000), Found::Wait, "it asks again, and has one place");
    cell.fill(1, b"answer", 300_000, 3_000);
    assert_eq!(cell.woken, [2, 3]);
    assert_eq!(cell.look(2, 3_001), hit(b"answer", 3_000));
    assert_eq!(cell.look(9, 302_999), hit(b"answer", 3_000));
    assert_eq!(cell.look(9, 303_000), Found::Lead, "its time is over");
}

#[test]
fn an_outcome_that_needs_no_turn_ends_the_list() {
    let found = |found| Outcome::Cached(found);
    assert!(found(hit(b"a", 1)).stops() && found(Found::Wait).stops());
    assert!(!found(Found::Lead).stops() && !found(Found::Miss).stops());
    assert!(found(Found::Wait).waits() && !found(Found::Lead).waits());
}

#[test]
fn a_leader_that_fails_hands_on() {
    let mut cell = Cell::default();
    cell.look(1, 0);
    cell.look(2, 1);
    cell.look(3, 2);
    cell.abandon(1, 100);
    assert_eq!(cell.woken, [2], "one is enough");
    assert_eq!(cell.look(4, 101), Found::Wait, "a newcomer does not overtake it");
    assert_eq!(cell.look(2, 102), Found::Lead);
    cell.abandon(2, 200);
    assert_eq!(cell.woken, [3]);
    // 3 is gone: whoever asks next leads.
    assert_eq!(cell.look(4, 4_199), Found::Wait);
    assert_eq!(cell.look(4, 4_200), Found::Lead);
    cell.abandon(4, 4_300);
    assert_eq!(cell.bytes, None, "nothing is kept of it");
}

#[test]
fn a_dead_leader_is_replaced_in_time() {
    let mut cell = Cell::default();
    cell.look(1, 0);
    for now in (0..60_000).step_by(2_000) {
        assert_eq!(cell.look(2, now), Found::Wait, "{now}");
    }
    assert_eq!(cell.look(2, 60_000), Found::Lead);
    assert_eq!(cell.look(3, 60_001), Found::Wait);
    // The first one was only slow: its answer is as good, and the others need not wait.
    cell.fill(1, b"late", 1_000, 60_500);
    assert_eq!(cell.woken, [3]);
    assert_eq!(cell.look(3, 60_501), hit(b"late", 60_500));
    cell.fill(2, b"second", 1_000, 61_000);
    assert_eq!(cell.look(3, 61_001), hit(b"second", 61_000));
}

#[test]
fn who_leaves_is_not_waited_for() {
    let mut cell = Cell::default();
    cell.look(1, 0);
    cell.look(2, 1);
    cell.look(3, 1);
    cell.abandon(2, 2);
    assert!(cell.woken.is_empty());
    cell.abandon(1, 3);
    assert_eq!(cell.woken, [3]);
}

#[test]
fn places_are_bounded_and_free_again() {
    let mut cell = Cell::default();
    cell.look(1, 0);
    for ticket in 2..5 {
        assert_eq!(cell.look(ticket, 0), Found::Wait);
    }
    assert_eq!(cell.look(5, 1), Found::Miss);
    // 2 to 4 are never heard of again.
    assert_eq!(cell.look(5, PLACE_MS), Found::Wait);
    // Who asked without leading may fill as well.
    cell.fill(9, b"answer", 1_000, PLACE_MS + 1);
    assert_eq!(cell.look(5, PLACE_MS + 2), hit(b"answer", PLACE_MS + 1));
}

#[test]
fn what_may_not_be_kept_is_asked_for_by_everybody_at_once() {
    for value in [Vec::new(), vec![b'x'; MOST_BYTES + 1]] {
        let mut cell = Cell::default();
        cell.look(1, 0);
        cell.look(2, 0);
        cell.look(3, 0);
        cell.fill(1, &value, 3_600_000, 1_000);
        assert_eq!(cell.woken, [2, 3]);
        assert_eq!(cell.look(2, 1_001), Found::Miss);
        assert_eq!(cell.look(3, 1_001), Found::Miss);
        assert_eq!(cell.look(4, 60_999), Found::Miss);
        assert_eq!(cell.look(4, 61_000), Found::Lead, "perhaps another answer fits");
        assert!(cell.bytes.as_ref().is_some_and(|bytes| bytes.len() < 40));
    }
    let mut cell = Cell::default();
    cell.fill(1, &vec![b'x'; MOST_BYTES], 10_000, 0);
    assert!(matches!(cell.look(2, 1), Found::Hit { .. }));
    cell.fill(2, b"", 10_000, 2);
    assert!(matches!(cell.look(2, 3), Found::Hit { .. }), "what is there stays");
}

#[test]
fn a_hit_changes_nothing() {
    let mut cell = Cell::default();
    cell.fill(1, b"answer", 10_000, 0);
    let before = cell.bytes.clone();
    cell.look(2, 5);
    assert_eq!(cell.bytes, before);
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// Over any history: never two leaders at one time, an answer is what was filled in and never
    /// older than its time, and nobody who waits is left alone: it is woken by a fill, is handed
    /// the lead, or there is somebody who leads.
    #[test]
    fn any_history(
        events in proptest::collection::vec((0u64..8, 0u8..8, prop_oneof![0u64..100, 0u64..8_000]), 1..300),
        lead_ms in 1u32..30_000, places in 0u16..6,
    ) {
        let (mut cell, mut now) = (Cell::default(), 0);
        // Who leads until when, and who waits since it asked last, as they themselves believe.
        let mut leads: BTreeMap<u64, u64> = BTreeMap::new();
        let mut waits: BTreeMap<u64, u64> = BTreeMap::new();
        let mut filled: Option<(Vec<u8>, u64, u64)> = None;
        for (ticket, kind, gap) in events {
            now += gap;
            leads.retain(|_, until| *until > now);
            waits.retain(|_, asked| *asked + PLACE_MS > now);
            filled = filled.filter(|(_, _, until)| *until > now);
            match kind {
                0..=3 => {
                    let op = Op::Lookup(Lookup { ticket, lead_ms, places });
                    let Outcome::Cached(found) = cell.apply(&op, now) else { panic!() };
                    prop_assert!(cell.woken.is_empty());
                    leads.remove(&ticket);
                    waits.remove(&ticket);
                    match found {
                        Found::Hit { value, stored_ms } => {
                            let (bytes, stored, _) = filled.as_ref().expect("something was filled in");
                            prop_assert_eq!((value.as_slice(), stored_ms), (bytes.as_slice(), *stored));
                            prop_assert!(!bytes.is_empty());
                        }
                        Found::Lead => {
                            prop_assert!(filled.is_none());
                            leads.insert(ticket, now + u64::from(lead_ms));
                        }
                        Found::Wait => {
                            prop_assert!(filled.is_none());
                            waits.insert(ticket, now);
                            prop_assert!(waits.len() <= usize::from(places));
                        }
                        Found::Miss => {
                            let unkept = filled.as_ref().is_some_and(|(bytes, _, _)| bytes.is_empty());
                            prop_assert!(unkept || waits.len() >= usize::from(places));
                        }
                    }
                }
                4 | 5 => {
                    let value = if kind == 4 { vec![1; now as usize % 9 + 1] } else { Vec::new() };
                    let fill = Fill { ticket, value: ByteBuf::from(value.clone()), ttl_ms: 5_000 };
                    cell.apply(&Op::Fill(fill), now);
                    leads.remove(&ticket);
                    prop_assert_eq!(cell.woken.iter().copied().collect::<std::collections::BTreeSet<_>>(),
                        waits.keys().copied().collect());
                    waits.clear();
                    if kind == 4 || filled.is_none() {
                        filled = Some((value, now, now + 5_000));
                    }
                }
                _ => {
                    let led = leads.remove(&ticket).is_some();
                    cell.apply(&Op::Abandon { ticket }, now);
                    waits.remove(&ticket);
                    prop_assert!(cell.woken.len() <= 1);
                    prop_assert!(!led || filled.is_some() || waits.is_empty() || !cell.woken.is_empty());
                    for woken in &cell.woken {
                        prop_assert!(waits.remove(woken).is_some());
                    }
                }
            }
            prop_assert!(leads.len() <= 1, "{leads:?}");
        }
        // Whoever goes on asking gets there, whatever the others do not do any more.
        let mut tries = 0;
        let op = Op::Lookup(Lookup { ticket: 99, lead_ms, places: 9 });
        while cell.apply(&op, now).waits() {
            now += 2_000;
            tries += 1;
            prop_assert!(tries <= 1 + lead_ms.max(4_000) / 2_000 + 1);
        }
    }

    /// Bytes of any kind are survived.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..60), now in any::<u32>()) {
        let mut cell = Cell { bytes: Some(ByteBuf::from(bytes)), ..Cell::default() };
        let now = u64::from(now);
        cell.look(1, now);
        cell.abandon(1, now);
        cell.fill(2, b"v", 1, now);
    }
}
