//! `[clusters]`: a primary, its replicas, and how reads are spread over them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::defaults::{FAILOVER_WAIT, MONITOR_DATABASE, POLL_INTERVAL};
use super::listen::{DAY, MILLISECOND, is_readable, set};
use super::reader::{Item, Section};
use super::secrets::{Surroundings, plain_password};
use super::server_url::ServerUrl;
use super::{ClusterConfig, Consistency, HostAddress, HostConfig, LostNotifications, MonitorConfig, Roles, ServerTls};

/// The clusters that could be read; the names of all are in the keys of the file.
pub(super) fn clusters(item: &Item, around: &Surroundings) -> BTreeMap<String, Arc<ClusterConfig>> {
    let read = |(name, item): (String, Item)| {
        let cluster = cluster(name.clone(), item.section()?, around)?;
        Some((name, Arc::new(cluster)))
    };
    let clusters = item.entries().into_iter().filter_map(read).collect();
    report_lack_of_places(item, &clusters);
    clusters
}

/// Servers that nobody could be connected to beside pgweir itself. An address is one server, in however many clusters it is.
fn report_lack_of_places(item: &Item, clusters: &BTreeMap<String, Arc<ClusterConfig>>) {
    let mut servers = HashMap::<&HostAddress, (Option<usize>, usize)>::new();
    for (cluster, (address, most)) in clusters.values().flat_map(|one| one.limits().map(move |limit| (one, limit))) {
        let (least, monitors) = servers.entry(address).or_default();
        *least = least.iter().copied().chain(most).min();
        *monitors += usize::from(cluster.is_watched());
    }
    for host in clusters.values().flat_map(|cluster| std::iter::once(&cluster.primary).chain(&cluster.replicas)) {
        if let Some((Some(most), monitors)) = servers.remove(&host.address)
            && most < monitors + 2
        {
            item.error(format!(
                "`max_server_connections` of \"{}\" is {most}, expected at least {}: one for clients, one for pgweir's own \
                 questions, and one to watch it for each cluster that it is in with others",
                host.name,
                monitors + 2
            ));
        }
    }
}

fn cluster(name: String, section: Section, around: &Surroundings) -> Option<ClusterConfig> {
    let host_items = section.get("hosts").map(|item| item.list());
    let roles = if host_items.is_some() { Roles::Asked } else { Roles::Configured };
    let mut host_items = host_items.unwrap_or_default().into_iter();
    let primary = match roles {
        Roles::Asked => host_items.next(),
        Roles::Configured => section.require("primary", "a URL such as \"postgres://10.0.0.1:5432\", or `hosts`"),
    };
    if roles == Roles::Asked && primary.is_none() {
        section.error("`hosts` is empty: expected the URLs of the cluster's servers");
    }
    let primary = primary.and_then(|item| host(&item, around));
    let replica_items = match roles {
        Roles::Asked => host_items.collect(),
        Roles::Configured => section.get("replicas").map(|item| item.list()).unwrap_or_default(),
    };
    let replicas: Vec<_> = replica_items.iter().map(|item| (item, host(item, around))).collect();
    report_twins(primary.as_ref(), &replicas);
    if roles == Roles::Asked {
        for key in ["primary", "replicas"] {
            if let Some(item) = section.get(key) {
                item.error(format!("`{key}` and `hosts` exclude each other: who is the primary is asked of `hosts`"));
            }
        }
    }
    let mut failover_wait = if roles == Roles::Asked { FAILOVER_WAIT } else { Duration::ZERO };
    set(
        &mut failover_wait,
        section
            .get("failover_wait")
            .and_then(|item| item.duration_or_zero(MILLISECOND..=Duration::from_secs(600), "nobody waits")),
    );

    let consistency = section.get("consistency").and_then(|item| item.choice(&Consistency::NAMES));
    let mut poll_interval = POLL_INTERVAL;
    let polls = MILLISECOND..=Duration::from_secs(10);
    set(&mut poll_interval, section.get("poll_interval").and_then(|item| item.duration(polls)));
    let max_staleness = section.get("max_staleness").and_then(|item| {
        let staleness = item.duration(MILLISECOND..=DAY)?;
        if staleness < poll_interval {
            // Its age when measured is up to one interval: no replica could ever be taken.
            item.expected::<()>("at least `poll_interval`, since staleness is known no better than that");
        }
        Some(staleness)
    });
    let mut freshness_wait = Duration::ZERO;
    set(
        &mut freshness_wait,
        section
            .get("freshness_wait")
            .and_then(|item| item.duration_or_zero(MILLISECOND..=Duration::from_secs(60), "reads do not wait")),
    );
    let told = [("close", LostNotifications::Close), ("notice", LostNotifications::Notice)];
    let lost_notifications = section.get("lost_notifications").and_then(|item| item.choice(&told));
    let max_server_connections = most_connections(&section);
    let monitor = section.get("monitor").and_then(|item| monitor(item.section()?, around));
    section.finish();
    Some(ClusterConfig {
        name,
        primary: primary?,
        replicas: replicas.into_iter().filter_map(|(_, host)| host).collect(),
        roles,
        failover_wait,
        consistency: consistency.unwrap_or(Consistency::Session),
        poll_interval,
        max_staleness,
        freshness_wait,
        lost_notifications: lost_notifications.unwrap_or(LostNotifications::Close),
        max_server_connections,
        monitor,
    })
}

fn most_connections(section: &Section) -> Option<usize> {
    section.get("max_server_connections").and_then(|item| item.count(1..=100_000))
}

/// A URL, or a table with that and more.
fn host(item: &Item, around: &Surroundings) -> Option<HostConfig> {
    if item.is_string() {
        return host_from_url(item, None, around);
    }
    let section = item.section_or("a URL such as \"postgres://10.0.0.1:5432\", or { url = \"…\", name = \"…\" }")?;
    let name = section.get("name").and_then(|item| item.name());
    let url = section.require("url", "a URL such as \"postgres://10.0.0.1:5432\"");
    let max_server_connections = most_connections(&section);
    section.finish();
    Some(HostConfig { max_server_connections, ..host_from_url(&url?, name, around)? })
}

fn host_from_url(item: &Item, name: Option<String>, around: &Surroundings) -> Option<HostConfig> {
    let url = match ServerUrl::parse(item.secret_string()?, around.base) {
        Ok(url) => url,
        Err(error) => {
            item.error(error);
            return None;
        }
    };
    if url.user.is_some() || url.password.is_some() {
        item.error("a cluster's URL holds no login: expected it in [[users]] (or `monitor`)");
    }
    if url.database.is_some() {
        item.error("a cluster's URL holds no database: expected it in [databases]");
    }
    for name in &url.unknown {
        item.error(format!(
            "unknown parameter `{name}` in the URL: expected host, port, sslmode, sslrootcert, sslcert or sslkey"
        ));
    }
    for (path, error) in unreadable_files(&url.tls) {
        item.error(format!("cannot read {}: {error}", path.display()));
    }
    Some(named(name, url))
}

/// The TLS files of a host that cannot be opened.
pub(super) fn unreadable_files(tls: &ServerTls) -> Vec<(&Path, std::io::Error)> {
    let files = [&tls.root_cert, &tls.cert, &tls.key];
    files.into_iter().flatten().filter_map(|path| Some((path.as_path(), is_readable(path).err()?))).collect()
}

/// A host called by its address unless it has a name.
pub(super) fn named(name: Option<String>, url: ServerUrl) -> HostConfig {
    let name = name.unwrap_or_else(|| match &url.address {
        HostAddress::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
        HostAddress::Tcp { host, port } => format!("{host}:{port}"),
        HostAddress::Unix(path) => path.display().to_string(),
    });
    HostConfig { name, address: url.address, tls: url.tls, max_server_connections: None }
}

/// Hosts are told apart by name in metrics and logs, and one server must not be both primary and replica.
fn report_twins(primary: Option<&HostConfig>, replicas: &[(&Item, Option<HostConfig>)]) {
    let mut seen: Vec<&HostConfig> = primary.into_iter().collect();
    for (item, host) in replicas {
        let Some(host) = host else { continue };
        if seen.iter().any(|other| other.address == host.address) {
            item.error("expected another server: this address is in the cluster already");
        } else if seen.iter().any(|other| other.name == host.name) {
            item.error(format!("expected a name of its own: \"{}\" is in the cluster already", host.name));
        }
        seen.push(host);
    }
}

fn monitor(section: Section, around: &Surroundings) -> Option<MonitorConfig> {
    let user = section.require("user", "the name of a role (pg_monitor is enough)").and_then(|item| item.name());
    let password = section.get("password").and_then(|item| plain_password(&item, around));
    let database = section.get("database").and_then(|item| item.name());
    section.finish();
    Some(MonitorConfig { user: user?, password, database: database.unwrap_or_else(|| MONITOR_DATABASE.to_owned()) })
}
