//! The whole loop of a robot with a model of one's own, with everything in it real but DingTalk: DingTalk →
//! Minigate → OpenClaw → Minigate as model gateway, with the requirement's own file → llama.cpp.

use std::time::{Duration, Instant};

use minigate_tests::{
    client::{Client, KEY, say, say_stream, whole},
    dingtalk::{CANARIES, DingTalk, TO_GROUP},
    hosts::{Host, Kind},
    llama::{self, ANSWER, Llama},
    openclaw::{Auth, OpenClaw, TOKEN},
};
use serde_json::{Value, json};

use crate::assert_says;

const AUTH_TOKEN: &str = "auth-token-canary-7c40";
const ADMIN: &str = "admin-key-canary-ops7-0001";
const APP_SECRET: &str = "ding-app-secret-canary-a9b2";
/// What people read when there is no answer.
const SORRY: &str = "模型暂时不可用，请稍后再试。";
/// The robot's deadline, and what the machine may take beside it.
const DEADLINE: Duration = Duration::from_secs(25);
const SLACK: Duration = Duration::from_secs(8);

const LOCAL_MODEL: &str = include_str!("../../../config/tests/requirements/dingtalk-local-model.yaml");
const ROBOT: &str = "
models: {agent: {kind: openclaw, side_effects: none}}
profiles: {bot_v1: {model: agent}}
channels:
  bot:
    kind: dingtalk
    robot_code: normal
    app_key: ${DINGTALK_APP_KEY}
    app_secret: ${DINGTALK_APP_SECRET}
    mode: http
    profile: bot_v1
    timeout_ms: 25000
    failed: 模型暂时不可用，请稍后再试。
    targets: {test-group: {conversation: cidtest=}}
";

struct Loop {
    llama: Llama,
    models: Host,
    openclaw: OpenClaw,
    front: Host,
    ding: DingTalk,
    client: Client,
}

impl Loop {
    async fn start() -> Self {
        let llama = Llama::start("local-chat").await;
        // The file as it is, but for the port: a test has none of its own.
        let yaml = LOCAL_MODEL.replace("http://127.0.0.1:8000/v1", &llama.url());
        assert_ne!(yaml, LOCAL_MODEL);
        let settings = [("AUTH_TOKEN", AUTH_TOKEN), ("LOCAL_MODEL_API_KEY", llama::KEY)];
        let models =
            Host::start_with_config(Kind::Native, &[("dingtalk-local-model.yaml", &yaml)], &settings).await;
        let openclaw =
            OpenClaw::start_with(&models.url, AUTH_TOKEN, "local_chat", Auth::Token, "local-model").await;
        let ding = DingTalk::start("dingappkey", APP_SECRET).await;
        let settings = [
            ("OPENCLAW_GATEWAY_URL", openclaw.url.as_str()),
            ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
            ("API_KEY", KEY),
            ("ADMIN_KEY", ADMIN),
            ("DINGTALK_API_URL", ding.url()),
            ("DINGTALK_OAPI_URL", ding.url()),
            ("DINGTALK_APP_KEY", "dingappkey"),
            ("DINGTALK_APP_SECRET", APP_SECRET),
        ];
        let front = Host::start_with_config(Kind::Native, &[("robot.yaml", ROBOT)], &settings).await;
        let client = Client::new(&front.url);
        Self { llama, models, openclaw, front, ding, client }
    }

    /// Somebody writes; gives what is read in that conversation, and after how long.
    async fn ask(&self, conversation: &str, text: &str) -> (String, Duration) {
        let began = Instant::now();
        let before = self.ding.delivered_to(conversation).len();
        let message: Value = self.ding.message(&format!("{conversation}-{before}"), text, conversation);
        let signature = self.ding.signature(0);
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
        let answer =
            whole(self.client.send("POST", "/dingtalk/bot", &headers, message.to_string()).await).await;
        assert_eq!(answer.status, 200, "{}", self.front.output());
        let read = self.ding.wait_for_delivered(conversation, before + 1).await;
        (read[before].words(), began.elapsed())
    }

    /// Asks in a new conversation each time until it is answered: rests and retries have to be over.
    async fn recovers(&self, what: &str) {
        for attempt in 0..12 {
            if self.ask(&format!("{what}{attempt}"), "ping").await.0 == ANSWER {
                return;
            }
        }
        panic!("no answer after {what}:\n{}\n{}", self.front.output(), self.models.output());
    }
}

pub(crate) async fn dingtalk_to_a_model_of_ones_own_and_back() {
    let mut all = Loop::start().await;
    // Chat in front, whole and streamed.
    assert_says(&all.client.chat(&say("ping 你好")).await, ANSWER);
    assert_eq!(all.client.stream(&say_stream("ping")).await.text(), ANSWER);
    // DingTalk in front.
    assert_eq!(all.ask("room", "ping 你好").await.0, ANSWER);
    let body = json!({"to": "test-group", "text": "ping"}).to_string();
    let bearer = format!("Bearer {ADMIN}");
    let headers = [("content-type", "application/json"), ("authorization", bearer.as_str())];
    let sent = whole(all.client.send("POST", "/v1/admin/send", &headers, body).await).await;
    assert_eq!((sent.status, &sent.json()["sent"]), (200, &Value::Bool(true)), "{}", sent.text);
    assert_eq!(all.ding.wait_for_delivered("cidtest=", 1).await[0].path, TO_GROUP);

    // The runtime hangs: people are told in time, and it is used again.
    all.llama.freeze(true);
    let (words, took) = all.ask("hangs", "ping").await;
    assert!(words == SORRY && took < DEADLINE + SLACK, "{words} after {took:?}");
    all.llama.freeze(false);
    all.recovers("hung").await;
    // It dies, and another one comes in its place; nothing else is started anew.
    let port = all.llama.port();
    all.llama.die();
    let (words, took) = all.ask("dies", "ping").await;
    assert!(words == SORRY && took < DEADLINE + SLACK, "{words} after {took:?}");
    all.llama = Llama::start_on(port, "local-chat").await;
    all.recovers("died").await;

    for (name, output) in [("front", all.front.output()), ("models", all.models.output())] {
        for canary in CANARIES.iter().chain(&[APP_SECRET, AUTH_TOKEN, llama::KEY, "pong", "你好"]) {
            assert!(!output.contains(canary), "{canary} is in the log of {name}");
        }
    }
    let Loop { llama, models, openclaw, front, .. } = all;
    front.stop().await;
    openclaw.stop().await;
    models.stop().await;
    llama.stop().await;
}
