//! Everything that the tests and the benchmark run against, built or installed,
//! and the variables under which they find it.

use std::ffi::OsString;

use crate::layout::Layout;
use crate::node::Node;
use crate::step::{Result, Run, step};
use crate::{module, toolchain};

/// Names and absolute paths.
pub(crate) type Variables = Vec<(&'static str, OsString)>;

/// The native host, the module, the core alone, Node, workerd, wrangler, OpenClaw.
pub(crate) fn all(layout: &Layout) -> Result<Variables> {
    let toolchain = toolchain::ensure(layout)?;
    let node = Node::ensure(layout)?;
    let edge = node.edge_tools(layout)?;
    let openclaw = node.openclaw(layout)?;
    module::build(layout, &toolchain)?;
    module::build_core(layout, &toolchain)?;
    host(layout)?;
    Ok(vec![
        ("MINIGATE_BIN", layout.host_program().into()),
        ("MINIGATE_MODULE", layout.module_dir().into()),
        ("MINIGATE_CORE_WASM", layout.core_file().into()),
        ("MINIGATE_NODE", node.program.into()),
        ("MINIGATE_WORKERD", edge.workerd.into()),
        ("MINIGATE_WRANGLER", edge.dir.into()),
        ("MINIGATE_OPENCLAW", openclaw.into()),
    ])
}

/// The native host's program.
pub(crate) fn host(layout: &Layout) -> Result<()> {
    step("native host", "cargo build --release -p minigate", || {
        layout.cargo().args(["build", "--locked", "--release", "-p", "minigate"]).run_quietly()
    })
}
