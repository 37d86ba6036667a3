//! What DingTalk's servers send to a robot, are asked and answer: messages, replies, the
//! frames of Stream mode.
//!
//! DingTalk says some failures in a body with status 200 and some by a status with a `code`; its
//! words are never read, and of a code only what can stand in a log. A session webhook is a
//! credential for one conversation, and comes from outside: it is not shown, and nothing is sent
//! anywhere but to DingTalk's own host.
//!
//! Facts are from DingTalk's pages (open.dingtalk.com, 2023 to 2026) and the source of its SDKs for
//! Stream mode; what only connectors of others do is said where it is.

use serde_json::Value;

pub(crate) mod callback;
pub(crate) mod file;
pub mod link;
pub(crate) mod message;
pub(crate) mod send;
pub(crate) mod split;
pub(crate) mod stream;
pub(crate) mod token;

/// Where the robot's API is: tokens, messages, the gateway of Stream mode.
pub(crate) const API: &str = "https://api.dingtalk.com";
/// Where session webhooks are, and the only place to which a reply by one goes.
pub(crate) const OAPI: &str = "https://oapi.dingtalk.com";

/// The header of the access token.
pub(crate) const TOKEN_HEADER: &str = "x-acs-dingtalk-access-token";

/// A text under a key; `None` when it is not there or is no text.
fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}

/// A number, which DingTalk writes as one in one place and as a text in another.
fn number(value: &Value, key: &str) -> Option<u64> {
    let value = value.get(key)?;
    value.as_u64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Whether an answer says no more than "not now". Too many calls are 403 with a code, where others have 429.
fn is_temporary(status: u16, code: Option<&str>) -> bool {
    matches!(status, 408 | 429) || (status == 403 && code.is_some_and(|code| code.contains("QpsLimit")))
}

/// A code that may stand in a log: visible ASCII of a sane length.
fn code(text: &str) -> String {
    let valid = (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
    if valid { text.to_owned() } else { "unreadable".to_owned() }
}
