//! Faults on demand, so that a test on the real hosts can prove what a defect costs:
//! one request. Only `FAULT_INJECTION=on`, which only the dev environment may say, gets here.

use crate::{policy::Policy, seam::RequestHead};

/// Breaks this step if the request asks for it and the settings allow it.
#[allow(clippy::panic, clippy::infinite_loop, reason = "that is its purpose")]
pub(super) fn inject(policy: &Policy, head: &RequestHead) {
    if !policy.faults {
        return;
    }
    match head.header("x-minigate-fault") {
        Some("panic") => panic!("fault injection"),
        Some("loop") => loop {
            core::hint::black_box(());
        },
        Some("memory") => {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
                core::hint::black_box(&hoard);
            }
        }
        _ => {}
    }
}
