//! The audit ledger: one sound chain on both hosts, whatever runs at once and however a host ends;
//! and what was done to it is found.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use futures_util::future::join_all;
use minigate_core::ledger::{Report, Verifier, record};
use minigate_tests::{
    client::{Client, KEY, say, say_stream, whole},
    hosts::{Host, Kind},
    required,
    turns::Person,
    upstream::TOKEN,
};
use serde_json::Value;

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![one_sound_chain_of_all_that_runs_at_once];
    all.extend(scenarios![for &[Kind::Native];
        a_change_a_removal_and_another_order_are_found,
        a_kill_leaves_a_sound_chain_that_goes_on,
    ]);
    all
}

const ADMIN_KEY: &str = "admin-key-canary-90ac";
const WORDS: &str = "audit-canary-4b1d";
const USER: &str = "audit-user-canary-77aa";
const LONG: Duration = Duration::from_secs(30);

fn settings<'s>(scene: &'s Scene, more: &[(&'s str, &'s str)]) -> Vec<(&'s str, &'s str)> {
    let mut all = scene.unlimited(&[("ADMIN_KEY", ADMIN_KEY), ("MAX_CONCURRENCY", "0")]);
    all.extend_from_slice(more);
    all
}

/// A turn whose trace is known.
async fn turn(client: &Client, trace: &str, key: &str) -> u16 {
    let mut body = say(WORDS);
    body["user"] = USER.into();
    let headers = [("x-trace-id", trace), ("x-api-key", key), ("content-type", "application/json")];
    client.send("POST", "/api/chat", &headers, body.to_string()).await.status().as_u16()
}

/// The ledger's lines, through the operator's route.
async fn read(client: &Client, query: &str) -> Vec<String> {
    let bearer = format!("Bearer {ADMIN_KEY}");
    let path = format!("/v1/admin/audit?{query}");
    let answer = whole(client.send("GET", &path, &[("authorization", &bearer)], Vec::new()).await).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    answer.text.lines().map(str::to_owned).collect()
}

fn verified(lines: &[String]) -> Report {
    let mut verifier = Verifier::default();
    lines.iter().for_each(|line| verifier.push(line));
    verifier.finish()
}

fn parsed(line: &str) -> Value {
    serde_json::from_str(record(line).expect("a line")).expect("JSON")
}

async fn one_sound_chain_of_all_that_runs_at_once(scene: Scene) {
    let host = Host::start(scene.kind, &settings(&scene, &[])).await;
    let client = Client::new(&host.url);
    let asked = (0..60).map(|number| {
        let client = client.clone();
        async move {
            let trace = format!("at-once-{number}");
            let key = if number % 6 == 0 { "wrong-key-canary-90ac" } else { KEY };
            let status = turn(&client, &trace, key).await;
            assert_eq!(status, if number % 6 == 0 { 401 } else { 200 });
        }
    });
    join_all(asked).await;
    assert_eq!(client.stream(&say_stream(WORDS)).await.error(), None);
    let turns = |lines: &[String]| lines.iter().filter(|line| parsed(line)["kind"] == "turn").count();
    minigate_tests::until("all records", LONG, || async { turns(&read(&client, "after=0").await) >= 61 })
        .await;

    let lines = read(&client, "after=0").await;
    let report = verified(&lines);
    assert_eq!((report.fault, report.first), (None, 1));
    assert_eq!(turns(&lines), 61, "one for each");
    let began = parsed(&lines[0]);
    assert!(began["kind"] == "began" && began["chain"].as_str().is_some_and(|id| id.len() == 32));
    assert_eq!(read(&client, &format!("after={}", lines.len() - 1)).await[0], lines[lines.len() - 1]);

    let about = read(&client, "about=at-once-7").await;
    assert_eq!(about.len(), 1);
    let story = parsed(&about[0]);
    assert_eq!((&story["status"], &story["env"]), (&200.into(), &"prod".into()));
    assert_eq!(story["module"].as_str().map(str::len), Some(64));
    assert_eq!(story["input"]["bytes"], WORDS.len());
    assert_eq!(read(&client, &format!("about={}", story["requestId"].as_str().unwrap())).await, about);
    let refused = parsed(&read(&client, "about=at-once-6").await[0]);
    assert_eq!(refused["decisions"][0]["outcome"], "unauthorized");

    let all = lines.concat();
    for canary in [WORDS, USER, KEY, ADMIN_KEY, TOKEN, "wrong-key-canary"] {
        assert!(!all.contains(canary), "{canary} is in the ledger");
    }
    let answer = client.get("/v1/admin/audit?after=0").await;
    assert_eq!(answer.status, 401, "only for operators");
    host.stop().await;
}

/// `minigate audit ...`
fn audit(arguments: &[&str]) -> (Option<i32>, String) {
    let run = std::process::Command::new(required("MINIGATE_BIN")).arg("audit").args(arguments).output();
    let Output { status, stdout, stderr } = run.expect("it starts");
    (status.code(), [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat())
}

fn new_directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("minigate-audit-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// Somebody who knows SQLite, and that a trigger is in the way.
fn tampered(data: &Path, sql: &str) -> (Option<i32>, String) {
    let path = data.join("audit.sqlite");
    let original = std::fs::read(&path).unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch(&format!("DROP TRIGGER line_is_never_changed; {sql}")).unwrap();
    drop(connection);
    let verdict = audit(&["verify", "--data", data.to_str().unwrap()]);
    std::fs::write(&path, original).unwrap();
    verdict
}

async fn a_change_a_removal_and_another_order_are_found(scene: Scene) {
    let data = new_directory("tampered");
    let copy = data.join("copy.jsonl");
    let paths = [("DATA_DIR", data.to_str().unwrap()), ("AUDIT_FILE", copy.to_str().unwrap())];
    let mut host = Host::start(Kind::Native, &settings(&scene, &paths)).await;
    let client = Client::new(&host.url);
    for number in 0..8 {
        assert_eq!(turn(&client, &format!("tampered-{number}"), KEY).await, 200);
    }
    host.terminate();
    assert_eq!(host.wait().await, Some(0));

    // What was written when it ended is all there, and the log knows the head.
    let told = host.records().into_iter().rfind(|line| line["event"] == "audit_head").expect("a head");
    let head = told["head"].as_str().expect("a head").to_owned();
    let directory = data.to_str().unwrap();
    let (code, said) = audit(&["verify", "--data", directory, "--head", &head]);
    assert!(code == Some(0) && said.contains(&head), "{said}");
    let (code, said) = audit(&["show", "tampered-3", "--data", directory]);
    assert!(code == Some(0) && said.contains("auth: ") && said.contains("caller=key"), "{said}");
    assert_eq!(audit(&["show", "nobody", "--data", directory]).0, Some(1));

    let change =
        "UPDATE line SET line = replace(line, '\"status\":200', '\"status\":201') WHERE sequence = 4;";
    let cases = [
        (change, "line 4 was changed"),
        ("DELETE FROM line WHERE sequence = 5;", "line 5 is missing"),
        ("DELETE FROM line WHERE sequence <= 2;", "lines 1 to 2 are missing"),
        (
            "UPDATE line SET sequence = 100 WHERE sequence = 3; UPDATE line SET sequence = 3 WHERE sequence = 6;
             UPDATE line SET sequence = 6 WHERE sequence = 100;",
            "is not in its place",
        ),
    ];
    for (sql, finding) in cases {
        let (code, said) = tampered(&data, sql);
        assert!(code == Some(1) && said.contains(finding), "{sql}: {said}");
    }

    // The same in the copy.
    let file = std::fs::read_dir(&data).unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let file = file.into_iter().find(|path| path.to_string_lossy().contains("copy.jsonl.")).expect("a copy");
    let text = std::fs::read_to_string(&file).unwrap();
    let verify = |lines: &[&str], more: &[&str]| {
        let path = data.join("changed.jsonl");
        std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
        audit(&[&["verify", path.to_str().unwrap()], more].concat())
    };
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(verify(&lines, &["--head", &head]).0, Some(0));
    let changed = lines[3].replace("\"status\":200", "\"status\":201");
    let with = |change: &dyn Fn(&mut Vec<&str>)| {
        let mut lines = lines.clone();
        change(&mut lines);
        lines
    };
    assert!(verify(&[&lines[..3], &[&changed], &lines[4..]].concat(), &[]).1.contains("line 4 was changed"));
    assert!(
        verify(
            &with(&|lines| {
                lines.remove(4);
            }),
            &[]
        )
        .1
        .contains("line 5 is missing")
    );
    assert!(verify(&with(&|lines| lines.swap(2, 5)), &[]).1.contains("is not in its place"));
    let cut = with(&|lines| lines.truncate(6));
    assert_eq!(verify(&cut, &[]).0, Some(0), "a chain alone cannot know");
    let (code, said) = verify(&cut, &["--head", &head]);
    assert!(code == Some(1) && said.contains("the end is missing"), "{said}");
    std::fs::remove_dir_all(data).unwrap();
}

async fn a_kill_leaves_a_sound_chain_that_goes_on(scene: Scene) {
    let data = new_directory("killed");
    let directory = data.to_str().unwrap();
    let settings = settings(&scene, &[("DATA_DIR", directory)]);
    for round in 0..3 {
        let host = Host::start(Kind::Native, &settings).await;
        let client = Client::new(&host.url);
        let running: Vec<_> = (0..4)
            .map(|number| {
                let person = Person::new(&host.url);
                tokio::spawn(async move {
                    let trace = format!("killed-{round}-{number}");
                    let mut body = say(WORDS);
                    body["user"] = USER.into();
                    // Until the host is gone.
                    while person
                        .send("POST", "/api/chat", &[("x-trace-id", &trace)], Some(&body))
                        .await
                        .is_ok()
                    {}
                })
            })
            .collect();
        let known = format!("about=killed-{round}-3");
        minigate_tests::until("records on disk", LONG, || async { read(&client, &known).await.len() > 2 })
            .await;
        host.kill().await;
        for task in running {
            task.abort();
        }
        let (code, said) = audit(&["verify", "--data", directory]);
        assert_eq!(code, Some(0), "{said}");
    }
    let host = Host::start(Kind::Native, &settings).await;
    let client = Client::new(&host.url);
    let mut lines: Vec<String> = Vec::new();
    loop {
        let page = read(&client, &format!("after={}", lines.len())).await;
        lines.extend(page.iter().cloned());
        if page.len() < 500 {
            break;
        }
    }
    assert_eq!(verified(&lines).fault, None);
    let begun = lines.iter().filter(|line| parsed(line)["kind"] == "began").count();
    assert_eq!(begun, 4, "one chain, which each host went on with");
    host.stop().await;
    std::fs::remove_dir_all(data).unwrap();
}
