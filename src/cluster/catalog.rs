//! Keeps the catalog of one database: loaded at first use, loaded again when the schema changes,
//! whether through us or elsewhere.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use super::group::{Group, Place};
use crate::server::{Connected, connect, simple_query};
use crate::sql::{CATALOG_QUERIES, CATALOG_STAMP_QUERY, Catalog, CatalogRows};

/// How often the catalog's stamp is compared while reads come.
const CHECK: Duration = Duration::from_secs(2);
/// For one question, and bytes of its answer.
const PATIENCE: Duration = Duration::from_secs(30);
const LARGEST: usize = 64 << 20;
/// After a failed attempt to load.
const RETRY: Duration = Duration::from_secs(1);

/// The catalog of one database, shared by all its groups.
#[derive(Debug)]
pub struct CatalogKeeper {
    current: ArcSwap<Catalog>,
    /// What holds while the catalog is being read.
    unloaded: Arc<Catalog>,
    generation: AtomicU64,
    changed: Notify,
    published: Notify,
    failing: AtomicBool,
    /// Held by the one group whose connections read the catalog.
    reader: tokio::sync::Mutex<()>,
}

impl Default for CatalogKeeper {
    fn default() -> Self {
        let unloaded = Arc::new(Catalog::unloaded());
        Self {
            current: ArcSwap::new(unloaded.clone()),
            unloaded,
            generation: AtomicU64::new(1),
            changed: Notify::new(),
            published: Notify::new(),
            failing: AtomicBool::new(false),
            reader: tokio::sync::Mutex::default(),
        }
    }
}

impl CatalogKeeper {
    /// Never one that a change of the schema has made void.
    pub fn current(&self) -> Arc<Catalog> {
        let current = self.current.load_full();
        if current.generation() == self.generation() { current } else { self.unloaded.clone() }
    }

    /// Returns when the catalog has been read. Cancel safe.
    pub async fn loaded(&self) {
        loop {
            let published = self.published.notified();
            tokio::pin!(published);
            // Before the look: a catalog that is published in between is not missed.
            published.as_mut().enable();
            if self.current.load().is_loaded() {
                return;
            }
            published.await;
        }
    }

    /// See [`Group::catalog_is_failing`].
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::Relaxed)
    }

    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What is known is void until it has been read again, which starts at once.
    pub fn invalidate(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.current.store(self.unloaded.clone());
        self.changed.notify_one();
    }

    /// Publishes what was read under `generation`, unless the schema has changed meanwhile.
    fn publish(&self, generation: u64, catalog: Catalog) -> bool {
        self.current.store(Arc::new(catalog));
        let stale = self.generation() != generation;
        if stale {
            self.current.store(self.unloaded.clone());
        } else {
            self.published.notify_waiters();
        }
        !stale
    }
}

/// Reads the catalog with `group`'s login until the group is gone.
pub(super) async fn keep(group: Weak<Group>) {
    let Some(keeper) = group.upgrade().map(|group| group.keeper().clone()) else { return };
    // One reader per database; when its group goes, the next takes over.
    let _reader = keeper.reader.lock().await;
    let mut stamp = None;
    let mut loaded = 0;
    loop {
        let Some(group) = group.upgrade().filter(|group| !group.is_closed()) else { return };
        let generation = keeper.generation();
        let quiet = group.clock.now().since(group.last_read()) > CHECK * 2;
        let outcome = if loaded != generation {
            load(&group, generation).await.map(|(fresh_stamp, catalog)| {
                loaded = if keeper.publish(generation, catalog) { generation } else { 0 };
                stamp = Some(fresh_stamp);
            })
        } else if quiet {
            Ok(())
        } else {
            check(&group).await.map(|answer| {
                if stamp.is_some() && stamp != answer {
                    keeper.invalidate();
                }
            })
        };
        drop(group);
        keeper.failing.store(outcome.is_err(), Ordering::Relaxed);
        let pause = match outcome {
            Ok(()) if loaded == 0 => Duration::ZERO,
            Ok(()) => CHECK,
            Err(error) => {
                tracing::warn!(%error, "cannot read the catalog: until that works, reads go to the primary");
                RETRY
            }
        };
        let _ = tokio::time::timeout(pause, keeper.changed.notified()).await;
    }
}

async fn check(group: &Group) -> Result<Option<String>, String> {
    Ok(first(Reader::connect(group).await?.ask(CATALOG_STAMP_QUERY).await?))
}

async fn load(group: &Group, generation: u64) -> Result<(String, Catalog), String> {
    let mut reader = Reader::connect(group).await?;
    // The stamp first: a change during the load then shows as another stamp.
    let stamp = first(reader.ask(CATALOG_STAMP_QUERY).await?).ok_or("the catalog's stamp is empty")?;
    let mut results = Vec::new();
    for (_, sql) in CATALOG_QUERIES {
        results.push(reader.ask(sql).await?.into_iter().next().unwrap_or_default());
    }
    let rows = CatalogRows::from_results(results).map_err(|error| error.to_string())?;
    Ok((stamp, Catalog::build(generation, rows)))
}

type Sets = Vec<Vec<Vec<Option<String>>>>;

/// A connection of the reader's own, for as long as one reading takes: those of the pool may all be
/// kept by sessions that wait for the catalog, and have settings of their clients.
struct Reader(Connected);

impl Reader {
    /// To the primary: a replica may not have the newest catalog yet.
    async fn connect(group: &Group) -> Result<Self, String> {
        let pool = group.pool(Place::Primary);
        let mut login = pool.login();
        login.parameters.push(("application_name".into(), "pgweir catalog".into()));
        let outcome = connect(&pool.host, &login, pool.settings().connect_timeout).await;
        outcome.map(Self).map_err(|error| error.to_string())
    }

    async fn ask(&mut self, sql: &str) -> Result<Sets, String> {
        match tokio::time::timeout(PATIENCE, simple_query(&mut self.0.stream, sql, LARGEST)).await {
            Ok(Ok(answer)) => Ok(answer.sets),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {PATIENCE:?}")),
        }
    }
}

fn first(sets: Sets) -> Option<String> {
    sets.into_iter().flatten().flatten().flatten().next()
}
