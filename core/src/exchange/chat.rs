//! The stages of a request to the agent up to the upstream's answer, and those of
//! `POST /api/chat` before that.

use core::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{
    Exchange, Phase,
    audit::Passage,
    gates::{Caller, Gate},
    head,
    inspection::{self, Inspection, Progress},
    plan::Plan,
    record::Sight,
    routes::Route,
    runner::Next,
};
use crate::{
    policy::{ContentMode, Policy, UpstreamAuth, auth, tokens},
    seam::{BodyFailure, Credential, Delivery, Fetch, FetchFailure, Input, Moment, OPENCLAW, Output},
    state::turn::Then,
    wire::{
        answer::{Answer, Envelope, Warning},
        chat::{self, Api, ChatRequest},
        completions,
        failure::{Code, Failure},
        links,
        picture::Picture,
        responses, upstream,
    },
};

/// The most bytes in one line of an upstream's stream: the last event of a Responses
/// stream holds the whole answer.
pub(super) const LONGEST_LINE: u64 = 8 * 1024 * 1024;

/// The tokens of an answer that nothing limits: what models usually write at most.
pub(super) const USUAL_ANSWER: u32 = 2_048;

/// In whose words the client is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Voice {
    /// `/api/chat`.
    Chat {
        envelope: Envelope,
        /// Whether the stream is to end with a usage chunk.
        include_usage: bool,
    },
    /// `/v1/mini/ask`.
    Mini(Box<Plan>),
}

/// A request to the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) voice: Voice,
    pub(super) api: Api,
    pub(super) fetch_id: u32,
    /// The headers that say how much of the rate is left.
    pub(super) rate_headers: Vec<(String, String)>,
}

impl Turn {
    /// Adds to what the client is told.
    pub(super) fn warn(&mut self, warning: Warning) {
        let warnings = match &mut self.voice {
            Voice::Chat { envelope, .. } => &mut envelope.warnings,
            Voice::Mini(plan) => &mut plan.reply.warnings,
        };
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

/// What a turn counts as where it is let through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Weight {
    /// The server that it goes to: a part of the cell's key.
    pub(super) upstream: String,
    /// The model that it counts for.
    pub(super) model: String,
    /// Turns of that model at once.
    pub(super) model_slots: u16,
    /// What it costs in tokens of the rate.
    pub(super) cost: u32,
}

/// A turn that waits to be let through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    pub(super) turn: Turn,
    pub(super) stream: bool,
    pub(super) fetch: Fetch,
    pub(super) weight: Weight,
    /// Whether OpenClaw keeps the conversation, and so runs one turn of it at a time.
    pub(super) session: bool,
    /// Where the body takes another system message.
    pub(super) system_at: usize,
    /// The operations that were asked for, in order.
    pub(super) gates: Vec<Gate>,
    pub(super) store_id: u32,
    /// The caller is one person, by a token or by its own word.
    pub(super) named: bool,
    /// The caller's standing allows explanations only.
    pub(super) explain_only: bool,
    /// What the person wrote, until it has been checked.
    pub(super) text: Option<String>,
    /// The pictures, until WeChat has looked at them.
    pub(super) pictures: Vec<Picture>,
    /// Estimated tokens: of what is sent, and of the longest answer.
    pub(super) tokens: Tokens,
    /// Where its answer may be kept.
    pub(super) cache: Option<Shelf>,
    /// The answer that the operator wrote.
    pub(super) curated: Option<String>,
}

impl Waiting {
    /// Whether the client has a draft of the answer already.
    pub(super) fn has_draft(&self) -> bool {
        matches!(&self.turn.voice, Voice::Mini(plan) if plan.drafted)
    }

    /// Whether it waits for the store to make its turn.
    pub(super) fn makes_turn(&self) -> bool {
        self.gates.contains(&Gate::Create)
    }
}

/// What a turn may cost, by estimates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tokens {
    /// What is sent, as the upstream will count it.
    pub(super) input: u32,
    /// The longest answer.
    pub(super) output: u32,
}

/// Where an answer is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Shelf {
    /// The question's cell.
    pub(super) key: String,
    /// How long, in milliseconds.
    pub(super) ttl_ms: u64,
}

/// A number by which the same request is known again: the newest message stands at the end.
fn fingerprint(body: &[u8]) -> u32 {
    let tail = &body[body.len().saturating_sub(1024)..];
    // FNV-1a, 32 bits.
    let hash =
        tail.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}

/// Whether the model's own tools may do something.
fn may_act(policy: &Policy, waiting: &Waiting) -> bool {
    policy.catalog.side_effects(&waiting.weight.model)
}

/// A deadline of the upstream has passed.
pub(super) fn timed_out() -> Failure {
    Failure::new(Code::UpstreamTimeout, "the agent did not answer in time")
}

/// Whether somebody has seen a request that failed so.
pub(super) fn sight_of(failure: FetchFailure) -> Sight {
    match failure {
        FetchFailure::Connect | FetchFailure::ConnectTimeout => Sight::Unseen,
        FetchFailure::Unclear => Sight::Unclear,
        FetchFailure::Reset | FetchFailure::TooLarge => Sight::Seen,
    }
}

/// A fetch failed before anything of it was used.
pub(super) fn fetch_failed(failure: FetchFailure) -> Failure {
    match failure {
        FetchFailure::Connect | FetchFailure::Unclear => {
            Failure::new(Code::UpstreamUnreachable, "the agent cannot be reached")
        }
        FetchFailure::ConnectTimeout => {
            Failure::new(Code::UpstreamTimeout, "the agent cannot be reached in time")
        }
        FetchFailure::Reset | FetchFailure::TooLarge => upstream::protocol(),
    }
}

impl Exchange {
    /// The body has come, or will not.
    pub(super) fn in_body(&mut self, policy: &Policy, input: Input<'_>, now: Moment) {
        let body = match input {
            Input::Body(body) => body,
            Input::BodyFailed(BodyFailure::TooLarge) => {
                return self.fail(policy, &head::body_too_large(policy, self.facts.route), now);
            }
            Input::BodyFailed(BodyFailure::Incomplete) => {
                return self.fail(policy, &Failure::new(Code::BodyIncomplete, "the body ended early"), now);
            }
            _ => {
                self.phase = Phase::Body;
                return;
            }
        };
        self.timers.body = None;
        self.facts.body_bytes = body.len() as u64;
        self.facts.fingerprint = fingerprint(body);
        match self.facts.route {
            Route::Login => return self.login(policy, body, now),
            Route::Renew => return self.renew(policy, now),
            Route::Token => return self.issue_for_backend(policy, body, now),
            Route::Revoke => return self.revoke(policy, body, now),
            Route::Send => return self.send_as_robot(policy, body, now),
            Route::Steer => return self.steer_rollout(policy, body, now),
            Route::LogIn => return self.log_in(policy, body, now),
            Route::Rate => return self.rate_answer(policy, body, now),
            Route::Configure => return self.put_configuration(policy, body, now),
            Route::RollBack => return self.roll_configuration_back(policy, body, now),
            Route::Ask => return self.ask_mini(policy, body, now),
            Route::Robot => return self.hear(policy, body, now),
            Route::Decide | Route::OperatorDecides => return self.decide(policy, body, now),
            Route::Completions => return self.complete(policy, body, now),
            _ => {}
        }
        let known = matches!(self.facts.caller, Caller::Session { .. });
        match chat::parse(policy, body, known) {
            Ok(request) => self.admit_turn(policy, request, body, now),
            Err(failure) => self.fail(policy, &failure, now),
        }
    }

    /// Writes the request to OpenClaw and asks the gates.
    fn admit_turn(&mut self, policy: &Policy, request: ChatRequest, body: &[u8], now: Moment) {
        if let Err(failure) = self.take_wishes(request.request_id.as_deref(), request.respond_async) {
            return self.fail(policy, &failure, now);
        }
        self.take_name(policy, request.user.as_deref(), || Sha256::digest(body).into());
        let subject = self.subject(policy, request.user.as_deref());
        self.story.subject = Some(subject);
        self.story.model = Some(request.model.clone());
        self.story.stream = request.stream;
        self.story.attachments = request.attachments;
        self.story.warnings.clone_from(&request.warnings);
        self.story.asked = Some(Passage::of(policy, &request.text));
        self.timers.turn = Some(self.facts.started_ms + policy.deadlines.turn);
        self.durably(policy, None);
        let waiting = self.prepare(policy, request, now);
        self.ask_gates(policy, waiting, now);
    }

    /// Proves to OpenClaw who asks. What a client says has no part in it but its address, which
    /// OpenClaw wants of every proxy. It refuses one that names a loopback address, and one that
    /// names none: so no client of this machine is answered, and none is invented for it.
    pub(super) fn identify(
        &self,
        policy: &Policy,
        headers: &mut Vec<(String, String)>,
    ) -> Option<Credential> {
        let UpstreamAuth::TrustedProxy(own) = &policy.upstream_auth else {
            return Some(Credential::Bearer("OPENCLAW_GATEWAY_TOKEN".into()));
        };
        headers.extend(own.iter().cloned());
        let address = self.facts.client.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
        if let Some(ip) = address.filter(|ip| !ip.is_loopback() && !ip.is_unspecified()) {
            headers.push(("x-forwarded-for".into(), ip.to_string()));
        }
        None
    }

    /// Everything of the upstream request.
    fn prepare(&mut self, policy: &Policy, request: ChatRequest, now: Moment) -> Waiting {
        let fetch_id = self.take_id();
        let mut headers = vec![("content-type".into(), "application/json".into())];
        let session = self.session_key(policy, request.user.as_deref());
        let has_session = session.is_some();
        // The two names of the default agent are one model.
        let model = match request.model.as_str() {
            "openclaw/default" => "openclaw",
            name => name,
        };
        let weight = Weight {
            upstream: OPENCLAW.into(),
            model: model.to_owned(),
            model_slots: policy.model_slots(model),
            cost: policy.cost(&request.model),
        };
        if let Some(key) = session {
            headers.push(("x-openclaw-session-key".into(), key));
        }
        let credential = self.identify(policy, &mut headers);
        let delivery = if request.stream {
            Delivery::Lines { limit: LONGEST_LINE }
        } else {
            Delivery::Whole { limit: policy.limits.answer }
        };
        Waiting {
            turn: Turn {
                voice: Voice::Chat {
                    envelope: Envelope {
                        id: self.facts.request_id.clone(),
                        created: now.unix_ms / 1000,
                        model: request.model,
                        trace_id: self.facts.trace_id.clone(),
                        warnings: request.warnings,
                    },
                    include_usage: request.include_usage,
                },
                api: request.api,
                fetch_id,
                rate_headers: Vec::new(),
            },
            stream: request.stream,
            fetch: Fetch {
                id: fetch_id,
                upstream: OPENCLAW.into(),
                method: "POST".into(),
                path: request.api.path().into(),
                headers,
                credential,
                body: request.body,
                delivery,
                keeps_body: false,
            },
            weight,
            session: has_session,
            system_at: request.system_at,
            gates: Vec::new(),
            store_id: 0,
            named: matches!(self.facts.caller, Caller::Session { .. }) || request.user.is_some(),
            explain_only: false,
            tokens: Tokens {
                input: tokens::of_message(&request.text),
                output: policy.chat.max_tokens.unwrap_or(USUAL_ANSWER),
            },
            cache: None,
            curated: None,
            text: (policy.content.mode != ContentMode::Off).then_some(request.text),
            pictures: request.pictures,
        }
    }

    /// The conversation at OpenClaw, when it keeps it. A token says whose it is; what the body
    /// calls itself counts only for those that have none.
    fn session_key(&self, policy: &Policy, user: Option<&str>) -> Option<String> {
        let person = match &self.facts.caller {
            Caller::Session { subject, .. } => Some(("mini", subject.as_str())),
            _ => user.map(|user| ("chat", user)),
        };
        let (channel, name) = person.filter(|_| chat::keeps_memory(policy))?;
        Some(auth::session_key(policy, channel, name))
    }

    /// Sends the request to OpenClaw. Where the agent may act, it is saved before that it was asked.
    pub(super) fn ask(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        if self.run.is_some() && may_act(policy, &waiting) {
            return self.save(Next::Ask(Box::new(waiting)), Then::GoOn, now);
        }
        self.ask_now(policy, waiting, now);
    }

    pub(super) fn ask_now(&mut self, policy: &Policy, mut waiting: Waiting, now: Moment) {
        self.story.asked_ms.get_or_insert(now.unix_ms);
        self.story.attempts += 1;
        // What the one before came to is no word about this one.
        self.story.code = None;
        self.story.seen |= self.story.sight == Sight::Seen;
        self.story.sight = Sight::Unseen;
        self.restrict(&mut waiting, now);
        let Waiting { turn, stream, fetch, .. } = waiting;
        self.outputs.push_back(Output::Fetch(fetch));
        let mut turn = Box::new(turn);
        if let Voice::Mini(plan) = &turn.voice {
            self.timers.attempt = plan.attempt_ms.map(|ms| now.unix_ms + ms);
            if plan.stream && !stream {
                // Its answer comes whole; until then the client is told that there will be one.
                self.open_stream(policy, &mut turn, now);
            }
        }
        self.phase = if stream {
            self.timers.first_byte = Some(now.unix_ms + policy.deadlines.first_byte);
            Phase::StreamHead(turn)
        } else {
            Phase::Answer(turn)
        };
    }

    /// A whole answer has come, or will not.
    pub(super) fn in_answer(&mut self, policy: &Policy, turn: Box<Turn>, input: Input<'_>, now: Moment) {
        match input {
            Input::FetchWhole { id, status, headers, body } if id == turn.fetch_id => {
                self.story.upstream_status = Some(status);
                self.story.first_ms = Some(now.unix_ms);
                if status != 200 {
                    let retry_after = crate::seam::find_header(&headers, "retry-after");
                    let failure = upstream::failed(status, body, retry_after);
                    return self.turn_failed(policy, *turn, &failure, now);
                }
                self.story.sight = Sight::Seen;
                let offers = matches!(&turn.voice, Voice::Mini(plan) if plan.offers);
                let answer = match (turn.api, offers) {
                    (Api::Completions, false) => completions::whole(body),
                    (Api::Responses, false) => responses::whole(body),
                    (Api::Completions, true) => completions::with_calls(body),
                    (Api::Responses, true) => responses::with_calls(body),
                };
                match answer {
                    Ok(answer) => {
                        self.story.spent(answer.usage);
                        self.timers.attempt = None;
                        match turn.voice {
                            Voice::Mini(_) if !answer.calls.is_empty() => {
                                self.take_calls(policy, *turn, answer, now);
                            }
                            Voice::Chat { .. } => self.check_answer(policy, turn, answer, now),
                            Voice::Mini(_) => self.accept_answer(policy, turn, answer, now),
                        }
                    }
                    Err(failure) => self.turn_failed(policy, *turn, &failure, now),
                }
            }
            Input::FetchFailed { id, failure } if id == turn.fetch_id => {
                self.story.sight = sight_of(failure);
                self.turn_failed(policy, *turn, &fetch_failed(failure), now);
            }
            _ => self.phase = Phase::Answer(turn),
        }
    }

    /// The answer goes to the client, after a check where one is wanted.
    pub(super) fn check_answer(&mut self, policy: &Policy, turn: Box<Turn>, answer: Answer, now: Moment) {
        match self.inspect(policy, &answer.text, now) {
            Ok(None) => self.give_answer(policy, turn, &answer, now),
            Ok(Some(inspection)) => {
                // OpenClaw is done; its slot need not wait for WeChat.
                self.release_lease(policy);
                self.phase = Phase::CheckAnswer(inspection, turn, answer);
            }
            Err(()) => self.fail(policy, &inspection::unchecked(), now),
        }
    }

    fn give_answer(&mut self, policy: &Policy, turn: Box<Turn>, answer: &Answer, now: Moment) {
        match &turn.voice {
            Voice::Chat { envelope, .. } => {
                self.story.answered = Some(Passage::of(policy, &answer.text));
                let body = envelope.whole(answer, &links::find(&answer.text));
                self.respond(policy, 200, turn.rate_headers, body, now);
            }
            Voice::Mini(_) => self.give_mini(policy, turn, answer, now),
        }
    }

    pub(super) fn in_answer_check(
        &mut self,
        policy: &Policy,
        mut inspection: Box<Inspection>,
        turn: Box<Turn>,
        answer: Answer,
        input: &Input<'_>,
        now: Moment,
    ) {
        let progress = self.inspect_on(policy, &mut inspection, input, now);
        self.answer_checked(policy, progress, inspection, turn, answer, now);
    }

    pub(super) fn answer_checked(
        &mut self,
        policy: &Policy,
        progress: Progress,
        inspection: Box<Inspection>,
        turn: Box<Turn>,
        answer: Answer,
        now: Moment,
    ) {
        match progress {
            Progress::Passed => self.give_answer(policy, turn, &answer, now),
            Progress::Refused => self.fail(policy, &inspection::refused(), now),
            Progress::Unchecked => self.fail(policy, &inspection::unchecked(), now),
            Progress::Waiting | Progress::NotMine => {
                self.phase = Phase::CheckAnswer(inspection, turn, answer)
            }
        }
    }
}
