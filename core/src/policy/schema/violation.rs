//! What is wrong with a value, in words for a model and in words for a log.
//!
//! A log gets nothing that the model wrote: not a value, and no name that the schema does not have.

use core::fmt::Write as _;

use serde_json::Value;

/// The longest text of a violation, in characters.
const LONGEST: usize = 200;

/// One thing that is wrong with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Where, as a JSON pointer; empty is the whole value. May have names that the model chose.
    pub pointer: String,
    /// What is wrong, in words for the model; at most 200 characters. Not for logs.
    pub problem: String,
    /// The keyword of the schema; `json`, `limits` or `schema` where it is none's.
    pub keyword: &'static str,
    /// The pointer with `*` for each name that the schema does not have.
    place: String,
    /// How many names and numbers the pointer has.
    depth: usize,
}

/// One step of a pointer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Segment<'a> {
    /// A property that the schema names.
    Known(&'a str),
    /// A property that the model named.
    Foreign(&'a str),
    /// An item.
    Index(usize),
}

impl Violation {
    pub(super) fn new(path: &[Segment<'_>], keyword: &'static str, problem: String) -> Self {
        let (mut pointer, mut place) = (String::new(), String::new());
        for segment in path {
            match segment {
                Segment::Known(name) | Segment::Foreign(name) => {
                    let name = name.replace('~', "~0").replace('/', "~1");
                    let _ = write!(pointer, "/{name}");
                    let _ =
                        write!(place, "/{}", if matches!(segment, Segment::Known(_)) { &name } else { "*" });
                }
                Segment::Index(at) => {
                    let _ = write!(pointer, "/{at}");
                    let _ = write!(place, "/{at}");
                }
            }
        }
        Self {
            pointer: clipped(pointer),
            problem: clipped(problem),
            keyword,
            place: clipped(place),
            depth: path.len(),
        }
    }

    /// For a prompt that asks for a repair.
    pub fn for_model(&self) -> String {
        match self.pointer.as_str() {
            "" => format!("the value {}", self.problem),
            pointer => format!("{pointer} {}", self.problem),
        }
    }

    /// For a log: the keyword and where, without anything that the model wrote.
    pub fn for_log(&self) -> String {
        format!("{} at {}", self.keyword, if self.place.is_empty() { "/" } else { &self.place })
    }

    /// Whether the value at that depth has another type than its schema says.
    pub(super) fn is_type_at(&self, depth: usize) -> bool {
        self.keyword == "type" && self.depth == depth
    }
}

/// A text as JSON, where it is not too long.
pub(super) fn quoted(text: &str) -> String {
    Value::from(clipped(text.to_owned())).to_string()
}

/// Values of a schema, with commas between.
pub(super) fn listed(values: &[Value]) -> String {
    let mut out = String::new();
    for value in values {
        if out.len() > 4 * LONGEST {
            break;
        }
        let _ = write!(out, "{}{value}", if out.is_empty() { "" } else { ", " });
    }
    out
}

fn clipped(mut text: String) -> String {
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        while text.chars().count() >= LONGEST {
            text.pop();
        }
        text.push('…');
    }
    text
}
