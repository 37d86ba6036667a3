//! The native host: runs the gateway's wasm module beside OpenClaw.
//!
//! It moves bytes, keeps time and stores. It holds no rule about users, models or formats:
//! a line here that would need one belongs into the core.

mod clock;
mod demo;
mod driver;
mod journal;
mod module;
mod server;
mod settings;
mod store;
mod upstream;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// A gateway between WeChat Mini Programs and OpenClaw.
#[derive(Debug, Parser)]
#[command(name = "minigate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. The settings are environment variables.
    Serve {
        /// The wasm module; by default `minigate.wasm` beside this program.
        #[arg(long)]
        module: Option<PathBuf>,
        /// Use the built-in demo upstream in place of an OpenClaw Gateway. Dev only.
        #[arg(long)]
        demo: bool,
    },
    /// Run only the demo upstream, on a free port of the loopback interface.
    Demo {
        /// The port; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve { module, demo } => server::serve(module, demo),
        Command::Demo { port } => demo::run(port),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            journal::event("error", "refused_to_start", &[("problem", problem.into())]);
            ExitCode::FAILURE
        }
    }
}
