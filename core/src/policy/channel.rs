//! Ways to talk to this gateway beside its HTTP API, as a configuration names them: robots.
//!
//! A channel answers by an intent or a profile as anybody else's question is answered, with its limits
//! and rules. Here are the names of its secrets and none of them.

use serde::{Deserialize, Serialize};

/// One robot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// `helpdesk`: its name in paths, logs and keys of sessions.
    pub name: String,
    /// Whose robot it is.
    pub kind: ChannelKind,
    /// Who answers.
    pub answered_by: AnsweredBy,
    /// What is said at once, while the answer is made; `None` says nothing.
    pub ack: Option<String>,
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
    /// A card that grows.
    Card {
        /// The card's template.
        template: String,
        /// The template's variable for the answer.
        key: String,
    },
}

/// Who answers a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AnsweredBy {
    /// Whoever answers this intent.
    Intent(String),
    /// This profile.
    Profile(String),
}

impl Channel {
    /// The settings that hold its secrets.
    pub fn secrets(&self) -> [&str; 2] {
        match &self.kind {
            ChannelKind::DingTalk { app_key, app_secret, .. } => [app_key, app_secret],
        }
    }
}
