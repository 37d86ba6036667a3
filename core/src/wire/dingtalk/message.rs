//! What a person wrote to a robot: the body of a callback, and the data of a frame in Stream mode.
//!
//! Only the message's id must be there. Everything else may be missing, of another type, or of a kind
//! that nobody knows yet: a message that is not understood gets an answer that says so, and is not
//! sent to us again and again.

use core::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{number, text};

/// A message to a robot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// The same however often DingTalk sends it.
    pub msg_id: String,
    /// Where.
    pub conversation: Conversation,
    /// Who.
    pub sender: Sender,
    /// To which robot.
    pub robot_code: String,
    /// In a group, whether the robot was addressed.
    pub is_in_at_list: bool,
    /// When, in milliseconds of Unix time.
    pub created_ms: u64,
    /// The way back, for about 90 minutes.
    pub webhook: Option<SessionWebhook>,
    /// What.
    pub content: Content,
    /// What it is an answer to.
    pub quoted: Option<Quoted>,
}

/// Where a message was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Conversation {
    /// Its id, the `openConversationId` of the API.
    pub id: String,
    /// More than two can read it.
    pub is_group: bool,
    /// A group's name.
    pub title: Option<String>,
}

/// Who wrote a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sender {
    /// Opaque, the same for one person and one app: `$:LWCP_v1:$...`.
    pub id: String,
    /// The id in the company; people from outside have none.
    pub staff_id: Option<String>,
    /// The name that others see. Anybody chooses their own.
    pub nick: String,
    /// The company.
    pub corp_id: Option<String>,
    /// Of the company's DingTalk.
    pub is_admin: bool,
}

/// An address that answers into one conversation, for whoever has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionWebhook {
    /// The address, as it came: see [`webhook_path`](super::send::webhook_path).
    pub url: String,
    /// When it ends, in milliseconds of Unix time.
    pub expires_ms: u64,
}

impl fmt::Debug for SessionWebhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionWebhook").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}

/// What was written. Codes are for the API's `robot/messageFiles/download`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Words.
    Text(String),
    /// Words and pictures.
    Rich(Vec<RichPart>),
    /// A picture.
    Picture(String),
    /// A file.
    File {
        /// Its name.
        name: String,
        /// Its code.
        code: String,
    },
    /// Somebody spoke.
    Voice {
        /// What DingTalk heard; empty when it heard nothing.
        words: String,
        /// The recording's code.
        code: String,
    },
    /// A film.
    Video(String),
    /// A kind that is not known, by its `msgtype`.
    Unknown(String),
}

/// A part of [`Content::Rich`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RichPart {
    /// Words.
    Text(String),
    /// A picture, by its code.
    Picture(String),
}

/// The message to which another one is an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    /// Its id.
    pub msg_id: String,
    /// Its words, as far as DingTalk gives them.
    pub text: String,
}

impl Message {
    /// Reads a message. `None` when it is no object or has no id.
    pub(crate) fn parse(body: &[u8]) -> Option<Self> {
        Self::of(&serde_json::from_slice(body).ok()?)
    }

    fn of(value: &Value) -> Option<Self> {
        let own = |key: &str| text(value, key).unwrap_or_default().to_owned();
        let is = |key: &str| value.get(key).and_then(Value::as_bool).unwrap_or_default();
        let given = |key: &str| text(value, key).filter(|text| !text.is_empty()).map(str::to_owned);
        let kind = text(value, "conversationType").map(str::to_owned);
        let kind = kind.or_else(|| Some(number(value, "conversationType")?.to_string()));
        Some(Self {
            msg_id: given("msgId")?,
            conversation: Conversation {
                id: own("conversationId"),
                // Unless it is said to be between two, others may read what is answered.
                is_group: kind.as_deref() != Some("1"),
                title: given("conversationTitle"),
            },
            sender: Sender {
                id: own("senderId"),
                staff_id: given("senderStaffId"),
                nick: own("senderNick"),
                corp_id: given("senderCorpId"),
                is_admin: is("isAdmin"),
            },
            robot_code: own("robotCode"),
            is_in_at_list: is("isInAtList"),
            created_ms: number(value, "createAt").unwrap_or_default(),
            webhook: given("sessionWebhook").map(|url| SessionWebhook {
                url,
                expires_ms: number(value, "sessionWebhookExpiredTime").unwrap_or_default(),
            }),
            content: content(value),
            quoted: quoted(value),
        })
    }

    /// The words that a model is to see; empty when there are none.
    pub(crate) fn words(&self) -> String {
        match &self.content {
            // In a group a space is left where the robot's name was.
            Content::Text(text) => text.trim().to_owned(),
            Content::Rich(parts) => {
                let words = parts.iter().filter_map(|part| match part {
                    RichPart::Text(text) => Some(text.as_str()),
                    RichPart::Picture(_) => None,
                });
                words.collect::<String>().trim().to_owned()
            }
            Content::Voice { words, .. } => words.trim().to_owned(),
            Content::Picture(_) | Content::File { .. } | Content::Video(_) | Content::Unknown(_) => {
                String::new()
            }
        }
    }

    /// The codes of its pictures.
    pub(crate) fn pictures(&self) -> Vec<&str> {
        match &self.content {
            Content::Picture(code) => vec![code],
            Content::Rich(parts) => parts
                .iter()
                .filter_map(|part| match part {
                    RichPart::Picture(code) => Some(code.as_str()),
                    RichPart::Text(_) => None,
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

fn content(value: &Value) -> Content {
    let kind = text(value, "msgtype").unwrap_or_default();
    let content = value.get("content").unwrap_or(&Value::Null);
    // Some kinds come as JSON within a text.
    let inner = content.as_str().and_then(|text| serde_json::from_str(text).ok());
    let content = inner.as_ref().unwrap_or(content);
    let own = |key: &str| text(content, key).unwrap_or_default().to_owned();
    match kind {
        "text" => {
            let words = value.get("text").and_then(|inner| text(inner, "content"));
            Content::Text(words.or_else(|| text(content, "content")).unwrap_or_default().to_owned())
        }
        "richText" => {
            let parts = content.get("richText").and_then(Value::as_array);
            Content::Rich(parts.into_iter().flatten().flat_map(rich_parts).collect())
        }
        "picture" => Content::Picture(picture_code(content).unwrap_or_default()),
        "file" => Content::File { name: own("fileName"), code: own("downloadCode") },
        "audio" | "voice" => Content::Voice { words: own("recognition"), code: own("downloadCode") },
        "video" => Content::Video(own("downloadCode")),
        kind => Content::Unknown(super::code(kind)),
    }
}

/// Words, a picture, or both.
fn rich_parts(part: &Value) -> impl Iterator<Item = RichPart> {
    let words = text(part, "text").map(|text| RichPart::Text(text.to_owned()));
    words.into_iter().chain(picture_code(part).map(RichPart::Picture))
}

fn picture_code(content: &Value) -> Option<String> {
    let code = text(content, "downloadCode").or_else(|| text(content, "pictureDownloadCode"));
    code.filter(|code| !code.is_empty()).map(str::to_owned)
}

fn quoted(value: &Value) -> Option<Quoted> {
    let replied = value.get("text")?.get("repliedMsg")?;
    let content = replied.get("content").unwrap_or(&Value::Null);
    let parts = content.get("richText").and_then(Value::as_array);
    let rich = || {
        parts.into_iter().flatten().filter_map(|part| text(part, "text").or_else(|| text(part, "content")))
    };
    let words = content.as_str().or_else(|| text(content, "text")).or_else(|| text(content, "content"));
    let words = words.map_or_else(|| rich().collect(), str::to_owned);
    Some(Quoted { msg_id: text(replied, "msgId").unwrap_or_default().to_owned(), text: words })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// A callback's usual fields, as real ones have them.
    fn callback(rest: &str) -> String {
        format!(
            r#"{{"chatbotCorpId":"ding01","chatbotUserId":"$:LWCP_v1:$robot","conversationId":"cid6ezDLHQ=",
            "conversationType":"1","createAt":1774080994334,"isAdmin":false,"msgId":"msgBjXREk==",
            "openThreadId":"cid6ezDLHQ=","robotCode":"dingrobot","senderCorpId":"ding01",
            "senderId":"$:LWCP_v1:$someone","senderNick":"小李","senderPlatform":"Mac","senderStaffId":"0326",
            "sessionWebhook":"https://oapi.dingtalk.com/robot/sendBySession?session=3dc9",
            "sessionWebhookExpiredTime":1774086394522,{rest}}}"#
        )
    }

    fn parse(rest: &str) -> Message {
        Message::parse(callback(rest).as_bytes()).expect("a message")
    }

    #[test]
    fn a_message_between_two() {
        let message = parse(r#""msgtype":"text","text":{"content":"hello"}"#);
        assert_eq!(message.msg_id, "msgBjXREk==");
        assert_eq!(message.conversation.id, "cid6ezDLHQ=");
        assert!(!message.conversation.is_group && !message.is_in_at_list && !message.sender.is_admin);
        assert_eq!(message.sender.staff_id.as_deref(), Some("0326"));
        assert_eq!((message.sender.nick.as_str(), message.robot_code.as_str()), ("小李", "dingrobot"));
        assert_eq!(message.created_ms, 1_774_080_994_334);
        let webhook = message.webhook.clone().expect("given");
        assert_eq!(webhook.expires_ms, 1_774_086_394_522);
        assert!(!format!("{message:?}").contains("session=3dc9"));
        assert_eq!(message.words(), "hello");
    }

    #[test]
    fn a_message_in_a_group() {
        let body = r#"{"msgId":"m","msgtype":"text","text":{"content":" 你好 "},"conversationType":"2",
            "conversationTitle":"测试群","isInAtList":true,"createAt":"1774080994334",
            "atUsers":[{"dingtalkId":"$:LWCP_v1:$robot"}]}"#;
        let message = Message::parse(body.as_bytes()).expect("a message");
        assert!(message.conversation.is_group && message.is_in_at_list);
        assert_eq!(message.conversation.title.as_deref(), Some("测试群"));
        assert_eq!((message.words().as_str(), message.created_ms), ("你好", 1_774_080_994_334));
        assert_eq!((message.sender.staff_id, message.webhook), (None, None));
    }

    #[test]
    fn every_kind_of_message() {
        let rich = parse(
            r#""msgtype":"richText","content":{"richText":[
                {"type":"picture","downloadCode":"c1","pictureDownloadCode":"c2"},{"text":"\n"},{"text":"abc"}]}"#,
        );
        let parts =
            [RichPart::Picture("c1".into()), RichPart::Text("\n".into()), RichPart::Text("abc".into())];
        assert_eq!(rich.content, Content::Rich(parts.to_vec()));
        assert_eq!((rich.words().as_str(), rich.pictures()), ("abc", vec!["c1"]));
        let picture = parse(r#""msgtype":"picture","content":{"pictureDownloadCode":"c2"}"#);
        assert_eq!((picture.words().as_str(), picture.pictures()), ("", vec!["c2"]));
        for (rest, expected) in [
            (
                r#""msgtype":"file","content":{"downloadCode":"c","fileId":"1","fileName":"a.pdf","spaceId":"2"}"#,
                Content::File { name: "a.pdf".into(), code: "c".into() },
            ),
            (
                r#""msgtype":"audio","content":{"recognition":"明天的天气","downloadCode":"c","duration":4000}"#,
                Content::Voice { words: "明天的天气".into(), code: "c".into() },
            ),
            (
                r#""msgtype":"voice","content":"{\"recognition\":\"hi\",\"downloadCode\":\"c\"}""#,
                Content::Voice { words: "hi".into(), code: "c".into() },
            ),
            (
                r#""msgtype":"video","content":{"downloadCode":"c","videoType":"mp4"}"#,
                Content::Video("c".into()),
            ),
            (r#""msgtype":"chatRecord","content":{"summary":"x"}"#, Content::Unknown("chatRecord".into())),
            (r#""msgtype":"a b""#, Content::Unknown("unreadable".into())),
            (r#""msgtype":"text","text":"no object""#, Content::Text(String::new())),
            (r#""content":[]"#, Content::Unknown("unreadable".into())),
        ] {
            assert_eq!(parse(rest).content, expected, "{rest}");
        }
    }

    #[test]
    fn an_answer_to_another_message_quotes_it() {
        let quoted = |replied: &str| {
            parse(&format!(
                r#""msgtype":"text","text":{{"content":"why?","isReplyMsg":true,"repliedMsg":{replied}}}"#
            ))
            .quoted
        };
        let words = |text: &str| Some(Quoted { msg_id: "m1".into(), text: text.into() });
        assert_eq!(
            quoted(r#"{"msgType":"text","msgId":"m1","content":{"text":"because"}}"#),
            words("because")
        );
        assert_eq!(quoted(r#"{"msgType":"text","msgId":"m1","content":"because"}"#), words("because"));
        assert_eq!(
            quoted(
                r#"{"msgType":"richText","msgId":"m1","content":{"richText":[{"text":"a"},{"content":"b"}]}}"#
            ),
            words("ab")
        );
        assert_eq!(quoted(r#"{"msgType":"interactiveCard","msgId":"m1"}"#), words(""));
        assert_eq!(parse(r#""msgtype":"text","text":{"content":"x"}"#).quoted, None);
    }

    #[test]
    fn without_an_id_it_is_no_message() {
        for body in ["", "[]", "null", "{}", r#"{"msgId":""}"#, r#"{"msgId":5}"#, r#"{"msgtype":"text"}"#] {
            assert_eq!(Message::parse(body.as_bytes()), None, "{body}");
        }
        // What is not said to be between two may be read by others.
        assert!(Message::parse(br#"{"msgId":"m"}"#).is_some_and(|message| message.conversation.is_group));
        assert!(
            Message::parse(br#"{"msgId":"m","conversationType":1}"#)
                .is_some_and(|m| !m.conversation.is_group)
        );
    }

    #[cfg(not(target_arch = "wasm32"))]
    fn json() -> impl proptest::strategy::Strategy<Value = Value> {
        use proptest::prelude::*;
        let key = prop::sample::select(vec![
            "text",
            "content",
            "richText",
            "downloadCode",
            "repliedMsg",
            "msgtype",
            "senderId",
            "createAt",
            "conversationType",
            "sessionWebhook",
            "sessionWebhookExpiredTime",
            "isInAtList",
            "other",
        ]);
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            prop::sample::select(vec![
                "text", "richText", "picture", "file", "audio", "video", "1", "{}", ""
            ])
            .prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::vec((key.clone(), inner), 0..8).prop_map(|entries| {
                    Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
                }),
            ]
        })
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn whatever_is_in_it_a_message_keeps_its_id(mut value in json(), id in "[!-~]{1,40}") {
            if let Some(object) = value.as_object_mut() {
                object.insert("msgId".into(), id.clone().into());
                let message = Message::parse(value.to_string().as_bytes()).expect("a message");
                proptest::prop_assert_eq!(&message.msg_id, &id);
                let _ = (message.words(), message.pictures());
            } else {
                proptest::prop_assert_eq!(Message::parse(value.to_string().as_bytes()), None);
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = Message::parse(&bytes);
        }
    }
}
