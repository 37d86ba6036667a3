//! One key of the store: a Durable Object, which runs one event at a time and so
//! serialises its key. What its bytes mean is the reducers'.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures_util::future::select;
use js_sys::{Date, Uint8Array};
use minigate_core::state::{self, Op, Outcome, Reduced};
use serde_bytes::ByteBuf;
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Method, ObjectNamespace, Request, RequestInit, Response, Result, State,
    durable_object,
};

use super::{describe_js, guard::guarded, js};

/// Where the value is in the object's storage: eight bytes that say when it stops to matter,
/// then its bytes.
const VALUE: &str = "value";
/// How long one request waits for its ticket; whoever sent it asks again by itself.
const LONGEST_WATCH: u64 = 10_000;

/// The store's cell of one key.
#[durable_object(alarm)]
#[allow(missing_debug_implementations, reason = "the platform's handle has none")]
pub struct StateCell {
    state: State,
    /// What is in the storage. Only this object writes it.
    stored: RefCell<Option<Stored>>,
    /// An alarm is set.
    alarmed: Cell<bool>,
    /// Whoever waits for a ticket.
    listeners: RefCell<HashMap<u64, Rc<js::Signal>>>,
}

#[derive(Clone, Default)]
struct Stored {
    value: Vec<u8>,
    expires: f64,
}

impl Stored {
    fn decode(bytes: &[u8]) -> Self {
        match bytes.split_first_chunk::<8>() {
            Some((expires, value)) => Self { value: value.to_vec(), expires: f64::from_le_bytes(*expires) },
            None => Self::default(),
        }
    }

    fn encode(&self) -> Uint8Array {
        Uint8Array::from([&self.expires.to_le_bytes(), self.value.as_slice()].concat().as_slice())
    }
}

impl DurableObject for StateCell {
    fn new(state: State, _: Env) -> Self {
        Self { state, stored: RefCell::default(), alarmed: Cell::new(false), listeners: RefCell::default() }
    }

    /// Takes an operation and gives its outcome, both as the seam encodes them. At `/watch` the
    /// operation is applied again, and the answer comes when it is worth a third time.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let watches = request.path() == "/watch";
        let op = postcard::from_bytes::<Op>(&request.bytes().await?).map_err(|error| error.to_string())?;
        self.load().await?;
        let ticket = op.ticket().filter(|_| watches);
        let signal = ticket.map(|ticket| {
            let signal = Rc::new(js::Signal::new());
            self.listeners.borrow_mut().insert(ticket, Rc::clone(&signal));
            (ticket, signal)
        });
        let reduced = self.apply(&op).await?;
        if let Some((ticket, signal)) = signal {
            if reduced.outcome.waits() {
                select(signal.wait(), js::Sleep::new(LONGEST_WATCH)).await;
            }
            let mut listeners = self.listeners.borrow_mut();
            if listeners.get(&ticket).is_some_and(|there| Rc::ptr_eq(there, &signal)) {
                listeners.remove(&ticket);
            }
        }
        Response::from_bytes(postcard::to_allocvec(&reduced.outcome).map_err(|error| error.to_string())?)
    }

    /// Forgets what has outlived its time.
    async fn alarm(&self) -> Result<Response> {
        self.alarmed.set(false);
        self.load().await?;
        let left = self.stored.borrow().as_ref().map_or(0.0, |stored| stored.expires) - Date::now();
        if left > 0.0 {
            self.set_alarm(left).await?;
        } else {
            *self.stored.borrow_mut() = None;
            self.state.storage().delete_all().await?;
        }
        Response::empty()
    }
}

impl StateCell {
    /// Reads the storage once in the object's life.
    async fn load(&self) -> Result<()> {
        if self.stored.borrow().is_some() {
            return Ok(());
        }
        let storage = self.state.storage();
        let found: Option<ByteBuf> = storage.get(VALUE).await?;
        self.alarmed.set(storage.get_alarm().await?.is_some());
        let mut stored = self.stored.borrow_mut();
        if stored.is_none() {
            *stored = Some(found.map(|bytes| Stored::decode(&bytes)).unwrap_or_default());
        }
        Ok(())
    }

    /// Reduces, without a pause between reading and writing, and wakes who is to be woken.
    async fn apply(&self, op: &Op) -> Result<Reduced> {
        let now = Date::now();
        let old = self.stored.borrow().clone().filter(|old| old.expires > now);
        let was_empty = self.stored.borrow().as_ref().is_none_or(|old| old.value.is_empty());
        let reduced = reduce(op, old.map(|old| old.value).as_deref(), now)?;
        if op.is_read() {
            return Ok(reduced);
        }
        #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
        let expires = now + reduced.ttl_ms as f64;
        let stored = Stored { value: reduced.new.to_vec(), expires };
        let bytes = stored.encode();
        *self.stored.borrow_mut() = Some(stored);
        for ticket in &reduced.wake {
            if let Some(signal) = self.listeners.borrow_mut().remove(ticket) {
                signal.fire();
            }
        }
        if was_empty && reduced.new.is_empty() {
            return Ok(reduced);
        }
        self.state.storage().put_raw(VALUE, bytes).await?;
        if !self.alarmed.get() {
            self.set_alarm(expires - now).await?;
        }
        Ok(reduced)
    }

    /// Not more often than once a minute, however short the value matters.
    async fn set_alarm(&self, ms: f64) -> Result<()> {
        self.alarmed.set(true);
        #[allow(clippy::cast_possible_truncation, reason = "milliseconds fit")]
        let ms = (ms as i64).max(60_000);
        self.state.storage().set_alarm(ms).await
    }
}

fn reduce(op: &Op, old: Option<&[u8]>, now: f64) -> std::result::Result<Reduced, worker::Error> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds fit")]
    let unix_ms = now as u64;
    guarded(|| state::reduce(op, old, unix_ms)).map_err(|error| describe_js(&error).into())
}

/// Applies operations in order, up to the first whose outcome stops the list; `None` when the
/// store failed.
pub(super) async fn apply(state: ObjectNamespace, ops: Vec<(String, Op)>) -> Option<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(ops.len());
    for (key, op) in ops {
        let outcome = report(ask(&state, &key, &op, "/").await)?;
        let stops = outcome.stops();
        outcomes.push(outcome);
        if stops {
            break;
        }
    }
    Some(outcomes)
}

/// Ends when the ticket of an operation is woken, or when it is time to ask again.
pub(super) async fn watch(state: ObjectNamespace, key: String, op: Op) {
    let _ = report(ask(&state, &key, &op, "/watch").await);
}

fn report(asked: Result<Outcome>) -> Option<Outcome> {
    asked.map_err(|error| worker::console_error!("{}", js::log_line("store_failed", &error.to_string()))).ok()
}

async fn ask(state: &ObjectNamespace, key: &str, op: &Op, path: &str) -> Result<Outcome> {
    let body = postcard::to_allocvec(op).map_err(|error| error.to_string())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(JsValue::from(Uint8Array::from(body.as_slice()))));
    let request = Request::new_with_init(&format!("https://state{path}"), &init)?;
    let mut response = state.id_from_name(key)?.get_stub()?.fetch_with_request(request).await?;
    let bytes = response.bytes().await?;
    postcard::from_bytes(&bytes).map_err(|error| error.to_string().into())
}
