//! The configuration's JSON Schema, for editors: from the same descriptions as the check.

use serde_json::{Map, Value, json};

use crate::{
    grammar::FILE,
    shape::{Key, Shape},
};

/// The JSON Schema (draft 2020-12) of a configuration file, as JSON text.
pub fn json_schema() -> String {
    let mut schema = of(FILE);
    if let Some(object) = schema.as_object_mut() {
        object.insert("$schema".into(), "https://json-schema.org/draft/2020-12/schema".into());
        object.insert("title".into(), "Minigate configuration".into());
    }
    format!("{schema:#}\n")
}

const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_./:-]{0,63}$";
const ROLE: &str = "^[a-z0-9_-]{1,32}$";
const TOOL: &str = "^[a-z0-9_]{1,64}$";

fn of(shape: Shape) -> Value {
    match shape {
        Shape::Text => json!({"type": "string", "minLength": 1}),
        Shape::Name => json!({"type": "string", "pattern": NAME}),
        Shape::Role => json!({"type": "string", "pattern": ROLE}),
        Shape::Tool => json!({"type": "string", "pattern": TOOL}),
        Shape::Integer(least, most) => json!({"type": "integer", "minimum": least, "maximum": most}),
        Shape::Decimal(least, most) => json!({"type": "number", "minimum": least, "maximum": most}),
        Shape::Boolean => json!({"type": "boolean"}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::Duration(..) => json!({"type": "string", "pattern": "^[0-9]+[smhd]$"}),
        Shape::Rate => json!({"type": ["string", "integer"], "pattern": "^[0-9]+(/[0-9]+)?$", "minimum": 1}),
        Shape::Secret => json!({"type": "string", "pattern": r"^\$\{[A-Z][A-Z0-9_]{0,63}\}$"}),
        Shape::List(item) => json!({"type": "array", "items": of(*item)}),
        Shape::Named(name, each) => section(json!({
            "propertyNames": of(*name),
            "additionalProperties": of(*each),
        })),
        Shape::Object(keys) => object(keys, Value::Bool(false)),
        Shape::Section(keys) => section(object(keys, Value::Bool(false))),
        Shape::Open(keys, each) => section(object(keys, of(*each))),
        Shape::Kinds(kinds) => json!({"oneOf": kinds.iter().map(|(kind, keys)| {
            let mut one = object(keys, Value::Bool(false));
            if let Some(property) = one.pointer_mut("/properties/kind") {
                *property = json!({"const": kind});
            }
            one
        }).collect::<Vec<_>>()}),
        Shape::Either(shapes) => json!({"anyOf": shapes.iter().map(|shape| of(*shape)).collect::<Vec<_>>()}),
        Shape::Free => json!({"type": "object"}),
    }
}

/// An empty section is no mistake.
fn section(mut schema: Value) -> Value {
    if let Some(object) = schema.as_object_mut() {
        object.insert("type".into(), json!(["object", "null"]));
    }
    schema
}

fn object(keys: &[Key], others: Value) -> Value {
    let property = |key: &Key| {
        let mut schema = of(key.shape);
        if let Some(object) = schema.as_object_mut() {
            object.entry("description").or_insert_with(|| key.about.into());
        }
        (key.name.to_owned(), schema)
    };
    let properties: Map<String, Value> = keys.iter().map(property).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.required).map(|key| key.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": others})
}
