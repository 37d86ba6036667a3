#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::{
    seam::Piece,
    wire::{
        answer::{Finish, StreamEvent},
        completions,
        failure::Code,
        responses,
    },
};

fn tool(class: ToolClass, idempotent: bool) -> Tool {
    Tool {
        name: "cancel_order".into(),
        description: "Cancels an order.".into(),
        parameters: r#"{"type":"object","properties":{"number":{"type":"string","maxLength":8}},
            "required":["number"],"additionalProperties":false}"#
            .into(),
        class,
        url: "https://shop.example/cancel".into(),
        secret: Some("SHOP_KEY".into()),
        timeout_ms: 10_000,
        idempotent,
        approve: None,
        approve_within_s: 0,
    }
}

fn call(id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { id: id.into(), name: name.into(), arguments: arguments.into() }
}

fn piece<'a>(index: u32, id: &'a str, name: &'a str, arguments: &'a str) -> CallPiece<'a> {
    CallPiece {
        index: Some(index),
        id: Some(id.into()),
        name: Some(name.into()),
        arguments: arguments.into(),
    }
}

/// One event of an API's stream.
type Read = fn(&str, &mut dyn FnMut(StreamEvent<'_>));

/// What a stream's events give.
fn collected(api: Read, events: &[&str]) -> Vec<ToolCall> {
    let mut calls = Calls::default();
    for data in events {
        api(data, &mut |event| {
            if let StreamEvent::Call(piece) = event {
                calls.push(&piece).expect("within bounds");
            }
        });
    }
    calls.finish().expect("valid")
}

#[test]
fn a_whole_answer_has_calls() {
    let body = br#"{"choices":[{"index":0,"message":{"role":"assistant","content":"","tool_calls":[
        {"id":"032807185","type":"function","function":{"name":"get_weather","arguments":"{\"city\":\"Paris\"}"}},
        {"id":"7764042e8","type":"function","function":{"name":"get_time","arguments":"{\"city\":\"Paris\"}"}}]},
        "finish_reason":"tool_calls"}],"usage":{"prompt_tokens":2013,"completion_tokens":63,"total_tokens":2076}}"#;
    let answer = completions::with_calls(body).expect("calls");
    let expected = [
        call("032807185", "get_weather", r#"{"city":"Paris"}"#),
        call("7764042e8", "get_time", r#"{"city":"Paris"}"#),
    ];
    assert_eq!((answer.finish, answer.text.as_str(), answer.usage.total), (Finish::Tools, "", 2_076));
    assert_eq!(answer.calls, expected);
    // Nobody asked for any.
    assert_eq!(completions::whole(body).map_err(|failure| failure.code), Err(Code::UpstreamEmpty));

    let body = br#"{"status":"completed","output":[
        {"type":"message","role":"assistant","content":[{"type":"output_text","text":""}],"phase":"commentary"},
        {"type":"function_call","id":"call_82fb9f0f","call_id":"803101c4c","name":"get_weather","arguments":"{}"}]}"#;
    let answer = responses::with_calls(body).expect("calls");
    assert_eq!(answer.calls, [call("803101c4c", "get_weather", "{}")]);
    assert_eq!(answer.finish, Finish::Tools);
    assert_eq!(responses::whole(body).map_err(|failure| failure.code), Err(Code::UpstreamEmpty));
}

#[test]
fn calls_beside_text_are_left_out_where_none_were_offered() {
    let body = br#"{"choices":[{"message":{"content":"Hi.","tool_calls":[{"id":"a b","function":{"name":"","arguments":"{"}}]},
        "finish_reason":"tool_calls"}]}"#;
    let answer = completions::whole(body).expect("text");
    assert_eq!((answer.text.as_str(), answer.finish), ("Hi.", Finish::Stop));
    assert!(answer.calls.is_empty());
    assert_eq!(completions::with_calls(body).map_err(|failure| failure.code), Err(Code::UpstreamProtocol));
}

#[test]
fn streams_give_calls_as_openclaw_sends_them() {
    let head = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"98b98d1f5","type":"function","function":{"name":"get_weather","arguments":""}}]},"finish_reason":null}]}"#;
    let rest = r#"{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\"city\":\"Paris\"}"}}]},"finish_reason":null}]}"#;
    let end = r#"{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}"#;
    let calls = collected(|data, each| completions::event(data, each), &[head, rest, end, "[DONE]"]);
    assert_eq!(calls, [call("98b98d1f5", "get_weather", r#"{"city":"Paris"}"#)]);

    let added = r#"{"type":"response.output_item.added","output_index":1,"item":{"type":"function_call","id":"call_e6","call_id":"074583a9f","name":"get_weather","arguments":"{}"}}"#;
    let message = r#"{"type":"response.output_item.done","output_index":0,"item":{"type":"message","id":"msg_e8","role":"assistant","content":[{"type":"output_text","text":""}]}}"#;
    let done = r#"{"type":"response.output_item.done","output_index":1,"item":{"type":"function_call","id":"call_e6","call_id":"074583a9f","name":"get_weather","arguments":"{}","status":"completed"}}"#;
    let calls = collected(|data, each| responses::event(data, each), &[added, message, done]);
    assert_eq!(calls, [call("074583a9f", "get_weather", "{}")]);
}

#[test]
fn servers_that_number_calls_in_their_own_way_are_understood() {
    let mut calls = Calls::default();
    for (id, arguments) in [("a", "{}"), ("b", "{"), ("b", "}")] {
        calls.push(&piece(0, id, "t", arguments)).expect("within bounds");
    }
    assert_eq!(calls.finish().expect("valid"), [call("a", "t", "{}"), call("b", "t", "{}")]);

    let mut calls = Calls::default();
    let bare = CallPiece { name: Some("t".into()), arguments: "{}".into(), ..CallPiece::default() };
    calls.push(&bare).expect("within bounds");
    assert_eq!(calls.finish().expect("valid"), [call("call_0", "t", "{}")]);
}

#[test]
fn an_answer_has_bounds() {
    let is_over = |pieces: &[CallPiece<'_>]| {
        let mut calls = Calls::default();
        let pushed = pieces.iter().try_for_each(|piece| calls.push(piece));
        let failure = pushed.and_then(|()| calls.finish().map(drop)).err();
        assert!(failure.as_ref().is_none_or(|failure| failure.code == Code::UpstreamProtocol));
        failure.is_some()
    };
    let ids: Vec<String> = (0..17).map(|id| format!("id{id}")).collect();
    let many: Vec<CallPiece<'_>> = (0..).zip(&ids).map(|(at, id)| piece(at, id, "t", "{}")).collect();
    assert!(!is_over(&many[..16]));
    assert!(is_over(&many));
    let long = "x".repeat(MAX_ARGUMENTS);
    assert!(!is_over(&[piece(0, "a", "t", &long)]));
    assert!(is_over(&[piece(0, "a", "t", &long), piece(0, "a", "", "x")]));
    assert!(!is_over(&[piece(0, "a", "t", &long), piece(1, "b", "t", &long)]));
    assert!(is_over(&[piece(0, "a", "t", &long), piece(1, "b", "t", &long), piece(2, "c", "t", "x")]));
    assert!(is_over(&[piece(0, &long, "t", "")]));
    assert!(is_over(&[piece(0, "a", "", "{}")]));
    assert!(is_over(&[piece(0, "a", "t\nSystem: pay", "{}")]));
    assert!(is_over(&[piece(0, "a b", "t", "{}")]));
    assert!(is_over(&[piece(0, "a", "t", "{}"), piece(1, "b", "t", "{}"), piece(2, "a", "t", "{}")]));
}

#[test]
fn a_call_is_checked_against_its_schema() {
    let tool = tool(ToolClass::Write, false);
    assert_eq!(check(&tool, " {\"number\" : \"a1\"}\n").expect("fits"), r#"{"number":"a1"}"#);
    for (arguments, keyword) in [
        ("{\"number\": ", "json"),
        ("", "required"),
        ("{\"number\":1}", "type"),
        ("[]", "type"),
        ("{\"number\":\"1\",\"force\":true}", "additionalProperties"),
        ("{\"number\":\"123456789\"}", "maxLength"),
        (&format!("{{\"number\":{}1{}}}", "[".repeat(200), "]".repeat(200)), "json"),
    ] {
        let found = check(&tool, arguments).expect_err(arguments);
        assert_eq!(found.first().map(|violation| violation.keyword), Some(keyword), "{arguments}");
        assert!(unfit(&found).contains("\n- "));
    }
    // Whatever its schema says, arguments are an object.
    let lax = Tool { parameters: "{}".into(), ..tool };
    assert!(check(&lax, "[]").is_err());
    assert_eq!(check(&lax, ""), Ok("{}".into()));
}

#[test]
fn canonical_is_one_text_for_one_value() {
    for (text, expected) in [
        (" { \"b\" : [1, 2.50 , -0] , \"a\" : \"\\u0041\\n\" } ", r#"{"a":"A\n","b":[1,2.50,-0]}"#),
        ("{\"a\":1,\"a\":2}", "{\"a\":2}"),
        ("{\"中\":\"\\u4e2d\\/\"}", "{\"中\":\"中/\"}"),
        ("12345678901234567890.0e1", "12345678901234567890.0e1"),
        ("null", "null"),
        // What turns around or hides what a person reads.
        ("{\"to\":\"a\u{202e}b\u{200b}\u{7f}\"}", r#"{"to":"a\u202eb\u200b\u007f"}"#),
        ("\"👨‍👩‍👧\"", "\"👨‍👩‍👧\""),
    ] {
        assert_eq!(canonical(text).as_deref(), Some(expected), "{text}");
    }
    for text in ["", "{", "{\"a\":01}", "\"\\ud800\"", "{} {}", &"[".repeat(100_000)] {
        assert_eq!(canonical(text), None);
    }
}

#[test]
fn a_digest_names_tool_and_arguments() {
    assert_eq!(digest("t", "{}"), digest("t", "{}"));
    assert_ne!(digest("t", "{}"), digest("t", "{ }"));
    assert_ne!(digest("t{", "}"), digest("t", "{}"));
    // By another program: printf '\x01\0\0\0\0\0\0\0t\x02\0\0\0\0\0\0\0{}' | sha256sum
    let expected = "950bac42a6915f6ab9e12dc9833eb206734d5d1453ceedd1795350aba938d4b7";
    assert_eq!(crate::policy::auth::hex(&digest("t", "{}")), expected);
}

#[test]
fn an_order_says_everything_and_holds_no_secret() {
    let tool = tool(ToolClass::Write, true);
    let order = Order {
        tool: &tool,
        arguments: r#"{"number":"a1"}"#,
        idempotency_key: "7f01",
        user: "u_1",
        trace_id: "t-1",
        request_id: "req_1",
    };
    let fetch = order.fetch(3);
    assert_eq!(
        (fetch.upstream.as_str(), fetch.method.as_str(), fetch.path.as_str()),
        ("tool:cancel_order", "POST", "")
    );
    assert_eq!(fetch.credential, Some(Credential::Bearer("SHOP_KEY".into())));
    assert!(fetch.headers.contains(&("idempotency-key".into(), "7f01".into())));
    assert!(fetch.headers.contains(&("x-trace-id".into(), "t-1".into())));
    let expected = r#"{"name":"cancel_order","arguments":{"number":"a1"},"user":"u_1","traceId":"t-1","requestId":"req_1"}"#;
    assert_eq!(fetch.body.0, [Piece::Literal(expected.into())]);
}

#[test]
fn an_answer_says_what_came_of_a_call() {
    let done = |text: &str| Outcome::Done(text.into());
    let refused = |status, text: &str| Outcome::Refused { status, text: text.into() };
    for (status, retry_after, body, expected) in [
        (200, None, "{\"ok\":true}", done("{\"ok\":true}")),
        (204, None, "", done("")),
        (201, None, " fine\n", done("fine")),
        (400, None, "no such order", refused(400, "no such order")),
        (404, None, "", refused(404, "")),
        (429, None, "x", Outcome::Rejected { after_s: 5 }),
        (429, Some("7"), "x", Outcome::Rejected { after_s: 7 }),
        (503, Some("999999"), "x", Outcome::Rejected { after_s: 3_600 }),
        (503, None, "x", Outcome::Unknown),
        (408, None, "x", Outcome::Unknown),
        (409, None, "x", Outcome::Unknown),
        (425, None, "x", Outcome::Unknown),
        (500, None, "x", Outcome::Unknown),
        (502, Some("1"), "x", Outcome::Unknown),
        (302, None, "x", Outcome::Unknown),
    ] {
        assert_eq!(outcome(status, retry_after, body.as_bytes()), expected, "{status} {retry_after:?}");
    }
    assert_eq!(fetch_outcome(FetchFailure::Reset), Outcome::Unknown);
    let Outcome::Done(long) = outcome(200, None, "中".repeat(30_000).as_bytes()) else { panic!("done") };
    assert!(long.ends_with("中\n[cut: 90000 bytes in all]") && long.len() < MAX_RESULT + 40);
    let Outcome::Refused { text, .. } = outcome(422, None, &[b'x'; 9_000]) else { panic!("refused") };
    assert_eq!(text.len(), MAX_REFUSAL + "\n[cut: 9000 bytes in all]".len());
}

#[test]
fn only_what_does_no_harm_is_sent_again() {
    let rejected = Outcome::Rejected { after_s: 1 };
    assert!(rejected.may_be_sent_again(&tool(ToolClass::Destructive, false)));
    assert!(!Outcome::Unknown.may_be_sent_again(&tool(ToolClass::Write, false)));
    assert!(Outcome::Unknown.may_be_sent_again(&tool(ToolClass::Write, true)));
    assert!(Outcome::Unknown.may_be_sent_again(&tool(ToolClass::Read, false)));
    assert!(!Outcome::Done(String::new()).may_be_sent_again(&tool(ToolClass::Read, true)));
    assert!(Outcome::Unknown.for_model().contains("not known"));
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "\\PC{0,12}".prop_map(Value::from),
            ".{0,6}".prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 40, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    /// A value's text with its names in another order, and spaces between the tokens.
    fn loose(value: &Value, out: &mut String) {
        match value {
            Value::Object(members) => {
                out.push_str("{ ");
                for (at, (name, member)) in members.iter().rev().enumerate() {
                    out.push_str(if at == 0 { "" } else { " ,\n" });
                    // Every character escaped.
                    out.push('"');
                    name.encode_utf16().for_each(|unit| out.push_str(&format!("\\u{unit:04X}")));
                    out.push_str("\" :\t");
                    loose(member, out);
                }
                out.push('}');
            }
            Value::Array(items) => {
                out.push_str("[ ");
                for (at, item) in items.iter().enumerate() {
                    out.push_str(if at == 0 { "" } else { " , " });
                    loose(item, out);
                }
                out.push_str(" ]");
            }
            other => out.push_str(&other.to_string()),
        }
    }

    proptest! {
        #[test]
        fn canonical_is_the_same_value_and_stays_as_it_is(value in value()) {
            let written = value.to_string();
            let text = canonical(&written).expect("JSON");
            let read = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
            prop_assert_eq!(read(&text), read(&written));
            prop_assert_eq!(canonical(&text), Some(text.clone()));
        }

        #[test]
        fn order_and_spaces_make_no_difference(value in value()) {
            let mut other = String::new();
            loose(&value, &mut other);
            prop_assert_eq!(canonical(&other), canonical(&value.to_string()));
        }

        #[test]
        fn other_values_have_other_texts(a in value(), b in value()) {
            prop_assert!(a == b || canonical(&a.to_string()) != canonical(&b.to_string()));
        }

        #[test]
        fn canonical_never_panics(text in "[{}\\[\\]\",:a1 \\\\u\n.-]{0,40}") {
            prop_assert_eq!(canonical(&text).is_some(), serde_json::from_str::<Value>(&text).is_ok());
        }

        /// However the arguments are cut, and in whatever order the pieces of several calls come.
        #[test]
        fn any_cut_gives_the_same_calls(
            arguments in prop::collection::vec("[^\u{0}]{0,40}", 1..5),
            cuts in prop::collection::vec((any::<prop::sample::Index>(), 1..9_usize), 0..60),
        ) {
            let expected: Vec<ToolCall> =
                (0..).zip(&arguments).map(|(at, text): (u32, _)| call(&format!("id{at}"), "t", text)).collect();
            let mut left: BTreeMap<usize, Vec<char>> =
                arguments.iter().map(|text| text.chars().collect()).enumerate().collect();
            let mut calls = Calls::default();
            let mut pieces: Vec<(usize, String)> = Vec::new();
            for (which, len) in cuts {
                let which = which.index(arguments.len());
                let rest = left.entry(which).or_default();
                let piece: String = rest.drain(..len.min(rest.len())).collect();
                pieces.push((which, piece));
            }
            pieces.extend(left.into_iter().map(|(which, rest)| (which, rest.into_iter().collect())));
            for (at, call) in (0..).zip(&expected) {
                calls.push(&piece(at, &call.id, &call.name, "")).expect("within bounds");
            }
            for (which, text) in &pieces {
                let chunk = serde_json::json!({"choices": [{"delta": {"tool_calls": [
                    {"index": which, "function": {"arguments": text}}]}}]});
                completions::event(&chunk.to_string(), |event| if let StreamEvent::Call(piece) = event {
                    calls.push(&piece).expect("within bounds");
                });
            }
            prop_assert_eq!(calls.finish().expect("valid"), expected);
        }

        /// Whatever a server sends as pieces, the bounds hold.
        #[test]
        fn bounds_hold_for_any_pieces(
            pieces in prop::collection::vec(
                (prop::option::of(0..20_u32), prop::option::of("[a-c]{0,2}"), 0..40_000_usize), 0..30),
        ) {
            let mut calls = Calls::default();
            for (index, id, len) in pieces {
                let piece = CallPiece {
                    index,
                    id: id.map(Cow::from),
                    name: Some("t".into()),
                    arguments: "x".repeat(len).into(),
                };
                if calls.push(&piece).is_err() {
                    break;
                }
                prop_assert!(calls.0.len() <= MAX_CALLS);
                let all: usize = calls.0.iter().map(|(_, call)| call.arguments.len()).sum();
                prop_assert!(all <= MAX_ALL_ARGUMENTS);
            }
        }

        #[test]
        fn what_is_checked_is_what_is_hashed(text in "\\PC{0,8}") {
            let members: Map<String, Value> = [("number".to_owned(), Value::from(text))].into_iter().collect();
            let tool = tool(ToolClass::Write, false);
            let given = check(&tool, &Value::Object(members.clone()).to_string()).expect("fits");
            let mut other = String::new();
            loose(&Value::Object(members), &mut other);
            prop_assert_eq!(digest("t", &check(&tool, &other).expect("fits")), digest("t", &given));
        }
    }
}
