//! `cargo xtask bench chat`: the native host beside nginx, the module beside native Rust, the
//! edge beside a bare proxy. `cargo xtask bench overload`: ten times what the real OpenClaw
//! serves. `cargo xtask bench store`: a call of each store with few keys and with very many. Run by people, never by CI.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program whose output is its purpose")]

#[path = "../bench/mod.rs"]
mod bench;

use std::process::ExitCode;

const USAGE: &str = "cargo xtask bench chat [--json] [--requests N] [--only PART]…

  --json        one JSON object in place of the table
  --requests N  requests of 1 KB in each round and for each side (default 6000);
                the other counts follow from it
  --only PART   one or more of start, small, picture, stream, steps, edge

cargo xtask bench overload [--json] [--seconds N]

  --seconds N   how long each of the three parts lasts (default 60)

cargo xtask bench store [--json] [--keys N]

  --keys N      how many keys are very many (default 1000000)";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--");
    let (mut json, mut requests, mut seconds, mut keys, mut only) = (false, 6000, 60, 1_000_000, Vec::new());
    let named = arguments.next();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--json" => json = true,
            "--requests" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) if number >= 40 => requests = number,
                _ => return usage("--requests: a number from 40"),
            },
            "--seconds" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) if (5..=600).contains(&number) => seconds = number,
                _ => return usage("--seconds: a number from 5 to 600"),
            },
            "--keys" => match arguments.next().and_then(|number| number.parse().ok()) {
                Some(number) if number >= 10_000 => keys = number,
                _ => return usage("--keys: a number from 10000"),
            },
            "--only" => match arguments.next() {
                Some(part) if bench::PARTS.contains(&part.as_str()) => only.push(part),
                _ => return usage("--only: one of the parts"),
            },
            other => return usage(&format!("cannot do `{other}`")),
        }
    }
    let report = match named.as_deref() {
        Some("chat") => bench::chat(requests, &only),
        Some("overload") => bench::overload(seconds),
        Some("store") => bench::store(keys),
        _ => return usage("the benchmarks are `chat`, `overload` and `store`"),
    };
    match report {
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
