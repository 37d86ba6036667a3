//! Who is told that a turn has come to something: the person's WeChat, the team's own backend.
//!
//! What is said is that something happened, never what was asked or answered, but for the first
//! words of a question where the operator allows it. Nothing is sent here.

use core::fmt;

use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig},
};
use serde::{Deserialize, Serialize};

pub use crate::wire::wechat::field::{KINDS, Kind};

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Event {
    /// It waits for a person's consent.
    NeedsApproval,
    /// It has its answer.
    Done,
    /// It has none.
    Failed,
    /// Somebody stopped it.
    Cancelled,
    /// Nobody decided, or nobody ran it, in time.
    Expired,
}

impl Event {
    /// All of them, as a configuration names them.
    pub const ALL: [Self; 5] =
        [Self::NeedsApproval, Self::Done, Self::Failed, Self::Cancelled, Self::Expired];

    /// The name in a configuration and in a webhook's body.
    pub fn name(self) -> &'static str {
        match self {
            Self::NeedsApproval => "needs_approval",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// The state in a WeChat message: at most five Chinese characters, so that it fits every field.
    pub fn in_chinese(self) -> &'static str {
        match self {
            Self::NeedsApproval => "待确认",
            Self::Done => "已完成",
            Self::Failed => "未完成",
            Self::Cancelled => "已取消",
            Self::Expired => "已过期",
        }
    }
}

/// One thing that happened to a turn, as far as others are told of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Notice<'a> {
    /// What.
    pub event: Event,
    /// When, in milliseconds of Unix time.
    pub at_ms: u64,
    /// The turn.
    pub request_id: &'a str,
    /// Its trace.
    pub trace_id: &'a str,
    /// What was asked for.
    pub intent: &'a str,
    /// Who answered.
    pub profile: &'a str,
    /// The person, as a keyed hash; empty for a caller without a login.
    pub subject: &'a str,
    /// Why it failed.
    pub code: Option<&'a str>,
    /// What is to be decided, by its id.
    pub approval: Option<&'a str>,
    /// The question, redacted by the caller. Only the first words are ever used, and only in
    /// [`Slot::Title`].
    pub question: Option<&'a str>,
}

/// Which of the two ways an intent uses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ways {
    /// The team's own backend is told.
    pub webhook: bool,
    /// The person gets a subscribe message.
    pub subscribe: bool,
}

/// The section `notify` of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notify {
    /// The team's own backend.
    pub webhook: Option<Webhook>,
    /// WeChat's subscribe message.
    pub subscribe: Option<Subscribe>,
}

impl Notify {
    /// The webhook, when the intent uses it for such an event.
    pub fn webhook_for(&self, ways: Ways, event: Event) -> Option<&Webhook> {
        self.webhook.as_ref().filter(|webhook| ways.webhook && webhook.events.contains(&event))
    }

    /// The message, when the intent uses it for such an event.
    pub fn subscribe_for(&self, ways: Ways, event: Event) -> Option<&Subscribe> {
        self.subscribe.as_ref().filter(|message| ways.subscribe && message.events.contains(&event))
    }
}

/// Where the team's own backend is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Webhook {
    /// The whole address, without credentials, query and fragment.
    pub url: String,
    /// The setting that holds the signing secret.
    pub secret: String,
    /// What it is told.
    pub events: Vec<Event>,
}

impl Webhook {
    /// Scheme, host and port: the upstream's address.
    pub fn origin(&self) -> &str {
        self.url.split_at(self.path_begins()).0
    }

    /// The path there, beginning with a slash.
    pub fn path(&self) -> &str {
        match self.url.split_at(self.path_begins()).1 {
            "" => "/",
            path => path,
        }
    }

    fn path_begins(&self) -> usize {
        let host = self.url.find("://").map_or(0, |at| at + 3);
        self.url.get(host..).and_then(|rest| rest.find('/')).map_or(self.url.len(), |at| host + at)
    }
}

/// A subscribe message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribe {
    /// The template's id, as WeChat's console shows it.
    pub template_id: String,
    /// The page that a tap opens; empty opens none.
    pub page: Vec<Part>,
    /// Which version of the Mini Program that is: `developer`, `trial` or `formal`.
    pub state: String,
    /// Its language: `zh_CN`, `en_US`, `zh_HK` or `zh_TW`.
    pub lang: String,
    /// What the person is told.
    pub events: Vec<Event>,
    /// What people read in place of an intent's name: name and words.
    pub names: Vec<(String, String)>,
    /// The template's fields: `thing1` and what is in it.
    pub data: Vec<(String, Vec<Part>)>,
}

impl Subscribe {
    /// Whether the first words of the question are in it.
    pub(crate) fn shows_question(&self) -> bool {
        self.data.iter().any(|(_, parts)| parts.contains(&Part::Slot(Slot::Title)))
    }

    /// What people read for an intent.
    pub(crate) fn name_of<'n>(&'n self, intent: &'n str) -> &'n str {
        self.names.iter().find(|(name, _)| name == intent).map_or(intent, |(_, words)| words)
    }
}

/// A part of a field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Part {
    /// The operator's words.
    Text(String),
    /// Something of the turn.
    Slot(Slot),
}

/// What of a turn a message may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// What was asked for.
    Intent,
    /// What it came to, in Chinese.
    State,
    /// When, in China's time.
    Time,
    /// The first words of the question.
    Title,
    /// The turn's id.
    RequestId,
}

impl Slot {
    /// All of them, as a template names them.
    pub const ALL: [(&'static str, Self); 5] = [
        ("intent", Self::Intent),
        ("state", Self::State),
        ("time", Self::Time),
        ("title", Self::Title),
        ("requestId", Self::RequestId),
    ];
}

/// What signs messages to the team's own backend: the first is the present secret, others are
/// those before it. They open nothing: who has them can make up messages to that backend.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookKeys(Vec<Vec<u8>>);

impl fmt::Debug for WebhookKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookKeys(..)")
    }
}

/// The bytes of a secret, by the specification of Standard Webhooks.
const SECRET_BYTES: core::ops::RangeInclusive<usize> = 24..=64;

/// Base64 with or without its padding: both are found.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

impl WebhookKeys {
    /// Reads `whsec_` and base64 of 24 to 64 bytes; several with commas between them, while one takes
    /// over from another. `None` when one of them is none.
    pub fn parse(setting: &str) -> Option<Self> {
        let key = |text: &str| {
            let bytes = DECODER.decode(text.trim().strip_prefix("whsec_")?).ok()?;
            SECRET_BYTES.contains(&bytes.len()).then_some(bytes)
        };
        setting.split(',').map(key).collect::<Option<_>>().map(Self)
    }

    /// The keys, the present one first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.0.iter().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn an_address_has_an_origin_and_a_path() {
        let of = |url: &str| {
            let webhook = Webhook { url: url.into(), secret: String::new(), events: Vec::new() };
            (webhook.origin().to_owned(), webhook.path().to_owned())
        };
        let pair = |origin: &str, path: &str| (origin.to_owned(), path.to_owned());
        assert_eq!(of("https://a.example/hooks/mini/"), pair("https://a.example", "/hooks/mini/"));
        assert_eq!(of("https://a.example:8443"), pair("https://a.example:8443", "/"));
        assert_eq!(of("http://127.0.0.1:9/"), pair("http://127.0.0.1:9", "/"));
        assert_eq!(of(""), pair("", "/"));
    }

    #[test]
    fn a_secret_is_whsec_and_base64() {
        let one = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        assert_eq!(WebhookKeys::parse(one).map(|keys| keys.iter().count()), Some(1));
        let two = format!("{one} , whsec_{}", "A".repeat(43));
        assert_eq!(WebhookKeys::parse(&two).map(|keys| keys.iter().count()), Some(2));
        let long = format!("whsec_{}", "A".repeat(88));
        for bad in
            ["", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAA", "whsec_?", &long, &format!("{one},")]
        {
            assert_eq!(WebhookKeys::parse(bad), None, "{bad}");
        }
        assert_eq!(format!("{:?}", WebhookKeys::parse(one)), "Some(WebhookKeys(..))");
    }

    #[test]
    fn only_an_intent_that_asks_for_it_is_told_of() {
        let webhook = Webhook { url: String::new(), secret: String::new(), events: vec![Event::Done] };
        let notify = Notify { webhook: Some(webhook), subscribe: None };
        let ways = Ways { webhook: true, subscribe: true };
        assert!(notify.webhook_for(ways, Event::Done).is_some());
        assert!(notify.webhook_for(ways, Event::Failed).is_none());
        assert!(notify.webhook_for(Ways::default(), Event::Done).is_none());
        assert!(notify.subscribe_for(ways, Event::Done).is_none());
    }

    #[test]
    fn a_state_fits_every_field() {
        for event in Event::ALL {
            let state = event.in_chinese();
            assert!(
                state.chars().count() <= 5 && state.chars().all(|c| ('\u{4e00}'..='\u{9fff}').contains(&c))
            );
        }
    }
}
