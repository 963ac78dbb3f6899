//! Keeps the catalog of one database: loaded at first use, loaded again when the schema changes,
//! whether through us or elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::freshness::Moment;
use super::group::{Group, Place};
use crate::pool::{Purpose, Seat};
use crate::server::simple_query;
use crate::sql::{CATALOG_QUERIES, CATALOG_STAMP_QUERY, Catalog, CatalogRows, SYSTEM_RELATIONS};

/// How often the catalog's stamp is compared while reads come.
const CHECK: Duration = Duration::from_secs(2);
/// After a suspicion of a change.
const SOON: Duration = Duration::from_millis(100);
/// For one question, and bytes of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST: usize = 64 << 20;
/// To read it, one straight after the other.
const ATTEMPTS: usize = 5;
/// For a database that is about to be dropped or renamed, which the server does as soon as nobody is connected to it.
const AWAY: Duration = Duration::from_secs(1);
/// After failed attempts to read.
const RETRY: Duration = Duration::from_secs(1);

/// What was read, and the schema's generation that it is known to hold for.
#[derive(Debug)]
struct Published {
    generation: u64,
    catalog: Arc<Catalog>,
}

/// The catalog of one database, shared by all its groups.
#[derive(Debug)]
pub struct CatalogKeeper {
    current: ArcSwap<Published>,
    /// What holds while the catalog is being read.
    unloaded: Arc<Catalog>,
    generation: AtomicU64,
    /// Readings that were asked for, and those of them that have been made.
    asked: AtomicU64,
    made: AtomicU64,
    changed: Notify,
    published: Notify,
    failing: AtomicBool,
    /// When somebody who goes to no replica last had to know what is in it, as a raw moment.
    relied_on: AtomicU64,
    /// The reader is to leave the database.
    leaves: AtomicBool,
    /// Numbers what is read, so that no two catalogs are taken for one.
    readings: AtomicU64,
    /// Held by the one group whose connections read the catalog.
    reader: tokio::sync::Mutex<()>,
}

impl Default for CatalogKeeper {
    fn default() -> Self {
        let unloaded = Arc::new(Catalog::unloaded());
        Self {
            current: ArcSwap::from_pointee(Published { generation: 0, catalog: unloaded.clone() }),
            unloaded,
            generation: AtomicU64::new(1),
            asked: AtomicU64::new(1),
            made: AtomicU64::new(0),
            changed: Notify::new(),
            published: Notify::new(),
            failing: AtomicBool::new(false),
            relied_on: AtomicU64::new(0),
            leaves: AtomicBool::new(false),
            readings: AtomicU64::new(0),
            reader: tokio::sync::Mutex::default(),
        }
    }
}

impl CatalogKeeper {
    /// Never one that a change of the schema has made void.
    pub fn current(&self) -> Arc<Catalog> {
        self.in_force(&self.current.load()).clone()
    }

    /// See [`Group::catalog_is_read`]. Takes no count on the catalog, which all sessions share.
    pub fn is_read(&self) -> bool {
        self.in_force(&self.current.load()).is_loaded()
    }

    /// Is [`Self::current`] this one? Takes no count on it either.
    pub fn is_current(&self, catalog: &Arc<Catalog>) -> bool {
        Arc::ptr_eq(self.in_force(&self.current.load()), catalog)
    }

    fn in_force<'a>(&'a self, published: &'a Published) -> &'a Arc<Catalog> {
        if published.generation == self.generation() { &published.catalog } else { &self.unloaded }
    }

    /// What was read last, though the schema has changed since.
    pub fn last(&self) -> Arc<Catalog> {
        self.current.load().catalog.clone()
    }

    /// Has it been read for the `number`th time it was asked for?
    pub fn has_read(&self, number: u64) -> bool {
        self.made.load(Ordering::Acquire) >= number
    }

    /// Returns when that is so. Cancel safe.
    pub async fn reading(&self, number: u64) {
        loop {
            let published = self.published.notified();
            tokio::pin!(published);
            // Before the look: what is published in between is not missed.
            published.as_mut().enable();
            if self.has_read(number) {
                return;
            }
            published.await;
        }
    }

    /// Has it been looked at again since that was last asked for?
    pub fn is_settled(&self) -> bool {
        self.has_read(self.asked.load(Ordering::Acquire))
    }

    /// See [`Group::catalog_is_failing`].
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    /// Somebody who goes to no replica has to know now what is in it: it is kept up to date for a while, as for reads.
    pub fn rely_on(&self, now: Moment) {
        self.relied_on.store(now.raw(), Ordering::Relaxed);
    }

    pub fn relied_on(&self) -> Moment {
        Moment::from_raw(self.relied_on.load(Ordering::Relaxed))
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is known is void until it has been read again, which starts at once. The number of that reading.
    pub fn invalidate(&self) -> u64 {
        self.generation.fetch_add(1, Ordering::AcqRel);
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.changed.notify_one();
        number
    }

    /// What is known may be void: that is looked at soon, and holds until then.
    pub fn suspect(&self) {
        self.asked.fetch_add(1, Ordering::AcqRel);
        self.changed.notify_one();
    }

    /// The reader leaves the database for a while, so that it can be dropped or renamed.
    pub fn leave(&self) {
        self.leaves.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Returns when a change is certain. Cancel safe.
    async fn changed_for_sure(&self, generation: u64) {
        while self.generation() == generation {
            self.changed.notified().await;
        }
    }

    /// Publishes what was read under `generation`, unless the schema has changed meanwhile.
    fn publish(&self, generation: u64, catalog: Arc<Catalog>) {
        self.current.store(Arc::new(Published { generation, catalog }));
    }
}

/// A catalog and its stamp.
type Stamped = (String, Arc<Catalog>);

/// Reads the catalog with `group`'s login until the group is gone.
pub(super) async fn keep(group: Weak<Group>) {
    let Some(keeper) = group.upgrade().map(|group| group.keeper().clone()) else { return };
    // One reader per database; when its group goes, the next takes over.
    let _reader = keeper.reader.lock().await;
    let mut read: Option<Stamped> = None;
    let mut published = 0;
    let mut reader = None;
    loop {
        let Some(group) = group.upgrade().filter(|group| !group.is_closed()) else { return };
        if keeper.leaves.swap(false, Ordering::AcqRel) {
            drop((group, reader.take()));
            tokio::time::sleep(AWAY).await;
            continue;
        }
        let (generation, asked) = (keeper.generation(), keeper.asked.load(Ordering::Acquire));
        let wanted = published != generation || !keeper.has_read(asked);
        let quiet = group.clock.now().since(group.catalog_last_used()) > CHECK * 2;
        if quiet && !wanted {
            reader = None;
        }
        let outcome =
            if wanted || !quiet { renew_or_retry(&group, &keeper, &mut reader, &read).await } else { Ok(None) };
        drop(group);
        keeper.failing.store(outcome.is_err(), Ordering::Relaxed);
        let pause = match outcome {
            Ok(Some(fresh)) if published == generation => {
                // Changed without our doing: what is prepared may be out of date as well.
                read = Some(fresh);
                keeper.invalidate();
                Duration::ZERO
            }
            Ok(fresh) => {
                read = fresh.or(read);
                if let Some((_, catalog)) = read.as_ref().filter(|_| published != generation) {
                    keeper.publish(generation, catalog.clone());
                    published = generation;
                }
                keeper.made.fetch_max(asked, Ordering::AcqRel);
                keeper.published.notify_waiters();
                CHECK
            }
            Err(error) => {
                tracing::warn!(%error, "cannot read the catalog: until that works, reads go to the primary");
                RETRY
            }
        };
        rest(&keeper, pause, &mut reader).await;
        if published == keeper.generation() && pause == CHECK {
            // A mere suspicion, of which there may be thousands in a second.
            let _ = tokio::time::timeout(SOON, keeper.changed_for_sure(published)).await;
        }
    }
}

/// Until something has changed, or the pause is over. Meanwhile the reader's connection is let go where places are short.
async fn rest(keeper: &CatalogKeeper, pause: Duration, reader: &mut Option<Reader>) {
    let mut rested = std::pin::pin!(tokio::time::timeout(pause, keeper.changed.notified()));
    if let Some(Reader { stream, .. }) = reader {
        tokio::select! {
            _ = &mut rested => return,
            () = stream.wanted_back() => {}
        }
        *reader = None;
    }
    let _ = rested.await;
}

/// What is dropped while its definition is read brings an error, and is gone when it is read again.
/// `reader` is the connection of the last reading, if it still serves.
async fn renew_or_retry(
    group: &Group,
    keeper: &CatalogKeeper,
    reader: &mut Option<Reader>,
    before: &Option<Stamped>,
) -> Result<Option<Stamped>, String> {
    let mut failure = String::new();
    for _ in 0..ATTEMPTS {
        let mut taken = match reader.take() {
            Some(reader) => reader,
            None => Reader::connect(group).await?,
        };
        match renew(&mut taken, keeper, before).await {
            Ok(fresh) => {
                *reader = Some(taken);
                return Ok(fresh);
            }
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// Reads the catalog if it is not the one that was read before.
async fn renew(
    reader: &mut Reader,
    keeper: &CatalogKeeper,
    before: &Option<Stamped>,
) -> Result<Option<Stamped>, String> {
    // The stamp first: a change during the load then shows as another stamp.
    let stamp = first(reader.ask(CATALOG_STAMP_QUERY).await?).ok_or("the catalog's stamp is empty")?;
    if before.as_ref().is_some_and(|(known, _)| *known == stamp) {
        return Ok(None);
    }
    let mut results = Vec::new();
    for (name, sql) in CATALOG_QUERIES {
        results.push(reader.rows(name, sql).await?);
    }
    let rows = CatalogRows::from_results(results).map_err(|error| error.to_string())?;
    let number = keeper.readings.fetch_add(1, Ordering::Relaxed) + 1;
    Ok(Some((stamp, Arc::new(Catalog::build(number, rows)))))
}

type Rows = Vec<Vec<Option<String>>>;
type Sets = Vec<Rows>;

/// A connection of the reader's own, for as long as reads come and there is a place for it: those of the pool may all be
/// kept by sessions that wait for the catalog, and have settings of their clients.
struct Reader {
    stream: Seat,
    /// The answer to [`SYSTEM_RELATIONS`].
    system_relations: Option<Rows>,
}

impl Reader {
    /// To the primary: a replica may not have the newest catalog yet.
    async fn connect(group: &Group) -> Result<Self, String> {
        let pool = group.pool(Place::Primary);
        let mut login = pool.login();
        login.parameters.push(("application_name".into(), "pgweir catalog".into()));
        // What the planner thinks of these queries would have them compiled, which takes longer than they do.
        login.parameters.push(("jit".into(), "off".into()));
        // For as long as it takes: whoever left the line would stand at its end again.
        let place = pool.budget().ask(Purpose::Errand).await;
        let connected = place.connect(&pool.host, &login, pool.settings().connect_timeout).await;
        let reader = connected.map(|connected| Self { stream: connected.stream, system_relations: None });
        reader.map_err(|error| error.to_string())
    }

    /// The answer to one of [`CATALOG_QUERIES`].
    async fn rows(&mut self, name: &str, sql: &str) -> Result<Rows, String> {
        let lasts = name == SYSTEM_RELATIONS;
        if let Some(rows) = self.system_relations.as_ref().filter(|_| lasts) {
            return Ok(rows.clone());
        }
        let rows = self.ask(sql).await?.into_iter().next().unwrap_or_default();
        if lasts {
            self.system_relations = Some(rows.clone());
        }
        Ok(rows)
    }

    async fn ask(&mut self, sql: &str) -> Result<Sets, String> {
        match tokio::time::timeout(PATIENCE, simple_query(&mut *self.stream, sql, LARGEST)).await {
            Ok(Ok(answer)) => Ok(answer.sets),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

fn first(sets: Sets) -> Option<String> {
    sets.into_iter().flatten().flatten().flatten().next()
}
