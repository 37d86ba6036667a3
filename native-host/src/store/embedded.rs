//! SQLite beside the program.
//!
//! Cells live in memory, in shards that the serving threads lock for one reduction at a time;
//! one thread writes what has changed, in one transaction each [`FLUSH`]. A relaxed operation is
//! answered at once; any other when the transaction with it is on disk. So the request path has
//! no hop to another thread, and a `kill -9` loses at most [`FLUSH`] of rate tokens.
//!
//! A cell has at most one alarm, which is written with it. The queue of all of them is in memory and is
//! read once, at the start; so an alarm that is now waits for no disk.

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

use minigate_core::{
    seam::ReduceReply,
    state::{Op, Outcome},
};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use super::{
    Clock,
    alarms::{AGAIN_MS, Alarms},
    failed, reduce,
};
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
#[derive(Default)]
struct Cell {
    value: Vec<u8>,
    expires_ms: u64,
    /// The reducer's last word. In the queue it is later, once it has gone off.
    alarm_ms: Option<u64>,
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

/// A cell as it is on disk.
struct Row {
    key: String,
    value: Vec<u8>,
    expires_ms: u64,
    alarm_ms: Option<u64>,
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
    alarms: Alarms,
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

impl Inner {
    /// The shard of a key.
    fn shard(&self, key: &str) -> MutexGuard<'_, Shard> {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        lock(&self.shards[at])
    }

    /// Applies what the reducer makes of a key's bytes and the time. `None` when the store failed.
    fn change(
        &self,
        key: &str,
        is_read: bool,
        reduce: impl FnOnce(Option<&[u8]>, u64) -> Option<ReduceReply>,
    ) -> Option<(Outcome, Vec<u64>)> {
        let mut shard = self.shard(key);
        if shard.dirty.len() >= MOST_UNWRITTEN / SHARDS {
            failed("too many changes wait for the disk");
            return None;
        }
        shard.load(key)?;
        let Shard { cells, dirty, .. } = &mut *shard;
        let cell = cells.get_mut(key)?;
        let now = self.clock.unix_ms();
        let alive = cell.expires_ms > now;
        let reduced = reduce(alive.then_some(cell.value.as_slice()), now)?;
        if is_read || (cell.value.is_empty() && reduced.new.is_empty()) {
            if is_read && cell.is_on_disk() && cell.value.len() > LARGE {
                cells.remove(key);
            }
            return Some((reduced.outcome, reduced.wake));
        }
        cell.value = reduced.new.into_vec();
        cell.expires_ms = if cell.value.is_empty() { 0 } else { now.saturating_add(reduced.ttl_ms) };
        // Nothing is left of a key that is forgotten. The same time again is no other word: an alarm that
        // has gone off and is looked at meanwhile does not go off with each look.
        let alarm_ms = reduced.alarm_ms.filter(|_| !cell.value.is_empty());
        if alarm_ms != cell.alarm_ms || (!alive && alarm_ms.is_some()) {
            cell.alarm_ms = alarm_ms;
            self.alarms.set(key, alarm_ms);
        }
        if !cell.dirty {
            cell.dirty = true;
            dirty.push(key.to_owned());
        }
        Some((reduced.outcome, reduced.wake))
    }

    /// Whether an alarm that was taken out of the queue is wanted; then it stands there again, for
    /// later. What has outlived its time has none.
    fn goes_off(&self, key: &str) -> bool {
        let mut shard = self.shard(key);
        let now = self.clock.unix_ms();
        let readable = shard.load(key).is_some();
        let cell = shard.cells.get(key);
        let wanted = cell.is_some_and(|cell| cell.alarm_ms.is_some() && cell.expires_ms > now);
        if wanted || !readable {
            // Unless another was set just now.
            self.alarms.set_if_none(key, now.saturating_add(AGAIN_MS));
        }
        wanted
    }
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
        let (relaxed, is_read) = (op.is_relaxed(), op.is_read());
        let (outcome, wake) = self.inner.change(key, is_read, |old, now| reduce(core, op, old, now))?;
        if !relaxed {
            let (written, on_disk) = oneshot::channel();
            self.writer.send(written).ok()?;
            if !on_disk.await.unwrap_or(false) {
                return None;
            }
        }
        Some((outcome, wake))
    }

    /// The key of the next alarm that goes off.
    pub(super) async fn alarm(&self) -> String {
        loop {
            let key = self.inner.alarms.next(&self.inner.clock).await;
            if self.inner.goes_off(&key) {
                return key;
            }
        }
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
    /// Sees to it that a key's cell is in memory; `None` when it cannot be read.
    fn load(&mut self, key: &str) -> Option<()> {
        if !self.cells.contains_key(key) {
            let cell = self.read(key)?;
            self.make_room();
            self.cells.insert(key.to_owned(), cell);
        }
        Some(())
    }

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
            .prepare_cached("SELECT value, expires_ms, alarm_ms FROM cell WHERE key = ?1")
            .map_err(|error| failed(&error.to_string()))
            .ok()?;
        let row = select.query_row([key], |row| {
            let expires: i64 = row.get(1)?;
            let alarm: Option<i64> = row.get(2)?;
            Ok(Cell {
                value: row.get(0)?,
                expires_ms: time(expires),
                alarm_ms: alarm.map(time),
                ..Cell::default()
            })
        });
        let row = row.optional().map_err(|error| failed(&error.to_string())).ok()?;
        Some(row.unwrap_or_default())
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
    // A file of before there were alarms.
    if !connection.column_exists(None, "cell", "alarm_ms")? {
        connection.execute_batch("ALTER TABLE cell ADD COLUMN alarm_ms INTEGER")?;
    }
    connection.execute_batch(
        "CREATE INDEX IF NOT EXISTS cell_alarm ON cell (alarm_ms) WHERE alarm_ms IS NOT NULL",
    )?;
    Ok(connection)
}

/// The alarms of a file, those too whose time has passed while nobody was there.
fn alarms(connection: &Connection) -> rusqlite::Result<Alarms> {
    let alarms = Alarms::default();
    let mut select = connection.prepare("SELECT key, alarm_ms FROM cell WHERE alarm_ms IS NOT NULL")?;
    let mut rows = select.query([])?;
    while let Some(row) = rows.next()? {
        let key: String = row.get(0)?;
        alarms.set(&key, Some(time(row.get(1)?)));
    }
    drop(rows);
    drop(select);
    Ok(alarms)
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
        let alarms = alarms(&connection).map_err(|error| problem(&error))?;
        let hasher = std::hash::RandomState::new();
        let inner = Arc::new(Inner { shards, hasher, clock, alarms, _lock: lock });
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
        let mut changed: Vec<Row> = Vec::new();
        for shard in &self.inner.shards {
            let mut shard = lock(shard);
            let Shard { cells, dirty, .. } = &mut *shard;
            for key in dirty.drain(..) {
                if let Some(cell) = cells.get_mut(&key) {
                    (cell.dirty, cell.writing) = (false, true);
                    let (value, expires_ms, alarm_ms) = (cell.value.clone(), cell.expires_ms, cell.alarm_ms);
                    changed.push(Row { key, value, expires_ms, alarm_ms });
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
        for Row { key, .. } in changed {
            let mut shard = self.inner.shard(&key);
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
    fn write(&mut self, changed: &[Row], synced: bool) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "synchronous", if synced { "FULL" } else { "NORMAL" })?;
        let transaction = self.connection.transaction()?;
        {
            let mut upsert = transaction.prepare_cached(
                "INSERT OR REPLACE INTO cell (key, value, expires_ms, alarm_ms) VALUES (?1, ?2, ?3, ?4)",
            )?;
            let mut delete = transaction.prepare_cached("DELETE FROM cell WHERE key = ?1")?;
            for Row { key, value, expires_ms, alarm_ms } in changed {
                if value.is_empty() {
                    delete.execute([key])?;
                } else {
                    upsert.execute((key, value, sql(*expires_ms), alarm_ms.map(sql)))?;
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

/// The other way.
fn time(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test says so when something is missing")]
mod tests;
