//! Tenants from a query (`[tenancy] tenants_query`): asked for again and again, so that a new one needs no restart.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::Snapshot;
use super::roles::Snapshots;
use crate::config::{Config, DEFAULT_TENANT, Layout, TenantConfig, TenantsQuery, Tier, limited};
use crate::listener::Door;
use crate::pool::Purpose;
use crate::server::simple_query;

/// Without a query: a reload may bring one.
const PAUSE: Duration = Duration::from_millis(500);
/// For the query, its connection apart.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of its answer.
const LARGEST: usize = 256 << 20;

/// Asks for as long as it is polled. What cannot be had leaves the tenants as they are.
pub async fn follow(door: Arc<Door>, snapshots: Arc<Snapshots>) {
    let mut told = None;
    loop {
        let snapshot = door.snapshot();
        let Some(query) = snapshot.config().tenancy.query.clone() else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let outcome = ask(&snapshot, &query).await;
        match &outcome {
            Err(error) if told.as_ref() != Some(error) => {
                tracing::warn!(database = query.database, %error, "cannot read the tenants: those that are known stay");
            }
            Ok((_, errors)) => errors.iter().for_each(|error| tracing::warn!("{error}")),
            Err(_) => {}
        }
        told = outcome.as_ref().err().cloned();
        if let Ok((tenants, _)) = outcome {
            take(&door, &snapshots, &query, tenants).await;
        }
        tokio::time::sleep(query.refresh).await;
    }
}

/// The tenants, and what is wrong with some.
async fn ask(snapshot: &Snapshot, query: &TenantsQuery) -> Result<(Vec<Arc<TenantConfig>>, Vec<String>), String> {
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
    let (mut tenants, mut errors): (Vec<Arc<TenantConfig>>, Vec<String>) = Default::default();
    for row in answer.sets.into_iter().flatten().flatten().flatten() {
        match tenant(&row, config) {
            Ok(tenant) => tenants.push(Arc::new(tenant)),
            Err((error, name)) => {
                // Without its tenant its clients would be somebody else's.
                let known = snapshot.queried.iter().flat_map(|known| known.iter());
                tenants.extend(known.filter(|known| Some(&known.name) == name.as_ref()).cloned());
                errors.push(format!("a row of tenants_query is no tenant, and changes none: {error}"));
            }
        }
    }
    tenants.sort_unstable_by(|one, two| one.name.cmp(&two.name));
    tenants.dedup_by(|one, two| one.name == two.name);
    Ok((tenants, errors))
}

/// One row as JSON: a name, a tier, a database and a cluster, and limits as in the configuration. NULL is as if it were not there.
///
/// Errors: what is wrong with it, and its name.
fn tenant(row: &str, config: &Config) -> Result<TenantConfig, (String, Option<String>)> {
    let row: Map<String, Value> = serde_json::from_str(row).map_err(|error| (error.to_string(), None))?;
    let name = row.get("name").and_then(Value::as_str).map(str::to_owned);
    limits(row, config).map_err(|error| (error, name))
}

fn limits(mut row: Map<String, Value>, config: &Config) -> Result<TenantConfig, String> {
    row.retain(|_, value| !value.is_null());
    let mut text = |key: &str| match row.remove(key) {
        None => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(other) => Err(format!("{key} is {other}, expected a name")),
    };
    let name = text("name")?.ok_or("it has no name")?;
    if name == DEFAULT_TENANT {
        return Err(format!("the tenant \"{name}\" is everybody who belongs to no other"));
    }
    let tier = match text("tier")? {
        None => &config.default_tier,
        Some(tier) => config.tiers.get(&tier).ok_or(format!("tenant \"{name}\": there is no tier \"{tier}\""))?,
    };
    let layout = Layout { cluster: text("cluster")?, database: text("database")? };
    if let Some(missing) = config.missing(&layout) {
        return Err(format!("tenant \"{name}\": there is no {missing}"));
    }
    let keys = toml::to_string(&row).map_err(|error| format!("tenant \"{name}\": {error}"))?;
    let limits = limited(tier, &keys).map_err(|errors| format!("tenant \"{name}\": {errors}"))?;
    Ok(TenantConfig { name, matches: Vec::new(), limits: Arc::new(Tier { layout, ..limits }) })
}

/// Clients who come from now on belong to these.
async fn take(door: &Door, snapshots: &Snapshots, query: &TenantsQuery, tenants: Vec<Arc<TenantConfig>>) {
    let _one_at_a_time = snapshots.changing.lock().await;
    let before = door.snapshot();
    // Of another configuration by now, or the same as they were.
    if before.config().tenancy.query.as_ref() != Some(query) || before.queried.as_deref() == Some(&tenants) {
        return;
    }
    tracing::info!(tenants = tenants.len(), "the tenants have changed");
    snapshots.current.send_replace(Arc::new(before.with_tenants(tenants.into())));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Priority, from_env};

    #[test]
    fn a_row_is_a_tenant_with_limits_as_in_the_file() {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@db/app".to_owned());
        let mut config = from_env(&url).unwrap();
        let gold = Tier { max_clients: Some(9), ..Tier::unlimited("gold") };
        config.tiers.insert("gold".into(), Arc::new(gold));
        let row = r#"{"name": "acme", "tier": "gold", "priority": "high", "statement_timeout": "30s", "max_pinned": null,
                      "queue_length": 5, "rate_limits": ["10/s"], "settings": {"app.tenant": "acme"}}"#;
        let acme = tenant(row, &config).unwrap();
        let limits = &acme.limits;
        assert_eq!((&*acme.name, &*limits.name, limits.max_clients), ("acme", "gold", Some(9)));
        assert_eq!((limits.priority, limits.queue_length), (Priority::High, Some(5)));
        assert_eq!((limits.rate_limits.len(), &*limits.settings["app.tenant"]), (1, "acme"));
        assert_eq!(limits.statement_timeout, Some(Duration::from_secs(30)));
        let row = r#"{"name": "acme", "database": "acme_db", "cluster": "main"}"#;
        let layout = Layout { cluster: Some("main".into()), database: Some("acme_db".into()) };
        assert_eq!(tenant(row, &config).unwrap().limits.layout, layout);
        config.databases.remove("*");
        for (row, error) in [
            ("{}", "no name"),
            (r#"{"name": 5}"#, "name is 5"),
            (r#"{"name": "default"}"#, "everybody"),
            (r#"{"name": "a", "tier": "lead"}"#, "no tier \"lead\""),
            (r#"{"name": "a", "database": "none"}"#, "no database \"none\""),
            (r#"{"name": "a", "database": "*", "cluster": "main"}"#, "no database \"*\""),
            (r#"{"name": "a", "database": "app", "cluster": "eu"}"#, "no cluster \"eu\""),
            (r#"{"name": "a", "cluster": 5}"#, "cluster is 5"),
            (r#"{"name": "a", "max_clients": "many"}"#, "expected a whole number"),
            (r#"{"name": "a", "colour": "red"}"#, "colour"),
        ] {
            let (found, name) = tenant(row, &config).unwrap_err();
            assert!(name.is_none_or(|name| row.contains(&name)));
            assert!(found.contains(error), "{row}: {found}");
        }
    }
}
