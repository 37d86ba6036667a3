//! Which configuration exchanges begin with, and how another one takes its place.
//!
//! A [`Worker`] is everything of one configuration. It is made completely before anybody sees it and never
//! changes: the next exchange takes the newest one, and an exchange that runs holds its own. In KV lies
//! the compiled configuration that all isolates take within a minute; before it stands its number, since KV may
//! give an older value for a while.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use js_sys::Date;
use minigate_core::{
    policy::{Environment, catalog::Catalog},
    seam::{ConfigFile, Problem},
    state::editions,
};
use worker::{Env, kv::KvStore};

use super::{Worker, guard::guarded, js, make};

/// The binding of the KV namespace.
const BINDING: &str = "CONFIG";
/// Under which name the configuration lies there that counts.
const KEY: &str = "catalog";
/// What precedes the number of an edition. A catalog begins with another byte.
const NUMBERED: u8 = b'#';
/// How long KV may give what was there before, in milliseconds: a minute, and as much again.
const STALE: f64 = 120_000.0;

thread_local! {
    static CURRENT: RefCell<Option<Rc<Worker>>> = const { RefCell::new(None) };
    /// A configuration that the next request takes over.
    static NEXT: RefCell<Option<Catalog>> = const { RefCell::new(None) };
    /// The newest first, for turns that were begun with one of them.
    static KEPT: RefCell<Vec<Rc<Worker>>> = const { RefCell::new(Vec::new()) };
    /// The number of the edition in use, and when an operator's request brought one here.
    static NUMBER: Cell<(u64, f64)> = const { Cell::new((0, 0.0)) };
}

fn numbered(number: u64, catalog: &[u8]) -> Vec<u8> {
    [&[NUMBERED], number.to_le_bytes().as_slice(), catalog].concat()
}

/// The number, 0 where there is none, and the catalog.
fn split(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first().and_then(|(mark, rest)| Some((mark, rest.split_first_chunk::<8>()?))) {
        Some((&NUMBERED, (number, catalog))) => (u64::from_le_bytes(*number), catalog),
        _ => (0, bytes),
    }
}

/// A compiled configuration for the next request, or nothing. Whether it can be read; if not, what
/// was there stays.
pub(super) fn offer(bytes: &[u8]) -> bool {
    let (number, bytes) = split(bytes);
    let (newest, at) = NUMBER.get();
    // One without a number came with the deployment, or an operator wrote it there by hand.
    let stale = number > 0 || Date::now() - at < STALE;
    if number < newest && stale {
        return true;
    }
    let read = if bytes.is_empty() { Some(Catalog::default()) } else { Catalog::decode(bytes) };
    let Some(catalog) = read else { return false };
    NUMBER.set((number, at));
    let known = current().is_some_and(|worker| worker.policy.catalog == catalog);
    NEXT.with(|next| next.replace((!known).then_some(catalog)));
    true
}

fn current() -> Option<Rc<Worker>> {
    CURRENT.with(|worker| worker.borrow().clone())
}

fn begin_with(worker: &Rc<Worker>) {
    remember(worker);
    CURRENT.set(Some(Rc::clone(worker)));
}

fn remember(worker: &Rc<Worker>) {
    KEPT.with_borrow_mut(|kept| {
        kept.retain(|other| other.policy.catalog.version != worker.policy.catalog.version);
        kept.insert(0, Rc::clone(worker));
        kept.truncate(editions::MOST);
    });
}

/// What serves, with the newest configuration that can be used. `None` while there is none.
pub(super) fn worker(env: &Env) -> Option<Rc<Worker>> {
    let (next, current) = (NEXT.take(), current());
    if next.is_none() && current.is_some() {
        return current;
    }
    let catalog = next.unwrap_or_default();
    match make(env, catalog.clone()) {
        Ok(made) => {
            let made = Rc::new(made);
            begin_with(&made);
            Some(made)
        }
        Err(problems) => {
            let event = if current.is_some() { "configuration_refused" } else { "refused_to_start" };
            for problem in problems {
                worker::console_error!("{}", js::log_line(event, &problem));
            }
            if current.is_none() {
                NEXT.set(Some(catalog));
            }
            current
        }
    }
}

/// Checks a configuration completely; gives it ready to serve with when it can be taken.
pub(super) fn check(
    env: &Env,
    environment: Environment,
    files: &[ConfigFile],
) -> (Option<Worker>, Vec<Problem>) {
    let Ok((catalog, mut problems)) = guarded(|| minigate_config::check_files(files, environment)) else {
        return (None, vec![Problem::general("a defect of the check".to_owned())]);
    };
    let Some(catalog) = catalog else { return (None, problems) };
    let made = match kv(env) {
        Some(_) => make(env, catalog),
        None => Err(vec![format!("no KV namespace is bound as {BINDING}: nowhere could isolates find it")]),
    };
    match made {
        Ok(worker) => (Some(worker), problems),
        Err(found) => {
            problems.extend(found.into_iter().map(Problem::general));
            (None, problems)
        }
    }
}

/// Takes an edition, unless the one in use is newer: into KV for all isolates, and at once in this one.
/// Whether it was.
pub(super) async fn take(env: Env, environment: Environment, number: u64, files: Vec<ConfigFile>) -> bool {
    if number < NUMBER.get().0 {
        return true;
    }
    let (Some(made), Some(kv)) = (check(&env, environment, &files).0, kv(&env)) else { return false };
    let catalog = made.policy.catalog.encode();
    let version = version_key(&made.policy.catalog.version);
    // Who goes on with a turn of this version must find it once others may have begun one.
    if !put(&kv, &version, &catalog).await || !put(&kv, KEY, &numbered(number, &catalog)).await {
        return false;
    }
    if number >= NUMBER.get().0 {
        NUMBER.set((number, Date::now()));
        NEXT.set(None);
        begin_with(&Rc::new(made));
    }
    true
}

/// A configuration that was in use, by its version.
pub(super) async fn find(env: Env, version: String) -> Option<Rc<Worker>> {
    let known =
        KEPT.with_borrow(|kept| kept.iter().find(|kept| kept.policy.catalog.version == version).cloned());
    if known.is_some() {
        return known;
    }
    let bytes = kv(&env)?.get(&version_key(&version)).bytes().await.ok()??;
    let found = Rc::new(make(&env, Catalog::decode(&bytes)?).ok()?);
    remember(&found);
    Some(found)
}

fn version_key(version: &str) -> String {
    format!("{KEY}-{version}")
}

fn kv(env: &Env) -> Option<KvStore> {
    env.kv(BINDING).ok()
}

async fn put(kv: &KvStore, key: &str, bytes: &[u8]) -> bool {
    let Ok(put) = kv.put_bytes(key, bytes) else { return false };
    let put = put.execute().await;
    if let Err(error) = &put {
        worker::console_error!("{}", js::log_line("configuration_not_kept", &error.to_string()));
    }
    put.is_ok()
}
