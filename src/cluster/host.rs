//! One PostgreSQL server of a cluster: its role, whether it answers, and how fresh it is.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::freshness::{Lsn, Moment};
use super::locks::Locks;
use crate::config::{HostConfig, Roles};
use crate::pool::Budget;

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
    /// Its server connections.
    pub budget: Arc<Budget>,
    up: AtomicBool,
    fresh_as_of: AtomicU64,
    lag_bytes: AtomicU64,
    claim: Mutex<Claim>,
    /// How far its WAL was replayed when it was last asked, and when that was.
    replayed: Mutex<(Moment, Lsn)>,
    /// It has replayed what the primary has not written: it follows another history.
    ahead: AtomicBool,
    /// How often it was lost.
    losses: AtomicU32,
    /// The primary has written what this replica is not known to have replayed.
    lags: Notify,
    /// See [`super::locks`].
    pub(super) locks: Locks,
}

impl Host {
    /// A configured primary counts as up until it is known to be down; every other host only once it has answered.
    pub fn new(config: Arc<HostConfig>, role: Role, roles: Roles, budget: Arc<Budget>) -> Self {
        let up = role == Role::Primary && roles == Roles::Configured;
        Self {
            config,
            role,
            budget,
            up: AtomicBool::new(up),
            fresh_as_of: AtomicU64::new(0),
            lag_bytes: AtomicU64::new(0),
            claim: Mutex::new(Claim::Unknown),
            replayed: Mutex::new((Moment::NEVER, Lsn(0))),
            ahead: AtomicBool::new(false),
            losses: AtomicU32::new(0),
            lags: Notify::new(),
            locks: Locks::default(),
        }
    }

    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// True when this changed something.
    pub fn set_up(&self, up: bool) -> bool {
        let changed = self.up.swap(up, Ordering::AcqRel) != up;
        if changed && !up {
            let mut replayed = self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
            *replayed = (Moment::NEVER, Lsn(0));
            self.fresh_as_of.store(0, Ordering::Release);
            drop(replayed);
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

    /// Whether it is known to have replayed what the primary had written at `asked`: it is then as fresh as that,
    /// without being asked again. Otherwise its monitor is told to ask.
    pub(super) fn keeps_up(&self, asked: Moment, written: Lsn) -> bool {
        // Under the lock, so that a host that is lost meanwhile is not called fresh again.
        let replayed = self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        let keeps_up = self.is_up() && replayed.0 != Moment::NEVER && replayed.1 >= written;
        match keeps_up {
            true => self.set_fresh(asked, 0),
            false => self.lags.notify_one(),
        }
        keeps_up
    }

    pub(super) fn has_replayed(&self, written: Lsn) -> bool {
        self.replayed.lock().unwrap_or_else(PoisonError::into_inner).1 >= written
    }

    /// Until the primary has written more than this replica is known to have replayed.
    pub(super) fn lags(&self) -> Notified<'_> {
        self.lags.notified()
    }

    /// Compares it with what the primary has written that was asked later; true when it is found to be ahead now.
    pub(super) fn compare(&self, asked: Moment, written: Lsn) -> bool {
        let (when, replayed) = *self.replayed.lock().unwrap_or_else(PoisonError::into_inner);
        if when == Moment::NEVER || when >= asked {
            return false;
        }
        replayed > written && !self.ahead.swap(true, Ordering::AcqRel)
    }

    /// It has been connected to: a standby that was ahead may have been made anew. Without a restart it stays what it
    /// was, even when the primary has come to where it is.
    pub(super) fn is_met_again(&self) {
        self.ahead.store(false, Ordering::Release);
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
    pub fn losses(&self) -> u32 {
        self.losses.load(Ordering::Acquire)
    }

    /// How far behind the primary it is at most, and in bytes of WAL.
    pub fn lag(&self, now: Moment) -> (Option<Duration>, u64) {
        let fresh = self.fresh_as_of();
        let lag = (fresh != Moment::NEVER).then(|| now.since(fresh));
        (lag, self.lag_bytes.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{HostAddress, ServerTls, SslMode};

    fn replica() -> Host {
        let tls = ServerTls { mode: SslMode::Disable, root_cert: None, cert: None, key: None };
        let address = HostAddress::Unix("/b".into());
        let config = HostConfig { name: "b".into(), address, tls, max_server_connections: None };
        Host::new(Arc::new(config), Role::Replica, Roles::Configured, Arc::default())
    }

    fn at(moment: u64) -> Moment {
        Moment::from_raw(moment)
    }

    #[test]
    fn a_replica_that_has_replayed_all_is_fresh_unasked() {
        let host = replica();
        host.set_up(true);
        assert!(!host.keeps_up(at(1), Lsn(100)), "nothing is known of it yet");
        host.set_replayed(at(2), Lsn(100));
        assert!(host.keeps_up(at(3), Lsn(100)));
        assert_eq!(host.fresh_as_of(), at(3));
        assert!(!host.keeps_up(at(4), Lsn(101)));
        assert_eq!(host.fresh_as_of(), at(3));
    }

    #[test]
    fn what_a_lost_replica_had_replayed_is_forgotten() {
        let host = replica();
        host.set_up(true);
        host.set_replayed(at(2), Lsn(100));
        host.set_up(false);
        assert!(!host.keeps_up(at(3), Lsn(100)));
        host.set_up(true);
        assert!(!host.keeps_up(at(4), Lsn(100)), "it may have started again from less");
        assert_eq!(host.fresh_as_of(), Moment::NEVER);
    }
}
