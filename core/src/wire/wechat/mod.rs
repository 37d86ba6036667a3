//! What WeChat's servers are asked and what they answer: login, access tokens, content
//! checks, a person's risk.
//!
//! WeChat answers nearly everything with status 200; what happened is in `errcode`. Its
//! `errmsg` is never read: it repeats our address, our app id and digits of our secret.
//! No secret is put together with a request here, the host adds them; and nothing that
//! WeChat gives (an openid, a token) is shown by a `Debug`.

use core::fmt;
use std::fmt::Write as _;

use serde::de::{Deserializer, Error, Visitor};

use super::failure::{Code, Failure};

pub(crate) mod access_token;
pub(crate) mod content;
pub(crate) mod field;
pub(crate) mod login;
pub(crate) mod push;
pub(crate) mod risk;
pub(crate) mod subscribe;

/// WeChat's servers failed, or answered something else than what is documented.
fn unavailable() -> Failure {
    Failure::new(Code::WechatUnavailable, "WeChat's servers did not give an answer that can be used").after(2)
}

/// WeChat refuses this gateway; `what` says for its operator what to look at.
fn misconfigured(what: &str) -> Failure {
    Failure::new(Code::WechatMisconfigured, format!("WeChat refuses this server: {what}"))
}

/// Whether a name that WeChat gave (an openid, a token) can be one: visible ASCII of a
/// sane length, so that it is safe in a URL, a log line and a store's key.
fn is_name(text: &str, max: usize) -> bool {
    !text.is_empty() && text.len() <= max && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Appends `text` as a query value: everything but RFC 3986's unreserved characters is
/// percent-encoded.
fn push_query_value(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

/// An integer that WeChat writes as a number in one place and as a string in another.
/// One that is no integer is `None`, not an error: it must not hide the fields beside it.
fn lenient_integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    deserializer.deserialize_any(IntegerVisitor)
}

struct IntegerVisitor;

impl<'de> Visitor<'de> for IntegerVisitor {
    type Value = Option<i64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an integer, as a number or a string")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        Ok(Some(value))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        Ok(i64::try_from(value).ok())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Self::Value, E> {
        Ok(value.trim().parse().ok())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Number {
        #[serde(default, deserialize_with = "lenient_integer")]
        n: Option<i64>,
    }

    #[test]
    fn integers_come_as_numbers_and_as_strings() {
        let n = |text: &str| serde_json::from_str::<Number>(text).map(|number| number.n);
        assert_eq!(n(r#"{"n":-1}"#).expect("json"), Some(-1));
        assert_eq!(n(r#"{"n":20001}"#).expect("json"), Some(20_001));
        assert_eq!(n(r#"{"n":" 20001 "}"#).expect("json"), Some(20_001));
        for none in [r#"{}"#, r#"{"n":null}"#, r#"{"n":"x"}"#, r#"{"n":18446744073709551615}"#] {
            assert_eq!(n(none).expect("json"), None, "{none}");
        }
        assert!(n(r#"{"n":[]}"#).is_err() && n(r#"{"n":true}"#).is_err());
    }

    #[test]
    fn query_values_cannot_add_parameters() {
        let mut out = String::new();
        push_query_value(&mut out, "aZ09-._~&=+ %#/字");
        assert_eq!(out, "aZ09-._~%26%3D%2B%20%25%23%2F%E5%AD%97");
    }
}
