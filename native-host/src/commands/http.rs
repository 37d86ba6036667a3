//! One request at a time, for commands: what came, and how long it took.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Request, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::{server::runtime, upstream::with_tls};

/// The most bytes of an answer.
const MOST: usize = 1024 * 1024;

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
    pub(super) took: Duration,
}

impl Answer {
    /// Its body as JSON, `null` when it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Why there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Problem {
    /// The URL is none.
    Url,
    /// Nobody can be reached there.
    Connect,
    /// It broke off, or said too much.
    Broken,
    /// It took too long.
    Late,
}

/// A request; with a body, it is JSON.
#[derive(Debug, Default)]
pub(super) struct Question<'a> {
    pub(super) url: &'a str,
    pub(super) bearer: Option<&'a str>,
    pub(super) body: Option<&'a Value>,
}

/// Asks, and waits for the whole answer.
pub(super) fn ask(question: &Question<'_>, patience: Duration) -> Result<Answer, Problem> {
    let mut request = Request::builder().uri(question.url);
    if let Some(key) = question.bearer {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let body = match question.body {
        Some(body) => {
            request = request.method("POST").header(CONTENT_TYPE, "application/json");
            Bytes::from(body.to_string())
        }
        None => Bytes::new(),
    };
    let request = request.body(Full::new(body)).map_err(|_| Problem::Url)?;
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(patience.min(Duration::from_secs(5))));
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(with_tls(connector));
    let began = Instant::now();
    let work = async {
        let response = client.request(request).await.map_err(|error| match error.is_connect() {
            true => Problem::Connect,
            false => Problem::Broken,
        })?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MOST).collect().await.map_err(|_| Problem::Broken)?;
        Ok(Answer { status, body: body.to_bytes().to_vec(), took: began.elapsed() })
    };
    let runtime = runtime().map_err(|_| Problem::Broken)?;
    runtime.block_on(async { tokio::time::timeout(patience, work).await }).unwrap_or(Err(Problem::Late))
}
