//! `minigate onboard --channel dingtalk`: what a robot needs, asked for once, checked, and written down.
//!
//! Secrets go into a file that only its owner may read, and into the YAML only as `${NAME}`. The YAML is
//! not written anew: lines are added, so that comments stay; and only when it has no mistake with them.

use std::{
    fs,
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use clap::{Args, ValueEnum};
use minigate_config::{Severity, Source, check};
use minigate_core::policy::{SECRETS, catalog::Catalog};
use serde_json::json;

use super::{
    complain,
    daemon::{self, Start},
    env_file::{self, Given},
    http::{self, Question},
    print,
};

/// How long DingTalk may take to give a token.
const PATIENCE: Duration = Duration::from_secs(10);
/// The profile that is written where there is none.
const PROFILE: &str = "dingtalk_v1";

/// Whose robots there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// DingTalk's.
    #[value(name = "dingtalk")]
    DingTalk,
}

/// What is set up. What is not given is taken from the environment, or asked for.
#[derive(Debug, Args)]
pub struct Onboard {
    /// Whose robot it is.
    #[arg(long, value_enum)]
    channel: Kind,
    /// The configuration file, new or not.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The channel's name.
    #[arg(long, default_value = "bot")]
    name: String,
    /// Where secrets go; beside the configuration without it.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The robot's code; DINGTALK_ROBOT_CODE, or the app's key, without it.
    #[arg(long)]
    robot_code: Option<String>,
    /// How messages come.
    #[arg(long, value_name = "stream|http", default_value = "stream", value_parser = ["stream", "http"])]
    mode: String,
    /// The profile that answers.
    #[arg(long, value_name = "NAME", conflicts_with = "intent")]
    profile: Option<String>,
    /// The intent whose profile answers.
    #[arg(long, value_name = "NAME")]
    intent: Option<String>,
    /// To whom `minigate send` speaks: a group's openConversationId. May be repeated.
    #[arg(long, value_name = "NAME=CONVERSATION", value_parser = pair)]
    target: Vec<(String, String)>,
    /// Do not ask DingTalk whether the credentials are right.
    #[arg(long)]
    offline: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("as test-group=cid…")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Onboard {
    /// Says what was written and what comes next; 1 when something is not right.
    pub fn run(self) -> ExitCode {
        match self.onboard() {
            Ok(lines) => {
                print(&lines);
                ExitCode::SUCCESS
            }
            Err(problem) => {
                complain(&problem);
                ExitCode::FAILURE
            }
        }
    }

    fn onboard(self) -> Result<String, String> {
        let Kind::DingTalk = self.channel;
        let env_path = self.env_file.clone().unwrap_or_else(|| self.config.with_extension("env"));
        let given = Given::read(Some(&env_path).filter(|path| path.exists()).map(PathBuf::as_path))?;
        let text = match fs::read_to_string(&self.config) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(format!("{}: {error}", self.config.display())),
        };
        let mut settings = Vec::new();
        let mut take = |name: &str, secret: bool| -> Result<String, String> {
            let value = given.get(name).map_or_else(|| ask_person(name, secret), Ok)?;
            settings.push((name.to_owned(), value.clone()));
            Ok(value)
        };
        let key = take("DINGTALK_APP_KEY", false)?;
        let secret = take("DINGTALK_APP_SECRET", true)?;
        let checked = if self.offline { "not checked" } else { check_credentials(&given, &key, &secret)? };
        let robot_code = self.robot_code.clone().or_else(|| given.get("DINGTALK_ROBOT_CODE")).unwrap_or(key);
        let (written, catalog) = self.write_into(&text, &robot_code)?;
        for name in catalog.secrets() {
            if !settings.iter().any(|(known, _)| known == name) {
                let value = given.get(name).map_or_else(|| ask_person(name, true), Ok)?;
                settings.push((name.to_owned(), value));
            }
        }
        for name in SECRETS.iter().chain(&["OPENCLAW_GATEWAY_URL"]) {
            settings.extend(given.get(name).map(|value| ((*name).to_owned(), value)));
        }
        // What `send` and the phone's side need; whoever has one keeps it.
        for name in ["ADMIN_KEY", "API_KEY"] {
            if given.get(name).is_none() {
                settings.push((name.to_owned(), random()?));
            }
        }
        let problem = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        for path in [&self.config, &env_path] {
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent).map_err(|error| problem(parent, error))?;
            }
        }
        env_file::write(&env_path, &settings).map_err(|error| problem(&env_path, error))?;
        let changed = written != text;
        if changed {
            fs::write(&self.config, &written).map_err(|error| problem(&self.config, error))?;
        }
        self.remember(&env_path)?;
        let missing = ["OPENCLAW_GATEWAY_URL", "OPENCLAW_GATEWAY_TOKEN"];
        let missing: Vec<&str> = missing.into_iter().filter(|name| given.get(name).is_none()).collect();
        let mut lines = vec![
            format!("credentials: {checked}"),
            format!(
                "{}: {}",
                self.config.display(),
                if changed { "channel written" } else { "has it already" }
            ),
            format!("{}: secrets, for its owner only", env_path.display()),
        ];
        if !missing.is_empty() && given.get("OPENCLAW_AUTH").is_none() {
            lines.push(format!("still to be set there: {}", missing.join(", ")));
        }
        lines.push(
            "next: minigate daemon start --name dingtalk-bot --log /var/log/minigate/dingtalk-bot.log".into(),
        );
        Ok(lines.join("\n"))
    }

    /// The configuration with the channel in it.
    fn write_into(&self, text: &str, robot_code: &str) -> Result<(String, Catalog), String> {
        let name = self.config.display().to_string();
        let read = |text: &str| check(&[Source { name: name.clone(), text: text.to_owned() }], None);
        let mistakes = |text: &str| {
            let found = read(text).diagnostics.into_iter();
            let errors = found.filter(|found| found.severity == Severity::Error);
            errors.map(|found| found.to_string()).collect::<Vec<_>>().join("\n")
        };
        let before = if text.trim().is_empty() {
            Catalog::default()
        } else {
            read(text)
                .catalog
                .ok_or_else(|| format!("mistakes that were there already:\n{}", mistakes(text)))?
        };
        if before.channel(&self.name).is_some() {
            return Ok((text.to_owned(), before));
        }
        let (answers, profile) = self.answers(&before);
        let mut written = insert(text, "channels", &self.block(robot_code, &answers)).ok_or_else(|| {
            let block = indent(&self.block(robot_code, &answers), 2);
            format!("{name}: `channels` is not a block; add this by hand:\n\nchannels:\n{block}")
        })?;
        if let Some(profile) = profile {
            written = insert(&written, "profiles", &profile)
                .ok_or_else(|| format!("{name}: no profile answers; give one with --profile"))?;
        }
        match read(&written).catalog {
            Some(catalog) => Ok((written, catalog)),
            None => {
                Err(format!("nothing was written, because there would be mistakes:\n{}", mistakes(&written)))
            }
        }
    }

    /// Who answers, and the profile that has to be written for it.
    fn answers(&self, before: &Catalog) -> (String, Option<String>) {
        if let Some(intent) = &self.intent {
            return (format!("intent: {intent}"), None);
        }
        let only = match before.profiles.as_slice() {
            [only] => Some(only.name.clone()),
            _ => None,
        };
        match self.profile.clone().or(only) {
            Some(profile) => (format!("profile: {profile}"), None),
            None => {
                // Without a default model it is OpenClaw's own.
                let model = if before.default_model.is_none() { "  model: openclaw\n" } else { "" };
                let profile = format!("{PROFILE}:\n{model}  max_tokens: 600\n");
                (format!("profile: {PROFILE}"), Some(profile))
            }
        }
    }

    /// The channel's lines, without indentation.
    fn block(&self, robot_code: &str, answers: &str) -> String {
        let mut lines = vec![
            format!("{}:", self.name),
            "  kind: dingtalk".to_owned(),
            format!("  robot_code: {robot_code}"),
            "  app_key: ${DINGTALK_APP_KEY}".to_owned(),
            "  app_secret: ${DINGTALK_APP_SECRET}".to_owned(),
            format!("  mode: {}", self.mode),
            format!("  {answers}"),
        ];
        if !self.target.is_empty() {
            lines.push("  targets:".to_owned());
            let target =
                |(name, id): &(String, String)| format!("    {name}: {{conversation: {}}}", json!(id));
            lines.extend(self.target.iter().map(target));
        }
        lines.join("\n") + "\n"
    }

    /// For `daemon start` without a configuration.
    fn remember(&self, env_path: &Path) -> Result<(), String> {
        let path = daemon::onboarded();
        let absolute = |path: &Path| std::path::absolute(path).map_err(|error| error.to_string());
        let start = Start {
            config: vec![absolute(&self.config)?],
            env_file: Some(absolute(env_path)?),
            ..Start::default()
        };
        let text = serde_json::to_string(&start).map_err(|error| error.to_string())?;
        let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
        parent.and_then(|()| fs::write(&path, text)).map_err(|error| format!("{}: {error}", path.display()))
    }
}

/// Asks DingTalk for a token. That nobody can be reached is no mistake of the credentials.
fn check_credentials(given: &Given, key: &str, secret: &str) -> Result<&'static str, String> {
    let base = given.get("DINGTALK_API_URL").unwrap_or_else(|| "https://api.dingtalk.com".to_owned());
    let url = format!("{}/v1.0/oauth2/accessToken", base.trim_end_matches('/'));
    let body = json!({"appKey": key, "appSecret": secret});
    match http::ask(&Question { url: &url, bearer: None, body: Some(&body) }, PATIENCE) {
        Ok(answer) if answer.status == 200 && answer.json()["accessToken"].is_string() => {
            Ok("right, DingTalk gave a token")
        }
        Ok(answer) if (400..500).contains(&answer.status) && answer.status != 429 => {
            Err("DingTalk does not take this app key and secret; nothing was written".to_owned())
        }
        Ok(_) | Err(_) => Ok("not checked: DingTalk cannot be reached now; `minigate doctor` asks again"),
    }
}

/// Asks whoever sits at the terminal; a secret without showing it.
fn ask_person(name: &str, secret: bool) -> Result<String, String> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(format!("{name} is not set, and there is nobody to ask"));
    }
    let mut stderr = std::io::stderr();
    let _ = write!(stderr, "{name}: ").and_then(|()| stderr.flush());
    let echo = |word: &str| {
        let _ = Command::new("stty").arg(word).stdin(Stdio::inherit()).status();
    };
    if secret {
        echo("-echo");
    }
    let mut line = String::new();
    let read = stdin.read_line(&mut line);
    if secret {
        echo("echo");
        let _ = writeln!(stderr);
    }
    let value = line.trim().to_owned();
    match read {
        Ok(_) if !value.is_empty() => Ok(value),
        _ => Err(format!("{name} is needed")),
    }
}

/// 32 hex digits that nobody can guess.
fn random() -> Result<String, String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| error.to_string())?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn indent(block: &str, by: usize) -> String {
    let pad = " ".repeat(by);
    block.lines().map(|line| format!("{pad}{line}\n")).collect()
}

/// The text with a block at the begin of a section, or with a section of its own at the end. `None`
/// when the section is there and is no block.
fn insert(text: &str, section: &str, block: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let head = format!("{section}:");
    let Some(at) = lines.iter().position(|line| line.starts_with(&head)) else {
        let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Some(format!("{text}{gap}{head}\n{}", indent(block, 2)));
    };
    let rest = lines.get(at)?.strip_prefix(&head)?.trim();
    if !rest.is_empty() && !rest.starts_with('#') {
        return None;
    }
    let is_words = |line: &&&str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    let first = lines.get(at + 1..)?.iter().find(is_words);
    let width = first.map_or(2, |line| line.len() - line.trim_start().len());
    let (before, after) = lines.split_at(at + 1);
    let mut out: String = before.iter().map(|line| format!("{line}\n")).collect();
    out.push_str(&indent(block, if width == 0 { 2 } else { width }));
    after.iter().for_each(|line| out.push_str(&format!("{line}\n")));
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL_MODEL: &str = include_str!("../../../config/tests/requirements/dingtalk-local-model.yaml");

    fn onboard() -> Onboard {
        Onboard {
            channel: Kind::DingTalk,
            config: "dingtalk.yaml".into(),
            name: "bot".into(),
            env_file: None,
            robot_code: None,
            mode: "http".into(),
            profile: None,
            intent: None,
            target: vec![("test-group".into(), "cid1=".into())],
            offline: true,
        }
    }

    #[test]
    fn a_channel_is_added_and_every_line_stays() {
        for text in ["", LOCAL_MODEL] {
            let (written, catalog) = onboard().write_into(text, "ding1").expect("valid");
            assert!(written.starts_with(text), "{written}");
            assert!(catalog.channel("bot").is_some() && catalog.profile(PROFILE).is_some(), "{written}");
            assert_eq!(catalog.targets.len(), 1);
            assert!(written.contains("app_secret: ${DINGTALK_APP_SECRET}"));
            // Once more changes nothing.
            assert_eq!(onboard().write_into(&written, "ding1").expect("valid").0, written);
        }
    }

    #[test]
    fn a_second_channel_goes_beside_the_first() {
        let (one, _) =
            onboard().write_into("# words\nprofiles: {p: {model: openclaw}}\n", "ding1").expect("valid");
        let text = one.replace("  bot:", "  # the first\n  bot:");
        let other = Onboard { name: "other".into(), target: Vec::new(), ..onboard() };
        let (two, catalog) = other.write_into(&text, "ding2").expect("valid");
        assert_eq!(catalog.channels.len(), 2, "{two}");
        assert!(two.contains("# words") && two.contains("# the first"), "{two}");
    }

    #[test]
    fn what_cannot_be_added_is_said_and_mistakes_are_not_written() {
        let flow = "profiles: {p: {model: openclaw}}\nchannels: {}\n";
        let problem = onboard().write_into(flow, "ding1").expect_err("by hand");
        assert!(problem.contains("add this by hand") && problem.contains("robot_code: ding1"), "{problem}");
        let wrong = Onboard { profile: Some("nobody".into()), ..onboard() };
        let problem = wrong.write_into(LOCAL_MODEL, "ding1").expect_err("no such profile");
        assert!(problem.contains("there is no profile `nobody`"), "{problem}");
        let problem = onboard().write_into("models: 3\n", "ding1").expect_err("was wrong");
        assert!(problem.starts_with("mistakes that were there already"), "{problem}");
    }
}
