//! Who gets the new version of an intent's profile.
//!
//! A person's bucket is a hash, so that the choice is the same on every host and for every call
//! without anything being stored, and so that a larger share never takes the new version away
//! from anybody. How large the share is now is [`state::rollout`](crate::state::rollout)'s to
//! say. Nothing in here may depend on anything but the plan and the person.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::auth;
use crate::state::rollout::{Guard, Plan, Step, Version};

/// All buckets: one is a hundredth of a percent.
pub const BUCKETS: u16 = 10_000;

/// The change of one intent from a profile to another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// The intent.
    pub intent: String,
    /// The profile that answers now.
    pub from: String,
    /// The profile that is to answer.
    pub to: String,
    /// Another salt is another draw of people, and begins from the first step.
    pub salt: String,
    /// How it goes, and what may not happen.
    pub plan: Plan,
}

impl Rollout {
    /// The key of its cell. Other versions or another salt are another cell: a rollout that was
    /// rolled back stays so while hosts with the old and with the new configuration run side by
    /// side. Other steps or another guard go on in the same one.
    pub fn key(&self) -> String {
        let hash = hash(&[&self.from, &self.to, &self.salt]);
        format!("rollout:{}:{}", self.intent, auth::hex(&hash[..8]))
    }

    /// The version for a person, while so many buckets get the new one.
    pub fn version(&self, subject: &str, share: u16) -> Version {
        let bucket = bucket(&self.salt, &self.intent, &self.to, subject);
        if bucket < share { Version::Candidate } else { Version::Running }
    }

    /// The profile of a version.
    pub fn profile(&self, version: Version) -> &str {
        match version {
            Version::Running => &self.from,
            Version::Candidate => &self.to,
        }
    }
}

/// The usual course of a rollout, where an operator names only the two versions.
pub fn usual_plan() -> Plan {
    let step =
        |share, hours: u64, at_least_turns| Step { share, at_least_ms: hours * 3_600_000, at_least_turns };
    Plan { steps: vec![step(500, 1, 200), step(2_500, 1, 500), step(5_000, 1, 500)], guard: Guard::default() }
}

/// A person's bucket, below [`BUCKETS`]. Other intents and versions are other draws: otherwise
/// the same people would try everything first.
pub fn bucket(salt: &str, intent: &str, version: &str, subject: &str) -> u16 {
    let hash = hash(&[salt, intent, version, subject]);
    let mut first = [0; 8];
    first.copy_from_slice(&hash[..8]);
    (u64::from_be_bytes(first) % u64::from(BUCKETS)) as u16
}

/// SHA-256 over parts, each preceded by its length so that no two lists collide.
fn hash(parts: &[&str]) -> [u8; 32] {
    let mut sha = Sha256::new();
    for part in parts {
        sha.update((part.len() as u64).to_le_bytes());
        sha.update(part.as_bytes());
    }
    sha.finalize().into()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn rollout(salt: &str) -> Rollout {
        Rollout {
            intent: "qa".into(),
            from: "qa_v1".into(),
            to: "qa_v2".into(),
            salt: salt.into(),
            plan: usual_plan(),
        }
    }

    /// The standard deviation of the share is 0.07 %.
    #[test]
    fn five_percent_of_100_000_people_and_nobody_flips() {
        let people: Vec<String> = (0..100_000).map(|n| format!("person-{n:x}")).collect();
        for salt in ["", "2026-11"] {
            let rollout = rollout(salt);
            let chosen = |share| -> Vec<bool> {
                people.iter().map(|person| rollout.version(person, share) == Version::Candidate).collect()
            };
            let first = chosen(500);
            let share = first.iter().filter(|on| **on).count();
            assert!((4_800..=5_200).contains(&share), "{share} of 100 000 with salt {salt:?}");
            assert!(first == chosen(500), "the next call is answered by the same version");
            let more = chosen(2_500);
            assert!(
                first.iter().zip(&more).all(|(before, after)| !before || *after),
                "more, and nobody less"
            );
        }
        let rollout = rollout("");
        assert!(people.iter().all(|person| rollout.version(person, 0) == Version::Running));
        assert!(people.iter().all(|person| rollout.version(person, BUCKETS) == Version::Candidate));
    }

    #[test]
    fn other_intents_and_salts_are_other_draws() {
        let both = |other: &dyn Fn(&str) -> u16| {
            (0..20_000)
                .map(|n| format!("{n}"))
                .filter(|person| bucket("s", "qa", "qa_v2", person) < 500 && other(person) < 500)
                .count()
        };
        // 5 % of 5 % of 20 000 is 50.
        for count in [
            both(&|person| bucket("t", "qa", "qa_v2", person)),
            both(&|person| bucket("s", "extract", "qa_v2", person)),
            both(&|person| bucket("s", "qa", "qa_v3", person)),
        ] {
            assert!((20..90).contains(&count), "{count}");
        }
    }

    #[test]
    fn the_bucket_is_the_same_on_every_host_and_for_ever() {
        assert_eq!(bucket("", "qa", "qa_v2", "person-1"), 3_227);
        assert_eq!(bucket("s", "问答", "qa_v2", "人"), 6_369);
    }

    #[test]
    fn other_versions_or_another_salt_are_another_cell() {
        let key = rollout("").key();
        assert_eq!(key, Rollout { plan: Plan::default(), ..rollout("") }.key());
        assert_ne!(key, rollout("x").key());
        assert_ne!(key, Rollout { to: "qa_v3".into(), ..rollout("") }.key());
        let (a, b) = (
            Rollout { from: "a".into(), to: "bc".into(), ..rollout("") },
            Rollout { from: "ab".into(), to: "c".into(), ..rollout("") },
        );
        assert_ne!(a.key(), b.key());
    }
}
