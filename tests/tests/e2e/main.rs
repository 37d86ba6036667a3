//! Every promise of `/api/chat`, end to end, on both hosts: each scenario is one function
//! that runs once against `minigate` and once against workerd.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test says so when something is missing"
)]

mod actions;
mod admin_page;
mod answers;
mod attachments;
mod audit;
mod audit_d1;
mod commands;
mod configuration;
mod deadlines;
mod dingtalk;
mod dingtalk_stream;
mod faults;
mod intents;
mod kills;
mod leaks;
mod lifecycle;
mod live;
mod load;
mod logins;
mod metrics;
mod models;
mod operations;
mod operator;
mod pictures;
mod refusals;
mod replay;
mod stage;
mod streams;
mod trusted_proxy;
mod turns;
mod upstream_failures;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Failed, Trial};
use minigate_tests::{
    client::{Client, KEY},
    hosts::{Host, Kind},
    upstream::{TOKEN, Upstream},
    wechat::Wechat,
};
use tokio::runtime::Runtime;

/// The second key that is valid at once with the first.
pub(crate) const SECOND_KEY: &str = "second-key-canary-93bd";
/// The secret of the session keys.
pub(crate) const SESSION_SECRET: &str = "session-secret-canary-5c1d";

/// The ways in which a host is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Setup {
    /// No rate limit; faults on demand; one browser origin.
    Plain,
    /// Deadlines of seconds.
    Hasty,
    /// OpenClaw remembers; a system prompt, an agent and a token cap.
    Memory,
    /// Three requests at once, then one in twenty seconds.
    Limited,
    /// Nobody listens where OpenClaw should be.
    Alone,
    /// People log in by WeChat, or through a backend.
    Logins,
    /// The same after its signing key was changed.
    Rotated,
    /// Two logins of an address at once; nobody listens where WeChat should be.
    Shut,
}

impl Setup {
    const ALL: [Self; 8] = [
        Self::Plain,
        Self::Hasty,
        Self::Memory,
        Self::Limited,
        Self::Alone,
        Self::Logins,
        Self::Rotated,
        Self::Shut,
    ];

    fn settings(self) -> Vec<(&'static str, &'static str)> {
        match self {
            Self::Plain => vec![
                ("MINIGATE_ENV", "dev"),
                ("FAULT_INJECTION", "on"),
                ("RATE_LIMIT_PER_MINUTE", "0"),
                ("CORS_ALLOW_ORIGINS", "https://app.example"),
                ("LOG_LEVEL", "debug"),
            ],
            Self::Hasty => vec![
                ("RATE_LIMIT_PER_MINUTE", "0"),
                // A busy machine may take a second for what takes nothing.
                ("FIRST_BYTE_TIMEOUT_MS", "5000"),
                ("IDLE_TIMEOUT_MS", "5000"),
                ("TURN_TIMEOUT_MS", "15000"),
                ("HEARTBEAT_MS", "150"),
            ],
            Self::Memory => vec![
                ("RATE_LIMIT_PER_MINUTE", "0"),
                ("CHAT_MEMORY", "gateway"),
                ("SESSION_SECRET", SESSION_SECRET),
                ("OPENCLAW_AGENT", "main"),
                ("SYSTEM_PROMPT", "Be \"brief\".\n请简短。"),
                ("MAX_TOKENS", "321"),
            ],
            Self::Limited => vec![
                // Slow enough for no token to come back between four requests.
                ("RATE_LIMIT_PER_MINUTE", "3"),
                ("RATE_LIMIT_BURST", "3"),
                // Asking again and again until a token is back is what abuse looks like.
                ("ABUSE_PROTECTION", "off"),
            ],
            Self::Alone => vec![("RATE_LIMIT_PER_MINUTE", "0"), ("CONNECT_TIMEOUT_MS", "1000")],
            Self::Logins => logins::settings("0", logins::SECRETS),
            Self::Rotated => logins::settings("0", logins::SECRETS_ROTATED),
            // The third has to wait for half a minute or more, longer than the test runs.
            Self::Shut => logins::settings("1/2", logins::SECRETS),
        }
    }
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    /// The scripted Gateway.
    pub(crate) upstream: Upstream,
    /// The scripted WeChat.
    pub(crate) wechat: Wechat,
    hosts: Vec<(Setup, Host)>,
}

impl World {
    async fn start() -> Self {
        let upstream = Upstream::start().await;
        let wechat = Wechat::start(logins::APPID, logins::APP_SECRET).await;
        let nobody = Upstream::refusing().await;
        let keys = format!("{KEY}, {SECOND_KEY}");
        let mut hosts = Vec::new();
        for setup in Setup::ALL {
            for kind in Kind::ALL {
                let url = if setup == Setup::Alone { &nobody } else { &upstream.url };
                let mut settings = setup.settings();
                settings.push(("WECHAT_API_URL", if setup == Setup::Shut { &nobody } else { wechat.url() }));
                if setup != Setup::Limited {
                    // What one scenario does must not count against the next.
                    settings.extend([
                        ("ABUSE_PROTECTION", "off"),
                        ("MAX_CONCURRENCY", "0"),
                        ("RATE_LIMIT_PER_ADDRESS", "0"),
                    ]);
                }
                settings.extend([
                    ("OPENCLAW_GATEWAY_URL", url.as_str()),
                    ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
                    ("API_KEY", &keys),
                ]);
                hosts.push((setup, Host::start(kind, &settings).await));
            }
        }
        Self { upstream, wechat, hosts }
    }
}

/// What a scenario gets: one host of the two, in all setups.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// Which host.
    pub(crate) kind: Kind,
    /// Everything.
    pub(crate) world: Arc<World>,
}

impl Scene {
    /// The host in that setup.
    pub(crate) fn host(&self, setup: Setup) -> &Host {
        let found = self.world.hosts.iter().find(|(is, host)| *is == setup && host.kind == self.kind);
        &found.expect("every setup was started").1
    }

    /// A client of the host in that setup.
    pub(crate) fn client(&self, setup: Setup) -> Client {
        Client::new(&self.host(setup).url)
    }

    /// The scripted Gateway.
    pub(crate) fn upstream(&self) -> &Upstream {
        &self.world.upstream
    }

    /// A gateway before the scripted Gateway that counts nothing against anybody; and more settings.
    pub(crate) fn unlimited<'s>(&'s self, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
        let mut settings = vec![
            ("OPENCLAW_GATEWAY_URL", self.upstream().url.as_str()),
            ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
            ("API_KEY", KEY),
            ("RATE_LIMIT_PER_MINUTE", "0"),
            ("RATE_LIMIT_PER_ADDRESS", "0"),
            ("ABUSE_PROTECTION", "off"),
        ];
        settings.extend_from_slice(more);
        settings
    }

    /// The scripted WeChat.
    pub(crate) fn wechat(&self) -> &Wechat {
        &self.world.wechat
    }

    /// A marker that no other scenario or host uses.
    pub(crate) fn marker(&self, name: &str) -> String {
        format!("{name}-{}", self.kind.name())
    }
}

/// Nothing should take so long that does not say so, on a machine that may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(300);

type Run = Pin<Box<dyn Future<Output = ()>>>;

/// A scenario with its name, and the hosts that it is for.
#[derive(Debug)]
pub(crate) struct Scenario {
    name: &'static str,
    kinds: &'static [Kind],
    /// How long it may take.
    limit: Duration,
    run: fn(Scene) -> Run,
}

/// Lists scenarios of a module, for both hosts.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => { $crate::scenarios!(for &minigate_tests::hosts::Kind::ALL; $($name),*) };
    (for $kinds:expr; $($name:ident),* $(,)?) => {
        vec![$($crate::Scenario {
            name: stringify!($name),
            kinds: $kinds,
            limit: $crate::LIMIT,
            run: |scene| Box::pin($name(scene)),
        },)*]
    };
}

pub(crate) use scenarios;

impl Scenario {
    /// Puts a scenario into the list.
    fn trials(self, runtime: &Arc<Runtime>, world: &Arc<World>, out: &mut Vec<Trial>) {
        let Self { name, kinds, limit, run } = self;
        for &kind in kinds {
            let (runtime, world) = (Arc::clone(runtime), Arc::clone(world));
            out.push(Trial::test(format!("{}::{name}", kind.name()), move || {
                let work = async move { tokio::time::timeout(limit, run(Scene { kind, world })).await };
                runtime.block_on(work).map_err(|_| Failed::from(format!("took more than {limit:?}")))
            }));
        }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let world = Arc::new(runtime.block_on(World::start()));
    let all = [
        actions::scenarios(),
        admin_page::scenarios(),
        answers::scenarios(),
        attachments::scenarios(),
        audit::scenarios(),
        audit_d1::scenarios(),
        replay::scenarios(),
        commands::scenarios(),
        configuration::scenarios(),
        deadlines::scenarios(),
        dingtalk::scenarios(),
        dingtalk_stream::scenarios(),
        faults::scenarios(),
        intents::scenarios(),
        kills::scenarios(),
        leaks::scenarios(),
        live::scenarios(),
        load::scenarios(),
        lifecycle::scenarios(),
        logins::scenarios(),
        metrics::scenarios(),
        models::scenarios(),
        operations::scenarios(),
        operator::scenarios(),
        pictures::scenarios(),
        refusals::scenarios(),
        streams::scenarios(),
        trusted_proxy::scenarios(),
        turns::scenarios(),
        upstream_failures::scenarios(),
    ];
    let mut trials = Vec::new();
    for scenario in all.into_iter().flatten() {
        scenario.trials(&runtime, &world, &mut trials);
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    // The trials are gone, and their share of the world with them.
    if let Ok(World { hosts, .. }) = Arc::try_unwrap(world) {
        runtime.block_on(async {
            for (_, host) in hosts {
                host.stop().await;
            }
        });
    }
    conclusion.exit_code()
}
