//! The gateway's policy and translation, without IO.
//!
//! Nothing in this crate reads a socket, a clock, a source of randomness, a file or
//! the environment. Time and entropy come in with each input, effects go out as
//! data, and a host carries them out. So the same bytes in give the same bytes out,
//! natively, under wasmtime and in workerd, and a test needs no network.
//!
//! The type to know is [`Exchange`](exchange::Exchange): one HTTP request from its
//! head to the end of its answer. The types it speaks in are in [`seam`].
//!
//! # The invariant of use: *drain before input*
//!
//! After [`Exchange::new`](exchange::Exchange::new) and after every
//! [`handle_input`](exchange::Exchange::handle_input), call
//! [`poll_output`](exchange::Exchange::poll_output) until it gives `None`, before the
//! next input or before the state is stored. The last output of a drain is either
//! [`Output::Deadline`](seam::Output::Deadline), which says when to come back at the latest
//! and why, or [`Output::Done`](seam::Output::Done).
//!
//! # The run loop
//!
//! 1. Make the exchange from the request's head.
//! 2. Drain it, carrying out each output.
//! 3. On `Done`, stop. Otherwise wait for the first of: something that was asked for
//!    (the body, a store's outcome, a fetch), the deadline, the client's leaving.
//! 4. Give that as an input, with the time of now.
//! 5. Go to 2.
//!
//! ```
//! use minigate_core::{exchange::Exchange, policy::Policy, seam::{Moment, Output, RequestHead}};
//!
//! let policy = Policy::default();
//! let now = Moment { unix_ms: 1_795_232_797_000, entropy: [7; 16] };
//! let head = RequestHead { method: "GET".into(), path: "/healthz".into(), ..RequestHead::default() };
//! let mut exchange = Exchange::new(&policy, head, now);
//! let mut status = 0;
//! while let Some(output) = exchange.poll_output() {
//!     match output {
//!         Output::Head { status: code, .. } => status = code,
//!         Output::Done => break,
//!         _ => {}
//!     }
//! }
//! assert_eq!(status, 200);
//! ```
#![forbid(unsafe_code)]

pub mod exchange;
pub mod ledger;
pub mod measure;
pub mod policy;
pub mod seam;
pub mod state;
pub mod wire;

/// This crate's version, as `GET /version` shows it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
