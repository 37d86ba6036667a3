//! Runs a case: each step in every engine, and their replies compared byte for byte.

use std::{borrow::Borrow as _, collections::BTreeMap, fmt::Write as _};

use minigate_core::{
    seam::{
        Fetch, Input, Moment, Output, Piece, ReduceFrame, ReduceReply, Reply, Step, StepFrame, keep, pieces,
        restore,
    },
    state::{Op, admission::Admit},
};

use crate::{
    case::{self, Case, Event, Happens},
    engines::{Outcome, Runs},
};

/// When every case begins: 2026-11-21 03:46:37 UTC.
const BEGIN: u64 = 1_795_232_797_000;
/// Ranges of a body that are longer are not written out.
const LONGEST_RANGE: usize = 120;

/// All engines; the first one is what the others are compared with.
pub(crate) type Engines<'e> = [&'e dyn Runs];

/// The one outcome of all engines.
pub(crate) fn same(
    engines: &Engines<'_>,
    place: &str,
    call: impl Fn(&dyn Runs) -> Outcome,
) -> Option<Vec<u8>> {
    let run = |engine: &&dyn Runs| {
        call(*engine).unwrap_or_else(|trap| panic!("{place}: {} failed: {trap}", engine.name()))
    };
    let (first, others) = engines.split_first().expect("an engine");
    let expected = run(first);
    for other in others {
        let found = run(other);
        if found != expected {
            let (first, other) = (first.name(), other.name());
            panic!("{place}: {other} replies\n{}\n{first} replies\n{}", show(&found), show(&expected));
        }
    }
    expected
}

fn show(reply: &Option<Vec<u8>>) -> String {
    let Some(bytes) = reply else { return "  nothing".into() };
    let Ok(reply) = postcard::from_bytes::<Reply>(bytes) else { return format!("  {bytes:02x?}") };
    let mut out = format!("  state {:02x?}\n", reply.state);
    for output in reply.outputs {
        let _ = writeln!(out, "  {output:?}");
    }
    out
}

/// An exchange on its way through its script.
#[derive(Debug)]
pub(crate) struct Run<'c, 'e> {
    case: &'c Case,
    engines: &'e Engines<'e>,
    policy: Vec<u8>,
    body: Vec<u8>,
    now: u64,
    steps: u8,
    state: Vec<u8>,
    stored: BTreeMap<String, ReduceReply>,
    asked: Option<(u32, Vec<(String, Op)>)>,
    /// The last operations that were applied.
    store: u32,
    /// Operations that nobody waits for.
    told: String,
    fetches: Vec<Fetch>,
    deadline: Option<u64>,
    client: String,
    cancelled: Vec<u32>,
    log: String,
    audit: String,
    complete: bool,
    done: bool,
}

impl<'c, 'e> Run<'c, 'e> {
    /// Runs a case to its end.
    pub(crate) fn new(case: &'c Case, engines: &'e Engines<'e>) -> Self {
        let mut run = Self {
            case,
            engines,
            policy: case.policy().encode(),
            body: case.body(),
            now: BEGIN,
            steps: 0,
            state: Vec::new(),
            stored: BTreeMap::new(),
            asked: None,
            store: 0,
            told: String::new(),
            fetches: Vec::new(),
            deadline: None,
            client: String::new(),
            cancelled: Vec::new(),
            log: String::new(),
            audit: String::new(),
            complete: false,
            done: false,
        };
        run.step(&Step::Begin(case.head()), &[]);
        for event in &case.script {
            assert!(!run.done, "{}: over before {event:?}", case.name);
            run.happen(event);
        }
        assert!(run.done, "{}: not over when the script is", case.name);
        run
    }

    fn happen(&mut self, event: &Event) {
        self.now += event.after;
        let fetch = event.id.or_else(|| self.fetches.last().map(|fetch| fetch.id)).unwrap_or_default();
        let store = event.id.or_else(|| self.asked.as_ref().map(|(id, ..)| *id)).unwrap_or_default();
        let (input, payload): (Input<'_>, Vec<u8>) = match &event.what {
            Happens::Body => (Input::Body(&[]), std::mem::take(&mut self.body)),
            Happens::BodyFails(failure) => (Input::BodyFailed(*failure), Vec::new()),
            Happens::Store { earlier } => {
                let (id, ops) = self.asked.take().expect("the store is asked");
                let mut outcomes = Vec::new();
                for round in 0..=*earlier {
                    outcomes.clear();
                    for (key, op) in &ops {
                        let op = if round < *earlier { of_another(op, round) } else { op.clone() };
                        let outcome = self.reduce(key, &op).outcome;
                        let stops = outcome.stops();
                        outcomes.push(outcome);
                        if stops {
                            break;
                        }
                    }
                }
                self.store = id;
                (Input::Stored { id: event.id.unwrap_or(id), outcomes }, Vec::new())
            }
            Happens::Woken => (Input::Woken { id: event.id.unwrap_or(self.store) }, Vec::new()),
            Happens::StoreFails => (Input::StoreFailed { id: store }, Vec::new()),
            Happens::Whole(answer) => {
                let headers = answer.headers();
                let input = Input::FetchWhole { id: fetch, status: answer.status, headers, body: &[] };
                (input, answer.bytes())
            }
            Happens::Head(answer) => {
                let headers = answer.headers();
                (Input::FetchHead { id: fetch, status: answer.status, headers }, Vec::new())
            }
            Happens::Lines(lines) => (Input::FetchLines { id: fetch, lines: &[] }, case::lines(lines)),
            Happens::End => (Input::FetchEnd { id: fetch }, Vec::new()),
            Happens::FetchFails(failure) => (Input::FetchFailed { id: fetch, failure: *failure }, Vec::new()),
            Happens::Deadline => {
                self.now = self.now.max(self.deadline.expect("a deadline"));
                (Input::Deadline, Vec::new())
            }
            Happens::ClientGone => (Input::ClientGone, Vec::new()),
        };
        let state = std::mem::take(&mut self.state);
        self.step(&Step::Continue { state: &state, input }, &payload);
        if matches!(event.what, Happens::Body) {
            // Ropes refer to it.
            self.body = payload;
        }
    }

    fn step(&mut self, step: &Step<'_>, payload: &[u8]) {
        let now = Moment { unix_ms: self.now, entropy: [self.steps; 16] };
        let frame = StepFrame { now, step: step.clone() };
        let frame = postcard::to_stdvec(&frame).expect("a frame can be encoded");
        let place = format!("{}, step {}", self.case.name, self.steps);
        let policy = &self.policy;
        let reply = same(self.engines, &place, |engine| engine.step(policy, &frame, payload));
        let reply = reply.unwrap_or_else(|| panic!("{place}: not understood"));
        let reply: Reply = postcard::from_bytes(&reply).expect("a reply");
        // What is cut off is understood by nobody, and breaks nobody.
        for cut in [0, 1, frame.len() / 2, frame.len() - 1] {
            let place = format!("{place}, cut at {cut}");
            let reply = same(self.engines, &place, |engine| engine.step(policy, &frame[..cut], payload));
            assert_eq!(reply, None, "{place}");
        }
        self.steps += 1;
        self.state = reply.state.into_vec();
        self.deadline = None;
        for output in reply.outputs {
            self.see(output);
        }
        assert_eq!(self.done, self.state.is_empty(), "{place}: a state is kept as long as it matters");
    }

    fn reduce(&mut self, key: &str, op: &Op) -> ReduceReply {
        let old = self.stored.get(key).map(|reply| reply.new.borrow());
        let frame = ReduceFrame { op: op.clone(), old, unix_ms: self.now };
        let frame = postcard::to_stdvec(&frame).expect("a frame can be encoded");
        let place = format!("{}, reducer", self.case.name);
        let reply = same(self.engines, &place, |engine| engine.reduce(&frame)).expect("understood");
        let reduced: ReduceReply = postcard::from_bytes(&reply).expect("a reply");
        self.stored.insert(key.to_owned(), reduced.clone());
        reduced
    }

    fn see(&mut self, output: Output) {
        match output {
            Output::ReadBody { .. } => {}
            Output::Store { id: 0, ops } => {
                for (key, op) in ops {
                    let _ = writeln!(self.told, "{key} {op:?}");
                    self.reduce(&key, &op);
                }
            }
            Output::Store { id, ops } => self.asked = Some((id, ops)),
            Output::Keep { id, key, start, len, ttl_ms } => {
                let (start, end) = (start as usize, (start + len) as usize);
                let ops = keep(&key, &self.body[start..end], ttl_ms).expect("base64");
                self.asked = Some((id, ops));
            }
            Output::KeepBody { id, key, ttl_ms } => {
                self.asked = Some((id, pieces(&key, &self.body, ttl_ms).collect()));
            }
            Output::Restore { id, key, len } => self.asked = Some((id, restore(&key, len).collect())),
            Output::Watch { .. } => {}
            Output::Ledger { .. } => panic!("no case reads the ledger"),
            Output::Check { .. } | Output::Take { .. } | Output::Under { .. } => panic!("one configuration"),
            Output::Fetch(fetch) => self.fetches.push(fetch),
            Output::Cancel { id } => self.cancelled.push(id),
            Output::Head { status, headers } => {
                let _ = writeln!(self.client, "{status}");
                for (name, value) in headers {
                    let _ = writeln!(self.client, "{name}: {value}");
                }
                self.client.push('\n');
            }
            Output::Chunk(bytes) => self.client.push_str(std::str::from_utf8(&bytes).expect("UTF-8")),
            Output::End => self.complete = true,
            Output::Record { line, .. } => self.log.push_str(&line),
            Output::Audit { record } => {
                let _ = writeln!(self.audit, "{record}");
            }
            Output::Deadline { at_ms, .. } => self.deadline = Some(at_ms),
            // The engines' replies were compared; what is counted from them is not the transcript's.
            Output::Measure(_) | Output::Replayable { .. } => {}
            Output::Stats { id } => panic!("nobody has counted anything: {id}"),
            Output::Done => self.done = true,
        }
    }

    /// Everything that anybody outside has seen, to be read and compared.
    pub(crate) fn transcript(&self) -> String {
        let mut out = format!("=== client\n{}", self.client);
        if !out.ends_with('\n') {
            out.push('\n');
        }
        out.push_str(if self.complete { "=== complete\n" } else { "=== not complete\n" });
        for fetch in &self.fetches {
            let _ = writeln!(out, "=== upstream\n{} {}", fetch.method, fetch.path);
            for (name, value) in &fetch.headers {
                let _ = writeln!(out, "{name}: {value}");
            }
            let _ = writeln!(out, "\n{}", self.rope(fetch));
            if self.cancelled.contains(&fetch.id) {
                out.push_str("=== given up\n");
            }
        }
        if !self.told.is_empty() {
            let _ = write!(out, "=== store\n{}", self.told);
        }
        let _ = writeln!(out, "=== log\n{}", self.log);
        if !self.audit.is_empty() {
            let _ = write!(out, "=== audit\n{}", self.audit);
        }
        out
    }

    fn rope(&self, fetch: &Fetch) -> String {
        let mut out = String::new();
        for piece in &fetch.body.0 {
            match piece {
                Piece::Literal(text) => out.push_str(text),
                Piece::Secret(name) => {
                    let _ = write!(out, "<{name}>");
                }
                Piece::Body { start, len } => {
                    let (start, len) = (*start as usize, *len as usize);
                    let range = &self.body[start..start + len];
                    if len > LONGEST_RANGE {
                        let _ = write!(out, "<{len} bytes of the body from {start} on>");
                    } else {
                        out.push_str(&String::from_utf8_lossy(range));
                    }
                }
            }
        }
        out
    }
}

/// The same operation of an earlier request: a ticket belongs to one.
fn of_another(op: &Op, round: u32) -> Op {
    match op {
        Op::Admit(admit) => {
            Op::Admit(Admit { ticket: u64::from(round) + 1, flow: u64::from(round), ..*admit })
        }
        op => op.clone(),
    }
}
