//! From an intent to the profile that answers it, and why.
//!
//! A client's word counts for little here: an intent is a name on the operator's list, and a
//! profile that a header asks for is taken only from the environment's allow-list and only when
//! it is not dearer than what the person would get anyway. What is not taken is ignored and
//! said in the log, never an error: an old Mini Program with an old flag must go on working.

use serde::{Deserialize, Serialize};

use super::{
    Environment,
    catalog::{Catalog, Intent, Profile},
};

/// What is asked for, and by whom.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The intent's name.
    pub intent: &'a str,
    /// The person's role; empty is everybody's.
    pub role: &'a str,
    /// Where this gateway runs.
    pub environment: Environment,
    /// `X-OpenClaw-Profile`.
    pub wanted: Option<&'a str>,
    /// The profile that a rollout has put this person on.
    pub candidate: Option<&'a str>,
}

/// Why this profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reason {
    /// The intent's own.
    Intent,
    /// The intent's for this role.
    Role,
    /// The environment does not allow the intent's own; this is the newest version that it allows.
    Environment,
    /// A rollout.
    Rollout,
    /// The client's header.
    Header,
    /// The robot that was asked has it.
    Channel,
}

impl Reason {
    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intent => "intent",
            Self::Role => "role",
            Self::Environment => "environment",
            Self::Rollout => "rollout",
            Self::Header => "header",
            Self::Channel => "channel",
        }
    }
}

/// Why a client's header was not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ignored {
    /// No profile has that name.
    Unknown,
    /// The environment's allow-list does not name it, or there is none.
    NotAllowed,
    /// It is for other roles.
    Role,
    /// It is dearer than the role may have.
    Dearer,
}

impl Ignored {
    /// The name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::NotAllowed => "not_allowed",
            Self::Role => "role",
            Self::Dearer => "dearer",
        }
    }
}

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    /// Who answers.
    pub profile: &'a Profile,
    /// Why.
    pub reason: Reason,
    /// Why the header was not followed, when there was one that was not.
    pub ignored: Option<Ignored>,
}

/// Why nothing answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoProfile {
    /// No intent has that name.
    UnknownIntent,
    /// The environment allows no version of its profile.
    NotAllowed,
    /// Its profile is for other roles.
    Role,
    /// Its profile is not in the configuration.
    Missing,
}

/// Chooses.
///
/// # Errors
/// Why nobody can answer.
pub fn choose<'a>(catalog: &'a Catalog, asked: Asked<'_>) -> Result<Choice<'a>, NoProfile> {
    let intent = catalog.intent(asked.intent).ok_or(NoProfile::UnknownIntent)?;
    let (base, reason) = base(catalog, intent, asked)?;
    let mut choice = Choice { profile: base, reason, ignored: None };
    let candidate = asked.candidate.and_then(|name| catalog.profile(name));
    if let Some(candidate) = candidate
        && catalog.allows(asked.environment, &candidate.name)
        && admits(candidate, asked.role)
    {
        choice = Choice { profile: candidate, reason: Reason::Rollout, ignored: None };
    }
    if let Some(wanted) = asked.wanted.filter(|name| *name != choice.profile.name) {
        match by_header(catalog, base, asked, wanted) {
            Ok(profile) => choice = Choice { profile, reason: Reason::Header, ignored: None },
            Err(ignored) => choice.ignored = Some(ignored),
        }
    }
    Ok(choice)
}

/// The profile of a channel that has one of its own.
///
/// # Errors
/// Why it cannot answer.
pub fn own<'a>(catalog: &'a Catalog, name: &str, asked: Asked<'_>) -> Result<Choice<'a>, NoProfile> {
    let (profile, reason) = match catalog.allows(asked.environment, name) {
        true => (catalog.profile(name).ok_or(NoProfile::Missing)?, Reason::Channel),
        false => (
            newest_allowed(catalog, asked.environment, name).ok_or(NoProfile::NotAllowed)?,
            Reason::Environment,
        ),
    };
    let choice = Choice { profile, reason, ignored: None };
    if admits(profile, asked.role) { Ok(choice) } else { Err(NoProfile::Role) }
}

/// What the intent has for this person, without rollouts and wishes.
fn base<'a>(
    catalog: &'a Catalog,
    intent: &'a Intent,
    asked: Asked<'_>,
) -> Result<(&'a Profile, Reason), NoProfile> {
    let own = (intent.profile.as_str(), Reason::Intent);
    let by_role = intent.by_role.iter().find(|(role, _)| role == asked.role);
    let (name, reason) = by_role.map_or(own, |(_, name)| (name.as_str(), Reason::Role));
    let (profile, reason) = if catalog.allows(asked.environment, name) {
        (catalog.profile(name).ok_or(NoProfile::Missing)?, reason)
    } else {
        (newest_allowed(catalog, asked.environment, name).ok_or(NoProfile::NotAllowed)?, Reason::Environment)
    };
    if admits(profile, asked.role) { Ok((profile, reason)) } else { Err(NoProfile::Role) }
}

/// The profile that a header names, if this person may choose it.
fn by_header<'a>(
    catalog: &'a Catalog,
    base: &Profile,
    asked: Asked<'_>,
    wanted: &str,
) -> Result<&'a Profile, Ignored> {
    let profile = catalog.profile(wanted).ok_or(Ignored::Unknown)?;
    let listed = catalog.rules(asked.environment).is_some_and(|rules| rules.allowed_profiles.is_some());
    if !listed || !catalog.allows(asked.environment, wanted) {
        return Err(Ignored::NotAllowed);
    }
    if !admits(profile, asked.role) {
        return Err(Ignored::Role);
    }
    let most = catalog.role(asked.role).and_then(|role| role.max_cost);
    // Where nobody has said what a profile costs, another model at the same cost may well be
    // the dear one.
    let same_price = profile.cost == base.cost && profile.model != base.model && most.is_none();
    if profile.cost > most.unwrap_or(base.cost).max(base.cost) || same_price {
        return Err(Ignored::Dearer);
    }
    Ok(profile)
}

fn admits(profile: &Profile, role: &str) -> bool {
    profile.roles.is_empty() || profile.roles.iter().any(|name| name == role)
}

/// `summarize_v2` is version 2 of `summarize`; a name without a version is version 0 of itself.
pub fn version(name: &str) -> (&str, u32) {
    let split = name.rsplit_once("_v").and_then(|(family, digits)| {
        let number = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
        Some((family, number))
    });
    split.filter(|(family, _)| !family.is_empty()).unwrap_or((name, 0))
}

fn newest_allowed<'a>(catalog: &'a Catalog, environment: Environment, name: &str) -> Option<&'a Profile> {
    let (family, _) = version(name);
    let versions = catalog.profiles.iter().filter(|profile| version(&profile.name).0 == family);
    let allowed = versions.filter(|profile| catalog.allows(environment, &profile.name));
    allowed.max_by_key(|profile| version(&profile.name).1)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::catalog::{EnvironmentRules, RoleRules};

    fn profile(name: &str, model: &str, cost: u32) -> Profile {
        Profile { name: name.into(), model: model.into(), cost, ..Profile::default() }
    }

    fn catalog(allowed: Option<&[&str]>) -> Catalog {
        let intent = |name: &str, profile: &str| Intent {
            name: name.into(),
            profile: profile.into(),
            by_role: vec![("vip".into(), "strong".into())],
            ..Intent::default()
        };
        let mut staff = profile("staff_only", "fast", 1);
        staff.roles = vec!["operator".into()];
        Catalog {
            profiles: vec![
                profile("qa_v1", "fast", 1),
                profile("qa_v10", "fast", 1),
                profile("qa_v2", "fast", 1),
                staff,
                profile("strong", "strong", 1),
                profile("strong_dear", "strong", 9),
            ],
            intents: vec![intent("qa", "qa_v1"), intent("staff", "staff_only"), intent("void", "nothing")],
            environments: vec![EnvironmentRules {
                environment: Environment::Prod,
                allowed_profiles: allowed.map(|names| names.iter().map(|name| (*name).into()).collect()),
                log_level: None,
                rate: None,
                daily: None,
                content: None,
            }],
            roles: vec![RoleRules { name: "vip".into(), max_cost: Some(5), ..RoleRules::default() }],
            ..Catalog::default()
        }
    }

    fn asked<'a>(intent: &'a str, role: &'a str, wanted: Option<&'a str>) -> Asked<'a> {
        Asked { intent, role, environment: Environment::Prod, wanted, candidate: None }
    }

    fn name_of(catalog: &Catalog, asked: Asked<'_>) -> (String, Reason, Option<Ignored>) {
        let choice = choose(catalog, asked).expect("somebody answers");
        (choice.profile.name.clone(), choice.reason, choice.ignored)
    }

    #[test]
    fn the_intent_and_the_role_decide() {
        let all = catalog(None);
        assert_eq!(name_of(&all, asked("qa", "", None)), ("qa_v1".into(), Reason::Intent, None));
        assert_eq!(name_of(&all, asked("qa", "vip", None)), ("strong".into(), Reason::Role, None));
        assert_eq!(choose(&all, asked("no", "", None)), Err(NoProfile::UnknownIntent));
        assert_eq!(choose(&all, asked("void", "", None)), Err(NoProfile::Missing));
        assert_eq!(choose(&all, asked("staff", "", None)), Err(NoProfile::Role));
        assert_eq!(name_of(&all, asked("staff", "operator", None)).0, "staff_only");
    }

    #[test]
    fn the_environment_gives_the_newest_version_that_it_allows() {
        let some = catalog(Some(&["qa_v2", "qa_v10", "qa_v99"]));
        assert_eq!(name_of(&some, asked("qa", "", None)), ("qa_v10".into(), Reason::Environment, None));
        let none = catalog(Some(&["strong"]));
        assert_eq!(choose(&none, asked("qa", "", None)), Err(NoProfile::NotAllowed));
        let elsewhere = Asked { environment: Environment::Dev, ..asked("qa", "", None) };
        assert_eq!(name_of(&none, elsewhere).0, "qa_v1");
    }

    #[test]
    fn a_header_is_followed_only_within_the_allow_list_and_the_price() {
        let open = catalog(None);
        let ignored = |catalog: &Catalog, role, wanted| name_of(catalog, asked("qa", role, Some(wanted))).2;
        assert_eq!(ignored(&open, "", "qa_v2"), Some(Ignored::NotAllowed), "no allow-list, no choice");
        let listed = catalog(Some(&["qa_v1", "qa_v2", "strong", "strong_dear", "staff_only"]));
        assert_eq!(name_of(&listed, asked("qa", "", Some("qa_v2"))), ("qa_v2".into(), Reason::Header, None));
        assert_eq!(ignored(&listed, "", "qa_v10"), Some(Ignored::NotAllowed));
        assert_eq!(ignored(&listed, "", "nothing"), Some(Ignored::Unknown));
        assert_eq!(ignored(&listed, "", "strong"), Some(Ignored::Dearer), "another model");
        assert_eq!(ignored(&listed, "", "strong_dear"), Some(Ignored::Dearer));
        assert_eq!(ignored(&listed, "", "staff_only"), Some(Ignored::Role));
        assert_eq!(ignored(&listed, "vip", "strong_dear"), Some(Ignored::Dearer), "9 is over 5");
        assert_eq!(name_of(&listed, asked("qa", "vip", Some("qa_v2"))).0, "qa_v2");
        assert_eq!(ignored(&listed, "", "qa_v1"), None, "what one gets anyway");
    }

    #[test]
    fn a_rollout_moves_only_to_what_is_allowed() {
        let candidate =
            |catalog: &Catalog| name_of(catalog, Asked { candidate: Some("qa_v2"), ..asked("qa", "", None) });
        assert_eq!(candidate(&catalog(None)), ("qa_v2".into(), Reason::Rollout, None));
        assert_eq!(candidate(&catalog(Some(&["qa_v1"]))), ("qa_v1".into(), Reason::Intent, None));
    }

    #[test]
    fn versions_are_numbers_at_the_end() {
        for (name, expected) in [
            ("qa_v2", ("qa", 2)),
            ("qa_v10", ("qa", 10)),
            ("qa", ("qa", 0)),
            ("qa_vx", ("qa_vx", 0)),
            ("_v1", ("_v1", 0)),
            ("qa_v+1", ("qa_v+1", 0)),
        ] {
            assert_eq!(version(name), expected);
        }
    }
}
