//! What an exchange can wait for, and who takes in what comes meanwhile.
//!
//! Both lists are exhaustive: who takes a phase's input, and what is given up with it. What becomes of
//! it when its time is over is in `deadlines.rs`. Nothing is decided here.

use serde::{Deserialize, Serialize};

use super::{
    Exchange, approvals,
    ask::Asking,
    chat::{Turn, Waiting},
    configuration, downloads, feedback,
    inspection::Inspection,
    login, metrics, model,
    notices::Notifying,
    operations, risk, rollouts,
    runner::{self, Saved},
    saying,
    sending::Sending,
    stream::{Refusal, Streaming},
    tools::Calling,
    trace, turns,
    warming::Warming,
    watching::Watching,
    wechat,
};
use crate::{
    policy::Policy,
    seam::{Input, Moment, Output},
    wire::{answer::Answer, failure::Failure},
};

/// Where an exchange stands. Each variant names what it waits for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Phase {
    /// The request's body.
    Body,
    /// The address's standing, before a wrong credential is refused.
    Unauthorized(u32, Failure),
    /// The address's standing, before anything is done for a right key; and what is wrong with
    /// the rest of the head.
    Door(u32, Option<Failure>),
    /// What is known of an intent's rollout and of its profile's tokens.
    Consult(Box<Asking>),
    /// The gates.
    Gates(Box<Waiting>),
    /// Somebody else's answer to the same question.
    Shared(Box<Waiting>),
    /// A place in the upstream's queue.
    Queue(Box<Waiting>),
    /// The check of what the person wrote and sent.
    CheckText(Box<Inspection>, Box<Waiting>),
    /// The check of what the agent wrote.
    CheckAnswer(Box<Inspection>, Box<Turn>, Answer),
    /// A whole answer.
    Answer(Box<Turn>),
    /// The head of a stream.
    StreamHead(Box<Turn>),
    /// The rest of a stream's refusal.
    StreamRefusal(Box<Turn>, Refusal),
    /// More of a stream.
    Streaming(Box<Turn>, Box<Streaming>),
    /// The gates of a login.
    LoginGates(Box<login::Asked>),
    /// The time to try again.
    Backoff(Box<Waiting>),
    /// WeChat's answer to a login.
    LoginAnswer(login::Code2Session),
    /// WeChat's opinion of who logs in.
    LoginRisk(Box<risk::Asked>),
    /// A piece of a picture that WeChat fetches.
    SendPicture(Box<wechat::Sending>),
    /// A message that WeChat pushes.
    Push(Box<wechat::Pushed>),
    /// The mark of a turn whose draft is shown as soon as it is there.
    Draft(Box<turns::Draft>),
    /// The request's body in the store, for whoever runs the turn.
    KeepBody(u32, Box<Waiting>),
    /// News of a turn that another exchange runs.
    Watching(Box<Watching>),
    /// Whether this is to run a turn.
    Claiming(u32, String),
    /// The request's body out of the store.
    Restoring(u32, Box<Saved>),
    /// The store's word that a point is kept from which another runner could go on.
    Saved(Box<Saved>),
    /// The store's word that the turn's end is kept.
    Ending,
    /// The answer of a tool's server.
    Calling(Box<Calling>),
    /// The time to send a call again.
    CallAgain(Box<Calling>),
    /// Whoever is told of a turn, or what is needed to tell them.
    Notifying(Box<Notifying>),
    /// The store's word that a message to a robot is kept.
    Hearing(u32),
    /// A picture or file that came with a message to a robot.
    Downloading(Box<downloads::Download>),
    /// Whoever takes what is said in a robot's conversation, or what is needed to say it.
    Saying(Box<saying::Saying>),
    /// What a person is asked, or what became of the person's word.
    Approvals(Box<approvals::Asked>),
    /// How rollouts stand, after an order or without one.
    Rollouts(Box<rollouts::Asked>),
    /// Lines of the audit ledger.
    Ledger(u32),
    /// The turn that a request left.
    Trace(Box<trace::Found>),
    /// Whether a person may rate an answer, and what was said before.
    Rating(Box<feedback::Rated>),
    /// What people said.
    Feedback(u32),
    /// The store's word that an operator's session is over.
    LoggingOut(u32),
    /// What is remembered of configurations, or a step of a change.
    Configuration(Box<configuration::Changing>),
    /// The policy that the turn was begun with.
    Under(Box<runner::Moving>),
    /// What is shown at `/metrics`.
    Metrics(Box<metrics::Asked>),
    /// What a model's own server is asked.
    Model(Box<model::Asked>),
    /// DingTalk, which is to carry an operator's words.
    Sending(Box<Sending>),
    /// Servers of a model that is to be warm.
    Warming(Box<Warming>),
    /// The two probes of `/readyz`.
    Probes(operations::Probes),
    /// Nothing.
    Done,
}

impl Exchange {
    /// One input in the phase that waits for it.
    pub(super) fn advance(&mut self, policy: &Policy, input: Input<'_>, now: Moment) {
        match std::mem::replace(&mut self.phase, Phase::Done) {
            Phase::Body => self.in_body(policy, input, now),
            Phase::Unauthorized(id, failure) => self.in_unauthorized(policy, id, failure, &input, now),
            Phase::Door(id, flaw) => self.in_door(policy, id, flaw, &input, now),
            Phase::Consult(asking) => self.in_consult(policy, asking, &input, now),
            Phase::Gates(waiting) => self.in_gates(policy, waiting, input, now),
            Phase::Shared(waiting) => self.in_shared(policy, waiting, &input, now),
            Phase::Queue(waiting) => self.in_queue(policy, waiting, &input, now),
            Phase::CheckText(inspection, waiting) => {
                self.in_text_check(policy, inspection, waiting, &input, now);
            }
            Phase::CheckAnswer(inspection, turn, answer) => {
                self.in_answer_check(policy, inspection, turn, answer, &input, now);
            }
            Phase::Answer(turn) => self.in_answer(policy, turn, input, now),
            Phase::StreamHead(turn) => self.in_stream_head(policy, turn, input, now),
            Phase::StreamRefusal(turn, refusal) => self.in_stream_refusal(policy, turn, refusal, input, now),
            Phase::Streaming(turn, streaming) => self.in_stream(policy, turn, streaming, input, now),
            phase @ Phase::Backoff(_) => self.phase = phase,
            Phase::LoginGates(asked) => self.in_login_gates(policy, asked, input, now),
            Phase::LoginAnswer(asked) => self.in_login_answer(policy, asked, &input, now),
            Phase::LoginRisk(asked) => self.in_login_risk(policy, asked, &input, now),
            Phase::SendPicture(sending) => self.in_sending(policy, sending, input, now),
            Phase::Push(pushed) => self.in_push(policy, *pushed, input, now),
            Phase::Draft(draft) => self.in_draft(policy, draft, &input, now),
            Phase::KeepBody(id, waiting) => self.in_keep_body(policy, id, waiting, &input, now),
            Phase::Watching(watching) => self.in_watching(policy, watching, &input, now),
            Phase::Claiming(id, key) => self.in_claim(policy, id, key, &input, now),
            Phase::Restoring(id, saved) => self.in_restoring(policy, id, saved, &input, now),
            Phase::Calling(calling) => self.in_calling(policy, calling, &input, now),
            Phase::Notifying(notifying) => self.in_notifying(policy, notifying, &input, now),
            Phase::Hearing(id) => self.in_hearing(policy, id, &input, now),
            Phase::Downloading(download) => self.in_download(policy, download, &input, now),
            Phase::Saying(saying) => self.in_saying(policy, saying, &input, now),
            phase @ (Phase::Saved(_) | Phase::Ending | Phase::CallAgain(_)) => self.phase = phase,
            Phase::Ledger(id) => self.in_ledger(policy, id, &input, now),
            Phase::Trace(found) => self.in_trace(policy, found, &input, now),
            Phase::LoggingOut(id) => self.in_log_out(policy, id, &input, now),
            Phase::Rating(rated) => self.in_rating(policy, rated, &input, now),
            Phase::Feedback(id) => self.in_feedback(policy, id, &input, now),
            Phase::Configuration(changing) => self.in_configuration(policy, *changing, &input, now),
            Phase::Under(moving) => self.in_under(policy, moving, &input, now),
            Phase::Rollouts(asked) => self.in_rollouts(policy, asked, &input, now),
            Phase::Approvals(asked) => self.in_approvals(policy, asked, &input, now),
            Phase::Metrics(asked) => self.in_metrics(policy, asked, input, now),
            Phase::Model(asked) => self.in_model(policy, asked, input, now),
            Phase::Sending(sending) => self.in_robots_sending(policy, sending, &input, now),
            Phase::Warming(warming) => self.in_warming(policy, warming, &input, now),
            Phase::Probes(probes) => self.in_probes(policy, probes, input, now),
            Phase::Done => {}
        }
    }

    /// Gives up what the phase waits for.
    pub(super) fn cancel(&mut self) {
        let id = match &self.phase {
            Phase::Answer(turn) | Phase::StreamHead(turn) | Phase::StreamRefusal(turn, _) => {
                Some(turn.fetch_id)
            }
            Phase::Streaming(turn, streaming) => {
                self.outputs.extend(streaming.inspection_id().map(|id| Output::Cancel { id }));
                streaming.is_open().then_some(turn.fetch_id)
            }
            Phase::CheckText(inspection, _) | Phase::CheckAnswer(inspection, ..) => Some(inspection.id()),
            Phase::Model(asked) => asked.waits_for(),
            Phase::Probes(probes) => probes.waiting_fetch(),
            Phase::Gates(waiting) | Phase::Queue(waiting) | Phase::Shared(waiting) => Some(waiting.store_id),
            Phase::Consult(asking) => Some(asking.store_id),
            Phase::Unauthorized(id, _) | Phase::Door(id, _) => Some(*id),
            Phase::LoginAnswer(asked) => Some(asked.fetch_id),
            Phase::LoginRisk(asked) => Some(asked.id),
            Phase::Draft(draft) => Some(draft.store_id),
            Phase::KeepBody(id, _) | Phase::Claiming(id, _) | Phase::Restoring(id, _) => Some(*id),
            Phase::Watching(watching) => Some(watching.store_id),
            Phase::Calling(calling) => Some(calling.fetch_id),
            Phase::Ledger(id) | Phase::LoggingOut(id) | Phase::Feedback(id) => Some(*id),
            Phase::Rating(rated) => Some(rated.id),
            Phase::Trace(found) => Some(found.store_id),
            Phase::Configuration(changing) => Some(changing.id),
            Phase::Notifying(notifying) => Some(notifying.id),
            Phase::Hearing(id) => Some(*id),
            Phase::Saying(saying) => Some(saying.id),
            Phase::Downloading(download) => Some(download.id),
            Phase::LoginGates(asked) => Some(asked.store_id),
            Phase::SendPicture(sending) => Some(sending.store_id),
            Phase::Push(pushed) => pushed.store_id(),
            Phase::Rollouts(asked) => Some(asked.store_id),
            Phase::Sending(sending) => Some(sending.fetch_id),
            Phase::Approvals(asked) => Some(asked.store_id),
            Phase::Body
            | Phase::Backoff(_)
            | Phase::CallAgain(_)
            | Phase::Saved(_)
            | Phase::Under(_)
            | Phase::Ending
            | Phase::Warming(_)
            | Phase::Done => None,
            Phase::Metrics(asked) => Some(asked.id()),
        };
        if let Some(id) = id {
            self.outputs.push_back(Output::Cancel { id });
        }
    }
}
