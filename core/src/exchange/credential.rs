//! Who asks, by the credential in a request's head.
//!
//! Which one is wanted is the route's audience (`routes.rs`): a route that is added without one does
//! not compile. A credential that is not valid is told apart from one that only somebody who guesses
//! would show, and nothing of either is repeated.

use super::{
    gates::Caller,
    operators,
    routes::{Audience, Route},
};
use crate::{
    policy::{
        Policy, auth,
        operator::Operator,
        session::{self, TokenFault},
    },
    seam::{Moment, RequestHead},
    wire::failure::{Code, Failure},
};

/// A credential that is not valid.
pub(super) struct Rejected {
    pub(super) failure: Failure,
    /// Whether only somebody who guesses or forges shows it. A token that has had its time, or
    /// that a key signed which is not used any more, lies in every phone after a rotation.
    pub(super) guessed: bool,
}

/// Why a request is refused by its head.
pub(super) enum Refusal {
    /// It shows no credential that is valid.
    Credential(Rejected),
    /// Anything else, with headers that go with it.
    Request(Failure, Vec<(String, String)>),
}

/// Who is asking, by the head alone; and the session, where an operator shows one.
pub(super) fn admit(
    policy: &Policy,
    head: &RequestHead,
    route: Route,
    now: Moment,
) -> Result<(Caller, Option<Operator>), Refusal> {
    let plain = |failure| Refusal::Request(failure, Vec::new());
    if policy.only_models && route.is_for_people() {
        let message = "this process serves models only: POST /v1/chat/completions, GET /v1/models";
        return Err(plain(Failure::new(Code::NotFound, message)));
    }
    if route == Route::Unknown {
        return Err(plain(Failure::new(
            Code::NotFound,
            "no such route; intents are POST /v1/mini/ask, chat is POST /api/chat, login is POST /v1/mini/login",
        )));
    }
    if !route.allows(&head.method) {
        let failure = Failure::new(Code::MethodNotAllowed, format!("use {}", route.methods()));
        return Err(Refusal::Request(failure, vec![("allow".into(), route.methods().into())]));
    }
    if !route.is_guarded() {
        return Ok((Caller::Anyone, None));
    }
    let presented = presented_key(head);
    if presented.is_none()
        && route.takes_session()
        && let Some(operator) = operators::shown(policy, head, route, now)?
    {
        return Ok((Caller::Key(operator.name.clone()), Some(operator)));
    }
    let caller = caller(policy, route, presented, now).map_err(Refusal::Credential)?;
    Ok((caller, None))
}

/// Who is asking, by what the route wants to see.
fn caller(policy: &Policy, route: Route, presented: Option<&str>, now: Moment) -> Result<Caller, Rejected> {
    let only = |keys: &[auth::KeyDigest], name: &str| {
        let message = format!("this is for holders of {name}; send it as Authorization: Bearer");
        auth::is_one_of(keys, presented)
            .then_some(Caller::Anyone)
            .ok_or(Rejected { failure: Failure::new(Code::Unauthorized, message), guessed: true })
    };
    match route.audience() {
        // The code, or the key, is in the body.
        _ if matches!(route, Route::Login | Route::LogIn) => Ok(Caller::Anyone),
        _ if route == Route::Renew => session_caller(policy, presented.unwrap_or_default(), true, now),
        Audience::Person => chat_caller(policy, presented, now),
        Audience::Backend => only(&policy.login.server_keys, "SERVER_KEY"),
        // The log says which of the keys gave an order.
        Audience::Operator => only(&policy.admin_keys, "ADMIN_KEY")
            .map(|_| Caller::Key(auth::subject(policy, "admin", presented.unwrap_or_default()))),
        // Where nobody needs a key to chat, nobody needs one to look.
        Audience::Scraper
            if policy.api_keys.is_empty() && policy.metrics_keys.is_empty() && !policy.only_models =>
        {
            Ok(Caller::Anyone)
        }
        Audience::Scraper => only(&policy.metrics_keys, "METRICS_KEY or ADMIN_KEY"),
        // Each token has its own share when callers wait.
        Audience::Program => only(&policy.auth_tokens, "AUTH_TOKEN")
            .map(|_| Caller::Key(auth::subject(policy, "model", presented.unwrap_or_default()))),
        Audience::Platform | Audience::Anyone => Ok(Caller::Anyone),
    }
}

/// Whose credential it is. A token has two dots, a key has what its operator chose: it is a
/// key first, so that no key stops to work because it looks like a token.
fn chat_caller(policy: &Policy, presented: Option<&str>, now: Moment) -> Result<Caller, Rejected> {
    let looks_like_a_token = |text: &&str| text.bytes().filter(|byte| *byte == b'.').count() == 2;
    if policy.api_keys.is_empty()
        && let Some(token) = presented.filter(looks_like_a_token)
    {
        // In dev anything would do as a key, and nobody would be who they are.
        return session_caller(policy, token, false, now);
    }
    if auth::key_is_valid(policy, presented) {
        let name = presented.filter(|_| !policy.api_keys.is_empty());
        return Ok(name.map_or(Caller::Anyone, |key| Caller::Key(auth::subject(policy, "key", key))));
    }
    let Some(token) = presented.filter(looks_like_a_token) else {
        let message = "send a valid key in X-Api-Key, or a key or token as Authorization: Bearer";
        return Err(Rejected { failure: Failure::new(Code::Unauthorized, message), guessed: true });
    };
    session_caller(policy, token, false, now)
}

/// The person of a token. One that has had its time can still be renewed.
fn session_caller(policy: &Policy, token: &str, renews: bool, now: Moment) -> Result<Caller, Rejected> {
    let session = |claims: session::Claims| Caller::Session {
        subject: claims.subject,
        role: claims.role,
        login_s: claims.login_s,
        signer: session::key_id(token).unwrap_or_default(),
    };
    match session::verify(&policy.login.keys, policy.environment.name(), token, now.unix_ms) {
        Ok(claims) => Ok(session(claims)),
        Err(TokenFault::Expired { claims }) if renews => Ok(session(claims)),
        Err(TokenFault::Expired { .. }) => {
            let message = "the token has had its time; renew it or log in again";
            Err(Rejected { failure: Failure::new(Code::TokenExpired, message), guessed: false })
        }
        // Which of the other faults it is would only help somebody who makes tokens up.
        Err(fault) => {
            let guessed = !matches!(fault, TokenFault::UnknownKey | TokenFault::WrongAudience);
            let failure = Failure::new(Code::TokenInvalid, "not a valid token here; log in again");
            Err(Rejected { failure, guessed })
        }
    }
}

/// The key in either header.
fn presented_key(head: &RequestHead) -> Option<&str> {
    let bearer = head.header("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    head.header("x-api-key").map(str::trim).or(bearer)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn head(headers: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            headers: headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..RequestHead::default()
        }
    }

    #[test]
    fn the_key_is_found_in_either_header() {
        assert_eq!(presented_key(&head(&[("authorization", "bearer k")])), Some("k"));
        assert_eq!(presented_key(&head(&[("authorization", "Bearer a"), ("x-api-key", "b")])), Some("b"));
        assert_eq!(presented_key(&head(&[("authorization", "Basic k")])), None);
    }
}
