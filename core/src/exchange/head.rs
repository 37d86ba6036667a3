//! What a request's head says of itself: its facts, its origin, and what is wrong with it.
//!
//! Nothing is believed here: who asks is found in `credential.rs`, and a header that says something
//! impossible counts as one that was not sent.

use serde::{Deserialize, Serialize};

use super::{
    Facts, approvals, configuration,
    gates::Caller,
    ledger, measure,
    routes::{MODEL_PATH, Route},
    trace, turns,
};
use crate::{
    policy::{Origins, Policy, auth},
    seam::{Moment, RequestHead},
    wire::{
        failure::{Code, Failure, Language},
        is_trace_id,
    },
};

/// Headers that a browser may send across origins.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id, prefer, traceparent, x-api-key, \
     x-openclaw-profile, x-trace-id";
/// Headers that a browser may read across origins.
const EXPOSED_HEADERS: &str =
    "location, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-request-id, x-trace-id";

/// A browser's origin that may read the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Origin {
    Any,
    This(String),
}

impl Origin {
    fn allowed(policy: &Policy, head: &RequestHead) -> Option<Self> {
        let origin = head.header("origin")?;
        match &policy.origins {
            Origins::None => None,
            Origins::Any => Some(Self::Any),
            Origins::List(list) => {
                list.iter().any(|item| item == origin).then(|| Self::This(origin.to_owned()))
            }
        }
    }

    pub(super) fn write(&self, headers: &mut Vec<(String, String)>) {
        let value = match self {
            Self::Any => "*",
            Self::This(origin) => origin,
        };
        headers.push(("access-control-allow-origin".into(), value.into()));
        headers.push(("access-control-expose-headers".into(), EXPOSED_HEADERS.into()));
        headers.push(("vary".into(), "origin".into()));
    }
}

/// Everything that the head says.
pub(super) fn facts(policy: &Policy, head: &RequestHead, now: Moment) -> Facts {
    let id = auth::hex(&now.entropy);
    let own = trace_id(head);
    Facts {
        traced: own.is_some(),
        wanted_profile: head.header("x-openclaw-profile").filter(|name| name.len() <= 64).map(str::to_owned),
        trace_id: own.unwrap_or_else(|| id.clone()),
        request_id: format!("req_{id}"),
        language: Language::accepted(head.header("accept-language")),
        route: Route::of(&head.method, &head.path),
        started_ms: now.unix_ms,
        client: client_address(policy, head),
        origin: Origin::allowed(policy, head),
        head_only: head.method == "HEAD",
        body_bytes: 0,
        fingerprint: 0,
        ascii: false,
        caller: Caller::Anyone,
        restricted: false,
        ticket: ticket(now),
        turn: turns::named(&head.path),
        approval: approvals::named(&head.path),
        model: head.path.strip_prefix(MODEL_PATH).filter(|name| name.len() <= 256).map(str::to_owned),
        edition: configuration::named(&head.path),
        config: policy.catalog.version.clone(),
        idempotency_key: head.header("idempotency-key").map(|key| key.trim().to_owned()),
        digest: [0; 32],
        respond_async: prefers_async(head.header("prefer")),
        last_event: last_event(head),
        wait_s: parameter(&head.query, "wait").and_then(|wait| wait.parse().ok()).unwrap_or(0),
        find: trace::asked_for(&head.path).or_else(|| ledger::asked_for(&head.query)),
        operator: None,
        parent: measure::parent(head),
    }
}

/// `Prefer: respond-async` (RFC 7240), alone or in a list.
fn prefers_async(prefer: Option<&str>) -> bool {
    let mut preferences = prefer.unwrap_or_default().split(',');
    preferences
        .any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("respond-async"))
}

/// Where an event stream goes on: `Last-Event-ID`, or `after` in the query for clients that cannot
/// set that header.
fn last_event(head: &RequestHead) -> u32 {
    let id = head.header("last-event-id").or_else(|| parameter(&head.query, "after"));
    id.and_then(|id| id.trim().parse().ok()).unwrap_or(0)
}

/// A parameter of a query whose values need no decoding.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// A number that no other request has, from the same randomness as its id.
fn ticket(now: Moment) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&now.entropy[8..]);
    u64::from_le_bytes(bytes)
}

/// The client's trace id, when it is one: `X-Trace-Id` first, then W3C `traceparent`.
fn trace_id(head: &RequestHead) -> Option<String> {
    let own = head.header("x-trace-id").filter(|id| is_trace_id(id));
    let w3c = || {
        let id = head.header("traceparent")?.split('-').nth(1)?;
        let valid = id.len() == 32
            && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && id.bytes().any(|b| b != b'0');
        valid.then_some(id)
    };
    own.or_else(w3c).map(str::to_owned)
}

/// The address that the request came from, through proxies that are believed.
fn client_address(policy: &Policy, head: &RequestHead) -> String {
    let forwarded = head
        .header("x-forwarded-for")
        .filter(|_| policy.trusted_proxies.contains(&head.peer))
        .and_then(|list| list.rsplit(',').next())
        .map(str::trim)
        .filter(|address| !address.is_empty() && address.len() <= 64);
    let address = forwarded.unwrap_or(&head.peer);
    // Some proxies add the port.
    match address.parse::<core::net::SocketAddr>() {
        Ok(socket) => socket.ip().to_canonical().to_string(),
        Err(_) => address.to_owned(),
    }
}

/// The headers that answer a browser's preflight, when it is one that is allowed.
pub(super) fn preflight(policy: &Policy, head: &RequestHead, route: Route) -> Option<Vec<(String, String)>> {
    let wanted = head.header("access-control-request-method")?;
    Origin::allowed(policy, head)?;
    (head.method == "OPTIONS" && route.allows(wanted)).then(|| {
        vec![
            ("access-control-allow-methods".into(), route.methods().into()),
            ("access-control-allow-headers".into(), ALLOWED_HEADERS.into()),
            ("access-control-max-age".into(), "600".into()),
        ]
    })
}

/// What is wrong with the rest of the head: for those only whose credential is right.
pub(super) fn flaw(policy: &Policy, head: &RequestHead, route: Route) -> Option<Failure> {
    if !route.is_guarded() {
        return None;
    }
    if !head.header("content-type").is_none_or(is_json) {
        return Some(Failure::new(Code::UnsupportedMediaType, "send application/json"));
    }
    let long = head.content_length.is_some_and(|length| length > route.body_limit(policy));
    long.then(|| body_too_large(policy, route))
}

/// The body is over the limit.
pub(super) fn body_too_large(policy: &Policy, route: Route) -> Failure {
    let limit = route.body_limit(policy);
    Failure::new(Code::BodyTooLarge, format!("the body's limit is {limit} bytes, base64 included"))
}

/// `application/json` or a `+json` type, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn head(peer: &str, headers: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            peer: peer.into(),
            headers: headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..RequestHead::default()
        }
    }

    #[test]
    fn trace_ids_are_kept_or_replaced() {
        let of = |headers: &[(&str, &str)]| trace_id(&head("", headers));
        assert_eq!(of(&[("x-trace-id", "1710000123456")]).as_deref(), Some("1710000123456"));
        let w3c = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[("traceparent", w3c)]).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in ["", "a b", "<script>", &"x".repeat(65), "日本"] {
            assert_eq!(of(&[("x-trace-id", bad)]), None, "{bad}");
        }
        assert_eq!(of(&[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")]), None);
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_entry() {
        let policy = Policy::default();
        let forged = [("x-forwarded-for", "6.6.6.6, 10.0.0.7")];
        assert_eq!(client_address(&policy, &head("127.0.0.1", &forged)), "10.0.0.7");
        assert_eq!(client_address(&policy, &head("9.9.9.9", &forged)), "9.9.9.9");
    }

    #[test]
    fn json_by_its_label() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "multipart/form-data; boundary=x", "", "application/jsonx"] {
            assert!(!is_json(bad), "{bad}");
        }
    }
}
