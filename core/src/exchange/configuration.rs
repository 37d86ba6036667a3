//! `/v1/admin/config`: which configurations were taken, what they say, another one, and the way back.
//!
//! The check is the host's, which has the parser of the files and the secrets that they name; what is
//! remembered, in which order, and who is told of it is said here. Nothing is remembered that was not
//! checked completely, and nothing is in use that is not remembered first: so a host that ends in between
//! comes up with what its operator was told. Which exchange runs under which configuration is decided at
//! its begin, by the policy that a host gives it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Exchange, Phase, audit, gates::Caller, record::timestamp};
use crate::{
    policy::Policy,
    seam::{ConfigFile, Input, Moment, Output, Problem, RequestHead, pieces, restore},
    state::{
        Op, Outcome,
        editions::{Adopt, Edition, KEEP_MS, KEY, text_key},
    },
    wire::{
        failure::{Code, Failure},
        json,
    },
};

/// What is served here.
pub(super) const PATH: &str = "/v1/admin/config";
/// The way back.
pub(super) const ROLLBACK: &str = "/v1/admin/config/rollback";
/// The most bytes of a configuration in a request, escaped as JSON.
pub(super) const MOST_BYTES: u64 = 1024 * 1024;
/// How long the store, a check and the change may take, in milliseconds. An edge writes into KV.
const PATIENCE: u64 = 10_000;
/// The most characters of an operator's reason.
const NOTE: usize = 500;

/// The version that a path names.
pub(super) fn named(path: &str) -> Option<String> {
    let version = path.strip_prefix(PATH)?.strip_prefix('/')?;
    let valid = version.len() == 12 && version.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| version.to_owned())
}

/// What is waited for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Changing {
    pub(super) id: u32,
    step: Step,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Step {
    /// The list.
    List,
    /// The list, to find a version in it: none is the one before.
    Find { version: Option<String>, restores: bool, note: String },
    /// The text of one.
    Read { edition: Edition, restores: bool, note: String },
    /// The check.
    Check(Draft),
    /// The store's word that it is remembered.
    Adopt(Draft),
    /// The host's word that it is in use.
    Take(Draft, u64),
}

/// A configuration that somebody wants to be in use.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Draft {
    files: Vec<ConfigFile>,
    note: String,
    version: String,
    warnings: Vec<Problem>,
}

impl Exchange {
    /// `GET` of the list, or of one.
    pub(super) fn show_configuration(&mut self, now: Moment) {
        self.story.subject = self.who();
        let step = match self.facts.edition.clone() {
            None => Step::List,
            version => Step::Find { version, restores: false, note: String::new() },
        };
        self.ask_editions(step, now);
    }

    /// `PUT`: `{"text": "…", "note": "…"}`, or `files` in place of `text`.
    pub(super) fn put_configuration(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        struct Body {
            text: Option<String>,
            #[serde(default)]
            files: Vec<ConfigFile>,
            #[serde(default)]
            note: String,
        }
        self.story.subject = self.who();
        let Ok(Body { text, mut files, note }) = json::object::<Body>(body) else {
            let message = "body: send {\"text\": \"…\"} or {\"files\": [{\"name\": \"…\", \"text\": \"…\"}]}, and a note";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        files.extend(text.map(|text| ConfigFile { name: "configuration.yaml".into(), text }));
        if files.is_empty() || files.len() > 50 {
            let message = "files: send 1 to 50 of them";
            return self.fail(policy, &Failure::new(Code::InputInvalid, message), now);
        }
        self.check_configuration(files, note, now);
    }

    /// `POST`: `{"version": "…"}`; without one it is the one before.
    pub(super) fn roll_configuration_back(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        struct Body {
            version: Option<String>,
            #[serde(default)]
            note: String,
        }
        self.story.subject = self.who();
        let Ok(Body { version, note }) = json::object::<Body>(body) else {
            let message = "body: send {} for the one before, or {\"version\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let note = if note.is_empty() { "rollback".to_owned() } else { format!("rollback: {note}") };
        self.ask_editions(Step::Find { version, restores: true, note }, now);
    }

    /// Which of the operators' keys it is.
    fn who(&self) -> Option<String> {
        match &self.facts.caller {
            Caller::Key(id) => Some(id.clone()),
            _ => None,
        }
    }

    fn wait_for(&mut self, step: Step, now: Moment, output: impl FnOnce(u32) -> Output) {
        let id = self.take_id();
        self.outputs.push_back(output(id));
        self.timers.store = Some(now.unix_ms + PATIENCE);
        self.phase = Phase::Configuration(Box::new(Changing { id, step }));
    }

    fn ask_editions(&mut self, step: Step, now: Moment) {
        self.wait_for(step, now, |id| Output::Store { id, ops: vec![(KEY.to_owned(), Op::Editions)] });
    }

    fn check_configuration(&mut self, files: Vec<ConfigFile>, note: String, now: Moment) {
        let note = note.chars().take(NOTE).collect();
        let draft = Draft { files: files.clone(), note, version: String::new(), warnings: Vec::new() };
        self.wait_for(Step::Check(draft), now, |id| Output::Check { id, files });
    }

    pub(super) fn in_configuration(
        &mut self,
        policy: &Policy,
        changing: Changing,
        input: &Input<'_>,
        now: Moment,
    ) {
        let Changing { id: asked, step } = changing;
        match (step, input) {
            (step, Input::Stored { id, outcomes }) if *id == asked => {
                self.timers.store = None;
                self.configuration_stored(policy, step, outcomes, now);
            }
            (_, Input::StoreFailed { id }) if *id == asked => self.configuration_not_stored(policy, now),
            (Step::Check(draft), Input::Checked { id, version, problems }) if *id == asked => {
                self.timers.store = None;
                self.configuration_checked(policy, draft, version.as_deref(), problems, now);
            }
            (Step::Take(draft, number), Input::Taken { id, done }) if *id == asked => {
                self.timers.store = None;
                self.configuration_taken(policy, &draft, number, *done, now);
            }
            (step, _) => self.phase = Phase::Configuration(Box::new(Changing { id: asked, step })),
        }
    }

    fn configuration_stored(&mut self, policy: &Policy, step: Step, outcomes: &[Outcome], now: Moment) {
        let editions = outcomes.iter().find_map(|outcome| match outcome {
            Outcome::Editions { editions, forgotten } => Some((editions, forgotten)),
            _ => None,
        });
        match (step, editions) {
            (Step::List, Some((editions, _))) => {
                let body = json!({
                    "version": policy.catalog.version,
                    "versions": editions.iter().rev().map(show).collect::<Vec<Value>>(),
                });
                self.respond_json(policy, 200, body.to_string(), now);
            }
            (Step::Find { version, restores, note }, Some((editions, _))) => {
                let newest = editions.last().map_or(policy.catalog.version.as_str(), |last| &last.version);
                let is_wanted = |edition: &&Edition| match &version {
                    Some(version) => edition.version == *version,
                    None => edition.version != newest,
                };
                let Some(edition) = editions.iter().rev().find(is_wanted).cloned() else {
                    let message =
                        "version: nothing is remembered of it; GET /v1/admin/config lists the others";
                    return self.fail(policy, &Failure::new(Code::ConfigurationUnknown, message), now);
                };
                let ops = restore(&text_key(&edition.version), edition.bytes).collect();
                self.wait_for(Step::Read { edition, restores, note }, now, |id| Output::Store { id, ops });
            }
            (Step::Read { edition, restores, note }, _) => match files_of(outcomes) {
                Some(files) if restores => self.check_configuration(files, note, now),
                Some(files) => {
                    let mut body = show(&edition);
                    body["text"] = text_of(&files).into();
                    body["files"] = json!(files);
                    self.respond_json(policy, 200, body.to_string(), now);
                }
                None => {
                    let message = "version: its text is not kept any more";
                    self.fail(policy, &Failure::new(Code::ConfigurationUnknown, message), now);
                }
            },
            (Step::Adopt(draft), Some((editions, forgotten))) => {
                for old in forgotten {
                    for (key, _) in restore(&text_key(&old.version), old.bytes) {
                        self.tell(key, Op::Forget);
                    }
                }
                // It is remembered, so it will be in use: also when the client leaves before that is said.
                self.story.configured = Some((policy.catalog.version.clone(), draft.version.clone()));
                let number = editions.last().map_or(0, |newest| newest.number);
                let files = draft.files.clone();
                self.wait_for(Step::Take(draft, number), now, |id| Output::Take { id, number, files });
            }
            _ => self.configuration_not_stored(policy, now),
        }
    }

    fn configuration_checked(
        &mut self,
        policy: &Policy,
        mut draft: Draft,
        version: Option<&str>,
        problems: &[Problem],
        now: Moment,
    ) {
        let Some(version) = version else {
            let message = "the configuration has mistakes; what was there stays";
            let failure = Failure::new(Code::ConfigurationInvalid, message);
            self.story.code = Some(failure.code);
            let body = self.failure_body(&failure);
            let mut body = serde_json::from_str::<Value>(&body).unwrap_or_default();
            body["diagnostics"] = problems.iter().map(diagnostic).collect();
            return self.respond_json(policy, failure.code.status(), body.to_string(), now);
        };
        version.clone_into(&mut draft.version);
        draft.warnings = problems.to_vec();
        let (mut ops, bytes) = kept(version, &draft.files);
        let by = self.who().unwrap_or_default();
        ops.push((KEY.to_owned(), adopt(version, &by, &draft.note, bytes, false)));
        self.wait_for(Step::Adopt(draft), now, |id| Output::Store { id, ops });
    }

    fn configuration_taken(&mut self, policy: &Policy, draft: &Draft, number: u64, done: bool, now: Moment) {
        if !done {
            let message = "it is remembered, and this host could not begin to use it; send it again";
            return self.fail(policy, &Failure::new(Code::StoreUnavailable, message).after(5), now);
        }
        let body = json!({
            "version": draft.version,
            "before": policy.catalog.version,
            "number": number,
            "diagnostics": draft.warnings.iter().map(diagnostic).collect::<Vec<Value>>(),
        });
        self.respond_json(policy, 200, body.to_string(), now);
    }

    /// Nobody knows whether it is remembered.
    pub(super) fn configuration_not_stored(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let message = "the store failed: GET /v1/admin/config shows what is in use; send it again";
        self.fail(policy, &Failure::new(Code::StoreUnavailable, message).after(5), now);
    }

    /// The record of a configuration that a host took without a request, in the place of which and which
    /// one it is, with a trace id for the host's own log line about it.
    pub fn configured(
        policy: &Policy,
        change: (&str, &str),
        by: &str,
        now: Moment,
    ) -> (String, Option<Output>) {
        let exchange = Self::blank(policy, &RequestHead::default(), now);
        let record = audit::configuration(policy, &exchange.facts, change, by, now);
        (exchange.facts.trace_id, record)
    }
}

/// The operations that remember what a host found in its file, and what it was called before this:
/// the last one's outcome is [`Outcome::Editions`].
pub fn adopted_from_file(version: &str, files: &[ConfigFile], begins: bool) -> Vec<(String, Op)> {
    let (mut ops, bytes) = kept(version, files);
    ops.push((KEY.to_owned(), adopt(version, crate::state::editions::FILE, "", bytes, begins)));
    ops
}

/// The operations that read the texts of an edition, for [`files_of`].
pub fn texts_of(edition: &Edition) -> Vec<(String, Op)> {
    restore(&text_key(&edition.version), edition.bytes).collect()
}

/// The texts, out of what [`texts_of`] read.
pub fn files_of(outcomes: &[Outcome]) -> Option<Vec<ConfigFile>> {
    let mut bytes = Vec::new();
    for outcome in outcomes {
        let Outcome::Value(Some(piece)) = outcome else { return None };
        bytes.extend_from_slice(piece);
    }
    postcard::from_bytes(&bytes).ok()
}

fn adopt(version: &str, by: &str, note: &str, bytes: u64, begins: bool) -> Op {
    let (version, by, note) = (version.to_owned(), by.to_owned(), note.to_owned());
    Op::Adopt(Adopt { version, by, note, bytes, begins })
}

/// The operations that keep the texts, and their length.
fn kept(version: &str, files: &[ConfigFile]) -> (Vec<(String, Op)>, u64) {
    let bytes = postcard::to_allocvec(files).unwrap_or_default();
    (pieces(&text_key(version), &bytes, KEEP_MS).collect(), bytes.len() as u64)
}

/// An edition as an operator sees it.
fn show(edition: &Edition) -> Value {
    let Edition { number, version, at_ms, by, note, .. } = edition;
    json!({"number": number, "version": version, "at": timestamp(*at_ms), "by": by, "note": note})
}

/// A mistake as an operator sees it.
fn diagnostic(problem: &Problem) -> Value {
    let Problem { error, file, line, column, message, help } = problem;
    json!({
        "severity": if *error { "error" } else { "warning" },
        "file": file, "line": line, "column": column, "message": message, "help": help,
    })
}

/// One text to read, of one file or of several.
fn text_of(files: &[ConfigFile]) -> String {
    match files {
        [one] => one.text.clone(),
        several => several.iter().map(|file| format!("# {}\n{}\n", file.name, file.text)).collect(),
    }
}
