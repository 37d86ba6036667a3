//! A runner that keeps to its protocol: what may not be done twice is saved as begun, then done,
//! then saved as done.

use super::facts::{Mark, digest, text};
use super::{Choice, Script};
use crate::state::turn::{
    Approval, Ended, Event, MOST_EVENT_BYTES, State, Then, TurnOp, TurnOutcome, Verdict, numbers_before,
};

/// What a runner has in mind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mind {
    /// An alarm has called it.
    Called,
    /// It has begun from here, or come to here. What the person said, if one was asked.
    At(Mark, Option<Verdict>),
    /// It may do this call now.
    Acts(u8, u8),
    /// It has done this call.
    Acted(u8),
    /// It was created without a checkpoint, with its creator for a runner.
    Creator,
    /// It has nothing to do with the turn any more.
    Gone,
}

/// What a runner does next.
#[derive(Debug)]
pub(super) enum Deed {
    Op(TurnOp),
    /// The side effect of this call with these arguments.
    Act(u8, u8),
}

#[derive(Clone, Debug)]
pub(super) struct Runner {
    pub(super) ticket: u64,
    epoch: u32,
    mind: Mind,
    /// How the turn has to end.
    stop: Option<State>,
    told: u32,
    /// What was applied for all it knows, but nobody answered.
    again: Option<TurnOp>,
}

impl Runner {
    pub(super) fn called(ticket: u64) -> Self {
        Self { ticket, epoch: 0, mind: Mind::Called, stop: None, told: 0, again: None }
    }

    pub(super) fn creator(ticket: u64) -> Self {
        Self { mind: Mind::Creator, ..Self::called(ticket) }
    }

    pub(super) fn is_gone(&self) -> bool {
        self.mind == Mind::Gone
    }

    /// Its operation was applied, but the answer is lost: it says the same again.
    pub(super) fn hears_nothing(&mut self, op: TurnOp) {
        self.again = Some(op);
    }

    /// What it does now. A `steady` one comes to an end as soon as it can.
    pub(super) fn deed(&mut self, script: &Script, now: u64, steady: bool, choice: &mut Choice) -> Deed {
        if let Some(op) = self.again.take() {
            return Deed::Op(op);
        }
        Deed::Op(match self.mind {
            Mind::Called | Mind::Gone => TurnOp::Claim { ticket: self.ticket },
            Mind::Acts(call, arguments) => {
                self.mind = Mind::Acted(call);
                return Deed::Act(call, arguments);
            }
            Mind::Acted(call) => self.save(Mark::Before(call + 1), then(now, steady, choice)),
            Mind::Creator => match choice.pick(4) {
                0 => TurnOp::Heed { epoch: 0, ticket: self.ticket },
                1 | 2 if !steady => self.tell(script, choice),
                _ => self.end(State::Done, choice.pick(2) == 0),
            },
            Mind::At(Mark::Errand, _) => match choice.pick(8) {
                0 if !steady => TurnOp::Heed { epoch: self.epoch, ticket: self.ticket },
                1 if !steady => self.save(Mark::Errand, then(now, steady, choice)),
                2 if !steady => self.end(State::Failed, choice.pick(2) == 0),
                3 if !steady => self.tell(script, choice),
                // Nobody should, but who does changes no end.
                4 if !steady => self.save(Mark::Errand, ask(script, 0, 0, now, choice)),
                _ => TurnOp::Leave { epoch: self.epoch },
            },
            Mind::At(mark, verdict) => match (choice.pick(8), mark) {
                (0, _) if !steady => TurnOp::Heed { epoch: self.epoch, ticket: self.ticket },
                (1 | 2, _) if !steady => self.tell(script, choice),
                (3, Mark::Before(_)) if !steady => self.save(mark, then(now, steady, choice)),
                (_, mark) => match self.stop {
                    Some(stop) => self.end(stop, choice.pick(2) == 0),
                    None => self.go_on(mark, verdict, script, now, steady, choice),
                },
            },
        })
    }

    fn go_on(
        &self,
        mark: Mark,
        verdict: Option<Verdict>,
        script: &Script,
        now: u64,
        steady: bool,
        choice: &mut Choice,
    ) -> TurnOp {
        match (mark, verdict) {
            (Mark::Before(call), _) if call >= script.calls => self.end(State::Done, choice.pick(2) == 0),
            (Mark::Before(call), _) => {
                let arguments = choice.pick(2) as u8;
                if script.asks(call) {
                    self.save(Mark::Asked(call, arguments), ask(script, call, arguments, now, choice))
                } else {
                    self.save(Mark::Begun(call, arguments), Then::GoOn)
                }
            }
            (Mark::Asked(call, arguments), Some(Verdict::Approved)) => {
                self.save(Mark::Begun(call, arguments), Then::GoOn)
            }
            // Nobody answered: it is asked once more, or left.
            (Mark::Asked(call, arguments), None) if !steady && choice.pick(2) == 0 => {
                self.save(mark, ask(script, call, arguments, now, choice))
            }
            // Refused, or nobody knows whether it was done: the model would be told so.
            (Mark::Asked(call, _) | Mark::Begun(call, _), _) => self.save(Mark::Before(call + 1), Then::GoOn),
            (Mark::Errand, _) => TurnOp::Leave { epoch: self.epoch },
        }
    }

    fn save(&self, mark: Mark, then: Then) -> TurnOp {
        TurnOp::Save { epoch: self.epoch, checkpoint: mark.bytes(), then }
    }

    fn end(&self, state: State, errand: bool) -> TurnOp {
        let body = self.ticket.to_le_bytes().to_vec().into();
        let ended = Ended { state, status: 200, retry_after_s: None, again: false, body };
        TurnOp::End { epoch: self.epoch, ended, errand: errand.then(|| Mark::Errand.bytes()) }
    }

    fn tell(&mut self, script: &Script, choice: &mut Choice) -> TurnOp {
        let bytes = if script.talks { [0, MOST_EVENT_BYTES / 3, MOST_EVENT_BYTES + 9] } else { [0, 8, 40] };
        let events = (0..=choice.pick(2)).map(|_| {
            self.told += 1;
            let number = numbers_before(self.epoch) + self.told;
            let serial = self.ticket as u32 * 1_000 + self.told;
            Event { number, text: text(serial, bytes[choice.pick(3) as usize]) }
        });
        TurnOp::Append { epoch: self.epoch, events: events.collect() }
    }

    /// Its operation was answered. Says the call of which nobody knows whether it was done.
    pub(super) fn hears(&mut self, op: &TurnOp, outcome: &TurnOutcome) -> Option<u8> {
        self.mind = match (op, outcome) {
            (TurnOp::Claim { .. }, TurnOutcome::Claimed(claimed)) => {
                self.epoch = claimed.epoch;
                if claimed.cancel {
                    self.stop = Some(State::Cancelled);
                } else if claimed.expired {
                    self.stop = Some(State::Expired);
                }
                let verdict = claimed.approval.as_ref().and_then(|approval| approval.verdict);
                Mark::read(&claimed.checkpoint).map_or(Mind::Gone, |mark| Mind::At(mark, verdict))
            }
            (TurnOp::Heed { .. }, TurnOutcome::Heeded { cancel }) => {
                if *cancel {
                    self.stop = Some(State::Cancelled);
                }
                return None;
            }
            (TurnOp::Append { .. }, TurnOutcome::Saved) => return None,
            (TurnOp::Save { checkpoint, then: Then::GoOn, .. }, TurnOutcome::Saved) => {
                match Mark::read(checkpoint) {
                    // It was kept that this call is begun: now it is.
                    Some(Mark::Begun(call, arguments)) => Mind::Acts(call, arguments),
                    Some(mark) => Mind::At(mark, None),
                    None => Mind::Gone,
                }
            }
            (TurnOp::End { errand: Some(_), .. }, TurnOutcome::Saved) if self.mind != Mind::Creator => {
                Mind::At(Mark::Errand, None)
            }
            _ => Mind::Gone,
        };
        match (op, self.mind) {
            (TurnOp::Claim { .. }, Mind::At(Mark::Begun(call, _), _)) => Some(call),
            _ => None,
        }
    }
}

fn then(now: u64, steady: bool, choice: &mut Choice) -> Then {
    if steady || choice.pick(2) == 0 {
        return Then::GoOn;
    }
    Then::Later { at_ms: now + [0, 2_000, 100_000][choice.pick(3) as usize] }
}

fn ask(script: &Script, call: u8, arguments: u8, now: u64, choice: &mut Choice) -> Then {
    Then::Ask(Approval {
        call: u32::from(call),
        tool: "refund".into(),
        arguments: String::new(),
        digest: digest(u32::from(call), arguments),
        need: script.need,
        until_ms: now + [500, 20_000, 200_000][choice.pick(3) as usize],
        given: Vec::new(),
        verdict: None,
        by: None,
    })
}
