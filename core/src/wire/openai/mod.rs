//! OpenAI's `/v1/chat/completions` between OpenClaw and a model's own server: what is changed of a
//! request, and what is read of an answer.
//!
//! Nothing is written anew that need not be: a request is its own body with a few edits, so tools,
//! schemas and fields that nobody here knows arrive as they were sent; an answer passes as it came.
//! Of a server that fails nothing passes: its words may name paths, models and what was asked.

mod request;
mod trim;

pub(crate) use request::{Request, Rules, Shaped, parse};

use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{
    answer::Usage,
    completions::WireUsage,
    failure::{Code, Failure},
};
use crate::policy::catalog::{Catalog, ModelKind};

/// One event of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// It passes.
    Chunk {
        /// A choice has come to its end.
        finished: bool,
        /// What was counted, where it says so.
        usage: Option<Usage>,
        /// There is nothing else in it.
        only_usage: bool,
    },
    /// The end mark.
    Done,
    /// The server failed, or this is no chunk.
    Failed(Failure),
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    choices: Vec<Choice<'a>>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    finish_reason: Option<&'a RawValue>,
}

impl Answer<'_> {
    /// Servers add to it what they like: what cannot be read was not counted.
    fn usage(&self) -> Option<Usage> {
        let usage = serde_json::from_str::<WireUsage>(self.usage?.get()).ok()?;
        Some(usage.into())
    }
}

/// What a whole answer cost; a failure when it is none.
pub(crate) fn whole(body: &[u8]) -> Result<Option<Usage>, Failure> {
    match serde_json::from_slice::<Answer<'_>>(body) {
        Ok(answer) if !answer.choices.is_empty() => Ok(answer.usage()),
        Ok(_) => Err(protocol()),
        // Some servers fail with 200.
        Err(_) => Err(in_words(body).unwrap_or_else(protocol)),
    }
}

/// Reads one event's data.
pub(crate) fn event(data: &str) -> Event {
    if data == "[DONE]" {
        return Event::Done;
    }
    let Ok(chunk) = serde_json::from_str::<Answer<'_>>(data) else {
        return Event::Failed(in_words(data.as_bytes()).unwrap_or_else(protocol));
    };
    let usage = chunk.usage();
    Event::Chunk {
        finished: chunk.choices.iter().any(|choice| choice.finish_reason.is_some()),
        usage,
        only_usage: chunk.choices.is_empty() && usage.is_some(),
    }
}

/// A failed answer, by its status, body and `Retry-After`.
pub(crate) fn failed(status: u16, body: &[u8], retry_after: Option<&str>) -> Failure {
    let wait = retry_after.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(5).min(3_600);
    match status {
        400 | 413 | 422 => too_long(body).unwrap_or_else(|| {
            Failure::new(Code::UpstreamRefusedRequest, "the model's server refused this request")
        }),
        401 | 403 | 404 | 405 => Failure::new(
            Code::UpstreamMisconfigured,
            "the model's server refuses this gateway or does not know the model; check its configuration",
        ),
        408 | 504 => timed_out(),
        429 | 503 => {
            Failure::new(Code::UpstreamOverloaded, "the model's server is at its limit, or still loading")
                .after(wait)
        }
        _ => broken(),
    }
}

/// The failure that a body speaks of, when it speaks of one.
fn in_words(body: &[u8]) -> Option<Failure> {
    let value = serde_json::from_slice::<Value>(body).ok()?;
    value.get("error").filter(|error| !error.is_null())?;
    Some(too_long(body).unwrap_or_else(broken))
}

/// What llama.cpp, vLLM and OpenAI say of a request that the model does not hold.
fn too_long(body: &[u8]) -> Option<Failure> {
    let value = serde_json::from_slice::<Value>(body).ok()?;
    let error = value.get("error").unwrap_or(&value);
    let is = |key: &str, word: &str| error.get(key).and_then(Value::as_str) == Some(word);
    let message = error.get("message").and_then(Value::as_str).or(error.as_str()).unwrap_or_default();
    let says = |word: &str| message.contains(word);
    let too_long = is("code", "context_length_exceeded")
        || is("type", "exceed_context_size_error")
        || says("maximum context length")
        || says("available context size");
    too_long.then(|| Failure::new(Code::ContextLengthExceeded, "messages: more than the model holds"))
}

/// The deadline has passed.
pub(crate) fn timed_out() -> Failure {
    Failure::new(Code::UpstreamTimeout, "the model did not answer in time")
}

/// The answer is not what it should be, or broke off.
pub(crate) fn protocol() -> Failure {
    Failure::new(Code::UpstreamProtocol, "the model's answer broke off or could not be read")
}

fn broken() -> Failure {
    Failure::new(Code::UpstreamError, "the model's server failed")
}

/// The models that a caller may name, in OpenAI's form.
pub(crate) fn models(catalog: &Catalog) -> String {
    let own = catalog.models.iter().filter(|model| matches!(model.kind, ModelKind::OpenAi { .. }));
    let data: Vec<Value> = own.map(|entry| model(&entry.alias)).collect();
    json!({"object": "list", "data": data}).to_string()
}

/// One of them.
pub(crate) fn model(alias: &str) -> Value {
    json!({"id": alias, "object": "model", "created": 0, "owned_by": "minigate"})
}

/// Nobody by that name.
pub(crate) fn unknown_model(catalog: &Catalog, name: Option<&str>) -> Failure {
    let message = match name {
        Some(_) if catalog.servers().next().is_none() => {
            "model: no openai_compatible model is configured".to_owned()
        }
        Some(_) => "model: not one of GET /v1/models".to_owned(),
        None => "model: name one of GET /v1/models; there is no routing.defaults.model here".to_owned(),
    };
    Failure::new(Code::ModelNotFound, message)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn what_passes_is_an_answer() {
        let usage = Usage { input: 7, output: 2, total: 9 };
        let counted = r#"{"choices":[{"message":{}}],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,"x":{}}}"#;
        assert_eq!(whole(counted.as_bytes()), Ok(Some(usage)));
        assert_eq!(whole(br#"{"choices":[{}],"usage":"many"}"#), Ok(None));
        for rubbish in ["", "<html>", "[]", "null", "{}", r#"{"choices":[]}"#, r#"{"choices":null}"#] {
            assert_eq!(
                whole(rubbish.as_bytes()).map_err(|failure| failure.code),
                Err(Code::UpstreamProtocol)
            );
        }
        let failed = br#"{"error":{"message":"CUDA out of memory at /srv/x"}}"#;
        let failure = whole(failed).expect_err("it failed");
        assert_eq!(failure.code, Code::UpstreamError);
        assert!(!failure.message.contains("CUDA"));
    }

    #[test]
    fn events_of_a_stream() {
        let chunk = |finished, usage, only_usage| Event::Chunk { finished, usage, only_usage };
        let usage = Usage { input: 1, output: 2, total: 3 };
        for (data, expected) in [
            ("[DONE]", Event::Done),
            (
                r#"{"choices":[{"delta":{"content":"x"},"finish_reason":null}],"usage":null}"#,
                chunk(false, None, false),
            ),
            (r#"{"choices":[{"delta":{},"finish_reason":"tool_calls"}]}"#, chunk(true, None, false)),
            (
                r#"{"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}"#,
                chunk(false, Some(usage), true),
            ),
            // Some servers say first what they think of the prompt.
            (r#"{"choices":[]}"#, chunk(false, None, false)),
            ("{", Event::Failed(protocol())),
            (r#"{"error":{"message":"secret","code":500}}"#, Event::Failed(broken())),
        ] {
            assert_eq!(event(data), expected, "{data}");
        }
    }

    #[test]
    fn each_failure_of_a_server() {
        let llama = r#"{"error":{"code":400,"type":"exceed_context_size_error","message":"the request exceeds the available context size"}}"#;
        let vllm = r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#;
        for (status, body, expected) in [
            (400, llama, Code::ContextLengthExceeded),
            (400, vllm, Code::ContextLengthExceeded),
            (400, r#"{"error":{"message":"bad"}}"#, Code::UpstreamRefusedRequest),
            (401, "", Code::UpstreamMisconfigured),
            (404, r#"{"error":"model 'x' not found"}"#, Code::UpstreamMisconfigured),
            (429, "", Code::UpstreamOverloaded),
            (503, r#"{"error":{"message":"Loading model"}}"#, Code::UpstreamOverloaded),
            (504, "", Code::UpstreamTimeout),
            (500, "<html>", Code::UpstreamError),
        ] {
            assert_eq!(failed(status, body.as_bytes(), None).code, expected, "{status} {body}");
        }
        assert_eq!(failed(429, b"", Some("7")).retry_after_s, Some(7));
        assert_eq!(failed(503, b"", None).retry_after_s, Some(5));
    }
}
