//! The real OpenClaw Gateway, from npm, with the scripted provider as its only model.
//!
//! It needs about 20 s to start, a first run of some seconds, and 1 GB: one for a whole suite.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::json;
use tokio::process::{Child, Command};

use crate::{provider, provider::Provider, required, scripted};

/// The bearer token of the Gateway.
pub const TOKEN: &str = "openclaw-token-canary-41d9";

/// How long a start may take on a busy machine, and an end.
const START: Duration = Duration::from_secs(180);
const END: Duration = Duration::from_secs(30);

/// What names the caller where the Gateway trusts its proxy, and who may be named.
pub const USER_HEADER: &str = "x-minigate-user";
/// See [`USER_HEADER`].
pub const USER: &str = "minigate@example.com";
/// A header that the Gateway then wants to see.
pub const REQUIRED_HEADER: &str = "x-gate";

/// By what the Gateway knows who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Auth {
    /// By [`TOKEN`].
    Token,
    /// By [`USER_HEADER`], from this machine.
    TrustedProxy,
}

impl Auth {
    /// Its part of the configuration.
    fn configuration(self) -> String {
        match self {
            Self::Token => format!("auth: {}", json!({"mode": "token", "token": TOKEN})),
            Self::TrustedProxy => {
                let trusted = json!({
                    "userHeader": USER_HEADER, "requiredHeaders": [REQUIRED_HEADER],
                    "allowUsers": [USER], "allowLoopback": true,
                });
                let auth = json!({"mode": "trusted-proxy", "trustedProxy": trusted});
                format!("trustedProxies: [\"127.0.0.1\", \"::1\"], auth: {auth}")
            }
        }
    }

    fn prove(self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self {
            Self::Token => request.bearer_auth(TOKEN),
            Self::TrustedProxy => {
                let request = request.header(USER_HEADER, USER).header(REQUIRED_HEADER, "1");
                request.header("x-forwarded-for", "203.0.113.1")
            }
        }
    }
}

/// A Gateway that runs.
#[derive(Debug)]
pub struct OpenClaw {
    /// Its base URL.
    pub url: String,
    child: Child,
    directory: PathBuf,
}

impl OpenClaw {
    /// Starts it, waits until it is ready, and has it answer once.
    ///
    /// # Panics
    /// When it cannot start; the end of its log says why.
    pub async fn start(provider: &Provider, auth: Auth) -> Self {
        Self::start_at(provider.url(), provider::KEY, auth, "provider").await
    }

    /// The same with whoever is at that URL as its provider, and that key for it.
    ///
    /// # Panics
    /// As [`OpenClaw::start`].
    pub async fn start_at(provider: &str, key: &str, auth: Auth, name: &str) -> Self {
        Self::start_with(provider, key, provider::MODEL, auth, name).await
    }

    /// The same with another model's name.
    ///
    /// # Panics
    /// As [`OpenClaw::start`].
    pub async fn start_with(provider: &str, key: &str, model: &str, auth: Auth, name: &str) -> Self {
        let name = format!("minigate-openclaw-{}-{name}-{auth:?}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("workspace")).expect("a temporary directory");
        let (listener, url) = scripted::free_port().await;
        drop(listener);
        let port = url.rsplit(':').next().expect("a port").to_owned();
        let config = directory.join("openclaw.json");
        fs::write(&config, configuration(&port, (provider, key, model), auth, &directory)).expect("a file");
        let child = command(&directory, &config, &port).spawn().expect("Node can be started");
        let mut gateway = Self { url, child, directory };
        gateway.wait_until_ready().await;
        gateway.warm_up(auth).await;
        gateway
    }

    async fn wait_until_ready(&mut self) {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let deadline = tokio::time::Instant::now() + START;
        loop {
            let ready = http.get(format!("{}/readyz", self.url)).timeout(Duration::from_secs(3)).send().await;
            if ready.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
            let ended = self.child.try_wait().expect("it was started");
            assert!(ended.is_none(), "OpenClaw ended ({ended:?}):\n{}", self.log_tail());
            assert!(
                tokio::time::Instant::now() < deadline,
                "OpenClaw was not ready in {START:?}:\n{}",
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The first run loads what later ones have at hand. While OpenClaw still puts its own database in
    /// order, it may answer 500 ("another OpenClaw process owns state-lifecycle"): it is asked again.
    async fn warm_up(&self, auth: Auth) {
        let body = json!({"model": "openclaw", "input": "warm-up"}).to_string();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let deadline = tokio::time::Instant::now() + START;
        loop {
            let request = auth.prove(http.post(format!("{}/v1/responses", self.url)));
            let answer = request.timeout(START).body(body.clone()).send().await;
            let answer = answer.unwrap_or_else(|error| panic!("{error}\n{}", self.log_tail()));
            if answer.status() == 200 {
                return;
            }
            let late = tokio::time::Instant::now() >= deadline;
            assert!(
                answer.status() == 500 && !late,
                "OpenClaw's first answer is {}:\n{}",
                answer.status(),
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// The end of what it wrote.
    #[must_use]
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.directory.join("output.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Asks it to end, and waits for that.
    pub async fn stop(mut self) {
        self.signal("TERM");
        let _ = tokio::time::timeout(END, self.child.wait()).await;
    }

    /// Its group: itself, and whatever it may have started.
    fn signal(&self, signal: &str) {
        if let Some(group) = self.child.id() {
            let arguments = [format!("-{signal}"), "--".into(), format!("-{group}")];
            let _ = std::process::Command::new("kill").args(arguments).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for OpenClaw {
    fn drop(&mut self) {
        self.signal("KILL");
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn configuration(
    port: &str,
    (provider, key, model): (&str, &str, &str),
    auth: Auth,
    directory: &Path,
) -> String {
    let text = |text: &str| json!(text).to_string();
    include_str!("../data/openclaw.json5")
        .replace("\"$PORT\"", port)
        .replace("\"$AUTH\": 0", &auth.configuration())
        .replace("\"$PROVIDER_URL\"", &text(&format!("{provider}/v1")))
        .replace("\"$PROVIDER_KEY\"", &text(key))
        .replace("\"$MODEL\"", &text(model))
        .replace("\"$MODEL_REF\"", &text(&format!("scripted/{model}")))
        .replace("\"$WORKSPACE\"", &text(&directory.join("workspace").to_string_lossy()))
        .replace("\"$LOG_FILE\"", &text(&directory.join("gateway.jsonl").to_string_lossy()))
}

/// Its environment is made from nothing: no key, proxy or setting of the caller's leaks in.
/// It has a process group of its own, and ends with its standard input: also when the tests
/// are killed.
fn command(directory: &Path, config: &Path, port: &str) -> Command {
    let node = required("MINIGATE_NODE");
    let program = required("MINIGATE_OPENCLAW").join("node_modules/openclaw/openclaw.mjs");
    let watch = format!(
        "data:text/javascript,import{{isMainThread}}from'node:worker_threads';\
         if(isMainThread&&process.ppid==={})process.stdin.on('end',()=>process.exit(1)).resume()",
        std::process::id()
    );
    let log = fs::File::create(directory.join("output.log")).expect("a log file");
    let mut search = vec![node.parent().expect("a directory").to_owned()];
    search.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from));
    let mut command = Command::new(&node);
    command
        .arg("--import")
        .arg(watch)
        .arg(program)
        .args(["gateway", "run", "--port", port])
        .env_clear()
        .env("PATH", std::env::join_paths(search).expect("a search path"))
        .env("HOME", directory)
        .env("OPENCLAW_STATE_DIR", directory)
        .env("OPENCLAW_CONFIG_PATH", config)
        .envs([("LANG", "C.UTF-8"), ("TZ", "UTC"), ("NO_COLOR", "1"), ("SHELL", "/bin/sh")])
        .envs(
            [
                "OPENCLAW_DISABLE_BONJOUR",
                "OPENCLAW_NO_AUTO_UPDATE",
                "OPENCLAW_SKIP_CHANNELS",
                "OPENCLAW_SKIP_GMAIL_WATCHER",
                "OPENCLAW_OFFLINE",
                "OPENCLAW_NO_RESPAWN",
                "DO_NOT_TRACK",
            ]
            .map(|name| (name, "1")),
        )
        .env("OPENCLAW_EXEC_SHELL_SNAPSHOT", "0")
        .current_dir(directory)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a handle"))
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true);
    command
}
