//! What the configuration bounds: values and their schemas, redaction, the day's caps, the
//! history's window, kept answers, rollouts.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{ask_head, asked, configured, events, intent, profile},
    upstream::{completion, completion_stream, error},
    world::World,
};
use crate::{
    policy::{
        Environment, Policy,
        catalog::{Cache, Caps, Curated, EnvironmentRules, LongInput, Schema},
        question,
        redact::Rules,
        rollout::Rollout,
    },
    seam::Level,
    state::{
        Op,
        rollout::{Guard, Plan, Step},
    },
};

const ORDER: &str = r#"{"type":"object","required":["id"],"properties":{"id":{"type":"string"}}}"#;

/// One profile that the test changes, `fast_v1` for `qa`.
fn with(change: impl FnOnce(&mut crate::policy::catalog::Profile)) -> Policy {
    let mut policy = configured();
    let profile = policy.catalog.profiles.iter_mut().find(|profile| profile.name == "fast_v1");
    change(profile.expect("fast_v1"));
    policy
}

fn question(text: &str, stream: bool) -> Value {
    json!({"intent": "qa", "input": {"text": text}, "stream": stream})
}

fn extract() -> Value {
    json!({"intent": "qa", "input": {"text": "订单 A1", "schemaName": "order_info_v1"}})
}

fn with_schema() -> Policy {
    let mut policy = configured();
    policy.catalog.schemas = vec![Schema { name: "order_info_v1".into(), text: ORDER.into() }];
    policy
}

/// Another request after one, with what that one left behind.
fn next(policy: &Policy, before: World, entropy: u8, body: &Value) -> World {
    let mut world = World::begin_with(policy.clone(), ask_head(), before.now + 10, before.store, entropy);
    world.send_body(body);
    world.answer_store();
    world
}

#[test]
fn a_value_is_taken_out_of_chatter_and_held_against_its_schema() {
    let mut world = asked(with_schema(), &extract());
    let sent = world.sent_upstream();
    assert_eq!(sent["response_format"], json!({"type": "json_object"}));
    assert!(sent["messages"][0]["content"].as_str().expect("words").contains(ORDER));
    world.whole(200, &[], &completion("好的：\n```json\n{\"id\": \"A1\"}\n```\n", "stop"));
    let answer = world.json();
    assert_eq!((&answer["data"], &answer["answer"]), (&json!({"id": "A1"}), &json!("{\"id\": \"A1\"}")));
    assert_eq!(answer.get("warnings"), None);
}

#[test]
fn a_wrong_value_is_asked_for_once_more_in_the_validators_words() {
    let mut world = asked(with_schema(), &extract());
    world.whole(200, &[], &completion("{\"id\": 7}", "stop"));
    let messages = world.sent_upstream()["messages"].clone();
    assert_eq!(messages[2], json!({"role": "assistant", "content": "{\"id\": 7}"}));
    assert!(messages[3]["content"].as_str().expect("words").contains("/id "), "{messages}");
    world.whole(200, &[], &completion("{\"id\": \"7\"}", "stop"));
    assert_eq!(world.json()["data"]["id"], "7");
    assert_eq!(world.record()["violations"], json!(["type at /id"]));

    let mut world = asked(with_schema(), &extract());
    world.whole(200, &[], &completion("no", "stop"));
    world.whole(200, &[], &completion("no", "stop"));
    assert_eq!(world.failure(), (502, "answer_invalid".into()));
    assert_eq!(world.fetches.len(), 2);
}

#[test]
fn a_schema_that_is_not_there_is_refused_or_said() {
    let mut body = extract();
    body["input"]["schemaName"] = json!("order_info_v9");
    assert_eq!(asked(with_schema(), &body).failure(), (400, "schema_unknown".into()));
    let mut world = asked(configured(), &body);
    world.whole(200, &[], &completion("{\"any\": 1}", "stop"));
    assert_eq!(world.json()["data"]["any"], 1);
    assert_eq!(world.json()["warnings"][0]["code"], "schema_not_configured");
}

#[test]
fn a_value_is_streamed_when_it_has_been_checked() {
    let mut body = extract();
    body["stream"] = json!(true);
    let mut world = asked(with_schema(), &body);
    assert_eq!(events(&world)[0].0, "meta", "the client knows at once");
    world.whole(200, &[], &completion("{}", "stop"));
    world.whole(200, &[], &completion("{\"id\": \"7\"}", "stop"));
    let events = events(&world);
    let names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["meta", "delta", "done"]);
    assert_eq!(events[2].1["data"]["id"], "7");
}

#[test]
fn personal_data_is_taken_out_of_answers_also_in_streams_and_values() {
    let mut policy = with(|profile| profile.redact = true);
    policy.catalog.redaction = Rules::all();
    let mut world = asked(policy.clone(), &question("x", false));
    world.whole(200, &[], &completion("打 13800138000 找他", "stop"));
    assert_eq!(world.json()["answer"], "打 [mobile] 找他");

    let mut world = asked(policy.clone(), &question("x", true));
    world.opens_stream();
    world.lines(&completion_stream(&["打 138", "0013", "8000 找他"]));
    world.closes();
    let texts: String =
        events(&world).iter().filter_map(|(_, data)| data["text"].as_str().map(str::to_owned)).collect();
    assert_eq!(texts, "打 [mobile] 找他");

    policy.catalog.schemas = vec![Schema { name: "order_info_v1".into(), text: "{}".into() }];
    let mut world = asked(policy, &extract());
    world.whole(200, &[], &completion("{\"phone\": 13800138000, \"n\": 1, \"t\": \"13800138000\"}", "stop"));
    assert_eq!(world.json()["data"], json!({"phone": "[mobile]", "n": 1, "t": "[mobile]"}));
}

#[test]
fn who_stands_in_keeps_the_intents_own_rules() {
    let mut policy = configured();
    policy.catalog.redaction = Rules::all();
    policy.catalog.schemas = vec![Schema { name: "order".into(), text: ORDER.into() }];
    let strong = policy.catalog.profiles.iter_mut().find(|profile| profile.name == "strong_v1");
    let strong = strong.expect("strong_v1");
    (strong.redact, strong.schema) = (true, Some("order".into()));
    let body = json!({"intent": "complex", "input": {"text": "x"}});
    let mut world = asked(policy.clone(), &body);
    world.whole(500, &[], &error("api_error", "internal error"));
    assert!(world.sent_upstream()["messages"][0]["content"].as_str().expect("words").contains(ORDER));
    world.whole(200, &[], &completion("{\"id\": \"13800138000\"}", "stop"));
    assert_eq!(world.json()["data"], json!({"id": "[mobile]"}));
    // A profile that the environment does not allow does not stand in either.
    policy.catalog.environments = capped(None, None).catalog.environments;
    policy.catalog.environments[0].allowed_profiles = Some(vec!["strong_v1".into()]);
    let mut world = asked(policy, &body);
    world.whole(500, &[], &error("api_error", "internal error"));
    assert_eq!(world.failure(), (502, "upstream_error".into()));
}

fn capped(requests: Option<u32>, tokens: Option<u64>) -> Policy {
    let mut policy = configured();
    policy.catalog.environments = vec![EnvironmentRules {
        environment: Environment::Prod,
        allowed_profiles: None,
        log_level: None,
        rate: None,
        daily: Some(Caps { requests, tokens }),
        content: None,
    }];
    policy
}

#[test]
fn a_day_has_so_many_requests() {
    let policy = capped(Some(1), None);
    let mut world = asked(policy.clone(), &question("x", false));
    world.whole(200, &[], &completion("好", "stop"));
    let world = next(&policy, world, 1, &question("x", false));
    assert_eq!(world.failure(), (429, "budget_exhausted".into()));
    assert!(world.header("retry-after").is_some());
    // 2026-11-21 11:46 in China: 12 h 13 min of the day are left.
    let mut tomorrow = world;
    tomorrow.now += 13 * 3_600_000;
    let tomorrow = next(&policy, tomorrow, 2, &question("x", false));
    assert_eq!(tomorrow.fetches.len(), 1);
}

#[test]
fn real_usage_settles_what_was_reserved() {
    let policy = capped(None, Some(4_000));
    let mut world = asked(policy.clone(), &question("x", false));
    world.whole(200, &[], &completion("好", "stop"));
    let settled = world.told.iter().find_map(|(_, op)| match op {
        Op::Settle(settle) => Some(settle.used),
        _ => None,
    });
    assert_eq!(settled, Some(2_002));
    let mut world = next(&policy, world, 1, &question("x", false));
    world.whole(500, &[], &error("api_error", "internal error"));
    let world = next(&policy, world, 2, &question("x", false));
    assert_eq!(world.fetches.len(), 1, "what failed cost nothing");
}

#[test]
fn a_stream_ends_in_order_when_the_days_tokens_are_used_up() {
    let policy = capped(None, Some(200));
    let mut world = asked(policy, &question("x", true));
    let id = world.fetch().id;
    world.opens_stream();
    let text = |text: &str| format!("data: {}\n\n", json!({"choices": [{"delta": {"content": text}}]}));
    for _ in 0..40 {
        world.lines(&text("一二三四五六七八九十"));
        if events(&world).last().expect("events").0 == "done" {
            break;
        }
    }
    let events = events(&world);
    let (name, done) = events.last().expect("events");
    assert_eq!((name.as_str(), &done["finish"]), ("done", &json!("budget")));
    if !world.done {
        world.wait();
    }
    assert!(world.done);
    assert_eq!(world.cancelled, [id], "the model stops too");
}

#[test]
fn the_window_leaves_the_oldest_turns_out() {
    let policy = with(|profile| profile.context_tokens = Some(400));
    let mut body = question("新问题", false);
    body["input"]["history"] = (0..20)
        .map(|n| json!({"role": if n % 2 == 0 { "user" } else { "assistant" }, "content": format!("{n} {}", "话".repeat(40))}))
        .collect();
    let mut world = asked(policy.clone(), &body);
    world.answer_store();
    let messages = world.sent_upstream()["messages"].clone();
    let messages = messages.as_array().expect("messages");
    assert!(messages.len() > 3 && messages.len() < 22, "{}", messages.len());
    assert!(messages[0]["content"].as_str().expect("words").starts_with("You are fast_v1."));
    assert_eq!(messages[1]["role"], "user", "no answer without its question");
    assert!(messages.last().expect("one")["content"].as_str().expect("words").contains("新问题"));
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.json()["warnings"][0]["code"], "history_cut");
    // The upstream counts some 1 900 tokens more than the estimate: it is learned.
    assert!(world.told.iter().any(|(key, op)| key == "usage:fast_v1" && matches!(op, Op::Learn(_))));

    let long = question(&"长".repeat(900), false);
    let mut refused = asked(policy.clone(), &long);
    refused.answer_store();
    assert_eq!(refused.failure(), (413, "input_too_long".into()));
    let mut cut = policy;
    cut.catalog.profiles[1].long_input = LongInput::Cut;
    let mut world = asked(cut, &long);
    world.answer_store();
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(world.json()["warnings"][0]["code"], "input_cut");
}

fn cached(shared: bool) -> Policy {
    with(|profile| profile.cache = Some(Cache { ttl_s: 3_600, shared }))
}

/// Past the callers' gates, and past the turn's.
fn led(policy: Policy, body: &Value) -> World {
    let mut world = asked(policy, body);
    world.answer_store();
    world
}

#[test]
fn the_same_question_is_answered_from_what_is_kept() {
    let policy = cached(true);
    let mut world = led(policy.clone(), &question("怎么退货？", false));
    world.whole(200, &[], &completion("七天内可退。", "stop"));
    assert_eq!(world.json()["cached"], false);
    let again = next(&policy, world, 1, &question(" 怎么退货?", false));
    assert_eq!(again.json()["cached"], true, "{}", again.text());
    assert_eq!(again.json()["answer"], "七天内可退。");
    assert_eq!(again.json()["usage"]["total_tokens"], 0);
    assert_eq!(again.record()["cached"], true);
    let stream = next(&policy, again, 2, &question("怎么退货", true));
    let names: Vec<String> = events(&stream).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["meta", "delta", "done"]);
    let mut other = next(&policy, stream, 3, &question("怎么换货", false));
    other.answer_store();
    assert_eq!(other.fetches.len(), 1, "another question");
}

#[test]
fn what_is_not_shared_is_ones_own() {
    let policy = cached(false);
    let mine = |user: &str| {
        let mut body = question("怎么退货？", false);
        body["userId"] = json!(user);
        body
    };
    let mut world = led(policy.clone(), &mine("a"));
    world.whole(200, &[], &completion("好", "stop"));
    let mut world = next(&policy, world, 1, &mine("b"));
    world.answer_store();
    assert_eq!(world.fetches.len(), 1);
    world.whole(200, &[], &completion("好", "stop"));
    assert_eq!(next(&policy, world, 2, &mine("a")).json()["cached"], true);
}

#[test]
fn a_streamed_answer_is_kept_and_a_failure_is_not() {
    let policy = cached(true);
    let mut world = led(policy.clone(), &question("怎么退货？", true));
    world.opens_stream();
    world.lines(&completion_stream(&["七天", "内"]));
    world.closes();
    let again = next(&policy, world, 1, &question("怎么退货？", false));
    assert_eq!(again.json()["answer"], "七天内");
    let mut world = led(policy.clone(), &question("怎么退货？", false));
    world.whole(500, &[], &error("api_error", "internal error"));
    let mut world = next(&policy, world, 1, &question("怎么退货？", false));
    world.answer_store();
    assert_eq!(world.fetches.len(), 1);
}

#[test]
fn one_asks_and_the_others_wait_for_the_answer() {
    let policy = cached(true);
    let leader = led(policy.clone(), &question("怎么退货？", false));
    let mut follower = next(&policy, leader, 1, &question("怎么退货？", false));
    assert!(follower.watched.is_some() && follower.fetches.is_empty());
    let key = follower.store.keys().find(|key| key.starts_with("answer:")).expect("a cell").clone();
    let fill = Op::Fill(crate::state::cache::Fill {
        ticket: u64::from_le_bytes([0x5c; 8]),
        value: serde_bytes::ByteBuf::from("七天内".as_bytes().to_vec()),
        ttl_ms: 60_000,
    });
    assert_eq!(follower.apply(&key, &fill), 1);
    follower.wake();
    follower.answer_store();
    assert_eq!((&follower.json()["answer"], &follower.json()["cached"]), (&json!("七天内"), &json!(true)));
}

#[test]
fn the_operators_own_answer_needs_no_model() {
    let mut policy = configured();
    policy.catalog.faq = vec![Curated {
        intent: "qa".into(),
        keys: vec![question::curated("qa", "营业时间？").expect("a question")],
        answer: "9:00 到 18:00".into(),
    }];
    let world = asked(policy, &question("营业时间", false));
    assert_eq!((&world.json()["answer"], &world.json()["cached"]), (&json!("9:00 到 18:00"), &json!(true)));
    assert!(world.fetches.is_empty());
}

/// A rollout from `fast_v1` to `fast_v2` with one step: an hour and 100 turns.
pub(super) fn rolling(share: u16) -> Policy {
    let mut policy = configured();
    policy.catalog.profiles.insert(2, profile("fast_v2", "fast"));
    policy.catalog.intents[2] = intent("qa", "fast_v1");
    policy.catalog.intents[2].rollout = Some(Rollout {
        intent: "qa".into(),
        from: "fast_v1".into(),
        to: "fast_v2".into(),
        salt: String::new(),
        plan: Plan {
            steps: vec![Step { share, at_least_ms: 3_600_000, at_least_turns: 100 }],
            guard: Guard::default(),
        },
    });
    policy
}

#[test]
fn a_rollout_gives_some_the_new_version_and_counts_both() {
    for (share, name, reason) in [(10_000, "fast_v2", "rollout"), (0, "fast_v1", "intent")] {
        let mut world = asked(rolling(share), &question("x", false));
        world.answer_store();
        world.whole(200, &[], &completion("好", "stop"));
        assert_eq!(world.json()["profile"], name);
        let line: Value = serde_json::from_str(&world.records.last().expect("a line").1).expect("JSON");
        assert_eq!(line["profileBy"], reason);
        let first: Value = serde_json::from_str(&world.records[0].1).expect("JSON");
        assert_eq!((&first["event"], &first["change"]), (&json!("rollout"), &json!("began")));
        assert!(
            world.told.iter().any(|(key, op)| key.starts_with("rollout:qa:") && matches!(op, Op::Observe(_)))
        );
    }
}

#[test]
fn without_a_store_everybody_has_the_running_version() {
    let mut world = asked(rolling(10_000), &question("x", false));
    world = World::begin(world.policy.clone(), ask_head());
    world.send_body(&question("x", false));
    world.break_store();
    world.break_store();
    assert!(world.sent_upstream()["messages"][0]["content"].as_str().expect("words").contains("fast_v1"));
}

#[test]
fn what_was_said_is_logged_only_where_somebody_develops_and_never_a_number() {
    let said = |environment, level| {
        let mut policy = configured();
        policy.environment = environment;
        policy.log_level = level;
        let mut world = asked(policy, &question("我的手机 13800138000", false));
        world.whole(200, &[], &completion("记住了 13800138000", "stop"));
        world.records.iter().map(|(_, line)| line.clone()).collect::<String>()
    };
    let lines = said(Environment::Dev, Level::Debug);
    assert!(lines.contains("我的手机 [mobile]") && lines.contains("记住了 [mobile]"), "{lines}");
    for (environment, level) in [(Environment::Prod, Level::Debug), (Environment::Dev, Level::Info)] {
        let lines = said(environment, level);
        assert!(!lines.contains("手机") && !lines.contains("记住"), "{lines}");
    }
}
