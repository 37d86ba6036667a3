//! The stages of `POST /v1/mini/ask`: from an intent to a profile, and from one attempt to the next.
//!
//! An answer may take several requests to a model: one that is sent again because nobody has seen
//! it, another profile's after a failure, a quick draft before the real one, a second one when the
//! first was not what its schema wants. All of them share the turn's deadline, and once a piece of
//! the answer has gone to the client no other profile may continue it.

use serde::{Deserialize, Serialize};

use super::{
    Exchange, Phase,
    audit::Passage,
    chat::{self, LONGEST_LINE, Shelf, Tokens, Turn, USUAL_ANSWER, Voice, Waiting, Weight},
    gates::{Caller, STORE_PATIENCE},
    notices,
    pieces::Pieces,
    record,
};
use crate::{
    policy::{
        ContentMode, Memory, Policy, auth,
        catalog::{LongInput, ModelKind, Profile},
        question::{self, Partition},
        rollout::Rollout,
        routing::{self, Asked, Choice, NoProfile, Reason},
        tokens::{self, Weighed},
    },
    seam::{Credential, Delivery, Fetch, Input as SeamInput, Moment, OPENCLAW, Output},
    state::{
        Op, Outcome,
        rollout::{Consult, Version},
        usage::Calibration,
    },
    wire::{
        answer::Warning,
        failure::{Code, Failure},
        mini::{self, Input, MiniRequest},
        prompt::{self, Manner},
        reply::{Part, Reply},
        tool::ToolCall,
    },
};

/// How often a request is sent again that nobody can have seen.
const MOST_RETRIES: u8 = 2;
/// The first wait before that, in milliseconds; the next one is twice as long. The real wait is a
/// random part of it, so that those who failed together do not come back together.
const BACKOFF: u64 = 400;
/// Less than this before the deadline, in milliseconds, and nothing new is begun.
const TOO_LATE: u64 = 1_000;

/// How an intent is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What the client is told.
    pub(super) reply: Reply,
    /// Whose prompt and limits hold now.
    pub(super) profile: String,
    /// The alias of the model that is asked now.
    model: String,
    /// The intent's own limit.
    max_tokens: Option<u32>,
    /// What the person gave.
    input: Input,
    /// Which conversation, where OpenClaw keeps it.
    session: Option<String>,
    /// The client wants events.
    pub(super) stream: bool,
    /// What the text is that comes now.
    pub(super) part: Part,
    /// The answer is to be JSON.
    pub(super) json: bool,
    /// The time of the attempt that runs, in milliseconds.
    pub(super) attempt_ms: Option<u64>,
    /// The most tokens of the answer that the day's caps leave.
    pub(super) allowance: Option<u32>,
    /// The whole text is wanted at the end.
    pub(super) keeps_text: bool,
    /// The intent's own profile takes personal data out of answers: who stands in for it does so too.
    redacts: bool,
    retries: u8,
    fell_back: bool,
    /// An answer that was not accepted, and what the model is told about it.
    pub(super) repair: Option<(String, String)>,
    /// A draft was streamed: when nothing better comes it is the answer.
    pub(super) drafted: bool,
    /// Its text, where the whole answer is wanted at the end.
    pub(super) draft_text: Option<String>,
    /// The whole of a draft is wanted too.
    keeps_draft: bool,
    /// What its model wanted done and what came of it, the oldest first.
    pub(super) rounds: Vec<(String, Vec<(ToolCall, String)>)>,
    /// The number of calls in them.
    pub(super) calls_before: u32,
    /// Tools are offered to the model that is asked now.
    pub(super) offers: bool,
    /// Something was refused, or is in doubt: it only explains from now on.
    pub(super) explains: bool,
}

impl Plan {
    fn profile<'p>(&self, policy: &'p Policy) -> Option<&'p Profile> {
        policy.catalog.profile(&self.profile)
    }

    /// The schema that the answer must follow.
    pub(super) fn schema<'p>(&self, policy: &'p Policy) -> Option<&'p str> {
        let name = self.input.schema.as_deref()?;
        policy.catalog.schema(name).map(|schema| schema.text.as_str())
    }

    /// What is done with the text of a stream.
    pub(super) fn pieces(&self, policy: &Policy) -> Pieces {
        let keeps = if self.part == Part::Draft { self.keeps_draft } else { self.keeps_text };
        Pieces::new(self.redacts(policy), keeps, self.allowance)
    }

    /// Whether personal data is taken out of the answer.
    pub(super) fn redacts(&self, policy: &Policy) -> bool {
        self.redacts || self.profile(policy).is_some_and(|profile| profile.redact)
    }

    /// Its clients are elsewhere: all that comes is written down, and the whole answer too.
    pub(super) fn run_for_others(&mut self) {
        self.stream = true;
        self.keeps_text = true;
        self.keeps_draft = true;
    }

    /// Whether another answer may be asked for, after one that was not accepted.
    pub(super) fn may_repair(&self) -> bool {
        self.repair.is_none()
    }

    /// Whether the model's answer is taken as it comes. A value that must be checked is not
    /// shown before it has been.
    fn takes_stream(&self) -> bool {
        self.stream && !self.json
    }
}

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
    fn choose<'p>(&self, policy: &'p Policy, asked: Asked<'_>) -> Result<Choice<'p>, NoProfile> {
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

    fn asked<'a>(
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
    fn rollout<'p>(&self, policy: &'p Policy, intent: &str, choice: &Choice<'_>) -> Option<&'p Rollout> {
        let rollout = policy.catalog.intent(intent)?.rollout.as_ref()?;
        let usual = matches!(choice.reason, Reason::Intent | Reason::Environment);
        (usual && choice.profile.name == rollout.from).then_some(rollout)
    }

    pub(super) fn in_consult(
        &mut self,
        policy: &Policy,
        asking: Box<Asking>,
        input: &SeamInput<'_>,
        now: Moment,
    ) {
        match input {
            SeamInput::Stored { id, outcomes } if *id == asking.store_id => {
                self.consulted(policy, *asking, outcomes, now);
            }
            SeamInput::StoreFailed { id } if *id == asking.store_id => {
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

    /// Who answers, and from what.
    fn plan(
        &mut self,
        policy: &Policy,
        request: MiniRequest,
        share: u16,
        calibration: Calibration,
    ) -> Result<Waiting, Failure> {
        let catalog = &policy.catalog;
        let choice = self.choose(policy, self.asked(policy, &request, None));
        let mut choice = choice.map_err(|reason| no_profile(policy, reason))?;
        if let Some(rollout) = self.rollout(policy, &request.intent, &choice) {
            let subject = self.story.subject.as_deref().unwrap_or_default();
            let version = rollout.version(subject, share);
            if version == Version::Candidate {
                let candidate = self.asked(policy, &request, Some(&rollout.to));
                choice = self.choose(policy, candidate).unwrap_or(choice);
            }
            let counted =
                if choice.profile.name == rollout.to { Version::Candidate } else { Version::Running };
            if counted == Version::Running && choice.profile.name != rollout.from {
                // The client chose.
            } else {
                self.owes_to(rollout, counted);
                self.story.version = Some(counted);
            }
        }
        let profile = choice.profile;
        self.story.profile = Some(profile.name.clone());
        self.story.reason = Some(choice.reason);
        self.story.ignored = choice.ignored;
        self.story.model = Some(profile.model.clone());

        let session = matches!(self.facts.caller, Caller::Session { .. });
        let named = session || request.user.is_some() || self.robot.is_some();
        let (intent, stream, ascii) = (request.intent.clone(), request.stream, request.ascii);
        // Nobody but OpenClaw can know what was said to a robot before.
        let keeps = (profile.memory == Memory::Gateway && named) || self.robot.is_some();
        let session = keeps.then(|| match &self.robot {
            Some(heard) => auth::session_key(policy, "dingtalk", &heard.party),
            None => {
                let subject = self.story.subject.as_deref().unwrap_or_default();
                auth::session_key(policy, "ask", &format!("{subject}/{intent}"))
            }
        });
        let pictures = request.pictures.clone();
        let mut input = request.fit(profile)?;
        self.story.attachments = input.media.len();
        if keeps {
            // The history is at OpenClaw already; sent again it would count twice.
            input.history.clear();
        }
        let mut warnings = std::mem::take(&mut input.warnings);
        if let Some(name) = &input.schema
            && catalog.schema(name).is_none()
        {
            if !catalog.schemas.is_empty() {
                let known: Vec<&str> = catalog.schemas.iter().map(|schema| schema.name.as_str()).collect();
                let message = format!("input.schemaName: use one of {}", known.join(", "));
                return Err(Failure::new(Code::SchemaUnknown, message));
            }
            warnings.push(Warning::SchemaNotConfigured);
        }
        if input.media.iter().any(|media| media.is_file) && !takes_files(policy, &profile.model) {
            let message = "attachments: this intent's model takes pictures and no files";
            return Err(Failure::new(Code::AttachmentTypeUnsupported, message));
        }
        // Whoever answers in the end: the value is the intent's.
        input.schema = input.schema.or_else(|| profile.schema.clone());
        let schema =
            input.schema.as_deref().and_then(|name| catalog.schema(name)).map(|schema| schema.text.as_str());
        fit_window(profile, &mut input, schema, calibration, &mut warnings)?;
        let curated = self.curated(policy, &intent, &input);
        let cache = self.shelf(policy, &intent, profile, &input);
        let json = profile.json || profile.schema.is_some() || input.schema.is_some();
        // A value is shown when it has been checked: there is nothing to draft.
        let allowed = |name: &&str| catalog.allows(policy.environment, name);
        // A robot says one thing.
        let may_draft = !json && self.robot.is_none();
        let draft = profile.draft.as_deref().filter(|_| may_draft).filter(allowed);
        let first = draft.and_then(|name| catalog.profile(name));
        let drafts = first.is_some();
        let first = first.unwrap_or(profile);
        self.story.warnings.clone_from(&warnings);
        self.story.asked = Some(Passage::of(policy, &input.text));
        self.story.title = notices::title(policy, &intent, &input.text);
        if policy.logs_content() {
            self.story.input = Some(record::excerpt(policy, &input.text));
        }
        let max_tokens = catalog.intent(&intent).and_then(|intent| intent.max_tokens);
        let text = (policy.content.mode != ContentMode::Off).then(|| input.text.clone());
        let plan = Plan {
            reply: Reply {
                request_id: self.facts.request_id.clone(),
                trace_id: self.facts.trace_id.clone(),
                intent,
                profile: profile.name.clone(),
                warnings,
                ascii,
                ..Reply::default()
            },
            profile: first.name.clone(),
            model: first.model.clone(),
            max_tokens,
            json,
            input,
            session,
            stream,
            part: if drafts { Part::Draft } else { Part::Answer },
            attempt_ms: None,
            allowance: None,
            keeps_text: cache.is_some(),
            redacts: profile.redact,
            retries: 0,
            fell_back: false,
            repair: None,
            drafted: false,
            draft_text: None,
            keeps_draft: false,
            rounds: Vec::new(),
            calls_before: 0,
            offers: false,
            explains: false,
        };
        let mut waiting = self.first_attempt(policy, plan);
        waiting.tokens.input = calibration.apply(waiting.tokens.input);
        waiting.named = named;
        waiting.text = text;
        waiting.pictures = pictures;
        waiting.cache = cache;
        waiting.curated = curated;
        Ok(waiting)
    }

    fn first_attempt(&mut self, policy: &Policy, plan: Plan) -> Waiting {
        // Whoever answers in the end bounds the turn, and not a draft before it.
        let profile = policy.catalog.profile(&plan.reply.profile);
        let timeout = profile.and_then(|profile| profile.timeout_ms).map_or(u64::MAX, u64::from);
        // With another profile to answer in its place, a profile's time is not the turn's.
        let alone = profile.is_none_or(|profile| profile.fallback.is_none() && profile.draft.is_none());
        let begun = self.facts.started_ms;
        let usual = match &self.robot {
            Some(heard) => heard.deadline_ms.saturating_sub(begun),
            None => policy.deadlines.turn,
        };
        let turn = if alone { timeout.min(usual) } else { usual };
        self.timers.turn = Some(begun + turn);
        let learns = profile.filter(|profile| profile.context_tokens.is_some());
        let learns = learns.map(|profile| usage_key(&profile.name));
        let waiting = self.attempt(policy, plan, Vec::new());
        self.dues.learn = learns.map(|key| (key, waiting.tokens.input));
        waiting
    }

    /// The operator's own answer.
    fn curated(&self, policy: &Policy, intent: &str, input: &Input) -> Option<String> {
        let mine = || policy.catalog.faq.iter().filter(|entry| entry.intent == intent);
        mine().next()?;
        let key = question::curated(intent, &input.text).filter(|_| input.is_plain())?;
        mine().find(|entry| entry.keys.contains(&key)).map(|entry| entry.answer.clone())
    }

    /// Where the answer is kept, when it may be. Everything that may make answers differ is in the key.
    fn shelf(&self, policy: &Policy, intent: &str, profile: &Profile, input: &Input) -> Option<Shelf> {
        let rules = profile.cache.filter(|_| input.is_plain() && profile.memory == Memory::Client)?;
        let role = match &self.facts.caller {
            Caller::Session { role, .. } => role.as_str(),
            _ => "",
        };
        let person = self.story.subject.as_deref().unwrap_or_default();
        let fields: Vec<String> =
            input.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let others = [
            ("config", policy.catalog.version.as_str()),
            ("role", role),
            ("person", if rules.shared { "" } else { person }),
            ("schema", input.schema.as_deref().unwrap_or_default()),
            ("fields", &fields.join("\n")),
        ];
        let partition = Partition::new(policy.environment, intent, &profile.name, &others)?;
        let key = question::key(&partition, &input.text)?;
        Some(Shelf { key: format!("answer:{key}"), ttl_ms: u64::from(rules.ttl_s) * 1_000 })
    }

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
        let unseen = matches!(failure.code, Code::UpstreamUnreachable | Code::UpstreamOverloaded);
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

/// Whether the model of an alias takes files: those of servers with OpenAI's API take pictures.
fn takes_files(policy: &Policy, alias: &str) -> bool {
    let kind = policy.catalog.model(alias).map(|model| &model.kind);
    !matches!(kind, Some(ModelKind::OpenAi { .. }))
}

/// What a profile's model counts for a request, learned.
fn usage_key(profile: &str) -> String {
    format!("usage:{profile}")
}

/// Leaves out what does not fit into the profile's context: the oldest turns first. The server's
/// words and the newest message stay; when they alone are too much, the profile says whether the
/// text is cut.
fn fit_window(
    profile: &Profile,
    input: &mut Input,
    schema: Option<&str>,
    calibration: Calibration,
    warnings: &mut Vec<Warning>,
) -> Result<(), Failure> {
    let Some(most) = profile.context_tokens else { return Ok(()) };
    let fixed = prompt::compose(
        profile,
        &Input { text: String::new(), history: Vec::new(), ..input.clone() },
        "",
        schema,
    );
    let left = calibration.fits(most).saturating_sub(fixed.tokens());
    let text = tokens::of_message(&input.text);
    if text > left {
        if profile.long_input == LongInput::Refuse || left == 0 {
            let message = format!("input.text: about {text} tokens, and {left} fit");
            return Err(Failure::new(Code::InputTooLong, message));
        }
        let chars = input.text.chars().count() as u64;
        let keep = usize::try_from(chars * u64::from(left) / u64::from(text)).unwrap_or_default();
        input.text = mini::cut(&input.text, keep);
        if !warnings.contains(&Warning::InputCut) {
            warnings.push(Warning::InputCut);
        }
    }
    let left = left.saturating_sub(tokens::of_message(&input.text));
    let weighed: Vec<Weighed> = input
        .history
        .iter()
        .map(|said| Weighed { tokens: tokens::of_message(&said.text), from_user: !said.by_agent })
        .collect();
    let mut start = tokens::window(&weighed, left);
    if weighed
        .get(start..)
        .is_some_and(|rest| rest.iter().map(|said| u64::from(said.tokens)).sum::<u64>() > u64::from(left))
    {
        // The newest message is the text; of the history nothing need stay.
        start = weighed.len();
    }
    if start > 0 {
        input.history.drain(..start);
        warnings.push(Warning::HistoryCut);
    }
    Ok(())
}

/// Whether another model could do better: not where the request itself was refused.
fn may_fall_back(failure: &Failure) -> bool {
    !matches!(failure.code, Code::UpstreamRefusedRequest | Code::UpstreamMisconfigured | Code::Internal)
}

fn no_profile(policy: &Policy, reason: NoProfile) -> Failure {
    let environment = policy.environment.name();
    match reason {
        NoProfile::UnknownIntent if policy.catalog.intents.is_empty() => Failure::new(
            Code::IntentUnknown,
            "intent: no intents are configured; give the server a configuration with profiles and routing",
        ),
        NoProfile::UnknownIntent => {
            let known: Vec<&str> =
                policy.catalog.intents.iter().take(50).map(|intent| intent.name.as_str()).collect();
            Failure::new(Code::IntentUnknown, format!("intent: use one of {}", known.join(", ")))
        }
        NoProfile::Role => Failure::new(Code::ProfileForbidden, "this intent is for other roles"),
        NoProfile::NotAllowed | NoProfile::Missing => Failure::new(
            Code::ProfileNotAllowed,
            format!("environment {environment} allows no version of this intent's profile"),
        ),
    }
}
