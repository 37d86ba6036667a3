//! The model gateway end to end: OpenAI's own SDKs, and whatever a runtime does.

use std::{
    path::Path,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use minigate_tests::{
    client::{Answer, Client, KEY, whole},
    hosts::Host,
    required,
    runtime::{self, Runtime},
    scripted::Seen,
    until,
    upstream::TOKEN,
};
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinSet};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        openais_python_sdk_works_unchanged,
        openais_javascript_sdk_works_unchanged,
        a_runtime_that_hangs_dies_or_talks_rubbish_costs_no_more_than_its_time,
        a_runtime_that_was_down_is_used_again,
        replicas_share_the_work_and_stand_in_for_each_other,
        callers_have_their_share,
        what_is_sent_is_shaped,
        a_caller_that_leaves_frees_the_runtime,
        nothing_that_was_said_is_logged,
    ]
}

const AUTH_TOKEN: &str = "auth-token-canary-a1e4";
const SECOND_TOKEN: &str = "second-auth-token-canary-d07c";

/// A host, and two runtimes.
struct Models {
    host: Host,
    client: Client,
    one: Runtime,
    two: Runtime,
}

async fn start(scene: &Scene) -> Models {
    let (one, two) = (Runtime::start().await, Runtime::start().await);
    let at = "kind: openai_compatible, api_key: '${RUNTIME_KEY}', model: local-chat";
    let (first, second) = (one.url(), two.url());
    let yaml = format!(
        "models:
  local: {{{at}, base_url: '{first}', timeout_ms: 8000}}
  busy: {{{at}, base_url: '{first}', timeout_ms: 20000}}
  many: {{{at}, base_url: '{first}', timeout_ms: 20000, replicas: ['{second}']}}
  backed: {{{at}, base_url: 'http://127.0.0.1:9/v1', timeout_ms: 8000, fallback: local}}
  small: {{{at}, base_url: '{first}', context_tokens: 600, max_tokens: 100}}
  trimmed: {{{at}, base_url: '{first}', context_tokens: 600, on_overflow: trim}}
routing: {{defaults: {{model: local}}}}
limits: {{max_concurrency_per_model: {{busy: 1, many: 4}}}}
"
    );
    let tokens = format!("{AUTH_TOKEN}, {SECOND_TOKEN}");
    let settings = [
        ("API_KEY", KEY),
        ("AUTH_TOKEN", tokens.as_str()),
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("RUNTIME_KEY", runtime::KEY),
        ("CONNECT_TIMEOUT_MS", "1000"),
        ("FIRST_BYTE_TIMEOUT_MS", "6000"),
        ("HEARTBEAT_MS", "200"),
        ("QUEUE_LIMIT", "3"),
    ];
    let host = Host::start_with_config(scene.kind, &[("models.yaml", &yaml)], &settings).await;
    let client = Client::new(&host.url);
    Models { host, client, one, two }
}

impl Models {
    async fn ask(&self, body: &Value) -> Answer {
        self.ask_as(AUTH_TOKEN, body).await
    }

    async fn ask_as(&self, token: &str, body: &Value) -> Answer {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        whole(self.client.send("POST", "/v1/chat/completions", &headers, body.to_string()).await).await
    }
}

fn say(model: &str, text: &str, stream: bool) -> Value {
    json!({"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]})
}

fn text(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned()
}

/// Runs a script of checks, and counts those that it says were passed.
async fn run_sdk(mut command: Command, host: &Host) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(80), command.output()).await;
    let output = output.expect("it ends").expect("it starts");
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{errors}\n{}", host.output());
    assert_eq!(said.lines().filter(|line| line.starts_with("passed ")).count(), 9, "{said}");
}

async fn openais_python_sdk_works_unchanged(scene: Scene) {
    let models = start(&scene).await;
    let mut python = Command::new(required("MINIGATE_PYTHON"));
    python
        .env("PYTHONPATH", required("MINIGATE_PYTHON_PACKAGES"))
        .env("NO_PROXY", "127.0.0.1")
        .args(["-c", include_str!("../../src/sdk/openai_sdk.py")])
        .args([&format!("{}/v1", models.host.url), AUTH_TOKEN]);
    run_sdk(python, &models.host).await;
}

async fn openais_javascript_sdk_works_unchanged(scene: Scene) {
    let models = start(&scene).await;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sdk/openai_sdk.mjs");
    let mut node = Command::new(required("MINIGATE_NODE"));
    node.arg(script).arg(required("MINIGATE_OPENAI")).args([&format!("{}/v1", models.host.url), AUTH_TOKEN]);
    run_sdk(node, &models.host).await;
}

async fn a_runtime_that_hangs_dies_or_talks_rubbish_costs_no_more_than_its_time(scene: Scene) {
    let models = start(&scene).await;
    for (directive, stream, expected) in [
        ("hang", false, (504, "upstream_timeout")),
        ("hang", true, (504, "upstream_timeout")),
        ("die", false, (502, "upstream_protocol")),
        ("die", true, (502, "upstream_protocol")),
        ("rubbish", false, (502, "upstream_protocol")),
        ("rubbish", true, (502, "upstream_protocol")),
        ("error=401", false, (502, "upstream_misconfigured")),
    ] {
        let begun = Instant::now();
        let answer = models.ask(&say("local", &format!("x [[rt:{directive}]]"), stream)).await;
        assert!(begun.elapsed() < Duration::from_secs(16), "{directive}");
        let error = &answer.json()["error"];
        // A connection that is closed at once may count as one that never was.
        let code = error["code"].as_str().unwrap_or_default().replace("unreachable", "protocol");
        assert_eq!((answer.status, code.as_str()), expected, "{directive} {stream}: {}", answer.text);
        assert!(error["message"].is_string() && error["type"].is_string() && error["traceId"].is_string());
        assert!(!answer.text.contains(runtime::DETAIL), "{}", answer.text);
        // Five failures in a row would give it a rest.
        assert_eq!(text(&models.ask(&say("local", "well", false)).await), "echo: well");
    }
    for directive in ["stall=1", "cut"] {
        let answer = models.ask(&say("local", &format!("one two three [[rt:{directive}]]"), true)).await;
        assert_eq!(answer.status, 200);
        let last = answer.text.split_terminator("\n\n").last().unwrap_or_default();
        assert!(last.starts_with("data: {\"error\":{\"message\":"), "{}", answer.text);
    }
}

async fn a_runtime_that_was_down_is_used_again(scene: Scene) {
    let models = start(&scene).await;
    models.one.set_down(true);
    // Until the breaker gives it a rest: then nobody waits for it.
    for number in 0.. {
        assert!(number < 20, "{}", models.host.output());
        let answer = models.ask(&say("local", "hello", false)).await;
        if answer.error() == (503, "upstream_unavailable".into()) {
            assert!(!answer.header("retry-after").is_empty());
            break;
        }
        assert_eq!(answer.status, 502, "{}", answer.text);
    }
    models.one.set_down(false);
    until("it is used again", Duration::from_secs(20), async || {
        models.ask(&say("local", "hello", false)).await.status == 200
    })
    .await;
    let answer = models.ask(&say("backed", "stood in for", false)).await;
    assert_eq!(text(&answer), "echo: stood in for");
}

async fn replicas_share_the_work_and_stand_in_for_each_other(scene: Scene) {
    let models = start(&scene).await;
    // The least busy one is taken: of four at once each has two. Then both are told to answer.
    let bodies: Vec<Value> = (0..4).map(|_| say("many", "shared [[rt:together=3]]", false)).collect();
    let release = async {
        let both = async || (models.one.seen("shared").len(), models.two.seen("shared").len()) == (2, 2);
        until("each has two", Duration::from_secs(15), both).await;
        for runtime in [&models.one, &models.two] {
            let client = Client::new(&runtime.url());
            let bearer = format!("Bearer {}", runtime::KEY);
            let body = say("local-chat", "release [[rt:together=3]]", false).to_string();
            let headers = [("authorization", bearer.as_str())];
            assert_eq!(client.send("POST", "/chat/completions", &headers, body).await.status(), 200);
        }
    };
    let (answers, ()) = tokio::join!(join_all(bodies.iter().map(|body| models.ask(body))), release);
    assert!(answers.iter().all(|answer| answer.status == 200));
    models.one.set_down(true);
    for stream in [false, true, false, true, false, true, false, true] {
        let answer = models.ask(&say("many", "without one", stream)).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(models.two.seen("without one").len(), 8);
}

async fn callers_have_their_share(scene: Scene) {
    let models = Arc::new(start(&scene).await);
    let ask = |token: &'static str, body: Value| {
        let models = Arc::clone(&models);
        async move { models.ask_as(token, &body).await }
    };
    // One turn at a time, and three places: the first holds the slot.
    let holding = tokio::spawn(ask(AUTH_TOKEN, say("busy", "holding [[rt:together=2]]", false)));
    models.one.wait_for("holding").await;
    let mut greedy = JoinSet::new();
    for number in 0..4 {
        greedy.spawn(ask(AUTH_TOKEN, say("busy", &format!("greedy {number}"), false)));
    }
    let refused = async |greedy: &mut JoinSet<Answer>| {
        let answer = greedy.join_next().await.expect("one of them").expect("no panic");
        assert_eq!(answer.error(), (503, "queue_full".into()), "{}", answer.text);
    };
    // There is no place for the fourth, and the third has to give its own to another caller.
    refused(&mut greedy).await;
    let modest = tokio::spawn(ask(SECOND_TOKEN, say("busy", "modest", false)));
    refused(&mut greedy).await;
    // Another model of the same runtime has slots of its own.
    assert_eq!(models.ask(&say("local", "release [[rt:together=2]]", false)).await.status, 200);
    assert_eq!(holding.await.expect("no panic").status, 200);
    assert_eq!(modest.await.expect("no panic").status, 200);
    assert!(greedy.join_all().await.iter().all(|answer| answer.status == 200));
    let order: Vec<String> = models.one.seen("").iter().map(Seen::text).collect();
    let modest = order.iter().position(|text| text == "modest").expect("it was asked");
    let before = order[..modest].iter().filter(|text| text.starts_with("greedy")).count();
    assert!(before <= 1, "{order:?}");
}

async fn what_is_sent_is_shaped(scene: Scene) {
    let models = start(&scene).await;
    let said = |role: &str, text: &str| json!({"role": role, "content": text});
    let long = "word ".repeat(200);
    let messages = json!([
        said("system", "be kind"),
        said("user", &long),
        said("assistant", &long),
        said("user", "shaped")
    ]);
    let answer = models.ask(&json!({"model": "trimmed", "messages": messages, "seed": 7})).await;
    assert_eq!((text(&answer).as_str(), answer.header("x-minigate-trimmed-messages")), ("echo: shaped", "2"));
    let seen = models.one.seen("shaped").pop().expect("it was asked");
    assert_eq!(seen.body["messages"], json!([said("system", "be kind"), said("user", "shaped")]));
    assert_eq!((&seen.body["model"], &seen.body["seed"]), (&json!("local-chat"), &json!(7)));
    let refused = models.ask(&json!({"model": "small", "messages": messages})).await;
    assert_eq!(refused.error(), (400, "context_length_exceeded".into()));
    let capped = models
        .ask(&json!({"model": "small", "max_tokens": 9_000, "messages": [said("user", "capped")]}))
        .await;
    assert_eq!(capped.status, 200);
    assert_eq!(models.one.seen("capped").pop().expect("asked").body["max_tokens"], 100);
}

async fn a_caller_that_leaves_frees_the_runtime(scene: Scene) {
    let models = start(&scene).await;
    let bearer = format!("Bearer {AUTH_TOKEN}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = say("busy", "leaving us [[rt:stall=1]]", true).to_string();
    let response = models.client.send("POST", "/v1/chat/completions", &headers, body).await;
    assert_eq!(response.status(), 200);
    drop(response);
    models.one.wait_for_abort("leaving").await;
    assert_eq!(text(&models.ask(&say("busy", "next", false)).await), "echo: next");
}

async fn nothing_that_was_said_is_logged(scene: Scene) {
    let models = start(&scene).await;
    models.ask(&say("local", "prompt-canary", false)).await;
    models.ask(&say("local", "prompt-canary [[rt:error=500]]", true)).await;
    models.ask(&json!({"model": "prompt-canary", "messages": "prompt-canary"})).await;
    let lines = async || {
        models.host.records().iter().filter(|line| line["route"] == "/v1/chat/completions").count() == 3
    };
    until("three lines", Duration::from_secs(10), lines).await;
    let output = models.host.output();
    for word in ["prompt-canary", AUTH_TOKEN, runtime::KEY, runtime::DETAIL, "echo:"] {
        assert!(!output.contains(word), "{word}: {output}");
    }
    let records = models.host.records();
    let line = records.iter().find(|line| line["model"] == "local" && line["status"] == 200).expect("a line");
    assert_eq!((&line["inputTokens"], &line["outputTokens"]), (&json!(12), &json!(3)));
}
