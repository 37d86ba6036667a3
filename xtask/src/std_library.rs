//! Builds the standard library for wasm32 from the compiler's own source.
//!
//! Debian ships that source but not the built library. The result is a sysroot of
//! its own, in the cache, so that nothing below `/usr` is touched.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::step::{Result, Run};
use crate::toolchain::WASM;

/// Fills `dir` as a sysroot. `source` is where the compiler's source is and the
/// name under which its paths shall appear.
pub(crate) fn build(mut cargo: Command, source: &(PathBuf, String), dir: &Path) -> Result<()> {
    let (path, name) = source;
    let library = path.join("library");
    if !library.join("Cargo.lock").is_file() {
        return Err(format!("no standard library source in {}", library.display()).into());
    }
    let mut flags = vec!["-Zforce-unstable-if-unmarked".to_owned()];
    for path in [path.clone(), path.canonicalize()?] {
        flags.push(format!("--remap-path-prefix={}={name}", path.display()));
    }

    // The profile that Rust's releases are built with: it embeds bitcode, which
    // `lto = "fat"` needs. Less the debug information.
    let work = dir.join("build");
    cargo
        .args(["build", "--locked", "--profile", "dist", "--target", WASM])
        .arg("--manifest-path")
        .arg(library.join("sysroot").join("Cargo.toml"))
        .arg("--no-default-features")
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_PROFILE_DIST_DEBUG", "false")
        .env("CARGO_TARGET_DIR", &work)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_DEFAULT_LIB_METADATA", "minigate")
        .run_quietly()?;

    let built = work.join(WASM).join("dist").join("deps");
    let installed = dir.join("lib").join("rustlib").join(WASM).join("lib");
    fs::create_dir_all(&installed)?;
    for entry in fs::read_dir(&built)? {
        let file = entry?;
        let name = file.file_name();
        let text = name.to_string_lossy();
        // `sysroot` is the package that only names the others.
        if text.ends_with(".rlib") && !text.starts_with("libsysroot") {
            fs::copy(file.path(), installed.join(&name))?;
        }
    }
    Ok(fs::remove_dir_all(&work)?)
}
