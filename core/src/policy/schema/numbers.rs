//! What a schema asks of a number. Whole numbers are compared exactly, others as doubles.

use core::cmp::Ordering;

use serde_json::{Map, Number, Value};

/// The first rule that a number breaks, with its words.
pub(super) fn violated(schema: &Map<String, Value>, number: &Number) -> Option<(&'static str, String)> {
    let bound = |keyword| match schema.get(keyword) {
        Some(Value::Number(bound)) => Some(bound),
        _ => None,
    };
    type Holds = fn(Ordering) -> bool;
    let rules: [(&'static str, &str, Holds); 4] = [
        ("minimum", "at least", Ordering::is_ge),
        ("maximum", "at most", Ordering::is_le),
        ("exclusiveMinimum", "more than", Ordering::is_gt),
        ("exclusiveMaximum", "less than", Ordering::is_lt),
    ];
    for (keyword, words, holds) in rules {
        if let Some(bound) = bound(keyword).filter(|bound| !holds(compare(number, bound))) {
            return Some((keyword, format!("must be {words} {bound}")));
        }
    }
    let unit = bound("multipleOf").filter(|unit| !is_multiple(number, unit))?;
    Some(("multipleOf", format!("must be a multiple of {unit}")))
}

/// Which of two numbers is the greater.
pub(super) fn compare(a: &Number, b: &Number) -> Ordering {
    match (whole(a), whole(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => double(a).partial_cmp(&double(b)).unwrap_or(Ordering::Equal),
    }
}

/// Whether a number is whole; `1.0` is.
pub(super) fn is_integer(number: &Number) -> bool {
    whole(number).is_some() || double(number).fract() == 0.0
}

fn is_multiple(number: &Number, unit: &Number) -> bool {
    if let (Some(number), Some(unit)) = (whole(number), whole(unit)) {
        return unit != 0 && number % unit == 0;
    }
    // 19.99 is a multiple of 0.01, though not in doubles.
    let times = double(number) / double(unit);
    (times - times.round()).abs() <= 1e-9 * times.abs().max(1.0)
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or(number.as_u64().map(i128::from))
}

fn double(number: &Number) -> f64 {
    number.as_f64().unwrap_or_default()
}
