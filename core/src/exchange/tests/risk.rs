//! How risky WeChat holds a person who logs in.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    content::{known, wechat},
    login::{OPENID, identity, login, policy, post, request},
    upstream::question,
    world::{BEGIN, World},
};
use crate::{
    policy::{Policy, RiskMode, StoreFailure, session},
    seam::{DeadlineReason, FetchFailure, Input, Level},
    state::{
        self, Op, Outcome,
        caller::{Enter, Standing, Thresholds},
    },
};

fn ranking(mode: RiskMode) -> Policy {
    let mut policy = policy();
    policy.login.risk = mode;
    policy
}

/// A login up to the first thing that is asked after WeChat has said who it is.
fn vouched(policy: &Policy, store: BTreeMap<String, Vec<u8>>) -> World {
    let mut world = login(policy, "the-code", BEGIN, store);
    world.whole(200, &[], &identity());
    world
}

fn rank_of(rank: u8) -> Value {
    json!({"errcode": 0, "errmsg": "getuserriskrank succ", "risk_rank": rank, "unoin_id": 987_654_321})
}

/// A login of a person of that rank.
fn ranked(mode: RiskMode, rank: u8, store: BTreeMap<String, Vec<u8>>) -> World {
    let mut world = vouched(&ranking(mode), store);
    wechat(&mut world, &rank_of(rank));
    world
}

/// The login went on without a rank.
fn unranked(world: &World, code: &str, level: Level) -> Value {
    assert_eq!(world.status(), 200, "{}", world.text());
    assert!(world.json()["token"].is_string());
    assert_eq!(world.records[0].0, level, "{:?}", world.records);
    let record = world.record();
    assert_eq!((&record["riskUnknown"], &record["riskRank"]), (&json!(code), &Value::Null));
    record
}

#[test]
fn it_is_asked_once_before_the_token_is_given_and_not_where_it_is_off() {
    let world = vouched(&ranking(RiskMode::Off), known(true));
    assert_eq!((world.status(), world.fetches.len()), (200, 1));
    assert_eq!((&world.record()["riskRank"], &world.record()["riskUnknown"]), (&Value::Null, &Value::Null));

    let mut world = vouched(&ranking(RiskMode::Log), known(true));
    assert_eq!(world.status_so_far(), None, "no token yet");
    let fetch = world.fetch();
    assert_eq!((fetch.upstream.as_str(), fetch.method.as_str()), ("wechat", "POST"));
    assert_eq!(fetch.path, "/wxa/getuserriskrank?access_token=TOKEN-1");
    assert_eq!(
        world.sent_upstream(),
        json!({"appid": "wx0123", "openid": OPENID, "scene": 0, "client_ip": "203.0.113.9"})
    );
    wechat(&mut world, &rank_of(1));
    assert_eq!((world.status(), world.fetches.len()), (200, 2));
    assert_eq!((&world.record()["riskRank"], world.records[0].0), (&json!(1), Level::Info));
    let everything = format!("{}{:?}{:?}", world.text(), world.records, world.told);
    for canary in ["oCANARY", "TOKEN-1", "987654321"] {
        assert!(!everything.contains(canary) && !world.state_contains(canary), "{canary}");
    }
}

#[test]
fn the_highest_rank_does_not_log_in() {
    let world = ranked(RiskMode::Enforce, 4, known(true));
    assert_eq!(world.failure(), (403, "login_blocked".into()));
    let record = world.record();
    assert_eq!((&record["riskRank"], &record["code"]), (&json!(4), &json!("login_blocked")));
    assert_eq!(record["subject"].as_str().map(str::len), Some(32), "an operator sees who it was");
    let everything = format!("{}{:?}{:?}", world.text(), world.records, world.told);
    assert!(!everything.contains("oCANARY") && !everything.contains("rank 4"), "{everything}");
    assert!(world.told.is_empty(), "nothing is kept of them: {:?}", world.told);
    // The code is used up: WeChat has looked at it.
    let again = login(&ranking(RiskMode::Enforce), "the-code", BEGIN + 1, world.store);
    assert_eq!(again.failure(), (401, "login_code_used".into()));
    for rank in 0..4 {
        assert_eq!(ranked(RiskMode::Enforce, rank, known(true)).status(), 200, "{rank}");
    }
}

/// What is thought of the person who logged in, some seconds later.
fn standing(world: &World, after_s: u64) -> Standing {
    let key = format!("user:{}", world.json()["subject"].as_str().expect("a subject"));
    let asks = Op::Enter(Enter { thresholds: world.policy.abuse, ..Enter::default() });
    let old = world.store.get(&key).map(Vec::as_slice);
    match state::reduce(&asks, old, BEGIN + after_s * 1000).outcome {
        Outcome::Entered { standing, .. } => standing,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_middle_rank_is_slowed_or_gets_explanations() {
    use Standing::{Good, Restricted, Slowed};
    let minutes = [0, 2 * 60, 4 * 60, 9 * 60, 11 * 60];
    for (rank, expected) in [
        (0, [Good; 5]),
        (1, [Good; 5]),
        (2, [Slowed, Slowed, Good, Good, Good]),
        (3, [Restricted, Restricted, Restricted, Slowed, Good]),
    ] {
        let world = ranked(RiskMode::Enforce, rank, known(true));
        assert_eq!(minutes.map(|after_s| standing(&world, after_s)), expected, "{rank}");
    }
    // Three logins of rank 3 are no block.
    let mut store = known(true);
    let mut token = String::new();
    for code in ["a", "b", "c"] {
        let mut world = login(&ranking(RiskMode::Enforce), code, BEGIN, store);
        world.whole(200, &[], &identity());
        wechat(&mut world, &rank_of(3));
        token = world.json()["token"].as_str().expect("a token").to_owned();
        store = world.store;
    }
    let policy = ranking(RiskMode::Enforce);
    let asked = request(&policy, ("/api/chat", Some(&token)), &question(false), BEGIN, store);
    assert!(!asked.done, "a rank alone blocks nobody: {}", asked.text());
    assert!(format!("{:?}", asked.fetch().body).contains("only explain in words"));
}

#[test]
fn only_logging_refuses_nobody_and_counts_against_nobody() {
    for rank in 0..=4 {
        let world = ranked(RiskMode::Log, rank, known(true));
        assert_eq!((world.status(), &world.record()["riskRank"]), (200, &json!(rank)));
        assert!(world.told.is_empty(), "{:?}", world.told);
    }
    // Nor does a gateway that keeps no scores.
    let mut policy = ranking(RiskMode::Enforce);
    policy.abuse = Thresholds::default();
    let mut world = vouched(&policy, known(true));
    wechat(&mut world, &rank_of(3));
    assert_eq!((world.status(), world.told.len()), (200, 0));
}

#[test]
fn without_an_answer_the_login_goes_on() {
    for mode in [RiskMode::Log, RiskMode::Enforce] {
        let mut policy = ranking(mode);
        // It is about what is shown, not about who comes in.
        policy.content.failure = StoreFailure::Closed;
        for (errcode, code, level) in [
            (-1, "wechat_unavailable", Level::Warn),
            (45009, "wechat_unavailable", Level::Warn),
            (61010, "wechat_unavailable", Level::Warn),
            (48001, "wechat_misconfigured", Level::Error),
            (40003, "wechat_misconfigured", Level::Error),
            (43104, "wechat_misconfigured", Level::Error),
        ] {
            let mut world = vouched(&policy, known(true));
            wechat(&mut world, &json!({"errcode": errcode, "errmsg": "canary-errmsg", "risk_rank": 4}));
            let record = unranked(&world, code, level);
            let told = if code == "wechat_misconfigured" { json!(errcode) } else { Value::Null };
            assert_eq!(record["riskErrcode"], told, "{errcode}");
            assert!(!record.to_string().contains("canary"));
        }
        let mut garbage = vouched(&policy, known(true));
        garbage.whole(200, &[], "<html>");
        unranked(&garbage, "wechat_unavailable", Level::Warn);
        let mut broken = vouched(&policy, known(true));
        broken.breaks(FetchFailure::Connect);
        unranked(&broken, "wechat_unavailable", Level::Warn);
    }
}

#[test]
fn a_login_waits_three_seconds_for_it() {
    let mut world = vouched(&ranking(RiskMode::Enforce), known(false));
    assert_eq!(world.wait(), DeadlineReason::Check);
    assert_eq!((world.now, world.cancelled.len()), (BEGIN + 3_000, 1));
    unranked(&world, "wechat_unavailable", Level::Warn);
    // A token that was slow to come leaves no more time.
    let mut world = vouched(&ranking(RiskMode::Enforce), known(false));
    world.now += 2_900;
    wechat(&mut world, &json!({"access_token": "TOKEN-2", "expires_in": 7_200}));
    assert_eq!(world.wait(), DeadlineReason::Check);
    assert_eq!((world.now, world.cancelled.len()), (BEGIN + 3_000, 1));
    unranked(&world, "wechat_unavailable", Level::Warn);
    // Whoever leaves meanwhile leaves nothing running.
    let mut world = vouched(&ranking(RiskMode::Enforce), known(true));
    world.give(Input::ClientGone);
    assert_eq!((world.done, world.cancelled.len()), (true, 1));
}

#[test]
fn the_access_token_is_the_one_of_content_checks() {
    let fresh = json!({"access_token": "TOKEN-2", "expires_in": 7_200});
    // None in the store: it is fetched and kept.
    let mut world = vouched(&ranking(RiskMode::Log), known(false));
    assert_eq!(world.fetch().path, "/cgi-bin/stable_token");
    wechat(&mut world, &fresh);
    assert_eq!(world.fetch().path, "/wxa/getuserriskrank?access_token=TOKEN-2");
    wechat(&mut world, &rank_of(0));
    let mut next = login(&ranking(RiskMode::Log), "another-code", BEGIN, world.store);
    next.whole(200, &[], &identity());
    assert_eq!(next.fetch().path, "/wxa/getuserriskrank?access_token=TOKEN-2", "the store had it");
    // Void: once more, with a new one, and not twice.
    wechat(&mut next, &json!({"errcode": 42001, "errmsg": "access_token expired"}));
    wechat(&mut next, &json!({"access_token": "TOKEN-3", "expires_in": 7_200}));
    assert_eq!(next.fetch().path, "/wxa/getuserriskrank?access_token=TOKEN-3");
    wechat(&mut next, &json!({"errcode": 42001, "errmsg": "access_token expired"}));
    unranked(&next, "wechat_misconfigured", Level::Error);
    // No token at all.
    let mut world = vouched(&ranking(RiskMode::Enforce), known(false));
    wechat(&mut world, &json!({"errcode": 40164, "errmsg": "invalid ip 6.6.6.6"}));
    unranked(&world, "wechat_misconfigured", Level::Error);
}

#[test]
fn only_a_login_asks() {
    let policy = ranking(RiskMode::Enforce);
    let world = ranked(RiskMode::Enforce, 0, known(true));
    let token = world.json()["token"].as_str().expect("a token").to_owned();
    assert!(session::verify(&policy.login.keys, "prod", &token, BEGIN).is_ok());
    let renewal = ("/v1/mini/token/renew", Some(token.as_str()));
    let renewed = request(&policy, renewal, &json!({}), BEGIN + 1, world.store);
    assert_eq!((renewed.status(), renewed.fetches.len()), (200, 0));
    let body = json!({"userId": "u_123"});
    let issued = request(&policy, ("/v1/mini/token", Some("server-key")), &body, BEGIN, known(true));
    assert_eq!((issued.status(), issued.fetches.len()), (200, 0));
    // A store that fails has no token; one is fetched.
    let mut open = policy;
    open.store_failure = StoreFailure::Open;
    let mut world = World::begin_in(open, post("/v1/mini/login", None), BEGIN, known(true));
    world.send_body(&json!({"code": "c"}));
    world.break_store();
    world.whole(200, &[], &identity());
    assert_eq!(world.fetch().path, "/cgi-bin/stable_token");
}

#[test]
fn an_address_is_told_as_everybody_writes_it() {
    for (peer, told) in [("::ffff:203.0.113.9", "203.0.113.9"), ("2001:db8::7", "2001:db8::7")] {
        let mut head = post("/v1/mini/login", None);
        head.peer = peer.into();
        let mut world = World::begin_in(ranking(RiskMode::Log), head, BEGIN, known(true));
        world.send_body(&json!({"code": "c"}));
        world.answer_store();
        world.whole(200, &[], &identity());
        assert_eq!(world.sent_upstream()["client_ip"], told);
    }
}
