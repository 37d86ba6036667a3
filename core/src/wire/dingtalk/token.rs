//! The token with which this gateway calls DingTalk's API for one app.
//!
//! `POST /v1.0/oauth2/accessToken`. The app's key and secret are put in by the host; a token is not
//! shown: whoever has it is this app.

use serde_json::Value;

use super::{is_temporary, number, text};
use crate::{
    seam::{Piece, Rope},
    wire::wechat::access_token::AccessToken,
};

/// The path of the request.
pub(crate) const PATH: &str = "/v1.0/oauth2/accessToken";

/// A longer token is something else.
const LONGEST: usize = 2_048;
/// A token lives two hours; a longer promise is not believed.
const LONGEST_LIFE_S: u64 = 7_200;
/// The SDKs take a new one so long before the old one ends.
const EARLY_MS: u64 = 5 * 60 * 1000;

/// The body of the request. `key` and `secret` are names of settings.
pub(crate) fn request_body(key: &str, secret: &str) -> Rope {
    let mut body = Rope::default();
    body.push_str("{\"appKey\":\"");
    body.0.push(Piece::Secret(key.to_owned()));
    body.push_str("\",\"appSecret\":\"");
    body.0.push(Piece::Secret(secret.to_owned()));
    body.push_str("\"}");
    body
}

/// Why there is no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TokenFault {
    /// DingTalk refuses the app's key or secret: an operator must act.
    Misconfigured,
    /// DingTalk failed, or its answer says nothing.
    Unavailable,
}

/// The token in the answer.
pub(crate) fn parse(status: u16, body: &[u8], now_ms: u64) -> Result<AccessToken, TokenFault> {
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    let is_token =
        |token: &&str| (1..=LONGEST).contains(&token.len()) && token.bytes().all(|b| b.is_ascii_graphic());
    let token = text(&answer, "accessToken").filter(is_token);
    let life_s = number(&answer, "expireIn").filter(|seconds| *seconds > 0);
    match (status, token, life_s) {
        (200, Some(token), Some(life_s)) => {
            let life_ms = life_s.min(LONGEST_LIFE_S) * 1000;
            // Of a short life half is used, so that a token is used at all.
            let used_ms = life_ms - EARLY_MS.min(life_ms / 2);
            Ok(AccessToken { token: token.to_owned(), expires_ms: now_ms.saturating_add(used_ms) })
        }
        _ if is_temporary(status, text(&answer, "code")) => Err(TokenFault::Unavailable),
        (400..=499, ..) => Err(TokenFault::Misconfigured),
        _ => Err(TokenFault::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_host_puts_the_secrets_in() {
        let body = request_body("DINGTALK_APP_KEY", "DINGTALK_APP_SECRET");
        let secret = |name: &str| Piece::Secret(name.into());
        let expected = [
            Piece::Literal("{\"appKey\":\"".into()),
            secret("DINGTALK_APP_KEY"),
            Piece::Literal("\",\"appSecret\":\"".into()),
            secret("DINGTALK_APP_SECRET"),
            Piece::Literal("\"}".into()),
        ];
        assert_eq!(body.0, expected);
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        let of = |life: &str| {
            let body = format!(r#"{{"accessToken":"abc","expireIn":{life}}}"#);
            parse(200, body.as_bytes(), 1_000).map(|token| token.expires_ms - 1_000)
        };
        assert_eq!(of("7200"), Ok(6_900_000));
        assert_eq!(of("\"7200\""), Ok(6_900_000));
        assert_eq!(of("60"), Ok(30_000));
        assert_eq!(of("99999999"), Ok(6_900_000));
        assert_eq!(of("0"), Err(TokenFault::Unavailable));
    }

    #[test]
    fn a_refusal_is_the_operators() {
        let refused = br#"{"code":"invalidClientIdOrSecret","message":"x","requestid":"y"}"#;
        assert_eq!(parse(400, refused, 0), Err(TokenFault::Misconfigured));
        assert_eq!(parse(401, refused, 0), Err(TokenFault::Misconfigured));
        for (status, body) in [
            (200, "{}"),
            (200, ""),
            (429, "{}"),
            (500, "{}"),
            (200, r#"{"accessToken":"a b","expireIn":5}"#),
            (408, "{}"),
            (403, r#"{"code":"Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"}"#),
        ] {
            assert_eq!(parse(status, body.as_bytes(), 0), Err(TokenFault::Unavailable), "{status} {body}");
        }
    }
}
