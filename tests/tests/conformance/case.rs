//! The cases as they are written: settings, one request, and what then happens to it.

use std::{collections::BTreeMap, fs, path::Path};

use minigate_config::{Source, check};
use minigate_core::{
    policy::{HostFacts, Policy, Secrets, Settings},
    seam::{BodyFailure, FetchFailure, RequestHead},
};
use minigate_tests::media;
use serde::Deserialize;
use serde_json::Value;

/// The client's key in every case.
const KEY: &str = "conformance-key";

/// One case.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Case {
    /// The file's name.
    #[serde(skip)]
    pub(crate) name: String,
    /// What it shows.
    #[serde(rename = "about")]
    _about: String,
    /// Settings that are not the defaults.
    #[serde(default)]
    settings: Settings,
    /// Secrets beside the key and the Gateway's token.
    #[serde(default)]
    secrets: Settings,
    /// The configuration, as `minigate serve --config` reads it.
    #[serde(default)]
    configuration: Option<String>,
    /// The request.
    request: Request,
    /// What happens, in order.
    pub(crate) script: Vec<Event>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    method: String,
    path: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(default)]
    content_length: Option<u64>,
    #[serde(default)]
    body: Value,
}

/// Something that happens to the exchange.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Event {
    /// Milliseconds since the last one.
    #[serde(default)]
    pub(crate) after: u64,
    /// The id of another fetch or operation than the last one.
    #[serde(default)]
    pub(crate) id: Option<u32>,
    /// What.
    #[serde(rename = "do")]
    pub(crate) what: Happens,
}

/// What happens.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Happens {
    /// The request's body arrives.
    Body,
    /// It does not.
    BodyFails(BodyFailure),
    /// The store applies the operation that it was asked for.
    Store {
        /// How often others have asked for the same before.
        #[serde(default)]
        earlier: u32,
    },
    /// The store fails.
    StoreFails,
    /// The ticket that is waited for is woken.
    Woken,
    /// OpenClaw answers at once.
    Whole(Answer),
    /// OpenClaw begins to stream.
    Head(Answer),
    /// OpenClaw goes on: a string is a line, an object is an event's data.
    Lines(Vec<Value>),
    /// OpenClaw's answer is complete.
    End,
    /// The fetch fails.
    FetchFails(FetchFailure),
    /// Time passes until the deadline.
    Deadline,
    /// The client leaves.
    ClientGone,
}

/// An answer of OpenClaw.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Answer {
    /// The status.
    pub(crate) status: u16,
    /// The headers.
    #[serde(default)]
    pub(crate) headers: BTreeMap<String, String>,
    /// The body: a string as it is, anything else as JSON.
    #[serde(default)]
    body: Value,
}

impl Answer {
    /// The headers, as the seam wants them.
    pub(crate) fn headers(&self) -> Vec<(String, String)> {
        self.headers.clone().into_iter().collect()
    }

    /// The bytes of the body.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        match &self.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            value => value.to_string().into_bytes(),
        }
    }
}

/// Lines with their line feeds.
pub(crate) fn lines(written: &[Value]) -> Vec<u8> {
    let lines = written.iter().map(|line| match line {
        Value::String(line) => format!("{line}\n"),
        event => format!("data: {event}\n\n"),
    });
    lines.collect::<String>().into_bytes()
}

impl Case {
    /// All cases of a directory, in the order of their names.
    pub(crate) fn all(directory: &Path) -> Vec<Self> {
        let entries = fs::read_dir(directory).expect("the corpus");
        let paths = entries.map(|entry| entry.expect("an entry").path());
        let mut paths: Vec<_> =
            paths.filter(|path| path.extension().is_some_and(|is| is == "json")).collect();
        paths.sort();
        let read = |path: &Path| {
            let text = fs::read(path).expect("a file");
            let mut case: Self =
                serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            case.name = path.file_stem().and_then(|name| name.to_str()).expect("a name").to_owned();
            case
        };
        paths.iter().map(|path| read(path)).collect()
    }

    /// The policy that its settings ask for.
    pub(crate) fn policy(&self) -> Policy {
        let own = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        // The gates beside the caller's rate are for the cases that are about them.
        let mut settings = own(&[
            ("ABUSE_PROTECTION", "off"),
            ("LOG_LEVEL", "debug"),
            ("MAX_CONCURRENCY", "0"),
            ("OPENCLAW_GATEWAY_URL", "http://127.0.0.1:18789"),
            ("RATE_LIMIT_PER_ADDRESS", "0"),
        ]);
        settings.extend(self.settings.clone());
        let mut secrets = own(&[("API_KEY", KEY), ("OPENCLAW_GATEWAY_TOKEN", "conformance-token")]);
        secrets.extend(self.secrets.clone());
        let facts = HostFacts { name: "conformance".into(), ..HostFacts::default() };
        let secrets = Secrets(secrets);
        let mut policy = Policy::from_settings(&settings, &secrets, facts, false)
            .unwrap_or_else(|errors| panic!("{}: {errors:?}", self.name));
        if let Some(text) = &self.configuration {
            let source = Source { name: self.name.clone(), text: text.clone() };
            let checked = check(&[source], None);
            let catalog = checked.catalog.unwrap_or_else(|| panic!("{:?}", checked.diagnostics));
            policy.configure(catalog, &settings, &secrets).expect("a configuration that fits");
        }
        policy
    }

    /// The request's head. A chat request has a key and a type unless the case says other.
    pub(crate) fn head(&self) -> RequestHead {
        let Request { method, path, headers, content_length, .. } = &self.request;
        let mut all = BTreeMap::new();
        if path == "/api/chat" || path == "/v1/mini/ask" {
            all.insert("content-type".to_owned(), "application/json".to_owned());
            all.insert("x-api-key".to_owned(), KEY.to_owned());
        }
        all.extend(headers.clone());
        all.retain(|_, value| !value.is_empty());
        RequestHead {
            method: method.clone(),
            path: path.clone(),
            query: String::new(),
            headers: all.into_iter().collect(),
            peer: "203.0.113.9".into(),
            content_length: *content_length,
            robot: None,
        }
    }

    /// The request's body: a string as it is, a list put together from its parts, an
    /// object as JSON.
    pub(crate) fn body(&self) -> Vec<u8> {
        match &self.request.body {
            Value::Null => Vec::new(),
            Value::String(text) => text.clone().into_bytes(),
            Value::Array(parts) => parts.iter().flat_map(|each| self.part(each)).collect(),
            body => body.to_string().into_bytes(),
        }
    }

    /// A string, or a rule that makes one.
    fn part(&self, part: &Value) -> Vec<u8> {
        let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
        if let Some(text) = part.as_str() {
            return text.to_owned().into_bytes();
        }
        if let Some(bytes) = number(&part["png"]) {
            let smallest = media::png(0).len();
            return media::encode(&media::png(bytes - smallest)).into_bytes();
        }
        if let Some(pages) = number(&part["pdf"]) {
            return media::encode(&media::pdf(pages, "conformance")).into_bytes();
        }
        if let (Some(text), Some(times)) = (part["repeat"].as_str(), number(&part["times"])) {
            return text.repeat(times).into_bytes();
        }
        if let Some(byte) = number(&part["byte"]) {
            return vec![u8::try_from(byte).expect("a byte")];
        }
        panic!("{}: no such part: {part}", self.name)
    }
}
