//! Which exchanges may be kept to be replayed: what hosts keep for it is the inputs as they came,
//! so no exchange whose inputs have a secret in them is ever named here.
//!
//! A request's head has a credential. So a record begins after it was admitted, with the state, which
//! has none. A login has codes and tokens, and so do its kin; a notice has an openid; an exchange whose texts
//! WeChat checks has both, and [`Policy::keeps_for_replay`] says no to it.

use super::{Exchange, routes::Route, runner::Run};
use crate::{policy::Policy, seam::Output};

impl Exchange {
    /// Tells the host to keep what comes, where that is allowed. Said when a turn may come in, and again
    /// at its end: a body may say what the request and its trace are called.
    pub(super) fn keep_for_replay(&mut self, policy: &Policy) {
        let is_turn = matches!(self.facts.route, Route::Chat | Route::Ask | Route::Completions);
        let is_notice = self.run.as_ref().is_some_and(Run::is_notice);
        if is_turn && !is_notice && policy.keeps_for_replay() {
            self.outputs.push_back(Output::Replayable {
                request_id: self.facts.request_id.clone(),
                trace_id: self.facts.trace_id.clone(),
            });
        }
    }
}
