//! Debian packages: what is installed, what could be, and getting the rest.
//!
//! Installing needs root. Where there is neither root nor a `sudo` that asks no
//! password, the message says what to install.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::step::{Result, Run, already, step};

/// Major and minor of a package version or compiler release.
pub(crate) type Version = (u32, u32);

/// A package, and the oldest version that will do.
#[derive(Debug, Clone)]
pub(crate) struct Package {
    name: String,
    at_least: Option<Version>,
}

impl Package {
    pub(crate) fn any(name: impl Into<String>) -> Self {
        Self { name: name.into(), at_least: None }
    }

    pub(crate) fn at_least(name: impl Into<String>, version: Version) -> Self {
        Self { name: name.into(), at_least: Some(version) }
    }

    fn accepts(&self, version: Option<&str>) -> bool {
        match (version, self.at_least) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(text), Some(least)) => parse_version(text).is_some_and(|found| found >= least),
        }
    }
}

/// Installs the packages that are missing or too old.
pub(crate) fn install(packages: &[Package]) -> Result<()> {
    if Command::new("apt-get").arg("--version").text().is_err() {
        return Err("this is no Debian system (no apt-get)".into());
    }
    let missing = |packages: &[Package]| -> Result<Vec<Package>> {
        let mut missing = Vec::new();
        for package in packages {
            if !package.accepts(installed(&package.name).as_deref()) {
                missing.push(package.clone());
            }
        }
        Ok(missing)
    };
    let wanted = missing(packages)?;
    let names: Vec<&str> = wanted.iter().map(|package| package.name.as_str()).collect();
    if names.is_empty() {
        let all: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
        already("apt", &all.join(" "));
        return Ok(());
    }
    let root = Root::find().ok_or_else(|| {
        format!(
            "not allowed to install Debian packages here; as root: apt-get update && apt-get install --no-install-recommends {}",
            names.join(" ")
        )
    })?;

    // Lists that came with the system can be old enough to offer a release that
    // is too old, or one that the mirror has dropped.
    if !offered(&wanted)? {
        step("apt", "apt-get update: the lists are missing or old", || root.apt(&["update", "-qq"]))?;
        if !offered(&wanted)? {
            return Err(format!("this Debian release does not offer {}", describe(&wanted)).into());
        }
    }
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(&names);
    step("apt", &format!("apt-get install {}", names.join(" ")), || {
        root.apt(&install).or_else(|_| {
            root.apt(&["update", "-qq"])?;
            root.apt(&install)
        })
    })
}

/// A program from a Debian package: the installed one, else the package's own,
/// unpacked into the cache. Nothing is installed, so no service starts.
pub(crate) fn program(cache: &Cache, package: &str) -> Result<PathBuf> {
    unpacked(cache, package, &format!("usr/sbin/{package}"), "-v")
}

/// The directory in which `prometheus` and `promtool` are, in the same way.
pub(crate) fn prometheus(cache: &Cache) -> Result<PathBuf> {
    let program = unpacked(cache, "prometheus", "usr/bin/prometheus", "--version")?;
    Ok(program.parent().map(Path::to_owned).unwrap_or_default())
}

/// A program at that place of a package; asked for its version by that argument, it ends well.
fn unpacked(cache: &Cache, package: &str, place: &str, version: &str) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let installed = env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|dir| dir.join(package))
        .find(|program| program.is_file());
    if let Some(program) = installed {
        already(package, &program.display().to_string());
        return Ok(program);
    }
    let advice =
        || format!("{package} is missing and could not be fetched; as root: apt-get install {package}");
    if candidate(package).ok().flatten().is_none() {
        let root = Root::find().ok_or_else(advice)?;
        step("apt", "apt-get update: the lists are missing", || root.apt(&["update", "-qq"]))?;
    }
    let candidate = candidate(package)?.ok_or_else(advice)?;
    let part = format!("{package}-{}", candidate.replace(['/', ':'], "_"));
    let dir = match cache.part(&part) {
        Some(dir) => dir,
        None => step(package, "apt-get download, unpacked into the cache", || {
            cache.part_or(&part, |dir| unpack(package, dir, place, version))
        })
        .map_err(|error| format!("{error}\n{}", advice()))?,
    };
    Ok(dir.join(place))
}

/// The first of these servers that is installed, else the last one from its Debian package of
/// the same name. The package's own service is not started.
pub(crate) fn server(names: &[&str]) -> Result<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let find = |name: &&str| env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
    if let Some(program) = names.iter().find_map(find) {
        already("store", &program.display().to_string());
        return Ok(program);
    }
    let Some(name) = names.last() else { return Err("no server is named".into()) };
    install(&[Package::any(*name)])?;
    find(name).ok_or_else(|| format!("{name} was installed and is not in PATH").into())
}

/// Chromium and its driver, from Debian's packages of those names; and a font with Chinese signs for its pictures.
pub(crate) fn browser() -> Result<(PathBuf, PathBuf)> {
    let path = env::var_os("PATH").unwrap_or_default();
    let find = |name: &str| {
        let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file());
        found.ok_or_else(|| format!("{name} was installed and is not in PATH"))
    };
    install(&["chromium", "chromium-driver", "fonts-wqy-microhei"].map(Package::any))?;
    Ok((find("chromium")?, find("chromedriver")?))
}

fn unpack(package: &str, dir: &Path, place: &str, version: &str) -> Result<()> {
    Command::new("apt-get").args(["download", "-qq", package]).current_dir(dir).run_quietly()?;
    for entry in std::fs::read_dir(dir)? {
        let file = entry?.path();
        if file.extension().is_some_and(|extension| extension == "deb") {
            Command::new("dpkg-deb").arg("-x").arg(&file).arg(dir).run_quietly()?;
            std::fs::remove_file(&file)?;
        }
    }
    Command::new(dir.join(place)).arg(version).run_quietly()
}

/// How to run a command as root.
#[derive(Debug, Clone, Copy)]
enum Root {
    Already,
    Sudo,
}

impl Root {
    fn find() -> Option<Self> {
        if Command::new("id").arg("-u").text().is_ok_and(|id| id == "0") {
            return Some(Self::Already);
        }
        let sudo = Command::new("sudo").args(["-n", "true"]).text();
        sudo.is_ok().then_some(Self::Sudo)
    }

    fn apt(self, arguments: &[&str]) -> Result<()> {
        let mut command = match self {
            Self::Already => Command::new("env"),
            Self::Sudo => {
                let mut sudo = Command::new("sudo");
                sudo.args(["-n", "env"]);
                sudo
            }
        };
        // invoke-rc.d starts no service in runlevel 1.
        command
            .args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"])
            .args(arguments)
            .run_quietly()
    }
}

/// The installed version, if any.
fn installed(package: &str) -> Option<String> {
    let output =
        Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status} ${Version}", package]).text();
    parse_status(&output.ok()?)
}

fn parse_status(output: &str) -> Option<String> {
    // A removed package can have left its configuration, and so a version.
    let version = output.strip_prefix("installed ")?;
    Some(version.trim().to_owned())
}

/// The version that `apt-get install` would get, by the lists as they are.
fn candidate(package: &str) -> Result<Option<String>> {
    let output = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").text()?;
    Ok(parse_candidate(&output))
}

fn parse_candidate(output: &str) -> Option<String> {
    let mut lines = output.lines().map(str::trim);
    let version = lines.find_map(|line| line.strip_prefix("Candidate:"))?.trim();
    (version != "(none)").then(|| version.to_owned())
}

fn offered(packages: &[Package]) -> Result<bool> {
    for package in packages {
        if !package.accepts(candidate(&package.name)?.as_deref()) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn describe(packages: &[Package]) -> String {
    let one = |package: &Package| match package.at_least {
        Some((major, minor)) => format!("{} {major}.{minor} or later", package.name),
        None => package.name.clone(),
    };
    packages.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// The first two numbers of `1:1.96.0+dfsg1-1` or `1.96.0`.
pub(crate) fn parse_version(text: &str) -> Option<Version> {
    let upstream = text.split_once(':').map_or(text, |(_epoch, rest)| rest);
    let mut numbers = upstream.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_not_text() {
        assert_eq!(parse_version("1.96.0+dfsg1-1~deb12u2"), Some((1, 96)));
        assert_eq!(parse_version("1:22.1.8-1~deb12u1"), Some((22, 1)));
        assert_eq!(parse_version("24.21.0"), Some((24, 21)));
        assert_eq!(parse_version("unknown"), None);
        assert!(parse_version("1.100.0") > parse_version("1.96.0"));
    }

    #[test]
    fn an_old_candidate_is_not_accepted() {
        let package = Package::at_least("rustc-web", (1, 95));
        assert!(package.accepts(Some("1.95.0+dfsg1-1")));
        assert!(package.accepts(Some("1.96.0+dfsg1-1~deb12u2")));
        assert!(!package.accepts(Some("1.85.0+dfsg3-1~deb12u3")));
        assert!(!package.accepts(None));
        assert!(Package::any("nginx").accepts(Some("1.22.1-9")));
    }

    #[test]
    fn what_dpkg_and_apt_say() {
        assert_eq!(parse_status("installed 1.96.0+dfsg1-1").as_deref(), Some("1.96.0+dfsg1-1"));
        assert_eq!(parse_status("config-files 1.85.0+dfsg3-1"), None);
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.85.0+dfsg3-1\n  Version table:\n";
        assert_eq!(parse_candidate(policy).as_deref(), Some("1.85.0+dfsg3-1"));
        assert_eq!(parse_candidate("nginx:\n  Installed: (none)\n  Candidate: (none)\n"), None);
        assert_eq!(parse_candidate(""), None);
    }
}
