//! Where turns that outlive their connection are tried: a host over each store that it can have,
//! with a scripted server of tools.

use std::{path::PathBuf, time::Duration};

use minigate_tests::{
    client::{Answer, KEY},
    hosts::{Host, Kind},
    redis::Redis,
    tools::{self, Tools},
    turns::Person,
    upstream::TOKEN,
};
use serde_json::{Value, json};

use crate::{SECOND_KEY, Scene};

/// Two operators.
pub(crate) const OPERATORS: [&str; 2] = ["operator-key-canary-66b0", "operator-key-canary-a2f4"];

/// Where `{GATEWAY}` is the scripted Gateway and `{TOOLS}` the server of tools. The model `fast` does
/// nothing by itself, so what it was asked may be asked again; the model `agent` may.
const CONFIGURATION: &str = r#"
models:
  fast: {kind: openclaw, side_effects: none}
  agent: {kind: openclaw}
profiles:
  plain_v1: {model: fast, attachments: true}
  acting_v1: {model: agent}
  patient_v1: {model: fast, sync_deadline_ms: 400}
  shop_v1: {model: fast, tools: [lookup, refund, refund_once], max_tool_calls: 4}
  till_v1: {model: fast, tools: [close]}
  vault_v1: {model: fast, tools: [erase]}
routing: {plain: plain_v1, acting: acting_v1, patient: patient_v1, shop: shop_v1, till: till_v1, vault: vault_v1}
environments:
  prod:
    allowed_profiles: [plain_v1, acting_v1, patient_v1, shop_v1, till_v1, vault_v1]
tools:
  lookup: {description: Finds an order., parameters: {PARAMETERS}, class: read, url: '{TOOLS}/lookup', secret: '${TOOLS_KEY}', timeout_ms: 10000}
  refund: {description: Pays an order back., parameters: {PARAMETERS}, class: write, url: '{TOOLS}/refund', secret: '${TOOLS_KEY}', timeout_ms: 10000}
  refund_once: {description: Pays it back., parameters: {PARAMETERS}, class: write, url: '{TOOLS}/once/refund', secret: '${TOOLS_KEY}', idempotent: true}
  close: {description: Closes the till., parameters: {PARAMETERS}, class: write, approve: operator, url: '{TOOLS}/close', secret: '${TOOLS_KEY}'}
  erase: {description: Erases an order., parameters: {PARAMETERS}, class: destructive, allow_destructive: true, approve: two_operators, url: '{TOOLS}/erase', secret: '${TOOLS_KEY}'}
"#;

const PARAMETERS: &str = "{type: object, properties: {order: {type: string}, how: {type: string}}, required: [order], additionalProperties: false}";

/// A host and the store under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The native host with its own store.
    Sqlite,
    /// The native host with Redis.
    Redis,
    /// workerd with its objects on disk.
    Objects,
}

impl Place {
    /// Those of a host.
    pub(crate) fn of(kind: Kind) -> &'static [Self] {
        match kind {
            Kind::Native => &[Self::Sqlite, Self::Redis],
            Kind::Edge => &[Self::Objects],
        }
    }

    /// The name in markers.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Objects => "objects",
        }
    }
}

/// A host that can be ended and started again on what it left.
#[derive(Debug)]
pub(crate) struct Stage {
    pub(crate) place: Place,
    pub(crate) host: Host,
    pub(crate) tools: Tools,
    /// What runs under the host, if it has Redis.
    pub(crate) redis: Option<Redis>,
    gateway: String,
    kept: PathBuf,
    more: Vec<(String, String)>,
}

impl Stage {
    /// Starts all of it, with more settings.
    pub(crate) async fn start(scene: &Scene, place: Place, name: &str, more: &[(&str, &str)]) -> Self {
        let tools = Tools::start().await;
        let redis = if place == Place::Redis { Some(Redis::start().await) } else { None };
        let kept =
            std::env::temp_dir().join(format!("minigate-{name}-{}-{}", place.name(), std::process::id()));
        std::fs::create_dir_all(&kept).expect("a temporary directory");
        let more: Vec<_> =
            more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let gateway = scene.upstream().url.clone();
        let host = launch(place, &gateway, &tools, redis.as_ref(), &kept, &more).await;
        Self { place, host, tools, redis, gateway, kept, more }
    }

    /// Ends the host as a power cut does, and starts another one on what it left.
    pub(crate) async fn kill(self) -> Self {
        let Self { place, host, tools, redis, gateway, kept, more } = self;
        host.kill().await;
        let host = launch(place, &gateway, &tools, redis.as_ref(), &kept, &more).await;
        Self { place, host, tools, redis, gateway, kept, more }
    }

    /// Asks the host to end, waits until it has, and starts another one.
    pub(crate) async fn restart(self) -> Self {
        let Self { place, mut host, tools, redis, gateway, kept, more } = self;
        host.terminate();
        assert_eq!(host.wait().await, Some(0), "{}", host.output());
        let host = launch(place, &gateway, &tools, redis.as_ref(), &kept, &more).await;
        Self { place, host, tools, redis, gateway, kept, more }
    }

    /// Ends all of it.
    pub(crate) async fn stop(self) {
        self.host.stop().await;
        let _ = std::fs::remove_dir_all(self.kept);
    }

    /// Whoever has the usual key.
    pub(crate) fn person(&self) -> Person {
        Person::new(&self.host.url)
    }

    /// Whoever has the other valid key.
    pub(crate) fn stranger(&self) -> Person {
        Person::with_key(&self.host.url, SECOND_KEY)
    }

    /// An operator, the first one or the second.
    pub(crate) fn operator(&self, number: usize) -> Person {
        Person::with_key(&self.host.url, OPERATORS[number])
    }

    /// A word that is said nowhere else.
    pub(crate) fn marker(&self, name: &str) -> String {
        format!("{name}-{}", self.place.name())
    }
}

async fn launch(
    place: Place,
    gateway: &str,
    tools: &Tools,
    redis: Option<&Redis>,
    kept: &std::path::Path,
    more: &[(String, String)],
) -> Host {
    let yaml = CONFIGURATION
        .replace("{PARAMETERS}", PARAMETERS)
        .replace("{GATEWAY}", gateway)
        .replace("{TOOLS}", &tools.url);
    let (keys, operators) = (format!("{KEY}, {SECOND_KEY}"), OPERATORS.join(", "));
    let mut settings = vec![
        ("API_KEY", keys.as_str()),
        ("ADMIN_KEY", operators.as_str()),
        ("OPENCLAW_GATEWAY_URL", gateway),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("TOOLS_KEY", tools::SECRET),
        ("SESSION_SECRET", "session-secret-canary-9e77"),
        ("RATE_LIMIT_PER_MINUTE", "0"),
        ("RATE_LIMIT_PER_ADDRESS", "0"),
        ("ABUSE_PROTECTION", "off"),
        ("MAX_CONCURRENCY", "0"),
        // workerd learns that a client has closed when it writes: a heartbeat is a write.
        ("HEARTBEAT_MS", "300"),
    ];
    let url = redis.map(Redis::url).unwrap_or_default();
    if place == Place::Redis {
        settings.push(("STORE_URL", &url));
    }
    settings.extend(more.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let kind = if place == Place::Objects { Kind::Edge } else { Kind::Native };
    Host::start_kept(kind, kept, &[("turns.yaml", &yaml)], &settings).await
}

/// A question for an intent.
pub(crate) fn ask(intent: &str, text: &str) -> Value {
    json!({"intent": intent, "input": {"text": text}})
}

/// The same, as a stream.
pub(crate) fn ask_stream(intent: &str, text: &str) -> Value {
    json!({"intent": intent, "input": {"text": text}, "stream": true})
}

/// A question whose model wants a tool called for an order.
pub(crate) fn wants(intent: &str, tool: &str, order: &str, how: &str) -> Value {
    let arguments = json!({"order": order, "how": how});
    ask(intent, &format!("{order} [[up:text=said]][[up:call={tool} {arguments}]]"))
}

/// The id of the turn that an answer is about.
pub(crate) fn id_of(answer: &Answer) -> String {
    let value = answer.json();
    value["requestId"].as_str().unwrap_or_else(|| panic!("no turn: {}", answer.text)).to_owned()
}

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
