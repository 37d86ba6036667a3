//! `minigate send`: a robot of a running daemon says something, to see that it can.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;

use super::{
    complain,
    daemon::{self, Files, Found},
    env_file::Given,
    http::{self, Problem, Question},
    print,
};

/// Longer than the daemon waits for DingTalk.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is sent, and by whom.
#[derive(Debug, Args)]
pub struct Send {
    /// The daemon whose robot speaks.
    #[arg(long)]
    name: String,
    /// To whom: a target of the configuration, a group's `cid…`, or `user:STAFF_ID`.
    #[arg(long, value_name = "TARGET")]
    to: String,
    /// The words.
    #[arg(long)]
    text: String,
    /// The robot's channel, where there are several.
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// A file with ADMIN_KEY; by default the one that the daemon was started with.
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl Send {
    /// Prints what the gateway answered; 1 when the words did not arrive.
    pub fn run(self) -> ExitCode {
        match self.send() {
            Ok(answer) => {
                print(&answer);
                ExitCode::SUCCESS
            }
            Err(problem) => {
                complain(&problem);
                ExitCode::FAILURE
            }
        }
    }

    fn send(self) -> Result<String, String> {
        let Self { name, to, text, channel, env_file } = self;
        let files = Files::of(&name)?;
        let Found::Running { address: Some(address), .. } = daemon::find(&files.pid) else {
            return Err(format!("{name} does not run; `minigate daemon start --name {name}`"));
        };
        let given = Given::read(env_file.or_else(|| files.started().env_file).as_deref())?;
        let keys =
            given.get("ADMIN_KEY").ok_or("ADMIN_KEY is not set, here or in the daemon's file of settings")?;
        let key = keys.split(',').next().unwrap_or_default().trim();
        let mut address = address;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let url = format!("http://{address}/v1/admin/send");
        let body = json!({"to": to, "text": text, "channel": channel});
        let question = Question { url: &url, bearer: Some(key), body: Some(&body) };
        let answer = http::ask(&question, PATIENCE).map_err(|problem| match problem {
            Problem::Late => format!("{name} does not answer within {PATIENCE:?}"),
            _ => format!("{name} cannot be reached at {address}"),
        })?;
        let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
        if answer.status == 200 { Ok(text) } else { Err(text) }
    }
}
