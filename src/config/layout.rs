//! Which database and cluster serve a client: by the name that it asks for, and by its tenant's layout.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::pools::{ANY_DATABASE, reference};
use super::reader::{Item, Section};
use super::{Config, DatabaseConfig};

/// Where the clients of a tenant are served, whatever they ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// `None`: the database's own.
    pub cluster: Option<String>,
    /// As clients would ask for it; `None`: the one that they ask for.
    pub database: Option<String>,
}

impl Config {
    /// What serves clients who ask for this database: its entry, else that of every other name.
    pub fn database(&self, name: &str) -> Option<&Arc<DatabaseConfig>> {
        self.databases.get(name).or_else(|| self.databases.get(ANY_DATABASE))
    }

    /// What serves a tenant's clients in this database. A cluster of the tenant's own takes the place of the entry's, and
    /// needs no entry.
    pub fn database_in(&self, layout: &Layout, name: &str) -> Option<Arc<DatabaseConfig>> {
        let found = self.database(name);
        let Some(cluster) = layout.cluster.clone() else { return found.cloned() };
        let database = match found {
            Some(entry) => DatabaseConfig { cluster, ..DatabaseConfig::clone(entry) },
            None => DatabaseConfig { name: name.to_owned(), cluster, server_name: None, pool: self.pool.clone() },
        };
        Some(Arc::new(database))
    }

    /// What a layout names that this configuration does not have, such as `cluster "eu"`.
    pub fn missing(&self, layout: &Layout) -> Option<String> {
        let unknown = layout.cluster.as_ref().filter(|cluster| !self.clusters.contains_key(*cluster));
        if let Some(cluster) = unknown {
            return Some(format!("cluster \"{cluster}\""));
        }
        let serves = |name: &str| name != ANY_DATABASE && self.database_in(layout, name).is_some();
        layout.database.as_ref().filter(|name| !serves(name)).map(|name| format!("database \"{name}\""))
    }
}

/// The keys `cluster` and `database` of a tenant.
pub(super) fn layout(section: &Section, clusters: &BTreeSet<String>, databases: &BTreeSet<String>) -> Layout {
    let cluster = section.get("cluster");
    let database = section.get("database").and_then(|item| match cluster {
        // Any name is one of that cluster.
        Some(_) => one_name(&item),
        None => one_database(&item, databases),
    });
    Layout { cluster: cluster.and_then(|item| reference(&item, clusters, "cluster")), database }
}

/// A database that clients could ask for.
pub(super) fn one_database(item: &Item, databases: &BTreeSet<String>) -> Option<String> {
    let name = one_name(item)?;
    if databases.contains(ANY_DATABASE) { Some(name) } else { reference(item, databases, "database") }
}

fn one_name(item: &Item) -> Option<String> {
    let name = item.name()?;
    if name == ANY_DATABASE { item.expected("the name of one database") } else { Some(name) }
}
