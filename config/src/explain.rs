//! Which profile is chosen for a question, and why, in words.
//!
//! It asks the core, as a request does; it decides nothing itself.

use std::fmt::Write as _;

use minigate_core::{
    policy::{
        Environment,
        catalog::{Catalog, ModelKind, Profile},
        rollout::{BUCKETS, Rollout, bucket},
        routing::{self, Asked, Ignored, NoProfile, Reason},
    },
    state::rollout::Version,
};

/// A question, as far as the choice depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// The intent.
    pub intent: &'a str,
    /// The person: the subject that logs and answers to logins show.
    pub user: &'a str,
    /// The person's role; empty is everybody's.
    pub role: &'a str,
    /// Where.
    pub environment: Environment,
    /// `X-OpenClaw-Profile`.
    pub wanted: Option<&'a str>,
    /// How many people have the new version of a rollout now, in percent; `None` is its first step.
    pub percent: Option<f64>,
}

/// The choice and its reasons, one in a line. The error is why nobody answers.
///
/// # Errors
/// Nobody answers.
pub fn explain(catalog: &Catalog, question: &Question<'_>) -> Result<String, String> {
    let Question { intent, user, role, environment, wanted, .. } = *question;
    let rollout = catalog.intent(intent).and_then(|intent| intent.rollout.as_ref());
    let (candidate, rollout_line) = match rollout {
        Some(rollout) => drawn(rollout, user, question.percent),
        None => (None, None),
    };
    let asked = Asked { intent, role, environment, wanted, candidate };
    let choice = routing::choose(catalog, asked).map_err(|why| nobody(why, question))?;
    let because = match choice.reason {
        Reason::Intent => format!("it is the profile of `{intent}`"),
        Reason::Role => format!("it is the profile of `{intent}` for the role `{role}`"),
        Reason::Environment => {
            format!(
                "{} does not allow the intent's own, and this is the newest version that it allows",
                environment.name()
            )
        }
        Reason::Rollout => "the rollout has drawn this person".to_owned(),
        Reason::Header => "X-OpenClaw-Profile asks for it, and this person may have it".to_owned(),
        Reason::Channel => "it is the channel's own".to_owned(),
    };
    let mut out = format!("profile  {}\nbecause  {because}\n", choice.profile.name);
    // Writing to a String cannot fail.
    if let (Some(name), Some(ignored)) = (wanted, choice.ignored) {
        let _ =
            writeln!(out, "header   X-OpenClaw-Profile: {name} is not followed: {}", not_followed(ignored));
    }
    if let Some(line) = rollout_line {
        let _ = writeln!(out, "rollout  {line}");
    }
    describe(catalog, choice.profile, &mut out);
    Ok(out)
}

/// The profile that a rollout gives this person, and how that came.
fn drawn<'a>(rollout: &'a Rollout, user: &str, percent: Option<f64>) -> (Option<&'a str>, Option<String>) {
    let first = rollout.plan.steps.first().map(|step| step.share).unwrap_or_default();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10000")]
    let share = percent.map_or(first, |percent| (percent.clamp(0.0, 100.0) * 100.0).round() as u16);
    let version = rollout.version(user, share);
    let bucket = bucket(&rollout.salt, &rollout.intent, &rollout.to, user);
    let name = rollout.profile(version);
    let line = format!("bucket {bucket} of {BUCKETS}, and those below {share} get {}: {name}", rollout.to);
    ((version == Version::Candidate).then_some(name), Some(line))
}

fn nobody(why: NoProfile, question: &Question<'_>) -> String {
    let Question { intent, role, environment, .. } = question;
    match why {
        NoProfile::UnknownIntent => format!("there is no intent `{intent}`"),
        NoProfile::NotAllowed => {
            format!("{} allows no version of the profile of `{intent}`", environment.name())
        }
        NoProfile::Role => format!("the profile of `{intent}` is not for the role `{role}`"),
        NoProfile::Missing => format!("the profile of `{intent}` is not in the configuration"),
    }
}

fn not_followed(ignored: Ignored) -> &'static str {
    match ignored {
        Ignored::Unknown => "no profile has that name",
        Ignored::NotAllowed => "the environment's allow-list does not name it, or there is none",
        Ignored::Role => "it is for other roles",
        Ignored::Dearer => "it is dearer than this person may have",
    }
}

/// What the profile uses.
fn describe(catalog: &Catalog, profile: &Profile, out: &mut String) {
    let place = match catalog.model(&profile.model).map(|model| &model.kind) {
        None => "OpenClaw's default agent".to_owned(),
        Some(ModelKind::OpenClaw { agent, model }) => {
            let agent = agent
                .as_ref()
                .map_or_else(|| "the default agent".to_owned(), |agent| format!("agent {agent}"));
            let model = model.as_ref().map(|model| format!(", model {model}")).unwrap_or_default();
            format!("OpenClaw, {agent}{model}")
        }
        Some(ModelKind::OpenAi { base_url, model, .. }) => format!("{model} at {base_url}"),
    };
    let _ = writeln!(out, "model    {} ({place})", profile.model);
    for (name, other) in [("fallback", &profile.fallback), ("draft", &profile.draft)] {
        if let Some(other) = other {
            let _ = writeln!(out, "{name:<8} {other}");
        }
    }
    for tool in catalog.tools_of(profile) {
        let approval = tool.approve.map(|approval| format!(", approved by {}", approval.name()));
        let _ =
            writeln!(out, "tool     {} ({}{})", tool.name, tool.class.name(), approval.unwrap_or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Source, check};

    const FILE: &str = "\
models: {fast: {kind: openclaw, agent: main}, local: {kind: openai_compatible, base_url: 'http://localhost/v1', model: m}}
profiles:
  qa_v1: {model: fast, fallback: qa_v2}
  qa_v2: {model: local}
  strong: {model: fast, cost: 9, tools: [order, cancel]}
tools:
  order: {description: Finds one., parameters: {type: object}, class: read, url: 'https://a.example/order'}
  cancel: {description: Ends one., parameters: {type: object}, class: write, url: 'https://a.example/cancel'}
routing:
  qa: {profile: qa_v1, roles: {vip: qa_v2}}
  hard: strong
  new: {profile: qa_v1, rollout: {to: qa_v2}}
roles: {vip: {}}
environments: {prod: {allowed_profiles: [qa_v1, qa_v2, strong]}, staging: {allowed_profiles: []}}
";

    fn ask(question: Question<'_>) -> Result<String, String> {
        let source = Source { name: "a.yaml".into(), text: FILE.into() };
        explain(&check(&[source], None).catalog.expect("valid"), &question)
    }

    #[test]
    fn a_choice_is_given_its_reasons() {
        let qa = Question {
            intent: "qa",
            user: "u",
            role: "",
            environment: Environment::Prod,
            wanted: None,
            percent: None,
        };
        let expected = "profile  qa_v1\nbecause  it is the profile of `qa`\nmodel    fast (OpenClaw, agent main)\nfallback qa_v2\n";
        assert_eq!(ask(qa), Ok(expected.into()));
        let vip = ask(Question { role: "vip", ..qa }).expect("somebody");
        assert!(vip.contains("for the role `vip`") && vip.contains("m at http://localhost/v1"), "{vip}");
        let dear = ask(Question { wanted: Some("strong"), ..qa }).expect("somebody");
        assert!(dear.contains("X-OpenClaw-Profile: strong is not followed: it is dearer"), "{dear}");
        let all = ask(Question { intent: "new", percent: Some(100.0), ..qa }).expect("somebody");
        assert!(all.starts_with("profile  qa_v2\nbecause  the rollout has drawn this person\n"), "{all}");
        assert!(
            ask(Question { intent: "new", percent: Some(0.0), ..qa })
                .is_ok_and(|text| text.starts_with("profile  qa_v1"))
        );
        let hard = ask(Question { intent: "hard", ..qa }).expect("somebody");
        assert!(
            hard.ends_with("tool     cancel (write, approved by user)\ntool     order (read)\n"),
            "{hard}"
        );
        assert_eq!(ask(Question { intent: "q", ..qa }), Err("there is no intent `q`".into()));
        assert_eq!(
            ask(Question { environment: Environment::Staging, ..qa }),
            Err("staging allows no version of the profile of `qa`".into())
        );
    }
}
