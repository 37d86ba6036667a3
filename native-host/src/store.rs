//! The store: SQLite beside the program, written by one thread.
//!
//! One thread serialises every key and batches what it writes. A relaxed operation is
//! answered from memory and written within [`FLUSH`]; any other is answered when it is on
//! disk. What the bytes mean is the reducers', which run in the module.

use std::{
    collections::HashMap,
    path::Path,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use minigate_core::state::{Op, Outcome};
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::oneshot;

use crate::{clock, journal, module::Core};

/// How long a relaxed change may wait for the disk.
const FLUSH: Duration = Duration::from_millis(250);
/// Operations that may wait; more are refused at once.
const MOST_WAITING: usize = 16_384;
/// Keys that are kept in memory.
const MOST_CELLS: usize = 65_536;
/// How often outlived keys are deleted.
const SWEEP: Duration = Duration::from_secs(60);

/// An operation on its way.
struct Request {
    key: String,
    op: Op,
    reply: oneshot::Sender<Option<Outcome>>,
}

/// The way to the store's thread.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    requests: mpsc::SyncSender<Request>,
}

impl Store {
    /// Opens the store and starts its thread.
    ///
    /// # Errors
    /// When the file cannot be opened or written.
    pub(crate) fn open(directory: &Path, core: Core) -> Result<Self, String> {
        let problem = |error: &dyn std::fmt::Display| format!("DATA_DIR: {}: {error}", directory.display());
        std::fs::create_dir_all(directory).map_err(|error| problem(&error))?;
        let connection = open(&directory.join("minigate.sqlite")).map_err(|error| problem(&error))?;
        let (requests, waiting) = mpsc::sync_channel(MOST_WAITING);
        let mut keeper = Keeper {
            connection,
            core,
            cells: HashMap::new(),
            dirty: Vec::new(),
            flushed: Instant::now(),
            swept: Instant::now(),
        };
        thread::Builder::new()
            .name("store".into())
            .spawn(move || keeper.run(&waiting))
            .map_err(|error| problem(&error))?;
        Ok(Self { requests })
    }

    /// Applies an operation; `None` when the store failed.
    pub(crate) async fn apply(&self, key: String, op: Op) -> Option<Outcome> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(Request { key, op, reply }).ok()?;
        answer.await.ok().flatten()
    }
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
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

/// One key's bytes and how long they matter.
#[derive(Clone)]
struct Cell {
    value: Vec<u8>,
    expires_ms: u64,
    dirty: bool,
}

/// The thread that owns the store.
struct Keeper {
    connection: Connection,
    core: Core,
    cells: HashMap<String, Cell>,
    dirty: Vec<String>,
    flushed: Instant,
    swept: Instant,
}

impl Keeper {
    fn run(&mut self, waiting: &mpsc::Receiver<Request>) {
        loop {
            let idle =
                if self.dirty.is_empty() { SWEEP } else { FLUSH.saturating_sub(self.flushed.elapsed()) };
            let first = match waiting.recv_timeout(idle) {
                Ok(request) => Some(request),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let mut durable = Vec::new();
            for request in first.into_iter().chain(std::iter::from_fn(|| waiting.try_recv().ok())).take(1024)
            {
                self.apply(request, &mut durable);
            }
            if !durable.is_empty() || self.flushed.elapsed() >= FLUSH {
                let written = self.flush();
                for (reply, outcome) in durable {
                    let _ = reply.send(written.then_some(outcome));
                }
            }
            if self.swept.elapsed() >= SWEEP {
                self.sweep();
            }
        }
        self.flush();
    }

    fn apply(&mut self, request: Request, durable: &mut Vec<(oneshot::Sender<Option<Outcome>>, Outcome)>) {
        let Request { key, op, reply } = request;
        if reply.is_closed() {
            return;
        }
        let now = clock::unix_ms();
        let relaxed = op.is_relaxed();
        let reduced = self.read(&key, now).and_then(|old| {
            self.core.reduce(op, old.as_deref(), now).map_err(|broken| format!("reducer: {}", broken.0))
        });
        match reduced {
            Ok(reduced) => {
                let cell = Cell {
                    value: reduced.new.into_vec(),
                    expires_ms: now.saturating_add(reduced.ttl_ms),
                    dirty: true,
                };
                let before = self.cells.insert(key.clone(), cell);
                if !before.is_some_and(|cell| cell.dirty) {
                    self.dirty.push(key);
                }
                if relaxed {
                    let _ = reply.send(Some(reduced.outcome));
                } else {
                    durable.push((reply, reduced.outcome));
                }
            }
            Err(problem) => {
                journal::event("error", "store_failed", &[("problem", problem.into())]);
                let _ = reply.send(None);
            }
        }
    }

    /// What is stored under a key now.
    fn read(&mut self, key: &str, now: u64) -> Result<Option<Vec<u8>>, String> {
        if let Some(cell) = self.cells.get(key) {
            return Ok((cell.expires_ms > now).then(|| cell.value.clone()));
        }
        let mut select = self
            .connection
            .prepare_cached("SELECT value FROM cell WHERE key = ?1 AND expires_ms > ?2")
            .map_err(|error| error.to_string())?;
        select.query_row((key, sql(now)), |row| row.get(0)).optional().map_err(|error| error.to_string())
    }

    /// Writes what has changed, in one transaction. What could not be written stays marked.
    fn flush(&mut self) -> bool {
        self.flushed = Instant::now();
        if self.dirty.is_empty() {
            return true;
        }
        if let Err(error) = self.write() {
            journal::event("error", "store_failed", &[("problem", error.to_string().into())]);
            return false;
        }
        for key in self.dirty.drain(..) {
            if let Some(cell) = self.cells.get_mut(&key) {
                cell.dirty = false;
            }
        }
        if self.cells.len() > MOST_CELLS {
            self.cells.clear();
        }
        true
    }

    fn write(&mut self) -> rusqlite::Result<()> {
        let transaction = self.connection.transaction()?;
        {
            let mut upsert = transaction
                .prepare_cached("INSERT OR REPLACE INTO cell (key, value, expires_ms) VALUES (?1, ?2, ?3)")?;
            for key in &self.dirty {
                if let Some(cell) = self.cells.get(key) {
                    upsert.execute((key, &cell.value, sql(cell.expires_ms)))?;
                }
            }
        }
        transaction.commit()
    }

    /// Forgets what has outlived its time.
    fn sweep(&mut self) {
        self.swept = Instant::now();
        let now = clock::unix_ms();
        self.cells.retain(|_, cell| cell.dirty || cell.expires_ms > now);
        if let Err(error) = self.connection.execute("DELETE FROM cell WHERE expires_ms <= ?1", [sql(now)]) {
            journal::event("error", "store_failed", &[("problem", error.to_string().into())]);
        }
    }
}

/// SQLite's integers are signed.
fn sql(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
