//! The checked configuration: what every other module may rely on.
//!
//! [`Config`] is built whole by [`load`] (from a TOML file) or [`from_env`] (from `DATABASE_URL`)
//! and never changes afterwards: a reload makes a new one. Durations and sizes are already in
//! their types, secrets already resolved, every name that refers to another section already found.

mod clusters;
mod defaults;
mod env;
mod error;
mod layout;
mod listen;
mod load;
mod pools;
mod rates;
mod reader;
mod report;
mod secrets;
mod server_url;
mod tenancy;
mod tenants;
#[cfg(test)]
mod tests;
mod units;
mod users;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use env::from_env;
pub use error::{ConfigError, ConfigErrors};
pub use layout::Layout;
pub use listen::parse_address;
pub use load::load;
pub use pools::ANY_DATABASE;
pub use rates::{Counted, Rate, RateLimit, show_wait};
pub use tenancy::{Pattern, Source, Tenancy, TenantsQuery, Unknown};
pub use tenants::{DEFAULT_TENANT, limited};
pub use units::{NEVER, show_duration, show_size};

/// Everything that a running proxy was told.
#[derive(Debug, Clone)]
pub struct Config {
    pub listen: Listen,
    pub http: Option<Http>,
    pub log: Log,
    /// Defaults for every pool; a database may override them.
    pub pool: PoolSettings,
    /// By cluster name.
    pub clusters: BTreeMap<String, Arc<ClusterConfig>>,
    /// By the name that clients connect to. The key `*` serves every name without an entry of its own.
    pub databases: BTreeMap<String, Arc<DatabaseConfig>>,
    /// By user name.
    pub users: BTreeMap<String, Arc<UserConfig>>,
    /// In the order of the file: the first match wins.
    pub tenants: Vec<Arc<TenantConfig>>,
    pub tenancy: Tenancy,
    /// By name.
    pub tiers: BTreeMap<String, Arc<Tier>>,
    /// What holds for a client that no tenant matches.
    pub default_tier: Arc<Tier>,
    /// How long running transactions may go on after SIGTERM.
    pub shutdown_timeout: Duration,
    /// Runtime threads.
    pub workers: usize,
    /// What is allowed but worth a second look; to be shown at every start.
    pub warnings: Vec<ConfigError>,
}

/// The client-facing side.
#[derive(Debug, Clone)]
pub struct Listen {
    pub addresses: Vec<SocketAddr>,
    /// A directory in which `.s.PGSQL.<port>` is made; the port is that of the first address.
    pub unix_socket_dir: Option<PathBuf>,
    pub tls: Option<ListenTls>,
    /// Ceiling on authenticated and unauthenticated client connections together.
    pub max_clients: usize,
    /// Ceiling on connections that have not finished authentication.
    pub max_unauthenticated: usize,
    /// From accept to the end of authentication.
    pub startup_timeout: Duration,
    /// Largest startup packet, in bytes (PostgreSQL's own limit is 10,000).
    pub max_startup_packet: usize,
    pub tcp_keepalive: Duration,
    pub login_limits: LoginLimits,
}

/// How often clients may try to log in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LoginLimits {
    /// From one IP address; of IPv6, from one network of 64 bits.
    pub per_address: Option<Rate>,
    /// Of one user's name, whether there is such a user or not.
    pub per_user: Option<Rate>,
}

/// TLS offered to clients.
#[derive(Debug, Clone)]
pub struct ListenTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Certificates are asked of clients and checked against these authorities.
    pub client_ca: Option<PathBuf>,
    /// Refuse clients that do not use TLS (Unix sockets excepted).
    pub required: bool,
}

/// Metrics and health.
#[derive(Debug, Clone)]
pub struct Http {
    pub address: SocketAddr,
}

/// What is logged, and how.
#[derive(Debug, Clone)]
pub struct Log {
    /// A `tracing` filter such as `info` or `pgweir=debug`.
    pub level: String,
    pub format: LogFormat,
    /// Log the text of statements (they may hold personal data).
    pub statements: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// When a server connection goes back to its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PoolMode {
    Transaction,
    Session,
    Statement,
}

#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    pub mode: PoolMode,
    /// Server connections per (database, user, host).
    pub size: usize,
    /// Connections kept open even when idle.
    pub min_idle: usize,
    /// How long a client may wait for a server connection.
    pub queue_timeout: Duration,
    /// An unused server connection above `min_idle` is closed after this ([`NEVER`] is a hundred years).
    pub idle_timeout: Duration,
    /// A server connection is not reused after this age (spread by up to 10 %; [`NEVER`] as above).
    pub max_lifetime: Duration,
    /// A connection that has been idle for longer is checked with a round trip before use; 0: always.
    pub check_after: Duration,
    pub connect_timeout: Duration,
    /// Bytes of statement text kept prepared on one server connection.
    pub prepared_cache: usize,
    /// In session mode: a server connection that its client has left serves others.
    pub reuse: bool,
    /// As many clients may wait for a connection of one pool.
    pub queue_length: usize,
}

/// One primary and its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    pub name: String,
    pub roles: Roles,
    /// Where roles are asked: the first server, until another is found to be the primary.
    pub primary: HostConfig,
    pub replicas: Vec<HostConfig>,
    /// How long who needs the primary waits for one, while there is none.
    pub failover_wait: Duration,
    pub consistency: Consistency,
    /// How often the hosts are asked for their WAL positions while reads come.
    pub poll_interval: Duration,
    /// A replica that lags by more takes no reads.
    pub max_staleness: Option<Duration>,
    /// How long a read waits for a replica that is about to show what it has to see, before it goes to the primary.
    pub freshness_wait: Duration,
    /// What a client that listens is told when notifications may have been missed.
    pub lost_notifications: LostNotifications,
    /// Server connections of each of its hosts, over all pools; `None`: as many as the pools have.
    pub max_server_connections: Option<usize>,
    /// The login of the monitor and of the catalog reader; else the users' own.
    pub monitor: Option<MonitorConfig>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct MonitorConfig {
    pub user: String,
    pub password: Option<Secret>,
    pub database: String,
}

/// Who says which server of a cluster is the primary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Roles {
    /// `primary` and `replicas`.
    Configured,
    /// The servers of `hosts` themselves, again and again.
    Asked,
}

/// What a client that listens is told when the connection is lost on which pgweir listens for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostNotifications {
    /// Its connection is closed, as with PostgreSQL.
    Close,
    /// A NOTICE says so, once pgweir listens again.
    Notice,
}

/// Which writes a read has to see (design: freshness).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    Session,
    Tenant,
    Eventual,
}

/// Where a PostgreSQL server is and how to reach it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostConfig {
    /// A short name for metrics and logs: `host:port` unless the file names it.
    pub name: String,
    pub address: HostAddress,
    pub tls: ServerTls,
    /// Where it is another than its cluster's ([`ClusterConfig::max_server_connections`]).
    pub max_server_connections: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostAddress {
    Tcp {
        host: String,
        port: u16,
    },
    /// The socket file itself.
    Unix(PathBuf),
}

/// libpq's `sslmode` and its files (PostgreSQL, "SSL Support").
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerTls {
    pub mode: SslMode,
    pub root_cert: Option<PathBuf>,
    pub cert: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SslMode {
    Disable,
    Allow,
    Prefer,
    Require,
    VerifyCa,
    VerifyFull,
}

#[derive(Debug, Clone, PartialEq)]
pub struct DatabaseConfig {
    /// The name that clients use.
    pub name: String,
    pub cluster: String,
    /// The name on the server; that of the client when `None`.
    pub server_name: Option<String>,
    /// `Config::pool` with this database's overrides.
    pub pool: PoolSettings,
}

#[derive(Debug, Clone, PartialEq)]
pub struct UserConfig {
    pub name: String,
    pub auth: UserAuth,
    /// The user of the server connections; the same name when `None`.
    pub server_user: Option<String>,
    /// For the server connections; the password in `auth` when `None`.
    pub server_password: Option<Secret>,
    /// Empty: all databases.
    pub databases: Vec<String>,
    pub max_clients: Option<usize>,
    /// May it open replication connections, as far as the server lets it?
    pub replication: bool,
    /// May it connect to the console (the database `pgweir`)?
    pub admin: bool,
    /// May its sessions say for which tenant they work (`SET pgweir.tenant`)?
    pub may_set_tenant: bool,
}

/// How a client proves that it is this user.
#[derive(Debug, Clone, PartialEq)]
pub enum UserAuth {
    /// SCRAM-SHA-256 (or -PLUS) against a password that is known in plain.
    Password(Secret),
    /// SCRAM against a stored `SCRAM-SHA-256$…` verifier.
    Scram(Secret),
    /// PostgreSQL's md5 challenge, with a plain password or a stored `md5…` hash.
    Md5(Secret),
    /// A client certificate whose common name is the user's.
    Certificate,
    /// No proof asked.
    Trust,
}

/// A string that is never shown: `Debug` and `Display` hide it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the one place that needs it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Consistency {
    /// Every one, by its name in configuration, settings and hints.
    pub const NAMES: [(&'static str, Self); 3] =
        [("session", Self::Session), ("tenant", Self::Tenant), ("eventual", Self::Eventual)];

    pub fn named(name: &str) -> Option<Self> {
        let found = Self::NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, consistency)| *consistency)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Session => "session",
            Self::Tenant => "tenant",
            Self::Eventual => "eventual",
        }
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

impl ClusterConfig {
    /// Whether its servers are asked for their health and their roles: a connection to each, always.
    pub fn is_watched(&self) -> bool {
        !self.replicas.is_empty() || self.roles == Roles::Asked
    }

    /// Each of its servers, and how many connections there may be to it.
    pub fn limits(&self) -> impl Iterator<Item = (&HostAddress, Option<usize>)> {
        let all = self.max_server_connections;
        let hosts = std::iter::once(&self.primary).chain(&self.replicas);
        hosts.map(move |host| (&host.address, host.max_server_connections.or(all)))
    }
}

/// Limits that a tenant is held to.
#[derive(Debug, Clone, PartialEq)]
pub struct Tier {
    pub name: String,
    /// `None`: no ceiling.
    pub statement_timeout: Option<Duration>,
    /// From a transaction's first statement to its end.
    pub transaction_timeout: Option<Duration>,
    /// For each lock that a statement waits for.
    pub lock_timeout: Option<Duration>,
    /// Between two statements of a transaction.
    pub idle_in_transaction_timeout: Option<Duration>,
    pub max_clients: Option<usize>,
    /// In place of the cluster's.
    pub consistency: Option<Consistency>,
    /// Server connections that its sessions may keep to themselves.
    pub max_pinned: Option<usize>,
    pub pinning: Pinning,
    /// All of them hold.
    pub rate_limits: Arc<[RateLimit]>,
    /// Who gets more of the servers' time, where there is too little.
    pub priority: Priority,
    /// Server connections that it may use at once, on all servers together.
    pub max_server_connections: Option<usize>,
    /// Connections of each pool that others leave to it while it has clients.
    pub min_server_connections: usize,
    /// As many of its clients may wait for a server connection.
    pub queue_length: Option<usize>,
    /// What its sessions have and may not change: names, in lower case, and values.
    pub settings: BTreeMap<String, String>,
    /// Whatever could change those in a way that its text does not show is refused.
    pub strict: bool,
    pub layout: Layout,
}

/// How much of the servers' time a tenant gets where others want it too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub fn name(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    /// Each has four times as much as the next.
    pub const fn weight(self) -> u32 {
        match self {
            Self::High => 16,
            Self::Normal => 4,
            Self::Low => 1,
        }
    }
}

/// May a session make state that only one server connection has?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pinning {
    /// It keeps that connection to itself until the state is gone.
    #[default]
    Allow,
    /// The statement is refused.
    Refuse,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TenantConfig {
    pub name: String,
    /// Its clients are those of which one of these holds.
    pub matches: Vec<TenantMatch>,
    /// The tier with the tenant's overrides already applied.
    pub limits: Arc<Tier>,
}

/// Conditions that must all hold; at least one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TenantMatch {
    pub conditions: Vec<(Source, Pattern)>,
}

impl TenantMatch {
    fn looks_at(&self, wanted: Source) -> bool {
        self.conditions.iter().any(|(source, _)| *source == wanted)
    }
}
