//! An operator's session: opened by a key, used with its CSRF token, given back; and what it shows.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::world::{BEGIN, KEY, World, guarded};
use crate::{
    ledger::Head,
    measure::{Process, Totals},
    policy::{Policy, auth::KeyDigest, session::SigningKey},
    seam::{DeadlineReason, Input, RequestHead},
    state::Outcome,
};

type Store = BTreeMap<String, Vec<u8>>;

const ADMIN: &str = "admin-key-canary";
const HOUR: u64 = 3_600_000;

fn policy() -> Policy {
    Policy { admin_keys: vec![KeyDigest::of(ADMIN.as_bytes())], ..guarded() }
}

fn head(method: &str, path: &str, headers: &[(&str, &str)]) -> RequestHead {
    RequestHead {
        method: method.into(),
        path: path.into(),
        peer: "203.0.113.9".into(),
        headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        ..RequestHead::default()
    }
}

fn log_in(key: &str, store: Store) -> World {
    let mut world = World::begin_in(policy(), head("POST", "/v1/admin/session", &[]), BEGIN, store);
    world.send_body(&json!({"key": key}));
    world.answer_store();
    world
}

/// A browser's cookie and the page's CSRF token.
fn session() -> (String, String) {
    let world = log_in(ADMIN, Store::new());
    let cookie = world.header("set-cookie").expect("a cookie").split(';').next().expect("a pair").to_owned();
    (cookie, world.json()["csrf"].as_str().expect("a token").to_owned())
}

fn with(method: &str, path: &str, headers: &[(&str, &str)], now: u64, store: Store) -> World {
    let mut world = World::begin_in(policy(), head(method, path, headers), now, store);
    world.answer_store();
    world
}

#[test]
fn a_key_is_shown_once_and_is_nowhere_afterwards() {
    let world = log_in(ADMIN, Store::new());
    let answer = world.json();
    assert_eq!((world.status_so_far(), &answer["role"]), (Some(200), &json!("operator")));
    assert_eq!(answer["name"].as_str().map(str::len), Some(16));
    assert_eq!(answer["expiresAt"], "2026-11-21T04:46:37.000Z");
    let set = world.header("set-cookie").expect("a cookie");
    assert!(set.starts_with("__Host-minigate-operator=") && set.contains("HttpOnly; SameSite=Strict"));
    let record: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
    assert_eq!((&record["kind"], &record["status"]), (&json!("operator_login"), &json!(200)));
    assert_eq!(record["decisions"][0]["key"], answer["name"]);
    let everything = format!("{}{:?}{:?}{:?}", world.text(), world.records, world.audit, world.store);
    assert!(!everything.contains(ADMIN));
    let token = set.split(['=', ';']).nth(1).expect("a token");
    assert!(!format!("{:?}{:?}{:?}", world.records, world.audit, world.store).contains(token));
}

#[test]
fn who_is_logged_in_and_with_which_key() {
    let (cookie, csrf) = session();
    let world = with("GET", "/v1/admin/session", &[("cookie", &cookie)], BEGIN, Store::new());
    assert_eq!((&world.json()["csrf"], world.header("set-cookie")), (&json!(csrf), None));
    let bearer = format!("Bearer {ADMIN}");
    let world = with("GET", "/v1/admin/session", &[("authorization", &bearer)], BEGIN, Store::new());
    assert_eq!((&world.json()["role"], &world.json()["csrf"]), (&json!("operator"), &Value::Null));
    assert!(world.audit.is_empty(), "a page asks for it all the time");
    // Nobody guesses by asking.
    let world = with("GET", "/v1/admin/session", &[], BEGIN, Store::new());
    assert_eq!((world.failure(), world.store.len()), ((401, "unauthorized".into()), 0));
}

#[test]
fn a_wrong_key_counts_until_the_address_is_blocked() {
    let mut store = Store::new();
    for guess in 0..23 {
        let world = log_in(&format!("guess-{guess}"), store);
        assert_eq!(world.failure(), (401, "unauthorized".into()));
        store = world.store;
    }
    let world = log_in("guess-last", store);
    assert_eq!(world.failure(), (429, "blocked".into()));
    // Then the right one learns no more than the others; a session that is there goes on.
    let mut blocked = World::begin_in(policy(), head("POST", "/v1/admin/session", &[]), BEGIN, world.store);
    blocked.answer_store();
    assert_eq!(blocked.failure(), (429, "blocked".into()));
    let (cookie, _) = session();
    let world = with("GET", "/v1/admin/session", &[("cookie", &cookie)], BEGIN, blocked.store);
    assert_eq!(world.status_so_far(), Some(200));
}

#[test]
fn what_changes_something_needs_the_pages_own_word() {
    let (cookie, csrf) = session();
    let cookie = ("cookie", cookie.as_str());
    let order =
        |headers: &[(&str, &str)]| World::begin(policy(), head("POST", "/v1/admin/rollouts", headers));
    for headers in [
        vec![cookie],
        vec![cookie, ("x-csrf-token", "")],
        vec![cookie, ("x-csrf-token", &csrf[1..])],
        vec![cookie, ("x-csrf-token", &csrf), ("sec-fetch-site", "cross-site")],
        vec![cookie, ("x-csrf-token", &csrf), ("sec-fetch-site", "same-site")],
        vec![cookie, ("x-csrf-token", &csrf), ("origin", "https://evil.example"), ("host", "mini.example")],
        vec![cookie, ("x-csrf-token", &csrf), ("origin", "null"), ("host", "mini.example")],
    ] {
        let world = order(&headers);
        assert_eq!(world.failure(), (403, "csrf_invalid".into()), "{headers:?}");
        assert!(world.store.is_empty(), "and is nobody's guess");
    }
    for headers in [
        vec![cookie, ("x-csrf-token", &csrf)],
        vec![cookie, ("x-csrf-token", &csrf), ("sec-fetch-site", "same-origin"), ("origin", "https://a")],
        vec![cookie, ("x-csrf-token", &csrf), ("origin", "https://mini.example"), ("host", "mini.example")],
    ] {
        let mut world = order(&headers);
        world.send_body(&json!({"intent": "qa", "order": "hold"}));
        assert_eq!(world.failure(), (404, "rollout_unknown".into()), "{headers:?}");
    }
    // A login is refused to another site's page, too.
    let world =
        World::begin(policy(), head("POST", "/v1/admin/session", &[("sec-fetch-site", "cross-site")]));
    assert_eq!(world.failure(), (403, "csrf_invalid".into()));
    // A key is no cookie: no browser sends it by itself.
    let bearer = format!("Bearer {ADMIN}");
    let mut world = order(&[("authorization", &bearer), ("sec-fetch-site", "cross-site")]);
    world.send_body(&json!({"intent": "qa", "order": "hold"}));
    assert_eq!(world.failure(), (404, "rollout_unknown".into()));
}

#[test]
fn a_session_that_was_given_back_opens_nothing() {
    let (cookie, csrf) = session();
    let headers = [("cookie", cookie.as_str()), ("x-csrf-token", csrf.as_str())];
    let mut world = with("DELETE", "/v1/admin/session", &headers, BEGIN, Store::new());
    world.answer_store();
    assert_eq!(world.json(), json!({"loggedOut": true}));
    assert!(world.header("set-cookie").is_some_and(|cookie| cookie.contains("Max-Age=0")));
    let record: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
    assert_eq!(record["kind"], "operator_logout");
    let store = world.store;
    for (method, path) in [("GET", "/v1/admin/session"), ("GET", "/v1/admin/overview")] {
        let world = with(method, path, &headers, BEGIN + HOUR / 2, store.clone());
        assert_eq!(world.failure(), (401, "unauthorized".into()), "{path}");
    }
    let mut broken = World::begin(policy(), head("DELETE", "/v1/admin/session", &headers));
    broken.answer_store();
    broken.break_store();
    assert_eq!(broken.failure(), (503, "store_unavailable".into()));
    let mut hangs = World::begin(policy(), head("DELETE", "/v1/admin/session", &headers));
    hangs.answer_store();
    assert_eq!(hangs.wait(), DeadlineReason::Store);
    assert_eq!(hangs.failure(), (503, "store_unavailable".into()));
}

#[test]
fn use_prolongs_a_session_and_its_time_ends_it() {
    let (cookie, csrf) = session();
    let headers = [("cookie", cookie.as_str())];
    let world = with("GET", "/v1/admin/rollouts", &headers, BEGIN + HOUR * 3 / 4, Store::new());
    let newer =
        world.header("set-cookie").expect("a newer one").split(';').next().expect("a pair").to_owned();
    let late = BEGIN + HOUR * 3 / 2;
    assert_eq!(with("GET", "/v1/admin/session", &headers, late, Store::new()).failure().0, 401);
    let world = with("GET", "/v1/admin/session", &[("cookie", &newer)], late, Store::new());
    assert_eq!(world.json()["csrf"], csrf);
    let world = with("GET", "/v1/admin/session", &[("cookie", &newer)], BEGIN + 13 * HOUR, Store::new());
    assert_eq!((world.failure().0, world.store.len()), (401, 0), "an old cookie is no guess");
}

#[test]
fn neither_a_clients_key_nor_a_persons_token_opens_it() {
    let mut policy = policy();
    policy.login.keys = vec![SigningKey::derive(b"session")];
    let claims = crate::policy::session::Claims {
        subject: "name.session".into(),
        role: "operator".into(),
        environment: "prod".into(),
        issued_s: BEGIN / 1000,
        expires_s: BEGIN / 1000 + 600,
        login_s: BEGIN / 1000,
    };
    let token = crate::policy::session::mint(&policy.login.keys, &claims).expect("a token");
    let (own, _) = session();
    let cookie = format!("__Host-minigate-operator={token}");
    let bearer = |text: &str| format!("Bearer {text}");
    for (name, value) in [
        ("cookie", cookie.clone()),
        ("authorization", bearer(&token)),
        ("x-api-key", KEY.into()),
        ("authorization", bearer(own.split_once('=').expect("a pair").1)),
    ] {
        let mut world = World::begin(policy.clone(), head("GET", "/v1/admin/overview", &[(name, &value)]));
        world.answer_store();
        assert_eq!(world.failure(), (401, "unauthorized".into()), "{name}");
    }
    // Nor does an operator's cookie open a person's routes.
    let mut world = World::begin(policy, head("GET", "/v1/mini/turns/req_1", &[("cookie", &own)]));
    world.answer_store();
    assert_eq!(world.failure(), (401, "unauthorized".into()));
}

#[test]
fn the_overview_is_what_was_counted_and_leaves_no_record() {
    let bearer = format!("Bearer {ADMIN}");
    let mut world = with("GET", "/v1/admin/overview", &[("authorization", &bearer)], BEGIN, Store::new());
    let id = world.stats.take().expect("the host is asked");
    let process = Process { started_ms: Some(BEGIN), ..Process::default() };
    world.give(Input::Stats { id, totals: serde_bytes::ByteBuf::from(Totals::default().encode()), process });
    world.answer_store();
    let shown = world.json();
    assert_eq!(
        (&shown["at"], &shown["startedAt"]),
        (&shown["startedAt"], &json!("2026-11-21T03:46:37.000Z"))
    );
    assert_eq!((&shown["approvals"], &shown["rollouts"]), (&json!(0), &json!([])));
    assert_eq!(shown["upstreams"][0]["name"], "openclaw");
    assert_eq!(world.audit, [""; 0]);
}

#[test]
fn a_trace_is_told_by_its_records_and_the_turn_that_it_left() {
    let bearer = format!("Bearer {ADMIN}");
    let ask = |id: &str| {
        let path = format!("/v1/admin/trace/{id}");
        with("GET", &path, &[("authorization", &bearer)], BEGIN, Store::new())
    };
    assert_eq!(ask("not%20an%20id").failure(), (400, "input_invalid".into()));
    let record = json!({
        "kind": "turn", "traceId": "t-1", "requestId": format!("req_{}", "5".repeat(32)), "status": 200,
    });
    let (line, _) = Head::default().link(&record.to_string());
    let lines = |text: String| vec![Outcome::Value(Some(serde_bytes::ByteBuf::from(text)))];

    let mut world = ask("t-1");
    let id = world.asks_ledger();
    world.give(Input::Stored { id, outcomes: lines(line + "\n") });
    // The turn, which left nothing.
    world.answer_store();
    let told = world.json();
    assert_eq!((&told["records"], &told["turn"]), (&json!([record]), &Value::Null));

    let mut unknown = ask("t-2");
    let id = unknown.asks_ledger();
    unknown.give(Input::Stored { id, outcomes: lines(String::new()) });
    assert_eq!(unknown.failure(), (404, "trace_unknown".into()));
}
