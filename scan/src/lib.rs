//! What looks at every byte of a request's body: base64 runs, and the JSON without them.
//!
//! A crate of its own because the module builds it for speed and the rest of the core for size:
//! a picture of 10 MB goes through here, and through nothing else. No IO, no `unsafe`, no policy;
//! nothing here is inlined into the rest, or the rest's optimisation would be its own.
#![forbid(unsafe_code)]

pub mod base64;
mod elide;

pub use elide::{Elided, PLACEHOLDER};
