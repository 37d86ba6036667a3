//! A login: the phone's `code` of `wx.login`, exchanged for who it is.
//!
//! `GET /sns/jscode2session`. The answer's `session_key` is dropped unread: it decrypts
//! what WeChat encrypts for this user, nothing here needs it, and what is not kept
//! cannot leak.

use core::fmt;

use serde::Deserialize;

use super::{is_name, lenient_integer, misconfigured, push_query_value, unavailable};
use crate::wire::{
    failure::{Code, Failure},
    json,
};

/// WeChat's codes have 32 characters today; the length is not documented.
const MAX_CODE: usize = 512;

/// An openid has 28 characters, and is not documented to.
const MAX_ID: usize = 128;

/// Seconds until WeChat counts anew: 45011 is a limit per minute.
const RATE_WINDOW_S: u64 = 60;

/// The client's request.
#[derive(Deserialize)]
struct Login {
    code: String,
}

/// The `code` in a login request.
pub(crate) fn parse_login(body: &[u8]) -> Result<String, Failure> {
    let login = json::object::<Login>(body).map_err(|_| {
        Failure::new(Code::InvalidJson, r#"send {"code": "…"} with the code that wx.login gave"#)
    })?;
    if is_name(&login.code, MAX_CODE) {
        return Ok(login.code);
    }
    Err(Failure::new(
        Code::LoginCodeInvalid,
        "`code` is not a code of wx.login; call wx.login and send its code",
    ))
}

/// Path and query of the exchange, without the secret: the host adds it, and takes care
/// that the URL is not logged then.
pub(crate) fn code2session_path(appid: &str, code: &str) -> String {
    let mut path = String::from("/sns/jscode2session?appid=");
    push_query_value(&mut path, appid);
    path.push_str("&js_code=");
    push_query_value(&mut path, code);
    path.push_str("&grant_type=authorization_code");
    path
}

/// Who logged in.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// The user, in this Mini Program.
    pub openid: String,
    /// The user, in all apps of one Open Platform account, when there is one.
    pub unionid: Option<String>,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Identity(..)")
    }
}

/// WeChat's answer, as far as it is read.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    openid: Option<String>,
    #[serde(default)]
    unionid: Option<String>,
    #[serde(default, deserialize_with = "lenient_integer")]
    errcode: Option<i64>,
}

/// Who it is, by WeChat's answer. It is a success when there is an openid: users saw
/// `errcode` come and go in successes.
pub(crate) fn identity(status: u16, body: &[u8]) -> Result<Identity, Failure> {
    let answer = serde_json::from_slice::<Answer>(body).ok().filter(|_| status == 200);
    let answer = answer.ok_or_else(unavailable)?;
    match answer.openid {
        Some(openid) if is_name(&openid, MAX_ID) => {
            Ok(Identity { openid, unionid: answer.unionid.filter(|id| is_name(id, MAX_ID)) })
        }
        _ => Err(refused(answer.errcode)),
    }
}

/// WeChat holds the person for too risky to come in.
pub(crate) fn risky() -> Failure {
    Failure::new(Code::LoginBlocked, "WeChat holds this account for risky")
}

/// What each `errcode` means for the client. From WeChat's documentation of the call.
fn refused(errcode: Option<i64>) -> Failure {
    match errcode {
        // Unknown, of another app, older than five minutes; or missing.
        Some(40029 | 41008) => Failure::new(
            Code::LoginCodeInvalid,
            "WeChat does not know this code or it is over five minutes old; call wx.login again",
        ),
        Some(40163) => {
            Failure::new(Code::LoginCodeUsed, "this code was used before; call wx.login for each login")
        }
        Some(40226) => risky(),
        Some(45011) => {
            Failure::new(Code::RateLimited, "this user logs in too often for WeChat").after(RATE_WINDOW_S)
        }
        Some(40013 | 41002) => misconfigured("check the app id"),
        Some(40125 | 41004) => misconfigured("check the app secret"),
        Some(40164) => misconfigured("its address is not on the app's IP allow-list"),
        // -1 is "busy"; the rest is not documented for this call.
        _ => unavailable(),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn parsed(body: &str) -> Result<String, Code> {
        parse_login(body.as_bytes()).map_err(|failure| failure.code)
    }

    fn code_of(status: u16, body: &str) -> Code {
        identity(status, body.as_bytes()).expect_err("a failure").code
    }

    #[test]
    fn a_code_is_taken_out_of_the_body() {
        assert_eq!(parsed(r#"{"code":"0a1B_-2"}"#), Ok("0a1B_-2".into()));
        assert_eq!(parsed(r#" {"other":[1],"code":"a\u0062"} "#), Ok("ab".into()));
        assert_eq!(parsed(&format!(r#"{{"code":"{}"}}"#, "c".repeat(512))).map(|code| code.len()), Ok(512));
    }

    #[test]
    fn wrong_shapes_are_invalid_json_and_wrong_codes_are_said_so() {
        for body in [
            "",
            "{}",
            "[]",
            r#"["code"]"#,
            r#"{"code":1}"#,
            r#"{"code":null}"#,
            r#"{"code":"a","code":"b"}"#,
            "\u{feff}{}",
        ] {
            assert_eq!(parsed(body), Err(Code::InvalidJson), "{body}");
        }
        let long = "c".repeat(513);
        for code in ["", " ", "a b", "é", r"\n", r"\u0000", &long] {
            assert_eq!(parsed(&format!(r#"{{"code":"{code}"}}"#)), Err(Code::LoginCodeInvalid), "{code}");
        }
    }

    #[test]
    fn the_path_has_no_secret_and_cannot_be_extended() {
        assert_eq!(
            code2session_path("wx1", "a&secret=b#c"),
            "/sns/jscode2session?appid=wx1&js_code=a%26secret%3Db%23c&grant_type=authorization_code"
        );
    }

    #[test]
    fn an_openid_is_a_success_whatever_errcode_says() {
        for body in [
            r#"{"openid":"o1","session_key":"k==","unionid":"u1"}"#,
            r#"{"openid":"o1","unionid":"u1","errcode":0,"errmsg":"ok"}"#,
            r#"{"openid":"o1","unionid":"u1","session_key":{"not":["a string"]}}"#,
        ] {
            let identity = identity(200, body.as_bytes()).expect("an identity");
            assert_eq!((identity.openid.as_str(), identity.unionid.as_deref()), ("o1", Some("u1")));
            assert_eq!(format!("{identity:?}"), "Identity(..)");
        }
        for body in
            [r#"{"openid":"o1"}"#, r#"{"openid":"o1","unionid":""}"#, r#"{"openid":"o1","unionid":null}"#]
        {
            assert_eq!(identity(200, body.as_bytes()).expect("an identity").unionid, None);
        }
    }

    #[test]
    fn every_documented_errcode_has_its_meaning() {
        let cases = [
            (40029, Code::LoginCodeInvalid, None),
            (41008, Code::LoginCodeInvalid, None),
            (40163, Code::LoginCodeUsed, None),
            (40226, Code::LoginBlocked, None),
            (45011, Code::RateLimited, Some(60)),
            (-1, Code::WechatUnavailable, Some(2)),
            (40013, Code::WechatMisconfigured, None),
            (40125, Code::WechatMisconfigured, None),
            (41002, Code::WechatMisconfigured, None),
            (41004, Code::WechatMisconfigured, None),
            (40164, Code::WechatMisconfigured, None),
            (0, Code::WechatUnavailable, Some(2)),
            (99_999, Code::WechatUnavailable, Some(2)),
        ];
        for (errcode, code, wait) in cases {
            for body in [
                format!(r#"{{"errcode":{errcode},"errmsg":"secret 1f3a, ip 1.2.3.4"}}"#),
                format!(r#"{{"errcode":"{errcode}","openid":"","errmsg":"secret 1f3a, ip 1.2.3.4"}}"#),
            ] {
                let failure = identity(200, body.as_bytes()).expect_err("a failure");
                assert_eq!((failure.code, failure.retry_after_s), (code, wait), "{body}");
                assert!(!failure.message.contains("1f3a") && !failure.message.contains("1.2.3.4"));
            }
        }
    }

    #[test]
    fn anything_else_is_a_failure_of_wechat() {
        for body in
            ["", "null", "[]", "{}", "<html>", r#"{"openid":1}"#, r#"{"openid":"a b"}"#, r#"{"openid":"#]
        {
            assert_eq!(code_of(200, body), Code::WechatUnavailable, "{body}");
        }
        assert_eq!(code_of(502, r#"{"openid":"o1"}"#), Code::WechatUnavailable);
        let long = format!(r#"{{"openid":"{}"}}"#, "o".repeat(129));
        assert_eq!(code_of(200, &long), Code::WechatUnavailable);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = identity(200, &bytes);
            let _ = parse_login(&bytes);
        }

        #[test]
        fn any_code_stays_one_query_value(code in "\\PC{0,60}") {
            let path = code2session_path("wx1", &code);
            proptest::prop_assert!(path.is_ascii() && !path.contains(['#', ' ', '+']));
            proptest::prop_assert_eq!((path.matches('&').count(), path.matches('=').count()), (2, 3));
        }
    }
}
