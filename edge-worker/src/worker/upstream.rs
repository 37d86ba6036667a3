//! The way to OpenClaw, to WeChat, to models and to tools: the platform's `fetch`, closed when it is dropped.

use js_sys::{Promise, Uint8Array};
use minigate_core::{
    policy::{CREDENTIALS, Secrets, Settings, catalog::Catalog, dingtalk_urls, wechat_url},
    seam::{Credential, Fetch, FetchFailure, Lines, OPENCLAW, UPSTREAM_HEADERS, WECHAT},
};
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{
    AbortController, Headers, ReadableStreamDefaultReader, RequestInit, RequestRedirect, Response,
    WorkerGlobalScope,
};

use super::js;

/// Where the upstreams are and what proves who we are.
pub(super) struct Addresses {
    openclaw: String,
    wechat: String,
    /// Models' and tools', by the upstream's name.
    servers: Vec<(String, String)>,
    /// By the name of the setting.
    credentials: Vec<(String, String)>,
}

impl Addresses {
    pub(super) fn new(settings: &Settings, catalog: &Catalog, secrets: &Secrets) -> Self {
        let openclaw = settings.get("OPENCLAW_GATEWAY_URL").map(String::as_str).unwrap_or_default();
        let base = |url: &str| url.trim().trim_end_matches('/').to_owned();
        let credential = |name: &str| Some((name.to_owned(), secrets.get(name)?.to_owned()));
        let names = CREDENTIALS.iter().copied().chain(catalog.secrets());
        let dingtalk = dingtalk_urls(settings).map(|(name, url)| (name.to_owned(), base(url)));
        let servers = catalog.servers().map(|(name, url)| (name, url.to_owned()));
        Self {
            openclaw: base(openclaw),
            wechat: base(wechat_url(settings)),
            servers: servers.chain(dingtalk).collect(),
            credentials: names.filter_map(credential).collect(),
        }
    }

    fn base(&self, upstream: &str) -> Option<&str> {
        match upstream {
            OPENCLAW => Some(&self.openclaw),
            WECHAT => Some(&self.wechat),
            _ => self.servers.iter().find(|(known, _)| known == upstream).map(|(_, base)| base.as_str()),
        }
    }

    pub(super) fn credential(&self, name: &str) -> Option<&str> {
        self.credentials.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// Ends a fetch when it is dropped: the platform closes the connection, and OpenClaw aborts
/// the run.
pub(super) struct Abort(AbortController);

impl Drop for Abort {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The head of an answer, and the way to the rest.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

/// A body that has not come yet.
pub(super) struct Body {
    reader: Option<ReadableStreamDefaultReader>,
    pub(super) lines: Lines,
    _abort: Abort,
}

/// Begins a fetch. The promise is made at once, so that nothing of the address is borrowed.
pub(super) fn send(
    addresses: &Addresses,
    fetch: &Fetch,
    body: Option<Uint8Array>,
) -> Result<(Promise, Abort), JsValue> {
    let base = addresses.base(&fetch.upstream).ok_or("an upstream that is not known")?;
    let mut url = format!("{base}{}", fetch.path);
    let headers = Headers::new()?;
    for (name, value) in &fetch.headers {
        headers.set(name, value)?;
    }
    match &fetch.credential {
        Some(Credential::Bearer(name)) => {
            let secret = addresses.credential(name).ok_or("a credential that is not known")?;
            headers.set("authorization", &format!("Bearer {secret}"))?;
        }
        Some(Credential::Query { parameter, name }) => {
            let secret = addresses.credential(name).ok_or("a credential that is not known")?;
            let separator = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{separator}{parameter}={secret}");
        }
        None => {}
    }
    let controller = AbortController::new()?;
    let init = RequestInit::new();
    init.set_method(&fetch.method);
    init.set_headers(&headers);
    init.set_redirect(RequestRedirect::Manual);
    init.set_signal(Some(&controller.signal()));
    if let Some(body) = body {
        init.set_body(&body);
    }
    let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
    Ok((scope.fetch_with_str_and_init(&url, &init), Abort(controller)))
}

/// Waits for the head of an answer.
pub(super) async fn head(promise: Promise, abort: Abort) -> Result<Answer, FetchFailure> {
    // The platform does not say whether it could not connect or lost the connection.
    let response: Response =
        JsFuture::from(promise).await.map_err(|_| FetchFailure::Unclear)?.unchecked_into();
    let all = response.headers();
    let read = |name: &&str| Some(((*name).to_owned(), all.get(name).ok().flatten()?));
    let reader = response.body().map(|body| body.get_reader().unchecked_into());
    Ok(Answer {
        status: response.status(),
        headers: UPSTREAM_HEADERS.iter().filter_map(read).collect(),
        body: Body { reader, lines: Lines::default(), _abort: abort },
    })
}

impl Body {
    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<u8>>, FetchFailure> {
        let Some(reader) = &self.reader else { return Ok(None) };
        let result = JsFuture::from(reader.read()).await.map_err(|_| FetchFailure::Reset)?;
        if js::property(&result, "done").is_truthy() {
            self.reader = None;
            return Ok(None);
        }
        Ok(Some(js::property(&result, "value").unchecked_into::<Uint8Array>().to_vec()))
    }

    /// All of it.
    pub(super) async fn collect(mut self, limit: u64) -> Result<Vec<u8>, FetchFailure> {
        let mut whole = Vec::new();
        while let Some(piece) = self.next().await? {
            if whole.len() as u64 + piece.len() as u64 > limit {
                return Err(FetchFailure::TooLarge);
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole)
    }
}
