//! E-mail addresses: the practical shape of RFC 5321, not quoted local parts or literals.
//!
//! The at sign may be full-width. A domain without a dot is none (`@张三`, `vue@next`), nor is
//! one that ends in a number (`root@10.0.0.1`, `lodash@4.17.21`) or `icon@2x.png`.

use super::{Ahead, Found};

const LABEL: &str = "email";

/// Octets of a local part and of an address (RFC 5321 §4.5.3.1).
const LONGEST_LOCAL: usize = 64;
const LONGEST: usize = 254;

/// Characters of one label of a domain.
const LONGEST_DOMAIN_LABEL: usize = 63;

/// An address that begins here, at a letter or digit.
pub(super) fn at(ahead: Ahead<'_>) -> Found<'static> {
    let bytes = ahead.text.as_bytes();
    let window = &bytes[..bytes.len().min(LONGEST_LOCAL + 1)];
    let local = window.iter().take_while(|byte| is_local(**byte)).count();
    if local > LONGEST_LOCAL {
        return Found::Barren(local);
    }
    let sign = match &bytes[local..] {
        [b'@', ..] => 1,
        [0xEF, 0xBC, 0xA0, ..] => '＠'.len_utf8(),
        [] if !ahead.complete => return Found::Undecided,
        _ => return Found::Barren(local),
    };
    let domain = &bytes[local + sign..];
    // The full-width sign counts as the one that it stands for.
    let most = LONGEST - local - 1;
    match domain_len(&domain[..domain.len().min(most)]) {
        (_, len) if len == domain.len() && len < most && !ahead.complete => Found::Undecided,
        (Some(valid), _) => Found::secret(local + sign + valid, LABEL),
        (None, _) => Found::Barren(local),
    }
}

fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'%' | b'+' | b'-')
}

/// The length of the longest domain at the start, if there is one, and how much was looked at.
fn domain_len(bytes: &[u8]) -> (Option<usize>, usize) {
    let (mut valid, mut label, mut dots) = (None, 0, 0);
    for (at, &byte) in bytes.iter().enumerate() {
        match byte {
            b'.' if at > label && bytes[at - 1] != b'-' => {
                label = at + 1;
                dots += 1;
            }
            b'-' if at > label => {}
            _ if byte.is_ascii_alphanumeric() => {
                if dots > 0 && at > label && bytes[label].is_ascii_alphabetic() && !is_density(bytes, label) {
                    valid = Some(at + 1);
                }
            }
            _ => return (valid, at),
        }
        if at + 1 - label > LONGEST_DOMAIN_LABEL {
            return (valid, at);
        }
    }
    (valid, bytes.len())
}

/// Whether the first label is that of a picture for dense screens: `icon@2x.png`.
fn is_density(bytes: &[u8], second: usize) -> bool {
    second == 3 && bytes[0].is_ascii_digit() && bytes[1] == b'x'
}
