//! Turns that outlive their connection, and tools, before the real OpenClaw: what the model behind it
//! wants done is asked about, done once, and told to it.

use futures_util::StreamExt as _;
use minigate_tests::{
    client::KEY,
    hosts::Host,
    tools::{self, Tools},
    turns::{Person, Story},
};
use serde_json::{Value, json};

use super::{Scene, TOKEN};

const CONFIGURATION: &str = r#"
models: {fast: {kind: openclaw, agent: main, side_effects: none}}
profiles: {shop_v1: {model: fast, tools: [refund]}, plain_v1: {model: fast}}
routing: {shop: shop_v1, plain: plain_v1}
environments: {prod: {allowed_profiles: [shop_v1, plain_v1]}}
tools:
  refund:
    description: Pays an order back.
    parameters: {type: object, properties: {order: {type: string}}, required: [order]}
    class: write
    url: '{TOOLS}/refund'
    secret: '${TOOLS_KEY}'
"#;

async fn start(scene: &Scene) -> (Host, Tools, Person) {
    let tools = Tools::start().await;
    let yaml = CONFIGURATION.replace("{TOOLS}", &tools.url);
    let settings = [
        ("API_KEY", KEY),
        ("OPENCLAW_GATEWAY_URL", scene.world.openclaw.url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("TOOLS_KEY", tools::SECRET),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        // The real Gateway is slow when everything runs at once.
        ("FIRST_BYTE_TIMEOUT_MS", "40000"),
    ];
    let host = Host::start_with_config(scene.kind, &[("turns.yaml", &yaml)], &settings).await;
    let person = Person::new(&host.url);
    (host, tools, person)
}

/// A turn whose model wants an order paid back; its id, and the path of the question.
async fn asked(person: &Person, order: &str) -> (String, String) {
    let text = format!("{order} [[model:call=refund {{\"order\":\"{order}\"}}]]");
    let body = json!({"intent": "shop", "input": {"text": text}});
    let answer = person.ask_keyed(order, &body).await;
    let value = answer.json();
    assert_eq!((answer.status, &value["state"]), (202, &json!("needs_approval")), "{}", answer.text);
    assert_eq!(value["approval"]["arguments"], json!({"order": order}));
    let of = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let path = format!("/v1/mini/approvals/{}", of(&value["approval"]["approvalId"]));
    (of(&value["requestId"]), path)
}

/// Proposed, approved, executed once, and its result appears in the answer.
pub(crate) async fn an_approved_call_is_done_once_and_told(scene: Scene) {
    let (host, tools, person) = start(&scene).await;
    let order = scene.marker("approved");
    let (id, path) = asked(&person, &order).await;
    assert_eq!(tools.calls(&order), []);
    assert_eq!(person.decide(&path, "approve").await.json()["decision"], "approved");
    let done = person.until(&id, &["done", "failed"]).await;
    assert_eq!(done["actions"], json!([{"tool": "refund", "outcome": "done"}]), "{done}");
    let receipt = format!("receipt-{order}-1");
    assert!(done["answer"].as_str().is_some_and(|said| said.contains(&receipt)), "{done}");
    assert_eq!((tools.calls(&order).len(), tools.times_done(&order)), (1, 1));
    assert_eq!(scene.provider().calls(&order).len(), 2, "it was asked, and told");
    host.stop().await;
}

/// Refused: the model is told so, and may only explain.
pub(crate) async fn a_refused_call_is_explained(scene: Scene) {
    let (host, tools, person) = start(&scene).await;
    let order = scene.marker("refused");
    let (id, path) = asked(&person, &order).await;
    assert_eq!(person.decide(&path, "refuse").await.json()["decision"], "refused");
    let done = person.until(&id, &["done", "failed"]).await;
    assert_eq!(done["actions"], json!([{"tool": "refund", "outcome": "not_approved"}]), "{done}");
    assert!(done["answer"].as_str().is_some_and(|said| said.contains("Not called")), "{done}");
    assert_eq!(tools.calls(&order), []);
    let told = scene.provider().calls(&order).pop().expect("it was told");
    assert!(!told.body["tools"].to_string().contains("refund"), "nothing is offered any more");
    assert!(told.text().contains("only explain in words"), "{}", told.text());
    host.stop().await;
}

/// A key is run once though its client leaves and others come; the stream is the same wherever it
/// is joined.
pub(crate) async fn a_turn_is_joined_and_rejoined(scene: Scene) {
    let (host, _tools, person) = start(&scene).await;
    let text = scene.marker("rejoined");
    let said = "第一段，第二段，第三段，第四段，第五段，第六段，第七段，第八段。";
    let question = format!("{text} [[model:slow=150]][[model:text={said}]]");
    let body = json!({"intent": "plain", "stream": true, "input": {"text": question}});
    let headers = [("idempotency-key", text.as_str())];
    let response = person.open("POST", "/v1/mini/ask", &headers, Some(&body)).await.expect("an answer");
    let id = response.headers()["x-request-id"].to_str().expect("an id").to_owned();
    let mut story = Story::default();
    let mut chunks = response.bytes_stream();
    while story.answer().is_empty() {
        let chunk = chunks.next().await.expect("more").expect("in order");
        story.push(std::str::from_utf8(&chunk).expect("whole characters"));
    }
    drop(chunks);
    story.cut();
    let mut whole = body.clone();
    whole["stream"] = json!(false);
    let (rest, joined) = tokio::join!(
        async { person.events(&id, &story.last).await?.text().await },
        person.ask(&headers, &whole)
    );
    story.push(&rest.expect("the rest"));
    assert_eq!(story.answer(), said);
    assert_eq!(joined.json()["answer"], said, "{}", joined.text);
    let again = person.events(&id, "0").await.expect("an answer").text().await.expect("events");
    let mut all = Story::default();
    all.push(&again);
    assert_eq!(all.text, story.text);
    assert!(!scene.provider().only(&text).aborted);
    host.stop().await;
}
