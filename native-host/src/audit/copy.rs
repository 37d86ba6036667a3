//! The ledger as files of JSON lines, one for each day: a copy for whoever ships files.
//!
//! The database is written first. What a crash kept from getting here is added at the next start.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use minigate_core::ledger::Head;

/// More than the longest line.
const TAIL: u64 = 4 * 1024 * 1024;

/// The files.
#[derive(Debug)]
pub(super) struct Copy {
    /// What their names begin with.
    path: PathBuf,
    open: Option<(String, File)>,
}

impl Copy {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    /// The head of the newest line. A line that was cut off by a crash is removed.
    pub(super) fn head(&self) -> io::Result<Option<Head>> {
        for path in self.files()?.iter().rev() {
            if let Some(head) = mend(path)? {
                return Ok(Some(head));
            }
        }
        Ok(None)
    }

    /// Adds lines to the file of the day on which they are added.
    pub(super) fn add<'l>(&mut self, unix_ms: u64, lines: impl Iterator<Item = &'l str>) -> io::Result<()> {
        let day = day(unix_ms);
        if self.open.as_ref().is_none_or(|(open, _)| *open != day) {
            let file = OpenOptions::new().create(true).append(true).open(self.named(&day))?;
            self.open = Some((day, file));
        }
        let Some((_, file)) = &mut self.open else { return Ok(()) };
        let mut text = String::new();
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        let written = file.write_all(text.as_bytes());
        if written.is_err() {
            // Half a line may be there; it is removed before more is added.
            self.open = None;
        }
        written
    }

    /// Deletes the files of which no line is newer than this one.
    pub(super) fn delete(&self, through: &Head) -> io::Result<()> {
        let files = self.files()?;
        // The newest is being written.
        for path in files.iter().rev().skip(1) {
            if mend(path)?.is_none_or(|head| head.sequence <= through.sequence) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn named(&self, day: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(".");
        name.push(day);
        name.into()
    }

    /// The files that there are, in order of days.
    pub(super) fn files(&self) -> io::Result<Vec<PathBuf>> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty());
        let name = self.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir(directory.unwrap_or(Path::new(".")))? {
            let entry = entry?.path();
            let known = entry.file_name().and_then(|file| file.to_str());
            let suffix =
                known.and_then(|file| file.strip_prefix(&name)).and_then(|rest| rest.strip_prefix('.'));
            if suffix.is_some_and(|day| day.len() == 10 && day.as_bytes()[4] == b'-') {
                found.push(entry);
            }
        }
        found.sort();
        Ok(found)
    }
}

/// The day in UTC.
fn day(unix_ms: u64) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(unix_ms);
    humantime::format_rfc3339_seconds(time).to_string().chars().take(10).collect()
}

/// Removes an unfinished line from a file's end; gives the head of its last line.
fn mend(path: &Path) -> io::Result<Option<Head>> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    let from = length.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.read_to_end(&mut tail)?;
    let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    if whole < tail.len() {
        file.set_len(from + whole as u64)?;
    }
    let text = String::from_utf8_lossy(&tail[..whole]);
    Ok(text.lines().next_back().and_then(Head::of))
}
