//! The file `replay.sqlite`: exchanges and their inputs, bounded in bytes and in time.

use std::{fs, fs::OpenOptions, os::unix::fs::OpenOptionsExt as _, path::Path, time::Duration};

use minigate_core::seam::Moment;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, Row};

use super::{First, Kept, KeptStep, MOST_OF_ALL};

/// The file's name in `DATA_DIR`.
const FILE: &str = "replay.sqlite";

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS exchange (
  number INTEGER PRIMARY KEY, request_id TEXT NOT NULL, trace_id TEXT NOT NULL, unix_ms INTEGER NOT NULL,
  module TEXT NOT NULL, catalog TEXT NOT NULL, first BLOB NOT NULL, cut INTEGER NOT NULL, bytes INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS step (
  exchange INTEGER NOT NULL REFERENCES exchange ON DELETE CASCADE, step INTEGER NOT NULL,
  unix_ms INTEGER NOT NULL, entropy BLOB NOT NULL, input BLOB NOT NULL, payload BLOB NOT NULL,
  led_to BLOB NOT NULL, PRIMARY KEY (exchange, step));
CREATE INDEX IF NOT EXISTS exchange_request ON exchange (request_id);
CREATE INDEX IF NOT EXISTS exchange_trace ON exchange (trace_id);
";

/// An exchange with what it ran in.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kept: Kept,
    /// The SHA-256 of the module.
    pub(super) module: String,
    /// The version of the configuration.
    pub(super) catalog: String,
}

/// The open file.
#[derive(Debug)]
pub(super) struct Database {
    connection: Connection,
    module: String,
    /// Bytes that are kept.
    bytes: u64,
}

impl Database {
    /// To write, for exchanges that run in that module.
    pub(super) fn create(directory: &Path, module: &str) -> rusqlite::Result<Self> {
        let path = directory.join(FILE);
        // What people said is in it: for this user alone. If this fails, opening says so.
        let _ = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
        let connection = Connection::open(&path)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "secure_delete", true)?;
        connection.execute_batch(TABLES)?;
        let sum = "SELECT coalesce(sum(bytes), 0) FROM exchange";
        let bytes = connection.query_row(sum, [], |row| row.get::<_, i64>(0))?;
        let module = module.to_owned();
        Ok(Self { connection, module, bytes: u64::try_from(bytes).unwrap_or_default() })
    }

    /// Removes the file, if there is one.
    pub(super) fn delete(directory: &Path) -> std::io::Result<()> {
        for name in ["", "-wal", "-shm"].map(|end| format!("{FILE}{end}")) {
            match fs::remove_file(directory.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds an exchange that ran under that version of the configuration, whole or not at all.
    pub(super) fn add(&mut self, kept: &Kept, catalog: &str) -> rusqlite::Result<()> {
        let first = postcard::to_stdvec(&kept.first).unwrap_or_default();
        let transaction = self.connection.transaction()?;
        transaction.execute(
            "INSERT INTO exchange (request_id, trace_id, unix_ms, module, catalog, first, cut, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
            (
                &kept.request_id,
                &kept.trace_id,
                number(kept.began_ms),
                &self.module,
                catalog,
                first,
                kept.cut,
                number(kept.bytes()),
            ),
        )?;
        let exchange = transaction.last_insert_rowid();
        let mut insert =
            transaction.prepare_cached("INSERT INTO step VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
        for (at, step) in kept.steps.iter().enumerate() {
            let KeptStep { now, input, payload, led_to } = step;
            insert.execute((
                exchange,
                number(at as u64),
                number(now.unix_ms),
                now.entropy,
                input,
                payload,
                led_to,
            ))?;
        }
        drop(insert);
        transaction.commit()?;
        self.bytes += kept.bytes();
        Ok(())
    }

    /// Deletes what began before that time, and the oldest of what is too much.
    pub(super) fn sweep(&mut self, before_ms: u64) -> rusqlite::Result<()> {
        loop {
            let oldest = "SELECT number, bytes, unix_ms FROM exchange ORDER BY number LIMIT 1";
            let oldest = self.connection.query_row(oldest, [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            });
            let Some((exchange, bytes, unix_ms)) = oldest.optional()? else { return Ok(()) };
            if self.bytes <= MOST_OF_ALL && unix_ms >= number(before_ms) {
                return Ok(());
            }
            self.connection.execute("DELETE FROM exchange WHERE number = ?1", [exchange])?;
            self.bytes = self.bytes.saturating_sub(u64::try_from(bytes).unwrap_or_default());
        }
    }

    /// The exchanges of a request or a trace, in the order in which they ended; also while a host writes.
    pub(super) fn find(directory: &Path, id: &str) -> rusqlite::Result<Vec<Found>> {
        let connection = Connection::open_with_flags(directory.join(FILE), OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.busy_timeout(Duration::from_secs(2))?;
        let mut select = connection.prepare(
            "SELECT number, request_id, trace_id, unix_ms, first, cut, module, catalog FROM exchange
             WHERE request_id = ?1 OR trace_id = ?1 ORDER BY unix_ms, number",
        )?;
        let mut steps = connection.prepare(
            "SELECT unix_ms, entropy, input, payload, led_to FROM step WHERE exchange = ?1 ORDER BY step",
        )?;
        let mut rows = select.query([id])?;
        let mut found = Vec::new();
        while let Some(row) = rows.next()? {
            let read = steps.query_map([row.get::<_, i64>(0)?], kept_step)?;
            let first: Vec<u8> = row.get(4)?;
            let first: First = postcard::from_bytes(&first).map_err(|_| rusqlite::Error::InvalidQuery)?;
            let kept = Kept {
                request_id: row.get(1)?,
                trace_id: row.get(2)?,
                began_ms: unsigned(row.get(3)?),
                first,
                steps: read.collect::<Result<_, _>>()?,
                cut: row.get(5)?,
            };
            found.push(Found { kept, module: row.get(6)?, catalog: row.get(7)? });
        }
        Ok(found)
    }
}

fn kept_step(row: &Row<'_>) -> rusqlite::Result<KeptStep> {
    let now = Moment { unix_ms: unsigned(row.get(0)?), entropy: row.get(1)? };
    Ok(KeptStep { now, input: row.get(2)?, payload: row.get(3)?, led_to: row.get(4)? })
}

/// SQLite's integers are signed.
fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or_default()
}
