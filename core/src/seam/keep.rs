//! A part of a request's body on its way into the store.
//!
//! A host calls this with bytes that the core has only measured. It is a move of bytes and no
//! rule: whose they are and how long they stay is in the [`Output`](super::Output).

use base64::{
    Engine as _,
    engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig},
};
use serde_bytes::ByteBuf;

use crate::state::Op;

/// The most bytes under one key: somewhat less than workerd takes as one value of a Durable Object
/// (128 KiB; 2 MB where Cloudflare runs it on SQLite).
pub(crate) const PIECE: usize = 120 * 1024;

/// What the core let through, with the spare bits that it let through too.
const DECODER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true),
);

/// The key of a piece.
pub(crate) fn piece_key(key: &str, piece: u64) -> String {
    format!("{key}:{piece}")
}

/// Decodes base64 as it stands in a JSON string, `\/` for `/` included, and writes it in pieces.
/// The order in which they are applied does not matter. `None` when it is none.
pub fn keep(key: &str, base64: &[u8], ttl_ms: u64) -> Option<Vec<(String, Op)>> {
    let bytes = if memchr::memchr(b'\\', base64).is_some() {
        DECODER.decode(base64.iter().copied().filter(|byte| *byte != b'\\').collect::<Vec<u8>>())
    } else {
        DECODER.decode(base64)
    };
    let bytes = bytes.ok()?;
    let pieces = bytes.chunks(PIECE).zip(0..);
    let write = |(piece, number)| (piece_key(key, number), Op::Write { value: ByteBuf::from(piece), ttl_ms });
    Some(pieces.map(write).collect())
}

/// Writes bytes in pieces, as they are.
pub fn pieces<'b>(key: &str, bytes: &'b [u8], ttl_ms: u64) -> impl Iterator<Item = (String, Op)> + use<'b> {
    let key = key.to_owned();
    let pieces = bytes.chunks(PIECE).zip(0..);
    pieces.map(move |(piece, number)| {
        (piece_key(&key, number), Op::Write { value: ByteBuf::from(piece), ttl_ms })
    })
}

/// Reads what [`pieces`] wrote, when it was so many bytes.
pub fn restore(key: &str, len: u64) -> impl Iterator<Item = (String, Op)> + use<> {
    let key = key.to_owned();
    (0..len.div_ceil(PIECE as u64)).map(move |number| (piece_key(&key, number), Op::Read))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn kept(text: &str) -> Option<Vec<(String, Vec<u8>)>> {
        let ops = keep("k", text.as_bytes(), 5)?.into_iter();
        Some(
            ops.map(|(key, op)| match op {
                Op::Write { value, ttl_ms: 5 } => (key, value.into_vec()),
                other => panic!("{other:?}"),
            })
            .collect(),
        )
    }

    #[test]
    fn base64_is_cut_into_pieces() {
        assert_eq!(kept("AAEC"), Some(vec![("k:0".into(), vec![0, 1, 2])]));
        assert_eq!(kept(r"\/\/8="), Some(vec![("k:0".into(), vec![0xff, 0xff])]));
        let bytes: Vec<u8> = (0..2 * PIECE + 1).map(|at| (at % 251) as u8).collect();
        let pieces = kept(&STANDARD.encode(&bytes)).expect("base64");
        let sizes: Vec<usize> = pieces.iter().map(|(_, bytes)| bytes.len()).collect();
        assert_eq!(sizes, [PIECE, PIECE, 1]);
        assert_eq!(pieces.iter().flat_map(|(_, bytes)| bytes).copied().collect::<Vec<u8>>(), bytes);
        assert_eq!((kept("A"), kept("")), (None, Some(vec![])));
    }
}
