//! What a person says of an answer: taken from whoever asked and nobody else, once, and counted.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::ask_head,
    ask_rules::rolling,
    upstream::completion,
    world::{BEGIN, World, chat_head},
};
use crate::{
    ledger::Head,
    policy::{Environment, Policy, auth::KeyDigest},
    seam::{Input, RequestHead},
    state::Outcome,
};

type Store = BTreeMap<String, Vec<u8>>;

const ADMIN: &str = "admin-key-canary";
const TRACE: &str = "1710000123456";

fn policy(environment: Environment) -> Policy {
    Policy { environment, admin_keys: vec![KeyDigest::of(ADMIN.as_bytes())], ..rolling(10_000) }
}

/// A turn of a person's: its record, and the store after it.
fn turn(policy: &Policy, person: &str) -> (String, Store) {
    let mut world = World::begin(policy.clone(), ask_head());
    world.send_body(&json!({"intent": "qa", "input": {"text": "x"}, "userId": person}));
    world.answer_store();
    world.answer_store();
    world.whole(200, &[], &completion("好", "stop"));
    // Before it that the rollout began.
    assert_eq!(world.audit.len(), 2);
    (world.audit.remove(1), world.store)
}

/// The person says something of it; the ledger has these records of the trace.
fn rate(policy: &Policy, body: &Value, records: &[&str], store: Store) -> World {
    let head = RequestHead { path: "/v1/mini/feedback".into(), ..chat_head() };
    let mut world = World::begin_in(policy.clone(), head, BEGIN + 1_000, store);
    world.send_body(body);
    if world.done {
        return world;
    }
    // Who says it.
    world.answer_store();
    if world.done {
        return world;
    }
    let id = world.asks_ledger();
    let (mut lines, mut last) = (String::new(), Head::default());
    for record in records {
        let (line, next) = last.link(record);
        lines.push_str(&(line + "\n"));
        last = next;
    }
    world.give(Input::Stored { id, outcomes: vec![Outcome::Value(Some(ByteBuf::from(lines)))] });
    world.answer_store();
    world
}

fn look(policy: &Policy, path: &str, store: Store) -> World {
    let head = RequestHead {
        method: "GET".into(),
        path: path.into(),
        headers: vec![("authorization".into(), format!("Bearer {ADMIN}"))],
        ..chat_head()
    };
    let mut world = World::begin_in(policy.clone(), head, BEGIN + 2_000, store);
    world.answer_store();
    world
}

#[test]
fn whoever_asked_says_what_the_answer_was_worth() {
    let policy = policy(Environment::Dev);
    let (record, store) = turn(&policy, "person-1");
    let body = json!({
        "traceId": TRACE, "rating": "down", "userId": "person-1", "comment": " 我的电话是 13800138000 "
    });
    let world = rate(&policy, &body, &[&record], store);
    let answer = world.json();
    assert_eq!((&answer["rating"], &answer["replaced"]), (&json!("down"), &json!(false)));

    let asked: Value = serde_json::from_str(&record).expect("JSON");
    assert_eq!(answer["requestId"], asked["requestId"]);
    let given: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
    assert_eq!((&given["kind"], &given["traceId"]), (&json!("feedback"), &json!(TRACE)));
    assert_eq!((&given["about"], &given["version"]), (&asked["requestId"], &json!("candidate")));
    assert_eq!((&given["profile"], &given["rating"]), (&json!("fast_v2"), &json!("down")));
    let text = given["comment"]["text"].as_str().expect("a text");
    assert!(text.starts_with("我的电话") && !text.contains("13800138000"), "{text}");

    let shown = look(&policy, "/v1/admin/feedback", world.store.clone()).json();
    let first = &shown["feedback"][0];
    assert_eq!((&first["traceId"], &first["rating"]), (&json!(TRACE), &json!("down")));
    assert!(first["comment"].as_str().is_some_and(|text| !text.contains("13800138000")));
    let counts = json!([{"profile": "fast_v2", "version": "candidate", "up": 0, "down": 1}]);
    assert_eq!(shown["counts"], counts);
    let rollout = &look(&policy, "/v1/admin/rollouts", world.store.clone()).json()["rollouts"][0];
    assert_eq!((&rollout["candidate"]["down"], &rollout["running"]["down"]), (&json!(1), &json!(0)));

    // A second word takes the place of the first.
    let again = json!({"traceId": TRACE, "rating": "up", "userId": "person-1"});
    let world = rate(&policy, &again, &[&record, &world.audit[0]], world.store);
    assert_eq!(world.json()["replaced"], true);
    let shown = look(&policy, "/v1/admin/feedback", world.store.clone()).json();
    assert_eq!((&shown["counts"][0]["up"], &shown["counts"][0]["down"]), (&json!(1), &json!(0)));
    assert_eq!(shown["feedback"].as_array().map(Vec::len), Some(1));
    let rollout = &look(&policy, "/v1/admin/rollouts", world.store).json()["rollouts"][0];
    assert_eq!((&rollout["candidate"]["down"], &rollout["candidate"]["up"]), (&json!(0), &json!(1)));
}

#[test]
fn two_answers_of_one_trace_are_two_words() {
    let policy = policy(Environment::Prod);
    let (record, store) = turn(&policy, "person-1");
    let asked: Value = serde_json::from_str(&record).expect("JSON");
    let other = record.replace(asked["requestId"].as_str().expect("an id"), "req_another");
    let word = |rating: &str| json!({"traceId": TRACE, "rating": rating, "userId": "person-1"});
    let first = rate(&policy, &word("down"), &[&record], store);
    assert_eq!(first.json()["replaced"], false);
    let second = rate(&policy, &word("up"), &[&record, &other], first.store);
    assert_eq!(
        (&second.json()["requestId"], &second.json()["replaced"]),
        (&json!("req_another"), &json!(false))
    );
    let shown = look(&policy, "/v1/admin/feedback", second.store).json();
    assert_eq!((&shown["counts"][0]["up"], &shown["counts"][0]["down"]), (&json!(1), &json!(1)));
    assert_eq!(shown["feedback"].as_array().map(Vec::len), Some(2));
}

#[test]
fn of_a_turn_that_outlives_its_connection_the_run_says_who_answered() {
    let policy = policy(Environment::Prod);
    let (record, store) = turn(&policy, "person-1");
    let part = |part: &str, profile: &str| {
        let named = record.replace("\"profile\":\"fast_v2\"", &format!("\"profile\":\"{profile}\""));
        let mut record: Value = serde_json::from_str(&named).expect("JSON");
        record["part"] = part.into();
        record.to_string()
    };
    let (run, begun) = (part("run", "stood_in"), part("begun", "fast_v2"));
    let body = json!({"traceId": TRACE, "rating": "up", "userId": "person-1"});
    for records in [[&*run, &*begun], [&*begun, &*run]] {
        let world = rate(&policy, &body, &records, store.clone());
        let given: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
        assert_eq!((&given["profile"], &given["version"]), (&json!("stood_in"), &Value::Null));
    }
}

#[test]
fn nobody_else_does() {
    let policy = policy(Environment::Prod);
    let (record, store) = turn(&policy, "person-1");
    let body = |person: &str| json!({"traceId": TRACE, "rating": "down", "userId": person});
    let world = rate(&policy, &body("person-2"), &[&record], store.clone());
    assert_eq!(world.failure(), (404, "trace_unknown".into()));
    assert!(world.store.keys().all(|key| !key.starts_with("rating:") && key != "opinions"));
    // Without a name it is whoever has this address.
    let world = rate(&policy, &json!({"traceId": TRACE, "rating": 1}), &[&record], store.clone());
    assert_eq!(world.failure().0, 404);
    // With another key of the operator's it is another client.
    let other = record.replace("\"caller\":\"key\",\"key\":\"", "\"caller\":\"key\",\"key\":\"0");
    assert_ne!(other, record);
    assert_eq!(rate(&policy, &body("person-1"), &[&other], store.clone()).failure().0, 404);
    // What was not answered cannot be rated.
    let failed = record.replace("\"status\":200", "\"status\":502");
    assert_eq!(rate(&policy, &body("person-1"), &[&failed], store.clone()).failure().0, 404);
    assert_eq!(rate(&policy, &body("person-1"), &[], store.clone()).failure().0, 404);

    let world = rate(&policy, &body("person-1"), &[&record], store);
    assert_eq!(world.status_so_far(), Some(200));
}

#[test]
fn where_texts_are_not_kept_a_comment_is_not() {
    let policy = policy(Environment::Prod);
    let (record, store) = turn(&policy, "person-1");
    let body = json!({"traceId": TRACE, "rating": "up", "userId": "person-1", "comment": "comment-canary"});
    let world = rate(&policy, &body, &[&record], store);
    assert_eq!(world.status_so_far(), Some(200));
    let given: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
    assert_eq!((&given["comment"]["chars"], &given["comment"]["text"]), (&json!(14), &Value::Null));
    let everything = format!("{:?}{:?}", world.audit, world.records);
    let stored: Vec<String> =
        world.store.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect();
    assert!(!everything.contains("comment-canary") && !stored.concat().contains("comment-canary"));
    let shown = look(&policy, "/v1/admin/feedback", world.store).json();
    assert_eq!(shown["feedback"][0]["comment"], Value::Null);
}

#[test]
fn what_is_no_rating_is_refused() {
    let policy = policy(Environment::Prod);
    let long = "长".repeat(501);
    for (body, expected) in [
        (json!({"traceId": TRACE, "rating": 5}), (400, "input_invalid")),
        (json!({"traceId": "a b", "rating": "up"}), (400, "input_invalid")),
        (json!({"traceId": TRACE, "rating": "up", "comment": long}), (413, "input_too_long")),
        (json!({"traceId": TRACE, "rating": "up", "userId": ""}), (400, "user_invalid")),
        (json!({"rating": "up"}), (400, "invalid_json")),
        (json!(["t", "up"]), (400, "invalid_json")),
    ] {
        let world = rate(&policy, &body, &[], Store::new());
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()), "{body}");
    }
}

#[test]
fn without_a_ledger_or_a_store_nothing_is_rated() {
    let policy = policy(Environment::Prod);
    let (_, store) = turn(&policy, "person-1");
    let head = RequestHead { path: "/v1/mini/feedback".into(), ..chat_head() };
    for answers in 0..2 {
        let mut world = World::begin_in(policy.clone(), head.clone(), BEGIN, store.clone());
        world.send_body(&json!({"traceId": TRACE, "rating": "up", "userId": "person-1"}));
        (0..answers).for_each(|_| world.answer_store());
        world.break_store();
        assert_eq!(world.failure(), (503, "store_unavailable".into()));
    }
}
