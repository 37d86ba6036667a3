//! Turns that outlive their connection: keys, runners, watchers, takeovers.

use std::collections::BTreeMap;

use serde_json::{Value, json};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::{
    ask::{ask_head, configured, events},
    upstream::{completion, completion_stream},
    world::{BEGIN, World, chat_head, get, guarded},
};
use crate::{
    policy::Policy,
    seam::{DeadlineReason, FetchFailure, Input, RequestHead},
    state::{Op, turn::TurnOp},
};

type Store = BTreeMap<String, Vec<u8>>;

/// A model that is asked again after a crash.
pub(super) fn harmless() -> Policy {
    let mut policy = configured();
    for model in &mut policy.catalog.models {
        model.side_effects = false;
    }
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.model = "strong".into());
    policy
}

fn with(mut head: RequestHead, name: &str, value: &str) -> RequestHead {
    head.headers.push((name.into(), value.into()));
    head
}

pub(super) fn keyed() -> RequestHead {
    with(ask_head(), "idempotency-key", "k-1")
}

fn question(stream: bool) -> Value {
    json!({"intent": "qa", "input": {"text": "你好"}, "stream": stream})
}

/// A client that waits for a turn of its own.
pub(super) fn client(policy: &Policy, head: RequestHead, body: &Value, now: u64, store: &Store) -> World {
    let mut world = World::begin_with(policy.clone(), head, now, store.clone(), 0x31);
    world.send_body(body);
    settle(&mut world);
    world
}

/// That cell, as a host of another version would have left it.
pub(super) fn of_another_version(store: &Store, key: &str) -> Store {
    let mut store = store.clone();
    let cell = store.get_mut(key).expect("a cell");
    let json = memchr::memmem::find(cell, br#"{"request_id""#).expect("what lasts");
    let length: [u8; 4] = cell[json - 4..json].try_into().expect("four bytes");
    // The first byte after it is the version.
    cell[json + u32::from_le_bytes(length) as usize] ^= 0x80;
    store
}

/// The store answers until nothing is asked any more.
pub(super) fn settle(world: &mut World) {
    while !world.asked.is_empty() {
        world.answer_store();
    }
}

/// The only turn's key.
pub(super) fn only_turn(store: &Store) -> String {
    let mut keys = store.keys().filter(|key| key.starts_with("turn:"));
    let key = keys.next().expect("a turn").clone();
    assert!(keys.next().is_none(), "one turn");
    key
}

/// A runner that has taken the turn up.
pub(super) fn runner(policy: &Policy, store: &Store, now: u64, entropy: u8) -> World {
    let mut world = World::alarm(policy.clone(), &only_turn(store), now, store.clone(), entropy);
    settle(&mut world);
    world
}

/// What a turn's own client finds of it.
pub(super) fn look(policy: &Policy, store: &Store, now: u64, path: &str) -> World {
    let id = only_turn(store).replace("turn:", "");
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let head = RequestHead {
        headers: ask_head().headers,
        query: query.into(),
        ..get(&format!("/v1/mini/turns/{id}{path}"))
    };
    let mut world = World::begin_in(policy.clone(), head, now, store.clone());
    settle(&mut world);
    world
}

pub(super) fn stream_to_end(world: &mut World, text: &str) {
    world.opens_stream();
    world.lines(&completion_stream(&[text]));
    world.closes();
    settle(world);
}

#[test]
fn an_answer_after_a_refusal_is_an_answer() {
    let policy = harmless();
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens(503, &[("retry-after", "1")]);
    run.closes();
    while run.fetches.len() < 2 {
        settle(&mut run);
        run.wait();
    }
    stream_to_end(&mut run, "你好");
    assert_eq!(look(&policy, &run.store, run.now, "").json()["state"], "done");
    let again = client(&policy, keyed(), &question(false), run.now, &run.store);
    assert_eq!(again.status(), 200, "{}", again.text());
}

#[test]
fn who_joins_does_not_touch_the_body_of_who_began() {
    let mut policy = harmless();
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.attachments = true);
    let png =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
    let body = |trace: &str| {
        json!({
            "traceId": trace, "intent": "qa", "input": {"text": "看"},
            "attachments": [{"type": "image", "data": png}],
        })
    };
    let bodies = |store: &Store| -> Store {
        let bodies = store.iter().filter(|(key, _)| key.contains("body:"));
        bodies.map(|(key, value)| (key.clone(), value.clone())).collect()
    };
    let first = client(&policy, keyed(), &body("a"), BEGIN, &Store::new());
    let kept = bodies(&first.store);
    assert_eq!(kept.len(), 1, "{:?}", first.store.keys());
    let mut joined = World::begin_with(policy.clone(), keyed(), BEGIN + 10, first.store.clone(), 0x44);
    joined.send_body(&body("another-trace"));
    settle(&mut joined);
    let (own, others): (Store, Store) =
        bodies(&joined.store).into_iter().partition(|(key, _)| !kept.contains_key(key));
    assert_eq!(others, kept, "what the checkpoint points into stays as it was");
    assert!(own.values().all(Vec::is_empty), "its own is forgotten");
}

#[test]
fn what_a_model_began_to_answer_is_not_asked_again() {
    let policy = harmless();
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens_stream();
    run.lines("data: {\"error\":{\"message\":\"slow down\",\"type\":\"rate_limit_error\"}}\n\n");
    run.closes();
    settle(&mut run);
    assert!(run.done && run.fetches.len() == 1, "the agent may have acted");
    let again = client(&policy, keyed(), &question(false), run.now, &run.store);
    assert!(again.done && again.status() != 200, "it is the end of this key: {}", again.text());
}

#[test]
fn an_answer_that_did_not_fit_was_one_all_the_same() {
    let mut policy = harmless();
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.json = true);
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.whole(200, &[], &completion("no JSON", "stop"));
    settle(&mut run);
    assert_eq!(run.fetches.len(), 2, "it is asked for a better one");
    while !run.done {
        match run.deadline {
            Some((_, DeadlineReason::Backoff)) => drop(run.wait()),
            _ => run.breaks(FetchFailure::Connect),
        }
        settle(&mut run);
    }
    let again = client(&policy, keyed(), &question(false), run.now, &run.store);
    assert!(again.done && again.status() != 200, "the agent may have acted: {}", again.text());
}

#[test]
fn whoever_cannot_tell_asks_only_those_again_who_only_speak() {
    for side_effects in [false, true] {
        let mut policy = harmless();
        policy.catalog.models.iter_mut().for_each(|model| model.side_effects = side_effects);
        let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
        let mut run = runner(&policy, &first.store, BEGIN, 0x32);
        settle(&mut run);
        run.breaks(FetchFailure::Unclear);
        settle(&mut run);
        assert_eq!(run.done, side_effects);
    }
}

#[test]
fn a_request_with_a_key_is_run_once_and_its_answer_given_again() {
    let policy = harmless();
    let mut first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    assert!(first.fetches.is_empty() && !first.done && first.watched.is_some());
    assert_eq!(first.alarm_of(&only_turn(&first.store)), Some(BEGIN), "somebody runs it at once");
    let mut run = runner(&policy, &first.store, BEGIN + 5, 0x32);
    assert_eq!(run.fetches.len(), 1);
    assert!(run.head.is_none());
    // A second one, from another connection, finds it running.
    let mut second = client(&policy, keyed(), &question(false), BEGIN + 10, &run.store);
    assert!(second.fetches.is_empty() && second.watched.is_some());
    stream_to_end(&mut run, "好");
    assert!(run.done && run.head.is_none() && run.alarm_of(&only_turn(&run.store)).is_none());
    for waiting in [&mut first, &mut second] {
        waiting.store = run.store.clone();
        waiting.wake();
        settle(waiting);
        assert_eq!((waiting.status(), &waiting.json()["answer"]), (200, &json!("好")));
        assert_eq!(waiting.header("ratelimit-limit"), Some("20"));
    }
    assert_eq!(first.json(), second.json());
    assert_eq!((&first.record()["turn"], &second.record()["turn"]), (&json!("begun"), &json!("joined")));
    assert_eq!((&run.record()["event"], &run.record()["outputTokens"]), (&json!("turn"), &json!(5)));
    // Later it is given again, and another body is another request.
    let again = client(&policy, keyed(), &question(false), BEGIN + 60_000, &run.store);
    assert_eq!((again.status(), again.json()), (200, first.json()));
    let mut other = question(false);
    other["input"]["text"] = "别的".into();
    let other = client(&policy, keyed(), &other, BEGIN + 60_000, &run.store);
    assert_eq!(other.failure(), (422, "idempotency_conflict".into()));
    // As a stream it is replayed as a stream.
    let stream = client(&policy, keyed(), &question(true), BEGIN + 60_000, &run.store);
    let names: Vec<String> = events(&stream).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["meta", "delta", "done"]);
    let after_a_day = client(&policy, keyed(), &question(false), BEGIN + 90_000_000, &run.store);
    assert!(after_a_day.watched.is_some(), "by then it is a new one");
}

#[test]
fn the_body_may_name_the_request_and_a_name_has_a_form() {
    let policy = harmless();
    let mut body = question(false);
    body["requestId"] = "k-1".into();
    let first = client(&policy, ask_head(), &body, BEGIN, &Store::new());
    let second = client(&policy, keyed(), &question(false), BEGIN, &first.store);
    assert_eq!(first.store.len(), second.store.len(), "it is the same turn");
    for bad in ["", " ", "有", &"k".repeat(129)] {
        body["requestId"] = bad.into();
        let mut world = World::begin(policy.clone(), ask_head());
        world.send_body(&body);
        assert_eq!(world.failure(), (400, "idempotency_key_invalid".into()), "{bad}");
    }
}

#[test]
fn a_turn_with_a_key_goes_on_without_its_client_and_one_without_ends_with_it() {
    let policy = harmless();
    let mut first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    first.give(Input::ClientGone);
    assert!(first.told.is_empty() && first.done);
    let mut policy = policy;
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.tools = vec!["any".into()]);
    let mut attached = client(&policy, ask_head(), &question(true), BEGIN, &Store::new());
    let mut run = runner(&policy, &attached.store, BEGIN, 0x32);
    attached.store = run.store.clone();
    attached.give(Input::ClientGone);
    assert!(matches!(attached.told.as_slice(), [(_, Op::Turn(TurnOp::Cancel { .. }))]));
    run.store = attached.store.clone();
    run.wake();
    settle(&mut run);
    assert!(run.done && run.cancelled.len() == 1, "OpenClaw's run is aborted");
    assert_eq!(run.record()["code"], "turn_cancelled");
    assert_eq!(look(&policy, &run.store, BEGIN, "").json()["state"], "cancelled");
}

#[test]
fn who_prefers_to_come_back_is_told_where() {
    let policy = harmless();
    let head = with(ask_head(), "prefer", "wait=5, respond-async");
    let accepted = client(&policy, head, &question(false), BEGIN, &Store::new());
    let id = only_turn(&accepted.store).replace("turn:", "");
    assert_eq!((accepted.status(), &accepted.json()["state"]), (202, &json!("queued")));
    assert_eq!(accepted.header("location"), Some(format!("/v1/mini/turns/{id}").as_str()));
    assert_eq!(accepted.header("retry-after"), Some("2"));
    assert_eq!(look(&policy, &accepted.store, BEGIN + 9, "").json()["state"], "queued");
    let mut run = runner(&policy, &accepted.store, BEGIN + 10, 0x32);
    run.opens_stream();
    run.lines(&completion_stream(&["一半"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut run);
    let running = look(&policy, &run.store, BEGIN + 20, "").json();
    assert_eq!((&running["state"], &running["partial"]), (&json!("running"), &json!("一半")));
    // Who sends it again is told how it stands, and then its answer.
    let again = with(with(keyed(), "prefer", "respond-async"), "accept-language", "en");
    let accepted = client(&policy, again.clone(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &accepted.store, BEGIN + 10, 0x33);
    let joined = client(&policy, again.clone(), &question(false), BEGIN + 20, &run.store);
    assert_eq!((joined.status(), &joined.json()["state"]), (202, &json!("running")));
    stream_to_end(&mut run, "好");
    let joined = client(&policy, again, &question(true), BEGIN + 30, &run.store);
    assert_eq!((joined.status(), &joined.json()["answer"]), (200, &json!("好")));
}

#[test]
fn a_long_poll_waits_for_the_end() {
    let policy = harmless();
    let head = with(ask_head(), "prefer", "respond-async");
    let run = client(&policy, head, &question(false), BEGIN, &Store::new());
    let run = runner(&policy, &run.store, BEGIN + 10, 0x32);
    let mut poll = look(&policy, &run.store, BEGIN + 20, "?wait=20");
    assert!(!poll.done);
    poll.now += 20_000;
    while !poll.done {
        poll.wait();
        settle(&mut poll);
    }
    assert_eq!(poll.json()["state"], "running");
}

#[test]
fn a_profile_may_set_how_long_a_client_waits() {
    let mut policy = harmless();
    policy.catalog.profiles.iter_mut().for_each(|profile| profile.sync_deadline_ms = Some(3_000));
    let mut waiting = client(&policy, ask_head(), &question(false), BEGIN, &Store::new());
    let run = runner(&policy, &waiting.store, BEGIN, 0x32);
    waiting.store = run.store.clone();
    while !waiting.done {
        waiting.wait();
        settle(&mut waiting);
    }
    assert_eq!((waiting.status(), waiting.now - BEGIN), (202, 3_000));
    assert_eq!(waiting.json()["state"], "running");
}

#[test]
fn a_stream_is_rejoined_where_it_was_left_and_gives_the_same_text() {
    let policy = harmless();
    let mut first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    let mut stores = vec![run.store.clone()];
    run.opens_stream();
    let pieces: Vec<String> = (0..12).map(|n| format!("第{n}段，")).collect();
    let texts: Vec<&str> = pieces.iter().map(String::as_str).collect();
    for line in completion_stream(&texts).split_inclusive("\n\n") {
        run.now += 60;
        run.lines(line);
        settle(&mut run);
        stores.push(run.store.clone());
    }
    run.closes();
    settle(&mut run);
    stores.push(run.store.clone());
    for store in &stores {
        first.store = store.clone();
        if first.watched.is_some() {
            first.wake();
            settle(&mut first);
        }
    }
    let whole = first.text();
    assert!(first.done && whole.contains("event: done"));
    let all: Vec<&str> = whole.split_inclusive("\n\n").collect();
    assert!(all.len() > 10, "{whole}");
    for cut in 0..=all.len() {
        let seen: String = all[..cut].concat();
        let number = seen.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap_or("0");
        let id = only_turn(&run.store).replace("turn:", "");
        let mut head = get(&format!("/v1/mini/turns/{id}/events"));
        head.headers = ask_head().headers;
        head.headers.push(("last-event-id".into(), number.into()));
        let mut rejoined = World::begin_in(policy.clone(), head, BEGIN + 1, run.store.clone());
        settle(&mut rejoined);
        assert_eq!(format!("{seen}{}", rejoined.text()), whole, "cut at {cut}");
        assert!(rejoined.done);
    }
}

#[test]
fn a_stream_ends_itself_before_the_phone_does() {
    let policy = harmless();
    let mut first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens_stream();
    run.lines(&completion_stream(&["一"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut run);
    first.store = run.store.clone();
    first.wake();
    settle(&mut first);
    while !first.done {
        first.wait();
        settle(&mut first);
    }
    assert_eq!(first.now - BEGIN, 50_000);
    let (name, data) = events(&first).pop().expect("a last event");
    assert_eq!((name.as_str(), &data["lastEventId"]), ("continue", &json!("2")));
}

#[test]
fn another_runner_takes_over_from_the_begin_where_nothing_can_have_been_done() {
    let policy = harmless();
    let first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut dead = runner(&policy, &first.store, BEGIN, 0x32);
    dead.opens_stream();
    dead.lines(&completion_stream(&["旧"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut dead);
    let mut next = runner(&policy, &dead.store, BEGIN + 15_000, 0x33);
    assert_eq!(next.fetches.len(), 1);
    stream_to_end(&mut next, "新");
    let done = look(&policy, &next.store, BEGIN + 15_000, "").json();
    assert_eq!((&done["state"], &done["answer"]), (&json!("done"), &json!("新")));
    assert_eq!(next.record()["takeover"], true);
    let again = client(&policy, keyed(), &question(true), BEGIN + 16_000, &next.store);
    let ids: Vec<&str> =
        again.chunks.iter().map(|chunk| std::str::from_utf8(chunk).expect("UTF-8")).collect();
    let ids: Vec<String> =
        ids.concat().lines().filter_map(|line| line.strip_prefix("id: ").map(str::to_owned)).collect();
    assert_eq!(ids, ["1", "2", "1000001", "1000002", "1000003"], "a second meta says: forget the text");
    // The dead one was only slow: the store does not know it any more.
    dead.store = next.store.clone();
    dead.now = BEGIN + 15_001;
    dead.lines(&completion_stream(&["旧的"]));
    settle(&mut dead);
    assert!(dead.done && dead.record()["lost"] == true, "{:?}", dead.records);
}

#[test]
fn a_stream_ends_with_an_end_whoever_comes_to_it() {
    let mut policy = harmless();
    let first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut dead = runner(&policy, &first.store, BEGIN, 0x32);
    dead.opens_stream();
    dead.lines(&completion_stream(&["旧"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut dead);
    // The next one cannot even begin.
    policy.catalog.profiles.clear();
    let next = runner(&policy, &dead.store, BEGIN + 15_000, 0x33);
    assert!(next.done && next.fetches.is_empty());
    let policy = harmless();
    for after in ["0", "2"] {
        let id = only_turn(&next.store).replace("turn:", "");
        let mut head = get(&format!("/v1/mini/turns/{id}/events"));
        head.headers = ask_head().headers;
        let head = with(head, "last-event-id", after);
        let mut rejoined = World::begin_in(policy.clone(), head, BEGIN + 15_000, next.store.clone());
        settle(&mut rejoined);
        let (name, data) = events(&rejoined).pop().expect("an end");
        assert_eq!((name.as_str(), &data["error"]["code"]), ("error", &json!("interrupted")));
    }
    let whole = client(&policy, keyed(), &question(false), BEGIN + 16_000, &next.store);
    assert_eq!(whole.failure(), (502, "interrupted".into()));
}

#[test]
fn what_an_agent_may_have_done_is_not_asked_for_again() {
    let mut policy = harmless();
    policy.catalog.models.iter_mut().for_each(|model| model.side_effects = true);
    let first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let dead = runner(&policy, &first.store, BEGIN, 0x32);
    assert_eq!(dead.fetches.len(), 1);
    let next = runner(&policy, &dead.store, BEGIN + 15_000, 0x33);
    assert!(next.fetches.is_empty() && next.done);
    let failed = look(&policy, &next.store, BEGIN + 15_000, "").json();
    assert_eq!((&failed["state"], &failed["error"]["code"]), (&json!("failed"), &json!("interrupted")));
}

#[test]
fn a_checkpoint_that_kills_its_runners_is_given_up() {
    let policy = harmless();
    let patient = with(keyed(), "prefer", "respond-async");
    let first = client(&policy, patient, &question(false), BEGIN, &Store::new());
    let (mut store, mut now) = (first.store.clone(), BEGIN);
    for entropy in 0..20 {
        let dead = runner(&policy, &store, now, 0x40 + entropy);
        assert!(!dead.done);
        (store, now) = (dead.store.clone(), now + 15_000);
    }
    let last = runner(&policy, &store, now, 0x60);
    assert!(last.done);
    assert_eq!(look(&policy, &last.store, now, "").json()["error"]["code"], "interrupted");
}

#[test]
fn whoever_cancels_stops_the_run() {
    let policy = harmless();
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    let id = only_turn(&run.store).replace("turn:", "");
    let head = RequestHead {
        method: "DELETE".into(),
        headers: ask_head().headers,
        ..get(&format!("/v1/mini/turns/{id}"))
    };
    let mut cancel = World::begin_in(policy.clone(), head.clone(), BEGIN + 9, run.store.clone());
    settle(&mut cancel);
    assert!(!cancel.done, "it waits for the end, for a moment");
    run.store = cancel.store.clone();
    run.wake();
    settle(&mut run);
    assert!(run.done && run.cancelled.len() == 1);
    cancel.store = run.store.clone();
    cancel.wake();
    settle(&mut cancel);
    assert_eq!(cancel.json()["state"], "cancelled");
    let stranger = RequestHead { headers: vec![("x-api-key".into(), "another".into())], ..head };
    let mut stranger = World::begin_in(policy, stranger, BEGIN + 9, run.store.clone());
    settle(&mut stranger);
    assert_eq!(stranger.failure().0, 401);
}

#[test]
fn a_refusal_before_the_first_event_is_a_refusal() {
    let policy = harmless();
    let mut first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    for _ in 0..3 {
        run.breaks(FetchFailure::Connect);
        if run.deadline.is_some_and(|(_, reason)| reason == DeadlineReason::Backoff) {
            run.wait();
        }
        settle(&mut run);
    }
    assert!(run.done);
    first.store = run.store.clone();
    first.wake();
    settle(&mut first);
    assert_eq!(first.failure(), (502, "upstream_unreachable".into()));
    // Nobody has seen anything of it: the same key may try again, and its events have other numbers.
    let again = client(&policy, keyed(), &question(true), BEGIN + 20_000, &run.store);
    assert!(again.watched.is_some());
    assert_eq!(again.alarm_of(&only_turn(&again.store)), Some(BEGIN + 20_000));
    let mut run = runner(&policy, &again.store, BEGIN + 20_000, 0x34);
    stream_to_end(&mut run, "好");
    assert_eq!(look(&policy, &run.store, BEGIN + 21_000, "").json()["answer"], "好");
    assert!(look(&policy, &run.store, BEGIN + 21_000, "/events").text().starts_with("id: 1000001\n"));
    // What a model may have seen stays as it is.
    let first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens(500, &[]);
    run.closes();
    settle(&mut run);
    let again = client(&policy, keyed(), &question(true), BEGIN + 20_000, &run.store);
    assert_eq!(again.failure(), (502, "upstream_error".into()));
}

#[test]
fn without_a_store_nothing_is_begun_that_could_be_done_twice() {
    let mut world = World::begin(harmless(), keyed());
    world.send_body(&question(false));
    world.break_store();
    assert_eq!(world.failure(), (503, "store_unavailable".into()));
    assert!(world.fetches.is_empty());
}

#[test]
fn a_runner_keeps_its_turn_while_the_store_is_away_for_a_moment_and_no_longer() {
    let policy = harmless();
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.opens_stream();
    run.lines(&completion_stream(&["一"]).split_inclusive("\n\n").take(2).collect::<String>());
    run.break_store();
    assert!(!run.done);
    assert_eq!(run.wait(), DeadlineReason::Run);
    settle(&mut run);
    stream_rest(&mut run);
    assert_eq!(look(&policy, &run.store, run.now, "").json()["answer"], "一");
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    for _ in 0..40 {
        if run.done {
            break;
        }
        run.break_store();
        if !run.done {
            run.wait();
        }
    }
    assert!(run.done && run.now < BEGIN + 15_000 && run.cancelled.len() == 1, "{}", run.now - BEGIN);
}

fn stream_rest(run: &mut World) {
    run.lines(&completion_stream(&["一"]).split_inclusive("\n\n").skip(2).collect::<String>());
    run.closes();
    settle(run);
}

#[test]
fn chat_takes_keys_too() {
    let policy = harmless();
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let head = with(chat_head(), "idempotency-key", "k-2");
    let mut first = client(&policy, head.clone(), &body, BEGIN, &Store::new());
    let mut run = runner(&policy, &first.store, BEGIN, 0x32);
    run.whole(200, &[], &completion("好", "stop"));
    settle(&mut run);
    first.store = run.store.clone();
    first.wake();
    settle(&mut first);
    assert_eq!(first.json()["choices"][0]["message"]["content"], "好");
    let again = client(&policy, head, &body, BEGIN + 9, &run.store);
    assert_eq!(again.json(), first.json());
}

#[test]
fn another_version_ends_a_stream_as_its_client_knows_it() {
    let policy = configured();
    let first = client(&policy, keyed(), &question(true), BEGIN, &Store::new());
    let mut dead = runner(&policy, &first.store, BEGIN + 5, 0x32);
    dead.opens_stream();
    dead.lines(&completion_stream(&["草稿"]).split_inclusive("\n\n").take(2).collect::<String>());
    settle(&mut dead);
    let store = of_another_version(&dead.store, &only_turn(&dead.store));
    let next = runner(&policy, &store, BEGIN + 20_000, 0x33);
    assert!(next.done && next.fetches.is_empty());
    let told = events(&look(&policy, &next.store, BEGIN + 21_000, "/events"));
    let (kind, last) = told.last().expect("an event");
    assert_eq!((kind.as_str(), &last["error"]["code"]), ("error", &json!("interrupted")));
}

/// A host knows one listener for each ticket: with the same one for both each would wake the other,
/// again and again until there is a slot.
#[test]
fn a_runner_in_the_queue_listens_for_its_slot_and_for_its_end_apart() {
    let mut policy = harmless();
    policy.admission = guarded().admission;
    policy.admission.slots = 1;
    let first = client(&policy, keyed(), &question(false), BEGIN, &Store::new());
    let held = runner(&policy, &first.store, BEGIN, 0x32);
    assert_eq!(held.fetch().upstream, "openclaw");
    let head = with(ask_head(), "idempotency-key", "k-2");
    let second = client(&policy, head, &question(false), BEGIN + 1, &held.store);
    let is_new = |key: &&String| key.starts_with("turn:req_") && !held.store.contains_key(*key);
    let key = second.store.keys().find(is_new).expect("another turn").clone();
    let mut waits = World::alarm(policy, &key, BEGIN + 2, second.store.clone(), 0x34);
    settle(&mut waits);
    assert_eq!((waits.fetches.len(), waits.done, waits.listening.len()), (0, false, 2));
    for _ in 0..4 {
        waits.wait();
        settle(&mut waits);
        assert_eq!((waits.fetches.len(), waits.listening.len()), (0, 2));
    }
}
