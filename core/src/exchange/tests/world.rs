//! The world, and the rules of the seam that it watches over at every step.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{
    exchange::Exchange,
    measure::Sample,
    policy::{Policy, auth::KeyDigest},
    seam::{
        BodyFailure, DeadlineReason, Delivery, Fetch, FetchFailure, Input, Level, Moment, Output, Piece,
        RequestHead, Rope, keep, pieces, restore,
    },
    state::{self, Op, Outcome, caller::Thresholds},
};

/// The client's key.
pub(super) const KEY: &str = "key-canary-71d2";
/// When every script begins: 2026-11-21 03:46:37 UTC.
pub(super) const BEGIN: u64 = 1_795_232_797_000;

/// Everything around one exchange, and everything that it did.
pub(super) struct World {
    pub(super) policy: Policy,
    entropy: u8,
    pub(super) now: u64,
    /// What other exchanges left behind.
    pub(super) store: BTreeMap<String, Vec<u8>>,
    state: Vec<u8>,
    pub(super) body: Vec<u8>,
    /// The limit of the body that is asked for.
    pub(super) wants_body: Option<u64>,
    /// Operations that were not answered yet.
    pub(super) asked: Vec<(u32, Vec<(String, Op)>)>,
    /// Operations that nobody waits for.
    pub(super) told: Vec<(String, Op)>,
    /// The operation whose ticket is waited for.
    pub(super) watched: Option<u32>,
    /// By the store operation that it came with: the ticket that is listened for. A host knows one listener for each.
    tickets: BTreeMap<u32, u64>,
    pub(super) listening: BTreeMap<u32, u64>,
    /// All fetches.
    pub(super) fetches: Vec<Fetch>,
    /// All fetches that were given up.
    pub(super) cancelled: Vec<u32>,
    pub(super) head: Option<(u16, Vec<(String, String)>)>,
    /// What the client has received.
    pub(super) chunks: Vec<Vec<u8>>,
    pub(super) ended: bool,
    pub(super) done: bool,
    pub(super) records: Vec<(Level, String)>,
    pub(super) audit: Vec<String>,
    /// What was measured: once, at the end.
    pub(super) samples: Vec<Sample>,
    /// What the host is asked for its counts with.
    pub(super) stats: Option<u32>,
    /// What the exchange is called in what a host may keep.
    pub(super) replayable: Vec<String>,
    /// What is asked about configurations.
    pub(super) configuring: Vec<Output>,
    pub(super) deadline: Option<(u64, DeadlineReason)>,
    alarms: BTreeMap<String, Option<u64>>,
}

/// The default settings with one key, every line logged, and the caller's rate as the only
/// gate.
pub(super) fn policy() -> Policy {
    let mut policy = guarded();
    policy.abuse = Thresholds::default();
    policy.rates.address = None;
    policy.admission.slots = 0;
    policy
}

/// The same with all gates.
pub(super) fn guarded() -> Policy {
    Policy {
        api_keys: vec![KeyDigest::of(KEY.as_bytes())],
        session_secret: KeyDigest::of(b"session"),
        log_level: Level::Debug,
        ..Policy::default()
    }
}

/// The head of a chat request.
pub(super) fn chat_head() -> RequestHead {
    RequestHead {
        method: "POST".into(),
        path: "/api/chat".into(),
        headers: vec![
            ("content-type".into(), "application/json".into()),
            ("x-api-key".into(), KEY.into()),
            ("x-trace-id".into(), "1710000123456".into()),
        ],
        peer: "203.0.113.9".into(),
        query: String::new(),
        content_length: None,
        robot: None,
    }
}

/// The head of a request of a machine that watches.
pub(super) fn get(path: &str) -> RequestHead {
    RequestHead { method: "GET".into(), path: path.into(), ..RequestHead::default() }
}

impl World {
    /// A request arrives.
    pub(super) fn begin(policy: Policy, head: RequestHead) -> Self {
        Self::begin_in(policy, head, BEGIN, BTreeMap::new())
    }

    /// A request arrives at some time, after others.
    pub(super) fn begin_in(
        policy: Policy,
        head: RequestHead,
        now: u64,
        store: BTreeMap<String, Vec<u8>>,
    ) -> Self {
        Self::begin_with(policy, head, now, store, 0x5c)
    }

    pub(super) fn begin_with(
        policy: Policy,
        head: RequestHead,
        now: u64,
        store: BTreeMap<String, Vec<u8>>,
        entropy: u8,
    ) -> Self {
        let mut world = Self::new(policy, now, store, entropy);
        let exchange = Exchange::new(&world.policy, head, world.moment());
        world.drain(exchange);
        world
    }

    /// The alarm of a key has gone off.
    pub(super) fn alarm(
        policy: Policy,
        key: &str,
        now: u64,
        store: BTreeMap<String, Vec<u8>>,
        entropy: u8,
    ) -> Self {
        let mut world = Self::new(policy, now, store, entropy);
        let exchange = Exchange::alarm(&world.policy, key, world.moment());
        world.drain(exchange);
        world
    }

    fn new(policy: Policy, now: u64, store: BTreeMap<String, Vec<u8>>, entropy: u8) -> Self {
        Self {
            policy,
            entropy,
            now,
            store,
            state: Vec::new(),
            body: Vec::new(),
            wants_body: None,
            asked: Vec::new(),
            told: Vec::new(),
            watched: None,
            tickets: BTreeMap::new(),
            listening: BTreeMap::new(),
            fetches: Vec::new(),
            cancelled: Vec::new(),
            head: None,
            chunks: Vec::new(),
            ended: false,
            done: false,
            records: Vec::new(),
            audit: Vec::new(),
            samples: Vec::new(),
            stats: None,
            replayable: Vec::new(),
            configuring: Vec::new(),
            deadline: None,
            alarms: BTreeMap::new(),
        }
    }

    /// A chat request whose body has come and whose token was granted: OpenClaw was asked.
    pub(super) fn asked(policy: Policy, body: &Value) -> Self {
        let mut world = Self::begin(policy, chat_head());
        world.send_body(body);
        world.answer_store();
        assert!(world.fetch_is_running(), "{:?}", world.text());
        world
    }

    fn moment(&self) -> Moment {
        Moment { unix_ms: self.now, entropy: [self.entropy; 16] }
    }

    /// Begins again with other randomness, as another request has it.
    pub(super) fn ticket_of_its_own(&mut self) {
        let (head, now, store) = (chat_head(), self.now, std::mem::take(&mut self.store));
        *self = Self::begin_with(self.policy.clone(), head, now, store, 0x77);
    }

    /// What another exchange does to the store; gives how many it wakes.
    pub(super) fn apply(&mut self, key: &str, op: &Op) -> usize {
        let reduced = state::reduce(op, self.store.get(key).map(Vec::as_slice), self.now);
        self.store.insert(key.to_owned(), reduced.new.into_vec());
        reduced.wake.len()
    }

    /// The status of an answer that has begun.
    pub(super) fn status_so_far(&self) -> Option<u16> {
        self.head.as_ref().map(|(status, _)| *status)
    }

    /// One input, into an exchange that comes out of storage and goes back there.
    pub(super) fn give(&mut self, input: Input<'_>) {
        let mut exchange = Exchange::decode(&self.state).expect("a state of this version");
        exchange.handle_input(&self.policy, input, self.moment());
        self.drain(exchange);
    }

    fn drain(&mut self, mut exchange: Exchange) {
        self.deadline = None;
        let mut last = None;
        while let Some(output) = exchange.poll_output() {
            assert!(!matches!(last, Some(Output::Deadline { .. } | Output::Done)), "then came {output:?}");
            last = Some(output.clone());
            self.see(output);
        }
        assert!(matches!(last, Some(Output::Deadline { .. } | Output::Done)), "the drain ended at {last:?}");
        assert_eq!(exchange.is_done(), self.done);
        self.state = exchange.encode();
        let again = Exchange::decode(&self.state).expect("a state of this version").encode();
        assert!(again == self.state, "another state came out of storage");
    }

    fn see(&mut self, output: Output) {
        let over = self.ended || self.done;
        let may_follow = matches!(
            output,
            Output::Record { .. }
                | Output::Audit { .. }
                | Output::Measure(_)
                | Output::Replayable { .. }
                | Output::Store { id: 0, .. }
                | Output::Done
        );
        let goes_on = !self.done
            && matches!(
                output,
                Output::Fetch(_)
                    | Output::Store { .. }
                    | Output::Watch { .. }
                    | Output::Cancel { .. }
                    | Output::Deadline { .. }
            );
        assert!(!over || may_follow || (goes_on && self.gave_a_draft()), "after the end: {output:?}");
        match output {
            Output::ReadBody { limit } => self.wants_body = Some(limit),
            Output::Store { id: 0, ops } => {
                for (key, op) in ops {
                    self.reduce(&key, &op);
                    self.told.push((key, op));
                }
            }
            Output::Store { id, ops } => {
                self.tickets.extend(ops.iter().find_map(|(_, op)| op.ticket()).map(|ticket| (id, ticket)));
                self.asked.push((id, ops));
            }
            Output::Keep { id, key, start, len, ttl_ms } => {
                let base64 = &self.body[start as usize..start as usize + len as usize];
                self.asked.push((id, keep(&key, base64, ttl_ms).expect("base64")));
            }
            Output::KeepBody { id, key, ttl_ms } => {
                self.asked.push((id, pieces(&key, &self.body, ttl_ms).collect()));
            }
            Output::Restore { id, key, len } => self.asked.push((id, restore(&key, len).collect())),
            Output::Audit { record } => {
                assert!(!record.contains('\n'));
                self.audit.push(record);
            }
            Output::Ledger { id, .. } => self.asked.push((id, Vec::new())),
            Output::Watch { id } => {
                let ticket = self.tickets[&id];
                let other = self.listening.iter().find(|(_, other)| **other == ticket);
                assert_eq!(other, None, "one ticket is listened for twice: each would wake the other");
                self.listening.insert(id, ticket);
                self.watched = Some(id);
            }
            Output::Fetch(fetch) => {
                assert!(self.fetches.iter().all(|earlier| earlier.id != fetch.id), "an id is used once");
                self.fetches.push(fetch);
            }
            Output::Cancel { id } if self.listening.remove(&id).is_some() => {
                self.watched = self.watched.filter(|watched| *watched != id);
            }
            Output::Cancel { id } if self.asked.iter().any(|(asked, _)| *asked == id) => {
                self.asked.retain(|(asked, _)| *asked != id);
            }
            Output::Cancel { id } if self.is_configuring(id) => {}
            Output::Cancel { id } => {
                assert!(self.fetches.iter().any(|fetch| fetch.id == id), "no such fetch: {id}");
                assert!(!self.cancelled.contains(&id), "cancelled twice: {id}");
                self.cancelled.push(id);
            }
            Output::Head { status, headers } => {
                assert!(self.head.is_none(), "a second head");
                self.head = Some((status, headers));
            }
            Output::Chunk(bytes) => {
                let (_, headers) = self.head.as_ref().expect("a head before the first chunk");
                let is_picture = headers.iter().any(|(_, value)| value.starts_with("image/"));
                assert!((is_picture || core::str::from_utf8(&bytes).is_ok()) && !bytes.is_empty());
                let streams = headers.iter().any(|(_, value)| value.starts_with("text/event-stream"));
                assert!(!streams || bytes.ends_with(b"\n\n"), "an event is never split");
                self.chunks.push(bytes.into_vec());
            }
            Output::End => {
                assert!(self.head.is_some(), "an end before the head");
                self.ended = true;
            }
            Output::Record { level, line } => {
                assert!(!line.contains('\n'));
                self.records.push((level, line));
            }
            Output::Deadline { at_ms, reason } => self.deadline = Some((at_ms, reason)),
            Output::Measure(sample) => {
                assert!(self.samples.is_empty(), "measured twice");
                self.samples.push(*sample);
            }
            Output::Stats { id } => self.stats = Some(id),
            Output::Replayable { request_id, .. } => self.replayable.push(request_id),
            output @ (Output::Check { .. } | Output::Take { .. } | Output::Under { .. }) => {
                self.configuring.push(output);
            }
            Output::Done => self.done = true,
        }
    }

    /// Whether that is a step of another configuration, which goes on whoever waits for it.
    fn is_configuring(&self, id: u32) -> bool {
        let is_it = |output: &Output| matches!(output, Output::Check { id: step, .. } | Output::Take { id: step, .. } if *step == id);
        self.configuring.iter().any(is_it)
    }

    /// Whether the answer was a draft, after whose end the exchange goes on.
    pub(super) fn gave_a_draft(&self) -> bool {
        let headers = self.head.as_ref().map(|(_, headers)| headers.as_slice()).unwrap_or_default();
        headers.iter().any(|(name, _)| name == "location")
    }

    /// The client's body arrives, whatever it is.
    pub(super) fn send_bytes(&mut self, body: &[u8]) {
        assert!(self.wants_body.take().is_some(), "no body is wanted");
        self.body = body.to_vec();
        self.give(Input::Body(body));
    }

    /// The client's body arrives.
    pub(super) fn send_body(&mut self, body: &Value) {
        // The address's standing, where guesses of keys are counted.
        if self.wants_body.is_none() {
            self.answer_store();
        }
        assert!(self.wants_body.take().is_some(), "no body is wanted");
        self.body = body.to_string().into_bytes();
        let body = self.body.clone();
        self.give(Input::Body(&body));
    }

    /// The store does what it was asked for.
    pub(super) fn answer_store(&mut self) {
        for (id, ops) in std::mem::take(&mut self.asked) {
            let mut outcomes = Vec::new();
            for (key, op) in ops {
                let outcome = self.reduce(&key, &op);
                let stops = outcome.stops();
                outcomes.push(outcome);
                if stops {
                    break;
                }
            }
            self.give(Input::Stored { id, outcomes });
        }
    }

    /// The ledger is asked for lines: by what they are to be given.
    pub(super) fn asks_ledger(&mut self) -> u32 {
        let (id, ops) = self.asked.pop().expect("something is asked");
        assert!(ops.is_empty(), "the store is asked: {ops:?}");
        id
    }

    fn reduce(&mut self, key: &str, op: &Op) -> Outcome {
        let reduced = state::reduce(op, self.store.get(key).map(Vec::as_slice), self.now);
        self.store.insert(key.to_owned(), reduced.new.into_vec());
        self.alarms.insert(key.to_owned(), reduced.alarm_ms);
        reduced.outcome
    }

    /// When the alarm of a key goes off, as the last operation said.
    pub(super) fn alarm_of(&self, key: &str) -> Option<u64> {
        self.alarms.get(key).copied().flatten()
    }

    /// The ticket that is waited for is woken.
    pub(super) fn wake(&mut self) {
        let id = self.watched.take().expect("nothing is watched");
        self.listening.remove(&id);
        self.give(Input::Woken { id });
    }

    /// The store fails.
    pub(super) fn break_store(&mut self) {
        for (id, _) in std::mem::take(&mut self.asked) {
            self.give(Input::StoreFailed { id });
        }
    }

    /// The last fetch.
    pub(super) fn fetch(&self) -> &Fetch {
        self.fetches.last().expect("a fetch")
    }

    fn fetch_is_running(&self) -> bool {
        !self.done && self.fetches.last().is_some_and(|fetch| !self.cancelled.contains(&fetch.id))
    }

    /// What OpenClaw received.
    pub(super) fn sent_upstream(&self) -> Value {
        serde_json::from_slice(&self.assemble(&self.fetch().body)).expect("JSON")
    }

    fn assemble(&self, rope: &Rope) -> Vec<u8> {
        let mut bytes = Vec::new();
        for piece in &rope.0 {
            match piece {
                Piece::Literal(text) => bytes.extend_from_slice(text.as_bytes()),
                Piece::Secret(name) => bytes.extend_from_slice(format!("${name}").as_bytes()),
                Piece::Body { start, len } => {
                    bytes.extend_from_slice(&self.body[*start as usize..*start as usize + *len as usize]);
                }
            }
        }
        let secrets = rope.0.iter().any(|piece| matches!(piece, Piece::Secret(_)));
        assert!(secrets || bytes.len() as u64 == rope.len());
        bytes
    }

    /// OpenClaw answers at once.
    pub(super) fn whole(&mut self, status: u16, headers: &[(&str, &str)], body: &str) {
        let id = self.fetch().id;
        assert!(matches!(self.fetch().delivery, Delivery::Whole { .. }));
        self.give(Input::FetchWhole { id, status, headers: owned(headers), body: body.as_bytes() });
    }

    /// OpenClaw begins to answer.
    pub(super) fn opens(&mut self, status: u16, headers: &[(&str, &str)]) {
        let id = self.fetch().id;
        assert!(matches!(self.fetch().delivery, Delivery::Lines { .. }));
        self.give(Input::FetchHead { id, status, headers: owned(headers) });
    }

    /// OpenClaw begins to stream.
    pub(super) fn opens_stream(&mut self) {
        self.opens(200, &[("content-type", "text/event-stream; charset=utf-8")]);
    }

    /// OpenClaw goes on.
    pub(super) fn lines(&mut self, lines: &str) {
        let id = self.fetch().id;
        self.give(Input::FetchLines { id, lines: lines.as_bytes() });
    }

    /// OpenClaw is done.
    pub(super) fn closes(&mut self) {
        let id = self.fetch().id;
        self.give(Input::FetchEnd { id });
    }

    /// The connection to OpenClaw fails.
    pub(super) fn breaks(&mut self, failure: FetchFailure) {
        let id = self.fetch().id;
        self.give(Input::FetchFailed { id, failure });
    }

    /// The client's connection fails before the body was complete.
    pub(super) fn no_body(&mut self, failure: BodyFailure) {
        self.give(Input::BodyFailed(failure));
    }

    /// Time passes up to the deadline, and no further.
    pub(super) fn wait(&mut self) -> DeadlineReason {
        let (at, reason) = self.deadline.expect("a deadline");
        self.now = self.now.max(at);
        self.give(Input::Deadline);
        reason
    }

    /// Waits for as long as heartbeats are all that happens.
    pub(super) fn wait_through_heartbeats(&mut self) -> DeadlineReason {
        for _ in 0..100 {
            let reason = self.wait();
            if reason != DeadlineReason::Heartbeat {
                return reason;
            }
        }
        panic!("nothing but heartbeats");
    }

    /// Waits for as long as heartbeats and renewals of a lease are all that happens.
    pub(super) fn wait_through_leases(&mut self) -> DeadlineReason {
        for _ in 0..100 {
            let reason = self.wait_through_heartbeats();
            if reason != DeadlineReason::Lease {
                return reason;
            }
        }
        panic!("nothing but renewals");
    }

    /// The size of the stored state.
    pub(super) fn state_len(&self) -> usize {
        self.state.len()
    }

    /// Whether the stored state has this text in it.
    pub(super) fn state_contains(&self, text: &str) -> bool {
        memchr::memmem::find(&self.state, text.as_bytes()).is_some()
    }

    /// The status; the answer must be complete.
    pub(super) fn status(&self) -> u16 {
        assert!(self.ended && self.done, "not complete: {}", self.text());
        self.head.as_ref().expect("a head").0
    }

    /// A header of the answer.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let (_, headers) = self.head.as_ref().expect("a head");
        let mut found = headers.iter().filter(|(key, _)| key == name);
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "{name} comes twice");
        value
    }

    /// Everything that the client has received.
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.chunks.concat()).expect("UTF-8")
    }

    /// The whole answer.
    pub(super) fn json(&self) -> Value {
        let length = self.header("content-length").expect("a length");
        assert_eq!(length, self.text().len().to_string());
        serde_json::from_str(&self.text()).expect("JSON")
    }

    /// The status and code of a failure.
    pub(super) fn failure(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["traceId"], self.header("x-trace-id").expect("a trace id"));
        assert!(body["answer"].as_str().is_some_and(|answer| !answer.is_empty()));
        (self.status(), body["error"]["code"].as_str().expect("a code").to_owned())
    }

    /// The events of a stream; `[DONE]` as a string, comments left out.
    pub(super) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let events = text.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
        events
            .map(|event| match event.strip_prefix("data: ").expect("data") {
                "[DONE]" => Value::from("[DONE]"),
                data => serde_json::from_str(data).expect("JSON"),
            })
            .collect()
    }

    /// The text of a stream.
    pub(super) fn streamed(&self) -> String {
        let events = self.events();
        let pieces = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
        pieces.collect()
    }

    /// How a stream failed. It must be complete all the same.
    pub(super) fn stream_failure(&self) -> String {
        assert_eq!(self.status(), 200);
        let events = self.events();
        let [.., failure, end] = events.as_slice() else { panic!("too few events: {events:?}") };
        assert_eq!(end, "[DONE]");
        assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1);
        assert!(failure["answer"].is_string() && failure["traceId"].is_string());
        failure["error"]["code"].as_str().expect("a code").to_owned()
    }

    /// The log line.
    pub(super) fn record(&self) -> Value {
        let [(_, line)] = self.records.as_slice() else { panic!("one line, not {:?}", self.records) };
        serde_json::from_str(line).expect("JSON")
    }
}

fn owned(headers: &[(&str, &str)]) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
}
