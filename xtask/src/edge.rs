//! `cargo xtask edge`: the module in workerd, on this machine, through wrangler.

use std::env;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use minigate_core::policy::{NAMES, SECRETS};

use crate::layout::Layout;
use crate::node::Node;
use crate::step::{Result, exit_code, say};
use crate::{module, parts, toolchain};

/// Builds the module and serves it on 127.0.0.1:8787 until interrupted.
pub(crate) fn edge(layout: &Layout, arguments: &[String]) -> Result<ExitCode> {
    let toolchain = toolchain::ensure(layout)?;
    module::build(layout, &toolchain)?;
    let node = Node::ensure(layout)?;
    let tools = node.edge_tools(layout)?;

    let named = named_secrets(&env::var("MINIGATE_CONFIG").unwrap_or_default())?;
    let mut settings = settings(&named, |name| env::var(name).ok())?;
    let has = |settings: &Settings, name| settings.iter().any(|(known, _)| known == name);
    if !has(&settings, "MINIGATE_ENV") {
        say!("[edge] MINIGATE_ENV is not set: dev");
        settings.push(("MINIGATE_ENV".to_owned(), "dev".to_owned()));
    }
    let mut demo = None;
    if !has(&settings, "OPENCLAW_GATEWAY_URL") {
        parts::host(layout)?;
        let upstream = Demo::start(&layout.program("minigate"))?;
        say!(
            "[edge] OPENCLAW_GATEWAY_URL is not set: the demo upstream at {} answers, not OpenClaw",
            upstream.url
        );
        settings.push(("OPENCLAW_GATEWAY_URL".to_owned(), upstream.url.clone()));
        if !has(&settings, "OPENCLAW_GATEWAY_TOKEN") {
            settings.push(("OPENCLAW_GATEWAY_TOKEN".to_owned(), "demo".to_owned()));
        }
        demo = Some(upstream);
    }

    say!("[edge] wrangler dev on http://127.0.0.1:8787");
    let status = Command::new(&node.program)
        .arg(tools.dir.join("node_modules/wrangler/bin/wrangler.js"))
        .args(["dev", "--local", "--ip", "127.0.0.1", "--port", "8787"])
        .args(["--show-interactive-dev-session=false", "--env-file", "/dev/stdin"])
        .args(arguments)
        .current_dir(&layout.root)
        .stdin(nameless_file(&settings)?)
        .env("PATH", node.search_path()?)
        .env("WRANGLER_SEND_METRICS", "false")
        // Else it looks up a host of Cloudflare's for the request's `cf` object.
        .env("CLOUDFLARE_CF_FETCH_ENABLED", "false")
        .status()?;
    drop(demo);
    Ok(exit_code(status))
}

type Settings = Vec<(String, String)>;

/// The secrets that configuration files name as `${NAME}`.
fn named_secrets(files: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for path in files.split(',').map(str::trim).filter(|path| !path.is_empty()) {
        let text = fs::read_to_string(path).map_err(|error| format!("MINIGATE_CONFIG: {path}: {error}"))?;
        let after = text.split("${").skip(1);
        names.extend(after.filter_map(|rest| Some(rest.split_once('}')?.0.to_owned())));
    }
    Ok(names)
}

/// The settings of the environment. `NAME_FILE` is read here: there are no files
/// on the edge.
fn settings(named: &[String], variable: impl Fn(&str) -> Option<String>) -> Result<Settings> {
    let mut found = Settings::new();
    let known = NAMES.iter().chain(SECRETS).copied();
    for name in known.chain(named.iter().map(String::as_str)) {
        let value = match (variable(name), variable(&format!("{name}_FILE"))) {
            (Some(value), _) => Some(value),
            (None, Some(path)) => {
                let text =
                    fs::read_to_string(&path).map_err(|error| format!("{name}_FILE: {path}: {error}"))?;
                Some(text.trim_end().to_owned())
            }
            (None, None) => None,
        };
        found.extend(value.filter(|value| !value.is_empty()).map(|value| (name.to_owned(), value)));
    }
    Ok(found)
}

/// Settings for wrangler, in a file that has no name any more: on the command line
/// others could see them, and a named file would stay when this program is ended.
fn nameless_file(settings: &Settings) -> Result<File> {
    let path = env::temp_dir().join(format!("minigate-edge-{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file =
        options.open(&path).map_err(|error| format!("cannot create {}: {error}", path.display()))?;
    fs::remove_file(&path)?;
    for (name, value) in settings {
        writeln!(file, "{name}={}", quote(value)?)?;
    }
    file.rewind()?;
    Ok(file)
}

/// A value in a quote that it does not contain; the format has no escape for it.
fn quote(value: &str) -> Result<String> {
    let quote = ['\'', '`', '"'].into_iter().find(|&quote| !value.contains(quote));
    let quote = quote.ok_or("a setting contains all three kinds of quotes")?;
    Ok(format!("{quote}{value}{quote}"))
}

/// The built-in stand-in for OpenClaw, as a process of its own.
#[derive(Debug)]
struct Demo {
    child: Child,
    url: String,
}

impl Demo {
    fn start(program: &Path) -> Result<Self> {
        let mut child =
            Command::new(program).arg("demo").stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        let mut demo = Self { child, url: String::new() };
        let mut lines = BufReader::new(output.ok_or("the demo upstream has no output")?).lines();
        let url = lines.find_map(|line| demo_url(&line.ok()?));
        demo.url = url.ok_or("the demo upstream ended without saying where it listens")?;
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(demo)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // Nothing is left to do when it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The address in `{"event":"demo_listening","url":"http://127.0.0.1:PORT"}`.
fn demo_url(line: &str) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(line).ok()?;
    let listening = event["event"] == "demo_listening";
    listening.then(|| event["url"].as_str().map(str::to_owned))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_settings_are_passed() -> Result<()> {
        let variable = |name: &str| match name {
            "LOG_LEVEL" => Some("debug".to_owned()),
            "API_KEY" => Some(String::new()),
            "HOME" => Some("/h".to_owned()),
            _ => None,
        };
        assert_eq!(settings(&[], variable)?, [("LOG_LEVEL".to_owned(), "debug".to_owned())]);
        Ok(())
    }

    #[test]
    fn a_secret_file_that_is_missing_is_an_error() {
        let variable = |name: &str| (name == "API_KEY_FILE").then(|| "/does/not/exist".to_owned());
        assert!(settings(&[], variable).is_err_and(|error| error.to_string().contains("API_KEY_FILE")));
    }

    #[test]
    fn secrets_are_named_by_the_configuration() -> Result<()> {
        let path = env::temp_dir().join(format!("minigate-xtask-{}.yaml", std::process::id()));
        fs::write(&path, "models: {a: {api_key: '${A_KEY}'}, b: {api_key: '${B_KEY}'}}")?;
        let named = named_secrets(&path.display().to_string());
        fs::remove_file(&path)?;
        assert_eq!(named?, ["A_KEY", "B_KEY"]);
        assert!(named_secrets("/does/not/exist").is_err());
        Ok(())
    }

    #[test]
    fn a_value_is_quoted_with_what_it_lacks() -> Result<()> {
        assert_eq!(quote("a b")?, "'a b'");
        assert_eq!(quote("it's")?, "`it's`");
        assert_eq!(quote("'`")?, "\"'`\"");
        assert!(quote("'`\"").is_err());
        Ok(())
    }

    #[test]
    fn the_demo_says_where_it_listens() {
        let line = r#"{"event":"demo_listening","url":"http://127.0.0.1:4321"}"#;
        assert_eq!(demo_url(line).as_deref(), Some("http://127.0.0.1:4321"));
        assert_eq!(demo_url(r#"{"event":"start"}"#), None);
        assert_eq!(demo_url("text"), None);
    }
}
