//! `OPENCLAW_AUTH=trusted-proxy`: exactly which headers reach OpenClaw, on both hosts. That the
//! real one accepts them is among the scenarios of the real OpenClaw.

use minigate_tests::{
    client::{KEY, say, whole},
    hosts::{Host, Kind},
    upstream::TOKEN,
};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![openclaw_is_told_who_asks_and_no_token]
}

async fn openclaw_is_told_who_asks_and_no_token(scene: Scene) {
    let settings = [
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_AUTH", "trusted-proxy"),
        ("OPENCLAW_USER_HEADER", "X-Forwarded-User"),
        ("OPENCLAW_USER", "gate@example.com"),
        ("OPENCLAW_PROXY_HEADERS", "x-forwarded-proto=https,x-forwarded-host=agent.example"),
        ("SESSION_SECRET", crate::SESSION_SECRET),
        ("API_KEY", KEY),
    ];
    let host = Host::start(scene.kind, &settings).await;
    let client = minigate_tests::client::Client::new(&host.url);
    let address = match scene.kind {
        Kind::Native => "x-forwarded-for",
        Kind::Edge => "cf-connecting-ip",
    };
    let text = scene.marker("who-asks");
    let headers = [
        ("content-type", "application/json"),
        ("x-api-key", KEY),
        (address, "203.0.113.77"),
        ("x-forwarded-user", "owner@example.com"),
        ("x-forwarded-proto", "forged"),
        ("x-openclaw-scopes", "operator.admin"),
        ("x-openclaw-model", "another"),
        ("x-real-ip", "127.0.0.1"),
        ("forwarded", "for=127.0.0.1"),
        ("cookie", "a=b"),
    ];
    // The scripted Gateway wants its token; what counts is what it was sent.
    whole(client.send("POST", "/api/chat", &headers, say(&text).to_string()).await).await;
    let seen = scene.upstream().wait_for(&text, "the turn", |_| true).await;
    let all = |name: &str| -> Vec<&str> {
        seen.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    };
    for (name, value) in [
        ("x-forwarded-user", "gate@example.com"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "agent.example"),
        ("x-forwarded-for", "203.0.113.77"),
        ("x-openclaw-scopes", "operator.write"),
    ] {
        assert_eq!(all(name), [value], "{name}");
    }
    for name in ["authorization", "x-openclaw-model", "x-real-ip", "forwarded", "cookie", "x-api-key"] {
        assert_eq!(all(name), [] as [&str; 0], "{name}");
    }
    assert!(!format!("{:?}", seen.headers).contains(TOKEN));
    host.stop().await;
}
