//! Small things of JavaScript that have no typed binding.

use js_sys::{Reflect, Uint8Array};
use minigate_core::seam::{Piece, Rope};
use serde_json::json;
use wasm_bindgen::JsValue;

/// A property, `undefined` when there is none.
pub(super) fn property(object: &JsValue, name: &str) -> JsValue {
    Reflect::get(object, &JsValue::from_str(name)).unwrap_or(JsValue::UNDEFINED)
}

/// A log line about the host itself, in the form of the core's.
pub(super) fn log_line(event: &str, problem: &str) -> String {
    json!({"level": "error", "event": event, "host": "edge", "problem": problem}).to_string()
}

/// A rope put together outside of wasm memory: ranges of the request's body are copied by
/// JavaScript and never come in here.
pub(super) fn resolve(rope: &Rope, body: &Uint8Array) -> Uint8Array {
    let whole = Uint8Array::new_with_length(u32::try_from(rope.len()).unwrap_or(u32::MAX));
    let mut at = 0;
    for piece in &rope.0 {
        let part = match piece {
            Piece::Literal(text) => Uint8Array::from(text.as_bytes()),
            Piece::Body { start, len } => body.subarray(*start, *start + *len),
        };
        whole.set(&part, at);
        at += part.length();
    }
    whole
}
