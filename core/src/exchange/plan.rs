//! How an intent is answered: who answers, from what, and within which limits.
//!
//! A plan is made once, when it is known who asks and what the store knows, and is what all
//! attempts at an answer share (`attempts.rs`). Nothing is sent here.

use serde::{Deserialize, Serialize};

use super::{
    Exchange,
    ask::usage_key,
    audit::Passage,
    chat::{Shelf, Waiting},
    gates::Caller,
    notices,
    pieces::Pieces,
    record,
};
use crate::{
    policy::{
        ContentMode, Memory, Policy, auth,
        catalog::{LongInput, ModelKind, Profile},
        question::{self, Partition},
        routing::{Choice, NoProfile},
        tokens::{self, Weighed},
    },
    state::{rollout::Version, usage::Calibration},
    wire::{
        answer::Warning,
        failure::{Code, Failure},
        mini::{self, Input, MiniRequest},
        prompt,
        reply::{Part, Reply},
        tool::ToolCall,
    },
};

/// How an intent is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    /// What the client is told.
    pub(super) reply: Reply,
    /// Whose prompt and limits hold now.
    pub(super) profile: String,
    /// The alias of the model that is asked now.
    pub(super) model: String,
    /// The intent's own limit.
    pub(super) max_tokens: Option<u32>,
    /// What the person gave.
    pub(super) input: Input,
    /// Which conversation, where OpenClaw keeps it.
    pub(super) session: Option<String>,
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
    pub(super) redacts: bool,
    pub(super) retries: u8,
    pub(super) fell_back: bool,
    /// An answer that was not accepted, and what the model is told about it.
    pub(super) repair: Option<(String, String)>,
    /// A draft was streamed: when nothing better comes it is the answer.
    pub(super) drafted: bool,
    /// Its text, where the whole answer is wanted at the end.
    pub(super) draft_text: Option<String>,
    /// The whole of a draft is wanted too.
    pub(super) keeps_draft: bool,
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
    pub(super) fn profile<'p>(&self, policy: &'p Policy) -> Option<&'p Profile> {
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
    pub(super) fn takes_stream(&self) -> bool {
        self.stream && !self.json
    }
}

impl Exchange {
    /// Who answers, and from what.
    pub(super) fn plan(
        &mut self,
        policy: &Policy,
        request: MiniRequest,
        share: u16,
        calibration: Calibration,
    ) -> Result<Waiting, Failure> {
        let choice = self.elect(policy, &request, share)?;
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
        check_wishes(policy, profile, &input, &mut warnings)?;
        // Whoever answers in the end: the value is the intent's.
        input.schema = input.schema.or_else(|| profile.schema.clone());
        let catalog = &policy.catalog;
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

    /// Who answers, with the intent's rollout at this share. The rollout is owed a word about how
    /// it went, but for those who chose their profile themselves.
    fn elect<'p>(
        &mut self,
        policy: &'p Policy,
        request: &MiniRequest,
        share: u16,
    ) -> Result<Choice<'p>, Failure> {
        let choice = self.choose(policy, self.asked(policy, request, None));
        let mut choice = choice.map_err(|reason| no_profile(policy, reason))?;
        let Some(rollout) = self.rollout(policy, &request.intent, &choice) else { return Ok(choice) };
        let subject = self.story.subject.as_deref().unwrap_or_default();
        if rollout.version(subject, share) == Version::Candidate {
            let candidate = self.asked(policy, request, Some(&rollout.to));
            choice = self.choose(policy, candidate).unwrap_or(choice);
        }
        let counted = match &choice.profile.name {
            name if *name == rollout.to => Version::Candidate,
            name if *name == rollout.from => Version::Running,
            _ => return Ok(choice),
        };
        self.owes_to(rollout, counted);
        self.story.version = Some(counted);
        Ok(choice)
    }

    /// Fails as a plan would where nobody who may answer takes attachments: then none need be fetched.
    pub(super) fn takes_attachments(&self, policy: &Policy, request: &MiniRequest) -> Result<(), Failure> {
        let choice = self.choose(policy, self.asked(policy, request, None));
        let choice = choice.map_err(|reason| no_profile(policy, reason))?;
        // Which version a person is given the store says later.
        let other = self
            .rollout(policy, &request.intent, &choice)
            .and_then(|rollout| self.choose(policy, self.asked(policy, request, Some(&rollout.to))).ok());
        match choice.profile.attachments || other.is_some_and(|other| other.profile.attachments) {
            true => Ok(()),
            false => Err(mini::no_attachments(&request.intent)),
        }
    }

    pub(super) fn first_attempt(&mut self, policy: &Policy, plan: Plan) -> Waiting {
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
    pub(super) fn curated(&self, policy: &Policy, intent: &str, input: &Input) -> Option<String> {
        let mine = || policy.catalog.faq.iter().filter(|entry| entry.intent == intent);
        mine().next()?;
        let key = question::curated(intent, &input.text).filter(|_| input.is_plain())?;
        mine().find(|entry| entry.keys.contains(&key)).map(|entry| entry.answer.clone())
    }

    /// Where the answer is kept, when it may be. Everything that may make answers differ is in the key. What was
    /// said to a robot before is at OpenClaw and can be in no key, so a robot's answers are not kept.
    pub(super) fn shelf(
        &self,
        policy: &Policy,
        intent: &str,
        profile: &Profile,
        input: &Input,
    ) -> Option<Shelf> {
        let stands_alone = input.is_plain() && profile.memory == Memory::Client && self.robot.is_none();
        let rules = profile.cache.filter(|_| stands_alone)?;
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
}

/// Whether a named schema is there, and the files can be read by the profile's model.
fn check_wishes(
    policy: &Policy,
    profile: &Profile,
    input: &Input,
    warnings: &mut Vec<Warning>,
) -> Result<(), Failure> {
    let catalog = &policy.catalog;
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
    Ok(())
}

/// Whether the model of an alias takes files: those of servers with OpenAI's API take pictures.
pub(super) fn takes_files(policy: &Policy, alias: &str) -> bool {
    let kind = policy.catalog.model(alias).map(|model| &model.kind);
    !matches!(kind, Some(ModelKind::OpenAi { .. }))
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
