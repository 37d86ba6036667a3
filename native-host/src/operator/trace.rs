//! The story of a request.

use std::fmt::Write as _;

use serde_json::Value;

use super::{stats::list, word};
use crate::audit;

/// Its records in order, then the turn that it left, and what its person said of it.
pub(super) fn story(found: &Value) -> String {
    let records: Vec<String> = list(&found["records"]).map(audit::story).collect();
    let mut out = records.join("\n");
    let turn = &found["turn"];
    if turn.is_object() {
        let [id, state, since] = [&turn["requestId"], &turn["state"], &turn["since"]].map(word);
        let _ = writeln!(out, "\nturn {id}: {state}, since {since}");
        if turn["approval"].is_object() {
            let [id, tool] = [&turn["approval"]["approvalId"], &turn["approval"]["tool"]].map(word);
            let _ = writeln!(out, "  waits for a person: {tool}, {id}");
        }
    }
    for said in list(&found["feedback"]) {
        let [at, rating, comment] = [&said["at"], &said["rating"], &said["comment"]].map(word);
        let _ = writeln!(out, "\nfeedback {at}: {rating}  {comment}");
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_story_has_its_records_the_turn_and_the_feedback() {
        let text = story(&json!({
            "records": [{
                "kind": "turn", "at": "T", "status": 200,
                "decisions": [{"what": "auth", "outcome": "passed", "caller": "key"}],
            }],
            "turn": {"requestId": "req_1", "state": "done", "since": "T", "approval": null},
            "feedback": [{"at": "T", "rating": "down"}],
        }));
        for part in ["T turn 200", "  auth: ", "turn req_1: done, since T", "feedback T: down"] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }
}
