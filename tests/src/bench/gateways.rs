//! The gateways that are compared, each on a free port before the same upstream.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt as _,
    process::Command,
    time::Duration,
};

use minigate_tests::{
    hosts::{Host, Kind},
    required,
};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::{
    Result,
    process::{self, Directory, Running},
    requests::KEY,
    upstream::Upstream,
};

/// A gateway that runs.
pub(super) struct Gateway {
    pub address: SocketAddr,
    /// From the start of the process until it listened.
    pub started: Duration,
    process: Process,
    _directory: Option<Directory>,
}

/// What is behind it.
enum Process {
    Own(Running),
    /// A fixture of the tests, and the runtime that reads its output.
    Fixture(Box<Host>, #[expect(dead_code, reason = "it works while it is kept")] Runtime),
}

/// Every check of the full policy; only the limit is out of reach.
fn settings(upstream: &Upstream) -> Vec<(&'static str, String)> {
    vec![
        ("OPENCLAW_GATEWAY_URL", format!("http://{}", upstream.address)),
        ("OPENCLAW_GATEWAY_TOKEN", "benchmark-token".into()),
        ("API_KEY", KEY.into()),
        ("RATE_LIMIT_PER_MINUTE", "60000000".into()),
        ("RATE_LIMIT_BURST", "1000000".into()),
        ("RATE_LIMIT_PER_ADDRESS", "60000000/1000000".into()),
        ("MAX_CONCURRENCY", "1024".into()),
    ]
}

impl Gateway {
    /// `minigate serve`, with its store and its module's machine code in that directory.
    pub(super) fn minigate(upstream: &Upstream, kept: &Directory) -> Result<Self> {
        let directory = Directory::new()?;
        let mut command = Command::new(required("MINIGATE_BIN"));
        command
            .arg("serve")
            .env_clear()
            .env("MINIGATE_MODULE", required("MINIGATE_MODULE").join("index_bg.wasm"))
            .env("PORT", "0")
            .env("CACHE_DIR", kept.path().join("code"))
            .env("DATA_DIR", kept.path().join("data"))
            .envs(settings(upstream));
        Self::own(command, directory, |output| {
            let event = events(output).find(|event| event["event"] == "listening")?;
            event["address"].as_str()?.parse().ok()
        })
    }

    /// nginx as a plain proxy: one worker for each core, as Minigate has one thread for
    /// each, connections kept on both sides, no log at all, and no body on disk.
    pub(super) fn nginx(upstream: &Upstream) -> Result<Self> {
        let directory = Directory::new()?;
        let path = directory.path().to_owned();
        let address = free_address()?;
        fs::write(path.join("nginx.conf"), nginx_config(address, upstream.address))?;
        let mut command = Command::new(required("MINIGATE_NGINX"));
        command
            .arg("-p")
            .arg(&path)
            .arg("-e")
            .arg(path.join("error.log"))
            .arg("-c")
            .arg(path.join("nginx.conf"));
        Self::own(command, directory, |_| TcpStream::connect(address).ok().map(|_| address))
    }

    /// The module in workerd.
    pub(super) fn edge(upstream: &Upstream, limited: bool) -> Result<Self> {
        let mut settings = settings(upstream);
        if !limited {
            settings.retain(|(name, _)| !name.starts_with("RATE_LIMIT"));
            settings.retain(|(name, _)| *name != "MAX_CONCURRENCY");
            for name in ["RATE_LIMIT_PER_MINUTE", "RATE_LIMIT_PER_ADDRESS", "MAX_CONCURRENCY"] {
                settings.push((name, "0".into()));
            }
            settings.push(("ABUSE_PROTECTION", "off".into()));
        }
        let settings: Vec<(&str, &str)> =
            settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let host = runtime.block_on(Host::start(Kind::Edge, &settings));
        let address = host.url.trim_start_matches("http://").parse()?;
        let process = Process::Fixture(Box::new(host), runtime);
        Ok(Self { address, started: Duration::ZERO, process, _directory: None })
    }

    /// The least worker in workerd.
    pub(super) fn bare_worker(upstream: &Upstream) -> Result<Self> {
        let directory = Directory::new()?;
        let path = directory.path();
        fs::write(path.join("proxy.mjs"), include_str!("proxy.mjs"))?;
        fs::write(path.join("config.capnp"), bare_config(upstream.address))?;
        let mut command = Command::new(required("MINIGATE_WORKERD"));
        command.arg("serve").arg(path.join("config.capnp")).arg("--control-fd=1").env_clear();
        Self::own(command, directory, |output| {
            let event = events(output).find(|event| event["event"] == "listen")?;
            let port = u16::try_from(event["port"].as_u64()?).ok()?;
            Some((Ipv4Addr::LOCALHOST, port).into())
        })
    }

    fn own(
        command: Command,
        directory: Directory,
        listening: impl Fn(&str) -> Option<SocketAddr>,
    ) -> Result<Self> {
        let mut running = Running::start(command, directory.path().join("output"))?;
        let (address, started) = running.wait_for(listening)?;
        Ok(Self { address, started, process: Process::Own(running), _directory: Some(directory) })
    }

    /// CPU time of all its processes so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        process::cpu(self.pid())
    }

    /// Resident memory of its first process.
    pub(super) fn resident_mib(&self) -> Result<f64> {
        process::resident_mib(self.pid())
    }

    fn pid(&self) -> u32 {
        match &self.process {
            Process::Own(running) => running.pid(),
            Process::Fixture(host, _) => host.pid(),
        }
    }
}

/// Lines of JSON.
fn events(output: &str) -> impl Iterator<Item = Value> {
    output.lines().filter_map(|line| serde_json::from_str(line).ok())
}

/// An address that was free a moment ago: nginx cannot choose one and say which.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn nginx_config(listen: SocketAddr, upstream: SocketAddr) -> String {
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    // As root, its workers would become another user, who may not enter the directory.
    let user = if fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0) { "user root;" } else { "" };
    format!(
        r#"{user}
daemon off;
worker_processes {workers};
pid nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 32m;
  client_body_buffer_size 8m;
  keepalive_requests 100000000;
  upstream openclaw {{
    server {upstream};
    keepalive 64;
    keepalive_requests 100000000;
  }}
  server {{
    listen {listen};
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    location / {{ proxy_pass http://openclaw; }}
    location /stream/ {{ proxy_pass http://openclaw/; proxy_buffering off; }}
  }}
}}
"#
    )
}

fn bare_config(upstream: SocketAddr) -> String {
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .proxy),
    (name = "internet", network = (allow = ["public", "private"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const proxy :Workerd.Worker = (
  modules = [(name = "proxy.mjs", esModule = embed "proxy.mjs")],
  compatibilityDate = "2026-11-01",
  bindings = [(name = "UPSTREAM", text = "http://{upstream}")],
);
"#
    )
}
