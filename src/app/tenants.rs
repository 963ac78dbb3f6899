//! Tenants from a query (`[tenancy] tenants_query`): asked for again and again, so that a new one needs no restart.

use std::sync::Arc;
use std::time::Duration;

use super::Snapshot;
use super::queried::Queried;
use super::roles::Snapshots;
use crate::config::TenantsQuery;
use crate::listener::Door;
use crate::pool::Purpose;
use crate::server::simple_query;

/// How long after a failure it is asked again, twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);
/// For the query, its connection apart.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of its answer.
const LARGEST: usize = 256 << 20;

/// Asks for as long as it is polled. What cannot be had leaves the tenants as they are. Until there was any answer, whatever
/// changes may be what was amiss.
pub async fn follow(door: Arc<Door>, snapshots: Arc<Snapshots>) {
    let mut seen = snapshots.current.subscribe();
    loop {
        let asked = door.snapshot();
        let query = asked.config().tenancy.query.clone();
        let changes = seen.wait_for(|now| {
            now.config().tenancy.query != query || (now.queried.is_none() && !Arc::ptr_eq(now, &asked))
        });
        tokio::select! {
            _ = changes => {}
            () = keep_asking(&door, &snapshots, query.as_ref()) => {}
        }
    }
}

/// Asks one query again and again.
async fn keep_asking(door: &Door, snapshots: &Snapshots, query: Option<&TenantsQuery>) {
    let Some(query) = query else { return std::future::pending().await };
    let (mut told, mut retry) = (None, FIRST_RETRY);
    loop {
        match ask(&door.snapshot(), query).await {
            Ok(rows) => {
                take(door, snapshots, query, rows).await;
                (told, retry) = (None, FIRST_RETRY);
                tokio::time::sleep(query.refresh).await;
            }
            Err(error) => {
                if told.as_ref() != Some(&error) {
                    tracing::warn!(database = query.database, %error, "cannot read the tenants: those that are known stay");
                }
                told = Some(error);
                tokio::time::sleep(retry.min(query.refresh)).await;
                retry = (retry * 2).min(LAST_RETRY);
            }
        }
    }
}

/// The rows.
async fn ask(snapshot: &Snapshot, query: &TenantsQuery) -> Result<Vec<String>, String> {
    let config = snapshot.config();
    let missing = |what: &str, name: &str| format!("there is no {what} \"{name}\"");
    let database = config.database(&query.database).ok_or_else(|| missing("database", &query.database))?;
    let user = config.users.get(&query.user).ok_or_else(|| missing("user", &query.user))?;
    let mut login = snapshot.login(user, database, &query.database, None);
    // Given up here, it is to end there.
    login.parameters.push(("statement_timeout".into(), PATIENCE.as_millis().to_string()));
    let cluster = snapshot.cluster(database).map_err(|error| error.message.to_string())?;
    let (primary, patience) = (&cluster.primary, database.pool.connect_timeout);
    let connected = primary.budget.connect(Purpose::Errand, &primary.config, &login, patience).await;
    let mut connected = connected.map_err(|error| error.to_string())?;
    let sql = format!("SELECT pg_catalog.row_to_json(tenant) FROM ({}\n) AS tenant", query.sql);
    let answer = tokio::time::timeout(PATIENCE, simple_query(&mut *connected.stream, &sql, LARGEST)).await;
    let late = |_| format!("no answer within {} s", PATIENCE.as_secs());
    let answer = answer.map_err(late)?.map_err(|error| error.to_string())?;
    Ok(answer.sets.into_iter().flatten().flatten().flatten().collect())
}

/// Clients who come from now on belong to these.
async fn take(door: &Door, snapshots: &Snapshots, query: &TenantsQuery, rows: Vec<String>) {
    let _one_at_a_time = snapshots.changing.lock().await;
    // Of another configuration by now, perhaps.
    let before = door.snapshot();
    if before.config().tenancy.query.as_ref() != Some(query) {
        return;
    }
    let known = before.queried.as_deref();
    let queried = Queried::new(rows, before.config(), known);
    if known == Some(&queried) {
        return;
    }
    tracing::info!(tenants = queried.tenants.len(), "the tenants have changed");
    snapshots.current.send_replace(Arc::new(before.with_tenants(queried)));
}
