//! Has WeChat look at a text before anybody else sees it.
//!
//! One inspection is a small state machine inside of an exchange: the person's openid and this
//! app's access token out of the store, a token from WeChat where there is none, then one check
//! for each piece of the text. What a verdict, or its absence, means is the policy's. The
//! openid and the token go into requests to WeChat and nowhere else.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Exchange, gates::Caller};
use crate::{
    policy::{ContentMode, Policy, StoreFailure},
    seam::{Delivery, Fetch, Input, Moment, Output, Piece, Rope, WECHAT},
    state::{Op, Outcome},
    wire::{
        failure::{Code, Failure},
        json,
        wechat::{
            access_token::{self, AccessToken},
            content::{self, CheckFault, Suggest},
        },
    },
};

/// Milliseconds that the store or WeChat may take for one answer.
const PATIENCE: u64 = 4_000;
/// The most bytes of an answer; it is below 2 KB.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// The store's cell of the access token.
const TOKEN_KEY: &str = "wechat:token";

/// A text on its way through WeChat.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Inspection {
    /// The pieces that are left; the last one is the next.
    pieces: Vec<String>,
    openid: String,
    token: String,
    stage: Stage,
    /// What is waited for.
    id: u32,
    /// The token was fetched anew for this inspection.
    renewed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Store,
    Token,
    Text,
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
    Failure::new(Code::ContentRefused, "WeChat's content check refused the text")
}

/// A text that nobody could check.
pub(super) fn unchecked() -> Failure {
    Failure::new(Code::ContentUnchecked, "the content check did not answer").after(5)
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
        if policy.content.mode == ContentMode::Off || text.trim().is_empty() {
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
        let ops = vec![(key, Op::Read), (TOKEN_KEY.into(), Op::Read)];
        self.outputs.push_back(Output::Store { id, ops });
        self.timers.check = Some(now.unix_ms + PATIENCE);
        let (openid, token) = (String::new(), String::new());
        Ok(Some(Box::new(Inspection { pieces, openid, token, stage: Stage::Store, id, renewed: false })))
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
                let mut values = outcomes.iter().map(|outcome| match outcome {
                    Outcome::Value(Some(bytes)) => String::from_utf8(bytes.to_vec()).unwrap_or_default(),
                    _ => String::new(),
                });
                inspection.openid = values.next().unwrap_or_default();
                inspection.token = values.next().unwrap_or_default();
                if inspection.openid.is_empty() {
                    self.unchecked(policy)
                } else if inspection.token.is_empty() {
                    self.fetch_token(policy, inspection)
                } else {
                    self.check_next(inspection)
                }
            }
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == inspection.id => {
                match access_token::parse_token(*status, body, now.unix_ms) {
                    Ok(AccessToken { token, expires_ms }) => {
                        let value = ByteBuf::from(token.clone().into_bytes());
                        let ttl_ms = expires_ms.saturating_sub(now.unix_ms);
                        self.tell(TOKEN_KEY.into(), Op::Write { value, ttl_ms });
                        inspection.token = token;
                        self.check_next(inspection)
                    }
                    Err(failure) => {
                        // An operator must know, whatever the policy says of the request.
                        self.story.check_failed = Some(failure.code);
                        self.unchecked(policy)
                    }
                }
            }
            (Stage::Text, Input::FetchWhole { id, status, body, .. }) if *id == inspection.id => {
                self.judge_text(policy, inspection, content::verdict(*status, body))
            }
            (_, Input::StoreFailed { id } | Input::FetchFailed { id, .. }) if *id == inspection.id => {
                self.story.check_failed = Some(Code::WechatUnavailable);
                self.unchecked(policy)
            }
            _ => return Progress::NotMine,
        };
        self.timers.check = (progress == Progress::Waiting).then_some(now.unix_ms + PATIENCE);
        progress
    }

    /// WeChat, or the store, has not answered in time.
    pub(super) fn inspection_timed_out(&mut self, policy: &Policy, inspection: &Inspection) -> Progress {
        self.timers.check = None;
        self.outputs.push_back(Output::Cancel { id: inspection.id });
        self.story.check_failed = Some(Code::WechatUnavailable);
        self.unchecked(policy)
    }

    fn judge_text(
        &mut self,
        policy: &Policy,
        inspection: &mut Inspection,
        verdict: Result<content::Verdict, CheckFault>,
    ) -> Progress {
        match verdict {
            Ok(verdict) => {
                if verdict.suggest != Suggest::Pass {
                    self.story.content_label = Some(verdict.label);
                    self.story.content_trace = Some(verdict.trace_id);
                }
                if verdict.suggest == Suggest::Risky && policy.content.mode == ContentMode::Enforce {
                    return Progress::Refused;
                }
                inspection.pieces.pop();
                self.check_next(inspection)
            }
            // Another host may have made it void: once more, with a new one.
            Err(CheckFault::Token) if !inspection.renewed => self.fetch_token(policy, inspection),
            Err(fault) => {
                self.story.check_failed = Some(match fault {
                    CheckFault::Token | CheckFault::BadRequest(_) => Code::WechatMisconfigured,
                    _ => Code::WechatUnavailable,
                });
                self.unchecked(policy)
            }
        }
    }

    /// The next piece goes to WeChat, if there is one.
    fn check_next(&mut self, inspection: &mut Inspection) -> Progress {
        let Some(piece) = inspection.pieces.last() else { return Progress::Passed };
        let mut body = Rope::default();
        body.push_str(&content::request_body(piece, &inspection.openid));
        let path = format!("/wxa/msg_sec_check?access_token={}", inspection.token);
        self.ask_wechat_service(inspection, Stage::Text, path, body)
    }

    fn fetch_token(&mut self, policy: &Policy, inspection: &mut Inspection) -> Progress {
        inspection.renewed = inspection.stage == Stage::Text;
        let appid = json::string(policy.login.appid.as_deref().unwrap_or_default());
        let mut body = Rope::default();
        body.push_str(&format!("{{\"grant_type\":\"client_credential\",\"appid\":{appid},\"secret\":\""));
        body.0.push(Piece::Secret("WECHAT_SECRET".into()));
        body.push_str("\"}");
        self.ask_wechat_service(inspection, Stage::Token, "/cgi-bin/stable_token".into(), body)
    }

    fn ask_wechat_service(
        &mut self,
        inspection: &mut Inspection,
        stage: Stage,
        path: String,
        body: Rope,
    ) -> Progress {
        inspection.id = self.take_id();
        inspection.stage = stage;
        self.outputs.push_back(Output::Fetch(Fetch {
            id: inspection.id,
            upstream: WECHAT.into(),
            method: "POST".into(),
            path,
            headers: vec![("content-type".into(), "application/json".into())],
            credential: None,
            body,
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        }));
        Progress::Waiting
    }

    fn unchecked(&mut self, policy: &Policy) -> Progress {
        self.not_checked(policy).map_or(Progress::Passed, |()| Progress::Unchecked)
    }

    /// `Some` when a text that was not checked may not pass.
    fn not_checked(&mut self, policy: &Policy) -> Option<()> {
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
