//! `/v1/admin/rollouts`: how far each new version has come, and what a person wants of one.
//!
//! Where a rollout stands and what an order makes of it is [`state::rollout`](crate::state::rollout)'s
//! to say; this file asks and shows. Each change is given to whoever asks first: none may be
//! passed over without its line in the log. Nobody's text may be in an answer.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    Exchange, Phase, audit,
    gates::{Caller, STORE_PATIENCE},
    record,
};
use crate::{
    policy::{Policy, rollout::Rollout},
    seam::{Input, Moment, Output},
    state::{
        Op, Outcome,
        rating::Votes,
        rollout::{Change, Consult, Event, Order, Report, Steer, Tally},
    },
    wire::{
        failure::{Code, Failure},
        json,
    },
};

/// What the store was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) store_id: u32,
    /// Whose rollouts, in the order of the operations.
    intents: Vec<String>,
}

impl Exchange {
    /// All rollouts of the configuration.
    pub(super) fn show_rollouts(&mut self, policy: &Policy, now: Moment) {
        self.story.subject = self.operator();
        let rollouts = rollouts(policy).map(|(intent, rollout)| (intent, rollout, asks(rollout)));
        self.ask_rollouts(policy, rollouts.collect(), now);
    }

    /// In a few words, out of the answers to [`asks_of_all`].
    pub(super) fn rollouts_in_short(&mut self, policy: &Policy, outcomes: &[Outcome]) -> Vec<Value> {
        let mut short = Vec::new();
        for ((intent, rollout), outcome) in rollouts(policy).zip(outcomes) {
            let Outcome::Rollout { state, changes, report: Some(report), .. } = outcome else { continue };
            self.write_down(policy, rollout, changes);
            let finding = report.found.map(|(finding, _)| finding);
            short.push(json!({"intent": intent, "state": state, "finding": finding}));
        }
        short
    }

    /// `{"intent", "order"}`: a person steers.
    pub(super) fn steer_rollout(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        struct Body {
            intent: String,
            order: String,
        }
        self.story.subject = self.operator();
        let Ok(Body { intent, order }) = json::object::<Body>(body) else {
            let message = "body: send {\"intent\": \"…\", \"order\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let Ok(order) = serde_json::from_value::<Order>(order.into()) else {
            let message = "order: use one of hold, resume, promote, roll_back";
            return self.fail(policy, &Failure::new(Code::OrderUnknown, message), now);
        };
        let Some((intent, rollout)) = rollouts(policy).find(|(name, _)| *name == intent) else {
            return self.fail(policy, &no_rollout(policy), now);
        };
        self.story.intent = Some(intent.to_owned());
        self.story.order = Some(order);
        let steer = Op::Steer(Steer { plan: rollout.plan.clone(), order });
        self.ask_rollouts(policy, vec![(intent, rollout, steer)], now);
    }

    /// Which of the admin keys it is.
    fn operator(&self) -> Option<String> {
        match &self.facts.caller {
            Caller::Key(id) => Some(id.clone()),
            _ => None,
        }
    }

    fn ask_rollouts(&mut self, policy: &Policy, asked: Vec<(&str, &Rollout, Op)>, now: Moment) {
        let intents = asked.iter().map(|(intent, ..)| (*intent).to_owned()).collect();
        let ops: Vec<(String, Op)> = asked.into_iter().map(|(_, rollout, op)| (rollout.key(), op)).collect();
        if ops.is_empty() {
            return self.respond_json(policy, 200, json!({"rollouts": []}).to_string(), now);
        }
        let store_id = self.take_id();
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.outputs.push_back(Output::Store { id: store_id, ops });
        self.phase = Phase::Rollouts(Box::new(Asked { store_id, intents }));
    }

    pub(super) fn in_rollouts(&mut self, policy: &Policy, asked: Box<Asked>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, outcomes } if *id == asked.store_id => {
                self.rollouts_stand(policy, &asked.intents, outcomes, now);
            }
            Input::StoreFailed { id } if *id == asked.store_id => self.rollouts_store_failed(policy, now),
            _ => self.phase = Phase::Rollouts(asked),
        }
    }

    fn rollouts_stand(&mut self, policy: &Policy, intents: &[String], outcomes: &[Outcome], now: Moment) {
        self.timers.store = None;
        let mut shown = Vec::with_capacity(intents.len());
        let mut changed = false;
        for (intent, outcome) in intents.iter().zip(outcomes) {
            // The configuration may be another one by now.
            let Some((_, rollout)) = rollouts(policy).find(|(name, _)| name == intent) else { continue };
            if let Outcome::Rollout { changes, .. } = outcome {
                self.write_down(policy, rollout, changes);
                changed |= changes.iter().any(is_order);
            }
            shown.extend(show(policy, intent, rollout, outcome));
        }
        let body = match (self.story.order, shown.pop()) {
            (Some(_), Some(mut one)) => {
                one["changed"] = changed.into();
                one
            }
            (_, last) => {
                shown.extend(last);
                json!({"rollouts": shown})
            }
        };
        self.respond_json(policy, 200, body.to_string(), now);
    }

    /// Writes the lines of a rollout's changes, and says that they are written: until then a change
    /// is given to the next one who asks.
    pub(super) fn write_down(&mut self, policy: &Policy, rollout: &Rollout, changes: &[Change]) {
        for change in changes {
            self.outputs.push_back(record::rollout(policy, &self.facts, &rollout.intent, change));
            self.outputs.push_back(audit::rollout(policy, &self.facts, &rollout.intent, change));
            self.tell(rollout.key(), Op::Heard { number: change.number });
        }
    }

    /// Nobody knows how they stand, nor whether an order was kept.
    pub(super) fn rollouts_store_failed(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let message = match self.story.order {
            Some(_) => "the order may be lost; send it again",
            None => "nobody knows now how the rollouts stand",
        };
        self.fail(policy, &Failure::new(Code::StoreUnavailable, message).after(5), now);
    }
}

/// The configuration's, with the names of their intents, in their order.
fn rollouts(policy: &Policy) -> impl Iterator<Item = (&str, &Rollout)> {
    let intents = policy.catalog.intents.iter();
    intents.filter_map(|intent| Some((intent.name.as_str(), intent.rollout.as_ref()?)))
}

fn asks(rollout: &Rollout) -> Op {
    Op::Consult(Consult { plan: rollout.plan.clone(), report: true })
}

/// What the store is asked about all of them.
pub(super) fn asks_of_all(policy: &Policy) -> Vec<(String, Op)> {
    rollouts(policy).map(|(_, rollout)| (rollout.key(), asks(rollout))).collect()
}

fn is_order(change: &Change) -> bool {
    matches!(change.event, Event::Ordered(_))
}

fn no_rollout(policy: &Policy) -> Failure {
    let known: Vec<&str> = rollouts(policy).take(50).map(|(intent, _)| intent).collect();
    let message = match known.as_slice() {
        [] => "intent: no rollout is configured".to_owned(),
        known => format!("intent: use one of {}", known.join(", ")),
    };
    Failure::new(Code::RolloutUnknown, message)
}

/// A rollout as an operator sees it.
fn show(policy: &Policy, intent: &str, rollout: &Rollout, outcome: &Outcome) -> Option<Value> {
    let Outcome::Rollout { state, step, share, report: Some(report), votes, .. } = outcome else {
        return None;
    };
    let Report { since_ms, found, running, candidate } = &**report;
    Some(json!({
        "intent": intent,
        "state": state,
        "step": step,
        "steps": rollout.plan.steps.len(),
        "shareBasisPoints": share,
        "since": record::timestamp(*since_ms),
        // Where the environment forbids the new version nobody has it, whatever the state is.
        "allowed": policy.catalog.allows(policy.environment, &rollout.to),
        "finding": found.map(|(finding, at_ms)| json!({"what": finding, "at": record::timestamp(at_ms)})),
        "running": tally(&rollout.from, running, votes.0),
        "candidate": tally(&rollout.to, candidate, votes.1),
    }))
}

/// What was seen of a version; `null` where nothing was.
fn tally(profile: &str, tally: &Tally, votes: Votes) -> Value {
    json!({
        "profile": profile,
        "turns": tally.turns,
        "failed": tally.failed,
        "empty": tally.empty,
        "schemaFailed": tally.schema,
        "averageTokens": tally.tokens.checked_div(u64::from(tally.turns)),
        "p50Ms": tally.latency.quantile(500),
        "p95Ms": tally.latency.quantile(950),
        "p99Ms": tally.latency.quantile(990),
        "up": votes.up,
        "down": votes.down,
    })
}
