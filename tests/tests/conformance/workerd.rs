//! The module in the real workerd, behind `tests/conformance/worker.mjs`.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use minigate_tests::required;
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::engines::{Outcome, Runs};

const CONFIG: &str = r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .conformance)],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const conformance :Workerd.Worker = (
  modules = [
    (name = "worker.mjs", esModule = embed "worker.mjs"),
    (name = "index_bg.wasm", wasm = embed "module/index_bg.wasm"),
    (name = "index_bg.bytes", data = embed "module/index_bg.wasm"),
  ],
  compatibilityDate = "2026-11-01",
);
"#;

/// The kinds of call, as the worker numbers them.
const STEP: u32 = 0;
const REDUCE: u32 = 1;

/// A workerd that runs.
pub(crate) struct Workerd {
    child: Child,
    directory: PathBuf,
    url: String,
    runtime: Runtime,
    client: reqwest::Client,
}

impl fmt::Debug for Workerd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workerd").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Workerd {
    /// Starts it and waits until it listens.
    pub(crate) fn start(corpus: &Path) -> Self {
        let directory = std::env::temp_dir().join(format!("minigate-conformance-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a temporary directory");
        fs::write(directory.join("config.capnp"), CONFIG).expect("a file");
        fs::copy(corpus.join("worker.mjs"), directory.join("worker.mjs")).expect("a copy");
        let link = directory.join("module");
        if !link.exists() {
            std::os::unix::fs::symlink(required("MINIGATE_MODULE"), link).expect("a link");
        }
        let mut child = Command::new(required("MINIGATE_WORKERD"))
            .args(["serve", "--control-fd=1"])
            .arg(directory.join("config.capnp"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("workerd can be started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        // The end of its output is the end of workerd: then there is no port.
        let port = lines.map_while(Result::ok).find_map(|line| {
            let event: Value = serde_json::from_str(&line).ok()?;
            event["port"].as_u64()
        });
        let port = port.unwrap_or_else(|| panic!("workerd did not listen ({:?})", child.wait()));
        Self {
            child,
            directory,
            url: format!("http://127.0.0.1:{port}/"),
            runtime: Runtime::new().expect("a runtime"),
            client: reqwest::Client::builder().timeout(Duration::from_secs(60)).build().expect("a client"),
        }
    }

    /// The hash of the file that it runs, and its ABI.
    pub(crate) fn facts(&self) -> Value {
        let body = self.runtime.block_on(async {
            let response = self.client.get(&self.url).send().await?;
            response.bytes().await
        });
        serde_json::from_slice(&body.expect("workerd answers")).expect("JSON")
    }

    fn call(&self, kind: u32, parts: [&[u8]; 3]) -> Outcome {
        let mut body = kind.to_le_bytes().to_vec();
        for part in parts {
            body.extend((part.len() as u32).to_le_bytes());
            body.extend_from_slice(part);
        }
        let exchange = async {
            let response = self.client.post(&self.url).body(body).send().await?;
            let status = response.status().as_u16();
            Ok((status, response.bytes().await?))
        };
        let answer: Result<_, reqwest::Error> = self.runtime.block_on(exchange);
        match answer.map_err(|error| format!("{error:?}"))? {
            (200, bytes) => Ok(Some(bytes.to_vec())),
            (204, _) => Ok(None),
            (status, bytes) => Err(format!("{status} {}", String::from_utf8_lossy(&bytes))),
        }
    }
}

impl Runs for Workerd {
    fn name(&self) -> &'static str {
        "workerd"
    }

    fn step(&self, policy: &[u8], frame: &[u8], payload: &[u8]) -> Outcome {
        self.call(STEP, [policy, frame, payload])
    }

    fn reduce(&self, frame: &[u8]) -> Outcome {
        self.call(REDUCE, [&[], frame, &[]])
    }
}

impl Drop for Workerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}
