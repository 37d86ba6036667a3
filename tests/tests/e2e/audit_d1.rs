//! The ledger's copy in D1: `wrangler dev` brings the D1 that workerd alone has not.

use std::{fs, path::PathBuf, process::Stdio, time::Duration};

use minigate_core::ledger::Verifier;
use minigate_tests::{
    client::{Client, KEY, say},
    hosts::Kind,
    required,
    upstream::TOKEN,
};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    scenarios![for &[Kind::Edge]; the_ledger_is_copied_to_d1]
}

const DATABASE: &str = r#"
[[d1_databases]]
binding = "AUDIT"
database_name = "minigate-audit"
database_id = "00000000-0000-0000-0000-000000000000"
"#;
const LONG: Duration = Duration::from_secs(60);

/// A command of wrangler with a configuration that binds D1.
fn wrangler(config: &PathBuf, kept: &PathBuf, arguments: &[&str]) -> Command {
    let program = required("MINIGATE_WRANGLER").join("node_modules/wrangler/bin/wrangler.js");
    let mut command = Command::new(required("MINIGATE_NODE"));
    command.arg(program).args(arguments).arg("--local").arg("--config").arg(config);
    command.arg("--persist-to").arg(kept);
    command.env("WRANGLER_SEND_METRICS", "false").env("CLOUDFLARE_CF_FETCH_ENABLED", "false");
    command.env("CI", "true").stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Where it listens, by what it says.
async fn ready(child: &mut Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut said = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        if let Some((_, url)) = line.split_once("Ready on ") {
            let url = url.trim().to_owned();
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return url;
        }
        said.push_str(&line);
        said.push('\n');
    }
    panic!("wrangler did not listen:\n{said}");
}

/// What is in the database that miniflare keeps in a file.
fn copied(kept: &std::path::Path) -> Vec<String> {
    let directory = kept.join("v3/d1/miniflare-D1DatabaseObject");
    let files = fs::read_dir(directory).unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let databases = files.filter(|path| path.extension().is_some_and(|ending| ending == "sqlite"));
    let read = |path: PathBuf| -> rusqlite::Result<Vec<String>> {
        let database = rusqlite::Connection::open(path)?;
        let mut select = database.prepare("SELECT line FROM line ORDER BY sequence")?;
        select.query_map([], |row| row.get(0))?.collect()
    };
    // There is one more, without our table: miniflare's own.
    databases.filter_map(|path| read(path).ok()).flatten().collect()
}

async fn the_ledger_is_copied_to_d1(scene: Scene) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let kept = std::env::temp_dir().join(format!("minigate-d1-{}", std::process::id()));
    let config = root.join("target").join(format!("wrangler-d1-{}.toml", std::process::id()));
    // The module was built for this run already; wrangler's own build step would do it again.
    let text = fs::read_to_string(root.join("wrangler.toml")).unwrap();
    let text: Vec<&str> = text.lines().filter(|line| !line.starts_with("command =")).collect();
    let migrations = format!("migrations_dir = \"{}\"\n", root.join("edge-worker/migrations").display());
    let text = text.join("\n").replace("target/module", "module");
    fs::write(&config, [text.as_str(), DATABASE, &migrations].concat()).unwrap();

    let applied = wrangler(&config, &kept, &["d1", "migrations", "apply", "minigate-audit"]).output();
    let applied = applied.await.unwrap();
    assert!(applied.status.success(), "{applied:?}");
    let settings = [
        format!("OPENCLAW_GATEWAY_URL:{}", scene.upstream().url),
        format!("OPENCLAW_GATEWAY_TOKEN:{TOKEN}"),
        format!("API_KEY:{KEY}"),
    ];
    let variables: Vec<&str> = settings.iter().flat_map(|setting| ["--var", setting]).collect();
    let dev = ["dev", "--ip", "127.0.0.1", "--port", "0", "--show-interactive-dev-session=false"];
    let mut child = wrangler(&config, &kept, &[&dev[..], &variables[..]].concat())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = tokio::time::timeout(LONG, ready(&mut child)).await.expect("it listens");
    let client = Client::new(&url);
    for _ in 0..5 {
        assert_eq!(client.chat(&say("x")).await.status, 200);
    }
    minigate_tests::until("the copy", LONG, || async { copied(&kept).len() == 6 }).await;
    let mut verifier = Verifier::default();
    copied(&kept).iter().for_each(|line| verifier.push(line));
    assert_eq!(verifier.finish().fault, None);

    let pid = child.id().expect("it runs").to_string();
    // The standard library sends no other signal than KILL, which would leave its workerd behind.
    let sent = std::process::Command::new("kill").args(["-TERM", &pid]).status();
    assert!(sent.is_ok_and(|status| status.success()), "kill -TERM");
    tokio::time::timeout(LONG, child.wait()).await.expect("it ends").unwrap();
    fs::remove_file(config).unwrap();
    fs::remove_dir_all(kept).unwrap();
}
