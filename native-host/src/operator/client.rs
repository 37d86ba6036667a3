//! The operator's routes over HTTP, with the key.

use std::{env, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Uri,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use minigate_core::policy::Secrets;
use serde_json::Value;
use tokio::time::timeout;

use crate::{settings, upstream::with_tls};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A gateway, and the operator's key.
#[derive(Debug)]
pub(super) struct Gateway {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    pub(super) url: String,
    key: HeaderValue,
}

impl Gateway {
    /// The one at that address, or this machine's.
    ///
    /// # Errors
    /// When the address is none, or no key is set. No key is ever in an error.
    pub(super) fn of(url: Option<&str>) -> Result<Self, String> {
        let url = match url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", configured()?),
        };
        let is_http = |uri: &Uri| uri.host().is_some() && matches!(uri.scheme_str(), Some("http" | "https"));
        if !url.parse::<Uri>().is_ok_and(|uri| is_http(&uri)) {
            return Err(format!("--url: `{url}` does not begin with http:// or https://"));
        }
        let mut secrets = Secrets::default();
        settings::gather_secrets(&["ADMIN_KEY"], &mut secrets)?;
        // Of several that are valid at once any will do.
        let keys = secrets.get("ADMIN_KEY").unwrap_or_default().split(',').map(str::trim);
        let key = keys.into_iter().find(|key| !key.is_empty());
        let key = key.ok_or("ADMIN_KEY: not set; put the operator's key into the environment or a file")?;
        let mut key = HeaderValue::from_str(&format!("Bearer {key}"))
            .map_err(|_| "ADMIN_KEY: has letters that no header takes".to_owned())?;
        key.set_sensitive(true);
        let connector = with_tls(HttpConnector::new());
        Ok(Self { client: Client::builder(TokioExecutor::new()).build(connector), url, key })
    }

    /// What is at a path.
    pub(super) async fn get(&self, path: &str) -> Result<Value, String> {
        self.ask(Method::GET, path, None).await
    }

    /// What becomes of a body.
    pub(super) async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask(Method::POST, path, Some(body.to_string())).await
    }

    /// What becomes of a body that takes the place of what is there.
    pub(super) async fn put(&self, path: &str, body: &Value) -> Result<Value, String> {
        self.ask(Method::PUT, path, Some(body.to_string())).await
    }

    /// The text of an answer, so that what is in it can be shown as it came.
    async fn ask(&self, method: Method, path: &str, body: Option<String>) -> Result<Value, String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.url))
            .header(AUTHORIZATION, self.key.clone())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body.unwrap_or_default()))
            .map_err(|error| error.to_string())?;
        let answer = timeout(PATIENCE, async {
            let response = self.client.request(request).await.map_err(|error| reason(&error))?;
            let status = response.status();
            let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((status, body.to_bytes()))
        });
        let (status, body) = answer
            .await
            .map_err(|_| format!("{}: no answer within {} s", self.url, PATIENCE.as_secs()))?
            .map_err(|error| format!("{}: {error}", self.url))?;
        let answer: Option<Value> = serde_json::from_slice(&body).ok();
        match answer {
            Some(answer) if status.is_success() => Ok(answer),
            Some(answer) if answer["error"]["message"].is_string() => {
                let word = |name: &str| super::word(&answer["error"][name]);
                let found = diagnostics(&answer);
                Err(format!("{found}{}: {} ({status})", word("code"), word("message")))
            }
            _ => Err(format!("{}: answers {status}, and not as a Minigate does", self.url)),
        }
    }
}

/// The mistakes in a configuration that an answer names, each with its place, as `minigate check` shows them.
pub(super) fn diagnostics(answer: &Value) -> String {
    let mut out = String::new();
    for found in super::stats::list(&answer["diagnostics"]) {
        let [file, line, column, severity, message, help] =
            ["file", "line", "column", "severity", "message", "help"].map(|name| super::word(&found[name]));
        let place = if file.is_empty() { String::new() } else { format!("{file}:{line}:{column}: ") };
        out += &format!("{place}{severity}: {message}\n");
        if found["help"].is_string() {
            out += &format!("  help: {help}\n");
        }
    }
    out
}

/// The whole of an error: its cause says more than itself.
fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), reason)
}

/// Where a host of this machine listens with these settings.
fn configured() -> Result<String, String> {
    let port = settings::number("PORT", 12626)?;
    Ok(match env::var("BIND_ADDRESS").as_deref().map(str::trim) {
        // All addresses of this machine are none to go to.
        Ok("" | "0.0.0.0" | "::") | Err(_) => format!("127.0.0.1:{port}"),
        Ok(address) if address.contains(':') => format!("[{address}]:{port}"),
        Ok(address) => format!("{address}:{port}"),
    })
}

/// An id as a part of a path.
pub(super) fn segment(id: &str) -> Result<&str, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    let is_id = (1..=128).contains(&id.len()) && id.bytes().all(fits);
    is_id.then_some(id).ok_or_else(|| format!("`{}` is no id", super::plain(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_stays_one_part_of_a_path() {
        assert_eq!(segment("req_0-a.b"), Ok("req_0-a.b"));
        for wrong in ["", "a/b", "a?b", "a b", "a%2f", "日"] {
            assert!(segment(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_address_is_said() {
        for wrong in ["", "localhost:1", "ftp://a", "http://"] {
            assert!(Gateway::of(Some(wrong)).is_err_and(|error| error.contains("--url")), "{wrong}");
        }
    }
}
