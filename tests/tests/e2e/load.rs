//! What happens when there is more to do than OpenClaw does at once, and what WeChat is asked
//! about a text: each host alone, then two hosts on one Redis.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use minigate_tests::{
    client::{Answer, Client, KEY, say, say_stream, whole},
    hosts::{Host, Kind},
    redis::{PASSWORD, Redis},
    until,
    upstream::TOKEN,
    wechat::{CANARIES, Wechat},
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, logins, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        who_finds_no_slot_waits_and_is_woken,
        who_finds_no_place_is_sent_away,
        failures_of_many_open_the_breaker,
        texts_are_checked_before_anybody_sees_them,
        every_store_keeps_the_contract,
        who_has_no_rate_left_takes_no_slot,
    ];
    all.extend(scenarios![for &[Kind::Native];
        limits_hold_over_two_hosts,
        a_slot_goes_from_one_host_to_the_other,
        a_dead_host_frees_its_slot,
        a_redis_that_is_down,
    ]);
    all
}

/// A host of its own with these settings beside the usual ones.
pub(crate) async fn host(scene: &Scene, more: &[(&str, &str)]) -> Host {
    let mut settings = vec![
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("ABUSE_PROTECTION", "off"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("RATE_LIMIT_PER_ADDRESS", "0"),
    ];
    settings.retain(|(name, _)| more.iter().all(|(other, _)| other != name));
    settings.extend_from_slice(more);
    Host::start(scene.kind, &settings).await
}

/// A request of a user.
fn of(user: &str, text: &str) -> Value {
    let mut body = say(text);
    body["user"] = user.into();
    body
}

/// A stream that has begun and goes on for seven seconds: whoever is to find it running does.
async fn busy(scene: &Scene, client: &Client, marker: &str) -> tokio::task::JoinHandle<String> {
    let body =
        say_stream(&format!("{marker} [[up:slow=1000]][[up:text=one two three four five six seven eight]]"));
    let client = client.clone();
    let running = tokio::spawn(async move { client.stream(&body).await.text() });
    scene.upstream().wait_for(marker, "the stream to run", |seen| seen.pieces > 1).await;
    running
}

async fn who_finds_no_slot_waits_and_is_woken(scene: Scene) {
    let host = host(&scene, &[("MAX_CONCURRENCY", "1")]).await;
    let client = Client::new(&host.url);
    let first = busy(&scene, &client, &scene.marker("slot-held")).await;
    let answers = join_all((0..3).map(|each| {
        let body = of(&format!("u{each}"), &format!("{} {each}", scene.marker("slot-waits")));
        let client = client.clone();
        async move { client.chat(&body).await }
    }))
    .await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text);
    }
    assert_eq!(first.await.unwrap(), "one two three four five six seven eight");
    until("the log lines", Duration::from_secs(5), || async {
        host.records().iter().filter(|record| record["queued"] == true).count() == 3
    })
    .await;
    host.stop().await;
}

async fn who_finds_no_place_is_sent_away(scene: Scene) {
    let host = host(&scene, &[("MAX_CONCURRENCY", "1"), ("QUEUE_LIMIT", "0")]).await;
    let client = Client::new(&host.url);
    let first = busy(&scene, &client, &scene.marker("place-held")).await;
    let answer = client.chat(&of("u", "no place")).await;
    assert_eq!(answer.error(), (503, "queue_full".to_owned()), "{}", answer.text);
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(answer.json()["error"]["queue"]["waiting"], 0);
    first.await.unwrap();
    // The slot is free again, and nobody's fault is remembered.
    until("the slot", Duration::from_secs(5), || async { client.chat(&of("u", "now")).await.status == 200 })
        .await;
    host.stop().await;
}

async fn failures_of_many_open_the_breaker(scene: Scene) {
    let host = host(&scene, &[]).await;
    let client = Client::new(&host.url);
    for each in 0..5 {
        let answer = client.chat(&of(&format!("u{each}"), "[[up:fail=provider_error]]")).await;
        assert_eq!(answer.status, 502, "{}", answer.text);
    }
    // How a turn ended is told and not waited for: a few more may pass before the breaker knows, and each
    // may double its time.
    let mut more = 0;
    let refused = loop {
        assert!(more < 20, "{}", host.output());
        let answer = client.chat(&of(&format!("u{}", more + 9), "[[up:fail=provider_error]]")).await;
        if answer.error() == (503, "upstream_unavailable".to_owned()) {
            break answer;
        }
        assert_eq!(answer.status, 502, "{}", answer.text);
        more += 1;
    };
    let most = 2_u64 << more;
    assert!(refused.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds <= most));
    until("the breaker to close", Duration::from_secs(70), || async {
        client.chat(&of("u9", "again")).await.status == 200
    })
    .await;
    assert_eq!(client.chat(&of("u8", "and everybody")).await.status, 200);
    host.stop().await;
}

async fn bearer(client: &Client, token: &str, body: &Value) -> Answer {
    let value = format!("Bearer {token}");
    let headers = [("content-type", "application/json"), ("authorization", value.as_str())];
    whole(client.send("POST", "/api/chat", &headers, body.to_string()).await).await
}

async fn texts_are_checked_before_anybody_sees_them(scene: Scene) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let host = host(
        &scene,
        &[
            ("WECHAT_API_URL", wechat.url()),
            ("WECHAT_APPID", logins::APPID),
            ("WECHAT_SECRET", logins::APP_SECRET),
            ("TOKEN_SECRET", logins::SECRETS),
            ("CONTENT_CHECK", "enforce"),
            ("CONTENT_CHECK_FAILURE", "closed"),
        ],
    )
    .await;
    let client = Client::new(&host.url);
    let headers = [("content-type", "application/json")];
    let login = client.send("POST", "/v1/mini/login", &headers, json!({"code": "good-checked"}).to_string());
    let token = whole(login.await).await.json()["token"].as_str().unwrap().to_owned();

    let fine = bearer(&client, &token, &say("a harmless text")).await;
    assert_eq!(fine.status, 200, "{}", fine.text);
    assert_eq!(wechat.texts(), ["a harmless text", "echo: a harmless text"], "the text, then the answer");

    let marker = scene.marker("content-risky");
    let risky = bearer(&client, &token, &say(&format!("{marker} RISKY"))).await;
    assert_eq!(risky.error(), (400, "content_refused".to_owned()), "{}", risky.text);
    let answer = bearer(&client, &token, &say("fine [[up:text=a RISKY answer]]")).await;
    assert_eq!(answer.error(), (400, "content_refused".to_owned()), "{}", answer.text);
    assert!(!answer.text.contains("RISKY"));

    let long = "好".repeat(90);
    let stream = say_stream(&format!("fine [[up:text={long} and more]]"));
    let shown = bearer(&client, &token, &stream).await;
    assert!(shown.text.contains("好") && shown.text.ends_with("data: [DONE]\n\n"), "{}", shown.text);
    let stream = say_stream(&format!("fine [[up:text={long} and then RISKY words]]"));
    let cut = bearer(&client, &token, &stream).await;
    assert!(!cut.text.contains("RISKY") && cut.text.contains("content_refused"), "{}", cut.text);

    // A token that WeChat calls void is fetched anew; a WeChat that fails is the settings' to judge.
    wechat.expire_token();
    assert_eq!(bearer(&client, &token, &say("another text")).await.status, 200);
    wechat.fail_with(45009);
    let unchecked = bearer(&client, &token, &say("a text")).await;
    assert_eq!(unchecked.error(), (503, "content_unchecked".to_owned()), "{}", unchecked.text);
    let output = host.output();
    for canary in CANARIES.iter().chain([&logins::APP_SECRET]) {
        assert!(!output.contains(*canary), "{canary} is in the output");
    }
    host.stop().await;
}

/// The list of operations stops at the first no. A slot that was taken for nothing would be held
/// until its lease ends, and nobody may wait here.
async fn who_has_no_rate_left_takes_no_slot(scene: Scene) {
    let settings = [
        ("RATE_LIMIT_PER_MINUTE", "1"),
        ("RATE_LIMIT_BURST", "1"),
        ("MAX_CONCURRENCY", "1"),
        ("QUEUE_LIMIT", "0"),
    ];
    let host = host(&scene, &settings).await;
    let client = Client::new(&host.url);
    let status = async |name: &str| client.chat(&of(name, "no slot for nothing")).await.status;
    assert_eq!(status("one").await, 200);
    for _ in 0..3 {
        assert_eq!(status("one").await, 429);
    }
    // The first turn's slot comes back a moment after its answer has ended.
    let tries = AtomicU32::new(0);
    until("a free slot", Duration::from_secs(5), || async {
        status(&format!("another {}", tries.fetch_add(1, Ordering::SeqCst))).await == 200
    })
    .await;
    host.stop().await;
}

/// SQLite and Redis on the native host, Durable Objects on the edge: whatever stores, what is
/// applied to one key at once is applied one after the other, and what is marked stays marked.
async fn every_store_keeps_the_contract(scene: Scene) {
    let redis = Redis::start().await;
    let url = redis.url();
    let engines: &[&[(&str, &str)]] = match scene.kind {
        Kind::Native => &[&[], &[("STORE_URL", &url)]],
        Kind::Edge => &[&[]],
    };
    for engine in engines {
        store_contract(&scene, engine).await;
    }
}

async fn store_contract(scene: &Scene, engine: &[(&str, &str)]) {
    let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
    let mut settings = vec![
        ("RATE_LIMIT_PER_MINUTE", "1"),
        ("RATE_LIMIT_BURST", "9"),
        ("MAX_CONCURRENCY", "3"),
        ("WECHAT_API_URL", wechat.url()),
        ("WECHAT_APPID", logins::APPID),
        ("WECHAT_SECRET", logins::APP_SECRET),
        ("TOKEN_SECRET", logins::SECRETS),
        ("ADMIN_KEY", "admin-key-of-the-contract"),
    ];
    settings.extend_from_slice(engine);
    let host = host(scene, &settings).await;
    let client = Client::new(&host.url);
    let headers = [("content-type", "application/json")];
    let login = |code: &str| {
        let (client, body) = (client.clone(), json!({"code": code}).to_string());
        async move { whole(client.send("POST", "/v1/mini/login", &headers, body).await).await }
    };

    // A bucket: of many at once exactly the burst passes, and the rest is told so.
    let person = |name: &'static str| {
        let client = client.clone();
        async move { client.chat(&of(name, "contract")).await.status }
    };
    let answers = join_all((0..30).map(|_| person("one"))).await;
    let passed = answers.iter().filter(|status| **status == 200).count();
    assert_eq!(passed, 9, "{engine:?}: {answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 21, "{engine:?}: {answers:?}");
    assert_eq!(person("another").await, 200, "{engine:?}: keys do not touch each other");

    // A mark: of many at once one is the first.
    let code = format!("good-contract{}", engine.len());
    let answers = join_all((0..12).map(|_| login(&code))).await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 1, "{engine:?}");

    // A revocation is there for whoever asks next.
    let first = answers.iter().find(|answer| answer.status == 200).unwrap().json();
    let token = first["token"].as_str().unwrap();
    assert_eq!(bearer(&client, token, &say("contract")).await.status, 200);
    let admin = [("content-type", "application/json"), ("authorization", "Bearer admin-key-of-the-contract")];
    let body = json!({"subject": first["subject"]}).to_string();
    let revoked = whole(client.send("POST", "/v1/admin/sessions/revoke", &admin, body).await).await;
    assert_eq!(revoked.status, 200, "{}", revoked.text);
    let refused = bearer(&client, token, &say("contract")).await;
    assert_eq!(refused.error(), (401, "token_invalid".to_owned()), "{engine:?}");
    host.stop().await;
}

/// Two hosts on one Redis.
async fn pair(scene: &Scene, redis: &Redis, more: &[(&str, &str)]) -> (Host, Host) {
    let url = redis.url();
    let mut settings = vec![("STORE_URL", url.as_str())];
    settings.extend_from_slice(more);
    (host(scene, &settings).await, host(scene, &settings).await)
}

async fn stop(hosts: (Host, Host)) {
    for host in [hosts.0, hosts.1] {
        assert!(!host.output().contains(PASSWORD), "the store's password is in the output");
        host.stop().await;
    }
}

async fn limits_hold_over_two_hosts(scene: Scene) {
    let redis = Redis::start().await;
    let limits = [("RATE_LIMIT_PER_MINUTE", "1"), ("RATE_LIMIT_BURST", "7")];
    let hosts = pair(&scene, &redis, &limits).await;
    let clients = [Client::new(&hosts.0.url), Client::new(&hosts.1.url)];
    let answers = join_all((0..20).map(|each| {
        let client = clients[each % 2].clone();
        async move { client.chat(&of("one person", "limits")).await.status }
    }))
    .await;
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 7, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 429).count(), 13, "{answers:?}");
    stop(hosts).await;
}

async fn a_slot_goes_from_one_host_to_the_other(scene: Scene) {
    let redis = Redis::start().await;
    let hosts = pair(&scene, &redis, &[("MAX_CONCURRENCY", "1")]).await;
    let clients = [Client::new(&hosts.0.url), Client::new(&hosts.1.url)];
    let first = busy(&scene, &clients[0], "redis-slot-held").await;
    let second = clients[1].chat(&of("u2", "redis-slot-waits")).await;
    assert_eq!(second.status, 200, "{}", second.text);
    first.await.unwrap();
    until("the log line", Duration::from_secs(5), || async {
        hosts.1.records().iter().any(|record| record["queued"] == true)
    })
    .await;
    stop(hosts).await;
}

async fn a_dead_host_frees_its_slot(scene: Scene) {
    let redis = Redis::start().await;
    let (dying, living) = pair(&scene, &redis, &[("MAX_CONCURRENCY", "1")]).await;
    let url = format!("{}/api/chat", dying.url);
    let held = tokio::spawn(async move {
        let request = reqwest::Client::builder().no_proxy().build().unwrap().post(url);
        let body = say("redis-dies [[up:hang]]").to_string();
        let _ = request
            .header("x-api-key", KEY)
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await;
    });
    scene.upstream().wait_for("redis-dies", "the turn to run", |_| true).await;
    dying.kill().await;
    held.await.unwrap();
    let began = tokio::time::Instant::now();
    let answer = Client::new(&living.url).chat(&of("u2", "redis-lives")).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    // A lease lasts 15 s; whoever waits asks again every two.
    assert!(began.elapsed() < Duration::from_secs(25), "{:?}", began.elapsed());
    living.stop().await;
}

async fn a_redis_that_is_down(scene: Scene) {
    let mut redis = Redis::start().await;
    let url = redis.url();
    let open = host(&scene, &[("STORE_URL", &url)]).await;
    let closed = host(&scene, &[("STORE_URL", &url), ("STORE_FAILURE", "closed")]).await;
    let clients = [Client::new(&open.url), Client::new(&closed.url)];
    for client in &clients {
        assert_eq!(client.chat(&say("redis is there")).await.status, 200);
    }
    redis.kill().await;
    assert_eq!(clients[0].chat(&say("redis is down")).await.status, 200);
    let refused = clients[1].chat(&say("redis is down")).await;
    assert_eq!(refused.error(), (503, "store_unavailable".to_owned()), "{}", refused.text);
    assert_eq!(clients[1].get("/readyz").await.status, 503);
    redis.restart().await;
    until("the store to be used again", Duration::from_secs(20), || async {
        clients[1].chat(&say("redis is back")).await.status == 200
    })
    .await;
    until("the log line", Duration::from_secs(5), || async {
        open.records().iter().any(|record| record["storeFailed"] == true)
    })
    .await;
    stop((open, closed)).await;
}
