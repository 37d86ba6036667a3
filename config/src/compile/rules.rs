//! What environments and roles may use.

use minigate_core::{
    policy::{
        ContentMode, Environment,
        catalog::{Caps, EnvironmentRules, RoleRules},
        parse_rate,
    },
    seam::Level,
    state::caller::Rate,
};

use super::{Names, number, section_of};
use crate::{
    diagnostic::{Report, instead, shown},
    yaml::{Entry, Node},
};

/// All that are named, in the order of the file.
pub(super) fn environments(root: &Node, names: &Names<'_>, report: &mut Report) -> Vec<EnvironmentRules> {
    let rules = |entry| environment(entry, names, report);
    section_of(root, "environments").iter().filter_map(rules).collect()
}

fn environment(entry: &Entry, names: &Names<'_>, report: &mut Report) -> Option<EnvironmentRules> {
    let node = &*entry.node;
    let environment = match entry.key.as_str() {
        "dev" => Environment::Dev,
        "staging" => Environment::Staging,
        "prod" => Environment::Prod,
        _ => return None,
    };
    let allowed = node.get("allowed_profiles").map(Node::items);
    for profile in allowed.unwrap_or_default() {
        if let Some(name) = profile.text()
            && !names.profiles.contains_key(name)
        {
            report.warning(
                profile.place,
                format!("{} is allowed, and there is no such profile yet", shown(name)),
                instead(name, names.profiles.keys().copied(), "profiles"),
            );
        }
    }
    let limits = node.get("limits");
    Some(EnvironmentRules {
        environment,
        allowed_profiles: allowed
            .map(|items| items.iter().filter_map(|item| item.text().map(str::to_owned)).collect()),
        log_level: node.get("log_level").and_then(|level| level_of(level.text()?)),
        rate: limits.and_then(rate),
        daily: limits.map(caps).filter(|caps| *caps != Caps::default()),
        content: node.get("content_check").and_then(|mode| content_of(mode.text()?)),
    })
}

fn level_of(text: &str) -> Option<Level> {
    match text {
        "debug" => Some(Level::Debug),
        "info" => Some(Level::Info),
        "warn" => Some(Level::Warn),
        "error" => Some(Level::Error),
        _ => None,
    }
}

fn content_of(text: &str) -> Option<ContentMode> {
    match text {
        "off" => Some(ContentMode::Off),
        "log" => Some(ContentMode::Log),
        "enforce" => Some(ContentMode::Enforce),
        _ => None,
    }
}

/// The roles, and as the role without a name what `limits` gives everybody.
pub(super) fn roles(root: &Node) -> Vec<RoleRules> {
    let everybody = root.get("limits").map(|limits| role(String::new(), limits));
    let everybody = everybody.filter(|rules| *rules != RoleRules::default());
    let named = section_of(root, "roles").iter().map(|entry| role(entry.key.clone(), &entry.node));
    everybody.into_iter().chain(named).collect()
}

fn role(name: String, node: &Node) -> RoleRules {
    RoleRules {
        name,
        rate: rate(node),
        weight: number(node, "weight"),
        daily: caps(node),
        daily_together: node.get("together").map(caps).unwrap_or_default(),
        max_cost: number(node, "max_cost"),
    }
}

fn rate(node: &Node) -> Option<Rate> {
    let rate = node.get("rate")?;
    let text = rate.integer().map(|number| number.to_string());
    parse_rate(text.as_deref().or_else(|| rate.text())?)?
}

fn caps(node: &Node) -> Caps {
    Caps { requests: number(node, "requests_per_day"), tokens: number(node, "tokens_per_day") }
}
