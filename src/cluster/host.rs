//! One PostgreSQL server of a cluster: its role, whether it answers, and how fresh it is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::freshness::Moment;
use crate::config::HostConfig;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Primary,
    Replica,
}

impl Role {
    pub fn label(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        }
    }
}

#[derive(Debug)]
pub struct Host {
    pub config: Arc<HostConfig>,
    pub role: Role,
    /// Leases and waiters over all pools.
    pub load: Arc<AtomicUsize>,
    up: AtomicBool,
    fresh_as_of: AtomicU64,
    lag_bytes: AtomicU64,
    /// How often it was lost.
    losses: AtomicU64,
}

impl Host {
    /// A primary counts as up until it is known to be down; a replica only once it has answered.
    pub fn new(config: Arc<HostConfig>, role: Role) -> Self {
        Self {
            config,
            role,
            load: Arc::default(),
            up: AtomicBool::new(role == Role::Primary),
            fresh_as_of: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            losses: AtomicU64::new(0),
        }
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// True when this changed something.
    pub fn set_up(&self, up: bool) -> bool {
        let changed = self.up.swap(up, Ordering::AcqRel) != up;
        if changed && !up {
            self.fresh_as_of.store(0, Ordering::Release);
            self.losses.fetch_add(1, Ordering::AcqRel);
        }
        changed
    }

    /// Everything committed on the primary before this is visible here.
    pub fn fresh_as_of(&self) -> Moment {
        Moment::from_raw(self.fresh_as_of.load(Ordering::Acquire))
    }

    pub fn set_fresh(&self, moment: Moment, lag_bytes: u64) {
        self.fresh_as_of.fetch_max(moment.raw(), Ordering::AcqRel);
        self.lag_bytes.store(lag_bytes, Ordering::Relaxed);
    }

    /// How often it was lost: a standby that comes back may show less than it did before.
    pub fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// How far behind the primary it is at most, and in bytes of WAL.
    pub fn lag(&self, now: Moment) -> (Option<Duration>, u64) {
        let fresh = self.fresh_as_of();
        let lag = (fresh != Moment::NEVER).then(|| now.since(fresh));
        (lag, self.lag_bytes.load(Ordering::Relaxed))
    }
}
