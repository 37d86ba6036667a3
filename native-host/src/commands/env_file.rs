//! Files of settings, `NAME=VALUE` in each line, as systemd and Docker read them.
//!
//! Secrets live here and never in the YAML, so such a file is its owner's alone.

use std::{
    collections::BTreeMap,
    env, fs, io,
    io::Write as _,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
};

/// Settings out of the environment first, and a file after that.
#[derive(Default)]
pub(super) struct Given {
    file: BTreeMap<String, String>,
}

impl Given {
    /// # Errors
    /// When the file cannot be read; its contents are never shown.
    pub(super) fn read(file: Option<&Path>) -> Result<Self, String> {
        let Some(path) = file else { return Ok(Self::default()) };
        match fs::read_to_string(path) {
            Ok(text) => Ok(Self { file: parse(&text) }),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    /// The value, when it is set and not empty; else what the file says that `NAME_FILE` names.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        let set = |name: &str| {
            let value = env::var(name).ok().or_else(|| self.file.get(name).cloned());
            value.map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
        };
        set(name).or_else(|| {
            let text = fs::read_to_string(set(&format!("{name}_FILE"))?).ok()?;
            Some(text.trim().to_owned()).filter(|value| !value.is_empty())
        })
    }

    /// What a child gets beside its parent's environment, which wins.
    pub(super) fn missing(&self) -> impl Iterator<Item = (&String, &String)> {
        self.file.iter().filter(|(name, _)| env::var_os(name).is_none())
    }
}

/// What the lines say. What is no pair is passed over, as systemd does.
fn parse(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| {
        let line = line.trim().strip_prefix("export ").unwrap_or(line.trim());
        let (name, value) = line.split_once('=').filter(|_| !line.starts_with('#'))?;
        let value = value.trim();
        let quoted = |mark: char| value.strip_prefix(mark).and_then(|value| value.strip_suffix(mark));
        let value = quoted('"').or_else(|| quoted('\'')).unwrap_or(value);
        Some((name.trim().to_owned(), value.to_owned()))
    };
    text.lines().filter_map(pair).collect()
}

/// The text with these settings in it: a line of the same name is replaced, all others stay as they are.
fn merged(text: &str, settings: &[(String, String)]) -> String {
    let mut left: Vec<&(String, String)> = settings.iter().collect();
    let mut out = String::new();
    for line in text.lines() {
        let name = line.trim().strip_prefix("export ").unwrap_or(line.trim()).split('=').next();
        match left.iter().position(|(known, _)| Some(known.as_str()) == name.map(str::trim)) {
            Some(at) => {
                let (name, value) = left.remove(at);
                out.push_str(&format!("{name}={value}\n"));
            }
            None => out.push_str(&format!("{line}\n")),
        }
    }
    for (name, value) in left {
        out.push_str(&format!("{name}={value}\n"));
    }
    out
}

/// Puts settings into a file that only its owner may read.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(path: &Path, settings: &[(String, String)]) -> io::Result<()> {
    let text = merged(&fs::read_to_string(path).unwrap_or_default(), settings);
    // Written beside it first: whoever reads it sees the old one or the new one.
    let beside = path.with_extension("env.new");
    let _ = fs::remove_file(&beside);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}

/// Whether others than its owner may read it.
pub(super) fn is_open(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_pairs() {
        let found = parse("# A=1\nB=2\n export C = 'x y' \nD=\"q\"\nno pair\nE=a=b\n");
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(found, [("B", "2"), ("C", "x y"), ("D", "q"), ("E", "a=b")]);
    }

    #[test]
    fn other_lines_stay() {
        let settings = [("B".to_owned(), "9".to_owned()), ("NEW".to_owned(), "n".to_owned())];
        assert_eq!(merged("# words\nA=1\nexport B=2\n", &settings), "# words\nA=1\nB=9\nNEW=n\n");
    }

    #[test]
    fn only_its_owner_may_read_it() {
        let path = env::temp_dir().join(format!("minigate-env-{}.env", std::process::id()));
        fs::write(&path, "A=1\n").expect("a file");
        assert!(is_open(&path));
        write(&path, &[("S".to_owned(), "secret".to_owned())]).expect("written");
        assert!(!is_open(&path));
        let given = Given::read(Some(&path)).expect("read");
        assert_eq!((given.get("A").as_deref(), given.get("S").as_deref()), (Some("1"), Some("secret")));
        fs::remove_file(path).expect("removed");
    }
}
