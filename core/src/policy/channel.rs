//! Ways to talk to this gateway beside its HTTP API, as a configuration names them: robots.
//!
//! A channel answers by an intent or a profile as anybody else's question is answered, with its limits
//! and rules. Here are the names of its secrets and none of them.

use serde::{Deserialize, Serialize};

use super::catalog::Catalog;
use crate::{seam::RequestHead, wire::dingtalk::callback};

/// What precedes a robot's name in the path of its callback.
pub const PATH: &str = "/dingtalk/";

/// One robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// `helpdesk`: its name in paths, logs and keys of sessions.
    pub name: String,
    /// Whose robot it is.
    pub kind: ChannelKind,
    /// Who answers.
    pub answered_by: AnsweredBy,
    /// What is said while the answer is made; `None` says nothing.
    pub ack: Option<String>,
    /// After how long without an answer that is said, in milliseconds.
    pub ack_after_ms: u32,
    /// After how long it is said that there is none, in milliseconds.
    pub timeout_ms: u32,
    /// What is said when there is no answer; `None` says the failure's own words.
    pub failed: Option<String>,
}

/// Whose robot a channel is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChannelKind {
    /// DingTalk's.
    DingTalk {
        /// The robot's code.
        robot_code: String,
        /// The setting that holds the app's key, its client id.
        app_key: String,
        /// The setting that holds the app's secret.
        app_secret: String,
        /// How messages come.
        mode: Mode,
        /// What answers are.
        reply: Reply,
    },
}

/// How a robot's messages come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// DingTalk calls this gateway.
    Http,
    /// This gateway opens a socket to DingTalk: native host only.
    Stream,
}

/// What a robot's answers are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Messages in Markdown.
    Markdown,
    /// Plain messages.
    Text,
}

/// Who answers a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnsweredBy {
    /// Whoever answers this intent.
    Intent(String),
    /// This profile.
    Profile(String),
}

/// A group or a person to whom an operator may have a robot speak, by a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// `test-group`.
    pub name: String,
    /// The channel whose robot speaks.
    pub channel: String,
    /// To whom.
    pub to: Destination,
}

/// To whom a robot speaks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Destination {
    /// A group, by its `openConversationId`.
    Group(String),
    /// A person, by `senderStaffId`.
    Person(String),
    /// A group by the webhook of a robot of its own: the setting that holds its `access_token`.
    Webhook(String),
}

impl Channel {
    /// The settings that hold its secrets.
    pub fn secrets(&self) -> [&str; 2] {
        match &self.kind {
            ChannelKind::DingTalk { app_key, app_secret, .. } => [app_key, app_secret],
        }
    }
}

/// The channel that a path names.
pub fn named<'c>(catalog: &'c Catalog, path: &str) -> Option<&'c Channel> {
    catalog.channel(path.strip_prefix(PATH)?)
}

/// The channel whose message a request over HTTP is: the one that its path names, when DingTalk
/// signed it with that channel's secret.
///
/// For hosts, beside the module and before it is asked: what is signed has the secret in it, so
/// no derived key would do for the check, and whoever has the secret is the robot. So it stays where the
/// other credentials are. `secret` gives one by its setting's name.
pub fn vouched<'s>(
    head: &RequestHead,
    catalog: &Catalog,
    secret: impl Fn(&str) -> Option<&'s str>,
    now_ms: u64,
) -> Option<String> {
    let channel = named(catalog, &head.path)?;
    let ChannelKind::DingTalk { app_secret, .. } = &channel.kind;
    let (timestamp, sign) = (head.header("timestamp")?.trim(), head.header("sign")?.trim());
    callback::is_signed(secret(app_secret)?, timestamp, sign, now_ms).then(|| channel.name.clone())
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn only_what_is_signed_for_that_robot_is_its_message() {
        let channel = |name: &str, secret: &str| Channel {
            name: name.into(),
            kind: ChannelKind::DingTalk {
                robot_code: "r".into(),
                app_key: "K".into(),
                app_secret: secret.into(),
                mode: Mode::Http,
                reply: Reply::Markdown,
            },
            answered_by: AnsweredBy::Profile("p".into()),
            ack: None,
            ack_after_ms: 0,
            timeout_ms: 60_000,
            failed: None,
        };
        let catalog =
            Catalog { channels: vec![channel("desk", "S"), channel("other", "O")], ..Catalog::default() };
        let secret = |name: &str| match name {
            "S" => Some("this is a secret"),
            "O" => Some("another"),
            _ => None,
        };
        let of = |path: &str, sign: &str| {
            let headers = vec![
                ("timestamp".to_owned(), "1577262236757".to_owned()),
                ("sign".to_owned(), sign.to_owned()),
            ];
            let head = RequestHead { path: path.into(), headers, ..RequestHead::default() };
            vouched(&head, &catalog, secret, 1_577_262_236_757)
        };
        let sign = "DJrE6qdyVGCQz9z5r2MDuNcNAhwYnuAkyj13cx169CA=";
        assert_eq!(of("/dingtalk/desk", sign).as_deref(), Some("desk"));
        assert_eq!(of("/dingtalk/other", sign), None);
        assert_eq!(of("/dingtalk/nobody", sign), None);
        assert_eq!(of("/dingtalk/desk", "x"), None);
        assert_eq!(of("/api/chat", sign), None);
    }
}
