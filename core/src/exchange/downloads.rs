//! The picture or file of a message to a robot, on its way to the model.
//!
//! DingTalk gives an address for a code, and the address the bytes. They become an attachment in a request
//! as a client would have written it, so that the same limits and the same looks at their first bytes
//! hold; and that request is kept and held by the host like any other body of a turn that outlives its
//! connection. The bytes pass through the core once and are in no state.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{
    Exchange, Phase,
    ask::Asking,
    gates::STORE_PATIENCE,
    saying::{PATIENCE, token_key},
    wechat_token::text_of,
};
use crate::{
    policy::{
        Policy,
        channel::{Channel, ChannelKind},
    },
    seam::{
        DINGTALK, DINGTALK_FILES, Delivery, Fetch, FetchFailure, Input, Moment, Output, Rope, pieces, restore,
    },
    state::Op,
    wire::{
        dingtalk::{TOKEN_HEADER, file, send::Sent, token},
        failure::{Code, Failure},
        json, mini,
    },
};

/// The most bytes of a picture or file; a phone's picture has two to four million. They pass through the
/// memory of one step, of which the edge has 128 MB.
const MOST_BYTES: u64 = 5 * 1024 * 1024;
/// Milliseconds that they may take.
const DOWNLOAD_PATIENCE: u64 = 20_000;
/// Milliseconds for which they are kept longer than the turn may take.
const KEPT: u64 = 600_000;

/// A picture or file of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    pub(super) code: String,
    /// A file's; a picture has none.
    pub(super) name: Option<String>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The app's access token out of the store.
    Store,
    /// A token from DingTalk.
    Token,
    /// The address of the bytes.
    Address,
    /// The bytes.
    Bytes,
    /// The store's word that the request is kept.
    Kept,
    /// The host's word that it holds it.
    Held,
}

/// A picture or file that is being fetched.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Download {
    attached: Attached,
    intent: String,
    text: String,
    stage: Stage,
    /// Of what is waited for.
    pub(super) id: u32,
    token: String,
    /// The token was fetched anew.
    renewed: bool,
    /// What is asked with it, when it is there, and its length.
    asking: Option<(Asking, u64)>,
}

fn not_fetched() -> Failure {
    Failure::new(Code::AttachmentDataMissing, "the picture or file could not be fetched from DingTalk")
}

impl Exchange {
    /// What came with a message is fetched, before it is asked about.
    pub(super) fn download(
        &mut self,
        policy: &Policy,
        attached: Attached,
        intent: String,
        text: String,
        now: Moment,
    ) {
        let Some(channel) = self.channel(policy) else { return };
        let ChannelKind::DingTalk { app_key, .. } = &channel.kind;
        let id = self.take_id();
        self.outputs.push_back(Output::Store { id, ops: vec![(token_key(app_key), Op::Read)] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Downloading(Box::new(Download {
            attached,
            intent,
            text,
            stage: Stage::Store,
            id,
            token: String::new(),
            renewed: false,
            asking: None,
        }));
    }

    pub(super) fn in_download(
        &mut self,
        policy: &Policy,
        mut download: Box<Download>,
        input: &Input<'_>,
        now: Moment,
    ) {
        let Some(channel) = self.channel(policy) else { return self.fail(policy, &not_fetched(), now) };
        match (download.stage, input) {
            (Stage::Store, Input::Stored { id, outcomes }) if *id == download.id => {
                self.timers.store = None;
                download.token = text_of(outcomes.first());
                self.ask_address(channel, download, now);
            }
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == download.id => {
                match token::parse(*status, body, now.unix_ms) {
                    Ok(found) => {
                        self.keep_app_token(channel, &found, now);
                        download.token = found.token;
                        self.ask_address(channel, download, now);
                    }
                    Err(_) => self.fail(policy, &not_fetched(), now),
                }
            }
            (Stage::Address, Input::FetchWhole { id, status, body, .. }) if *id == download.id => {
                match file::address(*status, body) {
                    Ok(address) => self.fetch_bytes(download, address, now),
                    Err(Sent::TokenStale) if !download.renewed => {
                        download.token.clear();
                        self.ask_address(channel, download, now);
                    }
                    Err(_) => self.fail(policy, &not_fetched(), now),
                }
            }
            (Stage::Bytes, Input::FetchWhole { id, status: 200, body, .. }) if *id == download.id => {
                self.timers.attempt = None;
                self.keep_request(policy, download, body, now);
            }
            (Stage::Kept, Input::Stored { id, .. }) if *id == download.id => {
                self.timers.store = None;
                let (key, len) = (self.request_key(), download.asking.as_ref().map_or(0, |(_, len)| *len));
                download.stage = Stage::Held;
                download.id = self.take_id();
                self.outputs.push_back(Output::Restore { id: download.id, key, len });
                self.phase = Phase::Downloading(download);
            }
            (Stage::Held, Input::Stored { id, .. }) if *id == download.id => {
                let Some((asking, len)) = download.asking else { return };
                self.hold_body(self.request_key(), len);
                self.consult(policy, asking, now);
            }
            (_, Input::FetchFailed { id, failure: FetchFailure::TooLarge }) if *id == download.id => {
                let message = format!("the limit for what a robot is sent is {MOST_BYTES} bytes");
                self.fail(policy, &Failure::new(Code::AttachmentTooLarge, message), now);
            }
            (_, Input::FetchWhole { id, .. } | Input::FetchFailed { id, .. } | Input::StoreFailed { id })
                if *id == download.id =>
            {
                self.fail(policy, &not_fetched(), now)
            }
            _ => self.phase = Phase::Downloading(download),
        }
    }

    /// It took too long.
    pub(super) fn download_late(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.timers.attempt = None;
        self.fail(policy, &not_fetched(), now);
    }

    fn ask_address(&mut self, channel: &Channel, mut download: Box<Download>, now: Moment) {
        let ChannelKind::DingTalk { robot_code, app_key, app_secret, .. } = &channel.kind;
        self.timers.attempt = Some(now.unix_ms + PATIENCE);
        if download.token.is_empty() {
            let body = token::request_body(app_key, app_secret);
            (download.stage, download.renewed) = (Stage::Token, true);
            download.id = self.post_to_dingtalk(DINGTALK, token::PATH.into(), None, body);
        } else {
            let mut body = Rope::default();
            body.push_str(&file::request_body(robot_code, &download.attached.code));
            let header = (TOKEN_HEADER.to_owned(), download.token.clone());
            download.stage = Stage::Address;
            download.id = self.post_to_dingtalk(DINGTALK, file::PATH.into(), Some(header), body);
        }
        self.phase = Phase::Downloading(download);
    }

    fn fetch_bytes(&mut self, mut download: Box<Download>, address: String, now: Moment) {
        download.token.clear();
        download.stage = Stage::Bytes;
        download.id = self.take_id();
        self.outputs.push_back(Output::Fetch(Fetch {
            id: download.id,
            upstream: DINGTALK_FILES.into(),
            method: "GET".into(),
            path: address,
            headers: Vec::new(),
            credential: None,
            body: Rope::default(),
            delivery: Delivery::Whole { limit: MOST_BYTES },
            keeps_body: false,
        }));
        self.timers.attempt = Some(now.unix_ms + DOWNLOAD_PATIENCE);
        self.phase = Phase::Downloading(download);
    }

    /// Writes the request that a client would have sent, looks at it, and keeps it.
    fn keep_request(&mut self, policy: &Policy, mut download: Box<Download>, bytes: &[u8], now: Moment) {
        let body = request(&download, bytes);
        let request = match mini::parse(policy, body.as_bytes()) {
            Ok(request) => request,
            Err(failure) => return self.fail(policy, &failure, now),
        };
        let left = self.timers.turn.unwrap_or(now.unix_ms).saturating_sub(now.unix_ms);
        // It is the turn's body from here on, whatever comes next: as much of it is forgotten at the end.
        self.facts.body_bytes = body.len() as u64;
        download.asking = Some((Asking { request, store_id: 0 }, self.facts.body_bytes));
        download.stage = Stage::Kept;
        download.id = self.take_id();
        let ops = pieces(&self.request_key(), body.as_bytes(), left + KEPT).collect();
        self.outputs.push_back(Output::Store { id: download.id, ops });
        self.timers.store = Some(now.unix_ms + DOWNLOAD_PATIENCE);
        self.phase = Phase::Downloading(download);
    }

    /// The turn is over: nobody reads its picture or file again.
    pub(super) fn forget_request(&mut self) {
        for (key, _) in restore(&self.request_key(), self.facts.body_bytes) {
            self.say_beside(key, Op::Forget);
        }
    }

    fn request_key(&self) -> String {
        format!("body:{}", self.facts.request_id)
    }
}

/// The body of a request with an attachment.
fn request(download: &Download, bytes: &[u8]) -> String {
    let mut body = format!("{{\"intent\":{},\"input\":{{", json::string(&download.intent));
    if !download.text.is_empty() {
        body.push_str(&format!("\"text\":{}", json::string(&download.text)));
    }
    body.push_str("},\"attachments\":[{");
    match &download.attached.name {
        Some(name) => body.push_str(&format!("\"type\":\"file\",\"name\":{}", json::string(name))),
        None => body.push_str("\"type\":\"image\""),
    }
    body.push_str(",\"data\":\"");
    STANDARD.encode_string(bytes, &mut body);
    body.push_str("\"}]}");
    body
}
