//! OpenClaw's `/v1/responses`, read leniently: what is not needed may be missing.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    answer::{Answer, Finish, StreamEvent, Usage},
    failure::Failure,
    upstream::{self, ErrorObject},
};

#[derive(Deserialize)]
struct Response {
    #[serde(default)]
    status: String,
    #[serde(default)]
    output: Vec<Item>,
    #[serde(default)]
    usage: Option<WireUsage>,
    #[serde(default)]
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    content: Vec<Part>,
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

/// A complete answer.
pub(crate) fn whole(body: &[u8]) -> Result<Answer, Failure> {
    let response: Response = serde_json::from_slice(body).map_err(|_| upstream::protocol())?;
    if let Some(error) = &response.error {
        return Err(upstream::failed_in_stream(error));
    }
    let parts = response.output.into_iter().flat_map(|item| item.content);
    let text: String = parts.filter(|part| part.kind == "output_text").map(|part| part.text).collect();
    if text.is_empty() {
        return Err(upstream::empty());
    }
    Ok(Answer {
        text,
        finish: finish(&response.status),
        usage: response.usage.map(Usage::from).unwrap_or_default(),
    })
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
