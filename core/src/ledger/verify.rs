//! Reads a ledger from its first line to its last, and says what is wrong with it first.

use core::fmt;

use super::{Head, Line, records::deleted_through};

/// What was found at a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It is not a line of a ledger.
    NotALine,
    /// What it says is not what was hashed.
    Changed,
    /// Its own hash is right, but it was written after another line than the one before it.
    Unlinked,
    /// It is not there, nor those after it up to this one.
    Missing {
        /// The last of them.
        through: u64,
    },
    /// It is there, but not in its place.
    Moved,
    /// It is there twice.
    Repeated,
    /// The ledger ends before this line, which was its newest once.
    CutOff,
    /// It has another hash than it once had: the ledger was written anew.
    Rewritten,
}

/// The first thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line's number; for what is no line, the one that was expected there.
    pub sequence: u64,
    /// What.
    pub finding: Finding,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.sequence;
        match self.finding {
            Finding::NotALine => write!(f, "where line {at} should be is something else"),
            Finding::Changed => write!(f, "line {at} was changed"),
            Finding::Unlinked => write!(
                f,
                "line {at} does not follow the line before it: one of the two was replaced, hash and all"
            ),
            Finding::Missing { through } if through == at => write!(f, "line {at} is missing"),
            Finding::Missing { through } => write!(f, "lines {at} to {through} are missing"),
            Finding::Moved => write!(f, "line {at} is not in its place"),
            Finding::Repeated => write!(f, "line {at} is there twice"),
            Finding::CutOff => write!(f, "the end is missing: line {at} was written and is not there"),
            Finding::Rewritten => write!(f, "line {at} had another hash once: the ledger was written anew"),
        }
    }
}

/// What came of reading a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The first fault.
    pub fault: Option<Fault>,
    /// The lines that were read.
    pub lines: u64,
    /// The number of the first line. More than 1: those before were deleted in order.
    pub first: u64,
    /// The newest line of the sound part.
    pub head: Head,
}

/// Reads line after line. It keeps no line.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    expected: Vec<Head>,
    lines: u64,
    /// The first line's number, and the hash that it was written after.
    first: Option<Head>,
    head: Head,
    /// Lines that were passed over: gone, or further down.
    gap: Option<(u64, u64)>,
    /// Up to where deletions are recorded.
    deleted: Option<Head>,
    /// The first line may be the first: a deletion that is recorded ends right before it.
    fits: bool,
    fault: Option<Fault>,
}

impl Verifier {
    /// A head that the ledger had once, as a log tells it: the line must still be there, unless
    /// it was deleted in order.
    #[must_use]
    pub fn expect(mut self, head: Head) -> Self {
        self.expected.push(head);
        self
    }

    /// The first line may be any: what was before it is not asked about.
    #[must_use]
    pub fn from_anywhere(mut self) -> Self {
        self.fits = true;
        self
    }

    /// The next line, without its line feed.
    pub fn push(&mut self, text: &str) {
        self.lines += 1;
        if self.fault.is_some() {
            return;
        }
        let next = self.head.sequence + 1;
        let Some(line) = Line::parse(text) else {
            // Behind a gap nothing is in its place; the gap is the first fault.
            if self.gap.is_none() {
                self.found(next, Finding::NotALine);
            }
            return;
        };
        if !line.is_whole() && self.gap.is_none() {
            // Its number may be what was changed.
            return self.found(next, Finding::Changed);
        }
        if let Some((from, through)) = self.gap {
            if (from..=through).contains(&line.sequence) {
                self.found(line.sequence, Finding::Moved);
            }
            return;
        }
        let Some(first) = self.first else { return self.begin(&line) };
        if line.sequence < first.sequence {
            return self.found(line.sequence, Finding::Moved);
        }
        if line.sequence < next {
            return self.found(line.sequence, Finding::Repeated);
        }
        if line.sequence > next {
            self.gap = Some((next, line.sequence - 1));
            return;
        }
        if line.previous != self.head.hash {
            return self.found(line.sequence, Finding::Unlinked);
        }
        self.accept(&line);
    }

    /// Nothing more comes.
    #[must_use]
    pub fn finish(mut self) -> Report {
        if let (None, Some((from, through))) = (self.fault, self.gap) {
            self.found(from, Finding::Missing { through });
        }
        let first = self.first.map_or(1, |first| first.sequence);
        let explained = self.fits || self.deleted.is_some_and(|deleted| deleted.sequence >= first);
        if self.fault.is_none() && first > 1 && !explained {
            self.found(1, Finding::Missing { through: first - 1 });
        }
        let cut = self.expected.iter().find(|head| head.sequence > self.head.sequence);
        if let (None, Some(head)) = (self.fault, cut) {
            self.found(head.sequence, Finding::CutOff);
        }
        Report { fault: self.fault, lines: self.lines, first, head: self.head }
    }

    fn begin(&mut self, line: &Line<'_>) {
        self.first = Some(Head { sequence: line.sequence, hash: line.previous });
        if line.sequence == 0 || (line.sequence == 1 && line.previous != [0; 32]) {
            return self.found(line.sequence, Finding::Unlinked);
        }
        self.accept(line);
    }

    fn accept(&mut self, line: &Line<'_>) {
        self.head = Head { sequence: line.sequence, hash: line.hash };
        let known = self.expected.iter().find(|head| head.sequence == line.sequence);
        if known.is_some_and(|head| head.hash != line.hash) {
            return self.found(line.sequence, Finding::Rewritten);
        }
        if let Some(deleted) = deleted_through(line.record) {
            self.fits |= self.first.is_some_and(|first| {
                deleted.sequence.checked_add(1) == Some(first.sequence) && deleted.hash == first.hash
            });
            self.deleted = Some(deleted);
        }
    }

    fn found(&mut self, sequence: u64, finding: Finding) {
        self.fault = Some(Fault { sequence, finding });
    }
}
