//! The audit ledger's records: one for each request that decides something, and nothing of what
//! was said where real people ask.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{asked, configured},
    durable::settle,
    upstream::{completion, completion_stream, error},
    world::{World, chat_head, get, guarded},
};
use crate::policy::{ContentMode, Environment, Policy, auth::KeyDigest};

fn record(world: &World) -> Value {
    assert_eq!(world.audit.len(), 1, "{:?}", world.audit);
    serde_json::from_str(&world.audit[0]).expect("JSON")
}

fn decision<'r>(record: &'r Value, what: &str) -> &'r Value {
    let all = record["decisions"].as_array().expect("decisions");
    all.iter().find(|decision| decision["what"] == what).unwrap_or(&Value::Null)
}

fn question(intent: &str, stream: bool) -> Value {
    json!({"intent": intent, "input": {"text": "你好, 13800138000"}, "stream": stream})
}

fn configured_in(environment: Environment) -> Policy {
    Policy { environment, ..configured() }
}

#[test]
fn a_turn_is_one_record_with_its_decisions_in_order() {
    let mut world = asked(configured_in(Environment::Prod), &question("complex", false));
    world.whole(502, &[], &error("boom", "server_error"));
    world.answer_store();
    world.whole(200, &[], &completion("好", "stop"));
    let record = record(&world);
    assert_eq!((&record["kind"], &record["status"]), (&json!("turn"), &json!(200)));
    assert_eq!(
        (&record["traceId"], &record["config"], &record["env"]),
        (&json!("1710000123456"), &json!("c0ffee"), &json!("prod"))
    );
    let steps: Vec<&str> = record["decisions"]
        .as_array()
        .expect("decisions")
        .iter()
        .filter_map(|decision| decision["what"].as_str())
        .collect();
    assert_eq!(steps, ["auth", "profile", "limits", "attempts", "fallback"]);
    assert_eq!(decision(&record, "auth")["caller"], "key");
    assert_eq!(decision(&record, "profile")["profile"], "fast_v1");
    assert_eq!(decision(&record, "attempts")["count"], 2);
    assert_eq!((&record["answer"]["bytes"], &record["answer"]["chars"]), (&json!(3), &json!(1)));
    assert_eq!(record["answer"]["text"], Value::Null);
    assert!(!world.audit[0].contains('好'));
}

/// A text is known by its hash, however it came; and nobody finds it without the key.
#[test]
fn the_same_text_has_the_same_hash_in_pieces_too() {
    let text = "一个很长的回答。".repeat(40);
    let mut whole = asked(configured_in(Environment::Prod), &question("qa", false));
    whole.whole(200, &[], &completion(&text, "stop"));
    let mut streamed = asked(configured_in(Environment::Prod), &question("qa", true));
    streamed.opens_stream();
    streamed.lines(&completion_stream(&text.split_inclusive('。').collect::<Vec<_>>()));
    streamed.closes();
    let (whole, streamed) = (record(&whole), record(&streamed));
    assert_eq!((&whole["answer"], &whole["input"]), (&streamed["answer"], &streamed["input"]));
    let mut other = configured_in(Environment::Prod);
    other.session_secret = crate::policy::auth::KeyDigest::of(b"another");
    let mut elsewhere = asked(other, &question("qa", false));
    elsewhere.whole(200, &[], &completion(&text, "stop"));
    assert_ne!(record(&elsewhere)["answer"]["hmac"], whole["answer"]["hmac"]);
}

#[test]
fn on_a_developers_machine_the_redacted_text_is_kept() {
    let mut world = asked(configured_in(Environment::Dev), &question("qa", false));
    world.whole(200, &[], &completion("好", "stop"));
    let record = record(&world);
    assert_eq!(record["answer"]["text"], "好");
    let input = record["input"]["text"].as_str().expect("a text");
    assert!(input.starts_with("你好") && !input.contains("13800138000"), "{input}");
}

#[test]
fn a_refusal_says_which_stage_refused() {
    let mut wrong = chat_head();
    wrong.headers[1].1 = "wrong".into();
    let mut world = World::begin(guarded(), wrong);
    world.answer_store();
    let refused = record(&world);
    assert_eq!((&refused["status"], &refused["code"]), (&json!(401), &json!("unauthorized")));
    assert_eq!(refused["decisions"].as_array().map(Vec::len), Some(1));
    assert_eq!(decision(&refused, "auth")["outcome"], "unauthorized");

    let mut world = asked(configured(), &question("nothing", false));
    world.answer_store();
    let unknown = record(&world);
    assert_eq!(decision(&unknown, "auth")["outcome"], "passed");
    assert_eq!(decision(&unknown, "profile")["outcome"], "intent_unknown");
    assert_eq!(decision(&unknown, "limits"), &Value::Null);
}

#[test]
fn what_decides_nothing_has_no_record() {
    for path in ["/healthz", "/version", "/nothing", "/v1/mini/turns/x"] {
        assert_eq!(World::begin(guarded(), get(path)).audit, [] as [String; 0], "{path}");
    }
}

#[test]
fn what_is_asked_again_and_again_has_no_record() {
    let policy = Policy { admin_keys: vec![KeyDigest::of(b"admin-key")], ..guarded() };
    let looks = |path: &str| {
        let mut head = get(path);
        head.headers.push(("authorization".into(), "Bearer admin-key".into()));
        let mut world = World::begin(policy.clone(), head);
        settle(&mut world);
        world
    };
    for path in ["/v1/admin/rollouts", "/v1/admin/approvals"] {
        let world = looks(path);
        assert_eq!((world.status(), world.audit.len()), (200, 0), "{path}");
    }
    let mut scrape = World::begin(policy.clone(), get("/metrics"));
    settle(&mut scrape);
    assert_eq!((scrape.status(), scrape.audit.len()), (401, 0));
    // Of one approval it is known who read what a model wants to do.
    for path in ["/v1/admin/feedback", "/v1/admin/approvals/apr_0123456789abcdef0123456789abcdef_1"] {
        let world = looks(path);
        assert_eq!((world.done, &record(&world)["kind"]), (true, &json!("look")), "{path}");
    }
}

#[test]
fn a_turn_may_be_kept_only_where_its_texts_may_be_and_none_of_wechats_come_in() {
    let mut world = asked(configured_in(Environment::Dev), &question("qa", false));
    assert_eq!(world.replayable.len(), 1, "from the body on");
    world.whole(200, &[], &completion("好", "stop"));
    let id = record(&world)["requestId"].clone();
    assert_eq!(world.replayable.last().map(String::as_str), id.as_str());

    let mut prod = configured_in(Environment::Prod);
    assert!(asked(prod.clone(), &question("qa", false)).replayable.is_empty());
    prod.catalog.audit.content = Some(true);
    assert_eq!(asked(prod, &question("qa", false)).replayable.len(), 1);

    let mut checked = configured_in(Environment::Dev);
    checked.content.mode = ContentMode::Log;
    assert!(asked(checked, &question("qa", false)).replayable.is_empty(), "an openid and a token come in");
    let looked = World::begin(configured_in(Environment::Dev), get("/v1/mini/turns/req_1"));
    assert!(looked.replayable.is_empty());
}
