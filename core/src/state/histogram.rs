//! How values are spread: counts in buckets whose width grows with the value.
//!
//! Made to be added up: over turns, versions, hosts and days. A quantile is wrong by at most
//! 1/32 of itself whatever the values are, and the size is bounded by the number of buckets.
//! Only buckets that have something are kept. Nothing in here may lose a count.

use serde::{Deserialize, Serialize};

/// Buckets in each power of two; values below it have a bucket of their own.
const PARTS: u32 = 16;

/// Counts of values: milliseconds, tokens or bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Bucket and count, in order of buckets; at most 464.
    buckets: Vec<(u16, u32)>,
    sum: u64,
}

impl Histogram {
    /// Counts a value.
    pub fn record(&mut self, value: u32) {
        self.add(bucket(value), 1);
        self.sum = self.sum.saturating_add(u64::from(value));
    }

    /// Counts what another one has counted.
    pub fn merge(&mut self, other: &Self) {
        for (bucket, count) in &other.buckets {
            self.add(*bucket, *count);
        }
        self.sum = self.sum.saturating_add(other.sum);
    }

    fn add(&mut self, bucket: u16, count: u32) {
        match self.buckets.binary_search_by_key(&bucket, |(bucket, _)| *bucket) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(count),
            Err(at) => self.buckets.insert(at, (bucket, count)),
        }
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|(_, count)| u64::from(*count)).sum()
    }

    /// The sum of the values, exactly.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The value that so many thousandths of the values do not exceed: the middle of its bucket.
    /// `None` when nothing was counted.
    pub fn quantile(&self, permille: u16) -> Option<u32> {
        let rank = (self.count() * u64::from(permille)).div_ceil(1_000).max(1);
        let mut seen = 0;
        let reached = self.buckets.iter().find(|(_, count)| {
            seen += u64::from(*count);
            seen >= rank
        });
        reached.map(|(bucket, _)| middle(*bucket))
    }

    /// How many values are in the bucket of this one or below it.
    pub fn at_most(&self, value: u32) -> u64 {
        let last = bucket(value);
        self.buckets.iter().filter(|(bucket, _)| *bucket <= last).map(|(_, count)| u64::from(*count)).sum()
    }
}

fn bucket(value: u32) -> u16 {
    if value < PARTS {
        return value as u16;
    }
    // 4 is the logarithm of `PARTS`: a power of two is cut by the four bits below its first.
    let shift = value.ilog2() - 4;
    (PARTS * shift + (value >> shift)) as u16
}

fn middle(bucket: u16) -> u32 {
    let bucket = u32::from(bucket);
    if bucket < PARTS {
        return bucket;
    }
    let shift = (bucket / PARTS - 1).min(27);
    let low = (PARTS + bucket % PARTS) << shift;
    low + ((1 << shift) >> 1)
}

#[cfg(test)]
mod tests {
    #[cfg(not(target_arch = "wasm32"))]
    use proptest::prelude::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn of(values: &[u32]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|value| histogram.record(*value));
        histogram
    }

    #[test]
    fn buckets_follow_each_other() {
        let mut last = 0;
        for value in 0..100_000 {
            let bucket = bucket(value);
            assert!(bucket == last || bucket == last + 1, "{value}");
            last = bucket;
        }
        assert_eq!(bucket(u32::MAX), 463);
        assert!(middle(463) > u32::MAX - u32::MAX / 32);
    }

    #[test]
    fn nothing_counted_has_no_quantile() {
        let histogram = Histogram::default();
        assert_eq!((histogram.count(), histogram.quantile(950)), (0, None));
    }

    #[test]
    fn quantiles_of_a_hundred_values() {
        let values: Vec<u32> = (1..=100).map(|n| n * 10).collect();
        let histogram = of(&values);
        assert_eq!(histogram.sum(), 50_500);
        for (permille, exact) in [(0, 10), (500, 500), (950, 950), (1_000, 1_000)] {
            let found = histogram.quantile(permille).unwrap();
            assert!(found.abs_diff(exact) * 32 <= exact, "{permille}: {found}");
        }
        assert_eq!(histogram.at_most(15), 1);
        assert_eq!(histogram.at_most(u32::MAX), 100);
    }

    #[test]
    fn turns_of_a_day_take_little_room() {
        let mut state = 1_u64;
        let values: Vec<u32> = (0..10_000)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                500 + (state >> 51) as u32
            })
            .collect();
        let bytes = postcard::to_allocvec(&of(&values)).unwrap();
        assert!(bytes.len() < 300, "{}", bytes.len());
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        #[test]
        fn a_quantile_is_near_the_exact_one(
            mut values in proptest::collection::vec(prop_oneof![0u32..50, 0u32..100_000, any::<u32>()], 1..200),
            permille in 0u16..=1_000,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = (values.len() * usize::from(permille)).div_ceil(1_000).max(1);
            let (exact, found) = (values[rank - 1], histogram.quantile(permille).unwrap());
            prop_assert!(u64::from(found.abs_diff(exact)) * 32 <= u64::from(exact), "{found} for {exact}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }

        #[test]
        fn merging_is_counting_together(
            a in proptest::collection::vec(any::<u32>(), 0..50), b in proptest::collection::vec(any::<u32>(), 0..50),
        ) {
            let (mut left, mut right) = (of(&a), of(&b));
            let together = of(&[a, b].concat());
            let first = left.clone();
            left.merge(&right);
            right.merge(&first);
            prop_assert_eq!(&left, &together);
            prop_assert_eq!(&right, &together);
        }
    }
}
