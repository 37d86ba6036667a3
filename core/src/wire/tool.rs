//! Calls of tools: put together from a model's answer, checked, sent to the tool's server, and what
//! comes back read.
//!
//! A model's words are data here too: a call that is not exactly what its schema asks for is never
//! sent. The text of the arguments that is checked, shown to a person, hashed and sent is one and
//! the same ([`canonical()`]); nothing in here decides who may approve it. What a server's answer
//! means for the world comes out as one of four ([`Outcome`]), and a doubt stays a doubt.

mod canonical;

use std::{borrow::Cow, fmt::Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{failure::Failure, json, upstream};
use crate::{
    policy::{
        catalog::{Tool, ToolClass},
        schema::{self, Violation},
    },
    seam::{Credential, Delivery, Fetch, FetchFailure, Rope, TOOL},
};

pub use self::canonical::canonical;

/// The most calls in one answer.
const MAX_CALLS: usize = 16;
/// The longest arguments of one call, in bytes.
const MAX_ARGUMENTS: usize = 64 << 10;
/// Of all calls of an answer together: an exchange keeps them in its state.
const MAX_ALL_ARGUMENTS: usize = 128 << 10;
/// The longest id and the longest name, in bytes.
const MAX_WORD: usize = 128;

/// The most bytes that are read of a server's answer.
const LONGEST_ANSWER: u64 = 1 << 20;
/// How much of a result a model gets, in bytes.
const MAX_RESULT: usize = 64 << 10;
/// How much of a refusal a model gets, in bytes.
const MAX_REFUSAL: usize = 2 << 10;
/// Seconds until a call may be sent again where its server does not say.
const USUAL_WAIT_S: u64 = 5;
/// The longest wait that a server can ask for, in seconds.
const MAX_WAIT_S: u64 = 3_600;

/// A model's wish that a tool be called.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The model's server's name for this call: at most 128 letters, digits and `_.:-`.
    pub id: String,
    /// The tool's name, as the model wrote it: there may be no such tool. The same letters.
    pub name: String,
    /// The arguments, as the model wrote them: they may be no JSON. At most 64 KiB.
    pub arguments: String,
}

/// A part of a call, as it comes in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallPiece<'a> {
    /// Which call of the answer; `None` is the newest one.
    pub index: Option<u32>,
    /// Its id; only the first piece has one.
    pub id: Option<Cow<'a, str>>,
    /// Its name; only the first piece has one.
    pub name: Option<Cow<'a, str>>,
    /// More of its arguments.
    pub arguments: Cow<'a, str>,
}

/// The calls of one answer while it comes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calls(Vec<(u32, ToolCall)>);

impl Calls {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes a piece.
    ///
    /// # Errors
    /// The answer is over its bounds: a protocol failure.
    pub fn push(&mut self, piece: &CallPiece<'_>) -> Result<(), Failure> {
        let all: usize = self.0.iter().map(|(_, call)| call.arguments.len()).sum();
        let known = match piece.index {
            Some(index) => self.0.iter().rposition(|(known, _)| *known == index),
            None => self.0.len().checked_sub(1),
        };
        // Some servers give every call the same index, and an id of its own.
        let is_other =
            |call: &ToolCall| piece.id.as_deref().is_some_and(|id| !id.is_empty() && id != call.id);
        let known = known.filter(|at| self.0.get(*at).is_some_and(|(_, call)| !is_other(call)));
        let at = match known {
            Some(at) => at,
            None if self.0.len() >= MAX_CALLS => return Err(upstream::protocol()),
            None => {
                let at = self.0.len();
                let id = match piece.id.as_deref() {
                    None | Some("") => format!("call_{at}"),
                    Some(id) => id.to_owned(),
                };
                self.0.push((piece.index.unwrap_or_default(), ToolCall { id, ..ToolCall::default() }));
                at
            }
        };
        let Some((_, call)) = self.0.get_mut(at) else { return Err(upstream::protocol()) };
        if let Some(name) = piece.name.as_deref()
            && call.name.is_empty()
        {
            name.clone_into(&mut call.name);
        }
        let more = piece.arguments.len();
        let fits = call.arguments.len() + more <= MAX_ARGUMENTS && all + more <= MAX_ALL_ARGUMENTS;
        if !fits || call.id.len() > MAX_WORD || call.name.len() > MAX_WORD {
            return Err(upstream::protocol());
        }
        call.arguments.push_str(&piece.arguments);
        Ok(())
    }

    /// The calls, complete, in the model's order.
    ///
    /// # Errors
    /// One has no name, an id is there twice, or a name or id has letters that could pass for
    /// somebody's words where a conversation is written as one text: a protocol failure.
    pub fn finish(self) -> Result<Vec<ToolCall>, Failure> {
        let calls: Vec<ToolCall> = self.0.into_iter().map(|(_, call)| call).collect();
        let repeated = (1..calls.len()).any(|at| calls[..at].iter().any(|other| other.id == calls[at].id));
        let valid = calls.iter().all(|call| is_word(&call.id) && is_word(&call.name));
        if valid && !repeated { Ok(calls) } else { Err(upstream::protocol()) }
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.:".contains(&b))
}

/// Whether a tool may be called with these arguments: then their [canonical](canonical()) text,
/// which is what is shown, hashed and sent. No text at all is an empty object: so models call a tool
/// without arguments.
///
/// # Errors
/// What is wrong with them.
pub fn check(tool: &Tool, arguments: &str) -> Result<String, Vec<Violation>> {
    let arguments = if arguments.trim().is_empty() { "{}" } else { arguments };
    // The first look tells what is no JSON, or no object, whatever the tool's schema says.
    let mut found = schema::violations(r#"{"type":"object"}"#, arguments);
    if found.is_empty() {
        found = schema::violations(&tool.parameters, arguments);
    }
    match canonical(arguments) {
        Some(text) if found.is_empty() => Ok(text),
        _ => Err(found),
    }
}

/// Names one call of one tool with these [canonical](canonical()) arguments: what a person approves
/// is this and nothing else. SHA-256 over both, each preceded by its length.
pub fn digest(tool: &str, canonical: &str) -> [u8; 32] {
    let mut sha = Sha256::new();
    for part in [tool, canonical] {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().into()
}

/// Everything that a tool's server is told.
#[derive(Clone, Copy, Debug)]
pub struct Order<'a> {
    /// The tool.
    pub tool: &'a Tool,
    /// What [`check`] gave.
    pub arguments: &'a str,
    /// The call's own key, the same whenever this call is sent again.
    pub idempotency_key: &'a str,
    /// The subject of the person for whom it is done.
    pub user: &'a str,
    /// The trace id.
    pub trace_id: &'a str,
    /// The id of the request that asked for it.
    pub request_id: &'a str,
}

impl Order<'_> {
    /// The request to the tool's server.
    pub fn fetch(&self, id: u32) -> Fetch {
        let mut body = Rope::default();
        body.push_str(&format!(
            "{{\"name\":{},\"arguments\":{},\"user\":{},\"traceId\":{},\"requestId\":{}}}",
            json::string(&self.tool.name),
            self.arguments,
            json::string(self.user),
            json::string(self.trace_id),
            json::string(self.request_id),
        ));
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", self.idempotency_key),
            ("x-trace-id", self.trace_id),
        ];
        Fetch {
            id,
            upstream: format!("{TOOL}{}", self.tool.name),
            method: "POST".into(),
            path: String::new(),
            headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            credential: self.tool.secret.clone().map(Credential::Bearer),
            body,
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: true,
        }
    }
}

/// What a call came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It was done; this is the result, at most 64 KiB.
    Done(String),
    /// It was not done, and will not be: its server's status and words, at most 2 KiB.
    Refused {
        /// From 400 to 499.
        status: u16,
        /// The words.
        text: String,
    },
    /// It was not done; it may be sent again after so many seconds.
    Rejected {
        /// At most an hour.
        after_s: u64,
    },
    /// Nobody knows whether it was done.
    Unknown,
}

/// What a server's answer means.
pub fn outcome(status: u16, retry_after: Option<&str>, body: &[u8]) -> Outcome {
    let wait = retry_after.and_then(|value| value.trim().parse::<u64>().ok());
    match status {
        200..=299 => Outcome::Done(text_of(body, MAX_RESULT)),
        429 => Outcome::Rejected { after_s: wait.unwrap_or(USUAL_WAIT_S).min(MAX_WAIT_S) },
        503 if retry_after.is_some() => {
            Outcome::Rejected { after_s: wait.unwrap_or(USUAL_WAIT_S).min(MAX_WAIT_S) }
        }
        // The server gave up waiting, is at it already, or may have begun.
        408 | 409 | 425 => Outcome::Unknown,
        400..=499 => Outcome::Refused { status, text: text_of(body, MAX_REFUSAL) },
        _ => Outcome::Unknown,
    }
}

/// What a fetch that failed means. A host cannot always tell a connection that was never made from one
/// that broke, so only its own deadline for making one is certain.
pub fn fetch_outcome(failure: FetchFailure) -> Outcome {
    match failure {
        FetchFailure::ConnectTimeout => Outcome::Rejected { after_s: USUAL_WAIT_S },
        FetchFailure::Connect | FetchFailure::Unclear | FetchFailure::Reset | FetchFailure::TooLarge => {
            Outcome::Unknown
        }
    }
}

impl Outcome {
    /// Whether the same call may be sent again, with the same key, without being done twice.
    pub fn may_be_sent_again(&self, tool: &Tool) -> bool {
        match self {
            Self::Done(_) | Self::Refused { .. } => false,
            Self::Rejected { .. } => true,
            Self::Unknown => tool.idempotent || tool.class == ToolClass::Read,
        }
    }

    /// The name in logs and in the audit.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Done(_) => "done",
            Self::Refused { .. } => "refused",
            Self::Rejected { .. } => "rejected",
            Self::Unknown => "unknown",
        }
    }

    /// What the model is told as the result.
    pub fn for_model(&self) -> String {
        match self {
            Self::Done(text) if text.is_empty() => "Done; there is nothing to show.".to_owned(),
            Self::Done(text) => text.clone(),
            Self::Refused { status, text } if text.is_empty() => {
                format!("Refused with status {status}; nothing was done.")
            }
            Self::Refused { status, text } => {
                format!("Refused with status {status}; nothing was done. The server says:\n{text}")
            }
            Self::Rejected { .. } => "The tool's server takes no calls now; nothing was done.".to_owned(),
            Self::Unknown => {
                "It is not known whether this was done. Do not call it again; say so to the person."
                    .to_owned()
            }
        }
    }
}

/// A result of which nothing was sent: the arguments do not fit the tool's schema.
pub fn unfit(found: &[Violation]) -> String {
    let mut out = "The call was not sent; its arguments are not as they must be:".to_owned();
    for violation in found {
        // Writing to a String cannot fail.
        let _ = write!(out, "\n- {}", violation.for_model());
    }
    out
}

/// The beginning of a body as text, and a word when there is more.
fn text_of(body: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(body);
    let text = text.trim();
    if text.len() <= most {
        return text.to_owned();
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    format!("{}\n[cut: {} bytes in all]", text.get(..end).unwrap_or_default(), text.len())
}

#[cfg(test)]
mod tests;
