//! What waits for an operator, and the operator's word.
//!
//! Nobody agrees to what they were not shown: a yes gets the question first, shows it, and gives its grant
//! back.

use std::io::{self, IsTerminal as _};

use serde_json::{Value, json};

use super::{Word, agree, client, client::Gateway, columns, shown, stats::list, word};

const PATH: &str = "/v1/admin/approvals";

pub(super) async fn run(gateway: &Gateway, what: &Word, as_json: bool) -> Result<String, String> {
    match what {
        Word::List => shown(&gateway.get(PATH).await?, as_json, waiting),
        Word::Show { id } => shown(&question(gateway, id).await?, as_json, describe),
        Word::Refuse { id } => {
            let said = gateway.post(&path(id)?, &json!({"decision": "refuse"})).await?;
            shown(&said, as_json, outcome)
        }
        Word::Approve { id, yes } => {
            let asked = question(gateway, id).await?;
            if !yes && !agrees(&asked)? {
                return Err("nothing was said".into());
            }
            let word = json!({"decision": "approve", "grant": asked["grant"]});
            shown(&gateway.post(&path(id)?, &word).await?, as_json, outcome)
        }
    }
}

fn path(id: &str) -> Result<String, String> {
    Ok(format!("{PATH}/{}", client::segment(id)?))
}

async fn question(gateway: &Gateway, id: &str) -> Result<Value, String> {
    gateway.get(&path(id)?).await
}

/// Asks whoever sits at the terminal.
fn agrees(asked: &Value) -> Result<bool, String> {
    if !io::stdin().is_terminal() {
        return Err("approve: nobody sits at a terminal; look with `approvals show`, then add --yes".into());
    }
    agree(&describe(asked), "Approve?")
}

fn waiting(answer: &Value) -> String {
    let mut rows = vec![["approval", "expires", "about"].map(str::to_owned).to_vec()];
    for asked in list(&answer["approvals"]) {
        rows.push([&asked["approvalId"], &asked["expiresAt"], &asked["about"]].map(word).to_vec());
    }
    if rows.len() == 1 { "nothing waits\n".to_owned() } else { columns(&rows) }
}

fn describe(asked: &Value) -> String {
    let names = ["approvalId", "requestId", "tool", "description", "need", "given", "expiresAt", "sha256"];
    let lines = names.map(|name| format!("{name:<12}{}\n", word(&asked[name])));
    let arguments = serde_json::to_string_pretty(&asked["arguments"]).unwrap_or_default();
    let arguments: Vec<String> =
        arguments.lines().map(|line| format!("  {}\n", super::plain(line))).collect();
    format!("{}arguments\n{}", lines.concat(), arguments.concat())
}

fn outcome(answer: &Value) -> String {
    let [id, decision] = [&answer["approvalId"], &answer["decision"]].map(word);
    format!("{id}: {decision}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_shown_with_all_that_would_be_sent() {
        let asked = json!({
            "approvalId": "apr_1_2", "requestId": "req_1", "tool": "pay", "description": null, "need": "operator",
            "given": 0, "expiresAt": "T", "sha256": "ab", "arguments": {"to": "a\u{1b}[2J", "cents": 5},
        });
        let text = describe(&asked);
        assert!(text.contains("tool        pay\n") && text.contains("\"cents\": 5"), "{text}");
        assert!(!text.contains('\u{1b}'));
        assert_eq!(waiting(&json!({"approvals": []})), "nothing waits\n");
        let answer =
            json!({"approvals": [{"approvalId": "apr_1_2", "expiresAt": "T", "about": {"tool": "pay"}}]});
        assert!(waiting(&answer).contains("apr_1_2"));
    }
}
