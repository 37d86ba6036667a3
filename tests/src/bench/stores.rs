//! A call of each store when it holds a thousand keys, beside one that holds very many.
//!
//! Both are asked in turns, one call after the other, each call's time taken by itself. SQLite and
//! Redis are asked as a serving thread asks them, reduction in the module included. A Durable
//! Object is the store of one key, so many keys are many objects there and no object knows of the
//! others; what is looked at is workerd, over HTTP, with fewer of them and in memory.

use std::{
    cell::RefCell,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use minigate::{
    module::Core,
    store::{Clock, Store},
};
use minigate_core::state::{
    Op, Outcome,
    caller::{Enter, Rate},
};
use minigate_tests::{client::Client, hosts::Host, redis::Redis, store};

use super::{
    Result, median,
    process::{self, Directory},
    report::{Report, Row, Target},
};

/// Keys of the smaller store.
const FEW: usize = 1_000;
/// Objects of the larger one.
const OBJECTS: usize = 10_000;
const ROUNDS: usize = 9;
/// Calls of one store in one round.
const CALLS: usize = 2_000;
/// The same for calls that wait for a disk or for HTTP.
const SLOW_CALLS: usize = 200;
/// Calls that are made at once when a store is filled.
const AT_ONCE: usize = 256;
/// After so many relaxed changes the filling waits for the disk.
const BETWEEN_PROBES: usize = 16_384;

/// Everything, in about two minutes.
pub(crate) fn store(keys: usize) -> Result<Report> {
    let mut report = Report::begin(0, ROUNDS);
    report.note("store", "keys", keys as f64);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let kept = Directory::new()?;
    runtime.block_on(async {
        sqlite(&mut report, kept.path(), keys).await?;
        objects(&mut report, keys.min(OBJECTS)).await?;
        redis(&mut report, kept.path(), keys).await
    })?;
    report.end();
    Ok(report)
}

/// A store with a thread's way to it.
enum Filled {
    Native(Store, Box<RefCell<Core>>, usize),
    Objects(Client, usize),
}

impl Filled {
    fn open(kept: &Path, url: Option<&str>, name: &str, keys: usize) -> Result<Self> {
        let core = store::core(store::code(&kept.join("code")));
        let opened = Store::open(url, &kept.join(name), Clock::default())?;
        Ok(Self::Native(opened, Box::new(RefCell::new(core)), keys))
    }

    fn keys(&self) -> usize {
        match self {
            Self::Native(.., keys) | Self::Objects(_, keys) => *keys,
        }
    }

    async fn call(&self, key: &str, op: Op) -> Result<Outcome> {
        match self {
            Self::Native(store, core, _) => {
                let outcomes = store.apply(core, vec![(key.to_owned(), op)]).await;
                Ok(outcomes.and_then(|mut all| all.pop()).ok_or("the store failed")?)
            }
            Self::Objects(client, _) => {
                let path = format!("/?key={key}");
                let response = client.send("POST", &path, &[], postcard::to_allocvec(&op)?).await;
                Ok(postcard::from_bytes(&response.bytes().await?)?)
            }
        }
    }

    /// Writes every key once.
    async fn fill(&self) -> Result<()> {
        for begin in (0..self.keys()).step_by(AT_ONCE) {
            let end = self.keys().min(begin + AT_ONCE);
            for done in join_all((begin..end).map(|number| self.enter(number))).await {
                done?;
            }
            if begin % BETWEEN_PROBES == 0 {
                self.call("probe", Op::Probe).await?;
            }
        }
        self.call("probe", Op::Probe).await?;
        Ok(())
    }

    /// What every request does: a caller's rate.
    async fn enter(&self, number: usize) -> Result<()> {
        let outcome = self.call(&name(number), enter()).await?;
        matches!(outcome, Outcome::Entered { .. }).then_some(()).ok_or("an outcome of another kind".into())
    }

    /// What a login does: a mark, which must be on disk.
    async fn mark(&self, number: usize) -> Result<()> {
        self.call(&format!("code{}", name(number)), Op::Once { ttl_ms: 600_000 }).await.map(drop)
    }
}

/// A caller's cell that matters for hours.
fn enter() -> Op {
    let rate = Some(Rate { per_minute: 1, burst: 1_000_000 });
    Op::Enter(Enter { rate, cost: 600, ..Enter::default() })
}

/// A key as they are: a kind and a hash.
fn name(number: usize) -> String {
    format!("user:{:032x}", (number as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

/// Numbers below a bound, in no order.
struct Shuffled(u64);

impl Shuffled {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The kinds of calls.
#[derive(Clone, Copy)]
enum Kind {
    /// A rate of any key.
    Any,
    /// A rate of one of a few keys that are asked again and again.
    Usual,
    /// A mark on a key that was not there.
    Mark,
}

/// p50, p99 and the worst, in microseconds.
#[derive(Default)]
struct Times {
    p50: Vec<f64>,
    p99: Vec<f64>,
    worst: f64,
}

impl Times {
    fn push(&mut self, mut round: Vec<Duration>) {
        round.sort_unstable();
        let at = |part: f64| round[(round.len() as f64 * part) as usize].as_secs_f64() * 1e6;
        self.p50.push(at(0.5));
        self.p99.push(at(0.99));
        self.worst = self.worst.max(round.last().map_or(0.0, Duration::as_secs_f64) * 1e6);
    }
}

/// Gives both stores turns with one kind of call.
async fn compare(few: &Filled, many: &Filled, kind: Kind, calls: usize) -> Result<[Times; 2]> {
    let mut shuffled = Shuffled(7);
    let mut times: [Times; 2] = Default::default();
    let mut marked = 0;
    for round in 0..=ROUNDS {
        for turn in [round % 2, 1 - round % 2] {
            let side = [few, many][turn];
            let mut taken = Vec::with_capacity(calls);
            for _ in 0..calls {
                marked += 1;
                let number = match kind {
                    Kind::Any => shuffled.below(side.keys()),
                    Kind::Usual => shuffled.below(FEW),
                    Kind::Mark => marked,
                };
                let begun = Instant::now();
                match kind {
                    Kind::Any | Kind::Usual => side.enter(number).await?,
                    Kind::Mark => side.mark(number).await?,
                }
                taken.push(begun.elapsed());
            }
            // The first round only warms up.
            if round > 0 {
                times[turn].push(taken);
            }
        }
    }
    Ok(times)
}

/// The rows of one kind of call: very many keys beside few.
fn rows(report: &mut Report, id: &str, what: &str, [few, many]: [Times; 2], target: Target) {
    let mut row = |part: &str, many: f64, few: f64, target| {
        let what = format!("{what}, {part}");
        report.push(Row::pair("1,000 keys", &format!("{id}.{part}"), &what, "µs", many, few, target));
    };
    row("p50", median(many.p50), median(few.p50), target);
    row("p99", median(many.p99), median(few.p99), Target::None);
    report.note(id, "worst_us_many", many.worst);
    report.note(id, "worst_us_few", few.worst);
}

async fn sqlite(report: &mut Report, kept: &Path, keys: usize) -> Result<()> {
    eprintln!("[bench] SQLite: writing {keys} keys");
    let many = Filled::open(kept, None, "many", keys)?;
    many.enter(0).await?;
    let before = process::resident_mib(std::process::id())?;
    let begun = Instant::now();
    many.fill().await?;
    report.note("sqlite", "fill_seconds", begun.elapsed().as_secs_f64());
    let few = Filled::open(kept, None, "few", FEW)?;
    few.fill().await?;
    eprintln!("[bench] SQLite: calls");
    let times = compare(&few, &many, Kind::Any, CALLS).await?;
    rows(report, "sqlite.any", "SQLite: a rate, any key", times, Target::MoreBy(100.0));
    let times = compare(&few, &many, Kind::Usual, CALLS).await?;
    rows(report, "sqlite.usual", "SQLite: a rate, a key asked lately", times, Target::Ratio(1.25));
    let times = compare(&few, &many, Kind::Mark, SLOW_CALLS).await?;
    rows(report, "sqlite.mark", "SQLite: a mark, on disk", times, Target::Ratio(1.5));
    let grown = process::resident_mib(std::process::id())? - before;
    let what = "SQLite: memory that the keys and calls added";
    report.push(Row::ours("sqlite.memory", what, "MiB", grown, Target::AtMost(64.0)));
    let per_key = grown * 1024.0 * 1024.0 / keys as f64;
    report.push(Row::ours("sqlite.memory_key", "SQLite: that for each key", "bytes", per_key, Target::None));
    let file = fs::metadata(kept.join("many/minigate.sqlite"))?.len() as f64 / keys as f64;
    report.push(Row::ours("sqlite.disk_key", "SQLite: on disk for each key", "bytes", file, Target::None));
    Ok(())
}

async fn redis(report: &mut Report, kept: &Path, keys: usize) -> Result<()> {
    eprintln!("[bench] Redis: writing {keys} keys");
    let servers = [Redis::start().await, Redis::start().await];
    let few = Filled::open(kept, Some(&servers[0].url()), "none", FEW)?;
    let many = Filled::open(kept, Some(&servers[1].url()), "none", keys)?;
    few.fill().await?;
    many.enter(0).await?;
    let before = process::resident_mib(servers[1].pid())?;
    let begun = Instant::now();
    many.fill().await?;
    report.note("redis", "fill_seconds", begun.elapsed().as_secs_f64());
    let per_key = (process::resident_mib(servers[1].pid())? - before) * 1024.0 * 1024.0 / keys as f64;
    eprintln!("[bench] Redis: calls");
    let times = compare(&few, &many, Kind::Any, CALLS).await?;
    rows(report, "redis.any", "Redis: a rate, any key", times, Target::Ratio(1.25));
    let what = "Redis: memory of the server for each key";
    report.push(Row::ours("redis.memory_key", what, "bytes", per_key, Target::None));
    Ok(())
}

async fn objects(report: &mut Report, keys: usize) -> Result<()> {
    eprintln!("[bench] Durable Objects: writing {keys} objects");
    let hosts = [Host::start_cells(None).await, Host::start_cells(None).await];
    let [few, many] = [(&hosts[0], FEW), (&hosts[1], keys)]
        .map(|(host, keys)| Filled::Objects(Client::new(&host.url), keys));
    few.fill().await?;
    many.fill().await?;
    eprintln!("[bench] Durable Objects: calls");
    let times = compare(&few, &many, Kind::Any, SLOW_CALLS).await?;
    let what = format!("Durable Objects ({keys}): a rate, any key, over HTTP");
    rows(report, "objects.any", &what, times, Target::Ratio(1.25));
    report.note("objects", "resident_mib_many", process::resident_mib(hosts[1].pid())?);
    for host in hosts {
        host.stop().await;
    }
    Ok(())
}
