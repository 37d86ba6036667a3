//! The audit ledger on the edge: one Durable Object, whose own SQLite has the lines.
//!
//! One object puts the records of all isolates in one order, and a line and the head that it makes
//! are one write there. D1, where it is bound, gets a copy: a line can be added to both only one
//! after the other, and what is linked must not depend on which of the two failed.

use std::cell::{Cell, RefCell};

use js_sys::Date;
use minigate_core::{
    ledger::{Head, began, retained},
    seam::{Find, LEDGER_PAGE},
};
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Method, ObjectNamespace, Request, RequestInit, Response, Result, SqlStorageValue,
    State, durable_object,
};

use super::{describe_js, guard::guarded, js};

/// The binding of the object's namespace, and that of the D1 database.
pub(super) const BINDING: &str = "LEDGER";
const COPY: &str = "AUDIT";
/// The name of the one object.
const NAME: &str = "ledger";
/// Where in the object's storage stands up to which line D1 has them.
const COPIED: &str = "copied";
/// Lines that go to D1 at once.
const COPIED_AT_ONCE: u32 = 50;
/// Milliseconds after which lines are copied, after which that is tried again, and between two looks
/// for lines that have had their time.
const COPY_AFTER: i64 = 1_000;
const COPY_AGAIN: i64 = 10_000;
const SWEEP: i64 = 6 * 3_600_000;

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS line (sequence INTEGER PRIMARY KEY, unix_ms INTEGER NOT NULL, line TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS line_trace ON line (json_extract(line, '$.record.traceId'));
CREATE INDEX IF NOT EXISTS line_request ON line (json_extract(line, '$.record.requestId'));";
const INSERT: &str = "INSERT OR IGNORE INTO line (sequence, unix_ms, line) VALUES (?1, ?2, ?3)";
// The newest, in order: a client may give all its requests one trace.
const ABOUT: &str = "SELECT line FROM (SELECT sequence, line FROM line
                     WHERE json_extract(line, '$.record.traceId') = ?1
                     OR json_extract(line, '$.record.requestId') = ?1
                     ORDER BY sequence DESC LIMIT ?2) ORDER BY sequence";
const AFTER: &str = "SELECT line FROM line WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
const UNCOPIED: &str =
    "SELECT sequence, unix_ms, line FROM line WHERE sequence > ?1 ORDER BY sequence LIMIT ?2";
const OUTLIVED: &str =
    "SELECT line FROM (SELECT * FROM line ORDER BY sequence LIMIT ?2) WHERE unix_ms < ?1 AND sequence < ?3
                        ORDER BY sequence DESC LIMIT 1";

/// The ledger.
#[durable_object(alarm)]
#[allow(missing_debug_implementations, reason = "the platform's handle has none")]
pub struct AuditLedger {
    state: State,
    env: Env,
    /// The newest line; unknown until the first record.
    head: RefCell<Option<Head>>,
    /// An alarm is set, and comes soon.
    alarmed: Cell<bool>,
    /// When it was last looked for lines that have had their time, in milliseconds since 1970.
    swept: Cell<u64>,
}

impl DurableObject for AuditLedger {
    fn new(state: State, env: Env) -> Self {
        Self { state, env, head: RefCell::new(None), alarmed: Cell::new(false), swept: Cell::new(0) }
    }

    /// At `/add` a record, as it is; at `/after/NUMBER` and `/about/ID` the lines asked for.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let path = request.path();
        let (what, which) = path[1..].split_once('/').unwrap_or((&path[1..], ""));
        match what {
            "add" => {
                let record = request.text().await?;
                self.add(&record)?;
                if !self.alarmed.replace(true) {
                    let copies = self.env.d1(COPY).is_ok();
                    self.alarm_within(if copies { COPY_AFTER } else { SWEEP }).await?;
                }
                Response::empty()
            }
            "about" => Response::ok(self.lines(ABOUT, which.to_owned().into())?),
            _ => Response::ok(self.lines(AFTER, number(which.parse().unwrap_or_default()))?),
        }
    }

    /// Copies what is new, and deletes what has had its time.
    async fn alarm(&self) -> Result<Response> {
        self.alarmed.set(false);
        self.prepare()?;
        let next = match self.copy().await {
            Ok(()) => SWEEP,
            Err(error) => {
                worker::console_error!("{}", js::log_line("audit_copy_failed", &error.to_string()));
                COPY_AGAIN
            }
        };
        let is_time = unix_ms().saturating_sub(self.swept.get()) >= SWEEP.unsigned_abs() / 2;
        let deleted = if is_time { self.sweep()? } else { None };
        let next = match deleted {
            // There may be more.
            Some(through) => {
                self.forget_copies(through).await;
                next.min(COPY_AFTER)
            }
            None => {
                if is_time {
                    self.swept.set(unix_ms());
                }
                next
            }
        };
        self.alarmed.set(next != SWEEP);
        self.alarm_within(next).await?;
        Response::empty()
    }
}

impl AuditLedger {
    /// Finds the newest line once in the object's life. The first of all lines names the chain.
    fn prepare(&self) -> Result<Head> {
        if let Some(head) = *self.head.borrow() {
            return Ok(head);
        }
        let sql = self.state.storage().sql();
        sql.exec(TABLE, None)?;
        let found = sql.exec("SELECT line FROM line ORDER BY sequence DESC LIMIT 1", None)?;
        let last = found.raw().next().transpose()?.and_then(|row| text(row.first()));
        let head = match last {
            Some(line) => Head::of(&line).ok_or("the ledger's last line is none")?,
            None => {
                let Some(worker) = super::live::worker(&self.env) else { return Err("no settings".into()) };
                let mut chain = [0; 16];
                // `crypto.getRandomValues` does not fail for 16 bytes.
                let _ = getrandom::fill(&mut chain);
                self.write(&Head::default(), &began(&worker.policy, Some(chain), unix_ms()))?
            }
        };
        *self.head.borrow_mut() = Some(head);
        Ok(head)
    }

    /// Adds a record, without a pause between reading the head and writing the next.
    fn add(&self, record: &str) -> Result<()> {
        let head = self.prepare()?;
        let next = self.write(&head, record)?;
        *self.head.borrow_mut() = Some(next);
        Ok(())
    }

    fn write(&self, head: &Head, record: &str) -> Result<Head> {
        let (line, next) = guarded(|| head.link(record)).map_err(|error| describe_js(&error))?;
        let values = vec![number(next.sequence), number(unix_ms()), line.into()];
        self.state.storage().sql().exec(INSERT, values)?;
        Ok(next)
    }

    /// Whole lines, each with its line feed.
    fn lines(&self, query: &str, which: SqlStorageValue) -> Result<String> {
        self.prepare()?;
        let mut lines = String::new();
        for row in self.state.storage().sql().exec(query, vec![which, number(LEDGER_PAGE.into())])?.raw() {
            lines.push_str(&text(row?.first()).unwrap_or_default());
            lines.push('\n');
        }
        Ok(lines)
    }

    /// An alarm goes off after so many milliseconds at the latest. One that is set already is not put off: this object
    /// may be gone from memory, and with it what it knew of that, more often than the alarm comes.
    async fn alarm_within(&self, ms: i64) -> Result<()> {
        let storage = self.state.storage();
        let at = i64::try_from(unix_ms()).unwrap_or(i64::MAX).saturating_add(ms);
        if storage.get_alarm().await?.is_none_or(|set| set > at) {
            storage.set_alarm(ms).await?;
        }
        Ok(())
    }

    /// What was deleted here is deleted in D1. What fails is made up for with the next.
    async fn forget_copies(&self, through: u64) {
        let Ok(database) = self.env.d1(COPY) else { return };
        let forget = async {
            let values = [JsValue::from(number(through))];
            let statement = database.prepare("DELETE FROM line WHERE sequence <= ?1").bind(&values)?;
            match statement.run().await?.error() {
                Some(error) => Err(worker::Error::from(error)),
                None => Ok(()),
            }
        };
        if let Err(error) = forget.await {
            worker::console_error!("{}", js::log_line("audit_copy_failed", &error.to_string()));
        }
    }

    /// Brings D1 up to date, where it is bound. A line that it has already is passed over.
    async fn copy(&self) -> Result<()> {
        let Ok(database) = self.env.d1(COPY) else { return Ok(()) };
        let storage = self.state.storage();
        let mut copied: u64 = storage.get(COPIED).await?.unwrap_or_default();
        loop {
            let values = vec![number(copied), number(COPIED_AT_ONCE.into())];
            let mut statements = Vec::new();
            for row in storage.sql().exec(UNCOPIED, values)?.raw() {
                let row = row?;
                let values: Vec<JsValue> = row.iter().cloned().map(JsValue::from).collect();
                statements.push(database.prepare(INSERT).bind(&values)?);
                if let Some(line) = text(row.last()).as_deref().and_then(Head::of) {
                    copied = line.sequence;
                }
            }
            if statements.is_empty() {
                return Ok(());
            }
            if let Some(failed) = database.batch(statements).await?.iter().find_map(|result| result.error()) {
                return Err(failed.into());
            }
            storage.put(COPIED, copied).await?;
        }
    }

    /// Deletes the lines that have had their time, and adds the one that says so: one write, since
    /// there is no pause between the two. The last of them; then there may be more.
    fn sweep(&self) -> Result<Option<u64>> {
        let Some(worker) = super::live::worker(&self.env) else { return Ok(None) };
        let now = unix_ms();
        let sql = self.state.storage().sql();
        // The newest stays: the next one is linked to it.
        let newest = number(self.prepare()?.sequence);
        let before = number(now.saturating_sub(worker.policy.audit_keep_ms()));
        let found = sql.exec(OUTLIVED, vec![before, number(LEDGER_PAGE.into()), newest])?;
        let found = found.raw().next().transpose()?.and_then(|row| text(row.first()));
        let Some(through) = found.as_deref().and_then(Head::of) else { return Ok(None) };
        sql.exec("DELETE FROM line WHERE sequence <= ?1", vec![number(through.sequence)])?;
        self.add(&retained(&through, now))?;
        Ok(Some(through.sequence))
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds fit")]
fn unix_ms() -> u64 {
    Date::now() as u64
}

fn text(value: Option<&SqlStorageValue>) -> Option<String> {
    match value {
        Some(SqlStorageValue::String(text)) => Some(text.clone()),
        _ => None,
    }
}

/// SQLite's integers are signed, and JavaScript's numbers have 53 bits: enough for either.
fn number(value: u64) -> SqlStorageValue {
    #[allow(clippy::cast_precision_loss, reason = "fewer than 2^53 lines and milliseconds")]
    SqlStorageValue::Float(value as f64)
}

/// Adds a record. One that cannot be added goes to the log, so that it is somewhere.
pub(super) async fn add(ledger: ObjectNamespace, record: String) {
    if let Err(error) = ask(&ledger, "add", Some(&record)).await {
        worker::console_error!("{}", js::log_line("audit_failed", &error.to_string()));
        worker::console_log!("{record}");
    }
}

/// Whole lines, in order; `None` when they cannot be read.
pub(super) async fn read(ledger: ObjectNamespace, find: Find) -> Option<Vec<u8>> {
    let path = match find {
        Find::About(id) => format!("about/{id}"),
        Find::After(number) => format!("after/{number}"),
    };
    let lines = ask(&ledger, &path, None).await;
    let report = |error: &worker::Error| {
        worker::console_error!("{}", js::log_line("audit_failed", &error.to_string()));
    };
    lines.inspect_err(report).ok()
}

async fn ask(ledger: &ObjectNamespace, path: &str, body: Option<&str>) -> Result<Vec<u8>> {
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(body.map(JsValue::from));
    let request = Request::new_with_init(&format!("https://ledger/{path}"), &init)?;
    let mut response = ledger.id_from_name(NAME)?.get_stub()?.fetch_with_request(request).await?;
    let bytes = response.bytes().await?;
    if response.status_code() != 200 {
        return Err(String::from_utf8_lossy(&bytes).into_owned().into());
    }
    Ok(bytes)
}
