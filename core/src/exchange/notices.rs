//! The stage that tells others what a turn has come to: the person's WeChat, the team's own backend.
//!
//! A notice is a cell beside the turn's, made in the very list of operations with which the turn ends
//! or asks a person, under a name that follows from both: it is made once however often that list
//! is sent. Its alarm begins a runner like a turn's, but one without a client, a lease or debts,
//! that speaks to nobody but whom it tells, and writes a line for each outcome.
//!
//! A backend is told at least once, and knows a repetition by its id. A person is told at most once:
//! a subscribe message is saved as begun before it is sent, and a doubt ends it.

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Facts, Phase, Timers,
    gates::{Caller, STORE_PATIENCE},
    inspection::openid_key,
    record,
    runner::{MOST_TRIES, Next},
    turns,
    wechat_token::{read_token, text_of},
};
use crate::{
    policy::{
        Policy,
        notify::{Event, Notice},
    },
    seam::{Delivery, Fetch, FetchFailure, Input, Level, Moment, Output, Rope, WEBHOOK, find_header},
    state::{
        Op,
        turn::{Claimed, Create, Then, TurnOp},
    },
    wire::{
        failure::Code,
        webhook::{self, Message, Receipt},
        wechat::subscribe::{self, Sent},
    },
};

/// What precedes the name of a notice in its cell's key. No turn's id begins so.
const NAME: &str = "ntc_";
/// Whose notices are: nobody's, so that no caller can see one.
const OWNER: &str = "notice";
/// Milliseconds after which a notice is given up: all pauses and attempts are within it.
const TIMEOUT: u64 = 26 * 3_600_000;
/// Milliseconds for which it is known that there was one. A turn may be taken over and end once more.
const KEPT: u64 = 3_600_000;
/// Milliseconds that WeChat may take.
const WECHAT_PATIENCE: u64 = 8_000;
/// The least wait, in milliseconds, after WeChat refused a token that it has just given.
const TOKEN_WAIT: u64 = 10_000;
/// No field of a message takes more characters of the question.
const TITLE: usize = 64;

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Way {
    Webhook,
    Subscribe,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Subscribe => "subscribe",
        }
    }
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The person's openid and this app's access token out of the store.
    Store,
    /// A token from WeChat.
    Token,
    /// The answer of whoever is told.
    Answer,
}

/// A notice on one way. The turn's id and trace are the exchange's own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Notifying {
    way: Way,
    event: Event,
    at_ms: u64,
    intent: String,
    profile: String,
    /// Empty for a caller without a login.
    subject: String,
    code: Option<Code>,
    approval: Option<String>,
    /// The first words of the question, redacted, where the message shows them.
    question: Option<String>,
    attempts: u32,
    /// WeChat may have the message.
    begun: bool,
    stage: Stage,
    /// Of what is waited for.
    pub(super) id: u32,
    /// Neither is ever in a checkpoint.
    openid: String,
    token: String,
    /// The token was fetched anew in this attempt.
    renewed: bool,
}

impl Notifying {
    fn notice<'a>(&'a self, facts: &'a Facts) -> Notice<'a> {
        Notice {
            event: self.event,
            at_ms: self.at_ms,
            request_id: &facts.request_id,
            trace_id: &facts.trace_id,
            intent: &self.intent,
            profile: &self.profile,
            subject: &self.subject,
            code: self.code.map(Code::name),
            approval: self.approval.as_deref(),
            question: self.question.as_deref(),
        }
    }

    /// As the next attempt begins with it.
    fn at_rest(mut self) -> Self {
        (self.begun, self.renewed, self.stage) = (false, false, Stage::Store);
        (self.openid, self.token) = (String::new(), String::new());
        self
    }
}

/// What came of a notice, or of an attempt. The numbers are the backend's status or WeChat's `errcode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Came {
    Delivered,
    /// The person has not consented to a message, or the consent is used up.
    NotSubscribed,
    /// There is no person, or none whose openid is known.
    Nobody,
    /// The backend wants no more of them.
    Gone,
    Refused(i64),
    /// An operator must act.
    Misconfigured(i64),
    /// It is tried again later.
    Again(Option<i64>),
    /// The same, since there is no access token, and why.
    NoToken(Code),
    /// It is not tried any more.
    GaveUp(Option<i64>),
    /// WeChat may have the message, or not.
    Unknown,
    /// The configuration does not want it any more.
    Off,
    /// It has killed too many runners.
    Interrupted,
}

impl Came {
    fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::NotSubscribed => "not_subscribed",
            Self::Nobody => "nobody",
            Self::Gone => "gone",
            Self::Refused(_) => "refused",
            Self::Misconfigured(_) => "misconfigured",
            Self::Again(_) => "again",
            Self::NoToken(_) => "no_token",
            Self::GaveUp(_) => "gave_up",
            Self::Unknown => "unknown",
            Self::Off => "off",
            Self::Interrupted => "interrupted",
        }
    }

    fn level(self) -> Level {
        match self {
            Self::Delivered | Self::NotSubscribed | Self::Nobody | Self::Off => Level::Info,
            Self::Gone | Self::Refused(_) | Self::Again(_) | Self::Unknown => Level::Warn,
            Self::NoToken(code) => code.level(),
            Self::Misconfigured(_) | Self::GaveUp(_) | Self::Interrupted => Level::Error,
        }
    }

    fn number(self) -> Option<i64> {
        match self {
            Self::Refused(number) | Self::Misconfigured(number) => Some(number),
            Self::Again(number) | Self::GaveUp(number) => number,
            _ => None,
        }
    }
}

/// Whether a cell's key is a notice's.
pub(super) fn is_key(key: &str) -> bool {
    key.strip_prefix(turns::CELL).is_some_and(|name| name.starts_with(NAME))
}

/// The first words of a question, redacted, where a message about that intent shows them.
pub(super) fn title(policy: &Policy, intent: &str, question: &str) -> Option<String> {
    let is_told = policy.catalog.intent(intent).is_some_and(|intent| intent.notify.subscribe);
    let message = policy.catalog.notify.subscribe.as_ref().filter(|_| is_told)?;
    let shows = message.shows_question();
    shows.then(|| record::excerpt(policy, question).chars().take(TITLE).collect())
}

impl Exchange {
    /// A turn has come to something: those who want to know of it are told, by others.
    pub(super) fn give_notice(&mut self, policy: &Policy, event: Event, approval: Option<&str>, now: Moment) {
        let name = self.story.intent.as_deref().unwrap_or_default();
        let Some(intent) = policy.catalog.intent(name) else { return };
        let notify = &policy.catalog.notify;
        if notify.webhook_for(intent.notify, event).is_some() {
            self.make_notice(policy, Way::Webhook, event, approval, now);
        }
        if notify.subscribe_for(intent.notify, event).is_some() {
            self.make_notice(policy, Way::Subscribe, event, approval, now);
        }
    }

    fn make_notice(&mut self, policy: &Policy, way: Way, event: Event, approval: Option<&str>, now: Moment) {
        let subject = match &self.facts.caller {
            Caller::Session { subject, .. } => subject.clone(),
            Caller::Anyone | Caller::Key(_) => String::new(),
        };
        let notifying = Notifying {
            way,
            event,
            at_ms: now.unix_ms,
            intent: self.story.intent.clone().unwrap_or_default(),
            profile: self.story.profile.clone().unwrap_or_default(),
            subject,
            code: self.story.code,
            approval: approval.map(str::to_owned),
            question: self.story.title.clone().filter(|_| way == Way::Subscribe),
            attempts: 0,
            begun: false,
            stage: Stage::Store,
            id: 0,
            openid: String::new(),
            token: String::new(),
            renewed: false,
        };
        if way == Way::Subscribe && notifying.subject.is_empty() {
            return self.note(policy, &notifying, Came::Nobody, now);
        }
        let key =
            format!("{}{NAME}{}_{}", turns::CELL, way.name(), webhook::id(&notifying.notice(&self.facts)));
        let runner = Self::of(self.facts.clone());
        let create = Create {
            owner: OWNER.to_owned(),
            digest: [0; 32],
            checkpoint: runner.checkpoint(Next::Notify(Box::new(notifying)), None, 0),
            timeout_ms: TIMEOUT,
            keep_ms: KEPT,
        };
        self.say_beside(key, Op::Turn(TurnOp::Create(create)));
    }

    /// A runner has the notice: it is sent.
    pub(super) fn take_up_notice(
        &mut self,
        policy: &Policy,
        notifying: Notifying,
        claimed: &Claimed,
        now: Moment,
    ) {
        if claimed.tries > MOST_TRIES {
            return self.notice_over(policy, &notifying, Came::Interrupted, now);
        }
        if claimed.expired || claimed.cancel {
            return self.notice_over(policy, &notifying, Came::GaveUp(None), now);
        }
        match notifying.way {
            Way::Webhook => self.send_webhook(policy, notifying, now),
            Way::Subscribe if notifying.begun => self.notice_over(policy, &notifying, Came::Unknown, now),
            Way::Subscribe if policy.catalog.notify.subscribe.is_none() => {
                self.notice_over(policy, &notifying, Came::Off, now);
            }
            Way::Subscribe => {
                let attempts = notifying.attempts + 1;
                let begun = Notifying { begun: true, attempts, ..notifying };
                self.save(Next::Notify(Box::new(begun)), Then::GoOn, now);
            }
        }
    }

    /// It is kept that a message is about to be sent, or that nothing is done until later.
    pub(super) fn notice_saved(&mut self, mut notifying: Notifying, now: Moment) {
        if !notifying.begun {
            return self.rest_run();
        }
        notifying.id = self.take_id();
        let ops = vec![(openid_key(&notifying.subject), Op::Read), read_token()];
        self.outputs.push_back(Output::Store { id: notifying.id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Notifying(Box::new(notifying));
    }

    fn send_webhook(&mut self, policy: &Policy, mut notifying: Notifying, now: Moment) {
        let Some(webhook) = &policy.catalog.notify.webhook else {
            return self.notice_over(policy, &notifying, Came::Off, now);
        };
        notifying.attempts += 1;
        notifying.stage = Stage::Answer;
        notifying.id = self.take_id();
        let message = Message::of(&notifying.notice(&self.facts));
        let mut body = Rope::default();
        body.push_str(&message.body);
        self.outputs.push_back(Output::Fetch(Fetch {
            id: notifying.id,
            upstream: WEBHOOK.into(),
            method: "POST".into(),
            path: webhook.path().into(),
            headers: message.headers(&policy.webhook_keys, now.unix_ms),
            credential: None,
            body,
            delivery: Delivery::Whole { limit: webhook::LONGEST_ANSWER },
            keeps_body: false,
        }));
        self.timers.attempt = Some(now.unix_ms + webhook::PATIENCE);
        self.phase = Phase::Notifying(Box::new(notifying));
    }

    fn send_message(&mut self, policy: &Policy, mut notifying: Notifying, now: Moment) {
        let Some(message) = &policy.catalog.notify.subscribe else {
            return self.notice_over(policy, &notifying, Came::Off, now);
        };
        let mut body = Rope::default();
        body.push_str(&subscribe::request_body(message, &notifying.notice(&self.facts), &notifying.openid));
        notifying.stage = Stage::Answer;
        notifying.id = self.post_to_wechat(subscribe::path(&notifying.token), body);
        self.await_wechat(notifying, now);
    }

    fn renew_token(&mut self, policy: &Policy, mut notifying: Notifying, now: Moment) {
        notifying.renewed = true;
        notifying.stage = Stage::Token;
        notifying.id = self.fetch_token(policy);
        self.await_wechat(notifying, now);
    }

    fn await_wechat(&mut self, notifying: Notifying, now: Moment) {
        self.timers.attempt = Some(now.unix_ms + WECHAT_PATIENCE);
        self.phase = Phase::Notifying(Box::new(notifying));
    }

    pub(super) fn in_notifying(
        &mut self,
        policy: &Policy,
        mut notifying: Box<Notifying>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match (notifying.stage, input) {
            (Stage::Store, Input::Stored { id, outcomes }) if *id == notifying.id => {
                self.timers.store = None;
                notifying.openid = text_of(outcomes.first());
                notifying.token = text_of(outcomes.get(1));
                if notifying.openid.is_empty() {
                    self.notice_over(policy, &notifying, Came::Nobody, now);
                } else if notifying.token.is_empty() {
                    self.renew_token(policy, *notifying, now);
                } else {
                    self.send_message(policy, *notifying, now);
                }
            }
            (Stage::Token, Input::FetchWhole { id, status, body, .. }) if *id == notifying.id => {
                match self.keep_token(*status, body, now) {
                    Ok(token) => {
                        notifying.token = token;
                        self.send_message(policy, *notifying, now);
                    }
                    Err(failure) => {
                        let came = Came::NoToken(failure.code);
                        self.notice_again(policy, *notifying, came, TOKEN_WAIT, now);
                    }
                }
            }
            (Stage::Answer, Input::FetchWhole { id, status, headers, body }) if *id == notifying.id => {
                match notifying.way {
                    Way::Webhook => {
                        let receipt = webhook::receipt(*status, find_header(headers, "retry-after"));
                        self.webhook_answered(policy, *notifying, *status, receipt, now);
                    }
                    Way::Subscribe => {
                        self.message_answered(policy, *notifying, subscribe::sent(*status, body), now);
                    }
                }
            }
            (_, Input::FetchFailed { id, failure }) if *id == notifying.id => {
                let unsent = matches!(failure, FetchFailure::Connect | FetchFailure::ConnectTimeout);
                self.notice_unanswered(policy, *notifying, unsent, now);
            }
            (_, Input::StoreFailed { id }) if *id == notifying.id => {
                self.notice_unanswered(policy, *notifying, true, now);
            }
            _ => self.phase = Phase::Notifying(notifying),
        }
    }

    fn webhook_answered(
        &mut self,
        policy: &Policy,
        notifying: Notifying,
        status: u16,
        receipt: Receipt,
        now: Moment,
    ) {
        match receipt {
            Receipt::Delivered => self.notice_over(policy, &notifying, Came::Delivered, now),
            Receipt::Gone => self.notice_over(policy, &notifying, Came::Gone, now),
            Receipt::Refused(status) => {
                self.notice_over(policy, &notifying, Came::Refused(status.into()), now);
            }
            Receipt::Again { at_least_ms } => {
                self.notice_again(policy, notifying, Came::Again(Some(status.into())), at_least_ms, now);
            }
        }
    }

    fn message_answered(&mut self, policy: &Policy, notifying: Notifying, sent: Sent, now: Moment) {
        let came = match sent {
            Sent::Delivered => Came::Delivered,
            Sent::NotSubscribed => Came::NotSubscribed,
            Sent::Refused(errcode) => Came::Refused(errcode),
            Sent::Misconfigured(errcode) => Came::Misconfigured(errcode),
            Sent::TokenStale if !notifying.renewed => return self.renew_token(policy, notifying, now),
            Sent::TokenStale => {
                return self.notice_again(policy, notifying, Came::Again(None), TOKEN_WAIT, now);
            }
            Sent::Again { after_ms, errcode } => {
                return self.notice_again(policy, notifying, Came::Again(errcode), after_ms, now);
            }
        };
        self.notice_over(policy, &notifying, came, now);
    }

    /// There is no answer. `unsent` says that nobody can have the message.
    pub(super) fn notice_unanswered(
        &mut self,
        policy: &Policy,
        notifying: Notifying,
        unsent: bool,
        now: Moment,
    ) {
        if notifying.way == Way::Subscribe && notifying.stage == Stage::Answer && !unsent {
            return self.notice_over(policy, &notifying, Came::Unknown, now);
        }
        self.notice_again(policy, notifying, Came::Again(None), 0, now);
    }

    /// Another attempt is made later, and not before so many milliseconds.
    fn notice_again(
        &mut self,
        policy: &Policy,
        notifying: Notifying,
        came: Came,
        at_least_ms: u64,
        now: Moment,
    ) {
        let mut random = [0; 8];
        random.copy_from_slice(&now.entropy[..8]);
        let Some(pause) = webhook::pause(notifying.attempts, u64::from_le_bytes(random)) else {
            return self.notice_over(policy, &notifying, Came::GaveUp(came.number()), now);
        };
        self.note(policy, &notifying, came, now);
        self.timers = Timers { run: self.timers.run, ..Timers::default() };
        let at_ms = now.unix_ms.saturating_add(pause.max(at_least_ms));
        self.save(Next::Notify(Box::new(notifying.at_rest())), Then::Later { at_ms }, now);
    }

    fn notice_over(&mut self, policy: &Policy, notifying: &Notifying, came: Came, now: Moment) {
        self.note(policy, notifying, came, now);
        self.keep_end(200, "{}".to_owned());
        self.phase = Phase::Done;
        self.end_run(policy, now);
    }

    /// One line. It has no openid, no token and nothing that was said.
    fn note(&mut self, policy: &Policy, notifying: &Notifying, came: Came, now: Moment) {
        let line = record::Told {
            event: notifying.event.name(),
            at_ms: notifying.at_ms,
            intent: &notifying.intent,
            way: notifying.way.name(),
            outcome: came.name(),
            attempts: notifying.attempts,
            status: came.number().filter(|_| notifying.way == Way::Webhook),
            errcode: came.number().filter(|_| notifying.way == Way::Subscribe),
            code: match came {
                Came::NoToken(code) => Some(code),
                _ => None,
            },
        };
        self.outputs.extend(line.record(policy, &self.facts, came.level(), now));
    }
}
