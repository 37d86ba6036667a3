//! Runs an exchange again from what was kept.
//!
//! The same module under the same policy asks for the same things in the same order, so each input fits.
//! Under another one it may ask for others: then what was kept answers what is of the same kind, the
//! first to the first, and what nothing answers is said.

use std::collections::BTreeMap;

use minigate_core::{
    seam::{Delivery, Fetch, Input, Moment, Output, Piece, Reply, Rope, Step},
    state::{Op, Outcome},
};

use super::{First, Kept, KeptStep, hash, show};

/// One step of the core.
pub(super) type Stepper<'s> = Box<dyn FnMut(Moment, Step<'_>, &[u8]) -> Result<Reply, String> + 's>;

/// Something that a host was asked for.
#[derive(Debug)]
struct Asked {
    id: u32,
    /// What may be answered alike.
    kind: String,
    ops: Vec<(String, Op)>,
    fetch: Option<Box<Fetch>>,
    answered: bool,
}

/// One step that was taken.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) now: Moment,
    pub(super) input: String,
    pub(super) outputs: Vec<String>,
    /// Whether it led to the same as it once did; where that is known.
    pub(super) same: bool,
}

/// What came of an exchange.
#[derive(Debug, Default)]
pub(super) struct Came {
    pub(super) taken: Vec<Taken>,
    /// What log and ledger say, by place.
    pub(super) decisions: BTreeMap<String, String>,
    /// What upstreams were sent: where, and the body.
    pub(super) sent: Vec<(String, String)>,
    /// What the client was sent.
    pub(super) answer: String,
    /// Why it did not come to its end.
    pub(super) stopped: Option<String>,
}

/// What an upstream says when it is asked anew: the inputs, each with its payload.
pub(super) type Live<'l> = &'l mut dyn FnMut(&Fetch, &[u8]) -> Vec<(Input<'static>, Vec<u8>)>;

/// An exchange that runs.
pub(super) struct Rerun<'s> {
    step: Stepper<'s>,
    state: Vec<u8>,
    body: Vec<u8>,
    now: Moment,
    due_ms: Option<u64>,
    asked: Vec<Asked>,
    over: bool,
    came: Came,
}

impl<'s> Rerun<'s> {
    fn begin(step: Stepper<'s>, kept: &Kept) -> Self {
        let now = Moment { unix_ms: kept.began_ms, entropy: [0; 16] };
        let came = Came::default();
        let mut run = Self {
            step,
            state: Vec::new(),
            body: Vec::new(),
            now,
            due_ms: None,
            asked: Vec::new(),
            over: false,
            came,
        };
        match &kept.first {
            First::State(state) => run.state = state.to_vec(),
            First::Alarm { key, now, led_to } => {
                run.now = *now;
                let reply = (run.step)(*now, Step::Alarm { key: key.clone() }, &[]);
                run.take("Alarm".into(), reply, led_to);
            }
        }
        run
    }

    /// One input.
    fn feed(&mut self, now: Moment, input: Input<'_>, payload: &[u8], led_to: &[u8]) {
        if let Some(asked) =
            show::id(&input).and_then(|id| self.asked.iter_mut().find(|asked| asked.id == id))
        {
            asked.answered = true;
        }
        // A body that came back from the store is the host's only.
        if matches!(input, Input::Body(_)) || (matches!(input, Input::Stored { .. }) && !payload.is_empty()) {
            self.body = payload.to_vec();
        }
        self.now = now;
        let said = show::input(&input, payload.len());
        let state = std::mem::take(&mut self.state);
        let reply = (self.step)(now, Step::Continue { state: &state, input }, payload);
        self.take(said, reply, led_to);
    }

    fn take(&mut self, input: String, reply: Result<Reply, String>, led_to: &[u8]) {
        let now = self.now;
        let reply = match reply {
            Ok(reply) => reply,
            Err(problem) => {
                self.over = true;
                let outputs = vec![format!("the module failed: {problem}")];
                self.came.taken.push(Taken { now, input, outputs, same: led_to.is_empty() });
                return;
            }
        };
        let outputs = reply.outputs.iter().filter_map(show::output).collect();
        self.came.taken.push(Taken { now, input, outputs, same: hash(&reply.outputs) == led_to });
        self.state = reply.state.into_vec();
        for output in reply.outputs {
            self.perform(output);
        }
    }

    fn perform(&mut self, output: Output) {
        let mut ask = |id, kind: &str, ops, fetch| {
            self.asked.push(Asked { id, kind: kind.to_owned(), ops, fetch, answered: false });
        };
        match output {
            Output::Store { id: 0, .. } => {}
            Output::Store { id, ops } => ask(id, &show::kinds(&ops), ops, None),
            Output::Keep { id, .. } => ask(id, "Keep", Vec::new(), None),
            Output::KeepBody { id, .. } => ask(id, "KeepBody", Vec::new(), None),
            Output::Restore { id, .. } => ask(id, "Restore", Vec::new(), None),
            Output::Fetch(fetch) => {
                self.came.sent.push((show::place(&fetch), text_of(&fetch.body, &self.body)));
                ask(fetch.id, &fetch_kind(&fetch), Vec::new(), Some(Box::new(fetch)));
            }
            Output::Cancel { id } => {
                for asked in self.asked.iter_mut().filter(|asked| asked.id == id) {
                    asked.answered = true;
                }
            }
            Output::Chunk(bytes) => self.came.answer.push_str(&String::from_utf8_lossy(&bytes)),
            Output::Record { line, .. } => show::flatten("log", &line, &mut self.came.decisions),
            Output::Audit { record } => show::flatten("ledger", &record, &mut self.came.decisions),
            Output::Deadline { at_ms, .. } => self.due_ms = Some(at_ms),
            Output::Done => self.over = true,
            _ => {}
        }
    }

    /// The same again.
    pub(super) fn again(step: Stepper<'s>, kept: &Kept) -> Self {
        let mut run = Self::begin(step, kept);
        for (number, step) in kept.steps.iter().enumerate() {
            if run.over {
                run.came.stopped =
                    Some(format!("it is over, and {} inputs are left", kept.steps.len() - number));
                break;
            }
            match postcard::from_bytes(&step.input) {
                Ok(input) => run.feed(step.now, input, &step.payload, &step.led_to),
                Err(_) => {
                    run.came.stopped = Some(format!("input {} cannot be read", number + 1));
                    break;
                }
            }
        }
        if !run.over && !kept.cut && run.came.stopped.is_none() {
            run.came.stopped = Some("its end is missing".into());
        }
        run
    }

    /// With what was kept as far as it fits, and models asked anew where that is wanted.
    pub(super) fn otherwise(
        step: Stepper<'s>,
        kept: &Kept,
        before: &Self,
        mut live: Option<Live<'_>>,
    ) -> Self {
        let mut run = Self::begin(step, kept);
        for KeptStep { now, input, payload, .. } in &kept.steps {
            if run.over {
                break;
            }
            let Ok(input) = postcard::from_bytes::<Input<'_>>(input) else { break };
            let now = Moment { unix_ms: now.unix_ms.max(run.now.unix_ms), ..*now };
            let Some(id) = show::id(&input) else {
                let early = run.due_ms.is_none_or(|due| due > now.unix_ms);
                if !(matches!(input, Input::Deadline) && early) {
                    run.feed(now, input, payload, &[]);
                }
                continue;
            };
            if let Some(live) = &mut live
                && before.is_model(id)
            {
                run.ask_models(live);
                continue;
            }
            match run.counterpart(before, id) {
                Some(id) => run.feed(now, show::with_id(input, id), payload, &[]),
                None => run.answer_stores(before, kept),
            }
        }
        for _ in 0..MOST_ROUNDS {
            if run.over {
                break;
            }
            let before_round = run.came.taken.len();
            if let Some(live) = &mut live {
                run.ask_models(live);
            }
            run.answer_stores(before, kept);
            if run.came.taken.len() == before_round {
                break;
            }
        }
        if !run.over && !kept.cut {
            let open = run.asked.iter().filter(|asked| !asked.answered).map(|asked| asked.kind.as_str());
            let open: Vec<&str> = open.collect();
            run.came.stopped = Some(format!("nothing that was kept answers: {}", open.join(", ")));
        }
        run
    }

    fn is_model(&self, id: u32) -> bool {
        let asked = self.asked.iter().find(|asked| asked.id == id);
        asked.and_then(|asked| asked.fetch.as_deref()).is_some_and(show::is_model)
    }

    /// What is asked here in the place of what was asked there.
    fn counterpart(&self, before: &Self, id: u32) -> Option<u32> {
        let at = before.asked.iter().position(|asked| asked.id == id)?;
        let kind = before.asked[at].kind.as_str();
        let nth = before.asked[..at].iter().filter(|asked| asked.kind == kind).count();
        let here = self.asked.iter().filter(|asked| asked.kind == kind).nth(nth)?;
        Some(here.id)
    }

    /// Answers lists of operations that were not asked like this, each operation as one of its
    /// kind was answered.
    fn answer_stores(&mut self, before: &Self, kept: &Kept) {
        let known = |kind: &str| before.asked.iter().filter(|asked| asked.kind == kind).count();
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut alone = Vec::new();
        for asked in &self.asked {
            let nth = seen.entry(&asked.kind).and_modify(|nth| *nth += 1).or_insert(1);
            if !asked.answered && !asked.ops.is_empty() && *nth > known(&asked.kind) {
                alone.push((asked.id, asked.ops.clone()));
            }
        }
        let answers = answers(before, kept);
        for (id, ops) in alone {
            let mut outcomes = Vec::new();
            for (key, op) in &ops {
                let kind = show::word(op);
                let of_kind = || answers.iter().filter(|(_, of, _)| *of == kind);
                let same_key = of_kind().find(|(at, ..)| at == key);
                let Some((.., outcome)) = same_key.or_else(|| of_kind().next()) else { break };
                outcomes.push(outcome.clone());
                if outcome.stops() {
                    break;
                }
            }
            let stops = outcomes.last().is_some_and(Outcome::stops);
            if stops || outcomes.len() == ops.len() {
                self.feed(self.now, Input::Stored { id, outcomes }, &[], &[]);
            }
        }
    }

    /// Sends what waits for a model.
    fn ask_models(&mut self, live: &mut Live<'_>) {
        for _ in 0..MOST_ROUNDS {
            let waits =
                |asked: &&Asked| !asked.answered && asked.fetch.as_deref().is_some_and(show::is_model);
            let Some(fetch) = self.asked.iter().find(waits).and_then(|asked| asked.fetch.clone()) else {
                return;
            };
            let begun = std::time::Instant::now();
            let body = bytes_of(&fetch.body, &self.body);
            let arrived = body.map_or_else(Vec::new, |body| live(&fetch, &body));
            let took = u64::try_from(begun.elapsed().as_millis()).unwrap_or_default();
            self.now.unix_ms += took;
            if arrived.is_empty() {
                return;
            }
            for (input, payload) in arrived {
                if !self.over {
                    let now = Moment { unix_ms: self.now.unix_ms, entropy: crate::clock::entropy() };
                    self.feed(now, input, &payload, &[]);
                }
            }
        }
    }

    /// What came of it.
    pub(super) fn came(&self) -> &Came {
        &self.came
    }
}

/// So often is looked whether there is more to answer; a turn has at most 32 calls of tools.
const MOST_ROUNDS: usize = 64;

/// The outcomes that were kept, with key and kind of their operations.
fn answers(before: &Rerun<'_>, kept: &Kept) -> Vec<(String, String, Outcome)> {
    let mut all = Vec::new();
    for step in &kept.steps {
        let Ok(Input::Stored { id, outcomes }) = postcard::from_bytes(&step.input) else { continue };
        let Some(asked) = before.asked.iter().find(|asked| asked.id == id) else { continue };
        let pairs = asked.ops.iter().zip(outcomes);
        all.extend(pairs.map(|((key, op), outcome)| (key.clone(), show::word(op), outcome)));
    }
    all
}

/// Fetches that may be answered alike: the same format and the same manner.
fn fetch_kind(fetch: &Fetch) -> String {
    let manner = if matches!(fetch.delivery, Delivery::Whole { .. }) { "whole" } else { "streamed" };
    let path = fetch.path.trim_start_matches("/v1").split('?').next().unwrap_or_default();
    let who = if show::is_model(fetch) { "model" } else { fetch.upstream.as_str() };
    format!("Fetch {who} {path} ({manner})")
}

/// A body to be read; secrets by their names.
fn text_of(rope: &Rope, body: &[u8]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Literal(text) => text.clone(),
        Piece::Secret(name) => format!("<{name}>"),
        Piece::Body { start, len } => {
            let (start, len) = (*start as usize, *len as usize);
            let range = body.get(start..start + len);
            range
                .map_or_else(|| format!("<{len} bytes>"), |range| String::from_utf8_lossy(range).into_owned())
        }
    };
    rope.0.iter().map(piece).collect()
}

/// A body to be sent; `None` when it has a secret or is not whole.
fn bytes_of(rope: &Rope, body: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    for piece in &rope.0 {
        match piece {
            Piece::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
            Piece::Secret(_) => return None,
            Piece::Body { start, len } => {
                bytes.extend_from_slice(body.get(*start as usize..(*start + *len) as usize)?);
            }
        }
    }
    Some(bytes)
}
