//! Where the buckets of shown histograms end. Each end is one of [`Histogram`]'s own, so nothing
//! is counted into the wrong bucket.

use crate::state::histogram::Histogram;

/// The longest time that has a bucket of its own: 131 s, more than twice a turn.
const LONGEST: u32 = 1 << 17;

/// Four buckets in each doubling: `histogram_quantile` is off by a few percent at most.
pub(super) fn fine() -> Vec<u32> {
    let small = [1, 2, 4, 8, 16];
    let octaves = (4..17).flat_map(|power| [5, 6, 7, 8].map(|quarter| (1_u32 << power) / 4 * quarter));
    small.into_iter().chain(octaves).collect()
}

/// One bucket in each doubling.
pub(super) fn coarse() -> Vec<u32> {
    (0..18).map(|power| 1 << power).take_while(|bound| *bound <= LONGEST).collect()
}

/// One bucket in each fourfold, as the conventions want it for tokens.
pub(super) fn fours(first: u32, last: u32) -> Vec<u32> {
    (first..=last).step_by(2).map(|power| 1 << power).collect()
}

/// How many values are less than each end. Times are cut to whole units, so one that is less
/// than an end was really at most that long.
pub(super) fn below(histogram: &Histogram, ends: &[u32]) -> Vec<u64> {
    ends.iter().map(|end| histogram.at_most(end.saturating_sub(1))).collect()
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    #[test]
    fn ends_are_in_order_and_exact() {
        for ends in [fine(), coarse(), fours(0, 20)] {
            assert!(ends.is_sorted_by(|a, b| a < b), "{ends:?}");
            for end in &ends {
                let mut histogram = Histogram::default();
                histogram.record(end - 1);
                histogram.record(*end);
                assert_eq!(below(&histogram, &[*end]), [1], "{end}");
            }
        }
        assert_eq!((fine().len(), fine().last()), (57, Some(&LONGEST)));
        assert_eq!((coarse().len(), coarse().last()), (18, Some(&LONGEST)));
    }
}
