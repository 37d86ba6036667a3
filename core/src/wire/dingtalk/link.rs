//! The state machine of one robot in Stream mode: which sockets there are, what is answered to their
//! frames, when another one is opened, and what is handed on.
//!
//! It is driven as an [exchange](crate::exchange) is: after [`Link::new`] and each [`Link::handle`]
//! all of [`Link::poll`] is carried out, then comes the next input or [`Link::deadline`]. Only a host
//! that can hold a socket has one; that is why it is no part of the module, and the host calls it in
//! its own process.
//!
//! What may not happen: a message that is answered and not handed on, two handings-on of one frame, a
//! gap between two sockets where DingTalk says beforehand that one ends, attempts without a pause.

use std::collections::VecDeque;

use serde_json::{Map, Value};

use super::stream::{Frame, Kind, OPEN, OpenFault, address, open_body, pause};
use crate::{
    policy::{
        Policy,
        channel::{Channel, ChannelKind, Mode, PATH},
    },
    seam::{DINGTALK, Delivery, Fetch, Moment, RequestHead},
};

/// The longest frame, in bytes: a message is some kilobytes, its pictures are codes.
pub const LONGEST_FRAME: usize = 1024 * 1024;

/// The longest answer to the request for an address.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// For how long an address, and then a connection, is waited for, in milliseconds.
const ATTEMPT_MS: u64 = 15_000;
/// DingTalk sends a ping about every minute. A socket that has said nothing for longer than two of
/// them is taken for dead, whatever its TCP says: sockets are known that still answer pings of the
/// protocol below and bring no message.
pub const SILENT_MS: u64 = 150_000;
/// How often something is said on a socket, so that nobody between forgets it: as the official SDK.
const WHISPER_MS: u64 = 60_000;
/// A socket that lasted so long was a good one: what follows its end is no failure of the attempt.
const STEADY_MS: u64 = 10_000;
/// The old socket is read for so long after the new one is open: what was under way comes still.
const LINGER_MS: u64 = 2_000;
/// Frames of which a second one is known, by their `messageId`.
const REMEMBERED: usize = 1_000;
/// A longer id is not remembered.
const LONGEST_ID: usize = 128;
/// Messages that are handed on and not taken yet. More are not answered: DingTalk sends them again.
const MOST_PENDING: usize = 100;
/// So often a message is handed on, at most: for about five minutes.
const MOST_TRIES: u32 = 14;
/// Not sooner than so many milliseconds after it was not taken.
const SOONEST_MS: u64 = 500;

/// An attempt came to nothing.
const FAILED: &str = "dingtalk_stream_failed";

/// What a link needs to know of its robot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Robot {
    /// The channel's name.
    pub name: String,
    /// The setting that holds the app's key.
    pub app_key: String,
    /// The setting that holds the app's secret.
    pub app_secret: String,
    /// Where DingTalk's API is.
    pub api: String,
    /// For how long a socket may be silent, in milliseconds; [`SILENT_MS`].
    pub silent_ms: u64,
}

/// The robots of a configuration whose messages come by a socket. `api` is where DingTalk's API is.
#[must_use]
pub fn robots(policy: &Policy, api: &str) -> Vec<Robot> {
    let robot = |channel: &Channel| match &channel.kind {
        ChannelKind::DingTalk { app_key, app_secret, mode: Mode::Stream, .. } => Some(Robot {
            name: channel.name.clone(),
            app_key: app_key.clone(),
            app_secret: app_secret.clone(),
            api: api.to_owned(),
            silent_ms: policy.deadlines.socket,
        }),
        ChannelKind::DingTalk { mode: Mode::Http, .. } => None,
    };
    policy.catalog.channels.iter().filter_map(robot).collect()
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// The answer to [`Output::Ask`].
    Answered {
        /// Of which attempt.
        socket: u32,
        /// The status.
        status: u16,
        /// The whole body.
        body: &'a [u8],
    },
    /// The socket of [`Output::Connect`] is open.
    Opened {
        /// Which.
        socket: u32,
        /// The address of the other end.
        peer: &'a str,
    },
    /// A frame came.
    Heard {
        /// On which socket.
        socket: u32,
        /// The frame's text.
        frame: &'a [u8],
    },
    /// The attempt failed, or the socket is over.
    Ended {
        /// Which.
        socket: u32,
        /// Why, in a word of the host's for the log.
        why: &'static str,
    },
    /// The exchange of [`Output::Hand`] has answered.
    Taken {
        /// Which.
        message: u64,
        /// Its status; `None` when it broke.
        status: Option<u16>,
    },
    /// The time of [`Link::deadline`] has come.
    Deadline,
    /// This host ends.
    Stop,
}

/// Something the host is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask for an address, and give [`Input::Answered`] or [`Input::Ended`].
    Ask {
        /// The attempt, and the number of its socket.
        socket: u32,
        /// The request.
        fetch: Fetch,
    },
    /// Open a socket, and give [`Input::Opened`] and what follows.
    Connect {
        /// Which.
        socket: u32,
        /// `wss://...`; its ticket is a credential.
        address: String,
    },
    /// Send a frame, and carry out what follows only when it is on its way or the socket is over.
    Send {
        /// On which socket.
        socket: u32,
        /// The frame.
        frame: String,
    },
    /// Send a ping of the WebSocket protocol.
    Whisper {
        /// On which socket.
        socket: u32,
    },
    /// Begin an exchange with this request, and give [`Input::Taken`] when it has answered.
    Hand {
        /// Which message.
        message: u64,
        /// The request's head.
        head: RequestHead,
        /// The request's body.
        body: String,
    },
    /// Give up an attempt, or close a socket; [`Input::Ended`] is not waited for.
    Close {
        /// Which.
        socket: u32,
    },
    /// Write a line of the log.
    Say {
        /// `info`, `warn`, `error`.
        level: &'static str,
        /// What.
        event: &'static str,
        /// The rest, without any credential.
        fields: Map<String, Value>,
    },
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Sockets that were opened.
    pub opened: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Messages that were answered.
    pub messages: u64,
    /// Frames that came a second time on this link.
    pub repeated: u64,
}

/// One robot's link with DingTalk.
#[derive(Debug)]
pub struct Link {
    robot: Robot,
    now: Moment,
    attempt: Attempt,
    failures: u32,
    next_socket: u32,
    next_message: u64,
    /// The socket that messages come on.
    current: Option<Socket>,
    /// The one before it, and until when it is read; without an end as long as there is no other.
    old: Option<(Socket, Option<u64>)>,
    remembered: VecDeque<String>,
    pending: Vec<Pending>,
    counts: Counts,
    stopped: bool,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum Attempt {
    /// None is needed.
    None,
    Pausing {
        until: u64,
    },
    Asking {
        socket: u32,
        trace: String,
        until: u64,
    },
    Connecting {
        socket: u32,
        trace: String,
        until: u64,
    },
}

#[derive(Debug)]
struct Socket {
    id: u32,
    /// One for all lines about it.
    trace: String,
    peer: String,
    opened_ms: u64,
    heard_ms: u64,
    whispered_ms: u64,
}

/// A message that nobody has taken yet.
#[derive(Debug)]
struct Pending {
    id: u64,
    trace: String,
    peer: String,
    data: String,
    tries: u32,
    /// When it is handed on again; `None` while an exchange has it.
    due: Option<u64>,
}

impl Link {
    /// A link that asks for its first address at once.
    #[must_use]
    pub fn new(robot: Robot, now: Moment) -> Self {
        let mut link = Self {
            robot,
            now,
            attempt: Attempt::None,
            failures: 0,
            next_socket: 1,
            next_message: 1,
            current: None,
            old: None,
            remembered: VecDeque::new(),
            pending: Vec::new(),
            counts: Counts::default(),
            stopped: false,
            outputs: VecDeque::new(),
        };
        link.ask();
        link
    }

    /// The next thing to do; `None` when all is done.
    #[must_use]
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to come back at the latest, in milliseconds of Unix time.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        let attempt = match self.attempt {
            Attempt::None => None,
            Attempt::Pausing { until }
            | Attempt::Asking { until, .. }
            | Attempt::Connecting { until, .. } => Some(until),
        };
        let current = self.current.as_ref().map(|socket| self.silent_at(socket).min(whisper_at(socket)));
        let old = self.old.as_ref().and_then(|(_, until)| *until);
        let pending = self.pending.iter().filter_map(|pending| pending.due).min();
        [attempt, current, old, pending].into_iter().flatten().min()
    }

    /// What has been counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Whether messages can come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.current.is_some()
    }

    /// Takes what happened.
    pub fn handle(&mut self, now: Moment, input: Input<'_>) {
        self.now = now;
        match input {
            Input::Stop => self.stop(),
            // A message that was answered is handed on although no socket is there any more.
            Input::Taken { message, status } => self.taken(message, status),
            _ if self.stopped => {}
            Input::Answered { socket, status, body } => self.answered(socket, status, body),
            Input::Opened { socket, peer } => self.opened(socket, peer),
            Input::Heard { socket, frame } => self.heard(socket, frame),
            Input::Ended { socket, why } => self.ended(socket, why),
            Input::Deadline => self.on_deadline(),
        }
    }

    fn ask(&mut self) {
        let socket = self.next_socket;
        self.next_socket = self.next_socket.wrapping_add(1);
        let trace = self.new_trace();
        self.attempt = Attempt::Asking { socket, trace, until: self.after(ATTEMPT_MS) };
        let agent = concat!("minigate/", env!("CARGO_PKG_VERSION"));
        let fetch = Fetch {
            id: socket,
            upstream: DINGTALK.to_owned(),
            method: "POST".to_owned(),
            path: OPEN.to_owned(),
            headers: [("accept", "application/json"), ("content-type", "application/json")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            credential: None,
            body: open_body(&self.robot.app_key, &self.robot.app_secret, agent),
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        };
        self.outputs.push_back(Output::Ask { socket, fetch });
    }

    fn answered(&mut self, answered: u32, status: u16, body: &[u8]) {
        let Attempt::Asking { socket, trace, .. } = &self.attempt else { return };
        if *socket != answered {
            return;
        }
        match address(status, body, &self.robot.api) {
            Ok(address) => {
                let trace = trace.clone();
                self.attempt = Attempt::Connecting { socket: answered, trace, until: self.after(ATTEMPT_MS) };
                self.outputs.push_back(Output::Connect { socket: answered, address });
            }
            Err(OpenFault::Misconfigured) => {
                let trace = trace.clone();
                // It may be mended without a restart, but not within seconds.
                self.failures = self.failures.max(6);
                self.failed("error", "dingtalk_stream_refused", &trace, &[("status", status.into())]);
            }
            Err(OpenFault::Unavailable) => {
                let trace = trace.clone();
                self.failed("warn", FAILED, &trace, &[("status", status.into())]);
            }
        }
    }

    fn opened(&mut self, opened: u32, peer: &str) {
        let Attempt::Connecting { socket, trace, .. } = &self.attempt else { return };
        if *socket != opened {
            return;
        }
        let at = self.now.unix_ms;
        let socket = Socket {
            id: opened,
            trace: trace.clone(),
            peer: peer.to_owned(),
            opened_ms: at,
            heard_ms: at,
            whispered_ms: at,
        };
        self.attempt = Attempt::None;
        self.counts.opened += 1;
        self.say("info", "dingtalk_stream_open", &socket.trace, &[("socket", opened.into())]);
        self.current = Some(socket);
        let linger = self.after(LINGER_MS);
        if let Some((_, until)) = &mut self.old {
            *until = Some(linger);
        }
    }

    fn heard(&mut self, id: u32, frame: &[u8]) {
        let now_ms = self.now.unix_ms;
        let is_current = self.current.as_ref().is_some_and(|socket| socket.id == id);
        let both = [self.current.as_mut(), self.old.as_mut().map(|(socket, _)| socket)];
        let Some(socket) = both.into_iter().flatten().find(|socket| socket.id == id) else { return };
        socket.heard_ms = now_ms;
        let peer = socket.peer.clone();
        let Some(frame) = Frame::parse(frame) else { return };
        let is_message = matches!(frame.kind, Kind::Message(_));
        let repeated = is_message && self.remembered.contains(&frame.message_id);
        if is_message && !repeated && self.pending.len() >= MOST_PENDING {
            return;
        }
        if let Some(answer) = frame.ack() {
            self.outputs.push_back(Output::Send { socket: id, frame: answer });
        }
        match frame.kind {
            Kind::Message(_) if repeated => self.counts.repeated += 1,
            Kind::Message(data) => {
                self.remember(frame.message_id);
                self.counts.messages += 1;
                self.take(peer, data);
            }
            Kind::Disconnect if is_current => self.move_on("dingtalk_stream_moving"),
            Kind::Disconnect
            | Kind::Ping(_)
            | Kind::System
            | Kind::Callback(_)
            | Kind::Event
            | Kind::Unknown => {}
        }
    }

    /// The current socket is as good as over: another one, and this one is read until then.
    fn move_on(&mut self, event: &'static str) {
        let Some(socket) = self.current.take() else { return };
        self.say("info", event, &socket.trace, &[("socket", socket.id.into())]);
        let steady = self.was_steady(&socket);
        if let Some((older, _)) = self.old.replace((socket, None)) {
            self.outputs.push_back(Output::Close { socket: older.id });
        }
        self.begin(steady);
    }

    fn ended(&mut self, ended: u32, why: &'static str) {
        match &self.attempt {
            Attempt::Asking { socket, trace, .. } | Attempt::Connecting { socket, trace, .. }
                if *socket == ended =>
            {
                let trace = trace.clone();
                return self.failed("warn", FAILED, &trace, &[("why", why.into())]);
            }
            _ => {}
        }
        if self.old.as_ref().is_some_and(|(socket, _)| socket.id == ended) {
            self.old = None;
            return;
        }
        let Some(socket) = self.current.take_if(|socket| socket.id == ended) else { return };
        let fields = [("socket", ended.into()), ("why", why.into())];
        self.say("warn", "dingtalk_stream_lost", &socket.trace, &fields);
        self.failures = if self.was_steady(&socket) { 0 } else { self.failures.saturating_add(1) };
        let _ = self.pause();
    }

    /// Begins an attempt: at once after a socket that was good.
    fn begin(&mut self, at_once: bool) {
        if !matches!(self.attempt, Attempt::None) {
            return;
        }
        if at_once {
            self.failures = 0;
            return self.ask();
        }
        self.failures = self.failures.saturating_add(1);
        let _ = self.pause();
    }

    fn failed(
        &mut self,
        level: &'static str,
        event: &'static str,
        trace: &str,
        why: &[(&'static str, Value)],
    ) {
        self.counts.failed += 1;
        self.failures = self.failures.saturating_add(1);
        let pause = self.pause();
        let fields = [&[("failures", self.failures.into()), ("pauseMs", pause.into())], why].concat();
        self.say(level, event, trace, &fields);
    }

    /// For how long, in milliseconds.
    fn pause(&mut self) -> u64 {
        let ms = pause(self.failures, self.random());
        self.attempt = Attempt::Pausing { until: self.after(ms) };
        ms
    }

    fn on_deadline(&mut self) {
        let now = self.now.unix_ms;
        match &self.attempt {
            Attempt::Pausing { until } if *until <= now => self.ask(),
            Attempt::Asking { socket, trace, until } | Attempt::Connecting { socket, trace, until }
                if *until <= now =>
            {
                let (socket, trace) = (*socket, trace.clone());
                self.outputs.push_back(Output::Close { socket });
                self.failed("warn", FAILED, &trace, &[("why", "timeout".into())]);
            }
            _ => {}
        }
        if let Some((old, _)) = self.old.take_if(|(_, until)| until.is_some_and(|until| until <= now)) {
            self.outputs.push_back(Output::Close { socket: old.id });
        }
        if self.current.as_ref().is_some_and(|socket| self.silent_at(socket) <= now) {
            self.move_on("dingtalk_stream_silent");
        }
        if let Some(socket) = self.current.as_mut().filter(|socket| whisper_at(socket) <= now) {
            socket.whispered_ms = now;
            self.outputs.push_back(Output::Whisper { socket: socket.id });
        }
        let due = |pending: &&mut Pending| pending.due.is_some_and(|due| due <= now);
        let name = self.robot.name.clone();
        for pending in self.pending.iter_mut().filter(due) {
            self.outputs.push_back(pending.hand(&name));
        }
    }

    fn take(&mut self, peer: String, data: String) {
        let id = self.next_message;
        self.next_message += 1;
        let trace = self.new_trace();
        let mut pending = Pending { id, trace, peer, data, tries: 0, due: None };
        self.outputs.push_back(pending.hand(&self.robot.name));
        self.pending.push(pending);
    }

    fn taken(&mut self, message: u64, status: Option<u16>) {
        let Some(at) = self.pending.iter().position(|pending| pending.id == message) else { return };
        // Whatever is no failure of ours is an answer: the same request would get it again.
        if status.is_some_and(|status| status < 500 && status != 429) {
            self.pending.swap_remove(at);
            return;
        }
        let random = self.random();
        let now = self.now.unix_ms;
        let mut pending = self.pending.swap_remove(at);
        if pending.tries < MOST_TRIES && !self.stopped {
            pending.due = Some(now.saturating_add(SOONEST_MS).saturating_add(pause(pending.tries, random)));
            return self.pending.push(pending);
        }
        self.say("error", "dingtalk_stream_message_lost", &pending.trace, &[("tries", pending.tries.into())]);
    }

    /// Whether messages that were answered are on their way to become turns: also after the end.
    pub fn hands_on(&self) -> bool {
        !self.pending.is_empty()
    }

    fn stop(&mut self) {
        self.stopped = true;
        let attempt = match self.attempt {
            Attempt::Asking { socket, .. } | Attempt::Connecting { socket, .. } => Some(socket),
            Attempt::None | Attempt::Pausing { .. } => None,
        };
        self.attempt = Attempt::None;
        // These were answered, and wait for a store that was not there: nobody hands them on any more.
        let lost: Vec<_> = self.pending.extract_if(.., |pending| pending.due.is_some()).collect();
        for pending in lost {
            self.say(
                "error",
                "dingtalk_stream_message_lost",
                &pending.trace,
                &[("tries", pending.tries.into())],
            );
        }
        let old = self.old.take().map(|(socket, _)| socket.id);
        let current = self.current.take().map(|socket| socket.id);
        for socket in [attempt, old, current].into_iter().flatten() {
            self.outputs.push_back(Output::Close { socket });
        }
    }

    fn remember(&mut self, message_id: String) {
        if message_id.is_empty() || message_id.len() > LONGEST_ID {
            return;
        }
        if self.remembered.len() >= REMEMBERED {
            self.remembered.pop_front();
        }
        self.remembered.push_back(message_id);
    }

    fn was_steady(&self, socket: &Socket) -> bool {
        self.now.unix_ms.saturating_sub(socket.opened_ms) >= STEADY_MS
    }

    fn silent_at(&self, socket: &Socket) -> u64 {
        socket.heard_ms.saturating_add(self.robot.silent_ms)
    }

    fn after(&self, ms: u64) -> u64 {
        self.now.unix_ms.saturating_add(ms)
    }

    fn random(&self) -> u64 {
        self.now.entropy.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }

    fn new_trace(&self) -> String {
        self.now.entropy.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn say(&mut self, level: &'static str, event: &'static str, trace: &str, more: &[(&'static str, Value)]) {
        let mut fields = Map::new();
        fields.insert("traceId".to_owned(), trace.into());
        fields.insert("robot".to_owned(), self.robot.name.as_str().into());
        fields.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        self.outputs.push_back(Output::Say { level, event, fields });
    }
}

fn whisper_at(socket: &Socket) -> u64 {
    socket.whispered_ms.saturating_add(WHISPER_MS)
}

impl Pending {
    /// Its request. Only the socket's own host says whose it is, so it is vouched for.
    fn hand(&mut self, robot: &str) -> Output {
        self.tries += 1;
        self.due = None;
        let head = RequestHead {
            method: "POST".to_owned(),
            path: format!("{}{robot}", PATH),
            headers: vec![("x-trace-id".to_owned(), self.trace.clone())],
            peer: self.peer.clone(),
            content_length: Some(self.data.len() as u64),
            robot: Some(robot.to_owned()),
            ..RequestHead::default()
        };
        Output::Hand { message: self.id, head, body: self.data.clone() }
    }
}

#[cfg(test)]
mod tests;
