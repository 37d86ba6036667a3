//! What outlives a request, as pure reducers.
//!
//! An operation turns the old bytes of one key into new ones. The host provides the
//! bytes, the key's serialisation and the time to live; it knows nothing of what the
//! bytes mean. Nothing here may know a storage engine, and no reducer may fail: bytes
//! that it cannot read count as absent.

mod bucket;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

/// An operation on one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Takes one token from a token bucket.
    TakeToken {
        /// The bucket's size in tokens, at least 1.
        capacity: u32,
        /// Tokens that come back per minute, at least 1.
        per_minute: u32,
    },
    /// Writes a mark, to see whether the store can.
    Probe,
}

impl Op {
    /// Whether the outcome may be given before the change is on disk. A lost token is
    /// worth nothing; a lost mark is the point of asking.
    pub fn is_relaxed(&self) -> bool {
        match self {
            Self::TakeToken { .. } => true,
            Self::Probe => false,
        }
    }
}

/// What an operation says to the exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Of [`Op::TakeToken`].
    Token {
        /// Whether there was one.
        granted: bool,
        /// Whole tokens that are left.
        remaining: u32,
        /// Milliseconds until there is one again.
        retry_after_ms: u64,
        /// Milliseconds until the bucket is full.
        full_after_ms: u64,
    },
    /// Of [`Op::Probe`].
    Written,
}

/// The result of a reducer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reduced {
    /// What to store.
    pub new: ByteBuf,
    /// How long it matters, in milliseconds. After that the key may be forgotten.
    pub ttl_ms: u64,
    /// What to tell the exchange.
    pub outcome: Outcome,
}

/// Applies an operation to what is stored.
pub fn reduce(op: &Op, old: Option<&[u8]>, unix_ms: u64) -> Reduced {
    match *op {
        Op::TakeToken { capacity, per_minute } => bucket::take(capacity, per_minute, old, unix_ms),
        Op::Probe => {
            Reduced { new: ByteBuf::from(unix_ms.to_le_bytes()), ttl_ms: 60_000, outcome: Outcome::Written }
        }
    }
}
