//! What is shown: names, units and labels, for every way in which they are exported.
//!
//! Names are OpenTelemetry's where it has one (semantic conventions for HTTP and generative AI);
//! others begin with `minigate`. Nothing here may depend on who asks.

use super::{
    BreakerState, Ending, Labels, Snapshot, bounds,
    totals::{Totals, TurnTotals},
};
use crate::state::histogram::Histogram;

/// Metrics of one name.
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    /// With dots.
    pub name: &'static str,
    /// `s`, `By`, `{token}`, `1` or nothing, as OpenTelemetry (UCUM) writes it.
    pub unit: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// One for each set of labels.
    pub points: Vec<Point>,
}

/// The kind of a [`Family`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, until a host begins anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
    /// Quantiles of the last five minutes.
    Summary,
}

/// One series, or the series of one histogram.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Names with dots, and values.
    pub labels: Vec<(&'static str, String)>,
    /// Its value.
    pub number: Number,
}

/// The value of a [`Point`], in the family's unit.
#[derive(Clone, Debug, PartialEq)]
pub enum Number {
    /// Of a counter or a gauge.
    Value(f64),
    /// Of a histogram.
    Buckets {
        /// The upper ends, and how many values are at most that.
        below: Vec<(f64, u64)>,
        /// All values.
        count: u64,
        /// Their sum.
        sum: f64,
    },
    /// Of a summary.
    Quantiles {
        /// Quantile and value.
        quantiles: Vec<(f64, f64)>,
        /// All values of the last minutes.
        count: u64,
        /// Their sum.
        sum: f64,
    },
}

/// Thousandths into seconds, millionths into seconds, and whole numbers.
const MS: f64 = 1e-3;
const US: f64 = 1e-6;
const ONE: f64 = 1.0;

/// Everything that is known, in a fixed order.
pub fn families(snapshot: &Snapshot) -> Vec<Family> {
    let mut all = requests(&snapshot.totals);
    all.extend(turns(&snapshot.totals, snapshot.now_ms));
    all.extend(abuse(&snapshot.totals));
    all.extend(now(snapshot));
    all
}

fn family(name: &'static str, unit: &'static str, kind: Kind, help: &'static str) -> Family {
    Family { name, unit, help, kind, points: Vec::new() }
}

impl Family {
    fn with(mut self, labels: Vec<(&'static str, String)>, number: Number) -> Self {
        self.points.push(Point { labels, number });
        self
    }

    #[allow(clippy::cast_precision_loss, reason = "counts are far from 2^53")]
    fn counts(self, labels: Vec<(&'static str, String)>, count: u64) -> Self {
        self.with(labels, Number::Value(count as f64))
    }

    fn each<T>(self, items: impl Iterator<Item = T>, add: impl Fn(Self, T) -> Self) -> Self {
        items.fold(self, add)
    }
}

#[allow(clippy::cast_precision_loss, reason = "sums are far from 2^53")]
fn buckets(histogram: &Histogram, ends: &[u32], scale: f64) -> Number {
    let counts = bounds::below(histogram, ends);
    let below = ends.iter().zip(counts).map(|(end, count)| (f64::from(*end) * scale, count)).collect();
    Number::Buckets { below, count: histogram.count(), sum: histogram.sum() as f64 * scale }
}

fn requests(totals: &Totals) -> Vec<Family> {
    let coarse = bounds::coarse();
    let durations = family(
        "http.server.request.duration",
        "s",
        Kind::Histogram,
        "Time from a request's head to the end of its answer.",
    );
    let durations = durations.each(totals.requests.iter(), |family, ((route, status), histogram)| {
        let labels = vec![("http.route", route.clone()), ("http.response.status_code", status.to_string())];
        family.with(labels, buckets(histogram, &coarse, MS))
    });
    let errors = family("minigate.errors", "", Kind::Counter, "Requests that failed, by error.code.");
    let bodies = family("http.server.request.body.size", "By", Kind::Histogram, "Sizes of requests' bodies.");
    let queued = family(
        "minigate.queue.wait",
        "s",
        Kind::Histogram,
        "Time in the queue, of requests that found no free slot.",
    );
    let added = family(
        "minigate.added",
        "s",
        Kind::Histogram,
        "Time that this gateway added: without the client's body, the store, the queue, models and WeChat.",
    );
    let own = family(
        "minigate.module",
        "s",
        Kind::Histogram,
        "Time inside of the module for one request. Not known on the edge, whose clock stands still meanwhile.",
    );
    let plain = |name, help, count| family(name, "", Kind::Counter, help).counts(Vec::new(), count);
    vec![
        durations,
        errors.each(totals.errors.iter(), |family, (code, count)| {
            family.counts(vec![("error.type", code.clone())], *count)
        }),
        bodies.with(Vec::new(), buckets(&totals.bodies, &bounds::fours(10, 24), ONE)),
        queued.with(Vec::new(), buckets(&totals.queued, &coarse, MS)),
        added.with(Vec::new(), buckets(&totals.added, &coarse, MS)),
        own.with(Vec::new(), buckets(&totals.own, &coarse, US)),
        plain(
            "minigate.store.failures",
            "Requests during which the store failed, and that passed all the same.",
            totals.store_failures,
        ),
        plain("minigate.unchecked", "Texts and pictures that WeChat could not check.", totals.unchecked),
        family("minigate.tool.calls", "", Kind::Counter, "Calls of tools, by name.")
            .each(totals.tools.iter(), |family, (tool, count)| {
                family.counts(vec![("gen_ai.tool.name", tool.clone())], *count)
            }),
        family("minigate.tool.failures", "", Kind::Counter, "Tools that failed, by name.")
            .each(totals.failed_tools.iter(), |family, (tool, count)| {
                family.counts(vec![("gen_ai.tool.name", tool.clone())], *count)
            }),
    ]
}

/// Who answered. What is empty is left out, which is the same to Prometheus.
fn labelled(labels: &Labels) -> Vec<(&'static str, String)> {
    let all = [
        ("minigate.intent", &labels.intent),
        ("minigate.profile", &labels.profile),
        ("gen_ai.request.model", &labels.model),
    ];
    let known = all.into_iter().filter(|(_, value)| !value.is_empty());
    known.map(|(name, value)| (name, value.clone())).collect()
}

/// The same beside the operation, as the conventions want it.
fn operation(labels: &Labels) -> Vec<(&'static str, String)> {
    let mut all = vec![("gen_ai.operation.name", "chat".to_owned())];
    all.extend(labelled(labels));
    all
}

fn turns(totals: &Totals, now_ms: u64) -> Vec<Family> {
    let fine = bounds::fine();
    let each = |empty: Family, add: &dyn Fn(Family, &Labels, &TurnTotals) -> Family| {
        totals.turns.iter().fold(empty, |family, (labels, turns)| add(family, labels, turns))
    };
    let timed = |name, help, of: fn(&TurnTotals) -> &Histogram| {
        each(family(name, "s", Kind::Histogram, help), &|family, labels, turns| match of(turns).count() {
            0 => family,
            _ => family.with(operation(labels), buckets(of(turns), &fine, MS)),
        })
    };
    let counted = |name, help, of: fn(&TurnTotals) -> u64| {
        each(family(name, "", Kind::Counter, help), &|family, labels, turns| {
            family.counts(labelled(labels), of(turns))
        })
    };
    let ends = bounds::fours(0, 20);
    let tokens = family(
        "gen_ai.client.token.usage",
        "{token}",
        Kind::Histogram,
        "Tokens of a turn, as the upstream counted them.",
    );
    let recent = family(
        "minigate.turn.duration",
        "s",
        Kind::Summary,
        "Whole turns of the last five minutes: quantiles within 3.2 %.",
    );
    vec![
        timed(
            "gen_ai.client.operation.duration",
            "Time from the first request to a model until the end of the turn.",
            |turns| &turns.model,
        ),
        timed(
            "gen_ai.server.time_to_first_token",
            "Time from the first request to a model until its first text; of answers that come whole, until they are there.",
            |turns| &turns.first,
        ),
        each(tokens, &|family, labels, turns| {
            let kinds = [("input", &turns.input), ("output", &turns.output)];
            kinds.into_iter().filter(|(_, tokens)| tokens.count() > 0).fold(
                family,
                |family, (kind, tokens)| {
                    let mut labels = operation(labels);
                    labels.push(("gen_ai.token.type", kind.into()));
                    family.with(labels, buckets(tokens, &ends, ONE))
                },
            )
        }),
        each(recent, &|family, labels, turns| {
            let recent = turns.last_minutes(now_ms);
            if recent.count() == 0 {
                return family;
            }
            family.with(labelled(labels), quantiles(&recent))
        }),
        each(
            family("minigate.turns", "", Kind::Counter, "Turns, by how they ended."),
            &|family, labels, turns| {
                // Also what never happened: a rate of a series that begins at 1 misses its first.
                let all = [
                    Ending::Answered,
                    Ending::TimedOut,
                    Ending::Refused,
                    Ending::Rejected,
                    Ending::Invalid,
                    Ending::Failed,
                    Ending::Left,
                ];
                all.into_iter().fold(family, |family, ending| {
                    let mut labels = labelled(labels);
                    labels.push(("outcome", ending.name().into()));
                    family.counts(labels, turns.endings.get(&ending).copied().unwrap_or_default())
                })
            },
        ),
        counted("minigate.retries", "Requests to a model after a turn's first.", |turns| turns.retries),
        counted("minigate.fallbacks", "Turns in which another profile stood in.", |turns| turns.fallbacks),
        counted("minigate.cache.hits", "Turns that were answered from what is kept.", |turns| turns.cached),
        counted(
            "minigate.schema.failures",
            "Turns with an answer that was not what its schema wants.",
            |turns| turns.schema_failures,
        ),
    ]
}

#[allow(clippy::cast_precision_loss, reason = "sums are far from 2^53")]
fn quantiles(histogram: &Histogram) -> Number {
    let of = |permille: u16| {
        (f64::from(permille) / 1_000.0, f64::from(histogram.quantile(permille).unwrap_or_default()) * MS)
    };
    let quantiles = [500, 950, 990].map(of).to_vec();
    Number::Quantiles { quantiles, count: histogram.count(), sum: histogram.sum() as f64 * MS }
}

fn abuse(totals: &Totals) -> Vec<Family> {
    let help =
        "Signs of abuse: repeated requests, payload spikes, refusals by a rate, callers of bad standing.";
    let signs = family("minigate.abuse.signs", "", Kind::Counter, help);
    vec![signs.each(totals.signs.iter(), |family, (sign, count)| {
        family.counts(vec![("sign", sign.name().into())], *count)
    })]
}

#[allow(clippy::cast_precision_loss, reason = "milliseconds and bytes are far from 2^53")]
fn now(snapshot: &Snapshot) -> Vec<Family> {
    let process = &snapshot.process;
    let mut all = Vec::new();
    let gauge = |name, unit, help| family(name, unit, Kind::Gauge, help);
    let loads = |name, help, of: fn(&super::Load) -> u32| {
        gauge(name, "", help).each(snapshot.loads.iter(), |family, load| {
            family.counts(vec![("upstream", load.upstream.clone())], of(load).into())
        })
    };
    all.push(loads("minigate.queue.length", "Requests that wait for a slot.", |load| load.waiting));
    all.push(loads("minigate.leases", "Slots that are taken.", |load| load.leases));
    all.push(loads("minigate.slots", "Slots that there are; 0 is no limit.", |load| load.slots));
    let breakers = gauge("minigate.breaker.state", "", "0 is closed, 1 half open, 2 open.");
    all.push(snapshot.loads.iter().fold(breakers, |family, load| {
        load.breakers.iter().fold(family, |family, (model, state)| {
            let labels = vec![("upstream", load.upstream.clone()), ("gen_ai.request.model", model.clone())];
            let state = match state {
                BreakerState::Closed => 0,
                BreakerState::HalfOpen => 1,
                BreakerState::Open => 2,
            };
            family.counts(labels, state)
        })
    }));
    let labels =
        |budget: &super::Budget| vec![("minigate.role", budget.role.clone()), ("kind", budget.kind.clone())];
    let used = gauge("minigate.budget.used", "", "What a role has used of today together, and reserved.");
    all.push(used.each(snapshot.budgets.iter(), |family, budget| family.counts(labels(budget), budget.used)));
    let cap = gauge("minigate.budget.cap", "", "What a role may use in a day together.");
    all.push(cap.each(snapshot.budgets.iter(), |family, budget| family.counts(labels(budget), budget.cap)));
    let mut known = |family: Family, value: Option<f64>| {
        all.extend(value.map(|value| family.with(Vec::new(), Number::Value(value))));
    };
    let seconds = |ms: Option<u64>| ms.map(|ms| ms as f64 * MS);
    let starts = "Starts of hosts on this store.";
    known(family("minigate.starts", "", Kind::Counter, starts), snapshot.starts.map(|count| count as f64));
    known(
        gauge("minigate.log.silence", "s", "Since the last log line was written."),
        seconds(process.silent_ms),
    );
    let unwritten = "Age of the oldest log line that is not written yet; 0 when all are.";
    known(gauge("minigate.log.unwritten", "s", unwritten), seconds(process.unwritten_ms));
    let dropped = "Log lines that are lost: nobody read them in time, or they could not be written.";
    let lines = process.lines_dropped.map(|count| count as f64);
    known(family("minigate.log.dropped", "", Kind::Counter, dropped), lines);
    let began = "When the process began, in seconds since 1970.";
    known(gauge("process.start_time", "s", began), seconds(process.started_ms));
    let cpu = "CPU time of the process.";
    known(family("process.cpu", "s", Kind::Counter, cpu), seconds(process.cpu_ms));
    let memory = "Memory of the process.";
    known(gauge("process.resident_memory", "By", memory), process.memory_bytes.map(|bytes| bytes as f64));
    let robots = process.sockets.unwrap_or_default();
    let shown = |count: u64| process.sockets.map(|_| count as f64);
    known(gauge("minigate.robot.sockets", "", "Robots that have a socket now."), shown(robots.open));
    known(gauge("minigate.robots", "", "Robots that should have a socket."), shown(robots.wanted));
    let opened = "Sockets of robots that were opened.";
    known(family("minigate.robot.connects", "", Kind::Counter, opened), shown(robots.opened));
    let failed = "Attempts to open one that failed.";
    known(family("minigate.robot.connect_failures", "", Kind::Counter, failed), shown(robots.failed));
    known(gauge("minigate.time", "s", "The gateway's clock."), Some(snapshot.now_ms as f64 * MS));
    let labels = snapshot.build.iter().map(|(name, value)| (build_label(name), value.clone())).collect();
    all.push(gauge("minigate.build.info", "", "What runs.").with(labels, Number::Value(1.0)));
    all
}

/// Label names are fixed.
fn build_label(name: &str) -> &'static str {
    ["version", "module", "config", "host", "environment"]
        .into_iter()
        .find(|known| *known == name)
        .unwrap_or("x")
}
