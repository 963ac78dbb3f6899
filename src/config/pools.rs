//! `[pool]` and `[databases]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::listen::{DAY, MILLISECOND, set};
use super::reader::{Item, Section, closest};
use super::{DatabaseConfig, PoolMode, PoolSettings};

/// A name without an entry of its own falls to this one.
pub const ANY_DATABASE: &str = "*";

/// The settings of `base` with what this section overrides.
pub(super) fn pool(section: Section, base: &PoolSettings) -> PoolSettings {
    let mut pool = base.clone();
    let modes =
        [("transaction", PoolMode::Transaction), ("session", PoolMode::Session), ("statement", PoolMode::Statement)];
    let year = DAY * 365;
    let wait = MILLISECOND..=DAY;
    set(&mut pool.mode, section.get("mode").and_then(|item| item.choice(&modes)));
    set(&mut pool.size, section.get("size").and_then(|item| item.count(1..=10_000)));
    set(&mut pool.min_idle, section.get("min_idle").and_then(|item| item.count(0..=10_000)));
    set(&mut pool.queue_timeout, section.get("queue_timeout").and_then(|item| item.duration(wait.clone())));
    let ages = Duration::from_secs(1)..=year;
    set(&mut pool.idle_timeout, section.get("idle_timeout").and_then(|item| item.duration_or_never(ages.clone())));
    set(&mut pool.max_lifetime, section.get("max_lifetime").and_then(|item| item.duration_or_never(ages)));
    let always = "before every use";
    let check = MILLISECOND..=year;
    set(&mut pool.check_after, section.get("check_after").and_then(|item| item.duration_or_zero(check, always)));
    set(&mut pool.connect_timeout, section.get("connect_timeout").and_then(|item| item.duration(wait)));
    let cache = 16 << 10..=1 << 30;
    set(&mut pool.prepared_cache, section.get("prepared_cache").and_then(|item| item.size(cache)));
    set(&mut pool.reuse, section.get("reuse").and_then(|item| item.boolean()));
    set(&mut pool.queue_length, section.get("queue_length").and_then(|item| item.count(0..=1_000_000)));
    if pool.min_idle > pool.size {
        section.error(format!("`min_idle` is {}, more than `size`, which is {}", pool.min_idle, pool.size));
    }
    section.finish();
    pool
}

/// Every database; without a section, all databases of the only cluster.
pub(super) fn databases(
    item: Option<Item>,
    clusters: &BTreeSet<String>,
    base: &PoolSettings,
    root: &Section,
) -> BTreeMap<String, Arc<DatabaseConfig>> {
    let Some(item) = item else {
        match only(clusters) {
            Some(cluster) => return any_database(cluster, base.clone()),
            // Without a cluster there is another error already.
            None if clusters.is_empty() => {}
            None => root.error("`databases` is missing: expected one that names its cluster, since there are several"),
        }
        return BTreeMap::new();
    };
    let mut databases = BTreeMap::new();
    for (name, item) in item.entries() {
        if let Some(database) = item.section().and_then(|section| database(name.clone(), section, clusters, base)) {
            databases.insert(name, Arc::new(database));
        }
    }
    databases
}

/// A map in which `*` serves every name on `cluster`.
pub(super) fn any_database(cluster: &str, pool: PoolSettings) -> BTreeMap<String, Arc<DatabaseConfig>> {
    let name = ANY_DATABASE.to_owned();
    let database = DatabaseConfig { name: name.clone(), cluster: cluster.to_owned(), server_name: None, pool };
    BTreeMap::from([(name, Arc::new(database))])
}

fn database(
    name: String,
    section: Section,
    clusters: &BTreeSet<String>,
    base: &PoolSettings,
) -> Option<DatabaseConfig> {
    let cluster = match section.get("cluster") {
        Some(item) => reference(&item, clusters, "cluster"),
        None => {
            if clusters.len() > 1 {
                section.error("`cluster` is missing: expected the name of one, since there are several");
            }
            only(clusters).map(str::to_owned)
        }
    };
    let server_name = section.get("server_name").and_then(|item| item.name());
    let pool = section.get("pool").and_then(|item| Some(pool(item.section()?, base))).unwrap_or_else(|| base.clone());
    section.finish();
    Some(DatabaseConfig { name, cluster: cluster?, server_name, pool })
}

/// A name that must be one of those that the file declares.
pub(super) fn reference(item: &Item, names: &BTreeSet<String>, kind: &str) -> Option<String> {
    let name = item.string()?;
    if names.contains(name) {
        return Some(name.to_owned());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = closest(name, &names).map(|near| format!(", did you mean \"{near}\"?")).unwrap_or_default();
    item.error(format!("there is no {kind} \"{name}\"{hint}"));
    None
}

fn only(clusters: &BTreeSet<String>) -> Option<&str> {
    let mut names = clusters.iter();
    names.next().filter(|_| names.next().is_none()).map(String::as_str)
}
