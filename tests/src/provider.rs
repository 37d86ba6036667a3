//! A scripted model provider for the real OpenClaw: an OpenAI-compatible interface that
//! streams an echo of the newest message, or does what a directive in it says:
//! `[[model:NAME]]` or `[[model:NAME=VALUE]]`.
//!
//! | directive | does |
//! | --- | --- |
//! | `text=T` | what the answer is |
//! | `slow=MS` | waits before each piece |
//! | `call=NAME {…}` | wants that tool called, if it is offered; says afterwards what came of it |
//! | `hang`, `stall=K` | says nothing; falls silent after K pieces |
//! | `error=STATUS`, `errors=N` | fails; only the first N times |
//! | `together=N` | waits until N such requests are there |

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::scripted::{self, Body, Piece, Running, Script, Seen, Server, json_answer, tokens};

/// The key that OpenClaw shows to the provider.
pub const KEY: &str = "provider-key-canary-c07d";

/// The name of its model.
pub const MODEL: &str = "scripted-1";

/// A word in everything that the provider says of its failures: it may reach no client.
pub const DETAIL: &str = "provider-words-canary";

/// The scripted provider.
#[derive(Clone, Debug)]
pub struct Provider(Server);

/// What all requests share.
#[derive(Debug)]
struct Tally {
    together: watch::Sender<usize>,
    failed: Mutex<BTreeMap<String, usize>>,
}

/// One request that the model got.
#[derive(Clone)]
pub struct Call {
    /// Its body.
    pub body: Value,
    /// Whether the other side closed before the answer was complete.
    pub aborted: bool,
    seen: Seen,
}

/// Without the agent's own prompt, which is long and always the same.
impl fmt::Debug for Call {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = own_words(&self.seen.text()).to_owned();
        formatter
            .debug_struct("Call")
            .field("words", &words)
            .field("aborted", &self.aborted)
            .finish_non_exhaustive()
    }
}

impl Call {
    /// Everything that the model was told, as text.
    #[must_use]
    pub fn text(&self) -> String {
        ["system", "developer", "user", "assistant", "tool"]
            .iter()
            .flat_map(|role| self.seen.texts(role))
            .collect::<Vec<String>>()
            .join("\n")
    }

    /// The number of pictures that the model was shown.
    #[must_use]
    pub fn pictures(&self) -> usize {
        let parts = self.seen.messages().iter().filter_map(|message| message["content"].as_array()).flatten();
        parts.filter(|part| part["type"] == "image_url").count()
    }
}

impl Provider {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let tally = Arc::new(Tally { together: watch::channel(0).0, failed: Mutex::default() });
        Self(Server::start(move |seen, running| answer(seen, running, Arc::clone(&tally))).await)
    }

    /// Its base URL.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The requests whose newest text contains the marker.
    #[must_use]
    pub fn calls(&self, marker: &str) -> Vec<Call> {
        let call = |seen: Seen| Call { body: seen.body.clone(), aborted: seen.aborted, seen };
        self.0.seen(marker).into_iter().map(call).collect()
    }

    /// The one request whose newest text contains the marker.
    ///
    /// # Panics
    /// When there is none, or there are several.
    #[must_use]
    pub fn only(&self, marker: &str) -> Call {
        let mut calls = self.calls(marker);
        assert_eq!(calls.len(), 1, "the model was called for {marker}: {calls:?}");
        calls.remove(0)
    }

    /// Waits until a request with the marker has come.
    pub async fn wait_for_call(&self, marker: &str) {
        self.0.wait_for(marker, "a call", |_| true).await;
    }

    /// Waits until the connection of a request with the marker was closed early.
    pub async fn wait_for_abort(&self, marker: &str) {
        self.0.wait_for_abort(marker).await;
    }
}

/// The user's own words in what OpenClaw makes of a message: a time before it, facts about
/// the run after it, and earlier messages of the same request as text between the two.
#[must_use]
pub fn own_words(text: &str) -> &str {
    const NEWEST: &str = "[Current message - respond to this]\nUser: ";
    let text = text.rsplit_once(NEWEST).map_or(text, |(_, newest)| newest);
    let text = match text.split_once("] ") {
        Some((stamp, words)) if stamp.starts_with('[') && stamp.ends_with(" UTC") => words,
        _ => text,
    };
    let text = text.split("\nRuntime: agent=").next().unwrap_or_default().trim();
    // A second attempt at the same turn says so around the words.
    match text.strip_prefix("[Queued user message from a previous active turn;") {
        Some(rest) => {
            let words = rest.split_once("]\n").map_or(rest, |(_, words)| words);
            words.split("\n\nContinue the current task").next().unwrap_or_default()
        }
        None => text,
    }
}

async fn answer(seen: Seen, running: Running, tally: Arc<Tally>) -> io::Result<Response<Body>> {
    if seen.path != "/v1/chat/completions" || seen.body["stream"] != true {
        return Ok(failed(404, running));
    }
    if seen.header("authorization") != Some(format!("Bearer {KEY}").as_str()) {
        return Ok(failed(401, running));
    }
    let text = seen.text();
    let words = own_words(&text);
    let script = Script::of("model", words);
    if let Some(count) = script.number("together") {
        tally.together.send_modify(|waiting| *waiting += 1);
        // The sender is ours: it cannot be gone.
        let _ = tally.together.subscribe().wait_for(|waiting| *waiting >= count).await;
    }
    if let Some(status) = script.number("error")
        && fails_again(&tally, words, script.number("errors"))
    {
        return Ok(failed(u16::try_from(status).unwrap_or(500), running));
    }
    if script.has("hang") {
        return running.hang().await;
    }
    let result = result_of_a_tool(&text);
    let offered = |name: &str| {
        let tools = seen.body["tools"].as_array().map(Vec::as_slice).unwrap_or_default();
        tools.iter().any(|tool| tool["function"]["name"] == name)
    };
    let call = script.get("call").and_then(|call| call.split_once(' '));
    let says = match (result, script.get("text")) {
        (Some(result), _) => format!("result: {result}"),
        (None, Some(text)) => text.to_owned(),
        (None, None) => format!("echo: {}", words.split("[[model:").next().unwrap_or_default().trim()),
    };
    let all = match call {
        Some((name, arguments)) if result.is_none() && offered(name) => call_events(name, arguments),
        _ => events(&says),
    };
    let mut pieces = Vec::new();
    for (index, event) in all.into_iter().enumerate() {
        if script.number("stall").is_some_and(|count| index == 1 + count) {
            pieces.push(Piece::Forever);
        }
        if let Some(time) = script.number("slow") {
            pieces.push(Piece::wait(time));
        }
        pieces.push(event.into());
    }
    Ok(scripted::answer(200, "text/event-stream", pieces, running))
}

/// Whether a request fails that fails only so many times; each text is counted apart.
fn fails_again(tally: &Tally, words: &str, most: Option<usize>) -> bool {
    let mut failed = tally.failed.lock().unwrap_or_else(PoisonError::into_inner);
    let count = failed.entry(words.split_whitespace().next().unwrap_or_default().to_owned()).or_default();
    *count += 1;
    most.is_none_or(|most| *count <= most)
}

/// What came of a call, in what OpenClaw makes of a history that ends with it.
fn result_of_a_tool(text: &str) -> Option<&str> {
    let (_, newest) = text.rsplit_once("[Current message - respond to this]\nTool:")?;
    let (_, result) = newest.split_once(": ")?;
    Some(result.split("\n\nRuntime: agent=").next().unwrap_or_default().trim())
}

fn chunk(choices: Value, usage: Value) -> String {
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_232_797,
                       "model": MODEL, "choices": choices, "usage": usage});
    format!("data: {chunk}\n\n")
}

fn delta(delta: Value, reason: Value) -> String {
    chunk(json!([{"index": 0, "delta": delta, "finish_reason": reason}]), Value::Null)
}

fn call_events(name: &str, arguments: &str) -> Vec<String> {
    let function = json!({"name": name, "arguments": ""});
    let call = json!({"index": 0, "id": "call_1", "type": "function", "function": function});
    let more = json!({"index": 0, "function": {"arguments": arguments}});
    vec![
        delta(json!({"role": "assistant", "content": null, "tool_calls": [call]}), Value::Null),
        delta(json!({"tool_calls": [more]}), Value::Null),
        delta(json!({}), "tool_calls".into()),
        chunk(json!([]), json!({"prompt_tokens": 70, "completion_tokens": 9, "total_tokens": 79})),
        "data: [DONE]\n\n".to_owned(),
    ]
}

fn events(says: &str) -> Vec<String> {
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    events.extend(tokens(says).iter().map(|token| delta(json!({"content": token}), Value::Null)));
    events.push(delta(json!({}), "stop".into()));
    events.push(chunk(json!([]), json!({"prompt_tokens": 70, "completion_tokens": 7, "total_tokens": 77})));
    events.push("data: [DONE]\n\n".to_owned());
    events
}

fn failed(status: u16, running: Running) -> Response<Body> {
    let (kind, message) = match status {
        400 => ("invalid_request_error", "provider-words-canary: bad request"),
        401 => ("invalid_api_key", "provider-words-canary: Incorrect API key provided"),
        404 => ("model_not_found", "provider-words-canary: The model does not exist"),
        429 => ("rate_limit_exceeded", "provider-words-canary: Rate limit reached"),
        _ => ("server_error", "provider-words-canary: internal server error"),
    };
    let error = json!({"error": {"message": message, "type": kind, "code": kind, "param": null}});
    json_answer(status, &error, running)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_users_words_are_found_in_what_openclaw_sends() {
        let runtime = "\n\nRuntime: agent=main | session=agent:main:openai:4a94 | os=linux";
        assert_eq!(
            own_words(&format!("[Sat 2026-11-21 04:16 UTC] my name is Ann{runtime}")),
            "my name is Ann"
        );
        let history = "[Sat 2026-11-21 03:46 UTC] [Chat messages since your last reply - for context]\nUser: first\nAssistant: one\n\n[Current message - respond to this]\nUser: second";
        assert_eq!(own_words(&format!("{history}{runtime}")), "second");
        assert_eq!(own_words("[[model:hang]] [x] y"), "[[model:hang]] [x] y");
        let again = "[Sat 2026-11-21 09:04 UTC] [Queued user message from a previous active turn; preserved as context only.]\nthird [[model:hang]]\n\nContinue the current task from the existing transcript.";
        assert_eq!(own_words(&format!("{again}{runtime}")), "third [[model:hang]]");
    }

    #[test]
    fn what_came_of_a_tool_is_found_in_what_openclaw_sends() {
        let sent = "[Sat 2026-11-21 04:12 UTC] [Chat messages since your last reply - for context]\nUser: weather?\nAssistant: tool_call id=53f097e69 name=get_weather arguments={}\n\n[Current message - respond to this]\nTool:53f097e69: 18 degrees\n\nRuntime: agent=main | os=linux";
        assert_eq!(result_of_a_tool(sent), Some("18 degrees"));
        assert_eq!(result_of_a_tool("[Sat 2026-11-21 04:12 UTC] weather?"), None);
    }

    async fn ask(provider: &Provider, text: &str) -> reqwest::Response {
        let body = json!({"model": MODEL, "stream": true, "messages": [{"role": "user", "content": text}]});
        let request = reqwest::Client::new().post(format!("{}/v1/chat/completions", provider.url()));
        let request = request.bearer_auth(KEY).body(body.to_string());
        request.send().await.expect("an answer")
    }

    #[tokio::test]
    async fn it_streams_fails_and_notes_who_leaves() {
        let provider = Provider::start().await;
        let text = ask(&provider, "hello").await.text().await.expect("a stream");
        assert!(text.contains("\"content\":\"echo: he\"") && text.ends_with("data: [DONE]\n\n"), "{text}");
        assert_eq!(ask(&provider, "[[model:error=429]]").await.status(), 429);
        drop(ask(&provider, "leaving [[model:stall=0]]").await);
        provider.wait_for_abort("leaving").await;
        assert!(!provider.only("hello").aborted);
        let (one, two) =
            tokio::join!(ask(&provider, "a [[model:together=2]]"), ask(&provider, "b [[model:together=2]]"));
        assert_eq!((one.status(), two.status()), (200.try_into().expect("ok"), 200.try_into().expect("ok")));
    }
}
