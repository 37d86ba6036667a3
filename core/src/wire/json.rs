//! Writing JSON by hand where a value is put together from pieces.

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
