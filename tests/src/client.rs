//! A client: JSON in, status and JSON out, and a reader of streams that holds the gateway to
//! its framing: no event and no character is ever split between two chunks.

use std::time::Duration;

use futures_util::StreamExt as _;
use reqwest::{Method, Response, header::HeaderMap};
use serde_json::{Value, json};

/// The key that test hosts accept.
pub const KEY: &str = "test-key-canary-1f0e";

/// An answer that came whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub text: String,
}

impl Answer {
    /// The body as JSON, `null` when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// The status and the error's code.
    #[must_use]
    pub fn error(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }

    /// A header's value.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

/// A connection pool of its own, with the key.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
}

/// A message list with one user message.
#[must_use]
pub fn say(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}]})
}

/// The same, as a stream.
#[must_use]
pub fn say_stream(text: &str) -> Value {
    json!({"stream": true, "messages": [{"role": "user", "content": text}]})
}

impl Client {
    /// A client of the host at that URL.
    ///
    /// # Panics
    /// Never in practice: the HTTP client needs nothing.
    #[must_use]
    pub fn new(url: &str) -> Self {
        let http =
            reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().expect("a client");
        Self { http, url: url.to_owned() }
    }

    /// A request with the given headers and no others.
    ///
    /// # Panics
    /// When there is no answer at all.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<reqwest::Body>,
    ) -> Response {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url)).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.send().await.unwrap_or_else(|error| panic!("{path}: {error:?}"))
    }

    /// A chat request with the key, whole.
    pub async fn chat(&self, body: &Value) -> Answer {
        self.chat_with(&[], body.to_string()).await
    }

    /// A chat request with the key, more headers and any body, whole.
    pub async fn chat_with(&self, headers: &[(&str, &str)], body: impl Into<reqwest::Body>) -> Answer {
        let mut all = vec![("x-api-key", KEY), ("content-type", "application/json")];
        all.extend_from_slice(headers);
        whole(self.send("POST", "/api/chat", &all, body).await).await
    }

    /// A chat request with the key, as it comes.
    pub async fn open(&self, body: &Value) -> Response {
        let headers = [("x-api-key", KEY), ("content-type", "application/json")];
        self.send("POST", "/api/chat", &headers, body.to_string()).await
    }

    /// A chat request with the key; all the events of its stream.
    ///
    /// # Panics
    /// When it is no stream, or its framing is broken.
    pub async fn stream(&self, body: &Value) -> Events {
        let response = self.open(body).await;
        assert_eq!(response.status(), 200);
        let kind = response.headers()["content-type"].to_str().expect("text");
        assert_eq!(kind, "text/event-stream; charset=utf-8");
        let mut events = Events::default();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            events.push(&chunk.expect("the stream ends in order"));
        }
        events
    }

    /// A chat request with the key; the text of its stream, however the network cuts it: a
    /// long chunk arrives in several pieces.
    ///
    /// # Panics
    /// When it does not end as a stream should.
    pub async fn long_stream(&self, body: &Value) -> Events {
        let mut events = Events::default();
        events.push(whole(self.open(body).await).await.text.as_bytes());
        events
    }

    /// A GET.
    pub async fn get(&self, path: &str) -> Answer {
        whole(self.send("GET", path, &[], "").await).await
    }
}

/// Reads an answer to its end.
///
/// # Panics
/// When its body breaks off.
pub async fn whole(response: Response) -> Answer {
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    Answer { status, headers, text: response.text().await.expect("a body") }
}

/// A stream's events.
#[derive(Clone, Debug, Default)]
pub struct Events {
    /// The data of each.
    pub data: Vec<String>,
    /// The number of comments.
    pub comments: usize,
}

impl Events {
    /// Takes a chunk, which must be whole events.
    ///
    /// # Panics
    /// When an event or a character is cut.
    pub fn push(&mut self, chunk: &[u8]) {
        let text = std::str::from_utf8(chunk).expect("no character is split between chunks");
        assert!(text.ends_with("\n\n"), "no event is split between chunks: {text:?}");
        for event in text.split_terminator("\n\n") {
            match event.strip_prefix("data: ") {
                Some(data) => self.data.push(data.to_owned()),
                None if event.starts_with(':') => self.comments += 1,
                None => panic!("an event of another kind: {event:?}"),
            }
        }
    }

    /// The events as JSON, without the end mark, which must be there once and last.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn json(&self) -> Vec<Value> {
        let (last, events) = self.data.split_last().expect("events");
        assert_eq!(last, "[DONE]");
        events
            .iter()
            .map(|data| serde_json::from_str(data).unwrap_or_else(|_| panic!("not JSON: {data}")))
            .collect()
    }

    /// The text of the deltas.
    #[must_use]
    pub fn text(&self) -> String {
        let events = self.json();
        events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
    }

    /// The code of the error event, if there is one.
    #[must_use]
    pub fn error(&self) -> Option<String> {
        self.json().iter().find_map(|event| event["error"]["code"].as_str().map(str::to_owned))
    }

    /// The event with the finish reason.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn finish(&self) -> Value {
        let found = self.json().into_iter().find(|event| event["choices"][0]["finish_reason"].is_string());
        found.unwrap_or_else(|| panic!("no finish: {:?}", self.data))
    }
}
