//! A native host that is nothing but its store: two threads, each with its own runtime, instance
//! and handle, as the real one has them, behind the same requests as `cells.mjs`.
//!
//! `/` applies a list of operations, `/watch` ends when it is worth applying it again, `/clock`
//! sets the clock ahead. `/alarms` gives the keys whose alarms have gone off here, `/answer` takes the
//! operation that is applied when one does. What is stored in what way is not known here.

use std::{
    cell::RefCell,
    collections::HashMap,
    convert::Infallible,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, StatusCode, body::Bytes, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use minigate::{
    module::Core,
    store::{Clock, Store},
};
use minigate_core::state::{Op, Outcome};
use minigate_tests::store;
use tokio::{sync::mpsc, task::LocalSet};

/// The store's directory.
pub(crate) const DIRECTORY: &str = "STORE_SUITE_DIRECTORY";
/// Where machine code is kept.
pub(crate) const CODE: &str = "STORE_SUITE_CODE";
/// As the host's own setting.
pub(crate) const URL: &str = "STORE_URL";
/// How long a request waits for its ticket; whoever sent it asks again.
const LONGEST_WATCH: Duration = Duration::from_secs(10);
const THREADS: usize = 2;

/// The directory, when this process is to be such a host.
pub(crate) fn asked() -> Option<PathBuf> {
    std::env::var_os(DIRECTORY).map(PathBuf::from)
}

/// Serves until it is killed.
pub(crate) fn serve(directory: &Path) -> ExitCode {
    let ahead = Arc::new(AtomicI64::new(0));
    let clock = {
        let ahead = Arc::clone(&ahead);
        Clock::new(move || unix_ms().saturating_add_signed(ahead.load(Ordering::SeqCst)))
    };
    let code = store::code(Path::new(&std::env::var_os(CODE).expect("its parent sets it")));
    let url = std::env::var(URL).ok();
    let opened = Store::open(url.as_deref(), directory, clock).expect("the store opens");
    let alarms = Arc::new(Mutex::new(Alarms::default()));
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            let (sender, accepted) = mpsc::unbounded_channel();
            let (code, store) = (code.clone(), opened.separate());
            let (ahead, alarms) = (Arc::clone(&ahead), Arc::clone(&alarms));
            thread::spawn(move || {
                let core = RefCell::new(store::core(code));
                work(Host { core, store, ahead, alarms }, accepted);
            });
            sender
        })
        .collect();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    let address = listener.local_addr().expect("bound");
    println!("{}", serde_json::json!({"event": "listening", "address": address.to_string()}));
    // Each connection goes to the other thread.
    for (connection, thread) in listener.incoming().zip(threads.iter().cycle()) {
        thread.send(connection.expect("a connection")).expect("the thread runs");
    }
    ExitCode::SUCCESS
}

fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("milliseconds fit")
}

/// The alarms of a process.
#[derive(Default)]
struct Alarms {
    gone_off: Vec<String>,
    /// The operation that answers one, by key.
    answers: HashMap<String, Op>,
}

/// What one thread has.
struct Host {
    core: RefCell<Core>,
    store: Store,
    ahead: Arc<AtomicI64>,
    alarms: Arc<Mutex<Alarms>>,
}

fn work(host: Host, mut accepted: mpsc::UnboundedReceiver<TcpStream>) {
    let host = Rc::new(host);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    LocalSet::new().block_on(&runtime, async move {
        let here = Rc::clone(&host);
        tokio::task::spawn_local(async move { here.heed_alarms().await });
        while let Some(stream) = accepted.recv().await {
            stream.set_nonblocking(true).expect("a socket");
            stream.set_nodelay(true).expect("a socket");
            let stream = tokio::net::TcpStream::from_std(stream).expect("a socket");
            let host = Rc::clone(&host);
            let service = service_fn(move |request| answer(Rc::clone(&host), request));
            let connection =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(connection);
        }
    });
}

async fn answer(host: Rc<Host>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let answered = match parts.uri.path() {
        "/clock" => {
            let ahead = parts.uri.query().and_then(|query| query.strip_prefix("ahead=")?.parse().ok());
            host.ahead.store(ahead.expect("milliseconds"), Ordering::SeqCst);
            Some(Vec::new())
        }
        "/alarms" => {
            let alarms = host.alarms.lock().unwrap_or_else(PoisonError::into_inner);
            Some(serde_json::json!(alarms.gone_off).to_string().into_bytes())
        }
        "/answer" => {
            let mut alarms = host.alarms.lock().unwrap_or_else(PoisonError::into_inner);
            alarms.answers.extend(decode(&body));
            Some(Vec::new())
        }
        "/watch" => host.watch(decode(&body)).await.map(|()| Vec::new()),
        _ => host
            .store
            .apply(&host.core, decode(&body))
            .await
            .map(|outcomes| postcard::to_allocvec(&outcomes).expect("outcomes can be encoded")),
    };
    let mut response = Response::new(Full::default());
    match answered {
        Some(bytes) => *response.body_mut() = Full::from(bytes),
        None => *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE,
    }
    Ok(response)
}

fn decode(body: &[u8]) -> Vec<(String, Op)> {
    postcard::from_bytes(body).expect("a list of operations")
}

impl Host {
    /// In the place of the exchanges that alarms begin.
    async fn heed_alarms(&self) {
        loop {
            let key = self.store.alarm().await;
            let answer = {
                let mut alarms = self.alarms.lock().unwrap_or_else(PoisonError::into_inner);
                alarms.gone_off.push(key.clone());
                alarms.answers.get(&key).cloned()
            };
            if let Some(op) = answer {
                self.store.apply(&self.core, vec![(key, op)]).await;
            }
        }
    }

    /// As the driver does it: listens first, so that no wake is lost.
    async fn watch(&self, ops: Vec<(String, Op)>) -> Option<()> {
        let listener = self.store.listen(&ops);
        let outcomes = self.store.apply(&self.core, ops).await?;
        if let (Some(listener), Some(Outcome::Queued { .. })) = (listener, outcomes.last()) {
            let _ = tokio::time::timeout(LONGEST_WATCH, listener).await;
        }
        Some(())
    }
}
