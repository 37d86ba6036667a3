//! Asks WeChat how risky the person is who logs in, before the token is given.
//!
//! A small state machine between WeChat's word for who it is and the token: the access token, where
//! none was in the store, then one question. Whatever goes wrong here, the login goes on: WeChat has
//! just vouched for the person, and an optional service that is down or was never granted must not
//! keep everybody out. The openid and the access token go into the request and nowhere else.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Exchange, Phase, inspection::code_of};
use crate::{
    policy::{Policy, RiskMode, auth},
    seam::{Input, Moment, Output, Rope},
    state::{
        Op,
        caller::{Strike, Thresholds},
    },
    wire::{
        failure::Code,
        wechat::{
            self,
            content::CheckFault,
            risk::{self, HIGHEST},
        },
    },
};

/// Milliseconds that all of it may take: a person waits for their login.
const PATIENCE: u64 = 3_000;

/// A question about a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    openid: String,
    stage: Stage,
    /// The access token was fetched for this question.
    renewed: bool,
    /// The fetch that is waited for.
    pub(super) id: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Token,
    Rank,
}

/// Points for a person of that rank: halfway from one standing to the next, so that it lasts some
/// minutes. WeChat calls 0 no risk and 1 a low suspicion, says of the others only that a higher one is
/// a higher risk, and leaves to each business what it does about them. So 2 is slowed, and 3 gets
/// explanations only.
fn points(rank: u8, thresholds: Thresholds) -> u16 {
    let Thresholds { slow, restrict, block, .. } = thresholds;
    match rank {
        2 => slow.midpoint(restrict),
        3 => restrict.midpoint(block),
        _ => 0,
    }
}

impl Exchange {
    /// WeChat is asked about the person. `token` is empty where the store had none.
    pub(super) fn ask_risk(&mut self, policy: &Policy, openid: String, token: &str, now: Moment) {
        self.timers.turn = None;
        self.timers.check = Some(now.unix_ms + PATIENCE);
        let mut asked = Asked { openid, stage: Stage::Token, renewed: false, id: 0 };
        if token.is_empty() {
            self.fetch_token_for_risk(policy, &mut asked);
        } else {
            self.ask_rank(policy, &mut asked, token);
        }
        self.phase = Phase::LoginRisk(Box::new(asked));
    }

    fn fetch_token_for_risk(&mut self, policy: &Policy, asked: &mut Asked) {
        asked.stage = Stage::Token;
        asked.renewed = true;
        asked.id = self.fetch_token(policy);
    }

    fn ask_rank(&mut self, policy: &Policy, asked: &mut Asked, token: &str) {
        let appid = policy.login.appid.as_deref().unwrap_or_default();
        // An IPv4 address in the form that everybody knows.
        let address = self.facts.client.parse::<IpAddr>().map(|ip| ip.to_canonical().to_string());
        let address = address.unwrap_or_else(|_| self.facts.client.clone());
        let mut body = Rope::default();
        body.push_str(&risk::request_body(appid, &asked.openid, &address));
        asked.stage = Stage::Rank;
        asked.id = self.post_to_wechat(format!("/wxa/getuserriskrank?access_token={token}"), body);
    }

    pub(super) fn in_login_risk(
        &mut self,
        policy: &Policy,
        mut asked: Box<Asked>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match (asked.stage, input) {
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == asked.id => {
                match self.keep_token(*status, body, now) {
                    Ok(token) => self.ask_rank(policy, &mut asked, &token),
                    Err(failure) => return self.not_ranked(policy, *asked, failure.code, now),
                }
            }
            (Stage::Rank, Input::FetchWhole { id, status, body, .. }) if *id == asked.id => {
                match risk::rank(*status, body) {
                    Ok(rank) => return self.ranked(policy, *asked, rank, now),
                    // Another host may have made the token void: once more, with a new one.
                    Err(CheckFault::Token) if !asked.renewed => {
                        self.fetch_token_for_risk(policy, &mut asked);
                    }
                    Err(fault) => {
                        if let CheckFault::BadRequest(errcode) = fault {
                            self.story.risk_errcode = Some(errcode);
                        }
                        return self.not_ranked(policy, *asked, code_of(fault), now);
                    }
                }
            }
            (_, Input::FetchFailed { id, .. }) if *id == asked.id => {
                return self.not_ranked(policy, *asked, Code::WechatUnavailable, now);
            }
            _ => {}
        }
        self.phase = Phase::LoginRisk(asked);
    }

    /// WeChat has not answered in time.
    pub(super) fn risk_timed_out(&mut self, policy: &Policy, asked: Asked, now: Moment) {
        self.outputs.push_back(Output::Cancel { id: asked.id });
        self.not_ranked(policy, asked, Code::WechatUnavailable, now);
    }

    /// Nothing is known of the person, and the line says why.
    fn not_ranked(&mut self, policy: &Policy, asked: Asked, code: Code, now: Moment) {
        self.timers.check = None;
        self.story.risk_failed = Some(code);
        self.let_in(policy, asked.openid, now);
    }

    fn ranked(&mut self, policy: &Policy, asked: Asked, rank: u8, now: Moment) {
        self.timers.check = None;
        self.story.risk_rank = Some(rank);
        if policy.login.risk == RiskMode::Enforce {
            let subject = auth::person(policy, "wechat", &asked.openid);
            if rank == HIGHEST {
                self.story.subject = Some(subject);
                return self.fail(policy, &wechat::login::risky(), now);
            }
            let points = points(rank, policy.abuse);
            if points > 0 && policy.abuse.block > 0 {
                // A rank alone blocks nobody, however often its person logs in.
                let thresholds = Thresholds { block: 0, ..policy.abuse };
                self.tell(format!("user:{subject}"), Op::Strike(Strike { points, thresholds }));
            }
        }
        self.let_in(policy, asked.openid, now);
    }
}
