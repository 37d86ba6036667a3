//! The native host: runs the gateway's wasm module beside OpenClaw.
//!
//! It moves bytes, keeps time and stores. It holds no rule about users, models or formats:
//! a line here that would need one belongs into the core.
//!
//! The program is `main.rs`. This is a library so that the store's conformance suite and its
//! benchmark use [`store`] and [`module`] as they are, without a request around each call.

pub mod audit;
mod clock;
pub mod commands;
pub mod configuration;
pub mod demo;
mod driver;
mod follow;
pub mod journal;
mod live;
pub mod module;
pub mod operator;
mod otlp;
pub mod replay;
pub mod server;
mod settings;
mod stats;
pub mod store;
mod stream_mode;
mod upstream;
