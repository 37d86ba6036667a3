//! A long answer as several messages, each of which stands by itself.
//!
//! DingTalk says no limit of a message's length; the connectors that are in use cut at 3,800 and
//! 4,000 characters. A cut is at a line's end where there is one, a code block that is cut is closed
//! and opened again, and no character that people see as one is cut in two.

/// The most characters of one message, counted as DingTalk's own SDK for JavaScript counts (UTF-16).
pub(crate) const LONGEST: usize = 3_800;

/// Room for a fence that is opened again and closed.
const LEAST: usize = 128;
/// The longest fence, and the longest word after it, that are repeated.
const LONGEST_FENCE: usize = 16;
const LONGEST_INFO: usize = 32;
/// Room that is kept for a fence's end, with its line feed.
const CLOSING: usize = LONGEST_FENCE + 1;
/// How far back from the limit a better place to cut is looked for, in characters.
const LOOK_BACK: usize = 200;

/// One message: a part of the text between a code block's beginning and end that were put there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Piece<'t> {
    opens: String,
    text: &'t str,
    closes: String,
}

impl Piece<'_> {
    /// What is sent.
    pub(crate) fn render(&self) -> String {
        [&self.opens, self.text, &self.closes].concat()
    }
}

/// Cuts a text into messages of at most `most` characters (at least 128). None is empty; no text
/// gives none.
pub(crate) fn pieces(text: &str, most: usize) -> Vec<Piece<'_>> {
    let mut cutter = Cutter { text, most: most.max(LEAST), ..Cutter::default() };
    for line in text.split_inclusive('\n') {
        cutter.line(line);
    }
    cutter.flush();
    cutter.pieces.retain(|piece| !piece.text.trim().is_empty());
    cutter.pieces
}

#[derive(Default)]
struct Cutter<'t> {
    text: &'t str,
    most: usize,
    /// The part of the text that is in the piece now.
    start: usize,
    end: usize,
    /// Characters of the piece, with what opens it.
    length: usize,
    opens: String,
    /// The code block that is open at the end.
    fence: Option<Fence>,
    pieces: Vec<Piece<'t>>,
}

impl<'t> Cutter<'t> {
    fn line(&mut self, line: &'t str) {
        let mut rest = line;
        loop {
            let room = self.most.saturating_sub(CLOSING + self.length);
            if length(rest) <= room {
                return self.take(rest);
            }
            if self.start < self.end {
                self.flush();
                continue;
            }
            // Longer than a message: it is cut within the line.
            let (part, after) = rest.split_at(cut(rest, room));
            self.take(part);
            self.flush();
            rest = after;
        }
    }

    fn take(&mut self, part: &str) {
        self.end += part.len();
        self.length += length(part);
        let found = Fence::of(part);
        self.fence = match (self.fence.take(), found) {
            (None, found) => found,
            (Some(open), Some(found)) if found.closes(&open) => None,
            (open, _) => open,
        };
    }

    fn flush(&mut self) {
        let text = self.text.get(self.start..self.end).unwrap_or_default();
        if text.is_empty() {
            return;
        }
        let closes = self.fence.as_ref().map(|fence| {
            let feed = if text.ends_with('\n') { "" } else { "\n" };
            format!("{feed}{}", fence.marks)
        });
        let opens = self.fence.as_ref().map(|fence| format!("{}{}\n", fence.marks, fence.info));
        let opened = core::mem::replace(&mut self.opens, opens.unwrap_or_default());
        self.pieces.push(Piece { opens: opened, text, closes: closes.unwrap_or_default() });
        self.start = self.end;
        self.length = length(&self.opens);
    }
}

/// A line that begins or ends a code block (CommonMark 0.31, 4.5).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Fence {
    marks: String,
    /// What stands after the marks, when it is short enough to be repeated.
    info: String,
    /// Nothing stands after them.
    is_bare: bool,
}

impl Fence {
    fn of(line: &str) -> Option<Self> {
        let line = line.trim_end();
        let from = line.trim_start_matches(' ');
        let mark = from.chars().next().filter(|mark| matches!(mark, '`' | '~'))?;
        let info = from.trim_start_matches(mark);
        let marks = from.get(..from.len() - info.len())?;
        let valid = line.len() - from.len() <= 3
            && (3..=LONGEST_FENCE).contains(&marks.len())
            && !(mark == '`' && info.contains('`'));
        let short = if length(info) <= LONGEST_INFO { info } else { "" };
        valid.then(|| Self {
            marks: marks.to_owned(),
            info: short.to_owned(),
            is_bare: info.trim().is_empty(),
        })
    }

    fn closes(&self, open: &Self) -> bool {
        self.is_bare && self.marks.starts_with(open.marks.as_str())
    }
}

/// Whether the last line begins or ends a code block, so that nothing may follow in it.
pub(super) fn ends_in_fence(text: &str) -> bool {
    text.rsplit('\n').next().and_then(Fence::of).is_some()
}

/// Fences of a whole text, by the same definition of a line: whether none is left open.
#[cfg(test)]
pub(super) fn is_balanced(text: &str) -> bool {
    let mut open: Option<Fence> = None;
    for line in text.split_inclusive('\n') {
        let found = Fence::of(line);
        open = match (open, found) {
            (None, found) => found,
            (Some(open), Some(found)) if found.closes(&open) => None,
            (open, _) => open,
        };
    }
    open.is_none()
}

fn length(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

/// Where to cut a text that is longer than `room` characters, in bytes: at a character's boundary and
/// after at least one.
fn cut(text: &str, room: usize) -> usize {
    let mut left = room;
    let limit = text.char_indices().find(|(_, c)| {
        let over = c.len_utf16() > left;
        left = left.saturating_sub(c.len_utf16());
        over
    });
    let limit = limit.map_or(text.len(), |(at, _)| at);
    let before = |at: usize| text.get(..at).and_then(|text| text.chars().next_back());
    let after = |at: usize| text.get(at..).and_then(|text| text.chars().next());
    // Further back than a message's quarter nothing is given up.
    let places = || text[..limit].char_indices().rev().take(LOOK_BACK.min(room / 4)).map(|(at, _)| at);
    let at_end = |at: &usize| before(*at).is_some_and(|c| c.is_whitespace() || "。！？；，.!?;,".contains(c));
    let whole = |at: &usize| !after(*at).is_some_and(joins) && before(*at) != Some('\u{200d}');
    let within = || core::iter::once(limit).chain(places()).filter(|at| *at > 0);
    within().find(|at| at_end(at) && whole(at)).or_else(|| within().find(whole)).unwrap_or(limit)
}

/// Whether a character belongs to the one before it, as people see it: accents, joined and coloured
/// emoji. Not all of Unicode's rules (UAX 29), whose tables are large.
fn joins(c: char) -> bool {
    matches!(c, '\u{300}'..='\u{36f}' | '\u{200d}' | '\u{20d0}'..='\u{20ff}' | '\u{fe00}'..='\u{fe0f}' | '\u{1f3fb}'..='\u{1f3ff}')
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rendered(text: &str, most: usize) -> Vec<String> {
        pieces(text, most).iter().map(Piece::render).collect()
    }

    #[test]
    fn a_short_text_is_one_message_and_no_text_is_none() {
        assert_eq!(rendered("hello\n", LONGEST), ["hello\n"]);
        assert_eq!(rendered("", LONGEST), [""; 0]);
        assert_eq!(rendered(" \n\n", LONGEST), [""; 0]);
    }

    #[test]
    fn a_cut_is_between_lines() {
        let line = format!("{}\n", "a".repeat(49));
        let text = line.repeat(5);
        assert_eq!(rendered(&text, 128), [line.repeat(2), line.repeat(2), line.clone()]);
    }

    #[test]
    fn a_code_block_that_is_cut_is_closed_and_opened_again() {
        let line = format!("{}\n", "x".repeat(39));
        let text = format!("before\n```rust\n{}```\nafter", line.repeat(4));
        let found = rendered(&text, 128);
        assert_eq!(
            found,
            [
                format!("before\n```rust\n{}```", line.repeat(2)),
                format!("```rust\n{}```\nafter", line.repeat(2)),
            ]
        );
        // One that was never closed is.
        assert_eq!(rendered("~~~\ncode", 128), ["~~~\ncode\n~~~"]);
        // A longer fence is not closed by a shorter one.
        let text = format!("````\n```\n{}```\n````\n", line.repeat(3));
        assert!(rendered(&text, 128).iter().all(|piece| piece.starts_with("````\n")));
    }

    #[test]
    fn a_long_line_is_cut_after_a_sentence_or_between_characters() {
        let text = format!("{}。{}", "字".repeat(100), "字".repeat(100));
        assert_eq!(pieces(&text, 128)[0].text, format!("{}。", "字".repeat(100)));
        let family = "👨‍👩‍👧";
        for piece in pieces(&family.repeat(60), 128) {
            assert!(piece.text.starts_with('👨') && piece.text.ends_with('👧'), "{piece:?}");
        }
        let accents = format!("{}e\u{301}", "e\u{301}".repeat(400));
        assert!(pieces(&accents, 128).iter().all(|piece| piece.text.starts_with('e')));
    }

    #[test]
    fn a_fence_is_what_commonmark_says() {
        let of = |line: &str| Fence::of(line).map(|fence| (fence.marks, fence.info));
        let pair = |marks: &str, info: &str| Some((marks.to_owned(), info.to_owned()));
        assert_eq!(of("```\n"), pair("```", ""));
        assert_eq!(of("   ~~~~ sh\r\n"), pair("~~~~", " sh"));
        assert_eq!(of(&format!("```{}", "x".repeat(40))), pair("```", ""));
        for none in ["", "``", "    ```", "a```", "```a`b", &"`".repeat(17)] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn together_they_are_the_text_and_each_stands_by_itself(
            lines in proptest::collection::vec(
                proptest::prop_oneof![
                    2 => "[`~]{0,5}[a-z ]{0,4}",
                    2 => "[a-z字。，👨‍👩\u{301} `~]{0,200}",
                    1 => "\\PC{0,60}",
                ],
                0..30,
            ),
            most in 0_usize..400,
        ) {
            let text = lines.join("\n");
            let pieces = pieces(&text, most);
            let visible = |text: &str| text.chars().filter(|c| !c.is_whitespace()).collect::<String>();
            let all: String = pieces.iter().map(|piece| piece.text).collect();
            proptest::prop_assert_eq!(visible(&all), visible(&text));
            for piece in &pieces {
                let sent = piece.render();
                proptest::prop_assert!(length(&sent) <= most.max(LEAST), "{:?}", sent);
                proptest::prop_assert!(is_balanced(&sent) && !sent.trim().is_empty(), "{:?}", sent);
            }
        }
    }
}
