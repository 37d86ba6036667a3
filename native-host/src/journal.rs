//! The log: lines of JSON on standard output, or in a file.
//!
//! A request's line comes complete from the core. Lines are collected and written by a
//! thread of their own, so that a slow reader of the log never holds up a request; when it
//! is far too slow, or writing fails, lines are dropped and counted. What wakes somebody is how
//! long the oldest line has waited, and not when the last one was written: with little to say,
//! silence is no fault. A file that was moved away, as logrotate does, is begun anew: nobody
//! has to send a signal.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
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
/// When it is tried again to write, after it failed: there may be no other line for hours.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    /// When the first of them came, in milliseconds since 1970.
    since_ms: u64,
    /// Lines that were dropped, which no line says yet.
    dropped: u64,
}

/// A log of one's own.
struct LogFile {
    path: PathBuf,
    file: File,
}

static FILE: Mutex<Option<LogFile>> = Mutex::new(None);
static WAITING: Mutex<Waiting> = Mutex::new(Waiting { bytes: Vec::new(), lines: 0, since_ms: 0, dropped: 0 });
/// When a line was written last, in milliseconds since 1970.
static LAST_MS: AtomicU64 = AtomicU64::new(0);
/// When the oldest line came that is being written, or could not be and none was after it. 0 if none.
static UNWRITTEN_MS: AtomicU64 = AtomicU64::new(0);
static DROPPED: AtomicU64 = AtomicU64::new(0);
static WRITER: OnceLock<Thread> = OnceLock::new();

/// Writes a complete line soon.
pub(crate) fn line(line: &str) {
    let mut waiting = waiting();
    if waiting.bytes.len() + line.len() > MOST_WAITING {
        waiting.dropped += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
        return;
    }
    let wake = waiting.bytes.is_empty();
    if wake {
        waiting.since_ms = crate::clock::unix_ms();
    }
    waiting.lines += 1;
    waiting.bytes.extend_from_slice(line.as_bytes());
    waiting.bytes.push(b'\n');
    drop(waiting);
    if wake {
        writer().unpark();
    }
}

/// Writes a line about the host itself, now.
pub fn event(level: &str, event: &str, fields: &[(&str, Value)]) {
    let unix_ms = crate::clock::unix_ms();
    let bytes = told(unix_ms, level, event, fields);
    flush();
    if !write(&bytes, unix_ms) {
        waiting().dropped += 1;
        DROPPED.fetch_add(1, Ordering::Relaxed);
        writer().unpark();
    }
}

fn told(unix_ms: u64, level: &str, event: &str, fields: &[(&str, Value)]) -> Vec<u8> {
    let mut object = Map::new();
    let now = Duration::from_millis(unix_ms);
    let time = humantime::format_rfc3339_millis(std::time::UNIX_EPOCH + now);
    object.insert("ts".into(), time.to_string().into());
    object.insert("level".into(), level.into());
    object.insert("event".into(), event.into());
    object.extend(fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let mut bytes = Value::Object(object).to_string().into_bytes();
    bytes.push(b'\n');
    bytes
}

/// Milliseconds since a line was written; 0 before the first one.
pub(crate) fn silent_ms() -> u64 {
    match LAST_MS.load(Ordering::Relaxed) {
        0 => 0,
        last => crate::clock::unix_ms().saturating_sub(last),
    }
}

/// The age of the oldest line that is not written yet, in milliseconds; 0 when all are.
pub(crate) fn unwritten_ms() -> u64 {
    let waiting = waiting();
    let collected = (!waiting.bytes.is_empty()).then_some(waiting.since_ms);
    drop(waiting);
    let unwritten = Some(UNWRITTEN_MS.load(Ordering::Relaxed)).filter(|since| *since > 0);
    let oldest = collected.into_iter().chain(unwritten).min();
    oldest.map_or(0, |since| crate::clock::unix_ms().saturating_sub(since))
}

/// Lines that were dropped.
pub(crate) fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

/// Writes what waits. Called before the process ends.
pub(crate) fn flush() {
    let taken = std::mem::take(&mut *waiting());
    let mut dropped = taken.dropped;
    if !write(&taken.bytes, taken.since_ms) {
        dropped += taken.lines;
        DROPPED.fetch_add(taken.lines, Ordering::Relaxed);
    }
    if dropped == 0 {
        return;
    }
    let now = crate::clock::unix_ms();
    if !write(&told(now, "error", "log_lines_dropped", &[("count", dropped.into())]), now) {
        waiting().dropped += dropped;
    }
}

/// From now on lines are appended to that file.
///
/// # Errors
/// When it cannot be opened.
pub fn log_to(path: &Path) -> Result<(), String> {
    let file = open(path).map_err(|error| format!("{}: {error}", path.display()))?;
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(LogFile { path: path.to_owned(), file });
    Ok(())
}

fn open(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
}

impl LogFile {
    /// Appends, to a new file when the old one has another name by now.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let number = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let there = fs::metadata(&self.path).map(number).ok();
        if there != self.file.metadata().map(number).ok()
            && let Ok(file) = open(&self.path)
        {
            self.file = file;
        }
        self.file.write_all(bytes)
    }
}

/// Writes lines, the first of which came then. Whether it could: a log that cannot be written has no better
/// place to say so than the figures.
fn write(bytes: &[u8], since_ms: u64) -> bool {
    if bytes.is_empty() {
        return true;
    }
    // Held meanwhile: what others want to write is younger than what hangs here.
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    // After a failure the older line counts.
    let _ = UNWRITTEN_MS.compare_exchange(0, since_ms, Ordering::Relaxed, Ordering::Relaxed);
    let written = if let Some(log) = &mut *file {
        log.append(bytes)
    } else {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes).and_then(|()| out.flush())
    };
    if written.is_ok() {
        LAST_MS.store(crate::clock::unix_ms(), Ordering::Relaxed);
        UNWRITTEN_MS.store(0, Ordering::Relaxed);
    }
    written.is_ok()
}

fn waiting() -> MutexGuard<'static, Waiting> {
    WAITING.lock().unwrap_or_else(PoisonError::into_inner)
}

fn writer() -> &'static Thread {
    WRITER.get_or_init(|| {
        let handle = thread::spawn(|| {
            loop {
                if UNWRITTEN_MS.load(Ordering::Relaxed) == 0 {
                    thread::park();
                } else {
                    thread::park_timeout(AGAIN);
                }
                thread::sleep(COLLECT);
                flush();
            }
        });
        handle.thread().clone()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Waits for the thread that writes.
    #[cfg(target_os = "linux")]
    fn until(what: impl Fn() -> bool) {
        for _ in 0..500 {
            if what() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
        panic!("it does not come");
    }

    // A device that is always full.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_cannot_be_written_is_counted_and_told_once_it_can() {
        let path = std::env::temp_dir().join(format!("minigate-full-{}.log", std::process::id()));
        let before = dropped();
        log_to(Path::new("/dev/full")).expect("a device");
        line("lost");
        until(|| dropped() > before);
        until(|| unwritten_ms() >= 100);
        // No other line comes.
        log_to(&path).expect("opened");
        until(|| fs::read_to_string(&path).is_ok_and(|text| text.contains("log_lines_dropped")));
        until(|| unwritten_ms() < 100);
        *FILE.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let _ = fs::remove_file(path);
    }

    #[test]
    fn a_log_that_was_moved_away_is_begun_anew() {
        let path = std::env::temp_dir().join(format!("minigate-log-{}.log", std::process::id()));
        let moved = path.with_extension("log.1");
        fs::write(&path, "old\n").expect("a file");
        let mut log = LogFile { path: path.clone(), file: open(&path).expect("opened") };
        log.append(b"one\n").expect("written");
        fs::rename(&path, &moved).expect("moved");
        log.append(b"two\n").expect("written");
        let read = |path: &Path| fs::read_to_string(path).expect("there");
        assert_eq!((read(&moved).as_str(), read(&path).as_str()), ("old\none\n", "two\n"));
        let _ = (fs::remove_file(path), fs::remove_file(moved));
    }
}
