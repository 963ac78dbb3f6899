//! The clock of freshness: which moments of the primary a replica has replayed.
//!
//! The primary's WAL position is sampled with the moment *before* the question was sent. A replica
//! that has replayed a sample's position shows everything that was committed before that sample's
//! moment. So one comparison of two moments answers "does this replica show my last write?".

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Samples kept: at 20 ms these cover 40 s of lag; older ones are thinned, not lost.
const KEPT: usize = 2048;
/// How long a demand makes the hosts be asked more often.
const PATIENCE: Duration = Duration::from_millis(50);
/// Bytes of a WAL page, of its header, and of the longer header that starts a segment.
const PAGE: u64 = 8192;
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// An instant on a cluster's clock, in microseconds since the clock was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Moment(u64);

impl Moment {
    /// Before every other.
    pub const NEVER: Self = Self(0);

    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub fn raw(self) -> u64 {
        self.0
    }

    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    pub fn minus(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(duration.as_micros() as u64))
    }
}

/// A position in the WAL, in bytes (PostgreSQL, "pg_lsn Type").
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

impl Lsn {
    pub fn parse(text: &str) -> Option<Self> {
        let (high, low) = text.split_once('/')?;
        let (high, low) = (u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?);
        Some(Self(high << 32 | low))
    }

    /// The insert position right after a page header is where the page began: nothing was written
    /// behind the header yet, and a standby's replay position stops at the page's end.
    pub fn without_header(self) -> Self {
        match self.0 % PAGE {
            PAGE_HEADER => Self(self.0 - PAGE_HEADER),
            SEGMENT_HEADER => Self(self.0 - SEGMENT_HEADER),
            _ => self,
        }
    }
}

/// The samples of one primary.
#[derive(Debug)]
pub struct Clock {
    base: Instant,
    samples: Mutex<VecDeque<(Moment, Lsn)>>,
    /// The latest moment that somebody waits for on a replica.
    demanded: AtomicU64,
    demand: Notify,
    advance: Notify,
    /// Something was written since the primary was last asked.
    written: AtomicBool,
    writes: Notify,
}

impl Default for Clock {
    fn default() -> Self {
        // One microsecond in the past, so that no moment is `NEVER`.
        Self {
            base: Instant::now() - Duration::from_micros(1),
            samples: Mutex::default(),
            demanded: AtomicU64::default(),
            demand: Notify::new(),
            advance: Notify::new(),
            written: AtomicBool::new(false),
            writes: Notify::new(),
        }
    }
}

impl Clock {
    pub fn now(&self) -> Moment {
        self.at(Instant::now())
    }

    pub fn at(&self, instant: Instant) -> Moment {
        Moment(instant.saturating_duration_since(self.base).as_micros() as u64)
    }

    /// The next whole multiple of `beat`: hosts that are asked on it are asked with one waking up.
    pub fn next(&self, beat: Duration) -> Instant {
        let beat = beat.max(Duration::from_millis(1));
        let elapsed = self.base.elapsed().as_nanos();
        let beats = elapsed / beat.as_nanos() + 1;
        self.base + Duration::from_nanos((beats * beat.as_nanos()) as u64)
    }

    /// A write was answered at a moment before this call: the primary is worth being asked.
    pub fn wrote(&self) {
        // Whoever comes while that is known already touches nothing that others write.
        if !self.written.load(Ordering::SeqCst) && !self.written.swap(true, Ordering::SeqCst) {
            self.writes.notify_one();
        }
    }

    /// Until something is written that the last question to the primary may not have covered.
    pub fn writes(&self) -> Notified<'_> {
        self.writes.notified()
    }

    /// The moment of a question to the primary: every write that was noted before is covered by its answer.
    pub fn asks(&self) -> Moment {
        self.written.store(false, Ordering::SeqCst);
        self.now()
    }

    /// The newest position of the primary that is known.
    pub fn newest(&self) -> Lsn {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        samples.back().map_or(Lsn(0), |(_, lsn)| *lsn)
    }

    /// The primary was at `lsn` at some time after `asked`.
    pub fn sample(&self, asked: Moment, lsn: Lsn) {
        let mut samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        // While the primary writes nothing, one sample that moves on is enough.
        if let [.., (_, before), (last_asked, last)] = samples.make_contiguous()
            && *last == lsn
            && *before == lsn
        {
            *last_asked = asked;
            return;
        }
        samples.push_back((asked, lsn));
        if samples.len() > KEPT {
            let mut index = 0;
            samples.retain(|_| {
                index += 1;
                index % 2 == 0 || index > KEPT / 2
            });
        }
    }

    /// The latest sample that a replica at `replayed` has reached, and how many bytes it lacks to
    /// the newest one.
    pub fn reached(&self, replayed: Lsn) -> Option<(Moment, u64)> {
        let samples = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = samples.partition_point(|(_, lsn)| *lsn <= replayed);
        let (moment, _) = samples.get(behind.checked_sub(1)?)?;
        let newest = samples.back().map_or(0, |(_, lsn)| lsn.0);
        Some((*moment, newest.saturating_sub(replayed.0)))
    }

    /// Somebody waits until a replica shows what was there at `moment`: the hosts are asked at once, and often
    /// until one does.
    pub fn demand(&self, moment: Moment) {
        self.demanded.fetch_max(moment.raw(), Ordering::AcqRel);
        self.demand.notify_waiters();
    }

    /// True while a demand of late is not met by what reaches to `moment`.
    pub fn is_demanded_beyond(&self, moment: Moment) -> bool {
        let demanded = Moment(self.demanded.load(Ordering::Acquire));
        demanded >= moment && self.now().since(demanded) < PATIENCE
    }

    /// Until the next demand; counts from when it is enabled.
    pub fn demanded(&self) -> Notified<'_> {
        self.demand.notified()
    }

    /// A replica has been found to show more than before.
    pub fn advances(&self) {
        self.advance.notify_waiters();
    }

    /// Until then; counts from when it is enabled.
    pub fn advanced(&self) -> Notified<'_> {
        self.advance.notified()
    }

    /// The primary was restarted or replaced: positions before and after cannot be compared.
    pub fn reset(&self) {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_as_fresh_as_the_last_sample_it_reached() {
        let clock = Clock::default();
        clock.sample(Moment(10), Lsn(100));
        clock.sample(Moment(20), Lsn(200));
        assert_eq!(clock.reached(Lsn(99)), None);
        assert_eq!(clock.reached(Lsn(150)), Some((Moment(10), 50)));
        assert_eq!(clock.reached(Lsn(200)), Some((Moment(20), 0)));
    }

    #[test]
    fn a_quiet_primary_keeps_its_replicas_fresh_with_two_samples() {
        let clock = Clock::default();
        (1..100).for_each(|moment| clock.sample(Moment(moment), Lsn(7)));
        assert_eq!(clock.reached(Lsn(7)), Some((Moment(99), 0)));
        assert_eq!(clock.samples.lock().unwrap().len(), 2);
    }

    #[test]
    fn beats_fall_together() {
        let clock = Clock::default();
        let beat = Duration::from_secs(3600);
        let next = clock.next(beat);
        assert_eq!(next, clock.base + beat);
        assert_eq!(next, clock.next(beat));
    }

    #[test]
    fn thinning_keeps_both_ends() {
        let clock = Clock::default();
        (1..=5000).for_each(|n| clock.sample(Moment(n), Lsn(n)));
        assert!(clock.samples.lock().unwrap().len() <= KEPT);
        assert_eq!(clock.reached(Lsn(5000)), Some((Moment(5000), 0)));
        assert!(clock.reached(Lsn(100)).is_some());
    }

    #[test]
    fn positions_are_read_and_freed_of_page_headers() {
        assert_eq!(Lsn::parse("1/0000002A"), Some(Lsn(0x1_0000_002A)));
        assert_eq!(Lsn::parse("nonsense"), None);
        assert_eq!(Lsn(8192 + 24).without_header(), Lsn(8192));
        assert_eq!(Lsn(16 << 20 | 40).without_header(), Lsn(16 << 20));
        assert_eq!(Lsn(8192 + 56).without_header(), Lsn(8192 + 56));
    }
}
