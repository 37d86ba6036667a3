//! Rates, standings, the queue and the breaker, as an exchange meets them.

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    upstream::{completion, picture, question},
    world::{BEGIN, World, chat_head, guarded},
};
use crate::{
    policy::{Memory, Policy},
    seam::{DeadlineReason, Input, RequestHead},
    state::{
        Op, Outcome,
        admission::{Release, Verdict},
        caller::{Rate, Standing},
    },
};

/// A request of a user that has asked the gates.
fn asking(policy: Policy, user: &str) -> World {
    let mut world = World::begin(policy, chat_head());
    let mut body = question(false);
    body["user"] = user.into();
    world.send_body(&body);
    world
}

fn entered(standing: Standing) -> Outcome {
    Outcome::Entered {
        granted: true,
        remaining: 5,
        retry_after_ms: 0,
        full_after_ms: 0,
        standing,
        revoked: false,
        repeated: false,
        spiked: false,
    }
}

fn stored(world: &mut World, outcomes: Vec<Outcome>) {
    let id = world.asked.last().expect("the store was asked").0;
    world.asked.clear();
    world.give(Input::Stored { id, outcomes });
}

/// The verdict with which the lease was given back.
fn verdict(world: &World) -> Verdict {
    let mut releases = world.told.iter().filter_map(|(key, op)| match op {
        Op::Release(Release { verdict, .. }) if key == "upstream:openclaw" => Some(*verdict),
        _ => None,
    });
    let verdict = releases.next().expect("the lease is given back");
    assert!(releases.next().is_none(), "and only once");
    verdict
}

#[test]
fn all_gates_are_asked_at_once_and_a_lease_is_given_back() {
    let mut world = asking(guarded(), "a");
    let [(_, ops)] = world.asked.as_slice() else { panic!("one question: {:?}", world.asked) };
    let kinds: Vec<&str> = ops.iter().map(|(key, _)| key.split(':').next().unwrap_or_default()).collect();
    assert_eq!(kinds, ["user", "upstream"], "the address was asked about at the door");
    world.answer_store();
    world.whole(200, &[], &completion("a", "stop"));
    assert_eq!((world.status(), verdict(&world)), (200, Verdict::Well));
}

#[test]
fn a_lease_is_renewed_for_as_long_as_the_turn_lasts() {
    let mut world = asking(guarded(), "a");
    world.answer_store();
    for renewal in 1..=10 {
        assert_eq!((world.wait(), world.now), (DeadlineReason::Lease, BEGIN + renewal * 5_000));
    }
    assert_eq!(world.told.iter().filter(|(_, op)| matches!(op, Op::Renew { .. })).count(), 10);
    assert_eq!(world.wait(), DeadlineReason::Turn);
    assert_eq!((world.failure(), verdict(&world)), ((504, "upstream_timeout".into()), Verdict::Failed));
}

#[test]
fn what_openclaw_says_decides_the_verdict() {
    type Case = (u16, &'static [(&'static str, &'static str)], String, Verdict);
    let cases: [Case; 5] = [
        (400, &[], error_of("bad", "invalid_request_error"), Verdict::Well),
        (502, &[], error_of("upstream provider error", "api_error"), Verdict::Failed),
        (401, &[], error_of("401 wrong key", "authentication_error"), Verdict::FailedFor { ms: 30_000 }),
        (503, &[("retry-after", "1")], error_of("restarting", "service_unavailable"), Verdict::Failed),
        (200, &[], "{".into(), Verdict::Failed),
    ];
    for (status, headers, body, expected) in cases {
        let mut world = asking(guarded(), "a");
        world.answer_store();
        world.whole(status, headers, &body);
        assert_eq!(verdict(&world), expected, "{status} {body}");
    }
    let mut gone = asking(guarded(), "a");
    gone.answer_store();
    gone.give(Input::ClientGone);
    assert_eq!(verdict(&gone), Verdict::Unknown);
}

fn error_of(message: &str, kind: &str) -> String {
    super::upstream::error(message, kind)
}

#[test]
fn a_full_upstream_is_waited_for_and_the_place_is_kept() {
    let mut policy = guarded();
    policy.admission.slots = 1;
    let mut first = asking(policy.clone(), "a");
    first.answer_store();
    let mut head = chat_head();
    head.headers.retain(|(name, _)| name != "x-trace-id");
    let mut second = World::begin_in(policy, head, BEGIN + 1, first.store.clone());
    second.ticket_of_its_own();
    second.send_body(&question(false));
    second.answer_store();
    assert!(second.watched.is_some() && second.fetches.is_empty());
    assert_eq!(second.wait(), DeadlineReason::Queue);
    assert_eq!(second.now, BEGIN + 2_001);
    second.answer_store();
    assert!(second.watched.is_some(), "still waiting");

    first.whole(200, &[], &completion("a", "stop"));
    let release = first.told.last().cloned().expect("the lease is given back");
    let woken = second.apply(&release.0, &release.1);
    assert_eq!(woken, 1, "the reducer says whom to wake");
    second.wake();
    second.answer_store();
    assert_eq!(second.fetches.len(), 1);
    second.whole(200, &[], &completion("b", "stop"));
    assert_eq!(second.record()["queued"], true);
}

#[test]
fn waiting_ends_with_the_turn_and_the_place_is_given_back() {
    let mut world = asking(guarded(), "a");
    let admitted = entered(Standing::Good);
    stored(&mut world, vec![admitted, Outcome::Queued { ahead: 3 }]);
    loop {
        match world.wait() {
            DeadlineReason::Queue => stored(&mut world, vec![Outcome::Queued { ahead: 1 }]),
            DeadlineReason::Turn => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((world.failure(), verdict(&world)), ((503, "queue_timeout".into()), Verdict::Unknown));
    assert!(world.fetches.is_empty());
}

#[test]
fn who_is_sent_away_learns_when_to_come_back() {
    use crate::state::admission::Refusal;
    for (reason, code) in [
        (Refusal::Full, "queue_full"),
        (Refusal::TooLate, "queue_full"),
        (Refusal::Unhealthy, "upstream_unavailable"),
    ] {
        let mut world = asking(guarded(), "a");
        let refused = Outcome::Refused { reason, retry_after_ms: 2_500, waiting: 7 };
        stored(&mut world, vec![entered(Standing::Good), refused]);
        assert_eq!(world.failure(), (503, code.into()));
        assert_eq!(world.header("retry-after"), Some("3"));
        assert_eq!(world.json()["error"]["queue"], json!({"waiting": 7}));
        assert!(world.told.is_empty(), "there is nothing to give back");
    }
}

#[test]
fn standings() {
    let block = Standing::Blocked { for_ms: 60_000 };
    let mut blocked = asking(guarded(), "a");
    stored(&mut blocked, vec![entered(block)]);
    assert_eq!(blocked.failure(), (429, "blocked".into()));
    assert_eq!(blocked.header("retry-after"), Some("60"));

    for body in [question(false), picture(false)] {
        let mut world = World::begin(guarded(), chat_head());
        world.send_body(&body);
        let restricted = entered(Standing::Restricted);
        stored(&mut world, vec![restricted, Outcome::Admitted]);
        let sent = world.sent_upstream();
        let first: &Value = sent["messages"].get(0).or(sent["input"].get(0)).expect("a message");
        assert_eq!(first["role"], "system");
        assert!(
            first["content"].as_str().is_some_and(|text| text.contains("Do not call any tool")),
            "{sent}"
        );
        assert_eq!(world.status_so_far(), None);
        // The same where it is the address that is restricted.
        let mut world = World::begin(guarded(), chat_head());
        stored(&mut world, vec![entered(Standing::Restricted)]);
        world.send_body(&body);
        stored(&mut world, vec![entered(Standing::Good), Outcome::Admitted]);
        assert!(world.sent_upstream().to_string().contains("Do not call any tool"));
    }
}

#[test]
fn mistakes_are_counted_and_guessing_keys_is_answered_with_nothing() {
    let mut wrong = chat_head();
    wrong.headers.retain(|(name, _)| name != "x-api-key");
    wrong.headers.push(("x-api-key".into(), "guess".into()));
    let mut store = std::collections::BTreeMap::new();
    let mut seen = Vec::new();
    for _ in 0..26 {
        let mut world = World::begin_in(guarded(), wrong.clone(), BEGIN, store);
        world.answer_store();
        seen.push(world.failure().1);
        store = world.store;
    }
    assert_eq!((seen[0].as_str(), seen[22].as_str()), ("unauthorized", "unauthorized"));
    assert_eq!(seen[25], "blocked");
    // The right key from there is answered the same: a guesser learns nothing.
    let blocked = World::begin_in(guarded(), wrong.clone(), BEGIN, store.clone());
    let mut long = chat_head();
    long.content_length = Some(u64::MAX);
    let mut labelled = chat_head();
    labelled.headers[0].1 = "text/plain".into();
    let operators = ["/v1/mini/token", "/v1/admin/sessions/revoke"]
        .map(|path| RequestHead { path: path.into(), ..chat_head() });
    let mut policy = guarded();
    policy.login.server_keys.clone_from(&policy.api_keys);
    policy.admin_keys.clone_from(&policy.api_keys);
    for head in [chat_head(), long, labelled].into_iter().chain(operators) {
        let mut right = World::begin_in(policy.clone(), head.clone(), BEGIN, store.clone());
        assert_eq!((right.wants_body, right.done), (None, blocked.done), "not even its body is read");
        right.answer_store();
        assert_eq!(right.failure().1, "blocked", "{head:?}");
        assert_eq!(right.wants_body, None);
    }

    let mut invalid = World::begin(guarded(), chat_head());
    invalid.send_body(&json!({"messages": []}));
    assert!(matches!(invalid.told.as_slice(), [(key, Op::Strike(_))] if key.starts_with("addr:")));
}

#[test]
fn a_key_has_a_limit_of_its_own_and_a_model_its_price() {
    let mut policy = guarded();
    policy.rates.key = Some(Rate { per_minute: 60, burst: 2 });
    policy.costs = vec![("openclaw".into(), 20)];
    let mut world = asking(policy.clone(), "a");
    world.answer_store();
    world.whole(200, &[], &completion("a", "stop"));
    assert_eq!(world.header("ratelimit-remaining"), Some("0"), "the model costs the whole bucket");
    let mut store = world.store;
    for (user, expected) in [("b", 200), ("c", 429)] {
        let mut world = World::begin_in(policy.clone(), chat_head(), BEGIN, store);
        let mut body = question(false);
        body["user"] = user.into();
        world.send_body(&body);
        world.answer_store();
        if expected == 200 {
            world.whole(200, &[], &completion("a", "stop"));
        }
        assert_eq!(world.status(), expected, "{user}");
        store = world.store;
    }
}

#[test]
fn turns_of_one_conversation_follow_each_other() {
    let mut policy = guarded();
    policy.chat.memory = Memory::Gateway;
    let world = asking(policy, "a");
    let admit = world.asked[0].1.iter().find_map(|(_, op)| match op {
        Op::Admit(admit) => Some(*admit),
        _ => None,
    });
    assert!(admit.expect("a lease is asked for").session.is_some());
}

#[test]
fn the_addresses_of_one_ipv6_subscriber_are_one() {
    let key = |peer: &str| {
        let world = World::begin(guarded(), RequestHead { peer: peer.into(), ..chat_head() });
        world.asked[0].1[0].0.clone()
    };
    assert_eq!(key("2001:db8:1:2:3::4"), key("2001:db8:1:2:ffff::9"));
    assert_ne!(key("2001:db8:1:2::1"), key("2001:db8:1:3::1"));
    assert_ne!(key("203.0.113.9"), key("203.0.113.10"));
    // As a proxy that listens on both families writes them, and one that adds the port.
    assert_eq!(key("::ffff:203.0.113.9"), key("203.0.113.9"));
    assert_ne!(key("::ffff:203.0.113.9"), key("::ffff:203.0.113.10"));
    assert_eq!(key("203.0.113.9:50000"), key("203.0.113.9"));
    assert_eq!(key("[2001:db8:1:2::1]:443"), key("2001:db8:1:2::1"));
}
