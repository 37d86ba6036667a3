//! Inputs, outputs and what differs between two runs, in words.

use std::{collections::BTreeMap, fmt::Write as _};

use minigate_core::{
    seam::{Fetch, Input, MODEL, OPENCLAW, Output},
    state::Op,
};
use serde_json::Value;
use similar::TextDiff;

use super::rerun::Came;

/// Times differ whatever is decided.
const TIMES: &[&str] = &["log.ts", "log.ms", "log.queuedMs", "log.upstreamMs", "ledger.at", "ledger.ms"];

/// The id of what an input answers.
pub(super) fn id(input: &Input<'_>) -> Option<u32> {
    match input {
        Input::Stored { id, .. }
        | Input::StoreFailed { id }
        | Input::Woken { id }
        | Input::FetchWhole { id, .. }
        | Input::FetchHead { id, .. }
        | Input::FetchLines { id, .. }
        | Input::FetchEnd { id }
        | Input::FetchFailed { id, .. }
        | Input::Checked { id, .. }
        | Input::Taken { id, .. }
        | Input::Stats { id, .. } => Some(*id),
        Input::Body(_) | Input::BodyFailed(_) | Input::Deadline | Input::ClientGone | Input::Under => None,
    }
}

/// The same answer to another question.
pub(super) fn with_id(mut input: Input<'_>, new: u32) -> Input<'_> {
    match &mut input {
        Input::Stored { id, .. }
        | Input::StoreFailed { id }
        | Input::Woken { id }
        | Input::FetchWhole { id, .. }
        | Input::FetchHead { id, .. }
        | Input::FetchLines { id, .. }
        | Input::FetchEnd { id }
        | Input::FetchFailed { id, .. }
        | Input::Checked { id, .. }
        | Input::Taken { id, .. }
        | Input::Stats { id, .. } => *id = new,
        Input::Body(_) | Input::BodyFailed(_) | Input::Deadline | Input::ClientGone | Input::Under => {}
    }
    input
}

/// The name of a variant.
pub(super) fn word(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    // `Turn(Claim { .. })` says more than `Turn`.
    let words = text.split(|letter: char| !letter.is_alphanumeric()).take(2);
    let words: Vec<&str> = words.collect();
    match words.as_slice() {
        ["Turn", inner, ..] => format!("Turn.{inner}"),
        [first, ..] => (*first).to_owned(),
        [] => String::new(),
    }
}

/// The kinds of operations of a list.
pub(super) fn kinds(ops: &[(String, Op)]) -> String {
    ops.iter().map(|(_, op)| word(op)).collect::<Vec<_>>().join("+")
}

/// Whether it goes to what answers.
pub(super) fn is_model(fetch: &Fetch) -> bool {
    fetch.upstream == OPENCLAW || fetch.upstream.starts_with(MODEL)
}

/// Where a fetch goes.
pub(super) fn place(fetch: &Fetch) -> String {
    format!("{} {}{}", fetch.method, fetch.upstream, fetch.path)
}

/// An input, in a few words.
pub(super) fn input(input: &Input<'_>, payload: usize) -> String {
    match input {
        Input::FetchWhole { status, .. } => format!("FetchWhole {status} ({payload} bytes)"),
        Input::FetchHead { status, .. } => format!("FetchHead {status}"),
        Input::FetchFailed { failure, .. } => format!("FetchFailed {failure:?}"),
        Input::BodyFailed(failure) => format!("BodyFailed {failure:?}"),
        Input::Stored { outcomes, .. } => {
            let outcomes: Vec<String> = outcomes.iter().map(word).collect();
            format!("Stored {}", outcomes.join("+"))
        }
        input if payload > 0 => format!("{} ({payload} bytes)", word(input)),
        input => word(input),
    }
}

/// An output, in a few words; nothing for what only keeps time and count.
pub(super) fn output(output: &Output) -> Option<String> {
    Some(match output {
        Output::Deadline { .. } | Output::Measure(_) | Output::Replayable { .. } => return None,
        Output::Store { id: 0, ops } => format!("tell {}", kinds(ops)),
        Output::Store { ops, .. } => format!("ask the store {}", kinds(ops)),
        Output::Fetch(fetch) => format!("fetch {} ({} bytes)", place(fetch), fetch.body.len()),
        Output::Head { status, .. } => format!("answer {status}"),
        Output::Chunk(bytes) => format!("send {} bytes", bytes.len()),
        Output::Record { .. } => "log".into(),
        Output::Audit { .. } => "ledger".into(),
        output => word(output),
    })
}

/// The values of a JSON object, by their places.
pub(super) fn flatten(place: &str, json: &str, into: &mut BTreeMap<String, String>) {
    fn each(place: String, value: &Value, into: &mut BTreeMap<String, String>) {
        match value {
            Value::Object(fields) => {
                fields.iter().for_each(|(name, value)| each(format!("{place}.{name}"), value, into));
            }
            Value::Array(items) => {
                items
                    .iter()
                    .enumerate()
                    .for_each(|(at, value)| each(name_of(&place, at, value), value, into));
            }
            Value::String(text) => drop(into.insert(place, text.clone())),
            value => drop(into.insert(place, value.to_string())),
        }
    }
    /// A decision is called by what it is about, or one that is new would move all others.
    fn name_of(place: &str, at: usize, value: &Value) -> String {
        match value.get("what").and_then(Value::as_str) {
            Some(what) => format!("{place}.{what}"),
            None => format!("{place}.{at}"),
        }
    }
    if let Ok(value) = serde_json::from_str(json) {
        each(place.to_owned(), &value, into);
    }
}

/// All that differs between what was and what would be; empty when nothing does.
pub(super) fn differences(before: &Came, after: &Came) -> String {
    let mut text = String::new();
    let (old, new) = (&before.decisions, &after.decisions);
    let places: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for place in places.into_iter().filter(|place| !TIMES.contains(&place.as_str())) {
        let (old, new) = (old.get(place), new.get(place));
        if old != new {
            let shown = |value: Option<&String>| value.map_or("-", String::as_str).to_owned();
            let _ = writeln!(text, "  {place}: {} -> {}", shown(old), shown(new));
        }
    }
    let nothing = (String::new(), String::new());
    for at in 0..before.sent.len().max(after.sent.len()) {
        let (old, new) = (before.sent.get(at).unwrap_or(&nothing), after.sent.get(at).unwrap_or(&nothing));
        if old != new {
            let _ = writeln!(text, "  request {}: {} -> {}", at + 1, named(&old.0), named(&new.0));
            text.push_str(&unified(&readable(&old.1), &readable(&new.1)));
        }
    }
    if before.answer != after.answer {
        text.push_str("  answer:\n");
        text.push_str(&unified(&readable(&before.answer), &readable(&after.answer)));
    }
    text
}

fn named(place: &str) -> &str {
    if place.is_empty() { "none" } else { place }
}

fn unified(old: &str, new: &str) -> String {
    let diff = TextDiff::from_lines(old, new);
    let text = diff.unified_diff().context_radius(2).missing_newline_hint(false).to_string();
    text.lines().fold(String::new(), |shown, line| shown + "    " + line + "\n")
}

/// JSON in lines, and its texts too.
fn readable(text: &str) -> String {
    let pretty = serde_json::from_str::<Value>(text).and_then(|value| serde_json::to_string_pretty(&value));
    pretty.map_or_else(|_| text.to_owned(), |pretty| pretty.replace("\\n", "\n")) + "\n"
}
