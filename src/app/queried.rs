//! The rows of `[tenancy] tenants_query`, and the tenants that a configuration makes of them.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{Config, DEFAULT_TENANT, Layout, TenantConfig, Tier, limited};

/// What was read last. A reload makes the tenants anew.
#[derive(Debug, PartialEq)]
pub struct Queried {
    /// As JSON, in an order of their own.
    rows: Vec<String>,
    /// By their names.
    pub tenants: Vec<Arc<TenantConfig>>,
}

impl Queried {
    /// A row that is no tenant is told in the log, and leaves the one of its name as it was.
    pub fn new(mut rows: Vec<String>, config: &Config, before: Option<&Self>) -> Self {
        rows.sort_unstable();
        let mut tenants: Vec<Arc<TenantConfig>> = Vec::new();
        for row in &rows {
            match tenant(row, config) {
                Ok(tenant) => tenants.push(Arc::new(tenant)),
                Err((error, name)) => {
                    // Without its tenant its clients would be somebody else's.
                    let known = before.iter().flat_map(|before| &before.tenants);
                    tenants.extend(known.filter(|known| Some(&known.name) == name.as_ref()).cloned());
                    tracing::warn!("a row of tenants_query is no tenant, and changes none: {error}");
                }
            }
        }
        tenants.sort_by(|one, two| one.name.cmp(&two.name));
        tenants.dedup_by(|one, two| one.name == two.name);
        Self { rows, tenants }
    }

    /// The same rows under another configuration.
    pub fn under(&self, config: &Config) -> Self {
        Self::new(self.rows.clone(), config, Some(self))
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
