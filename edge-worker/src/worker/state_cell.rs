//! One key of the store: a Durable Object, which runs one event at a time and so
//! serialises its key. What its bytes mean is the reducers'.
//!
//! The platform gives an object one alarm. It is set to whichever comes first: the key's own alarm, or the
//! time to forget all of it.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
};

use futures_util::future::{OptionFuture, join, select};
use js_sys::{Date, Object, Reflect, Uint8Array};
use minigate_core::state::{self, Op, Outcome, Reduced};
use wasm_bindgen::JsValue;
use worker::{
    DurableObject, Env, Method, ObjectNamespace, Request, RequestInit, Response, Result, ScheduledTime,
    State, durable_object,
};

use super::{describe_js, guard::guarded, js};

/// Where the value is in the object's storage: eight bytes that say when it stops to matter,
/// then its bytes; what does not fit there is under the same name with a number.
const VALUE: &str = "value";
/// The most bytes under one name: workerd takes 128 KiB.
const PIECE: usize = 120 * 1024;
/// The most of them. A turn with its events, its answer and its checkpoint is the largest value.
const PIECES: usize = 16;
/// Where the key's alarm is: eight bytes of its time, and the key, which the object does not know
/// otherwise. Nothing when there is none.
const ALARM: &str = "alarm";
/// When an alarm goes off again that nobody has said another word about, in milliseconds.
const AGAIN: f64 = 15_000.0;
/// After so many milliseconds an alarm of the platform's that did not come is not waited for any more: it gives
/// one up whose handler failed often.
const OVERDUE: f64 = 60_000.0;
/// What is forgotten is forgotten not more often than this, however short it matters, in milliseconds.
const LEAST_KEPT: f64 = 60_000.0;
/// How long one request waits for its ticket; whoever sent it asks again by itself.
const LONGEST_WATCH: u64 = 10_000;

/// The store's cell of one key.
#[durable_object(alarm)]
#[allow(missing_debug_implementations, reason = "the platform's handle has none")]
pub struct StateCell {
    state: State,
    /// What is in the storage. Only this object writes it.
    stored: RefCell<Option<Stored>>,
    /// Under how many names.
    pieces: Cell<usize>,
    alarm: RefCell<Option<Alarm>>,
    /// When the platform's alarm is set to, in milliseconds since 1970.
    set_to: Cell<Option<f64>>,
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

    fn encode(&self) -> Vec<u8> {
        [&self.expires.to_le_bytes(), self.value.as_slice()].concat()
    }
}

/// The name of a piece of the value.
fn piece(number: usize) -> String {
    if number == 0 { VALUE.to_owned() } else { format!("{VALUE}{number}") }
}

/// The alarm of the key.
struct Alarm {
    key: String,
    /// The reducer's last word.
    wanted: f64,
    /// The same, or later once it has gone off.
    due: f64,
}

impl Alarm {
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (wanted, key) = bytes.split_first_chunk::<8>()?;
        let wanted = f64::from_le_bytes(*wanted);
        Some(Self { key: String::from_utf8(key.to_vec()).ok()?, wanted, due: wanted })
    }

    fn encode(&self) -> Uint8Array {
        Uint8Array::from([&self.wanted.to_le_bytes(), self.key.as_bytes()].concat().as_slice())
    }
}

impl DurableObject for StateCell {
    fn new(state: State, _: Env) -> Self {
        Self {
            state,
            stored: RefCell::default(),
            pieces: Cell::default(),
            alarm: RefCell::default(),
            set_to: Cell::default(),
            listeners: RefCell::default(),
        }
    }

    /// Takes its own key with an operation and gives the outcome, both as the seam encodes them. At `/watch` the
    /// operation is applied again, and the answer comes when it is worth a third time.
    async fn fetch(&self, mut request: Request) -> Result<Response> {
        let watches = request.path() == "/watch";
        let (key, op) = postcard::from_bytes::<(String, Op)>(&request.bytes().await?)
            .map_err(|error| error.to_string())?;
        self.load().await?;
        let ticket = op.ticket().filter(|_| watches);
        let signal = ticket.map(|ticket| {
            let signal = Rc::new(js::Signal::new());
            self.listeners.borrow_mut().insert(ticket, Rc::clone(&signal));
            (ticket, signal)
        });
        let reduced = self.apply(&key, &op).await?;
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

    /// Forgets what has outlived its time. Gives the key when its alarm has gone off; it goes off again
    /// later, unless an operation says another word.
    async fn alarm(&self) -> Result<Response> {
        self.set_to.set(None);
        self.load().await?;
        let now = Date::now();
        let expires = self.stored.borrow().as_ref().map_or(0.0, |stored| stored.expires);
        if expires <= now {
            *self.stored.borrow_mut() = None;
            self.pieces.set(0);
            *self.alarm.borrow_mut() = None;
            self.state.storage().delete_all().await?;
            return Response::empty();
        }
        let due = self.alarm.borrow_mut().as_mut().filter(|alarm| alarm.due <= now).map(|alarm| {
            alarm.due = now + AGAIN;
            alarm.key.clone()
        });
        if let Some(at) = self.next_alarm(now, expires) {
            self.set_alarm(at).await?;
        }
        Response::ok(due.unwrap_or_default())
    }
}

impl StateCell {
    /// Reads the storage once in the object's life.
    async fn load(&self) -> Result<()> {
        if self.stored.borrow().is_some() {
            return Ok(());
        }
        let storage = self.state.storage();
        let names: Vec<String> = (0..PIECES).map(piece).chain([ALARM.to_owned()]).collect();
        let found = storage.get_multiple(names).await?;
        let set_to = storage.get_alarm().await?;
        let mut stored = self.stored.borrow_mut();
        if stored.is_none() {
            let read = |name: &str| Uint8Array::new(&found.get(&name.into())).to_vec();
            let pieces: Vec<Vec<u8>> = (0..PIECES)
                .map(|number| read(&piece(number)))
                .take_while(|bytes| !bytes.is_empty())
                .collect();
            self.pieces.set(pieces.len());
            *stored = Some(Stored::decode(&pieces.concat()));
            #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
            let set_to = set_to.map(|at| at as f64);
            self.set_to.set(set_to);
            // One that has passed has gone off, and is set to when it goes off again.
            *self.alarm.borrow_mut() = Alarm::decode(&read(ALARM)).map(|alarm| {
                let passed = set_to.filter(|_| alarm.wanted <= Date::now());
                Alarm { due: passed.unwrap_or(alarm.wanted), ..alarm }
            });
        }
        Ok(())
    }

    /// Reduces, without a pause between reading and writing, and wakes who is to be woken.
    async fn apply(&self, key: &str, op: &Op) -> Result<Reduced> {
        let now = Date::now();
        let old = self.stored.borrow().clone().filter(|old| old.expires > now);
        let alive = old.is_some();
        let was_empty = self.stored.borrow().as_ref().is_none_or(|old| old.value.is_empty());
        let reduced = reduce(op, old.map(|old| old.value).as_deref(), now)?;
        if op.is_read() {
            return Ok(reduced);
        }
        #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
        let expires = now + reduced.ttl_ms as f64;
        let stored = Stored { value: reduced.new.to_vec(), expires };
        let bytes = stored.encode();
        if bytes.len() > PIECE * PIECES {
            return Err("the value is too large".into());
        }
        *self.stored.borrow_mut() = Some(stored);
        for ticket in &reduced.wake {
            if let Some(signal) = self.listeners.borrow_mut().remove(ticket) {
                signal.fire();
            }
        }
        if was_empty && reduced.new.is_empty() {
            return Ok(reduced);
        }
        let values = Object::new();
        let now_pieces = bytes.len().div_ceil(PIECE);
        for (number, part) in bytes.chunks(PIECE).enumerate() {
            Reflect::set(&values, &piece(number).into(), &Uint8Array::from(part))?;
        }
        // What the value does not reach any more is emptied.
        for number in now_pieces..self.pieces.replace(now_pieces) {
            Reflect::set(&values, &piece(number).into(), &Uint8Array::new_with_length(0))?;
        }
        if let Some(alarm) = self.take_alarm(key, &reduced, alive) {
            Reflect::set(&values, &ALARM.into(), &alarm)?;
        }
        // Both calls are made before either is waited for: the platform writes them as one.
        let storage = self.state.storage();
        let next = self.next_alarm(now, expires).map(|at| self.set_alarm(at));
        let (set, put) = join(OptionFuture::from(next), storage.put_multiple_raw(values)).await;
        set.unwrap_or(Ok(()))?;
        put?;
        Ok(reduced)
    }

    /// Takes the reducer's word on the alarm; gives what is to be stored when it is another one. The same
    /// time again is none: an alarm that has gone off and is looked at meanwhile does not go off with
    /// each look. Nothing is left of a key that is forgotten.
    fn take_alarm(&self, key: &str, reduced: &Reduced, alive: bool) -> Option<Uint8Array> {
        #[allow(clippy::cast_precision_loss, reason = "milliseconds fit")]
        let wanted = reduced.alarm_ms.filter(|_| !reduced.new.is_empty()).map(|at| at as f64);
        let mut alarm = self.alarm.borrow_mut();
        let was = alarm.as_ref().map(|alarm| alarm.wanted);
        if wanted == was && (alive || was.is_none()) {
            return None;
        }
        *alarm = wanted.map(|wanted| Alarm { key: key.to_owned(), wanted, due: wanted });
        Some(alarm.as_ref().map_or_else(|| Uint8Array::new_with_length(0), Alarm::encode))
    }

    /// When the platform's alarm is to be set to, if it must be set: not later than the key's alarm. What
    /// it is set to may be earlier; then it is set again when it goes off.
    fn next_alarm(&self, now: f64, expires: f64) -> Option<f64> {
        let due = self.alarm.borrow().as_ref().map(|alarm| alarm.due);
        match (due, self.set_to.get().filter(|set_to| now - set_to < OVERDUE)) {
            (Some(due), Some(set_to)) if set_to <= due => None,
            (Some(due), _) => Some(due.max(now)),
            (None, Some(_)) => None,
            (None, None) => Some(expires.max(now + LEAST_KEPT)),
        }
    }

    async fn set_alarm(&self, at: f64) -> Result<()> {
        self.set_to.set(Some(at));
        self.state.storage().set_alarm(ScheduledTime::new(Date::new(&at.into()))).await
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
    let body = postcard::to_allocvec(&(key, op)).map_err(|error| error.to_string())?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(JsValue::from(Uint8Array::from(body.as_slice()))));
    let request = Request::new_with_init(&format!("https://state{path}"), &init)?;
    let mut response = state.id_from_name(key)?.get_stub()?.fetch_with_request(request).await?;
    let bytes = response.bytes().await?;
    postcard::from_bytes(&bytes).map_err(|error| error.to_string().into())
}
