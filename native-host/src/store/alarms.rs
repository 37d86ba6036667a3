//! Which keys' alarms go off when: the part of the store that keeps time.
//!
//! A queue in memory, in the order of time, with one place for each key. It is fed by the engine and
//! emptied by the serving threads, each of which takes one alarm when it has room for it. Nothing here
//! knows whether an alarm is still wanted; that is the engine's to say.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::Clock;

/// When an alarm goes off again that nobody has said another word about, in milliseconds.
pub(super) const AGAIN_MS: u64 = 15_000;
/// How often the clock is looked at, however far the next alarm is: somebody may have set it.
pub(super) const LOOK: Duration = Duration::from_secs(1);

/// The queue of a process.
#[derive(Clone, Debug, Default)]
pub(super) struct Alarms(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    queue: Mutex<Queue>,
    /// Somebody should look at the queue again.
    changed: Notify,
    /// Threads that have room.
    waiting: AtomicUsize,
}

#[derive(Debug, Default)]
struct Queue {
    /// Times in milliseconds since 1970.
    by_time: BTreeSet<(u64, Arc<str>)>,
    by_key: HashMap<Arc<str>, u64>,
}

impl Queue {
    fn remove(&mut self, key: &str) {
        if let Some((key, at_ms)) = self.by_key.remove_entry(key) {
            self.by_time.remove(&(at_ms, key));
        }
    }

    fn insert(&mut self, key: &str, at_ms: u64) {
        let key: Arc<str> = key.into();
        self.by_time.insert((at_ms, Arc::clone(&key)));
        self.by_key.insert(key, at_ms);
    }

    fn first(&self) -> Option<u64> {
        self.by_time.first().map(|(at_ms, _)| *at_ms)
    }
}

impl Alarms {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets a key's alarm in place of the one that it has; `None` takes it away.
    pub(super) fn set(&self, key: &str, at_ms: Option<u64>) {
        let mut queue = self.lock();
        queue.remove(key);
        let Some(at_ms) = at_ms else { return };
        let earlier = queue.first().is_none_or(|first| at_ms < first);
        queue.insert(key, at_ms);
        drop(queue);
        if earlier {
            self.0.changed.notify_one();
        }
    }

    /// Sets a key's alarm if it has none.
    pub(super) fn set_if_none(&self, key: &str, at_ms: u64) {
        if !self.lock().by_key.contains_key(key) {
            self.set(key, Some(at_ms));
        }
    }

    /// Waits for the next alarm that goes off, and takes it out. May be dropped at any time.
    pub(super) async fn next(&self, clock: &Clock) -> String {
        let _waiting = Waiting::new(&self.0.waiting);
        loop {
            match self.take(clock.unix_ms()) {
                Ok(key) => return key,
                Err(wait) => drop(tokio::time::timeout(wait, self.0.changed.notified()).await),
            }
        }
    }

    /// The first alarm, if its time has come; else how long to wait for it at most.
    pub(super) fn take(&self, now_ms: u64) -> Result<String, Duration> {
        let mut queue = self.lock();
        let Some(first) = queue.by_time.first().cloned() else { return Err(LOOK) };
        if first.0 > now_ms {
            return Err(LOOK.min(Duration::from_millis(first.0 - now_ms)));
        }
        queue.remove(&first.1);
        if !queue.by_time.is_empty() {
            // Whoever took this one may be busy for a while.
            self.0.changed.notify_one();
        }
        Ok(first.1.to_string())
    }

    /// Whether somebody has room for an alarm.
    pub(super) fn is_awaited(&self) -> bool {
        self.0.waiting.load(Ordering::Relaxed) > 0
    }
}

/// Counts a thread that waits.
struct Waiting<'w>(&'w AtomicUsize);

impl<'w> Waiting<'w> {
    fn new(waiting: &'w AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_go_off_in_the_order_of_time_and_a_key_has_one() {
        let alarms = Alarms::default();
        assert_eq!(alarms.take(9), Err(LOOK));
        for (key, at_ms) in [("a", 5), ("b", 3), ("c", 4), ("b", 6)] {
            alarms.set(key, Some(at_ms));
        }
        alarms.set("c", None);
        alarms.set_if_none("a", 1);
        alarms.set_if_none("d", 1_000_000);
        assert_eq!(alarms.take(4), Err(Duration::from_millis(1)));
        assert_eq!(alarms.take(9), Ok("a".to_owned()));
        assert_eq!(alarms.take(9), Ok("b".to_owned()));
        assert_eq!(alarms.take(9), Err(LOOK), "the clock is looked at all the same");
        assert_eq!(alarms.take(1_000_000), Ok("d".to_owned()));
    }

    #[tokio::test]
    async fn an_earlier_one_wakes_who_waits_for_a_later_one() {
        let alarms = Alarms::default();
        let clock = Clock::new(|| 1_000);
        alarms.set("later", Some(1_900));
        let woken = async {
            let began = std::time::Instant::now();
            (alarms.next(&clock).await, began.elapsed())
        };
        let (_, (key, after)) = tokio::join!(
            async {
                tokio::task::yield_now().await;
                assert!(alarms.is_awaited());
                alarms.set("now", Some(0));
            },
            woken
        );
        assert_eq!(key, "now");
        assert!(after < Duration::from_millis(500), "{after:?}");
        assert!(!alarms.is_awaited());
    }
}
