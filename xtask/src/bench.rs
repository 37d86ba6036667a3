//! `cargo xtask bench`: the native host beside nginx on the same upstream.

use std::process::ExitCode;

use crate::layout::Layout;
use crate::step::{Result, exit_code};
use crate::{debian, parts};

/// Builds and installs what is measured, then runs the benchmark with `arguments`.
pub(crate) fn bench(layout: &Layout, arguments: &[String]) -> Result<ExitCode> {
    let variables = parts::all(layout)?;
    let nginx = debian::program(&layout.cache, "nginx")?;
    let status = layout
        .cargo()
        .args(["run", "--locked", "--release", "-p", "minigate-tests", "--bin", "bench", "--"])
        .args(arguments)
        .envs(variables)
        .env("MINIGATE_NGINX", nginx)
        .status()?;
    Ok(exit_code(status))
}
