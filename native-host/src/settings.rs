//! Gathers settings from the environment, and secrets also from files. What they mean is
//! the core's.

use std::{env, fs, path::PathBuf};

use minigate_core::policy::{NAMES, SECRETS, Secrets, Settings};

/// What the environment says.
#[derive(Debug)]
pub(crate) struct Gathered {
    pub(crate) settings: Settings,
    pub(crate) secrets: Secrets,
}

/// Reads every setting that the core knows.
///
/// # Errors
/// When a file that a setting names cannot be read. The file's contents are never shown.
pub(crate) fn gather() -> Result<Gathered, String> {
    let settings = NAMES.iter().filter_map(|name| Some(((*name).to_owned(), env::var(name).ok()?))).collect();
    let mut secrets = Secrets::default();
    for name in SECRETS {
        if let Some(value) = secret(name)? {
            secrets.0.insert((*name).to_owned(), value);
        }
    }
    Ok(Gathered { settings, secrets })
}

/// Reads the secrets that a configuration names besides.
///
/// # Errors
/// As [`gather`].
pub(crate) fn gather_secrets(names: &[&str], secrets: &mut Secrets) -> Result<(), String> {
    for name in names {
        if let Some(value) = secret(name)? {
            secrets.0.insert((*name).to_owned(), value);
        }
    }
    Ok(())
}

/// `NAME`, else the file that `NAME_FILE` names, else systemd's credential `NAME`.
fn secret(name: &str) -> Result<Option<String>, String> {
    if let Ok(value) = env::var(name) {
        return Ok(Some(value));
    }
    let variable = format!("{name}_FILE");
    if let Some(path) = env::var_os(&variable) {
        let value = fs::read_to_string(&path)
            .map_err(|error| format!("{variable}: {}: {error}", PathBuf::from(&path).display()))?;
        return Ok(Some(value.trim_end_matches(['\n', '\r']).to_owned()));
    }
    let Some(directory) = env::var_os("CREDENTIALS_DIRECTORY") else { return Ok(None) };
    Ok(fs::read_to_string(PathBuf::from(directory).join(name))
        .ok()
        .map(|value| value.trim_end_matches(['\n', '\r']).to_owned()))
}

/// A number among the host's own settings.
pub(crate) fn number(name: &str, default: u16) -> Result<u16, String> {
    match env::var(name) {
        Ok(text) => {
            text.trim().parse().map_err(|_| format!("{name}: `{text}` is not a number from 0 to 65535"))
        }
        Err(_) => Ok(default),
    }
}

/// A text among the host's own settings.
pub(crate) fn text(name: &str) -> Option<String> {
    env::var(name).ok().map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// Where the module's machine code is kept. It can be lost: the next start is slower then.
pub(crate) fn code_directory() -> PathBuf {
    let named = text("CACHE_DIR").or_else(|| text("CACHE_DIRECTORY"));
    named.map_or_else(|| data_directory().join("code"), PathBuf::from)
}

/// Where the store is kept.
pub(crate) fn data_directory() -> PathBuf {
    if let Some(path) = text("DATA_DIR").or_else(|| text("STATE_DIRECTORY")) {
        return PathBuf::from(path);
    }
    let cache = text("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| text("HOME").map(|home| PathBuf::from(home).join(".cache")));
    cache.unwrap_or_else(env::temp_dir).join("minigate-data")
}
