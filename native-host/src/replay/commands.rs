//! `minigate replay`: the same again, or what would differ.

use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use minigate_core::policy::{self, HostFacts, Policy, SettingError, catalog::Catalog};

use super::{
    catalog_copy,
    database::{Database, Found},
    live, module_copy,
    rerun::{Came, Rerun, Stepper, Taken},
    show,
};
use crate::{
    configuration,
    module::{Code, Core},
    server,
    settings::{self, Gathered},
    upstream::{Addresses, Upstream},
};

/// What is to be other than it was.
#[derive(Debug, Default)]
pub struct Changes {
    /// The configuration.
    pub config: Vec<PathBuf>,
    /// Who answers.
    pub profile: Option<String>,
    /// The model is asked anew.
    pub live: bool,
}

impl Changes {
    fn none(&self) -> bool {
        self.config.is_empty() && self.profile.is_none() && !self.live
    }
}

/// Runs the exchanges of a request or a trace again; 1 when something differs.
pub fn replay(id: &str, data: Option<&Path>, changes: &Changes) -> ExitCode {
    let directory = data.map_or_else(settings::data_directory, Path::to_path_buf);
    match run(id, &directory, changes) {
        Ok((text, same)) => {
            let _ = io::stdout().write_all(text.as_bytes());
            if same { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(problem) => {
            let _ = writeln!(io::stderr(), "{problem}");
            ExitCode::FAILURE
        }
    }
}

fn run(id: &str, directory: &Path, changes: &Changes) -> Result<(String, bool), String> {
    let found = Database::find(directory, id).map_err(|error| {
        format!("{}: {error}; exchanges are kept where texts may be kept", directory.display())
    })?;
    if found.is_empty() {
        return Err(format!("nothing is kept of `{id}`"));
    }
    let (mut text, mut same) = (String::new(), true);
    for found in &found {
        let (said, is_same) = one(found, directory, changes)?;
        text.push_str(&said);
        same &= is_same;
    }
    Ok((text, same))
}

/// One exchange.
fn one(found: &Found, directory: &Path, changes: &Changes) -> Result<(String, bool), String> {
    let Found { kept, module, catalog } = found;
    let code = Code::load(&module_copy(directory, module), &settings::code_directory())?;
    if code.facts().module_sha256 != *module {
        return Err(format!("the copy of the module {module} was changed"));
    }
    let path = catalog_copy(directory, catalog);
    let bytes = fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let recorded = Catalog::decode(&bytes)
        .ok_or_else(|| format!("{}: of another version of this program", path.display()))?;
    let present = Present::new(&code, recorded.clone())?;
    let before = Rerun::again(present.stepper(&code), kept);
    let mut text = format!(
        "{} trace {}: {} inputs, module {:.12}, configuration {}\n",
        kept.request_id,
        kept.trace_id,
        kept.steps.len(),
        module,
        if catalog.is_empty() { "none" } else { catalog }
    );
    table(&before.came().taken, &mut text);
    if kept.cut {
        text.push_str("  more came than what is kept of it\n");
    }
    let same = verdict(before.came(), &mut text);
    if changes.none() {
        return Ok((text, same));
    }
    let catalog = changed(recorded, changes, &present.policy)?;
    let other = Present::new(&code, catalog)?;
    let after = match changes.live {
        false => Rerun::otherwise(other.stepper(&code), kept, &before, None),
        true => {
            let upstream = other.upstream()?;
            let runtime = server::runtime()?;
            let mut ask = |fetch: &_, body: &[u8]| runtime.block_on(live::ask(&upstream, fetch, body));
            Rerun::otherwise(other.stepper(&code), kept, &before, Some(&mut ask))
        }
    };
    let differs = show::differences(before.came(), after.came());
    match differs.is_empty() {
        true => text.push_str("nothing would differ\n"),
        false => {
            let _ =
                write!(text, "{}\n{differs}", if changes.live { "differs now:" } else { "would differ:" });
        }
    }
    if let Some(stopped) = &after.came().stopped {
        let _ = writeln!(text, "  it goes no further: {stopped}");
    }
    Ok((text, same && differs.is_empty()))
}

fn table(taken: &[Taken], text: &mut String) {
    let began = taken.first().map_or(0, |step| step.now.unix_ms);
    for (at, step) in taken.iter().enumerate() {
        let _ = writeln!(
            text,
            "{:>4} {:>+8} ms  {:<9} {} => {}",
            at + 1,
            step.now.unix_ms.saturating_sub(began),
            if step.same { "same" } else { "DIFFERENT" },
            step.input,
            step.outputs.join(", "),
        );
    }
}

/// Says whether all was the same.
fn verdict(came: &Came, text: &mut String) -> bool {
    let first = came.taken.iter().position(|step| !step.same);
    match (first, &came.stopped) {
        (None, None) => {
            let _ = writeln!(text, "the same: all {} steps", came.taken.len());
        }
        (Some(at), _) => {
            let _ = writeln!(
                text,
                "DIFFERENT from step {}. What was kept was changed, or a setting or a secret is another one now.",
                at + 1
            );
        }
        (None, Some(stopped)) => {
            let _ = writeln!(text, "DIFFERENT: {stopped}");
        }
    }
    first.is_none() && came.stopped.is_none()
}

/// The configuration that is asked about.
fn changed(recorded: Catalog, changes: &Changes, policy: &Policy) -> Result<Catalog, String> {
    let mut catalog = match changes.config.is_empty() {
        true => recorded,
        false => configuration::load(&configuration::files(&changes.config)?, policy.environment)?,
    };
    if let Some(name) = &changes.profile {
        if catalog.profile(name).is_none() {
            return Err(format!("there is no profile `{name}`"));
        }
        for intent in &mut catalog.intents {
            intent.profile.clone_from(name);
            intent.by_role.clear();
            intent.rollout = None;
        }
    }
    Ok(catalog)
}

/// The present settings with some configuration.
struct Present {
    policy: Policy,
    gathered: Gathered,
}

impl Present {
    fn new(code: &Code, catalog: Catalog) -> Result<Self, String> {
        let problems =
            |errors: Vec<SettingError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        let mut gathered = settings::gather()?;
        // Without an address it was the demo upstream, which is there in dev only.
        let demo = !gathered.settings.contains_key("OPENCLAW_GATEWAY_URL");
        let facts = HostFacts::default();
        let mut policy =
            Policy::from_settings(&gathered.settings, &gathered.secrets, facts, demo).map_err(problems)?;
        settings::gather_secrets(&catalog.secrets(), &mut gathered.secrets)?;
        policy.configure(catalog, &gathered.settings, &gathered.secrets).map_err(problems)?;
        policy.host = code.facts();
        Ok(Self { policy, gathered })
    }

    fn stepper(&self, code: &Code) -> Stepper<'static> {
        let mut core = Core::new(code.clone(), &self.policy);
        Box::new(move |now, step, payload| core.step(now, step, &[payload]).map_err(|broken| broken.0))
    }

    fn upstream(&self) -> Result<Upstream, String> {
        let Gathered { settings, secrets } = &self.gathered;
        let url = settings.get("OPENCLAW_GATEWAY_URL").ok_or("OPENCLAW_GATEWAY_URL is not set")?;
        let addresses = Addresses::new(url, policy::wechat_url(settings), &self.policy.catalog, secrets)?;
        let addresses = addresses.and(policy::dingtalk_urls(settings))?;
        Ok(Upstream::new(addresses, Duration::from_millis(self.policy.deadlines.connect.into())))
    }
}
