//! wasm-bindgen, built from `tools/wasm`: no installed copy, no other version.

use std::path::PathBuf;

use crate::layout::Layout;
use crate::step::{Result, Run, step};

/// The program that turns cargo's output into the module and its JS.
pub(crate) fn glue(layout: &Layout) -> Result<PathBuf> {
    build(layout, "wasm-glue", &[])
}

/// The program that cargo runs for wasm tests.
pub(crate) fn test_runner(layout: &Layout) -> Result<PathBuf> {
    build(layout, "wasm-test-runner", &["--features", "test-runner"])
}

fn build(layout: &Layout, program: &str, features: &[&str]) -> Result<PathBuf> {
    let target = layout.target().join("tools");
    step("wasm-bindgen", &format!("building {program}"), || {
        let manifest = layout.root.join("tools").join("wasm").join("Cargo.toml");
        layout
            .cargo()
            .args(["build", "--locked", "--bin", program])
            .args(features)
            .arg("--manifest-path")
            .arg(manifest)
            .env("CARGO_TARGET_DIR", &target)
            .run_quietly()
    })?;
    let name = format!("{program}{}", std::env::consts::EXE_SUFFIX);
    Ok(target.join("debug").join(name))
}
