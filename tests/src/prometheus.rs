//! A real Prometheus server, and its tool.

use std::{path::PathBuf, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::process::{Child, Command};

use crate::{hosts::new_directory, required, scripted, until};

/// How long a start may take.
const START: Duration = Duration::from_secs(60);

/// A server that scrapes one host every two seconds, which is also the time that a scrape has.
#[derive(Debug)]
pub struct Prometheus {
    url: String,
    directory: PathBuf,
    child: Child,
}

impl Prometheus {
    /// Starts it with the rules of `deploy/prometheus`.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start(host: &str, key: &str) -> Self {
        let directory = new_directory("prometheus");
        let config = format!(
            "global: {{scrape_interval: 2s, evaluation_interval: 1s}}\n\
             rule_files: ['{}']\n\
             scrape_configs:\n  - job_name: minigate\n    authorization: {{credentials: '{key}'}}\n    \
             static_configs: [{{targets: ['{}']}}]\n",
            deployed("alerts.yml").display(),
            host.trim_start_matches("http://"),
        );
        std::fs::write(directory.join("prometheus.yml"), config).expect("a file");
        let (listener, url) = scripted::free_port().await;
        drop(listener);
        let child = Command::new(required("MINIGATE_PROMETHEUS").join("prometheus"))
            .arg(format!("--config.file={}", directory.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", directory.join("data").display()))
            .arg(format!("--web.listen-address={}", url.trim_start_matches("http://")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("Prometheus can be started");
        let server = Self { url, directory, child };
        until("Prometheus", START, || async { !server.query("up").await.is_empty() }).await;
        server
    }

    /// The values that an expression has now.
    pub async fn query(&self, expression: &str) -> Vec<f64> {
        let url =
            reqwest::Url::parse_with_params(&format!("{}/api/v1/query", self.url), [("query", expression)]);
        let Ok(response) = reqwest::get(url.expect("a URL")).await else { return Vec::new() };
        let answer: Value =
            serde_json::from_str(&response.text().await.unwrap_or_default()).unwrap_or_default();
        let list = answer.pointer("/data/result").and_then(Value::as_array).cloned().unwrap_or_default();
        list.iter().filter_map(|one| one.pointer("/value/1")?.as_str()?.parse().ok()).collect()
    }

    /// Ends it.
    pub async fn stop(mut self) {
        let _ = self.child.kill().await;
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// A file that is deployed with Prometheus.
#[must_use]
pub fn deployed(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../deploy/prometheus").join(name)
}

/// Runs `promtool`; gives whether it was satisfied, and what it said.
///
/// # Panics
/// When it cannot be started.
pub async fn promtool(arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new(required("MINIGATE_PROMETHEUS").join("promtool"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool can be started");
    let mut stdin = child.stdin.take().expect("piped");
    tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().await.expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}
