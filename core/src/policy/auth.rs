//! Who a caller is: client keys and session keys.
//!
//! The one home of secret comparison. No key is kept here, only its SHA-256; no
//! comparison stops early.

use core::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::Policy;

/// The SHA-256 of a secret.
#[derive(Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyDigest([u8; 32]);

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyDigest(..)")
    }
}

impl KeyDigest {
    /// The digest of a secret.
    pub fn of(secret: &[u8]) -> Self {
        Self(Sha256::digest(secret).into())
    }

    /// A secret for one purpose, made from another one: knowing it tells nothing of its source.
    pub fn derive(secret: &[u8], purpose: &str) -> Self {
        Self(keyed_hash(secret, &[purpose]))
    }

    /// The bytes, where a derived secret is used as a key.
    pub(crate) fn bytes(&self) -> [u8; 32] {
        self.0
    }
}

/// Whether a presented key is one of the valid ones. Takes as long for a wrong key as
/// for a right one, whichever it is.
pub(crate) fn key_is_valid(policy: &Policy, presented: Option<&str>) -> bool {
    if policy.api_keys.is_empty() {
        return policy.environment == super::Environment::Dev;
    }
    is_one_of(&policy.api_keys, presented)
}

/// Whether a presented secret is one of these. Takes the same time for all.
pub(crate) fn is_one_of(keys: &[KeyDigest], presented: Option<&str>) -> bool {
    let digest = KeyDigest::of(presented.unwrap_or_default().as_bytes());
    let mut valid = Choice::from(0);
    for key in keys {
        valid |= key.0.ct_eq(&digest.0);
    }
    bool::from(valid & Choice::from(u8::from(presented.is_some())))
}

/// Whether a presented text is the expected one. Takes the same time for all.
pub(crate) fn is_same(expected: &str, presented: &str) -> bool {
    is_one_of(&[KeyDigest::of(expected.as_bytes())], Some(presented))
}

/// The OpenClaw session of one user: lower-case hex, since OpenClaw folds case, and
/// outside every reserved prefix. Only a keyed hash keeps users apart there: a key
/// that a client could choose would name anybody's conversation.
pub(crate) fn session_key(policy: &Policy, channel: &str, user: &str) -> String {
    let hash = keyed_hash(&policy.session_secret.0, &[policy.environment.name(), channel, user]);
    format!("mg-{}", hex(&hash))
}

/// A number that stands for a name where nobody gains by finding another name for it.
pub(crate) fn number(name: &str) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&Sha256::digest(name.as_bytes())[..8]);
    u64::from_le_bytes(first)
}

/// What stands for a caller in stores and logs.
pub(crate) fn subject(policy: &Policy, kind: &str, name: &str) -> String {
    hex(&keyed_hash(&policy.session_secret.0, &["subject", kind, name])[..8])
}

/// What stands for a person in tokens and stores: `source` says who vouches for the id.
pub(crate) fn person(policy: &Policy, source: &str, id: &str) -> String {
    hex(&keyed_hash(&policy.session_secret.0, &["person", policy.environment.name(), source, id])[..16])
}

/// What proves that this gateway made the address of a picture.
pub(crate) fn picture_tag(policy: &Policy, name: &str) -> String {
    hex(&keyed_hash(&policy.session_secret.0, &["picture", policy.environment.name(), name])[..16])
}

/// What proves what somebody was shown.
pub(crate) fn grant(policy: &Policy, parts: &[&str]) -> String {
    let all: Vec<&str> =
        ["grant", policy.environment.name()].into_iter().chain(parts.iter().copied()).collect();
    hex(&keyed_hash(&policy.session_secret.0, &all))
}

/// What a page must say beside an operator's session. Only who may read this gateway's answers knows it.
pub(crate) fn csrf(policy: &Policy, session: &str) -> String {
    hex(&keyed_hash(&policy.session_secret.0, &["csrf", policy.environment.name(), session])[..16])
}

/// What precedes a text whose hash is kept: without it nobody can tell a text by trying.
pub(crate) fn passage_key(policy: &Policy) -> [u8; 32] {
    keyed_hash(&policy.session_secret.0, &["passage"])
}

/// What stands for a text in the audit ledger, of the hash over [`passage_key`] and the text. Keyed
/// again, so that nobody adds to a text.
pub(crate) fn passage_tag(policy: &Policy, hash: &[u8; 32]) -> String {
    hex(&keyed_hash(&policy.session_secret.0, &["passage", &hex(hash)]))
}

/// HMAC-SHA256 over parts, each preceded by its length so that no two lists collide.
fn keyed_hash(key: &[u8], parts: &[&str]) -> [u8; 32] {
    // A key of any length is valid for HMAC (RFC 2104); the fallback is never taken.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(&(part.len() as u64).to_le_bytes());
        mac.update(part.as_bytes());
    }
    mac.finalize().into_bytes().into()
}

/// HMAC-SHA256 over the parts as one message: signatures that others check, or make.
pub(crate) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    // A key of any length is valid, as above.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else { return [0; 32] };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::Environment;

    #[test]
    fn every_configured_key_is_valid_and_no_other() {
        let policy =
            Policy { api_keys: vec![KeyDigest::of(b"old"), KeyDigest::of(b"new")], ..Policy::default() };
        assert!(key_is_valid(&policy, Some("old")) && key_is_valid(&policy, Some("new")));
        for wrong in [None, Some(""), Some("ol"), Some("old ")] {
            assert!(!key_is_valid(&policy, wrong), "{wrong:?}");
        }
    }

    /// How long a comparison takes is not measured: it would be a test of the machine. What
    /// matters can be read: all that is compared are digests of one length, of all keys, without
    /// a way out before the last.
    #[test]
    fn no_comparison_of_a_key_ends_early() {
        let source = include_str!("auth.rs");
        let code = source.split("#[cfg(test)]").next().unwrap_or_default();
        let body = code.split("pub(crate) fn is_one_of").nth(1).and_then(|rest| rest.split("\n}\n").next());
        let body = body.expect("the function");
        assert!(body.contains("valid |= key.0.ct_eq(&digest.0);"), "{body}");
        for early in ["return", "break", "continue", "==", "!=", "any(", "contains(", "&&", "||", "?", "if "]
        {
            assert!(!body.contains(early), "`{early}` in {body}");
        }
        assert_eq!(code.matches("ct_eq(").count(), 1, "the one place");
        // The first, the last and none of many keys, and presented texts of all lengths.
        let keys: Vec<KeyDigest> = (0..100).map(|n| KeyDigest::of(format!("key-{n}").as_bytes())).collect();
        assert!(is_one_of(&keys, Some("key-0")) && is_one_of(&keys, Some("key-99")));
        assert!((0..300).all(|length| !is_one_of(&keys, Some(&"k".repeat(length)))));
        assert!(!is_one_of(&[KeyDigest::of(b"")], None) && !is_one_of(&[], Some("")));
    }

    #[test]
    fn no_key_configured_lets_in_only_in_dev() {
        let mut policy = Policy::default();
        assert!(!key_is_valid(&policy, None) && !key_is_valid(&policy, Some("")));
        policy.environment = Environment::Dev;
        assert!(key_is_valid(&policy, None));
    }

    #[test]
    fn session_keys_separate_what_openclaw_would_fold() {
        let policy = Policy { session_secret: KeyDigest::of(b"s"), ..Policy::default() };
        let a = session_key(&policy, "chat", "Tenant-ABC");
        assert_ne!(a, session_key(&policy, "chat", "tenant-abc"));
        assert_eq!(a, a.to_lowercase());
        let staging = Policy { environment: Environment::Staging, ..policy };
        assert_ne!(a, session_key(&staging, "chat", "Tenant-ABC"));
    }
}
