//! x
#![allow(dead_code)]
mod diagnostic;
mod secrets;
mod yaml;
