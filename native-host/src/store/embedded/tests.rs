use std::sync::atomic::{AtomicU64, Ordering};

use minigate_core::state::Reduced;
use serde_bytes::ByteBuf;

use super::*;

/// A keeper without its thread, in a directory of its own, and its clock.
fn keeper(name: &str) -> (Keeper, Arc<AtomicU64>, PathBuf) {
    let directory = std::env::temp_dir().join(format!("minigate-{name}-{}", std::process::id()));
    let time = Arc::new(AtomicU64::new(1_000));
    let shown = Arc::clone(&time);
    let clock = Clock::new(move || shown.load(Ordering::SeqCst));
    (Keeper::open(&directory, clock).unwrap(), time, directory)
}

fn rows(keeper: &Keeper) -> u32 {
    keeper.connection.query_row("SELECT count(*) FROM cell", [], |row| row.get(0)).unwrap()
}

fn row(key: &str, expires_ms: u64) -> Row {
    Row { key: key.to_owned(), value: vec![1], expires_ms, alarm_ms: None }
}

fn put(keeper: &Keeper, key: &str, expires_ms: u64, dirty: bool) {
    let cell = Cell { value: vec![1], expires_ms, dirty, ..Cell::default() };
    lock(&keeper.inner.shards[0]).cells.insert(key.into(), cell);
}

#[test]
fn what_has_outlived_its_time_is_deleted_from_disk_and_memory() {
    let (mut keeper, time, directory) = keeper("sweep");
    let rows_now = [("past", 2_000), ("written anew", 2_000), ("to come", 9_000)]
        .map(|(key, expires_ms)| row(key, expires_ms));
    keeper.write(&rows_now, false).unwrap();
    put(&keeper, "past", 2_000, false);
    put(&keeper, "written anew", 9_000, true);
    put(&keeper, "to come", 9_000, false);
    keeper.sweep();
    assert_eq!(rows(&keeper), 3, "nobody's time is over");
    time.store(2_000, Ordering::SeqCst);
    keeper.sweep();
    assert_eq!(rows(&keeper), 1);
    let left: Vec<String> = lock(&keeper.inner.shards[0]).cells.keys().cloned().collect();
    assert!(left.len() == 2 && !left.contains(&"past".to_owned()), "{left:?}");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn memory_is_bounded_and_what_waits_for_the_disk_stays() {
    let (keeper, _, directory) = keeper("room");
    for number in 0..3 * MOST_CELLS {
        lock(&keeper.inner.shards[0]).make_room();
        put(&keeper, &number.to_string(), 9_000, number < MOST_CELLS + 3);
    }
    let shard = lock(&keeper.inner.shards[0]);
    assert!(shard.cells.len() <= 2 * MOST_CELLS, "{}", shard.cells.len());
    assert_eq!(shard.cells.values().filter(|cell| cell.dirty).count(), MOST_CELLS + 3);
    drop(shard);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn what_is_too_much_for_one_sweep_is_deleted_by_the_next_ones() {
    let (mut keeper, _, directory) = keeper("sweeps");
    let many: Vec<_> = (0..=SWEEP_ROWS).map(|number| row(&number.to_string(), 1)).collect();
    keeper.write(&many, false).unwrap();
    keeper.sweep();
    assert_eq!(rows(&keeper), 1);
    assert!(keeper.swept.elapsed() >= SWEEP, "it goes on at once");
    keeper.sweep();
    assert_eq!(rows(&keeper), 0);
    assert!(keeper.swept.elapsed() < SWEEP);
    std::fs::remove_dir_all(directory).unwrap();
}

/// An operation whose reducer wants this alarm, and keeps the cell for that long.
fn say(keeper: &Keeper, key: &str, ttl_ms: u64, alarm_ms: Option<u64>) {
    let reduced =
        Reduced { new: ByteBuf::from(*b"v"), ttl_ms, outcome: Outcome::Written, wake: Vec::new(), alarm_ms };
    keeper.inner.change(key, false, |_, _| Some(reduced)).unwrap();
}

/// What goes off now, in order.
fn gone_off(keeper: &Keeper) -> Vec<String> {
    let now = keeper.inner.clock.unix_ms();
    let taken = std::iter::from_fn(|| keeper.inner.alarms.take(now).ok());
    taken.filter(|key| keeper.inner.goes_off(key)).collect()
}

/// Another program on the same file, after this one was killed.
fn again(keeper: Keeper, directory: &Path) -> Keeper {
    let clock = keeper.inner.clock.clone();
    drop(keeper);
    Keeper::open(directory, clock).unwrap()
}

#[test]
fn the_last_word_on_an_alarm_stands() {
    let (keeper, time, directory) = keeper("alarms");
    say(&keeper, "a", 100_000, Some(5_000));
    say(&keeper, "b", 100_000, Some(4_000));
    say(&keeper, "c", 100_000, Some(3_000));
    say(&keeper, "a", 100_000, Some(2_000));
    say(&keeper, "c", 100_000, None);
    let read = Reduced {
        new: ByteBuf::new(),
        ttl_ms: 0,
        outcome: Outcome::Value(None),
        wake: Vec::new(),
        alarm_ms: None,
    };
    keeper.inner.change("b", true, |_, _| Some(read)).unwrap();
    assert_eq!(gone_off(&keeper), [""; 0]);
    time.store(2_000, Ordering::SeqCst);
    assert_eq!(gone_off(&keeper), ["a"]);
    time.store(5_000, Ordering::SeqCst);
    assert_eq!(gone_off(&keeper), ["b"], "a read says nothing of it");
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn an_alarm_that_nobody_answers_goes_off_again_later_and_not_at_once() {
    let (keeper, time, directory) = keeper("alarms-again");
    say(&keeper, "a", 100_000, Some(1_000));
    assert_eq!(gone_off(&keeper), ["a"]);
    assert_eq!(gone_off(&keeper), [""; 0]);
    // Whoever looks meanwhile repeats what was said before.
    say(&keeper, "a", 100_000, Some(1_000));
    assert_eq!(gone_off(&keeper), [""; 0]);
    time.store(1_000 + AGAIN_MS, Ordering::SeqCst);
    assert_eq!(gone_off(&keeper), ["a"]);
    say(&keeper, "a", 100_000, Some(1_001));
    assert_eq!(gone_off(&keeper), ["a"], "another word");
    say(&keeper, "a", 100_000, None);
    time.store(90_000, Ordering::SeqCst);
    assert_eq!(gone_off(&keeper), [""; 0]);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn alarms_are_there_after_a_restart_and_those_of_forgotten_keys_are_not() {
    let (mut keeper, time, directory) = keeper("alarms-restart");
    say(&keeper, "later", 100_000, Some(60_000));
    say(&keeper, "now", 100_000, Some(1_000));
    say(&keeper, "short", 500, Some(5_000));
    say(&keeper, "taken back", 100_000, Some(1_000));
    assert!(keeper.flush(true));
    say(&keeper, "taken back", 100_000, None);
    say(&keeper, "not written", 100_000, Some(1_000));
    assert!(keeper.flush(true));
    say(&keeper, "lost", 100_000, Some(1_000));
    assert_eq!(gone_off(&keeper), ["lost", "not written", "now"]);
    let keeper = again(keeper, &directory);
    assert_eq!(gone_off(&keeper), ["not written", "now"], "they went off, and nobody said a word");
    assert!(keeper.inner.shards.iter().map(|shard| lock(shard).cells.len()).sum::<usize>() <= 2);
    time.store(60_000, Ordering::SeqCst);
    let mut gone = gone_off(&keeper);
    gone.sort();
    assert_eq!(gone, ["later", "not written", "now"]);
    // What has outlived its time comes back as something new.
    say(&keeper, "short", 100_000, Some(5_000));
    assert_eq!(gone_off(&keeper), ["short"]);
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_file_of_before_there_were_alarms_gets_the_column() {
    let (keeper, time, directory) = keeper("alarms-old");
    drop(keeper);
    let path = directory.join("minigate.sqlite");
    let old = Connection::open(&path).unwrap();
    old.execute_batch(
        "DROP INDEX cell_alarm; ALTER TABLE cell DROP COLUMN alarm_ms;
         INSERT INTO cell (key, value, expires_ms) VALUES ('a', x'07', 9000)",
    )
    .unwrap();
    drop(old);
    let clock = Clock::new(move || time.load(Ordering::SeqCst));
    let mut keeper = Keeper::open(&directory, clock).unwrap();
    keeper
        .inner
        .change("a", false, |old, _| {
            assert_eq!(old, Some(&[7_u8][..]));
            Some(Reduced {
                new: ByteBuf::from(*b"v"),
                ttl_ms: 9_000,
                outcome: Outcome::Written,
                wake: Vec::new(),
                alarm_ms: Some(1),
            })
        })
        .unwrap();
    assert!(keeper.flush(true));
    let keeper = again(keeper, &directory);
    assert_eq!(gone_off(&keeper), ["a"]);
    std::fs::remove_dir_all(directory).unwrap();
}
