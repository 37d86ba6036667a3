//! What the doctor measures.

use std::{
    net::{TcpStream, ToSocketAddrs as _},
    thread,
    time::{Duration, Instant},
};

use minigate_core::policy::{
    catalog::{Model, ModelKind},
    channel::ChannelKind,
};
use serde_json::{Value, json};

use super::{Finding, Patient, Verdict, words::Said};
use crate::commands::http::{self, Answer, Problem, Question};

/// Where a person begins to wonder: for a connection, for an answer to a few words.
const SLOW_CONNECT: Duration = Duration::from_millis(300);
const SLOW_ANSWER: Duration = Duration::from_secs(3);
/// How long others than runtimes may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// So many tokens are asked for.
const TOKENS: u64 = 16;
/// At most so many requests at once are tried.
const MOST_AT_ONCE: u16 = 4;

/// All findings, in their order.
pub(super) fn all(patient: &Patient) -> Vec<Finding> {
    let models: Vec<&Model> = patient
        .catalog
        .models
        .iter()
        .filter(|model| matches!(model.kind, ModelKind::OpenAi { .. }))
        .collect();
    let mut findings = Vec::new();
    let mut times = Vec::new();
    for model in &models {
        for server in servers(model, patient) {
            let (finding, took) = runtime(model, &server);
            findings.push(finding);
            times.push((*model, server, took));
        }
    }
    if models.is_empty() {
        findings.push(of("runtime", "", Verdict::Ok, "-", Said::NoRuntime));
    }
    for (model, server, took) in &times {
        if let Some(took) = took {
            findings.push(concurrency(model, server, *took));
        }
    }
    for (model, server, _) in &times {
        findings.push(prompt(model, server));
    }
    findings.extend(network(patient));
    findings.push(openclaw(patient));
    findings.extend(dingtalk(patient));
    findings
}

fn of(area: &'static str, of: &str, verdict: Verdict, measured: impl Into<String>, said: Said) -> Finding {
    Finding { area, of: of.to_owned(), verdict, measured: measured.into(), said }
}

/// A model's server, with the key for it.
struct Server {
    name: String,
    url: String,
    key: Option<String>,
    model: String,
    patience: Duration,
}

fn servers(model: &Model, patient: &Patient) -> Vec<Server> {
    let ModelKind::OpenAi { base_url, api_key, model: name } = &model.kind else { return Vec::new() };
    let key = api_key.as_deref().and_then(|name| patient.given.get(name));
    let urls = std::iter::once(base_url).chain(&model.runtime.replicas).enumerate();
    let server = |(number, url): (usize, &String)| Server {
        name: if number == 0 { model.alias.clone() } else { format!("{}#{number}", model.alias) },
        url: url.trim_end_matches('/').to_owned(),
        key: key.clone(),
        model: name.clone(),
        patience: Duration::from_millis(model.timeout_ms.unwrap_or(60_000).into()),
    };
    urls.map(server).collect()
}

impl Server {
    fn say(&self) -> Result<Answer, Problem> {
        let messages = json!([{"role": "user", "content": "ping"}]);
        let body = json!({"model": self.model, "max_tokens": TOKENS, "messages": messages});
        let url = format!("{}/chat/completions", self.url);
        http::ask(&Question { url: &url, bearer: self.key.as_deref(), body: Some(&body) }, self.patience)
    }
}

/// A few words of the model's, and how long they took.
fn runtime(model: &Model, server: &Server) -> (Finding, Option<Duration>) {
    let finding = |verdict, measured: String, said| of("runtime", &server.name, verdict, measured, said);
    let answer = match server.say() {
        Ok(answer) => answer,
        Err(problem) => return (unanswered("runtime", &server.name, problem, server.patience), None),
    };
    let ms = answer.took.as_millis();
    if answer.status != 200 || !answer.json()["choices"].is_array() {
        let said = match answer.status {
            401 | 403 => Said::WrongKey,
            404 => Said::NoModel,
            _ => Said::Failed,
        };
        return (finding(Verdict::Broken, format!("{ms} ms, status {}", answer.status), said), None);
    }
    let tokens = answer.json()["usage"]["completion_tokens"].as_u64().unwrap_or_default();
    let rate = tokens as f64 / answer.took.as_secs_f64().max(0.001);
    let measured = format!("{ms} ms, {tokens} tokens, {rate:.1} tokens/s");
    let slow = answer.took > SLOW_ANSWER || answer.took * 4 > server.patience && model.timeout_ms.is_some();
    let (verdict, said) =
        if slow { (Verdict::Slow, Said::SlowRuntime) } else { (Verdict::Ok, Said::Nothing) };
    (finding(verdict, measured, said), Some(answer.took))
}

fn unanswered(area: &'static str, name: &str, problem: Problem, patience: Duration) -> Finding {
    match problem {
        Problem::Late => {
            of(area, name, Verdict::Broken, format!("> {} ms", patience.as_millis()), Said::Late)
        }
        Problem::Connect => of(area, name, Verdict::Broken, "no connection", Said::Unreachable),
        Problem::Broken | Problem::Url => of(area, name, Verdict::Broken, "no answer", Said::Failed),
    }
}

/// As many at once as are allowed: whether they take longer than one alone.
fn concurrency(model: &Model, server: &Server, alone: Duration) -> Finding {
    let Some(slots) = model.slots else {
        return of("concurrency", &server.name, Verdict::Slow, "no limit", Said::NoLimit);
    };
    let count = slots.min(MOST_AT_ONCE);
    let began = Instant::now();
    let answered = thread::scope(|scope| {
        let asked: Vec<_> = (0..count).map(|_| scope.spawn(|| server.say())).collect();
        let ended = asked.into_iter().filter_map(|thread| thread.join().ok());
        ended.filter(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)).count()
    });
    let took = began.elapsed();
    let measured = format!(
        "limit {slots}; {answered} of {count} at once in {} ms, one in {} ms",
        took.as_millis(),
        alone.as_millis()
    );
    let serial = count > 1 && took > SLOW_ANSWER && took > alone * u32::from(count) * 9 / 10;
    let (verdict, said) = match (answered < usize::from(count), serial) {
        (true, _) => (Verdict::Broken, Said::Serial),
        (_, true) => (Verdict::Slow, Said::Serial),
        _ => (Verdict::Ok, Said::Nothing),
    };
    of("concurrency", &server.name, verdict, measured, said)
}

/// What the model is said to hold, beside what its server says.
fn prompt(model: &Model, server: &Server) -> Finding {
    let url = format!("{}/models", server.url);
    let question = Question { url: &url, bearer: server.key.as_deref(), body: None };
    let listed = http::ask(&question, PATIENCE).map(|answer| answer.json()).unwrap_or_default();
    let holds = holds(&listed, &server.model);
    let says =
        holds.map_or("the runtime does not say".to_owned(), |tokens| format!("the runtime holds {tokens}"));
    let set = model.runtime.context_tokens;
    let measured = match set {
        Some(tokens) => format!("context_tokens {tokens}; {says}"),
        None => format!("no context_tokens; {says}"),
    };
    let (verdict, said) = match (set, holds) {
        (Some(set), Some(holds)) if u64::from(set) > holds => (Verdict::Broken, Said::ContextTooLarge),
        (Some(_), _) => (Verdict::Ok, Said::Nothing),
        (None, _) => (Verdict::Slow, Said::NoContext),
    };
    of("prompt", &server.name, verdict, measured, said)
}

/// What a list of models says that one holds: vLLM's `max_model_len`, llama.cpp's `n_ctx` and
/// `n_ctx_train`.
fn holds(listed: &Value, name: &str) -> Option<u64> {
    let models = listed["data"].as_array()?;
    let model = models.iter().find(|model| model["id"] == name).or_else(|| models.first())?;
    let meta = &model["meta"];
    [&model["max_model_len"], &meta["n_ctx"], &meta["n_ctx_train"]].into_iter().find_map(Value::as_u64)
}

/// A connection to each host that is needed.
fn network(patient: &Patient) -> Vec<Finding> {
    let mut hosts = Vec::new();
    hosts.extend(patient.given.get("OPENCLAW_GATEWAY_URL").as_deref().and_then(host));
    if !patient.catalog.channels.is_empty() {
        hosts.extend(host(&dingtalk_url(patient)));
    }
    let connect = |(host, port): (String, u16)| {
        let began = Instant::now();
        let addresses = (host.as_str(), port).to_socket_addrs().map(|found| found.collect::<Vec<_>>());
        let reached = addresses.unwrap_or_default().into_iter().take(2);
        let reached = reached.map(|address| TcpStream::connect_timeout(&address, Duration::from_secs(3)));
        let reached = reached.filter_map(Result::ok).next().is_some();
        let took = began.elapsed();
        let name = format!("{host}:{port}");
        match reached {
            false => of("network", &name, Verdict::Broken, "no connection", Said::NoNetwork),
            true if took > SLOW_CONNECT => {
                of("network", &name, Verdict::Slow, format!("{} ms", took.as_millis()), Said::SlowNetwork)
            }
            true => of("network", &name, Verdict::Ok, format!("{} ms", took.as_millis()), Said::Nothing),
        }
    };
    hosts.into_iter().map(connect).collect()
}

fn host(url: &str) -> Option<(String, u16)> {
    let uri: hyper::Uri = url.parse().ok()?;
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    Some((uri.host()?.trim_matches(['[', ']']).to_owned(), port))
}

/// Whether OpenClaw is ready, and takes the token.
fn openclaw(patient: &Patient) -> Finding {
    let Some(url) = patient.given.get("OPENCLAW_GATEWAY_URL") else {
        return of("openclaw", "", Verdict::Unknown, "OPENCLAW_GATEWAY_URL", Said::NotSet);
    };
    let base = url.trim_end_matches('/');
    let ready = format!("{base}/readyz");
    let ready = match http::ask(&Question { url: &ready, ..Question::default() }, PATIENCE) {
        Ok(answer) => answer,
        Err(problem) => return unanswered("openclaw", "", problem, PATIENCE),
    };
    let ms = ready.took.as_millis();
    if ready.status != 200 {
        let measured = format!("{ms} ms, status {}", ready.status);
        return of("openclaw", "", Verdict::Broken, measured, Said::OpenClawNotReady);
    }
    let token = patient.given.get("OPENCLAW_GATEWAY_TOKEN");
    let agents = format!("{base}/v1/models");
    let agents = http::ask(&Question { url: &agents, bearer: token.as_deref(), body: None }, PATIENCE);
    match agents.map(|answer| answer.status) {
        Ok(401 | 403) => of("openclaw", "", Verdict::Broken, format!("{ms} ms, 401"), Said::WrongKey),
        _ if ready.took > SLOW_ANSWER => {
            of("openclaw", "", Verdict::Slow, format!("{ms} ms"), Said::OpenClawNotReady)
        }
        _ => of("openclaw", "", Verdict::Ok, format!("{ms} ms"), Said::Nothing),
    }
}

fn dingtalk_url(patient: &Patient) -> String {
    patient.given.get("DINGTALK_API_URL").unwrap_or_else(|| "https://api.dingtalk.com".to_owned())
}

/// Whether DingTalk gives each robot's app a token.
fn dingtalk(patient: &Patient) -> Vec<Finding> {
    let url = format!("{}/v1.0/oauth2/accessToken", dingtalk_url(patient).trim_end_matches('/'));
    let mut findings = Vec::new();
    for channel in &patient.catalog.channels {
        let ChannelKind::DingTalk { app_key, app_secret, .. } = &channel.kind;
        let (Some(key), Some(secret)) = (patient.given.get(app_key), patient.given.get(app_secret)) else {
            let names = format!("{app_key}, {app_secret}");
            findings.push(of("dingtalk", &channel.name, Verdict::Broken, names, Said::NotSet));
            continue;
        };
        let body = json!({"appKey": key, "appSecret": secret});
        let question = Question { url: &url, bearer: None, body: Some(&body) };
        findings.push(match http::ask(&question, PATIENCE) {
            Err(problem) => unanswered("dingtalk", &channel.name, problem, PATIENCE),
            Ok(answer) => {
                let measured = format!("{} ms", answer.took.as_millis());
                let given = answer.status == 200 && answer.json()["accessToken"].is_string();
                let (verdict, said) = match (given, answer.status) {
                    (true, _) if answer.took > SLOW_ANSWER => (Verdict::Slow, Said::SlowNetwork),
                    (true, _) => (Verdict::Ok, Said::Nothing),
                    (false, 400..=499) => (Verdict::Broken, Said::WrongKey),
                    _ => (Verdict::Broken, Said::Failed),
                };
                of("dingtalk", &channel.name, verdict, measured, said)
            }
        });
    }
    if findings.is_empty() {
        findings.push(of("dingtalk", "", Verdict::Unknown, "-", Said::NoChannel));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtimes_own_word_for_what_it_holds() {
        let vllm = json!({"data": [{"id": "a", "max_model_len": 4096}, {"id": "b", "max_model_len": 8192}]});
        assert_eq!((holds(&vllm, "b"), holds(&vllm, "c")), (Some(8192), Some(4096)));
        let llama = json!({"data": [{"id": "x", "meta": {"n_ctx_train": 32768}}]});
        assert_eq!(holds(&llama, "x"), Some(32768));
        assert_eq!(holds(&Value::Null, "x"), None);
    }

    #[test]
    fn a_host_and_its_port() {
        assert_eq!(host("https://api.dingtalk.com"), Some(("api.dingtalk.com".into(), 443)));
        assert_eq!(host("http://127.0.0.1:18789/x"), Some(("127.0.0.1".into(), 18789)));
        assert_eq!(host("http://[::1]:80"), Some(("::1".into(), 80)));
        assert_eq!(host("no url"), None);
    }
}
