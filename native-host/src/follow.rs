//! Follows the configuration: its file, SIGHUP, and what other hosts and operators took.
//!
//! What is in use is said by the store: the newest [edition](minigate_core::state::editions). A file
//! becomes one when it has changed, and an operator's request makes one; each host looks into the store
//! every [`LOOK`], so that one that is taken at one host reaches the others.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use minigate_core::{
    exchange::{self, Exchange},
    seam::{ConfigFile, Output, Problem},
    state::{
        Op, Outcome,
        editions::{Edition, FILE, KEY},
    },
};
use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode, ModifyKind},
};
use serde_json::json;
use tokio::{
    signal::unix::Signal,
    sync::mpsc,
    time::{MissedTickBehavior, interval, sleep},
};

use crate::{clock, configuration, journal, live::Live, module::Core, store::Store};

/// How often the store is asked for a newer one.
const LOOK: Duration = Duration::from_secs(2);
/// What is written within this time is one change.
const TOGETHER: Duration = Duration::from_millis(50);

/// What follows, on a runtime of its own.
pub(crate) struct Follower {
    live: Arc<Live>,
    store: Store,
    core: RefCell<Core>,
    /// The configuration's files; none when the operator has none.
    paths: Vec<PathBuf>,
    /// The version that was last found in them.
    seen: Option<String>,
    /// What the host began with, until the store has it. A file that has changed since was not checked yet.
    start: Vec<ConfigFile>,
    /// What the host found at its start is in the store.
    begun: bool,
    /// The store has not answered when a file had changed.
    again: bool,
}

impl Follower {
    /// `files` are those that the configuration in use was made of.
    pub(crate) fn new(live: Arc<Live>, store: Store, paths: Vec<PathBuf>, files: Vec<ConfigFile>) -> Self {
        let current = live.current();
        let core = RefCell::new(Core::new(live.code.clone(), &current.policy));
        let seen = (!paths.is_empty()).then(|| current.version().to_owned());
        Self { live, store, core, paths, seen, start: files, begun: false, again: false }
    }

    /// At the start: what the file says counts if it is another one than at the last start, else what
    /// was taken since.
    pub(crate) async fn begin(&mut self) {
        let ops = if self.start.is_empty() {
            vec![(KEY.to_owned(), Op::Editions)]
        } else {
            exchange::adopted_from_file(&configuration::version(&self.start), &self.start, true)
        };
        self.begun = self.follow(ops).await;
    }

    /// For ever; to be dropped when the host stops.
    pub(crate) async fn run(mut self, mut hangup: Signal) {
        let (tell, mut changed) = mpsc::channel(1);
        let _watcher = self.watch(tell);
        // What was written before the folders were watched.
        self.read_again(false).await;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = hangup.recv() => self.read_again(true).await,
                Some(()) = changed.recv() => {
                    sleep(TOGETHER).await;
                    while changed.try_recv().is_ok() {}
                    self.read_again(false).await;
                }
                _ = looks.tick() => {
                    if self.again {
                        self.read_again(true).await;
                    } else if self.begun {
                        self.follow(vec![(KEY.to_owned(), Op::Editions)]).await;
                    } else {
                        self.begin().await;
                    }
                }
            }
        }
    }

    /// Watches the folders of the files: editors put another file in the place of one, and Kubernetes
    /// another folder behind a link.
    fn watch(&self, tell: mpsc::Sender<()>) -> Option<RecommendedWatcher> {
        let mut folders: Vec<PathBuf> = self.paths.iter().map(|path| folder(path)).collect();
        folders.sort();
        folders.dedup();
        let names: Vec<_> =
            self.paths.iter().filter_map(|path| path.file_name().map(ToOwned::to_owned)).collect();
        let ours = move |path: &PathBuf| {
            let name = path.file_name();
            name.is_some_and(|name| {
                names.iter().any(|ours| ours == name) || name.to_string_lossy().starts_with("..")
            })
        };
        if folders.is_empty() {
            return None;
        }
        let told = move |event: notify::Result<notify::Event>| {
            if event
                .is_ok_and(|event| event.paths.iter().any(|path| ours(path) && is_whole(event.kind, path)))
            {
                // One that waits stands for all.
                let _ = tell.try_send(());
            }
        };
        let watched = notify::recommended_watcher(told).and_then(|mut watcher| {
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        });
        watched
            .inspect_err(|error| {
                let note = "a change of the configuration's file is not seen; send SIGHUP after it";
                journal::event(
                    "warn",
                    "configuration_not_watched",
                    &[("problem", error.to_string().into()), ("note", note.into())],
                );
            })
            .ok()
    }

    /// Takes the files if they have changed, or if somebody says so.
    async fn read_again(&mut self, asked: bool) {
        self.again = false;
        if self.paths.is_empty() {
            return;
        }
        let before = self.live.current();
        let files = match configuration::files(&self.paths) {
            Ok(files) => files,
            Err(problem) => return refused(&trace(), &[], &problem),
        };
        let version = configuration::version(&files);
        if !asked && self.seen.as_deref() == Some(&version) {
            return;
        }
        self.seen = Some(version.clone());
        // What is in use was checked. That the file says it too must be known at the next start.
        if before.version() != version {
            let (live, checked) = (Arc::clone(&self.live), files.clone());
            let found = tokio::task::spawn_blocking(move || live.check(&checked)).await;
            let Ok((configured, problems)) = found else { return };
            if configured.is_none() {
                return refused(&trace(), &problems, "the file has mistakes; what was there stays");
            }
        }
        let stored = self.follow(exchange::adopted_from_file(&version, &files, false)).await;
        self.begun |= stored;
        self.again = !stored;
    }

    /// Applies operations, the last of which gives the editions, and takes the newest one. Whether the
    /// store has answered.
    async fn follow(&self, ops: Vec<(String, Op)>) -> bool {
        let outcomes = self.store.apply(&self.core, ops).await.unwrap_or_default();
        let Some(Outcome::Editions { editions, forgotten }) = outcomes.last() else { return false };
        for old in forgotten {
            let forget = exchange::texts_of(old).into_iter().map(|(key, _)| (key, Op::Forget));
            self.store.apply(&self.core, forget.collect()).await;
        }
        if let Some(newest) = editions.last() {
            self.take(newest).await;
        }
        true
    }

    /// Takes an edition, if it is newer than what is in use.
    async fn take(&self, edition: &Edition) {
        let before = self.live.current();
        if edition.number <= self.live.number() {
            return;
        }
        if edition.version == before.version() {
            return self.live.pass_over(edition.number);
        }
        let Some(files) = texts(&self.store, &self.core, edition).await else { return };
        let (live, number) = (Arc::clone(&self.live), edition.number);
        let taking = tokio::task::spawn_blocking(move || (live.take(number, &files), files));
        let Ok((taken, files)) = taking.await else { return };
        if !taken {
            let (live, version) = (Arc::clone(&self.live), &edition.version);
            let (_, problems) = live.check(&files);
            // Not again with each look.
            self.live.pass_over(edition.number);
            return refused(
                &trace(),
                &problems,
                &format!("{version} cannot be used by this host; what was there stays"),
            );
        }
        let after = self.live.current();
        // That the ledger is switched off is the last thing that it is told.
        let writes = if after.policy.audits() { &after } else { &before };
        let (trace, record) = Exchange::configured(
            &writes.policy,
            (before.version(), after.version()),
            &edition.by,
            clock::Clock::start().moment(),
        );
        if edition.by == FILE
            && let (Some(ledger), Some(Output::Audit { record })) = (&writes.ledger, record)
        {
            ledger.add(record);
        }
        journal::event(
            "info",
            "configuration_taken",
            &[
                ("traceId", trace.into()),
                ("from", before.version().into()),
                ("config", after.version().into()),
                ("by", edition.by.as_str().into()),
            ],
        );
    }
}

/// The texts of a version that is remembered.
pub(crate) async fn find(store: &Store, core: &RefCell<Core>, version: &str) -> Option<Vec<ConfigFile>> {
    let outcomes = store.apply(core, vec![(KEY.to_owned(), Op::Editions)]).await?;
    let Some(Outcome::Editions { editions, .. }) = outcomes.first() else { return None };
    texts(store, core, editions.iter().find(|edition| edition.version == version)?).await
}

/// The texts of an edition, out of the store.
async fn texts(store: &Store, core: &RefCell<Core>, edition: &Edition) -> Option<Vec<ConfigFile>> {
    exchange::files_of(&store.apply(core, exchange::texts_of(edition)).await?)
}

/// Whether a file may be whole after such an event. Linux says when a file is closed that was written:
/// what is in it before is half of it.
fn is_whole(kind: EventKind, path: &Path) -> bool {
    match kind {
        // A file that is made is empty, and closed later; a link, as Kubernetes makes them, is whole.
        EventKind::Create(_) => !cfg!(target_os = "linux") || path.is_symlink(),
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        EventKind::Modify(ModifyKind::Data(_)) => !cfg!(target_os = "linux"),
        // A link or another file has been put there.
        _ => true,
    }
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// The trace of a change that nobody asked for.
fn trace() -> String {
    clock::entropy().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Says that a configuration was not taken, and why, line by line.
fn refused(trace: &str, problems: &[Problem], why: &str) {
    let shown = |problem: &Problem| {
        let Problem { file, line, column, message, help, .. } = problem;
        json!({"place": format!("{file}:{line}:{column}"), "problem": message, "help": help})
    };
    let diagnostics: Vec<_> = problems.iter().filter(|problem| problem.error).map(shown).collect();
    journal::event(
        "error",
        "configuration_refused",
        &[
            ("code", "configuration_invalid".into()),
            ("traceId", trace.into()),
            ("problem", why.into()),
            ("diagnostics", diagnostics.into()),
        ],
    );
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use notify::event::{CreateKind, RenameMode};

    use super::*;

    #[test]
    fn a_file_is_read_when_it_may_be_whole() {
        let folder = std::env::temp_dir().join(format!("minigate-follow-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let (file, link) = (folder.join("file.yaml"), folder.join("link.yaml"));
        fs::write(&file, "profiles: {}\n").expect("a file");
        symlink(&file, &link).expect("a link");
        let created = EventKind::Create(CreateKind::File);
        assert_eq!(is_whole(created, &file), !cfg!(target_os = "linux"), "nothing is in it yet");
        assert!(is_whole(created, &link));
        assert!(is_whole(EventKind::Access(AccessKind::Close(AccessMode::Write)), &file));
        assert!(is_whole(EventKind::Modify(ModifyKind::Name(RenameMode::To)), &file));
        assert!(!is_whole(EventKind::Access(AccessKind::Close(AccessMode::Read)), &file));
        let _ = fs::remove_dir_all(folder);
    }
}
