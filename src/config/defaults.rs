//! What holds where the file says nothing; `config/pgweir.toml` shows the same values and a test compares them.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{Listen, Log, LogFormat, LoginLimits, PoolMode, PoolSettings};

/// For how long a write waits for a primary, where servers are asked for their roles.
pub const FAILOVER_WAIT: Duration = Duration::from_secs(10);
/// How often the hosts are asked for their WAL positions.
pub const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What running transactions get after SIGTERM.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// The tier of clients that no tenant matches.
pub const DEFAULT_TIER: &str = "standard";
/// The database that the monitor logs in to.
pub const MONITOR_DATABASE: &str = "postgres";

/// PgBouncer's port, on which nothing but this machine can reach us until the operator says so.
pub const LISTEN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6432);

impl Default for Listen {
    fn default() -> Self {
        Self {
            addresses: vec![LISTEN_ADDRESS],
            unix_socket_dir: None,
            tls: None,
            max_clients: 10_000,
            max_unauthenticated: 1_000,
            startup_timeout: Duration::from_secs(15),
            max_startup_packet: 10_000,
            tcp_keepalive: Duration::from_secs(60),
            login_limits: LoginLimits::default(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Auto, statements: false }
    }
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            min_idle: 0,
            queue_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(10 * 60),
            max_lifetime: Duration::from_secs(60 * 60),
            check_after: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            prepared_cache: 4 << 20,
            reuse: true,
            queue_length: 10_000,
        }
    }
}

/// One runtime thread per processor that this process may use.
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
