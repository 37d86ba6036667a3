//! OpenClaw's `/v1/chat/completions`, read leniently: what is not needed may be missing.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Finish, StreamEvent, Usage},
    failure::Failure,
    upstream::{self, ErrorObject},
};

#[derive(Deserialize)]
struct Completion {
    #[serde(default)]
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<WireUsage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    content: Option<String>,
}

#[derive(Clone, Copy, Deserialize)]
struct WireUsage {
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
}

fn finish(reason: &str) -> Finish {
    if reason == "length" { Finish::Length } else { Finish::Stop }
}

/// A complete answer.
pub(crate) fn whole(body: &[u8]) -> Result<Answer, Failure> {
    let completion: Completion = serde_json::from_slice(body).map_err(|_| upstream::protocol())?;
    let choice = completion.choices.into_iter().next().ok_or_else(upstream::empty)?;
    let text = choice.message.content.filter(|text| !text.is_empty()).ok_or_else(upstream::empty)?;
    let finish = finish(choice.finish_reason.as_deref().unwrap_or("stop"));
    Ok(Answer { text, finish, usage: completion.usage.map(Usage::from).unwrap_or_default() })
}

/// One event of a stream. `on_event` gets up to two: a chunk may bring text and the end.
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
    if let Some(choice) = chunk.choices.first() {
        let raw =
            choice.delta.content.map(RawValue::get).filter(|raw| raw.starts_with('"') && *raw != "\"\"");
        if let Some(raw) = raw {
            on_event(StreamEvent::Delta(raw));
        }
        if let Some(reason) = &choice.finish_reason {
            on_event(StreamEvent::Finished(finish(reason)));
        }
    }
    if let Some(usage) = chunk.usage {
        on_event(StreamEvent::Usage(usage.into()));
    }
}
