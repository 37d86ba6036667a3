//! The tool cache: `$MINIGATE_CACHE`, else the user's cache directory.
//!
//! A part is a directory whose name says what is in it (a version, or the digest
//! of a lock file). It is filled under another name and renamed when complete, so
//! a part that exists is whole, and two installs at once end in one.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::step::Result;

/// The cache's directory.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
}

impl Cache {
    pub(crate) fn find() -> Result<Self> {
        let dir = locate(|name| env::var_os(name).filter(|value| !value.is_empty()))
            .ok_or("neither MINIGATE_CACHE nor HOME is set: nowhere to install tools")?;
        Ok(Self { dir })
    }

    /// The part's directory when it is installed.
    pub(crate) fn part(&self, name: &str) -> Option<PathBuf> {
        let dir = self.dir.join(name);
        dir.is_dir().then_some(dir)
    }

    /// The part's directory, installed by `fill` (into the directory it is given)
    /// when it is not there.
    pub(crate) fn part_or(&self, name: &str, fill: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
        fs::create_dir_all(&self.dir)
            .map_err(|error| format!("cannot create {}: {error}", self.dir.display()))?;
        let lock = File::create(self.dir.join(format!("{name}.lock")))?;
        lock.lock()?;
        if let Some(dir) = self.part(name) {
            return Ok(dir);
        }
        let partial = self.dir.join(format!("{name}.partial"));
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir(&partial)?;
        fill(&partial)?;
        let dir = self.dir.join(name);
        fs::rename(&partial, &dir)?;
        Ok(dir)
    }
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The name of a part that is determined by a file, such as a lock file.
pub(crate) fn keyed(name: &str, content: &[u8]) -> String {
    format!("{name}-{}", &digest(content)[..12])
}

fn locate(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if let Some(dir) = variable("MINIGATE_CACHE") {
        return Some(PathBuf::from(dir));
    }
    let user_cache = variable("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| {
        let home = variable("HOME").or_else(|| variable("USERPROFILE"))?;
        Some(PathBuf::from(home).join(".cache"))
    })?;
    Some(user_cache.join("minigate"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> Cache {
        let dir = env::temp_dir().join(format!("minigate-xtask-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        Cache { dir }
    }

    #[test]
    fn the_own_variable_wins_then_the_users_cache() {
        let all = |name: &str| match name {
            "MINIGATE_CACHE" => Some(OsString::from("/m")),
            "XDG_CACHE_HOME" => Some(OsString::from("/x")),
            "HOME" => Some(OsString::from("/h")),
            _ => None,
        };
        assert_eq!(locate(all), Some(PathBuf::from("/m")));
        let without = |name: &str| all(name).filter(|_| name != "MINIGATE_CACHE");
        assert_eq!(locate(without), Some(PathBuf::from("/x/minigate")));
        let home = |name: &str| all(name).filter(|_| name == "HOME");
        assert_eq!(locate(home), Some(PathBuf::from("/h/.cache/minigate")));
        assert_eq!(locate(|_| None), None);
    }

    #[test]
    fn a_part_is_filled_once() -> Result<()> {
        let cache = scratch("once");
        let fill = |dir: &Path| Ok(fs::write(dir.join("tool"), "1")?);
        let first = cache.part_or("tool-1", fill)?;
        let again = cache.part_or("tool-1", |_| Err("filled twice".into()))?;
        assert_eq!(first, again);
        assert_eq!(fs::read_to_string(again.join("tool"))?, "1");
        Ok(fs::remove_dir_all(&cache.dir)?)
    }

    #[test]
    fn a_part_that_failed_is_not_there_and_is_begun_anew() -> Result<()> {
        let cache = scratch("failed");
        let failed = cache.part_or("tool-1", |dir| {
            fs::write(dir.join("half"), "1")?;
            Err("no network".into())
        });
        assert!(failed.is_err());
        assert_eq!(cache.part("tool-1"), None);
        let dir = cache.part_or("tool-1", |_| Ok(()))?;
        assert!(!dir.join("half").exists());
        Ok(fs::remove_dir_all(&cache.dir)?)
    }

    #[test]
    fn the_key_changes_with_the_content() {
        assert_eq!(keyed("npm-edge", b"a"), "npm-edge-ca978112ca1b");
        assert_ne!(keyed("npm-edge", b"a"), keyed("npm-edge", b"b"));
    }
}
