//! What an attachment is: by its bytes, not by its label.
//!
//! OpenClaw answers every bad attachment with `invalid request` and cuts long ones in
//! silence. So each is checked here first, and each refusal names the attachment, what is
//! wrong and the limit.

use base64::{
    Engine as _, engine::general_purpose::GeneralPurpose, engine::general_purpose::GeneralPurposeConfig,
};

use minigate_scan::base64::{NotBase64, check};

use super::{
    failure::{Code, Failure},
    pdf,
};
use crate::policy::Limits;

/// What an attachment is sent on as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A picture of that type.
    Image(&'static str),
    /// A file of that type.
    File(&'static str),
}

/// What the client says that an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// `type: "image"`, or an `image_url` part.
    Image,
    /// `type: "file"`.
    File,
}

/// The claims that come with the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label<'a> {
    /// How errors name it, for example `attachments[0]`.
    pub place: &'a str,
    /// What it is to be.
    pub claim: Claim,
    /// The MIME type, if any.
    pub mime: Option<&'a str>,
    /// The file's name, if any.
    pub name: Option<&'a str>,
}

/// Pictures that OpenClaw takes, by their first bytes.
fn image_type(head: &[u8]) -> Option<&'static str> {
    match head {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        [_, _, _, _, b'f', b't', b'y', b'p', brand @ ..] => match brand.get(..4)? {
            b"heic" | b"heix" | b"hevc" | b"hevx" | b"heim" | b"heis" => Some("image/heic"),
            b"mif1" | b"msf1" => Some("image/heif"),
            _ => None,
        },
        _ => None,
    }
}

/// Kinds that people send and OpenClaw does not read, for a better message.
fn foreign_type(head: &[u8]) -> Option<&'static str> {
    match head {
        [b'P', b'K', 3 | 5 | 7, 4 | 6 | 8, ..] => Some("a ZIP archive or an Office document"),
        [0xd0, 0xcf, 0x11, 0xe0, ..] => Some("an old Office document"),
        [0x1f, 0x8b, ..] => Some("a gzip archive"),
        [b'R', b'a', b'r', b'!', ..] => Some("a RAR archive"),
        [b'7', b'z', 0xbc, 0xaf, ..] => Some("a 7z archive"),
        [b'I', b'D', b'3', ..] | [0xff, 0xfb | 0xf3 | 0xf2, ..] => Some("MP3 audio"),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => Some("video or audio"),
        [b'B', b'M', _, _, _, _, 0, 0, 0, 0, ..] => Some("a BMP picture"),
        [b'I', b'I', b'*', 0, ..] | [b'M', b'M', 0, b'*', ..] => Some("a TIFF picture"),
        _ => None,
    }
}

/// The text types that OpenClaw takes, by MIME type or by the name's ending. Any other
/// text is plain text.
fn text_type(mime: Option<&str>, name: Option<&str>) -> &'static str {
    let known = ["text/markdown", "text/html", "text/csv", "application/json", "text/plain"];
    if let Some(found) = known.iter().find(|known| Some(**known) == mime) {
        return found;
    }
    let ending = name.and_then(|name| name.rsplit_once('.')).map(|(_, ending)| ending.to_ascii_lowercase());
    match ending.as_deref() {
        Some("md" | "markdown") => "text/markdown",
        Some("html" | "htm") => "text/html",
        Some("csv") => "text/csv",
        Some("json") => "application/json",
        _ => "text/plain",
    }
}

/// Decodes what [`check`](minigate_scan::base64::check) let through.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// Checks one attachment and says what it is. `text` is its base64 as it stands in the
/// body, still in JSON's escapes.
pub(crate) fn identify(label: Label<'_>, text: &[u8], limits: &Limits) -> Result<Kind, Failure> {
    let place = label.place;
    let encoded = check(text).map_err(|problem| {
        let message = match problem {
            NotBase64::Character(at) => format!(
                "{place}: `data` is not base64: an unexpected character at {at}; send standard base64 without line breaks"
            ),
            NotBase64::Padding => format!("{place}: `data` is not base64: its length or padding is wrong"),
        };
        Failure::new(Code::AttachmentBase64Invalid, message)
    })?;
    let size = encoded.decoded_len;
    if size == 0 {
        return Err(Failure::new(Code::AttachmentEmpty, format!("{place}: `data` is empty")));
    }
    // A text without escapes is used where it stands; escaped slashes cost a copy.
    let unescaped;
    let text = if memchr::memchr(b'\\', text).is_some() {
        unescaped = text.iter().copied().filter(|byte| *byte != b'\\').collect::<Vec<u8>>();
        &unescaped
    } else {
        text
    };
    let head = DECODER.decode(&text[..text.len().min(64)]).unwrap_or_default();
    let mime = label.mime.map(|mime| mime.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let mime = mime.as_deref().filter(|mime| !mime.is_empty());

    if let Some(kind) = image_type(&head) {
        let labelled_file = label.claim == Claim::File
            && mime.is_some_and(|mime| !mime.starts_with("image/") && mime != "application/octet-stream");
        if labelled_file {
            return Err(mismatch(place, mime, kind));
        }
        within(place, "a picture", size, limits.image)?;
        return Ok(Kind::Image(kind));
    }
    if label.claim == Claim::Image || mime.is_some_and(|mime| mime.starts_with("image/")) {
        let what = foreign_type(&head).or(head.starts_with(b"%PDF-").then_some("application/pdf"));
        return Err(match what {
            Some(what) => mismatch(place, mime.or(Some("an image")), what),
            None => Failure::new(
                Code::AttachmentTypeUnsupported,
                format!("{place}: not a picture that can be read; use jpeg, png, gif, webp, heic or heif"),
            ),
        });
    }
    within(place, "a file", size, limits.file)?;
    let is_pdf = memchr::memmem::find(&head, b"%PDF-").is_some();
    if is_pdf != (mime == Some("application/pdf")) && mime.is_some_and(is_specific) {
        let what = if is_pdf { "application/pdf" } else { foreign_type(&head).unwrap_or("something else") };
        return Err(mismatch(place, mime, what));
    }
    let bytes = DECODER
        .decode(text)
        .map_err(|_| Failure::new(Code::AttachmentBase64Invalid, format!("{place}: `data` is not base64")))?;
    if is_pdf {
        return match pdf::page_count(&bytes) {
            Some(pages) if pages > limits.pdf_pages => Err(Failure::new(
                Code::AttachmentTooManyPages,
                format!(
                    "{place}: the PDF has {pages} pages, the limit is {}; send a part of it",
                    limits.pdf_pages
                ),
            )),
            _ => Ok(Kind::File("application/pdf")),
        };
    }
    identify_text(label, &bytes, &head, mime, limits)
}

/// The rest must be text.
fn identify_text(
    label: Label<'_>,
    bytes: &[u8],
    head: &[u8],
    mime: Option<&str>,
    limits: &Limits,
) -> Result<Kind, Failure> {
    let place = label.place;
    if let Some(what) = foreign_type(head) {
        return Err(Failure::new(
            Code::AttachmentTypeUnsupported,
            format!("{place}: {what} cannot be read; use PDF, plain text, Markdown, HTML, CSV or JSON"),
        ));
    }
    let chars = match core::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.chars().count() as u64,
        _ => {
            return Err(Failure::new(
                Code::AttachmentTextInvalid,
                format!("{place}: neither a PDF nor UTF-8 text; save it as UTF-8 or send a PDF"),
            ));
        }
    };
    if chars > limits.file_chars {
        return Err(Failure::new(
            Code::AttachmentTextTooLong,
            format!("{place}: {chars} characters, the limit is {}; send a part of it", limits.file_chars),
        ));
    }
    Ok(Kind::File(text_type(mime, label.name)))
}

/// Types that say precisely what the bytes must be.
fn is_specific(mime: &str) -> bool {
    mime == "application/pdf" || mime.starts_with("text/") || mime == "application/json"
}

fn mismatch(place: &str, mime: Option<&str>, what: &str) -> Failure {
    let label: String = mime.unwrap_or("unlabelled").chars().take(100).collect();
    Failure::new(
        Code::AttachmentTypeMismatch,
        format!("{place}: labelled `{label}`, but the bytes are {what}"),
    )
}

fn within(place: &str, what: &str, size: u64, limit: u64) -> Result<(), Failure> {
    if size <= limit {
        return Ok(());
    }
    Err(Failure::new(
        Code::AttachmentTooLarge,
        format!("{place}: {size} bytes, the limit of {what} is {limit}"),
    ))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::Policy;

    fn run(claim: Claim, mime: Option<&str>, name: Option<&str>, bytes: &[u8]) -> Result<Kind, Code> {
        let limits = Policy::default().limits;
        let label = Label { place: "attachments[0]", claim, mime, name };
        identify(label, STANDARD.encode(bytes).as_bytes(), &limits).map_err(|failure| {
            assert!(failure.message.starts_with("attachments[0]: "), "{}", failure.message);
            failure.code
        })
    }

    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n0000";
    const JPEG: &[u8] = b"\xff\xd8\xff\xe0 rest";

    #[test]
    fn the_bytes_decide() {
        assert_eq!(run(Claim::Image, Some("image/jpeg"), None, PNG), Ok(Kind::Image("image/png")));
        assert_eq!(run(Claim::Image, None, None, JPEG), Ok(Kind::Image("image/jpeg")));
        assert_eq!(run(Claim::File, Some("image/png"), None, PNG), Ok(Kind::Image("image/png")));
        assert_eq!(run(Claim::Image, None, None, b"....ftypheic"), Ok(Kind::Image("image/heic")));
        assert_eq!(run(Claim::File, None, Some("a.pdf"), b"%PDF-1.4 x"), Ok(Kind::File("application/pdf")));
        assert_eq!(run(Claim::File, None, Some("a.MD"), b"# t"), Ok(Kind::File("text/markdown")));
        assert_eq!(run(Claim::File, Some("application/x-yaml"), None, b"a: 1"), Ok(Kind::File("text/plain")));
        assert_eq!(
            run(Claim::File, Some("text/csv; charset=utf-8"), None, b"a,b"),
            Ok(Kind::File("text/csv"))
        );
    }

    #[test]
    fn a_lying_label_is_refused() {
        assert_eq!(
            run(Claim::Image, Some("image/png"), None, b"%PDF-1.4"),
            Err(Code::AttachmentTypeMismatch)
        );
        assert_eq!(run(Claim::File, Some("application/pdf"), None, PNG), Err(Code::AttachmentTypeMismatch));
        assert_eq!(
            run(Claim::File, Some("application/pdf"), None, b"text"),
            Err(Code::AttachmentTypeMismatch)
        );
        assert_eq!(
            run(Claim::File, Some("text/plain"), None, b"%PDF-1.4"),
            Err(Code::AttachmentTypeMismatch)
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        assert_eq!(run(Claim::Image, None, None, b"hello"), Err(Code::AttachmentTypeUnsupported));
        assert_eq!(
            run(Claim::File, None, Some("a.docx"), b"PK\x03\x04..."),
            Err(Code::AttachmentTypeUnsupported)
        );
        assert_eq!(run(Claim::File, None, None, b"\xff\xfe\x00\x00"), Err(Code::AttachmentTextInvalid));
        assert_eq!(run(Claim::File, None, None, b""), Err(Code::AttachmentEmpty));
        let long = "字".repeat(60_001);
        assert_eq!(run(Claim::File, None, None, long.as_bytes()), Err(Code::AttachmentTextTooLong));
        assert!(run(Claim::File, None, None, &long.as_bytes()[3..]).is_ok());
        let pages = b"%PDF-1.4 <</Type/Pages/Count 6>>";
        assert_eq!(run(Claim::File, None, None, pages), Err(Code::AttachmentTooManyPages));
        assert_eq!(
            run(Claim::File, None, None, &vec![b'a'; 5 * 1024 * 1024 + 1]),
            Err(Code::AttachmentTooLarge)
        );
    }
}
