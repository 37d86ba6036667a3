//! Rollouts as those see them who steer them, and as they go while people ask.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{ask_head, configured},
    ask_rules::rolling,
    upstream::{completion, error},
    world::{BEGIN, World, chat_head, guarded},
};
use crate::{
    policy::{Environment, Policy, auth::KeyDigest, catalog::EnvironmentRules},
    seam::{DeadlineReason, Level, RequestHead},
};

type Store = BTreeMap<String, Vec<u8>>;

const ADMIN: &str = "admin-key-canary";
const DAY: u64 = 86_400_000;

fn with_admin(mut policy: Policy) -> Policy {
    policy.admin_keys = vec![KeyDigest::of(ADMIN.as_bytes()), KeyDigest::of(b"another-admin")];
    policy
}

fn head(method: &str, key: &str) -> RequestHead {
    RequestHead {
        method: method.into(),
        path: "/v1/admin/rollouts".into(),
        headers: vec![("authorization".into(), format!("Bearer {key}"))],
        ..chat_head()
    }
}

fn look(policy: &Policy, now: u64, store: Store) -> World {
    let mut world = World::begin_in(policy.clone(), head("GET", ADMIN), now, store);
    assert_eq!(world.wants_body, None, "nothing is sent along");
    world.answer_store();
    world
}

fn send(policy: &Policy, body: &Value, now: u64, store: Store) -> World {
    let mut world = World::begin_in(policy.clone(), head("POST", ADMIN), now, store);
    world.send_body(body);
    world.answer_store();
    world
}

fn order(policy: &Policy, order: &str, now: u64, store: Store) -> World {
    send(policy, &json!({"intent": "qa", "order": order}), now, store)
}

/// The lines about rollouts.
fn audit(records: &[(Level, String)]) -> Vec<Value> {
    let lines = records.iter().map(|(_, line)| serde_json::from_str::<Value>(line).expect("JSON"));
    lines.filter(|line| line["event"] == "rollout").collect()
}

/// Turns of many people, some at once, with one store between them.
struct Traffic {
    policy: Policy,
    now: u64,
    store: Store,
    begun: u32,
    running: VecDeque<(World, bool)>,
    records: Vec<(Level, String)>,
    /// For each turn in the order of their beginnings: whether it is the new version's.
    new: Vec<bool>,
    /// The same in the order of their ends.
    ended: Vec<bool>,
}

impl Traffic {
    fn new(policy: Policy, now: u64, store: Store) -> Self {
        let (running, records) = (VecDeque::new(), Vec::new());
        Self { policy, now, store, begun: 0, running, records, new: Vec::new(), ended: Vec::new() }
    }

    /// So many turns, ten seconds apart, of 200 people; `bad` says whether a turn of the new
    /// version fails.
    fn turns(&mut self, count: u32, bad: impl Fn(usize) -> bool) {
        for _ in 0..count {
            self.begin();
            if self.running.len() > 6 {
                self.end(&bad);
            }
            self.now += 10_000;
        }
        while !self.running.is_empty() {
            self.end(&bad);
        }
    }

    fn begin(&mut self) {
        let (policy, store) = (self.policy.clone(), std::mem::take(&mut self.store));
        let mut world = World::begin_with(policy, ask_head(), self.now, store, self.begun as u8);
        let person = format!("person-{}", self.begun % 200);
        world.send_body(&json!({"intent": "qa", "input": {"text": "x"}, "userId": person}));
        // The share, then the gates.
        world.answer_store();
        world.answer_store();
        let words = world.sent_upstream()["messages"][0]["content"].to_string();
        let is_new = words.contains("fast_v2");
        assert!(is_new != words.contains("fast_v1"));
        self.store = std::mem::take(&mut world.store);
        self.records.append(&mut world.records);
        self.begun += 1;
        self.new.push(is_new);
        self.running.push_back((world, is_new));
    }

    fn end(&mut self, bad: impl Fn(usize) -> bool) {
        let Some((mut world, is_new)) = self.running.pop_front() else { return };
        let of_new = self.ended.iter().filter(|is_new| **is_new).count();
        world.store = std::mem::take(&mut self.store);
        world.now = self.now;
        if is_new && bad(of_new) {
            world.whole(500, &[], &error("api_error", "internal error"));
            assert_eq!(world.status(), 502);
        } else {
            world.whole(200, &[], &completion("好", "stop"));
            assert_eq!(world.json()["profile"], if is_new { "fast_v2" } else { "fast_v1" });
        }
        self.store = world.store;
        self.records.append(&mut world.records);
        self.ended.push(is_new);
    }

    /// How many of the turns that began from that one on are the new version's.
    fn new_since(&self, turn: usize) -> usize {
        self.new[turn..].iter().filter(|is_new| **is_new).count()
    }
}

#[test]
fn a_bad_version_is_rolled_back_while_turns_go_on_and_one_line_says_so() {
    let mut traffic = Traffic::new(with_admin(rolling(2_500)), BEGIN, Store::new());
    traffic.turns(400, |n| n % 2 == 0);
    let errors: Vec<_> = traffic.records.iter().filter(|(level, _)| *level == Level::Error).collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    let line: Value = serde_json::from_str(&errors[0].1).expect("JSON");
    for (key, value) in [
        ("event", json!("rollout")),
        ("level", json!("error")),
        ("intent", json!("qa")),
        ("change", json!("rolled_back")),
        ("because", json!("failed")),
        ("shareBasisPoints", json!(0)),
        ("by", Value::Null),
    ] {
        assert_eq!(line[key], value, "{key}");
    }
    let changes: Vec<Value> = audit(&traffic.records).iter().map(|line| line["change"].clone()).collect();
    assert_eq!(changes, ["began", "rolled_back"]);

    let last = traffic.new.iter().rposition(|is_new| *is_new).expect("some had it");
    assert!(last < 200 && traffic.new_since(last + 1) == 0, "{last}");
    let of_new = traffic.new_since(0);
    let (store, now) = (std::mem::take(&mut traffic.store), traffic.now);
    let seen = look(&traffic.policy, now, store);
    let rollout = &seen.json()["rollouts"][0];
    assert_eq!((&rollout["state"], &rollout["shareBasisPoints"]), (&json!("rolled_back"), &json!(0)));
    assert_eq!(rollout["finding"]["what"], "failed");
    assert_eq!((&rollout["finding"]["at"], &rollout["since"]), (&line["ts"], &line["ts"]));
    assert_eq!(rollout["candidate"]["turns"], of_new, "those too that were on their way by then");
    assert_eq!(rollout["candidate"]["failed"], of_new.div_ceil(2));
    assert_eq!(rollout["running"]["turns"], 400 - of_new);
    assert_eq!(audit(&seen.records), [] as [Value; 0], "told once");

    let mut later = Traffic::new(traffic.policy, now + 31 * DAY, seen.store);
    later.turns(50, |_| true);
    assert_eq!((later.new_since(0), audit(&later.records).len()), (0, 0));
}

#[test]
fn a_good_version_becomes_everybodys_and_stays_so() {
    let mut traffic = Traffic::new(with_admin(rolling(5_000)), BEGIN, Store::new());
    traffic.turns(420, |_| false);
    let lines = audit(&traffic.records);
    let changes: Vec<&Value> = lines.iter().map(|line| &line["change"]).collect();
    assert_eq!(changes, ["began", "promoted"]);
    assert_eq!((&lines[1]["level"], &lines[1]["shareBasisPoints"]), (&json!("info"), &json!(10_000)));
    assert!((100..260).contains(&traffic.new[..360].iter().filter(|is_new| **is_new).count()));
    assert_eq!(traffic.new_since(370), 50);
    let mut later = Traffic::new(traffic.policy, traffic.now + 31 * DAY, traffic.store);
    later.turns(50, |_| false);
    assert_eq!(later.new_since(0), 50);
}

#[test]
fn both_versions_are_shown_side_by_side() {
    let policy = with_admin(rolling(5_000));
    let world = look(&policy, BEGIN, Store::new());
    let nothing = |profile: &str| {
        json!({
            "profile": profile, "turns": 0, "failed": 0, "empty": 0, "schemaFailed": 0,
            "averageTokens": null, "p50Ms": null, "p95Ms": null, "p99Ms": null,
            "up": 0, "down": 0
        })
    };
    let rollout = json!({
        "intent": "qa", "state": "running", "step": 0, "steps": 1, "shareBasisPoints": 5_000,
        "since": "2026-11-21T03:46:37.000Z", "allowed": true, "finding": null,
        "running": nothing("fast_v1"), "candidate": nothing("fast_v2")
    });
    assert_eq!(world.json(), json!({"rollouts": [rollout]}));
    assert_eq!(audit(&world.records)[0]["change"], "began");

    let mut traffic = Traffic::new(policy, BEGIN, world.store);
    traffic.turns(20, |_| false);
    let world = look(&traffic.policy, traffic.now, traffic.store);
    let rollout = &world.json()["rollouts"][0];
    let of_new = traffic.new.iter().filter(|is_new| **is_new).count();
    assert_eq!(rollout["candidate"]["turns"], of_new);
    assert_eq!(rollout["running"]["turns"], 20 - of_new);
    assert_eq!(rollout["running"]["averageTokens"], 2_002);
    // Six others begin before a turn ends; a histogram is right to a 32nd.
    let p50 = rollout["running"]["p50Ms"].as_u64().expect("a time");
    assert!(p50.abs_diff(60_000) <= 60_000 / 32, "{p50}");
    assert!(rollout["running"]["p99Ms"].as_u64() >= rollout["running"]["p95Ms"].as_u64());
}

#[test]
fn a_person_promotes_and_rolls_back_and_the_next_turns_follow() {
    let policy = with_admin(rolling(0));
    let world = order(&policy, "promote", BEGIN, Store::new());
    let answer = world.json();
    assert_eq!((&answer["state"], &answer["shareBasisPoints"]), (&json!("promoted"), &json!(10_000)));
    assert_eq!((&answer["intent"], &answer["changed"]), (&json!("qa"), &json!(true)));
    let lines = audit(&world.records);
    assert_eq!((&lines[0]["change"], &lines[0]["by"]), (&json!("began"), &Value::Null));
    assert_eq!((&lines[1]["change"], &lines[1]["because"]), (&json!("ordered"), &json!("promote")));
    let by = lines[1]["by"].as_str().expect("who").to_owned();
    assert_eq!((lines.len(), by.len()), (2, 16));
    let request: Value = serde_json::from_str(&world.records[2].1).expect("JSON");
    for (key, value) in
        [("route", "/v1/admin/rollouts"), ("intent", "qa"), ("order", "promote"), ("subject", by.as_str())]
    {
        assert_eq!(request[key], value);
    }
    let everything = format!("{}{:?}{:?}", world.text(), world.records, world.store);
    assert!(!everything.contains(ADMIN));

    let mut traffic = Traffic::new(policy.clone(), BEGIN + 31 * DAY, world.store);
    traffic.turns(30, |_| false);
    assert_eq!(traffic.new_since(0), 30, "and the configuration still names the old one");

    let world = order(&policy, "promote", traffic.now, traffic.store);
    assert_eq!((&world.json()["changed"], audit(&world.records).len()), (&json!(false), 0));
    let world = order(&policy, "roll_back", traffic.now, world.store);
    assert_eq!(world.json()["state"], "rolled_back");
    assert_eq!(audit(&world.records)[0]["because"], "roll_back");
    let mut traffic = Traffic::new(policy, traffic.now + 31 * DAY, world.store);
    traffic.turns(30, |_| false);
    assert_eq!(traffic.new_since(0), 0);
}

#[test]
fn a_person_holds_and_goes_on() {
    let policy = with_admin(rolling(5_000));
    let world = order(&policy, "hold", BEGIN, Store::new());
    assert_eq!(world.json()["state"], "held");
    let mut traffic = Traffic::new(policy.clone(), BEGIN, world.store);
    traffic.turns(420, |_| false);
    assert!(audit(&traffic.records).is_empty() && (100..320).contains(&traffic.new_since(0)));
    let world = order(&policy, "resume", traffic.now, traffic.store);
    assert_eq!(world.json()["state"], "running");
    let world = look(&policy, traffic.now, world.store);
    assert_eq!(world.json()["rollouts"][0]["state"], "promoted", "its time and its turns are over");
    assert_eq!(audit(&world.records)[0]["change"], "promoted");
}

#[test]
fn what_is_not_an_order_is_refused() {
    let policy = with_admin(rolling(5_000));
    for (body, expected) in [
        (json!({"intent": "qa", "order": "stop"}), (400, "order_unknown")),
        (json!({"intent": "qa", "order": "Promote"}), (400, "order_unknown")),
        (json!({"intent": "qa", "order": ""}), (400, "order_unknown")),
        (json!({"intent": "qa", "order": {"promote": null}}), (400, "invalid_json")),
        (json!({"intent": "local", "order": "hold"}), (404, "rollout_unknown")),
        (json!({"intent": "nothing", "order": "hold"}), (404, "rollout_unknown")),
        (json!({"intent": "qa"}), (400, "invalid_json")),
        (json!({"order": "hold"}), (400, "invalid_json")),
        (json!(["qa", "hold"]), (400, "invalid_json")),
    ] {
        let world = send(&policy, &body, BEGIN, Store::new());
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()), "{body}");
        assert!(world.store.is_empty() && audit(&world.records).is_empty());
        assert!(world.record()["subject"].is_string());
    }
    let none = with_admin(configured());
    assert_eq!(look(&none, BEGIN, Store::new()).json(), json!({"rollouts": []}));
    assert_eq!(order(&none, "hold", BEGIN, Store::new()).failure(), (404, "rollout_unknown".into()));
}

#[test]
fn only_an_admin_key_opens_and_guesses_count() {
    let mut policy = with_admin(guarded());
    policy.catalog = rolling(5_000).catalog;
    for method in ["GET", "POST"] {
        for key in ["wrong", super::world::KEY] {
            let mut world = World::begin(policy.clone(), head(method, key));
            world.answer_store();
            assert_eq!(world.failure(), (401, "unauthorized".into()));
            assert!(world.store.keys().all(|key| key.starts_with("addr:")) && !world.store.is_empty());
        }
    }
    let world = World::begin(policy.clone(), head("DELETE", ADMIN));
    assert_eq!(world.failure(), (405, "method_not_allowed".into()));
    assert_eq!(world.header("allow"), Some("GET, POST"));
    // A right key is asked for its address first, and its holder's mistakes do not count.
    let mut world = World::begin(policy, head("POST", ADMIN));
    world.answer_store();
    world.send_body(&json!({}));
    assert_eq!((world.failure().0, world.told.len()), (400, 0));
}

#[test]
fn without_the_store_nobody_knows() {
    for body in [None, Some(json!({"intent": "qa", "order": "roll_back"}))] {
        for hangs in [false, true] {
            let method = if body.is_some() { "POST" } else { "GET" };
            let mut world = World::begin(with_admin(rolling(5_000)), head(method, ADMIN));
            if let Some(body) = &body {
                world.send_body(body);
            }
            if hangs {
                assert_eq!(world.wait(), DeadlineReason::Store);
            } else {
                world.break_store();
            }
            assert_eq!(world.failure(), (503, "store_unavailable".into()));
            assert_eq!(
                world.record()["order"],
                if body.is_some() { json!("roll_back") } else { Value::Null }
            );
        }
    }
}

#[test]
fn an_order_of_somebody_who_leaves_is_in_the_log() {
    let mut world = World::begin(with_admin(rolling(5_000)), head("POST", ADMIN));
    world.send_body(&json!({"intent": "qa", "order": "hold"}));
    world.give(crate::seam::Input::ClientGone);
    let record = world.record();
    assert_eq!((&record["status"], &record["order"]), (&json!(499), &json!("hold")));
}

#[test]
fn what_the_environment_forbids_is_said() {
    let mut policy = with_admin(rolling(5_000));
    policy.catalog.environments = vec![EnvironmentRules {
        environment: Environment::Prod,
        allowed_profiles: Some(vec!["fast_v1".into()]),
        log_level: None,
        rate: None,
        daily: None,
        content: None,
    }];
    let world = order(&policy, "promote", BEGIN, Store::new());
    assert_eq!((&world.json()["state"], &world.json()["allowed"]), (&json!("promoted"), &json!(false)));
    let mut traffic = Traffic::new(policy, BEGIN, world.store);
    traffic.turns(10, |_| false);
    assert_eq!(traffic.new_since(0), 0);
}
