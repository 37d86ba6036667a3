//! Pictures that WeChat looks at, and the messages in which it says what it found.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    content::{self, asking, known, verdict, wechat},
    upstream::{completion, question},
    world::{BEGIN, World, chat_head},
};
use crate::{
    policy::{ContentMode, Pictures, Policy, StoreFailure},
    seam::{DeadlineReason, FetchFailure, Input, PIECE, RequestHead},
    state::Op,
    wire::wechat::push::tests as wechats,
};

const TOKEN: &str = "push-token-canary";
const AES_KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

fn policy(mode: ContentMode, failure: StoreFailure) -> Policy {
    let pictures = Pictures {
        public_url: "https://gateway.example".into(),
        token: TOKEN.into(),
        aes_key: None,
        wait: 20_000,
    };
    Policy { pictures: Some(pictures), ..content::policy(mode, failure) }
}

fn enforced() -> Policy {
    policy(ContentMode::Enforce, StoreFailure::Open)
}

fn closed() -> Policy {
    policy(ContentMode::Enforce, StoreFailure::Closed)
}

/// A PNG of so many bytes.
fn png(bytes: usize) -> Vec<u8> {
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    png.resize(bytes, 7);
    png
}

/// A question with pictures.
fn showing(pictures: &[&[u8]]) -> Value {
    let mut body = question(false);
    let list = pictures.iter().map(|bytes| json!({"type": "image", "data": STANDARD.encode(bytes)}));
    body["attachments"] = list.collect();
    body
}

/// A person's request whose text was found harmless, and whose first picture lies ready.
fn lent(policy: Policy, pictures: &[&[u8]]) -> World {
    let mut world = asking(policy, &showing(pictures), known(true));
    verdict(&mut world, "pass");
    world.answer_store();
    world
}

/// WeChat takes the picture that it was told of; gives where it is to be fetched.
fn accepts(world: &mut World, trace_id: &str) -> String {
    assert_eq!(world.fetch().path, "/wxa/media_check_async?access_token=TOKEN-1");
    let sent = world.sent_upstream();
    assert_eq!(
        (&sent["openid"], &sent["media_type"], &sent["version"]),
        (&json!(content::OPENID), &json!(2), &json!(2))
    );
    wechat(world, &json!({"errcode": 0, "errmsg": "ok", "trace_id": trace_id}));
    let url = sent["media_url"].as_str().expect("an address");
    url.strip_prefix("https://gateway.example").expect("this gateway's").to_owned()
}

/// A request of WeChat's, at the time and in the store of another.
fn beside(world: &World, method: &str, path: &str, query: String) -> World {
    let head = RequestHead { method: method.into(), path: path.into(), query, ..RequestHead::default() };
    World::begin_in(world.policy.clone(), head, world.now, world.store.clone())
}

fn event(trace_id: &str, rest: Value) -> Value {
    let mut event = json!({"ToUserName": "gh_1", "CreateTime": 1, "MsgType": "event",
                           "Event": "wxa_media_check", "trace_id": trace_id, "version": 2});
    for (key, value) in rest.as_object().expect("fields") {
        event[key] = value.clone();
    }
    event
}

fn result(suggest: &str, label: u32) -> Value {
    json!({"errcode": 0, "result": {"suggest": suggest, "label": label}})
}

/// WeChat pushes, to another host; gives that exchange.
fn pushes(world: &mut World, event: &Value) -> World {
    let query = wechats::query(TOKEN, world.now / 1000, None);
    let mut push = beside(world, "POST", "/v1/wechat/push", query);
    push.send_bytes(event.to_string().as_bytes());
    push.answer_store();
    assert_eq!((push.status(), push.text().as_str()), (200, "success"));
    world.store = push.store.clone();
    push
}

/// The first verdict is waited for.
fn waiting(policy: Policy) -> World {
    let mut world = lent(policy, &[&png(100)]);
    accepts(&mut world, "t-1");
    world.answer_store();
    assert!(world.watched.is_some() && world.fetch().upstream == "wechat", "nothing goes to OpenClaw");
    world
}

#[test]
fn a_turn_waits_for_the_verdict_that_another_host_is_told() {
    let picture = png(PIECE * 3 / 2);
    let mut world = lent(enforced(), &[&picture]);
    assert!(world.state_len() < 8_000, "the picture is not in the state");
    let path = accepts(&mut world, "t-1");
    world.answer_store();
    assert!(!world.store.contains_key("upstream:openclaw"), "no slot is taken yet");

    let mut fetched = beside(&world, "GET", &path, String::new());
    fetched.answer_store();
    fetched.answer_store();
    assert_eq!((fetched.status(), fetched.header("content-type")), (200, Some("image/png")));
    assert_eq!(fetched.header("content-length"), Some(picture.len().to_string().as_str()));
    assert!(fetched.chunks.concat() == picture, "all of its bytes");
    assert!(!fetched.records[0].1.contains("0-"), "the address is not logged: {:?}", fetched.records);

    let push = pushes(&mut world, &event("t-1", result("pass", 100)));
    assert_eq!(
        (&push.record()["contentTrace"], &push.record()["contentLabel"]),
        (&json!("t-1"), &json!(100))
    );
    world.wake();
    world.answer_store();
    let forgotten = world.told.iter().filter(|(_, op)| matches!(op, Op::Forget)).count();
    assert_eq!(forgotten, 2, "both pieces are taken back");
    let mut gone = beside(&world, "GET", &path, String::new());
    gone.answer_store();
    assert_eq!(gone.failure(), (404, "not_found".into()));

    world.answer_store();
    assert_eq!((world.fetch().upstream.as_str(), world.fetch().path.as_str()), ("openclaw", "/v1/responses"));
    let sent = world.sent_upstream();
    assert_eq!(sent["input"][0]["content"][1]["source"]["data"], STANDARD.encode(&picture));
}

#[test]
fn a_risky_picture_goes_nowhere() {
    let mut world = waiting(enforced());
    pushes(&mut world, &event("t-1", result("risky", 20_002)));
    world.wake();
    world.answer_store();
    assert_eq!(world.failure(), (400, "content_refused".into()));
    let record = world.record();
    assert_eq!((&record["contentLabel"], &record["contentTrace"]), (&json!(20_002), &json!("t-1")));
    assert_eq!(record["pictureTraces"], json!(["t-1"]));
    assert!(world.fetches.iter().all(|fetch| fetch.upstream == "wechat"));
    assert!(!format!("{:?}", world.records).contains("CANARY"));
}

#[test]
fn what_a_person_should_look_at_passes_and_is_logged() {
    let mut world = waiting(closed());
    pushes(&mut world, &event("t-1", result("review", 21_000)));
    world.wake();
    world.answer_store();
    world.answer_store();
    assert_eq!(world.fetch().upstream, "openclaw");
}

#[test]
fn a_verdict_may_come_before_it_is_asked_for_twice_and_without_a_wake() {
    let mut world = lent(enforced(), &[&png(100)]);
    let _ = pushes(&mut world, &event("t-1", result("risky", 20_002)));
    let _ = pushes(&mut world, &event("t-1", result("pass", 100)));
    accepts(&mut world, "t-1");
    world.answer_store();
    assert_eq!(world.failure(), (400, "content_refused".into()), "what came first stays");

    let mut world = waiting(enforced());
    pushes(&mut world, &event("t-1", result("pass", 100)));
    assert_eq!(world.wait(), DeadlineReason::Check, "the wake was lost");
    assert_eq!(world.now, BEGIN + 2_000);
    world.answer_store();
    world.answer_store();
    assert_eq!(world.fetch().upstream, "openclaw");
}

#[test]
fn all_pictures_are_checked_at_once_and_one_that_is_risky_is_enough() {
    let mut world = lent(enforced(), &[&png(100), &png(200)]);
    let first = accepts(&mut world, "t-1");
    world.answer_store();
    let second = accepts(&mut world, "t-2");
    assert_ne!(first, second);
    world.answer_store();
    pushes(&mut world, &event("t-2", result("pass", 100)));
    world.wake();
    world.answer_store();
    // And now for the other.
    world.answer_store();
    pushes(&mut world, &event("t-1", result("risky", 20_006)));
    world.wake();
    world.answer_store();
    assert_eq!(world.failure(), (400, "content_refused".into()));
    assert_eq!(world.record()["pictureTraces"], json!(["t-1", "t-2"]));
}

#[test]
fn no_verdict_in_time() {
    for (policy, passes) in [(enforced(), true), (closed(), false)] {
        let mut world = waiting(policy);
        while world.watched.is_some() {
            assert_eq!(world.wait(), DeadlineReason::Check);
            world.answer_store();
        }
        assert_eq!(world.now, BEGIN + 20_000, "the wait is bounded");
        if passes {
            assert_eq!(world.fetch().upstream, "openclaw");
            world.whole(200, &[], &completion("a", "stop"));
        } else {
            assert_eq!(world.failure(), (503, "content_unchecked".into()));
            assert_eq!(world.record()["contentCheck"], "wechat_unavailable");
        }
    }
    // A turn that is shorter than the wait ends with the same words.
    let mut short = closed();
    short.deadlines.turn = 3_000;
    let mut world = waiting(short);
    while !world.done {
        world.wait();
        world.answer_store();
    }
    assert_eq!((world.failure(), world.now), ((503, "content_unchecked".into()), BEGIN + 2_999));
}

#[test]
fn a_picture_that_wechat_does_not_check() {
    type Trouble = fn(&mut World);
    let errcode = |world: &mut World, errcode: i64| {
        wechat(world, &json!({"errcode": errcode, "errmsg": "canary", "trace_id": "t-1"}));
    };
    let troubles: [(&str, &str, Trouble); 7] = [
        ("61010", "wechat_unavailable", |world| wechat(world, &json!({"errcode": 61010}))),
        ("87020", "wechat_unavailable", |world| wechat(world, &json!({"errcode": 87020}))),
        ("45009", "wechat_unavailable", |world| wechat(world, &json!({"errcode": 45009}))),
        ("40003", "wechat_misconfigured", |world| wechat(world, &json!({"errcode": 40003}))),
        ("down", "wechat_unavailable", |world| world.breaks(FetchFailure::Connect)),
        ("hangs", "wechat_unavailable", |world| assert_eq!(world.wait(), DeadlineReason::Check)),
        ("-1008", "wechat_misconfigured", |world| {
            accepts(world, "t-1");
            world.answer_store();
            pushes(world, &event("t-1", json!({"errcode": -1008, "errmsg": "canary"})));
            world.wake();
            world.answer_store();
        }),
    ];
    for (name, code, trouble) in troubles {
        let mut world = lent(closed(), &[&png(100)]);
        trouble(&mut world);
        assert_eq!(world.failure(), (503, "content_unchecked".into()), "{name}");
        assert_eq!(world.record()["contentCheck"], code, "{name}");
        let mut world = lent(enforced(), &[&png(100)]);
        trouble(&mut world);
        world.answer_store();
        assert_eq!(world.fetch().upstream, "openclaw", "{name}");
    }
    // A void token is renewed once, and the picture need not be kept again.
    let mut world = lent(closed(), &[&png(100)]);
    let url = world.sent_upstream()["media_url"].clone();
    errcode(&mut world, 40_001);
    wechat(&mut world, &json!({"access_token": "TOKEN-2", "expires_in": 7200}));
    assert_eq!(world.fetch().path, "/wxa/media_check_async?access_token=TOKEN-2");
    assert_eq!(world.sent_upstream()["media_url"], url);
    errcode(&mut world, 40_001);
    assert_eq!(world.failure(), (503, "content_unchecked".into()));
    // The store cannot take it.
    let mut world = asking(closed(), &showing(&[&png(100)]), known(true));
    verdict(&mut world, "pass");
    world.break_store();
    assert_eq!(world.failure(), (503, "content_unchecked".into()));
}

#[test]
fn one_picture_that_cannot_be_checked_does_not_hide_another() {
    let mut policy = enforced();
    policy.limits.image = 20 * 1024 * 1024;
    let mut world = lent(policy, &[&png(10_000_001), &png(100)]);
    accepts(&mut world, "t-2");
    world.answer_store();
    pushes(&mut world, &event("t-2", result("risky", 20_002)));
    world.wake();
    world.answer_store();
    assert_eq!(world.failure(), (400, "content_refused".into()));
    assert_eq!(world.record()["contentUnchecked"], true);
}

#[test]
fn only_logging_waits_for_nothing() {
    let mut world = lent(policy(ContentMode::Log, StoreFailure::Closed), &[&png(100)]);
    let path = accepts(&mut world, "t-1");
    world.answer_store();
    assert_eq!(world.fetch().upstream, "openclaw");
    assert!(!world.told.iter().any(|(_, op)| matches!(op, Op::Forget)), "WeChat may come for it later");
    let mut fetched = beside(&world, "GET", &path, String::new());
    fetched.answer_store();
    assert_eq!(fetched.status(), 200);
    let push = pushes(&mut world, &event("t-1", result("risky", 20_002)));
    assert_eq!(push.record()["contentLabel"], 20_002);
    let failed = pushes(&mut world, &event("t-1", json!({"errcode": -1008})));
    let record = failed.record();
    assert_eq!(
        (&record["contentUnchecked"], &record["contentCheck"]),
        (&json!(true), &json!("wechat_misconfigured"))
    );
    assert!(!world.store.contains_key("verdict:t-1"), "nobody asks for it");
}

#[test]
fn pictures_are_not_looked_at_where_that_is_not_set_up_or_off() {
    let off = policy(ContentMode::Off, StoreFailure::Open);
    for policy in [content::policy(ContentMode::Enforce, StoreFailure::Closed), off] {
        let mut world = asking(policy, &showing(&[&png(100)]), known(true));
        if world.fetch().upstream == "wechat" {
            verdict(&mut world, "pass");
            world.answer_store();
        }
        assert_eq!(world.fetch().upstream, "openclaw");
    }
    // And of somebody without a login they cannot be.
    let mut world = World::begin(closed(), chat_head());
    world.send_body(&showing(&[&png(100)]));
    world.answer_store();
    assert_eq!(world.failure(), (503, "content_unchecked".into()));
}

#[test]
fn a_client_that_leaves_is_not_waited_for() {
    let mut world = waiting(enforced());
    world.give(Input::ClientGone);
    assert!(world.done && world.watched.is_none());
}

#[test]
fn a_picture_without_a_text() {
    let mut body = showing(&[&png(100)]);
    body["messages"][0]["content"] = "".into();
    let mut world = asking(enforced(), &body, known(true));
    world.answer_store();
    accepts(&mut world, "t-1");
}

#[test]
fn addresses_of_pictures_are_not_guessed() {
    let mut world = lent(enforced(), &[&png(100)]);
    let path = accepts(&mut world, "t-1");
    let wrong = path.replace(".png", ".jpg");
    for path in [wrong.as_str(), "/v1/wechat/media/", "/v1/wechat/media/x-1-1-y.png"] {
        let found = beside(&world, "GET", path, String::new());
        assert_eq!(found.failure(), (404, "not_found".into()), "without a look into the store");
    }
    let mut head = beside(&world, "HEAD", &path, String::new());
    head.answer_store();
    assert_eq!((head.status(), head.text().as_str(), head.header("content-length")), (200, "", Some("100")));
    let posted = beside(&world, "POST", &path, String::new());
    assert_eq!(posted.failure(), (405, "method_not_allowed".into()));
    let mut broken = beside(&world, "GET", &path, String::new());
    broken.break_store();
    assert_eq!(broken.failure(), (503, "store_unavailable".into()));
    let mut slow = beside(&world, "GET", &path, String::new());
    assert_eq!(slow.wait(), DeadlineReason::Store);
    assert_eq!(slow.failure(), (503, "store_unavailable".into()));
}

#[test]
fn a_picture_that_ends_early_is_not_taken_for_whole() {
    let picture = png(PIECE + 1);
    let mut world = lent(enforced(), &[&picture]);
    let path = accepts(&mut world, "t-1");
    let mut fetched = beside(&world, "GET", &path, String::new());
    fetched.answer_store();
    fetched.break_store();
    assert!(fetched.done && fetched.chunks.concat().len() == PIECE);
    assert_eq!(fetched.record()["code"], "store_unavailable");
}

/// Nothing but what WeChat signed just now is read.
#[test]
fn an_unsigned_message_is_refused_before_its_body_is_read() {
    let world = waiting(enforced());
    let now = world.now / 1000;
    let good = wechats::query(TOKEN, now, None);
    for query in [
        String::new(),
        wechats::query("another-token", now, None),
        wechats::query(TOKEN, now - 601, None),
        wechats::query(TOKEN, now + 601, None),
        good.replace("signature=", "signature=0"),
        good.replace("415670741", "415670742"),
    ] {
        for method in ["GET", "POST"] {
            let push = beside(&world, method, "/v1/wechat/push", query.clone());
            assert_eq!(push.failure(), (401, "push_not_signed".into()), "{query}");
            assert!(push.wants_body.is_none());
        }
    }
    let checked = beside(&world, "GET", "/v1/wechat/push", format!("{good}&echostr=43751%2B20"));
    assert_eq!((checked.status(), checked.text().as_str()), (200, "43751+20"));
    assert_eq!(checked.header("content-type"), Some("text/plain; charset=utf-8"));
    let mut unset = beside(&world, "GET", "/healthz", String::new());
    unset.policy.pictures = None;
    let push = beside(&unset, "POST", "/v1/wechat/push", good);
    assert_eq!(push.failure(), (404, "not_found".into()));
}

#[test]
fn any_signed_message_is_answered_with_success() {
    let mut world = waiting(enforced());
    for other in [json!({"MsgType": "event", "Event": "debug_demo"}), json!({}), json!([1])] {
        let push = pushes(&mut world, &other);
        assert!(push.told.is_empty());
    }
    let query = || wechats::query(TOKEN, world.now / 1000, None);
    let told = event("t-1", result("pass", 100)).to_string();
    let mut push = beside(&world, "POST", "/v1/wechat/push", query());
    push.send_bytes(told.as_bytes());
    push.break_store();
    assert_eq!((push.status(), push.text().as_str()), (200, "success"), "a store that fails");
    assert_eq!(push.record()["storeFailed"], true);
    let mut push = beside(&world, "POST", "/v1/wechat/push", query());
    push.send_bytes(told.as_bytes());
    assert_eq!(push.wait(), DeadlineReason::Store);
    assert_eq!((push.status(), push.now - world.now), (200, 2_000), "a store that hangs");
    let mut push = beside(&world, "POST", "/v1/wechat/push", query());
    push.send_bytes(b"<xml></xml>");
    assert_eq!(push.failure(), (502, "wechat_misconfigured".into()));
    let push = beside(&world, "POST", "/v1/wechat/push", query());
    assert_eq!(push.wants_body, Some(16 * 1024));
}

#[test]
fn in_safe_mode_only_what_was_encrypted_is_believed() {
    let mut policy = enforced();
    policy.pictures.as_mut().expect("set up").aes_key = Some(AES_KEY.into());
    let mut world = waiting(policy);
    let told = event("t-1", result("risky", 20_002)).to_string();
    let now = world.now / 1000;
    let sealed = |key: &str, appid: &str| {
        wechats::encrypt(key, appid, *b"707722b803182950", told.as_bytes()).expect("a key")
    };
    let other_key = AES_KEY.replace('Q', "R");
    let good = sealed(AES_KEY, "wx0123");
    let query = wechats::query(TOKEN, now, Some(&good));
    let forged = wechats::query("another-token", now, Some(&good));
    let of = |encrypt: &str| wechats::query(TOKEN, now, Some(encrypt));
    let envelope = |encrypt: &str| json!({"ToUserName": "gh_1", "Encrypt": encrypt}).to_string();
    for (query, body, expected) in [
        (wechats::query(TOKEN, now, None), told.clone(), (401, "push_not_signed")),
        (wechats::query(TOKEN, now, None), envelope(&good), (401, "push_not_signed")),
        (forged, envelope(&good), (401, "push_not_signed")),
        (query.clone(), envelope(&sealed(AES_KEY, "wx01234")), (401, "push_not_signed")),
        (
            of(&sealed(&other_key, "wx0123")),
            envelope(&sealed(&other_key, "wx0123")),
            (502, "wechat_misconfigured"),
        ),
        (of(&sealed(AES_KEY, "wx9")), envelope(&sealed(AES_KEY, "wx9")), (502, "wechat_misconfigured")),
    ] {
        let mut push = beside(&world, "POST", "/v1/wechat/push", query);
        push.send_bytes(body.as_bytes());
        assert_eq!(push.failure(), (expected.0, expected.1.into()));
        assert!(push.asked.is_empty());
    }
    let mut push = beside(&world, "POST", "/v1/wechat/push", query);
    push.send_bytes(envelope(&good).as_bytes());
    push.answer_store();
    assert_eq!((push.status(), push.text().as_str()), (200, "success"));
    world.store = push.store;
    world.wake();
    world.answer_store();
    assert_eq!(world.failure(), (400, "content_refused".into()));
}
