//! The line at each key: of one process, one operation at a time is at a key.
//!
//! Compare-and-set lets one of those through that come together, and the others have reduced for
//! nothing. Hosts meet at a key all the same, but not the hundred requests of one host, which all
//! ask for the same upstream's slots.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{Mutex as Line, OwnedMutexGuard};

/// The lines of a process. A key has one for as long as somebody is in it.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines(Arc<Mutex<HashMap<String, Arc<Line<()>>>>>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Line<()>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stands in line; whoever came first is at the key until their turn is dropped.
    pub(super) async fn turn(&self, key: &str) -> Turn {
        let line = Arc::clone(self.lock().entry(key.to_owned()).or_default());
        let mut turn =
            Turn { lines: self.clone(), key: key.to_owned(), line: Arc::clone(&line), at_the_key: None };
        turn.at_the_key = Some(line.lock_owned().await);
        turn
    }
}

/// A place in a line, and then at the key.
#[derive(Debug)]
pub(super) struct Turn {
    lines: Lines,
    key: String,
    line: Arc<Line<()>>,
    at_the_key: Option<OwnedMutexGuard<()>>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.at_the_key = None;
        let mut lines = self.lines.lock();
        // Nobody else holds it but the table, from which it is taken only under this lock.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::pin, task::Context};

    use super::*;

    #[test]
    fn one_is_at_a_key_and_nothing_is_left_of_a_line() {
        let lines = Lines::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let mut poll = |turn: std::pin::Pin<&mut dyn Future<Output = Turn>>| turn.poll(&mut context);
        let first = poll(pin!(lines.turn("a")));
        assert!(first.is_ready());
        assert!(poll(pin!(lines.turn("b"))).is_ready(), "another key");
        {
            let mut second = pin!(lines.turn("a"));
            let mut third = Box::pin(lines.turn("a"));
            assert!(poll(second.as_mut()).is_pending());
            assert!(poll(third.as_mut()).is_pending());
            drop(first);
            assert!(poll(third.as_mut()).is_pending(), "the second came before");
            drop(third);
            assert!(poll(second.as_mut()).is_ready());
        }
        assert!(lines.lock().is_empty());
    }

    #[test]
    fn who_leaves_the_line_holds_up_nobody() {
        let lines = Lines::default();
        let mut context = Context::from_waker(std::task::Waker::noop());
        let first = pin!(lines.turn("a")).poll(&mut context);
        let mut leaves = Box::pin(lines.turn("a"));
        assert!(leaves.as_mut().poll(&mut context).is_pending());
        drop(first);
        drop(leaves);
        assert!(lines.lock().is_empty());
        assert!(pin!(lines.turn("a")).poll(&mut context).is_ready());
    }
}
