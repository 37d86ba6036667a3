//! Where things are: the one list of paths that the commands agree on.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::step::Result;

/// What every native build selects, whichever target it then builds. cargo unifies
/// features over the selected packages, so this is what makes it build each
/// dependency once: with another selection, wasmtime would be built again.
pub(crate) const NATIVE: [&str; 5] = ["--release", "-p", "minigate", "-p", "minigate-tests"];

/// The checkout, its build results, and the tool cache.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The workspace's root directory.
    pub(crate) root: PathBuf,
    /// Where tools are installed, outside of the checkout.
    pub(crate) cache: Cache,
}

impl Layout {
    pub(crate) fn find() -> Result<Self> {
        let own = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = own.parent().ok_or("xtask is not inside of a workspace")?;
        Ok(Self { root: root.to_owned(), cache: Cache::find()? })
    }

    /// cargo's output directory for the host's programs.
    pub(crate) fn target(&self) -> PathBuf {
        self.root.join("target")
    }

    /// The module and its JS, as they are served and deployed.
    pub(crate) fn module_dir(&self) -> PathBuf {
        self.target().join("module")
    }

    /// The one wasm file that both hosts run.
    pub(crate) fn module_file(&self) -> PathBuf {
        self.module_dir().join("index_bg.wasm")
    }

    /// The core alone, for the test that counts its imports.
    pub(crate) fn core_file(&self) -> PathBuf {
        self.target().join("module-core").join("core.wasm")
    }

    /// A native program, as built by [`crate::parts::program`].
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.target().join("release").join(format!("{name}{}", env::consts::EXE_SUFFIX))
    }

    /// A pinned set of npm packages.
    pub(crate) fn npm_manifest(&self, name: &str) -> PathBuf {
        self.root.join("tools").join("npm").join(name)
    }

    /// The machine's own cargo, for what runs natively.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = clean_cargo(Path::new("cargo"));
        command.current_dir(&self.root).env("CARGO_TARGET_DIR", self.target());
        command
    }
}

/// A cargo without the variables that `cargo run` set for this program or that
/// would send its output elsewhere.
pub(crate) fn clean_cargo(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let ours = text == "CARGO"
            || text == "CARGO_BUILD_TARGET"
            || text == "CARGO_BUILD_TARGET_DIR"
            || text.starts_with("CARGO_MANIFEST_")
            || text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_TARGET_");
        if ours {
            command.env_remove(&name);
        }
    }
    command
}
