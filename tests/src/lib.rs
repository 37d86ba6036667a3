//! Everything that end-to-end tests share: both hosts as fixtures, a scripted OpenClaw, a
//! scripted model provider, a scripted WeChat, the real OpenClaw Gateway, and a client.
//!
//! A component that cannot start is a failure, never a skip. Nothing here waits by sleeping
//! for a fixed time, and no port is fixed.
#![allow(clippy::expect_used, clippy::panic, reason = "a fixture that fails says so at once")]

pub mod browser;
pub mod client;
pub mod collector;
pub mod dingtalk;
pub mod hosts;
pub mod llama;
pub mod media;
pub mod openclaw;
pub mod prometheus;
pub mod provider;
pub mod redis;
pub mod runtime;
pub mod scripted;
pub mod store;
pub mod tools;
pub mod turns;
pub mod upstream;
pub mod wechat;

use std::{future::Future, path::PathBuf, time::Duration};

/// What the runner of the tests must say: an absolute path.
///
/// # Panics
/// When it does not.
#[must_use]
pub fn required(name: &str) -> PathBuf {
    let value = std::env::var_os(name).unwrap_or_else(|| panic!("{name} is not set: run `cargo xtask test`"));
    let path = PathBuf::from(value);
    assert!(path.exists(), "{name}: {} does not exist", path.display());
    path
}

/// Looks again and again until a condition holds, for at most `limit`.
///
/// # Panics
/// When it does not hold by then.
pub async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + limit;
    while !holds().await {
        assert!(tokio::time::Instant::now() < deadline, "waited {limit:?} for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
