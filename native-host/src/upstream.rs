//! The way to OpenClaw: a pool of connections, ropes as bodies, names instead of addresses.

use std::{
    collections::VecDeque,
    convert::Infallible,
    error::Error as _,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{
    Method, Request, Response, Uri,
    body::{Body, Frame, Incoming, SizeHint},
    header::{AUTHORIZATION, HeaderName, HeaderValue},
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use minigate_core::seam::{Fetch, FetchFailure, OPENCLAW, Piece, Rope, UPSTREAM_HEADERS};

/// How long a connection is kept. OpenClaw closes an idle one after 5 s.
const IDLE: Duration = Duration::from_secs(4);

/// Where an upstream is and what proves who we are.
#[derive(Clone)]
pub(crate) struct Address {
    base: String,
    bearer: Option<HeaderValue>,
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Address {
    /// # Errors
    /// When the URL is none that this host can call, or the token cannot be a header.
    pub(crate) fn new(url: &str, token: Option<&str>) -> Result<Self, String> {
        let base = url.trim_end_matches('/').to_owned();
        let uri: Uri = base.parse().map_err(|error| format!("OPENCLAW_GATEWAY_URL: {error}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("OPENCLAW_GATEWAY_URL: the native host speaks plain HTTP to a Gateway beside it; \
                        use http://127.0.0.1:PORT, or a local TLS tunnel to a Gateway elsewhere"
                .into());
        }
        let bearer = token.map(|token| HeaderValue::from_str(&format!("Bearer {token}"))).transpose();
        let mut bearer = bearer.map_err(|_| "OPENCLAW_GATEWAY_TOKEN: not a valid header value".to_owned())?;
        if let Some(value) = &mut bearer {
            value.set_sensitive(true);
        }
        Ok(Self { base, bearer })
    }
}

/// One thread's connections.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    client: Client<HttpConnector, RopeBody>,
    openclaw: Address,
}

impl Upstream {
    pub(crate) fn new(openclaw: Address, connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(connector);
        Self { client, openclaw }
    }

    /// Sends a request and waits for the head of its answer. Dropping the future, or the
    /// body that it gives, closes the connection.
    pub(crate) async fn send(
        &self,
        fetch: &Fetch,
        body: RopeBody,
    ) -> Result<Response<Incoming>, FetchFailure> {
        let request = self.request(fetch, body).ok_or(FetchFailure::Connect)?;
        self.client.request(request).await.map_err(|error| failure(&error))
    }

    /// `None` for a name that is not known or a header that is none: the core makes neither.
    fn request(&self, fetch: &Fetch, body: RopeBody) -> Option<Request<RopeBody>> {
        if fetch.upstream != OPENCLAW {
            return None;
        }
        let uri = format!("{}{}", self.openclaw.base, fetch.path).parse::<Uri>().ok()?;
        let method = Method::from_bytes(fetch.method.as_bytes()).ok()?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &fetch.headers {
            request = request
                .header(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
        }
        if fetch.credential.as_deref() == Some(OPENCLAW)
            && let Some(bearer) = &self.openclaw.bearer
        {
            request = request.header(AUTHORIZATION, bearer.clone());
        }
        request.body(body).ok()
    }
}

fn failure(error: &hyper_util::client::legacy::Error) -> FetchFailure {
    if !error.is_connect() {
        return FetchFailure::Reset;
    }
    let mut source = error.source();
    while let Some(cause) = source {
        if cause.downcast_ref::<std::io::Error>().is_some_and(|io| io.kind() == std::io::ErrorKind::TimedOut)
        {
            return FetchFailure::ConnectTimeout;
        }
        source = cause.source();
    }
    FetchFailure::Connect
}

/// The headers that the core reads.
pub(crate) fn headers(response: &Response<Incoming>) -> Vec<(String, String)> {
    let read =
        |name: &&str| Some(((*name).to_owned(), response.headers().get(*name)?.to_str().ok()?.to_owned()));
    UPSTREAM_HEADERS.iter().filter_map(read).collect()
}

/// Collects a whole body.
pub(crate) async fn collect(mut body: Incoming, limit: u64) -> Result<Vec<Bytes>, FetchFailure> {
    let (mut parts, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| FetchFailure::Reset)?.into_data() else { continue };
        length += data.len() as u64;
        if length > limit {
            return Err(FetchFailure::TooLarge);
        }
        parts.push(data);
    }
    Ok(parts)
}

/// A body in pieces, sent without being put together.
#[derive(Debug, Default)]
pub(crate) struct RopeBody {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl RopeBody {
    /// Resolves a rope against the request's body, which stays where it is.
    pub(crate) fn new(rope: &Rope, body: &[Bytes]) -> Self {
        let mut parts = VecDeque::with_capacity(rope.0.len());
        for piece in &rope.0 {
            match piece {
                Piece::Literal(text) => parts.push_back(Bytes::copy_from_slice(text.as_bytes())),
                Piece::Body { start, len } => slice(body, *start as usize, *len as usize, &mut parts),
            }
        }
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts, left }
    }
}

/// The range of a body that arrived in several parts.
fn slice(body: &[Bytes], mut start: usize, mut len: usize, out: &mut VecDeque<Bytes>) {
    for part in body {
        if len == 0 {
            break;
        }
        if start >= part.len() {
            start -= part.len();
            continue;
        }
        let end = part.len().min(start + len);
        out.push_back(part.slice(start..end));
        len -= end - start;
        start = 0;
    }
}

impl Body for RopeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(part) = self.parts.pop_front() else { return Poll::Ready(None) };
        self.left -= part.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rope_is_resolved_across_the_parts_of_a_body() {
        let text = b"0123456789";
        let mut rope = Rope::default();
        rope.push_str("<");
        rope.push_range(1..8);
        rope.push_str("|");
        rope.push_range(9..10);
        for size in 1..=text.len() {
            let body: Vec<Bytes> = text.chunks(size).map(Bytes::copy_from_slice).collect();
            let resolved = RopeBody::new(&rope, &body);
            assert_eq!(resolved.left, rope.len());
            assert_eq!(resolved.parts.iter().flatten().copied().collect::<Vec<u8>>(), b"<1234567|9");
        }
    }

    #[test]
    fn only_plain_http_addresses() {
        assert!(Address::new("http://127.0.0.1:18789/", Some("t")).is_ok());
        assert!(Address::new("https://gateway.example", Some("t")).is_err());
        assert!(Address::new("http://127.0.0.1", Some("bad\ntoken")).is_err());
    }
}
