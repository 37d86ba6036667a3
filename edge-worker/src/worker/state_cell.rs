//! One key of the store: a Durable Object, which runs one event at a time and so
//! serialises its key. What its bytes mean is the reducers'.

use js_sys::{Date, Uint8Array};
use minigate_core::{
    seam::{ReduceFrame, ReduceReply},
    state::{Op, Outcome},
};
use serde_bytes::{ByteBuf, Bytes};
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Method, ObjectNamespace, Request, RequestInit, Response, Result, State,
    durable_object,
};

use super::{describe_js, guard::guarded, js};

/// Where the bytes are in the object's storage, and when they stop to matter.
const VALUE: &str = "value";
const EXPIRES: &str = "expires";

/// The store's cell of one key.
#[durable_object(alarm)]
#[allow(missing_debug_implementations, reason = "the platform's handle has none")]
pub struct StateCell {
    state: State,
}

impl DurableObject for StateCell {
    fn new(state: State, _: Env) -> Self {
        Self { state }
    }

    /// Takes an operation and gives its outcome, both as the seam encodes them.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let op = postcard::from_bytes::<Op>(&request.bytes().await?).map_err(|error| error.to_string())?;
        let storage = self.state.storage();
        let now = Date::now();
        let expires: Option<f64> = storage.get(EXPIRES).await?;
        let old: Option<ByteBuf> = storage.get(VALUE).await?;
        let old = old.filter(|_| expires.is_some_and(|at| at > now));
        let reduced = reduce(op, old.as_deref().map(Vec::as_slice), now).map_err(worker::Error::from)?;
        #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
        let until = now + reduced.ttl_ms as f64;
        storage.put_raw(VALUE, Uint8Array::from(reduced.new.as_slice())).await?;
        storage.put(EXPIRES, until).await?;
        if storage.get_alarm().await?.is_none() {
            storage.set_alarm(alarm_in(until - now)).await?;
        }
        Response::from_bytes(postcard::to_allocvec(&reduced.outcome).map_err(|error| error.to_string())?)
    }

    /// Forgets what has outlived its time.
    async fn alarm(&self) -> Result<Response> {
        let storage = self.state.storage();
        let left = storage.get::<f64>(EXPIRES).await?.unwrap_or_default() - Date::now();
        if left > 0.0 {
            storage.set_alarm(alarm_in(left)).await?;
        } else {
            storage.delete_all().await?;
        }
        Response::empty()
    }
}

/// Not more often than once a minute, however short the value matters.
#[allow(clippy::cast_possible_truncation, reason = "milliseconds fit")]
fn alarm_in(ms: f64) -> i64 {
    (ms as i64).max(60_000)
}

fn reduce(op: Op, old: Option<&[u8]>, now: f64) -> std::result::Result<ReduceReply, String> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds fit")]
    let frame = ReduceFrame { op, old: old.map(Bytes::new), unix_ms: now as u64 };
    guarded(|| minigate_core::state::reduce(&frame.op, frame.old.map(AsRef::as_ref), frame.unix_ms))
        .map_err(|error| describe_js(&error))
}

/// Applies an operation to a key; `None` when the store failed.
pub(super) async fn apply(state: ObjectNamespace, key: String, op: Op) -> Option<Outcome> {
    match try_apply(&state, &key, &op).await {
        Ok(outcome) => Some(outcome),
        Err(error) => {
            worker::console_error!("{}", js::log_line("store_failed", &error.to_string()));
            None
        }
    }
}

async fn try_apply(state: &ObjectNamespace, key: &str, op: &Op) -> Result<Outcome> {
    let body = postcard::to_allocvec(op).map_err(|error| error.to_string())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(JsValue::from(Uint8Array::from(body.as_slice()))));
    let request = Request::new_with_init("https://state/", &init)?;
    let mut response = state.id_from_name(key)?.get_stub()?.fetch_with_request(request).await?;
    let bytes = response.bytes().await?;
    postcard::from_bytes(&bytes).map_err(|error| error.to_string().into())
}
