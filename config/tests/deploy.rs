//! What `deploy` gives: files that this program takes, services that need nobody's restart, and no secret.
//! Docker itself is not asked.

use minigate_config::{Source, check, to_json};
use serde_json::Value;

const COMPOSE: &str = include_str!("../../deploy/compose.yaml");

fn service<'v>(compose: &'v Value, name: &str) -> &'v Value {
    let found = &compose["services"][name];
    assert!(found.is_object(), "{name}");
    found
}

#[test]
fn services_are_healthy_by_themselves_and_have_no_secret_in_them() {
    // This reader takes no merge keys; what they bring is the same for both.
    let text: String = COMPOSE
        .lines()
        .filter(|line| !line.trim_start().starts_with("<<:"))
        .map(|line| line.replace("&gateway", "") + "\n")
        .collect();
    let compose = to_json(&text).expect("YAML");
    assert_eq!(compose["x-gateway"]["restart"], "unless-stopped");
    let secrets = compose["secrets"].as_object().expect("secrets");
    for name in ["model-gateway", "dingtalk-bot", "runtime"] {
        let service = service(&compose, name);
        assert!(service["healthcheck"]["test"].is_array(), "{name}");
        assert!(service["depends_on"].is_null(), "{name} can be started without the others");
        for secret in service["secrets"].as_array().expect("secrets") {
            assert!(secrets.contains_key(secret.as_str().expect("a name")), "{name}: {secret}");
        }
        for (variable, value) in service["environment"].as_object().expect("variables") {
            let is_secret = ["KEY", "TOKEN", "SECRET"].iter().any(|word| variable.contains(word));
            let value = value.as_str().expect("a text");
            assert!(!is_secret || value.starts_with("/run/secrets/"), "{name}: {variable}");
            if let Some(secret) = value.strip_prefix("/run/secrets/") {
                assert!(secrets.contains_key(secret), "{name}: {variable}");
            }
        }
    }
    for secret in secrets.values() {
        assert!(secret["file"].as_str().is_some_and(|path| path.starts_with("./secrets/")));
    }
}

#[test]
fn their_configurations_are_right() {
    for (name, text) in [
        ("models.yaml", include_str!("../../deploy/compose/models.yaml")),
        ("dingtalk.yaml", include_str!("../../deploy/compose/dingtalk.yaml")),
    ] {
        let checked = check(&[Source { name: name.into(), text: text.into() }], None);
        let lines: Vec<String> = checked.diagnostics.iter().map(ToString::to_string).collect();
        let catalog = checked.catalog.unwrap_or_else(|| panic!("{lines:?}"));
        // What it names, the service is given.
        for secret in catalog.secrets() {
            assert!(COMPOSE.contains(&format!("{secret}_FILE: /run/secrets/")), "{name}: {secret}");
        }
    }
}
