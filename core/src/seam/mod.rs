//! What crosses between the core and a host: inputs, outputs, and their encoding.
//!
//! Knows nothing of chat, policy or HTTP clients. Nothing here may name a URL, hold a
//! secret, or borrow from a host: an upstream is a name, a credential is a name, a
//! body is a rope.

mod frame;
mod keep;
mod lines;

pub use frame::{ABI_VERSION, FrameError, Reply, Step, StepFrame, reduce_frame, step_frame};
pub use frame::{ReduceFrame, ReduceReply};
pub(crate) use keep::{PIECE, piece_key};
pub use keep::{keep, pieces, restore};
pub use lines::{LineTooLong, Lines, WholeLines};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    measure::{Process, Sample},
    state::{Op, Outcome},
};

/// The request headers that the core reads. A host passes these and no others.
pub const REQUEST_HEADERS: &[&str] = &[
    "accept-language",
    "access-control-request-headers",
    "access-control-request-method",
    "authorization",
    "content-type",
    "cookie",
    "host",
    "idempotency-key",
    "if-none-match",
    "last-event-id",
    "origin",
    "prefer",
    "sec-fetch-site",
    "sign",
    "timestamp",
    "traceparent",
    "x-api-key",
    "x-csrf-token",
    "x-forwarded-for",
    "x-minigate-fault",
    "x-openclaw-profile",
    "x-trace-id",
];

/// The upstream's response headers that the core reads.
pub const UPSTREAM_HEADERS: &[&str] = &["content-type", "retry-after"];

/// The name of an upstream: the OpenClaw Gateway.
pub const OPENCLAW: &str = "openclaw";
/// What precedes the number in the keys under which hosts without a memory of their own count
/// together, with [`Op::Absorb`].
pub const STATS: &str = "stats:";
/// How many such keys there are: each is a cell that many isolates write.
pub const STATS_SHARDS: u8 = 4;
/// What precedes an alias in the name of an upstream that is a model's own server.
pub const MODEL: &str = "model:";
/// What precedes a name in the name of an upstream that is a tool's server. Its address is the
/// whole URL: a [`Fetch`] for it has an empty path.
pub const TOOL: &str = "tool:";

/// The name of an upstream: WeChat's servers.
pub const WECHAT: &str = "wechat";

/// The name of an upstream: DingTalk's API.
pub const DINGTALK: &str = "dingtalk";
/// The name of an upstream: where DingTalk's session webhooks are.
pub const DINGTALK_OAPI: &str = "dingtalk:oapi";
/// The name of an upstream: wherever DingTalk keeps pictures and files. The path of a [`Fetch`] for it
/// begins with the host: `//host/path`.
pub const DINGTALK_FILES: &str = "dingtalk:files";

/// The name of an upstream: the team's own backend, which is told of what turns come to.
pub const WEBHOOK: &str = "webhook";

/// When an input happened, and fresh randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// Milliseconds since 1970, never running backwards within one exchange.
    pub unix_ms: u64,
    /// 128 unguessable bits, used for request and trace ids.
    pub entropy: [u8; 16],
}

/// The head of a request, as the host parsed it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestHead {
    /// The method, in upper case.
    pub method: String,
    /// The path without the query string.
    pub path: String,
    /// The query string without its question mark.
    pub query: String,
    /// Those of [`REQUEST_HEADERS`] that are present, with lower-case names.
    pub headers: Vec<(String, String)>,
    /// The address of the connection's other end, without a port.
    pub peer: String,
    /// `Content-Length`, when the request has one.
    pub content_length: Option<u64>,
    /// The channel whose message this is, by the host's own word: its socket brought it, or
    /// [`vouched`](crate::policy::channel::vouched) says so. Nothing in a request can set it.
    pub robot: Option<String>,
}

impl RequestHead {
    /// The first header of that lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }
}

/// The first header of that lower-case name.
pub(crate) fn find_header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Something that happened to an exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input<'a> {
    /// The whole request body, after [`Output::ReadBody`].
    Body(#[serde(with = "serde_bytes")] &'a [u8]),
    /// There will be no body.
    BodyFailed(BodyFailure),
    /// A store applied operations, up to the first whose outcome [stops](Outcome::stops) the list.
    Stored {
        /// The id of the [`Output::Store`] or [`Output::Keep`].
        id: u32,
        /// What the reducer said to each.
        outcomes: Vec<Outcome>,
    },
    /// A store could not apply all of the operations.
    StoreFailed {
        /// The id of the [`Output::Store`] or [`Output::Keep`].
        id: u32,
    },
    /// The ticket of an operation that is [watched](Output::Watch) may ask again. May come for
    /// no reason.
    Woken {
        /// The id of the [`Output::Store`].
        id: u32,
    },
    /// A fetch with [`Delivery::Whole`] is complete.
    FetchWhole {
        /// The id of the [`Fetch`].
        id: u32,
        /// The status.
        status: u16,
        /// Those of [`UPSTREAM_HEADERS`] that are present.
        headers: Vec<(String, String)>,
        /// The whole body.
        #[serde(with = "serde_bytes")]
        body: &'a [u8],
    },
    /// A fetch with [`Delivery::Lines`] has begun to answer.
    FetchHead {
        /// The id of the [`Fetch`].
        id: u32,
        /// The status.
        status: u16,
        /// Those of [`UPSTREAM_HEADERS`] that are present.
        headers: Vec<(String, String)>,
    },
    /// Whole lines of a fetch's body, each with its line feed; only the last line of a
    /// body may lack it.
    FetchLines {
        /// The id of the [`Fetch`].
        id: u32,
        /// One or more lines.
        #[serde(with = "serde_bytes")]
        lines: &'a [u8],
    },
    /// A fetch with [`Delivery::Lines`] ended in order.
    FetchEnd {
        /// The id of the [`Fetch`].
        id: u32,
    },
    /// A fetch failed; nothing more of it will come.
    FetchFailed {
        /// The id of the [`Fetch`].
        id: u32,
        /// How.
        failure: FetchFailure,
    },
    /// The time of the last [`Output::Deadline`] has come.
    Deadline,
    /// The client closed its connection before the [end](Output::End) of its answer.
    ClientGone,
    /// What the host has counted.
    Stats {
        /// The id of the [`Output::Stats`].
        id: u32,
        /// [`Totals`](crate::measure::Totals), encoded: of all threads, and without what is in the
        /// store already.
        totals: ByteBuf,
        /// How the process is.
        process: Process,
    },
    /// What was found in a configuration.
    Checked {
        /// The id of the [`Output::Check`].
        id: u32,
        /// Its version, when it can be taken.
        version: Option<String>,
        /// What is the matter with it, in order of files and lines.
        problems: Vec<Problem>,
    },
    /// Whether exchanges that begin from now on are of the configuration.
    Taken {
        /// The id of the [`Output::Take`].
        id: u32,
        /// Whether they are.
        done: bool,
    },
    /// The policy of this input and of those to come is of the configuration that
    /// [`Output::Under`] wants, if this host has it; otherwise it is what it was.
    Under,
}

/// A text of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigFile {
    /// Its name in what is said of it.
    pub name: String,
    /// Its YAML.
    pub text: String,
}

/// Something that is the matter with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Whether it cannot be taken because of this.
    pub error: bool,
    /// The file's name; empty when it is about none.
    pub file: String,
    /// From 1; 0 when it is about no place.
    pub line: u32,
    /// In characters, from 1.
    pub column: u32,
    /// What.
    pub message: String,
    /// What would be right.
    pub help: Option<String>,
}

impl Problem {
    /// An error that is about no place in a file.
    pub fn general(message: String) -> Self {
        Self { error: true, file: String::new(), line: 0, column: 0, message, help: None }
    }
}

impl<'a> Input<'a> {
    /// Puts the bytes that travelled beside the frame into the input that they belong to.
    fn with_payload(mut self, payload: &'a [u8]) -> Self {
        match &mut self {
            Self::Body(bytes)
            | Self::FetchWhole { body: bytes, .. }
            | Self::FetchLines { lines: bytes, .. } => *bytes = payload,
            _ => {}
        }
        self
    }
}

/// Why a request has no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BodyFailure {
    /// More bytes than [`Output::ReadBody`] allows.
    TooLarge,
    /// The connection ended, or the framing was broken.
    Incomplete,
}

/// Why a fetch failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchFailure {
    /// No connection: refused, unreachable, no such host.
    Connect,
    /// No connection within the policy's connect deadline.
    ConnectTimeout,
    /// The connection broke before the body was complete.
    Reset,
    /// The body, or one line of it, is over the limit.
    TooLarge,
    /// No answer came, and the host cannot tell whether the request was sent.
    Unclear,
}

/// Something the host is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Output {
    /// Read the request's body, then give [`Input::Body`] or [`Input::BodyFailed`].
    /// Keep the body until a rope has [referred](Rope::refers_to_the_body) to it whose fetch does
    /// not [keep](Fetch::keeps_body) it, or the exchange is done.
    ReadBody {
        /// The most bytes that may be read.
        limit: u64,
    },
    /// Apply operations in order, each to one key, under that key's serialisation, with
    /// [`reduce`](crate::state::reduce). Before an operation with a [ticket](Op::ticket) is
    /// applied, begin to listen for that ticket.
    Store {
        /// Echoed in [`Input::Stored`]. 0 asks for no answer: the operations are applied even
        /// when the exchange is over.
        id: u32,
        /// Keys and operations.
        ops: Vec<(String, Op)>,
    },
    /// Give [`Input::Woken`] when a reducer wakes the ticket of that [`Output::Store`], also
    /// when it did between the two.
    Watch {
        /// The id of the [`Output::Store`].
        id: u32,
    },
    /// Take base64 out of the request's body and apply the operations that [`keep`] makes of it,
    /// as an [`Output::Store`]: a picture gets into the store without a way through the core.
    Keep {
        /// Echoed in [`Input::Stored`].
        id: u32,
        /// The key, before the number of the piece.
        key: String,
        /// The offset of the first byte of base64.
        start: u32,
        /// The number of bytes of base64.
        len: u32,
        /// How long it matters.
        ttl_ms: u64,
    },
    /// Write the whole request's body into the store, in pieces as [`pieces`] cuts it, as an
    /// [`Output::Store`]: the exchange may go on elsewhere.
    KeepBody {
        /// Echoed in [`Input::Stored`].
        id: u32,
        /// The key, before the number of the piece.
        key: String,
        /// How long it matters.
        ttl_ms: u64,
    },
    /// Read what [`Output::KeepBody`] wrote, and hold it as the request's body from now on. Answered
    /// as an [`Output::Store`], without outcomes.
    Restore {
        /// Echoed in [`Input::Stored`].
        id: u32,
        /// The key, before the number of the piece.
        key: String,
        /// The number of bytes.
        len: u64,
    },
    /// Send a request to an upstream.
    Fetch(Fetch),
    /// Give up a fetch at once and close its connection: OpenClaw aborts the run. Or give up
    /// waiting for a store.
    Cancel {
        /// The id of the [`Fetch`], [`Output::Store`], [`Output::Keep`], [`Output::KeepBody`] or
        /// [`Output::Restore`].
        id: u32,
    },
    /// Begin the answer.
    Head {
        /// The status.
        status: u16,
        /// The headers, `content-length` among them when it is known.
        headers: Vec<(String, String)>,
    },
    /// Send these bytes now.
    Chunk(ByteBuf),
    /// The answer is complete. Mostly [`Output::Done`] follows in the same drain. Where it does not,
    /// the exchange goes on without its client: the host drives it on to its end, gives no
    /// [`Input::ClientGone`] any more, and there will be no more [`Output::Head`] and no
    /// [`Output::Chunk`].
    End,
    /// Write one line of JSON, complete and redacted, to the log.
    Record {
        /// The level.
        level: Level,
        /// A JSON object without a line feed.
        line: String,
    },
    /// Append one record to the audit ledger.
    Audit {
        /// A JSON object without a line feed, complete and redacted.
        record: String,
    },
    /// Read lines of the audit ledger. Answered as an [`Output::Store`], with one value: whole lines,
    /// in order, each with its line feed, and not more than [`LEDGER_PAGE`].
    Ledger {
        /// Echoed in [`Input::Stored`].
        id: u32,
        /// Which.
        find: Find,
    },
    /// Nothing more to do until an input comes, or this time.
    Deadline {
        /// Milliseconds since 1970.
        at_ms: u64,
        /// Whose deadline it is, for logs.
        reason: DeadlineReason,
    },
    /// The exchange is over: drop everything that belongs to it.
    Done,
    /// Count this request in the host's [`Totals`](crate::measure::Totals), and export its trace
    /// where traces are wanted.
    Measure(Box<Sample>),
    /// Give [`Input::Stats`]. A host that keeps its counts in the store writes what it has not
    /// written before it answers.
    Stats {
        /// Echoed in [`Input::Stats`].
        id: u32,
    },
    /// Check a configuration completely, with the settings and secrets of this host, as if it were to
    /// be taken.
    Check {
        /// Echoed in [`Input::Checked`].
        id: u32,
        /// Its texts.
        files: Vec<ConfigFile>,
    },
    /// Begin exchanges with this configuration from now on. Those that run keep theirs to their end. An
    /// older number than that of the one in use changes nothing. It is carried to its end even when the
    /// exchange is over.
    Take {
        /// Echoed in [`Input::Taken`].
        id: u32,
        /// The [edition](crate::state::editions::Edition)'s number.
        number: u64,
        /// Its texts.
        files: Vec<ConfigFile>,
    },
    /// This exchange goes on with a turn that was begun with this version: give the next input, which is
    /// [`Input::Under`], and those after it with that one's policy, if the host has it or can get it.
    Under {
        /// The version.
        version: String,
    },
    /// Each input from here on may be kept, with its payload, moment and what it led to, so that the
    /// exchange can be run again; so may its state after this drain, and the key whose alarm began it, and
    /// never the request's head. A host that keeps nothing passes it over.
    Replayable {
        /// What the exchange is called from now on.
        request_id: String,
        /// The trace.
        trace_id: String,
    },
}

/// The most lines of the audit ledger that are read at once.
pub const LEDGER_PAGE: u32 = 500;

/// Which lines of the audit ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Find {
    /// Those of a trace or a request.
    About(String),
    /// Those after this number.
    After(u64),
}

/// The importance of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Of use while developing.
    Debug,
    /// A request was answered.
    #[default]
    Info,
    /// An upstream failed, or a request was refused for a reason worth a look.
    Warn,
    /// An operator must act, or the program is defective.
    Error,
}

/// Whose deadline an [`Output::Deadline`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeadlineReason {
    /// The client's body does not arrive.
    Body,
    /// The whole turn.
    Turn,
    /// The upstream has sent nothing of a stream yet.
    FirstByte,
    /// The upstream's stream stands still.
    Idle,
    /// The client has heard nothing for a while.
    Heartbeat,
    /// The store does not answer.
    Store,
    /// A place in a queue is to be kept.
    Queue,
    /// A lease is to be renewed.
    Lease,
    /// A content check does not answer.
    Check,
    /// One profile has had its time; another may answer.
    Attempt,
    /// Text that waits for more goes to the client now.
    Frame,
    /// The upstream is asked again.
    Backoff,
    /// A client looks again at a turn, or has waited long enough for it.
    Watch,
    /// A runner says that it is there.
    Run,
}

/// A request to an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// Echoed in each input about it.
    pub id: u32,
    /// The upstream's name. The host knows its address.
    pub upstream: String,
    /// The method.
    pub method: String,
    /// The path, beginning with a slash, and the query without credentials. Empty for a [`TOOL`].
    pub path: String,
    /// The headers, without credentials and framing.
    pub headers: Vec<(String, String)>,
    /// The credential that the host adds.
    pub credential: Option<Credential>,
    /// The body.
    pub body: Rope,
    /// How the answer is to be given.
    pub delivery: Delivery,
    /// Whether another fetch may refer to the request's body: after a failure the same picture
    /// goes to another model.
    pub keeps_body: bool,
}

/// A secret by its setting's name, and where the host puts it when it sends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Credential {
    /// Into `Authorization: Bearer`.
    Bearer(String),
    /// Into the query, as this parameter: WeChat's `code2Session` wants its secret there.
    Query {
        /// The parameter.
        parameter: String,
        /// The setting.
        name: String,
    },
}

/// How a fetch's answer reaches the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// Once, complete: [`Input::FetchWhole`].
    Whole {
        /// The most bytes.
        limit: u64,
    },
    /// As it comes, cut at line feeds: [`Input::FetchHead`], [`Input::FetchLines`],
    /// [`Input::FetchEnd`]. The host keeps an incomplete line, so that an exchange's state
    /// stays small and the work stays linear in bytes.
    Lines {
        /// The most bytes in one line.
        limit: u64,
    },
}

/// A body in pieces: what the core wrote, and ranges of the request's body that it
/// need not copy. A picture of 10 MB is one range.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rope(pub Vec<Piece>);

/// A part of a [`Rope`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Piece {
    /// These bytes.
    Literal(String),
    /// A secret by its setting's name, which the host puts in when it sends. It stands inside
    /// of a JSON string and needs no escaping there.
    Secret(String),
    /// This range of the request's body: first byte and length.
    Body {
        /// The offset of the first byte.
        start: u32,
        /// The number of bytes.
        len: u32,
    },
}

impl Rope {
    /// Appends literal text.
    pub fn push_str(&mut self, text: &str) {
        if let Some(Piece::Literal(last)) = self.0.last_mut() {
            last.push_str(text);
        } else if !text.is_empty() {
            self.0.push(Piece::Literal(text.into()));
        }
    }

    /// Appends a range of the request's body.
    pub fn push_range(&mut self, range: core::ops::Range<usize>) {
        let (Ok(start), Ok(len)) = (u32::try_from(range.start), u32::try_from(range.len())) else {
            debug_assert!(false, "a body is at most 20 MiB");
            return;
        };
        if len > 0 {
            self.0.push(Piece::Body { start, len });
        }
    }

    /// The number of bytes, without secrets.
    pub fn len(&self) -> u64 {
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => text.len() as u64,
                Piece::Secret(_) => 0,
                Piece::Body { len, .. } => u64::from(*len),
            })
            .sum()
    }

    /// Whether ranges of the request's body are in it.
    pub fn refers_to_the_body(&self) -> bool {
        self.0.iter().any(|piece| matches!(piece, Piece::Body { .. }))
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What a host with a process of its own tells its store when it begins to listen.
pub fn started() -> (String, Op) {
    (STARTS.into(), Op::Count { add: 1 })
}

/// The key under which starts are counted.
pub(crate) const STARTS: &str = "starts";
