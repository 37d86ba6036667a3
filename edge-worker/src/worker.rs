//! The Workers host: drives the core with what the platform gives.
//!
//! It moves bytes, keeps time and stores; it holds no rule. The core runs behind
//! [`guard`](crate::worker::guard), so a panic in it costs one request and not the isolate.

mod driver;
mod guard;
mod js;
mod state_cell;
mod upstream;

use std::{cell::OnceCell, rc::Rc};

use minigate_core::{
    policy::{HostFacts, NAMES, Policy, SECRETS, Secrets, Settings},
    seam::{REQUEST_HEADERS, RequestHead},
};
use wasm_bindgen::{JsValue, prelude::wasm_bindgen};
use web_sys::{Request, Response};
use worker::{Context, Env, event};

use driver::{Driver, Worker};
use upstream::Addresses;

thread_local! {
    static MODULE: OnceCell<(String, u64)> = const { OnceCell::new() };
    static WORKER: OnceCell<Rc<Worker>> = const { OnceCell::new() };
}

/// Told once by the entry: the SHA-256 and size of the module file.
#[wasm_bindgen]
#[allow(unreachable_pub, reason = "wasm-bindgen exports public functions only")]
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a file's size")]
pub fn describe(sha256: String, bytes: f64) {
    MODULE.with(|module| drop(module.set((sha256, bytes as u64))));
}

/// One request.
#[event(fetch)]
async fn fetch(request: Request, env: Env, context: Context) -> worker::Result<Response> {
    let head = head(&request);
    let signal = request.signal();
    let worker = match WORKER.with(|worker| worker.get().cloned()) {
        Some(worker) => Ok(worker),
        None => {
            configure(&env).map(|made| WORKER.with(|worker| Rc::clone(worker.get_or_init(|| Rc::new(made)))))
        }
    };
    match worker {
        Ok(worker) => {
            let driver = Driver::begin(worker, head, request, Rc::new(context));
            driver::respond(driver, &signal).await
        }
        Err(problems) => {
            for problem in problems {
                worker::console_error!("{}", js::log_line("refused_to_start", &problem));
            }
            driver::respond_broken(&head)
        }
    }
}

/// The policy of the settings, once in an isolate's life.
fn configure(env: &Env) -> Result<Worker, Vec<String>> {
    let read = |name: &str| js::property(env, name).as_string();
    let settings: Settings =
        NAMES.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))).collect();
    let mut secrets = Secrets::default();
    secrets.0.extend(SECRETS.iter().filter_map(|name| Some(((*name).to_owned(), read(name)?))));
    let (module_sha256, module_bytes) = MODULE.with(|module| module.get().cloned()).unwrap_or_default();
    let facts = HostFacts {
        name: "edge".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        runtime: "workers".into(),
        module_sha256,
        module_bytes,
    };
    let policy = Policy::from_settings(&settings, &secrets, facts, false)
        .map_err(|errors| errors.iter().map(ToString::to_string).collect::<Vec<String>>())?;
    let addresses = Addresses::new(&settings, &secrets);
    let state = env.durable_object("STATE").map_err(|error| vec![format!("binding STATE: {error}")])?;
    Ok(Worker { policy, addresses, state })
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
    }
}

/// A fault of the platform's own calls, for the log.
fn describe_js(value: &JsValue) -> String {
    js::property(value, "message").as_string().unwrap_or_else(|| format!("{value:?}"))
}
