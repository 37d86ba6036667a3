//! The token with which this gateway calls WeChat's other services.
//!
//! `POST /cgi-bin/stable_token` gives the same token to everyone who asks while it is
//! valid, so several hosts may each ask and each keep their copy. A token is not shown:
//! whoever has it is this Mini Program's server.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::{is_name, lenient_integer, misconfigured, unavailable};
use crate::wire::failure::Failure;

/// WeChat says to reserve 512 characters; more than this is something else.
const MAX_TOKEN: usize = 2048;

/// A token lives this long at most, by WeChat's documentation; a longer promise is not
/// believed.
const MAX_LIFE_S: i64 = 7_200;

/// WeChat makes the next token five minutes before the old one ends. From then on it is
/// asked again.
const EARLY_MS: u64 = 5 * 60 * 1000;

/// A token and until when it is used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AccessToken {
    /// The token.
    pub token: String,
    /// When to ask for another one, in milliseconds of Unix time: before it ends.
    pub expires_ms: u64,
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default, deserialize_with = "lenient_integer")]
    expires_in: Option<i64>,
    #[serde(default, deserialize_with = "lenient_integer")]
    errcode: Option<i64>,
}

/// The token in WeChat's answer.
pub(crate) fn parse_token(status: u16, body: &[u8], now_ms: u64) -> Result<AccessToken, Failure> {
    let answer = serde_json::from_slice::<Answer>(body).ok().filter(|_| status == 200);
    let answer = answer.ok_or_else(unavailable)?;
    let token = answer.access_token.filter(|token| is_name(token, MAX_TOKEN));
    let life_s = answer.expires_in.filter(|seconds| *seconds > 0);
    match (token, life_s) {
        (Some(token), Some(life_s)) => Ok(AccessToken {
            token,
            expires_ms: now_ms.saturating_add(use_for_ms(life_s.min(MAX_LIFE_S).unsigned_abs())),
        }),
        _ => Err(refused(answer.errcode)),
    }
}

/// How long a token of this life is used: five minutes less, or half of it when it is
/// short, so that a token is always used at all.
fn use_for_ms(life_s: u64) -> u64 {
    let life_ms = life_s * 1000;
    life_ms - EARLY_MS.min(life_ms / 2)
}

/// What each `errcode` means. From WeChat's documentation of the call.
fn refused(errcode: Option<i64>) -> Failure {
    match errcode {
        Some(40164) => misconfigured(
            "its address is not on the app's IP allow-list; add it, or fetch the token from an address that is",
        ),
        Some(89_501 | 89_503) => {
            misconfigured("its address waits for the app's administrator to confirm it in WeChat")
        }
        Some(89_506 | 89_507) => misconfigured("the app's administrator refused its address in WeChat"),
        Some(40013 | 41002) => misconfigured("check the app id"),
        Some(40125 | 40001 | 41004) => misconfigured("check the app secret"),
        // 45009 and 45011 are limits that many hosts reach together; -1 is "busy".
        _ => unavailable(),
    }
}

/// Whether an `errcode` of another call says that its token is not, or no longer, valid:
/// then it is fetched anew and the call is made once more.
pub(crate) fn is_token_error(errcode: i64) -> bool {
    matches!(errcode, 40001 | 40014 | 42001)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::wire::failure::Code;

    fn expires(life: &str) -> Option<u64> {
        let body = format!(r#"{{"access_token":"T_-1","expires_in":{life}}}"#);
        let token = parse_token(200, body.as_bytes(), 1_000_000).ok()?;
        assert_eq!(token.token, "T_-1");
        Some(token.expires_ms - 1_000_000)
    }

    #[test]
    fn a_token_is_used_until_shortly_before_its_end() {
        assert_eq!(expires("7200"), Some(6_900_000));
        assert_eq!(expires("\"7200\""), Some(6_900_000));
        assert_eq!(expires("600"), Some(300_000));
        assert_eq!(expires("599"), Some(299_500));
        assert_eq!(expires("1"), Some(500));
        assert_eq!(expires("9000000000000000000"), Some(6_900_000));
        for never in ["0", "-1", "null", "\"soon\"", "1.5e400"] {
            assert_eq!(expires(never), None, "{never}");
        }
    }

    #[test]
    fn every_documented_errcode_has_its_meaning() {
        let cases = [
            (40164, Code::WechatMisconfigured, "allow-list"),
            (89_503, Code::WechatMisconfigured, "confirm"),
            (89_506, Code::WechatMisconfigured, "refused its address"),
            (89_507, Code::WechatMisconfigured, "refused its address"),
            (40125, Code::WechatMisconfigured, "secret"),
            (40013, Code::WechatMisconfigured, "app id"),
            (45009, Code::WechatUnavailable, ""),
            (45011, Code::WechatUnavailable, ""),
            (-1, Code::WechatUnavailable, ""),
            (12_345, Code::WechatUnavailable, ""),
        ];
        for (errcode, code, says) in cases {
            let body = format!(r#"{{"errcode":{errcode},"errmsg":"invalid ip 6.6.6.6"}}"#);
            let failure = parse_token(200, body.as_bytes(), 0).expect_err("a failure");
            assert_eq!(failure.code, code, "{errcode}");
            assert!(failure.message.contains(says) && !failure.message.contains("6.6.6.6"), "{failure:?}");
        }
    }

    #[test]
    fn anything_else_is_a_failure_of_wechat() {
        let good = r#"{"access_token":"T","expires_in":7200}"#;
        assert_eq!(parse_token(500, good.as_bytes(), 0).expect_err("status").code, Code::WechatUnavailable);
        for body in ["", "[]", "{}", r#"{"access_token":"a b","expires_in":1}"#, r#"{"access_token":"T"}"#] {
            let failure = parse_token(200, body.as_bytes(), 0).expect_err("no token");
            assert_eq!(failure.code, Code::WechatUnavailable, "{body}");
        }
        assert!(parse_token(200, good.as_bytes(), u64::MAX).is_ok());
    }

    #[test]
    fn debug_hides_the_token() {
        let token = AccessToken { token: "T".into(), expires_ms: 5 };
        assert_eq!(format!("{token:?}"), "AccessToken { expires_ms: 5, .. }");
    }

    #[test]
    fn token_errors_are_three() {
        let all: Vec<i64> = (40_000..46_000).filter(|code| is_token_error(*code)).collect();
        assert_eq!(all, [40001, 40014, 42001]);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = parse_token(200, &bytes, 0);
        }
    }
}
