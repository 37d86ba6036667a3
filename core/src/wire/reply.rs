//! The answer of `/v1/mini/ask`: one JSON object, or events.
//!
//! Events are for `enableChunked` of `wx.request`: an event or a character is never split by
//! us, each has a number, and the last one says everything that a whole answer says. The label
//! is what WeChat's rules demand of generated text.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    answer::{Finish, LABEL, Usage, Warning},
    json,
    links::Link,
};

/// What stays the same in every part of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reply {
    /// The request id.
    pub request_id: String,
    /// The trace id.
    pub trace_id: String,
    /// The intent.
    pub intent: String,
    /// Who answers.
    pub profile: String,
    /// What was left out or replaced.
    pub warnings: Vec<Warning>,
    /// It was kept from an earlier answer.
    pub cached: bool,
    /// It is less than was asked for.
    pub degraded: bool,
    /// A better one will follow, elsewhere.
    pub draft: bool,
    /// Whether all that is not ASCII is escaped: some phones cut chunks within a character.
    pub ascii: bool,
    /// What was done, or was not: tools and what came of their calls.
    pub actions: Vec<(String, String)>,
    /// How many events were written.
    pub events: u32,
}

/// A piece of text in a stream, by what it is a piece of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Part {
    /// The answer.
    Answer,
    /// A quick answer that a better one will replace.
    Draft,
    /// The better one.
    Refined,
}

impl Part {
    fn event(self) -> &'static str {
        match self {
            Self::Answer => "delta",
            Self::Draft => "draft",
            Self::Refined => "refined",
        }
    }
}

/// The end of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ending<'a> {
    /// Why it ended.
    pub finish: Finish,
    /// What it cost.
    pub usage: Usage,
    /// Links in it.
    pub links: &'a [Link],
    /// The JSON value of a structured answer, as JSON text.
    pub data: Option<&'a str>,
}

impl Reply {
    /// The body of an answer that is not streamed.
    pub(crate) fn whole(&self, text: &str, ending: Ending<'_>) -> String {
        let mut out = String::with_capacity(text.len() + 512);
        out.push_str("{\"answer\":");
        json::push_string(&mut out, text);
        out.push(',');
        self.rest(&mut out, ending);
        out.push('}');
        self.encoded(out)
    }

    /// The event that opens a stream.
    pub(crate) fn meta(&mut self, out: &mut String) {
        let mut data = String::from("{");
        self.names(&mut data);
        let _ = write!(data, ",\"cached\":{},\"degraded\":{}}}", self.cached, self.degraded);
        self.event(out, "meta", data);
    }

    /// An event with more text.
    pub(crate) fn delta(&mut self, out: &mut String, part: Part, text: &str) {
        let data = format!("{{\"text\":{}}}", json::string(text));
        self.event(out, part.event(), data);
    }

    /// The last event.
    pub(crate) fn done(&mut self, out: &mut String, ending: Ending<'_>) {
        let mut data = String::from("{");
        self.rest(&mut data, ending);
        data.push('}');
        self.event(out, "done", data);
    }

    fn event(&mut self, out: &mut String, name: &str, data: String) {
        self.events += 1;
        // Writing to a String cannot fail.
        let _ = write!(out, "id: {}\nevent: {name}\ndata: {}\n\n", self.events, self.encoded(data));
    }

    fn names(&self, out: &mut String) {
        let _ = write!(
            out,
            "\"requestId\":{},\"traceId\":{},\"intent\":{},\"profile\":{}",
            json::string(&self.request_id),
            json::string(&self.trace_id),
            json::string(&self.intent),
            json::string(&self.profile),
        );
    }

    fn rest(&self, out: &mut String, ending: Ending<'_>) {
        let Ending { finish, usage, links, data } = ending;
        if let Some(data) = data {
            let _ = write!(out, "\"data\":{data},");
        }
        self.names(out);
        let _ = write!(
            out,
            ",\"usage\":{{\"input_tokens\":{},\"output_tokens\":{},\"total_tokens\":{}}},\"finish\":\"{}\",\
             \"cached\":{},\"degraded\":{},\"label\":\"{LABEL}\",\"attachments\":{}",
            usage.input,
            usage.output,
            usage.total,
            finish.name(),
            self.cached,
            self.degraded,
            serde_json::to_string(links).unwrap_or_else(|_| "[]".into()),
        );
        if self.draft {
            out.push_str(",\"draft\":true");
        }
        for (at, (tool, outcome)) in self.actions.iter().enumerate() {
            out.push_str(if at == 0 { ",\"actions\":[" } else { "," });
            let (tool, outcome) = (json::string(tool), json::string(outcome));
            let _ = write!(out, "{{\"tool\":{tool},\"outcome\":{outcome}}}");
        }
        out.push_str(if self.actions.is_empty() { "" } else { "]" });
        Warning::push_list(&self.warnings, out);
    }

    fn encoded(&self, json: String) -> String {
        if self.ascii { ascii(&json) } else { json }
    }
}

/// An error's body as a stream's last event.
pub(crate) fn error(out: &mut String, body: &str) {
    let _ = write!(out, "event: error\ndata: {body}\n\n");
}

/// JSON with everything that is not ASCII escaped; it stands in strings only.
pub(crate) fn ascii(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn reply() -> Reply {
        Reply {
            request_id: "req_1".into(),
            trace_id: "t-1".into(),
            intent: "qa".into(),
            profile: "qa_v1".into(),
            ..Reply::default()
        }
    }

    const ENDING: Ending<'_> = Ending {
        finish: Finish::Stop,
        usage: Usage { input: 3, output: 4, total: 7 },
        links: &[],
        data: Some("{\"a\":1}"),
    };

    #[test]
    fn a_whole_answer_says_everything() {
        let mut reply = reply();
        reply.warnings = vec![Warning::InputCut];
        let value: Value = serde_json::from_str(&reply.whole("好\n\"q\"", ENDING)).expect("json");
        for (key, expected) in [
            ("answer", "好\n\"q\""),
            ("requestId", "req_1"),
            ("traceId", "t-1"),
            ("profile", "qa_v1"),
            ("label", "AI生成"),
            ("finish", "stop"),
        ] {
            assert_eq!(value[key], expected, "{key}");
        }
        assert_eq!(value["data"]["a"], 1);
        assert_eq!(value["usage"]["total_tokens"], 7);
        assert_eq!((&value["cached"], &value["degraded"]), (&Value::Bool(false), &Value::Bool(false)));
        assert_eq!(value["warnings"][0]["code"], "input_cut");
    }

    #[test]
    fn events_are_numbered_and_whole() {
        let mut reply = reply();
        let mut out = String::new();
        reply.meta(&mut out);
        reply.delta(&mut out, Part::Draft, "草\n稿");
        reply.done(&mut out, ENDING);
        let events: Vec<&str> = out.split_terminator("\n\n").collect();
        assert_eq!(events.len(), 3);
        assert!(events[0].starts_with("id: 1\nevent: meta\ndata: {"));
        assert_eq!(events[1], "id: 2\nevent: draft\ndata: {\"text\":\"草\\n稿\"}");
        assert!(events[2].starts_with("id: 3\nevent: done\ndata: {\"data\":{\"a\":1},"));
    }

    #[test]
    fn ascii_means_the_same() {
        let mut reply = reply();
        let plain = reply.whole("你好😀é", ENDING);
        reply.ascii = true;
        let escaped = reply.whole("你好😀é", ENDING);
        assert!(escaped.is_ascii());
        let of = |text: &str| serde_json::from_str::<Value>(text).expect("json");
        assert_eq!(of(&plain), of(&escaped));
    }
}
