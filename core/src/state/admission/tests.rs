#[cfg(not(target_arch = "wasm32"))]
use std::collections::BTreeMap;
use std::collections::BTreeSet;

#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
use serde_bytes::ByteBuf;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::{Op, reduce};

/// One upstream's cell, and what it said last to each ticket.
struct Cell {
    bytes: Option<ByteBuf>,
    slots: u16,
    places: u16,
    woken: BTreeSet<u64>,
}

impl Cell {
    fn new(slots: u16, places: u16) -> Self {
        Self { bytes: None, slots, places, woken: BTreeSet::new() }
    }

    fn apply(&mut self, op: &Op, now: u64) -> Outcome {
        let reduced = reduce(op, self.bytes.as_deref().map(Vec::as_slice), now);
        self.bytes = Some(reduced.new);
        self.woken.extend(reduced.wake);
        reduced.outcome
    }

    fn request(&self, ticket: u64, flow: u64) -> Admit {
        Admit {
            ticket,
            flow,
            weight: 1,
            session: None,
            model: 1,
            give_up_ms: u64::MAX,
            lease_ms: 15_000,
            slots: self.slots,
            model_slots: self.slots,
            places: self.places,
            replicas: 1,
            avoid: None,
        }
    }

    fn ask(&mut self, ticket: u64, flow: u64, now: u64) -> Outcome {
        let request = self.request(ticket, flow);
        self.apply(&Op::Admit(request), now)
    }

    fn end(&mut self, ticket: u64, verdict: Verdict, now: u64) {
        let release = Release { ticket, flow: ticket, model: 1, verdict, slots: self.slots };
        assert_eq!(self.apply(&Op::Release(release), now), Outcome::Written);
    }
}

fn reason(outcome: &Outcome) -> Option<Refusal> {
    match outcome {
        Outcome::Refused { reason, .. } => Some(*reason),
        _ => None,
    }
}

#[test]
fn slots_then_places_then_no() {
    let mut cell = Cell::new(2, 2);
    assert_eq!(cell.ask(1, 1, 0), Outcome::Admitted);
    assert_eq!(cell.ask(2, 2, 0), Outcome::Admitted);
    assert_eq!(cell.ask(3, 3, 0), Outcome::Queued { ahead: 0 });
    assert_eq!(cell.ask(4, 4, 0), Outcome::Queued { ahead: 0 });
    assert_eq!(reason(&cell.ask(5, 5, 0)), Some(Refusal::Full));
    cell.end(1, Verdict::Well, 100);
    assert_eq!(cell.woken, BTreeSet::from([3]));
    assert_eq!(cell.ask(3, 3, 101), Outcome::Admitted);
    assert!(matches!(cell.ask(4, 4, 101), Outcome::Queued { .. }));
}

/// The replica of a lease.
fn at(outcome: &Outcome) -> Option<u8> {
    match outcome {
        Outcome::Admitted => Some(0),
        Outcome::AdmittedTo { replica } => Some(*replica),
        _ => None,
    }
}

#[test]
fn the_least_busy_replica_takes_the_next_turn() {
    let mut cell = Cell::new(6, 4);
    let ask = |cell: &mut Cell, ticket, avoid, now| {
        let request = Admit { replicas: 3, model_slots: 2, avoid, ..cell.request(ticket, ticket) };
        at(&cell.apply(&Op::Admit(request), now))
    };
    let mut taken: Vec<_> = (1..=6).map(|ticket| ask(&mut cell, ticket, None, 0)).collect();
    taken[..3].sort_unstable();
    assert_eq!(taken[..3], [Some(0), Some(1), Some(2)], "each has one before any has two");
    taken.sort_unstable();
    assert_eq!(taken, [0, 0, 1, 1, 2, 2].map(Some));
    assert_eq!(ask(&mut cell, 7, None, 0), None);
    // Its place is given to whoever is free, and it is told where.
    let first = ask(&mut cell, 1, None, 1);
    cell.end(1, Verdict::Well, 100);
    assert_eq!(ask(&mut cell, 7, None, 101), first);
}

#[test]
fn a_replica_that_failed_is_passed_over_until_one_request_has_tried_it() {
    let mut cell = Cell::new(8, 4);
    let ask = |cell: &mut Cell, ticket, avoid, now| {
        let request = Admit { replicas: 2, model_slots: 4, avoid, ..cell.request(ticket, ticket) };
        cell.apply(&Op::Admit(request), now)
    };
    let end = |cell: &mut Cell, ticket, number, verdict, now| {
        let model = replica(1, number);
        let release = Release { ticket, flow: ticket, model, verdict, slots: 8 };
        cell.apply(&Op::Release(release), now);
    };
    for ticket in 1..=5 {
        assert_eq!(at(&ask(&mut cell, ticket, Some(0), 0)), Some(1));
        end(&mut cell, ticket, 1, Verdict::Failed, 0);
    }
    for ticket in 10..13 {
        assert_eq!(at(&ask(&mut cell, ticket, None, 1)), Some(0), "the other one is given a rest");
    }
    assert_eq!(reason(&ask(&mut cell, 20, Some(0), 1)), Some(Refusal::Unhealthy));
    // One tries, and the others wait for what comes of it.
    assert_eq!(at(&ask(&mut cell, 21, None, 2_001)), Some(1));
    assert_eq!(at(&ask(&mut cell, 22, None, 2_001)), Some(0));
    end(&mut cell, 21, 1, Verdict::Well, 2_002);
    assert_eq!(at(&ask(&mut cell, 23, None, 2_003)), Some(1));
}

#[test]
fn a_dead_host_frees_its_slots_and_its_places() {
    let mut cell = Cell::new(1, 5);
    cell.ask(1, 1, 0);
    cell.ask(2, 2, 0);
    cell.ask(3, 3, 5_000);
    // 1 and 2 are never heard of again; 3 asks on.
    for now in (7_000..15_000).step_by(2_000) {
        assert!(matches!(cell.ask(3, 3, now), Outcome::Queued { ahead: 0 }), "{now}");
    }
    assert_eq!(cell.ask(3, 3, 15_000), Outcome::Admitted);
}

#[test]
fn a_renewed_lease_lasts_and_an_ended_one_is_not_revived() {
    let mut cell = Cell::new(1, 5);
    cell.ask(1, 1, 0);
    cell.apply(&Op::Renew { ticket: 1, lease_ms: 15_000 }, 14_000);
    assert!(matches!(cell.ask(2, 2, 20_000), Outcome::Queued { .. }));
    cell.end(2, Verdict::Unknown, 20_000);
    assert_eq!(cell.ask(3, 3, 29_000), Outcome::Admitted);
    cell.apply(&Op::Renew { ticket: 1, lease_ms: 15_000 }, 29_001);
    assert!(matches!(cell.ask(4, 4, 29_002), Outcome::Queued { .. }), "one slot, one lease");
    cell.end(3, Verdict::Well, 29_003);
    assert_eq!(cell.ask(4, 4, 29_004), Outcome::Admitted);
}

#[test]
fn an_offer_that_is_not_taken_up_goes_on() {
    let mut cell = Cell::new(1, 5);
    cell.ask(1, 1, 0);
    cell.ask(2, 2, 0);
    cell.ask(3, 3, 1);
    cell.end(1, Verdict::Well, 10);
    assert_eq!(cell.woken, BTreeSet::from([2]));
    assert!(matches!(cell.ask(3, 3, 2_000), Outcome::Queued { .. }));
    assert!(matches!(cell.ask(3, 3, 4_009), Outcome::Queued { .. }));
    assert_eq!(cell.ask(3, 3, 4_010), Outcome::Admitted);
}

#[test]
fn a_busy_caller_does_not_starve_the_others() {
    let mut cell = Cell::new(1, 100);
    for ticket in 0..50 {
        cell.ask(ticket, 1, 0);
    }
    cell.ask(100, 2, 1);
    cell.ask(101, 3, 1);
    cell.ask(102, 2, 1);
    let mut order = Vec::new();
    let mut running = 0;
    for now in 2..8 {
        cell.woken.clear();
        cell.end(running, Verdict::Well, now);
        running = *cell.woken.first().expect("somebody is next");
        assert_eq!(cell.ask(running, 0, now), Outcome::Admitted);
        order.push(running);
    }
    assert!(order[..3].contains(&100) && order[..3].contains(&101), "{order:?}");
    assert!(order[..5].contains(&102), "{order:?}");
}

#[test]
fn weights_share_the_slots() {
    let mut cell = Cell::new(1, 200);
    for ticket in 0..60 {
        let request = Admit { weight: 3, ..cell.request(ticket, 1) };
        cell.apply(&Op::Admit(request), 0);
        cell.ask(1_000 + ticket, 2, 0);
    }
    let (mut running, mut heavy) = (0, 0);
    for now in 1..=40 {
        cell.woken.clear();
        cell.end(running, Verdict::Well, now);
        running = *cell.woken.first().expect("somebody is next");
        cell.ask(running, 0, now);
        heavy += u32::from(running < 1_000);
    }
    assert!((28..=32).contains(&heavy), "three of four go to the heavy caller: {heavy} of 40");
}

#[test]
fn a_full_queue_is_shared() {
    let mut cell = Cell::new(1, 4);
    for ticket in 0..5 {
        cell.ask(ticket, 1, 0);
    }
    assert_eq!(reason(&cell.ask(5, 1, 0)), Some(Refusal::Full), "the busy one has all places");
    assert!(matches!(cell.ask(6, 2, 0), Outcome::Queued { .. }), "another one gets a place all the same");
    assert_eq!(cell.woken, BTreeSet::from([4]), "the busy one's last ticket is told");
    assert_eq!(reason(&cell.ask(4, 1, 0)), Some(Refusal::Full));
}

#[test]
fn a_session_runs_one_turn_at_a_time() {
    let mut cell = Cell::new(8, 8);
    let turn = |cell: &Cell, ticket| Op::Admit(Admit { session: Some(9), ..cell.request(ticket, 1) });
    let (first, second) = (turn(&cell, 1), turn(&cell, 2));
    assert_eq!(cell.apply(&first, 0), Outcome::Admitted);
    assert!(matches!(cell.apply(&second, 0), Outcome::Queued { .. }));
    assert_eq!(cell.ask(3, 1, 0), Outcome::Admitted, "another session of the same caller goes");
    cell.end(1, Verdict::Well, 5);
    assert_eq!(cell.woken, BTreeSet::from([2]));
}

#[test]
fn a_model_has_its_own_limit() {
    let mut cell = Cell::new(8, 8);
    let turn =
        |cell: &Cell, ticket| Op::Admit(Admit { model: 7, model_slots: 1, ..cell.request(ticket, ticket) });
    let (first, second) = (turn(&cell, 1), turn(&cell, 2));
    assert_eq!(cell.apply(&first, 0), Outcome::Admitted);
    assert!(matches!(cell.apply(&second, 0), Outcome::Queued { .. }));
    assert_eq!(cell.ask(3, 3, 0), Outcome::Admitted, "the other model is free");
}

#[test]
fn who_would_be_late_is_told_at_once() {
    let mut cell = Cell::new(1, 100);
    cell.ask(0, 0, 0);
    cell.end(0, Verdict::Well, 4_000);
    cell.ask(1, 1, 4_000);
    assert!(matches!(cell.ask(2, 2, 4_000), Outcome::Queued { .. }));
    let hurried = Admit { give_up_ms: 18_000, ..cell.request(3, 3) };
    let Outcome::Refused { reason: Refusal::TooLate, retry_after_ms, waiting: 1 } =
        cell.apply(&Op::Admit(hurried), 8_100)
    else {
        panic!("4 s of waiting, 6 s for a turn of 4 s, and 9.9 s are left")
    };
    assert_eq!(retry_after_ms, 4_000);
}

#[test]
fn who_cannot_be_in_time_any_more_is_woken_to_be_told() {
    let mut cell = Cell::new(1, 100);
    cell.ask(0, 0, 0);
    cell.end(0, Verdict::Well, 4_000);
    cell.ask(1, 1, 4_000);
    let request = Admit { give_up_ms: 15_000, ..cell.request(2, 2) };
    assert!(matches!(cell.apply(&Op::Admit(request), 4_001), Outcome::Queued { .. }));
    cell.ask(3, 3, 4_002);
    cell.apply(&Op::Renew { ticket: 1, lease_ms: 15_000 }, 9_000);
    assert!(matches!(cell.apply(&Op::Admit(request), 8_999), Outcome::Queued { .. }));
    // It asks again, or anybody else does: a turn takes 4 s, and more than that is kept for it.
    cell.ask(3, 3, 9_100);
    assert_eq!(cell.woken, BTreeSet::from([2]));
    assert_eq!(reason(&cell.apply(&Op::Admit(request), 9_101)), Some(Refusal::TooLate));
}

#[test]
fn failures_in_a_row_open_the_breaker_and_one_tries_again() {
    let mut cell = Cell::new(8, 8);
    for ticket in 0..5 {
        assert_eq!(cell.ask(ticket, ticket, 0), Outcome::Admitted);
        cell.end(ticket, Verdict::Failed, 10);
    }
    let refused = cell.ask(10, 10, 11);
    assert!(matches!(refused, Outcome::Refused { reason: Refusal::Unhealthy, retry_after_ms: 1_999, .. }));
    assert_eq!(cell.ask(11, 11, 2_010), Outcome::Admitted, "one tries");
    assert_eq!(reason(&cell.ask(12, 12, 2_011)), Some(Refusal::Unhealthy), "the others wait for it");
    cell.end(11, Verdict::Failed, 2_020);
    assert!(
        matches!(cell.ask(13, 13, 2_021), Outcome::Refused { retry_after_ms: 3_999, .. }),
        "twice as long"
    );
    assert_eq!(cell.ask(14, 14, 6_020), Outcome::Admitted);
    cell.end(14, Verdict::Well, 6_021);
    assert_eq!(cell.ask(15, 15, 6_022), Outcome::Admitted);
    assert_eq!(cell.ask(16, 16, 6_022), Outcome::Admitted, "closed for all");
}

#[test]
fn what_fails_for_one_caller_alone_shuts_nobody_out() {
    let mut cell = Cell::new(8, 8);
    for ticket in 0..20 {
        assert_eq!(cell.ask(ticket, 1, ticket), Outcome::Admitted);
        let release = Release { ticket, flow: 1, model: 1, verdict: Verdict::Failed, slots: 8 };
        cell.apply(&Op::Release(release), ticket);
    }
    assert_eq!(cell.ask(99, 2, 30), Outcome::Admitted);
}

#[test]
fn those_that_waited_before_do_not_join_a_trial() {
    let mut cell = Cell::new(1, 8);
    let other = Admit { model: 2, ..cell.request(50, 50) };
    cell.ask(1, 1, 0);
    cell.end(1, Verdict::FailedFor { ms: 1_000 }, 0);
    assert_eq!(cell.apply(&Op::Admit(other), 1), Outcome::Admitted, "another model has the slot");
    assert!(matches!(cell.ask(2, 2, 1_001), Outcome::Queued { .. }), "half open, but there is no slot");
    assert!(matches!(cell.ask(3, 3, 1_002), Outcome::Queued { .. }));
    cell.slots = 8;
    let release = Release { ticket: 50, flow: 50, model: 2, verdict: Verdict::Well, slots: 8 };
    cell.apply(&Op::Release(release), 1_003);
    assert_eq!(cell.woken, BTreeSet::from([2]), "one tries");
    assert_eq!(cell.ask(2, 2, 1_004), Outcome::Admitted);
    cell.woken.clear();
    cell.end(2, Verdict::Well, 1_005);
    assert_eq!(cell.woken, BTreeSet::from([3]), "and then the others go");
}

#[test]
fn one_success_between_keeps_the_breaker_closed() {
    let mut cell = Cell::new(8, 8);
    for ticket in 0..20 {
        assert_eq!(cell.ask(ticket, ticket, ticket), Outcome::Admitted);
        cell.end(ticket, if ticket % 5 == 4 { Verdict::Well } else { Verdict::Failed }, ticket);
    }
}

#[test]
fn a_trial_that_is_never_heard_of_does_not_block_for_ever() {
    let mut cell = Cell::new(8, 8);
    cell.ask(1, 1, 0);
    cell.end(1, Verdict::FailedFor { ms: 30_000 }, 0);
    assert!(matches!(cell.ask(2, 2, 1), Outcome::Refused { retry_after_ms: 29_999, .. }));
    assert_eq!(cell.ask(3, 3, 30_000), Outcome::Admitted);
    assert_eq!(reason(&cell.ask(4, 4, 44_999)), Some(Refusal::Unhealthy));
    assert_eq!(cell.ask(4, 4, 45_000), Outcome::Admitted);
}

#[test]
fn those_that_wait_learn_that_the_breaker_opened() {
    let mut cell = Cell::new(1, 8);
    cell.ask(1, 1, 0);
    cell.ask(2, 2, 0);
    cell.ask(3, 3, 0);
    cell.end(1, Verdict::FailedFor { ms: 30_000 }, 10);
    assert_eq!(cell.woken, BTreeSet::from([2, 3]));
    assert_eq!(reason(&cell.ask(2, 2, 11)), Some(Refusal::Unhealthy));
}

#[test]
fn an_idle_upstream_remembers_no_caller() {
    let mut cell = Cell::new(4, 8);
    for ticket in 0..1_000 {
        cell.ask(ticket, ticket, ticket);
        cell.end(ticket, Verdict::Well, ticket);
    }
    assert!(cell.bytes.as_ref().is_some_and(|bytes| bytes.len() < 64), "{:?}", cell.bytes);
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// Over any history: never more leases than slots, never two turns of one session, nobody
    /// that waits is forgotten while it asks, and the state stays small.
    #[test]
    fn leases_never_exceed_slots(
        slots in 1u16..4, places in 0u16..6,
        events in proptest::collection::vec((0u64..12, 0u8..6, 0u64..3_000), 1..300),
    ) {
        let (mut cell, mut now) = (Cell::new(slots, places), 0);
        // Who holds a lease until when, as its holder believes.
        let mut held: BTreeMap<u64, u64> = BTreeMap::new();
        for (ticket, kind, gap) in events {
            now += gap;
            held.retain(|_, until| *until > now);
            match kind {
                0..=2 => {
                    let session = (ticket % 3 == 0).then_some(ticket % 2);
                    let request = Admit { session, ..cell.request(ticket, ticket % 4) };
                    match cell.apply(&Op::Admit(request), now) {
                        Outcome::Admitted => { held.insert(ticket, now + 15_000); }
                        Outcome::Queued { .. } => prop_assert!(!held.contains_key(&ticket)),
                        Outcome::Refused { retry_after_ms, .. } => prop_assert!(retry_after_ms > 0),
                        other => prop_assert!(false, "{other:?}"),
                    }
                }
                3 => {
                    cell.apply(&Op::Renew { ticket, lease_ms: 15_000 }, now);
                    if let Some(until) = held.get_mut(&ticket) { *until = now + 15_000; }
                }
                _ => {
                    let verdict = if kind == 4 { Verdict::Well } else { Verdict::Failed };
                    cell.end(ticket, verdict, now);
                    held.remove(&ticket);
                }
            }
            prop_assert!(held.len() <= usize::from(slots));
            for session in 0..2 {
                let of_session = held.keys().filter(|t| **t % 3 == 0 && **t % 2 == session).count();
                prop_assert!(of_session <= 1, "two turns of one session");
            }
            prop_assert!(cell.bytes.as_ref().is_some_and(|bytes| bytes.len() < 2_000));
        }
    }

    /// Bytes of any kind are survived.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..60), now in any::<u32>()) {
        let mut cell = Cell { bytes: Some(ByteBuf::from(bytes)), ..Cell::new(2, 2) };
        let _ = cell.ask(1, 1, u64::from(now));
        cell.end(1, Verdict::Failed, u64::from(now));
    }
}
