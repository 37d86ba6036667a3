//! Subscribe messages: `POST /cgi-bin/message/subscribe/send` tells a person that a turn has come to
//! something, when the Mini Program is closed.
//!
//! One consent of a person is one message, so a message that WeChat may have sent is not sent again.
//! The openid and the access token go into the request and nowhere else. An answer's text has no
//! place in it: fields are a few characters, and the message lies on a locked screen.

use serde::Deserialize;

use super::{access_token::is_token_error, field, field::Kind, lenient_integer, push_query_value};
use crate::{
    policy::notify::{Notice, Part, Slot, Subscribe},
    wire::json,
};

/// The path, with the access token. [`request_body`] is its body.
pub(crate) fn path(token: &str) -> String {
    format!("/cgi-bin/message/subscribe/send?access_token={token}")
}

/// The body of the request to tell `openid` of a notice.
pub(crate) fn request_body(message: &Subscribe, notice: &Notice<'_>, openid: &str) -> String {
    let mut out = String::from("{");
    for (name, value) in [
        ("touser", openid),
        ("template_id", &message.template_id),
        ("page", &page(message, notice)),
        ("miniprogram_state", &message.state),
        ("lang", &message.lang),
    ] {
        if !value.is_empty() {
            out.push_str(&format!("{}:{},", json::string(name), json::string(value)));
        }
    }
    out.push_str("\"data\":{");
    for (at, (name, parts)) in message.data.iter().enumerate() {
        // The configuration's check lets no other name through.
        let kind = Kind::of(name).unwrap_or(Kind::Thing);
        let text: String = parts.iter().map(|part| words(part, kind, message, notice)).collect();
        let value = kind.fit(&text, notice.at_ms);
        let separator = if at == 0 { "" } else { "," };
        out.push_str(&format!("{separator}{}:{{\"value\":{}}}", json::string(name), json::string(&value)));
    }
    out.push_str("}}");
    out
}

/// The page that a tap opens. What is put into it is escaped: it stands in a query.
fn page(message: &Subscribe, notice: &Notice<'_>) -> String {
    let mut out = String::new();
    for part in &message.page {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Slot(Slot::RequestId) => push_query_value(&mut out, notice.request_id),
            Part::Slot(Slot::Intent) => push_query_value(&mut out, notice.intent),
            Part::Slot(Slot::State) => push_query_value(&mut out, notice.event.name()),
            // Neither belongs into an address, and the configuration's check says so.
            Part::Slot(Slot::Time | Slot::Title) => {}
        }
    }
    out
}

/// A part in the words of a field of that kind.
fn words(part: &Part, kind: Kind, message: &Subscribe, notice: &Notice<'_>) -> String {
    let slot = match part {
        Part::Text(text) => return text.clone(),
        Part::Slot(slot) => slot,
    };
    match slot {
        Slot::Intent => message.name_of(notice.intent).to_owned(),
        Slot::State => notice.event.in_chinese().to_owned(),
        Slot::Time => field::in_china(notice.at_ms, matches!(kind, Kind::Time | Kind::Date)),
        // A question of which nothing can be shown is named by what was asked for.
        Slot::Title => {
            let question = notice.question.map(str::trim).filter(|question| !question.is_empty());
            question.map_or_else(|| message.name_of(notice.intent), first_words).to_owned()
        }
        Slot::RequestId => notice.request_id.to_owned(),
    }
}

/// More than any field takes, and no more than that is looked at.
const FIRST_WORDS: usize = 64;

fn first_words(question: &str) -> &str {
    question.char_indices().nth(FIRST_WORDS).map_or(question, |(end, _)| &question[..end])
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// WeChat has it.
    Delivered,
    /// The person has not consented, or the consent is used up. That is nobody's error, and final.
    NotSubscribed,
    /// Not now: again after so many milliseconds.
    Again {
        /// Milliseconds.
        after_ms: u64,
        /// WeChat's, where it gave one.
        errcode: Option<i64>,
    },
    /// The access token is over: fetch one and send again, once.
    TokenStale,
    /// The template, its fields, its page or the app itself: an operator must act. WeChat's `errcode`.
    Misconfigured(i64),
    /// This message to this person is refused for good. WeChat's `errcode`.
    Refused(i64),
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "lenient_integer")]
    errcode: Option<i64>,
}

/// What WeChat's answer means. From its documentation of the call (2026-07) and its list of general
/// codes.
pub(crate) fn sent(status: u16, body: &[u8]) -> Sent {
    let answer = serde_json::from_slice::<Answer>(body).ok().filter(|_| status == 200);
    let Some(errcode) = answer.and_then(|answer| answer.errcode) else {
        return Sent::Again { after_ms: 10_000, errcode: None };
    };
    let again = |after_ms| Sent::Again { after_ms, errcode: Some(errcode) };
    match errcode {
        0 => Sent::Delivered,
        code if is_token_error(code) => Sent::TokenStale,
        43101 => Sent::NotSubscribed,
        // Another message to the same person is on its way.
        43108 => again(2_000),
        // WeChat is busy.
        -1 => again(5_000),
        // Calls of a minute; calls of a day.
        45011 => again(60_000),
        45009 => again(3_600_000),
        // The person's openid; a word that WeChat does not let through.
        40003 | 45168 => Sent::Refused(errcode),
        // The app's id, its template, the page, whether it may send at all, the fields' form.
        code => Sent::Misconfigured(code),
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::notify::Event;

    fn notice<'a>(question: Option<&'a str>) -> Notice<'a> {
        Notice {
            event: Event::Done,
            at_ms: 1_763_740_800_000,
            request_id: "req_1 2",
            trace_id: "t",
            intent: "summarize",
            profile: "p",
            subject: "s",
            code: None,
            approval: None,
            question,
        }
    }

    fn message(data: &[(&str, Vec<Part>)]) -> Subscribe {
        Subscribe {
            template_id: "T-1".into(),
            page: vec![Part::Text("pages/job/job?id=".into()), Part::Slot(Slot::RequestId)],
            state: "formal".into(),
            lang: "zh_CN".into(),
            events: vec![Event::Done],
            names: vec![("summarize".into(), "文章总结".into())],
            data: data.iter().map(|(name, parts)| ((*name).to_owned(), parts.clone())).collect(),
        }
    }

    #[test]
    fn the_request_is_the_documented_one() {
        let slot = |slot| vec![Part::Slot(slot)];
        let message = message(&[
            ("thing1", slot(Slot::Intent)),
            ("phrase2", slot(Slot::State)),
            ("time3", slot(Slot::Time)),
            ("character_string4", slot(Slot::RequestId)),
            ("thing5", vec![Part::Text("问：".into()), Part::Slot(Slot::Title)]),
            ("thing6", slot(Slot::Time)),
        ]);
        assert_eq!(
            request_body(&message, &notice(Some("How do I\nmake \"this\" work?")), "o\"1"),
            concat!(
                r#"{"touser":"o\"1","template_id":"T-1","page":"pages/job/job?id=req_1%202","miniprogram_state":"formal","#,
                r#""lang":"zh_CN","data":{"thing1":{"value":"文章总结"},"phrase2":{"value":"已完成"},"#,
                r#""time3":{"value":"2025年11月22日 00:00"},"character_string4":{"value":"req_1-2"},"#,
                r#""thing5":{"value":"问：How do I make \"th…"},"thing6":{"value":"2025-11-22 00:00"}}}"#
            )
        );
        assert_eq!(path("TOKEN"), "/cgi-bin/message/subscribe/send?access_token=TOKEN");
    }

    #[test]
    fn a_message_without_a_page_or_a_question_has_neither() {
        let mut message = message(&[("thing1", vec![Part::Slot(Slot::Title)])]);
        message.page.clear();
        for question in [None, Some(" \n")] {
            let body = request_body(&message, &notice(question), "o1");
            assert!(!body.contains("page") && body.contains(r#""thing1":{"value":"文章总结"}"#), "{body}");
        }
        let other = Notice { intent: "翻译", ..notice(None) };
        assert!(request_body(&message, &other, "o1").contains(r#"{"value":"翻译"}"#));
    }

    #[test]
    fn every_errcode_has_its_meaning() {
        for (errcode, expected) in [
            (0, Sent::Delivered),
            (40001, Sent::TokenStale),
            (40014, Sent::TokenStale),
            (42001, Sent::TokenStale),
            (43101, Sent::NotSubscribed),
            (43108, Sent::Again { after_ms: 2_000, errcode: Some(43108) }),
            (-1, Sent::Again { after_ms: 5_000, errcode: Some(-1) }),
            (45011, Sent::Again { after_ms: 60_000, errcode: Some(45011) }),
            (45009, Sent::Again { after_ms: 3_600_000, errcode: Some(45009) }),
            (40003, Sent::Refused(40003)),
            (45168, Sent::Refused(45168)),
            (40037, Sent::Misconfigured(40037)),
            (41030, Sent::Misconfigured(41030)),
            (43107, Sent::Misconfigured(43107)),
            (47003, Sent::Misconfigured(47003)),
            (40013, Sent::Misconfigured(40013)),
            (48001, Sent::Misconfigured(48001)),
        ] {
            for text in [errcode.to_string(), format!("\"{errcode}\"")] {
                let body = format!(r#"{{"errcode":{text},"errmsg":"…"}}"#);
                assert_eq!(sent(200, body.as_bytes()), expected, "{errcode}");
            }
        }
        for body in ["", "{}", "[]", "<html>", r#"{"errcode":null}"#] {
            assert_eq!(sent(200, body.as_bytes()), Sent::Again { after_ms: 10_000, errcode: None }, "{body}");
        }
        assert_eq!(sent(502, br#"{"errcode":0}"#), Sent::Again { after_ms: 10_000, errcode: None });
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn whatever_was_asked_the_message_is_one_that_wechat_takes(question in ".{0,200}", id in "\\PC{0,40}") {
            use super::super::field::{KINDS, tests::fits};
            let data: Vec<(String, Vec<Part>)> = KINDS
                .iter()
                .map(|(name, _)| (format!("{name}1"), Slot::ALL.iter().map(|(_, slot)| Part::Slot(*slot)).collect()))
                .collect();
            let message = Subscribe { data, ..message(&[]) };
            let notice = Notice { request_id: &id, ..notice(Some(&question)) };
            let body: serde_json::Value =
                serde_json::from_str(&request_body(&message, &notice, "o1")).expect("json");
            for (name, kind) in KINDS {
                let value = body["data"][format!("{name}1")]["value"].as_str().expect("a value");
                proptest::prop_assert!(fits(kind, value), "{}: {:?}", name, value);
            }
            proptest::prop_assert!(body["page"].as_str().expect("a page").is_ascii());
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            proptest::prop_assert_eq!(sent(200, &bytes), Sent::Again { after_ms: 10_000, errcode: None });
        }
    }
}
