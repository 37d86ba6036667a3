//! Drives one exchange: the run loop of the core's documentation.
//!
//! It is pulled by the client: while the client does not read, nothing is read from the
//! upstream. When it goes away the driver is dropped, and with it every fetch that it holds. An
//! exchange that goes on after the end of its answer is one that the platform waits for. One that a key's
//! alarm begins has no client, and is waited for by the key's object.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    rc::Rc,
    task::{self, Poll},
};

use futures_util::{
    FutureExt as _,
    future::{Either, LocalBoxFuture, join_all, ready, select},
    stream::{FuturesUnordered, StreamExt as _, unfold},
};
use js_sys::{Date, Promise, Uint8Array};
use minigate_core::{
    exchange::Exchange,
    measure::Process,
    policy::Policy,
    seam::{
        BodyFailure, Delivery, Fetch, FetchFailure, Input, Level, Moment, Output, Problem, RequestHead,
        WholeLines, keep, pieces, restore,
    },
    state::{Op, Outcome},
};
use serde_bytes::ByteBuf;
use wasm_bindgen::{JsCast as _, JsValue};
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortSignal, Headers, ReadableStreamDefaultReader, Request, Response, ResponseInit};
use worker::{AnalyticsEngineDataset, Context, Env, ObjectNamespace};

use super::{
    describe_js,
    guard::guarded,
    js, ledger, live, state_cell, stats,
    upstream::{self, Addresses, Answer, Body},
};

/// What an isolate's exchanges share that are of one configuration.
pub(super) struct Worker {
    pub(super) policy: Policy,
    pub(super) addresses: Addresses,
    pub(super) state: ObjectNamespace,
    /// The audit ledger, where there is one.
    pub(super) ledger: Option<ObjectNamespace>,
    /// Where single points go, when there is such a binding.
    pub(super) analytics: Option<AnalyticsEngineDataset>,
    /// Settings, secrets and bindings, for another configuration.
    pub(super) env: Env,
}

/// What goes to the client.
enum Emission {
    Head { status: u16, headers: Vec<(String, String)> },
    Chunk(Vec<u8>),
    End,
}

/// Something that was waited for.
enum Event {
    Body(Result<Uint8Array, BodyFailure>),
    Stored(u32, Option<Vec<Outcome>>),
    /// The request's body is there again.
    Restored(u32, Uint8Array),
    Woken(u32),
    /// What was counted is in the store.
    Flushed(u32),
    /// A configuration was checked.
    Checked(u32, Option<String>, Vec<Problem>),
    /// A configuration was taken, or not.
    Taken(u32, bool),
    /// The configuration that the exchange goes on with, where it was found.
    Under(Option<Rc<Worker>>),
    Whole {
        id: u32,
        status: u16,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    },
    Head {
        id: u32,
        answer: Answer,
        limit: u64,
    },
    Lines {
        id: u32,
        lines: Vec<u8>,
        rest: Body,
        limit: u64,
    },
    End(u32),
    Failed(u32, FetchFailure),
    Deadline,
}

/// The id under which the body is waited for; the core's own begin at 1.
const BODY: u32 = 0;
/// The id under which another configuration is waited for.
const UNDER: u32 = u32::MAX;

/// One exchange and everything that belongs to it.
pub(super) struct Driver {
    worker: Rc<Worker>,
    /// The request's; `None` when there is no client.
    head: Option<RequestHead>,
    begun: Moment,
    exchange: Option<Exchange>,
    request: Option<Request>,
    body: Option<Uint8Array>,
    waiting: Vec<(u32, LocalBoxFuture<'static, Event>)>,
    /// Operations that have a ticket, with their keys, by their ids, until it is known whether
    /// they are waited for.
    ticketed: Vec<(u32, String, Op)>,
    /// The request's, which waits for what nobody else waits for.
    context: Option<Rc<Context>>,
    /// Operations that nobody waits for, where there is no request.
    told: FuturesUnordered<LocalBoxFuture<'static, ()>>,
    deadline: Option<(u64, LocalBoxFuture<'static, Event>)>,
    emissions: VecDeque<Emission>,
    head_sent: bool,
    ended: bool,
    done: bool,
}

/// Now, with fresh entropy. Both come from the platform.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "milliseconds fit")]
pub(super) fn moment() -> Moment {
    let mut entropy = [0; 16];
    // `crypto.getRandomValues` does not fail for 16 bytes.
    let _ = getrandom::fill(&mut entropy);
    Moment { unix_ms: Date::now() as u64, entropy }
}

impl Driver {
    /// Begins an exchange with a request's head.
    pub(super) fn begin(
        worker: Rc<Worker>,
        head: RequestHead,
        request: Request,
        context: Rc<Context>,
    ) -> Self {
        let began = head.clone();
        Self::start(worker, Some(head), Some(request), Some(context), |policy, now| {
            Exchange::new(policy, began, now)
        })
    }

    fn start(
        worker: Rc<Worker>,
        head: Option<RequestHead>,
        request: Option<Request>,
        context: Option<Rc<Context>>,
        begin: impl FnOnce(&Policy, Moment) -> Exchange,
    ) -> Self {
        let begun = moment();
        let made = guarded(|| {
            let mut exchange = begin(&worker.policy, begun);
            let outputs = drain(&mut exchange);
            (exchange, outputs)
        });
        let mut driver = Self {
            worker,
            head,
            begun,
            exchange: None,
            request,
            body: None,
            waiting: Vec::new(),
            ticketed: Vec::new(),
            context,
            told: FuturesUnordered::new(),
            deadline: None,
            emissions: VecDeque::new(),
            head_sent: false,
            ended: false,
            done: false,
        };
        match made {
            Ok((exchange, outputs)) => {
                driver.exchange = Some(exchange);
                driver.perform_all(outputs);
            }
            Err(error) => driver.broken(&error),
        }
        driver
    }

    /// The next thing for the client; `None` when the exchange is over.
    async fn next(&mut self) -> Option<Emission> {
        loop {
            if let Some(emission) = self.emissions.pop_front() {
                return Some(emission);
            }
            if self.done {
                return None;
            }
            let event = poll_fn(|context| self.poll_event(context)).await;
            self.handle(event);
        }
    }

    /// The client has its whole answer. An exchange that is not over goes on without it.
    fn leave(mut self) {
        if self.done {
            return;
        }
        if let Some(context) = self.context.clone() {
            context.wait_until(async move { while self.next().await.is_some() {} });
        }
    }

    /// Whether all of the answer is there, to be sent in one piece.
    fn answer_is_complete(&self) -> bool {
        matches!(self.emissions.back(), Some(Emission::End))
    }

    /// The first of what is waited for, or the deadline.
    fn poll_event(&mut self, context: &mut task::Context<'_>) -> Poll<Event> {
        while let Poll::Ready(Some(())) = self.told.poll_next_unpin(context) {}
        for index in 0..self.waiting.len() {
            if let Poll::Ready(event) = self.waiting[index].1.poll_unpin(context) {
                drop(self.waiting.swap_remove(index));
                return Poll::Ready(event);
            }
        }
        match &mut self.deadline {
            Some((_, timer)) => timer.poll_unpin(context),
            None => Poll::Pending,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Body(Ok(body)) => {
                let bytes = body.to_vec();
                self.body = Some(body);
                self.step(Input::Body(&bytes));
            }
            Event::Body(Err(failure)) => self.step(Input::BodyFailed(failure)),
            Event::Stored(id, Some(outcomes)) => {
                self.step(Input::Stored { id, outcomes });
                self.ticketed.retain(|(of, ..)| *of != id);
            }
            Event::Restored(id, body) => {
                self.body = Some(body);
                self.step(Input::Stored { id, outcomes: Vec::new() });
            }
            Event::Woken(id) => self.step(Input::Woken { id }),
            Event::Stored(id, None) => {
                self.ticketed.retain(|(of, ..)| *of != id);
                self.step(Input::StoreFailed { id });
            }
            Event::Flushed(id) => {
                self.step(Input::Stats { id, totals: ByteBuf::new(), process: Process::default() });
            }
            Event::Checked(id, version, problems) => self.step(Input::Checked { id, version, problems }),
            Event::Taken(id, done) => self.step(Input::Taken { id, done }),
            Event::Under(found) => {
                if let Some(worker) = found {
                    self.worker = worker;
                }
                self.step(Input::Under);
            }
            Event::Whole { id, status, headers, body } => {
                self.step(Input::FetchWhole { id, status, headers, body: &body });
            }
            Event::Head { id, answer: Answer { status, headers, body }, limit } => {
                self.waiting.push((id, read_lines(id, body, limit).boxed_local()));
                self.step(Input::FetchHead { id, status, headers });
            }
            Event::Lines { id, lines, rest, limit } => {
                self.waiting.push((id, read_lines(id, rest, limit).boxed_local()));
                self.step(Input::FetchLines { id, lines: &lines });
            }
            Event::End(id) => self.step(Input::FetchEnd { id }),
            Event::Failed(id, failure) => self.step(Input::FetchFailed { id, failure }),
            Event::Deadline => {
                self.deadline = None;
                self.step(Input::Deadline);
            }
        }
    }

    fn step(&mut self, input: Input<'_>) {
        let Some(mut exchange) = self.exchange.take() else { return };
        let worker = Rc::clone(&self.worker);
        let made = guarded(move || {
            exchange.handle_input(&worker.policy, input, moment());
            let outputs = drain(&mut exchange);
            (exchange, outputs)
        });
        match made {
            Ok((exchange, outputs)) => {
                self.exchange = Some(exchange);
                self.perform_all(outputs);
            }
            Err(error) => self.broken(&error),
        }
    }

    /// The core failed at this exchange: its client gets the same error as on any host.
    fn broken(&mut self, error: &JsValue) {
        worker::console_error!("{}", js::log_line("module_failed", &describe_js(error)));
        // Without a client nobody is told: the alarm goes off again by itself.
        let Some(head) = &self.head else { return self.perform(Output::Done) };
        let outputs = Exchange::broken(&self.worker.policy, head, self.begun, moment(), self.head_sent);
        self.perform_all(outputs);
    }

    fn perform_all(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::ReadBody { limit } => {
                if let Some(request) = self.request.take() {
                    self.waiting.push((BODY, read_body(request, limit).boxed_local()));
                }
            }
            Output::Store { id, ops } => {
                let state = self.worker.state.clone();
                if id == 0 {
                    let apply = state_cell::apply(state, ops).map(drop);
                    return self.later(apply);
                }
                let ticketed = ops.iter().find(|(_, op)| op.ticket().is_some());
                self.ticketed.extend(ticketed.map(|(key, op)| (id, key.clone(), op.clone())));
                let apply = async move { Event::Stored(id, state_cell::apply(state, ops).await) };
                self.waiting.push((id, apply.boxed_local()));
            }
            Output::Watch { id } => {
                if let Some(at) = self.ticketed.iter().position(|(of, ..)| *of == id) {
                    let (_, key, op) = self.ticketed.swap_remove(at);
                    let watch = state_cell::watch(self.worker.state.clone(), key, op);
                    self.waiting.push((id, watch.map(move |()| Event::Woken(id)).boxed_local()));
                }
            }
            Output::Keep { id, key, start, len, ttl_ms } => {
                let base64 = self.body.as_ref().map(|body| body.subarray(start, start + len).to_vec());
                let ops = base64.and_then(|base64| guarded(|| keep(&key, &base64, ttl_ms)).ok().flatten());
                let state = self.worker.state.clone();
                let apply = async move {
                    let Some(ops) = ops else { return Event::Stored(id, None) };
                    let each = ops.into_iter().map(|op| state_cell::apply(state.clone(), vec![op]));
                    let applied: Option<Vec<_>> = join_all(each).await.into_iter().collect();
                    Event::Stored(id, applied.map(|outcomes| outcomes.concat()))
                };
                self.waiting.push((id, apply.boxed_local()));
            }
            Output::KeepBody { id, key, ttl_ms } => {
                let body = self.body.as_ref().map(Uint8Array::to_vec).unwrap_or_default();
                let state = self.worker.state.clone();
                let apply = async move {
                    let each =
                        pieces(&key, &body, ttl_ms).map(|op| state_cell::apply(state.clone(), vec![op]));
                    let applied: Option<Vec<_>> = join_all(each).await.into_iter().collect();
                    Event::Stored(id, applied.map(|outcomes| outcomes.concat()))
                };
                self.waiting.push((id, apply.boxed_local()));
            }
            Output::Restore { id, key, len } => {
                let state = self.worker.state.clone();
                let read = async move {
                    let mut body = Vec::new();
                    for op in restore(&key, len) {
                        match state_cell::apply(state.clone(), vec![op]).await.as_deref() {
                            Some([Outcome::Value(Some(piece))]) => body.extend_from_slice(piece),
                            _ => return Event::Stored(id, None),
                        }
                    }
                    Event::Restored(id, Uint8Array::from(body.as_slice()))
                };
                self.waiting.push((id, read.boxed_local()));
            }
            Output::Fetch(fetch) => self.fetch(&fetch),
            Output::Cancel { id } => {
                self.waiting.retain(|(waiting, _)| *waiting != id);
                self.ticketed.retain(|(of, ..)| *of != id);
            }
            Output::Head { status, headers } => {
                self.head_sent = true;
                self.emissions.push_back(Emission::Head { status, headers });
            }
            Output::Chunk(bytes) => self.emissions.push_back(Emission::Chunk(bytes.into_vec())),
            Output::End => {
                self.ended = true;
                self.emissions.push_back(Emission::End);
            }
            Output::Record { level: Level::Error, line } => worker::console_error!("{line}"),
            Output::Record { line, .. } => worker::console_log!("{line}"),
            Output::Audit { record } => match self.worker.ledger.clone() {
                Some(ledger) => self.later(ledger::add(ledger, record)),
                None => worker::console_log!("{record}"),
            },
            Output::Ledger { id, find } => {
                let ledger = self.worker.ledger.clone();
                let read = async move {
                    let lines = match ledger {
                        Some(ledger) => ledger::read(ledger, find).await,
                        None => None,
                    };
                    Event::Stored(id, lines.map(|lines| vec![Outcome::Value(Some(lines.into()))]))
                };
                self.waiting.push((id, read.boxed_local()));
            }
            Output::Deadline { at_ms, .. } => {
                if self.deadline.as_ref().is_none_or(|(at, _)| *at != at_ms) {
                    let timer = js::Sleep::new(at_ms.saturating_sub(moment().unix_ms));
                    self.deadline = Some((at_ms, timer.map(|()| Event::Deadline).boxed_local()));
                }
            }
            Output::Measure(sample) => {
                let Worker { state, analytics, .. } = &*self.worker;
                let absorb = || stats::absorb(&sample, state, analytics.as_ref());
                // What cannot be counted costs no answer.
                if let Ok(Some(collect)) = guarded(absorb) {
                    self.later(collect);
                }
            }
            Output::Check { id, files } => {
                let Worker { env, policy, .. } = &*self.worker;
                let (found, problems) = live::check(env, policy.environment, &files);
                let version = found.map(|worker| worker.policy.catalog.version);
                self.waiting.push((id, ready(Event::Checked(id, version, problems)).boxed_local()));
            }
            Output::Take { id, number, files } => {
                let Worker { env, policy, .. } = &*self.worker;
                let take = live::take(env.clone(), policy.environment, number, files);
                let take = take.boxed_local().shared();
                // It goes on when nobody waits for it any more.
                self.later(take.clone().map(drop));
                self.waiting.push((id, take.map(move |done| Event::Taken(id, done)).boxed_local()));
            }
            Output::Under { version } => {
                let find = live::find(self.worker.env.clone(), version);
                self.waiting.push((UNDER, find.map(Event::Under).boxed_local()));
            }
            // Kept by the native host only.
            Output::Replayable { .. } => {}
            Output::Stats { id } => {
                let flush = stats::flush(self.worker.state.clone(), stats::any_shard());
                self.waiting.push((id, flush.map(move |()| Event::Flushed(id)).boxed_local()));
            }
            Output::Done => {
                self.done = true;
                self.waiting.clear();
                self.deadline = None;
            }
        }
    }

    /// Something that nobody waits for, but the platform.
    fn later(&self, future: impl Future<Output = ()> + 'static) {
        match &self.context {
            Some(context) => context.wait_until(future),
            None => self.told.push(future.boxed_local()),
        }
    }

    fn fetch(&mut self, fetch: &Fetch) {
        let (id, delivery) = (fetch.id, fetch.delivery);
        let empty = Uint8Array::new_with_length(0);
        let source = self.body.as_ref().unwrap_or(&empty);
        let secret = |name: &str| self.worker.addresses.credential(name);
        let body = (!fetch.body.is_empty()).then(|| js::resolve(&fetch.body, source, secret)).flatten();
        if fetch.body.refers_to_the_body() && !fetch.keeps_body {
            // The upstream's request holds what it needs of it.
            self.body = None;
        }
        let sent = upstream::send(&self.worker.addresses, fetch, body);
        let answer = async move {
            let Ok((promise, abort)) = sent else { return Event::Failed(id, FetchFailure::Connect) };
            let answer = match upstream::head(promise, abort).await {
                Ok(answer) => answer,
                Err(failure) => return Event::Failed(id, failure),
            };
            match delivery {
                Delivery::Lines { limit } => Event::Head { id, answer, limit },
                Delivery::Whole { limit } => match answer.body.collect(limit).await {
                    Ok(body) => Event::Whole { id, status: answer.status, headers: answer.headers, body },
                    Err(failure) => Event::Failed(id, failure),
                },
            }
        };
        self.waiting.push((id, answer.boxed_local()));
    }
}

impl Drop for Driver {
    /// Dropped before its end: the client has gone.
    fn drop(&mut self) {
        if !self.done && !self.ended && self.head.is_some() {
            self.waiting.clear();
            self.step(Input::ClientGone);
        }
    }
}

fn drain(exchange: &mut Exchange) -> Vec<Output> {
    std::iter::from_fn(|| exchange.poll_output()).collect()
}

/// Bytes of an unread body that are read and thrown away.
const DISCARD_BYTES: u64 = 64 * 1024 * 1024;
/// For how long, in milliseconds.
const DISCARD_FOR: u64 = 10_000;
/// A rest of this size is the platform's own to read (`canceledUploadGraceBytes` of kj's HTTP server).
const DISCARD_ABOVE: u64 = 64 * 1024;

/// Before an answer to a request that was not read: its body is read and thrown away for a
/// while. The platform closes the connection as soon as it has the answer, and a client
/// that is still sending then sees a reset in place of it.
async fn discard_unread(request: Request, length: Option<u64>) {
    if length.is_some_and(|length| length <= DISCARD_ABOVE) {
        return;
    }
    let Some(stream) = request.body() else { return };
    let reader: ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
    let rest = std::pin::pin!(discard(&reader));
    select(rest, js::Sleep::new(DISCARD_FOR)).await;
}

/// Reads on to the end, or to a bound.
async fn discard(reader: &ReadableStreamDefaultReader) {
    let mut read = 0;
    while read < DISCARD_BYTES {
        let Ok(result) = JsFuture::from(reader.read()).await else { return };
        if js::property(&result, "done").is_truthy() {
            return;
        }
        read += u64::from(js::property(&result, "value").unchecked_into::<Uint8Array>().length());
    }
}

/// The whole body. With a `Content-Length` the core has checked it, and the platform keeps
/// to it; otherwise it is counted.
async fn read_body(request: Request, limit: u64) -> Event {
    let incomplete = Event::Body(Err(BodyFailure::Incomplete));
    if request.headers().has("content-length").unwrap_or_default() {
        let Ok(promise) = request.array_buffer() else { return incomplete };
        let Ok(buffer) = JsFuture::from(promise).await else { return incomplete };
        return Event::Body(Ok(Uint8Array::new(&buffer)));
    }
    let mut whole = Vec::new();
    let Some(stream) = request.body() else { return Event::Body(Ok(Uint8Array::new_with_length(0))) };
    let reader: ReadableStreamDefaultReader = stream.get_reader().unchecked_into();
    loop {
        let Ok(result) = JsFuture::from(reader.read()).await else { return incomplete };
        if js::property(&result, "done").is_truthy() {
            return Event::Body(Ok(Uint8Array::from(whole.as_slice())));
        }
        let piece = js::property(&result, "value").unchecked_into::<Uint8Array>();
        if whole.len() as u64 + u64::from(piece.length()) > limit {
            drop(whole);
            discard(&reader).await;
            return Event::Body(Err(BodyFailure::TooLarge));
        }
        whole.extend_from_slice(&piece.to_vec());
    }
}

async fn read_lines(id: u32, mut body: Body, limit: u64) -> Event {
    loop {
        match body.next().await {
            Err(failure) => return Event::Failed(id, failure),
            Ok(None) => {
                return match body.lines.rest() {
                    Some(lines) => Event::Lines { id, lines, rest: body, limit },
                    None => Event::End(id),
                };
            }
            Ok(Some(piece)) => match body.lines.push(&piece, limit) {
                Err(_) => return Event::Failed(id, FetchFailure::TooLarge),
                Ok(None) => {}
                Ok(Some(WholeLines { carried, end })) => {
                    let mut lines = carried;
                    lines.extend_from_slice(&piece[..end]);
                    return Event::Lines { id, lines, rest: body, limit };
                }
            },
        }
    }
}

/// Runs the exchange of a key whose alarm has gone off, until everything that it told the store is there.
pub(super) async fn run_alarm(worker: Rc<Worker>, key: &str) {
    let mut driver = Driver::start(worker, None, None, None, |policy, now| Exchange::alarm(policy, key, now));
    while driver.next().await.is_some() {}
    while driver.told.next().await.is_some() {}
}

/// Answers a request with what its driver emits.
pub(super) async fn respond(mut driver: Driver, signal: &AbortSignal) -> worker::Result<Response> {
    let (mut head, mut body) = (None, Vec::new());
    let mut gone = client_gone(signal);
    loop {
        let emission = {
            let next = std::pin::pin!(driver.next());
            match select(next, &mut gone).await {
                Either::Left((emission, _)) => emission,
                // The driver is dropped, which tells the core; nobody reads the answer.
                Either::Right(_) => return Err("the client has gone".into()),
            }
        };
        match emission {
            Some(Emission::Head { status, headers }) => {
                if !driver.answer_is_complete() {
                    return stream(driver, status, &headers);
                }
                head = Some((status, headers));
            }
            // An answer that is there at once may still be several chunks: events of a kept answer.
            Some(Emission::Chunk(bytes)) if body.is_empty() => body = bytes,
            Some(Emission::Chunk(bytes)) => body.extend(bytes),
            Some(Emission::End) | None => {
                let (status, headers) = head.unwrap_or((204, Vec::new()));
                if let Some(request) = driver.request.take() {
                    let length = driver.head.as_ref().and_then(|head| head.content_length);
                    discard_unread(request, length).await;
                }
                driver.leave();
                return whole(status, &headers, &body);
            }
        }
    }
}

/// The answer of a worker that has no valid settings.
pub(super) fn respond_broken(head: &RequestHead) -> worker::Result<Response> {
    let now = moment();
    let (mut status, mut fields, mut body) = (500, Vec::new(), Vec::new());
    for output in Exchange::broken(&Policy::default(), head, now, now, false) {
        match output {
            Output::Head { status: code, headers } => (status, fields) = (code, headers),
            Output::Chunk(bytes) => body = bytes.into_vec(),
            _ => {}
        }
    }
    whole(status, &fields, &body)
}

fn init(status: u16, headers: &[(String, String)]) -> Result<ResponseInit, JsValue> {
    let fields = Headers::new()?;
    for (name, value) in headers.iter().filter(|(name, _)| name != "content-length") {
        fields.append(name, value)?;
    }
    let init = ResponseInit::new();
    init.set_status(status);
    init.set_headers(&fields);
    Ok(init)
}

fn whole(status: u16, headers: &[(String, String)], body: &[u8]) -> worker::Result<Response> {
    let init = init(status, headers)?;
    if body.is_empty() {
        return Ok(Response::new_with_opt_readable_stream_and_init(None, &init)?);
    }
    Ok(Response::new_with_opt_js_u8_array_and_init(Some(&Uint8Array::from(body)), &init)?)
}

fn stream(driver: Driver, status: u16, headers: &[(String, String)]) -> worker::Result<Response> {
    let chunks = unfold(driver, |mut driver| async move {
        match driver.next().await {
            Some(Emission::Chunk(bytes)) => Some((Ok::<_, worker::Error>(bytes), driver)),
            Some(Emission::Head { .. } | Emission::End) | None => {
                driver.leave();
                None
            }
        }
    });
    let response: Response = worker::Response::from_stream(chunks)?.into();
    Ok(Response::new_with_opt_readable_stream_and_init(response.body().as_ref(), &init(status, headers)?)?)
}

/// Resolves when the client closes its connection before there is an answer.
fn client_gone(signal: &AbortSignal) -> JsFuture {
    JsFuture::from(Promise::new(&mut |resolve, _| {
        // Without the listener a gone client is noticed at the first write.
        let _ = signal.add_event_listener_with_callback("abort", &resolve);
    }))
}
