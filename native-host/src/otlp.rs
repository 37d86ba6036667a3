//! Traces and metrics to an OpenTelemetry collector: OTLP over HTTP, as JSON.
//!
//! A request only hands its sample over, and drops it when the exporter is behind: a collector that
//! is slow or away costs no request anything. One thread exports for all. Names and numbers are the
//! core's; here they are only written in OTLP's words.

use std::{rc::Rc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Uri,
    header::{CONTENT_TYPE, HeaderName, HeaderValue},
};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use minigate_core::{
    exchange,
    measure::{Family, Kind, Number, Point, Sample, StageName, families},
};
use serde_json::{Value, json};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::{clock, driver::Serving, journal, settings, upstream::with_tls};

/// Requests whose traces may wait to be sent.
const MOST_WAITING: usize = 4_096;
/// Requests in one message.
const MOST_TOGETHER: usize = 512;
/// How long a collector may take (OpenTelemetry's own default).
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a collector that fails is written to the log.
const COMPLAIN: Duration = Duration::from_secs(60);

/// Where traces and metrics go.
#[derive(Clone, Debug)]
pub(crate) struct Exporter {
    endpoint: String,
    /// May have a collector's key in them.
    headers: Vec<(HeaderName, HeaderValue)>,
    service: String,
    traces_every: Duration,
    metrics_every: Duration,
    samples: mpsc::Sender<Box<Sample>>,
}

/// What was handed over.
pub(crate) type Samples = mpsc::Receiver<Box<Sample>>;

/// A thread's way to the exporter.
#[derive(Clone, Debug)]
pub(crate) struct Traces(mpsc::Sender<Box<Sample>>);

impl Traces {
    /// Hands a request over, or drops it.
    pub(crate) fn give(&self, sample: Box<Sample>) {
        let _ = self.0.try_send(sample);
    }
}

impl Exporter {
    /// What OpenTelemetry's own variables say; `None` without an endpoint.
    ///
    /// # Errors
    /// When one of them is not what it should be.
    pub(crate) fn from_settings() -> Result<Option<(Self, Samples)>, String> {
        let Some(endpoint) = settings::text("OTEL_EXPORTER_OTLP_ENDPOINT") else { return Ok(None) };
        endpoint.parse::<Uri>().map_err(|error| format!("OTEL_EXPORTER_OTLP_ENDPOINT: {error}"))?;
        let list = settings::text("OTEL_EXPORTER_OTLP_HEADERS").unwrap_or_default();
        let headers =
            list.split(',').filter(|item| !item.trim().is_empty()).map(header).collect::<Option<_>>();
        let headers = headers.ok_or(
            "OTEL_EXPORTER_OTLP_HEADERS: not `name=value`, separated by commas; shown without its value",
        )?;
        let every = |name: &str, default: u16| {
            settings::number(name, default).map(|ms| Duration::from_millis(ms.max(10).into()))
        };
        let (samples, waiting) = mpsc::channel(MOST_WAITING);
        let exporter = Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            headers,
            service: settings::text("OTEL_SERVICE_NAME").unwrap_or_else(|| "minigate".into()),
            traces_every: every("OTEL_BSP_SCHEDULE_DELAY", 5_000)?,
            metrics_every: every("OTEL_METRIC_EXPORT_INTERVAL", 60_000)?,
            samples,
        };
        Ok(Some((exporter, waiting)))
    }

    pub(crate) fn traces(&self) -> Traces {
        Traces(self.samples.clone())
    }

    fn resource(&self) -> Value {
        json!({"attributes": [attribute("service.name", &self.service)]})
    }
}

/// `name=value`, as in the variable's specification.
fn header(item: &str) -> Option<(HeaderName, HeaderValue)> {
    let (name, value) = item.split_once('=')?;
    let name = HeaderName::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).ok()?;
    let mut value = HeaderValue::from_str(value.trim()).ok()?;
    value.set_sensitive(true);
    Some((name, value))
}

/// Sends until the host stops; then once more.
pub(crate) async fn run(
    exporter: Exporter,
    serving: Rc<Serving>,
    mut samples: Samples,
    mut stopped: watch::Receiver<bool>,
) {
    let mut way = Way::new(&exporter);
    let begun_ms = clock::unix_ms();
    let (mut traces, mut metrics) = (interval(exporter.traces_every), interval(exporter.metrics_every));
    traces.set_missed_tick_behavior(MissedTickBehavior::Delay);
    metrics.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let (mut stops, mut measures) = (false, false);
        tokio::select! {
            _ = stopped.changed() => stops = true,
            _ = metrics.tick() => measures = true,
            _ = traces.tick() => {}
        }
        let mut batch = Vec::new();
        while let Ok(sample) = samples.try_recv() {
            batch.push(sample);
            if batch.len() == MOST_TOGETHER {
                way.send("/v1/traces", &spans(&exporter, &batch)).await;
                batch.clear();
            }
        }
        if !batch.is_empty() {
            way.send("/v1/traces", &spans(&exporter, &batch)).await;
        }
        if stops || measures {
            let (now_ms, worker) = (clock::unix_ms(), serving.worker());
            let questions = exchange::questions(&worker.policy, now_ms);
            let outcomes = worker.store.apply(&worker.core, questions).await.unwrap_or_default();
            let totals = if stops { worker.stats.own() } else { worker.stats.all().await };
            let process = worker.stats.process();
            let snapshot = exchange::snapshot(&worker.policy, totals, process, &outcomes, now_ms);
            // At the end the other threads may be gone, and their counts with them: less than was sent
            // before would look like a new start.
            if !stops {
                way.send("/v1/metrics", &metrics_of(&exporter, &families(&snapshot), begun_ms, now_ms)).await;
            }
        }
        if stops {
            return;
        }
    }
}

/// The connection to the collector.
struct Way<'e> {
    exporter: &'e Exporter,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    complained: Option<Instant>,
}

impl<'e> Way<'e> {
    fn new(exporter: &'e Exporter) -> Self {
        let connector = with_tls(HttpConnector::new());
        Self { exporter, client: Client::builder(TokioExecutor::new()).build(connector), complained: None }
    }

    /// Sends one message; what cannot be sent is lost, and said now and then.
    async fn send(&mut self, path: &str, message: &Value) {
        let problem = match timeout(PATIENCE, self.try_send(path, message)).await {
            Ok(Ok(())) => return,
            Ok(Err(problem)) => problem,
            Err(_) => "no answer".to_owned(),
        };
        if self.complained.is_none_or(|at| at.elapsed() > COMPLAIN) {
            self.complained = Some(Instant::now());
            journal::event("warn", "export_failed", &[("path", path.into()), ("problem", problem.into())]);
        }
    }

    async fn try_send(&self, path: &str, message: &Value) -> Result<(), String> {
        let uri = format!("{}{path}", self.exporter.endpoint);
        let mut request = Request::builder().method(Method::POST).uri(uri);
        request = request.header(CONTENT_TYPE, "application/json");
        for (name, value) in &self.exporter.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::from(message.to_string())).map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        // Read to its end, so that the connection can be used again.
        let _ = response.into_body().collect().await;
        if status.is_success() { Ok(()) } else { Err(format!("status {status}")) }
    }
}

fn attribute(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

fn nanos(ms: u64) -> String {
    format!("{ms}000000")
}

/// One span for each request, and one for each of its stages.
fn spans(exporter: &Exporter, samples: &[Box<Sample>]) -> Value {
    let spans: Vec<Value> = samples.iter().flat_map(|sample| spans_of(sample)).collect();
    json!({"resourceSpans": [{
        "resource": exporter.resource(),
        "scopeSpans": [{"scope": {"name": "minigate", "version": env!("CARGO_PKG_VERSION")}, "spans": spans}],
    }]})
}

fn spans_of(sample: &Sample) -> Vec<Value> {
    /// Of OTLP's kinds of spans.
    const INTERNAL: u8 = 1;
    const SERVER: u8 = 2;
    const CLIENT: u8 = 3;
    let trace = &sample.trace;
    let mut attributes = vec![
        attribute("http.route", &sample.route),
        json!({"key": "http.response.status_code", "value": {"intValue": sample.status.to_string()}}),
        // What logs and answers show, where the client chose an id that is no W3C one.
        attribute("minigate.trace_id", &trace.shown_id),
    ];
    if let Some(turn) = &sample.turn {
        let labels = &turn.labels;
        let names = [
            ("gen_ai.request.model", &labels.model),
            ("minigate.intent", &labels.intent),
            ("minigate.profile", &labels.profile),
        ];
        let known = names.into_iter().filter(|(_, value)| !value.is_empty());
        attributes.extend(known.map(|(name, value)| attribute(name, value)));
        if let Some((input, output)) = turn.tokens {
            let tokens = [("gen_ai.usage.input_tokens", input), ("gen_ai.usage.output_tokens", output)];
            let number =
                |(key, count): (&str, u32)| json!({"key": key, "value": {"intValue": count.to_string()}});
            attributes.extend(tokens.map(number));
        }
    }
    let mut root = json!({
        "traceId": trace.trace_id, "spanId": trace.span_id, "name": sample.route, "kind": SERVER,
        "startTimeUnixNano": nanos(trace.started_ms),
        "endTimeUnixNano": nanos(trace.started_ms + u64::from(sample.total_ms)),
    });
    if let Some(parent) = &trace.parent_id {
        root["parentSpanId"] = parent.as_str().into();
    }
    if let Some(code) = sample.code {
        attributes.push(attribute("error.type", code.name()));
        // The conventions leave a server's span unset for what the client did wrong.
        if sample.status >= 500 {
            root["status"] = json!({"code": 2, "message": code.name()});
        }
    }
    root["attributes"] = attributes.into();
    let own = u64::from_str_radix(&trace.span_id, 16).unwrap_or_default();
    let stages = trace.stages.iter().zip(1..).map(|(stage, number)| {
        let kind = match stage.name {
            StageName::Upstream | StageName::Stream | StageName::Wechat => CLIENT,
            _ => INTERNAL,
        };
        json!({
            "traceId": trace.trace_id, "spanId": format!("{:016x}", own.wrapping_add(number).max(1)),
            "parentSpanId": trace.span_id, "name": stage.name.name(), "kind": kind,
            "startTimeUnixNano": nanos(trace.started_ms + u64::from(stage.start_ms)),
            "endTimeUnixNano": nanos(trace.started_ms + u64::from(stage.end_ms)),
        })
    });
    std::iter::once(root).chain(stages).collect()
}

fn metrics_of(exporter: &Exporter, families: &[Family], begun_ms: u64, now_ms: u64) -> Value {
    let full = families.iter().filter(|family| !family.points.is_empty());
    let metrics: Vec<Value> = full.map(|family| metric(family, begun_ms, now_ms)).collect();
    json!({"resourceMetrics": [{
        "resource": exporter.resource(),
        "scopeMetrics": [{"scope": {"name": "minigate", "version": env!("CARGO_PKG_VERSION")}, "metrics": metrics}],
    }]})
}

fn metric(family: &Family, begun_ms: u64, now_ms: u64) -> Value {
    /// Since the begin, and not since the last message.
    const CUMULATIVE: u8 = 2;
    let points: Vec<Value> = family.points.iter().map(|point| data_point(point, begun_ms, now_ms)).collect();
    let data = match family.kind {
        Kind::Counter => {
            json!({"aggregationTemporality": CUMULATIVE, "isMonotonic": true, "dataPoints": points})
        }
        Kind::Histogram => json!({"aggregationTemporality": CUMULATIVE, "dataPoints": points}),
        Kind::Gauge | Kind::Summary => json!({"dataPoints": points}),
    };
    let key = match family.kind {
        Kind::Counter => "sum",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
    };
    json!({"name": family.name, "description": family.help, "unit": family.unit, key: data})
}

fn data_point(point: &Point, begun_ms: u64, now_ms: u64) -> Value {
    let attributes: Vec<Value> = point.labels.iter().map(|(key, value)| attribute(key, value)).collect();
    let mut data = json!({
        "attributes": attributes, "startTimeUnixNano": nanos(begun_ms), "timeUnixNano": nanos(now_ms),
    });
    match &point.number {
        Number::Value(value) => data["asDouble"] = (*value).into(),
        Number::Buckets { below, count, sum } => {
            // OTLP counts each bucket by itself.
            let counts = below.iter().map(|(_, count)| *count).chain([*count]);
            let mut last = 0;
            let each: Vec<String> = counts
                .map(|sum| {
                    let own = sum.saturating_sub(last);
                    last = sum;
                    own.to_string()
                })
                .collect();
            let bounds: Vec<f64> = below.iter().map(|(end, _)| *end).collect();
            data["count"] = count.to_string().into();
            data["sum"] = (*sum).into();
            data["bucketCounts"] = each.into();
            data["explicitBounds"] = bounds.into();
        }
        Number::Quantiles { quantiles, count, sum } => {
            let values: Vec<Value> = quantiles
                .iter()
                .map(|(quantile, value)| json!({"quantile": quantile, "value": value}))
                .collect();
            data["count"] = count.to_string().into();
            data["sum"] = (*sum).into();
            data["quantileValues"] = values.into();
        }
    }
    data
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_name_and_value() {
        assert_eq!(header("X-Key = secret").expect("a header").0, "x-key");
        for bad in ["", "x", "a b=c", "x=\u{1}"] {
            assert!(header(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn buckets_are_counted_one_by_one() {
        let number = Number::Buckets { below: vec![(0.1, 2), (0.2, 2), (0.4, 5)], count: 6, sum: 1.5 };
        let point = data_point(&Point { labels: vec![("http.route", "/x".into())], number }, 1, 2);
        assert_eq!(point["bucketCounts"], json!(["2", "0", "3", "1"]));
        assert_eq!(
            (point["explicitBounds"].clone(), point["count"].clone()),
            (json!([0.1, 0.2, 0.4]), json!("6"))
        );
        assert_eq!(point["timeUnixNano"], "2000000");
    }
}
