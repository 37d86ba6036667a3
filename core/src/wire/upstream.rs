//! How OpenClaw's failures become ours.
//!
//! OpenClaw uses one status for its own refusal and for its provider's (a wrong Gateway
//! token and a wrong provider key are both 401), so the `type` decides too. Its words are
//! read here and never shown: they name providers, keys and profiles.
//!
//! Observed with OpenClaw 2026.9.6; the status and type of each case are in the tests.

use serde::Deserialize;

use super::failure::{Code, Failure};

/// Seconds for which OpenClaw disables a provider's key after it was refused.
const PROVIDER_COOL_DOWN_S: u64 = 30;

/// The error objects of both APIs.
#[derive(Deserialize, Default)]
struct ErrorBody {
    #[serde(default)]
    error: Option<ErrorObject>,
}

/// `{"message","type"}` of Chat Completions and of the Gateway itself, or
/// `{"code","message"}` of Responses.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct ErrorObject {
    #[serde(default)]
    message: Option<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    code: Option<String>,
}

/// A failed answer, by its status, body and `Retry-After`.
pub(crate) fn failed(status: u16, body: &[u8], retry_after: Option<&str>) -> Failure {
    let error = serde_json::from_slice::<ErrorBody>(body).unwrap_or_default().error.unwrap_or_default();
    let wait =
        retry_after.and_then(|value| value.trim().parse::<u64>().ok()).map(|seconds| seconds.min(3600));
    let failure = match (status, error.kind()) {
        (401, "unauthorized") | (403, "proxy_attribution_required" | "forbidden") => misconfigured(),
        (401 | 403, _) => model_refused(),
        (404, "invalid_request_error") if error.says("agent") || error.says("model") => misconfigured(),
        (404, "invalid_request_error") => model_refused(),
        (404 | 405, _) => misconfigured(),
        (400, _) => by_words(&error).unwrap_or_else(refused),
        (413, _) => Failure::new(Code::BodyTooLarge, "OpenClaw takes at most 20 MiB in all"),
        (408, _) => timeout(),
        (429, "rate_limited") => misconfigured(),
        (429 | 503, _) => overloaded(),
        _ => by_words(&error).unwrap_or_else(broken),
    };
    match wait {
        Some(seconds) if failure.code.retryable() => failure.after(seconds),
        _ => failure,
    }
}

/// An error inside a stream, or in a Responses object: there the status says nothing.
pub(crate) fn failed_in_stream(error: &ErrorObject) -> Failure {
    match error.kind() {
        "authentication_error" => model_refused(),
        "invalid_request_error" => refused(),
        "rate_limit_error" => overloaded(),
        _ => by_words(error).unwrap_or_else(broken),
    }
}

impl ErrorObject {
    fn kind(&self) -> &str {
        self.kind.as_deref().or(self.code.as_deref()).unwrap_or_default()
    }

    fn says(&self, word: &str) -> bool {
        self.message.as_deref().is_some_and(|message| message.contains(word))
    }
}

/// What only the words tell apart.
fn by_words(error: &ErrorObject) -> Option<Failure> {
    if error.says("upstream provider timeout") {
        return Some(timeout());
    }
    if error.says("upstream provider overloaded") {
        return Some(overloaded());
    }
    if error.says("temporarily disabled") {
        return Some(model_refused());
    }
    // "Multiple agents are configured": OPENCLAW_AGENT is missing. "Unknown agent": it is wrong.
    if error.says("gents are configured") || error.says("Unknown agent") || error.says("Invalid `model`") {
        return Some(misconfigured());
    }
    None
}

fn misconfigured() -> Failure {
    Failure::new(
        Code::UpstreamMisconfigured,
        "the agent's gateway refuses this server; its operator must check the settings",
    )
}

fn model_refused() -> Failure {
    Failure::new(Code::ModelUnavailable, "the model's provider refuses the agent for now")
        .after(PROVIDER_COOL_DOWN_S)
}

fn refused() -> Failure {
    Failure::new(Code::UpstreamRefusedRequest, "the agent or its model refused this request")
}

fn timeout() -> Failure {
    Failure::new(Code::UpstreamTimeout, "the model did not answer in time")
}

fn overloaded() -> Failure {
    Failure::new(Code::UpstreamOverloaded, "the agent or its model is at its limit").after(5)
}

fn broken() -> Failure {
    Failure::new(Code::UpstreamError, "the agent failed")
}

/// The answer is not what it should be, or broke off.
pub(crate) fn protocol() -> Failure {
    Failure::new(Code::UpstreamProtocol, "the agent's answer broke off or could not be read")
}

/// The answer has no text.
pub(crate) fn empty() -> Failure {
    Failure::new(Code::UpstreamEmpty, "the agent answered nothing")
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn each_observed_failure() {
        let chat =
            |message: &str, kind: &str| format!(r#"{{"error":{{"message":"{message}","type":"{kind}"}}}}"#);
        for (status, body, expected) in [
            (401, chat("Unauthorized", "unauthorized"), Code::UpstreamMisconfigured),
            (401, chat("401 stub: Incorrect API key", "authentication_error"), Code::ModelUnavailable),
            (403, chat("x", "proxy_attribution_required"), Code::UpstreamMisconfigured),
            (403, chat("missing scope: operator.write", "forbidden"), Code::UpstreamMisconfigured),
            (403, chat("403 stub", "authentication_error"), Code::ModelUnavailable),
            (400, chat("400 stub: bad request", "invalid_request_error"), Code::UpstreamRefusedRequest),
            (
                400,
                chat("Multiple agents are configured", "invalid_request_error"),
                Code::UpstreamMisconfigured,
            ),
            (400, chat("Unknown agent 'nope'.", "invalid_request_error"), Code::UpstreamMisconfigured),
            (404, "Not Found".into(), Code::UpstreamMisconfigured),
            (408, chat("upstream provider timeout", "api_error"), Code::UpstreamTimeout),
            (413, chat("Payload too large", "invalid_request_error"), Code::BodyTooLarge),
            (429, chat("x", "rate_limit_error"), Code::UpstreamOverloaded),
            (429, chat("Too many failed", "rate_limited"), Code::UpstreamMisconfigured),
            (500, chat("internal error", "api_error"), Code::UpstreamError),
            (502, chat("upstream provider error", "api_error"), Code::UpstreamError),
            (503, chat("upstream provider overloaded", "api_error"), Code::UpstreamOverloaded),
            (500, "<html>".into(), Code::UpstreamError),
            (
                401,
                r#"{"status":"failed","error":{"code":"authentication_error","message":"401 x"}}"#.into(),
                Code::ModelUnavailable,
            ),
        ] {
            assert_eq!(failed(status, body.as_bytes(), None).code, expected, "{status} {body}");
        }
    }

    #[test]
    fn retry_after_is_kept_and_no_word_of_the_upstream_is() {
        let body = br#"{"error":{"message":"Gateway secret-word","type":"service_unavailable","code":"gateway_unavailable"}}"#;
        let failure = failed(503, body, Some("1"));
        assert_eq!((failure.code, failure.retry_after_s), (Code::UpstreamOverloaded, Some(1)));
        assert!(!failure.message.contains("secret-word"));
    }

    #[test]
    fn in_a_stream_the_words_decide() {
        let error = |message: &str, kind: &str| ErrorObject {
            message: Some(message.into()),
            kind: Some(kind.into()),
            code: None,
        };
        for (message, kind, expected) in [
            ("upstream provider error", "api_error", Code::UpstreamError),
            ("upstream provider timeout", "api_error", Code::UpstreamTimeout),
            ("upstream provider overloaded", "api_error", Code::UpstreamOverloaded),
            ("Inline API key for provider is temporarily disabled", "api_error", Code::ModelUnavailable),
            ("401 stub", "authentication_error", Code::ModelUnavailable),
            ("400 stub", "invalid_request_error", Code::UpstreamRefusedRequest),
            ("429 stub", "rate_limit_error", Code::UpstreamOverloaded),
        ] {
            assert_eq!(failed_in_stream(&error(message, kind)).code, expected, "{message}");
        }
    }
}
