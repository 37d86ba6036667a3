//! Drives one exchange: the run loop of the core's documentation.
//!
//! It is pulled by the client: while the client does not read, nothing is read from the
//! upstream. When it goes away the driver is dropped, and with it every connection that it
//! holds, which makes OpenClaw abort the run. An exchange that goes on after the end of its answer
//! becomes a task of its own, and so does one that a key's alarm begins: it has no client.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::{Future as _, poll_fn},
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use minigate_core::{
    exchange::Exchange,
    measure::{Process, Totals},
    policy::Policy,
    seam::{
        BodyFailure, Delivery, Fetch, FetchFailure, Input, Lines, Moment, Output, Problem, Reply,
        RequestHead, Step, WholeLines, keep, pieces, restore,
    },
    state::{Op, Outcome},
};
use serde_bytes::ByteBuf;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
    time::{Instant, Sleep, sleep_until},
};

use crate::{
    audit::Ledger,
    clock::Clock,
    follow, journal,
    live::{Configured, Live},
    module::Core,
    replay::{Recorder, Tape},
    stats::Stats,
    store::{Applied, Listener, Store},
    upstream::{self, RopeBody, Upstream},
};

/// What a thread's exchanges share that are of one configuration.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) core: RefCell<Core>,
    pub(crate) upstream: Upstream,
    pub(crate) ledger: Option<Ledger>,
    /// What exchanges were, to be run again.
    pub(crate) recorder: Option<Recorder>,
    pub(crate) policy: Arc<Policy>,
    configured: Arc<Configured>,
    thread: Rc<Thread>,
}

impl std::ops::Deref for Worker {
    type Target = Thread;

    fn deref(&self) -> &Thread {
        &self.thread
    }
}

/// What all exchanges of a thread share, whatever their configurations are.
#[derive(Debug)]
pub(crate) struct Thread {
    pub(crate) live: Arc<Live>,
    /// The connections; the addresses are a configuration's.
    pub(crate) connections: Upstream,
    pub(crate) store: Store,
    /// Operations that nobody waits for.
    pub(crate) told: mpsc::UnboundedSender<Told>,
    /// What was counted.
    pub(crate) stats: Stats,
    /// Exchanges that go on without a client.
    pub(crate) going_on: RefCell<JoinSet<()>>,
    /// One for each configuration that is in use here: the newest one's, and those of exchanges that run.
    pub(crate) workers: RefCell<Vec<Weak<Worker>>>,
}

/// Gives each exchange that begins the newest configuration.
#[derive(Debug)]
pub(crate) struct Serving {
    thread: Rc<Thread>,
    current: RefCell<Rc<Worker>>,
}

impl Serving {
    /// # Errors
    /// When there can be no instance.
    pub(crate) fn new(thread: Rc<Thread>) -> Result<Self, String> {
        let current = worker(&thread, thread.live.current());
        current.core.borrow_mut().warm_up()?;
        Ok(Self { thread, current: RefCell::new(current) })
    }

    /// Says when another configuration is taken.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Configured>> {
        self.thread.live.changes()
    }

    /// The thread's store.
    pub(crate) fn store(&self) -> &Store {
        &self.thread.store
    }

    /// Exchanges that go on without a client.
    pub(crate) fn going_on(&self) -> &RefCell<JoinSet<()>> {
        &self.thread.going_on
    }

    /// What the next exchange is to be run with.
    pub(crate) fn worker(&self) -> Rc<Worker> {
        let configured = self.thread.live.current();
        let mut current = self.current.borrow_mut();
        if !Arc::ptr_eq(&current.configured, &configured) {
            *current = worker(&self.thread, configured);
        }
        Rc::clone(&current)
    }
}

/// The thread's worker for a configuration. Its instance is made at its first step.
fn worker(thread: &Rc<Thread>, configured: Arc<Configured>) -> Rc<Worker> {
    let mut workers = thread.workers.borrow_mut();
    workers.retain(|worker| worker.strong_count() > 0);
    let mut known = workers.iter().filter_map(Weak::upgrade);
    if let Some(worker) = known.find(|worker| Arc::ptr_eq(&worker.configured, &configured)) {
        return worker;
    }
    let worker = Rc::new(Worker {
        core: RefCell::new(Core::new(thread.live.code.clone(), &configured.policy)),
        upstream: thread.connections.with(configured.addresses.clone()),
        ledger: configured.ledger.clone(),
        recorder: configured.recorder.clone(),
        policy: Arc::clone(&configured.policy),
        configured,
        thread: Rc::clone(thread),
    });
    workers.push(Rc::downgrade(&worker));
    worker
}

/// Something for the task that applies what nobody waits for.
#[derive(Debug)]
pub(crate) enum Told {
    Apply(Vec<(String, Op)>),
    /// Everything before it has been applied.
    Done(oneshot::Sender<()>),
    /// Somebody asks what this thread has counted.
    Totals(oneshot::Sender<Totals>),
}

/// Applies what nobody waits for: leases that are given back, strikes.
pub(crate) async fn apply_told(serving: Rc<Serving>, mut told: mpsc::UnboundedReceiver<Told>) {
    // A store that is slow with one must not hold up the leases of all.
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            next = told.recv() => match next {
                Some(Told::Apply(ops)) => {
                    let worker = serving.worker();
                    running.spawn_local(async move { drop(worker.store.apply(&worker.core, ops).await) });
                }
                Some(Told::Totals(answer)) => drop(answer.send(serving.thread.stats.own())),
                Some(Told::Done(done)) => {
                    while running.join_next().await.is_some() {}
                    let _ = done.send(());
                }
                None => return,
            },
            Some(_) = running.join_next(), if !running.is_empty() => {}
        }
    }
}

/// What goes to the client.
#[derive(Debug)]
pub(crate) enum Emission {
    Head { status: u16, headers: Vec<(String, String)> },
    Chunk(Bytes),
    End,
}

/// A request's body: a client's, or one that a robot's socket brought.
pub(crate) type Body = Either<Incoming, Full<Bytes>>;

/// Something that was waited for.
enum Event {
    Body(Result<Vec<Bytes>, BodyFailure>, Option<Body>),
    Stored(u32, Applied),
    /// The request's body is there again.
    Restored(u32, Vec<Bytes>),
    Woken(u32),
    Stats(u32, Box<Totals>, Process),
    /// A configuration was checked.
    Checked(u32, Option<String>, Vec<Problem>),
    /// A configuration was taken, or not.
    Taken(u32, bool),
    /// The configuration that the exchange goes on with, where it was found.
    Under(Option<Arc<Configured>>),
    Whole {
        id: u32,
        status: u16,
        headers: Vec<(String, String)>,
        parts: Vec<Bytes>,
    },
    Head {
        id: u32,
        status: u16,
        headers: Vec<(String, String)>,
        body: Incoming,
        limit: u64,
    },
    Lines {
        id: u32,
        lines: Vec<Bytes>,
        rest: Stream,
    },
    End(u32),
    Failed(u32, FetchFailure),
}

/// The part of a streamed answer that has not come yet.
struct Stream {
    body: Incoming,
    lines: Lines,
    limit: u64,
    ended: bool,
}

/// One exchange and everything that belongs to it.
pub(crate) struct Driver {
    worker: Rc<Worker>,
    clock: Clock,
    /// The request's; `None` when there is no client.
    head: Option<RequestHead>,
    begun: Moment,
    state: Vec<u8>,
    request: Option<Body>,
    body: Vec<Bytes>,
    waiting: Vec<(u32, LocalBoxFuture<'static, Event>)>,
    /// Whoever is told when the ticket of an operation is woken, by the operation's id. A runner
    /// listens for its turn while it asks for a slot.
    listeners: Vec<(u32, Listener)>,
    deadline: Option<Pin<Box<Sleep>>>,
    /// What comes in, where it is kept.
    tape: Option<Tape>,
    emissions: VecDeque<Emission>,
    /// Time inside of the module.
    own: Duration,
    head_sent: bool,
    ended: bool,
    done: bool,
}

/// The id under which the body is waited for; the core's own begin at 1.
const BODY: u32 = 0;
/// The id under which another configuration is waited for.
const UNDER: u32 = u32::MAX;

impl Driver {
    /// Begins an exchange with a request's head.
    pub(crate) fn begin(worker: Rc<Worker>, head: RequestHead, request: Body) -> Self {
        Self::start(worker, Step::Begin(head.clone()), Some(head), Some(request))
    }

    /// Begins an exchange where a key's alarm has gone off.
    pub(crate) fn alarm(worker: Rc<Worker>, key: String) -> Self {
        Self::start(worker, Step::Alarm { key }, None, None)
    }

    /// Drives an exchange that has no client, no end and nothing worth keeping, until it is dropped.
    pub(crate) async fn watch(worker: Rc<Worker>, key: String) {
        let mut driver = Self::alarm(worker, key);
        driver.tape = None;
        while driver.next().await.is_some() {}
    }

    fn start(worker: Rc<Worker>, step: Step<'_>, head: Option<RequestHead>, request: Option<Body>) -> Self {
        let clock = Clock::start();
        let begun = clock.moment();
        let kept = worker.recorder.is_some().then(|| step.clone());
        let stepping = std::time::Instant::now();
        let reply = worker.core.borrow_mut().step(begun, step, &[] as &[Bytes]);
        let own = stepping.elapsed();
        let tape = kept.map(|step| Tape::begin(begun, &step, &reply));
        let mut driver = Self {
            worker,
            clock,
            head,
            begun,
            state: Vec::new(),
            request,
            body: Vec::new(),
            waiting: Vec::new(),
            listeners: Vec::new(),
            deadline: None,
            tape,
            emissions: VecDeque::new(),
            own,
            head_sent: false,
            ended: false,
            done: false,
        };
        driver.take(reply.map_err(|broken| broken.0));
        driver
    }

    /// The next thing for the client; `None` when the exchange is over.
    pub(crate) async fn next(&mut self) -> Option<Emission> {
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

    /// The client has its whole answer, or there is none. An exchange that is not over goes on without
    /// it, and holds `room` until its end.
    pub(crate) fn leave(mut self, room: impl Sized + 'static) {
        if self.done {
            return;
        }
        let worker = Rc::clone(&self.worker);
        let mut going_on = worker.going_on.borrow_mut();
        while going_on.try_join_next().is_some() {}
        going_on.spawn_local(async move {
            while self.next().await.is_some() {}
            drop(room);
        });
    }

    /// Whether all of the answer is there, to be sent in one piece.
    pub(crate) fn answer_is_complete(&self) -> bool {
        matches!(self.emissions.back(), Some(Emission::End))
    }

    /// The first of what is waited for, or the deadline.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Event>> {
        for index in 0..self.waiting.len() {
            if let Poll::Ready(event) = self.waiting[index].1.as_mut().poll(context) {
                drop(self.waiting.swap_remove(index));
                return Poll::Ready(Some(event));
            }
        }
        match &mut self.deadline {
            Some(sleep) => sleep.as_mut().poll(context).map(|()| None),
            None => Poll::Pending,
        }
    }

    fn handle(&mut self, event: Option<Event>) {
        let Some(event) = event else { return self.step(Input::Deadline, &[]) };
        match event {
            Event::Body(Ok(parts), _) => {
                self.body = parts;
                let parts = std::mem::take(&mut self.body);
                self.step_keeping(Input::Body(&[]), parts);
            }
            Event::Body(Err(failure), rest) => {
                self.request = rest;
                self.step(Input::BodyFailed(failure), &[]);
            }
            Event::Stored(id, Some(outcomes)) => {
                self.step(Input::Stored { id, outcomes }, &[]);
                self.listeners.retain(|(of, _)| *of != id);
            }
            Event::Restored(id, parts) => {
                self.body = parts;
                self.step(Input::Stored { id, outcomes: Vec::new() }, &[]);
                if let Some(tape) = &mut self.tape {
                    tape.attach(&self.body);
                }
            }
            Event::Woken(id) => self.step(Input::Woken { id }, &[]),
            Event::Stored(id, None) => {
                self.listeners.retain(|(of, _)| *of != id);
                self.step(Input::StoreFailed { id }, &[]);
            }
            Event::Stats(id, totals, process) => {
                let totals = ByteBuf::from(totals.encode());
                self.step(Input::Stats { id, totals, process }, &[]);
            }
            Event::Checked(id, version, problems) => {
                self.step(Input::Checked { id, version, problems }, &[]);
            }
            Event::Taken(id, done) => self.step(Input::Taken { id, done }, &[]),
            Event::Under(found) => {
                if let Some(configured) = found {
                    self.worker = worker(&self.worker.thread, configured);
                }
                self.step(Input::Under, &[]);
            }
            Event::Whole { id, status, headers, parts } => {
                self.step(Input::FetchWhole { id, status, headers, body: &[] }, &parts);
            }
            Event::Head { id, status, headers, body, limit } => {
                self.read_on(id, Stream { body, lines: Lines::default(), limit, ended: false });
                self.step(Input::FetchHead { id, status, headers }, &[]);
            }
            Event::Lines { id, lines, rest } => {
                self.read_on(id, rest);
                self.step(Input::FetchLines { id, lines: &[] }, &lines);
            }
            Event::End(id) => self.step(Input::FetchEnd { id }, &[]),
            Event::Failed(id, failure) => self.step(Input::FetchFailed { id, failure }, &[]),
        }
    }

    /// A step whose payload is the request's body, which is kept for ropes.
    fn step_keeping(&mut self, input: Input<'_>, parts: Vec<Bytes>) {
        let reply = self.call(input, &parts);
        self.body = parts;
        self.take(reply);
    }

    fn step(&mut self, input: Input<'_>, payload: &[Bytes]) {
        let reply = self.call(input, payload);
        self.take(reply);
    }

    fn call(&mut self, input: Input<'_>, payload: &[Bytes]) -> Result<Reply, String> {
        let kept = self.tape.is_some().then(|| input.clone());
        let now = self.clock.moment();
        let step = Step::Continue { state: &self.state, input };
        let stepping = std::time::Instant::now();
        let reply = self.worker.core.borrow_mut().step(now, step, payload);
        self.own += stepping.elapsed();
        if let (Some(tape), Some(input)) = (&mut self.tape, kept) {
            tape.note(now, &input, payload, &reply);
        }
        reply.map_err(|broken| broken.0)
    }

    /// Carries out what a step asked for.
    fn take(&mut self, reply: Result<Reply, String>) {
        match reply {
            Ok(reply) => {
                self.state = reply.state.into_vec();
                for output in reply.outputs {
                    self.perform(output);
                }
            }
            Err(problem) => {
                journal::event("error", "module_failed", &[("problem", problem.into())]);
                // Without a client nobody is told: the alarm goes off again by itself.
                let Some(head) = &self.head else { return self.perform(Output::Done) };
                let policy = Arc::clone(&self.worker.policy);
                let now = self.clock.moment();
                for output in Exchange::broken(&policy, head, self.begun, now, self.head_sent) {
                    self.perform(output);
                }
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::ReadBody { limit } => {
                if let Some(body) = self.request.take() {
                    self.waiting.push((BODY, Box::pin(read_body(body, limit))));
                }
            }
            Output::Store { id: 0, ops } => drop(self.worker.told.send(Told::Apply(ops))),
            Output::Store { id, ops } => {
                self.listeners.extend(self.worker.store.listen(&ops).map(|listener| (id, listener)));
                let worker = Rc::clone(&self.worker);
                let apply = async move { Event::Stored(id, worker.store.apply(&worker.core, ops).await) };
                self.waiting.push((id, Box::pin(apply)));
            }
            Output::Watch { id } => {
                if let Some(at) = self.listeners.iter().position(|(of, _)| *of == id) {
                    let (_, listener) = self.listeners.swap_remove(at);
                    self.waiting.push((
                        id,
                        Box::pin(async move {
                            listener.await;
                            Event::Woken(id)
                        }),
                    ));
                }
            }
            Output::Keep { id, key, start, len, ttl_ms } => {
                let base64 = upstream::range(&self.body, start, len);
                let worker = Rc::clone(&self.worker);
                let apply = async move {
                    let Some(ops) = keep(&key, &base64, ttl_ms) else { return Event::Stored(id, None) };
                    drop(base64);
                    // Together, so that they wait for the disk once.
                    let each = ops.into_iter().map(|op| worker.store.apply(&worker.core, vec![op]));
                    let applied: Option<Vec<_>> = join_all(each).await.into_iter().collect();
                    Event::Stored(id, applied.map(|outcomes| outcomes.concat()))
                };
                self.waiting.push((id, Box::pin(apply)));
            }
            Output::KeepBody { id, key, ttl_ms } => {
                let body = self.body.concat();
                let worker = Rc::clone(&self.worker);
                let apply = async move {
                    // Together, so that they wait for the disk once.
                    let each =
                        pieces(&key, &body, ttl_ms).map(|op| worker.store.apply(&worker.core, vec![op]));
                    let applied: Option<Vec<_>> = join_all(each).await.into_iter().collect();
                    Event::Stored(id, applied.map(|outcomes| outcomes.concat()))
                };
                self.waiting.push((id, Box::pin(apply)));
            }
            Output::Restore { id, key, len } => {
                let worker = Rc::clone(&self.worker);
                let read = async move {
                    let mut parts = Vec::new();
                    for op in restore(&key, len) {
                        match worker.store.apply(&worker.core, vec![op]).await.as_deref() {
                            Some([Outcome::Value(Some(piece))]) => parts.push(Bytes::from(piece.to_vec())),
                            _ => return Event::Stored(id, None),
                        }
                    }
                    Event::Restored(id, parts)
                };
                self.waiting.push((id, Box::pin(read)));
            }
            Output::Fetch(fetch) => {
                let body = RopeBody::new(&fetch.body, &self.body);
                if fetch.body.refers_to_the_body() && !fetch.keeps_body {
                    // The upstream's request holds what it needs of it.
                    self.body = Vec::new();
                }
                let upstream = self.worker.upstream.clone();
                self.waiting.push((fetch.id, Box::pin(send(upstream, fetch, body))));
            }
            Output::Cancel { id } => {
                self.waiting.retain(|(waiting, _)| *waiting != id);
                self.listeners.retain(|(of, _)| *of != id);
            }
            Output::Head { status, headers } => {
                self.head_sent = true;
                self.discard_request();
                self.emissions.push_back(Emission::Head { status, headers });
            }
            Output::Chunk(bytes) => self.emissions.push_back(Emission::Chunk(bytes.into_vec().into())),
            Output::End => {
                self.ended = true;
                self.emissions.push_back(Emission::End);
            }
            Output::Record { line, .. } => journal::line(&line),
            Output::Audit { record } => {
                if let Some(ledger) = &self.worker.ledger {
                    ledger.add(record);
                }
            }
            Output::Ledger { id, find } => {
                let ledger = self.worker.ledger.clone();
                let read = async move {
                    let lines = match ledger {
                        Some(ledger) => ledger.read(find).await,
                        None => None,
                    };
                    Event::Stored(id, lines.map(|lines| vec![Outcome::Value(Some(lines.into()))]))
                };
                self.waiting.push((id, Box::pin(read)));
            }
            Output::Check { id, files } => {
                let live = Arc::clone(&self.worker.live);
                let checking = tokio::task::spawn_blocking(move || live.check(&files));
                let check = async move {
                    let (found, problems) = checking.await.unwrap_or_default();
                    Event::Checked(id, found.map(|configured| configured.version().to_owned()), problems)
                };
                self.waiting.push((id, Box::pin(check)));
            }
            Output::Take { id, number, files } => {
                let live = Arc::clone(&self.worker.live);
                // It goes on when nobody waits for it any more.
                let taking = tokio::task::spawn_blocking(move || live.take(number, &files));
                let take = async move { Event::Taken(id, taking.await.unwrap_or_default()) };
                self.waiting.push((id, Box::pin(take)));
            }
            Output::Under { version } => {
                // What came before cannot be run again under one configuration.
                self.tape = None;
                let find = find(Rc::clone(&self.worker), version);
                self.waiting.push((UNDER, Box::pin(async move { Event::Under(find.await) })));
            }
            // The tape has heard it.
            Output::Replayable { .. } => {}
            Output::Measure(mut sample) => {
                sample.own_us = Some(u32::try_from(self.own.as_micros()).unwrap_or(u32::MAX));
                self.worker.stats.absorb(sample);
            }
            Output::Stats { id } => {
                let worker = Rc::clone(&self.worker);
                let all = async move {
                    Event::Stats(id, Box::new(worker.stats.all().await), worker.stats.process())
                };
                self.waiting.push((id, Box::pin(all)));
            }
            Output::Deadline { at_ms, .. } => {
                let at = Instant::from_std(self.clock.instant(at_ms));
                match &mut self.deadline {
                    Some(sleep) if sleep.deadline() == at => {}
                    Some(sleep) => sleep.as_mut().reset(at),
                    None => self.deadline = Some(Box::pin(sleep_until(at))),
                }
            }
            Output::Done => {
                self.done = true;
                self.waiting.clear();
                self.deadline = None;
            }
        }
    }

    /// Gives what was kept to whoever writes it.
    fn end_tape(&mut self) {
        if let (Some(recorder), Some(kept)) = (&self.worker.recorder, self.tape.take().and_then(Tape::end)) {
            recorder.keep(kept);
        }
    }

    /// Waits for more lines of a stream.
    fn read_on(&mut self, id: u32, stream: Stream) {
        self.waiting.push((id, Box::pin(read_lines(id, stream))));
    }

    /// An answer before the whole request was read: the rest is read and thrown away for a
    /// while, or a client that is still sending would see a reset in place of the answer.
    fn discard_request(&mut self) {
        let Some(body) = self.request.take().filter(|body| !hyper::body::Body::is_end_stream(body)) else {
            return;
        };
        tokio::task::spawn_local(tokio::time::timeout(DISCARD_FOR, async move {
            let mut body = body;
            let mut left = DISCARD_BYTES;
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, Bytes::len);
                let Some(rest) = left.checked_sub(length) else { break };
                left = rest;
            }
        }));
    }
}

const DISCARD_FOR: std::time::Duration = std::time::Duration::from_secs(10);
const DISCARD_BYTES: usize = 64 * 1024 * 1024;

impl Drop for Driver {
    /// Dropped before its end: the client has gone. Where there is none this program ends, and another
    /// one takes over what the key's alarm stands for.
    fn drop(&mut self) {
        if !self.done && !self.ended && self.head.is_some() {
            self.waiting.clear();
            self.step(Input::ClientGone, &[]);
        }
        self.end_tape();
    }
}

/// A configuration that was in use, here or on another host.
async fn find(worker: Rc<Worker>, version: String) -> Option<Arc<Configured>> {
    let live = &worker.live;
    if let Some(kept) = live.kept(&version) {
        return Some(kept);
    }
    let _alone = live.finding.lock().await;
    if let Some(kept) = live.kept(&version) {
        return Some(kept);
    }
    let files = follow::find(&worker.store, &worker.core, &version).await?;
    let checking = Arc::clone(live);
    let (found, _) = tokio::task::spawn_blocking(move || checking.check(&files)).await.ok()?;
    let found = Arc::new(found?);
    live.keep(&found);
    Some(found)
}

async fn read_body(mut body: Body, limit: u64) -> Event {
    let (mut parts, mut length) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return Event::Body(Err(BodyFailure::Incomplete), None) };
        let Ok(data) = frame.into_data() else { continue };
        length += data.len() as u64;
        if length > limit {
            return Event::Body(Err(BodyFailure::TooLarge), Some(body));
        }
        parts.push(data);
    }
    Event::Body(Ok(parts), None)
}

async fn send(upstream: Upstream, fetch: Fetch, body: RopeBody) -> Event {
    let id = fetch.id;
    let response = match upstream.send(&fetch, body).await {
        Ok(response) => response,
        Err(failure) => return Event::Failed(id, failure),
    };
    let (status, headers) = (response.status().as_u16(), upstream::headers(&response));
    match fetch.delivery {
        Delivery::Lines { limit } => Event::Head { id, status, headers, body: response.into_body(), limit },
        Delivery::Whole { limit } => match upstream::collect(response.into_body(), limit).await {
            Ok(parts) => Event::Whole { id, status, headers, parts },
            Err(failure) => Event::Failed(id, failure),
        },
    }
}

async fn read_lines(id: u32, mut stream: Stream) -> Event {
    while !stream.ended {
        match stream.body.frame().await {
            Some(Ok(frame)) => {
                let Ok(data) = frame.into_data() else { continue };
                match stream.lines.push(&data, stream.limit) {
                    Ok(Some(WholeLines { carried, end })) => {
                        let lines = vec![Bytes::from(carried), data.slice(..end)];
                        return Event::Lines { id, lines, rest: stream };
                    }
                    Ok(None) => {}
                    Err(_) => return Event::Failed(id, FetchFailure::TooLarge),
                }
            }
            Some(Err(_)) => return Event::Failed(id, FetchFailure::Reset),
            None => stream.ended = true,
        }
    }
    match stream.lines.rest() {
        Some(lines) => Event::Lines { id, lines: vec![lines.into()], rest: stream },
        None => Event::End(id),
    }
}
