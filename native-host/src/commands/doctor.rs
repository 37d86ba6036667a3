//! `minigate doctor`: what to look at when a robot feels slow, in the order in which it usually is the matter:
//! the model's runtime, concurrency, the length of prompts, the network, OpenClaw, DingTalk.
//!
//! Everything is measured from this machine, as the gateway would meet it. No key is shown.

mod checks;
mod words;

use std::{fs, path::PathBuf, process::ExitCode};

use clap::{Args, ValueEnum};
use minigate_config::{Severity, Source, check};
use minigate_core::policy::catalog::Catalog;
use serde_json::{Value, json};

use super::{
    complain,
    daemon::{self, Files},
    env_file::Given,
    print,
};
use crate::settings;
use words::Said;

/// What is looked at, and with which settings.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The configuration; that of the daemon or of `minigate onboard` without it.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// A file of settings, `NAME=VALUE`; those of the environment win.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The daemon whose configuration and settings are meant.
    #[arg(long)]
    name: Option<String>,
    /// As JSON.
    #[arg(long)]
    json: bool,
    /// The language; that of LANG without it.
    #[arg(long, value_enum)]
    lang: Option<Lang>,
}

/// The language of what is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Chinese.
    Zh,
    /// English.
    En,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ok,
    /// It cannot be told, and nothing says that it is bad.
    Unknown,
    Slow,
    Broken,
}

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Slow => "slow",
            Self::Broken => "broken",
        }
    }
}

/// One line of what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    /// `runtime`, `concurrency`, `prompt`, `network`, `openclaw`, `dingtalk`.
    area: &'static str,
    /// Of what: a model's alias, a host, a channel.
    of: String,
    verdict: Verdict,
    /// What was measured.
    measured: String,
    said: Said,
}

/// What is known before anything is measured.
struct Patient {
    catalog: Catalog,
    given: Given,
}

impl Doctor {
    /// Prints a line for each finding and a verdict; 1 when something is broken.
    pub fn run(self) -> ExitCode {
        let lang = self.lang.unwrap_or_else(language);
        let patient = match self.patient() {
            Ok(patient) => patient,
            Err(problem) => {
                complain(&problem);
                return ExitCode::FAILURE;
            }
        };
        let findings = checks::all(&patient);
        let worst = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Unknown);
        if self.json {
            print(&as_json(&findings, worst, lang).to_string());
        } else {
            findings.iter().for_each(|finding| print(&line(finding, lang)));
            print(&words::conclusion(&findings, worst, lang));
        }
        if worst == Verdict::Broken { ExitCode::FAILURE } else { ExitCode::SUCCESS }
    }

    fn patient(&self) -> Result<Patient, String> {
        let started = match &self.name {
            Some(name) => Files::of(name)?.started(),
            None => {
                serde_json::from_slice(&fs::read(daemon::onboarded()).unwrap_or_default()).unwrap_or_default()
            }
        };
        let listed = settings::text("MINIGATE_CONFIG").unwrap_or_default();
        let listed: Vec<PathBuf> =
            listed.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from).collect();
        let files = [self.config.clone(), listed, started.config].into_iter().find(|files| !files.is_empty());
        let env_file = self.env_file.clone().or(started.env_file.filter(|path| path.exists()));
        let given = Given::read(env_file.as_deref())?;
        let source = |path: PathBuf| {
            let name = path.display().to_string();
            let text = fs::read_to_string(&path).map_err(|error| format!("{name}: {error}"))?;
            Ok::<_, String>(Source { name, text })
        };
        let sources = files.unwrap_or_default().into_iter().map(source).collect::<Result<Vec<_>, _>>()?;
        if sources.is_empty() {
            return Ok(Patient { catalog: Catalog::default(), given });
        }
        let checked = check(&sources, None);
        let errors = checked.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        let errors: Vec<String> = errors.map(ToString::to_string).collect();
        let catalog = checked.catalog.ok_or_else(|| errors.join("\n"))?;
        Ok(Patient { catalog, given })
    }
}

/// By the usual variables, in their order.
fn language() -> Lang {
    let set = ["LC_ALL", "LC_MESSAGES", "LANG"].into_iter().find_map(settings::text);
    if set.is_some_and(|lang| lang.to_ascii_lowercase().starts_with("zh")) { Lang::Zh } else { Lang::En }
}

fn line(finding: &Finding, lang: Lang) -> String {
    let Finding { area, of, verdict, measured, said } = finding;
    let mark = words::verdict(*verdict, lang);
    let (area, advice) = (words::area(area, lang), said.advice(lang));
    let of = if of.is_empty() { String::new() } else { format!(" {of}") };
    let advice = if advice.is_empty() { String::new() } else { format!("\n    → {advice}") };
    format!("[{mark}] {area}{of}: {measured}{advice}")
}

fn as_json(findings: &[Finding], worst: Verdict, lang: Lang) -> Value {
    let finding = |finding: &Finding| {
        json!({
            "area": finding.area, "of": finding.of, "verdict": finding.verdict.name(),
            "measured": finding.measured, "advice": finding.said.advice(lang),
        })
    };
    json!({
        "verdict": worst.name(),
        "findings": findings.iter().map(finding).collect::<Vec<_>>(),
        "conclusion": words::conclusion(findings, worst, lang),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(area: &'static str, verdict: Verdict, said: Said) -> Finding {
        Finding { area, of: "local_chat".into(), verdict, measured: "12 ms".into(), said }
    }

    #[test]
    fn a_line_says_what_was_measured_and_what_to_do() {
        let slow = finding("concurrency", Verdict::Slow, Said::NoLimit);
        assert_eq!(
            line(&slow, Lang::En),
            "[slow] concurrency local_chat: 12 ms\n    → set limits.max_concurrency_per_model for it: without it \
             one busy group takes all of the runtime"
        );
        assert!(line(&slow, Lang::Zh).starts_with("[慢] 并发 local_chat: 12 ms\n    → "));
        let fine = finding("runtime", Verdict::Ok, Said::Nothing);
        assert_eq!(line(&fine, Lang::En), "[OK] runtime local_chat: 12 ms");
    }

    #[test]
    fn the_first_of_the_worst_is_the_conclusion() {
        let findings = [
            finding("runtime", Verdict::Ok, Said::Nothing),
            finding("concurrency", Verdict::Slow, Said::NoLimit),
            finding("openclaw", Verdict::Broken, Said::Unreachable),
        ];
        let found = as_json(&findings, Verdict::Broken, Lang::En);
        assert_eq!(found["verdict"], "broken");
        assert_eq!(found["conclusion"], "Verdict: OpenClaw is broken; begin there.");
        assert_eq!(words::conclusion(&findings[..1], Verdict::Ok, Lang::Zh), "结论：一切正常。");
    }
}
