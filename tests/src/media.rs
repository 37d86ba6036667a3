//! Small pictures and files that are what they say.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// Base64.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// A PNG of one red pixel, followed by `padding` bytes that readers pass over.
#[must_use]
pub fn png(padding: usize) -> Vec<u8> {
    const PIXEL: &str =
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==";
    let mut bytes = STANDARD.decode(PIXEL).unwrap_or_default();
    bytes.extend((0..padding).map(|at| (at % 251) as u8));
    bytes
}

/// A PDF of so many pages, each with the text.
#[must_use]
pub fn pdf(pages: usize, text: &str) -> Vec<u8> {
    let kids: String = (0..pages).map(|page| format!("{} 0 R ", 4 + 2 * page)).collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!("<< /Type /Pages /Kids [{kids}] /Count {pages} >>"),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for page in 0..pages {
        let lines: String = (0..8)
            .map(|line| {
                format!("({text} line {line} of a page with enough words to be read as text) Tj 0 -20 Td ")
            })
            .collect();
        let content = format!("BT /F1 12 Tf 50 750 Td {lines}ET");
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {} 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
            5 + 2 * page
        ));
        objects.push(format!("<< /Length {} >>\nstream\n{content}\nendstream", content.len()));
    }
    let mut out = "%PDF-1.4\n".to_owned();
    let mut offsets = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        offsets.push(out.len());
        out.push_str(&format!("{} 0 obj\n{object}\nendobj\n", index + 1));
    }
    let table = out.len();
    out.push_str(&format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1));
    for offset in offsets {
        out.push_str(&format!("{offset:010} 00000 n \n"));
    }
    out.push_str(&format!(
        "trailer << /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n",
        objects.len() + 1
    ));
    out.into_bytes()
}

/// A chat request with one attachment.
#[must_use]
pub fn with_attachment(
    text: &str,
    kind: &str,
    mime: Option<&str>,
    name: Option<&str>,
    bytes: &[u8],
) -> Value {
    let mut attachment = json!({"type": kind, "data": encode(bytes)});
    if let Some(mime) = mime {
        attachment["mimeType"] = mime.into();
    }
    if let Some(name) = name {
        attachment["name"] = name.into();
    }
    json!({"messages": [{"role": "user", "content": text}], "attachments": [attachment]})
}
