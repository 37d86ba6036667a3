//! What a value may be: one description from which come the check, the list of valid names
//! and the JSON Schema, so that the three cannot differ.

use minigate_core::policy::{is_role, parse_rate};

use crate::{
    diagnostic::{Place, Report, instead, nearest, shown},
    secrets,
    yaml::{Entry, Node, Value},
};

/// What a value may be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    /// A text; at least one character.
    Text,
    /// A name of something in this configuration: letters, digits, `_`, `-`, `.`, `/` and `:`.
    Name,
    /// A role's name, as it stands in tokens.
    Role,
    /// A tool's name, as models call it.
    Tool,
    /// A whole number within bounds.
    Integer(i64, i64),
    /// A number within bounds.
    Decimal(f64, f64),
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A time with its unit, within bounds in seconds.
    Duration(u32, u32),
    /// `per_minute` or `per_minute/burst`.
    Rate,
    /// A secret by name.
    Secret,
    /// Any number of these.
    List(&'static Self),
    /// A mapping whose names are free, each with one of these. The names of two files come
    /// together.
    Named(&'static Self, &'static Self),
    /// A mapping with these keys and no others.
    Object(&'static [Key]),
    /// The same, and the keys of two files come together.
    Section(&'static [Key]),
    /// A section beside whose keys there are free names.
    Open(&'static [Key], &'static Self),
    /// A mapping whose `kind` says which keys it has.
    Kinds(&'static [(&'static str, &'static [Key])]),
    /// The first of these that a value of its kind can be.
    Either(&'static [Self]),
    /// Any mapping: a JSON Schema.
    Free,
}

/// A key of a mapping.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key {
    pub(crate) name: &'static str,
    pub(crate) shape: Shape,
    pub(crate) required: bool,
    /// What it is for, in one line: editors show it.
    pub(crate) about: &'static str,
}

pub(crate) const fn key(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: false, about }
}

pub(crate) const fn required(name: &'static str, shape: Shape, about: &'static str) -> Key {
    Key { name, shape, required: true, about }
}

/// The longest name.
pub(crate) const MAX_NAME: usize = 64;

/// Whether it can name a profile, an intent, a model or a schema.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-./:".contains(&b))
}

/// Whether it can name a tool: what every model's API takes.
fn is_tool(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// `90s`, `10m`, `1h` or `2d`, in seconds.
pub(crate) fn seconds(text: &str) -> Option<u32> {
    let (number, unit) = text.trim().split_at_checked(text.trim().len().checked_sub(1)?)?;
    let unit = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return None,
    };
    number.parse::<u32>().ok()?.checked_mul(unit)
}

impl Shape {
    /// For messages: what it wants.
    pub(crate) fn wanted(self) -> String {
        match self {
            Self::Text => "a text".to_owned(),
            Self::Name => "a name of at most 64 letters, digits, `_`, `-`, `.`, `/` and `:`".to_owned(),
            Self::Role => "a role: at most 32 small letters, digits, `_` and `-`".to_owned(),
            Self::Tool => "a tool's name: at most 64 small letters, digits and `_`".to_owned(),
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::Decimal(least, most) => format!("a number from {least} to {most}"),
            Self::Boolean => "`true` or `false`".to_owned(),
            Self::Word(words) => format!("one of {}", words.join(", ")),
            Self::Duration(least, most) => {
                format!("a time with its unit, as 90s, 10m, 1h or 2d, from {least}s to {most}s")
            }
            Self::Rate => "`per_minute` or `per_minute/burst`, as \"60/20\"".to_owned(),
            Self::Secret => "a secret by its name, as ${LOCAL_MODEL_API_KEY}".to_owned(),
            Self::List(item) => format!("a list, each of it {}", item.wanted()),
            Self::Named(..)
            | Self::Object(_)
            | Self::Section(_)
            | Self::Open(..)
            | Self::Kinds(_)
            | Self::Free => "a mapping".to_owned(),
            Self::Either(shapes) => {
                let wanted: Vec<String> = shapes.iter().map(|shape| shape.wanted()).collect();
                wanted.join(", or ")
            }
        }
    }

    /// Whether a value is of the kind that this shape is about, right or wrong.
    fn is_about(self, node: &Node) -> bool {
        match self {
            Self::Text
            | Self::Name
            | Self::Role
            | Self::Tool
            | Self::Word(_)
            | Self::Duration(..)
            | Self::Secret => node.text().is_some(),
            Self::Rate => node.text().is_some() || node.integer().is_some(),
            Self::Integer(..) => node.integer().is_some(),
            Self::Decimal(..) => node.decimal().is_some(),
            Self::Boolean => node.boolean().is_some(),
            Self::List(_) => matches!(node.value, Value::List(_)),
            Self::Named(..)
            | Self::Object(_)
            | Self::Section(_)
            | Self::Open(..)
            | Self::Kinds(_)
            | Self::Free => {
                matches!(node.value, Value::Map(_))
            }
            Self::Either(shapes) => shapes.iter().any(|shape| shape.is_about(node)),
        }
    }

    /// The shape of an entry of a mapping of this shape.
    pub(crate) fn of(self, name: &str) -> Option<Self> {
        let among = |keys: &'static [Key]| keys.iter().find(|key| key.name == name).map(|key| key.shape);
        match self {
            Self::Named(_, each) => Some(*each),
            Self::Object(keys) | Self::Section(keys) => among(keys),
            Self::Open(keys, each) => among(keys).or(Some(*each)),
            _ => None,
        }
    }

    /// Whether two files may each give a part of it.
    pub(crate) fn comes_together(self) -> bool {
        matches!(self, Self::Named(..) | Self::Section(_) | Self::Open(..))
    }
}

/// Checks a value under a key. An empty section is no mistake.
pub(crate) fn check(label: &str, node: &Node, shape: Shape, report: &mut Report) {
    if matches!(node.value, Value::Null) && shape.comes_together() {
        return;
    }
    if let Shape::Secret = shape {
        // Whatever its kind: its value is not for a message.
        return check_secret(label, node, report);
    }
    if !shape.is_about(node) {
        return wrong(label, node, shape, report);
    }
    match shape {
        Shape::Either(shapes) => {
            if let Some(shape) = shapes.iter().find(|shape| shape.is_about(node)) {
                check(label, node, *shape, report);
            }
        }
        Shape::List(item) => {
            for (at, node) in node.items().iter().enumerate() {
                check(&format!("{label}[{at}]"), node, *item, report);
            }
        }
        Shape::Object(keys) | Shape::Section(keys) => check_keys(label, node, keys, report),
        Shape::Named(name, each) => {
            node.entries().iter().for_each(|entry| check_named(entry, *name, *each, report))
        }
        Shape::Open(keys, each) => check_open(node, keys, *each, report),
        Shape::Kinds(kinds) => check_kinds(label, node, kinds, report),
        _ if !is_valid(node, shape) => wrong(label, node, shape, report),
        _ => {}
    }
}

/// Whether a scalar of the right kind is within its bounds.
fn is_valid(node: &Node, shape: Shape) -> bool {
    let text = || node.text().unwrap_or_default();
    match shape {
        Shape::Text => !text().trim().is_empty(),
        Shape::Name => is_name(text()),
        Shape::Role => is_role(text()),
        Shape::Tool => is_tool(text()),
        Shape::Integer(least, most) => node.integer().is_some_and(|number| (least..=most).contains(&number)),
        Shape::Decimal(least, most) => node.decimal().is_some_and(|number| (least..=most).contains(&number)),
        Shape::Word(words) => words.contains(&text()),
        Shape::Duration(least, most) => seconds(text()).is_some_and(|time| (least..=most).contains(&time)),
        Shape::Rate => {
            let text = node.integer().map_or_else(|| text().to_owned(), |number| number.to_string());
            matches!(parse_rate(&text), Some(Some(_)))
        }
        _ => true,
    }
}

fn wrong(label: &str, node: &Node, shape: Shape, report: &mut Report) {
    let found = node.described();
    let message = format!("`{label}` is {found}; it must be {}", shape.wanted());
    let quotable = matches!(shape, Shape::Text | Shape::Name | Shape::Word(_) | Shape::Role | Shape::Tool)
        && !matches!(node.value, Value::List(_) | Value::Map(_) | Value::Null | Value::Text(_));
    let near = match (shape, node.text()) {
        (Shape::Word(words), Some(text)) => nearest(text, words.iter().copied()),
        _ => None,
    };
    match near {
        Some(near) => report.error_with(node.place, message, format!("did you mean `{near}`?")),
        None if quotable => report.error_with(node.place, message, "write it in quotes"),
        None => report.error(node.place, message),
    }
}

fn check_keys(label: &str, node: &Node, keys: &'static [Key], report: &mut Report) {
    for entry in node.entries() {
        match keys.iter().find(|key| key.name == entry.key) {
            Some(key) => check(key.name, &entry.node, key.shape, report),
            None => unknown(&entry.key, entry.place, keys, report),
        }
    }
    for key in keys.iter().filter(|key| key.required && node.get(key.name).is_none()) {
        report.error_with(
            node.place,
            format!("`{label}` has no `{}`", key.name),
            format!("{}: {}", key.name, key.shape.wanted()),
        );
    }
}

fn unknown(name: &str, place: Place, keys: &'static [Key], report: &mut Report) {
    let help = instead(name, keys.iter().map(|key| key.name), "valid keys");
    report.error_with(place, format!("unknown key {}", shown(name)), help);
}

fn check_named(entry: &Entry, name: Shape, each: Shape, report: &mut Report) {
    let key = Node::new(entry.place, Value::Text(entry.key.clone()));
    if !is_valid(&key, name) {
        let message = format!("{} is no valid name", shown(&entry.key));
        let help = match (name, &entry.key) {
            (Shape::Word(words), key) => instead(key, words.iter().copied(), "valid names"),
            _ => name.wanted(),
        };
        return report.error_with(entry.place, message, help);
    }
    check(&entry.key, &entry.node, each, report);
}

fn check_open(node: &Node, keys: &'static [Key], each: Shape, report: &mut Report) {
    for entry in node.entries() {
        let names = keys.iter().map(|key| key.name);
        match keys.iter().find(|key| key.name == entry.key) {
            Some(key) => check(key.name, &entry.node, key.shape, report),
            // A section's name with a slip would else be taken for a free name.
            None if !each.is_about(&entry.node) || nearest_is_section(entry, keys) => {
                unknown_or_wrong(entry, names, each, report);
            }
            None => check_named(entry, Shape::Name, each, report),
        }
    }
}

fn nearest_is_section(entry: &Entry, keys: &'static [Key]) -> bool {
    let named = nearest(&entry.key, keys.iter().map(|key| key.name));
    named.is_some() && matches!(entry.node.value, Value::Map(_)) && entry.node.get("profile").is_none()
}

fn unknown_or_wrong(
    entry: &Entry,
    names: impl Iterator<Item = &'static str> + Clone,
    each: Shape,
    report: &mut Report,
) {
    match nearest(&entry.key, names) {
        Some(near) => report.error_with(
            entry.place,
            format!("unknown key {}", shown(&entry.key)),
            format!("did you mean `{near}`?"),
        ),
        None => wrong(&entry.key, &entry.node, each, report),
    }
}

fn check_kinds(
    label: &str,
    node: &Node,
    kinds: &'static [(&'static str, &'static [Key])],
    report: &mut Report,
) {
    let names = || kinds.iter().map(|(name, _)| *name);
    let Some(kind) = node.get("kind") else {
        let help = format!("kind: one of {}", names().collect::<Vec<_>>().join(", "));
        return report.error_with(node.place, format!("`{label}` has no `kind`"), help);
    };
    let Some((_, keys)) = kinds.iter().find(|(name, _)| Some(*name) == kind.text()) else {
        let help = instead(kind.text().unwrap_or_default(), names(), "kinds");
        return report.error_with(kind.place, format!("`kind` is {}", kind.described()), help);
    };
    check_keys(label, node, keys, report);
}

fn check_secret(label: &str, node: &Node, report: &mut Report) {
    if node.text().and_then(secrets::reference).is_none() {
        report.error_with(
            node.place,
            format!("`{label}` holds a value that is no name of a secret; it is not shown"),
            "write ${NAME}, and set NAME where the gateway runs; a key that stood in a file should be replaced",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in
            [("90s", Some(90)), ("10m", Some(600)), ("1h", Some(3_600)), ("2d", Some(172_800))]
        {
            assert_eq!(seconds(text), expected);
        }
        for text in ["", "h", "10", "1w", "-1h", "99999999d", "1时"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
