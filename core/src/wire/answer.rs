//! The answer of `/api/chat`, whole and in stream chunks.
//!
//! Both are written anew from what was read, so nothing of the upstream passes that is
//! not meant to: not its run id, not the agent's name, not an error's words.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    json,
    links::Link,
    tool::{CallPiece, ToolCall},
    upstream,
};

/// WeChat's rules want every generated text marked for the person who reads it.
pub(crate) const LABEL: &str = "AI生成";

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Finish {
    /// The model was done.
    Stop,
    /// The token limit was reached.
    Length,
    /// The day's tokens are used up.
    Budget,
    /// The model waits for what tools say.
    Tools,
}

impl Finish {
    pub(crate) fn name(self) -> &'static str {
        match self {
            // No client is told of calls: where nobody offered tools, they are the end.
            Self::Stop | Self::Tools => "stop",
            Self::Length => "length",
            Self::Budget => "budget",
        }
    }
}

/// Tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Usage {
    pub input: u64,
    pub output: u64,
    pub total: u64,
}

/// A complete answer, as either API gave it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    /// Empty only where there are calls.
    pub text: String,
    /// [`Finish::Tools`] exactly when there are calls.
    pub finish: Finish,
    pub usage: Usage,
    /// What the model wants called before it goes on.
    pub calls: Vec<ToolCall>,
}

impl Answer {
    /// An answer as it was read.
    pub(crate) fn read(
        text: String,
        finish: Finish,
        usage: Usage,
        calls: Vec<ToolCall>,
    ) -> Result<Self, Failure> {
        let finish = match finish {
            // Servers say `stop` with calls too. One that was cut off is found out by its arguments.
            _ if !calls.is_empty() => Finish::Tools,
            Finish::Tools => Finish::Stop,
            other => other,
        };
        if text.is_empty() && calls.is_empty() {
            return Err(upstream::empty());
        }
        Ok(Self { text, finish, usage, calls })
    }
}

/// One thing that a stream of either API says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamEvent<'a> {
    /// More text, as a raw JSON string.
    Delta(&'a str),
    /// A part of a call of a tool, for [`Calls`](super::tool::Calls).
    Call(CallPiece<'a>),
    /// The answer is complete. With calls, whatever this says, it is [`Finish::Tools`].
    Finished(Finish),
    /// What it cost.
    Usage(Usage),
    /// The end mark.
    Done,
    /// The run failed.
    Failed(super::failure::Failure),
    /// Nothing that matters here.
    Nothing,
}

/// Something that was left out of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Warning {
    /// A client's system message.
    SystemMessageIgnored,
    /// A picture in an earlier message.
    EarlierMediaIgnored,
    /// The text was too long: its middle was left out.
    InputCut,
    /// Earlier messages of the history were left out.
    HistoryCut,
    /// The configuration has no schema of that name: the answer was not checked.
    SchemaNotConfigured,
    /// The profile failed; another one answered.
    Fallback,
    /// The caller's standing: the agent was told to explain and do nothing.
    ExplainOnly,
}

impl Warning {
    /// The stable code.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::SystemMessageIgnored => "system_message_ignored",
            Self::EarlierMediaIgnored => "earlier_media_ignored",
            Self::InputCut => "input_cut",
            Self::HistoryCut => "history_cut",
            Self::SchemaNotConfigured => "schema_not_configured",
            Self::Fallback => "fallback",
            Self::ExplainOnly => "explain_only",
        }
    }

    /// Appends `,"warnings":[…]` to an open JSON object when there are any.
    pub(crate) fn push_list(warnings: &[Self], out: &mut String) {
        if warnings.is_empty() {
            return;
        }
        for (index, warning) in warnings.iter().enumerate() {
            out.push_str(if index == 0 { ",\"warnings\":[" } else { "," });
            let _ = write!(out, "{{\"code\":\"{}\",\"message\":\"{}\"}}", warning.name(), warning.message());
        }
        out.push(']');
    }

    fn message(self) -> &'static str {
        match self {
            Self::SystemMessageIgnored => {
                "system messages are the server's to write; the client's were left out"
            }
            Self::EarlierMediaIgnored => {
                "only the newest message's pictures are seen; earlier ones were left out"
            }
            Self::InputCut => "the text was too long; its middle was left out",
            Self::HistoryCut => "the history was too long; its beginning was left out",
            Self::SchemaNotConfigured => {
                "no schema of that name is configured; the answer is JSON, unchecked"
            }
            Self::Fallback => "the usual model failed; a simpler one answered",
            Self::ExplainOnly => "too many unusual requests: for a while answers explain and nothing is done",
        }
    }
}

/// What stays the same in every chunk of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Envelope {
    /// The request id.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model's name for the client.
    pub model: String,
    /// The trace id.
    pub trace_id: String,
    /// What was left out of the request.
    pub warnings: Vec<Warning>,
}

impl Envelope {
    /// The body of an answer that is not streamed.
    pub(crate) fn whole(&self, answer: &Answer, links: &[Link]) -> String {
        let mut out = String::with_capacity(answer.text.len() + 512);
        self.open(&mut out, "chat.completion");
        out.push_str("\"message\":{\"role\":\"assistant\",\"content\":");
        json::push_string(&mut out, &answer.text);
        // Writing to a String cannot fail.
        let _ = write!(out, "}},\"finish_reason\":\"{}\"}}]", answer.finish.name());
        self.extras(&mut out, answer.usage, links);
        out.push('}');
        out
    }

    /// The event that opens a stream.
    pub(crate) fn first(&self, out: &mut String) {
        self.chunk(out, "{\"role\":\"assistant\"}", "null");
        out.push_str("}\n\n");
    }

    /// An event with more text: a raw JSON string, passed on as it is.
    pub(crate) fn delta(&self, out: &mut String, raw: &str) {
        out.push_str("data: ");
        self.open(out, "chat.completion.chunk");
        out.push_str("\"delta\":{\"content\":");
        out.push_str(raw);
        out.push_str("},\"finish_reason\":null}]}\n\n");
    }

    /// The event that says how it ended, with everything that comes with a whole answer.
    pub(crate) fn finish(&self, out: &mut String, finish: Finish, usage: Usage, links: &[Link]) {
        self.chunk(out, "{}", &format!("\"{}\"", finish.name()));
        self.extras(out, usage, links);
        out.push_str("}\n\n");
    }

    /// The usage event of `stream_options.include_usage`, in OpenAI's names and ours.
    pub(crate) fn usage(&self, out: &mut String, usage: Usage) {
        let _ = write!(
            out,
            "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[],\"usage\":\
             {{\"prompt_tokens\":{input},\"completion_tokens\":{output},\"total_tokens\":{total},\"input_tokens\":{input},\"output_tokens\":{output}}}}}\n\n",
            self.id,
            self.created,
            json::string(&self.model),
            input = usage.input,
            output = usage.output,
            total = usage.total,
        );
    }

    fn chunk(&self, out: &mut String, delta: &str, finish: &str) {
        out.push_str("data: ");
        self.open(out, "chat.completion.chunk");
        let _ = write!(out, "\"delta\":{delta},\"finish_reason\":{finish}}}]");
    }

    /// Everything before the choice's own fields.
    fn open(&self, out: &mut String, object: &str) {
        let _ = write!(
            out,
            "{{\"id\":\"{}\",\"object\":\"{object}\",\"created\":{},\"model\":{},\"choices\":[{{\"index\":0,",
            self.id,
            self.created,
            json::string(&self.model),
        );
    }

    fn extras(&self, out: &mut String, usage: Usage, links: &[Link]) {
        let _ = write!(
            out,
            ",\"usage\":{{\"input_tokens\":{},\"output_tokens\":{},\"total_tokens\":{}}},\"attachments\":{},\"label\":\"{LABEL}\",\"traceId\":{}",
            usage.input,
            usage.output,
            usage.total,
            serde_json::to_string(links).unwrap_or_else(|_| "[]".into()),
            json::string(&self.trace_id),
        );
        Warning::push_list(&self.warnings, out);
    }
}
