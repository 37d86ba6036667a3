//! The wasm module: one file for both hosts, the same bytes wherever it is built.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use crate::bindgen;
use crate::cache::digest;
use crate::layout::Layout;
use crate::parts;
use crate::step::{Result, Run, already, step};
use crate::toolchain::{self, Toolchain, WASM};

/// `cargo xtask module`: builds it and prints what it is.
pub(crate) fn print(layout: &Layout) -> Result<()> {
    let toolchain = toolchain::ensure(layout)?;
    build(layout, &toolchain)?;
    let facts = fs::read(layout.module_dir().join("module.json"))?;
    let facts: serde_json::Value = serde_json::from_slice(&facts)?;
    println!("path    {}", layout.module_file().display());
    println!("size    {} bytes", facts["bytes"]);
    println!("gzip    {} bytes", facts["gzipBytes"]);
    println!("sha256  {}", facts["sha256"].as_str().unwrap_or_default());
    Ok(())
}

/// Builds `target/module/`: the module, its JS, `module.json` about it, and the configuration.
pub(crate) fn build(layout: &Layout, toolchain: &Toolchain) -> Result<()> {
    build_module(layout, toolchain)?;
    build_catalog(layout)
}

/// `catalog.bin` of the files in `MINIGATE_CONFIG`; an empty file is no configuration.
fn build_catalog(layout: &Layout) -> Result<()> {
    let file = layout.module_dir().join("catalog.bin");
    let listed = env::var("MINIGATE_CONFIG").unwrap_or_default();
    let sources: Vec<&str> = listed.split(',').map(str::trim).filter(|path| !path.is_empty()).collect();
    if sources.is_empty() {
        return Ok(fs::write(file, "")?);
    }
    parts::host(layout)?;
    step("module", &format!("compiling {}", sources.join(", ")), || {
        Command::new(layout.program("minigate"))
            .arg("compile")
            .args(&sources)
            .arg("-o")
            .arg(&file)
            .run_quietly()
    })
}

fn build_module(layout: &Layout, toolchain: &Toolchain) -> Result<()> {
    let glue = bindgen::glue(layout)?;
    let compiled = compile(layout, toolchain, "wasm", &[], "compiling the module")?;

    let entry = layout.root.join("edge-worker").join("js");
    let inputs = inputs(layout, &compiled, &entry)?;
    let dir = layout.module_dir();
    let stamp = dir.join(".inputs");
    if fs::read_to_string(&stamp).is_ok_and(|text| text == inputs) {
        already("module", &layout.module_file().display().to_string());
        return Ok(());
    }
    step("module", "wasm-bindgen, and the Workers entry", || {
        // Made beside and swapped in, so that a running host never sees half of it.
        let fresh = dir.with_extension("new");
        if fresh.exists() {
            fs::remove_dir_all(&fresh)?;
        }
        fs::create_dir_all(&fresh)?;
        Command::new(&glue).arg(&compiled).arg(&fresh).run_quietly()?;
        for file in files(&entry)? {
            if let Some(name) = file.file_name() {
                fs::copy(&file, fresh.join(name))?;
            }
        }
        let wasm = fresh.join("index_bg.wasm");
        let bytes = fs::read(&wasm)?;
        let facts = json!({
            "sha256": digest(&bytes),
            "bytes": bytes.len(),
            "gzipBytes": gzip_size(&wasm)?,
        });
        fs::write(fresh.join("module.json"), format!("{facts}\n"))?;
        // A worker cannot read its own file, so the entry is told what it is.
        fs::write(fresh.join("facts.mjs"), format!("export default {facts};\n"))?;
        fs::write(fresh.join(".inputs"), &inputs)?;
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        Ok(fs::rename(&fresh, &dir)?)
    })
}

/// Builds the core with only the raw exports, to prove that it asks the host for
/// nothing.
pub(crate) fn build_core(layout: &Layout, toolchain: &Toolchain) -> Result<()> {
    // Another directory: cargo gives both builds of the library the same file name.
    let features = ["--no-default-features"];
    let compiled = compile(layout, toolchain, "wasm-core", &features, "compiling the core alone")?;
    let file = layout.core_file();
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::copy(compiled, file)?;
    Ok(())
}

fn compile(
    layout: &Layout,
    toolchain: &Toolchain,
    directory: &str,
    features: &[&str],
    what: &str,
) -> Result<PathBuf> {
    // wasm-bindgen reads the section about target features, which `strip = true`
    // removes; it drops the names itself.
    let strip = if features.is_empty() { "none" } else { "symbols" };
    step("module", what, || {
        toolchain
            .cargo(layout, directory)?
            .args(["build", "--locked", "-p", "minigate-edge", "--lib"])
            .args(["--target", WASM, "--profile", "module"])
            .args(features)
            .env("CARGO_PROFILE_MODULE_STRIP", strip)
            .run_quietly()
    })?;
    Ok(toolchain.target(layout, directory).join(WASM).join("module").join("minigate_edge.wasm"))
}

/// A digest of everything that `target/module` is made from.
fn inputs(layout: &Layout, compiled: &Path, entry: &Path) -> Result<String> {
    let tool = layout.root.join("tools").join("wasm");
    let this_file = layout.root.join("xtask").join("src").join("module.rs");
    let mut all = vec![compiled.to_owned(), this_file, tool.join("Cargo.lock")];
    all.extend(files(&tool.join("src"))?);
    all.extend(files(entry)?);
    let mut list = String::new();
    for file in all {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        list += &format!("{} {name}\n", digest(&fs::read(&file)?));
    }
    Ok(list)
}

/// The files of a directory in a fixed order; none when there is no directory.
fn files(dir: &Path) -> Result<Vec<PathBuf>> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(Vec::new());
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// What the module weighs when uploaded.
fn gzip_size(file: &Path) -> Result<usize> {
    let output = Command::new("gzip")
        .args(["-9", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("cannot start gzip: {error}"))?;
    if !output.status.success() {
        return Err(format!("gzip failed ({})", output.status).into());
    }
    Ok(output.stdout.len())
}
