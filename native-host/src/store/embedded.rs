//! SQLite beside the program.
//!
//! Cells live in memory, in shards that the serving threads lock for one reduction at a time;
//! one thread writes what has changed, in one transaction each [`FLUSH`]. A relaxed operation is
//! answered at once; any other when the transaction with it is on disk. So the request path has
//! no hop to another thread, and a `kill -9` loses at most [`FLUSH`] of rate tokens.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::{File, TryLockError},
    hash::BuildHasher as _,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use minigate_core::state::{Op, Outcome};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use super::{Clock, failed, reduce};
use crate::module::Core;

/// How long a relaxed change may wait for the disk.
const FLUSH: Duration = Duration::from_millis(250);
/// How often outlived keys are deleted.
const SWEEP: Duration = Duration::from_secs(60);
/// Rows that one sweep deletes in one transaction, so that a write never waits long.
const SWEEP_ROWS: u32 = 5_000;
/// Shards: more than threads, so that they seldom meet.
const SHARDS: usize = 8;
/// Cells that a shard keeps in memory. Those that are forgotten there are read again.
const MOST_CELLS: usize = 8_192;
/// Values of this size are in memory only until they are on disk: pictures.
const LARGE: usize = 64 * 1024;
/// Changes that may wait for a disk that does not answer; then operations fail.
const MOST_UNWRITTEN: usize = 65_536;

/// One key's bytes and how long they matter.
struct Cell {
    value: Vec<u8>,
    expires_ms: u64,
    /// It has changed since it was taken for writing.
    dirty: bool,
    /// It is being written: what is on disk is older.
    writing: bool,
}

impl Cell {
    /// Whether it may be forgotten here and read again.
    fn is_on_disk(&self) -> bool {
        !self.dirty && !self.writing
    }
}

struct Shard {
    cells: HashMap<String, Cell>,
    dirty: Vec<String>,
    /// The number of cells at which some are forgotten next.
    full: usize,
    /// Reads what is not in memory. Reading does not wait for the writer (WAL).
    reader: Connection,
}

struct Inner {
    shards: Vec<Mutex<Shard>>,
    hasher: std::hash::RandomState,
    clock: Clock,
    /// Held for as long as the store is open.
    _lock: File,
}

/// Whoever waits until everything before it is on disk.
type Barrier = oneshot::Sender<bool>;

/// A handle to the store.
#[derive(Clone)]
pub(super) struct Embedded {
    inner: Arc<Inner>,
    writer: mpsc::Sender<Barrier>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Embedded")
    }
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Embedded {
    /// Opens the file and starts the writer.
    pub(super) fn open(directory: &Path, clock: Clock) -> Result<Self, String> {
        let mut keeper = Keeper::open(directory, clock)?;
        let inner = Arc::clone(&keeper.inner);
        let (writer, barriers) = mpsc::channel();
        thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.run(&barriers))
            .map_err(|error| format!("DATA_DIR: {error}"))?;
        Ok(Self { inner, writer })
    }

    /// Applies an operation; `None` when the store failed. Waits only for an operation that is
    /// not relaxed.
    pub(super) async fn apply(&self, core: &RefCell<Core>, key: &str, op: Op) -> Option<(Outcome, Vec<u64>)> {
        let relaxed = op.is_relaxed();
        let (outcome, wake) = self.reduce(core, key, op)?;
        if !relaxed {
            let (written, on_disk) = oneshot::channel();
            self.writer.send(written).ok()?;
            if !on_disk.await.unwrap_or(false) {
                return None;
            }
        }
        Some((outcome, wake))
    }

    fn reduce(&self, core: &RefCell<Core>, key: &str, op: Op) -> Option<(Outcome, Vec<u64>)> {
        let at = usize::try_from(self.inner.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        let mut shard = lock(&self.inner.shards[at]);
        if shard.dirty.len() >= MOST_UNWRITTEN / SHARDS {
            failed("too many changes wait for the disk");
            return None;
        }
        if !shard.cells.contains_key(key) {
            let cell = shard.read(key)?;
            shard.make_room();
            shard.cells.insert(key.to_owned(), cell);
        }
        let Shard { cells, dirty, .. } = &mut *shard;
        let cell = cells.get_mut(key)?;
        let now = self.inner.clock.unix_ms();
        let is_read = op.is_read();
        let reduced = reduce(core, op, (cell.expires_ms > now).then_some(cell.value.as_slice()), now)?;
        if is_read || (cell.value.is_empty() && reduced.new.is_empty()) {
            if is_read && cell.is_on_disk() && cell.value.len() > LARGE {
                cells.remove(key);
            }
            return Some((reduced.outcome, reduced.wake));
        }
        cell.value = reduced.new.into_vec();
        cell.expires_ms = if cell.value.is_empty() { 0 } else { now.saturating_add(reduced.ttl_ms) };
        if !cell.dirty {
            cell.dirty = true;
            dirty.push(key.to_owned());
        }
        Some((reduced.outcome, reduced.wake))
    }

    /// Waits until everything is on disk.
    pub(super) fn close(&self) {
        let (written, on_disk) = oneshot::channel();
        if self.writer.send(written).is_ok() {
            let _ = on_disk.blocking_recv();
        }
    }
}

impl Shard {
    /// Forgets what is on disk when there is too much. While most waits for the disk, each new key
    /// would look at all of them in vain; so it is not looked again until some more have come.
    fn make_room(&mut self) {
        if self.cells.len() >= self.full {
            self.cells.retain(|_, cell| !cell.is_on_disk());
            self.full = MOST_CELLS.max(self.cells.len() + MOST_CELLS / 4);
        }
    }

    /// What is on disk under a key; `None` when it cannot be read.
    fn read(&self, key: &str) -> Option<Cell> {
        let mut select = self
            .reader
            .prepare_cached("SELECT value, expires_ms FROM cell WHERE key = ?1")
            .map_err(|error| failed(&error.to_string()))
            .ok()?;
        let row = select.query_row([key], |row| {
            let expires: i64 = row.get(1)?;
            Ok(Cell {
                value: row.get(0)?,
                expires_ms: u64::try_from(expires).unwrap_or(0),
                dirty: false,
                writing: false,
            })
        });
        let row = row.optional().map_err(|error| failed(&error.to_string())).ok()?;
        Some(row.unwrap_or(Cell { value: Vec::new(), expires_ms: 0, dirty: false, writing: false }))
    }
}

fn create(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "NORMAL")?;
    connection.execute_batch(
        "CREATE TABLE IF NOT EXISTS cell (key TEXT PRIMARY KEY, value BLOB NOT NULL, expires_ms INTEGER NOT NULL) WITHOUT ROWID;
         CREATE INDEX IF NOT EXISTS cell_expires ON cell (expires_ms);",
    )?;
    Ok(connection)
}

fn reader(path: &PathBuf) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    // Pages in KiB when negative. The cells are the cache.
    connection.pragma_update(None, "cache_size", -128)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

/// The thread that writes.
struct Keeper {
    inner: Arc<Inner>,
    connection: Connection,
    swept: Instant,
}

impl Keeper {
    fn open(directory: &Path, clock: Clock) -> Result<Self, String> {
        let problem = |error: &dyn std::fmt::Display| format!("DATA_DIR: {}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(|error| problem(&error))?;
        // Two programs on one file would each believe their own memory.
        let lock = File::create(directory.join("minigate.lock")).map_err(|error| problem(&error))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(problem(&"another minigate uses it; give each its own, or set STORE_URL"));
        }
        let path = directory.join("minigate.sqlite");
        let connection = create(&path).map_err(|error| problem(&error))?;
        let mut shards = Vec::with_capacity(SHARDS);
        for _ in 0..SHARDS {
            let reader = reader(&path).map_err(|error| problem(&error))?;
            shards.push(Mutex::new(Shard {
                cells: HashMap::new(),
                dirty: Vec::new(),
                full: MOST_CELLS,
                reader,
            }));
        }
        let inner = Arc::new(Inner { shards, hasher: std::hash::RandomState::new(), clock, _lock: lock });
        Ok(Self { inner, connection, swept: Instant::now() })
    }

    /// Until every handle is gone.
    fn run(&mut self, barriers: &mpsc::Receiver<Barrier>) {
        loop {
            let first = match barriers.recv_timeout(FLUSH) {
                Ok(barrier) => Some(barrier),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => {
                    self.flush(true);
                    return;
                }
            };
            // Those that came together are written together.
            let waiting: Vec<Barrier> = first.into_iter().chain(barriers.try_iter()).collect();
            let written = self.flush(!waiting.is_empty());
            for barrier in waiting {
                let _ = barrier.send(written);
            }
            if self.swept.elapsed() >= SWEEP {
                self.sweep();
            }
        }
    }

    /// Writes what has changed, in one transaction. What could not be written stays marked.
    fn flush(&mut self, synced: bool) -> bool {
        let mut changed: Vec<(String, Vec<u8>, u64)> = Vec::new();
        for shard in &self.inner.shards {
            let mut shard = lock(shard);
            let Shard { cells, dirty, .. } = &mut *shard;
            for key in dirty.drain(..) {
                if let Some(cell) = cells.get_mut(&key) {
                    (cell.dirty, cell.writing) = (false, true);
                    changed.push((key, cell.value.clone(), cell.expires_ms));
                }
            }
        }
        if changed.is_empty() {
            return true;
        }
        let written = self.write(&changed, synced);
        if let Err(error) = &written {
            failed(&error.to_string());
        }
        for (key, ..) in changed {
            let at = usize::try_from(self.inner.hasher.hash_one(&key) % SHARDS as u64).unwrap_or_default();
            let mut shard = lock(&self.inner.shards[at]);
            let Shard { cells, dirty, .. } = &mut *shard;
            if let Some(cell) = cells.get_mut(&key) {
                cell.writing = false;
                if written.is_err() && !cell.dirty {
                    cell.dirty = true;
                    dirty.push(key);
                } else if cell.is_on_disk() && cell.value.len() > LARGE {
                    cells.remove(&key);
                }
            }
        }
        written.is_ok()
    }

    /// In WAL mode a commit is safe from a crash of this program; `synced` makes it safe from a
    /// power cut too.
    fn write(&mut self, changed: &[(String, Vec<u8>, u64)], synced: bool) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
        let transaction = self.connection.transaction()?;
        {
            let mut upsert = transaction
                .prepare_cached("INSERT OR REPLACE INTO cell (key, value, expires_ms) VALUES (?1, ?2, ?3)")?;
            let mut delete = transaction.prepare_cached("DELETE FROM cell WHERE key = ?1")?;
            for (key, value, expires_ms) in changed {
                if value.is_empty() {
                    delete.execute([key])?;
                } else {
                    upsert.execute((key, value, sql(*expires_ms)))?;
                }
            }
        }
        transaction.commit()
    }

    /// Forgets what has outlived its time.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let now = self.inner.clock.unix_ms();
        for shard in &self.inner.shards {
            lock(shard).cells.retain(|_, cell| !cell.is_on_disk() || cell.expires_ms > now);
        }
        let deleted = self.connection.execute(
            "DELETE FROM cell WHERE key IN (SELECT key FROM cell WHERE expires_ms <= ?1 LIMIT ?2)",
            (sql(now), SWEEP_ROWS),
        );
        match deleted {
            // There are more: go on after the next flush.
            Ok(rows) if rows >= SWEEP_ROWS as usize => {
                self.swept = self.swept.checked_sub(SWEEP).unwrap_or(self.swept);
            }
            Ok(_) => {}
            Err(error) => failed(&error.to_string()),
        }
    }
}

/// SQLite's integers are signed.
fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test says so when something is missing")]

    use std::sync::atomic::{AtomicU64, Ordering};

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

    fn put(keeper: &Keeper, key: &str, expires_ms: u64, dirty: bool) {
        let cell = Cell { value: vec![1], expires_ms, dirty, writing: false };
        lock(&keeper.inner.shards[0]).cells.insert(key.into(), cell);
    }

    #[test]
    fn what_has_outlived_its_time_is_deleted_from_disk_and_memory() {
        let (mut keeper, time, directory) = keeper("sweep");
        let cells: Vec<_> = [("past", 2_000), ("written anew", 2_000), ("to come", 9_000)]
            .map(|(key, expires_ms)| (key.to_owned(), vec![1], expires_ms))
            .into();
        keeper.write(&cells, false).unwrap();
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
        let cells: Vec<_> = (0..=SWEEP_ROWS).map(|number| (number.to_string(), vec![1], 1)).collect();
        keeper.write(&cells, false).unwrap();
        keeper.sweep();
        assert_eq!(rows(&keeper), 1);
        assert!(keeper.swept.elapsed() >= SWEEP, "it goes on at once");
        keeper.sweep();
        assert_eq!(rows(&keeper), 0);
        assert!(keeper.swept.elapsed() < SWEEP);
        std::fs::remove_dir_all(directory).unwrap();
    }
}
