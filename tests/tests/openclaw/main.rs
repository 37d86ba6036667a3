//! Both hosts before the real OpenClaw Gateway: what Minigate says to it must mean to it what
//! Minigate thinks. Only the model behind OpenClaw is scripted.
#![allow(clippy::expect_used, clippy::panic, reason = "a test says so when something is missing")]

mod intents;
mod local_model;
mod models;
mod redteam;
mod trusted_proxy;
mod turns;

use std::{
    future::Future,
    pin::Pin,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, future::join_all};
use intents::{
    a_text_cannot_pass_for_the_servers, intents_stream_see_and_remember, the_requirements_ai_is_answered,
    the_requirements_ask_is_answered,
};
use libtest_mimic::{Arguments, Failed, Trial};
use minigate_tests::{
    client::{Answer, Client, KEY, say, say_stream},
    hosts::{Host, Kind},
    media::{encode, pdf, png, with_attachment},
    openclaw::{Auth, OpenClaw, TOKEN},
    provider::{DETAIL, Provider},
    upstream::Upstream,
    wechat::Wechat,
};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use turns::{
    a_refused_call_is_explained, a_turn_is_joined_and_rejoined, an_approved_call_is_done_once_and_told,
};

/// OpenClaw serves about five runs a second, however many are asked for at once.
const THREADS: usize = 4;
/// No scenario should take so long.
const LIMIT: Duration = Duration::from_secs(100);
/// One starts an OpenClaw of its own, and waits for deadlines and rests.
const LONG: Duration = Duration::from_secs(600);
/// The deadline of a turn in [`Setup::Hasty`].
const HASTY: Duration = Duration::from_secs(20);
/// What the server adds in [`Setup::Memory`].
const SYSTEM_PROMPT: &str = "Answer in rhymes, 请押韵.";

/// The ways in which a host is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setup {
    /// The phone sends the history; everything else as it is without settings.
    Plain,
    /// OpenClaw remembers; a system prompt and a token limit.
    Memory,
    /// A turn may take twenty seconds.
    Hasty,
    /// What is attacked: people with tokens, and OpenClaw remembers.
    Guarded,
    /// The same, and abusers are blocked.
    Watched,
}

impl Setup {
    const ALL: [Self; 5] = [Self::Plain, Self::Memory, Self::Hasty, Self::Guarded, Self::Watched];

    fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            // workerd learns that a client has closed when it writes: a heartbeat is a write.
            Self::Plain => &[("HEARTBEAT_MS", "1000")],
            Self::Memory => {
                &[("CHAT_MEMORY", "gateway"), ("SYSTEM_PROMPT", SYSTEM_PROMPT), ("MAX_TOKENS", "777")]
            }
            Self::Hasty => &[("TURN_TIMEOUT_MS", "20000")],
            Self::Guarded => redteam::GUARDED,
            Self::Watched => redteam::WATCHED,
        }
    }
}

/// Everything that runs.
#[derive(Debug)]
struct World {
    provider: Provider,
    wechat: Wechat,
    /// Where nobody may be lured to.
    bait: Upstream,
    hosts: Vec<(Setup, Host)>,
    openclaw: OpenClaw,
}

impl World {
    async fn start() -> Self {
        let provider = Provider::start().await;
        let openclaw = OpenClaw::start(&provider, Auth::Token).await;
        let wechat = Wechat::start(redteam::APPID, redteam::APP_SECRET).await;
        let bait = Upstream::start().await;
        let all = Setup::ALL.into_iter().flat_map(|setup| Kind::ALL.map(|kind| (setup, kind)));
        let hosts = join_all(all.map(async |(setup, kind)| {
            let mut settings = vec![
                ("OPENCLAW_GATEWAY_URL", openclaw.url.as_str()),
                ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
                ("API_KEY", KEY),
                ("RATE_LIMIT_PER_MINUTE", "0"),
                ("WECHAT_API_URL", wechat.url()),
                // The real Gateway is slow when everything runs at once.
                ("FIRST_BYTE_TIMEOUT_MS", "40000"),
            ];
            settings.extend_from_slice(setup.settings());
            (setup, Host::start(kind, &settings).await)
        }))
        .await;
        Self { provider, wechat, bait, hosts, openclaw }
    }

    fn host(&self, kind: Kind, setup: Setup) -> &Host {
        let found = self.hosts.iter().find(|(is, host)| *is == setup && host.kind == kind);
        &found.expect("every setup was started").1
    }

    fn client(&self, kind: Kind, setup: Setup) -> Client {
        Client::new(&self.host(kind, setup).url)
    }

    /// Ends everything; says first what was logged, when that may help.
    async fn stop(self, explain: bool) {
        if explain {
            eprintln!("OpenClaw's log ends with:\n{}", self.openclaw.log_tail());
        }
        for (setup, host) in self.hosts {
            if explain {
                let output = host.output();
                let lines: Vec<&str> = output.lines().collect();
                let end = lines[lines.len().saturating_sub(10)..].join("\n");
                eprintln!("the {} host ({setup:?}) ends with:\n{end}", host.kind.name());
            }
            host.stop().await;
        }
        self.openclaw.stop().await;
    }
}

/// What a scenario gets: one host of the two, in all setups.
#[derive(Clone, Debug)]
struct Scene {
    kind: Kind,
    world: Arc<World>,
}

impl Scene {
    fn client(&self, setup: Setup) -> Client {
        self.world.client(self.kind, setup)
    }

    fn provider(&self) -> &Provider {
        &self.world.provider
    }

    /// A word that no other scenario or host says.
    fn marker(&self, name: &str) -> String {
        format!("{name}-{}", self.kind.name())
    }
}

type Run = Pin<Box<dyn Future<Output = ()>>>;

fn trial(name: String, runtime: &Arc<Runtime>, run: impl FnOnce() -> Run + Send + 'static) -> Trial {
    trial_within(LIMIT, name, runtime, run)
}

fn trial_within(
    limit: Duration,
    name: String,
    runtime: &Arc<Runtime>,
    run: impl FnOnce() -> Run + Send + 'static,
) -> Trial {
    let runtime = Arc::clone(runtime);
    Trial::test(name, move || {
        let work = async move { tokio::time::timeout(limit, run()).await };
        runtime.block_on(work).map_err(|_| Failed::from(format!("took more than {limit:?}")))
    })
}

/// Lists scenarios, each once for every host.
macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        [$((stringify!($name), (|scene| Box::pin($name(scene))) as fn(Scene) -> Run)),*]
    };
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS);
    let runtime = Arc::new(Runtime::new().expect("a runtime"));
    let world = Arc::new(runtime.block_on(World::start()));

    let all = scenarios![
        a_failed_run_is_given_up_at_the_deadline,
        a_hanging_model_is_given_up_at_the_deadline,
        a_gone_client_ends_the_run,
        a_gone_client_ends_the_stream,
        text_is_answered,
        earlier_turns_are_seen_once,
        a_clients_system_message_is_left_out,
        a_picture_is_seen,
        pictures_in_parts_are_seen,
        a_pdf_is_read,
        a_text_file_is_read,
        files_and_pictures_go_together,
        text_is_streamed,
        an_answer_about_a_picture_is_streamed,
        a_long_answer_is_streamed,
        what_the_model_refuses_is_the_clients_to_change,
        openclaw_remembers,
        openclaw_remembers_pictures,
        users_that_differ_in_case_are_two,
        without_a_user_nothing_is_remembered,
        the_servers_prompt_and_limit_arrive,
        it_is_ready,
        the_requirements_ask_is_answered,
        the_requirements_ai_is_answered,
        intents_stream_see_and_remember,
        a_text_cannot_pass_for_the_servers,
        an_approved_call_is_done_once_and_told,
        a_refused_call_is_explained,
        a_turn_is_joined_and_rejoined,
    ];
    let mut trials = Vec::new();
    for (name, run) in all {
        for kind in Kind::ALL {
            // Nothing is written to a client that waits for a whole answer, so in workerd only a
            // reset tells that it has gone; that is among the scenarios of the scripted Gateway.
            if kind == Kind::Edge && name == "a_gone_client_ends_the_run" {
                continue;
            }
            let scene = Scene { kind, world: Arc::clone(&world) };
            trials.push(trial(format!("{}::{name}", kind.name()), &runtime, move || run(scene)));
        }
    }
    for attack in redteam::ATTACKS {
        for kind in Kind::ALL {
            let scene = Scene { kind, world: Arc::clone(&world) };
            let name = format!("{}::attack::{}", kind.name(), attack.name);
            trials.push(trial(name, &runtime, move || attack.run(scene)));
        }
    }
    let both = Arc::clone(&world);
    trials.push(trial("both::a_conversation_moves_between_hosts".into(), &runtime, move || {
        Box::pin(a_conversation_moves_between_hosts(both))
    }));
    let looped = Arc::clone(&world);
    trials.push(trial("both::openclaws_provider_is_the_model_gateway".into(), &runtime, move || {
        Box::pin(models::openclaws_provider_is_the_model_gateway(looped))
    }));
    trials.push(trial_within(
        LONG,
        "both::dingtalk_to_a_model_of_ones_own_and_back".into(),
        &runtime,
        || Box::pin(local_model::dingtalk_to_a_model_of_ones_own_and_back()),
    ));
    let proxies = Arc::clone(&world);
    trials.push(trial("both::openclaw_trusts_this_proxy".into(), &runtime, move || {
        Box::pin(trusted_proxy::openclaw_trusts_this_proxy(proxies))
    }));
    let first = libtest_mimic::run(&arguments, trials);
    let aftermath = redteam::aftermath(&world, first.num_filtered_out == 0 && !arguments.list);

    // Alone and last: it makes OpenClaw leave the model alone for half a minute.
    let both = Arc::clone(&world);
    let last = trial("both::a_refused_provider_key_is_the_operators".into(), &runtime, move || {
        Box::pin(a_refused_provider_key_is_the_operators(both))
    });
    let second = libtest_mimic::run(&arguments, vec![last]);

    if let Err(problem) = &aftermath {
        eprintln!("after the attacks: {problem}");
    }
    let failed = first.has_failed() || second.has_failed() || aftermath.is_err();
    // The trials are gone, and their share of the world with them.
    if let Ok(world) = Arc::try_unwrap(world) {
        runtime.block_on(world.stop(failed));
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

#[track_caller]
fn assert_says(answer: &Answer, expected: &str) {
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["choices"][0]["message"]["content"], expected, "{}", answer.text);
}

#[track_caller]
fn assert_no_detail(text: &str) {
    assert!(!text.contains(DETAIL), "the provider's words were passed on: {text}");
}

async fn text_is_answered(scene: Scene) {
    let text = format!("{} 你好，世界 🌍 \"quoted\" \\ end", scene.marker("plain"));
    let answer = scene.client(Setup::Plain).chat(&say(&text)).await;
    assert_says(&answer, &format!("echo: {text}"));
    let json = answer.json();
    assert_eq!(json["choices"][0]["finish_reason"], "stop");
    assert_eq!(json["model"], "openclaw");
    assert!(json["usage"]["total_tokens"].as_u64().is_some_and(|count| count > 0), "{json}");
    assert_eq!(scene.provider().only(&scene.marker("plain")).pictures(), 0);
}

async fn earlier_turns_are_seen_once(scene: Scene) {
    let marker = scene.marker("turns");
    let body = json!({"messages": [
        {"role": "user", "content": format!("{marker} my name is Alice-one")},
        {"role": "assistant", "content": "Hello Alice-two"},
        {"role": "user", "content": "I live in Alice-three"},
        {"role": "assistant", "content": "A fine place, Alice-four"},
        {"role": "user", "content": "who am I, Alice-five?"},
    ]});
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, "echo: who am I, Alice-five?");
    let seen = scene.provider().only(&marker).text();
    let places: Vec<_> = ["one", "two", "three", "four", "five"]
        .map(|which| seen.match_indices(&format!("Alice-{which}")).map(|(at, _)| at).collect::<Vec<_>>())
        .into();
    assert!(places.iter().all(|found| found.len() == 1), "each turn once: {places:?} in {seen}");
    assert!(places.is_sorted(), "in order: {places:?}");
}

async fn a_clients_system_message_is_left_out(scene: Scene) {
    let marker = scene.marker("no-system");
    let body = json!({"messages": [
        {"role": "system", "content": "you are a pirate"},
        {"role": "user", "content": marker},
    ]});
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    assert_eq!(answer.json()["warnings"][0]["code"], "system_message_ignored");
    assert!(!scene.provider().only(&marker).text().contains("pirate"));
}

async fn a_picture_is_seen(scene: Scene) {
    let marker = scene.marker("picture");
    let body = with_attachment(&marker, "image", Some("image/png"), None, &png(20_000));
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    assert_eq!(scene.provider().only(&marker).pictures(), 1);
}

async fn pictures_in_parts_are_seen(scene: Scene) {
    let marker = scene.marker("parts");
    let url = format!("data:image/png;base64,{}", encode(&png(0)));
    let mut body = with_attachment("", "image", None, None, &png(10));
    body["messages"][0]["content"] = json!([
        {"type": "text", "text": marker},
        {"type": "image_url", "image_url": {"url": url}},
    ]);
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    assert_eq!(scene.provider().only(&marker).pictures(), 2);
}

async fn a_pdf_is_read(scene: Scene) {
    let (marker, inside) = (scene.marker("pdf"), scene.marker("paper"));
    // Four pages are the most that OpenClaw reads.
    let bytes = pdf(4, &inside);
    let body = with_attachment(&marker, "file", Some("application/pdf"), Some("报告.pdf"), &bytes);
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    let seen = scene.provider().only(&marker).text();
    // Eight lines on each page.
    assert_eq!(seen.matches(&inside).count(), 32, "{seen}");
    assert!(seen.contains("报告.pdf"), "{seen}");
}

async fn a_text_file_is_read(scene: Scene) {
    let (marker, inside) = (scene.marker("notes"), scene.marker("remember"));
    let text = format!("# 标题\n\n{inside} the milk 🥛\n");
    // A label that OpenClaw would refuse.
    let body =
        with_attachment(&marker, "file", Some("application/x-yaml"), Some("notes.yaml"), text.as_bytes());
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    let seen = scene.provider().only(&marker).text();
    assert!(seen.contains("标题") && seen.contains(&format!("{inside} the milk 🥛")), "{seen}");
}

async fn files_and_pictures_go_together(scene: Scene) {
    let (marker, inside) = (scene.marker("together"), scene.marker("column"));
    let csv = format!("name,{inside}\n");
    let body = json!({
        "messages": [
            {"role": "user", "content": "an earlier Question-one"},
            {"role": "assistant", "content": "an earlier Answer-two"},
            {"role": "user", "content": marker},
        ],
        "attachments": [
            {"type": "image", "data": encode(&png(0))},
            {"type": "file", "name": "t.csv", "mimeType": "text/csv", "data": encode(csv.as_bytes())},
            {"type": "image", "data": encode(&png(1000))},
        ],
    });
    let answer = scene.client(Setup::Plain).chat(&body).await;
    assert_says(&answer, &format!("echo: {marker}"));
    let call = scene.provider().only(&marker);
    assert_eq!(call.pictures(), 2);
    for part in [inside.as_str(), "Question-one", "Answer-two"] {
        assert_eq!(call.text().matches(part).count(), 1, "{part} in {}", call.text());
    }
}

async fn text_is_streamed(scene: Scene) {
    let text = format!("{} 一二三四五六七八九十 🌍", scene.marker("stream"));
    let events = scene.client(Setup::Plain).stream(&say_stream(&format!("{text} [[model:slow=30]]"))).await;
    assert_eq!(events.text(), format!("echo: {text}"));
    let finish = events.finish();
    assert_eq!(finish["choices"][0]["finish_reason"], "stop");
    assert!(finish["usage"]["total_tokens"].as_u64().is_some_and(|count| count > 0), "{finish}");
    let deltas =
        events.json().iter().filter(|event| event["choices"][0]["delta"]["content"].is_string()).count();
    assert!(deltas > 1, "in pieces: {:?}", events.data);
}

async fn an_answer_about_a_picture_is_streamed(scene: Scene) {
    let marker = scene.marker("picture-stream");
    let mut body = with_attachment(&marker, "image", None, None, &png(0));
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let events = scene.client(Setup::Plain).stream(&body).await;
    assert_eq!(events.text(), format!("echo: {marker}"));
    assert_eq!(events.finish()["choices"][0]["finish_reason"], "stop");
    let last = events.json().pop().expect("events");
    assert_eq!(last["choices"], json!([]));
    assert!(last["usage"]["total_tokens"].is_u64(), "{last}");
    assert_eq!(scene.provider().only(&marker).pictures(), 1);
}

async fn a_long_answer_is_streamed(scene: Scene) {
    let text = format!("{}{}", scene.marker("long"), " 文字 and words".repeat(600));
    let events = scene.client(Setup::Plain).long_stream(&say_stream(&text)).await;
    assert_eq!(events.text(), format!("echo: {text}"));
}

async fn a_gone_client_ends_the_run(scene: Scene) {
    let marker = scene.marker("gone");
    let client = scene.client(Setup::Plain);
    let body = say(&format!("{marker} [[model:hang]]"));
    let waiting = tokio::spawn(async move { client.chat(&body).await });
    scene.provider().wait_for_call(&marker).await;
    waiting.abort();
    scene.provider().wait_for_abort(&marker).await;
}

async fn a_gone_client_ends_the_stream(scene: Scene) {
    for picture in [false, true] {
        let marker = scene.marker(if picture { "gone-image" } else { "gone-stream" });
        let text = format!("{marker} says enough to be in pieces [[model:stall=4]]");
        let mut body = with_attachment(&text, "image", None, None, &png(0));
        body["stream"] = true.into();
        if !picture {
            body["attachments"] = json!([]);
        }
        let mut chunks = scene.client(Setup::Plain).open(&body).await.bytes_stream();
        let mut seen = String::new();
        while !seen.contains("\"content\":\"echo: ") {
            let chunk = chunks.next().await.expect("the stream goes on").expect("a chunk");
            seen.push_str(&String::from_utf8_lossy(&chunk));
        }
        assert!(scene.provider().calls(&marker).iter().all(|call| !call.aborted));
        drop(chunks);
        scene.provider().wait_for_abort(&marker).await;
    }
}

async fn what_the_model_refuses_is_the_clients_to_change(scene: Scene) {
    let marker = scene.marker("refused");
    let client = scene.client(Setup::Plain);
    let text = format!("{marker} [[model:error=400]]");
    let refused = "upstream_refused_request".to_owned();
    for media in [false, true] {
        let mut body = with_attachment(&text, "image", None, None, &png(0));
        if !media {
            body["attachments"] = json!([]);
        }
        let answer = client.chat(&body).await;
        assert_eq!(answer.error(), (400, refused.clone()), "media: {media}: {}", answer.text);
        assert_no_detail(&answer.text);
        body["stream"] = true.into();
        let events = client.stream(&body).await;
        assert_eq!(events.error(), Some(refused.clone()), "media: {media}: {:?}", events.data);
        assert_no_detail(&events.data.concat());
    }
}

/// OpenClaw itself would try again for more than a minute.
async fn a_failed_run_is_given_up_at_the_deadline(scene: Scene) {
    let marker = scene.marker("failed");
    let body = say(&format!("{marker} [[model:error=500]][[model:errors=1]][[model:hang]]"));
    let began = Instant::now();
    let answer = scene.client(Setup::Hasty).chat(&body).await;
    let took = began.elapsed();
    assert_eq!(answer.error(), (504, "upstream_timeout".to_owned()), "{}", answer.text);
    assert!((HASTY..HASTY * 2).contains(&took), "{took:?}");
    assert_no_detail(&answer.text);
    // A second call was running then.
    scene.provider().wait_for_abort(&marker).await;
    let calls = scene.provider().calls(&marker);
    let aborted: Vec<bool> = calls.iter().map(|call| call.aborted).collect();
    let (last, earlier) = aborted.split_last().expect("calls");
    assert!(*last && !earlier.is_empty() && !earlier.contains(&true), "{aborted:?}");
}

async fn a_hanging_model_is_given_up_at_the_deadline(scene: Scene) {
    let marker = scene.marker("hanging");
    let client = scene.client(Setup::Hasty);
    let began = Instant::now();
    let events = client.stream(&say_stream(&format!("{marker} some words first [[model:stall=3]]"))).await;
    let took = began.elapsed();
    assert_eq!(events.error(), Some("upstream_timeout".to_owned()), "{:?}", events.data);
    assert!(events.text().starts_with("echo: "), "{:?}", events.data);
    assert!((HASTY..HASTY * 2).contains(&took), "{took:?}");
    scene.provider().wait_for_abort(&marker).await;
}

fn from_user(user: &str, text: &str) -> Value {
    json!({"user": user, "messages": [{"role": "user", "content": text}]})
}

async fn openclaw_remembers(scene: Scene) {
    let client = scene.client(Setup::Memory);
    let user = scene.marker("rememberer");
    let (first, second, third) =
        (scene.marker("memory-one"), scene.marker("memory-two"), scene.marker("memory-three"));
    assert_says(&client.chat(&from_user(&user, &first)).await, &format!("echo: {first}"));
    assert_says(&client.chat(&from_user(&user, &second)).await, &format!("echo: {second}"));
    let seen = scene.provider().only(&second).text();
    // The message and the model's echo of it.
    assert_eq!(seen.matches(&first).count(), 2, "{seen}");
    // An app that still sends the history does not say it twice.
    let mut body = from_user(&user, "");
    body["messages"] = json!([
        {"role": "user", "content": first},
        {"role": "assistant", "content": format!("echo: {first}")},
        {"role": "user", "content": third},
    ]);
    assert_says(&client.chat(&body).await, &format!("echo: {third}"));
    let seen = scene.provider().only(&third).text();
    assert_eq!(seen.matches(&first).count(), 2, "{seen}");
    assert_eq!(seen.matches(&second).count(), 2, "{seen}");
    // Whose conversation it is, the model need not know.
    assert!(!seen.contains(&user), "{seen}");
}

async fn openclaw_remembers_pictures(scene: Scene) {
    let client = scene.client(Setup::Memory);
    let user = scene.marker("viewer");
    let (first, second) = (scene.marker("look-one"), scene.marker("look-two"));
    let mut body = with_attachment(&first, "image", None, None, &png(0));
    body["user"] = user.as_str().into();
    assert_says(&client.chat(&body).await, &format!("echo: {first}"));
    // Text goes to OpenClaw's other API; it is the same conversation.
    assert_says(&client.chat(&from_user(&user, &second)).await, &format!("echo: {second}"));
    let call = scene.provider().only(&second);
    assert!(call.text().contains(&first), "{}", call.text());
    assert_eq!(call.pictures(), 1);
}

async fn users_that_differ_in_case_are_two(scene: Scene) {
    let client = scene.client(Setup::Memory);
    let (first, second) = (scene.marker("case-secret"), scene.marker("case-question"));
    let (upper, lower) = (format!("{}-X", scene.marker("case")), format!("{}-x", scene.marker("case")));
    assert_says(&client.chat(&from_user(&upper, &first)).await, &format!("echo: {first}"));
    assert_says(&client.chat(&from_user(&lower, &second)).await, &format!("echo: {second}"));
    let seen = scene.provider().only(&second).text();
    assert!(!seen.contains(&first), "{seen}");
}

async fn without_a_user_nothing_is_remembered(scene: Scene) {
    let client = scene.client(Setup::Memory);
    let (first, second) = (scene.marker("nobody-one"), scene.marker("nobody-two"));
    assert_says(&client.chat(&say(&first)).await, &format!("echo: {first}"));
    assert_says(&client.chat(&say(&second)).await, &format!("echo: {second}"));
    assert!(!scene.provider().only(&second).text().contains(&first));
}

async fn a_conversation_moves_between_hosts(world: Arc<World>) {
    let user = "traveller";
    let [native, edge] = Kind::ALL.map(|kind| world.client(kind, Setup::Memory));
    assert_says(&native.chat(&from_user(user, "moves-one")).await, "echo: moves-one");
    assert_says(&edge.chat(&from_user(user, "moves-two")).await, "echo: moves-two");
    let seen = world.provider.only("moves-two").text();
    assert!(seen.contains("moves-one"), "{seen}");
}

async fn the_servers_prompt_and_limit_arrive(scene: Scene) {
    for media in [false, true] {
        let marker = scene.marker(if media { "prompt-media" } else { "prompt-text" });
        let mut body = with_attachment(&marker, "image", None, None, &png(0));
        if !media {
            body["attachments"] = json!([]);
        }
        let answer = scene.client(Setup::Memory).chat(&body).await;
        assert_says(&answer, &format!("echo: {marker}"));
        let call = scene.provider().only(&marker);
        assert!(call.text().contains(SYSTEM_PROMPT), "{}", call.text());
        assert_eq!(call.body["max_completion_tokens"], 777, "media: {media}");
    }
}

async fn it_is_ready(scene: Scene) {
    let answer = scene.client(Setup::Plain).get("/readyz").await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    assert_eq!(answer.json()["checks"], json!({"openclaw": "ok", "store": "ok"}));
}

async fn a_refused_provider_key_is_the_operators(world: Arc<World>) {
    let unavailable = "model_unavailable".to_owned();
    let clients = Kind::ALL.map(|kind| world.client(kind, Setup::Plain));
    // The provider refuses neither before it has both: the first would keep the second out.
    let body = say("key-refused [[model:together=2]][[model:error=401]]");
    let answers = join_all(clients.iter().map(|client| client.chat(&body))).await;
    for (kind, answer) in Kind::ALL.into_iter().zip(answers) {
        assert_eq!(answer.error(), (502, unavailable.clone()), "{}: {}", kind.name(), answer.text);
        assert!(!answer.header("retry-after").is_empty(), "{}: {:?}", kind.name(), answer.headers);
        assert_no_detail(&answer.text);
    }
    // OpenClaw asks nobody now, and says so in its own words: to hosts that have not heard of it.
    for kind in Kind::ALL {
        let events = world.client(kind, Setup::Memory).stream(&say_stream("key-cooling")).await;
        assert_eq!(events.error(), Some(unavailable.clone()), "{}: {:?}", kind.name(), events.data);
    }
    // A host that has heard of it does not ask OpenClaw either, for as long as that lasts.
    for (kind, client) in Kind::ALL.into_iter().zip(&clients) {
        let answer = client.chat(&say("key-cooling")).await;
        assert_eq!(answer.error(), (503, "upstream_unavailable".to_owned()), "{}", kind.name());
        let seconds: u64 = answer.header("retry-after").parse().expect("seconds");
        assert!((1..=30).contains(&seconds), "{}: {seconds}", kind.name());
    }
    assert!(world.provider.calls("key-cooling").is_empty());
}
