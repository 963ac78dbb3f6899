//! One configuration put to work: what a client who comes now is let in with.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::layouts::Layouts;
use super::queried::Queried;
use crate::auth::{AccountError, ScramKeys};
use crate::client::{HandshakeContext, Lasting};
use crate::cluster::{Cluster, Place};
use crate::config::{
    ANY_DATABASE, ClusterConfig, Config, Consistency, DatabaseConfig, HostConfig, PoolSettings, Roles, UserAuth,
    UserConfig,
};
use crate::metrics::Metrics;
use crate::net::tls::{Acceptor, TlsError};
use crate::pool::{Budgets, PoolKey};
use crate::server::Login;
use crate::tenant::{Tenant, Tenants, Traits};
use crate::wire::error::{PgError, Severity};

/// A configuration with what was made of it. Replaced as a whole by a reload; who holds one goes on
/// with it to the end of its handshake.
pub struct Snapshot {
    pub handshake: Arc<HandshakeContext>,
    pub tenants: Arc<Tenants>,
    /// Tenants that the file does not name, once they are known.
    pub queried: Option<Arc<Queried>>,
    clusters: BTreeMap<String, Arc<Cluster>>,
    budgets: Arc<Budgets>,
}

/// A configuration that cannot be put to work, though nothing is wrong with its text.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("[listen] tls: {0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Account(#[from] AccountError),
    /// The process is ending.
    #[error("not prepared to the end: {0}")]
    Aborted(tokio::task::JoinError),
}

/// Reads the TLS files and prepares the users' logins: about a millisecond for each plain password, off
/// the threads that serve clients.
pub async fn prepare(config: Config, lasting: Lasting) -> Result<HandshakeContext, SnapshotError> {
    let work = move || {
        let tls = config.listen.tls.as_ref().map(Acceptor::load).transpose()?.map(Arc::new);
        Ok(HandshakeContext::new(Arc::new(config), tls, lasting)?)
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(error) => Err(SnapshotError::Aborted(error)),
    }
}

impl Snapshot {
    /// What a process starts with.
    pub fn first(handshake: HandshakeContext, metrics: &Arc<Metrics>) -> Self {
        let budgets = Arc::<Budgets>::default();
        let make = |cluster: &Arc<ClusterConfig>| Cluster::new(cluster.clone(), metrics.clone(), &budgets);
        let configs = handshake.config.clusters.iter();
        let clusters = configs.map(|(name, cluster)| (name.clone(), make(cluster))).collect();
        budgets.limit(handshake.config.clusters.values().flat_map(|cluster| cluster.limits()));
        let tenants = Arc::new(Tenants::new(&handshake.config));
        Self { tenants, queried: None, handshake: Arc::new(handshake), clusters, budgets }
    }

    /// What follows after a reload: clusters whose servers are the same stay, and tenants go on counting.
    pub fn next(&self, handshake: HandshakeContext, metrics: &Arc<Metrics>) -> Self {
        let keep_or_make = |(name, config): (&String, &Arc<ClusterConfig>)| {
            let running = self.clusters.get(name);
            let config = running.map_or_else(|| config.clone(), |running| as_found(config, &running.config));
            let kept = running.filter(|running| is_served_by(&config, &running.config)).cloned();
            (name.clone(), kept.unwrap_or_else(|| Cluster::new(config, metrics.clone(), &self.budgets)))
        };
        let clusters = handshake.config.clusters.iter().map(keep_or_make).collect();
        self.budgets.limit(handshake.config.clusters.values().flat_map(|cluster| cluster.limits()));
        let asked = self.queried.as_ref().filter(|_| handshake.config.tenancy.query.is_some());
        let queried = asked.map(|queried| Arc::new(queried.under(&handshake.config)));
        let more = queried.as_ref().map_or(&[][..], |queried| &queried.tenants);
        let tenants = Arc::new(self.tenants.reload(&handshake.config, more));
        Self { tenants, queried, handshake: Arc::new(handshake), clusters, budgets: self.budgets.clone() }
    }

    /// What follows when the tenants are others that the file does not name.
    pub fn with_tenants(&self, queried: Queried) -> Self {
        let (queried, config) = (Arc::new(queried), self.config());
        let tenants = Arc::new(self.tenants.with_more(config, &queried.tenants));
        let (handshake, clusters, budgets) = (self.handshake.clone(), self.clusters.clone(), self.budgets.clone());
        Self { tenants, queried: Some(queried), handshake, clusters, budgets }
    }

    /// What follows when another server of a cluster has become its primary, by [`Cluster::host`]'s number. `None`
    /// when the cluster is not the one of this configuration any more.
    pub fn with_primary(&self, cluster: &Arc<Cluster>, number: usize, metrics: &Arc<Metrics>) -> Option<Self> {
        let name = &cluster.config.name;
        self.clusters.get(name).filter(|running| Arc::ptr_eq(running, cluster))?;
        let config = led_by(&cluster.config, &cluster.host(number).config);
        let mut clusters = self.clusters.clone();
        clusters.insert(name.clone(), Cluster::new(Arc::new(config), metrics.clone(), &self.budgets));
        let (tenants, queried, handshake) = (self.tenants.clone(), self.queried.clone(), self.handshake.clone());
        Some(Self { tenants, queried, handshake, clusters, budgets: self.budgets.clone() })
    }

    /// To be called once clients see this snapshot: gives the pools that stay their new sizes and
    /// logins, and closes those that have no place in this configuration. Sessions of a cluster whose
    /// servers have changed go on with its successor; those of a database or user that is gone are told
    /// so when they next need a server connection. What runs now may finish.
    pub fn succeed(&self, previous: &Self) {
        let layouts = self.layouts();
        for (name, cluster) in &previous.clusters {
            match self.clusters.get(name) {
                Some(kept) if Arc::ptr_eq(kept, cluster) => self.reconfigure(&layouts, name, kept),
                Some(other) => {
                    self.hand_over(&layouts, name, cluster, other);
                    cluster.close();
                }
                None => cluster.close(),
            }
        }
    }

    /// The tenant of a client.
    ///
    /// Errors: 57P03 while the tenants are asked for and not known yet, of a client that may be one's of those; 28000 as
    /// for [`Tenants::identify`].
    pub fn identify(&self, traits: &Traits) -> Result<Tenant, PgError> {
        if self.awaits_tenants() && !self.tenants.is_sure(traits) {
            return Err(tenants_not_known());
        }
        self.tenants.identify(traits)
    }

    /// The tenant that a session names which may name any, as [`Tenants::find`].
    ///
    /// Errors: 57P03 as for [`Self::identify`].
    pub fn find(&self, name: &str) -> Result<Option<Tenant>, PgError> {
        let found = self.tenants.find(name);
        let is_sure = found.as_ref().is_some_and(|tenant| *tenant.name == *name);
        if self.awaits_tenants() && !is_sure {
            return Err(PgError { severity: Severity::Error, ..tenants_not_known() });
        }
        Ok(found)
    }

    fn awaits_tenants(&self) -> bool {
        self.config().tenancy.query.is_some() && self.queried.is_none()
    }

    /// Where clients of all tenants are served.
    fn layouts(&self) -> Layouts<'_> {
        let all = self.config().tenants.iter().chain(self.queried.iter().flat_map(|queried| &queried.tenants));
        Layouts::new(self.config(), all.map(|tenant| &tenant.limits.layout))
    }

    pub fn config(&self) -> &Arc<Config> {
        &self.handshake.config
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<Cluster>> {
        self.clusters.values()
    }

    /// The cluster that holds a database.
    pub fn cluster(&self, database: &DatabaseConfig) -> Result<&Arc<Cluster>, PgError> {
        self.clusters.get(&database.cluster).ok_or_else(|| {
            PgError::fatal("3D000", format!("the cluster \"{}\" of this database is not configured", database.cluster))
                .hint("Add it to [clusters] in pgweir's configuration.")
        })
    }

    pub fn consistency(&self, database: &DatabaseConfig) -> Consistency {
        self.config().clusters.get(&database.cluster).map_or(Consistency::Session, |cluster| cluster.consistency)
    }

    /// How a user's server connections log in. `database_name` is the one that the client asked for;
    /// `keys` is what its own login taught where only a verifier of its password is known.
    pub fn login(
        &self,
        user: &UserConfig,
        database: &DatabaseConfig,
        database_name: &str,
        keys: Option<ScramKeys>,
    ) -> Login {
        let own_password = match &user.auth {
            UserAuth::Password(password) | UserAuth::Md5(password) => Some(password),
            UserAuth::Scram(_) | UserAuth::Certificate | UserAuth::Trust => None,
        };
        let same_user = user.server_user.as_ref().is_none_or(|name| *name == user.name);
        Login {
            user: user.server_user.as_ref().unwrap_or(&user.name).clone(),
            database: database.server_name.as_deref().unwrap_or(database_name).to_owned(),
            password: user.server_password.as_ref().or(own_password).cloned(),
            // Keys are made of a password and one server user's salt: worth nothing for another.
            scram_keys: keys.filter(|_| same_user),
            parameters: Vec::new(),
        }
    }

    /// Opens the pools that are to have connections before the first client comes.
    pub fn warm(&self) {
        for database in self.config().databases.values() {
            let Some(cluster) = self.clusters.get(&database.cluster) else { continue };
            if database.pool.min_idle == 0 || database.name == ANY_DATABASE {
                continue;
            }
            for user in self.config().users.values().filter(|user| may_use(user, &database.name)) {
                // A verifier alone opens no server connection: the first login brings the keys.
                if !matches!(user.auth, UserAuth::Scram(_)) || user.server_password.is_some() {
                    cluster.group(&self.login(user, database, &database.name, None), &database.pool);
                }
            }
        }
    }

    /// Sends the sessions of a cluster's pools to those of the cluster that takes its place.
    fn hand_over(&self, layouts: &Layouts, name: &str, from: &Cluster, to: &Arc<Cluster>) {
        for group in from.all_groups() {
            let keys = group.pool(Place::Primary).login().scram_keys;
            if let Some((settings, login)) = self.settings_of(layouts, name, &group.key, keys) {
                group.succeed_with(to.group(&login, &settings));
            }
        }
    }

    fn reconfigure(&self, layouts: &Layouts, name: &str, cluster: &Cluster) {
        let keys =
            |group: &Arc<crate::cluster::Group>| (group.key.clone(), group.pool(Place::Primary).login().scram_keys);
        let keys: HashMap<PoolKey, Option<ScramKeys>> = cluster.all_groups().iter().map(keys).collect();
        cluster.reconfigure(|key| self.settings_of(layouts, name, key, keys.get(key).cloned().flatten()));
    }

    /// What this configuration says of a pool that exists already; `None` when it has no use for it.
    fn settings_of(
        &self,
        layouts: &Layouts,
        cluster: &str,
        key: &PoolKey,
        keys: Option<ScramKeys>,
    ) -> Option<(PoolSettings, Login)> {
        let on_server = |user: &&Arc<UserConfig>| user.server_user.as_ref().unwrap_or(&user.name) == &key.user;
        let users: Vec<_> = self.config().users.values().filter(on_server).collect();
        let ways = layouts.ways(cluster, &key.database);
        let found = ways.iter().find_map(|way| {
            let may = |user: &&&Arc<UserConfig>| way.asked.as_ref().is_none_or(|asked| may_use(user, asked));
            Some((&way.entry, *users.iter().find(may)?))
        });
        let (entry, user) = found?;
        let keys = keys.filter(|_| matches!(user.auth, UserAuth::Scram(_)));
        Some((entry.pool.clone(), self.login(user, entry, &key.database, keys)))
    }
}

/// Its tenant may be one of those.
fn tenants_not_known() -> PgError {
    PgError::fatal("57P03", "pgweir does not know its tenants yet")
        .detail("tenants_query has not been answered since pgweir was started.")
        .hint("Try again in a moment; see pgweir's log if that goes on.")
}

/// The same servers with this one as the primary.
fn led_by(config: &ClusterConfig, primary: &HostConfig) -> ClusterConfig {
    let others = std::iter::once(&config.primary).chain(&config.replicas).filter(|host| *host != primary);
    ClusterConfig { primary: primary.clone(), replicas: others.cloned().collect(), ..config.clone() }
}

/// A configuration whose servers are asked for their roles, with the primary that was found.
fn as_found(wanted: &Arc<ClusterConfig>, running: &ClusterConfig) -> Arc<ClusterConfig> {
    let asked = wanted.roles == Roles::Asked && running.roles == Roles::Asked;
    if asked && wanted.replicas.contains(&running.primary) {
        return Arc::new(led_by(wanted, &running.primary));
    }
    wanted.clone()
}

/// Whether a cluster that was made for `running` serves `wanted` as well: everything but the
/// consistency, which is each session's own.
fn is_served_by(wanted: &ClusterConfig, running: &ClusterConfig) -> bool {
    // The order of the others has no meaning.
    let mut wanted = ClusterConfig { consistency: running.consistency, ..wanted.clone() };
    let mut running = running.clone();
    for config in [&mut wanted, &mut running] {
        config.replicas.sort_by(|one, other| one.name.cmp(&other.name));
    }
    wanted == running
}

fn may_use(user: &UserConfig, database: &str) -> bool {
    user.databases.is_empty() || user.databases.iter().any(|name| name == database)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Layout, Secret, TenantConfig, Tier, from_env};

    fn config(size: usize) -> Config {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@127.0.0.1:1/app".to_owned());
        let mut config = from_env(&url).unwrap();
        for database in config.databases.values_mut() {
            Arc::make_mut(database).pool.size = size;
        }
        config
    }

    async fn prepared(config: Config) -> HandshakeContext {
        prepare(config, Lasting::default()).await.unwrap()
    }

    async fn first(config: Config) -> (Snapshot, Arc<Metrics>) {
        let metrics = Metrics::new("test");
        (Snapshot::first(prepared(config).await, &metrics), metrics)
    }

    fn group(snapshot: &Snapshot, database: &str) -> Arc<crate::cluster::Group> {
        let entry = snapshot.config().databases.get(database).unwrap_or(&snapshot.config().databases["*"]);
        let login = snapshot.login(&snapshot.config().users["u"], entry, database, None);
        snapshot.cluster(entry).unwrap().group(&login, &entry.pool)
    }

    #[tokio::test]
    async fn pools_on_the_same_servers_stay_and_take_their_new_size() {
        let (first, metrics) = first(config(5)).await;
        let (app, other) = (group(&first, "app"), group(&first, "other"));
        let next = first.next(prepared(config(7)).await, &metrics);
        next.succeed(&first);
        for group in [app, other] {
            assert!(!group.is_closed());
            assert_eq!(group.pool(Place::Primary).settings().size, 7);
        }
    }

    #[tokio::test]
    async fn pools_that_the_configuration_knows_no_more_are_closed() {
        let (first, metrics) = first(config(5)).await;
        let (app, other) = (group(&first, "app"), group(&first, "other"));
        let mut narrower = config(5);
        narrower.databases.remove("*");
        let second = first.next(prepared(narrower.clone()).await, &metrics);
        second.succeed(&first);
        assert!(!app.is_closed() && other.is_closed());
        assert!(!group(&first, "other").is_closed(), "who comes back finds pools that are open");

        let cluster = Arc::make_mut(narrower.clusters.get_mut("main").unwrap());
        cluster.primary.name = "moved".to_owned();
        let third = second.next(prepared(narrower).await, &metrics);
        third.succeed(&second);
        assert!(app.is_closed());
    }

    fn of_tenants(config: Config, layouts: &[(Option<&str>, Option<&str>)]) -> Config {
        let tenant = |(cluster, database): &(Option<&str>, Option<&str>)| {
            let layout = Layout { cluster: cluster.map(str::to_owned), database: database.map(str::to_owned) };
            let limits = Arc::new(Tier { layout, ..Tier::unlimited("t") });
            Arc::new(TenantConfig { name: format!("{cluster:?} {database:?}"), matches: Vec::new(), limits })
        };
        Config { tenants: layouts.iter().map(tenant).collect(), ..config }
    }

    #[tokio::test]
    async fn pools_of_tenants_stay_where_their_layouts_lead_to_them_and_close_where_none_does() {
        let base = |size| {
            let mut config = config(size);
            let eu = ClusterConfig { name: "eu".to_owned(), ..ClusterConfig::clone(&config.clusters["main"]) };
            config.clusters.insert("eu".to_owned(), Arc::new(eu));
            // Of its own accord this user comes to one database only.
            Arc::make_mut(config.users.get_mut("u").unwrap()).databases = vec!["app".to_owned()];
            config
        };
        let layouts = [(None, Some("acme")), (Some("eu"), None), (Some("eu"), Some("beta"))];
        let (first, metrics) = first(of_tenants(base(5), &layouts)).await;
        let pool = |cluster: &str, database: &str| {
            let entry = first.config().database(database).unwrap();
            let login = first.login(&first.config().users["u"], entry, database, None);
            first.clusters[cluster].group(&login, &entry.pool)
        };
        let pools =
            [("main", "app"), ("main", "acme"), ("eu", "app"), ("eu", "beta"), ("eu", "acme"), ("main", "beta")];
        let groups = pools.map(|(cluster, database)| pool(cluster, database));
        let open = || groups.each_ref().map(|group| !group.is_closed());
        let next = first.next(prepared(of_tenants(base(7), &layouts)).await, &metrics);
        next.succeed(&first);
        assert_eq!(open(), [true, true, true, true, false, false]);
        assert!(groups[..4].iter().all(|group| group.pool(Place::Primary).settings().size == 7));
        let mut without_any = of_tenants(base(7), &layouts[1..]);
        without_any.databases.remove("*");
        let third = next.next(prepared(without_any).await, &metrics);
        third.succeed(&next);
        assert_eq!(open(), [true, false, true, true, false, false]);
        assert_eq!(groups[3].pool(Place::Primary).settings().size, PoolSettings::default().size);
        let last = third.next(prepared(base(7)).await, &metrics);
        last.succeed(&third);
        assert_eq!(open(), [true, false, false, false, false, false]);
    }

    #[tokio::test]
    async fn a_pool_stays_for_a_user_who_comes_to_it_by_one_of_two_names() {
        let base = || {
            let mut config = config(5);
            for name in ["one", "two"] {
                let entry = DatabaseConfig::clone(&config.databases["app"]);
                let entry = DatabaseConfig { name: name.to_owned(), server_name: Some("real".to_owned()), ..entry };
                config.databases.insert(name.to_owned(), entry.into());
            }
            Arc::make_mut(config.users.get_mut("u").unwrap()).databases = vec!["two".to_owned()];
            config
        };
        let (first, metrics) = first(base()).await;
        let two = group(&first, "two");
        first.next(prepared(base()).await, &metrics).succeed(&first);
        assert!(!two.is_closed());
    }

    #[tokio::test]
    async fn a_primary_that_was_found_stays_when_the_file_is_read_again() {
        let mut config = config(5);
        let cluster = Arc::make_mut(config.clusters.get_mut("main").unwrap());
        let named = |name: &str| HostConfig { name: name.to_owned(), ..cluster.primary.clone() };
        cluster.replicas = vec![named("second"), named("third")];
        cluster.roles = Roles::Asked;
        let (first, metrics) = first(config.clone()).await;
        let running = first.clusters["main"].clone();
        let promoted = first.with_primary(&running, 2, &metrics).unwrap();
        assert_eq!(promoted.clusters["main"].primary.config.name, "third");
        assert!(promoted.with_primary(&running, 1, &metrics).is_none(), "what is said of the old one is late");
        let next = promoted.next(prepared(config.clone()).await, &metrics);
        assert!(Arc::ptr_eq(&next.clusters["main"], &promoted.clusters["main"]));
        Arc::make_mut(config.clusters.get_mut("main").unwrap()).replicas.pop();
        let without = promoted.next(prepared(config).await, &metrics);
        assert_ne!(without.clusters["main"].primary.config.name, "third");
    }

    #[tokio::test]
    async fn another_consistency_needs_no_other_connections() {
        let (first, metrics) = first(config(5)).await;
        let app = group(&first, "app");
        let mut config = config(5);
        Arc::make_mut(config.clusters.get_mut("main").unwrap()).consistency = Consistency::Eventual;
        let next = first.next(prepared(config).await, &metrics);
        next.succeed(&first);
        assert!(!app.is_closed());
        assert_eq!(next.consistency(&next.config().databases["app"]), Consistency::Eventual);
    }

    #[tokio::test]
    async fn a_login_takes_the_servers_names() {
        let (snapshot, _) = first(config(5)).await;
        let mut user = UserConfig::clone(&snapshot.config().users["u"]);
        let mut database = DatabaseConfig::clone(&snapshot.config().databases["*"]);
        let login = snapshot.login(&user, &database, "asked", None);
        assert_eq!((login.user.as_str(), login.database.as_str()), ("u", "asked"));
        assert_eq!(login.password, Some(Secret::new("p")));

        user.server_user = Some("other".to_owned());
        user.server_password = Some(Secret::new("q"));
        database.server_name = Some("real".to_owned());
        let login = snapshot.login(&user, &database, "asked", None);
        assert_eq!((login.user.as_str(), login.database.as_str()), ("other", "real"));
        assert_eq!(login.password, Some(Secret::new("q")));
    }
}
