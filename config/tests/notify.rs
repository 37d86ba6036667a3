//! The section `notify`: what it compiles to, and what is wrong with one that could not be sent.

use minigate_config::{Severity, Source, check};
use minigate_core::policy::{
    catalog::Catalog,
    notify::{Event, Notify, Part, Slot, Ways},
};

fn read(text: &str) -> (Option<Catalog>, Vec<String>) {
    let checked = check(&[Source { name: "a.yaml".into(), text: text.into() }], None);
    (checked.catalog, checked.diagnostics.iter().map(ToString::to_string).collect())
}

/// The first line of the first diagnostic of a file with this section.
fn first(section: &str) -> String {
    let text = format!(
        "models: {{m: {{kind: openclaw}}}}\nprofiles: {{p: {{model: m}}}}\nrouting:\n  \
         job: {{profile: p, notify: [webhook, subscribe]}}\nnotify:\n{section}"
    );
    let (_, lines) = read(&text);
    lines.first().map(|line| line.lines().next().unwrap_or_default().to_owned()).unwrap_or_default()
}

fn subscribe(rest: &str) -> String {
    let webhook = "  webhook: {url: 'https://a.example', secret: '${S}'}\n";
    first(&format!("{webhook}  subscribe:\n    template_id: T\n{rest}"))
}

#[test]
fn the_section_says_who_is_told_of_what() {
    let (catalog, lines) = read(include_str!("full.yaml"));
    let catalog = catalog.unwrap_or_else(|| panic!("{lines:#?}"));
    let Notify { webhook: Some(webhook), subscribe: Some(message) } = &catalog.notify else {
        panic!("both are there");
    };
    assert_eq!((webhook.origin(), webhook.path()), ("https://backend.example.com", "/hooks/mini"));
    assert_eq!(
        (webhook.secret.as_str(), webhook.events.as_slice()),
        ("WEBHOOK_SECRET", &[Event::Done, Event::Failed][..])
    );
    assert!(catalog.secrets().contains(&"WEBHOOK_SECRET"));
    assert_eq!(message.page, [Part::Text("pages/job/job?id=".into()), Part::Slot(Slot::RequestId)]);
    assert_eq!((message.state.as_str(), message.lang.as_str()), ("trial", "en_US"));
    assert_eq!(message.events, [Event::NeedsApproval, Event::Done]);
    let thing = vec![Part::Slot(Slot::Intent), Part::Text(": ".into()), Part::Slot(Slot::Title)];
    assert_eq!(message.data.first(), Some(&("thing1".to_owned(), thing)));
    assert_eq!(message.data.len(), 5);
    let ways = |intent: &str| catalog.intent(intent).map(|intent| intent.notify);
    assert_eq!(ways("support"), Some(Ways { webhook: true, subscribe: true }));
    assert_eq!(ways("extract"), Some(Ways::default()));
}

#[test]
fn what_is_not_said_is_usual() {
    let text = "models: {m: {kind: openclaw}}\nprofiles: {p: {model: m}}\nrouting: {job: {profile: p, notify: [subscribe]}}\n\
                notify: {subscribe: {template_id: T, data: {thing1: done}}}";
    let (catalog, lines) = read(text);
    assert_eq!(lines, [""; 0]);
    let notify = catalog.expect("valid").notify;
    let message = notify.subscribe.expect("given");
    assert_eq!((message.state.as_str(), message.lang.as_str(), message.page.len()), ("formal", "zh_CN", 0));
    assert_eq!(message.events, Event::ALL);
    assert_eq!(notify.webhook, None);
}

#[test]
fn what_could_not_be_sent_is_a_mistake() {
    let data = |field: &str| subscribe(&format!("    data: {{{field}}}\n"));
    assert_eq!(data("thing1: '{{intent}}', phrase2: '{{state}}'"), "");
    for (field, expected) in [
        ("thin1: a", "a.yaml:9:12: error: `thin1` is no field of a template"),
        ("thing: a", "a.yaml:9:12: error: `thing` is no field of a template"),
        ("thing1: '{{name}}'", "a.yaml:9:20: error: `name` cannot stand here"),
        ("number1: '{{time}}'", "a.yaml:9:21: error: `time` cannot stand here"),
        (
            "thing1: '{{title}}'",
            "a.yaml:9:20: error: {{title}} shows what people ask to whoever sees their phone",
        ),
        ("thing1: '{{state'", "a.yaml:9:20: error: `{{` without `}}`"),
        ("phrase1: done", "a.yaml:9:21: error: WeChat takes no such text in `phrase1`"),
        (
            "thing1: a text of more than twenty characters",
            "a.yaml:9:20: error: WeChat takes no such text in `thing1`",
        ),
    ] {
        assert_eq!(data(field), expected, "{field}");
    }
    assert_eq!(data(""), "a.yaml:9:11: error: `data` has no field, and WeChat refuses a message without one");
    assert_eq!(
        subscribe("    page: /pages/a\n    data: {thing1: a}\n"),
        "a.yaml:9:11: error: `page` is no page of a Mini Program"
    );
    assert_eq!(
        subscribe("    page: 'pages/a?t={{title}}'\n    data: {thing1: a}\n"),
        "a.yaml:9:11: error: `title` cannot stand here"
    );
}

#[test]
fn a_webhook_has_a_safe_address_and_a_secret_of_its_own() {
    let webhook = |rest: &str| {
        first(&format!("  subscribe: {{template_id: T, data: {{thing1: a}}}}\n  webhook: {{{rest}}}\n"))
    };
    assert_eq!(webhook("url: 'https://a.example/x', secret: '${S}'"), "");
    for (rest, expected) in [
        ("url: 'https://a.example/x'", "a.yaml:7:3: error: `webhook` has no `secret`"),
        ("url: 'http://a.example/x', secret: '${S}'", "`url` is http to a public host"),
        ("url: 'https://u:p@a.example/x', secret: '${S}'", "`url` must be plain"),
        (
            "url: 'https://a.example/x', secret: '${SESSION_SECRET}'",
            "SESSION_SECRET is this gateway's own secret",
        ),
        ("url: 'https://a.example/x', secret: abc", "`secret`"),
        ("url: 'https://a.example/x?k=${S}', secret: '${S}'", "`${S}` names a secret, and none belongs here"),
    ] {
        let line = webhook(rest);
        assert!(line.contains(expected.trim_start_matches("a.yaml:7:3: ")), "{rest}: {line}");
    }
}

#[test]
fn an_intent_and_the_section_agree() {
    let base = "models: {m: {kind: openclaw}}\nprofiles: {p: {model: m}}\n";
    let (catalog, lines) = read(&format!("{base}routing: {{job: {{profile: p, notify: [webhook]}}}}"));
    assert!(catalog.is_none() && lines.len() == 1, "{lines:?}");
    assert_eq!(lines[0], "a.yaml:3:38: error: there is no `notify.webhook` that says how");
    let webhook = "notify: {webhook: {url: 'https://a.example', secret: '${S}'}}";
    let checked = check(
        &[Source { name: "a.yaml".into(), text: format!("{base}routing: {{job: p}}\n{webhook}") }],
        None,
    );
    assert!(checked.catalog.is_some());
    let found = checked.diagnostics.first().expect("a warning");
    assert_eq!(
        (found.severity, found.message.as_str()),
        (Severity::Warning, "no intent has `notify: [webhook]`, so nobody is told")
    );
}
