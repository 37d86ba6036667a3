//! Configuration files: read here, checked and compiled by `minigate-config`.

use std::{fs, io::Write as _, path::PathBuf, process::ExitCode};

use minigate_config::{Checked, Question, Severity, Source};
use minigate_core::{
    policy::{Environment, catalog::Catalog},
    seam::ConfigFile,
};

use crate::{journal, settings};

/// The files of the configuration: those that are named, else those of `MINIGATE_CONFIG`, else none.
pub(crate) fn paths(named: Vec<PathBuf>) -> Vec<PathBuf> {
    let listed = settings::text("MINIGATE_CONFIG").unwrap_or_default();
    let listed = listed.split(',').map(str::trim).filter(|path| !path.is_empty()).map(PathBuf::from);
    if named.is_empty() { listed.collect() } else { named }
}

/// Their texts.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn files(paths: &[PathBuf]) -> Result<Vec<ConfigFile>, String> {
    let file = |Source { name, text }| ConfigFile { name, text };
    Ok(read(paths)?.into_iter().map(file).collect())
}

/// The version of such texts.
pub(crate) fn version(files: &[ConfigFile]) -> String {
    minigate_config::version(&sources(files))
}

fn sources(files: &[ConfigFile]) -> Vec<Source> {
    files.iter().map(|file| Source { name: file.name.clone(), text: file.text.clone() }).collect()
}

/// The configuration to serve with; none of no file. Each mistake is a line of the log.
///
/// # Errors
/// When the files have mistakes.
pub(crate) fn load(files: &[ConfigFile], environment: Environment) -> Result<Catalog, String> {
    if files.is_empty() {
        return Ok(Catalog::default());
    }
    let Checked { catalog, diagnostics } = minigate_config::check(&sources(files), Some(environment));
    for found in &diagnostics {
        let (level, event) = match found.severity {
            Severity::Error => ("error", "configuration_mistake"),
            Severity::Warning => ("warn", "configuration_warning"),
        };
        let place = format!("{}:{}:{}", found.file, found.line, found.column);
        let mut fields = vec![("place", place.into()), ("problem", found.message.as_str().into())];
        fields.extend(found.help.as_deref().map(|help| ("help", help.into())));
        journal::event(level, event, &fields);
    }
    catalog.ok_or_else(|| "the configuration has mistakes; `minigate check` says them too".to_owned())
}

fn read(files: &[PathBuf]) -> Result<Vec<Source>, String> {
    let source = |path: &PathBuf| {
        let name = path.display().to_string();
        match fs::read_to_string(path) {
            Ok(text) => Ok(Source { name, text }),
            Err(error) => Err(format!("{name}: {error}")),
        }
    };
    files.iter().map(source).collect()
}

/// `minigate check`: every mistake, and 1 when there is one.
pub fn check(files: &[PathBuf], environment: Option<Environment>, strict: bool) -> ExitCode {
    let Some(checked) = checked(files, environment) else { return ExitCode::FAILURE };
    let count = |severity| checked.diagnostics.iter().filter(|found| found.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    let mut lines: Vec<String> = checked.diagnostics.iter().map(ToString::to_string).collect();
    if let Some(catalog) = &checked.catalog {
        lines.push(format!(
            "ok: {} profiles, {} intents, {} models, version {}",
            catalog.profiles.len(),
            catalog.intents.len(),
            catalog.models.len(),
            catalog.version
        ));
    }
    lines.push(format!("{errors} errors, {warnings} warnings"));
    print(&(lines.join("\n") + "\n"));
    if errors > 0 || (strict && warnings > 0) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// `minigate compile`: the bytes for the edge.
pub fn compile(files: &[PathBuf], output: &PathBuf) -> ExitCode {
    let Some(checked) = checked(files, None) else { return ExitCode::FAILURE };
    let lines: Vec<String> = checked.diagnostics.iter().map(ToString::to_string).collect();
    if !lines.is_empty() {
        complain(&lines.join("\n"));
    }
    let Some(catalog) = checked.catalog else { return ExitCode::FAILURE };
    match fs::write(output, catalog.encode()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{}: {error}", output.display()));
            ExitCode::FAILURE
        }
    }
}

/// `minigate explain`: which profile, and why.
pub fn explain(files: &[PathBuf], question: &Question<'_>) -> ExitCode {
    let Some(checked) = checked(files, None) else { return ExitCode::FAILURE };
    let Some(catalog) = checked.catalog else {
        let errors = checked.diagnostics.iter().filter(|found| found.severity == Severity::Error);
        complain(&errors.map(ToString::to_string).collect::<Vec<String>>().join("\n"));
        return ExitCode::FAILURE;
    };
    match minigate_config::explain(&catalog, question) {
        Ok(text) => {
            print(&text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            complain(&why);
            ExitCode::FAILURE
        }
    }
}

/// `minigate schema`.
pub fn schema() -> ExitCode {
    print(&minigate_config::json_schema());
    ExitCode::SUCCESS
}

/// What came of the files; `None`, and said, when one cannot be read.
fn checked(files: &[PathBuf], environment: Option<Environment>) -> Option<Checked> {
    match read(files) {
        Ok(sources) => Some(minigate_config::check(&sources, environment)),
        Err(problem) => {
            complain(&problem);
            None
        }
    }
}

/// A reader that went away is no mistake.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
