//! A request's JSON with its long base64 runs left out, so that parsing costs what
//! the rest of it costs.
//!
//! A run that is left out becomes one placeholder character inside its string. Raw ranges
//! of the short text are mapped back to ranges of the body, and it is those that are sent
//! on. The placeholder fits no field that is read as text, so nothing can pass for
//! something shorter than it is.

use core::ops::Range;

use crate::base64;

/// Stands for a run that was left out; of the private use area, refused in every field
/// that is read.
pub const PLACEHOLDER: char = '\u{F8FF}';

/// Shorter runs stay: a range costs more than they do.
const LONG: usize = 4096;

/// One run that was left out.
#[derive(Clone, Copy, Debug)]
struct Hole {
    /// Where its placeholder begins in the short text.
    at: usize,
    /// Where it begins in the body.
    start: usize,
    /// How long it is in the body.
    len: usize,
}

/// The short text and the way back.
#[derive(Debug)]
pub struct Elided<'b> {
    body: &'b [u8],
    short: Option<Vec<u8>>,
    holes: Vec<Hole>,
}

impl<'b> Elided<'b> {
    /// Leaves out what is long. One pass over the body.
    #[inline(never)]
    pub fn new(body: &'b [u8]) -> Self {
        if body.len() < 2 * LONG {
            return Self { body, short: None, holes: Vec::new() };
        }
        let mut short = Vec::with_capacity(LONG);
        let (mut holes, mut kept) = (Vec::new(), 0);
        let (mut at, mut inside) = (0, false);
        while at < body.len() {
            if !inside {
                let Some(quote) = memchr::memchr(b'"', &body[at..]) else { break };
                at += quote + 1;
                inside = true;
                continue;
            }
            let run = base64::run_len(&body[at..]);
            if run >= LONG {
                short.extend_from_slice(&body[kept..at]);
                holes.push(Hole { at: short.len(), start: at, len: run });
                short.extend_from_slice(PLACEHOLDER.encode_utf8(&mut [0; 4]).as_bytes());
                kept = at + run;
            }
            at += run;
            match body.get(at) {
                Some(b'"') => {
                    inside = false;
                    at += 1;
                }
                // An escape stays whole: the hex digits of `\u0041` look like base64.
                Some(b'\\') => at += if body.get(at + 1) == Some(&b'u') { 6 } else { 2 },
                // Of ordinary text, skip to what matters next: base64 is looked for only
                // at a string's start and after `,`, where a data URI has it.
                Some(_) => match memchr::memchr3(b'"', b'\\', b',', &body[at..]) {
                    Some(next) if body[at + next] == b',' => at += next + 1,
                    Some(next) => at += next,
                    None => break,
                },
                None => break,
            }
        }
        if holes.is_empty() {
            return Self { body, short: None, holes };
        }
        short.extend_from_slice(&body[kept..]);
        Self { body, short: Some(short), holes }
    }

    /// The text to parse.
    pub fn text(&self) -> &[u8] {
        self.short.as_deref().unwrap_or(self.body)
    }

    /// The range of the body that a slice of [`Self::text`] stands for.
    pub fn range_of(&self, slice: &str) -> Range<usize> {
        let start = (slice.as_ptr() as usize).wrapping_sub(self.text().as_ptr() as usize);
        debug_assert!(start + slice.len() <= self.text().len(), "a slice of the text");
        self.in_body(start)..self.in_body(start + slice.len())
    }

    /// The range of the body inside the quotes of a raw JSON string.
    pub fn inside(&self, raw: &str) -> Range<usize> {
        let whole = self.range_of(raw);
        whole.start + 1..whole.end.saturating_sub(1)
    }

    /// The bytes of the body in that range.
    pub fn bytes(&self, range: Range<usize>) -> &'b [u8] {
        self.body.get(range).unwrap_or_default()
    }

    /// Where a position of the short text is in the body.
    fn in_body(&self, position: usize) -> usize {
        let before = self.holes.partition_point(|hole| hole.at < position);
        match before.checked_sub(1).map(|last| &self.holes[last]) {
            Some(hole) => hole.start + hole.len + (position - hole.at - PLACEHOLDER.len_utf8()),
            None => position,
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Doc<'a> {
        #[serde(borrow)]
        a: &'a serde_json::value::RawValue,
        #[serde(borrow)]
        b: &'a serde_json::value::RawValue,
    }

    fn round_trip(a: &str, b: &str) {
        let body = format!(r#"{{"a": {a}, "z": "x,\"y", "b":{b}}}"#);
        let elided = Elided::new(body.as_bytes());
        let doc: Doc<'_> = serde_json::from_slice(elided.text()).expect("json");
        assert_eq!(elided.bytes(elided.range_of(doc.a.get())), a.as_bytes());
        assert_eq!(elided.bytes(elided.range_of(doc.b.get())), b.as_bytes());
    }

    #[test]
    fn ranges_lead_back_to_the_body() {
        let long = "A".repeat(9000);
        round_trip(&format!("\"{long}==\""), "\"text\"");
        round_trip("\"text\"", &format!("\"data:image/png;base64,{long}\""));
        round_trip(&format!("\"{long}\""), &format!("\"{long}\""));
        round_trip(&format!("\"{}\"", "长文本".repeat(4000)), &format!("\"\\\"{long}\""));
    }

    #[test]
    fn a_picture_is_left_out() {
        let body = format!(r#"{{"a":"{}","b":1}}"#, "A".repeat(1_000_000));
        assert!(Elided::new(body.as_bytes()).text().len() < 100);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        /// Any text, any strings: what parses without it parses with it, to the same ranges.
        #[test]
        fn never_changes_what_a_value_is(
            a in ".{0,40}", b in ".{0,40}", n in 3000usize..9000, m in 0usize..9000,
        ) {
            let quote = |s: String| serde_json::to_string(&s).expect("string");
            round_trip(
                &quote(format!("{}{a}", "Q".repeat(n))),
                &quote(format!("{b},{}{a}", "Q".repeat(m))),
            );
        }

        #[test]
        fn never_panics(body in proptest::collection::vec(proptest::num::u8::ANY, 8192..9000)) {
            let _ = Elided::new(&body).text().len();
        }
    }
}
