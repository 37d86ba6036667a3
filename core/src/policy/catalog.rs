//! What an operator's configuration says about profiles, intents and models, compiled.
//!
//! The YAML is read and checked once, outside of the core, so that no request pays for it and no
//! parser of it is in the module. What is here is complete and consistent when it was made by
//! the checker; a name that is not found all the same makes one request fail, and nothing panic.

mod rules;

use serde::{Deserialize, Serialize};

use super::{
    ContentMode, Environment, Memory, SECRETS,
    channel::{Channel, Destination, Target},
    notify::{Notify, Ways},
    redact::Rules,
    rollout::Rollout,
};
use crate::{
    seam::{Level, MODEL, TOOL, WEBHOOK},
    state::caller::Rate,
};

pub use self::rules::{Approval, AuditRules, Tool, ToolClass, TurnRules};

/// The version of the encoded form, its first byte. Another one is refused.
pub const CATALOG_VERSION: u8 = 3;
/// Before a model's alias, in the keys of [`Catalog::warm_ups`].
pub(crate) const WARM: &str = "warm:";

/// Everything of the configuration that a request may need.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Catalog {
    /// Names this configuration in logs and `/version`: the first 12 hex digits of the SHA-256
    /// of its sources. Empty when there is none.
    pub version: String,
    /// By name, in order of names.
    pub profiles: Vec<Profile>,
    /// By name, in order of names.
    pub intents: Vec<Intent>,
    /// By alias, in order of aliases.
    pub models: Vec<Model>,
    /// By name, in order of names.
    pub schemas: Vec<Schema>,
    /// By name, in order of names.
    pub tools: Vec<Tool>,
    /// How long turns are kept, and how long one may take for which nobody waits.
    pub turns: TurnRules,
    /// What is written into the audit ledger.
    pub audit: AuditRules,
    /// Who is told of what turns come to.
    pub notify: Notify,
    /// By name, in order of names.
    pub channels: Vec<Channel>,
    /// To whom an operator may have a robot speak, in order of names.
    pub targets: Vec<Target>,
    /// What differs between environments, for those that the configuration names.
    pub environments: Vec<EnvironmentRules>,
    /// What roles may use, beside their rates.
    pub roles: Vec<RoleRules>,
    /// Answers that the operator wrote.
    pub faq: Vec<Curated>,
    /// The alias where nothing else names a model.
    pub default_model: Option<String>,
    /// What is taken out of answers whose profile says so, and out of everything that is logged.
    pub redaction: Rules,
}

/// How an intent is answered: one prompt, one model, its limits. Versions are names of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// `summarize_v1`.
    pub name: String,
    /// The alias of its model.
    pub model: String,
    /// The server's own words to the model.
    pub system_prompt: String,
    /// The person's message, made from the fields of `input`. Empty is the usual one: the text,
    /// then a line for each other field that is given.
    pub prompt: Vec<Slot>,
    /// The fields of `input` that it takes.
    pub fields: Vec<Field>,
    /// The most tokens of an answer.
    pub max_tokens: Option<u32>,
    /// In thousandths, so that equal means equal: 200 is 0.2.
    pub temperature_milli: Option<u16>,
    /// The whole turn's time, in milliseconds; `None` is `TURN_TIMEOUT_MS`.
    pub timeout_ms: Option<u32>,
    /// The profile that answers when this one fails.
    pub fallback: Option<String>,
    /// The profile that answers first, while this one works.
    pub draft: Option<String>,
    /// Who remembers the conversation.
    pub memory: Memory,
    /// Whether and how answers are kept for the same question.
    pub cache: Option<Cache>,
    /// After so many milliseconds the client is told to come back.
    pub sync_deadline_ms: Option<u32>,
    /// The roles that may use it; empty is everybody.
    pub roles: Vec<String>,
    /// Whether the answer is to be JSON.
    pub json: bool,
    /// The schema of the answer when the request names none.
    pub schema: Option<String>,
    /// Whether personal data and keys are taken out of answers.
    pub redact: bool,
    /// The most tokens of history and text together.
    pub context_tokens: Option<u32>,
    /// What is done with a text that is too long.
    pub long_input: LongInput,
    /// The most characters of the text.
    pub max_chars: u32,
    /// What a request costs in tokens of the rate, and how dear it is beside others.
    pub cost: u32,
    /// Whether pictures and files may be sent along.
    pub attachments: bool,
    /// The tools that its model is offered, in order of names.
    pub tools: Vec<String>,
    /// The most calls of tools in one turn, from 1 to 32.
    pub max_tool_calls: u8,
}

/// A part of a prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Slot {
    /// The operator's words.
    Text(String),
    /// What the client gave for this field.
    Field(String),
}

/// A field of `input`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it may hold.
    pub kind: FieldKind,
    /// Whether it must be there.
    pub required: bool,
}

/// What a field may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FieldKind {
    /// A text of at most so many characters.
    Text {
        /// Characters.
        max_chars: u32,
    },
    /// A whole number within bounds.
    Integer {
        /// The least.
        min: i64,
        /// The most.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// One of these words.
    Choice(Vec<String>),
}

/// The fields of a profile that declares none, its text of at most so many characters.
pub fn usual_fields(max_chars: u32) -> Vec<Field> {
    let field = |name: &str, kind, required| Field { name: name.to_owned(), kind, required };
    vec![
        field("text", FieldKind::Text { max_chars }, true),
        field("maxBullets", FieldKind::Integer { min: 1, max: 20 }, false),
        field("schemaName", FieldKind::Text { max_chars: 64 }, false),
        field("language", FieldKind::Text { max_chars: 20 }, false),
    ]
}

/// What is done with a text that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LongInput {
    /// It is refused.
    #[default]
    Refuse,
    /// Its middle is left out, and the answer says so.
    Cut,
}

/// How answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// In seconds.
    pub ttl_s: u32,
    /// Whether people share what is kept: only for questions that have nothing personal.
    pub shared: bool,
}

/// What a Mini Program may ask for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// `summarize`.
    pub name: String,
    /// Who answers it.
    pub profile: String,
    /// Who answers it for people of a role: role and profile.
    pub by_role: Vec<(String, String)>,
    /// Who is told of what its turns come to.
    pub notify: Ways,
    /// The most tokens of an answer, whatever the profile says.
    pub max_tokens: Option<u32>,
    /// A change of its profile that goes on.
    pub rollout: Option<Rollout>,
}

/// What an alias in a profile stands for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Model {
    /// `fast`.
    pub alias: String,
    /// Where it is.
    pub kind: ModelKind,
    /// Turns at once, of each replica; `None` is the upstream's number.
    pub slots: Option<u16>,
    /// The longest that it may take, in milliseconds.
    pub timeout_ms: Option<u32>,
    /// Whether it may have acted, with tools of its own, when a run breaks off: then the turn is
    /// not asked again by itself.
    pub side_effects: bool,
    /// What the model gateway knows of it.
    pub runtime: Runtime,
}

/// How requests to a model's own server are shaped, and who else takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// Servers beside the first that answer as it does: their base URLs.
    pub replicas: Vec<String>,
    /// What it holds: the tokens of a request and its answer together.
    pub context_tokens: Option<u32>,
    /// The most tokens of an answer, whatever the request says.
    pub max_tokens: Option<u32>,
    /// What is done with a request that it does not hold.
    pub on_overflow: Overflow,
    /// The alias that answers when it fails.
    pub fallback: Option<String>,
    /// One token is asked of a server that has come, so that the first person does not wait for it to load.
    pub warm_up: bool,
}

/// What is done with a conversation that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Overflow {
    /// It is refused, as OpenAI does: the caller knows best what to leave out.
    #[default]
    Refuse,
    /// Its oldest turns are left out.
    Trim,
}

impl Model {
    /// How many servers answer for it: at most [`MOST_REPLICAS`].
    pub fn replicas(&self) -> u8 {
        u8::try_from(self.runtime.replicas.len() + 1).unwrap_or(MOST_REPLICAS).min(MOST_REPLICAS)
    }
}

/// The most servers of one model.
pub const MOST_REPLICAS: u8 = 16;

/// Where a model is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ModelKind {
    /// Behind OpenClaw.
    OpenClaw {
        /// The agent; `None` is `OPENCLAW_AGENT` or the default one.
        agent: Option<String>,
        /// `provider/model` in place of the agent's own.
        model: Option<String>,
    },
    /// A server with OpenAI's API.
    OpenAi {
        /// Up to and with `/v1`.
        base_url: String,
        /// The setting that holds its key.
        api_key: Option<String>,
        /// Its name there.
        model: String,
    },
}

/// What an answer must look like.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// `order_info_v1`.
    pub name: String,
    /// A JSON Schema, as JSON text.
    pub text: String,
}

/// What differs in one environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentRules {
    /// Which.
    pub environment: Environment,
    /// The profiles that may be used there; `None` is all. May name some that do not exist yet.
    pub allowed_profiles: Option<Vec<String>>,
    /// What is logged, unless `LOG_LEVEL` says otherwise.
    pub log_level: Option<Level>,
    /// The rate of one caller, unless a setting says otherwise.
    pub rate: Option<Rate>,
    /// A day's caps for one person.
    pub daily: Option<Caps>,
    /// What content checks decide, unless `CONTENT_CHECK` says otherwise.
    pub content: Option<ContentMode>,
}

/// What may be used in a day (in China's time, UTC+8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caps {
    /// Requests; `None` is no cap.
    pub requests: Option<u32>,
    /// Tokens, in and out; `None` is no cap.
    pub tokens: Option<u64>,
}

/// What a role may use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleRules {
    /// The name in tokens; empty is everybody else's.
    pub name: String,
    /// Its rate and weight, unless `ROLE_LIMITS` says otherwise.
    pub rate: Option<Rate>,
    /// Its share when callers wait, at least 1.
    pub weight: Option<u32>,
    /// A day's caps for one person of it.
    pub daily: Caps,
    /// A day's caps for all of them together.
    pub daily_together: Caps,
    /// The dearest profile that it may choose by a header; `None` is what its intent has.
    pub max_cost: Option<u32>,
}

/// An answer that the operator wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Curated {
    /// For this intent.
    pub intent: String,
    /// To one of these questions: their [`question::curated`](super::question::curated) keys, so
    /// that a spelling that means the same finds the answer.
    pub keys: Vec<String>,
    /// The answer.
    pub answer: String,
}

/// The name of a replica's server.
pub(crate) fn server_name(alias: &str, replica: u8) -> String {
    if replica == 0 { alias.to_owned() } else { format!("{alias}#{replica}") }
}

impl Catalog {
    /// The profile of that name.
    pub fn profile(&self, name: &str) -> Option<&Profile> {
        let at = self.profiles.binary_search_by(|profile| profile.name.as_str().cmp(name)).ok()?;
        self.profiles.get(at)
    }

    /// The intent of that name.
    pub fn intent(&self, name: &str) -> Option<&Intent> {
        let at = self.intents.binary_search_by(|intent| intent.name.as_str().cmp(name)).ok()?;
        self.intents.get(at)
    }

    /// The model of that alias.
    pub fn model(&self, alias: &str) -> Option<&Model> {
        let at = self.models.binary_search_by(|model| model.alias.as_str().cmp(alias)).ok()?;
        self.models.get(at)
    }

    /// The channel of that name.
    pub fn channel(&self, name: &str) -> Option<&Channel> {
        let at = self.channels.binary_search_by(|channel| channel.name.as_str().cmp(name)).ok()?;
        self.channels.get(at)
    }

    /// The schema of that name.
    pub fn schema(&self, name: &str) -> Option<&Schema> {
        let at = self.schemas.binary_search_by(|schema| schema.name.as_str().cmp(name)).ok()?;
        self.schemas.get(at)
    }

    /// The tool of that name.
    pub fn tool(&self, name: &str) -> Option<&Tool> {
        let at = self.tools.binary_search_by(|tool| tool.name.as_str().cmp(name)).ok()?;
        self.tools.get(at)
    }

    /// The tools that a profile's model may be offered. The checker lets no destructive tool pass
    /// without an audit; should one be here all the same, nobody is offered it.
    pub fn tools_of(&self, profile: &Profile) -> Vec<&Tool> {
        let tools = profile.tools.iter().filter_map(|name| self.tool(name));
        tools.filter(|tool| tool.class != ToolClass::Destructive || self.audit.enabled).collect()
    }

    /// Whether a run of that model may have acted when it breaks off. An alias without an entry
    /// is OpenClaw's default agent, which has tools.
    pub fn side_effects(&self, alias: &str) -> bool {
        self.model(alias).is_none_or(|model| model.side_effects)
    }

    /// What is different in this environment.
    pub fn rules(&self, environment: Environment) -> Option<&EnvironmentRules> {
        self.environments.iter().find(|rules| rules.environment == environment)
    }

    /// What the role may use; of a role that is not named, what everybody may.
    pub fn role(&self, name: &str) -> Option<&RoleRules> {
        let of = |name: &str| self.roles.iter().find(|role| role.name == name);
        of(name).or_else(|| of(""))
    }

    /// What everybody may use who has no role.
    pub fn everybody(&self) -> Option<&RoleRules> {
        self.roles.iter().find(|role| role.name.is_empty())
    }

    /// The settings that hold the secrets which the configuration names, each once.
    pub fn secrets(&self) -> Vec<&str> {
        let keys = self.models.iter().filter_map(|model| match &model.kind {
            ModelKind::OpenAi { api_key, .. } => api_key.as_deref(),
            ModelKind::OpenClaw { .. } => None,
        });
        let tools = self.tools.iter().filter_map(|tool| tool.secret.as_deref());
        let webhook = self.notify.webhook.as_ref().map(|webhook| webhook.secret.as_str());
        let channels = self.channels.iter().flat_map(Channel::secrets);
        // A host hands out whatever is named here: its own secrets are nobody else's.
        let targets = self.targets.iter().filter_map(|target| match &target.to {
            Destination::Webhook(name) => Some(name.as_str()),
            Destination::Group(_) | Destination::Person(_) => None,
        });
        let keys = keys.chain(tools).chain(webhook).chain(channels).chain(targets);
        let mut names: Vec<&str> = keys.filter(|name| !SECRETS.contains(name)).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The upstreams that have servers of their own: the name in a [`Fetch`](crate::seam::Fetch),
    /// and the URL before its path. Of a tool it is the whole URL. Replicas of a model are
    /// `model:alias#1` and so on.
    pub fn servers(&self) -> impl Iterator<Item = (String, &str)> {
        let models = self.models.iter().flat_map(|model| {
            let first = match &model.kind {
                ModelKind::OpenAi { base_url, .. } => Some(base_url),
                ModelKind::OpenClaw { .. } => None,
            };
            let others = first.map(|_| model.runtime.replicas.as_slice()).unwrap_or_default();
            let urls = first.into_iter().chain(others).take(MOST_REPLICAS.into());
            (0..).zip(urls).map(|(number, url)| {
                (format!("{MODEL}{}", server_name(&model.alias, number)), url.trim_end_matches('/'))
            })
        });
        let tools = self.tools.iter().map(|tool| (format!("{TOOL}{}", tool.name), tool.url.as_str()));
        let webhook = self.notify.webhook.iter().map(|webhook| (WEBHOOK.to_owned(), webhook.origin()));
        models.chain(tools).chain(webhook)
    }

    /// The model that a caller of the model gateway names: by its alias or by its server's name, and
    /// only where it has a server of its own. One that is behind OpenClaw would ask OpenClaw again.
    pub fn runtime(&self, name: &str) -> Option<&Model> {
        let own = |model: &&Model| matches!(model.kind, ModelKind::OpenAi { .. });
        let there = |model: &&Model| matches!(&model.kind, ModelKind::OpenAi { model, .. } if model == name);
        self.model(name).filter(own).or_else(|| self.models.iter().find(there))
    }

    /// For each model that is to be warm, the key of the [alarm](crate::exchange::Exchange::alarm) that a
    /// host with a process of its own begins once, and gives up when it ends.
    pub fn warm_ups(&self) -> Vec<String> {
        let own = |model: &&Model| matches!(model.kind, ModelKind::OpenAi { .. }) && model.runtime.warm_up;
        self.models.iter().filter(own).map(|model| format!("{WARM}{}", model.alias)).collect()
    }

    /// The bytes that a host keeps or loads: a version, then the catalog.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_extend(self, vec![CATALOG_VERSION]).unwrap_or_default()
    }

    /// The catalog in those bytes, when they are of this version.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == CATALOG_VERSION).then(|| postcard::from_bytes(rest).ok())?
    }

    /// Whether the environment lets the profile be used.
    pub fn allows(&self, environment: Environment, profile: &str) -> bool {
        let allowed = self.rules(environment).and_then(|rules| rules.allowed_profiles.as_ref());
        allowed.is_none_or(|allowed| allowed.iter().any(|name| name == profile))
    }
}
