//! The JSON value in a model's answer: bare, in a fence, or among chatter.
//!
//! What is found is a range of the answer, so that what is sent on is what the model wrote.
//! Nothing is repaired: a value that does not parse is not one, and neither are the parts of it.
//!
//! Which one, when there are several: one that has a fence to itself before one in the text,
//! an object before a list (`[1]` is a reference more often than an answer), and then the last,
//! since models think first and answer last.
//!
//! The work is linear in the answer whatever is in it: an attempt to parse goes on where the
//! last one ended, never inside of what it has read.

use core::ops::Range;

use serde_json::{Value, error::Category};

/// Longer answers hold no value: a parsed one takes some 20 times the memory of its text. Models
/// end their answers long before.
const LONGEST: usize = 1 << 20;

/// The longest line that opens a fence, in bytes.
const FENCE_LINE: usize = 64;

/// Where in `answer` its JSON value is. `None` when there is none, or when the last one is cut off.
/// What is found parses as JSON, with at most 127 levels (`serde_json`'s limit).
pub fn json_in(answer: &str) -> Option<Range<usize>> {
    if answer.len() > LONGEST {
        return None;
    }
    let text = answer.trim_start_matches('\u{FEFF}').trim();
    if serde_json::from_str::<Value>(text).is_ok() {
        let start = text.as_ptr() as usize - answer.as_ptr() as usize;
        return Some(start..start + text.len());
    }
    Search::new(answer).run()
}

/// One search through an answer that is more than a value.
struct Search<'a> {
    answer: &'a str,
    /// What was found so far that ranks highest.
    best: Option<(Rank, Range<usize>)>,
    /// Whether a bracket without its end was seen: then no further end is looked for.
    unbalanced: bool,
    /// Bytes looked at, for the test that the work is linear.
    looked_at: usize,
}

/// In a fence of its own; an object. Compared in this order.
type Rank = (bool, bool);

/// What an attempt to parse found out.
enum Attempt {
    /// A value, which ends there.
    Value(usize),
    /// None: what follows the bracket is not even the beginning of a list or an object.
    Chatter,
    /// None: it began like one, and stopped being one there.
    Broken(usize),
    /// None: the answer ended before it.
    CutOff,
}

impl<'a> Search<'a> {
    fn new(answer: &'a str) -> Self {
        Self { answer, best: None, unbalanced: false, looked_at: 0 }
    }

    fn run(&mut self) -> Option<Range<usize>> {
        let bytes = self.answer.as_bytes();
        let mut at = 0;
        while let Some(found) = memchr::memchr2(b'{', b'[', &bytes[at..]) {
            let start = at + found;
            let object = bytes[start] == b'{';
            at = match self.attempt(start) {
                Attempt::Value(end) => {
                    self.offer((self.is_fenced(&(start..end)), object), start..end);
                    end
                }
                Attempt::Chatter => start + 1,
                Attempt::CutOff => return self.fenced(),
                // The parts of a broken value are not the answer: they are passed over with it.
                Attempt::Broken(stopped) => match self.end_of_broken(start) {
                    Some(end) => end.max(stopped),
                    None if object => return self.fenced(),
                    // `[1, 5)` is an interval.
                    None => stopped,
                },
            };
        }
        self.best.take().map(|(_, range)| range)
    }

    /// Keeps what ranks highest; of equals the last.
    fn offer(&mut self, rank: Rank, range: Range<usize>) {
        if self.best.as_ref().is_none_or(|(best, _)| rank >= *best) {
            self.best = Some((rank, range));
        }
    }

    /// What stays valid when the text ends in the middle of a value: one in a fence.
    fn fenced(&mut self) -> Option<Range<usize>> {
        self.best.take().filter(|((fenced, _), _)| *fenced).map(|(_, range)| range)
    }

    /// Tries to parse the value that begins with the bracket at `start`.
    fn attempt(&mut self, start: usize) -> Attempt {
        let rest = &self.answer[start..];
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let attempt = match values.next() {
            Some(Ok(_)) => Attempt::Value(start + values.byte_offset()),
            Some(Err(error)) if error.classify() == Category::Eof => Attempt::CutOff,
            Some(Err(error)) => {
                let stopped = offset(rest, error.line(), error.column());
                // The error is reported behind the character that is wrong.
                let valid = rest.as_bytes().get(1..stopped.saturating_sub(1)).unwrap_or_default();
                let is_json = valid.iter().any(|byte| b"\",[{".contains(byte));
                if is_json { Attempt::Broken(start + stopped) } else { Attempt::Chatter }
            }
            None => Attempt::Chatter,
        };
        self.looked_at += match attempt {
            Attempt::Value(end) | Attempt::Broken(end) => end - start,
            Attempt::Chatter => 2,
            Attempt::CutOff => rest.len(),
        };
        attempt
    }

    /// Where the brackets of the broken value at `start` are closed again, strings left out.
    fn end_of_broken(&mut self, start: usize) -> Option<usize> {
        if self.unbalanced {
            return None;
        }
        let (mut depth, mut inside, mut escaped) = (0_usize, false, false);
        for (at, byte) in self.answer.bytes().enumerate().skip(start) {
            self.looked_at += 1;
            match byte {
                _ if escaped => escaped = false,
                b'\\' if inside => escaped = true,
                // A JSON string ends before its line does.
                b'"' | b'\n' => inside = byte == b'"' && !inside,
                b'{' | b'[' if !inside => depth += 1,
                b'}' | b']' if !inside => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(at + 1);
            }
        }
        self.unbalanced = true;
        None
    }

    /// Whether there is a fence's line right before the range and right behind it.
    fn is_fenced(&self, range: &Range<usize>) -> bool {
        let bytes = self.answer.as_bytes();
        let before = bytes[..range.start].trim_ascii_end();
        // A line's begin is looked for no further back than a fence and a language's name reach.
        let near = &before[before.len().saturating_sub(FENCE_LINE)..];
        let line = match memchr::memrchr(b'\n', near) {
            Some(end) => &near[end + 1..],
            None if near.len() == before.len() => near,
            None => return false,
        };
        let is_fence = |text: &[u8]| text.starts_with(b"```") || text.starts_with(b"~~~");
        is_fence(line.trim_ascii_start()) && is_fence(bytes[range.end..].trim_ascii_start())
    }
}

/// The offset of a line (from 1) and a column (in bytes) as `serde_json` reports them.
fn offset(text: &str, line: usize, column: usize) -> usize {
    let ends = memchr::memchr_iter(b'\n', text.as_bytes());
    let begin = line.checked_sub(2).and_then(|nth| ends.into_iter().nth(nth)).map_or(0, |end| end + 1);
    (begin + column).min(text.len())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[track_caller]
    fn finds(answer: &str, expected: Option<&str>) {
        assert_eq!(json_in(answer).map(|range| &answer[range]), expected, "{answer}");
    }

    #[test]
    fn a_value_alone() {
        finds(r#"{"a": 1}"#, Some(r#"{"a": 1}"#));
        finds("\u{FEFF}\n [1, 2]\r\n", Some("[1, 2]"));
        finds("42", Some("42"));
        finds(" \"text\" ", Some("\"text\""));
        finds("", None);
        finds("我不知道", None);
    }

    #[test]
    fn a_value_in_a_fence() {
        finds("```json\n{\"a\": 1}\n```", Some("{\"a\": 1}"));
        finds("结果如下：\n\n```JSON\r\n[1]\r\n```\r\n希望有帮助", Some("[1]"));
        finds("~~~\n{\"a\": {\"b\": []}}\n~~~", Some("{\"a\": {\"b\": []}}"));
        // A fence inside of a string ends nothing.
        finds("```json\n{\"code\": \"```sh\\nls\\n```\"}\n```", Some("{\"code\": \"```sh\\nls\\n```\"}"));
        // What has the fence to itself is meant, whatever is quoted behind it.
        finds("```json\n{\"a\": 1}\n```\n其中 {\"b\": 2} 是例子", Some("{\"a\": 1}"));
        finds("```json\n[1]\n```\n如 {\"b\": 2}", Some("[1]"));
    }

    #[test]
    fn a_value_among_chatter() {
        finds("Sure! {\"a\": 1} Anything else?", Some("{\"a\": 1}"));
        finds("比如 {\"a\": 1}。最后：{\"a\": 2}，见[1]", Some("{\"a\": 2}"));
        finds("the set {x, y} is [1, 2, 3].", Some("[1, 2, 3]"));
        finds("see [the docs {\"a\": \"}\"}](x)", Some("{\"a\": \"}\"}"));
        finds("{\"a\": \"\\\"}{\"} in [1, 5)", Some("{\"a\": \"\\\"}{\"}"));
        finds("模板 {{\"a\": 1}}", Some("{\"a\": 1}"));
    }

    #[test]
    fn nothing_is_repaired_and_no_part_taken_for_the_whole() {
        finds("{\"a\": {\"b\": 1},}", None);
        finds("{\"a\": {\"b\": 1},, \"c\": {\"d\": 2}}", None);
        finds("[{\"a\": 1},]", None);
        finds("{'a': 1}", None);
        finds("{\"a\": 1,} 更正：{\"a\": 2}", Some("{\"a\": 2}"));
        finds("{\"a\": \"\\ud800\"}", None);
    }

    #[test]
    fn what_is_cut_off_is_none() {
        finds("{\"a\": {\"b\": 1}, \"c\": [1, 2", None);
        finds("例子 {\"a\": 1}，答案：{\"a\": {\"b\": 1}, \"c\": \"", None);
        finds("[{\"a\": 1}, {\"a\"", None);
        finds("```json\n{\"a\": {\"b\": 1}, \"c\": [1,\n```\n", None);
        finds("```json\n{\"a\": 1}\n```\n例 {\"b\":", Some("{\"a\": 1}"));
    }

    #[test]
    fn depth_and_length_are_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(json_in(&nested(127)).is_some());
        assert!(json_in(&nested(100_000)).is_none());
        assert!(json_in(&format!("\"{}\"", "a".repeat(LONGEST - 2))).is_some());
        assert!(json_in(&format!("\"{}\"", "a".repeat(LONGEST - 1))).is_none());
    }

    /// What costs a parser that begins anew at each bracket the square of the length.
    #[test]
    fn the_work_is_linear() {
        for hostile in [
            "{",
            "[",
            "{\"a\":",
            "[0,",
            "[1 x",
            "{\"a\":1 x",
            "[\"",
            "{ ",
            "[[],",
            "[x]",
            "{\"a\":1},",
            "[1,\n",
            "```\n[1]",
            "[\"\\",
            "{}]",
            "[1 \"x\n",
            "[1 2]{\"a\":",
        ] {
            let answer = hostile.repeat((100 << 10) / hostile.len());
            let mut search = Search::new(&answer);
            search.run();
            assert!(search.looked_at <= 4 * answer.len(), "{hostile}: {}", search.looked_at);
        }
        assert_eq!(json_in(&"{".repeat(LONGEST)), None);
        assert_eq!(json_in(&"[".repeat(LONGEST)), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        /// Whatever is said around it: an object is found, whole.
        #[test]
        fn an_object_is_found_in_chatter(
            before in "[^{}\\[\\]\"]{0,40}", after in "[^{}\\[\\]\"]{0,40}", text in ".{0,40}", n in 0i64..1000,
        ) {
            let value = serde_json::json!({ "text": text, "list": [n, { "deep": text }] }).to_string();
            finds(&format!("{before}{value}{after}"), Some(&value));
        }

        #[test]
        fn what_is_found_parses(answer in "[{}\\[\\]\",:a1 \\\\\n`]{0,60}") {
            if let Some(range) = json_in(&answer) {
                proptest::prop_assert!(serde_json::from_str::<Value>(&answer[range]).is_ok());
            }
        }

        #[test]
        fn never_panics(answer in ".{0,200}") {
            let _ = json_in(&answer);
        }
    }
}
