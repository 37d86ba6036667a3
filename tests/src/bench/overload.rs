//! Ten times as many requests as the real OpenClaw serves, from fifty people, one of them fifty
//! times as busy as the others.
//!
//! Open loop: everybody sends at their own times, whether or not they were answered. What is
//! compared was measured one after the other on the same OpenClaw: its own maximum, the crowd
//! without the busy one, and the crowd with it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{
    Result,
    report::{Report, Row, Target},
};
use minigate_tests::{
    hosts::{Host, Kind},
    openclaw::{Auth, OpenClaw, TOKEN},
    provider::Provider,
};

const KEY: &str = "overload-key";
/// People, the busy one among them.
const PEOPLE: usize = 50;
/// How much busier the busy one is.
const BUSIER: f64 = 50.0;
/// The turn's deadline, and what an answer may take beyond it: the way back.
const DEADLINE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_millis(1_500);

/// One request.
#[derive(Clone)]
struct Sent {
    person: usize,
    /// When the answer was there, from the crowd's begin on.
    at: Duration,
    took: Duration,
    status: u16,
    code: String,
    retry_after: bool,
}

/// Measures for so long each time.
pub(crate) fn overload(seconds: u64) -> Result<Report> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure(Duration::from_secs(seconds)))
}

async fn measure(time: Duration) -> Result<Report> {
    let mut report = Report::begin(0, 1);
    eprintln!("[bench] starting OpenClaw");
    let provider = Provider::start().await;
    let openclaw = OpenClaw::start(&provider, Auth::Token).await;
    eprintln!("[bench] OpenClaw alone");
    let maximum = alone(&openclaw, time).await?;
    report.push(Row::ours(
        "openclaw.max",
        "OpenClaw alone, eight at a time",
        "runs/s",
        maximum,
        Target::None,
    ));

    let seconds = DEADLINE.as_millis().to_string();
    let host = Host::start(
        Kind::Native,
        &[
            ("OPENCLAW_GATEWAY_URL", openclaw.url.as_str()),
            ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
            ("API_KEY", KEY),
            ("TURN_TIMEOUT_MS", &seconds),
            // The queue is what is measured, not the limits before it.
            ("RATE_LIMIT_PER_MINUTE", "0"),
            ("RATE_LIMIT_PER_ADDRESS", "0"),
            ("ABUSE_PROTECTION", "off"),
            ("LOG_LEVEL", "warn"),
        ],
    )
    .await;
    // The busy one alone offers half of ten times the maximum, all the others the other half.
    let others = maximum * 10.0 / (BUSIER + (PEOPLE - 1) as f64);
    eprintln!("[bench] {} people, {others:.2} requests/s each", PEOPLE - 1);
    let without = crowd(&host.url, others, false, time).await;
    settle(&host.url).await;
    eprintln!("[bench] and one who is {BUSIER} times as busy");
    let with = crowd(&host.url, others, true, time).await;

    let p95 = |sent: &[Sent]| quantile(sent.iter().filter(|s| s.person > 0 && s.status == 200), 0.95);
    let answered = |sent: &[Sent]| sent.iter().filter(|s| s.status == 200).count() as f64;
    // What comes after the crowd has stopped is no goodput under load.
    let in_time = with.iter().filter(|s| s.status == 200 && s.at <= time).count();
    let goodput = in_time as f64 / time.as_secs_f64();
    report.push(Row::pair(
        "OpenClaw",
        "goodput",
        "answers under ten times the load",
        "runs/s",
        goodput,
        maximum,
        Target::AtLeast(0.95),
    ));
    report.push(Row::pair(
        "without",
        "others.p95",
        "the others' p95 beside the busy one",
        "ms",
        p95(&with),
        p95(&without),
        Target::Ratio(1.5),
    ));
    for (id, what, sent) in
        [("without", "without the busy one", &without), ("with", "with the busy one", &with)]
    {
        let late = sent.iter().filter(|s| s.took > DEADLINE + GRACE).count() as f64;
        let lost = sent.iter().filter(|s| s.status == 0).count() as f64;
        let refused = sent.iter().filter(|s| s.status == 503).count() as f64;
        let unsaid = sent.iter().filter(|s| s.status == 503 && !s.retry_after).count() as f64;
        let other = sent.len() as f64 - answered(sent) - lost - refused;
        let row = |name: &str, text: &str, value, target| {
            Row::ours(&format!("{id}.{name}"), &format!("{text}, {what}"), "requests", value, target)
        };
        report.push(row("sent", "sent", sent.len() as f64, Target::None));
        report.push(row("answered", "answered", answered(sent), Target::None));
        report.push(row("refused", "sent away with a time to come back", refused, Target::None));
        report.push(row("unsaid", "sent away without one", unsaid, Target::AtMost(0.0)));
        report.push(row("late", "after the deadline", late, Target::AtMost(0.0)));
        report.push(row("lost", "without any answer", lost, Target::AtMost(0.0)));
        report.push(row("other", "failed otherwise", other, Target::AtMost(0.0)));
        let starved =
            (1..PEOPLE).filter(|person| !sent.iter().any(|s| s.person == *person && s.status == 200));
        report.push(Row::ours(
            &format!("{id}.starved"),
            &format!("people without one answer, {what}"),
            "people",
            starved.count() as f64,
            Target::AtMost(0.0),
        ));
        let mut codes: Vec<&str> =
            sent.iter().map(|s| s.code.as_str()).filter(|code| !code.is_empty()).collect();
        codes.sort_unstable();
        codes.dedup();
        eprintln!("[bench] codes {what}: {}", codes.join(", "));
    }
    report.end();
    host.stop().await;
    openclaw.stop().await;
    Ok(report)
}

fn http() -> Result<reqwest::Client> {
    Ok(reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(64)
        .timeout(Duration::from_secs(90))
        .build()?)
}

/// What OpenClaw does by itself, with as many at a time as it runs.
async fn alone(openclaw: &OpenClaw, time: Duration) -> Result<f64> {
    let http = http()?;
    let end = Instant::now() + time;
    let lane = |lane: usize| {
        let (http, url) = (http.clone(), format!("{}/v1/chat/completions", openclaw.url));
        async move {
            let mut runs = 0_usize;
            while Instant::now() < end {
                let body = json!({"model": "openclaw", "messages": [{"role": "user", "content": format!("alone {lane} {runs}")}]});
                let answer = http
                    .post(&url)
                    .bearer_auth(TOKEN)
                    .header("content-type", "application/json")
                    .body(body.to_string())
                    .send()
                    .await;
                let answered = answer.is_ok_and(|answer| answer.status() == 200);
                runs += usize::from(answered && Instant::now() <= end);
            }
            runs
        }
    };
    let runs: usize = join_all((0..8).map(lane)).await.into_iter().sum();
    Ok(runs as f64 / time.as_secs_f64())
}

/// Everybody sends at their own rate for a time; then all answers are waited for.
async fn crowd(url: &str, each: f64, busy: bool, time: Duration) -> Vec<Sent> {
    let sent = Arc::new(Mutex::new(Vec::new()));
    let Ok(http) = http() else { return Vec::new() };
    let begun = Instant::now();
    let people = (usize::from(!busy)..PEOPLE).map(|person| {
        let (http, url, sent) = (http.clone(), format!("{url}/api/chat"), Arc::clone(&sent));
        let rate = if person == 0 { each * BUSIER } else { each };
        async move {
            let gap = Duration::from_secs_f64(1.0 / rate);
            // Spread over the first gap, so that nobody is in step with anybody.
            let mut at = tokio::time::Instant::now() + gap.mul_f64(person as f64 / PEOPLE as f64);
            let end = tokio::time::Instant::now() + time;
            let mut running = Vec::new();
            let mut count = 0;
            while at < end {
                tokio::time::sleep_until(at).await;
                at += gap;
                count += 1;
                let (http, url, sent) = (http.clone(), url.clone(), Arc::clone(&sent));
                running.push(tokio::spawn(async move {
                    let mut one = request(&http, &url, person, count).await;
                    one.at = begun.elapsed();
                    sent.lock().unwrap_or_else(PoisonError::into_inner).push(one);
                }));
            }
            join_all(running).await;
        }
    });
    join_all(people).await;
    let sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
    sent.clone()
}

async fn request(http: &reqwest::Client, url: &str, person: usize, count: usize) -> Sent {
    let body = json!({
        "user": format!("person-{person}"),
        "messages": [{"role": "user", "content": format!("person {person} asks {count}")}],
    });
    let begun = Instant::now();
    let answer = http
        .post(url)
        .header("x-api-key", KEY)
        .header("content-type", "application/json")
        .body(body.to_string())
        .send()
        .await;
    let (mut status, mut code, mut retry_after) = (0, String::new(), false);
    if let Ok(answer) = answer {
        status = answer.status().as_u16();
        retry_after = answer.headers().contains_key("retry-after");
        let text = answer.text().await.unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        code = json["error"]["code"].as_str().unwrap_or_default().to_owned();
    }
    Sent { person, at: Duration::ZERO, took: begun.elapsed(), status, code, retry_after }
}

/// Until a request finds nobody before it.
async fn settle(url: &str) {
    let Ok(http) = http() else { return };
    for count in 0..30 {
        if request(&http, &format!("{url}/api/chat"), PEOPLE, count).await.took < Duration::from_secs(1) {
            return;
        }
    }
}

fn quantile<'a>(sent: impl Iterator<Item = &'a Sent>, q: f64) -> f64 {
    let mut times: Vec<f64> = sent.map(|sent| sent.took.as_secs_f64() * 1_000.0).collect();
    times.sort_unstable_by(f64::total_cmp);
    let at = ((times.len() as f64 * q).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(at).copied().unwrap_or(f64::NAN)
}
