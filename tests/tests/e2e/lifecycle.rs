//! How the native host starts, refuses to start, and ends; what a deployment of the edge carries.

use std::{fs, path::PathBuf};

use minigate_tests::{
    client::{Client, KEY, say, say_stream},
    hosts::{Host, Kind, refused},
    upstream::TOKEN,
};

use crate::{Scenario, Scene, scenarios};

pub(crate) fn scenarios() -> Vec<Scenario> {
    let mut all = scenarios![for &[Kind::Native];
        sigterm_drains,
        it_refuses_to_start_unsafe_or_wrong,
        a_port_is_one_processs,
        the_demo_upstream_answers_in_dev,
        secrets_come_from_files,
        the_store_survives_a_kill,
    ];
    all.extend(scenarios![for &[Kind::Edge]; a_deployment_carries_the_same_module]);
    all
}

async fn sigterm_drains(scene: Scene) {
    let settings = [
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
    ];
    let mut host = Host::start(Kind::Native, &settings).await;
    let client = Client::new(&host.url);
    let running = {
        let client = client.clone();
        tokio::spawn(async move {
            client
                .stream(&say_stream(
                    "drain-1 [[up:slow=40]][[up:text=a stream that is running when the signal comes]]",
                ))
                .await
        })
    };
    scene.upstream().wait_for("drain-1", "the stream to run", |seen| seen.pieces > 1).await;
    host.terminate();
    let gone = std::time::Duration::from_secs(10);
    let address = host.url.trim_start_matches("http://").to_owned();
    minigate_tests::until("new connections to be refused", gone, || async {
        tokio::net::TcpStream::connect(&address).await.is_err()
    })
    .await;
    let events = running.await.unwrap();
    assert_eq!(events.text(), "a stream that is running when the signal comes");
    assert_eq!(host.wait().await, Some(0));
    assert!(host.output().contains("\"stopped\""));
}

/// Threads share a port, which would let a second process have every other request.
async fn a_port_is_one_processs(scene: Scene) {
    let settings = scene.unlimited(&[]);
    let host = Host::start(Kind::Native, &settings).await;
    let port = host.url.rsplit(':').next().expect("a port");
    let (code, said) = refused(&scene.unlimited(&[("PORT", port)]), &[]).await;
    assert!(code == Some(1) && said.contains("in use") && said.contains(port), "{said}");
    host.stop().await;
}

/// Settings and arguments, and words that the refusal must contain.
type Refusal = (Vec<(&'static str, &'static str)>, &'static [&'static str], &'static [&'static str]);

async fn it_refuses_to_start_unsafe_or_wrong(_: Scene) {
    let gateway = [("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:1"), ("OPENCLAW_GATEWAY_TOKEN", "t")];
    let key = [("API_KEY", "k")];
    let with = |more: &[(&'static str, &'static str)]| [&gateway[..], &key[..], more].concat();
    let cases: Vec<Refusal> = vec![
        (gateway.to_vec(), &[], &["API_KEY"]),
        (key.to_vec(), &[], &["OPENCLAW_GATEWAY_URL", "OPENCLAW_GATEWAY_TOKEN"]),
        (key.to_vec(), &["--demo"], &["MINIGATE_ENV", "demo"]),
        (
            with(&[("TURN_TIMEOUT_MS", "soon"), ("LOG_LEVEL", "loud")]),
            &[],
            &["TURN_TIMEOUT_MS", "LOG_LEVEL", "debug, info"],
        ),
        (with(&[("FAULT_INJECTION", "on")]), &[], &["FAULT_INJECTION", "dev"]),
        (with(&[("PORT", "http")]), &[], &["PORT"]),
        (with(&[("BIND_ADDRESS", "localhost")]), &[], &["BIND_ADDRESS"]),
        (
            vec![
                ("OPENCLAW_GATEWAY_URL", "ftp://gw.example"),
                ("OPENCLAW_GATEWAY_TOKEN", "t"),
                ("API_KEY", "k"),
            ],
            &[],
            &["OPENCLAW_GATEWAY_URL"],
        ),
        (with(&[("STORE_URL", "not a url"), ("MAX_CONCURRENCY", "1")]), &[], &["STORE_URL", "redis://"]),
        (with(&[("WECHAT_APPID", "wx1"), ("SERVER_KEY", "short")]), &[], &["WECHAT_SECRET", "SERVER_KEY"]),
        (
            with(&[("ROLE_LIMITS", "vip"), ("MODEL_COSTS", "m=0"), ("RATE_LIMIT_PER_KEY", "many")]),
            &[],
            &["ROLE_LIMITS", "MODEL_COSTS", "RATE_LIMIT_PER_KEY"],
        ),
        (vec![("API_KEY_FILE", "/nonexistent/key")], &[], &["API_KEY_FILE"]),
    ];
    for (settings, arguments, words) in cases {
        let (code, output) = refused(&settings, arguments).await;
        assert_eq!(code, Some(1), "{settings:?}: {output}");
        for word in words {
            assert!(output.contains(word), "{settings:?}: `{word}` is not in {output}");
        }
    }
    let (code, output) = refused(&with(&[("MINIGATE_MODULE", "/nonexistent.wasm")]), &[]).await;
    assert!(code != Some(0) && output.contains("nonexistent"), "{output}");
}

async fn the_demo_upstream_answers_in_dev(_: Scene) {
    // `--demo` is an argument; the fixture starts hosts by settings alone.
    let (code, output) = refused(&[("MINIGATE_ENV", "staging"), ("API_KEY", "k")], &["--demo"]).await;
    assert_eq!(code, Some(1), "{output}");
    let host = Host::start_demo(&[("MINIGATE_ENV", "dev")]).await;
    let answer = Client::new(&host.url).chat(&say("你好")).await;
    let text = answer.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned();
    assert!(text.starts_with("[demo]") && text.ends_with("你好"), "{text}");
    let events = Client::new(&host.url).stream(&say_stream("hi")).await;
    assert!(events.text().starts_with("[demo]"));
    host.stop().await;
}

async fn secrets_come_from_files(scene: Scene) {
    let directory = std::env::temp_dir().join(format!("minigate-secrets-{}", std::process::id()));
    fs::create_dir_all(directory.join("credentials")).unwrap();
    let file = |name: &str, value: &str| -> PathBuf {
        let path = directory.join(name);
        fs::write(&path, format!("{value}\n")).unwrap();
        path
    };
    let key = file("key", KEY);
    file("credentials/OPENCLAW_GATEWAY_TOKEN", TOKEN);
    let settings = [
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("API_KEY_FILE", key.to_str().unwrap()),
        ("CREDENTIALS_DIRECTORY", directory.join("credentials").to_str().unwrap()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let host = Host::start(Kind::Native, &settings).await;
    assert_eq!(Client::new(&host.url).chat(&say("x")).await.status, 200);
    host.stop().await;
    fs::remove_dir_all(directory).unwrap();
}

async fn the_store_survives_a_kill(scene: Scene) {
    let data = std::env::temp_dir().join(format!("minigate-kill-{}", std::process::id()));
    let settings = [
        ("OPENCLAW_GATEWAY_URL", scene.upstream().url.as_str()),
        ("OPENCLAW_GATEWAY_TOKEN", TOKEN),
        ("API_KEY", KEY),
        ("RATE_LIMIT_PER_MINUTE", "1"),
        ("RATE_LIMIT_BURST", "2"),
        ("DATA_DIR", data.to_str().unwrap()),
    ];
    let host = Host::start(Kind::Native, &settings).await;
    let client = Client::new(&host.url);
    assert_eq!(client.chat(&say("x")).await.status, 200);
    assert_eq!(client.chat(&say("x")).await.status, 200);
    // A probe is durable, and what is relaxed is written with it.
    assert_eq!(client.get("/readyz").await.status, 200);
    host.kill().await;
    let host = Host::start(Kind::Native, &settings).await;
    assert_eq!(Client::new(&host.url).chat(&say("x")).await.error(), (429, "rate_limited".to_owned()));
    host.stop().await;
    fs::remove_dir_all(data).unwrap();
}

async fn a_deployment_carries_the_same_module(_: Scene) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let out = std::env::temp_dir().join(format!("minigate-wrangler-{}", std::process::id()));
    let wrangler =
        minigate_tests::required("MINIGATE_WRANGLER").join("node_modules/wrangler/bin/wrangler.js");
    // The module was built for this run already; wrangler's own build step would do it again.
    let config = fs::read_to_string(root.join("wrangler.toml")).unwrap();
    let config: String = config
        .lines()
        .filter(|line| !line.starts_with("command ="))
        .map(|line| format!("{line}\n"))
        .collect();
    let named = root.join("target").join(format!("wrangler-{}.toml", std::process::id()));
    fs::write(&named, config.replace("target/module", "module")).unwrap();
    let output = tokio::process::Command::new(minigate_tests::required("MINIGATE_NODE"))
        .arg(wrangler)
        .args(["deploy", "--dry-run", "--config"])
        .arg(&named)
        .arg("--outdir")
        .arg(&out)
        .env("WRANGLER_SEND_METRICS", "false")
        .env("CI", "true")
        .current_dir(root.join("target"))
        .output()
        .await
        .unwrap();
    fs::remove_file(&named).unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{said}");
    let module = fs::read(minigate_tests::required("MINIGATE_MODULE").join("index_bg.wasm")).unwrap();
    let bundled = fs::read_dir(&out).unwrap().filter_map(Result::ok).map(|entry| entry.path());
    let wasm: Vec<PathBuf> =
        bundled.filter(|path| path.extension().is_some_and(|ending| ending == "wasm")).collect();
    assert_eq!(wasm.len(), 1, "{wasm:?} {said}");
    assert!(fs::read(&wasm[0]).unwrap() == module, "wrangler bundles other bytes");
    assert!(said.contains("StateCell"), "the Durable Object is bound: {said}");
    fs::remove_dir_all(out).unwrap();
}
