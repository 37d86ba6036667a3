//! From a request's head: which route, who is asking, and whether to go on.

use serde::{Deserialize, Serialize};

use super::{Facts, approvals, configuration, gates::Caller, ledger, measure, operators, page, trace, turns};
use crate::{
    policy::{
        Origins, Policy, auth, channel,
        operator::Operator,
        session::{self, TokenFault},
    },
    seam::{Moment, RequestHead},
    wire::{
        failure::{Code, Failure, Language},
        is_trace_id, picture,
    },
};

/// Headers that a browser may send across origins.
const ALLOWED_HEADERS: &str = "authorization, content-type, idempotency-key, last-event-id, prefer, traceparent, x-api-key, \
     x-openclaw-profile, x-trace-id";
/// Headers that a browser may read across origins.
const EXPOSED_HEADERS: &str =
    "location, retry-after, ratelimit-limit, ratelimit-remaining, ratelimit-reset, x-request-id, x-trace-id";

/// The most bytes of a body that is not a conversation.
const SMALL_BODY: u64 = 16 * 1024;
/// The most bytes of a message to a robot: pictures and files are not in it.
const ROBOT_BODY: u64 = 256 * 1024;

/// Before the name of one model.
const MODEL_PATH: &str = "/v1/models/";

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Route {
    Chat,
    /// An intent.
    Ask,
    /// How a turn stands.
    Turn,
    /// Its events.
    TurnEvents,
    /// Its end, before it ends by itself.
    CancelTurn,
    /// A code of `wx.login` for a token.
    Login,
    /// A token for a newer one.
    Renew,
    /// A token from the team's own backend.
    Token,
    /// The end of a person's tokens, or of a key's.
    Revoke,
    /// A picture that WeChat is to look at.
    Picture,
    /// A message that WeChat pushes.
    Push,
    /// A message to a robot.
    Robot,
    /// What a person is asked about the person's own turn.
    Approval,
    /// The person's word.
    Decide,
    /// What operators are asked.
    Approvals,
    /// An operator's word.
    OperatorDecides,
    /// A request to a model's own server, in OpenAI's form.
    Completions,
    /// The models that such a request may name.
    Models,
    /// One of them.
    Model,
    /// How the rollouts stand.
    Rollouts,
    /// An operator's words to a robot's group or person.
    Send,
    /// An order to a rollout: the same path with a body.
    Steer,
    /// Lines of the audit ledger.
    Ledger,
    /// An operator's key for a session.
    LogIn,
    /// Who holds a session.
    WhoAmI,
    /// A session's end.
    LogOut,
    /// Everything at this moment, for an operator's page.
    Overview,
    /// What became of one request.
    Trace,
    /// What a person says of an answer.
    Rate,
    /// What people said.
    Feedback,
    /// Which configurations were taken, or what one of them says.
    Configuration,
    /// Another one: the same path with a body.
    Configure,
    /// An earlier one.
    RollBack,
    Health,
    Ready,
    Version,
    /// What was counted, for Prometheus.
    Metrics,
    Unknown,
    /// A file of the operator's page.
    Page,
}

impl Route {
    fn of(method: &str, path: &str) -> Self {
        match path {
            "/api/chat" => Self::Chat,
            "/v1/mini/ask" | "/v1/mini/ai" => Self::Ask,
            "/v1/mini/login" => Self::Login,
            "/v1/mini/token/renew" => Self::Renew,
            "/v1/mini/token" => Self::Token,
            "/v1/admin/sessions/revoke" => Self::Revoke,
            "/v1/wechat/push" => Self::Push,
            path if path.starts_with(channel::PATH) => Self::Robot,
            path if path.starts_with(picture::PREFIX) => Self::Picture,
            path if path.starts_with(turns::PATH) && path.ends_with(turns::EVENTS) => Self::TurnEvents,
            path if path.starts_with(turns::PATH) && method == "DELETE" => Self::CancelTurn,
            path if path.starts_with(turns::PATH) => Self::Turn,
            path if path.starts_with(approvals::MINE) && method == "POST" => Self::Decide,
            path if path.starts_with(approvals::MINE) => Self::Approval,
            approvals::ALL => Self::Approvals,
            path if path.starts_with(approvals::ALL) && approvals::named(path).is_some() => match method {
                "POST" => Self::OperatorDecides,
                _ => Self::Approvals,
            },
            "/v1/admin/audit" => Self::Ledger,
            "/v1/admin/session" => match method {
                "POST" => Self::LogIn,
                "DELETE" => Self::LogOut,
                _ => Self::WhoAmI,
            },
            "/v1/admin/overview" => Self::Overview,
            "/v1/mini/feedback" => Self::Rate,
            "/v1/admin/feedback" => Self::Feedback,
            path if path.starts_with(trace::PATH) => Self::Trace,
            configuration::PATH if method == "PUT" => Self::Configure,
            configuration::PATH => Self::Configuration,
            configuration::ROLLBACK => Self::RollBack,
            path if configuration::named(path).is_some() => Self::Configuration,
            "/v1/chat/completions" => Self::Completions,
            "/v1/models" => Self::Models,
            path if path.starts_with(MODEL_PATH) => Self::Model,
            "/v1/admin/send" => Self::Send,
            "/v1/admin/rollouts" if method == "POST" => Self::Steer,
            "/v1/admin/rollouts" => Self::Rollouts,
            "/healthz" => Self::Health,
            "/readyz" => Self::Ready,
            "/version" => Self::Version,
            "/metrics" => Self::Metrics,
            path if page::is_one(path) => Self::Page,
            _ => Self::Unknown,
        }
    }

    /// The name in logs: a path that a client made up is not repeated there.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Chat => "/api/chat",
            Self::Ask => "/v1/mini/ask",
            Self::Turn | Self::CancelTurn => "/v1/mini/turns",
            Self::TurnEvents => "/v1/mini/turns/events",
            Self::Login => "/v1/mini/login",
            Self::Renew => "/v1/mini/token/renew",
            Self::Token => "/v1/mini/token",
            Self::Revoke => "/v1/admin/sessions/revoke",
            Self::Picture => "/v1/wechat/media",
            Self::Push => "/v1/wechat/push",
            Self::Robot => "/dingtalk",
            Self::Approval | Self::Decide => "/v1/mini/approvals",
            Self::Approvals | Self::OperatorDecides => "/v1/admin/approvals",
            Self::Completions => "/v1/chat/completions",
            Self::Models | Self::Model => "/v1/models",
            Self::Rollouts | Self::Steer => "/v1/admin/rollouts",
            Self::Send => "/v1/admin/send",
            Self::Ledger => "/v1/admin/audit",
            Self::LogIn | Self::WhoAmI | Self::LogOut => "/v1/admin/session",
            Self::Overview => "/v1/admin/overview",
            Self::Trace => "/v1/admin/trace",
            Self::Rate => "/v1/mini/feedback",
            Self::Feedback => "/v1/admin/feedback",
            Self::Configuration | Self::Configure => configuration::PATH,
            Self::RollBack => configuration::ROLLBACK,
            Self::Health => "/healthz",
            Self::Ready => "/readyz",
            Self::Version => "/version",
            Self::Metrics => "/metrics",
            Self::Page => page::PATH,
            Self::Unknown => "unknown",
        }
    }

    /// Whether it is asked by machines that watch, and not by users.
    pub(super) fn is_operational(self) -> bool {
        matches!(self, Self::Health | Self::Ready | Self::Version | Self::Metrics)
    }

    /// Whether it wants one of the operator's own keys, which lie in no phone.
    pub(super) fn is_operators(self) -> bool {
        matches!(
            self,
            Self::Token
                | Self::Revoke
                | Self::Rollouts
                | Self::Steer
                | Self::Send
                | Self::Approvals
                | Self::OperatorDecides
                | Self::Ledger
                | Self::LogIn
                | Self::WhoAmI
                | Self::LogOut
                | Self::Overview
                | Self::Trace
                | Self::Feedback
                | Self::Configuration
                | Self::Configure
                | Self::RollBack
                | Self::Metrics
        ) || self.is_openai()
    }

    /// Whether an operator's session opens it as well as the key.
    pub(super) fn takes_session(self) -> bool {
        self.is_operators() && !self.is_openai() && self != Self::Token
    }

    /// Whether a page asks for it every few seconds: nobody wants to read that it did.
    pub(super) fn is_polled(self) -> bool {
        matches!(self, Self::Overview | Self::WhoAmI)
    }

    /// Whether its callers are programs that know OpenAI's form of an error.
    pub(super) fn is_openai(self) -> bool {
        matches!(self, Self::Completions | Self::Models | Self::Model)
    }

    /// Whether it leads to an agent or to a person, which a mere model gateway has none of.
    fn is_for_people(self) -> bool {
        matches!(
            self,
            Self::Chat
                | Self::Ask
                | Self::Turn
                | Self::TurnEvents
                | Self::CancelTurn
                | Self::Login
                | Self::Renew
                | Self::Token
                | Self::Approval
                | Self::Decide
        )
    }

    /// Whether what is sent there counts for or against its sender. What is WeChat's or DingTalk's
    /// proves itself, and costs nothing where it does not.
    pub(super) fn is_guarded(self) -> bool {
        let open = self.is_operational() && self != Self::Metrics;
        !open && !matches!(self, Self::Picture | Self::Push | Self::Robot | Self::Page | Self::Unknown)
    }

    /// The most bytes of a body.
    pub(super) fn body_limit(self, policy: &Policy) -> u64 {
        match self {
            Self::Chat | Self::Ask | Self::Completions => policy.limits.body,
            Self::Robot => ROBOT_BODY,
            Self::Configure => configuration::MOST_BYTES,
            _ => SMALL_BODY,
        }
    }

    fn methods(self) -> &'static str {
        match self {
            Self::Chat
            | Self::Ask
            | Self::Login
            | Self::Renew
            | Self::Token
            | Self::Revoke
            | Self::Robot
            | Self::Send
            | Self::Rate
            | Self::RollBack
            | Self::Completions => "POST",
            Self::Rollouts | Self::Steer | Self::Push | Self::Approval | Self::Decide => "GET, POST",
            Self::Approvals | Self::OperatorDecides => "GET, POST",
            Self::LogIn | Self::WhoAmI | Self::LogOut => "GET, POST, DELETE",
            Self::Configuration | Self::Configure => "GET, PUT",
            Self::Turn | Self::CancelTurn => "GET, DELETE",
            Self::Overview | Self::Trace | Self::Feedback => "GET",
            Self::TurnEvents | Self::Ledger | Self::Metrics | Self::Models | Self::Model => "GET",
            Self::Picture | Self::Page | Self::Health | Self::Ready | Self::Version => "GET, HEAD",
            Self::Unknown => "",
        }
    }

    fn allows(self, method: &str) -> bool {
        self.methods().split(", ").any(|allowed| allowed == method)
    }
}

/// A browser's origin that may read the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Origin {
    Any,
    This(String),
}

impl Origin {
    fn allowed(policy: &Policy, head: &RequestHead) -> Option<Self> {
        let origin = head.header("origin")?;
        match &policy.origins {
            Origins::None => None,
            Origins::Any => Some(Self::Any),
            Origins::List(list) => {
                list.iter().any(|item| item == origin).then(|| Self::This(origin.to_owned()))
            }
        }
    }

    pub(super) fn write(&self, headers: &mut Vec<(String, String)>) {
        let value = match self {
            Self::Any => "*",
            Self::This(origin) => origin,
        };
        headers.push(("access-control-allow-origin".into(), value.into()));
        headers.push(("access-control-expose-headers".into(), EXPOSED_HEADERS.into()));
        headers.push(("vary".into(), "origin".into()));
    }
}

/// Everything that the head says.
pub(super) fn facts(policy: &Policy, head: &RequestHead, now: Moment) -> Facts {
    let id = auth::hex(&now.entropy);
    let own = trace_id(head);
    Facts {
        traced: own.is_some(),
        wanted_profile: head.header("x-openclaw-profile").filter(|name| name.len() <= 64).map(str::to_owned),
        trace_id: own.unwrap_or_else(|| id.clone()),
        request_id: format!("req_{id}"),
        language: Language::accepted(head.header("accept-language")),
        route: Route::of(&head.method, &head.path),
        started_ms: now.unix_ms,
        client: client_address(policy, head),
        origin: Origin::allowed(policy, head),
        head_only: head.method == "HEAD",
        body_bytes: 0,
        fingerprint: 0,
        ascii: false,
        caller: Caller::Anyone,
        restricted: false,
        ticket: ticket(now),
        turn: turns::named(&head.path),
        approval: approvals::named(&head.path),
        model: head.path.strip_prefix(MODEL_PATH).filter(|name| name.len() <= 256).map(str::to_owned),
        edition: configuration::named(&head.path),
        config: policy.catalog.version.clone(),
        idempotency_key: head.header("idempotency-key").map(|key| key.trim().to_owned()),
        digest: [0; 32],
        respond_async: prefers_async(head.header("prefer")),
        last_event: last_event(head),
        wait_s: parameter(&head.query, "wait").and_then(|wait| wait.parse().ok()).unwrap_or(0),
        find: trace::asked_for(&head.path).or_else(|| ledger::asked_for(&head.query)),
        operator: None,
        parent: measure::parent(head),
    }
}

/// `Prefer: respond-async` (RFC 7240), alone or in a list.
fn prefers_async(prefer: Option<&str>) -> bool {
    let mut preferences = prefer.unwrap_or_default().split(',');
    preferences
        .any(|one| one.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("respond-async"))
}

/// Where an event stream goes on: `Last-Event-ID`, or `after` in the query for clients that cannot
/// set that header.
fn last_event(head: &RequestHead) -> u32 {
    let id = head.header("last-event-id").or_else(|| parameter(&head.query, "after"));
    id.and_then(|id| id.trim().parse().ok()).unwrap_or(0)
}

/// A parameter of a query whose values need no decoding.
fn parameter<'q>(query: &'q str, name: &str) -> Option<&'q str> {
    query
        .split('&')
        .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
}

/// A number that no other request has, from the same randomness as its id.
fn ticket(now: Moment) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&now.entropy[8..]);
    u64::from_le_bytes(bytes)
}

/// The client's trace id, when it is one: `X-Trace-Id` first, then W3C `traceparent`.
fn trace_id(head: &RequestHead) -> Option<String> {
    let own = head.header("x-trace-id").filter(|id| is_trace_id(id));
    let w3c = || {
        let id = head.header("traceparent")?.split('-').nth(1)?;
        let valid = id.len() == 32
            && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            && id.bytes().any(|b| b != b'0');
        valid.then_some(id)
    };
    own.or_else(w3c).map(str::to_owned)
}

/// The address that the request came from, through proxies that are believed.
fn client_address(policy: &Policy, head: &RequestHead) -> String {
    let forwarded = head
        .header("x-forwarded-for")
        .filter(|_| policy.trusted_proxies.contains(&head.peer))
        .and_then(|list| list.rsplit(',').next())
        .map(str::trim)
        .filter(|address| !address.is_empty() && address.len() <= 64);
    let address = forwarded.unwrap_or(&head.peer);
    // Some proxies add the port.
    match address.parse::<core::net::SocketAddr>() {
        Ok(socket) => socket.ip().to_canonical().to_string(),
        Err(_) => address.to_owned(),
    }
}

/// The headers that answer a browser's preflight, when it is one that is allowed.
pub(super) fn preflight(policy: &Policy, head: &RequestHead, route: Route) -> Option<Vec<(String, String)>> {
    let wanted = head.header("access-control-request-method")?;
    Origin::allowed(policy, head)?;
    (head.method == "OPTIONS" && route.allows(wanted)).then(|| {
        vec![
            ("access-control-allow-methods".into(), route.methods().into()),
            ("access-control-allow-headers".into(), ALLOWED_HEADERS.into()),
            ("access-control-max-age".into(), "600".into()),
        ]
    })
}

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

/// What is wrong with the rest of the head: for those only whose credential is right.
pub(super) fn flaw(policy: &Policy, head: &RequestHead, route: Route) -> Option<Failure> {
    if !route.is_guarded() {
        return None;
    }
    if !head.header("content-type").is_none_or(is_json) {
        return Some(Failure::new(Code::UnsupportedMediaType, "send application/json"));
    }
    let long = head.content_length.is_some_and(|length| length > route.body_limit(policy));
    long.then(|| body_too_large(policy, route))
}

/// Who is asking, by what the route wants to see.
fn caller(policy: &Policy, route: Route, presented: Option<&str>, now: Moment) -> Result<Caller, Rejected> {
    let only = |keys: &[auth::KeyDigest], name: &str| {
        let message = format!("this is for holders of {name}; send it as Authorization: Bearer");
        auth::is_one_of(keys, presented)
            .then_some(Caller::Anyone)
            .ok_or(Rejected { failure: Failure::new(Code::Unauthorized, message), guessed: true })
    };
    match route {
        Route::Chat
        | Route::Ask
        | Route::Turn
        | Route::TurnEvents
        | Route::CancelTurn
        | Route::Approval
        | Route::Decide
        | Route::Rate => chat_caller(policy, presented, now),
        Route::Renew => session_caller(policy, presented.unwrap_or_default(), true, now),
        Route::Token => only(&policy.login.server_keys, "SERVER_KEY"),
        // Where nobody needs a key to chat, nobody needs one to look.
        Route::Metrics
            if policy.api_keys.is_empty() && policy.metrics_keys.is_empty() && !policy.only_models =>
        {
            Ok(Caller::Anyone)
        }
        Route::Metrics => only(&policy.metrics_keys, "METRICS_KEY or ADMIN_KEY"),
        Route::Revoke => only(&policy.admin_keys, "ADMIN_KEY"),
        // Each token has its own share when callers wait.
        Route::Completions | Route::Models | Route::Model => only(&policy.auth_tokens, "AUTH_TOKEN")
            .map(|_| Caller::Key(auth::subject(policy, "model", presented.unwrap_or_default()))),
        // The log says which of the keys gave an order.
        Route::Rollouts
        | Route::Steer
        | Route::Send
        | Route::Ledger
        | Route::Approvals
        | Route::OperatorDecides
        | Route::WhoAmI
        | Route::LogOut
        | Route::Overview
        | Route::Trace
        | Route::Feedback
        | Route::Configuration
        | Route::Configure
        | Route::RollBack => only(&policy.admin_keys, "ADMIN_KEY")
            .map(|_| Caller::Key(auth::subject(policy, "admin", presented.unwrap_or_default()))),
        // The key is in the body.
        Route::LogIn
        | Route::Login
        | Route::Picture
        | Route::Push
        | Route::Robot
        | Route::Page
        | Route::Health
        | Route::Ready
        | Route::Version
        | Route::Unknown => Ok(Caller::Anyone),
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

/// The body is over the limit.
pub(super) fn body_too_large(policy: &Policy, route: Route) -> Failure {
    let limit = route.body_limit(policy);
    Failure::new(Code::BodyTooLarge, format!("the body's limit is {limit} bytes, base64 included"))
}

/// The key in either header.
fn presented_key(head: &RequestHead) -> Option<&str> {
    let bearer = head.header("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    head.header("x-api-key").map(str::trim).or(bearer)
}

/// `application/json` or a `+json` type, with or without parameters.
fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn head(peer: &str, headers: &[(&str, &str)]) -> RequestHead {
        RequestHead {
            peer: peer.into(),
            headers: headers.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
            ..RequestHead::default()
        }
    }

    #[test]
    fn trace_ids_are_kept_or_replaced() {
        let of = |headers: &[(&str, &str)]| trace_id(&head("", headers));
        assert_eq!(of(&[("x-trace-id", "1710000123456")]).as_deref(), Some("1710000123456"));
        let w3c = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(of(&[("traceparent", w3c)]).as_deref(), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        for bad in ["", "a b", "<script>", &"x".repeat(65), "日本"] {
            assert_eq!(of(&[("x-trace-id", bad)]), None, "{bad}");
        }
        assert_eq!(of(&[("traceparent", "00-00000000000000000000000000000000-00f067aa0ba902b7-01")]), None);
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_only_its_own_entry() {
        let policy = Policy::default();
        let forged = [("x-forwarded-for", "6.6.6.6, 10.0.0.7")];
        assert_eq!(client_address(&policy, &head("127.0.0.1", &forged)), "10.0.0.7");
        assert_eq!(client_address(&policy, &head("9.9.9.9", &forged)), "9.9.9.9");
    }

    #[test]
    fn json_by_its_label() {
        for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "multipart/form-data; boundary=x", "", "application/jsonx"] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    #[test]
    fn the_key_is_found_in_either_header() {
        assert_eq!(presented_key(&head("", &[("authorization", "bearer k")])), Some("k"));
        assert_eq!(presented_key(&head("", &[("authorization", "Bearer a"), ("x-api-key", "b")])), Some("b"));
        assert_eq!(presented_key(&head("", &[("authorization", "Basic k")])), None);
    }
}
