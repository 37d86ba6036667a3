//! Base64 without decoding it: how long a run is, and whether a whole text is valid.
//!
//! A picture of 10 MB is looked at once, in blocks that a compiler turns into vector
//! instructions; nothing is copied. Decoding is for the few bytes that name a file type,
//! and for text files, whose characters are counted.

/// The block that is tested at once.
const BLOCK: usize = 64;

/// Whether a byte is of the standard alphabet (RFC 4648 §4), without branches.
#[inline]
fn in_alphabet(byte: u8) -> bool {
    (byte | 0x20).wrapping_sub(b'a') < 26 || byte.wrapping_sub(b'0') < 10 || byte == b'+' || byte == b'/'
}

/// How many bytes at the start of `bytes` are of the alphabet.
#[inline(never)]
pub fn run_len(bytes: &[u8]) -> usize {
    let mut at = 0;
    for block in bytes.chunks_exact(BLOCK) {
        let mut all = true;
        for &byte in block {
            all &= in_alphabet(byte);
        }
        if !all {
            break;
        }
        at += BLOCK;
    }
    at + bytes[at..].iter().take_while(|byte| in_alphabet(**byte)).count()
}

/// What a text is, when it is base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// The number of bytes it stands for.
    pub decoded_len: u64,
}

/// Why a text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotBase64 {
    /// A character outside the alphabet, at that offset.
    Character(usize),
    /// The length or the padding is wrong.
    Padding,
}

/// Checks a whole text: alphabet, `=` only at the end, length a multiple of four.
/// `\/` counts as `/`: many phones write JSON so, and it stays valid in the JSON sent on.
#[inline(never)]
pub fn check(text: &[u8]) -> Result<Encoded, NotBase64> {
    let (mut at, mut escapes) = (0, 0);
    loop {
        at += run_len(&text[at..]);
        match &text[at..] {
            [b'\\', b'/', ..] => {
                escapes += 1;
                at += 2;
            }
            [] | [b'='] | [b'=', b'='] => break,
            _ => return Err(NotBase64::Character(at)),
        }
    }
    let padding = text.len() - at;
    let symbols = text.len() - escapes;
    if !symbols.is_multiple_of(4) || (padding > 0 && symbols < 4) {
        return Err(NotBase64::Padding);
    }
    Ok(Encoded { decoded_len: (symbols / 4 * 3 - padding) as u64 })
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use ::base64::{Engine as _, engine::general_purpose::STANDARD};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn the_alphabet_is_exactly_the_standard_one() {
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        for byte in 0..=u8::MAX {
            assert_eq!(in_alphabet(byte), alphabet.contains(&byte), "{byte}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert_eq!(check(b"AAAA"), Ok(Encoded { decoded_len: 3 }));
        assert_eq!(check(b"AAA="), Ok(Encoded { decoded_len: 2 }));
        assert_eq!(check(b"AA=="), Ok(Encoded { decoded_len: 1 }));
        assert_eq!(check(br"\/\/8="), Ok(Encoded { decoded_len: 2 }));
        assert_eq!(check(b""), Ok(Encoded { decoded_len: 0 }));
        assert_eq!(check(b"AAA"), Err(NotBase64::Padding));
        assert_eq!(check(b"AAAAA==="), Err(NotBase64::Character(5)));
        assert_eq!(check(b"AA=A"), Err(NotBase64::Character(2)));
        assert_eq!(check(b"AAAA\\nAAAA"), Err(NotBase64::Character(4)));
        assert_eq!(check(b"=="), Err(NotBase64::Padding));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn agrees_with_a_decoder(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..500)) {
            let text = STANDARD.encode(&bytes);
            proptest::prop_assert_eq!(check(text.as_bytes()), Ok(Encoded { decoded_len: bytes.len() as u64 }));
            let escaped = text.replace('/', "\\/");
            proptest::prop_assert_eq!(check(escaped.as_bytes()), Ok(Encoded { decoded_len: bytes.len() as u64 }));
        }

        #[test]
        fn accepts_nothing_that_a_decoder_refuses(text in "[A-Za-z0-9+/=]{0,200}") {
            // Non-zero trailing bits are the decoder's own strictness; OpenClaw ignores them.
            let lenient = base64::engine::GeneralPurpose::new(
                &base64::alphabet::STANDARD,
                base64::engine::GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
            );
            proptest::prop_assert_eq!(check(text.as_bytes()).is_ok(), lenient.decode(&text).is_ok());
        }

        #[test]
        fn a_run_ends_at_the_first_stranger(head in "[A-Za-z0-9+/]{0,300}", stranger in "[^A-Za-z0-9+/]", tail in ".*") {
            let text = format!("{head}{stranger}{tail}");
            proptest::prop_assert_eq!(run_len(text.as_bytes()), head.len());
        }
    }
}
