//! The sockets of Stream mode: each does only what a test says, and everything that happens at any
//! of them is in one list, in its order.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
};
use tokio_tungstenite::{
    accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response},
        http::StatusCode,
    },
};

use super::MESSAGES;
use crate::scripted::free_port;

/// All sockets of one scripted DingTalk.
#[derive(Clone, Debug)]
pub struct Sockets(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endpoint: String,
    facts: Mutex<Facts>,
    changed: watch::Sender<u64>,
    serial: AtomicU64,
}

#[derive(Debug, Default)]
struct Facts {
    /// Tickets that were given out and not used.
    tickets: BTreeSet<String>,
    happened: Vec<Happened>,
    /// The way to each socket, by its number.
    orders: Vec<mpsc::UnboundedSender<Order>>,
}

/// Something that happened at a socket.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When.
    pub at: Instant,
    /// The socket's number; they are counted from 0.
    pub socket: usize,
    /// What.
    pub what: What,
}

/// What happened at a socket.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// It was opened with a valid ticket.
    Opened,
    /// A frame came from the other side.
    Got(Value),
    /// The other side asked by a WebSocket ping whether anybody is there.
    Pinged,
    /// A frame was sent.
    Sent(Value),
    /// It is over, whoever ended it.
    Closed,
}

#[derive(Debug)]
enum Order {
    Send(Value),
    Close,
    Drop,
    Freeze,
}

impl Sockets {
    pub(super) async fn start() -> Self {
        let (listener, url) = free_port().await;
        let sockets = Self(Arc::new(Shared {
            endpoint: format!("{}/connect", url.replacen("http", "ws", 1)),
            facts: Mutex::default(),
            changed: watch::channel(0).0,
            serial: AtomicU64::new(1),
        }));
        tokio::spawn(accept(listener, sockets.clone()));
        sockets
    }

    /// The address that is given with a ticket.
    pub(super) fn endpoint(&self) -> &str {
        &self.0.endpoint
    }

    /// A ticket is good for one connection.
    pub(super) fn admit(&self, ticket: &str) {
        self.facts().tickets.insert(ticket.to_owned());
    }

    /// Everything that has happened, in its order.
    #[must_use]
    pub fn happened(&self) -> Vec<Happened> {
        self.facts().happened.clone()
    }

    /// Waits until the list of what has happened gives something.
    ///
    /// # Panics
    /// When it does not within 20 s.
    pub async fn wait<T>(&self, what: &str, find: impl Fn(&[Happened]) -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        let search = async {
            loop {
                changed.borrow_and_update();
                if let Some(found) = find(&self.facts().happened) {
                    return found;
                }
                if changed.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let found = tokio::time::timeout(Duration::from_secs(20), search).await;
        found.unwrap_or_else(|_| panic!("not at any socket: {what}: {:#?}", self.happened()))
    }

    /// Waits until so many sockets were opened since the start; gives the last one's number.
    pub async fn wait_for_opened(&self, count: usize) -> usize {
        let opened = |list: &[Happened]| list.iter().filter(|one| one.what == What::Opened).count();
        self.wait(&format!("{count} sockets"), |list| (opened(list) >= count).then_some(count - 1)).await
    }

    /// Waits until a socket is over.
    pub async fn wait_for_closed(&self, socket: usize) -> Happened {
        let ended = |one: &&Happened| one.socket == socket && one.what == What::Closed;
        self.wait(&format!("the end of {socket}"), |list| list.iter().find(ended).cloned()).await
    }

    /// Waits for the answer to a frame.
    pub async fn wait_for_ack(&self, message_id: &str) -> (Happened, Value) {
        let acks = |one: &Happened| match &one.what {
            What::Got(frame) if frame["headers"]["messageId"] == message_id => {
                Some((one.clone(), frame.clone()))
            }
            _ => None,
        };
        self.wait(&format!("an answer to {message_id}"), |list| list.iter().find_map(acks)).await
    }

    /// Sends a message to the robot as a frame; gives the frame's `messageId`, which is a new one
    /// each time.
    pub fn message(&self, socket: usize, data: &Value) -> String {
        self.frame(socket, "CALLBACK", MESSAGES, &data.to_string())
    }

    /// Sends a word of the connection's own: `ping`, `disconnect`, `KEEPALIVE`.
    pub fn system(&self, socket: usize, topic: &str, data: &str) -> String {
        self.frame(socket, "SYSTEM", topic, data)
    }

    /// Sends a frame as DingTalk makes them.
    pub fn frame(&self, socket: usize, kind: &str, topic: &str, data: &str) -> String {
        let message_id = format!("0a{:06x}_{}", self.0.serial.fetch_add(1, Ordering::Relaxed), topic.len());
        self.frame_again(socket, kind, topic, data, &message_id);
        message_id
    }

    /// Sends a frame with a `messageId` that was there before.
    pub fn frame_again(&self, socket: usize, kind: &str, topic: &str, data: &str, message_id: &str) {
        let headers = json!({"appId": "app", "connectionId": format!("connection-{socket}"),
            "contentType": "application/json", "messageId": message_id, "time": "1774080994334",
            "topic": topic});
        self.send(socket, json!({"specVersion": "1.0", "type": kind, "headers": headers, "data": data}));
    }

    /// Sends anything.
    pub fn send(&self, socket: usize, frame: Value) {
        self.order(socket, Order::Send(frame));
    }

    /// Ends a socket in the proper way.
    pub fn close(&self, socket: usize) {
        self.order(socket, Order::Close);
    }

    /// Ends a socket's connection without a word.
    pub fn cut(&self, socket: usize) {
        self.order(socket, Order::Drop);
    }

    /// A socket neither reads nor writes any more, and stays open.
    pub fn freeze(&self, socket: usize) {
        self.order(socket, Order::Freeze);
    }

    fn order(&self, socket: usize, order: Order) {
        // One that is over has nobody to be told.
        let _ = self.facts().orders.get(socket).map(|orders| orders.send(order));
    }

    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.0.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, socket: usize, what: What) {
        self.facts().happened.push(Happened { at: Instant::now(), socket, what });
        self.0.changed.send_modify(|count| *count += 1);
    }

    /// A socket that begins: its number, and what it is told.
    fn begin(&self) -> (usize, mpsc::UnboundedReceiver<Order>) {
        let (orders, told) = mpsc::unbounded_channel();
        let socket = {
            let mut facts = self.facts();
            facts.orders.push(orders);
            facts.orders.len() - 1
        };
        self.note(socket, What::Opened);
        (socket, told)
    }
}

async fn accept(listener: TcpListener, sockets: Sockets) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(serve(stream, sockets.clone()));
    }
}

async fn serve(stream: TcpStream, sockets: Sockets) {
    let _ = stream.set_nodelay(true);
    let admitting = sockets.clone();
    #[allow(clippy::result_large_err, reason = "the type is the library's")]
    let check = move |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        let ticket = request.uri().query().and_then(|query| query.strip_prefix("ticket="));
        if request.uri().path() == "/connect"
            && ticket.is_some_and(|ticket| admitting.facts().tickets.remove(ticket))
        {
            return Ok(response);
        }
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = StatusCode::UNAUTHORIZED;
        Err(refused)
    };
    let Ok(mut stream) = accept_hdr_async(stream, check).await else { return };
    let (socket, mut told) = sockets.begin();
    loop {
        tokio::select! {
            order = told.recv() => match order {
                Some(Order::Send(frame)) => {
                    // Noted first: its answer must not stand before it.
                    sockets.note(socket, What::Sent(frame.clone()));
                    if stream.send(Message::text(frame.to_string())).await.is_err() {
                        break;
                    }
                }
                Some(Order::Close) => drop(stream.close(None).await),
                Some(Order::Freeze) => {
                    while !matches!(told.recv().await, Some(Order::Drop) | None) {}
                    break;
                }
                Some(Order::Drop) | None => break,
            },
            came = stream.next() => match came {
                Some(Ok(Message::Text(text))) => {
                    sockets.note(socket, What::Got(serde_json::from_str(&text).unwrap_or_default()));
                }
                Some(Ok(Message::Ping(_))) => sockets.note(socket, What::Pinged),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
        }
    }
    sockets.note(socket, What::Closed);
}

#[cfg(test)]
mod tests {
    use tokio_tungstenite::client_async;

    use super::*;

    async fn connect(
        sockets: &Sockets,
        ticket: &str,
    ) -> Option<tokio_tungstenite::WebSocketStream<TcpStream>> {
        let address = sockets.endpoint().strip_prefix("ws://").expect("an address");
        let stream = TcpStream::connect(address.split('/').next().expect("a host")).await.expect("open");
        let url = format!("{}?ticket={ticket}", sockets.endpoint());
        client_async(url, stream).await.ok().map(|(stream, _)| stream)
    }

    #[tokio::test]
    async fn a_ticket_opens_one_socket_and_all_is_noted() {
        let sockets = Sockets::start().await;
        assert!(connect(&sockets, "t").await.is_none());
        sockets.admit("t");
        let mut client = connect(&sockets, "t").await.expect("a socket");
        assert!(connect(&sockets, "t").await.is_none());
        let socket = sockets.wait_for_opened(1).await;
        let id = sockets.message(socket, &json!({"msgId": "m"}));
        let came = client.next().await.expect("a frame").expect("a frame").into_text().expect("a text");
        let came: Value = serde_json::from_str(&came).expect("json");
        assert_eq!(
            (came["headers"]["messageId"].as_str(), came["type"].as_str()),
            (Some(&*id), Some("CALLBACK"))
        );
        let ack = json!({"code": 200, "headers": {"messageId": id}});
        client.send(Message::text(ack.to_string())).await.expect("sent");
        assert_eq!(sockets.wait_for_ack(&id).await.1, ack);
        sockets.close(socket);
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
        drop(client);
        sockets.wait_for_closed(socket).await;
    }
}
