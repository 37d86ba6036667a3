//! `minigate audit verify|show|export`: what an operator asks of the ledger.

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
};

use minigate_core::ledger::{self, Finding, Head, Report, Verifier};
use serde_json::Value;

use super::database::{self, Database};
use crate::settings;

/// Reads a whole ledger and says what is wrong with it first; 1 when something is.
pub fn verify(files: &[PathBuf], data: Option<&Path>, heads: &[Head]) -> ExitCode {
    let mut verifier = heads.iter().fold(Verifier::default(), |verifier, head| verifier.expect(*head));
    let read = match files {
        [] => open(data).and_then(|database| {
            let read = database.each(0, u64::MAX, |_, line| verifier.push(line));
            read.map_err(|error| error.to_string())
        }),
        files => files.iter().try_for_each(|path| read_lines(path, |line| verifier.push(line))),
    };
    if let Err(problem) = read {
        return fail(&problem);
    }
    let report = verifier.finish();
    say(&verdict(&report));
    if report.fault.is_some() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What was found, and what to do about it.
fn verdict(report: &Report) -> String {
    let Report { fault, lines, first, head } = report;
    let Some(fault) = fault else {
        let mut text = format!("ok: {lines} lines, from {first} to {}\nhead {head}", head.sequence);
        if *first > 1 {
            let _ = write!(text, "\nlines before {first} were deleted when their time was over, as recorded");
        }
        text.push_str("\nA missing end is only seen with --head, and a head from the log (`audit_head`).\n");
        return text;
    };
    let advice = match fault.finding {
        Finding::CutOff | Finding::Rewritten => {
            "Somebody with access to the file has replaced it, or an old copy was put in its place."
        }
        Finding::Missing { .. } => "Look for the lines in a copy (AUDIT_FILE, a backup, the log).",
        _ => "Compare the line with a copy (AUDIT_FILE, a backup, the log).",
    };
    format!(
        "BROKEN at line {}: {fault}\nsound up to line {}, head {head}; {lines} lines were read\n\
         {advice} Keep the file as it is, and find out who could write it.\n",
        fault.sequence, head.sequence
    )
}

/// Tells the story of a request, by its trace id or its own id.
pub fn show(id: &str, data: Option<&Path>) -> ExitCode {
    let found = open(data).and_then(|database| database.find(id).map_err(|error| error.to_string()));
    match found {
        Err(problem) => fail(&problem),
        Ok(lines) if lines.is_empty() => fail(&format!("no record of `{id}`")),
        Ok(lines) => {
            let records = lines.iter().filter_map(|line| ledger::record(line));
            let stories = records.filter_map(|record| serde_json::from_str(record).ok());
            say(&stories.map(|record: Value| story(&record)).collect::<Vec<_>>().join("\n"));
            ExitCode::SUCCESS
        }
    }
}

/// One line for what was asked, one for each decision, and the rest.
pub(crate) fn story(record: &Value) -> String {
    let word = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut text = String::new();
    for name in ["at", "kind", "route", "status", "code"] {
        if let Some(value) = record.get(name) {
            text.push_str(&word(value));
            text.push(' ');
        }
    }
    text.push('\n');
    let decisions = record["decisions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for decision in decisions.iter().filter_map(Value::as_object) {
        let _ = write!(text, "  {}:", decision.get("what").map(word).unwrap_or_default());
        // What was not so is not said.
        let shown = decision.iter().filter(|(name, value)| {
            *name != "what" && !value.is_null() && **value != Value::Bool(false) && value.as_str() != Some("")
        });
        for (name, value) in shown {
            let _ = write!(text, " {name}={}", word(value));
        }
        text.push('\n');
    }
    let told = ["at", "kind", "route", "status", "code", "decisions"];
    for (name, value) in record.as_object().into_iter().flatten() {
        if !told.contains(&name.as_str()) {
            let _ = writeln!(text, "  {name}: {}", word(value));
        }
    }
    text
}

/// Writes lines as they are, one on each line.
pub fn export(from: u64, to: u64, data: Option<&Path>) -> ExitCode {
    let mut out = io::stdout().lock();
    let mut written = Ok(());
    let read = open(data).and_then(|database| {
        let read = database.each(from, to, |_, line| {
            if written.is_ok() {
                written = writeln!(out, "{line}");
            }
        });
        read.map_err(|error| error.to_string())
    });
    match read.and(written.map_err(|error| error.to_string())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => fail(&problem),
    }
}

fn open(data: Option<&Path>) -> Result<Database, String> {
    let path = data.map_or_else(settings::data_directory, Path::to_path_buf).join(database::FILE);
    Database::open(&path).map_err(|error| format!("{}: {error}", path.display()))
}

fn read_lines(path: &Path, mut take: impl FnMut(&str)) -> Result<(), String> {
    let problem = |error: io::Error| format!("{}: {error}", path.display());
    let mut file = BufReader::new(File::open(path).map_err(problem)?);
    let mut line = Vec::new();
    while file.read_until(b'\n', &mut line).map_err(problem)? > 0 {
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        // What is not UTF-8 is no line, and says so.
        take(std::str::from_utf8(text).unwrap_or_default());
        line.clear();
    }
    Ok(())
}

fn say(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn fail(problem: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "{problem}");
    ExitCode::FAILURE
}
