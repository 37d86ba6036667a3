//! Streams: both of OpenClaw's become the same events, cut where they may be cut, and every
//! one ends.

use minigate_tests::{
    client::{Events, say_stream},
    media::{png, with_attachment},
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_text_stream,
        both_upstream_streams_become_the_same,
        usage_chunk_only_when_asked_for,
        bytes_cut_anywhere_change_nothing,
        links_and_length_come_with_the_end,
        events_arrive_as_they_are_made,
        a_large_stream_arrives_whole,
        a_failure_in_mid_stream_is_an_event,
        a_stream_that_breaks_off_is_a_failure,
        a_stream_without_an_end_mark_but_with_a_finish_is_complete,
        a_refusal_before_the_stream_is_a_status,
        a_slow_reader_holds_the_upstream_back,
    ]
}

async fn a_text_stream(scene: Scene) {
    let events =
        scene.client(Setup::Plain).stream(&say_stream("你好 😀 [[up:text=一二三四五六七八九十 done]]")).await;
    let all = events.json();
    assert_eq!(all[0]["choices"][0]["delta"], json!({"role": "assistant"}));
    assert_eq!(events.text(), "一二三四五六七八九十 done");
    let id = all[0]["id"].as_str().unwrap().to_owned();
    for event in &all {
        assert_eq!(event["id"], id.as_str());
        assert_eq!(
            (&event["object"], &event["model"]),
            (&json!("chat.completion.chunk"), &json!("openclaw"))
        );
        assert_eq!(event["choices"][0]["index"], 0);
    }
    let finish = events.finish();
    assert_eq!(finish["choices"][0], json!({"index": 0, "delta": {}, "finish_reason": "stop"}));
    assert_eq!(finish["usage"], json!({"input_tokens": 1997, "output_tokens": 15, "total_tokens": 2012}));
    assert_eq!((&finish["label"], &finish["attachments"]), (&json!("AI生成"), &json!([])));
    assert!(finish["traceId"].is_string());
    assert_eq!(all.last(), Some(&finish));
}

/// The events without what differs between two requests.
fn comparable(events: &Events) -> Vec<Value> {
    let strip = |mut event: Value| {
        for key in ["id", "created", "traceId"] {
            event[key] = Value::Null;
        }
        event
    };
    events.json().into_iter().map(strip).collect()
}

async fn both_upstream_streams_become_the_same(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let text = "[[up:text=same \"words\"\\n for both 一二]]";
    let chat = client.stream(&say_stream(text)).await;
    let mut body = with_attachment(text, "image", None, None, &png(0));
    body["stream"] = true.into();
    let responses = client.stream(&body).await;
    assert_eq!(comparable(&chat), comparable(&responses));
}

async fn usage_chunk_only_when_asked_for(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for with_picture in [false, true] {
        let mut body =
            if with_picture { with_attachment("u", "image", None, None, &png(0)) } else { say_stream("u") };
        body["stream"] = true.into();
        let without = client.stream(&body).await;
        assert!(without.json().iter().all(|event| event["choices"] != json!([])));
        body["stream_options"] = json!({"include_usage": true});
        let with = client.stream(&body).await;
        let last = with.json().pop().unwrap();
        assert_eq!(last["choices"], json!([]));
        assert_eq!(
            (&last["usage"]["prompt_tokens"], &last["usage"]["input_tokens"]),
            (&json!(1997), &json!(1997))
        );
    }
}

async fn bytes_cut_anywhere_change_nothing(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let text = "[[up:text=字符😀 and ![图](https://a.example/b.png) words]]";
    let whole = client.stream(&say_stream(text)).await;
    let split = client.stream(&say_stream(&format!("{text}[[up:split]]"))).await;
    assert_eq!(comparable(&whole), comparable(&split));
    let mut body = with_attachment(&format!("{text}[[up:split]]"), "image", None, None, &png(0));
    body["stream"] = true.into();
    assert_eq!(comparable(&whole), comparable(&client.stream(&body).await));
}

async fn links_and_length_come_with_the_end(scene: Scene) {
    let body =
        say_stream("[[up:length]][[up:text=see ![pic](https://a.example/long/path/to/b.png) and more]]");
    let finish = scene.client(Setup::Plain).stream(&body).await.finish();
    assert_eq!(finish["choices"][0]["finish_reason"], "length");
    assert_eq!(
        finish["attachments"],
        json!([{"type": "image", "url": "https://a.example/long/path/to/b.png", "name": "pic"}])
    );
}

async fn events_arrive_as_they_are_made(scene: Scene) {
    let marker = scene.marker("live");
    let mut response = scene
        .client(Setup::Plain)
        .open(&say_stream(&format!("{marker} [[up:silent_after=2]][[up:text=0123456789abcdefghij]]")))
        .await;
    // The upstream never goes on, so what comes must come without its end.
    let mut seen = String::new();
    while !seen.contains("89abcdef") {
        seen.push_str(std::str::from_utf8(&response.chunk().await.unwrap().expect("more")).unwrap());
    }
}

async fn a_large_stream_arrives_whole(scene: Scene) {
    let events = scene.client(Setup::Plain).long_stream(&say_stream("[[up:huge=1000000]]")).await;
    assert!(events.text().len() >= 1_000_000);
    let mut body = with_attachment("[[up:huge=1000000]]", "image", None, None, &png(0));
    body["stream"] = true.into();
    assert_eq!(scene.client(Setup::Plain).long_stream(&body).await.text(), events.text());
}

async fn a_failure_in_mid_stream_is_an_event(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for (case, code) in [
        ("provider_error", "upstream_error"),
        ("provider_timeout", "upstream_timeout"),
        ("provider401", "model_unavailable"),
        ("cooldown", "model_unavailable"),
        ("provider400", "upstream_refused_request"),
        ("provider429", "upstream_overloaded"),
    ] {
        for with_picture in [false, true] {
            let text = format!("[[up:fail={case}]][[up:after=2]][[up:text=some words before]]");
            let mut body = if with_picture {
                with_attachment(&text, "image", None, None, &png(0))
            } else {
                say_stream(&text)
            };
            body["stream"] = true.into();
            let events = client.stream(&body).await;
            assert_eq!(events.error().as_deref(), Some(code), "{case}");
            assert_eq!(events.text(), "some words befor");
            let last = events.json().pop().unwrap();
            assert!(last["answer"].is_string() && last["traceId"].is_string());
            assert!(!events.data.concat().contains("stub"), "an upstream's word: {:?}", events.data);
        }
    }
}

async fn a_stream_that_breaks_off_is_a_failure(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let events =
        client.stream(&say_stream("[[up:truncate]][[up:text=some longer words before it breaks]]")).await;
    assert_eq!(events.error().as_deref(), Some("upstream_protocol"));
    assert_eq!(events.text(), "some lon");
}

async fn a_stream_without_an_end_mark_but_with_a_finish_is_complete(scene: Scene) {
    let events = scene.client(Setup::Plain).stream(&say_stream("[[up:nodone]][[up:text=all of it]]")).await;
    assert_eq!(events.text(), "all of it");
    assert_eq!(events.finish()["choices"][0]["finish_reason"], "stop");
}

async fn a_refusal_before_the_stream_is_a_status(scene: Scene) {
    let client = scene.client(Setup::Plain);
    for (case, status, code) in [
        ("draining", 503, "upstream_overloaded"),
        ("proxy", 502, "upstream_misconfigured"),
        ("provider400", 400, "upstream_refused_request"),
    ] {
        let answer = client.chat(&say_stream(&format!("[[up:status={case}]]"))).await;
        assert_eq!(answer.error(), (status, code.to_owned()), "{}", answer.text);
    }
    assert_eq!(client.chat(&say_stream("[[up:html]]")).await.error(), (502, "upstream_protocol".to_owned()));
}

async fn a_slow_reader_holds_the_upstream_back(scene: Scene) {
    let marker = scene.marker("slow-reader");
    // About 100 MB in pieces of 1,024 characters: more than all buffers on the way.
    let mut response =
        scene.client(Setup::Plain).open(&say_stream(&format!("{marker} [[up:huge=60000000]]"))).await;
    let _ = response.chunk().await;
    let pieces = || scene.upstream().seen(&marker)[0].pieces;
    // Reading has stopped, so sending must stop too: two looks in a row see no progress.
    let mut before = 0;
    minigate_tests::until("the upstream to be held back", std::time::Duration::from_secs(30), || {
        let now = pieces();
        let still = now == before && now > 0;
        before = now;
        async move {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            still
        }
    })
    .await;
    let whole = 60_000_000 / 13 * 9 / 1024;
    assert!(before < whole, "{before} of {whole} pieces were taken though nobody reads");
    drop(response);
    scene.upstream().wait_for_abort(&marker).await;
}
