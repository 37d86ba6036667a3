//! The stages of `POST /v1/chat/completions`: from a request in OpenAI's form to a model's own
//! server, and from one server to the next.
//!
//! The caller is a server (OpenClaw), and the answer passes as it comes. Until its first event has
//! gone to the caller, another replica or another model may still answer in place of one that
//! failed: once. A caller always gets an answer or an error in OpenAI's form before the deadline.
//! Nothing that was asked or answered may get into the log or into this state.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    chat::LONGEST_LINE,
    gates::STORE_PATIENCE,
    queue::{LEASE, LEASE_RENEWAL, Lease, QUEUE_REFRESH, upstream_key},
};
use crate::{
    policy::{
        Policy, StoreFailure, auth,
        catalog::{Model, ModelKind, server_name},
    },
    seam::{
        Credential, DeadlineReason, Delivery, Fetch, FetchFailure, Input, MODEL, Moment, Output, find_header,
    },
    state::{
        Op, Outcome,
        admission::{Admit, Refusal},
        usage::Calibration,
    },
    wire::{
        failure::{Code, Failure},
        openai::{self, Event, Request, Rules, Shaped},
        sse::Events,
    },
};

/// Milliseconds that a server has to close after its end mark, so that its connection can be used
/// again.
const CLOSE_GRACE: u64 = 250;
/// Less than this before the deadline, in milliseconds, and nobody else is asked.
const TOO_LATE: u64 = 500;
/// The most bytes of a refusal that are read.
const LONGEST_REFUSAL: usize = 64 * 1024;

/// A request on its way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    /// What was asked, until it is shaped.
    request: Option<Request>,
    /// Whose turn it is: the model that was named, then the one that stands in for it.
    models: Vec<Candidate>,
    stream: bool,
    include_usage: bool,
    /// Stands for the caller among those that wait.
    flow: u64,
    /// The server that answers now, and the one that is not asked again.
    replica: u8,
    avoid: Option<u8>,
    /// Somebody was asked a second time.
    retried: bool,
    stage: Stage,
}

/// A model that may answer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Candidate {
    alias: String,
    /// What it gets, once that is known.
    shaped: Option<Shaped>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Stage {
    /// The store: what is known of tokens, and a slot.
    Slot(u32),
    /// A place in the queue.
    Queue(u32),
    /// A whole answer, or the head of a stream.
    Answer(u32),
    /// The rest of a stream's refusal.
    Refusal { id: u32, status: u16, retry_after: Option<String>, body: ByteBuf },
    /// More of a stream.
    Streaming(u32, Passing),
    /// The end of the connection, after the end mark.
    Ended(u32),
}

/// What is known of a stream.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Passing {
    events: Events,
    /// A choice has come to its end.
    finished: bool,
}

impl Asked {
    /// What would be given up with it.
    pub(super) fn waits_for(&self) -> Option<u32> {
        match &self.stage {
            Stage::Slot(id)
            | Stage::Queue(id)
            | Stage::Answer(id)
            | Stage::Refusal { id, .. }
            | Stage::Streaming(id, _)
            | Stage::Ended(id) => Some(*id),
        }
    }

    fn model<'p>(&self, policy: &'p Policy) -> Option<&'p Model> {
        policy.catalog.model(&self.models.first()?.alias)
    }
}

/// The cell of what a model counts.
fn usage_key(alias: &str) -> String {
    format!("usage:{MODEL}{alias}")
}

impl Exchange {
    pub(super) fn list_models(&mut self, policy: &Policy, now: Moment) {
        self.respond_json(policy, 200, openai::models(&policy.catalog), now);
    }

    /// The model that is asked about, by its alias or its server's name.
    pub(super) fn show_model(&mut self, policy: &Policy, now: Moment) {
        let name = self.facts.model.take();
        match name.as_deref().and_then(|name| policy.catalog.runtime(name)) {
            Some(model) => self.respond_json(policy, 200, openai::model(&model.alias).to_string(), now),
            None => self.fail(policy, &openai::unknown_model(&policy.catalog, Some("")), now),
        }
    }

    /// The body has come.
    pub(super) fn complete(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        let request = match openai::parse(body) {
            Ok(request) => request,
            Err(failure) => return self.fail(policy, &failure, now),
        };
        let name = request.model.as_deref().or(policy.catalog.default_model.as_deref());
        let Some(model) = name.and_then(|name| policy.catalog.runtime(name)) else {
            return self.fail(policy, &openai::unknown_model(&policy.catalog, name), now);
        };
        let token = match &self.facts.caller {
            super::gates::Caller::Key(id) => id.as_str(),
            _ => "",
        };
        // Each token has a share, and each person that it names has one of their own.
        let subject = match &request.user {
            Some(user) => auth::subject(policy, "model user", &format!("{token} {user}")),
            None => token.to_owned(),
        };
        let flow = auth::number(&subject);
        self.story.subject = Some(subject);
        self.story.model = Some(model.alias.clone());
        self.story.stream = request.stream;
        let stand_in = model.runtime.fallback.as_deref().and_then(|name| policy.catalog.runtime(name));
        let models: Vec<&Model> = [Some(model), stand_in].into_iter().flatten().collect();
        // A second try has its own time, at another replica or by the model that stands in.
        let time = |model: &Model| time_of(policy, model);
        let replica = (model.replicas() > 1).then(|| time(model));
        let second = replica.max(stand_in.map(time)).unwrap_or_default();
        self.timers.turn = Some(self.facts.started_ms + time(model) + second);
        let candidate = |model: &&Model| Candidate { alias: model.alias.clone(), shaped: None };
        let asked = Asked {
            stream: request.stream,
            include_usage: request.include_usage,
            models: models.iter().map(candidate).collect(),
            request: Some(request),
            flow,
            replica: 0,
            avoid: None,
            retried: false,
            stage: Stage::Slot(0),
        };
        let mut ops = Vec::with_capacity(3);
        for model in models.iter().filter(|model| model.runtime.context_tokens.is_some()) {
            ops.push((usage_key(&model.alias), Op::Calibrate));
        }
        self.ask_model_slot(policy, Box::new(asked), ops, now);
    }

    /// Asks for a slot of the first model, after other operations.
    fn ask_model_slot(
        &mut self,
        policy: &Policy,
        mut asked: Box<Asked>,
        mut ops: Vec<(String, Op)>,
        now: Moment,
    ) {
        let Some(model) = asked.model(policy) else { return };
        let upstream = format!("{MODEL}{}", model.alias);
        let admit = Admit {
            ticket: self.facts.ticket,
            flow: asked.flow,
            weight: 1,
            session: None,
            model: auth::number(&model.alias),
            give_up_ms: self.timers.turn.unwrap_or(u64::MAX),
            lease_ms: LEASE,
            slots: policy.slots_at(&upstream),
            model_slots: policy.runtime_slots(model),
            places: policy.admission.places,
            replicas: model.replicas(),
            avoid: asked.avoid,
        };
        // What fails here is the server, and not one caller's conversation: each request counts by
        // itself, so that the breaker opens where there is but one caller.
        self.lease = Some(Lease {
            key: upstream_key(&upstream),
            ticket: admit.ticket,
            flow: admit.ticket ^ u64::from(self.story.attempts),
            model: admit.model,
        });
        ops.push((upstream_key(&upstream), Op::Admit(admit)));
        let id = self.take_id();
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.outputs.push_back(Output::Store { id, ops });
        asked.stage = Stage::Slot(id);
        self.phase = Phase::Model(asked);
    }

    /// In the queue: time to say that one is still there, or woken.
    pub(super) fn ask_model_slot_again(&mut self, policy: &Policy, asked: Box<Asked>, now: Moment) {
        self.timers.queue = None;
        if let Stage::Queue(id) = asked.stage {
            self.outputs.push_back(Output::Cancel { id });
        }
        self.ask_model_slot(policy, asked, Vec::new(), now);
    }

    /// One input.
    pub(super) fn in_model(&mut self, policy: &Policy, mut asked: Box<Asked>, input: Input<'_>, now: Moment) {
        let stage = std::mem::replace(&mut asked.stage, Stage::Slot(0));
        match (stage, input) {
            (Stage::Slot(wanted), Input::Stored { id, outcomes }) if id == wanted => {
                self.model_admitted(policy, asked, id, &outcomes, now);
            }
            (Stage::Slot(wanted), Input::StoreFailed { id }) if id == wanted => {
                self.model_store_failed(policy, asked, now);
            }
            (Stage::Queue(wanted), Input::Woken { id }) if id == wanted => {
                self.timers.queue = None;
                self.ask_model_slot(policy, asked, Vec::new(), now);
            }
            (Stage::Answer(wanted), Input::FetchWhole { id, status, headers, body }) if id == wanted => {
                self.story.upstream_status = Some(status);
                self.story.first_ms = Some(now.unix_ms);
                if status != 200 {
                    let failure = openai::failed(status, body, find_header(&headers, "retry-after"));
                    return self.model_failed(policy, asked, &failure, now);
                }
                match openai::whole(body) {
                    Ok(usage) => {
                        self.story.usage = usage;
                        let mut headers = vec![("content-type".into(), "application/json".into())];
                        headers.extend(self.trimmed_header());
                        self.respond_with(policy, 200, headers, ByteBuf::from(body.to_vec()), now);
                    }
                    Err(failure) => self.model_failed(policy, asked, &failure, now),
                }
            }
            (Stage::Answer(wanted), Input::FetchHead { id, status, headers }) if id == wanted => {
                self.story.upstream_status = Some(status);
                let is_stream = find_header(&headers, "content-type")
                    .is_some_and(|kind| kind.starts_with("text/event-stream"));
                if status != 200 {
                    let retry_after = find_header(&headers, "retry-after").map(str::to_owned);
                    asked.stage = Stage::Refusal { id, status, retry_after, body: ByteBuf::new() };
                } else if is_stream {
                    asked.stage = Stage::Streaming(id, Passing::default());
                } else {
                    self.outputs.push_back(Output::Cancel { id });
                    return self.model_failed(policy, asked, &openai::protocol(), now);
                }
                self.phase = Phase::Model(asked);
            }
            (
                Stage::Refusal { id: wanted, status, retry_after, mut body },
                Input::FetchLines { id, lines },
            ) if id == wanted => {
                let room = LONGEST_REFUSAL.saturating_sub(body.len());
                body.extend_from_slice(&lines[..lines.len().min(room)]);
                asked.stage = Stage::Refusal { id, status, retry_after, body };
                self.phase = Phase::Model(asked);
            }
            (
                Stage::Refusal { id: wanted, status, retry_after, body },
                Input::FetchEnd { id } | Input::FetchFailed { id, .. },
            ) if id == wanted => {
                let failure = openai::failed(status, &body, retry_after.as_deref());
                self.model_failed(policy, asked, &failure, now);
            }
            (Stage::Streaming(wanted, passing), Input::FetchLines { id, lines }) if id == wanted => {
                self.pass_events(policy, asked, passing, id, lines, now);
            }
            (Stage::Streaming(wanted, passing), Input::FetchEnd { id }) if id == wanted => {
                if !passing.finished {
                    return self.model_failed(policy, asked, &openai::protocol(), now);
                }
                // Some servers forget the end mark.
                self.send(policy, "data: [DONE]\n\n".into(), now);
                self.outputs.push_back(Output::End);
                self.finish(policy, now);
            }
            (Stage::Ended(wanted), Input::FetchEnd { id } | Input::FetchFailed { id, .. })
                if id == wanted =>
            {
                self.outputs.push_back(Output::End);
                self.finish(policy, now);
            }
            (Stage::Answer(wanted) | Stage::Streaming(wanted, _), Input::FetchFailed { id, failure })
                if id == wanted =>
            {
                let failure = match failure {
                    FetchFailure::Connect | FetchFailure::Unclear => {
                        Failure::new(Code::UpstreamUnreachable, "the model's server cannot be reached")
                    }
                    FetchFailure::ConnectTimeout => openai::timed_out(),
                    FetchFailure::Reset | FetchFailure::TooLarge => openai::protocol(),
                };
                self.model_failed(policy, asked, &failure, now);
            }
            (stage, _) => {
                asked.stage = stage;
                self.phase = Phase::Model(asked);
            }
        }
    }

    /// The store has answered.
    fn model_admitted(
        &mut self,
        policy: &Policy,
        mut asked: Box<Asked>,
        id: u32,
        outcomes: &[Outcome],
        now: Moment,
    ) {
        self.timers.store = None;
        let mut learned = outcomes.iter().filter_map(|outcome| match outcome {
            Outcome::Calibrated(calibration) => Some(*calibration),
            _ => None,
        });
        if let Err(failure) = shape(policy, &mut asked, || learned.next()) {
            return self.fail(policy, &failure, now);
        }
        match outcomes.last() {
            Some(Outcome::Admitted) => {
                asked.replica = 0;
                self.ask_model(policy, asked, now);
            }
            Some(Outcome::AdmittedTo { replica }) => {
                asked.replica = *replica;
                self.leased_at(*replica);
                self.ask_model(policy, asked, now);
            }
            Some(Outcome::Queued { .. }) => {
                self.outputs.push_back(Output::Watch { id });
                self.timers.queue = Some(now.unix_ms + QUEUE_REFRESH);
                self.story.queued = true;
                asked.stage = Stage::Queue(id);
                self.phase = Phase::Model(asked);
            }
            Some(Outcome::Refused { reason, retry_after_ms, .. }) => {
                self.lease = None;
                let failure = refused(*reason).after(retry_after_ms.div_ceil(1_000).max(1));
                self.stand_in(policy, asked, &failure, now);
            }
            _ => self.model_store_failed(policy, asked, now),
        }
    }

    /// Nobody knows who else is there: as the settings say, all or nobody may pass.
    pub(super) fn model_store_failed(&mut self, policy: &Policy, mut asked: Box<Asked>, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        if policy.store_failure == StoreFailure::Closed {
            let failure = Failure::new(Code::StoreUnavailable, "the limits cannot be checked now");
            return self.fail(policy, &failure.after(5), now);
        }
        if let Err(failure) = shape(policy, &mut asked, || None) {
            return self.fail(policy, &failure, now);
        }
        let replicas = asked.model(policy).map_or(1, Model::replicas);
        let any = u8::try_from(self.facts.ticket % u64::from(replicas)).unwrap_or_default();
        let is_avoided = asked.avoid == Some(any);
        asked.replica = if is_avoided { (any + 1) % replicas } else { any };
        self.ask_model(policy, asked, now);
    }

    /// Sends the request to the server that it has a slot of.
    fn ask_model(&mut self, policy: &Policy, mut asked: Box<Asked>, now: Moment) {
        let Some(model) = asked.model(policy) else { return };
        let Some(shaped) = asked.models.first().and_then(|candidate| candidate.shaped.clone()) else {
            return;
        };
        let ModelKind::OpenAi { api_key, .. } = &model.kind else { return };
        self.story.asked_ms.get_or_insert(now.unix_ms);
        self.story.attempts += 1;
        self.story.trimmed = shaped.trimmed;
        if model.runtime.context_tokens.is_some() {
            self.dues.learn = Some((usage_key(&model.alias), shaped.tokens));
        }
        self.timers.attempt = Some(now.unix_ms + time_of(policy, model));
        if asked.stream {
            self.timers.first_byte = Some(now.unix_ms + policy.deadlines.first_byte);
        }
        if self.lease.is_some() {
            self.timers.lease = Some(now.unix_ms + LEASE_RENEWAL);
        }
        let id = self.take_id();
        self.outputs.push_back(Output::Fetch(Fetch {
            id,
            upstream: format!("{MODEL}{}", server_name(&model.alias, asked.replica)),
            method: "POST".into(),
            path: "/chat/completions".into(),
            headers: vec![("content-type".into(), "application/json".into())],
            credential: api_key.clone().map(Credential::Bearer),
            body: shaped.body,
            delivery: match asked.stream {
                true => Delivery::Lines { limit: LONGEST_LINE },
                false => Delivery::Whole { limit: policy.limits.answer },
            },
            keeps_body: true,
        }));
        asked.stage = Stage::Answer(id);
        self.phase = Phase::Model(asked);
    }

    /// Gives events to the caller as they came.
    fn pass_events(
        &mut self,
        policy: &Policy,
        mut asked: Box<Asked>,
        mut passing: Passing,
        id: u32,
        lines: &[u8],
        now: Moment,
    ) {
        let mut out = String::with_capacity(lines.len());
        let (mut failure, mut done) = (None, false);
        let Passing { events, finished } = &mut passing;
        let usage = &mut self.story.usage;
        let include_usage = asked.include_usage;
        events.push(lines, |data| {
            if failure.is_some() || done {
                return;
            }
            let passes = match openai::event(data) {
                Event::Chunk { finished: ends, usage: counted, only_usage } => {
                    *finished |= ends;
                    *usage = counted.or(*usage);
                    // It was asked for by us, and its caller may not know such a chunk.
                    include_usage || !only_usage
                }
                Event::Done => {
                    done = true;
                    true
                }
                Event::Failed(reason) => {
                    failure = Some(reason);
                    false
                }
            };
            if passes {
                for line in data.split('\n') {
                    out.push_str("data: ");
                    out.push_str(line);
                    out.push('\n');
                }
                out.push('\n');
            }
        });
        if !out.is_empty() {
            self.timers.first_byte = None;
            self.story.first_ms.get_or_insert(now.unix_ms);
            self.open_model_stream();
            self.send(policy, out, now);
        }
        if let Some(failure) = failure {
            self.outputs.push_back(Output::Cancel { id });
            return self.model_failed(policy, asked, &failure, now);
        }
        if done {
            // Nothing may follow the end mark, not even a comment.
            self.timers.heartbeat = None;
            self.timers.attempt = None;
            self.timers.idle = Some(now.unix_ms + CLOSE_GRACE);
            asked.stage = Stage::Ended(id);
        } else {
            self.timers.idle = Some(now.unix_ms + policy.deadlines.idle);
            asked.stage = Stage::Streaming(id, passing);
        }
        self.phase = Phase::Model(asked);
    }

    fn open_model_stream(&mut self) {
        if self.story.opened {
            return;
        }
        let mut headers = self.common_headers();
        headers.push(("content-type".into(), "text/event-stream; charset=utf-8".into()));
        // A proxy in front (nginx) must not hold events back.
        headers.push(("x-accel-buffering".into(), "no".into()));
        headers.extend(self.trimmed_header());
        self.story.status = 200;
        self.story.opened = true;
        self.outputs.push_back(Output::Head { status: 200, headers });
    }

    /// Says that not all of what was sent was read.
    fn trimmed_header(&self) -> Option<(String, String)> {
        let trimmed = self.story.trimmed;
        (trimmed > 0).then(|| ("x-minigate-trimmed-messages".into(), trimmed.to_string()))
    }

    /// A server has failed: another one is asked, or the caller is told.
    fn model_failed(&mut self, policy: &Policy, mut asked: Box<Asked>, failure: &Failure, now: Moment) {
        self.timers.attempt = None;
        self.timers.first_byte = None;
        self.timers.idle = None;
        let elsewhere = matches!(
            failure.code,
            Code::UpstreamUnreachable
                | Code::UpstreamError
                | Code::UpstreamProtocol
                | Code::UpstreamMisconfigured
                | Code::UpstreamOverloaded
                | Code::UpstreamTimeout
        );
        let left = self.timers.turn.unwrap_or(u64::MAX).saturating_sub(now.unix_ms);
        if self.story.opened || asked.retried || !elsewhere || left < TOO_LATE {
            return self.fail(policy, failure, now);
        }
        asked.retried = true;
        if asked.model(policy).is_some_and(|model| model.replicas() > 1) {
            asked.avoid = Some(asked.replica);
            self.story.fell_back = Some(failure.code);
            let release = self.release(policy, Some(failure.code)).into_iter().collect();
            return self.ask_model_slot(policy, asked, release, now);
        }
        self.stand_in(policy, asked, failure, now);
    }

    /// The model cannot answer: the one that stands in for it is asked, where there is one.
    fn stand_in(&mut self, policy: &Policy, mut asked: Box<Asked>, failure: &Failure, now: Moment) {
        if asked.models.len() < 2 {
            return self.fail(policy, failure, now);
        }
        asked.models.remove(0);
        asked.avoid = None;
        asked.retried = true;
        self.story.fell_back = Some(failure.code);
        let release = self.release(policy, Some(failure.code)).into_iter().collect();
        self.ask_model_slot(policy, asked, release, now);
    }

    /// A deadline has passed. What was waited for is given up already.
    pub(super) fn model_timed_out(
        &mut self,
        policy: &Policy,
        asked: Box<Asked>,
        reason: DeadlineReason,
        now: Moment,
    ) {
        match asked.stage {
            Stage::Ended(_) => {
                self.outputs.push_back(Output::End);
                self.finish(policy, now);
            }
            Stage::Slot(_) | Stage::Queue(_) => {
                let failure = Failure::new(Code::QueueTimeout, "the model was busy all the time");
                self.fail(policy, &failure.after(5), now);
            }
            _ if reason == DeadlineReason::Turn => self.fail(policy, &openai::timed_out(), now),
            _ => self.model_failed(policy, asked, &openai::timed_out(), now),
        }
    }
}

/// Shapes the request for each model that may get it, once: for the first one it must fit, and
/// another that does not hold it is not asked.
fn shape(
    policy: &Policy,
    asked: &mut Asked,
    mut learned: impl FnMut() -> Option<Calibration>,
) -> Result<(), Failure> {
    let Some(request) = asked.request.take() else { return Ok(()) };
    let mut first = true;
    let mut shaped = Vec::with_capacity(asked.models.len());
    for candidate in &asked.models {
        let Some(model) = policy.catalog.model(&candidate.alias) else { continue };
        let ModelKind::OpenAi { model: name, .. } = &model.kind else { continue };
        let context_tokens = model.runtime.context_tokens;
        let calibration = context_tokens.and_then(|_| learned()).unwrap_or_default();
        let rules = Rules {
            name,
            context_tokens,
            max_tokens: model.runtime.max_tokens,
            on_overflow: model.runtime.on_overflow,
            calibration,
        };
        match request.shape(rules) {
            Ok(fits) => shaped.push(Candidate { alias: candidate.alias.clone(), shaped: Some(fits) }),
            Err(failure) if first => return Err(failure),
            Err(_) => {}
        }
        first = false;
    }
    asked.models = shaped;
    Ok(())
}

/// The longest that one answer may take, in milliseconds.
fn time_of(policy: &Policy, model: &Model) -> u64 {
    model.timeout_ms.map_or(policy.deadlines.turn, u64::from)
}

fn refused(reason: Refusal) -> Failure {
    let (code, message) = match reason {
        Refusal::Full => (Code::QueueFull, "the model is busy and the queue is full"),
        Refusal::TooLate => (Code::QueueFull, "the model is busy; an answer would come too late"),
        Refusal::Unhealthy => (Code::UpstreamUnavailable, "the model failed just now and is given a rest"),
    };
    Failure::new(code, message)
}
