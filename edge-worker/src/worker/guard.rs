//! Runs a closure so that a panic in it comes back as an error.
//!
//! Under `panic = "abort"` a panic is a wasm trap. A trap that passes through a future
//! leaves its executor stuck for every other request of the isolate. So the core is called
//! out to JavaScript and back in: the trap becomes an exception of that call, which is
//! caught here. The memory stays as it was, the caller's frame puts the stack pointer back
//! when it returns, and what the closure had allocated is leaked.

use js_sys::{Function, Reflect};
use wasm_bindgen::{JsCast as _, JsValue};

use super::js;

/// A closure and the place for its result.
struct Slot<F, T> {
    closure: Option<F>,
    result: Option<T>,
}

thread_local! {
    static DOOR: Function = js::property(&wasm_bindgen::exports(), "mg_guarded").unchecked_into();
}

/// The way back in. Called by [`guarded`] only.
///
/// # Safety
/// `run` is a function pointer of [`run_slot`] and `slot` the slot that it was made for.
#[unsafe(no_mangle)]
pub(super) unsafe extern "C" fn mg_guarded(slot: *mut u8, run: usize) {
    // SAFETY: the caller's promise; on wasm32 a function pointer is an index of that size.
    let run: fn(*mut u8) = unsafe { core::mem::transmute(run) };
    run(slot);
}

/// Runs the closure of a slot of exactly these types.
fn run_slot<F: FnOnce() -> T, T>(slot: *mut u8) {
    // SAFETY: `guarded` passes the slot that it made with the same types, and waits.
    let slot = unsafe { &mut *slot.cast::<Slot<F, T>>() };
    slot.result = slot.closure.take().map(|closure| closure());
}

/// The closure's result, or the exception that its panic became.
pub(super) fn guarded<F: FnOnce() -> T, T>(closure: F) -> Result<T, JsValue> {
    let mut slot = Slot { closure: Some(closure), result: None };
    let run: fn(*mut u8) = run_slot::<F, T>;
    let (at, run) = (&raw mut slot as usize, run as usize);
    let called = DOOR.with(|door| door.call2(&JsValue::UNDEFINED, &JsValue::from(at), &JsValue::from(run)));
    if called.is_err() {
        // `worker`'s panic hook has marked the instance as lost; this panic is dealt with.
        let mark = js::property(&js_sys::global(), "__worker_init_state");
        let _ = Reflect::set(&mark, &"criticalError".into(), &JsValue::FALSE);
    }
    called?;
    slot.result.ok_or(JsValue::UNDEFINED)
}
