//! `/admin`: the operator's page, as files that are fixed when the program is built.
//!
//! They are in the core because the module is the one thing that both hosts run: a page beside it
//! would have to be deployed twice and could be another version's. Everything that the page
//! shows and does goes through the operator's JSON routes, which ask for a key or a session; the
//! files have nothing in them that is worth one. No word of a configuration or a person may be
//! put into them here.

use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};

use super::Exchange;
use crate::{
    policy::{Policy, auth},
    seam::{Moment, Output, RequestHead},
    wire::failure::{Code, Failure},
};

/// The page, and what precedes the names of its other files.
pub(super) const PATH: &str = "/admin";

/// Nothing but these files and this origin's routes; no frame, no form that a browser sends by
/// itself, and no text that becomes HTML or a script (Trusted Types, where a browser has them).
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A file of the page.
struct File {
    path: &'static str,
    content_type: &'static str,
    text: &'static str,
}

/// All of them.
const FILES: &[File] = &[
    File {
        path: PATH,
        content_type: "text/html; charset=utf-8",
        text: include_str!("../../page/index.html"),
    },
    File {
        path: "/admin/style.css",
        content_type: "text/css; charset=utf-8",
        text: include_str!("../../page/style.css"),
    },
    File { path: "/admin/app.js", content_type: SCRIPT, text: include_str!("../../page/app.js") },
    File { path: "/admin/api.js", content_type: SCRIPT, text: include_str!("../../page/api.js") },
    File { path: "/admin/config.js", content_type: SCRIPT, text: include_str!("../../page/config.js") },
    File { path: "/admin/dom.js", content_type: SCRIPT, text: include_str!("../../page/dom.js") },
    File { path: "/admin/figures.js", content_type: SCRIPT, text: include_str!("../../page/figures.js") },
    File { path: "/admin/plot.js", content_type: SCRIPT, text: include_str!("../../page/plot.js") },
    File { path: "/admin/texts.js", content_type: SCRIPT, text: include_str!("../../page/texts.js") },
    File { path: "/admin/turn.js", content_type: SCRIPT, text: include_str!("../../page/turn.js") },
    File { path: "/admin/work.js", content_type: SCRIPT, text: include_str!("../../page/work.js") },
    File { path: "/admin/words.js", content_type: SCRIPT, text: include_str!("../../page/words.js") },
];

/// Whether a path is one of the page's.
pub(super) fn is_one(path: &str) -> bool {
    FILES.iter().any(|file| file.path == path)
}

/// What stands for these bytes (RFC 9110, 8.8.3): 64 bits of their hash.
fn entity_tag(text: &str) -> String {
    format!("\"{}\"", auth::hex(&Sha256::digest(text)[..8]))
}

/// Whether the client has it already: `If-None-Match`, with weak tags too.
fn has(head: &RequestHead, tag: &str) -> bool {
    let known = head.header("if-none-match").unwrap_or_default();
    known.split(',').any(|one| matches!(one.trim(), "*") || one.trim().trim_start_matches("W/") == tag)
}

impl Exchange {
    /// `GET` or `HEAD` of a file.
    pub(super) fn send_page(&mut self, policy: &Policy, head: &RequestHead, now: Moment) {
        let file = FILES.iter().find(|file| file.path == head.path);
        // Where nobody can log in there is no page either.
        let Some(file) = file.filter(|_| !policy.admin_keys.is_empty()) else {
            return self.fail(policy, &Failure::new(Code::NotFound, "no such route"), now);
        };
        let tag = entity_tag(file.text);
        let (status, body) = if has(head, &tag) { (304, "") } else { (200, file.text) };
        let mut headers = self.common_headers();
        headers.retain(|(name, _)| name != "cache-control");
        headers.extend(
            [
                // A browser asks each time whether there is another one.
                ("cache-control", "no-cache"),
                ("etag", &tag),
                ("content-security-policy", CONTENT_SECURITY_POLICY),
                ("referrer-policy", "no-referrer"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        if status == 200 {
            headers.push(("content-type".into(), file.content_type.into()));
            headers.push(("content-length".into(), body.len().to_string()));
        }
        self.story.status = status;
        self.outputs.push_back(Output::Head { status, headers });
        if !self.facts.head_only && !body.is_empty() {
            self.outputs.push_back(Output::Chunk(ByteBuf::from(body.as_bytes())));
        }
        self.outputs.push_back(Output::End);
        self.finish(policy, now);
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::seam::RequestHead;

    /// Status, headers and body of a request for the page.
    fn get(policy: &Policy, path: &str, headers: &[(&str, &str)]) -> (u16, Vec<(String, String)>, String) {
        let head = RequestHead {
            method: "GET".into(),
            path: path.into(),
            headers: headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            ..RequestHead::default()
        };
        let mut exchange = Exchange::new(policy, head, Moment { unix_ms: 1, entropy: [7; 16] });
        let (mut told, mut body) = ((0, Vec::new()), String::new());
        while let Some(output) = exchange.poll_output() {
            match output {
                Output::Head { status, headers } => told = (status, headers),
                Output::Chunk(bytes) => body.push_str(&String::from_utf8_lossy(&bytes)),
                _ => {}
            }
        }
        assert!(exchange.is_done());
        (told.0, told.1, body)
    }

    fn with_operators() -> Policy {
        Policy { admin_keys: vec![auth::KeyDigest::of(b"key")], ..Policy::default() }
    }

    fn header<'h>(headers: &'h [(String, String)], name: &str) -> &'h str {
        let mut values = headers.iter().filter(|(is, _)| is == name).map(|(_, value)| value.as_str());
        let value = values.next().unwrap_or_default();
        assert_eq!(values.next(), None, "{name} is there twice");
        value
    }

    #[test]
    fn every_file_is_served_and_known_again() {
        let policy = with_operators();
        for file in FILES {
            let (status, headers, body) = get(&policy, file.path, &[]);
            assert_eq!((status, body.as_str()), (200, file.text), "{}", file.path);
            assert_eq!(header(&headers, "content-type"), file.content_type);
            assert_eq!(header(&headers, "cache-control"), "no-cache");
            assert!(header(&headers, "content-security-policy").starts_with("default-src 'none';"));
            let tag = header(&headers, "etag");
            let (status, headers, body) = get(&policy, file.path, &[("if-none-match", tag)]);
            assert_eq!((status, body.as_str(), header(&headers, "etag")), (304, "", tag));
            assert_eq!(get(&policy, file.path, &[("if-none-match", "\"other\"")]).0, 200);
        }
    }

    #[test]
    fn there_is_none_where_nobody_can_log_in() {
        assert_eq!(get(&Policy::default(), PATH, &[]).0, 404);
        assert_eq!(get(&with_operators(), "/admin/nothing.js", &[]).0, 404);
    }

    #[test]
    fn nothing_in_it_runs_or_comes_from_elsewhere() {
        for file in FILES {
            for word in [
                "innerHTML",
                "outerHTML",
                "insertAdjacent",
                "document.write",
                "eval(",
                " style=\"",
                "<script>",
            ] {
                assert!(!file.text.contains(word), "{word} in {}", file.path);
            }
            // The only address is the name of SVG's elements.
            for (at, _) in file.text.match_indices("://") {
                assert!(file.text[..at].ends_with("http") && file.text[at..].starts_with("://www.w3.org/"));
            }
        }
        let bytes: usize = FILES.iter().map(|file| file.text.len()).sum();
        assert!(bytes < 64 * 1024, "{bytes} bytes: each is in the module");
    }
}
