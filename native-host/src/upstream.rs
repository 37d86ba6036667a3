//! The way to OpenClaw, to WeChat, to models and to tools: a pool of connections, ropes as bodies, names instead of addresses.

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
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use minigate_core::{
    policy::{CREDENTIALS, Secrets, catalog::Catalog},
    seam::{Credential, Fetch, FetchFailure, OPENCLAW, Piece, Rope, UPSTREAM_HEADERS, WECHAT},
};

/// How long a connection is kept. OpenClaw closes an idle one after 5 s.
const IDLE: Duration = Duration::from_secs(4);

/// Where the upstreams are and what proves who we are.
#[derive(Clone)]
pub(crate) struct Addresses {
    openclaw: String,
    wechat: String,
    /// Models' and tools', by the upstream's name.
    servers: Vec<(String, String)>,
    /// By the name of the setting.
    credentials: Vec<(String, String)>,
}

impl std::fmt::Debug for Addresses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { openclaw, wechat, .. } = self;
        f.debug_struct("Addresses")
            .field("openclaw", openclaw)
            .field("wechat", wechat)
            .finish_non_exhaustive()
    }
}

impl Addresses {
    /// # Errors
    /// When a URL is none, or a credential cannot be a header.
    pub(crate) fn new(
        openclaw: &str,
        wechat: &str,
        catalog: &Catalog,
        secrets: &Secrets,
    ) -> Result<Self, String> {
        let valid = |name: &str, url: &str| {
            url.parse::<Uri>().map(|_| url.to_owned()).map_err(|error| format!("{name}: {error}"))
        };
        let base = |name: &str, url: &str| valid(name, url.trim_end_matches('/'));
        let mut credentials = Vec::new();
        for name in CREDENTIALS.iter().copied().chain(catalog.secrets()) {
            if let Some(value) = secrets.get(name) {
                HeaderValue::from_str(value).map_err(|_| format!("{name}: not a valid header value"))?;
                credentials.push((name.to_owned(), value.to_owned()));
            }
        }
        let server = |(name, url): (String, &str)| {
            let url = valid(&name, url)?;
            Ok::<_, String>((name, url))
        };
        Ok(Self {
            // A mere model gateway has none.
            openclaw: match openclaw.is_empty() {
                true => String::new(),
                false => base("OPENCLAW_GATEWAY_URL", openclaw)?,
            },
            wechat: base("WECHAT_API_URL", wechat)?,
            servers: catalog.servers().map(server).collect::<Result<_, _>>()?,
            credentials,
        })
    }

    /// Adds upstreams by name.
    ///
    /// # Errors
    /// When a URL is none.
    pub(crate) fn and(mut self, urls: [(&str, &str); 3]) -> Result<Self, String> {
        for (name, url) in urls {
            // One is a scheme alone: what is sent there names its host.
            format!("{url}//host").parse::<Uri>().map_err(|error| format!("{name}: {error}"))?;
            self.servers.push((name.to_owned(), url.trim_end_matches('/').to_owned()));
        }
        Ok(self)
    }

    fn base(&self, upstream: &str) -> Option<&str> {
        match upstream {
            OPENCLAW => Some(&self.openclaw),
            WECHAT => Some(&self.wechat),
            _ => self.servers.iter().find(|(known, _)| known == upstream).map(|(_, base)| base.as_str()),
        }
    }

    fn credential(&self, name: &str) -> Option<&str> {
        self.credentials.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Connections with TLS where the address says https. The roots come with the program, so that it
/// needs none on the machine.
pub(crate) fn with_tls(mut connector: HttpConnector) -> HttpsConnector<HttpConnector> {
    connector.enforce_http(false);
    HttpsConnectorBuilder::new().with_webpki_roots().https_or_http().enable_http1().wrap_connector(connector)
}

/// One thread's connections.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    client: Client<HttpsConnector<HttpConnector>, RopeBody>,
    addresses: Addresses,
}

impl Upstream {
    pub(crate) fn new(addresses: Addresses, connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .build(with_tls(connector));
        Self { client, addresses }
    }

    /// Where an upstream is.
    pub(crate) fn base(&self, name: &str) -> Option<&str> {
        self.addresses.base(name)
    }

    /// A secret by its setting's name.
    pub(crate) fn credential(&self, name: &str) -> Option<&str> {
        self.addresses.credential(name)
    }

    /// The same connections, with other addresses.
    pub(crate) fn with(&self, addresses: Addresses) -> Self {
        Self { client: self.client.clone(), addresses }
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
        let base = self.addresses.base(&fetch.upstream)?;
        let uri = match &fetch.credential {
            Some(Credential::Query { parameter, name }) => {
                let secret = self.addresses.credential(name)?;
                let separator = if fetch.path.contains('?') { '&' } else { '?' };
                format!("{base}{}{separator}{parameter}={secret}", fetch.path).parse::<Uri>()
            }
            _ => format!("{base}{}", fetch.path).parse::<Uri>(),
        };
        let uri = uri.ok()?;
        let method = Method::from_bytes(fetch.method.as_bytes()).ok()?;
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in &fetch.headers {
            request = request
                .header(HeaderName::from_bytes(name.as_bytes()).ok()?, HeaderValue::from_str(value).ok()?);
        }
        if let Some(Credential::Bearer(name)) = &fetch.credential {
            let secret = self.addresses.credential(name)?;
            let mut bearer = HeaderValue::from_str(&format!("Bearer {secret}")).ok()?;
            bearer.set_sensitive(true);
            request = request.header(AUTHORIZATION, bearer);
        }
        request.body(body.fill(&self.addresses)?).ok()
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
    /// Where secrets belong: before which part, and which.
    secrets: Vec<(usize, String)>,
}

impl RopeBody {
    /// Resolves a rope against the request's body, which stays where it is.
    /// Secrets are put in when it is [sent](Upstream::send).
    pub(crate) fn new(rope: &Rope, body: &[Bytes]) -> Self {
        let mut parts = VecDeque::with_capacity(rope.0.len());
        let mut secrets = Vec::new();
        for piece in &rope.0 {
            match piece {
                Piece::Literal(text) => parts.push_back(Bytes::copy_from_slice(text.as_bytes())),
                Piece::Secret(name) => secrets.push((parts.len(), name.clone())),
                Piece::Body { start, len } => slice(body, *start as usize, *len as usize, &mut parts),
            }
        }
        let left = parts.iter().map(|part| part.len() as u64).sum();
        Self { parts, left, secrets }
    }

    /// Puts the secrets in; `None` when one is not known.
    fn fill(mut self, addresses: &Addresses) -> Option<Self> {
        for (at, name) in std::mem::take(&mut self.secrets).into_iter().rev() {
            let secret = Bytes::copy_from_slice(addresses.credential(&name)?.as_bytes());
            self.left += secret.len() as u64;
            self.parts.insert(at, secret);
        }
        Some(self)
    }
}

/// The range of a body in one piece.
pub(crate) fn range(body: &[Bytes], start: u32, len: u32) -> Vec<u8> {
    let mut parts = VecDeque::new();
    slice(body, start as usize, len as usize, &mut parts);
    parts.iter().flatten().copied().collect()
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
    use minigate_core::{
        policy::catalog::{Model, ModelKind, Runtime, Tool, ToolClass},
        seam::Delivery,
    };

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
    fn addresses_and_credentials_are_checked_at_the_start() {
        let secrets = |token: &str| {
            let mut secrets = Secrets::default();
            secrets.0.insert("OPENCLAW_GATEWAY_TOKEN".into(), token.into());
            secrets
        };
        let wechat = "https://api.weixin.qq.com";
        let new = |url, token| Addresses::new(url, wechat, &Catalog::default(), &secrets(token));
        assert!(new("http://127.0.0.1:18789/", "t").is_ok());
        assert!(new("https://gateway.example", "t").is_ok());
        assert!(new("http://127.0.0.1 x", "t").is_err());
        assert!(new("http://127.0.0.1", "bad\ntoken").is_err());
    }

    #[test]
    fn nothing_is_sent_without_the_credential_that_it_names() {
        let mut secrets = Secrets::default();
        secrets.0.insert("OPENCLAW_GATEWAY_TOKEN".into(), "t".into());
        let addresses =
            Addresses::new("http://127.0.0.1", "https://wechat.example", &Catalog::default(), &secrets);
        let upstream = Upstream::new(addresses.expect("valid"), Duration::from_secs(1));
        let request = |credential| {
            let fetch = Fetch {
                id: 1,
                upstream: OPENCLAW.into(),
                method: "GET".into(),
                path: "/".into(),
                headers: Vec::new(),
                credential,
                body: Rope::default(),
                delivery: Delivery::Whole { limit: 1 },
                keeps_body: false,
            };
            let request = upstream.request(&fetch, RopeBody::default())?;
            Some(request.headers().get(AUTHORIZATION).map(|value| value.as_bytes().to_vec()))
        };
        let bearer = |name: &str| Some(Credential::Bearer(name.into()));
        assert_eq!(request(None), Some(None));
        assert_eq!(request(bearer("OPENCLAW_GATEWAY_TOKEN")), Some(Some(b"Bearer t".to_vec())));
        assert_eq!(request(bearer("LOCAL_KEY")), None);
        let query = Credential::Query { parameter: "secret".into(), name: "WECHAT_SECRET".into() };
        assert_eq!(request(Some(query)), None);
    }

    #[test]
    fn a_model_and_a_tool_have_their_own_address_and_key() {
        let model = |alias: &str, key: &str| Model {
            alias: alias.into(),
            kind: ModelKind::OpenAi {
                base_url: format!("http://{alias}:8000/v1/"),
                api_key: Some(key.into()),
                model: "m".into(),
            },
            slots: None,
            timeout_ms: None,
            side_effects: false,
            runtime: Runtime { replicas: vec!["http://second:8000/v1".into()], ..Runtime::default() },
        };
        let models = vec![model("local", "LOCAL_KEY"), model("sly", "API_KEY")];
        let tool = Tool {
            name: "orders".into(),
            description: "Finds orders.".into(),
            parameters: "{}".into(),
            class: ToolClass::Read,
            url: "http://orders:9000/find/".into(),
            secret: Some("ORDERS_KEY".into()),
            timeout_ms: 10_000,
            idempotent: false,
            approve: None,
            approve_within_s: 0,
        };
        let catalog = Catalog { models, tools: vec![tool], ..Catalog::default() };
        let mut secrets = Secrets::default();
        secrets.0.insert("LOCAL_KEY".into(), "key".into());
        secrets.0.insert("ORDERS_KEY".into(), "tool key".into());
        secrets.0.insert("API_KEY".into(), "the gateway's own".into());
        let addresses = Addresses::new("http://127.0.0.1", "https://wechat.example", &catalog, &secrets);
        let addresses = addresses.expect("valid");
        assert_eq!(addresses.base("model:local"), Some("http://local:8000/v1"));
        assert_eq!(addresses.base("model:local#1"), Some("http://second:8000/v1"));
        assert_eq!((addresses.base("model:other"), addresses.base("local")), (None, None));
        assert_eq!(addresses.base("tool:orders"), Some("http://orders:9000/find/"));
        assert_eq!((addresses.base("tool:local"), addresses.base("model:orders")), (None, None));
        assert_eq!(addresses.credential("LOCAL_KEY"), Some("key"));
        assert_eq!(addresses.credential("ORDERS_KEY"), Some("tool key"));
        assert_eq!(addresses.credential("API_KEY"), None);
    }
}
