//! What comes from PyPI: OpenAI's Python SDK, which the tests hold against the model gateway,
//! DingTalk's, which they hold against robots, and llama.cpp with what makes a model for it, which they
//! put behind the gateway.
//!
//! Pinned with hashes in `tools/python`, and put into directories of the cache that `PYTHONPATH`
//! names: nothing of the machine's own Python is changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::keyed;
use crate::layout::Layout;
use crate::step::{Result, Run, already, step};

/// A Python and the packages beside it.
#[derive(Debug)]
pub(crate) struct Python {
    /// Absolute path of the program.
    pub(crate) program: PathBuf,
    /// The directory with `openai`.
    pub(crate) openai: PathBuf,
    /// The directory with `dingtalk_stream`.
    pub(crate) dingtalk: PathBuf,
    /// The directory with llama.cpp and `gguf`.
    pub(crate) llama: PathBuf,
}

impl Python {
    /// The machine's Python, with all of them installed.
    pub(crate) fn ensure(layout: &Layout) -> Result<Self> {
        let ask = "import sys; print(sys.version_info[0], sys.version_info[1], sys.executable)";
        let answer = Command::new("python3").args(["-c", ask]).text();
        let answer = answer.map_err(|error| format!("{error} (Python 3.11 or later is needed)"))?;
        let mut words = answer.splitn(3, ' ');
        let (Some(major), Some(minor), Some(program)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("python3 says `{answer}` of itself").into());
        };
        let program = PathBuf::from(program);
        let version = format!("{major}.{minor}");
        let openai = packages(layout, &program, &version, "openai")?;
        let dingtalk = packages(layout, &program, &version, "dingtalk")?;
        let llama = packages(layout, &program, &version, "llama")?;
        Ok(Self { program, openai, dingtalk, llama })
    }
}

/// The directory with what `tools/python/NAME` lists.
fn packages(layout: &Layout, program: &Path, version: &str, name: &str) -> Result<PathBuf> {
    let what = format!("{name} for Python");
    let lock = layout.root.join("tools/python").join(name).join("requirements.txt");
    // Wheels are made for one version.
    let part = keyed(&format!("python-{name}-{version}"), &fs::read(&lock)?);
    if let Some(packages) = layout.cache.part(&part) {
        already(&what, &packages.display().to_string());
        return Ok(packages);
    }
    step(&what, "pip install", || {
        layout.cache.part_or(&part, |dir| {
            Command::new(program)
                .args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"])
                .args(["--require-hashes", "--only-binary=:all:", "--target"])
                .arg(dir)
                .arg("--requirement")
                .arg(&lock)
                .run_quietly()
                .map_err(|error| format!("{error} (pip is needed: python3-pip)").into())
        })
    })
}
