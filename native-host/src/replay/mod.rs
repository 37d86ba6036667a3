//! What is kept of exchanges so that they can be run again, where the environment allows it.
//!
//! Which exchanges, and from when on, is the core's word ([`Output::Replayable`]). An exchange is kept
//! with the state after that word, or with the key whose alarm began it, and with each input since: its
//! moment, its payload, and a hash of what it led to. Not kept are the request's head, which has a credential,
//! and the states in between, which come out again. One thread writes; no request waits for it.

mod commands;
mod database;
mod live;
mod rerun;
mod show;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, RecvTimeoutError, SyncSender, TrySendError},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use minigate_core::{
    policy::{Policy, catalog::Catalog},
    seam::{Input, Moment, Output, Reply, Step},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use crate::{clock, journal};
pub use commands::{Changes, replay};
use database::Database;

/// The most bytes that are kept of one exchange; what comes after them is not.
const MOST_OF_ONE: usize = 4 * 1024 * 1024;
/// The most bytes that are kept of all; the oldest exchanges go first.
const MOST_OF_ALL: u64 = 64 * 1024 * 1024;
/// How long an exchange is kept, if the ledger's records are kept for as long.
const KEEP_MS: u64 = 7 * 24 * 3_600_000;
/// Exchanges that may wait for the disk.
const MOST_WAITING: usize = 64;
/// How often is looked for what has had its time, at the least.
const SWEEP: Duration = Duration::from_secs(3_600);

/// Where an exchange begins that is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum First {
    /// In this state: the request was admitted.
    State(ByteBuf),
    /// With the alarm of a key.
    Alarm { key: String, now: Moment, led_to: ByteBuf },
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq)]
struct KeptStep {
    now: Moment,
    /// In postcard, without its payload.
    input: Vec<u8>,
    payload: Vec<u8>,
    /// The SHA-256 of the outputs in postcard; empty when the module failed.
    led_to: Vec<u8>,
}

/// One exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    request_id: String,
    trace_id: String,
    began_ms: u64,
    first: First,
    steps: Vec<KeptStep>,
    /// It goes on after this: it was longer than what is kept of one, or its host ended.
    cut: bool,
}

impl Kept {
    fn bytes(&self) -> u64 {
        let first = match &self.first {
            First::State(state) => state.len(),
            First::Alarm { key, .. } => key.len(),
        };
        let steps = self.steps.iter().map(|step| step.input.len() + step.payload.len());
        (first + steps.sum::<usize>()) as u64
    }
}

/// A hash of what a step led to.
fn hash(outputs: &[Output]) -> Vec<u8> {
    postcard::to_stdvec(outputs).map(|bytes| Sha256::digest(bytes).to_vec()).unwrap_or_default()
}

/// An exchange while it runs. Without the core's word nothing of a request is held.
#[derive(Debug, Default)]
pub(crate) struct Tape {
    named: Option<(String, String)>,
    began_ms: u64,
    first: Option<First>,
    steps: Vec<KeptStep>,
    bytes: usize,
    cut: bool,
    over: bool,
}

impl Tape {
    /// The first step of an exchange.
    pub(crate) fn begin<E>(now: Moment, step: &Step<'_>, reply: &Result<Reply, E>) -> Self {
        let mut tape = Self { began_ms: now.unix_ms, ..Self::default() };
        if let (Step::Alarm { key }, Ok(reply)) = (step, reply) {
            let led_to = ByteBuf::from(hash(&reply.outputs));
            tape.first = Some(First::Alarm { key: key.clone(), now, led_to });
        }
        tape.listen(reply);
        tape
    }

    /// Another one.
    pub(crate) fn note<E>(
        &mut self,
        now: Moment,
        input: &Input<'_>,
        payload: &[Bytes],
        reply: &Result<Reply, E>,
    ) {
        let began = self.first.is_some();
        self.listen(reply);
        if !began || self.cut {
            return;
        }
        let Ok(input) = postcard::to_stdvec(input) else { return };
        self.bytes += input.len() + payload.iter().map(Bytes::len).sum::<usize>();
        if self.bytes > MOST_OF_ONE {
            self.cut = true;
            return;
        }
        let led_to = reply.as_ref().map_or_else(|_| Vec::new(), |reply| hash(&reply.outputs));
        self.steps.push(KeptStep { now, input, payload: payload.concat(), led_to });
    }

    /// The last input brought the request's body back, beside what the core was given.
    pub(crate) fn attach(&mut self, body: &[Bytes]) {
        let Some(step) = self.steps.last_mut().filter(|_| !self.cut) else { return };
        self.bytes += body.iter().map(Bytes::len).sum::<usize>();
        if self.bytes > MOST_OF_ONE {
            self.cut = true;
            self.steps.pop();
            return;
        }
        step.payload = body.concat();
    }

    /// Whether the core has said something of it.
    fn listen<E>(&mut self, reply: &Result<Reply, E>) {
        let Ok(reply) = reply else {
            self.over = true;
            return;
        };
        self.over |= reply.outputs.contains(&Output::Done);
        for output in &reply.outputs {
            if let Output::Replayable { request_id, trace_id } = output {
                self.named = Some((request_id.clone(), trace_id.clone()));
            }
        }
        if self.named.is_some() && self.first.is_none() && !reply.state.is_empty() {
            self.first = Some(First::State(reply.state.clone()));
        }
    }

    /// The exchange is over; `None` when nothing may be kept of it.
    pub(crate) fn end(self) -> Option<Kept> {
        let ((request_id, trace_id), first) = self.named.zip(self.first)?;
        let Self { began_ms, steps, cut, over, .. } = self;
        Some(Kept { request_id, trace_id, began_ms, first, steps, cut: cut || !over })
    }
}

enum Message {
    /// An exchange, and the version of the configuration that it ran under.
    Keep(Box<Kept>, Arc<str>),
    /// Everything before it is to be written, then to be told.
    Close(SyncSender<()>),
}

/// The way to what is kept.
#[derive(Clone, Debug)]
pub(crate) struct Recorder {
    queue: SyncSender<Message>,
    lost: Arc<AtomicU64>,
    /// The version of the configuration that exchanges run under.
    catalog: Arc<str>,
}

impl Recorder {
    /// Opens what is kept in that directory, with copies of the module and the configuration, and begins
    /// to write.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn open(directory: &Path, module: &Path, policy: &Policy) -> Result<Self, String> {
        let problem = |error: &dyn std::fmt::Display| format!("replay: {}: {error}", directory.display());
        fs::create_dir_all(directory).map_err(|error| problem(&error))?;
        let database = Database::create(directory, &policy.host.module_sha256);
        let mut database = database.map_err(|error| problem(&error))?;
        let keep_ms = KEEP_MS.min(policy.audit_keep_ms());
        database.sweep(clock::unix_ms().saturating_sub(keep_ms)).map_err(|error| problem(&error))?;
        let wasm = fs::read(module).map_err(|error| problem(&error))?;
        let copied = copy(&module_copy(directory, &policy.host.module_sha256), &wasm)
            .and_then(|()| copy(&catalog_copy(directory, &policy.catalog.version), &policy.catalog.encode()));
        copied.map_err(|error| problem(&error))?;
        let (queue, waiting) = mpsc::sync_channel(MOST_WAITING);
        thread::Builder::new()
            .name("replay".into())
            .spawn(move || write(database, keep_ms, &waiting))
            .map_err(|error| problem(&error))?;
        Ok(Self { queue, lost: Arc::default(), catalog: policy.catalog.version.as_str().into() })
    }

    /// The same for exchanges under another configuration, of which a copy is kept.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn under(&self, directory: &Path, catalog: &Catalog) -> Result<Self, String> {
        copy(&catalog_copy(directory, &catalog.version), &catalog.encode())
            .map_err(|error| format!("replay: {}: {error}", directory.display()))?;
        Ok(Self { catalog: catalog.version.as_str().into(), ..self.clone() })
    }

    /// Keeps an exchange soon. Never waits.
    pub(crate) fn keep(&self, kept: Kept) {
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.queue.try_send(Message::Keep(Box::new(kept), Arc::clone(&self.catalog)))
            && self.lost.fetch_add(1, Ordering::Relaxed) == 0
        {
            journal::event("warn", "replay_lost", &[("problem", "too many wait for the disk".into())]);
        }
    }

    /// Waits until everything is written. To be called when no more comes.
    pub(crate) fn close(&self) {
        let (written, done) = mpsc::sync_channel(1);
        if self.queue.send(Message::Close(written)).is_ok() {
            let _ = done.recv();
        }
    }
}

/// Deletes what was kept when it was still allowed.
pub(crate) fn forget(directory: &Path) {
    if let Err(error) = Database::delete(directory) {
        journal::event("error", "replay_failed", &[("problem", error.to_string().into())]);
    }
}

/// The thread that writes.
fn write(mut database: Database, keep_ms: u64, waiting: &Receiver<Message>) {
    let failed = |error: rusqlite::Error| {
        journal::event("error", "replay_failed", &[("problem", error.to_string().into())]);
    };
    loop {
        let written = match waiting.recv_timeout(SWEEP) {
            Ok(Message::Keep(kept, catalog)) => database.add(&kept, &catalog),
            Ok(Message::Close(done)) => {
                // Closes the file in order.
                drop(database);
                let _ = done.send(());
                return;
            }
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let swept = database.sweep(clock::unix_ms().saturating_sub(keep_ms));
        if let Err(error) = written.and(swept) {
            failed(error);
        }
    }
}

/// Where the module of that hash lies.
fn module_copy(directory: &Path, sha256: &str) -> PathBuf {
    directory.join("modules").join(format!("{sha256}.wasm"))
}

/// Where the compiled configuration of that version lies.
fn catalog_copy(directory: &Path, version: &str) -> PathBuf {
    let name = if version.is_empty() { "none" } else { version };
    directory.join("catalogs").join(format!("{name}.bin"))
}

/// Written beside and renamed, so that nobody reads half a file.
fn copy(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&beside, bytes)?;
    fs::rename(beside, path)
}

#[cfg(test)]
mod tests;
