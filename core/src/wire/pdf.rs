//! How many pages a PDF has, as far as can be seen without reading it all.
//!
//! OpenClaw drops the pages after its limit in silence. A page tree that is not
//! compressed says its `/Count`; one in an object stream does not show, and then the
//! answer is `None`: such a file passes, and OpenClaw's limit applies unseen.

/// The page count, when the file says it in the open.
pub(crate) fn page_count(bytes: &[u8]) -> Option<u64> {
    let mut most = None;
    for at in memchr::memmem::find_iter(bytes, b"/Pages") {
        // `/Type /Pages` and `/Count N` stand in the same dictionary, in either order.
        let from = rfind(&bytes[..at], b"<<").unwrap_or(at);
        let dictionary = &bytes[from..bytes.len().min(at + 4096)];
        let Some(count) = memchr::memmem::find(dictionary, b"/Count") else { continue };
        let digits: Vec<u8> = dictionary[count + b"/Count".len()..]
            .iter()
            .skip_while(|byte| byte.is_ascii_whitespace())
            .take_while(|byte| byte.is_ascii_digit())
            .take(9)
            .copied()
            .collect();
        let number = core::str::from_utf8(&digits).ok().and_then(|text| text.parse::<u64>().ok());
        most = most.max(number);
    }
    most
}

/// The last place of `needle` within the last 4 KiB.
fn rfind(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    let from = bytes.len().saturating_sub(4096);
    memchr::memmem::rfind(&bytes[from..], needle).map(|at| from + at)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn counts_in_either_order_and_takes_the_root() {
        assert_eq!(page_count(b"1 0 obj<</Type/Pages/Kids[3 0 R]/Count 6>>endobj"), Some(6));
        assert_eq!(page_count(b"<< /Count 12 /Type /Pages >>"), Some(12));
        assert_eq!(page_count(b"<</Type/Pages/Count 3>> <</Type/Pages/Count 9>>"), Some(9));
        assert_eq!(page_count(b"%PDF-1.7 compressed"), None);
        assert_eq!(page_count(b"/Pages /Count x"), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn never_panics(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let mut text = bytes.clone();
            text.extend_from_slice(b"/Pages/Count ");
            text.extend_from_slice(&bytes);
            let _ = page_count(&text);
        }
    }
}
