//! What people said of their answers: one cell for each person's word about one turn, and one list of
//! the newest words with their counts.
//!
//! A word is [`Rate`]d first: its cell says what was said before, and so everybody who counts it afterwards
//! ([`Note`], and a [rollout](super::rollout)'s `Judge`) takes the older word back. Who may say something of
//! which turn is not known here.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode, rollout::Version};

/// The most words in the list, and its most bytes: a value of a Durable Object may have 128 KiB. The
/// oldest go first; counts stay.
const MOST: usize = 200;
const MOST_BYTES: usize = 100 * 1024;
/// Profiles that are counted; those that come later are not.
const MOST_COUNTS: usize = 128;

/// What somebody thought of an answer. The names are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rating {
    /// Good.
    Up,
    /// Not good.
    Down,
}

/// A person's word about a turn, on a cell of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// The word.
    pub rating: Rating,
    /// How long it is known, in milliseconds.
    pub ttl_ms: u64,
}

/// A word that is to be in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// The word.
    pub said: Said,
    /// What the same person said of the same turn before.
    pub before: Option<Rating>,
}

/// A word in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Said {
    /// The person and the turn: a later word takes the place of this one.
    pub id: String,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Until when it is shown.
    pub until_ms: u64,
    /// The trace.
    pub trace: String,
    /// Who answered.
    pub profile: String,
    /// What that was to a rollout.
    pub version: Option<Version>,
    /// The word.
    pub rating: Rating,
    /// What was said beside it, redacted; empty where nothing may be kept.
    pub comment: String,
}

/// How many words of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Votes {
    /// Good ones.
    pub up: u32,
    /// Others.
    pub down: u32,
}

impl Votes {
    /// Counts a word in the place of the one before it.
    pub(super) fn count(&mut self, rating: Rating, before: Option<Rating>) {
        if let Some(before) = before {
            let count = self.of(before);
            *count = count.saturating_sub(1);
        }
        let count = self.of(rating);
        *count = count.saturating_add(1);
    }

    fn of(&mut self, rating: Rating) -> &mut u32 {
        match rating {
            Rating::Up => &mut self.up,
            Rating::Down => &mut self.down,
        }
    }
}

/// The list, the newest last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opinions {
    /// The words.
    pub said: Vec<Said>,
    /// Profile, what it was to a rollout, and its words since the list began.
    pub counts: Vec<(String, Option<Version>, Votes)>,
}

impl Opinions {
    fn read(old: Option<&[u8]>, now: u64) -> Self {
        let mut all: Self = old.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default();
        all.said.retain(|said| said.until_ms > now);
        all
    }

    fn add(&mut self, note: &Note) {
        let Said { profile, version, rating, .. } = &note.said;
        let known = self.counts.iter().position(|(name, to, _)| name == profile && to == version);
        match known {
            Some(at) => self.counts[at].2.count(*rating, note.before),
            None if self.counts.len() < MOST_COUNTS => {
                let mut votes = Votes::default();
                votes.count(*rating, None);
                self.counts.push((profile.clone(), *version, votes));
            }
            None => {}
        }
        self.said.retain(|said| said.id != note.said.id);
        self.said.push(note.said.clone());
        let size =
            |said: &Said| said.comment.len() + said.trace.len() + said.profile.len() + said.id.len() + 40;
        let mut bytes: usize = self.said.iter().map(size).sum();
        while self.said.len() > MOST || bytes > MOST_BYTES {
            bytes -= size(&self.said.remove(0));
        }
    }
}

/// Keeps a word, and says which one was there.
pub(super) fn rate(rate: &Rate, old: Option<&[u8]>, now: u64) -> Reduced {
    let known = old.and_then(|bytes| postcard::from_bytes::<(Rating, u64)>(bytes).ok());
    let before = known.filter(|(_, until_ms)| *until_ms > now).map(|(rating, _)| rating);
    let until_ms = now.saturating_add(rate.ttl_ms);
    Reduced::new(encode(&(rate.rating, until_ms)), rate.ttl_ms, Outcome::Rated { before })
}

/// How long counts are kept of which nothing new is heard.
const KEPT_MS: u64 = 366 * 86_400_000;

/// Adds a word to the list.
pub(super) fn note(note: &Note, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut all = Opinions::read(old, now);
    all.add(note);
    Reduced::new(encode(&all), KEPT_MS, Outcome::Written)
}

/// Gives the list.
pub(super) fn opinions(old: Option<&[u8]>, now: u64) -> Reduced {
    let all = Opinions::read(old, now);
    Reduced::new(encode(&all), KEPT_MS, Outcome::Opinions(Box::new(all)))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn said(id: &str, rating: Rating, comment: &str) -> Said {
        Said {
            id: id.into(),
            at_ms: 1,
            until_ms: 1_000,
            trace: "t".into(),
            profile: "qa_v2".into(),
            version: Some(Version::Candidate),
            rating,
            comment: comment.into(),
        }
    }

    fn listed(bytes: &[u8], now: u64) -> Opinions {
        match opinions(Some(bytes), now).outcome {
            Outcome::Opinions(all) => *all,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_later_word_takes_the_place_of_the_first() {
        let word = |rating| Rate { rating, ttl_ms: 100 };
        let first = rate(&word(Rating::Down), None, 5);
        assert_eq!(first.outcome, Outcome::Rated { before: None });
        let second = rate(&word(Rating::Up), Some(&first.new), 104);
        assert_eq!(second.outcome, Outcome::Rated { before: Some(Rating::Down) });
        let late = rate(&word(Rating::Up), Some(&second.new), 204);
        assert_eq!(late.outcome, Outcome::Rated { before: None });

        let one = note(&Note { said: said("a", Rating::Down, ""), before: None }, None, 5);
        let two = note(&Note { said: said("b", Rating::Down, ""), before: None }, Some(&one.new), 6);
        let changed = Note { said: said("a", Rating::Up, "!"), before: Some(Rating::Down) };
        let all = listed(&note(&changed, Some(&two.new), 7).new, 8);
        let votes = Votes { up: 1, down: 1 };
        assert_eq!(all.counts, [("qa_v2".to_owned(), Some(Version::Candidate), votes)]);
        let ids: Vec<&str> = all.said.iter().map(|said| said.id.as_str()).collect();
        assert_eq!((ids, all.said[1].comment.as_str()), (vec!["b", "a"], "!"));
    }

    #[test]
    fn the_list_is_bounded_and_forgets_and_the_counts_do_not() {
        let mut bytes = Vec::new();
        for number in 0..MOST + 5 {
            let note = Note { said: said(&number.to_string(), Rating::Up, &"长".repeat(500)), before: None };
            bytes = super::note(&note, Some(&bytes), 5).new.into_vec();
            assert!(bytes.len() < 120 * 1024);
        }
        let all = listed(&bytes, 5);
        assert!((50..=MOST).contains(&all.said.len()), "{}", all.said.len());
        let old = listed(&bytes, 1_000);
        assert_eq!((old.said.len(), old.counts[0].2.up as usize), (0, MOST + 5));
        assert_eq!(listed(&[0xff; 9], 5), Opinions::default());
    }
}
