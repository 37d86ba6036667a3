//! Which configuration exchanges begin with, and how another one takes its place.
//!
//! Everything of a configuration is in one value, [`Configured`], which is made completely before anybody
//! sees it and never changes: a thread's next exchange takes the newest one, and an exchange that runs holds its
//! own. So there is no moment at which half of one and half of another is in use.

use std::{
    collections::VecDeque,
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use minigate_core::{
    policy::{self, Policy, Secrets, SettingError, catalog::Catalog},
    seam::{ConfigFile, Problem},
    state::editions,
};
use tokio::sync::watch;

use crate::{
    audit::Ledger,
    module::{Code, Core},
    replay::Recorder,
    settings::{self, Gathered},
    upstream::Addresses,
};

/// A configuration, ready to serve with.
pub(crate) struct Configured {
    pub(crate) policy: Arc<Policy>,
    pub(crate) addresses: Addresses,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) recorder: Option<Recorder>,
}

impl Configured {
    pub(crate) fn version(&self) -> &str {
        &self.policy.catalog.version
    }
}

impl fmt::Debug for Configured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Configured").field("version", &self.version()).finish_non_exhaustive()
    }
}

/// Where a host without `OPENCLAW_GATEWAY_URL` sends its requests.
type Demo = Option<String>;

/// What does not change while the host runs, and the configuration that does.
pub(crate) struct Live {
    pub(crate) code: Code,
    module: PathBuf,
    gathered: Gathered,
    demo: Demo,
    /// The policy of the settings alone.
    base: Policy,
    current: watch::Sender<Arc<Configured>>,
    /// The newest first, for turns that were begun with one of them.
    kept: Mutex<VecDeque<Arc<Configured>>>,
    /// One at a time is made again out of its files: many turns may have been begun with the same.
    pub(crate) finding: tokio::sync::Mutex<()>,
    /// Opened by the first configuration that wants them, and never closed before the end.
    ledger: Mutex<Option<Ledger>>,
    recorder: Mutex<Option<Recorder>>,
    number: Mutex<u64>,
}

impl fmt::Debug for Live {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Live").field("current", &self.current.borrow()).finish_non_exhaustive()
    }
}

impl Live {
    /// Begins with a configuration. `base` is the policy of the settings alone, with this host's facts.
    ///
    /// # Errors
    /// When it cannot be served with, in words for an operator.
    pub(crate) fn new(
        code: Code,
        module: PathBuf,
        gathered: Gathered,
        demo: Demo,
        base: Policy,
        catalog: Catalog,
    ) -> Result<Self, String> {
        let policy = Arc::new(base.clone());
        let addresses = addresses(&gathered, demo.as_deref(), &Catalog::default())?;
        let blank = Configured { policy, addresses, ledger: None, recorder: None };
        let live = Self {
            code,
            module,
            gathered,
            demo,
            base,
            current: watch::Sender::new(Arc::new(blank)),
            kept: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
            ledger: Mutex::default(),
            recorder: Mutex::default(),
            number: Mutex::default(),
        };
        let first = live.make(catalog).map_err(|problems| problems.join("; "))?;
        live.begin_with(first);
        Ok(live)
    }

    /// The configuration in use.
    pub(crate) fn current(&self) -> Arc<Configured> {
        Arc::clone(&self.current.borrow())
    }

    /// Says when another one is taken.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Configured>> {
        self.current.subscribe()
    }

    /// One that was in use, by its version.
    pub(crate) fn kept(&self, version: &str) -> Option<Arc<Configured>> {
        lock(&self.kept).iter().find(|kept| kept.version() == version).map(Arc::clone)
    }

    /// Checks a configuration completely; gives it ready to serve with when it can be taken.
    pub(crate) fn check(&self, files: &[ConfigFile]) -> (Option<Configured>, Vec<Problem>) {
        let (catalog, mut problems) = minigate_config::check_files(files, self.base.environment);
        let Some(catalog) = catalog else { return (None, problems) };
        match self.make(catalog) {
            Ok(configured) => (Some(configured), problems),
            Err(found) => {
                problems.extend(found.into_iter().map(Problem::general));
                (None, problems)
            }
        }
    }

    /// The number of the newest edition that was looked at.
    pub(crate) fn number(&self) -> u64 {
        *lock(&self.number)
    }

    /// Takes an edition, unless a newer one was taken. Whether exchanges begin with it from now on, or
    /// with a newer one.
    pub(crate) fn take(&self, number: u64, files: &[ConfigFile]) -> bool {
        // Held meanwhile: one change at a time.
        let mut newest = lock(&self.number);
        if number <= *newest {
            return true;
        }
        let (Some(configured), _) = self.check(files) else { return false };
        *newest = number;
        if configured.version() != self.current().version() {
            self.begin_with(configured);
        }
        true
    }

    /// An edition is what is in use already, or cannot be used here.
    pub(crate) fn pass_over(&self, number: u64) {
        let mut newest = lock(&self.number);
        *newest = number.max(*newest);
    }

    /// One that is not the newest is in use again, for a turn that was begun with it.
    pub(crate) fn keep(&self, configured: &Arc<Configured>) {
        let mut kept = lock(&self.kept);
        if kept.iter().all(|other| other.version() != configured.version()) {
            // Behind the one that is in use.
            let at = kept.len().min(1);
            kept.insert(at, Arc::clone(configured));
            kept.truncate(editions::MOST);
        }
    }

    fn begin_with(&self, configured: Configured) {
        let configured = Arc::new(configured);
        let mut kept = lock(&self.kept);
        kept.retain(|other| other.version() != configured.version());
        kept.push_front(Arc::clone(&configured));
        kept.truncate(editions::MOST);
        drop(kept);
        self.current.send_replace(configured);
    }

    /// A configuration with the settings and secrets of this host, tried in an instance.
    fn make(&self, catalog: Catalog) -> Result<Configured, Vec<String>> {
        let one = |problem: String| vec![problem];
        let Gathered { settings, secrets } = &self.gathered;
        let mut gathered = Gathered { settings: settings.clone(), secrets: Secrets(secrets.0.clone()) };
        settings::gather_secrets(&catalog.secrets(), &mut gathered.secrets).map_err(one)?;
        let addresses = addresses(&gathered, self.demo.as_deref(), &catalog).map_err(one)?;
        let mut policy = self.base.clone();
        let problems = |errors: Vec<SettingError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        policy.configure(catalog, &gathered.settings, &gathered.secrets).map_err(problems)?;
        Core::new(self.code.clone(), &policy).warm_up().map_err(one)?;
        let (ledger, recorder) = (self.ledger(&policy).map_err(one)?, self.recorder(&policy).map_err(one)?);
        Ok(Configured { policy: Arc::new(policy), addresses, ledger, recorder })
    }

    fn ledger(&self, policy: &Policy) -> Result<Option<Ledger>, String> {
        if !policy.audits() {
            return Ok(None);
        }
        let mut open = lock(&self.ledger);
        if open.is_none() {
            let copy = settings::text("AUDIT_FILE").map(PathBuf::from);
            *open = Some(Ledger::open(&settings::data_directory(), copy, policy)?);
        }
        Ok(open.clone())
    }

    fn recorder(&self, policy: &Policy) -> Result<Option<Recorder>, String> {
        if !policy.keeps_for_replay() {
            return Ok(None);
        }
        let mut open = lock(&self.recorder);
        let directory = settings::data_directory();
        match &*open {
            Some(recorder) => recorder.under(&directory, &policy.catalog).map(Some),
            None => {
                *open = Some(Recorder::open(&directory, &self.module, policy)?);
                Ok(open.clone())
            }
        }
    }

    /// Waits until everything is written. To be called when nothing serves any more.
    pub(crate) fn close(&self) {
        if let Some(ledger) = &*lock(&self.ledger) {
            ledger.close();
        }
        if let Some(recorder) = &*lock(&self.recorder) {
            recorder.close();
        }
    }
}

/// Where everything is, with a configuration.
///
/// # Errors
/// When something of it is no address, or no credential.
pub(crate) fn addresses(
    gathered: &Gathered,
    demo: Option<&str>,
    catalog: &Catalog,
) -> Result<Addresses, String> {
    let url = gathered.settings.get("OPENCLAW_GATEWAY_URL").map(String::as_str).unwrap_or_default();
    let wechat = policy::wechat_url(&gathered.settings);
    let addresses = Addresses::new(demo.unwrap_or(url), wechat, catalog, &gathered.secrets)?;
    addresses.and(policy::dingtalk_urls(&gathered.settings))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
