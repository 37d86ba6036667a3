//! What the audit ledger keeps, and for how long.

use super::{ContentMode, Policy};

impl Policy {
    /// Whether there is a ledger.
    pub fn audits(&self) -> bool {
        self.catalog.audit.enabled
    }

    /// Whether redacted texts are in it beside their hashes and sizes.
    pub fn audits_content(&self) -> bool {
        self.catalog.audit.has_content(self.environment)
    }

    /// Whether a host may keep what came into an exchange, so that it can be run again: texts as they were
    /// sent. Where WeChat checks texts it may not: people's openids and this app's access token come in too.
    pub fn keeps_for_replay(&self) -> bool {
        self.audits() && self.audits_content() && self.content.mode == ContentMode::Off
    }

    /// How long its records are kept, in milliseconds.
    pub fn audit_keep_ms(&self) -> u64 {
        u64::from(self.catalog.audit.keep_s) * 1_000
    }
}
