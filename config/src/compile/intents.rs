//! Which profile answers which intent.

use std::collections::BTreeMap;

use minigate_core::policy::catalog::Intent;

use super::{Names, expect_known, notify::ways, number, rollout::rollout};
use crate::{
    diagnostic::{Place, Report, shown},
    yaml::{Entry, Node},
};

/// The keys of `routing` that are no intents.
const SECTIONS: &[&str] = &["mini_intents", "defaults"];

/// The intents, wherever they stand.
pub(super) fn entries(root: &Node) -> impl Iterator<Item = &Entry> {
    let routing = root.get("routing");
    let flat = routing.map(Node::entries).unwrap_or_default();
    let mini = routing.and_then(|routing| routing.get("mini_intents")).map(Node::entries).unwrap_or_default();
    flat.iter().filter(|entry| !SECTIONS.contains(&entry.key.as_str())).chain(mini)
}

/// All of them, in order of names.
pub(super) fn intents(root: &Node, names: &Names<'_>, report: &mut Report) -> Vec<Intent> {
    let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
    let mut intents = Vec::new();
    for entry in entries(root) {
        if let Some(first) = seen.insert(&entry.key, entry.place) {
            let message =
                format!("intent {} is given twice: it is already at {}", shown(&entry.key), report.at(first));
            report.error(entry.place, message);
        }
        intents.push(intent(entry, root, names, report));
    }
    intents.sort_by(|a, b| a.name.cmp(&b.name));
    intents
}

fn intent(entry: &Entry, root: &Node, names: &Names<'_>, report: &mut Report) -> Intent {
    let node = &*entry.node;
    let profile = node.get("profile").unwrap_or(node);
    expect_known("profile", profile, &names.profiles, report);
    let mut by_role = Vec::new();
    for role in node.get("roles").map(Node::entries).unwrap_or_default() {
        let name = Node::new(role.place, crate::yaml::Value::Text(role.key.clone()));
        expect_known("role", &name, &names.roles, report);
        expect_known("profile", &role.node, &names.profiles, report);
        by_role.extend(role.node.text().map(|profile| (role.key.clone(), profile.to_owned())));
    }
    let own = profile.text().unwrap_or_default();
    let rollout = node.get("rollout").and_then(|node| rollout(node, &entry.key, own, names, report));
    Intent {
        name: entry.key.clone(),
        profile: own.to_owned(),
        by_role,
        notify: ways(node, root, report),
        max_tokens: number(node, "max_tokens"),
        rollout,
    }
}
