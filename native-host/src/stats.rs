//! What the threads have counted, and how the process is.
//!
//! Each thread adds up its own requests; nobody is waited for on the way of a request. Only when
//! somebody asks are the threads asked, by the channel on which they are told other things.

use std::{cell::RefCell, fs, sync::Arc};

use minigate_core::measure::{Process, Sample, Totals};
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use crate::{clock, driver::Told, journal, otlp, stream_mode};

/// One thread's counts, and its way to those of the others.
#[derive(Debug)]
pub(crate) struct Stats {
    totals: RefCell<Totals>,
    /// All threads, this one too.
    threads: Arc<[UnboundedSender<Told>]>,
    traces: Option<otlp::Traces>,
    started_ms: u64,
}

impl Stats {
    pub(crate) fn new(
        threads: Arc<[UnboundedSender<Told>]>,
        traces: Option<otlp::Traces>,
        started_ms: u64,
    ) -> Self {
        Self { totals: RefCell::default(), threads, traces, started_ms }
    }

    /// Counts a request.
    pub(crate) fn absorb(&self, sample: Box<Sample>) {
        self.totals.borrow_mut().absorb(&sample, clock::unix_ms());
        if let Some(traces) = &self.traces {
            traces.give(sample);
        }
    }

    /// This thread's counts.
    pub(crate) fn own(&self) -> Totals {
        self.totals.borrow().clone()
    }

    /// All threads' counts. A thread that has ended serves nobody any more, and its counts are lost.
    pub(crate) async fn all(&self) -> Totals {
        let answers: Vec<_> = self.threads.iter().filter_map(ask).collect();
        let mut sum = Totals::default();
        for answer in answers {
            if let Ok(totals) = answer.await {
                sum.merge(&totals);
            }
        }
        sum
    }

    /// How the process is.
    pub(crate) fn process(&self) -> Process {
        Process {
            started_ms: Some(self.started_ms),
            silent_ms: Some(journal::silent_ms()),
            unwritten_ms: Some(journal::unwritten_ms()),
            lines_dropped: Some(journal::dropped()),
            cpu_ms: cpu_ms(),
            memory_bytes: memory_bytes(),
            sockets: stream_mode::sockets(),
        }
    }
}

fn ask(thread: &UnboundedSender<Told>) -> Option<oneshot::Receiver<Totals>> {
    let (answer, answered) = oneshot::channel();
    thread.send(Told::Totals(answer)).ok().map(|()| answered)
}

/// User and system time, which Linux counts in hundredths of a second (proc(5): fields 14 and 15).
fn cpu_ms() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name and may have spaces; it ends at the last parenthesis.
    let fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let ticks: Vec<u64> = fields.take(2).filter_map(|field| field.parse().ok()).collect();
    (ticks.len() == 2).then(|| ticks.iter().sum::<u64>() * 10)
}

fn memory_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_seen() {
        let busy = (0..20_000_000_u64).fold(0, |sum: u64, n| sum.wrapping_mul(31).wrapping_add(n));
        assert!(busy != 1 && cpu_ms().is_some_and(|ms| ms < 3_600_000));
        assert!(memory_bytes().is_some_and(|bytes| bytes > 1_000_000));
    }
}
