//! `/metrics` and `/v1/admin/overview`: what was counted, and how things are now.
//!
//! The host gives the counts and says how its process is; the store says how the upstreams, the
//! day's caps and the starts are, and has the counts of hosts that forget. What cannot be asked now
//! is left out: a scrape that fails would hide the rest.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::{Exchange, Phase, approvals, dues, gates, queue::upstream_key, rollouts, routes::Route};
use crate::{
    VERSION,
    measure::{self, BreakerState, Budget, Load, Process, Snapshot, Totals},
    policy::{Policy, auth, catalog::ModelKind},
    seam::{Input, MODEL, Moment, OPENCLAW, Output, STARTS, STATS, STATS_SHARDS},
    state::{Op, Outcome, budget, rollout::Version},
    wire::failure::{Code, Failure},
};

/// What is asked, and what is known of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Asked {
    stats_id: u32,
    /// 0 until the host has answered.
    store_id: u32,
    totals: ByteBuf,
    process: Process,
}

impl Asked {
    /// What is waited for.
    pub(super) fn id(&self) -> u32 {
        if self.store_id == 0 { self.stats_id } else { self.store_id }
    }
}

/// What one operation asks about.
enum Subject {
    Upstream(String),
    /// A role and its caps: requests and tokens.
    Day(String, Option<u32>, Option<u64>),
    Starts,
    Shard,
}

impl Exchange {
    /// The host first: it may have something to write that the store is to show.
    pub(super) fn show_metrics(&mut self, now: Moment) {
        let stats_id = self.take_id();
        self.outputs.push_back(Output::Stats { id: stats_id });
        self.timers.store = Some(now.unix_ms + gates::STORE_PATIENCE);
        self.phase = Phase::Metrics(Box::new(Asked { stats_id, ..Asked::default() }));
    }

    pub(super) fn in_metrics(
        &mut self,
        policy: &Policy,
        mut asked: Box<Asked>,
        input: Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stats { id, totals, process } if id == asked.stats_id && asked.store_id == 0 => {
                asked.store_id = self.take_id();
                (asked.totals, asked.process) = (totals, process);
                let mut ops = questions(policy, now.unix_ms);
                if self.facts.route == Route::Overview {
                    ops.push((approvals::LIST.to_owned(), Op::List));
                    ops.extend(rollouts::asks_of_all(policy));
                }
                self.outputs.push_back(Output::Store { id: asked.store_id, ops });
                self.timers.store = Some(now.unix_ms + gates::STORE_PATIENCE);
                self.phase = Phase::Metrics(asked);
            }
            Input::Stored { id, outcomes } if id == asked.store_id => {
                self.give_metrics(policy, &asked, &outcomes, now);
            }
            Input::StoreFailed { id } if id == asked.store_id => self.metrics_late(policy, *asked, now),
            _ => self.phase = Phase::Metrics(asked),
        }
    }

    /// The store does not answer: what the host knows is shown. Without a word of the host there is
    /// nothing, and zeros would look like a start.
    pub(super) fn metrics_late(&mut self, policy: &Policy, asked: Asked, now: Moment) {
        self.story.store_failed = true;
        let forgets = Totals::decode(&asked.totals).is_empty();
        if asked.store_id == 0 || forgets {
            self.timers.store = None;
            let failure = Failure::new(Code::StoreUnavailable, "what was counted cannot be read now");
            return self.fail(policy, &failure.after(5), now);
        }
        self.give_metrics(policy, &asked, &[], now);
    }

    fn give_metrics(&mut self, policy: &Policy, asked: &Asked, outcomes: &[Outcome], now: Moment) {
        self.timers.store = None;
        let totals = Totals::decode(&asked.totals);
        let snapshot = snapshot(policy, totals, asked.process, outcomes, now.unix_ms);
        if self.facts.route == Route::Overview {
            return self.give_overview(policy, &snapshot, outcomes, now);
        }
        let text = measure::render(&measure::families(&snapshot));
        let kind = ("content-type".into(), "text/plain; version=0.0.4; charset=utf-8".into());
        self.respond_with(policy, 200, vec![kind], ByteBuf::from(text.into_bytes()), now);
    }

    /// The same for an operator's page, with what waits for a person.
    fn give_overview(&mut self, policy: &Policy, snapshot: &Snapshot, outcomes: &[Outcome], now: Moment) {
        let mut shown = measure::overview(snapshot, |profile| version_of(policy, profile));
        shown["config"] = json!({"version": policy.catalog.version});
        let mut more = outcomes.get(subjects(policy).len()..).unwrap_or_default().iter();
        shown["approvals"] = match more.next() {
            Some(Outcome::Listed(entries)) => entries.len().into(),
            _ => Value::Null,
        };
        shown["rollouts"] = self.rollouts_in_short(policy, more.as_slice()).into();
        self.respond_json(policy, 200, shown.to_string(), now);
    }
}

/// What the store is asked for a [`Snapshot`]. Nothing of it stops the list.
pub fn questions(policy: &Policy, unix_ms: u64) -> Vec<(String, Op)> {
    let day = budget::day(unix_ms);
    subjects(policy).into_iter().map(|(key, subject)| (key, subject.op(day))).collect()
}

/// Everything that is known, with the store's answers to [`questions`] or without any.
pub fn snapshot(
    policy: &Policy,
    totals: Totals,
    process: Process,
    outcomes: &[Outcome],
    now_ms: u64,
) -> Snapshot {
    let build = build(policy);
    let mut snapshot = Snapshot { totals, process, build, now_ms, ..Snapshot::default() };
    for ((_, subject), outcome) in subjects(policy).into_iter().zip(outcomes) {
        subject.read(policy, outcome, &mut snapshot);
    }
    snapshot
}

fn build(policy: &Policy) -> Vec<(String, String)> {
    [
        ("version", VERSION),
        ("module", &policy.host.module_sha256),
        ("config", &policy.catalog.version),
        ("host", &policy.host.name),
        ("environment", policy.environment.name()),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

/// Keys, and what is asked about each. The same list for the same policy.
fn subjects(policy: &Policy) -> Vec<(String, Subject)> {
    let mut all = Vec::new();
    if policy.admission.slots > 0 {
        let servers = policy.catalog.servers().map(|(alias, _)| format!("{MODEL}{alias}"));
        let upstreams = std::iter::once(OPENCLAW.to_owned()).chain(servers);
        all.extend(upstreams.map(|name| (upstream_key(&name), Subject::Upstream(name))));
    }
    for role in &policy.catalog.roles {
        let caps = role.daily_together;
        if caps.requests.is_some() || caps.tokens.is_some() {
            let subject = Subject::Day(role.name.clone(), caps.requests, caps.tokens);
            all.push((dues::role_day_key(&role.name), subject));
        }
    }
    all.push((STARTS.to_owned(), Subject::Starts));
    all.extend((0..STATS_SHARDS).map(|shard| (format!("{STATS}{shard}"), Subject::Shard)));
    all
}

impl Subject {
    fn op(&self, day: u32) -> Op {
        match self {
            Self::Upstream(_) => Op::InspectUpstream,
            Self::Day(..) => Op::InspectDay { day },
            Self::Starts => Op::Count { add: 0 },
            Self::Shard => Op::Totals,
        }
    }

    fn read(self, policy: &Policy, outcome: &Outcome, snapshot: &mut Snapshot) {
        match (self, outcome) {
            (Self::Upstream(upstream), Outcome::Load { waiting, leases, breakers }) => {
                let state = |model: &str| {
                    let hash = auth::number(model);
                    let open = breakers.iter().find(|(known, _)| *known == hash);
                    open.map_or(BreakerState::Closed, |(_, state)| *state)
                };
                let models = models(policy, &upstream);
                snapshot.loads.push(Load {
                    waiting: *waiting,
                    leases: *leases,
                    slots: policy.admission.slots.into(),
                    breakers: models.into_iter().map(|model| (model.to_owned(), state(model))).collect(),
                    upstream,
                });
            }
            (Self::Day(role, requests, tokens), Outcome::Used { requests: turns, tokens: used }) => {
                let budget = |kind: &str, used: u64, cap: u64| Budget {
                    role: role.clone(),
                    kind: kind.into(),
                    used,
                    cap,
                };
                let requests = requests.map(|cap| budget("requests", (*turns).into(), cap.into()));
                snapshot.budgets.extend(requests);
                snapshot.budgets.extend(tokens.map(|cap| budget("tokens", *used, cap)));
            }
            (Self::Starts, Outcome::Counted(count)) => {
                snapshot.starts = Some(*count).filter(|count| *count > 0)
            }
            (Self::Shard, Outcome::Value(Some(bytes))) => snapshot.totals.merge(&Totals::decode(bytes)),
            _ => {}
        }
    }
}

/// What a profile is to the rollouts of the configuration, if it is a part of one.
pub(super) fn version_of(policy: &Policy, profile: &str) -> Option<Version> {
    let mut rollouts = policy.catalog.intents.iter().filter_map(|intent| intent.rollout.as_ref());
    rollouts.find_map(|rollout| match profile {
        _ if profile == rollout.to => Some(Version::Candidate),
        _ if profile == rollout.from => Some(Version::Running),
        _ => None,
    })
}

/// The models that an upstream serves, by the names under which their breakers are kept.
fn models<'p>(policy: &'p Policy, upstream: &str) -> Vec<&'p str> {
    if let Some(alias) = upstream.strip_prefix(MODEL) {
        return policy.catalog.model(alias).map(|model| model.alias.as_str()).into_iter().collect();
    }
    let names = policy.chat.models.iter().map(String::as_str);
    // The two names of the default agent are one model.
    let names = names.map(|name| if name == "openclaw/default" { "openclaw" } else { name });
    let aliases =
        policy.catalog.models.iter().filter(|model| matches!(model.kind, ModelKind::OpenClaw { .. }));
    let mut all: Vec<&str> = names.chain(aliases.map(|model| model.alias.as_str())).collect();
    all.sort_unstable();
    all.dedup();
    all
}
