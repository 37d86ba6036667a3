//! The way from one version of a profile to another.

use minigate_core::{
    policy::rollout::{Rollout, usual_plan},
    state::rollout::{Guard, Plan, Step},
};

use super::{Names, expect_known, number, text};
use crate::{diagnostic::Report, shape::seconds, yaml::Node};

/// How long a step takes at least, where it does not say.
const STEP_S: u32 = 3_600;

/// The rollout of an intent whose own profile is `from`.
pub(super) fn rollout(
    node: &Node,
    intent: &str,
    from: &str,
    names: &Names<'_>,
    report: &mut Report,
) -> Option<Rollout> {
    let to = node.get("to")?;
    expect_known("profile", to, &names.profiles, report);
    if to.text() == Some(from) {
        report.error(to.place, "`to` is the profile that answers already");
    }
    let usual = usual_plan();
    let steps = node.get("steps").map_or(usual.steps, |steps| self::steps(steps, report));
    let guard = node.get("guard").map_or(usual.guard, |node| guard(node, usual.guard));
    Some(Rollout {
        intent: intent.to_owned(),
        from: from.to_owned(),
        to: to.text()?.to_owned(),
        salt: text(node, "salt").unwrap_or_default(),
        plan: Plan { steps, guard },
    })
}

fn steps(node: &Node, report: &mut Report) -> Vec<Step> {
    if node.items().is_empty() {
        report.error(node.place, "`steps` names no step");
    }
    let mut steps: Vec<Step> = Vec::new();
    for item in node.items() {
        let at_least = item.get("at_least").and_then(|time| seconds(time.text()?)).unwrap_or(STEP_S);
        let step = Step {
            share: item.get("percent").map(hundredths).unwrap_or_default(),
            at_least_ms: u64::from(at_least) * 1_000,
            at_least_turns: number(item, "turns").unwrap_or_default(),
        };
        if steps.last().is_some_and(|before| before.share >= step.share) {
            report.error(item.place, "`percent` must be more than in the step before");
        }
        steps.push(step);
    }
    steps
}

fn guard(node: &Node, usual: Guard) -> Guard {
    let points = |key: &str, usual: Option<u16>| match node.get(key) {
        None => usual,
        Some(off) if off.text().is_some() => None,
        Some(points) => Some(hundredths(points)),
    };
    let percent = |key: &str, usual: Option<u16>| match node.get(key) {
        None => usual,
        Some(off) if off.text().is_some() => None,
        Some(_) => number(node, key),
    };
    Guard {
        failed: points("failed", usual.failed),
        empty: points("empty", usual.empty),
        schema: points("schema", usual.schema),
        p95: percent("p95", usual.p95),
        tokens: percent("tokens", usual.tokens),
        down: points("down", usual.down),
    }
}

/// A percentage in hundredths.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10000")]
fn hundredths(node: &Node) -> u16 {
    (node.decimal().unwrap_or_default().clamp(0.0, 100.0) * 100.0).round() as u16
}
