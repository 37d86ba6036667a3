//! What is counted, on both hosts: the numbers of scripted requests, their quantiles beside the
//! client's own, and how few series many people make. A real Prometheus scrapes the native host.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all, stream};
use minigate_tests::{
    client::{Client, KEY, say, whole},
    collector::Collector,
    hosts::{Host, Kind},
    prometheus::{Prometheus, deployed, promtool},
    until,
};
use serde_json::Value;

use crate::{Scenario, Scene, load, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![
        requests_are_counted,
        only_keys_of_operators_open_it,
        quantiles_are_the_clients,
        many_people_make_few_series,
    ];
    all.extend(scenarios![for &[Kind::Native];
        prometheus_scrapes_under_load,
        alerts_are_valid_and_fire,
        traces_and_metrics_are_exported,
    ]);
    all
}

const METRICS_KEY: &str = "metrics-key-canary-3f9a";
const USER: &str = "user-canary-7b21";
const WORDS: &str = "words-canary-5ee0";

async fn start(scene: &Scene, more: &[(&str, &str)]) -> Host {
    let mut settings = vec![("METRICS_KEY", METRICS_KEY), ("MAX_CONCURRENCY", "64")];
    settings.extend_from_slice(more);
    load::host(scene, &settings).await
}

async fn scrape(client: &Client) -> String {
    let bearer = format!("Bearer {METRICS_KEY}");
    let answer = whole(client.send("GET", "/metrics", &[("authorization", &bearer)], "").await).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    answer.text
}

/// The value of a series, 0 when there is none.
fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0.0, |number| number.parse().expect("a number"))
}

fn series(text: &str) -> usize {
    text.lines().filter(|line| !line.starts_with('#')).count()
}

fn of(user: &str, text: &str) -> Value {
    let mut body = say(text);
    body["user"] = user.into();
    body
}

async fn requests_are_counted(scene: Scene) {
    let host = start(&scene, &[]).await;
    let client = Client::new(&host.url);
    for _ in 0..3 {
        assert_eq!(client.chat(&of(USER, WORDS)).await.status, 200);
    }
    assert_eq!(client.chat(&of(USER, &format!("{WORDS} [[up:fail=provider_error]]"))).await.status, 502);
    assert_eq!(client.chat_with(&[], "{").await.status, 400);
    let turns = |outcome: &str| {
        format!("minigate_turns_total{{gen_ai_request_model=\"openclaw\",outcome=\"{outcome}\"}}")
    };
    // An isolate tells the store before it answers; another one does within seconds.
    until("all five to be counted", Duration::from_secs(20), || async {
        value(&scrape(&client).await, "http_server_request_body_size_bytes_count") >= 5.0
    })
    .await;
    let text = scrape(&client).await;
    for (name, expected) in [
        (turns("answered"), 3.0),
        (turns("failed"), 1.0),
        (turns("timeout"), 0.0),
        ("minigate_errors_total{error_type=\"invalid_json\"}".into(), 1.0),
        (
            "http_server_request_duration_seconds_count{http_route=\"/api/chat\",http_response_status_code=\"200\"}".into(),
            3.0,
        ),
        (
            "gen_ai_client_token_usage_sum{gen_ai_operation_name=\"chat\",gen_ai_request_model=\"openclaw\",gen_ai_token_type=\"input\"}".into(),
            3.0 * 1_997.0,
        ),
        ("minigate_slots{upstream=\"openclaw\"}".into(), 64.0),
        ("minigate_queue_length{upstream=\"openclaw\"}".into(), 0.0),
    ] {
        assert_eq!(value(&text, &name), expected, "{name} in\n{text}");
    }
    assert!(text.contains(&format!("host=\"{}\"", scene.kind.name())), "{text}");
    if scene.kind == Kind::Native {
        assert_eq!(value(&text, "minigate_starts_total"), 1.0);
        assert!(
            value(&text, "minigate_module_seconds_sum") > 0.0
                && value(&text, "process_start_time_seconds") > 1e9
        );
        assert!(value(&text, "minigate_log_silence_seconds") < 60.0);
    }
    for canary in [USER, WORDS, KEY, METRICS_KEY, "canary", "127.0.0.1"] {
        assert!(!text.contains(canary), "{canary} is shown");
    }
    host.stop().await;
}

async fn only_keys_of_operators_open_it(scene: Scene) {
    let host = start(&scene, &[]).await;
    let client = Client::new(&host.url);
    assert_eq!(client.get("/metrics").await.error().0, 401);
    let bearer = format!("Bearer {KEY}");
    let answer = whole(client.send("GET", "/metrics", &[("authorization", &bearer)], "").await).await;
    assert_eq!(answer.error(), (401, "unauthorized".to_owned()), "a phone's key opens nothing");
    host.stop().await;
}

/// How long requests take, sorted, in seconds: at least, by the script of who answers; and for the client.
struct Took {
    scripted: Vec<f64>,
    client: Vec<f64>,
}

/// Requests of known lengths, many at once.
async fn fire(client: &Client, count: u64) -> Took {
    let each = stream::iter(0..count).map(|number| {
        // From 0.5 to 2 seconds, evenly, in no order.
        let ms = 500 + number * 37 % 61 * 25;
        let body = of(&format!("u{number}"), &format!("[[up:slow={ms}]] {number}"));
        let client = client.clone();
        async move {
            let begun = Instant::now();
            assert_eq!(client.chat(&body).await.status, 200);
            (Duration::from_millis(ms).as_secs_f64(), begun.elapsed().as_secs_f64())
        }
    });
    let all: Vec<(f64, f64)> = each.buffer_unordered(16).collect().await;
    let (mut scripted, mut client): (Vec<f64>, Vec<f64>) = all.into_iter().unzip();
    scripted.sort_by(f64::total_cmp);
    client.sort_by(f64::total_cmp);
    Took { scripted, client }
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (sorted.len() as f64 * part).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

/// A quantile is the client's. A busy machine delays the client and not the host, and then it is between
/// what was scripted and the client's: no request takes the host less than the one or more than the other.
fn near(what: &str, found: f64, part: f64, took: &Took) {
    // How exact a histogram is.
    const EXACT: f64 = 1.0 / 32.0;
    let (scripted, client) = (quantile(&took.scripted, part), quantile(&took.client, part));
    let off = (found / client - 1.0).abs();
    let between = (scripted * (1.0 - EXACT)..=client * (1.0 + EXACT)).contains(&found);
    assert!(
        off < 0.05 || between,
        "{what}: {found} s, {scripted} s scripted, and {client} s for the client: {:.1} % off",
        off * 100.0
    );
}

async fn quantiles_are_the_clients(scene: Scene) {
    let host = start(&scene, &[]).await;
    let client = Client::new(&host.url);
    let took = fire(&client, 122).await;
    let answered = "minigate_turns_total{gen_ai_request_model=\"openclaw\",outcome=\"answered\"}";
    until("all to be counted", Duration::from_secs(20), || async {
        value(&scrape(&client).await, answered) >= 122.0
    })
    .await;
    let text = scrape(&client).await;
    for part in [0.5, 0.95, 0.99] {
        let name = format!(
            "minigate_turn_duration_seconds{{gen_ai_request_model=\"openclaw\",quantile=\"{part}\"}}"
        );
        near(&name, value(&text, &name), part, &took);
    }
    host.stop().await;
}

async fn many_people_make_few_series(scene: Scene) {
    let host = start(&scene, &[]).await;
    let client = Client::new(&host.url);
    let people = |range: std::ops::Range<u32>| {
        let client = client.clone();
        stream::iter(range).for_each_concurrent(16, move |number| {
            let client = client.clone();
            async move {
                // Names, texts, trace ids and paths of their own.
                let trace = format!("trace-canary-{number}");
                let body = of(&format!("person-canary-{number}"), &format!("text {number}"));
                let answer = client.chat_with(&[("x-trace-id", &trace)], body.to_string()).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                let _ = client.get(&format!("/path-canary-{number}")).await;
            }
        })
    };
    people(0..20).await;
    let before = scrape(&client).await;
    people(20..1_000).await;
    let after = scrape(&client).await;
    assert!(!after.contains("canary"), "{after}");
    let (before, after) = (series(&before), series(&after));
    assert!(after <= before + 60 && after < 1_000, "{before} series, then {after}");
    host.stop().await;
}

async fn prometheus_scrapes_under_load(scene: Scene) {
    let host = start(&scene, &[]).await;
    let client = Client::new(&host.url);
    let prometheus = Prometheus::start(&host.url, METRICS_KEY).await;
    let took = fire(&client, 183).await;
    let count = "sum(gen_ai_client_operation_duration_seconds_count)";
    until("Prometheus to see all", Duration::from_secs(60), || async {
        prometheus.query(count).await == [183.0]
    })
    .await;
    for part in [0.5, 0.95, 0.99] {
        let by_buckets = format!(
            "histogram_quantile({part}, sum by (le) (gen_ai_client_operation_duration_seconds_bucket))"
        );
        let exact = format!("minigate_turn_duration_seconds{{quantile=\"{part}\"}}");
        for expression in [by_buckets, exact] {
            // After a scrape that failed there is none until the next one.
            let found = Cell::new(None);
            until(&expression, Duration::from_secs(30), || async {
                found.set(prometheus.query(&expression).await.first().copied());
                found.get().is_some()
            })
            .await;
            near(&expression, found.get().expect("it is there"), part, &took);
        }
    }
    until("the host to be up", Duration::from_secs(30), || async { prometheus.query("up").await == [1.0] })
        .await;
    assert_eq!(prometheus.query("ALERTS{alertstate=\"firing\"}").await, Vec::<f64>::new());
    let text = scrape(&client).await;
    let (satisfied, said) = promtool(&["check", "metrics"], &text).await;
    assert!(satisfied, "{said}");
    prometheus.stop().await;
    host.stop().await;
}

async fn alerts_are_valid_and_fire(_: Scene) {
    let path = |name: &str| deployed(name).display().to_string();
    for arguments in [["check", "rules", &path("alerts.yml")], ["test", "rules", &path("tests.yml")]] {
        let (satisfied, said) = promtool(&arguments, "").await;
        assert!(satisfied, "{said}");
    }
    let (rules, tests) =
        (std::fs::read_to_string(path("alerts.yml")), std::fs::read_to_string(path("tests.yml")));
    let (rules, tests) = (rules.unwrap(), tests.unwrap());
    let docs = std::fs::read_to_string(deployed("../../docs/operations.md")).unwrap();
    let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    for name in names {
        assert!(tests.contains(&format!("alertname: {name}\n")), "{name} has no test");
        assert!(docs.contains(&format!("### {name}\n")), "{name} is not in docs/operations.md");
    }
    let dashboard = std::fs::read_to_string(deployed("../grafana/minigate.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 10));
}

async fn traces_and_metrics_are_exported(scene: Scene) {
    let collector = Collector::start().await;
    let settings = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url()),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-collector-key=collector-canary-90c1"),
        ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "100"),
    ];
    let host = start(&scene, &settings).await;
    let client = Client::new(&host.url);
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let headers =
        [("traceparent", format!("00-{trace}-00f067aa0ba902b7-01")), ("x-trace-id", "17100001".to_owned())];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let marker = scene.marker("traced");
    let answers = join_all([client.chat_with(&headers, of(USER, &marker).to_string())]).await;
    assert_eq!((answers[0].status, answers[0].header("x-trace-id")), (200, "17100001"));
    let seen = scene.upstream().wait_for(&marker, "the request", |_| true).await;
    let mine = || {
        let spans = collector.spans().into_iter();
        spans.filter(|span| span["traceId"] == trace).collect::<Vec<_>>()
    };
    until("the spans", Duration::from_secs(10), || async { mine().len() >= 4 }).await;
    let spans = mine();
    let root = spans.iter().find(|span| span["name"] == "/api/chat").expect("the request's own span");
    assert_eq!(root["parentSpanId"], "00f067aa0ba902b7");
    let sent = seen.header("traceparent").expect("passed on");
    assert_eq!(sent, format!("00-{trace}-{}-01", root["spanId"].as_str().unwrap()));
    let attributes = root["attributes"].to_string();
    assert!(
        attributes.contains("17100001") && attributes.contains("gen_ai.usage.input_tokens"),
        "{attributes}"
    );
    for stage in ["body", "gates", "upstream"] {
        let span =
            spans.iter().find(|span| span["name"] == stage).unwrap_or_else(|| panic!("{stage}: {spans:?}"));
        assert_eq!(span["parentSpanId"], root["spanId"]);
        let time = |name: &str| span[name].as_str().unwrap().parse::<u64>().unwrap();
        assert!(time("startTimeUnixNano") <= time("endTimeUnixNano"));
    }
    let name = "gen_ai.client.operation.duration";
    until("the metrics", Duration::from_secs(10), || async {
        collector
            .metrics()
            .iter()
            .any(|metric| metric["name"] == name && metric["histogram"]["dataPoints"][0]["count"] == "1")
    })
    .await;
    let all = format!("{:?}{:?}", collector.spans(), collector.metrics());
    for canary in [USER, marker.as_str(), KEY, METRICS_KEY, "collector-canary"] {
        assert!(!all.contains(canary), "{canary} is exported");
    }
    assert!(!host.output().contains("collector-canary"));
    host.stop().await;
}
