//! The YAML configuration: read, checked and compiled into what the core needs.
//!
//! It exists so that a mistake is found before anybody serves with it, with its place and what
//! would be right, and so that no request and no wasm module pays for a parser. It does no IO:
//! texts in, diagnostics and a [`Catalog`] out. What keys there are is in `grammar.rs`, once.

#![forbid(unsafe_code)]

mod compile;
mod diagnostic;
mod explain;
mod grammar;
mod json_schema;
mod merge;
mod secrets;
mod shape;
mod url;
mod yaml;

use minigate_core::{
    policy::{Environment, catalog::Catalog},
    seam::{ConfigFile, Problem},
};

pub use diagnostic::{Diagnostic, Severity};
pub use explain::{Question, explain};
pub use json_schema::json_schema;

use diagnostic::Report;

/// One file.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name in diagnostics.
    pub name: String,
    /// Its YAML.
    pub text: String,
}

/// What came of the files.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The configuration, when there is no error.
    pub catalog: Option<Catalog>,
    /// Every mistake, in order of files and lines.
    pub diagnostics: Vec<Diagnostic>,
}

/// Checks and compiles one file, or several as one. With an environment, also what would be
/// the matter in it.
pub fn check(sources: &[Source], environment: Option<Environment>) -> Checked {
    let mut report = Report::new(sources.iter().map(|source| source.name.clone()).collect());
    let mut root = None;
    for (file, source) in sources.iter().enumerate() {
        let Some(node) = yaml::read(file, &source.text, &mut report) else { continue };
        secrets::check(&node, &mut report);
        shape::check("the file", &node, grammar::FILE, &mut report);
        root = Some(match root {
            Some(first) => merge::merge(first, node, grammar::FILE, &mut report),
            None => node,
        });
    }
    let mut catalog = root.map(|root| compile::compile(&root, environment, &mut report)).unwrap_or_default();
    catalog.version = compile::version(sources);
    let diagnostics = report.into_diagnostics();
    let failed = diagnostics.iter().any(|found| found.severity == Severity::Error);
    Checked { catalog: (!failed).then_some(catalog), diagnostics }
}

/// The same for a host that was asked to take files: the catalog when they can be taken, and every
/// mistake as the core tells it.
pub fn check_files(files: &[ConfigFile], environment: Environment) -> (Option<Catalog>, Vec<Problem>) {
    let source = |file: &ConfigFile| Source { name: file.name.clone(), text: file.text.clone() };
    let sources: Vec<Source> = files.iter().map(source).collect();
    let Checked { catalog, diagnostics } = check(&sources, Some(environment));
    (catalog, diagnostics.into_iter().map(Problem::from).collect())
}

/// The version of such files: the first 12 hex digits of the SHA-256 of their texts, in their order.
pub fn version(sources: &[Source]) -> String {
    compile::version(sources)
}

/// A YAML file as JSON, as it is read here: for tools that check it by [`json_schema`]. `None`
/// when it is no YAML.
pub fn to_json(text: &str) -> Option<serde_json::Value> {
    let mut report = Report::default();
    Some(yaml::read(0, text, &mut report)?.to_json())
}
