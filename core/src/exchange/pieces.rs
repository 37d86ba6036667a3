//! The text of an intent's streamed answer, between the model's pieces and the client's events.
//!
//! A model sends a few characters at a time, dozens of times a second; a Mini Program that draws
//! each of them is slow. So pieces are put together to frames. The first goes at once.

use serde::{Deserialize, Serialize};

use crate::{policy::Policy, seam::Moment};

/// Milliseconds between two events of text: twenty a second look fluent, and cost a phone little.
const FRAME: u64 = 50;

/// What has come and not gone yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pieces {
    pending: String,
    /// When the last frame went.
    last_ms: u64,
    /// A frame has gone.
    written: bool,
    /// Everything that went, where it is needed afterwards.
    whole: Option<String>,
}

impl Pieces {
    /// Nothing yet. `keeps` says that the whole text is wanted at the end.
    pub(super) fn new(keeps: bool) -> Self {
        Self { whole: keeps.then(String::new), ..Self::default() }
    }

    /// More text of the model's.
    pub(super) fn push(&mut self, _policy: &Policy, text: &str) {
        self.pending.push_str(text);
    }

    /// The text of the next event, when it is time for one.
    pub(super) fn frame(&mut self, now: Moment, at_once: bool) -> Option<String> {
        let due = at_once || now.unix_ms >= self.last_ms + FRAME;
        if !due || self.pending.is_empty() {
            return None;
        }
        self.last_ms = now.unix_ms;
        self.take()
    }

    /// The text of the last event.
    pub(super) fn rest(&mut self, _policy: &Policy) -> Option<String> {
        self.take()
    }

    fn take(&mut self) -> Option<String> {
        let text = std::mem::take(&mut self.pending);
        if text.is_empty() {
            return None;
        }
        self.written = true;
        if let Some(whole) = &mut self.whole {
            whole.push_str(&text);
        }
        Some(text)
    }

    /// When the next frame is due.
    pub(super) fn due_ms(&self) -> Option<u64> {
        (!self.pending.is_empty()).then_some(self.last_ms + FRAME)
    }

    /// Whether anything has gone.
    pub(super) fn has_written(&self) -> bool {
        self.written
    }

    /// Whether no more may come.
    pub(super) fn is_spent(&self) -> bool {
        false
    }
}
