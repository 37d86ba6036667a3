//! Nothing hangs: each phase has its deadline, silence has a heartbeat, and a client that
//! leaves ends the run.

use std::time::{Duration, Instant};

use minigate_tests::{
    client::{KEY, say, say_stream},
    hosts::Kind,
    media::{png, with_attachment},
};

use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        a_silent_upstream_is_cut_off,
        a_stream_that_does_not_begin,
        a_stream_that_stands_still,
        a_stream_that_goes_on_too_long,
        a_silent_stream_has_heartbeats,
        a_client_that_leaves_ends_the_run,
        a_client_that_leaves_a_stream_ends_the_run,
    ];
    all.extend(scenarios![for &[Kind::Native]; a_client_that_closes_ends_the_run]);
    all
}

async fn a_silent_upstream_is_cut_off(scene: Scene) {
    let marker = scene.marker("silent");
    let began = Instant::now();
    let answer = scene.client(Setup::Hasty).chat(&say(&format!("{marker} [[up:hang]]"))).await;
    assert_eq!(answer.error(), (504, "upstream_timeout".to_owned()), "{}", answer.text);
    // The turn's own deadline: the others are over long before.
    assert!(began.elapsed() >= Duration::from_millis(14_900), "{:?}", began.elapsed());
    scene.upstream().wait_for_abort(&marker).await;
}

async fn a_stream_that_does_not_begin(scene: Scene) {
    let marker = scene.marker("no-head");
    let answer = scene.client(Setup::Hasty).chat(&say_stream(&format!("{marker} [[up:hang]]"))).await;
    assert_eq!(answer.error(), (504, "upstream_timeout".to_owned()), "{}", answer.text);
    scene.upstream().wait_for_abort(&marker).await;
}

async fn a_stream_that_stands_still(scene: Scene) {
    for with_picture in [false, true] {
        let marker = scene.marker(&format!("still-{with_picture}"));
        let text = format!("{marker} [[up:silent_after=1]][[up:text=0123456789]]");
        let mut body =
            if with_picture { with_attachment(&text, "image", None, None, &png(0)) } else { say(&text) };
        body["stream"] = true.into();
        let events = scene.client(Setup::Hasty).stream(&body).await;
        assert_eq!(events.text(), "01234567");
        assert_eq!(events.error().as_deref(), Some("upstream_timeout"));
        scene.upstream().wait_for_abort(&marker).await;
    }
}

async fn a_stream_that_goes_on_too_long(scene: Scene) {
    let marker = scene.marker("too-long");
    let events = scene
        .client(Setup::Hasty)
        .stream(&say_stream(&format!("{marker} [[up:slow=200]][[up:huge=9000]]")))
        .await;
    assert_eq!(events.error().as_deref(), Some("upstream_timeout"));
    assert!(!events.text().is_empty());
    scene.upstream().wait_for_abort(&marker).await;
}

async fn a_silent_stream_has_heartbeats(scene: Scene) {
    let events =
        scene.client(Setup::Hasty).stream(&say_stream("[[up:slow=500]][[up:text=0123456789]]")).await;
    assert_eq!(events.text(), "0123456789");
    assert!(events.comments >= 2, "{} heartbeats", events.comments);
    assert_eq!(events.error(), None);
}

/// A request by hand, so that the connection can be closed by a reset: a plain close is also
/// what a client does that has only ended its sending, and workerd (as many servers) goes on
/// then until a write fails.
async fn send_and_reset(scene: &Scene, body: &serde_json::Value, marker: &str) {
    let url = &scene.host(Setup::Plain).url;
    let body = body.to_string();
    let mut stream = TcpStream::connect(url.trim_start_matches("http://")).await.unwrap();
    let request = format!(
        "POST /api/chat HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    scene.upstream().wait_for(marker, "the request", |_| true).await;
    stream.set_zero_linger().unwrap();
}

async fn a_client_that_leaves_ends_the_run(scene: Scene) {
    let marker = scene.marker("resets");
    send_and_reset(&scene, &say(&format!("{marker} [[up:hang]]")), &marker).await;
    scene.upstream().wait_for_abort(&marker).await;
    let marker = scene.marker("resets-silent-stream");
    send_and_reset(&scene, &say_stream(&format!("{marker} [[up:silent_after=0]]")), &marker).await;
    scene.upstream().wait_for_abort(&marker).await;
}

async fn a_client_that_closes_ends_the_run(scene: Scene) {
    let marker = scene.marker("leaves");
    let client = scene.client(Setup::Plain);
    let body = say(&format!("{marker} [[up:hang]]"));
    let asking = tokio::spawn(async move { client.chat(&body).await });
    scene.upstream().wait_for(&marker, "the request", |_| true).await;
    asking.abort();
    scene.upstream().wait_for_abort(&marker).await;
}

async fn a_client_that_leaves_a_stream_ends_the_run(scene: Scene) {
    for with_picture in [false, true] {
        let marker = scene.marker(&format!("leaves-stream-{with_picture}"));
        let text = format!("{marker} [[up:slow=50]][[up:huge=5000]]");
        let mut body =
            if with_picture { with_attachment(&text, "image", None, None, &png(0)) } else { say(&text) };
        body["stream"] = true.into();
        let mut response = scene.client(Setup::Plain).open(&body).await;
        assert!(response.chunk().await.unwrap().is_some());
        drop(response);
        scene.upstream().wait_for_abort(&marker).await;
    }
}
