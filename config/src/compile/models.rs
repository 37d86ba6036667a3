//! What aliases stand for, and how many turns each runs at once.

use minigate_core::policy::{
    SECRETS,
    catalog::{Model, ModelKind},
    is_agent_id,
};

use super::{Names, number, section_of, text};
use crate::{
    diagnostic::{Report, instead, shown},
    secrets, url,
    yaml::{Entry, Node},
};

/// All of them, in order of aliases.
pub(super) fn models(root: &Node, report: &mut Report) -> Vec<Model> {
    let mut models: Vec<Model> =
        section_of(root, "models").iter().map(|entry| model(entry, report)).collect();
    let used = used(root);
    let slots = root.get("limits").and_then(|limits| limits.get("max_concurrency_per_model"));
    for entry in slots.map(Node::entries).unwrap_or_default() {
        let slots = entry.node.integer().and_then(|slots| slots.try_into().ok());
        match models.iter_mut().find(|model| model.alias == entry.key) {
            Some(model) => model.slots = slots,
            // OpenClaw's default agent, under this name.
            None if used.binary_search(&entry.key.as_str()).is_ok() => models.push(Model {
                alias: entry.key.clone(),
                kind: ModelKind::OpenClaw { agent: None, model: None },
                slots,
                timeout_ms: None,
                side_effects: true,
            }),
            None => {
                let known = models.iter().map(|model| model.alias.as_str()).chain(used.iter().copied());
                let help = instead(&entry.key, known, "models");
                report.error_with(entry.place, format!("there is no model {}", shown(&entry.key)), help);
            }
        }
    }
    models.sort_by(|a, b| a.alias.cmp(&b.alias));
    models
}

/// The aliases that profiles and defaults name.
fn used(root: &Node) -> Vec<&str> {
    let default = root.get("routing").and_then(|routing| routing.get("defaults")?.get("model"));
    let profiles = section_of(root, "profiles").iter().filter_map(|entry| entry.node.get("model"));
    let mut used: Vec<&str> = profiles.chain(default).filter_map(Node::text).collect();
    used.sort_unstable();
    used.dedup();
    used
}

/// An alias that has no entry is OpenClaw's default agent: right for a first try, and worth a
/// word.
pub(super) fn mention(alias: &Node, names: &Names<'_>, report: &mut Report) {
    let Some(name) = alias.text().filter(|name| !names.models.contains_key(name)) else { return };
    let help = if names.models.is_empty() {
        "say under `models` what it stands for".to_owned()
    } else {
        instead(name, names.models.keys().copied(), "models")
    };
    report.warning(
        alias.place,
        format!("{} is not under `models`: the default agent's own model answers", shown(name)),
        help,
    );
}

fn model(entry: &Entry, report: &mut Report) -> Model {
    let node = &*entry.node;
    let kind = match node.get("kind").and_then(Node::text) {
        Some("openai_compatible") => openai(node, report),
        _ => openclaw(node, report),
    };
    let side_effects = match node.get("side_effects").and_then(Node::text) {
        Some(word) => word == "possible",
        // An agent has tools, and a model alone has none.
        None => matches!(kind, ModelKind::OpenClaw { .. }),
    };
    Model {
        alias: entry.key.clone(),
        kind,
        slots: None,
        timeout_ms: number(node, "timeout_ms"),
        side_effects,
    }
}

fn openclaw(node: &Node, report: &mut Report) -> ModelKind {
    if let Some(agent) = node.get("agent")
        && agent.text().is_some_and(|id| !is_agent_id(id))
    {
        report.error(agent.place, "`agent` must be letters, digits, `_` and `-`, at most 64");
    }
    ModelKind::OpenClaw { agent: text(node, "agent"), model: text(node, "model") }
}

/// The setting that holds somebody else's key, which is sent there: none of the gateway's own.
pub(super) fn foreign_secret(node: &Node, key: &str, whose: &str, report: &mut Report) -> Option<String> {
    let secret = node.get(key)?;
    let name = secrets::reference(secret.text()?)?;
    if SECRETS.contains(&name) {
        report.error_with(
            secret.place,
            format!("{name} is this gateway's own secret, and would be sent to {whose} server"),
            format!("give {whose} key a name of its own, as ${{ITS_KEY}}"),
        );
    }
    Some(name.to_owned())
}

fn openai(node: &Node, report: &mut Report) -> ModelKind {
    let base_url = text(node, "base_url").unwrap_or_default().trim().trim_end_matches('/').to_owned();
    if let Some(place) = node.get("base_url").map(|url| url.place)
        && let Some(problem) = url::problem(&base_url)
    {
        // Not quoted: it may hold a credential.
        report.error(place, format!("`base_url` {problem}"));
    }
    ModelKind::OpenAi {
        base_url,
        api_key: foreign_secret(node, "api_key", "the model's", report),
        model: text(node, "model").unwrap_or_default(),
    }
}
