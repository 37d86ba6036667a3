//! A real Redis (or Valkey) server for the tests, with a password, on a port of its own. The gateway's
//! user may do what `docs/configuration.md` lists for an ACL, and nothing else.

use std::{
    path::PathBuf,
    process::Stdio,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{required, scripted};

/// The password: a secret that may be in no output.
pub const PASSWORD: &str = "redis-password-canary-5e7a";

/// What the gateway's user may do.
const ACL: [&str; 18] = [
    "~minigate:*",
    "~minigate-alarms*",
    "&minigate:wake",
    "+get",
    "+set",
    "+del",
    "+exists",
    "+hget",
    "+hset",
    "+hdel",
    "+zadd",
    "+zrem",
    "+zrangebyscore",
    "+evalsha",
    "+script|load",
    "+publish",
    "+subscribe",
    "resetpass",
];

/// How long a start may take.
const START: Duration = Duration::from_secs(20);

/// A server that runs, or is down for a while.
#[derive(Debug)]
pub struct Redis {
    port: u16,
    directory: PathBuf,
    child: Option<Child>,
}

impl Redis {
    /// Starts the server on a free port and waits until it answers.
    ///
    /// # Panics
    /// When it cannot start.
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("minigate-redis-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).expect("a temporary directory");
        // Redis takes no port 0; somebody may take the free one first, and then it is tried again.
        for _ in 0..5 {
            let (listener, url) = scripted::free_port().await;
            drop(listener);
            let port = url.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port");
            let mut server = Self { port, directory: directory.clone(), child: None };
            server.spawn();
            if server.answers().await {
                return server;
            }
        }
        panic!("Redis did not start: {}", required("MINIGATE_REDIS").display());
    }

    fn spawn(&mut self) {
        let child = Command::new(required("MINIGATE_REDIS"))
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--requirepass", PASSWORD])
            .args(["--user", "minigate", "on"])
            .args(ACL)
            .arg(format!(">{PASSWORD}"))
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no", "--dir"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.child = Some(child.expect("Redis can be started"));
    }

    /// Whether it answers within [`START`], before it has ended.
    async fn answers(&mut self) -> bool {
        let asked = tokio::time::timeout(START, async {
            loop {
                let ended =
                    self.child.as_mut().is_none_or(|child| child.try_wait().is_ok_and(|e| e.is_some()));
                if ended {
                    return false;
                }
                if ping(self.port).await.is_ok_and(|answer| answer.contains("PONG")) {
                    return true;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        asked.await.unwrap_or(false)
    }

    /// Where it is, with the password.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis://minigate:{PASSWORD}@127.0.0.1:{}/0", self.port)
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().and_then(Child::id).unwrap_or_default()
    }

    /// Ends it without a word; what it held is lost.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill().await;
        }
    }

    /// Starts it again at the same place.
    ///
    /// # Panics
    /// When it does not.
    pub async fn restart(&mut self) {
        self.kill().await;
        self.spawn();
        assert!(self.answers().await, "Redis did not start again");
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

async fn ping(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("AUTH {PASSWORD}\r\nPING\r\n").as_bytes()).await?;
    let mut answer = vec![0; 64];
    let mut text = String::new();
    while !text.contains("PONG") {
        let length = stream.read(&mut answer).await?;
        if length == 0 {
            break;
        }
        text.push_str(&String::from_utf8_lossy(&answer[..length]));
    }
    Ok(text)
}
