//! What the configuration says about tools, turns and the audit ledger.

use serde::{Deserialize, Serialize};

use crate::policy::Environment;

const DAY_S: u32 = 86_400;

/// Something that a model may ask for and that a server of the operator does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `cancel_order`: at most 64 of a-z, 0-9 and `_`.
    pub name: String,
    /// What it does, for the model and for who approves.
    pub description: String,
    /// The JSON Schema of its arguments, an object, as JSON text.
    pub parameters: String,
    /// What it may change.
    pub class: ToolClass,
    /// Where it is: the whole URL.
    pub url: String,
    /// The setting that holds its key.
    pub secret: Option<String>,
    /// The longest that one call may take, in milliseconds.
    pub timeout_ms: u32,
    /// Whether its server does nothing twice for one `Idempotency-Key`: then a call of which
    /// nobody knows what came of it may be sent again.
    pub idempotent: bool,
    /// Who must approve a call; `None` is nobody: it only reads.
    pub approve: Option<Approval>,
    /// How long an approval is waited for, in seconds.
    pub approve_within_s: u32,
}

/// What a tool may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ToolClass {
    /// Nothing: it runs at once.
    Read,
    /// Something that can be put right: it waits for an approval.
    Write,
    /// Something that cannot: it also needs the audit ledger, and to be allowed by name.
    Destructive,
}

impl ToolClass {
    /// The name in the configuration, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Destructive => "destructive",
        }
    }
}

/// Who must approve a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Approval {
    /// The person who asked.
    User,
    /// An operator.
    Operator,
    /// Two operators, not the same one twice.
    TwoOperators,
    /// The person who asked, and an operator.
    UserAndOperator,
}

impl Approval {
    /// The name in the configuration, logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Operator => "operator",
            Self::TwoOperators => "two_operators",
            Self::UserAndOperator => "user_and_operator",
        }
    }

    /// Whether the person who asked is one of them.
    pub fn needs_user(self) -> bool {
        matches!(self, Self::User | Self::UserAndOperator)
    }

    /// How many operators are needed.
    pub fn operators(self) -> u8 {
        match self {
            Self::User => 0,
            Self::Operator | Self::UserAndOperator => 1,
            Self::TwoOperators => 2,
        }
    }
}

/// How long turns are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRules {
    /// How long a turn can be found and its idempotency key joins it, in seconds.
    pub keep_s: u32,
    /// The longest that a turn may take for which nobody waits, in milliseconds.
    pub timeout_ms: u32,
}

impl Default for TurnRules {
    /// A day; 15 minutes.
    fn default() -> Self {
        Self { keep_s: DAY_S, timeout_ms: 900_000 }
    }
}

/// What is written into the audit ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRules {
    /// Whether there is one.
    pub enabled: bool,
    /// Whether texts and arguments are in it beside their hashes and sizes; `None` is what is
    /// usual in the environment.
    pub content: Option<bool>,
    /// How long records are kept, in seconds.
    pub keep_s: u32,
}

impl Default for AuditRules {
    /// On, for 180 days.
    fn default() -> Self {
        Self { enabled: true, content: None, keep_s: 180 * DAY_S }
    }
}

impl AuditRules {
    /// Whether texts and arguments are in it: on a developer's machine, unless the configuration
    /// says otherwise.
    pub fn has_content(&self, environment: Environment) -> bool {
        self.content.unwrap_or(environment == Environment::Dev)
    }
}
