//! The section `channels`: robots, beside the file of the requirement as it is.

use minigate_config::{Source, check};
use minigate_core::policy::{
    catalog::Catalog,
    channel::{AnsweredBy, ChannelKind, Mode, Reply},
};

const LOCAL_MODEL: &str = include_str!("requirements/dingtalk-local-model.yaml");

fn read(texts: &[&str]) -> (Option<Catalog>, Vec<String>) {
    let sources: Vec<Source> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| Source { name: format!("{at}.yaml"), text: (*text).to_owned() })
        .collect();
    let checked = check(&sources, None);
    (checked.catalog, checked.diagnostics.iter().map(ToString::to_string).collect())
}

fn first(channel: &str) -> String {
    let text = format!(
        "models: {{m: {{kind: openclaw}}}}\nprofiles: {{p: {{model: m}}}}\nrouting: {{ask: p}}\nchannels:\n  \
         bot: {{kind: dingtalk, robot_code: r, app_key: '${{K}}', app_secret: '${{S}}', {channel}}}"
    );
    let (_, lines) = read(&[&text]);
    lines.first().map(|line| line.lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

#[test]
fn a_robot_answers_by_the_local_model_of_the_requirement() {
    let robot = "profiles: {bot_v1: {max_tokens: 600}}\nchannels:\n  bot: {kind: dingtalk, robot_code: ding1, \
                 app_key: '${DINGTALK_APP_KEY}', app_secret: '${DINGTALK_APP_SECRET}', profile: bot_v1}";
    let (catalog, lines) = read(&[LOCAL_MODEL, robot]);
    assert!(lines.is_empty(), "{lines:?}");
    let catalog = catalog.expect("valid");
    let channel = catalog.channel("bot").expect("named");
    assert_eq!(channel.answered_by, AnsweredBy::Profile("bot_v1".into()));
    assert_eq!(catalog.profile("bot_v1").map(|profile| profile.model.as_str()), Some("local_chat"));
    let ChannelKind::DingTalk { robot_code, mode, reply, .. } = &channel.kind;
    assert_eq!((robot_code.as_str(), *mode, reply), ("ding1", Mode::Stream, &Reply::Markdown));
    assert_eq!((&channel.ack, &channel.failed), (&None, &None));
    assert_eq!((channel.ack_after_ms, channel.timeout_ms), (0, 55_000));
    assert_eq!(catalog.secrets(), ["DINGTALK_APP_KEY", "DINGTALK_APP_SECRET", "LOCAL_MODEL_API_KEY"]);
}

#[test]
fn every_key_has_its_meaning() {
    let (catalog, _) = read(&[include_str!("full.yaml")]);
    let catalog = catalog.expect("valid");
    let channel = catalog.channel("helpdesk").expect("named");
    assert_eq!(channel.answered_by, AnsweredBy::Intent("support".into()));
    assert_eq!(channel.ack.as_deref(), Some("收到，正在处理…"));
    let ChannelKind::DingTalk { mode, reply, .. } = &channel.kind;
    assert_eq!((*mode, reply), (Mode::Http, &Reply::Text));
    assert!(catalog.channel("notes").is_some() && catalog.channel("other").is_none());
}

#[test]
fn mistakes_are_found() {
    assert_eq!(first("intent: ask, ack_after_ms: 3000, timeout_ms: 90000"), "");
    for (channel, expected) in [
        ("ack: wait", "0.yaml:5:3: error: channel `bot` has nobody who answers"),
        ("intent: ask, profile: p", "0.yaml:5:3: error: channel `bot` has both an `intent` and a `profile`"),
        ("intent: aks", "error: there is no intent `aks`"),
        ("profile: q", "error: there is no profile `q`"),
        ("profile: p, mode: socket", "error: `mode` is `socket`; it must be one of http, stream"),
        (
            "profile: p, timeout_ms: 10",
            "error: `timeout_ms` is the number 10; it must be a whole number from 1000 to 3600000",
        ),
        ("profile: p, ack: '${S}'", "error: `${S}` names a secret, and none belongs here"),
    ] {
        let line = first(channel);
        assert!(line.ends_with(expected), "{channel}: {line}");
    }
    let own = "channels:\n  a/b: {kind: dingtalk, robot_code: r, app_key: '${K}', app_secret: '${WECHAT_SECRET}', profile: p}";
    let (_, lines) = read(&[own]);
    assert!(lines.iter().any(|line| line.contains("`a/b` cannot name a channel")), "{lines:?}");
    assert!(
        lines.iter().any(|line| line.contains("WECHAT_SECRET is this gateway's own secret")),
        "{lines:?}"
    );
    let written =
        "channels:\n  a: {kind: dingtalk, robot_code: r, app_key: ding01, app_secret: abcdefgh, profile: p}";
    let (catalog, lines) = read(&[written]);
    assert!(catalog.is_none() && !lines.concat().contains("abcdefgh"), "{lines:?}");
    let (_, lines) = read(&["channels: {a: {kind: slack}}"]);
    assert!(lines.iter().any(|line| line.contains("`kind` is `slack`")), "{lines:?}");
}

#[test]
fn targets_are_one_thing_each() {
    let robot = |targets: &str| {
        format!(
            "profiles: {{bot_v1: {{max_tokens: 600}}}}\nchannels:\n  bot: {{kind: dingtalk, robot_code: ding1, \
             app_key: '${{K}}', app_secret: '${{S}}', profile: bot_v1, targets: {{{targets}}}}}"
        )
    };
    let all = "b: {person: '0326'}, a: {conversation: cid1=}, c: {webhook: '${GROUP_TOKEN}'}";
    let (catalog, lines) = read(&[LOCAL_MODEL, &robot(all)]);
    let catalog = catalog.unwrap_or_else(|| panic!("{lines:?}"));
    let names: Vec<_> =
        catalog.targets.iter().map(|target| (target.name.as_str(), target.channel.as_str())).collect();
    assert_eq!(names, [("a", "bot"), ("b", "bot"), ("c", "bot")]);
    assert!(catalog.secrets().contains(&"GROUP_TOKEN"));
    for wrong in ["a: {}", "a: {person: x, conversation: y}", "a: {webhook: '${ADMIN_KEY}'}"] {
        assert!(read(&[LOCAL_MODEL, &robot(wrong)]).0.is_none(), "{wrong}");
    }
}
