//! `cargo xtask run`: from a clean checkout to a serving native host.

use std::env;
use std::process::{Command, ExitCode};

use crate::layout::Layout;
use crate::step::{Result, hand_over, say};
use crate::{module, parts, toolchain};

/// Builds what is needed, then becomes the host.
pub(crate) fn run(layout: &Layout, arguments: &[String]) -> Result<ExitCode> {
    let toolchain = toolchain::ensure(layout)?;
    module::build(layout, &toolchain)?;
    parts::host(layout)?;

    let mut serve = Command::new(layout.program("minigate"));
    serve.arg("serve").arg("--module").arg(layout.module_file());
    if !is_set("MINIGATE_ENV") {
        say!("[run] MINIGATE_ENV is not set: dev (no API key is asked for unless API_KEY is set)");
        serve.env("MINIGATE_ENV", "dev");
        if !is_set("OPENCLAW_GATEWAY_URL") && !arguments.iter().any(|argument| argument == "--demo") {
            say!("[run] OPENCLAW_GATEWAY_URL is not set: the built-in demo upstream answers, not OpenClaw");
            serve.arg("--demo");
        }
    }
    let port = env::var("PORT").unwrap_or_else(|_| "12626".to_owned());
    let key = is_set("API_KEY").then_some(" -H \"X-Api-Key: $API_KEY\"");
    say!(
        "[run] try: curl http://127.0.0.1:{port}/api/chat{} -H 'Content-Type: application/json' \\",
        key.unwrap_or_default()
    );
    say!("        -d '{{\"messages\":[{{\"role\":\"user\",\"content\":\"Hello\"}}]}}'");
    hand_over(serve.args(arguments))
}

fn is_set(name: &str) -> bool {
    env::var_os(name).is_some_and(|value| !value.is_empty())
}
