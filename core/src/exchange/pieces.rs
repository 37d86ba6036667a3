//! The text of an intent's streamed answer, between the model's pieces and the client's events.
//!
//! A model sends a few characters at a time, dozens of times a second; a Mini Program that draws
//! each of them is slow. So pieces are put together to frames. The first goes at once. What
//! may not be shown is taken out on the way, also where it is cut in two by the model's pieces.

use serde::{Deserialize, Serialize};

use crate::{
    policy::{Policy, redact::Redactor, tokens},
    seam::Moment,
};

/// Milliseconds between two events of text: twenty a second look fluent, and cost a phone little.
const FRAME: u64 = 50;

/// The most bytes of a whole text that are kept for the end.
const MOST_WHOLE: usize = 512 * 1024;

/// What has come and not gone yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Pieces {
    redactor: Option<Redactor>,
    pending: String,
    /// When the last frame went.
    last_ms: u64,
    /// A frame has gone.
    written: bool,
    /// Everything that went, where it is needed afterwards and is not too long for that.
    whole: Option<String>,
    /// Estimated tokens that may still come, where the day's caps leave fewer than the answer may have.
    allowance: Option<u32>,
    spent: u32,
}

impl Pieces {
    /// Nothing yet. `keeps` says that the whole text is wanted at the end.
    pub(super) fn new(redacts: bool, keeps: bool, allowance: Option<u32>) -> Self {
        let redactor = redacts.then(Redactor::default);
        Self { redactor, whole: keeps.then(String::new), allowance, ..Self::default() }
    }

    /// More text of the model's.
    pub(super) fn push(&mut self, policy: &Policy, text: &str) {
        if self.allowance.is_some() {
            self.spent = self.spent.saturating_add(tokens::estimate(text));
        }
        match &mut self.redactor {
            Some(redactor) => redactor.push(&policy.catalog.redaction, text, &mut self.pending),
            None => self.pending.push_str(text),
        }
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
    pub(super) fn rest(&mut self, policy: &Policy) -> Option<String> {
        if let Some(redactor) = &mut self.redactor {
            redactor.finish(&policy.catalog.redaction, &mut self.pending);
        }
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
            if whole.len() > MOST_WHOLE {
                self.whole = None;
            }
        }
        Some(text)
    }

    /// Everything that went, where it was wanted.
    pub(super) fn into_whole(self) -> Option<String> {
        self.whole
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
        self.allowance.is_some_and(|allowance| self.spent >= allowance)
    }
}
