//! Robots: whose they are, who answers, and the names of their secrets.

use std::collections::BTreeMap;

use minigate_core::policy::{
    SECRETS,
    channel::{AnsweredBy, Channel, ChannelKind, Destination, Mode, Reply, Target},
};

use super::{Names, expect_known, number, section_of, text};
use crate::{
    diagnostic::{Place, Report, shown},
    secrets,
    yaml::{Entry, Node},
};

/// After how long people are told that there is no answer, without a `timeout_ms`.
const TIMEOUT_MS: u32 = 55_000;

/// All of them, in order of names.
pub(super) fn channels(root: &Node, names: &Names<'_>, report: &mut Report) -> Vec<Channel> {
    let intents: BTreeMap<&str, Place> =
        super::intents::entries(root).map(|entry| (entry.key.as_str(), entry.place)).collect();
    let entries = section_of(root, "channels").iter();
    let mut channels: Vec<Channel> = entries.map(|entry| channel(entry, &intents, names, report)).collect();
    channels.sort_by(|a, b| a.name.cmp(&b.name));
    channels
}

/// All of them, in order of names.
pub(super) fn targets(root: &Node, report: &mut Report) -> Vec<Target> {
    let mut targets = Vec::new();
    for channel in section_of(root, "channels") {
        for entry in channel.node.get("targets").map(Node::entries).unwrap_or_default() {
            let node = &*entry.node;
            let ways = [
                text(node, "conversation").map(Destination::Group),
                text(node, "person").map(Destination::Person),
                node.get("webhook").map(|_| Destination::Webhook(secret(node, "webhook", report))),
            ];
            let mut ways = ways.into_iter().flatten();
            let (Some(to), None) = (ways.next(), ways.next()) else {
                let message = format!("target {} is not one of a group and a person", shown(&entry.key));
                report.error_with(entry.place, message, "give it `conversation`, `person` or `webhook`");
                continue;
            };
            targets.push(Target { name: entry.key.clone(), channel: channel.key.clone(), to });
        }
    }
    targets.sort_by(|a, b| (&a.name, &a.channel).cmp(&(&b.name, &b.channel)));
    targets
}

fn channel(
    entry: &Entry,
    intents: &BTreeMap<&str, Place>,
    names: &Names<'_>,
    report: &mut Report,
) -> Channel {
    let node = &*entry.node;
    // Its name is a part of a path.
    if entry.key.contains(['/', ':']) {
        let message = format!("{} cannot name a channel", shown(&entry.key));
        report.error_with(entry.place, message, "letters, digits, `_`, `-` and `.`");
    }
    let mode = match text(node, "mode").as_deref() {
        Some("http") => Mode::Http,
        _ => Mode::Stream,
    };
    let kind = ChannelKind::DingTalk {
        robot_code: text(node, "robot_code").unwrap_or_default(),
        app_key: secret(node, "app_key", report),
        app_secret: secret(node, "app_secret", report),
        mode,
        reply: reply(node),
    };
    Channel {
        name: entry.key.clone(),
        kind,
        answered_by: answered_by(entry, intents, names, report),
        ack: text(node, "ack"),
        ack_after_ms: number(node, "ack_after_ms").unwrap_or(0),
        timeout_ms: number(node, "timeout_ms").unwrap_or(TIMEOUT_MS),
        failed: text(node, "failed"),
    }
}

/// The name of a setting that is not one of the gateway's own.
fn secret(node: &Node, key: &str, report: &mut Report) -> String {
    let Some(there) = node.get(key) else { return String::new() };
    let name = there.text().and_then(secrets::reference).unwrap_or_default();
    if SECRETS.contains(&name) {
        report.error_with(
            there.place,
            format!("{name} is this gateway's own secret, and would be sent to DingTalk"),
            "give the app's own a name of its own, as ${DINGTALK_APP_SECRET}",
        );
    }
    name.to_owned()
}

fn answered_by(
    entry: &Entry,
    intents: &BTreeMap<&str, Place>,
    names: &Names<'_>,
    report: &mut Report,
) -> AnsweredBy {
    match (entry.node.get("intent"), entry.node.get("profile")) {
        (Some(intent), None) => {
            expect_known("intent", intent, intents, report);
            AnsweredBy::Intent(intent.text().unwrap_or_default().to_owned())
        }
        (None, Some(profile)) => {
            expect_known("profile", profile, &names.profiles, report);
            AnsweredBy::Profile(profile.text().unwrap_or_default().to_owned())
        }
        (both, _) => {
            let is = if both.is_some() { "both an `intent` and a `profile`" } else { "nobody who answers" };
            report.error_with(
                entry.place,
                format!("channel {} has {is}", shown(&entry.key)),
                "give it either `intent: NAME` or `profile: NAME`",
            );
            AnsweredBy::Profile(String::new())
        }
    }
}

fn reply(node: &Node) -> Reply {
    match text(node, "reply").as_deref() {
        Some("text") => Reply::Text,
        _ => Reply::Markdown,
    }
}
