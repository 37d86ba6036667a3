//! A turn that outlives its connection: who runs it, what it has said, who watches it, how it ended.
//!
//! The request that begins a turn leaves a *checkpoint*, and the key's alarm begins a runner, on
//! whichever host takes it. A runner holds a lease and an *epoch* (a fencing token): once somebody else has taken
//! over, nothing that the old one says counts any more. Clients only watch. So a client may go, come
//! back, or come twice; and when a runner dies its lease ends and the next one goes on from the last
//! checkpoint. What may not be done twice is saved as begun before it is begun.
//!
//! What a checkpoint, an event and a result mean is the exchange's. Nothing here may decide whether
//! something is done again.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{Outcome, Reduced, encode};

/// How long a runner that says nothing keeps its turn, in milliseconds.
pub const LEASE_MS: u64 = 15_000;
/// The most bytes of events that are kept to be shown again: about 25,000 Chinese characters.
pub const MOST_EVENT_BYTES: usize = 128 * 1024;
/// How far the clocks of two hosts may be apart, in milliseconds: so much later than its creator is
/// refused, a turn that nobody can take over is seen as expired, and what was seen stands.
pub const MOST_SKEW_MS: u64 = 2_000;
/// Those that are woken when something happens; more of them look by themselves.
const MOST_WATCHERS: usize = 16;

/// How a turn stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody runs it yet, or nobody has taken it over yet.
    Queued,
    /// It runs.
    Running,
    /// It waits for a person.
    NeedsApproval,
    /// There is an answer.
    Done,
    /// There is none, and why.
    Failed,
    /// Its person did not want it any more.
    Cancelled,
    /// Its time was over before it ended.
    Expired,
}

impl State {
    /// Whether nothing more will happen to its answer.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Done | Self::Failed | Self::Cancelled | Self::Expired)
    }
}

/// Who has to agree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Need {
    /// The person whose turn it is.
    #[default]
    User,
    /// One operator.
    Operator,
    /// Two operators, not the same one twice.
    TwoOperators,
    /// The person and an operator.
    UserAndOperator,
}

/// What became of a question to a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// All who had to agree did.
    Approved,
    /// Somebody said no.
    Refused,
}

/// A question to a person: may this be done?
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// The number of the call within its turn.
    pub call: u32,
    /// The tool.
    pub tool: String,
    /// The arguments as they are shown, canonical JSON.
    pub arguments: String,
    /// The hash over tool and arguments: what is agreed to.
    pub digest: [u8; 32],
    /// Who has to agree.
    pub need: Need,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Who has agreed so far: what stands for them, and whether as an operator.
    pub given: Vec<(String, bool)>,
    /// What came of it.
    pub verdict: Option<Verdict>,
    /// Who said the last word.
    pub by: Option<String>,
}

impl Approval {
    fn is_complete(&self) -> bool {
        let operators = self.given.iter().filter(|(_, operator)| *operator).count();
        let user = self.given.iter().any(|(_, operator)| !operator);
        match self.need {
            Need::User => user,
            Need::Operator => operators >= 1,
            Need::TwoOperators => operators >= 2,
            Need::UserAndOperator => user && operators >= 1,
        }
    }

    /// Whether the word of one who is an operator, or is not, is asked for.
    fn asks(&self, operator: bool) -> bool {
        match self.need {
            Need::User => !operator,
            Need::Operator | Need::TwoOperators => operator,
            Need::UserAndOperator => true,
        }
    }
}

/// How a turn ended, as a client that waits is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// One that [is an end](State::is_end).
    pub state: State,
    /// The HTTP status.
    pub status: u16,
    /// Seconds after which it may be tried again.
    pub retry_after_s: Option<u64>,
    /// Nobody was asked anything: the same request may begin anew.
    pub again: bool,
    /// A JSON object.
    pub body: ByteBuf,
}

/// One event of a turn's stream, whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Rising, not without gaps: a runner that takes over begins a new thousand thousand, so that no number that
    /// a client may have seen before a crash means another event.
    pub number: u32,
    /// Its bytes, with the empty line at the end.
    pub text: String,
}

/// The first number of a runner's events, less one.
pub fn numbers_before(epoch: u32) -> u32 {
    epoch.saturating_sub(1).saturating_mul(1_000_000)
}

/// An operation on a turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnOp {
    /// A request begins it, or joins it.
    Create(Create),
    /// An alarm has gone off: somebody would run it.
    Claim {
        /// Who. The same one again gets the same epoch.
        ticket: u64,
    },
    /// The runner is there; it is woken when its client does not want the turn any more.
    Heed {
        /// The runner's.
        epoch: u32,
        /// Who is to be woken.
        ticket: u64,
    },
    /// The runner has come to a point from which another one could go on.
    Save {
        /// The runner's.
        epoch: u32,
        /// From here.
        checkpoint: ByteBuf,
        /// What comes next.
        then: Then,
    },
    /// The runner has said something. To be told.
    Append {
        /// The runner's.
        epoch: u32,
        /// In order.
        events: Vec<Event>,
    },
    /// The turn is over.
    End {
        /// The runner's.
        epoch: u32,
        /// How.
        ended: Ended,
        /// What is still to be done after it, where something is.
        errand: Option<ByteBuf>,
    },
    /// Nothing is left to be done.
    Leave {
        /// The runner's.
        epoch: u32,
    },
    /// A client looks, or waits.
    Watch(Watch),
    /// Its person does not want it any more.
    Cancel {
        /// Whose it must be; `None` is an operator, who may end anybody's.
        owner: Option<String>,
    },
    /// A person answers the question.
    Decide(Decide),
}

/// Of [`TurnOp::Create`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Create {
    /// Whose it is.
    pub owner: String,
    /// Of the request's body: another one under the same name is another request.
    pub digest: [u8; 32],
    /// Where a runner begins. Empty: whoever creates it tells its end, and nobody takes it over.
    pub checkpoint: ByteBuf,
    /// How long it may take, in milliseconds; the time in which a person is waited for is not in it.
    pub timeout_ms: u64,
    /// How long it is kept after its end.
    pub keep_ms: u64,
}

/// What comes after a [`TurnOp::Save`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Then {
    /// The runner goes on.
    GoOn,
    /// A person is asked; nobody runs it meanwhile.
    Ask(Approval),
    /// Nobody runs it until then.
    Later {
        /// Milliseconds since 1970.
        at_ms: u64,
    },
}

/// What a [`TurnOp::Watch`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Awaited {
    /// Nothing: it looks.
    Nothing,
    /// An event after that number, or another state.
    Events,
    /// The end, or a question to a person.
    End,
}

/// Of [`TurnOp::Watch`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watch {
    /// Whose it must be; `None` is an operator.
    pub owner: Option<String>,
    /// Who is to be woken; not looked at when nothing is awaited.
    pub ticket: u64,
    /// What for.
    pub awaited: Awaited,
    /// The number of the last event that was seen; 0 is none.
    pub after: u32,
}

/// Of [`TurnOp::Decide`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decide {
    /// Whose turn it must be; `None` is an operator.
    pub owner: Option<String>,
    /// The call that was shown.
    pub call: u32,
    /// What was shown.
    pub digest: [u8; 32],
    /// What stands for whoever decides.
    pub by: String,
    /// Yes or no.
    pub approves: bool,
}

/// What an operation on a turn says to the exchange.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TurnOutcome {
    /// Of [`TurnOp::Create`]: it is new.
    Fresh,
    /// Of [`TurnOp::Create`]: the same request was there before.
    Joined,
    /// Of [`TurnOp::Create`]: another request has that name.
    Conflict,
    /// Of [`TurnOp::Claim`]: run it.
    Claimed(Box<Claimed>),
    /// Of [`TurnOp::Claim`]: somebody runs it, or there is nothing to do.
    Busy,
    /// Of [`TurnOp::Heed`].
    Heeded {
        /// The turn is not wanted any more.
        cancel: bool,
    },
    /// Of a runner's operation: it is not the runner's any more. Stop, and touch nothing.
    Lost,
    /// Of a runner's operation: it is kept.
    Saved,
    /// Of [`TurnOp::Watch`] and [`TurnOp::Cancel`].
    Seen(Box<View>),
    /// Of [`TurnOp::Decide`].
    Decided(Decided),
    /// There is no such turn, or not for this caller.
    Unknown,
}

/// Of [`TurnOutcome::Claimed`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claimed {
    /// The number of this runner.
    pub epoch: u32,
    /// How many have begun from this checkpoint, this one too: one that kills its runner is not
    /// begun for ever.
    pub tries: u32,
    /// From here.
    pub checkpoint: ByteBuf,
    /// It ended before: what is left is the errand.
    pub ended: bool,
    /// It is not wanted any more.
    pub cancel: bool,
    /// Its time is over.
    pub expired: bool,
    /// The question that was asked; without a verdict its time is over.
    pub approval: Option<Approval>,
}

/// A turn as somebody sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// How it stands.
    pub state: State,
    /// When it began, in milliseconds since 1970.
    pub created_ms: u64,
    /// The events after the one that was named.
    pub events: Vec<Event>,
    /// Events between the one that was named and the first of these are not kept any more.
    pub gap: bool,
    /// What is asked, while it is.
    pub approval: Option<Approval>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// There is nothing that was waited for: the ticket will be woken.
    pub waits: bool,
}

/// Of [`TurnOutcome::Decided`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decided {
    /// Others must agree too.
    Waiting,
    /// It is decided, by this word.
    Now(Verdict),
    /// It was decided before.
    Before(Verdict),
    /// Nothing is asked, or something else than what was shown.
    Void,
    /// Too late.
    Late,
    /// Others are asked.
    NotAsked,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Runner {
    ticket: u64,
    until_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Watcher {
    ticket: u64,
    awaited: Awaited,
}

/// What is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Turn {
    owner: String,
    digest: [u8; 32],
    state: State,
    created_ms: u64,
    /// When its time is over, unless it has ended.
    expires_ms: u64,
    keep_ms: u64,
    /// When all of it is forgotten.
    gone_ms: u64,
    epoch: u32,
    tries: u32,
    runner: Option<Runner>,
    /// Whom to wake for the runner.
    heeds: Option<u64>,
    cancel: bool,
    /// Empty when nothing is left to be done.
    checkpoint: ByteBuf,
    /// When somebody is to run it, if nobody does.
    due_ms: u64,
    approval: Option<Approval>,
    events: Vec<Event>,
    event_bytes: usize,
    /// Events before the first were dropped.
    dropped: bool,
    ended: Option<Ended>,
    watchers: Vec<Watcher>,
}

/// Applies an operation.
pub(super) fn reduce(op: &TurnOp, old: Option<&[u8]>, now: u64) -> Reduced {
    let turn = old.and_then(|bytes| postcard::from_bytes::<Turn>(bytes).ok());
    let turn = turn.filter(|turn| turn.gone_ms > now);
    let (mut turn, outcome, wake) = match (turn, op) {
        (None, TurnOp::Create(create)) => (Turn::new(create, now), TurnOutcome::Fresh, Vec::new()),
        (None, op) => return Reduced::new(Vec::new(), 1, Outcome::Turn(nothing(op))),
        (Some(mut turn), op) => {
            let mut wake = Vec::new();
            let outcome = turn.apply(op, now, &mut wake);
            (turn, outcome, wake)
        }
    };
    if let Some(alarm_ms) = turn.alarm_ms() {
        // What is left to be done is not forgotten before somebody can do it.
        turn.gone_ms = turn.gone_ms.max(alarm_ms.saturating_add(LEASE_MS));
    }
    let ttl_ms = turn.gone_ms.saturating_sub(now).max(1);
    Reduced { wake, alarm_ms: turn.alarm_ms(), ..Reduced::new(encode(&turn), ttl_ms, Outcome::Turn(outcome)) }
}

/// What is said of a turn that is not there.
fn nothing(op: &TurnOp) -> TurnOutcome {
    match op {
        TurnOp::Claim { .. } => TurnOutcome::Busy,
        TurnOp::Heed { .. }
        | TurnOp::Save { .. }
        | TurnOp::Append { .. }
        | TurnOp::End { .. }
        | TurnOp::Leave { .. } => TurnOutcome::Lost,
        TurnOp::Create(_) | TurnOp::Watch(_) | TurnOp::Cancel { .. } | TurnOp::Decide(_) => {
            TurnOutcome::Unknown
        }
    }
}

impl Turn {
    fn new(create: &Create, now: u64) -> Self {
        let expires_ms = now.saturating_add(create.timeout_ms);
        Self {
            owner: create.owner.clone(),
            digest: create.digest,
            state: if create.checkpoint.is_empty() { State::Running } else { State::Queued },
            created_ms: now,
            expires_ms,
            keep_ms: create.keep_ms,
            gone_ms: expires_ms.saturating_add(create.keep_ms),
            epoch: 0,
            tries: 0,
            runner: None,
            heeds: None,
            cancel: false,
            checkpoint: create.checkpoint.clone(),
            due_ms: now,
            approval: None,
            events: Vec::new(),
            event_bytes: 0,
            dropped: false,
            ended: None,
            watchers: Vec::new(),
        }
    }

    /// When a runner is wanted: at once, when the present one has died, or when a person has had
    /// their time. Never before a claim can succeed: an alarm that is served in vain is set again,
    /// at once and without an end, by a host whose clock is behind the one that wrote `due_ms`.
    fn alarm_ms(&self) -> Option<u64> {
        if self.checkpoint.is_empty() {
            return None;
        }
        Some(self.runner.as_ref().map_or(self.due_ms, |runner| runner.until_ms.max(self.due_ms)))
    }

    fn apply(&mut self, op: &TurnOp, now: u64, wake: &mut Vec<u64>) -> TurnOutcome {
        match op {
            TurnOp::Create(create) => {
                if create.digest != self.digest || create.owner != self.owner {
                    TurnOutcome::Conflict
                } else if self.begins_anew() {
                    // Numbers that a client may have seen mean nothing else.
                    *self = Self { epoch: self.epoch, ..Self::new(create, now) };
                    TurnOutcome::Fresh
                } else {
                    TurnOutcome::Joined
                }
            }
            TurnOp::Claim { ticket } => self.claim(*ticket, now, wake),
            TurnOp::Watch(watch) if self.is_for(watch.owner.as_deref()) => self.watch(watch, now),
            TurnOp::Cancel { owner } if self.is_for(owner.as_deref()) => self.cancel(now, wake),
            TurnOp::Decide(decide) if self.is_for(decide.owner.as_deref()) => self.decide(decide, now, wake),
            TurnOp::Watch(_) | TurnOp::Cancel { .. } | TurnOp::Decide(_) => TurnOutcome::Unknown,
            TurnOp::Heed { epoch, ticket } => self.run(*epoch, now, |turn| {
                turn.heeds = Some(*ticket);
                TurnOutcome::Heeded { cancel: turn.cancel }
            }),
            TurnOp::Save { epoch, checkpoint, then } => self.run(*epoch, now, |turn| {
                turn.save(checkpoint, then, now, wake);
                TurnOutcome::Saved
            }),
            TurnOp::Append { epoch, events } => self.run(*epoch, now, |turn| {
                turn.append(events, wake);
                TurnOutcome::Saved
            }),
            TurnOp::End { epoch, ended, errand } => self.run(*epoch, now, |turn| {
                turn.end(ended, errand.as_ref(), now, wake);
                TurnOutcome::Saved
            }),
            TurnOp::Leave { epoch } => self.run(*epoch, now, |turn| {
                turn.rest();
                turn.checkpoint = ByteBuf::new();
                TurnOutcome::Saved
            }),
        }
    }

    /// How it stands. One that nobody can take over, and whose time is over, has lost whoever was to
    /// tell its end. That is not written down: who only looks writes nothing.
    fn state_at(&self, now: u64) -> State {
        let is_lost = self.checkpoint.is_empty()
            && !self.state.is_end()
            && now >= self.expires_ms.saturating_add(MOST_SKEW_MS);
        if is_lost { State::Expired } else { self.state }
    }

    /// Whether it came to nothing, and nothing of it is left to be done.
    fn begins_anew(&self) -> bool {
        self.ended.as_ref().is_some_and(|ended| ended.again) && self.checkpoint.is_empty()
    }

    /// Whether the turn may be seen by this one; an operator sees all.
    fn is_for(&self, owner: Option<&str>) -> bool {
        owner.is_none_or(|owner| owner == self.owner)
    }

    fn claim(&mut self, ticket: u64, now: u64, wake: &mut Vec<u64>) -> TurnOutcome {
        match &self.runner {
            Some(runner) if runner.ticket == ticket => {}
            Some(runner) if runner.until_ms > now => return TurnOutcome::Busy,
            _ if self.checkpoint.is_empty() || self.due_ms > now => return TurnOutcome::Busy,
            _ => {
                self.epoch = self.epoch.saturating_add(1);
                self.tries = self.tries.saturating_add(1);
                self.runner = Some(Runner { ticket, until_ms: now.saturating_add(LEASE_MS) });
                self.heeds = None;
                if !self.state.is_end() && self.state != State::Running {
                    self.state = State::Running;
                    self.wake_watchers(false, wake);
                }
            }
        }
        TurnOutcome::Claimed(Box::new(Claimed {
            epoch: self.epoch,
            tries: self.tries,
            checkpoint: self.checkpoint.clone(),
            ended: self.state.is_end(),
            cancel: self.cancel,
            expired: now >= self.expires_ms,
            approval: self.approval.clone(),
        }))
    }

    /// An operation of the runner's, which says too that it is alive. Who creates a turn without a
    /// checkpoint is its runner, with the epoch 0.
    fn run(&mut self, epoch: u32, now: u64, act: impl FnOnce(&mut Self) -> TurnOutcome) -> TurnOutcome {
        let creators = epoch == 0 && self.epoch == 0 && self.checkpoint.is_empty();
        let its_own = creators && !self.state.is_end() && now < self.expires_ms;
        if !its_own && (epoch != self.epoch || self.runner.is_none()) {
            return TurnOutcome::Lost;
        }
        if let Some(runner) = &mut self.runner {
            runner.until_ms = now.saturating_add(LEASE_MS);
        }
        act(self)
    }

    fn save(&mut self, checkpoint: &ByteBuf, then: &Then, now: u64, wake: &mut Vec<u64>) {
        self.checkpoint.clone_from(checkpoint);
        self.tries = 0;
        // The grant was for the call that this point is behind.
        self.approval = None;
        match then {
            Then::GoOn => self.due_ms = now,
            // Nobody is asked about what has ended: an end stands.
            Then::Ask(_) if self.state.is_end() => self.due_ms = now,
            Then::Ask(approval) => {
                self.rest();
                let left = self.expires_ms.saturating_sub(now);
                self.expires_ms = approval.until_ms.saturating_add(left);
                self.gone_ms = self.gone_ms.max(self.expires_ms.saturating_add(self.keep_ms));
                self.due_ms = if self.cancel { now } else { approval.until_ms };
                self.approval = Some(approval.clone());
                self.state = State::NeedsApproval;
                self.wake_watchers(false, wake);
            }
            Then::Later { at_ms } => {
                self.rest();
                // What is not wanted any more is ended at once.
                self.due_ms = if self.cancel && !self.state.is_end() { now } else { *at_ms };
                self.gone_ms = self.gone_ms.max(at_ms.saturating_add(self.keep_ms));
            }
        }
    }

    /// Nobody runs it.
    fn rest(&mut self) {
        self.runner = None;
        self.heeds = None;
    }

    fn append(&mut self, events: &[Event], wake: &mut Vec<u64>) {
        if self.state.is_end() {
            return;
        }
        for event in events {
            // One that is told twice is told once.
            if self.events.last().is_none_or(|last| last.number < event.number) {
                self.event_bytes += event.text.len();
                self.events.push(event.clone());
            }
        }
        let mut drop = 0;
        while self.event_bytes > MOST_EVENT_BYTES && drop < self.events.len() {
            self.event_bytes -= self.events.get(drop).map_or(0, |event| event.text.len());
            drop += 1;
        }
        self.events.drain(..drop);
        self.dropped |= drop > 0;
        self.wake_watchers(true, wake);
    }

    fn end(&mut self, ended: &Ended, errand: Option<&ByteBuf>, now: u64, wake: &mut Vec<u64>) {
        if !self.state.is_end() {
            self.state = if ended.state.is_end() { ended.state } else { State::Failed };
            self.ended = Some(ended.clone());
            self.approval = None;
            self.gone_ms = now.saturating_add(self.keep_ms);
        }
        self.tries = 0;
        self.due_ms = now;
        self.checkpoint = errand.cloned().unwrap_or_default();
        if self.checkpoint.is_empty() {
            self.rest();
        }
        self.wake_watchers(false, wake);
    }

    /// Those who wait for events, or all.
    fn wake_watchers(&mut self, only_events: bool, wake: &mut Vec<u64>) {
        self.watchers.retain(|watcher| {
            let woken = !only_events || watcher.awaited == Awaited::Events;
            if woken {
                wake.push(watcher.ticket);
            }
            !woken
        });
    }

    fn watch(&mut self, watch: &Watch, now: u64) -> TurnOutcome {
        let mut view = self.view(watch.after, now);
        let settled = view.state.is_end() || view.state == State::NeedsApproval;
        view.waits = match watch.awaited {
            Awaited::Nothing => false,
            // What is not kept any more will not come.
            Awaited::Events => view.events.is_empty() && !view.gap && !settled,
            Awaited::End => !settled,
        };
        if watch.awaited != Awaited::Nothing {
            self.watchers.retain(|watcher| watcher.ticket != watch.ticket);
        }
        if view.waits {
            if self.watchers.len() >= MOST_WATCHERS {
                self.watchers.remove(0);
            }
            self.watchers.push(Watcher { ticket: watch.ticket, awaited: watch.awaited });
        }
        TurnOutcome::Seen(Box::new(view))
    }

    fn view(&self, after: u32, now: u64) -> View {
        let events: Vec<Event> = self.events.iter().filter(|event| event.number > after).cloned().collect();
        // Whoever saw the last one that was dropped misses nothing, but nobody knows which it was.
        let gap = self.dropped && events.len() == self.events.len();
        View {
            state: self.state_at(now),
            created_ms: self.created_ms,
            events,
            gap,
            approval: self.approval.clone().filter(|_| self.state == State::NeedsApproval),
            ended: self.ended.clone(),
            waits: false,
        }
    }

    fn cancel(&mut self, now: u64, wake: &mut Vec<u64>) -> TurnOutcome {
        if !self.state_at(now).is_end() && !self.cancel {
            self.cancel = true;
            // Who runs it ends it, with everything that it owes.
            wake.extend(self.heeds.take());
            self.due_ms = now;
        }
        TurnOutcome::Seen(Box::new(self.view(u32::MAX, now)))
    }

    fn decide(&mut self, decide: &Decide, now: u64, wake: &mut Vec<u64>) -> TurnOutcome {
        let operator = decide.owner.is_none();
        let Some(approval) = &mut self.approval else { return TurnOutcome::Decided(Decided::Void) };
        if approval.call != decide.call || approval.digest != decide.digest {
            return TurnOutcome::Decided(Decided::Void);
        }
        if let Some(verdict) = approval.verdict {
            return TurnOutcome::Decided(Decided::Before(verdict));
        }
        if self.state != State::NeedsApproval || self.cancel || now >= approval.until_ms {
            return TurnOutcome::Decided(Decided::Late);
        }
        let verdict = if !decide.approves {
            // Whoever may see it may stop it.
            Verdict::Refused
        } else {
            if !approval.asks(operator) {
                return TurnOutcome::Decided(Decided::NotAsked);
            }
            let who = (decide.by.clone(), operator);
            if !approval.given.contains(&who) {
                approval.given.push(who);
            }
            if !approval.is_complete() {
                return TurnOutcome::Decided(Decided::Waiting);
            }
            Verdict::Approved
        };
        approval.verdict = Some(verdict);
        approval.by = Some(decide.by.clone());
        // The time that was left counts from now on, not from when the person's time is over.
        self.expires_ms = now.saturating_add(self.expires_ms.saturating_sub(approval.until_ms));
        self.state = State::Queued;
        self.due_ms = now;
        self.wake_watchers(false, wake);
        TurnOutcome::Decided(Decided::Now(verdict))
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
