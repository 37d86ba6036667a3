//! The model gateway: what its caller sees whatever a model's server does, and who is asked.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::world::{World, policy};
use crate::{
    policy::{
        Policy, StoreFailure,
        auth::KeyDigest,
        catalog::{Catalog, Model, ModelKind, Overflow, Runtime},
    },
    seam::{Credential, DeadlineReason, FetchFailure, RequestHead},
    state::{
        Op,
        admission::{Admit, Verdict},
        caller::Thresholds,
        usage::Learn,
    },
};

const TOKEN: &str = "token-canary-93c1";

fn model(alias: &str, slots: Option<u16>, runtime: Runtime) -> Model {
    Model {
        alias: alias.into(),
        kind: ModelKind::OpenAi {
            base_url: "http://127.0.0.1:8000/v1".into(),
            api_key: Some("LOCAL_MODEL_API_KEY".into()),
            model: format!("{alias}-at-its-server"),
        },
        slots,
        timeout_ms: Some(12_000),
        side_effects: false,
        runtime,
    }
}

/// A model alone, one with three servers, and one that another stands in for.
fn configured() -> Policy {
    let mut policy = policy();
    policy.auth_tokens = vec![KeyDigest::of(TOKEN.as_bytes())];
    let small = Runtime { context_tokens: Some(400), on_overflow: Overflow::Trim, ..Runtime::default() };
    let many = Runtime { replicas: vec!["http://b/v1".into(), "http://c/v1".into()], ..Runtime::default() };
    let backed = Runtime { fallback: Some("local".into()), ..Runtime::default() };
    let agent = Model {
        kind: ModelKind::OpenClaw { agent: None, model: None },
        ..model("agent", None, Runtime::default())
    };
    policy.catalog = Catalog {
        version: "c0ffee".into(),
        models: vec![
            agent,
            model("backed", Some(4), backed),
            model("local", Some(1), Runtime::default()),
            model("many", Some(4), many),
            model("small", None, small),
        ],
        default_model: Some("local".into()),
        ..Catalog::default()
    };
    policy
}

fn head(method: &str, path: &str, token: &str) -> RequestHead {
    let headers =
        vec![("authorization".to_owned(), format!("Bearer {token}")), ("x-trace-id".into(), "t-1".into())];
    RequestHead {
        method: method.into(),
        path: path.into(),
        headers,
        peer: "203.0.113.9".into(),
        ..RequestHead::default()
    }
}

fn question(model: &str, stream: bool) -> Value {
    let messages =
        json!([{"role": "system", "content": "be kind"}, {"role": "user", "content": "canary-words"}]);
    json!({"model": model, "messages": messages, "stream": stream, "tools": [{"type": "function"}]})
}

fn begun(policy: Policy, body: &Value) -> World {
    let mut world = World::begin(policy, head("POST", "/v1/chat/completions", TOKEN));
    world.send_body(body);
    world
}

/// A request whose slot was granted: a server was asked.
fn asked(policy: Policy, body: &Value) -> World {
    let mut world = begun(policy, body);
    world.answer_store();
    assert_eq!(world.fetches.len(), 1, "{}", world.text());
    world
}

/// The status and code of an error in OpenAI's form.
fn error(world: &World) -> (u16, String) {
    let body = world.json();
    assert_eq!(body["error"]["traceId"], "t-1");
    assert!(body["error"]["message"].is_string() && body["error"]["type"].is_string());
    assert!(body["error"].as_object().is_some_and(|error| error.contains_key("param")));
    (world.status(), body["error"]["code"].as_str().expect("a code").to_owned())
}

fn answer(text: &str) -> String {
    let usage = json!({"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45});
    json!({"id": "x", "choices": [{"message": {"content": text}}], "usage": usage, "x": 1}).to_string()
}

fn chunk(text: &str) -> String {
    format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}, "finish_reason": null}]}))
}

const LAST: &str = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2,\"total_tokens\":6}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[test]
fn an_answer_passes_as_it_came() {
    let mut world = asked(configured(), &question("local", false));
    let fetch = world.fetch();
    assert_eq!((fetch.upstream.as_str(), fetch.path.as_str()), ("model:local", "/chat/completions"));
    assert_eq!(fetch.credential, Some(Credential::Bearer("LOCAL_MODEL_API_KEY".into())));
    let mut expected = question("local", false);
    expected["model"] = "local-at-its-server".into();
    assert_eq!(world.sent_upstream(), expected);
    world.whole(200, &[], &answer("hello"));
    assert_eq!((world.status(), world.text()), (200, answer("hello")));
    let turn = world.samples[0].turn.as_ref().expect("a turn");
    assert_eq!(turn.labels.model, "local", "the configuration's models are named in the figures");
    let record = world.record();
    assert_eq!((&record["model"], &record["inputTokens"]), (&json!("local"), &json!(40)));
    let line = record.to_string();
    assert!(!["canary-words", "hello", TOKEN].iter().any(|word| line.contains(word)), "{line}");
}

#[test]
fn a_stream_passes_without_what_was_not_asked_for() {
    let mut world = asked(configured(), &question("local", true));
    assert_eq!(world.sent_upstream()["stream_options"], json!({"include_usage": true}));
    world.opens_stream();
    assert!(world.head.is_none(), "nothing has come yet");
    world.lines(&chunk("he"));
    world.lines(&[LAST, USAGE, DONE].concat());
    assert!(!world.ended);
    world.closes();
    assert_eq!(world.text(), [&chunk("he"), LAST, DONE].concat());
    assert_eq!((world.status(), &world.record()["outputTokens"]), (200, &json!(2)));

    let mut body = question("local", true);
    body["stream_options"] = json!({"include_usage": true});
    let mut world = asked(configured(), &body);
    world.opens_stream();
    world.lines(&[&chunk("x"), LAST, USAGE].concat());
    // It forgets the end mark.
    world.closes();
    assert_eq!(world.text(), [&chunk("x"), LAST, USAGE, DONE].concat());
}

#[test]
fn only_holders_of_a_token_get_in() {
    let mut policy = configured();
    for token in ["", "another", super::world::KEY] {
        let world = World::begin(policy.clone(), head("POST", "/v1/chat/completions", token));
        assert_eq!(error(&world), (401, "unauthorized".into()));
    }
    let world = World::begin(policy.clone(), head("GET", "/v1/models", "x"));
    assert_eq!(error(&world).0, 401);
    policy.abuse = Thresholds { slow: 30, restrict: 60, block: 120, block_ms: 60_000 };
    let mut world = World::begin(policy.clone(), head("POST", "/v1/chat/completions", TOKEN));
    world.send_body(&json!({"messages": []}));
    assert_eq!(error(&world), (400, "messages_empty".into()));
    assert!(world.told.is_empty(), "a server's mistake is no abuse");
    policy.auth_tokens.clear();
    let mut world = World::begin(policy, head("POST", "/v1/chat/completions", ""));
    world.answer_store();
    assert_eq!(error(&world).0, 401, "without a token of ours nobody gets in");
}

#[test]
fn models_are_named_by_alias_or_by_their_servers_name() {
    for name in ["small", "small-at-its-server"] {
        assert_eq!(asked(configured(), &question(name, false)).fetch().upstream, "model:small");
    }
    let mut body = question("x", false);
    body.as_object_mut().expect("an object").remove("model");
    assert_eq!(asked(configured(), &body).fetch().upstream, "model:local");
    for name in ["nobody", "agent"] {
        let world = begun(configured(), &question(name, false));
        assert_eq!(error(&world), (404, "model_not_found".into()));
        assert_eq!(world.json()["error"]["param"], "model");
    }
    let world = World::begin(configured(), head("GET", "/v1/models", TOKEN));
    let listed: Vec<Value> = world.json()["data"].as_array().expect("a list").clone();
    let ids: Vec<&str> = listed.iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, ["backed", "local", "many", "small"]);
    for name in ["small", "small-at-its-server"] {
        let world = World::begin(configured(), head("GET", &format!("/v1/models/{name}"), TOKEN));
        assert_eq!((world.status(), &world.json()["id"]), (200, &json!("small")));
    }
    for name in ["nobody", "agent", ""] {
        let world = World::begin(configured(), head("GET", &format!("/v1/models/{name}"), TOKEN));
        assert_eq!(error(&world), (404, "model_not_found".into()));
    }
}

#[test]
fn a_mere_model_gateway_has_nothing_else() {
    let alone = Policy { only_models: true, api_keys: Vec::new(), ..configured() };
    for (method, path) in [("POST", "/api/chat"), ("POST", "/v1/mini/ask"), ("POST", "/v1/mini/login")] {
        let world = World::begin(alone.clone(), head(method, path, TOKEN));
        assert_eq!(world.status(), 404, "{path}");
    }
    assert_eq!(World::begin(alone.clone(), head("GET", "/metrics", "x")).status(), 401);
    assert_eq!(World::begin(alone.clone(), head("GET", "/v1/models", TOKEN)).status(), 200);
    let mut world = World::begin(alone, head("GET", "/readyz", ""));
    world.answer_store();
    assert_eq!(world.json(), json!({"ready": true, "checks": {"store": "ok"}}));
}

#[test]
fn whatever_a_server_does_its_caller_gets_an_error_of_openais_form() {
    let whole = |status, body: &str| {
        let mut world = asked(configured(), &question("local", false));
        world.whole(status, &[("retry-after", "9")], body);
        assert!(!world.text().contains("secret"));
        error(&world)
    };
    assert_eq!(whole(500, "secret"), (502, "upstream_error".into()));
    assert_eq!(whole(503, "secret"), (503, "upstream_overloaded".into()));
    assert_eq!(whole(401, "secret"), (502, "upstream_misconfigured".into()));
    assert_eq!(whole(400, r#"{"error":{"message":"secret"}}"#), (400, "upstream_refused_request".into()));
    assert_eq!(whole(200, "<html>secret"), (502, "upstream_protocol".into()));
    for (failure, expected) in [
        (FetchFailure::Connect, (502, "upstream_unreachable")),
        (FetchFailure::ConnectTimeout, (504, "upstream_timeout")),
        (FetchFailure::Reset, (502, "upstream_protocol")),
    ] {
        let mut world = asked(configured(), &question("local", true));
        world.breaks(failure);
        assert_eq!(error(&world), (expected.0, expected.1.to_owned()));
    }
    let mut world = asked(configured(), &question("local", true));
    world.opens(429, &[("retry-after", "9")]);
    world.lines("{\"error\":");
    world.closes();
    assert_eq!(
        (error(&world), world.header("retry-after")),
        ((503, "upstream_overloaded".into()), Some("9"))
    );
    let mut world = asked(configured(), &question("local", true));
    world.opens(200, &[("content-type", "application/json")]);
    assert_eq!(error(&world), (502, "upstream_protocol".into()));
}

#[test]
fn a_stream_that_fails_ends_with_an_error_and_without_an_end_mark() {
    for cut in ["", "data: rubbish\n\n", "data: {\"error\":{\"message\":\"secret\"}}\n\n"] {
        let mut world = asked(configured(), &question("local", true));
        world.opens_stream();
        world.lines(&[&chunk("he"), cut].concat());
        if cut.is_empty() {
            world.closes();
        }
        assert_eq!(world.status(), 200);
        let events = world.events();
        assert_eq!(events.len(), 2, "{events:?}");
        assert_eq!(events[1]["error"]["traceId"], "t-1");
        assert!(!world.text().contains("secret") && !world.text().contains("[DONE]"));
    }
}

#[test]
fn a_server_that_hangs_costs_no_more_than_its_time() {
    let mut world = asked(configured(), &question("local", false));
    let begun = world.now;
    assert_eq!(world.wait_through_leases(), DeadlineReason::Turn);
    assert_eq!((error(&world), world.now - begun), ((504, "upstream_timeout".into()), 12_000));
    assert_eq!(world.cancelled, [world.fetch().id]);

    let mut world = asked(configured(), &question("local", true));
    world.opens_stream();
    world.lines(&chunk("he"));
    assert_eq!(world.wait_through_leases(), DeadlineReason::Turn);
    assert_eq!(world.events()[1]["error"]["code"], "upstream_timeout");
}

#[test]
fn another_replica_answers_once_in_place_of_one_that_failed() {
    let mut world = asked(configured(), &question("many", true));
    let first = world.fetch().upstream.clone();
    world.opens_stream();
    world.lines("data: rubbish\n\n");
    world.answer_store();
    let second = world.fetch().upstream.clone();
    assert!(world.fetches.len() == 2 && first != second && second.starts_with("model:many"), "{second}");
    assert!(world.head.is_none());
    world.opens_stream();
    world.lines(&[&chunk("ok"), LAST, DONE].concat());
    world.closes();
    assert_eq!((world.streamed(), &world.record()["fellBack"]), ("ok".into(), &json!("upstream_protocol")));

    let mut world = asked(configured(), &question("many", false));
    world.breaks(FetchFailure::Connect);
    world.answer_store();
    world.breaks(FetchFailure::Connect);
    assert_eq!((error(&world), world.fetches.len()), ((502, "upstream_unreachable".into()), 2));

    // Once something has gone to the caller nobody continues it.
    let mut world = asked(configured(), &question("many", true));
    world.opens_stream();
    world.lines(&chunk("he"));
    world.breaks(FetchFailure::Reset);
    assert_eq!((world.status(), world.fetches.len()), (200, 1));
}

#[test]
fn another_replica_has_its_own_time_after_one_that_hangs() {
    let mut world = asked(configured(), &question("many", false));
    let (begun, first) = (world.now, world.fetch().upstream.clone());
    assert_eq!(world.wait_through_leases(), DeadlineReason::Attempt);
    world.answer_store();
    let second = world.fetch().upstream.clone();
    assert!(first != second && second.starts_with("model:many"), "{second}");
    assert_eq!((world.now - begun, world.cancelled.len()), (12_000, 1));
    // Nobody is asked a third time.
    assert_eq!(world.wait_through_leases(), DeadlineReason::Turn);
    assert_eq!((error(&world), world.now - begun), ((504, "upstream_timeout".into()), 24_000));
}

#[test]
fn the_model_that_stands_in_has_its_own_name_and_time() {
    let mut world = asked(configured(), &question("backed", false));
    assert_eq!(world.wait_through_leases(), DeadlineReason::Attempt);
    world.answer_store();
    assert_eq!(world.fetch().upstream, "model:local");
    assert_eq!(world.sent_upstream()["model"], "local-at-its-server");
    world.whole(200, &[], &answer("ok"));
    assert_eq!(world.status(), 200);

    // What lies with the request itself is not asked of another.
    let mut world = asked(configured(), &question("backed", false));
    world.whole(400, &[], "");
    assert_eq!((error(&world).0, world.fetches.len()), (400, 1));
}

#[test]
fn callers_wait_in_turn_and_go_on_when_there_is_room() {
    let policy = configured();
    let mut world = begun(policy.clone(), &question("local", false));
    let admit = Admit {
        ticket: 1,
        flow: 1,
        weight: 1,
        session: None,
        model: crate::policy::auth::number("local"),
        give_up_ms: u64::MAX,
        lease_ms: 60_000,
        slots: 1,
        model_slots: 1,
        places: 64,
        replicas: 1,
        avoid: None,
    };
    let (key, wanted) = match world.asked.first().and_then(|(_, ops)| ops.last()) {
        Some((key, Op::Admit(wanted))) => (key.clone(), *wanted),
        other => panic!("{other:?}"),
    };
    assert_eq!((wanted.slots, wanted.model_slots, wanted.model), (1, 1, admit.model));
    world.apply(&key, &Op::Admit(admit));
    world.answer_store();
    assert!(world.fetches.is_empty() && world.watched.is_some());
    assert_eq!(world.wait(), DeadlineReason::Queue);
    world.answer_store();
    let release = crate::state::admission::Release {
        ticket: 1,
        model: admit.model,
        flow: 1,
        verdict: Verdict::Well,
        slots: 1,
    };
    assert_eq!(world.apply(&key, &Op::Release(release)), 1);
    world.wake();
    world.answer_store();
    world.whole(200, &[], &answer("at last"));
    assert_eq!((world.status(), &world.record()["queued"]), (200, &json!(true)));

    // Two people of one token are two flows, and one person of two tokens too.
    let flow = |user: &str| {
        let mut body = question("local", false);
        body["user"] = user.into();
        match begun(policy.clone(), &body).asked.pop().and_then(|(_, mut ops)| ops.pop()) {
            Some((_, Op::Admit(admit))) => admit.flow,
            other => panic!("{other:?}"),
        }
    };
    assert!(flow("a") != flow("b") && flow("a") == flow("a"));
}

#[test]
fn what_a_model_does_not_hold_is_left_out_or_refused() {
    let said = |role: &str, text: String| json!({"role": role, "content": text});
    let body = json!({"model": "small", "messages": [
        said("user", "old ".repeat(200)), said("assistant", "words ".repeat(200)), said("user", "now".into()),
    ]});
    let mut world = asked(configured(), &body);
    assert_eq!(world.sent_upstream()["messages"], json!([said("user", "now".into())]));
    world.whole(200, &[], &answer("ok"));
    assert_eq!(
        (world.header("x-minigate-trimmed-messages"), &world.record()["trimmedMessages"]),
        (Some("2"), &json!(2))
    );
    assert!(world.told.iter().any(|(key, op)| key == "usage:model:small"
        && matches!(op, Op::Learn(Learn { counted: 40, .. }))));

    let long = json!({"model": "small", "messages": [said("user", "now ".repeat(800))]});
    let mut world = begun(configured(), &long);
    world.answer_store();
    assert_eq!(error(&world), (400, "context_length_exceeded".into()));
    assert!(world.fetches.is_empty());
    assert!(world.told.iter().any(|(_, op)| matches!(op, Op::Release(_))), "its slot is given back");
}

#[test]
fn without_a_store_it_goes_as_the_settings_say() {
    let mut world = begun(configured(), &question("many", false));
    world.break_store();
    assert!(world.fetch().upstream.starts_with("model:many"));
    let mut policy = configured();
    policy.store_failure = StoreFailure::Closed;
    let mut world = begun(policy, &question("many", false));
    world.break_store();
    assert_eq!(error(&world), (503, "store_unavailable".into()));
}

#[test]
fn a_caller_that_leaves_ends_everything() {
    let mut world = asked(configured(), &question("local", true));
    world.opens_stream();
    world.lines(&chunk("he"));
    world.give(crate::seam::Input::ClientGone);
    assert_eq!((world.cancelled.len(), world.done), (1, true));
    assert!(!world.state_contains("canary-words"));
}
