//! Turns that outlive their connection: asked once however often they are sent, found again, and
//! read again from where their stream broke.

use std::{cell::RefCell, time::Duration};

use futures_util::{StreamExt as _, future::join_all};
use minigate_tests::{
    client::Answer,
    hosts::Kind,
    media::{encode, png},
    turns::{Person, Story},
    until,
};
use reqwest::Response;
use serde_json::{Value, json};

use crate::{
    Scenario, Scene, scenarios,
    stage::{PATIENCE, Place, Stage, ask, ask_stream, id_of},
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        a_key_is_run_once,
        a_turn_with_a_key_outlives_its_client,
        who_comes_back_is_told_where,
        whoever_cancels_stops_the_run,
        a_stream_is_rejoined_at_every_event,
        a_stream_says_that_it_goes_on,
        a_turn_is_its_owners_alone,
        what_was_attached_is_kept,
        chat_takes_keys,
    ];
    all.extend(scenarios![for &[Kind::Native]; without_its_store_nothing_is_begun]);
    all
}

/// Runs a scenario over each store of a host.
async fn on_each(scene: &Scene, name: &str, scenario: impl AsyncFn(&Scene, &Stage)) {
    for place in Place::of(scene.kind) {
        let stage = Stage::start(scene, *place, name, &[]).await;
        scenario(scene, &stage).await;
        stage.stop().await;
    }
}

/// An answer without what is only of its connection.
fn comparable(answer: &Answer) -> Value {
    let mut value = answer.json();
    for key in ["state", "traceId"] {
        value.as_object_mut().expect("an object").remove(key);
    }
    value
}

async fn a_key_is_run_once(scene: Scene) {
    on_each(&scene, "once", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("once"));
        let body = ask("plain", &format!("{text} [[up:slow=60]][[up:text=一次只做一件事情，不多也不少]]"));
        let answers = join_all((0..4).map(|_| person.ask_keyed("once-1", &body))).await;
        for answer in &answers {
            assert_eq!(answer.status, 200, "{}", answer.text);
            assert_eq!(answer.json()["answer"], "一次只做一件事情，不多也不少");
            assert_eq!(comparable(answer), comparable(&answers[0]));
        }
        let later = person.ask_keyed("once-1", &body).await;
        assert_eq!(comparable(&later), comparable(&answers[0]));
        let mut named = body.clone();
        named["requestId"] = json!("once-1");
        assert_eq!(comparable(&person.ask(&[], &named).await), comparable(&answers[0]));
        let other = person.ask_keyed("once-1", &ask("plain", "something else")).await;
        assert_eq!(other.error(), (422, "idempotency_conflict".into()));
        // As a stream it is shown as a stream.
        let mut streamed = body.clone();
        streamed["stream"] = json!(true);
        let mut story = Story::default();
        story.push(&person.ask_keyed("once-1", &streamed).await.text);
        assert_eq!(story.end().expect("an end").0, "done");
        assert_eq!(story.answer(), "一次只做一件事情，不多也不少");
        assert_eq!(scene.upstream().seen(&text).len(), 1);
        // The key is its owner's.
        let theirs = stage.stranger().ask_keyed("once-1", &body).await;
        assert_ne!(id_of(&theirs), id_of(&later));
        assert_eq!(scene.upstream().seen(&text).len(), 2);
    })
    .await;
}

async fn a_turn_with_a_key_outlives_its_client(scene: Scene) {
    on_each(&scene, "outlives", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("outlives"));
        for (streamed, key) in [(false, "gone-1"), (true, "gone-2")] {
            let said = format!("{key}-{text}");
            let mut body =
                ask("plain", &format!("{said} [[up:slow=80]][[up:text=all of the answer is here]]"));
            body["stream"] = json!(streamed);
            let leaves = {
                let (person, body) = (person.clone(), body.clone());
                tokio::spawn(async move { person.ask_keyed(key, &body).await })
            };
            scene.upstream().wait_for(&said, "the run", |seen| seen.pieces > 1).await;
            leaves.abort();
            body["stream"] = json!(false);
            let answer = person.ask_keyed(key, &body).await;
            assert_eq!(answer.json()["answer"], "all of the answer is here", "{}", answer.text);
            let seen = scene.upstream().seen(&said);
            assert_eq!((seen.len(), seen[0].aborted), (1, false));
        }
        // Without a key nobody would ever ask for it.
        let said = stage.marker("unkeyed");
        let body =
            ask_stream("shop", &format!("{said} [[up:silent_after=2]][[up:text=0123456789abcdefghij]]"));
        let leaves = person.open("POST", "/v1/mini/ask", &[], Some(&body)).await.expect("an answer");
        scene.upstream().wait_for(&said, "the run", |seen| seen.pieces > 1).await;
        drop(leaves);
        scene.upstream().wait_for_abort(&said).await;
    })
    .await;
}

async fn who_comes_back_is_told_where(scene: Scene) {
    on_each(&scene, "later", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("later"));
        let body = ask("plain", &format!("{text} [[up:slow=1500]][[up:text=a rather long answer comes]]"));
        let accepted = person.ask(&[("prefer", "respond-async")], &body).await;
        assert_eq!(
            (accepted.status, &accepted.json()["state"]),
            (202, &json!("queued")),
            "{}",
            accepted.text
        );
        let id = id_of(&accepted);
        assert_eq!(accepted.header("location"), format!("/v1/mini/turns/{id}"));
        assert_eq!(accepted.header("retry-after"), "2");
        let part = RefCell::new(Value::Null);
        until("a part", PATIENCE, async || {
            let turn = person.turn(&id).await;
            let is_there = turn["partial"].is_string();
            *part.borrow_mut() = turn;
            is_there
        })
        .await;
        let running = part.into_inner();
        assert_eq!(running["state"], "running", "{running}");
        let began = std::time::Instant::now();
        let done = person.get(&format!("/v1/mini/turns/{id}?wait=30")).await.json();
        assert_eq!((&done["state"], &done["answer"]), (&json!("done"), &json!("a rather long answer comes")));
        assert!(began.elapsed() < Duration::from_secs(25), "it waits for the end and no longer");
        assert_eq!(scene.upstream().seen(&text).len(), 1);

        let said = stage.marker("patient");
        let body = ask("patient", &format!("{said} [[up:slow=1500]][[up:text=a rather long answer comes]]"));
        let told = person.ask(&[], &body).await;
        assert_eq!(told.status, 202, "{}", told.text);
        let done = person.until(&id_of(&told), &["done", "failed"]).await;
        assert_eq!(done["answer"], "a rather long answer comes");
    })
    .await;
}

async fn whoever_cancels_stops_the_run(scene: Scene) {
    on_each(&scene, "cancel", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("cancel"));
        let body = ask("plain", &format!("{text} [[up:silent_after=2]][[up:text=0123456789abcdefghij]]"));
        let accepted =
            person.ask(&[("prefer", "respond-async"), ("idempotency-key", "cancel-1")], &body).await;
        let id = id_of(&accepted);
        scene.upstream().wait_for(&text, "the run", |seen| seen.pieces > 1).await;
        let cancelled = person.cancel(&id).await;
        assert_eq!(
            (cancelled.status, &cancelled.json()["state"]),
            (200, &json!("cancelled")),
            "{}",
            cancelled.text
        );
        scene.upstream().wait_for_abort(&text).await;
        assert_eq!(person.ask_keyed("cancel-1", &body).await.error(), (409, "turn_cancelled".into()));
        assert_eq!(person.cancel(&id).await.json()["state"], "cancelled");
        assert_eq!(scene.upstream().seen(&text).len(), 1);
    })
    .await;
}

/// Reads events until there are so many, or the stream ends; then the connection is cut.
async fn read(response: Response, story: &mut Story, most: usize) -> usize {
    let mut chunks = response.bytes_stream();
    let mut count = 0;
    while count < most {
        let Some(Ok(chunk)) = chunks.next().await else { break };
        // What came with the last event that is wanted was never read.
        for event in std::str::from_utf8(&chunk).expect("whole characters").split_inclusive("\n\n") {
            if count < most {
                count += story.push(event);
            }
        }
    }
    story.cut();
    count
}

/// A turn's events from its begin, as they are kept.
async fn whole_story(person: &Person, id: &str) -> Story {
    let mut story = Story::default();
    read(person.events(id, "0").await.expect("an answer"), &mut story, usize::MAX).await;
    story
}

const LONG: &str = "第一段，第二段，第三段，第四段，第五段，第六段，第七段，第八段，第九段，第十段，完了。";

/// One turn whose stream is cut after so many events, then after `again` more each time.
async fn cut_and_rejoined(stage: &Stage, person: &Person, cut: usize, again: usize) -> usize {
    let text = stage.marker(&format!("rejoin-{cut}-{again}"));
    let body = ask_stream("plain", &format!("{text} [[up:slow=15]][[up:text={LONG}]]"));
    let headers = [("idempotency-key", text.as_str())];
    let response = person.open("POST", "/v1/mini/ask", &headers, Some(&body)).await.expect("an answer");
    let id = response.headers().get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
    let mut story = Story::default();
    let mut count = read(response, &mut story, cut).await;
    // Who has seen nothing yet asks again with its key.
    let id = match id {
        Some(id) => id,
        None => {
            let mut looks = body.clone();
            looks["stream"] = json!(false);
            id_of(&person.ask_keyed(&text, &looks).await)
        }
    };
    while story.end().is_none() {
        let response = person.events(&id, &story.last).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let more = read(response, &mut story, again).await;
        assert!(more > 0, "nothing after {}: {}", story.last, story.text);
        count += more;
    }
    let whole = whole_story(person, &id).await;
    assert_eq!(story.text, whole.text, "cut after {cut}, then every {again}");
    assert_eq!(story.answer(), LONG);
    assert_eq!(person.turn(&id).await["answer"], LONG);
    count
}

async fn a_stream_is_rejoined_at_every_event(scene: Scene) {
    on_each(&scene, "rejoin", async |_, stage| {
        let person = stage.person();
        let count = cut_and_rejoined(stage, &person, usize::MAX, usize::MAX).await;
        assert!(count > 3, "{count} events");
        let cuts: Vec<usize> = (0..count).collect();
        for some in cuts.chunks(4) {
            join_all(some.iter().map(|cut| cut_and_rejoined(stage, &person, *cut, usize::MAX))).await;
        }
        // A network that breaks after every single event.
        cut_and_rejoined(stage, &person, 1, 1).await;
    })
    .await;
}

async fn a_stream_says_that_it_goes_on(scene: Scene) {
    // Longer than the 50 s after which a stream ends itself before `wx.request` does.
    let place = Place::of(scene.kind)[0];
    let stage = Stage::start(&scene, place, "goes-on", &[("TURN_TIMEOUT_MS", "90000")]).await;
    let (person, text) = (stage.person(), stage.marker("goes-on"));
    let long = "12345678".repeat(55);
    let body = ask_stream("plain", &format!("{text} [[up:slow=1000]][[up:text={long}]]"));
    let began = std::time::Instant::now();
    let response = person
        .open("POST", "/v1/mini/ask", &[("idempotency-key", "goes-on")], Some(&body))
        .await
        .expect("an answer");
    let text = response.text().await.expect("it ends in order");
    assert!((48..60).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    let mut story = Story::default();
    story.push(&text);
    assert!(story.goes_on && story.end().is_none(), "{text}");
    let told: Value = text
        .rsplit("data: ")
        .next()
        .and_then(|data| serde_json::from_str(data.trim()).ok())
        .expect("where to go on");
    assert_eq!(told["lastEventId"], story.last.as_str());
    let path = told["path"].as_str().expect("a path");
    let headers = [("last-event-id", story.last.as_str())];
    let rest = person.send("GET", path, &headers, None).await.expect("an answer");
    story.push(&rest.text);
    assert_eq!(story.answer(), long);
    assert_eq!(story.end().expect("an end").0, "done");
    stage.stop().await;
}

async fn a_turn_is_its_owners_alone(scene: Scene) {
    on_each(&scene, "owner", async |_, stage| {
        let (person, text) = (stage.person(), stage.marker("owner"));
        let id = id_of(&person.ask_keyed("owner-1", &ask("plain", &text)).await);
        let stranger = stage.stranger();
        let path = format!("/v1/mini/turns/{id}");
        let unknown = (404, "turn_unknown".to_owned());
        assert_eq!(stranger.get(&path).await.error(), unknown);
        assert_eq!(stranger.get(&format!("{path}/events")).await.error(), unknown);
        assert_eq!(stranger.cancel(&id).await.error(), unknown);
        assert_eq!(Person::with_key(&stage.host.url, "nobody").get(&path).await.status, 401);
        assert_eq!(person.turn(&id).await["state"], "done");
    })
    .await;
}

async fn what_was_attached_is_kept(scene: Scene) {
    on_each(&scene, "kept", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("kept"));
        // Larger than a value of a Durable Object may be.
        let picture = encode(&png(1_500_000));
        let mut body = ask("plain", &format!("{text} [[up:text=一只猫]]"));
        body["attachments"] = json!([{"type": "image", "data": picture}]);
        let accepted = person.ask(&[("prefer", "respond-async"), ("idempotency-key", "kept-1")], &body).await;
        assert_eq!(accepted.status, 202, "{}", accepted.text);
        let done = person.until(&id_of(&accepted), &["done", "failed"]).await;
        assert_eq!(done["answer"], "一只猫", "{done}");
        let again = person.ask_keyed("kept-1", &body).await;
        assert_eq!(again.json()["answer"], "一只猫");
        let seen = scene.upstream().seen(&text);
        assert_eq!(seen.len(), 1);
        let sent = std::str::from_utf8(&seen[0].raw).expect("JSON");
        assert!(sent.contains(&picture), "the very bytes");
    })
    .await;
}

async fn chat_takes_keys(scene: Scene) {
    on_each(&scene, "chat", async |scene, stage| {
        let (person, text) = (stage.person(), stage.marker("keyed-chat"));
        let body = json!({"messages": [{"role": "user", "content": format!("{text} [[up:text=hello]]")}]});
        let headers = [("idempotency-key", "chat-1")];
        let chat = async || person.send("POST", "/api/chat", &headers, Some(&body)).await.expect("an answer");
        let (one, two) = (chat().await, chat().await);
        assert_eq!(one.json()["choices"][0]["message"]["content"], "hello", "{}", one.text);
        assert_eq!(one.json()["id"], two.json()["id"]);
        assert_eq!(scene.upstream().seen(&text).len(), 1);
    })
    .await;
}

async fn without_its_store_nothing_is_begun(scene: Scene) {
    let mut stage = Stage::start(&scene, Place::Redis, "away", &[]).await;
    let (person, text) = (stage.person(), stage.marker("away"));
    if let Some(redis) = &mut stage.redis {
        redis.kill().await;
    }
    let refused = person.ask_keyed("away-1", &ask("plain", &text)).await;
    assert_eq!(refused.error(), (503, "store_unavailable".into()), "{}", refused.text);
    assert!(scene.upstream().seen(&text).is_empty());
    if let Some(redis) = &mut stage.redis {
        redis.restart().await;
    }
    until("the store to be back", PATIENCE, async || {
        person.ask_keyed("away-2", &ask("plain", &text)).await.status == 200
    })
    .await;
    stage.stop().await;
}
