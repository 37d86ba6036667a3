//! A picture that WeChat is to look at: where it lies in the request's body, and the address
//! under which WeChat downloads it.
//!
//! WeChat takes no bytes, only an address. Nobody can guess one: it has 128 random bits, and a
//! keyed hash over all of it, so that a wrong one costs no look into the store.

use core::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{
    policy::{Policy, auth},
    seam::{Moment, PIECE},
};

/// What every address begins with.
pub(crate) const PREFIX: &str = "/v1/wechat/media/";

/// The types of pictures, and the ending of an address for each.
const TYPES: [(&str, &str); 6] = [
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/gif", "gif"),
    ("image/webp", "webp"),
    ("image/heic", "heic"),
    ("image/heif", "heif"),
];

/// A picture in the request's body.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Picture {
    /// Where its base64 begins.
    pub start: u32,
    /// The length of its base64.
    pub len: u32,
    /// Its size, decoded.
    pub size: u64,
    /// What its address ends with.
    ending: String,
}

impl Picture {
    /// A picture by its place, size and type.
    pub(crate) fn new(range: &Range<usize>, size: u64, content_type: &str) -> Option<Self> {
        let (_, ending) = TYPES.iter().find(|(known, _)| *known == content_type)?;
        Some(Self {
            start: u32::try_from(range.start).ok()?,
            len: u32::try_from(range.len()).ok()?,
            size,
            ending: (*ending).into(),
        })
    }

    /// An address for it that was never used before. `number` tells the pictures of one request apart.
    pub(crate) fn lend(&self, policy: &Policy, now: Moment, number: usize) -> Lent {
        let name = format!("{}-{number}-{}", auth::hex(&now.entropy), self.size);
        Lent { name, size: self.size, ending: self.ending.clone(), tag: String::new() }.tagged(policy)
    }
}

/// A picture that lies in the store for WeChat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lent {
    name: String,
    /// Its size.
    pub size: u64,
    ending: String,
    tag: String,
}

impl Lent {
    fn tagged(mut self, policy: &Policy) -> Self {
        self.tag = auth::picture_tag(policy, &format!("{}.{}", self.name, self.ending));
        self
    }

    /// The path of its address.
    pub(crate) fn path(&self) -> String {
        format!("{PREFIX}{}-{}.{}", self.name, self.tag, self.ending)
    }

    /// The picture of a path that this gateway made.
    pub(crate) fn of(policy: &Policy, path: &str) -> Option<Self> {
        let (stem, ending) = path.strip_prefix(PREFIX)?.split_once('.')?;
        let (name, tag) = stem.rsplit_once('-')?;
        let size = name.rsplit_once('-')?.1.parse().ok()?;
        let lent = Self { name: name.into(), size, ending: ending.into(), tag: String::new() }.tagged(policy);
        auth::is_same(&lent.tag, tag).then_some(lent)
    }

    /// Its type.
    pub(crate) fn content_type(&self) -> &'static str {
        let known = TYPES.iter().find(|(_, ending)| *ending == self.ending);
        known.map_or("application/octet-stream", |(content_type, _)| content_type)
    }

    /// Its key in the store, before the number of the piece.
    pub(crate) fn key(&self) -> String {
        format!("picture:{}", self.name)
    }

    /// The number of its pieces.
    pub(crate) fn pieces(&self) -> u64 {
        self.size.div_ceil(PIECE as u64)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::policy::auth::KeyDigest;

    #[test]
    fn only_addresses_that_were_made_here_are_known() {
        let policy = Policy { session_secret: KeyDigest::of(b"s"), ..Policy::default() };
        let now = Moment { unix_ms: 1, entropy: [7; 16] };
        let picture = Picture::new(&(10..30), 3_000_000, "image/png").expect("a picture");
        let lent = picture.lend(&policy, now, 1);
        let path = lent.path();
        assert!(path.starts_with("/v1/wechat/media/0707") && path.ends_with(".png"), "{path}");
        assert_eq!(Lent::of(&policy, &path), Some(lent.clone()));
        assert_eq!((lent.content_type(), lent.pieces()), ("image/png", 3_000_000_u64.div_ceil(PIECE as u64)));
        assert_ne!(lent.key(), picture.lend(&policy, now, 2).key());
        let elsewhere = Policy { session_secret: KeyDigest::of(b"t"), ..Policy::default() };
        assert_eq!(Lent::of(&elsewhere, &path), None);
        for other in [
            path.replace(".png", ".jpg"),
            path.replace("3000000", "3000001"),
            path.replacen("0707", "0708", 1),
            path.replace(".png", ""),
            format!("{path}x"),
            format!("{PREFIX}.png"),
            PREFIX.into(),
        ] {
            assert_eq!(Lent::of(&policy, &other), None, "{other}");
        }
        assert_eq!(Picture::new(&(0..1), 1, "text/plain"), None);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest::proptest! {
        #[test]
        fn any_path_is_answered(path in "(/v1/wechat/media/)?[0-9a-f.-]{0,80}") {
            proptest::prop_assert_eq!(Lent::of(&Policy::default(), &path), None);
        }
    }
}
