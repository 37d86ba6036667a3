//! What every store promises. The time is the machine's, and short where something has to end.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use minigate_core::state::{
    Op, Outcome,
    admission::{Admit, Release, Verdict},
    caller::{Enter, Rate},
    turn::{Awaited, Create, Ended, LEASE_MS, State, Then, TurnOp, TurnOutcome, Watch},
};
use minigate_tests::until;
use serde_bytes::ByteBuf;

use crate::{
    Case,
    engines::{Stage, Way},
};

/// Lists cases.
macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        vec![$(Case { name: stringify!($name), run: |stage| Box::pin($name(stage)) },)*]
    };
}

pub(crate) fn all() -> Vec<Case> {
    cases![
        a_burst_is_granted_exactly,
        a_mark_is_first_for_one,
        a_value_ends_with_its_time,
        leases_are_never_more_than_slots,
        a_release_wakes_who_waits_elsewhere,
        a_lease_that_nobody_gives_back_ends,
        a_list_stops_at_the_first_no,
        what_was_acknowledged_survives_a_kill,
        keys_are_apart_whatever_is_in_them,
        any_bytes_come_back_as_they_were,
        a_large_value_comes_back_whole,
        a_clock_that_goes_back_gives_and_takes_nothing,
        an_alarm_that_is_now_goes_off_at_once_and_once,
        an_alarm_is_moved_and_taken_away,
        an_alarm_survives_a_kill,
        an_alarm_that_nobody_answers_goes_off_again,
        alarms_are_shared_by_the_hosts,
    ]
}

/// Long enough for anything that is not to take long.
const SOON: Duration = Duration::from_secs(10);
const HOUR_MS: i64 = 3_600_000;
const UPSTREAM: &str = "upstream:a";

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_millis()).unwrap()
}

fn enter(per_minute: u32, burst: u32) -> Op {
    let rate = Some(Rate { per_minute, burst });
    Op::Enter(Enter { rate, cost: 1, ..Enter::default() })
}

fn write(value: &[u8], ttl_ms: u64) -> Op {
    Op::Write { value: ByteBuf::from(value), ttl_ms }
}

fn value(bytes: &[u8]) -> Outcome {
    Outcome::Value(Some(ByteBuf::from(bytes)))
}

fn admit(ticket: u64, slots: u16, lease_ms: u32) -> Op {
    Op::Admit(Admit {
        ticket,
        flow: ticket,
        weight: 1,
        session: None,
        model: 1,
        give_up_ms: unix_ms() + 4 * 3_600_000,
        lease_ms,
        slots,
        model_slots: slots,
        places: 1_000,
        replicas: 1,
        avoid: None,
    })
}

fn release(ticket: u64, slots: u16) -> Op {
    Op::Release(Release { ticket, model: 1, flow: ticket, verdict: Verdict::Well, slots })
}

fn granted(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Entered { granted: true, .. })
}

fn remaining(outcome: &Outcome) -> u32 {
    match outcome {
        Outcome::Entered { remaining, .. } => *remaining,
        other => panic!("{other:?}"),
    }
}

/// The same operation very often at once, on both ways.
async fn crowd(ways: &[Way; 2], key: &str, op: &Op) -> Vec<Outcome> {
    join_all((0..200).map(|number| ways[number % 2].one(key, op))).await
}

async fn a_burst_is_granted_exactly(stage: Stage) {
    let outcomes = crowd(&stage.ways(), "user:a", &enter(1, 20)).await;
    assert_eq!(outcomes.iter().filter(|outcome| granted(outcome)).count(), 20);
}

async fn a_mark_is_first_for_one(stage: Stage) {
    let outcomes = crowd(&stage.ways(), "code:a", &Op::Once { ttl_ms: 60_000 }).await;
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Outcome::Once { first: true }).count(), 1);
}

async fn a_value_ends_with_its_time(stage: Stage) {
    const TTL: u64 = 400;
    let [here, there] = stage.ways();
    let written = unix_ms();
    here.one("job:a", &write(b"v", TTL)).await;
    let read = there.one("job:a", &Op::Read).await;
    if unix_ms() < written + TTL {
        assert_eq!(read, value(b"v"));
    }
    until("the value to end", SOON, || async { there.one("job:a", &Op::Read).await == Outcome::Value(None) })
        .await;
    assert!(unix_ms() >= written + TTL, "it ended before its time");
    // What has ended is as good as never written.
    assert_eq!(here.one("job:a", &Op::Read).await, Outcome::Value(None));
    assert_eq!(here.one("job:a", &Op::Once { ttl_ms: 60_000 }).await, Outcome::Once { first: true });
}

async fn leases_are_never_more_than_slots(stage: Stage) {
    const SLOTS: u16 = 3;
    let ways = stage.ways();
    let (running, done) = (AtomicU32::new(0), AtomicU32::new(0));
    let turn = async |ticket: u64| {
        let way = &ways[usize::from(ticket % 2 == 1)];
        let op = admit(ticket, SLOTS, 15_000);
        let mut outcome = way.one(UPSTREAM, &op).await;
        while outcome != Outcome::Admitted {
            assert!(matches!(outcome, Outcome::Queued { .. }), "{outcome:?}");
            way.watch(UPSTREAM, &op).await;
            outcome = way.one(UPSTREAM, &op).await;
        }
        let now = running.fetch_add(1, Ordering::SeqCst) + 1;
        assert!(now <= u32::from(SLOTS), "{now} run at once");
        // A turn takes its time.
        way.one("user:a", &enter(1, 1)).await;
        running.fetch_sub(1, Ordering::SeqCst);
        way.one(UPSTREAM, &release(ticket, SLOTS)).await;
        done.fetch_add(1, Ordering::SeqCst);
    };
    join_all((0..60).map(turn)).await;
    assert_eq!((running.load(Ordering::SeqCst), done.load(Ordering::SeqCst)), (0, 60));
}

async fn a_release_wakes_who_waits_elsewhere(stage: Stage) {
    let [here, there] = stage.ways();
    assert_eq!(here.one(UPSTREAM, &admit(1, 1, 15_000)).await, Outcome::Admitted);
    let op = admit(2, 1, 15_000);
    assert_eq!(there.one(UPSTREAM, &op).await, Outcome::Queued { ahead: 0 });
    let watched = async {
        there.watch(UPSTREAM, &op).await;
        Instant::now()
    };
    let released = async {
        here.one(UPSTREAM, &release(1, 1)).await;
        Instant::now()
    };
    // Whichever of the two comes first, nobody waits until it is time to ask again.
    let (woken, released) = tokio::join!(watched, released);
    // A watch that nobody ends lasts twice as long.
    assert!(woken.saturating_duration_since(released) < Duration::from_secs(5), "nobody was woken");
    assert_eq!(there.one(UPSTREAM, &op).await, Outcome::Admitted);
}

async fn a_lease_that_nobody_gives_back_ends(stage: Stage) {
    const LEASE: u32 = 300;
    let [dead, alive] = stage.ways();
    let begun = unix_ms();
    assert_eq!(dead.one(UPSTREAM, &admit(1, 1, LEASE)).await, Outcome::Admitted);
    until("the lease to end", SOON, || async {
        alive.one(UPSTREAM, &admit(2, 1, 15_000)).await == Outcome::Admitted
    })
    .await;
    assert!(unix_ms() >= begun + u64::from(LEASE), "it ended before its time");
    // Whoever comes back too late has no lease any more.
    dead.one(UPSTREAM, &Op::Renew { ticket: 1, lease_ms: 15_000 }).await;
    assert_eq!(dead.one(UPSTREAM, &admit(1, 1, LEASE)).await, Outcome::Queued { ahead: 0 });
}

async fn a_list_stops_at_the_first_no(stage: Stage) {
    let [here, there] = stage.ways();
    let list = |code, ticket| {
        [("user:a", enter(1, 1)), (code, Op::Once { ttl_ms: 60_000 }), (UPSTREAM, admit(ticket, 2, 15_000))]
    };
    let outcomes = here.apply(&list("code:1", 1)).await;
    assert!(granted(&outcomes[0]), "{outcomes:?}");
    assert_eq!(outcomes[1..], [Outcome::Once { first: true }, Outcome::Admitted]);
    let outcomes = there.apply(&list("code:2", 2)).await;
    assert!(outcomes.len() == 1 && !granted(&outcomes[0]), "{outcomes:?}");
    let used = [("code:1", Op::Once { ttl_ms: 60_000 }), ("job:a", write(b"v", 60_000))];
    assert_eq!(here.apply(&used).await, [Outcome::Once { first: false }]);
    // What came after a no did not happen.
    assert_eq!(here.one("code:2", &Op::Once { ttl_ms: 60_000 }).await, Outcome::Once { first: true });
    assert_eq!(here.one("job:a", &Op::Read).await, Outcome::Value(None));
    assert_eq!(there.one(UPSTREAM, &admit(3, 2, 15_000)).await, Outcome::Admitted, "the second slot");
}

/// A relaxed operation may be answered before it is on disk, and then it is there with the first
/// durable one that is answered after it.
async fn what_was_acknowledged_survives_a_kill(mut stage: Stage) {
    let ways = stage.ways();
    let acknowledged = AtomicU32::new(0);
    let hammer = async |task: u32| {
        let way = &ways[usize::from(task % 2 == 1)];
        for number in (task..).step_by(16) {
            let user = format!("user:{number}");
            let ops = [
                (user.as_str(), enter(1, 10)),
                (&format!("code:{number}"), Op::Once { ttl_ms: 600_000 }),
                (&format!("job:{number}"), write(&number.to_le_bytes(), 600_000)),
            ];
            assert_eq!(way.apply(&ops).await.len(), 3);
            acknowledged.fetch_add(1, Ordering::SeqCst);
            if number > 300 {
                return number;
            }
        }
        0
    };
    join_all((0..16).map(hammer)).await;
    stage.kill_hosts().await;
    let [way, _] = stage.ways();
    assert!(acknowledged.load(Ordering::SeqCst) > 300);
    for number in 0..=300_u32 {
        let job = way.one(&format!("job:{number}"), &Op::Read).await;
        assert_eq!(job, value(&number.to_le_bytes()), "{number}");
        let code = way.one(&format!("code:{number}"), &Op::Once { ttl_ms: 1 }).await;
        assert_eq!(code, Outcome::Once { first: false }, "{number}");
        assert_eq!(remaining(&way.one(&format!("user:{number}"), &enter(1, 10)).await), 8, "{number}");
    }
}

async fn keys_are_apart_whatever_is_in_them(stage: Stage) {
    let [here, there] = stage.ways();
    let long = "k".repeat(512);
    let keys = [
        "a",
        "A",
        "a ",
        " a",
        "a\0",
        "a\0b",
        "a\n",
        "a'b",
        "a\"b",
        "a%b",
        "a%25b",
        "a*",
        "a?b&key=a",
        "键",
        "🔑",
        "e\u{301}",
        "\u{e9}",
        &long,
    ];
    for key in keys {
        here.one(key, &write(key.as_bytes(), 60_000)).await;
    }
    for key in keys {
        assert_eq!(there.one(key, &Op::Read).await, value(key.as_bytes()), "{key:?}");
    }
    assert_eq!(there.one("b", &Op::Read).await, Outcome::Value(None));
    here.one("a", &Op::Forget).await;
    assert_eq!(there.one("a", &Op::Read).await, Outcome::Value(None));
    assert_eq!(there.one("a\0", &Op::Read).await, value(b"a\0"));
}

async fn any_bytes_come_back_as_they_were(stage: Stage) {
    let [here, there] = stage.ways();
    let all: Vec<u8> = (0..=255).collect();
    for bytes in [&all[..], b"", b"\0", b"\xff\xfe\0", b"\r\n"] {
        here.one("job:a", &write(bytes, 60_000)).await;
        assert_eq!(there.one("job:a", &Op::Read).await, value(bytes));
    }
    // What another kind of operation left counts as absent, and does no harm.
    there.one("job:a", &enter(60, 1)).await;
    assert_eq!(here.one("job:b", &Op::Read).await, Outcome::Value(None));
}

async fn a_large_value_comes_back_whole(stage: Stage) {
    let [here, there] = stage.ways();
    // A Durable Object takes 2 MB under a key.
    let bytes: Vec<u8> = (0..1_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    here.one("job:a", &write(&bytes, 60_000)).await;
    assert!(there.one("job:a", &Op::Read).await == value(&bytes), "other bytes");
    here.one("job:a", &write(b"small", 60_000)).await;
    assert_eq!(there.one("job:a", &Op::Read).await, value(b"small"));
}

async fn a_clock_that_goes_back_gives_and_takes_nothing(stage: Stage) {
    let [here, there] = stage.ways();
    // Slow enough for no token to come back meanwhile.
    let rate = enter(1, 3);
    stage.set_clock(HOUR_MS).await;
    for left in [2, 1, 0] {
        assert_eq!(remaining(&here.one("user:a", &rate).await), left);
    }
    here.one("code:a", &Op::Once { ttl_ms: 60_000 }).await;
    here.one("job:a", &write(b"v", 60_000)).await;
    assert_eq!(here.one(UPSTREAM, &admit(1, 1, 15_000)).await, Outcome::Admitted);
    stage.set_clock(0).await;
    assert!(!granted(&there.one("user:a", &rate).await), "an hour back is no hour gone");
    assert_eq!(there.one("code:a", &Op::Once { ttl_ms: 60_000 }).await, Outcome::Once { first: false });
    assert_eq!(there.one("job:a", &Op::Read).await, value(b"v"));
    assert!(matches!(there.one(UPSTREAM, &admit(2, 1, 15_000)).await, Outcome::Queued { .. }));
    // And when the time has come again it counts.
    stage.set_clock(2 * HOUR_MS).await;
    assert_eq!(remaining(&there.one("user:a", &rate).await), 2);
    assert_eq!(there.one("job:a", &Op::Read).await, Outcome::Value(None));
    assert_eq!(there.one("code:a", &Op::Once { ttl_ms: 60_000 }).await, Outcome::Once { first: true });
}

/// A turn that somebody is to run now.
fn create() -> Op {
    Op::Turn(TurnOp::Create(Create {
        owner: "me".into(),
        digest: [1; 32],
        checkpoint: ByteBuf::from(*b"begin"),
        timeout_ms: 600_000,
        keep_ms: 600_000,
    }))
}

/// A runner comes; its lease is the next alarm.
const CLAIM: Op = Op::Turn(TurnOp::Claim { ticket: 1 });

/// The first runner wants to go on then.
fn later(at_ms: u64) -> Op {
    let then = Then::Later { at_ms };
    Op::Turn(TurnOp::Save { epoch: 1, checkpoint: ByteBuf::from(*b"later"), then })
}

/// The first runner has an answer, and there is no alarm any more.
fn end() -> Op {
    let ended = Ended {
        state: State::Done,
        status: 200,
        retry_after_s: None,
        again: false,
        body: ByteBuf::from(*b"{}"),
    };
    Op::Turn(TurnOp::End { epoch: 1, ended, errand: None })
}

/// Somebody waits, which is no other word on the alarm.
fn look() -> Op {
    let watch = Watch { owner: None, ticket: 9, awaited: Awaited::End, after: 0 };
    Op::Turn(TurnOp::Watch(watch))
}

async fn times(stage: &Stage, key: &str) -> usize {
    stage.alarms().await.iter().filter(|gone_off| *gone_off == key).count()
}

async fn until_times(stage: &Stage, key: &str, wanted: usize, limit: Duration) {
    until(&format!("alarm {wanted} of {key}"), limit, || async { times(stage, key).await >= wanted }).await;
}

async fn an_alarm_that_is_now_goes_off_at_once_and_once(stage: Stage) {
    let ways = stage.ways();
    let mut keys: Vec<String> = (1..9).map(|number| format!("turn:{number}")).collect();
    keys.push("turn:a".to_owned());
    for way in &ways {
        for key in &keys {
            way.answer(key, &CLAIM).await;
        }
        way.answer("turn:later", &CLAIM).await;
    }
    let mut took = Vec::new();
    for key in &keys {
        let begun = Instant::now();
        ways[0].one(key, &create()).await;
        until_times(&stage, key, 1, SOON).await;
        took.push(begun.elapsed());
    }
    took.sort();
    // A host looks once a second by itself: one after the other, each would take that long.
    assert!(took[took.len() / 2] < Duration::from_millis(500), "{took:?}");
    // The operation that answers it has come through: the lease is not over.
    until("the claim", SOON, || async {
        ways[1].one("turn:a", &Op::Turn(TurnOp::Claim { ticket: 2 })).await
            == Outcome::Turn(TurnOutcome::Busy)
    })
    .await;
    ways[1].one("turn:later", &create()).await;
    until_times(&stage, "turn:later", 1, SOON).await;
    until("the claim", SOON, || async {
        ways[0].one("turn:later", &later(unix_ms() + 2_500)).await == Outcome::Turn(TurnOutcome::Saved)
    })
    .await;
    until_times(&stage, "turn:later", 2, SOON).await;
    assert_eq!(times(&stage, "turn:a").await, 1, "meanwhile");
}

async fn an_alarm_is_moved_and_taken_away(stage: Stage) {
    let [here, there] = stage.ways();
    for key in ["turn:moved", "turn:away", "turn:gone"] {
        here.one(key, &create()).await;
        until_times(&stage, key, 1, SOON).await;
        assert!(matches!(there.one(key, &CLAIM).await, Outcome::Turn(TurnOutcome::Claimed(_))));
    }
    let soon = unix_ms() + 1_000;
    for key in ["turn:moved", "turn:away", "turn:gone"] {
        assert_eq!(here.one(key, &later(soon)).await, Outcome::Turn(TurnOutcome::Saved));
    }
    // Nobody runs them now, so these are the words of whoever comes next.
    let second = Op::Turn(TurnOp::Claim { ticket: 2 });
    until("the time", SOON, || async {
        matches!(there.one("turn:away", &second).await, Outcome::Turn(TurnOutcome::Claimed(_)))
    })
    .await;
    let ended = Ended {
        state: State::Done,
        status: 200,
        retry_after_s: None,
        again: false,
        body: ByteBuf::from(*b"{}"),
    };
    let over = Op::Turn(TurnOp::End { epoch: 2, ended, errand: None });
    assert_eq!(here.one("turn:away", &over).await, Outcome::Turn(TurnOutcome::Saved));
    // A key that is forgotten has none.
    there.one("turn:gone", &Op::Forget).await;
    until_times(&stage, "turn:moved", 2, SOON).await;
    assert!(unix_ms() >= soon, "it went off before its time");
    let before = (times(&stage, "turn:away").await, times(&stage, "turn:gone").await);
    // An alarm that was set after they were taken away comes, and theirs do not.
    there.one("turn:moved", &second).await;
    let save = TurnOp::Save {
        epoch: 2,
        checkpoint: ByteBuf::from(*b"x"),
        then: Then::Later { at_ms: soon + 3_000 },
    };
    assert_eq!(there.one("turn:moved", &Op::Turn(save)).await, Outcome::Turn(TurnOutcome::Saved));
    until_times(&stage, "turn:moved", 3, SOON).await;
    assert_eq!((times(&stage, "turn:away").await, times(&stage, "turn:gone").await), before);
    assert!(before.0 <= 2 && before.1 <= 2, "{before:?}");
}

async fn an_alarm_survives_a_kill(mut stage: Stage) {
    let [here, there] = stage.ways();
    for key in ["turn:later", "turn:running", "turn:done"] {
        here.one(key, &create()).await;
        until_times(&stage, key, 1, SOON).await;
        there.one(key, &CLAIM).await;
    }
    let at_ms = unix_ms() + 2_000;
    here.one("turn:later", &later(at_ms)).await;
    here.one("turn:done", &end()).await;
    let leased = unix_ms();
    stage.kill_hosts().await;
    until_times(&stage, "turn:later", 1, SOON).await;
    assert!(unix_ms() >= at_ms, "it went off before its time");
    // Whoever ran it has died with the host; its lease ends.
    until_times(&stage, "turn:running", 1, Duration::from_secs(30)).await;
    assert!(unix_ms() + 2_000 >= leased + LEASE_MS, "it went off before its time");
    assert_eq!(times(&stage, "turn:done").await, 0);
}

async fn an_alarm_that_nobody_answers_goes_off_again(stage: Stage) {
    let [here, there] = stage.ways();
    // Before the first time, and not when it is seen.
    let first = Instant::now();
    here.one("turn:a", &create()).await;
    until_times(&stage, "turn:a", 1, SOON).await;
    until("the second time", Duration::from_secs(30), || async {
        there.one("turn:a", &look()).await;
        times(&stage, "turn:a").await >= 2
    })
    .await;
    assert!(first.elapsed() > Duration::from_secs(12), "{:?} after the first", first.elapsed());
    assert_eq!(times(&stage, "turn:a").await, 2);
    here.one("turn:a", &CLAIM).await;
    here.one("turn:a", &end()).await;
}

async fn alarms_are_shared_by_the_hosts(stage: Stage) {
    const TURNS: usize = 60;
    let ways = stage.ways();
    let keys: Vec<String> = (0..TURNS).map(|number| format!("turn:{number}")).collect();
    for way in &ways {
        join_all(keys.iter().map(|key| way.answer(key, &CLAIM))).await;
    }
    let op = create();
    join_all(keys.iter().enumerate().map(|(number, key)| ways[number % 2].one(key, &op))).await;
    until("all of them", SOON, || async {
        let mut gone_off = stage.alarms().await;
        gone_off.sort();
        gone_off.dedup();
        gone_off.len() == TURNS
    })
    .await;
    assert_eq!(stage.alarms().await.len(), TURNS, "one host has each");
}
