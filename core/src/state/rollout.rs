//! How far a new version has come: one cell for each rollout.
//!
//! Every turn of the intent is told here, of both versions; a larger share comes by time and
//! turns, the rollback by [`comparison`](super::comparison) with the running version. Both are
//! the reducer's: whichever host applies an operation sees all turns, and a change happens once.
//!
//! * The share is read with [`Op::Consult`](super::Op::Consult) before a turn and may be a turn
//!   old; who is in the share is [`policy::rollout`](crate::policy::rollout)'s to say.
//! * Turns are told with [`Op::Observe`](super::Op::Observe), whose outcome nobody hears. So what
//!   has changed is kept until somebody asks: each [`Change`] is in the outcome of one `Consult`
//!   or `Steer`, and whoever gets it writes the audit entry and tells
//!   [`Op::Heard`](super::Op::Heard) for it. Where that does not come (the client left, the host died),
//!   the change is given to somebody else after [`HEARD_MS`]; its number says that it is the same.
//! * What people say of their answers comes later than their turns and not of all of them. So it is a
//!   comparison of its own, of the shares of words that are bad ([`Op::Judge`](super::Op::Judge)).
//! * A person may hold, go on, promote and roll back at any time ([`Steer`]). Holding keeps the
//!   share; it does not switch the guard off.
//!
//! Nothing in here may say who took part.

use serde::{Deserialize, Serialize};

use super::{
    Outcome, Reduced,
    comparison::{Allowed, CHECKS, Comparison, Progress, WORST},
    encode,
    histogram::Histogram,
    rating::{Rating, Votes},
};

/// A rollout that was rolled back must not begin again because nobody asked for a while.
const KEPT_MS: u64 = 366 * 86_400_000;
/// Turns of the running version before its p95 and its usual tokens are known.
const KNOWN_TURNS: u32 = 100;
/// Turns that may take longer than the p95: that is what it says.
const SLOW_TURNS: f64 = 0.05;
/// An answer counts at most so many times the usual tokens: one that went wild proves nothing.
const DEAREST: u64 = 8;
/// How long whoever got a change has for writing it down.
pub const HEARD_MS: u64 = 10_000;
/// Changes that wait to be heard; the oldest are lost when nobody asks.
const MOST_CHANGES: usize = 16;

/// A share of the people, and what has to happen before the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// People with the new version, in hundredths of a percent.
    pub share: u16,
    /// At least so long.
    pub at_least_ms: u64,
    /// At least so many turns of the new version.
    pub at_least_turns: u32,
}

/// What may not happen: `None` is not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// More turns that failed than with the running version, in hundredths of a percent of all
    /// turns: 100 allows 3 % where 2 % fail now.
    pub failed: Option<u16>,
    /// More empty answers, likewise.
    pub empty: Option<u16>,
    /// More answers that are not as the schema says, likewise.
    pub schema: Option<u16>,
    /// The p95 of the time, in percent of the running version's, at least 100.
    pub p95: Option<u16>,
    /// The mean of the tokens, in percent of the running version's, at least 100.
    pub tokens: Option<u16>,
    /// More answers that people found bad, in hundredths of a percent of those they said something of.
    pub down: Option<u16>,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            failed: Some(100),
            empty: Some(100),
            schema: Some(100),
            p95: Some(150),
            tokens: Some(150),
            down: Some(1_000),
        }
    }
}

/// How a rollout goes. After the last step everybody has the new version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The steps, at least one, each with a larger share than the one before.
    pub steps: Vec<Step>,
    /// What may not happen.
    pub guard: Guard,
}

/// One of the two that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Version {
    /// The one that everybody had.
    Running,
    /// The new one.
    Candidate,
}

/// What became of a turn. What lies with the client (it left, it sent something invalid, it was
/// over its limits) is not to be told at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// An answer.
    Served,
    /// No answer, or one that broke off.
    Failed,
    /// An answer without words.
    Empty,
    /// An answer that is not as the schema says, also after a repair.
    SchemaFailed,
}

/// A turn that is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observe {
    /// The plan.
    pub plan: Plan,
    /// Who answered.
    pub version: Version,
    /// How it ended.
    pub ending: Ending,
    /// From the request to OpenClaw to the end of the answer: waiting for a slot is not the
    /// version's.
    pub latency_ms: u32,
    /// Tokens in and out; 0 where the upstream did not say.
    pub tokens: u32,
}

/// What a person said of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Judge {
    /// The plan.
    pub plan: Plan,
    /// Who answered.
    pub version: Version,
    /// The word.
    pub rating: Rating,
    /// What the same person said of the same answer before.
    pub before: Option<Rating>,
}

/// Asks how large the share is. Also makes the steps whose time has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consult {
    /// The plan.
    pub plan: Plan,
    /// Whether the counts are wanted, too.
    pub report: bool,
}

/// A person steers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steer {
    /// The plan.
    pub plan: Plan,
    /// Where to.
    pub order: Order,
}

/// What a person may want. The names are those of the API and of the log, here and below.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// No more steps. The guard stays.
    Hold,
    /// Go on after a hold; after a rollback or a promotion, begin again at the first step.
    Resume,
    /// The new version for everybody, now.
    Promote,
    /// The running version for everybody, now.
    RollBack,
}

/// How a rollout stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// On its way.
    #[default]
    Running,
    /// A person holds it at its step.
    Held,
    /// Everybody has the new version.
    Promoted,
    /// Nobody has the new version.
    RolledBack,
}

/// What the guard found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// More turns fail.
    Failed,
    /// More answers are empty.
    Empty,
    /// More answers are not as the schema says.
    Schema,
    /// The p95 is too long.
    P95,
    /// Answers cost too many tokens.
    Tokens,
    /// People find more answers bad.
    Down,
}

/// The findings in the order of the comparison's checks.
const FINDINGS: [Finding; CHECKS] =
    [Finding::Failed, Finding::Empty, Finding::Schema, Finding::P95, Finding::Tokens];

/// Something that belongs into the audit trail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Counts the changes of this rollout, from 1.
    pub number: u32,
    /// What happened.
    pub event: Event,
    /// The step after it, from 0.
    pub step: u8,
    /// The share after it, in hundredths of a percent.
    pub share: u16,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
}

/// What happened to a rollout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The first turn or question came.
    Began,
    /// The next step, by time and turns.
    Stepped,
    /// All steps are done.
    Promoted,
    /// The guard found something.
    RolledBack(Finding),
    /// A person gave an order.
    Ordered(Order),
}

/// What was seen of a version since the rollout began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// All turns.
    pub turns: u32,
    /// Those that failed.
    pub failed: u32,
    /// Those with an empty answer.
    pub empty: u32,
    /// Those whose answer is not as the schema says.
    pub schema: u32,
    /// All tokens.
    pub tokens: u64,
    /// Times in milliseconds.
    pub latency: Histogram,
}

impl Tally {
    fn count(&mut self, observe: &Observe) {
        self.turns = self.turns.saturating_add(1);
        let of_ending = match observe.ending {
            Ending::Served => None,
            Ending::Failed => Some(&mut self.failed),
            Ending::Empty => Some(&mut self.empty),
            Ending::SchemaFailed => Some(&mut self.schema),
        };
        if let Some(count) = of_ending {
            *count = count.saturating_add(1);
        }
        self.tokens = self.tokens.saturating_add(u64::from(observe.tokens));
        self.latency.record(observe.latency_ms);
    }
}

/// What was seen of both.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The last change, in milliseconds since 1970: since then it stands as it does.
    pub since_ms: u64,
    /// What the guard found last, and when. Beginning again does not forget it.
    pub found: Option<(Finding, u64)>,
    /// The running version.
    pub running: Tally,
    /// The new one.
    pub candidate: Tally,
}

/// What is stored of a rollout.
#[derive(Serialize, Deserialize)]
struct Course {
    state: State,
    step: u8,
    since_ms: u64,
    /// Turns of the candidate in this step.
    turns: u32,
    report: Report,
    comparison: Comparison,
    /// From when on a turn is slow; 0 is not known yet.
    slow_ms: u32,
    /// What an answer counts at most; 0 is not known yet.
    most_tokens: u32,
    /// The last change's number.
    number: u32,
    unheard: Vec<Unheard>,
    /// Stands behind the rest, so that a course of before it was there can still be read.
    #[serde(skip)]
    opinion: Opinion,
}

/// What people said of both versions.
#[derive(Default, Serialize, Deserialize)]
struct Opinion {
    running: Votes,
    candidate: Votes,
    comparison: Comparison,
}

#[derive(Serialize, Deserialize)]
struct Unheard {
    change: Change,
    /// When it may be given to somebody else.
    again_ms: u64,
}

/// Counts a turn.
pub(super) fn observe(observe: &Observe, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut course = Course::read(old, &observe.plan, now);
    course.observe(observe, now);
    course.reduced(Outcome::Written)
}

/// Counts what a person said.
pub(super) fn judge(judge: &Judge, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut course = Course::read(old, &judge.plan, now);
    course.judge(judge, now);
    course.reduced(Outcome::Written)
}

/// Says how large the share is.
pub(super) fn consult(consult: &Consult, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut course = Course::read(old, &consult.plan, now);
    course.advance(&consult.plan, now);
    let outcome = course.outcome(&consult.plan, consult.report, now);
    course.reduced(outcome)
}

/// Does what a person wants.
pub(super) fn steer(steer: &Steer, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut course = Course::read(old, &steer.plan, now);
    course.steer(steer.order, &steer.plan, now);
    let outcome = course.outcome(&steer.plan, true, now);
    course.reduced(outcome)
}

/// Forgets a change: it is written down.
pub(super) fn heard(number: u32, old: Option<&[u8]>) -> Reduced {
    let Some(mut course) = Course::decode(old) else {
        return Reduced::new(Vec::new(), 1, Outcome::Written);
    };
    course.unheard.retain(|unheard| unheard.change.number != number);
    course.reduced(Outcome::Written)
}

impl Course {
    fn new(now: u64) -> Self {
        Self {
            state: State::Running,
            step: 0,
            since_ms: now,
            turns: 0,
            report: Report::default(),
            comparison: Comparison::default(),
            slow_ms: 0,
            most_tokens: 0,
            number: 0,
            unheard: Vec::new(),
            opinion: Opinion::default(),
        }
    }

    fn decode(old: Option<&[u8]>) -> Option<Self> {
        let (mut course, rest) = postcard::take_from_bytes::<Self>(old?).ok()?;
        course.opinion = postcard::from_bytes(rest).unwrap_or_default();
        Some(course)
    }

    fn read(old: Option<&[u8]>, plan: &Plan, now: u64) -> Self {
        let mut course = Self::decode(old).unwrap_or_else(|| {
            let mut course = Self::new(now);
            course.changed(Event::Began, plan, now);
            course
        });
        // The plan may have lost steps.
        let last = plan.steps.len().saturating_sub(1);
        course.step = course.step.min(u8::try_from(last).unwrap_or(u8::MAX));
        course
    }

    fn reduced(&self, outcome: Outcome) -> Reduced {
        let bytes = [encode(self), encode(&self.opinion)].concat();
        Reduced::new(bytes, KEPT_MS, outcome)
    }

    fn outcome(&mut self, plan: &Plan, report: bool, now: u64) -> Outcome {
        let mut changes = Vec::new();
        for unheard in self.unheard.iter_mut().filter(|unheard| unheard.again_ms <= now) {
            unheard.again_ms = now.saturating_add(HEARD_MS);
            changes.push(unheard.change);
        }
        Outcome::Rollout {
            state: self.state,
            step: self.step,
            share: self.share(plan),
            changes,
            report: report.then(|| Box::new(self.report.clone())),
            votes: (self.opinion.running, self.opinion.candidate),
        }
    }

    fn share(&self, plan: &Plan) -> u16 {
        match self.state {
            State::Running | State::Held => {
                plan.steps.get(usize::from(self.step)).map_or(0, |step| step.share)
            }
            State::Promoted => crate::policy::rollout::BUCKETS,
            State::RolledBack => 0,
        }
    }

    fn changed(&mut self, event: Event, plan: &Plan, now: u64) {
        if self.unheard.len() >= MOST_CHANGES {
            self.unheard.remove(0);
        }
        self.report.since_ms = now;
        self.number = self.number.saturating_add(1);
        let (number, share) = (self.number, self.share(plan));
        let change = Change { number, event, step: self.step, share, at_ms: now };
        self.unheard.push(Unheard { change, again_ms: now });
    }

    fn observe(&mut self, observe: &Observe, now: u64) {
        let is_candidate = observe.version == Version::Candidate;
        let tally = if is_candidate { &mut self.report.candidate } else { &mut self.report.running };
        tally.count(observe);
        if matches!(self.state, State::Promoted | State::RolledBack) {
            return;
        }
        self.turns = self.turns.saturating_add(u32::from(is_candidate));
        let bad = self.badness(observe);
        let allowed = self.allowed(&observe.plan.guard);
        match self.comparison.observe(is_candidate, bad, &allowed) {
            Progress::Open => {}
            Progress::Fine => self.look(&observe.plan.guard),
            Progress::Worse(check) => self.find(FINDINGS[check], &observe.plan, now),
        }
        self.advance(&observe.plan, now);
    }

    fn judge(&mut self, judge: &Judge, now: u64) {
        let Judge { plan, version, rating, before } = judge;
        let is_candidate = *version == Version::Candidate;
        let votes = if is_candidate { &mut self.opinion.candidate } else { &mut self.opinion.running };
        votes.count(*rating, *before);
        // A bet cannot be taken back: the first word of a person is the one that counts there.
        if before.is_some() || matches!(self.state, State::Promoted | State::RolledBack) {
            return;
        }
        let (mut bad, mut allowed) = ([0; CHECKS], [None; CHECKS]);
        bad[0] = u32::from(*rating == Rating::Down) * WORST;
        allowed[0] = more(plan.guard.down);
        if let Progress::Worse(_) = self.opinion.comparison.observe(is_candidate, bad, &allowed) {
            self.find(Finding::Down, plan, now);
        }
    }

    /// The new version is worse in this.
    fn find(&mut self, finding: Finding, plan: &Plan, now: u64) {
        self.state = State::RolledBack;
        self.report.found = Some((finding, now));
        self.changed(Event::RolledBack(finding), plan, now);
    }

    /// How bad a turn was in each respect.
    fn badness(&self, observe: &Observe) -> [u32; CHECKS] {
        let all = |is: bool| u32::from(is) * WORST;
        let tokens = observe.tokens.min(self.most_tokens);
        let dear = u64::from(tokens) * u64::from(WORST) / u64::from(self.most_tokens.max(1));
        [
            all(observe.ending == Ending::Failed),
            all(observe.ending == Ending::Empty),
            all(observe.ending == Ending::SchemaFailed),
            all(self.slow_ms > 0 && observe.latency_ms > self.slow_ms),
            u32::try_from(dear).unwrap_or(WORST),
        ]
    }

    fn allowed(&self, guard: &Guard) -> [Option<Allowed>; CHECKS] {
        // Slow is what takes longer than the longest p95 that is allowed: a candidate that keeps
        // it has at most 5 % of such turns.
        let slow = guard.p95.map(|_| Allowed { factor: 1.0, margin: SLOW_TURNS });
        let dear =
            guard.tokens.map(|percent| Allowed { factor: f64::from(percent.max(100)) / 100.0, margin: 0.0 });
        [
            more(guard.failed),
            more(guard.empty),
            more(guard.schema),
            slow.filter(|_| self.slow_ms > 0),
            dear.filter(|_| self.most_tokens > 0),
        ]
    }

    /// Learns what is usual for the running version, between two blocks.
    fn look(&mut self, guard: &Guard) {
        let running = &self.report.running;
        if running.turns < KNOWN_TURNS {
            return;
        }
        let p95 = u64::from(running.latency.quantile(950).unwrap_or_default());
        let slow_ms = p95.saturating_mul(u64::from(guard.p95.unwrap_or(100).max(100))) / 100;
        let most_tokens = (running.tokens / u64::from(running.turns)).saturating_mul(DEAREST);
        self.slow_ms = u32::try_from(slow_ms).unwrap_or(u32::MAX);
        self.most_tokens = u32::try_from(most_tokens).unwrap_or(u32::MAX);
    }

    /// Makes the next step when its time has come, and not while the candidate is in doubt: what
    /// is a little worse needs more turns to be found.
    fn advance(&mut self, plan: &Plan, now: u64) {
        let Some(step) = plan.steps.get(usize::from(self.step)) else { return };
        let over = self.since_ms.saturating_add(step.at_least_ms) <= now && self.turns >= step.at_least_turns;
        let in_doubt = self.comparison.is_in_doubt() || self.opinion.comparison.is_in_doubt();
        if self.state != State::Running || !over || in_doubt {
            return;
        }
        (self.since_ms, self.turns) = (now, 0);
        if usize::from(self.step) + 1 < plan.steps.len() {
            self.step = self.step.saturating_add(1);
            self.changed(Event::Stepped, plan, now);
        } else {
            self.state = State::Promoted;
            self.changed(Event::Promoted, plan, now);
        }
    }

    fn steer(&mut self, order: Order, plan: &Plan, now: u64) {
        let next = match (order, self.state) {
            (Order::Hold, State::Running) => State::Held,
            (Order::Resume, State::Held) => State::Running,
            (Order::Resume, State::Promoted | State::RolledBack) => {
                let (unheard, found) = (std::mem::take(&mut self.unheard), self.report.found);
                let report = Report { found, ..Report::default() };
                *self = Self { number: self.number, unheard, report, ..Self::new(now) };
                State::Running
            }
            (Order::Promote, State::Running | State::Held | State::RolledBack) => State::Promoted,
            (Order::RollBack, State::Running | State::Held | State::Promoted) => State::RolledBack,
            // It is so already, or there is nothing to hold.
            _ => return,
        };
        self.state = next;
        self.changed(Event::Ordered(order), plan, now);
    }
}

/// So many more than with the running version.
fn more(margin: Option<u16>) -> Option<Allowed> {
    margin.map(|margin| Allowed { factor: 1.0, margin: f64::from(margin) / 10_000.0 })
}

#[cfg(test)]
mod tests;
