//! What the module's being wasm costs: the same frames and payloads to the core as native
//! Rust, and through wasmtime as the native host sets it up, with interruption and a memory
//! limit. The copies into and out of the module's memory count as its cost.

use std::{
    hint::black_box,
    thread,
    time::{Duration, Instant},
};

use minigate_core::{
    policy::{HostFacts, Policy, Secrets, Settings},
    seam::{
        ABI_VERSION, Delivery, Fetch, Input, Moment, Output, Reply, RequestHead, Step, StepFrame, step_frame,
    },
    state::{self, Op, Outcome},
};
use minigate_tests::required;
use wasmtime::{Config, Engine, Linker, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, TypedFunc};

use super::{
    Result, median,
    report::{Row, Target},
    requests::{self, Case, KEY},
    upstream,
};

/// As in the native host.
const TICK: Duration = Duration::from_millis(10);
const MOST_TICKS: u64 = 30;
const MOST_MEMORY: usize = 128 * 1024 * 1024;

/// How long one side's turn takes, about.
const TURN: Duration = Duration::from_millis(40);
const ROUNDS: usize = 15;

/// One call: the frame and the bytes beside it.
#[derive(Clone)]
struct Call {
    frame: Vec<u8>,
    payload: Vec<u8>,
}

/// The calls that are compared.
pub(super) fn measure() -> Result<Vec<Row>> {
    let policy = policy()?;
    let mut module = Warm::new(&policy)?;
    let mut rows = Vec::new();
    for case in requests::CASES {
        let calls = script(&policy, case)?;
        for call in &calls {
            let native =
                step_frame(&policy, &call.frame, &call.payload).map_err(|error| format!("{error:?}"))?;
            if native != module.step(call)? {
                return Err("the module and the native core answer differently".into());
            }
        }
        let mut row = |kind: &str, what: &str, calls: &[Call], target| -> Result<()> {
            let (wasm, native) = compare(&policy, &mut module, calls)?;
            let (id, what) = (format!("step.{}.{kind}", case.id), format!("{}: {what}", case.name));
            rows.push(Row::pair("native Rust", &id, &what, "ns", wasm, native, target));
            Ok(())
        };
        let tax = Target::Ratio(1.5);
        let names: &[&str] = if case.streamed { &[] } else { &["begin", "door", "body", "gates", "answer"] };
        for (name, call) in names.iter().zip(&calls) {
            let target = if *name == "body" { tax } else { Target::None };
            row(name, &format!("the step `{name}`"), std::slice::from_ref(call), target)?;
        }
        if case.streamed {
            // After the head come the events; one from the middle.
            let middle = calls.len() - 10;
            row("event", "the step of one event", &calls[middle..=middle], tax)?;
        }
        row("all", &format!("all {} steps", calls.len()), &calls, Target::None)?;
    }
    rows.push(Row::ours(
        "step.call",
        "a call of the module that does nothing",
        "ns",
        module.empty_call()?,
        Target::None,
    ));
    Ok(rows)
}

fn compare(policy: &Policy, module: &mut Warm, calls: &[Call]) -> Result<(f64, f64)> {
    let begun = Instant::now();
    for call in calls {
        black_box(module.step(call)?);
    }
    let once = begun.elapsed().max(Duration::from_nanos(1));
    let times = usize::try_from(TURN.as_nanos() / once.as_nanos()).unwrap_or(1).clamp(3, 200_000);
    let (mut wasm, mut native) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..times {
            for call in calls {
                black_box(module.step(black_box(call))?);
            }
        }
        wasm.push(begun.elapsed().as_nanos() as f64 / times as f64);
        let begun = Instant::now();
        for _ in 0..times {
            for call in calls {
                let call = black_box(call);
                black_box(step_frame(policy, &call.frame, &call.payload))
                    .map_err(|error| format!("{error:?}"))?;
            }
        }
        native.push(begun.elapsed().as_nanos() as f64 / times as f64);
    }
    Ok((median(wasm), median(native)))
}

fn policy() -> Result<Policy> {
    let settings = [
        ("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:18789"),
        ("RATE_LIMIT_PER_MINUTE", "60000000"),
        ("RATE_LIMIT_BURST", "1000000"),
    ];
    let secrets = [("OPENCLAW_GATEWAY_TOKEN", "benchmark-token"), ("API_KEY", KEY)];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let settings: Settings = settings.into_iter().map(owned).collect();
    let secrets = Secrets(secrets.into_iter().map(owned).collect());
    let facts = HostFacts { name: "native".into(), ..HostFacts::default() };
    Policy::from_settings(&settings, &secrets, facts, false).map_err(|errors| format!("{errors:?}").into())
}

/// What an empty store says to what a reply asks of it.
fn stored(reply: &Reply) -> Option<(u32, Vec<Outcome>)> {
    reply.outputs.iter().find_map(|output| match output {
        Output::Store { id, ops } => {
            let reduce = |(_, op): &(String, Op)| state::reduce(op, None, 1_795_232_797_000).outcome;
            Some((*id, ops.iter().map(reduce).collect()))
        }
        _ => None,
    })
}

/// Everything that a host asks for one request, in order.
fn script(policy: &Policy, case: &Case) -> Result<Vec<Call>> {
    let body = case.body();
    let mut calls: Vec<Call> = Vec::new();
    let mut now = Moment { unix_ms: 1_795_232_797_000, entropy: [7; 16] };
    let mut take = |step: Step<'_>, payload: &[u8]| -> Result<Reply> {
        now.unix_ms += 1;
        let frame = postcard::to_allocvec(&StepFrame { now, step })?;
        let call = Call { frame, payload: payload.to_vec() };
        let reply = step_frame(policy, &call.frame, &call.payload).map_err(|error| format!("{error:?}"))?;
        calls.push(call);
        Ok(postcard::from_bytes(&reply)?)
    };
    let head = RequestHead {
        method: "POST".into(),
        path: "/api/chat".into(),
        headers: vec![
            ("authorization".into(), format!("Bearer {KEY}")),
            ("content-type".into(), "application/json".into()),
        ],
        query: String::new(),
        peer: "127.0.0.1".into(),
        content_length: Some(body.len() as u64),
        robot: None,
    };
    let mut reply = take(Step::Begin(head), &[])?;
    // The address is asked about before the body is read, the other gates after it.
    if let Some((id, outcomes)) = stored(&reply) {
        reply = take(Step::Continue { state: &reply.state, input: Input::Stored { id, outcomes } }, &[])?;
    }
    reply = take(Step::Continue { state: &reply.state, input: Input::Body(&[]) }, &body)?;
    let (id, outcomes) = stored(&reply).ok_or("the body was refused")?;
    reply = take(Step::Continue { state: &reply.state, input: Input::Stored { id, outcomes } }, &[])?;
    let fetch = reply.outputs.iter().find_map(|output| match output {
        Output::Fetch(fetch) => Some(fetch.clone()),
        _ => None,
    });
    let Fetch { id, delivery, path, .. } = fetch.ok_or("nothing was fetched")?;
    let headers = |kind: &str| vec![("content-type".to_owned(), kind.to_owned())];
    match delivery {
        Delivery::Whole { .. } => {
            let responses = path.ends_with("/responses");
            let answer = if responses { upstream::response() } else { upstream::completion() };
            let headers = headers("application/json; charset=utf-8");
            let input = Input::FetchWhole { id, status: 200, headers, body: &[] };
            take(Step::Continue { state: &reply.state, input }, answer.to_string().as_bytes())?;
        }
        Delivery::Lines { .. } => {
            let headers = headers("text/event-stream; charset=utf-8");
            let input = Input::FetchHead { id, status: 200, headers };
            reply = take(Step::Continue { state: &reply.state, input }, &[])?;
            for event in upstream::events() {
                let input = Input::FetchLines { id, lines: &[] };
                reply = take(Step::Continue { state: &reply.state, input }, event.as_bytes())?;
            }
        }
    }
    Ok(calls)
}

/// An instance with its exports, as the native host keeps one.
struct Warm {
    store: Store<StoreLimits>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<(u32, u32), ()>,
    step: TypedFunc<(u32, u32, u32, u32), u64>,
    version: TypedFunc<(), u32>,
}

impl Warm {
    fn new(policy: &Policy) -> Result<Self> {
        let wasm = std::fs::read(required("MINIGATE_MODULE").join("index_bg.wasm"))?;
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config)?;
        let module = Module::new(&engine, wasm)?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module)?;
        let ticking = engine.weak();
        thread::spawn(move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                thread::sleep(TICK);
            }
        });
        let limits = StoreLimitsBuilder::new().memory_size(MOST_MEMORY).build();
        let mut store = Store::new(&engine, limits);
        store.limiter(|limits| limits);
        store.set_epoch_deadline(MOST_TICKS);
        let instance = linker.instantiate(&mut store, &module)?;
        let version = instance.get_typed_func::<(), u32>(&mut store, "mg_abi_version")?;
        if version.call(&mut store, ())? != ABI_VERSION {
            return Err("the module speaks another ABI: build it anew".into());
        }
        let configure = instance.get_typed_func::<(u32, u32), u32>(&mut store, "mg_configure")?;
        let mut warm = Self {
            memory: instance.get_memory(&mut store, "memory").ok_or("no memory")?,
            alloc: instance.get_typed_func(&mut store, "mg_alloc")?,
            free: instance.get_typed_func(&mut store, "mg_free")?,
            step: instance.get_typed_func(&mut store, "mg_step")?,
            version,
            store,
        };
        let encoded = policy.encode();
        let (at, len) = warm.write(&encoded)?;
        if configure.call(&mut warm.store, (at, len))? != 1 {
            return Err("the module does not understand the policy".into());
        }
        Ok(warm)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(u32, u32)> {
        if bytes.is_empty() {
            return Ok((0, 0));
        }
        let len = u32::try_from(bytes.len())?;
        let at = self.alloc.call(&mut self.store, len)?;
        self.memory.write(&mut self.store, at as usize, bytes)?;
        Ok((at, len))
    }

    fn free(&mut self, (at, len): (u32, u32)) -> Result<()> {
        if len > 0 {
            self.free.call(&mut self.store, (at, len))?;
        }
        Ok(())
    }

    /// Nanoseconds of a call that only returns a number: the way in and out.
    fn empty_call(&mut self) -> Result<f64> {
        const TIMES: u32 = 1_000_000;
        let begun = Instant::now();
        for _ in 0..TIMES {
            black_box(self.version.call(&mut self.store, ())?);
        }
        Ok(begun.elapsed().as_nanos() as f64 / f64::from(TIMES))
    }

    fn step(&mut self, call: &Call) -> Result<Vec<u8>> {
        self.store.set_epoch_deadline(MOST_TICKS);
        let frame = self.write(&call.frame)?;
        let payload = self.write(&call.payload)?;
        let result = self.step.call(&mut self.store, (frame.0, frame.1, payload.0, payload.1))?;
        self.free(frame)?;
        self.free(payload)?;
        let (at, len) = ((result >> 32) as u32, (result & 0xffff_ffff) as u32);
        let range = at as usize..at as usize + len as usize;
        let bytes =
            self.memory.data(&self.store).get(range).filter(|_| result != 0).ok_or("no reply")?.to_vec();
        self.free((at, len))?;
        Ok(bytes)
    }
}
