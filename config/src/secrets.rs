//! Secrets stand in a configuration by name only, as `${NAME}`.
//!
//! A file is committed, mailed and printed; so a value that looks like a key is refused, and
//! nothing here shows one.

use std::borrow::Cow;

use minigate_core::policy::redact::{Rules, redact};

use crate::{
    diagnostic::{Place, Report},
    yaml::{Entry, Node, Value},
};

/// The length from which a word of letters and digits is taken for a key where a value is quoted.
const RANDOM: usize = 20;

/// The name in `${NAME}`: capital letters, digits and `_`, at most 64.
pub(crate) fn reference(text: &str) -> Option<&str> {
    let name = text.trim().strip_prefix("${")?.strip_suffix('}')?;
    is_setting(name).then_some(name)
}

fn is_setting(name: &str) -> bool {
    name.len() <= 64
        && name.starts_with(|c: char| c.is_ascii_uppercase())
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// The words of a text that a key could be.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '/' | '=' | '.')))
}

/// Whether it holds what the core takes for a secret.
pub(crate) fn is_key(text: &str) -> bool {
    let rules = Rules { secret: true, ..Rules::default() };
    matches!(redact(&rules, text), Cow::Owned(_))
}

/// Whether it may be a secret, so that a message does not quote it. Rather too often.
pub(crate) fn looks_secret(text: &str) -> bool {
    let random = |word: &str| {
        word.len() >= RANDOM
            && word.bytes().filter(u8::is_ascii_digit).count() >= 4
            && word.bytes().any(|b| b.is_ascii_alphabetic())
    };
    is_key(text) || words(text).any(random)
}

/// Refuses keys, and names of secrets where none belongs.
pub(crate) fn check(node: &Node, report: &mut Report) {
    match &node.value {
        Value::Text(text) => check_text(text, node.place, report),
        Value::List(items) => items.iter().for_each(|item| check(item, report)),
        Value::Map(entries) => {
            for entry in entries {
                if is_key(&entry.key) {
                    refuse(entry.place, report);
                }
                if !is_named(entry) {
                    check(&entry.node, report);
                }
            }
        }
        Value::Null | Value::Boolean(_) | Value::Integer(_) | Value::Decimal(_) => {}
    }
}

/// Whether it is a secret's name where one belongs. Whether it is one in an `api_key` is its
/// shape's business.
fn is_named(entry: &Entry) -> bool {
    let named = entry.node.text().is_some_and(|text| reference(text).is_some());
    match entry.key.as_str() {
        "api_key" => matches!(entry.node.value, Value::Text(_)),
        "secret" | "app_key" | "app_secret" | "webhook" => named,
        _ => false,
    }
}

fn check_text(text: &str, place: Place, report: &mut Report) {
    if is_key(text) {
        refuse(place, report);
    }
    let named = text.match_indices("${").find_map(|(at, _)| {
        let rest = text.get(at..)?;
        reference(rest.get(..=rest.find('}')?)?)
    });
    if let Some(name) = named {
        report.error_with(
            place,
            format!("`${{{name}}}` names a secret, and none belongs here"),
            "only keys such as `api_key` of a model and `secret` of a tool take one; what is here is sent and logged",
        );
    }
}

fn refuse(place: Place, report: &mut Report) {
    report.error_with(
        place,
        "this looks like a secret, and is not shown",
        "put it into a setting, replace it where it has been used, and write `${ITS_NAME}` where a secret belongs",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_named() {
        assert_eq!(reference("${LOCAL_MODEL_API_KEY}"), Some("LOCAL_MODEL_API_KEY"));
        for text in ["LOCAL", "${}", "${lower}", "${A}b", "$A", "${A", "${1A}"] {
            assert_eq!(reference(text), None, "{text}");
        }
    }

    #[test]
    fn keys_are_told_from_words() {
        for key in ["sk-proj-abcdefghij0123456789", "password: hunter2Hunter2x", "AKIAIOSFODNN7EXAMPLE"] {
            assert!(is_key(key), "{key}");
        }
        for words in [
            "sk-ip the introduction",
            "task-oriented",
            "Answer in 3-6 bullet points.",
            "Never tell a password: it is private.",
        ] {
            assert!(!is_key(words), "{words}");
        }
        assert!(looks_secret("3f8a9b2c4d5e6f708192a3b4c5d6e7f8"));
        assert!(!looks_secret("summarize_order_information_v1"));
    }
}
