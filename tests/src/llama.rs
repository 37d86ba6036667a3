//! A real runtime: llama.cpp's server with a model of half a megabyte, which the script beside this file
//! makes. It infers what it says, and says the same to everybody: [`ANSWER`].

use tokio::process::Command;

use crate::{
    hosts::{Host, new_directory},
    required,
};

/// The key that it expects.
pub const KEY: &str = "llama-key-canary-3d71";
/// What it says.
pub const ANSWER: &str = "pong from a tiny model，你好。";

/// The runtime.
#[derive(Debug)]
pub struct Llama(Host);

impl Llama {
    /// Makes the model, starts its server on a free port, and waits until it listens.
    ///
    /// # Panics
    /// When it cannot start; its output says why.
    pub async fn start(name: &str) -> Self {
        Self::start_on(0, name).await
    }

    /// The same on a port that another one had.
    ///
    /// # Panics
    /// As [`Llama::start`].
    pub async fn start_on(port: u16, name: &str) -> Self {
        let directory = new_directory("llama");
        let script = directory.join("tiny_model.py");
        std::fs::write(&script, include_str!("llama/tiny_model.py")).expect("a file");
        let mut command = Command::new(required("MINIGATE_PYTHON"));
        command
            .arg(script)
            .arg(directory.join("tiny.gguf"))
            .args(["--serve", "--key", KEY, "--name", name, "--port", &port.to_string()])
            .env_clear()
            .env("PYTHONPATH", required("MINIGATE_LLAMA"))
            .current_dir(&directory);
        let llama = Self(Host::start_program(command).await);
        // It has read its script and its model.
        let _ = std::fs::remove_dir_all(directory);
        llama
    }

    /// Its base URL, with `/v1`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}/v1", self.0.url)
    }

    /// Its port.
    ///
    /// # Panics
    /// Never: it listens on one.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.0.url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port")
    }

    /// It stands still with its connections open, or goes on.
    ///
    /// # Panics
    /// When it has ended.
    pub fn freeze(&self, still: bool) {
        self.signal(if still { "-STOP" } else { "-CONT" });
    }

    /// It dies, without a word.
    ///
    /// # Panics
    /// When it has ended already.
    pub fn die(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, signal: &str) {
        let sent = std::process::Command::new("kill").args([signal, &self.0.pid().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Ends it.
    pub async fn stop(self) {
        self.0.stop().await;
    }
}
