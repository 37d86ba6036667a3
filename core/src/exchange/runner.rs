//! A turn without a client: taken up where an alarm says so, run from its checkpoint, and kept.
//!
//! It is the same exchange as any other; only what goes to a client elsewhere goes into the turn's
//! cell here. Everything about that cell goes through one queue, one list of operations at a
//! time, so that they are applied in the order in which they were said, and what comes while a list is on its way
//! goes together. A runner that the cell does not know any more stops, and touches nothing: another
//! one has the turn.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase, Timers,
    chat::{Turn, Voice, Waiting},
    gates::STORE_PATIENCE,
    lasting::Lasting,
    notices::{self, Notifying},
    saying::Saying,
    tools::Calling,
    turns,
};
use crate::{
    policy::{Policy, auth, notify},
    seam::{Input, Moment, Output, Rope},
    state::{
        Op, Outcome,
        turn::{Approval, Claimed, Ended, Event, LEASE_MS, State, Then, TurnOp, TurnOutcome, numbers_before},
    },
    wire::failure::{Code, Failure},
};

/// How often a runner says that it is there, and asks whether it is still wanted.
const HEED: u64 = LEASE_MS / 3;
/// Milliseconds after which a store that failed is asked again.
const RETRY: u64 = 1_000;
/// So many runners may die at one checkpoint; the next one gives the turn up. Each has had a lease: a
/// host that starts and dies for five minutes has lost no turn.
pub(super) const MOST_TRIES: u32 = 20;

/// What a runner knows of its turn's cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Run {
    key: String,
    epoch: u32,
    /// Stands for this runner where it is to be woken.
    ticket: u64,
    /// What is to be said next.
    queue: Vec<TurnOp>,
    /// What goes to other cells with the next point or end. It may be said twice.
    beside: Vec<(String, Op)>,
    /// What is being said.
    flight: Option<Flight>,
    /// What it is woken by.
    watch: Option<u32>,
    /// The number of the last event.
    last: u32,
    /// When the store last said something: until a lease later nobody else has the turn.
    heard_ms: u64,
    /// The store failed since.
    failing: bool,
    /// How it ended.
    pub(super) ended: Option<Ended>,
    /// It is not wanted any more.
    cancelled: bool,
    /// Where the request's body lies, and its length, when the model needs it.
    body: Option<(String, u64)>,
}

/// A list of operations on its way to the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Flight {
    id: u32,
    ops: Vec<TurnOp>,
    /// What goes to other cells, and before which of the others.
    beside: Vec<(String, Op)>,
    at: usize,
}

impl Run {
    /// Whether it runs a notice and no turn.
    pub(super) fn is_notice(&self) -> bool {
        notices::is_key(&self.key)
    }

    /// Whether there may be events of the turn already: then its failure is one too.
    pub(super) fn has_said(&self) -> bool {
        !self.is_notice() && (self.epoch > 1 || self.last > numbers_before(self.epoch))
    }

    /// The next list. What goes to other cells comes just before the point or end that it is about,
    /// and after something of the runner's own: who has lost the turn touches nothing.
    fn load(&mut self, id: u32) -> Flight {
        let (mut ops, beside) = (std::mem::take(&mut self.queue), std::mem::take(&mut self.beside));
        let is_point = |op: &TurnOp| matches!(op, TurnOp::Save { .. } | TurnOp::End { .. });
        let mut at = ops.iter().position(is_point).unwrap_or(ops.len());
        if at == 0 && !beside.is_empty() {
            ops.insert(0, TurnOp::Append { epoch: self.epoch, events: Vec::new() });
            at = 1;
        }
        Flight { id, ops, beside, at }
    }

    fn waits_for(&self, id: u32) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.id == id)
    }
}

/// From where a turn goes on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Next {
    /// From its begin: nobody has been asked anything.
    Begin(Box<Waiting>),
    /// The model is asked, or was.
    Ask(Box<Waiting>),
    /// A person is asked whether something may be done.
    Asked(Box<Calling>),
    /// Something is being done, or was.
    Call(Box<Calling>),
    /// It is known what came of it.
    Called(Box<Calling>),
    /// Somebody is told what another turn has come to.
    Notify(Box<Notifying>),
    /// A message to a robot is answered.
    Hear,
    /// Something is said in a robot's conversation.
    Say(Box<Saying>),
}

/// A point from which a turn can go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Saved {
    pub(super) next: Next,
    /// The time that it had left, in milliseconds.
    left_ms: u64,
    /// Where its request's body lies, and its length, when the model needs it.
    pub(super) body: Option<(String, u64)>,
    /// What came of the question that was asked there; never in a checkpoint.
    approval: Option<Approval>,
}

/// A turn that waits for the policy that it was begun with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Moving {
    pub(super) saved: Box<Saved>,
    claimed: Claimed,
}

impl Exchange {
    /// This exchange as another one can go on with it.
    pub(super) fn checkpoint(&self, mut next: Next, body: Option<(String, u64)>, left_ms: u64) -> ByteBuf {
        if let Next::Begin(waiting) | Next::Ask(waiting) = &mut next
            && matches!(waiting.turn.voice, Voice::Mini(_))
        {
            // It is written anew out of the plan, which has all of it already.
            waiting.fetch.body = Rope::default();
        }
        let mut other = self.clone();
        other.outputs.clear();
        other.run = None;
        other.timers = Timers::default();
        other.lease = None;
        let lasting = Lasting::of(&self.facts, &next, self.robot.as_deref());
        other.phase = Phase::Saved(Box::new(Saved { next, left_ms, body, approval: None }));
        ByteBuf::from(lasting.before(&other.encode()))
    }

    /// An alarm has gone off.
    pub(super) fn claim(&mut self, key: &str, now: Moment) {
        if !key.starts_with(turns::CELL) {
            return;
        }
        let store_id = self.take_id();
        let claim = TurnOp::Claim { ticket: self.facts.ticket };
        self.outputs.push_back(Output::Store { id: store_id, ops: vec![(key.to_owned(), Op::Turn(claim))] });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::Claiming(store_id, key.to_owned());
    }

    pub(super) fn in_claim(
        &mut self,
        policy: &Policy,
        store_id: u32,
        key: String,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if *id == store_id => {
                self.timers.store = None;
                if let Some(Outcome::Turn(TurnOutcome::Claimed(claimed))) = outcomes.first() {
                    self.take_up(policy, key, claimed, now);
                }
            }
            // The alarm comes again.
            Input::StoreFailed { id } if *id == store_id => self.timers.store = None,
            _ => self.phase = Phase::Claiming(store_id, key),
        }
    }

    /// The turn is this runner's.
    fn take_up(&mut self, policy: &Policy, key: String, claimed: &Claimed, now: Moment) {
        let run = Run {
            key,
            epoch: claimed.epoch,
            // Its own: a slot may be waited for at the same time by the request's, and a host knows one
            // listener for each.
            ticket: !self.facts.ticket,
            queue: Vec::new(),
            beside: Vec::new(),
            flight: None,
            watch: None,
            last: numbers_before(claimed.epoch),
            heard_ms: now.unix_ms,
            failing: false,
            ended: None,
            cancelled: false,
            body: None,
        };
        let (lasting, exchange) = Lasting::split(&claimed.checkpoint).unwrap_or_default();
        let Some(mut saved) = Self::decode(exchange) else {
            self.run = Some(run);
            self.heed();
            return self.take_up_lasting(policy, lasting, claimed, now);
        };
        saved.next_id = self.next_id;
        // A lease of the one before may still count.
        saved.facts.ticket = self.facts.ticket;
        saved.run = Some(run);
        saved.outputs = std::mem::take(&mut self.outputs);
        *self = saved;
        self.heed();
        let Phase::Saved(saved) = std::mem::replace(&mut self.phase, Phase::Done) else {
            return self.fail(policy, &interrupted(), now);
        };
        if self.facts.config == policy.catalog.version {
            return self.begin_again(policy, saved, claimed, now);
        }
        // A turn is of one configuration, whatever has come since.
        self.outputs.push_back(Output::Under { version: self.facts.config.clone() });
        self.phase = Phase::Under(Box::new(Moving { saved, claimed: claimed.clone() }));
    }

    pub(super) fn in_under(&mut self, policy: &Policy, moving: Box<Moving>, input: &Input<'_>, now: Moment) {
        match input {
            Input::Under => {
                let Moving { saved, claimed } = *moving;
                self.begin_again(policy, saved, &claimed, now);
            }
            _ => self.phase = Phase::Under(moving),
        }
    }

    /// The turn goes on from its checkpoint, with the policy that there is for it.
    fn begin_again(&mut self, policy: &Policy, mut saved: Box<Saved>, claimed: &Claimed, now: Moment) {
        // After a point from which its runner went on nobody else has a reason to be here.
        let went_on = matches!(saved.next, Next::Ask(_) | Next::Call(_) | Next::Called(_));
        self.story.takeover = claimed.epoch > 1 && (went_on || claimed.tries > 1);
        // What the one before said after this point is said again.
        self.story.anew |= self.story.takeover;
        saved.approval.clone_from(&claimed.approval);
        match saved.next {
            Next::Notify(notifying) => return self.take_up_notice(policy, *notifying, claimed, now),
            Next::Say(saying) => return self.take_up_saying(policy, *saying, claimed, now),
            _ => {}
        }
        self.keep_for_replay(policy);
        let deadline = self.robot.as_ref().map(|heard| heard.deadline_ms);
        self.timers.turn = Some(deadline.unwrap_or(now.unix_ms.saturating_add(saved.left_ms)));
        let failure = match claimed {
            Claimed { cancel: true, .. } => Some(cancelled()),
            Claimed { expired: true, .. } => {
                Some(Failure::new(Code::TurnExpired, "the turn's time was over before it ended"))
            }
            Claimed { tries, .. } if *tries > MOST_TRIES => Some(interrupted()),
            _ => None,
        };
        if let Some(failure) = failure {
            self.story.cancelled = claimed.cancel;
            return match saved.next {
                Next::Call(calling) => self.call_abandoned(policy, *calling, &failure, now),
                _ => self.fail(policy, &failure, now),
            };
        }
        if let Some(run) = &mut self.run {
            run.body.clone_from(&saved.body);
        }
        match saved.body.clone() {
            Some((key, len)) => {
                let id = self.take_id();
                self.outputs.push_back(Output::Restore { id, key, len });
                self.phase = Phase::Restoring(id, saved);
            }
            None => self.go_on_from(policy, *saved, now),
        }
    }

    pub(super) fn in_restoring(
        &mut self,
        policy: &Policy,
        id: u32,
        saved: Box<Saved>,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id: done, .. } if *done == id => self.go_on_from(policy, *saved, now),
            Input::StoreFailed { id: failed } if *failed == id => {
                let failure = Failure::new(Code::StoreUnavailable, "the attachments could not be read again");
                match saved.next {
                    Next::Call(calling) => self.call_abandoned(policy, *calling, &failure, now),
                    _ => self.fail(policy, &failure.after(5), now),
                }
            }
            _ => self.phase = Phase::Restoring(id, saved),
        }
    }

    fn go_on_from(&mut self, policy: &Policy, saved: Saved, now: Moment) {
        match saved.next {
            Next::Begin(waiting) => match self.written_anew(policy, *waiting) {
                Some(waiting) => self.begin_run(policy, waiting, now),
                None => {
                    let failure = Failure::new(Code::Interrupted, "the configuration has changed meanwhile");
                    self.fail(policy, &failure, now);
                }
            },
            // The agent may have acted, and nobody knows what came of it.
            Next::Ask(_) => self.fail(policy, &interrupted(), now),
            Next::Asked(calling) => self.answered(policy, *calling, saved.approval.as_ref(), now),
            Next::Call(calling) => self.call_saved(policy, *calling, true, now),
            Next::Called(calling) => self.called(policy, *calling, now),
            Next::Hear => self.answer_heard(policy, now),
            // It was taken up before.
            Next::Notify(_) | Next::Say(_) => {}
        }
    }

    /// The request to the model as this runner sends it. `None` when its profile is gone.
    fn written_anew(&mut self, policy: &Policy, waiting: Waiting) -> Option<Waiting> {
        match waiting.turn {
            Turn { voice: Voice::Mini(plan), rate_headers, .. } => {
                policy.catalog.profile(&plan.profile)?;
                let anew = self.attempt(policy, *plan, rate_headers);
                Some(Waiting {
                    named: waiting.named,
                    text: waiting.text,
                    pictures: waiting.pictures,
                    cache: waiting.cache,
                    curated: waiting.curated,
                    tokens: waiting.tokens,
                    ..anew
                })
            }
            mut turn => {
                turn.fetch_id = self.take_id();
                let mut fetch = waiting.fetch;
                fetch.id = turn.fetch_id;
                Some(Waiting { turn, fetch, ..waiting })
            }
        }
    }

    /// What is said to a client elsewhere goes into the cell here. Whether it did.
    pub(super) fn keep_events(&mut self, out: &str) -> bool {
        let Some(run) = &mut self.run else { return false };
        let mut events = Vec::new();
        for text in out.split_inclusive("\n\n") {
            let own = text.strip_prefix("id: ").and_then(|rest| rest.split_once('\n'));
            let own = own.and_then(|(number, rest)| Some((number.parse::<u32>().ok()?, rest)));
            // What has a number of its own begins with 1 wherever it is written.
            let rest = own.map_or(text, |(_, rest)| rest);
            run.last += 1;
            events.push(Event { number: run.last, text: format!("id: {}\n{rest}", run.last) });
        }
        match run.queue.last_mut() {
            Some(TurnOp::Append { events: earlier, .. }) => earlier.extend(events),
            _ => run.queue.push(TurnOp::Append { epoch: run.epoch, events }),
        }
        true
    }

    /// How the turn ended, as a client that waits is answered.
    pub(super) fn keep_end(&mut self, status: u16, body: String) {
        let Some(run) = &mut self.run else { return };
        let state = match self.story.code {
            None => State::Done,
            Some(Code::TurnCancelled) => State::Cancelled,
            Some(Code::TurnExpired) => State::Expired,
            Some(_) => State::Failed,
        };
        let retry_after_s = self.story.retry_after_s;
        let again = self.story.may_begin_anew();
        let body = ByteBuf::from(body.into_bytes());
        run.ended = Some(Ended { state, status, retry_after_s, again, body });
    }

    /// Everything is paid and written down: the end goes into the cell.
    pub(super) fn end_run(&mut self, policy: &Policy, now: Moment) {
        let Some(run) = &mut self.run else { return };
        let ended = run.ended.take();
        let is_notice = run.is_notice();
        self.timers = Timers { run: self.timers.run, ..Timers::default() };
        let nothing = || Ended {
            state: State::Failed,
            status: 500,
            retry_after_s: None,
            again: false,
            body: ByteBuf::from(*b"{}"),
        };
        let ended = ended.unwrap_or_else(nothing);
        if !is_notice {
            let event = match ended.state {
                State::Done => notify::Event::Done,
                State::Cancelled => notify::Event::Cancelled,
                State::Expired => notify::Event::Expired,
                _ => notify::Event::Failed,
            };
            self.give_notice(policy, event, None, now);
        }
        let ended = self.say_end(policy, ended, now);
        if let Some(run) = &mut self.run {
            run.queue.push(TurnOp::End { epoch: run.epoch, ended, errand: None });
            self.phase = Phase::Ending;
        }
    }

    /// Saves a point, and goes on when it is kept.
    pub(super) fn save(&mut self, next: Next, then: Then, now: Moment) {
        let body = self.run.as_ref().and_then(|run| run.body.clone());
        let left_ms = self.timers.turn.unwrap_or(now.unix_ms).saturating_sub(now.unix_ms);
        let checkpoint = self.checkpoint(next.clone(), body.clone(), left_ms);
        if let Some(run) = &mut self.run {
            run.queue.push(TurnOp::Save { epoch: run.epoch, checkpoint, then });
            self.phase = Phase::Saved(Box::new(Saved { next, left_ms, body, approval: None }));
        }
    }

    /// The host holds a request's body from now on, which is kept there.
    pub(super) fn hold_body(&mut self, key: String, len: u64) {
        if let Some(run) = &mut self.run {
            run.body = Some((key, len));
        }
    }

    /// Something for another cell, in the list in which what is said next is said.
    pub(super) fn say_beside(&mut self, key: String, op: Op) {
        if let Some(run) = &mut self.run {
            run.beside.push((key, op));
        }
    }

    /// The runner says that it is there.
    pub(super) fn heed(&mut self) {
        let Some(run) = &mut self.run else { return };
        if let Some(id) = run.watch.take() {
            self.outputs.push_back(Output::Cancel { id });
        }
        if !run.queue.iter().any(|op| matches!(op, TurnOp::Heed { .. })) {
            run.queue.push(TurnOp::Heed { epoch: run.epoch, ticket: run.ticket });
        }
    }

    /// Sends what is to be said, when nothing is on its way.
    pub(super) fn flush_run(&mut self, now: Moment) {
        let id = self.next_id;
        let Some(run) = &mut self.run else { return };
        if run.flight.is_some() || run.queue.is_empty() || run.failing {
            return;
        }
        self.next_id = self.next_id.wrapping_add(1);
        let flight = run.load(id);
        let mut list: Vec<(String, Op)> =
            flight.ops.iter().map(|op| (run.key.clone(), Op::Turn(op.clone()))).collect();
        list.splice(flight.at..flight.at, flight.beside.iter().cloned());
        self.outputs.push_back(Output::Store { id, ops: list });
        run.flight = Some(flight);
        self.timers.run = Some(now.unix_ms + STORE_PATIENCE);
    }

    /// Whether the input was about the cell.
    pub(super) fn in_run(&mut self, policy: &Policy, input: &Input<'_>, now: Moment) -> bool {
        let Some(run) = &mut self.run else { return false };
        match input {
            Input::Stored { id, outcomes } if run.waits_for(*id) => {
                let Some(Flight { ops, beside, at, .. }) = run.flight.take() else { return false };
                run.failing = false;
                run.heard_ms = now.unix_ms;
                self.timers.run = Some(now.unix_ms + HEED);
                let (before, rest) = outcomes.split_at(at.min(outcomes.len()));
                let own = before.iter().chain(rest.iter().skip(beside.len()));
                self.run_stored(policy, *id, ops.iter().zip(own), now);
                true
            }
            Input::StoreFailed { id } if run.waits_for(*id) => {
                self.run_store_failed(policy, now);
                true
            }
            Input::Woken { id } if run.watch == Some(*id) => {
                run.watch = None;
                self.heed();
                true
            }
            _ => false,
        }
    }

    fn run_stored<'a>(
        &mut self,
        policy: &Policy,
        id: u32,
        answered: impl Iterator<Item = (&'a TurnOp, &'a Outcome)>,
        now: Moment,
    ) {
        let (mut saved, mut over, mut cancel) = (false, false, false);
        let is_ending = matches!(self.phase, Phase::Ending);
        for (op, outcome) in answered {
            match (op, outcome) {
                (TurnOp::End { .. }, Outcome::Turn(_)) => over = true,
                // An end that was said twice, since the store's first answer got lost.
                (_, Outcome::Turn(TurnOutcome::Lost)) if is_ending => over = true,
                (_, Outcome::Turn(TurnOutcome::Lost)) => return self.lose_run(policy, now),
                (TurnOp::Save { .. }, Outcome::Turn(TurnOutcome::Saved)) => saved = true,
                (TurnOp::Heed { .. }, Outcome::Turn(TurnOutcome::Heeded { cancel: true })) => cancel = true,
                (TurnOp::Heed { .. }, Outcome::Turn(TurnOutcome::Heeded { .. })) => {
                    self.outputs.push_back(Output::Watch { id });
                    if let Some(run) = &mut self.run {
                        run.watch = Some(id);
                    }
                }
                _ => {}
            }
        }
        if over {
            self.drop_watch();
            // What is left to be said is not: the turn is nobody's, or somebody else's.
            self.run = None;
            self.phase = Phase::Done;
        } else if cancel {
            self.cancel_run(policy, now);
        } else if saved {
            match std::mem::replace(&mut self.phase, Phase::Done) {
                Phase::Saved(saved) => self.saved(policy, *saved, now),
                phase => self.phase = phase,
            }
        }
    }

    /// What was saved is kept: now it is done.
    fn saved(&mut self, policy: &Policy, saved: Saved, now: Moment) {
        if self.is_unwanted() && !matches!(saved.next, Next::Asked(_) | Next::Called(_)) {
            return self.fail(policy, &cancelled(), now);
        }
        match saved.next {
            Next::Begin(waiting) => self.begin_run(policy, *waiting, now),
            Next::Ask(waiting) => self.ask_now(policy, *waiting, now),
            // Nobody runs the turn while a person is asked.
            Next::Asked(_) => self.rest_run(),
            Next::Call(calling) => self.call_saved(policy, *calling, false, now),
            Next::Called(calling) => self.called(policy, *calling, now),
            Next::Notify(notifying) => self.notice_saved(*notifying, now),
            Next::Say(saying) => self.saying_saved(policy, *saying, now),
            // Nothing saves it again.
            Next::Hear => {}
        }
    }

    /// Nobody runs it until its alarm goes off.
    pub(super) fn rest_run(&mut self) {
        self.drop_watch();
        self.timers = Timers::default();
        self.phase = Phase::Done;
    }

    /// It is time to say that the runner is there, or the store does not answer.
    pub(super) fn run_due(&mut self, policy: &Policy, now: Moment) {
        self.timers.run = Some(now.unix_ms + HEED);
        let Some(run) = &mut self.run else {
            self.timers.run = None;
            return;
        };
        if let Some(Flight { id, .. }) = &run.flight {
            self.outputs.push_back(Output::Cancel { id: *id });
            return self.run_store_failed(policy, now);
        }
        // What was not heard is said again.
        if !std::mem::take(&mut run.failing) {
            self.heed();
        }
    }

    /// Without the store the runner keeps its turn for as long as nobody else can have it.
    fn run_store_failed(&mut self, policy: &Policy, now: Moment) {
        self.story.store_failed = true;
        let Some(run) = &mut self.run else { return };
        if let Some(Flight { mut beside, mut ops, .. }) = run.flight.take() {
            ops.append(&mut run.queue);
            run.queue = ops;
            beside.append(&mut run.beside);
            run.beside = beside;
        }
        run.failing = true;
        self.timers.run = Some(now.unix_ms + RETRY);
        if now.unix_ms.saturating_sub(run.heard_ms) + RETRY + STORE_PATIENCE >= LEASE_MS {
            self.lose_run(policy, now);
        }
    }

    /// Another runner has the turn, or may have it.
    fn lose_run(&mut self, policy: &Policy, now: Moment) {
        self.cancel();
        self.drop_watch();
        let is_notice = self.run.take().is_some_and(|run| run.is_notice());
        if is_notice {
            // Whoever has it says what comes of it.
            self.phase = Phase::Done;
            return;
        }
        // What a turn counts for and has reserved is counted by whoever ends it.
        self.dues.leave_to_another();
        self.story.code = Some(Code::Interrupted);
        self.story.lost = true;
        self.finish(policy, now);
    }

    fn drop_watch(&mut self) {
        let watch = self.run.as_mut().and_then(|run| run.watch.take());
        self.outputs.extend(watch.map(|id| Output::Cancel { id }));
    }

    /// Its person does not want it any more.
    fn cancel_run(&mut self, policy: &Policy, now: Moment) {
        let Some(run) = &mut self.run else { return };
        if std::mem::replace(&mut run.cancelled, true) || matches!(self.phase, Phase::Ending) {
            return;
        }
        if self.must_finish_call(policy) || matches!(self.phase, Phase::Saved(_)) {
            // It ends when it is known what came of what is being done.
            return;
        }
        self.story.cancelled = true;
        if self.abandon_doubt(policy, &cancelled(), now) {
            return;
        }
        self.cancel();
        self.fail(policy, &cancelled(), now);
    }
}

impl Exchange {
    /// Whether its person does not want the turn any more.
    pub(super) fn is_unwanted(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.cancelled)
    }
}

/// Its person does not want it any more.
pub(super) fn cancelled() -> Failure {
    Failure::new(Code::TurnCancelled, "the turn was cancelled")
}

/// Nobody knows what became of what was begun.
fn interrupted() -> Failure {
    Failure::new(
        Code::Interrupted,
        "the gateway was interrupted while the agent worked; what it did is not known, so it was not asked again",
    )
}

/// The name of a turn whose request has a key of its own: the same for the same person and key.
pub(super) fn named_by(policy: &Policy, owner: &str, user: &str, key: &str) -> String {
    let name = format!("{}\n{}\n{owner}{user}{key}", owner.len(), user.len());
    format!("req_{}", auth::person(policy, "turn", &name))
}
