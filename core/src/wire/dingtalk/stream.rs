//! Stream mode: the frames of a socket that this side opens.
//!
//! A frame is answered at once and looked at afterwards: what is not answered within about a minute
//! comes again, under another `messageId` and with the same `msgId` in its data. A `disconnect` ends
//! a socket for good: frames that come on it later are lost, so another one is opened first. What
//! is done with frames and sockets is [`link`](super::link)'s to say.

use serde_json::Value;

use super::{API, is_temporary, text};
use crate::{
    seam::{Piece, Rope},
    wire::json,
};

/// The path that gives an address to connect to.
pub(crate) const OPEN: &str = "/v1.0/gateway/connections/open";
/// The topic of messages to a robot.
pub(crate) const MESSAGES: &str = "/v1.0/im/bot/messages/get";

/// The body of the request to [`OPEN`]. `key` and `secret` are names of settings; `agent` is this
/// program's name and version.
pub(crate) fn open_body(key: &str, secret: &str, agent: &str) -> Rope {
    let mut body = Rope::default();
    body.push_str("{\"clientId\":\"");
    body.0.push(Piece::Secret(key.to_owned()));
    body.push_str("\",\"clientSecret\":\"");
    body.0.push(Piece::Secret(secret.to_owned()));
    body.push_str(&format!(
        "\",\"subscriptions\":[{{\"type\":\"CALLBACK\",\"topic\":\"{MESSAGES}\"}}],\"ua\":{}}}",
        json::string(agent)
    ));
    body
}

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenFault {
    /// DingTalk refuses the app: an operator must act.
    Misconfigured,
    /// DingTalk failed, or its answer says nothing: again.
    Unavailable,
}

/// The address to connect to, with its ticket, which is good for one connection. `api` is where the
/// API is: where an operator has moved it, sockets are on its host.
pub(crate) fn address(status: u16, body: &[u8], api: &str) -> Result<String, OpenFault> {
    let answer = serde_json::from_slice::<Value>(body).ok();
    let code = answer.as_ref().and_then(|answer| text(answer, "code"));
    if matches!(status, 400..=499) && !is_temporary(status, code) {
        return Err(OpenFault::Misconfigured);
    }
    let answer = answer.filter(|_| status == 200);
    let answer = answer.ok_or(OpenFault::Unavailable)?;
    let given = |key| text(&answer, key).ok_or(OpenFault::Unavailable);
    let (endpoint, ticket) = (given("endpoint")?, given("ticket")?);
    if !(is_endpoint(endpoint) || is_beside(endpoint, api))
        || ticket.is_empty()
        || !ticket.bytes().all(|b| b.is_ascii_graphic())
    {
        return Err(OpenFault::Unavailable);
    }
    let mut address = format!("{endpoint}?ticket=");
    for byte in ticket.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                address.push(char::from(byte))
            }
            _ => address.push_str(&format!("%{byte:02X}")),
        }
    }
    Ok(address)
}

/// A socket of DingTalk's, over TLS: the answer decides where a connection goes.
fn is_endpoint(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("wss://") else { return false };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let host = authority.split_once(':').map_or(authority, |(host, _)| host);
    let port = authority.split_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok());
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./~".contains(&byte);
    host.ends_with(".dingtalk.com")
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
        && port
        && path.bytes().all(plain)
}

/// On the host of an API that is not DingTalk's own.
fn is_beside(endpoint: &str, api: &str) -> bool {
    let host = |url: &str| {
        let (_, rest) = url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        (!authority.contains('@') && !host.is_empty()).then(|| host.to_owned())
    };
    let is_socket = endpoint.starts_with("ws://") || endpoint.starts_with("wss://");
    is_socket && api != API && host(endpoint).is_some() && host(endpoint) == host(api)
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// To be echoed in the answer.
    pub message_id: String,
    /// What it is.
    pub kind: Kind,
}

/// What a frame is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Whether we are there; its data is given back.
    Ping(String),
    /// This socket is over.
    Disconnect,
    /// Another word of the connection: it began, it lasts.
    System,
    /// A message to the robot: the body of a callback.
    Message(String),
    /// Another callback, by its topic.
    Callback(String),
    /// An event that nobody subscribed to.
    Event,
    /// Something else.
    Unknown,
}

impl Frame {
    /// Reads a frame. `None` when it is no object.
    pub(crate) fn parse(frame: &[u8]) -> Option<Self> {
        let frame = serde_json::from_slice::<Value>(frame).ok().filter(Value::is_object)?;
        let headers = frame.get("headers").unwrap_or(&Value::Null);
        let topic = text(headers, "topic").unwrap_or_default();
        let data = text(&frame, "data").unwrap_or_default();
        let kind = match (text(&frame, "type").unwrap_or_default(), topic) {
            ("SYSTEM", "ping") => Kind::Ping(data.to_owned()),
            ("SYSTEM", "disconnect") => Kind::Disconnect,
            ("SYSTEM", _) => Kind::System,
            ("CALLBACK", MESSAGES) => Kind::Message(data.to_owned()),
            ("CALLBACK", topic) => Kind::Callback(super::code(topic)),
            ("EVENT", _) => Kind::Event,
            _ => Kind::Unknown,
        };
        Some(Self { message_id: text(headers, "messageId").unwrap_or_default().to_owned(), kind })
    }

    /// The answer to be sent at once; `None` where none is expected.
    pub(crate) fn ack(&self) -> Option<String> {
        let (code, message, data) = match &self.kind {
            Kind::Ping(data) => (200, "OK", data.as_str()),
            // A message that cannot be read would come again and again.
            Kind::Message(_) => (200, "OK", r#"{"response":{}}"#),
            Kind::Event => (200, "OK", r#"{"status":"SUCCESS","message":"OK"}"#),
            Kind::Callback(_) => (404, "not implemented", "{}"),
            Kind::Disconnect | Kind::System | Kind::Unknown => return None,
        };
        Some(format!(
            "{{\"code\":{code},\"headers\":{{\"contentType\":\"application/json\",\"messageId\":{}}},\"message\":{},\"data\":{}}}",
            json::string(&self.message_id),
            json::string(message),
            json::string(data)
        ))
    }
}

/// Upper bounds of the pause before another socket is opened, in milliseconds, after so many that
/// failed.
const PAUSES: [u64; 7] = [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000];

/// How long to wait before the next socket, in milliseconds: anything up to a bound, so that hosts
/// that lost theirs at once do not come back at once. The official SDK has bounds of 1 to 60 s too.
/// `random` is 64 fresh bits.
pub(crate) fn pause(failures: u32, random: u64) -> u64 {
    let at = usize::try_from(failures).unwrap_or(usize::MAX).min(PAUSES.len() - 1);
    let longest = PAUSES.get(at).copied().unwrap_or(60_000);
    random % (longest + 1)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn frame(kind: &str, topic: &str, data: &str) -> Frame {
        let frame = format!(
            r#"{{"specVersion":"1.0","type":"{kind}","headers":{{"appId":"a","connectionId":"c","contentType":"application/json",
            "messageId":"0a_1","time":"1774080994334","topic":"{topic}"}},"data":{}}}"#,
            json::string(data)
        );
        Frame::parse(frame.as_bytes()).expect("a frame")
    }

    #[test]
    fn a_connection_is_asked_for_messages_only() {
        let body = open_body("KEY", "SECRET", "minigate/1");
        let all: String = body
            .0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.clone(),
                Piece::Secret(name) => format!("<{name}>"),
                Piece::Body { .. } => String::new(),
            })
            .collect();
        assert_eq!(
            all,
            r#"{"clientId":"<KEY>","clientSecret":"<SECRET>","subscriptions":[{"type":"CALLBACK","topic":"/v1.0/im/bot/messages/get"}],"ua":"minigate/1"}"#
        );
    }

    #[test]
    fn a_connection_goes_to_dingtalk_or_nowhere() {
        let of = |endpoint: &str, ticket: &str| {
            address(200, format!(r#"{{"endpoint":"{endpoint}","ticket":"{ticket}"}}"#).as_bytes(), API)
        };
        assert_eq!(
            of("wss://wss-open-connection.dingtalk.com:443/connect", "a+b/c=="),
            Ok("wss://wss-open-connection.dingtalk.com:443/connect?ticket=a%2Bb%2Fc%3D%3D".into())
        );
        for endpoint in [
            "",
            "ws://wss-open-connection.dingtalk.com/connect",
            "wss://dingtalk.com.evil.example/connect",
            "wss://evil.example/.dingtalk.com",
            "wss://u@wss.dingtalk.com/connect",
            "wss://wss.dingtalk.com:99999/connect",
            "wss://wss.dingtalk.com/connect?x=1",
            "wss://evildingtalk.com/connect",
        ] {
            assert_eq!(of(endpoint, "t"), Err(OpenFault::Unavailable), "{endpoint}");
        }
        assert_eq!(of("wss://w.dingtalk.com/c", ""), Err(OpenFault::Unavailable));
        assert_eq!(address(200, b"{}", API), Err(OpenFault::Unavailable));
        assert_eq!(address(401, b"{}", API), Err(OpenFault::Misconfigured));
        assert_eq!(address(429, b"{}", API), Err(OpenFault::Unavailable));
        assert_eq!(address(503, b"{}", API), Err(OpenFault::Unavailable));
    }

    #[test]
    fn where_the_api_was_moved_sockets_are_beside_it() {
        let of = |endpoint: &str, api: &str| {
            address(200, format!(r#"{{"endpoint":"{endpoint}","ticket":"t"}}"#).as_bytes(), api)
        };
        let moved = "http://127.0.0.1:8080";
        assert_eq!(
            of("ws://127.0.0.1:9090/connect", moved),
            Ok("ws://127.0.0.1:9090/connect?ticket=t".into())
        );
        for endpoint in
            ["ws://127.0.0.2/connect", "http://127.0.0.1/", "ws://127.0.0.1@evil/", "ws:///", "ws://"]
        {
            assert_eq!(of(endpoint, moved), Err(OpenFault::Unavailable), "{endpoint}");
        }
        assert_eq!(of("ws://api.dingtalk.com/connect", API), Err(OpenFault::Unavailable));
    }

    #[test]
    fn a_message_is_answered_and_its_id_is_its_own() {
        let data = r#"{"msgId":"m1","msgtype":"text","text":{"content":"hi"}}"#;
        let frame = frame("CALLBACK", MESSAGES, data);
        assert_eq!(
            frame.ack().as_deref(),
            Some(
                r#"{"code":200,"headers":{"contentType":"application/json","messageId":"0a_1"},"message":"OK","data":"{\"response\":{}}"}"#
            )
        );
        assert_eq!(frame.kind, Kind::Message(data.into()));
    }

    #[test]
    fn every_frame_has_its_answer_or_none() {
        let ping = frame("SYSTEM", "ping", r#"{"opaque":"x"}"#);
        assert_eq!(ping.kind, Kind::Ping(r#"{"opaque":"x"}"#.into()));
        assert!(ping.ack().is_some_and(|ack| ack.contains(r#""data":"{\"opaque\":\"x\"}""#)));
        assert_eq!(
            (frame("SYSTEM", "disconnect", "{}").kind, frame("SYSTEM", "disconnect", "").ack()),
            (Kind::Disconnect, None)
        );
        for topic in ["CONNECTED", "REGISTERED", "KEEPALIVE", ""] {
            assert_eq!(
                (frame("SYSTEM", topic, "").kind, frame("SYSTEM", topic, "").ack()),
                (Kind::System, None)
            );
        }
        let unread = frame("CALLBACK", MESSAGES, "no json");
        assert_eq!(unread.kind, Kind::Message("no json".into()));
        assert!(unread.ack().is_some_and(|ack| ack.starts_with(r#"{"code":200,"#)));
        // Taps on cards, of which this robot has none.
        let cards = "/v1.0/card/instances/callback";
        let card = frame("CALLBACK", cards, "{}");
        assert_eq!(card.kind, Kind::Callback(cards.into()));
        assert!(card.ack().is_some_and(|ack| ack.starts_with(r#"{"code":404,"#)));
        assert!(frame("EVENT", "*", "{}").ack().is_some_and(|ack| ack.contains("SUCCESS")));
        assert_eq!(frame("OTHER", "", "").ack(), None);
        for none in ["", "[]", "5", "{"] {
            assert_eq!(Frame::parse(none.as_bytes()), None, "{none}");
        }
        assert_eq!(Frame::parse(b"{}").map(|frame| frame.kind), Some(Kind::Unknown));
    }

    #[test]
    fn sockets_come_back_slower_and_slower() {
        assert_eq!((pause(0, 0), pause(0, 1_000), pause(0, 1_001)), (0, 1_000, 0));
        assert_eq!((pause(6, 0), pause(60, 60_000), pause(u32::MAX, 60_001)), (0, 60_000, 0));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_frame_is_read_and_any_answer_is_json(
            kind in "(SYSTEM|CALLBACK|EVENT|[A-Z]{0,4})",
            topic in "(ping|disconnect|/v1.0/im/bot/messages/get|\\PC{0,12})",
            id in "\\PC{0,12}",
            data in "\\PC{0,40}",
        ) {
            let frame = serde_json::json!({"type": kind, "headers": {"topic": topic, "messageId": id}, "data": data});
            let frame = Frame::parse(frame.to_string().as_bytes()).expect("a frame");
            proptest::prop_assert_eq!(&frame.message_id, &id);
            if let Some(ack) = frame.ack() {
                let ack: Value = serde_json::from_str(&ack).expect("json");
                proptest::prop_assert_eq!(ack["headers"]["messageId"].as_str(), Some(id.as_str()));
            }
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
            let _ = (Frame::parse(&bytes), address(200, &bytes, API));
        }
    }
}
