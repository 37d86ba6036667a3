//! A scripted OpenClaw that costs as little as can be: raw HTTP/1.1 in a thread of its own.
//! Answers are whole, or a stream of 21 events, each flushed by itself a millisecond after
//! the one before, so that a proxy sees 21 pieces.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::{
    Result,
    load::{find, header_number},
};

/// What every whole answer says.
pub(super) const SAYS: &str =
    "航班九点半起飞。Please be at the airport at 07:30, two hours before departure.";
/// Events of a stream that carry text.
const DELTAS: usize = 17;
/// The time between two events.
const PACE: Duration = Duration::from_millis(1);

/// The upstream.
pub(super) struct Upstream {
    pub address: SocketAddr,
    last: Arc<Mutex<Vec<u8>>>,
}

/// What it answers, made once.
struct Answers {
    ready: Vec<u8>,
    completion: Vec<u8>,
    response: Vec<u8>,
    events: Vec<Vec<u8>>,
}

impl Upstream {
    /// Starts it on a free port.
    pub(super) fn start() -> Result<Self> {
        let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let last = Arc::new(Mutex::new(Vec::new()));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = Arc::clone(&last);
        thread::Builder::new().name("upstream".into()).spawn(move || {
            runtime.block_on(async move {
                let Ok(listener) = TcpListener::from_std(listener) else { return };
                let answers = Arc::new(answers());
                while let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    tokio::spawn(serve(stream, Arc::clone(&answers), Arc::clone(&kept)));
                }
            });
        })?;
        Ok(Self { address, last })
    }

    /// The body of the newest request.
    pub(super) fn last_body(&self) -> Vec<u8> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One connection: request, answer, request, answer.
async fn serve(mut stream: TcpStream, answers: Arc<Answers>, last: Arc<Mutex<Vec<u8>>>) -> Option<()> {
    let mut buffer = Vec::with_capacity(2 << 20);
    loop {
        buffer.clear();
        let body_at = loop {
            read(&mut stream, &mut buffer).await?;
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at + 4;
            }
        };
        let length = header_number(&buffer[..body_at], "content-length");
        let chunked = length.is_none() && buffer.starts_with(b"POST");
        while if chunked {
            !buffer.ends_with(b"\r\n0\r\n\r\n")
        } else {
            buffer.len() < body_at + length.unwrap_or(0)
        } {
            read(&mut stream, &mut buffer).await?;
        }
        let (head, body) = buffer.split_at(body_at);
        let streamed = body.len() < 65_536 && find(body, b"\"stream\":true").is_some();
        {
            let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
            // Copied for the requests that are tried first, not for each that is measured.
            if last.len() != body.len() {
                last.clear();
                last.extend_from_slice(body);
            }
        }
        if streamed {
            for (index, event) in answers.events.iter().enumerate() {
                if index > 0 {
                    tokio::time::sleep(PACE).await;
                }
                stream.write_all(event).await.ok()?;
            }
        } else if head.starts_with(b"GET") {
            stream.write_all(&answers.ready).await.ok()?;
        } else if head.starts_with(b"POST /v1/responses") {
            stream.write_all(&answers.response).await.ok()?;
        } else {
            stream.write_all(&answers.completion).await.ok()?;
        }
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> Option<()> {
    let count = stream.read_buf(buffer).await.ok()?;
    (count > 0).then_some(())
}

fn answers() -> Answers {
    Answers {
        ready: whole(&json!({"ready": true, "failing": [], "uptimeMs": 1})),
        completion: whole(&completion()),
        response: whole(&response()),
        events: pieces(),
    }
}

fn whole(value: &Value) -> Vec<u8> {
    let body = value.to_string();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer";
    format!("{head}\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n{body}", body.len()).into_bytes()
}

/// `/v1/chat/completions`, whole.
pub(super) fn completion() -> Value {
    json!({"id": "chatcmpl_37aa89a9-88a3-4c9e-a395-b6dac1fe0ec7", "object": "chat.completion", "created": 1795232797,
        "model": "openclaw",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": SAYS}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1997, "completion_tokens": 30, "total_tokens": 2027}})
}

/// `/v1/responses`, whole.
pub(super) fn response() -> Value {
    json!({"id": "resp_e1d78fe0-6ecd-43c4-858d-2bc0fb3ac638", "object": "response", "created_at": 1795232802,
        "status": "completed", "model": "openclaw",
        "output": [{"type": "message", "id": "msg_1", "role": "assistant",
                    "content": [{"type": "output_text", "text": SAYS}], "phase": "final_answer", "status": "completed"}],
        "usage": {"input_tokens": 1997, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                  "output_tokens": 30, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 2027}})
}

/// The 21 events of `/v1/chat/completions`, streamed.
pub(super) fn events() -> Vec<String> {
    let chunk = |delta: Value, finish: Value| {
        let chunk = json!({"id": "chatcmpl_d76e1091-6e3c-4cf5-8f0c-0bca5a9a64cf", "object": "chat.completion.chunk",
            "created": 1795232799, "model": "openclaw",
            "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant"}), Value::Null)];
    events.extend((0..DELTAS).map(|at| chunk(json!({"content": format!("第{at}段 words ")}), Value::Null)));
    events.push(chunk(json!({}), "stop".into()));
    let mut usage = completion();
    usage["object"] = "chat.completion.chunk".into();
    usage["choices"] = json!([]);
    events.push(format!("data: {usage}\n\n"));
    events.push("data: [DONE]\n\n".into());
    events
}

/// The events as chunks; the head comes with the first, the end with the last.
fn pieces() -> Vec<Vec<u8>> {
    let mut pieces: Vec<Vec<u8>> =
        events().iter().map(|event| format!("{:x}\r\n{event}\r\n", event.len()).into_bytes()).collect();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n\
                Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n";
    if let Some(first) = pieces.first_mut() {
        first.splice(..0, head.bytes());
    }
    if let Some(last) = pieces.last_mut() {
        last.extend_from_slice(b"0\r\n\r\n");
    }
    pieces
}
