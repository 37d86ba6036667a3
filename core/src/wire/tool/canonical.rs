//! One text for one JSON value: what a person approves is, letter for letter, what is hashed and sent.
//!
//! As RFC 8785: names in order, nothing between the tokens, the shortest form of strings. Two things
//! differ. A number stays as it was written, since another program may read it with more
//! digits than this one. And characters that are not seen, or turn the direction of what stands
//! around them, are escaped: a person must not approve a text that looks like another one.

use std::collections::BTreeMap;

use serde_json::{Value, value::RawValue};

use crate::wire::json;

/// The canonical text of a JSON value. `None` when it is no JSON, or has more than 127 levels
/// (`serde_json`'s limit). Of a name that is given twice the last value counts, as everywhere here.
pub fn canonical(text: &str) -> Option<String> {
    // Bounds the depth; raw values alone have no such bound.
    serde_json::from_str::<Value>(text).ok()?;
    let mut out = String::with_capacity(text.len());
    push(serde_json::from_str(text).ok()?, &mut out)?;
    Some(out)
}

fn push(value: &RawValue, out: &mut String) -> Option<()> {
    let text = value.get();
    match text.bytes().next()? {
        b'{' => {
            let members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
            out.push('{');
            for (at, (name, member)) in members.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push_string(name, out);
                out.push(':');
                push(member, out)?;
            }
            out.push('}');
        }
        b'[' => {
            let items: Vec<&RawValue> = serde_json::from_str(text).ok()?;
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                push(item, out)?;
            }
            out.push(']');
        }
        b'"' => push_string(&serde_json::from_str::<String>(text).ok()?, out),
        _ => out.push_str(text),
    }
    Some(())
}

fn push_string(text: &str, out: &mut String) {
    for c in json::string(text).chars() {
        if is_unseen(c) {
            // All of them are below U+10000: one unit each.
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
}

/// Control characters that JSON does not escape, spaces without width, marks of direction. The two joiners
/// are not among them: emoji and several scripts are written with these.
fn is_unseen(c: char) -> bool {
    matches!(
        c,
        '\u{7f}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
    )
}
