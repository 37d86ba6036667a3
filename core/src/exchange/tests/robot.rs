//! Robots: a message is kept once and acknowledged, and whatever becomes of it is said.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    durable::{harmless, of_another_version, settle},
    upstream::{completion, response},
    world::{BEGIN, World},
};
use crate::{
    policy::{
        ContentMode, Policy, StoreFailure,
        catalog::Cache,
        channel::{AnsweredBy, Channel, ChannelKind, Mode, Reply},
    },
    seam::{FetchFailure, Input, RequestHead},
    state::{Op, caller::Rate},
    wire::dingtalk::link::LONGEST_FRAME,
};

type Store = BTreeMap<String, Vec<u8>>;

const WEBHOOK: &str = "/robot/sendBySession?session=w3b";
/// What may be in no line.
const CANARIES: [&str; 5] = ["w3b", "怎么退款", "退款要三天", "TOKEN-", "0326"];

fn channel(name: &str) -> Channel {
    Channel {
        name: name.into(),
        kind: ChannelKind::DingTalk {
            robot_code: "dingrobot".into(),
            app_key: "DING_KEY".into(),
            app_secret: "DING_SECRET".into(),
            mode: Mode::Http,
            reply: Reply::Markdown,
        },
        answered_by: AnsweredBy::Intent("qa".into()),
        ack: None,
        ack_after_ms: 0,
        timeout_ms: 30_000,
        failed: None,
    }
}

fn with_robot(change: impl FnOnce(&mut Channel)) -> Policy {
    let mut policy = harmless();
    let mut desk = channel("desk");
    change(&mut desk);
    policy.catalog.channels = vec![desk];
    policy
}

fn message(id: &str, group: bool) -> Value {
    json!({
        "msgId": id, "msgtype": "text", "text": {"content": " 怎么退款 "},
        "conversationType": if group { "2" } else { "1" }, "conversationId": "cid1", "senderId": "$:1",
        "senderStaffId": "0326", "senderNick": "李", "robotCode": "dingrobot",
        "sessionWebhook": format!("https://oapi.dingtalk.com{WEBHOOK}"),
        "sessionWebhookExpiredTime": BEGIN + 5_400_000,
    })
}

fn head(vouched: Option<&str>) -> RequestHead {
    RequestHead {
        method: "POST".into(),
        path: "/dingtalk/desk".into(),
        robot: vouched.map(str::to_owned),
        ..RequestHead::default()
    }
}

/// DingTalk's request, up to its answer.
fn heard(policy: &Policy, message: &Value, now: u64, store: &Store) -> World {
    let mut world = World::begin_in(policy.clone(), head(Some("desk")), now, store.clone());
    world.send_body(message);
    settle(&mut world);
    assert_eq!((world.status(), world.text().as_str()), (200, "{}"));
    world
}

/// The alarms that are due, the turns' first.
fn due(world: &World, now: u64) -> Vec<String> {
    let mut keys: Vec<String> = world.store.keys().filter(|key| key.starts_with("turn:")).cloned().collect();
    keys.retain(|key| world.alarm_of(key).is_some_and(|at| at <= now));
    keys.sort_by_key(|key| key.contains("ntc_"));
    keys
}

/// The only cell that is a turn's.
fn turn(store: &Store) -> String {
    let keys: Vec<&String> = store.keys().filter(|key| key.starts_with("turn:req_")).collect();
    assert_eq!(keys.len(), 1, "{keys:?}");
    keys[0].clone()
}

fn sayings(store: &Store) -> Vec<String> {
    store.keys().filter(|key| key.starts_with("turn:ntc_dingtalk_")).cloned().collect()
}

fn run(policy: &Policy, key: &str, store: &Store, now: u64, entropy: u8) -> World {
    let mut world = World::alarm(policy.clone(), key, now, store.clone(), entropy);
    settle(&mut world);
    world
}

/// A message whose turn has asked its model.
fn asked(policy: &Policy, message: &Value) -> World {
    let world = heard(policy, message, BEGIN, &Store::new());
    run(policy, &turn(&world.store), &world.store, BEGIN + 5, 0x32)
}

/// A turn with its answer.
fn answered(policy: &Policy, message: &Value, answer: &str) -> World {
    let mut world = asked(policy, message);
    world.whole(200, &[], &completion(answer, "stop"));
    settle(&mut world);
    assert!(world.done && world.head.is_none());
    world
}

/// The runner of the only thing that is said.
fn say(policy: &Policy, store: &Store, now: u64, entropy: u8) -> World {
    let keys = sayings(store);
    assert_eq!(keys.len(), 1, "{keys:?}");
    run(policy, &keys[0], store, now, entropy)
}

/// What DingTalk is sent, and where.
fn sent(world: &World) -> (String, String, Value) {
    let fetch = world.fetch();
    (fetch.upstream.clone(), fetch.path.clone(), world.sent_upstream())
}

fn words(world: &World) -> String {
    let (_, _, body) = sent(world);
    let own = body["markdown"]["text"].as_str().map(str::to_owned);
    own.unwrap_or_else(|| {
        let param: Value = serde_json::from_str(body["msgParam"].as_str().expect("a text")).expect("JSON");
        param["text"].as_str().expect("a text").to_owned()
    })
}

/// How it ended, by its line.
fn outcome(world: &World) -> String {
    let text = format!("{:?}", world.records);
    for canary in CANARIES {
        assert!(!text.contains(canary), "{canary}: {text}");
    }
    let (_, line) = world.records.last().expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["event"], &line["channel"]), (&json!("said"), &json!("desk")));
    line["outcome"].as_str().expect("an outcome").to_owned()
}

#[test]
fn a_message_is_acknowledged_then_answered_in_its_conversation() {
    let policy = with_robot(|_| {});
    let mut world = asked(&policy, &message("m1", true));
    let request = world.sent_upstream();
    assert!(request.to_string().contains("怎么退款"), "{request}");
    assert!(world.fetch().headers.iter().any(|(name, _)| name == "x-openclaw-session-key"));
    world.whole(200, &[], &completion("退款要三天", "stop"));
    settle(&mut world);
    let text = format!("{:?}", world.records);
    assert!(CANARIES.iter().all(|canary| !text.contains(canary)), "{text}");
    // Nothing of the answer stays in the turn's own cell.
    let cell = &world.store[&turn(&world.store)];
    assert!(memchr::memmem::find(cell, "退款要三天".as_bytes()).is_none());
    let mut said = say(&policy, &world.store, BEGIN + 10, 0x41);
    let (upstream, path, body) = sent(&said);
    assert_eq!((upstream.as_str(), path.as_str()), ("dingtalk:oapi", WEBHOOK));
    assert_eq!(body["at"], json!({"atUserIds": ["0326"], "isAtAll": false}));
    assert_eq!(words(&said), "退款要三天 @0326");
    said.whole(200, &[], r#"{"errcode":0,"errmsg":"ok"}"#);
    settle(&mut said);
    assert_eq!((outcome(&said).as_str(), said.done), ("delivered", true));
    assert_eq!(said.fetches.len(), 1);
    assert!(due(&said, u64::MAX).is_empty());
}

#[test]
fn another_version_says_that_it_cannot_go_on() {
    let policy = with_robot(|_| {});
    let first = heard(&policy, &message("m1", true), BEGIN, &Store::new());
    let asked = asked(&policy, &message("m1", true));
    for (store, now) in [(&first.store, BEGIN + 5), (&asked.store, BEGIN + 60_000)] {
        let key = turn(store);
        let world = run(&policy, &key, &of_another_version(store, &key), now, 0x32);
        assert!(world.done && world.fetches.is_empty(), "the agent is not asked");
        let mut said = say(&policy, &world.store, now + 10, 0x41);
        assert_eq!(sent(&said).1, WEBHOOK);
        let words = words(&said);
        assert!(words.contains("操作结果未知") && words.contains("not known"), "{words}");
        said.whole(200, &[], r#"{"errcode":0,"errmsg":"ok"}"#);
        settle(&mut said);
        assert_eq!(outcome(&said), "delivered");
    }
}

#[test]
fn another_version_says_what_was_still_to_be_said() {
    let policy = with_robot(|_| {});
    let world = answered(&policy, &message("m1", true), "退款要三天");
    let keys = sayings(&world.store);
    let mut said = say(&policy, &of_another_version(&world.store, &keys[0]), BEGIN + 10, 0x41);
    assert_eq!(words(&said), "退款要三天 @0326");
    said.whole(200, &[], r#"{"errcode":0,"errmsg":"ok"}"#);
    settle(&mut said);
    assert_eq!((outcome(&said).as_str(), said.done), ("delivered", true));
}

#[test]
fn wechats_check_is_of_its_own_people() {
    let mut policy = with_robot(|_| {});
    (policy.content.mode, policy.content.failure) = (ContentMode::Enforce, StoreFailure::Closed);
    let world = answered(&policy, &message("m1", true), "退款要三天");
    assert!(words(&say(&policy, &world.store, BEGIN + 10, 0x41)).starts_with("退款要三天"));
}

#[test]
fn nobody_but_dingtalk_is_heard() {
    let policy = with_robot(|_| {});
    for (path, vouched, expected) in [
        ("/dingtalk/desk", None, (401, "push_not_signed")),
        ("/dingtalk/desk", Some("other"), (401, "push_not_signed")),
        ("/dingtalk/other", Some("other"), (404, "not_found")),
        ("/dingtalk/", Some(""), (404, "not_found")),
    ] {
        let world = World::begin(policy.clone(), RequestHead { path: path.into(), ..head(vouched) });
        assert!(world.wants_body.is_none());
        let (status, code) = world.failure();
        assert_eq!((status, code.as_str()), expected, "{path} {vouched:?}");
    }
    // All that a frame of Stream mode can hold is taken, since that was answered before.
    let of = |length: usize| RequestHead { content_length: Some(length as u64), ..head(Some("desk")) };
    assert!(World::begin(policy.clone(), of(LONGEST_FRAME)).wants_body.is_some());
    assert_eq!(World::begin(policy.clone(), of(LONGEST_FRAME + 1)).failure().0, 413);
    // No header speaks for the host.
    let mut forged = head(None);
    forged.headers = vec![("robot".into(), "desk".into()), ("x-minigate-robot".into(), "desk".into())];
    assert_eq!(World::begin(policy, forged).failure().0, 401);
}

#[test]
fn a_message_that_comes_again_is_answered_once() {
    let policy = with_robot(|channel| channel.ack = Some("收到".into()));
    let first = heard(&policy, &message("m1", true), BEGIN, &Store::new());
    assert_eq!(sayings(&first.store).len(), 1);
    let again = heard(&policy, &message("m1", true), BEGIN + 60_000, &first.store);
    assert_eq!(first.store.len(), again.store.len());
    // Also when it was refused, or answered, and for longer than a signature is believed.
    let mut run = run(&policy, &turn(&first.store), &first.store, BEGIN, 0x32);
    run.breaks(FetchFailure::Connect);
    while !run.done {
        run.wait_through_leases();
        settle(&mut run);
        if !run.done && run.cancelled.len() < run.fetches.len() && run.fetches.len() > 1 {
            run.breaks(FetchFailure::Connect);
            settle(&mut run);
        }
    }
    let later = heard(&policy, &message("m1", true), BEGIN + 7_000_000, &run.store);
    assert_eq!(later.alarm_of(&turn(&later.store)), None);
    assert_eq!(sayings(&later.store).len(), 2, "the acknowledgement and the refusal");
    let other = heard(&policy, &message("m2", true), BEGIN, &first.store);
    assert_eq!(other.store.len(), first.store.len() + 2);
}

#[test]
fn what_cannot_be_read_is_acknowledged_and_what_has_no_words_is_told_so() {
    let policy = with_robot(|_| {});
    for body in ["", "[]", "{}", "no json", r#"{"msgId": 5}"#] {
        let mut world = World::begin(policy.clone(), head(Some("desk")));
        world.send_bytes(body.as_bytes());
        assert_eq!((world.status(), world.store.len()), (200, 0), "{body}");
    }
    for (kind, content, expected) in [
        ("picture", json!({}), "文字"),
        ("file", json!({"fileName": "a.pdf"}), "文字"),
        ("video", json!({"downloadCode": "c"}), "文字"),
        ("audio", json!({"recognition": " "}), "没有听清"),
        ("newest", json!({}), "暂不支持"),
    ] {
        let mut message = message("m1", true);
        (message["msgtype"], message["content"]) = (kind.into(), content);
        let world = heard(&policy, &message, BEGIN, &Store::new());
        let said = say(&policy, &world.store, BEGIN + 10, 0x41);
        assert!(words(&said).contains(expected), "{kind}: {}", words(&said));
    }
}

/// A picture of a message, fetched up to its bytes.
fn fetched(policy: &Policy, kind: &str, content: Value) -> World {
    let mut message = message("m1", true);
    (message["msgtype"], message["content"]) = (kind.into(), content);
    let world = heard(policy, &message, BEGIN, &Store::new());
    let mut world = run(policy, &turn(&world.store), &world.store, BEGIN + 5, 0x32);
    assert_eq!(sent(&world).1, "/v1.0/oauth2/accessToken");
    world.whole(200, &[], r#"{"accessToken":"TOKEN-1","expireIn":7200}"#);
    settle(&mut world);
    let (upstream, path, body) = sent(&world);
    assert_eq!((upstream.as_str(), path.as_str()), ("dingtalk", "/v1.0/robot/messageFiles/download"));
    assert_eq!(body, json!({"downloadCode": "c1", "robotCode": "dingrobot"}));
    world
}

const ADDRESS: &str = r#"{"downloadUrl":"https://im.oss-cn.aliyuncs.com/a.png?Signature=x"}"#;
const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";

/// Robots whose profiles look at pictures.
fn seeing() -> Policy {
    let mut policy = with_robot(|_| {});
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.attachments = true);
    policy
}

#[test]
fn a_picture_is_fetched_and_shown_to_the_model() {
    let policy = seeing();
    let rich = json!({"richText": [{"text": "这是什么"}, {"type": "picture", "downloadCode": "c1"}]});
    for (kind, content) in [("picture", json!({"downloadCode": "c1"})), ("richText", rich)] {
        let mut world = fetched(&policy, kind, content);
        world.whole(200, &[], ADDRESS);
        settle(&mut world);
        let fetch = world.fetch();
        assert_eq!((fetch.upstream.as_str(), fetch.method.as_str()), ("dingtalk:files", "GET"));
        assert_eq!(fetch.path, "//im.oss-cn.aliyuncs.com/a.png?Signature=x");
        let id = fetch.id;
        world.give(Input::FetchWhole { id, status: 200, headers: Vec::new(), body: PNG });
        // The host holds the request that is kept, in place of a client's.
        let (_, ops) = world.asked.first().expect("it is kept").clone();
        let kept = ops.into_iter().flat_map(|(_, op)| match op {
            Op::Write { value, .. } => value.into_vec(),
            _ => Vec::new(),
        });
        world.body = kept.collect();
        settle(&mut world);
        assert_eq!(world.fetch().path, "/v1/responses");
        let request = world.sent_upstream().to_string();
        assert!(request.contains(&STANDARD.encode(PNG)) && request.contains("image/png"), "{request}");
        assert!(kind == "picture" || request.contains("这是什么"), "{request}");
        assert!(!world.state_contains(&STANDARD.encode(PNG)));
        // When it has been answered nothing keeps the picture any more.
        let kept = |world: &World| {
            let cells = world.store.iter().filter(|(key, _)| key.starts_with("body:"));
            cells.filter(|(_, cell)| !cell.is_empty()).count()
        };
        assert_eq!(kept(&world), 1);
        world.whole(200, &[], &response("一张图", "completed"));
        settle(&mut world);
        assert_eq!((world.done, kept(&world)), (true, 0));
        assert!(words(&say(&policy, &world.store, BEGIN + 10, 0x41)).starts_with("一张图"));
    }
}

#[test]
fn what_no_profile_looks_at_is_not_fetched() {
    let policy = with_robot(|_| {});
    for (kind, content) in [
        ("picture", json!({"downloadCode": "c1"})),
        ("file", json!({"fileName": "a.txt", "downloadCode": "c1"})),
    ] {
        let mut message = message("m1", true);
        (message["msgtype"], message["content"]) = (kind.into(), content);
        let world = heard(&policy, &message, BEGIN, &Store::new());
        let world = run(&policy, &turn(&world.store), &world.store, BEGIN + 5, 0x32);
        assert!(world.done && world.fetches.is_empty());
        let said = say(&policy, &world.store, BEGIN + 10, 0x41);
        assert!(words(&said).contains("暂不支持这种文件"), "{kind}: {}", words(&said));
    }
}

#[test]
fn what_cannot_be_fetched_or_shown_is_told() {
    let policy = seeing();
    let file = || json!({"fileName": "a.txt", "downloadCode": "c1"});
    let told = |mut world: World| {
        settle(&mut world);
        assert!(world.done);
        words(&say(&policy, &world.store, BEGIN + 30_000, 0x41))
    };
    let mut elsewhere = fetched(&policy, "file", file());
    elsewhere.whole(200, &[], r#"{"downloadUrl":"https://evil.example/a"}"#);
    assert!(told(elsewhere).contains("没有取到"));
    for (status, bytes, expected) in [(404, &b"gone"[..], "没有取到"), (200, b"\xff\xfe", "暂不支持这种文件")]
    {
        let mut world = fetched(&policy, "file", file());
        world.whole(200, &[], ADDRESS);
        settle(&mut world);
        let id = world.fetch().id;
        world.give(Input::FetchWhole { id, status, headers: Vec::new(), body: bytes });
        assert!(told(world).contains(expected), "{status}");
    }
    let mut large = fetched(&policy, "file", file());
    large.whole(200, &[], ADDRESS);
    settle(&mut large);
    large.breaks(FetchFailure::TooLarge);
    assert!(told(large).contains("文件太大了"));
    let mut late = fetched(&policy, "file", file());
    while !late.done {
        late.wait();
        settle(&mut late);
    }
    assert!(late.now < BEGIN + 30_000 && told(late).contains("没有取到"));
}

#[test]
fn voices_and_quotes_reach_the_model() {
    let policy = with_robot(|_| {});
    let mut voice = message("m1", false);
    (voice["msgtype"], voice["content"]) = ("audio".into(), json!({"recognition": "几点开门"}));
    assert!(asked(&policy, &voice).sent_upstream().to_string().contains("几点开门"));
    let mut quoting = message("m2", false);
    quoting["text"]["repliedMsg"] = json!({"msgId": "q", "content": {"text": "第一行\n第二行"}});
    let sent = asked(&policy, &quoting).sent_upstream().to_string();
    assert!(sent.contains(r"> 第一行\n> 第二行\n\n怎么退款"), "{sent}");
}

#[test]
fn a_group_and_a_person_are_conversations_of_their_own() {
    let policy = with_robot(|_| {});
    let session = |message: &Value| {
        let world = asked(&policy, message);
        let headers = world.fetch().headers.clone();
        headers.into_iter().find(|(name, _)| name == "x-openclaw-session-key").expect("a session").1
    };
    let (group, person) = (session(&message("m1", true)), session(&message("m1", false)));
    assert_ne!(group, person);
    let mut other = message("m2", true);
    other["senderStaffId"] = "0327".into();
    assert_eq!(group, session(&other), "all of a group talk in it");
    other["conversationType"] = "1".into();
    assert_ne!(person, session(&other));
}

#[test]
fn what_was_answered_in_one_conversation_is_asked_anew_in_another() {
    let mut policy = with_robot(|_| {});
    let kept = Cache { ttl_s: 3_600, shared: true };
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.cache = Some(kept));
    let first = answered(&policy, &message("m1", true), "退款要三天");
    let second = heard(&policy, &message("m2", false), BEGIN + 60_000, &first.store);
    let mut turns = second.store.keys().filter(|key| key.starts_with("turn:req_"));
    let key = turns.find(|key| !first.store.contains_key(*key)).expect("a turn");
    let second = run(&policy, key, &second.store, BEGIN + 60_005, 0x33);
    assert_eq!(second.fetches.len(), 1);
    assert!(second.sent_upstream().to_string().contains("怎么退款"));
}

#[test]
fn a_person_alone_is_not_addressed_by_name_and_a_profile_may_answer() {
    let policy = with_robot(|channel| {
        channel.answered_by = AnsweredBy::Profile("fast_v1".into());
        let ChannelKind::DingTalk { reply, .. } = &mut channel.kind;
        *reply = Reply::Text;
    });
    let world = answered(&policy, &message("m1", false), "退款要三天");
    let said = say(&policy, &world.store, BEGIN + 10, 0x41);
    let (_, _, body) = sent(&said);
    assert_eq!((&body["text"]["content"], &body["at"]["atUserIds"]), (&json!("退款要三天"), &json!([])));
}

#[test]
fn a_dead_upstream_is_told_within_the_time() {
    let policy = with_robot(|channel| channel.timeout_ms = 4_000);
    let mut world = asked(&policy, &message("m1", true));
    while !world.done {
        world.wait();
        settle(&mut world);
    }
    assert_eq!(world.now, BEGIN + 4_000);
    let said = say(&policy, &world.store, world.now, 0x41);
    assert!(words(&said).contains("响应超时了") && words(&said).contains("too long"), "{}", words(&said));
    // The operator's own words, where there are some.
    let policy = with_robot(|channel| channel.failed = Some("请找人工客服".into()));
    let mut world = asked(&policy, &message("m1", true));
    world.whole(200, &[], "rubbish");
    settle(&mut world);
    assert!(words(&say(&policy, &world.store, BEGIN + 10, 0x41)).starts_with("请找人工客服"));
}

#[test]
fn a_runner_that_died_is_followed_and_a_turn_whose_time_is_over_is_told() {
    let policy = with_robot(|_| {});
    let first = asked(&policy, &message("m1", true));
    let key = turn(&first.store);
    let at = first.alarm_of(&key).expect("a lease");
    let mut second = run(&policy, &key, &first.store, at, 0x33);
    assert_eq!(second.fetches.len(), 1);
    second.whole(200, &[], &completion("退款要三天", "stop"));
    settle(&mut second);
    assert!(words(&say(&policy, &second.store, at, 0x41)).starts_with("退款要三天"));
    // A host that was away for an hour.
    let late = run(&policy, &key, &first.store, BEGIN + 3_600_000, 0x33);
    assert!(late.done && late.fetches.is_empty());
    assert!(words(&say(&policy, &late.store, BEGIN + 3_600_001, 0x41)).contains("响应超时了"));
}

#[test]
fn an_acknowledgement_comes_only_before_the_answer() {
    let policy = with_robot(|channel| {
        channel.ack = Some("收到，正在思考…".into());
        channel.ack_after_ms = 2_000;
    });
    let world = heard(&policy, &message("m1", true), BEGIN, &Store::new());
    let early = say(&policy, &world.store, BEGIN, 0x41);
    assert!(early.fetches.is_empty() && early.done);
    let at = early.alarm_of(&sayings(&early.store)[0]).expect("later");
    assert_eq!(at, BEGIN + 2_000);
    let mut said = say(&policy, &early.store, at, 0x42);
    assert_eq!(words(&said), "收到，正在思考…");
    said.whole(200, &[], r#"{"errcode":0}"#);
    settle(&mut said);
    assert_eq!(outcome(&said), "delivered");

    let key = sayings(&early.store)[0].clone();
    let mut run_ = run(&policy, &turn(&early.store), &early.store, BEGIN, 0x32);
    run_.whole(200, &[], &completion("退款要三天", "stop"));
    settle(&mut run_);
    let late = run(&policy, &key, &run_.store, at, 0x42);
    assert!(late.fetches.is_empty() && late.done);
    assert_eq!(outcome(&late), "not_needed");
}

#[test]
fn refusals_of_a_conversation_are_said_once_and_after_them() {
    let mut policy = with_robot(|_| {});
    policy.roles[0].rate = Some(Rate { per_minute: 1, burst: 1 });
    let mut store = Store::new();
    for number in 0..5 {
        let id = format!("m{number}");
        let before: Vec<String> = store.keys().cloned().collect();
        let world = heard(&policy, &message(&id, true), BEGIN + number, &store);
        let key = world.store.keys().find(|key| key.starts_with("turn:req_") && !before.contains(key));
        let key = key.expect("a turn").clone();
        let world = run(&policy, &key, &world.store, BEGIN + number, 0x50);
        assert_eq!(world.fetches.len(), usize::from(number == 0));
        store = world.store;
    }
    let keys = sayings(&store);
    assert_eq!(keys.len(), 1, "one for four");
    let early = run(&policy, &keys[0], &store, BEGIN + 10, 0x41);
    let at = early.alarm_of(&keys[0]).expect("later");
    assert!(at > BEGIN + 5 && at <= BEGIN + 13_000 && early.fetches.is_empty());
    let said = run(&policy, &keys[0], &early.store, at, 0x42);
    assert!(words(&said).contains("没有得到回答的消息") && !words(&said).contains('@'), "{}", words(&said));
}

/// A webhook's answers one after the other, then what the API is asked.
fn fallen_back(answer: &str, message: &Value) -> (Policy, World) {
    let policy = with_robot(|_| {});
    let world = answered(&policy, message, "退款要三天");
    let mut said = say(&policy, &world.store, BEGIN + 10, 0x41);
    said.whole(200, &[], answer);
    settle(&mut said);
    (policy, said)
}

#[test]
fn where_the_webhook_is_over_the_api_says_it() {
    for answer in [r#"{"errcode":300001}"#, r#"{"errcode":130101}"#, r#"{"errcode":310000}"#] {
        let (_, mut said) = fallen_back(answer, &message("m1", true));
        let (upstream, path, body) = sent(&said);
        assert_eq!((upstream.as_str(), path.as_str()), ("dingtalk", "/v1.0/oauth2/accessToken"));
        assert_eq!(body, json!({"appKey": "$DING_KEY", "appSecret": "$DING_SECRET"}));
        said.whole(200, &[], r#"{"accessToken":"TOKEN-1","expireIn":7200}"#);
        settle(&mut said);
        let (_, path, body) = sent(&said);
        assert_eq!(path, "/v1.0/robot/groupMessages/send");
        assert_eq!((&body["openConversationId"], words(&said).as_str()), (&json!("cid1"), "退款要三天"));
        assert!(said.fetch().headers.contains(&("x-acs-dingtalk-access-token".into(), "TOKEN-1".into())));
        said.whole(200, &[], r#"{"processQueryKey":"k"}"#);
        settle(&mut said);
        assert_eq!(outcome(&said), "delivered");
        assert!(said.store.contains_key("dingtalk:token:DING_KEY"));
    }
    // To a person, by the id in the company; one that is over is not even tried.
    let mut over = message("m1", false);
    over["sessionWebhookExpiredTime"] = (BEGIN - 1).into();
    let policy = with_robot(|_| {});
    let mut world = answered(&policy, &over, "退款要三天");
    let value = ByteBuf::from(*b"TOKEN-1");
    world.apply("dingtalk:token:DING_KEY", &Op::Write { value, ttl_ms: 60_000 });
    let mut said = say(&policy, &world.store, BEGIN + 10, 0x41);
    assert_eq!(sent(&said).1, "/v1.0/robot/oToMessages/batchSend");
    // A token that is over is renewed once.
    said.whole(401, &[], r#"{"code":"InvalidAuthentication"}"#);
    settle(&mut said);
    said.whole(200, &[], r#"{"accessToken":"TOKEN-2","expireIn":7200}"#);
    settle(&mut said);
    assert!(said.fetch().headers.contains(&("x-acs-dingtalk-access-token".into(), "TOKEN-2".into())));
}

#[test]
fn another_address_than_dingtalks_is_sent_nothing() {
    let policy = with_robot(|_| {});
    let mut evil = message("m1", true);
    evil["sessionWebhook"] = "https://evil.example/robot/sendBySession?session=w3b".into();
    let world = answered(&policy, &evil, "退款要三天");
    assert_eq!(sent(&say(&policy, &world.store, BEGIN + 10, 0x41)).1, "/v1.0/oauth2/accessToken");
}

#[test]
fn a_throttled_webhook_is_used_later_where_the_api_may_not() {
    let (policy, mut said) = fallen_back(r#"{"errcode":130101}"#, &message("m1", true));
    said.whole(200, &[], r#"{"accessToken":"TOKEN-1","expireIn":7200}"#);
    settle(&mut said);
    said.whole(403, &[], r#"{"code":"Forbidden.AccessDenied.AccessTokenPermissionDenied"}"#);
    settle(&mut said);
    let key = sayings(&said.store)[0].clone();
    let at = said.alarm_of(&key).expect("later");
    assert_eq!(at, BEGIN + 600_010);
    let again = run(&policy, &key, &said.store, at, 0x42);
    assert_eq!(sent(&again).1, WEBHOOK);
    // Without that, it is over, and an operator can read why.
    let (_, mut said) = fallen_back(r#"{"errcode":300001}"#, &message("m1", true));
    said.whole(400, &[], r#"{"code":"invalidClientIdOrSecret"}"#);
    settle(&mut said);
    assert_eq!(outcome(&said), "refused");
}

#[test]
fn a_throttled_webhook_is_waited_for_where_the_api_does_not_answer() {
    let (policy, mut said) = fallen_back(r#"{"errcode":130101}"#, &message("m1", true));
    said.whole(200, &[], r#"{"accessToken":"TOKEN-1","expireIn":7200}"#);
    settle(&mut said);
    let key = sayings(&said.store)[0].clone();
    let mut at = 0;
    for attempt in 1..=8_u8 {
        assert_eq!(sent(&said).1, "/v1.0/robot/groupMessages/send", "{attempt}");
        said.whole(500, &[], "{}");
        settle(&mut said);
        at = said.alarm_of(&key).expect("later");
        if attempt < 8 {
            assert!(at < BEGIN + 600_010);
            said = run(&policy, &key, &said.store, at, 0x42 + attempt);
        }
    }
    assert_eq!(at, BEGIN + 600_010);
    let mut again = run(&policy, &key, &said.store, at, 0x60);
    assert_eq!(sent(&again).1, WEBHOOK);
    again.whole(200, &[], r#"{"errcode":0}"#);
    settle(&mut again);
    assert_eq!(outcome(&again), "delivered");
}

#[test]
fn a_webhook_that_cannot_be_reached_is_left_for_the_api() {
    let policy = with_robot(|_| {});
    let way = |message: &Value| {
        let mut world = answered(&policy, message, "退款要三天");
        let key = sayings(&world.store)[0].clone();
        let mut now = BEGIN + 10;
        for attempt in 1..=3_u8 {
            world = run(&policy, &key, &world.store, now, 0x40 + attempt);
            assert_eq!(sent(&world).1, WEBHOOK);
            world.breaks(FetchFailure::Connect);
            settle(&mut world);
            now = world.alarm_of(&key).expect("later");
        }
        sent(&run(&policy, &key, &world.store, now, 0x44)).1
    };
    assert_eq!(way(&message("m1", true)), "/v1.0/oauth2/accessToken");
    // The API knows nobody from outside of the company.
    let mut stranger = message("m1", false);
    stranger.as_object_mut().expect("an object").remove("senderStaffId");
    assert_eq!(way(&stranger), WEBHOOK);
}

#[test]
fn what_dingtalk_does_not_answer_is_said_again_and_not_for_ever() {
    let policy = with_robot(|_| {});
    let mut world = answered(&policy, &message("m1", true), "退款要三天");
    let key = sayings(&world.store)[0].clone();
    let mut now = BEGIN + 10;
    for attempt in 1..9_u8 {
        world = run(&policy, &key, &world.store, now, 0x40 + attempt);
        match attempt % 3 {
            0 => world.breaks(FetchFailure::Reset),
            1 => world.whole(502, &[], "rubbish"),
            _ => {
                while !world.done && world.cancelled.is_empty() {
                    world.wait();
                    settle(&mut world);
                }
            }
        }
        settle(&mut world);
        assert!(world.done);
        match world.alarm_of(&key) {
            Some(at) => now = at,
            None => assert_eq!((attempt, outcome(&world).as_str()), (8, "gave_up")),
        }
    }
}

#[test]
fn a_long_answer_is_several_messages_and_none_is_said_twice() {
    let policy = with_robot(|_| {});
    let long = format!("```\n{}```\n好", "一行代码\n".repeat(1_000));
    let world = answered(&policy, &message("m1", true), &long);
    let mut said = say(&policy, &world.store, BEGIN + 10, 0x41);
    assert!(words(&said).ends_with("\n```\n@0326"), "{}", words(&said));
    said.whole(200, &[], r#"{"errcode":0}"#);
    settle(&mut said);
    assert_eq!(said.fetches.len(), 2);
    assert!(words(&said).starts_with("```\n一行代码") && !words(&said).contains('@'));
    // Its runner dies; the next one goes on with the second.
    let key = sayings(&said.store)[0].clone();
    let at = said.alarm_of(&key).expect("a lease");
    let mut next = run(&policy, &key, &said.store, at, 0x42);
    assert_eq!(words(&next), words(&said));
    next.whole(200, &[], r#"{"errcode":0}"#);
    settle(&mut next);
    assert_eq!(outcome(&next), "delivered");
}

#[test]
fn without_a_store_dingtalk_is_asked_to_send_it_again() {
    let policy = with_robot(|_| {});
    let mut world = World::begin(policy, head(Some("desk")));
    world.send_body(&message("m1", true));
    world.break_store();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
}

#[cfg(not(target_arch = "wasm32"))]
proptest::proptest! {
    #![proptest_config(proptest::test_runner::Config::with_cases(64))]

    #[test]
    fn any_body_is_acknowledged(bytes in proptest::collection::vec(0_u8..=255, 0..200)) {
        let mut world = World::begin(with_robot(|_| {}), head(Some("desk")));
        world.send_bytes(&bytes);
        settle(&mut world);
        proptest::prop_assert_eq!(world.status(), 200);
    }

    /// Whatever DingTalk answers, in whatever order, it comes to an end, and what was delivered is not
    /// said again.
    #[test]
    fn any_answers_of_dingtalk_come_to_an_end(answers in proptest::collection::vec(0_usize..9, 0..40)) {
        const ANSWERS: [(u16, &str); 8] = [
            (200, r#"{"errcode":0}"#),
            (200, r#"{"errcode":300001}"#),
            (200, r#"{"errcode":130101}"#),
            (200, r#"{"accessToken":"TOKEN-1","expireIn":7200}"#),
            (401, r#"{"code":"InvalidAuthentication"}"#),
            (403, r#"{"code":"Forbidden.AccessDenied.QpsLimit"}"#),
            (500, ""),
            (200, "rubbish"),
        ];
        let policy = with_robot(|_| {});
        let mut world = answered(&policy, &message("m1", true), "退款要三天");
        let key = sayings(&world.store)[0].clone();
        let (mut now, mut entropy) = (BEGIN + 10, 0);
        let mut answers = answers.into_iter();
        let mut delivered = 0;
        for _ in 0..200 {
            entropy += 1;
            world = run(&policy, &key, &world.store, now, entropy);
            while !world.done {
                let is_message = world.fetch().path != "/v1.0/oauth2/accessToken";
                match answers.next().unwrap_or(8) {
                    8 => world.breaks(FetchFailure::Reset),
                    at => {
                        let (status, body) = ANSWERS[at];
                        delivered += usize::from(is_message && outcome_is_delivered(&world, at));
                        world.whole(status, &[], body);
                    }
                }
                settle(&mut world);
            }
            match world.alarm_of(&key) {
                Some(at) => now = at,
                None => break,
            }
        }
        proptest::prop_assert_eq!(world.alarm_of(&key), None);
        proptest::prop_assert!(delivered <= 1, "{}", delivered);
    }
}

/// Whether that answer says that the message was taken.
#[cfg(not(target_arch = "wasm32"))]
fn outcome_is_delivered(world: &World, at: usize) -> bool {
    let by_webhook = world.fetch().upstream == "dingtalk:oapi";
    match at {
        0 | 3 => true,
        // The API says it by the status alone.
        1 | 2 | 7 => !by_webhook,
        _ => false,
    }
}
