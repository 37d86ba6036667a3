//! The stage that says something in a conversation of a robot's: an answer, a refusal, that somebody
//! thinks.
//!
//! Each is a cell of its own, made with the message or in the list of operations that ends its turn, under a name that
//! follows from both; so it is said also when the host dies that knew it, and a message that comes
//! twice is answered once. The way is the session webhook that came with the message, and the API where that is
//! over, cannot be reached or may not be used for now. What is in doubt is said again: twice is better here than
//! never.
//!
//! A webhook is a credential: neither it nor what is said is in a log.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use sha2::{Digest as _, Sha256};

use super::{
    Exchange, Phase, Timers,
    gates::STORE_PATIENCE,
    record,
    robot::Seat,
    runner::{MOST_TRIES, Next},
    turns,
    wechat_token::text_of,
};
use crate::{
    policy::{
        Policy, auth,
        channel::{Channel, ChannelKind, Reply},
    },
    seam::{DINGTALK, DINGTALK_OAPI, Delivery, Fetch, Input, Level, Moment, Output, Rope},
    state::{
        Op, Outcome,
        turn::{Awaited, Claimed, Create, Then, TurnOp, TurnOutcome, Watch},
    },
    wire::{
        dingtalk::{
            TOKEN_HEADER,
            send::{self, Sent, To},
            split, token,
        },
        wechat::access_token::AccessToken,
    },
};

/// What precedes the name of such a cell in its key: it is run as a notice is.
const NAME: &str = "ntc_dingtalk_";
/// Whose they are, and the turns of robots: nobody's, so that no caller can see one.
pub(super) const OWNER: &str = "robot";
/// Milliseconds after which it is given up: later nobody knows what was asked.
const TIMEOUT: u64 = 1_800_000;
/// Milliseconds for which it is known that it was said: longer than the message can come again.
const KEPT: u64 = crate::wire::dingtalk::callback::REMEMBERED_MS;
/// Milliseconds that DingTalk may take.
pub(super) const PATIENCE: u64 = 8_000;
/// The most bytes of an answer; it is below 1 KB.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// Attempts at one message.
const MOST_ATTEMPTS: u32 = 8;
/// After so many, of which the last was the webhook's, the API is tried: the two are servers of their own.
const UNREACHED: u32 = 3;
/// For so long, in milliseconds.
const UNREACHED_MS: u64 = 60_000;
/// The first pause after one that failed, in milliseconds, and the longest.
const PAUSE: (u64, u64) = (1_000, 60_000);
/// What a notice on a locked screen says where the words have no title.
const TITLE: &str = "答复";

/// What is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kind {
    /// That there will be an answer.
    Ack,
    /// The answer.
    Answer,
    /// That there is none.
    Refusal,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Ack => "ack",
            Self::Answer => "answer",
            Self::Refusal => "refusal",
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// How the turn stands.
    Turn,
    /// The app's access token out of the store.
    Store,
    /// A token from DingTalk.
    Token,
    /// What became of a message by the webhook, or by the API.
    Webhook,
    Api,
}

/// Something that is to be said.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saying {
    kind: Kind,
    seat: Seat,
    words: String,
    since_ms: u64,
    /// Not before.
    from_ms: u64,
    /// Only while this turn has no end.
    about: Option<String>,
    /// The messages of it that were said.
    said: usize,
    attempts: u32,
    /// From when on the webhook may be used; `None` is never.
    webhook_from_ms: Option<u64>,
    /// The API may be used.
    by_api: bool,
    /// It goes on in a while.
    rests: bool,
    stage: Stage,
    /// Of what is waited for.
    pub(super) id: u32,
    /// Never in a checkpoint.
    token: String,
    /// The token was fetched anew for this message.
    renewed: bool,
}

impl Saying {
    pub(super) fn new(kind: Kind, seat: Seat, words: String, now: Moment) -> Self {
        Self {
            kind,
            seat,
            words,
            since_ms: now.unix_ms,
            from_ms: 0,
            about: None,
            said: 0,
            attempts: 0,
            webhook_from_ms: Some(0),
            by_api: true,
            rests: false,
            stage: Stage::Turn,
            id: 0,
            token: String::new(),
            renewed: false,
        }
    }

    /// Says it later.
    pub(super) fn not_before(mut self, from_ms: u64) -> Self {
        self.from_ms = from_ms;
        self
    }

    /// Says it only if the turn of that cell has no end by then.
    pub(super) fn only_while(mut self, turn: String) -> Self {
        self.about = Some(turn);
        self
    }

    /// Whether nothing more comes after it.
    pub(super) fn is_end(&self) -> bool {
        self.kind != Kind::Ack
    }

    /// Who is addressed: in a group who asked, in the first message.
    fn mentions(&self) -> Vec<&str> {
        let asker = self.seat.asker.as_deref().filter(|_| self.seat.is_group && self.said == 0);
        asker.filter(|_| self.is_end()).into_iter().collect()
    }

    /// The message that is said next.
    fn message(&self) -> Option<String> {
        let asker = self.seat.asker.as_deref();
        // As long wherever it is cut, so that every attempt cuts alike.
        let room = send::mention_length(asker.as_slice());
        let pieces = split::pieces(&self.words, split::LONGEST.saturating_sub(room));
        pieces.get(self.said).map(split::Piece::render)
    }

    /// To whom the API would send.
    fn to(&self) -> Option<To<'_>> {
        match (self.seat.is_group, self.seat.asker.as_deref()) {
            (true, _) => Some(To::Group(&self.seat.conversation)),
            (false, asker) => asker.map(To::Person),
        }
    }

    /// The webhook's path, when it may be used at that time.
    fn webhook(&self, at_ms: u64) -> Option<&str> {
        let webhook = self.seat.webhook.as_ref()?;
        self.webhook_from_ms.filter(|from| *from <= at_ms)?;
        send::webhook_path(&webhook.url, webhook.expires_ms, at_ms)
    }

    fn at_rest(mut self) -> Self {
        (self.token, self.renewed) = (String::new(), false);
        self
    }
}

/// The token's cell of an app: it is the same for all robots of the app.
pub(super) fn token_key(app_key: &str) -> String {
    format!("dingtalk:token:{app_key}")
}

impl Exchange {
    /// The operation that makes it be said: once under that name.
    pub(super) fn say(&self, saying: Saying, name: &str) -> (String, Op) {
        let hash = Sha256::digest(name);
        let key = format!("{}{NAME}{}", turns::CELL, auth::hex(&hash[..16]));
        let runner = Self::of(self.facts.clone());
        let create = Create {
            owner: OWNER.to_owned(),
            digest: [0; 32],
            checkpoint: runner.checkpoint(Next::Say(Box::new(saying)), None, 0),
            timeout_ms: TIMEOUT,
            keep_ms: KEPT,
        };
        (key, Op::Turn(TurnOp::Create(create)))
    }

    /// A runner has it.
    pub(super) fn take_up_saying(
        &mut self,
        policy: &Policy,
        mut saying: Saying,
        claimed: &Claimed,
        now: Moment,
    ) {
        saying.rests = false;
        if claimed.tries > MOST_TRIES {
            return self.said(policy, &saying, "interrupted", "", now);
        }
        if claimed.expired || claimed.cancel {
            return self.said(policy, &saying, "gave_up", "", now);
        }
        if saying.from_ms > now.unix_ms {
            let at_ms = saying.from_ms;
            return self.rest_saying(saying, at_ms, now);
        }
        match saying.about.clone() {
            Some(key) => {
                saying.stage = Stage::Turn;
                saying.id = self.take_id();
                let watch = Watch { owner: None, ticket: 0, awaited: Awaited::Nothing, after: u32::MAX };
                let ops = vec![(key, Op::Turn(TurnOp::Watch(watch)))];
                self.outputs.push_back(Output::Store { id: saying.id, ops });
                self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
                self.phase = Phase::Saying(Box::new(saying));
            }
            None => self.say_next(policy, saying, now),
        }
    }

    fn rest_saying(&mut self, saying: Saying, at_ms: u64, now: Moment) {
        self.timers = Timers { run: self.timers.run, ..Timers::default() };
        let saying = Saying { rests: true, ..saying.at_rest() };
        self.save(Next::Say(Box::new(saying)), Then::Later { at_ms }, now);
    }

    /// It is kept how far it has come.
    pub(super) fn saying_saved(&mut self, policy: &Policy, saying: Saying, now: Moment) {
        match saying.rests {
            true => self.rest_run(),
            false => self.say_next(policy, saying, now),
        }
    }

    /// The next message, by the way that is open.
    fn say_next(&mut self, policy: &Policy, mut saying: Saying, now: Moment) {
        let Some(channel) = policy.catalog.channel(&saying.seat.channel) else {
            return self.said(policy, &saying, "off", "", now);
        };
        let ChannelKind::DingTalk { robot_code, app_key, reply, .. } = &channel.kind;
        let Some(words) = saying.message() else {
            return self.said(policy, &saying, "delivered", "", now);
        };
        let title = send::title(&words, TITLE);
        if let Some(path) = saying.webhook(now.unix_ms) {
            let (path, to) = (path.to_owned(), saying.mentions());
            let body = match reply {
                Reply::Text => send::text_body(&words, &to),
                Reply::Markdown => send::markdown_body(&title, &words, &to),
            };
            return self.post_saying(saying, Stage::Webhook, (DINGTALK_OAPI, path), None, body, now);
        }
        let Some(to) = saying.to().filter(|_| saying.by_api) else {
            // What may not be used for now may be later.
            let later = saying.webhook_from_ms.filter(|at| saying.webhook(*at).is_some());
            return match later {
                Some(at_ms) => self.rest_saying(saying, at_ms, now),
                None => self.said(policy, &saying, "no_way", "", now),
            };
        };
        if saying.token.is_empty() {
            let key = token_key(app_key);
            saying.stage = Stage::Store;
            saying.id = self.take_id();
            self.outputs.push_back(Output::Store { id: saying.id, ops: vec![(key, Op::Read)] });
            self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
            self.phase = Phase::Saying(Box::new(saying));
            return;
        }
        let title = (*reply == Reply::Markdown).then_some(title.as_str());
        let (path, body) = (to.path().to_owned(), send::api_body(robot_code, to, title, &words));
        let header = (TOKEN_HEADER.to_owned(), saying.token.clone());
        self.post_saying(saying, Stage::Api, (DINGTALK, path), Some(header), body, now);
    }

    fn post_saying(
        &mut self,
        mut saying: Saying,
        stage: Stage,
        (upstream, path): (&str, String),
        header: Option<(String, String)>,
        body: String,
        now: Moment,
    ) {
        let mut rope = Rope::default();
        rope.push_str(&body);
        saying.stage = stage;
        saying.id = self.post_to_dingtalk(upstream, path, header, rope);
        self.timers.attempt = Some(now.unix_ms + PATIENCE);
        self.phase = Phase::Saying(Box::new(saying));
    }

    /// Asks one of DingTalk's servers; gives the fetch's id.
    pub(super) fn post_to_dingtalk(
        &mut self,
        upstream: &str,
        path: String,
        header: Option<(String, String)>,
        body: Rope,
    ) -> u32 {
        let id = self.take_id();
        let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        headers.extend(header);
        self.outputs.push_back(Output::Fetch(Fetch {
            id,
            upstream: upstream.into(),
            method: "POST".into(),
            path,
            headers,
            credential: None,
            body,
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        }));
        id
    }

    fn fetch_app_token(&mut self, channel: &Channel, mut saying: Saying, now: Moment) {
        let ChannelKind::DingTalk { app_key, app_secret, .. } = &channel.kind;
        let body = token::request_body(app_key, app_secret);
        saying.renewed = true;
        saying.stage = Stage::Token;
        saying.id = self.post_to_dingtalk(DINGTALK, token::PATH.into(), None, body);
        self.timers.attempt = Some(now.unix_ms + PATIENCE);
        self.phase = Phase::Saying(Box::new(saying));
    }

    pub(super) fn in_saying(
        &mut self,
        policy: &Policy,
        mut saying: Box<Saying>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match (saying.stage, input) {
            (Stage::Turn, Input::Stored { id, outcomes }) if *id == saying.id => {
                self.timers.store = None;
                match outcomes.first() {
                    Some(Outcome::Turn(TurnOutcome::Seen(view))) if !view.state.is_end() => {
                        self.say_next(policy, *saying, now);
                    }
                    _ => self.said(policy, &saying, "not_needed", "", now),
                }
            }
            (Stage::Store, Input::Stored { id, outcomes }) if *id == saying.id => {
                self.timers.store = None;
                saying.token = text_of(outcomes.first());
                match policy.catalog.channel(&saying.seat.channel) {
                    Some(channel) if saying.token.is_empty() => self.fetch_app_token(channel, *saying, now),
                    _ => self.say_next(policy, *saying, now),
                }
            }
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == saying.id => {
                self.timers.attempt = None;
                match token::parse(*status, body, now.unix_ms) {
                    Ok(found) => {
                        if let Some(channel) = policy.catalog.channel(&saying.seat.channel) {
                            self.keep_app_token(channel, &found, now);
                        }
                        saying.token = found.token;
                        self.say_next(policy, *saying, now);
                    }
                    Err(token::TokenFault::Misconfigured) => {
                        self.api_closed(policy, *saying, "no_token", now);
                    }
                    Err(token::TokenFault::Unavailable) => self.say_again(policy, *saying, 0, now),
                }
            }
            (Stage::Webhook, Input::FetchWhole { id, status, body, .. }) if *id == saying.id => {
                self.timers.attempt = None;
                self.webhook_said(policy, *saying, send::by_webhook(*status, body), now);
            }
            (Stage::Api, Input::FetchWhole { id, status, body, .. }) if *id == saying.id => {
                self.timers.attempt = None;
                self.api_said(policy, *saying, send::by_api(*status, body), now);
            }
            (_, Input::FetchFailed { id, .. } | Input::StoreFailed { id }) if *id == saying.id => {
                self.saying_unanswered(policy, *saying, now);
            }
            _ => self.phase = Phase::Saying(saying),
        }
    }

    /// Keeps an app's token for everybody.
    pub(super) fn keep_app_token(&mut self, channel: &Channel, found: &AccessToken, now: Moment) {
        let ChannelKind::DingTalk { app_key, .. } = &channel.kind;
        let value = ByteBuf::from(found.token.clone().into_bytes());
        let ttl_ms = found.expires_ms.saturating_sub(now.unix_ms);
        self.tell(token_key(app_key), Op::Write { value, ttl_ms });
    }

    fn webhook_said(&mut self, policy: &Policy, mut saying: Saying, sent: Sent, now: Moment) {
        match sent {
            Sent::Delivered => return self.message_said(saying, now),
            Sent::Again => return self.say_again(policy, saying, 0, now),
            Sent::TooFast { after_ms } => saying.webhook_from_ms = Some(now.unix_ms.saturating_add(after_ms)),
            // Over, or not for this message: the API says what is wrong with it, if anything.
            Sent::Expired | Sent::TokenStale | Sent::Misconfigured(_) | Sent::Refused(_) => {
                saying.webhook_from_ms = None;
            }
        }
        self.say_next(policy, saying, now);
    }

    fn api_said(&mut self, policy: &Policy, saying: Saying, sent: Sent, now: Moment) {
        match sent {
            Sent::Delivered => self.message_said(saying, now),
            Sent::TokenStale if !saying.renewed => match policy.catalog.channel(&saying.seat.channel) {
                Some(channel) => self.fetch_app_token(channel, saying, now),
                None => self.said(policy, &saying, "off", "", now),
            },
            Sent::TooFast { after_ms } => self.say_again(policy, saying, after_ms, now),
            Sent::Again => self.say_again(policy, saying, 0, now),
            Sent::Expired | Sent::TokenStale => self.api_closed(policy, saying, "no_token", now),
            Sent::Misconfigured(code) | Sent::Refused(code) => self.api_closed(policy, saying, &code, now),
        }
    }

    /// The API does not say it: a webhook that may be used later does.
    fn api_closed(&mut self, policy: &Policy, mut saying: Saying, code: &str, now: Moment) {
        saying.by_api = false;
        if saying.webhook_from_ms.is_some_and(|at_ms| saying.webhook(at_ms).is_some()) {
            return self.say_next(policy, saying, now);
        }
        self.said(policy, &saying, "refused", code, now);
    }

    /// One of its messages was said. What was said is not said again.
    fn message_said(&mut self, mut saying: Saying, now: Moment) {
        saying.said += 1;
        saying.attempts = 0;
        self.save(Next::Say(Box::new(saying.at_rest())), Then::GoOn, now);
    }

    /// There is no answer in time, or none at all.
    pub(super) fn saying_unanswered(&mut self, policy: &Policy, saying: Saying, now: Moment) {
        self.say_again(policy, saying, 0, now);
    }

    fn say_again(&mut self, policy: &Policy, mut saying: Saying, at_least_ms: u64, now: Moment) {
        saying.attempts += 1;
        let may_ask_api = saying.by_api && saying.to().is_some();
        if saying.stage == Stage::Webhook && saying.attempts >= UNREACHED && may_ask_api {
            saying.webhook_from_ms = Some(now.unix_ms.saturating_add(UNREACHED_MS));
        }
        if saying.attempts >= MOST_ATTEMPTS {
            // A webhook that DingTalk has throttled opens again: the words wait for it, for as long as they are
            // of use. One that was only left out for a while has had its attempts.
            let at_ms = saying.webhook_from_ms.filter(|at_ms| {
                *at_ms > now.unix_ms.saturating_add(UNREACHED_MS) && saying.webhook(*at_ms).is_some()
            });
            let Some(at_ms) = at_ms else { return self.said(policy, &saying, "gave_up", "", now) };
            saying.attempts = 0;
            return self.rest_saying(saying, at_ms, now);
        }
        let (first, longest) = PAUSE;
        let pause = (first << saying.attempts.min(6)).min(longest) / 2;
        let random = u64::from(now.entropy[0]) * pause / 256;
        let at_ms = now.unix_ms.saturating_add((pause + random).max(at_least_ms));
        self.rest_saying(saying, at_ms, now);
    }

    /// It is over, and a line says how. The line has nothing that was said.
    fn said(&mut self, policy: &Policy, saying: &Saying, outcome: &'static str, code: &str, now: Moment) {
        let level = match outcome {
            "delivered" | "not_needed" | "off" => Level::Info,
            _ => Level::Error,
        };
        let line = record::Said {
            kind: saying.kind.name(),
            since_ms: saying.since_ms,
            channel: &saying.seat.channel,
            outcome,
            code,
            messages: saying.said,
            attempts: saying.attempts,
        };
        self.outputs.extend(line.record(policy, &self.facts, level, now));
        self.keep_end(200, "{}".to_owned());
        self.phase = Phase::Done;
        self.end_run(policy, now);
    }
}
