//! The pictures and files that an answer's Markdown links to.
//!
//! OpenClaw gives them as links in the text; a Mini Program wants a list that it can
//! draw and download. Only `http` and `https` links count.

use pulldown_cmark::{Event, Parser, Tag, TagEnd};
use serde::{Deserialize, Serialize};

/// No more than these are listed.
const MOST: usize = 32;

/// A link longer than this, or a link text, is not looked for in a stream.
const LONGEST: usize = 4096;

const IMAGE_ENDINGS: &[&str] = &["png", "jpg", "jpeg", "gif", "webp", "heic", "heif", "svg", "bmp"];
const FILE_ENDINGS: &[&str] = &[
    "pdf", "doc", "docx", "xls", "xlsx", "ppt", "pptx", "txt", "md", "csv", "json", "xml", "zip", "mp3",
    "mp4", "wav", "m4a", "mov", "apk", "epub", "rtf", "7z", "rar", "gz",
];

/// One entry of the answer's `attachments`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Link {
    /// `image` or `file`.
    #[serde(rename = "type")]
    pub kind: LinkKind,
    /// The address.
    pub url: String,
    /// The link's text, or the last part of the address.
    pub name: String,
}

/// What a link leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LinkKind {
    /// A picture.
    Image,
    /// A file.
    File,
}

/// The links in a whole text, each once, in order.
pub(crate) fn find(text: &str) -> Vec<Link> {
    let mut links = Vec::new();
    collect(text, &mut links);
    links
}

fn collect(text: &str, links: &mut Vec<Link>) {
    if !(text.contains("](") || text.contains("]:") || text.contains("<http")) {
        return;
    }
    let mut open: Option<(bool, String, String)> = None;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::Image { dest_url, .. }) => {
                open = Some((true, dest_url.into_string(), String::new()));
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                open = Some((false, dest_url.into_string(), String::new()));
            }
            Event::Text(part) | Event::Code(part) => {
                if let Some((_, _, name)) = &mut open {
                    name.push_str(&part);
                }
            }
            Event::End(TagEnd::Image | TagEnd::Link) => {
                if let Some((image, url, name)) = open.take() {
                    add(links, image, url, &name);
                }
            }
            _ => {}
        }
        if links.len() >= MOST {
            return;
        }
    }
}

fn add(links: &mut Vec<Link>, image: bool, url: String, name: &str) {
    if !(url.starts_with("https://") || url.starts_with("http://"))
        || links.iter().any(|link| link.url == url)
    {
        return;
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let last = path.splitn(4, '/').nth(3).and_then(|path| path.rsplit('/').next()).unwrap_or_default();
    let ending = last.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase()).unwrap_or_default();
    let kind = if image || IMAGE_ENDINGS.contains(&ending.as_str()) {
        LinkKind::Image
    } else if FILE_ENDINGS.contains(&ending.as_str()) {
        LinkKind::File
    } else {
        return;
    };
    let name = if name.is_empty() || name == url { last } else { name };
    let name: String = name.chars().take(200).collect();
    links.push(Link { kind, url, name });
}

/// Finds links in a text that comes in pieces, keeping no more than one link's length.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Collector {
    tail: String,
    links: Vec<Link>,
}

impl Collector {
    /// Takes the next piece of the text.
    pub(crate) fn push(&mut self, piece: &str) {
        if self.tail.is_empty() {
            // A link begins with `[`, `![` or `<http`.
            let Some(start) = piece.find(['!', '[', '<']) else { return };
            self.tail.push_str(&piece[start..]);
        } else {
            self.tail.push_str(piece);
        }
        // Up to the last closing bracket or line end, everything is decided.
        let Some(end) = self.tail.rfind([')', '>', '\n']).map(|at| at + 1) else {
            if self.tail.len() > LONGEST {
                self.tail.clear();
            }
            return;
        };
        if self.links.len() < MOST {
            collect(&self.tail[..end], &mut self.links);
        }
        let rest = self.tail.split_off(end);
        self.tail.clear();
        if let Some(start) = rest.find(['!', '[', '<']) {
            self.tail.push_str(&rest[start..]);
        }
    }

    /// What was found.
    pub(crate) fn links(&self) -> &[Link] {
        &self.links
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    const TEXT: &str = "看 ![图](https://x.cn/a/b.png?x=1) 和 [报告 *1*](https://x.cn/r.pdf)，\
        [网页](https://x.cn/page) <https://x.cn/c.jpg> [本地](file:///etc/passwd.txt) ![又](https://x.cn/a/b.png?x=1)";

    #[test]
    fn pictures_and_files_only() {
        let links = find(TEXT);
        let seen: Vec<_> = links.iter().map(|l| (l.kind, l.url.as_str(), l.name.as_str())).collect();
        assert_eq!(
            seen,
            [
                (LinkKind::Image, "https://x.cn/a/b.png?x=1", "图"),
                (LinkKind::File, "https://x.cn/r.pdf", "报告 1"),
                (LinkKind::Image, "https://x.cn/c.jpg", "c.jpg"),
            ]
        );
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        for size in 1..40 {
            let chars: Vec<char> = TEXT.chars().collect();
            let mut collector = Collector::default();
            for piece in chars.chunks(size) {
                collector.push(&piece.iter().collect::<String>());
                assert!(collector.tail.len() <= LONGEST + 200);
            }
            assert_eq!(collector.links(), find(TEXT), "pieces of {size}");
        }
    }

    #[test]
    fn a_text_without_links_keeps_nothing() {
        let mut collector = Collector::default();
        for _ in 0..10_000 {
            collector.push("[没有链接 ");
        }
        assert!(collector.tail.len() <= LONGEST + 20 && collector.links().is_empty());
    }
}
