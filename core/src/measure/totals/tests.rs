#[cfg(not(target_arch = "wasm32"))]
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::measure::{Snapshot, families, render};

/// 2026-11-21 03:46:37 UTC.
const NOW: u64 = 1_795_232_797_000;

fn turn(profile: &str, total_ms: u32) -> Sample {
    Sample {
        route: "/v1/mini/ask".into(),
        status: 200,
        total_ms,
        own_us: Some(120),
        body_bytes: 900,
        turn: Some(Turn {
            labels: Labels { intent: "qa".into(), profile: profile.into(), model: "fast".into() },
            model_ms: Some(total_ms),
            first_ms: Some(total_ms / 2),
            tokens: Some((1_000, 50)),
            ..Turn::default()
        }),
        ..Sample::default()
    }
}

fn text(totals: &Totals) -> String {
    render(&families(&Snapshot { totals: totals.clone(), now_ms: NOW, ..Snapshot::default() }))
}

fn value(text: &str, series: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{series} in\n{text}")).parse().unwrap()
}

#[test]
fn turns_are_counted_and_shown() {
    let mut totals = Totals::default();
    for ms in 1..=100 {
        totals.absorb(&turn("v1", ms * 10), NOW);
    }
    let mut failed = turn("v1", 5);
    failed.code = Some(crate::wire::failure::Code::UpstreamTimeout);
    failed.status = 504;
    failed.signs = vec![Sign::Repeated];
    let part = failed.turn.as_mut().unwrap();
    (part.ending, part.fell_back, part.retries) = (Ending::TimedOut, true, 2);
    totals.absorb(&failed, NOW);
    let text = text(&totals);
    let labels = "minigate_intent=\"qa\",minigate_profile=\"v1\",gen_ai_request_model=\"fast\"";
    for (series, expected) in [
        (format!("minigate_turns_total{{{labels},outcome=\"answered\"}}"), 100.0),
        (format!("minigate_turns_total{{{labels},outcome=\"timeout\"}}"), 1.0),
        (format!("minigate_turns_total{{{labels},outcome=\"refused\"}}"), 0.0),
        (format!("minigate_fallbacks_total{{{labels}}}"), 1.0),
        (format!("minigate_retries_total{{{labels}}}"), 2.0),
        ("minigate_errors_total{error_type=\"upstream_timeout\"}".into(), 1.0),
        ("minigate_abuse_signs_total{sign=\"repeated\"}".into(), 1.0),
        (
            "http_server_request_duration_seconds_count{http_route=\"/v1/mini/ask\",http_response_status_code=\"200\"}"
                .into(),
            100.0,
        ),
        (
            format!("gen_ai_client_token_usage_sum{{gen_ai_operation_name=\"chat\",{labels},gen_ai_token_type=\"output\"}}"),
            5_050.0,
        ),
        ("minigate_module_seconds_count".into(), 101.0),
    ] {
        assert_eq!(value(&text, &series), expected, "{series}");
    }
    for (quantile, expected) in [("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99)] {
        let found =
            value(&text, &format!("minigate_turn_duration_seconds{{{labels},quantile=\"{quantile}\"}}"));
        assert!((found / expected - 1.0).abs() < 0.05, "{quantile}: {found}");
    }
}

#[test]
fn the_last_minutes_are_forgotten_and_the_counts_are_not() {
    let mut totals = Totals::default();
    totals.absorb(&turn("v1", 9_000), NOW);
    for minute in 1..20 {
        totals.absorb(&turn("v1", 100), NOW + minute * 60_000);
    }
    let turns = totals.turns.values().next().unwrap();
    assert_eq!((turns.recent.len(), turns.model.count()), (5, 20));
    assert!(turns.last_minutes(NOW + 19 * 60_000).quantile(1_000).unwrap() < 110);
    assert_eq!(turns.last_minutes(NOW + 60 * 60_000).count(), 0, "old minutes are not recent");
}

/// A hundred thousand people, each with ids, texts and made-up names of their own.
#[test]
fn any_number_of_people_make_few_series() {
    let mut totals = Totals::default();
    for person in 0..100_000_u32 {
        let mut sample = turn(&format!("profile-{person}"), person % 60_000);
        sample.trace.shown_id = format!("trace-canary-{person}");
        sample.trace.trace_id = format!("{person:032x}");
        sample.failed_tools = vec![format!("tool-{person}")];
        totals.absorb(&sample, NOW + u64::from(person));
    }
    let text = text(&totals);
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    assert!(series < 20_000, "{series} series");
    assert!(!text.contains("canary"), "an id is a label");
    assert!(totals.turns.len() <= MOST_LABELS + 1);
    let bytes = totals.encode();
    assert!(bytes.len() < 512 * 1024, "{} bytes", bytes.len());
    let reduced = crate::state::reduce(&crate::state::Op::Absorb { totals: bytes.into() }, None, NOW);
    assert!(reduced.new.len() <= 128 * 1024, "{} bytes in a cell", reduced.new.len());
}

#[test]
fn bytes_of_another_kind_are_nothing() {
    assert!(Totals::decode(&[0xff; 30]).is_empty());
    assert!(Totals::decode(&[]).is_empty());
}

#[cfg(not(target_arch = "wasm32"))]
fn any_totals() -> impl Strategy<Value = Totals> {
    let sample = (0..3_usize, 0..90_000_u32, 0..10_u64, any::<bool>());
    proptest::collection::vec(sample, 0..30).prop_map(|samples| {
        let mut totals = Totals::default();
        for (profile, ms, minute, odd) in samples {
            let mut sample = turn(["a", "b", "c"][profile], ms);
            if odd {
                sample.signs = vec![Sign::Limited];
                sample.queued_ms = Some(ms / 3);
                sample.code = Some(crate::wire::failure::Code::RateLimited);
            }
            totals.absorb(&sample, NOW + minute * 60_000);
        }
        totals
    })
}

#[cfg(not(target_arch = "wasm32"))]
proptest! {
    /// In whatever order threads, isolates and hosts are added up, the sum is the same.
    #[test]
    fn adding_up_has_no_order(a in any_totals(), b in any_totals(), c in any_totals()) {
        let sum = |parts: [&Totals; 3]| {
            let mut sum = Totals::default();
            parts.into_iter().for_each(|part| sum.merge(part));
            sum
        };
        let mut right = b.clone();
        right.merge(&c);
        let mut grouped = a.clone();
        grouped.merge(&right);
        let flat = sum([&a, &b, &c]);
        prop_assert_eq!(&flat, &sum([&c, &a, &b]));
        prop_assert_eq!(&flat, &grouped);
        prop_assert_eq!(&Totals::decode(&flat.encode()), &flat);
    }
}
