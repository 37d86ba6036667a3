//! OpenClaw's `/v1/responses`, read leniently: what is not needed may be missing.

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
struct Response<'a> {
    #[serde(default)]
    status: String,
    #[serde(borrow, default)]
    output: Vec<Item<'a>>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct Item<'a> {
    #[serde(borrow, default, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default)]
    content: Vec<Part>,
    #[serde(borrow, default)]
    call_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    arguments: Option<Cow<'a, str>>,
}

impl<'a> Item<'a> {
    /// The call that it is, if it is one.
    fn call(&mut self, index: u32) -> Option<CallPiece<'a>> {
        (self.kind == "function_call").then(|| CallPiece {
            index: Some(index),
            id: self.call_id.take(),
            name: self.name.take(),
            arguments: self.arguments.take().unwrap_or_default(),
        })
    }
}

#[derive(Deserialize)]
struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Clone, Copy, Deserialize)]
struct WireUsage {
    #[serde(default)]
    input_tokens: u64,
    #[serde(default)]
    output_tokens: u64,
    #[serde(default)]
    total_tokens: u64,
}

impl From<WireUsage> for Usage {
    fn from(usage: WireUsage) -> Self {
        Self { input: usage.input_tokens, output: usage.output_tokens, total: usage.total_tokens }
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(default)]
    response: Option<Ended>,
    #[serde(default)]
    output_index: u32,
    #[serde(borrow, default)]
    item: Option<&'a RawValue>,
}

/// What matters of the response object in a stream's last event; its output is known by then.
#[derive(Deserialize)]
struct Ended {
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

fn finish(status: &str) -> Finish {
    if status == "incomplete" { Finish::Length } else { Finish::Stop }
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
    let mut response: Response<'_> = serde_json::from_slice(body).map_err(|_| upstream::protocol())?;
    if let Some(error) = &response.error {
        return Err(upstream::failed_in_stream(error));
    }
    let mut calls = Calls::default();
    for (at, item) in (0..).zip(&mut response.output) {
        if let Some(call) = item.call(at).filter(|_| offered) {
            calls.push(&call)?;
        }
    }
    let parts = response.output.into_iter().flat_map(|item| item.content);
    let text: String = parts.filter(|part| part.kind == "output_text").map(|part| part.text).collect();
    let usage = response.usage.map(Usage::from).unwrap_or_default();
    Answer::read(text, finish(&response.status), usage, calls.finish()?)
}

/// One event of a stream.
pub(crate) fn event(data: &str, mut on_event: impl FnMut(StreamEvent<'_>)) {
    if data == "[DONE]" {
        return on_event(StreamEvent::Done);
    }
    let Ok(event) = serde_json::from_str::<Event<'_>>(data) else {
        return on_event(StreamEvent::Failed(upstream::protocol()));
    };
    match event.kind.as_ref() {
        "response.output_text.delta" => {
            if let Some(raw) =
                event.delta.map(RawValue::get).filter(|raw| raw.starts_with('"') && *raw != "\"\"")
            {
                on_event(StreamEvent::Delta(raw));
            }
        }
        "response.output_item.done" => {
            let item = event.item.and_then(|item| serde_json::from_str::<Item<'_>>(item.get()).ok());
            let call = item.and_then(|mut item| item.call(event.output_index));
            on_event(call.map_or(StreamEvent::Nothing, StreamEvent::Call));
        }
        kind @ ("response.completed" | "response.incomplete") => {
            if let Some(usage) = event.response.and_then(|response| response.usage) {
                on_event(StreamEvent::Usage(usage.into()));
            }
            on_event(StreamEvent::Finished(finish(kind.trim_start_matches("response."))));
        }
        "response.failed" | "error" => {
            let error = event.response.and_then(|response| response.error).unwrap_or_default();
            on_event(StreamEvent::Failed(upstream::failed_in_stream(&error)));
        }
        _ => on_event(StreamEvent::Nothing),
    }
}
