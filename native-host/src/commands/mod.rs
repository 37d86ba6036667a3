//! Commands of an operator beside `serve`: a robot is set up, run as a daemon, tried, and looked after.
//!
//! They are clients of what the gateway, DingTalk and model servers offer anybody with the keys; no rule of
//! the gateway is here. A secret is read from the environment or a file that only its owner may read, and
//! is never printed.

pub mod daemon;
pub mod doctor;
mod env_file;
mod http;
pub mod onboard;
pub mod ready;
pub mod send;

use std::io::Write as _;

/// A reader that went away is no mistake.
fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
