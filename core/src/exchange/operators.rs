//! `/v1/admin/session`: an operator's key for a cookie, who holds one, and its end.
//!
//! A browser sends a cookie along whoever's page asks. So with one, whatever changes something needs
//! the session's CSRF token, which only this gateway's own page can read, and a request that a
//! browser says is another site's is refused. That a session was given back is asked of the store, as
//! that a person's tokens are void. No key and no token may be kept in an exchange.

use serde::Deserialize;
use serde_json::json;

use super::{
    Exchange, Phase,
    credential::{Refusal, Rejected},
    gates::{Caller, STORE_PATIENCE},
    record,
    routes::Route,
};
use crate::{
    policy::{
        Policy, auth,
        operator::{self, LONGEST_S, Operator},
        session::TokenFault,
    },
    seam::{Input, Moment, Output, RequestHead},
    state::{Op, caller::Enter},
    wire::{
        failure::{Code, Failure},
        json,
    },
};

/// What is asked about a session: whether it was given back.
pub(super) fn ask_session(session: &str) -> (String, Op) {
    (cell(session), Op::Enter(Enter { login_s: 1, ..Enter::default() }))
}

fn cell(session: &str) -> String {
    format!("operator:{session}")
}

/// There is no session, or not any more.
pub(super) fn logged_out() -> Failure {
    Failure::new(Code::Unauthorized, "nobody is logged in; log in with the operator's key, ADMIN_KEY")
}

/// The session that a request shows, which has no other credential.
pub(super) fn shown(
    policy: &Policy,
    head: &RequestHead,
    route: Route,
    now: Moment,
) -> Result<Option<Operator>, Refusal> {
    let foreign = |message| Refusal::Request(Failure::new(Code::CsrfInvalid, message), Vec::new());
    let changes = head.method != "GET";
    if changes && is_foreign(head) {
        return Err(foreign("another site's page asks; only this gateway's own may"));
    }
    let token = head.header("cookie").and_then(operator::token_in).filter(|_| route != Route::LogIn);
    let Some(token) = token else {
        // A page that asks whether somebody is logged in guesses nothing.
        let nobody = Rejected { failure: logged_out(), guessed: false };
        return if route == Route::WhoAmI { Err(Refusal::Credential(nobody)) } else { Ok(None) };
    };
    let operator = Operator::of_token(policy, token, now.unix_ms).map_err(|fault| {
        // What has had its time, or was opened by a key of before, lies in a browser.
        let guessed = matches!(fault, TokenFault::Malformed | TokenFault::BadSignature);
        Refusal::Credential(Rejected { failure: logged_out(), guessed })
    })?;
    if changes && !auth::is_same(&operator.csrf(policy), head.header("x-csrf-token").unwrap_or_default()) {
        return Err(foreign("X-CSRF-Token: send the `csrf` that the login gave, with every method but GET"));
    }
    Ok(Some(operator))
}

/// Whether a browser says that another site's page asks. `Sec-Fetch-Site` (Fetch Metadata) is the
/// browser's own word, and no proxy changes it; without one the origin must be the host that was asked.
fn is_foreign(head: &RequestHead) -> bool {
    match (head.header("sec-fetch-site"), head.header("origin")) {
        (Some(site), _) => !matches!(site, "same-origin" | "none"),
        (None, Some(origin)) => origin.split_once("://").map(|(_, host)| host) != head.header("host"),
        (None, None) => false,
    }
}

impl Exchange {
    /// `{"key"}`: one of the operator's keys for a session.
    pub(super) fn log_in(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        struct Body {
            key: String,
        }
        let Ok(Body { key }) = json::object::<Body>(body) else {
            let message = "body: send {\"key\": \"…\"}, one of ADMIN_KEY";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let session = auth::hex(&now.entropy);
        let Some((operator, token)) = Operator::enter(policy, &key, session, now.unix_ms / 1000) else {
            let failure = Failure::new(Code::Unauthorized, "key: not one of the operator's, ADMIN_KEY");
            return self.unauthorized(policy, Rejected { failure, guessed: true }, now);
        };
        self.story.subject = Some(operator.name.clone());
        self.facts.caller = Caller::Key(operator.name.clone());
        let cookie = operator::cookie(&token, operator.expires_s.saturating_sub(now.unix_ms / 1000));
        let body = show(policy, &operator).to_string();
        self.respond(policy, 200, vec![("set-cookie".into(), cookie)], body, now);
    }

    /// Who is logged in; of somebody with a key that it is one of the operator's.
    pub(super) fn say_who(&mut self, policy: &Policy, now: Moment) {
        let body = match (&self.facts.operator, &self.facts.caller) {
            (Some(operator), _) => {
                let longer = operator.renewed(policy, now.unix_ms / 1000);
                show(policy, longer.as_ref().map_or(operator, |(longer, _)| longer))
            }
            (None, Caller::Key(name)) => {
                json!({"name": name, "role": operator::ROLE, "csrf": null, "expiresAt": null})
            }
            (None, _) => return self.fail(policy, &logged_out(), now),
        };
        self.respond_json(policy, 200, body.to_string(), now);
    }

    /// The session is over, also in a copy of its cookie.
    pub(super) fn log_out(&mut self, policy: &Policy, now: Moment) {
        if let Caller::Key(name) = &self.facts.caller {
            self.story.subject = Some(name.clone());
        }
        let Some(operator) = &self.facts.operator else { return self.is_logged_out(policy, now) };
        let ends = Op::Revoke { before_s: u64::MAX, ttl_ms: LONGEST_S * 1000 };
        let ops = vec![(cell(&operator.session), ends)];
        let id = self.take_id();
        self.outputs.push_back(Output::Store { id, ops });
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.phase = Phase::LoggingOut(id);
    }

    pub(super) fn in_log_out(&mut self, policy: &Policy, asked: u32, input: &Input<'_>, now: Moment) {
        match input {
            Input::Stored { id, .. } if *id == asked => self.is_logged_out(policy, now),
            Input::StoreFailed { id } if *id == asked => self.log_out_failed(policy, now),
            _ => self.phase = Phase::LoggingOut(asked),
        }
    }

    /// The browser forgets the cookie, and whoever has copied it can still use it.
    pub(super) fn log_out_failed(&mut self, policy: &Policy, now: Moment) {
        self.story.store_failed = true;
        let failure = Failure::new(Code::StoreUnavailable, "the session could not be ended; log out again");
        self.fail(policy, &failure.after(5), now);
    }

    fn is_logged_out(&mut self, policy: &Policy, now: Moment) {
        self.timers.store = None;
        self.facts.operator = None;
        let headers = vec![("set-cookie".into(), operator::cookie("", 0))];
        self.respond(policy, 200, headers, json!({"loggedOut": true}).to_string(), now);
    }

    /// The cookie of a session that is used for longer.
    pub(super) fn prolong_session(&self, policy: &Policy, now: Moment) -> Option<(String, String)> {
        let now_s = now.unix_ms / 1000;
        let (longer, token) = self.facts.operator.as_ref()?.renewed(policy, now_s)?;
        Some(("set-cookie".into(), operator::cookie(&token, longer.expires_s.saturating_sub(now_s))))
    }
}

fn show(policy: &Policy, operator: &Operator) -> serde_json::Value {
    json!({
        "name": operator.name,
        "role": operator::ROLE,
        "csrf": operator.csrf(policy),
        "expiresAt": record::timestamp(operator.expires_s * 1000),
    })
}
