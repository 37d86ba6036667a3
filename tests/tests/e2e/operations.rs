//! What an operator asks, and what a browser does.

use minigate_tests::client::{KEY, say, whole};
use serde_json::{Value, json};

use crate::{Scenario, Scene, Setup, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![
        alive_and_ready,
        version_names_the_module,
        trace_ids,
        cors_for_the_configured_origin,
        head_has_no_body
    ]
}

async fn alive_and_ready(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let health = client.get("/healthz").await;
    assert_eq!((health.status, health.json()), (200, json!({"status": "live"})));
    let ready = client.get("/readyz").await;
    assert_eq!(
        (ready.status, ready.json()),
        (200, json!({"ready": true, "checks": {"openclaw": "ok", "store": "ok"}}))
    );
}

async fn version_names_the_module(scene: Scene) {
    let version = scene.client(Setup::Plain).get("/version").await.json();
    let bytes = std::fs::read(minigate_tests::required("MINIGATE_MODULE").join("index_bg.wasm")).unwrap();
    let digest: String = sha2::Digest::finalize(<sha2::Sha256 as sha2::Digest>::new_with_prefix(&bytes))
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(version["module"], json!({"sha256": digest, "bytes": bytes.len()}));
    assert_eq!(version["host"]["name"], scene.kind.name());
    assert_eq!(
        (&version["abi"], &version["environment"]),
        (&json!(minigate_core::seam::ABI_VERSION), &json!("dev"))
    );
}

async fn trace_ids(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let of = |headers: &'static [(&'static str, &'static str)]| {
        let client = client.clone();
        async move {
            whole(client.send("GET", "/healthz", headers, "").await).await.header("x-trace-id").to_owned()
        }
    };
    assert_eq!(of(&[("x-trace-id", "1710000123456")]).await, "1710000123456");
    let w3c = of(&[("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")]).await;
    assert_eq!(w3c, "4bf92f3577b34da6a3ce929d0e0e4736");
    let (one, two) = (of(&[("x-trace-id", "no spaces")]).await, of(&[]).await);
    for made in [&one, &two] {
        assert!(made.len() == 32 && made.bytes().all(|b| b.is_ascii_hexdigit()), "{made}");
    }
    assert_ne!(one, two);
}

async fn cors_for_the_configured_origin(scene: Scene) {
    let client = scene.client(Setup::Plain);
    let ask = |origin: &'static str| {
        let client = client.clone();
        async move {
            let headers = [
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "content-type,x-api-key"),
            ];
            whole(client.send("OPTIONS", "/api/chat", &headers, "").await).await
        }
    };
    let allowed = ask("https://app.example").await;
    assert_eq!(allowed.status, 204, "{}", allowed.text);
    assert_eq!(allowed.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(allowed.header("access-control-allow-methods"), "POST");
    assert!(allowed.header("access-control-allow-headers").contains("x-api-key"));
    let refused = ask("https://evil.example").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (405, ""));
    let headers =
        [("origin", "https://app.example"), ("x-api-key", KEY), ("content-type", "application/json")];
    let answer = whole(client.send("POST", "/api/chat", &headers, say("x").to_string()).await).await;
    assert_eq!(answer.header("access-control-allow-origin"), "https://app.example");
    assert_eq!(answer.header("vary"), "origin");
    let error = client.chat_with(&[("origin", "https://app.example")], "{").await;
    assert_eq!(
        error.header("access-control-allow-origin"),
        "https://app.example",
        "a browser may read errors too"
    );
}

async fn head_has_no_body(scene: Scene) {
    let answer = whole(scene.client(Setup::Plain).send("HEAD", "/healthz", &[], "").await).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, ""));
    assert_eq!(answer.json(), Value::Null);
}
