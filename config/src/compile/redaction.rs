//! What is taken out of texts.

use minigate_core::policy::redact::{Custom, Rules};

use super::section_of;
use crate::{
    diagnostic::{Report, shown},
    yaml::Node,
};

/// Everything that is built in, but for what is switched off, and the operator's own patterns.
pub(super) fn rules(root: &Node, report: &mut Report) -> Rules {
    let Some(node) = root.get("redaction") else { return Rules::all() };
    let is_on = |key: &str| node.get(key).and_then(Node::boolean).unwrap_or(true);
    let mut custom = Vec::new();
    for entry in section_of(node, "custom") {
        let Some(pattern) = entry.node.text() else { continue };
        match Custom::new(&entry.key, pattern) {
            Ok(pattern) => custom.push(pattern),
            Err(error) => report.error(entry.node.place, format!("pattern {}: {error}", shown(&entry.key))),
        }
    }
    Rules {
        mobile: is_on("mobile"),
        id_card: is_on("id_card"),
        bank_card: is_on("bank_card"),
        email: is_on("email"),
        secret: is_on("secret"),
        custom,
    }
}
