//! What an exchange owes when it is over, however it ends: reserved tokens, an answer that others
//! wait for, what a rollout and a profile learn from it.
//!
//! All of it is told and not asked: nobody waits for the store here, and the store applies it
//! also when the client has gone.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange,
    chat::{Shelf, Tokens, Voice, Waiting},
    gates::Caller,
};
use crate::{
    policy::{Policy, catalog::Caps, rollout::Rollout},
    seam::Moment,
    state::{
        Op,
        budget::{self, Reserve, Settle},
        cache::Fill,
        rollout::{Ending, Observe, Plan, Version},
        usage::Learn,
    },
    wire::failure::{Blame, Code},
};

/// With less than this for its answer, in tokens, a turn is not worth beginning.
const LEAST_ANSWER: u32 = 64;

/// The cell of what a role uses of a day together.
pub(super) fn role_day_key(role: &str) -> String {
    format!("day:role:{role}")
}

/// What is owed.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Dues {
    /// Parts of days: their keys, the day, and what was granted.
    reserved: Vec<(String, u32, u32)>,
    /// Keys whose reservation was asked for, in order.
    asked: Vec<String>,
    day: u32,
    /// The question whose answer is waited for.
    pub(super) waits: Option<Shelf>,
    /// The question that others wait for.
    pub(super) lead: Option<Shelf>,
    /// The answer for it.
    pub(super) fill: Option<(Shelf, String)>,
    /// The rollout that this turn counts for.
    rollout: Option<(String, Plan, Version)>,
    /// Whose count of tokens is learned from, and the estimate.
    pub(super) learn: Option<(String, u32)>,
    /// The slot has been asked for once.
    pub(super) asked_for_turn: bool,
}

impl Dues {
    /// Whoever ends the turn counts it, and settles what was reserved for it: the runner that has it
    /// now has the same list.
    pub(super) fn leave_to_another(&mut self) {
        self.reserved.clear();
        self.rollout = None;
        self.learn = None;
    }
}

impl Exchange {
    /// The parts of the day's caps that a turn needs.
    pub(super) fn reservations(&mut self, policy: &Policy, tokens: Tokens) -> Vec<(String, Reserve)> {
        let role = match &self.facts.caller {
            Caller::Session { role, .. } => role.as_str(),
            _ => "",
        };
        let rules = policy.catalog.role(role);
        let everybody = policy.catalog.rules(policy.environment).and_then(|rules| rules.daily);
        let own = rules.map(|rules| rules.daily).unwrap_or_default();
        let own = Caps {
            requests: own.requests.or(everybody.and_then(|caps| caps.requests)),
            tokens: own.tokens.or(everybody.and_then(|caps| caps.tokens)),
        };
        let together = rules.map(|rules| rules.daily_together).unwrap_or_default();
        self.dues.day = budget::day(self.facts.started_ms);
        let subject = self.story.subject.as_deref().unwrap_or_default();
        let reserve = |caps: Caps| Reserve {
            day: self.dues.day,
            requests_cap: caps.requests,
            tokens_cap: caps.tokens,
            want_tokens: tokens.input.saturating_add(tokens.output),
            least_tokens: tokens.input.saturating_add(tokens.output.min(LEAST_ANSWER)),
        };
        let capped = |caps: Caps| caps != Caps::default();
        let mut list = Vec::new();
        if capped(own) {
            list.push((format!("day:user:{subject}"), reserve(own)));
        }
        if capped(together) {
            list.push((role_day_key(role), reserve(together)));
        }
        self.dues.asked = list.iter().rev().map(|(key, _)| key.clone()).collect();
        list
    }

    /// One of them was granted. The smallest part bounds the answer.
    pub(super) fn reserved(&mut self, waiting: &mut Waiting, granted: u32) {
        let Some(key) = self.dues.asked.pop() else { return };
        self.dues.reserved.push((key, self.dues.day, granted));
        let answer = granted.saturating_sub(waiting.tokens.input);
        if let Voice::Mini(plan) = &mut waiting.turn.voice
            && answer < waiting.tokens.output
        {
            plan.allowance = Some(plan.allowance.map_or(answer, |least| least.min(answer)));
        }
    }

    /// Who is asked for the day's parts is another exchange's to say.
    pub(super) fn owes_nothing(&mut self) {
        self.dues = Dues::default();
    }

    /// This turn counts for a rollout.
    pub(super) fn owes_to(&mut self, rollout: &Rollout, version: Version) {
        self.dues.rollout = Some((rollout.key(), rollout.plan.clone(), version));
    }

    /// Pays what is owed.
    pub(super) fn pay(&mut self, now: Moment) {
        let dues = std::mem::take(&mut self.dues);
        let used = self.story.usage.unwrap_or_default();
        let total = u32::try_from(used.total).unwrap_or(u32::MAX);
        for (key, day, granted) in dues.reserved {
            let settle = match self.story.asked_ms {
                None => Settle { day, reserved: granted, used: 0, happened: false },
                // It ran, and nobody said what it cost: cut off, or given up.
                Some(_) if total == 0 && self.may_have_cost() => {
                    Settle { day, reserved: granted, used: granted, happened: true }
                }
                Some(_) => Settle { day, reserved: granted, used: total, happened: true },
            };
            self.tell(key, Op::Settle(settle));
        }
        let ticket = self.facts.ticket;
        if let Some(shelf) = dues.waits {
            self.tell(shelf.key, Op::Abandon { ticket });
        }
        match (dues.fill, dues.lead) {
            (Some((shelf, answer)), _) => {
                let value = ByteBuf::from(answer.into_bytes());
                self.tell(shelf.key, Op::Fill(Fill { ticket, value, ttl_ms: shelf.ttl_ms }));
            }
            (None, Some(shelf)) if self.story.code.is_none() && !self.story.client_gone => {
                // An answer, but not one for others.
                let value = ByteBuf::new();
                self.tell(shelf.key, Op::Fill(Fill { ticket, value, ttl_ms: shelf.ttl_ms }));
            }
            (None, Some(shelf)) => self.tell(shelf.key, Op::Abandon { ticket }),
            (None, None) => {}
        }
        if let (Some((key, plan, version)), Some(ending)) = (dues.rollout, self.ending()) {
            let asked_ms = self.story.asked_ms.unwrap_or(now.unix_ms);
            let latency_ms = u32::try_from(now.unix_ms.saturating_sub(asked_ms)).unwrap_or(u32::MAX);
            self.tell(key, Op::Observe(Observe { plan, version, ending, latency_ms, tokens: total }));
        }
        if let Some((key, estimated)) = dues.learn
            && self.story.attempts == 1
            && used.input > 0
        {
            let counted = u32::try_from(used.input).unwrap_or(u32::MAX);
            self.tell(key, Op::Learn(Learn { estimated, counted }));
        }
    }

    /// Whether a run may have cost something without a word about it.
    fn may_have_cost(&self) -> bool {
        self.story.client_gone
            || self.story.opened
            || matches!(self.story.code, None | Some(Code::UpstreamTimeout | Code::UpstreamProtocol))
    }

    /// What a rollout's guard counts this turn as. A client's mistake says nothing of a profile.
    fn ending(&self) -> Option<Ending> {
        if self.story.asked_ms.is_none() || self.story.client_gone {
            return None;
        }
        match self.story.code {
            _ if self.story.fell_back.is_some() => Some(Ending::Failed),
            None => Some(Ending::Served),
            Some(Code::UpstreamEmpty) => Some(Ending::Empty),
            Some(Code::AnswerInvalid) => Some(Ending::SchemaFailed),
            Some(code) if matches!(code.blame(), Blame::Upstream | Blame::Configuration) => {
                Some(Ending::Failed)
            }
            Some(_) => None,
        }
    }
}
