//! Whether a schema itself can be used: every keyword known, every pattern compiled, every `$ref` there.
//!
//! This is the only way to a [`Schema`], so the evaluation meets nothing that it does not know.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};

use regex_lite::{Regex, RegexBuilder};
use serde_json::{Map, Value};

use super::Schema;

/// The longest schema, in bytes. It is a part of the configuration, which every instance loads.
const LONGEST: usize = 64 << 10;

/// The longest pattern, in bytes, and the most memory of a compiled one: a pattern's time is the
/// product of its size and the text's.
const LONGEST_PATTERN: usize = 512;
const COMPILED_PATTERN: usize = 64 << 10;

/// The drafts whose meaning of the keywords is ours.
const DRAFTS: [&str; 4] = ["2020-12", "2019-09", "draft-07", "draft-06"];

const TYPES: [&str; 7] = ["null", "boolean", "integer", "number", "string", "array", "object"];

/// Why a schema cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// Where in the schema, as a JSON pointer with `#` before it.
    pub pointer: String,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer, self.problem)
    }
}

impl core::error::Error for SchemaError {}

pub(super) fn parse(text: &str) -> Result<Schema, SchemaError> {
    if text.len() > LONGEST {
        return refused("#", format!("a schema has at most {LONGEST} bytes"));
    }
    let root: Value = match serde_json::from_str(text) {
        Ok(root @ Value::Object(_)) => root,
        Ok(_) => return refused("#", "a schema is an object"),
        Err(error) => return refused("#", format!("this is not JSON: {error}")),
    };
    let mut checker = Checker { root: &root, patterns: BTreeMap::new() };
    checker.schema(&root, "#")?;
    refuse_cycles(&root)?;
    let patterns = checker.patterns;
    Ok(Schema { root, patterns })
}

struct Checker<'a> {
    root: &'a Value,
    patterns: BTreeMap<String, Regex>,
}

impl Checker<'_> {
    fn schema(&mut self, schema: &Value, pointer: &str) -> Result<(), SchemaError> {
        match schema {
            Value::Bool(_) => Ok(()),
            Value::Object(keywords) => {
                for (keyword, value) in keywords {
                    let escaped = keyword.replace('~', "~0").replace('/', "~1");
                    self.keyword(keyword, value, &format!("{pointer}/{escaped}"))?;
                }
                Ok(())
            }
            _ => refused(pointer, "must be a schema: an object, true or false"),
        }
    }

    fn keyword(&mut self, keyword: &str, value: &Value, pointer: &str) -> Result<(), SchemaError> {
        let at_root = pointer.matches('/').count() == 1;
        let fine = |holds: bool, problem: &str| if holds { Ok(()) } else { refused(pointer, problem) };
        match keyword {
            "title" | "description" | "$comment" | "default" | "examples" | "deprecated" | "readOnly"
            | "writeOnly" | "format" | "const" => Ok(()),
            "$id" if at_root => Ok(()),
            "$schema" if at_root => {
                let known = value.as_str().is_some_and(|uri| DRAFTS.iter().any(|draft| uri.contains(draft)));
                fine(known, "must be draft 2020-12, 2019-09, 7 or 6")
            }
            "$defs" | "definitions" if at_root => self.each_member(value, pointer),
            "properties" => self.each_member(value, pointer),
            "items" | "additionalProperties" | "not" => self.schema(value, pointer),
            "allOf" | "anyOf" | "oneOf" => self.each_item(value, pointer),
            "$ref" => self.reference(value, pointer),
            "pattern" => self.pattern(value, pointer),
            "type" => fine(is_type(value), "must be one type or several of the seven"),
            "enum" => fine(
                value.as_array().is_some_and(|values| !values.is_empty()),
                "must be a list, and not empty",
            ),
            "required" => fine(is_names(value), "must be a list of names"),
            "uniqueItems" => fine(value.is_boolean(), "must be true or false"),
            "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => {
                fine(value.is_number(), "must be a number")
            }
            "multipleOf" => {
                fine(value.as_f64().is_some_and(|unit| unit > 0.0), "must be a number greater than 0")
            }
            "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" => {
                fine(value.is_u64(), "must be a whole number, at least 0")
            }
            _ => refused(pointer, format!("`{keyword}` is not supported here")),
        }
    }

    fn each_member(&mut self, value: &Value, pointer: &str) -> Result<(), SchemaError> {
        let Value::Object(members) = value else {
            return refused(pointer, "must be an object of schemas");
        };
        for (name, schema) in members {
            let name = name.replace('~', "~0").replace('/', "~1");
            self.schema(schema, &format!("{pointer}/{name}"))?;
        }
        Ok(())
    }

    fn each_item(&mut self, value: &Value, pointer: &str) -> Result<(), SchemaError> {
        let schemas = value.as_array().map(Vec::as_slice).unwrap_or_default();
        if schemas.is_empty() {
            return refused(pointer, "must be a list of schemas, and not empty");
        }
        for (at, schema) in schemas.iter().enumerate() {
            self.schema(schema, &format!("{pointer}/{at}"))?;
        }
        Ok(())
    }

    /// Only what is in this text: nothing is fetched, and no pointer leads into what is no schema.
    fn reference(&self, value: &Value, pointer: &str) -> Result<(), SchemaError> {
        let name = value.as_str().unwrap_or_default();
        let definition = ["#/$defs/", "#/definitions/"].iter().find_map(|prefix| name.strip_prefix(prefix));
        match definition {
            None if name == "#" => Ok(()),
            Some(definition) if !definition.contains('/') && self.root.pointer(&name[1..]).is_some() => {
                Ok(())
            }
            Some(_) => refused(pointer, "names nothing in this schema"),
            None => refused(
                pointer,
                "must be \"#\", \"#/$defs/NAME\" or \"#/definitions/NAME\": nothing is fetched",
            ),
        }
    }

    fn pattern(&mut self, value: &Value, pointer: &str) -> Result<(), SchemaError> {
        let Some(pattern) = value.as_str().filter(|pattern| pattern.len() <= LONGEST_PATTERN) else {
            return refused(pointer, format!("must be a string of at most {LONGEST_PATTERN} bytes"));
        };
        match RegexBuilder::new(pattern).size_limit(COMPILED_PATTERN).build() {
            Ok(compiled) => {
                self.patterns.insert(pattern.to_owned(), compiled);
                Ok(())
            }
            Err(error) => refused(pointer, format!("is not a pattern that is understood here: {error}")),
        }
    }
}

/// Refuses a `$ref` that leads to itself without going into a value: it says nothing and never ends.
fn refuse_cycles(root: &Value) -> Result<(), SchemaError> {
    let mut names = BTreeSet::from(["#".to_owned()]);
    for group in ["$defs", "definitions"] {
        let members = root.get(group).and_then(Value::as_object);
        names.extend(
            members
                .into_iter()
                .flat_map(Map::keys)
                .map(|name| format!("#/{group}/{}", name.replace('~', "~0").replace('/', "~1"))),
        );
    }
    for start in &names {
        let (mut next, mut seen) = (vec![start.as_str()], BTreeSet::new());
        while let Some(schema) = next.pop().and_then(|name| root.pointer(&name[1..])) {
            let mut referred = Vec::new();
            referred_in_place(schema, &mut referred);
            if referred.contains(&start.as_str()) {
                return refused(start, "refers to itself without end");
            }
            next.extend(referred.into_iter().filter(|name| seen.insert(*name)));
        }
    }
    Ok(())
}

/// The names that a schema refers to for the very value that it is about.
fn referred_in_place<'a>(schema: &'a Value, names: &mut Vec<&'a str>) {
    names.extend(schema.get("$ref").and_then(Value::as_str));
    for keyword in ["allOf", "anyOf", "oneOf"] {
        let parts = schema.get(keyword).and_then(Value::as_array);
        parts.into_iter().flatten().for_each(|part| referred_in_place(part, names));
    }
    if let Some(excluded) = schema.get("not") {
        referred_in_place(excluded, names);
    }
}

fn is_type(value: &Value) -> bool {
    let known = |value: &Value| value.as_str().is_some_and(|name| TYPES.contains(&name));
    value.as_array().map_or_else(|| known(value), |types| !types.is_empty() && types.iter().all(known))
}

fn is_names(value: &Value) -> bool {
    value.as_array().is_some_and(|names| names.iter().all(Value::is_string))
}

fn refused<T>(pointer: &str, problem: impl Into<String>) -> Result<T, SchemaError> {
    Err(SchemaError { pointer: pointer.to_owned(), problem: problem.into() })
}
