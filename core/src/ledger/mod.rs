//! The audit ledger's chain: what one line is, and how it holds on to the line before.
//!
//! Each line carries the SHA-256 of the one before and its own, so that a line cannot be changed,
//! taken out or moved without every later line showing it. The rule is here and nowhere else: a
//! host keeps lines and the newest [`Head`], and knows neither what is in them nor how they are
//! hashed.
//!
//! There is no key in the chain. Who can write all of a ledger can write another one that is
//! sound, and who cuts off its end leaves a sound beginning. What shows both is a head that has
//! gone elsewhere before: hosts write theirs to the log, and [`Verifier::expect`] takes it.

mod records;
mod verify;

use core::fmt;

use sha2::{Digest, Sha256};

pub use records::{began, lost, retained};
pub use verify::{Fault, Finding, Report, Verifier};

use crate::policy::auth::hex;

/// Precedes what is hashed, so that no hash of something else is one of a line.
const DOMAIN: &[u8] = b"minigate audit 1\n";
/// The letters of a SHA-256 in hexadecimal.
const HASH_LETTERS: usize = 64;

/// The newest line: its number and its hash.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Lines are counted from 1. 0 is before the first.
    pub sequence: u64,
    /// The line's hash; zeros before the first.
    pub hash: [u8; 32],
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.sequence, hex(&self.hash))
    }
}

impl Head {
    /// What [`Display`](fmt::Display) writes: `SEQUENCE:HASH`.
    pub fn parse(text: &str) -> Option<Self> {
        let (sequence, hash) = text.split_once(':')?;
        Some(Self { sequence: number(sequence)?, hash: unhex(hash)? })
    }

    /// The head of a ledger whose newest line this is.
    pub fn of(line: &str) -> Option<Self> {
        let Line { sequence, hash, .. } = Line::parse(line)?;
        Some(Self { sequence, hash })
    }

    /// The line for the next record, without a line feed, and the head that it makes. The record
    /// is a JSON object without a line feed.
    #[must_use]
    pub fn link(&self, record: &str) -> (String, Self) {
        let sequence = self.sequence + 1;
        let hash = chain(&self.hash, sequence, record);
        let line = format!(
            r#"{{"seq":{sequence},"prev":"{}","hash":"{}","record":{record}}}"#,
            hex(&self.hash),
            hex(&hash)
        );
        (line, Self { sequence, hash })
    }
}

/// The hash of a line: SHA-256 over a mark of its purpose, the hash before, the number and the
/// length of the record as eight bytes each (little-endian), and the record.
fn chain(previous: &[u8; 32], sequence: u64, record: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(DOMAIN);
    hash.update(previous);
    hash.update(sequence.to_le_bytes());
    hash.update((record.len() as u64).to_le_bytes());
    hash.update(record.as_bytes());
    hash.finalize().into()
}

/// A line, taken apart.
#[derive(Clone, Copy, Debug)]
struct Line<'l> {
    sequence: u64,
    previous: [u8; 32],
    hash: [u8; 32],
    record: &'l str,
}

impl<'l> Line<'l> {
    /// Only what [`Head::link`] could have written is a line: not one letter of it is free.
    fn parse(line: &'l str) -> Option<Self> {
        let (sequence, rest) = line.strip_prefix(r#"{"seq":"#)?.split_once(r#","prev":""#)?;
        let (previous, rest) = rest.split_at_checked(HASH_LETTERS)?;
        let (hash, rest) = rest.strip_prefix(r#"","hash":""#)?.split_at_checked(HASH_LETTERS)?;
        let record = rest.strip_prefix(r#"","record":"#)?.strip_suffix('}')?;
        Some(Self { sequence: number(sequence)?, previous: unhex(previous)?, hash: unhex(hash)?, record })
    }

    /// Whether its own hash is right.
    fn is_whole(&self) -> bool {
        chain(&self.previous, self.sequence, self.record) == self.hash
    }
}

/// The record in a line, a JSON object.
pub fn record(line: &str) -> Option<&str> {
    Line::parse(line).map(|line| line.record)
}

/// A number as a line writes it, and in no other way.
fn number(text: &str) -> Option<u64> {
    let number = text.parse::<u64>().ok()?;
    (number.to_string() == text).then_some(number)
}

/// Lower-case hexadecimal of 32 bytes.
fn unhex(text: &str) -> Option<[u8; 32]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut out = [0; 32];
    let pairs = text.as_bytes();
    if pairs.len() != HASH_LETTERS {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(pairs.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(all(test, not(target_arch = "wasm32")))]
mod tests;
