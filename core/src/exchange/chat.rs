//! The stages of `POST /api/chat` up to the upstream's answer.

use serde::{Deserialize, Serialize};

use super::{Exchange, Phase, routes};
use crate::{
    policy::{Policy, StoreFailure, auth},
    seam::{BodyFailure, Delivery, Fetch, FetchFailure, Input, Moment, OPENCLAW, Output},
    state::{Op, Outcome},
    wire::{
        answer::Envelope,
        chat::{self, Api, ChatRequest},
        completions,
        failure::{Code, Failure},
        links, responses, upstream,
    },
};

/// The most bytes in one line of an upstream's stream: the last event of a Responses
/// stream holds the whole answer.
const LONGEST_LINE: u64 = 8 * 1024 * 1024;

/// A request to the agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Turn {
    pub(super) envelope: Envelope,
    pub(super) include_usage: bool,
    pub(super) api: Api,
    pub(super) fetch_id: u32,
    /// The headers that say how much of the rate is left.
    pub(super) rate_headers: Vec<(String, String)>,
}

/// A turn that waits to be let through.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Waiting {
    turn: Turn,
    stream: bool,
    fetch: Fetch,
    store_id: u32,
}

/// A deadline of the upstream has passed.
pub(super) fn timed_out() -> Failure {
    Failure::new(Code::UpstreamTimeout, "the agent did not answer in time")
}

/// A fetch failed before anything of it was used.
pub(super) fn fetch_failed(failure: FetchFailure) -> Failure {
    match failure {
        FetchFailure::Connect => Failure::new(Code::UpstreamUnreachable, "the agent cannot be reached"),
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
                return self.fail(policy, &routes::body_too_large(policy), now);
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
        match chat::parse(policy, body) {
            Ok(request) => self.admit(policy, request, now),
            Err(failure) => self.fail(policy, &failure, now),
        }
    }

    /// Asks the caller's token bucket, or goes on where there is no limit.
    fn admit(&mut self, policy: &Policy, request: ChatRequest, now: Moment) {
        let subject = self.subject(policy, request.user.as_deref());
        self.story.subject = Some(subject.clone());
        self.story.model = Some(request.model.clone());
        self.story.stream = request.stream;
        self.story.attachments = request.attachments;
        self.story.warnings.clone_from(&request.warnings);
        self.timers.turn = Some(self.facts.started_ms + policy.deadlines.turn);
        let store_id = self.take_id();
        let waiting = self.prepare(policy, request, store_id, now);
        match policy.rate {
            None => self.ask(policy, waiting, now),
            Some(rate) => {
                let op = Op::TakeToken { capacity: rate.burst, per_minute: rate.per_minute };
                self.outputs.push_back(Output::Store {
                    id: store_id,
                    key: format!("rate:chat:{subject}"),
                    op,
                });
                self.phase = Phase::Token(Box::new(waiting));
            }
        }
    }

    /// Everything of the upstream request.
    fn prepare(&mut self, policy: &Policy, request: ChatRequest, store_id: u32, now: Moment) -> Waiting {
        let fetch_id = self.take_id();
        let mut headers = vec![("content-type".into(), "application/json".into())];
        if chat::uses_session(policy, request.user.as_deref()) {
            let user = request.user.as_deref().unwrap_or_default();
            headers.push(("x-openclaw-session-key".into(), auth::session_key(policy, "chat", user)));
        }
        let delivery = if request.stream {
            Delivery::Lines { limit: LONGEST_LINE }
        } else {
            Delivery::Whole { limit: policy.limits.answer }
        };
        Waiting {
            turn: Turn {
                envelope: Envelope {
                    id: self.facts.request_id.clone(),
                    created: now.unix_ms / 1000,
                    model: request.model,
                    trace_id: self.facts.trace_id.clone(),
                    warnings: request.warnings,
                },
                include_usage: request.include_usage,
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
                credential: Some(OPENCLAW.into()),
                body: request.body,
                delivery,
            },
            store_id,
        }
    }

    /// The bucket has answered.
    pub(super) fn in_token(
        &mut self,
        policy: &Policy,
        mut waiting: Box<Waiting>,
        input: Input<'_>,
        now: Moment,
    ) {
        let id = waiting.store_id;
        match input {
            Input::Stored { id: answered, outcome } if answered == id => {
                let Outcome::Token { granted, remaining, retry_after_ms, full_after_ms } = outcome else {
                    return self.store_failed(policy, *waiting, now);
                };
                let limit = policy.rate.map_or(0, |rate| rate.burst);
                let headers = vec![
                    ("ratelimit-limit".into(), limit.to_string()),
                    ("ratelimit-remaining".into(), remaining.to_string()),
                    ("ratelimit-reset".into(), full_after_ms.div_ceil(1000).to_string()),
                ];
                if granted {
                    waiting.turn.rate_headers = headers;
                    return self.ask(policy, *waiting, now);
                }
                let seconds = retry_after_ms.div_ceil(1000).max(1);
                let failure =
                    Failure::new(Code::RateLimited, format!("too many requests; try again in {seconds} s"));
                self.fail_with(policy, &failure.after(seconds), headers, now);
            }
            Input::StoreFailed { id: answered } if answered == id => self.store_failed(policy, *waiting, now),
            _ => self.phase = Phase::Token(waiting),
        }
    }

    fn store_failed(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        self.story.store_failed = true;
        match policy.store_failure {
            StoreFailure::Open => self.ask(policy, waiting, now),
            StoreFailure::Closed => {
                let failure = Failure::new(Code::StoreUnavailable, "the limits cannot be checked now");
                self.fail(policy, &failure.after(5), now);
            }
        }
    }

    /// Sends the request to OpenClaw.
    fn ask(&mut self, policy: &Policy, waiting: Waiting, now: Moment) {
        let Waiting { turn, stream, fetch, .. } = waiting;
        self.outputs.push_back(Output::Fetch(fetch));
        self.story.asked_ms = Some(now.unix_ms);
        let turn = Box::new(turn);
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
                    return self.fail(policy, &upstream::failed(status, body, retry_after), now);
                }
                let answer = match turn.api {
                    Api::Completions => completions::whole(body),
                    Api::Responses => responses::whole(body),
                };
                match answer {
                    Ok(answer) => {
                        self.story.usage = Some(answer.usage);
                        let body = turn.envelope.whole(&answer, &links::find(&answer.text));
                        self.respond(policy, 200, turn.rate_headers, body, now);
                    }
                    Err(failure) => self.fail(policy, &failure, now),
                }
            }
            Input::FetchFailed { id, failure } if id == turn.fetch_id => {
                self.fail(policy, &fetch_failed(failure), now);
            }
            _ => self.phase = Phase::Answer(turn),
        }
    }
}
