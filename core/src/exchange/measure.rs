//! What a request is worth counting, found at its end; and which stage it is in meanwhile.
//!
//! Nothing in a sample may name a person: labels are names of the configuration, and a name that
//! a client made up counts as `other`.

use serde::{Deserialize, Serialize};

use super::{Exchange, Phase};
use crate::{
    measure::{Ending, Labels, Sample, Sign, Stage, StageName, Trace, Turn},
    policy::{Policy, auth},
    seam::{MODEL, Moment, OPENCLAW, Output, RequestHead},
    state::{Outcome, caller::Standing},
    wire::failure::{Blame, Code},
};

/// Stages that are kept; a request has about six, and one that tries again a few more.
const MOST_STAGES: usize = 32;
/// What a name counts as that is not in the configuration.
const OTHER: &str = "other";

/// The stages so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stages {
    now: Option<(StageName, u32)>,
    over: Vec<Stage>,
}

impl Stages {
    fn enter(&mut self, name: Option<StageName>, at_ms: u32) {
        if self.now.map(|(name, _)| name) == name {
            return;
        }
        if let Some((name, start_ms)) = self.now.take()
            && self.over.len() < MOST_STAGES
        {
            self.over.push(Stage { name, start_ms, end_ms: at_ms });
        }
        self.now = name.map(|name| (name, at_ms));
    }
}

/// The trace and the span of W3C `traceparent`.
pub(super) fn parent(head: &RequestHead) -> Option<(String, String)> {
    let mut parts = head.header("traceparent")?.split('-').skip(1);
    let hex = |id: &str, len: usize| {
        let digits = id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (id.len() == len && digits && id.bytes().any(|byte| byte != b'0')).then(|| id.to_owned())
    };
    Some((hex(parts.next()?, 32)?, hex(parts.next()?, 16)?))
}

impl Phase {
    /// Who is waited for.
    fn stage(&self) -> Option<StageName> {
        Some(match self {
            Self::Body => StageName::Body,
            Self::Unauthorized(..)
            | Self::Door(..)
            | Self::Consult(_)
            | Self::Gates(_)
            | Self::LoginGates(_)
            | Self::SendPicture(_)
            | Self::Push(_)
            | Self::Draft(_)
            | Self::KeepBody(..)
            | Self::Claiming(..)
            | Self::Restoring(..)
            | Self::Saved(_)
            | Self::Ending
            | Self::Approvals(_)
            | Self::Hearing(_)
            | Self::Ledger(_)
            | Self::Trace(_)
            | Self::LoggingOut(_)
            | Self::Rating(_)
            | Self::Feedback(_)
            | Self::Configuration(_)
            | Self::Under(_)
            | Self::Rollouts(_)
            | Self::Metrics(_) => StageName::Gates,
            Self::Shared(_) | Self::Watching(_) => StageName::Shared,
            Self::Queue(_) => StageName::Queue,
            Self::CheckText(..)
            | Self::CheckAnswer(..)
            | Self::LoginAnswer(_)
            | Self::LoginRisk(_)
            | Self::Notifying(_)
            | Self::Downloading(_)
            | Self::Saying(_) => StageName::Wechat,
            Self::Answer(_)
            | Self::StreamHead(_)
            | Self::StreamRefusal(..)
            | Self::Probes(_)
            | Self::Warming(_)
            | Self::Sending(_)
            | Self::Model(_) => StageName::Upstream,
            Self::Streaming(..) => StageName::Stream,
            Self::Backoff(_) | Self::CallAgain(_) => StageName::Backoff,
            Self::Calling(_) => StageName::Tool,
            Self::Done => return None,
        })
    }
}

impl Exchange {
    fn since_begin(&self, unix_ms: u64) -> u32 {
        u32::try_from(unix_ms.saturating_sub(self.facts.started_ms)).unwrap_or(u32::MAX)
    }

    /// Notes which stage begins after this step.
    pub(super) fn enter_stage(&mut self, now: Moment) {
        let at_ms = self.since_begin(now.unix_ms);
        self.stages.enter(self.phase.stage(), at_ms);
    }

    /// What is asked of a model belongs to the client's trace, or to the one that is exported.
    pub(super) fn pass_trace_on(&mut self, policy: &Policy) {
        if self.facts.parent.is_none() && !policy.traces {
            return;
        }
        let header = format!("00-{}-{}-01", self.w3c_trace_id(), self.span_id());
        for output in &mut self.outputs {
            if let Output::Fetch(fetch) = output
                && (fetch.upstream == OPENCLAW || fetch.upstream.starts_with(MODEL))
            {
                fetch.headers.push(("traceparent".into(), header.clone()));
            }
        }
    }

    /// The client's trace, or one of this request's own.
    fn w3c_trace_id(&self) -> &str {
        let own = self.facts.request_id.trim_start_matches("req_");
        self.facts.parent.as_ref().map_or(own, |(trace, _)| trace)
    }

    fn span_id(&self) -> String {
        auth::hex(&self.facts.ticket.to_be_bytes())
    }

    /// What a gate said of the caller.
    pub(super) fn notice(&mut self, outcome: &Outcome) {
        let Outcome::Entered { standing, repeated, spiked, .. } = outcome else { return };
        let slowed = *standing == Standing::Slowed;
        let seen = [(*repeated, Sign::Repeated), (*spiked, Sign::Spiked), (slowed, Sign::Slowed)];
        self.story.signs.extend(seen.into_iter().filter(|(seen, _)| *seen).map(|(_, sign)| sign));
    }

    /// Gives the host what is to be counted.
    pub(super) fn measure(&mut self, policy: &Policy, now: Moment) {
        let total_ms = self.since_begin(now.unix_ms);
        self.stages.enter(None, total_ms);
        let stages = std::mem::take(&mut self.stages.over);
        let lasted = |stage: &Stage| stage.end_ms.saturating_sub(stage.start_ms);
        let waited: u32 = stages.iter().map(lasted).sum();
        let queue = stages.iter().filter(|stage| stage.name == StageName::Queue);
        let mut signs = std::mem::take(&mut self.story.signs);
        signs.extend(self.facts.restricted.then_some(Sign::Restricted));
        signs.extend(match self.story.code {
            Some(Code::Blocked) => Some(Sign::Blocked),
            Some(Code::RateLimited) => Some(Sign::Limited),
            _ => None,
        });
        let sample = Sample {
            // Its client's request was counted as one, and was no turn.
            route: if self.run.is_some() { "turn" } else { self.facts.route.name() }.into(),
            status: if self.story.client_gone { 499 } else { self.story.status },
            code: self.story.code,
            total_ms,
            added_ms: total_ms.saturating_sub(waited),
            queued_ms: self.story.queued.then(|| queue.map(lasted).sum()),
            body_bytes: u32::try_from(self.facts.body_bytes).unwrap_or(u32::MAX),
            own_us: None,
            signs,
            store_failed: self.story.store_failed,
            unchecked: self.story.unchecked,
            turn: self.turn_sample(policy, now).filter(|_| self.story.turn.is_none()),
            tools: self.story.calls.iter().map(|call| call.tool.clone()).collect(),
            failed_tools: self.failed_tools(),
            trace: Trace {
                trace_id: self.w3c_trace_id().into(),
                span_id: self.span_id(),
                parent_id: self.facts.parent.as_ref().map(|(_, span)| span.clone()),
                shown_id: self.facts.trace_id.clone(),
                started_ms: self.facts.started_ms,
                stages,
            },
        };
        self.outputs.push_back(Output::Measure(Box::new(sample)));
    }

    /// Names of the configuration only: what a model made up is no tool.
    fn failed_tools(&self) -> Vec<String> {
        let calls = self.story.calls.iter();
        let failed = calls.filter(|call| matches!(call.outcome.as_str(), "unknown" | "refused" | "rejected"));
        failed.map(|call| call.tool.clone()).collect()
    }

    /// The turn's part: only of a request that named a model or an intent.
    fn turn_sample(&self, policy: &Policy, now: Moment) -> Option<Turn> {
        let story = &self.story;
        if story.model.is_none() && story.intent.is_none() {
            return None;
        }
        let catalog = &policy.catalog;
        let known = |name: &Option<String>, is_known: &dyn Fn(&str) -> bool| match name {
            None => String::new(),
            Some(name) if is_known(name) => name.clone(),
            Some(_) => OTHER.to_owned(),
        };
        let is_model = |name: &str| {
            policy.chat.models.iter().any(|model| model == name)
                || catalog.model(name).is_some()
                || catalog.profiles.iter().any(|profile| profile.model == name)
        };
        let asked = story.asked_ms;
        let ms = |from: u64, to: u64| u32::try_from(to.saturating_sub(from)).unwrap_or(u32::MAX);
        let tokens = |count: u64| u32::try_from(count).unwrap_or(u32::MAX);
        Some(Turn {
            labels: Labels {
                intent: known(&story.intent, &|name| catalog.intent(name).is_some()),
                profile: known(&story.profile, &|name| catalog.profile(name).is_some()),
                model: known(&story.model, &is_model),
            },
            ending: self.ending_of_turn(),
            model_ms: asked.map(|asked| ms(asked, now.unix_ms)),
            first_ms: asked.zip(story.first_ms).map(|(asked, first)| ms(asked, first)),
            tokens: story.usage.map(|usage| (tokens(usage.input), tokens(usage.output))),
            retries: story.attempts.saturating_sub(1),
            fell_back: story.fell_back.is_some(),
            cached: story.cached,
            schema_failed: !story.violations.is_empty(),
        })
    }

    fn ending_of_turn(&self) -> Ending {
        if self.story.client_gone {
            return Ending::Left;
        }
        match self.story.code {
            None => Ending::Answered,
            Some(Code::UpstreamTimeout | Code::QueueTimeout | Code::BodyTimeout) => Ending::TimedOut,
            Some(Code::ContentRefused | Code::UpstreamRefusedRequest) => Ending::Refused,
            Some(code) => match code.blame() {
                Blame::Client => Ending::Invalid,
                Blame::Policy => Ending::Rejected,
                Blame::Upstream | Blame::Configuration | Blame::Bug => Ending::Failed,
            },
        }
    }
}
