//! The overview as tables.

use serde_json::Value;

use super::{columns, word};

/// Everything that was counted, and how things are.
pub(super) fn table(overview: &Value) -> String {
    let mut out = heading(overview);
    out.push('\n');
    out.push_str(&profiles(overview, |row| word(&row["requests"]), "requests"));
    for part in [upstreams(overview), tools(overview), abuse(overview), waits(overview)] {
        if !part.is_empty() {
            out.push('\n');
            out.push_str(&part);
        }
    }
    out
}

/// When, of what.
pub(super) fn heading(overview: &Value) -> String {
    let [at, version, started] =
        [&overview["at"], &overview["config"]["version"], &overview["startedAt"]].map(word);
    format!("{at}  config {version}  since {started}\n")
}

/// A row for each profile; the second column is the caller's.
pub(super) fn profiles(overview: &Value, second: impl Fn(&Value) -> String, name: &str) -> String {
    let heads = [
        "profile", name, "errors", "timeouts", "refused", "fallback", "cached", "tokens", "p50 ms", "p95 ms",
        "p99 ms", "first ms",
    ];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for row in list(&overview["profiles"]) {
        let mark = match row["version"].as_str() {
            Some("candidate") => " (new)",
            Some(_) => " (running)",
            None => "",
        };
        let mut cells = vec![format!("{}{mark}", word(&row["profile"])), second(row)];
        let counts = ["errors", "timeouts", "refusals", "fallbacks", "cacheHits", "tokens"];
        cells.extend(counts.map(|count| word(&row[count])));
        cells.extend(["p50", "p95", "p99"].map(|quantile| word(&row["latencyMs"][quantile])));
        cells.push(word(&row["firstTokenMs"]["p50"]));
        rows.push(cells);
    }
    columns(&rows)
}

/// A row for each upstream.
pub(super) fn upstreams(overview: &Value) -> String {
    section(&overview["upstreams"], &["upstream", "running", "slots", "waiting", "breaker"], |row| {
        ["name", "running", "slots", "waiting", "breaker"].map(|name| word(&row[name])).to_vec()
    })
}

fn tools(overview: &Value) -> String {
    section(&overview["tools"], &["tool", "calls", "failures"], |row| {
        ["tool", "calls", "failures"].map(|name| word(&row[name])).to_vec()
    })
}

/// A line of the signs that were seen; nothing where there was none.
pub(super) fn abuse(overview: &Value) -> String {
    counts("abuse", &overview["abuse"])
}

/// What waits for a person, and how each rollout stands.
pub(super) fn waits(overview: &Value) -> String {
    let mut out = String::new();
    if let Some(waiting) = overview["approvals"].as_u64().filter(|waiting| *waiting > 0) {
        out.push_str(&format!("approvals  {waiting} wait: minigate approvals\n"));
    }
    for rollout in list(&overview["rollouts"]) {
        let finding =
            rollout["finding"].as_str().map(|finding| format!(", found: {}", super::plain(finding)));
        let [intent, state] = [&rollout["intent"], &rollout["state"]].map(word);
        out.push_str(&format!("rollout    {intent} {state}{}\n", finding.unwrap_or_default()));
    }
    out
}

fn counts(name: &str, all: &Value) -> String {
    let seen = all.as_object().into_iter().flatten().filter(|(_, count)| count.as_u64() != Some(0));
    let seen: Vec<String> =
        seen.map(|(sign, count)| format!("{} {}", super::plain(sign), word(count))).collect();
    if seen.is_empty() { String::new() } else { format!("{name:<11}{}\n", seen.join("  ")) }
}

fn section(rows: &Value, heads: &[&str], cells: impl Fn(&Value) -> Vec<String>) -> String {
    let rows: Vec<Vec<String>> = list(rows).map(cells).collect();
    if rows.is_empty() {
        return String::new();
    }
    let heads = heads.iter().map(|head| (*head).to_owned()).collect();
    columns(&[vec![heads], rows].concat())
}

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;

    pub(in crate::operator) fn overview(requests: u64) -> Value {
        json!({
            "at": "2026-11-21T03:46:37.000Z", "startedAt": null, "config": {"version": "c0ffee"},
            "profiles": [{
                "profile": "qa_v2", "version": "candidate", "requests": requests, "errors": 1, "timeouts": 0,
                "refusals": 0, "fallbacks": 0, "cacheHits": 2, "tokens": 70,
                "latencyMs": {"p50": 200, "p95": 900, "p99": null},
                "firstTokenMs": {"p50": 80, "p95": 90, "p99": 95},
            }],
            "tools": [], "upstreams": [
                {"name": "openclaw", "running": 3, "waiting": 1, "slots": 8, "breaker": "closed"}
            ],
            "abuse": {"repeated": 0, "blocked": 2}, "approvals": 1,
            "rollouts": [{"intent": "qa", "state": "rolled_back", "finding": "down"}],
        })
    }

    #[test]
    fn an_overview_is_told_in_tables() {
        let text = table(&overview(12));
        for line in [
            "2026-11-21T03:46:37.000Z  config c0ffee  since –",
            "openclaw        3      8        1   closed",
            "abuse      blocked 2",
            "approvals  1 wait: minigate approvals",
            "rollout    qa rolled_back, found: down",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        let row = text.lines().find(|line| line.starts_with("qa_v2 (new)")).expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells, ["qa_v2", "(new)", "12", "1", "0", "0", "0", "2", "70", "200", "900", "–", "80"]);
    }

    #[test]
    fn what_is_not_there_is_left_out() {
        let text = table(&json!({}));
        assert_eq!(text.lines().count(), 3, "{text}");
    }
}
