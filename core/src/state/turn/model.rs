//! Everybody around a turn, in any order: clients, runners that live, die or come back from the
//! dead, persons, a clock, answers that are lost, a store that dies. Beside the reducer runs what
//! its documentation [promises](facts), and after every operation the two are compared.
//!
//! A sequence is a list of numbers, so that one which breaks something can be made shorter.

mod facts;
mod runner;

use std::io::Write;

#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

use super::*;
use crate::state::Op;
use facts::{Checked, Facts, Mark, digest, holds, serial};
use runner::{Deed, Runner};

/// Sequences of 20 to 60 steps. Built without optimisation, a million take minutes.
const SEQUENCES: u64 = if cfg!(target_arch = "wasm32") { 2_000 } else { 1_000_000 };

/// Runners that are not known to be gone.
const MOST_RUNNERS: usize = 3;
/// A stored turn without its events.
const MOST_OTHER_BYTES: usize = 4_096;

/// The choices of one step.
struct Choice(u64);

impl Choice {
    /// One of `of`.
    fn pick(&mut self, of: u64) -> u64 {
        let picked = self.0 % of;
        self.0 /= of;
        picked
    }
}

/// What the turn is about.
struct Script {
    /// So many calls have to be made.
    calls: u8,
    /// Those for which a person is asked, a bit each.
    asked: u8,
    need: Need,
    /// Its events are large.
    talks: bool,
    create: Create,
}

impl Script {
    fn new(choice: &mut Choice) -> Self {
        let inline = choice.pick(16) == 0;
        let begin = Mark::Before(0).bytes();
        let needs = [Need::User, Need::Operator, Need::TwoOperators, Need::UserAndOperator];
        Self {
            calls: choice.pick(4) as u8,
            asked: choice.pick(8) as u8,
            need: needs[choice.pick(4) as usize],
            talks: choice.pick(256) == 0,
            create: Create {
                owner: "me".into(),
                digest: [1; 32],
                checkpoint: if inline { ByteBuf::new() } else { begin },
                timeout_ms: [5_000, 60_000, 600_000][choice.pick(3) as usize],
                keep_ms: [5_000, 100_000, 600_000][choice.pick(3) as usize],
            },
        }
    }

    fn asks(&self, call: u8) -> bool {
        self.asked & (1 << call) != 0
    }
}

/// One that watches.
#[derive(Clone, Copy)]
struct Watcher {
    ticket: u64,
    after: u32,
    waits: Option<Waits>,
}

/// What a watcher waits for.
#[derive(Clone, Copy)]
struct Waits {
    awaited: Awaited,
    after: u32,
    state: State,
    /// How many had waited before.
    turn: usize,
}

struct World {
    script: Script,
    now: u64,
    bytes: Option<ByteBuf>,
    facts: Option<Facts>,
    /// What a dying store comes back with.
    durable: (Option<ByteBuf>, Option<Facts>),
    runners: Vec<Runner>,
    tickets: u64,
    watchers: [Watcher; 4],
    waited: usize,
    /// Every event that a client saw: the number, and which it was.
    seen: Vec<(u32, u32)>,
    /// Every epoch that was given out, and to whom.
    epochs: Vec<(u32, u64)>,
    /// How often each call was done.
    acts: [u8; 4],
    /// Calls of which it was said that nobody knows.
    unknown: [bool; 4],
    /// What persons agreed to and nobody has done yet.
    granted: Vec<[u8; 32]>,
    over: bool,
    log: Option<Vec<String>>,
}

impl World {
    fn new(first: u64, logs: bool) -> Self {
        let mut choice = Choice(first);
        let watcher = |ticket| Watcher { ticket, after: 0, waits: None };
        Self {
            script: Script::new(&mut choice),
            now: 1_000_000,
            bytes: None,
            facts: None,
            durable: (None, None),
            runners: Vec::new(),
            tickets: 0,
            watchers: [watcher(1_001), watcher(1_002), watcher(1_003), watcher(1_004)],
            waited: 0,
            seen: Vec::new(),
            epochs: Vec::new(),
            acts: [0; 4],
            unknown: [false; 4],
            granted: Vec::new(),
            over: false,
            log: logs.then(Vec::new),
        }
    }

    /// The turn is created; without a checkpoint, by one that runs it.
    fn begin(&mut self) -> Checked {
        self.apply(&Op::Turn(TurnOp::Create(self.script.create.clone())))?;
        if self.script.create.checkpoint.is_empty() {
            self.tickets += 1;
            self.runners.push(Runner::creator(self.tickets));
        }
        Ok(())
    }

    fn log(&mut self, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(log) = &mut self.log {
            log.push(format!("{now}: {}", line()));
        }
    }

    /// Applies it, and compares what came of it with what is true.
    fn apply(&mut self, op: &Op) -> Result<TurnOutcome, &'static str> {
        let Op::Turn(turn_op) = op else { return Err("of something else") };
        if self.facts.as_ref().is_some_and(|facts| facts.gone_ms <= self.now) {
            (self.facts, self.over) = (None, true);
            // Another turn of that name knows nobody who waits for this one.
            self.watchers.iter_mut().for_each(|watcher| watcher.waits = None);
        }
        let before = self.bytes.take();
        let reduced = reduce(turn_op, before.as_deref().map(Vec::as_slice), self.now);
        let Outcome::Turn(outcome) = reduced.outcome else { return Err("an outcome of something else") };
        self.log(|| format!("{turn_op:?} -> {outcome:?}, alarm {:?}", reduced.alarm_ms));
        let unchanged = before.as_ref() == Some(&reduced.new);
        match (&mut self.facts, turn_op) {
            (Some(facts), _) => facts.happens(turn_op, &outcome, &reduced.wake, self.now)?,
            (None, TurnOp::Create(create)) => {
                holds(outcome == TurnOutcome::Fresh, "there before it was begun")?;
                self.facts = Some(Facts::new(create, self.now));
            }
            (None, _) => {
                let nothing = matches!(outcome, TurnOutcome::Busy | TurnOutcome::Lost | TurnOutcome::Unknown);
                holds(nothing && reduced.alarm_ms.is_none(), "something of a turn that is not there")?;
                return holds(reduced.new.is_empty(), "remembered for ever").map(|()| outcome);
            }
        }
        let Some(facts) = &mut self.facts else { return Ok(outcome) };
        facts.kept(reduced.ttl_ms, self.now)?;
        holds(reduced.alarm_ms == facts.alarm_ms(), "another alarm")?;
        let changes_nothing = match outcome {
            TurnOutcome::Joined | TurnOutcome::Conflict | TurnOutcome::Busy => true,
            TurnOutcome::Lost | TurnOutcome::Unknown => true,
            _ => op.is_read(),
        };
        holds(unchanged || !changes_nothing, "what changes nothing changes something")?;
        if let (TurnOp::Claim { ticket }, TurnOutcome::Claimed(claimed)) = (turn_op, &outcome) {
            let given = (claimed.epoch, *ticket);
            if !self.epochs.contains(&given) {
                let rises = self.epochs.iter().all(|(epoch, _)| *epoch < claimed.epoch);
                holds(rises, "an epoch is given out twice")?;
                self.epochs.push(given);
            }
        }
        self.bytes = Some(reduced.new);
        self.check_watchers(&reduced.wake)?;
        if !unchanged {
            self.check_bytes()?;
        }
        if !op.is_relaxed() {
            self.durable = (self.bytes.clone(), self.facts.clone());
        }
        Ok(outcome)
    }

    /// Whoever waits for what there is now was woken, or is not remembered any more.
    fn check_watchers(&mut self, wake: &[u64]) -> Checked {
        let Some(facts) = &self.facts else { return Ok(()) };
        if facts.is_lost() {
            // What the clock alone has done wakes nobody: they look by themselves.
            return Ok(());
        }
        for watcher in &mut self.watchers {
            let Some(waits) = watcher.waits else { continue };
            if wake.contains(&watcher.ticket) {
                watcher.waits = None;
                continue;
            }
            let is_there = match waits.awaited {
                Awaited::Nothing => false,
                Awaited::Events => facts.last_told() > waits.after || facts.state() != waits.state,
                Awaited::End => facts.is_settled(),
            };
            let forgotten = self.waited - waits.turn >= MOST_WATCHERS;
            holds(!is_there || forgotten, "nobody wakes one that waits")?;
        }
        Ok(())
    }

    fn check_bytes(&self) -> Checked {
        let bytes = self.bytes.as_deref().map(Vec::as_slice).unwrap_or_default();
        holds(bytes.len() < MOST_EVENT_BYTES + MOST_OTHER_BYTES, "too many bytes")?;
        let turn: Turn = postcard::from_bytes(bytes).map_err(|_| "bytes that cannot be read")?;
        holds(encode(&turn) == bytes, "read and written, they are others")
    }

    fn step(&mut self, choice: &mut Choice) -> Checked {
        match choice.pick(16) {
            0 | 1 => {
                let gaps = [1, 300, 3_000, 14_999, LEASE_MS, 30_000, 70_000, 250_000, 900_000];
                match choice.pick(40) {
                    0 => self.now += gaps[8],
                    // Another host's clock is behind.
                    1 => self.now -= 200,
                    at => self.now += gaps[at as usize % 8],
                }
                Ok(())
            }
            2 | 3 => self.call(choice),
            4..=9 if self.runners.is_empty() => self.call(choice),
            4..=9 => {
                let at = choice.pick(self.runners.len() as u64) as usize;
                self.run(at, false, choice)
            }
            10 => self.crash(choice),
            11 => {
                let mut create = self.script.create.clone();
                match choice.pick(4) {
                    0 => create.digest = [2; 32],
                    1 => create.owner = "them".into(),
                    _ => {}
                }
                self.apply(&Op::Turn(TurnOp::Create(create))).map(drop)
            }
            12 | 13 => self.watch(choice),
            14 if choice.pick(4) == 0 => {
                let owner = [None, Some("me"), Some("them")][choice.pick(3) as usize].map(str::to_owned);
                self.apply(&Op::Turn(TurnOp::Cancel { owner })).map(drop)
            }
            _ => self.decide(choice),
        }
    }

    /// An alarm goes off: when it is due, twice at once, or without a reason.
    fn call(&mut self, choice: &mut Choice) -> Checked {
        let due = self.facts.as_ref().and_then(Facts::alarm_ms).is_some_and(|alarm| alarm <= self.now);
        let count = if due { 1 + usize::from(choice.pick(4) == 0) } else { usize::from(choice.pick(8) == 0) };
        for _ in 0..count {
            self.tickets += 1;
            if self.runners.len() >= MOST_RUNNERS {
                self.runners.remove(0);
            }
            self.runners.push(Runner::called(self.tickets));
            self.run(self.runners.len() - 1, false, choice)?;
        }
        Ok(())
    }

    /// One runner does one thing.
    fn run(&mut self, at: usize, steady: bool, choice: &mut Choice) -> Checked {
        let Some(mut runner) = self.runners.get(at).cloned() else { return Ok(()) };
        match runner.deed(&self.script, self.now, steady, choice) {
            Deed::Act(call, arguments) => self.act(call, arguments)?,
            Deed::Op(turn_op) => {
                let op = Op::Turn(turn_op);
                let outcome = self.apply(&op)?;
                let Op::Turn(turn_op) = op else { return Ok(()) };
                if !steady && choice.pick(8) == 0 {
                    runner.hears_nothing(turn_op);
                } else if let Some(call) = runner.hears(&turn_op, &outcome) {
                    self.unknown[usize::from(call)] = true;
                }
            }
        }
        if runner.is_gone() {
            self.runners.remove(at);
        } else if let Some(kept) = self.runners.get_mut(at) {
            *kept = runner;
        }
        Ok(())
    }

    /// The side effect itself.
    fn act(&mut self, call: u8, arguments: u8) -> Checked {
        self.log(|| format!("call {call} is done with {arguments}"));
        let acts = &mut self.acts[usize::from(call)];
        *acts += 1;
        holds(*acts == 1, "done twice")?;
        if !self.script.asks(call) {
            return Ok(());
        }
        let granted = self.granted.iter().position(|granted| *granted == digest(u32::from(call), arguments));
        self.granted.swap_remove(granted.ok_or("done, and nobody agreed to it")?);
        Ok(())
    }

    /// A runner stops where it is, or the store loses what was not on disk.
    fn crash(&mut self, choice: &mut Choice) -> Checked {
        if choice.pick(4) > 0 {
            if !self.runners.is_empty() {
                let at = choice.pick(self.runners.len() as u64) as usize;
                self.runners.remove(at);
            }
            return Ok(());
        }
        self.log(|| "the store dies".to_owned());
        (self.bytes, self.facts) = self.durable.clone();
        for watcher in &mut self.watchers {
            watcher.waits = None;
        }
        // Its process ran them, or they ran elsewhere.
        if choice.pick(2) == 0 {
            self.runners.clear();
        }
        Ok(())
    }

    fn watch(&mut self, choice: &mut Choice) -> Checked {
        if choice.pick(64) == 0 {
            for ticket in 2_000..2_016 {
                let watch = Watch { owner: None, ticket, awaited: Awaited::End, after: 0 };
                let outcome = self.apply(&Op::Turn(TurnOp::Watch(watch)))?;
                self.waited += usize::from(Outcome::Turn(outcome).waits());
            }
            return Ok(());
        }
        let at = choice.pick(4) as usize;
        let Watcher { ticket, after, .. } = self.watchers[at];
        let owner = [None, Some("them"), Some("me"), Some("me")][choice.pick(4) as usize].map(str::to_owned);
        let awaited = [Awaited::Nothing, Awaited::Events, Awaited::End][choice.pick(3) as usize];
        // One that comes back may have forgotten what it saw.
        let after = if choice.pick(8) == 0 { 0 } else { after };
        let outcome = self.apply(&Op::Turn(TurnOp::Watch(Watch { owner, ticket, awaited, after })))?;
        let TurnOutcome::Seen(view) = outcome else { return Ok(()) };
        if view.waits {
            self.waited += 1;
            let (turn, state) = (self.waited, view.state);
            self.watchers[at].waits = Some(Waits { awaited, after, state, turn });
        } else if awaited != Awaited::Nothing {
            self.watchers[at].waits = None;
        }
        if choice.pick(8) == 0 {
            return Ok(());
        }
        let mut last = after;
        for event in &view.events {
            holds(event.number > last, "numbers do not rise")?;
            last = event.number;
            let serial = serial(&event.text).ok_or("an event that nobody told")?;
            match self.seen.iter().find(|(number, _)| *number == event.number) {
                Some((_, before)) => holds(*before == serial, "another text under a number that was seen")?,
                None => self.seen.push((event.number, serial)),
            }
        }
        self.watchers[at].after = last.max(self.watchers[at].after);
        Ok(())
    }

    /// A person answers: what is asked, what was asked, or something else.
    fn decide(&mut self, choice: &mut Choice) -> Checked {
        let question = self.facts.as_ref().and_then(|facts| facts.question.as_ref());
        let (mut call, mut shown) = match question {
            Some(question) => (question.asked.call, question.asked.digest),
            None if choice.pick(4) > 0 => return Ok(()),
            None => (0, digest(0, 0)),
        };
        match choice.pick(8) {
            0 => shown = digest(call, choice.pick(3) as u8),
            1 => call += 1,
            _ => {}
        }
        let persons = [(Some("me"), "me"), (Some("them"), "them"), (None, "a"), (None, "b"), (None, "me")];
        let (owner, by) = persons[choice.pick(5) as usize];
        let approves = choice.pick(5) > 0;
        let decide = Decide { owner: owner.map(str::to_owned), call, digest: shown, by: by.into(), approves };
        let op = Op::Turn(TurnOp::Decide(decide));
        // Sent twice, when the first answer is lost.
        for _ in 0..=u64::from(choice.pick(6) == 0) {
            if let TurnOutcome::Decided(Decided::Now(Verdict::Approved)) = self.apply(&op)? {
                self.granted.push(shown);
            }
        }
        Ok(())
    }

    /// Nothing dies any more and alarms are served: the turn ends, is kept and is forgotten.
    fn come_to_an_end(&mut self, choice: &mut Choice) -> Checked {
        self.log(|| "nothing dies any more".to_owned());
        self.runners.clear();
        let mut alarms = 0;
        while let Some(alarm_ms) = self.facts.as_ref().and_then(Facts::alarm_ms) {
            alarms += 1;
            holds(alarms < 100, "alarms without an end")?;
            self.now = self.now.max(alarm_ms);
            self.tickets += 1;
            self.runners.push(Runner::called(self.tickets));
            let mut deeds = 0;
            while !self.runners.is_empty() {
                self.run(0, true, choice)?;
                deeds += 1;
                holds(deeds < 40, "a runner does not come to an end")?;
            }
            holds(self.epochs.len() < 100, "it does not come to an end")?;
        }
        let Some(facts) = self.facts.clone() else { return Err("forgotten before it came to an end") };
        let inline = self.script.create.checkpoint.is_empty();
        holds(facts.end.is_some() || inline, "it has not come to an end")?;
        if facts.state() == State::Done && !inline {
            let mut calls = (0..self.script.calls).filter(|call| !self.script.asks(*call)).map(usize::from);
            let known = calls.all(|call| self.acts[call] == 1 || self.unknown[call]);
            holds(known, "done, but for a call that nobody heard of")?;
        }
        let look = TurnOp::Watch(Watch { owner: None, ticket: 0, awaited: Awaited::Nothing, after: 0 });
        let look = Op::Turn(look);
        self.now = facts.gone_ms - 1;
        holds(matches!(self.apply(&look)?, TurnOutcome::Seen(_)), "forgotten too early")?;
        self.now += 1;
        holds(self.apply(&look)? == TurnOutcome::Unknown, "kept too long")
    }
}

/// Runs a sequence: the first number is what the turn is about, each other one a step.
fn run(sequence: &[u64], logs: bool) -> Result<(), (&'static str, Vec<String>)> {
    let (first, steps) = sequence.split_first().expect("what the turn is about");
    let mut world = World::new(*first, logs);
    let mut checked = world.begin();
    for step in steps {
        if checked.is_ok() && !world.over {
            checked = world.step(&mut Choice(*step));
        }
    }
    // One whose alarm nobody served for longer than it is kept is forgotten, and has no end.
    world.over |= world.facts.as_ref().is_some_and(|facts| facts.gone_ms <= world.now);
    if checked.is_ok() && !world.over {
        world.now = world.now.max(1_000_000);
        checked = world.come_to_an_end(&mut Choice(*first));
    }
    checked.map_err(|broken| (broken, world.log.unwrap_or_default()))
}

/// Pseudo-random numbers (SplitMix64), the same ones in every run.
struct Numbers(u64);

impl Iterator for Numbers {
    type Item = u64;

    fn next(&mut self) -> Option<u64> {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    }
}

/// Runs the sequences with these seeds. Gives the steps, and panics with a short history of the first one that
/// breaks something.
fn run_all(seeds: core::ops::Range<u64>) -> u64 {
    let mut steps = 0;
    let mut sequence = Vec::new();
    for seed in seeds {
        sequence.clear();
        let length = 21 + (seed % 41) as usize;
        sequence.extend(Numbers(seed << 32).take(length));
        steps += length as u64 - 1;
        if run(&sequence, false).is_err() {
            let (broken, log) = run(&shorter(sequence), true).expect_err("it has failed before");
            panic!("seed {seed}: {broken}\n{}", log.join("\n"));
        }
    }
    steps
}

/// Leaves out what is not needed to break something.
fn shorter(mut sequence: Vec<u64>) -> Vec<u64> {
    let mut at = 1;
    while at < sequence.len() {
        let mut without = sequence.clone();
        without.remove(at);
        if run(&without, false).is_err() {
            (sequence, at) = (without, 1);
        } else {
            at += 1;
        }
    }
    sequence
}

#[test]
fn no_interleaving_breaks_a_promise() {
    let half = SEQUENCES / 2;
    #[cfg(not(target_arch = "wasm32"))]
    let steps = std::thread::scope(|scope| {
        let other = scope.spawn(|| run_all(half..SEQUENCES));
        run_all(0..half) + other.join().expect("the other half")
    });
    #[cfg(target_arch = "wasm32")]
    let steps = run_all(0..half) + run_all(half..SEQUENCES);
    assert!(steps >= SEQUENCES * 20);
    // Said even by a run that shows nothing of a test that passes.
    let _ = writeln!(std::io::stderr(), "a turn: {SEQUENCES} random interleavings, {steps} steps");
}
