//! Time and entropy for the core.

use std::{
    cell::RefCell,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use minigate_core::seam::Moment;

/// The clock of one exchange: starts at the wall's time and runs by the monotonic clock,
/// so that a clock that is set back cannot hold up a deadline.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    started_ms: u64,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), started_ms: unix_ms() }
    }

    /// Now, with fresh entropy.
    pub(crate) fn moment(&self) -> Moment {
        Moment { unix_ms: self.started_ms + elapsed_ms(self.started), entropy: entropy() }
    }

    /// The instant of a time that the core named.
    pub(crate) fn instant(&self, unix_ms: u64) -> Instant {
        self.started + Duration::from_millis(unix_ms.saturating_sub(self.started_ms))
    }
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds since 1970 by the wall's clock.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// How many bytes are taken from the system at once.
const STOCK: usize = 1024;

thread_local! {
    static ENTROPY: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// 128 bits from the system, each used once; a system call for every 64th.
pub(crate) fn entropy() -> [u8; 16] {
    ENTROPY.with_borrow_mut(|stock| {
        if stock.len() < 16 {
            stock.resize(STOCK, 0);
            if getrandom::fill(stock).is_err() {
                // No randomness: ids would repeat. The kernel's source does not fail once it is up.
                std::process::abort();
            }
        }
        let mut taken = [0; 16];
        let rest = stock.len() - 16;
        taken.copy_from_slice(&stock[rest..]);
        stock.truncate(rest);
        taken
    })
}
