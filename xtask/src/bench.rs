//! `cargo xtask bench`: the native host beside nginx on the same upstream.

use std::process::{Command, ExitCode};

use crate::layout::Layout;
use crate::step::{Result, hand_over};
use crate::{debian, parts};

/// Builds and installs what is measured, then runs the benchmark with `arguments`.
pub(crate) fn bench(layout: &Layout, arguments: &[String]) -> Result<ExitCode> {
    let variables = parts::all(layout)?;
    let nginx = debian::program(&layout.cache, "nginx")?;
    let bench = parts::program(layout, "bench", "benchmark")?;
    let mut command = Command::new(bench);
    command.args(arguments).envs(variables).env("MINIGATE_NGINX", nginx);
    hand_over(command.current_dir(&layout.root))
}
