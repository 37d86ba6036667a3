//! What holds of the module itself, whatever the case.

use std::{borrow::Borrow as _, fs, process::Command};

use minigate_core::{
    seam::{ABI_VERSION, ReduceFrame, ReduceReply},
    state::{
        Op,
        admission::{Admit, Release, Verdict},
        caller::{Enter, Rate, Strike, Thresholds},
    },
};
use minigate_tests::required;
use serde_json::Value;

use crate::{World, run::same};

/// A check of the module.
type Check = (&'static str, fn(&World));

/// All of them.
pub(crate) const CHECKS: &[Check] = &[
    ("the_core_alone_asks_the_host_for_nothing", the_core_alone_asks_the_host_for_nothing),
    ("both_builds_export_the_abi", both_builds_export_the_abi),
    ("another_abi_is_refused_by_the_native_host", another_abi_is_refused_by_the_native_host),
    ("reducers_agree_on_any_history", reducers_agree_on_any_history),
    ("garbage_is_understood_by_nobody_and_breaks_nobody", garbage_breaks_nobody),
];

const ABI: &[&str] =
    &["memory", "mg_abi_version", "mg_alloc", "mg_configure", "mg_free", "mg_reduce", "mg_step"];

/// Says once which file all of them run, and proves it.
pub(crate) fn print_hash(world: &World) {
    let stated = fs::read(required("MINIGATE_MODULE").join("module.json")).expect("the module's facts");
    let stated: Value = serde_json::from_slice(&stated).expect("JSON");
    let loaded = world.workerd.facts();
    let sha256 = &world.wasmtime.sha256;
    assert_eq!(stated["sha256"], sha256.as_str(), "module.json is about another file");
    assert_eq!(loaded["sha256"], sha256.as_str(), "workerd runs another file");
    assert_eq!(loaded["abi"], ABI_VERSION);
    println!("module SHA-256 {sha256}: the same file in wasmtime and workerd, as module.json says");
}

fn the_core_alone_asks_the_host_for_nothing(world: &World) {
    assert_eq!(world.alone.imports, [""; 0]);
}

fn both_builds_export_the_abi(world: &World) {
    for module in [&world.wasmtime, &world.alone] {
        let exports = &module.exports;
        let missing: Vec<_> = ABI.iter().filter(|name| !exports.iter().any(|is| is == *name)).collect();
        assert!(missing.is_empty(), "{module:?} does not export {missing:?}");
    }
}

/// The smallest module that has a memory and says `mg_abi_version() = 1`.
const OTHER_ABI: &[u8] = &[
    0x00, b'a', b's', b'm', 1, 0, 0, 0, // the header
    1, 5, 1, 0x60, 0, 1, 0x7f, // a type: nothing to i32
    3, 2, 1, 0, // a function of it
    5, 3, 1, 0, 1, // a memory of one page
    7, 27, 2, 6, b'm', b'e', b'm', b'o', b'r', b'y', 2, 0, // two exports: the memory,
    14, b'm', b'g', b'_', b'a', b'b', b'i', b'_', b'v', b'e', b'r', b's', b'i', b'o', b'n', 0,
    0, // the function
    10, 6, 1, 4, 0, 0x41, 1, 0x0b, // its code: 1
];

fn another_abi_is_refused_by_the_native_host(_: &World) {
    assert_ne!(ABI_VERSION, 1, "this module is no longer another one");
    let directory = std::env::temp_dir().join(format!("minigate-abi-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a temporary directory");
    let module = directory.join("other.wasm");
    fs::write(&module, OTHER_ABI).expect("a file");
    let output = Command::new(required("MINIGATE_BIN"))
        .args(["serve", "--module"])
        .arg(&module)
        .env_clear()
        .env("PORT", "0")
        .env("DATA_DIR", directory.join("data"))
        .env("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:9")
        .env("OPENCLAW_GATEWAY_TOKEN", "token")
        .env("API_KEY", "key")
        .output()
        .expect("the host can be started");
    let _ = fs::remove_dir_all(directory);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&format!("ABI 1, this host ABI {ABI_VERSION}")), "{said}");
}

/// Numbers that look random and are always the same.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

fn reducers_agree_on_any_history(world: &World) {
    let engines = world.engines();
    let mut numbers = Numbers(0x4d69_6e69);
    let mut old: Option<ReduceReply> = None;
    let mut now = 1_795_232_797_000_u64;
    for round in 0..300 {
        now = match numbers.below(20) {
            // A clock that runs backwards, and one that is far ahead.
            0 => now - numbers.below(100_000),
            1 => u64::MAX - numbers.below(10),
            _ => now.saturating_add(numbers.below(30_000)),
        };
        let op = match numbers.below(16) {
            0 => Op::Probe,
            1 => enter(u32::MAX, u32::MAX, &mut numbers),
            2 => enter(0, 0, &mut numbers),
            3 => Op::Admit(admit(&mut numbers)),
            4 => Op::Release(Release {
                ticket: numbers.below(6),
                model: 1,
                flow: numbers.below(3),
                verdict: [Verdict::Well, Verdict::Failed, Verdict::Unknown, Verdict::FailedFor { ms: 900 }]
                    [numbers.below(4) as usize],
                slots: 2,
            }),
            5 => Op::Renew { ticket: numbers.below(6), lease_ms: 15_000 },
            6 => Op::Strike(Strike { points: 30, thresholds: THRESHOLDS }),
            7 => Op::Revoke { before_s: now / 1000, ttl_ms: numbers.below(9_000_000) },
            8 if numbers.below(3) == 0 => Op::Forget,
            8 => Op::Once { ttl_ms: 9_000 },
            9 => Op::Write { value: vec![7; numbers.below(40) as usize].into(), ttl_ms: 50_000 },
            10 => Op::Read,
            11 => Op::Await { ticket: numbers.below(6), ttl_ms: numbers.below(9_000) },
            12 => {
                Op::Bring { value: vec![9; numbers.below(40) as usize].into(), ttl_ms: numbers.below(9_000) }
            }
            _ => enter(12, 3, &mut numbers),
        };
        if let (Some(old), 0) = (&mut old, numbers.below(9)) {
            old.new.truncate(2);
        }
        let bytes = old.as_ref().map(|reply| reply.new.borrow());
        let frame = ReduceFrame { op, old: bytes, unix_ms: now };
        let frame = postcard::to_stdvec(&frame).expect("a frame can be encoded");
        let reply = same(&engines, &format!("round {round}"), |engine| engine.reduce(&frame));
        old = Some(postcard::from_bytes(&reply.expect("understood")).expect("a reply"));
        if now > u64::MAX / 2 {
            (now, old) = (1_795_232_797_000, None);
        }
    }
}

const THRESHOLDS: Thresholds = Thresholds { slow: 10, restrict: 20, block: 40, block_ms: 60_000 };

fn enter(per_minute: u32, burst: u32, numbers: &mut Numbers) -> Op {
    Op::Enter(Enter {
        rate: Some(Rate { per_minute, burst }),
        cost: numbers.below(3) as u32,
        thresholds: THRESHOLDS,
        fingerprint: numbers.below(3) as u32,
        bytes: numbers.below(1_000_000) as u32,
        login_s: numbers.below(2_000_000_000),
        refusal_points: numbers.below(3) as u16,
    })
}

fn admit(numbers: &mut Numbers) -> Admit {
    Admit {
        ticket: numbers.below(6),
        flow: numbers.below(3),
        weight: numbers.below(3) as u32,
        session: (numbers.below(2) == 0).then(|| numbers.below(2)),
        model: 1,
        give_up_ms: u64::MAX - numbers.below(2) * (u64::MAX / 2),
        lease_ms: 15_000,
        slots: 2,
        model_slots: 2,
        places: 3,
        replicas: 1,
        avoid: None,
    }
}

fn garbage_breaks_nobody(world: &World) {
    let engines = world.engines();
    let policy = minigate_core::policy::Policy::default().encode();
    let mut numbers = Numbers(0x6761_7465);
    for round in 0..200 {
        let length = numbers.below(64);
        let frame: Vec<u8> = (0..length).map(|_| numbers.below(256) as u8).collect();
        let place = format!("garbage {round}: {frame:02x?}");
        same(&engines, &place, |engine| engine.step(&policy, &frame, b"payload"));
        same(&engines, &place, |engine| engine.reduce(&frame));
    }
}
