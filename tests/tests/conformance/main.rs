//! One core, the same bytes wherever it runs.
//!
//! Each case of `tests/conformance` is driven step by step through native Rust, the module
//! in wasmtime, the core alone in wasmtime, and the module in the real workerd. At every
//! step the raw replies, state and outputs, must be equal byte for byte. What comes out in
//! the end is kept beside the case as `.golden`; `UPDATE_GOLDEN=1` writes it anew.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says so when something is missing"
)]

mod case;
mod engines;
mod module;
mod run;
mod workerd;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use libtest_mimic::{Arguments, Failed, Trial};
use minigate_tests::required;

use crate::{
    case::Case,
    engines::{Native, Runs, Wasm},
    run::Run,
    workerd::Workerd,
};

/// The corpus may grow; it may not shrink by accident.
const FEWEST_CASES: usize = 25;

/// Everything that the core runs in.
#[derive(Debug)]
pub(crate) struct World {
    corpus: PathBuf,
    native: Native,
    /// The module, as both hosts run it.
    pub(crate) wasmtime: Wasm,
    /// The same core with only the raw exports.
    pub(crate) alone: Wasm,
    /// The module in workerd.
    pub(crate) workerd: Workerd,
}

impl World {
    fn start() -> Self {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
        let file = required("MINIGATE_MODULE").join("index_bg.wasm");
        Self {
            native: Native,
            wasmtime: Wasm::load("wasmtime", &file),
            alone: Wasm::load("wasmtime, the core alone", &required("MINIGATE_CORE_WASM")),
            workerd: Workerd::start(&corpus),
            corpus,
        }
    }

    /// All of them; the first one is what the others are compared with.
    pub(crate) fn engines(&self) -> [&dyn Runs; 4] {
        [&self.native, &self.wasmtime, &self.alone, &self.workerd]
    }

    fn golden(&self, case: &Case) -> PathBuf {
        self.corpus.join(format!("{}.golden", case.name))
    }

    fn check(&self, case: &Case) -> Result<(), Failed> {
        let found = Run::new(case, &self.engines()).transcript();
        let path = self.golden(case);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            return Ok(fs::write(path, found)?);
        }
        let expected = fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}; UPDATE_GOLDEN=1 writes it", path.display()))?;
        if found == expected {
            return Ok(());
        }
        let (mut lines, mut golden) = (found.lines(), expected.lines());
        for number in 1.. {
            let (line, wanted) = (lines.next(), golden.next());
            if line != wanted {
                return Err(format!("{}:{number}: {line:?} instead of {wanted:?}", path.display()).into());
            }
        }
        Ok(())
    }

    /// Every case has a golden, and every golden its case.
    fn corpus_is_whole(&self, cases: &[Case]) {
        assert!(cases.len() >= FEWEST_CASES, "only {} cases", cases.len());
        let names: Vec<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        for entry in fs::read_dir(&self.corpus).expect("the corpus") {
            let path = entry.expect("an entry").path();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
            match ending {
                "golden" => assert!(names.contains(&name), "{name}.golden has no case"),
                "json" | "mjs" => {}
                _ => panic!("what is {}?", path.display()),
            }
        }
    }
}

/// One trial.
type Check = Box<dyn Fn(&World) -> Result<(), Failed> + Send>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let world = Arc::new(World::start());
    module::print_hash(&world);

    let cases = Case::all(&world.corpus);
    let mut trials = Vec::new();
    let mut add = |name: String, check: Check| {
        let world = Arc::clone(&world);
        trials.push(Trial::test(name, move || check(&world)));
    };
    for case in cases.clone() {
        add(format!("case::{}", case.name), Box::new(move |world| world.check(&case)));
    }
    add(
        "corpus::is_whole".into(),
        Box::new(move |world| {
            world.corpus_is_whole(&cases);
            Ok(())
        }),
    );
    for (name, check) in module::CHECKS {
        add(
            format!("module::{name}"),
            Box::new(move |world| {
                check(world);
                Ok(())
            }),
        );
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The trials are gone: with the last share of the world, workerd ends.
    drop(world);
    conclusion.exit_code()
}
