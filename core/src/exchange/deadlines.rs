//! The times at which something must happen, and what then happens.
//!
//! An exchange never waits without one: each phase has its timer in [`Timers`], and the host is told
//! of the earliest. What a late answer means is said by the stage that waited for it; here it is
//! only found out whose time is over.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Exchange, chat, login, phase::Phase};
use crate::{
    policy::Policy,
    seam::{DeadlineReason, Moment, Output},
    wire::failure::{Code, Failure},
};

/// The times at which something must happen, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Timers {
    pub(super) body: Option<u64>,
    pub(super) turn: Option<u64>,
    pub(super) first_byte: Option<u64>,
    pub(super) idle: Option<u64>,
    pub(super) heartbeat: Option<u64>,
    pub(super) store: Option<u64>,
    pub(super) queue: Option<u64>,
    pub(super) lease: Option<u64>,
    pub(super) check: Option<u64>,
    pub(super) attempt: Option<u64>,
    pub(super) frame: Option<u64>,
    pub(super) backoff: Option<u64>,
    pub(super) watch: Option<u64>,
    pub(super) run: Option<u64>,
}

impl Timers {
    /// The next one, and whose it is.
    pub(super) fn next(&self) -> Option<(u64, DeadlineReason)> {
        [
            (self.body, DeadlineReason::Body),
            (self.turn, DeadlineReason::Turn),
            (self.first_byte, DeadlineReason::FirstByte),
            (self.idle, DeadlineReason::Idle),
            (self.heartbeat, DeadlineReason::Heartbeat),
            (self.store, DeadlineReason::Store),
            (self.queue, DeadlineReason::Queue),
            (self.lease, DeadlineReason::Lease),
            (self.check, DeadlineReason::Check),
            (self.attempt, DeadlineReason::Attempt),
            (self.frame, DeadlineReason::Frame),
            (self.backoff, DeadlineReason::Backoff),
            (self.watch, DeadlineReason::Watch),
            (self.run, DeadlineReason::Run),
        ]
        .into_iter()
        .filter_map(|(at, reason)| at.map(|at| (at, reason)))
        .min_by_key(|(at, _)| *at)
    }
}

impl Exchange {
    /// The earliest timer has run out, if it really has: a host may come early.
    pub(super) fn deadline(&mut self, policy: &Policy, now: Moment) {
        let Some((at, reason)) = self.timers.next() else { return };
        if at > now.unix_ms || self.is_done() {
            return;
        }
        match reason {
            DeadlineReason::Heartbeat => {
                self.outputs.push_back(Output::Chunk(ByteBuf::from(*b": keep-alive\n\n")));
                self.timers.heartbeat = Some(now.unix_ms + policy.deadlines.heartbeat);
            }
            DeadlineReason::Body => {
                let message = format!("the body did not arrive within {} s", policy.deadlines.body / 1000);
                self.fail(policy, &Failure::new(Code::BodyTimeout, message), now);
            }
            DeadlineReason::Lease => self.renew_lease(now),
            DeadlineReason::Queue => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Shared(waiting) => {
                    self.outputs.push_back(Output::Cancel { id: waiting.store_id });
                    self.look_again(policy, waiting, now);
                }
                Phase::Queue(waiting) => {
                    self.outputs.push_back(Output::Cancel { id: waiting.store_id });
                    self.ask_again(policy, waiting, now);
                }
                Phase::Model(asked) => self.ask_model_slot_again(policy, asked, now),
                phase => {
                    self.timers.queue = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Check => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::CheckText(mut inspection, waiting) => {
                    let progress = self.inspection_timed_out(policy, &mut inspection, now);
                    self.text_checked(policy, progress, inspection, waiting, now);
                }
                Phase::CheckAnswer(mut inspection, turn, answer) => {
                    let progress = self.inspection_timed_out(policy, &mut inspection, now);
                    self.answer_checked(policy, progress, inspection, turn, answer, now);
                }
                Phase::Streaming(turn, streaming) => {
                    self.stream_check_timed_out(policy, turn, streaming, now)
                }
                Phase::LoginRisk(asked) => self.risk_timed_out(policy, *asked, now),
                phase => {
                    self.timers.check = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Store => {
                self.timers.store = None;
                self.cancel();
                match std::mem::replace(&mut self.phase, Phase::Done) {
                    Phase::Consult(asking) => self.consulted(policy, *asking, &[], now),
                    Phase::Gates(waiting) => self.store_failed(policy, *waiting, now),
                    Phase::Model(asked) => self.model_store_failed(policy, asked, now),
                    Phase::Unauthorized(_, failure) => self.refuse_credential(policy, &failure, now),
                    Phase::Door(_, flaw) => self.door_failed(policy, flaw, now),
                    Phase::LoginGates(asked) => self.login_store_failed(policy, *asked, now),
                    Phase::SendPicture(sending) => self.piece_failed(policy, &sending, now),
                    Phase::Push(_) => self.push_done(policy, true, now),
                    Phase::Draft(draft) => self.drop_draft(policy, *draft, now),
                    Phase::Watching(watching) => self.watch_failed(policy, *watching, now),
                    // The alarm comes again.
                    Phase::Claiming(..) => {}
                    Phase::Ledger(_) => self.ledger_not_read(policy, now),
                    Phase::Trace(found) => self.tell_trace(policy, &found, None, now),
                    Phase::LoggingOut(_) => self.log_out_failed(policy, now),
                    Phase::Rating(_) | Phase::Feedback(_) => self.rating_failed(policy, now),
                    Phase::Configuration(_) => self.configuration_not_stored(policy, now),
                    Phase::Notifying(notifying) => self.notice_unanswered(policy, *notifying, true, now),
                    Phase::Hearing(_) => self.not_heard(policy, now),
                    Phase::Downloading(_) => self.download_late(policy, now),
                    Phase::Saying(saying) => self.saying_unanswered(policy, *saying, now),
                    Phase::Rollouts(_) => self.rollouts_store_failed(policy, now),
                    Phase::Approvals(asked) => self.approvals_not_read(policy, asked.said(), now),
                    Phase::Metrics(asked) => self.metrics_late(policy, *asked, now),
                    phase => self.phase = phase,
                }
            }
            DeadlineReason::Frame => self.frame_due(policy, now),
            DeadlineReason::Backoff => self.try_again(policy, now),
            DeadlineReason::Run => self.run_due(policy, now),
            DeadlineReason::Watch => match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Watching(watching) => self.look_again_at_turn(*watching, now),
                Phase::Warming(warming) => self.look_at_servers(policy, warming, now),
                phase => {
                    self.timers.watch = None;
                    self.phase = phase;
                }
            },
            DeadlineReason::Turn
            | DeadlineReason::FirstByte
            | DeadlineReason::Idle
            | DeadlineReason::Attempt => {
                if reason == DeadlineReason::Turn && self.abandon_doubt(policy, &chat::timed_out(), now) {
                    return;
                }
                self.cancel();
                match std::mem::replace(&mut self.phase, Phase::Done) {
                    Phase::Queue(waiting) if waiting.has_draft() => {
                        self.keep_drafted(policy, *waiting, now);
                    }
                    phase @ (Phase::Queue(_) | Phase::Shared(_)) => {
                        self.phase = phase;
                        let failure = Failure::new(Code::QueueTimeout, "the agent was busy all the time");
                        self.fail(policy, &failure.after(10), now);
                    }
                    Phase::Probes(probes) => self.probes_done(policy, probes, now),
                    Phase::Warming(warming) => self.servers_silent(warming, now),
                    Phase::Calling(calling) => self.call_timed_out(policy, *calling, now),
                    Phase::Model(asked) => self.model_timed_out(policy, asked, reason, now),
                    Phase::Notifying(notifying) => self.notice_unanswered(policy, *notifying, false, now),
                    Phase::Saying(saying) => self.saying_unanswered(policy, *saying, now),
                    Phase::Downloading(_) if reason == DeadlineReason::Attempt => {
                        self.download_late(policy, now);
                    }
                    Phase::Streaming(turn, streaming) => self.stream_timed_out(policy, turn, streaming, now),
                    Phase::Answer(turn) | Phase::StreamHead(turn) | Phase::StreamRefusal(turn, _) => {
                        self.turn_failed(policy, *turn, &chat::timed_out(), now);
                    }
                    Phase::LoginAnswer(asked) => {
                        self.forget_code(policy, asked.code_key, &login::timed_out(), now);
                    }
                    phase => {
                        self.phase = phase;
                        self.fail(policy, &chat::timed_out(), now);
                    }
                }
            }
        }
    }
}
