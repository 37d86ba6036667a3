//! From one attempt at an answer to the next.
//!
//! An answer may take several requests to a model: one that is sent again because nobody has seen
//! it, another profile's after a failure, a quick draft before the real one, a second one when the
//! first was not what its schema wants. All of them share the turn's deadline, and once a piece of
//! the answer has gone to the client no other profile may continue it.

use super::{
    Exchange,
    chat::{self, LONGEST_LINE, Tokens, Turn, USUAL_ANSWER, Voice, Waiting, Weight},
    phase::Phase,
    plan::{Plan, takes_files},
    record::Sight,
};
use crate::{
    policy::{
        Policy, auth,
        catalog::{ModelKind, Profile},
    },
    seam::{Credential, Delivery, Fetch, Moment, OPENCLAW},
    wire::{
        answer::Warning,
        failure::{Code, Failure},
        prompt::{self, Manner},
        reply::Part,
    },
};

/// How often a request is sent again that nobody can have seen.
const MOST_RETRIES: u8 = 2;
/// The first wait before that, in milliseconds; the next one is twice as long. The real wait is a
/// random part of it, so that those who failed together do not come back together.
const BACKOFF: u64 = 400;
/// Less than this before the deadline, in milliseconds, and nothing new is begun.
const TOO_LATE: u64 = 1_000;

/// A model's server and how it is spoken to.
struct Target {
    upstream: String,
    path: &'static str,
    model: String,
    header: Option<(String, String)>,
    credential: Option<Credential>,
    is_openclaw: bool,
    weight: Weight,
    timeout_ms: Option<u64>,
}

/// Finds the model of an alias. One that is not configured is OpenClaw's default agent.
fn target(policy: &Policy, alias: &str, cost: u32) -> Target {
    let found = policy.catalog.model(alias);
    let slots = found.and_then(|model| model.slots).unwrap_or_else(|| policy.model_slots(alias));
    let timeout_ms = found.and_then(|model| model.timeout_ms).map(u64::from);
    let weigh = |upstream: &str, slots: u16| Weight {
        upstream: upstream.to_owned(),
        model: alias.to_owned(),
        model_slots: slots,
        cost,
    };
    match found.map(|model| &model.kind) {
        Some(ModelKind::OpenAi { model, api_key, .. }) => {
            let upstream = format!("model:{alias}");
            Target {
                path: "/chat/completions",
                model: model.clone(),
                header: None,
                credential: api_key.clone().map(Credential::Bearer),
                is_openclaw: false,
                weight: weigh(&upstream, slots),
                upstream,
                timeout_ms,
            }
        }
        kind => {
            let (agent, model) = match kind {
                Some(ModelKind::OpenClaw { agent, model }) => (agent.as_deref(), model.clone()),
                _ => (None, None),
            };
            let agent = agent.map(|agent| format!("openclaw/{agent}"));
            Target {
                upstream: OPENCLAW.into(),
                path: "",
                model: agent.or_else(|| policy.upstream_model(None)).unwrap_or_else(|| "openclaw".into()),
                header: model.map(|model| ("x-openclaw-model".into(), model)),
                credential: None,
                is_openclaw: true,
                weight: weigh(OPENCLAW, slots),
                timeout_ms,
            }
        }
    }
}

impl Exchange {
    /// The request to the model that the plan names now.
    pub(super) fn attempt(
        &mut self,
        policy: &Policy,
        mut plan: Plan,
        rate_headers: Vec<(String, String)>,
    ) -> Waiting {
        let missing = Profile::default();
        let profile = plan.profile(policy).unwrap_or(&missing);
        let target = target(policy, &plan.model, profile.cost);
        let mark = auth::hex(&self.facts.ticket.to_le_bytes()[..4]);
        let mut prompt = prompt::compose(profile, &plan.input, &mark, plan.schema(policy));
        prompt.repair.clone_from(&plan.repair);
        let acts = self.run.is_some() && !plan.explains && !self.facts.restricted && plan.part != Part::Draft;
        // In a robot's conversation nobody could be asked whether something may be done.
        let acts = acts && self.robot.is_none();
        plan.offers = acts && !profile.tools.is_empty();
        if plan.offers {
            prompt.offer(&policy.catalog.tools_of(profile), &mark);
        }
        for (text, calls) in &plan.rounds {
            prompt.push_round(text, calls, &mark);
        }
        prompt.continued = plan.session.is_some() && target.is_openclaw;
        let input_tokens = prompt.tokens();
        let max_tokens = [profile.max_tokens, plan.max_tokens].into_iter().flatten().min();
        let max_tokens = max_tokens.or(policy.chat.max_tokens);
        let manner = Manner {
            model: &target.model,
            is_openclaw: target.is_openclaw,
            stream: plan.takes_stream(),
            max_tokens,
            temperature_milli: profile.temperature_milli,
            json: plan.json,
        };
        let api = prompt.api(target.is_openclaw);
        let (body, system_at) = prompt.body(manner);
        let timeouts = [profile.timeout_ms.map(u64::from), target.timeout_ms];
        plan.attempt_ms = timeouts.into_iter().flatten().min();
        let fetch_id = self.take_id();
        let mut headers = vec![("content-type".into(), "application/json".into())];
        headers.extend(target.header);
        let credential = match target.is_openclaw {
            true => self.identify(policy, &mut headers),
            false => target.credential,
        };
        let session = plan.session.clone().filter(|_| target.is_openclaw);
        let has_session = session.is_some();
        headers.extend(session.map(|key| ("x-openclaw-session-key".into(), key)));
        let explains = plan.explains;
        let stream = plan.takes_stream();
        let delivery = if stream {
            Delivery::Lines { limit: LONGEST_LINE }
        } else {
            Delivery::Whole { limit: policy.limits.answer }
        };
        Waiting {
            turn: Turn { voice: Voice::Mini(Box::new(plan)), api, fetch_id, rate_headers },
            stream,
            fetch: Fetch {
                id: fetch_id,
                upstream: target.upstream,
                method: "POST".into(),
                path: if target.is_openclaw { api.path().into() } else { target.path.into() },
                headers,
                credential,
                body,
                delivery,
                keeps_body: true,
            },
            weight: target.weight,
            session: has_session,
            system_at,
            gates: Vec::new(),
            store_id: 0,
            named: true,
            tokens: Tokens { input: input_tokens, output: max_tokens.unwrap_or(USUAL_ANSWER) },
            cache: None,
            curated: None,
            explain_only: self.facts.restricted || explains,
            text: None,
            pictures: Vec::new(),
        }
    }

    /// A model's server has no room or is given a rest: another profile may be elsewhere.
    pub(super) fn not_admitted(&mut self, policy: &Policy, waiting: Waiting, failure: &Failure, now: Moment) {
        match waiting.turn.voice {
            Voice::Mini(plan) if failure.code == Code::UpstreamUnavailable || self.story.opened => {
                self.attempt_failed(policy, *plan, waiting.turn.rate_headers, failure, now);
            }
            _ => self.fail(policy, failure, now),
        }
    }

    /// A request to a model has failed, and nothing of its answer has been shown.
    pub(super) fn turn_failed(&mut self, policy: &Policy, turn: Turn, failure: &Failure, now: Moment) {
        self.stop_attempt();
        let Turn { voice: Voice::Mini(plan), rate_headers, .. } = turn else {
            return self.fail(policy, failure, now);
        };
        self.attempt_failed(policy, *plan, rate_headers, failure, now);
    }

    /// What comes after a failure: the same again, another profile, the draft, or the end.
    pub(super) fn attempt_failed(
        &mut self,
        policy: &Policy,
        mut plan: Plan,
        rate_headers: Vec<(String, String)>,
        failure: &Failure,
        now: Moment,
    ) {
        let left = self.timers.turn.unwrap_or(u64::MAX).saturating_sub(now.unix_ms);
        let passes = matches!(failure.code, Code::UpstreamUnreachable | Code::UpstreamOverloaded);
        let unseen = passes
            && match self.story.sight {
                Sight::Unseen => true,
                // A model that only speaks may be asked twice.
                Sight::Unclear => !policy.catalog.side_effects(&plan.model),
                Sight::Seen => false,
            };
        self.story.seen |= !unseen;
        let wait = BACKOFF << plan.retries.min(4);
        let random = u64::from(now.entropy[0]) * 256 + u64::from(now.entropy[1]);
        let wait = (wait * random / 65_536).max(failure.retry_after_s.unwrap_or(0) * 1_000);
        if unseen && plan.retries < MOST_RETRIES && left > wait + TOO_LATE {
            plan.retries += 1;
            // What was asked is in the plan; the rest is made anew when the time has come.
            let waiting = self.attempt(policy, plan, rate_headers);
            self.timers.backoff = Some(now.unix_ms + wait);
            self.phase = Phase::Backoff(Box::new(waiting));
            return;
        }
        if plan.part == Part::Draft {
            // It was an extra. The real answer is still to come.
            return self.refine(policy, plan, rate_headers, now);
        }
        if let Some((profile, model)) =
            plan.fallback(policy).filter(|_| left > TOO_LATE && may_fall_back(failure))
        {
            self.story.fell_back = Some(failure.code);
            plan.profile = profile;
            plan.model = model;
            plan.fell_back = true;
            plan.retries = 0;
            plan.repair = None;
            // What was cut off is in OpenClaw's session: the same words again would stand there twice.
            plan.session = None;
            plan.reply.profile.clone_from(&plan.profile);
            plan.reply.degraded = true;
            plan.reply.warnings.push(Warning::Fallback);
            self.story.profile = Some(plan.profile.clone());
            self.story.model = Some(plan.model.clone());
            return self.next_attempt(policy, plan, rate_headers, Some(failure.code), now);
        }
        if plan.drafted {
            self.story.fell_back = Some(failure.code);
            plan.reply.warnings.push(Warning::Fallback);
            return self.keep_draft(policy, plan, now);
        }
        self.fail(policy, failure, now);
    }

    /// The real answer after a draft.
    pub(super) fn refine(
        &mut self,
        policy: &Policy,
        mut plan: Plan,
        rate_headers: Vec<(String, String)>,
        now: Moment,
    ) {
        if self.is_too_late(now) {
            return match plan.drafted {
                true => self.keep_draft(policy, plan, now),
                false => self.fail(policy, &chat::timed_out(), now),
            };
        }
        plan.part = if plan.drafted { Part::Refined } else { Part::Answer };
        plan.profile.clone_from(&plan.reply.profile);
        plan.retries = 0;
        if let Some(profile) = plan.profile(policy) {
            plan.model.clone_from(&profile.model);
        }
        self.next_attempt(policy, plan, rate_headers, None, now);
    }

    /// Whether the turn's time does not allow for another attempt.
    pub(super) fn is_too_late(&self, now: Moment) -> bool {
        self.timers.turn.is_some_and(|turn| turn <= now.unix_ms + TOO_LATE)
    }

    /// Asks for another model's slot in place of the one that is held.
    pub(super) fn next_attempt(
        &mut self,
        policy: &Policy,
        plan: Plan,
        rate_headers: Vec<(String, String)>,
        failed: Option<Code>,
        now: Moment,
    ) {
        let release = self.release(policy, failed);
        let waiting = self.attempt(policy, plan, rate_headers);
        self.ask_slot(policy, waiting, release, now);
    }

    /// The wait before another try is over.
    pub(super) fn try_again(&mut self, policy: &Policy, now: Moment) {
        self.timers.backoff = None;
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Backoff(waiting) => self.ask(policy, *waiting, now),
            Phase::CallAgain(calling) => self.call_again(policy, *calling, now),
            phase => self.phase = phase,
        }
    }
}

impl Plan {
    /// Who stands in: a profile, or this one with another model.
    fn fallback(&self, policy: &Policy) -> Option<(String, String)> {
        let name = self.profile(policy)?.fallback.as_deref().filter(|_| !self.fell_back)?;
        let (profile, model) = match policy.catalog.profile(name) {
            Some(profile) if !policy.catalog.allows(policy.environment, &profile.name) => return None,
            Some(profile) => (profile.name.clone(), profile.model.clone()),
            None => (self.profile.clone(), name.to_owned()),
        };
        // An answer about half of what was sent would be a wrong one.
        let has_files = self.input.media.iter().any(|media| media.is_file);
        (!has_files || takes_files(policy, &model)).then_some((profile, model))
    }
}

/// Whether another model could do better: not where the request itself was refused.
fn may_fall_back(failure: &Failure) -> bool {
    !matches!(failure.code, Code::UpstreamRefusedRequest | Code::UpstreamMisconfigured | Code::Internal)
}
