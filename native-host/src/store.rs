//! The store: one contract, two engines.
//!
//! * [`Embedded`](embedded::Embedded): SQLite beside the program, for one host.
//! * [`Redis`](redis::Redis): a Redis or Valkey server, for several hosts.
//!
//! The contract: an operation is applied to one key by the reducer in the module, and no other
//! operation on that key comes between reading and writing; what was written is there until
//! its time is over; a ticket that a reducer wakes is woken on whichever host waits for it.
//! What the bytes mean is not known here.

mod embedded;
mod listeners;
mod redis;

use std::{cell::RefCell, path::Path};

use minigate_core::{
    seam::ReduceReply,
    state::{Op, Outcome},
};

use crate::{clock, journal, module::Core};
pub(crate) use listeners::{Listener, Listeners};

/// The way to the store. One for each thread.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    engine: Engine,
    listeners: Listeners,
}

#[derive(Clone, Debug)]
enum Engine {
    Embedded(embedded::Embedded),
    Redis(redis::Redis),
}

/// What became of a list of operations.
pub(crate) type Applied = Option<Vec<Outcome>>;

impl Store {
    /// Opens the engine that the URL names; without one, the embedded one in that directory.
    ///
    /// # Errors
    /// When the file cannot be opened or written, or the URL is none. A server that cannot be
    /// reached now is none: it may come back.
    pub(crate) fn open(url: Option<&str>, directory: &Path) -> Result<Self, String> {
        let listeners = Listeners::default();
        let engine = match url {
            Some(url) => Engine::Redis(redis::Redis::open(url, listeners.clone())?),
            None => Engine::Embedded(embedded::Embedded::open(directory)?),
        };
        Ok(Self { engine, listeners })
    }

    /// A handle for another thread.
    pub(crate) fn separate(&self) -> Self {
        let engine = match &self.engine {
            Engine::Embedded(engine) => Engine::Embedded(engine.clone()),
            Engine::Redis(engine) => Engine::Redis(engine.separate()),
        };
        Self { engine, listeners: self.listeners.clone() }
    }

    /// Begins to listen for the ticket that an operation of the list asks for, if one does. To
    /// be called before the list is applied.
    pub(crate) fn listen(&self, ops: &[(String, Op)]) -> Option<Listener> {
        let ticket = ops.iter().find_map(|(_, op)| op.ticket())?;
        Some(self.listeners.listen(ticket))
    }

    /// Applies operations in order, up to the first whose outcome stops the list. `None` when
    /// the store failed. With the embedded engine and relaxed operations it never waits.
    pub(crate) async fn apply(&self, core: &RefCell<Core>, ops: Vec<(String, Op)>) -> Applied {
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

    /// Writes what has not been written. To be called when nothing else is applied any more.
    pub(crate) fn close(&self) {
        if let Engine::Embedded(engine) = &self.engine {
            engine.close();
        }
    }
}

/// One call of the reducer in the module; a failure of it is the store's.
fn reduce(core: &RefCell<Core>, op: Op, old: Option<&[u8]>) -> Option<ReduceReply> {
    match core.borrow_mut().reduce(op, old, clock::unix_ms()) {
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
