//! Has WeChat look at a text, and at pictures, before anybody else sees them.
//!
//! One inspection is a small state machine inside of an exchange: the person's openid and this
//! app's access token out of the store, a token from WeChat where there is none, then one check
//! for each piece of the text, then the [pictures](super::pictures). What a verdict, or its
//! absence, means is the policy's. The openid and the token go into requests to WeChat and
//! nowhere else.

use serde::{Deserialize, Serialize};

use super::{
    Exchange,
    gates::Caller,
    pictures::Shown,
    wechat_token::{read_token, text_of},
};
use crate::{
    policy::{ContentMode, Policy, StoreFailure},
    seam::{Input, Moment, Output, Rope},
    state::Op,
    wire::{
        failure::{Code, Failure},
        picture::Picture,
        wechat::content::{self, CheckFault, Suggest},
    },
};

/// Milliseconds that the store or WeChat may take for one answer.
const PATIENCE: u64 = 4_000;

/// A text and pictures on their way through WeChat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Inspection {
    /// The pieces that are left; the last one is the next.
    pieces: Vec<String>,
    pub(super) shown: Shown,
    pub(super) openid: String,
    pub(super) token: String,
    pub(super) stage: Stage,
    /// What is waited for.
    pub(super) id: u32,
    /// The token was fetched anew for this inspection.
    renewed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    Store,
    Token,
    Text,
    /// A picture is put where WeChat can fetch it.
    Keep,
    /// WeChat is asked to look at it.
    Order,
    /// The verdict is waited for.
    Verdict,
}

/// Where an inspection stands after an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The input was for somebody else.
    NotMine,
    /// It goes on.
    Waiting,
    /// The text may be shown.
    Passed,
    /// It may not.
    Refused,
    /// It could not be checked, and then it may not.
    Unchecked,
}

/// The cell of a person's openid.
pub(super) fn openid_key(subject: &str) -> String {
    format!("openid:{subject}")
}

/// A text that may not be shown.
pub(super) fn refused() -> Failure {
    Failure::new(Code::ContentRefused, "WeChat's content check refused the text or a picture")
}

/// A text or picture that nobody could check.
pub(super) fn unchecked() -> Failure {
    Failure::new(Code::ContentUnchecked, "the content check did not answer").after(5)
}

/// What a fault is in the log: an operator must act on some.
pub(super) fn code_of(fault: CheckFault) -> Code {
    match fault {
        CheckFault::Token | CheckFault::BadRequest(_) | CheckFault::NotDownloaded => {
            Code::WechatMisconfigured
        }
        _ => Code::WechatUnavailable,
    }
}

impl Exchange {
    /// Begins to check a text, when the policy wants it. `Err` says that it cannot be checked
    /// and may not pass so.
    pub(super) fn inspect(
        &mut self,
        policy: &Policy,
        text: &str,
        now: Moment,
    ) -> Result<Option<Box<Inspection>>, ()> {
        self.inspect_all(policy, text, Vec::new(), now)
    }

    /// The same, of a text with pictures.
    pub(super) fn inspect_all(
        &mut self,
        policy: &Policy,
        text: &str,
        pictures: Vec<Picture>,
        now: Moment,
    ) -> Result<Option<Box<Inspection>>, ()> {
        if policy.content.mode == ContentMode::Off || (text.trim().is_empty() && pictures.is_empty()) {
            return Ok(None);
        }
        if self.robot.is_some() {
            // WeChat checks what its own people say; a company's robot has others.
            return Ok(None);
        }
        let Caller::Session { subject, .. } = &self.facts.caller else {
            // Whoever has no login has no openid, and WeChat checks for none.
            return self.not_checked(policy).map_or(Ok(None), |()| Err(()));
        };
        let key = openid_key(subject);
        let mut pieces: Vec<String> = content::pieces(text, content::MAX_CHARS).map(str::to_owned).collect();
        pieces.reverse();
        let id = self.take_id();
        let ops = vec![(key, Op::Read), read_token()];
        self.outputs.push_back(Output::Store { id, ops });
        self.timers.check = Some(now.unix_ms + PATIENCE);
        Ok(Some(Box::new(Inspection {
            pieces,
            shown: Shown::new(pictures),
            openid: String::new(),
            token: String::new(),
            stage: Stage::Store,
            id,
            renewed: false,
        })))
    }

    /// An input that may be the inspection's.
    pub(super) fn inspect_on(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        input: &Input<'_>,
        now: Moment,
    ) -> Progress {
        let progress = match (inspection.stage, input) {
            (Stage::Store, Input::Stored { id, outcomes }) if *id == inspection.id => {
                inspection.openid = text_of(outcomes.first());
                inspection.token = text_of(outcomes.get(1));
                if inspection.openid.is_empty() {
                    self.unchecked(policy)
                } else if inspection.token.is_empty() {
                    self.fetch_token_for(policy, inspection)
                } else {
                    self.check_next(policy, inspection, now)
                }
            }
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == inspection.id => {
                match self.keep_token(*status, body, now) {
                    Ok(token) => {
                        inspection.token = token;
                        self.check_next(policy, inspection, now)
                    }
                    Err(failure) => {
                        // An operator must know, whatever the policy says of the request.
                        self.story.check_failed = Some(failure.code);
                        self.unchecked(policy)
                    }
                }
            }
            (Stage::Text, Input::FetchWhole { id, status, body, .. }) if *id == inspection.id => {
                self.judge_text(policy, inspection, content::verdict(*status, body), now)
            }
            (Stage::Keep, Input::Stored { id, .. }) if *id == inspection.id => {
                self.order(policy, inspection);
                Progress::Waiting
            }
            (Stage::Order, Input::FetchWhole { id, status, body, .. }) if *id == inspection.id => {
                self.ordered(policy, inspection, content::media_accepted(*status, body), now)
            }
            (Stage::Verdict, Input::Stored { id, outcomes }) if *id == inspection.id => {
                self.verdict_asked(policy, inspection, outcomes.first(), now)
            }
            (Stage::Verdict, Input::Woken { id }) if *id == inspection.id => {
                self.await_verdict(inspection);
                Progress::Waiting
            }
            (_, Input::StoreFailed { id } | Input::FetchFailed { id, .. }) if *id == inspection.id => {
                self.story.check_failed = Some(Code::WechatUnavailable);
                self.unchecked(policy)
            }
            _ => return Progress::NotMine,
        };
        self.inspected(policy, inspection, progress, now)
    }

    /// WeChat, or the store, has not answered in time; or it is time to ask for a verdict again.
    pub(super) fn inspection_timed_out(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        now: Moment,
    ) -> Progress {
        self.outputs.push_back(Output::Cancel { id: inspection.id });
        let progress = if inspection.stage == Stage::Verdict && now.unix_ms < inspection.shown.until_ms {
            self.await_verdict(inspection);
            Progress::Waiting
        } else {
            self.story.check_failed = Some(Code::WechatUnavailable);
            self.unchecked(policy)
        };
        self.inspected(policy, inspection, progress, now)
    }

    /// Sets the time for the next thing, or clears up after the last.
    fn inspected(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        progress: Progress,
        now: Moment,
    ) -> Progress {
        self.timers.check = match (progress, inspection.stage) {
            (Progress::Waiting, Stage::Keep) => Some(now.unix_ms + 2 * PATIENCE),
            (Progress::Waiting, Stage::Verdict) => Some(inspection.shown.ask_again(now)),
            (Progress::Waiting, _) => Some(now.unix_ms + PATIENCE),
            _ => None,
        };
        if progress != Progress::Waiting {
            self.take_back(policy, inspection);
        }
        progress
    }

    fn judge_text(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        verdict: Result<content::Verdict, CheckFault>,
        now: Moment,
    ) -> Progress {
        match verdict {
            Ok(verdict) => {
                if self.is_refused(policy, verdict) {
                    return Progress::Refused;
                }
                inspection.pieces.pop();
                self.check_next(policy, inspection, now)
            }
            Err(fault) => match self.renew_for(policy, inspection, fault) {
                Some(progress) => progress,
                None => {
                    self.story.check_failed = Some(code_of(fault));
                    if self.not_checked(policy).is_some() {
                        return Progress::Unchecked;
                    }
                    // What hinders a text need not hinder pictures.
                    inspection.pieces.clear();
                    self.check_next(policy, inspection, now)
                }
            },
        }
    }

    /// Notes a verdict, and says whether it is one that refuses.
    pub(super) fn is_refused(&mut self, policy: &Policy, verdict: content::Verdict) -> bool {
        if verdict.suggest != Suggest::Pass {
            self.story.content_label = Some(verdict.label);
            self.story.content_trace = Some(verdict.trace_id);
        }
        verdict.suggest == Suggest::Risky && policy.content.mode == ContentMode::Enforce
    }

    /// Another host may have made a token void: once more, with a new one.
    pub(super) fn renew_for(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        fault: CheckFault,
    ) -> Option<Progress> {
        let renews = fault == CheckFault::Token && !inspection.renewed;
        renews.then(|| self.fetch_token_for(policy, inspection))
    }

    /// The next piece goes to WeChat, if there is one; after the last the pictures.
    pub(super) fn check_next(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        now: Moment,
    ) -> Progress {
        let Some(piece) = inspection.pieces.last() else { return self.show_next(policy, inspection, now) };
        let mut body = Rope::default();
        body.push_str(&content::request_body(piece, &inspection.openid));
        let path = format!("/wxa/msg_sec_check?access_token={}", inspection.token);
        self.ask_wechat_service(inspection, Stage::Text, path, body)
    }

    fn fetch_token_for(&mut self, policy: &Policy, inspection: &mut Inspection) -> Progress {
        inspection.renewed = inspection.stage != Stage::Store;
        inspection.id = self.fetch_token(policy);
        inspection.stage = Stage::Token;
        Progress::Waiting
    }

    pub(super) fn ask_wechat_service(
        &mut self,
        inspection: &mut Inspection,
        stage: Stage,
        path: String,
        body: Rope,
    ) -> Progress {
        inspection.id = self.post_to_wechat(path, body);
        inspection.stage = stage;
        Progress::Waiting
    }

    pub(super) fn unchecked(&mut self, policy: &Policy) -> Progress {
        self.not_checked(policy).map_or(Progress::Passed, |()| Progress::Unchecked)
    }

    /// `Some` when what was not checked may not pass.
    pub(super) fn not_checked(&mut self, policy: &Policy) -> Option<()> {
        self.story.unchecked = true;
        let closed = policy.content.failure == StoreFailure::Closed;
        (closed && policy.content.mode == ContentMode::Enforce).then_some(())
    }
}

impl Inspection {
    /// What it waits for, to be given up.
    pub(super) fn id(&self) -> u32 {
        self.id
    }
}
