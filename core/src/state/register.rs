//! A short list of what waits for somebody: ids with a note, each until its time is over.
//!
//! It says where to look and decides nothing: what it names has a cell of its own.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};

/// The most entries; the oldest goes first.
const MOST: usize = 500;

/// Something that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What.
    pub id: String,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// What can be said of it in a list.
    pub note: String,
}

fn read(old: Option<&[u8]>, now: u64) -> Vec<Entry> {
    let mut entries =
        old.and_then(|bytes| postcard::from_bytes::<Vec<Entry>>(bytes).ok()).unwrap_or_default();
    entries.retain(|entry| entry.until_ms > now);
    entries
}

fn write(entries: &Vec<Entry>, now: u64, outcome: Outcome) -> Reduced {
    let until_ms = entries.iter().map(|entry| entry.until_ms).max().unwrap_or(now);
    let bytes = if entries.is_empty() { Vec::new() } else { encode(entries) };
    Reduced::new(bytes, until_ms.saturating_sub(now).max(1), outcome)
}

/// Adds an entry, or changes it.
pub(super) fn enlist(entry: &Entry, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut entries = read(old, now);
    entries.retain(|other| other.id != entry.id);
    if entries.len() >= MOST {
        entries.remove(0);
    }
    entries.push(entry.clone());
    write(&entries, now, Outcome::Written)
}

/// Takes an entry out.
pub(super) fn delist(id: &str, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut entries = read(old, now);
    entries.retain(|other| other.id != id);
    write(&entries, now, Outcome::Written)
}

/// All of them, the oldest first.
pub(super) fn list(old: Option<&[u8]>, now: u64) -> Reduced {
    let entries = read(old, now);
    write(&entries, now, Outcome::Listed(entries.clone()))
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::state::{Op, reduce};

    #[test]
    fn entries_stand_until_they_are_taken_out_or_their_time_is_over() {
        let mut bytes: Option<ByteBuf> = None;
        let mut apply = |op: &Op, now| {
            let reduced = reduce(op, bytes.as_deref().map(Vec::as_slice), now);
            bytes = (!reduced.new.is_empty()).then_some(reduced.new);
            match reduced.outcome {
                Outcome::Listed(entries) => entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>(),
                _ => Vec::new(),
            }
        };
        let entry = |id: &str, until_ms| Op::Enlist(Entry { id: id.into(), until_ms, note: String::new() });
        for (id, until_ms) in [("a", 10), ("b", 20), ("a", 30), ("c", 30)] {
            apply(&entry(id, until_ms), 1);
        }
        assert_eq!(apply(&Op::List, 2), ["b", "a", "c"]);
        apply(&Op::Delist { id: "a".into() }, 3);
        assert_eq!(apply(&Op::List, 20), ["c"]);
        assert_eq!(apply(&Op::List, 30), [""; 0]);
        for number in 0..MOST + 3 {
            apply(&entry(&number.to_string(), 99), 40);
        }
        assert_eq!(apply(&Op::List, 41).len(), MOST);
    }
}
