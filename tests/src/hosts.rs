//! Both hosts, started as people start them: the `minigate` program, and the module in the
//! real `workerd`.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use minigate_config::{Source, check};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, BufReader},
    process::{Child, Command},
    sync::watch,
    task::JoinHandle,
};

use crate::required;

/// Which host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `minigate serve`, with wasmtime.
    Native,
    /// The Workers entry in workerd.
    Edge,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Native, Self::Edge];

    /// The name in tests.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Edge => "edge",
        }
    }
}

/// A host that runs.
#[derive(Debug)]
pub struct Host {
    /// Which.
    pub kind: Kind,
    /// Where: `http://127.0.0.1:PORT`.
    pub url: String,
    child: Child,
    output: Arc<Mutex<String>>,
    /// Who collects the output.
    readers: Vec<JoinHandle<()>>,
    directory: PathBuf,
}

/// How long a host may take to listen: all hosts of a suite compile the module at once, on a machine that may be busy.
const START: Duration = Duration::from_secs(180);

impl Host {
    /// Starts a host with these settings and no others, and waits until it listens.
    ///
    /// # Panics
    /// When it cannot start; its output says why.
    pub async fn start(kind: Kind, settings: &[(&str, &str)]) -> Self {
        Self::start_with_config(kind, &[], settings).await
    }

    /// Starts a host with configuration files, as names and YAML, and these settings.
    ///
    /// # Panics
    /// As [`Host::start`], and when the files have mistakes.
    pub async fn start_with_config(kind: Kind, files: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        let directory = new_directory(kind.name());
        let command = match kind {
            Kind::Native => {
                let mut command = native(&directory, settings);
                for (name, yaml) in files {
                    let path = directory.join(name);
                    std::fs::write(&path, yaml).expect("a file");
                    command.arg("--config").arg(path);
                }
                command
            }
            Kind::Edge => {
                workerd(&directory, &Worker { catalog: &compiled(files), ..Worker::GATEWAY }, settings)
            }
        };
        Self::run(kind, command, directory).await
    }

    /// Starts a host whose store outlives it in a directory, unless a setting says where it is.
    ///
    /// # Panics
    /// As [`Host::start_with_config`].
    pub async fn start_kept(
        kind: Kind,
        kept: &Path,
        files: &[(&str, &str)],
        settings: &[(&str, &str)],
    ) -> Self {
        match kind {
            Kind::Native => {
                let data = kept.to_string_lossy();
                let settings = [&[("DATA_DIR", &*data)][..], settings].concat();
                Self::start_with_config(kind, files, &settings).await
            }
            Kind::Edge => {
                let directory = new_directory(kind.name());
                let catalog = compiled(files);
                let worker = Worker { catalog: &catalog, kept: Some(kept), ..Worker::GATEWAY };
                let command = workerd(&directory, &worker, settings);
                Self::run(kind, command, directory).await
            }
        }
    }

    /// Starts the edge with one configuration beside the module and another one in KV.
    ///
    /// # Panics
    /// As [`Host::start_with_config`].
    pub async fn start_with_kv(
        files: &[(&str, &str)],
        stored: &[(&str, &str)],
        settings: &[(&str, &str)],
    ) -> Self {
        let directory = new_directory("edge-kv");
        let (catalog, kv) = (compiled(files), compiled(stored));
        let worker = Worker { catalog: &catalog, kv: Some(&kv), ..Worker::GATEWAY };
        let command = workerd(&directory, &worker, settings);
        Self::run(Kind::Edge, command, directory).await
    }

    /// Starts a host whose configuration may be changed while it runs: on the edge by a KV namespace.
    ///
    /// # Panics
    /// As [`Host::start_with_config`].
    pub async fn start_changeable(kind: Kind, files: &[(&str, &str)], settings: &[(&str, &str)]) -> Self {
        match kind {
            Kind::Native => Self::start_with_config(kind, files, settings).await,
            Kind::Edge => Self::start_with_kv(files, files, settings).await,
        }
    }

    /// Starts the native host with its built-in demo upstream.
    ///
    /// # Panics
    /// As [`Host::start`].
    pub async fn start_demo(settings: &[(&str, &str)]) -> Self {
        let directory = new_directory("demo");
        let mut command = native(&directory, settings);
        command.arg("--demo");
        Self::run(Kind::Native, command, directory).await
    }

    /// Starts workerd with the store's Durable Objects alone, behind `cells.mjs`. They are in
    /// memory, or in a directory that outlives the process.
    ///
    /// # Panics
    /// As [`Host::start`].
    pub async fn start_cells(kept: Option<&Path>) -> Self {
        let directory = new_directory("cells");
        let command = workerd(&directory, &Worker { entry: CELLS, kept, ..Worker::GATEWAY }, &[]);
        Self::run(Kind::Edge, command, directory).await
    }

    /// Starts a program that says where it listens as the native host does.
    ///
    /// # Panics
    /// As [`Host::start`].
    pub async fn start_program(command: Command) -> Self {
        Self::run(Kind::Native, command, new_directory("program")).await
    }

    async fn run(kind: Kind, mut command: Command, directory: PathBuf) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the host can be started");
        let output = Arc::new(Mutex::new(String::new()));
        let (found, mut port) = watch::channel(None);
        let readers = vec![
            read(child.stdout.take().expect("piped"), Arc::clone(&output), Some(found)),
            read(child.stderr.take().expect("piped"), Arc::clone(&output), None),
        ];
        let listening = tokio::time::timeout(START, port.wait_for(Option::is_some)).await;
        let port = match listening {
            Ok(Ok(port)) => port.expect("is some"),
            _ => panic!("the {} host did not listen:\n{}", kind.name(), text(&output)),
        };
        Self { kind, url: format!("http://127.0.0.1:{port}"), child, output, readers, directory }
    }

    /// Everything that it has written so far, on both outputs.
    #[must_use]
    pub fn output(&self) -> String {
        text(&self.output)
    }

    /// The JSON lines that it has written so far.
    #[must_use]
    pub fn records(&self) -> Vec<Value> {
        self.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Where the native host keeps its store.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal, by its name.
    pub fn signal(&self, name: &str) {
        // The standard library sends no other signal than KILL.
        let (signal, pid) = (format!("-{name}"), self.pid().to_string());
        let sent = std::process::Command::new("kill").args([&signal, &pid]).status();
        assert!(sent.is_ok_and(|status| status.success()), "kill {signal}");
    }

    /// Waits for its end, and until all that it has written is there; gives its exit code, if it has one.
    pub async fn wait(&mut self) -> Option<i32> {
        let status = tokio::time::timeout(Duration::from_secs(90), self.child.wait()).await;
        let code = status.expect("it ends").expect("it was started").code();
        for reader in self.readers.drain(..) {
            // Whatever else has the pipe may live on.
            let _ = tokio::time::timeout(Duration::from_secs(10), reader).await;
        }
        code
    }

    /// Ends it without a word, as a power cut would.
    ///
    /// # Panics
    /// When it has ended already.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Ends it and waits. workerd would wait for connections that scenarios left hanging.
    pub async fn stop(mut self) {
        match self.kind {
            Kind::Native => {
                self.terminate();
                let _ = self.wait().await;
            }
            Kind::Edge => self.kill().await,
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // What a test failed at is often only known here.
            eprintln!("the {} host's last lines:", self.kind.name());
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            for line in &lines[lines.len().saturating_sub(LAST_LINES)..] {
                eprintln!("{}", line.chars().take(LAST_WIDTH).collect::<String>());
            }
        }
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// How much of a host's output is shown when its test fails: lines, and characters of each.
const LAST_LINES: usize = 60;
const LAST_WIDTH: usize = 800;

/// Runs the native host with settings that it is to refuse; gives its exit code and output.
///
/// # Panics
/// When it cannot be started at all, or starts to serve.
pub async fn refused(settings: &[(&str, &str)], arguments: &[&str]) -> (Option<i32>, String) {
    let directory = new_directory("refused");
    let output =
        native(&directory, settings).args(arguments).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(START, output).await.expect("it ends").expect("it starts");
    let _ = std::fs::remove_dir_all(directory);
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.code(), text)
}

fn text(output: &Mutex<String>) -> String {
    output.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// A directory that nobody else has.
pub(crate) fn new_directory(name: &str) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("minigate-test-{}-{name}-{number}", std::process::id()));
    std::fs::create_dir_all(&path).expect("a temporary directory");
    path
}

/// Collects lines, and looks for the one that tells the port.
fn read(
    from: impl AsyncRead + Unpin + Send + 'static,
    output: Arc<Mutex<String>>,
    found: Option<watch::Sender<Option<u16>>>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut lines = BufReader::new(from).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            if let (Some(found), Some(port)) = (&found, port(&line)) {
                found.send_replace(Some(port));
            }
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.push_str(&line);
            output.push('\n');
        }
    })
}

/// `{"event":"listening","address":"127.0.0.1:PORT"}` of the native host,
/// `{"event":"listen","socket":"http","port":PORT}` of workerd's control channel.
fn port(line: &str) -> Option<u16> {
    let event: Value = serde_json::from_str(line).ok()?;
    match event["event"].as_str()? {
        "listening" => event["address"].as_str()?.rsplit(':').next()?.parse().ok(),
        "listen" => u16::try_from(event["port"].as_u64()?).ok(),
        _ => None,
    }
}

/// Where machine code is kept: the module is compiled once for all hosts of a run.
#[must_use]
pub fn code_directory() -> PathBuf {
    std::env::temp_dir().join(format!("minigate-test-{}-code", std::process::id()))
}

fn native(directory: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(required("MINIGATE_BIN"));
    command
        .arg("serve")
        .env_clear()
        .env("CACHE_DIR", code_directory())
        .env("MINIGATE_MODULE", required("MINIGATE_MODULE").join("index_bg.wasm"))
        .env("PORT", "0")
        .env("DATA_DIR", directory.join("data"))
        .envs(settings.iter().copied());
    command
}

/// What `minigate compile` makes of these files; nothing of none.
fn compiled(files: &[(&str, &str)]) -> Vec<u8> {
    if files.is_empty() {
        return Vec::new();
    }
    let source = |(name, yaml): &(&str, &str)| Source { name: (*name).into(), text: (*yaml).into() };
    let checked = check(&files.iter().map(source).collect::<Vec<_>>(), None);
    let lines: Vec<String> = checked.diagnostics.iter().map(ToString::to_string).collect();
    checked.catalog.unwrap_or_else(|| panic!("{}", lines.join("\n"))).encode()
}

/// The Workers entry, among the module's files.
const ENTRY: &str = "entry.mjs";
/// The entry to the store's objects, which is the tests' own.
const CELLS: &str = "cells.mjs";

/// What workerd is to run.
struct Worker<'a> {
    entry: &'a str,
    /// The compiled configuration beside the module.
    catalog: &'a [u8],
    /// The same in a KV namespace.
    kv: Option<&'a [u8]>,
    /// Where the objects are kept; beside the configuration without it.
    kept: Option<&'a Path>,
}

impl Worker<'_> {
    const GATEWAY: Self = Self { entry: ENTRY, catalog: &[], kv: None, kept: None };
}

fn workerd(directory: &Path, worker: &Worker<'_>, settings: &[(&str, &str)]) -> Command {
    let config = directory.join("config.capnp");
    let module = required("MINIGATE_MODULE");
    // In memory an object has no SQLite, which the ledger needs.
    let own = directory.join("objects");
    std::fs::create_dir(&own).expect("a directory");
    let worker = &Worker { kept: Some(worker.kept.unwrap_or(&own)), ..*worker };
    std::fs::write(&config, workerd_config(&module, worker, settings)).expect("a file");
    std::fs::write(directory.join("catalog.bin"), worker.catalog).expect("a file");
    std::fs::write(directory.join(CELLS), include_str!("cells.mjs")).expect("a file");
    // workerd asks a KV namespace over HTTP; a directory answers as one, and takes what is put.
    let stored = directory.join("kv");
    std::fs::create_dir(&stored).expect("a directory");
    if let Some(bytes) = worker.kv {
        std::fs::write(stored.join("catalog"), bytes).expect("a file");
    }
    std::os::unix::fs::symlink(module, directory.join("module")).expect("a link");
    let mut command = Command::new(required("MINIGATE_WORKERD"));
    command.arg("serve").arg(config).arg("--control-fd=1").env_clear();
    if worker.kv.is_some() {
        command.arg(format!("--directory-path=kv={}", stored.display()));
    }
    command
}

/// What `wrangler.toml` says, in workerd's own terms. The first module is the entry.
fn workerd_config(module: &Path, worker: &Worker<'_>, settings: &[(&str, &str)]) -> String {
    let Worker { entry, kv, kept, .. } = *worker;
    let mut modules = String::new();
    let mut add = |name: &str, file: &str, kind: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(modules, "    (name = \"{name}\", {kind} = embed \"{file}\"),");
    };
    let in_module = |name: &str| format!("module/{name}");
    add(entry, &if entry == ENTRY { in_module(entry) } else { entry.to_owned() }, "esModule");
    let (store, binding) = if kv.is_some() {
        (r#"(name = "kv", disk = (writable = true)),"#, r#"(name = "CONFIG", kvNamespace = "kv"),"#)
    } else {
        ("", "")
    };
    for name in files(module, Path::new("")) {
        match name.rsplit_once('.').map(|(_, ending)| ending) {
            Some("js" | "mjs") if name != ENTRY => add(&name, &in_module(&name), "esModule"),
            Some("wasm") => add(&name, &in_module(&name), "wasm"),
            _ => {}
        }
    }
    let bindings: String = settings
        .iter()
        .map(|(name, value)| format!("    (name = \"{name}\", text = {}),\n", Value::from(*value)))
        .collect();
    let path = Value::from(kept.unwrap_or(Path::new(".")).to_string_lossy());
    let disk = format!("    (name = \"kept\", disk = (path = {path}, writable = true)),\n");
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [
    (name = "main", worker = .gateway),
    (name = "internet", network = (allow = ["public", "private"])),
{disk}    {store}
  ],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "main")],
);
const gateway :Workerd.Worker = (
  modules = [
{modules}    (name = "catalog.bin", data = embed "catalog.bin"),
  ],
  compatibilityDate = "2026-11-01",
  compatibilityFlags = ["enable_request_signal"],
  bindings = [
{bindings}    (name = "STATE", durableObjectNamespace = "StateCell"),
    (name = "LEDGER", durableObjectNamespace = "AuditLedger"),
    {binding}
  ],
  durableObjectNamespaces = [
    (className = "StateCell", uniqueKey = "minigate", enableSql = true),
    (className = "AuditLedger", uniqueKey = "minigate-audit", enableSql = true),
  ],
  durableObjectStorage = (localDisk = "kept"),
);
"#
    )
}

/// The files of a directory and those under it, by relative name.
fn files(root: &Path, below: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root.join(below)).expect("the module's directory");
    for entry in entries.filter_map(Result::ok) {
        let name = below.join(entry.file_name());
        if entry.path().is_dir() {
            found.extend(files(root, &name));
        } else if let Some(name) = name.to_str() {
            found.push(name.to_owned());
        }
    }
    found.sort();
    found
}
