//! A scripted OpenClaw Gateway: answers as the real one (2026.9.6) was captured to answer,
//! and fails as a directive in the newest user text says: `[[up:NAME]]` or `[[up:NAME=VALUE]]`.
//! What came of tools stands at the end of its answer.
//!
//! | directive | does |
//! | --- | --- |
//! | `text=T`, `huge=N`, `length` | what the answer is, and why it ended |
//! | `call=NAME {…}` | wants that tool called; the second one after the result of the first |
//! | `fail=CASE` | a failed answer: see [`failure`]; in a stream, an error event after the head |
//! | `status=CASE` | the same as an HTTP status also for a stream |
//! | `hang`, `silent_after=K` | says nothing; falls silent after K pieces |
//! | `slow=MS` | waits before each piece |
//! | `reset`, `truncate`, `nodone`, `html`, `empty` | breaks off, or is not what it should be |
//! | `split` | cuts the stream into single bytes |

use std::{
    io,
    ops::Deref,
    sync::atomic::{AtomicU32, Ordering},
};

use hyper::{Response, header::RETRY_AFTER};
use serde_json::{Value, json};

use crate::scripted::{self, Body, Piece, Running, Script, Seen, Server, json_answer, tokens};

/// The token that the scripted Gateway expects.
pub const TOKEN: &str = "gateway-token-canary-77aa";

/// The scripted Gateway.
#[derive(Clone, Debug)]
pub struct Upstream(Server);

impl Deref for Upstream {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.0
    }
}

impl Upstream {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        Self(Server::start(answer).await)
    }

    /// A URL where nothing listens.
    pub async fn refusing() -> String {
        scripted::free_port().await.1
    }
}

/// A failed answer of the real Gateway: status, error type and message.
fn failure(case: &str) -> (u16, &'static str, &'static str) {
    match case {
        "provider400" => (400, "invalid_request_error", "400 stub: bad request"),
        "provider401" => (401, "authentication_error", "401 stub: Incorrect API key provided"),
        "provider403" => (403, "authentication_error", "403 stub: forbidden"),
        "provider404" => (404, "invalid_request_error", "404 stub: The thing does not exist"),
        "provider429" => (429, "rate_limit_error", "429 stub: Rate limit reached"),
        "provider503" => (503, "api_error", "upstream provider overloaded"),
        "provider_timeout" => (408, "api_error", "upstream provider timeout"),
        "provider_error" => (502, "api_error", "upstream provider error"),
        "cooldown" => (
            500,
            "api_error",
            "Inline API key for provider \"stub\" is temporarily disabled after a failure.",
        ),
        "unauthorized" => (401, "unauthorized", "Unauthorized"),
        "proxy" => (403, "proxy_attribution_required", "Proxy attribution required"),
        "locked_out" => {
            (429, "rate_limited", "Too many failed authentication attempts. Please try again later.")
        }
        "too_large" => (413, "invalid_request_error", "Payload too large"),
        "draining" => {
            (503, "service_unavailable", "Gateway is temporarily unavailable while suspending or restarting")
        }
        "agents" => (400, "invalid_request_error", "Multiple agents are configured; pass a model"),
        _ => (500, "api_error", "internal error"),
    }
}

async fn answer(seen: Seen, mut running: Running) -> io::Result<Response<Body>> {
    if seen.path == "/readyz" {
        return Ok(json_answer(200, &json!({"ready": true, "failing": [], "uptimeMs": 1}), running));
    }
    let is_responses = seen.path == "/v1/responses";
    if !(is_responses || seen.path == "/v1/chat/completions") {
        return Ok(json_answer(404, &Value::from("Not Found"), running));
    }
    let results = seen.results();
    let text = if results.is_empty() { seen.text() } else { seen.question() };
    let script = Script::of("up", &text);
    if seen.header("authorization") != Some(format!("Bearer {TOKEN}").as_str()) {
        return Ok(failed("unauthorized", is_responses, running));
    }
    if script.has("reset") {
        running.end();
        return Err(io::Error::other("reset on purpose"));
    }
    if script.has("hang") {
        return running.hang().await;
    }
    if let Some(case) = script.get("status") {
        return Ok(failed(case, is_responses, running));
    }
    let streamed = seen.body["stream"] == true;
    if let (Some(case), false) = (script.get("fail"), streamed) {
        return Ok(failed(case, is_responses, running));
    }
    if script.has("html") {
        let pieces = vec!["<html><body>not json</body></html>".into()];
        return Ok(scripted::answer(200, "text/html", pieces, running));
    }
    let offered = seen.body["tools"].as_array().is_some_and(|tools| !tools.is_empty());
    let calls = script.all("call");
    if let (true, Some((name, arguments))) =
        (offered, calls.get(results.len()).and_then(|call| call.split_once(' ')))
    {
        let events = if is_responses { item_call(name, arguments) } else { chat_call(name, arguments) };
        let pieces = script_stream(&script, is_responses, events);
        return Ok(scripted::answer(200, "text/event-stream; charset=utf-8", pieces, running));
    }
    let mut says = if let Some(text) = script.get("text") {
        text.to_owned()
    } else if let Some(length) = script.number("huge") {
        "lorem 文字 ".repeat(length / 13 + 1)
    } else if script.has("empty") {
        String::new()
    } else {
        format!("echo: {}", text.split("[[").next().unwrap_or_default().trim())
    };
    for result in &results {
        says.push_str(&format!(" | {}", between_marks(result)));
    }
    let status = if script.has("length") { "incomplete" } else { "completed" };
    let usage = (1997, says.chars().count());
    if streamed {
        let events = if is_responses {
            responses_events(&says, status, usage)
        } else {
            chat_events(&says, status, usage)
        };
        let pieces = script_stream(&script, is_responses, events);
        return Ok(scripted::answer(200, "text/event-stream; charset=utf-8", pieces, running));
    }
    let value =
        if is_responses { responses_body(&says, status, usage) } else { chat_body(&says, status, usage) };
    let mut bytes = value.to_string();
    let mut pieces: Vec<Piece> = script.number("slow").map(Piece::wait).into_iter().collect();
    if script.has("truncate") {
        bytes.truncate(bytes.len() / 2);
        pieces.extend([bytes.into(), Piece::FLUSHED, Piece::Break]);
    } else {
        pieces.push(bytes.into());
    }
    Ok(scripted::answer(200, "application/json; charset=utf-8", pieces, running))
}

/// Refusals of the Gateway itself have one form on both APIs, failed runs another on Responses.
fn failed(case: &str, is_responses: bool, running: Running) -> Response<Body> {
    let (status, kind, message) = failure(case);
    let of_run = case.starts_with("provider") || case == "cooldown" || case == "internal";
    let value = if is_responses && of_run {
        json!({"id": "resp_x", "object": "response", "created_at": 1, "status": "failed", "model": "openclaw", "output": [],
               "usage": {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}, "error": {"code": kind, "message": message}})
    } else {
        json!({"error": {"message": message, "type": kind}})
    };
    let mut response = json_answer(status, &value, running);
    if case == "draining" {
        response.headers_mut().insert(RETRY_AFTER, "1".parse().expect("a header"));
    }
    response
}

fn script_stream(script: &Script, is_responses: bool, events: Vec<String>) -> Vec<Piece> {
    // The head of a Responses stream is four events, of a Chat stream one; the text follows.
    let head = if is_responses { 4 } else { 1 };
    let mut events = events;
    if let Some(case) = script.get("fail") {
        let (_, kind, message) = failure(case);
        events.truncate(head + script.number("after").unwrap_or(0));
        events.push(if is_responses {
            let response =
                json!({"status": "failed", "output": [], "error": {"code": kind, "message": message}});
            sse("response.failed", &json!({"type": "response.failed", "response": response}))
        } else {
            format!("data: {}\n\n", json!({"error": {"message": message, "type": kind}}))
        });
        events.push("data: [DONE]\n\n".into());
    }
    if script.has("nodone") {
        events.pop();
    }
    let silent = script.number("silent_after").map(|count| head + count);
    let truncated = script.has("truncate").then_some(head + 1);
    let mut pieces = Vec::new();
    for (index, event) in events.into_iter().enumerate() {
        if Some(index) == silent {
            pieces.push(Piece::Forever);
        }
        if Some(index) == truncated {
            let half = event.len() / 2;
            let half = (half..event.len()).find(|at| event.is_char_boundary(*at)).unwrap_or(half);
            pieces.extend([event[..half].to_owned().into(), Piece::FLUSHED, Piece::Break]);
            break;
        }
        if let (Some(wait), true) = (script.number("slow"), index >= head) {
            pieces.push(Piece::wait(wait));
        }
        if script.has("split") {
            pieces.extend(event.bytes().map(|byte| vec![byte].into()));
        } else {
            pieces.push(event.into());
        }
    }
    pieces
}

fn chat_body(text: &str, status: &str, (input, output): (usize, usize)) -> Value {
    json!({"id": "chatcmpl_37aa89a9-88a3-4c9e-a395-b6dac1fe0ec7", "object": "chat.completion", "created": 1795232797,
        "model": "openclaw",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason(status)}],
        "usage": {"prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output}})
}

fn reason(status: &str) -> &'static str {
    if status == "incomplete" { "length" } else { "stop" }
}

fn responses_body(text: &str, status: &str, (input, output): (usize, usize)) -> Value {
    let mut value = json!({"id": "resp_e1d78fe0-6ecd-43c4-858d-2bc0fb3ac638", "object": "response", "created_at": 1795232802,
        "status": status, "model": "openclaw",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "output_text", "text": text}],
                    "phase": "final_answer", "status": status}],
        "usage": {"input_tokens": input, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                  "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": input + output}});
    if status == "incomplete" {
        value["incomplete_details"] = json!({"reason": "max_output_tokens"});
    }
    value
}

fn chat_events(text: &str, status: &str, usage: (usize, usize)) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({"id": "chatcmpl_d76e1091", "object": "chat.completion.chunk", "created": 1795232799, "model": "openclaw",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant"}), Value::Null)];
    events.extend(tokens(text).iter().map(|piece| chunk(json!({"content": piece}), Value::Null)));
    events.push(chunk(json!({}), reason(status).into()));
    let mut last = chat_body(text, status, usage);
    last["object"] = "chat.completion.chunk".into();
    last["choices"] = json!([]);
    events.push(format!("data: {last}\n\n"));
    events.push("data: [DONE]\n\n".into());
    events
}

/// A call in a Chat stream: its name, then its arguments in pieces of 256 characters. Only a streamed
/// request has tools.
fn chat_call(name: &str, arguments: &str) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({"id": "chatcmpl_4a3780a1", "object": "chat.completion.chunk", "created": 1795238024,
            "model": "openclaw", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    let function = json!({"name": name, "arguments": ""});
    let call = json!({"index": 0, "id": call_id(), "type": "function", "function": function});
    let mut events = vec![
        chunk(json!({"role": "assistant"}), Value::Null),
        chunk(json!({"tool_calls": [call]}), Value::Null),
    ];
    for piece in arguments.chars().collect::<Vec<char>>().chunks(256) {
        let more = json!({"index": 0, "function": {"arguments": piece.iter().collect::<String>()}});
        events.push(chunk(json!({"tool_calls": [more]}), Value::Null));
    }
    events.push(chunk(json!({}), "tool_calls".into()));
    events.push("data: [DONE]\n\n".into());
    events
}

/// A call in a Responses stream: an item of its own after an empty message, in one piece.
fn item_call(name: &str, arguments: &str) -> Vec<String> {
    let mut events = responses_events("", "completed", (2018, 38));
    let end = events.pop();
    events.pop();
    let item = json!({"type": "function_call", "id": "call_e6a7e2c4", "call_id": call_id(), "name": name,
                      "arguments": arguments, "status": "completed"});
    for kind in ["response.output_item.added", "response.output_item.done"] {
        events.push(sse(kind, &json!({"type": kind, "output_index": 1, "item": item})));
    }
    let mut response = responses_body("", "completed", (2018, 38));
    if let Some(output) = response["output"].as_array_mut() {
        output.push(item);
    }
    events.push(sse("response.completed", &json!({"type": "response.completed", "response": response})));
    events.extend(end);
    events
}

/// Nine hexadecimal digits, always others.
fn call_id() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{:09x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A result without the marks that the gateway puts around what is only data.
fn between_marks(result: &str) -> &str {
    let inner = result.split_once('>').and_then(|(_, rest)| rest.rsplit_once("</"));
    inner.map_or(result, |(inner, _)| inner).trim()
}

fn sse(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn responses_events(text: &str, status: &str, usage: (usize, usize)) -> Vec<String> {
    let mut begun = responses_body("", "in_progress", (0, 0));
    begun["output"] = json!([]);
    let event = |name: &str, mut data: Value| {
        data["type"] = name.into();
        sse(name, &data)
    };
    let place = json!({"item_id": "msg_1", "output_index": 0, "content_index": 0});
    let placed = |key: &str, value: Value| {
        let mut data = place.clone();
        data[key] = value;
        data
    };
    let mut events = vec![
        event("response.created", json!({"response": begun})),
        event("response.in_progress", json!({"response": begun})),
        event(
            "response.output_item.added",
            json!({"output_index": 0, "item": {"type": "message", "content": []}}),
        ),
        event("response.content_part.added", placed("part", json!({"type": "output_text", "text": ""}))),
    ];
    events.extend(
        tokens(text)
            .iter()
            .map(|piece| event("response.output_text.delta", placed("delta", piece.as_str().into()))),
    );
    events.push(event("response.output_text.done", placed("text", text.into())));
    events.push(event(
        "response.content_part.done",
        placed("part", json!({"type": "output_text", "text": text})),
    ));
    let whole = responses_body(text, status, usage);
    events.push(event("response.output_item.done", json!({"output_index": 0, "item": whole["output"][0]})));
    events.push(event(&format!("response.{status}"), json!({"response": whole})));
    events.push("data: [DONE]\n\n".into());
    events
}
