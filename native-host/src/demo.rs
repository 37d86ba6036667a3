//! The built-in demo upstream: answers in OpenClaw's formats, so that a first `curl` works
//! before there is a Gateway. Every answer says that it is a demo. Dev only.

use std::{convert::Infallible, net::Ipv4Addr, thread, time::Duration};

use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::{journal, server::runtime};

/// The time between two pieces of a streamed answer.
const PACE: Duration = Duration::from_millis(60);

type Answer = Response<StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// Starts it in a thread of this process; gives its URL.
///
/// # Errors
/// When no port of the loopback interface can be had.
pub(crate) fn start() -> Result<String, String> {
    let (url, listener) = bind(0)?;
    thread::spawn(move || serve(listener));
    Ok(url)
}

/// Runs it as the process's only work.
///
/// # Errors
/// When the port of the loopback interface cannot be had.
pub fn run(port: u16) -> Result<(), String> {
    let (url, listener) = bind(port)?;
    journal::event("info", "demo_listening", &[("url", url.into())]);
    serve(listener)
}

fn bind(port: u16) -> Result<(String, std::net::TcpListener), String> {
    let problem = |error: std::io::Error| format!("demo upstream: {error}");
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(problem)?;
    listener.set_nonblocking(true).map_err(problem)?;
    let url = format!("http://{}", listener.local_addr().map_err(problem)?);
    Ok((url, listener))
}

fn serve(listener: std::net::TcpListener) -> Result<(), String> {
    runtime()?.block_on(async {
        let listener = TcpListener::from_std(listener).map_err(|error| format!("demo upstream: {error}"))?;
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            tokio::spawn(connection);
        }
    })
}

async fn answer(request: Request<Incoming>) -> Result<Answer, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let streamed = body["stream"] == true;
    Ok(match path.as_str() {
        "/readyz" => whole(&json!({"ready": true})),
        "/v1/chat/completions" => {
            let text = reply(&body["messages"]);
            if streamed { completions_stream(&text) } else { whole(&completion(&text)) }
        }
        "/v1/responses" => {
            let text = reply(&body["input"]);
            if streamed { responses_stream(&text) } else { whole(&response(&text)) }
        }
        _ => {
            let mut answer = whole(&json!({"error": {"message": "Not Found", "type": "not_found"}}));
            *answer.status_mut() = hyper::StatusCode::NOT_FOUND;
            answer
        }
    })
}

/// What the demo says: what it got.
fn reply(messages: &Value) -> String {
    let content =
        messages.as_array().and_then(|list| list.last()).map_or(&Value::Null, |last| &last["content"]);
    let parts = content.as_array().map(Vec::as_slice).unwrap_or_default();
    let of = |kind: &str| parts.iter().filter(|part| part["type"] == kind).count();
    let text =
        content.as_str().or_else(|| parts.iter().find_map(|part| part["text"].as_str())).unwrap_or_default();
    let mut out = format!(
        "[demo] 这是内置演示上游，不是 OpenClaw。This is the built-in demo upstream, not OpenClaw. You said: {text}"
    );
    let (images, files) = (of("input_image"), of("input_file"));
    if images + files > 0 {
        out.push_str(&format!(" ({images} picture(s), {files} file(s))"));
    }
    out
}

fn completion(text: &str) -> Value {
    let tokens = text.chars().count();
    json!({"id": "chatcmpl_demo", "object": "chat.completion", "created": 0, "model": "openclaw",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": tokens, "total_tokens": 2 * tokens}})
}

fn response(text: &str) -> Value {
    let tokens = text.chars().count();
    json!({"id": "resp_demo", "object": "response", "created_at": 0, "status": "completed", "model": "openclaw",
        "output": [{"type": "message", "id": "msg_demo", "role": "assistant", "status": "completed",
                    "content": [{"type": "output_text", "text": text}]}],
        "usage": {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": 2 * tokens}})
}

fn completions_stream(text: &str) -> Answer {
    let chunk = |delta: Value, finish: Value| {
        json!({"id": "chatcmpl_demo", "object": "chat.completion.chunk", "created": 0, "model": "openclaw",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
    };
    let mut events = vec![chunk(json!({"role": "assistant"}), Value::Null)];
    events.extend(words(text).map(|word| chunk(json!({"content": word}), Value::Null)));
    events.push(chunk(json!({}), "stop".into()));
    let mut usage = completion(text);
    usage["object"] = "chat.completion.chunk".into();
    usage["choices"] = json!([]);
    events.push(usage);
    streamed(events)
}

fn responses_stream(text: &str) -> Answer {
    let mut events = vec![json!({"type": "response.created", "response": {"status": "in_progress"}})];
    events.extend(words(text).map(|word| json!({"type": "response.output_text.delta", "delta": word})));
    events.push(json!({"type": "response.completed", "response": response(text)}));
    streamed(events)
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive(['，', '。', ' '])
}

fn whole(value: &Value) -> Answer {
    let body = stream::iter([Ok(Frame::data(Bytes::from(value.to_string())))]).boxed();
    typed(body, "application/json; charset=utf-8")
}

fn streamed(events: Vec<Value>) -> Answer {
    let texts = events.into_iter().map(|event| event.to_string()).chain(["[DONE]".to_owned()]);
    let body = stream::iter(texts)
        .then(|data| async move {
            tokio::time::sleep(PACE).await;
            Ok(Frame::data(Bytes::from(format!("data: {data}\n\n"))))
        })
        .boxed();
    typed(body, "text/event-stream; charset=utf-8")
}

fn typed(body: BoxStream<'static, Result<Frame<Bytes>, Infallible>>, kind: &'static str) -> Answer {
    let mut response = Response::new(StreamBody::new(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
