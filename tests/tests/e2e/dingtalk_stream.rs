//! Stream mode end to end, on the host that can hold a socket: what is answered when, which socket is
//! open when, and that each message has one answer. DingTalk's own SDK says whether the scripted
//! DingTalk is one, and whether the gateway speaks as the SDK does.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use minigate_tests::{
    dingtalk::{CANARIES, DingTalk, Fault, Happened, MESSAGES, OPEN, What},
    hosts::{Host, Kind},
    required, until,
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    Scenario, Scene,
    dingtalk::{APP_KEY, APP_SECRET, app},
    scenarios,
};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![for &[Kind::Native];
        a_message_is_answered_at_once_and_then_in_its_conversation,
        before_a_socket_ends_there_is_another,
        a_silent_socket_is_replaced,
        what_comes_again_is_answered_once,
        a_server_that_was_away_is_found_again,
        a_socket_that_is_cut_is_replaced,
        words_of_the_connection_are_answered,
        an_app_that_is_refused_stays_out_and_is_said,
        a_host_that_ends_closes_its_socket,
        dingtalks_own_sdk_takes_the_scripted_dingtalk_for_the_real_one,
        dingtalks_own_sdk_reads_the_gateways_frames,
    ]
}

const CONFIGURATION: &str = "
models:
  m: {kind: openclaw, side_effects: none}
profiles:
  p: {model: m}
channels:
  desk: {kind: dingtalk, robot_code: normal, app_key: '${DING_KEY}', app_secret: '${DING_SECRET}', mode: stream, profile: p}
";

/// A host with a robot in Stream mode, and its DingTalk.
struct Desk {
    host: Host,
    ding: DingTalk,
}

impl Desk {
    async fn start(scene: &Scene, more: &[(&str, &str)]) -> Self {
        let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
        Self::start_with(scene, ding, more).await
    }

    async fn start_with(scene: &Scene, ding: DingTalk, more: &[(&str, &str)]) -> Self {
        let mut settings = scene.unlimited(&app(&ding));
        settings.extend_from_slice(more);
        let host = Host::start_with_config(scene.kind, &[("robots.yaml", CONFIGURATION)], &settings).await;
        Self { host, ding }
    }

    /// Waits for a line of the log about the robot's sockets.
    async fn said(&self, event: &str) -> Value {
        let find = || self.host.records().into_iter().find(|record| record["event"] == event);
        until(event, Duration::from_secs(20), || async { find().is_some() }).await;
        let record = find().expect("it was there");
        assert_eq!(
            (record["robot"].as_str(), record["traceId"].as_str().map(str::len)),
            (Some("desk"), Some(32))
        );
        record
    }

    /// The end; what was logged has nothing that is secret.
    async fn stop(self) {
        let output = self.host.output();
        for canary in CANARIES.iter().chain(&[APP_SECRET]) {
            assert!(!output.contains(canary), "{canary}: {output}");
        }
        self.host.stop().await;
    }
}

/// When something of a kind first happened.
fn first(list: &[Happened], holds: impl Fn(&Happened) -> bool) -> Option<Instant> {
    list.iter().find(|one| holds(one)).map(|one| one.at)
}

/// How many sockets there were at once, at most.
fn most_at_once(list: &[Happened]) -> usize {
    let mut open = 0_usize;
    let counts = list.iter().map(|one| {
        match one.what {
            What::Opened => open += 1,
            What::Closed => open = open.saturating_sub(1),
            What::Got(_) | What::Sent(_) | What::Pinged => {}
        }
        open
    });
    counts.max().unwrap_or_default()
}

async fn a_message_is_answered_at_once_and_then_in_its_conversation(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let (ding, sockets) = (&desk.ding, &desk.ding.sockets);
    let socket = sockets.wait_for_opened(1).await;
    let asked = &ding.requests_to(OPEN)[0].body;
    assert_eq!(asked["subscriptions"], json!([{"type": "CALLBACK", "topic": MESSAGES}]));
    let marker = scene.marker("stream-first");
    let id = sockets.message(socket, &ding.message("m-first", &format!("{marker}[[up:slow=5000]]"), "first"));
    let (_, frame) = sockets.wait_for_ack(&id).await;
    assert!(ding.delivered_to("first").is_empty(), "the answer to the frame does not wait for the model's");
    assert_eq!(
        frame,
        json!({"code": 200, "headers": {"contentType": "application/json", "messageId": id},
               "message": "OK", "data": "{\"response\":{}}"})
    );
    let delivered = ding.wait_for_delivered("first", 1).await;
    assert_eq!(delivered[0].echo(), format!("echo: {marker}"));
    assert_eq!(delivered.len(), 1);
    // It was answered before anybody was asked.
    let seen = scene.upstream().wait_for(&marker, "the question", |_| true).await;
    assert!(!seen.aborted);
    desk.said("dingtalk_stream_open").await;
    desk.stop().await;
}

async fn before_a_socket_ends_there_is_another(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let (ding, sockets) = (&desk.ding, &desk.ding.sockets);
    let socket = sockets.wait_for_opened(1).await;
    sockets.system(socket, "disconnect", "{}");
    let second = sockets.wait_for_opened(2).await;
    // What was under way on the old one is heard.
    let late = sockets.message(socket, &ding.message("m-late", &scene.marker("stream-late"), "late"));
    sockets.wait_for_ack(&late).await;
    let closed = sockets.wait_for_closed(socket).await;
    let list = sockets.happened();
    let opened = first(&list, |one| one.socket == second && one.what == What::Opened);
    assert!(opened.is_some_and(|opened| opened < closed.at), "{list:#?}");
    let id = sockets.message(second, &ding.message("m-new", &scene.marker("stream-new"), "new"));
    sockets.wait_for_ack(&id).await;
    ding.wait_for_delivered("late", 1).await;
    ding.wait_for_delivered("new", 1).await;
    assert_eq!(most_at_once(&sockets.happened()), 2);
    // Each connection has a ticket of its own.
    assert_eq!(ding.requests_to(OPEN).len(), 2);
    desk.said("dingtalk_stream_moving").await;
    desk.stop().await;
}

async fn a_silent_socket_is_replaced(scene: Scene) {
    let desk = Desk::start(&scene, &[("DINGTALK_SILENT_MS", "4000")]).await;
    let sockets = &desk.ding.sockets;
    let socket = sockets.wait_for_opened(1).await;
    // It answers pings of the protocol below, and its TCP is well.
    let second = sockets.wait_for_opened(2).await;
    sockets.freeze(second);
    let third = sockets.wait_for_opened(3).await;
    let closed = sockets.wait_for_closed(socket).await;
    let list = sockets.happened();
    let opened = first(&list, |one| one.socket == second && one.what == What::Opened).expect("opened");
    let began = first(&list, |one| one.socket == socket).expect("opened");
    assert!(opened < closed.at && opened.duration_since(began) >= Duration::from_millis(3_950), "{list:#?}");
    let id = sockets.message(third, &desk.ding.message("m-silent", &scene.marker("stream-silent"), "silent"));
    sockets.wait_for_ack(&id).await;
    desk.ding.wait_for_delivered("silent", 1).await;
    desk.said("dingtalk_stream_silent").await;
    desk.stop().await;
}

async fn what_comes_again_is_answered_once(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let (ding, sockets) = (&desk.ding, &desk.ding.sockets);
    let socket = sockets.wait_for_opened(1).await;
    let marker = scene.marker("stream-again");
    let message = ding.message("m-again", &marker, "again");
    let id = sockets.message(socket, &message);
    sockets.wait_for_ack(&id).await;
    ding.wait_for_delivered("again", 1).await;
    // The frame again; the message in another frame; and on another socket.
    sockets.frame_again(socket, "CALLBACK", MESSAGES, &message.to_string(), &id);
    let other = sockets.message(socket, &message);
    sockets.wait_for_ack(&other).await;
    sockets.close(socket);
    let second = sockets.wait_for_opened(2).await;
    let third = sockets.message(second, &message);
    sockets.wait_for_ack(&third).await;
    let acks = |list: &[Happened]| {
        let is =
            |one: &&Happened| matches!(&one.what, What::Got(frame) if frame["headers"]["messageId"] == id);
        list.iter().filter(is).count()
    };
    sockets.wait("both answers", |list| (acks(list) == 2).then_some(())).await;
    // What comes after it has been answered too, so nothing of it is on its way any more.
    let last = sockets.message(second, &ding.message("m-last", &scene.marker("stream-last"), "last"));
    sockets.wait_for_ack(&last).await;
    ding.wait_for_delivered("last", 1).await;
    assert_eq!(ding.delivered_to("again").len(), 1);
    assert_eq!(scene.upstream().seen(&marker).len(), 1);
    desk.stop().await;
}

async fn a_server_that_was_away_is_found_again(scene: Scene) {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    ding.set_fault(OPEN, Fault::Http(503));
    let desk = Desk::start_with(&scene, ding, &[]).await;
    let (ding, sockets) = (&desk.ding, &desk.ding.sockets);
    ding.wait_for_count(OPEN, 3).await;
    let failures: Vec<Value> = desk
        .host
        .records()
        .into_iter()
        .filter(|record| record["event"] == "dingtalk_stream_failed")
        .collect();
    for (at, record) in failures.iter().enumerate() {
        let bound = 2_000 << at;
        assert_eq!((&record["failures"], &record["status"]), (&json!(at + 1), &json!(503)));
        assert!(record["pauseMs"].as_u64().is_some_and(|pause| pause <= bound), "{record}");
    }
    ding.recover();
    let socket = sockets.wait_for_opened(1).await;
    let id = sockets.message(socket, &ding.message("m-away", &scene.marker("stream-away"), "away"));
    sockets.wait_for_ack(&id).await;
    ding.wait_for_delivered("away", 1).await;
    desk.stop().await;
}

async fn a_socket_that_is_cut_is_replaced(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let sockets = &desk.ding.sockets;
    let socket = sockets.wait_for_opened(1).await;
    sockets.cut(socket);
    let second = sockets.wait_for_opened(2).await;
    sockets.send(second, json!("no frame"));
    sockets.send(second, json!({"type": "SYSTEM"}));
    let id = sockets.message(second, &desk.ding.message("m-cut", &scene.marker("stream-cut"), "cut"));
    sockets.wait_for_ack(&id).await;
    desk.said("dingtalk_stream_lost").await;
    desk.stop().await;
}

async fn words_of_the_connection_are_answered(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let sockets = &desk.ding.sockets;
    let socket = sockets.wait_for_opened(1).await;
    let id = sockets.system(socket, "ping", r#"{"opaque":"0a12"}"#);
    let (_, pong) = sockets.wait_for_ack(&id).await;
    assert_eq!((&pong["code"], &pong["data"]), (&json!(200), &json!(r#"{"opaque":"0a12"}"#)));
    sockets.system(socket, "KEEPALIVE", "");
    let card = sockets.frame(socket, "CALLBACK", "/v1.0/card/instances/callback", "{}");
    assert_eq!(sockets.wait_for_ack(&card).await.1["code"], 404);
    let event = sockets.frame(socket, "EVENT", "*", "{}");
    assert_eq!(sockets.wait_for_ack(&event).await.1["code"], 200);
    desk.stop().await;
}

async fn an_app_that_is_refused_stays_out_and_is_said(scene: Scene) {
    let ding = DingTalk::start(APP_KEY, "another secret").await;
    let desk = Desk::start_with(&scene, ding, &[]).await;
    let record = desk.said("dingtalk_stream_refused").await;
    assert_eq!((&record["level"], &record["status"]), (&json!("error"), &json!(401)));
    assert!(desk.ding.sockets.happened().is_empty());
    desk.stop().await;
}

async fn a_host_that_ends_closes_its_socket(scene: Scene) {
    let mut desk = Desk::start(&scene, &[]).await;
    let socket = desk.ding.sockets.wait_for_opened(1).await;
    let marker = scene.marker("stream-end");
    let message = desk.ding.message("m-end", &marker, "end");
    let id = desk.ding.sockets.message(socket, &message);
    desk.ding.sockets.wait_for_ack(&id).await;
    desk.host.terminate();
    desk.ding.sockets.wait_for_closed(socket).await;
    assert_eq!(desk.host.wait().await, Some(0), "{}", desk.host.output());
}

/// A script that runs with DingTalk's SDK; what it says, line by line.
async fn python(ding: &DingTalk, script: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(required("MINIGATE_PYTHON"));
    command
        .env("PYTHONPATH", required("MINIGATE_PYTHON_DINGTALK"))
        .env("DINGTALK_OPENAPI_ENDPOINT", ding.url())
        .env("NO_PROXY", "127.0.0.1")
        .args(["-c", script])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("python starts");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(80), child.wait_with_output()).await;
    let output = output.expect("it ends").expect("it started");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}\n{:#?}", ding.sockets.happened());
    said.into_owned()
}

async fn dingtalks_own_sdk_takes_the_scripted_dingtalk_for_the_real_one(_: Scene) {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    let mut message = ding.message("m-sdk", "hello robot", "sdk");
    message["sessionWebhook"] = ding.webhook_here("sdk").into();
    let script = include_str!("../../src/sdk/dingtalk_client.py");
    let sdk = python(&ding, script, &[APP_KEY, APP_SECRET], "");
    let scripted = async {
        let socket = ding.sockets.wait_for_opened(1).await;
        let id = ding.sockets.message(socket, &message);
        let (_, ack) = ding.sockets.wait_for_ack(&id).await;
        assert_eq!((&ack["code"], &ack["headers"]["contentType"]), (&json!(200), &json!("application/json")));
        assert_eq!(ding.wait_for_delivered("sdk", 1).await[0].words(), "sdk: hello robot");
        let ping = ding.sockets.system(socket, "ping", r#"{"opaque":"x"}"#);
        let (_, pong) = ding.sockets.wait_for_ack(&ping).await;
        assert_eq!(
            pong["data"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()),
            Some(json!({"opaque": "x"}))
        );
        ding.sockets.system(socket, "disconnect", "{}");
        ding.sockets.wait_for_closed(socket).await;
    };
    let (said, ()) = tokio::join!(sdk, scripted);
    assert!(said.contains("passed token") && said.contains("passed message m-sdk"), "{said}");
}

async fn dingtalks_own_sdk_reads_the_gateways_frames(scene: Scene) {
    let desk = Desk::start(&scene, &[]).await;
    let (ding, sockets) = (&desk.ding, &desk.ding.sockets);
    let socket = sockets.wait_for_opened(1).await;
    let ids = [
        sockets.message(socket, &ding.message("m-frames", &scene.marker("stream-frames"), "frames")),
        sockets.system(socket, "ping", r#"{"opaque":"0a12"}"#),
        sockets.frame(socket, "CALLBACK", "/v1.0/card/instances/callback", "{}"),
        sockets.frame(socket, "EVENT", "*", "{}"),
    ];
    let mut lines = String::new();
    for id in &ids {
        let (_, frame) = sockets.wait_for_ack(id).await;
        let is_it =
            |one: &Happened| matches!(&one.what, What::Sent(sent) if sent["headers"]["messageId"] == **id);
        let list = sockets.happened();
        let Some(Happened { what: What::Sent(sent), .. }) = list.iter().find(|one| is_it(one)) else {
            panic!("{id} was sent: {list:#?}")
        };
        lines.push_str(&format!("{}\n", json!({"sent": sent, "answer": frame})));
    }
    // The signatures of callbacks, by a client that signs as DingTalk documents it.
    for [timestamp, sign] in [0, -3_599_000].map(|from_now| ding.signature(from_now).map(|(_, value)| value))
    {
        lines.push_str(&format!("{}\n", json!({"timestamp": timestamp, "sign": sign})));
    }
    lines.push_str(
        &json!({"timestamp": "1577262236757", "secret": "this is a secret",
                "sign": "DJrE6qdyVGCQz9z5r2MDuNcNAhwYnuAkyj13cx169CA="})
        .to_string(),
    );
    let said =
        python(ding, include_str!("../../src/sdk/dingtalk_frames.py"), &[APP_KEY, APP_SECRET], &lines).await;
    assert_eq!(said.lines().filter(|line| line.starts_with("passed ")).count(), 7, "{said}");
    desk.stop().await;
}
