//! The Workers host: drives the core with what the platform gives.
//!
//! It moves bytes, keeps time and stores; it holds no rule. The core runs behind
//! [`guard`](crate::worker::guard), so a panic in it costs one request and not the isolate.

mod driver;
mod guard;
mod js;
mod ledger;
mod live;
mod state_cell;
mod stats;
mod upstream;

use std::{cell::OnceCell, rc::Rc};

use minigate_core::{
    policy::{HostFacts, NAMES, Policy, SECRETS, Secrets, SettingError, Settings, catalog::Catalog, channel},
    seam::{REQUEST_HEADERS, RequestHead},
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use web_sys::{Request, Response};
use worker::{Context, Env, event};

use driver::{Driver, Worker};
use upstream::Addresses;

thread_local! {
    static MODULE: OnceCell<(String, u64)> = const { OnceCell::new() };
}

/// Told once by the entry: the SHA-256 and size of the module file.
#[wasm_bindgen]
#[allow(unreachable_pub, reason = "wasm-bindgen exports public functions only")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a file's size")]
pub fn describe(sha256: String, bytes: f64) {
    MODULE.with(|module| drop(module.set((sha256, bytes as u64))));
}

/// Told by the entry, at the start and when another one is there: a compiled configuration, or
/// nothing. Says whether it can be read; if not, what was there stays.
#[wasm_bindgen]
#[allow(unreachable_pub, reason = "wasm-bindgen exports public functions only")]
pub fn configure(bytes: &[u8]) -> bool {
    live::offer(bytes)
}

/// One request.
#[event(fetch)]
async fn fetch(request: Request, env: Env, context: Context) -> worker::Result<Response> {
    let mut head = head(&request);
    let signal = request.signal();
    match live::worker(&env) {
        Some(worker) => {
            let secret = |name: &str| worker.addresses.credential(name);
            let now_ms = driver::moment().unix_ms;
            head.robot = channel::vouched(&head, &worker.policy.catalog, secret, now_ms);
            let driver = Driver::begin(worker, head, request, Rc::new(context));
            driver::respond(driver, &signal).await
        }
        None => driver::respond_broken(&head),
    }
}

/// The alarm of a key has gone off; called inside of the key's object, which lives until this ends. What
/// fails is tried again when the alarm goes off again.
#[wasm_bindgen]
#[allow(unreachable_pub, reason = "wasm-bindgen exports public functions only")]
pub async fn alarm(key: String, env: Env) {
    if let Some(worker) = live::worker(&env) {
        driver::run_alarm(worker, &key).await;
    }
}

/// The policy of the settings and a configuration.
fn make(env: &Env, catalog: Catalog) -> Result<Worker, Vec<String>> {
    let read = |name: &str| js::property(env, name).as_string();
    let settings: Settings =
        NAMES.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect();
    let mut secrets = Secrets::default();
    let names = SECRETS.iter().copied().chain(catalog.secrets());
    secrets.0.extend(names.filter_map(|name| Some((name.to_owned(), read(name)?))));
    let (module_sha256, module_bytes) = MODULE.with(|module| module.get().cloned()).unwrap_or_default();
    let facts = HostFacts {
        name: "edge".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        runtime: "workers".into(),
        module_sha256,
        module_bytes,
    };
    let problems =
        |errors: Vec<SettingError>| errors.iter().map(ToString::to_string).collect::<Vec<String>>();
    let mut policy = Policy::from_settings(&settings, &secrets, facts, false).map_err(problems)?;
    let addresses = Addresses::new(&settings, &catalog, &secrets);
    policy.configure(catalog, &settings, &secrets).map_err(problems)?;
    let state = env.durable_object("STATE").map_err(|error| vec![format!("binding STATE: {error}")])?;
    let ledger = env.durable_object(ledger::BINDING).ok().filter(|_| policy.audits());
    let analytics = env.analytics_engine("ANALYTICS").ok();
    Ok(Worker { policy, addresses, state, ledger, analytics, env: env.clone() })
}

/// The request's head as the core wants it.
fn head(request: &Request) -> RequestHead {
    let headers = request.headers();
    let read = |name: &str| headers.get(name).ok().flatten();
    let url = request.url();
    // After the scheme's `//`, the path begins at the next slash and ends at the query.
    let rest = url.splitn(4, '/').nth(3).unwrap_or_default();
    let rest = rest.split('#').next().unwrap_or_default();
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    RequestHead {
        method: request.method(),
        path: format!("/{path}"),
        query: query.to_owned(),
        headers: REQUEST_HEADERS.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect(),
        peer: read("cf-connecting-ip").unwrap_or_default(),
        content_length: read("content-length").and_then(|value| value.parse().ok()),
        robot: None,
    }
}

/// A fault of the platform's own calls, for the log.
fn describe_js(value: &JsValue) -> String {
    js::property(value, "message").as_string().unwrap_or_else(|| format!("{value:?}"))
}
