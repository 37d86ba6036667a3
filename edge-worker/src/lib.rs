//! The wasm module: one file that both hosts run.
//!
//! It has two doors to the same core. [`abi`] is the raw one: the native host (and any
//! other host without JavaScript) calls these exports and supplies every import as a trap.
//! `worker` is the Workers one: wasm-bindgen glue around the same [`Exchange`] through Rust
//! calls. Built with `--no-default-features` only the raw door is there and the module
//! imports nothing: the proof that the core does no IO.
//!
//! [`Exchange`]: minigate_core::exchange::Exchange

pub mod abi;
#[cfg(all(feature = "workers", target_arch = "wasm32"))]
mod worker;
