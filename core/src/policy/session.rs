//! Session tokens: what a person holds after a login, so that WeChat is asked once and
//! not with every request.
//!
//! A token is a JWT (RFC 7519) with one algorithm, HS256. It is signed and readable, not
//! secret: nothing may be put into it that its holder must not see. The signature is
//! checked in constant time, by the JWT crate; no claim is given out before that. Time
//! comes in with each call, and the crate's own clock is not compiled in.

use core::fmt;

use chrono::{DateTime, Utc};
use jwt_compact::{
    AlgorithmExt as _, Header, UntrustedToken, ValidationError,
    alg::{Hs256, Hs256Key},
};
use serde::{Deserialize, Serialize};

use super::auth::{KeyDigest, hex};

/// The `iss` of every token.
const ISSUER: &str = "minigate";

/// Ours are below 500 bytes; a header line of more than this is not one of them.
const MAX_BYTES: usize = 2048;

/// How far the clocks of two hosts may be apart. RFC 7519, 4.1.4: "usually no more than a
/// few minutes".
const LEEWAY_S: u64 = 60;

/// What signs tokens and checks them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// The `kid`: which of the keys signed.
    pub id: String,
    secret: [u8; 32],
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl SigningKey {
    /// The key of a configured secret. Neither the key nor its id tells the secret, and the
    /// id follows from the key, so that nobody has to name keys in order to rotate them.
    pub fn derive(source: &[u8]) -> Self {
        let secret = KeyDigest::derive(source, "session tokens").bytes();
        let id = hex(&KeyDigest::of(&secret).bytes()[..4]);
        Self { id, secret }
    }

    /// The key of what whoever shows an operator's key is given: of the secret of this gateway and of that key's
    /// digest, so that a key that is not configured any more ends what it opened. See
    /// [`operator`](super::operator).
    pub(crate) fn of_operator(secret: &KeyDigest, key: &KeyDigest) -> Self {
        let source = [secret.bytes(), key.bytes()].concat();
        let secret = KeyDigest::derive(&source, "operator sessions").bytes();
        let id = hex(&KeyDigest::of(&secret).bytes()[..4]);
        Self { id, secret }
    }

    fn hs256(&self) -> Hs256Key {
        Hs256Key::new(self.secret)
    }
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// Who: `sub`.
    pub subject: String,
    /// As what: `role`.
    pub role: String,
    /// Where it is valid: `env`. A token from staging is nothing in production.
    pub environment: String,
    /// When it was made: `iat`, in seconds.
    pub issued_s: u64,
    /// When it ends: `exp`, in seconds.
    pub expires_s: u64,
    /// When the person logged in: `auth_time`, in seconds. A renewal keeps it.
    pub login_s: u64,
}

/// Why a token is not accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// Not a token of this gateway's form, or of another algorithm.
    Malformed,
    /// Signed with a key that is not, or no longer, configured.
    UnknownKey,
    /// Signed by somebody else, or changed.
    BadSignature,
    /// Genuine, but over. The caller decides whether it may still be renewed.
    Expired {
        /// What it said.
        claims: Claims,
    },
    /// Genuine, but from the future: the clocks are apart.
    NotYet,
    /// Genuine, but made by another issuer or for another environment.
    WrongAudience,
}

/// The claims on the wire, beside the registered `iat` and `exp` that the crate writes.
#[derive(Clone, Serialize, Deserialize)]
struct Wire {
    iss: String,
    sub: String,
    role: String,
    env: String,
    auth_time: u64,
}

/// A signed token, by the first key. `None` when there is no key, when a time is beyond
/// the calendar, or when the token would be too long to be accepted again.
pub fn mint(keys: &[SigningKey], claims: &Claims) -> Option<String> {
    let key = keys.first()?;
    let wire = Wire {
        iss: ISSUER.into(),
        sub: claims.subject.clone(),
        role: claims.role.clone(),
        env: claims.environment.clone(),
        auth_time: claims.login_s,
    };
    let mut signed = jwt_compact::Claims::new(wire);
    signed.issued_at = Some(instant(claims.issued_s)?);
    signed.expiration = Some(instant(claims.expires_s)?);
    let header = Header::empty().with_token_type("JWT").with_key_id(&*key.id);
    let token = Hs256.token(&header, &signed, &key.hs256()).ok()?;
    (token.len() <= MAX_BYTES).then_some(token)
}

/// The claims of a genuine token that is valid here and now.
pub fn verify(
    keys: &[SigningKey],
    environment: &str,
    token: &str,
    now_ms: u64,
) -> Result<Claims, TokenFault> {
    let wire = authenticate(keys, token)?;
    if wire.custom.iss != ISSUER || wire.custom.env != environment {
        return Err(TokenFault::WrongAudience);
    }
    let claims = Claims {
        subject: wire.custom.sub,
        role: wire.custom.role,
        environment: wire.custom.env,
        issued_s: seconds(wire.issued_at)?,
        expires_s: seconds(wire.expiration)?,
        login_s: wire.custom.auth_time,
    };
    let now_s = now_ms / 1000;
    if claims.issued_s > now_s.saturating_add(LEEWAY_S) {
        return Err(TokenFault::NotYet);
    }
    if now_s >= claims.expires_s.saturating_add(LEEWAY_S) {
        return Err(TokenFault::Expired { claims });
    }
    Ok(claims)
}

/// Whether that is the form of a key's id: see [`SigningKey::derive`].
pub(crate) fn is_key_id(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// The id of the key that signed a token, of one that was found genuine.
pub(crate) fn key_id(token: &str) -> Option<String> {
    let token = UntrustedToken::new(token).ok()?;
    token.header().key_id.as_deref().map(str::to_owned)
}

/// The claims of a token that one of the keys signed.
fn authenticate(keys: &[SigningKey], token: &str) -> Result<jwt_compact::Claims<Wire>, TokenFault> {
    if token.len() > MAX_BYTES {
        return Err(TokenFault::Malformed);
    }
    let token = UntrustedToken::new(token).map_err(|_| TokenFault::Malformed)?;
    let kid = token.header().key_id.as_deref().ok_or(TokenFault::Malformed)?;
    // Two keys may share an id: it is short. Then both are tried.
    let mut fault = TokenFault::UnknownKey;
    for key in keys.iter().filter(|key| key.id == kid) {
        match Hs256.validator::<Wire>(&key.hs256()).validate(&token) {
            Ok(token) => return Ok(token.into_parts().1),
            Err(ValidationError::InvalidSignature) => fault = TokenFault::BadSignature,
            // Also another algorithm than HS256, whatever the header asks for.
            Err(_) => return Err(TokenFault::Malformed),
        }
    }
    Err(fault)
}

fn instant(seconds: u64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, 0)
}

fn seconds(instant: Option<DateTime<Utc>>) -> Result<u64, TokenFault> {
    let instant = instant.ok_or(TokenFault::Malformed)?;
    u64::try_from(instant.timestamp()).map_err(|_| TokenFault::Malformed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const NOW_S: u64 = 1_795_232_797;
    const NOW_MS: u64 = NOW_S * 1000;

    fn keys() -> Vec<SigningKey> {
        vec![SigningKey::derive(b"the configured secret")]
    }

    fn claims() -> Claims {
        Claims {
            subject: "u-17".into(),
            role: "user".into(),
            environment: "prod".into(),
            issued_s: NOW_S - 10,
            expires_s: NOW_S + 3600,
            login_s: NOW_S - 86_400,
        }
    }

    fn token() -> String {
        mint(&keys(), &claims()).expect("a token")
    }

    /// A token with any header and claims, signed with our key as HS256.
    fn signed(header: &str, claims: &str) -> String {
        use jwt_compact::Algorithm as _;
        let data = format!("{}.{}", BASE64.encode(header), BASE64.encode(claims));
        let signature = Hs256.sign(&keys()[0].hs256(), data.as_bytes());
        format!("{data}.{}", BASE64.encode(jwt_compact::AlgorithmSignature::as_bytes(&signature)))
    }

    fn header(alg: &str) -> String {
        format!(r#"{{"alg":"{alg}","kid":"{}"}}"#, keys()[0].id)
    }

    fn wire(extra: &str) -> String {
        format!(r#"{{"iss":"minigate","sub":"u","role":"user","env":"prod","auth_time":1,"iat":1{extra}}}"#)
    }

    fn check(token: &str) -> Result<Claims, TokenFault> {
        verify(&keys(), "prod", token, NOW_MS)
    }

    #[test]
    fn a_token_says_again_what_it_was_made_of() {
        assert_eq!(check(&token()), Ok(claims()));
        let parts: Vec<_> = token().split('.').map(|part| BASE64.decode(part).expect("base64")).collect();
        let header: serde_json::Value = serde_json::from_slice(&parts[0]).expect("json");
        assert_eq!(header, serde_json::json!({ "alg": "HS256", "typ": "JWT", "kid": keys()[0].id }));
        assert_eq!(key_id(&token()).as_deref(), Some(keys()[0].id.as_str()));
        let body: serde_json::Value = serde_json::from_slice(&parts[1]).expect("json");
        let expected = serde_json::json!({
            "iss": "minigate", "sub": "u-17", "role": "user", "env": "prod",
            "iat": NOW_S - 10, "exp": NOW_S + 3600, "auth_time": NOW_S - 86_400,
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn only_hs256_whatever_the_header_asks_for() {
        let claims = wire(r#","exp":9999999999"#);
        assert!(check(&signed(&header("HS256"), &claims)).is_ok());
        for alg in ["none", "None", "HS384", "HS512", "RS256", "hs256", ""] {
            assert_eq!(check(&signed(&header(alg), &claims)), Err(TokenFault::Malformed), "{alg}");
        }
        let unsigned = format!("{}.{}.", BASE64.encode(header("none")), BASE64.encode(claims));
        assert_eq!(check(&unsigned), Err(TokenFault::Malformed));
    }

    #[test]
    fn the_key_is_named_and_known() {
        let claims = wire(r#","exp":9999999999"#);
        let strange = signed(r#"{"alg":"HS256","kid":"00000000"}"#, &claims);
        assert_eq!(check(&strange), Err(TokenFault::UnknownKey));
        assert_eq!(check(&signed(r#"{"alg":"HS256"}"#, &claims)), Err(TokenFault::Malformed));
        let forger = SigningKey { id: keys()[0].id.clone(), secret: [1; 32] };
        let forged = mint(std::slice::from_ref(&forger), &self::claims()).expect("a token");
        assert_eq!(check(&forged), Err(TokenFault::BadSignature));
        // The same id twice: both are tried.
        let both = [keys()[0].clone(), forger];
        assert!(verify(&both, "prod", &forged, NOW_MS).is_ok());
        assert!(verify(&both, "prod", &token(), NOW_MS).is_ok());
        assert_eq!(verify(&[], "prod", &token(), NOW_MS), Err(TokenFault::UnknownKey));
        assert_eq!(mint(&[], &self::claims()), None);
    }

    #[test]
    fn rotation_keeps_old_tokens_while_both_keys_are_there() {
        let (old, new) = (SigningKey::derive(b"old"), SigningKey::derive(b"new"));
        assert_ne!(old.id, new.id);
        let before = mint(std::slice::from_ref(&old), &claims()).expect("a token");
        let both = [new.clone(), old];
        let after = mint(&both, &claims()).expect("a token");
        assert!(verify(&both, "prod", &before, NOW_MS).is_ok());
        assert!(verify(&both, "prod", &after, NOW_MS).is_ok());
        assert_eq!(verify(&[new], "prod", &before, NOW_MS), Err(TokenFault::UnknownKey));
    }

    #[test]
    fn time_bounds_have_a_minute_of_leeway_and_no_more() {
        let token = token();
        let at = |now_s: u64| verify(&keys(), "prod", &token, now_s * 1000 + 999);
        let Claims { issued_s, expires_s, .. } = claims();
        assert!(at(expires_s + 59).is_ok());
        assert_eq!(at(expires_s + 60), Err(TokenFault::Expired { claims: claims() }));
        assert!(at(issued_s - 60).is_ok());
        assert_eq!(at(issued_s - 61), Err(TokenFault::NotYet));
        assert_eq!(at(0), Err(TokenFault::NotYet));
    }

    #[test]
    fn another_place_or_issuer_is_refused_even_when_expired() {
        assert_eq!(verify(&keys(), "staging", &token(), NOW_MS), Err(TokenFault::WrongAudience));
        assert_eq!(verify(&keys(), "staging", &token(), u64::MAX), Err(TokenFault::WrongAudience));
        let other = wire(r#","exp":9999999999"#).replace("minigate", "another");
        assert_eq!(check(&signed(&header("HS256"), &other)), Err(TokenFault::WrongAudience));
    }

    #[test]
    fn claims_of_the_wrong_shape_are_refused() {
        for extra in [
            "",
            r#","exp":"9999999999""#,
            r#","exp":-1"#,
            r#","exp":1e99"#,
            r#","exp":18446744073709551615"#,
            r#","exp":9999999999,"sub":"again""#,
            r#","exp":9999999999,"exp":1"#,
        ] {
            assert_eq!(check(&signed(&header("HS256"), &wire(extra))), Err(TokenFault::Malformed), "{extra}");
        }
        let beyond = Claims { expires_s: u64::MAX, ..claims() };
        assert_eq!(mint(&keys(), &beyond), None);
    }

    #[test]
    fn size_is_checked_first() {
        assert_eq!(check(&"a".repeat(MAX_BYTES + 1)), Err(TokenFault::Malformed));
        let long = Claims { subject: "s".repeat(MAX_BYTES), ..claims() };
        assert_eq!(mint(&keys(), &long), None);
    }

    #[test]
    fn truncation_padding_and_whitespace_are_refused() {
        let token = token();
        for end in 0..token.len() {
            assert!(check(&token[..end]).is_err(), "{end}");
        }
        for text in [
            format!(" {token}"),
            format!("{token} "),
            format!("{token}\n"),
            format!("{token}="),
            format!("{token}.",),
            token.replace('.', "=."),
            token.replace('.', ". "),
            format!("Bearer {token}"),
            format!("{token}A"),
        ] {
            assert_eq!(check(&text), Err(TokenFault::Malformed), "{text}");
        }
    }

    #[test]
    fn one_changed_byte_is_refused_wherever_it_is() {
        let token = token();
        for at in 0..token.len() {
            for bit in 0..7 {
                let mut bytes = token.clone().into_bytes();
                bytes[at] ^= 1 << bit;
                let changed = String::from_utf8(bytes).expect("ascii");
                assert!(check(&changed).is_err(), "{at} {bit}");
            }
        }
    }

    /// 32 bytes are 43 characters with two bits to spare: four texts decode to the same
    /// signature. Only the one with zero bits there is a token, so that a token has one
    /// spelling and a list of revoked ones can go by its text.
    #[test]
    fn a_signature_has_one_spelling() {
        const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let token = token();
        let (rest, last) = token.split_at(token.len() - 1);
        let accepted = ALPHABET.chars().filter(|c| check(&format!("{rest}{c}")).is_ok());
        assert_eq!(accepted.collect::<String>(), last);
    }

    #[test]
    fn debug_hides_the_secret() {
        let key = SigningKey { id: "k".into(), secret: [0xab; 32] };
        assert_eq!(format!("{key:?}"), r#"SigningKey { id: "k", .. }"#);
    }

    #[test]
    fn keys_are_derived_one_way_and_for_this_purpose() {
        let key = SigningKey::derive(b"source");
        assert_eq!(key, SigningKey::derive(b"source"));
        assert!(is_key_id(&key.id));
        assert_ne!(key.secret, KeyDigest::of(b"source").bytes());
        assert_ne!(key.secret, KeyDigest::derive(b"source", "another purpose").bytes());
        assert!(!hex(&key.secret).contains(&key.id));
    }

    #[test]
    fn rfc_7515_appendix_a_1() {
        const TOKEN: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.\
            eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.\
            dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        const KEY: &str =
            "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
        let key = Hs256Key::new(BASE64.decode(KEY).expect("base64"));
        let token = UntrustedToken::new(TOKEN).expect("a token");
        let genuine = Hs256.validator::<BTreeMap<String, serde_json::Value>>(&key).validate(&token);
        assert_eq!(genuine.expect("genuine").claims().custom["iss"], "joe");
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_one_byte_change_is_refused(at in 0_usize..400, to in 0_u8..128) {
            let token = token();
            let at = at % token.len();
            let mut bytes = token.clone().into_bytes();
            bytes[at] = to;
            let changed = String::from_utf8(bytes).expect("ascii");
            proptest::prop_assert_eq!(check(&changed).is_ok(), changed == token);
        }

        #[test]
        fn any_text_is_answered(text in "\\PC{0,300}") {
            proptest::prop_assert!(check(&text).is_err());
        }
    }
}
