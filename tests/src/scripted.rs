//! What the scripted servers are made of: a record of requests that can be waited for,
//! answers that come piece by piece and know when they were cut off, and directives in the
//! newest text.

use std::{
    future::Future,
    io,
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
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, sync::watch};

/// One request that a server got.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// What follows the question mark, as it was sent.
    pub query: String,
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
        self.messages().last().map_or(&Value::Null, |message| &message["content"])
    }

    /// The newest message's text.
    #[must_use]
    pub fn text(&self) -> String {
        text_of(self.newest())
    }

    /// Messages of a role, as text.
    #[must_use]
    pub fn texts(&self, role: &str) -> Vec<String> {
        let messages = self.messages().iter().filter(|message| message["role"] == role);
        messages.map(|message| text_of(&message["content"])).collect()
    }

    /// The newest text of a person: what came of tools may follow it.
    #[must_use]
    pub fn question(&self) -> String {
        self.texts("user").pop().unwrap_or_default()
    }

    /// What came of the tools that were called, one text for each call.
    #[must_use]
    pub fn results(&self) -> Vec<String> {
        let result = |message: &Value| match message["type"].as_str() {
            Some("function_call_output") => message["output"].as_str().map(str::to_owned),
            _ => (message["role"] == "tool").then(|| text_of(&message["content"])),
        };
        self.messages().iter().filter_map(result).collect()
    }

    /// The messages, whichever of OpenClaw's two interfaces it is.
    #[must_use]
    pub fn messages(&self) -> &[Value] {
        let list = self.body["messages"].as_array().or_else(|| self.body["input"].as_array());
        list.map(Vec::as_slice).unwrap_or_default()
    }
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

/// A server that records what it gets.
#[derive(Clone, Debug)]
pub struct Server {
    /// Its base URL.
    pub url: String,
    shared: Arc<Shared>,
}

impl Server {
    /// Serves on a free port. An answer that is an error closes its connection.
    ///
    /// # Panics
    /// When there is none.
    pub(crate) async fn start<A, F>(answer: A) -> Self
    where
        A: Fn(Seen, Running) -> F + Clone + Send + 'static,
        F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
    {
        let (listener, url) = free_port().await;
        let shared = Arc::new(Shared { seen: Mutex::default(), changed: watch::channel(0).0 });
        let accepting = Arc::clone(&shared);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                let (shared, answer) = (Arc::clone(&accepting), answer.clone());
                let service = service_fn(move |request| {
                    let (shared, answer) = (Arc::clone(&shared), answer.clone());
                    async move {
                        let (seen, running) = record(shared, request).await?;
                        answer(seen, running).await
                    }
                });
                tokio::spawn(async move {
                    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await)
                });
            }
        });
        Self { url, shared }
    }

    /// The requests whose newest text, or a person's newest text, contains the marker.
    #[must_use]
    pub fn seen(&self, marker: &str) -> Vec<Seen> {
        let seen = self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let says = |seen: &&Seen| seen.text().contains(marker) || seen.question().contains(marker);
        seen.iter().filter(says).cloned().collect()
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
        found.unwrap_or_else(|_| panic!("nobody saw: {what}; {marker}: {:?}", self.seen(marker)))
    }

    /// Waits until the connection of a request with the marker was closed early.
    pub async fn wait_for_abort(&self, marker: &str) -> Seen {
        self.wait_for(marker, "an abort", |seen| seen.aborted).await
    }
}

/// A listener, and the URL of it.
pub(crate) async fn free_port() -> (TcpListener, String) {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    (listener, url)
}

async fn record(shared: Arc<Shared>, request: Request<Incoming>) -> io::Result<(Seen, Running)> {
    let (parts, incoming) = request.into_parts();
    let text = |value: &hyper::header::HeaderValue| value.to_str().unwrap_or_default().to_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let raw = incoming.collect().await.map_err(io::Error::other)?.to_bytes();
    let body = serde_json::from_slice(&raw).unwrap_or_default();
    let method = parts.method.to_string();
    let path = parts.uri.path().to_owned();
    let query = parts.uri.query().unwrap_or_default().to_owned();
    let seen = Seen { method, path, query, headers, body, raw, aborted: false, pieces: 0 };
    let mut index = 0;
    shared.change(|all| {
        index = all.len();
        all.push(seen.clone());
    });
    Ok((seen, Running { shared, index, ended: false }))
}

/// What is sent, step by step.
#[derive(Clone, Debug)]
pub(crate) enum Piece {
    Bytes(Bytes),
    Wait(Duration),
    Forever,
    Break,
}

impl Piece {
    /// Long enough for what was sent before to be on its way: an error at once would take it
    /// along.
    pub(crate) const FLUSHED: Self = Self::Wait(Duration::from_millis(50));

    pub(crate) fn wait(milliseconds: usize) -> Self {
        Self::Wait(Duration::from_millis(milliseconds as u64))
    }
}

impl<T: Into<Bytes>> From<T> for Piece {
    fn from(bytes: T) -> Self {
        Self::Bytes(bytes.into())
    }
}

/// An answer under way: it is noted as cut off when it is dropped before its end.
#[derive(Debug)]
pub(crate) struct Running {
    shared: Arc<Shared>,
    index: usize,
    ended: bool,
}

impl Running {
    /// What happens from now on is on purpose.
    pub(crate) fn end(&mut self) {
        self.ended = true;
    }

    /// Says nothing until the other side has gone.
    pub(crate) async fn hang<T>(self) -> T {
        std::future::pending().await
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

/// The body of an answer.
pub(crate) type Body = StreamBody<Pieces>;

/// The rest of an answer.
pub(crate) struct Pieces(Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>);

impl Stream for Pieces {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next_unpin(context)
    }
}

/// An answer of that type, in those pieces.
pub(crate) fn answer(status: u16, kind: &str, pieces: Vec<Piece>, running: Running) -> Response<Body> {
    let state = (pieces.into_iter(), running);
    let body = unfold(state, |(mut pieces, mut running)| async move {
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
                    return Some((Err(io::Error::other("broken on purpose")), (pieces, running)));
                }
                None => {
                    running.end();
                    return None;
                }
            }
        }
    });
    let mut response = Response::new(StreamBody::new(Pieces(Box::pin(body))));
    *response.status_mut() = StatusCode::from_u16(status).expect("a status");
    response.headers_mut().insert(CONTENT_TYPE, kind.parse().expect("a header"));
    response
}

/// An answer of JSON.
pub(crate) fn json_answer(status: u16, value: &Value, running: Running) -> Response<Body> {
    answer(status, "application/json; charset=utf-8", vec![value.to_string().into()], running)
}

/// The directives of a text: `[[SERVER:NAME]]` or `[[SERVER:NAME=VALUE]]`.
#[derive(Debug)]
pub(crate) struct Script(Vec<(String, String)>);

impl Script {
    pub(crate) fn of(server: &str, text: &str) -> Self {
        let begin = format!("[[{server}:");
        let directives = text.split(&begin).skip(1).filter_map(|rest| rest.split_once("]]"));
        let pair = |one: &str| {
            let (name, value) = one.split_once('=').unwrap_or((one, ""));
            (name.to_owned(), value.to_owned())
        };
        Self(directives.map(|(one, _)| pair(one)).collect())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The values of a directive that is there several times.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(crate) fn number(&self, name: &str) -> Option<usize> {
        self.get(name)?.parse().ok()
    }
}

/// A text in pieces as a model's stream has them: of eight characters, or longer ones where
/// there would be too many.
pub(crate) fn tokens(text: &str) -> Vec<String> {
    let size = if text.len() > 10_000 { 1024 } else { 8 };
    text.chars().collect::<Vec<char>>().chunks(size).map(|piece| piece.iter().collect()).collect()
}
