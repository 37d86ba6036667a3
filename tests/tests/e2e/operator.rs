//! What an operator's page and the operator's commands use: sessions, the overview, the story of a trace,
//! feedback; on both hosts.

use std::{process::Stdio, time::Duration};

use minigate_tests::{
    client::{Answer, Client, KEY, whole},
    hosts::Host,
    required, until,
    upstream::TOKEN,
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        a_session_is_opened_used_and_given_back,
        a_wrong_key_counts_like_any_other,
        the_overview_moves_with_requests,
        a_trace_is_told_with_its_feedback,
        feedback_is_its_owners_and_counts_once,
        the_commands_show_what_the_routes_say,
    ]
}

const CONFIGURATION: &str = "
models:
  fast: {kind: openclaw}
profiles:
  rolling_v1: {model: fast}
  rolling_v2: {model: fast}
routing:
  rolling:
    profile: rolling_v1
    rollout: {to: rolling_v2, steps: [{percent: 100, at_least: 1h, turns: 1000}], guard: {down: 20}}
";
const ADMIN_KEY: &str = "admin-key-canary-0b7e";
const SERVER_KEY: &str = "server-key-canary-53aa";
const LONG: Duration = Duration::from_secs(30);

async fn start(scene: &Scene, more: &[(&str, &str)]) -> Host {
    let mut settings = vec![
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("ADMIN_KEY", ADMIN_KEY),
        ("SERVER_KEY", SERVER_KEY),
        ("TOKEN_SECRET", "token-secret-canary-77c1"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("RATE_LIMIT_PER_ADDRESS", "0"),
    ];
    settings.extend_from_slice(more);
    Host::start_with_config(scene.kind, &[("operator.yaml", CONFIGURATION)], &settings).await
}

async fn quiet(scene: &Scene) -> Host {
    start(scene, &[("ABUSE_PROTECTION", "off")]).await
}

async fn send(client: &Client, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    let body = if body.is_null() { String::new() } else { body.to_string() };
    whole(client.send(method, path, &all, body).await).await
}

async fn log_in(client: &Client, key: &str) -> Answer {
    send(client, "POST", "/v1/admin/session", &[], &json!({"key": key})).await
}

/// The cookie as a browser sends it, and the page's CSRF token.
async fn session(client: &Client) -> (String, String) {
    let answer = log_in(client, ADMIN_KEY).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let set = answer.header("set-cookie").to_owned();
    for part in ["__Host-", "; Secure", "; HttpOnly", "; SameSite=Strict", "; Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    let cookie = set.split(';').next().expect("a pair").to_owned();
    (cookie, answer.json()["csrf"].as_str().expect("a token").to_owned())
}

async fn admin(client: &Client, path: &str) -> Answer {
    let bearer = format!("Bearer {ADMIN_KEY}");
    send(client, "GET", path, &[("authorization", &bearer)], &Value::Null).await
}

/// A person's token from the team's own backend.
async fn token_of(client: &Client, person: &str) -> String {
    let bearer = format!("Bearer {SERVER_KEY}");
    let body = json!({"userId": person});
    let answer = send(client, "POST", "/v1/mini/token", &[("authorization", &bearer)], &body).await;
    answer.json()["token"].as_str().expect("a token").to_owned()
}

/// The person asks; the answer's trace.
async fn ask(client: &Client, token: &str, trace: &str) {
    let bearer = format!("Bearer {token}");
    let body = json!({"intent": "rolling", "input": {"text": "operator-canary"}});
    let headers = [("authorization", bearer.as_str()), ("x-trace-id", trace)];
    let answer = send(client, "POST", "/v1/mini/ask", &headers, &body).await;
    assert_eq!((answer.status, answer.header("x-trace-id")), (200, trace), "{}", answer.text);
}

async fn rate(client: &Client, token: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {token}");
    send(client, "POST", "/v1/mini/feedback", &[("authorization", &bearer)], body).await
}

/// Waits for the ledger, which is written a moment after an answer.
async fn told(client: &Client, trace: &str, records: usize) -> Value {
    let path = format!("/v1/admin/trace/{trace}");
    // That a rollout begins is a record of the first request's.
    let look = async || {
        let mut story = admin(client, &path).await.json();
        if let Some(all) = story["records"].as_array_mut() {
            all.retain(|record| record["kind"] != "rollout");
        }
        story
    };
    let known = async || look().await["records"].as_array().map_or(0, Vec::len);
    until("the records", LONG, async || known().await >= records).await;
    look().await
}

async fn a_session_is_opened_used_and_given_back(scene: Scene) {
    let host = quiet(&scene).await;
    let client = Client::new(&host.url);
    assert_eq!(send(&client, "GET", "/v1/admin/session", &[], &Value::Null).await.error().0, 401);
    let (cookie, csrf) = session(&client).await;
    let cookie = ("cookie", cookie.as_str());
    let who = send(&client, "GET", "/v1/admin/session", &[cookie], &Value::Null).await;
    assert_eq!((who.status, &who.json()["csrf"]), (200, &json!(csrf)), "{}", who.text);
    for path in ["/v1/admin/overview", "/v1/admin/rollouts", "/v1/admin/approvals", "/v1/admin/audit?after=0"]
    {
        assert_eq!(send(&client, "GET", path, &[cookie], &Value::Null).await.status, 200, "{path}");
    }

    let order = json!({"intent": "rolling", "order": "hold"});
    let steer =
        async |headers: &[(&str, &str)]| send(&client, "POST", "/v1/admin/rollouts", headers, &order).await;
    let forbidden = (403, "csrf_invalid".to_owned());
    assert_eq!(steer(&[cookie]).await.error(), forbidden);
    let csrf = ("x-csrf-token", csrf.as_str());
    assert_eq!(steer(&[cookie, csrf, ("sec-fetch-site", "cross-site")]).await.error(), forbidden);
    assert_eq!(steer(&[cookie, csrf, ("origin", "https://evil.example")]).await.error(), forbidden);
    let own = ("origin", host.url.as_str());
    assert_eq!(steer(&[cookie, csrf, own]).await.status, 200, "the host that was asked");

    // A person is no operator.
    let token = token_of(&client, "person-1").await;
    let bearer = format!("Bearer {token}");
    let foreign = format!("__Host-minigate-operator={token}");
    for header in [("authorization", bearer.as_str()), ("cookie", foreign.as_str())] {
        let answer = send(&client, "GET", "/v1/admin/overview", &[header], &Value::Null).await;
        assert_eq!(answer.error(), (401, "unauthorized".into()));
    }

    let out = send(&client, "DELETE", "/v1/admin/session", &[cookie, csrf], &Value::Null).await;
    assert!(out.status == 200 && out.header("set-cookie").contains("Max-Age=0"), "{}", out.text);
    let after = send(&client, "GET", "/v1/admin/session", &[cookie], &Value::Null).await;
    assert_eq!(after.error(), (401, "unauthorized".into()), "also for a copy of the cookie");

    let ledger = async || admin(&client, "/v1/admin/audit?after=0").await.text;
    until("both records", LONG, async || {
        let all = ledger().await;
        all.contains("operator_login") && all.contains("operator_logout")
    })
    .await;
    let all = ledger().await;
    let token = cookie.1.split_once('=').expect("a pair").1;
    for secret in [ADMIN_KEY, token, csrf.1] {
        assert!(!all.contains(secret) && !host.output().contains(secret), "a secret is written down");
    }
    host.stop().await;
}

async fn a_wrong_key_counts_like_any_other(scene: Scene) {
    let host = start(&scene, &[("ABUSE_PROTECTION", "on")]).await;
    let client = Client::new(&host.url);
    let mut refused = 0;
    let blocked = loop {
        let answer = log_in(&client, "wrong-key-canary-1d").await;
        match answer.error() {
            (401, code) if code == "unauthorized" && refused < 40 => refused += 1,
            other => break other,
        }
    };
    // Points go with time: on a slow machine it takes one more.
    assert_eq!(blocked, (429, "blocked".to_owned()));
    assert!((23..30).contains(&refused), "{refused}");
    assert_eq!(log_in(&client, ADMIN_KEY).await.error().0, 429, "the right one tells no more");
    host.stop().await;
}

async fn the_overview_moves_with_requests(scene: Scene) {
    let host = quiet(&scene).await;
    let client = Client::new(&host.url);
    let row = async || {
        let overview = admin(&client, "/v1/admin/overview").await.json();
        let rows = overview["profiles"].as_array().cloned().unwrap_or_default();
        rows.into_iter().find(|row| row["profile"] == "rolling_v2").unwrap_or_default()
    };
    assert_eq!(row().await, Value::Null);
    let token = token_of(&client, "person-1").await;
    for number in 0..3 {
        ask(&client, &token, &format!("overview-{number}")).await;
    }
    until("three turns", LONG, async || row().await["requests"] == 3).await;
    let row = row().await;
    assert_eq!((&row["version"], &row["errors"]), (&json!("candidate"), &json!(0)));
    assert!(row["latencyMs"]["p95"].is_u64() && row["tokens"].as_u64() > Some(0), "{row}");
    let overview = admin(&client, "/v1/admin/overview").await.json();
    let upstream = &overview["upstreams"][0];
    assert_eq!((&upstream["name"], &upstream["breaker"]), (&json!("openclaw"), &json!("closed")));
    assert_eq!((&overview["approvals"], &overview["rollouts"][0]["state"]), (&json!(0), &json!("running")));
    assert!(overview["config"]["version"].as_str().is_some_and(|version| !version.is_empty()));
    host.stop().await;
}

async fn a_trace_is_told_with_its_feedback(scene: Scene) {
    let host = quiet(&scene).await;
    let client = Client::new(&host.url);
    assert_eq!(admin(&client, "/v1/admin/trace/nobody").await.error(), (404, "trace_unknown".into()));
    let token = token_of(&client, "person-1").await;
    ask(&client, &token, "told-1").await;
    told(&client, "told-1", 1).await;
    let body = json!({"traceId": "told-1", "rating": "down", "comment": "feedback-canary"});
    assert_eq!(rate(&client, &token, &body).await.status, 200);
    let story = told(&client, "told-1", 2).await;
    let records = story["records"].as_array().expect("records");
    assert_eq!((&records[0]["kind"], &records[1]["kind"]), (&json!("turn"), &json!("feedback")));
    assert_eq!(records[1]["about"], records[0]["requestId"]);
    assert_eq!((&story["feedback"][0]["rating"], &story["turn"]), (&json!("down"), &Value::Null));
    assert!(!story.to_string().contains("feedback-canary"), "in prod no text is kept");
    let id = records[0]["requestId"].as_str().expect("an id");
    let by_request = admin(&client, &format!("/v1/admin/trace/{id}")).await.json();
    let by_request = by_request["records"].as_array().expect("records");
    assert!(by_request.contains(&records[0]), "{by_request:?}");

    // A turn that outlived its connection is shown as it stands.
    let bearer = format!("Bearer {token}");
    let headers = [("authorization", bearer.as_str()), ("x-trace-id", "told-2"), ("prefer", "respond-async")];
    let body = json!({"intent": "rolling", "input": {"text": "operator-canary"}});
    assert_eq!(send(&client, "POST", "/v1/mini/ask", &headers, &body).await.status, 202);
    until("its end", LONG, async || {
        admin(&client, "/v1/admin/trace/told-2").await.json()["turn"]["state"] == "done"
    })
    .await;
    host.stop().await;
}

async fn feedback_is_its_owners_and_counts_once(scene: Scene) {
    let host = quiet(&scene).await;
    let client = Client::new(&host.url);
    let (mine, others) = (token_of(&client, "person-1").await, token_of(&client, "person-2").await);
    ask(&client, &mine, "rated-1").await;
    told(&client, "rated-1", 1).await;
    let body = |rating: &str| json!({"traceId": "rated-1", "rating": rating});
    let unknown = (404, "trace_unknown".to_owned());
    assert_eq!(rate(&client, &others, &body("down")).await.error(), unknown);
    assert_eq!(rate(&client, &mine, &json!({"traceId": "x", "rating": "up"})).await.error(), unknown);
    assert_eq!(rate(&client, "nobody", &body("down")).await.error().0, 401);
    assert_eq!(rate(&client, &mine, &body("meh")).await.error(), (400, "input_invalid".into()));
    for (rating, replaced) in [("down", false), ("up", true), ("down", true)] {
        let answer = rate(&client, &mine, &body(rating)).await;
        assert_eq!((answer.status, &answer.json()["replaced"]), (200, &json!(replaced)), "{}", answer.text);
    }
    let counts = json!([{"profile": "rolling_v2", "version": "candidate", "up": 0, "down": 1}]);
    until("it to be counted", LONG, async || {
        admin(&client, "/v1/admin/feedback").await.json()["counts"] == counts
    })
    .await;
    let shown = admin(&client, "/v1/admin/feedback").await.json();
    assert_eq!(
        (&shown["feedback"][0]["traceId"], shown["feedback"].as_array().map(Vec::len)),
        (&json!("rated-1"), Some(1))
    );
    until("the rollout to know", LONG, async || {
        admin(&client, "/v1/admin/rollouts").await.json()["rollouts"][0]["candidate"]["down"] == 1
    })
    .await;
    host.stop().await;
}

/// `minigate ...` with the operator's key in the environment, and with no other setting.
pub(crate) async fn minigate(key: Option<&str>, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = tokio::process::Command::new(required("MINIGATE_BIN"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    if let Some(key) = key {
        command.env("ADMIN_KEY", key);
    }
    let output = command.output().await.expect("it starts");
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.code(), said.concat())
}

async fn the_commands_show_what_the_routes_say(scene: Scene) {
    let host = quiet(&scene).await;
    let client = Client::new(&host.url);
    let token = token_of(&client, "person-1").await;
    ask(&client, &token, "shown-1").await;
    told(&client, "shown-1", 1).await;
    let at = ["--url", host.url.as_str()];
    let run = async |words: &[&str]| minigate(Some(ADMIN_KEY), &[words, &at].concat()).await;
    until("the turn to be counted", LONG, async || run(&["stats"]).await.1.contains("rolling_v2 (new)"))
        .await;

    for words in [&["stats"][..], &["top"], &["top", "--once"]] {
        let (code, said) = run(words).await;
        assert!(code == Some(0) && said.contains("openclaw") && said.contains("closed"), "{words:?}: {said}");
        assert!(!said.contains('\u{1b}'), "no terminal, no escapes");
    }
    let (code, said) = run(&["stats", "--json"]).await;
    let parsed: Value = serde_json::from_str(&said).expect("JSON");
    assert!(code == Some(0) && parsed["profiles"].is_array(), "{said}");
    let (code, said) = run(&["trace", "shown-1"]).await;
    assert!(code == Some(0) && said.contains("auth: caller=person"), "{said}");
    assert!(said.contains("outcome=passed") && said.contains("version=candidate"), "{said}");
    let (code, said) = run(&["trace", "nobody"]).await;
    assert!(code == Some(1) && said.starts_with("trace_unknown: "), "{said}");
    assert_eq!(run(&["approvals"]).await, (Some(0), "nothing waits\n".to_owned()));
    let gone = format!("apr_{}_1", "0".repeat(32));
    let (code, said) = run(&["approvals", "refuse", &gone]).await;
    assert!(code == Some(1) && said.contains("turn_unknown"), "{said}");
    let (code, said) = run(&["approvals", "approve", &gone]).await;
    assert!(code == Some(1) && said.contains("turn_unknown"), "{said}");

    let (code, said) = minigate(Some("wrong-key-canary-5f"), &[&["stats"][..], &at].concat()).await;
    assert!(code == Some(1) && said.starts_with("unauthorized: ") && !said.contains("canary"), "{said}");
    let (code, said) = minigate(None, &[&["stats"][..], &at].concat()).await;
    assert!(code == Some(1) && said.contains("ADMIN_KEY: not set"), "{said}");
    let (code, said) = minigate(Some(ADMIN_KEY), &["stats", "--url", "http://127.0.0.1:9"]).await;
    assert!(code == Some(1) && said.starts_with("http://127.0.0.1:9: "), "{said}");
    host.stop().await;
}
