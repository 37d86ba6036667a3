//! `/readyz` and `/version`: what an operator or a load balancer asks.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{Exchange, Phase};
use crate::{
    VERSION,
    policy::Policy,
    seam::{ABI_VERSION, Delivery, Fetch, Input, Moment, OPENCLAW, Output, Rope},
    state::Op,
};

/// The two checks of `/readyz`, each `None` until it is known.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Probes {
    fetch_id: u32,
    store_id: u32,
    openclaw: Option<bool>,
    store: Option<bool>,
}

impl Probes {
    /// The fetch, while it runs.
    pub(super) fn waiting_fetch(&self) -> Option<u32> {
        self.openclaw.is_none().then_some(self.fetch_id)
    }
}

/// The body of `/version`.
pub(super) fn version(policy: &Policy) -> String {
    let host = &policy.host;
    let mut body = json!({
        "version": VERSION,
        "abi": ABI_VERSION,
        "module": {"sha256": host.module_sha256, "bytes": host.module_bytes},
        "host": {"name": host.name, "version": host.version, "runtime": host.runtime},
        "environment": policy.environment.name(),
    });
    if !policy.catalog.version.is_empty() {
        body["config"] = policy.catalog.version.as_str().into();
    }
    body.to_string()
}

impl Exchange {
    /// Asks OpenClaw whether it is ready, and the store to write.
    pub(super) fn probe(&mut self, policy: &Policy, now: Moment) {
        let (fetch_id, store_id) = (self.take_id(), self.take_id());
        if !policy.only_models {
            self.outputs.push_back(Output::Fetch(Fetch {
                id: fetch_id,
                upstream: OPENCLAW.into(),
                method: "GET".into(),
                path: "/readyz".into(),
                headers: Vec::new(),
                credential: None,
                body: Rope::default(),
                delivery: Delivery::Whole { limit: 64 * 1024 },
                keeps_body: false,
            }));
        }
        self.outputs.push_back(Output::Store { id: store_id, ops: vec![("probe".into(), Op::Probe)] });
        self.timers.turn = Some(now.unix_ms + policy.deadlines.probe);
        // Where there is no OpenClaw, it is not missing.
        let openclaw = policy.only_models.then_some(true);
        self.phase = Phase::Probes(Probes { fetch_id, store_id, openclaw, store: None });
    }

    pub(super) fn in_probes(&mut self, policy: &Policy, mut probes: Probes, input: Input<'_>, now: Moment) {
        match input {
            Input::FetchWhole { id, status, .. } if id == probes.fetch_id => {
                probes.openclaw = Some(status == 200)
            }
            Input::FetchFailed { id, .. } if id == probes.fetch_id => probes.openclaw = Some(false),
            Input::Stored { id, .. } if id == probes.store_id => probes.store = Some(true),
            Input::StoreFailed { id } if id == probes.store_id => probes.store = Some(false),
            _ => {}
        }
        if probes.openclaw.is_some() && probes.store.is_some() {
            self.probes_done(policy, probes, now);
        } else {
            self.phase = Phase::Probes(probes);
        }
    }

    /// Both are known, or the time is over: what is not known by then is a failure.
    pub(super) fn probes_done(&mut self, policy: &Policy, probes: Probes, now: Moment) {
        let word = |check: Option<bool>| match check {
            Some(true) => "ok",
            Some(false) => "failed",
            None => "timeout",
        };
        let ready = probes.openclaw == Some(true) && probes.store == Some(true);
        let mut checks = json!({"store": word(probes.store)});
        if !policy.only_models {
            checks["openclaw"] = word(probes.openclaw).into();
        }
        let body = json!({"ready": ready, "checks": checks}).to_string();
        self.respond_json(policy, if ready { 200 } else { 503 }, body, now);
    }
}
