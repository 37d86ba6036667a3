//! Logins, tokens and their end.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{completion, question},
    world::{BEGIN, World, chat_head, guarded},
};
use crate::{
    policy::{
        Policy,
        auth::KeyDigest,
        session::{self, SigningKey},
    },
    seam::{Credential, FetchFailure, RequestHead},
};

pub(super) const OPENID: &str = "oCANARY_openid";
const SESSION_KEY: &str = "SESSIONKEYCANARY==";

pub(super) fn policy() -> Policy {
    let mut policy = guarded();
    policy.login.appid = Some("wx0123".into());
    policy.login.keys = vec![SigningKey::derive(b"the new secret"), SigningKey::derive(b"the old secret")];
    policy.login.server_keys = vec![KeyDigest::of(b"server-key")];
    policy.admin_keys = vec![KeyDigest::of(b"admin-key")];
    policy
}

pub(super) fn post(path: &str, bearer: Option<&str>) -> RequestHead {
    let mut head = RequestHead { path: path.into(), ..chat_head() };
    head.headers.retain(|(name, _)| name != "x-api-key");
    head.headers.extend(bearer.map(|token| ("authorization".into(), format!("Bearer {token}"))));
    head
}

/// A request at some time, up to the end or WeChat.
pub(super) fn request(
    policy: &Policy,
    (path, bearer): (&str, Option<&str>),
    body: &Value,
    now: u64,
    store: BTreeMap<String, Vec<u8>>,
) -> World {
    let mut world = World::begin_in(policy.clone(), post(path, bearer), now, store);
    world.answer_store();
    if !world.done {
        world.send_body(body);
        world.answer_store();
    }
    world
}

pub(super) fn login(policy: &Policy, code: &str, now: u64, store: BTreeMap<String, Vec<u8>>) -> World {
    request(policy, ("/v1/mini/login", None), &json!({"code": code}), now, store)
}

pub(super) fn identity() -> String {
    json!({"openid": OPENID, "session_key": SESSION_KEY}).to_string()
}

fn logged_in(policy: &Policy) -> (String, World) {
    let mut world = login(policy, "the-code", BEGIN, BTreeMap::new());
    world.whole(200, &[], &identity());
    let token = world.json()["token"].as_str().expect("a token").to_owned();
    (token, world)
}

#[test]
fn a_code_becomes_a_token_and_nothing_of_wechat_gets_out() {
    let (token, world) = logged_in(&policy());
    let fetch = world.fetch();
    assert_eq!((fetch.upstream.as_str(), fetch.method.as_str()), ("wechat", "GET"));
    assert_eq!(fetch.path, "/sns/jscode2session?appid=wx0123&js_code=the-code&grant_type=authorization_code");
    let secret = Credential::Query { parameter: "secret".into(), name: "WECHAT_SECRET".into() };
    assert_eq!(fetch.credential, Some(secret));
    let body = world.json();
    assert_eq!((&body["expiresIn"], &body["tokenType"]), (&json!(7200), &json!("Bearer")));
    let everything = format!("{}{:?}{:?}", world.text(), world.records, world.store);
    for canary in ["oCANARY", "SESSIONKEYCANARY", "the-code"] {
        assert!(!everything.contains(canary) && !world.state_contains(canary), "{canary}");
    }
    assert!(!format!("{:?}", world.records).contains(&token), "a token is not logged");
}

#[test]
fn a_token_lets_its_person_in_and_no_other_name() {
    let policy = policy();
    let (token, _) = logged_in(&policy);
    let mut body = question(false);
    body["user"] = "somebody-else".into();
    let mut world = request(&policy, ("/api/chat", Some(&token)), &body, BEGIN, BTreeMap::new());
    world.whole(200, &[], &completion("a", "stop"));
    assert_eq!(world.status(), 200);
    let mut other = request(&policy, ("/api/chat", Some(&token)), &question(false), BEGIN, BTreeMap::new());
    other.whole(200, &[], &completion("a", "stop"));
    assert_eq!(world.record()["subject"], other.record()["subject"]);
}

#[test]
fn a_code_is_good_once() {
    let policy = policy();
    let (_, world) = logged_in(&policy);
    let again = login(&policy, "the-code", BEGIN + 1_000, world.store);
    assert_eq!(again.failure(), (401, "login_code_used".into()));
    assert!(again.fetches.is_empty());
}

#[test]
fn tokens_end_and_are_renewed_within_the_bound() {
    let policy = policy();
    let (token, world) = logged_in(&policy);
    let store = world.store;
    let hour = 3_600_000;
    let late =
        request(&policy, ("/api/chat", Some(&token)), &question(false), BEGIN + 3 * hour, store.clone());
    assert_eq!(late.failure(), (401, "token_expired".into()));
    let renew = ("/v1/mini/token/renew", Some(token.as_str()));
    let renewed = request(&policy, renew, &json!({}), BEGIN + 3 * hour, store.clone());
    let newer = renewed.json()["token"].as_str().expect("a token").to_owned();
    let works =
        request(&policy, ("/api/chat", Some(&newer)), &question(false), BEGIN + 4 * hour, store.clone());
    assert_eq!(works.fetches.len(), 1);
    // The bound counts from the login, not from the renewal.
    let week = BEGIN + 7 * 24 * hour;
    let too_late = request(&policy, ("/v1/mini/token/renew", Some(&newer)), &json!({}), week, store);
    assert_eq!(too_late.failure(), (401, "token_expired".into()));
}

#[test]
fn a_revoked_person_is_out_at_once() {
    let policy = policy();
    let (token, world) = logged_in(&policy);
    let subject = world.json()["subject"].clone();
    let revoke = ("/v1/admin/sessions/revoke", Some("admin-key"));
    let revoked = request(&policy, revoke, &json!({"subject": subject}), BEGIN + 5_000, world.store);
    assert_eq!(revoked.json()["revoked"], true);
    let store = revoked.store;
    let turn = format!("/v1/mini/turns/req_{}", "0".repeat(32));
    let approval = format!("/v1/mini/approvals/apr_{}_1", "0".repeat(32));
    for (method, path) in [("GET", &turn), ("DELETE", &turn), ("GET", &approval), ("POST", &approval)] {
        let head = RequestHead { method: method.into(), ..post(path, Some(&token)) };
        let mut refused = World::begin_in(policy.clone(), head, BEGIN + 6_000, store.clone());
        refused.answer_store();
        assert_eq!(refused.failure(), (401, "token_invalid".into()), "{method} {path}");
    }
    for path in ["/api/chat", "/v1/mini/token/renew"] {
        let refused = request(&policy, (path, Some(&token)), &question(false), BEGIN + 6_000, store.clone());
        assert_eq!(refused.failure(), (401, "token_invalid".into()), "{path}");
    }
    // A renewal that was let through before the revocation, and is told a second later.
    let mut claims = session::verify(&policy.login.keys, "prod", &token, BEGIN).expect("genuine");
    claims.issued_s += 30;
    let late = session::mint(&policy.login.keys, &claims).expect("a token");
    for path in ["/api/chat", "/v1/mini/token/renew"] {
        let refused = request(&policy, (path, Some(&late)), &question(false), BEGIN + 31_000, store.clone());
        assert_eq!(refused.failure(), (401, "token_invalid".into()), "{path}");
    }
    let refused =
        request(&policy, ("/api/chat", Some(&token)), &question(false), BEGIN + 6_000, store.clone());
    assert!(!refused.store.contains_key("upstream:openclaw"), "no slot is taken for it");
    let mut again = login(&policy, "another-code", BEGIN + 7_000, store);
    again.whole(200, &[], &identity());
    let token = again.json()["token"].as_str().expect("a token").to_owned();
    let back = request(&policy, ("/api/chat", Some(&token)), &question(false), BEGIN + 8_000, again.store);
    assert_eq!(back.fetches.len(), 1, "a new login counts again");
}

#[test]
fn a_revoked_key_has_signed_nothing() {
    let new = policy();
    let mut old = policy();
    old.login.keys.remove(0);
    let (id, signing) = (old.login.keys[0].id.clone(), new.login.keys[0].id.clone());
    let (before, world) = logged_in(&old);
    let (after, _) = logged_in(&new);
    let revoke = |body: Value, store| {
        request(&new, ("/v1/admin/sessions/revoke", Some("admin-key")), &body, BEGIN, store)
    };
    for wrong in [json!({"keyId": "*"}), json!({"keyId": id, "subject": "a".repeat(32)}), json!({"keyId": 1})]
    {
        assert_eq!(revoke(wrong, BTreeMap::new()).failure(), (400, "invalid_json".into()));
    }
    let revoked = revoke(json!({"keyId": id}), world.store);
    assert_eq!(revoked.json(), json!({"revoked": true, "keyId": id, "known": true}));
    let store = revoked.store;
    // Not with any claim that somebody who has the key can write, and not a year later.
    let mut claims = session::verify(&old.login.keys, "prod", &before, BEGIN).expect("genuine");
    let year = 365 * 86_400;
    (claims.login_s, claims.issued_s, claims.expires_s) = (0, BEGIN / 1000 + year, BEGIN / 1000 + 2 * year);
    let forged = session::mint(&old.login.keys, &claims).expect("a token");
    claims.login_s = BEGIN / 1000 + year;
    let forged_login = session::mint(&old.login.keys, &claims).expect("a token");
    for (token, now) in
        [(&before, BEGIN), (&forged, BEGIN + year * 1000), (&forged_login, BEGIN + year * 1000)]
    {
        for path in ["/api/chat", "/v1/mini/token/renew"] {
            let refused = request(&new, (path, Some(token)), &question(false), now, store.clone());
            let expired_login = token == &forged && path != "/api/chat";
            let code = if expired_login { "token_expired" } else { "token_invalid" };
            assert_eq!(refused.failure(), (401, code.into()), "{path}");
            let touched = refused.store.keys().filter(|key| !store.contains_key(*key)).count();
            assert_eq!(touched, 0, "nobody pays for it: {:?}", refused.store.keys());
        }
    }
    let works = request(&new, ("/api/chat", Some(&after)), &question(false), BEGIN, store.clone());
    assert_eq!(works.fetches.len(), 1, "the other key's tokens stay");

    // The key that signs: nothing is given out that would open nothing.
    let store = revoke(json!({"keyId": signing}), BTreeMap::new()).store;
    let refused = request(&new, ("/api/chat", Some(&after)), &question(false), BEGIN, store.clone());
    assert_eq!(refused.failure(), (401, "token_invalid".into()));
    let login = login(&new, "a-code", BEGIN, store.clone());
    assert_eq!((login.failure(), login.fetches.len()), ((501, "login_unavailable".into()), 0));
    let renewal = ("/v1/mini/token/renew", Some(before.as_str()));
    let renewed = request(&new, renewal, &json!({}), BEGIN, store.clone());
    assert_eq!(renewed.failure(), (501, "login_unavailable".into()), "its own token stays good");
    let works = request(&new, ("/api/chat", Some(&before)), &question(false), BEGIN, store);
    assert_eq!(works.fetches.len(), 1);
    // A host may have a key that this one does not.
    let unknown = revoke(json!({"keyId": "00000000"}), BTreeMap::new());
    assert_eq!(unknown.json()["known"], false);
}

#[test]
fn keys_are_rotated_with_an_overlap() {
    let mut before = policy();
    before.login.keys.remove(0);
    let (token, _) = logged_in(&before);
    let ask = |policy: &Policy| {
        request(policy, ("/api/chat", Some(&token)), &question(false), BEGIN, BTreeMap::new())
    };
    assert_eq!(ask(&policy()).fetches.len(), 1, "the old key is still believed");
    let mut after = policy();
    after.login.keys.truncate(1);
    assert_eq!(ask(&after).failure(), (401, "token_invalid".into()));
}

#[test]
fn a_backend_names_its_people() {
    let policy = policy();
    let ask = |key: &str, body: Value| {
        request(&policy, ("/v1/mini/token", Some(key)), &body, BEGIN, BTreeMap::new())
    };
    let issued = ask("server-key", json!({"userId": "u_123", "role": "vip"}));
    assert_eq!((issued.status(), &issued.json()["role"]), (200, &json!("vip")));
    assert_eq!(ask("wrong", json!({"userId": "u_123"})).failure(), (401, "unauthorized".into()));
    assert_eq!(ask("server-key", json!({"userId": ""})).failure(), (400, "user_invalid".into()));
    assert_eq!(ask("server-key", json!({"userId": 5})).failure(), (400, "invalid_json".into()));
    assert_eq!(ask("server-key", json!(["u_123", "vip"])).failure(), (400, "invalid_json".into()));
    assert_eq!(ask("server-key", json!({"userId": "u", "role": "Bad Role"})).status(), 400);
}

#[test]
fn what_wechat_says_has_its_answer() {
    for (errcode, expected) in [
        (40029, (401, "login_code_invalid")),
        (40163, (401, "login_code_used")),
        (40226, (403, "login_blocked")),
        (45011, (429, "rate_limited")),
        (-1, (503, "wechat_unavailable")),
        (40125, (502, "wechat_misconfigured")),
        (99999, (503, "wechat_unavailable")),
    ] {
        let mut world = login(&policy(), "c", BEGIN, BTreeMap::new());
        world.whole(200, &[], &json!({"errcode": errcode, "errmsg": "canary-errmsg"}).to_string());
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()), "{errcode}");
        assert!(!world.text().contains("canary"));
    }
    let mut broken = login(&policy(), "c", BEGIN, BTreeMap::new());
    broken.breaks(FetchFailure::Connect);
    assert_eq!(broken.failure(), (503, "wechat_unavailable".into()));
    let again = login(&policy(), "c", BEGIN, broken.store);
    assert_eq!(again.fetches.len(), 1, "WeChat has not seen the code: it may be sent again");
    let mut hanging = login(&policy(), "c", BEGIN, BTreeMap::new());
    hanging.wait();
    assert_eq!((hanging.failure(), hanging.cancelled.len()), ((503, "wechat_unavailable".into()), 1));
}

#[test]
fn without_settings_there_is_no_login() {
    let world = login(&guarded(), "c", BEGIN, BTreeMap::new());
    assert_eq!(world.failure(), (501, "login_unavailable".into()));
}

#[test]
fn logins_of_one_address_are_limited() {
    let mut policy = policy();
    policy.rates.login = Some(crate::state::caller::Rate { per_minute: 1, burst: 2 });
    let mut store = BTreeMap::new();
    let mut statuses = Vec::new();
    for code in ["a", "b", "c"] {
        let mut world = login(&policy, code, BEGIN, store);
        if !world.done {
            world.whole(200, &[], &identity());
        }
        statuses.push(world.status());
        store = world.store;
    }
    assert_eq!(statuses, [200, 200, 429]);
}
