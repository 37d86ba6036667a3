//! Writing JSON by hand where a value is put together from pieces, and reading what must be
//! an object.

use serde::{Deserialize, de::Error as _};

/// The object in a request's body. Serde alone would also take a list of the fields' values.
pub(crate) fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> serde_json::Result<T> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(serde_json::Error::custom("expected an object, and not a list"));
    }
    serde_json::from_slice(body)
}

/// Appends `text` as a JSON string.
pub(crate) fn push_string(out: &mut String, text: &str) {
    // Serializing a `str` into a String cannot fail.
    if let Ok(quoted) = serde_json::to_string(text) {
        out.push_str(&quoted);
    }
}

/// `text` as a JSON string.
pub(crate) fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, text);
    out
}
