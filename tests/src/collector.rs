//! A scripted OpenTelemetry collector: takes what is exported, and says what it was.

use serde_json::{Value, json};

use crate::scripted::{Server, json_answer};

/// A collector that runs.
#[derive(Clone, Debug)]
pub struct Collector(Server);

impl Collector {
    /// Serves on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> Self {
        Self(
            Server::start(|_, mut running| async move {
                running.end();
                Ok(json_answer(200, &json!({"partialSuccess": {}}), running))
            })
            .await,
        )
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.0.url
    }

    /// The spans that it got.
    #[must_use]
    pub fn spans(&self) -> Vec<Value> {
        self.all("/v1/traces", "/resourceSpans/0/scopeSpans/0/spans")
    }

    /// The metrics that it got, of all messages.
    #[must_use]
    pub fn metrics(&self) -> Vec<Value> {
        self.all("/v1/metrics", "/resourceMetrics/0/scopeMetrics/0/metrics")
    }

    fn all(&self, path: &str, place: &str) -> Vec<Value> {
        let seen = self.0.seen("").into_iter().filter(|seen| seen.path == path);
        let lists = seen.filter_map(|seen| seen.body.pointer(place)?.as_array().cloned());
        lists.flatten().collect()
    }
}
