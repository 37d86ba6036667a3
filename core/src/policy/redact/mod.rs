//! What looks like a person's number, address or key is taken out of a text, in a stream too.
//!
//! A text is read once, from left to right. At each place where something could begin, the
//! matchers look ahead, at most [`HOLD`] bytes, and back, at most [`PAST`] bytes; what they
//! decide depends on nothing else. So a text gives the same whether it comes whole or in
//! pieces, and a stream is held back only while what may be a secret is not decided. A secret
//! that is longer than that is swallowed to its end, not collected: memory is constant.
//!
//! Nothing is kept but the undecided text; nothing of what was found is said but how often.
//!
//! A label is the same word in both languages, short and plain ASCII: it stands in logs, in
//! JSON and in Markdown, a client can look for it, and the answer's language need not be known.

mod email;
mod number;
mod pattern;
mod secret;
#[cfg(test)]
mod tests;

use core::fmt;
use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use pattern::{Custom, LONGEST as LONGEST_PATTERN, PatternError};
use secret::Swallow;

/// The most that is held back, in bytes: an e-mail address of 254 characters, whose at sign
/// may be full-width, or a pattern's 64 characters of up to four bytes, and the one after it.
pub const HOLD: usize = 264;

/// How far a matcher looks back, in bytes: `身份证号码是：`, `"client_secret": "`.
const PAST: usize = 32;

/// What is looked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// Mobile numbers of the mainland.
    pub mobile: bool,
    /// Numbers of resident identity cards.
    pub id_card: bool,
    /// Numbers of bank cards.
    pub bank_card: bool,
    /// E-mail addresses.
    pub email: bool,
    /// Keys, tokens, passwords, private keys.
    pub secret: bool,
    /// The operator's own patterns. They come first.
    pub custom: Vec<Custom>,
}

impl Rules {
    /// Everything that is built in.
    pub fn all() -> Self {
        Self { mobile: true, id_card: true, bank_card: true, email: true, secret: true, custom: Vec::new() }
    }

    /// Whether nothing is looked for.
    pub fn is_empty(&self) -> bool {
        !(self.mobile || self.id_card || self.bank_card || self.email || self.secret)
            && self.custom.is_empty()
    }

    /// Whether digits are of interest.
    fn numbers(&self) -> bool {
        self.mobile || self.id_card || self.bank_card
    }
}

/// A whole text without what the rules name: the same as any way of pushing it in pieces.
pub fn redact<'t>(rules: &Rules, text: &'t str) -> Cow<'t, str> {
    let mut redactor = Redactor::default();
    let mut out = String::new();
    let rest = redactor.scan(rules, text, 0, true, &mut out);
    if redactor.found == 0 {
        return Cow::Borrowed(text);
    }
    out.push_str(&text[rest.unsaid..]);
    Cow::Owned(out)
}

/// Takes secrets out of a text that comes in pieces. Never more than [`HOLD`] bytes of it are
/// undecided; beside them it keeps the few bytes before.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redactor {
    /// The last of what was decided, then what is not.
    text: String,
    /// Where the undecided begins.
    at: usize,
    /// No address begins in so many bytes of the undecided.
    barren: usize,
    /// What is being swallowed.
    swallow: Swallow,
    found: u32,
}

impl fmt::Debug for Redactor {
    /// Without the text: it may be half of a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.text.len() - self.at;
        f.debug_struct("Redactor").field("held", &held).field("found", &self.found).finish_non_exhaustive()
    }
}

impl Redactor {
    /// Takes the next piece and writes what is decided to the end of `out`.
    pub fn push(&mut self, rules: &Rules, text: &str, out: &mut String) {
        if rules.is_empty() {
            self.finish(rules, out);
            out.push_str(text);
            return;
        }
        self.step(rules, text, false, out);
    }

    /// Says that the text is over, and writes what was held back.
    pub fn finish(&mut self, rules: &Rules, out: &mut String) {
        self.step(rules, "", true, out);
        *self = Self { found: self.found, ..Self::default() };
    }

    /// How many secrets were taken out.
    pub fn found(&self) -> u32 {
        self.found
    }

    fn step(&mut self, rules: &Rules, piece: &str, complete: bool, out: &mut String) {
        let mut text = core::mem::take(&mut self.text);
        text.push_str(piece);
        let rest = self.scan(rules, &text, self.at, complete, out);
        out.push_str(&text[rest.unsaid..rest.at]);
        let kept = rest.past.max(text.floor_char_boundary(rest.at.saturating_sub(PAST)));
        self.at = rest.at - kept;
        // A piece may be large: its room is not kept with the few bytes.
        self.text = text[kept..].to_owned();
    }

    /// Goes through a text from `at` until something is undecided. All that is decided, but
    /// for a last part without a secret, is written.
    fn scan(&mut self, rules: &Rules, text: &str, at: usize, complete: bool, out: &mut String) -> Rest {
        let triggers = Triggers::new(rules);
        let mut rest = Rest { at, unsaid: at, past: 0 };
        let mut barren = at + self.barren;
        loop {
            if self.swallow != Swallow::Nothing {
                let (len, then) = self.swallow.swallow(&text[rest.at..], complete);
                rest = Rest::from(rest.at + len);
                self.swallow = then;
                if then != Swallow::Nothing {
                    break;
                }
            }
            rest.at += triggers.quiet(&text.as_bytes()[rest.at..]);
            let ahead = Ahead { text: &text[rest.at..], complete };
            let Some(&byte) = ahead.text.as_bytes().first() else { break };
            let past = &text[rest.past.max(text.floor_char_boundary(rest.at.saturating_sub(PAST)))..rest.at];
            let here = Here { past, ahead, trigger: triggers.0[usize::from(byte)] };
            match here.find(rules, rest.at < barren) {
                Found::Undecided => break,
                Found::Nothing => rest.at += char_len(byte),
                Found::Barren(len) => {
                    barren = rest.at + len;
                    rest.at += 1;
                }
                Found::Secret { len, label, then } => {
                    out.push_str(&text[rest.unsaid..rest.at]);
                    out.push('[');
                    out.push_str(label);
                    out.push(']');
                    self.found = self.found.saturating_add(1);
                    self.swallow = then;
                    rest = Rest::from(rest.at + len);
                }
            }
        }
        self.barren = barren.saturating_sub(rest.at);
        rest
    }
}

/// How far a scan came.
#[derive(Clone, Copy, Debug)]
struct Rest {
    /// The first byte that is not decided.
    at: usize,
    /// The first byte that is not written.
    unsaid: usize,
    /// The first byte that may be looked back at: nothing looks back into a secret.
    past: usize,
}

impl Rest {
    /// After a secret.
    fn from(at: usize) -> Self {
        Self { at, unsaid: at, past: at }
    }
}

/// The bytes at which a matcher wants to look, and which one.
struct Triggers([u8; 256]);

const DIGIT: u8 = 1;
const LETTER: u8 = 2;
const PLUS: u8 = 4;
const DASH: u8 = 8;
/// The first byte of the full-width forms U+FF00 to U+FFFF.
const WIDE: u8 = 16;
const CUSTOM: u8 = 32;

impl Triggers {
    fn new(rules: &Rules) -> Self {
        let mut table = [0; 256];
        let words = rules.email || rules.secret;
        if rules.numbers() || words {
            table[usize::from(b'0')..=usize::from(b'9')].fill(DIGIT);
        }
        if words {
            table[usize::from(b'A')..=usize::from(b'Z')].fill(LETTER);
            table[usize::from(b'a')..=usize::from(b'z')].fill(LETTER);
        }
        if rules.numbers() {
            table[usize::from(b'+')] = PLUS;
            table[0xEF] = WIDE;
        }
        if rules.secret {
            table[usize::from(b'-')] = DASH;
        }
        for custom in &rules.custom {
            custom.first_bytes(|byte| table[usize::from(byte)] |= CUSTOM);
        }
        Self(table)
    }

    /// How many bytes interest nobody.
    fn quiet(&self, bytes: &[u8]) -> usize {
        bytes.iter().position(|byte| self.0[usize::from(*byte)] != 0).unwrap_or(bytes.len())
    }
}

/// A place in the text.
struct Here<'t> {
    past: &'t str,
    ahead: Ahead<'t>,
    trigger: u8,
}

/// The text from a place on.
#[derive(Clone, Copy)]
struct Ahead<'t> {
    text: &'t str,
    /// Nothing will follow.
    complete: bool,
}

impl Ahead<'_> {
    /// What it means that a matcher came to the end of what is known.
    fn end(self) -> Found<'static> {
        if self.complete { Found::Nothing } else { Found::Undecided }
    }
}

/// What a matcher says of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found<'r> {
    /// Not here.
    Nothing,
    /// Not here, and no address in so many bytes from here on.
    Barren(usize),
    /// More of the text will tell. Only where the text is not complete.
    Undecided,
    /// So many bytes are of a secret, and what goes on with it.
    Secret { len: usize, label: &'r str, then: Swallow },
}

impl Found<'_> {
    fn secret(len: usize, label: &str) -> Found<'_> {
        Found::Secret { len, label, then: Swallow::Nothing }
    }
}

impl Here<'_> {
    /// Asks the matchers, in order: the first that says anything is right.
    fn find<'r>(&self, rules: &'r Rules, barren: bool) -> Found<'r> {
        let last = self.past.as_bytes().last().copied().unwrap_or(b' ');
        if self.trigger & CUSTOM != 0 {
            for custom in &rules.custom {
                match custom.at(self.ahead) {
                    Found::Nothing => {}
                    found => return found,
                }
            }
        }
        let mut answer = Found::Nothing;
        if self.trigger & (LETTER | DIGIT) != 0 && !last.is_ascii_alphanumeric() {
            if rules.secret {
                match secret::at(self.past, self.ahead) {
                    Found::Nothing => {}
                    found => return found,
                }
            }
            if rules.email && !barren {
                match email::at(self.ahead) {
                    found @ Found::Barren(_) => answer = found,
                    Found::Nothing => {}
                    found => return found,
                }
            }
        }
        if self.trigger & DASH != 0 {
            match secret::private_key(self.ahead) {
                Found::Nothing => {}
                found => return found,
            }
        }
        if self.trigger & (DIGIT | PLUS | WIDE) != 0 && rules.numbers() {
            match number::at(rules, self.past, self.ahead) {
                Found::Nothing => {}
                found => return found,
            }
        }
        answer
    }
}

/// How long a character is whose first byte that is.
fn char_len(first: u8) -> usize {
    match first {
        0..0x80 => 1,
        0x80..0xE0 => 2,
        0xE0..0xF0 => 3,
        _ => 4,
    }
}
