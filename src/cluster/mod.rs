//! A cluster: one primary and its replicas, what is known of their health and freshness, and per
//! database and user the pools on all of them ([`Group`]).

mod catalog;
mod channels;
mod freshness;
mod greeting;
mod group;
mod host;
mod locks;
mod monitor;
mod refusals;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use catalog::CatalogKeeper;
pub use channels::{Audience, Channels, Heard, Subscription, TOKENS};
pub use freshness::{Clock, Moment};
pub use greeting::{Defaults, Greeting, GreetingError};
pub use group::{Group, Home, Place, Wanted};
pub use host::{Claim, Host, Role};

use crate::config::{ClusterConfig, HostConfig, PoolSettings};
use crate::metrics::Metrics;
use crate::pool::{Budgets, PoolCensus, PoolKey, Purpose, ROTATION};
use crate::server::connect::Login;

/// Without a read for this long the monitor falls to its slow beat.
const READS_ARE_RECENT: Duration = Duration::from_secs(5);

/// One primary and its replicas.
#[derive(Debug)]
pub struct Cluster {
    pub config: Arc<ClusterConfig>,
    pub primary: Arc<Host>,
    pub replicas: Vec<Arc<Host>>,
    pub clock: Arc<Clock>,
    metrics: Arc<Metrics>,
    groups: Mutex<HashMap<PoolKey, Arc<Group>>>,
    catalogs: Mutex<HashMap<String, Arc<CatalogKeeper>>>,
    audiences: Mutex<HashMap<String, Arc<Audience>>>,
    monitored: std::sync::Once,
    tasks: Mutex<tokio::task::JoinSet<()>>,
}

impl Cluster {
    /// Starts nothing but the sweep of its pools; the monitor starts with the first group, whose
    /// login it borrows unless the configuration names one.
    pub fn new(config: Arc<ClusterConfig>, metrics: Arc<Metrics>, budgets: &Budgets) -> Arc<Self> {
        let clock = Arc::new(Clock::default());
        let roles = config.roles;
        let host = |config: &HostConfig, role| {
            Arc::new(Host::new(Arc::new(config.clone()), role, roles, budgets.of(&config.address)))
        };
        let cluster = Arc::new(Self {
            primary: host(&config.primary, Role::Primary),
            replicas: config.replicas.iter().map(|replica| host(replica, Role::Replica)).collect(),
            clock,
            metrics,
            config,
            groups: Mutex::default(),
            catalogs: Mutex::default(),
            audiences: Mutex::default(),
            monitored: std::sync::Once::new(),
            tasks: Mutex::default(),
        });
        let weak = Arc::downgrade(&cluster);
        cluster.spawn(async move {
            loop {
                tokio::time::sleep(ROTATION).await;
                let Some(cluster) = weak.upgrade() else { return };
                cluster.all_groups().iter().for_each(|group| group.maintain());
            }
        });
        cluster
    }

    /// The pools of this database and user, made at first use. `login` holds names as the server
    /// knows them.
    pub fn group(self: &Arc<Self>, login: &Login, settings: &PoolSettings) -> Arc<Group> {
        let key = PoolKey { database: login.database.clone(), user: login.user.clone() };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = groups.get(&key) {
            if group.login_differs(login) {
                group.reconfigure(settings, login);
                if self.config.monitor.is_none() {
                    self.hosts().for_each(|host| host.locks.ask_as(login.clone()));
                }
            }
            return group.clone();
        }
        let catalog = self.catalog(&key.database);
        let group = Group::new(key.clone(), self, catalog, login.clone(), settings.clone(), &self.metrics);
        groups.insert(key, group.clone());
        drop(groups);
        self.spawn(catalog::keep(Arc::downgrade(&group)));
        self.monitored.call_once(|| self.monitor(login));
        group
    }

    /// What each server says of itself, in the order of [`Self::host`].
    pub fn claims(&self) -> Vec<Claim> {
        self.hosts().map(|host| host.claim()).collect()
    }

    /// By number: 0 is the primary.
    pub fn host(&self, number: usize) -> &Arc<Host> {
        number.checked_sub(1).map_or(&self.primary, |replica| &self.replicas[replica])
    }

    pub fn hosts(&self) -> impl Iterator<Item = &Arc<Host>> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }

    /// Every group that has been used.
    pub fn all_groups(&self) -> Vec<Arc<Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Pool sizes and logins of a new configuration with the same hosts.
    pub fn reconfigure(&self, settings: impl Fn(&PoolKey) -> Option<(PoolSettings, Login)>) {
        for group in self.all_groups() {
            match settings(&group.key) {
                Some((settings, login)) => group.reconfigure(&settings, &login),
                None => group.close(),
            }
        }
        // Should the user or database come back, it gets pools that are open.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, group| !group.is_closed());
    }

    /// Closes every pool and stops every task: the cluster has left the configuration.
    pub fn close(&self) {
        self.all_groups().iter().for_each(|group| group.close());
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }

    /// For metrics: every pool with its group and host.
    pub fn census(&self) -> Vec<(PoolKey, Arc<Host>, PoolCensus)> {
        let groups = self.all_groups();
        groups.iter().flat_map(|group| group.census()).collect()
    }

    /// Reads came lately: freshness is worth being measured often.
    fn clock_is_wanted(&self) -> bool {
        let now = self.clock.now();
        self.all_groups().iter().any(|group| now.since(group.last_read()) < READS_ARE_RECENT)
    }

    fn catalog(&self, database: &str) -> Arc<CatalogKeeper> {
        let mut catalogs = self.catalogs.lock().unwrap_or_else(PoisonError::into_inner);
        catalogs.entry(database.to_owned()).or_default().clone()
    }

    fn audience(&self, database: &str) -> Arc<Audience> {
        let mut audiences = self.audiences.lock().unwrap_or_else(PoisonError::into_inner);
        audiences.entry(database.to_owned()).or_default().clone()
    }

    fn monitor(self: &Arc<Self>, borrowed: &Login) {
        let login = match &self.config.monitor {
            Some(own) => Login {
                user: own.user.clone(),
                database: own.database.clone(),
                password: own.password.clone(),
                scram_keys: None,
                parameters: Vec::new(),
            },
            None => borrowed.clone(),
        };
        for host in self.hosts() {
            host.locks.ask_as(login.clone());
            if self.config.is_watched() {
                let place = host.budget.ask(Purpose::Watch);
                self.spawn(monitor::watch(Arc::downgrade(self), host.clone(), login.clone(), place));
            }
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Some come and go.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}
