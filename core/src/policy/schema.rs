//! Whether a model's value is what its JSON Schema asks for, and what to say when it is not.
//!
//! The schemas are the operator's, the values a model's, so both are bounded: an evaluation has a
//! number of steps and a depth, a pattern takes linear time (`regex-lite` does not backtrack), and
//! nothing is ever fetched: a `$ref` stays in its own text.
//!
//! What is understood is a part of draft 2020-12 (also written in draft 7): `type`, `enum`, `const`,
//! `$ref` to `#`, `#/$defs/…` or `#/definitions/…`; `properties`, `required`, `additionalProperties`,
//! `minProperties`, `maxProperties`; `items` (one schema), `minItems`, `maxItems`, `uniqueItems`;
//! `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`, `multipleOf`; `minLength`, `maxLength`,
//! `pattern`; `allOf`, `anyOf`, `oneOf`, `not`; `true` and `false`. `format` is a remark, as in the
//! standard, like `title`, `description`, `default` and `examples`. Any other keyword is refused when
//! the configuration is read ([`check`]): passed over, it would promise a check that nobody makes.
//!
//! In a pattern `\d` and `\w` are ASCII, as in ECMAScript; `\p{…}`, looking around and references back
//! are refused.

mod check;
mod numbers;
mod violation;

use std::collections::BTreeMap;

use regex_lite::Regex;
use serde_json::{Map, Value};

pub use self::check::SchemaError;
pub use self::violation::Violation;
use self::violation::{Segment, listed, quoted};

/// Violations that are told: a model repairs a few things at once, and its prompt has an end.
const MOST: usize = 8;

/// Visits of a value by a schema. Some milliseconds; a long answer takes thousands.
const STEPS: u32 = 200_000;

/// Schemas within schemas while one value is looked at: what a stack of 1 MiB takes easily.
const DEEPEST: usize = 200;

/// The longest string that a pattern is tried on, in bytes.
const LONGEST_MATCHED: usize = 16 << 10;

/// A schema that has been checked.
#[derive(Debug)]
pub struct Schema {
    root: Value,
    /// By their text.
    patterns: BTreeMap<String, Regex>,
}

impl Schema {
    /// Reads a schema and checks all of it.
    ///
    /// # Errors
    /// When it is no JSON, or asks for something that is not understood here.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        check::parse(text)
    }

    /// Whether a schema can be used: for when the configuration is read.
    ///
    /// # Errors
    /// Those of [`Self::parse`].
    pub fn check(text: &str) -> Result<(), SchemaError> {
        Self::parse(text).map(drop)
    }

    /// What is wrong with a value, at most 8 things; none when it is valid.
    pub fn violations(&self, json: &str) -> Vec<Violation> {
        let value = match serde_json::from_str::<Value>(json) {
            Ok(value) => value,
            Err(error) => {
                let place = format!("is not JSON (line {}, column {})", error.line(), error.column());
                return vec![Violation::new(&[], "json", place)];
            }
        };
        let mut evaluation =
            Evaluation { schema: self, path: Vec::new(), steps: STEPS, depth: 0, given_up: false };
        let mut found = Vec::new();
        evaluation.visit(&self.root, &value, &mut found);
        if evaluation.given_up {
            return vec![Violation::new(&[], "limits", "is too large to be checked: make it smaller".into())];
        }
        found
    }

    /// The schema that a checked `$ref` names.
    fn target(&self, reference: &str) -> Option<&Value> {
        self.root.pointer(reference.strip_prefix('#')?)
    }
}

/// What is wrong with a value, by a schema's text: [`Schema::parse`] and [`Schema::violations`].
/// A schema that is not valid is one violation, of nothing that a model can repair.
pub fn violations(schema: &str, json: &str) -> Vec<Violation> {
    match Schema::parse(schema) {
        Ok(schema) => schema.violations(json),
        Err(_) => vec![Violation::new(&[], "schema", "cannot be checked: its schema is not valid".into())],
    }
}

/// One value being looked at.
struct Evaluation<'a> {
    schema: &'a Schema,
    path: Vec<Segment<'a>>,
    steps: u32,
    depth: usize,
    /// Whether a limit was reached: then what was found means nothing.
    given_up: bool,
}

type Found = Vec<Violation>;

impl<'a> Evaluation<'a> {
    fn visit(&mut self, schema: &'a Value, value: &'a Value, found: &mut Found) {
        if !self.step() || self.depth >= DEEPEST || found.len() >= MOST {
            self.given_up |= self.depth >= DEEPEST;
            return;
        }
        self.depth += 1;
        match schema {
            Value::Object(schema) => self.keywords(schema, value, found),
            Value::Bool(false) => self.report(found, "false", "must not be there".into()),
            _ => {}
        }
        self.depth -= 1;
    }

    fn keywords(&mut self, schema: &'a Map<String, Value>, value: &'a Value, found: &mut Found) {
        if let Some(target) =
            schema.get("$ref").and_then(Value::as_str).and_then(|name| self.schema.target(name))
        {
            self.visit(target, value, found);
        }
        self.any_value(schema, value, found);
        match value {
            Value::Number(number) => {
                if let Some((keyword, problem)) = numbers::violated(schema, number) {
                    self.report(found, keyword, problem);
                }
            }
            Value::String(text) => self.string(schema, text, found),
            Value::Array(items) => self.array(schema, items, found),
            Value::Object(members) => self.object(schema, members, found),
            Value::Null | Value::Bool(_) => {}
        }
        self.combined(schema, value, found);
    }

    fn any_value(&mut self, schema: &Map<String, Value>, value: &Value, found: &mut Found) {
        let types: Vec<&str> = match schema.get("type") {
            Some(Value::Array(types)) => types.iter().filter_map(Value::as_str).collect(),
            Some(Value::String(only)) => vec![only],
            _ => Vec::new(),
        };
        if !types.is_empty() && !types.iter().any(|name| is_of_type(value, name)) {
            let problem = format!("must be {}, and not {}", types.join(" or "), type_of(value));
            self.report(found, "type", problem);
        }
        if let Some(Value::Array(choices)) = schema.get("enum")
            && !choices.iter().any(|choice| self.equal(choice, value))
        {
            self.report(found, "enum", format!("must be one of {}", listed(choices)));
        }
        if let Some(only) = schema.get("const")
            && !self.equal(only, value)
        {
            self.report(found, "const", format!("must be {}", listed(core::slice::from_ref(only))));
        }
    }

    fn string(&mut self, schema: &Map<String, Value>, text: &str, found: &mut Found) {
        self.count(schema, ("minLength", "maxLength"), text.chars().count(), "characters", found);
        let Some(pattern) = schema.get("pattern").and_then(Value::as_str) else { return };
        if text.len() > LONGEST_MATCHED {
            self.report(found, "pattern", format!("must have at most {LONGEST_MATCHED} bytes"));
        } else if !self.schema.patterns.get(pattern).is_some_and(|compiled| compiled.is_match(text)) {
            self.report(found, "pattern", format!("must match the pattern {pattern}"));
        }
    }

    fn array(&mut self, schema: &'a Map<String, Value>, items: &'a [Value], found: &mut Found) {
        self.count(schema, ("minItems", "maxItems"), items.len(), "items", found);
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let repeated =
                (1..items.len()).find(|&at| (0..at).any(|other| self.equal(&items[other], &items[at])));
            if let Some(at) = repeated {
                self.report(found, "uniqueItems", format!("must not repeat an item, as item {at} does"));
            }
        }
        let Some(each) = schema.get("items") else { return };
        for (at, item) in items.iter().enumerate() {
            if found.len() >= MOST || self.given_up {
                return;
            }
            self.path.push(Segment::Index(at));
            self.visit(each, item, found);
            self.path.pop();
        }
    }

    fn object(&mut self, schema: &'a Map<String, Value>, members: &'a Map<String, Value>, found: &mut Found) {
        self.count(schema, ("minProperties", "maxProperties"), members.len(), "properties", found);
        let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        for name in required.iter().filter_map(Value::as_str).filter(|name| !members.contains_key(*name)) {
            self.report(found, "required", format!("must have the property {}", quoted(name)));
        }
        let known = schema.get("properties").and_then(Value::as_object);
        let others = schema.get("additionalProperties");
        for (name, member) in members {
            if found.len() >= MOST || self.given_up {
                return;
            }
            match (known.and_then(|known| known.get(name)), others) {
                (Some(schema), _) => self.inside(Segment::Known(name), schema, member, found),
                (None, Some(Value::Bool(false))) => {
                    self.report(
                        found,
                        "additionalProperties",
                        format!("must not have the property {}", quoted(name)),
                    );
                }
                (None, Some(schema)) => self.inside(Segment::Foreign(name), schema, member, found),
                (None, None) => {}
            }
        }
    }

    fn inside(&mut self, segment: Segment<'a>, schema: &'a Value, value: &'a Value, found: &mut Found) {
        self.path.push(segment);
        self.visit(schema, value, found);
        self.path.pop();
    }

    fn combined(&mut self, schema: &'a Map<String, Value>, value: &'a Value, found: &mut Found) {
        let alternatives = |keyword| schema.get(keyword).and_then(Value::as_array).map(Vec::as_slice);
        for part in alternatives("allOf").unwrap_or_default() {
            self.visit(part, value, found);
        }
        if let Some(alternatives) = alternatives("anyOf") {
            self.one_fits("anyOf", alternatives, value, found);
        }
        if let Some(alternatives) = alternatives("oneOf") {
            let fitting = self.one_fits("oneOf", alternatives, value, found);
            if fitting > 1 {
                self.report(found, "oneOf", format!("must fit one alternative, and fits {fitting}"));
            }
        }
        if let Some(excluded) = schema.get("not") {
            let mut inner = Found::new();
            self.visit(excluded, value, &mut inner);
            if inner.is_empty() {
                self.report(found, "not", "must not be what its schema excludes".into());
            }
        }
    }

    /// How many alternatives a value fits. When none: what is wrong with the one that is meant, if its
    /// type tells which that is.
    fn one_fits(
        &mut self,
        keyword: &'static str,
        schemas: &'a [Value],
        value: &'a Value,
        found: &mut Found,
    ) -> usize {
        let (mut fitting, mut meant) = (0, Vec::new());
        let here = self.path.len();
        for schema in schemas {
            let mut inner = Found::new();
            self.visit(schema, value, &mut inner);
            if inner.is_empty() {
                fitting += 1;
            } else if !inner.iter().any(|violation| violation.is_type_at(here)) {
                meant.push(inner);
            }
        }
        match (fitting, meant.len()) {
            (0, 1) => found.extend(meant.into_iter().flatten().take(MOST.saturating_sub(found.len()))),
            (0, _) => {
                self.report(
                    found,
                    keyword,
                    format!("must fit one of {} alternatives, and fits none", schemas.len()),
                );
            }
            _ => {}
        }
        fitting
    }

    fn count(
        &mut self,
        schema: &Map<String, Value>,
        (least, most): (&'static str, &'static str),
        count: usize,
        what: &str,
        found: &mut Found,
    ) {
        let limit = |keyword| schema.get(keyword).and_then(Value::as_u64);
        if let Some(limit) = limit(least).filter(|limit| (count as u64) < *limit) {
            self.report(found, least, format!("must have at least {limit} {what}, and has {count}"));
        }
        if let Some(limit) = limit(most).filter(|limit| (count as u64) > *limit) {
            self.report(found, most, format!("must have at most {limit} {what}, and has {count}"));
        }
    }

    /// Equality of JSON values: `1` and `1.0` are one number.
    fn equal(&mut self, a: &Value, b: &Value) -> bool {
        self.step()
            && match (a, b) {
                (Value::Number(a), Value::Number(b)) => numbers::compare(a, b).is_eq(),
                (Value::Array(a), Value::Array(b)) => {
                    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| self.equal(a, b))
                }
                (Value::Object(a), Value::Object(b)) => {
                    a.len() == b.len()
                        && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| self.equal(a, b)))
                }
                _ => a == b,
            }
    }

    fn step(&mut self) -> bool {
        self.steps = self.steps.saturating_sub(1);
        self.given_up |= self.steps == 0;
        !self.given_up
    }

    fn report(&self, found: &mut Found, keyword: &'static str, problem: String) {
        if found.len() < MOST {
            found.push(Violation::new(&self.path, keyword, problem));
        }
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match (value, name) {
        (Value::Number(number), "integer") => numbers::is_integer(number),
        _ => type_of(value) == name,
    }
}

#[cfg(test)]
mod tests;
