//! `cargo xtask test`: every suite, on both hosts.
//!
//! Nothing is left out quietly: a part that cannot be installed, a suite that ran
//! no test, and a suite that says it skipped something are failures.

use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Command, ExitCode, Stdio};
use std::thread;
use std::time::Instant;

use crate::layout::{Layout, NATIVE};
use crate::node::Node;
use crate::parts::{self, Variables};
use crate::step::{Result, say};
use crate::test_report::{Counts, Outcome, summary};
use crate::toolchain::WASM;
use crate::{bindgen, toolchain};

/// What a suite needs, and so how its command is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The machine's own cargo, for one package.
    Native,
    /// The same, for the packages of [`NATIVE`].
    Packages,
    /// The wasm toolchain, the test runner and Node.
    Wasm,
    /// Both hosts and all that they talk to.
    Hosts,
}

#[derive(Debug)]
struct Suite {
    name: &'static str,
    place: Place,
    selection: &'static [&'static str],
}

const SUITES: &[Suite] = &[
    Suite {
        name: "core",
        place: Place::Native,
        selection: &["--release", "-p", "minigate-core", "-p", "minigate-scan"],
    },
    Suite { name: "config", place: Place::Native, selection: &["--release", "-p", "minigate-config"] },
    Suite {
        name: "core-wasm",
        place: Place::Wasm,
        selection: &["-p", "minigate-core", "-p", "minigate-scan", "--lib", "--target", WASM],
    },
    // The native host's own tests, and those of what the others run against.
    Suite { name: "host", place: Place::Packages, selection: &["--lib"] },
    Suite { name: "xtask", place: Place::Native, selection: &["-p", "xtask"] },
    Suite { name: "conformance", place: Place::Hosts, selection: &["--test", "conformance"] },
    Suite { name: "store", place: Place::Hosts, selection: &["--test", "store"] },
    Suite { name: "e2e", place: Place::Hosts, selection: &["--test", "e2e"] },
    Suite { name: "openclaw", place: Place::Hosts, selection: &["--test", "openclaw"] },
];

/// Runs the named suites, or all.
pub(crate) fn test(layout: &Layout, names: &[String]) -> Result<ExitCode> {
    let suites = select(names)?;
    let needs = |place| suites.iter().any(|suite| suite.place == place);
    let variables = if needs(Place::Hosts) { parts::all(layout)? } else { Variables::new() };
    let wasm = if needs(Place::Wasm) { Some(WasmTests::prepare(layout)?) } else { None };

    let mut outcomes = Vec::new();
    for suite in suites {
        let mut command = match (suite.place, &wasm) {
            (Place::Wasm, Some(wasm)) => wasm.cargo(layout)?,
            _ => layout.cargo(),
        };
        command.args(["test", "--locked"]);
        if matches!(suite.place, Place::Packages | Place::Hosts) {
            command.args(NATIVE);
        }
        command.args(suite.selection);
        if suite.place == Place::Hosts {
            command.envs(variables.iter().map(|(name, value)| (name, value)));
        }
        outcomes.push(run(suite.name, &mut command)?);
    }
    println!("\n{}", summary(&outcomes));
    let failed = outcomes.iter().any(|outcome| outcome.problem().is_some());
    Ok(ExitCode::from(u8::from(failed)))
}

fn select(names: &[String]) -> Result<Vec<&'static Suite>> {
    if names.is_empty() {
        return Ok(SUITES.iter().collect());
    }
    let find = |name: &String| {
        SUITES.iter().find(|suite| suite.name == name).ok_or_else(|| {
            let known: Vec<_> = SUITES.iter().map(|suite| suite.name).collect();
            format!("no suite `{name}`; there are {}", known.join(", ")).into()
        })
    };
    names.iter().map(find).collect()
}

/// What runs tests inside of wasm.
#[derive(Debug)]
struct WasmTests {
    toolchain: toolchain::Toolchain,
    runner: OsString,
    search_path: OsString,
}

impl WasmTests {
    fn prepare(layout: &Layout) -> Result<Self> {
        Ok(Self {
            toolchain: toolchain::ensure(layout)?,
            runner: bindgen::test_runner(layout)?.into(),
            search_path: Node::ensure(layout)?.search_path()?,
        })
    }

    fn cargo(&self, layout: &Layout) -> Result<Command> {
        let mut command = self.toolchain.cargo(layout, "wasm")?;
        command
            .env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER", &self.runner)
            .env("PATH", &self.search_path);
        Ok(command)
    }
}

/// Runs one suite; its output is passed on and read at once.
fn run(suite: &'static str, command: &mut Command) -> Result<Outcome> {
    say!("\n[test {suite}]");
    let began = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let counts = thread::scope(|scope| {
        let errors = scope.spawn(|| observe(stderr, io::stderr()));
        let mut counts = observe(stdout, io::stdout());
        // A reader that panicked has seen nothing.
        counts.merge(errors.join().unwrap_or_default());
        counts
    });
    let status = child.wait()?;
    let outcome =
        Outcome { suite, counts, seconds: began.elapsed().as_secs_f64(), succeeded: status.success() };
    match outcome.problem() {
        None => say!("[test {suite}] done in {:.1} s", outcome.seconds),
        Some(problem) => say!("[test {suite}] FAILED: {problem}"),
    }
    Ok(outcome)
}

fn observe(stream: Option<impl Read>, mut passed_on: impl Write) -> Counts {
    let mut counts = Counts::default();
    let Some(stream) = stream else { return counts };
    let mut reader = BufReader::new(stream);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line).is_ok_and(|length| length > 0) {
        // When nobody reads the progress the tests still count.
        let _ = passed_on.write_all(&line).and_then(|()| passed_on.flush());
        counts.observe(&String::from_utf8_lossy(&line));
        line.clear();
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_chosen_by_name() -> Result<()> {
        assert_eq!(select(&[])?.len(), SUITES.len());
        let chosen = select(&["e2e".to_owned(), "core".to_owned()])?;
        let names: Vec<_> = chosen.iter().map(|suite| suite.name).collect();
        assert_eq!(names, ["e2e", "core"]);
        assert!(select(&["nope".to_owned()]).is_err());
        Ok(())
    }

    #[test]
    fn output_is_passed_on_as_it_is() {
        let output = b"a\xff\ntest result: ok. 1 passed; 0 failed; 0 ignored\nlast";
        let mut copy = Vec::new();
        let counts = observe(Some(output.as_slice()), &mut copy);
        assert_eq!(copy, output);
        assert_eq!(counts.passed, 1);
    }
}
