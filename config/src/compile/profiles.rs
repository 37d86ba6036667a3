//! Profiles: prompts, fields, and whom they refer to.

use std::collections::{BTreeMap, BTreeSet};

use minigate_core::policy::{
    Memory,
    catalog::{Cache, Field, FieldKind, LongInput, Profile, Slot, usual_fields},
};

use super::{Names, expect_known, is, models, number, section_of, text, tools};
use crate::{
    diagnostic::{Place, Report, instead, shown},
    grammar::MAX_INTEGER,
    shape::seconds,
    yaml::{Entry, Node, Value},
};

/// The most characters of the text, where a profile says nothing.
const MAX_CHARS: u32 = 20_000;
/// Of another field.
const MAX_FIELD_CHARS: u32 = 2_000;
/// Names that a request uses for something else.
const TAKEN: &[&str] = &["history"];

/// All of them, in order of names.
pub(super) fn profiles(
    root: &Node,
    names: &Names<'_>,
    default_model: Option<&str>,
    report: &mut Report,
) -> Vec<Profile> {
    let entries = section_of(root, "profiles");
    let mut profiles: Vec<Profile> =
        entries.iter().map(|entry| profile(entry, names, default_model, report)).collect();
    check_circles(entries, "fallback", report);
    check_circles(entries, "draft", report);
    profiles.sort_by(|a, b| a.name.cmp(&b.name));
    profiles
}

fn profile(entry: &Entry, names: &Names<'_>, default_model: Option<&str>, report: &mut Report) -> Profile {
    let node = &*entry.node;
    check_references(entry, names, default_model, report);
    check_fit(node, report);
    let max_chars = number(node, "max_chars").unwrap_or(MAX_CHARS);
    let fields =
        node.get("input").map_or_else(|| usual_fields(max_chars), |input| fields(input, max_chars, report));
    let cache = node.get("cache").and_then(|cache| match cache.text() {
        Some(ttl) => Some(Cache { ttl_s: seconds(ttl)?, shared: false }),
        None => Some(Cache { ttl_s: seconds(cache.get("ttl")?.text()?)?, shared: is(cache, "shared") }),
    });
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "from 0 to 2000 after its check"
    )]
    let milli = |temperature: f64| (temperature.clamp(0.0, 2.0) * 1000.0).round() as u16;
    let roles = node.get("roles").map(Node::items).unwrap_or_default();
    let (tools, max_tool_calls) = tools::of_profile(node, names, report);
    Profile {
        name: entry.key.clone(),
        model: text(node, "model").or_else(|| default_model.map(str::to_owned)).unwrap_or_default(),
        system_prompt: text(node, "system_prompt").unwrap_or_default().trim_end().to_owned(),
        prompt: node.get("prompt").map(|prompt| template(prompt, &fields, report)).unwrap_or_default(),
        max_tokens: number(node, "max_tokens"),
        temperature_milli: node.get("temperature").and_then(Node::decimal).map(milli),
        timeout_ms: number(node, "timeout_ms"),
        fallback: text(node, "fallback"),
        draft: text(node, "draft"),
        memory: match node.get("memory").and_then(Node::text) {
            Some("gateway") => Memory::Gateway,
            _ => Memory::Client,
        },
        cache,
        sync_deadline_ms: number(node, "sync_deadline_ms"),
        roles: roles.iter().filter_map(|role| role.text().map(str::to_owned)).collect(),
        json: node.get("schema").is_some() || node.get("output").and_then(Node::text) == Some("json"),
        schema: text(node, "schema"),
        redact: is(node, "redact"),
        context_tokens: number(node, "context_tokens"),
        long_input: match node.get("long_input").and_then(Node::text) {
            Some("cut") => LongInput::Cut,
            _ => LongInput::Refuse,
        },
        max_chars,
        cost: number(node, "cost").unwrap_or(1),
        attachments: is(node, "attachments"),
        tools,
        max_tool_calls,
        fields,
    }
}

fn check_references(entry: &Entry, names: &Names<'_>, default_model: Option<&str>, report: &mut Report) {
    let node = &*entry.node;
    match node.get("model") {
        Some(model) => models::mention(model, names, report),
        None if default_model.is_none() && matches!(node.value, Value::Map(_)) => report.error_with(
            entry.place,
            format!("profile {} has no model", shown(&entry.key)),
            "give it `model: ALIAS`, or all profiles `routing: {defaults: {model: ALIAS}}`",
        ),
        None => {}
    }
    for key in ["fallback", "draft"] {
        if let Some(other) = node.get(key) {
            expect_known("profile", other, &names.profiles, report);
        }
    }
    if let Some(schema) = node.get("schema") {
        expect_known("schema", schema, &names.schemas, report);
    }
    for role in node.get("roles").map(Node::items).unwrap_or_default() {
        expect_known("role", role, &names.roles, report);
    }
}

/// What does not go together.
fn check_fit(node: &Node, report: &mut Report) {
    if let (Some(schema), Some("text")) = (node.get("schema"), node.get("output").and_then(Node::text)) {
        report.error_with(schema.place, "a schema for an answer that is text", "write `output: json`");
    }
    if let Some(cache) = node.get("cache")
        && is(cache, "shared")
        && node.get("memory").and_then(Node::text) == Some("gateway")
    {
        report.error_with(
            cache.place,
            "answers out of a conversation cannot be shared between people",
            "leave `shared` out, or write `memory: client`",
        );
    }
}

fn fields(input: &Node, max_chars: u32, report: &mut Report) -> Vec<Field> {
    let mut fields = Vec::new();
    for entry in input.entries() {
        let is_plain = entry.key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if TAKEN.contains(&entry.key.as_str()) {
            report.error_with(entry.place, format!("`{}` is no field", entry.key), "requests have it always");
        } else if !is_plain {
            let message = format!("{} cannot name a field", shown(&entry.key));
            report.error_with(entry.place, message, "letters, digits and `_`, as in maxBullets");
        }
        fields.push(field(entry, max_chars, report));
    }
    fields
}

fn field(entry: &Entry, max_chars: u32, report: &mut Report) -> Field {
    let node = &*entry.node;
    let kind = node.get("type").unwrap_or(node);
    let usual_chars = if entry.key == "text" { max_chars } else { MAX_FIELD_CHARS };
    let kind = match &kind.value {
        Value::List(items) => {
            if items.is_empty() {
                report.error(kind.place, format!("`{}` has no choices", entry.key));
            }
            FieldKind::Choice(items.iter().filter_map(|item| item.text().map(str::to_owned)).collect())
        }
        Value::Text(name) if name == "integer" => FieldKind::Integer {
            min: number(node, "min").unwrap_or(-MAX_INTEGER),
            max: number(node, "max").unwrap_or(MAX_INTEGER),
        },
        Value::Text(name) if name == "boolean" => FieldKind::Boolean,
        _ => FieldKind::Text { max_chars: number(node, "max_chars").unwrap_or(usual_chars) },
    };
    if let FieldKind::Integer { min, max } = kind
        && min > max
    {
        report.error(node.place, format!("`{}`: no number is from {min} to {max}", entry.key));
    }
    let belongs: &[&str] = match kind {
        FieldKind::Text { .. } => &["max_chars"],
        FieldKind::Integer { .. } => &["min", "max"],
        FieldKind::Boolean | FieldKind::Choice(_) => &[],
    };
    for key in node.entries().iter().filter(|key| ["max_chars", "min", "max"].contains(&key.key.as_str())) {
        if !belongs.contains(&key.key.as_str()) {
            report.error(key.place, format!("`{}` means nothing for a field of this type", key.key));
        }
    }
    let required = node.get("required").and_then(Node::boolean);
    Field { name: entry.key.clone(), kind, required: required.unwrap_or(entry.key == "text") }
}

/// A template's parts: `{{field}}` between the operator's words.
fn template(node: &Node, fields: &[Field], report: &mut Report) -> Vec<Slot> {
    let Some(mut rest) = node.text().map(str::trim_end) else { return Vec::new() };
    let mut slots = Vec::new();
    let mut used = BTreeSet::new();
    while let Some((words, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            report.error_with(node.place, "`{{` without `}}`", "a field is written {{text}}");
            return slots;
        };
        if !words.is_empty() {
            slots.push(Slot::Text(words.to_owned()));
        }
        let name = name.trim();
        if !fields.iter().any(|field| field.name == name) {
            let help = instead(name, fields.iter().map(|field| field.name.as_str()), "fields of `input`");
            report.error_with(
                node.place,
                format!("the template names {}, and no field has that name", shown(name)),
                help,
            );
        }
        used.insert(name);
        slots.push(Slot::Field(name.to_owned()));
        rest = after;
    }
    if !rest.is_empty() {
        slots.push(Slot::Text(rest.to_owned()));
    }
    if !used.contains("text") && fields.iter().any(|field| field.name == "text" && field.required) {
        report.warning(
            node.place,
            "the template leaves out what the person wrote",
            "put {{text}} where it belongs",
        );
    }
    slots
}

/// Profiles that hand a question round.
fn check_circles(entries: &[Entry], key: &str, report: &mut Report) {
    let next: BTreeMap<&str, &Node> =
        entries.iter().filter_map(|entry| Some((entry.key.as_str(), entry.node.get(key)?))).collect();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for entry in entries {
        let mut path: Vec<(&str, Place)> = Vec::new();
        let mut on_path: BTreeSet<&str> = BTreeSet::new();
        let mut at = entry.key.as_str();
        while !done.contains(at)
            && let Some(node) = next.get(at)
        {
            if !on_path.insert(at) {
                let begin = path.iter().position(|(name, _)| *name == at).unwrap_or_default();
                let names: Vec<&str> = path.iter().skip(begin).map(|(name, _)| *name).chain([at]).collect();
                let place = path.get(begin).map(|(_, place)| *place).unwrap_or_default();
                report.error(place, format!("`{key}` goes round in a circle: {}", names.join(" → ")));
                break;
            }
            path.push((at, node.place));
            let Some(to) = node.text() else { break };
            at = to;
        }
        done.extend(on_path);
    }
}
