//! Intents end to end: who answers, as what, and what stands in, on both hosts with one
//! configuration.

use std::{cell::RefCell, time::Duration};

use futures_util::future::join_all;
use minigate_tests::{
    client::{Answer, Client, KEY, whole},
    hosts::{Host, Kind},
    scripted::Seen,
    until,
    upstream::TOKEN,
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        an_intent_is_answered,
        an_answer_comes_as_events,
        a_dead_model_is_stood_in_for,
        a_self_hosted_model_answers_with_its_own_key,
        a_picture_survives_a_fallback,
        a_draft_comes_before_the_answer,
        a_whole_draft_is_refined_later,
        a_turn_is_its_owners,
        a_question_is_asked_once_for_all,
        the_operators_answer_needs_no_model,
        a_value_is_held_against_its_schema,
        personal_data_does_not_leave,
        a_day_has_its_end,
        a_header_chooses_within_the_list,
        a_rollout_is_sticky_and_counted,
        a_person_steers_a_rollout,
        a_role_has_its_own_profile,
        what_is_wrong_is_said,
    ];
    all.extend(scenarios![for &[Kind::Native]; a_turn_that_goes_on_is_drained]);
    all
}

/// Where `{GATEWAY}` is the scripted Gateway, which also plays the self-hosted model.
const CONFIGURATION: &str = r#"
models:
  fast: {kind: openclaw}
  local: {kind: openai_compatible, base_url: '{GATEWAY}/v1', model: local-chat, api_key: '${LOCAL_MODEL_API_KEY}'}
  dead: {kind: openai_compatible, base_url: 'http://127.0.0.1:9/v1', model: nobody, timeout_ms: 3000}
profiles:
  qa_v1: {model: fast, system_prompt: 'PROFILE qa_v1', max_tokens: 350, temperature: 0.2}
  qa_v2: {model: fast, system_prompt: 'PROFILE qa_v2'}
  strong_v1: {model: dead, fallback: qa_v1, attachments: true, system_prompt: 'PROFILE strong_v1'}
  local_v1: {model: local}
  refine_v1: {model: local, draft: qa_v1}
  failing_v1: {model: dead, draft: qa_v1}
  faq_v1: {model: fast, cache: {ttl: 1h, shared: true}}
  extract_v1: {model: fast, output: json, schema: order}
  private_v1: {model: fast, redact: true}
  rolling_v1: {model: fast, system_prompt: 'PROFILE rolling_v1'}
  rolling_v2: {model: fast, system_prompt: 'PROFILE rolling_v2'}
routing:
  qa: qa_v1
  complex: strong_v1
  local: local_v1
  refine: refine_v1
  failing: failing_v1
  faq: faq_v1
  extract: extract_v1
  private: private_v1
  rolling:
    profile: rolling_v1
    rollout: {to: rolling_v2, steps: [{percent: 50, at_least: 1h, turns: 1000}]}
environments:
  prod:
    allowed_profiles: [qa_v1, qa_v2, strong_v1, local_v1, refine_v1, failing_v1, faq_v1, extract_v1, private_v1, rolling_v1, rolling_v2]
schemas:
  order: {type: object, required: [id], properties: {id: {type: string}}}
faq:
  - {intent: faq, questions: ['营业时间？'], answer: '9:00 到 18:00'}
"#;

const ADMIN_KEY: &str = "admin-key-canary-66b0";
const SERVER_KEY: &str = "server-key-canary-1c9d";

/// A host with that configuration, and what is added to it.
async fn start(scene: &Scene, more: &str) -> Host {
    start_with(scene, CONFIGURATION, more).await
}

async fn start_with(scene: &Scene, yaml: &str, more: &str) -> Host {
    let yaml = yaml.replace("{GATEWAY}", &scene.upstream().url);
    let mut files = vec![("intents.yaml", yaml.as_str())];
    if !more.is_empty() {
        files.push(("more.yaml", more));
    }
    let settings = [
        ("API_KEY", KEY),
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("LOCAL_MODEL_API_KEY", TOKEN),
        ("ADMIN_KEY", ADMIN_KEY),
        ("SERVER_KEY", SERVER_KEY),
        ("TOKEN_SECRET", "token-secret-canary-4d20"),
        ("SESSION_SECRET", "session-secret-canary-9e77"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("ABUSE_PROTECTION", "off"),
        ("CONNECT_TIMEOUT_MS", "1000"),
    ];
    Host::start_with_config(scene.kind, &files, &settings).await
}

fn ask(intent: &str, text: &str) -> Value {
    json!({"intent": intent, "input": {"text": text}})
}

async fn send(client: &Client, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all = vec![("x-api-key", KEY), ("content-type", "application/json")];
    all.extend_from_slice(headers);
    let response = client.send("POST", "/v1/mini/ask", &all, body.to_string()).await;
    whole(response).await
}

/// Waits for a word in the host's log.
async fn logged(host: &Host, word: &str) {
    until(word, Duration::from_secs(10), async || host.output().contains(word)).await;
}

/// What the scripted Gateway was last asked with that marker.
fn last(scene: &Scene, marker: &str) -> Seen {
    scene.upstream().seen(marker).pop().expect("it was asked")
}

/// The events of a stream by name.
fn events(answer: &Answer) -> Vec<(String, Value)> {
    assert_eq!(answer.status, 200, "{}", answer.text);
    let events = answer.text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    events
        .map(|event| {
            let of = |key: &str| event.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
            (of("event: ").to_owned(), serde_json::from_str(of("data: ")).expect("JSON"))
        })
        .collect()
}

fn texts(events: &[(String, Value)], of: &str) -> String {
    events.iter().filter(|(name, _)| name == of).filter_map(|(_, data)| data["text"].as_str()).collect()
}

async fn an_intent_is_answered(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let text = scene.marker("intent");
    let mut body = ask("qa", &format!("{text} [[up:text=好]]"));
    body["traceId"] = json!("1710000123456");
    body["userId"] = json!("u_123");
    body["input"]["maxBullets"] = json!(6);
    let answer = send(&client, &[], &body).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    let value = answer.json();
    assert_eq!((&value["answer"], &value["profile"]), (&json!("好"), &json!("qa_v1")));
    assert_eq!((&value["traceId"], &value["label"]), (&json!("1710000123456"), &json!("AI生成")));
    assert_eq!(answer.header("x-trace-id"), "1710000123456");
    let seen = last(&scene, &text);
    assert_eq!((&seen.body["max_tokens"], &seen.body["temperature"]), (&json!(350), &json!(0.2)));
    assert!(seen.texts("system")[0].starts_with("PROFILE qa_v1\n"));
    assert!(seen.text().ends_with("Use at most 6 bullet points."), "{}", seen.text());
    let same = client.send("POST", "/v1/mini/ai", &[("x-api-key", KEY)], body.to_string()).await;
    assert_eq!(same.status(), 200);
    host.stop().await;
}

async fn an_answer_comes_as_events(scene: Scene) {
    let host = start(&scene, "").await;
    let mut body = ask("qa", "[[up:text=一二三四五六七八九十]]");
    body["stream"] = json!(true);
    let answer = send(&Client::new(&host.url), &[], &body).await;
    let all = events(&answer);
    assert_eq!(texts(&all, "delta"), "一二三四五六七八九十");
    assert_eq!((all[0].0.as_str(), all[all.len() - 1].0.as_str()), ("meta", "done"));
    assert!(all[all.len() - 1].1["usage"]["total_tokens"].as_u64().is_some_and(|tokens| tokens > 0));
    for (number, event) in
        answer.text.split_terminator("\n\n").filter(|event| !event.starts_with(':')).enumerate()
    {
        assert!(event.starts_with(&format!("id: {}\n", number + 1)), "{event}");
    }
    body["ascii"] = json!(true);
    let ascii = send(&Client::new(&host.url), &[], &body).await;
    assert!(ascii.text.is_ascii());
    assert_eq!(texts(&events(&ascii), "delta"), "一二三四五六七八九十");
    host.stop().await;
}

async fn a_dead_model_is_stood_in_for(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let answer = send(&client, &[], &ask("complex", "[[up:text=快]]")).await;
    let value = answer.json();
    assert_eq!((&value["answer"], &value["profile"]), (&json!("快"), &json!("qa_v1")), "{}", answer.text);
    assert_eq!((&value["degraded"], &value["warnings"][0]["code"]), (&json!(true), &json!("fallback")));
    let mut body = ask("complex", "[[up:text=快]]");
    body["stream"] = json!(true);
    let all = events(&send(&client, &[], &body).await);
    assert_eq!(texts(&all, "delta"), "快");
    host.stop().await;
}

async fn a_self_hosted_model_answers_with_its_own_key(scene: Scene) {
    let host = start(&scene, "").await;
    let text = scene.marker("local");
    let answer = send(&Client::new(&host.url), &[], &ask("local", &format!("{text} [[up:text=本地]]"))).await;
    assert_eq!(answer.json()["answer"], "本地", "{}", answer.text);
    let seen = last(&scene, &text);
    assert_eq!((seen.path.as_str(), &seen.body["model"]), ("/v1/chat/completions", &json!("local-chat")));
    assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert!(!host.output().contains(TOKEN));
    host.stop().await;
}

async fn a_picture_survives_a_fallback(scene: Scene) {
    let host = start(&scene, "").await;
    let picture = minigate_tests::media::encode(&minigate_tests::media::png(30_000));
    let text = scene.marker("picture-twice");
    let mut body = ask("complex", &format!("{text} [[up:text=看到了]]"));
    body["attachments"] = json!([{"type": "image", "data": picture, "mimeType": "image/png"}]);
    let answer = send(&Client::new(&host.url), &[], &body).await;
    assert_eq!(answer.json()["answer"], "看到了", "{}", answer.text);
    let seen = last(&scene, &text);
    assert_eq!(seen.path, "/v1/responses");
    assert_eq!(seen.newest()[1]["source"]["data"], picture);
    host.stop().await;
}

async fn a_draft_comes_before_the_answer(scene: Scene) {
    let host = start(&scene, "").await;
    let mut body = ask("refine", "[[up:text=稿]]");
    body["stream"] = json!(true);
    let all = events(&send(&Client::new(&host.url), &[], &body).await);
    assert_eq!((texts(&all, "draft"), texts(&all, "refined")), ("稿".into(), "稿".into()), "{all:?}");
    assert_eq!(all[all.len() - 1].1["profile"], "refine_v1");
    host.stop().await;
}

/// What has become of a turn, for whoever has that credential.
async fn look(host: &Host, credential: &str, id: &str) -> Answer {
    let bearer = format!("Bearer {credential}");
    let path = format!("/v1/mini/turns/{id}");
    // A connection of its own: whoever asked may be gone.
    whole(Client::new(&host.url).send("GET", &path, &[("authorization", &bearer)], "").await).await
}

/// Looks until the turn is over.
async fn over(host: &Host, credential: &str, id: &str) -> Value {
    let end = RefCell::new(Value::Null);
    until("the turn to be over", Duration::from_secs(60), async || {
        let answer = look(host, credential, id).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        let running = answer.json()["state"] == "running";
        assert!(!running || answer.header("retry-after") == "2");
        *end.borrow_mut() = answer.json();
        !running
    })
    .await;
    end.into_inner()
}

async fn a_whole_draft_is_refined_later(scene: Scene) {
    let host = start(&scene, "").await;
    let text = scene.marker("refined-later");
    let client = Client::new(&host.url);
    let draft = send(&client, &[], &ask("refine", &format!("{text} [[up:slow=5000]][[up:text=稿]]"))).await;
    // Who asked closes its connection with the draft in its hands.
    drop(client);
    let value = draft.json();
    assert_eq!((&value["answer"], &value["draft"]), (&json!("稿"), &json!(true)), "{}", draft.text);
    assert_eq!((draft.status, &value["profile"]), (200, &json!("qa_v1")));
    let id = value["requestId"].as_str().expect("an id");
    assert_eq!(draft.header("location"), format!("/v1/mini/turns/{id}"));
    assert_eq!(draft.header("retry-after"), "2");
    let first = look(&host, KEY, id).await;
    assert_eq!(first.json()["state"], "running", "{}", first.text);
    let done = over(&host, KEY, id).await;
    assert_eq!((&done["state"], &done["answer"]), (&json!("done"), &json!("稿")), "{done}");
    assert_eq!((&done["profile"], &done["requestId"]), (&json!("refine_v1"), &json!(id)));
    assert_eq!(scene.upstream().seen(&text).len(), 2);
    let lines = || host.records().into_iter().filter(|line| line["requestId"] == id).collect::<Vec<_>>();
    minigate_tests::until("its line", Duration::from_secs(10), || async { !lines().is_empty() }).await;
    let lines = lines();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((&lines[0]["drafted"], &lines[0]["status"]), (&json!(true), &json!(200)));
    host.stop().await;
}

async fn a_turn_is_its_owners(scene: Scene) {
    let host = start(&scene, "").await;
    let (one, two) = (token(&host, "one", "").await, token(&host, "two", "").await);
    let client = Client::new(&host.url);
    let bearer = format!("Bearer {one}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    // The draft's model answers, and the real one does not.
    let body = ask("failing", "[[up:text=稿]]").to_string();
    let draft = whole(client.send("POST", "/v1/mini/ask", &headers, body).await).await;
    let id = draft.json()["requestId"].as_str().unwrap_or_else(|| panic!("{}", draft.text)).to_owned();
    for stranger in [two.as_str(), KEY] {
        assert_eq!(look(&host, stranger, &id).await.error(), (404, "turn_unknown".into()));
    }
    let failed = over(&host, &one, &id).await;
    assert_eq!((&failed["state"], failed["error"]["code"].is_string()), (&json!("failed"), true), "{failed}");
    assert_eq!(look(&host, &two, &id).await.error(), (404, "turn_unknown".into()));
    assert_eq!(look(&host, "nonsense", &id).await.status, 401);
    host.stop().await;
}

async fn a_turn_that_goes_on_is_drained(scene: Scene) {
    let mut host = start(&scene, "").await;
    let draft =
        send(&Client::new(&host.url), &[], &ask("refine", "[[up:slow=1500]][[up:text=稿]]")).await.json();
    assert_eq!(draft["draft"], true, "{draft}");
    host.terminate();
    assert_eq!(host.wait().await, Some(0));
    let record = host.records().into_iter().find(|line| line["requestId"] == draft["requestId"]);
    let record = record.expect("the turn came to its end");
    assert_eq!((&record["drafted"], &record["attempts"]), (&json!(true), &json!(2)), "{record}");
    assert_eq!((record.get("code"), record.get("clientGone")), (None, None), "{record}");
}

async fn a_question_is_asked_once_for_all(scene: Scene) {
    let host = start(&scene, "").await;
    let text = scene.marker("faq");
    let client = Client::new(&host.url);
    let question = format!("{text} 怎么退货？[[up:slow=60]][[up:text=七天内可退]]");
    let body = ask("faq", &question);
    let answers = join_all((0..8).map(|_| send(&client, &[], &body))).await;
    let cached = answers.iter().filter(|answer| answer.json()["cached"] == true).count();
    for answer in &answers {
        assert_eq!(answer.json()["answer"], "七天内可退", "{}", answer.text);
    }
    assert_eq!(cached, 7);
    assert_eq!(scene.upstream().seen(&text).len(), 1);
    // Another spelling, and as a stream.
    let mut again =
        ask("faq", &question.replace('？', "?").to_uppercase().replace("[[UP:SLOW=60]]", "[[up:slow=60]]"));
    again["stream"] = json!(true);
    let all = events(&send(&client, &[], &again).await);
    let names: Vec<&str> = all.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["meta", "delta", "done"]);
    let done = &all[all.len() - 1].1;
    assert_eq!((texts(&all, "delta").as_str(), &done["cached"]), ("七天内可退", &json!(true)), "{all:?}");
    host.stop().await;
}

async fn the_operators_answer_needs_no_model(scene: Scene) {
    let host = start(&scene, "").await;
    let answer = send(&Client::new(&host.url), &[], &ask("faq", " 营业时间 ")).await;
    assert_eq!((&answer.json()["answer"], &answer.json()["cached"]), (&json!("9:00 到 18:00"), &json!(true)));
    host.stop().await;
}

async fn a_value_is_held_against_its_schema(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let good = send(&client, &[], &ask("extract", r#"[[up:text=Sure: {"id": "A1"} ok]]"#)).await;
    assert_eq!((good.status, &good.json()["data"]["id"]), (200, &json!("A1")), "{}", good.text);
    let text = scene.marker("invalid");
    let bad = send(&client, &[], &ask("extract", &format!(r#"{text} [[up:text={{"id": 7}}]]"#))).await;
    assert_eq!(bad.error(), (502, "answer_invalid".into()), "{}", bad.text);
    logged(&host, r#""violations":["#).await;
    let unknown = json!({"intent": "extract", "input": {"text": "x", "schemaName": "nope"}});
    assert_eq!(send(&client, &[], &unknown).await.error(), (400, "schema_unknown".into()));
    host.stop().await;
}

async fn personal_data_does_not_leave(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let mut body = ask("private", "[[up:split]][[up:text=电话 13800138000 邮箱 a.b@example.com 完]]");
    let whole = send(&client, &[], &body).await;
    assert_eq!(whole.json()["answer"], "电话 [mobile] 邮箱 [email] 完", "{}", whole.text);
    body["stream"] = json!(true);
    let streamed = send(&client, &[], &body).await;
    assert_eq!(texts(&events(&streamed), "delta"), "电话 [mobile] 邮箱 [email] 完");
    assert!(!streamed.text.contains("13800"), "{}", streamed.text);
    assert!(!host.output().contains("13800138000"), "the prompt is not logged either");
    host.stop().await;
}

async fn a_day_has_its_end(scene: Scene) {
    let host = start(&scene, "limits: {requests_per_day: 2}\n").await;
    let client = Client::new(&host.url);
    let mut body = ask("qa", "x");
    body["userId"] = json!("one");
    assert_eq!(send(&client, &[], &body).await.status, 200);
    assert_eq!(send(&client, &[], &body).await.status, 200);
    let third = send(&client, &[], &body).await;
    assert_eq!(third.error(), (429, "budget_exhausted".into()));
    assert!(third.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds <= 86_400));
    body["userId"] = json!("another");
    assert_eq!(send(&client, &[], &body).await.status, 200);
    host.stop().await;
}

async fn a_header_chooses_within_the_list(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    for (wanted, expected) in
        [("qa_v2", "qa_v2"), ("strong_v1", "qa_v1"), ("nope_v9", "qa_v1"), ("", "qa_v1")]
    {
        let answer = send(&client, &[("x-openclaw-profile", wanted)], &ask("qa", "x")).await;
        assert_eq!(answer.json()["profile"], expected, "{wanted}: {}", answer.text);
    }
    for reason in [r#""profileIgnored":"dearer""#, r#""profileIgnored":"unknown""#] {
        logged(&host, reason).await;
    }
    host.stop().await;
}

async fn a_rollout_is_sticky_and_counted(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let mut versions = Vec::new();
    for user in 0..12 {
        let mut body = ask("rolling", "x");
        body["userId"] = json!(format!("user-{user}"));
        let first = send(&client, &[], &body).await.json()["profile"].clone();
        let second = send(&client, &[], &body).await.json()["profile"].clone();
        assert_eq!(first, second, "nobody flips");
        versions.push(first);
    }
    for version in ["rolling_v1", "rolling_v2"] {
        assert!(versions.contains(&json!(version)), "{versions:?}");
    }
    logged(&host, r#""event":"rollout""#).await;
    assert_eq!(host.output().matches(r#""event":"rollout""#).count(), 1, "it began, and that is said once");
    host.stop().await;
}

async fn a_person_steers_a_rollout(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    let bearer = format!("Bearer {ADMIN_KEY}");
    let admin = async |method: &str, body: String| {
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        whole(client.send(method, "/v1/admin/rollouts", &headers, body).await).await
    };
    let order =
        async |order: &str| admin("POST", json!({"intent": "rolling", "order": order}).to_string()).await;
    let versions = async || {
        let mut seen = Vec::new();
        for user in 0..6 {
            let mut body = ask("rolling", "x");
            body["userId"] = json!(format!("user-{user}"));
            seen.push(send(&client, &[], &body).await.json()["profile"].clone());
        }
        seen
    };
    let promoted = order("promote").await;
    assert_eq!((promoted.status, &promoted.json()["state"]), (200, &json!("promoted")), "{}", promoted.text);
    assert_eq!(versions().await, vec![json!("rolling_v2"); 6]);
    assert_eq!(order("roll_back").await.json()["shareBasisPoints"], 0);
    assert_eq!(versions().await, vec![json!("rolling_v1"); 6]);
    let shown = admin("GET", String::new()).await.json();
    let rollout = &shown["rollouts"][0];
    assert_eq!(
        (&rollout["intent"], &rollout["state"]),
        (&json!("rolling"), &json!("rolled_back")),
        "{shown}"
    );
    assert_eq!(rollout["candidate"]["turns"], 6, "{shown}");
    assert_eq!(order("explode").await.error(), (400, "order_unknown".into()));
    for line in [r#""because":"promote""#, r#""because":"roll_back""#] {
        logged(&host, line).await;
        assert_eq!(host.output().matches(line).count(), 1, "{line}: {}", host.output());
    }
    let stranger =
        client.send("GET", "/v1/admin/rollouts", &[("authorization", "Bearer x")], String::new()).await;
    assert_eq!(stranger.status(), 401);
    host.stop().await;
}

/// A token for a person, from the team's backend.
async fn token(host: &Host, person: &str, role: &str) -> String {
    let mut body = json!({"userId": person});
    if !role.is_empty() {
        body["role"] = json!(role);
    }
    let bearer = format!("Bearer {SERVER_KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let client = Client::new(&host.url);
    let answer = whole(client.send("POST", "/v1/mini/token", &headers, body.to_string()).await).await;
    answer.json()["token"].as_str().unwrap_or_else(|| panic!("no token: {}", answer.text)).to_owned()
}

async fn a_role_has_its_own_profile(scene: Scene) {
    let more = "
roles: {vip: {}}
profiles: {vip_v1: {model: fast, roles: [vip]}}
routing: {shared: {profile: qa_v1, roles: {vip: vip_v1}}, exclusive: vip_v1}
";
    let yaml = CONFIGURATION.replace("rolling_v2]\n", "rolling_v2, vip_v1]\n");
    assert_ne!(yaml, CONFIGURATION);
    let host = start_with(&scene, &yaml, more).await;
    let client = Client::new(&host.url);
    let asked = async |token: &str, intent: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        whole(client.send("POST", "/v1/mini/ask", &headers, ask(intent, "x").to_string()).await).await
    };
    let (vip, other) = (token(&host, "one", "vip").await, token(&host, "two", "").await);
    assert_eq!(asked(&vip, "shared").await.json()["profile"], "vip_v1");
    assert_eq!(asked(&other, "shared").await.json()["profile"], "qa_v1");
    assert_eq!(asked(&vip, "exclusive").await.status, 200);
    assert_eq!(asked(&other, "exclusive").await.error(), (403, "profile_forbidden".into()));
    host.stop().await;
}

async fn what_is_wrong_is_said(scene: Scene) {
    let host = start(&scene, "").await;
    let client = Client::new(&host.url);
    for (body, expected) in [
        (json!({"intent": "nope", "input": {"text": "x"}}), (400, "intent_unknown")),
        (json!({"input": {"text": "x"}}), (400, "invalid_json")),
        (json!({"intent": "qa"}), (400, "input_invalid")),
        (json!({"intent": "qa", "input": {"text": "x", "system_prompt": "evil"}}), (400, "input_invalid")),
        (json!({"intent": "qa", "input": {"text": "x".repeat(20_001)}}), (413, "input_too_long")),
        (json!({"intent": "qa", "input": {"text": ""}}), (400, "message_empty")),
    ] {
        let answer = send(&client, &[], &body).await;
        assert_eq!(answer.error(), (expected.0, expected.1.to_owned()), "{}", answer.text);
    }
    let nobody = client.send("POST", "/v1/mini/ask", &[], ask("qa", "x").to_string()).await;
    assert_eq!(nobody.status(), 401);
    let plain = client.send("GET", "/v1/mini/ask", &[("x-api-key", KEY)], String::new()).await;
    assert_eq!(plain.status(), 405);
    host.stop().await;
}
