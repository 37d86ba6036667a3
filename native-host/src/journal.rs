//! The log: lines of JSON on standard output.
//!
//! A request's line comes complete from the core. Lines are collected and written by a
//! thread of their own, so that a slow reader of the log never holds up a request; when it
//! is far too slow, lines are dropped and counted.

use std::{
    io::Write as _,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use serde_json::{Map, Value};

/// Bytes that may wait to be written.
const MOST_WAITING: usize = 8 * 1024 * 1024;
/// How long lines are collected before they are written.
const COLLECT: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    dropped: u64,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { bytes: Vec::new(), dropped: 0 });
/// When the last line came, in milliseconds since 1970.
static LAST_MS: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<Thread> = OnceLock::new();

/// Writes a complete line soon.
pub(crate) fn line(line: &str) {
    LAST_MS.store(crate::clock::unix_ms(), Ordering::Relaxed);
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.bytes.len() + line.len() > MOST_WAITING {
        waiting.dropped += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let wake = waiting.bytes.is_empty();
    waiting.bytes.extend_from_slice(line.as_bytes());
    waiting.bytes.push(b'\n');
    drop(waiting);
    if wake {
        writer().unpark();
    }
}

/// Writes a line about the host itself, now.
pub fn event(level: &str, event: &str, fields: &[(&str, Value)]) {
    let mut object = Map::new();
    let unix_ms = crate::clock::unix_ms();
    LAST_MS.store(unix_ms, Ordering::Relaxed);
    let now = Duration::from_millis(unix_ms);
    let time = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + now);
    object.insert("ts".into(), time.to_string().into());
    object.insert("level".into(), level.into());
    object.insert("event".into(), event.into());
    object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let mut bytes = Value::Object(object).to_string().into_bytes();
    bytes.push(b'\n');
    flush();
    write(&bytes);
}

/// Milliseconds since the last line.
pub(crate) fn silent_ms() -> u64 {
    crate::clock::unix_ms().saturating_sub(LAST_MS.load(Ordering::Relaxed))
}

/// Lines that were dropped.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes what waits. Called before the process ends.
pub(crate) fn flush() {
    let taken = std::mem::take(&mut *WAITING.lock().unwrap_or_else(PoisonError::into_inner));
    write(&taken.bytes);
    if taken.dropped > 0 {
        event("error", "log_lines_dropped", &[("count", taken.dropped.into())]);
    }
}

/// A log that cannot be written has no better place to say so.
fn write(bytes: &[u8]) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(bytes);
    let _ = out.flush();
}

fn writer() -> &'static Thread {
    WRITER.get_or_init(|| {
        let handle = thread::spawn(|| {
            loop {
                thread::park();
                thread::sleep(COLLECT);
                flush();
            }
        });
        handle.thread().clone()
    })
}
