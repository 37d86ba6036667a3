//! `cargo xtask`: the only entry point for building, running and testing.
//!
//! It exists so that a machine with Rust and npm needs nothing else: no shell
//! scripts, no make, no globally installed tools. Every command sets up just the
//! parts that it needs, says what it does, and skips what is already there.

mod bench;
mod bindgen;
mod cache;
mod debian;
mod edge;
mod layout;
mod lint;
mod module;
mod node;
mod parts;
mod python;
mod run;
mod setup;
mod std_library;
mod step;
mod test;
mod test_report;
mod toolchain;

use std::process::ExitCode;

use layout::Layout;
use step::Result;

const USAGE: &str = "\
cargo xtask setup           install what is missing: wasm target, wasm-bindgen, Node, OpenClaw
cargo xtask run [-- ARGS]   build the module and the native host, serve on 127.0.0.1:12626
cargo xtask test [SUITE…]   every test suite, on both hosts (or only the named ones)
cargo xtask lint            clippy on what compiles only for wasm32
cargo xtask module          build the wasm module; print path, size, gzip size and SHA-256
cargo xtask bench chat [--json]
                            the native host beside nginx on the same upstream
cargo xtask bench overload [--json]
                            ten times what the real OpenClaw serves, from fifty people
cargo xtask bench store [--json]
                            a call of each store, with a thousand keys and with a million
cargo xtask edge            run the edge locally, in workerd, on 127.0.0.1:8787

Settings:
  WASM_TARGET_SOURCE   auto (default), rustup or debian: where the wasm32 target comes from
  MINIGATE_CACHE       where tools are installed (default: the user's cache directory)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<ExitCode> {
    let Some((command, rest)) = arguments.split_first() else {
        println!("{USAGE}");
        return Ok(ExitCode::FAILURE);
    };
    let layout = Layout::find()?;
    match (command.as_str(), rest) {
        ("help" | "-h" | "--help", _) => println!("{USAGE}"),
        ("setup", []) => setup::setup(&layout)?,
        ("lint", []) => lint::lint(&layout)?,
        ("module", []) => module::print(&layout)?,
        ("run", rest) => return run::run(&layout, pass_through(rest)),
        ("test", suites) => return test::test(&layout, suites),
        ("bench", rest) => return bench::bench(&layout, rest),
        ("edge", rest) => return edge::edge(&layout, pass_through(rest)),
        _ => return Err(format!("cannot do `{}`\n\n{USAGE}", arguments.join(" ")).into()),
    }
    Ok(ExitCode::SUCCESS)
}

/// What follows `--`, or everything when there is no `--`.
fn pass_through(arguments: &[String]) -> &[String] {
    match arguments.split_first() {
        Some((first, rest)) if first == "--" => rest,
        _ => arguments,
    }
}
