//! `minigate daemon start|stop|status`: a gateway in the background, for machines without systemd.
//!
//! The daemon is `minigate serve` in a session of its own. It holds a lock on its pid file for as long as it
//! lives, so a file that a dead one left is told from a living one, and a number that another process has by
//! now is never sent a signal. This program forbids `unsafe`: `setsid` and `kill` are those of the system.

use std::{
    fs,
    fs::{File, TryLockError},
    io::{Read as _, Seek as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{complain, env_file, env_file::Given, print};
use crate::settings;

/// How long a start may take: a module that was never compiled on a slow machine.
const START: Duration = Duration::from_secs(180);
/// How long an end may take: the drain of `serve`, and what its store still writes.
const END: Duration = Duration::from_secs(90);
/// How often is looked.
const LOOK: Duration = Duration::from_millis(50);

/// Exit codes of `status` (Linux Standard Base, init scripts).
const DEAD: u8 = 1;
const NOT_RUNNING: u8 = 3;

/// How a daemon is started.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Start {
    /// Where it writes its log.
    pub log: Option<PathBuf>,
    /// Its configuration; that of `minigate onboard` without it.
    pub config: Vec<PathBuf>,
    /// Its settings, beside those of the environment.
    pub env_file: Option<PathBuf>,
    /// The wasm module.
    pub module: Option<PathBuf>,
}

/// What is known of a daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It was never started, or stopped in order.
    Nobody,
    /// It died without taking its file away.
    Dead,
    /// It runs; the address is there when it listens.
    Running { pid: u32, address: Option<SocketAddr> },
}

/// The lock of this process's own pid file, held until its end.
static CLAIM: Mutex<Option<(PathBuf, File)>> = Mutex::new(None);

/// Makes this process the one of that pid file.
///
/// # Errors
/// When another one is, or the file cannot be written.
pub fn claim(path: &Path) -> Result<(), String> {
    let problem = |error: std::io::Error| format!("{}: {error}", path.display());
    let mut file =
        File::options().read(true).write(true).create(true).truncate(false).open(path).map_err(problem)?;
    // Somebody who only looks has it for a moment.
    let until = Instant::now() + Duration::from_secs(1);
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < until => thread::sleep(LOOK),
            TryLockError::WouldBlock => return Err(format!("{}: another one runs", path.display())),
            TryLockError::Error(error) => return Err(problem(error)),
        }
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(problem)?;
    *CLAIM.lock().unwrap_or_else(PoisonError::into_inner) = Some((path.to_owned(), file));
    Ok(())
}

/// Says in the pid file where this process listens.
pub(crate) fn listening(address: SocketAddr) {
    if let Some((_, file)) = &mut *CLAIM.lock().unwrap_or_else(PoisonError::into_inner) {
        let _ = writeln!(file, "{address}");
    }
}

/// Takes the pid file away: this is the end.
pub fn release() {
    if let Some((path, _)) = CLAIM.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = fs::remove_file(path);
    }
}

/// The files of a daemon.
pub(super) struct Files {
    pub(super) pid: PathBuf,
    start: PathBuf,
    log: PathBuf,
}

impl Files {
    /// # Errors
    /// When the name cannot be a file's.
    pub(super) fn of(name: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(format!("`{name}` is no name: letters, digits, `-`, `_` and `.`, at most 64"));
        }
        let directory = directory();
        let file = |ending: &str| directory.join(format!("{name}.{ending}"));
        Ok(Self { pid: file("pid"), start: file("json"), log: file("log") })
    }

    /// How it was started last.
    pub(super) fn started(&self) -> Start {
        let text = fs::read(&self.start).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }
}

/// Where the files of daemons are.
fn directory() -> PathBuf {
    let own = settings::text("RUNTIME_DIRECTORY").map(PathBuf::from);
    let user = settings::text("XDG_RUNTIME_DIR").map(|path| PathBuf::from(path).join("minigate"));
    own.or(user).unwrap_or_else(|| settings::data_directory().join("run"))
}

/// Where `onboard` says what a daemon is to be started with.
pub(super) fn onboarded() -> PathBuf {
    directory().join("onboarded.json")
}

/// Whether it runs.
pub(super) fn find(pid_file: &Path) -> Found {
    let Ok(mut file) = File::open(pid_file) else { return Found::Nobody };
    match file.try_lock_shared() {
        Ok(()) => return Found::Dead,
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(_)) => return Found::Nobody,
    }
    let mut text = String::new();
    let _ = file.rewind().and_then(|()| file.read_to_string(&mut text));
    let mut lines = text.lines();
    let Some(pid) = lines.next().and_then(|line| line.parse().ok()) else { return Found::Dead };
    Found::Running { pid, address: lines.next().and_then(|line| line.parse().ok()) }
}

/// `minigate daemon start`.
pub fn start(name: &str, wanted: Start) -> ExitCode {
    match try_start(name, wanted) {
        Ok(line) => {
            print(&line);
            ExitCode::SUCCESS
        }
        Err(problem) => {
            complain(&problem);
            ExitCode::FAILURE
        }
    }
}

fn try_start(name: &str, wanted: Start) -> Result<String, String> {
    let files = Files::of(name)?;
    if let Found::Running { pid, .. } = find(&files.pid) {
        return Ok(format!("{name} runs already: pid {pid}"));
    }
    let directory = directory();
    fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let wanted = complete(wanted, &files)?;
    let given = Given::read(wanted.env_file.as_deref())?;
    if let Some(path) = wanted.env_file.as_deref().filter(|path| env_file::is_open(path)) {
        complain(&format!("{}: others may read it; chmod 600", path.display()));
    }
    let port = given.get("PORT").unwrap_or_else(|| "12626".to_owned());
    if port != "0" && answers(&given.get("BIND_ADDRESS").unwrap_or_else(|| "127.0.0.1".to_owned()), &port) {
        return Err(format!("somebody listens on port {port} already; set PORT to another one"));
    }
    let log = wanted.log.clone().unwrap_or_default();
    let mut child = spawn(&wanted, &files, &given)?;
    let text = serde_json::to_string(&wanted).map_err(|error| error.to_string())?;
    fs::write(&files.start, text).map_err(|error| format!("{}: {error}", files.start.display()))?;
    let until = Instant::now() + START;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(format!("{name} ended at once ({status}):\n{}", tail(&log)));
        }
        if let Found::Running { pid, address: Some(address) } = find(&files.pid)
            && pid == child.id()
        {
            return Ok(format!("{name} started: pid {pid}, http://{address}, log {}", log.display()));
        }
        if Instant::now() > until {
            return Err(format!("{name} does not listen after {START:?}; its log: {}", log.display()));
        }
        thread::sleep(LOOK);
    }
}

/// Absolute paths, and what `onboard` or the last start said.
fn complete(mut wanted: Start, files: &Files) -> Result<Start, String> {
    let absolute =
        |path: PathBuf| std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()));
    if wanted.config.is_empty() && settings::text("MINIGATE_CONFIG").is_none() {
        let text = fs::read(onboarded()).unwrap_or_default();
        let said: Start = serde_json::from_slice(&text).unwrap_or_default();
        wanted.config = said.config;
        wanted.env_file = wanted.env_file.or(said.env_file);
    }
    let log = wanted.log.take().unwrap_or_else(|| files.log.clone());
    Ok(Start {
        log: Some(absolute(log)?),
        config: wanted.config.into_iter().map(absolute).collect::<Result<_, _>>()?,
        env_file: wanted.env_file.map(absolute).transpose()?,
        module: wanted.module.map(absolute).transpose()?,
    })
}

/// Whether somebody listens there. Two gateways could share a port, and neither would know.
fn answers(ip: &str, port: &str) -> bool {
    let ip = if ip == "0.0.0.0" || ip == "::" { "127.0.0.1" } else { ip };
    let address: Option<SocketAddr> = format!("{ip}:{port}").parse().ok();
    address.is_some_and(|address| TcpStream::connect_timeout(&address, Duration::from_millis(300)).is_ok())
}

fn spawn(wanted: &Start, files: &Files, given: &Given) -> Result<Child, String> {
    let log = wanted.log.clone().unwrap_or_default();
    if let Some(parent) = log.parent() {
        fs::create_dir_all(parent).map_err(|error| format!("{}: {error}", parent.display()))?;
    }
    let output = || File::options().create(true).append(true).open(&log);
    let problem = |error: std::io::Error| format!("{}: {error}", log.display());
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let build = |mut command: Command| -> Result<Command, String> {
        command.arg("serve").arg("--pid-file").arg(&files.pid).arg("--log").arg(&log);
        for path in &wanted.config {
            command.arg("--config").arg(path);
        }
        if let Some(module) = &wanted.module {
            command.arg("--module").arg(module);
        }
        command.envs(given.missing()).stdin(Stdio::null());
        command.stdout(output().map_err(problem)?).stderr(output().map_err(problem)?);
        Ok(command)
    };
    let mut session = Command::new("setsid");
    session.arg(&program);
    match build(session)?.spawn() {
        Ok(child) => Ok(child),
        // A machine without util-linux: a process group of its own is what the terminal's signals miss.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut command = build(Command::new(&program))?;
            command.process_group(0).spawn().map_err(|error| format!("{}: {error}", program.display()))
        }
        Err(error) => Err(format!("setsid: {error}")),
    }
}

/// The end of a log.
fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

/// `minigate daemon stop`: asks it to end and waits for its drain. Nobody there is fine.
pub fn stop(name: &str) -> ExitCode {
    let files = match Files::of(name) {
        Ok(files) => files,
        Err(problem) => {
            complain(&problem);
            return ExitCode::FAILURE;
        }
    };
    let Found::Running { pid, .. } = find(&files.pid) else {
        print(&format!("{name} does not run"));
        return ExitCode::SUCCESS;
    };
    let began = Instant::now();
    let sent = Command::new("kill").args(["-TERM", &pid.to_string()]).status();
    if !sent.is_ok_and(|status| status.success()) {
        complain(&format!("{name}: pid {pid} cannot be asked to end"));
        return ExitCode::FAILURE;
    }
    while matches!(find(&files.pid), Found::Running { .. }) {
        if began.elapsed() > END {
            complain(&format!("{name} has not ended after {END:?}: pid {pid}"));
            return ExitCode::FAILURE;
        }
        thread::sleep(LOOK);
    }
    // One that was still starting left its file.
    let _ = fs::remove_file(&files.pid);
    print(&format!("{name} stopped after {} ms", began.elapsed().as_millis()));
    ExitCode::SUCCESS
}

/// `minigate daemon status`: 0 runs, 1 died, 3 does not run (LSB).
pub fn status(name: &str, as_json: bool) -> ExitCode {
    let files = match Files::of(name) {
        Ok(files) => files,
        Err(problem) => {
            complain(&problem);
            return ExitCode::from(4);
        }
    };
    let log = files.started().log.unwrap_or_default();
    let (word, code, line, more) = match find(&files.pid) {
        Found::Running { pid, address } => {
            let url = address.map(|address| format!("http://{address}"));
            let line = format!("{name} runs: pid {pid}, {}", url.as_deref().unwrap_or("not listening yet"));
            ("running", 0, line, json!({"pid": pid, "url": url}))
        }
        Found::Dead => ("dead", DEAD, format!("{name} died; its log: {}", log.display()), json!({})),
        Found::Nobody => ("stopped", NOT_RUNNING, format!("{name} does not run"), json!({})),
    };
    if as_json {
        let body = json!({"name": name, "status": word, "log": log, "pid": more["pid"], "url": more["url"]});
        print(&body.to_string());
    } else {
        print(&line);
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_files_name() {
        for name in ["", "a/b", "..", ".hidden", "a b", &"x".repeat(65)] {
            assert!(Files::of(name).is_err(), "{name}");
        }
        assert!(Files::of("dingtalk-bot").is_ok());
    }

    #[test]
    fn a_living_one_is_told_from_what_a_dead_one_left() {
        let path = std::env::temp_dir().join(format!("minigate-pid-{}.pid", std::process::id()));
        assert_eq!(find(&path), Found::Nobody);
        fs::write(&path, "1\n127.0.0.1:1\n").expect("a file");
        assert_eq!(find(&path), Found::Dead, "process 1 lives, and is not it");
        claim(&path).expect("free");
        let pid = std::process::id();
        assert_eq!(find(&path), Found::Running { pid, address: None });
        listening(SocketAddr::from(([127, 0, 0, 1], 12626)));
        let address = Some(SocketAddr::from(([127, 0, 0, 1], 12626)));
        assert_eq!(find(&path), Found::Running { pid, address });
        release();
        assert_eq!(find(&path), Found::Nobody);
    }
}
