//! Tools: what is read at once, what waits for a person, what nobody knows.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{ask_head, events},
    durable::{client, harmless, keyed, look, only_turn, runner, settle, stream_to_end},
    upstream::completion_stream,
    world::{BEGIN, KEY, World, get, guarded},
};
use crate::{
    policy::{
        Policy,
        auth::KeyDigest,
        catalog::{Approval, Tool, ToolClass},
    },
    seam::{DeadlineReason, FetchFailure, Input, RequestHead},
    state::{Op, caller::Strike, reduce, turn::TurnOp},
};

type Store = BTreeMap<String, Vec<u8>>;

const ADMIN: &str = "admin-canary-5e11";

fn tool(name: &str, class: ToolClass, approve: Option<Approval>) -> Tool {
    Tool {
        name: name.into(),
        description: format!("Does {name}."),
        parameters: r#"{"type":"object","properties":{"order":{"type":"string"}},"required":["order"],"additionalProperties":false}"#
            .into(),
        class,
        url: format!("https://tools.example/{name}"),
        secret: Some("TOOLS_KEY".into()),
        timeout_ms: 10_000,
        idempotent: false,
        approve,
        approve_within_s: 900,
    }
}

pub(super) fn with_tools(approve: Approval) -> Policy {
    let mut policy = harmless();
    policy.admin_keys = vec![KeyDigest::of(ADMIN.as_bytes()), KeyDigest::of(b"admin-two")];
    policy.catalog.tools =
        vec![tool("lookup", ToolClass::Read, None), tool("refund", ToolClass::Write, Some(approve))];
    for profile in &mut policy.catalog.profiles {
        profile.tools = vec!["lookup".into(), "refund".into()];
        profile.max_tool_calls = 4;
    }
    policy
}

fn question() -> Value {
    json!({"intent": "qa", "input": {"text": "退款"}})
}

/// A model that wants tools called, in a stream.
fn wants(calls: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (at, (name, arguments)) in calls.iter().enumerate() {
        let call = json!({"index": at, "id": format!("c{at}"), "type": "function", "function": {"name": name, "arguments": arguments}});
        let chunk =
            json!({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": null}]});
        out += &format!("data: {chunk}\n\n");
    }
    let end = json!({"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}],
                     "usage": {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}});
    out + &format!("data: {end}\n\ndata: [DONE]\n\n")
}

/// The model of a runner asks for calls.
pub(super) fn propose(run: &mut World, calls: &[(&str, &str)]) {
    run.opens_stream();
    run.lines(&wants(calls));
    run.closes();
    settle(run);
}

/// A turn whose model wants a refund: its client, its store, and what the runner did.
fn proposed(policy: &Policy) -> (World, World) {
    let first = client(policy, keyed(), &question(), BEGIN, &Store::new());
    let mut run = runner(policy, &first.store, BEGIN, 0x32);
    let sent = run.sent_upstream();
    let names: Vec<&Value> =
        sent["tools"].as_array().expect("tools").iter().map(|tool| &tool["function"]["name"]).collect();
    assert_eq!(names, ["lookup", "refund"]);
    propose(&mut run, &[("refund", r#"{ "order" : "A-1" }"#)]);
    assert!(run.done && run.fetches.len() == 1, "it waits for a person, and nobody runs it");
    (first, run)
}

fn approval_path(store: &Store, call: u32) -> String {
    format!("/v1/mini/approvals/apr_{}_{call}", only_turn(store).replace("turn:req_", ""))
}

fn ask(policy: &Policy, store: &Store, path: &str, key: &str, now: u64, body: Option<&Value>) -> World {
    let mut head = RequestHead { headers: ask_head().headers, ..get(path) };
    head.headers.retain(|(name, _)| name != "x-api-key");
    head.headers.push(("x-api-key".into(), key.into()));
    if body.is_some() {
        head.method = "POST".into();
    }
    let mut world = World::begin_in(policy.clone(), head, now, store.clone());
    settle(&mut world);
    if let Some(body) = body {
        world.send_body(body);
        settle(&mut world);
    }
    world
}

/// A person looks and says something.
fn say(policy: &Policy, store: &Store, path: &str, key: &str, decision: &str) -> World {
    let shown = ask(policy, store, path, key, BEGIN + 1_000, None).json();
    let word = json!({"decision": decision, "grant": shown["grant"]});
    ask(policy, store, path, key, BEGIN + 2_000, Some(&word))
}

#[test]
fn what_changes_something_is_done_once_and_only_when_its_person_agrees() {
    let policy = with_tools(Approval::User);
    let (mut first, run) = proposed(&policy);
    first.store = run.store.clone();
    first.wake();
    settle(&mut first);
    let asked = first.json();
    assert_eq!((first.status(), &asked["state"]), (202, &json!("needs_approval")));
    assert_eq!(asked["approval"]["arguments"], json!({"order": "A-1"}));
    assert_eq!(run.alarm_of(&only_turn(&run.store)), Some(BEGIN + 900_000));

    let path = approval_path(&run.store, 1);
    assert_eq!(asked["approval"]["approvalId"], path.rsplit('/').next().expect("an id"));
    let decided = say(&policy, &run.store, &path, KEY, "approve");
    assert_eq!(decided.json()["decision"], "approved");
    let again = ask(
        &policy,
        &decided.store,
        &path,
        KEY,
        BEGIN + 3_000,
        Some(&json!({"decision": "approve", "grant": "x"})),
    );
    assert_eq!(again.failure(), (410, "approval_gone".into()), "it counts once");

    let mut run = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
    let sent = run.sent_upstream();
    assert_eq!((&sent["name"], &sent["arguments"]), (&json!("refund"), &json!({"order": "A-1"})));
    assert_eq!((run.fetch().upstream.as_str(), run.fetch().path.as_str()), ("tool:refund", ""));
    let key = run.fetch().headers.iter().find(|(name, _)| name == "idempotency-key").expect("a key");
    assert!(key.1.starts_with("req_") && key.1.contains("-1-"));
    run.whole(200, &[], r#"{"refunded":true}"#);
    settle(&mut run);
    let told = run.sent_upstream();
    assert_eq!(told["messages"][2]["tool_calls"][0]["function"]["name"], "refund");
    let result = told["messages"][3]["content"].as_str().expect("a result");
    assert!(result.contains(r#"{"refunded":true}"#) && result.starts_with("<data-"), "{result}");
    stream_to_end(&mut run, "已退款");
    let done = look(&policy, &run.store, BEGIN + 4_000, "").json();
    assert_eq!((&done["state"], &done["answer"]), (&json!("done"), &json!("已退款")));
    assert_eq!(done["actions"], json!([{"tool": "refund", "outcome": "done"}]));
    let record = run.record();
    assert_eq!(
        (&record["calls"][0]["outcome"], &record["calls"][0]["class"]),
        (&json!("done"), &json!("write"))
    );
    assert!(record["calls"][0]["by"].as_str().is_some_and(|by| by.starts_with("key:")));
}

#[test]
fn a_no_and_silence_end_in_an_explanation() {
    let policy = with_tools(Approval::User);
    for refused in [true, false] {
        let (_, run) = proposed(&policy);
        let (store, now) = if refused {
            (
                say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "refuse").store.clone(),
                BEGIN + 3_000,
            )
        } else {
            (run.store.clone(), BEGIN + 900_000)
        };
        let mut run = runner(&policy, &store, now, 0x33);
        assert_eq!(run.fetch().upstream, "openclaw");
        let told = run.sent_upstream();
        assert!(told.get("tools").is_none() && told.to_string().contains("only explain in words"), "{told}");
        stream_to_end(&mut run, "没有退款");
        let done = look(&policy, &run.store, now, "").json();
        assert_eq!(done["actions"], json!([{"tool": "refund", "outcome": "not_approved"}]));
        assert!(run.fetches.iter().all(|fetch| !fetch.upstream.starts_with("tool:")));
    }
}

#[test]
fn a_word_needs_the_grant_of_what_was_shown_to_this_person() {
    let policy = with_tools(Approval::User);
    let (_, run) = proposed(&policy);
    let path = approval_path(&run.store, 1);
    let admin = path.replace("/v1/mini/", "/v1/admin/");
    let theirs = ask(&policy, &run.store, &admin, ADMIN, BEGIN + 1_000, None).json();
    for grant in [json!(""), json!("1.00"), theirs["grant"].clone()] {
        let word = json!({"decision": "approve", "grant": grant});
        let world = ask(&policy, &run.store, &path, KEY, BEGIN + 1_000, Some(&word));
        assert_eq!(world.failure(), (409, "grant_invalid".into()), "{grant}");
    }
    let mine = ask(&policy, &run.store, &path, KEY, BEGIN + 1_000, None).json();
    let word = json!({"decision": "approve", "grant": mine["grant"]});
    let late = ask(&policy, &run.store, &path, KEY, BEGIN + 700_000, Some(&word));
    assert_eq!(late.failure(), (409, "grant_invalid".into()), "ten minutes to look");
    let not_theirs = say(&policy, &run.store, &admin, ADMIN, "approve");
    assert_eq!(not_theirs.failure(), (403, "approval_forbidden".into()));
    assert_eq!(say(&policy, &run.store, &admin, ADMIN, "refuse").json()["decision"], "refused");
    let missing = path.replace("_1", "_2");
    assert_eq!(ask(&policy, &run.store, &missing, KEY, BEGIN, None).failure().0, 410);
}

#[test]
fn two_operators_are_asked_and_see_what_waits() {
    let policy = with_tools(Approval::TwoOperators);
    let (_, run) = proposed(&policy);
    let list = ask(&policy, &run.store, "/v1/admin/approvals", ADMIN, BEGIN + 9, None).json();
    assert_eq!(list["approvals"][0]["about"]["tool"], "refund");
    let path = approval_path(&run.store, 1).replace("/v1/mini/", "/v1/admin/");
    let one = say(&policy, &run.store, &path, ADMIN, "approve");
    assert_eq!(one.json()["decision"], "waiting");
    let same = say(&policy, &one.store, &path, ADMIN, "approve");
    assert_eq!(same.json()["decision"], "waiting");
    let two = say(&policy, &same.store, &path, "admin-two", "approve");
    assert_eq!(two.json()["decision"], "approved");
    let list = ask(&policy, &two.store, "/v1/admin/approvals", ADMIN, BEGIN + 9, None).json();
    assert_eq!(list["approvals"], json!([]));
    assert_eq!(runner(&policy, &two.store, BEGIN + 3_000, 0x33).fetch().upstream, "tool:refund");
}

#[test]
fn reading_needs_nobody_and_what_does_not_fit_is_not_sent() {
    let policy = with_tools(Approval::User);
    let first = client(&policy, keyed(), &question(), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    propose(&mut run, &[("lookup", r#"{"order":"A-1"}"#), ("lookup", r#"{"order":7}"#), ("nothing", "{}")]);
    assert_eq!(run.fetch().upstream, "tool:lookup");
    // A server that has no room, then one that has.
    run.whole(429, &[("retry-after", "1")], "");
    assert_eq!(run.wait(), DeadlineReason::Backoff);
    let keys: Vec<&str> = run
        .fetches
        .iter()
        .flat_map(|fetch| &fetch.headers)
        .filter(|(name, _)| name == "idempotency-key")
        .map(|(_, value)| value.as_str())
        .collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
    run.whole(200, &[], "shipped");
    settle(&mut run);
    let told = run.sent_upstream().to_string();
    assert!(
        told.contains("shipped") && told.contains("was not sent") && told.contains("no such tool"),
        "{told}"
    );
    // The bound of calls.
    propose(&mut run, &[("lookup", r#"{"order":"A-1"}"#), ("lookup", r#"{"order":"A-2"}"#)]);
    run.whole(200, &[], "x");
    settle(&mut run);
    let told = run.sent_upstream();
    assert!(told.to_string().contains("all the calls") && told.get("tools").is_none());
    stream_to_end(&mut run, "好");
    assert_eq!(look(&policy, &run.store, run.now, "").json()["state"], "done");
    let counted = run.samples.last().expect("what was counted");
    assert_eq!(counted.tools, ["lookup"; 3], "what a model made up is no tool");
    assert!(counted.failed_tools.is_empty(), "{:?}", counted.failed_tools);
}

#[test]
fn a_restricted_caller_is_offered_nothing() {
    let policy = Policy { abuse: guarded().abuse, ..with_tools(Approval::User) };
    let first = client(&policy, keyed(), &question(), BEGIN, &Store::new());
    let strike = Strike { points: policy.abuse.restrict, thresholds: policy.abuse };
    let callers = first.store.iter().filter(|(key, _)| key.starts_with("user:"));
    let struck =
        callers.map(|(key, old)| (key.clone(), reduce(&Op::Strike(strike), Some(old), BEGIN).new.into_vec()));
    let store: Store = struck.collect();
    assert_eq!(store.len(), 1, "the caller has a cell: {:?}", first.store.keys());
    let restricted = client(&policy, keyed(), &question(), BEGIN, &store);
    let run = runner(&policy, &restricted.store, BEGIN, 0x32);
    let sent = run.sent_upstream();
    assert!(sent.get("tools").is_none() && sent.to_string().contains("only explain in words"), "{sent}");
}

#[test]
fn nobody_knows_means_nobody_tries_again() {
    let policy = with_tools(Approval::User);
    for hangs in [true, false] {
        let (_, run) = proposed(&policy);
        let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
        let mut run = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
        if hangs {
            while run.wait() != DeadlineReason::Attempt {
                settle(&mut run);
            }
        } else {
            run.breaks(FetchFailure::Reset);
        }
        settle(&mut run);
        assert_eq!(run.fetch().upstream, "openclaw");
        assert!(run.sent_upstream().to_string().contains("not known whether"));
        stream_to_end(&mut run, "请核实");
        assert_eq!(look(&policy, &run.store, run.now, "").json()["actions"][0]["outcome"], "unknown");
        assert_eq!(run.fetches.iter().filter(|fetch| fetch.upstream == "tool:refund").count(), 1);
        assert_eq!(run.samples.last().expect("what was counted").failed_tools, ["refund"]);
    }
}

#[test]
fn a_runner_that_dies_in_a_call_leaves_it_unknown_or_to_be_sent_with_the_same_key() {
    for idempotent in [false, true] {
        let mut policy = with_tools(Approval::User);
        policy.catalog.tools.iter_mut().for_each(|tool| tool.idempotent = idempotent);
        let (_, run) = proposed(&policy);
        let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
        let dead = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
        assert_eq!(dead.fetch().upstream, "tool:refund");
        let mut next = runner(&policy, &dead.store, BEGIN + 18_000, 0x34);
        if idempotent {
            assert_eq!(next.fetch().upstream, "tool:refund");
            assert_eq!(next.fetch().headers, dead.fetch().headers, "the same key");
            next.whole(200, &[], "refunded");
            settle(&mut next);
        }
        assert_eq!(next.fetch().upstream, "openclaw");
        stream_to_end(&mut next, "好");
        let outcome = &look(&policy, &next.store, next.now, "").json()["actions"][0]["outcome"];
        assert_eq!(*outcome, if idempotent { "done" } else { "unknown" });
    }
}

#[test]
fn a_turn_that_could_not_be_kept_does_not_run_all_the_same() {
    let policy = with_tools(Approval::User);
    let mut world = World::begin_with(policy.clone(), ask_head(), BEGIN, Store::new(), 0x31);
    world.send_body(&question());
    let is_create = |op: &Op| matches!(op, Op::Turn(TurnOp::Create(_)));
    while !world.asked[0].1.iter().any(|(_, op)| is_create(op)) {
        world.answer_store();
    }
    // The store takes it, and its answer does not come.
    for (key, op) in world.asked[0].1.clone() {
        world.apply(&key, &op);
    }
    world.break_store();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
    let run = runner(&policy, &world.store, BEGIN + 5, 0x32);
    assert!(run.done && run.fetches.is_empty(), "who sends it again would have two");
}

#[test]
fn who_takes_over_does_not_take_back_what_may_have_been_done() {
    for (status, answer) in [(403, "{}"), (429, "{}")] {
        let mut policy = with_tools(Approval::User);
        policy.catalog.tools.iter_mut().for_each(|tool| tool.idempotent = true);
        let (_, run) = proposed(&policy);
        let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
        let dead = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
        assert_eq!(dead.fetch().upstream, "tool:refund");
        let mut next = runner(&policy, &dead.store, BEGIN + 18_000, 0x34);
        while next.fetch().upstream == "tool:refund" {
            next.whole(status, &[], answer);
            settle(&mut next);
            if next.fetch().upstream == "tool:refund" && !next.done {
                next.wait_through_leases();
                settle(&mut next);
            }
        }
        stream_to_end(&mut next, "好");
        let outcome = &look(&policy, &next.store, next.now, "").json()["actions"][0]["outcome"];
        assert_eq!(*outcome, "unknown", "{status}");
    }
}

#[test]
fn a_call_that_is_done_is_not_done_again_by_who_takes_over() {
    let policy = with_tools(Approval::User);
    let (_, run) = proposed(&policy);
    let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
    let mut dead = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
    dead.whole(200, &[], "refunded");
    settle(&mut dead);
    assert_eq!(dead.fetch().upstream, "openclaw");
    dead.opens_stream();
    dead.lines(&completion_stream(&["旧"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut dead);
    let mut next = runner(&policy, &dead.store, BEGIN + 18_000, 0x34);
    assert_eq!(next.fetch().upstream, "openclaw");
    assert!(next.sent_upstream().to_string().contains("refunded"));
    assert!(next.fetches.iter().all(|fetch| !fetch.upstream.starts_with("tool:")));
    // What the dead one had said is said again: a `meta` says that it begins anew.
    stream_to_end(&mut next, "新");
    let told = events(&look(&policy, &next.store, BEGIN + 19_000, "/events"));
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["meta", "approval", "tool", "delta", "meta", "delta", "done"]);
    assert_eq!(look(&policy, &next.store, BEGIN + 19_000, "").json()["answer"], "新");
}

#[test]
fn words_beside_a_call_are_no_part_of_the_answer() {
    let policy = with_tools(Approval::User);
    let first = client(&policy, keyed(), &question(), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens_stream();
    let words = json!({"choices": [{"index": 0, "delta": {"content": "我查一下。"}, "finish_reason": null}]});
    run.lines(&format!("data: {words}\n\n{}", wants(&[("lookup", r#"{"order":"A-1"}"#)])));
    run.closes();
    settle(&mut run);
    run.whole(200, &[], "shipped");
    settle(&mut run);
    stream_to_end(&mut run, "已发货");
    let told = events(&look(&policy, &run.store, run.now, "/events"));
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["meta", "delta", "tool", "meta", "delta", "done"]);
    assert_eq!(look(&policy, &run.store, run.now, "").json()["answer"], "已发货");
}

#[test]
fn whoever_cancels_waits_for_what_is_being_done() {
    let policy = with_tools(Approval::User);
    let (_, run) = proposed(&policy);
    let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
    let mut run = runner(&policy, &decided.store, BEGIN + 3_000, 0x33);
    let id = only_turn(&run.store).replace("turn:", "");
    let mut cancel = World::begin_in(
        policy.clone(),
        RequestHead {
            method: "DELETE".into(),
            headers: ask_head().headers,
            ..get(&format!("/v1/mini/turns/{id}"))
        },
        BEGIN + 4_000,
        run.store.clone(),
    );
    settle(&mut cancel);
    run.store = cancel.store.clone();
    run.wake();
    settle(&mut run);
    assert!(!run.done && run.cancelled.is_empty());
    run.whole(200, &[], "refunded");
    settle(&mut run);
    assert!(run.done);
    let record = run.record();
    assert_eq!((&record["code"], &record["calls"][0]["outcome"]), (&json!("turn_cancelled"), &json!("done")));
    // While it is waited to send it again, nobody knows whether it was done.
    let mut idempotent = policy.clone();
    idempotent.catalog.tools.iter_mut().for_each(|tool| tool.idempotent = true);
    let (_, run) = proposed(&idempotent);
    let decided = say(&idempotent, &run.store, &approval_path(&run.store, 1), KEY, "approve");
    let mut run = runner(&idempotent, &decided.store, BEGIN + 3_000, 0x33);
    run.breaks(FetchFailure::Reset);
    settle(&mut run);
    assert_eq!(run.deadline.map(|(_, reason)| reason), Some(DeadlineReason::Backoff));
    let key = only_turn(&run.store);
    run.apply(&key, &Op::Turn(TurnOp::Cancel { owner: None }));
    run.wake();
    settle(&mut run);
    assert!(run.done);
    let record = run.record();
    assert_eq!(
        (&record["code"], &record["calls"][0]["outcome"]),
        (&json!("action_unknown"), &json!("unknown"))
    );
    // Before it is sent, it is not sent.
    let (_, run) = proposed(&policy);
    let decided = say(&policy, &run.store, &approval_path(&run.store, 1), KEY, "approve");
    let mut run =
        World::alarm(policy.clone(), &only_turn(&decided.store), BEGIN + 3_000, decided.store.clone(), 0x33);
    run.answer_store();
    assert!(!run.asked.is_empty() && run.fetches.is_empty(), "it is being saved as begun");
    run.give(Input::ClientGone);
    assert!(!run.done);
}
