//! Intents: who answers, what stands in after a failure, drafts, and events.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{completion, completion_stream, error},
    world::{World, chat_head, policy},
};
use crate::{
    policy::{
        Memory, Policy,
        catalog::{Catalog, Intent, Model, ModelKind, Profile, Runtime},
    },
    seam::{Credential, DeadlineReason, FetchFailure, RequestHead},
};

pub(super) fn profile(name: &str, model: &str) -> Profile {
    Profile {
        name: name.into(),
        model: model.into(),
        system_prompt: format!("You are {name}."),
        max_tokens: Some(400),
        max_chars: 1_000,
        cost: 1,
        ..Profile::default()
    }
}

pub(super) fn intent(name: &str, profile: &str) -> Intent {
    Intent { name: name.into(), profile: profile.into(), ..Intent::default() }
}

/// Profiles that fail over, draft, and speak with another server.
pub(super) fn configured() -> Policy {
    let mut strong = profile("strong_v1", "strong");
    strong.fallback = Some("fast_v1".into());
    strong.timeout_ms = Some(8_000);
    let mut drafting = profile("drafting_v1", "strong");
    drafting.draft = Some("fast_v1".into());
    let mut local = profile("local_v1", "local");
    local.timeout_ms = Some(12_000);
    let mut policy = policy();
    policy.catalog = Catalog {
        version: "c0ffee".into(),
        profiles: vec![drafting, profile("fast_v1", "fast"), local, strong],
        intents: vec![
            intent("complex", "strong_v1"),
            intent("local", "local_v1"),
            intent("qa", "fast_v1"),
            intent("refine", "drafting_v1"),
        ],
        models: vec![
            Model {
                alias: "local".into(),
                kind: ModelKind::OpenAi {
                    base_url: "http://127.0.0.1:8000/v1".into(),
                    api_key: Some("LOCAL_MODEL_API_KEY".into()),
                    model: "local-chat".into(),
                },
                slots: Some(4),
                timeout_ms: None,
                side_effects: false,
                runtime: Runtime::default(),
            },
            Model {
                alias: "strong".into(),
                kind: ModelKind::OpenClaw { agent: Some("main".into()), model: Some("big/one".into()) },
                slots: None,
                timeout_ms: None,
                side_effects: true,
                runtime: Runtime::default(),
            },
        ],
        ..Catalog::default()
    };
    policy
}

pub(super) fn ask_head() -> RequestHead {
    RequestHead { path: "/v1/mini/ask".into(), ..chat_head() }
}

/// An intent whose profile has been asked.
pub(super) fn asked(policy: Policy, body: &Value) -> World {
    let mut world = World::begin(policy, ask_head());
    world.send_body(body);
    world.answer_store();
    world
}

fn question(intent: &str, stream: bool) -> Value {
    json!({"intent": intent, "input": {"text": "你好"}, "stream": stream})
}

/// The events' names and data.
pub(super) fn events(world: &World) -> Vec<(String, Value)> {
    let text = world.text();
    let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    events
        .map(|event| {
            let of = |key: &str| event.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            (of("event: ").to_owned(), serde_json::from_str(of("data: ")).expect("JSON"))
        })
        .collect()
}

fn names(world: &World) -> Vec<String> {
    events(world).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn an_intent_is_answered() {
    let mut world = asked(configured(), &question("qa", false));
    let sent = world.sent_upstream();
    assert_eq!((&sent["model"], &sent["max_tokens"]), (&json!("openclaw"), &json!(400)));
    let system = sent["messages"][0]["content"].as_str().expect("a system message");
    assert!(system.starts_with("You are fast_v1.\n"));
    assert_eq!(sent["messages"][1]["content"], "<data-5c5c5c5c>\n你好\n</data-5c5c5c5c>");
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.status(), 200);
    assert_eq!(
        world.json(),
        json!({
            "answer": "好", "requestId": format!("req_{}", "5c".repeat(16)), "traceId": "1710000123456",
            "intent": "qa", "profile": "fast_v1",
            "usage": {"input_tokens": 1997, "output_tokens": 5, "total_tokens": 2002},
            "finish": "stop", "cached": false, "degraded": false, "label": "AI生成", "attachments": []
        })
    );
    assert_eq!(world.header("ratelimit-remaining"), Some("19"));
    let record = world.record();
    for (key, value) in [
        ("route", json!("/v1/mini/ask")),
        ("intent", json!("qa")),
        ("profile", json!("fast_v1")),
        ("profileBy", json!("intent")),
        ("config", json!("c0ffee")),
        ("inputTokens", json!(1997)),
    ] {
        assert_eq!(record[key], value, "{key}");
    }
}

#[test]
fn the_bodys_trace_id_counts_where_the_head_has_none() {
    let mut head = ask_head();
    head.headers.retain(|(name, _)| name != "x-trace-id");
    let mut body = question("qa", false);
    body["traceId"] = json!(1_710_000_999_999_u64);
    let mut world = World::begin(configured(), head);
    world.send_body(&body);
    world.answer_store();
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.json()["traceId"], "1710000999999");
    assert_eq!(world.header("x-trace-id"), Some("1710000999999"));
    let mut world = asked(configured(), &body);
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.json()["traceId"], "1710000123456", "the header's");
}

#[test]
fn unknown_intents_and_no_configuration_are_said() {
    let world = asked(configured(), &question("nope", false));
    assert_eq!(world.failure(), (400, "intent_unknown".into()));
    assert!(world.json()["error"]["message"].as_str().expect("words").contains("complex, local, qa"));
    let world = asked(policy(), &question("qa", false));
    assert_eq!(world.failure(), (400, "intent_unknown".into()));
}

#[test]
fn an_alias_decides_where_a_profile_goes() {
    let world = asked(configured(), &question("complex", false));
    assert_eq!(world.sent_upstream()["model"], "openclaw/main");
    assert!(world.fetch().headers.contains(&("x-openclaw-model".into(), "big/one".into())));
    let world = asked(configured(), &question("local", false));
    assert_eq!(
        (world.fetch().upstream.as_str(), world.fetch().path.as_str()),
        ("model:local", "/chat/completions")
    );
    assert_eq!(world.fetch().credential, Some(Credential::Bearer("LOCAL_MODEL_API_KEY".into())));
    assert_eq!(world.sent_upstream()["model"], "local-chat");
}

#[test]
fn another_profile_stands_in_within_the_same_deadline() {
    let mut world = asked(configured(), &question("complex", false));
    world.now += 1_000;
    world.whole(500, &[], &error("api_error", "internal error"));
    assert_eq!(world.fetches.len(), 2, "{}", world.text());
    assert_eq!(world.sent_upstream()["model"], "openclaw");
    assert!(world.sent_upstream()["messages"][0]["content"].as_str().expect("words").contains("fast_v1"));
    world.whole(200, &[], &completion("快", "stop"));
    let answer = world.json();
    assert_eq!((&answer["answer"], &answer["profile"]), (&json!("快"), &json!("fast_v1")));
    assert_eq!((&answer["degraded"], &answer["warnings"][0]["code"]), (&json!(true), &json!("fallback")));
    assert_eq!(world.record()["fellBack"], "upstream_error");
}

#[test]
fn a_profile_that_is_too_slow_is_cut_off_and_stood_in_for() {
    let mut world = asked(configured(), &question("complex", false));
    let first = world.fetch().id;
    assert_eq!(world.wait(), DeadlineReason::Attempt);
    assert_eq!(world.cancelled, [first]);
    assert_eq!(world.now - super::world::BEGIN, 8_000);
    assert_eq!(world.fetches.len(), 2);
    world.whole(500, &[], &error("api_error", "internal error"));
    assert_eq!(world.failure(), (502, "upstream_error".into()), "one fallback and not a circle");
}

#[test]
fn a_refused_request_is_not_tried_elsewhere() {
    let mut world = asked(configured(), &question("complex", false));
    world.whole(400, &[], &error("invalid_request_error", "bad"));
    assert_eq!(world.status(), 400);
    assert_eq!(world.fetches.len(), 1);
}

#[test]
fn what_nobody_has_seen_is_sent_again_after_a_random_wait() {
    let mut world = asked(configured(), &question("qa", false));
    world.breaks(FetchFailure::Connect);
    let begun = world.now;
    assert_eq!(world.wait(), DeadlineReason::Backoff);
    assert!(world.now - begun <= 400);
    assert_eq!(world.fetches.len(), 2);
    world.breaks(FetchFailure::Connect);
    assert_eq!(world.wait(), DeadlineReason::Backoff);
    assert_eq!(world.fetches.len(), 3);
    world.breaks(FetchFailure::Connect);
    assert_eq!(world.failure(), (502, "upstream_unreachable".into()));
    let mut world = asked(configured(), &question("qa", false));
    world.breaks(FetchFailure::Reset);
    assert_eq!(world.status(), 502, "somebody may have seen it");
    assert_eq!(world.fetches.len(), 1);
}

#[test]
fn a_client_that_leaves_during_the_wait_ends_it() {
    let mut world = asked(configured(), &question("qa", false));
    world.breaks(FetchFailure::Connect);
    world.give(crate::seam::Input::ClientGone);
    assert!(world.done);
    assert_eq!(world.fetches.len(), 1);
}

#[test]
fn an_answer_as_events() {
    let mut world = asked(configured(), &question("qa", true));
    world.opens_stream();
    world.now += 100;
    world.lines(&completion_stream(&["看 ", "这里", "。"]));
    world.closes();
    assert_eq!(names(&world), ["meta", "delta", "done"], "{}", world.text());
    let events = events(&world);
    assert_eq!(events[0].1["profile"], "fast_v1");
    assert_eq!(events[1].1["text"], "看 这里。");
    assert_eq!(events[2].1["usage"]["total_tokens"], 2002);
    assert_eq!(events[2].1["label"], "AI生成");
    assert!(world.text().starts_with("id: 1\nevent: meta\n"));
}

#[test]
fn small_pieces_become_frames() {
    let mut world = asked(configured(), &question("qa", true));
    world.opens_stream();
    let text = |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
    world.lines(&text("一"));
    world.now += 10;
    world.lines(&text("二"));
    world.now += 10;
    world.lines(&text("三"));
    assert_eq!(names(&world), ["meta", "delta"], "the first goes at once");
    assert_eq!(world.wait(), DeadlineReason::Frame);
    let texts: Vec<Value> = events(&world).into_iter().map(|(_, data)| data["text"].clone()).collect();
    assert_eq!(texts[1..], [json!("一"), json!("二三")]);
}

#[test]
fn nothing_continues_what_somebody_else_began() {
    let mut world = asked(configured(), &question("complex", true));
    world.opens_stream();
    world.lines(&format!("data: {}\n\n", json!({"choices": [{"delta": {"content": "半"}}]})));
    world.breaks(FetchFailure::Reset);
    assert_eq!(names(&world), ["meta", "delta", "error"]);
    assert_eq!(world.fetches.len(), 1);
    let mut world = asked(configured(), &question("complex", true));
    world.opens_stream();
    world.breaks(FetchFailure::Reset);
    assert_eq!(world.fetches.len(), 2, "nothing was shown yet");
    world.opens_stream();
    world.lines(&completion_stream(&["好"]));
    world.closes();
    assert_eq!(names(&world), ["meta", "delta", "done"]);
    assert_eq!(events(&world)[2].1["profile"], "fast_v1");
}

#[test]
fn a_draft_comes_first_and_is_replaced() {
    let mut world = asked(configured(), &question("refine", true));
    assert_eq!(world.sent_upstream()["model"], "openclaw", "the fast one");
    world.opens_stream();
    world.lines(&completion_stream(&["草稿"]));
    world.closes();
    assert_eq!(world.sent_upstream()["model"], "openclaw/main", "the strong one");
    world.opens_stream();
    world.lines(&completion_stream(&["定稿"]));
    world.closes();
    assert_eq!(names(&world), ["meta", "draft", "refined", "done"]);
    let done = &events(&world)[3].1;
    assert_eq!((&done["profile"], &done["degraded"]), (&json!("drafting_v1"), &json!(false)));
    assert_eq!(world.record()["inputTokens"], 2 * 1997);
}

#[test]
fn a_draft_is_the_answer_when_nothing_better_comes() {
    let mut world = asked(configured(), &question("refine", true));
    world.opens_stream();
    world.lines(&completion_stream(&["草稿"]));
    world.closes();
    world.opens(500, &[]);
    world.lines(&error("api_error", "internal error"));
    world.closes();
    assert_eq!(names(&world), ["meta", "draft", "done"]);
    assert_eq!(events(&world)[2].1["degraded"], true);
    // And a draft that fails is not missed.
    let mut world = asked(configured(), &question("refine", true));
    world.opens(500, &[]);
    world.lines(&error("api_error", "internal error"));
    world.closes();
    world.opens_stream();
    world.lines(&completion_stream(&["定稿"]));
    world.closes();
    assert_eq!(names(&world), ["meta", "delta", "done"]);
}

#[test]
fn memory_is_the_clients_or_openclaws() {
    let mut policy = configured();
    policy.catalog.profiles[1].memory = Memory::Gateway;
    let mut body = question("qa", false);
    body["userId"] = json!("u1");
    body["input"]["history"] = json!([{"role": "user", "content": "earlier"}]);
    let world = asked(policy, &body);
    assert_eq!(world.sent_upstream()["messages"].as_array().map(Vec::len), Some(2));
    let session = world.fetch().headers.iter().find(|(name, _)| name == "x-openclaw-session-key");
    assert!(session.is_some());
    let world = asked(configured(), &body);
    assert_eq!(world.sent_upstream()["messages"][1]["content"], "earlier");
    assert!(world.fetch().headers.iter().all(|(name, _)| name != "x-openclaw-session-key"));
}

#[test]
fn a_wanted_profile_that_may_not_be_is_ignored_and_logged() {
    let mut head = ask_head();
    head.headers.push(("x-openclaw-profile".into(), "strong_v1".into()));
    let mut world = World::begin(configured(), head);
    world.send_body(&question("qa", false));
    world.answer_store();
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.json()["profile"], "fast_v1");
    assert_eq!(world.record()["profileIgnored"], "not_allowed");
}
