//! A scripted OpenClaw Gateway: answers as the real one (2026.9.6) was captured to answer,
//! and fails as a directive in the newest user text says: `[[up:NAME]]` or `[[up:NAME=VALUE]]`.
//!
//! | directive | does |
//! | --- | --- |
//! | `text=T`, `huge=N`, `length` | what the answer is, and why it ended |
//! | `fail=CASE` | a failed answer: see [`failure`]; in a stream, an error event after the head |
//! | `status=CASE` | the same as an HTTP status also for a stream |
//! | `hang`, `silent_after=K` | says nothing; falls silent after K pieces |
//! | `slow=MS` | waits before each piece |
//! | `reset`, `truncate`, `nodone`, `html`, `empty` | breaks off, or is not what it should be |
//! | `split` | cuts the stream into single bytes |

use std::{
    convert::Infallible,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream::unfold};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch};

/// The token that the scripted Gateway expects.
pub const TOKEN: &str = "gateway-token-canary-77aa";

/// The only agent of the scripted Gateway besides the plain names.
pub const AGENT: &str = "main";

/// One request that the Gateway got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The path.
    pub path: String,
    /// The headers, lower-case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Value,
    /// The raw body.
    pub raw: Bytes,
    /// Whether the other side closed before the answer was complete.
    pub aborted: bool,
    /// Pieces of the answer that were taken.
    pub pieces: usize,
}

impl Seen {
    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The newest message's content.
    #[must_use]
    pub fn newest(&self) -> &Value {
        newest(&self.body)
    }
}

fn newest(body: &Value) -> &Value {
    let list = body["messages"].as_array().or_else(|| body["input"].as_array());
    list.and_then(|list| list.last()).map_or(&Value::Null, |message| &message["content"])
}

/// The text of a message's content, whichever form it has.
fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            parts.iter().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

#[derive(Debug)]
struct Shared {
    seen: Mutex<Vec<Seen>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn change(&self, apply: impl FnOnce(&mut Vec<Seen>)) {
        apply(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.send_modify(|count| *count += 1);
    }
}

/// The scripted Gateway.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its base URL.
    pub url: String,
    shared: Arc<Shared>,
}

impl Upstream {
    /// Starts it on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shared = Arc::new(Shared { seen: Mutex::default(), changed: watch::channel(0).0 });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let shared = Arc::clone(&accepting);
                let service = service_fn(move |request| answer(Arc::clone(&shared), request));
                // `reset` makes the service fail, which closes the connection.
                tokio::spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await)
                });
            }
        });
        Self { url, shared }
    }

    /// A URL where nothing listens.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn refusing() -> String {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        format!("http://{}", listener.local_addr().expect("bound"))
    }

    /// The requests whose text contains the marker.
    #[must_use]
    pub fn seen(&self, marker: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.iter().filter(|seen| text_of(seen.newest()).contains(marker)).cloned().collect()
    }

    /// Waits until a request with the marker fulfils a condition.
    ///
    /// # Panics
    /// When none does within 20 s.
    pub async fn wait_for(&self, marker: &str, what: &str, holds: impl Fn(&Seen) -> bool) -> Seen {
        let mut changed = self.shared.changed.subscribe();
        let search = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = self.seen(marker).into_iter().find(&holds) {
                    return found;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), search).await;
        found.unwrap_or_else(|_| panic!("the upstream did not see: {what}; it saw {:?}", self.seen(marker)))
    }

    /// Waits until the connection of a request with the marker was closed early.
    pub async fn wait_for_abort(&self, marker: &str) -> Seen {
        self.wait_for(marker, "an abort", |seen| seen.aborted).await
    }
}

/// What is sent, step by step.
#[derive(Clone, Debug)]
enum Piece {
    Bytes(Bytes),
    Wait(Duration),
    Forever,
    Break,
}

/// Long enough for what was sent before to be on its way: an error at once would take it along.
const FLUSHED: Piece = Piece::Wait(Duration::from_millis(50));

/// A running answer: notes that it was cut off if it is dropped before its end.
struct Running {
    shared: Arc<Shared>,
    index: usize,
    ended: bool,
}

impl Running {
    fn end(&mut self) {
        self.ended = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            let index = self.index;
            self.shared.change(|seen| seen[index].aborted = true);
        }
    }
}

type Body = StreamBody<Pieces>;

/// The rest of an answer.
struct Pieces(Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>>);

impl Stream for Pieces {
    type Item = Result<Frame<Bytes>, std::io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

fn body(pieces: Vec<Piece>, running: Running) -> Body {
    let state = (pieces.into_iter(), running);
    StreamBody::new(Pieces(Box::pin(unfold(state, |(mut pieces, mut running)| async move {
        loop {
            match pieces.next() {
                Some(Piece::Bytes(bytes)) => {
                    let index = running.index;
                    running.shared.change(|seen| seen[index].pieces += 1);
                    return Some((Ok(Frame::data(bytes)), (pieces, running)));
                }
                Some(Piece::Wait(time)) => tokio::time::sleep(time).await,
                Some(Piece::Forever) => std::future::pending().await,
                Some(Piece::Break) => {
                    return Some((Err(std::io::Error::other("broken on purpose")), (pieces, running)));
                }
                None => {
                    running.end();
                    return None;
                }
            }
        }
    }))))
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

/// The directives of a text.
struct Script(Vec<(String, String)>);

impl Script {
    fn of(text: &str) -> Self {
        let directives = text.split("[[up:").skip(1).filter_map(|rest| rest.split_once("]]"));
        Self(
            directives
                .map(|(one, _)| one.split_once('=').unwrap_or((one, "")))
                .map(|(k, v)| (k.into(), v.into()))
                .collect(),
        )
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }
}

async fn answer(shared: Arc<Shared>, request: Request<Incoming>) -> Result<Response<Body>, std::io::Error> {
    let (parts, incoming) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let authorised =
        parts.headers.get("authorization").is_some_and(|value| value == format!("Bearer {TOKEN}").as_str());
    let headers = parts
        .headers
        .iter()
        .map(|(k, v)| (k.to_string(), v.to_str().unwrap_or_default().to_owned()))
        .collect();
    let raw = incoming.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let request: Value = serde_json::from_slice(&raw).unwrap_or_default();
    let text = text_of(newest(&request));
    let mut index = 0;
    let seen = Seen { path: path.clone(), headers, body: request.clone(), raw, aborted: false, pieces: 0 };
    shared.change(|all| {
        index = all.len();
        all.push(seen);
    });
    let running = Running { shared, index, ended: false };
    if path == "/readyz" {
        return Ok(json_answer(200, &json!({"ready": true, "failing": [], "uptimeMs": 1}), running));
    }
    let is_responses = path == "/v1/responses";
    if !(is_responses || path == "/v1/chat/completions") {
        return Ok(json_answer(404, &Value::from("Not Found"), running));
    }
    let script = Script::of(&text);
    if !authorised {
        return Ok(failed("unauthorized", is_responses, running));
    }
    if script.has("reset") {
        let mut running = running;
        running.end();
        return Err(std::io::Error::other("reset on purpose"));
    }
    if script.has("hang") {
        // Dropped with the connection, and noted then.
        let _running = running;
        std::future::pending::<Infallible>().await;
        unreachable!("never answers");
    }
    if let Some(case) = script.get("status") {
        return Ok(failed(case, is_responses, running));
    }
    let streamed = request["stream"] == true;
    if let (Some(case), false) = (script.get("fail"), streamed) {
        return Ok(failed(case, is_responses, running));
    }
    if script.has("html") {
        let pieces = vec![Piece::Bytes(Bytes::from_static(b"<html><body>not json</body></html>"))];
        return Ok(typed("text/html", body(pieces, running)));
    }
    let says = if let Some(text) = script.get("text") {
        text.to_owned()
    } else if let Some(length) = script.number("huge") {
        "lorem 文字 ".repeat(length / 13 + 1)
    } else if script.has("empty") {
        String::new()
    } else {
        format!("echo: {}", text.split("[[").next().unwrap_or_default().trim())
    };
    let status = if script.has("length") { "incomplete" } else { "completed" };
    let usage = (1997, says.chars().count());
    if streamed {
        let events = if is_responses {
            responses_events(&says, status, usage)
        } else {
            chat_events(&says, status, usage)
        };
        let pieces = script_stream(&script, is_responses, events);
        return Ok(typed("text/event-stream; charset=utf-8", body(pieces, running)));
    }
    let value =
        if is_responses { responses_body(&says, status, usage) } else { chat_body(&says, status, usage) };
    let mut bytes = value.to_string();
    let mut pieces = Vec::new();
    if let Some(wait) = script.number("slow") {
        pieces.push(Piece::Wait(Duration::from_millis(wait as u64)));
    }
    if script.has("truncate") {
        bytes.truncate(bytes.len() / 2);
        pieces.extend([Piece::Bytes(bytes.into()), FLUSHED, Piece::Break]);
    } else {
        pieces.push(Piece::Bytes(bytes.into()));
    }
    Ok(typed("application/json; charset=utf-8", body(pieces, running)))
}

fn typed(kind: &str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a header"));
    response
}

fn json_answer(status: u16, value: &Value, running: Running) -> Response<Body> {
    let mut response =
        typed("application/json; charset=utf-8", body(vec![Piece::Bytes(value.to_string().into())], running));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response
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
            pieces.extend([Piece::Bytes(event[..half].to_owned().into()), FLUSHED, Piece::Break]);
            break;
        }
        if let (Some(wait), true) = (script.number("slow"), index >= head) {
            pieces.push(Piece::Wait(Duration::from_millis(wait as u64)));
        }
        if script.has("split") {
            pieces.extend(event.bytes().map(|byte| Piece::Bytes(Bytes::copy_from_slice(&[byte]))));
        } else {
            pieces.push(Piece::Bytes(event.into()));
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

/// Pieces of eight characters, as the captured streams have.
fn pieces_of(text: &str) -> Vec<String> {
    let size = if text.len() > 10_000 { 1024 } else { 8 };
    text.chars().collect::<Vec<char>>().chunks(size).map(|piece| piece.iter().collect()).collect()
}

fn chat_events(text: &str, status: &str, usage: (usize, usize)) -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({"id": "chatcmpl_d76e1091", "object": "chat.completion.chunk", "created": 1795232799, "model": "openclaw",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant"}), Value::Null)];
    events.extend(pieces_of(text).iter().map(|piece| chunk(json!({"content": piece}), Value::Null)));
    events.push(chunk(json!({}), reason(status).into()));
    let mut last = chat_body(text, status, usage);
    last["object"] = "chat.completion.chunk".into();
    last["choices"] = json!([]);
    events.push(format!("data: {last}\n\n"));
    events.push("data: [DONE]\n\n".into());
    events
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
        pieces_of(text)
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
