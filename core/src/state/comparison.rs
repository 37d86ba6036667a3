//! Whether the new version of something is worse than the running one: a test that may be looked
//! at after every turn.
//!
//! An ordinary test that is looked at again and again finds something in the end. This one bets:
//! it begins with a wealth of 1 and stakes a part of it on "the candidate is worse than is
//! allowed", at odds that are fair at best while that is not so. So the wealth is a nonnegative
//! supermartingale, and the probability that it *ever* reaches `n` is at most `1/n` (Ville). See
//! Waudby-Smith and Ramdas, *Estimating means of bounded random variables by betting*, JRSS B 86
//! (2024), arXiv:2010.09686. Nothing is assumed of the distribution, and the two versions are
//! compared over the same time, so that an upstream which fails for both is nobody's fault.
//!
//! * **A block** is what came in until both versions had a turn: one bet on the difference of
//!   its two means. So it does not matter how the traffic is shared or how busy a person is.
//! * **Six stakes** are tried at once and their mean counts, since the best one depends on how
//!   bad the candidate is.
//! * **Rounds**: a candidate that was good for long has lost the test's wealth, and becoming bad
//!   would be noticed late. So the test begins again after [`ROUND`] blocks; round `n` needs
//!   `n (n + 1)` times as much, and the sum over all rounds stays below [`FALSE_ALARMS`].
//!
//! The arithmetic is `+ - * /` and comparison on `f64`: IEEE 754 and WebAssembly define each of
//! their bits, and Rust does not fuse them. Nothing else may be used in here, no logarithm either:
//! a host must not see another wealth than the others.

use serde::{Deserialize, Serialize};

/// What is compared: failed, empty, not as the schema says, slow, dear.
pub(super) const CHECKS: usize = 5;
/// Those that a rollout has: of its turns, and one of what people said of them.
const ALL_CHECKS: f64 = CHECKS as f64 + 1.0;
/// The probability that a candidate which is as good as is asked for is ever found to be worse,
/// by any of the checks, is below one in this many.
const FALSE_ALARMS: f64 = 100.0;
/// What a turn that is as bad as can be counts.
pub(super) const WORST: u32 = 1_024;
/// Blocks until the test begins again.
const ROUND: u32 = 4_096;
/// From this wealth on a candidate is in doubt: a good one seldom gets there, and a bad one is on
/// its way to be found.
const IN_DOUBT: f64 = 4.0;
/// Parts of the wealth that are staked.
const STAKES: [f64; 6] = [0.9375, 0.5, 0.25, 0.125, 0.0625, 0.031_25];

/// How bad the candidate may be: `factor` times as bad as the running version, plus `margin`
/// (1 is all turns as bad as can be).
#[derive(Clone, Copy, Debug)]
pub(super) struct Allowed {
    pub(super) factor: f64,
    pub(super) margin: f64,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Block {
    turns: u32,
    bad: [u32; CHECKS],
}

impl Block {
    fn add(&mut self, bad: [u32; CHECKS]) {
        self.turns = self.turns.saturating_add(1);
        for (sum, bad) in self.bad.iter_mut().zip(bad) {
            *sum = sum.saturating_add(bad.min(WORST));
        }
    }

    fn mean(&self, check: usize) -> f64 {
        f64::from(self.bad[check]) / (f64::from(self.turns) * f64::from(WORST))
    }
}

/// What a turn made of the comparison.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// A block goes on.
    Open,
    /// A block is complete, and nothing is found.
    Fine,
    /// The candidate is worse in this.
    Worse(usize),
}

/// The wealth of each check and stake, and the block that is not complete yet.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Comparison {
    running: Block,
    candidate: Block,
    wealth: [[f64; STAKES.len()]; CHECKS],
    blocks: u32,
    round: u32,
}

impl Default for Comparison {
    fn default() -> Self {
        Self {
            running: Block::default(),
            candidate: Block::default(),
            wealth: [[1.0; STAKES.len()]; CHECKS],
            blocks: 0,
            round: 1,
        }
    }
}

impl Comparison {
    /// Whether there is reason to wait for more turns.
    pub(super) fn is_in_doubt(&self) -> bool {
        let doubted = IN_DOUBT * STAKES.len() as f64;
        self.wealth.iter().any(|wealth| wealth.iter().sum::<f64>() >= doubted)
    }

    /// Begins the next round.
    fn next_round(&mut self) {
        *self = Self { round: self.round.saturating_add(1), ..Self::default() };
    }

    /// Counts a turn: how bad it was in each respect, up to [`WORST`]. What makes a turn bad may
    /// change only between blocks. A check whose allowance is `None` is not looked at.
    pub(super) fn observe(
        &mut self,
        candidate: bool,
        bad: [u32; CHECKS],
        allowed: &[Option<Allowed>; CHECKS],
    ) -> Progress {
        let block = if candidate { &mut self.candidate } else { &mut self.running };
        block.add(bad);
        if self.candidate.turns == 0 || self.running.turns == 0 {
            return Progress::Open;
        }
        let (running, candidate) = (std::mem::take(&mut self.running), std::mem::take(&mut self.candidate));
        let round = f64::from(self.round);
        let enough = FALSE_ALARMS * ALL_CHECKS * round * (round + 1.0);
        for (check, allowed) in allowed.iter().enumerate() {
            let Some(allowed) = allowed else { continue };
            // At worst -1, so that no stake loses everything.
            let limit = allowed.factor * running.mean(check) + allowed.margin;
            let gain = (candidate.mean(check) - limit) / (allowed.factor + allowed.margin);
            let mut sum = 0.0;
            for (wealth, stake) in self.wealth[check].iter_mut().zip(STAKES) {
                *wealth *= 1.0 + stake * gain;
                sum += *wealth;
            }
            if sum >= enough * STAKES.len() as f64 {
                return Progress::Worse(check);
            }
        }
        self.blocks = self.blocks.saturating_add(1);
        if self.blocks >= ROUND {
            self.next_round();
        }
        Progress::Fine
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    /// SplitMix64 (Steele, Lea and Flood, 2014).
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        fn chance(&mut self, permille: u64) -> bool {
            self.next() % 1_000 < permille
        }
    }

    const MARGIN_1: Option<Allowed> = Some(Allowed { factor: 1.0, margin: 0.01 });
    const NO_MARGIN: Option<Allowed> = Some(Allowed { factor: 1.0, margin: 0.0 });

    /// Lets turns come in until the candidate is found worse: after how many of its turns.
    fn run(seed: u64, share: u64, rates: (u64, u64), turns: u32, allowed: Option<Allowed>) -> Option<u32> {
        let (mut random, mut comparison, mut of_candidate) = (Random(seed), Comparison::default(), 0);
        for _ in 0..turns {
            let candidate = random.chance(share);
            let failed = random.chance(if candidate { rates.1 } else { rates.0 });
            of_candidate += u32::from(candidate);
            let bad = [u32::from(failed) * WORST, 0, 0, 0, 0];
            let progress = comparison.observe(candidate, bad, &[allowed, None, None, None, None]);
            if progress == Progress::Worse(0) {
                return Some(of_candidate);
            }
        }
        None
    }

    #[test]
    fn a_candidate_that_fails_always_is_found_after_a_few_turns() {
        for seed in 0..20 {
            let turns = run(seed, 50, (10, 1_000), 1_000, MARGIN_1).expect("found");
            assert!(turns <= 20, "{turns}");
        }
    }

    /// Without a margin an equal candidate is the hardest case: the wealth is a martingale, and a
    /// fifth of one percent is all that this one check may be wrong. Looked at after every turn.
    #[cfg(not(target_arch = "wasm32"))]
    #[test]
    fn peeking_finds_nothing_in_an_equal_candidate() {
        for share in [50, 500] {
            let alarms = (0..300).filter(|seed| run(*seed, share, (100, 100), 5_000, NO_MARGIN).is_some());
            let alarms = alarms.count();
            assert!(alarms <= 3, "{alarms} of 300 at {share}");
        }
    }

    /// Nobody knows how the traffic is shared: an hour in which all fail is not the candidate's.
    #[test]
    fn a_failure_of_both_is_nobodys() {
        let (mut random, mut comparison) = (Random(7), Comparison::default());
        for turn in 0..20_000 {
            let failed = random.chance(if turn / 1_000 % 3 == 2 { 900 } else { 10 });
            let bad = [u32::from(failed) * WORST, 0, 0, 0, 0];
            let progress = comparison.observe(random.chance(100), bad, &[MARGIN_1, None, None, None, None]);
            assert!(!matches!(progress, Progress::Worse(_)), "turn {turn}");
        }
    }

    #[test]
    fn one_that_becomes_bad_late_is_found_all_the_same() {
        let (mut random, mut comparison, mut bad_turns) = (Random(3), Comparison::default(), 0);
        for turn in 0..200_000 {
            let candidate = random.chance(100);
            let late = candidate && turn >= 190_000;
            bad_turns += u32::from(late);
            let failed = random.chance(if late { 300 } else { 10 });
            let bad = [u32::from(failed) * WORST, 0, 0, 0, 0];
            let progress = comparison.observe(candidate, bad, &[MARGIN_1, None, None, None, None]);
            if progress != Progress::Open && progress != Progress::Fine {
                assert!(turn >= 190_000 && bad_turns < 400, "{bad_turns} at {turn}");
                return;
            }
        }
        panic!("not found");
    }

    /// The bits are the same natively and as wasm: this test runs as both. The number is what
    /// another implementation of the arithmetic found, in Python.
    #[test]
    fn the_wealth_is_the_same_everywhere() {
        let (mut random, mut comparison) = (Random(1), Comparison::default());
        for _ in 0..2_000 {
            let candidate = random.chance(300);
            let bad = core::array::from_fn(|_| (random.next() % 1_025) as u32);
            let allowed = [MARGIN_1, NO_MARGIN, None, MARGIN_1, Some(Allowed { factor: 1.5, margin: 0.0 })];
            comparison.observe(candidate, bad, &allowed);
        }
        let bits = comparison.wealth.iter().flatten();
        let hash = bits.fold(0_u64, |hash, wealth| hash.rotate_left(7) ^ wealth.to_bits());
        assert_eq!(hash, 4_752_000_951_360_405_729);
    }
}
