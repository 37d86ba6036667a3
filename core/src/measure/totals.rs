//! What samples add up to. Made to be added up again: over threads, isolates, hosts and time.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Ending, Labels, Sample, Sign, Turn};
use crate::state::histogram::Histogram;

/// Turns are counted for so many intents with their profiles and models; those that come later,
/// which takes many changes of the configuration, are counted together.
pub(super) const MOST_LABELS: usize = 64;
/// Names of one other kind.
const MOST_NAMES: usize = 128;
/// The name of what is counted together.
const OTHER: &str = "other";
/// Minutes that the quantiles look back on, with the one that runs.
const RECENT: u32 = 5;

/// Counts since a host began, or since a store was empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Milliseconds, by route and status.
    pub(super) requests: BTreeMap<(String, u16), Histogram>,
    /// By code.
    pub(super) errors: BTreeMap<String, u64>,
    pub(super) turns: BTreeMap<Labels, TurnTotals>,
    /// Milliseconds.
    pub(super) queued: Histogram,
    /// Milliseconds.
    pub(super) added: Histogram,
    /// Microseconds.
    pub(super) own: Histogram,
    /// Bytes.
    pub(super) bodies: Histogram,
    pub(super) signs: BTreeMap<Sign, u64>,
    pub(super) store_failures: u64,
    pub(super) unchecked: u64,
    /// By tool.
    pub(super) failed_tools: BTreeMap<String, u64>,
    pub(super) tools: BTreeMap<String, u64>,
}

/// What the turns of one profile add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct TurnTotals {
    pub(super) endings: BTreeMap<Ending, u64>,
    /// Milliseconds with the model, and until its first text.
    pub(super) model: Histogram,
    pub(super) first: Histogram,
    /// Tokens in and out.
    pub(super) input: Histogram,
    pub(super) output: Histogram,
    pub(super) retries: u64,
    pub(super) fallbacks: u64,
    pub(super) cached: u64,
    pub(super) schema_failures: u64,
    /// Milliseconds of whole turns, in the minutes since 1970 that are looked back on.
    pub(super) recent: BTreeMap<u32, Histogram>,
}

impl Totals {
    /// Counts a request that ended at that time.
    pub fn absorb(&mut self, sample: &Sample, unix_ms: u64) {
        self.requests.entry((sample.route.clone(), sample.status)).or_default().record(sample.total_ms);
        if let Some(code) = sample.code {
            add(&mut self.errors, code.name(), 1);
        }
        if let Some(ms) = sample.queued_ms {
            self.queued.record(ms);
        }
        self.added.record(sample.added_ms);
        if let Some(us) = sample.own_us {
            self.own.record(us);
        }
        if sample.body_bytes > 0 {
            self.bodies.record(sample.body_bytes);
        }
        for sign in &sample.signs {
            *self.signs.entry(*sign).or_default() += 1;
        }
        self.store_failures += u64::from(sample.store_failed);
        self.unchecked += u64::from(sample.unchecked);
        for tool in &sample.tools {
            add(&mut self.tools, tool, 1);
        }
        for tool in &sample.failed_tools {
            add(&mut self.failed_tools, tool, 1);
        }
        if let Some(turn) = &sample.turn {
            let minute = u32::try_from(unix_ms / 60_000).unwrap_or(u32::MAX);
            self.turn(&turn.labels).absorb(turn, sample.total_ms, minute);
        }
    }

    /// Adds what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (key, histogram) in &other.requests {
            self.requests.entry(key.clone()).or_default().merge(histogram);
        }
        merge_counts(&mut self.errors, &other.errors);
        merge_counts(&mut self.failed_tools, &other.failed_tools);
        merge_counts(&mut self.tools, &other.tools);
        for (labels, turns) in &other.turns {
            self.turn(labels).merge(turns);
        }
        self.queued.merge(&other.queued);
        self.added.merge(&other.added);
        self.own.merge(&other.own);
        self.bodies.merge(&other.bodies);
        for (sign, count) in &other.signs {
            let sum = self.signs.entry(*sign).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.store_failures = self.store_failures.saturating_add(other.store_failures);
        self.unchecked = self.unchecked.saturating_add(other.unchecked);
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    /// What is not needed to go on counting: the quantiles of the last minutes.
    pub fn forget_recent(&mut self) {
        self.turns.values_mut().for_each(|turns| turns.recent.clear());
    }

    /// The bytes that a host keeps or sends.
    pub fn encode(&self) -> Vec<u8> {
        postcard::to_allocvec(self).unwrap_or_default()
    }

    /// The totals in those bytes; none in others.
    pub fn decode(bytes: &[u8]) -> Self {
        postcard::from_bytes(bytes).unwrap_or_default()
    }

    fn turn(&mut self, labels: &Labels) -> &mut TurnTotals {
        if self.turns.len() < MOST_LABELS || self.turns.contains_key(labels) {
            return self.turns.entry(labels.clone()).or_default();
        }
        let other = || OTHER.to_owned();
        self.turns.entry(Labels { intent: other(), profile: other(), model: other() }).or_default()
    }
}

impl TurnTotals {
    fn absorb(&mut self, turn: &Turn, total_ms: u32, minute: u32) {
        *self.endings.entry(turn.ending).or_default() += 1;
        if let Some(ms) = turn.model_ms {
            self.model.record(ms);
        }
        if let Some(ms) = turn.first_ms {
            self.first.record(ms);
        }
        if let Some((input, output)) = turn.tokens {
            self.input.record(input);
            self.output.record(output);
        }
        self.retries += u64::from(turn.retries);
        self.fallbacks += u64::from(turn.fell_back);
        self.cached += u64::from(turn.cached);
        self.schema_failures += u64::from(turn.schema_failed);
        if turn.ending != Ending::Left {
            self.recent.entry(minute).or_default().record(total_ms);
            self.forget_old();
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (ending, count) in &other.endings {
            let sum = self.endings.entry(*ending).or_default();
            *sum = sum.saturating_add(*count);
        }
        self.model.merge(&other.model);
        self.first.merge(&other.first);
        self.input.merge(&other.input);
        self.output.merge(&other.output);
        self.retries = self.retries.saturating_add(other.retries);
        self.fallbacks = self.fallbacks.saturating_add(other.fallbacks);
        self.cached = self.cached.saturating_add(other.cached);
        self.schema_failures = self.schema_failures.saturating_add(other.schema_failures);
        for (minute, histogram) in &other.recent {
            self.recent.entry(*minute).or_default().merge(histogram);
        }
        self.forget_old();
    }

    /// Only the newest minute decides, so the order of adding up does not.
    fn forget_old(&mut self) {
        let newest = self.recent.keys().next_back().copied().unwrap_or_default();
        self.recent.retain(|minute, _| newest - minute < RECENT);
    }

    /// The last minutes before that time, together.
    pub(super) fn last_minutes(&self, unix_ms: u64) -> Histogram {
        let now = u32::try_from(unix_ms / 60_000).unwrap_or(u32::MAX);
        let mut sum = Histogram::default();
        self.recent.iter().filter(|(minute, _)| now.abs_diff(**minute) < RECENT).for_each(
            |(_, histogram)| {
                sum.merge(histogram);
            },
        );
        sum
    }
}

fn add(counts: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    let known = counts.len() < MOST_NAMES || counts.contains_key(name);
    let sum = counts.entry(if known { name } else { OTHER }.to_owned()).or_default();
    *sum = sum.saturating_add(count);
}

fn merge_counts(counts: &mut BTreeMap<String, u64>, others: &BTreeMap<String, u64>) {
    others.iter().for_each(|(name, count)| add(counts, name, *count));
}

#[cfg(test)]
mod tests;
