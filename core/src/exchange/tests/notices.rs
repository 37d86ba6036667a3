//! Notices: who is told of what a turn comes to, how often, and what becomes of it.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    content::{OPENID, SUBJECT, known, wechat},
    durable::{client, harmless, keyed, of_another_version, runner, settle, stream_to_end},
    login,
    tools::{propose, with_tools},
    world::{BEGIN, World},
};
use crate::{
    policy::{
        Policy, auth,
        catalog::Approval,
        notify::{Event, Notify, Part, Slot, Subscribe, Ways, Webhook, WebhookKeys},
        session::{self, Claims, SigningKey},
    },
    seam::{DeadlineReason, FetchFailure, Input, RequestHead},
    state::Op,
};

type Store = BTreeMap<String, Vec<u8>>;

/// The secret of the specification's examples, and its bytes.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const QUESTION: &str = "我的电话是13800138000，怎么退款？";

const BOTH: Ways = Ways { webhook: true, subscribe: true };
const WEBHOOK: Ways = Ways { webhook: true, subscribe: false };
const SUBSCRIBE: Ways = Ways { webhook: false, subscribe: true };

/// Tells of everything, by these ways.
fn telling(mut policy: Policy, ways: Ways) -> Policy {
    let part = |slot| vec![Part::Slot(slot)];
    policy.login.appid = Some("wx0123".into());
    policy.login.keys = vec![SigningKey::derive(b"a secret")];
    policy.webhook_keys = WebhookKeys::parse(SECRET).expect("a key");
    policy.catalog.notify = Notify {
        webhook: Some(Webhook {
            url: "https://backend.example/hooks/mini".into(),
            secret: "WEBHOOK_SECRET".into(),
            events: Event::ALL.to_vec(),
        }),
        subscribe: Some(Subscribe {
            template_id: "T-1".into(),
            page: Vec::new(),
            state: "formal".into(),
            lang: "zh_CN".into(),
            events: Event::ALL.to_vec(),
            names: Vec::new(),
            data: vec![("thing1".into(), part(Slot::Title)), ("phrase2".into(), part(Slot::State))],
        }),
    };
    policy.catalog.intents.iter_mut().for_each(|intent| intent.notify = ways);
    policy
}

/// A person who logged in, and whose request has a key.
fn person(policy: &Policy) -> RequestHead {
    let claims = Claims {
        subject: SUBJECT.into(),
        role: String::new(),
        environment: "prod".into(),
        issued_s: BEGIN / 1000,
        expires_s: BEGIN / 1000 + 7_200,
        login_s: BEGIN / 1000,
    };
    let token = session::mint(&policy.login.keys, &claims).expect("a token");
    let mut head = keyed();
    head.headers.retain(|(name, _)| name != "x-api-key");
    head.headers.push(("authorization".into(), format!("Bearer {token}")));
    head
}

/// A person's turn whose runner has asked its model.
fn running(policy: &Policy, store: &Store) -> World {
    let question = json!({"intent": "qa", "input": {"text": QUESTION}});
    let first = client(policy, person(policy), &question, BEGIN, store);
    runner(policy, &first.store, BEGIN, 0x32)
}

/// A turn that has its answer; the store knows the person, and a token where it is wanted.
fn done(policy: &Policy, token: bool) -> World {
    let mut run = running(policy, &known(token));
    stream_to_end(&mut run, "好");
    assert!(run.done);
    run
}

fn notices(store: &Store) -> Vec<String> {
    store.keys().filter(|key| key.starts_with("turn:ntc_")).cloned().collect()
}

fn only_notice(store: &Store) -> String {
    let [key] = notices(store).try_into().expect("one notice");
    key
}

/// A runner that has the only notice.
fn take_up(policy: &Policy, store: &Store, now: u64, entropy: u8) -> World {
    let mut world = World::alarm(policy.clone(), &only_notice(store), now, store.clone(), entropy);
    settle(&mut world);
    world
}

/// What a runner of a notice has written: nothing but lines about notices, and nothing secret.
fn told(world: &World) -> Value {
    let text = format!("{:?}", world.records);
    for canary in [OPENID, "TOKEN", "退款", "13800138000", "whsec", "v1,"] {
        assert!(!text.contains(canary), "{canary}: {text}");
    }
    let (_, line) = world.records.last().expect("a line");
    let line: Value = serde_json::from_str(line).expect("JSON");
    assert_eq!((&line["event"], &line["intent"]), (&json!("notice"), &json!("qa")));
    line
}

fn outcome(world: &World) -> (Value, Value, Value) {
    let line = told(world);
    (line["way"].clone(), line["outcome"].clone(), line["attempts"].clone())
}

fn is(way: &str, outcome: &str, attempts: u32) -> (Value, Value, Value) {
    (json!(way), json!(outcome), json!(attempts))
}

fn header<'w>(world: &'w World, name: &str) -> &'w str {
    let found = world.fetch().headers.iter().find(|(key, _)| key == name);
    found.map(|(_, value)| value.as_str()).expect("a header")
}

#[test]
fn a_backend_is_told_once_with_a_signature_and_without_the_words() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    let key = only_notice(&run.store);
    assert_eq!(run.alarm_of(&key), Some(BEGIN), "at once");
    let mut world = take_up(&policy, &run.store, BEGIN + 5, 0x41);
    let fetch = world.fetch();
    assert_eq!((fetch.upstream.as_str(), fetch.path.as_str()), ("webhook", "/hooks/mini"));
    let body = world.sent_upstream();
    assert_eq!((&body["type"], &body["data"]["user"]), (&json!("turn.done"), &json!(SUBJECT)));
    assert_eq!((&body["data"]["intent"], &body["data"]["profile"]), (&json!("qa"), &json!("fast_v1")));
    assert!(!body.to_string().contains("退款") && !body.to_string().contains('好'), "{body}");
    let signed = [header(&world, "webhook-id"), header(&world, "webhook-timestamp")].join(".");
    let signed = format!("{signed}.{body}");
    let secret = STANDARD.decode(&SECRET["whsec_".len()..]).expect("base64");
    // The body's bytes, as they were sent.
    let crate::seam::Piece::Literal(text) = &world.fetch().body.0[0] else { panic!("a literal") };
    let signed = signed.replace(&body.to_string(), text);
    let expected = STANDARD.encode(auth::hmac_sha256(&secret, &[signed.as_bytes()]));
    assert_eq!(header(&world, "webhook-signature"), format!("v1,{expected}"));
    assert_eq!(header(&world, "webhook-timestamp"), ((BEGIN + 5) / 1000).to_string());
    world.whole(204, &[], "");
    settle(&mut world);
    assert!(world.done && world.head.is_none() && world.alarm_of(&key).is_none());
    assert_eq!(outcome(&world), is("webhook", "delivered", 1));
    assert_eq!(world.records.len(), 1);
    // An alarm that comes again finds nothing to do.
    let again = take_up(&policy, &world.store, BEGIN + 60_000, 0x42);
    assert!(again.done && again.fetches.is_empty() && again.records.is_empty());
}

#[test]
fn a_host_of_another_version_tells_the_same() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    let told = |store: &Store| {
        let world = take_up(&policy, store, BEGIN + 5, 0x41);
        ["webhook-id", "webhook-signature"].map(|name| header(&world, name).to_owned())
    };
    assert_eq!(told(&of_another_version(&run.store, &only_notice(&run.store))), told(&run.store));
}

#[test]
fn a_backend_that_is_away_is_told_later_with_the_same_id_and_in_the_end_not_at_all() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    let (key, mut store, mut now) = (only_notice(&run.store), run.store.clone(), BEGIN);
    let mut ids = Vec::new();
    for attempt in 1..=9_u32 {
        let mut world = take_up(&policy, &store, now, 0x41);
        ids.push(header(&world, "webhook-id").to_owned());
        match attempt {
            1 => world.breaks(FetchFailure::Reset),
            2 => {
                while world.wait() != DeadlineReason::Attempt {
                    settle(&mut world);
                }
            }
            3 => world.whole(503, &[("retry-after", "1800")], ""),
            _ => world.whole(500, &[], ""),
        }
        settle(&mut world);
        assert!(world.done);
        store = world.store.clone();
        let alarm = world.alarm_of(&key);
        if attempt == 9 {
            assert_eq!(outcome(&world), is("webhook", "gave_up", 9));
            assert_eq!((told(&world)["status"].clone(), alarm), (json!(500), None));
            break;
        }
        assert_eq!(outcome(&world), is("webhook", "again", attempt));
        let at = alarm.expect("another attempt");
        let pause = at - world.now;
        assert!(attempt != 3 || pause == 1_800_000, "the backend said so: {pause}");
        let early = World::alarm(policy.clone(), &key, at - 1, store.clone(), 0x43);
        assert!(
            pause == 0 || {
                let mut early = early;
                settle(&mut early);
                early.fetches.is_empty()
            }
        );
        now = at;
    }
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    assert!(now - BEGIN < 26 * 3_600_000, "{}", now - BEGIN);
}

#[test]
fn a_backend_may_refuse_or_want_no_more() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    for (status, expected) in [(410, "gone"), (401, "refused"), (301, "refused")] {
        let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
        world.whole(status, &[], "");
        settle(&mut world);
        assert_eq!(outcome(&world), is("webhook", expected, 1));
        assert!(world.done && world.alarm_of(&only_notice(&world.store)).is_none(), "{status}");
    }
}

#[test]
fn a_person_is_told_with_the_token_that_is_there() {
    let policy = telling(harmless(), SUBSCRIBE);
    let run = done(&policy, true);
    let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
    assert_eq!(world.fetch().path, "/cgi-bin/message/subscribe/send?access_token=TOKEN-1");
    let sent = world.sent_upstream();
    assert_eq!((&sent["touser"], &sent["template_id"]), (&json!(OPENID), &json!("T-1")));
    assert_eq!(sent["data"]["phrase2"]["value"], "已完成");
    let title = sent["data"]["thing1"]["value"].as_str().expect("a title");
    assert!(title.starts_with("我的电话是") && !title.contains("138"), "{title}");
    wechat(&mut world, &json!({"errcode": 0}));
    settle(&mut world);
    assert_eq!((outcome(&world), world.done), (is("subscribe", "delivered", 1), true));
    for (key, bytes) in world.store.iter().filter(|(key, _)| key.starts_with("turn:")) {
        assert!(memchr::memmem::find(bytes, OPENID.as_bytes()).is_none(), "{key}");
    }
}

#[test]
fn a_token_is_fetched_and_a_stale_one_renewed_once() {
    let policy = telling(harmless(), SUBSCRIBE);
    let stale = json!({"errcode": 42001});
    let run = done(&policy, false);
    let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
    assert_eq!(world.fetch().path, "/cgi-bin/stable_token");
    wechat(&mut world, &json!({"errcode": 40164}));
    settle(&mut world);
    assert_eq!(outcome(&world), is("subscribe", "no_token", 1));
    assert!(told(&world)["code"] == "wechat_misconfigured" && world.done);

    let run = done(&policy, true);
    let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
    wechat(&mut world, &stale);
    wechat(&mut world, &json!({"access_token": "TOKEN-2", "expires_in": 7200}));
    assert_eq!(world.fetch().path, "/cgi-bin/message/subscribe/send?access_token=TOKEN-2");
    wechat(&mut world, &stale);
    settle(&mut world);
    assert_eq!(outcome(&world), is("subscribe", "again", 1));
    let at = world.alarm_of(&only_notice(&world.store)).expect("another attempt");
    let mut world = take_up(&policy, &world.store, at, 0x42);
    assert_eq!(world.fetch().path, "/cgi-bin/message/subscribe/send?access_token=TOKEN-2");
    wechat(&mut world, &json!({"errcode": 0}));
    settle(&mut world);
    assert_eq!(outcome(&world), is("subscribe", "delivered", 2));
}

#[test]
fn what_wechat_says_to_a_message() {
    let policy = telling(harmless(), SUBSCRIBE);
    let run = done(&policy, true);
    for (errcode, expected, level, again) in [
        (43101, "not_subscribed", "info", false),
        (40003, "refused", "warn", false),
        (47003, "misconfigured", "error", false),
        (45009, "again", "warn", true),
    ] {
        let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
        wechat(&mut world, &json!({"errcode": errcode}));
        settle(&mut world);
        assert_eq!(outcome(&world), is("subscribe", expected, 1));
        let line = told(&world);
        assert_eq!(line["level"], level);
        assert!(errcode == 43101 || line["errcode"] == errcode, "{line}");
        let at = world.alarm_of(&only_notice(&world.store));
        assert_eq!(at.is_some(), again, "{errcode}");
        assert!(at.is_none_or(|at| at >= BEGIN + 3_600_000));
    }
}

#[test]
fn a_message_that_wechat_may_have_is_not_sent_again() {
    let policy = telling(harmless(), SUBSCRIBE);
    let run = done(&policy, true);
    for (failure, expected) in [(FetchFailure::Connect, "again"), (FetchFailure::Reset, "unknown")] {
        let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
        world.breaks(failure);
        settle(&mut world);
        assert_eq!(outcome(&world), is("subscribe", expected, 1));
    }
    let dead = take_up(&policy, &run.store, BEGIN, 0x41);
    assert_eq!(dead.fetches.len(), 1);
    let next = take_up(&policy, &dead.store, BEGIN + 15_000, 0x42);
    assert!(next.done && next.fetches.is_empty());
    assert_eq!(outcome(&next), is("subscribe", "unknown", 1));
}

#[test]
fn who_cannot_be_found_is_not_told() {
    let policy = telling(harmless(), SUBSCRIBE);
    // The store knows no openid.
    let mut run = running(&policy, &Store::new());
    stream_to_end(&mut run, "好");
    let world = take_up(&policy, &run.store, BEGIN, 0x41);
    assert_eq!(outcome(&world), is("subscribe", "nobody", 1));
    // A shared key is nobody.
    let question = json!({"intent": "qa", "input": {"text": QUESTION}});
    let first = client(&policy, keyed(), &question, BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    stream_to_end(&mut run, "好");
    assert_eq!(outcome(&run), is("subscribe", "nobody", 0));
    assert!(notices(&run.store).is_empty() && run.records.len() == 2);
}

#[test]
fn a_runner_that_dies_is_followed_by_one_that_says_the_same() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    let dead = take_up(&policy, &run.store, BEGIN, 0x41);
    let id = header(&dead, "webhook-id").to_owned();
    assert_eq!(dead.alarm_of(&only_notice(&dead.store)), Some(BEGIN + 15_000));
    let mut next = take_up(&policy, &dead.store, BEGIN + 15_000, 0x42);
    assert_eq!(header(&next, "webhook-id"), id);
    assert_eq!(next.sent_upstream(), dead.sent_upstream());
    next.whole(200, &[], "");
    settle(&mut next);
    assert_eq!(outcome(&next), is("webhook", "delivered", 1));
    // Many that die are too many.
    let (mut store, mut now) = (run.store.clone(), BEGIN);
    for entropy in 0x50..0x64 {
        let dead = take_up(&policy, &store, now, entropy);
        assert!(!dead.done);
        (store, now) = (dead.store.clone(), now + 15_000);
    }
    let last = take_up(&policy, &store, now, 0x70);
    assert!(last.done && last.fetches.is_empty());
    assert_eq!(outcome(&last), is("webhook", "interrupted", 0));
}

#[test]
fn a_runner_of_a_notice_that_was_only_slow_says_nothing_more() {
    let policy = telling(harmless(), WEBHOOK);
    let run = done(&policy, true);
    let mut slow = take_up(&policy, &run.store, BEGIN, 0x41);
    let mut next = take_up(&policy, &slow.store, BEGIN + 15_000, 0x42);
    next.whole(200, &[], "");
    settle(&mut next);
    slow.store = next.store.clone();
    slow.now = BEGIN + 5_000;
    slow.give(Input::Deadline);
    settle(&mut slow);
    assert!(slow.done && slow.cancelled.len() == 1 && slow.records.is_empty(), "{:?}", slow.records);
}

#[test]
fn an_end_that_is_said_twice_gives_one_notice() {
    let policy = telling(harmless(), WEBHOOK);
    let mut run = running(&policy, &known(true));
    run.opens_stream();
    run.lines(&super::upstream::completion_stream(&["好"]));
    settle(&mut run);
    run.closes();
    let list = run.asked.last().expect("the end").1.clone();
    let at = list.iter().position(|(key, _)| key.starts_with("turn:ntc_")).expect("a notice");
    assert!(at == list.len() - 2, "just before the end, and after the runner has shown that it has the turn");
    assert!(at > 0);
    // It is done, and nobody hears of it.
    for (key, op) in &list {
        run.apply(key, op);
    }
    let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
    world.whole(200, &[], "");
    settle(&mut world);
    run.store = world.store.clone();
    run.break_store();
    assert_eq!(run.wait(), DeadlineReason::Run);
    settle(&mut run);
    assert!(run.done && run.records.len() == 1, "{:?}", run.records);
    assert_eq!(run.record()["event"], "turn");
    let again = take_up(&policy, &run.store, BEGIN + 60_000, 0x42);
    assert!(again.done && again.fetches.is_empty());
}

#[test]
fn who_has_lost_a_turn_tells_nobody_of_it() {
    let policy = telling(harmless(), WEBHOOK);
    for fails in [false, true] {
        let mut slow = running(&policy, &known(true));
        let key = slow.store.keys().find(|key| key.starts_with("turn:req_")).expect("a turn").clone();
        let mut next = World::alarm(policy.clone(), &key, BEGIN + 15_000, slow.store.clone(), 0x33);
        settle(&mut next);
        slow.store = next.store.clone();
        if fails {
            slow.opens(400, &[]);
            slow.closes();
            settle(&mut slow);
        } else {
            stream_to_end(&mut slow, "旧");
        }
        assert!(slow.done && notices(&slow.store).is_empty());
        next.store = slow.store.clone();
        stream_to_end(&mut next, "新");
        assert_eq!(notices(&next.store).len(), 1);
    }
}

#[test]
fn only_what_is_wanted_is_told() {
    let quiet = telling(harmless(), Ways::default());
    assert!(notices(&done(&quiet, true).store).is_empty());
    let mut failures = telling(harmless(), BOTH);
    if let Some(webhook) = &mut failures.catalog.notify.webhook {
        webhook.events = vec![Event::Failed];
    }
    failures.catalog.notify.subscribe = None;
    assert!(notices(&done(&failures, true).store).is_empty());
    let mut run = running(&failures, &known(true));
    run.opens(400, &[]);
    run.closes();
    settle(&mut run);
    let world = take_up(&failures, &run.store, run.now, 0x41);
    let body = world.sent_upstream();
    assert_eq!(
        (&body["type"], &body["data"]["code"]),
        (&json!("turn.failed"), &json!("upstream_refused_request"))
    );
    // Both ways are two notices.
    let both = telling(harmless(), BOTH);
    assert_eq!(notices(&done(&both, true).store).len(), 2);
    // What the configuration does not want any more is not sent.
    let run = done(&telling(harmless(), WEBHOOK), true);
    let world = take_up(&harmless(), &run.store, BEGIN, 0x41);
    assert!(world.done && world.fetches.is_empty());
    assert_eq!(outcome(&world), is("webhook", "off", 0));
}

#[test]
fn a_person_who_is_asked_is_told_and_so_is_whoever_cancels() {
    let policy = telling(with_tools(Approval::User), WEBHOOK);
    let mut run = running(&policy, &known(true));
    propose(&mut run, &[("refund", r#"{"order":"A-1"}"#)]);
    assert!(run.done);
    let turn = run.store.keys().find(|key| key.starts_with("turn:req_")).expect("a turn").clone();
    let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
    let body = world.sent_upstream();
    assert_eq!(body["type"], "turn.needs_approval");
    assert_eq!(body["data"]["approval"], format!("apr_{}_1", turn.replace("turn:req_", "")));
    world.whole(200, &[], "");
    settle(&mut world);
    assert_eq!(
        (outcome(&world), told(&world)["about"].clone()),
        (is("webhook", "delivered", 1), json!("needs_approval"))
    );
    let cancel = Op::Turn(crate::state::turn::TurnOp::Cancel { owner: None });
    world.apply(&turn, &cancel);
    let mut run = World::alarm(policy, &turn, BEGIN + 1_000, world.store.clone(), 0x34);
    settle(&mut run);
    assert!(run.done && notices(&run.store).len() == 2);
}

#[test]
fn an_openid_is_kept_for_those_who_are_to_be_told() {
    let kept = |policy: &Policy| {
        let mut world = login::login(policy, "the-code", BEGIN, BTreeMap::new());
        world.whole(200, &[], &login::identity());
        assert_eq!(world.status(), 200);
        world.store.keys().any(|key| key.starts_with("openid:"))
    };
    let mut policy = login::policy();
    assert!(!kept(&policy));
    policy.catalog.notify = telling(harmless(), SUBSCRIBE).catalog.notify;
    assert!(kept(&policy));
}

/// Whatever happens to runners, answers and the store.
#[cfg(not(target_arch = "wasm32"))]
mod random {
    use proptest::prelude::*;

    use super::*;

    /// Whether the last fetch is a message.
    fn is_message(world: &World) -> bool {
        world.fetches.last().is_some_and(|fetch| fetch.path.starts_with("/cgi-bin/message/"))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn a_person_is_told_at_most_once_and_every_notice_comes_to_an_end(
            ways in prop_oneof![Just(WEBHOOK), Just(SUBSCRIBE)],
            token in any::<bool>(),
            acts in proptest::collection::vec(any::<u8>(), 0..24),
        ) {
            let policy = telling(harmless(), ways);
            let run = done(&policy, token);
            let key = only_notice(&run.store);
            let mut world = take_up(&policy, &run.store, BEGIN, 0x41);
            let (mut may_have, mut runners, mut answered) = (false, 0x42, 0);
            // After the acts nobody answers any more, and no runner lives long enough to give up.
            for kind in acts.into_iter().chain(core::iter::repeat_n(4, 120)) {
                if world.done {
                    let Some(at) = world.alarm_of(&key) else { break };
                    let now = world.now.max(at);
                    world = take_up(&policy, &world.store, now, runners);
                    (runners, answered) = (runners.wrapping_add(1), 0);
                    prop_assert!(!(may_have && is_message(&world)), "a second message");
                    continue;
                }
                // What was answered is answered: the runner waits for the store.
                let waits = world.fetches.last().is_some_and(|fetch| fetch.id != answered);
                let was_message = waits && is_message(&world);
                if waits && matches!(kind % 6, 0..=2) {
                    answered = world.fetch().id;
                }
                match kind % 6 {
                    0..=2 if !waits => {}
                    0 if world.fetch().path == "/cgi-bin/stable_token" => {
                        wechat(&mut world, &json!({"access_token": "TOKEN-9", "expires_in": 7200}));
                    }
                    0 => {
                        may_have |= was_message;
                        wechat(&mut world, &json!({"errcode": 0}));
                    }
                    1 if ways.webhook => world.whole(503, &[], ""),
                    1 => {
                        let errcode = [-1, 42001, 45011][usize::from(kind / 6) % 3];
                        wechat(&mut world, &json!({"errcode": errcode}));
                    }
                    2 => {
                        may_have |= was_message;
                        world.breaks(FetchFailure::Reset);
                    }
                    3 => world.break_store(),
                    4 => {
                        may_have |= was_message;
                        let now = world.now + 15_000;
                        world = take_up(&policy, &world.store, now, runners);
                        (runners, answered) = (runners.wrapping_add(1), 0);
                        prop_assert!(!(may_have && is_message(&world)), "a second message");
                        continue;
                    }
                    _ => may_have |= world.wait() == DeadlineReason::Attempt && was_message,
                }
                if kind % 7 == 0 {
                    world.break_store();
                } else {
                    settle(&mut world);
                }
            }
            prop_assert!(world.done && world.alarm_of(&key).is_none(), "it goes on");
        }
    }
}
