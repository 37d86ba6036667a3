//! The part of an [inspection](super::inspection) that is about pictures.
//!
//! WeChat takes an address and answers later: a picture is put into the store, WeChat is told where
//! to fetch it, and the verdict comes by message push, perhaps to another host. A turn waits for it
//! only where a verdict decides something. The core never has a picture in its hands here.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange,
    inspection::{Inspection, Progress, Stage, code_of},
};
use crate::{
    policy::{ContentMode, Policy},
    seam::{Moment, Output, Rope, piece_key},
    state::{Op, Outcome},
    wire::{
        picture::{Lent, Picture},
        wechat::content::{self, CheckFault, Verdict},
    },
};

/// Milliseconds for which WeChat can fetch a picture.
const LENT_FOR: u64 = 300_000;
/// Milliseconds after which a verdict is asked for again, in case a wake was lost.
const ASK_AGAIN: u64 = 2_000;

/// The cell of a verdict.
pub(super) fn verdict_key(trace_id: &str) -> String {
    format!("verdict:{trace_id}")
}

/// A verdict as it is stored.
pub(super) fn encode(verdict: &Result<Verdict, CheckFault>) -> ByteBuf {
    // Encoding into memory does not fail for these types.
    ByteBuf::from(postcard::to_allocvec(verdict).unwrap_or_default())
}

/// Pictures on their way through WeChat.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shown {
    /// Those that are left; the last one is the next.
    left: Vec<Picture>,
    /// Those that lie in the store.
    lent: Vec<Lent>,
    /// The first of those left lies there already.
    is_lent: bool,
    /// The checks whose verdicts are waited for.
    awaited: Vec<String>,
    /// How long they are waited for.
    pub(super) until_ms: u64,
}

impl Shown {
    pub(super) fn new(mut left: Vec<Picture>) -> Self {
        left.reverse();
        Self { left, ..Self::default() }
    }

    /// When to ask for a verdict again.
    pub(super) fn ask_again(&self, now: Moment) -> u64 {
        (now.unix_ms + ASK_AGAIN).min(self.until_ms)
    }
}

impl Exchange {
    /// The next picture goes to WeChat; when all did, their verdicts are waited for.
    pub(super) fn show_next(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        now: Moment,
    ) -> Progress {
        let shown = &mut inspection.shown;
        if shown.is_lent {
            self.order(policy, inspection);
            return Progress::Waiting;
        }
        if let Some(picture) = shown.left.last() {
            if picture.size > content::MAX_PICTURE {
                return self.not_shown(policy, inspection, now);
            }
            let lent = picture.lend(policy, now, shown.left.len());
            let (start, len) = (picture.start, picture.len);
            inspection.id = self.take_id();
            inspection.stage = Stage::Keep;
            let (id, key) = (inspection.id, lent.key());
            self.outputs.push_back(Output::Keep { id, key, start, len, ttl_ms: LENT_FOR });
            shown.lent.push(lent);
            shown.is_lent = true;
            return Progress::Waiting;
        }
        if shown.awaited.is_empty() {
            return Progress::Passed;
        }
        if shown.until_ms == 0 {
            let wait = policy.pictures.as_ref().map_or(0, |pictures| pictures.wait);
            // Before the turn ends, so that the failure says what it was waited for.
            let turn = self.timers.turn.unwrap_or(u64::MAX).saturating_sub(1);
            shown.until_ms = (now.unix_ms + wait).min(turn);
        }
        self.await_verdict(inspection);
        Progress::Waiting
    }

    /// Tells WeChat where the picture lies.
    pub(super) fn order(&mut self, policy: &Policy, inspection: &mut Inspection) {
        let origin = policy.pictures.as_ref().map_or("", |pictures| &pictures.public_url);
        let path = inspection.shown.lent.last().map(Lent::path).unwrap_or_default();
        let mut body = Rope::default();
        body.push_str(&content::media_request_body(&format!("{origin}{path}"), &inspection.openid));
        let path = format!("/wxa/media_check_async?access_token={}", inspection.token);
        self.ask_wechat_service(inspection, Stage::Order, path, body);
    }

    /// WeChat will look at it, or will not.
    pub(super) fn ordered(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        accepted: Result<String, CheckFault>,
        now: Moment,
    ) -> Progress {
        match accepted {
            Ok(trace_id) => {
                self.story.picture_traces.push(trace_id.clone());
                let shown = &mut inspection.shown;
                if policy.content.mode == ContentMode::Enforce {
                    shown.awaited.push(trace_id);
                }
                shown.left.pop();
                shown.is_lent = false;
                self.check_next(policy, inspection, now)
            }
            Err(fault) => match self.renew_for(policy, inspection, fault) {
                Some(progress) => progress,
                None => {
                    self.story.check_failed = Some(code_of(fault));
                    self.not_shown(policy, inspection, now)
                }
            },
        }
    }

    /// One picture cannot be checked; where it may pass so, the others are checked all the same.
    fn not_shown(&mut self, policy: &Policy, inspection: &mut Inspection, now: Moment) -> Progress {
        if self.not_checked(policy).is_some() {
            return Progress::Unchecked;
        }
        inspection.shown.left.pop();
        inspection.shown.is_lent = false;
        self.check_next(policy, inspection, now)
    }

    /// Asks for the next verdict.
    pub(super) fn await_verdict(&mut self, inspection: &mut Inspection) {
        inspection.id = self.take_id();
        inspection.stage = Stage::Verdict;
        let key = verdict_key(inspection.shown.awaited.last().map_or("", String::as_str));
        let wait = Op::Await { ticket: self.facts.ticket, ttl_ms: 3 * ASK_AGAIN };
        self.outputs.push_back(Output::Store { id: inspection.id, ops: vec![(key, wait)] });
    }

    /// The verdict is there, or will wake this exchange.
    pub(super) fn verdict_asked(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        outcome: Option<&Outcome>,
        now: Moment,
    ) -> Progress {
        let verdict = match outcome {
            Some(Outcome::Queued { .. }) => {
                self.outputs.push_back(Output::Watch { id: inspection.id });
                return Progress::Waiting;
            }
            Some(Outcome::Value(Some(bytes))) => postcard::from_bytes(bytes).ok(),
            _ => None,
        };
        inspection.shown.awaited.pop();
        match verdict.unwrap_or(Err(CheckFault::Unavailable)) {
            Ok(verdict) => {
                if self.is_refused(policy, verdict) {
                    return Progress::Refused;
                }
            }
            Err(fault) => {
                self.story.check_failed = Some(code_of(fault));
                if self.not_checked(policy).is_some() {
                    return Progress::Unchecked;
                }
            }
        }
        self.check_next(policy, inspection, now)
    }

    /// Where the verdicts are in, nobody is to fetch the pictures any more. Otherwise they stay
    /// until their time is over.
    pub(super) fn take_back(&mut self, policy: &Policy, inspection: &mut Inspection) {
        let lent = std::mem::take(&mut inspection.shown.lent);
        if policy.content.mode != ContentMode::Enforce {
            return;
        }
        for lent in lent {
            let key = lent.key();
            let ops = (0..lent.pieces()).map(|piece| (piece_key(&key, piece), Op::Forget)).collect();
            self.outputs.push_back(Output::Store { id: 0, ops });
        }
    }
}
