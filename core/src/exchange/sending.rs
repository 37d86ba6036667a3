//! `POST /v1/admin/send`: an operator's own words into a group, or to a person, by a robot.
//!
//! It is how an operator sees that a robot can speak, so nothing is tried twice and nothing is kept: what
//! DingTalk says to it is the answer. The words, tokens and DingTalk's own words are in no log; the ledger
//! has who sent, and of the words what it may have of a text.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Exchange, Phase, audit::Passage, gates::Caller};
use crate::{
    policy::{
        Policy,
        channel::{Channel, ChannelKind, Destination},
    },
    seam::{Credential, DINGTALK, DINGTALK_OAPI, Delivery, Fetch, FetchFailure, Input, Moment, Output, Rope},
    wire::{
        dingtalk::{
            TOKEN_HEADER,
            send::{self, Sent, To},
            token::{self, TokenFault},
        },
        failure::{Code, Failure},
        json,
    },
};

/// Milliseconds that both calls may take together.
const PATIENCE: u64 = 20_000;
/// The most bytes of an answer; it is below 1 KB.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// The most characters of a message.
const LONGEST_TEXT: usize = 4_000;
/// The path of a group's own robot at [`DINGTALK_OAPI`].
const GROUP_ROBOT: &str = "/robot/send";
/// What a locked screen says where the words have no title.
const TITLE: &str = "Minigate";

/// A message on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sending {
    pub(super) fetch_id: u32,
    channel: String,
    to: String,
    destination: Destination,
    text: String,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The app's access token.
    Token,
    /// What became of the message, by the API or by a group's webhook.
    Api,
    Webhook,
}

#[derive(Deserialize)]
struct Body {
    to: String,
    text: String,
    channel: Option<String>,
}

impl Exchange {
    /// `{"to", "text", "channel"}`: `to` is a target of the configuration, a group's `cid…`, or
    /// `user:STAFF_ID`; the channel must be named where there are several.
    pub(super) fn send_as_robot(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        if let Caller::Key(id) = &self.facts.caller {
            self.story.subject = Some(id.clone());
        }
        let Ok(Body { to, text, channel }) = json::object::<Body>(body) else {
            let message = "body: send {\"to\": \"…\", \"text\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        if text.trim().is_empty() || text.chars().count() > LONGEST_TEXT {
            let message = format!("text: 1 to {LONGEST_TEXT} characters");
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        }
        self.story.asked = Some(Passage::of(policy, &text));
        let Some((channel, destination)) = find(policy, &to, channel.as_deref()) else {
            let message = "to: not a target of the configuration, a group's cid… or user:STAFF_ID; \
                           name the channel where there are several";
            return self.fail(policy, &Failure::new(Code::NotFound, message), now);
        };
        let ChannelKind::DingTalk { app_key, app_secret, .. } = &channel.kind;
        self.timers.turn = Some(now.unix_ms + PATIENCE);
        let mut sending = Sending {
            fetch_id: 0,
            channel: channel.name.clone(),
            to,
            stage: Stage::Token,
            text,
            destination: destination.clone(),
        };
        let fetch = match &destination {
            Destination::Webhook(name) => {
                sending.stage = Stage::Webhook;
                let access = Credential::Query { parameter: "access_token".into(), name: name.clone() };
                let body = rope(&send::text_body(&sending.text, &[]));
                Fetch { credential: Some(access), ..self.post(DINGTALK_OAPI, GROUP_ROBOT, body) }
            }
            Destination::Group(_) | Destination::Person(_) => {
                self.post(DINGTALK, token::PATH, token::request_body(app_key, app_secret))
            }
        };
        self.send_out(sending, fetch);
    }

    fn post(&mut self, upstream: &str, path: &str, body: Rope) -> Fetch {
        Fetch {
            id: self.take_id(),
            upstream: upstream.into(),
            method: "POST".into(),
            path: path.into(),
            headers: vec![("content-type".into(), "application/json".into())],
            credential: None,
            body,
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        }
    }

    fn send_out(&mut self, mut sending: Sending, fetch: Fetch) {
        sending.fetch_id = fetch.id;
        self.outputs.push_back(Output::Fetch(fetch));
        self.phase = Phase::Sending(Box::new(sending));
    }

    pub(super) fn in_robots_sending(
        &mut self,
        policy: &Policy,
        sending: Box<Sending>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::FetchWhole { id, status, body, .. } if *id == sending.fetch_id => {
                self.story.upstream_status = Some(*status);
                match sending.stage {
                    Stage::Token => self.send_with_token(policy, *sending, (*status, body), now),
                    Stage::Api => self.was_sent(policy, &sending, &send::by_api(*status, body), now),
                    Stage::Webhook => self.was_sent(policy, &sending, &send::by_webhook(*status, body), now),
                }
            }
            Input::FetchFailed { id, failure } if *id == sending.fetch_id => {
                let code = match failure {
                    FetchFailure::ConnectTimeout => Code::UpstreamTimeout,
                    FetchFailure::Connect | FetchFailure::Unclear => Code::UpstreamUnreachable,
                    FetchFailure::Reset | FetchFailure::TooLarge => Code::UpstreamProtocol,
                };
                self.fail(policy, &Failure::new(code, "DingTalk cannot be reached"), now);
            }
            _ => self.phase = Phase::Sending(sending),
        }
    }

    fn send_with_token(
        &mut self,
        policy: &Policy,
        mut sending: Sending,
        (status, body): (u16, &[u8]),
        now: Moment,
    ) {
        let token = match token::parse(status, body, now.unix_ms) {
            Ok(token) => token.token,
            Err(TokenFault::Misconfigured) => {
                let message = "DingTalk does not take the app's key and secret";
                return self.fail(policy, &Failure::new(Code::UpstreamMisconfigured, message), now);
            }
            Err(TokenFault::Unavailable) => {
                return self.fail(policy, &Failure::new(Code::UpstreamError, "DingTalk gave no token"), now);
            }
        };
        let to = match &sending.destination {
            Destination::Group(id) => To::Group(id),
            Destination::Person(id) => To::Person(id),
            Destination::Webhook(_) => return,
        };
        let Some(channel) = policy.catalog.channel(&sending.channel) else { return };
        let ChannelKind::DingTalk { robot_code, .. } = &channel.kind;
        let title = send::title(&sending.text, TITLE);
        let body = rope(&send::api_body(robot_code, to, Some(&title), &sending.text));
        let mut fetch = self.post(DINGTALK, to.path(), body);
        fetch.headers.push((TOKEN_HEADER.into(), token));
        sending.stage = Stage::Api;
        self.send_out(sending, fetch);
    }

    fn was_sent(&mut self, policy: &Policy, sending: &Sending, sent: &Sent, now: Moment) {
        let (code, message) = match sent {
            Sent::Delivered => {
                let by = if sending.stage == Stage::Webhook { "webhook" } else { "api" };
                let ms = now.unix_ms.saturating_sub(self.facts.started_ms);
                let body = json!({
                    "sent": true, "channel": sending.channel, "to": sending.to, "by": by, "ms": ms,
                    "traceId": self.facts.trace_id,
                });
                return self.respond_json(policy, 200, body.to_string(), now);
            }
            Sent::TooFast { .. } => (Code::UpstreamOverloaded, "DingTalk wants fewer messages".to_owned()),
            Sent::Again => (Code::UpstreamError, "DingTalk failed".to_owned()),
            Sent::Expired | Sent::TokenStale => {
                (Code::UpstreamMisconfigured, "DingTalk does not take the token that it gave".to_owned())
            }
            Sent::Misconfigured(found) => {
                let message =
                    format!("DingTalk refuses this robot: {found}; permission, robot_code or target");
                (Code::UpstreamMisconfigured, message)
            }
            Sent::Refused(found) => {
                (Code::UpstreamRefusedRequest, format!("DingTalk refuses this message: {found}"))
            }
        };
        self.fail(policy, &Failure::new(code, message), now);
    }
}

fn rope(text: &str) -> Rope {
    let mut rope = Rope::default();
    rope.push_str(text);
    rope
}

/// By which robot, and to whom.
fn find<'p>(policy: &'p Policy, to: &str, channel: Option<&str>) -> Option<(&'p Channel, Destination)> {
    let catalog = &policy.catalog;
    let mut targets = catalog.targets.iter();
    let target =
        targets.find(|target| target.name == to && channel.is_none_or(|name| target.channel == name));
    if let Some(target) = target {
        return Some((catalog.channel(&target.channel)?, target.to.clone()));
    }
    let destination = match to.strip_prefix("user:") {
        Some(id) => Destination::Person(id.to_owned()),
        None if to.starts_with("cid") => Destination::Group(to.to_owned()),
        None => return None,
    };
    let channel = match (channel, catalog.channels.as_slice()) {
        (Some(name), _) => catalog.channel(name)?,
        (None, [only]) => only,
        _ => return None,
    };
    Some((channel, destination))
}
