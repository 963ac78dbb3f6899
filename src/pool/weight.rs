//! What tenants weigh in a pool: a tenant has its weight once on a host, in equal parts in all the pools in which it is at
//! work.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Priority;

/// The weight of the heaviest: accounts count time in this part of a microsecond.
pub const HEAVIEST: u32 = Priority::High.weight();

/// A weight is counted in so many parts, as tenants have some of theirs in each of several pools.
pub const WHOLE: u32 = 5_040;

/// What a tenant weighs in one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weight {
    /// In all pools together ([`Priority::weight`]).
    pub whole: u32,
    /// So many have their part of it.
    pub pools: u32,
    here: u32,
}

impl Weight {
    pub fn new(whole: u32, pools: u32) -> Self {
        let here = u64::from(whole) * u64::from(WHOLE) / u64::from(pools);
        Self { whole, pools, here: u32::try_from(here).unwrap_or(u32::MAX).max(1) }
    }

    /// Here, in parts of a [`WHOLE`].
    pub fn here(self) -> u64 {
        u64::from(self.here)
    }

    /// The same time for the heaviest that is nowhere else. Nothing is lost by rounding, however many the pools are.
    pub fn parts(self, time: u64) -> u64 {
        time.saturating_mul(u64::from(HEAVIEST) * u64::from(self.pools)) / u64::from(self.whole)
    }
}

/// Of tenants that are at work in more than one pool of a host, in how many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Spread(HashMap<Arc<str>, u32>);

impl Spread {
    /// Of the tenants that are active in each pool.
    pub fn of(active: &[impl AsRef<[(Arc<str>, u32)]>]) -> Self {
        let mut pools = HashMap::<&Arc<str>, u32>::new();
        for (tenant, _) in active.iter().flat_map(AsRef::as_ref) {
            *pools.entry(tenant).or_default() += 1;
        }
        let several = pools.into_iter().filter(|(_, pools)| *pools > 1);
        Self(several.map(|(tenant, pools)| (tenant.clone(), pools)).collect())
    }

    /// In how many a tenant is at work, which is at work in one.
    pub fn pools(&self, tenant: &str) -> u32 {
        self.0.get(tenant).copied().unwrap_or(1)
    }
}
