//! How often something may be done: `rate_limits` of tenants, and attempts to log in.

use std::fmt;
use std::time::Duration;

use super::listen::MILLISECOND;
use super::reader::Item;
use super::units::show_duration;

/// A token bucket: it holds `burst` and gains `count` in each `per`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub count: u32,
    /// A second, a minute, an hour or a day.
    pub per: Duration,
    /// At least 1.
    pub burst: u32,
}

/// How often a tenant may do something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub rate: Rate,
    pub counts: Counted,
    /// What comes too early waits for at most this long, and is refused where that would not be enough.
    pub delay: Duration,
}

/// What a rate limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Each statement of a simple query, and each execution by the extended protocol.
    Statements,
    /// Each transaction, also one of a single statement without `BEGIN`.
    Transactions,
}

impl Rate {
    /// What so many are worth.
    pub fn time_of(&self, count: u32) -> Duration {
        let (per, of) = (self.per.as_nanos(), u128::from(count));
        // Wide divisions take long.
        let nanos = match u64::try_from(per * of) {
            Ok(nanos) => nanos / u64::from(self.count),
            Err(_) => u64::try_from(per * of / u128::from(self.count)).unwrap_or(u64::MAX),
        };
        Duration::from_nanos(nanos)
    }

    /// `s`, `min`, `h` or `d`.
    pub fn unit(&self) -> &'static str {
        UNITS.iter().find(|(_, per)| *per == self.per).map_or("unit", |(unit, _)| unit)
    }
}

impl RateLimit {
    /// It counts the same in the same time.
    pub fn counts_like(&self, other: &Self) -> bool {
        (self.counts, self.rate.per) == (other.counts, other.rate.per)
    }
}

/// `100 statements per s`.
impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.counts {
            Counted::Statements => "statements",
            Counted::Transactions => "transactions",
        };
        write!(f, "{} {what} per {}", self.rate.count, self.rate.unit())
    }
}

const UNITS: [(&str, Duration); 4] = [
    ("s", Duration::from_secs(1)),
    ("min", Duration::from_secs(60)),
    ("h", Duration::from_secs(3_600)),
    ("d", Duration::from_secs(86_400)),
];
const COUNTED: [(&str, Counted); 2] = [("statements", Counted::Statements), ("transactions", Counted::Transactions)];
const MOST: u32 = 1_000_000;
/// Clients give up by then.
const LONGEST_DELAY: Duration = Duration::from_secs(3_600);
/// More than this are a mistake, and each costs something.
const MOST_LIMITS: usize = 8;

/// A list of `"1000/h"` and `{ rate = "100/s", burst = 200, counts = "transactions", delay = "2s" }`.
pub(super) fn rate_limits(item: &Item) -> Vec<RateLimit> {
    let items = item.list();
    if items.len() > MOST_LIMITS {
        item.expected::<()>(format!("at most {MOST_LIMITS} limits"));
    }
    items.iter().filter_map(rate_limit).collect()
}

fn rate_limit(item: &Item) -> Option<RateLimit> {
    if item.is_string() {
        return Some(RateLimit { rate: rate(item)?, counts: Counted::Statements, delay: Duration::ZERO });
    }
    let section = item.section_or("a rate such as \"100/s\", or a table with a `rate`")?;
    let rate = section.require("rate", "a rate such as \"100/s\"").and_then(|item| rate(&item));
    let burst = section.get("burst").and_then(|item| item.count(1..=MOST as usize));
    let counts = section.get("counts").and_then(|item| item.choice(&COUNTED)).unwrap_or(Counted::Statements);
    let delay = section.get("delay").and_then(|item| item.duration_or_zero(MILLISECOND..=LONGEST_DELAY, "none"));
    section.finish();
    let rate = rate?;
    let rate = Rate { burst: burst.map_or(rate.burst, |burst| burst as u32), ..rate };
    Some(RateLimit { rate, counts, delay: delay.unwrap_or_default() })
}

/// `"100/s"`: as many may come at once.
pub(super) fn rate(item: &Item) -> Option<Rate> {
    let text = item.string()?;
    let parsed = text.split_once('/').and_then(|(count, unit)| {
        let count = count.trim().parse().ok().filter(|count| (1..=MOST).contains(count))?;
        let (_, per) = UNITS.iter().find(|(known, _)| *known == unit.trim())?;
        Some(Rate { count, per: *per, burst: count })
    });
    parsed.or_else(|| item.expected(format!("a rate such as \"100/s\": from 1 to {MOST}, per s, min, h or d")))
}

/// A wait as people read it, to the millisecond.
pub fn show_wait(wait: Duration) -> String {
    let millis = wait.as_nanos().div_ceil(1_000_000).max(1);
    let whole = if millis >= 10_000 { millis.div_ceil(1_000) * 1_000 } else { millis };
    show_duration(Duration::from_millis(u64::try_from(whole).unwrap_or(u64::MAX)))
}
