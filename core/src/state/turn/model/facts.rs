//! What is true of a turn, kept beside the reducer in the simplest way: what its documentation
//! promises, operation by operation. Nothing of the reducer is called here.

use serde_bytes::ByteBuf;

use crate::state::turn::{
    Approval, Awaited, Claimed, Create, Decide, Decided, Ended, Event, LEASE_MS, MOST_EVENT_BYTES,
    MOST_SKEW_MS, Need, State, Then, TurnOp, TurnOutcome, Verdict, View, Watch,
};

/// What does not hold.
pub(super) type Checked = Result<(), &'static str>;

pub(super) fn holds(it: bool, otherwise: &'static str) -> Checked {
    if it { Ok(()) } else { Err(otherwise) }
}

/// What a checkpoint means to the runners of this model: where one goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Before this call.
    Before(u8),
    /// A person is asked for this call with these arguments.
    Asked(u8, u8),
    /// This call is begun: it may have been done, or not.
    Begun(u8, u8),
    /// The turn has ended, something is left to be done.
    Errand,
}

impl Mark {
    pub(super) fn bytes(self) -> ByteBuf {
        ByteBuf::from(match self {
            Self::Before(call) => [1, call, 0],
            Self::Asked(call, arguments) => [2, call, arguments],
            Self::Begun(call, arguments) => [3, call, arguments],
            Self::Errand => [4, 0, 0],
        })
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        match *bytes {
            [1, call, _] => Some(Self::Before(call)),
            [2, call, arguments] => Some(Self::Asked(call, arguments)),
            [3, call, arguments] => Some(Self::Begun(call, arguments)),
            [4, ..] => Some(Self::Errand),
            _ => None,
        }
    }
}

/// The hash that a person is shown, for a call and its arguments.
pub(super) fn digest(call: u32, arguments: u8) -> [u8; 32] {
    let mut digest = [arguments; 32];
    digest[..4].copy_from_slice(&call.to_le_bytes());
    digest
}

/// A question to a person, as the persons know it.
#[derive(Clone)]
pub(super) struct Question {
    pub(super) asked: Approval,
    /// The time the turn has when the question is answered.
    left_ms: u64,
    yes: Vec<(String, bool)>,
    pub(super) verdict: Option<Verdict>,
    /// It is waited for.
    open: bool,
}

/// One event that was told and kept.
#[derive(Clone, Copy)]
struct Told {
    number: u32,
    serial: u32,
    bytes: usize,
}

/// The text of an event: what cannot be taken for another one's.
pub(super) fn text(serial: u32, bytes: usize) -> String {
    // A width of the formatter is 16 bits.
    format!("{serial:08}{}", " ".repeat(bytes))
}

/// Which one it was.
pub(super) fn serial(text: &str) -> Option<u32> {
    text.get(..8).and_then(|digits| digits.parse().ok())
}

/// The truth about the stored turn.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) create: Create,
    pub(super) epoch: u32,
    tries: u32,
    /// Who runs it, and until when it is believed to.
    holder: Option<(u64, u64)>,
    due_ms: u64,
    /// What is left to be done.
    pub(super) owed: Option<Mark>,
    expires_ms: u64,
    pub(super) gone_ms: u64,
    pub(super) question: Option<Question>,
    cancel: bool,
    heeds: Option<u64>,
    state: State,
    pub(super) end: Option<Ended>,
    told: Vec<Told>,
    /// The clock of whoever acted last.
    now: u64,
    /// It was seen as expired, by the clock alone.
    seen_lost: bool,
}

impl Facts {
    pub(super) fn new(create: &Create, now: u64) -> Self {
        let owed = Mark::read(&create.checkpoint);
        Self {
            create: create.clone(),
            epoch: 0,
            tries: 0,
            holder: None,
            due_ms: now,
            owed,
            expires_ms: now + create.timeout_ms,
            gone_ms: 0,
            question: None,
            cancel: false,
            heeds: None,
            state: if owed.is_some() { State::Queued } else { State::Running },
            end: None,
            told: Vec::new(),
            now,
            seen_lost: false,
        }
    }

    /// Whoever was to tell its end is gone, as the clock says.
    pub(super) fn is_lost(&self) -> bool {
        self.owed.is_none() && !self.state.is_end() && self.now >= self.expires_ms + MOST_SKEW_MS
    }

    pub(super) fn state(&self) -> State {
        if self.is_lost() { State::Expired } else { self.state }
    }

    /// When somebody has to be called, and may begin.
    pub(super) fn alarm_ms(&self) -> Option<u64> {
        self.owed.map(|_| self.holder.map_or(self.due_ms, |(_, until)| until.max(self.due_ms)))
    }

    pub(super) fn last_told(&self) -> u32 {
        self.told.last().map_or(0, |told| told.number)
    }

    pub(super) fn is_settled(&self) -> bool {
        self.state().is_end() || self.state == State::NeedsApproval
    }

    /// Checks how long it is kept, and remembers it.
    pub(super) fn kept(&mut self, ttl_ms: u64, now: u64) -> Checked {
        let gone_ms = now + ttl_ms;
        match self.alarm_ms() {
            Some(alarm_ms) => holds(alarm_ms < gone_ms, "forgotten before what is left can be done")?,
            None if self.end.is_some() && self.gone_ms > 0 => {
                holds(gone_ms <= self.gone_ms.max(now + self.create.keep_ms), "an ended turn is kept on")?;
            }
            None => {}
        }
        if self.end.is_none() {
            holds(gone_ms >= self.expires_ms + self.create.keep_ms, "forgotten while it runs")?;
        }
        self.gone_ms = gone_ms;
        Ok(())
    }

    /// An operation was applied, with this outcome.
    pub(super) fn happens(&mut self, op: &TurnOp, outcome: &TurnOutcome, wake: &[u64], now: u64) -> Checked {
        self.now = now;
        let is_for = |owner: &Option<String>| owner.as_ref().is_none_or(|owner| *owner == self.create.owner);
        match (op, outcome) {
            (TurnOp::Create(create), outcome) => {
                let same = create.digest == self.create.digest && create.owner == self.create.owner;
                let expected = if same { TurnOutcome::Joined } else { TurnOutcome::Conflict };
                holds(*outcome == expected, "not told apart")
            }
            (TurnOp::Claim { ticket }, TurnOutcome::Claimed(claimed)) => self.claimed(*ticket, claimed, now),
            (TurnOp::Claim { ticket }, TurnOutcome::Busy) => {
                let held = self.holder.is_some_and(|(_, until)| until > now);
                let mine = self.holder.is_some_and(|(holder, _)| holder == *ticket);
                let nothing_to_do = self.owed.is_none() || self.due_ms > now;
                holds(!mine && (held || nothing_to_do), "nobody runs it, and nobody may")
            }
            (TurnOp::Watch(watch), TurnOutcome::Seen(view)) => {
                holds(is_for(&watch.owner), "seen by somebody else")?;
                self.seen(watch, view)
            }
            (TurnOp::Cancel { owner }, TurnOutcome::Seen(view)) => {
                holds(is_for(owner), "cancelled by somebody else")?;
                holds(view.state == self.state() && view.ended == self.end, "a wrong view")?;
                self.seen_lost |= self.is_lost();
                if !self.state().is_end() && !self.cancel {
                    self.cancel = true;
                    self.due_ms = now;
                    let heard = self.heeds.take().is_none_or(|ticket| wake.contains(&ticket));
                    holds(heard, "the runner is not told that nobody wants it")?;
                }
                Ok(())
            }
            (TurnOp::Decide(decide), TurnOutcome::Decided(decided)) => {
                holds(is_for(&decide.owner), "decided by somebody else")?;
                self.decided(decide, *decided, now)
            }
            (TurnOp::Watch(Watch { owner, .. }), TurnOutcome::Unknown)
            | (TurnOp::Cancel { owner }, TurnOutcome::Unknown)
            | (TurnOp::Decide(Decide { owner, .. }), TurnOutcome::Unknown) => {
                holds(!is_for(owner), "hidden from its own")
            }
            (op, outcome) => self.ran(op, outcome, now),
        }
    }

    fn claimed(&mut self, ticket: u64, claimed: &Claimed, now: u64) -> Checked {
        if self.holder.is_none_or(|(holder, _)| holder != ticket) {
            holds(self.holder.is_none_or(|(_, until)| until <= now), "taken from one that lives")?;
            holds(self.owed.is_some() && self.due_ms <= now, "begun without a reason")?;
            holds(claimed.epoch > self.epoch, "two runners with one epoch")?;
            self.epoch = claimed.epoch;
            self.tries += 1;
            self.holder = Some((ticket, now + LEASE_MS));
            self.heeds = None;
            if self.end.is_none() {
                self.state = State::Running;
            }
            if let Some(question) = &mut self.question {
                question.open = false;
            }
        }
        holds(claimed.epoch == self.epoch && claimed.tries == self.tries, "another epoch, or count")?;
        holds(Mark::read(&claimed.checkpoint) == self.owed, "from another point")?;
        holds(claimed.ended == self.end.is_some(), "an end is forgotten, or made up")?;
        holds(claimed.cancel == self.cancel, "a cancel is forgotten, or made up")?;
        holds(claimed.cancel || claimed.expired == (now >= self.expires_ms), "another time to live")?;
        match (&self.question, &claimed.approval) {
            (None, None) => Ok(()),
            (Some(question), Some(approval)) => holds(
                (approval.call, approval.digest, approval.verdict)
                    == (question.asked.call, question.asked.digest, question.verdict),
                "another question, or another answer",
            ),
            _ => Err("a question is lost, or a grant is there twice"),
        }
    }

    /// A runner's operation.
    fn ran(&mut self, op: &TurnOp, outcome: &TurnOutcome, now: u64) -> Checked {
        let (TurnOp::Heed { epoch, .. }
        | TurnOp::Save { epoch, .. }
        | TurnOp::Append { epoch, .. }
        | TurnOp::End { epoch, .. }
        | TurnOp::Leave { epoch }) = op
        else {
            return Err("an outcome of another operation");
        };
        let in_time = !self.state.is_end() && now < self.expires_ms;
        let creator = *epoch == 0 && self.epoch == 0 && self.owed.is_none() && in_time;
        let its_own = creator || (*epoch == self.epoch && self.holder.is_some());
        if *outcome == TurnOutcome::Lost {
            return holds(!its_own, "taken from its runner");
        }
        holds(its_own, "an old runner changes something")?;
        holds(!self.seen_lost, "what was seen as its end is none")?;
        if let Some((_, until)) = &mut self.holder {
            *until = now + LEASE_MS;
        }
        match (op, outcome) {
            (TurnOp::Heed { ticket, .. }, TurnOutcome::Heeded { cancel }) => {
                self.heeds = Some(*ticket);
                return holds(*cancel == self.cancel, "the runner hears something else");
            }
            (TurnOp::Save { checkpoint, then, .. }, TurnOutcome::Saved) => self.saved(checkpoint, then, now),
            (TurnOp::Append { events, .. }, TurnOutcome::Saved) => self.tell(events),
            (TurnOp::End { ended, errand, .. }, TurnOutcome::Saved) => {
                if self.end.is_none() {
                    self.end = Some(ended.clone());
                    self.state = ended.state;
                    self.question = None;
                    self.gone_ms = now + self.create.keep_ms;
                }
                (self.tries, self.due_ms) = (0, now);
                self.owed = errand.as_ref().and_then(|errand| Mark::read(errand));
            }
            (TurnOp::Leave { .. }, TurnOutcome::Saved) => self.owed = None,
            _ => return Err("an outcome of another operation"),
        }
        if self.owed.is_none() {
            (self.holder, self.heeds) = (None, None);
        }
        Ok(())
    }

    fn saved(&mut self, checkpoint: &[u8], then: &Then, now: u64) {
        self.owed = Mark::read(checkpoint);
        (self.tries, self.due_ms, self.question) = (0, now, None);
        match then {
            Then::GoOn => return,
            // Nobody is asked about what has ended.
            Then::Ask(_) if self.end.is_some() => return,
            Then::Ask(asked) => {
                let left_ms = self.expires_ms.saturating_sub(now);
                self.expires_ms = asked.until_ms + left_ms;
                self.state = State::NeedsApproval;
                let (yes, verdict) = (Vec::new(), None);
                self.question = Some(Question { asked: asked.clone(), left_ms, yes, verdict, open: true });
                if !self.cancel {
                    self.due_ms = asked.until_ms;
                }
            }
            Then::Later { at_ms } => {
                // What is not wanted any more is ended at once.
                if self.end.is_some() || !self.cancel {
                    self.due_ms = *at_ms;
                }
            }
        }
        (self.holder, self.heeds) = (None, None);
    }

    fn tell(&mut self, events: &[Event]) {
        for event in events {
            if self.end.is_none() && event.number > self.last_told() {
                let serial = serial(&event.text).unwrap_or_default();
                self.told.push(Told { number: event.number, serial, bytes: event.text.len() });
            }
        }
    }

    fn seen(&mut self, watch: &Watch, view: &View) -> Checked {
        holds(view.state == self.state() && view.ended == self.end, "a wrong view")?;
        self.seen_lost |= self.is_lost();
        let shown = view.approval.as_ref().map(|approval| approval.digest);
        let open = self.question.as_ref().filter(|question| question.open);
        holds(shown == open.map(|question| question.asked.digest), "another question is shown")?;
        // All that was told after the one that was seen; of many, the last.
        let begin = self.told.partition_point(|told| told.number <= watch.after);
        let wanted = self.told.get(begin..).unwrap_or_default();
        let missing = wanted.len().checked_sub(view.events.len()).ok_or("events that nobody told")?;
        let shown = wanted.iter().skip(missing).zip(&view.events);
        for (told, event) in shown {
            holds(told.number == event.number, "another number")?;
            holds(Some(told.serial) == serial(&event.text), "another text under that number")?;
        }
        let all: usize = self.told.iter().map(|told| told.bytes).sum();
        holds(missing == 0 || view.gap, "events are missing, and nobody says so")?;
        holds(all > MOST_EVENT_BYTES || !view.gap, "a gap where there is none")?;
        let waits = match watch.awaited {
            Awaited::Nothing => false,
            Awaited::Events => view.events.is_empty() && !view.gap && !self.is_settled(),
            Awaited::End => !self.is_settled(),
        };
        holds(view.waits == waits, "waits for what is there, or does not wait")
    }

    fn decided(&mut self, decide: &Decide, decided: Decided, now: u64) -> Checked {
        let operator = decide.owner.is_none();
        let shown = |question: &&mut Question| {
            (question.asked.call, question.asked.digest) == (decide.call, decide.digest)
        };
        let Some(question) = self.question.as_mut().filter(shown) else {
            return holds(decided == Decided::Void, "agreed to something else");
        };
        if let Some(verdict) = question.verdict {
            return holds(decided == Decided::Before(verdict), "decided twice");
        }
        if !question.open || self.cancel || now >= question.asked.until_ms {
            return holds(decided == Decided::Late, "decided too late");
        }
        let expected = if decide.approves {
            let need = question.asked.need;
            let asked = match need {
                Need::User => !operator,
                Need::Operator | Need::TwoOperators => operator,
                Need::UserAndOperator => true,
            };
            if !asked {
                return holds(decided == Decided::NotAsked, "agreed by one who is not asked");
            }
            question.yes.push((decide.by.clone(), operator));
            question.yes.sort();
            question.yes.dedup();
            let operators = question.yes.iter().filter(|(_, operator)| *operator).count();
            let complete = match need {
                Need::User | Need::Operator => true,
                Need::TwoOperators => operators == 2,
                Need::UserAndOperator => operators > 0 && operators < question.yes.len(),
            };
            if !complete {
                return holds(decided == Decided::Waiting, "somebody's word was not waited for");
            }
            Verdict::Approved
        } else {
            Verdict::Refused
        };
        holds(decided == Decided::Now(expected), "a word in time that does not count")?;
        question.verdict = Some(expected);
        question.open = false;
        self.expires_ms = now + question.left_ms;
        (self.state, self.due_ms) = (State::Queued, now);
        Ok(())
    }
}
