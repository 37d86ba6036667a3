//! A defect costs one request: a panic, an endless loop or a hunger for memory inside the
//! module answers 500 to its own request, and a stream in flight beside it goes on.

use minigate_tests::{
    client::{Client, KEY, say_stream, whole},
    hosts::Kind,
};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![a_panic_costs_one_request, faults_are_off_outside_dev];
    // workerd does not limit the CPU time or memory of one request; the platform does.
    all.extend(scenarios![for &[Kind::Native]; a_loop_costs_one_request, a_memory_hog_costs_one_request]);
    all
}

async fn break_one(client: &Client, fault: &str) {
    let headers = [
        ("x-api-key", KEY),
        ("content-type", "application/json"),
        ("x-minigate-fault", fault),
        ("x-trace-id", "broken-1"),
    ];
    let answer = whole(client.send("POST", "/api/chat", &headers, "{}").await).await;
    assert_eq!(answer.error(), (500, "internal".to_owned()), "{fault}: {}", answer.text);
    assert_eq!(answer.json()["traceId"], "broken-1");
}

async fn one_request_breaks_and_a_stream_goes_on(scene: Scene, fault: &str) {
    let client = scene.client(Setup::Plain);
    let marker = scene.marker(&format!("sibling-{fault}"));
    let body = say_stream(&format!(
        "{marker} [[up:slow=60]][[up:text=this stream is in flight while its neighbours break]]"
    ));
    let sibling = {
        let client = client.clone();
        tokio::spawn(async move { client.stream(&body).await })
    };
    scene.upstream().wait_for(&marker, "the stream to run", |seen| seen.pieces > 1).await;
    for _ in 0..4 {
        break_one(&client, fault).await;
    }
    let events = sibling.await.unwrap();
    assert_eq!(events.text(), "this stream is in flight while its neighbours break");
    assert_eq!(events.error(), None);
    assert_eq!(client.get("/healthz").await.status, 200);
}

async fn a_panic_costs_one_request(scene: Scene) {
    one_request_breaks_and_a_stream_goes_on(scene, "panic").await;
}

async fn a_loop_costs_one_request(scene: Scene) {
    one_request_breaks_and_a_stream_goes_on(scene, "loop").await;
}

async fn a_memory_hog_costs_one_request(scene: Scene) {
    one_request_breaks_and_a_stream_goes_on(scene, "memory").await;
}

async fn faults_are_off_outside_dev(scene: Scene) {
    let client = scene.client(Setup::Limited);
    let answer = whole(client.send("GET", "/healthz", &[("x-minigate-fault", "panic")], "").await).await;
    assert_eq!(answer.status, 200);
}
