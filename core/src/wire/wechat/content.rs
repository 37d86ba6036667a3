//! Content checks: whether WeChat holds a text or a picture fit to be shown.
//!
//! WeChat takes 2,500 characters at a time, so a long text is checked in pieces. Nothing
//! may pass here by accident: an answer that says nothing is a fault, a verdict that is
//! not known is one for a person to look at, and "pass" counts only without an error
//! beside it. What a fault means for a message is decided by the caller.

use serde::{Deserialize, Serialize};

use super::{access_token::is_token_error, is_name, lenient_integer};
use crate::wire::json;

/// The characters that WeChat checks in one call.
pub(crate) const MAX_CHARS: usize = 2_500;

/// How far back from the limit a better place to cut is looked for, in characters.
const LOOK_BACK: usize = 200;

/// Where a text appears, as WeChat divides it: 1 profile, 2 comment, 3 forum, 4 social log. A
/// conversation comes nearest to the last.
const SCENE: u8 = 4;

/// Cuts a text into pieces of at most `max_chars` characters, after a sentence or a space
/// where there is one near the limit: a word that is cut in two is not recognized.
/// Together the pieces are the text; none is empty.
pub(crate) fn pieces(text: &str, max_chars: usize) -> impl Iterator<Item = &str> {
    let mut rest = text;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (piece, after) = rest.split_at(cut(rest, max_chars.max(1)));
        rest = after;
        Some(piece)
    })
}

/// The length of the first piece in bytes: more than none, and at a character's boundary.
fn cut(text: &str, max_chars: usize) -> usize {
    let Some((limit, _)) = text.char_indices().nth(max_chars) else { return text.len() };
    // Of a short piece at most half is given up.
    let near = text[..limit].char_indices().rev().take(LOOK_BACK.min(max_chars / 2));
    let mut space = None;
    for (at, char) in near {
        let end = at + char.len_utf8();
        if matches!(char, '\n' | '。' | '！' | '？' | '；' | '…' | '!' | '?' | ';') {
            return end;
        }
        if char.is_whitespace() {
            space = space.or(Some(end));
        }
    }
    space.unwrap_or(limit)
}

/// The body of `POST /wxa/msg_sec_check`, version 2. `openid` is whose text it is, or who
/// will read it; they must have been in the Mini Program within two hours.
pub(crate) fn request_body(content: &str, openid: &str) -> String {
    format!(
        r#"{{"content":{},"version":2,"scene":{SCENE},"openid":{}}}"#,
        json::string(content),
        json::string(openid)
    )
}

/// The bytes of the largest picture that WeChat checks: 10 MB.
pub(crate) const MAX_PICTURE: u64 = 10_000_000;

/// The body of `POST /wxa/media_check_async` for a picture, version 2. WeChat downloads it
/// from `url` and pushes the verdict here within 30 minutes.
pub(crate) fn media_request_body(url: &str, openid: &str) -> String {
    format!(
        r#"{{"media_url":{},"media_type":2,"version":2,"scene":{SCENE},"openid":{}}}"#,
        json::string(url),
        json::string(openid)
    )
}

/// What WeChat suggests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Suggest {
    /// Show it.
    Pass,
    /// A person should look at it.
    Review,
    /// Do not show it.
    Risky,
}

/// WeChat's verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Verdict {
    /// What decides.
    pub suggest: Suggest,
    /// Why: 100 normal, 20001 politics, 20002 pornography, … 0 when WeChat does not say.
    pub label: u32,
    /// How WeChat finds the check again.
    pub trace_id: String,
}

/// Why there is no verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CheckFault {
    /// The access token is over: fetch one and check again.
    Token,
    /// The user was not in the Mini Program within two hours: check again when they come.
    NotSeen,
    /// A limit of calls is reached.
    Quota,
    /// The picture was handed in before: its verdict comes for the first request.
    Repeated,
    /// WeChat could not download the picture.
    NotDownloaded,
    /// WeChat refuses the request itself, by this `errcode`.
    BadRequest(i64),
    /// WeChat failed, or its answer says nothing.
    Unavailable,
}

/// WeChat's answer to a check, and its event about a picture. `detail` is not read: the
/// result is made of it.
#[derive(Deserialize)]
struct Answer {
    #[serde(default, deserialize_with = "lenient_integer")]
    errcode: Option<i64>,
    #[serde(default)]
    trace_id: Option<String>,
    #[serde(default)]
    result: Option<Outcome>,
    #[serde(default, rename = "Event")]
    event: Option<String>,
}

#[derive(Deserialize)]
struct Outcome {
    #[serde(default)]
    suggest: Option<String>,
    #[serde(default, deserialize_with = "lenient_integer")]
    label: Option<i64>,
}

impl Answer {
    fn read(status: u16, body: &[u8]) -> Result<Self, CheckFault> {
        let answer = serde_json::from_slice(body).ok().filter(|_| status == 200);
        answer.ok_or(CheckFault::Unavailable)
    }

    fn verdict(self) -> Result<Verdict, CheckFault> {
        let fault = fault(self.errcode);
        let outcome = self.result.and_then(|result| Some((result.suggest?, result.label)));
        let Some((suggest, label)) = outcome else {
            return Err(fault.unwrap_or(CheckFault::Unavailable));
        };
        let suggest = match suggest.as_str() {
            "pass" => fault.map_or(Ok(Suggest::Pass), Err)?,
            "risky" => Suggest::Risky,
            _ => Suggest::Review,
        };
        let label = label.and_then(|label| u32::try_from(label).ok()).unwrap_or_default();
        Ok(Verdict { suggest, label, trace_id: self.trace_id.unwrap_or_default() })
    }
}

/// What an `errcode` means here; `None` is no error. From WeChat's documentation of the calls.
pub(super) fn fault(errcode: Option<i64>) -> Option<CheckFault> {
    Some(match errcode? {
        0 => return None,
        code if is_token_error(code) => CheckFault::Token,
        61010 => CheckFault::NotSeen,
        44991 | 45009 | 45011 => CheckFault::Quota,
        87020 => CheckFault::Repeated,
        -1008 => CheckFault::NotDownloaded,
        -1 => CheckFault::Unavailable,
        code => CheckFault::BadRequest(code),
    })
}

/// The verdict in the answer to [`request_body`].
pub(crate) fn verdict(status: u16, body: &[u8]) -> Result<Verdict, CheckFault> {
    Answer::read(status, body)?.verdict()
}

/// Whether a text can be a trace id: it becomes a part of a store's key.
fn is_trace_id(text: &str) -> bool {
    is_name(text, 128)
}

/// The trace id in the answer to [`media_request_body`]: the verdict comes under it.
pub(crate) fn media_accepted(status: u16, body: &[u8]) -> Result<String, CheckFault> {
    let answer = Answer::read(status, body)?;
    match fault(answer.errcode) {
        Some(fault) => Err(fault),
        None => answer.trace_id.filter(|id| is_trace_id(id)).ok_or(CheckFault::Unavailable),
    }
}

/// What became of a picture's check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MediaEvent {
    /// Of which check, by [`media_accepted`].
    pub trace_id: String,
    /// The verdict.
    pub verdict: Result<Verdict, CheckFault>,
}

/// The pushed event `wxa_media_check`. `None` is another event, or none.
pub(crate) fn media_event(message: &[u8]) -> Option<MediaEvent> {
    let answer = Answer::read(200, message).ok()?;
    if answer.event.as_deref() != Some("wxa_media_check") {
        return None;
    }
    let trace_id = answer.trace_id.clone().filter(|id| is_trace_id(id))?;
    Some(MediaEvent { trace_id, verdict: answer.verdict() })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn cut_up(text: &str, max: usize) -> Vec<&str> {
        pieces(text, max).collect()
    }

    #[test]
    fn a_short_text_is_one_piece_and_no_text_is_none() {
        assert_eq!(cut_up("", 10), Vec::<&str>::new());
        assert_eq!(cut_up("0123456789", 10), ["0123456789"]);
        let full = "字".repeat(MAX_CHARS);
        assert_eq!(cut_up(&full, MAX_CHARS), [full.as_str()]);
        let more = format!("{full}字");
        assert_eq!(cut_up(&more, MAX_CHARS), [full.as_str(), "字"]);
    }

    #[test]
    fn a_cut_is_after_a_sentence_or_else_a_space() {
        assert_eq!(cut_up("一二三四五。七八九 十甲", 10), ["一二三四五。", "七八九 十甲"]);
        assert_eq!(cut_up("ab cdef gh ijkl", 10), ["ab cdef ", "gh ijkl"]);
        assert_eq!(cut_up("a. bcdefghijklm", 10), ["a. bcdefgh", "ijklm"]);
        assert_eq!(cut_up("😀😀😀", 1), ["😀", "😀", "😀"]);
        assert_eq!(cut_up("ab", 0), ["a", "b"]);
    }

    #[test]
    fn only_the_last_two_hundred_characters_are_looked_at() {
        let early = format!("{}。{}", "字".repeat(2_299), "字".repeat(300));
        assert_eq!(pieces(&early, MAX_CHARS).next().map(|piece| piece.chars().count()), Some(2_500));
        let late = format!("{}。{}", "字".repeat(2_300), "字".repeat(300));
        assert_eq!(pieces(&late, MAX_CHARS).next().map(|piece| piece.chars().count()), Some(2_301));
    }

    #[test]
    fn bodies_are_json_with_the_text_as_it_is() {
        let body = request_body("引\"号\n", "o1");
        assert_eq!(body, r#"{"content":"引\"号\n","version":2,"scene":4,"openid":"o1"}"#);
        let body: serde_json::Value =
            serde_json::from_str(&media_request_body("https://h/a?b=\"", "o1")).expect("json");
        let expected = serde_json::json!({
            "media_url": "https://h/a?b=\"", "media_type": 2, "version": 2, "scene": 4, "openid": "o1",
        });
        assert_eq!(body, expected);
    }

    fn suggested(body: &str) -> Result<(Suggest, u32), CheckFault> {
        verdict(200, body.as_bytes()).map(|verdict| (verdict.suggest, verdict.label))
    }

    #[test]
    fn the_result_decides() {
        let whole = r#"{"errcode":0,"errmsg":"ok","trace_id":"t-1","result":{"suggest":"risky","label":20001},
            "detail":[{"strategy":"content_model","errcode":0,"suggest":"pass","label":100,"prob":90}]}"#;
        let expected = Verdict { suggest: Suggest::Risky, label: 20_001, trace_id: "t-1".into() };
        assert_eq!(verdict(200, whole.as_bytes()), Ok(expected));
        for (result, expected) in [
            (r#"{"suggest":"pass","label":100}"#, (Suggest::Pass, 100)),
            (r#"{"suggest":"pass","label":"100"}"#, (Suggest::Pass, 100)),
            (r#"{"suggest":"review","label":"x"}"#, (Suggest::Review, 0)),
            (r#"{"suggest":"review","label":-5}"#, (Suggest::Review, 0)),
            (r#"{"suggest":"something new"}"#, (Suggest::Review, 0)),
        ] {
            assert_eq!(suggested(&format!(r#"{{"result":{result}}}"#)), Ok(expected), "{result}");
            let counted = format!(r#"{{"errcode":"0","result":{result}}}"#);
            assert_eq!(suggested(&counted), Ok(expected), "{result}");
        }
    }

    #[test]
    fn a_pass_beside_an_error_is_no_pass() {
        let answer = |suggest| format!(r#"{{"errcode":45009,"result":{{"suggest":"{suggest}","label":1}}}}"#);
        assert_eq!(suggested(&answer("pass")), Err(CheckFault::Quota));
        assert_eq!(suggested(&answer("risky")), Ok((Suggest::Risky, 1)));
    }

    #[test]
    fn every_documented_errcode_has_its_meaning() {
        for (errcode, fault) in [
            (40001, CheckFault::Token),
            (40014, CheckFault::Token),
            (42001, CheckFault::Token),
            (61010, CheckFault::NotSeen),
            (44991, CheckFault::Quota),
            (45009, CheckFault::Quota),
            (45011, CheckFault::Quota),
            (40003, CheckFault::BadRequest(40003)),
            (40129, CheckFault::BadRequest(40129)),
            (43104, CheckFault::BadRequest(43104)),
            (47001, CheckFault::BadRequest(47001)),
            (87020, CheckFault::Repeated),
            (-1008, CheckFault::NotDownloaded),
            (-1, CheckFault::Unavailable),
        ] {
            let body = format!(r#"{{"errcode":{errcode},"errmsg":"…","trace_id":"t"}}"#);
            assert_eq!(suggested(&body), Err(fault), "{errcode}");
            assert_eq!(media_accepted(200, body.as_bytes()), Err(fault), "{errcode}");
        }
    }

    #[test]
    fn an_answer_that_says_nothing_is_a_fault() {
        for body in ["", "[]", "{}", r#"{"errcode":0}"#, r#"{"result":{}}"#, r#"{"result":{"label":100}}"#] {
            assert_eq!(suggested(body), Err(CheckFault::Unavailable), "{body}");
            assert_eq!(media_accepted(200, body.as_bytes()), Err(CheckFault::Unavailable), "{body}");
        }
        let pass = br#"{"result":{"suggest":"pass"}}"#;
        assert_eq!(verdict(500, pass), Err(CheckFault::Unavailable));
    }

    #[test]
    fn a_picture_is_accepted_and_its_verdict_is_pushed() {
        let accepted = br#"{"errcode":0,"errmsg":"ok","trace_id":"t-9"}"#;
        assert_eq!(media_accepted(200, accepted), Ok("t-9".into()));
        let event = |rest: &str| {
            media_event(
                format!(r#"{{"MsgType":"event","Event":"wxa_media_check","trace_id":"t-9",{rest}}}"#)
                    .as_bytes(),
            )
        };
        let risky = Verdict { suggest: Suggest::Risky, label: 20_002, trace_id: "t-9".into() };
        assert_eq!(
            event(r#""errcode":0,"result":{"suggest":"risky","label":20002}"#),
            Some(MediaEvent { trace_id: "t-9".into(), verdict: Ok(risky) })
        );
        assert_eq!(
            event(r#""errcode":-1008"#),
            Some(MediaEvent { trace_id: "t-9".into(), verdict: Err(CheckFault::NotDownloaded) })
        );
        for other in [
            "{}",
            "",
            r#"{"Event":"debug_demo","trace_id":"t"}"#,
            r#"{"Event":"wxa_media_check","trace_id":""}"#,
            r#"{"Event":"wxa_media_check","trace_id":"a b"}"#,
        ] {
            assert_eq!(media_event(other.as_bytes()), None, "{other}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn pieces_are_the_text(text in "([a-z 。！\\n]|\\PC){0,300}", max in 0_usize..120) {
            let pieces = cut_up(&text, max);
            proptest::prop_assert_eq!(pieces.concat(), text.as_str());
            for piece in pieces {
                let chars = piece.chars().count();
                proptest::prop_assert!(chars > 0 && chars <= max.max(1));
            }
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            proptest::prop_assert!(verdict(200, &bytes).is_err() && media_accepted(200, &bytes).is_err());
            proptest::prop_assert_eq!(media_event(&bytes), None);
        }
    }
}
