//! Server-Sent Events: the data of each event out of whole lines.
//!
//! A host delivers whole lines, so what is kept between two deliveries is at most the data
//! of one event whose blank line has not come yet. Without that line it is incomplete and
//! counts for nothing (WHATWG HTML §9.2.6).

use serde::{Deserialize, Serialize};

/// Puts events together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Events {
    pending: Option<String>,
}

impl Events {
    /// Takes lines, and gives the data of each event that they complete to `on_data`.
    /// Comments, event names, ids and unknown fields are passed over: both of OpenClaw's
    /// streams say in the data what they are.
    pub(crate) fn push(&mut self, lines: &[u8], mut on_data: impl FnMut(&str)) {
        let mut rest = lines;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
            let (line, after) = rest.split_at(end);
            rest = after;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() {
                if let Some(data) = self.pending.take() {
                    on_data(&data);
                }
                continue;
            }
            let Some(data) = line.strip_prefix(b"data:") else { continue };
            let data = data.strip_prefix(b" ").unwrap_or(data);
            let text = String::from_utf8_lossy(data);
            // Nearly always the event is this line and a blank one: no copy then.
            if self.pending.is_none() && (rest.starts_with(b"\n") || rest.starts_with(b"\r\n")) {
                on_data(&text);
                continue;
            }
            match &mut self.pending {
                Some(pending) => {
                    pending.push('\n');
                    pending.push_str(&text);
                }
                None => self.pending = Some(text.into_owned()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const STREAM: &str =
        ": hi\nevent: a\ndata: {\"x\":1}\n\ndata:two\ndata: lines\r\n\r\nid: 7\ndata\n\ndata: [DONE]\n\n";

    fn all(pieces: &[&[u8]]) -> Vec<String> {
        let (mut events, mut out) = (Events::default(), Vec::new());
        for piece in pieces {
            events.push(piece, |data| out.push(data.to_owned()));
        }
        out
    }

    #[test]
    fn events_from_lines_in_any_grouping() {
        let whole = all(&[STREAM.as_bytes()]);
        assert_eq!(whole, ["{\"x\":1}", "two\nlines", "[DONE]"]);
        let lines: Vec<&[u8]> = STREAM.as_bytes().split_inclusive(|byte| *byte == b'\n').collect();
        for size in 1..lines.len() {
            let groups: Vec<Vec<u8>> = lines.chunks(size).map(<[&[u8]]>::concat).collect();
            let groups: Vec<&[u8]> = groups.iter().map(Vec::as_slice).collect();
            assert_eq!(all(&groups), whole);
        }
    }

    #[test]
    fn an_event_without_its_blank_line_is_not_one() {
        Events::default().push(b"data: {\"half\":", |_| panic!("not an event yet"));
    }
}
