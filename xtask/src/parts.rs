//! Everything that the tests and the benchmark run against, built or installed,
//! and the variables under which they find it.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::layout::{Layout, NATIVE};
use crate::node::Node;
use crate::python::Python;
use crate::step::{Result, Run, step};
use crate::{debian, module, toolchain};

/// Names and absolute paths.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// The native host, the module, the core alone, Node, workerd, wrangler, OpenClaw, OpenAI's and
/// DingTalk's SDKs, llama.cpp, Redis, Prometheus, Chromium.
pub(crate) fn all(layout: &Layout) -> Result<Variables> {
    let toolchain = toolchain::ensure(layout)?;
    let node = Node::ensure(layout)?;
    let edge = node.edge_tools(layout)?;
    let openclaw = node.openclaw(layout)?;
    let (openai, python) = (node.openai(layout)?, Python::ensure(layout)?);
    let redis = debian::server(&["valkey-server", "redis-server"])?;
    let prometheus = debian::prometheus(&layout.cache)?;
    let (chromium, chromedriver) = debian::browser()?;
    module::build(layout, &toolchain)?;
    module::build_core(layout, &toolchain)?;
    host(layout)?;
    Ok(vec![
        ("MINIGATE_BIN", layout.program("minigate").into()),
        ("MINIGATE_MODULE", layout.module_dir().into()),
        ("MINIGATE_CORE_WASM", layout.core_file().into()),
        ("MINIGATE_NODE", node.program.into()),
        ("MINIGATE_WORKERD", edge.workerd.into()),
        ("MINIGATE_WRANGLER", edge.dir.into()),
        ("MINIGATE_OPENCLAW", openclaw.into()),
        ("MINIGATE_OPENAI", openai.into()),
        ("MINIGATE_PYTHON", python.program.into()),
        ("MINIGATE_PYTHON_PACKAGES", python.openai.into()),
        ("MINIGATE_PYTHON_DINGTALK", python.dingtalk.into()),
        ("MINIGATE_LLAMA", python.llama.into()),
        ("MINIGATE_REDIS", redis.into()),
        ("MINIGATE_PROMETHEUS", prometheus.into()),
        ("MINIGATE_CHROMIUM", chromium.into()),
        ("MINIGATE_CHROMEDRIVER", chromedriver.into()),
    ])
}

/// The native host's program.
pub(crate) fn host(layout: &Layout) -> Result<()> {
    program(layout, "minigate", "native host").map(drop)
}

/// One of the native programs, optimized.
pub(crate) fn program(layout: &Layout, name: &str, what: &str) -> Result<PathBuf> {
    step(what, &format!("cargo build --release, {name}"), || {
        layout.cargo().args(["build", "--locked"]).args(NATIVE).args(["--bin", name]).run_quietly()
    })?;
    Ok(layout.program(name))
}
