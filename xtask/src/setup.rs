//! `cargo xtask setup`: every part that the other commands use.

use crate::layout::Layout;
use crate::node::Node;
use crate::python::Python;
use crate::step::{Result, say};
use crate::{bindgen, debian, toolchain};

/// Installs what is missing, except for the benchmark's nginx, which
/// `bench` gets for itself.
pub(crate) fn setup(layout: &Layout) -> Result<()> {
    toolchain::ensure(layout)?;
    bindgen::glue(layout)?;
    bindgen::test_runner(layout)?;
    let node = Node::ensure(layout)?;
    node.edge_tools(layout)?;
    node.openclaw(layout)?;
    node.openai(layout)?;
    Python::ensure(layout)?;
    debian::browser()?;
    say!("everything is there");
    Ok(())
}
