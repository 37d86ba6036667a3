//! How many tokens a text will be, before anybody has counted them, and how much of a history
//! fits.
//!
//! An estimate from bytes alone, since each model counts differently and a tokenizer's table is
//! larger than this program. What the upstream says afterwards corrects it
//! ([`Calibration`]). Nothing in here may take longer than one look at each byte.

use crate::state::usage::Calibration;

/// Tokens of a character by the number of its bytes in UTF-8, in tenths. DeepSeek's figures for
/// an English and a Chinese character (*Token & Token Usage*, api-docs.deepseek.com); two bytes
/// are Cyrillic or accented letters, four are emoji and rare characters, of several tokens each.
const TENTHS: [u32; 4] = [3, 5, 6, 20];

/// What a message costs beside its text: its role and what separates it from the next. OpenAI's
/// count is 3 for a message and 3 for the beginning of the answer.
const MESSAGE: u32 = 4;

/// The tokens of a text.
pub fn estimate(text: &str) -> u32 {
    let tenths: u64 = text.bytes().map(|byte| u64::from(tenths(byte))).sum();
    u32::try_from(tenths.div_ceil(10)).unwrap_or(u32::MAX)
}

/// The tokens of a message with that text.
pub fn of_message(text: &str) -> u32 {
    estimate(text).saturating_add(MESSAGE)
}

/// A character counts at its first byte.
fn tenths(byte: u8) -> u32 {
    match byte {
        0x80..0xc0 => 0,
        0xc0..0xe0 => TENTHS[1],
        0xe0..0xf0 => TENTHS[2],
        0xf0.. => TENTHS[3],
        _ => TENTHS[0],
    }
}

impl Calibration {
    /// What the upstream will count for a request whose messages were estimated so.
    pub fn apply(&self, estimated: u32) -> u32 {
        let scaled = (u64::from(estimated) * u64::from(self.permille)).div_ceil(1_000);
        u32::try_from(scaled + u64::from(self.base)).unwrap_or(u32::MAX)
    }

    /// The largest estimate that the upstream counts as at most so many tokens.
    pub fn fits(&self, tokens: u32) -> u32 {
        let left = u64::from(tokens.saturating_sub(self.base));
        u32::try_from(left * 1_000 / u64::from(self.permille.max(1))).unwrap_or(u32::MAX)
    }
}

/// A message of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weighed {
    /// Its estimated tokens.
    pub tokens: u32,
    /// Whether the person wrote it.
    pub from_user: bool,
}

/// Where the history begins that fits into `budget` estimated tokens: the longest end of it that
/// is made of whole turns, so that no answer stands there without its question. The newest
/// message always stays, also when it is too large alone. What the server says itself (the system
/// prompt) is not in the history and not in the budget: the caller has taken it off.
pub fn window(history: &[Weighed], budget: u32) -> usize {
    let mut start = history.len().saturating_sub(1);
    let mut sum = 0_u64;
    for (at, message) in history.iter().enumerate().rev() {
        sum += u64::from(message.tokens);
        if sum > u64::from(budget) {
            break;
        }
        if at == 0 || (message.from_user && !history[at - 1].from_user) {
            start = at;
        }
    }
    start
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn texts_of_both_languages_are_estimated_by_their_characters() {
        for (text, tokens) in [
            ("", 0),
            ("The quick brown fox jumps over the lazy dog.", 14),
            ("请把这篇文章总结成三句话,不要超过一百字。", 13),
            ("你好, world", 4),
            ("привет", 3),
            ("😀😀", 4),
        ] {
            assert_eq!(estimate(text), tokens, "{text}");
        }
        assert_eq!(of_message(""), MESSAGE);
    }

    fn history(tokens: &[u32]) -> Vec<Weighed> {
        // Person and agent in turn, the newest from the person.
        let last = tokens.len().wrapping_sub(1);
        let from_user = |at: usize| (last - at).is_multiple_of(2);
        tokens
            .iter()
            .enumerate()
            .map(|(at, tokens)| Weighed { tokens: *tokens, from_user: from_user(at) })
            .collect()
    }

    #[test]
    fn the_window_is_whole_turns_and_the_newest_message_stays() {
        let five = history(&[10, 10, 10, 10, 10]);
        for (budget, start) in [(50, 0), (49, 2), (30, 2), (29, 4), (10, 4), (0, 4)] {
            assert_eq!(window(&five, budget), start, "{budget}");
        }
        // It begins with an answer: whoever cut it before knows why.
        assert_eq!(window(&history(&[5, 5, 5, 5]), 20), 0);
        assert_eq!(window(&history(&[5, 5, 5, 5]), 19), 1);
        assert_eq!(window(&[], 10), 0);
        let two_in_a_row = [
            Weighed { tokens: 5, from_user: false },
            Weighed { tokens: 5, from_user: true },
            Weighed { tokens: 5, from_user: true },
        ];
        assert_eq!(window(&two_in_a_row, 10), 1);
        assert_eq!(window(&two_in_a_row, 9), 2, "the newest stays, alone");
    }

    #[test]
    fn a_calibration_is_undone_by_its_inverse() {
        let calibration = Calibration { base: 2_000, permille: 1_300 };
        assert_eq!(calibration.apply(100), 2_130);
        assert_eq!(calibration.fits(2_130), 100);
        assert_eq!(calibration.fits(1_999), 0);
        assert_eq!(Calibration::default().apply(7), 7);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        #[test]
        fn an_estimate_adds_up(a in ".{0,40}", b in ".{0,40}") {
            let (sum, whole) = (estimate(&a) + estimate(&b), estimate(&format!("{a}{b}")));
            prop_assert!(whole <= sum && sum <= whole + 1);
        }

        #[test]
        fn a_window_fits_and_is_the_longest(
            messages in proptest::collection::vec((0u32..100, any::<bool>()), 1..40), budget in 0u32..1_500,
        ) {
            let history: Vec<Weighed> =
                messages.iter().map(|(tokens, from_user)| Weighed { tokens: *tokens, from_user: *from_user }).collect();
            let start = window(&history, budget);
            let sum = |from: usize| history[from..].iter().map(|message| message.tokens).sum::<u32>();
            prop_assert!(start < history.len());
            prop_assert!(sum(start) <= budget || start == history.len() - 1);
            let begins = |at: usize| at == 0 || (history[at].from_user && !history[at - 1].from_user);
            prop_assert!(begins(start) || start == history.len() - 1);
            prop_assert!((0..start).all(|at| !begins(at) || sum(at) > budget));
        }

        #[test]
        fn what_fits_is_counted_as_no_more(base in 0u32..5_000, permille in 1u32..5_000, tokens in 0u32..200_000) {
            let calibration = Calibration { base, permille };
            let fits = calibration.fits(tokens);
            prop_assert!(tokens < base || calibration.apply(fits) <= tokens);
            prop_assert!(tokens < base || calibration.apply(fits + 1) > tokens);
        }
    }
}
