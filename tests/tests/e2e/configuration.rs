//! Configuration files: served with on both hosts, refused with their mistakes, replaced on the
//! edge by what KV has.

use std::time::Duration;

use minigate_config::{Source, check};
use minigate_tests::{
    client::{Client, KEY},
    hosts::{Host, Kind, refused},
    until,
    upstream::TOKEN,
};

use crate::{Scenario, Scene, scenarios};

const MODELS: &str = "\
models:
  local: {kind: openai_compatible, base_url: 'http://127.0.0.1:9/v1', model: m, api_key: '${LOCAL_KEY}'}
";
const PROFILES: &str = "profiles: {qa_v1: {model: local}}\nrouting: {qa: qa_v1}\n";
const OTHER: &str =
    "models: {fast: {kind: openclaw}}\nprofiles: {qa_v2: {model: fast}}\nrouting: {qa: qa_v2}\n";

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![files_are_served_with];
    all.extend(scenarios!(for &[Kind::Native]; mistakes_are_said_and_nothing_is_served, a_key_must_be_set));
    all.extend(
        scenarios!(for &[Kind::Edge]; kv_comes_before_the_deployment, without_a_key_nothing_is_served),
    );
    all
}

fn settings<'s>(scene: &'s Scene, key: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let mut settings = vec![
        ("MINIGATE_ENV", "dev"),
        ("API_KEY", KEY),
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
    ];
    settings.extend(key);
    settings
}

const WITH_KEY: &[(&str, &str)] = &[("LOCAL_KEY", "local-key-canary-77")];

fn version(texts: &[&str]) -> String {
    let source = |text: &&str| Source { name: String::new(), text: (*text).to_owned() };
    check(&texts.iter().map(source).collect::<Vec<_>>(), None).catalog.expect("valid").version
}

/// What the host says that it serves with.
async fn served(host: &Host) -> String {
    let version = Client::new(&host.url).get("/version").await.json();
    version["config"].as_str().unwrap_or_default().to_owned()
}

async fn files_are_served_with(scene: Scene) {
    let files = [("models.yaml", MODELS), ("profiles.yaml", PROFILES)];
    let host = Host::start_with_config(scene.kind, &files, &settings(&scene, WITH_KEY)).await;
    assert_eq!(served(&host).await, version(&[MODELS, PROFILES]));
    assert!(!host.output().contains("local-key-canary"), "{}", host.output());
    host.stop().await;
    let host = Host::start_with_config(scene.kind, &[], &settings(&scene, &[])).await;
    assert_eq!(served(&host).await, "");
    host.stop().await;
}

async fn mistakes_are_said_and_nothing_is_served(scene: Scene) {
    let path = std::env::temp_dir().join(format!("minigate-test-{}-mistakes.yaml", std::process::id()));
    std::fs::write(&path, "profiles:\n  a: {model: fast, max_token: 5}\nrouting: {qa: b}\n").expect("a file");
    let name = path.display().to_string();
    let (code, output) = refused(&settings(&scene, &[]), &["--config", &name]).await;
    let (by_variable, _) = refused(&settings(&scene, &[("MINIGATE_CONFIG", &name)]), &[]).await;
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!((code, by_variable), (Some(1), Some(1)), "{output}");
    for expected in
        ["unknown key `max_token`", "did you mean `max_tokens`?", "there is no profile `b`", ":3:15"]
    {
        assert!(output.contains(expected), "{expected}: {output}");
    }
}

async fn a_key_must_be_set(scene: Scene) {
    let path = std::env::temp_dir().join(format!("minigate-test-{}-models.yaml", std::process::id()));
    std::fs::write(&path, MODELS).expect("a file");
    let (code, output) = refused(&settings(&scene, &[]), &["--config", &path.display().to_string()]).await;
    std::fs::remove_file(&path).expect("it is there");
    assert_eq!(code, Some(1));
    assert!(output.contains("LOCAL_KEY: not set, and the configuration names it"), "{output}");
}

async fn kv_comes_before_the_deployment(scene: Scene) {
    let deployed = [("deployed.yaml", OTHER)];
    let stored = [("models.yaml", MODELS), ("profiles.yaml", PROFILES)];
    let host = Host::start_with_kv(&deployed, &stored, &settings(&scene, WITH_KEY)).await;
    assert_eq!(served(&host).await, version(&[MODELS, PROFILES]), "{}", host.output());
    host.stop().await;
    let host = Host::start_with_kv(&deployed, &[], &settings(&scene, &[])).await;
    assert_eq!(served(&host).await, "", "an empty value is a configuration without anything");
    host.stop().await;
}

async fn without_a_key_nothing_is_served(scene: Scene) {
    let host = Host::start_with_config(Kind::Edge, &[("models.yaml", MODELS)], &settings(&scene, &[])).await;
    assert_eq!(Client::new(&host.url).get("/version").await.status, 500);
    // The line may come after the answer.
    until("the line", Duration::from_secs(20), async || {
        host.output().contains("LOCAL_KEY: not set, and the configuration names it")
    })
    .await;
    host.stop().await;
}
