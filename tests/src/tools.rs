//! A scripted server of tools, with a ledger: what it was asked, and what it has done.
//!
//! `/NAME` does the work each time that it is asked, as a server does that knows nothing of keys;
//! `/once/NAME` does it once for each `Idempotency-Key`. The work is done for the argument `order`,
//! and the argument `how` has words, with commas between them:
//!
//! | word | does |
//! | --- | --- |
//! | `slow=MS`, `lag=MS` | waits before the work; waits after it, before the answer |
//! | `busy` | the first call of an order is sent away |
//! | `refuse` | says no |
//! | `cut`, `cut_once` | closes the connection after the work, always or at the first call of an order |

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use hyper::{Response, header::RETRY_AFTER};
use serde_json::json;

use crate::scripted::{Body, Running, Seen, Server, json_answer};

/// The key that the server expects.
pub const SECRET: &str = "tools-key-canary-8d31";

/// One call that came in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// The path without its first slash.
    pub tool: String,
    /// For what the work is done.
    pub order: String,
    /// The `Idempotency-Key`.
    pub key: String,
    /// For whom, as the gateway says.
    pub user: String,
    /// Whether the work was done for this call.
    pub done: bool,
}

/// The server.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Its base URL.
    pub url: String,
    ledger: Ledger,
}

#[derive(Clone, Debug, Default)]
struct Ledger(Arc<Mutex<Vec<Call>>>);

impl Tools {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let ledger = Ledger::default();
        let kept = ledger.clone();
        let server = Server::start(move |seen, running| answer(seen, running, kept.clone())).await;
        Self { url: server.url.clone(), ledger }
    }

    /// The calls for an order, in the order in which they came.
    #[must_use]
    pub fn calls(&self, order: &str) -> Vec<Call> {
        self.ledger.lock().iter().filter(|call| call.order == order).cloned().collect()
    }

    /// How often the work was done for an order.
    #[must_use]
    pub fn times_done(&self, order: &str) -> usize {
        self.ledger.lock().iter().filter(|call| call.order == order && call.done).count()
    }
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Vec<Call>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes a call down; gives its place, and whether it is the first one of its order.
    fn begin(&self, call: Call) -> (usize, bool) {
        let mut calls = self.lock();
        let first = !calls.iter().any(|known| known.order == call.order);
        calls.push(call);
        (calls.len() - 1, first)
    }

    /// Does the work; gives what proves it.
    fn work(&self, at: usize) -> String {
        let mut calls = self.lock();
        let Call { tool, order, key, .. } = calls[at].clone();
        let once = tool.starts_with("once/");
        if !(once && calls.iter().any(|call| call.done && call.key == key)) {
            calls[at].done = true;
        }
        let times = calls.iter().filter(|call| call.done && call.order == order).count();
        format!("receipt-{order}-{times}")
    }
}

async fn answer(seen: Seen, mut running: Running, ledger: Ledger) -> io::Result<Response<Body>> {
    if seen.header("authorization") != Some(format!("Bearer {SECRET}").as_str()) {
        return Ok(json_answer(401, &json!({"error": "no key"}), running));
    }
    let text = |name: &str| seen.body["arguments"][name].as_str().unwrap_or_default().to_owned();
    let how = text("how");
    let says = |word: &str| how.split(',').any(|said| said == word);
    let time = |word: &str| {
        let value = how.split(',').find_map(|said| said.strip_prefix(word)?.strip_prefix('=')?.parse().ok());
        Duration::from_millis(value.unwrap_or(0))
    };
    let (at, first) = ledger.begin(Call {
        tool: seen.path.trim_start_matches('/').to_owned(),
        order: text("order"),
        key: seen.header("idempotency-key").unwrap_or_default().to_owned(),
        user: seen.body["user"].as_str().unwrap_or_default().to_owned(),
        done: false,
    });
    tokio::time::sleep(time("slow")).await;
    if says("busy") && first {
        let mut response = json_answer(429, &json!({"error": "busy"}), running);
        response.headers_mut().insert(RETRY_AFTER, "0".parse().expect("a header"));
        return Ok(response);
    }
    if says("refuse") {
        return Ok(json_answer(422, &json!({"error": "the order is closed"}), running));
    }
    let receipt = ledger.work(at);
    tokio::time::sleep(time("lag")).await;
    if says("cut") || (says("cut_once") && first) {
        running.end();
        return Err(io::Error::other("cut on purpose"));
    }
    Ok(json_answer(200, &json!({"receipt": receipt}), running))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn call(tools: &Tools, path: &str, key: &str, how: &str) -> Option<(u16, String)> {
        let body = json!({"name": "x", "arguments": {"order": key.split('-').next(), "how": how}});
        let request = reqwest::Client::new().post(format!("{}/{path}", tools.url)).bearer_auth(SECRET);
        let response = request.header("idempotency-key", key).body(body.to_string()).send().await.ok()?;
        Some((response.status().as_u16(), response.text().await.ok()?))
    }

    #[tokio::test]
    async fn the_ledger_tells_calls_from_work() {
        let tools = Tools::start().await;
        assert_eq!(call(&tools, "refund", "a-1", "busy").await.map(|(status, _)| status), Some(429));
        assert_eq!(call(&tools, "refund", "a-1", "refuse").await.map(|(status, _)| status), Some(422));
        assert_eq!((tools.calls("a").len(), tools.times_done("a")), (2, 0));
        let (_, text) = call(&tools, "refund", "a-1", "slow=1,lag=1").await.expect("an answer");
        assert!(text.contains("receipt-a-1"), "{text}");
        assert_eq!(call(&tools, "refund", "a-1", "cut").await, None);
        assert_eq!(tools.times_done("a"), 2);
        assert_eq!(call(&tools, "once/refund", "b-1", "cut_once").await, None);
        let (_, text) = call(&tools, "once/refund", "b-1", "cut_once").await.expect("an answer");
        assert!(text.contains("receipt-b-1"), "{text}");
        assert_eq!((tools.calls("b").len(), tools.times_done("b")), (2, 1));
    }
}
