//! What came into a turn is kept where that is allowed, and run again: the same comes out, what another
//! configuration would change is shown, and a change of what was kept is found.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use minigate_tests::{
    client::{Client, KEY, whole},
    hosts::{Host, Kind, code_directory},
    required, until,
    upstream::TOKEN,
};
use serde_json::json;

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![for &[Kind::Native];
        the_same_comes_out_again_or_what_would_differ,
        without_leave_nothing_is_kept,
    ]
}

const WORDS: &str = "replay-canary-33d8";
const BEFORE: &str = "\
models: {fast: {kind: openclaw}}
profiles: {qa_v1: {model: fast, system_prompt: 'PROFILE one'}, qa_v2: {model: fast, system_prompt: 'PROFILE two'}}
routing: {qa: qa_v1}
";
const LONG: Duration = Duration::from_secs(30);

fn settings<'s>(scene: &'s Scene, environment: &'s str, data: &'s str) -> Vec<(&'s str, &'s str)> {
    vec![
        ("MINIGATE_ENV", environment),
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("DATA_DIR", data),
    ]
}

fn new_directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("minigate-replay-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// `minigate replay ...` with the settings of the host, and the network only if it is asked to.
fn replay(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = std::process::Command::new(required("MINIGATE_BIN"));
    command.arg("replay").args(arguments).env_clear().env("CACHE_DIR", code_directory());
    let Output { status, stdout, stderr } =
        command.envs(settings.iter().copied()).output().expect("it starts");
    (status.code(), [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

/// One turn at once, and one that another exchange runs.
async fn ask(client: &Client, words: &str) {
    let body = json!({"intent": "qa", "input": {"text": words}}).to_string();
    let headers = [("x-api-key", KEY), ("content-type", "application/json")];
    let plain = [&headers[..], &[("x-trace-id", "replay-plain")]].concat();
    assert_eq!(client.send("POST", "/v1/mini/ask", &plain, body.clone()).await.status().as_u16(), 200);
    let later = [&headers[..], &[("x-trace-id", "replay-later"), ("prefer", "respond-async")]].concat();
    let begun = client.send("POST", "/v1/mini/ask", &later, body).await;
    assert_eq!(begun.status().as_u16(), 202);
    let place = begun.headers()["location"].to_str().expect("text").to_owned();
    until("the turn's end", LONG, || async {
        let turn = whole(client.send("GET", &place, &headers, Vec::new()).await).await;
        turn.status == 200 && turn.json()["state"] == "done"
    })
    .await;
}

fn change(data: &Path, sql: &str) {
    let connection = rusqlite::Connection::open(data.join("replay.sqlite")).unwrap();
    assert!(connection.execute(sql, []).unwrap() > 0, "{sql}");
}

async fn the_same_comes_out_again_or_what_would_differ(scene: Scene) {
    let data = new_directory("dev");
    let settings = settings(&scene, "dev", data.to_str().unwrap());
    let mut host = Host::start_with_config(Kind::Native, &[("before.yaml", BEFORE)], &settings).await;
    ask(&Client::new(&host.url), WORDS).await;
    host.terminate();
    assert_eq!(host.wait().await, Some(0));

    let file = std::fs::read(data.join("replay.sqlite")).unwrap();
    let has = |text: &str| file.windows(text.len()).any(|window| window == text.as_bytes());
    assert!(has(WORDS) && !has(KEY) && !has(TOKEN));

    let nobody = [("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:9")];
    let offline = [&settings[..], &nobody].concat();
    for (trace, exchanges) in [("replay-plain", 1), ("replay-later", 2)] {
        let (code, said) = replay(&offline, &[trace]);
        assert!(code == Some(0) && said.matches("the same: all").count() == exchanges, "{said}");
    }

    let other = data.join("other.yaml");
    std::fs::write(&other, BEFORE.replace("PROFILE one", "PROFILE three")).unwrap();
    let (code, said) = replay(&offline, &["replay-plain", "--config", other.to_str().unwrap()]);
    assert_eq!(code, Some(1), "{said}");
    let shown = |said: &str, sign: char, text: &str| {
        said.lines().any(|line| line.trim_start().starts_with(sign) && line.contains(text))
    };
    assert!(shown(&said, '-', "PROFILE one") && shown(&said, '+', "PROFILE three"), "{said}");
    assert!(said.contains("log.config: ") && !said.contains("it goes no further"), "{said}");

    let (code, said) = replay(&offline, &["replay-plain", "--profile", "qa_v2"]);
    assert!(code == Some(1) && said.contains("log.profile: qa_v1 -> qa_v2"), "{said}");
    assert!(shown(&said, '+', "PROFILE two"), "{said}");

    let asked = scene.upstream().seen(WORDS).len();
    let (_, said) = replay(&settings, &["replay-plain", "--live"]);
    assert!(!said.contains("it goes no further"), "{said}");
    assert!(scene.upstream().seen(WORDS).len() == asked + 1, "{said}");

    let edit = format!(
        "UPDATE step SET payload = CAST(replace(CAST(payload AS TEXT), '{WORDS}', 'other words') AS BLOB)
         WHERE instr(payload, CAST('{WORDS}' AS BLOB)) > 0"
    );
    change(&data, &edit);
    let (code, said) = replay(&offline, &["replay-plain"]);
    assert!(code == Some(1) && said.contains("DIFFERENT from step"), "{said}");
    assert_eq!(replay(&offline, &["nobody"]).0, Some(1));
    std::fs::remove_dir_all(&data).unwrap();
}

async fn without_leave_nothing_is_kept(scene: Scene) {
    let data = new_directory("prod");
    std::fs::write(data.join("replay.sqlite"), "of another time").unwrap();
    let settings = settings(&scene, "prod", data.to_str().unwrap());
    let rules = "environments: {prod: {allowed_profiles: [qa_v1, qa_v2]}}\n";
    let files = [("before.yaml", BEFORE), ("rules.yaml", rules)];
    let mut host = Host::start_with_config(Kind::Native, &files, &settings).await;
    ask(&Client::new(&host.url), "said in prod").await;
    host.terminate();
    assert_eq!(host.wait().await, Some(0));
    assert!(!data.join("replay.sqlite").exists() && !data.join("catalogs").exists());
    let (code, said) = replay(&settings, &["replay-plain"]);
    assert!(code == Some(1) && said.contains("where texts may be kept"), "{said}");
    std::fs::remove_dir_all(&data).unwrap();
}
