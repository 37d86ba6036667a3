//! The wasm module under wasmtime: compiled once, its machine code kept on disk, one warm
//! instance for each thread.
//!
//! Every import is a trap: the module gets no JavaScript, no clock and no randomness here.
//! A call that takes too long or too much memory is cut off; after that, or after a panic,
//! the instance is dropped and only the exchange whose step it was is lost. An instance
//! holds nothing between calls, so it may be replaced at any time, and is from time to time.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use minigate_core::{
    policy::{HostFacts, Policy},
    seam::{ABI_VERSION, Moment, ReduceFrame, ReduceReply, Reply, Step, StepFrame},
    state::Op,
};
use sha2::{Digest as _, Sha256};
use wasmtime::{
    Config, Engine, InstancePre, Linker, Memory, Module, Store, StoreLimits, StoreLimitsBuilder, TypedFunc,
    UpdateDeadline,
};

/// The runtime's version, as `/version` shows it.
const RUNTIME: &str = "wasmtime 48";
/// How often a running call is looked at.
const TICK: Duration = Duration::from_millis(10);
/// Ticks after which it is looked whether a call still has time.
const MOST_TICKS: u64 = 30;
/// The processor's time that a call may take. A 20 MB body takes about 10 ms. By the clock on the wall a machine that
/// is busy with something else would fail requests that take nothing.
const MOST_CPU: Duration = Duration::from_millis(300);
/// The memory of one instance. A 20 MB body needs about 50 MB.
const MOST_MEMORY: usize = 128 * 1024 * 1024;
/// An instance that has grown so far is replaced: memory of a module never shrinks.
const GROWN: usize = 16 * 1024 * 1024;
/// An instance is replaced after so many calls.
const MOST_CALLS: u32 = 1_000_000;

/// The compiled module, shared by all threads.
#[derive(Clone)]
pub struct Code {
    engine: Engine,
    pre: InstancePre<StoreLimits>,
    facts: Arc<HostFacts>,
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Code").field("facts", &self.facts).finish_non_exhaustive()
    }
}

/// A step failed; its exchange is lost, nothing else is.
#[derive(Debug)]
pub(crate) struct Broken(pub(crate) String);

impl Code {
    /// Loads a module, from the kept machine code if there is some.
    ///
    /// # Errors
    /// When the file cannot be read, is no module, or speaks another ABI.
    pub fn load(path: &Path, cache: &Path) -> Result<Self, String> {
        let wasm = fs::read(path).map_err(|error| format!("module {}: {error}", path.display()))?;
        let sha256: String = Sha256::digest(&wasm).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut config = Config::new();
        config.epoch_interruption(true);
        let engine = Engine::new(&config).map_err(|error| format!("wasmtime: {error:#}"))?;
        let module = load_compiled(&engine, &wasm, &sha256, cache)?;
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).map_err(|error| format!("module: {error:#}"))?;
        let pre = linker.instantiate_pre(&module).map_err(|error| format!("module: {error:#}"))?;
        let facts = Arc::new(HostFacts {
            name: "native".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            runtime: RUNTIME.into(),
            module_sha256: sha256,
            module_bytes: wasm.len() as u64,
        });
        let ticking = engine.weak();
        thread::spawn(move || {
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                thread::sleep(TICK);
            }
        });
        Ok(Self { engine, pre, facts })
    }

    /// What `/version` says of this host.
    pub(crate) fn facts(&self) -> HostFacts {
        (*self.facts).clone()
    }
}

/// Machine code by the module's hash, the engine's settings and this machine's kind.
fn load_compiled(engine: &Engine, wasm: &[u8], sha256: &str, cache: &Path) -> Result<Module, String> {
    let mut hasher = std::hash::DefaultHasher::new();
    std::hash::Hash::hash(&engine.precompile_compatibility_hash(), &mut hasher);
    let name = format!("{}-{:016x}.cwasm", &sha256[..32], std::hash::Hasher::finish(&hasher));
    let path = cache.join(name);
    if path.exists() {
        // SAFETY: machine code is trusted as this program itself is: the directory was made by
        // this program for its own user alone (0700), and wasmtime checks version and settings.
        match unsafe { Module::deserialize_file(engine, &path) } {
            Ok(module) => return Ok(module),
            Err(_) => drop(fs::remove_file(&path)),
        }
    }
    let module = Module::new(engine, wasm).map_err(|error| format!("module: {error:#}"))?;
    if let Ok(code) = module.serialize() {
        // Without the kept code the next start is slower, no more.
        let _ = keep(cache, &path, &code);
    }
    Ok(module)
}

/// Writes beside and renames, so that no other start reads half a file.
fn keep(cache: &Path, path: &PathBuf, code: &[u8]) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
    let beside = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&beside)?
        .write_all(code)?;
    fs::rename(beside, path)
}

/// An instance with its exports.
struct Warm {
    store: Store<StoreLimits>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<(u32, u32), ()>,
    step: TypedFunc<(u32, u32, u32, u32), u64>,
    reduce: TypedFunc<(u32, u32), u64>,
    calls: u32,
    /// When the call that runs began, by this thread's time of the processor, in nanoseconds.
    begun: Arc<AtomicU64>,
}

/// Ticks of that long, at least one.
fn ticks(time: Duration) -> u64 {
    u64::try_from(time.as_millis() / TICK.as_millis()).unwrap_or(MOST_TICKS).max(1)
}

/// What this thread has had of the processor, in nanoseconds.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let nanoseconds = i128::from(time.tv_sec) * 1_000_000_000 + i128::from(time.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

/// One thread's way into the core.
pub struct Core {
    code: Code,
    policy: Arc<Vec<u8>>,
    warm: Option<Warm>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("warm", &self.warm.is_some()).finish_non_exhaustive()
    }
}

impl Core {
    /// A way of its own, for the thread that makes it.
    pub fn new(code: Code, policy: &Policy) -> Self {
        Self { code, policy: Arc::new(policy.encode()), warm: None }
    }

    /// Makes an instance now rather than at the first request.
    ///
    /// # Errors
    /// When the module cannot be instantiated, or refuses the policy.
    pub fn warm_up(&mut self) -> Result<(), String> {
        self.with_warm(|_| Ok(())).map_err(|broken| broken.0)
    }

    /// Takes one step of one exchange.
    pub(crate) fn step(
        &mut self,
        now: Moment,
        step: Step<'_>,
        payload: &[impl AsRef<[u8]>],
    ) -> Result<Reply, Broken> {
        let frame =
            postcard::to_stdvec(&StepFrame { now, step }).map_err(|error| Broken(error.to_string()))?;
        let decoded = self.with_warm(|warm| {
            let length = payload.iter().map(|part| part.as_ref().len()).sum::<usize>();
            let (frame_at, frame_len) = warm.write(&[frame.as_slice()], frame.len())?;
            let (payload_at, payload_len) = warm.write(payload, length)?;
            let result = warm.step.call(&mut warm.store, (frame_at, frame_len, payload_at, payload_len))?;
            warm.free(frame_at, frame_len)?;
            warm.free(payload_at, payload_len)?;
            warm.take(result, |bytes| postcard::from_bytes::<Reply>(bytes))
        })?;
        decoded.map_err(|error| Broken(error.to_string()))
    }

    /// Applies an operation to what is stored under a key.
    pub(crate) fn reduce(&mut self, op: Op, old: Option<&[u8]>, unix_ms: u64) -> Result<ReduceReply, Broken> {
        let frame = ReduceFrame { op, old: old.map(serde_bytes::Bytes::new), unix_ms };
        let frame = postcard::to_stdvec(&frame).map_err(|error| Broken(error.to_string()))?;
        let decoded = self.with_warm(|warm| {
            let (at, len) = warm.write(&[frame.as_slice()], frame.len())?;
            let result = warm.reduce.call(&mut warm.store, (at, len))?;
            warm.free(at, len)?;
            warm.take(result, |bytes| postcard::from_bytes::<ReduceReply>(bytes))
        })?;
        decoded.map_err(|error| Broken(error.to_string()))
    }

    /// Calls into a warm instance, and drops it when the call failed or it is worn out.
    fn with_warm<T>(&mut self, call: impl FnOnce(&mut Warm) -> wasmtime::Result<T>) -> Result<T, Broken> {
        let mut warm = match self.warm.take() {
            Some(warm) => warm,
            None => Warm::new(&self.code, &self.policy).map_err(|error| Broken(format!("{error:#}")))?,
        };
        warm.begin_call();
        let outcome = call(&mut warm).map_err(|error| Broken(format!("{error:#}")))?;
        warm.calls += 1;
        if warm.calls < MOST_CALLS && warm.memory.data_size(&warm.store) < GROWN {
            self.warm = Some(warm);
        }
        Ok(outcome)
    }
}

impl Warm {
    fn new(code: &Code, policy: &[u8]) -> wasmtime::Result<Self> {
        let limits = StoreLimitsBuilder::new().memory_size(MOST_MEMORY).build();
        let mut store = Store::new(&code.engine, limits);
        store.limiter(|limits| limits);
        let begun = Arc::new(AtomicU64::new(cpu_ns()));
        let since = Arc::clone(&begun);
        store.epoch_deadline_callback(move |_| {
            let used = Duration::from_nanos(cpu_ns().saturating_sub(since.load(Ordering::Relaxed)));
            match MOST_CPU.checked_sub(used) {
                Some(left) if !left.is_zero() => Ok(UpdateDeadline::Continue(ticks(left))),
                _ => Ok(UpdateDeadline::Interrupt),
            }
        });
        store.set_epoch_deadline(MOST_TICKS);
        let instance = code.pre.instantiate(&mut store)?;
        let memory = instance
            .get_memory(&mut store, "memory")
            .ok_or_else(|| wasmtime::Error::msg("the module exports no memory"))?;
        let version =
            instance.get_typed_func::<(), u32>(&mut store, "mg_abi_version")?.call(&mut store, ())?;
        if version != ABI_VERSION {
            let problem = format!("the module speaks ABI {version}, this host ABI {ABI_VERSION}");
            return Err(wasmtime::Error::msg(problem));
        }
        let configure = instance.get_typed_func::<(u32, u32), u32>(&mut store, "mg_configure")?;
        let mut warm = Self {
            memory,
            alloc: instance.get_typed_func(&mut store, "mg_alloc")?,
            free: instance.get_typed_func(&mut store, "mg_free")?,
            step: instance.get_typed_func(&mut store, "mg_step")?,
            reduce: instance.get_typed_func(&mut store, "mg_reduce")?,
            store,
            calls: 0,
            begun,
        };
        let (at, len) = warm.write(&[policy], policy.len())?;
        let understood = configure.call(&mut warm.store, (at, len))?;
        warm.free(at, len)?;
        if understood != 1 {
            return Err(wasmtime::Error::msg("the module does not understand the policy"));
        }
        Ok(warm)
    }

    /// The next call has all of its time.
    fn begin_call(&mut self) {
        self.begun.store(cpu_ns(), Ordering::Relaxed);
        self.store.set_epoch_deadline(MOST_TICKS);
    }

    /// Copies parts into one new buffer of the module.
    fn write(&mut self, parts: &[impl AsRef<[u8]>], len: usize) -> wasmtime::Result<(u32, u32)> {
        if len == 0 {
            return Ok((0, 0));
        }
        let size = u32::try_from(len)?;
        let at = self.alloc.call(&mut self.store, size)?;
        let target = self.memory.data_mut(&mut self.store).get_mut(at as usize..at as usize + len);
        let Some(mut target) = target.filter(|_| at != 0) else {
            return Err(wasmtime::Error::msg("the module is out of memory"));
        };
        for part in parts {
            let (here, rest) = target.split_at_mut(part.as_ref().len());
            here.copy_from_slice(part.as_ref());
            target = rest;
        }
        Ok((at, size))
    }

    fn free(&mut self, at: u32, len: u32) -> wasmtime::Result<()> {
        if len == 0 { Ok(()) } else { self.free.call(&mut self.store, (at, len)) }
    }

    /// Reads a result where it stands, and gives its buffer back.
    fn take<T>(&mut self, result: u64, read: impl FnOnce(&[u8]) -> T) -> wasmtime::Result<T> {
        let (at, len) = (u32::try_from(result >> 32)?, u32::try_from(result & 0xffff_ffff)?);
        let bytes = self.memory.data(&self.store).get(at as usize..at as usize + len as usize);
        let bytes = bytes
            .filter(|_| result != 0)
            .ok_or_else(|| wasmtime::Error::msg("the module did not understand the frame"))?;
        let value = read(bytes);
        self.free(at, len)?;
        Ok(value)
    }
}
