//! Which configurations were taken, one after another: the newest one counts on every host.
//!
//! One cell says who took which and when. The texts lie beside it, under the
//! [key](text_key) of their version. What a configuration says is nothing to this file.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};

/// The cell's key.
pub const KEY: &str = "configuration";
/// Who took a configuration that a host read from its file.
pub const FILE: &str = "file";
/// How many are remembered; the oldest goes first. The last one that came out of a file stays besides
/// them: without it the same file would count as newer than all of them at the next start.
pub const MOST: usize = 20;
/// How long they matter, in milliseconds: ten years, which is for ever.
pub const KEEP_MS: u64 = 10 * 366 * 24 * 3_600_000;

/// The key of a version's text, before the number of the piece.
pub fn text_key(version: &str) -> String {
    format!("{KEY}:{version}")
}

/// A configuration that was taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Edition {
    /// Counts them, from the moment of the first one in milliseconds since 1970: a host that goes on while
    /// the store loses what it had must find the next number to be larger than the one that it knows.
    /// The same version may be taken again, and has another number then.
    pub number: u64,
    /// Its version: what [`Catalog::version`](crate::policy::catalog::Catalog::version) is.
    pub version: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who: what stands for an operator, or [`FILE`].
    pub by: String,
    /// Why, in the operator's words.
    pub note: String,
    /// The length of its text as it is kept, in bytes.
    pub bytes: u64,
}

/// A configuration is taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// Its version.
    pub version: String,
    /// Who.
    pub by: String,
    /// Why.
    pub note: String,
    /// The length of its text.
    pub bytes: u64,
    /// It is what a host finds in its file when it starts: it counts only if the last one that came
    /// out of a file was another. Otherwise what was taken since would be lost with each restart.
    pub begins: bool,
}

fn read(old: Option<&[u8]>) -> Vec<Edition> {
    old.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default()
}

/// Takes one, unless it is there already.
pub(super) fn adopt(adopt: &Adopt, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut editions = read(old);
    let last_file = editions.iter().rev().find(|edition| edition.by == FILE);
    let known = adopt.begins && last_file.is_some_and(|last| last.version == adopt.version);
    // Said twice, because the first answer got lost, it is one. But when a file comes to say what an
    // operator has taken, that is news: it is what the file says from now on.
    let is_there = editions
        .last()
        .is_some_and(|newest| newest.version == adopt.version && (adopt.by != FILE || newest.by == FILE));
    let mut forgotten = Vec::new();
    if !known && !is_there {
        editions.push(Edition {
            number: editions.last().map_or(now, |newest| newest.number + 1),
            version: adopt.version.clone(),
            at_ms: now,
            by: adopt.by.clone(),
            note: adopt.note.clone(),
            bytes: adopt.bytes,
        });
        if editions.len() > MOST {
            forgotten = editions.drain(..editions.len() - MOST).collect();
            let is_file = |edition: &Edition| edition.by == FILE;
            if !editions.iter().any(is_file)
                && let Some(last_file) = forgotten.iter().rposition(is_file)
            {
                editions.insert(0, forgotten.remove(last_file));
            }
            forgotten.retain(|old| editions.iter().all(|edition| edition.version != old.version));
        }
    }
    Reduced::new(encode(&editions), KEEP_MS, Outcome::Editions { editions, forgotten })
}

/// All of them, the oldest first.
pub(super) fn editions(old: Option<&[u8]>) -> Reduced {
    let editions = read(old);
    let bytes = if editions.is_empty() { Vec::new() } else { encode(&editions) };
    Reduced::new(bytes, KEEP_MS, Outcome::Editions { editions, forgotten: Vec::new() })
}

#[cfg(test)]
mod tests {
    use serde_bytes::ByteBuf;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::state::{Op, reduce};

    /// The versions after it, and those that are forgotten.
    fn take(
        bytes: &mut Option<ByteBuf>,
        version: &str,
        by: &str,
        begins: bool,
    ) -> (Vec<String>, Vec<String>) {
        let adopt = Adopt { version: version.into(), by: by.into(), note: String::new(), bytes: 3, begins };
        let reduced = reduce(&Op::Adopt(adopt), bytes.as_deref().map(Vec::as_slice), 7);
        *bytes = Some(reduced.new);
        let Outcome::Editions { editions, forgotten } = reduced.outcome else { panic!("editions") };
        let versions = |all: Vec<Edition>| all.into_iter().map(|edition| edition.version).collect();
        (versions(editions), versions(forgotten))
    }

    #[test]
    fn the_newest_counts_and_a_file_that_was_taken_before_a_restart_is_not_new() {
        let mut cell = None;
        assert_eq!(take(&mut cell, "a", FILE, true).0, ["a"]);
        assert_eq!(take(&mut cell, "b", "adm_1", false).0, ["a", "b"]);
        assert_eq!(take(&mut cell, "b", "adm_1", false).0, ["a", "b"], "said twice");
        assert_eq!(take(&mut cell, "a", FILE, true).0, ["a", "b"], "the same file at a restart");
        assert_eq!(take(&mut cell, "a", FILE, false).0, ["a", "b", "a"], "somebody asked for it");
        assert_eq!(take(&mut cell, "c", FILE, true).0, ["a", "b", "a", "c"], "another file at a restart");
    }

    #[test]
    fn what_a_file_says_is_known_also_when_an_operator_had_taken_it_before() {
        let mut cell = None;
        take(&mut cell, "a", FILE, true);
        take(&mut cell, "b", "adm_1", false);
        assert_eq!(take(&mut cell, "b", FILE, false).0, ["a", "b", "b"], "the file has become the same");
        assert_eq!(take(&mut cell, "b", FILE, false).0, ["a", "b", "b"], "said twice");
        assert_eq!(take(&mut cell, "b", "adm_1", false).0, ["a", "b", "b"], "it is in use");
        assert_eq!(take(&mut cell, "a", "adm_1", false).0, ["a", "b", "b", "a"], "the way back");
        assert_eq!(take(&mut cell, "b", FILE, true).0, ["a", "b", "b", "a"], "a restart changes nothing");
    }

    #[test]
    fn many_that_operators_took_do_not_make_an_old_file_new() {
        let mut cell = None;
        take(&mut cell, "a", FILE, true);
        for number in 1..=25 {
            let (editions, forgotten) = take(&mut cell, &number.to_string(), "adm_1", false);
            assert_eq!((editions[0].as_str(), forgotten.contains(&"a".to_owned())), ("a", false));
        }
        let (editions, _) = take(&mut cell, "a", FILE, true);
        assert_eq!((editions.len(), editions.last().map(String::as_str)), (MOST + 1, Some("25")));
        // Another file takes its place.
        let (editions, forgotten) = take(&mut cell, "b", FILE, true);
        assert_eq!((editions.len(), forgotten), (MOST, vec!["a".to_owned(), "6".to_owned()]));
    }

    #[test]
    fn after_the_store_was_lost_numbers_go_on() {
        let adopt = |version: &str| {
            Op::Adopt(Adopt {
                version: version.into(),
                by: "adm_1".into(),
                note: String::new(),
                bytes: 3,
                begins: false,
            })
        };
        let last = |old: Option<&[u8]>, version: &str, now: u64| {
            let reduced = reduce(&adopt(version), old, now);
            let Outcome::Editions { editions, .. } = reduced.outcome else { panic!("editions") };
            (reduced.new, editions.last().map_or(0, |last| last.number))
        };
        let (cell, first) = last(None, "a", 1_000);
        let (_, second) = last(Some(cell.as_slice()), "b", 5_000);
        let (_, anew) = last(None, "c", 9_000);
        assert_eq!((first, second, anew), (1_000, 1_001, 9_000));
    }

    #[test]
    fn what_is_forgotten_is_nowhere_in_the_list() {
        let mut cell = None;
        take(&mut cell, "stays", "adm_1", false);
        for number in 1..MOST {
            assert_eq!(take(&mut cell, &number.to_string(), "adm_1", false).1, [""; 0]);
        }
        assert_eq!(take(&mut cell, "stays", "adm_1", false).1, [""; 0], "its newer one is there");
        let (editions, forgotten) = take(&mut cell, "last", "adm_1", false);
        assert_eq!((editions.len(), forgotten), (MOST, vec!["1".to_owned()]));
        let Outcome::Editions { editions, .. } =
            reduce(&Op::Editions, cell.as_deref().map(Vec::as_slice), 9).outcome
        else {
            panic!("editions")
        };
        assert_eq!(
            editions.last().map(|last| last.number),
            Some(7 + MOST as u64 + 1),
            "the first one came at 7"
        );
    }
}
