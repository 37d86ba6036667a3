//! The checked tree into a [`Catalog`], and the mistakes that one value alone does not show:
//! names of nothing, circles, templates.
//!
//! It reads whatever the tree has and expects nothing of it, so that the mistakes of a file
//! whose form is wrong too are all found at once.

mod channels;
mod intents;
mod models;
mod notify;
mod profiles;
mod redaction;
mod rollout;
mod rules;
mod tools;

use std::collections::BTreeMap;

use minigate_core::policy::{
    Environment,
    catalog::{Catalog, Curated, Schema},
    question,
    routing::{self, Asked, NoProfile},
    schema::Schema as JsonSchema,
};
use sha2::{Digest as _, Sha256};

use crate::{
    Source,
    diagnostic::{Place, Report, instead, shown},
    yaml::{Entry, Node},
};

/// The names of a configuration, and where they are given.
struct Names<'t> {
    profiles: BTreeMap<&'t str, Place>,
    schemas: BTreeMap<&'t str, Place>,
    roles: BTreeMap<&'t str, Place>,
    models: BTreeMap<&'t str, Place>,
    tools: BTreeMap<&'t str, Place>,
}

/// Compiles a whole configuration.
pub(crate) fn compile(root: &Node, environment: Option<Environment>, report: &mut Report) -> Catalog {
    let names = Names {
        profiles: names(root, "profiles"),
        schemas: names(root, "schemas"),
        roles: names(root, "roles"),
        models: names(root, "models"),
        tools: names(root, "tools"),
    };
    let default_model = root.get("routing").and_then(|routing| routing.get("defaults")?.get("model"));
    let mut catalog = Catalog {
        profiles: profiles::profiles(root, &names, default_model.and_then(Node::text), report),
        intents: intents::intents(root, &names, report),
        models: models::models(root, report),
        schemas: schemas(root, report),
        tools: tools::tools(root, report),
        turns: tools::turns(root),
        audit: tools::audit(root),
        redaction: redaction::rules(root, report),
        notify: notify::notify(root, report),
        channels: channels::channels(root, &names, report),
        targets: channels::targets(root, report),
        environments: rules::environments(root, &names, report),
        roles: rules::roles(root),
        default_model: default_model.and_then(Node::text).map(str::to_owned),
        ..Catalog::default()
    };
    if let Some(node) = default_model {
        models::mention(node, &names, report);
    }
    tools::check_kept(&catalog.profiles, &catalog.tools, root, report);
    catalog.faq = faq(root, &catalog, report);
    if let Some(environment) = environment {
        check_environment(root, &catalog, environment, report);
    }
    catalog
}

/// The first 12 hex digits of the SHA-256 of the sources, each preceded by its length.
pub(crate) fn version(sources: &[Source]) -> String {
    let mut sha = Sha256::new();
    for source in sources {
        sha.update((source.text.len() as u64).to_le_bytes());
        sha.update(source.text.as_bytes());
    }
    sha.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

fn names<'t>(root: &'t Node, section: &str) -> BTreeMap<&'t str, Place> {
    section_of(root, section).iter().map(|entry| (entry.key.as_str(), entry.place)).collect()
}

/// The entries of a section; none when it is not there.
fn section_of<'t>(root: &'t Node, section: &str) -> &'t [Entry] {
    root.get(section).map(Node::entries).unwrap_or_default()
}

/// A whole number that fits; its shape has said so already if it does not.
fn number<T: TryFrom<i64>>(node: &Node, key: &str) -> Option<T> {
    node.get(key)?.integer()?.try_into().ok()
}

fn text(node: &Node, key: &str) -> Option<String> {
    node.get(key)?.text().map(str::to_owned)
}

fn is(node: &Node, key: &str) -> bool {
    node.get(key).and_then(Node::boolean).unwrap_or_default()
}

/// Reports a name of nothing.
fn expect_known(what: &str, node: &Node, known: &BTreeMap<&str, Place>, report: &mut Report) {
    if let Some(name) = node.text()
        && !known.contains_key(name)
    {
        let help = instead(name, known.keys().copied(), &format!("{what}s"));
        report.error_with(node.place, format!("there is no {what} {}", shown(name)), help);
    }
}

/// A JSON Schema as JSON text: it is written as one, or as YAML.
fn schema_text(node: &Node) -> String {
    match node.text() {
        Some(text) => text.trim().to_owned(),
        None => node.to_json().to_string(),
    }
}

fn schemas(root: &Node, report: &mut Report) -> Vec<Schema> {
    let schema = |entry: &Entry| {
        let text = schema_text(&entry.node);
        if let Err(error) = JsonSchema::check(&text) {
            report.error(entry.node.place, format!("schema {}: {error}", shown(&entry.key)));
        }
        Schema { name: entry.key.clone(), text }
    };
    let mut schemas: Vec<Schema> = section_of(root, "schemas").iter().map(schema).collect();
    schemas.sort_by(|a, b| a.name.cmp(&b.name));
    schemas
}

fn faq(root: &Node, catalog: &Catalog, report: &mut Report) -> Vec<Curated> {
    let intents: BTreeMap<&str, Place> =
        catalog.intents.iter().map(|intent| (intent.name.as_str(), Place::default())).collect();
    let items = root.get("faq").map(Node::items).unwrap_or_default();
    let mut answered: BTreeMap<String, Place> = BTreeMap::new();
    items.iter().map(|item| curated(item, &intents, &mut answered, report)).collect()
}

fn curated(
    item: &Node,
    intents: &BTreeMap<&str, Place>,
    answered: &mut BTreeMap<String, Place>,
    report: &mut Report,
) -> Curated {
    if let Some(intent) = item.get("intent") {
        expect_known("intent", intent, intents, report);
    }
    if let Some(questions) = item.get("questions")
        && questions.items().is_empty()
    {
        report.error(questions.place, "`questions` names no question");
    }
    let intent = text(item, "intent").unwrap_or_default();
    let mut keys = Vec::new();
    for node in item.get("questions").map(Node::items).unwrap_or_default() {
        let Some(words) = node.text() else { continue };
        let Some(key) = question::curated(&intent, words) else {
            report.error_with(node.place, "nobody can ask this", "a question has a word and is short");
            continue;
        };
        if let Some(first) = answered.insert(key.clone(), node.place) {
            let message = format!("this question is answered twice: it is already at {}", report.at(first));
            report.error(node.place, message);
        }
        keys.push(key);
    }
    Curated { intent, keys, answer: text(item, "answer").unwrap_or_default().trim_end().to_owned() }
}

/// What nobody could use in this environment.
fn check_environment(root: &Node, catalog: &Catalog, environment: Environment, report: &mut Report) {
    for entry in intents::entries(root) {
        let asked = Asked { intent: &entry.key, role: "", environment, wanted: None, candidate: None };
        if routing::choose(catalog, asked) == Err(NoProfile::NotAllowed) {
            report.warning(
                entry.place,
                format!("in {} nothing answers `{}`", environment.name(), entry.key),
                format!("environments.{}.allowed_profiles has no version of its profile", environment.name()),
            );
        }
    }
}
