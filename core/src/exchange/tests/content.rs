//! Texts that WeChat looks at before anybody else sees them.

use std::collections::BTreeMap;

use serde_bytes::ByteBuf;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{DONE, chunk_finish, chunk_role, chunk_text, completion, question},
    world::{BEGIN, World, chat_head, guarded},
};
use crate::{
    policy::{
        ContentMode, Policy, StoreFailure,
        session::{self, Claims, SigningKey},
    },
    seam::{DeadlineReason, FetchFailure, Input},
    state::{self, Op},
};

pub(super) const SUBJECT: &str = "00112233445566778899aabbccddeeff";
pub(super) const OPENID: &str = "oCANARY_openid";

pub(super) fn policy(mode: ContentMode, failure: StoreFailure) -> Policy {
    let mut policy = guarded();
    policy.login.appid = Some("wx0123".into());
    policy.login.keys = vec![SigningKey::derive(b"a secret")];
    policy.content.mode = mode;
    policy.content.failure = failure;
    policy
}

fn enforced() -> Policy {
    policy(ContentMode::Enforce, StoreFailure::Open)
}

/// What a login and an earlier check left behind.
pub(super) fn known(token: bool) -> BTreeMap<String, Vec<u8>> {
    let mut store = BTreeMap::new();
    let mut write = |key: String, value: &str| {
        let op = Op::Write { value: ByteBuf::from(value.as_bytes()), ttl_ms: 3_600_000 };
        store.insert(key, state::reduce(&op, None, BEGIN).new.into_vec());
    };
    write(format!("openid:{SUBJECT}"), OPENID);
    if token {
        write("wechat:token".into(), "TOKEN-1");
    }
    store
}

/// A person's request, up to the first thing that is asked of WeChat.
pub(super) fn asking(policy: Policy, body: &Value, store: BTreeMap<String, Vec<u8>>) -> World {
    let claims = Claims {
        subject: SUBJECT.into(),
        role: String::new(),
        environment: "prod".into(),
        issued_s: BEGIN / 1000,
        expires_s: BEGIN / 1000 + 7_200,
        login_s: BEGIN / 1000,
    };
    let token = session::mint(&policy.login.keys, &claims).expect("a token");
    let mut head = chat_head();
    head.headers.retain(|(name, _)| name != "x-api-key");
    head.headers.push(("authorization".into(), format!("Bearer {token}")));
    let mut world = World::begin_in(policy, head, BEGIN, store);
    world.send_body(body);
    world.answer_store();
    world.answer_store();
    world
}

/// WeChat's verdict about the last text.
pub(super) fn verdict(world: &mut World, suggest: &str) {
    assert!(world.fetch().path.starts_with("/wxa/msg_sec_check?access_token="), "{:?}", world.fetch());
    let label = if suggest == "pass" { 100 } else { 20_001 };
    let answer =
        json!({"errcode": 0, "trace_id": "wx-trace", "result": {"suggest": suggest, "label": label}});
    wechat(world, &answer);
}

pub(super) fn wechat(world: &mut World, answer: &Value) {
    let id = world.fetch().id;
    let body = answer.to_string();
    world.give(Input::FetchWhole { id, status: 200, headers: Vec::new(), body: body.as_bytes() });
}

#[test]
fn a_text_is_checked_before_it_takes_a_slot_and_an_answer_before_it_is_shown() {
    let mut world = asking(enforced(), &question(false), known(true));
    let sent = world.sent_upstream();
    assert_eq!((&sent["openid"], &sent["version"]), (&json!(OPENID), &json!(2)));
    assert_eq!(sent["content"], question(false)["messages"][0]["content"]);
    assert!(!world.store.contains_key("upstream:openclaw"), "no slot is taken yet");
    verdict(&mut world, "pass");
    world.answer_store();
    assert_eq!(world.fetch().upstream, "openclaw");
    world.whole(200, &[], &completion("an answer", "stop"));
    assert!(world.told.iter().any(|(_, op)| matches!(op, Op::Release(_))), "the slot is free meanwhile");
    world.answer_store();
    assert_eq!(world.sent_upstream()["content"], "an answer");
    assert_eq!(world.status_so_far(), None);
    verdict(&mut world, "pass");
    assert_eq!(world.json()["choices"][0]["message"]["content"], "an answer");
    let logged = format!("{:?}", world.records);
    assert!(!logged.contains("oCANARY") && !logged.contains("TOKEN-1"), "{logged}");
}

#[test]
fn a_risky_text_goes_nowhere_and_a_risky_answer_is_not_shown() {
    let mut world = asking(enforced(), &question(false), known(true));
    verdict(&mut world, "risky");
    assert_eq!(world.failure(), (400, "content_refused".into()));
    assert_eq!(
        (&world.record()["contentLabel"], &world.record()["contentTrace"]),
        (&json!(20001), &json!("wx-trace"))
    );

    let mut world = asking(enforced(), &question(false), known(true));
    verdict(&mut world, "review");
    world.answer_store();
    world.whole(200, &[], &completion("canary-answer", "stop"));
    world.answer_store();
    verdict(&mut world, "risky");
    assert_eq!(world.failure(), (400, "content_refused".into()));
    assert!(!world.text().contains("canary-answer"));
}

#[test]
fn only_logging_refuses_nothing() {
    let mut world = asking(policy(ContentMode::Log, StoreFailure::Closed), &question(false), known(true));
    verdict(&mut world, "risky");
    world.answer_store();
    world.whole(200, &[], &completion("a", "stop"));
    world.answer_store();
    verdict(&mut world, "pass");
    assert_eq!((world.status(), &world.record()["contentLabel"]), (200, &json!(20001)));
}

#[test]
fn an_access_token_is_fetched_kept_and_renewed_once() {
    let mut world = asking(enforced(), &question(false), known(false));
    assert_eq!(world.fetch().path, "/cgi-bin/stable_token");
    assert_eq!(world.sent_upstream()["secret"], "$WECHAT_SECRET");
    wechat(&mut world, &json!({"access_token": "TOKEN-2", "expires_in": 7200}));
    assert_eq!(world.fetch().path, "/wxa/msg_sec_check?access_token=TOKEN-2");
    assert!(world.told.iter().any(|(key, _)| key == "wechat:token"));
    let text = world.sent_upstream()["content"].clone();
    wechat(&mut world, &json!({"errcode": 40001, "errmsg": "invalid credential"}));
    wechat(&mut world, &json!({"access_token": "TOKEN-3", "expires_in": 7200}));
    assert_eq!(world.fetch().path, "/wxa/msg_sec_check?access_token=TOKEN-3");
    assert_eq!(world.sent_upstream()["content"], text, "the same piece again");
    wechat(&mut world, &json!({"errcode": 40001, "errmsg": "invalid credential"}));
    world.answer_store();
    assert_eq!(world.fetch().upstream, "openclaw", "and then the settings decide");
}

#[test]
fn a_text_that_nobody_could_check() {
    type Trouble = fn(&mut World);
    let troubles: [(&str, Trouble); 4] = [
        ("61010", |world| wechat(world, &json!({"errcode": 61010, "errmsg": "not seen"}))),
        ("quota", |world| wechat(world, &json!({"errcode": 45009, "errmsg": "reach max"}))),
        ("down", |world| world.breaks(FetchFailure::Connect)),
        ("hangs", |world| assert_eq!(world.wait(), DeadlineReason::Check)),
    ];
    for (name, trouble) in troubles {
        let closed = policy(ContentMode::Enforce, StoreFailure::Closed);
        let mut world = asking(closed, &question(false), known(true));
        trouble(&mut world);
        assert_eq!(world.failure(), (503, "content_unchecked".into()), "{name}");

        let mut world = asking(enforced(), &question(false), known(true));
        trouble(&mut world);
        world.answer_store();
        assert_eq!(world.fetch().upstream, "openclaw", "{name}");
        world.whole(200, &[], &completion("a", "stop"));
        world.answer_store();
        trouble(&mut world);
        assert_eq!((world.status(), &world.record()["contentUnchecked"]), (200, &json!(true)), "{name}");
    }
    // Without a login there is no openid.
    let mut world = World::begin(policy(ContentMode::Enforce, StoreFailure::Closed), chat_head());
    world.send_body(&question(false));
    world.answer_store();
    assert_eq!(world.failure(), (503, "content_unchecked".into()));
}

#[test]
fn a_long_text_is_checked_in_pieces() {
    let mut body = question(false);
    body["messages"][0]["content"] = "好".repeat(6_000).into();
    let mut world = asking(enforced(), &body, known(true));
    let mut lengths = Vec::new();
    while world.fetch().upstream == "wechat" {
        lengths.push(world.sent_upstream()["content"].as_str().expect("text").chars().count());
        verdict(&mut world, "pass");
        world.answer_store();
    }
    assert_eq!((lengths.iter().sum::<usize>(), lengths.len()), (6_000, 3));
}

/// A stream that has begun and whose first piece is long enough to be checked.
fn streaming() -> World {
    let mut world = asking(enforced(), &question(true), known(true));
    verdict(&mut world, "pass");
    world.answer_store();
    world.opens_stream();
    world.lines(&chunk_role());
    world.lines(&chunk_text(&"一".repeat(59)));
    assert!(!world.text().contains('一'), "nothing is shown");
    world.lines(&chunk_text("二"));
    world.answer_store();
    assert!(!world.text().contains('一'), "it is being checked");
    world
}

#[test]
fn a_stream_is_held_back_one_piece() {
    let mut world = streaming();
    let upstream = world.fetches.len() - 2;
    let openclaw = world.fetches[upstream].id;
    // More comes while WeChat thinks.
    let more = chunk_text(&"三".repeat(10)) + &chunk_finish("stop") + DONE;
    world.give(Input::FetchLines { id: openclaw, lines: more.as_bytes() });
    assert!(!world.text().contains('三'));
    verdict(&mut world, "pass");
    assert_eq!(world.streamed(), "一".repeat(59) + "二");
    world.answer_store();
    assert_eq!(world.sent_upstream()["content"], "三".repeat(10));
    world.give(Input::FetchEnd { id: openclaw });
    assert!(!world.done);
    verdict(&mut world, "pass");
    assert_eq!(world.status(), 200);
    assert_eq!(world.streamed(), "一".repeat(59) + "二" + &"三".repeat(10));
    assert!(world.text().ends_with(DONE) && world.cancelled.is_empty());
}

#[test]
fn a_risky_piece_ends_a_stream() {
    let mut world = streaming();
    let openclaw = world.fetches[world.fetches.len() - 2].id;
    verdict(&mut world, "risky");
    assert_eq!((world.stream_failure().as_str(), world.streamed().as_str()), ("content_refused", ""));
    assert_eq!(world.cancelled, [openclaw], "OpenClaw need not go on");
}

#[test]
fn a_stream_that_fails_shows_nothing_unchecked() {
    let mut world = streaming();
    let openclaw = world.fetches[world.fetches.len() - 2].id;
    world.give(Input::FetchFailed { id: openclaw, failure: FetchFailure::Reset });
    assert_eq!((world.stream_failure().as_str(), world.streamed().as_str()), ("upstream_protocol", ""));
    let mut world = streaming();
    world.give(Input::ClientGone);
    assert_eq!(world.cancelled.len(), 2, "OpenClaw and the check are given up");
}

#[test]
fn a_check_of_a_stream_that_hangs() {
    let mut world = streaming();
    while world.wait() != DeadlineReason::Check {}
    assert_eq!(world.streamed(), "一".repeat(59) + "二", "the settings let it through");
    assert!(!world.done);
}
