//! What people say to a robot: `POST /dingtalk/{robot}`, and the turn that answers it.
//!
//! DingTalk waits for no model: a message is kept and acknowledged, and an alarm of its cell runs the turn,
//! without a client, like any other turn that outlives its connection. The cell's name follows from the
//! message's id and stays for longer than a signature is believed, so a message that comes again is known.
//! Everything that such a turn comes to, an answer as well as a refusal, is [said](super::saying) in
//! the conversation: nobody who asked is met by silence, and nothing but words goes there.
//!
//! A conversation is what waits in the upstream's queue, and a person is whose rate counts: so a
//! group that talks much delays itself.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    ask::Asking,
    downloads::Attached,
    gates::STORE_PATIENCE,
    head,
    record::TurnStory,
    runner::{Next, named_by},
    saying::{Kind, OWNER, Saying},
    turns::cell,
};
use crate::{
    policy::{
        Policy, auth,
        channel::{self, AnsweredBy, Channel},
    },
    seam::{Input, Moment, Output, RequestHead},
    state::{
        Op, Outcome,
        turn::{Create, Ended, TurnOp, TurnOutcome},
    },
    wire::{
        dingtalk::{
            callback,
            message::{Content, Message, SessionWebhook},
        },
        failure::{Blame, Code, Failure},
        mini::MiniRequest,
    },
};

/// The most characters of a message that is quoted.
const LONGEST_QUOTE: usize = 2_000;
/// What a host that comes late has to end a turn, in milliseconds after its deadline.
const OVERDUE: u64 = 5_000;
/// Refusals of a conversation within so many milliseconds are said once, after them.
const WINDOW: u64 = 10_000;
/// How long after its end that is said, so that who was refused at its end is meant too.
const WINDOW_SLACK: u64 = 3_000;

/// Where something is said, and to whom.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seat {
    /// The robot.
    pub(super) channel: String,
    /// The conversation, as DingTalk calls it.
    pub(super) conversation: String,
    pub(super) is_group: bool,
    /// The id in the company of who asked.
    pub(super) asker: Option<String>,
    /// The way back that came with the message.
    pub(super) webhook: Option<SessionWebhook>,
}

/// A message that is answered.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Heard {
    pub(super) seat: Seat,
    /// Keyed hashes: of the conversation, and of who asks.
    pub(super) party: String,
    sender: String,
    text: String,
    /// A picture or file; of several pictures the first.
    attached: Option<Attached>,
    /// When the person is told that there is no answer, in milliseconds since 1970.
    pub(super) deadline_ms: u64,
}

impl Heard {
    fn of(policy: &Policy, channel: &Channel, message: Message, now: Moment) -> Self {
        let (text, attached) = (text_of(&message), attached_to(&message));
        let Message { conversation, sender, webhook, .. } = message;
        let asker = sender.staff_id.clone().unwrap_or_else(|| sender.id.clone());
        let (kind, id) = match conversation.is_group {
            true => ("group", conversation.id.as_str()),
            false => ("person", asker.as_str()),
        };
        let hash = |kind: &str, id: &str| {
            auth::person(policy, "dingtalk", &format!("{}\n{kind}\n{id}", channel.name))
        };
        Self {
            party: hash(kind, id),
            sender: hash("sender", &asker),
            text,
            attached,
            deadline_ms: now.unix_ms.saturating_add(channel.timeout_ms.into()),
            seat: Seat {
                channel: channel.name.clone(),
                conversation: conversation.id,
                is_group: conversation.is_group,
                asker: sender.staff_id,
                webhook,
            },
        }
    }
}

/// What a model is to see of a message; empty when there is nothing that it could answer.
fn text_of(message: &Message) -> String {
    let words = message.words();
    let quoted = message.quoted.as_ref().map(|quoted| quoted.text.trim()).filter(|text| !text.is_empty());
    match quoted {
        Some(quoted) if !words.is_empty() => {
            let quoted: String = quoted.chars().take(LONGEST_QUOTE).collect();
            let lines: Vec<String> = quoted.lines().map(|line| format!("> {line}")).collect();
            format!("{}\n\n{words}", lines.join("\n"))
        }
        _ => words,
    }
}

/// What is to be fetched for a model to see.
fn attached_to(message: &Message) -> Option<Attached> {
    let attached = match &message.content {
        Content::File { name, code } => Attached { code: code.clone(), name: Some(name.clone()) },
        _ => Attached { code: (*message.pictures().first()?).to_owned(), name: None },
    };
    Some(attached).filter(|attached| !attached.code.is_empty())
}

/// What is said to a message in which there is nothing to answer.
fn no_words(content: &Content) -> &'static str {
    match content {
        Content::Picture(_) | Content::File { .. } | Content::Video(_) | Content::Rich(_) => {
            "暂不支持这种消息，请把问题用文字发给我。\n\
             This kind of message is not supported. Please write your question."
        }
        Content::Voice { .. } => {
            "没有听清，请再说一遍或用文字发给我。\nI could not hear that. Please say it again, or write it."
        }
        Content::Text(_) => "请把问题和我一起发出来。\nPlease write your question in the same message.",
        Content::Unknown(_) => {
            "暂不支持这种消息，请用文字发给我。\nThis kind of message is not supported. Please write."
        }
    }
}

impl Exchange {
    /// `POST /dingtalk/{robot}`.
    pub(super) fn begin_robot(&mut self, policy: &Policy, head: &RequestHead, now: Moment) {
        let Some(channel) = channel::named(&policy.catalog, &head.path) else {
            return self.fail(policy, &Failure::new(Code::NotFound, "no robot has that name"), now);
        };
        if head.robot.as_ref() != Some(&channel.name) {
            let message = "not a message that DingTalk signed within the hour for this robot";
            return self.fail(policy, &Failure::new(Code::PushNotSigned, message), now);
        }
        let limit = self.facts.route.body_limit(policy);
        if head.content_length.is_some_and(|length| length > limit) {
            return self.fail(policy, &head::body_too_large(policy, self.facts.route), now);
        }
        let seat = Seat { channel: channel.name.clone(), ..Seat::default() };
        self.robot = Some(Box::new(Heard { seat, ..Heard::default() }));
        self.timers.body = Some(now.unix_ms + policy.deadlines.body);
        self.outputs.push_back(Output::ReadBody { limit });
        self.phase = Phase::Body;
    }

    /// The message has come: it is kept, then acknowledged.
    pub(super) fn hear(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        let name = self.robot.take().map(|heard| heard.seat.channel).unwrap_or_default();
        let Some(channel) = policy.catalog.channel(&name) else { return self.acknowledge(policy, now) };
        let Some(message) = Message::parse(body) else {
            // It would come again and again, and nothing would be better then.
            self.story.code = Some(Code::InvalidJson);
            return self.acknowledge(policy, now);
        };
        let owner = format!("dingtalk:{name}");
        self.facts.request_id = named_by(policy, &owner, "", &message.msg_id);
        let without_words = no_words(&message.content);
        let heard = Heard::of(policy, channel, message, now);
        self.story.subject = Some(heard.sender.clone());
        let mut ops = Vec::with_capacity(2);
        if heard.text.is_empty() && heard.attached.is_none() {
            let words = without_words.to_owned();
            ops.push(self.say_of(Saying::new(Kind::Refusal, heard.seat, words, now)));
        } else {
            let ack = channel.ack.clone().filter(|words| !words.trim().is_empty()).map(|words| {
                let about = cell(&self.facts.request_id);
                let from_ms = now.unix_ms.saturating_add(channel.ack_after_ms.into());
                Saying::new(Kind::Ack, heard.seat.clone(), words, now).not_before(from_ms).only_while(about)
            });
            let timeout_ms = u64::from(channel.timeout_ms) + OVERDUE;
            self.robot = Some(Box::new(heard));
            let create = Create {
                owner: OWNER.to_owned(),
                digest: [0; 32],
                checkpoint: self.checkpoint(Next::Hear, None, timeout_ms),
                timeout_ms,
                keep_ms: callback::REMEMBERED_MS,
            };
            ops.push((cell(&self.facts.request_id), Op::Turn(TurnOp::Create(create))));
            ops.extend(ack.map(|saying| self.say_of(saying)));
        }
        let id = self.take_id();
        self.outputs.push_back(Output::Store { id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Hearing(id);
    }

    pub(super) fn in_hearing(&mut self, policy: &Policy, id: u32, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id: done, outcomes } if *done == id => {
                self.timers.store = None;
                self.story.turn = match outcomes.first() {
                    Some(Outcome::Turn(TurnOutcome::Fresh)) => Some(TurnStory::Begun),
                    _ => Some(TurnStory::Joined),
                };
                self.acknowledge(policy, now);
            }
            Input::StoreFailed { id: failed } if *failed == id => self.not_heard(policy, now),
            _ => self.phase = Phase::Hearing(id),
        }
    }

    /// What is not kept is not acknowledged: DingTalk sends it again.
    pub(super) fn not_heard(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let failure = Failure::new(Code::StoreUnavailable, "the message cannot be kept now; send it again");
        self.fail(policy, &failure.after(5), now);
    }

    fn acknowledge(&mut self, policy: &Policy, now: Moment) {
        self.robot = None;
        self.respond_json(policy, 200, "{}".to_owned(), now);
    }

    /// A runner has the message: it is answered like an intent's question.
    pub(super) fn answer_heard(&mut self, policy: &Policy, now: Moment) {
        let (Some(heard), Some(channel)) = (&self.robot, self.channel(policy)) else {
            let failure = Failure::new(Code::Interrupted, "the configuration has changed meanwhile");
            return self.fail(policy, &failure, now);
        };
        let intent = match &channel.answered_by {
            AnsweredBy::Intent(name) => name.clone(),
            // No intent has a name that begins so: nothing that is said of intents holds here.
            AnsweredBy::Profile(_) => format!("dingtalk:{}", channel.name),
        };
        let (text, attached) = (heard.text.clone(), heard.attached.clone());
        self.story.subject = Some(heard.sender.clone());
        self.story.intent = Some(intent.clone());
        let request = MiniRequest::said(intent, &text);
        if let Some(attached) = attached {
            // DingTalk is not asked for what nobody will look at.
            return match self.takes_attachments(policy, &request) {
                Ok(()) => self.download(policy, attached, request.intent, text, now),
                Err(failure) => self.fail(policy, &failure, now),
            };
        }
        self.consult(policy, Asking { request, store_id: 0 }, now);
    }

    /// The robot of this message.
    pub(super) fn channel<'p>(&self, policy: &'p Policy) -> Option<&'p Channel> {
        policy.catalog.channel(&self.robot.as_ref()?.seat.channel)
    }

    /// The profile that answers here, where no intent says so.
    pub(super) fn channels_profile<'p>(&self, policy: &'p Policy) -> Option<&'p str> {
        match &self.channel(policy)?.answered_by {
            AnsweredBy::Profile(name) => Some(name),
            AnsweredBy::Intent(_) => None,
        }
    }

    /// What is said of this message: one acknowledgement, and one end.
    fn say_of(&self, saying: Saying) -> (String, Op) {
        let name = format!("{}\n{}", self.facts.request_id, saying.is_end());
        self.say(saying, &name)
    }

    /// What stands for who waits in the upstream's queue: the person, or a robot's conversation.
    pub(super) fn party(&self) -> &str {
        match &self.robot {
            Some(heard) => &heard.party,
            None => self.story.subject.as_deref().unwrap_or_default(),
        }
    }

    /// The turn is over: what it came to is said. Nothing of it stays in the turn's cell.
    pub(super) fn say_end(&mut self, policy: &Policy, mut ended: Ended, now: Moment) -> Ended {
        let Some(heard) = self.robot.take() else { return ended };
        let had_attached = heard.attached.is_some();
        let body = std::mem::replace(&mut ended.body, ByteBuf::from(*b"{}"));
        // It came once, and is not begun anew when it comes again.
        ended.again = false;
        let channel = policy.catalog.channel(&heard.seat.channel);
        let failed = channel.and_then(|channel| channel.failed.as_deref());
        let answer = if ended.status == 200 { answer_in(&body) } else { None };
        let (key, op) = match (answer, self.story.code.unwrap_or(Code::Internal)) {
            (Some(words), _) => self.say_of(Saying::new(Kind::Answer, heard.seat, words, now)),
            // Nobody was asked: as many as there are, it is said once.
            (None, code) if self.story.asked_ms.is_none() && is_of_many(code) => {
                // Nor is anybody left in silence for longer than an answer may take.
                let patience = channel.map_or(WINDOW, |channel| channel.timeout_ms.into());
                let (width, slack) = (WINDOW.min(patience), WINDOW_SLACK.min(patience / 2));
                let window = now.unix_ms / width.max(1);
                let words = if heard.seat.is_group { crowded(code) } else { sentence(code, failed) };
                let from_ms = (window + 1) * width.max(1) + slack;
                let seat = Seat { asker: heard.seat.asker.filter(|_| !heard.seat.is_group), ..heard.seat };
                let saying = Saying::new(Kind::Refusal, seat, words, now).not_before(from_ms);
                self.say(saying, &format!("{}\n{window}", heard.party))
            }
            (None, code) => {
                let words = sentence(code, failed);
                self.say_of(Saying::new(Kind::Refusal, heard.seat, words, now))
            }
        };
        self.say_beside(key, op);
        if had_attached {
            // After what is said: who takes the turn up in between finds that said, and needs no picture.
            self.forget_request();
        }
        ended
    }
}

/// The words in the body of an answer.
fn answer_in(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Whole {
        answer: String,
    }
    let whole: Whole = serde_json::from_slice(body).ok()?;
    Some(whole.answer).filter(|words| !words.trim().is_empty())
}

/// Whether others are refused for the same reason at the same time.
fn is_of_many(code: Code) -> bool {
    matches!(
        code,
        Code::RateLimited
            | Code::Blocked
            | Code::BudgetExhausted
            | Code::QueueFull
            | Code::QueueTimeout
            | Code::UpstreamUnavailable
            | Code::StoreUnavailable
    )
}

fn both((zh, en): (&str, &str)) -> String {
    format!("{zh}\n{en}")
}

/// What is said to a group of whose messages some were refused.
fn crowded(code: Code) -> String {
    match code {
        Code::UpstreamUnavailable | Code::StoreUnavailable => both((
            "服务暂时不可用，刚才没有得到回答的消息请稍后再发一次。",
            "The service is unavailable. What got no answer just now, please send again later.",
        )),
        _ => both((
            "现在消息太多了，刚才没有得到回答的消息请稍后再发一次。",
            "Too many messages for now. What got no answer just now, please send again later.",
        )),
    }
}

/// What is said where there is no answer, in both languages: nobody's is known.
fn sentence(code: Code, failed: Option<&str>) -> String {
    let is_the_persons = matches!(
        code,
        Code::RateLimited
            | Code::Blocked
            | Code::BudgetExhausted
            | Code::QueueFull
            | Code::QueueTimeout
            | Code::ContentRefused
            | Code::InputTooLong
            | Code::UpstreamRefusedRequest
            | Code::Interrupted
            | Code::AttachmentTooLarge
            | Code::AttachmentTextTooLong
            | Code::AttachmentTooManyPages
            | Code::AttachmentTypeUnsupported
            | Code::AttachmentTypeMismatch
            | Code::AttachmentTextInvalid
    );
    match failed {
        _ if code == Code::AttachmentDataMissing => both((
            "没有取到图片或文件，请再发一次。",
            "The picture or file could not be fetched. Please send it again.",
        )),
        Some(failed) if !is_the_persons => failed.to_owned(),
        _ if is_the_persons => both(code.answer()),
        _ if matches!(code, Code::TurnExpired | Code::UpstreamTimeout) => {
            both(Code::UpstreamTimeout.answer())
        }
        // What is said to a program that sends a wrong request is nothing for people.
        _ if code.blame() == Blame::Client => both(Code::UpstreamRefusedRequest.answer()),
        _ => both(Code::UpstreamError.answer()),
    }
}
