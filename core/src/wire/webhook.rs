//! Messages to the team's own backend, signed as [Standard Webhooks] 1.0.0 says, so that it checks
//! them with a library that exists.
//!
//! A message says what a turn came to and never what was asked or answered: the backend asks for
//! that, with its own credential. Its id is the same however often it is sent.
//!
//! [Standard Webhooks]: https://github.com/standard-webhooks/standard-webhooks

use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

use super::json;
use crate::policy::{
    auth,
    notify::{Notice, WebhookKeys},
};

/// Milliseconds that the backend may take: the specification has 15 to 30 s.
pub(crate) const PATIENCE: u64 = 15_000;
/// The most bytes of an answer; it is not read.
pub(crate) const LONGEST_ANSWER: u64 = 64 * 1024;

/// One message, however often it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Names it, and lets the backend see that it has it already.
    pub id: String,
    /// A JSON object.
    pub body: String,
}

impl Message {
    /// What is told of a notice.
    pub(crate) fn of(notice: &Notice<'_>) -> Self {
        Self { id: id(notice), body: body(notice) }
    }

    /// The headers of one attempt to send it. The time is the attempt's.
    pub(crate) fn headers(&self, keys: &WebhookKeys, now_ms: u64) -> Vec<(String, String)> {
        let timestamp = (now_ms / 1000).to_string();
        let signature = sign(keys, &self.id, &timestamp, &self.body);
        vec![
            ("content-type".into(), "application/json".into()),
            ("webhook-id".into(), self.id.clone()),
            ("webhook-timestamp".into(), timestamp),
            ("webhook-signature".into(), signature),
        ]
    }
}

/// The same for the same event of the same turn, and without a full stop, which separates what is
/// signed. A turn may need more than one approval.
pub(crate) fn id(notice: &Notice<'_>) -> String {
    let mut hash = Sha256::new();
    for part in [notice.request_id, notice.event.name(), notice.approval.unwrap_or_default()] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    format!("msg_{}", auth::hex(&hash.finalize()[..16]))
}

fn body(notice: &Notice<'_>) -> String {
    let event = notice.event.name();
    let mut out = format!("{{\"type\":\"turn.{event}\",\"timestamp\":\"{}\",\"data\":{{", time(notice.at_ms));
    let fields = [
        ("requestId", Some(notice.request_id)),
        ("traceId", Some(notice.trace_id)),
        ("state", Some(event)),
        ("intent", Some(notice.intent)),
        ("profile", Some(notice.profile)),
        ("user", Some(notice.subject).filter(|subject| !subject.is_empty())),
        ("code", notice.code),
        ("approval", notice.approval),
    ];
    let mut separator = "";
    for (name, value) in fields {
        let Some(value) = value else { continue };
        out.push_str(separator);
        json::push_string(&mut out, name);
        out.push(':');
        json::push_string(&mut out, value);
        separator = ",";
    }
    out.push_str("}}");
    out
}

fn time(unix_ms: u64) -> String {
    use std::time::{Duration, SystemTime};
    humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + Duration::from_millis(unix_ms)).to_string()
}

/// `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, once for each key.
fn sign(keys: &WebhookKeys, id: &str, timestamp: &str, body: &str) -> String {
    let parts = [id, ".", timestamp, ".", body].map(str::as_bytes);
    let one = |key: &[u8]| format!("v1,{}", STANDARD.encode(auth::hmac_sha256(key, &parts)));
    keys.iter().map(one).collect::<Vec<_>>().join(" ")
}

/// What became of one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// The backend has it.
    Delivered,
    /// The backend wants no more of them, ever: 410.
    Gone,
    /// Not now: again after [`pause`], and not before so many milliseconds.
    Again {
        /// What the backend asked for, at most an hour.
        at_least_ms: u64,
    },
    /// The backend refuses it by this status; it would refuse it again.
    Refused(u16),
}

/// The longest that a backend may ask for.
const LONGEST_WAIT_S: u64 = 3_600;

/// What an answer's status means. `retry_after` is its header, in seconds. No answer at all is
/// [`Receipt::Again`] too.
pub(crate) fn receipt(status: u16, retry_after: Option<&str>) -> Receipt {
    let seconds = retry_after.and_then(|value| value.trim().parse::<u64>().ok()).unwrap_or(0);
    match status {
        200..=299 => Receipt::Delivered,
        410 => Receipt::Gone,
        408 | 425 | 429 | 500.. => Receipt::Again { at_least_ms: seconds.min(LONGEST_WAIT_S) * 1000 },
        // A redirect is not followed: the address in the configuration is the one that is meant.
        status => Receipt::Refused(status),
    }
}

/// Upper bounds of the pauses after each attempt, in milliseconds: together 25 hours.
const PAUSES: [u64; 8] = [10_000, 60_000, 600_000, 3_600_000, 7_200_000, 14_400_000, 28_800_000, 36_000_000];

/// How long to wait after so many attempts (at least 1), in milliseconds: evenly out of the whole
/// range, so that a backend that comes back is not met by everybody at once. `None` is the end.
/// `random` is 64 fresh bits.
pub(crate) fn pause(attempts: u32, random: u64) -> Option<u64> {
    let at = usize::try_from(attempts.checked_sub(1)?).ok()?;
    let longest = *PAUSES.get(at)?;
    // The remainder's bias is below one in 10^11.
    Some(random % (longest + 1))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::notify::Event;

    fn notice(event: Event) -> Notice<'static> {
        Notice {
            event,
            at_ms: 1_763_740_800_123,
            request_id: "req_1",
            trace_id: "t.1",
            intent: "summarize",
            profile: "summarize_v2",
            subject: "a1b2",
            code: None,
            approval: None,
            question: Some("Nobody reads this"),
        }
    }

    /// The example of the specification's reference libraries (`TestSymmetricWebhookSign` of the
    /// one for Go).
    #[test]
    fn the_signature_is_that_of_the_reference_libraries() {
        let keys = WebhookKeys::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("a key");
        let (id, body) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", r#"{"test": 2432232314}"#);
        let expected = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
        assert_eq!(sign(&keys, id, "1614265330", body), expected);
        let both = format!("whsec_{},whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "A".repeat(43));
        let keys = WebhookKeys::parse(&both).expect("two keys");
        let signed = sign(&keys, id, "1614265330", body);
        let (new, old) = signed.split_once(' ').expect("two signatures");
        assert!(new.starts_with("v1,") && new != old && old == expected);

        let message = Message { id: id.into(), body: body.into() };
        let headers = message.headers(&keys, 1_614_265_330_999);
        assert_eq!(headers[1], ("webhook-id".to_owned(), id.to_owned()));
        assert_eq!(headers[2], ("webhook-timestamp".to_owned(), "1614265330".to_owned()));
        assert_eq!(headers[3], ("webhook-signature".to_owned(), signed));
    }

    #[test]
    fn a_message_says_what_happened_and_not_what_was_said() {
        assert_eq!(
            Message::of(&notice(Event::Done)).body,
            r#"{"type":"turn.done","timestamp":"2025-11-21T16:00:00.123Z","data":{"requestId":"req_1","traceId":"t.1","state":"done","intent":"summarize","profile":"summarize_v2","user":"a1b2"}}"#
        );
        let asks = Notice {
            code: Some("upstream_timeout"),
            approval: Some("ap\"1"),
            subject: "",
            ..notice(Event::NeedsApproval)
        };
        let body = Message::of(&asks).body;
        let value: serde_json::Value = serde_json::from_str(&body).expect("json");
        assert_eq!(value["type"], "turn.needs_approval");
        assert_eq!(
            (&value["data"]["approval"], &value["data"]["code"]),
            (&"ap\"1".into(), &"upstream_timeout".into())
        );
        assert!(value["data"].get("user").is_none() && !body.contains("Nobody"));
    }

    #[test]
    fn a_message_has_one_id_and_another_event_another() {
        let id = |notice: &Notice<'_>| Message::of(notice).id;
        let done = notice(Event::Done);
        assert_eq!(id(&done), id(&Notice { at_ms: 5, trace_id: "other", ..done }));
        assert!(id(&done).len() == 36 && !id(&done).contains('.'));
        let asks = notice(Event::NeedsApproval);
        let first = Notice { approval: Some("a"), ..asks };
        let ids = [id(&done), id(&asks), id(&first), id(&Notice { request_id: "req_2", ..done })];
        let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
        assert_eq!(distinct.len(), ids.len());
    }

    #[test]
    fn an_answer_says_whether_to_send_again() {
        for (status, expected) in [
            (200, Receipt::Delivered),
            (204, Receipt::Delivered),
            (301, Receipt::Refused(301)),
            (400, Receipt::Refused(400)),
            (401, Receipt::Refused(401)),
            (404, Receipt::Refused(404)),
            (408, Receipt::Again { at_least_ms: 0 }),
            (410, Receipt::Gone),
            (429, Receipt::Again { at_least_ms: 0 }),
            (500, Receipt::Again { at_least_ms: 0 }),
            (503, Receipt::Again { at_least_ms: 0 }),
        ] {
            assert_eq!(receipt(status, None), expected, "{status}");
        }
        assert_eq!(receipt(503, Some(" 30 ")), Receipt::Again { at_least_ms: 30_000 });
        assert_eq!(receipt(429, Some("999999")), Receipt::Again { at_least_ms: 3_600_000 });
        assert_eq!(receipt(429, Some("Wed, 21 Oct 2026")), Receipt::Again { at_least_ms: 0 });
    }

    #[test]
    fn it_is_sent_for_about_a_day_and_then_no_more() {
        let longest: u64 = (1..).map_while(|attempt| pause(attempt, u64::MAX - 1)).count() as u64;
        assert_eq!(longest, 8);
        let hours = PAUSES.iter().sum::<u64>() / 3_600_000;
        assert!((24..=26).contains(&hours), "{hours}");
        assert_eq!((pause(0, 1), pause(9, 1), pause(u32::MAX, 1)), (None, None, None));
        assert_eq!((pause(1, 0), pause(1, 10_000), pause(1, 10_001)), (Some(0), Some(10_000), Some(0)));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn a_body_is_json_whatever_is_in_it(text in ".{0,60}") {
            let message = Message::of(&Notice { intent: &text, code: Some(&text), ..notice(Event::Failed) });
            let value: serde_json::Value = serde_json::from_str(&message.body).expect("json");
            proptest::prop_assert_eq!(value["data"]["intent"].as_str(), Some(text.as_str()));
        }

        #[test]
        fn a_pause_is_within_its_bound(attempt in 1_u32..20, random: u64) {
            let longest = PAUSES.get(attempt as usize - 1).copied();
            proptest::prop_assert_eq!(pause(attempt, random).is_some(), longest.is_some());
            proptest::prop_assert!(pause(attempt, random) <= longest);
        }
    }
}
