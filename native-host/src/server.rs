//! Listens, one runtime and one warm instance for each core, and drains on SIGTERM.

use std::{
    cell::RefCell,
    convert::Infallible,
    future::{Future, poll_fn},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    thread,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{
    future::join_all,
    stream::{LocalBoxStream, StreamExt as _, unfold},
};
use http_body_util::{Either, Full, StreamBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::{CONTENT_LENGTH, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use minigate_core::{
    policy::{Environment, HostFacts, Policy, SettingError, channel},
    seam::{REQUEST_HEADERS, RequestHead, started},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::{JoinSet, LocalSet},
};

use crate::{
    clock,
    commands::daemon,
    configuration, demo,
    driver::{Driver, Emission, Serving, Thread, Told, Worker, apply_told},
    follow::Follower,
    journal,
    live::{self, Live},
    module::Code,
    otlp, replay, settings,
    stats::Stats,
    store::{Clock, Store},
    stream_mode,
    upstream::Upstream,
};

/// How long a connection may take to send its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long running requests may take after SIGTERM; longer than a turn.
const DRAIN: Duration = Duration::from_secs(70);
/// Alarms whose exchanges run at once on one thread; the others wait in the store, where other hosts find
/// them too. Most of them wait for an upstream, so it is memory that bounds them.
const MOST_ALARMS: usize = 256;
/// How long the store may take for what is left after that.
const LAST_OPERATIONS: Duration = Duration::from_secs(2);

/// Everything a thread needs to serve.
struct Shared {
    live: Arc<Live>,
    store: Store,
    /// The way to each thread.
    threads: Arc<[mpsc::UnboundedSender<Told>]>,
    exporter: Option<otlp::Exporter>,
    started_ms: u64,
}

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// Everything that keeps it from starting, in words for an operator.
pub fn serve(module: Option<PathBuf>, config: Vec<PathBuf>, demo: bool) -> Result<(), String> {
    let (begun, started_ms) = (std::time::Instant::now(), clock::unix_ms());
    let mut gathered = settings::gather()?;
    let facts = HostFacts { name: "native".into(), ..HostFacts::default() };
    let problems = |errors: Vec<SettingError>| {
        let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
        lines.join("; ")
    };
    let mut policy =
        Policy::from_settings(&gathered.settings, &gathered.secrets, facts, demo).map_err(problems)?;
    let paths = configuration::paths(config);
    let files = configuration::files(&paths)?;
    let catalog = configuration::load(&files, policy.environment)?;
    settings::gather_secrets(&catalog.secrets(), &mut gathered.secrets)?;
    policy.clone().configure(catalog.clone(), &gathered.settings, &gathered.secrets).map_err(problems)?;
    let demo_url = demo.then(demo::start).transpose()?;
    if demo {
        // The demo asks for no token, and the core sends one all the same.
        gathered.secrets.0.entry("OPENCLAW_GATEWAY_TOKEN".into()).or_insert_with(|| "demo".into());
    }
    live::addresses(&gathered, demo_url.as_deref(), &catalog)?;
    let store_url = gathered.secrets.get("STORE_URL").map(str::to_owned);
    let ip = settings::text("BIND_ADDRESS").map_or(Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)), |text| {
        text.parse().map_err(|_| format!("BIND_ADDRESS: `{text}` is not an IP address"))
    })?;
    let wanted = SocketAddr::new(ip, settings::number("PORT", 12626)?);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let first = claim(wanted).and_then(|()| listen(wanted));
    let first = first.map_err(|error| format!("{wanted}: {error}"))?;
    let bound = first.local_addr().map_err(|error| error.to_string())?;
    let mut listeners = vec![first];
    for _ in 1..threads {
        listeners.push(listen(bound).map_err(|error| format!("{bound}: {error}"))?);
    }
    if policy.environment == Environment::Dev && policy.api_keys.is_empty() {
        journal::event(
            "warn",
            "no_api_key",
            &[("note", "MINIGATE_ENV=dev without API_KEY: anybody may call".into())],
        );
    }

    // Every mistake in the settings is known by now; what follows may take a second.
    let module = module
        .or_else(|| settings::text("MINIGATE_MODULE").map(PathBuf::from))
        .unwrap_or_else(beside_program);
    let code = Code::load(&module, &settings::code_directory())?;
    policy.host = code.facts();
    let data = settings::data_directory();
    // A module that cannot be used is found here, and not by each thread.
    let live = Arc::new(Live::new(code, module, gathered, demo_url, policy, catalog)?);
    let store = Store::open(store_url.as_deref(), &data, Clock::default())?;
    let runtime = runtime()?;
    let mut follower = Follower::new(Arc::clone(&live), store.separate(), paths, files);
    let hangup = runtime.block_on(async {
        follower.begin().await;
        signal(SignalKind::hangup())
    });
    let hangup = hangup.map_err(|error| format!("SIGHUP: {error}"))?;
    if live.current().recorder.is_none() {
        replay::forget(&data);
    }
    let (stop, stopped) = watch::channel(false);
    let channels: Vec<_> = listeners.iter().map(|_| mpsc::unbounded_channel()).collect();
    let (exporter, mut samples) = otlp::Exporter::from_settings()?.unzip();
    let threads = channels.iter().map(|(tell, _)| tell.clone()).collect();
    let shared = Arc::new(Shared { live, store, threads, exporter, started_ms });
    let mut is_first = true;
    let workers: Vec<_> = listeners
        .into_iter()
        .zip(channels)
        .map(|(listener, channel)| {
            let (shared, stopped) = (Arc::clone(&shared), stopped.clone());
            // One thread exports for all, holds the robots' sockets and keeps models warm.
            let samples = samples.take();
            let is_first = std::mem::take(&mut is_first);
            thread::spawn(move || work(&shared, listener, channel, (samples, is_first), stopped))
        })
        .collect();
    let _ = shared.threads.first().map(|first| first.send(Told::Apply(vec![started()])));
    let policy = Arc::clone(&shared.live.current().policy);
    daemon::listening(bound);
    journal::event(
        "info",
        "listening",
        &[
            ("address", bound.to_string().into()),
            ("module", policy.host.module_sha256.as_str().into()),
            ("env", policy.environment.name().into()),
            ("demo", demo.into()),
            ("config", policy.catalog.version.as_str().into()),
            ("startMs", u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX).into()),
        ],
    );
    runtime.block_on(async {
        tokio::select! {
            () = wait_for_signal() => {}
            () = follower.run(hangup) => {}
        }
        journal::event("info", "draining", &[]);
        let _ = stop.send(true);
    });
    for worker in workers {
        worker.join().map_err(|_| "a worker thread ended in a panic".to_owned())??;
    }
    shared.store.close();
    shared.live.close();
    journal::event("info", "stopped", &[]);
    Ok(())
}

fn beside_program() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    program.with_file_name("minigate.wasm")
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("runtime: {error}"))
}

async fn wait_for_signal() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::interrupt()) => {}
    }
}

/// Whether nobody listens there. Listeners that may share a port share it with those of another process
/// too, and each would get half of the requests without a word.
fn claim(address: SocketAddr) -> std::io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    // Connections that have ended a moment ago are no listeners.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Several listeners share one port: the kernel spreads the connections.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

/// One thread: accepts and serves until told to stop, then drains.
fn work(
    shared: &Shared,
    listener: TcpListener,
    (tell, told): (mpsc::UnboundedSender<Told>, mpsc::UnboundedReceiver<Told>),
    (samples, is_first): (Option<otlp::Samples>, bool),
    stopped: watch::Receiver<bool>,
) -> Result<(), String> {
    let runtime = runtime()?;
    let local = LocalSet::new();
    local.block_on(&runtime, async move {
        let configured = shared.live.current();
        let connect_timeout = Duration::from_millis(configured.policy.deadlines.connect.into());
        let traces = shared.exporter.as_ref().map(otlp::Exporter::traces);
        let serving = Rc::new(Serving::new(Rc::new(Thread {
            live: Arc::clone(&shared.live),
            connections: Upstream::new(configured.addresses.clone(), connect_timeout),
            store: shared.store.separate(),
            told: tell.clone(),
            stats: Stats::new(Arc::clone(&shared.threads), traces, shared.started_ms),
            going_on: RefCell::new(JoinSet::new()),
            workers: RefCell::default(),
        }))?);
        tokio::task::spawn_local(apply_told(Rc::clone(&serving), told));
        tokio::task::spawn_local(run_alarms(Rc::clone(&serving), stopped.clone()));
        let holding = is_first
            .then(|| tokio::task::spawn_local(stream_mode::run(Rc::clone(&serving), stopped.clone())));
        let warming = is_first.then(|| tokio::task::spawn_local(keep_warm(Rc::clone(&serving))));
        let exporting = match (&shared.exporter, samples) {
            (Some(exporter), Some(samples)) => Some(tokio::task::spawn_local(otlp::run(
                exporter.clone(),
                Rc::clone(&serving),
                samples,
                stopped.clone(),
            ))),
            _ => None,
        };
        let listener = tokio::net::TcpListener::from_std(listener).map_err(|error| error.to_string())?;
        accept(serving, listener, stopped).await;
        if let Some(warming) = warming {
            warming.abort();
        }
        if let Some(holding) = holding {
            let _ = tokio::time::timeout(LAST_OPERATIONS, holding).await;
        }
        // Leases that the last requests gave back.
        let (done, applied) = oneshot::channel();
        if tell.send(Told::Done(done)).is_ok() {
            let _ = tokio::time::timeout(LAST_OPERATIONS, applied).await;
        }
        if let Some(exporting) = exporting {
            let _ = tokio::time::timeout(LAST_OPERATIONS, exporting).await;
        }
        Ok(())
    })
}

/// Watches the models of the newest configuration that are to be warm, until it is dropped.
async fn keep_warm(serving: Rc<Serving>) {
    let mut changes = serving.changes();
    loop {
        changes.mark_unchanged();
        let worker = serving.worker();
        let keys = worker.policy.catalog.warm_ups().into_iter();
        let watching = join_all(keys.map(|key| Driver::watch(Rc::clone(&worker), key)));
        drop(worker);
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            _ = async { watching.await; std::future::pending::<()>().await } => {}
        }
    }
}

/// Begins an exchange for each alarm that goes off, until told to stop.
async fn run_alarms(serving: Rc<Serving>, mut stopped: watch::Receiver<bool>) {
    let room = Arc::new(Semaphore::new(MOST_ALARMS));
    let next = async || {
        let place = Arc::clone(&room).acquire_owned().await.ok()?;
        Some((serving.store().alarm().await, place))
    };
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => return,
            alarm = next() => {
                let Some((key, place)) = alarm else { return };
                Driver::alarm(serving.worker(), key).leave(place);
            }
        }
    }
}

async fn accept(serving: Rc<Serving>, listener: tokio::net::TcpListener, mut stopped: watch::Receiver<bool>) {
    let mut builder = auto::Builder::new(LocalExecutor);
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: give others time to close.
                    journal::event("error", "accept_failed", &[("problem", error.to_string().into())]);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = stopped.changed() => break,
        };
        let _ = stream.set_nodelay(true);
        let peer = peer.ip().to_canonical().to_string();
        let serving = Rc::clone(&serving);
        let service = service_fn(move |request| answer(serving.worker(), peer.clone(), request));
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service).into_owned());
        // A connection's own errors are the client's leaving.
        tokio::task::spawn_local(async move { drop(connection.await) });
    }
    drop(listener);
    let all = async {
        graceful.shutdown().await;
        while poll_fn(|context| serving.going_on().borrow_mut().poll_join_next(context)).await.is_some() {}
    };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        journal::event("warn", "drain_timed_out", &[]);
    }
}

type Answer = Either<Full<Bytes>, StreamBody<LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>>>>;

/// One request.
async fn answer(
    worker: Rc<Worker>,
    peer: String,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let (parts, body) = request.into_parts();
    let read = |name: &&str| {
        let values: Vec<String> = parts.headers.get_all(*name).iter().map(header_text).collect();
        (!values.is_empty()).then(|| ((*name).to_owned(), values.join(", ")))
    };
    let mut head = RequestHead {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: REQUEST_HEADERS.iter().filter_map(read).collect(),
        peer,
        content_length: parts.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok()),
        robot: None,
    };
    let secret = |name: &str| worker.upstream.credential(name);
    head.robot = channel::vouched(&head, &worker.policy.catalog, secret, clock::unix_ms());
    let mut driver = Driver::begin(worker, head, Either::Left(body));
    let mut response = Response::new(Either::Left(Full::new(Bytes::new())));
    // An answer that is there at once may still be several chunks: events of a kept answer.
    let mut whole = Bytes::new();
    loop {
        match driver.next().await {
            Some(Emission::Head { status, headers }) => {
                *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or_default();
                for (name, value) in headers {
                    if let (Ok(name), Ok(value)) =
                        (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&value))
                    {
                        response.headers_mut().append(name, value);
                    }
                }
                if !driver.answer_is_complete() {
                    *response.body_mut() = Either::Right(StreamBody::new(stream(driver)));
                    return Ok(response);
                }
            }
            Some(Emission::Chunk(bytes)) if whole.is_empty() => whole = bytes,
            Some(Emission::Chunk(bytes)) => whole = [whole, bytes].concat().into(),
            Some(Emission::End) | None => {
                driver.leave(());
                *response.body_mut() = Either::Left(Full::new(whole));
                return Ok(response);
            }
        }
    }
}

/// A header's value as a text, whatever its bytes are: one that was left out for them would let
/// another header speak in its place. Values of one name are joined as `fetch` joins them on
/// the edge.
fn header_text(value: &HeaderValue) -> String {
    value.as_bytes().iter().map(|byte| char::from(*byte)).collect()
}

/// The rest of an answer, as the client reads it.
fn stream(driver: Driver) -> LocalBoxStream<'static, Result<Frame<Bytes>, Infallible>> {
    unfold(driver, |mut driver| async move {
        match driver.next().await {
            Some(Emission::Chunk(bytes)) => Some((Ok(Frame::data(bytes)), driver)),
            Some(Emission::Head { .. } | Emission::End) | None => {
                driver.leave(());
                None
            }
        }
    })
    .boxed_local()
}

/// Runs a connection's helpers on its own thread.
#[derive(Clone, Copy, Debug)]
struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
