//! What a request is worth counting, its stages, and `/metrics`.

use serde_bytes::ByteBuf;
use serde_json::json;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::world::{BEGIN, KEY, World, chat_head, get, guarded, policy};
use crate::{
    measure::{Ending, Process, Sample, Sign, Sockets, StageName, Totals},
    policy::{Environment, Policy, auth::KeyDigest},
    seam::{Input, RequestHead},
    state::Op,
};

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn hello() -> serde_json::Value {
    json!({"messages": [{"role": "user", "content": "hello canary"}]})
}

fn answer() -> String {
    json!({
        "choices": [{"message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25},
    })
    .to_string()
}

#[test]
fn a_turn_is_measured_with_its_stages() {
    let mut world = World::begin(policy(), chat_head());
    world.now += 30;
    world.send_body(&hello());
    world.now += 2;
    world.answer_store();
    world.now += 800;
    world.whole(200, &[], &answer());
    let [sample] = world.samples.as_slice() else { panic!("{:?}", world.samples) };
    assert_eq!(
        (sample.route.as_str(), sample.status, sample.total_ms, sample.added_ms),
        ("/api/chat", 200, 832, 0)
    );
    let turn = sample.turn.as_ref().expect("a turn");
    assert_eq!((turn.ending, turn.model_ms, turn.first_ms), (Ending::Answered, Some(800), Some(800)));
    assert_eq!((turn.tokens, turn.retries), (Some((20, 5)), 0));
    assert_eq!((turn.labels.model.as_str(), turn.labels.intent.as_str()), ("openclaw", ""));
    let stages: Vec<_> =
        sample.trace.stages.iter().map(|stage| (stage.name, stage.start_ms, stage.end_ms)).collect();
    let expected = [(StageName::Body, 0, 30), (StageName::Gates, 30, 32), (StageName::Upstream, 32, 832)];
    assert_eq!(stages, expected);
    assert_eq!((sample.trace.started_ms, sample.trace.shown_id.as_str()), (BEGIN, "1710000123456"));
    assert_eq!((sample.trace.trace_id.len(), sample.trace.span_id.len()), (32, 16));
}

#[test]
fn the_clients_trace_goes_on_upstream() {
    let mut head = chat_head();
    head.headers.push(("traceparent".into(), TRACEPARENT.into()));
    let mut world = World::begin(policy(), head);
    world.send_body(&hello());
    world.answer_store();
    let fetch = world.fetch();
    let sent =
        fetch.headers.iter().find(|(name, _)| name == "traceparent").expect("it is passed on").1.clone();
    let span = "5c5c5c5c5c5c5c5c";
    assert_eq!(sent, format!("00-4bf92f3577b34da6a3ce929d0e0e4736-{span}-01"));
    world.whole(200, &[], &answer());
    let trace = &world.samples[0].trace;
    assert_eq!(trace.trace_id, "4bf92f3577b34da6a3ce929d0e0e4736");
    assert_eq!((trace.span_id.as_str(), trace.parent_id.as_deref()), (span, Some("00f067aa0ba902b7")));
    // The client's own id is what logs and answers show.
    assert_eq!(trace.shown_id, "1710000123456");
}

#[test]
fn without_a_trace_nothing_is_added_unless_traces_are_exported() {
    for traces in [false, true] {
        let mut world = World::begin(Policy { traces, ..policy() }, chat_head());
        world.send_body(&hello());
        world.answer_store();
        assert_eq!(world.fetch().headers.iter().any(|(name, _)| name == "traceparent"), traces);
    }
}

#[test]
fn who_leaves_and_who_is_refused_are_told_apart() {
    let mut world = World::asked(policy(), &hello());
    world.give(Input::ClientGone);
    let sample = &world.samples[0];
    assert_eq!((sample.status, sample.turn.as_ref().map(|turn| turn.ending)), (499, Some(Ending::Left)));

    let mut head = chat_head();
    head.headers.retain(|(name, _)| name != "x-api-key");
    let world = World::begin(policy(), head);
    let sample = &world.samples[0];
    assert_eq!((sample.status, sample.turn.is_none()), (401, true));
}

#[test]
fn repetitions_are_signs() {
    let mut store = std::collections::BTreeMap::new();
    let mut seen = Vec::new();
    for _ in 0..8 {
        let mut world = World::begin_in(guarded(), chat_head(), BEGIN, store);
        let mut body = hello();
        body["user"] = "u".into();
        world.send_body(&body);
        world.answer_store();
        world.whole(200, &[], &answer());
        seen.extend(world.samples[0].signs.clone());
        store = world.store;
    }
    assert_eq!(seen, [Sign::Repeated; 3], "after five");
}

fn metrics_head(key: Option<&str>) -> RequestHead {
    let mut head = get("/metrics");
    head.headers.extend(key.map(|key| ("authorization".into(), format!("Bearer {key}"))));
    head
}

fn watched() -> Policy {
    let digest = |key: &str| KeyDigest::of(key.as_bytes());
    Policy { metrics_keys: vec![digest("metrics-key"), digest("admin-key")], ..guarded() }
}

#[test]
fn metrics_want_a_key_of_their_own() {
    for key in [None, Some(KEY), Some("x")] {
        let mut world = World::begin(watched(), metrics_head(key));
        world.answer_store();
        assert_eq!(world.status_so_far(), Some(401), "{key:?}");
    }
    // Without keys at all nobody is kept out: that is allowed in dev alone.
    let open = Policy { api_keys: Vec::new(), environment: Environment::Dev, ..policy() };
    assert!(World::begin(open, metrics_head(None)).stats.is_some());
    // With keys for clients and none for metrics, nobody sees them.
    let mut world = World::begin(guarded(), metrics_head(Some(KEY)));
    world.answer_store();
    assert_eq!(world.status_so_far(), Some(401));
}

fn shown(world: &mut World) -> String {
    world.answer_store();
    let mut totals = Totals::default();
    let sample = Sample { route: "/api/chat".into(), status: 200, total_ms: 700, ..Sample::default() };
    totals.absorb(&sample, world.now);
    let id = world.stats.expect("the host is asked");
    let sockets = Some(Sockets { open: 1, wanted: 2, opened: 7, failed: 3 });
    let process = Process { silent_ms: Some(1_500), unwritten_ms: Some(0), sockets, ..Process::default() };
    world.give(Input::Stats { id, totals: ByteBuf::from(totals.encode()), process });
    totals.absorb(&sample, world.now);
    // What an isolate of the edge has counted.
    world.apply("stats:2", &Op::Absorb { totals: ByteBuf::from(totals.encode()) });
    world.apply("starts", &crate::seam::started().1);
    world.answer_store();
    assert_eq!(world.status_so_far(), Some(200));
    String::from_utf8(world.chunks.concat()).unwrap()
}

#[test]
fn metrics_are_the_hosts_and_the_stores_together() {
    let mut world = World::begin(watched(), metrics_head(Some("metrics-key")));
    let text = shown(&mut world);
    for line in [
        "http_server_request_duration_seconds_count{http_route=\"/api/chat\",http_response_status_code=\"200\"} 3",
        "minigate_queue_length{upstream=\"openclaw\"} 0",
        "minigate_slots{upstream=\"openclaw\"} 8",
        "minigate_breaker_state{upstream=\"openclaw\",gen_ai_request_model=\"openclaw\"} 0",
        "minigate_log_silence_seconds 1.5",
        "minigate_log_unwritten_seconds 0",
        "minigate_robot_sockets 1",
        "minigate_robot_connects_total 7",
        "minigate_starts_total 1",
        "# TYPE http_server_request_duration_seconds histogram",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    let kind = world.head.unwrap().1.into_iter().find(|(name, _)| name == "content-type").unwrap().1;
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
}

#[test]
fn a_store_that_fails_hides_the_rest_only_where_nothing_else_is_known() {
    for empty in [false, true] {
        let mut world = World::begin(watched(), metrics_head(Some("admin-key")));
        world.answer_store();
        let mut totals = Totals::default();
        if !empty {
            totals.absorb(&Sample { route: "/api/chat".into(), status: 200, ..Sample::default() }, world.now);
        }
        let id = world.stats.expect("the host is asked");
        let process = Process::default();
        world.give(Input::Stats { id, totals: ByteBuf::from(totals.encode()), process });
        world.break_store();
        assert_eq!(world.status_so_far(), Some(if empty { 503 } else { 200 }));
    }
}
