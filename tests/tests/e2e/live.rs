//! Another configuration while requests run: put by an operator, read from its file, taken back; and
//! no request fails or sees two of them.

use std::{
    fs,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use minigate_core::ledger::record;
use minigate_tests::{
    client::{Answer, Client, KEY, whole},
    hosts::{Host, Kind},
    redis::Redis,
    until,
};
use serde_json::{Value, json};

use crate::{Scenario, Scene, operator::minigate, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![an_operator_puts_one_and_takes_it_back, a_command_pushes_one_and_goes_back];
    all.extend(scenarios![for &[Kind::Native];
        a_file_is_followed,
        a_hangup_reads_the_file_again,
        a_restart_keeps_what_was_put,
        another_host_takes_it_too,
    ]);
    let mut reloads = scenarios![a_thousand_reloads_under_load];
    reloads.iter_mut().for_each(|scenario| scenario.limit = Duration::from_secs(600));
    all.extend(reloads);
    all
}

const ADMIN_KEY: &str = "admin-key-canary-71d2";
const LONG: Duration = Duration::from_secs(30);

/// One of two configurations: which is in the profile's name, in what the model is sent, and so in its answer.
fn yaml(name: &str) -> String {
    format!(
        "models: {{fast: {{kind: openclaw, side_effects: none}}}}\n\
         profiles:\n  qa_{name}: {{model: fast, prompt: 'words of {name}: {{{{ text }}}}', system_prompt: 'PROFILE {name}'}}\n\
         routing: {{qa: qa_{name}}}\naudit: {{enabled: true}}\n"
    )
}

fn settings(scene: &Scene) -> Vec<(&str, &str)> {
    scene.unlimited(&[("MINIGATE_ENV", "dev"), ("ADMIN_KEY", ADMIN_KEY), ("MAX_CONCURRENCY", "0")])
}

async fn start(scene: &Scene, text: &str) -> Host {
    Host::start_changeable(scene.kind, &[("live.yaml", text)], &settings(scene)).await
}

async fn operator(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { String::new() } else { body.to_string() };
    whole(client.send(method, path, &headers, body).await).await
}

async fn put(client: &Client, text: &str) -> Answer {
    operator(client, "PUT", "/v1/admin/config", &json!({"text": text, "note": "a test"})).await
}

async fn list(client: &Client) -> Value {
    let answer = operator(client, "GET", "/v1/admin/config", &Value::Null).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()
}

/// The profile that answers.
async fn answers(client: &Client) -> String {
    let answer = ask(client, &[]).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.json()["profile"].as_str().unwrap_or_default().to_owned()
}

async fn ask(client: &Client, headers: &[(&str, &str)]) -> Answer {
    let mut all = vec![("x-api-key", KEY), ("content-type", "application/json")];
    all.extend_from_slice(headers);
    let body = json!({"intent": "qa", "input": {"text": "hello"}});
    whole(client.send("POST", "/v1/mini/ask", &all, body.to_string()).await).await
}

async fn an_operator_puts_one_and_takes_it_back(scene: Scene) {
    let host = start(&scene, &yaml("a")).await;
    let client = Client::new(&host.url);
    assert_eq!(answers(&client).await, "qa_a");
    let first = put(&client, &yaml("a")).await;
    assert_eq!(first.status, 200, "{}", first.text);
    let second = put(&client, &yaml("b")).await;
    assert_eq!(second.status, 200, "{}\n{}", second.text, host.output());
    assert_eq!(second.json()["before"], first.json()["version"]);
    assert_eq!(answers(&client).await, "qa_b");

    let bad = put(&client, "profiles:\n  qa_c: {model: fast, max_token: 5}\nrouting: {qa: nobody}\n").await;
    assert_eq!(bad.error(), (422, "configuration_invalid".into()));
    let found = bad.json()["diagnostics"].as_array().cloned().unwrap_or_default();
    let found = found.iter().find(|one| one["severity"] == "error").expect("a mistake");
    assert_eq!((&found["line"], &found["column"]), (&json!(2), &json!(23)), "{}", bad.text);
    // A secret that is not there is found before it is missed.
    let model = "models: {m: {kind: openai_compatible, base_url: 'http://127.0.0.1:9/v1', model: m, api_key: '${NOT_SET_KEY}'}}\n";
    let keyless =
        put(&client, &format!("{model}profiles: {{qa_a: {{model: m}}}}\nrouting: {{qa: qa_a}}\n")).await;
    assert_eq!(keyless.status, 422);
    assert!(keyless.text.contains("NOT_SET_KEY"), "{}", keyless.text);
    assert_eq!(answers(&client).await, "qa_b", "the old one stays");

    let listed = list(&client).await;
    assert_eq!(listed["version"], second.json()["version"]);
    let version = first.json()["version"].as_str().expect("a version").to_owned();
    let shown = operator(&client, "GET", &format!("/v1/admin/config/{version}"), &Value::Null).await;
    assert_eq!(shown.json()["text"], yaml("a"));

    let back = operator(&client, "POST", "/v1/admin/config/rollback", &json!({})).await;
    assert_eq!((back.status, &back.json()["version"]), (200, &first.json()["version"]), "{}", back.text);
    assert_eq!(answers(&client).await, "qa_a");
    let listed = list(&client).await;
    assert_eq!(listed["versions"][0]["note"], "rollback");
    let (from, to) = (second.json()["version"].clone(), first.json()["version"].clone());
    let is_it = |one: &Value| one["what"] == "configuration" && one["from"] == from && one["to"] == to;
    until("the record of the way back", LONG, async || {
        let records = ledger(&client).await;
        let mut changes = records.iter().filter(|record| record["kind"] == "configuration");
        changes.any(|record| record["decisions"].as_array().is_some_and(|all| all.iter().any(is_it)))
    })
    .await;
    assert_eq!(
        whole(client.send("GET", "/v1/admin/config", &[("x-api-key", KEY)], "").await).await.status,
        401
    );
    host.stop().await;
}

async fn a_command_pushes_one_and_goes_back(scene: Scene) {
    let host = start(&scene, &yaml("a")).await;
    let client = Client::new(&host.url);
    let directory =
        std::env::temp_dir().join(format!("minigate-push-{}", scene.marker(&std::process::id().to_string())));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = directory.join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let (a, b) = (file("a.yaml", &yaml("a")), file("b.yaml", &yaml("b")));
    let wrong = file("wrong.yaml", "profiles:\n  qa_c: {model: fast, max_token: 5}\nrouting: {qa: nobody}\n");
    let run =
        async |words: &[&str]| minigate(Some(ADMIN_KEY), &[words, &["--url", &host.url]].concat()).await;

    let (code, said) = run(&["config", "push", &a]).await;
    assert!(code == Some(1) && said.contains("add --yes"), "nobody is at a terminal: {said}");
    assert_eq!(run(&["config", "push", &a, "--yes"]).await.0, Some(0));
    let (code, said) = run(&["config", "diff", &b]).await;
    assert!(code == Some(0) && said.contains("-  qa_a: ") && said.contains("+  qa_b: "), "{said}");
    assert_eq!(answers(&client).await, "qa_a", "looking changes nothing");
    let (code, said) = run(&["config", "push", &b, "--yes", "--note", "a note"]).await;
    assert!(code == Some(0) && said.contains(" is in use; back: minigate config rollback "), "{said}");
    assert_eq!(answers(&client).await, "qa_b");
    assert_eq!(run(&["config", "diff", &b]).await, (Some(0), String::new()));
    let (code, said) = run(&["config", "push", &wrong, "--yes"]).await;
    assert!(code == Some(1) && said.contains("wrong.yaml:2:23: error: "), "{said}");
    assert!(said.contains("configuration_invalid: "), "{said}");
    assert_eq!(run(&["config", "show"]).await, (Some(0), yaml("b")));

    let (code, said) = run(&["config", "list"]).await;
    let used: Vec<&str> = said.lines().filter(|line| line.starts_with('*')).collect();
    assert!(code == Some(0) && used.len() == 1 && used[0].contains("a note"), "{said}");
    let (code, said) = run(&["config", "rollback", "--note", "it was worse"]).await;
    assert!(code == Some(0) && said.contains(" is in use"), "{said}");
    assert_eq!(answers(&client).await, "qa_a");
    let (code, said) = run(&["config", "rollback", "0123456789ab"]).await;
    assert!(code == Some(1) && said.starts_with("configuration_unknown: "), "{said}");
    let _ = fs::remove_dir_all(&directory);
    host.stop().await;
}

/// The ledger's records.
async fn ledger(client: &Client) -> Vec<Value> {
    let mut records: Vec<Value> = Vec::new();
    loop {
        let path = format!("/v1/admin/audit?after={}", records.len());
        let page = operator(client, "GET", &path, &Value::Null).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let before = records.len();
        let parsed = |line| serde_json::from_str::<Value>(record(line).expect("a line")).expect("JSON");
        records.extend(page.text.lines().map(parsed));
        // Each look has a record of its own: only a full page means that there is more.
        if records.len() - before < minigate_core::seam::LEDGER_PAGE as usize {
            return records;
        }
    }
}

fn file(host: &Host) -> PathBuf {
    host.directory().join("live.yaml")
}

/// Puts another file in the place of one, as editors do.
fn replace(path: &PathBuf, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("a file");
    std::fs::rename(&beside, path).expect("it is replaced");
}

async fn serves(client: &Client, profile: &str) {
    until(profile, LONG, async || answers(client).await == profile).await;
}

async fn logged(host: &Host, word: &str) {
    until(word, LONG, async || host.output().contains(word)).await;
}

async fn a_file_is_followed(scene: Scene) {
    use std::io::Write as _;

    let host = start(&scene, &yaml("a")).await;
    let client = Client::new(&host.url);
    assert_eq!(answers(&client).await, "qa_a");
    replace(&file(&host), &yaml("b"));
    serves(&client, "qa_b").await;

    replace(&file(&host), "profiles:\n  x: {model: fast, max_token: 5}\n");
    logged(&host, "configuration_refused").await;
    let line =
        host.records().into_iter().find(|line| line["event"] == "configuration_refused").expect("a line");
    assert_eq!(line["code"], "configuration_invalid");
    assert!(line["traceId"].as_str().is_some_and(|id| id.len() == 32), "{line}");
    assert!(line["diagnostics"][0]["place"].as_str().is_some_and(|place| place.contains(":2:")), "{line}");
    assert_eq!(answers(&client).await, "qa_b");

    // Half of a file is a configuration too, and is never taken.
    let text = yaml("c");
    let (first, rest) = text.split_at(text.find("routing").expect("it routes"));
    let mut half = std::fs::File::create(file(&host)).expect("a file");
    half.write_all(first.as_bytes()).expect("written");
    half.sync_all().expect("on disk");
    replace(&host.directory().join("other.txt"), "wakes whoever watches");
    for _ in 0..50 {
        assert_eq!(answers(&client).await, "qa_b");
    }
    half.write_all(rest.as_bytes()).expect("written");
    drop(half);
    serves(&client, "qa_c").await;
    let taken = || {
        let lines = host.records().into_iter();
        lines.filter(|line| line["event"] == "configuration_taken").collect::<Vec<Value>>()
    };
    // A line may be written a moment after what it tells is served.
    until("both lines", LONG, async || taken().len() >= 2).await;
    assert_eq!(taken().len(), 2, "{:?}", taken());
    assert_eq!(list(&client).await["versions"].as_array().map(Vec::len), Some(3));
    host.stop().await;
}

async fn a_hangup_reads_the_file_again(scene: Scene) {
    let host = start(&scene, &yaml("a")).await;
    let client = Client::new(&host.url);
    assert_eq!(put(&client, &yaml("b")).await.status, 200);
    assert_eq!(answers(&client).await, "qa_b");
    host.signal("HUP");
    serves(&client, "qa_a").await;
    assert_eq!(list(&client).await["versions"][0]["by"], "file");
    host.stop().await;
}

async fn a_restart_keeps_what_was_put(scene: Scene) {
    let kept = std::env::temp_dir().join(format!("minigate-test-{}-live", std::process::id()));
    let again = async |text: &str| {
        Host::start_kept(scene.kind, &kept, &[("live.yaml", text)], &settings(&scene)).await
    };
    let host = again(&yaml("a")).await;
    assert_eq!(put(&Client::new(&host.url), &yaml("b")).await.status, 200);
    host.stop().await;
    let host = again(&yaml("a")).await;
    assert_eq!(answers(&Client::new(&host.url)).await, "qa_b", "the file is the same as before");
    host.stop().await;
    let host = again(&yaml("c")).await;
    assert_eq!(answers(&Client::new(&host.url)).await, "qa_c", "the file is newer");
    host.stop().await;
    std::fs::remove_dir_all(kept).expect("it is there");
}

async fn another_host_takes_it_too(scene: Scene) {
    let redis = Redis::start().await;
    let url = redis.url();
    let mut settings = settings(&scene);
    settings.push(("STORE_URL", &url));
    let text = yaml("a");
    let files = [("live.yaml", text.as_str())];
    let first = Host::start_with_config(scene.kind, &files, &settings).await;
    let second = Host::start_with_config(scene.kind, &files, &settings).await;
    assert_eq!(put(&Client::new(&first.url), &yaml("b")).await.status, 200);
    serves(&Client::new(&second.url), "qa_b").await;
    first.stop().await;
    second.stop().await;
}

/// How often another configuration is put.
const RELOADS: usize = 1_000;
/// Clients that ask all the time.
const CLIENTS: u64 = 4;

async fn a_thousand_reloads_under_load(scene: Scene) {
    let texts = [yaml("a"), yaml("b")];
    let host = start(&scene, &texts[0]).await;
    let client = Client::new(&host.url);
    let mut versions = Vec::new();
    for text in &texts {
        let answer = put(&client, text).await;
        assert_eq!(answer.status, 200, "{}", answer.text);
        versions.push(answer.json()["version"].as_str().expect("a version").to_owned());
    }
    let (over, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = (0..CLIENTS).map(|number| {
        let (client, over, asked) = (Client::new(&host.url), Arc::clone(&over), Arc::clone(&asked));
        tokio::spawn(async move {
            while !over.load(Ordering::Relaxed) {
                let turn = asked.fetch_add(1, Ordering::Relaxed);
                // Some of them are run without their client, from a checkpoint.
                let key = format!("reload-{turn}");
                let headers = [("idempotency-key", key.as_str())];
                let headers = if (turn + number).is_multiple_of(3) { &headers[..] } else { &[] };
                let answer = ask(&client, headers).await;
                assert_eq!(answer.status, 200, "{}", answer.text);
                let json = answer.json();
                let name =
                    json["profile"].as_str().and_then(|name| name.strip_prefix("qa_")).expect("a profile");
                let said = json["answer"].as_str().expect("an answer");
                assert!(said.contains(&format!("words of {name}")), "{}", answer.text);
            }
        })
    });
    let load: Vec<_> = load.collect();
    for number in 0..RELOADS {
        let answer = if number % 10 == 9 {
            operator(&client, "POST", "/v1/admin/config/rollback", &json!({})).await
        } else {
            put(&client, &texts[number % 2]).await
        };
        assert_eq!(answer.status, 200, "{number}: {}", answer.text);
    }
    over.store(true, Ordering::Relaxed);
    for one in join_all(load).await {
        one.expect("no request failed");
    }
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked > 500, "{asked}");

    // Each record is of one configuration: its version, its profile and what the model said.
    let mut seen = [0_usize; 2];
    until("all records", LONG, async || {
        let asked_for = |record: &Value| record["kind"] == "turn" && record["part"] != "run";
        let turns = ledger(&client).await.iter().filter(|record| asked_for(record)).count();
        u64::try_from(turns).is_ok_and(|turns| turns >= asked)
    })
    .await;
    for record in ledger(&client).await.iter().filter(|record| record["kind"] == "turn") {
        let which = versions.iter().position(|version| record["config"] == **version);
        let which = which.unwrap_or_else(|| panic!("an unknown configuration: {record}"));
        let name = ["a", "b"][which];
        assert_eq!(record["begunWith"], Value::Null, "{record}");
        for decision in record["decisions"].as_array().expect("a list") {
            if decision["what"] == "profile" {
                assert_eq!(decision["profile"], format!("qa_{name}"), "{record}");
                seen[which] += 1;
            }
        }
        if let Some(answer) = record["answer"]["text"].as_str() {
            assert!(answer.contains(&format!("words of {name}")), "{record}");
        }
    }
    println!("{}: {RELOADS} reloads, {asked} requests, records of each: {seen:?}", scene.kind.name());
    assert!(seen[0] > 100 && seen[1] > 100, "{seen:?}");
    host.stop().await;
}
