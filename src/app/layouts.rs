//! By which names clients come to a pool that is there already: those of `[databases]`, and those of tenants' layouts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::config::{ANY_DATABASE, Config, DatabaseConfig, Layout};

/// Of one configuration and its tenants.
pub(super) struct Layouts<'a> {
    config: &'a Config,
    /// Tenants' own databases, by their clusters and names on the server.
    own: HashMap<(String, String), Arc<DatabaseConfig>>,
    /// Clusters of tenants whose clients name the database.
    clusters: HashSet<&'a str>,
}

/// One way to a pool.
pub(super) struct Way {
    pub entry: Arc<DatabaseConfig>,
    /// What clients ask for; `None`: whatever they like, since their tenant's layout says it.
    pub asked: Option<String>,
}

impl<'a> Layouts<'a> {
    pub fn new(config: &'a Config, layouts: impl Iterator<Item = &'a Layout>) -> Self {
        let (mut own, mut clusters) = (HashMap::new(), HashSet::new());
        for layout in layouts {
            if let Some(name) = &layout.database {
                let Some(entry) = config.database_in(layout, name) else { continue };
                let on_server = entry.server_name.as_ref().unwrap_or(name).clone();
                own.insert((entry.cluster.clone(), on_server), entry);
            } else {
                clusters.extend(layout.cluster.as_deref());
            }
        }
        Self { config, own, clusters }
    }

    /// Every way to the pools of this database on the server; what `[databases]` says of the cluster comes first.
    pub fn ways(&self, cluster: &str, on_server: &str) -> Vec<Way> {
        let mut named = self.entries(on_server);
        named.sort_by_key(|way| (way.entry.cluster != cluster, way.entry.name == ANY_DATABASE));
        if !self.clusters.contains(cluster) {
            named.retain(|way| way.entry.cluster == cluster);
        }
        if named.is_empty() && self.clusters.contains(cluster) && self.config.database(on_server).is_none() {
            let layout = Layout { cluster: Some(cluster.to_owned()), database: None };
            let entry = self.config.database_in(&layout, on_server);
            named.extend(entry.map(|entry| Way { entry, asked: Some(on_server.to_owned()) }));
        }
        let own = self.own.get(&(cluster.to_owned(), on_server.to_owned()));
        named.extend(own.map(|entry| Way { entry: entry.clone(), asked: None }));
        named
    }

    /// The entries that lead to databases of this name on whatever server.
    fn entries(&self, on_server: &str) -> Vec<Way> {
        let databases = &self.config.databases;
        let leads = |entry: &&Arc<DatabaseConfig>| match &entry.server_name {
            Some(name) => name == on_server,
            None => entry.name == on_server || entry.name == ANY_DATABASE && !databases.contains_key(on_server),
        };
        let asked =
            |entry: &DatabaseConfig| if entry.name == ANY_DATABASE { on_server } else { &entry.name }.to_owned();
        let way = |entry: &Arc<DatabaseConfig>| Way { entry: entry.clone(), asked: Some(asked(entry)) };
        databases.values().filter(leads).map(way).collect()
    }
}
