#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
use serde_bytes::ByteBuf;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::{Op, reduce};

const HOUR: u64 = 3_600_000;

/// One rollout's cell.
#[derive(Default)]
struct Cell(Option<ByteBuf>);

impl Cell {
    fn apply(&mut self, op: &Op, now: u64) -> Outcome {
        let reduced = reduce(op, self.0.as_deref().map(Vec::as_slice), now);
        assert!(reduced.ttl_ms >= KEPT_MS && reduced.wake.is_empty());
        self.0 = Some(reduced.new);
        reduced.outcome
    }

    fn consult(&mut self, now: u64) -> (State, u8, u16, Vec<Event>) {
        let outcome = self.apply(&Op::Consult(Consult { plan: plan(), report: false }), now);
        self.hear(&outcome, now);
        stand(outcome)
    }

    /// The audit trail has the changes.
    fn hear(&mut self, outcome: &Outcome, now: u64) {
        let Outcome::Rollout { changes, .. } = outcome else { return };
        for change in changes {
            assert_eq!(self.apply(&Op::Heard { number: change.number }, now), Outcome::Written);
        }
    }

    fn steer(&mut self, order: Order, now: u64) -> (State, u8, u16, Vec<Event>) {
        let outcome = self.apply(&Op::Steer(Steer { plan: plan(), order }), now);
        self.hear(&outcome, now);
        stand(outcome)
    }

    fn turns(&mut self, count: u32, version: Version, ending: Ending, now: u64) {
        for _ in 0..count {
            let observe = Observe { plan: plan(), version, ending, latency_ms: 1_000, tokens: 500 };
            assert_eq!(self.apply(&Op::Observe(observe), now), Outcome::Written);
        }
    }

    /// Turns of both versions, in turn.
    fn both(&mut self, count: u32, ending: Ending, now: u64) {
        for _ in 0..count {
            self.turns(1, Version::Running, Ending::Served, now);
            self.turns(1, Version::Candidate, ending, now);
        }
    }
}

fn stand(outcome: Outcome) -> (State, u8, u16, Vec<Event>) {
    match outcome {
        Outcome::Rollout { state, step, share, changes, .. } => {
            (state, step, share, changes.iter().map(|change| change.event).collect())
        }
        other => panic!("{other:?}"),
    }
}

/// Three steps of an hour and fifty turns.
fn plan() -> Plan {
    let step = |share| Step { share, at_least_ms: HOUR, at_least_turns: 50 };
    Plan { steps: vec![step(500), step(2_500), step(5_000)], guard: Guard::default() }
}

#[test]
fn a_step_needs_its_time_and_its_turns() {
    let mut cell = Cell::default();
    assert_eq!(cell.consult(0), (State::Running, 0, 500, vec![Event::Began]));
    assert_eq!(cell.consult(0), (State::Running, 0, 500, vec![]), "told once");
    cell.both(49, Ending::Served, 10);
    assert_eq!(cell.consult(HOUR), (State::Running, 0, 500, vec![]), "49 turns");
    cell.both(1, Ending::Served, 11);
    assert_eq!(cell.consult(HOUR - 1), (State::Running, 0, 500, vec![]), "not an hour");
    assert_eq!(cell.consult(HOUR), (State::Running, 1, 2_500, vec![Event::Stepped]));
    cell.both(50, Ending::Served, HOUR);
    assert_eq!(cell.consult(2 * HOUR), (State::Running, 2, 5_000, vec![Event::Stepped]));
    // The last turn of the step may make the change as well: it is told to whoever asks next.
    cell.both(50, Ending::Served, 3 * HOUR);
    assert_eq!(cell.consult(3 * HOUR), (State::Promoted, 2, 10_000, vec![Event::Promoted]));
    assert_eq!(cell.consult(9 * HOUR), (State::Promoted, 2, 10_000, vec![]));
}

#[test]
fn a_candidate_that_fails_is_rolled_back_and_stays_so() {
    for (ending, finding) in [
        (Ending::Failed, Finding::Failed),
        (Ending::Empty, Finding::Empty),
        (Ending::SchemaFailed, Finding::Schema),
    ] {
        let mut cell = Cell::default();
        cell.consult(0);
        cell.both(20, ending, 1);
        assert_eq!(cell.consult(2), (State::RolledBack, 0, 0, vec![Event::RolledBack(finding)]));
        cell.both(1_000, Ending::Served, HOUR);
        assert_eq!(cell.consult(300 * HOUR), (State::RolledBack, 0, 0, vec![]));
    }
}

#[test]
fn a_change_that_nobody_wrote_down_is_given_to_another() {
    let mut cell = Cell::default();
    let consult = Op::Consult(Consult { plan: plan(), report: false });
    let mut ask = |now| match cell.apply(&consult, now) {
        Outcome::Rollout { changes, .. } => changes.iter().map(|change| change.number).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!((ask(0), ask(0), ask(HEARD_MS - 1)), (vec![1], vec![], vec![]));
    assert_eq!(ask(HEARD_MS), [1], "the same one");
    cell.steer(Order::Hold, HEARD_MS + 1);
    assert_eq!(cell.consult(9 * HEARD_MS).3, [Event::Began], "only the second was heard");
    assert_eq!(cell.consult(99 * HEARD_MS).3, []);
    // Of a rollout that is forgotten, nothing is kept.
    let mut unknown = Cell::default();
    let reduced = reduce(&Op::Heard { number: 1 }, None, 0);
    assert!(reduced.new.is_empty());
    assert_eq!(unknown.consult(0).3, [Event::Began]);
}

#[test]
fn what_is_not_guarded_is_not_looked_at() {
    let guard = Guard { failed: None, empty: None, schema: None, p95: None, tokens: None, down: None };
    let plan = Plan { guard, ..plan() };
    let mut cell = Cell::default();
    for n in 0..400 {
        let version = if n % 2 == 0 { Version::Running } else { Version::Candidate };
        let ending = if n % 2 == 0 { Ending::Served } else { Ending::Failed };
        let (latency_ms, tokens) = (1 + n % 2 * 9_999, 1 + n % 2 * 9_999);
        let observe = Observe { plan: plan.clone(), version, ending, latency_ms, tokens };
        cell.apply(&Op::Observe(observe), 1);
    }
    let outcome = cell.apply(&Op::Consult(Consult { plan, report: true }), 2);
    let Outcome::Rollout { state: State::Running, report: Some(report), .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((report.running.turns, report.candidate.turns, report.candidate.failed), (200, 200, 200));
    assert_eq!((report.running.tokens, report.candidate.tokens), (200, 2_000_000));
    assert_eq!(report.running.latency.quantile(950), Some(1));
}

#[test]
fn a_person_holds_and_goes_on() {
    let mut cell = Cell::default();
    cell.consult(0);
    assert_eq!(cell.steer(Order::Hold, 1).3, [Event::Ordered(Order::Hold)]);
    assert_eq!(cell.steer(Order::Hold, 2).3, [], "it is held already");
    cell.both(60, Ending::Served, 3);
    assert_eq!(cell.consult(9 * HOUR), (State::Held, 0, 500, vec![]));
    assert_eq!(
        cell.steer(Order::Resume, 9 * HOUR),
        (State::Running, 0, 500, vec![Event::Ordered(Order::Resume)])
    );
    assert_eq!(cell.consult(9 * HOUR), (State::Running, 1, 2_500, vec![Event::Stepped]));
    cell.steer(Order::Hold, 9 * HOUR);
    cell.both(20, Ending::Failed, 9 * HOUR);
    assert_eq!(
        cell.consult(10 * HOUR),
        (State::RolledBack, 1, 0, vec![Event::RolledBack(Finding::Failed)]),
        "what is held is guarded all the same"
    );
}

#[test]
fn a_person_promotes_rolls_back_and_begins_again() {
    let mut cell = Cell::default();
    let (state, _, share, events) = cell.steer(Order::Promote, 0);
    assert_eq!((state, share), (State::Promoted, 10_000));
    assert_eq!(events, [Event::Began, Event::Ordered(Order::Promote)]);
    assert_eq!(cell.steer(Order::Hold, 1).3, [], "there is nothing to hold");
    assert_eq!(
        cell.steer(Order::RollBack, 2),
        (State::RolledBack, 0, 0, vec![Event::Ordered(Order::RollBack)])
    );
    assert_eq!(cell.steer(Order::RollBack, 3).3, []);
    cell.both(20, Ending::Failed, 4);
    assert_eq!(cell.steer(Order::Resume, 5), (State::Running, 0, 500, vec![Event::Ordered(Order::Resume)]));
    assert_eq!(cell.consult(HOUR + 5), (State::Running, 0, 500, vec![]), "the old turns do not count");
}

/// The configuration may name the old version for a long time after the rollout is over.
#[test]
fn what_is_over_stays_so_for_months() {
    let cell = |prepare: &dyn Fn(&mut Cell)| {
        let mut cell = Cell::default();
        prepare(&mut cell);
        cell.consult(3 * HOUR);
        cell
    };
    let by_steps = |cell: &mut Cell| (0..4).for_each(|step| cell.both(50, Ending::Served, step * HOUR));
    for (mut cell, state, share) in [
        (cell(&|cell| drop(cell.steer(Order::Promote, 0))), State::Promoted, 10_000),
        (cell(&by_steps), State::Promoted, 10_000),
        (cell(&|cell| drop(cell.steer(Order::RollBack, 0))), State::RolledBack, 0),
        (cell(&|cell| cell.both(20, Ending::Failed, 0)), State::RolledBack, 0),
    ] {
        for day in 1..=90 {
            let (now_is, _, now_at, events) = cell.consult(day * 24 * HOUR);
            assert_eq!((now_is, now_at, events), (state, share, vec![]), "day {day}");
            // A month in which all is well, one in which nobody asks, one in which all fails.
            match day {
                0..=30 => cell.both(20, Ending::Served, day * 24 * HOUR),
                31..=60 => {}
                _ => cell.both(20, Ending::Failed, day * 24 * HOUR),
            }
        }
    }
}

#[test]
fn the_report_says_since_when_and_what_was_found_last() {
    let report =
        |cell: &mut Cell, now| match cell.apply(&Op::Consult(Consult { plan: plan(), report: true }), now) {
            Outcome::Rollout { report: Some(report), .. } => (report.since_ms, report.found),
            other => panic!("{other:?}"),
        };
    let mut cell = Cell::default();
    assert_eq!(report(&mut cell, 5), (5, None));
    cell.both(20, Ending::Empty, 7);
    assert_eq!(report(&mut cell, 9), (7, Some((Finding::Empty, 7))));
    cell.steer(Order::Resume, 11);
    assert_eq!(report(&mut cell, 12), (11, Some((Finding::Empty, 7))), "it begins again, and is known");
    cell.both(50, Ending::Served, 13);
    assert_eq!(report(&mut cell, HOUR + 11), (HOUR + 11, Some((Finding::Empty, 7))));
}

#[test]
fn a_plan_may_lose_steps_on_the_way_and_without_steps_nothing_happens() {
    let mut cell = Cell::default();
    cell.both(50, Ending::Served, 0);
    cell.consult(HOUR);
    let short = Plan { steps: plan().steps[..1].to_vec(), ..plan() };
    let (_, step, share, _) = stand(cell.apply(&Op::Consult(Consult { plan: short, report: false }), HOUR));
    assert_eq!((step, share), (0, 500));
    let empty = Op::Consult(Consult { plan: Plan::default(), report: false });
    let (state, _, share, _) = stand(Cell::default().apply(&empty, 99 * HOUR));
    assert_eq!((state, share), (State::Running, 0));
}

#[test]
fn changes_that_nobody_asks_for_do_not_pile_up() {
    let mut cell = Cell::default();
    let reduced = |cell: &mut Cell| cell.0.as_ref().map_or(0, |bytes| bytes.len());
    for n in 0..100 {
        let mut course = Course::read(cell.0.as_deref().map(Vec::as_slice), &plan(), n);
        course.steer(if n % 2 == 0 { Order::Promote } else { Order::RollBack }, &plan(), n);
        cell.0 = Some(course.reduced(Outcome::Written).new);
    }
    assert!(reduced(&mut cell) < 800, "{}", reduced(&mut cell));
    assert_eq!(cell.consult(100).3.len(), MOST_CHANGES);
}

/// A cell that is asked and has nothing new keeps its bytes: a host need not write them.
#[test]
fn asking_changes_nothing() {
    let mut cell = Cell::default();
    cell.both(30, Ending::Served, 0);
    cell.consult(1);
    let before = cell.0.clone();
    cell.consult(2);
    assert_eq!(cell.0, before);
}

/// Turns of many people, in simulated time; no turn is told before those that began with it.
#[cfg(not(target_arch = "wasm32"))]
mod simulation {
    use super::*;
    use crate::policy::rollout::{Rollout, bucket, usual_plan};

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        fn unit(&mut self) -> f64 {
            (self.next() >> 11) as f64 / (1_u64 << 53) as f64
        }

        /// With a long tail: the p95 is 2.6 times the median.
        fn spread(&mut self, median: f64) -> u32 {
            let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
            (median * (normal * 0.58).exp()) as u32
        }
    }

    #[derive(Clone, Copy)]
    struct Behaviour {
        failed: f64,
        empty: f64,
        schema: f64,
        latency: f64,
        tokens: f64,
    }

    const GOOD: Behaviour =
        Behaviour { failed: 0.01, empty: 0.002, schema: 0.005, latency: 1_500.0, tokens: 700.0 };

    struct Day {
        state: State,
        step: u8,
        finding: Option<Finding>,
        /// Turns of the candidate that were not served.
        bad: u32,
    }

    /// A day's turns; what a turn was is told 40 turns later. Takes the reducer's state without
    /// its encoding, for the time that it takes.
    fn day(seed: u64, turns: u32, candidate: Behaviour) -> Day {
        let rollout = Rollout {
            intent: "qa".into(),
            from: "v1".into(),
            to: "v2".into(),
            salt: format!("{seed}"),
            plan: usual_plan(),
        };
        let people: Vec<String> = (0..1_000).map(|n| format!("{n}")).collect();
        let buckets: Vec<u16> =
            people.iter().map(|person| bucket(&rollout.salt, "qa", "v2", person)).collect();
        let mut random = Random(seed);
        let mut course = Course::read(None, &rollout.plan, 0);
        let mut told = std::collections::VecDeque::new();
        let mut day = Day { state: State::Running, step: 0, finding: None, bad: 0 };
        for turn in 0..turns {
            let now = u64::from(turn) * 24 * HOUR / u64::from(turns);
            course.advance(&rollout.plan, now);
            // Some people ask far more than others.
            let person = (random.unit() * random.unit() * people.len() as f64) as usize;
            let is_candidate = buckets[person] < course.share(&rollout.plan);
            let it = if is_candidate { candidate } else { GOOD };
            let luck = random.unit();
            let ending = if luck < it.failed {
                Ending::Failed
            } else if luck < it.failed + it.empty {
                Ending::Empty
            } else if luck < it.failed + it.empty + it.schema {
                Ending::SchemaFailed
            } else {
                Ending::Served
            };
            day.bad += u32::from(is_candidate && ending != Ending::Served);
            told.push_back(Observe {
                plan: rollout.plan.clone(),
                version: if is_candidate { Version::Candidate } else { Version::Running },
                ending,
                latency_ms: random.spread(it.latency),
                tokens: random.spread(it.tokens),
            });
            if told.len() > 40 {
                course.observe(&told.pop_front().expect("one"), now);
            }
            if matches!(course.state, State::Promoted | State::RolledBack) {
                break;
            }
        }
        day.state = course.state;
        day.step = course.step;
        day.finding = course.unheard.iter().find_map(|unheard| match unheard.change.event {
            Event::RolledBack(finding) => Some(finding),
            _ => None,
        });
        day
    }

    #[test]
    fn a_bad_version_is_rolled_back_before_one_percent_of_the_days_turns_failed() {
        let turns = 50_000;
        for (candidate, finding) in [
            (Behaviour { failed: 0.3, ..GOOD }, Finding::Failed),
            (Behaviour { failed: 1.0, ..GOOD }, Finding::Failed),
            (Behaviour { failed: 0.08, ..GOOD }, Finding::Failed),
            (Behaviour { empty: 0.3, ..GOOD }, Finding::Empty),
            (Behaviour { schema: 0.3, ..GOOD }, Finding::Schema),
            (Behaviour { latency: 2.0 * GOOD.latency, ..GOOD }, Finding::P95),
            (Behaviour { tokens: 2.0 * GOOD.tokens, ..GOOD }, Finding::Tokens),
        ] {
            let mut worst = 0;
            for seed in 0..10 {
                let day = day(seed, turns, candidate);
                assert_eq!((day.state, day.finding), (State::RolledBack, Some(finding)), "{seed}");
                worst = worst.max(day.bad);
            }
            assert!(worst < turns / 100, "{finding:?}: {worst} turns");
        }
    }

    #[test]
    fn an_equal_version_is_promoted_through_all_steps() {
        let (mut promoted, mut rolled_back) = (0, 0);
        for seed in 0..100 {
            let day = day(seed, 20_000, GOOD);
            promoted += u32::from(day.state == State::Promoted && day.step == 2);
            rolled_back += u32::from(day.state == State::RolledBack);
        }
        assert!(rolled_back <= 1 && promoted >= 99, "{promoted} promoted, {rolled_back} rolled back");
    }
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// Over any history: the share is that of the step, no change is told twice, steps go up by
    /// one, and the state stays small.
    #[test]
    fn any_history(events in proptest::collection::vec((0u8..8, any::<u32>(), 0u64..2 * HOUR), 1..300)) {
        let (mut cell, mut now, mut last) = (Cell::default(), 0, None);
        for (kind, number, gap) in events {
            now += gap;
            let outcome = match kind {
                0..=4 => {
                    let ending = [Ending::Served, Ending::Failed, Ending::Empty, Ending::SchemaFailed];
                    let version = if number % 2 == 0 { Version::Running } else { Version::Candidate };
                    let ending = ending[if kind < 4 { 0 } else { number as usize / 2 % 4 }];
                    let observe =
                        Observe { plan: plan(), version, ending, latency_ms: number, tokens: number };
                    cell.apply(&Op::Observe(observe), now)
                }
                5 => {
                    let orders = [Order::Hold, Order::Resume, Order::Promote, Order::RollBack];
                    cell.apply(&Op::Steer(Steer { plan: plan(), order: orders[number as usize % 4] }), now)
                }
                _ => cell.apply(&Op::Consult(Consult { plan: plan(), report: false }), now),
            };
            prop_assert!(cell.0.as_ref().is_some_and(|bytes| bytes.len() < 4_000));
            cell.hear(&outcome, now);
            let Outcome::Rollout { state, step, share, changes, .. } = outcome else { continue };
            prop_assert_eq!(share, match state {
                State::Running | State::Held => [500, 2_500, 5_000][usize::from(step)],
                State::Promoted => 10_000,
                State::RolledBack => 0,
            });
            for change in changes {
                let (before, at_ms, number) = last.unwrap_or((0, 0, 0));
                prop_assert!(change.at_ms >= at_ms && change.number > number);
                prop_assert!(change.event != Event::Stepped || change.step == before + 1);
                last = Some((change.step, change.at_ms, change.number));
            }
        }
    }

    /// Bytes of any kind are survived.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600), now in any::<u64>()) {
        let mut cell = Cell(Some(ByteBuf::from(bytes)));
        cell.both(3, Ending::Failed, now);
        cell.steer(Order::Hold, now);
        cell.consult(now);
    }
}

/// What people said of both versions, in turn.
fn words(cell: &mut Cell, count: u32, of_candidate: Rating, now: u64) {
    for _ in 0..count {
        for (version, rating) in [(Version::Running, Rating::Up), (Version::Candidate, of_candidate)] {
            let judge = Judge { plan: plan(), version, rating, before: None };
            assert_eq!(cell.apply(&Op::Judge(judge), now), Outcome::Written);
        }
    }
}

#[test]
fn an_answer_that_people_find_bad_is_rolled_back() {
    let mut cell = Cell::default();
    cell.consult(0);
    cell.both(60, Ending::Served, 1);
    words(&mut cell, 20, Rating::Up, 1);
    assert_eq!(cell.consult(2).0, State::Running);
    words(&mut cell, 30, Rating::Down, 3);
    assert_eq!(cell.consult(4), (State::RolledBack, 0, 0, vec![Event::RolledBack(Finding::Down)]));
    // Where nobody wants that, it is only counted.
    let mut cell = Cell::default();
    let plan = Plan { guard: Guard { down: None, ..Guard::default() }, ..plan() };
    for _ in 0..200 {
        for version in [Version::Running, Version::Candidate] {
            let judge = Judge { plan: plan.clone(), version, rating: Rating::Down, before: None };
            cell.apply(&Op::Judge(judge), 1);
        }
    }
    let outcome = cell.apply(&Op::Consult(Consult { plan, report: true }), 2);
    let Outcome::Rollout { state: State::Running, votes, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((votes.0.down, votes.1.down, votes.1.up), (200, 200, 0));
}

#[test]
fn a_word_that_is_taken_back_is_no_second_bet() {
    let mut cell = Cell::default();
    cell.consult(0);
    words(&mut cell, 1, Rating::Up, 1);
    for _ in 0..500 {
        for (rating, before) in [(Rating::Down, Rating::Up), (Rating::Up, Rating::Down)] {
            let version = Version::Candidate;
            let judge = Judge { plan: plan(), version, rating, before: Some(before) };
            cell.apply(&Op::Judge(judge), 2);
        }
    }
    let outcome = cell.apply(&Op::Consult(Consult { plan: plan(), report: false }), 3);
    let Outcome::Rollout { state: State::Running, votes, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((votes.1.up, votes.1.down), (1, 0));
}

/// What was stored before people could say anything is not forgotten: a version that was rolled back would
/// begin again.
#[test]
fn a_course_of_before_is_read() {
    let mut cell = Cell::default();
    cell.consult(0);
    cell.both(20, Ending::Failed, 1);
    assert_eq!(cell.consult(2).0, State::RolledBack);
    let bytes = cell.0.take().expect("a course").into_vec();
    let without = bytes.len() - encode(&Opinion::default()).len();
    cell.0 = Some(ByteBuf::from(bytes[..without].to_vec()));
    assert_eq!(cell.consult(3), (State::RolledBack, 0, 0, vec![]));
    words(&mut cell, 1, Rating::Down, 4);
    assert_eq!(cell.consult(5).0, State::RolledBack);
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// Whatever is said and taken back in whatever order: the counts are those of the last words.
    #[test]
    fn the_counts_are_of_the_last_words(
        said in proptest::collection::vec((0_u8..6, any::<bool>(), any::<bool>()), 0..60),
    ) {
        let mut cell = Cell::default();
        let mut last: std::collections::BTreeMap<(u8, bool), Rating> = std::collections::BTreeMap::new();
        for (person, is_new, is_up) in said {
            let rating = if is_up { Rating::Up } else { Rating::Down };
            let version = if is_new { Version::Candidate } else { Version::Running };
            let before = last.insert((person, is_new), rating);
            cell.apply(&Op::Judge(Judge { plan: plan(), version, rating, before }), 1);
        }
        let outcome = cell.apply(&Op::Consult(Consult { plan: plan(), report: false }), 2);
        let Outcome::Rollout { votes, .. } = outcome else { panic!("{outcome:?}") };
        let of = |is_new: bool, rating: Rating| {
            last.iter().filter(|((_, new), said)| *new == is_new && **said == rating).count()
        };
        prop_assert_eq!((votes.0.up as usize, votes.0.down as usize), (of(false, Rating::Up), of(false, Rating::Down)));
        prop_assert_eq!((votes.1.up as usize, votes.1.down as usize), (of(true, Rating::Up), of(true, Rating::Down)));
    }
}
