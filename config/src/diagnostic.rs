//! What is said about a mistake: where it is, what is valid there, and the nearest name.
//!
//! No value that looks like a secret gets into a message: whatever is quoted from a file goes
//! through [`shown`].

use std::{fmt, fmt::Write as _};

use minigate_core::seam::Problem;

use crate::secrets::looks_secret;

/// A character of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Which of the files, in the order in which they were given.
    pub(crate) file: usize,
    /// From 1.
    pub(crate) line: usize,
    /// In characters, from 1.
    pub(crate) column: usize,
}

/// How much a diagnostic matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Nothing is compiled.
    Error,
    /// It works, and is perhaps not what was meant.
    Warning,
}

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// How much it matters.
    pub severity: Severity,
    /// The file's name, as it was given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, column, message, .. } = self;
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{file}:{line}:{column}: {severity}: {message}")?;
        match &self.help {
            Some(help) => write!(f, "\n  help: {help}"),
            None => Ok(()),
        }
    }
}

impl From<Diagnostic> for Problem {
    fn from(found: Diagnostic) -> Self {
        let place = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Self {
            error: found.severity == Severity::Error,
            file: found.file,
            line: place(found.line),
            column: place(found.column),
            message: found.message,
            help: found.help,
        }
    }
}

/// Collects diagnostics of several files.
#[derive(Debug, Default)]
pub(crate) struct Report {
    files: Vec<String>,
    found: Vec<(Place, Severity, String, Option<String>)>,
}

impl Report {
    pub(crate) fn new(files: Vec<String>) -> Self {
        Self { files, found: Vec::new() }
    }

    pub(crate) fn error(&mut self, place: Place, message: impl Into<String>) {
        self.found.push((place, Severity::Error, message.into(), None));
    }

    pub(crate) fn error_with(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.found.push((place, Severity::Error, message.into(), Some(help.into())));
    }

    pub(crate) fn warning(&mut self, place: Place, message: impl Into<String>, help: impl Into<String>) {
        self.found.push((place, Severity::Warning, message.into(), Some(help.into())));
    }

    /// `file:line:column`, for a message that names a second place.
    pub(crate) fn at(&self, place: Place) -> String {
        let file = self.files.get(place.file).map(String::as_str).unwrap_or_default();
        format!("{file}:{}:{}", place.line, place.column)
    }

    /// In order of files, lines and columns, at one place errors first, each once.
    pub(crate) fn into_diagnostics(mut self) -> Vec<Diagnostic> {
        self.found.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        self.found.dedup();
        let files = self.files;
        let named =
            |(place, severity, message, help): (Place, Severity, String, Option<String>)| Diagnostic {
                severity,
                file: files.get(place.file).cloned().unwrap_or_default(),
                line: place.line,
                column: place.column,
                message,
                help,
            };
        self.found.into_iter().map(named).collect()
    }
}

/// How much of a value is quoted, in characters.
const SHOWN: usize = 40;

/// A text of a file for a message: short, in one line, and no secret.
pub(crate) fn shown(text: &str) -> String {
    if looks_secret(text) {
        return "a text that looks like a secret".to_owned();
    }
    let mut out = String::from("`");
    for (count, character) in text.trim_end().chars().enumerate() {
        if count == SHOWN {
            out.push('…');
            break;
        }
        match character {
            '`' => out.push('\''),
            '"' | '\'' => out.push(character),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "{}", character.escape_debug())),
        }
    }
    out.push('`');
    out
}

/// The name that was probably meant.
pub(crate) fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // A name has 64 characters at most; a longer text is no slip of the finger.
    if name.len() > 256 {
        return None;
    }
    let near =
        |known: &'n str| (strsim::damerau_levenshtein(&name.to_lowercase(), &known.to_lowercase()), known);
    let (distance, best) = known.into_iter().map(near).min()?;
    (distance <= 1 + name.chars().count() / 4).then_some(best)
}

/// How many names a help lists.
const LISTED: usize = 12;

/// What is valid in a name's place, the nearest first.
pub(crate) fn instead<'n>(name: &str, known: impl IntoIterator<Item = &'n str>, what: &str) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    let mut out = match nearest(name, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? "),
        None => String::new(),
    };
    if known.is_empty() {
        return format!("{out}there are no {what}");
    }
    let _ = write!(out, "the {what} are {}", known[..known.len().min(LISTED)].join(", "));
    if known.len() > LISTED {
        let _ = write!(out, " and {} more", known.len() - LISTED);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_a_slip_away() {
        let keys = ["max_tokens", "temperature", "model", "timeout_ms"];
        assert_eq!(nearest("max_token", keys), Some("max_tokens"));
        assert_eq!(nearest("Temprature", keys), Some("temperature"));
        assert_eq!(nearest("modle", keys), Some("model"));
        assert_eq!(nearest("colour", keys), None);
    }

    #[test]
    fn what_is_quoted_is_short_and_no_secret() {
        assert_eq!(shown("many\n"), "`many`");
        assert_eq!(shown("a\nb`c"), "`a\\nb'c`");
        assert_eq!(shown(&"x".repeat(50)), format!("`{}…`", "x".repeat(40)));
        assert!(!shown("sk-live-0123456789abcdef").contains("0123"));
    }
}
