//! The audit ledger on disk: `audit.sqlite` beside the store, and files of JSON lines if wanted.
//!
//! Records are made by the core, and how they are linked is its rule too. Here they are put in
//! order and written by one thread, every [`COLLECT`], so that no request waits for a disk; a
//! `kill -9` loses at most what came since. Nothing is ever lost in silence: what there was no
//! room for is counted, logged, and becomes a record of its own.

mod commands;
mod copy;
mod database;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

use minigate_core::{
    ledger::{self, Head},
    policy::Policy,
    seam::Find,
};

use crate::{clock, journal};
pub(crate) use commands::story;
pub use commands::{export, show, verify};
use copy::Copy;
use database::{Added, Database};

/// How long records are collected before they are written.
const COLLECT: Duration = Duration::from_millis(250);
/// Records that may wait for a disk that does not answer.
const MOST_WAITING: usize = 65_536;
/// The most records of one transaction.
const MOST_AT_ONCE: usize = 4_096;
/// How long nothing is looked at when nothing comes.
const IDLE: Duration = Duration::from_secs(1);
/// How long to wait after a failure.
const AGAIN: Duration = Duration::from_secs(1);
/// How long after a failure the copy catches up: the database has all of it.
const COPY_AGAIN: Duration = Duration::from_secs(10);
/// How often the head goes to the log, when it has moved.
const TELL: Duration = Duration::from_secs(600);
/// How often lines are deleted that have had their time.
const SWEEP: Duration = Duration::from_secs(3_600);

enum Message {
    Record(String),
    /// Everything before it is to be written, as far as that is possible; then to be told.
    Close(SyncSender<()>),
}

/// The way to the ledger.
#[derive(Clone, Debug)]
pub(crate) struct Ledger {
    path: Arc<Path>,
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
}

impl Ledger {
    /// Opens the ledger in that directory and begins to write.
    ///
    /// # Errors
    /// When it cannot be written, or its last line is none.
    pub(crate) fn open(directory: &Path, copy: Option<PathBuf>, policy: &Policy) -> Result<Self, String> {
        let (queue, waiting) = mpsc::sync_channel(MOST_WAITING);
        let lost = Arc::new(AtomicU64::new(0));
        let mut writer = Writer::open(directory, copy, policy.audit_keep_ms(), Arc::clone(&lost))?;
        writer.begin(policy)?;
        thread::Builder::new()
            .name("audit".into())
            .spawn(move || writer.run(&waiting))
            .map_err(|error| format!("audit: {error}"))?;
        Ok(Self { path: directory.join(database::FILE).into(), queue, lost })
    }

    /// Adds a record soon. Never waits.
    pub(crate) fn add(&self, record: String) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Record(record))
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            journal::event("error", "audit_record_lost", &[("problem", "too many wait for the disk".into())]);
        }
    }

    /// Whole lines, in order; `None` when they cannot be read. What came a moment ago may not be
    /// among them.
    pub(crate) async fn read(&self, find: Find) -> Option<Vec<u8>> {
        let path = Arc::clone(&self.path);
        let read = move || {
            let database = Database::open(&path)?;
            match find {
                Find::About(id) => database.find(&id),
                Find::After(number) => database.page(number),
            }
        };
        let lines = tokio::task::spawn_blocking(read).await.ok()?;
        let lines = lines.map_err(|error| failed(&error)).ok()?;
        Some(lines.into_iter().flat_map(|line| (line + "\n").into_bytes()).collect())
    }

    /// Waits until everything is written. To be called when no more comes.
    pub(crate) fn close(&self) {
        let (written, done) = mpsc::sync_channel(1);
        if self.queue.send(Message::Close(written)).is_ok() {
            let _ = done.recv();
        }
    }
}

/// The thread that writes.
#[derive(Debug)]
struct Writer {
    database: Database,
    copy: Option<Copy>,
    /// When a line could not be added to it; until it has caught up.
    copy_failed: Option<Instant>,
    head: Head,
    keep_ms: u64,
    lost: Arc<AtomicU64>,
    /// Records that could not be written yet.
    unwritten: Vec<String>,
    told: (Instant, u64),
    swept: Option<Instant>,
    /// Held for as long as it writes: two writers would make two chains.
    _lock: File,
}

impl Writer {
    fn open(
        directory: &Path,
        copy: Option<PathBuf>,
        keep_ms: u64,
        lost: Arc<AtomicU64>,
    ) -> Result<Self, String> {
        let path = directory.join(database::FILE);
        let problem = |error: &dyn std::fmt::Display| format!("audit: {}: {error}", path.display());
        std::fs::create_dir_all(directory).map_err(|error| problem(&error))?;
        let lock = File::create(directory.join("audit.lock")).map_err(|error| problem(&error))?;
        if let Err(TryLockError::WouldBlock) = lock.try_lock() {
            return Err(problem(&"another minigate writes it; give each its own DATA_DIR"));
        }
        let database = Database::create(&path).map_err(|error| problem(&error))?;
        let head = match database.end().map_err(|error| problem(&error))? {
            None => Head::default(),
            Some((None, _)) => return Err(problem(&"its last line is none; move the file away and look")),
            Some((Some(head), fault)) => {
                if let Some(fault) = fault {
                    journal::event("error", "audit_broken", &[("problem", fault.into())]);
                }
                head
            }
        };
        Ok(Self {
            database,
            copy: copy.map(Copy::new),
            copy_failed: None,
            head,
            keep_ms,
            lost,
            unwritten: Vec::new(),
            told: (Instant::now(), 0),
            swept: None,
            _lock: lock,
        })
    }

    /// Says in the ledger that a host begins, and brings the copy up to date.
    fn begin(&mut self, policy: &Policy) -> Result<(), String> {
        let chain = (self.head.sequence == 0).then(clock::entropy);
        self.unwritten.push(ledger::began(policy, chain, clock::unix_ms()));
        self.catch_up().map_err(|error| format!("AUDIT_FILE: {error}"))?;
        self.write().map_err(|error| format!("audit: {error}"))?;
        self.tell();
        Ok(())
    }

    /// Until it is to close.
    fn run(mut self, waiting: &Receiver<Message>) {
        loop {
            let mut closing = None;
            match waiting.recv_timeout(IDLE) {
                Ok(Message::Record(record)) => {
                    self.unwritten.push(record);
                    closing = self.collect(waiting);
                }
                Ok(Message::Close(done)) => closing = Some(done),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.note_losses();
            match self.write() {
                Ok(()) if self.swept.is_none_or(|swept| swept.elapsed() >= SWEEP) => self.sweep(),
                Ok(()) => {}
                Err(error) => {
                    failed(&error);
                    if closing.is_none() {
                        thread::sleep(AGAIN);
                    }
                }
            }
            if self.told.0.elapsed() >= TELL && self.told.1 != self.head.sequence {
                self.tell();
            }
            if let Some(done) = closing {
                self.tell();
                // Closes the file in order.
                drop(self);
                let _ = done.send(());
                return;
            }
        }
    }

    /// Takes what comes in a while; or until somebody waits.
    fn collect(&mut self, waiting: &Receiver<Message>) -> Option<SyncSender<()>> {
        let until = Instant::now() + COLLECT;
        while self.unwritten.len() < MOST_AT_ONCE {
            match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(Message::Record(record)) => self.unwritten.push(record),
                Ok(Message::Close(done)) => return Some(done),
                Err(_) => return None,
            }
        }
        None
    }

    fn note_losses(&mut self) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            journal::event("error", "audit_records_lost", &[("count", lost.into())]);
            self.unwritten.push(ledger::lost(lost, clock::unix_ms()));
        }
    }

    /// Links and writes what waits, in one transaction. What could not be written stays.
    fn write(&mut self) -> rusqlite::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let unix_ms = clock::unix_ms();
        let mut head = self.head;
        let lines: Vec<Added> = self
            .unwritten
            .iter()
            .map(|record| {
                let (line, next) = head.link(record);
                head = next;
                Added { head, unix_ms, line }
            })
            .collect();
        self.database.add(&lines)?;
        self.head = head;
        self.unwritten.clear();
        self.copy_lines(&lines);
        Ok(())
    }

    /// After the database has them. What fails is made up for with the next lines.
    fn copy_lines(&mut self, lines: &[Added]) {
        let Some(copy) = &mut self.copy else { return };
        let Some(unix_ms) = lines.first().map(|added| added.unix_ms) else { return };
        let copied = match self.copy_failed {
            // All of it is still in the database.
            Some(at) if at.elapsed() < COPY_AGAIN => return,
            Some(_) => self.catch_up(),
            None => copy.add(unix_ms, lines.iter().map(|added| added.line.as_str())),
        };
        self.copy_failed = copied.is_err().then(Instant::now);
        if let Err(error) = copied {
            failed(&error);
        }
    }

    /// Adds to the copy what only the database has, page by page: it may be months.
    fn catch_up(&mut self) -> std::io::Result<()> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        let mut after = copy.head()?.map_or(0, |head| head.sequence);
        loop {
            let lines = self.database.page(after).map_err(std::io::Error::other)?;
            let Some(last) = lines.last() else { return Ok(()) };
            let head = Head::of(last).ok_or_else(|| std::io::Error::other("a line of the ledger is none"))?;
            copy.add(clock::unix_ms(), lines.iter().map(String::as_str))?;
            after = head.sequence;
        }
    }

    /// Deletes the lines that have had their time, and says so in the ledger.
    fn sweep(&mut self) {
        let now = clock::unix_ms();
        let found = self.database.outlived(now.saturating_sub(self.keep_ms), &self.head);
        match found {
            Ok(None) => self.swept = Some(Instant::now()),
            Ok(Some(through)) => {
                let (line, head) = self.head.link(&ledger::retained(&through, now));
                let said = Added { head, unix_ms: now, line };
                if let Err(error) = self.database.delete(&through, &said) {
                    self.swept = Some(Instant::now());
                    return failed(&error);
                }
                self.head = head;
                self.copy_lines(&[said]);
                if let Some(Err(error)) = self.copy.as_ref().map(|copy| copy.delete(&through)) {
                    failed(&error);
                }
                let first = through.sequence + 1;
                journal::event("info", "audit_deleted", &[("first", first.into())]);
            }
            Err(error) => {
                self.swept = Some(Instant::now());
                failed(&error);
            }
        }
    }

    /// The head goes to the log: who has the log can tell a ledger whose end was cut off.
    fn tell(&mut self) {
        self.told = (Instant::now(), self.head.sequence);
        journal::event("info", "audit_head", &[("head", self.head.to_string().into())]);
    }
}

fn failed(problem: &dyn std::fmt::Display) {
    journal::event("error", "audit_failed", &[("problem", problem.to_string().into())]);
}

#[cfg(test)]
mod tests;
