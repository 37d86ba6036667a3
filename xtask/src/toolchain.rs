//! The compiler for wasm32: found, or installed.
//!
//! `WASM_TARGET_SOURCE` chooses the way:
//!
//! - `rustup`: the active toolchain, with `rustup target add` when it lacks the target;
//! - `debian`: Debian's rustc, with the target's standard library built from
//!   Debian's source into the cache;
//! - `auto` (default): the first that works. Rust's download server can be out of
//!   reach where Debian's mirrors and crates.io are not.
//!
//! No installed toolchain is changed, except by `rustup target add`.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::debian::{self, Package, Version};
use crate::layout::{Layout, clean_cargo};
use crate::std_library;
use crate::step::{Result, Run, already, say, step};

/// The target of everything that runs in a sandbox.
pub(crate) const WASM: &str = "wasm32-unknown-unknown";

/// The workspace's `rust-version`.
const OLDEST: Version = (1, 95);

const RUSTUP_LIMIT: Duration = Duration::from_secs(60);

/// A compiler that has the wasm32 target.
#[derive(Debug)]
pub(crate) struct Toolchain {
    cargo: PathBuf,
    /// Debian's parts, when it is not the active toolchain.
    debian: Option<Debian>,
    /// Where the compiler keeps the standard library's source, and what to call it.
    source: (PathBuf, String),
}

#[derive(Debug)]
struct Debian {
    rustc: PathBuf,
    sysroot: PathBuf,
    linker: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Auto,
    Rustup,
    Debian,
}

impl Source {
    fn parse(text: Option<&str>) -> Result<Self> {
        match text {
            None | Some("" | "auto") => Ok(Self::Auto),
            Some("rustup") => Ok(Self::Rustup),
            Some("debian") => Ok(Self::Debian),
            Some(other) => Err(format!("WASM_TARGET_SOURCE={other}: must be auto, rustup or debian").into()),
        }
    }
}

/// Finds or installs the target.
pub(crate) fn ensure(layout: &Layout) -> Result<Toolchain> {
    let source = Source::parse(env::var("WASM_TARGET_SOURCE").ok().as_deref())?;
    if source != Source::Debian {
        if let Some(toolchain) = active(layout)? {
            already("wasm target", &format!("{WASM} in the active toolchain"));
            return Ok(toolchain);
        }
        let what = format!("rustup target add {WASM} (at most {RUSTUP_LIMIT:?})");
        let added = step("wasm target", &what, || {
            let mut rustup = Command::new("rustup");
            rustup.args(["target", "add", WASM]);
            rustup.env("RUSTUP_MAX_RETRIES", "1");
            rustup.current_dir(&layout.root).run_within(RUSTUP_LIMIT)
        });
        match (added, active(layout)?) {
            (Ok(()), Some(toolchain)) => return Ok(toolchain),
            (result, _) if source == Source::Rustup => {
                result?;
                return Err("rustup has the target, but the active rustc does not".into());
            }
            (Err(error), _) => say!("{error}; trying Debian's compiler"),
            (Ok(()), None) => say!("the active rustc is not rustup's; trying Debian's compiler"),
        }
    }
    debian(layout)
}

impl Toolchain {
    /// Debian's clippy is a package of its own.
    pub(crate) fn ensure_clippy(&self) -> Result<()> {
        match self.debian {
            Some(_) => debian::install(&[Package::at_least("rust-web-clippy", OLDEST)]),
            None => Ok(()),
        }
    }

    /// Where cargo builds, apart for each compiler: two of them in one directory can
    /// take each other's results for their own.
    pub(crate) fn target(&self, layout: &Layout, purpose: &str) -> PathBuf {
        let compiler = if self.debian.is_some() { "-debian" } else { "" };
        layout.target().join(format!("{purpose}{compiler}"))
    }

    /// A cargo whose wasm units are the same wherever the checkout, the registry
    /// and the compiler are. With `--target` the flags reach only those units,
    /// never build scripts and macros.
    pub(crate) fn cargo(&self, layout: &Layout, purpose: &str) -> Result<Command> {
        let mut flags = vec!["-Ctarget-feature=+simd128".to_owned()];
        let mut remap = |from: &Path, to: &str| {
            flags.push(format!("--remap-path-prefix={}={to}", from.display()));
        };
        // Later prefixes win, so the most general comes first.
        remap(&layout.root, "/minigate");
        for registry in registries()? {
            remap(&registry, "/deps");
        }
        let (source, name) = &self.source;
        remap(source, name);
        if let Ok(real) = source.canonicalize() {
            remap(&real, name);
        }

        let mut command = clean_cargo(&self.cargo);
        command.current_dir(&layout.root);
        if let Some(debian) = &self.debian {
            flags.push(format!("--sysroot={}", debian.sysroot.display()));
            flags.push(format!("-Clinker={}", debian.linker));
            flags.push("-Clinker-flavor=wasm-ld".to_owned());
            debian_environment(&mut command, &debian.rustc);
        }
        command
            .env("CARGO_TARGET_DIR", self.target(layout, purpose))
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // `worker` asks for it: js-sys types instead of its own.
            .env("WASM_BINDGEN_USE_JS_SYS", "1");
        Ok(command)
    }
}

/// The toolchain that is active in the checkout, when it has the target.
fn active(layout: &Layout) -> Result<Option<Toolchain>> {
    let ask = |arguments: &[&str]| {
        let mut rustc = Command::new("rustc");
        rustc.args(arguments).current_dir(&layout.root).text()
    };
    let Ok(library) = ask(&["--print", "target-libdir", "--target", WASM]) else {
        return Ok(None);
    };
    if !has_library(Path::new(&library)) {
        return Ok(None);
    }
    let about = About::parse(&ask(&["-vV"])?)?;
    if about.version < OLDEST {
        return Err(format!("rustc {} is too old; 1.95 or later is needed", about.release).into());
    }
    let sysroot = ask(&["--print", "sysroot"])?;
    Ok(Some(Toolchain {
        cargo: PathBuf::from("cargo"),
        debian: None,
        source: about.source(Path::new(&sysroot)),
    }))
}

/// Debian's compiler, with the standard library from its source.
fn debian(layout: &Layout) -> Result<Toolchain> {
    let rustc = Path::new("/usr/bin/rustc");
    let cargo = Path::new("/usr/bin/cargo");
    let compiler = ["rustc-web", "cargo-web", "rust-web-src"];
    debian::install(&compiler.map(|name| Package::at_least(name, OLDEST)))
        .map_err(|error| format!("no compiler has {WASM}: {error}"))?;
    let ask = |arguments: &[&str]| {
        let mut command = Command::new(rustc);
        debian_environment(&mut command, rustc);
        command.args(arguments).text()
    };
    let about = About::parse(&ask(&["-vV"])?)?;
    let sysroot = ask(&["--print", "sysroot"])?;
    let linker = format!("lld-{}", about.llvm);
    debian::install(&[Package::any(linker)])?;

    let source = about.source(Path::new(&sysroot));
    let part = format!("wasm-sysroot-{}-{}", about.release, &about.commit[..9]);
    let library = match layout.cache.part(&part) {
        Some(dir) => {
            already("wasm target", &format!("{WASM} for Debian's rustc {}", about.release));
            dir
        }
        None => {
            let what = format!("building std for {WASM} with Debian's rustc {}", about.release);
            step("wasm target", &what, || {
                layout.cache.part_or(&part, |dir| {
                    let mut command = clean_cargo(cargo);
                    debian_environment(&mut command, rustc);
                    std_library::build(command, &source, dir)
                })
            })?
        }
    };
    Ok(Toolchain {
        cargo: cargo.to_owned(),
        debian: Some(Debian {
            rustc: rustc.to_owned(),
            sysroot: library,
            linker: format!("wasm-ld-{}", about.llvm),
        }),
        source,
    })
}

/// Keeps what selects another compiler (and its libraries) away from Debian's.
fn debian_environment(command: &mut Command, rustc: &Path) {
    for name in
        ["LD_LIBRARY_PATH", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "RUSTUP_TOOLCHAIN"]
    {
        command.env_remove(name);
    }
    // cargo looks for `cargo-clippy` there, and must not find rustup's.
    let path = env::var_os("PATH").unwrap_or_default();
    let own = rustc.parent().map(Path::to_owned);
    if let Ok(path) = env::join_paths(own.into_iter().chain(env::split_paths(&path))) {
        command.env("PATH", path);
    }
    command.env("RUSTC", rustc).env("RUSTDOC", rustc.with_file_name("rustdoc"));
}

/// Whether a directory holds the libraries for programs and for tests.
fn has_library(dir: &Path) -> bool {
    let Ok(entries) = fs::read_dir(dir) else {
        return false;
    };
    let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    let has = |prefix: &str| names.iter().any(|name| name.to_string_lossy().starts_with(prefix));
    has("libstd-") && has("libtest-")
}

/// The unpacked sources of every registry, each of which would leak its path.
fn registries() -> Result<Vec<PathBuf>> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
        .ok_or("neither CARGO_HOME nor HOME is set")?;
    let Ok(entries) = fs::read_dir(home.join("registry").join("src")) else {
        return Ok(Vec::new());
    };
    let mut found: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    found.sort();
    Ok(found)
}

/// What `rustc -vV` says.
#[derive(Debug, PartialEq, Eq)]
struct About {
    release: String,
    version: Version,
    commit: String,
    llvm: u32,
}

impl About {
    fn parse(text: &str) -> Result<Self> {
        let field = |name: &str| {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.map(str::trim).ok_or_else(|| format!("rustc -vV has no `{name}`"))
        };
        let release = field("release:")?.to_owned();
        let version = debian::parse_version(&release).ok_or("rustc has no version")?;
        let (llvm, _) = debian::parse_version(field("LLVM version:")?).ok_or("LLVM has no version")?;
        let commit = field("commit-hash:")?.to_owned();
        if commit.len() < 9 {
            return Err(format!("rustc {release} has no commit hash").into());
        }
        Ok(Self { release, version, commit, llvm })
    }

    /// The standard library's source, and the name that Rust's own releases give it.
    fn source(&self, sysroot: &Path) -> (PathBuf, String) {
        let path = sysroot.join("lib/rustlib/src/rust");
        (path, format!("/rustc/{}", self.commit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_is_one_of_three() -> Result<()> {
        assert_eq!(Source::parse(None)?, Source::Auto);
        assert_eq!(Source::parse(Some(""))?, Source::Auto);
        assert_eq!(Source::parse(Some("debian"))?, Source::Debian);
        assert!(Source::parse(Some("apt")).is_err());
        Ok(())
    }

    #[test]
    fn rustc_about() -> Result<()> {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\n\
                    commit-hash: ac68faa20c58cbccd01ee7208bf3b6e93a7d7f96\n\
                    release: 1.96.0\nLLVM version: 22.1.8\n";
        let about = About::parse(text)?;
        assert_eq!((about.version, about.llvm), ((1, 96), 22));
        assert!(About::parse("release: 1.96.0").is_err());
        Ok(())
    }
}
