//! The process's limit on open files: raised as far as allowed, and compared with what the ceilings need.

use std::collections::BTreeSet;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::{Config, UserConfig};

/// Listeners, the runtime, the log, monitors, cancel requests and the metrics endpoint.
const OWN: u64 = 200;

/// What the ceilings of a configuration add up to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesNeeded {
    pub clients: u64,
    pub server_connections: u64,
}

impl FilesNeeded {
    /// When every client and every pool is there that the configuration names. (One entry `*` counts
    /// as one database, and tenants' own databases and clusters are not counted: how many clients ask for is not known.)
    pub fn of(config: &Config) -> Self {
        let mut pools = BTreeSet::new();
        let mut server_connections = 0;
        for database in config.databases.values() {
            let hosts = config.clusters.get(&database.cluster).map_or(0, |cluster| 1 + cluster.replicas.len());
            let may_use = |user: &&std::sync::Arc<UserConfig>| {
                user.databases.is_empty() || user.databases.contains(&database.name)
            };
            for user in config.users.values().filter(may_use) {
                let on_server = database.server_name.as_ref().unwrap_or(&database.name);
                let server_user = user.server_user.as_ref().unwrap_or(&user.name);
                if pools.insert((&database.cluster, on_server, server_user)) {
                    server_connections += (hosts * database.pool.size) as u64;
                }
            }
        }
        // Those beyond `max_clients` are let in as far as to be told so.
        let clients = (config.listen.max_clients + config.listen.max_unauthenticated) as u64;
        Self { clients, server_connections }
    }

    fn total(self) -> u64 {
        self.clients + self.server_connections + OWN
    }
}

/// Raises the limit as far as the system lets it, and warns where that is not enough.
pub fn raise_limit(needed: FilesNeeded) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit on open files");
        }
    }
    if let Some(warning) = too_low(getrlimit(Resource::Nofile).current, needed) {
        tracing::warn!("{warning}");
    }
}

/// `limit` is `None` where there is none.
fn too_low(limit: Option<u64>, needed: FilesNeeded) -> Option<String> {
    let limit = limit.filter(|limit| *limit < needed.total())?;
    let FilesNeeded { clients, server_connections } = needed;
    Some(format!(
        "the limit on open files is {limit}, but {clients} clients ([listen] max_clients and max_unauthenticated), up \
         to {server_connections} server connections (users, hosts and pool sizes multiplied) and {OWN} for pgweir itself \
         need {}: raise it (LimitNOFILE= of the systemd unit, ulimit -n, --ulimit nofile of the container) or lower the \
         ceilings",
        needed.total()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_env;

    #[test]
    fn every_ceiling_counts() {
        let env = |name: &str| match name {
            "DATABASE_URL" => Some("postgres://u:p@db/app".to_owned()),
            "DATABASE_REPLICA_URLS" => Some("postgres://db2,postgres://db3".to_owned()),
            _ => None,
        };
        let config = from_env(&env).unwrap();
        // Two entries (app and *), one user, three hosts, 20 connections each.
        let needed = FilesNeeded::of(&config);
        assert_eq!(needed, FilesNeeded { clients: 11_000, server_connections: 120 });
        assert_eq!(too_low(None, needed), None);
        assert_eq!(too_low(Some(11_320), needed), None);
        let warning = too_low(Some(1024), needed).unwrap();
        for number in ["1024", "11000", "120", "11320"] {
            assert!(warning.contains(number), "{number}: {warning}");
        }
    }
}
