//! What is allowed, and what is chosen: settings, keys, limits, deadlines.
//!
//! Knows no wire format and no secret: client keys are kept as digests, the Gateway's
//! token never gets here. A [`Policy`] is made once from the settings, natively or on
//! the edge, and is the same on both.

mod audit;
pub mod auth;
pub mod catalog;
pub mod channel;
mod configured;
pub mod notify;
pub mod operator;
mod pictures;
pub mod question;
pub mod redact;
pub mod rollout;
pub mod routing;
pub mod schema;
pub mod session;
mod settings;
pub mod tokens;

use serde::{Deserialize, Serialize};

pub use pictures::Pictures;
pub use settings::{
    CREDENTIALS, NAMES, SECRETS, Secrets, SettingError, Settings, dingtalk_urls, is_agent_id, is_role,
    parse_rate, wechat_url,
};

use crate::{
    seam::Level,
    state::caller::{Rate, Thresholds},
};

/// Where this gateway runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Environment {
    /// A developer's machine: keys are optional, the demo upstream is allowed.
    Dev,
    /// Like production.
    Staging,
    /// Production. The default, so that forgetting to say is safe.
    #[default]
    Prod,
}

impl Environment {
    /// The name in settings, logs and `/version`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "dev",
            Self::Staging => "staging",
            Self::Prod => "prod",
        }
    }
}

/// Who remembers a conversation. Never both, or the model sees everything twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Memory {
    /// The client sends the history; OpenClaw gets a fresh session.
    #[default]
    Client,
    /// OpenClaw keeps the session; only the newest message goes.
    Gateway,
}

/// What a failing store means for a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum StoreFailure {
    /// The request passes unlimited.
    #[default]
    Open,
    /// The request is refused.
    Closed,
}

/// Which browser origins may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origins {
    /// None: Mini Programs need no CORS.
    #[default]
    None,
    /// All.
    Any,
    /// These.
    List(Vec<String>),
}

/// The choices of `/api/chat`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatPolicy {
    /// The models that a client may name; the first is the default.
    pub models: Vec<String>,
    /// The agent that the plain names mean.
    pub agent: Option<String>,
    /// Who remembers.
    pub memory: Memory,
    /// Whether a client's system messages pass.
    pub client_system: bool,
    /// The server's own system message.
    pub system_prompt: Option<String>,
    /// The answer's token limit.
    pub max_tokens: Option<u32>,
}

/// The limits of a request, in bytes unless it says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// The body.
    pub body: u64,
    /// Messages in a request.
    pub messages: usize,
    /// Attachments in a request.
    pub attachments: usize,
    /// A picture, decoded.
    pub image: u64,
    /// A file, decoded.
    pub file: u64,
    /// A text file, in characters.
    pub file_chars: u64,
    /// Pages of a PDF.
    pub pdf_pages: u64,
    /// An answer that is collected whole.
    pub answer: u64,
}

/// The time that each part of a turn may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deadlines {
    /// The request's body.
    pub body: u64,
    /// A connection to the upstream.
    pub connect: u32,
    /// A stream's first byte.
    pub first_byte: u64,
    /// The time between two lines of a stream.
    pub idle: u64,
    /// The whole turn.
    pub turn: u64,
    /// Silence towards a streaming client.
    pub heartbeat: u64,
    /// A readiness probe.
    pub probe: u64,
    /// Silence of a robot's socket.
    pub socket: u64,
}

/// The rates of those that a request stands for. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// An address, for callers that have no token. Many phones share one.
    pub address: Option<Rate>,
    /// A client key.
    pub key: Option<Rate>,
    /// Logins from an address.
    pub login: Option<Rate>,
}

/// What a caller's role gives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Role {
    /// The name in tokens; empty is everybody else's.
    pub name: String,
    /// The rate of one caller; `None` is no limit.
    pub rate: Option<Rate>,
    /// Its share when callers wait for the agent, at least 1.
    pub weight: u32,
}

/// How people log in and for how long that holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The Mini Program's id; `None` is no login by WeChat.
    pub appid: Option<String>,
    /// What signs and checks tokens: the first signs.
    pub keys: Vec<session::SigningKey>,
    /// How long a token lasts, in seconds.
    pub life_s: u64,
    /// How long a login can be renewed, in seconds.
    pub renewable_s: u64,
    /// Roles of single people, by subject.
    pub roles: Vec<(String, String)>,
    /// Keys of the team's own backend, which may name people itself.
    pub server_keys: Vec<auth::KeyDigest>,
    /// What WeChat's opinion of a person decides.
    pub risk: RiskMode,
}

/// What it means how risky WeChat holds a person who logs in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RiskMode {
    /// Nothing: WeChat is not asked.
    #[default]
    Off,
    /// Nothing, but what it says is logged.
    Log,
    /// Its highest rank does not log in; those below count in the person's abuse score.
    Enforce,
}

/// What WeChat's content check decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentMode {
    /// Nothing: no text is sent to it.
    #[default]
    Off,
    /// Nothing, but what it says is logged.
    Log,
    /// A risky text is refused.
    Enforce,
}

/// How texts are checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// What a verdict decides.
    pub mode: ContentMode,
    /// What a text means that could not be checked.
    pub failure: StoreFailure,
}

/// How OpenClaw knows who asks: its `gateway.auth.mode`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpstreamAuth {
    /// By the shared token, which is full operator access.
    #[default]
    Token,
    /// `trusted-proxy`: by these headers, which it believes because of the address that they come
    /// from. Names in lower case.
    TrustedProxy(Vec<(String, String)>),
}

/// How many turns OpenClaw is given at once, and how many may wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Turns at once; 0 lets everything through.
    pub slots: u16,
    /// Places in the queue.
    pub places: u16,
    /// Turns at once of single models.
    pub models: Vec<(String, u16)>,
}

/// What a host says of itself, for `/version`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostFacts {
    /// `native` or `edge`.
    pub name: String,
    /// The host program's version.
    pub version: String,
    /// The wasm runtime and its version.
    pub runtime: String,
    /// The SHA-256 of the module file, in hex.
    pub module_sha256: String,
    /// The size of the module file.
    pub module_bytes: u64,
}

/// Everything that decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Where this runs.
    pub environment: Environment,
    /// SHA-256 digests of the valid client keys. Empty only in dev: then no key is asked for.
    pub api_keys: Vec<auth::KeyDigest>,
    /// Digests of the operators' keys.
    pub admin_keys: Vec<auth::KeyDigest>,
    /// Digests of the keys that open `/metrics`: those of the operators are among them.
    pub metrics_keys: Vec<auth::KeyDigest>,
    /// Digests of the tokens of the model gateway's callers.
    pub auth_tokens: Vec<auth::KeyDigest>,
    /// The key of the session keys.
    pub session_secret: auth::KeyDigest,
    /// How OpenClaw knows who asks.
    pub upstream_auth: UpstreamAuth,
    /// This process is a model gateway and nothing else: there is no OpenClaw behind it.
    pub only_models: bool,
    /// `/api/chat`.
    pub chat: ChatPolicy,
    /// `/v1/mini/ask`: the operator's profiles and intents.
    pub catalog: catalog::Catalog,
    /// Sizes and counts.
    pub limits: Limits,
    /// Times.
    pub deadlines: Deadlines,
    /// The roles; the first is everybody's who has no other.
    pub roles: Vec<Role>,
    /// Rates beside the caller's own.
    pub rates: Rates,
    /// What a request for a model costs, in tokens of the rate, when it is not 1.
    pub costs: Vec<(String, u32)>,
    /// Logins.
    pub login: Login,
    /// When a caller is treated differently; `block: 0` is never.
    pub abuse: Thresholds,
    /// Content checks.
    pub content: Content,
    /// Checks of pictures, where they are set up.
    pub pictures: Option<Pictures>,
    /// What signs messages to the team's own backend; empty without a webhook.
    pub webhook_keys: notify::WebhookKeys,
    /// Slots and places.
    pub admission: Admission,
    /// What a failing store means.
    pub store_failure: StoreFailure,
    /// Browser origins.
    pub origins: Origins,
    /// Peers whose last `X-Forwarded-For` entry is believed.
    pub trusted_proxies: Vec<String>,
    /// The least important level that is logged.
    pub log_level: Level,
    /// Whether a request may ask to be broken. Dev only.
    pub faults: bool,
    /// Whether traces are exported: then what is asked upstream belongs to one.
    pub traces: bool,
    /// The host.
    pub host: HostFacts,
}

impl Default for Policy {
    /// The defaults of the settings, with no key configured.
    fn default() -> Self {
        Self {
            environment: Environment::Prod,
            api_keys: Vec::new(),
            admin_keys: Vec::new(),
            metrics_keys: Vec::new(),
            auth_tokens: Vec::new(),
            session_secret: auth::KeyDigest::default(),
            upstream_auth: UpstreamAuth::Token,
            only_models: false,
            chat: ChatPolicy {
                models: vec!["openclaw".into(), "openclaw/default".into()],
                agent: None,
                memory: Memory::Client,
                client_system: false,
                system_prompt: None,
                max_tokens: None,
            },
            catalog: catalog::Catalog::default(),
            // OpenClaw's own limits, as observed (2026.9.6).
            limits: Limits {
                body: 20 * 1024 * 1024,
                messages: 200,
                attachments: 8,
                image: 10 * 1024 * 1024,
                file: 5 * 1024 * 1024,
                file_chars: 60_000,
                pdf_pages: 4,
                answer: 8 * 1024 * 1024,
            },
            // `wx.request` gives up after 60 s: the turn ends before, with an answer.
            deadlines: Deadlines {
                body: 30_000,
                connect: 2_000,
                first_byte: 15_000,
                idle: 40_000,
                turn: 55_000,
                heartbeat: 10_000,
                probe: 3_000,
                socket: crate::wire::dingtalk::link::SILENT_MS,
            },
            roles: vec![Role {
                name: String::new(),
                rate: Some(Rate { per_minute: 60, burst: 20 }),
                weight: 1,
            }],
            rates: Rates {
                address: Some(Rate { per_minute: 600, burst: 200 }),
                key: None,
                login: Some(Rate { per_minute: 60, burst: 30 }),
            },
            costs: Vec::new(),
            login: Login { life_s: 7_200, renewable_s: 7 * 86_400, ..Login::default() },
            abuse: Thresholds { slow: 30, restrict: 60, block: 120, block_ms: 60_000 },
            content: Content::default(),
            pictures: None,
            webhook_keys: notify::WebhookKeys::default(),
            // OpenClaw runs max(8, 4 x cores) turns at once (2026.9.6, `agents.defaults.maxConcurrent`).
            admission: Admission { slots: 8, places: 64, models: Vec::new() },
            store_failure: StoreFailure::Open,
            origins: Origins::None,
            trusted_proxies: vec!["127.0.0.1".into(), "::1".into()],
            log_level: Level::Info,
            faults: false,
            traces: false,
            host: HostFacts::default(),
        }
    }
}

/// Turns at once where nothing limits them.
const MOST_SLOTS: u16 = 1_024;

impl Policy {
    /// The bytes that a host hands to a module.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// The policy in those bytes, when they are of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok()
    }

    /// Whether log lines may show what was said, redacted: where somebody develops and asks for it.
    pub fn logs_content(&self) -> bool {
        self.environment != Environment::Prod && self.log_level == Level::Debug
    }

    /// The role of that name, or everybody's.
    pub fn role(&self, name: &str) -> &Role {
        const EVERYBODY: &Role = &Role { name: String::new(), rate: None, weight: 1 };
        let role = self.roles.iter().find(|role| role.name == name);
        role.or(self.roles.first()).unwrap_or(EVERYBODY)
    }

    /// What a request for a model costs.
    pub fn cost(&self, model: &str) -> u32 {
        self.costs.iter().find(|(name, _)| name == model).map_or(1, |(_, cost)| *cost)
    }

    /// How many turns of a model run at once.
    pub fn model_slots(&self, model: &str) -> u16 {
        let models = &self.admission.models;
        models.iter().find(|(name, _)| name == model).map_or(self.admission.slots, |(_, slots)| *slots)
    }

    /// How many servers answer for an upstream's model.
    pub fn replicas(&self, upstream: &str) -> u8 {
        let alias = upstream.strip_prefix(crate::seam::MODEL).unwrap_or_default();
        self.catalog.model(alias).map_or(1, catalog::Model::replicas)
    }

    /// Turns at once of an upstream, all its replicas together.
    pub fn slots_at(&self, upstream: &str) -> u16 {
        let alias = upstream.strip_prefix(crate::seam::MODEL);
        let Some(model) = alias.and_then(|alias| self.catalog.model(alias)) else {
            return self.admission.slots;
        };
        self.runtime_slots(model).saturating_mul(model.replicas().into())
    }

    /// Turns at once of each server of a model that has its own.
    pub fn runtime_slots(&self, model: &catalog::Model) -> u16 {
        match model.slots.unwrap_or_else(|| self.model_slots(&model.alias)) {
            0 => MOST_SLOTS,
            slots => slots,
        }
    }

    /// Whether WeChat is to look at pictures.
    pub fn checks_pictures(&self) -> bool {
        self.content.mode != ContentMode::Off && self.pictures.is_some()
    }

    /// The name that the upstream is given for a model that a client may name.
    pub fn upstream_model(&self, requested: Option<&str>) -> Option<String> {
        let models = &self.chat.models;
        let name = match requested {
            None => models.first()?,
            Some(name) => models.iter().find(|model| *model == name)?,
        };
        Some(match (&self.chat.agent, name.as_str()) {
            (Some(agent), "openclaw" | "openclaw/default") => format!("openclaw/{agent}"),
            _ => name.clone(),
        })
    }
}
