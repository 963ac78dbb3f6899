//! A working proxy from `DATABASE_URL` alone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::clusters::{named, unreadable_files};
use super::defaults::{DEFAULT_TIER, POLL_INTERVAL, SHUTDOWN_TIMEOUT, workers};
use super::listen::parse_address;
use super::pools::{ANY_DATABASE, any_database};
use super::report::Report;
use super::server_url::ServerUrl;
use super::{
    ClusterConfig, Config, ConfigErrors, Consistency, DatabaseConfig, HostConfig, Http, Listen, Log, LostNotifications,
    MonitorConfig, PoolSettings, Roles, Secret, Tenancy, Tier, UserAuth, UserConfig,
};

const PRIMARY: &str = "DATABASE_URL";
const REPLICAS: &str = "DATABASE_REPLICA_URLS";
const LISTEN: &str = "PGWEIR_LISTEN";
const HTTP: &str = "PGWEIR_HTTP";

/// Reads the environment:
///
/// - `DATABASE_URL`: the primary, its user and password, who is the only one that may log in, and its database;
/// - `DATABASE_REPLICA_URLS`: standbys, separated by commas or white space, with the same login;
/// - `PGWEIR_LISTEN`: the address for clients instead of 127.0.0.1:6432;
/// - `PGWEIR_HTTP`: the address for metrics and health, none without it.
pub fn from_env(env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    let report = Report::new("environment", "");
    let primary = match env(PRIMARY) {
        Some(text) => server(&report, PRIMARY, &text),
        None => {
            report.error(
                None,
                PRIMARY,
                "not set: expected postgres://user:password@host:5432/database (or a file: --config FILE)",
            );
            None
        }
    };
    let login = primary.as_ref().and_then(|url| login(&report, url));
    let replica_text = env(REPLICAS).unwrap_or_default();
    let replicas = replica_text.split([',', ' ', '\t', '\n', '\r']).filter(|text| !text.is_empty());
    let replicas = replicas.filter_map(|text| replica(&report, text, primary.as_ref())).collect();
    let mut listen = Listen::default();
    if let Some(address) = address(&report, LISTEN, env) {
        listen.addresses = vec![address];
    }
    let http = address(&report, HTTP, env).map(|address| Http { address });

    match (primary, login) {
        (Some(primary), Some(login)) => {
            let warnings = report.finish()?;
            Ok(Config { listen, http, warnings, ..config(login, primary, replicas) })
        }
        _ => Err(report.into_errors()),
    }
}

struct Login {
    user: String,
    password: Secret,
    database: String,
}

fn config(login: Login, primary: ServerUrl, replicas: Vec<HostConfig>) -> Config {
    const CLUSTER: &str = "main";
    let pool = PoolSettings::default();
    let mut databases = any_database(CLUSTER, pool.clone());
    // The one that is named has its own entry, so that its pools are there from the start.
    if let Some(any) = databases.get(ANY_DATABASE).cloned() {
        let named = DatabaseConfig { name: login.database.clone(), ..(*any).clone() };
        databases.insert(named.name.clone(), Arc::new(named));
    }
    let monitor = MonitorConfig {
        user: login.user.clone(),
        password: Some(login.password.clone()),
        database: login.database.clone(),
    };
    let cluster = ClusterConfig {
        name: CLUSTER.to_owned(),
        primary: named(None, primary),
        replicas,
        consistency: Consistency::Session,
        lost_notifications: LostNotifications::Close,
        max_server_connections: None,
        poll_interval: POLL_INTERVAL,
        max_staleness: None,
        freshness_wait: std::time::Duration::ZERO,
        roles: Roles::Configured,
        failover_wait: std::time::Duration::ZERO,
        monitor: Some(monitor),
    };
    let user = UserConfig {
        name: login.user,
        auth: UserAuth::Password(login.password),
        server_user: None,
        server_password: None,
        databases: Vec::new(),
        max_clients: None,
        replication: true,
        admin: false,
        may_set_tenant: false,
    };
    Config {
        listen: Listen::default(),
        http: None,
        log: Log::default(),
        pool,
        clusters: BTreeMap::from([(cluster.name.clone(), Arc::new(cluster))]),
        databases,
        users: BTreeMap::from([(user.name.clone(), Arc::new(user))]),
        tenants: Vec::new(),
        tenancy: Tenancy::default(),
        tiers: BTreeMap::new(),
        default_tier: Arc::new(Tier::unlimited(DEFAULT_TIER)),
        shutdown_timeout: SHUTDOWN_TIMEOUT,
        workers: workers(),
        warnings: Vec::new(),
    }
}

/// A URL with what is wrong or means nothing to us noted.
fn server(report: &Report, key: &str, text: &str) -> Option<ServerUrl> {
    let url = match ServerUrl::parse(text.trim(), Path::new("")) {
        Ok(url) => url,
        Err(error) => {
            report.error(None, key, error);
            return None;
        }
    };
    for (path, error) in unreadable_files(&url.tls) {
        report.error(None, key, format!("cannot read {}: {error}", path.display()));
    }
    // ORMs put parameters of their own into the URL; the client that reads them still has them.
    for name in &url.unknown {
        report.warn(None, key, format!("the parameter `{name}` is ignored"));
    }
    Some(url)
}

fn login(report: &Report, url: &ServerUrl) -> Option<Login> {
    if url.user.is_none() {
        report.error(None, PRIMARY, "expected a user in the URL: postgres://user:password@host:5432/database");
    }
    if url.password.is_none() {
        let message = "expected a password in the URL, which clients have to prove that they know; \
                       for a server that asks for none, write a file with auth = \"trust\"";
        report.error(None, PRIMARY, message);
    }
    let (user, password) = (url.user.clone()?, url.password.clone()?);
    // As in libpq, the database is called like the user when the URL names none.
    Some(Login { database: url.database.clone().unwrap_or_else(|| user.clone()), user, password })
}

/// A standby takes the primary's login, so one that differs would be lost silently.
fn replica(report: &Report, text: &str, primary: Option<&ServerUrl>) -> Option<HostConfig> {
    let url = server(report, REPLICAS, text)?;
    if let Some(primary) = primary {
        let differs = |replica: bool, what: &str| {
            if replica {
                report.error(None, REPLICAS, format!("expected the same {what} as in {PRIMARY}, or none"));
            }
        };
        differs(url.user.is_some() && url.user != primary.user, "user");
        differs(url.password.is_some() && url.password != primary.password, "password");
        differs(url.database.is_some() && url.database != primary.database, "database");
        if url.address == primary.address {
            report.error(None, REPLICAS, format!("expected another server than the one in {PRIMARY}"));
        }
    }
    Some(named(None, url))
}

fn address(report: &Report, key: &str, env: &dyn Fn(&str) -> Option<String>) -> Option<SocketAddr> {
    let text = env(key)?;
    let address = parse_address(text.trim());
    if address.is_none() {
        report.error(None, key, format!("expected an IP address and a port such as \"0.0.0.0:6432\", found {text:?}"));
    }
    address
}
