//! One PostgreSQL server of a cluster: its role, whether it answers, and how fresh it is.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::freshness::{Lsn, Moment};
use crate::config::{HostConfig, Roles};

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

/// What a server says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Claim {
    /// It does not answer, or has not been asked.
    Unknown,
    Standby,
    /// On which timeline (PostgreSQL, "Timelines").
    Primary {
        timeline: u32,
    },
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
    claim: Mutex<Claim>,
    /// How far its WAL was replayed when it was last asked, and when that was.
    replayed: Mutex<(Moment, Lsn)>,
    /// It has replayed what the primary has not written: it follows another history.
    ahead: AtomicBool,
    /// How often it was lost.
    losses: AtomicU64,
}

impl Host {
    /// A configured primary counts as up until it is known to be down; every other host only once it has answered.
    pub fn new(config: Arc<HostConfig>, role: Role, roles: Roles) -> Self {
        let up = role == Role::Primary && roles == Roles::Configured;
        Self {
            config,
            role,
            load: Arc::default(),
            up: AtomicBool::new(up),
            fresh_as_of: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            claim: Mutex::new(Claim::Unknown),
            replayed: Mutex::new((Moment::NEVER, Lsn(0))),
            ahead: AtomicBool::new(false),
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

    pub fn claim(&self) -> Claim {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn claims(&self, claim: Claim) {
        *self.claim.lock().unwrap_or_else(PoisonError::into_inner) = claim;
    }

    /// Everything that was committed before `moment` is visible here.
    pub fn shows(&self, moment: Moment) -> bool {
        moment == Moment::NEVER || self.fresh_as_of() > moment
    }

    pub(super) fn set_replayed(&self, asked: Moment, replayed: Lsn) {
        *self.replayed.lock().unwrap_or_else(PoisonError::into_inner) = (asked, replayed);
    }

    /// Compares it with what the primary has written that was asked later; true when it is found to be ahead now.
    pub(super) fn compare(&self, asked: Moment, written: Lsn) -> bool {
        let (when, replayed) = *self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        if when == Moment::NEVER || when >= asked {
            return false;
        }
        let ahead = replayed > written;
        !self.ahead.swap(ahead, Ordering::AcqRel) && ahead
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.ahead.load(Ordering::Acquire)
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
