//! The commands of an operator, as an operator types them: the program, its files and its exit codes.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use minigate_tests::{
    client::{Client, KEY, say},
    dingtalk::{DingTalk, Fault, TO_GROUP},
    hosts::{Kind, code_directory},
    llama::{self, Llama},
    required,
    runtime::{self, Runtime},
    until,
    upstream::TOKEN,
};
use serde_json::Value;
use tokio::process::Command;

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![for &[Kind::Native];
        a_daemon_lives_until_it_is_stopped,
        a_daemon_that_cannot_serve_says_why,
        onboard_asks_dingtalk_and_keeps_secrets_apart,
        what_is_sent_comes_back_or_is_said_to_have_failed,
        the_doctor_finds_what_is_the_matter,
        a_runtime_is_warm_before_anybody_asks,
    ]
}

const APP_KEY: &str = "dingappkey";
const APP_SECRET: &str = "ding-app-secret-canary-51c0";
const ADMIN: &str = "admin-key-canary-0123456789";
const LOCAL_MODEL: &str = include_str!("../../../config/tests/requirements/dingtalk-local-model.yaml");

/// A directory of an operator's, and the settings there.
struct Desk {
    directory: PathBuf,
    settings: Vec<(String, String)>,
}

/// What a command came to.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    text: String,
}

impl Desk {
    fn new(settings: &[(&str, &str)]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("minigate-commands-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let own = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self { settings: own.collect(), directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// Runs `minigate` with words that are separated by blanks; `%` is the directory.
    async fn run(&self, words: &str) -> Outcome {
        let directory = self.directory.to_string_lossy();
        let words: Vec<String> = words.split(' ').map(|word| word.replace('%', &directory)).collect();
        let output = Command::new(required("MINIGATE_BIN"))
            .args(words)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CACHE_DIR", code_directory())
            .env("DATA_DIR", self.path("data"))
            .env("MINIGATE_MODULE", required("MINIGATE_MODULE").join("index_bg.wasm"))
            .env("PORT", "0")
            .envs(self.settings.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        Outcome { code: output.status.code(), text: String::from_utf8_lossy(&text).into_owned() }
    }

    async fn ok(&self, words: &str) -> String {
        let outcome = self.run(words).await;
        assert_eq!(outcome.code, Some(0), "{words}: {}", outcome.text);
        outcome.text
    }

    /// Where the daemon listens, and its process.
    async fn daemon(&self, name: &str) -> (String, u64) {
        let status: Value =
            serde_json::from_str(&self.ok(&format!("daemon status --name {name} --json")).await).unwrap();
        (status["url"].as_str().unwrap().to_owned(), status["pid"].as_u64().unwrap())
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn kill(pid: u64) {
    let sent = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()));
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

async fn a_daemon_lives_until_it_is_stopped(scene: Scene) {
    let desk = Desk::new(&[
        ("OPENCLAW_GATEWAY_URL", &scene.upstream().url),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("RATE_LIMIT_PER_MINUTE", "0"),
    ]);
    assert_eq!(desk.run("daemon status --name bot").await.code, Some(3));
    let started = desk.ok("daemon start --name bot --log %/log/bot.log").await;
    assert!(started.contains("bot started: pid "), "{started}");
    let (url, pid) = desk.daemon("bot").await;
    let client = Client::new(&url);
    let text = scene.marker("daemon-one");
    assert_eq!(client.chat(&say(&text)).await.status, 200);
    // It leads a session of its own: the sixth field (proc(5)), after the name.
    let stat = read(Path::new(&format!("/proc/{pid}/stat")));
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap().to_owned();
    assert_eq!(session, pid.to_string(), "{stat}");
    // Once more starts nothing.
    assert!(desk.ok("daemon start --name bot").await.contains("runs already"));
    // The log is moved away, as logrotate does, and begun anew.
    let (log, moved) = (desk.path("log/bot.log"), desk.path("log/bot.log.1"));
    fs::rename(&log, &moved).unwrap();
    assert_eq!(client.chat(&say(&scene.marker("daemon-two"))).await.status, 200);
    until("a new log", Duration::from_secs(10), || async { read(&log).contains("/api/chat") }).await;
    assert!(read(&moved).contains("\"listening\""));
    let stopped = desk.ok("daemon stop --name bot").await;
    assert!(stopped.contains("bot stopped after"), "{stopped}");
    assert!(read(&log).contains("\"stopped\""), "the drain is over");
    assert_eq!(desk.run("daemon status --name bot").await.code, Some(3));
    desk.ok("daemon stop --name bot").await;
    // One that dies is told from one that was stopped, and can be started again.
    desk.ok("daemon start --name bot").await;
    let (_, pid) = desk.daemon("bot").await;
    kill(pid);
    until("its end", Duration::from_secs(10), || async {
        desk.run("daemon status --name bot").await.code == Some(1)
    })
    .await;
    desk.ok("daemon start --name bot").await;
    desk.ok("daemon stop --name bot").await;
}

async fn a_daemon_that_cannot_serve_says_why(_: Scene) {
    let desk = Desk::new(&[]);
    let refused = desk.run("daemon start --name bot").await;
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    assert!(refused.text.contains("API_KEY: not set"), "{}", refused.text);
    assert_eq!(desk.run("daemon start --name a/b").await.code, Some(1));
    assert_eq!(desk.run("send --name bot --to x --text ping").await.code, Some(1));
}

async fn onboard_asks_dingtalk_and_keeps_secrets_apart(_: Scene) {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    let wrong = Desk::new(&[
        ("DINGTALK_API_URL", ding.url()),
        ("DINGTALK_APP_KEY", APP_KEY),
        ("DINGTALK_APP_SECRET", "another-secret-canary"),
        ("LOCAL_MODEL_API_KEY", runtime::KEY),
    ]);
    let words = "onboard --channel dingtalk --config %/etc/dingtalk.yaml --target test-group=cidtest=";
    let refused = wrong.run(words).await;
    assert_eq!(refused.code, Some(1), "{}", refused.text);
    assert!(!refused.text.contains("canary") && !wrong.path("etc").exists(), "{}", refused.text);
    // The requirement's file as it is.
    let desk = Desk::new(&[
        ("DINGTALK_API_URL", ding.url()),
        ("DINGTALK_APP_KEY", APP_KEY),
        ("DINGTALK_APP_SECRET", APP_SECRET),
        ("LOCAL_MODEL_API_KEY", runtime::KEY),
    ]);
    fs::create_dir_all(desk.path("etc")).unwrap();
    fs::write(desk.path("etc/dingtalk.yaml"), LOCAL_MODEL).unwrap();
    let said = desk.ok(words).await;
    let (yaml, secrets) = (read(&desk.path("etc/dingtalk.yaml")), read(&desk.path("etc/dingtalk.env")));
    assert!(yaml.starts_with(LOCAL_MODEL), "{yaml}");
    assert!(said.contains("DingTalk gave a token") && !said.contains("canary"), "{said}");
    assert!(!yaml.contains("canary") && secrets.contains(APP_SECRET) && secrets.contains("ADMIN_KEY="));
    let mode = fs::metadata(desk.path("etc/dingtalk.env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    desk.ok("check %/etc/dingtalk.yaml").await;
    // Once more changes nothing.
    desk.ok(words).await;
    assert_eq!(
        (read(&desk.path("etc/dingtalk.yaml")), read(&desk.path("etc/dingtalk.env"))),
        (yaml, secrets)
    );
}

/// The three commands of the requirement, one after the other.
async fn what_is_sent_comes_back_or_is_said_to_have_failed(scene: Scene) {
    let ding = DingTalk::start(APP_KEY, APP_SECRET).await;
    let desk = Desk::new(&[
        ("DINGTALK_API_URL", ding.url()),
        ("DINGTALK_OAPI_URL", ding.url()),
        ("DINGTALK_APP_KEY", APP_KEY),
        ("DINGTALK_APP_SECRET", APP_SECRET),
        ("LOCAL_MODEL_API_KEY", runtime::KEY),
        ("OPENCLAW_GATEWAY_URL", &scene.upstream().url),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("ADMIN_KEY", ADMIN),
    ]);
    fs::write(desk.path("dingtalk.yaml"), LOCAL_MODEL).unwrap();
    desk.ok("onboard --channel dingtalk --config %/dingtalk.yaml --mode http --target test-group=cidtest=")
        .await;
    desk.ok("daemon start --name dingtalk-bot --log %/dingtalk-bot.log").await;
    let send = "send --name dingtalk-bot --to test-group --text ping";
    let answer: Value = serde_json::from_str(&desk.ok(send).await).unwrap();
    assert_eq!((&answer["sent"], &answer["to"]), (&true.into(), &"test-group".into()));
    let shown = ding.wait_for_delivered("cidtest=", 1).await;
    assert_eq!((shown[0].words().as_str(), shown[0].path.as_str()), ("ping", TO_GROUP));
    ding.set_fault(TO_GROUP, Fault::Code(403, "Forbidden.AccessDenied.AccessTokenPermissionDenied"));
    let failed = desk.run(send).await;
    assert_eq!(failed.code, Some(1));
    assert!(failed.text.contains("upstream_misconfigured"), "{}", failed.text);
    let unknown = desk.run("send --name dingtalk-bot --to nobody --text ping").await;
    assert!(unknown.code == Some(1) && unknown.text.contains("not_found"), "{}", unknown.text);
    desk.ok("daemon stop --name dingtalk-bot").await;
    let log = read(&desk.path("dingtalk-bot.log"));
    for canary in [APP_SECRET, ADMIN, "\"ping\""] {
        assert!(!log.contains(canary), "{canary}: {log}");
    }
}

async fn the_doctor_finds_what_is_the_matter(scene: Scene) {
    let (ding, llama) = (DingTalk::start(APP_KEY, APP_SECRET).await, Llama::start("local-chat").await);
    let yaml = |url: &str, model: &str, more: &str| {
        let model = format!("    model: \"{model}\"{more}");
        LOCAL_MODEL.replace("http://127.0.0.1:8000/v1", url).replace("    model: \"local-chat\"", &model)
            + "profiles: {p: {max_tokens: 9}}\nchannels:\n  bot: {kind: dingtalk, robot_code: r, app_key: '${DINGTALK_APP_KEY}', app_secret: '${DINGTALK_APP_SECRET}', profile: p}\n"
    };
    let desk = Desk::new(&[
        ("DINGTALK_API_URL", ding.url()),
        ("DINGTALK_APP_KEY", APP_KEY),
        ("DINGTALK_APP_SECRET", APP_SECRET),
        ("LOCAL_MODEL_API_KEY", llama::KEY),
        ("OPENCLAW_GATEWAY_URL", &scene.upstream().url),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
    ]);
    let diagnose = async |text: String| {
        fs::write(desk.path("bot.yaml"), text).unwrap();
        let outcome = desk.run("doctor --config %/bot.yaml --json --lang en").await;
        let found: Value = serde_json::from_str(&outcome.text).unwrap_or_else(|_| panic!("{}", outcome.text));
        (outcome.code, found)
    };
    let verdict = |found: &Value, area: &str| {
        let all = found["findings"].as_array().unwrap();
        let found = all.iter().find(|finding| finding["area"] == area).unwrap();
        (found["verdict"].as_str().unwrap().to_owned(), found["advice"].as_str().unwrap().to_owned())
    };
    let (code, fine) = diagnose(yaml(&llama.url(), "local-chat", "\n    context_tokens: 16384")).await;
    let order: Vec<_> = fine["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["area"].as_str().unwrap())
        .collect();
    assert_eq!(
        order,
        ["runtime", "concurrency", "prompt", "network", "network", "openclaw", "dingtalk"],
        "{fine}"
    );
    assert!(code == Some(0) && fine["verdict"] != "broken", "{fine}");
    assert!(fine["findings"][0]["measured"].as_str().unwrap().contains("10 tokens"), "{fine}");
    // What is set up holds more than the runtime does; nothing says what it holds.
    let (_, large) = diagnose(yaml(&llama.url(), "local-chat", "\n    context_tokens: 99999")).await;
    assert_eq!(verdict(&large, "prompt").0, "broken", "{large}");
    let (_, none) = diagnose(yaml(&llama.url(), "local-chat", "")).await;
    assert_eq!(verdict(&none, "prompt").0, "slow", "{none}");
    // The runtime is away; it is somebody else's.
    let (code, away) = diagnose(yaml("http://127.0.0.1:9/v1", "local-chat", "")).await;
    assert_eq!((code, verdict(&away, "runtime").0.as_str()), (Some(1), "broken"), "{away}");
    assert!(away["conclusion"].as_str().unwrap().contains("runtime is broken"), "{away}");
    let other = Runtime::start().await;
    let (_, wrong) = diagnose(yaml(&other.url(), "local-chat", "")).await;
    assert!(verdict(&wrong, "runtime").1.contains("refuses the key"), "{wrong}");
    // For people, in their language.
    let chinese = desk.run("doctor --config %/bot.yaml --lang zh").await.text;
    assert!(chinese.contains("[故障] 模型运行时 local_chat") && chinese.contains("结论："), "{chinese}");
    assert!(!chinese.contains(llama::KEY) && !chinese.contains(APP_SECRET), "{chinese}");
    llama.stop().await;
}

async fn a_runtime_is_warm_before_anybody_asks(_: Scene) {
    let runtime = Runtime::start().await;
    runtime.set_down(true);
    let yaml = LOCAL_MODEL
        .replace("http://127.0.0.1:8000/v1", &runtime.url())
        .replace("    timeout_ms", "    warm_up: true\n    timeout_ms");
    // A mere model gateway: nothing of OpenClaw is set.
    let desk = Desk::new(&[("AUTH_TOKEN", ADMIN), ("LOCAL_MODEL_API_KEY", runtime::KEY)]);
    fs::write(desk.path("models.yaml"), yaml).unwrap();
    desk.ok("daemon start --name models --config %/models.yaml --log %/models.log").await;
    runtime.set_down(false);
    let log = desk.path("models.log");
    until("a warm model", Duration::from_secs(20), || async { read(&log).contains("\"warm_up\"") }).await;
    assert_eq!(runtime.seen("hi").len(), 1);
    let (url, _) = desk.daemon("models").await;
    let client = Client::new(&url);
    assert_eq!(client.chat(&say("x")).await.status, 404);
    assert!(client.get("/readyz").await.json()["ready"] == true);
    desk.ok("daemon stop --name models").await;
}
