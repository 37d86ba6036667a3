#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::{Op, reduce};

/// One turn's key.
#[derive(Default)]
struct Key(Option<ByteBuf>);

impl Key {
    fn apply(&mut self, op: TurnOp, now: u64) -> Reduced {
        let reduced = reduce(&Op::Turn(op), self.0.as_deref().map(Vec::as_slice), now);
        assert!(reduced.ttl_ms > 0);
        self.0 = (!reduced.new.is_empty()).then(|| reduced.new.clone());
        reduced
    }

    fn say(&mut self, op: TurnOp, now: u64) -> TurnOutcome {
        match self.apply(op, now).outcome {
            Outcome::Turn(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    fn create(&mut self, body: u8, now: u64) -> TurnOutcome {
        self.say(TurnOp::Create(create(body)), now)
    }

    fn claim(&mut self, ticket: u64, now: u64) -> Option<Claimed> {
        match self.say(TurnOp::Claim { ticket }, now) {
            TurnOutcome::Claimed(claimed) => Some(*claimed),
            TurnOutcome::Busy => None,
            other => panic!("{other:?}"),
        }
    }

    fn look(&mut self, after: u32, now: u64) -> View {
        let watch = Watch { owner: Some("me".into()), ticket: 0, awaited: Awaited::Nothing, after };
        match self.say(TurnOp::Watch(watch), now) {
            TurnOutcome::Seen(view) => *view,
            other => panic!("{other:?}"),
        }
    }
}

fn create(body: u8) -> Create {
    Create {
        owner: "me".into(),
        digest: [body; 32],
        checkpoint: ByteBuf::from(*b"begin"),
        timeout_ms: 60_000,
        keep_ms: 100_000,
    }
}

fn done(body: &[u8]) -> Ended {
    Ended { state: State::Done, status: 200, retry_after_s: None, again: false, body: ByteBuf::from(body) }
}

fn question(until_ms: u64, need: Need) -> Approval {
    Approval {
        call: 1,
        tool: "refund".into(),
        arguments: "{}".into(),
        digest: [7; 32],
        need,
        until_ms,
        given: Vec::new(),
        verdict: None,
        by: None,
    }
}

fn save(epoch: u32, then: Then) -> TurnOp {
    TurnOp::Save { epoch, checkpoint: ByteBuf::from(*b"later"), then }
}

fn yes(by: &str, operator: bool) -> TurnOp {
    let owner = (!operator).then(|| "me".to_owned());
    TurnOp::Decide(Decide { owner, call: 1, digest: [7; 32], by: by.into(), approves: true })
}

#[test]
fn the_same_request_joins_and_another_one_is_told_apart() {
    let mut key = Key::default();
    let first = key.apply(TurnOp::Create(create(1)), 1_000);
    assert_eq!((first.outcome, first.alarm_ms), (Outcome::Turn(TurnOutcome::Fresh), Some(1_000)));
    assert_eq!(key.create(1, 1_001), TurnOutcome::Joined);
    assert_eq!(key.create(2, 1_002), TurnOutcome::Conflict);
    let theirs = TurnOp::Create(Create { owner: "them".into(), ..create(1) });
    assert_eq!(key.say(theirs, 1_003), TurnOutcome::Conflict);
    assert_eq!(key.create(2, 161_000), TurnOutcome::Fresh, "all of it is forgotten");
}

#[test]
fn one_runs_it_and_the_next_takes_over_when_its_lease_is_over() {
    let mut key = Key::default();
    key.create(1, 0);
    let first = key.claim(7, 10).expect("nobody has it");
    assert_eq!((first.epoch, first.tries, &first.checkpoint[..]), (1, 1, &b"begin"[..]));
    assert_eq!(key.claim(7, 11).map(|claimed| claimed.epoch), Some(1), "the same one asks again");
    assert_eq!(key.claim(8, 12), None);
    assert_eq!(key.say(save(1, Then::GoOn), 20), TurnOutcome::Saved);
    assert_eq!(key.apply(TurnOp::Heed { epoch: 1, ticket: 70 }, 5_000).alarm_ms, Some(5_000 + LEASE_MS));
    let second = key.claim(8, 5_000 + LEASE_MS).expect("the first has died");
    assert_eq!((second.epoch, second.tries, &second.checkpoint[..]), (2, 1, &b"later"[..]));
    for op in [save(1, Then::GoOn), TurnOp::Leave { epoch: 1 }, TurnOp::Heed { epoch: 1, ticket: 70 }] {
        assert_eq!(key.say(op, 21_000), TurnOutcome::Lost, "it is not the first one's any more");
    }
    assert_eq!(
        key.say(TurnOp::End { epoch: 2, ended: done(b"{}"), errand: None }, 22_000),
        TurnOutcome::Saved
    );
    assert_eq!(key.claim(9, 60_000), None, "nothing is left to be done");
    assert_eq!(key.look(0, 60_000).state, State::Done);
}

#[test]
fn watchers_are_woken_for_what_they_wait_for() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    let watch =
        |ticket, awaited| TurnOp::Watch(Watch { owner: Some("me".into()), ticket, awaited, after: 0 });
    for (ticket, awaited) in [(10, Awaited::Events), (11, Awaited::End)] {
        let reduced = key.apply(watch(ticket, awaited), 1);
        assert!(reduced.outcome.waits());
    }
    let event = |number: u32| Event { number, text: format!("id: {number}\n\n") };
    let append = TurnOp::Append { epoch: 1, events: vec![event(1), event(2), event(2)] };
    assert_eq!(key.apply(append, 2).wake, [10]);
    let view = key.look(1, 3);
    assert_eq!(view.events, [event(2)]);
    assert!(!view.gap && !key.apply(watch(10, Awaited::Events), 3).outcome.waits());
    let end = TurnOp::End { epoch: 1, ended: done(b"{}"), errand: None };
    assert_eq!(key.apply(end, 4).wake, [11]);
    assert!(!key.apply(watch(12, Awaited::End), 5).outcome.waits());
    let other =
        TurnOp::Watch(Watch { owner: Some("them".into()), ticket: 0, awaited: Awaited::Nothing, after: 0 });
    assert_eq!(key.say(other, 5), TurnOutcome::Unknown);
}

#[test]
fn old_events_are_dropped_and_it_is_said() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    let big = "x".repeat(MOST_EVENT_BYTES / 4);
    for number in 1..=6 {
        let events = vec![Event { number, text: big.clone() }];
        key.apply(TurnOp::Append { epoch: 1, events }, 1);
    }
    let view = key.look(0, 2);
    assert!(view.gap && view.events.len() == 4 && view.events[0].number == 3);
    assert!(!key.look(3, 2).gap);
}

#[test]
fn a_person_is_asked_and_nobody_runs_it_meanwhile() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    let asked = key.apply(save(1, Then::Ask(question(500_000, Need::User))), 10_000);
    assert_eq!(asked.alarm_ms, Some(500_000));
    assert_eq!(key.claim(2, 100_000), None);
    assert_eq!(key.look(0, 1).state, State::NeedsApproval);
    let other = TurnOp::Decide(Decide {
        owner: Some("me".into()),
        call: 1,
        digest: [8; 32],
        by: "me".into(),
        approves: true,
    });
    assert_eq!(key.say(other, 2), TurnOutcome::Decided(Decided::Void), "the arguments are others");
    assert_eq!(key.say(yes("op", true), 2), TurnOutcome::Decided(Decided::NotAsked));
    let decided = key.apply(yes("me", false), 200_000);
    assert_eq!(decided.outcome, Outcome::Turn(TurnOutcome::Decided(Decided::Now(Verdict::Approved))));
    assert_eq!(decided.alarm_ms, Some(200_000));
    assert_eq!(key.say(yes("me", false), 200_001), TurnOutcome::Decided(Decided::Before(Verdict::Approved)));
    let claimed = key.claim(3, 200_002).expect("it goes on");
    assert_eq!(claimed.approval.and_then(|approval| approval.verdict), Some(Verdict::Approved));
    assert!(!claimed.expired, "the time in which a person is waited for does not count");
    key.say(save(2, Then::GoOn), 200_003);
    assert_eq!(key.claim(4, 300_000).expect("taken over").approval, None, "a grant is used once");
}

#[test]
fn nobody_answers_and_it_goes_on_without_a_verdict() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    key.say(save(1, Then::Ask(question(5_000, Need::User))), 0);
    assert_eq!(key.say(yes("me", false), 5_000), TurnOutcome::Decided(Decided::Late));
    let claimed = key.claim(2, 5_000).expect("due");
    assert_eq!(claimed.approval.map(|approval| approval.verdict), Some(None));
}

#[test]
fn two_operators_are_two() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    key.say(save(1, Then::Ask(question(5_000, Need::TwoOperators))), 0);
    for _ in 0..2 {
        assert_eq!(key.say(yes("a", true), 1), TurnOutcome::Decided(Decided::Waiting));
    }
    assert_eq!(key.say(yes("me", false), 1), TurnOutcome::Decided(Decided::NotAsked));
    assert_eq!(key.say(yes("b", true), 2), TurnOutcome::Decided(Decided::Now(Verdict::Approved)));
}

#[test]
fn whoever_cancels_wakes_the_runner_or_begins_one() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    assert!(key.apply(TurnOp::Heed { epoch: 1, ticket: 70 }, 1).outcome.waits());
    assert_eq!(key.apply(TurnOp::Cancel { owner: Some("me".into()) }, 2).wake, [70]);
    assert_eq!(key.say(TurnOp::Heed { epoch: 1, ticket: 70 }, 3), TurnOutcome::Heeded { cancel: true });
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    key.say(save(1, Then::Ask(question(50_000, Need::User))), 0);
    assert_eq!(key.apply(TurnOp::Cancel { owner: None }, 3).alarm_ms, Some(3));
    assert!(key.claim(2, 3).expect("it is to be ended").cancel);
}

#[test]
fn whoever_answers_early_gives_no_time_away() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    key.say(save(1, Then::Ask(question(500_000, Need::User))), 10_000);
    key.say(yes("me", false), 20_000);
    assert!(!key.claim(2, 69_999).expect("it goes on").expired, "50 s were left");
    assert!(key.claim(3, 90_000).expect("taken over").expired);
}

#[test]
fn what_is_left_to_be_done_is_not_forgotten_before_it_can_be() {
    let mut key = Key::default();
    key.say(TurnOp::Create(Create { keep_ms: 1_000, ..create(1) }), 0);
    key.claim(1, 0);
    let errand = Some(ByteBuf::from(*b"errand"));
    let end = key.apply(TurnOp::End { epoch: 1, ended: done(b"{}"), errand }, 10);
    let alarm_ms = end.alarm_ms.expect("the errand is left");
    assert!(10 + end.ttl_ms > alarm_ms);
    assert!(key.claim(2, alarm_ms).expect("the first has died").ended);
}

#[test]
fn a_cancelled_turn_is_not_put_off_and_an_ended_one_asks_nobody() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    key.say(TurnOp::Cancel { owner: None }, 1);
    assert_eq!(key.apply(save(1, Then::Later { at_ms: 50_000 }), 2).alarm_ms, Some(2));
    assert!(key.claim(2, 2).expect("it is to be ended").cancel);
    let errand = Some(ByteBuf::from(*b"errand"));
    key.say(TurnOp::End { epoch: 2, ended: done(b"{}"), errand }, 3);
    key.say(save(2, Then::Ask(question(50_000, Need::User))), 4);
    assert_eq!(key.look(0, 5).state, State::Done);
    assert_eq!(key.apply(save(2, Then::Later { at_ms: 50_000 }), 6).alarm_ms, Some(50_000), "an errand is");
}

#[test]
fn a_look_forgets_nobody_that_waits() {
    let mut key = Key::default();
    key.create(1, 0);
    key.claim(1, 0);
    for (awaited, waits) in [(Awaited::End, true), (Awaited::Nothing, false)] {
        let watch = TurnOp::Watch(Watch { owner: None, ticket: 10, awaited, after: 0 });
        assert_eq!(key.apply(watch, 1).outcome.waits(), waits);
    }
    let end = TurnOp::End { epoch: 1, ended: done(b"{}"), errand: None };
    assert_eq!(key.apply(end, 2).wake, [10]);
}

#[test]
fn what_a_client_remembers_is_on_disk_first() {
    assert!(!Op::Turn(TurnOp::Claim { ticket: 1 }).is_relaxed(), "the numbers of events are of an epoch");
}

#[test]
fn bytes_of_another_kind_count_as_absent() {
    for bytes in [&b""[..], &[0xff; 40]] {
        let reduced = reduce(&Op::Turn(TurnOp::Claim { ticket: 1 }), Some(bytes), 5);
        assert_eq!((reduced.outcome, reduced.alarm_ms), (Outcome::Turn(TurnOutcome::Busy), None));
    }
}
