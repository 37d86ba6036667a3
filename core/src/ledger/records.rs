//! The records that are about the ledger itself. All others are made by exchanges.

use serde_json::json;

use super::Head;
use crate::{
    VERSION,
    exchange::timestamp,
    policy::{Policy, auth::hex},
};

/// A host begins to write. The first of a chain names it, so that no other chain passes for it.
pub fn began(policy: &Policy, chain: Option<[u8; 16]>, unix_ms: u64) -> String {
    let mut record = json!({
        "kind": "began",
        "at": timestamp(unix_ms),
        "host": policy.host.name,
        "env": policy.environment.name(),
        "program": VERSION,
        "module": policy.host.module_sha256,
        "config": policy.catalog.version,
    });
    if let Some(id) = chain {
        record["chain"] = hex(&id).into();
    }
    record.to_string()
}

/// The lines up to this one have had their time and are deleted. Without this record their
/// absence is a fault.
pub fn retained(through: &Head, unix_ms: u64) -> String {
    let (kind, at) = (RETAINED, timestamp(unix_ms));
    json!({"kind": kind, "at": at, "through": through.to_string()}).to_string()
}

/// The `kind` of [`retained`].
const RETAINED: &str = "retained";

/// Up to where a record says that lines were deleted, when it is one of those.
pub(super) fn deleted_through(record: &str) -> Option<Head> {
    // Most are others: those are not parsed.
    if !record.contains(RETAINED) {
        return None;
    }
    let record: serde_json::Value = serde_json::from_str(record).ok()?;
    if record["kind"] != RETAINED {
        return None;
    }
    Head::parse(record["through"].as_str()?)
}

/// So many records could not be written: the queue was full, or the disk failed.
pub fn lost(count: u64, unix_ms: u64) -> String {
    json!({"kind": "lost", "at": timestamp(unix_ms), "count": count}).to_string()
}
