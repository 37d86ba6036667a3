//! The store: one contract, two engines.
//!
//! * [`Embedded`](embedded::Embedded): SQLite beside the program, for one host.
//! * [`Redis`](redis::Redis): a Redis or Valkey server, for several hosts.
//!
//! The contract: an operation is applied to one key by the reducer in the module, and no other
//! operation on that key comes between reading and writing; what was written is there until
//! its time is over; a ticket that a reducer wakes is woken on whichever host waits for it; an
//! alarm that a reducer sets goes off on one of the hosts, at least once, and again after 15 s for as
//! long as no operation on its key says another.
//! What the bytes mean is not known here. The suite `store` of `cargo xtask test` holds these two
//! and the edge's Durable Objects to it.

mod alarms;
mod embedded;
mod lines;
mod listeners;
mod redis;

use std::{cell::RefCell, fmt, path::Path, sync::Arc};

use minigate_core::{
    seam::ReduceReply,
    state::{Op, Outcome},
};

use crate::{clock, journal, module::Core};
pub use listeners::Listener;
pub(crate) use listeners::Listeners;

/// The way to the store. One for each thread.
#[derive(Clone, Debug)]
pub struct Store {
    engine: Engine,
    listeners: Listeners,
}

#[derive(Clone, Debug)]
enum Engine {
    Embedded(embedded::Embedded),
    Redis(redis::Redis),
}

/// The wall's clock, in milliseconds since 1970.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// A clock of one's own: tests set it.
    pub fn new(unix_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(unix_ms))
    }

    fn unix_ms(&self) -> u64 {
        (self.0)()
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new(clock::unix_ms)
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// What became of a list of operations.
pub type Applied = Option<Vec<Outcome>>;

impl Store {
    /// Opens the engine that the URL names; without one, the embedded one in that directory.
    ///
    /// # Errors
    /// When the file cannot be opened or written, or the URL is none. A server that cannot be
    /// reached now is none: it may come back.
    pub fn open(url: Option<&str>, directory: &Path, clock: Clock) -> Result<Self, String> {
        let listeners = Listeners::default();
        let engine = match url {
            Some(url) => Engine::Redis(redis::Redis::open(url, listeners.clone(), clock)?),
            None => Engine::Embedded(embedded::Embedded::open(directory, clock)?),
        };
        Ok(Self { engine, listeners })
    }

    /// A handle for another thread.
    pub fn separate(&self) -> Self {
        let engine = match &self.engine {
            Engine::Embedded(engine) => Engine::Embedded(engine.clone()),
            Engine::Redis(engine) => Engine::Redis(engine.separate()),
        };
        Self { engine, listeners: self.listeners.clone() }
    }

    /// Begins to listen for the ticket that an operation of the list asks for, if one does. To
    /// be called before the list is applied.
    pub fn listen(&self, ops: &[(String, Op)]) -> Option<Listener> {
        let ticket = ops.iter().find_map(|(_, op)| op.ticket())?;
        Some(self.listeners.listen(ticket))
    }

    /// Applies operations in order, up to the first whose outcome stops the list. `None` when
    /// the store failed. With the embedded engine and relaxed operations it never waits.
    pub async fn apply(&self, core: &RefCell<Core>, ops: Vec<(String, Op)>) -> Applied {
        let mut outcomes = Vec::with_capacity(ops.len());
        for (key, op) in ops {
            let outcome = match &self.engine {
                Engine::Embedded(engine) => {
                    let (outcome, wake) = engine.apply(core, &key, op).await?;
                    self.listeners.wake(&wake);
                    outcome
                }
                // The server tells all hosts, this one too.
                Engine::Redis(engine) => engine.apply(core, &key, op).await?,
            };
            let stops = outcome.stops();
            outcomes.push(outcome);
            if stops {
                break;
            }
        }
        Some(outcomes)
    }

    /// Waits for the next alarm that goes off here, and gives its key. One that is now begins within
    /// milliseconds. Whoever takes it has it alone for 15 s; after that it goes off again, here or on
    /// another host, unless an operation on the key has set another or none. While nobody waits, none
    /// is taken. May be dropped at any time.
    pub async fn alarm(&self) -> String {
        match &self.engine {
            Engine::Embedded(engine) => engine.alarm().await,
            Engine::Redis(engine) => engine.alarm().await,
        }
    }

    /// Writes what has not been written. To be called when nothing else is applied any more.
    pub fn close(&self) {
        if let Engine::Embedded(engine) = &self.engine {
            engine.close();
        }
    }
}

/// One call of the reducer in the module; a failure of it is the store's.
fn reduce(core: &RefCell<Core>, op: Op, old: Option<&[u8]>, unix_ms: u64) -> Option<ReduceReply> {
    match core.borrow_mut().reduce(op, old, unix_ms) {
        Ok(reduced) => Some(reduced),
        Err(broken) => {
            failed(&broken.0);
            None
        }
    }
}

/// One log line about a store that failed.
fn failed(problem: &str) {
    journal::event("error", "store_failed", &[("problem", problem.into())]);
}
