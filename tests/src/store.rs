//! What the native host's store needs when it is used by itself: the module, as the host runs it.

use std::path::Path;

use minigate::module::{Code, Core};
use minigate_core::policy::{HostFacts, Policy, Secrets, Settings};

use crate::required;

/// The module, compiled or as it was kept in that directory.
///
/// # Panics
/// When it is not there or cannot be used.
#[must_use]
pub fn code(kept: &Path) -> Code {
    let module = required("MINIGATE_MODULE").join("index_bg.wasm");
    Code::load(&module, kept).unwrap_or_else(|problem| panic!("{problem}"))
}

/// A thread's way into it. The reducers look at no setting.
///
/// # Panics
/// When the module refuses the smallest policy.
#[must_use]
pub fn core(code: Code) -> Core {
    let settings = Settings::from([("OPENCLAW_GATEWAY_URL".into(), "http://127.0.0.1:18789".into())]);
    let secrets =
        [("OPENCLAW_GATEWAY_TOKEN", "a token of nobody"), ("API_KEY", "a key of nobody")].map(owned);
    let policy = Policy::from_settings(&settings, &Secrets(secrets.into()), HostFacts::default(), false);
    let mut core = Core::new(code, &policy.expect("the policy is good"));
    core.warm_up().unwrap_or_else(|problem| panic!("{problem}"));
    core
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}
