//! The log: lines of JSON on standard output, or in a file.
//!
//! A request's line comes complete from the core. Lines are collected and written by a
//! thread of their own, so that a slow reader of the log never holds up a request; when it
//! is far too slow, lines are dropped and counted. A file that was moved away, as logrotate does, is
//! begun anew: nobody has to send a signal.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
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

/// A log of one's own.
struct LogFile {
    path: PathBuf,
    file: File,
}

static FILE: Mutex<Option<LogFile>> = Mutex::new(None);
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

/// A log that cannot be written has no better place to say so.
fn write(bytes: &[u8]) {
    if let Some(log) = &mut *FILE.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = log.append(bytes);
        return;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

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
