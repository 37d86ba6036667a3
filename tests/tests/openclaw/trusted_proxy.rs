//! A Gateway whose authentication is left to the proxy before it: Minigate is believed because of
//! where it comes from and what it says, and no client can say it in its place.

use std::sync::Arc;

use minigate_tests::{
    client::{Answer, Client, KEY, say, whole},
    hosts::{Host, Kind},
    openclaw::{Auth, OpenClaw, REQUIRED_HEADER, TOKEN, USER, USER_HEADER},
};
use serde_json::{Value, json};

use crate::{World, assert_says};

/// A host without a token, as somebody.
async fn host(kind: Kind, gateway: &str, user: &str) -> Host {
    let proof = format!("{REQUIRED_HEADER}=minigate");
    let settings = [
        ("OPENCLAW_GATEWAY_URL", gateway),
        ("OPENCLAW_AUTH", "trusted-proxy"),
        ("OPENCLAW_USER_HEADER", USER_HEADER),
        ("OPENCLAW_USER", user),
        ("OPENCLAW_PROXY_HEADERS", &proof),
        ("SESSION_SECRET", "session-secret-canary-5c1d"),
        ("CHAT_MEMORY", "gateway"),
        ("API_KEY", KEY),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("ABUSE_PROTECTION", "off"),
    ];
    Host::start(kind, &settings).await
}

/// The header by which a host learns a client's address here.
fn address(kind: Kind) -> &'static str {
    match kind {
        Kind::Native => "x-forwarded-for",
        Kind::Edge => "cf-connecting-ip",
    }
}

/// What a client may try: to be somebody else, to be nobody, more rights, fewer, another model,
/// the token of another Gateway.
const FORGED: &[&[(&str, &str)]] = &[
    &[(USER_HEADER, "owner@example.com")],
    &[(USER_HEADER, "")],
    &[(USER_HEADER, USER), (REQUIRED_HEADER, "1")],
    &[(REQUIRED_HEADER, "")],
    &[("x-openclaw-scopes", "")],
    &[("x-openclaw-scopes", "operator.read")],
    &[("x-openclaw-scopes", "operator.admin"), ("x-openclaw-model", "scripted/dearer")],
    &[("x-openclaw-session-key", "main"), ("x-openclaw-agent-id", "other")],
    &[("x-forwarded-user", "owner@example.com"), ("x-forwarded-proto", "https"), ("x-real-ip", "127.0.0.1")],
    &[("forwarded", "for=127.0.0.1"), ("tailscale-user-login", "owner@example.com")],
    &[("origin", "https://evil.example"), ("cookie", "openclaw=1")],
];

/// Somebody far away asks.
async fn ask(kind: Kind, client: &Client, headers: &[(&str, &str)], body: &Value) -> Answer {
    let mut all =
        vec![("content-type", "application/json"), ("x-api-key", KEY), (address(kind), "203.0.113.7")];
    all.extend_from_slice(headers);
    whole(client.send("POST", "/api/chat", &all, body.to_string()).await).await
}

pub(crate) async fn openclaw_trusts_this_proxy(world: Arc<World>) {
    let openclaw = OpenClaw::start(&world.provider, Auth::TrustedProxy).await;
    what_openclaw_wants(&openclaw.url).await;
    for kind in Kind::ALL {
        let (known, stranger) =
            tokio::join!(host(kind, &openclaw.url, USER), host(kind, &openclaw.url, "stranger"));
        as_itself(&world, kind, &Client::new(&known.url)).await;
        // One whom OpenClaw does not let in gets nowhere, and no client helps it.
        let client = Client::new(&stranger.url);
        for headers in [&[] as &[(&str, &str)]].iter().chain(FORGED) {
            let answer = ask(kind, &client, headers, &say("not-for-strangers")).await;
            assert_eq!(answer.error(), (502, "upstream_misconfigured".to_owned()), "{headers:?}");
        }
        assert!(world.provider.calls("not-for-strangers").is_empty());
        known.stop().await;
        stranger.stop().await;
    }
    openclaw.stop().await;
}

async fn as_itself(world: &World, kind: Kind, client: &Client) {
    let marker = |name: &str| format!("trusted-{name}-{}", kind.name());
    let text = marker("far");
    assert_says(&ask(kind, client, &[], &say(&text)).await, &format!("echo: {text}"));
    // OpenClaw wants a client named that is not on a Gateway's machine.
    let local = client.chat(&say(&marker("local"))).await;
    assert_eq!(local.error(), (502, "upstream_misconfigured".to_owned()), "{}", local.text);
    // OpenClaw keeps a conversation without `operator.admin` too.
    for text in [marker("remember-one"), marker("remember-two")] {
        let mut body = say(&text);
        body["user"] = json!(marker("person"));
        assert_says(&ask(kind, client, &[], &body).await, &format!("echo: {text}"));
    }
    for (index, headers) in FORGED.iter().enumerate() {
        let text = marker(&format!("forged-{index}-end"));
        assert_says(&ask(kind, client, headers, &say(&text)).await, &format!("echo: {text}"));
        assert_eq!(world.provider.calls(&text).len(), 1, "{headers:?}");
    }
}

/// What this mode asks of Minigate, of the Gateway itself: if it changes, the documentation is wrong.
async fn what_openclaw_wants(url: &str) {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let body = json!({"model": "openclaw", "input": "directly"}).to_string();
    let far = ("x-forwarded-for", "203.0.113.7");
    let who = [(USER_HEADER, USER), (REQUIRED_HEADER, "1"), far];
    let ask = async |headers: &[(&str, &str)]| -> (u16, String) {
        let mut request = http.post(format!("{url}/v1/responses"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.body(body.clone()).send().await.expect("an answer");
        let status = answer.status().as_u16();
        let json: Value = serde_json::from_str(&answer.text().await.expect("a body")).unwrap_or_default();
        (status, json["error"]["type"].as_str().unwrap_or_default().to_owned())
    };
    let with = |more: &[(&'static str, &'static str)]| [&who, more].concat();
    let token = format!("Bearer {TOKEN}");
    let refused = (401, "unauthorized".to_owned());
    assert_eq!(ask(&[("authorization", &token)]).await, refused, "a token means nothing");
    assert_eq!(ask(&[who[0], far]).await, refused, "without what is required");
    assert_eq!(ask(&[(USER_HEADER, "stranger"), who[1], far]).await, refused, "not an allowed user");
    assert_eq!(ask(&with(&[("x-openclaw-scopes", "operator.write")])).await.0, 200);
    let forbidden = (403, "forbidden".to_owned());
    for scopes in ["", "operator.read", "operator.approvals,operator.pairing"] {
        assert_eq!(ask(&with(&[("x-openclaw-scopes", scopes)])).await, forbidden, "{scopes}");
    }
    // What is left out by asking for `operator.write` alone.
    let model = ("x-openclaw-model", "scripted/dearer");
    assert_eq!(ask(&with(&[("x-openclaw-scopes", "operator.write"), model])).await, forbidden);
    // A proxy names its client, and not one on the Gateway's own machine.
    let unnamed = (403, "proxy_attribution_required".to_owned());
    assert_eq!(ask(&who[..2]).await, unnamed);
    for address in ["127.0.0.1", "nonsense"] {
        assert_eq!(ask(&[who[0], who[1], ("x-forwarded-for", address)]).await, unnamed, "{address}");
    }
}
