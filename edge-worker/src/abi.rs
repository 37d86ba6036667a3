//! The raw exports, version [`ABI_VERSION`]. The one place with `unsafe` on this side.
//!
//! | export | does |
//! | --- | --- |
//! | `mg_abi_version() -> u32` | the version; a host refuses another |
//! | `mg_alloc(len) -> ptr` | a buffer for the host to write into; null when there is no memory |
//! | `mg_free(ptr, len)` | gives it back |
//! | `mg_configure(ptr, len) -> u32` | takes an encoded policy; 1 when understood |
//! | `mg_step(frame, frame_len, payload, payload_len) -> u64` | one step of one exchange |
//! | `mg_reduce(frame, frame_len) -> u64` | one operation of a store |
//!
//! A result is `ptr << 32 | len`, to be freed by the host; 0 means that the frame was not
//! understood. An instance keeps the policy and nothing else between calls, so any instance
//! can take the next step of any exchange. After a trap a host drops the instance.

use std::{alloc::Layout, cell::RefCell};

use minigate_core::{
    policy::Policy,
    seam::{ABI_VERSION, reduce_frame, step_frame},
};

thread_local! {
    static POLICY: RefCell<Option<Policy>> = const { RefCell::new(None) };
}

/// The version of these exports and of the frames.
#[unsafe(no_mangle)]
pub extern "C" fn mg_abi_version() -> u32 {
    ABI_VERSION
}

/// A buffer of `len` bytes with unspecified contents: the host writes it before it is read.
/// Null when there is no memory.
#[unsafe(no_mangle)]
pub extern "C" fn mg_alloc(len: usize) -> *mut u8 {
    match Layout::array::<u8>(len) {
        // SAFETY: the layout is not of size zero.
        Ok(layout) if len > 0 => unsafe { std::alloc::alloc(layout) },
        _ => core::ptr::null_mut(),
    }
}

/// Gives a buffer back.
///
/// # Safety
/// `ptr` and `len` are those of a buffer of [`mg_alloc`] or of a result, not yet freed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_free(ptr: *mut u8, len: usize) {
    if let (false, Ok(layout)) = (len == 0, Layout::array::<u8>(len)) {
        // SAFETY: the caller's promise; results are boxed slices, which have this layout too.
        unsafe { std::alloc::dealloc(ptr, layout) };
    }
}

/// Takes an encoded policy for the steps to come. 1 when it was understood.
///
/// # Safety
/// `ptr` and `len` describe readable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_configure(ptr: *const u8, len: usize) -> u32 {
    // SAFETY: the caller's promise.
    let policy = Policy::decode(unsafe { bytes(ptr, len) });
    let understood = u32::from(policy.is_some());
    POLICY.set(policy);
    understood
}

/// One step: [`step_frame`]. The payload is the bytes of the input in the frame.
///
/// # Safety
/// Both pairs describe readable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_step(
    frame: *const u8,
    frame_len: usize,
    payload: *const u8,
    payload_len: usize,
) -> u64 {
    // SAFETY: the caller's promise.
    let (frame, payload) = unsafe { (bytes(frame, frame_len), bytes(payload, payload_len)) };
    POLICY.with_borrow(|policy| {
        let Some(policy) = policy else { return 0 };
        step_frame(policy, frame, payload).map_or(0, hand_over)
    })
}

/// One operation of a store: [`reduce_frame`].
///
/// # Safety
/// The pair describes readable memory.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mg_reduce(frame: *const u8, frame_len: usize) -> u64 {
    // SAFETY: the caller's promise.
    reduce_frame(unsafe { bytes(frame, frame_len) }).map_or(0, hand_over)
}

/// The caller's memory. An empty range may have any pointer.
unsafe fn bytes<'a>(ptr: *const u8, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller of each export promises readable memory.
    unsafe { core::slice::from_raw_parts(ptr, len) }
}

/// Leaves a result to the host, which frees it.
fn hand_over(result: Vec<u8>) -> u64 {
    let result = Box::leak(result.into_boxed_slice());
    ((result.as_ptr() as u64) << 32) | (result.len() as u64 & 0xffff_ffff)
}
