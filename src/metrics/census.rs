//! States that are read when somebody asks instead of being counted as they change.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{GaugeVec, Opts};

use super::families::VALID;
use super::labels::LabelBound;
use super::tenants::{Others, TenantFamilies, TenantUse};

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
        let descriptions = Gauges::new().all().flat_map(|gauge| gauge.desc()).cloned().collect();
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
        gauges.tenants.fill(&others.shown(&census.tenants));
        gauges.all().flat_map(Collector::collect).collect()
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
    tenants: TenantFamilies,
}

impl Gauges {
    fn new() -> Self {
        let gauge = |name, help, labels: &[&str]| GaugeVec::new(Opts::new(name, help), labels).expect(VALID);
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
            tenants: TenantFamilies::new(),
            replica_up: gauge("pgweir_replica_up", "1 when the replica takes reads, 0 when not.", &replica),
            replica_lag: gauge(
                "pgweir_replica_lag_seconds",
                "How far the replica's answers are behind the primary.",
                &replica,
            ),
            replica_lag_bytes: gauge("pgweir_replica_lag_bytes", "WAL that the replica has still to replay.", &replica),
        }
    }

    fn all(&self) -> impl Iterator<Item = &dyn Collector> {
        let states: [&dyn Collector; 7] = [
            &self.clients,
            &self.servers,
            &self.waiting,
            &self.longest_wait,
            &self.replica_up,
            &self.replica_lag,
            &self.replica_lag_bytes,
        ];
        states.into_iter().chain(self.tenants.all())
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
