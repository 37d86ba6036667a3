//! Measures side by side, in turns: the machine is never quiet, so only what was measured in
//! the same minute is compared, and medians are taken over rounds.

mod gateways;
mod load;
mod overload;
mod process;
mod report;
mod requests;
mod steps;
mod stores;
mod upstream;

use std::{
    error::Error,
    time::{Duration, Instant},
};

use gateways::Gateway;
use load::{Client, Load};
use process::Directory;
use report::{Report, Row, Target};
use upstream::Upstream;

pub(crate) use overload::overload;
pub(crate) use stores::store;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Rounds of each case; in each, every side has its turn.
const ROUNDS: usize = 7;
/// Rounds that are made even when the machine is so busy that the time has run out.
const FEWEST_ROUNDS: usize = 3;
/// The time that one case may take.
const BUDGET: Duration = Duration::from_secs(25);

/// What can be asked for by itself.
pub(crate) const PARTS: [&str; 6] = ["start", "small", "picture", "stream", "steps", "edge"];

/// Everything, in under three minutes; or only some parts.
pub(crate) fn chat(requests: usize, only: &[String]) -> Result<Report> {
    let wanted = |part: &str| {
        let wanted = only.is_empty() || only.iter().any(|one| one == part);
        if wanted {
            eprintln!("[bench] {part}");
        }
        wanted
    };
    let mut report = Report::begin(requests, ROUNDS);
    let mut client = Client::new()?;
    let upstream = Upstream::start()?;
    if wanted("start") {
        report.extend(start(&upstream)?);
    }
    let memory = |gateway: &Gateway, id: &str, when: &str, target| -> Result<Row> {
        Ok(Row::ours(id, &format!("resident memory, {when}"), "MiB", gateway.resident_mib()?, target))
    };
    let kept = Directory::new()?;
    let first = Gateway::minigate(&upstream, &kept)?;
    report.push(memory(&first, "memory.first", "idle, module just compiled", Target::AtMost(40.0))?);
    drop(first);
    let minigate = Gateway::minigate(&upstream, &kept)?;
    report.push(memory(&minigate, "memory.idle", "idle, machine code kept", Target::AtMost(40.0))?);
    let nginx = Gateway::nginx(&upstream)?;
    for case in requests::CASES.iter().filter(|case| wanted(case.id)) {
        client.check(minigate.address, &case.for_minigate(), case.expected())?;
        let forwarded = upstream.last_body();
        client.check(nginx.address, &case.for_nginx(&forwarded), case.expected())?;
        let sides = [
            Side { gateway: &minigate, request: case.for_minigate() },
            Side { gateway: &nginx, request: case.for_nginx(&forwarded) },
        ];
        let count = (requests / case.share).max(1);
        let [ours, theirs] = compare(&mut client, &sides, count, case.connections)?;
        report.extend(rows(case, &ours, &theirs));
        report.note(case.id, "requests_each_round", count as f64);
        report.note(case.id, "connections", case.connections as f64);
        report.note(case.id, "reads_per_answer_minigate", ours.reads);
        report.note(case.id, "reads_per_answer_nginx", theirs.reads);
    }
    report.push(memory(&minigate, "memory.after", "after these requests", Target::None)?);
    drop((minigate, nginx));
    if wanted("steps") {
        report.extend(steps::measure()?);
    }
    if wanted("edge") {
        report.extend(edge(&mut client, &upstream, requests)?);
    }
    report.end();
    Ok(report)
}

/// One of those that are compared.
struct Side<'a> {
    gateway: &'a Gateway,
    request: Vec<u8>,
}

/// What a side needed: medians over rounds.
struct Measured {
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    first_p50_us: f64,
    first_p99_us: f64,
    reads: f64,
}

/// Gives the sides turns: A B, B A, A B…
fn compare<const N: usize>(
    client: &mut Client,
    sides: &[Side<'_>; N],
    count: usize,
    connections: usize,
) -> Result<[Measured; N]> {
    for side in sides {
        client.run(side.gateway.address, &side.request, (count / 4).max(connections), connections)?;
    }
    let begun = Instant::now();
    let mut rounds: [Vec<(f64, Load)>; N] = std::array::from_fn(|_| Vec::new());
    for round in 0..ROUNDS {
        if round >= FEWEST_ROUNDS && begun.elapsed() > BUDGET {
            break;
        }
        for turn in 0..N {
            let index = if round % 2 == 0 { turn } else { N - 1 - turn };
            let side = &sides[index];
            let before = side.gateway.cpu()?;
            let load = client.run(side.gateway.address, &side.request, count, connections)?;
            // What is done after the answer (the log, the store) belongs to the request too.
            std::thread::sleep(Duration::from_millis(30));
            let spent = side.gateway.cpu()?.saturating_sub(before);
            rounds[index].push((spent.as_nanos() as f64 / 1000.0 / count as f64, load));
        }
    }
    Ok(rounds.map(|rounds| {
        let of = |value: &dyn Fn(&(f64, Load)) -> f64| median(rounds.iter().map(value).collect());
        Measured {
            cpu_us: of(&|(cpu, _)| *cpu),
            p50_us: of(&|(_, load)| load.total_us(0.50)),
            p99_us: of(&|(_, load)| load.total_us(0.99)),
            first_p50_us: of(&|(_, load)| load.first_us(0.50)),
            first_p99_us: of(&|(_, load)| load.first_us(0.99)),
            reads: of(&|(_, load)| load.reads_per_answer()),
        }
    }))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn rows(case: &requests::Case, ours: &Measured, theirs: &Measured) -> Vec<Row> {
    let row = |kind: &str, what: &str, unit, ours, theirs, target| {
        Row::pair(
            "nginx",
            &format!("{}.{kind}", case.id),
            &format!("{}: {what}", case.name),
            unit,
            ours,
            theirs,
            target,
        )
    };
    let mut rows = vec![row("cpu", "CPU", "µs", ours.cpu_us, theirs.cpu_us, Target::Ratio(case.target))];
    if case.streamed {
        let first = Target::MoreBy(1000.0);
        rows.push(row("first.p50", "first event, p50", "µs", ours.first_p50_us, theirs.first_p50_us, first));
        rows.push(row(
            "first.p99",
            "first event, p99",
            "µs",
            ours.first_p99_us,
            theirs.first_p99_us,
            Target::None,
        ));
    }
    rows.push(row("p50", "latency, p50", "µs", ours.p50_us, theirs.p50_us, Target::None));
    rows.push(row("p99", "latency, p99", "µs", ours.p99_us, theirs.p99_us, Target::None));
    rows
}

/// From the start of the process to the line that says that it listens, without and with
/// machine code kept from an earlier start.
fn start(upstream: &Upstream) -> Result<Vec<Row>> {
    let ms = |kept: &Directory| -> Result<f64> {
        Ok(Gateway::minigate(upstream, kept)?.started.as_secs_f64() * 1000.0)
    };
    let (mut cold, mut warm) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let kept = Directory::new()?;
        cold.push(ms(&kept)?);
        for _ in 0..3 {
            warm.push(ms(&kept)?);
        }
    }
    Ok(vec![
        Row::ours("start.cold", "start, module to be compiled", "ms", median(cold), Target::None),
        Row::ours("start.warm", "start, machine code kept", "ms", median(warm), Target::AtMost(100.0)),
    ])
}

/// The same module in workerd, beside a worker that only fetches.
fn edge(client: &mut Client, upstream: &Upstream, requests: usize) -> Result<Vec<Row>> {
    let ours = Gateway::edge(upstream, true)?;
    let free = Gateway::edge(upstream, false)?;
    let bare = Gateway::bare_worker(upstream)?;
    let mut rows = Vec::new();
    for case in requests::CASES {
        client.check(ours.address, &case.for_minigate(), case.expected())?;
        let forwarded = upstream.last_body();
        client.check(bare.address, &case.for_nginx(&forwarded), case.expected())?;
        let sides = [
            Side { gateway: &ours, request: case.for_minigate() },
            Side { gateway: &bare, request: case.for_nginx(&forwarded) },
            Side { gateway: &free, request: case.for_minigate() },
        ];
        let count = (requests / case.share / 5).max(1);
        let [ours, bare, free] = compare(client, &sides, count, case.connections)?;
        let row = |kind: &str, what: &str, cpu, target| {
            let (id, what) = (format!("edge.{}.{kind}", case.id), format!("edge, {}: CPU{what}", case.name));
            Row::pair("bare worker", &id, &what, "µs", cpu, bare.cpu_us, target)
        };
        rows.push(row("cpu", "", ours.cpu_us, Target::Ratio(1.3)));
        rows.push(row("cpu_unlimited", ", no rate limit", free.cpu_us, Target::None));
    }
    let picture = requests::LARGE_PICTURE;
    client.check(ours.address, &picture.for_minigate(), picture.expected())?;
    let sides = [Side { gateway: &ours, request: picture.for_minigate() }];
    let [large] = compare(client, &sides, (requests / 300).max(1), 1)?;
    rows.push(Row::ours(
        "edge.picture5.cpu",
        "edge, 5 MB picture: CPU of the whole workerd",
        "µs",
        large.cpu_us,
        Target::AtMost(10_000.0),
    ));
    Ok(rows)
}
