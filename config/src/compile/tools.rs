//! Tools, and what is kept of turns and calls.

use minigate_core::policy::{
    catalog::{Approval, AuditRules, Profile, Tool, ToolClass, TurnRules},
    schema::Schema as JsonSchema,
};

use super::{Names, expect_known, is, models, number, schema_text, section_of, text};
use crate::{
    diagnostic::{Report, shown},
    shape::seconds,
    url,
    yaml::{Entry, Node},
};

/// The longest that one call may take where a tool says nothing, in milliseconds.
const TIMEOUT_MS: u32 = 10_000;
/// How long an approval is waited for, in seconds.
const APPROVE_WITHIN_S: u32 = 15 * 60;
/// Calls in one turn where a profile says nothing.
const MAX_TOOL_CALLS: u8 = 8;
/// The longest description, in characters: it is sent with every question.
const MAX_DESCRIPTION: usize = 2_000;

/// All of them, in order of names.
pub(super) fn tools(root: &Node, report: &mut Report) -> Vec<Tool> {
    let audited = audit(root).enabled;
    let mut tools: Vec<Tool> =
        section_of(root, "tools").iter().map(|entry| tool(entry, audited, report)).collect();
    tools.sort_by(|a, b| a.name.cmp(&b.name));
    tools
}

fn tool(entry: &Entry, audited: bool, report: &mut Report) -> Tool {
    let node = &*entry.node;
    let class = match node.get("class").and_then(Node::text) {
        Some("read") => ToolClass::Read,
        Some("write") => ToolClass::Write,
        _ => ToolClass::Destructive,
    };
    // A class that is missing or no word has been said.
    if node.get("class").and_then(Node::text).is_some_and(|word| word == class.name()) {
        check_class(entry, class, audited, report);
    }
    let description = text(node, "description").unwrap_or_default().trim().to_owned();
    if let Some(place) = node.get("description").map(|description| description.place)
        && description.chars().count() > MAX_DESCRIPTION
    {
        report.error(place, format!("`description` has at most {MAX_DESCRIPTION} characters"));
    }
    let url = text(node, "url").unwrap_or_default().trim().to_owned();
    if let Some(place) = node.get("url").map(|url| url.place)
        && let Some(problem) = url::problem(&url)
    {
        // Not quoted: it may hold a credential.
        report.error(place, format!("`url` {problem}"));
    }
    let approve_within = node.get("approve_within").and_then(|time| seconds(time.text()?));
    Tool {
        name: entry.key.clone(),
        description,
        parameters: node.get("parameters").map(|node| parameters(node, report)).unwrap_or_default(),
        class,
        url,
        secret: models::foreign_secret(node, "secret", "the tool's", report),
        timeout_ms: number(node, "timeout_ms").unwrap_or(TIMEOUT_MS),
        idempotent: is(node, "idempotent"),
        approve: approval(node, class),
        approve_within_s: approve_within.unwrap_or(APPROVE_WITHIN_S),
    }
}

/// What belongs to one class only.
fn check_class(entry: &Entry, class: ToolClass, audited: bool, report: &mut Report) {
    let node = &*entry.node;
    let name = shown(&entry.key);
    if class == ToolClass::Read {
        for key in ["approve", "approve_within"] {
            if let Some(node) = node.get(key) {
                let message = format!("`{key}` means nothing for a tool of class read");
                report.error_with(node.place, message, "nobody approves what only reads");
            }
        }
    }
    match (class, node.get("allow_destructive")) {
        (ToolClass::Destructive, Some(allowed)) if allowed.boolean() == Some(true) => {
            if !audited {
                report.error_with(
                    allowed.place,
                    format!("tool {name} is destructive, and the audit is off"),
                    "leave out `audit: {enabled: false}`: what cannot be put right is written down",
                );
            }
        }
        (ToolClass::Destructive, _) => report.error_with(
            entry.place,
            format!("tool {name} is destructive, and is not allowed"),
            "write `allow_destructive: true` if models may ask for it",
        ),
        (_, Some(allowed)) => report.error(
            allowed.place,
            format!("`allow_destructive` means nothing for a tool of class {}", class.name()),
        ),
        (_, None) => {}
    }
}

fn approval(node: &Node, class: ToolClass) -> Option<Approval> {
    let usual = match class {
        ToolClass::Read => return None,
        ToolClass::Write => Approval::User,
        ToolClass::Destructive => Approval::UserAndOperator,
    };
    Some(match node.get("approve").and_then(Node::text) {
        Some("user") => Approval::User,
        Some("operator") => Approval::Operator,
        Some("two_operators") => Approval::TwoOperators,
        Some("user_and_operator") => Approval::UserAndOperator,
        _ => usual,
    })
}

/// The JSON Schema of a tool's arguments: of an object, as every model's API wants it.
fn parameters(node: &Node, report: &mut Report) -> String {
    let text = schema_text(node);
    match JsonSchema::check(&text) {
        Err(error) => report.error(node.place, format!("`parameters`: {error}")),
        Ok(()) if !is_of_object(&text) => report.error_with(
            node.place,
            "`parameters` is not a schema of an object",
            "write `type: object`, and each argument under `properties`",
        ),
        Ok(()) => {}
    }
    text
}

fn is_of_object(schema: &str) -> bool {
    let schema = serde_json::from_str::<serde_json::Value>(schema).unwrap_or_default();
    schema.get("type").and_then(serde_json::Value::as_str) == Some("object")
}

/// The tools of a profile, in order of names, and its calls.
pub(super) fn of_profile(node: &Node, names: &Names<'_>, report: &mut Report) -> (Vec<String>, u8) {
    let items = node.get("tools").map(Node::items).unwrap_or_default();
    let mut tools: Vec<String> = Vec::new();
    for item in items {
        expect_known("tool", item, &names.tools, report);
        let Some(name) = item.text() else { continue };
        if tools.iter().any(|known| known == name) {
            report.error(item.place, format!("tool {} is named twice", shown(name)));
        } else {
            tools.push(name.to_owned());
        }
    }
    tools.sort_unstable();
    if let Some(calls) = node.get("max_tool_calls")
        && items.is_empty()
    {
        report.error(calls.place, "`max_tool_calls` means nothing for a profile without `tools`");
    }
    (tools, number(node, "max_tool_calls").unwrap_or(MAX_TOOL_CALLS))
}

/// Reports profiles whose answers are kept although a tool may have acted for them: who finds
/// one would be told of something that was not done again.
pub(super) fn check_kept(profiles: &[Profile], tools: &[Tool], root: &Node, report: &mut Report) {
    let acts = |name: &String| tools.iter().any(|tool| tool.name == *name && tool.class != ToolClass::Read);
    for entry in section_of(root, "profiles") {
        let profile = profiles.iter().find(|profile| profile.name == entry.key);
        if let Some(cache) = entry.node.get("cache")
            && profile.is_some_and(|profile| profile.tools.iter().any(acts))
        {
            report.error_with(
                cache.place,
                "answers of tools that act cannot be kept",
                "leave `cache` out, or offer tools of class read only",
            );
        }
    }
}

/// `turns`.
pub(super) fn turns(root: &Node) -> TurnRules {
    let usual = TurnRules::default();
    let Some(node) = root.get("turns") else { return usual };
    let keep = node.get("keep").and_then(|keep| seconds(keep.text()?));
    TurnRules {
        keep_s: keep.unwrap_or(usual.keep_s),
        timeout_ms: number(node, "timeout_ms").unwrap_or(usual.timeout_ms),
    }
}

/// `audit`.
pub(super) fn audit(root: &Node) -> AuditRules {
    let usual = AuditRules::default();
    let Some(node) = root.get("audit") else { return usual };
    let keep = node.get("keep").and_then(|keep| seconds(keep.text()?));
    AuditRules {
        enabled: node.get("enabled").and_then(Node::boolean).unwrap_or(usual.enabled),
        content: node.get("content").and_then(Node::boolean),
        keep_s: keep.unwrap_or(usual.keep_s),
    }
}
