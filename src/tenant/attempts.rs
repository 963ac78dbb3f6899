//! How often an address or a user may try to log in. Bounded, in bytes too: users go by a hash of what they say they are
//! called. Whoever could fill the books could have others forgotten, so those who have lately tried stay, and who is new
//! is not counted while there is no room.

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

/// Kept over reloads.
#[derive(Debug)]
pub struct Attempts {
    base: Instant,
    addresses: Mutex<Buckets<IpAddr>>,
    /// By a hash that nobody outside can foretell.
    users: Mutex<Buckets<u64>>,
    hasher: RandomState,
}

/// With the rate by which each has been counted.
#[derive(Debug)]
struct Buckets<K>(HashMap<K, (Rate, Bucket)>);

impl Default for Attempts {
    fn default() -> Self {
        let (addresses, users) = (Mutex::new(Buckets(HashMap::new())), Mutex::new(Buckets(HashMap::new())));
        Self { base: Instant::now(), addresses, users, hasher: RandomState::new() }
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
            outcome.map_err(|wait| too_many(&format!("from address {address}"), rate, wait, "per_address"))?;
        }
        if let Some(rate) = limits.per_user {
            let outcome = lock(&self.users).take(self.hasher.hash_one(user), rate, now);
            outcome.map_err(|wait| too_many(&format!("of user \"{user}\""), rate, wait, "per_user"))?;
        }
        Ok(())
    }
}

impl<K: Hash + Eq> Buckets<K> {
    /// The error is how long to wait.
    fn take(&mut self, key: K, rate: Rate, now: Duration) -> Result<(), Duration> {
        if !self.0.contains_key(&key) && self.0.len() >= MOST {
            // Full ones tell nothing.
            self.0.retain(|_, (_, bucket)| bucket.full_at > now);
            if self.0.len() >= MOST {
                return Ok(());
            }
        }
        let full = (rate, Bucket { full_at: now });
        let counted = self.0.entry(key).or_insert(full);
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
}

/// Whoever has one IPv6 address has 2⁶⁴ of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

fn too_many(who: &str, rate: Rate, wait: Duration, key: &str) -> PgError {
    PgError::fatal("53400", format!("too many login attempts {who}: {} per {} allowed", rate.count, rate.unit()))
        .detail(format!("There is room again in {}.", show_wait(wait)))
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
    fn there_is_an_end_to_those_who_are_counted() {
        let mut buckets = Buckets(HashMap::new());
        for key in 0..MOST {
            buckets.take(key, RATE, Duration::ZERO).unwrap();
        }
        for _ in 0..5 {
            assert!(buckets.take(MOST, RATE, Duration::ZERO).is_ok());
        }
        assert_eq!(buckets.0.len(), MOST);
        // Those who are there are still counted, and make room when they are forgotten.
        buckets.take(7, RATE, Duration::ZERO).unwrap();
        assert!(buckets.take(7, RATE, Duration::ZERO).is_err());
        let later = Duration::from_secs(1800);
        buckets.take(MOST, RATE, later).unwrap();
        assert_eq!(buckets.0.len(), 2);
    }
}
