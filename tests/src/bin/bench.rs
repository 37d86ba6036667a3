//! `cargo xtask bench chat [--json] [--requests N]`: the native host beside nginx, the module
//! beside native Rust, the edge beside a bare proxy. Run by people, never by CI.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

#[path = "../bench/mod.rs"]
mod bench;

use std::process::ExitCode;

const USAGE: &str = "cargo xtask bench chat [--json] [--requests N] [--only PART]…

  --json        one JSON object in place of the table
  --requests N  requests of 1 KB in each round and for each side (default 6000);
                the other counts follow from it
  --only PART   one or more of start, small, picture, stream, steps, edge";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--");
    let (mut json, mut requests, mut only) = (false, 6000, Vec::new());
    let named = arguments.next();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--requests" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) if number >= 40 => requests = number,
                _ => return usage("--requests: a number from 40"),
            },
            "--only" => match arguments.next() {
                Some(part) if bench::PARTS.contains(&part.as_str()) => only.push(part),
                _ => return usage("--only: one of the parts"),
            },
            other => return usage(&format!("cannot do `{other}`")),
        }
    }
    if named.as_deref() != Some("chat") {
        return usage("the one benchmark is `chat`");
    }
    match bench::chat(requests, &only) {
        Ok(report) => {
            println!("{}", if json { report.json() } else { report.table() });
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("bench: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ExitCode {
    eprintln!("bench: {problem}\n\n{USAGE}");
    ExitCode::FAILURE
}
