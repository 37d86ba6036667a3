//! Settings into a policy: every mistake at once, by name, with what would be right.
//!
//! Reads no environment: a host gathers the variables in [`NAMES`] and passes them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{Environment, HostFacts, Memory, Origins, Policy, RateLimit, StoreFailure, auth::KeyDigest};
use crate::seam::Level;

/// The settings that decide something here, by name.
pub const NAMES: &[&str] = &[
    "CHAT_CLIENT_SYSTEM",
    "CHAT_MEMORY",
    "CHAT_MODELS",
    "CONNECT_TIMEOUT_MS",
    "CORS_ALLOW_ORIGINS",
    "FAULT_INJECTION",
    "FIRST_BYTE_TIMEOUT_MS",
    "HEARTBEAT_MS",
    "IDLE_TIMEOUT_MS",
    "LOG_LEVEL",
    "MAX_ATTACHMENTS",
    "MAX_BODY_BYTES",
    "MAX_FILE_BYTES",
    "MAX_FILE_CHARS",
    "MAX_IMAGE_BYTES",
    "MAX_PDF_PAGES",
    "MAX_TOKENS",
    "MINIGATE_ENV",
    "OPENCLAW_AGENT",
    "OPENCLAW_GATEWAY_URL",
    "RATE_LIMIT_BURST",
    "RATE_LIMIT_PER_MINUTE",
    "STORE_FAILURE",
    "SYSTEM_PROMPT",
    "TRUSTED_PROXIES",
    "TURN_TIMEOUT_MS",
];

/// The secret settings. They may also come as files.
pub const SECRETS: &[&str] = &["API_KEY", "OPENCLAW_API_KEY", "OPENCLAW_GATEWAY_TOKEN", "SESSION_SECRET"];

/// Settings by name.
pub type Settings = BTreeMap<String, String>;

/// Secret settings by name. Used up by [`Policy::from_settings`]; only digests stay.
#[derive(Default)]
pub struct Secrets(pub BTreeMap<String, String>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Secrets {
    /// The value, when it is set and not empty.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }
}

/// One mistake in the settings. Never shows a secret's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingError {
    /// The setting's name.
    pub name: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.problem)
    }
}

/// Collects mistakes while reading.
struct Reader<'s> {
    settings: &'s Settings,
    errors: Vec<SettingError>,
}

impl<'s> Reader<'s> {
    fn text(&self, name: &str) -> Option<&'s str> {
        self.settings.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn wrong(&mut self, name: &str, problem: impl Into<String>) {
        self.errors.push(SettingError { name: name.into(), problem: problem.into() });
    }

    /// One of a few words.
    fn word<T: Copy>(&mut self, name: &str, words: &[(&str, T)], default: T) -> T {
        let Some(value) = self.text(name) else { return default };
        if let Some((_, meaning)) = words.iter().find(|(word, _)| *word == value) {
            return *meaning;
        }
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.wrong(name, format!("`{value}` is not one of {}", known.join(", ")));
        default
    }

    /// A whole number within bounds.
    fn number<T: FromStr + Copy + PartialOrd + fmt::Display>(
        &mut self,
        name: &str,
        bounds: (T, T),
        default: T,
    ) -> T {
        let Some(value) = self.text(name) else { return default };
        match value.parse::<T>() {
            Ok(number) if number >= bounds.0 && number <= bounds.1 => number,
            _ => {
                let (least, most) = bounds;
                self.wrong(name, format!("`{value}` is not a whole number from {least} to {most}"));
                default
            }
        }
    }

    fn list(&self, name: &str) -> Option<Vec<String>> {
        let items = self.text(name)?.split(',').map(str::trim);
        Some(items.filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

impl Policy {
    /// The policy that the settings ask for. `demo` says that the built-in demo upstream
    /// stands in for a Gateway.
    ///
    /// # Errors
    /// Every mistake, not only the first.
    pub fn from_settings(
        settings: &Settings,
        secrets: &Secrets,
        host: HostFacts,
        demo: bool,
    ) -> Result<Self, Vec<SettingError>> {
        let mut read = Reader { settings, errors: Vec::new() };
        let mut policy = Self { host, ..Self::default() };

        policy.environment = read.word(
            "MINIGATE_ENV",
            &[("dev", Environment::Dev), ("staging", Environment::Staging), ("prod", Environment::Prod)],
            policy.environment,
        );
        let dev = policy.environment == Environment::Dev;
        read_upstream(&mut read, secrets, demo, dev);
        read_keys(&mut read, secrets, &mut policy);
        read_chat(&mut read, &mut policy);

        let limits = &mut policy.limits;
        limits.body = read.number("MAX_BODY_BYTES", (1024, 20 * 1024 * 1024), limits.body);
        limits.image = read.number("MAX_IMAGE_BYTES", (1, 20 * 1024 * 1024), limits.image);
        limits.file = read.number("MAX_FILE_BYTES", (1, 20 * 1024 * 1024), limits.file);
        limits.file_chars = read.number("MAX_FILE_CHARS", (1, 20 * 1024 * 1024), limits.file_chars);
        limits.pdf_pages = read.number("MAX_PDF_PAGES", (1, 10_000), limits.pdf_pages);
        limits.attachments = read.number("MAX_ATTACHMENTS", (0, 64), limits.attachments);

        let hour = 3_600_000;
        let times = &mut policy.deadlines;
        times.connect = read.number("CONNECT_TIMEOUT_MS", (1, 60_000), times.connect);
        times.first_byte = read.number("FIRST_BYTE_TIMEOUT_MS", (1, hour), times.first_byte);
        times.idle = read.number("IDLE_TIMEOUT_MS", (1, hour), times.idle);
        times.turn = read.number("TURN_TIMEOUT_MS", (1, hour), times.turn);
        times.heartbeat = read.number("HEARTBEAT_MS", (10, hour), times.heartbeat);

        let rate = policy.rate.unwrap_or(RateLimit { per_minute: 60, burst: 20 });
        let per_minute = read.number("RATE_LIMIT_PER_MINUTE", (0, 60_000_000), rate.per_minute);
        let burst = read.number("RATE_LIMIT_BURST", (1, 1_000_000), rate.burst);
        policy.rate = (per_minute > 0).then_some(RateLimit { per_minute, burst });
        policy.store_failure = read.word(
            "STORE_FAILURE",
            &[("open", StoreFailure::Open), ("closed", StoreFailure::Closed)],
            policy.store_failure,
        );

        match read.list("CORS_ALLOW_ORIGINS") {
            None => {}
            Some(origins) if origins.iter().any(|origin| origin == "*") => policy.origins = Origins::Any,
            Some(origins) => policy.origins = Origins::List(origins),
        }
        if let Some(proxies) = read.list("TRUSTED_PROXIES") {
            policy.trusted_proxies = proxies;
        }
        policy.log_level = read.word(
            "LOG_LEVEL",
            &[("debug", Level::Debug), ("info", Level::Info), ("warn", Level::Warn), ("error", Level::Error)],
            policy.log_level,
        );
        policy.faults = read.word("FAULT_INJECTION", &[("off", false), ("on", true)], false);
        if policy.faults && !dev {
            read.wrong("FAULT_INJECTION", "`on` is allowed only with MINIGATE_ENV=dev");
        }
        if read.errors.is_empty() { Ok(policy) } else { Err(read.errors) }
    }
}

/// The Gateway must be named, or the demo upstream be asked for, which only dev may.
fn read_upstream(read: &mut Reader<'_>, secrets: &Secrets, demo: bool, dev: bool) {
    if demo {
        if !dev {
            read.wrong("MINIGATE_ENV", "the demo upstream is allowed only with MINIGATE_ENV=dev");
        }
        return;
    }
    const URL: &str = "OPENCLAW_GATEWAY_URL";
    match read.text(URL) {
        None => read.wrong(URL, "not set; for example http://127.0.0.1:18789"),
        Some(url) if !(url.starts_with("http://") || url.starts_with("https://")) => {
            read.wrong(URL, "must begin with http:// or https://");
        }
        Some(url) if url.contains('@') || url.contains('?') || url.contains('#') => {
            read.wrong(URL, "must not contain credentials, a query or a fragment");
        }
        Some(_) => {}
    }
    if secrets.get("OPENCLAW_GATEWAY_TOKEN").is_none() {
        read.wrong("OPENCLAW_GATEWAY_TOKEN", "not set; it is gateway.auth.token of openclaw.json");
    }
}

/// Client keys and the secret of the session keys, as digests.
fn read_keys(read: &mut Reader<'_>, secrets: &Secrets, policy: &mut Policy) {
    let keys = ["API_KEY", "OPENCLAW_API_KEY"].iter().filter_map(|name| secrets.get(name));
    for key in keys.flat_map(|value| value.split(',')).map(str::trim).filter(|key| !key.is_empty()) {
        policy.api_keys.push(KeyDigest::of(key.as_bytes()));
    }
    if policy.api_keys.is_empty() && policy.environment != Environment::Dev {
        read.wrong(
            "API_KEY",
            "not set; without a key anybody could call (allowed only with MINIGATE_ENV=dev)",
        );
    }
    let source = secrets.get("SESSION_SECRET").or_else(|| secrets.get("OPENCLAW_GATEWAY_TOKEN"));
    policy.session_secret = KeyDigest::derive(source.unwrap_or_default().as_bytes(), "session keys");
}

fn read_chat(read: &mut Reader<'_>, policy: &mut Policy) {
    let chat = &mut policy.chat;
    if let Some(models) = read.list("CHAT_MODELS") {
        for model in &models {
            let agent = model.strip_prefix("openclaw").map(|rest| rest.strip_prefix('/').unwrap_or(rest));
            if !(model == "openclaw" || agent.is_some_and(is_agent_id)) {
                read.wrong("CHAT_MODELS", format!("`{model}` is neither `openclaw` nor `openclaw/<agent>`"));
            }
        }
        if models.is_empty() {
            read.wrong("CHAT_MODELS", "names no model");
        }
        chat.models = models;
    }
    chat.agent = read.text("OPENCLAW_AGENT").map(str::to_owned);
    if chat.agent.as_deref().is_some_and(|agent| !is_agent_id(agent)) {
        read.wrong("OPENCLAW_AGENT", "must be letters, digits, `_` and `-`, at most 64");
    }
    chat.memory =
        read.word("CHAT_MEMORY", &[("client", Memory::Client), ("gateway", Memory::Gateway)], chat.memory);
    chat.client_system = read.word("CHAT_CLIENT_SYSTEM", &[("drop", false), ("allow", true)], false);
    chat.system_prompt = read.text("SYSTEM_PROMPT").map(str::to_owned);
    let max_tokens = read.number("MAX_TOKENS", (0, 1_000_000), 0);
    chat.max_tokens = (max_tokens > 0).then_some(max_tokens);
}

/// OpenClaw's rule for agent ids.
fn is_agent_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn gateway() -> Vec<(&'static str, &'static str)> {
        vec![("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:18789")]
    }

    const KEYS: &[(&str, &str)] = &[("API_KEY", "a, b"), ("OPENCLAW_GATEWAY_TOKEN", "t")];

    #[test]
    fn a_minimal_production_setting() {
        let policy =
            Policy::from_settings(&map(&gateway()), &Secrets(map(KEYS)), HostFacts::default(), false)
                .expect("valid");
        assert_eq!(policy.environment, Environment::Prod);
        assert_eq!(policy.api_keys.len(), 2);
        assert_eq!(Policy::decode(&policy.encode()), Some(policy));
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let settings = map(&[
            ("TURN_TIMEOUT_MS", "soon"),
            ("CHAT_MODELS", "gpt-4o"),
            ("LOG_LEVEL", "loud"),
            ("FAULT_INJECTION", "on"),
        ]);
        let errors = Policy::from_settings(&settings, &Secrets::default(), HostFacts::default(), false)
            .expect_err("invalid");
        let names: Vec<&str> = errors.iter().map(|e| e.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "OPENCLAW_GATEWAY_URL",
                "OPENCLAW_GATEWAY_TOKEN",
                "API_KEY",
                "CHAT_MODELS",
                "TURN_TIMEOUT_MS",
                "LOG_LEVEL",
                "FAULT_INJECTION"
            ]
        );
    }

    #[test]
    fn the_demo_upstream_is_for_dev() {
        let dev = map(&[("MINIGATE_ENV", "dev")]);
        assert!(Policy::from_settings(&dev, &Secrets::default(), HostFacts::default(), true).is_ok());
        let prod = Policy::from_settings(&map(&[]), &Secrets(map(KEYS)), HostFacts::default(), true);
        assert!(prod.is_err());
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secrets = Secrets(map(&[("API_KEY", "canary-123")]));
        assert!(!format!("{secrets:?}").contains("canary"));
    }
}
