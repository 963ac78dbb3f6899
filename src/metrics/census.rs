//! States that are read when somebody asks instead of being counted as they change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{CounterVec, GaugeVec, Opts};

use super::families::VALID;
use super::labels::{LabelBound, OTHER};

/// Counts clients, server connections, waiters and replicas as they are now. Called at every
/// scrape, so it must not wait for anything longer than a short lock.
pub trait Census {
    fn census(&self) -> CensusSnapshot;
}

/// The answer of a [`Census`]. Entries with the same names are added up (of waits, the longest counts).
#[derive(Debug, Clone, Default)]
pub struct CensusSnapshot {
    pub clients: Vec<ClientCount>,
    pub servers: Vec<ServerCount>,
    pub waiting: Vec<WaitCount>,
    pub replicas: Vec<ReplicaState>,
    pub tenants: Vec<TenantUse>,
}

/// What a tenant has, and has used since the process started.
#[derive(Debug, Clone, Default)]
pub struct TenantUse {
    pub tenant: String,
    pub clients: usize,
    pub transactions: u64,
    /// Time for which servers have worked for it.
    pub worked: Duration,
}

/// Client connections of one database and user; both empty before authentication.
#[derive(Debug, Clone)]
pub struct ClientCount {
    pub database: String,
    pub user: String,
    /// Such as `authenticating`, `idle`, `waiting`, `active`, `idle_in_transaction`, `pinned`.
    pub state: &'static str,
    pub count: usize,
}

/// Server connections of one pool.
#[derive(Debug, Clone)]
pub struct ServerCount {
    pub database: String,
    pub user: String,
    pub host: String,
    /// `primary` or `replica`.
    pub role: &'static str,
    /// Such as `connecting`, `idle`, `leased`.
    pub state: &'static str,
    pub count: usize,
}

/// Clients that wait for a server connection.
#[derive(Debug, Clone)]
pub struct WaitCount {
    pub database: String,
    pub user: String,
    pub count: usize,
    /// How long the one at the head has been waiting.
    pub longest: Duration,
}

/// One replica as its monitor sees it.
#[derive(Debug, Clone)]
pub struct ReplicaState {
    pub cluster: String,
    pub host: String,
    /// It answers and takes reads.
    pub up: bool,
    /// How far its answers are behind the primary; `None` when not known.
    pub lag: Option<Duration>,
    /// WAL that it has still to replay, in bytes.
    pub lag_bytes: Option<u64>,
}

/// Asks the census, if there is one, at each scrape.
#[derive(Clone)]
pub(super) struct CensusCollector {
    source: Arc<OnceLock<Arc<dyn Census + Send + Sync>>>,
    logins: Arc<LabelBound>,
    others: Arc<Mutex<Others>>,
    descriptions: Vec<Desc>,
}

impl CensusCollector {
    pub(super) fn new(source: Arc<OnceLock<Arc<dyn Census + Send + Sync>>>, logins: Arc<LabelBound>) -> Self {
        let descriptions = Gauges::new().all().into_iter().flat_map(|gauge| gauge.desc()).cloned().collect();
        Self { source, logins, others: Arc::default(), descriptions }
    }
}

impl Collector for CensusCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let Some(source) = self.source.get() else { return Vec::new() };
        // New gauges every time: a pool that is gone leaves no series behind.
        let gauges = Gauges::new();
        let census = source.census();
        gauges.fill(&census, &self.logins);
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        gauges.fill_tenants(&others.shown(&census.tenants));
        gauges.all().into_iter().flat_map(Collector::collect).collect()
    }
}

struct Gauges {
    clients: GaugeVec,
    servers: GaugeVec,
    waiting: GaugeVec,
    longest_wait: GaugeVec,
    replica_up: GaugeVec,
    replica_lag: GaugeVec,
    replica_lag_bytes: GaugeVec,
    tenant_clients: GaugeVec,
    tenant_transactions: CounterVec,
    tenant_seconds: CounterVec,
}

impl Gauges {
    fn new() -> Self {
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels).expect(VALID);
        let counter = |name, help| CounterVec::new(Opts::new(name, help), &["tenant"]).expect(VALID);
        let (login, replica) = (["database", "user"], ["cluster", "host"]);
        Self {
            clients: gauge("pgweir_clients", "Client connections, by state.", &["database", "user", "state"]),
            servers: gauge(
                "pgweir_server_connections",
                "Server connections, by state.",
                &["database", "user", "host", "role", "state"],
            ),
            waiting: gauge("pgweir_waiting_clients", "Clients that wait for a server connection.", &login),
            longest_wait: gauge(
                "pgweir_longest_wait_seconds",
                "How long the client at the head of the queue has been waiting.",
                &login,
            ),
            tenant_clients: gauge(
                "pgweir_tenant_clients",
                "Client connections, of the tenants that have used most.",
                &["tenant"],
            ),
            tenant_transactions: counter(
                "pgweir_tenant_transactions_total",
                "Transactions finished, of the tenants that have used most, and of all others together.",
            ),
            tenant_seconds: counter(
                "pgweir_tenant_backend_seconds_total",
                "Time for which servers have worked, for the tenants that have used most, and for all others together.",
            ),
            replica_up: gauge("pgweir_replica_up", "1 when the replica takes reads, 0 when not.", &replica),
            replica_lag: gauge(
                "pgweir_replica_lag_seconds",
                "How far the replica's answers are behind the primary.",
                &replica,
            ),
            replica_lag_bytes: gauge("pgweir_replica_lag_bytes", "WAL that the replica has still to replay.", &replica),
        }
    }

    fn all(&self) -> [&dyn Collector; 10] {
        [
            &self.clients,
            &self.servers,
            &self.waiting,
            &self.longest_wait,
            &self.replica_up,
            &self.replica_lag,
            &self.replica_lag_bytes,
            &self.tenant_clients,
            &self.tenant_transactions,
            &self.tenant_seconds,
        ]
    }

    fn fill_tenants(&self, tenants: &[TenantUse]) {
        for entry in tenants {
            // One may be called like all the others.
            let labels = [&*entry.tenant];
            self.tenant_clients.with_label_values(&labels).add(entry.clients as f64);
            self.tenant_transactions.with_label_values(&labels).inc_by(entry.transactions as f64);
            self.tenant_seconds.with_label_values(&labels).inc_by(entry.worked.as_secs_f64());
        }
    }

    fn fill(&self, snapshot: &CensusSnapshot, logins: &LabelBound) {
        for entry in &snapshot.clients {
            let [database, user] = logins.admit([&entry.database, &entry.user]);
            self.clients.with_label_values(&[database, user, entry.state]).add(entry.count as f64);
        }
        for entry in &snapshot.servers {
            let [database, user] = logins.admit([&entry.database, &entry.user]);
            let labels = [database, user, &*entry.host, entry.role, entry.state];
            self.servers.with_label_values(&labels).add(entry.count as f64);
        }
        for entry in &snapshot.waiting {
            let labels = logins.admit([&entry.database, &entry.user]);
            self.waiting.with_label_values(&labels).add(entry.count as f64);
            let longest = self.longest_wait.with_label_values(&labels);
            longest.set(longest.get().max(entry.longest.as_secs_f64()));
        }
        for entry in &snapshot.replicas {
            let labels = [&*entry.cluster, &*entry.host];
            self.replica_up.with_label_values(&labels).set(f64::from(u8::from(entry.up)));
            if let Some(lag) = entry.lag {
                self.replica_lag.with_label_values(&labels).set(lag.as_secs_f64());
            }
            if let Some(bytes) = entry.lag_bytes {
                self.replica_lag_bytes.with_label_values(&labels).set(bytes as f64);
            }
        }
    }
}

/// Tenants with series of their own: those for which servers have worked for longest.
const MOST_TENANTS: usize = 100;

/// What all tenants without series of their own have used. A counter that never falls: it takes what each has used
/// while it was one of them, whatever it is later.
#[derive(Debug, Default)]
struct Others {
    transactions: u64,
    worked: Duration,
    /// Of each tenant, when it was last looked at.
    seen: HashMap<String, (u64, Duration)>,
}

impl Others {
    /// Those who have used most, and all others as one.
    fn shown(&mut self, tenants: &[TenantUse]) -> Vec<TenantUse> {
        let mut all = tenants.to_vec();
        all.sort_unstable_by(|one, two| two.worked.cmp(&one.worked).then_with(|| one.tenant.cmp(&two.tenant)));
        let rest = all.split_off(all.len().min(MOST_TENANTS));
        for one in &rest {
            let (transactions, worked) = self.seen.get(&one.tenant).copied().unwrap_or_default();
            self.transactions += one.transactions.saturating_sub(transactions);
            self.worked += one.worked.saturating_sub(worked);
        }
        self.seen = tenants.iter().map(|one| (one.tenant.clone(), (one.transactions, one.worked))).collect();
        let clients = rest.iter().map(|one| one.clients).sum();
        if !rest.is_empty() || self.transactions > 0 || !self.worked.is_zero() {
            let (transactions, worked) = (self.transactions, self.worked);
            all.push(TenantUse { tenant: OTHER.to_owned(), clients, transactions, worked });
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_have_used_most_are_shown_and_what_the_others_have_used_never_falls() {
        let tenant = |number: u64, worked: u64| TenantUse {
            tenant: format!("t{number}"),
            clients: 1,
            transactions: worked,
            worked: Duration::from_secs(worked),
        };
        let mut all: Vec<_> = (0..105).map(|number| tenant(number, number)).collect();
        let mut others = Others::default();
        let shown = others.shown(&all);
        assert_eq!(shown.len(), MOST_TENANTS + 1);
        assert_eq!((&*shown[0].tenant, &*shown[99].tenant), ("t104", "t5"));
        let other = &shown[100];
        assert_eq!((&*other.tenant, other.clients, other.transactions), (OTHER, 5, 10));
        // One of the others overtakes one of the first; another one uses more.
        all[4] = tenant(4, 50);
        assert_eq!(others.shown(&all)[100].transactions, 10);
        all[3] = tenant(3, 4);
        assert_eq!(others.shown(&all)[100].transactions, 11);
        assert_eq!(Others::default().shown(&all[..3]).len(), 3);
    }
}
