//! Streamed answers and streamed failures.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{
        DONE, chunk_finish, chunk_role, chunk_text, chunk_usage, completion_stream, error, picture, question,
        response_event, response_failed, response_stream, response_text,
    },
    world::{World, policy},
};
use crate::seam::{FetchFailure, Input};

const PIECES: &[&str] = &["看 ![图](https://x.cn/", "a.png) 和", " \"quoted\"\n", "👩‍👩‍👧 \\ ", "终"];

/// A stream that has begun.
fn streaming(body: &Value) -> World {
    let mut world = World::asked(policy(), body);
    world.opens_stream();
    world
}

/// A complete stream.
fn streamed(body: &Value, lines: &str) -> World {
    let mut world = streaming(body);
    world.lines(lines);
    world.closes();
    world
}

#[test]
fn a_stream() {
    let world = streamed(&question(true), &completion_stream(PIECES));
    assert_eq!(world.sent_upstream()["stream_options"], json!({"include_usage": true}));
    assert_eq!(world.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(world.header("ratelimit-remaining"), Some("19"));
    assert_eq!(world.streamed(), PIECES.concat());
    let events = world.events();
    assert_eq!(events[0]["choices"][0]["delta"], json!({"role": "assistant"}));
    let [.., finish, end] = events.as_slice() else { panic!("too few events") };
    assert_eq!(end, "[DONE]");
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert_eq!(finish["usage"], json!({"input_tokens": 1997, "output_tokens": 5, "total_tokens": 2002}));
    assert_eq!(finish["attachments"], json!([{"type": "image", "url": "https://x.cn/a.png", "name": "图"}]));
    assert_eq!((&finish["label"], &finish["traceId"]), (&json!("AI生成"), &json!("1710000123456")));
    assert!(!world.text().contains("chatcmpl_"), "the run's id is not the client's");
    assert!(world.cancelled.is_empty());
    assert_eq!(world.record()["outputTokens"], 5);
}

#[test]
fn both_streams_become_the_same_bytes() {
    let completions = streamed(&question(true), &completion_stream(PIECES));
    let responses = streamed(&picture(true), &response_stream(PIECES));
    assert_eq!(responses.fetch().path, "/v1/responses");
    assert_eq!(completions.text(), responses.text());
}

#[test]
fn however_the_lines_come_the_client_gets_the_same_bytes() {
    let mut random = 1_u32;
    for (body, stream) in
        [(question(true), completion_stream(PIECES)), (picture(true), response_stream(PIECES))]
    {
        let expected = streamed(&body, &stream).text();
        let lines: Vec<&str> = stream.split_inclusive('\n').collect();
        for most in 1..=lines.len() {
            let mut world = streaming(&body);
            let mut rest = lines.as_slice();
            while !rest.is_empty() {
                random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let (group, after) = rest.split_at((1 + random as usize % most).min(rest.len()));
                world.lines(&group.concat());
                rest = after;
            }
            world.closes();
            assert_eq!(world.text(), expected);
        }
    }
}

#[test]
fn the_usage_chunk_comes_only_when_asked_for() {
    let usages = |world: &World| {
        let events = world.events();
        events.into_iter().filter(|event| event["choices"] == json!([])).collect::<Vec<_>>()
    };
    assert!(usages(&streamed(&question(true), &completion_stream(PIECES))).is_empty());
    for (mut body, stream) in
        [(question(true), completion_stream(PIECES)), (picture(true), response_stream(PIECES))]
    {
        body["stream_options"] = json!({"include_usage": true});
        let [usage] = usages(&streamed(&body, &stream)).try_into().expect("one");
        let expected = json!({"prompt_tokens": 1997, "completion_tokens": 5, "total_tokens": 2002,
                              "input_tokens": 1997, "output_tokens": 5});
        assert_eq!(usage["usage"], expected);
    }
}

#[test]
fn a_cut_answer_says_so() {
    let cut = [chunk_role(), chunk_text("partial"), chunk_finish("length"), DONE.into()].concat();
    let world = streamed(&question(true), &cut);
    let events = world.events();
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], "length");
}

#[test]
fn an_end_without_the_end_mark_counts_when_the_text_was_complete() {
    let lines = [chunk_role(), chunk_text("all"), chunk_finish("stop"), chunk_usage()].concat();
    let complete = streamed(&question(true), &[lines.as_str(), DONE].concat());
    assert_eq!(streamed(&question(true), &lines).text(), complete.text());
}

#[test]
fn a_truncated_stream_is_a_failure() {
    let half = [chunk_role(), chunk_text("half")].concat();
    assert_eq!(streamed(&question(true), &half).stream_failure(), "upstream_protocol");
    assert_eq!(streamed(&question(true), "").stream_failure(), "upstream_protocol");
    let ended = [half.as_str(), DONE].concat();
    let world = streamed(&question(true), &ended);
    assert_eq!((world.stream_failure().as_str(), world.streamed().as_str()), ("upstream_protocol", "half"));
    let responses = response_text("half");
    assert_eq!(streamed(&picture(true), &responses).stream_failure(), "upstream_protocol");
    // The last event without its blank line is incomplete.
    let cut = completion_stream(&["all"]);
    let cut = cut.split_once("data: [DONE]").expect("an end mark").0.trim_end();
    let cut = cut.rsplit_once("\n\n").expect("a usage event").0.trim_end();
    assert_eq!(streamed(&question(true), cut).stream_failure(), "upstream_protocol");
}

#[test]
fn a_connection_that_breaks_in_mid_stream() {
    for (failure, expected) in [
        (FetchFailure::Reset, "upstream_protocol"),
        (FetchFailure::TooLarge, "upstream_protocol"),
        (FetchFailure::ConnectTimeout, "upstream_timeout"),
    ] {
        let mut world = streaming(&question(true));
        world.lines(&[chunk_role(), chunk_text("half")].concat());
        world.breaks(failure);
        assert_eq!(world.stream_failure(), expected);
        assert_eq!(world.streamed(), "half");
        assert!(world.cancelled.is_empty(), "it is gone already");
    }
    let mut world = streaming(&question(true));
    world.lines(&completion_stream(&["all"]));
    world.breaks(FetchFailure::Reset);
    assert_eq!(world.events().last(), Some(&json!("[DONE]")));
    assert_eq!(world.record()["code"], Value::Null, "after the end mark nothing was lost");
}

#[test]
fn an_error_in_mid_stream() {
    let chat = |message: &str, kind: &str| format!("data: {}\n\n{DONE}", error(message, kind));
    for (body, event, expected) in [
        (question(true), chat("upstream provider error", "api_error"), "upstream_error"),
        (question(true), chat("internal error", "api_error"), "upstream_error"),
        (question(true), chat("upstream provider timeout", "api_error"), "upstream_timeout"),
        (question(true), "data: {\n\n".into(), "upstream_protocol"),
        (picture(true), response_failed("authentication_error", "401 stub"), "model_unavailable"),
        (picture(true), response_failed("api_error", "internal error"), "upstream_error"),
        (picture(true), response_event(&json!({"type": "error"})), "upstream_error"),
    ] {
        let text = if body["attachments"].is_null() { chunk_text("half") } else { response_text("half") };
        let mut world = streaming(&body);
        world.lines(&[text, event, chunk_text("never")].concat());
        assert_eq!((world.stream_failure().as_str(), world.streamed().as_str()), (expected, "half"));
        assert_eq!(world.cancelled, [world.fetch().id]);
        assert_eq!(world.record()["code"], expected);
        assert!(!world.text().contains("stub") && !world.text().contains("provider error"));
    }
}

#[test]
fn nothing_passes_after_the_end_mark() {
    let mut world = streaming(&question(true));
    world.lines(&[&completion_stream(&["all"]), chunk_text("more").as_str(), DONE].concat());
    world.lines(&chunk_text("and more"));
    world.closes();
    assert_eq!((world.status(), world.streamed().as_str()), (200, "all"));
    assert_eq!(world.text().matches("[DONE]").count(), 1);
}

#[test]
fn a_refusal_of_a_streaming_request_is_a_whole_answer() {
    let refusal = error("401 stub: Incorrect API key provided", "authentication_error");
    let mut world = World::asked(policy(), &question(true));
    world.opens(401, &[("content-type", "application/json")]);
    assert!(world.head.is_none(), "its body says more than its status");
    world.lines(&refusal);
    world.closes();
    assert_eq!(world.failure(), (502, "model_unavailable".into()));
    assert_eq!(world.record()["upstreamStatus"], 401);

    let mut broken = World::asked(policy(), &question(true));
    broken.opens(503, &[]);
    broken.breaks(FetchFailure::Reset);
    assert_eq!(broken.failure(), (503, "upstream_overloaded".into()), "the status is enough");
}

#[test]
fn a_refusal_keeps_its_retry_after_streamed_or_not() {
    let body = error("Gateway is starting", "service_unavailable");
    let mut whole = World::asked(policy(), &question(false));
    whole.whole(503, &[("retry-after", "17")], &body);
    let mut stream = World::asked(policy(), &question(true));
    stream.opens(503, &[("retry-after", "17")]);
    stream.lines(&body);
    stream.closes();
    assert_eq!((whole.header("retry-after"), stream.header("retry-after")), (Some("17"), Some("17")));
    assert_eq!(whole.text(), stream.text());
}

#[test]
fn an_endless_refusal_is_not_kept() {
    let mut world = World::asked(policy(), &question(true));
    world.opens(502, &[]);
    for _ in 0..100 {
        let id = world.fetch().id;
        world.give(Input::FetchLines { id, lines: &[b'x'; 4096] });
    }
    assert!(world.state_len() < 70 * 1024, "{}", world.state_len());
    world.closes();
    assert_eq!(world.failure(), (502, "upstream_error".into()));
}

#[test]
fn an_answer_that_should_be_a_stream() {
    for kind in ["application/json", "text/html"] {
        let mut world = World::asked(policy(), &question(true));
        world.opens(200, &[("content-type", kind)]);
        assert_eq!(world.failure(), (502, "upstream_protocol".into()));
        assert_eq!(world.cancelled, [world.fetch().id]);
    }
}
