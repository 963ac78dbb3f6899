//! How often a tenant may do something: token buckets, several at once, as a state machine without a clock of its own.
//!
//! Each bucket is kept as the one instant at which it will be full again (the "generic cell rate algorithm" of ITU-T
//! I.371): what is taken moves it on. A take that has to wait is entered at once, so that whoever comes later waits for
//! longer: first come, first served, and nobody is forgotten.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::config::{Counted, Rate, RateLimit};

/// What is about to be done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Use {
    pub statements: u32,
    pub transactions: u32,
}

impl Use {
    fn of(self, counted: Counted) -> u32 {
        match counted {
            Counted::Statements => self.statements,
            Counted::Transactions => self.transactions,
        }
    }
}

/// A limit that is used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub limit: RateLimit,
    /// Until it would not be.
    pub wait: Duration,
}

/// The buckets of one tenant.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Rates {
    buckets: Mutex<Buckets>,
    /// Instants count from here. At the end, for [`Self::fetch`].
    base: Instant,
}

/// Each limit has a bucket. What differs between the tenants of one tier is little, and lies with what else is counted of
/// a tenant.
#[derive(Debug, Default)]
struct Buckets {
    limits: Arc<[RateLimit]>,
    buckets: SmallVec<[Bucket; 2]>,
}

/// A bucket holds at most what it gains in this time: 146 years.
const LONGEST: Duration = Duration::from_nanos(u64::MAX / 4);

/// One bucket: when it is full, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bucket(u64);

impl Rates {
    /// Full ones.
    pub fn new(now: Instant) -> Self {
        Self { base: now, buckets: Mutex::default() }
    }

    /// Goes on with these limits. What was taken stays taken, also where a limit has changed but what it counts, and in
    /// what time, has not.
    pub fn limit(&self, limits: &Arc<[RateLimit]>, now: Instant) {
        let now = self.since(now);
        let mut before = self.buckets();
        let next = limits.iter().map(|limit| {
            let alike = || before.iter().filter(|(before, _)| before.counts_like(limit));
            let full_at = match alike().find(|(before, _)| before.rate == limit.rate) {
                Some((_, bucket)) => bucket.full_at(),
                None => {
                    let taken = alike().map(|(before, bucket)| bucket.taken(before.rate, now)).max();
                    now + limit.rate.time_of(taken.unwrap_or_default())
                }
            };
            Bucket::full_at_last(full_at)
        });
        *before = Buckets { buckets: next.collect(), limits: limits.clone() };
    }

    /// Takes from every bucket, and says how long to wait before it is done; at most as long as each limit's `delay`.
    ///
    /// Errors: the limit that is used up for longest. Nothing is taken then.
    pub fn take(&self, what: Use, now: Instant) -> Result<Duration, Exceeded> {
        self.take_within(|limit| limit.delay, what, now)
    }

    /// Takes where nothing has to be waited for.
    pub fn take_at_once(&self, what: Use, now: Instant) -> bool {
        self.take_within(|_| Duration::ZERO, what, now).is_ok()
    }

    fn take_within(
        &self,
        patience: impl Fn(&RateLimit) -> Duration,
        what: Use,
        now: Instant,
    ) -> Result<Duration, Exceeded> {
        let now = self.since(now);
        let mut buckets = self.buckets();
        let waits = buckets.iter().map(|(limit, bucket)| (limit, bucket.wait(limit.rate, what.of(limit.counts), now)));
        let exceeded = waits.clone().filter(|(limit, wait)| *wait > patience(limit)).max_by_key(|(_, wait)| *wait);
        if let Some((limit, wait)) = exceeded {
            return Err(Exceeded { limit: limit.clone(), wait });
        }
        let wait = waits.map(|(_, wait)| wait).max().unwrap_or_default();
        buckets.take(what, now);
        Ok(wait)
    }

    /// Takes what cannot be refused: whoever comes next waits for it.
    pub fn owe(&self, what: Use, now: Instant) {
        let now = self.since(now);
        self.buckets().take(what, now);
    }

    /// There are limits.
    #[cfg(test)]
    pub fn any(&self) -> bool {
        !self.buckets().limits.is_empty()
    }

    /// See [`super::Tenant::is_about_to_pay`].
    pub fn fetch(&self) {
        std::hint::black_box(self.base);
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.base)
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    fn iter(&self) -> impl Iterator<Item = (&RateLimit, &Bucket)> + Clone {
        self.limits.iter().zip(&self.buckets)
    }

    fn take(&mut self, what: Use, now: Duration) {
        for (limit, bucket) in self.limits.iter().zip(&mut self.buckets) {
            bucket.take(limit.rate, what.of(limit.counts), now);
        }
    }
}

impl Bucket {
    /// One that is full then.
    pub fn full_at_last(then: Duration) -> Self {
        Self(u64::try_from(then.as_nanos()).unwrap_or(u64::MAX))
    }

    pub fn full_at(&self) -> Duration {
        Duration::from_nanos(self.0)
    }

    /// Until there is enough in it. More than it ever holds may be taken from a full one.
    pub fn wait(&self, rate: Rate, count: u32, now: Duration) -> Duration {
        let count = count.min(rate.burst);
        if count == 0 {
            return Duration::ZERO;
        }
        let capacity = rate.time_of(rate.burst).min(LONGEST);
        (self.full_at().max(now) + rate.time_of(count).min(capacity)).saturating_sub(now + capacity)
    }

    pub fn take(&mut self, rate: Rate, count: u32, now: Duration) {
        if count > 0 {
            *self = Self::full_at_last(self.full_at().max(now) + rate.time_of(count));
        }
    }

    /// How much of it is missing; more than it holds where more is owed.
    fn taken(&self, rate: Rate, now: Duration) -> u32 {
        let one = rate.per.as_nanos() / u128::from(rate.count);
        let missing = self.full_at().saturating_sub(now).as_nanos();
        u32::try_from(missing.div_ceil(one.max(1))).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limit(count: u32, per: Duration, burst: u32, delay: Duration) -> RateLimit {
        RateLimit { rate: Rate { count, per, burst }, counts: Counted::Statements, delay }
    }

    fn statements(statements: u32) -> Use {
        Use { statements, transactions: 0 }
    }

    const SECOND: Duration = Duration::from_secs(1);
    const NO_DELAY: Duration = Duration::ZERO;

    #[test]
    fn a_burst_and_then_one_by_one() {
        let start = Instant::now();
        let rates = Rates::new(start);
        rates.limit(&Arc::from([limit(10, SECOND, 3, NO_DELAY)]), start);
        let at = |ms: u64| start + Duration::from_millis(ms);
        for _ in 0..3 {
            assert_eq!(rates.take(statements(1), at(0)), Ok(Duration::ZERO));
        }
        let exceeded = rates.take(statements(1), at(10)).unwrap_err();
        assert_eq!(exceeded.wait, Duration::from_millis(90));
        assert!(rates.take(statements(1), at(99)).is_err());
        assert_eq!(rates.take(statements(1), at(100)), Ok(Duration::ZERO));
        assert!(rates.take(statements(1), at(101)).is_err());
        // What it does not count is free.
        assert_eq!(rates.take(Use { statements: 0, transactions: 5 }, at(101)), Ok(Duration::ZERO));
        // More than it holds, when it is full; and that is paid for.
        assert_eq!(rates.take(statements(20), at(1000)), Ok(Duration::ZERO));
        assert!(rates.take(statements(1), at(2700)).is_err());
        assert_eq!(rates.take(statements(1), at(2800)), Ok(Duration::ZERO));
    }

    #[test]
    fn the_second_of_two_limits_takes_nothing_from_the_first() {
        let start = Instant::now();
        let rates = Rates::new(start);
        let hour = limit(2, SECOND * 3600, 2, NO_DELAY);
        rates.limit(&Arc::from([limit(10, SECOND, 10, NO_DELAY), hour.clone()]), start);
        assert!((0..2).all(|_| rates.take(statements(1), start).is_ok()));
        for _ in 0..100 {
            assert_eq!(rates.take(statements(1), start).unwrap_err().limit, hour);
        }
        rates.limit(&Arc::from([limit(10, SECOND, 10, NO_DELAY)]), start);
        assert!((0..8).all(|_| rates.take(statements(1), start).is_ok()));
        assert!(rates.take(statements(1), start).is_err());
    }

    #[test]
    fn a_reload_gives_nothing_back() {
        let start = Instant::now();
        let rates = Rates::new(start);
        rates.limit(&Arc::from([limit(100, SECOND * 3600, 100, NO_DELAY)]), start);
        rates.owe(statements(60), start);
        for (burst, left) in [(100, 40), (80, 20), (50, 0), (200, 140)] {
            rates.limit(&Arc::from([limit(100, SECOND * 3600, burst, NO_DELAY)]), start);
            let buckets = rates.buckets();
            let (limit, bucket) = buckets.iter().next().unwrap();
            assert_eq!(burst.saturating_sub(bucket.taken(limit.rate, Duration::ZERO)), left, "{burst}");
        }
        // Of several that count alike, each goes on by itself.
        let two = Arc::from([limit(2, SECOND, 10, NO_DELAY), limit(1, SECOND, 60, NO_DELAY)]);
        rates.limit(&two, start);
        rates.owe(statements(10), start);
        rates.limit(&Arc::from(&two[..]), start);
        assert_eq!(rates.take(statements(1), start).unwrap_err().wait, SECOND / 2);
        assert_eq!(rates.take(statements(10), start + SECOND * 5), Ok(Duration::ZERO));
        // Another time is another limit.
        rates.limit(&Arc::from([limit(100, SECOND * 60, 100, NO_DELAY)]), start);
        assert_eq!(rates.take(statements(100), start), Ok(Duration::ZERO));
    }

    #[test]
    fn the_largest_bucket_can_be_emptied() {
        let start = Instant::now();
        let rates = Rates::new(start);
        let day = SECOND * 86_400;
        rates.limit(&Arc::from([limit(1, day, u32::MAX, NO_DELAY)]), start);
        for days in [0, 1, 1000] {
            rates.owe(statements(u32::MAX), start);
            assert!(rates.take(statements(1), start + day * days).is_err(), "{days}");
        }
    }

    fn limits() -> impl Strategy<Value = Arc<[RateLimit]>> {
        let counts = prop_oneof![Just(Counted::Statements), Just(Counted::Transactions)];
        let limit = (1u32..50, 1u32..5, 1u32..20, 0u64..500, counts).prop_map(|(count, per, burst, delay, counts)| {
            RateLimit { counts, ..limit(count, SECOND * per, burst, Duration::from_millis(delay)) }
        });
        proptest::collection::vec(limit, 1..5).prop_map(Arc::from)
    }

    #[derive(Debug, Clone, Copy)]
    enum Ask {
        Take,
        AtOnce,
        Owe,
        /// The limits once more.
        Reload,
    }

    fn asks() -> impl Strategy<Value = Vec<(u64, Ask, Use)>> {
        let ask =
            prop_oneof![6 => Just(Ask::Take), 2 => Just(Ask::AtOnce), 1 => Just(Ask::Owe), 1 => Just(Ask::Reload)];
        let what = (0u32..30, 0u32..4).prop_map(|(statements, transactions)| Use { statements, transactions });
        proptest::collection::vec((0u64..200, ask, what), 1..150)
    }

    /// What a limit would have let through too much, at the most in any time from something that was entered up to
    /// `until`, if `what` went on then. More than a bucket holds is let through when it is full.
    fn excess(limit: &RateLimit, entered: &[(Instant, Use)], what: Use, until: Instant) -> f64 {
        let mut sum = what.of(limit.counts).min(limit.rate.burst);
        if sum == 0 {
            return f64::NEG_INFINITY;
        }
        let excesses = entered.iter().rev().map(|(at, before)| {
            sum += before.of(limit.counts);
            let time = until.saturating_duration_since(*at).as_secs_f64() / limit.rate.per.as_secs_f64();
            f64::from(sum) - f64::from(limit.rate.burst) - time * f64::from(limit.rate.count)
        });
        excesses.fold(f64::NEG_INFINITY, f64::max)
    }

    proptest! {
        /// Whatever is asked when: in no time is more let through than the bucket holds and gains; those who wait are
        /// let through in their order; and a refusal says when there is room.
        #[test]
        fn no_more_than_the_rate_in_order_and_never_stuck(
            count in 1u32..50, burst in 1u32..20, delay_ms in 0u64..500,
            asks in proptest::collection::vec((0u64..200, 1u32..4), 1..200),
        ) {
            let start = Instant::now();
            let rates = Rates::new(start);
            let limit = limit(count, SECOND, burst, Duration::from_millis(delay_ms));
            rates.limit(&Arc::from([limit.clone()]), start);
            let mut now = start;
            // When each that was let through goes on, and how many it is.
            let mut let_through: Vec<(Instant, u32)> = Vec::new();
            for (pause, many) in asks {
                now += Duration::from_millis(pause);
                let many = many.min(burst);
                match rates.take(statements(many), now) {
                    Ok(wait) => {
                        prop_assert!(wait <= limit.delay);
                        if let Some((last, _)) = let_through.last() {
                            prop_assert!(wait.is_zero() || *last <= now + wait, "overtaken");
                        }
                        let_through.push((now + wait, many));
                    }
                    Err(exceeded) => {
                        prop_assert!(exceeded.wait > limit.delay);
                        let later = now + exceeded.wait - limit.delay;
                        let bucket = rates.buckets().buckets[0];
                        prop_assert!(bucket.wait(limit.rate, many, later - start) <= limit.delay);
                    }
                }
            }
            for (index, (from, _)) in let_through.iter().enumerate() {
                let mut sum = 0;
                for (at, many) in &let_through[index..] {
                    sum += many;
                    let gained = at.saturating_duration_since(*from).as_secs_f64() * f64::from(count);
                    prop_assert!(f64::from(sum) <= f64::from(burst) + gained + 1e-3, "{sum} in {:?}", *at - *from);
                }
            }
        }

        /// Whatever is asked when, of however many limits: each lets as much through in any time as its bucket holds and
        /// gains, with what is owed, and no more; nobody waits for longer than that takes, or is refused without need;
        /// what is refused takes nothing; a reload of the same changes nothing.
        #[test]
        fn every_limit_holds_and_none_holds_back_more(limits in limits(), asks in asks()) {
            const NOTHING: f64 = 1e-3;
            let mut now = Instant::now();
            let rates = Rates::new(now);
            rates.limit(&limits, now);
            let mut entered: Vec<(Instant, Use)> = Vec::new();
            for (pause, ask, what) in asks {
                now += Duration::from_millis(pause);
                let excess = |limit: &RateLimit, wait: Duration| excess(limit, &entered, what, now + wait);
                let taken = match ask {
                    Ask::Reload => {
                        rates.limit(&Arc::from(&limits[..]), now);
                        false
                    }
                    Ask::Owe => {
                        rates.owe(what, now);
                        true
                    }
                    Ask::AtOnce => {
                        let taken = rates.take_at_once(what, now);
                        let most = limits.iter().map(|limit| excess(limit, Duration::ZERO)).fold(f64::MIN, f64::max);
                        prop_assert!(if taken { most < NOTHING } else { most > -NOTHING }, "{taken}: {most}");
                        taken
                    }
                    Ask::Take => match rates.take(what, now) {
                        Ok(wait) => {
                            for limit in &*limits {
                                let most = excess(limit, wait.min(limit.delay));
                                prop_assert!(most < NOTHING, "{limit:?} lets {most} too many through");
                            }
                            let needed = limits.iter().any(|limit| excess(limit, wait) > -NOTHING);
                            prop_assert!(wait.is_zero() || needed, "{wait:?} for nothing");
                            true
                        }
                        Err(Exceeded { limit, wait }) => {
                            prop_assert!(limits.contains(&limit));
                            prop_assert!(excess(&limit, limit.delay) > -NOTHING, "refused for nothing");
                            prop_assert!(excess(&limit, wait).abs() < NOTHING, "room is not in {wait:?}");
                            false
                        }
                    },
                };
                if taken {
                    entered.push((now, what));
                }
            }
        }
    }
}
