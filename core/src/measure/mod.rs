//! What requests were worth counting, added up, and how it is shown.
//!
//! An exchange gives one [`Sample`] at its end. A host puts samples into [`Totals`] of its own,
//! adds those of its threads or isolates together, and gives them to the exchange that asks for
//! `/metrics`. All numbers are made here, so both hosts show the same for the same requests.
//!
//! No person, address, text or id may be a label: labels are routes, codes and names of the
//! configuration, so the number of series is bounded by those. The ids in [`Trace`] go to traces
//! and are never counted.

mod bounds;
mod families;
mod overview;
mod text;
mod totals;

use serde::{Deserialize, Serialize};

pub use families::{Family, Kind, Number, Point, families};
pub use overview::overview;
pub use text::render;
pub use totals::Totals;

use crate::wire::failure::Code;

/// One request, when it is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The route's name, as in logs.
    pub route: String,
    /// The status that was sent; 499 when the client left before the end.
    pub status: u16,
    /// How it failed.
    pub code: Option<Code>,
    /// Milliseconds from the request's head to the end of its answer.
    pub total_ms: u32,
    /// Milliseconds of it in which nobody else was waited for: not the client's body, the store, a
    /// place in the queue, a model, or WeChat.
    pub added_ms: u32,
    /// Milliseconds in the upstream's queue, when there was no free slot.
    pub queued_ms: Option<u32>,
    /// Bytes of the body.
    pub body_bytes: u32,
    /// Microseconds inside of the module. A host fills it in where it has a clock for that.
    pub own_us: Option<u32>,
    /// What looked like abuse.
    pub signs: Vec<Sign>,
    /// The store failed and the request passed all the same.
    pub store_failed: bool,
    /// A text or picture passed or was refused without WeChat's check.
    pub unchecked: bool,
    /// What a model had to do with it.
    pub turn: Option<Turn>,
    /// Tools that were called, by name, once for each call.
    pub tools: Vec<String>,
    /// Those of them that failed.
    pub failed_tools: Vec<String>,
    /// Its place in a trace.
    pub trace: Trace,
}

impl Sample {
    /// The same for a store of single points, as Cloudflare's Analytics Engine: what they are found
    /// by, texts and numbers, each in a fixed order. The index is the route.
    pub fn data_point(&self) -> (String, Vec<String>, Vec<f64>) {
        let turn = self.turn.clone().unwrap_or_default();
        let ending = self.turn.as_ref().map_or("", |turn| turn.ending.name());
        let code = self.code.map_or("", Code::name);
        let blobs = vec![
            self.route.clone(),
            self.status.to_string(),
            code.to_owned(),
            turn.labels.intent,
            turn.labels.profile,
            turn.labels.model,
            ending.to_owned(),
        ];
        let (input, output) = turn.tokens.unwrap_or_default();
        let numbers = [
            self.total_ms,
            turn.model_ms.unwrap_or_default(),
            turn.first_ms.unwrap_or_default(),
            self.queued_ms.unwrap_or_default(),
            input,
            output,
            self.body_bytes,
            turn.retries,
            u32::from(turn.cached),
            u32::from(turn.fell_back),
            u32::from(turn.schema_failed),
        ];
        (self.route.clone(), blobs, numbers.map(f64::from).to_vec())
    }
}

/// A turn's part of a [`Sample`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// Who answered.
    pub labels: Labels,
    /// How it ended.
    pub ending: Ending,
    /// Milliseconds from the first request to a model until the end; `None` when no model was asked.
    pub model_ms: Option<u32>,
    /// Milliseconds from the first request to a model until its first text, or its whole answer.
    pub first_ms: Option<u32>,
    /// Tokens that the upstream counted, in and out.
    pub tokens: Option<(u32, u32)>,
    /// Requests to a model after the first.
    pub retries: u32,
    /// Another profile stood in.
    pub fell_back: bool,
    /// It was answered from what is kept.
    pub cached: bool,
    /// An answer was not what its schema wants, once or twice.
    pub schema_failed: bool,
}

/// Whom a turn counts for. Empty where there is none: `/api/chat` has no intent and no profile.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Labels {
    /// The intent.
    pub intent: String,
    /// The profile.
    pub profile: String,
    /// The model's name for clients, or its alias.
    pub model: String,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Ending {
    /// With an answer.
    #[default]
    Answered,
    /// The upstream or the queue took too long.
    TimedOut,
    /// The content was refused, by WeChat's check or by the model.
    Refused,
    /// Not let through: rates, caps, a full queue.
    Rejected,
    /// The client's mistake.
    Invalid,
    /// Anything else.
    Failed,
    /// The client left.
    Left,
}

impl Ending {
    /// The name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::TimedOut => "timeout",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::Invalid => "invalid",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// Something that looked like abuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Sign {
    /// The same request too often.
    Repeated,
    /// A body far larger than this caller's usual one.
    Spiked,
    /// The caller is slowed, restricted or blocked.
    Slowed,
    /// See [`Sign::Slowed`].
    Restricted,
    /// See [`Sign::Slowed`].
    Blocked,
    /// A rate refused it.
    Limited,
}

impl Sign {
    /// The name as a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::Spiked => "payload_spike",
            Self::Slowed => "slowed",
            Self::Restricted => "restricted",
            Self::Blocked => "blocked",
            Self::Limited => "rate_limited",
        }
    }
}

/// A request's place in a trace, and what it did when.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// W3C trace context: 16 bytes in hex.
    pub trace_id: String,
    /// This request's span: 8 bytes in hex.
    pub span_id: String,
    /// The caller's span, when it said one.
    pub parent_id: Option<String>,
    /// The trace id of logs and answers; another one where the client gave its own in `X-Trace-Id`.
    pub shown_id: String,
    /// When it began, in milliseconds since 1970.
    pub started_ms: u64,
    /// Its stages, in order.
    pub stages: Vec<Stage>,
}

/// A stage of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Which.
    pub name: StageName,
    /// Milliseconds after the request's begin.
    pub start_ms: u32,
    /// The same.
    pub end_ms: u32,
}

/// What a request does or waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StageName {
    /// The client's body.
    Body,
    /// The store: who asks, how often, whether there is room.
    Gates,
    /// Somebody else's answer to the same question.
    Shared,
    /// A place in the upstream's queue.
    Queue,
    /// WeChat's content check, login or push.
    Wechat,
    /// A model, until it begins to answer or has answered whole.
    Upstream,
    /// A model's stream.
    Stream,
    /// The wait before another try.
    Backoff,
    /// A tool's server.
    Tool,
}

impl StageName {
    /// The span's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Body => "body",
            Self::Gates => "gates",
            Self::Shared => "shared",
            Self::Queue => "queue",
            Self::Wechat => "wechat",
            Self::Upstream => "upstream",
            Self::Stream => "stream",
            Self::Backoff => "backoff",
            Self::Tool => "tool",
        }
    }
}

/// How the host's process is, where the host can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// When it began, in milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// Milliseconds since a log line was written.
    pub silent_ms: Option<u64>,
    /// The age of the oldest log line that is not written yet, in milliseconds; 0 when all are.
    pub unwritten_ms: Option<u64>,
    /// Log lines that were dropped because nobody read them, or because writing failed.
    pub lines_dropped: Option<u64>,
    /// Milliseconds of CPU, of all threads.
    pub cpu_ms: Option<u64>,
    /// Bytes in memory.
    pub memory_bytes: Option<u64>,
    /// The sockets of robots, where this host holds some.
    pub sockets: Option<Sockets>,
}

/// The sockets of robots, of one host together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sockets {
    /// Robots that have one now.
    pub open: u64,
    /// Robots that should have one.
    pub wanted: u64,
    /// Sockets that were opened.
    pub opened: u64,
    /// Attempts that failed.
    pub failed: u64,
}

/// How one upstream is at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    /// The upstream's name.
    pub upstream: String,
    /// Those that wait.
    pub waiting: u32,
    /// Turns that run.
    pub leases: u32,
    /// Turns that may run at once.
    pub slots: u32,
    /// Models and how their breakers stand.
    pub breakers: Vec<(String, BreakerState)>,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum BreakerState {
    /// Requests pass.
    #[default]
    Closed,
    /// One request tries.
    HalfOpen,
    /// None passes.
    Open,
}

/// A cap of a day that all of a role share.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// The role; empty is everybody's who has no other.
    pub role: String,
    /// `requests` or `tokens`.
    pub kind: String,
    /// What is used or reserved.
    pub used: u64,
    /// The cap.
    pub cap: u64,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// What was counted.
    pub totals: Totals,
    /// The process.
    pub process: Process,
    /// The upstreams.
    pub loads: Vec<Load>,
    /// Caps of the day.
    pub budgets: Vec<Budget>,
    /// How often hosts have started on this store.
    pub starts: Option<u64>,
    /// What is running: labels of `minigate_build_info`.
    pub build: Vec<(String, String)>,
    /// Now, in milliseconds since 1970.
    pub now_ms: u64,
}
