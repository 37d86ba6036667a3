//! A request to a model's own server: its body, and the few places in it that are written anew.
//!
//! What is kept of it are numbers and ranges, so that the request can be shaped for another model
//! when the first one fails, long after its bytes were here. No text of it may get in here but the
//! model's name and the user's.

use core::{fmt, ops::Range};
use std::borrow::Cow;

use minigate_scan::{Elided, PLACEHOLDER};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::trim::{Role, Weighed, trim};
use crate::{
    policy::{catalog::Overflow, tokens},
    seam::Rope,
    state::usage::Calibration,
    wire::{
        chat,
        failure::{Code, Failure},
        json,
    },
};

/// The most messages: a long run of an agent has hundreds.
const MOST_MESSAGES: usize = 4_096;
/// What a picture or a recording costs in tokens: models take about 250 to 1 500 for one.
const MEDIA: u32 = 1_000;
/// What a message costs beside its texts.
const MESSAGE: u32 = 4;

/// A part of the body, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    start: u32,
    end: u32,
}

/// What of a request matters here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Which model, where it says so.
    pub model: Option<String>,
    /// Whether to stream.
    pub stream: bool,
    /// Whether the caller wants the stream's usage itself.
    pub include_usage: bool,
    /// On whose behalf, in the caller's words.
    pub user: Option<String>,
    /// Where its fields begin, and its length.
    begin: u32,
    len: u32,
    /// Where the name of the model stands.
    name: Option<Place>,
    /// Where limits of the answer stand, and what they say.
    limits: Vec<(Place, Option<u64>)>,
    /// What is changed for every model.
    changes: Vec<(Place, String)>,
    messages: Vec<(Place, Weighed)>,
    /// The estimated tokens beside the messages: tools and schemas.
    fixed: u32,
}

/// What a model takes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'p> {
    /// Its name at its server.
    pub name: &'p str,
    pub context_tokens: Option<u32>,
    pub max_tokens: Option<u32>,
    pub on_overflow: Overflow,
    pub calibration: Calibration,
}

/// A request as one model gets it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shaped {
    pub body: Rope,
    /// Estimated tokens, before any calibration.
    pub tokens: u32,
    /// Messages that were left out.
    pub trimmed: u32,
}

#[derive(Deserialize)]
struct Body<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Vec<&'a RawValue>,
    #[serde(default)]
    stream: Option<bool>,
    #[serde(borrow, default, deserialize_with = "present")]
    stream_options: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    max_tokens: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    max_completion_tokens: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tools: Option<&'a RawValue>,
    #[serde(borrow, default)]
    functions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    response_format: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamOptions<'a> {
    #[serde(borrow, default, deserialize_with = "present")]
    include_usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Speaker<'a> {
    #[serde(borrow)]
    role: Cow<'a, str>,
}

/// Also where it is `null`, which stands somewhere too.
fn present<'de, D: Deserializer<'de>>(from: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(from).map(Some)
}

/// Reads a body. What is not needed here is not looked at: its server knows it better.
pub(crate) fn parse(body: &[u8]) -> Result<Request, Failure> {
    let elided = Elided::new(body);
    let parsed: Body<'_> = json::object(elided.text()).map_err(|error| chat::invalid_json(&error))?;
    if parsed.messages.is_empty() {
        return Err(Failure::new(Code::MessagesEmpty, "messages: at least one is needed"));
    }
    if parsed.messages.len() > MOST_MESSAGES {
        let message = format!("messages: {} of them, the limit is {MOST_MESSAGES}", parsed.messages.len());
        return Err(Failure::new(Code::TooManyMessages, message));
    }
    let place = |raw: &RawValue| Place::of(elided.range_of(raw.get()));
    let mut messages = Vec::with_capacity(parsed.messages.len());
    for (at, raw) in parsed.messages.iter().enumerate() {
        let speaker: Speaker<'_> = json::object(raw.get().as_bytes()).map_err(|_| {
            Failure::new(Code::InvalidJson, format!("messages[{at}]: an object with a role is wanted"))
        })?;
        let role = match speaker.role.as_ref() {
            "system" | "developer" => Role::System,
            "user" => Role::User,
            "tool" | "function" => Role::Tool,
            _ => Role::Assistant,
        };
        messages.push((place(raw), Weighed { role, tokens: weigh(raw).saturating_add(MESSAGE) }));
    }
    let mut limits = Vec::new();
    for raw in [parsed.max_tokens, parsed.max_completion_tokens].into_iter().flatten() {
        limits.push((place(raw), limit(raw)?));
    }
    let stream = parsed.stream.unwrap_or(false);
    let mut request = Request {
        model: parsed.model.and_then(|raw| serde_json::from_str::<Option<String>>(raw.get()).ok()?),
        stream,
        include_usage: false,
        user: parsed.user.map(Cow::into_owned),
        begin: after_brace(body, 0).start,
        len: Place::of(0..body.len()).end,
        name: parsed.model.map(place),
        limits,
        changes: Vec::new(),
        messages,
        fixed: [parsed.tools, parsed.functions, parsed.response_format]
            .into_iter()
            .flatten()
            .fold(0, |sum, raw| weigh(raw).saturating_add(sum)),
    };
    if stream {
        // What a stream cost is said only where it is asked for.
        request.ask_usage(body, parsed.stream_options, place)?;
    }
    Ok(request)
}

impl Request {
    fn ask_usage<'a>(
        &mut self,
        body: &[u8],
        options: Option<&'a RawValue>,
        place: impl Fn(&'a RawValue) -> Place,
    ) -> Result<(), Failure> {
        const ALL: &str = "{\"include_usage\":true}";
        match options {
            None => self.changes.push((after_brace(body, 0), format!("\"stream_options\":{ALL},"))),
            Some(raw) if raw.get() == "null" => self.changes.push((place(raw), ALL.into())),
            Some(raw) => {
                let options: StreamOptions<'_> =
                    json::object(raw.get().as_bytes()).map_err(|error| chat::invalid_json(&error))?;
                match options.include_usage {
                    Some(value) if value.get() == "true" => self.include_usage = true,
                    Some(value) => self.changes.push((place(value), "true".into())),
                    None => {
                        let is_empty = raw.get()[1..].trim_ascii_start().starts_with('}');
                        let comma = if is_empty { "" } else { "," };
                        let at = after_brace(body, place(raw).start);
                        self.changes.push((at, format!("\"include_usage\":true{comma}")));
                    }
                }
            }
        }
        Ok(())
    }

    /// What the model gets. The newest words and the system's stay as they are; where they are more
    /// than it holds, nobody is asked.
    pub(crate) fn shape(&self, rules: Rules<'_>) -> Result<Shaped, Failure> {
        let asked = self.limits.iter().filter_map(|(_, limit)| *limit).min();
        let limit = asked.into_iter().chain(rules.max_tokens.map(u64::from)).min();
        let weighed: Vec<Weighed> = self.messages.iter().map(|(_, weighed)| *weighed).collect();
        let stays = match rules.context_tokens {
            Some(context) => self.fit(context, limit, rules, &weighed)?,
            None => vec![true; weighed.len()],
        };
        let kept = weighed.iter().zip(&stays).filter(|(_, stays)| **stays);
        let sum = kept.fold(u64::from(self.fixed), |sum, (message, _)| sum + u64::from(message.tokens));
        let tokens = u32::try_from(sum).unwrap_or(u32::MAX);
        // An answer that was allowed more than is left would be refused by some servers.
        let room =
            rules.context_tokens.map(|context| context.saturating_sub(rules.calibration.apply(tokens)));
        let limit = limit.map(|limit| limit.min(room.map_or(u64::MAX, |room| u64::from(room.max(1)))));
        let trimmed = stays.iter().filter(|stays| !**stays).count();
        Ok(Shaped {
            body: self.write(rules.name, limit, &stays),
            tokens,
            trimmed: u32::try_from(trimmed).unwrap_or(u32::MAX),
        })
    }

    /// Which messages stay within what the model holds, with room for its answer.
    fn fit(
        &self,
        context: u32,
        limit: Option<u64>,
        rules: Rules<'_>,
        weighed: &[Weighed],
    ) -> Result<Vec<bool>, Failure> {
        let half = context / 2;
        let answer = limit.map_or(context / 4, |limit| u32::try_from(limit).unwrap_or(half).min(half));
        let budget = rules.calibration.fits(context - answer);
        let messages: u64 = weighed.iter().map(|message| u64::from(message.tokens)).sum();
        let sum = messages + u64::from(self.fixed);
        let left = u64::from(budget).checked_sub(u64::from(self.fixed));
        let fits = match rules.on_overflow {
            _ if sum <= u64::from(budget) => Some(vec![true; weighed.len()]),
            Overflow::Trim => left.and_then(|left| trim(weighed, left)),
            Overflow::Refuse => None,
        };
        fits.ok_or_else(|| {
            let counted = rules.calibration.apply(u32::try_from(sum).unwrap_or(u32::MAX));
            // In the words that clients of OpenAI look for.
            Failure::new(
                Code::ContextLengthExceeded,
                format!(
                    "This model's maximum context length is {context} tokens. However, your messages resulted \
                     in about {counted} tokens, and {answer} are kept for the answer. Please reduce the length \
                     of the messages."
                ),
            )
        })
    }

    /// The body with its changes.
    fn write(&self, name: &str, limit: Option<u64>, stays: &[bool]) -> Rope {
        let mut changes = self.changes.clone();
        let begin = Place { start: self.begin, end: self.begin };
        match self.name {
            Some(place) => changes.push((place, json::string(name))),
            None => changes.push((begin, format!("\"model\":{},", json::string(name)))),
        }
        if let Some(limit) = limit {
            let over = self.limits.iter().filter(|(_, said)| said.is_some_and(|said| said > limit));
            changes.extend(over.map(|(place, _)| (*place, limit.to_string())));
            match self.limits.first() {
                None => changes.push((begin, format!("\"max_tokens\":{limit},"))),
                // `null` is no limit.
                Some((place, None)) if self.limits.iter().all(|(_, said)| said.is_none()) => {
                    changes.push((*place, limit.to_string()));
                }
                Some(_) => {}
            }
        }
        for (at, _) in stays.iter().enumerate().filter(|(_, stays)| !**stays) {
            // Up to the next one, so that its comma goes too; the last one always stays.
            if let (Some((this, _)), Some((next, _))) = (self.messages.get(at), self.messages.get(at + 1)) {
                changes.push((Place { start: this.start, end: next.start }, String::new()));
            }
        }
        changes.sort_by_key(|(place, _)| place.start);
        let (mut rope, mut at) = (Rope::default(), 0);
        for (place, text) in &changes {
            rope.push_range(at as usize..place.start as usize);
            rope.push_str(text);
            at = place.end;
        }
        rope.push_range(at as usize..self.len as usize);
        rope
    }
}

impl Place {
    fn of(range: Range<usize>) -> Self {
        // A body is at most 20 MiB.
        let number = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self { start: number(range.start), end: number(range.end) }
    }
}

/// Where the fields of the object begin that begins at or after that byte.
fn after_brace(body: &[u8], from: u32) -> Place {
    let from = from as usize;
    let brace = body.get(from..).and_then(|rest| memchr::memchr(b'{', rest)).unwrap_or_default();
    Place::of(from + brace + 1..from + brace + 1)
}

/// A limit of the answer; `null` is none, and so is a number below 0 to some servers.
fn limit(raw: &RawValue) -> Result<Option<u64>, Failure> {
    let number = serde_json::from_str::<Option<f64>>(raw.get())
        .map_err(|_| Failure::new(Code::InvalidJson, "max_tokens: a number is wanted"))?;
    // `as` cuts what does not fit.
    Ok(number.map(|number| if number < 0.0 { u64::MAX } else { number as u64 }))
}

/// The estimated tokens of all texts in a value, names of fields too.
fn weigh(raw: &RawValue) -> u32 {
    let mut sum = 0;
    let mut reader = serde_json::Deserializer::from_str(raw.get());
    match Weigher(&mut sum).deserialize(&mut reader) {
        Ok(()) => u32::try_from(sum).unwrap_or(u32::MAX),
        // Nested too deeply to be looked into.
        Err(_) => tokens::estimate(raw.get()),
    }
}

/// Walks through any value and adds up its texts.
struct Weigher<'w>(&'w mut u64);

impl<'de> DeserializeSeed<'de> for Weigher<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Weigher<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let is_media = text.starts_with("data:") || text.contains(PLACEHOLDER);
        *self.0 += u64::from(if is_media { MEDIA } else { tokens::estimate(text) });
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        *self.0 += 1;
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        *self.0 += 1;
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        *self.0 += 1;
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        *self.0 += 1;
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Weigher(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key_seed(Weigher(self.0))?.is_some() {
            map.next_value_seed(Weigher(self.0))?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
