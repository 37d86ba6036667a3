//! The routes of operators, and what a request's head alone decides.

use serde_json::json;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::world::{World, chat_head, get, policy};
use crate::{
    policy::Origins,
    seam::{DeadlineReason, FetchFailure, Level, RequestHead},
};

/// A check of `/readyz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    Passes,
    Fails,
    Hangs,
}

impl Check {
    const ALL: [Self; 3] = [Self::Passes, Self::Fails, Self::Hangs];

    fn word(self) -> &'static str {
        match self {
            Self::Passes => "ok",
            Self::Fails => "failed",
            Self::Hangs => "timeout",
        }
    }
}

fn readyz(openclaw: Check, store: Check, store_first: bool) -> World {
    let mut world = World::begin(policy(), get("/readyz"));
    assert_eq!((world.fetch().path.as_str(), world.fetch().credential.as_ref()), ("/readyz", None));
    let answer_store = |world: &mut World| match store {
        Check::Passes => world.answer_store(),
        Check::Fails => world.break_store(),
        Check::Hangs => {}
    };
    if store_first {
        answer_store(&mut world);
    }
    match openclaw {
        Check::Passes => world.whole(200, &[], r#"{"ready":true}"#),
        Check::Fails => world.breaks(FetchFailure::Connect),
        Check::Hangs => {}
    }
    if !store_first {
        answer_store(&mut world);
    }
    if !world.done {
        assert_eq!(world.wait(), DeadlineReason::Turn);
    }
    world
}

#[test]
fn readyz_says_which_check_failed() {
    for openclaw in Check::ALL {
        for store in Check::ALL {
            for store_first in [false, true] {
                let world = readyz(openclaw, store, store_first);
                let ready = openclaw == Check::Passes && store == Check::Passes;
                assert_eq!(world.status(), if ready { 200 } else { 503 });
                let checks = json!({"openclaw": openclaw.word(), "store": store.word()});
                assert_eq!(world.json(), json!({"ready": ready, "checks": checks}));
                let running = usize::from(openclaw == Check::Hangs);
                assert_eq!(world.cancelled.len(), running, "{openclaw:?} {store:?}");
                assert_eq!(world.records[0].0, Level::Debug, "a load balancer asks every few seconds");
            }
        }
    }
}

#[test]
fn an_openclaw_that_is_not_ready_is_a_failed_check() {
    let mut world = World::begin(policy(), get("/readyz"));
    world.answer_store();
    world.whole(503, &[], r#"{"ready":false,"failing":["startup"]}"#);
    assert_eq!(world.json()["checks"]["openclaw"], "failed");
}

#[test]
fn live_and_version() {
    let world = World::begin(policy(), get("/healthz"));
    assert_eq!((world.status(), world.text().as_str()), (200, r#"{"status":"live"}"#));
    let head = RequestHead { method: "HEAD".into(), ..get("/healthz") };
    let world = World::begin(policy(), head);
    assert_eq!((world.status(), world.text().as_str()), (200, ""));
    assert_eq!(world.header("content-length"), Some("17"));
    let world = World::begin(policy(), get("/version"));
    assert_eq!((world.json()["abi"].clone(), world.json()["environment"].clone()), (json!(6), json!("prod")));
    let mut quiet = policy();
    quiet.log_level = Level::Info;
    assert!(World::begin(quiet, get("/healthz")).records.is_empty());
}

#[test]
fn the_head_alone_refuses() {
    let with = |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut head = RequestHead { method: method.into(), path: path.into(), ..chat_head() };
        for (name, value) in headers {
            head.headers.retain(|(key, _)| key != name);
            head.headers.push(((*name).into(), (*value).into()));
        }
        World::begin(policy(), head)
    };
    for (world, expected) in [
        (with("GET", "/", &[]), (404, "not_found")),
        (with("GET", "/api/chat", &[]), (405, "method_not_allowed")),
        (with("POST", "/healthz", &[]), (405, "method_not_allowed")),
        (with("OPTIONS", "/api/chat", &[]), (405, "method_not_allowed")),
        (with("POST", "/api/chat", &[("x-api-key", "wrong")]), (401, "unauthorized")),
        (with("POST", "/api/chat", &[("content-type", "text/plain")]), (415, "unsupported_media_type")),
    ] {
        assert_eq!(world.failure(), (expected.0, expected.1.to_owned()));
        assert_eq!(world.wants_body, None);
        assert_eq!(world.header("allow").is_some(), expected.0 == 405);
        assert_eq!(world.header("www-authenticate").is_some(), expected.0 == 401);
    }
    let english = with("GET", "/nope", &[("accept-language", "en-US")]);
    assert!(english.json()["answer"].as_str().expect("text").is_ascii());
}

#[test]
fn a_browser_asks_first() {
    let mut policy = policy();
    policy.origins = Origins::List(vec!["https://app.example".into()]);
    let preflight = |origin: &str, method: &str| {
        let mut head = RequestHead { method: "OPTIONS".into(), ..chat_head() };
        head.headers =
            vec![("origin".into(), origin.into()), ("access-control-request-method".into(), method.into())];
        World::begin(policy.clone(), head)
    };
    let allowed = preflight("https://app.example", "POST");
    assert_eq!((allowed.status(), allowed.text().as_str()), (204, ""));
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://app.example"));
    assert_eq!(preflight("https://evil.example", "POST").status(), 405);
    assert_eq!(preflight("https://app.example", "DELETE").status(), 405);
}
