//! Prometheus' text format, version 0.0.4.

use std::fmt::Write as _;

use super::{Family, Kind, Number};

/// The names with underscores, the unit and `_total` at their ends, as OpenTelemetry's rules for
/// Prometheus spell them.
pub fn render(families: &[Family]) -> String {
    let mut out = String::with_capacity(32 * 1024);
    for family in families.iter().filter(|family| !family.points.is_empty()) {
        // Writing to a String cannot fail.
        let _ = write_family(&mut out, family);
    }
    out
}

fn write_family(out: &mut String, family: &Family) -> std::fmt::Result {
    let name = name(family);
    let kind = match family.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
        Kind::Summary => "summary",
    };
    writeln!(out, "# HELP {name} {}\n# TYPE {name} {kind}", family.help)?;
    for point in &family.points {
        let labels: Vec<String> = point
            .labels
            .iter()
            .map(|(name, value)| format!("{}=\"{}\"", dotless(name), escaped(value)))
            .collect();
        let labels = labels.join(",");
        match &point.number {
            Number::Value(value) => line(out, &name, "", &labels, "", &value.to_string())?,
            Number::Buckets { below, count, sum } => {
                for (end, count) in below {
                    line(
                        out,
                        &name,
                        "_bucket",
                        &labels,
                        &format!("le=\"{}\"", short(*end)),
                        &count.to_string(),
                    )?;
                }
                line(out, &name, "_bucket", &labels, "le=\"+Inf\"", &count.to_string())?;
                line(out, &name, "_sum", &labels, "", &short(*sum))?;
                line(out, &name, "_count", &labels, "", &count.to_string())?;
            }
            // A sum and a count of a few minutes would look like counters that are reset.
            Number::Quantiles { quantiles, .. } => {
                for (quantile, value) in quantiles {
                    line(out, &name, "", &labels, &format!("quantile=\"{quantile}\""), &short(*value))?;
                }
            }
        }
    }
    Ok(())
}

fn line(out: &mut String, name: &str, end: &str, labels: &str, more: &str, value: &str) -> std::fmt::Result {
    let comma = if labels.is_empty() || more.is_empty() { "" } else { "," };
    match (labels, more) {
        ("", "") => writeln!(out, "{name}{end} {value}"),
        _ => writeln!(out, "{name}{end}{{{labels}{comma}{more}}} {value}"),
    }
}

fn name(family: &Family) -> String {
    let unit = match family.unit {
        "s" => "_seconds",
        "By" => "_bytes",
        _ => "",
    };
    let total = if family.kind == Kind::Counter { "_total" } else { "" };
    format!("{}{unit}{total}", dotless(family.name))
}

fn dotless(name: &str) -> String {
    name.replace('.', "_")
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// A number without the noise of its binary form: nine digits after the point say nanoseconds.
fn short(value: f64) -> String {
    let text = format!("{value:.9}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::measure::Point;

    #[test]
    fn a_value_and_a_histogram() {
        let point = |labels: Vec<(&'static str, String)>, number| Point { labels, number };
        let families = [
            Family {
                name: "minigate.errors",
                unit: "",
                help: "Failed.",
                kind: Kind::Counter,
                points: vec![point(vec![("error.type", "a\"b\\c\nd".into())], Number::Value(3.0))],
            },
            Family {
                name: "minigate.queue.wait",
                unit: "s",
                help: "Waits.",
                kind: Kind::Histogram,
                points: vec![point(
                    Vec::new(),
                    Number::Buckets { below: vec![(0.001, 1), (0.1 + 0.2, 2)], count: 3, sum: 4.5 },
                )],
            },
            Family { name: "nothing", unit: "", help: "", kind: Kind::Gauge, points: Vec::new() },
        ];
        let expected = "# HELP minigate_errors_total Failed.\n# TYPE minigate_errors_total counter\n\
            minigate_errors_total{error_type=\"a\\\"b\\\\c\\nd\"} 3\n\
            # HELP minigate_queue_wait_seconds Waits.\n# TYPE minigate_queue_wait_seconds histogram\n\
            minigate_queue_wait_seconds_bucket{le=\"0.001\"} 1\n\
            minigate_queue_wait_seconds_bucket{le=\"0.3\"} 2\n\
            minigate_queue_wait_seconds_bucket{le=\"+Inf\"} 3\n\
            minigate_queue_wait_seconds_sum 4.5\nminigate_queue_wait_seconds_count 3\n";
        assert_eq!(render(&families), expected);
    }
}
