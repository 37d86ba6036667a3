//! The store's contract, once, for whatever stores: SQLite, Redis (or Valkey) and Durable Objects
//! in workerd. Each case is one function; it knows no engine and runs on all of them.
//!
//! The native engines run in processes of their own, as hosts do, so that they can be killed:
//! this program starts itself again as one ([`door`]).
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says so when something is missing"
)]

mod cases;
mod door;
mod engines;

use std::{future::Future, pin::Pin, process::ExitCode, time::Duration};

use engines::{Engine, Stage};
use libtest_mimic::{Arguments, Failed, Trial};
use minigate_tests::{hosts, store};

/// How long a case may take.
const LIMIT: Duration = Duration::from_secs(60);

/// A promise of the contract.
pub(crate) struct Case {
    name: &'static str,
    run: fn(Stage) -> Pin<Box<dyn Future<Output = ()>>>,
}

fn trial(engine: Engine, case: &Case) -> Trial {
    let run = case.run;
    Trial::test(format!("{}::{}", engine.name(), case.name), move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let work = async {
            let stage = Stage::start(engine).await;
            tokio::time::timeout(LIMIT, run(stage)).await
        };
        runtime.block_on(work).map_err(|_| Failed::from("took too long"))
    })
}

fn main() -> ExitCode {
    if let Some(asked) = door::asked() {
        return door::serve(&asked);
    }
    // Once, and not by each host that starts.
    drop(store::code(&hosts::code_directory()));
    let cases = cases::all();
    let trials = Engine::ALL.iter().flat_map(|engine| cases.iter().map(|case| trial(*engine, case)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}
