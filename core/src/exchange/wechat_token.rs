//! This app's access token, and the requests to WeChat's services that go with it.
//!
//! The token lies in the store for all hosts that share it, and is fetched anew where it is not
//! there or is said to be over. It goes into requests to WeChat and nowhere else.

use serde_bytes::ByteBuf;

use super::Exchange;
use crate::{
    policy::Policy,
    seam::{Delivery, Fetch, Moment, Output, Piece, Rope, WECHAT},
    state::{Op, Outcome},
    wire::{
        failure::Failure,
        json,
        wechat::access_token::{self, AccessToken},
    },
};

/// The most bytes of an answer; it is below 2 KB.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// The store's cell of the access token.
const TOKEN_KEY: &str = "wechat:token";

/// Asks the store for the token.
pub(super) fn read_token() -> (String, Op) {
    (TOKEN_KEY.into(), Op::Read)
}

/// A text that the store was asked for; empty where it has none.
pub(super) fn text_of(outcome: Option<&Outcome>) -> String {
    match outcome {
        Some(Outcome::Value(Some(bytes))) => String::from_utf8(bytes.to_vec()).unwrap_or_default(),
        _ => String::new(),
    }
}

impl Exchange {
    /// Asks WeChat for a token; gives the fetch's id.
    pub(super) fn fetch_token(&mut self, policy: &Policy) -> u32 {
        let appid = json::string(policy.login.appid.as_deref().unwrap_or_default());
        let mut body = Rope::default();
        body.push_str(&format!("{{\"grant_type\":\"client_credential\",\"appid\":{appid},\"secret\":\""));
        body.0.push(Piece::Secret("WECHAT_SECRET".into()));
        body.push_str("\"}");
        self.post_to_wechat("/cgi-bin/stable_token".into(), body)
    }

    /// The token in WeChat's answer, which is kept for everybody.
    pub(super) fn keep_token(&mut self, status: u16, body: &[u8], now: Moment) -> Result<String, Failure> {
        let AccessToken { token, expires_ms } = access_token::parse_token(status, body, now.unix_ms)?;
        let value = ByteBuf::from(token.clone().into_bytes());
        let ttl_ms = expires_ms.saturating_sub(now.unix_ms);
        self.tell(TOKEN_KEY.into(), Op::Write { value, ttl_ms });
        Ok(token)
    }

    /// Asks one of WeChat's services; gives the fetch's id.
    pub(super) fn post_to_wechat(&mut self, path: String, body: Rope) -> u32 {
        let id = self.take_id();
        self.outputs.push_back(Output::Fetch(Fetch {
            id,
            upstream: WECHAT.into(),
            method: "POST".into(),
            path,
            headers: vec![("content-type".into(), "application/json".into())],
            credential: None,
            body,
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        }));
        id
    }
}
