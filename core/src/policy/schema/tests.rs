#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;

const ORDER: &str = r##"{
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "订单",
    "type": "object",
    "required": ["id", "items"],
    "additionalProperties": false,
    "properties": {
        "id": { "type": "string", "pattern": "^[A-Z]{2}\\d{4}$" },
        "status": { "enum": ["paid", "shipped", null] },
        "price": { "type": "number", "exclusiveMinimum": 0, "multipleOf": 0.01 },
        "note": { "anyOf": [{ "type": "null" }, { "type": "string", "maxLength": 3, "format": "whatever" }] },
        "items": { "type": "array", "minItems": 1, "uniqueItems": true, "items": { "$ref": "#/$defs/item" } },
        "extra": { "type": "object", "additionalProperties": { "type": "integer" } }
    },
    "$defs": {
        "item": {
            "type": "object",
            "required": ["sku"],
            "properties": { "sku": { "type": "string", "minLength": 1 }, "parts": { "items": { "$ref": "#/$defs/item" } } }
        }
    }
}"##;

fn told(schema: &str, json: &str) -> Vec<String> {
    Schema::check(schema).expect("a schema");
    violations(schema, json).iter().map(Violation::for_model).collect()
}

fn is_valid(schema: &str, json: &str) -> bool {
    told(schema, json).is_empty()
}

#[test]
fn a_valid_value_has_no_violations() {
    let order = r#"{"id": "AB1234", "status": null, "price": 19.99, "note": "三个字",
        "items": [{"sku": "a", "parts": [{"sku": "b"}]}, {"sku": "c"}], "extra": {"x": 1.0}}"#;
    assert_eq!(told(ORDER, order), Vec::<String>::new());
}

#[test]
fn what_is_wrong_is_told_to_the_model() {
    let order = r#"{"id": "AB12345", "status": "lost", "price": 0, "note": "四个字了",
        "items": [{"sku": 1}, {"parts": [{"sku": ""}]}], "extra": {"x": "1"}, "more": 1}"#;
    let told = told(ORDER, order);
    assert_eq!(
        told[..3],
        [
            r#"/extra/x must be integer, and not string"#,
            r#"/id must match the pattern ^[A-Z]{2}\d{4}$"#,
            r#"/items/0/sku must be string, and not number"#,
        ]
    );
    for expected in [
        r#"/items/1 must have the property "sku""#,
        "/items/1/parts/0/sku must have at least 1 characters, and has 0",
        r#"the value must not have the property "more""#,
        "/note must have at most 3 characters, and has 4",
        "/price must be more than 0",
    ] {
        assert!(told.iter().any(|line| line == expected), "{expected} in {told:#?}");
    }
    assert_eq!(told.len(), MOST, "a bounded number");
    assert_eq!(self::told(ORDER, "[1"), ["the value is not JSON (line 1, column 2)"]);
}

#[test]
fn a_log_gets_nothing_that_the_model_wrote() {
    let value = r#"{"id": "AB1234", "items": [{"sku": "a"}], "extra": {"13800000000": "秘密"}, "身份证": 1}"#;
    let logged: Vec<String> = violations(ORDER, value).iter().map(Violation::for_log).collect();
    assert_eq!(logged, ["type at /extra/*", "additionalProperties at /"]);
}

#[test]
fn words_are_bounded() {
    let schema = format!(r#"{{"enum": ["{}", {}]}}"#, "长".repeat(5_000), "1,".repeat(5_000) + "1");
    let name = "n".repeat(5_000);
    let open = r#"{"additionalProperties": {"type": "string"}}"#;
    let closed = r#"{"additionalProperties": false}"#;
    let json = format!(r#"{{"{name}": 1}}"#);
    for (schema, json) in [(schema.as_str(), "2"), (open, &json), (closed, &json)] {
        let found = violations(schema, json);
        assert_eq!(found.len(), 1);
        assert!(found[0].for_model().chars().count() <= 410 && found[0].for_log().chars().count() <= 230);
    }
}

#[test]
fn each_keyword_does_what_it_says() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (r#"{"type": "integer"}"#, &["1", "1.0", "-5", "18446744073709551615"], &["1.5", "\"1\"", "null"]),
        (r#"{"type": ["string", "null"]}"#, &["\"\"", "null"], &["1", "[]"]),
        (r#"{"const": {"a": [1]}}"#, &[r#"{"a": [1.0]}"#], &[r#"{"a": [1, 1]}"#, "{}"]),
        (r#"{"enum": [1, "a", true]}"#, &["1", "1.0", "\"a\"", "true"], &["2", "\"1\"", "false"]),
        (r#"{"minimum": 9007199254740993}"#, &["9007199254740993"], &["9007199254740992"]),
        (r#"{"minimum": -1, "maximum": 1.5}"#, &["-1", "1.5", "\"x\""], &["-1.1", "2"]),
        (r#"{"exclusiveMinimum": 0, "exclusiveMaximum": 2}"#, &["1", "0.1"], &["0", "2"]),
        (r#"{"multipleOf": 3}"#, &["9", "-3", "0"], &["10"]),
        (r#"{"multipleOf": 0.01}"#, &["19.99", "0.07", "3"], &["19.999"]),
        (
            r#"{"minLength": 2, "maxLength": 2}"#,
            &["\"你好\"", "\"\\ud83d\\ude00a\"", "1"],
            &["\"你\"", "\"abc\""],
        ),
        (r#"{"pattern": "^[\\u4e00-\\u9fa5]+$"}"#, &["\"你好\""], &["\"a\"", "\"\""]),
        (r#"{"pattern": "\\d\\/"}"#, &["\"x1/y\""], &["\"１/\""]),
        (r#"{"minItems": 1, "maxItems": 2}"#, &["[1]", "{}"], &["[]", "[1,2,3]"]),
        (r#"{"uniqueItems": true}"#, &["[1, 2, \"1\"]", "[]"], &["[1, 2, 1.0]", "[{}, {}]"]),
        (r#"{"minProperties": 1, "maxProperties": 1}"#, &[r#"{"a":1}"#], &["{}", r#"{"a":1,"b":2}"#]),
        (r#"{"allOf": [{"minimum": 1}, {"maximum": 2}]}"#, &["1", "2"], &["0", "3"]),
        (r#"{"anyOf": [{"minimum": 5}, {"maximum": 2}]}"#, &["1", "6"], &["3"]),
        (r#"{"oneOf": [{"minimum": 5}, {"maximum": 7}]}"#, &["1", "8"], &["6"]),
        (r#"{"not": {"type": "string"}}"#, &["1"], &["\"a\""]),
        (r#"{"properties": {"a": false, "b": true}}"#, &["{}", r#"{"b":1,"c":1}"#], &[r#"{"a":1}"#]),
        (r##"{"type": "array", "items": {"$ref": "#"}}"##, &["[[], [[]]]"], &["[[1]]"]),
        (r##"{"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"type": "null"}}}"##, &["null"], &["1"]),
    ];
    for (schema, valid, invalid) in cases {
        valid.iter().for_each(|json| assert!(is_valid(schema, json), "{schema} {json}"));
        invalid.iter().for_each(|json| assert!(!is_valid(schema, json), "{schema} {json}"));
    }
}

#[test]
fn of_alternatives_the_one_that_is_meant_is_told() {
    let schema = r#"{"anyOf": [{"type": "null"}, {"type": "object", "required": ["a"]}]}"#;
    assert_eq!(told(schema, "{}"), [r#"the value must have the property "a""#]);
    assert_eq!(told(schema, "1"), ["the value must fit one of 2 alternatives, and fits none"]);
}

#[test]
fn what_is_not_understood_is_refused() {
    let cases = [
        (r#"{"type": "objekt"}"#, "#/type"),
        (r#"{"if": {}}"#, "#/if"),
        (r#"{"properties": {"a/b": {"requierd": []}}}"#, "#/properties/a~1b/requierd"),
        (r#"{"patternProperties": {}}"#, "#/patternProperties"),
        (r#"{"items": [{}, {}]}"#, "#/items"),
        (r#"{"exclusiveMinimum": true}"#, "#/exclusiveMinimum"),
        (r#"{"required": "a"}"#, "#/required"),
        (r#"{"enum": []}"#, "#/enum"),
        (r#"{"anyOf": []}"#, "#/anyOf"),
        (r#"{"minLength": -1}"#, "#/minLength"),
        (r#"{"multipleOf": 0}"#, "#/multipleOf"),
        (r#"{"pattern": "(?=a)"}"#, "#/pattern"),
        (r#"{"pattern": "(a)\\1"}"#, "#/pattern"),
        (r#"{"pattern": "(a{1000}){1000}"}"#, "#/pattern"),
        (r#"{"$schema": "http://json-schema.org/draft-04/schema#"}"#, "#/$schema"),
        (r#"{"properties": {"a": {"$id": "x"}}}"#, "#/properties/a/$id"),
        (r#"{"properties": {"a": {"$defs": {}}}}"#, "#/properties/a/$defs"),
        ("true", "#"),
        ("{", "#"),
    ];
    for (schema, pointer) in cases {
        assert_eq!(Schema::check(schema).expect_err(schema).pointer, pointer, "{schema}");
        assert_eq!(violations(schema, "1")[0].keyword, "schema", "{schema}");
    }
    assert!(Schema::check(&format!("{{\"title\": \"{}\"}}", "t".repeat(64 << 10))).is_err());
}

#[test]
fn no_reference_leaves_the_text() {
    for name in [
        "http://169.254.169.254/latest",
        "https://example.com/schema.json#/$defs/a",
        "file:///etc/passwd",
        "other.json",
        "#/$defs/absent",
        "#/$defs/a/properties/b",
        "#/properties/a",
        "#a",
        "",
    ] {
        let schema = format!(r#"{{"$ref": "{name}", "$defs": {{"a": {{"properties": {{"b": true}}}}}}}}"#);
        assert_eq!(Schema::check(&schema).expect_err(name).pointer, "#/$ref");
    }
    assert!(Schema::check(r#"{"$ref": 1}"#).is_err());
}

#[test]
fn cycles_that_never_end_are_refused() {
    for schema in [
        r##"{"$ref": "#"}"##,
        r##"{"anyOf": [{"type": "null"}, {"not": {"$ref": "#"}}]}"##,
        r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}"##,
    ] {
        let error = Schema::check(schema).expect_err(schema);
        assert_eq!(error.problem, "refers to itself without end");
    }
}

/// Each level doubles the work: without a bound the last level is looked at 2^100 times.
#[test]
fn the_work_is_bounded() {
    let schema = r##"{"anyOf": [
        {"type": "array", "items": {"$ref": "#"}, "maxItems": 0},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 2},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 3}
    ]}"##;
    let nested = format!("{}{}", "[".repeat(60), "]".repeat(60));
    assert_eq!(violations(schema, &nested)[0].keyword, "limits");
    let unique = format!("[{}0]", (1..3_000).map(|n| format!("{n},")).collect::<String>());
    assert_eq!(violations(r#"{"uniqueItems": true}"#, &unique)[0].keyword, "limits");
    // A backtracking matcher would take until the end of time.
    let hostile = format!("\"{}b\"", "a".repeat(10_000));
    assert!(!is_valid(r#"{"pattern": "^(a+)+$"}"#, &hostile));
    let long = format!("\"{}\"", "a".repeat(LONGEST_MATCHED + 1));
    assert_eq!(violations(r#"{"pattern": "a"}"#, &long)[0].keyword, "pattern");
}

#[test]
fn depth_is_bounded() {
    let chain: String = (0..300).map(|n| format!(r##","d{n}":{{"$ref":"#/$defs/d{}"}}"##, n + 1)).collect();
    let schema = format!(r##"{{"$ref": "#/$defs/d0", "$defs": {{"d300": {{"type": "null"}}{chain}}}}}"##);
    assert_eq!(violations(&schema, "null")[0].keyword, "limits");
    let list = r##"{"items": {"$ref": "#"}}"##;
    assert!(is_valid(list, &format!("{}{}", "[".repeat(80), "]".repeat(80))));
}

#[cfg(not(target_arch = "wasm32"))]
mod properties {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            (-1e9..1e9).prop_map(Value::from),
            ".{0,5}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 30, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab~/]{0,2}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        /// A value fits what says that it is itself, and nothing fits both a schema and its opposite.
        #[test]
        fn const_and_not(value in any_json(), other in any_json()) {
            let (schema, text) = (json!({ "const": value }).to_string(), value.to_string());
            prop_assert_eq!(violations(&schema, &text), vec![]);
            let opposite = json!({ "not": { "const": value } }).to_string();
            prop_assert!(!violations(&opposite, &text).is_empty());
            let other = other.to_string();
            prop_assert_ne!(violations(&schema, &other).is_empty(), violations(&opposite, &other).is_empty());
        }

        /// Whatever is written as a schema, and whatever is held against it: an answer, within bounds.
        #[test]
        fn never_panics(schema in any_json(), value in any_json()) {
            for schema in [schema.clone(), json!({ "properties": schema }), json!({ "anyOf": [schema] })] {
                prop_assert!(violations(&schema.to_string(), &value.to_string()).len() <= 8);
            }
            let _ = Schema::check(&value.to_string());
        }
    }
}
