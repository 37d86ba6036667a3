//! OpenClaw's `/v1/chat/completions`, read leniently: what is not needed may be missing.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Finish, StreamEvent, Usage},
    failure::Failure,
    tool::{CallPiece, Calls},
    upstream::{self, ErrorObject},
};

#[derive(Deserialize)]
struct Completion<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
    #[serde(default)]
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    message: Message<'a>,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(default)]
    content: Option<String>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<WireCall<'a>>>,
}

/// A call, whole or a part of one.
#[derive(Deserialize)]
struct WireCall<'a> {
    #[serde(default)]
    index: Option<u32>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    function: WireFunction<'a>,
}

#[derive(Default, Deserialize)]
struct WireFunction<'a> {
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

impl<'a> From<WireCall<'a>> for CallPiece<'a> {
    fn from(call: WireCall<'a>) -> Self {
        let WireFunction { name, arguments } = call.function;
        Self { index: call.index, id: call.id, name, arguments: arguments.unwrap_or_default() }
    }
}

#[derive(Clone, Copy, Deserialize)]
pub(super) struct WireUsage {
    #[serde(default)]
    prompt_tokens: u64,
    #[serde(default)]
    completion_tokens: u64,
    #[serde(default)]
    total_tokens: u64,
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        Self { input: usage.prompt_tokens, output: usage.completion_tokens, total: usage.total_tokens }
    }
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<ChunkChoice<'a>>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct ChunkChoice<'a> {
    #[serde(borrow, default)]
    delta: Delta<'a>,
    #[serde(borrow, default)]
    finish_reason: Option<Cow<'a, str>>,
}

#[derive(Default, Deserialize)]
struct Delta<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<WireCall<'a>>>,
}

fn finish(reason: &str) -> Finish {
    match reason {
        "length" => Finish::Length,
        "tool_calls" => Finish::Tools,
        _ => Finish::Stop,
    }
}

/// A complete answer where no tools were offered.
pub(crate) fn whole(body: &[u8]) -> Result<Answer, Failure> {
    read(body, false)
}

/// A complete answer, or the calls that the model waits for.
pub(crate) fn with_calls(body: &[u8]) -> Result<Answer, Failure> {
    read(body, true)
}

fn read(body: &[u8], offered: bool) -> Result<Answer, Failure> {
    let completion: Completion<'_> = serde_json::from_slice(body).map_err(|_| upstream::protocol())?;
    let choice = completion.choices.into_iter().next().ok_or_else(upstream::empty)?;
    let mut calls = Calls::default();
    for (at, call) in (0..).zip(choice.message.tool_calls.filter(|_| offered).unwrap_or_default()) {
        calls.push(&CallPiece { index: Some(at), ..call.into() })?;
    }
    let finish = finish(choice.finish_reason.as_deref().unwrap_or("stop"));
    let usage = completion.usage.map(Usage::from).unwrap_or_default();
    Answer::read(choice.message.content.unwrap_or_default(), finish, usage, calls.finish()?)
}

/// One event of a stream. `on_event` may get several: a chunk may bring text, calls and the end.
pub(crate) fn event(data: &str, mut on_event: impl FnMut(StreamEvent<'_>)) {
    if data == "[DONE]" {
        return on_event(StreamEvent::Done);
    }
    let Ok(chunk) = serde_json::from_str::<Chunk<'_>>(data) else {
        return on_event(StreamEvent::Failed(upstream::protocol()));
    };
    if let Some(error) = &chunk.error {
        return on_event(StreamEvent::Failed(upstream::failed_in_stream(error)));
    }
    if let Some(choice) = chunk.choices.into_iter().next() {
        let raw =
            choice.delta.content.map(RawValue::get).filter(|raw| raw.starts_with('"') && *raw != "\"\"");
        if let Some(raw) = raw {
            on_event(StreamEvent::Delta(raw));
        }
        for call in choice.delta.tool_calls.unwrap_or_default() {
            on_event(StreamEvent::Call(call.into()));
        }
        if let Some(reason) = choice.finish_reason {
            on_event(StreamEvent::Finished(finish(&reason)));
        }
    }
    if let Some(usage) = chunk.usage {
        on_event(StreamEvent::Usage(usage.into()));
    }
}
