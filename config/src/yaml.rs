//! YAML as a tree in which everything knows its place.
//!
//! Made of the parser's events rather than of a ready tree: so a key that is given twice is a
//! mistake and not a silent choice, and aliases cannot grow without bound. YAML 1.2's core
//! schema; `<<` merges as everybody expects.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use crate::diagnostic::{Place, Report, shown};

/// The largest file, in bytes.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// How deep it may be.
const MAX_DEPTH: usize = 48;
/// The most nodes, with what aliases stand for: an alias of aliases doubles with each line.
const MAX_NODES: usize = 1_000_000;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) place: Place,
    pub(crate) value: Value,
    /// How many nodes it stands for.
    size: usize,
}

/// What a node is.
#[derive(Debug)]
pub(crate) enum Value {
    Null,
    Boolean(bool),
    Integer(i64),
    Decimal(f64),
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: String,
    /// The key's place.
    pub(crate) place: Place,
    pub(crate) node: Rc<Node>,
}

impl Node {
    pub(crate) fn new(place: Place, value: Value) -> Self {
        let size = match &value {
            Value::List(items) => items.iter().map(|item| item.size).sum(),
            Value::Map(entries) => entries.iter().map(|entry| entry.node.size + 1).sum(),
            _ => 0,
        };
        Self { place, value, size: size + 1 }
    }

    /// The entries of a mapping; of anything else, none.
    pub(crate) fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The items of a list; of anything else, none.
    pub(crate) fn items(&self) -> &[Rc<Self>] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// What stands under a key of a mapping.
    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &*entry.node)
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn decimal(&self) -> Option<f64> {
        match self.value {
            #[allow(clippy::cast_precision_loss, reason = "bounds are small")]
            Value::Integer(number) => Some(number as f64),
            Value::Decimal(number) => Some(number),
            _ => None,
        }
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        match self.value {
            Value::Boolean(value) => Some(value),
            _ => None,
        }
    }

    /// For messages: `the text ...`, `a list`.
    pub(crate) fn described(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_owned(),
            Value::Boolean(value) => format!("`{value}`"),
            Value::Integer(number) => format!("the number {number}"),
            Value::Decimal(number) => format!("the number {number}"),
            Value::Text(text) => shown(text),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// As JSON.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Boolean(value) => (*value).into(),
            Value::Integer(number) => (*number).into(),
            Value::Decimal(number) => (*number).into(),
            Value::Text(text) => text.as_str().into(),
            Value::List(items) => items.iter().map(|item| item.to_json()).collect(),
            Value::Map(entries) => {
                entries.iter().map(|entry| (entry.key.clone(), entry.node.to_json())).collect()
            }
        }
    }
}

/// Reads one file. What cannot be read is reported; `None` when nothing is left, and for an
/// empty file.
pub(crate) fn read(file: usize, text: &str, report: &mut Report) -> Option<Rc<Node>> {
    if text.len() > MAX_BYTES {
        report
            .error(Place { file, line: 1, column: 1 }, format!("the file is larger than {MAX_BYTES} bytes"));
        return None;
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        Reader { file, report, anchors: BTreeMap::new(), open: Vec::new(), root: None, nodes: 0 };
    for event in Parser::new_from_str(text) {
        let (event, span) = match event {
            Ok(next) => next,
            Err(error) => {
                let place = place(file, error.marker());
                reader.report.error(place, format!("this is no YAML: {}", error.info()));
                return None;
            }
        };
        reader.event(event, span)?;
    }
    reader.root
}

fn place(file: usize, mark: &saphyr_parser::Marker) -> Place {
    Place { file, line: mark.line().max(1), column: mark.col() + 1 }
}

/// A list or a mapping that is not finished.
enum Open {
    List { place: Place, anchor: usize, items: Vec<Rc<Node>> },
    Map { place: Place, anchor: usize, map: Mapping },
}

#[derive(Default)]
struct Mapping {
    entries: Vec<Entry>,
    /// Of each key that was seen, its place.
    seen: BTreeMap<String, Place>,
    /// What `<<` names.
    merged: Vec<Rc<Node>>,
    /// The key whose value comes next; `None` inside is one that cannot be used.
    key: Option<Option<(String, Place)>>,
}

struct Reader<'r> {
    file: usize,
    report: &'r mut Report,
    anchors: BTreeMap<usize, Rc<Node>>,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
    /// So far, with what aliases stand for.
    nodes: usize,
}

impl Reader<'_> {
    /// `None` when reading on makes no sense.
    fn event(&mut self, event: Event<'_>, span: Span) -> Option<()> {
        let place = place(self.file, &span.start);
        match event {
            Event::DocumentStart(_) if self.root.is_some() => {
                self.report.error_with(
                    place,
                    "a second document in one file",
                    "put it into a file of its own, and name both files",
                );
                return None;
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), place);
                self.finish(Node::new(place, value), anchor)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.container_tag(tag.as_deref(), "seq", place);
                self.push(Open::List { place, anchor, items: Vec::new() }, place)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.container_tag(tag.as_deref(), "map", place);
                self.push(Open::Map { place, anchor, map: Mapping::default() }, place)?;
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop()? {
                Open::List { place, anchor, items } => {
                    self.finish(Node::new(place, Value::List(items)), anchor)?;
                }
                Open::Map { place, anchor, map } => {
                    let entries = self.with_merged(map, place);
                    self.finish(Node::new(place, Value::Map(entries)), anchor)?;
                }
            },
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).map(Rc::clone) else {
                    self.report.error(place, "an alias inside of what it stands for");
                    return None;
                };
                self.count(node.size, place)?;
                self.place_in_parent(node, place);
            }
            _ => {}
        }
        Some(())
    }

    fn push(&mut self, open: Open, place: Place) -> Option<()> {
        if self.open.len() >= MAX_DEPTH {
            self.report.error(place, format!("nested deeper than {MAX_DEPTH}"));
            return None;
        }
        self.open.push(open);
        Some(())
    }

    fn count(&mut self, more: usize, place: Place) -> Option<()> {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MAX_NODES {
            self.report.error(place, format!("more than {MAX_NODES} values, with what aliases stand for"));
            return None;
        }
        Some(())
    }

    fn finish(&mut self, node: Node, anchor: usize) -> Option<()> {
        let place = node.place;
        self.count(1, place)?;
        let node = Rc::new(node);
        if anchor > 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        self.place_in_parent(node, place);
        Some(())
    }

    fn place_in_parent(&mut self, node: Rc<Node>, place: Place) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { map, .. }) => match map.key.take() {
                None => map.key = Some(key(&node, place, map, self.report)),
                Some(None) => {}
                Some(Some((name, at))) if name == "<<" => map.merge(&node, at, self.report),
                Some(Some((key, place))) => map.entries.push(Entry { key, place, node }),
            },
        }
    }

    /// The entries of a mapping, with those of what it merges that it has not itself.
    fn with_merged(&mut self, map: Mapping, place: Place) -> Vec<Entry> {
        let Mapping { mut entries, seen, merged, .. } = map;
        let mut seen: BTreeSet<String> = seen.into_keys().collect();
        for node in merged {
            // Over the bound the next event ends it.
            let _ = self.count(node.size, place);
            for entry in node.entries() {
                if seen.insert(entry.key.clone()) {
                    entries.push(entry.clone());
                }
            }
        }
        entries
    }

    /// A scalar by YAML 1.2's core schema.
    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, place: Place) -> Value {
        match tag {
            None if style == ScalarStyle::Plain => plain(text),
            None => Value::Text(text.to_owned()),
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "str" => Value::Text(text.to_owned()),
            Some(tag) if tag.is_yaml_core_schema() => plain(text),
            Some(tag) => {
                self.tag(tag, place);
                Value::Text(text.to_owned())
            }
        }
    }

    fn container_tag(&mut self, tag: Option<&Tag>, usual: &str, place: Place) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == usual)
        {
            self.tag(tag, place);
        }
    }

    fn tag(&mut self, tag: &Tag, place: Place) {
        self.report.error(place, format!("the tag {} means nothing here", shown(&tag.to_string())));
    }
}

/// The key of an entry; `None` when it can be none.
fn key(node: &Node, place: Place, map: &mut Mapping, report: &mut Report) -> Option<(String, Place)> {
    let name = match &node.value {
        Value::Text(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        _ => {
            report.error(place, format!("a key must be a name, not {}", node.described()));
            return None;
        }
    };
    if let Some(first) = map.seen.get(&name) {
        let first = report.at(*first);
        report.error_with(
            place,
            format!("{} is given twice", shown(&name)),
            format!("the first is at {first}"),
        );
        return None;
    }
    map.seen.insert(name.clone(), place);
    Some((name, place))
}

impl Mapping {
    /// `<<: *base`, or a list of those.
    fn merge(&mut self, node: &Rc<Node>, place: Place, report: &mut Report) {
        match &node.value {
            Value::Map(_) => self.merged.push(Rc::clone(node)),
            Value::List(items) if items.iter().all(|item| matches!(item.value, Value::Map(_))) => {
                self.merged.extend(items.iter().map(Rc::clone));
            }
            _ => report
                .error(place, format!("`<<` takes a mapping or a list of them, not {}", node.described())),
        }
    }
}

/// A scalar without quotes.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Boolean(true),
        "false" | "False" | "FALSE" => return Value::Boolean(false),
        _ => {}
    }
    let radix = |prefix: &str, radix| i64::from_str_radix(text.strip_prefix(prefix)?, radix).ok();
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits.starts_with(|c: char| c.is_ascii_digit())
        && let Some(number) = radix("0x", 16).or_else(|| radix("0o", 8)).or_else(|| text.parse().ok())
    {
        return Value::Integer(number);
    }
    let numeric = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    match text.parse::<f64>() {
        Ok(number) if numeric && number.is_finite() => Value::Decimal(number),
        _ => Value::Text(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<serde_json::Value, String> {
        let mut report = Report::new(vec!["f".into()]);
        let node = read(0, text, &mut report);
        let found = report.into_diagnostics();
        match found.first() {
            Some(first) => Err(first.to_string()),
            None => Ok(node.map_or(serde_json::Value::Null, |node| node.to_json())),
        }
    }

    #[test]
    fn scalars_are_those_of_yaml_1_2() {
        let cases = [
            ("a: 12", r#"{"a":12}"#),
            ("a: 0x1f", r#"{"a":31}"#),
            ("a: -3.5", r#"{"a":-3.5}"#),
            ("a: '12'", r#"{"a":"12"}"#),
            ("a: yes", r#"{"a":"yes"}"#),
            ("a: True", r#"{"a":true}"#),
            ("a: ~\nb:", r#"{"a":null,"b":null}"#),
            ("a: 1h\nb: 60/20\nc: v1.2", r#"{"a":"1h","b":"60/20","c":"v1.2"}"#),
            ("a: !!str 5", r#"{"a":"5"}"#),
            ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
            ("123: x", r#"{"123":"x"}"#),
            ("\u{feff}a: 1", r#"{"a":1}"#),
        ];
        for (yaml, expected) in cases {
            assert_eq!(json(yaml).map(|value| value.to_string()), Ok(expected.to_owned()), "{yaml}");
        }
    }

    #[test]
    fn merge_keys_give_way_to_own_ones() {
        let yaml =
            "base: &b {model: fast, cost: 1}\np:\n  <<: *b\n  cost: 5\nq:\n  <<: [*b, {cost: 2, x: 3}]\n";
        let value = json(yaml).expect("valid");
        assert_eq!(value["p"].to_string(), r#"{"cost":5,"model":"fast"}"#);
        assert_eq!(value["q"].to_string(), r#"{"cost":1,"model":"fast","x":3}"#);
    }

    #[test]
    fn mistakes_of_the_form() {
        let cases = [
            ("a: 1\nb: 2\na: 3", "f:3:1: error: `a` is given twice\n  help: the first is at f:1:1"),
            ("a: [1", "f:2:1: error: this is no YAML: while parsing a flow sequence, expected ',' or ']'"),
            (
                "a: 1\n--- \nb: 2",
                "f:2:1: error: a second document in one file\n  help: put it into a file of its own, and name both files",
            ),
            ("a: !secret x", "f:1:4: error: the tag `!secret` means nothing here"),
            ("[a]: 1", "f:1:1: error: a key must be a name, not a list"),
            ("a: &x [*x]", "f:1:8: error: an alias inside of what it stands for"),
            ("a:\n  <<: 5", "f:2:3: error: `<<` takes a mapping or a list of them, not the number 5"),
        ];
        for (yaml, expected) in cases {
            assert_eq!(json(yaml), Err(expected.to_owned()), "{yaml}");
        }
    }

    #[test]
    fn aliases_of_aliases_are_bounded() {
        let mut yaml = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..40 {
            yaml += &format!("a{n}: &a{n} [*a{0}, *a{0}, *a{0}, *a{0}, *a{0}, *a{0}]\n", n - 1);
        }
        assert!(json(&yaml).is_err_and(|error| error.contains("with what aliases stand for")));
        let mut deep = "[".repeat(200);
        deep.push_str(&"]".repeat(200));
        assert!(json(&deep).is_err_and(|error| error.contains("nested deeper")));
    }
}
