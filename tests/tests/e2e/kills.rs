//! A host that dies at any moment loses no turn, and nothing is done twice.
//!
//! Clients begin turns whose model wants something paid back, agree as soon as they are asked, and
//! go on with the same keys while the host under them is killed again and again at random moments.
//! What counts at the end is what the tools' server has done. `MINIGATE_KILLS` says how often the
//! native host is killed over each of its stores (200 without it), `MINIGATE_KILLS_EDGE` how often
//! workerd is (40); `MINIGATE_KILLS_SEED` repeats a run's moments.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, future::join_all};
use minigate_tests::{
    client::Answer,
    hosts::Kind,
    media::{encode, png},
    turns::{Person, Story},
    upstream::Upstream,
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    Scenario, Scene, scenarios,
    stage::{Place, Stage, ask, id_of, wants},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![for &[Kind::Native]; killed_over_sqlite, killed_over_redis, asked_to_end];
    all.extend(scenarios![for &[Kind::Edge]; killed_over_objects]);
    all.extend(scenarios![what_an_agent_may_have_done_is_not_asked_again, what_was_attached_survives_a_kill]);
    for scenario in &mut all {
        scenario.limit = Duration::from_secs(600);
    }
    all
}

/// Turns that are under way together.
const AT_ONCE: usize = 24;
/// The longest that a host lives, in milliseconds. An isolate of workerd needs some of them to start.
fn longest_life(place: Place) -> u64 {
    if place == Place::Objects { 2_000 } else { 600 }
}
/// How long a turn may take once nobody is killed any more: a few leases of 15 s.
const LAST_TURNS: Duration = Duration::from_secs(120);

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(usual)
}

/// Numbers that look random, the same for the same seed (splitmix64).
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % most.max(1)
    }
}

/// Where the host is now; it moves with each of its lives.
#[derive(Clone, Debug)]
struct Somewhere {
    url: watch::Receiver<String>,
    person: Person,
}

impl Somewhere {
    fn now(&mut self) -> Person {
        let url = self.url.borrow_and_update().clone();
        self.person.at(&url)
    }

    /// The host does not answer: it may be somewhere else soon.
    async fn moved(&mut self) {
        drop(tokio::time::timeout(Duration::from_millis(250), self.url.changed()).await);
    }
}

/// A turn as its client wants it.
#[derive(Clone, Debug)]
struct Plan {
    order: String,
    tool: &'static str,
    /// It is read as a stream.
    stream: bool,
    body: Value,
}

impl Plan {
    fn new(place: Place, number: usize, random: &mut Random) -> Self {
        let order = format!("kill-{}-{number}.", place.name());
        let tool = if number.is_multiple_of(3) { "refund_once" } else { "refund" };
        let stream = number.is_multiple_of(4);
        let how = format!("slow={},lag={}", random.below(50), random.below(50));
        let mut body = wants("shop", tool, &order, &how);
        let text = body["input"]["text"].as_str().unwrap_or_default();
        body["input"]["text"] = json!(format!("{text}[[up:slow={}]]", random.below(25)));
        body["stream"] = json!(stream);
        Self { order, tool, stream, body }
    }
}

/// How a turn ended, and what the same request gives afterwards.
#[derive(Debug)]
struct End {
    plan: Plan,
    turn: Value,
    again: Value,
}

/// A client with a turn, over however many lives of the host.
async fn live_through(plan: Plan, mut host: Somewhere) -> End {
    let (id, told) = if plan.stream {
        stream_through(&plan, &mut host).await
    } else {
        (id_of(&repeat(&plan, &[("prefer", "respond-async")], &mut host).await), None)
    };
    let path = format!("/v1/mini/turns/{id}?wait=2");
    let turn = loop {
        let Ok(answer) = host.now().send("GET", &path, &[], None).await else {
            host.moved().await;
            continue;
        };
        assert_ne!(answer.status, 404, "the turn of {} is lost: {}", plan.order, answer.text);
        let turn = answer.json();
        match turn["state"].as_str() {
            Some("needs_approval") => agree(&turn["approval"]["approvalId"], &mut host).await,
            Some("done" | "failed" | "expired" | "cancelled") => break turn,
            Some(_) => {}
            None => host.moved().await,
        }
    };
    if let Some(told) = told {
        assert_eq!(turn["answer"], told, "the stream of {} said something else: {turn}", plan.order);
    }
    let again = repeat(&plan, &[], &mut host).await.json();
    End { plan, turn, again }
}

/// The request, as a whole one, until there is an answer that the store gave.
async fn repeat(plan: &Plan, more: &[(&str, &str)], host: &mut Somewhere) -> Answer {
    let mut body = plan.body.clone();
    body["stream"] = json!(false);
    let headers = [&[("idempotency-key", plan.order.as_str())][..], more].concat();
    loop {
        let answer = host.now().send("POST", "/v1/mini/ask", &headers, Some(&body)).await;
        match answer {
            Ok(answer) if answer.error().1 != "store_unavailable" => return answer,
            _ => host.moved().await,
        }
    }
}

/// The same as a stream, read to its end over all breaks; gives the turn's id, and the answer when
/// there is one.
async fn stream_through(plan: &Plan, host: &mut Somewhere) -> (String, Option<String>) {
    let headers = [("idempotency-key", plan.order.as_str())];
    let mut story = Story::default();
    let mut id: Option<String> = None;
    loop {
        let person = host.now();
        let response = match &id {
            None => person.open("POST", "/v1/mini/ask", &headers, Some(&plan.body)).await,
            Some(id) => person.events(id, &story.last).await,
        };
        let Ok(response) = response else {
            host.moved().await;
            continue;
        };
        if response.status() != 200 {
            // A refusal before the first event is an answer; the turn tells which.
            let answer = minigate_tests::client::whole(response).await;
            if answer.error().1 == "store_unavailable" {
                host.moved().await;
                continue;
            }
            return (id.unwrap_or_else(|| id_of(&answer)), None);
        }
        let found = response.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        id = id.or_else(|| found.map(str::to_owned));
        let mut chunks = response.bytes_stream();
        while let Some(Ok(chunk)) = chunks.next().await {
            story.push(std::str::from_utf8(&chunk).expect("whole characters"));
        }
        if let Some((name, _)) = story.end() {
            return (id.expect("the turn's id"), (name == "done").then(|| story.answer()));
        }
        if story.goes_on {
            let asked = story.events().into_iter().rev().find(|(name, _)| name == "approval");
            if let Some((_, data)) = asked {
                agree(&data["approvalId"], host).await;
            }
        }
        story.cut();
    }
}

/// Says yes, until the host has heard it or does not ask any more.
async fn agree(id: &Value, host: &mut Somewhere) {
    let path = format!("/v1/mini/approvals/{}", id.as_str().unwrap_or_default());
    loop {
        match host.now().try_decide(&path, "approve").await {
            Ok(answer) if answer.status == 200 || answer.status == 410 => return,
            Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text),
            Err(_) => {}
        }
        host.moved().await;
    }
}

/// What all turns came to.
#[derive(Debug, Default)]
struct Sum {
    turns: usize,
    done: usize,
    unknown: usize,
    given_up: usize,
    /// Turns that another runner took over.
    taken_over: usize,
}

impl Sum {
    fn add(&mut self, end: &End, stage: &Stage, upstream: &Upstream) {
        let End { plan, turn, again } = end;
        let order = plan.order.as_str();
        let (calls, times) = (stage.tools.calls(order), stage.tools.times_done(order));
        self.turns += 1;
        assert!(times <= 1, "{order} was done {times} times: {turn} {calls:?}");
        assert!(calls.iter().all(|call| call.key == calls[0].key), "{calls:?}");
        assert!(plan.tool == "refund_once" || calls.len() <= 1, "{order} was sent again: {turn} {calls:?}");
        let asked = upstream.seen(order).len();
        self.taken_over += usize::from(asked > 2 || calls.len() > 1);
        for key in ["answer", "actions", "error"] {
            assert_eq!(turn.get(key), again.get(key), "the same request has another answer: {turn} {again}");
        }
        if turn["state"] == "failed" {
            // Five runners died at one point, or the last one gave up while something was done.
            let code = turn["error"]["code"].as_str().unwrap_or_default();
            assert!(["interrupted", "action_unknown"].contains(&code), "{order}: {turn}");
            self.given_up += 1;
            return;
        }
        assert_eq!(turn["state"], "done", "{order}: {turn}");
        assert_eq!(turn["actions"].as_array().map(Vec::len), Some(1), "{order}: {turn}");
        match turn["actions"][0]["outcome"].as_str() {
            Some("done") => {
                assert_eq!(times, 1, "{order}: {turn}");
                let answer = turn["answer"].as_str().unwrap_or_default();
                assert!(answer.contains(&format!("receipt-{order}-1")), "{order}: {turn}");
                self.done += 1;
            }
            Some("unknown") => {
                assert_eq!(plan.tool, "refund", "{order} could have been sent again: {turn}");
                self.taken_over += usize::from(asked <= 2);
                self.unknown += 1;
            }
            other => panic!("{order} ended with {other:?}: {turn}"),
        }
    }
}

async fn killed(scene: &Scene, place: Place, kills: u64) {
    let usual = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let seed = number("MINIGATE_KILLS_SEED", usual.map_or(1, |time| time.as_secs()));
    let mut random = Random(seed);
    // Nothing but a person's end may end a turn here.
    let mut stage = Stage::start(scene, place, "kills", &[("TURN_TIMEOUT_MS", "600000")]).await;
    let (url, moves) = watch::channel(stage.host.url.clone());
    let host = Somewhere { url: moves, person: stage.person() };
    let (mut running, mut ends, mut begun) = (JoinSet::new(), Vec::new(), 0);
    let began = Instant::now();
    for _ in 0..kills {
        while let Some(end) = running.try_join_next() {
            ends.push(end.expect("a turn lives through it"));
        }
        while running.len() < AT_ONCE {
            running.spawn(live_through(Plan::new(place, begun, &mut random), host.clone()));
            begun += 1;
        }
        tokio::time::sleep(Duration::from_millis(random.below(longest_life(place)))).await;
        stage = stage.kill().await;
        url.send_replace(stage.host.url.clone());
    }
    let killing = began.elapsed();
    let last = async {
        while let Some(end) = running.join_next().await {
            ends.push(end.expect("a turn lives through it"));
        }
    };
    tokio::time::timeout(LAST_TURNS, last).await.expect("every turn comes to its end");
    let mut sum = Sum::default();
    for end in &ends {
        sum.add(end, &stage, scene.upstream());
    }
    eprintln!(
        "{}: seed {seed}, {kills} kills in {killing:.0?}, over after {:.0?}: {sum:?}",
        place.name(),
        began.elapsed()
    );
    assert_eq!(sum.turns, begun);
    // Where nothing was taken over, nothing was tried.
    assert!(kills < 20 || sum.taken_over > 0, "{sum:?}");
    assert!(sum.done * 2 > sum.turns && sum.given_up * 20 <= sum.turns, "{sum:?}");
    stage.stop().await;
}

async fn killed_over_sqlite(scene: Scene) {
    killed(&scene, Place::Sqlite, number("MINIGATE_KILLS", 200)).await;
}

async fn killed_over_redis(scene: Scene) {
    killed(&scene, Place::Redis, number("MINIGATE_KILLS", 200)).await;
}

async fn killed_over_objects(scene: Scene) {
    killed(&scene, Place::Objects, number("MINIGATE_KILLS_EDGE", 40)).await;
}

/// SIGTERM: what runs is brought to its end, and what waits for a person waits for the next host.
async fn asked_to_end(scene: Scene) {
    for place in Place::of(scene.kind) {
        let mut stage = Stage::start(&scene, *place, "ends", &[]).await;
        let asked = [("prefer", "respond-async")];
        let said = |number: usize| format!("ends-{}-{number}.", place.name());
        let bodies = (0..6).map(|number| {
            if number < 3 {
                ask(
                    "plain",
                    &format!("{} [[up:slow=150]][[up:text=it is not broken off here]]", said(number)),
                )
            } else {
                wants("shop", "refund", &said(number), "")
            }
        });
        let person = stage.person();
        let begun = join_all(bodies.map(async |body| id_of(&person.ask(&asked, &body).await))).await;
        for id in &begun[3..] {
            person.until(id, &["needs_approval"]).await;
        }
        scene.upstream().wait_for(&said(0), "the run", |_| true).await;
        stage = stage.restart().await;
        let person = stage.person();
        for (number, id) in begun.iter().enumerate() {
            if number >= 3 {
                let turn = person.turn(id).await;
                let path = format!("/v1/mini/approvals/{}", turn["approval"]["approvalId"].as_str().unwrap());
                assert_eq!(person.decide(&path, "approve").await.json()["decision"], "approved");
            }
            let done = person.until(id, &["done", "failed"]).await;
            assert_eq!(done["state"], "done", "{done}");
            let runs = scene.upstream().seen(&said(number)).len();
            assert_eq!(runs, if number < 3 { 1 } else { 2 }, "nothing was asked again");
            assert_eq!(stage.tools.times_done(&said(number)), usize::from(number >= 3));
        }
        stage.stop().await;
    }
}

async fn what_an_agent_may_have_done_is_not_asked_again(scene: Scene) {
    for place in Place::of(scene.kind) {
        let mut stage = Stage::start(&scene, *place, "agent", &[]).await;
        let text = stage.marker("agent");
        let body = ask("acting", &format!("{text} [[up:silent_after=2]][[up:text=0123456789abcdefghij]]"));
        let headers = [("idempotency-key", "agent-1"), ("prefer", "respond-async")];
        let id = id_of(&stage.person().ask(&headers, &body).await);
        scene.upstream().wait_for(&text, "the run", |seen| seen.pieces > 1).await;
        stage = stage.kill().await;
        let failed = stage.person().until(&id, &["failed", "done"]).await;
        assert_eq!(failed["error"]["code"], "interrupted", "{failed}");
        assert_eq!(stage.person().ask_keyed("agent-1", &body).await.error(), (502, "interrupted".into()));
        assert_eq!(scene.upstream().seen(&text).len(), 1);
        stage.stop().await;
    }
}

async fn what_was_attached_survives_a_kill(scene: Scene) {
    for place in Place::of(scene.kind) {
        let mut stage = Stage::start(&scene, *place, "attached", &[]).await;
        let text = stage.marker("attached");
        let picture = encode(&png(700_000));
        let mut body =
            ask("plain", &format!("{text} [[up:slow=1500]][[up:text=一二三四五六七八九十百千万]]"));
        body["attachments"] = json!([{"type": "image", "data": picture}]);
        let id = id_of(&stage.person().ask(&[("prefer", "respond-async")], &body).await);
        scene.upstream().wait_for(&text, "the run", |seen| seen.pieces > 1).await;
        stage = stage.kill().await;
        let done = stage.person().until(&id, &["failed", "done"]).await;
        assert_eq!(done["answer"], "一二三四五六七八九十百千万", "{done}");
        let seen = scene.upstream().seen(&text);
        assert_eq!(seen.len(), 2);
        for seen in &seen {
            assert!(std::str::from_utf8(&seen.raw).expect("JSON").contains(&picture), "the very bytes");
        }
        stage.stop().await;
    }
}
