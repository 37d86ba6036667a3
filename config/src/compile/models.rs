//! What aliases stand for, and how many turns each runs at once.

use minigate_core::policy::{
    SECRETS,
    catalog::{MOST_REPLICAS, Model, ModelKind, Overflow, Runtime},
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
                runtime: Runtime::default(),
            }),
            None => {
                let known = models.iter().map(|model| model.alias.as_str()).chain(used.iter().copied());
                let help = instead(&entry.key, known, "models");
                report.error_with(entry.place, format!("there is no model {}", shown(&entry.key)), help);
            }
        }
    }
    models.sort_by(|a, b| a.alias.cmp(&b.alias));
    check_fallbacks(root, &models, report);
    models
}

/// A model that stands in for another has a server of its own and is another one.
fn check_fallbacks(root: &Node, models: &[Model], report: &mut Report) {
    let own = |model: &&Model| matches!(model.kind, ModelKind::OpenAi { .. });
    for entry in section_of(root, "models") {
        let Some(node) = entry.node.get("fallback") else { continue };
        let name = node.text().unwrap_or_default();
        if name == entry.key {
            report.error(node.place, "a model cannot stand in for itself");
        } else if !models.iter().filter(own).any(|model| model.alias == name) {
            let known = models.iter().filter(own).map(|model| model.alias.as_str());
            let help = instead(name, known.filter(|alias| *alias != entry.key), "models");
            let message = format!("there is no openai_compatible model {}", shown(name));
            report.error_with(node.place, message, help);
        }
    }
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
    let runtime = runtime(node, report);
    Model {
        alias: entry.key.clone(),
        kind,
        slots: None,
        timeout_ms: number(node, "timeout_ms"),
        side_effects,
        runtime,
    }
}

fn runtime(node: &Node, report: &mut Report) -> Runtime {
    let replicas = node.get("replicas").map(Node::items).unwrap_or_default();
    if let Some(extra) = replicas.get(usize::from(MOST_REPLICAS) - 1) {
        report.error(extra.place, format!("a model has at most {MOST_REPLICAS} servers"));
    }
    Runtime {
        replicas: replicas.iter().map(|replica| base_url(Some(replica), "replicas", report)).collect(),
        context_tokens: number(node, "context_tokens"),
        max_tokens: number(node, "max_tokens"),
        on_overflow: match node.get("on_overflow").and_then(Node::text) {
            Some("trim") => Overflow::Trim,
            _ => Overflow::Refuse,
        },
        fallback: text(node, "fallback"),
        warm_up: node.get("warm_up").and_then(Node::boolean).unwrap_or(false),
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

fn base_url(node: Option<&Node>, key: &str, report: &mut Report) -> String {
    let url = node.and_then(Node::text).unwrap_or_default().trim().trim_end_matches('/').to_owned();
    if let Some(place) = node.map(|node| node.place)
        && let Some(problem) = url::problem(&url)
    {
        // Not quoted: it may hold a credential.
        report.error(place, format!("`{key}` {problem}"));
    }
    url
}

fn openai(node: &Node, report: &mut Report) -> ModelKind {
    let base_url = base_url(node.get("base_url"), "base_url", report);
    ModelKind::OpenAi {
        base_url,
        api_key: foreign_secret(node, "api_key", "the model's", report),
        model: text(node, "model").unwrap_or_default(),
    }
}
