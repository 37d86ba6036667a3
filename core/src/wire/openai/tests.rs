#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::seam::Piece;

const RULES: Rules<'_> = Rules {
    name: "local-chat",
    context_tokens: None,
    max_tokens: None,
    on_overflow: Overflow::Refuse,
    calibration: Calibration { base: 0, permille: 1_000 },
};

/// What the server gets of a body.
fn sent(body: &str, shaped: &Shaped) -> Value {
    let mut bytes = Vec::new();
    for piece in &shaped.body.0 {
        match piece {
            Piece::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
            Piece::Body { start, len } => {
                bytes.extend_from_slice(&body.as_bytes()[*start as usize..(start + len) as usize]);
            }
            Piece::Secret(_) => panic!("a secret"),
        }
    }
    serde_json::from_slice(&bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&bytes)))
}

fn shape(body: &Value, rules: Rules<'_>) -> Value {
    let body = body.to_string();
    sent(&body, &parse(body.as_bytes()).expect("valid").shape(rules).expect("fits"))
}

fn code(body: &str) -> Code {
    parse(body.as_bytes()).expect_err("not valid").code
}

#[test]
fn what_is_not_known_here_passes_as_it_is() {
    let body = json!({
        "model": "local", "messages": [{"role": "user", "content": "你好", "name": "x"}], "tools": [{"type": "function"}],
        "response_format": {"type": "json_object"}, "logprobs": true, "seed": 7, "x": {"model": "y", "messages": 1},
    });
    let mut expected = body.clone();
    expected["model"] = "local-chat".into();
    assert_eq!(shape(&body, RULES), expected);
    // Not one byte of it is copied but the name of the model.
    let text = body.to_string();
    let shaped = parse(text.as_bytes()).expect("valid").shape(RULES).expect("fits");
    let literals = shaped.body.0.iter().filter(|piece| matches!(piece, Piece::Literal(_))).count();
    assert_eq!((literals, shaped.body.0.len()), (1, 3));
}

#[test]
fn what_a_stream_costs_is_asked_for() {
    let with = |options: Value| {
        let body = json!({"stream": true, "messages": [{"role": "user"}], "stream_options": options});
        shape(&body, RULES)["stream_options"].clone()
    };
    for options in [json!(null), json!({}), json!({"include_usage": false}), json!({"include_usage": null})] {
        assert_eq!(with(options), json!({"include_usage": true}));
    }
    assert_eq!(with(json!({"x": [{}]})), json!({"include_usage": true, "x": [{}]}));
    let without = json!({"stream": true, "messages": [{"role": "user"}]});
    assert_eq!(shape(&without, RULES)["stream_options"], json!({"include_usage": true}));
    let asked = |body: &str| parse(body.as_bytes()).expect("valid").include_usage;
    assert!(asked(r#"{"messages":[{"role":"user"}],"stream":true,"stream_options":{"include_usage":true}}"#));
    assert!(!asked(r#"{"messages":[{"role":"user"}],"stream":true}"#));
    let whole = json!({"messages": [{"role": "user"}]});
    assert_eq!(shape(&whole, RULES).get("stream_options"), None);
}

#[test]
fn an_answer_has_its_limit() {
    let capped = Rules { max_tokens: Some(100), ..RULES };
    for (given, expected) in [
        (json!({}), json!({"max_tokens": 100})),
        (json!({"max_tokens": null}), json!({"max_tokens": 100})),
        (json!({"max_tokens": 500}), json!({"max_tokens": 100})),
        (json!({"max_tokens": 7}), json!({"max_tokens": 7})),
        (json!({"max_tokens": -1}), json!({"max_tokens": 100})),
        (json!({"max_completion_tokens": 5e9}), json!({"max_completion_tokens": 100})),
        (
            json!({"max_tokens": null, "max_completion_tokens": 60}),
            json!({"max_tokens": null, "max_completion_tokens": 60}),
        ),
        (
            json!({"max_tokens": 900, "max_completion_tokens": 60}),
            json!({"max_tokens": 60, "max_completion_tokens": 60}),
        ),
    ] {
        let mut body = given.clone();
        body["messages"] = json!([{"role": "user"}]);
        let mut shaped = shape(&body, capped);
        shaped.as_object_mut().expect("an object").retain(|key, _| key.starts_with("max_"));
        assert_eq!(shaped, expected, "{given}");
    }
    // What is left of the context bounds it too.
    let tight = Rules { context_tokens: Some(300), ..RULES };
    let body = json!({"messages": [{"role": "user", "content": "x".repeat(300)}], "max_tokens": 4_000});
    let left = shape(&body, tight)["max_tokens"].as_u64().expect("a number");
    assert!((150..300 - 90).contains(&left), "{left}");
}

#[test]
fn what_a_model_does_not_hold_is_trimmed_or_refused() {
    let long = "word ".repeat(100);
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let body = json!({"messages": [
        said("system", "be kind"), said("user", &long), said("assistant", &long), said("user", "and now?"),
    ]})
    .to_string();
    let request = parse(body.as_bytes()).expect("valid");
    let small = Rules { context_tokens: Some(300), ..RULES };
    let failure = request.shape(small).expect_err("too much");
    assert_eq!(failure.code, Code::ContextLengthExceeded);
    assert!(
        failure.message.starts_with("This model's maximum context length is 300 tokens."),
        "{}",
        failure.message
    );
    let trimmed = request.shape(Rules { on_overflow: Overflow::Trim, ..small }).expect("fits");
    assert_eq!(trimmed.trimmed, 2);
    assert_eq!(
        sent(&body, &trimmed)["messages"],
        json!([said("system", "be kind"), said("user", "and now?")])
    );
    // A model that counts more holds less.
    let dear = Calibration { base: 280, permille: 1_000 };
    let trims = Rules { on_overflow: Overflow::Trim, calibration: dear, ..small };
    assert_eq!(request.shape(trims).expect_err("nothing fits").code, Code::ContextLengthExceeded);
}

#[test]
fn pictures_count_as_pictures_and_are_not_copied() {
    let picture = format!("data:image/png;base64,{}", "A".repeat(2_000_000));
    let body = json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "what is it?"}, {"type": "image_url", "image_url": {"url": picture}},
    ]}]})
    .to_string();
    let rules = Rules { context_tokens: Some(4_096), ..RULES };
    let shaped = parse(body.as_bytes()).expect("valid").shape(rules).expect("fits");
    assert!((MEDIA..MEDIA + 100).contains(&shaped.tokens), "{}", shaped.tokens);
    assert_eq!(sent(&body, &shaped)["messages"][0]["content"][1]["image_url"]["url"], picture);
    assert!(shaped.body.0.len() < 4);
}

#[test]
fn what_is_no_request() {
    for body in ["", "[]", "null", "{}", r#"{"messages":1}"#, r#"{"messages":["x"]}"#, r#"{"messages":[{}]}"#]
    {
        assert_eq!(code(body), Code::InvalidJson, "{body}");
    }
    assert_eq!(code(r#"{"messages":[],"messages":[]}"#), Code::InvalidJson, "which of them?");
    assert_eq!(code(r#"{"messages":[{"role":"user"}],"max_tokens":"many"}"#), Code::InvalidJson);
    assert_eq!(code(r#"{"messages":[]}"#), Code::MessagesEmpty);
    let many =
        format!(r#"{{"messages":[{}{{"role":"user"}}]}}"#, r#"{"role":"user"},"#.repeat(MOST_MESSAGES));
    assert_eq!(code(&many), Code::TooManyMessages);
    // What is nested deeply is passed on and not looked into.
    let deep =
        format!(r#"{{"messages":[{{"role":"user","content":{}{}}}]}}"#, "[".repeat(500), "]".repeat(500));
    assert!(parse(deep.as_bytes()).is_ok());
}

#[cfg(not(target_arch = "wasm32"))]
fn any_request() -> impl Strategy<Value = Value> {
    let role = proptest::sample::select(vec!["system", "user", "assistant", "tool", "developer"]);
    let message = (role, ".{0,60}", any::<bool>()).prop_map(|(role, text, parts)| match parts {
        true => json!({"role": role, "content": [{"type": "text", "text": text}]}),
        false => json!({"content": text, "role": role}),
    });
    let limit =
        proptest::option::of(prop_oneof![Just(json!(null)), (0u32..5_000).prop_map(|number| json!(number))]);
    let options = proptest::option::of(prop_oneof![
        Just(json!(null)),
        Just(json!({})),
        any::<bool>().prop_map(|asked| json!({"include_usage": asked, "z": 1})),
    ]);
    let model = proptest::option::of(prop_oneof![Just(json!(null)), ".{0,8}".prop_map(Value::from)]);
    let parts = (
        model,
        proptest::collection::vec(message, 1..12),
        any::<bool>(),
        options,
        limit.clone(),
        limit,
        ".{0,20}",
    );
    parts.prop_map(|(model, messages, stream, options, max_tokens, max_completion, other)| {
        let mut body =
            json!({"messages": messages, "stream": stream, "other": other, "tools": [{"x": other}]});
        let named = [
            ("model", model),
            ("stream_options", options),
            ("max_tokens", max_tokens),
            ("max_completion_tokens", max_completion),
        ];
        for (name, value) in named {
            if let Some(value) = value {
                body[name] = value;
            }
        }
        body
    })
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// What is sent is what editing the parsed request gives, however it was written.
    #[test]
    fn edits_of_bytes_are_edits_of_the_value(
        body in any_request(), pretty in any::<bool>(), cap in proptest::option::of(1u32..3_000),
        context in proptest::option::of(256u32..1_000),
    ) {
        let text = if pretty { serde_json::to_string_pretty(&body) } else { serde_json::to_string(&body) };
        let text = format!(" \n{}", text.expect("JSON"));
        let request = parse(text.as_bytes()).expect("valid");
        let rules = Rules { max_tokens: cap, context_tokens: context, on_overflow: Overflow::Trim, ..RULES };
        let Ok(shaped) = request.shape(rules) else {
            prop_assert!(context.is_some());
            return Ok(());
        };
        let sent = sent(&text, &shaped);
        let mut expected = body.clone();
        expected["model"] = "local-chat".into();
        if body["stream"] == true {
            match expected.get_mut("stream_options").filter(|options| !options.is_null()) {
                Some(options) => options["include_usage"] = true.into(),
                None => expected["stream_options"] = json!({"include_usage": true}),
            }
        }
        let left = sent["messages"].as_array().expect("messages");
        let all = body["messages"].as_array().expect("messages");
        prop_assert_eq!(all.len() - left.len(), shaped.trimmed as usize);
        prop_assert!(context.is_some() || left == all);
        prop_assert_eq!(left.last(), all.last());
        // What is left stands in its order.
        let mut rest = all.iter();
        prop_assert!(left.iter().all(|message| rest.any(|other| other == message)));
        expected["messages"] = sent["messages"].clone();
        for name in ["max_tokens", "max_completion_tokens"] {
            let (given, now) = (body.get(name).and_then(Value::as_u64), sent.get(name).and_then(Value::as_u64));
            prop_assert!(given.is_none_or(|given| now.is_some_and(|now| now <= given)));
            prop_assert!(cap.is_none_or(|cap| now.is_none_or(|now| now <= u64::from(cap))));
            match sent.get(name) {
                Some(value) => expected[name] = value.clone(),
                None => prop_assert!(body.get(name).is_none()),
            }
        }
        let limited = sent["max_tokens"].is_u64() || sent["max_completion_tokens"].is_u64();
        prop_assert!(cap.is_none() || limited);
        prop_assert_eq!(sent, expected);
    }

    #[test]
    fn any_bytes(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&body);
    }
}
