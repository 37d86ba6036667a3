//! External formats: parse and render. Knows no policy beyond the limits it is given.
//!
//! Wire structs never leave this folder; what leaves it are plain values. The one place
//! that turns an error into a status and a body is [`failure`].

pub(crate) mod answer;
pub(crate) mod attachment;
pub(crate) mod chat;
pub(crate) mod completions;
pub mod dingtalk;
pub mod extract;
pub mod failure;
pub(crate) mod json;
pub(crate) mod links;
pub(crate) mod media;
pub mod mini;
pub(crate) mod openai;
pub(crate) mod pdf;
pub(crate) mod picture;
pub(crate) mod prompt;
pub(crate) mod reply;
pub(crate) mod responses;
pub(crate) mod sse;
pub mod tool;
pub(crate) mod upstream;
pub(crate) mod webhook;
pub(crate) mod wechat;

/// Whether a text may be a trace id: it is written into logs and headers as it is.
pub(crate) fn is_trace_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}
