//! Tokens: from a code of `wx.login`, from an older token, or from the team's own backend; and
//! their end.
//!
//! WeChat's `session_key` and `openid` go no further than the function that reads them: what a
//! client, a store or a log sees is a keyed hash.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::{
    Exchange, Phase,
    gates::{Caller, STORE_PATIENCE, ask_signer, signer_cell},
    inspection::openid_key,
    standing::{blocked, revoked},
    wechat_token::{read_token, text_of},
};
use crate::{
    policy::{
        ContentMode, Policy, RiskMode, StoreFailure, auth, is_role,
        session::{self, Claims},
    },
    seam::{Credential, Delivery, Fetch, FetchFailure, Input, Moment, Output, Rope, WECHAT},
    state::{
        Op, Outcome,
        caller::{Enter, Rate, Standing},
    },
    wire::{
        failure::{Code, Failure},
        json, wechat,
    },
};

/// Milliseconds for which a code is remembered: WeChat's own memory of it is five minutes.
const CODE_MEMORY: u64 = 600_000;
/// Milliseconds for which a key stays revoked: for good. Who has it signs tokens of any age for as
/// long as a host believes it, so no time is long enough to believe it again.
const FOR_GOOD: u64 = 10 * 365 * 86_400_000;
/// The most bytes of WeChat's answer; it is below 1 KB.
const LONGEST_ANSWER: u64 = 64 * 1024;
/// Milliseconds that WeChat may take.
const WECHAT_PATIENCE: u64 = 8_000;

/// What the store was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) store_id: u32,
    next: Next,
}

/// What is done when it says yes.
#[derive(Clone, Debug, Serialize, Deserialize)]
enum Next {
    /// WeChat is asked about the code.
    Code(String),
    /// The person gets a newer token.
    Renewal { subject: String, login_s: u64, role: String },
    /// The person's tokens are void.
    Revoked { subject: String },
    /// All tokens of a signing key are void.
    KeyRevoked { id: String },
}

/// A code that WeChat was asked about.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Code2Session {
    pub(super) fetch_id: u32,
    pub(super) code_key: String,
    /// This app's access token, where somebody will be asked with it and the store had one.
    token: String,
}

/// The mark of a code.
fn code_key(policy: &Policy, code: &str) -> String {
    format!("code:{}", auth::person(policy, "code", code))
}

/// Where in a renewal's list the key is asked about that is to sign, if it is another one.
const RENEWAL_SIGNS: usize = 3;

/// The first key was revoked, and no other signs.
fn cannot_sign() -> Failure {
    Failure::new(Code::LoginUnavailable, "the signing key was revoked; its operator must set another one")
}

/// WeChat has not answered.
pub(super) fn timed_out() -> Failure {
    Failure::new(Code::WechatUnavailable, "WeChat did not answer in time").after(2)
}

impl Exchange {
    /// `{"code"}`: is it this address's turn, and is the code new?
    pub(super) fn login(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        if policy.login.appid.is_none() || policy.login.keys.is_empty() {
            let message = "login by WeChat is not set up here; its operator must set WECHAT_APPID";
            return self.fail(policy, &Failure::new(Code::LoginUnavailable, message), now);
        }
        let code = match wechat::login::parse_login(body) {
            Ok(code) => code,
            Err(failure) => return self.fail(policy, &failure, now),
        };
        let enter = |rate: Option<Rate>, cost| {
            Op::Enter(Enter { rate, cost, thresholds: policy.abuse, ..Enter::default() })
        };
        // A token by a key that was revoked would open nothing.
        let signs = policy.login.keys.first().map(|key| ask_signer(&key.id));
        let mut ops: Vec<(String, Op)> = signs.into_iter().collect();
        ops.extend([
            (self.facts.address_key(policy), enter(None, 0)),
            (format!("login:{}", self.facts.address(policy)), enter(policy.rates.login, 1)),
            (code_key(policy, &code), Op::Once { ttl_ms: CODE_MEMORY }),
        ]);
        if policy.login.risk != RiskMode::Off {
            ops.push(read_token());
        }
        self.ask_store(ops, Next::Code(code), now);
    }

    /// A token for a newer one: if the login is not too old, and was not revoked.
    pub(super) fn renew(&mut self, policy: &Policy, now: Moment) {
        let Caller::Session { subject, role, login_s, signer } = self.facts.caller.clone() else {
            return self.fail(policy, &Failure::new(Code::TokenInvalid, "send the token to be renewed"), now);
        };
        self.story.subject = Some(subject.clone());
        if now.unix_ms / 1000 >= login_s.saturating_add(policy.login.renewable_s) {
            let message = "the login is too old to be renewed; call wx.login and log in again";
            return self.fail(policy, &Failure::new(Code::TokenExpired, message), now);
        }
        let enter = Enter { rate: policy.rates.login, cost: 1, ..Enter::default() };
        // By the login, not the token: one may be renewed while its person is revoked, or by a
        // host whose clock is ahead.
        let asks = Enter { thresholds: policy.abuse, login_s, ..Enter::default() };
        let mut ops = vec![
            ask_signer(&signer),
            (format!("renew:{subject}"), Op::Enter(enter)),
            (format!("user:{subject}"), Op::Enter(asks)),
        ];
        ops.extend(policy.login.keys.first().filter(|key| key.id != signer).map(|key| ask_signer(&key.id)));
        self.ask_store(ops, Next::Renewal { subject, login_s, role }, now);
    }

    /// `{"userId", "role"}` from a backend that knows its people itself.
    pub(super) fn issue_for_backend(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            user_id: String,
            #[serde(default)]
            role: String,
        }
        let parsed = json::object::<Body>(body)
            .map_err(|_| Failure::new(Code::InvalidJson, "body: send {\"userId\": \"…\", \"role\": \"…\"}"));
        let failure = match parsed {
            Err(failure) => failure,
            Ok(Body { user_id, .. }) if user_id.is_empty() || user_id.len() > 256 => {
                Failure::new(Code::UserInvalid, "userId: 1 to 256 bytes")
            }
            Ok(Body { role, .. }) if !role.is_empty() && !is_role(&role) => {
                Failure::new(Code::UserInvalid, "role: at most 32 of a-z, 0-9, `_` and `-`")
            }
            Ok(Body { user_id, role }) => {
                let subject = auth::person(policy, "backend", &user_id);
                return self.issue(policy, subject, role, now.unix_ms / 1000, now);
            }
        };
        self.fail(policy, &failure, now);
    }

    /// `{"subject"}` or `{"userId"}`: everything issued to that person before now is void.
    /// `{"keyId"}`: everything that this key signed or will sign is.
    pub(super) fn revoke(&mut self, policy: &Policy, body: &[u8], now: Moment) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[serde(default)]
            subject: Option<String>,
            #[serde(default)]
            user_id: Option<String>,
            #[serde(default)]
            key_id: Option<String>,
        }
        let parsed = json::object::<Body>(body).ok();
        let subject = match parsed {
            Some(Body { subject: Some(subject), user_id: None, key_id: None }) => Some(subject),
            Some(Body { subject: None, user_id: Some(id), key_id: None }) => {
                Some(auth::person(policy, "backend", &id))
            }
            Some(Body { subject: None, user_id: None, key_id: Some(id) }) => {
                return self.revoke_key(policy, id, now);
            }
            _ => None,
        };
        let is_subject = |text: &String| text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let Some(subject) = subject.filter(is_subject) else {
            let message = "body: send one of {\"subject\": \"…\"} as a login gave it, {\"userId\": \"…\"} \
                and {\"keyId\": \"…\"}";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        };
        let subject = subject.to_ascii_lowercase();
        self.story.subject = Some(subject.clone());
        // A token of this very second may be the one that is meant.
        let before_s = now.unix_ms / 1000 + 1;
        let ttl_ms = (policy.login.renewable_s + policy.login.life_s) * 1000;
        let ops = vec![(format!("user:{subject}"), Op::Revoke { before_s, ttl_ms })];
        self.ask_store(ops, Next::Revoked { subject }, now);
    }

    /// Also the only key: whoever has it is everybody, and no login at all is better. And also one
    /// that this host does not know, since another one that shares the store may still believe it.
    fn revoke_key(&mut self, policy: &Policy, id: String, now: Moment) {
        if !session::is_key_id(&id) {
            let message = "keyId: 8 of 0-9 and a-f, the `kid` in the first part of a token";
            return self.fail(policy, &Failure::new(Code::InvalidJson, message), now);
        }
        let ops = vec![(signer_cell(&id), Op::Revoke { before_s: u64::MAX, ttl_ms: FOR_GOOD })];
        self.ask_store(ops, Next::KeyRevoked { id }, now);
    }

    fn ask_store(&mut self, ops: Vec<(String, Op)>, next: Next, now: Moment) {
        let store_id = self.take_id();
        self.timers.store = Some(now.unix_ms + STORE_PATIENCE);
        self.outputs.push_back(Output::Store { id: store_id, ops });
        self.phase = Phase::LoginGates(Box::new(Asked { store_id, next }));
    }

    pub(super) fn in_login_gates(
        &mut self,
        policy: &Policy,
        asked: Box<Asked>,
        input: Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::Stored { id, outcomes } if id == asked.store_id => {
                self.timers.store = None;
                match self.refusal(&asked.next, &outcomes) {
                    Some(failure) => self.fail(policy, &failure, now),
                    None => self.login_goes_on(policy, asked.next, text_of(outcomes.last()), now),
                }
            }
            Input::StoreFailed { id } if id == asked.store_id => self.login_store_failed(policy, *asked, now),
            _ => self.phase = Phase::LoginGates(asked),
        }
    }

    /// Why the store's answer ends it here.
    fn refusal(&self, next: &Next, outcomes: &[Outcome]) -> Option<Failure> {
        outcomes.iter().enumerate().find_map(|(at, outcome)| match (outcome, next) {
            (Outcome::Entered { standing: Standing::Blocked { for_ms }, .. }, _) => Some(blocked(*for_ms)),
            (Outcome::Entered { granted: false, retry_after_ms, .. }, _) => {
                let seconds = retry_after_ms.div_ceil(1000).max(1);
                let message = format!("too many logins; try again in {seconds} s");
                Some(Failure::new(Code::RateLimited, message).after(seconds))
            }
            (Outcome::Entered { revoked: true, .. }, Next::Code(_)) => Some(cannot_sign()),
            (Outcome::Entered { revoked: true, .. }, Next::Renewal { .. }) if at == RENEWAL_SIGNS => {
                Some(cannot_sign())
            }
            (Outcome::Entered { revoked: true, .. }, _) => Some(revoked()),
            (Outcome::Once { first: false }, _) => {
                Some(Failure::new(Code::LoginCodeUsed, "code: used before; call wx.login for a new one"))
            }
            _ => None,
        })
    }

    /// Without the store nobody knows whether a code was used or a token revoked.
    pub(super) fn login_store_failed(&mut self, policy: &Policy, asked: Asked, now: Moment) {
        self.timers.store = None;
        self.story.store_failed = true;
        let may_pass = !matches!(asked.next, Next::Revoked { .. } | Next::KeyRevoked { .. });
        if may_pass && policy.store_failure == StoreFailure::Open {
            // WeChat itself refuses a code that was used.
            return self.login_goes_on(policy, asked.next, String::new(), now);
        }
        let failure = Failure::new(Code::StoreUnavailable, "logins cannot be checked now");
        self.fail(policy, &failure.after(5), now);
    }

    /// `token` is what the store was asked for last: this app's access token, or nothing.
    fn login_goes_on(&mut self, policy: &Policy, next: Next, token: String, now: Moment) {
        match next {
            Next::Code(code) => self.ask_wechat(policy, &code, token, now),
            Next::Renewal { subject, role, login_s, .. } => {
                // What the configuration says now goes before what the token says.
                let listed = policy.login.roles.iter().find(|(person, _)| *person == subject);
                let role = listed.map_or(role, |(_, role)| role.clone());
                self.issue(policy, subject, role, login_s, now);
            }
            Next::Revoked { subject } => {
                let body = serde_json::json!({"revoked": true, "subject": subject}).to_string();
                self.respond_json(policy, 200, body, now);
            }
            Next::KeyRevoked { id } => {
                let known = policy.login.keys.iter().any(|key| key.id == id);
                let body = serde_json::json!({"revoked": true, "keyId": id, "known": known}).to_string();
                self.respond_json(policy, 200, body, now);
            }
        }
    }

    fn ask_wechat(&mut self, policy: &Policy, code: &str, token: String, now: Moment) {
        let fetch_id = self.take_id();
        let appid = policy.login.appid.as_deref().unwrap_or_default();
        self.outputs.push_back(Output::Fetch(Fetch {
            id: fetch_id,
            upstream: WECHAT.into(),
            method: "GET".into(),
            path: wechat::login::code2session_path(appid, code),
            headers: Vec::new(),
            credential: Some(Credential::Query { parameter: "secret".into(), name: "WECHAT_SECRET".into() }),
            body: Rope::default(),
            delivery: Delivery::Whole { limit: LONGEST_ANSWER },
            keeps_body: false,
        }));
        self.story.asked_ms = Some(now.unix_ms);
        self.timers.turn = Some(now.unix_ms + WECHAT_PATIENCE);
        let code_key = code_key(policy, code);
        self.phase = Phase::LoginAnswer(Code2Session { fetch_id, code_key, token });
    }

    /// WeChat did not look at the code: the same one may be sent again.
    pub(super) fn forget_code(&mut self, policy: &Policy, code_key: String, failure: &Failure, now: Moment) {
        self.tell(code_key, Op::Forget);
        self.fail(policy, failure, now);
    }

    pub(super) fn in_login_answer(
        &mut self,
        policy: &Policy,
        asked: Code2Session,
        input: &Input<'_>,
        now: Moment,
    ) {
        match input {
            Input::FetchWhole { id, status, body, .. } if *id == asked.fetch_id => {
                self.story.upstream_status = Some(*status);
                self.story.first_ms = Some(now.unix_ms);
                match wechat::login::identity(*status, body) {
                    Ok(identity) if policy.login.risk == RiskMode::Off => {
                        self.let_in(policy, identity.openid, now);
                    }
                    Ok(identity) => self.ask_risk(policy, identity.openid, &asked.token, now),
                    Err(failure) if failure.code == Code::WechatUnavailable => {
                        self.forget_code(policy, asked.code_key, &failure, now);
                    }
                    Err(failure) => self.fail(policy, &failure, now),
                }
            }
            Input::FetchFailed { id, failure } if *id == asked.fetch_id => {
                let failure = match failure {
                    FetchFailure::ConnectTimeout => timed_out(),
                    _ => Failure::new(Code::WechatUnavailable, "WeChat cannot be reached").after(2),
                };
                self.forget_code(policy, asked.code_key, &failure, now);
            }
            _ => self.phase = Phase::LoginAnswer(asked),
        }
    }

    /// A token for the person of an openid, which goes no further than here.
    pub(super) fn let_in(&mut self, policy: &Policy, openid: String, now: Moment) {
        let subject = auth::person(policy, "wechat", &openid);
        let roles = &policy.login.roles;
        let role = roles.iter().find(|(person, _)| *person == subject);
        let role = role.map(|(_, role)| role.clone()).unwrap_or_default();
        if policy.content.mode != ContentMode::Off || policy.catalog.notify.subscribe.is_some() {
            // WeChat checks a text for the person who wrote it, and tells them when a turn is over.
            let value = ByteBuf::from(openid.into_bytes());
            let ttl_ms = (policy.login.renewable_s + policy.login.life_s) * 1000;
            self.tell(openid_key(&subject), Op::Write { value, ttl_ms });
        }
        self.issue(policy, subject, role, now.unix_ms / 1000, now);
    }

    /// A token for a person.
    fn issue(&mut self, policy: &Policy, subject: String, role: String, login_s: u64, now: Moment) {
        self.timers.turn = None;
        self.story.subject = Some(subject.clone());
        let issued_s = now.unix_ms / 1000;
        let renewable_until = login_s + policy.login.renewable_s;
        let expires_s = issued_s + policy.login.life_s;
        let environment = policy.environment.name().to_owned();
        let claims = Claims {
            subject: subject.clone(),
            role: role.clone(),
            environment,
            issued_s,
            expires_s,
            login_s,
        };
        let Some(token) = session::mint(&policy.login.keys, &claims) else {
            let failure = Failure::new(Code::LoginUnavailable, "no key to sign a token with");
            return self.fail(policy, &failure, now);
        };
        let body = serde_json::json!({
            "token": token,
            "tokenType": "Bearer",
            "expiresIn": policy.login.life_s,
            "expiresAt": expires_s,
            "renewableUntil": renewable_until,
            "subject": subject,
            "role": role,
            "requestId": self.facts.request_id,
            "traceId": self.facts.trace_id,
        });
        self.respond_json(policy, 200, body.to_string(), now);
    }
}
