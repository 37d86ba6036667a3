//! Cuts a stream at line feeds, for [`Delivery::Lines`](super::Delivery::Lines). Here
//! because both hosts need it; each byte is looked at once, however many pieces a long
//! line comes in.

/// The line that is not complete yet.
#[derive(Clone, Debug, Default)]
pub struct Lines {
    carry: Vec<u8>,
}

/// Whole lines: what was carried over, followed by the first `end` bytes of the piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeLines {
    /// The beginning of the first line, from earlier pieces; often empty.
    pub carried: Vec<u8>,
    /// How much of the piece belongs to whole lines.
    pub end: usize,
}

/// A line is longer than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineTooLong;

impl Lines {
    /// Takes a piece of the stream and says which lines it completes, if any.
    ///
    /// # Errors
    /// When an incomplete line is over the limit, in bytes.
    pub fn push(&mut self, piece: &[u8], limit: u64) -> Result<Option<WholeLines>, LineTooLong> {
        let Some(end) = memchr::memrchr(b'\n', piece).map(|at| at + 1) else {
            self.carry.extend_from_slice(piece);
            return if self.carry.len() as u64 > limit { Err(LineTooLong) } else { Ok(None) };
        };
        let carried = std::mem::replace(&mut self.carry, piece[end..].to_vec());
        Ok(Some(WholeLines { carried, end }))
    }

    /// What is left when the stream has ended.
    pub fn rest(&mut self) -> Option<Vec<u8>> {
        Some(std::mem::take(&mut self.carry)).filter(|rest| !rest.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn whole_lines_whatever_the_pieces() {
        let text = "data: 一二三\n\nevent: x\ndata: end\n\nrest";
        for size in 1..text.len() {
            let (mut lines, mut seen) = (Lines::default(), Vec::new());
            for piece in text.as_bytes().chunks(size) {
                if let Some(WholeLines { carried, end }) = lines.push(piece, 100).expect("short") {
                    seen.extend_from_slice(&carried);
                    seen.extend_from_slice(&piece[..end]);
                    assert_eq!(seen.last(), Some(&b'\n'));
                    assert!(core::str::from_utf8(&seen).is_ok());
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
        assert_eq!(lines.push(b"12345", 5), Ok(None));
        assert_eq!(lines.push(b"6", 5), Err(LineTooLong));
    }
}
