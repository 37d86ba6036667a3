//! Settings into a policy: every mistake at once, by name, with what would be right.
//!
//! Reads no environment: a host gathers the variables in [`NAMES`] and passes them.

mod upstream;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{
    ContentMode, Environment, HostFacts, Memory, Origins, Pictures, Policy, RiskMode, Role, StoreFailure,
    auth::KeyDigest, pictures::is_origin, session::SigningKey,
};
use crate::{
    seam::{DINGTALK, DINGTALK_FILES, DINGTALK_OAPI, Level},
    state::caller::Rate,
    wire::{dingtalk, wechat::push},
};

/// The settings that decide something here, by name.
pub const NAMES: &[&str] = &[
    "ABUSE_PROTECTION",
    "CHAT_CLIENT_SYSTEM",
    "CHAT_MEMORY",
    "CHAT_MODELS",
    "CONNECT_TIMEOUT_MS",
    "CONTENT_CHECK",
    "CONTENT_CHECK_FAILURE",
    "CONTENT_CHECK_WAIT_MS",
    "CORS_ALLOW_ORIGINS",
    "DINGTALK_API_URL",
    "DINGTALK_FILES_URL",
    "DINGTALK_OAPI_URL",
    "DINGTALK_SILENT_MS",
    "FAULT_INJECTION",
    "FIRST_BYTE_TIMEOUT_MS",
    "HEARTBEAT_MS",
    "IDLE_TIMEOUT_MS",
    "LOG_LEVEL",
    "MAX_ATTACHMENTS",
    "MAX_BODY_BYTES",
    "MAX_CONCURRENCY",
    "MAX_CONCURRENCY_PER_MODEL",
    "MAX_FILE_BYTES",
    "MAX_FILE_CHARS",
    "MAX_IMAGE_BYTES",
    "MAX_PDF_PAGES",
    "MAX_TOKENS",
    "MINIGATE_ENV",
    "MODEL_COSTS",
    "OPENCLAW_AGENT",
    "OPENCLAW_AUTH",
    "OPENCLAW_GATEWAY_URL",
    "OPENCLAW_PROXY_HEADERS",
    "OPENCLAW_USER",
    "OPENCLAW_USER_HEADER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "PUBLIC_URL",
    "QUEUE_LIMIT",
    "RATE_LIMIT_BURST",
    "RATE_LIMIT_PER_ADDRESS",
    "RATE_LIMIT_PER_KEY",
    "RATE_LIMIT_PER_LOGIN",
    "RATE_LIMIT_PER_MINUTE",
    "RISK_RANK",
    "ROLE_LIMITS",
    "STORE_FAILURE",
    "SYSTEM_PROMPT",
    "SESSION_LIFE_SECONDS",
    "SESSION_RENEWABLE_SECONDS",
    "SUBJECT_ROLES",
    "TRUSTED_PROXIES",
    "TURN_TIMEOUT_MS",
    "WECHAT_API_URL",
    "WECHAT_APPID",
];

/// The secret settings. They may also come as files.
pub const SECRETS: &[&str] = &[
    "ADMIN_KEY",
    "API_KEY",
    "METRICS_KEY",
    "AUTH_TOKEN",
    "OPENCLAW_API_KEY",
    "OPENCLAW_GATEWAY_TOKEN",
    "SERVER_KEY",
    "SESSION_SECRET",
    "STORE_URL",
    "TOKEN_SECRET",
    "WECHAT_PUSH_AES_KEY",
    "WECHAT_PUSH_TOKEN",
    "WECHAT_SECRET",
];

/// The secret settings that a [`Credential`](crate::seam::Credential) may name. A host keeps
/// these; of all others only digests stay.
pub const CREDENTIALS: &[&str] = &["OPENCLAW_GATEWAY_TOKEN", "WECHAT_SECRET"];

/// Where WeChat's servers are.
pub fn wechat_url(settings: &Settings) -> &str {
    let url = settings.get("WECHAT_API_URL").map(|url| url.trim()).filter(|url| !url.is_empty());
    url.unwrap_or("https://api.weixin.qq.com")
}

/// Where DingTalk's servers are, by the upstream's name.
pub fn dingtalk_urls(settings: &Settings) -> [(&'static str, &str); 3] {
    let given = |name: &str| settings.get(name).map(|url| url.trim()).filter(|url| !url.is_empty());
    [
        (DINGTALK, given("DINGTALK_API_URL").unwrap_or(dingtalk::API)),
        (DINGTALK_OAPI, given("DINGTALK_OAPI_URL").unwrap_or(dingtalk::OAPI)),
        // What is fetched there names its host itself.
        (DINGTALK_FILES, given("DINGTALK_FILES_URL").unwrap_or("https:")),
    ]
}

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

    /// `per_minute` or `per_minute/burst`.
    fn rate(&mut self, name: &str, default: Option<Rate>) -> Option<Rate> {
        let Some(value) = self.text(name) else { return default };
        parse_rate(value).unwrap_or_else(|| {
            self.wrong(
                name,
                format!("`{value}` is not `per_minute` or `per_minute/burst`, as 600/200; 0 is no limit"),
            );
            default
        })
    }

    /// A list of `name=value`. What is no pair has an empty value.
    fn pairs(&self, name: &str) -> Vec<(&'s str, &'s str)> {
        let items = self.text(name).unwrap_or_default().split(',').map(str::trim);
        let pair = |item: &'s str| item.split_once('=').map_or((item, ""), |(k, v)| (k.trim(), v.trim()));
        items.filter(|item| !item.is_empty()).map(pair).collect()
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
        upstream::read_upstream(&mut read, secrets, demo, &mut policy);
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
        times.socket = read.number("DINGTALK_SILENT_MS", (100, hour), times.socket);

        read_rates(&mut read, &mut policy);
        read_admission(&mut read, &mut policy);
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
        policy.traces = read.text("OTEL_EXPORTER_OTLP_ENDPOINT").is_some();
        policy.faults = read.word("FAULT_INJECTION", &[("off", false), ("on", true)], false);
        if policy.faults && !dev {
            read.wrong("FAULT_INJECTION", "`on` is allowed only with MINIGATE_ENV=dev");
        }
        if read.errors.is_empty() { Ok(policy) } else { Err(read.errors) }
    }
}

/// Requests per minute: 0 is no limit.
const MOST_PER_MINUTE: u32 = 60_000_000;
/// Requests at once.
const MOST_BURST: u32 = 1_000_000;

/// How often callers may ask, and what they may not do often.
fn read_rates(read: &mut Reader<'_>, policy: &mut Policy) {
    let per_minute = read.number("RATE_LIMIT_PER_MINUTE", (0, MOST_PER_MINUTE), 60);
    let burst = read.number("RATE_LIMIT_BURST", (1, MOST_BURST), 20);
    if let Some(everybody) = policy.roles.first_mut() {
        everybody.rate = (per_minute > 0).then_some(Rate { per_minute, burst });
    }
    let rates = &mut policy.rates;
    rates.address = read.rate("RATE_LIMIT_PER_ADDRESS", rates.address);
    rates.key = read.rate("RATE_LIMIT_PER_KEY", rates.key);
    rates.login = read.rate("RATE_LIMIT_PER_LOGIN", rates.login);
    for (name, value) in read.pairs("ROLE_LIMITS") {
        let mut parts = value.splitn(2, 'x');
        let (rate, weight) = (parts.next().unwrap_or_default(), parts.next().unwrap_or("1"));
        match (parse_rate(rate), weight.trim().parse::<u32>()) {
            (Some(rate), Ok(weight)) if (1..=1000).contains(&weight) && is_role(name) => {
                policy.roles.push(Role { name: name.to_owned(), rate, weight });
            }
            _ => read.wrong(
                "ROLE_LIMITS",
                format!("`{name}={value}` is not `role=per_minute/burst` with an optional `xweight`, as vip=300/60x4"),
            ),
        }
    }
    for (name, value) in read.pairs("MODEL_COSTS") {
        match value.parse::<u32>() {
            Ok(cost @ 1..=10_000) => policy.costs.push((name.to_owned(), cost)),
            _ => read.wrong(
                "MODEL_COSTS",
                format!("`{name}={value}` is not `model=cost` with a cost from 1 to 10000"),
            ),
        }
    }
    let dev = policy.environment == Environment::Dev;
    if !read.word("ABUSE_PROTECTION", &[("off", false), ("on", true)], !dev) {
        policy.abuse = super::Thresholds::default();
    }
}

/// How many turns OpenClaw is given at once.
fn read_admission(read: &mut Reader<'_>, policy: &mut Policy) {
    let admission = &mut policy.admission;
    admission.slots = read.number("MAX_CONCURRENCY", (0, 1024), admission.slots);
    admission.places = read.number("QUEUE_LIMIT", (0, 4096), admission.places);
    for (name, value) in read.pairs("MAX_CONCURRENCY_PER_MODEL") {
        match value.parse::<u16>() {
            Ok(slots @ 1..=1024) => policy.admission.models.push((name.to_owned(), slots)),
            _ => read.wrong(
                "MAX_CONCURRENCY_PER_MODEL",
                format!("`{name}={value}` is not `model=turns` with a number from 1 to 1024"),
            ),
        }
    }
}

/// `per_minute/burst`; `None` inside is no limit.
pub fn parse_rate(text: &str) -> Option<Option<Rate>> {
    let (per_minute, burst) = match text.trim().split_once('/') {
        Some((per_minute, burst)) => (per_minute.parse::<u32>().ok()?, burst.parse::<u32>().ok()?),
        None => {
            let per_minute = text.trim().parse::<u32>().ok()?;
            (per_minute, (per_minute / 3).max(1))
        }
    };
    let valid = per_minute <= MOST_PER_MINUTE && (1..=MOST_BURST).contains(&burst);
    valid.then(|| (per_minute > 0).then_some(Rate { per_minute, burst }))
}

/// A name that may stand in a token.
pub fn is_role(text: &str) -> bool {
    (1..=32).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// Client keys and the secret of the session keys, as digests.
fn read_keys(read: &mut Reader<'_>, secrets: &Secrets, policy: &mut Policy) {
    let keys = ["API_KEY", "OPENCLAW_API_KEY"].iter().filter_map(|name| secrets.get(name));
    for key in keys.flat_map(|value| value.split(',')).map(str::trim).filter(|key| !key.is_empty()) {
        policy.api_keys.push(KeyDigest::of(key.as_bytes()));
    }
    if policy.api_keys.is_empty() && policy.environment != Environment::Dev && !policy.only_models {
        read.wrong(
            "API_KEY",
            "not set; without a key anybody could call (allowed only with MINIGATE_ENV=dev)",
        );
    }
    let digests = |name: &str| -> Vec<KeyDigest> {
        let keys = secrets.get(name).unwrap_or_default().split(',').map(str::trim);
        keys.filter(|key| !key.is_empty()).map(|key| KeyDigest::of(key.as_bytes())).collect()
    };
    policy.login.server_keys = digests("SERVER_KEY");
    policy.admin_keys = digests("ADMIN_KEY");
    policy.auth_tokens = digests("AUTH_TOKEN");
    policy.metrics_keys = digests("METRICS_KEY");
    policy.metrics_keys.extend_from_slice(&policy.admin_keys);
    let guessable = [
        "API_KEY",
        "AUTH_TOKEN",
        "SERVER_KEY",
        "ADMIN_KEY",
        "METRICS_KEY",
        "TOKEN_SECRET",
        "SESSION_SECRET",
        "WECHAT_PUSH_TOKEN",
    ];
    for name in guessable {
        let short = |key: &str| !key.trim().is_empty() && key.trim().len() < 16;
        let weak = secrets.get(name).is_some_and(|value| match name {
            "SESSION_SECRET" | "WECHAT_PUSH_TOKEN" => short(value),
            _ => value.split(',').any(short),
        });
        // A client key lies in every phone; the others must not be guessed.
        if weak && name != "API_KEY" && policy.environment == Environment::Prod {
            read.wrong(
                name,
                "shorter than 16 characters; take 32 random ones, as `openssl rand -hex 16` gives",
            );
        }
    }
    let source = secrets.get("SESSION_SECRET").or_else(|| secrets.get("OPENCLAW_GATEWAY_TOKEN"));
    let source = source.or_else(|| secrets.get("AUTH_TOKEN").filter(|_| policy.only_models));
    policy.session_secret = KeyDigest::derive(source.unwrap_or_default().as_bytes(), "session keys");
    read_login(read, secrets, source, policy);
}

/// Logins: by WeChat, by the team's own backend, or not at all.
fn read_login(read: &mut Reader<'_>, secrets: &Secrets, source: Option<&str>, policy: &mut Policy) {
    let login = &mut policy.login;
    login.appid = read.text("WECHAT_APPID").map(str::to_owned);
    let is_id = |id: &String| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric());
    if login.appid.as_ref().is_some_and(|id| !is_id(id)) {
        read.wrong("WECHAT_APPID", "must be letters and digits, as wx0123456789abcdef");
    }
    match (&login.appid, secrets.get("WECHAT_SECRET")) {
        (Some(_), None) => read.wrong("WECHAT_SECRET", "not set; it is the Mini Program's AppSecret"),
        (None, Some(_)) => read.wrong("WECHAT_APPID", "not set, and WECHAT_SECRET is"),
        (_, Some(secret)) if !secret.bytes().all(|b| b.is_ascii_alphanumeric()) => {
            read.wrong("WECHAT_SECRET", "must be letters and digits");
        }
        _ => {}
    }
    let url = wechat_url(read.settings);
    if !(url.starts_with("http://") || url.starts_with("https://")) || url.contains(['@', '?', '#']) {
        read.wrong("WECHAT_API_URL", "must begin with http:// or https://, without credentials or a query");
    }
    login.risk = read.word(
        "RISK_RANK",
        &[("off", RiskMode::Off), ("log", RiskMode::Log), ("enforce", RiskMode::Enforce)],
        RiskMode::Off,
    );
    if login.risk != RiskMode::Off && login.appid.is_none() {
        read.wrong("RISK_RANK", "needs WECHAT_APPID and WECHAT_SECRET: WeChat ranks people who log in by it");
    }
    policy.content.mode = read.word(
        "CONTENT_CHECK",
        &[("off", ContentMode::Off), ("log", ContentMode::Log), ("enforce", ContentMode::Enforce)],
        ContentMode::Off,
    );
    policy.content.failure = read.word(
        "CONTENT_CHECK_FAILURE",
        &[("open", StoreFailure::Open), ("closed", StoreFailure::Closed)],
        StoreFailure::Open,
    );
    if policy.content.mode != ContentMode::Off && login.appid.is_none() {
        read.wrong(
            "CONTENT_CHECK",
            "needs WECHAT_APPID and WECHAT_SECRET: WeChat checks for people who logged in",
        );
    }
    policy.pictures = read_pictures(read, secrets, policy.environment);
    login.life_s = read.number("SESSION_LIFE_SECONDS", (60, 86_400), login.life_s);
    login.renewable_s = read.number("SESSION_RENEWABLE_SECONDS", (60, 90 * 86_400), login.renewable_s);
    for (subject, role) in read.pairs("SUBJECT_ROLES") {
        if subject.len() == 32 && subject.bytes().all(|b| b.is_ascii_hexdigit()) && is_role(role) {
            login.roles.push((subject.to_ascii_lowercase(), role.to_owned()));
        } else {
            read.wrong(
                "SUBJECT_ROLES",
                format!("`{subject}={role}` is not `subject=role`; the subject is in the answer to a login"),
            );
        }
    }
    // The first signs; the others are still believed, until nothing that they signed is left.
    let listed = secrets.get("TOKEN_SECRET").unwrap_or_default().split(',').map(str::trim);
    let listed: Vec<&str> = listed.filter(|secret| !secret.is_empty()).collect();
    if login.appid.is_some() || !login.server_keys.is_empty() {
        let sources = if listed.is_empty() { source.into_iter().collect() } else { listed };
        login.keys = sources.into_iter().map(|secret| SigningKey::derive(secret.as_bytes())).collect();
    }
}

/// Checks of pictures: all that they need, or nothing of it.
fn read_pictures(read: &mut Reader<'_>, secrets: &Secrets, environment: Environment) -> Option<Pictures> {
    let wait = read.number("CONTENT_CHECK_WAIT_MS", (100, 600_000), 20_000);
    let url = read.text("PUBLIC_URL").map(|url| url.trim_end_matches('/'));
    let (token, key) = (secrets.get("WECHAT_PUSH_TOKEN"), secrets.get("WECHAT_PUSH_AES_KEY"));
    if url.is_some_and(|url| !is_origin(url, environment == Environment::Dev)) {
        read.wrong("PUBLIC_URL", "must be an origin that WeChat can reach, as https://gateway.example.com");
    }
    if key.is_some_and(|key| !push::is_key(key)) {
        read.wrong("WECHAT_PUSH_AES_KEY", "must be the EncodingAESKey of message push, 43 characters");
    }
    match (url, token) {
        (Some(url), Some(token)) => Some(Pictures {
            public_url: url.to_owned(),
            token: token.to_owned(),
            aes_key: key.map(str::to_owned),
            wait,
        }),
        (Some(_), None) => {
            read.wrong("WECHAT_PUSH_TOKEN", "not set, and PUBLIC_URL is: verdicts on pictures are pushed");
            None
        }
        (None, Some(_)) => {
            read.wrong("PUBLIC_URL", "not set, and WECHAT_PUSH_TOKEN is: WeChat fetches pictures from there");
            None
        }
        (None, None) => None,
    }
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
pub fn is_agent_id(text: &str) -> bool {
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
    fn a_risk_is_asked_for_where_people_log_in_by_wechat() {
        let with = |more: &[(&'static str, &'static str)]| {
            let secrets = [KEYS, &[("WECHAT_SECRET", "s3cret")]].concat();
            let secrets = if more.len() == 2 { Secrets(map(&secrets)) } else { Secrets(map(KEYS)) };
            let settings = map(&[&gateway(), more].concat());
            let policy = Policy::from_settings(&settings, &secrets, HostFacts::default(), false);
            policy.map(|policy| policy.login.risk).map_err(|errors| errors[0].name.clone())
        };
        assert_eq!(with(&[]), Ok(RiskMode::Off));
        for (word, mode) in [("off", RiskMode::Off), ("log", RiskMode::Log), ("enforce", RiskMode::Enforce)] {
            assert_eq!(with(&[("WECHAT_APPID", "wx1"), ("RISK_RANK", word)]), Ok(mode));
        }
        assert_eq!(with(&[("RISK_RANK", "log")]), Err("RISK_RANK".into()));
        assert_eq!(with(&[("WECHAT_APPID", "wx1"), ("RISK_RANK", "on")]), Err("RISK_RANK".into()));
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
