//! A scripted runtime of self-hosted models, as llama.cpp and vLLM answer: whole or streamed, tool
//! calls, JSON, and failures by directives in the newest text, `[[rt:NAME]]` or `[[rt:NAME=VALUE]]`;
//! or for everybody, while it is [down](Runtime::set_down).
//!
//! | directive | does |
//! | --- | --- |
//! | `tool` | calls the first tool |
//! | `hang`, `stall=K` | says nothing; falls silent after K pieces |
//! | `die`, `cut` | closes the connection at once; in the middle |
//! | `rubbish` | answers what is no answer |
//! | `error=STATUS` | fails |
//! | `together=N` | waits until N such requests are there |

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use hyper::Response;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::scripted::{self, Body, Piece, Running, Script, Seen, Server, json_answer, tokens};

/// The key that it expects.
pub const KEY: &str = "runtime-key-canary-5f2b";
/// A word in everything that it says of its failures: it may reach no client.
pub const DETAIL: &str = "runtime-words-canary";

/// The scripted runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    server: Server,
    down: Arc<AtomicBool>,
}

impl Runtime {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let down = Arc::new(AtomicBool::new(false));
        let together = Arc::new(watch::channel(0).0);
        let state = (Arc::clone(&down), together);
        let server = Server::start(move |seen, running| answer(seen, running, state.clone())).await;
        Self { server, down }
    }

    /// Its base URL, with `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/v1", self.server.url)
    }

    /// From now on it closes every connection, or answers again.
    pub fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// The requests whose newest text contains the marker.
    #[must_use]
    pub fn seen(&self, marker: &str) -> Vec<Seen> {
        self.server.seen(marker)
    }

    /// Waits until a request with the marker has come.
    pub async fn wait_for(&self, marker: &str) {
        self.server.wait_for(marker, "a request", |_| true).await;
    }

    /// Waits until the connection of a request with the marker was closed early.
    pub async fn wait_for_abort(&self, marker: &str) {
        self.server.wait_for_abort(marker).await;
    }
}

type State = (Arc<AtomicBool>, Arc<watch::Sender<usize>>);

async fn answer(seen: Seen, mut running: Running, (down, together): State) -> io::Result<Response<Body>> {
    let text = seen.text();
    let script = Script::of("rt", &text);
    if down.load(Ordering::SeqCst) || script.has("die") {
        running.end();
        return Err(io::Error::other("down on purpose"));
    }
    let failed = |status: u16, running| {
        let error = json!({"error": {"message": format!("{DETAIL}: failed"), "type": "server_error", "code": status}});
        json_answer(status, &error, running)
    };
    if seen.path != "/v1/chat/completions" {
        return Ok(failed(404, running));
    }
    if seen.header("authorization") != Some(format!("Bearer {KEY}").as_str()) {
        return Ok(failed(401, running));
    }
    if let Some(count) = script.number("together") {
        together.send_modify(|waiting| *waiting += 1);
        // The sender is ours: it cannot be gone.
        let _ = together.subscribe().wait_for(|waiting| *waiting >= count).await;
    }
    if let Some(status) = script.number("error") {
        return Ok(failed(u16::try_from(status).unwrap_or(500), running));
    }
    if script.has("hang") {
        return running.hang().await;
    }
    if script.has("rubbish") {
        let streamed = seen.body["stream"] == true;
        let (kind, body) = match streamed {
            true => ("text/event-stream", format!("data: {DETAIL}\n\n")),
            false => ("application/json", DETAIL.to_owned()),
        };
        return Ok(scripted::answer(200, kind, vec![body.into()], running));
    }
    let words = text.split("[[").next().unwrap_or_default().trim().to_owned();
    let message = if script.has("tool") {
        let name = &seen.body["tools"][0]["function"]["name"];
        let call = json!({"index": 0, "id": "call_1", "type": "function", "function": {"name": name, "arguments": "{\"city\":\"深圳\"}"}});
        json!({"role": "assistant", "content": null, "tool_calls": [call]})
    } else if seen.body["response_format"]["type"] == "json_object" {
        json!({"role": "assistant", "content": json!({"echo": words}).to_string()})
    } else {
        json!({"role": "assistant", "content": format!("echo: {words}")})
    };
    let reason = if script.has("tool") { "tool_calls" } else { "stop" };
    let model = &seen.body["model"];
    let usage = json!({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15});
    if seen.body["stream"] != true {
        let choice = json!({"index": 0, "message": message, "finish_reason": reason});
        let whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1_795_232_797, "model": model,
                           "choices": [choice], "usage": usage});
        return Ok(json_answer(200, &whole, running));
    }
    let asked = seen.body["stream_options"]["include_usage"] == true;
    let pieces = stream(model, &message, reason, asked.then_some(usage), &script);
    Ok(scripted::answer(200, "text/event-stream", pieces, running))
}

fn stream(model: &Value, message: &Value, reason: &str, usage: Option<Value>, script: &Script) -> Vec<Piece> {
    let chunk = |choices: Value, usage: &Value| {
        let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_795_232_797,
                           "model": model, "choices": choices, "usage": usage});
        format!("data: {chunk}\n\n")
    };
    let delta = |delta: Value, reason: Value| {
        chunk(json!([{"index": 0, "delta": delta, "finish_reason": reason}]), &Value::Null)
    };
    let mut events = vec![delta(json!({"role": "assistant", "content": ""}), Value::Null)];
    match message["content"].as_str() {
        Some(text) => {
            events.extend(tokens(text).iter().map(|token| delta(json!({"content": token}), Value::Null)))
        }
        None => events.push(delta(json!({"tool_calls": message["tool_calls"]}), Value::Null)),
    }
    events.push(delta(json!({}), reason.into()));
    events.extend(usage.map(|usage| chunk(json!([]), &usage)));
    events.push("data: [DONE]\n\n".to_owned());
    let mut pieces = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        if script.number("stall").is_some_and(|count| index == 1 + count) {
            pieces.push(Piece::Forever);
        }
        if script.has("cut") && index == 2 {
            pieces.extend([Piece::FLUSHED, Piece::Break]);
        }
        pieces.push(event.into());
    }
    pieces
}
