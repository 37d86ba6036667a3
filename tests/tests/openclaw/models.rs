//! The loop of a self-hosted model: a Mini Program asks Minigate, Minigate asks OpenClaw, and
//! OpenClaw's provider is a model gateway of Minigate's in front of the runtime.

use std::sync::Arc;

use minigate_tests::{
    client::{Client, KEY, say, say_stream},
    hosts::{Host, Kind},
    openclaw::{Auth, OpenClaw, TOKEN},
    provider,
};

use crate::{World, assert_says};

const AUTH_TOKEN: &str = "auth-token-canary-b2c9";

pub(crate) async fn openclaws_provider_is_the_model_gateway(world: Arc<World>) {
    // The alias is the name that OpenClaw is configured with.
    let yaml = format!(
        "models: {{{0}: {{kind: openai_compatible, base_url: '{1}/v1', api_key: '${{LOCAL_MODEL_API_KEY}}', model: {0}, timeout_ms: 60000}}}}\n",
        provider::MODEL,
        world.provider.url(),
    );
    let settings = [
        ("OPENCLAW_GATEWAY_URL", world.openclaw.url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("AUTH_TOKEN", AUTH_TOKEN),
        ("LOCAL_MODEL_API_KEY", provider::KEY),
    ];
    let models = Host::start_with_config(Kind::Native, &[("models.yaml", &yaml)], &settings).await;
    let openclaw = OpenClaw::start_at(&models.url, AUTH_TOKEN, Auth::Token, "loop").await;
    let settings = [
        ("OPENCLAW_GATEWAY_URL", openclaw.url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        // The real Gateway is slow when everything runs at once.
        ("FIRST_BYTE_TIMEOUT_MS", "40000"),
    ];
    let front = Host::start(Kind::Native, &settings).await;
    let client = Client::new(&front.url);
    assert_says(&client.chat(&say("loop-whole 你好")).await, "echo: loop-whole 你好");
    assert_eq!(client.stream(&say_stream("loop-streamed")).await.text(), "echo: loop-streamed");
    assert_eq!(world.provider.only("loop-streamed").body["stream_options"]["include_usage"], true);
    // What the runtime fails with is an error to the client, and nothing of its words.
    let failed = client.chat(&say("loop-failed [[model:error=400]]")).await;
    assert!(failed.status >= 400 && !failed.text.contains(provider::DETAIL), "{}", failed.text);
    let asked = models.records().into_iter().filter(|line| line["route"] == "/v1/chat/completions");
    let asked: Vec<_> = asked.filter(|line| line["status"] == 200).collect();
    assert!(asked.len() >= 3 && asked.iter().all(|line| line["inputTokens"] == 70), "{asked:?}");
    assert!(!models.output().contains("loop-whole"), "what was said is in the log");
    front.stop().await;
    openclaw.stop().await;
    models.stop().await;
}
