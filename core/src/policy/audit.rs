//! What the audit ledger keeps, and for how long.

use super::Policy;

impl Policy {
    /// Whether there is a ledger.
    pub fn audits(&self) -> bool {
        self.catalog.audit.enabled
    }

    /// Whether redacted texts are in it beside their hashes and sizes.
    pub fn audits_content(&self) -> bool {
        self.catalog.audit.has_content(self.environment)
    }

    /// How long its records are kept, in milliseconds.
    pub fn audit_keep_ms(&self) -> u64 {
        u64::from(self.catalog.audit.keep_s) * 1_000
    }
}
