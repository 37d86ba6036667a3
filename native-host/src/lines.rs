//! Cuts a body at line feeds, so that the core gets whole lines. Each byte is looked at
//! once, however many pieces a long line comes in.

use bytes::{Bytes, BytesMut};

/// The line that is not complete yet.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    carry: BytesMut,
}

/// A line is longer than allowed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLong;

impl Lines {
    /// Takes a piece of the body and gives the lines that it completes, if any.
    pub(crate) fn push(&mut self, piece: Bytes, limit: u64) -> Result<Option<Bytes>, TooLong> {
        let Some(end) = memchr::memrchr(b'\n', &piece).map(|at| at + 1) else {
            self.carry.extend_from_slice(&piece);
            return if self.carry.len() as u64 > limit { Err(TooLong) } else { Ok(None) };
        };
        if self.carry.is_empty() {
            self.carry.extend_from_slice(&piece[end..]);
            return Ok(Some(piece.slice(..end)));
        }
        let mut lines = std::mem::take(&mut self.carry);
        lines.extend_from_slice(&piece[..end]);
        self.carry.extend_from_slice(&piece[end..]);
        Ok(Some(lines.freeze()))
    }

    /// What is left when the body has ended.
    pub(crate) fn rest(&mut self) -> Option<Bytes> {
        Some(std::mem::take(&mut self.carry).freeze()).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_lines_whatever_the_pieces() {
        let text = "data: 一二三\n\nevent: x\ndata: end\n\nrest";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.as_bytes().chunks(size) {
                if let Some(whole) = lines.push(Bytes::copy_from_slice(piece), 100).expect("short") {
                    assert_eq!(whole.last(), Some(&b'\n'));
                    assert!(std::str::from_utf8(&whole).is_ok());
                    seen.extend_from_slice(&whole);
                }
            }
            assert_eq!(lines.rest().as_deref(), Some(b"rest".as_slice()));
            seen.extend_from_slice(b"rest");
            assert_eq!(seen, text.as_bytes());
        }
    }

    #[test]
    fn a_line_without_an_end_is_refused() {
        let mut lines = Lines::default();
        assert_eq!(lines.push(Bytes::from_static(b"12345"), 5), Ok(None));
        assert_eq!(lines.push(Bytes::from_static(b"6"), 5), Err(TooLong));
    }
}
