//! A client that leaves, inputs that come too late, a module that breaks; and that no log
//! line and no stored state repeats what was said.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{
        chunk_text, completion, completion_stream, error, picture, question, response_failed, response_stream,
    },
    world::{BEGIN, KEY, World, chat_head, get, policy},
};
use crate::{
    exchange::Exchange,
    policy::StoreFailure,
    seam::{BodyFailure, FetchFailure, Input, Level, Moment, Output},
    state::Outcome,
};

/// An exchange in each phase that waits for something, and whether a fetch runs in it.
fn each_phase() -> Vec<(&'static str, World, bool)> {
    let body = World::begin(policy(), chat_head());
    let mut token = World::begin(policy(), chat_head());
    token.send_body(&question(false));
    let answer = World::asked(policy(), &question(false));
    let head = World::asked(policy(), &question(true));
    let mut refusal = World::asked(policy(), &question(true));
    refusal.opens(502, &[]);
    let mut stream = World::asked(policy(), &question(true));
    stream.opens_stream();
    stream.lines(&chunk_text("half"));
    let probes = World::begin(policy(), get("/readyz"));
    let mut probe = World::begin(policy(), get("/readyz"));
    probe.whole(200, &[], "{}");
    vec![
        ("body", body, false),
        ("token", token, false),
        ("answer", answer, true),
        ("stream head", head, true),
        ("stream refusal", refusal, true),
        ("streaming", stream, true),
        ("both probes", probes, true),
        ("one probe", probe, false),
    ]
}

/// Everything that could still come, with the id of every fetch and operation.
fn everything(world: &mut World) {
    let ids: Vec<u32> = (0..5).collect();
    for id in ids {
        let headers = vec![("content-type".into(), "text/event-stream".into())];
        world.give(Input::Stored { id, outcomes: vec![Outcome::Admitted; 3] });
        world.give(Input::Woken { id });
        world.give(Input::StoreFailed { id });
        world.give(Input::FetchHead { id, status: 200, headers });
        world.give(Input::FetchLines { id, lines: b"data: {}\n\n" });
        world.give(Input::FetchWhole { id, status: 200, headers: Vec::new(), body: b"{}" });
        world.give(Input::FetchEnd { id });
        world.give(Input::FetchFailed { id, failure: FetchFailure::Reset });
    }
    world.give(Input::Body(b"{}"));
    world.give(Input::BodyFailed(BodyFailure::Incomplete));
    world.now += 3_600_000;
    world.give(Input::Deadline);
    world.give(Input::ClientGone);
}

#[test]
fn a_client_that_leaves_in_any_phase() {
    for (phase, mut world, runs) in each_phase() {
        let (sent, head) = (world.text(), world.head.clone());
        world.give(Input::ClientGone);
        assert!(world.done && !world.ended, "{phase}");
        assert_eq!((world.text(), &world.head), (sent, &head), "{phase}: nobody listens");
        let expected = if runs { vec![world.fetch().id] } else { Vec::new() };
        assert_eq!(world.cancelled, expected, "{phase}");
        let record = world.record();
        assert_eq!((&record["status"], &record["clientGone"]), (&json!(499), &json!(true)), "{phase}");
    }
}

#[test]
fn what_comes_after_the_end_is_passed_over() {
    for (phase, mut world, _) in each_phase() {
        world.give(Input::ClientGone);
        let seen = (world.records.len(), world.cancelled.len(), world.fetches.len(), world.chunks.len());
        everything(&mut world);
        let after = (world.records.len(), world.cancelled.len(), world.fetches.len(), world.chunks.len());
        assert_eq!(seen, after, "{phase}");
    }
    let mut answered = World::asked(policy(), &question(false));
    answered.whole(200, &[], &completion("a", "stop"));
    let text = answered.text();
    everything(&mut answered);
    assert_eq!((answered.status(), answered.text()), (200, text));
}

#[test]
fn what_is_not_waited_for_changes_nothing() {
    for (phase, mut world, _) in each_phase() {
        let before = (world.deadline, world.text(), world.state_len());
        for id in [0, 77, u32::MAX] {
            world.give(Input::StoreFailed { id });
            world.give(Input::FetchEnd { id });
            world.give(Input::FetchLines { id, lines: b"data: [DONE]\n\n" });
            world.give(Input::FetchFailed { id, failure: FetchFailure::Connect });
        }
        if phase != "body" {
            world.give(Input::Body(b"{}"));
            world.give(Input::BodyFailed(BodyFailure::TooLarge));
        }
        assert_eq!(before, (world.deadline, world.text(), world.state_len()), "{phase}");
    }
}

#[test]
fn a_module_that_breaks_costs_one_request() {
    let begun = Moment { unix_ms: BEGIN, entropy: [0x5c; 16] };
    let now = Moment { unix_ms: BEGIN + 9, ..begun };
    let outputs = Exchange::broken(&policy(), &chat_head(), begun, now, false);
    let [
        Output::Head { status: 500, .. },
        Output::Chunk(body),
        Output::End,
        record,
        Output::Audit { .. },
        Output::Measure(_),
        Output::Done,
    ] = outputs.as_slice()
    else {
        panic!("{outputs:?}")
    };
    let body: Value = serde_json::from_slice(body).expect("JSON");
    assert_eq!((&body["error"]["code"], &body["traceId"]), (&json!("internal"), &json!("1710000123456")));
    assert!(matches!(record, Output::Record { level: Level::Error, .. }));
    let outputs = Exchange::broken(&policy(), &chat_head(), begun, now, true);
    let [
        Output::Chunk(events),
        Output::End,
        Output::Record { .. },
        Output::Audit { .. },
        Output::Measure(_),
        Output::Done,
    ] = outputs.as_slice()
    else {
        panic!("{outputs:?}")
    };
    assert!(events.starts_with(b"data: {\"error\"") && events.ends_with(b"\n\ndata: [DONE]\n\n"));
}

const QUESTION: &str = "question-canary-4b1f";
const ANSWER: &str = "answer-canary-9c3e";
const USER: &str = "user-canary-0d2a";
const WORDS: &str = "upstream-canary-c77e";

/// A request that says something that nobody else may read.
fn secret(mut body: Value) -> Value {
    body["messages"][0]["content"] = QUESTION.into();
    body["user"] = USER.into();
    body
}

/// Scripts that each end in another way.
fn scripts() -> Vec<World> {
    let mut closed = policy();
    closed.store_failure = StoreFailure::Closed;
    let mut worlds = Vec::new();
    let mut run = |world: World, script: &dyn Fn(&mut World)| {
        let mut world = world;
        script(&mut world);
        worlds.push(world);
    };
    let whole = || World::asked(policy(), &secret(question(false)));
    let stream = || {
        let mut world = World::asked(policy(), &secret(question(true)));
        world.opens_stream();
        world
    };
    let pictures = || {
        let mut world = World::asked(policy(), &secret(picture(true)));
        world.opens_stream();
        world
    };
    run(whole(), &|world| world.whole(200, &[], &completion(ANSWER, "stop")));
    run(whole(), &|world| world.whole(500, &[], &error(WORDS, "api_error")));
    run(whole(), &|world| world.whole(200, &[], WORDS));
    run(whole(), &|world| world.give(Input::ClientGone));
    run(stream(), &|world| world.lines(&chunk_text(ANSWER)));
    run(stream(), &|world| {
        world.lines(&completion_stream(&[ANSWER]));
        world.closes();
    });
    run(stream(), &|world| world.lines(&format!("data: {}\n\n", error(WORDS, "api_error"))));
    run(pictures(), &|world| {
        world.lines(&response_stream(&[ANSWER]));
        world.closes();
    });
    run(pictures(), &|world| world.lines(&response_failed("api_error", WORDS)));
    run(World::begin(policy(), chat_head()), &|world| {
        world.send_body(&json!({"messages": QUESTION, "user": USER}));
    });
    run(World::begin(policy(), chat_head()), &|world| {
        world.send_body(&json!({"messages": [{"role": QUESTION, "content": QUESTION}]}));
    });
    run(World::begin(closed, chat_head()), &|world| {
        world.send_body(&secret(question(false)));
        world.break_store();
    });
    let mut wrong = chat_head();
    wrong.headers[1].1 = format!("{KEY}-wrong");
    run(World::begin(policy(), wrong), &|_| {});
    let mut strange = chat_head();
    strange.path = format!("/{QUESTION}");
    run(World::begin(policy(), strange), &|_| {});
    worlds
}

#[test]
fn no_log_line_says_what_was_said() {
    for mut world in scripts() {
        world.give(Input::ClientGone);
        assert_eq!(world.records.len(), 1);
        for canary in [KEY, QUESTION, ANSWER, USER, WORDS] {
            assert!(!world.records[0].1.contains(canary), "{canary} in {}", world.records[0].1);
            assert!(!world.audit.concat().contains(canary), "{canary} in {:?}", world.audit);
        }
        let client = world.text();
        for canary in [KEY, WORDS, QUESTION, USER] {
            assert!(!client.contains(canary), "{canary} in {client}");
        }
        for (key, _) in world.asked.iter().flat_map(|(_, ops)| ops) {
            assert!(!key.contains(USER), "{key}");
        }
    }
}

#[test]
fn no_state_keeps_a_body_or_a_key() {
    for (phase, mut world, _) in each_phase() {
        assert!(!world.state_contains("hello there"), "{phase}");
        assert!(!world.state_contains(KEY), "{phase}");
        if phase == "token" {
            world.answer_store();
            assert!(!world.state_contains("hello there"), "{phase}");
        }
    }
}
