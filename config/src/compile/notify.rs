//! Who is told of what turns come to, and what of a turn stands in a message.

use minigate_core::policy::{
    SECRETS,
    notify::{Event, KINDS, Kind, Notify, Part, Slot, Subscribe, Ways, Webhook},
};

use super::{is, section_of, text};
use crate::{
    diagnostic::{Report, instead, shown},
    secrets, url,
    yaml::{Entry, Node},
};

/// The section.
pub(super) fn notify(root: &Node, report: &mut Report) -> Notify {
    let Some(node) = root.get("notify") else { return Notify::default() };
    let used = |way: &str| super::intents::entries(root).any(|entry| names_way(&entry.node, way));
    for way in ["webhook", "subscribe"] {
        if let Some(there) = node.get(way)
            && !used(way)
        {
            report.warning(
                there.place,
                format!("no intent has `notify: [{way}]`, so nobody is told"),
                "write it at the intents under `routing` whose turns take long",
            );
        }
    }
    Notify {
        webhook: node.get("webhook").map(|node| webhook(node, report)),
        subscribe: node.get("subscribe").map(|node| subscribe(node, report)),
    }
}

fn names_way(intent: &Node, way: &str) -> bool {
    let ways = intent.get("notify").map(Node::items).unwrap_or_default();
    ways.iter().any(|node| node.text() == Some(way))
}

/// Which ways an intent uses. One that the section does not have is a mistake.
pub(super) fn ways(intent: &Node, root: &Node, report: &mut Report) -> Ways {
    let section = root.get("notify");
    for node in intent.get("notify").map(Node::items).unwrap_or_default() {
        if let Some(way) = node.text().filter(|way| ["webhook", "subscribe"].contains(way))
            && section.and_then(|section| section.get(way)).is_none()
        {
            report.error(node.place, format!("there is no `notify.{way}` that says how"));
        }
    }
    Ways { webhook: names_way(intent, "webhook"), subscribe: names_way(intent, "subscribe") }
}

fn events(node: &Node) -> Vec<Event> {
    let Some(listed) = node.get("events") else { return Event::ALL.to_vec() };
    let is_listed = |event: &Event| listed.items().iter().any(|node| node.text() == Some(event.name()));
    Event::ALL.into_iter().filter(is_listed).collect()
}

fn webhook(node: &Node, report: &mut Report) -> Webhook {
    let url = text(node, "url").unwrap_or_default().trim().to_owned();
    if let Some(place) = node.get("url").map(|url| url.place)
        && let Some(problem) = url::problem(&url)
    {
        // Not quoted: it may hold a credential.
        report.error(place, format!("`url` {problem}"));
    }
    let secret = node.get("secret").and_then(|key| Some((key.place, secrets::reference(key.text()?)?)));
    if let Some((place, name)) = secret
        && SECRETS.contains(&name)
    {
        report.error_with(
            place,
            format!("{name} is this gateway's own secret"),
            "give the signing secret a name of its own, as ${WEBHOOK_SECRET}",
        );
    }
    let secret = secret.map(|(_, name)| name.to_owned()).unwrap_or_default();
    Webhook { url, secret, events: events(node) }
}

fn subscribe(node: &Node, report: &mut Report) -> Subscribe {
    let shows_question = is(node, "show_question");
    let data = section_of(node, "data").iter();
    let data: Vec<_> = data.map(|entry| (entry.key.clone(), field(entry, shows_question, report))).collect();
    if let Some(there) = node.get("data")
        && data.is_empty()
    {
        report.error(there.place, "`data` has no field, and WeChat refuses a message without one");
    }
    let names = section_of(node, "names").iter();
    Subscribe {
        template_id: text(node, "template_id").unwrap_or_default(),
        page: node.get("page").map(|node| page(node, report)).unwrap_or_default(),
        state: text(node, "state").unwrap_or_else(|| "formal".to_owned()),
        lang: text(node, "lang").unwrap_or_else(|| "zh_CN".to_owned()),
        events: events(node),
        names: names.filter_map(|entry| Some((entry.key.clone(), entry.node.text()?.to_owned()))).collect(),
        data,
    }
}

fn page(node: &Node, report: &mut Report) -> Vec<Part> {
    let parts = template(node, &["intent", "state", "requestId"], report);
    if node.text().is_some_and(|page| page.starts_with(['/', '?']) || page.contains("://")) {
        report.error_with(
            node.place,
            "`page` is no page of a Mini Program",
            "a path without a slash before it, as pages/job/job?id={{requestId}}",
        );
    }
    parts
}

fn field(entry: &Entry, shows_question: bool, report: &mut Report) -> Vec<Part> {
    let Some(kind) = Kind::of(&entry.key) else {
        let name = entry.key.trim_end_matches(|c: char| c.is_ascii_digit());
        let help = match KINDS.iter().any(|(known, _)| *known == name) {
            true => "its number is missing, as in thing1".to_owned(),
            false => instead(name, KINDS.iter().map(|(known, _)| *known), "kinds of fields"),
        };
        report.error_with(entry.place, format!("{} is no field of a template", shown(&entry.key)), help);
        return Vec::new();
    };
    let parts = template(&entry.node, takes(kind), report);
    if !shows_question && parts.contains(&Part::Slot(Slot::Title)) {
        report.error_with(
            entry.node.place,
            "{{title}} shows what people ask to whoever sees their phone",
            "write `show_question: true` beside `data` if that is wanted",
        );
    }
    // What would be changed when it is sent is not what the operator meant.
    if let [Part::Text(text)] = parts.as_slice()
        && kind.fit(text, 0) != *text
    {
        report.error(entry.node.place, format!("WeChat takes no such text in {}", shown(&entry.key)));
    }
    parts
}

/// What a field of that kind can hold of a turn.
fn takes(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Thing | Kind::ShortThing => &["intent", "state", "time", "title", "requestId"],
        Kind::CharacterString => &["intent", "time", "requestId"],
        Kind::Name | Kind::Phrase => &["intent", "state"],
        Kind::Time | Kind::Date => &["time"],
        Kind::Number
        | Kind::Letter
        | Kind::Symbol
        | Kind::Amount
        | Kind::PhoneNumber
        | Kind::CarNumber
        | Kind::Enum => &[],
    }
}

/// A template's parts: `{{slot}}` between the operator's words.
fn template(node: &Node, slots: &[&str], report: &mut Report) -> Vec<Part> {
    let Some(mut rest) = node.text().map(str::trim) else { return Vec::new() };
    let mut parts = Vec::new();
    while let Some((words, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else {
            report.error_with(node.place, "`{{` without `}}`", "a placeholder is written {{state}}");
            return parts;
        };
        if !words.is_empty() {
            parts.push(Part::Text(words.to_owned()));
        }
        let name = name.trim();
        match Slot::ALL.iter().find(|(known, _)| *known == name && slots.contains(known)) {
            Some((_, slot)) => parts.push(Part::Slot(*slot)),
            None => {
                let help = match slots {
                    [] => "only your own words".to_owned(),
                    _ => instead(name, slots.iter().copied(), "placeholders here"),
                };
                report.error_with(node.place, format!("{} cannot stand here", shown(name)), help);
            }
        }
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    parts
}
