//! The operator's own patterns, in a small language whose matches have a greatest length.
//!
//! A stream can only be held back for so long, so what may match without end cannot be said:
//!
//! - a character stands for itself; `\` before a sign takes its meaning (`\.`, `\[`, `\\`);
//! - `.` is any character but a line feed; `\d` a digit, `\w` a letter, digit or `_`, both ASCII;
//! - `[a-f\d_]` is one of these, `[^,;]` is none of these;
//! - `?`, `{3}`, `{2,5}` say how often the one before comes; `*`, `+` and `{2,}` are refused,
//!   and so are groups, alternatives and anchors.
//!
//! The longest match wins. Matching takes each character once, for all ways at the same time:
//! no pattern makes it slow. A regex engine would have to be asked again from each place with all
//! that is held, could not say that more text is needed, and adds more to the module than all
//! of this folder.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::{Ahead, Found};

/// The most characters that a pattern can match.
pub const LONGEST: usize = 64;

/// The most characters of a name.
const LONGEST_NAME: usize = 24;

/// A pattern and what stands in the place of its matches.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custom {
    name: String,
    pattern: Pattern,
}

/// A pattern, ready to match. A state is how many of the places have been passed; the last
/// state is a match.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pattern {
    sets: Vec<Set>,
    /// A place for each repetition that there may be.
    places: Vec<Place>,
    /// The states at the start.
    start: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Which characters it takes.
    set: u8,
    /// The states after it: the next, and those behind places that may be left out.
    then: u128,
}

/// Characters: in one of the ranges, or in none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Set {
    ranges: Vec<(char, char)>,
    negated: bool,
}

/// What is wrong with a pattern or its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatternError {
    /// Not 1 to 24 letters, digits, `-` or `_`.
    Name,
    /// It can match nothing at all, so it would match everywhere.
    Empty,
    /// It can match more than [`LONGEST`] characters.
    TooLong,
    /// It has no greatest length because of `*`, `+` or `{n,}`.
    Unbounded,
    /// This sign has a meaning elsewhere and none here: `\` before it makes it plain.
    Sign(char),
    /// `[` without `]`, nothing in it, or a range that goes backwards.
    Class,
    /// A repetition that repeats nothing, or is not `{n}` or `{n,m}`.
    Repeat,
}

impl fmt::Display for PatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => write!(f, "a name has 1 to {LONGEST_NAME} letters, digits, - or _"),
            Self::Empty => write!(f, "the pattern can match an empty text"),
            Self::TooLong => write!(f, "the pattern can match more than {LONGEST} characters"),
            Self::Unbounded => write!(f, "*, + and {{n,}} match without end: use {{n,m}}"),
            Self::Sign(sign) => write!(f, "{sign} is not supported: \\{sign} is the character"),
            Self::Class => write!(f, "[ wants characters or ranges and a ]"),
            Self::Repeat => write!(f, "a repetition is ?, {{n}} or {{n,m}} after one character or class"),
        }
    }
}

impl std::error::Error for PatternError {}

impl Custom {
    /// Reads a pattern; its matches become `[name]`.
    ///
    /// # Errors
    ///
    /// Says what is wrong with the name or the pattern, in particular when its matches have no
    /// greatest length.
    pub fn new(name: &str, pattern: &str) -> Result<Self, PatternError> {
        let is_plain = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'));
        if !is_plain || !(1..=LONGEST_NAME).contains(&name.chars().count()) {
            return Err(PatternError::Name);
        }
        Ok(Self { name: name.into(), pattern: Pattern::read(pattern)? })
    }

    /// What stands in the place of its matches, without the brackets.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it matches here.
    pub(super) fn at(&self, ahead: Ahead<'_>) -> Found<'_> {
        let pattern = &self.pattern;
        let accepted = 1u128 << pattern.places.len();
        let (mut states, mut longest) = (pattern.start, None);
        for (at, c) in ahead.text.char_indices() {
            states = pattern.step(states, c);
            if states & accepted != 0 {
                longest = Some(at + c.len_utf8());
            }
            if states & !accepted == 0 {
                return longest.map_or(Found::Nothing, |len| Found::secret(len, &self.name));
            }
        }
        match longest {
            Some(len) if ahead.complete => Found::secret(len, &self.name),
            _ => ahead.end(),
        }
    }

    /// Gives the bytes that a match can begin with.
    pub(super) fn first_bytes(&self, mut give: impl FnMut(u8)) {
        for place in self.pattern.in_states(self.pattern.start) {
            let set = &self.pattern.sets[usize::from(place.set)];
            if set.negated {
                // All but the bytes inside of a character.
                (0..0x80).chain(0xC2..0xF5).for_each(&mut give);
            }
            for (from, to) in &set.ranges {
                let first = |c: &char| c.encode_utf8(&mut [0; 4]).as_bytes()[0];
                (first(from)..=first(to)).filter(|byte| !(0x80..0xC2).contains(byte)).for_each(&mut give);
            }
        }
    }
}

impl Pattern {
    fn read(text: &str) -> Result<Self, PatternError> {
        let (mut sets, mut items) = (Vec::new(), Vec::new());
        let mut total = 0;
        let mut rest = text.chars();
        while let Some(first) = rest.next() {
            sets.push(read_set(first, &mut rest)?);
            let (least, most) = read_repeat(&mut rest)?;
            total += most;
            if total > LONGEST {
                return Err(PatternError::TooLong);
            }
            items.push((least, most));
        }
        let mut places = Vec::with_capacity(total);
        // From the last place back, as each says what may come after it.
        let mut from_here = 1u128 << total;
        let mut state = total;
        for (set, (least, most)) in items.iter().enumerate().rev() {
            let behind = from_here;
            for repetition in (0..*most).rev() {
                places.push(Place { set: set as u8, then: from_here });
                state -= 1;
                from_here = 1 << state;
                if repetition >= *least {
                    from_here |= behind;
                }
            }
        }
        places.reverse();
        if from_here & (1 << total) != 0 {
            return Err(PatternError::Empty);
        }
        Ok(Self { sets, places, start: from_here })
    }

    /// The states after a character.
    fn step(&self, states: u128, c: char) -> u128 {
        self.in_states(states)
            .filter(|place| self.sets[usize::from(place.set)].has(c))
            .fold(0, |next, place| next | place.then)
    }

    /// The places that are next in any of these states.
    fn in_states(&self, mut states: u128) -> impl Iterator<Item = &Place> {
        core::iter::from_fn(move || {
            let state = states.trailing_zeros() as usize;
            states &= states.wrapping_sub(1);
            self.places.get(state)
        })
    }
}

impl Set {
    fn has(&self, c: char) -> bool {
        self.ranges.iter().any(|(from, to)| (*from..=*to).contains(&c)) != self.negated
    }
}

fn read_set(first: char, rest: &mut core::str::Chars<'_>) -> Result<Set, PatternError> {
    let mut set = Set::default();
    match first {
        '[' => return read_class(rest),
        '.' => {
            set.ranges.push(('\n', '\n'));
            set.negated = true;
        }
        '\\' => set.ranges = read_escape(rest)?,
        '*' | '+' => return Err(PatternError::Unbounded),
        '?' | '{' => return Err(PatternError::Repeat),
        '(' | ')' | '|' | '^' | '$' | ']' | '}' => return Err(PatternError::Sign(first)),
        plain => set.ranges.push((plain, plain)),
    }
    Ok(set)
}

/// What is behind a backslash.
fn read_escape(rest: &mut core::str::Chars<'_>) -> Result<Vec<(char, char)>, PatternError> {
    match rest.next() {
        Some('d') => Ok(vec![('0', '9')]),
        Some('w') => Ok(vec![('0', '9'), ('A', 'Z'), ('_', '_'), ('a', 'z')]),
        Some(sign) if !sign.is_alphanumeric() => Ok(vec![(sign, sign)]),
        other => Err(PatternError::Sign(other.unwrap_or('\\'))),
    }
}

/// What is behind a `[`, up to its `]`.
fn read_class(rest: &mut core::str::Chars<'_>) -> Result<Set, PatternError> {
    let mut set = Set::default();
    if let Some(after) = rest.as_str().strip_prefix('^') {
        set.negated = true;
        *rest = after.chars();
    }
    loop {
        let from = match rest.next().ok_or(PatternError::Class)? {
            ']' => break,
            '\\' => match read_escape(rest)?[..] {
                [(sign, same)] if sign == same => sign,
                ref ranges => {
                    set.ranges.extend(ranges);
                    continue;
                }
            },
            plain => plain,
        };
        let to = match rest.as_str().strip_prefix('-') {
            // A `-` at the end is itself.
            Some(after) if !after.starts_with(']') => {
                *rest = after.chars();
                match rest.next().ok_or(PatternError::Class)? {
                    '\\' => match read_escape(rest)?[..] {
                        [(sign, same)] if sign == same => sign,
                        _ => return Err(PatternError::Class),
                    },
                    plain => plain,
                }
            }
            _ => from,
        };
        if to < from {
            return Err(PatternError::Class);
        }
        set.ranges.push((from, to));
    }
    if set.ranges.is_empty() { Err(PatternError::Class) } else { Ok(set) }
}

/// How often: at least and at most.
fn read_repeat(rest: &mut core::str::Chars<'_>) -> Result<(usize, usize), PatternError> {
    let text = rest.as_str();
    if text.starts_with(['*', '+']) {
        return Err(PatternError::Unbounded);
    }
    if let Some(after) = text.strip_prefix('?') {
        *rest = after.chars();
        return Ok((0, 1));
    }
    let Some(inner) = text.strip_prefix('{') else { return Ok((1, 1)) };
    let (inner, after) = inner.split_once('}').ok_or(PatternError::Repeat)?;
    *rest = after.chars();
    let number = |digits: &str| digits.parse::<usize>().map_err(|_| PatternError::Repeat);
    let (least, most) = match inner.split_once(',') {
        None => (number(inner)?, number(inner)?),
        Some((_, "")) => return Err(PatternError::Unbounded),
        Some((least, most)) => (number(least)?, number(most)?),
    };
    match (least <= most && most > 0, most > LONGEST) {
        (false, _) => Err(PatternError::Repeat),
        (_, true) => Err(PatternError::TooLong),
        _ => Ok((least, most)),
    }
}
