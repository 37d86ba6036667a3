//! `minigate ready`: whether a gateway is, for healthchecks of containers that have no other client.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    complain,
    http::{self, Question},
    print,
};
use crate::settings;

/// A little more than the gateway's own probes may take.
const PATIENCE: Duration = Duration::from_secs(8);

/// Which gateway.
#[derive(Debug, Args)]
pub struct Ready {
    /// Where it is; the loopback address and PORT without it.
    #[arg(long)]
    url: Option<String>,
    /// Only whether it lives, whatever is behind it.
    #[arg(long)]
    live: bool,
}

impl Ready {
    /// Prints what `/readyz` says; 1 when it is not ready.
    pub fn run(self) -> ExitCode {
        let port = settings::text("PORT").unwrap_or_else(|| "12626".to_owned());
        let base = self.url.unwrap_or_else(|| format!("http://127.0.0.1:{port}"));
        let path = if self.live { "healthz" } else { "readyz" };
        let url = format!("{}/{path}", base.trim_end_matches('/'));
        match http::ask(&Question { url: &url, ..Question::default() }, PATIENCE) {
            Ok(answer) => {
                print(&String::from_utf8_lossy(&answer.body));
                if answer.status == 200 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(_) => {
                complain(&format!("{url}: no answer"));
                ExitCode::FAILURE
            }
        }
    }
}
