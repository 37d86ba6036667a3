//! Small things of JavaScript that have no typed binding.

use std::{
    cell::RefCell,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use js_sys::{Function, Promise, Reflect, Uint8Array};
use minigate_core::seam::{Piece, Rope};
use serde_json::json;
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::WorkerGlobalScope;

/// A property, `undefined` when there is none.
pub(super) fn property(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED)
}

/// Resolves after a time. The platform's own promise: unlike `worker::Delay` it wakes whoever
/// asked last, and a stream is polled by a new task for every piece that the client reads.
pub(super) struct Sleep {
    fired: JsFuture,
    timer: i32,
}

impl Sleep {
    pub(super) fn new(ms: u64) -> Self {
        let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
        let ms = i32::try_from(ms).unwrap_or(i32::MAX);
        let mut timer = 0;
        let fired = Promise::new(&mut |resolve, _| {
            // `setTimeout` fails for no number.
            timer =
                scope.set_timeout_with_callback_and_timeout_and_arguments_0(&resolve, ms).unwrap_or_default();
        });
        Self { fired: fired.into(), timer }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.fired).poll(context).map(drop)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let scope: WorkerGlobalScope = js_sys::global().unchecked_into();
        scope.clear_timeout_with_handle(self.timer);
    }
}

/// Something that one task waits for and another one causes.
pub(super) struct Signal {
    fired: Promise,
    fire: RefCell<Option<Function>>,
}

impl Signal {
    pub(super) fn new() -> Self {
        let mut fire = None;
        let fired = Promise::new(&mut |resolve, _| fire = Some(resolve));
        Self { fired, fire: RefCell::new(fire) }
    }

    /// Ends all waiting, now and later.
    pub(super) fn fire(&self) {
        if let Some(resolve) = self.fire.borrow_mut().take() {
            // The platform's own function fails for no value.
            let _ = resolve.call0(&JsValue::UNDEFINED);
        }
    }

    /// Ends when it is fired.
    pub(super) fn wait(&self) -> JsFuture {
        self.fired.clone().into()
    }
}

/// A log line about the host itself, in the form of the core's.
pub(super) fn log_line(event: &str, problem: &str) -> String {
    json!({"level": "error", "event": event, "host": "edge", "problem": problem}).to_string()
}

/// A rope put together outside of wasm memory: ranges of the request's body are copied by
/// JavaScript and never come in here.
/// `None` for a secret that is not known.
pub(super) fn resolve<'s>(
    rope: &Rope,
    body: &Uint8Array,
    secret: impl Fn(&str) -> Option<&'s str>,
) -> Option<Uint8Array> {
    let secrets = rope.0.iter().filter_map(|piece| match piece {
        Piece::Secret(name) => secret(name),
        _ => None,
    });
    let length = rope.len() + secrets.map(|secret| secret.len() as u64).sum::<u64>();
    let whole = Uint8Array::new_with_length(u32::try_from(length).unwrap_or(u32::MAX));
    let mut at = 0;
    for piece in &rope.0 {
        let part = match piece {
            Piece::Literal(text) => Uint8Array::from(text.as_bytes()),
            Piece::Secret(name) => Uint8Array::from(secret(name)?.as_bytes()),
            Piece::Body { start, len } => body.subarray(*start, *start + *len),
        };
        whole.set(&part, at);
        at += part.length();
    }
    Some(whole)
}
