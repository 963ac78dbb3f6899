//! What is counted for whoever reads the metrics, beside what every transaction counts.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Tenant;
use crate::metrics::{Audit, Limit, Tally, Who};

/// How often its clients have come up against its limits.
#[derive(Debug, Default)]
pub(super) struct Met {
    timeouts: AtomicU64,
    delays: AtomicU64,
    refusals: [AtomicU64; Limit::ALL.len()],
}

impl Tenant {
    /// A statement was cut off by one of its ceilings.
    pub fn timed_out(&self) {
        self.counters.met.timeouts.fetch_add(1, Relaxed);
    }

    /// A batch has to wait for one of its rate limits.
    pub fn delayed(&self) {
        self.counters.met.delays.fetch_add(1, Relaxed);
    }

    /// Something was refused or cut off by this limit.
    pub fn refused(&self, limit: Limit) {
        self.counters.met.refusals[limit as usize].fetch_add(1, Relaxed);
    }

    /// The same with a line for the audit. `of`: the user and the database; `error`: as in [`Who`].
    pub fn limited(&self, audit: &Audit, limit: Limit, of: [&str; 2], error: &str) {
        self.refused(limit);
        let [user, database] = of;
        audit.limited(limit.name(), Who { tenant: &self.name, user, database, error });
    }

    /// All of it since pgweir was started.
    pub fn tally(&self) -> Tally {
        let (counters, met) = (&self.counters, &self.counters.met);
        Tally {
            transactions: counters.transactions.load(Relaxed),
            worked: Duration::from_micros(counters.worked.load(Relaxed)),
            timeouts: met.timeouts.load(Relaxed),
            delays: met.delays.load(Relaxed),
            refusals: std::array::from_fn(|at| met.refusals[at].load(Relaxed)),
        }
    }
}
