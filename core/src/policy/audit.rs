//! What the audit ledger keeps, and for how long.

use super::{Environment, Policy};

/// Milliseconds for which records are kept: half a year.
const KEEP: u64 = 180 * 86_400_000;

impl Policy {
    /// Whether there is a ledger.
    pub fn audits(&self) -> bool {
        true
    }

    /// Whether redacted texts are in it beside their hashes and sizes: on a developer's machine.
    pub fn audits_content(&self) -> bool {
        self.environment == Environment::Dev
    }

    /// How long its records are kept, in milliseconds.
    pub fn audit_keep_ms(&self) -> u64 {
        KEEP
    }
}
