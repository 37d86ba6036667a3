//! The log: lines of JSON on standard output.
//!
//! A request's line comes complete from the core. Lines are collected and written by a
//! thread of their own, so that a slow reader of the log never holds up a request; when it
//! is far too slow, lines are dropped and counted.

use std::{
    io::Write as _,
    sync::{Mutex, OnceLock, PoisonError},
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
static WRITER: OnceLock<Thread> = OnceLock::new();

/// Writes a complete line soon.
pub(crate) fn line(line: &str) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    if waiting.bytes.len() + line.len() > MOST_WAITING {
        waiting.dropped += 1;
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
    let now = Duration::from_millis(crate::clock::unix_ms());
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
