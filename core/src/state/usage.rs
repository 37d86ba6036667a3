//! What an upstream counts for a request, learned from what it counted: one cell for each
//! profile.
//!
//! OpenClaw's count of a request's tokens has a part that has nothing to do with the request (the
//! agent's own prompt and tools, about 2 000 tokens even without tools in 2026.9.6) and a part
//! that grows with it. So what is learned is a line, by least squares over the last turns, each
//! weighing a little less than the one after it. Nothing in here may know a text.
//!
//! The arithmetic is that of [`comparison`](super::comparison): the same bits on every host.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};

/// About as many turns count.
const MEMORY: f64 = 64.0;
/// A slope of 1 weighs as much as one turn that is so many tokens away from the others: requests
/// of one size say nothing about the slope.
const DOUBT: f64 = 1_000.0;
/// No tokenizer is so far away from the estimate.
const SLOPE: (f64, f64) = (0.3, 4.0);
/// After so many turns, one that counts more than twice what is expected is cut to that: OpenClaw
/// adds up the hidden second call of a turn.
const TRUSTED: f64 = 8.0;
/// Counts above it are taken for it, so that nothing overflows.
const MOST: u32 = 1 << 24;
/// A profile that nobody used for so long is learned anew.
const KEPT_MS: u64 = 30 * 86_400_000;

/// A turn whose request was counted. To be told only where the upstream did count: 0 is not
/// looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Learn {
    /// The estimate for all messages that were sent, the system prompt too, before any
    /// calibration.
    pub estimated: u32,
    /// The upstream's count of its input.
    pub counted: u32,
}

/// From an estimate to the upstream's count: a line. Its arithmetic is in
/// [`policy::tokens`](crate::policy::tokens).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Calibration {
    /// Tokens of a request without messages.
    pub base: u32,
    /// Tokens for a thousand estimated ones.
    pub permille: u32,
}

impl Default for Calibration {
    fn default() -> Self {
        Self { base: 0, permille: 1_000 }
    }
}

/// Sums over the last turns.
#[derive(Default, Serialize, Deserialize)]
struct Line {
    weight: f64,
    x: f64,
    y: f64,
    xx: f64,
    xy: f64,
}

/// Learns from a turn.
pub(super) fn learn(learn: &Learn, old: Option<&[u8]>) -> Reduced {
    let mut line = Line::read(old);
    line.learn(learn);
    Reduced::new(encode(&line), KEPT_MS, Outcome::Written)
}

/// Says what was learned.
pub(super) fn calibrate(old: Option<&[u8]>) -> Reduced {
    let line = Line::read(old);
    Reduced::new(encode(&line), KEPT_MS, Outcome::Calibrated(line.calibration()))
}

impl Line {
    /// Sums that cannot be are no sums.
    fn read(old: Option<&[u8]>) -> Self {
        let stored = old.and_then(|bytes| postcard::from_bytes::<Self>(bytes).ok());
        let most = 2.0 * MEMORY * f64::from(MOST) * f64::from(MOST);
        let sound = |sum: f64| (0.0..=most).contains(&sum);
        let sums = |line: &Self| [line.weight, line.x, line.y, line.xx, line.xy];
        stored.filter(|line| sums(line).into_iter().all(sound)).unwrap_or_default()
    }

    fn learn(&mut self, learn: &Learn) {
        if learn.counted == 0 {
            return;
        }
        let x = f64::from(learn.estimated.min(MOST));
        let mut y = f64::from(learn.counted.min(MOST));
        if self.weight >= TRUSTED {
            let (base, slope) = self.line();
            y = y.min(2.0 * (base + slope * x));
        }
        let keep = 1.0 - 1.0 / MEMORY;
        self.weight = self.weight * keep + 1.0;
        self.x = self.x * keep + x;
        self.y = self.y * keep + y;
        self.xx = self.xx * keep + x * x;
        self.xy = self.xy * keep + x * y;
    }

    /// Its value at 0 and its slope.
    fn line(&self) -> (f64, f64) {
        if self.weight < 1.0 {
            return (0.0, 1.0);
        }
        let (mean_x, mean_y) = (self.x / self.weight, self.y / self.weight);
        let spread = self.xx - self.x * mean_x;
        let together = self.xy - self.x * mean_y;
        let slope = (together + DOUBT * DOUBT) / (spread + DOUBT * DOUBT);
        // A request of the usual size counts as the usual request, whatever the slope.
        let slope = slope.clamp(SLOPE.0, SLOPE.1);
        let base = mean_y - slope * mean_x;
        if base >= 0.0 { (base, slope) } else { (0.0, (mean_y / mean_x).clamp(SLOPE.0, SLOPE.1)) }
    }

    fn calibration(&self) -> Calibration {
        let (base, slope) = self.line();
        // Both are within bounds, and `as` cuts what is not.
        Calibration { base: base as u32, permille: (slope * 1_000.0) as u32 }
    }
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use proptest::prelude::*;
    use serde_bytes::ByteBuf;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;
    use crate::state::{Op, reduce};

    #[derive(Default)]
    struct Cell(Option<ByteBuf>);

    impl Cell {
        fn apply(&mut self, op: &Op) -> Outcome {
            let reduced = reduce(op, self.0.as_deref().map(Vec::as_slice), 1_000);
            self.0 = Some(reduced.new);
            reduced.outcome
        }

        fn learn(&mut self, estimated: u32, counted: u32) {
            assert_eq!(self.apply(&Op::Learn(Learn { estimated, counted })), Outcome::Written);
        }

        fn calibration(&mut self) -> Calibration {
            match self.apply(&Op::Calibrate) {
                Outcome::Calibrated(calibration) => calibration,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn nothing_learned_changes_nothing() {
        let mut cell = Cell::default();
        assert_eq!(cell.calibration(), Calibration::default());
        cell.learn(100, 0);
        assert_eq!(cell.calibration(), Calibration::default(), "a provider that does not count");
    }

    #[test]
    fn the_agents_own_prompt_and_the_tokenizer_are_told_apart() {
        let mut cell = Cell::default();
        for n in 0..100 {
            let estimated = 100 + n * 37 % 6_000;
            cell.learn(estimated, 2_000 + estimated * 13 / 10);
        }
        let found = cell.calibration();
        assert!((1_250..=1_350).contains(&found.permille), "{found:?}");
        assert!(found.apply(3_000).abs_diff(5_900) < 100, "{found:?}");
        assert!(found.apply(100).abs_diff(2_130) < 200, "{found:?}");
    }

    #[test]
    fn requests_of_one_size_say_nothing_about_the_slope() {
        let mut cell = Cell::default();
        (0..20).for_each(|n| cell.learn(100 + n % 3, 2_300));
        let found = cell.calibration();
        assert!((950..=1_050).contains(&found.permille), "{found:?}");
        assert!(found.apply(101).abs_diff(2_300) < 10);
    }

    #[test]
    fn one_turn_of_two_calls_does_not_carry_it_away_and_a_new_model_is_learned() {
        let mut cell = Cell::default();
        (0..50).for_each(|n| cell.learn(500 + n, 2_500 + n));
        cell.learn(500, 60_000);
        assert!(cell.calibration().apply(500) < 2_600);
        (0..300).for_each(|n| cell.learn(500 + n, 12_500 + n));
        assert!(cell.calibration().apply(500).abs_diff(12_500) < 300);
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        /// Whatever was counted, what is learned can be used.
        #[test]
        fn any_history(turns in proptest::collection::vec((any::<u32>(), any::<u32>()), 0..100)) {
            let mut cell = Cell::default();
            for (estimated, counted) in turns {
                cell.learn(estimated, counted);
                let found = cell.calibration();
                prop_assert!((299..=4_000).contains(&found.permille), "{found:?}");
                prop_assert!(found.base <= 2 * MOST);
            }
        }

        /// Bytes of any kind are survived.
        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 40)) {
            let mut cell = Cell(Some(ByteBuf::from(bytes)));
            cell.learn(5, 6);
            let found = cell.calibration();
            prop_assert!((299..=4_000).contains(&found.permille));
        }
    }
}
