//! Named steps and the commands they run.
//!
//! Progress goes to standard error, so that a command's result (the module's
//! digest, the benchmark's JSON) is all that standard output carries.

use std::error::Error;
use std::ffi::OsStr;
use std::io::Write;
use std::process::{Command, ExitCode, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Failures are messages for a person, so any error type will do.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Writes a line of progress, at once: lines of several programs must not mix.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::step::write_line(format!($($text)*))
    };
}
pub(crate) use say;

/// See [`say!`].
pub(crate) fn write_line(mut line: String) {
    line.push('\n');
    // When nobody listens the work still counts.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Runs one step, naming it before and timing it after.
pub(crate) fn step<T>(name: &str, what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    say!("[{name}] {what} …");
    let value = work().map_err(|error| format!("[{name}] {error}"))?;
    say!("[{name}] done in {:.1} s", began.elapsed().as_secs_f64());
    Ok(value)
}

/// Says that a step had nothing to do.
pub(crate) fn already(name: &str, what: &str) {
    say!("[{name}] ok, already there: {what}");
}

/// The few ways in which steps run programs.
pub(crate) trait Run {
    /// Runs to the end with the caller's streams; an unsuccessful exit is an error.
    fn run(&mut self) -> Result<()>;
    /// Like [`Run::run`], but the program's standard output joins the progress.
    fn run_quietly(&mut self) -> Result<()>;
    /// Like [`Run::run_quietly`], but ends the program when it takes too long.
    fn run_within(&mut self, limit: Duration) -> Result<()>;
    /// The program's standard output, trimmed; its standard error is dropped.
    fn text(&mut self) -> Result<String>;
}

impl Run for Command {
    fn run(&mut self) -> Result<()> {
        let status = self.status().map_err(|error| cannot_start(self, &error))?;
        check(self, status)
    }

    fn run_quietly(&mut self) -> Result<()> {
        self.stdin(Stdio::null()).stdout(std::io::stderr()).run()
    }

    fn run_within(&mut self, limit: Duration) -> Result<()> {
        let mut child = self
            .stdin(Stdio::null())
            .stdout(std::io::stderr())
            .spawn()
            .map_err(|error| cannot_start(self, &error))?;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait()? {
                return check(self, status);
            }
            if Instant::now() >= deadline {
                child.kill()?;
                child.wait()?;
                return Err(format!("{} took more than {limit:?}", describe(self)).into());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn text(&mut self) -> Result<String> {
        let output = self
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .map_err(|error| cannot_start(self, &error))?;
        check(self, output.status)?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }
}

/// Becomes the program where the system can do that (so that signals reach it),
/// else waits for it.
pub(crate) fn hand_over(command: &mut Command) -> Result<ExitCode> {
    #[cfg(unix)]
    {
        use std::os::unix::process::CommandExt;
        let error = command.exec();
        Err(cannot_start(command, &error))
    }
    #[cfg(not(unix))]
    {
        let status = command.status().map_err(|error| cannot_start(command, &error))?;
        Ok(exit_code(status))
    }
}

/// The exit code to hand on from a program that was waited for.
pub(crate) fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}

fn check(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    Err(format!("{} failed ({status})", describe(command)).into())
}

fn cannot_start(command: &Command, error: &std::io::Error) -> Box<dyn Error> {
    format!("cannot start {}: {error}", describe(command)).into()
}

/// The program and its first arguments, enough to recognise it in a message.
fn describe(command: &Command) -> String {
    let shown = command.get_args().take(6).map(OsStr::to_string_lossy);
    let mut words = vec![command.get_program().to_string_lossy()];
    words.extend(shown);
    if command.get_args().len() > 6 {
        words.push("…".into());
    }
    format!("`{}`", words.join(" "))
}
