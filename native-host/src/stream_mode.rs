//! The sockets of robots in DingTalk's Stream mode.
//!
//! What is opened when, what is answered and what is handed on is the core's
//! [`Link`](minigate_core::wire::dingtalk::link::Link), which runs in this process: the module has no
//! use for it, since only this host can hold a socket. Here bytes are moved and time is kept. An
//! address has a ticket in it, which is a credential: no line of the log shows one, nor a library's own
//! words, which might.

use std::{
    rc::Rc,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{FuturesUnordered, SplitSink},
};
use http_body_util::{Either, Full};
use minigate_core::{
    measure::Sockets,
    seam::{DINGTALK, Delivery, Fetch, FetchFailure, RequestHead},
    wire::dingtalk::link::{Counts, Input, LONGEST_FRAME, Link, Output, Robot, robots},
};
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::{Instant, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use crate::{
    clock::Clock,
    driver::{Driver, Emission, Serving},
    journal,
    upstream::{self, RopeBody, Upstream},
};

/// How long a frame may take to be on its way. A socket that is slower is over.
const SEND: Duration = Duration::from_secs(5);
/// How long messages that were answered may take to become turns when the robot is let go: less than the
/// process waits for that.
const LAST_MESSAGES: Duration = Duration::from_millis(1_500);
/// Events that may wait; sockets are not read meanwhile.
const MOST_WAITING: usize = 64;
/// Of each socket: messages are short.
const READ_BUFFER: usize = 16 * 1024;

type Sink = SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>;

/// What the links of this process come to together; `None` without any.
static SOCKETS: Mutex<Option<Sockets>> = Mutex::new(None);

/// How robots' sockets are.
pub(crate) fn sockets() -> Option<Sockets> {
    *SOCKETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something that was waited for.
enum Event {
    Answered { socket: u32, status: u16, body: Vec<u8> },
    Opened { socket: u32, peer: String, sink: Box<Sink> },
    Heard { socket: u32, frame: Bytes },
    Ended { socket: u32, why: &'static str },
    Taken { message: u64, status: Option<u16> },
}

/// Holds the sockets of all robots until told to stop. Another configuration leaves those open whose robots
/// are in it as they were: a change to one robot is none to the others.
pub(crate) async fn run(serving: Rc<Serving>, mut stopped: watch::Receiver<bool>) {
    let mut changes = serving.changes();
    // Whose end is dropped, that robot is held no more.
    let mut held: Vec<(Robot, oneshot::Sender<()>)> = Vec::new();
    let mut holding = FuturesUnordered::new();
    loop {
        changes.mark_unchanged();
        for robot in let_go(&mut held, wanted(&serving)) {
            let (end, ended) = oneshot::channel();
            holding.push(hold(Rc::clone(&serving), robot.clone(), ended));
            held.push((robot, end));
        }
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            changed = changes.changed() => if changed.is_err() {
                break;
            },
            // One that was let go has ended.
            Some(()) = holding.next() => {}
        }
    }
    drop(held);
    while holding.next().await.is_some() {}
}

/// Drops what belongs to robots that are not wanted any more, and gives those that are new. One that has
/// changed is both.
fn let_go<T>(held: &mut Vec<(Robot, T)>, mut wanted: Vec<Robot>) -> Vec<Robot> {
    held.retain(|(robot, _)| wanted.contains(robot));
    wanted.retain(|robot| !held.iter().any(|(other, _)| other == robot));
    wanted
}

/// The robots of the newest configuration.
fn wanted(serving: &Serving) -> Vec<Robot> {
    let worker = serving.worker();
    robots(&worker.policy, worker.upstream.base(DINGTALK).unwrap_or_default())
}

fn count(add: impl FnOnce(&mut Sockets)) {
    add(SOCKETS.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
}

async fn hold(serving: Rc<Serving>, robot: Robot, mut stopped: oneshot::Receiver<()>) {
    let clock = Clock::start();
    let (events, mut happened) = mpsc::channel(MOST_WAITING);
    let link = Link::new(robot, clock.moment());
    count(|sum| sum.wanted += 1);
    let mut holder =
        Holder { serving, clock, link, events, sockets: Vec::new(), counted: (false, Counts::default()) };
    holder.carry_out().await;
    loop {
        let deadline = holder.link.deadline().map(|at_ms| Instant::from_std(clock.instant(at_ms)));
        // There always is one.
        let deadline = deadline.unwrap_or_else(|| Instant::now() + SEND);
        tokio::select! {
            biased;
            _ = &mut stopped => break,
            Some(event) = happened.recv() => holder.handle(event),
            () = sleep_until(deadline) => holder.tell(Input::Deadline),
        }
        holder.carry_out().await;
    }
    holder.tell(Input::Stop);
    holder.carry_out().await;
    // What was answered becomes a turn, or it is said that it does not.
    let until = Instant::now() + LAST_MESSAGES;
    while holder.link.hands_on() {
        tokio::select! {
            Some(event) = happened.recv() => holder.handle(event),
            () = sleep_until(until) => break,
        }
        holder.carry_out().await;
    }
    count(|sum| sum.wanted -= 1);
}

/// One robot's link, and what it has asked for.
struct Holder {
    serving: Rc<Serving>,
    clock: Clock,
    link: Link,
    events: mpsc::Sender<Event>,
    sockets: Vec<Socket>,
    /// What of it is in the process's sum already.
    counted: (bool, Counts),
}

/// An attempt, or an open socket.
struct Socket {
    id: u32,
    /// Asks, connects, reads.
    task: AbortHandle,
    sink: Option<Box<Sink>>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Holder {
    fn tell(&mut self, input: Input<'_>) {
        self.link.handle(self.clock.moment(), input);
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Answered { socket, status, body } => {
                self.tell(Input::Answered { socket, status, body: &body });
            }
            Event::Opened { socket, peer, sink } => {
                let Some(held) = self.sockets.iter_mut().find(|held| held.id == socket) else { return };
                held.sink = Some(sink);
                self.tell(Input::Opened { socket, peer: &peer });
            }
            Event::Heard { socket, frame } => self.tell(Input::Heard { socket, frame: &frame }),
            Event::Ended { socket, why } => self.end(socket, why),
            Event::Taken { message, status } => self.tell(Input::Taken { message, status }),
        }
    }

    fn end(&mut self, socket: u32, why: &'static str) {
        self.sockets.retain(|held| held.id != socket);
        self.tell(Input::Ended { socket, why });
    }

    /// Carries out all that the link asks for, in its order.
    async fn carry_out(&mut self) {
        loop {
            let mut broken = None;
            while let Some(output) = self.link.poll() {
                match output {
                    Output::Ask { socket, fetch } => {
                        let asking = ask(self.serving.worker().upstream.clone(), fetch, socket);
                        self.begin(socket, asking);
                    }
                    Output::Connect { socket, address } => {
                        self.begin(socket, listen(socket, address, self.events.clone()));
                    }
                    Output::Send { socket, frame } => {
                        if !self.send(socket, Message::text(frame)).await {
                            broken = Some(socket);
                        }
                    }
                    Output::Whisper { socket } => {
                        if !self.send(socket, Message::Ping(Bytes::new())).await {
                            broken = Some(socket);
                        }
                    }
                    Output::Hand { message, head, body } => self.hand(message, head, body),
                    Output::Close { socket } => self.close(socket).await,
                    Output::Say { level, event, fields } => {
                        let fields: Vec<_> =
                            fields.iter().map(|(name, value)| (name.as_str(), value.clone())).collect();
                        journal::event(level, event, &fields);
                    }
                }
            }
            match broken {
                Some(socket) => self.end(socket, "send"),
                None => break,
            }
        }
        let (was_open, before) =
            std::mem::replace(&mut self.counted, (self.link.is_open(), self.link.counts()));
        let (is_open, now) = self.counted;
        count(|sum| {
            sum.open = sum.open + u64::from(is_open) - u64::from(was_open);
            sum.opened += now.opened - before.opened;
            sum.failed += now.failed - before.failed;
        });
    }

    /// Runs what ends in an event; it takes the place of what its socket did before.
    fn begin(&mut self, socket: u32, work: impl Future<Output = Event> + 'static) {
        self.sockets.retain(|held| held.id != socket);
        let events = self.events.clone();
        let task = tokio::task::spawn_local(async move {
            let event = work.await;
            // Nobody listens any more: this host ends.
            let _ = events.send(event).await;
        });
        self.sockets.push(Socket { id: socket, task: task.abort_handle(), sink: None });
    }

    /// Whether it is on its way.
    async fn send(&mut self, socket: u32, message: Message) -> bool {
        let held = self.sockets.iter_mut().find(|held| held.id == socket);
        let Some(sink) = held.and_then(|held| held.sink.as_mut()) else { return true };
        matches!(timeout(SEND, sink.send(message)).await, Ok(Ok(())))
    }

    async fn close(&mut self, socket: u32) {
        let Some(at) = self.sockets.iter().position(|held| held.id == socket) else { return };
        let mut held = self.sockets.swap_remove(at);
        if let Some(mut sink) = held.sink.take() {
            // A word of it is enough: nobody waits for the other side's.
            let _ = timeout(SEND, sink.send(Message::Close(None))).await;
        }
    }

    /// Begins the exchange of a message. It is drained as any other when this host ends.
    fn hand(&self, message: u64, head: RequestHead, body: String) {
        let mut driver = Driver::begin(self.serving.worker(), head, Either::Right(Full::new(body.into())));
        let events = self.events.clone();
        let mut going_on = self.serving.going_on().borrow_mut();
        while going_on.try_join_next().is_some() {}
        going_on.spawn_local(async move {
            let mut answered = None;
            while let Some(emission) = driver.next().await {
                match emission {
                    Emission::Head { status, .. } => answered = Some(status),
                    Emission::Chunk(_) => {}
                    Emission::End => break,
                }
            }
            driver.leave(());
            let _ = events.send(Event::Taken { message, status: answered }).await;
        });
    }
}

/// Asks for an address.
async fn ask(upstream: Upstream, fetch: Fetch, socket: u32) -> Event {
    let ended = |failure| Event::Ended { socket, why: why_not(failure) };
    let limit = match fetch.delivery {
        Delivery::Whole { limit } | Delivery::Lines { limit } => limit,
    };
    let body = RopeBody::new(&fetch.body, &[]);
    let response = match upstream.send(&fetch, body).await {
        Ok(response) => response,
        Err(failure) => return ended(failure),
    };
    let status = response.status().as_u16();
    match upstream::collect(response.into_body(), limit).await {
        Ok(parts) => Event::Answered { socket, status, body: parts.concat() },
        Err(failure) => ended(failure),
    }
}

fn why_not(failure: FetchFailure) -> &'static str {
    match failure {
        FetchFailure::Connect | FetchFailure::Unclear => "connect",
        FetchFailure::ConnectTimeout => "connect_timeout",
        FetchFailure::Reset => "reset",
        FetchFailure::TooLarge => "too_large",
    }
}

/// Opens a socket and reads it to its end.
async fn listen(socket: u32, address: String, events: mpsc::Sender<Event>) -> Event {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .max_message_size(Some(LONGEST_FRAME))
        .max_frame_size(Some(LONGEST_FRAME));
    let ended = |error: &Error| Event::Ended { socket, why: why_ended(error) };
    let stream = match connect_async_with_config(address, Some(config), true).await {
        Ok((stream, _)) => stream,
        Err(error) => return ended(&error),
    };
    let peer = peer(stream.get_ref());
    let (sink, mut frames) = stream.split();
    if events.send(Event::Opened { socket, peer, sink: Box::new(sink) }).await.is_err() {
        return Event::Ended { socket, why: "stopped" };
    }
    while let Some(came) = frames.next().await {
        let frame = match came {
            Ok(Message::Text(text)) => text.into(),
            Ok(Message::Binary(bytes)) => bytes,
            Ok(Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_)) => continue,
            Err(error) => return ended(&error),
        };
        if events.send(Event::Heard { socket, frame }).await.is_err() {
            break;
        }
    }
    Event::Ended { socket, why: "closed" }
}

fn why_ended(error: &Error) -> &'static str {
    match error {
        Error::ConnectionClosed | Error::AlreadyClosed => "closed",
        Error::Io(_) => "io",
        Error::Tls(_) => "tls",
        Error::Capacity(_) => "too_large",
        Error::Http(_) => "refused",
        _ => "protocol",
    }
}

/// The address of the other end.
fn peer(stream: &MaybeTlsStream<TcpStream>) -> String {
    let tcp = match stream {
        MaybeTlsStream::Plain(tcp) => Some(tcp),
        MaybeTlsStream::Rustls(tls) => Some(tls.get_ref().0),
        _ => None,
    };
    let address = tcp.and_then(|tcp| tcp.peer_addr().ok());
    address.map(|address| address.ip().to_canonical().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn robot(name: &str, app_secret: &str) -> Robot {
        Robot {
            name: name.into(),
            app_key: "KEY".into(),
            app_secret: app_secret.into(),
            api: "https://api.dingtalk.com".into(),
            silent_ms: 150_000,
        }
    }

    #[test]
    fn a_change_to_one_robot_lets_no_other_go() {
        let (first, mut first_ends) = oneshot::channel::<()>();
        let (second, mut second_ends) = oneshot::channel::<()>();
        let mut held = vec![(robot("a", "A"), first), (robot("b", "B"), second)];
        // The order of a configuration says nothing.
        let new = let_go(&mut held, vec![robot("c", "C"), robot("b", "B2"), robot("a", "A")]);
        assert_eq!(new, [robot("c", "C"), robot("b", "B2")]);
        assert_eq!(held.iter().map(|(robot, _)| robot.name.as_str()).collect::<Vec<_>>(), ["a"]);
        assert_eq!(first_ends.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        assert_eq!(second_ends.try_recv(), Err(oneshot::error::TryRecvError::Closed));
        assert!(let_go(&mut held, vec![robot("a", "A")]).is_empty());
        assert!(let_go(&mut held, Vec::new()).is_empty());
        assert_eq!(first_ends.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    }
}
