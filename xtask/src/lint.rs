//! `cargo xtask lint`: clippy on the crates of the module, for wasm32.
//!
//! `cargo clippy` alone sees only what compiles natively, and the Workers glue
//! does not.

use crate::layout::Layout;
use crate::step::{Result, Run, step};
use crate::toolchain::{self, WASM};

/// Checks the module and the core's wasm tests, with warnings denied.
pub(crate) fn lint(layout: &Layout) -> Result<()> {
    let toolchain = toolchain::ensure(layout)?;
    toolchain.ensure_clippy()?;
    let run = |what: &str, selection: &[&str]| {
        step("lint", what, || {
            toolchain
                .cargo(layout, "wasm")?
                .args(["clippy", "--locked", "--target", WASM])
                .args(selection)
                .args(["--", "-D", "warnings"])
                .run_quietly()
        })
    };
    run("clippy on the module", &["-p", "minigate-edge"])?;
    run("clippy on the raw exports alone", &["-p", "minigate-edge", "--no-default-features"])?;
    run("clippy on the core and its tests", &["-p", "minigate-core", "--lib", "--tests"])
}
