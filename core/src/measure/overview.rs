//! What an operator's page shows, out of the same counts as `/metrics`.
//!
//! Counters are totals, as there: who wants a rate takes the difference of two. Only names of the
//! configuration are in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{BreakerState, Ending, Load, Sign, Snapshot, totals::TurnTotals};
use crate::{
    exchange::timestamp,
    seam::MODEL,
    state::{histogram::Histogram, rollout::Version},
};

/// All of it but what the counts do not know. `version` says what a profile is to a rollout.
pub fn overview(snapshot: &Snapshot, version: impl Fn(&str) -> Option<Version>) -> Value {
    let totals = &snapshot.totals;
    // One row for each profile, whichever intents it answers.
    let mut profiles: BTreeMap<String, TurnTotals> = BTreeMap::new();
    for (labels, turns) in &totals.turns {
        let name = if labels.profile.is_empty() {
            format!("{MODEL}{}", labels.model)
        } else {
            labels.profile.clone()
        };
        profiles.entry(name).or_default().merge(turns);
    }
    let profiles = profiles.iter().map(|(name, turns)| profile(name, version(name), turns, snapshot.now_ms));
    let tools = totals.tools.iter().map(|(tool, calls)| {
        let failures = totals.failed_tools.get(tool).copied().unwrap_or_default();
        json!({"tool": tool, "calls": calls, "failures": failures})
    });
    let signs = [Sign::Repeated, Sign::Spiked, Sign::Slowed, Sign::Restricted, Sign::Blocked, Sign::Limited];
    let abuse: BTreeMap<&str, u64> = signs
        .into_iter()
        .map(|sign| (sign.name(), totals.signs.get(&sign).copied().unwrap_or_default()))
        .collect();
    json!({
        "at": timestamp(snapshot.now_ms),
        "startedAt": snapshot.process.started_ms.map(timestamp),
        "profiles": profiles.collect::<Vec<_>>(),
        "tools": tools.collect::<Vec<_>>(),
        "upstreams": snapshot.loads.iter().map(upstream).collect::<Vec<_>>(),
        "abuse": abuse,
        "errors": totals.errors,
    })
}

fn profile(name: &str, version: Option<Version>, turns: &TurnTotals, now_ms: u64) -> Value {
    let ended = |ending| turns.endings.get(&ending).copied().unwrap_or_default();
    json!({
        "profile": name,
        "version": version,
        "requests": turns.endings.values().sum::<u64>(),
        "errors": ended(Ending::Failed),
        "timeouts": ended(Ending::TimedOut),
        "refusals": ended(Ending::Refused),
        "rejected": ended(Ending::Rejected),
        "invalid": ended(Ending::Invalid),
        "left": ended(Ending::Left),
        "fallbacks": turns.fallbacks,
        "retries": turns.retries,
        "schemaFailures": turns.schema_failures,
        "cacheHits": turns.cached,
        "tokens": turns.input.sum().saturating_add(turns.output.sum()),
        // Whole turns, of the last minutes; until the first text, since the counts began.
        "latencyMs": quantiles(&turns.last_minutes(now_ms)),
        "firstTokenMs": quantiles(&turns.first),
    })
}

fn quantiles(histogram: &Histogram) -> Value {
    json!({
        "p50": histogram.quantile(500),
        "p95": histogram.quantile(950),
        "p99": histogram.quantile(990),
    })
}

fn upstream(load: &Load) -> Value {
    let states = load.breakers.iter().map(|(_, state)| *state);
    // The worst of its models'.
    let worst = states.max_by_key(|state| match state {
        BreakerState::Closed => 0,
        BreakerState::HalfOpen => 1,
        BreakerState::Open => 2,
    });
    json!({
        "name": load.upstream,
        "running": load.leases,
        "waiting": load.waiting,
        "slots": load.slots,
        "breaker": match worst.unwrap_or_default() {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half_open",
            BreakerState::Open => "open",
        },
    })
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::measure::{Labels, Sample, Turn};

    fn sample(profile: &str, intent: &str, ending: Ending) -> Sample {
        let labels = Labels { intent: intent.into(), profile: profile.into(), model: "m".into() };
        let turn = Turn { labels, ending, tokens: Some((3, 4)), ..Turn::default() };
        Sample { route: "/v1/mini/ask".into(), turn: Some(turn), total_ms: 200, ..Sample::default() }
    }

    #[test]
    fn a_profile_is_one_row_whichever_intents_it_answers() {
        let mut snapshot = Snapshot { now_ms: 1_795_232_797_000, ..Snapshot::default() };
        for sample in [
            sample("qa_v1", "qa", Ending::Answered),
            sample("qa_v1", "other", Ending::TimedOut),
            sample("", "", Ending::Failed),
        ] {
            snapshot.totals.absorb(&sample, snapshot.now_ms);
        }
        let mut called = sample("qa_v1", "qa", Ending::Answered);
        (called.tools, called.failed_tools) = (vec!["t".into(), "t".into()], vec!["t".into()]);
        snapshot.totals.absorb(&called, snapshot.now_ms);
        let shown = overview(&snapshot, |name| (name == "qa_v1").then_some(Version::Candidate));
        let rows = shown["profiles"].as_array().expect("rows");
        let names: Vec<&Value> = rows.iter().map(|row| &row["profile"]).collect();
        assert_eq!(names, ["model:m", "qa_v1"]);
        let (plain, qa) = (&rows[0], &rows[1]);
        assert_eq!((&plain["version"], &plain["errors"]), (&Value::Null, &json!(1)));
        assert_eq!((&qa["version"], &qa["requests"]), (&json!("candidate"), &json!(3)));
        assert_eq!((&qa["timeouts"], &qa["tokens"]), (&json!(1), &json!(21)));
        let p95 = qa["latencyMs"]["p95"].as_u64().expect("a time");
        assert!(p95.abs_diff(200) <= 200 / 32, "{p95}");
        assert_eq!(qa["firstTokenMs"]["p50"], Value::Null, "nothing is known of it");
        assert_eq!(shown["tools"], json!([{"tool": "t", "calls": 2, "failures": 1}]));
        assert_eq!(shown["abuse"]["payload_spike"], 0);
        assert_eq!(shown["startedAt"], Value::Null);
    }

    #[test]
    fn an_upstream_is_as_bad_as_its_worst_model() {
        let breakers = vec![("a".into(), BreakerState::Closed), ("b".into(), BreakerState::HalfOpen)];
        let load = Load { upstream: "openclaw".into(), waiting: 2, leases: 8, slots: 8, breakers };
        let snapshot = Snapshot { loads: vec![load], ..Snapshot::default() };
        let shown = overview(&snapshot, |_| None);
        let expected = json!([
            {"name": "openclaw", "running": 8, "waiting": 2, "slots": 8, "breaker": "half_open"}
        ]);
        assert_eq!(shown["upstreams"], expected);
    }
}
