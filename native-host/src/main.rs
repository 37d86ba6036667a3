//! The program `minigate`: its arguments, and the line that says why it did not start.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use minigate::{
    audit,
    commands::{
        daemon::{self, Start},
        doctor, onboard, ready, send,
    },
    configuration, demo, journal,
    operator::{Approvals, Config, Stats, Top, Trace},
    replay::{self, Changes},
    server,
};
use minigate_config::Question;
use minigate_core::{ledger::Head, policy::Environment};

/// A gateway between WeChat Mini Programs and OpenClaw.
#[derive(Debug, Parser)]
#[command(name = "minigate", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve. The settings are environment variables.
    Serve {
        /// The wasm module; by default `minigate.wasm` beside this program.
        #[arg(long)]
        module: Option<PathBuf>,
        /// A configuration file; several are read as one. Without it, those of `MINIGATE_CONFIG`,
        /// separated by commas.
        #[arg(long, value_name = "FILE")]
        config: Vec<PathBuf>,
        /// Use the built-in demo upstream in place of an OpenClaw Gateway. Dev only.
        #[arg(long)]
        demo: bool,
        /// Where the log is appended; a file that was moved away is begun anew. Standard output without it.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// A file that holds this process's number while it lives, and where it listens.
        #[arg(long, value_name = "FILE")]
        pid_file: Option<PathBuf>,
    },
    /// Set a robot up: check its credentials, write its part of a configuration and a file of secrets.
    Onboard(onboard::Onboard),
    /// Run a gateway in the background.
    #[command(subcommand)]
    Daemon(Daemon),
    /// Have a robot of a running daemon say something.
    Send(send::Send),
    /// Ask a gateway whether it is ready. Ends with 1 when it is not.
    Ready(ready::Ready),
    /// Find out why it is slow or does not answer, from the model's runtime to DingTalk.
    Doctor(doctor::Doctor),
    /// Check configuration files, and say every mistake with its place.
    Check {
        /// The files; several are read as one.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Also say what would be the matter in this environment.
        #[arg(long, value_name = "dev|staging|prod", value_parser = environment)]
        environment: Option<Environment>,
        /// Warnings fail too.
        #[arg(long)]
        strict: bool,
    },
    /// Compile configuration files for the edge.
    Compile {
        /// The files; several are read as one.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where to write.
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Say which profile would answer a question, and why.
    Explain(Explain),
    /// Print the JSON Schema of configuration files, for editors.
    Schema,
    /// Read the audit ledger.
    #[command(subcommand)]
    Audit(Audit),
    /// Run again what came into a request, without network, and say whether the same is decided. Ends with 1
    /// when it is not. The settings are environment variables, as those of `serve`.
    Replay(Replay),
    /// Watch a gateway from a terminal: rates, times, queues, breakers.
    Top(Top),
    /// What a gateway has counted, and how it is.
    Stats(Stats),
    /// What became of one request, at a gateway.
    Trace(Trace),
    /// What waits for an operator, and the operator's word.
    Approvals(Approvals),
    /// The configuration of a gateway that serves: another one, an earlier one, what they say.
    Config(Config),
    /// Run only the demo upstream, on a free port of the loopback interface.
    Demo {
        /// The port; 0 takes a free one.
        #[arg(long, default_value_t = 0)]
        port: u16,
    },
}

#[derive(Debug, Subcommand)]
enum Daemon {
    /// Start it and wait until it listens. One that runs already is left alone.
    Start {
        /// What it is called.
        #[arg(long)]
        name: String,
        /// Where it writes its log.
        #[arg(long, value_name = "FILE")]
        log: Option<PathBuf>,
        /// A configuration file; several are read as one. Without it, the one of `minigate onboard`.
        #[arg(long, value_name = "FILE")]
        config: Vec<PathBuf>,
        /// A file of settings, `NAME=VALUE`; those of the environment win.
        #[arg(long, value_name = "FILE")]
        env_file: Option<PathBuf>,
        /// The wasm module; by default `minigate.wasm` beside this program.
        #[arg(long, value_name = "FILE")]
        module: Option<PathBuf>,
    },
    /// Ask it to end, and wait until it has answered what it was asked.
    Stop {
        /// What it is called.
        #[arg(long)]
        name: String,
    },
    /// Say whether it runs: 0 it does, 1 it died, 3 it does not.
    Status {
        /// What it is called.
        #[arg(long)]
        name: String,
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

impl Daemon {
    fn run(self) -> ExitCode {
        match self {
            Self::Start { name, log, config, env_file, module } => {
                daemon::start(&name, Start { log, config, env_file, module })
            }
            Self::Stop { name } => daemon::stop(&name),
            Self::Status { name, json } => daemon::status(&name, json),
        }
    }
}

#[derive(Debug, Subcommand)]
enum Audit {
    /// Find whether a line was changed, removed or moved. Ends with 1 when one was.
    Verify {
        /// Files of JSON lines in their order, in place of the database.
        #[arg(value_name = "FILE")]
        files: Vec<PathBuf>,
        /// Where the database is; by default where the host keeps its data.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
        /// A head that the log told once: that line must still be there. May be repeated.
        #[arg(long, value_name = "NUMBER:HASH", value_parser = head)]
        head: Vec<Head>,
    },
    /// Say what was decided in a request.
    Show {
        /// Its trace id or its request id.
        id: String,
        /// As `verify --data`.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
    /// Write lines to the standard output.
    Export {
        /// The first line's number.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// The last line's number.
        #[arg(long, default_value_t = u64::MAX)]
        to: u64,
        /// As `verify --data`.
        #[arg(long, value_name = "DIR")]
        data: Option<PathBuf>,
    },
}

impl Audit {
    fn run(&self) -> ExitCode {
        match self {
            Self::Verify { files, data, head } => audit::verify(files, data.as_deref(), head),
            Self::Show { id, data } => audit::show(id, data.as_deref()),
            Self::Export { from, to, data } => audit::export(*from, *to, data.as_deref()),
        }
    }
}

#[derive(Debug, Args)]
struct Replay {
    /// A trace id or a request id.
    id: String,
    /// Where the host keeps its data.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// With this configuration: what would differ. Several files are read as one.
    #[arg(long, value_name = "FILE")]
    config: Vec<PathBuf>,
    /// As if this profile answered every intent: what would differ.
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
    /// Ask the model again. An agent may act again.
    #[arg(long)]
    live: bool,
}

impl Replay {
    fn run(self) -> ExitCode {
        let Self { id, data, config, profile, live } = self;
        replay::replay(&id, data.as_deref(), &Changes { config, profile, live })
    }
}

/// A head as the log writes it.
fn head(text: &str) -> Result<Head, String> {
    Head::parse(text).ok_or_else(|| "as the log's `audit_head` says it: NUMBER:HASH".to_owned())
}

#[derive(Debug, Args)]
struct Explain {
    /// The files; several are read as one.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// What is asked for.
    #[arg(long)]
    intent: String,
    /// Who asks: the subject that logs and answers to logins show. It decides in rollouts.
    #[arg(long, default_value = "")]
    user: String,
    /// The person's role.
    #[arg(long, default_value = "")]
    role: String,
    /// Where.
    #[arg(long, value_name = "dev|staging|prod", value_parser = environment, default_value = "prod")]
    environment: Environment,
    /// A header of the request; only `X-OpenClaw-Profile: NAME` decides anything.
    #[arg(long, value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// How far a rollout is, in percent; its first step without it.
    #[arg(long)]
    percent: Option<f64>,
}

impl Explain {
    fn run(&self) -> ExitCode {
        let pairs = self.header.iter().filter_map(|header| header.split_once(':'));
        let mut wanted = pairs.filter(|(name, _)| name.trim().eq_ignore_ascii_case("x-openclaw-profile"));
        let question = Question {
            intent: &self.intent,
            user: &self.user,
            role: &self.role,
            environment: self.environment,
            wanted: wanted.next().map(|(_, value)| value.trim()),
            percent: self.percent,
        };
        configuration::explain(&self.files, &question)
    }
}

/// An environment by its name.
fn environment(name: &str) -> Result<Environment, String> {
    let all = [Environment::Dev, Environment::Staging, Environment::Prod];
    all.into_iter().find(|known| known.name() == name).ok_or_else(|| "one of dev, staging, prod".to_owned())
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Serve { module, config, demo, log, pid_file } => {
            let ready = pid_file
                .map_or(Ok(()), |path| daemon::claim(&path))
                .and_then(|()| log.map_or(Ok(()), |path| journal::log_to(&path)));
            ready.and_then(|()| server::serve(module, config, demo))
        }
        Command::Onboard(onboard) => return onboard.run(),
        Command::Daemon(daemon) => return daemon.run(),
        Command::Send(send) => return send.run(),
        Command::Ready(ready) => return ready.run(),
        Command::Doctor(doctor) => return doctor.run(),
        Command::Demo { port } => demo::run(port),
        Command::Check { files, environment, strict } => {
            return configuration::check(&files, environment, strict);
        }
        Command::Compile { files, output } => return configuration::compile(&files, &output),
        Command::Explain(explain) => return explain.run(),
        Command::Audit(audit) => return audit.run(),
        Command::Replay(replay) => return replay.run(),
        Command::Top(top) => return top.run(),
        Command::Stats(stats) => return stats.run(),
        Command::Trace(trace) => return trace.run(),
        Command::Approvals(approvals) => return approvals.run(),
        Command::Config(config) => return config.run(),
        Command::Schema => return configuration::schema(),
    };
    daemon::release();
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            journal::event("error", "refused_to_start", &[("problem", problem.into())]);
            ExitCode::FAILURE
        }
    }
}
