//! A draft as a whole answer, and the real one, which is found by the turn's id.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{ask_head, asked, configured},
    upstream::{completion, error},
    world::{BEGIN, World, guarded},
};
use crate::{
    policy::{
        Policy,
        auth::KeyDigest,
        session::{self, Claims, SigningKey},
    },
    seam::{DeadlineReason, Input, RequestHead},
    state::{Op, turn::MOST_SKEW_MS},
};

type Store = BTreeMap<String, Vec<u8>>;

fn question() -> Value {
    json!({"intent": "refine", "input": {"text": "你好"}})
}

fn turn() -> String {
    format!("req_{}", "5c".repeat(16))
}

/// The draft has been given, and the real answer is being asked for.
pub(super) fn drafted(policy: Policy) -> World {
    let mut world = asked(policy, &question());
    assert_eq!(world.sent_upstream()["model"], "openclaw", "the fast one");
    world.whole(200, &[], &completion("草稿", "stop"));
    assert!(world.head.is_none(), "not before it can be found");
    world.answer_store();
    world.answer_store();
    world
}

/// Looks for a turn, with the same head's credential as who asked.
fn look(policy: &Policy, head: RequestHead, id: &str, store: &Store, now: u64) -> World {
    let head = RequestHead { method: "GET".into(), path: format!("/v1/mini/turns/{id}"), ..head };
    let mut world = World::begin_in(policy.clone(), head, now, store.clone());
    while !world.done {
        assert!(!world.asked.is_empty());
        world.answer_store();
    }
    world
}

fn state(world: &World) -> Value {
    look(&world.policy, ask_head(), &turn(), &world.store, world.now).json()
}

#[test]
fn the_draft_comes_at_once_and_the_answer_is_kept() {
    let mut world = drafted(configured());
    let draft = world.json();
    assert_eq!(
        draft,
        json!({
            "answer": "草稿", "requestId": turn(), "traceId": "1710000123456",
            "intent": "refine", "profile": "fast_v1",
            "usage": {"input_tokens": 1997, "output_tokens": 5, "total_tokens": 2002},
            "finish": "stop", "cached": false, "degraded": false, "draft": true, "label": "AI生成",
            "attachments": []
        })
    );
    let (status, location) = (world.status_so_far(), world.header("location").map(str::to_owned));
    assert_eq!((status, location), (Some(200), Some(format!("/v1/mini/turns/{}", turn()))));
    assert_eq!((world.header("retry-after"), world.header("ratelimit-remaining")), (Some("2"), Some("19")));
    assert!(world.ended && !world.done && world.records.is_empty());
    assert_eq!(world.sent_upstream()["model"], "openclaw/main", "the strong one");
    assert_eq!(state(&world)["state"], "running");

    world.whole(200, &[], &completion("定稿", "stop"));
    assert!(world.done);
    let done = state(&world);
    assert_eq!((&done["state"], &done["answer"]), (&json!("done"), &json!("定稿")));
    assert_eq!((&done["profile"], &done["requestId"]), (&json!("drafting_v1"), &json!(turn())));
    assert_eq!((done.get("draft"), &done["usage"]["total_tokens"]), (None, &json!(2 * 2002)));
    let record = world.record();
    assert_eq!((&record["drafted"], &record["attempts"]), (&json!(true), &json!(2)));
    assert_eq!((&record["status"], record.get("code")), (&json!(200), None));
    world.now += 600_000;
    let late = look(&world.policy, ask_head(), &turn(), &world.store, world.now);
    assert_eq!(late.failure(), (404, "turn_unknown".into()));
}

#[test]
fn a_client_that_has_the_draft_may_go() {
    let mut world = drafted(configured());
    world.give(Input::ClientGone);
    assert!(world.cancelled.is_empty());
    world.whole(200, &[], &completion("定稿", "stop"));
    assert_eq!(state(&world)["answer"], "定稿");
    assert_eq!(world.record().get("clientGone"), None);
}

#[test]
fn slots_are_taken_and_given_back_as_ever() {
    let mut policy = configured();
    policy.admission = guarded().admission;
    policy.abuse = guarded().abuse;
    let mut world = drafted(policy);
    assert_eq!(world.fetches.len(), 2);
    assert_eq!(world.wait(), DeadlineReason::Lease);
    assert!(matches!(world.told.last(), Some((_, Op::Renew { .. }))));
    world.whole(200, &[], &completion("定稿", "stop"));
    assert!(world.told.iter().any(|(_, op)| matches!(op, Op::Release(_))));
    assert_eq!(state(&world)["state"], "done");
}

#[test]
fn a_failure_is_kept_too() {
    let mut world = drafted(configured());
    world.whole(500, &[], &error("api_error", "internal error"));
    let failed = state(&world);
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("upstream_error")));
    assert!(failed["answer"].is_string());
    let record = world.record();
    assert_eq!((&record["status"], &record["code"]), (&json!(200), &json!("upstream_error")));

    let mut world = drafted(configured());
    let fetch = world.fetch().id;
    assert_eq!(world.wait(), DeadlineReason::Turn);
    assert_eq!((world.now - BEGIN, world.cancelled.as_slice()), (55_000, [fetch].as_slice()));
    assert_eq!(state(&world)["error"]["code"], "upstream_timeout");

    let mut world = drafted(configured());
    world.whole(200, &[], &completion(&"长".repeat(200_000), "stop"));
    assert_eq!(state(&world)["error"]["code"], "upstream_protocol", "more than a store takes");
}

#[test]
fn a_mark_does_not_outlive_its_turn() {
    let world = drafted(configured());
    let looked = |after| look(&world.policy, ask_head(), &turn(), &world.store, BEGIN + after);
    // Another host's clock may be behind.
    let end = 60_000 + MOST_SKEW_MS;
    let running = looked(end - 1);
    assert_eq!((&running.json()["state"], running.header("retry-after")), (&json!("running"), Some("2")));
    let dead = looked(end).json();
    assert_eq!((&dead["state"], &dead["error"]["code"]), (&json!("expired"), &json!("turn_expired")));
    // Who waits for its events is told as well, and not kept looking.
    let events = look(&world.policy, ask_head(), &format!("{}/events", turn()), &world.store, BEGIN + end);
    assert_eq!(events.failure(), (504, "turn_expired".into()));
    assert_eq!(looked(660_000).failure(), (404, "turn_unknown".into()));
}

#[test]
fn what_no_draft_is_given_for() {
    // It failed.
    let mut world = asked(configured(), &question());
    world.whole(500, &[], &error("api_error", "internal error"));
    world.whole(200, &[], &completion("定稿", "stop"));
    let answer = world.json();
    assert_eq!((&answer["answer"], answer.get("draft")), (&json!("定稿"), None));
    assert_eq!(world.header("location"), None);
    assert!(world.status() == 200 && world.told.is_empty());
    // The real answer could not be kept.
    for waits in [false, true] {
        let mut world = asked(configured(), &question());
        world.whole(200, &[], &completion("草稿", "stop"));
        if waits {
            assert_eq!(world.wait(), DeadlineReason::Store);
        } else {
            world.break_store();
        }
        world.whole(200, &[], &completion("定稿", "stop"));
        assert_eq!((&world.json()["answer"], world.status()), (&json!("定稿"), 200));
        assert_eq!(world.record()["storeFailed"], true);
    }
    // There is no time for more.
    let mut world = asked(configured(), &question());
    world.now += 54_500;
    world.whole(200, &[], &completion("草稿", "stop"));
    let answer = world.json();
    assert_eq!((world.status(), &answer["profile"]), (200, &json!("fast_v1")));
    assert_eq!((&answer["degraded"], answer.get("draft")), (&json!(true), None));
    // It is a value.
    let mut policy = configured();
    policy.catalog.profiles[0].json = true;
    let world = asked(policy, &question());
    assert_eq!(world.sent_upstream()["model"], "openclaw/main", "the strong one");
}

fn with_people() -> Policy {
    let mut policy = configured();
    policy.login.keys = vec![SigningKey::derive(b"a secret")];
    policy.api_keys.push(KeyDigest::of(b"another key"));
    policy
}

fn person(policy: &Policy, subject: &str) -> RequestHead {
    let claims = Claims {
        subject: subject.into(),
        role: String::new(),
        environment: "prod".into(),
        issued_s: BEGIN / 1000,
        expires_s: BEGIN / 1000 + 7_200,
        login_s: BEGIN / 1000,
    };
    with(&session::mint(&policy.login.keys, &claims).expect("a token"))
}

fn with(credential: &str) -> RequestHead {
    let mut head = ask_head();
    head.headers.retain(|(name, _)| name != "x-api-key");
    head.headers.push(("authorization".into(), format!("Bearer {credential}")));
    head
}

#[test]
fn nobody_else_sees_a_turn() {
    let policy = with_people();
    let (one, two) = (person(&policy, "one"), person(&policy, "two"));
    let mut world = World::begin(policy.clone(), one.clone());
    world.send_body(&question());
    world.answer_store();
    world.whole(200, &[], &completion("草稿", "stop"));
    world.answer_store();
    world.whole(200, &[], &completion("定稿", "stop"));
    let unknown = (404, "turn_unknown".to_owned());
    let looked = |head: &RequestHead, id: &str| look(&policy, head.clone(), id, &world.store, world.now);
    let own = looked(&one, &turn());
    assert_eq!((&own.json()["answer"], &own.record()["subject"]), (&json!("定稿"), &json!("one")));
    for stranger in [&two, &ask_head(), &with("another key")] {
        assert_eq!(looked(stranger, &turn()).failure(), unknown);
    }
    assert_eq!(looked(&with("nonsense"), &turn()).failure(), (401, "unauthorized".into()));
    for id in ["", "x", "req_", "req_5C5C", &format!("req_{}", "ab".repeat(16))] {
        assert_eq!(looked(&one, id).failure(), unknown, "{id}");
    }
    // Nor does a person see a key's.
    let mut world = drafted(policy.clone());
    world.whole(200, &[], &completion("定稿", "stop"));
    assert_eq!(look(&policy, one, &turn(), &world.store, world.now).failure(), unknown);
    let another = look(&policy, with("another key"), &turn(), &world.store, world.now);
    assert_eq!(another.failure(), unknown);
}

#[test]
fn a_store_that_fails_is_said() {
    let head = RequestHead { method: "GET".into(), path: format!("/v1/mini/turns/{}", turn()), ..ask_head() };
    let mut world = World::begin(configured(), head.clone());
    world.break_store();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
    let mut world = World::begin(configured(), head);
    assert_eq!(world.wait(), DeadlineReason::Store);
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
}
