//! What is remembered of one caller: a user, an address or a key.
//!
//! One cell holds its token bucket, its abuse score and its revocation, so that a request asks
//! the store once for each caller. The rules (rates, thresholds) come with each operation; only
//! facts are stored. Nothing in here may say who the caller is.

use serde::{Deserialize, Serialize};

use super::{Outcome, Reduced, encode};

/// Units in a token: milliseconds in a minute, so that one millisecond at one token per minute
/// is exactly one unit and nothing is lost to rounding.
const TOKEN: u64 = 60_000;
/// A point of the score in units: it fades by one point in [`FADE_MS`].
const POINT: u64 = 1_000;
/// How long one point lasts.
const FADE_MS: u64 = 10_000;
/// The score grows no further, so that nobody is blocked for ever by one bad night.
const MOST_POINTS: u64 = 1_000;
/// How often the same request may come within [`REPEAT_MS`] before it counts.
const REPEATS: u8 = 5;
/// The time in which equal requests count as repeated.
const REPEAT_MS: u64 = 60_000;
/// A body of this size is a spike only when it is also [`SPIKE`] times the caller's usual one.
const SPIKE_BYTES: u32 = 256 * 1024;
/// See [`SPIKE_BYTES`].
const SPIKE: u32 = 16;

/// A token bucket's rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Tokens that come back per minute, at least 1.
    pub per_minute: u32,
    /// The bucket's size in tokens, at least 1.
    pub burst: u32,
}

/// From which score on a caller is treated differently, in points. 0 is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// Each request costs [`SLOWED_COST`] times as much.
    pub slow: u16,
    /// Answers only explain; nothing is done.
    pub restrict: u16,
    /// Nothing is answered for a time.
    pub block: u16,
    /// The shortest block. It doubles with each block that follows within a day.
    pub block_ms: u32,
}

/// What a slowed caller's request costs.
pub const SLOWED_COST: u32 = 4;
/// The longest block.
const LONGEST_BLOCK_MS: u64 = 24 * 3_600_000;

/// A request of a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enter {
    /// Its rate; `None` is no limit.
    pub rate: Option<Rate>,
    /// What the request costs, in tokens. 0 only asks.
    pub cost: u32,
    /// When it is treated differently.
    pub thresholds: Thresholds,
    /// A hash of the request, to see repetitions; 0 is not looked at.
    pub fingerprint: u32,
    /// The size of the request; 0 is not looked at.
    pub bytes: u32,
    /// When the person of a token logged in, in seconds since 1970; 0 is not looked at.
    pub login_s: u64,
    /// Points for a request that the rate refuses: only where the caller is one person.
    pub refusal_points: u16,
}

/// Something that only an abuser does often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Strike {
    /// How bad it is.
    pub points: u16,
    /// When the caller is treated differently.
    pub thresholds: Thresholds,
}

/// What is thought of a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    /// Nothing bad.
    #[default]
    Good,
    /// Its requests cost more.
    Slowed,
    /// It gets explanations only.
    Restricted,
    /// It gets nothing for a time.
    Blocked {
        /// How long still.
        for_ms: u64,
    },
}

/// What is stored under a key.
#[derive(Default, Serialize, Deserialize)]
struct Caller {
    /// Units in the bucket, and when; `None` is a full bucket.
    bucket: Option<(u64, u64)>,
    /// The score in [`POINT`]s, and when.
    score: (u64, u64),
    /// Blocked until then.
    blocked_until_ms: u64,
    /// How many blocks there were, and when the last one began.
    blocks: (u8, u64),
    /// Tokens issued before that second are void, until when that matters.
    revoked: (u64, u64),
    /// The last request's hash, how often it came, and since when.
    repeated: (u32, u8, u64),
    /// The usual size of a request.
    usual_bytes: u32,
}

impl Caller {
    fn read(old: Option<&[u8]>) -> Self {
        old.and_then(|bytes| postcard::from_bytes(bytes).ok()).unwrap_or_default()
    }

    /// Adds to the score, and blocks when it is too high.
    fn strike(&mut self, points: u64, thresholds: Thresholds, now: u64) {
        let score = self.score_at(now).saturating_add(points * POINT);
        self.score = (score.min(MOST_POINTS * POINT), now.max(self.score.1));
        let over = thresholds.block > 0 && self.score.0 >= u64::from(thresholds.block) * POINT;
        if over && self.blocked_until_ms <= now {
            let repeated = now.saturating_sub(self.blocks.1) < LONGEST_BLOCK_MS;
            let times = if repeated { self.blocks.0.saturating_add(1) } else { 1 };
            self.blocks = (times, now);
            let doubled = u64::from(thresholds.block_ms) << u32::from(times - 1).min(16);
            self.blocked_until_ms = now.saturating_add(doubled.min(LONGEST_BLOCK_MS));
        }
    }

    /// The score as it has faded by now.
    fn score_at(&self, now: u64) -> u64 {
        let (score, at) = self.score;
        score.saturating_sub(now.saturating_sub(at).saturating_mul(POINT) / FADE_MS)
    }

    fn standing(&self, thresholds: Thresholds, now: u64) -> Standing {
        if self.blocked_until_ms > now && thresholds.block > 0 {
            return Standing::Blocked { for_ms: self.blocked_until_ms - now };
        }
        let points = self.score_at(now).div_ceil(POINT);
        let reached = |threshold: u16| threshold > 0 && points >= u64::from(threshold);
        if reached(thresholds.restrict) {
            Standing::Restricted
        } else if reached(thresholds.slow) {
            Standing::Slowed
        } else {
            Standing::Good
        }
    }

    /// Repetitions and spikes count against a caller. Says whether it was one or the other.
    fn observe(&mut self, enter: &Enter, now: u64) -> (bool, bool) {
        let (mut repeated, mut spiked) = (false, false);
        if enter.fingerprint != 0 {
            let (last, times, since) = self.repeated;
            if last == enter.fingerprint && now.saturating_sub(since) < REPEAT_MS {
                self.repeated.1 = times.saturating_add(1);
                if self.repeated.1 > REPEATS {
                    repeated = true;
                    self.strike(2, enter.thresholds, now);
                }
            } else {
                self.repeated = (enter.fingerprint, 1, now);
            }
        }
        if enter.bytes > 0 {
            let usual = self.usual_bytes;
            if usual > 0 && enter.bytes >= SPIKE_BYTES && enter.bytes / SPIKE >= usual {
                spiked = true;
                self.strike(1, enter.thresholds, now);
            }
            // A moving average that one large request does not carry away.
            self.usual_bytes = if usual == 0 { enter.bytes } else { usual - usual / 8 + enter.bytes / 8 };
        }
        (repeated, spiked)
    }

    /// How long any of it matters, and the bytes.
    fn write(&self, rate: Option<Rate>, now: u64) -> (Vec<u8>, u64) {
        let refill = match (self.bucket, rate) {
            (Some((units, _)), Some(rate)) => full(rate).saturating_sub(units).div_ceil(per_ms(rate)),
            // Whoever comes without a rate does not know when the bucket is full.
            (Some(_), None) => 60 * 60_000,
            (None, _) => 0,
        };
        let score = self.score_at(now).div_ceil(POINT).saturating_mul(FADE_MS);
        let blocks = if self.blocks.0 > 0 {
            self.blocks.1.saturating_add(LONGEST_BLOCK_MS).saturating_sub(now)
        } else {
            0
        };
        let repeated = if self.repeated.1 > 0 {
            self.repeated.2.saturating_add(REPEAT_MS).saturating_sub(now)
        } else {
            0
        };
        let ends = [refill, score, blocks, repeated, self.revoked.1.saturating_sub(now)];
        let left = ends.into_iter().max().unwrap_or_default();
        // Whoever was only asked about leaves nothing behind, and the host has nothing to write.
        let bytes = if left == 0 && self.usual_bytes == 0 { Vec::new() } else { encode(self) };
        (bytes, left.max(1))
    }
}

fn per_ms(rate: Rate) -> u64 {
    u64::from(rate.per_minute.max(1))
}

fn full(rate: Rate) -> u64 {
    u64::from(rate.burst.max(1)) * TOKEN
}

/// Takes tokens if there are enough. A clock that ran backwards gives nothing and takes
/// nothing.
pub(super) fn enter(enter: &Enter, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut caller = Caller::read(old);
    let (repeated, spiked) = caller.observe(enter, now);
    let mut standing = caller.standing(enter.thresholds, now);
    let (mut granted, mut remaining, mut retry_after_ms, mut full_after_ms) = (true, u32::MAX, 0, 0);
    if let Some(rate) = enter.rate {
        let full = full(rate);
        let (mut units, at_ms) = match caller.bucket {
            Some((units, at_ms)) => {
                let gained = now.saturating_sub(at_ms).saturating_mul(per_ms(rate));
                (units.saturating_add(gained).min(full), at_ms.max(now))
            }
            None => (full, now),
        };
        let factor = if standing == Standing::Good { 1 } else { SLOWED_COST };
        // What costs more than a full bucket would never pass: it takes all of it.
        let price = (u64::from(enter.cost) * u64::from(factor) * TOKEN).min(full);
        granted = units >= price;
        if granted {
            units -= price;
        } else {
            retry_after_ms = (price - units).div_ceil(per_ms(rate));
            caller.strike(u64::from(enter.refusal_points), enter.thresholds, now);
            standing = caller.standing(enter.thresholds, now);
        }
        caller.bucket = Some((units, at_ms));
        remaining = u32::try_from(units / TOKEN).unwrap_or(u32::MAX);
        full_after_ms = (full - units).div_ceil(per_ms(rate));
    }
    let revoked = enter.login_s > 0 && caller.revoked.1 > now && enter.login_s < caller.revoked.0;
    let (new, ttl_ms) = caller.write(enter.rate, now);
    let outcome = Outcome::Entered {
        granted,
        remaining,
        retry_after_ms,
        full_after_ms,
        standing,
        revoked,
        repeated,
        spiked,
    };
    Reduced::new(new, ttl_ms, outcome)
}

/// Adds to the score.
pub(super) fn strike(strike: &Strike, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut caller = Caller::read(old);
    caller.strike(u64::from(strike.points), strike.thresholds, now);
    let outcome = Outcome::Struck(caller.standing(strike.thresholds, now));
    let (new, ttl_ms) = caller.write(None, now);
    Reduced::new(new, ttl_ms, outcome)
}

/// Voids what was issued before. A revocation is never taken back by an earlier one.
pub(super) fn revoke(before_s: u64, ttl_ms: u64, old: Option<&[u8]>, now: u64) -> Reduced {
    let mut caller = Caller::read(old);
    let until = now.saturating_add(ttl_ms);
    caller.revoked = (caller.revoked.0.max(before_s), caller.revoked.1.max(until));
    let (new, ttl_ms) = caller.write(None, now);
    Reduced::new(new, ttl_ms, Outcome::Written)
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

    const THRESHOLDS: Thresholds = Thresholds { slow: 10, restrict: 20, block: 40, block_ms: 60_000 };

    /// One caller's cell.
    #[derive(Default)]
    struct Cell(Option<ByteBuf>);

    impl Cell {
        fn apply(&mut self, op: &Op, now: u64) -> Outcome {
            let reduced = reduce(op, self.0.as_deref().map(Vec::as_slice), now);
            assert!(reduced.ttl_ms > 0);
            self.0 = Some(reduced.new);
            reduced.outcome
        }

        fn enter(&mut self, burst: u32, per_minute: u32, now: u64) -> (bool, u32, u64) {
            let enter = request(Some(Rate { per_minute, burst }));
            match self.apply(&Op::Enter(enter), now) {
                Outcome::Entered { granted, remaining, retry_after_ms, .. } => {
                    (granted, remaining, retry_after_ms)
                }
                other => panic!("{other:?}"),
            }
        }

        fn standing(&mut self, now: u64) -> Standing {
            match self.apply(&Op::Enter(Enter { cost: 0, ..request(None) }), now) {
                Outcome::Entered { standing, .. } => standing,
                other => panic!("{other:?}"),
            }
        }
    }

    fn request(rate: Option<Rate>) -> Enter {
        Enter {
            rate,
            cost: 1,
            thresholds: THRESHOLDS,
            fingerprint: 0,
            bytes: 0,
            login_s: 0,
            refusal_points: 1,
        }
    }

    #[test]
    fn a_burst_then_the_rate() {
        let mut cell = Cell::default();
        let passed = (0..5).filter(|_| cell.enter(3, 60, 1_000).0).count();
        assert_eq!(passed, 3);
        assert_eq!(cell.enter(3, 60, 1_999), (false, 0, 1));
        assert_eq!(cell.enter(3, 60, 2_000), (true, 0, 0));
    }

    #[test]
    fn unreadable_bytes_count_as_absent() {
        let mut cell = Cell(Some(ByteBuf::from([0xff; 3])));
        assert!(cell.enter(1, 1, 5).0);
    }

    #[test]
    fn a_dear_request_takes_more_and_never_waits_for_ever() {
        let rate = Some(Rate { per_minute: 60, burst: 10 });
        let mut cell = Cell::default();
        for (cost, expected) in [(7, true), (7, false), (3, true)] {
            let outcome = cell.apply(&Op::Enter(Enter { cost, ..request(rate) }), 1_000);
            assert!(matches!(outcome, Outcome::Entered { granted, .. } if granted == expected), "{cost}");
        }
        let outcome = cell.apply(&Op::Enter(Enter { cost: 1_000, ..request(rate) }), 1_000);
        assert!(matches!(outcome, Outcome::Entered { granted: false, retry_after_ms: 10_000, .. }));
    }

    #[test]
    fn standing_gets_worse_by_steps_and_better_with_time() {
        let mut cell = Cell::default();
        let mut seen = Vec::new();
        for _ in 0..4 {
            let Outcome::Struck(standing) =
                cell.apply(&Op::Strike(Strike { points: 10, thresholds: THRESHOLDS }), 1_000)
            else {
                panic!()
            };
            seen.push(standing);
        }
        use Standing::{Blocked, Good, Restricted, Slowed};
        assert_eq!(seen, [Slowed, Restricted, Restricted, Blocked { for_ms: 60_000 }]);
        assert_eq!(cell.standing(60_999), Blocked { for_ms: 1 });
        assert_eq!(cell.standing(61_000), Restricted, "the score fades, the block ends");
        assert_eq!(cell.standing(1_000 + 400_000), Good);
    }

    #[test]
    fn the_second_block_lasts_twice_as_long() {
        let mut cell = Cell::default();
        let bad = Op::Strike(Strike { points: 50, thresholds: THRESHOLDS });
        assert_eq!(cell.apply(&bad, 1_000), Outcome::Struck(Standing::Blocked { for_ms: 60_000 }));
        assert_eq!(cell.apply(&bad, 70_000), Outcome::Struck(Standing::Blocked { for_ms: 120_000 }));
    }

    #[test]
    fn repeating_oneself_is_noticed() {
        let mut cell = Cell::default();
        let same = Op::Enter(Enter { fingerprint: 7, ..request(None) });
        for _ in 0..9 {
            cell.apply(&same, 1_000);
        }
        assert_eq!(cell.standing(1_000), Standing::Good);
        for _ in 0..2 {
            cell.apply(&same, 1_000);
        }
        assert_eq!(cell.standing(1_000), Standing::Slowed);
    }

    #[test]
    fn a_sudden_large_body_is_noticed_and_a_usual_one_is_not() {
        let sized = |bytes| Op::Enter(Enter { bytes, ..request(None) });
        let mut cell = Cell::default();
        for _ in 0..20 {
            cell.apply(&sized(5_000_000), 1);
        }
        assert_eq!(cell.standing(1), Standing::Good, "whoever always sends pictures may");
        let thresholds = Thresholds { slow: 1, ..THRESHOLDS };
        let mut cell = Cell::default();
        for bytes in [200, 300, 5_000_000] {
            cell.apply(&Op::Enter(Enter { thresholds, bytes, ..request(None) }), 1);
        }
        let Outcome::Entered { standing, .. } =
            cell.apply(&Op::Enter(Enter { thresholds, ..request(None) }), 1)
        else {
            panic!()
        };
        assert_eq!(standing, Standing::Slowed);
    }

    #[test]
    fn a_revocation_is_seen_until_no_token_can_be_left() {
        let mut cell = Cell::default();
        cell.apply(&Op::Revoke { before_s: 100, ttl_ms: 1_000 }, 100_000);
        cell.apply(&Op::Revoke { before_s: 50, ttl_ms: 10 }, 100_001);
        let revoked = |cell: &mut Cell, login_s, now| match cell
            .apply(&Op::Enter(Enter { login_s, ..request(None) }), now)
        {
            Outcome::Entered { revoked, .. } => revoked,
            other => panic!("{other:?}"),
        };
        assert!(revoked(&mut cell, 99, 100_999) && !revoked(&mut cell, 100, 100_999));
        assert!(!revoked(&mut cell, 0, 100_999), "whoever has no token has none that is void");
        assert!(!revoked(&mut cell, 99, 101_000));
    }

    #[test]
    fn whoever_was_only_asked_about_leaves_nothing_behind() {
        let ask = Op::Enter(Enter { login_s: 1, ..Enter::default() });
        assert!(reduce(&ask, None, 5).new.is_empty());
        let revoked = reduce(&Op::Revoke { before_s: u64::MAX, ttl_ms: 10 }, None, 5).new;
        let asked = reduce(&ask, Some(&revoked), 14);
        assert!(matches!(asked.outcome, Outcome::Entered { revoked: true, .. }));
        assert_eq!((asked.new, asked.ttl_ms), (revoked, 1));
    }

    #[cfg(not(target_arch = "wasm32"))]
    proptest! {
        /// Over any history, no more passes than the burst plus what the rate gave.
        #[test]
        fn never_more_than_burst_plus_rate(
            burst in 1u32..50, per_minute in 1u32..6000,
            gaps in proptest::collection::vec(0u64..3000, 1..200),
        ) {
            let (mut now, mut passed, mut cell) = (1_000_000u64, 0u64, Cell::default());
            let start = now;
            for gap in gaps {
                now += gap;
                let (granted, remaining, retry_after_ms) = cell.enter(burst, per_minute, now);
                passed += u64::from(granted);
                prop_assert!(remaining < burst || !granted);
                prop_assert!(granted || retry_after_ms > 0);
            }
            let allowed = u64::from(burst) + (now - start) * u64::from(per_minute) / 60_000;
            prop_assert!(passed <= allowed, "{passed} > {allowed}");
        }

        /// No order of events makes a reducer fail, and a clock may jump.
        #[test]
        fn any_history(events in proptest::collection::vec((0u8..4, any::<u32>(), any::<u16>()), 1..100)) {
            let mut cell = Cell::default();
            for (kind, number, points) in events {
                let now = u64::from(number);
                let op = match kind {
                    0 => Op::Enter(Enter {
                        rate: Some(Rate { per_minute: number % 100, burst: u32::from(points) }),
                        fingerprint: number % 3, bytes: number, ..request(None) }),
                    1 => Op::Strike(Strike { points, thresholds: THRESHOLDS }),
                    2 => Op::Revoke { before_s: now, ttl_ms: now },
                    _ => Op::Enter(request(None)),
                };
                cell.apply(&op, now);
            }
        }
    }
}
