//! What happens when something takes too long.

use serde_json::json;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{
        chunk_finish, chunk_role, chunk_text, completion, completion_stream, picture, question, response_text,
    },
    world::{BEGIN, World, chat_head, policy},
};
use crate::{
    policy::StoreFailure,
    seam::{DeadlineReason, Input},
};

#[test]
fn the_body() {
    let mut world = World::begin(policy(), chat_head());
    assert_eq!(world.deadline, Some((BEGIN + 30_000, DeadlineReason::Body)));
    world.wait();
    assert_eq!(world.failure(), (408, "body_timeout".into()));
}

#[test]
fn the_turn_counts_from_the_head() {
    let mut world = World::begin(policy(), chat_head());
    world.now += 29_999;
    world.send_body(&question(false));
    world.answer_store();
    assert_eq!(world.deadline, Some((BEGIN + 55_000, DeadlineReason::Turn)));
    assert_eq!(world.wait(), DeadlineReason::Turn);
    assert_eq!(world.failure(), (504, "upstream_timeout".into()));
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn a_store_that_hangs_counts_as_one_that_failed() {
    let mut world = World::begin(policy(), chat_head());
    world.send_body(&question(false));
    assert_eq!(world.wait(), DeadlineReason::Store);
    assert_eq!((world.now, world.fetches.len()), (BEGIN + 2_000, 1), "the settings let it through");
    assert!(world.asked.is_empty(), "nobody waits for it any more");
    let mut closed = policy();
    closed.store_failure = StoreFailure::Closed;
    let mut world = World::begin(closed, chat_head());
    world.send_body(&question(false));
    world.wait();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
}

#[test]
fn the_first_byte_of_a_stream() {
    let mut world = World::asked(policy(), &question(true));
    assert_eq!(world.wait(), DeadlineReason::FirstByte);
    assert_eq!(world.now, BEGIN + 15_000);
    assert_eq!(world.failure(), (504, "upstream_timeout".into()));
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn a_stream_that_stands_still() {
    for (body, text) in [(question(true), chunk_text("half")), (picture(true), response_text("half"))] {
        let mut world = World::asked(policy(), &body);
        world.opens_stream();
        world.now += 1_000;
        world.lines(&text);
        assert_eq!(world.wait_through_heartbeats(), DeadlineReason::Idle);
        assert_eq!(world.now, BEGIN + 41_000);
        assert_eq!(
            (world.stream_failure().as_str(), world.streamed().as_str()),
            ("upstream_timeout", "half")
        );
        assert_eq!(world.cancelled, [world.fetch().id]);
    }
}

#[test]
fn a_stream_without_an_end() {
    let mut world = World::asked(policy(), &question(true));
    world.opens_stream();
    while !world.done {
        world.lines(&chunk_text("and "));
        world.now += 5_000;
        world.give(Input::Deadline);
    }
    assert_eq!(world.now, BEGIN + 55_000);
    assert_eq!(world.stream_failure(), "upstream_timeout");
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn a_complete_text_is_not_lost_to_a_deadline() {
    let mut world = World::asked(policy(), &question(true));
    world.opens_stream();
    world.lines(&[chunk_role(), chunk_text("all"), chunk_finish("stop")].concat());
    assert_eq!(world.wait_through_heartbeats(), DeadlineReason::Idle);
    assert_eq!((world.streamed().as_str(), world.events().last()), ("all", Some(&json!("[DONE]"))));
    assert_eq!(world.record()["code"], json!(null));
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn after_the_end_mark_only_the_connection_is_waited_for() {
    let mut world = World::asked(policy(), &question(true));
    world.opens_stream();
    world.lines(&completion_stream(&["all"]));
    let complete = world.text();
    assert_eq!(world.wait(), DeadlineReason::Idle, "nobody needs a heartbeat now");
    assert_eq!((world.status(), world.text()), (200, complete));
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn a_refusal_whose_rest_does_not_come() {
    let mut world = World::asked(policy(), &question(true));
    world.opens(502, &[]);
    assert_eq!(world.wait(), DeadlineReason::Idle);
    assert_eq!(world.failure(), (504, "upstream_timeout".into()));
    assert_eq!(world.cancelled, [world.fetch().id]);
}

#[test]
fn a_heartbeat_after_each_silence() {
    let mut world = World::asked(policy(), &question(true));
    world.opens_stream();
    let comments = |world: &World| world.text().matches(": keep-alive\n\n").count();
    assert_eq!(world.deadline, Some((BEGIN + 10_000, DeadlineReason::Heartbeat)));
    world.wait();
    assert_eq!((world.deadline, comments(&world)), (Some((BEGIN + 20_000, DeadlineReason::Heartbeat)), 1));
    world.now += 7_000;
    world.lines(&chunk_text("a"));
    assert_eq!(world.deadline, Some((BEGIN + 27_000, DeadlineReason::Heartbeat)), "text is a sign of life");
    world.now += 1_000;
    world.lines(": comment\n\n");
    assert_eq!(
        world.deadline,
        Some((BEGIN + 27_000, DeadlineReason::Heartbeat)),
        "this the client did not hear"
    );
    world.wait();
    world.lines(&completion_stream(&["b"]));
    world.closes();
    assert_eq!((world.status(), world.streamed().as_str(), comments(&world)), (200, "ab", 2));
}

#[test]
fn a_host_may_come_early() {
    let mut world = World::asked(policy(), &question(false));
    let deadline = world.deadline;
    for _ in 0..3 {
        world.now += 10;
        world.give(Input::Deadline);
        assert_eq!(world.deadline, deadline);
    }
    world.whole(200, &[], &completion("a", "stop"));
    assert_eq!(world.status(), 200);
}
