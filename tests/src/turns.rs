//! A client of turns that can be found again: asks with a key, looks, waits, cancels, decides, and
//! reads events from where it left off. Every call can fail, since hosts are killed under it.

use std::time::Duration;

use reqwest::{Method, Response};
use serde_json::{Value, json};

use crate::client::{Answer, KEY};

/// Who asks, or decides.
#[derive(Clone, Debug)]
pub struct Person {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Person {
    /// Whoever has the usual key.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self::with_key(url, KEY)
    }

    /// Whoever has that key.
    ///
    /// # Panics
    /// Never in practice: the HTTP client needs nothing.
    #[must_use]
    pub fn with_key(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(70)).build();
        Self { http: http.expect("a client"), url: url.to_owned(), key: key.to_owned() }
    }

    /// The same one at a host that listens elsewhere.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self { url: url.to_owned(), ..self.clone() }
    }

    /// An answer, as it comes.
    ///
    /// # Errors
    /// There is none.
    ///
    /// # Panics
    /// When the method is none.
    pub async fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<Response> {
        let method = Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        request = request.header("x-api-key", &self.key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        request.send().await
    }

    /// An answer, whole.
    ///
    /// # Errors
    /// There is none, or it breaks off.
    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> reqwest::Result<Answer> {
        let response = self.open(method, path, headers, body).await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// A question, with headers.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn ask(&self, headers: &[(&str, &str)], body: &Value) -> Answer {
        self.send("POST", "/v1/mini/ask", headers, Some(body)).await.expect("an answer")
    }

    /// A question with an idempotency key.
    pub async fn ask_keyed(&self, key: &str, body: &Value) -> Answer {
        self.ask(&[("idempotency-key", key)], body).await
    }

    /// What is at a path.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], None).await.expect("an answer")
    }

    /// How a turn stands.
    pub async fn turn(&self, id: &str) -> Value {
        self.get(&format!("/v1/mini/turns/{id}")).await.json()
    }

    /// Does not want a turn any more.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn cancel(&self, id: &str) -> Answer {
        self.send("DELETE", &format!("/v1/mini/turns/{id}"), &[], None).await.expect("an answer")
    }

    /// The turn when it says that; `what` are states.
    ///
    /// # Panics
    /// When it does not within 60 s.
    pub async fn until(&self, id: &str, what: &[&str]) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        loop {
            let turn = self.get(&format!("/v1/mini/turns/{id}?wait=5")).await.json();
            if what.iter().any(|state| turn["state"] == *state) {
                return turn;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {what:?}: {turn}");
        }
    }

    /// Looks at a question and says a word about it; `path` ends with its id.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn try_decide(&self, path: &str, decision: &str) -> reqwest::Result<Answer> {
        let shown = self.send("GET", path, &[], None).await?;
        if shown.status != 200 {
            return Ok(shown);
        }
        let word = json!({"decision": decision, "grant": shown.json()["grant"]});
        self.send("POST", path, &[], Some(&word)).await
    }

    /// The same.
    ///
    /// # Panics
    /// When there is no answer.
    pub async fn decide(&self, path: &str, decision: &str) -> Answer {
        self.try_decide(path, decision).await.expect("an answer")
    }

    /// The events of a turn after that one.
    ///
    /// # Errors
    /// There is no answer.
    pub async fn events(&self, id: &str, after: &str) -> reqwest::Result<Response> {
        self.open("GET", &format!("/v1/mini/turns/{id}/events"), &[("last-event-id", after)], None).await
    }
}

/// What a client has read of a turn's events, over all its connections.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// Whole events, comments and `continue` left out.
    pub text: String,
    /// The number of the last one, `0` before the first.
    pub last: String,
    /// Where the stream says that it goes on.
    pub goes_on: bool,
    /// The beginning of an event.
    rest: String,
}

impl Story {
    /// Takes bytes of a stream, cut anywhere between characters; gives the number of whole events.
    pub fn push(&mut self, text: &str) -> usize {
        self.rest.push_str(text);
        let mut count = 0;
        while let Some((event, rest)) = self.rest.split_once("\n\n") {
            let (event, rest) = (format!("{event}\n\n"), rest.to_owned());
            self.rest = rest;
            if event.starts_with(':') {
                continue;
            }
            if event.contains("event: continue\n") {
                self.goes_on = true;
                continue;
            }
            if let Some(number) = event.lines().find_map(|line| line.strip_prefix("id: ")) {
                number.clone_into(&mut self.last);
            }
            self.text.push_str(&event);
            count += 1;
        }
        count
    }

    /// The connection is gone, and what was not whole with it.
    pub fn cut(&mut self) {
        self.rest.clear();
        self.goes_on = false;
        if self.last.is_empty() {
            "0".clone_into(&mut self.last);
        }
    }

    /// The name and data of each event.
    #[must_use]
    pub fn events(&self) -> Vec<(String, Value)> {
        let of = |event: &str, key: &str| {
            event.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default().to_owned()
        };
        let events = self.text.split_terminator("\n\n");
        events
            .map(|event| {
                (of(event, "event: "), serde_json::from_str(&of(event, "data: ")).unwrap_or_default())
            })
            .collect()
    }

    /// The text of the answer. A second `meta` says that it begins anew.
    #[must_use]
    pub fn answer(&self) -> String {
        let mut answer = String::new();
        for (name, data) in self.events() {
            match name.as_str() {
                "meta" => answer.clear(),
                "delta" => answer.push_str(data["text"].as_str().unwrap_or_default()),
                _ => {}
            }
        }
        answer
    }

    /// The last event, when it ends the turn.
    #[must_use]
    pub fn end(&self) -> Option<(String, Value)> {
        self.events().pop().filter(|(name, _)| name == "done" || name == "error")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_is_what_was_whole() {
        let mut story = Story::default();
        assert_eq!(story.push("id: 1\nevent: meta\ndata: {}\n\n: ping\n\nid: 2\nevent: delta\nda"), 1);
        story.cut();
        assert_eq!((story.last.as_str(), story.answer().as_str()), ("1", ""));
        story.push("id: 2\nevent: delta\ndata: {\"text\":\"好\"}\n\nevent: continue\ndata: {}\n\n");
        assert!(story.goes_on && story.end().is_none());
        story.cut();
        story.push("id: 3\nevent: done\ndata: {\"answer\":\"好\"}\n\n");
        assert_eq!((story.answer().as_str(), story.last.as_str()), ("好", "3"));
        assert_eq!(story.end().map(|(_, data)| data["answer"].clone()), Some(json!("好")));
        story.push("id: 4\nevent: meta\ndata: {}\n\n");
        assert_eq!(story.answer(), "");
    }
}
