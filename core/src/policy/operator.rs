//! The operator's session: what a browser holds after it has shown one of the operator's keys
//! once, so that the key itself lies in no browser.
//!
//! A signed token in a cookie that no script can read. Its signing key is made of this gateway's
//! secret and of the operator's key that was shown: a person's token can never pass for it, nor it
//! for a person's, and taking a key out of the settings ends every session that it opened.
//! Nothing in here may decide what an operator may do: whoever has a key may do everything.

use serde::{Deserialize, Serialize};

use super::{
    Policy,
    auth::{self, KeyDigest},
    session::{self, Claims, SigningKey, TokenFault},
};

/// The cookie. A browser takes one with this prefix only over https or from this machine, for this
/// host alone and for all paths (RFC 6265bis, 4.1.3.2).
pub(crate) const COOKIE: &str = "__Host-minigate-operator";
/// How long a session lasts that nobody uses, in seconds.
pub(crate) const IDLE_S: u64 = 3_600;
/// How long a session lasts at most, in seconds: a working day.
pub(crate) const LONGEST_S: u64 = 12 * 3_600;
/// The `role` of every such token, and what the API calls it.
pub(crate) const ROLE: &str = "operator";

/// An operator who is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operator {
    /// What stands for the operator's key, in logs and in the audit ledger.
    pub name: String,
    /// The session: a number that no other one has.
    pub session: String,
    /// When the key was shown, in seconds since 1970.
    pub login_s: u64,
    /// When the cookie ends, in seconds since 1970.
    pub expires_s: u64,
    /// The id of the key that signs its tokens.
    pub signer: String,
}

impl Operator {
    /// Who has shown that key, if it is one of the operator's. `session` must never have been given before.
    pub(crate) fn enter(policy: &Policy, key: &str, session: String, now_s: u64) -> Option<(Self, String)> {
        if !auth::is_one_of(&policy.admin_keys, Some(key)) {
            return None;
        }
        let signer = SigningKey::of_operator(&policy.session_secret, &KeyDigest::of(key.as_bytes()));
        let operator = Self {
            name: auth::subject(policy, "admin", key),
            session,
            login_s: now_s,
            expires_s: now_s + IDLE_S,
            signer: signer.id.clone(),
        };
        let token = operator.sign(policy, signer, now_s)?;
        Some((operator, token))
    }

    /// Who holds that token.
    ///
    /// # Errors
    /// Why it is none that is valid here and now.
    pub(crate) fn of_token(policy: &Policy, token: &str, now_ms: u64) -> Result<Self, TokenFault> {
        let claims = session::verify(&signers(policy), policy.environment.name(), token, now_ms)?;
        let now_s = now_ms / 1000;
        // Without the leeway that people's tokens have: one host made it, and the same one reads it.
        if now_s >= claims.expires_s.min(claims.login_s.saturating_add(LONGEST_S)) {
            return Err(TokenFault::Expired { claims });
        }
        let (name, session) = claims.subject.split_once('.').ok_or(TokenFault::Malformed)?;
        if claims.role != ROLE {
            return Err(TokenFault::Malformed);
        }
        Ok(Self {
            name: name.to_owned(),
            session: session.to_owned(),
            login_s: claims.login_s,
            expires_s: claims.expires_s,
            signer: session::key_id(token).unwrap_or_default(),
        })
    }

    /// The same session for longer, and its token: once half of its time is over, and never beyond
    /// [`LONGEST_S`].
    pub(crate) fn renewed(&self, policy: &Policy, now_s: u64) -> Option<(Self, String)> {
        let expires_s = (now_s + IDLE_S).min(self.login_s.saturating_add(LONGEST_S));
        if self.expires_s >= now_s + IDLE_S / 2 || expires_s <= self.expires_s {
            return None;
        }
        let signer = signers(policy).into_iter().find(|signer| signer.id == self.signer)?;
        let operator = Self { expires_s, ..self.clone() };
        let token = operator.sign(policy, signer, now_s)?;
        Some((operator, token))
    }

    /// What the page must send along where it changes something.
    pub(crate) fn csrf(&self, policy: &Policy) -> String {
        auth::csrf(policy, &self.session)
    }

    fn sign(&self, policy: &Policy, signer: SigningKey, now_s: u64) -> Option<String> {
        let claims = Claims {
            subject: format!("{}.{}", self.name, self.session),
            role: ROLE.into(),
            environment: policy.environment.name().into(),
            issued_s: now_s,
            expires_s: self.expires_s,
            login_s: self.login_s,
        };
        session::mint(&[signer], &claims)
    }
}

/// The cookie that brings a token for so many seconds; without a token the one that takes it away.
pub(crate) fn cookie(token: &str, seconds: u64) -> String {
    format!("{COOKIE}={token}; Max-Age={seconds}; Path=/; Secure; HttpOnly; SameSite=Strict")
}

/// The token in a `Cookie` header.
pub(crate) fn token_in(header: &str) -> Option<&str> {
    let mut pairs = header.split(';').filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, token)| *name == COOKIE && !token.is_empty()).map(|(_, token)| token)
}

/// One for each of the operator's keys.
fn signers(policy: &Policy) -> Vec<SigningKey> {
    policy.admin_keys.iter().map(|key| SigningKey::of_operator(&policy.session_secret, key)).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::Environment;

    const NOW_S: u64 = 1_795_232_797;

    fn policy() -> Policy {
        Policy {
            admin_keys: vec![KeyDigest::of(b"admin-1"), KeyDigest::of(b"admin-2")],
            session_secret: KeyDigest::of(b"session"),
            ..Policy::default()
        }
    }

    fn entered(key: &str) -> (Operator, String) {
        Operator::enter(&policy(), key, "5e55".into(), NOW_S).expect("a session")
    }

    #[test]
    fn a_key_becomes_a_session_and_another_text_does_not() {
        let (operator, token) = entered("admin-2");
        assert_eq!(Operator::of_token(&policy(), &token, NOW_S * 1000), Ok(operator.clone()));
        assert_eq!(operator.name, auth::subject(&policy(), "admin", "admin-2"));
        assert_ne!(operator.name, entered("admin-1").0.name);
        for wrong in ["", "admin", "admin-1 ", "admin-3"] {
            assert_eq!(Operator::enter(&policy(), wrong, "s".into(), NOW_S), None, "{wrong}");
        }
        assert_eq!(Operator::enter(&Policy::default(), "", "s".into(), NOW_S), None, "no key is configured");
    }

    #[test]
    fn a_person_is_no_operator_and_an_operator_no_person() {
        let mut policy = policy();
        // Even where one secret is the source of all.
        policy.login.keys = vec![SigningKey::derive(b"session")];
        let claims = Claims {
            subject: "name.session".into(),
            role: ROLE.into(),
            environment: "prod".into(),
            issued_s: NOW_S,
            expires_s: NOW_S + 60,
            login_s: NOW_S,
        };
        let persons = session::mint(&policy.login.keys, &claims).expect("a token");
        assert_eq!(Operator::of_token(&policy, &persons, NOW_S * 1000), Err(TokenFault::UnknownKey));
        let (_, operators) = entered("admin-1");
        let verified = session::verify(&policy.login.keys, "prod", &operators, NOW_S * 1000);
        assert_eq!(verified, Err(TokenFault::UnknownKey));
    }

    #[test]
    fn a_key_that_is_taken_out_ends_its_sessions_and_no_other() {
        let ((_, first), (_, second)) = (entered("admin-1"), entered("admin-2"));
        let mut policy = policy();
        policy.admin_keys.remove(0);
        assert_eq!(Operator::of_token(&policy, &first, NOW_S * 1000), Err(TokenFault::UnknownKey));
        assert!(Operator::of_token(&policy, &second, NOW_S * 1000).is_ok());
        policy.environment = Environment::Staging;
        assert_eq!(Operator::of_token(&policy, &second, NOW_S * 1000), Err(TokenFault::WrongAudience));
        policy.session_secret = KeyDigest::of(b"another");
        assert_eq!(Operator::of_token(&policy, &second, NOW_S * 1000), Err(TokenFault::UnknownKey));
    }

    #[test]
    fn use_prolongs_it_up_to_a_working_day_and_no_further() {
        let (mut operator, mut token) = entered("admin-1");
        assert_eq!(operator.renewed(&policy(), NOW_S + 60), None, "not with every request");
        let csrf = operator.csrf(&policy());
        let mut now_s = NOW_S;
        loop {
            now_s += IDLE_S - 60;
            if Operator::of_token(&policy(), &token, now_s * 1000).is_err() {
                break;
            }
            if let Some((longer, newer)) = operator.renewed(&policy(), now_s) {
                assert_eq!((&longer.session, longer.login_s), (&operator.session, NOW_S));
                (operator, token) = (longer, newer);
            }
        }
        assert_eq!(operator.expires_s, NOW_S + LONGEST_S);
        assert_eq!(operator.csrf(&policy()), csrf, "a page need not learn another one");
        let over = Operator::of_token(&policy(), &entered("admin-1").1, (NOW_S + IDLE_S) * 1000);
        assert!(matches!(over, Err(TokenFault::Expired { .. })));
    }

    #[test]
    fn a_cookie_is_found_among_others_and_only_by_its_whole_name() {
        let header = format!("a=b; x{COOKIE}=no;{COOKIE}=a.b.c; {COOKIE}=second");
        assert_eq!(token_in(&header), Some("a.b.c"));
        for other in ["", "a", COOKIE, "__Host-minigate-operato=x", &format!("{COOKIE}=")] {
            assert_eq!(token_in(other), None, "{other}");
        }
        let set = cookie("a.b.c", 60);
        assert_eq!(token_in(&set), Some("a.b.c"));
        for part in ["Secure", "HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=60"] {
            assert!(set.split("; ").any(|one| one == part), "{set}");
        }
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_one_byte_change_ends_a_session(at in 0_usize..500, to in 0_u8..128) {
            let (_, token) = entered("admin-1");
            let at = at % token.len();
            let mut bytes = token.clone().into_bytes();
            bytes[at] = to;
            let changed = String::from_utf8(bytes).expect("ascii");
            let opens = Operator::of_token(&policy(), &changed, NOW_S * 1000).is_ok();
            proptest::prop_assert_eq!(opens, changed == token);
        }

        #[test]
        fn any_cookie_header_is_read(header in "\\PC{0,200}") {
            let token = token_in(&header).unwrap_or_default();
            proptest::prop_assert!(Operator::of_token(&policy(), token, NOW_S * 1000).is_err());
        }

        #[test]
        fn each_session_has_a_csrf_token_of_its_own(a in "[0-9a-f]{1,32}", b in "[0-9a-f]{1,32}") {
            let of = |session: &str| auth::csrf(&policy(), session);
            proptest::prop_assert_eq!(of(&a) == of(&b), a == b);
        }
    }
}
