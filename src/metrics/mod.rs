//! What operators measure: families in a registry of our own, handles for the hot path, and the
//! HTTP endpoint that serves them.
//!
//! Whoever counts on the hot path resolves its labels once ([`Metrics::host`], [`Metrics::pool`],
//! [`Metrics::route_counter`] …) and keeps the handle; counting is then a few atomic additions. What
//! is a state rather than an event (connections, waiting clients, lag) is not counted at all but
//! read from a [`Census`] when somebody asks; so is what tenants count for themselves. Labels are bounded: names that
//! clients choose share one `other` beyond a thousand, tenants beyond the hundred that have used most, and reasons are
//! words of the program.

mod audit;
mod census;
mod families;
mod http;
mod labels;
mod limit;
mod process;
mod tenants;

use std::sync::{Arc, OnceLock};

use prometheus::{Encoder, Histogram, IntCounter, Registry, TextEncoder};

pub use audit::{AUDIT, Audit, Who};
pub use census::{Census, CensusSnapshot, ClientCount, ReplicaState, ServerCount, WaitCount};
pub use http::{Ready, serve};
pub use limit::Limit;
pub use tenants::{Tally, TenantUse};

use census::CensusCollector;
use families::Families;
use labels::LabelBound;
use process::ProcessCollector;

/// Distinct (database, user) pairs before the rest is counted as `other`.
const MOST_LABEL_SETS: usize = 1_000;

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    families: Families,
    logins: Arc<LabelBound>,
    pub audit: Audit,
    census: Arc<OnceLock<Arc<dyn Census + Send + Sync>>>,
}

/// Of one pool: a database and a user on one host.
#[derive(Debug, Clone)]
pub struct HostMetrics {
    /// Statements: a simple `Query`, or an `Execute`.
    pub queries: IntCounter,
    /// Transactions, counted at the `ReadyForQuery` that says idle.
    pub transactions: IntCounter,
    pub bytes_to_server: IntCounter,
    pub bytes_from_server: IntCounter,
    /// From the first byte sent to the last byte received of a batch.
    pub query_seconds: Histogram,
    /// A statement that was prepared on the server connection already.
    pub prepared_hits: IntCounter,
    /// One that had to be prepared there.
    pub prepared_misses: IntCounter,
    pub connects_total: IntCounter,
    pub connect_failures: IntCounter,
    /// Of successful connects: TCP, TLS and login.
    pub connect_seconds: Histogram,
}

/// Of a database and a user on all hosts.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// What a client waited for a server connection, 0 included.
    pub wait_seconds: Histogram,
    /// What a batch spent inside the proxy: neither waiting nor on a server.
    pub proxy_overhead_seconds: Histogram,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// `version` is shown as a label of `pgweir_build_info`.
    pub fn new(version: &str) -> Arc<Self> {
        let registry = Registry::new();
        let families = Families::register(&registry, version);
        let logins = Arc::new(LabelBound::new(MOST_LABEL_SETS));
        let census = Arc::new(OnceLock::new());
        families::register(&registry, CensusCollector::new(census.clone(), logins.clone()));
        families::register(&registry, ProcessCollector::new());
        Arc::new(Self { registry, families, logins, audit: Audit::default(), census })
    }

    /// Where the states are read from at each scrape. The first one stays.
    pub fn set_census(&self, census: Arc<dyn Census + Send + Sync>) {
        // A second census would be a second proxy in one process; the first goes on being read.
        let _ = self.census.set(census);
    }

    /// The handles of a pool; `host` is the host's configured name, `role` is `primary` or `replica`.
    pub fn host(&self, database: &str, user: &str, host: &str, role: &'static str) -> HostMetrics {
        let [database, user] = self.logins.admit([database, user]);
        self.families.host(&[database, user, host, role])
    }

    pub fn pool(&self, database: &str, user: &str) -> PoolMetrics {
        let [database, user] = self.logins.admit([database, user]);
        self.families.pool(&[database, user])
    }

    /// Counts an `ErrorResponse` that a client got, by the class of its SQLSTATE (the first two characters).
    pub fn error(&self, sqlstate: &str) {
        self.families.errors.with_label_values(&[labels::sqlstate_class(sqlstate)]).inc();
    }

    /// Counts a routing decision: `target` is `primary` or `replica`, `reason` a word of the router.
    pub fn routed(&self, target: &'static str, reason: &'static str) {
        self.route_counter(target, reason).inc();
    }

    /// The handle behind [`Metrics::routed`].
    pub fn route_counter(&self, target: &'static str, reason: &'static str) -> IntCounter {
        self.families.routes.with_label_values(&[target, reason])
    }

    /// Counts a session that became bound to its server connection, by what bound it.
    pub fn pinned(&self, reason: &'static str) {
        self.families.pins.with_label_values(&[reason]).inc();
    }

    /// Counts a client connection that was accepted.
    pub fn client_accepted(&self) {
        self.families.clients_accepted.inc();
    }

    /// Counts one that did not get through authentication: `reason` is a word such as `password` or `startup_timeout`.
    pub fn client_refused(&self, reason: &'static str) {
        self.families.clients_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a cancel request: `outcome` is a word such as `sent`, `queued` or `unknown_key`.
    pub fn cancelled(&self, outcome: &'static str) {
        self.families.cancels.with_label_values(&[outcome]).inc();
    }

    /// Counts a reload of the configuration: `outcome` is `ok` or `failed`.
    pub fn reloaded(&self, outcome: &'static str) {
        self.families.reloads.with_label_values(&[outcome]).inc();
    }

    /// Another server of a cluster has become its primary.
    pub fn primary_changed(&self, cluster: &str) {
        self.families.primary_changes.with_label_values(&[cluster]).inc();
    }

    /// Everything in Prometheus' text format, version 0.0.4.
    pub fn render(&self) -> String {
        let mut out = Vec::with_capacity(64 << 10);
        match TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            Ok(()) => String::from_utf8_lossy(&out).into_owned(),
            // The encoder refuses only families without samples, and a registry gathers none of those.
            Err(error) => format!("# the metrics cannot be shown: {error}\n"),
        }
    }
}

#[cfg(test)]
mod tests;
