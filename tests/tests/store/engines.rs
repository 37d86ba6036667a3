//! The three engines, each with two hosts on it.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use minigate_core::state::{Op, Outcome};
use minigate_tests::{
    client::Client,
    hosts::{self, Host},
    redis::Redis,
};

use crate::door;

/// What stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Engine {
    /// The native host's own file: one process with two threads.
    Sqlite,
    /// A server: two processes on it.
    Redis,
    /// Durable Objects: one workerd, as Cloudflare has one object wherever it is asked from.
    Workerd,
}

impl Engine {
    pub(crate) const ALL: [Self; 3] = [Self::Sqlite, Self::Redis, Self::Workerd];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Redis => "redis",
            Self::Workerd => "workerd",
        }
    }
}

/// An engine with two ways to it, and nothing in it.
#[derive(Debug)]
pub(crate) struct Stage {
    engine: Engine,
    hosts: Vec<Host>,
    redis: Option<Redis>,
    directory: PathBuf,
}

impl Stage {
    /// Starts the engine and its hosts. What cannot start is a failure.
    pub(crate) async fn start(engine: Engine) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("minigate-store-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        let redis = if engine == Engine::Redis { Some(Redis::start().await) } else { None };
        let mut stage = Self { engine, hosts: Vec::new(), redis, directory };
        stage.start_hosts().await;
        stage
    }

    async fn start_hosts(&mut self) {
        let count = if self.engine == Engine::Redis { 2 } else { 1 };
        for _ in 0..count {
            let host = match self.engine {
                Engine::Sqlite => Host::start_program(program(&self.directory, None)).await,
                Engine::Redis => {
                    let url = self.redis.as_ref().map(Redis::url);
                    Host::start_program(program(&self.directory, url)).await
                }
                Engine::Workerd => {
                    let kept = self.directory.join("objects");
                    std::fs::create_dir_all(&kept).expect("a temporary directory");
                    Host::start_cells(Some(&kept)).await
                }
            };
            self.hosts.push(host);
        }
    }

    /// Two ways to the same store.
    pub(crate) fn ways(&self) -> [Way; 2] {
        let way = |host: &Host| Way { engine: self.engine, client: Client::new(&host.url) };
        [way(self.hosts.first().expect("a host")), way(self.hosts.last().expect("a host"))]
    }

    /// The keys whose alarms have gone off on any of the hosts since their start.
    pub(crate) async fn alarms(&self) -> Vec<String> {
        let mut all = Vec::new();
        for host in &self.hosts {
            let way = Way { engine: self.engine, client: Client::new(&host.url) };
            let keys: Vec<String> =
                serde_json::from_slice(&way.send("/alarms", Vec::new()).await).expect("keys");
            all.extend(keys);
        }
        all
    }

    /// Sets the clock of all hosts ahead of the machine's.
    pub(crate) async fn set_clock(&self, ahead_ms: i64) {
        for way in self.ways() {
            let path = format!("/clock?ahead={ahead_ms}");
            assert_eq!(way.client.send("POST", &path, &[], Vec::new()).await.status(), 200);
        }
    }

    /// Ends all hosts with SIGKILL, and starts others on what they left.
    pub(crate) async fn kill_hosts(&mut self) {
        for host in self.hosts.drain(..) {
            host.kill().await;
        }
        self.start_hosts().await;
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.hosts.clear();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// This program again, as a host that is nothing but its store.
fn program(directory: &Path, url: Option<String>) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(std::env::current_exe().expect("this program"));
    command
        .env(door::DIRECTORY, directory)
        .env(door::CODE, hosts::code_directory())
        .envs(url.map(|url| (door::URL, url)));
    command
}

/// A way to the store: what a host's thread has.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    engine: Engine,
    client: Client,
}

impl Way {
    /// Applies operations in order, up to the first whose outcome stops the list.
    pub(crate) async fn apply(&self, ops: &[(&str, Op)]) -> Vec<Outcome> {
        if self.engine != Engine::Workerd {
            return decode(&self.send("/", encode(ops)).await);
        }
        // The list is the worker's, which is asked by whole requests only (see `load.rs` of the
        // end-to-end tests); here it is its objects that are asked.
        let mut outcomes = Vec::new();
        for (key, op) in ops {
            let outcome: Outcome = decode(&self.send(&cell("/", key), encode(&(*key, op))).await);
            let stops = outcome.stops();
            outcomes.push(outcome);
            if stops {
                break;
            }
        }
        outcomes
    }

    /// Applies one operation.
    pub(crate) async fn one(&self, key: &str, op: &Op) -> Outcome {
        self.apply(&[(key, op.clone())]).await.remove(0)
    }

    /// Applies an operation again, listening; ends when its ticket is woken or nothing is to be
    /// waited for.
    pub(crate) async fn watch(&self, key: &str, op: &Op) {
        match self.engine {
            Engine::Workerd => drop(self.send(&cell("/watch", key), encode(&(key, op))).await),
            Engine::Sqlite | Engine::Redis => drop(self.send("/watch", encode([(key, op)].as_slice())).await),
        }
    }

    /// What answers the key's alarm from now on, on the host of this way.
    pub(crate) async fn answer(&self, key: &str, op: &Op) {
        match self.engine {
            Engine::Workerd => drop(self.send(&cell("/answer", key), encode(&(key, op))).await),
            Engine::Sqlite | Engine::Redis => {
                drop(self.send("/answer", encode([(key, op)].as_slice())).await);
            }
        }
    }

    async fn send(&self, path: &str, body: Vec<u8>) -> Vec<u8> {
        let response = self.client.send("POST", path, &[], body).await;
        assert_eq!(response.status(), 200, "the store failed at {path}");
        response.bytes().await.expect("a whole answer").to_vec()
    }
}

/// The request to one object. Any text can be a key.
fn cell(path: &str, key: &str) -> String {
    let hex = key.bytes().fold(String::new(), |text, byte| format!("{text}%{byte:02x}"));
    format!("{path}?key={hex}")
}

fn encode<T: serde::Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).expect("operations can be encoded")
}

fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> T {
    postcard::from_bytes(bytes).expect("outcomes")
}
