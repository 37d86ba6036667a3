//! Canaries: no secret and no word of a conversation in any log, error or version.

use minigate_tests::{
    client::{KEY, say, say_stream},
    hosts::Kind,
    media::with_attachment,
    upstream::TOKEN,
};
use serde_json::json;

use crate::{SECOND_KEY, SESSION_SECRET, Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![nothing_secret_is_written, each_request_has_one_line]
}

const WORDS: &str = "message-canary-e11a";
const USER: &str = "user-canary-d0c5";

async fn nothing_secret_is_written(scene: Scene) {
    let mut shown = String::new();
    for setup in [Setup::Plain, Setup::Memory, Setup::Alone] {
        let client = scene.client(setup);
        let mut body = say(WORDS);
        body["user"] = USER.into();
        shown.push_str(
            &client.chat_with(&[("x-api-key", "wrong-key-canary-88f2")], body.to_string()).await.text,
        );
        for text in
            ["", " [[up:fail=provider401]]", " [[up:html]]", " [[up:reset]]", " [[up:fail=unauthorized]]"]
        {
            let mut body = say(&format!("{WORDS}{text}"));
            body["user"] = USER.into();
            let answer = client.chat(&body).await;
            if answer.status != 200 {
                shown.push_str(&answer.text);
            }
            let _ = client.chat(&say_stream(&format!("{WORDS}{text}"))).await;
        }
        shown.push_str(
            &client
                .chat(&with_attachment("x", "file", None, Some("a.bin"), WORDS.as_bytes()))
                .await
                .error()
                .1,
        );
        shown.push_str(&client.chat_with(&[], format!("{{\"messages\":\"{WORDS}\"")).await.text);
        shown.push_str(&client.get("/version").await.text);
        shown.push_str(&client.get("/readyz").await.text);
        shown.push_str(&client.get(&format!("/{WORDS}")).await.text);
        shown.push_str(&scene.host(setup).output());
    }
    for canary in [WORDS, USER, KEY, SECOND_KEY, TOKEN, SESSION_SECRET, "wrong-key-canary", "stub: Incorrect"]
    {
        assert!(!shown.contains(canary), "{canary} was written");
    }
}

async fn each_request_has_one_line(scene: Scene) {
    let trace = scene.marker("one-line");
    let mut body = say(WORDS);
    body["user"] = USER.into();
    let answer = scene.client(Setup::Plain).chat_with(&[("x-trace-id", &trace)], body.to_string()).await;
    assert_eq!(answer.header("x-trace-id"), trace);
    let host = scene.host(Setup::Plain);
    let find =
        || host.records().into_iter().filter(|line| line["traceId"] == trace.as_str()).collect::<Vec<_>>();
    minigate_tests::until("the log line", std::time::Duration::from_secs(5), || async { !find().is_empty() })
        .await;
    let lines = find();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(line["event"], "request");
    assert_eq!((&line["route"], &line["status"]), (&json!("/api/chat"), &json!(200)));
    assert_eq!((&line["host"], &line["level"]), (&json!(scene.kind.name()), &json!("info")));
    assert_eq!(line["requestId"], answer.json()["id"]);
    assert_eq!(line["inputTokens"], 1997);
    assert!(line["ms"].is_u64() && line["subject"].as_str().is_some_and(|subject| subject.len() == 16));
    assert!(scene.kind == Kind::Native || scene.kind == Kind::Edge);
}
