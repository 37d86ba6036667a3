//! `minigate top|stats|trace|approvals|config`: what an operator asks of a gateway from a terminal.
//!
//! All of it goes through the operator's HTTP routes, so it works for a host of either kind, here or
//! elsewhere, and can do nothing that the routes cannot. The key comes from the environment: an
//! argument can be read by everybody on the machine. No rule is here; what is shown comes as it is.

mod approvals;
mod client;
mod config;
mod stats;
mod top;
mod trace;

use std::{
    future::Future,
    io::{self, Write as _},
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::runtime::Builder;

use client::Gateway;

/// Where the gateway is, and how its answers are to be shown.
#[derive(Debug, Args)]
pub struct Target {
    /// The gateway's address; without it this machine's, as BIND_ADDRESS and PORT say. The key is ADMIN_KEY
    /// of the environment, ADMIN_KEY_FILE, or a credential of systemd's.
    #[arg(long, global = true, value_name = "URL")]
    url: Option<String>,
    /// For programs: the answers as they come, in JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// `top`.
#[derive(Debug, Args)]
pub struct Top {
    #[command(flatten)]
    target: Target,
    /// Show it once and end, as where the output is no terminal.
    #[arg(long)]
    once: bool,
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
}

/// `stats`.
#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    target: Target,
}

/// `trace`.
#[derive(Debug, Args)]
pub struct Trace {
    /// A trace id or a request id.
    id: String,
    #[command(flatten)]
    target: Target,
}

/// `approvals`.
#[derive(Debug, Args)]
pub struct Approvals {
    #[command(subcommand)]
    what: Option<Word>,
    #[command(flatten)]
    target: Target,
}

/// `config`.
#[derive(Debug, Args)]
pub struct Config {
    #[command(subcommand)]
    wish: config::Wish,
    #[command(flatten)]
    target: Target,
}

/// What is wanted of the questions that wait for an operator.
#[derive(Debug, Subcommand)]
enum Word {
    /// What waits.
    List,
    /// One question, with the arguments that would be sent.
    Show {
        /// Its id.
        id: String,
    },
    /// Show a question, and agree to what was shown.
    Approve {
        /// Its id.
        id: String,
        /// Agree without being asked again. Needed where nobody sits at a terminal.
        #[arg(long)]
        yes: bool,
    },
    /// Say no.
    Refuse {
        /// Its id.
        id: String,
    },
}

impl Top {
    /// Runs it.
    pub fn run(self) -> ExitCode {
        let every = Duration::from_secs(self.every);
        with(&self.target, async |gateway| top::run(gateway, self.once, every, self.target.json).await)
    }
}

impl Stats {
    /// Runs it.
    pub fn run(self) -> ExitCode {
        with(&self.target, async |gateway| {
            let overview = gateway.get("/v1/admin/overview").await?;
            shown(&overview, self.target.json, stats::table)
        })
    }
}

impl Trace {
    /// Runs it.
    pub fn run(self) -> ExitCode {
        with(&self.target, async |gateway| {
            let found = gateway.get(&format!("/v1/admin/trace/{}", client::segment(&self.id)?)).await?;
            shown(&found, self.target.json, trace::story)
        })
    }
}

impl Approvals {
    /// Runs it.
    pub fn run(self) -> ExitCode {
        let what = self.what.unwrap_or(Word::List);
        with(&self.target, async |gateway| approvals::run(gateway, &what, self.target.json).await)
    }
}

impl Config {
    /// Runs it.
    pub fn run(self) -> ExitCode {
        with(&self.target, async |gateway| config::run(gateway, &self.wish, self.target.json).await)
    }
}

/// Shows something to whoever sits at the terminal, and asks about it.
fn agree(about: &str, question: &str) -> Result<bool, String> {
    let mut out = io::stderr();
    let _ = write!(out, "{about}{question} [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(|error| error.to_string())?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Does something with the gateway, and says what went wrong.
fn with(target: &Target, work: impl AsyncFnOnce(&Gateway) -> Result<String, String>) -> ExitCode {
    match gateway(target).and_then(|gateway| block_on(work(&gateway))) {
        Ok(text) => {
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

fn gateway(target: &Target) -> Result<Gateway, String> {
    Gateway::of(target.url.as_deref())
}

fn block_on<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string())?;
    runtime.block_on(work)
}

/// An answer for people, or for programs.
fn shown(answer: &Value, as_json: bool, text: impl FnOnce(&Value) -> String) -> Result<String, String> {
    Ok(if as_json { format!("{answer}\n") } else { text(answer) })
}

/// A text of somewhere else, fit for a terminal: nothing in it moves the cursor.
fn plain(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '\u{fffd}' } else { letter }).collect()
}

/// A value as people read it.
fn word(value: &Value) -> String {
    match value {
        Value::Null => "–".to_owned(),
        Value::String(text) => plain(text),
        other => plain(&other.to_string()),
    }
}

/// Rows with columns of one width: the first to the left, the others to the right.
fn columns(rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut out = String::new();
    for row in rows {
        for (column, cell) in row.iter().enumerate() {
            let fill = " ".repeat(width(column) - cell.chars().count());
            match column {
                0 => out.extend([cell.as_str(), &fill]),
                _ => out.extend(["  ", &fill, cell]),
            }
        }
        out.truncate(out.trim_end_matches(' ').len());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_of_one_width() {
        let rows = [vec!["a".to_owned(), "1".into()], vec!["long".into(), "12".into()], vec!["x".into()]];
        assert_eq!(columns(&rows), "a      1\nlong  12\nx\n");
    }

    #[test]
    fn nothing_that_came_from_elsewhere_moves_the_cursor() {
        assert_eq!(word(&json!("a\u{1b}[2Jb\n")), "a\u{fffd}[2Jb\u{fffd}");
        assert_eq!((word(&Value::Null), word(&json!(5))), ("–".to_owned(), "5".to_owned()));
    }
}
