//! The pictures and files of a request: what they are, where their base64 stands in the body,
//! and how OpenClaw is given them.
//!
//! Nothing here copies, decodes or re-encodes what was sent.

use core::ops::Range;
use std::{borrow::Cow, fmt::Write as _};

use minigate_scan::{Elided, PLACEHOLDER, base64};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    attachment::{self, Claim, Kind, Label},
    failure::{Code, Failure},
    json,
    picture::Picture,
};
use crate::{policy::Limits, seam::Rope};

/// An attachment as clients write it.
#[derive(Deserialize)]
pub(crate) struct Attachment<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default, rename = "mimeType")]
    mime_type: Option<String>,
}

/// A picture or file on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Media {
    /// Whether it is a file and not a picture.
    pub(crate) is_file: bool,
    /// Its media type.
    pub(crate) mime: String,
    /// A file's name.
    pub(crate) name: Option<String>,
    /// The base64, inside the quotes.
    pub(crate) data: Range<usize>,
}

impl Media {
    /// Its base64, in the request's body.
    pub(crate) fn bytes<'b>(&self, body: &'b [u8]) -> &'b [u8] {
        body.get(self.data.clone()).unwrap_or_default()
    }

    /// Appends it as a content part of Responses.
    pub(crate) fn push_part(&self, rope: &mut Rope) {
        let part = if self.is_file { "input_file" } else { "input_image" };
        let mut head = String::new();
        // Writing to a String cannot fail.
        let _ = write!(head, r#"{{"type":"{part}","source":{{"type":"base64","media_type":"{}""#, self.mime);
        if let (true, Some(name)) = (self.is_file, &self.name) {
            let _ = write!(head, ",\"filename\":{}", json::string(name));
        }
        head.push_str(",\"data\":\"");
        rope.push_str(&head);
        rope.push_range(self.data.clone());
        rope.push_str("\"}}");
    }

    /// Appends a picture as a content part of Chat Completions.
    pub(crate) fn push_image_url(&self, rope: &mut Rope) {
        rope.push_str(&format!(r#"{{"type":"image_url","image_url":{{"url":"data:{};base64,"#, self.mime));
        rope.push_range(self.data.clone());
        rope.push_str("\"}}");
    }
}

/// Reads attachments into media.
pub(crate) struct MediaReader<'p, 'e, 'b> {
    limits: &'p Limits,
    elided: &'e Elided<'b>,
    /// What was found so far.
    pub(crate) found: Vec<Media>,
}

impl<'p, 'e, 'b> MediaReader<'p, 'e, 'b> {
    /// Nothing was found yet.
    pub(crate) fn new(limits: &'p Limits, elided: &'e Elided<'b>) -> Self {
        Self { limits, elided, found: Vec::new() }
    }

    /// The pictures that WeChat can look at.
    pub(crate) fn pictures(&self) -> Vec<Picture> {
        let picture = |media: &Media| {
            let encoded = base64::check(self.elided.bytes(media.data.clone())).ok()?;
            Picture::new(&media.data, encoded.decoded_len, &media.mime)
        };
        self.found.iter().filter(|media| !media.is_file).filter_map(picture).collect()
    }

    /// The attachments beside the text.
    pub(crate) fn attachments(&mut self, attachments: &[Attachment<'_>]) -> Result<(), Failure> {
        let asked = self.found.len() + attachments.len();
        if asked > self.limits.attachments {
            let message = format!("attachments: {asked} of them, the limit is {}", self.limits.attachments);
            return Err(Failure::new(Code::TooManyAttachments, message));
        }
        attachments.iter().enumerate().try_for_each(|(index, attachment)| self.attachment(index, attachment))
    }

    fn attachment(&mut self, index: usize, attachment: &Attachment<'_>) -> Result<(), Failure> {
        let place = format!("attachments[{index}]");
        let claim = match attachment.kind.as_ref() {
            "image" => Claim::Image,
            "file" => Claim::File,
            _ => {
                let message = format!("{place}.type: use image or file");
                return Err(Failure::new(Code::AttachmentTypeUnsupported, message));
            }
        };
        let data = attachment.data.map(RawValue::get).filter(|raw| *raw != "null" && *raw != "\"\"");
        let Some(data) = data else { return Err(no_data(&place, attachment)) };
        if !data.starts_with('"') {
            return Err(Failure::new(
                Code::AttachmentBase64Invalid,
                format!("{place}.data: must be a string"),
            ));
        }
        let name = attachment.name.as_deref().map(file_name);
        let label =
            Label { place: &place, claim, mime: attachment.mime_type.as_deref(), name: name.as_deref() };
        self.read(label, data, name.clone())
    }

    /// Checks the base64 in a raw string, after a data URI's prefix if it has one.
    pub(crate) fn read(&mut self, label: Label<'_>, raw: &str, name: Option<String>) -> Result<(), Failure> {
        let mut range = self.elided.inside(raw);
        let mut label = label;
        let uri = raw.strip_prefix("\"data:");
        if let Some(uri) = uri {
            let Some((head, _)) = uri.split_once(";base64,").filter(|(head, _)| head.len() <= 200) else {
                let message = format!("{}: a data: URI must be `data:<type>;base64,<data>`", label.place);
                return Err(Failure::new(Code::AttachmentBase64Invalid, message));
            };
            range.start += "data:".len() + head.len() + ";base64,".len();
            label.mime = label.mime.or(Some(head).filter(|head| !head.contains('\\')));
        }
        if self.found.len() >= self.limits.attachments {
            let message = format!("{}: the limit is {} attachments", label.place, self.limits.attachments);
            return Err(Failure::new(Code::TooManyAttachments, message));
        }
        let kind = attachment::identify(label, self.elided.bytes(range.clone()), self.limits)?;
        let (is_file, mime) = match kind {
            Kind::Image(mime) => (false, mime),
            Kind::File(mime) => (true, mime),
        };
        self.found.push(Media { is_file, mime: mime.into(), name, data: range });
        Ok(())
    }
}

/// Why there is nothing to send: the commonest mistake is the path that `wx.chooseMedia` gives.
fn no_data(place: &str, attachment: &Attachment<'_>) -> Failure {
    const LOCAL: &[&str] =
        &["wxfile:", "file:", "http://tmp", "http://usr", "https://tmp", "https://usr", "blob:", "/"];
    match attachment.url.as_deref() {
        Some(url) if url.starts_with("http") && !LOCAL.iter().any(|local| url.starts_with(local)) => {
            Failure::new(
                Code::AttachmentUrlUnsupported,
                format!("{place}: links are not opened; read the file and send it as base64 in `data`"),
            )
        }
        Some(_) => Failure::new(
            Code::AttachmentLocalPath,
            format!(
                "{place}: `url` is a path on the phone, which a server cannot open; read it with \
                 wx.getFileSystemManager().readFile({{encoding: 'base64'}}) and send it in `data`"
            ),
        ),
        None => Failure::new(
            Code::AttachmentDataMissing,
            format!("{place}: `data` is missing: send the bytes as base64"),
        ),
    }
}

/// A name that may be shown to the model: no path, no control characters, not too long.
fn file_name(name: &str) -> String {
    let last = name.rsplit(['/', '\\']).next().unwrap_or_default();
    last.chars().filter(|c| !c.is_control() && *c != PLACEHOLDER).take(120).collect()
}
