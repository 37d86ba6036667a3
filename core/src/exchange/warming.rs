//! Servers of models that are to be warm: one token is asked of each that has come, so that no person
//! waits while it loads.
//!
//! It is an exchange without a client that does not end by itself: it looks at the servers, waits, and
//! looks again, so that one that was started anew is asked anew. A host with a process of its own begins
//! it at its start and gives it up at its end. It takes no slot: a server that is just there has nobody yet.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Exchange, Phase, record::timestamp};
use crate::{
    policy::{
        Policy,
        catalog::{Model, ModelKind, WARM, server_name},
    },
    seam::{Credential, Delivery, Fetch, Input, Level, MODEL, Moment, Output, Rope},
};

/// How often is looked, in milliseconds: less than a person needs to write a question.
const EVERY: u64 = 5_000;
/// How long a server may take to load and say a token, in milliseconds.
const LOADING: u64 = 120_000;
/// The most of an answer that is read; nothing of it is used.
const MOST: u64 = 1024 * 1024;

/// A model's servers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Warming {
    alias: String,
    servers: Vec<Server>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Server {
    /// It has answered since it was away.
    warm: bool,
    /// What it is asked now.
    asked: Option<(u32, Question)>,
    since_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Question {
    /// Whether it is there.
    There,
    /// One token.
    Token,
}

/// The model that an alarm's key stands for.
pub(super) fn alias(key: &str) -> Option<&str> {
    key.strip_prefix(WARM)
}

impl Exchange {
    pub(super) fn begin_warming(&mut self, policy: &Policy, alias: &str, now: Moment) {
        let Some(model) = policy.catalog.model(alias) else { return };
        let servers = vec![Server::default(); model.replicas().into()];
        self.look_at_servers(policy, Box::new(Warming { alias: alias.to_owned(), servers }), now);
    }

    /// Asks each server whether it is there.
    pub(super) fn look_at_servers(&mut self, policy: &Policy, mut warming: Box<Warming>, now: Moment) {
        self.timers.watch = None;
        self.timers.attempt = Some(now.unix_ms + LOADING);
        for number in 0..warming.servers.len() {
            self.ask_server(policy, &mut warming, number, Question::There, now);
        }
        self.phase = Phase::Warming(warming);
    }

    fn ask_server(
        &mut self,
        policy: &Policy,
        warming: &mut Warming,
        number: usize,
        question: Question,
        now: Moment,
    ) {
        let Some(model) = policy.catalog.model(&warming.alias) else { return };
        let id = self.take_id();
        let Some(fetch) = fetch(id, model, number, question) else { return };
        if let Some(server) = warming.servers.get_mut(number) {
            (server.asked, server.since_ms) = (Some((id, question)), now.unix_ms);
            self.outputs.push_back(Output::Fetch(fetch));
        }
    }

    pub(super) fn in_warming(
        &mut self,
        policy: &Policy,
        mut warming: Box<Warming>,
        input: &Input<'_>,
        now: Moment,
    ) {
        let (found, status) = match input {
            Input::FetchWhole { id, status, .. } => (*id, Some(*status)),
            Input::FetchFailed { id, .. } => (*id, None),
            _ => {
                self.phase = Phase::Warming(warming);
                return;
            }
        };
        let waits = |server: &Server| server.asked.is_some_and(|(id, _)| id == found);
        let Some(number) = warming.servers.iter().position(waits) else {
            self.phase = Phase::Warming(warming);
            return;
        };
        let Some(server) = warming.servers.get_mut(number) else { return };
        let (question, ms) = (server.asked.take(), now.unix_ms.saturating_sub(server.since_ms));
        // Some servers have no list of models, and 404 says too that somebody is there.
        let there = status.is_some_and(|status| status < 500);
        match question {
            Some((_, Question::There)) if there && !server.warm => {
                self.ask_server(policy, &mut warming, number, Question::Token, now);
            }
            Some((_, Question::There)) => server.warm = there,
            _ => {
                server.warm = status == Some(200);
                let outcome = if server.warm { "warm" } else { "failed" };
                self.outputs.push_back(record(policy, &warming.alias, number, outcome, ms, now));
            }
        }
        self.wait_for_servers(warming, now);
    }

    /// The next look, when nobody is asked any more.
    fn wait_for_servers(&mut self, warming: Box<Warming>, now: Moment) {
        if warming.servers.iter().all(|server| server.asked.is_none()) {
            self.timers.attempt = None;
            self.timers.watch = Some(now.unix_ms + EVERY);
        }
        self.phase = Phase::Warming(warming);
    }

    /// What they were asked has taken too long.
    pub(super) fn servers_silent(&mut self, mut warming: Box<Warming>, now: Moment) {
        for server in &mut warming.servers {
            if let Some((id, _)) = server.asked.take() {
                self.outputs.push_back(Output::Cancel { id });
                server.warm = false;
            }
        }
        self.wait_for_servers(warming, now);
    }
}

fn fetch(id: u32, model: &Model, number: usize, question: Question) -> Option<Fetch> {
    let ModelKind::OpenAi { api_key, model: name, .. } = &model.kind else { return None };
    let mut body = Rope::default();
    let (method, path) = match question {
        Question::There => ("GET", "/models"),
        Question::Token => {
            let messages = json!([{"role": "user", "content": "hi"}]);
            body.push_str(&json!({"model": name, "max_tokens": 1, "messages": messages}).to_string());
            ("POST", "/chat/completions")
        }
    };
    Some(Fetch {
        id,
        upstream: format!("{MODEL}{}", server_name(&model.alias, u8::try_from(number).ok()?)),
        method: method.into(),
        path: path.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        credential: api_key.clone().map(Credential::Bearer),
        body,
        delivery: Delivery::Whole { limit: MOST },
        keeps_body: false,
    })
}

fn record(policy: &Policy, alias: &str, number: usize, outcome: &str, ms: u64, now: Moment) -> Output {
    let line = json!({
        "ts": timestamp(now.unix_ms), "level": "info", "event": "warm_up", "host": policy.host.name,
        "env": policy.environment.name(), "model": alias, "server": number, "outcome": outcome, "ms": ms,
    });
    Output::Record { level: Level::Info, line: line.to_string() }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::{
        policy::catalog::{Catalog, Runtime},
        seam::FetchFailure,
    };

    fn policy() -> Policy {
        let model = Model {
            alias: "local".into(),
            kind: ModelKind::OpenAi {
                base_url: "http://127.0.0.1:8000/v1".into(),
                api_key: Some("LOCAL_KEY".into()),
                model: "local-chat".into(),
            },
            slots: None,
            timeout_ms: None,
            side_effects: false,
            runtime: Runtime { warm_up: true, ..Runtime::default() },
        };
        Policy { catalog: Catalog { models: vec![model], ..Catalog::default() }, ..Policy::default() }
    }

    fn at(unix_ms: u64) -> Moment {
        Moment { unix_ms, entropy: [7; 16] }
    }

    /// The fetches of a drain, by path, the lines of the log, and when it comes back.
    fn drain(exchange: &mut Exchange) -> (Vec<(u32, String)>, Vec<String>, u64) {
        let (mut fetches, mut lines, mut back) = (Vec::new(), Vec::new(), 0);
        while let Some(output) = exchange.poll_output() {
            match output {
                Output::Fetch(fetch) => fetches.push((fetch.id, fetch.path)),
                Output::Record { line, .. } => lines.push(line),
                Output::Deadline { at_ms, .. } => back = at_ms,
                Output::Cancel { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        (fetches, lines, back)
    }

    fn answer(exchange: &mut Exchange, policy: &Policy, status: Option<u16>, id: u32, now: u64) {
        let input = match status {
            Some(status) => Input::FetchWhole { id, status, headers: Vec::new(), body: b"{}" },
            None => Input::FetchFailed { id, failure: FetchFailure::Connect },
        };
        exchange.handle_input(policy, input, at(now));
    }

    #[test]
    fn a_server_that_has_come_is_asked_one_token_and_again_after_it_was_away() {
        let policy = policy();
        let keys = policy.catalog.warm_ups();
        assert_eq!(keys, ["warm:local"]);
        let mut exchange = Exchange::alarm(&policy, &keys[0], at(0));
        let (mut asked, mut lines) = (Vec::new(), 0);
        // Not there, there, still there, hanging, there again.
        let mut now = 0;
        for status in
            [None, Some(200), Some(200), Some(200), None, Some(503), Some(404), Some(200), Some(200)]
        {
            let (fetches, said, back) = drain(&mut exchange);
            lines += said.len();
            let fetches = match fetches.is_empty() {
                false => fetches,
                true => {
                    now = back;
                    exchange.handle_input(&policy, Input::Deadline, at(now));
                    drain(&mut exchange).0
                }
            };
            let [(id, path)] = fetches.as_slice() else { panic!("{fetches:?}") };
            asked.push(path.clone());
            answer(&mut exchange, &policy, status, *id, now);
        }
        let (list, token) = ("/models", "/chat/completions");
        assert_eq!(asked, [list, list, token, list, list, list, list, token, list]);
        assert_eq!(lines, 2);
        assert!(!exchange.is_done() && now == 6 * EVERY, "{now}");
    }

    #[test]
    fn a_server_that_never_answers_is_asked_again() {
        let policy = policy();
        let mut exchange = Exchange::alarm(&policy, "warm:local", at(0));
        let (fetches, _, back) = drain(&mut exchange);
        assert_eq!((fetches.len(), back), (1, LOADING));
        let mut exchange = Exchange::decode(&exchange.encode()).expect("of this version");
        exchange.handle_input(&policy, Input::Deadline, at(back));
        let (fetches, _, next) = drain(&mut exchange);
        assert_eq!((fetches.len(), next), (0, LOADING + EVERY));
    }

    #[test]
    fn a_model_that_is_not_there_is_nobodys() {
        let mut exchange = Exchange::alarm(&policy(), "warm:other", at(0));
        assert!(matches!(exchange.poll_output(), Some(Output::Done)) && exchange.is_done());
    }
}
