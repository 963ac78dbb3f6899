//! What clients of one database and user share: pools on every host, prepared statements, the
//! database's catalog, and what a new client is greeted with.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use super::Cluster;
use super::catalog::CatalogKeeper;
use super::channels::Audience;
use super::freshness::{Clock, Moment};
use super::greeting::Greeting;
use super::host::{Host, Role};
use super::refusals::Refusals;
use tokio::sync::Notify;

use crate::config::{LostNotifications, PoolSettings, Roles};
use crate::metrics::Metrics;
use crate::pool::{AcquireError, Pool, PoolCensus, PoolKey, Settings, Statements};
use crate::server::ConnectError;
use crate::server::connect::Login;
use crate::sql::Catalog;

/// Where in a group a session's lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Primary,
    /// By index.
    Replica(usize),
}

/// A replica that is this much staler than another one takes no reads, whatever they have to see.
const FAR_BEHIND: Duration = Duration::from_secs(2);

/// What a read has to see.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Everything that was written before this.
    pub written: Moment,
    /// Everything that was there before this, which the session may have seen; except on [`Self::home`], where
    /// it has.
    pub seen: Moment,
    /// The replica that the session has read from last.
    pub home: Option<Home>,
}

/// A replica between two of its losses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// By index. Kept small, as each session has one.
    replica: u32,
    losses: u32,
}

#[derive(Debug)]
pub struct Group {
    pub key: PoolKey,
    pub statements: Statements,
    pub clock: Arc<Clock>,
    pub max_staleness: Option<Duration>,
    pub freshness_wait: Duration,
    pub failover_wait: Duration,
    pub lost_notifications: LostNotifications,
    pub audience: Arc<Audience>,
    roles: Roles,
    closing: Notify,
    cluster: Weak<Cluster>,
    primary: (Arc<Host>, Arc<Pool>),
    replicas: Vec<(Arc<Host>, Arc<Pool>)>,
    catalog: Arc<CatalogKeeper>,
    refusals: Refusals,
    pub(super) greetings: Mutex<HashMap<Settings, Arc<Greeting>>>,
    /// Where the next search among equally loaded replicas begins.
    turn: AtomicU64,
    /// When a read was last asked for, as a raw moment.
    last_read: AtomicU64,
    /// `currval` or `lastval` was called.
    reads_sequences: AtomicBool,
    closed: AtomicBool,
    /// What serves this database and user on the servers of a new configuration.
    successor: OnceLock<Arc<Group>>,
}

impl Group {
    pub(super) fn new(
        key: PoolKey,
        cluster: &Arc<Cluster>,
        catalog: Arc<CatalogKeeper>,
        login: Login,
        settings: PoolSettings,
        metrics: &Metrics,
    ) -> Arc<Self> {
        let pool = |host: &Arc<Host>| {
            let metrics = metrics.host(&key.database, &key.user, &host.config.name, host.role.label());
            let budget = host.budget.clone();
            let pool = Pool::new(key.clone(), host.config.clone(), login.clone(), settings.clone(), metrics, budget);
            (host.clone(), pool)
        };
        Arc::new(Self {
            primary: pool(&cluster.primary),
            replicas: cluster.replicas.iter().map(pool).collect(),
            clock: cluster.clock.clone(),
            max_staleness: cluster.config.max_staleness,
            freshness_wait: cluster.config.freshness_wait,
            failover_wait: cluster.config.failover_wait,
            lost_notifications: cluster.config.lost_notifications,
            audience: cluster.audience(&key.database),
            roles: cluster.config.roles,
            closing: Notify::new(),
            cluster: Arc::downgrade(cluster),
            statements: Statements::default(),
            catalog,
            refusals: Refusals::default(),
            greetings: Mutex::default(),
            turn: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            reads_sequences: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            successor: OnceLock::new(),
            key,
        })
    }

    pub fn has_replicas(&self) -> bool {
        !self.replicas.is_empty()
    }

    pub fn pool(&self, place: Place) -> &Arc<Pool> {
        match place {
            Place::Primary => &self.primary.1,
            Place::Replica(index) => &self.replicas[index].1,
        }
    }

    pub fn host(&self, place: Place) -> &Arc<Host> {
        match place {
            Place::Primary => &self.primary.0,
            Place::Replica(index) => &self.replicas[index].0,
        }
    }

    /// Somebody reads what sequences last gave him.
    pub fn sequences_are_read(&self) {
        self.reads_sequences.store(true, Ordering::Relaxed);
    }

    /// Connections that change hands between writers are to have no values of sequences that others have taken: whoever
    /// reads his own has nobody else's. For those who never do, that would be a statement for nothing.
    pub fn keeps_sequences_apart(&self) -> bool {
        self.reads_sequences.load(Ordering::Relaxed)
    }

    /// The replica with the least outstanding work among those that answer and show what is wanted, the session's
    /// own where others have as much; `None` when there is none.
    pub fn pick_replica(&self, wanted: &Wanted) -> Option<Place> {
        let now = self.clock.now();
        self.last_read.store(now.raw(), Ordering::Relaxed);
        let oldest = self.max_staleness.map_or(Moment::NEVER, |limit| now.minus(limit)).max(self.laggards_before());
        let home = wanted.home.filter(|home| self.is_home(*home));
        let is_home = |index| home.is_some_and(|home| home.replica as usize == index);
        // Only who may go anywhere takes a turn, or sessions with as many reads as replicas would all begin with the
        // same.
        let turn = self.turn.fetch_add(u64::from(home.is_none()), Ordering::Relaxed) as usize;
        let count = self.replicas.len();
        (0..count)
            .map(|offset| (turn + offset) % count)
            .filter(|&index| {
                let host = &self.replicas[index].0;
                let floor = if is_home(index) { wanted.written } else { wanted.written.max(wanted.seen) };
                host.is_up() && host.shows(floor.max(oldest))
            })
            .min_by_key(|&index| (self.replicas[index].0.budget.load(), !is_home(index)))
            .map(Place::Replica)
    }

    /// Replicas that show only what was there before this are far behind the freshest one.
    fn laggards_before(&self) -> Moment {
        let up = self.replicas.iter().filter(|(host, _)| host.is_up());
        let freshest = up.map(|(host, _)| host.fresh_as_of()).max().unwrap_or(Moment::NEVER);
        // The freshest one is none.
        freshest.minus(FAR_BEHIND)
    }

    /// The same, waiting until there is one. The caller bounds the wait. Cancel safe.
    pub async fn await_replica(&self, wanted: &Wanted) -> Place {
        loop {
            let mut advanced = std::pin::pin!(self.clock.advanced());
            advanced.as_mut().enable();
            if let Some(place) = self.pick_replica(wanted) {
                return place;
            }
            self.clock.demand(wanted.written.max(wanted.seen));
            advanced.await;
        }
    }

    /// No server is known to be the primary: where roles are asked, the one that was it does not say so any more, or
    /// not yet.
    pub fn lacks_primary(&self) -> bool {
        self.roles == Roles::Asked && !self.primary.0.is_up()
    }

    /// What is said of that.
    pub fn no_primary(&self) -> AcquireError {
        let host = self.primary.0.config.name.clone();
        let reason = "no server of its cluster says that it is the primary".to_owned();
        AcquireError::Connect(Arc::new(ConnectError::Unreachable { host, reason }))
    }

    /// Returns after a moment, or as soon as another cluster takes the place of this one. Cancel safe.
    pub async fn changes(&self) {
        const MOMENT: Duration = Duration::from_millis(100);
        let mut closing = std::pin::pin!(self.closing.notified());
        closing.as_mut().enable();
        if !self.is_closed() {
            // Either will do.
            let _ = tokio::time::timeout(MOMENT, closing).await;
        }
    }

    pub fn replicas(&self) -> impl Iterator<Item = &Arc<Host>> {
        self.replicas.iter().map(|(host, _)| host)
    }

    /// Everything that was written before this is visible there.
    pub fn shows(&self, place: Place, written: Moment) -> bool {
        place == Place::Primary || self.host(place).shows(written)
    }

    /// Some replica answers.
    pub fn has_live_replica(&self) -> bool {
        self.replicas.iter().any(|(host, _)| host.is_up())
    }

    /// Where a session is that has read there.
    pub fn home(&self, place: Place) -> Option<Home> {
        match place {
            Place::Primary => None,
            Place::Replica(replica) => {
                Some(Home { replica: replica as u32, losses: self.replicas[replica].0.losses() })
            }
        }
    }

    /// False when it was lost meanwhile.
    fn is_home(&self, home: Home) -> bool {
        self.replicas.get(home.replica as usize).is_some_and(|(host, _)| host.losses() == home.losses)
    }

    /// When reads were last asked for.
    pub(super) fn last_read(&self) -> Moment {
        Moment::from_raw(self.last_read.load(Ordering::Relaxed))
    }

    /// A task that ends with the cluster.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(cluster) = self.cluster.upgrade() {
            cluster.spawn(task);
        }
    }

    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.current()
    }

    /// Is that this one?
    pub fn is_catalog(&self, catalog: &Arc<Catalog>) -> bool {
        self.catalog.is_current(catalog)
    }

    /// Is it one that was read?
    pub fn catalog_is_read(&self) -> bool {
        self.catalog.is_read()
    }

    /// Returns when the catalog has been read for the `number`th time it was asked for. Cancel safe.
    pub async fn reading(&self, number: u64) {
        self.catalog.reading(number).await;
    }

    /// See [`Self::reading`].
    pub fn has_read(&self, number: u64) -> bool {
        self.catalog.has_read(number)
    }

    /// Nobody suspects that the schema is another than the catalog has it.
    pub fn catalog_is_settled(&self) -> bool {
        self.catalog.is_settled()
    }

    /// The catalog could not be read when that was last tried.
    pub fn catalog_is_failing(&self) -> bool {
        self.catalog.is_failing()
    }

    /// See [`CatalogKeeper::rely_on`].
    pub fn relies_on_catalog(&self) {
        self.catalog.rely_on(self.clock.now());
    }

    /// When the sessions of whichever user last had to know what is in it.
    pub(super) fn catalog_last_used(&self) -> Moment {
        let groups = self.cluster.upgrade().map(|cluster| cluster.all_groups()).unwrap_or_default();
        let same = groups.iter().filter(|group| Arc::ptr_eq(&group.catalog, &self.catalog));
        same.map(|group| group.last_read()).fold(self.catalog.relied_on(), Moment::max)
    }

    /// As it was last read, which may be out of date.
    pub fn last_catalog(&self) -> Arc<Catalog> {
        self.catalog.last()
    }

    pub(super) fn keeper(&self) -> &Arc<CatalogKeeper> {
        &self.catalog
    }

    /// The schema has changed: statements prepared before are prepared again, and until the catalog has been
    /// read again only statements that name no function go to a replica. The number of that reading.
    pub fn schema_changed(&self) -> u64 {
        self.catalog.invalidate()
    }

    /// A statement wants these databases to itself: idle connections to them are closed. Whoever is connected to them is
    /// not disturbed, and the server refuses then.
    pub fn leave_databases(&self, names: &[String]) {
        let groups = self.cluster.upgrade().map(|cluster| cluster.all_groups()).unwrap_or_default();
        for group in groups.iter().filter(|group| names.contains(&group.key.database)) {
            group.catalog.leave();
            group.pools().for_each(|(_, pool)| pool.close_idle());
        }
    }

    /// The schema may have changed, though it rarely does: whether it has is looked at soon.
    pub fn schema_suspected(&self) {
        self.catalog.suspect();
    }

    /// A replica has refused this statement of the session with this process id, which was taken for a read.
    pub fn refused(&self, text: &[u8], by: i32) {
        self.refusals.add(text, self.schema_generation(), by);
    }

    /// The primary has refused it as well.
    pub fn refused_anywhere(&self, by: i32) {
        self.refusals.take_back(by);
    }

    /// Whether a replica has refused one like it under the schema of now.
    pub fn was_refused(&self, text: &[u8]) -> bool {
        self.refusals.has(text, self.schema_generation())
    }

    /// Changes with the schema.
    pub fn schema_generation(&self) -> u64 {
        self.catalog.generation()
    }

    pub fn maintain(&self) {
        self.pools().for_each(|(_, pool)| pool.maintain());
    }

    /// Names the group to which this one's sessions go once their leases are back.
    pub fn succeed_with(&self, successor: Arc<Group>) {
        // A group leaves the configuration once.
        let _ = self.successor.set(successor);
    }

    /// The group that a session should use instead of this one, which has left the configuration.
    pub fn successor(&self) -> Option<Arc<Group>> {
        let mut latest = self.successor.get()?;
        while let Some(next) = latest.successor.get() {
            latest = next;
        }
        Some(latest.clone())
    }

    /// True when the group has left the configuration. See [`Self::successor`].
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.closing.notify_waiters();
        self.pools().for_each(|(_, pool)| pool.close());
    }

    pub(super) fn login_differs(&self, login: &Login) -> bool {
        self.primary.1.login() != *login
    }

    pub(super) fn reconfigure(&self, settings: &PoolSettings, login: &Login) {
        self.greetings.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.pools().for_each(|(_, pool)| pool.reconfigure(settings.clone(), login.clone()));
    }

    pub(super) fn pools_on<'a>(&'a self, host: &'a Host) -> impl Iterator<Item = &'a Arc<Pool>> {
        self.pools().filter(move |(on, _)| std::ptr::eq(on.as_ref(), host)).map(|(_, pool)| pool)
    }

    pub(super) fn census(&self) -> Vec<(PoolKey, Arc<Host>, PoolCensus)> {
        self.pools().map(|(host, pool)| (self.key.clone(), host.clone(), pool.census())).collect()
    }

    fn pools(&self) -> impl Iterator<Item = &(Arc<Host>, Arc<Pool>)> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

impl Place {
    /// 0 is the primary's.
    pub fn number(self) -> usize {
        match self {
            Self::Primary => 0,
            Self::Replica(index) => index + 1,
        }
    }

    pub fn role(self) -> Role {
        match self {
            Self::Primary => Role::Primary,
            Self::Replica(_) => Role::Replica,
        }
    }
}
