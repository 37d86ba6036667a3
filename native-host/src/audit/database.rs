//! The ledger's file: a table to which lines are added and from whose front they are deleted.
//!
//! What a line is belongs to [`minigate_core::ledger`]. The indices look into the line itself, so
//! that there is nothing beside it that could say something else.

use std::{path::Path, time::Duration};

use minigate_core::{
    ledger::{Head, Verifier},
    seam::LEDGER_PAGE,
};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The file's name in `DATA_DIR`.
pub(super) const FILE: &str = "audit.sqlite";
/// Lines at the end that are looked at when a host begins to write.
const LAST: u32 = 1_000;
/// Lines that are deleted in one transaction, so that a write never waits long.
const DELETED_AT_ONCE: u32 = 5_000;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS line (sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS line_trace ON line (json_extract(line, '$.record.traceId'));
CREATE INDEX IF NOT EXISTS line_request ON line (json_extract(line, '$.record.requestId'));
CREATE TRIGGER IF NOT EXISTS line_is_never_changed BEFORE UPDATE ON line
  BEGIN SELECT RAISE(ABORT, 'lines of the audit ledger are not changed'); END;
";

/// A line and when it was added, in milliseconds since 1970.
#[derive(Debug)]
pub(super) struct Added {
    pub(super) head: Head,
    pub(super) unix_ms: u64,
    pub(super) line: String,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Database(Connection);

impl Database {
    /// To write.
    pub(super) fn create(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.execute_batch(TABLE)?;
        Ok(Self(connection))
    }

    /// To read, also while a host writes.
    pub(super) fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        Ok(Self(connection))
    }

    /// The newest line's head, and what is wrong with the last lines; `None` when there is no line.
    pub(super) fn end(&self) -> rusqlite::Result<Option<(Option<Head>, Option<String>)>> {
        let mut verifier = Verifier::default().from_anywhere();
        let mut select = self.0.prepare(
            "SELECT line FROM (SELECT sequence, line FROM line ORDER BY sequence DESC LIMIT ?1) ORDER BY sequence",
        )?;
        let mut rows = select.query([LAST])?;
        let mut last: Option<String> = None;
        while let Some(row) = rows.next()? {
            let line: String = row.get(0)?;
            verifier.push(&line);
            last = Some(line);
        }
        let fault = verifier.finish().fault.map(|fault| fault.to_string());
        Ok(last.map(|line| (Head::of(&line), fault)))
    }

    /// Adds lines, all or none.
    pub(super) fn add(&mut self, lines: &[Added]) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        add(&transaction, lines)?;
        transaction.commit()
    }

    /// The newest of the oldest lines that were added before a time; never the newest of all, to
    /// which the next one is linked.
    pub(super) fn outlived(&self, before_ms: u64, newest: &Head) -> rusqlite::Result<Option<Head>> {
        let sql = "SELECT line FROM (SELECT * FROM line ORDER BY sequence LIMIT ?2) WHERE unix_ms < ?1
                   AND sequence < ?3 ORDER BY sequence DESC LIMIT 1";
        let mut select = self.0.prepare_cached(sql)?;
        let row = select.query_row((number(before_ms), DELETED_AT_ONCE, number(newest.sequence)), |row| {
            row.get::<_, String>(0)
        });
        Ok(row.optional()?.and_then(|line| Head::of(&line)))
    }

    /// Deletes the lines up to one, and adds the line that says so, both or none.
    pub(super) fn delete(&mut self, through: &Head, said: &Added) -> rusqlite::Result<()> {
        let transaction = self.0.transaction()?;
        transaction.execute("DELETE FROM line WHERE sequence <= ?1", [number(through.sequence)])?;
        add(&transaction, std::slice::from_ref(said))?;
        transaction.commit()
    }

    /// Gives lines with their numbers, in order, from one number to another.
    pub(super) fn each(&self, from: u64, to: u64, mut take: impl FnMut(u64, &str)) -> rusqlite::Result<()> {
        let sql = "SELECT sequence, line FROM line WHERE sequence BETWEEN ?1 AND ?2 ORDER BY sequence";
        let mut select = self.0.prepare(sql)?;
        let mut rows = select.query((number(from), number(to)))?;
        while let Some(row) = rows.next()? {
            let sequence: i64 = row.get(0)?;
            take(u64::try_from(sequence).unwrap_or_default(), row.get_ref(1)?.as_str().unwrap_or_default());
        }
        Ok(())
    }

    /// The lines after a number.
    pub(super) fn page(&self, after: u64) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT line FROM line WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
        let mut select = self.0.prepare(sql)?;
        select.query_map((number(after), LEDGER_PAGE), |row| row.get(0))?.collect()
    }

    /// The newest lines of a trace or a request, in order: a client may give all its requests one trace.
    pub(super) fn find(&self, id: &str) -> rusqlite::Result<Vec<String>> {
        let sql = "SELECT line FROM (SELECT sequence, line FROM line
                   WHERE json_extract(line, '$.record.traceId') = ?1
                   OR json_extract(line, '$.record.requestId') = ?1
                   ORDER BY sequence DESC LIMIT ?2) ORDER BY sequence";
        let mut select = self.0.prepare(sql)?;
        select.query_map((id, LEDGER_PAGE), |row| row.get(0))?.collect()
    }
}

fn add(connection: &Connection, lines: &[Added]) -> rusqlite::Result<()> {
    let sql = "INSERT INTO line (sequence, unix_ms, line) VALUES (?1, ?2, ?3)";
    let mut insert = connection.prepare_cached(sql)?;
    for Added { head, unix_ms, line } in lines {
        insert.execute((number(head.sequence), number(*unix_ms), line))?;
    }
    Ok(())
}

/// SQLite's integers are signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
