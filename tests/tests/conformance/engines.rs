//! The same core, run in different ways: as Rust, and as the module in wasmtime and workerd.

use std::{collections::VecDeque, fmt, fs, path::Path, sync::Mutex};

use minigate_core::{
    policy::Policy,
    seam::{ABI_VERSION, reduce_frame, step_frame},
};
use sha2::{Digest as _, Sha256};
use wasmtime::{Engine, InstancePre, Linker, Memory, Module, Store, TypedFunc};

/// The reply's bytes, or nothing when the frame was not understood; an error is a trap.
pub(crate) type Outcome = Result<Option<Vec<u8>>, String>;

/// One way to run the core.
pub(crate) trait Runs: Send + Sync + fmt::Debug {
    /// The name in messages.
    fn name(&self) -> &'static str;
    /// `mg_step`, after `mg_configure`.
    fn step(&self, policy: &[u8], frame: &[u8], payload: &[u8]) -> Outcome;
    /// `mg_reduce`.
    fn reduce(&self, frame: &[u8]) -> Outcome;
}

/// Rust, compiled for this machine.
#[derive(Debug)]
pub(crate) struct Native;

impl Runs for Native {
    fn name(&self) -> &'static str {
        "native Rust"
    }

    fn step(&self, policy: &[u8], frame: &[u8], payload: &[u8]) -> Outcome {
        let policy = Policy::decode(policy).ok_or("the policy is not understood")?;
        Ok(step_frame(&policy, frame, payload).ok())
    }

    fn reduce(&self, frame: &[u8]) -> Outcome {
        Ok(reduce_frame(frame).ok())
    }
}

/// A module in wasmtime, with nothing but its exports.
pub(crate) struct Wasm {
    name: &'static str,
    engine: Engine,
    pre: InstancePre<()>,
    /// Two or more take turns: an exchange goes on in another instance than it came from.
    warm: Mutex<VecDeque<Instance>>,
    /// The names of the imports.
    pub(crate) imports: Vec<String>,
    /// The names of the exports.
    pub(crate) exports: Vec<String>,
    /// The hash of the file.
    pub(crate) sha256: String,
}

impl fmt::Debug for Wasm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wasm").field("name", &self.name).finish_non_exhaustive()
    }
}

struct Instance {
    store: Store<()>,
    memory: Memory,
    alloc: TypedFunc<u32, u32>,
    free: TypedFunc<(u32, u32), ()>,
    configure: TypedFunc<(u32, u32), u32>,
    step: TypedFunc<(u32, u32, u32, u32), u64>,
    reduce: TypedFunc<(u32, u32), u64>,
}

impl Wasm {
    /// Compiles a file; every import of it is a trap.
    pub(crate) fn load(name: &'static str, path: &Path) -> Self {
        let bytes = fs::read(path).expect("the module can be read");
        let engine = Engine::default();
        let module = Module::new(&engine, &bytes).expect("the file is a module");
        let mut linker = Linker::new(&engine);
        linker.define_unknown_imports_as_traps(&module).expect("imports are functions");
        let names = |name: &str, field: &str| format!("{name}.{field}");
        Self {
            name,
            pre: linker.instantiate_pre(&module).expect("every import is there"),
            warm: Mutex::default(),
            imports: module.imports().map(|import| names(import.module(), import.name())).collect(),
            exports: module.exports().map(|export| export.name().to_owned()).collect(),
            sha256: Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect(),
            engine,
        }
    }

    fn instantiate(&self) -> wasmtime::Result<Instance> {
        let mut store = Store::new(&self.engine, ());
        let instance = self.pre.instantiate(&mut store)?;
        let version = instance.get_typed_func::<(), u32>(&mut store, "mg_abi_version")?;
        assert_eq!(version.call(&mut store, ())?, ABI_VERSION);
        Ok(Instance {
            memory: instance.get_memory(&mut store, "memory").expect("the module exports its memory"),
            alloc: instance.get_typed_func(&mut store, "mg_alloc")?,
            free: instance.get_typed_func(&mut store, "mg_free")?,
            configure: instance.get_typed_func(&mut store, "mg_configure")?,
            step: instance.get_typed_func(&mut store, "mg_step")?,
            reduce: instance.get_typed_func(&mut store, "mg_reduce")?,
            store,
        })
    }

    /// Calls into the instance whose turn it is. One that trapped is dropped.
    fn call(&self, work: impl FnOnce(&mut Instance) -> wasmtime::Result<Option<Vec<u8>>>) -> Outcome {
        let taken = {
            let mut warm = self.warm.lock().expect("no call panics");
            if warm.len() > 1 { warm.pop_front() } else { None }
        };
        let run = || {
            let mut instance = taken.map_or_else(|| self.instantiate(), Ok)?;
            work(&mut instance).map(|reply| (instance, reply))
        };
        let (instance, reply) = run().map_err(|error| format!("{error:#}"))?;
        self.warm.lock().expect("no call panics").push_back(instance);
        Ok(reply)
    }
}

impl Instance {
    fn write(&mut self, bytes: &[u8]) -> wasmtime::Result<(u32, u32)> {
        if bytes.is_empty() {
            return Ok((0, 0));
        }
        let len = u32::try_from(bytes.len())?;
        let at = self.alloc.call(&mut self.store, len)?;
        assert_ne!(at, 0, "the module is out of memory");
        self.memory.write(&mut self.store, at as usize, bytes)?;
        Ok((at, len))
    }

    fn free(&mut self, (at, len): (u32, u32)) -> wasmtime::Result<()> {
        self.free.call(&mut self.store, (at, len))
    }

    fn take(&mut self, result: u64) -> wasmtime::Result<Option<Vec<u8>>> {
        if result == 0 {
            return Ok(None);
        }
        let (at, len) = (u32::try_from(result >> 32)?, u32::try_from(result & 0xffff_ffff)?);
        let mut bytes = vec![0; len as usize];
        self.memory.read(&self.store, at as usize, &mut bytes)?;
        self.free((at, len))?;
        Ok(Some(bytes))
    }
}

impl Runs for Wasm {
    fn name(&self) -> &'static str {
        self.name
    }

    fn step(&self, policy: &[u8], frame: &[u8], payload: &[u8]) -> Outcome {
        self.call(|core| {
            let settings = core.write(policy)?;
            let understood = core.configure.call(&mut core.store, settings)?;
            core.free(settings)?;
            assert_eq!(understood, 1, "the module does not understand the policy");
            let (frame, payload) = (core.write(frame)?, core.write(payload)?);
            let result = core.step.call(&mut core.store, (frame.0, frame.1, payload.0, payload.1))?;
            core.free(frame)?;
            core.free(payload)?;
            core.take(result)
        })
    }

    fn reduce(&self, frame: &[u8]) -> Outcome {
        self.call(|core| {
            let frame = core.write(frame)?;
            let result = core.reduce.call(&mut core.store, frame)?;
            core.free(frame)?;
            core.take(result)
        })
    }
}
