//! An operator's words by a robot: to whom, by which way, and what is said of a failure.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::world::{World, policy};
use crate::{
    policy::{
        Policy,
        auth::KeyDigest,
        catalog::Catalog,
        channel::{AnsweredBy, Channel, ChannelKind, Destination, Mode, Reply, Target},
    },
    seam::{Credential, DINGTALK, DINGTALK_OAPI, FetchFailure, RequestHead},
};

const ADMIN: &str = "admin-key-canary-77";
const WORDS: &str = "ping-canary";
const TOKEN: &str = r#"{"accessToken":"token-canary","expireIn":7200}"#;

fn configured() -> Policy {
    let mut policy = policy();
    policy.admin_keys = vec![KeyDigest::of(ADMIN.as_bytes())];
    let target = |name: &str, to| Target { name: name.into(), channel: "bot".into(), to };
    policy.catalog = Catalog {
        channels: vec![Channel {
            name: "bot".into(),
            kind: ChannelKind::DingTalk {
                robot_code: "ding1".into(),
                app_key: "APP_KEY".into(),
                app_secret: "APP_SECRET".into(),
                mode: Mode::Http,
                reply: Reply::Markdown,
            },
            answered_by: AnsweredBy::Profile("p".into()),
            ack: None,
            ack_after_ms: 2_000,
            timeout_ms: 60_000,
            failed: None,
        }],
        targets: vec![
            target("hook", Destination::Webhook("GROUP_TOKEN".into())),
            target("test-group", Destination::Group("cid123=".into())),
        ],
        ..Catalog::default()
    };
    policy
}

fn sent(to: &str, key: &str) -> World {
    let head = RequestHead {
        method: "POST".into(),
        path: "/v1/admin/send".into(),
        headers: vec![("authorization".into(), format!("Bearer {key}"))],
        peer: "9.9.9.9".into(),
        ..RequestHead::default()
    };
    let mut world = World::begin(configured(), head);
    if key == ADMIN {
        world.send_body(&json!({"to": to, "text": WORDS}));
    }
    world
}

#[test]
fn a_group_and_a_person_are_reached_by_the_api() {
    for (to, field, value) in [
        ("test-group", "openConversationId", json!("cid123=")),
        ("cid9=", "openConversationId", json!("cid9=")),
        ("user:0326", "userIds", json!(["0326"])),
    ] {
        let mut world = sent(to, ADMIN);
        assert_eq!(
            (world.fetch().upstream.as_str(), world.fetch().path.as_str()),
            (DINGTALK, "/v1.0/oauth2/accessToken")
        );
        world.whole(200, &[], TOKEN);
        let body = world.sent_upstream();
        assert_eq!((&body[field], &body["robotCode"]), (&value, &json!("ding1")), "{to}");
        let token = ("x-acs-dingtalk-access-token".to_owned(), "token-canary".to_owned());
        assert!(world.fetch().headers.contains(&token));
        world.whole(200, &[], r#"{"processQueryKey":"x"}"#);
        assert_eq!(
            (world.status(), &world.json()["sent"], &world.json()["by"]),
            (200, &json!(true), &json!("api"))
        );
        let audit: Value = serde_json::from_str(&world.audit[0]).expect("JSON");
        assert_eq!((&audit["kind"], &audit["input"]["chars"]), (&json!("send"), &json!(11)));
        assert!(audit["subject"].as_str().is_some_and(|key| !key.is_empty() && !key.contains("canary")));
        let record = world.record().to_string();
        assert!(!record.contains(WORDS) && !record.contains("token-canary"), "{record}");
    }
}

#[test]
fn a_groups_own_robot_is_reached_by_its_webhook() {
    let mut world = sent("hook", ADMIN);
    let fetch = world.fetch();
    assert_eq!((fetch.upstream.as_str(), fetch.path.as_str()), (DINGTALK_OAPI, "/robot/send"));
    let expected = Credential::Query { parameter: "access_token".into(), name: "GROUP_TOKEN".into() };
    assert_eq!(fetch.credential, Some(expected));
    world.whole(200, &[], r#"{"errcode":0}"#);
    assert_eq!((world.status(), &world.json()["by"]), (200, &json!("webhook")));
    assert_eq!(configured().catalog.secrets(), ["APP_KEY", "APP_SECRET", "GROUP_TOKEN"]);
}

#[test]
fn what_did_not_arrive_is_said() {
    assert_eq!(sent("test-group", "wrong").failure(), (401, "unauthorized".into()));
    assert_eq!(sent("nobody", ADMIN).failure(), (404, "not_found".into()));
    let mut world = sent("test-group", ADMIN);
    world.whole(400, &[], r#"{"code":"invalidClientIdOrSecret"}"#);
    assert_eq!(world.failure(), (502, "upstream_misconfigured".into()));
    for (status, body, code) in [
        (403, r#"{"code":"Forbidden.AccessDenied.AccessTokenPermissionDenied"}"#, "upstream_misconfigured"),
        (400, r#"{"code":"invalidParameter.x"}"#, "upstream_refused_request"),
        (429, "{}", "upstream_overloaded"),
        (500, "", "upstream_error"),
    ] {
        let mut world = sent("test-group", ADMIN);
        world.whole(200, &[], TOKEN);
        world.whole(status, &[], body);
        assert_eq!(world.failure().1, code);
    }
    let mut world = sent("hook", ADMIN);
    world.breaks(FetchFailure::Connect);
    assert_eq!(world.failure().1, "upstream_unreachable");
    let mut world = sent("hook", ADMIN);
    world.wait();
    assert_eq!(world.failure(), (504, "upstream_timeout".into()));
}
