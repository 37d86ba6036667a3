//! What WeChat asks of this gateway: the pictures that it is to look at, and `/v1/wechat/push`,
//! where it says what it found.
//!
//! Neither has a credential of ours. An address of a picture proves itself, a message is signed;
//! what does not, is refused before the store is asked. A message that WeChat signed is always
//! answered with `success`: it would be sent again otherwise, and nothing would be better then.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    gates::STORE_PATIENCE,
    head,
    inspection::code_of,
    pictures::{encode, verdict_key},
};
use crate::{
    policy::{ContentMode, Pictures, Policy},
    seam::{BodyFailure, Input, Moment, Output, RequestHead, piece_key},
    state::{Op, Outcome},
    wire::{
        failure::{Code, Failure},
        picture::Lent,
        wechat::{
            content,
            push::{self, Query},
        },
    },
};

/// Milliseconds for which a verdict is kept: longer than any turn waits.
const VERDICT_KEPT: u64 = 600_000;

/// A picture that is being sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Sending {
    lent: Lent,
    /// The next piece.
    piece: u64,
    pub(super) store_id: u32,
}

/// A message that is being read or kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Pushed {
    /// Its body is waited for.
    Body(Query),
    /// The store keeps its verdict.
    Kept(u32),
}

impl Pushed {
    /// What is waited for, of the store.
    pub(super) fn store_id(&self) -> Option<u32> {
        match self {
            Self::Body(_) => None,
            Self::Kept(id) => Some(*id),
        }
    }
}

fn not_found() -> Failure {
    Failure::new(Code::NotFound, "nothing is here, or not any more")
}

fn not_signed() -> Failure {
    Failure::new(Code::PushNotSigned, "not a message that WeChat signed just now for this app")
}

fn unreadable(what: &str) -> Failure {
    Failure::new(Code::WechatMisconfigured, format!("a pushed message cannot be read: {what}"))
}

impl Exchange {
    /// `GET /v1/wechat/media/…`.
    pub(super) fn send_picture(&mut self, policy: &Policy, head: &RequestHead, now: Moment) {
        let lent = policy.pictures.as_ref().and_then(|_| Lent::of(policy, &head.path));
        match lent {
            Some(lent) => self.next_piece(Sending { lent, piece: 0, store_id: 0 }, now),
            None => self.fail(policy, &not_found(), now),
        }
    }

    fn next_piece(&mut self, mut sending: Sending, now: Moment) {
        sending.store_id = self.take_id();
        let ops = vec![(piece_key(&sending.lent.key(), sending.piece), Op::Read)];
        self.outputs.push_back(Output::Store { id: sending.store_id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::SendPicture(Box::new(sending));
    }

    pub(super) fn in_sending(
        &mut self,
        policy: &Policy,
        mut sending: Box<Sending>,
        input: Input<'_>,
        now: Moment,
    ) {
        let piece = match input {
            Input::Stored { id, outcomes } if id == sending.store_id => match outcomes.into_iter().next() {
                Some(Outcome::Value(Some(piece))) if !piece.is_empty() => piece,
                _ => return self.not_sent(policy, &sending, &not_found(), now),
            },
            Input::StoreFailed { id } if id == sending.store_id => {
                return self.piece_failed(policy, &sending, now);
            }
            _ => {
                self.phase = Phase::SendPicture(sending);
                return;
            }
        };
        self.timers.store = None;
        if sending.piece == 0 {
            let mut headers = self.common_headers();
            headers.push(("content-type".into(), sending.lent.content_type().into()));
            headers.push(("content-length".into(), sending.lent.size.to_string()));
            self.story.status = 200;
            self.outputs.push_back(Output::Head { status: 200, headers });
        }
        sending.piece += 1;
        let is_last = sending.piece >= sending.lent.pieces();
        if !self.facts.head_only {
            self.outputs.push_back(Output::Chunk(piece));
            if !is_last {
                return self.next_piece(*sending, now);
            }
        }
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// The store did not give a piece.
    pub(super) fn piece_failed(&mut self, policy: &Policy, sending: &Sending, now: Moment) {
        self.story.store_failed = true;
        let failure = Failure::new(Code::StoreUnavailable, "the picture cannot be read now");
        self.not_sent(policy, sending, &failure.after(5), now);
    }

    fn not_sent(&mut self, policy: &Policy, sending: &Sending, failure: &Failure, now: Moment) {
        self.timers.store = None;
        if sending.piece == 0 {
            return self.fail(policy, failure, now);
        }
        // Too few bytes are all that can be said after a head.
        self.story.code = Some(failure.code);
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }

    /// `/v1/wechat/push`: the check of the address, or a message. In plain mode nothing of a body
    /// is read before its signature was.
    pub(super) fn begin_push(&mut self, policy: &Policy, head: &RequestHead, now: Moment) {
        let Some(pictures) = &policy.pictures else { return self.fail(policy, &not_found(), now) };
        let query = Query::parse(&head.query);
        let is_check = head.method == "GET";
        let needs_signature = is_check || pictures.aes_key.is_none();
        if !query.is_recent(now.unix_ms) || (needs_signature && !query.is_signed(&pictures.token)) {
            return self.fail(policy, &not_signed(), now);
        }
        if is_check {
            return self.respond_text(policy, query.echostr, now);
        }
        let limit = self.facts.route.body_limit(policy);
        if head.content_length.is_some_and(|length| length > limit) {
            return self.fail(policy, &head::body_too_large(policy, self.facts.route), now);
        }
        self.timers.body = Some(now.unix_ms + policy.deadlines.body);
        self.outputs.push_back(Output::ReadBody { limit });
        self.phase = Phase::Push(Box::new(Pushed::Body(query)));
    }

    pub(super) fn in_push(&mut self, policy: &Policy, pushed: Pushed, input: Input<'_>, now: Moment) {
        match (pushed, input) {
            (Pushed::Body(query), Input::Body(body)) => {
                self.timers.body = None;
                self.facts.body_bytes = body.len() as u64;
                match &policy.pictures {
                    Some(pictures) => match message(policy, pictures, &query, body) {
                        Ok(message) => self.read_message(policy, &message, now),
                        Err(failure) => self.fail(policy, &failure, now),
                    },
                    None => self.fail(policy, &not_found(), now),
                }
            }
            (Pushed::Body(_), Input::BodyFailed(BodyFailure::TooLarge)) => {
                self.fail(policy, &head::body_too_large(policy, self.facts.route), now);
            }
            (Pushed::Body(_), Input::BodyFailed(BodyFailure::Incomplete)) => {
                self.fail(policy, &Failure::new(Code::BodyIncomplete, "the body ended early"), now);
            }
            (Pushed::Kept(store_id), Input::Stored { id, .. }) if id == store_id => {
                self.push_done(policy, false, now);
            }
            (Pushed::Kept(store_id), Input::StoreFailed { id }) if id == store_id => {
                self.push_done(policy, true, now);
            }
            (pushed, _) => self.phase = Phase::Push(Box::new(pushed)),
        }
    }

    /// A message that is WeChat's.
    fn read_message(&mut self, policy: &Policy, message: &[u8], now: Moment) {
        let Some(event) = content::media_event(message) else {
            return match serde_json::from_slice::<serde::de::IgnoredAny>(message) {
                // Something else that happened in the Mini Program.
                Ok(_) => self.push_done(policy, false, now),
                Err(_) => self.fail(policy, &unreadable("set its data format to JSON"), now),
            };
        };
        match &event.verdict {
            Ok(verdict) => self.story.content_label = Some(verdict.label),
            Err(fault) => {
                self.story.unchecked = true;
                self.story.check_failed = Some(code_of(*fault));
            }
        }
        self.story.content_trace = Some(event.trace_id.clone());
        if policy.content.mode != ContentMode::Enforce {
            // Nobody waits for it.
            return self.push_done(policy, false, now);
        }
        let id = self.take_id();
        let bring = Op::Bring { value: encode(&event.verdict), ttl_ms: VERDICT_KEPT };
        self.outputs.push_back(Output::Store { id, ops: vec![(verdict_key(&event.trace_id), bring)] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Push(Box::new(Pushed::Kept(id)));
    }

    pub(super) fn push_done(&mut self, policy: &Policy, store_failed: bool, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = store_failed;
        self.respond_text(policy, "success".into(), now);
    }

    fn respond_text(&mut self, policy: &Policy, text: String, now: Moment) {
        let kind = ("content-type".into(), "text/plain; charset=utf-8".into());
        self.respond_with(policy, 200, vec![kind], ByteBuf::from(text.into_bytes()), now);
    }
}

/// The message in a body, when it is WeChat's.
fn message(policy: &Policy, pictures: &Pictures, query: &Query, body: &[u8]) -> Result<Vec<u8>, Failure> {
    let Some(key) = &pictures.aes_key else { return Ok(body.to_vec()) };
    let encrypted = push::encrypted_message(body).map_err(|_| not_signed())?;
    if !query.signs(&pictures.token, &encrypted) {
        return Err(not_signed());
    }
    let appid = policy.login.appid.as_deref().unwrap_or_default();
    push::decrypt(key, &encrypted, appid).map_err(|_| unreadable("WECHAT_PUSH_AES_KEY does not open it"))
}
