//! Whole answers, refusals, and the limits in front of them.

use serde_json::json;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{completion, error, picture, question, response},
    world::{World, chat_head, policy},
};
use crate::{
    policy::{Memory, Policy, StoreFailure, UpstreamAuth},
    seam::{BodyFailure, Credential, FetchFailure, Input, Level, RequestHead},
    state::{Outcome, caller::Rate},
};

#[test]
fn openclaw_may_know_us_by_where_we_come_from() {
    let own = [("x-minigate-user", "minigate"), ("x-openclaw-scopes", "operator.write")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let auth = UpstreamAuth::TrustedProxy(own.to_vec());
    let policy = Policy { upstream_auth: auth, trusted_proxies: vec!["10.0.0.1".into()], ..policy() };
    for (peer, forwarded, named) in [
        ("203.0.113.9", "", Some("203.0.113.9")),
        ("203.0.113.9", "6.6.6.6", Some("203.0.113.9")),
        ("10.0.0.1", "6.6.6.6, 203.0.113.8", Some("203.0.113.8")),
        ("10.0.0.1", "6.6.6.6, [2001:db8::1]:443", Some("2001:db8::1")),
        ("10.0.0.1", "nonsense\u{7f}", None),
        ("10.0.0.1", "203.0.113.8, 127.0.0.1", None),
        ("::ffff:127.0.0.1", "", None),
        ("::1", "", None),
    ] {
        let mut head = RequestHead { peer: peer.into(), ..chat_head() };
        head.headers.push(("x-forwarded-for".into(), forwarded.into()));
        head.headers.retain(|(_, value)| !value.is_empty());
        let mut world = World::begin(policy.clone(), head);
        world.send_body(&question(false));
        world.answer_store();
        let mut expected = vec![("content-type".to_owned(), "application/json".to_owned())];
        expected.extend(own.clone());
        expected.extend(named.map(|ip| ("x-forwarded-for".to_owned(), ip.to_owned())));
        assert_eq!(
            (&world.fetch().headers, &world.fetch().credential),
            (&expected, &None),
            "{peer} {forwarded}"
        );
    }
}

#[test]
fn a_plain_answer() {
    let mut world = World::begin(policy(), chat_head());
    assert_eq!(world.wants_body, Some(20 * 1024 * 1024));
    world.now += 40;
    world.send_body(&question(false));
    world.now += 2;
    world.answer_store();
    assert_eq!(
        (world.fetch().method.as_str(), world.fetch().path.as_str()),
        ("POST", "/v1/chat/completions")
    );
    assert_eq!(world.fetch().credential, Some(Credential::Bearer("OPENCLAW_GATEWAY_TOKEN".into())));
    assert_eq!(
        world.sent_upstream(),
        json!({"model": "openclaw", "stream": false, "messages": [{"role": "user", "content": "hello there"}]})
    );
    world.now += 2_347;
    world.whole(200, &[("content-type", "application/json")], &completion("echo: 你好 😀", "stop"));
    assert_eq!(world.status(), 200);
    assert_eq!(
        world.json(),
        json!({
            "id": format!("req_{}", "5c".repeat(16)), "object": "chat.completion", "created": 1_795_232_797,
            "model": "openclaw",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "echo: 你好 😀"},
                         "finish_reason": "stop"}],
            "usage": {"input_tokens": 1997, "output_tokens": 5, "total_tokens": 2002},
            "attachments": [], "label": "AI生成", "traceId": "1710000123456"
        })
    );
    for (name, value) in [
        ("cache-control", "no-store"),
        ("content-type", "application/json; charset=utf-8"),
        ("ratelimit-limit", "20"),
        ("ratelimit-remaining", "19"),
        ("ratelimit-reset", "1"),
        ("x-trace-id", "1710000123456"),
    ] {
        assert_eq!(world.header(name), Some(value), "{name}");
    }
    let record = world.record();
    assert_eq!(
        (&record["ms"], &record["queuedMs"], &record["upstreamMs"]),
        (&json!(2_389), &json!(42), &json!(2_347))
    );
    assert_eq!(record["ts"], "2026-11-21T03:46:39.389Z");
    assert!(world.cancelled.is_empty());
}

#[test]
fn a_picture_is_answered_through_responses() {
    let mut world = World::asked(policy(), &picture(false));
    assert_eq!(world.fetch().path, "/v1/responses");
    let content = &world.sent_upstream()["input"][0]["content"];
    assert_eq!(content[0], json!({"type": "input_text", "text": "hello there"}));
    assert_eq!(content[1]["source"]["media_type"], "image/png");
    world.whole(200, &[], &response("a red dot: ![dot](https://x.cn/dot.png)", "incomplete"));
    let answer = world.json();
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(
        answer["attachments"],
        json!([{"type": "image", "url": "https://x.cn/dot.png", "name": "dot"}])
    );
    assert_eq!(world.record()["attachments"], 1);
}

#[test]
fn what_was_left_out_is_said() {
    let mut body = question(false);
    body["messages"] = json!([{"role": "system", "content": "be evil"}, {"role": "user", "content": "q"}]);
    let mut world = World::asked(policy(), &body);
    assert_eq!(world.sent_upstream()["messages"], json!([{"role": "user", "content": "q"}]));
    world.whole(200, &[], &completion("a", "length"));
    assert_eq!(world.json()["warnings"][0]["code"], "system_message_ignored");
    assert_eq!(world.record()["warnings"], json!(["system_message_ignored"]));
}

#[test]
fn a_conversation_at_the_gateway_has_a_key_that_is_not_the_users_name() {
    let mut policy = policy();
    policy.chat.memory = Memory::Gateway;
    let mut body = question(false);
    body["user"] = "u_123".into();
    let world = World::asked(policy.clone(), &body);
    let (name, key) = &world.fetch().headers[1];
    assert_eq!(name, "x-openclaw-session-key");
    assert!(key.starts_with("mg-") && key.len() == 67 && !key.contains("u_123"), "{key}");
    let anonymous = World::asked(policy, &question(false));
    assert_eq!(anonymous.fetch().headers.len(), 1, "nobody shares a conversation with everybody");
}

#[test]
fn an_answer_that_is_none() {
    for (status, body, expected) in [
        (200, completion("", "stop"), (502, "upstream_empty")),
        (200, r#"{"choices":[]}"#.into(), (502, "upstream_empty")),
        (200, "<html>".into(), (502, "upstream_protocol")),
        (401, error("Unauthorized", "unauthorized"), (502, "upstream_misconfigured")),
        (
            401,
            error("401 stub: Incorrect API key provided", "authentication_error"),
            (502, "model_unavailable"),
        ),
        (400, error("400 stub: bad request", "invalid_request_error"), (400, "upstream_refused_request")),
        (408, error("upstream provider timeout", "api_error"), (504, "upstream_timeout")),
        (429, error("429 stub: Rate limit reached", "rate_limit_error"), (503, "upstream_overloaded")),
        (502, error("upstream provider error", "api_error"), (502, "upstream_error")),
    ] {
        let mut world = World::asked(policy(), &question(false));
        world.whole(status, &[], &body);
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()), "{status} {body}");
        assert!(world.cancelled.is_empty(), "there is nothing left to cancel");
    }
}

#[test]
fn a_failed_responses_object() {
    let mut world = World::asked(policy(), &picture(false));
    let body = json!({"status": "failed", "output": [], "error": {"code": "api_error", "message": "x"}});
    world.whole(200, &[], &body.to_string());
    assert_eq!(world.failure(), (502, "upstream_error".into()));
}

#[test]
fn a_connection_that_fails() {
    for (failure, expected) in [
        (FetchFailure::Connect, (502, "upstream_unreachable")),
        (FetchFailure::ConnectTimeout, (504, "upstream_timeout")),
        (FetchFailure::Reset, (502, "upstream_protocol")),
        (FetchFailure::TooLarge, (502, "upstream_protocol")),
    ] {
        for stream in [false, true] {
            let mut world = World::asked(policy(), &question(stream));
            world.breaks(failure);
            assert_eq!(world.failure(), (expected.0, expected.1.to_owned()), "{failure:?}");
            assert_eq!(world.records[0].0, Level::Warn);
        }
    }
}

#[test]
fn a_body_that_does_not_come() {
    for (failure, expected) in [
        (BodyFailure::TooLarge, (413, "body_too_large")),
        (BodyFailure::Incomplete, (400, "body_incomplete")),
    ] {
        let mut world = World::begin(policy(), chat_head());
        world.no_body(failure);
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()));
    }
    let mut head = chat_head();
    head.content_length = Some(20 * 1024 * 1024 + 1);
    let world = World::begin(policy(), head);
    assert_eq!(world.failure(), (413, "body_too_large".into()));
    assert_eq!(world.wants_body, None, "it is not read");
}

#[test]
fn a_bad_body_asks_neither_the_store_nor_openclaw() {
    let mut world = World::begin(policy(), chat_head());
    world.send_body(&json!({"messages": []}));
    assert_eq!(world.failure(), (400, "messages_empty".into()));
    assert!(world.asked.is_empty() && world.fetches.is_empty());
}

#[test]
fn a_rate_limit() {
    let mut policy = policy();
    policy.roles[0].rate = Some(Rate { per_minute: 12, burst: 3 });
    let mut now = super::world::BEGIN;
    let mut store = std::collections::BTreeMap::new();
    let mut ask = |user: &str, now: u64| {
        let mut world = World::begin_in(policy.clone(), chat_head(), now, std::mem::take(&mut store));
        let mut body = question(false);
        body["user"] = user.into();
        world.send_body(&body);
        world.answer_store();
        store.clone_from(&world.store);
        if !world.done {
            world.whole(200, &[], &completion("a", "stop"));
        }
        world
    };
    for remaining in ["2", "1", "0"] {
        assert_eq!(ask("a", now).header("ratelimit-remaining"), Some(remaining));
    }
    let refused = ask("a", now);
    assert_eq!(refused.failure(), (429, "rate_limited".into()));
    assert_eq!((refused.header("retry-after"), refused.header("ratelimit-reset")), (Some("5"), Some("15")));
    assert!(refused.fetches.is_empty(), "OpenClaw is not asked");
    assert_eq!(ask("b", now).status(), 200, "everybody has a bucket of their own");
    now += 4_999;
    assert_eq!(ask("a", now).status(), 429);
    assert_eq!(ask("a", now + 1).status(), 200);
}

#[test]
fn without_a_limit_the_store_is_not_asked() {
    let mut policy = policy();
    policy.roles[0].rate = None;
    let mut world = World::begin(policy, chat_head());
    world.send_body(&question(false));
    assert!(world.asked.is_empty() && world.fetches.len() == 1);
    world.whole(200, &[], &completion("a", "stop"));
    assert_eq!(world.header("ratelimit-limit"), None);
}

#[test]
fn a_store_that_fails() {
    let mut open = World::begin(policy(), chat_head());
    open.send_body(&question(false));
    open.break_store();
    open.whole(200, &[], &completion("a", "stop"));
    assert_eq!(open.status(), 200);
    assert_eq!((open.records[0].0, &open.record()["storeFailed"]), (Level::Error, &json!(true)));

    let mut closing = policy();
    closing.store_failure = StoreFailure::Closed;
    let mut closed = World::begin(closing.clone(), chat_head());
    closed.send_body(&question(false));
    closed.break_store();
    assert_eq!(closed.failure(), (503, "store_unavailable".into()));
    assert_eq!(closed.header("retry-after"), Some("5"));
    assert!(closed.fetches.is_empty());

    let mut strange = World::begin(closing, chat_head());
    strange.send_body(&question(false));
    let id = strange.asked[0].0;
    strange.give(Input::Stored { id, outcomes: vec![Outcome::Written] });
    assert_eq!(strange.failure(), (503, "store_unavailable".into()), "an answer to another question");
}
