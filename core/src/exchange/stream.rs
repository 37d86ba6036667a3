//! The stages of a streamed answer.
//!
//! Both of OpenClaw's streams become the same chunks. Once the first byte is sent the
//! status is 200 for good: a failure after that is an event, and the stream always ends
//! with `[DONE]`. A stream that breaks off is a failure, never an end.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    audit::Passage,
    chat::{self, Turn, Voice},
    inspection::{self, Inspection, Progress},
    pieces::Pieces,
    record::Sight,
    routes::Route,
};
use crate::{
    policy::{ContentMode, Policy},
    seam::{FetchFailure, Input, Moment, Output, find_header},
    wire::{
        answer::{Answer, Finish, StreamEvent, Usage},
        chat::Api,
        completions,
        failure::Failure,
        links::Collector,
        reply::{self, Ending, Part},
        responses,
        sse::Events,
        tool::Calls,
        upstream,
    },
};

/// The most bytes of a refusal that are read.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// Milliseconds that the upstream has to close after its end mark, so that its connection can be
/// used again; the client's answer ends then in any case.
const CLOSE_GRACE: u64 = 250;

const DONE: &str = "data: [DONE]\n\n";

/// What is known of a refusal so far.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Refusal {
    retry_after: Option<String>,
    body: ByteBuf,
}

/// What is known of a stream so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Streaming {
    events: Events,
    links: Collector,
    finish: Option<Finish>,
    usage: Usage,
    /// The end mark was sent; only the connection's own end is missing.
    ended: bool,
    /// What is held back until it has been checked, where texts are checked.
    held: Option<Box<Held>>,
    /// The text of an intent's answer on its way into events.
    mini: Option<Box<Pieces>>,
    /// The connection has ended.
    closed: bool,
    /// Text has come.
    begun: bool,
    /// The text of a chat, where the whole answer is wanted at the end.
    chat: Option<String>,
    /// What the model wants done, where tools are offered to it.
    calls: Calls,
}

/// Events that nobody has seen yet.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Held {
    /// The text of the events that have not been handed in yet, and the events.
    text: String,
    events: String,
    /// The events whose text is being checked.
    checking: Option<(Box<Inspection>, String)>,
    /// How many checks were passed.
    passed: u32,
}

impl Held {
    /// Whether there is enough for a check. The first is small, so that a person soon sees
    /// something; later ones are larger, so that WeChat is not asked for every sentence.
    fn is_ripe(&self, ended: bool) -> bool {
        let enough = match self.passed {
            0 => 60,
            1 => 300,
            _ => 1_500,
        };
        self.checking.is_none()
            && !self.events.is_empty()
            && (ended || self.text.chars().take(enough).count() >= enough)
    }
}

impl Exchange {
    /// The upstream begins to answer.
    pub(super) fn in_stream_head(&mut self, policy: &Policy, turn: Box<Turn>, input: Input<'_>, now: Moment) {
        match input {
            Input::FetchHead { id, status, headers } if id == turn.fetch_id => {
                self.story.upstream_status = Some(status);
                self.timers.first_byte = None;
                let is_stream = find_header(&headers, "content-type")
                    .is_some_and(|kind| kind.starts_with("text/event-stream"));
                if status != 200 {
                    let retry_after = find_header(&headers, "retry-after");
                    self.timers.idle = Some(now.unix_ms + policy.deadlines.idle);
                    // Kept for the case that the rest of it does not come.
                    self.story.code = Some(upstream::failed(status, b"", retry_after).code);
                    let retry_after = retry_after.map(str::to_owned);
                    self.phase = Phase::StreamRefusal(turn, Refusal { retry_after, body: ByteBuf::new() });
                } else if is_stream {
                    self.story.sight = Sight::Seen;
                    // Of a draft and the answer after it, the answer.
                    self.story.answered = None;
                    self.begin_streaming(policy, turn, now);
                } else {
                    self.story.sight = Sight::Seen;
                    self.outputs.push_back(Output::Cancel { id });
                    self.turn_failed(policy, *turn, &upstream::protocol(), now);
                }
            }
            Input::FetchFailed { id, failure } if id == turn.fetch_id => {
                self.story.sight = chat::sight_of(failure);
                self.turn_failed(policy, *turn, &chat::fetch_failed(failure), now)
            }
            _ => self.phase = Phase::StreamHead(turn),
        }
    }

    /// A refusal's body is small JSON; it says what the status does not.
    pub(super) fn in_stream_refusal(
        &mut self,
        policy: &Policy,
        turn: Box<Turn>,
        mut refusal: Refusal,
        input: Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::FetchLines { id, lines } if id == turn.fetch_id => {
                let room = LONGEST_REFUSAL.saturating_sub(refusal.body.len());
                refusal.body.extend_from_slice(&lines[..lines.len().min(room)]);
                self.phase = Phase::StreamRefusal(turn, refusal);
            }
            Input::FetchEnd { id } | Input::FetchFailed { id, .. } if id == turn.fetch_id => {
                let status = self.story.upstream_status.unwrap_or(502);
                let Refusal { retry_after, body } = refusal;
                let failure = upstream::failed(status, &body, retry_after.as_deref());
                self.turn_failed(policy, *turn, &failure, now);
            }
            _ => self.phase = Phase::StreamRefusal(turn, refusal),
        }
    }

    /// Sends the head of an event stream and its first event, once; and the first event again where a text
    /// begins anew.
    pub(super) fn open_stream(&mut self, policy: &Policy, turn: &mut Turn, now: Moment) {
        if self.story.opened && !std::mem::take(&mut self.story.anew) {
            return;
        }
        self.story.anew = false;
        let mut headers = self.common_headers();
        headers.push(("content-type".into(), "text/event-stream; charset=utf-8".into()));
        // A proxy in front (nginx) must not hold events back.
        headers.push(("x-accel-buffering".into(), "no".into()));
        headers.extend(turn.rate_headers.iter().cloned());
        self.story.status = 200;
        self.story.opened = true;
        if self.run.is_none() {
            self.outputs.push_back(Output::Head { status: 200, headers });
        }
        let mut first = String::with_capacity(256);
        match &mut turn.voice {
            Voice::Chat { envelope, .. } => envelope.first(&mut first),
            Voice::Mini(plan) => plan.reply.meta(&mut first),
        }
        self.send(policy, first, now);
    }

    fn begin_streaming(&mut self, policy: &Policy, mut turn: Box<Turn>, now: Moment) {
        self.open_stream(policy, &mut turn, now);
        self.timers.idle = Some(now.unix_ms + policy.deadlines.idle);
        let mut streaming = Streaming::default();
        if policy.content.mode != ContentMode::Off {
            streaming.held = Some(Box::default());
        }
        if self.run.is_some() && matches!(turn.voice, Voice::Chat { .. }) {
            streaming.chat = Some(String::new());
        }
        if let Voice::Mini(plan) = &turn.voice {
            streaming.mini = Some(Box::new(plan.pieces(policy)));
        }
        self.phase = Phase::Streaming(turn, Box::new(streaming));
    }

    /// Holds events back where texts are checked, and hands in what is enough for a check;
    /// sends them at once where they are not. `None` when the exchange is over.
    fn pass_on(
        &mut self,
        policy: &Policy,
        turn: &Turn,
        streaming: &mut Streaming,
        out: String,
        now: Moment,
    ) -> Option<()> {
        let ended = streaming.ended;
        let Some(held) = &mut streaming.held else {
            self.send(policy, out, now);
            return Some(());
        };
        held.events.push_str(&out);
        while held.is_ripe(ended) {
            let (text, events) = (std::mem::take(&mut held.text), std::mem::take(&mut held.events));
            match self.inspect(policy, &text, now) {
                Ok(Some(inspection)) => held.checking = Some((inspection, events)),
                Ok(None) => self.send(policy, events, now),
                Err(()) => {
                    self.give_up_stream(policy, turn, streaming, &inspection::unchecked(), now);
                    return None;
                }
            }
        }
        Some(())
    }

    /// A stream that may not go on, for a reason that does not lie with OpenClaw.
    fn give_up_stream(
        &mut self,
        policy: &Policy,
        turn: &Turn,
        streaming: &Streaming,
        failure: &Failure,
        now: Moment,
    ) {
        self.close(turn, streaming);
        self.fail_stream(policy, failure, String::new(), now);
    }

    /// The check of a piece of the stream has come to something.
    fn stream_checked(
        &mut self,
        policy: &Policy,
        turn: Box<Turn>,
        mut streaming: Box<Streaming>,
        progress: Progress,
        now: Moment,
    ) {
        match progress {
            Progress::Refused => self.give_up_stream(policy, &turn, &streaming, &inspection::refused(), now),
            Progress::Unchecked => {
                self.give_up_stream(policy, &turn, &streaming, &inspection::unchecked(), now)
            }
            Progress::Waiting | Progress::NotMine => self.phase = Phase::Streaming(turn, streaming),
            Progress::Passed => {
                let checked = streaming.held.as_mut().and_then(|held| {
                    held.passed += 1;
                    held.checking.take()
                });
                if let Some((_, events)) = checked {
                    self.send(policy, events, now);
                }
                if self.pass_on(policy, &turn, &mut streaming, String::new(), now).is_none() {
                    return;
                }
                self.end_if_shown(policy, turn, streaming, now);
            }
        }
    }

    /// Closes OpenClaw's connection, if it is still there.
    fn close(&mut self, turn: &Turn, streaming: &Streaming) {
        if !streaming.closed {
            self.outputs.push_back(Output::Cancel { id: turn.fetch_id });
        }
    }

    /// Ends an answer of which everything has been shown.
    fn end_if_shown(&mut self, policy: &Policy, turn: Box<Turn>, streaming: Box<Streaming>, now: Moment) {
        let waits = streaming.held.as_ref().is_some_and(|held| held.checking.is_some());
        if !streaming.ended || waits {
            self.phase = Phase::Streaming(turn, streaming);
            return;
        }
        self.close(&turn, &streaming);
        if !streaming.calls.is_empty() {
            return self.streamed_calls(policy, *turn, *streaming, now);
        }
        if let Some(pieces) = streaming.mini {
            let finish = streaming.finish.unwrap_or(Finish::Stop);
            return self.mini_streamed(policy, *turn, *pieces, streaming.usage, finish, now);
        }
        self.keep_chat(&turn, &streaming);
        self.end_answer();
        self.finish(policy, now);
    }

    /// A stream whose end is that something is to be done.
    fn streamed_calls(&mut self, policy: &Policy, turn: Turn, streaming: Streaming, now: Moment) {
        self.story.spent(streaming.usage);
        // Words beside a call are no part of the answer, which comes after it.
        self.story.anew |= streaming.begun;
        match streaming.calls.finish() {
            Ok(calls) => {
                let (usage, finish) = (streaming.usage, Finish::Tools);
                let answer = Answer { text: String::new(), finish, usage, calls };
                self.take_calls(policy, turn, answer, now);
            }
            Err(failure) => self.turn_failed(policy, turn, &failure, now),
        }
    }

    /// WeChat has not answered about a piece of the stream in time.
    pub(super) fn stream_check_timed_out(
        &mut self,
        policy: &Policy,
        turn: Box<Turn>,
        mut streaming: Box<Streaming>,
        now: Moment,
    ) {
        let progress = match streaming.held.as_mut().and_then(|held| held.checking.as_mut()) {
            Some((inspection, _)) => self.inspection_timed_out(policy, inspection, now),
            None => Progress::NotMine,
        };
        self.timers.check = None;
        self.stream_checked(policy, turn, streaming, progress, now);
    }

    /// More of the stream.
    pub(super) fn in_stream(
        &mut self,
        policy: &Policy,
        mut turn: Box<Turn>,
        mut streaming: Box<Streaming>,
        input: Input<'_>,
        now: Moment,
    ) {
        if let Some((inspection, _)) = streaming.held.as_mut().and_then(|held| held.checking.as_mut()) {
            let progress = self.inspect_on(policy, inspection, &input, now);
            if progress != Progress::NotMine {
                return self.stream_checked(policy, turn, streaming, progress, now);
            }
        }
        match input {
            Input::FetchLines { id, lines } if id == turn.fetch_id => {
                if streaming.ended {
                    self.phase = Phase::Streaming(turn, streaming);
                    return;
                }
                self.timers.idle = Some(now.unix_ms + policy.deadlines.idle);
                let mut out = String::with_capacity(lines.len() + 256);
                let said = self.story.answered.get_or_insert_default();
                let failure = streaming.read(policy, &mut turn, lines, said, &mut out, now);
                if self.story.first_ms.is_none() && streaming.has_text() {
                    self.story.first_ms = Some(now.unix_ms);
                }
                if streaming.mini.is_none() {
                    self.story.usage = Some(streaming.usage).filter(|usage| usage.total > 0);
                }
                if let Some(failure) = failure {
                    self.outputs.push_back(Output::Cancel { id });
                    self.drop_check(&streaming);
                    if streaming.mini.is_some() {
                        return self.mini_stream_failed(policy, *turn, *streaming, &failure, now);
                    }
                    // What has not been checked is not shown.
                    let out = if streaming.held.is_some() { String::new() } else { out };
                    self.fail_stream(policy, &failure, out, now);
                    return;
                }
                if self.pass_on(policy, &turn, &mut streaming, out, now).is_none() {
                    return;
                }
                self.timers.frame = streaming.mini.as_ref().and_then(|pieces| pieces.due_ms());
                if streaming.ended && streaming.held.is_some() {
                    // OpenClaw is done; its slot need not wait for WeChat.
                    self.timers.idle = None;
                    self.release_lease(policy);
                    return self.end_if_shown(policy, turn, streaming, now);
                }
                if streaming.ended {
                    // Nothing may follow the end mark, not even a comment.
                    self.timers.heartbeat = None;
                    self.timers.idle = Some(now.unix_ms + CLOSE_GRACE);
                }
                self.phase = Phase::Streaming(turn, streaming);
            }
            Input::FetchEnd { id } if id == turn.fetch_id => {
                let mut out = String::new();
                streaming.closed = true;
                if let Some(failure) = streaming.end(policy, &mut turn, &mut out) {
                    self.drop_check(&streaming);
                    if streaming.mini.is_some() {
                        return self.mini_stream_failed(policy, *turn, *streaming, &failure, now);
                    }
                    return self.fail_stream(policy, &failure, out, now);
                }
                if self.pass_on(policy, &turn, &mut streaming, out, now).is_none() {
                    return;
                }
                if streaming.held.is_some() {
                    self.timers.idle = None;
                    self.release_lease(policy);
                }
                self.end_if_shown(policy, turn, streaming, now);
            }
            Input::FetchFailed { id, failure } if id == turn.fetch_id => {
                streaming.closed = true;
                if streaming.ended {
                    return self.end_if_shown(policy, turn, streaming, now);
                }
                self.drop_check(&streaming);
                let failure = match failure {
                    FetchFailure::ConnectTimeout => chat::timed_out(),
                    _ => upstream::protocol(),
                };
                if streaming.mini.is_some() {
                    return self.mini_stream_failed(policy, *turn, *streaming, &failure, now);
                }
                self.fail_stream(policy, &failure, String::new(), now);
            }
            _ => self.phase = Phase::Streaming(turn, streaming),
        }
    }

    /// A deadline in mid-stream. One after the end mark only says that the upstream
    /// forgot to close.
    pub(super) fn stream_timed_out(
        &mut self,
        policy: &Policy,
        mut turn: Box<Turn>,
        mut streaming: Box<Streaming>,
        now: Moment,
    ) {
        let held = streaming.held.is_some();
        if streaming.ended && !held {
            streaming.closed = true;
            return self.end_if_shown(policy, turn, streaming, now);
        }
        if streaming.finish.is_some() && !held {
            let mut out = String::new();
            streaming.ended = true;
            streaming.closed = true;
            streaming.write_end(policy, &mut turn, &mut out);
            self.send(policy, out, now);
            return self.end_if_shown(policy, turn, streaming, now);
        }
        if streaming.mini.is_some() {
            return self.mini_stream_failed(policy, *turn, *streaming, &chat::timed_out(), now);
        }
        self.fail_stream(policy, &chat::timed_out(), String::new(), now);
    }

    /// Ends a stream with an error event.
    pub(super) fn fail_stream(&mut self, policy: &Policy, failure: &Failure, mut out: String, now: Moment) {
        self.story.code = Some(failure.code);
        self.story.retry_after_s = failure.retry_after_s;
        let body = self.failure_body(failure);
        if self.facts.route == Route::Ask {
            reply::error(&mut out, &body);
        } else if self.facts.route.is_openai() {
            // Without an end mark: what broke off is not complete.
            out.push_str(&format!("data: {body}\n\n"));
        } else {
            out.push_str("data: ");
            out.push_str(&body);
            out.push_str("\n\n");
            out.push_str(DONE);
        }
        self.send(policy, out, now);
        self.keep_end(failure.code.status(), body);
        self.end_answer();
        self.finish(policy, now);
    }

    /// Sends bytes to a streaming client and moves its heartbeat.
    pub(super) fn send(&mut self, policy: &Policy, out: String, now: Moment) {
        if out.is_empty() || self.keep_events(&out) {
            return;
        }
        self.timers.heartbeat = Some(now.unix_ms + policy.deadlines.heartbeat);
        self.outputs.push_back(Output::Chunk(ByteBuf::from(out.into_bytes())));
    }
}

impl Exchange {
    /// A check that nobody waits for any more.
    fn drop_check(&mut self, streaming: &Streaming) {
        self.outputs.extend(streaming.inspection_id().map(|id| Output::Cancel { id }));
    }
}

impl Streaming {
    /// What a running check waits for.
    pub(super) fn inspection_id(&self) -> Option<u32> {
        let (inspection, _) = self.held.as_ref()?.checking.as_ref()?;
        Some(inspection.id())
    }

    /// The text of a chat, where it was wanted.
    pub(super) fn chat_text(&self) -> Option<&str> {
        self.chat.as_deref()
    }

    /// Why it ended.
    pub(super) fn finish_or_stop(&self) -> Finish {
        self.finish.unwrap_or(Finish::Stop)
    }

    /// What it cost.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Whether OpenClaw's connection is still there.
    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Whether anything of the answer's text has come.
    pub(super) fn has_text(&self) -> bool {
        self.begun
    }

    /// Whether anything of the answer's text has gone to the client, or may have.
    pub(super) fn has_shown(&self) -> bool {
        match &self.held {
            Some(held) => held.passed > 0,
            None => self.mini.as_ref().is_some_and(|pieces| pieces.has_written()),
        }
    }

    /// Reads lines and writes the client's events; gives the failure that ends it.
    fn read(
        &mut self,
        policy: &Policy,
        turn: &mut Turn,
        lines: &[u8],
        said: &mut Passage,
        out: &mut String,
        now: Moment,
    ) -> Option<Failure> {
        let api = turn.api;
        let Self { events, links, finish, usage, held, mini, begun, chat, calls, .. } = self;
        let offers = matches!(&turn.voice, Voice::Mini(plan) if plan.offers);
        let (mut failure, mut done) = (None, false);
        let mut handle = |event: StreamEvent<'_>| {
            if failure.is_some() || done {
                return;
            }
            match event {
                StreamEvent::Delta(raw) => {
                    *begun = true;
                    let text = serde_json::from_str::<Cow<'_, str>>(raw);
                    match (&turn.voice, mini.as_mut()) {
                        (Voice::Chat { envelope, .. }, _) => {
                            envelope.delta(out, raw);
                            if let (Ok(text), Some(chat)) = (&text, chat.as_mut()) {
                                chat.push_str(text);
                            }
                            if let (Ok(text), Some(held)) = (&text, held.as_mut()) {
                                held.text.push_str(text);
                            }
                        }
                        (Voice::Mini(_), Some(pieces)) => {
                            if let Ok(text) = &text {
                                pieces.push(policy, text);
                            }
                        }
                        (Voice::Mini(_), None) => {}
                    }
                    if let Ok(text) = text {
                        said.push(policy, &text);
                        links.push(&text);
                    }
                }
                StreamEvent::Finished(reason) => *finish = Some(reason),
                StreamEvent::Usage(tokens) => *usage = tokens,
                StreamEvent::Failed(reason) => failure = Some(reason),
                StreamEvent::Done => done = true,
                StreamEvent::Call(piece) if offers => failure = calls.push(&piece).err(),
                StreamEvent::Call(_) | StreamEvent::Nothing => {}
            }
        };
        events.push(lines, |data| match api {
            Api::Completions => completions::event(data, &mut handle),
            Api::Responses => responses::event(data, &mut handle),
        });
        if failure.is_some() {
            return failure;
        }
        self.write_frame(turn, out, now);
        if self.mini.as_ref().is_some_and(|pieces| pieces.is_spent()) && self.finish.is_none() {
            // The day's tokens are used up: the answer ends here, in order.
            self.finish = Some(Finish::Budget);
            done = true;
        }
        if done {
            if self.finish.is_none() {
                return Some(upstream::protocol());
            }
            self.ended = true;
            self.write_end(policy, turn, out);
        }
        None
    }

    /// Writes the pieces that are due as an event.
    pub(super) fn write_frame(&mut self, turn: &mut Turn, out: &mut String, now: Moment) {
        let (Some(pieces), Voice::Mini(plan)) = (&mut self.mini, &mut turn.voice) else { return };
        // What is held back for a check is not held back for a frame too.
        if let Some(text) = pieces.frame(now, self.held.is_some()) {
            plan.reply.delta(out, plan.part, &text);
            if let Some(held) = &mut self.held {
                held.text.push_str(&text);
            }
        }
    }

    /// The connection has ended in order.
    fn end(&mut self, policy: &Policy, turn: &mut Turn, out: &mut String) -> Option<Failure> {
        if self.ended {
            return None;
        }
        if self.finish.is_none() {
            return Some(upstream::protocol());
        }
        self.ended = true;
        self.write_end(policy, turn, out);
        None
    }

    /// The last events of an answer that is complete.
    fn write_end(&mut self, policy: &Policy, turn: &mut Turn, out: &mut String) {
        let finish = self.finish.unwrap_or(Finish::Stop);
        if !self.calls.is_empty() {
            // It goes on when what it wants done is done.
            return;
        }
        match &mut turn.voice {
            Voice::Chat { envelope, include_usage } => {
                envelope.finish(out, finish, self.usage, self.links.links());
                if *include_usage {
                    envelope.usage(out, self.usage);
                }
                out.push_str(DONE);
            }
            Voice::Mini(plan) => {
                let Some(pieces) = &mut self.mini else { return };
                if let Some(text) = pieces.rest(policy) {
                    plan.reply.delta(out, plan.part, &text);
                    if let Some(held) = &mut self.held {
                        held.text.push_str(&text);
                    }
                }
                if plan.part != Part::Draft {
                    let links = self.links.links();
                    let ending = Ending { finish, usage: self.usage, links, data: None };
                    plan.reply.done(out, ending);
                }
            }
        }
    }
}
