//! Configurations as an operator puts them, and turns that were begun with another one.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    durable::{client, harmless, keyed, runner, settle},
    world::{BEGIN, World, chat_head, guarded},
};
use crate::{
    exchange::Exchange,
    policy::{Policy, auth::KeyDigest},
    seam::{Input, Moment, Output, Problem, RequestHead},
    state::{Op, Outcome, editions::KEY},
};

type Store = BTreeMap<String, Vec<u8>>;

const ADMIN: &str = "admin-key-canary";
const A: &str = "aaaaaaaaaaaa";
const B: &str = "bbbbbbbbbbbb";

fn policy(version: &str) -> Policy {
    let mut policy = Policy { admin_keys: vec![KeyDigest::of(ADMIN.as_bytes())], ..guarded() };
    policy.catalog.version = version.into();
    policy.catalog.audit.enabled = true;
    policy
}

fn begin(method: &str, path: &str, version: &str, now: u64, store: &Store) -> World {
    let head = RequestHead {
        method: method.into(),
        path: path.into(),
        headers: vec![("authorization".into(), format!("Bearer {ADMIN}"))],
        ..chat_head()
    };
    World::begin_in(policy(version), head, now, store.clone())
}

/// The host has checked what it was given: so it is called, or that is the matter with it.
fn checked(world: &mut World, found: Result<&str, Problem>) {
    let Some(Output::Check { id, files }) = world.configuring.pop() else { panic!("no check") };
    assert!(!files.is_empty());
    let (version, problems) = match found {
        Ok(version) => (Some(version.to_owned()), Vec::new()),
        Err(problem) => (None, vec![problem]),
    };
    world.give(Input::Checked { id, version, problems });
    settle(world);
}

/// The host has taken it, or not; gives its number.
fn taken(world: &mut World, done: bool) -> u64 {
    let Some(Output::Take { id, number, .. }) = world.configuring.pop() else { panic!("nothing is taken") };
    world.give(Input::Taken { id, done });
    number
}

fn put(text: &str, version: &str, before: &str, now: u64, store: &Store) -> World {
    let mut world = begin("PUT", "/v1/admin/config", before, now, store);
    world.send_body(&json!({"text": text, "note": format!("why {text}")}));
    checked(&mut world, Ok(version));
    taken(&mut world, true);
    world
}

fn look(path: &str, store: &Store) -> World {
    let mut world = begin("GET", path, A, BEGIN, store);
    settle(&mut world);
    world
}

fn versions(store: &Store) -> Vec<String> {
    let list = look("/v1/admin/config", store).json();
    let versions = list["versions"].as_array().expect("a list").iter();
    versions.map(|one| one["version"].as_str().unwrap_or_default().to_owned()).collect()
}

#[test]
fn what_was_put_is_listed_shown_and_audited() {
    let first = put("a: 1", A, "", BEGIN, &Store::new());
    assert_eq!((first.status(), &first.json()["version"]), (200, &json!(A)));
    let second = put("b: 2", B, A, BEGIN + 1_000, &first.store);
    let number = |world: &World| world.json()["number"].as_u64().expect("a number");
    assert_eq!((&second.json()["before"], number(&second)), (&json!(A), number(&first) + 1));
    let record: Value = serde_json::from_str(&second.audit[0]).expect("JSON");
    assert_eq!(record["kind"], "configuration");
    assert!(record["subject"].as_str().is_some_and(|key| !key.is_empty() && !key.contains("canary")));
    let decisions = record["decisions"].as_array().expect("a list");
    assert!(decisions.contains(&json!({"what": "configuration", "from": A, "to": B})), "{decisions:?}");

    assert_eq!(versions(&second.store), [B, A], "the newest first");
    let list = look("/v1/admin/config", &second.store).json();
    assert_eq!((&list["version"], &list["versions"][0]["note"]), (&json!(A), &json!("why b: 2")));
    let shown = look(&format!("/v1/admin/config/{A}"), &second.store);
    assert_eq!((shown.status(), &shown.json()["text"]), (200, &json!("a: 1")));
    assert_eq!(shown.json()["files"][0]["text"], "a: 1");
    let unknown = look("/v1/admin/config/cccccccccccc", &second.store);
    assert_eq!(unknown.failure(), (404, "configuration_unknown".into()));
    assert_eq!(look("/v1/admin/config/x", &second.store).status(), 404);
}

#[test]
fn one_with_mistakes_changes_nothing_and_says_them() {
    let first = put("a: 1", A, "", BEGIN, &Store::new());
    let mut world = begin("PUT", "/v1/admin/config", A, BEGIN, &first.store);
    world.send_body(&json!({"files": [{"name": "p.yaml", "text": "profiles: 1"}]}));
    let problem = Problem {
        error: true,
        file: "p.yaml".into(),
        line: 1,
        column: 11,
        message: "expected a map".into(),
        help: None,
    };
    checked(&mut world, Err(problem));
    assert_eq!(world.failure(), (422, "configuration_invalid".into()));
    let found = &world.json()["diagnostics"][0];
    assert_eq!(
        (&found["file"], &found["line"], &found["severity"]),
        (&json!("p.yaml"), &json!(1), &json!("error"))
    );
    assert!(world.configuring.is_empty() && world.done);
    assert_eq!(versions(&world.store), [A]);
    for (body, code) in [(json!({"note": "x"}), "input_invalid"), (json!([]), "invalid_json")] {
        let mut world = begin("PUT", "/v1/admin/config", A, BEGIN, &first.store);
        world.send_body(&body);
        assert_eq!(world.failure(), (400, code.into()));
    }
}

#[test]
fn the_way_back_is_one_action() {
    let first = put("a: 1", A, "", BEGIN, &Store::new());
    let second = put("b: 2", B, A, BEGIN, &first.store);
    for (body, wanted) in [(json!({}), A), (json!({"version": A}), A)] {
        let mut back = begin("POST", "/v1/admin/config/rollback", B, BEGIN, &second.store);
        back.send_body(&body);
        settle(&mut back);
        assert!(matches!(
            back.configuring.last(),
            Some(Output::Check { files, .. }) if files[0].text == "a: 1"
        ));
        checked(&mut back, Ok(wanted));
        let before = second.json()["number"].as_u64().expect("a number");
        assert_eq!(taken(&mut back, true), before + 1, "it is a new edition");
        assert_eq!((back.status(), &back.json()["version"]), (200, &json!(A)));
        assert_eq!(versions(&back.store), [A, B, A]);
    }
    let mut unknown = begin("POST", "/v1/admin/config/rollback", B, BEGIN, &second.store);
    unknown.send_body(&json!({"version": "cccccccccccc"}));
    settle(&mut unknown);
    assert_eq!(unknown.failure(), (404, "configuration_unknown".into()));
}

#[test]
fn a_failing_store_and_a_host_that_cannot_are_said() {
    let mut world = begin("PUT", "/v1/admin/config", A, BEGIN, &Store::new());
    world.send_body(&json!({"text": "a: 1"}));
    let Some(Output::Check { id, .. }) = world.configuring.pop() else { panic!("no check") };
    world.give(Input::Checked { id, version: Some(A.into()), problems: Vec::new() });
    world.break_store();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
    assert!(world.configuring.is_empty(), "nothing is in use that is not remembered");

    let mut world = begin("PUT", "/v1/admin/config", A, BEGIN, &Store::new());
    world.send_body(&json!({"text": "b: 1"}));
    checked(&mut world, Ok(B));
    taken(&mut world, false);
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
}

#[test]
fn a_change_is_audited_also_when_its_client_leaves() {
    let mut world = begin("PUT", "/v1/admin/config", A, BEGIN, &Store::new());
    world.send_body(&json!({"text": "b: 1"}));
    checked(&mut world, Ok(B));
    assert!(matches!(world.configuring.last(), Some(Output::Take { .. })));
    world.give(Input::ClientGone);
    let record: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
    assert_eq!((&record["kind"], &record["status"]), (&json!("configuration"), &json!(499)));
    let decisions = record["decisions"].as_array().expect("a list");
    assert!(decisions.contains(&json!({"what": "configuration", "from": A, "to": B})), "{decisions:?}");
}

#[test]
fn one_that_a_host_took_by_itself_is_recorded_by_the_rules_that_audit() {
    let now = Moment { unix_ms: BEGIN, entropy: [7; 16] };
    let (_, record) = Exchange::configured(&policy(A), (A, B), "file", now);
    let Some(Output::Audit { record }) = record else { panic!("no record") };
    let record: Value = serde_json::from_str(&record).expect("JSON");
    assert_eq!((&record["config"], &record["subject"]), (&json!(A), &json!("file")));
    assert_eq!(record["decisions"], json!([{"what": "configuration", "from": A, "to": B}]));
}

#[test]
fn only_operators_may() {
    for (method, path) in [
        ("GET", "/v1/admin/config"),
        ("PUT", "/v1/admin/config"),
        ("GET", "/v1/admin/config/aaaaaaaaaaaa"),
        ("POST", "/v1/admin/config/rollback"),
    ] {
        let head = RequestHead { method: method.into(), path: path.into(), ..chat_head() };
        let mut world = World::begin(policy(A), head);
        settle(&mut world);
        assert_eq!(world.status(), 401, "{method} {path}");
    }
}

#[test]
fn old_texts_are_forgotten() {
    let mut store = Store::new();
    for number in 0..22 {
        let version = format!("{number:012x}");
        store = put(&format!("n: {number}"), &version, "", BEGIN, &store).store;
    }
    let texts = store.iter().filter(|(key, value)| key.starts_with("configuration:") && !value.is_empty());
    assert_eq!((versions(&store).len(), texts.count()), (20, 20));
    let mut world = look("/v1/admin/config", &store);
    world.store = store;
    let reduced = crate::state::reduce(&Op::Editions, world.store.get(KEY).map(Vec::as_slice), BEGIN);
    assert!(matches!(reduced.outcome, Outcome::Editions { editions, .. } if editions.len() == 20));
}

#[test]
fn a_turn_goes_on_with_the_configuration_that_it_was_begun_with() {
    let mut begun = harmless();
    begun.catalog.version = A.into();
    begun.catalog.audit.enabled = true;
    let mut newer = begun.clone();
    newer.catalog.version = B.into();
    newer.catalog.profiles.iter_mut().for_each(|profile| profile.system_prompt = "another one".into());
    let body = json!({"intent": "qa", "input": {"text": "你好"}});
    let first = client(&begun, keyed(), &body, BEGIN, &Store::new());

    // The host still has it.
    let mut run = runner(&newer, &first.store, BEGIN + 5, 0x32);
    assert!(matches!(&run.configuring[..], [Output::Under { version }] if version == A));
    assert!(run.fetches.is_empty(), "nothing is asked before");
    run.policy = begun;
    run.give(Input::Under);
    settle(&mut run);
    assert_eq!(run.fetches.len(), 1);
    assert!(!run.sent_upstream().to_string().contains("another one"));

    // The host has it no more: it goes on with the new one, and says so.
    let mut run = runner(&newer, &first.store, BEGIN + 5, 0x33);
    run.give(Input::Under);
    settle(&mut run);
    assert!(run.sent_upstream().to_string().contains("another one"));
    super::durable::stream_to_end(&mut run, "好");
    let record: Value = serde_json::from_str(&run.audit[0]).expect("JSON");
    assert_eq!((&record["config"], &record["begunWith"]), (&json!(B), &json!(A)));
}
