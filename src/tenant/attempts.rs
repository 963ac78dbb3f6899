//! How often an address or a user may try to log in. Bounded, in bytes too: users go by a hash of what they say they are
//! called. Whoever could fill the books could have others forgotten, so those who have lately tried stay. While there is no
//! room, those who are new share what each of them may do: many small groups of them, which nobody can foretell, so that to
//! use up what all of them may do takes as many attempts.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::rate::Bucket;
use crate::config::{LoginLimits, Rate, show_wait};
use crate::wire::error::PgError;

/// Addresses, and users, that are counted at a time.
const MOST: usize = 100_000;
/// Groups of those who are new while so many are.
const GROUPS: u64 = 10_000;
/// Between two looks for those who need not be counted any more.
const SWEEP: Duration = Duration::from_secs(1);

/// Kept over reloads.
#[derive(Debug)]
pub struct Attempts {
    base: Instant,
    addresses: Mutex<Buckets<IpAddr>>,
    /// By a hash that nobody outside can foretell.
    users: Mutex<Buckets<u64>>,
    hasher: RandomState,
}

#[derive(Debug)]
struct Buckets<K> {
    own: Counted<K>,
    /// Of groups.
    shared: Counted<u64>,
    hasher: RandomState,
    /// When there was no room, and it was looked for.
    swept: Option<Duration>,
}

/// With the rate by which each has been counted.
type Counted<K> = HashMap<K, (Rate, Bucket)>;

/// An attempt comes too early.
#[derive(Debug, PartialEq, Eq)]
struct TooEarly {
    wait: Duration,
    /// Others have made use of the same.
    shared: bool,
}

impl Default for Attempts {
    fn default() -> Self {
        let (addresses, users) = Default::default();
        Self { base: Instant::now(), addresses, users, hasher: RandomState::new() }
    }
}

impl<K> Default for Buckets<K> {
    fn default() -> Self {
        let (own, shared) = Default::default();
        Self { own, shared, hasher: RandomState::new(), swept: None }
    }
}

impl Attempts {
    /// Counts an attempt. `address` is `None` for a Unix socket; `user` is whoever the client says it is.
    ///
    /// Errors: 53400 where it comes too early. It has not been counted then.
    pub fn admit(&self, limits: &LoginLimits, address: Option<IpAddr>, user: &str) -> Result<(), PgError> {
        let now = self.base.elapsed();
        if let (Some(rate), Some(address)) = (limits.per_address, address) {
            let outcome = lock(&self.addresses).take(network(address), rate, now);
            outcome.map_err(|early| too_many(&format!("from address {address}"), rate, early, "per_address"))?;
        }
        if let Some(rate) = limits.per_user {
            let outcome = lock(&self.users).take(self.hasher.hash_one(user), rate, now);
            outcome.map_err(|early| too_many(&format!("of user \"{user}\""), rate, early, "per_user"))?;
        }
        Ok(())
    }
}

impl<K: Hash + Eq> Buckets<K> {
    fn take(&mut self, key: K, rate: Rate, now: Duration) -> Result<(), TooEarly> {
        if self.own.contains_key(&key) || self.has_room(now) {
            return take(&mut self.own, key, rate, now).map_err(|wait| TooEarly { wait, shared: false });
        }
        let group = self.hasher.hash_one(key) % GROUPS;
        take(&mut self.shared, group, rate, now).map_err(|wait| TooEarly { wait, shared: true })
    }

    fn has_room(&mut self, now: Duration) -> bool {
        if self.own.len() >= MOST && self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            // Full ones tell nothing.
            self.own.retain(|_, (_, bucket)| bucket.full_at() > now);
        }
        self.own.len() < MOST
    }
}

/// The error is how long to wait.
fn take<K: Hash + Eq>(buckets: &mut Counted<K>, key: K, rate: Rate, now: Duration) -> Result<(), Duration> {
    let full = (rate, Bucket::full_at_last(now));
    let counted = buckets.entry(key).or_insert(full);
    if counted.0 != rate {
        *counted = full;
    }
    let (_, bucket) = counted;
    let wait = bucket.wait(rate, 1, now);
    if !wait.is_zero() {
        return Err(wait);
    }
    bucket.take(rate, 1, now);
    Ok(())
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

fn too_many(who: &str, rate: Rate, early: TooEarly, key: &str) -> PgError {
    let shared = match early.shared {
        true => format!(" More than {MOST} have tried lately, and those that are new share what each may do."),
        false => String::new(),
    };
    PgError::fatal("53400", format!("too many login attempts {who}: {} per {} allowed", rate.count, rate.unit()))
        .detail(format!("There is room again in {}.{shared}", show_wait(early.wait)))
        .hint(format!("Keep connections open and share them in a pool, or raise [listen] login_limits.{key}."))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 2, per: Duration::from_secs(3600), burst: 2 };

    #[test]
    fn each_address_and_each_user_has_so_many() {
        let attempts = Attempts::default();
        let limits = LoginLimits { per_address: Some(RATE), per_user: None };
        let from = |address: &str, user: &str| attempts.admit(&limits, Some(address.parse().unwrap()), user);
        for user in ["a", "b"] {
            from("10.0.0.1", user).unwrap();
            from("2001:db8::1", user).unwrap();
        }
        let error = from("10.0.0.1", "c").unwrap_err();
        assert_eq!(error.message, "too many login attempts from address 10.0.0.1: 2 per h allowed");
        assert!(error.code == "53400" && error.detail.unwrap().contains("30min"));
        assert!(from("::ffff:10.0.0.1", "c").is_err() && from("10.0.0.2", "c").is_ok());
        assert!(from("2001:db8::2", "c").is_err() && from("2001:db8:0:1::2", "c").is_ok());

        let limits = LoginLimits { per_address: None, per_user: Some(RATE) };
        let by = |user: &str| attempts.admit(&limits, None, user).map_err(|error| error.message);
        assert!(by("a").is_ok() && by("a").is_ok() && by("b").is_ok());
        assert_eq!(by("a").unwrap_err(), "too many login attempts of user \"a\": 2 per h allowed");
        assert!(by("b").is_ok() && by("b").is_err());
    }

    #[test]
    fn there_is_an_end_to_those_who_are_counted_and_who_is_new_has_no_more_for_that() {
        let mut buckets = Buckets::default();
        for key in 0..MOST {
            buckets.take(key, RATE, Duration::ZERO).unwrap();
        }
        for _ in 0..2 {
            buckets.take(MOST, RATE, Duration::ZERO).unwrap();
        }
        let early = buckets.take(MOST, RATE, Duration::ZERO).unwrap_err();
        assert!(early.shared && early.wait == Duration::from_secs(1800), "{early:?}");
        // Hardly anybody else is in that group.
        let new = (MOST + 1..MOST + 101).filter(|&key| buckets.take(key, RATE, Duration::ZERO).is_ok());
        assert!(new.count() > 80);
        for key in MOST..2 * MOST {
            let _ = buckets.take(key, RATE, Duration::ZERO);
        }
        assert_eq!((buckets.own.len(), buckets.shared.len() as u64 <= GROUPS), (MOST, true));
        // Those who are there are still counted by themselves, and make room when they are forgotten.
        buckets.take(7, RATE, Duration::ZERO).unwrap();
        assert!(!buckets.take(7, RATE, Duration::ZERO).unwrap_err().shared);
        let later = Duration::from_secs(1800);
        buckets.take(MOST, RATE, later).unwrap();
        assert_eq!(buckets.own.len(), 2);
    }
}
