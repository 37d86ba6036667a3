//! The first stages of `POST /v1/mini/ask`: from an intent to the profile that answers it.
//!
//! Who answers may depend on what only the store knows: how a rollout stands, and how many tokens a
//! profile's model really counts. Both are asked for at once, and a store that does not answer
//! gives everybody the running version. What the profile is then asked is a plan (`plan.rs`), and
//! how often somebody is asked until there is an answer is `attempts.rs`.

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Phase,
    chat::Voice,
    gates::{Caller, STORE_PATIENCE},
};
use crate::{
    policy::{
        Policy,
        rollout::Rollout,
        routing::{self, Asked, Choice, NoProfile, Reason},
    },
    seam::{Input, Moment, Output},
    state::{Op, Outcome, rollout::Consult, usage::Calibration},
    wire::mini::{self, MiniRequest},
};

/// An intent before it is known who answers it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asking {
    pub(super) request: MiniRequest,
    pub(super) store_id: u32,
}

impl Exchange {
    /// The body has come.
    pub(super) fn ask_mini(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        let request = match mini::parse(policy, body) {
            Ok(request) => request,
            Err(failure) => return self.fail(policy, &failure, now),
        };
        // The header's is known already; the body's counts where there is none.
        if let (Some(id), false) = (&request.trace_id, self.facts.traced) {
            self.facts.trace_id.clone_from(id);
        }
        self.facts.ascii = request.ascii;
        if let Err(failure) = self.take_wishes(request.request_id.as_deref(), request.respond_async) {
            return self.fail(policy, &failure, now);
        }
        self.take_name(policy, request.user.as_deref(), || request.digest(body));
        let subject = self.subject(policy, request.user.as_deref());
        self.story.subject = Some(subject);
        self.story.stream = request.stream;
        self.story.intent = Some(request.intent.clone());
        self.consult(policy, Asking { request, store_id: 0 }, now);
    }

    /// Finds out what must be known before it can be said who answers.
    pub(super) fn consult(&mut self, policy: &Policy, mut asking: Asking, now: Moment) {
        let ops = self.questions(policy, &asking.request);
        if ops.is_empty() {
            return self.consulted(policy, asking, &[], now);
        }
        asking.store_id = self.take_id();
        self.outputs.push_back(Output::Store { id: asking.store_id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Consult(Box::new(asking));
    }

    /// Who answers: a channel's own profile, or whoever answers the intent.
    pub(super) fn choose<'p>(&self, policy: &'p Policy, asked: Asked<'_>) -> Result<Choice<'p>, NoProfile> {
        match self.channels_profile(policy) {
            Some(name) => routing::own(&policy.catalog, name, asked),
            None => routing::choose(&policy.catalog, asked),
        }
    }

    /// What must be known before it can be said who answers, and from how much of a history.
    fn questions(&self, policy: &Policy, request: &MiniRequest) -> Vec<(String, Op)> {
        let asked = self.asked(policy, request, None);
        let Ok(choice) = self.choose(policy, asked) else { return Vec::new() };
        let mut ops = Vec::new();
        if let Some(rollout) = self.rollout(policy, &request.intent, &choice) {
            let consult = Consult { plan: rollout.plan.clone(), report: false };
            ops.push((rollout.key(), Op::Consult(consult)));
        }
        if choice.profile.context_tokens.is_some() {
            ops.push((usage_key(&choice.profile.name), Op::Calibrate));
        }
        ops
    }

    pub(super) fn asked<'a>(
        &'a self,
        policy: &Policy,
        request: &'a MiniRequest,
        candidate: Option<&'a str>,
    ) -> Asked<'a> {
        let role = match &self.facts.caller {
            Caller::Session { role, .. } => role.as_str(),
            _ => "",
        };
        Asked {
            intent: &request.intent,
            role,
            environment: policy.environment,
            wanted: self.facts.wanted_profile.as_deref(),
            candidate,
        }
    }

    /// The rollout that this turn belongs to: only where the intent's own profile would answer.
    pub(super) fn rollout<'p>(
        &self,
        policy: &'p Policy,
        intent: &str,
        choice: &Choice<'_>,
    ) -> Option<&'p Rollout> {
        let rollout = policy.catalog.intent(intent)?.rollout.as_ref()?;
        let usual = matches!(choice.reason, Reason::Intent | Reason::Environment);
        (usual && choice.profile.name == rollout.from).then_some(rollout)
    }

    pub(super) fn in_consult(
        &mut self,
        policy: &Policy,
        asking: Box<Asking>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == asking.store_id => {
                self.consulted(policy, *asking, outcomes, now);
            }
            Input::StoreFailed { id } if *id == asking.store_id => {
                self.story.store_failed = true;
                self.consulted(policy, *asking, &[], now);
            }
            _ => self.phase = Phase::Consult(asking),
        }
    }

    /// What was to be known is known. Without a store everybody gets the running version.
    pub(super) fn consulted(&mut self, policy: &Policy, asking: Asking, outcomes: &[Outcome], now: Moment) {
        self.timers.store = None;
        let (mut share, mut calibration) = (0, Calibration::default());
        let rollout =
            policy.catalog.intent(&asking.request.intent).and_then(|intent| intent.rollout.as_ref());
        for outcome in outcomes {
            match outcome {
                Outcome::Rollout { share: now_at, changes, .. } => {
                    share = *now_at;
                    if let Some(rollout) = rollout {
                        self.write_down(policy, rollout, changes);
                    }
                }
                Outcome::Calibrated(learned) => calibration = *learned,
                _ => {}
            }
        }
        match self.plan(policy, asking.request, share, calibration) {
            Ok(waiting) => {
                let profile = match &waiting.turn.voice {
                    Voice::Mini(plan) => policy.catalog.profile(&plan.reply.profile),
                    Voice::Chat { .. } => None,
                };
                self.durably(policy, profile);
                self.ask_gates(policy, waiting, now);
            }
            Err(failure) => self.fail(policy, &failure, now),
        }
    }
}

/// What a profile's model counts for a request, learned.
pub(super) fn usage_key(profile: &str) -> String {
    format!("usage:{profile}")
}
