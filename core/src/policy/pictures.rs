//! How WeChat is shown pictures, and how it proves that a verdict is its own.
//!
//! WeChat's message push is signed with a token and encrypted with a key that both sides hold,
//! so these two secrets are in the policy as they are. They let nobody into anything: who has
//! them can make up verdicts. No `Debug` shows them.

use core::fmt;

use serde::{Deserialize, Serialize};

/// The way of pictures to WeChat, and of verdicts from it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pictures {
    /// The origin under which WeChat reaches this gateway, without a slash at its end.
    pub public_url: String,
    /// The token of message push.
    pub token: String,
    /// The EncodingAESKey of message push; without one it is in plain mode.
    pub aes_key: Option<String>,
    /// Milliseconds that a turn waits for verdicts.
    pub wait: u64,
}

impl fmt::Debug for Pictures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pictures").field("public_url", &self.public_url).finish_non_exhaustive()
    }
}

/// Whether a text is an origin that WeChat can fetch from: https, or http where that is allowed;
/// a host and perhaps a port, and nothing else.
pub(super) fn is_origin(text: &str, allows_http: bool) -> bool {
    let http = if allows_http { text.strip_prefix("http://") } else { None };
    let host = text.strip_prefix("https://").or(http).unwrap_or_default();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b':' | b'[' | b']');
    !host.is_empty() && host.len() <= 255 && host.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for good in ["https://a.example", "https://a.example:8443", "https://[2001:db8::1]"] {
            assert!(is_origin(good, false), "{good}");
        }
        assert!(is_origin("http://127.0.0.1:12626", true) && !is_origin("http://127.0.0.1:12626", false));
        for bad in ["", "https://", "a.example", "https://a.example/x", "https://u@a.example", "https://a?b"]
        {
            assert!(!is_origin(bad, true), "{bad}");
        }
    }

    #[test]
    fn its_secrets_are_not_shown() {
        let pictures = Pictures {
            public_url: "https://a.example".into(),
            token: "canary-token".into(),
            aes_key: Some("canary-key".into()),
            wait: 1,
        };
        assert!(!format!("{pictures:?}").contains("canary"));
    }
}
