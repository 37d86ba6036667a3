//! Replies: by the session webhook that came with a message, and by the API where it is over.
//!
//! A session webhook comes out of a body that a signature does not cover, so nothing is sent to it
//! that is not DingTalk's own address for it. What became of a message is in the answer's body there,
//! whatever the status; the API says it by the status.

use serde_json::Value;

use super::{OAPI, code, is_temporary, split, text};
use crate::wire::json;

/// What a session webhook begins with, after the origin.
const SESSION: &str = "/robot/sendBySession?session=";
/// The longest that is taken for one.
const LONGEST: usize = 1_024;
/// A webhook that ends so soon is not used any more, in milliseconds.
const ENDS: u64 = 10_000;

/// The path of a session webhook at [`OAPI`]; `None` when it is not DingTalk's or is over.
pub(crate) fn webhook_path(url: &str, expires_ms: u64, now_ms: u64) -> Option<&str> {
    let path = url.strip_prefix(OAPI)?;
    let session = path.strip_prefix(SESSION)?;
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~%=+/".contains(&byte);
    let valid = !session.is_empty() && url.len() <= LONGEST && session.bytes().all(allowed);
    (valid && now_ms.saturating_add(ENDS) < expires_ms).then_some(path)
}

/// Which people a message in a group is addressed to, by their `senderStaffId`.
fn at(staff_ids: &[&str]) -> String {
    let ids: Vec<String> = staff_ids.iter().map(|id| json::string(id)).collect();
    format!("\"at\":{{\"atUserIds\":[{}],\"isAtAll\":false}}", ids.join(","))
}

/// DingTalk addresses only those who are named in the words too. A code block's end stands alone in its line:
/// with a name behind it, it would be none, and the block would go on to the end.
fn named(words: &str, staff_ids: &[&str]) -> String {
    let mut words = words.to_owned();
    for id in staff_ids.iter().filter(|id| !words_name(&words, id)).collect::<Vec<_>>() {
        words.push(if split::ends_in_fence(&words) { '\n' } else { ' ' });
        words.push_str(&format!("@{id}"));
    }
    words
}

fn words_name(words: &str, id: &str) -> bool {
    words.match_indices('@').any(|(at, _)| {
        let after = words.get(at + 1..).and_then(|rest| rest.strip_prefix(id));
        after.is_some_and(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
    })
}

/// The most characters that [`text_body`] and [`markdown_body`] add for people: for the limit of
/// [`pieces`](super::split::pieces).
pub(crate) fn mention_length(staff_ids: &[&str]) -> usize {
    staff_ids.iter().map(|id| id.chars().count() + 2).sum()
}

/// The body of a plain message by webhook.
pub(crate) fn text_body(words: &str, staff_ids: &[&str]) -> String {
    let words = json::string(&named(words, staff_ids));
    format!("{{\"msgtype\":\"text\",\"text\":{{\"content\":{words}}},{}}}", at(staff_ids))
}

/// The body of a message in Markdown by webhook. The title is what a locked screen shows.
pub(crate) fn markdown_body(title: &str, words: &str, staff_ids: &[&str]) -> String {
    format!(
        "{{\"msgtype\":\"markdown\",\"markdown\":{{\"title\":{},\"text\":{}}},{}}}",
        json::string(title),
        json::string(&named(words, staff_ids)),
        at(staff_ids)
    )
}

/// The path for a message to a person, by the API.
pub(crate) const TO_PERSON: &str = "/v1.0/robot/oToMessages/batchSend";
/// The path for a message to a group, by the API.
pub(crate) const TO_GROUP: &str = "/v1.0/robot/groupMessages/send";

/// To whom the API sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To<'a> {
    /// A person, by `senderStaffId`.
    Person(&'a str),
    /// A group, by `conversationId`.
    Group(&'a str),
}

impl To<'_> {
    /// The path of the request.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Person(_) => TO_PERSON,
            Self::Group(_) => TO_GROUP,
        }
    }
}

/// The body of a message by the API, in Markdown where it has a title, else plain; its header is
/// [`TOKEN_HEADER`](super::TOKEN_HEADER). It addresses nobody: the API cannot.
pub(crate) fn api_body(robot_code: &str, to: To<'_>, title: Option<&str>, words: &str) -> String {
    let words = json::string(words);
    let (key, param) = match title {
        Some(title) => ("sampleMarkdown", format!("{{\"title\":{},\"text\":{words}}}", json::string(title))),
        None => ("sampleText", format!("{{\"content\":{words}}}")),
    };
    let to = match to {
        To::Person(id) => format!("\"userIds\":[{}]", json::string(id)),
        To::Group(id) => format!("\"openConversationId\":{}", json::string(id)),
    };
    format!(
        "{{\"robotCode\":{},{to},\"msgKey\":\"{key}\",\"msgParam\":{}}}",
        json::string(robot_code),
        json::string(&param)
    )
}

/// A title out of an answer: its first line with words, without the marks of Markdown.
pub(crate) fn title(words: &str, otherwise: &str) -> String {
    const LONGEST_TITLE: usize = 20;
    let line =
        words.lines().map(|line| line.trim_matches(|c: char| c.is_whitespace() || "#*>-`~_|".contains(c)));
    let title: String = line
        .into_iter()
        .find(|line| !line.is_empty())
        .unwrap_or(otherwise)
        .chars()
        .take(LONGEST_TITLE)
        .collect();
    title.trim().to_owned()
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// DingTalk has it.
    Delivered,
    /// The session webhook is over: by the API then.
    Expired,
    /// The access token is over: fetch one and send again, once.
    TokenStale,
    /// Too many for now: again after so many milliseconds, or by the other way.
    TooFast {
        /// Milliseconds.
        after_ms: u64,
    },
    /// DingTalk failed, or says nothing: again.
    Again,
    /// A permission, the robot's code, its address: an operator must act. DingTalk's code.
    Misconfigured(String),
    /// This message, or this person, is refused for good. DingTalk's code.
    Refused(String),
}

/// A robot that sent 20 messages in a minute to one group is throttled for ten minutes (130101, by
/// DingTalk's page on custom robots).
const THROTTLED_MS: u64 = 600_000;
/// After a limit of calls per second the official connector waits so long.
const QPS_MS: u64 = 2_000;

/// What the answer of a session webhook means. Nothing but an error is looked for: an answer to what
/// was sent is of different forms, and a message that is sent twice is worse than one that is lost.
pub(crate) fn by_webhook(status: u16, body: &[u8]) -> Sent {
    let answer = serde_json::from_slice::<Value>(body).ok().filter(Value::is_object);
    let Some(answer) = answer.filter(|_| status == 200) else {
        return by_status(status, &Value::Null);
    };
    let errcode = answer.get("errcode");
    let errcode = errcode.and_then(|code| code.as_i64().or_else(|| code.as_str()?.trim().parse().ok()));
    match errcode {
        Some(0) => Sent::Delivered,
        // "session 不存在"
        Some(300_001) => Sent::Expired,
        Some(130_101) => Sent::TooFast { after_ms: THROTTLED_MS },
        Some(-1) => Sent::Again,
        Some(errcode) => Sent::Refused(errcode.to_string()),
        None if answer.get("success").and_then(Value::as_bool) == Some(false) => {
            Sent::Refused("unreadable".into())
        }
        None => match text(&answer, "code").filter(|code| *code != "0") {
            Some(found) => Sent::Refused(code(found)),
            None => Sent::Delivered,
        },
    }
}

/// What the answer of the API means, for messages and for cards.
pub(crate) fn by_api(status: u16, body: &[u8]) -> Sent {
    let answer = serde_json::from_slice::<Value>(body).unwrap_or_default();
    if status != 200 {
        return by_status(status, &answer);
    }
    let is_listed =
        |key: &str| answer.get(key).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    if is_listed("flowControlledStaffIdList") {
        return Sent::TooFast { after_ms: QPS_MS };
    }
    if is_listed("invalidStaffIdList") {
        return Sent::Refused("invalidStaffId".into());
    }
    Sent::Delivered
}

fn by_status(status: u16, answer: &Value) -> Sent {
    let found = code(text(answer, "code").unwrap_or_default());
    match status {
        408 => Sent::Again,
        _ if is_temporary(status, Some(&found)) => Sent::TooFast { after_ms: QPS_MS },
        401 => Sent::TokenStale,
        400 | 403 if found.starts_with("InvalidAuthentication") => Sent::TokenStale,
        400 if found.starts_with("invalidParameter.robotCode") => Sent::Misconfigured(found),
        403 | 404 => Sent::Misconfigured(found),
        400..=499 => Sent::Refused(found),
        _ => Sent::Again,
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn only_dingtalks_own_address_is_answered_to() {
        let path = |url: &'static str| webhook_path(url, 100_000, 0);
        assert_eq!(
            path("https://oapi.dingtalk.com/robot/sendBySession?session=3dc9981636af"),
            Some("/robot/sendBySession?session=3dc9981636af")
        );
        for other in [
            "",
            "http://oapi.dingtalk.com/robot/sendBySession?session=a",
            "https://oapi.dingtalk.com.evil.example/robot/sendBySession?session=a",
            "https://oapi.dingtalk.com@evil.example/robot/sendBySession?session=a",
            "https://oapi.dingtalk.com:444/robot/sendBySession?session=a",
            "https://OAPI.dingtalk.com/robot/sendBySession?session=a",
            "https://api.dingtalk.com/robot/sendBySession?session=a",
            "https://oapi.dingtalk.com/robot/send?access_token=a",
            "https://oapi.dingtalk.com/robot/../gettoken?session=a",
            "https://oapi.dingtalk.com/robot/sendBySession?session=",
            "https://oapi.dingtalk.com/robot/sendBySession?session=a&x=b",
            "https://oapi.dingtalk.com/robot/sendBySession?session=a#b",
            "https://oapi.dingtalk.com/robot/sendBySession?session=a b",
            "https://oapi.dingtalk.com/robot/sendBySession?session=a\r\nhost: x",
        ] {
            assert_eq!(path(other), None, "{other}");
        }
        let url = "https://oapi.dingtalk.com/robot/sendBySession?session=a";
        assert!(webhook_path(url, 10_001, 0).is_some());
        assert!(webhook_path(url, 10_000, 0).is_none() && webhook_path(url, 0, 5).is_none());
        assert!(webhook_path(url, u64::MAX, u64::MAX).is_none());
    }

    #[test]
    fn bodies_are_the_documented_ones() {
        assert_eq!(
            text_body("hi \"you\"", &[]),
            r#"{"msgtype":"text","text":{"content":"hi \"you\""},"at":{"atUserIds":[],"isAtAll":false}}"#
        );
        assert_eq!(
            markdown_body("答复", "# A\nb", &["0326"]),
            "{\"msgtype\":\"markdown\",\"markdown\":{\"title\":\"答复\",\"text\":\"# A\\nb @0326\"},\"at\":{\"atUserIds\":[\"0326\"],\"isAtAll\":false}}"
        );
        // Who is named already is not named again, and a longer id is another person's.
        assert!(text_body("@0326 hi", &["0326"]).contains(r#""content":"@0326 hi""#));
        assert!(text_body("@03261 hi", &["0326"]).contains(r#""content":"@03261 hi @0326""#));
        assert_eq!(mention_length(&["0326", "a"]), " @0326 @a".len());
        assert_eq!(
            api_body("ding1", To::Person("0326"), Some("t"), "a\"b"),
            r#"{"robotCode":"ding1","userIds":["0326"],"msgKey":"sampleMarkdown","msgParam":"{\"title\":\"t\",\"text\":\"a\\\"b\"}"}"#
        );
        assert_eq!(
            api_body("ding1", To::Person("0326"), None, "a\"b"),
            r#"{"robotCode":"ding1","userIds":["0326"],"msgKey":"sampleText","msgParam":"{\"content\":\"a\\\"b\"}"}"#
        );
        let group = api_body("ding1", To::Group("cid="), Some("t"), "x");
        assert!(group.contains(r#""openConversationId":"cid=""#) && !group.contains("userIds"));
        assert_eq!((To::Person("").path(), To::Group("").path()), (TO_PERSON, TO_GROUP));
    }

    #[test]
    fn a_name_does_not_open_a_code_block_again() {
        for (words, expected) in [
            ("```\ncode\n```", "```\ncode\n```\n@0326 @a"),
            ("~~~~ sh\ncode\n  ~~~~ ", "~~~~ sh\ncode\n  ~~~~ \n@0326 @a"),
            ("```\ncode\n```\n", "```\ncode\n```\n @0326 @a"),
            ("```\ncode\n```\nso", "```\ncode\n```\nso @0326 @a"),
            ("`code`", "`code` @0326 @a"),
        ] {
            let named = named(words, &["0326", "a"]);
            assert_eq!(named, expected);
            assert!(split::is_balanced(&named), "{named}");
            assert_eq!(named.len(), words.len() + mention_length(&["0326", "a"]));
        }
    }

    #[test]
    fn a_title_is_the_first_words() {
        assert_eq!(title("\n## **Hello** there\nmore", "答复"), "Hello** there");
        assert_eq!(title("```\n---\n", "答复"), "答复");
        assert_eq!(title(&"字".repeat(30), "x"), "字".repeat(20));
    }

    #[test]
    fn a_webhook_says_what_happened_in_its_body() {
        for (body, expected) in [
            (r#"{"errcode":0,"errmsg":"ok"}"#, Sent::Delivered),
            (r#"{"errcode":"0"}"#, Sent::Delivered),
            (r#"{"processQueryKey":"x"}"#, Sent::Delivered),
            ("{}", Sent::Delivered),
            (r#"{"errcode":300001,"errmsg":"session 不存在"}"#, Sent::Expired),
            (r#"{"errcode":130101,"errmsg":"send too fast"}"#, Sent::TooFast { after_ms: 600_000 }),
            (r#"{"errcode":-1,"errmsg":"系统繁忙"}"#, Sent::Again),
            (r#"{"errcode":310000,"errmsg":"keywords not in content"}"#, Sent::Refused("310000".into())),
            (r#"{"success":false}"#, Sent::Refused("unreadable".into())),
            (r#"{"code":"param.error"}"#, Sent::Refused("param.error".into())),
            (r#"{"code":"two words"}"#, Sent::Refused("unreadable".into())),
            ("", Sent::Again),
            ("[]", Sent::Again),
        ] {
            assert_eq!(by_webhook(200, body.as_bytes()), expected, "{body}");
        }
        assert_eq!(by_webhook(502, b"{}"), Sent::Again);
        assert_eq!(by_webhook(429, b"{}"), Sent::TooFast { after_ms: 2_000 });
    }

    #[test]
    fn the_api_says_it_by_its_status() {
        let coded = |status, code: &str| {
            by_api(status, format!(r#"{{"code":"{code}","message":"m","requestid":"r"}}"#).as_bytes())
        };
        for (status, code, expected) in [
            (403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", Sent::TooFast { after_ms: 2_000 }),
            (429, "x", Sent::TooFast { after_ms: 2_000 }),
            (408, "x", Sent::Again),
            (401, "InvalidAuthentication", Sent::TokenStale),
            (400, "InvalidAuthentication.Token", Sent::TokenStale),
            (
                403,
                "Forbidden.AccessDenied.AccessTokenPermissionDenied",
                Sent::Misconfigured("Forbidden.AccessDenied.AccessTokenPermissionDenied".into()),
            ),
            (
                400,
                "invalidParameter.robotCode.empty",
                Sent::Misconfigured("invalidParameter.robotCode.empty".into()),
            ),
            (404, "InvalidAction.NotFound", Sent::Misconfigured("InvalidAction.NotFound".into())),
            (
                400,
                "invalidParameter.userIds.invalid",
                Sent::Refused("invalidParameter.userIds.invalid".into()),
            ),
            (500, "ServiceUnavailable", Sent::Again),
        ] {
            assert_eq!(coded(status, code), expected, "{status} {code}");
        }
        assert_eq!(by_api(200, br#"{"processQueryKey":"k","invalidStaffIdList":[]}"#), Sent::Delivered);
        assert_eq!(by_api(200, br#"{"invalidStaffIdList":["1"]}"#), Sent::Refused("invalidStaffId".into()));
        assert_eq!(by_api(200, br#"{"flowControlledStaffIdList":["1"]}"#), Sent::TooFast { after_ms: 2_000 });
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_bytes_are_answered(status: u16, bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = (by_webhook(status, &bytes), by_api(status, &bytes));
        }

        #[test]
        fn no_name_opens_a_code_block_again(
            lines in proptest::collection::vec("[`~]{0,5}[a-z ]{0,4}", 0..20),
            id in "[0-9a-zA-Z]{1,12}",
        ) {
            let text = lines.join("\n");
            for piece in split::pieces(&text, 200) {
                let named = named(&piece.render(), &[&id]);
                proptest::prop_assert!(split::is_balanced(&named), "{:?}", named);
            }
        }

        #[test]
        fn bodies_are_json_whatever_is_said(words in "\\PC{0,80}", id in "[0-9a-zA-Z]{1,12}") {
            let body: Value = serde_json::from_str(&markdown_body("t", &words, &[&id])).expect("json");
            let text = body["markdown"]["text"].as_str().expect("a text");
            let fits = text.starts_with(&words) && text.contains(&format!("@{id}"));
            proptest::prop_assert!(fits && text.chars().count() <= words.chars().count() + mention_length(&[&id]));
            let body: Value = serde_json::from_str(&api_body("r", To::Group("c"), Some("t"), &words)).expect("json");
            let param: Value = serde_json::from_str(body["msgParam"].as_str().expect("a text")).expect("json");
            proptest::prop_assert_eq!(param["text"].as_str(), Some(words.as_str()));
        }
    }
}
