//! Whole files: those of the requirements word for word, one with every key, large and broken ones.

use std::time::Instant;

use minigate_config::{Checked, Severity, Source, check, json_schema};
use minigate_core::{
    policy::{
        ContentMode, Environment, Memory,
        catalog::{
            Approval, AuditRules, Cache, Caps, Catalog, FieldKind, LongInput, ModelKind, Overflow, Runtime,
            Slot, ToolClass, TurnRules,
        },
    },
    seam::Level,
    state::caller::Rate,
};
use proptest::prelude::*;

const MODEL_PROFILES: &str = include_str!("requirements/model-profiles.yaml");
const MINI_PROGRAM: &str = include_str!("requirements/mini-program-profiles.yaml");
const ENV_POLICY: &str = include_str!("requirements/env-policy.yaml");
const DINGTALK: &str = include_str!("requirements/dingtalk-local-model.yaml");
const FULL: &str = include_str!("full.yaml");

fn read(texts: &[&str]) -> Checked {
    let source = |(at, text): (usize, &&str)| Source { name: format!("{at}.yaml"), text: (*text).to_owned() };
    check(&texts.iter().enumerate().map(source).collect::<Vec<_>>(), None)
}

fn valid(texts: &[&str]) -> (Catalog, Vec<String>) {
    let checked = read(texts);
    let lines: Vec<String> = checked.diagnostics.iter().map(ToString::to_string).collect();
    (checked.catalog.unwrap_or_else(|| panic!("{lines:#?}")), lines)
}

#[test]
fn the_files_of_the_requirements_work_one_by_one() {
    let (catalog, warnings) = valid(&[MODEL_PROFILES]);
    assert_eq!(catalog.profiles.len(), 3);
    let qa = catalog.profile("fast_qa").expect("named");
    assert_eq!((qa.max_tokens, qa.temperature_milli), (Some(350), Some(200)));
    assert_eq!(qa.system_prompt, "Answer in 3-6 bullet points.");
    assert_eq!(catalog.intent("complex").map(|intent| intent.profile.as_str()), Some("strong_reasoning"));
    assert_eq!(
        warnings.first().map(String::as_str),
        Some(
            "0.yaml:4:12: warning: `fast` is not under `models`: the default agent's own model answers\n  \
             help: say under `models` what it stands for"
        )
    );

    let (catalog, _) = valid(&[MINI_PROGRAM]);
    assert_eq!(catalog.intent("summarize").map(|intent| intent.profile.as_str()), Some("summarize_v1"));
    assert_eq!(
        catalog.profile("summarize_v1").map(|profile| profile.system_prompt.as_str()),
        Some("You are a concise assistant.\nReturn bullet points only.")
    );

    let (catalog, warnings) = valid(&[ENV_POLICY]);
    assert!(
        catalog.allows(Environment::Dev, "summarize_v2")
            && !catalog.allows(Environment::Prod, "summarize_v2")
    );
    assert_eq!(catalog.rules(Environment::Dev).and_then(|rules| rules.log_level), Some(Level::Debug));
    assert_eq!(warnings.len(), 4);

    let (catalog, warnings) = valid(&[DINGTALK]);
    assert_eq!(warnings, [""; 0]);
    let model = catalog.model("local_chat").expect("named");
    assert_eq!((model.slots, model.timeout_ms), (Some(4), Some(12_000)));
    assert_eq!(
        model.kind,
        ModelKind::OpenAi {
            base_url: "http://127.0.0.1:8000/v1".into(),
            api_key: Some("LOCAL_MODEL_API_KEY".into()),
            model: "local-chat".into(),
        }
    );
    assert_eq!(catalog.default_model.as_deref(), Some("local_chat"));
}

#[test]
fn the_files_of_the_requirements_work_as_one_configuration() {
    let (catalog, warnings) = valid(&[MODEL_PROFILES, MINI_PROGRAM, ENV_POLICY, DINGTALK]);
    assert_eq!((catalog.profiles.len(), catalog.intents.len(), catalog.environments.len()), (5, 5, 2));
    // Profiles of version 2 that do not exist yet, and aliases without an entry.
    let unknown = warnings.iter().filter(|line| line.contains("no such profile yet")).count();
    assert_eq!((unknown, warnings.len()), (2, 7));
    assert_eq!(Catalog::decode(&catalog.encode()), Some(catalog));
}

#[test]
fn every_key_has_its_meaning() {
    let (catalog, warnings) = valid(&[FULL]);
    assert_eq!(warnings, [""; 0]);
    let one = catalog.profile("summarize_v1").expect("named");
    let slots = [
        Slot::Field("text".into()),
        Slot::Text("\n\nAt most ".into()),
        Slot::Field("maxBullets".into()),
        Slot::Text(" points, in ".into()),
        Slot::Field("language".into()),
        Slot::Text(".".into()),
    ];
    assert_eq!(one.prompt, slots);
    let kind =
        |name: &str| one.fields.iter().find(|field| field.name == name).map(|f| (f.kind.clone(), f.required));
    assert_eq!(kind("text"), Some((FieldKind::Text { max_chars: 5_000 }, true)));
    assert_eq!(kind("maxBullets"), Some((FieldKind::Integer { min: 1, max: 20 }, true)));
    assert_eq!(kind("language"), Some((FieldKind::Choice(vec!["Chinese".into(), "English".into()]), false)));
    assert_eq!(kind("tone"), Some((FieldKind::Choice(vec!["warm".into(), "plain".into()]), false)));
    assert_eq!(kind("brief"), Some((FieldKind::Boolean, false)));
    assert_eq!(one.cache, Some(Cache { ttl_s: 3_600, shared: true }));
    assert_eq!((one.long_input, one.redact, one.context_tokens), (LongInput::Cut, true, Some(6_000)));
    assert_eq!(one.timeout_ms, Some(20_000));

    let two = catalog.profile("summarize_v2").expect("named");
    assert_eq!((two.model.as_str(), two.cache), ("local_chat", Some(Cache { ttl_s: 600, shared: false })));
    assert_eq!(two.prompt, one.prompt);

    let support = catalog.profile("support_v1").expect("named");
    assert_eq!((support.model.as_str(), support.memory, support.cost), ("strong", Memory::Gateway, 4));
    assert_eq!(support.roles, ["vip", "operator"]);
    assert_eq!(
        (support.fallback.as_deref(), support.draft.as_deref()),
        (Some("summarize_v1"), Some("summarize_v1"))
    );
    let names: Vec<&str> = support.fields.iter().map(|field| field.name.as_str()).collect();
    assert_eq!(names, ["text", "maxBullets", "schemaName", "language"]);

    let extract = catalog.profile("extract_v1").expect("named");
    assert_eq!((extract.json, extract.schema.as_deref()), (true, Some("order_info_v1")));
    assert!(
        catalog.schema("order_info_v1").is_some_and(|schema| schema.text.contains(r#""required":["order"]"#))
    );
    assert_eq!(catalog.schema("note_v1").map(|schema| schema.text.as_str()), Some(r#"{"type": "object"}"#));

    let prod = catalog.rules(Environment::Prod).expect("named");
    assert_eq!(prod.rate, Some(Rate { per_minute: 30, burst: 10 }));
    assert_eq!(prod.daily, Some(Caps { requests: Some(200), tokens: Some(100_000) }));
    assert_eq!(prod.content, Some(ContentMode::Enforce));
    let vip = catalog.role("vip").expect("named");
    assert_eq!((vip.rate, vip.weight), (Some(Rate { per_minute: 300, burst: 60 }), Some(4)));
    assert_eq!((vip.daily_together.requests, vip.max_cost), (Some(100_000), Some(4)));
    assert_eq!(catalog.role("").map(|role| role.daily.requests), Some(Some(500)));
    assert_eq!(catalog.faq.first().map(|curated| curated.keys.len()), Some(2));
    assert!(catalog.redaction.mobile && !catalog.redaction.bank_card);
    assert_eq!(catalog.redaction.custom.first().map(|custom| custom.name()), Some("employee"));
    let rollout = catalog.intent("summarize").and_then(|intent| intent.rollout.clone()).expect("named");
    assert_eq!((rollout.from.as_str(), rollout.to.as_str()), ("summarize_v1", "summarize_v2"));
    let steps: Vec<_> =
        rollout.plan.steps.iter().map(|step| (step.share, step.at_least_ms, step.at_least_turns)).collect();
    assert_eq!(steps, [(500, 7_200_000, 200), (5_000, 3_600_000, 0)]);
    let guard = rollout.plan.guard;
    assert_eq!((guard.failed, guard.empty, guard.schema), (Some(50), None, Some(100)));
    assert_eq!((guard.p95, guard.tokens), (Some(200), None));
    let local = catalog.model("local_chat").expect("named");
    let runtime = Runtime {
        replicas: vec!["http://model-gateway-2:8000/v1".into()],
        context_tokens: Some(8_192),
        max_tokens: Some(1_024),
        on_overflow: Overflow::Trim,
        fallback: Some("small_chat".into()),
        warm_up: true,
    };
    assert_eq!((&local.runtime, local.replicas()), (&runtime, 2));
    let servers: Vec<_> = catalog.servers().map(|(name, _)| name).collect();
    assert_eq!(servers[..3], ["model:local_chat", "model:local_chat#1", "model:small_chat"]);
    let support = catalog.intent("support").expect("named");
    assert_eq!(support.by_role, [("vip".to_owned(), "support_v1".to_owned())]);
    assert_eq!(support.max_tokens, Some(800));
}

#[test]
fn tools_turns_and_the_audit_have_their_meaning() {
    let (catalog, _) = valid(&[FULL]);
    let support = catalog.profile("support_v1").expect("named");
    assert_eq!(support.tools, ["cancel_order", "erase_account", "find_order"]);
    assert_eq!((support.max_tool_calls, support.sync_deadline_ms), (4, Some(9_000)));
    assert_eq!(catalog.profile("extract_v1").map(|profile| profile.max_tool_calls), Some(8));
    let find = catalog.tool("find_order").expect("named");
    assert_eq!((find.class, find.approve, find.timeout_ms), (ToolClass::Read, None, 5_000));
    assert_eq!(find.secret.as_deref(), Some("SHOP_KEY"));
    assert!(find.parameters.contains(r#""required":["number"]"#) && !find.idempotent);
    let cancel = catalog.tool("cancel_order").expect("named");
    assert_eq!((cancel.class, cancel.approve), (ToolClass::Write, Some(Approval::UserAndOperator)));
    assert_eq!((cancel.timeout_ms, cancel.approve_within_s, cancel.idempotent), (10_000, 3_600, true));
    assert_eq!(cancel.url, "http://shop:8080/tools/cancel");
    let erase = catalog.tool("erase_account").expect("named");
    assert_eq!((erase.approve, erase.approve_within_s), (Some(Approval::UserAndOperator), 900));
    assert_eq!(
        catalog.secrets(),
        ["DINGTALK_APP_KEY", "DINGTALK_APP_SECRET", "LOCAL_MODEL_API_KEY", "SHOP_KEY", "WEBHOOK_SECRET"]
    );
    let servers: Vec<String> = catalog.servers().map(|(name, _)| name).collect();
    assert_eq!(servers[3..], ["tool:cancel_order", "tool:erase_account", "tool:find_order", "webhook"]);
    assert_eq!(catalog.tools_of(support).len(), 3);
    let mut unaudited = catalog.clone();
    unaudited.audit.enabled = false;
    assert_eq!(unaudited.tools_of(support).len(), 2);

    let side_effects = ["fast", "strong", "local_chat", "unknown"].map(|alias| catalog.side_effects(alias));
    assert_eq!(side_effects, [true, false, false, true]);
    assert_eq!(catalog.turns, TurnRules { keep_s: 172_800, timeout_ms: 600_000 });
    assert_eq!(catalog.audit, AuditRules { enabled: true, content: Some(false), keep_s: 2_592_000 });
    let (usual, _) = valid(&["audit:\nturns: {}\n"]);
    assert_eq!((usual.turns, usual.audit), (TurnRules::default(), AuditRules::default()));
    assert!(usual.audit.has_content(Environment::Dev) && !usual.audit.has_content(Environment::Staging));
}

#[test]
fn a_version_names_the_sources() {
    let version = |texts: &[&str]| valid(texts).0.version;
    assert_eq!(version(&[DINGTALK]).len(), 12);
    assert_eq!(version(&[DINGTALK, ENV_POLICY]), version(&[DINGTALK, ENV_POLICY]));
    assert_ne!(version(&[DINGTALK, ENV_POLICY]), version(&[ENV_POLICY, DINGTALK]));
}

#[test]
fn what_nothing_answers_in_an_environment_is_said() {
    let text = format!("{MINI_PROGRAM}\nenvironments:\n  prod:\n    allowed_profiles: [summarize_v1]\n");
    let source = Source { name: "a.yaml".into(), text };
    let found = check(&[source], Some(Environment::Prod)).diagnostics;
    assert!(found.iter().any(|found| found.message == "in prod nothing answers `support`"), "{found:?}");
    assert!(!found.iter().any(|found| found.message.contains("summarize")));
}

#[test]
fn the_json_schema_takes_what_the_check_takes() {
    let schema = serde_json::from_str(&json_schema()).expect("JSON");
    let validator = jsonschema::draft202012::new(&schema).expect("a JSON Schema");
    let parse = |text: &str| minigate_config::to_json(text).expect("YAML");
    for file in [MODEL_PROFILES, MINI_PROGRAM, ENV_POLICY, DINGTALK, FULL] {
        let found: Vec<String> = validator.iter_errors(&parse(file)).map(|error| error.to_string()).collect();
        assert_eq!(found, [""; 0], "{file}");
    }
    let bad = [
        "profile: {}",
        "profiles: {a: {model: m, max_token: 5}}",
        "profiles: {a: {model: m, max_tokens: many}}",
        "profiles: {a: {model: m, tools: [X]}}",
        "tools: {t: {description: x, class: read, url: 'https://a.example'}}",
        "models: {m: {kind: openai_compatible, model: x}}",
        "models: {m: {kind: openai_compatible, model: x, base_url: 'http://localhost', api_key: abc}}",
        "environments: {production: {}}",
        "routing: {a: {}}",
    ];
    for file in bad {
        assert!(!validator.is_valid(&parse(file)), "{file}");
    }
}

/// Twice the profiles take about twice the time; quadratic work would take four times it.
#[test]
fn a_thousand_profiles_are_read_in_linear_time() {
    let file = |count: usize| {
        let mut text = String::from("models: {fast: {kind: openclaw}}\nprofiles:\n");
        for n in 0..count {
            let next = if n + 1 < count { format!("    fallback: p{}\n", n + 1) } else { String::new() };
            text += &format!(
                "  p{n}:\n    model: fast\n    system_prompt: Answer briefly.\n    max_tokens: 100\n{next}"
            );
        }
        text += "routing:\n";
        (0..count).for_each(|n| text += &format!("  i{n}: p{n}\n"));
        text
    };
    let time = |text: &str| {
        let run = || {
            let begun = Instant::now();
            assert!(read(&[text]).diagnostics.is_empty());
            begun.elapsed()
        };
        (0..3).map(|_| run()).min().expect("three runs")
    };
    let (small, large) = (time(&file(500)), time(&file(4_000)));
    assert!(large < small * 24, "500 profiles in {small:?}, 4000 in {large:?}");
    assert_eq!(valid(&[&file(1_000)]).0.profiles.len(), 1_000);
}

/// A change of a file: a cut, a doubled or a swapped line, or some characters in between.
fn broken() -> impl Strategy<Value = String> {
    let files = prop::sample::select(vec![FULL, MODEL_PROFILES, MINI_PROGRAM, ENV_POLICY, DINGTALK]);
    let junk = prop_oneof![
        "[ \\t\\n:{}\\[\\],&*!|>'\"%@`#?<$~0-9a-z-]{0,12}",
        prop::sample::select(vec![
            "*summarize",
            "<<: ",
            "${X}",
            "{{",
            "}}",
            "- ",
            "? ",
            "\u{0}",
            "\u{feff}",
            "时",
            "!!int "
        ])
        .prop_map(str::to_owned),
    ];
    let change = (any::<prop::sample::Index>(), 0..20_usize, junk);
    (files, prop::collection::vec(change, 1..6)).prop_map(|(file, changes)| {
        let mut text: Vec<char> = file.chars().collect();
        for (at, cut, junk) in changes {
            let at = at.index(text.len() + 1);
            let end = (at + cut).min(text.len());
            text.splice(at..end, junk.chars());
        }
        text.into_iter().collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a file holds: no panic, a place within it, and a catalog exactly when nothing is wrong.
    #[test]
    fn no_file_breaks_the_reader(first in broken(), second in broken()) {
        let checked = read(&[&first, &second]);
        let failed = checked.diagnostics.iter().any(|found| found.severity == Severity::Error);
        prop_assert_eq!(checked.catalog.is_none(), failed);
        for found in &checked.diagnostics {
            let text = if found.file == "0.yaml" { &first } else { &second };
            prop_assert!(found.line >= 1 && found.line <= text.lines().count() + 2, "{}", found);
            prop_assert!(found.column >= 1 && !found.message.contains('\n'), "{}", found);
        }
        if let Some(catalog) = checked.catalog {
            prop_assert_eq!(Catalog::decode(&catalog.encode()), Some(catalog));
        }
    }
}
