//! A simulated world around one exchange: its clock, its client, its store, its OpenClaw.
//! Each test is a script. Between any two steps the state is encoded and decoded.

mod answers;
mod ask;
mod ask_rules;
mod audit;
mod configuration;
mod content;
mod deadlines;
mod durable;
mod endings;
mod feedback;
mod gates;
mod login;
mod measure;
mod model;
mod notices;
mod operations;
mod operators;
mod pictures;
#[cfg(not(target_arch = "wasm32"))]
mod random;
mod risk;
mod robot;
mod rollouts;
mod sending;
mod streams;
mod tools;
mod turns;
mod upstream;
mod world;
