//! A client that costs as little as can be: prepared bytes out, and of the answer no more
//! is looked at than its status and where it ends.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Instant};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
    task::{JoinSet, LocalSet},
};

use super::Result;

/// The thread that asks.
pub(super) struct Client {
    runtime: Runtime,
}

/// How long each answer of one round took, in nanoseconds, sorted.
#[derive(Default)]
pub(super) struct Load {
    total: Vec<u64>,
    first: Vec<u64>,
    reads: usize,
}

impl Load {
    /// A part of all answers was complete after so long.
    pub(super) fn total_us(&self, part: f64) -> f64 {
        quantile(&self.total, part)
    }

    /// A part of all answers had begun, with at least one byte of the body, after so long.
    pub(super) fn first_us(&self, part: f64) -> f64 {
        quantile(&self.first, part)
    }

    /// In how many pieces an answer arrived, on average.
    pub(super) fn reads_per_answer(&self) -> f64 {
        self.reads as f64 / self.total.len() as f64
    }
}

fn quantile(sorted: &[u64], part: f64) -> f64 {
    let index = (sorted.len() as f64 * part) as usize;
    sorted.get(index.min(sorted.len().saturating_sub(1))).map_or(f64::NAN, |ns| *ns as f64 / 1000.0)
}

/// A round on its way.
struct Round {
    request: Vec<u8>,
    left: usize,
    load: Load,
}

impl Client {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { runtime: tokio::runtime::Builder::new_current_thread().enable_all().build()? })
    }

    /// Asks once and looks at the answer; gives its length.
    pub(super) fn check(&mut self, address: SocketAddr, request: &[u8], expected: &str) -> Result<usize> {
        let mut buffer = Vec::new();
        self.runtime.block_on(async {
            let mut stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
            exchange(&mut stream, request, &mut buffer).await
        })?;
        let answer = String::from_utf8_lossy(&buffer);
        if !answer.contains(expected) {
            return Err(format!("{address} answered without `{expected}`:\n{answer}").into());
        }
        Ok(buffer.len())
    }

    /// Asks `count` times over some connections, each with one request at a time.
    pub(super) fn run(
        &mut self,
        address: SocketAddr,
        request: &[u8],
        count: usize,
        connections: usize,
    ) -> Result<Load> {
        let round =
            Rc::new(RefCell::new(Round { request: request.to_vec(), left: count, load: Load::default() }));
        LocalSet::new().block_on(&self.runtime, async {
            let mut tasks = JoinSet::new();
            for _ in 0..connections.min(count) {
                tasks.spawn_local(connection(address, Rc::clone(&round)));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.map_err(|error| error.to_string())??;
            }
            Ok::<(), String>(())
        })?;
        let mut load = std::mem::take(&mut round.borrow_mut().load);
        load.total.sort_unstable();
        load.first.sort_unstable();
        Ok(load)
    }
}

/// One connection's requests, until the round has none left.
async fn connection(address: SocketAddr, round: Rc<RefCell<Round>>) -> std::result::Result<(), String> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut buffer = Vec::with_capacity(64 << 10);
    let request = round.borrow().request.clone();
    loop {
        {
            let mut round = round.borrow_mut();
            let Some(left) = round.left.checked_sub(1) else { return Ok(()) };
            round.left = left;
        }
        let begun = Instant::now();
        let (first, reads) = exchange(&mut stream, &request, &mut buffer).await?;
        let load = &mut round.borrow_mut().load;
        load.total.push(nanos(begun, Instant::now()));
        load.first.push(nanos(begun, first));
        load.reads += reads;
    }
}

fn nanos(from: Instant, to: Instant) -> u64 {
    u64::try_from((to - from).as_nanos()).unwrap_or(u64::MAX)
}

/// One request and its answer; gives when the first byte of its body came, and the number
/// of reads.
async fn exchange(
    stream: &mut TcpStream,
    request: &[u8],
    buffer: &mut Vec<u8>,
) -> std::result::Result<(Instant, usize), String> {
    stream.write_all(request).await.map_err(|error| format!("write: {error}"))?;
    buffer.clear();
    let (mut body_at, mut length, mut first, mut reads) = (None, None, None, 0);
    loop {
        let count = stream.read_buf(buffer).await.map_err(|error| format!("read: {error}"))?;
        reads += 1;
        if count == 0 {
            return Err(format!("closed early after {:?}", String::from_utf8_lossy(buffer)));
        }
        if body_at.is_none() {
            let Some(at) = find(buffer, b"\r\n\r\n") else { continue };
            if !buffer.starts_with(b"HTTP/1.1 200") {
                return Err(format!("answered: {}", String::from_utf8_lossy(buffer)));
            }
            body_at = Some(at + 4);
            length = header_number(&buffer[..at], "content-length");
        }
        let at = body_at.unwrap_or_default();
        if first.is_none() && buffer.len() > at {
            first = Some(Instant::now());
        }
        let ended = match length {
            Some(length) => buffer.len() >= at + length,
            None => buffer.ends_with(b"0\r\n\r\n"),
        };
        if let (true, Some(first)) = (ended, first) {
            return Ok((first, reads));
        }
    }
}

/// Where `what` begins.
pub(super) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// A header that is a number.
pub(super) fn header_number(head: &[u8], name: &str) -> Option<usize> {
    let lines = head.split(|byte| *byte == b'\n').filter_map(|line| core::str::from_utf8(line).ok());
    lines
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .and_then(|(_, value)| value.trim().parse().ok())
}
