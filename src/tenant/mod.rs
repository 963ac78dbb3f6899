//! Who a client belongs to, and what it is held to: identity, limits and the count of live clients.
//! No I/O and no clock here.

mod timeout;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::config::{Config, DEFAULT_TENANT, Pinning, TenantMatch, Tier};
use crate::wire::error::{PgError, Severity};

pub use timeout::{clamp, parse_guc_milliseconds};

/// Every tenant of one configuration. A reload makes new ones that go on counting where these are.
#[derive(Debug)]
pub struct Tenants {
    /// In the order of the file: the first match wins.
    matches: Vec<(TenantMatch, Tenant)>,
    default: Tenant,
}

impl Tenants {
    pub fn new(config: &Config) -> Self {
        Self::counting_on(config, &BTreeMap::new())
    }

    /// The tenants of a new configuration. Clients admitted by `self` still count for the tenant of the same name.
    pub fn reload(&self, config: &Config) -> Self {
        let all = self.matches.iter().map(|(_, tenant)| tenant).chain([&self.default]);
        Self::counting_on(config, &all.map(|tenant| (tenant.name.clone(), tenant.counters.clone())).collect())
    }

    /// The tenant of a client by its startup packet; `option` is the value of `pgweir.tenant`.
    /// A client that no entry matches belongs to `default`.
    pub fn identify(&self, user: &str, database: &str, option: Option<&str>) -> Tenant {
        let holds = |matches: &TenantMatch| {
            matches.user.as_deref().is_none_or(|wanted| wanted == user)
                && matches.database.as_deref().is_none_or(|wanted| wanted == database)
                && matches.option.as_deref().is_none_or(|wanted| Some(wanted) == option)
        };
        let found = self.matches.iter().find(|(matches, _)| holds(matches));
        found.map_or(&self.default, |(_, tenant)| tenant).clone()
    }

    fn counting_on(config: &Config, counters: &BTreeMap<Arc<str>, Arc<Counters>>) -> Self {
        let mut counters = counters.clone();
        let mut tenant = |name: &str, limits: &Arc<Tier>| {
            let name: Arc<str> = name.into();
            let counters = counters.entry(name.clone()).or_default().clone();
            Tenant { name, limits: limits.clone(), counters }
        };
        Self {
            matches: config.tenants.iter().map(|one| (one.matches.clone(), tenant(&one.name, &one.limits))).collect(),
            default: tenant(DEFAULT_TENANT, &config.default_tier),
        }
    }
}

/// One tenant as its clients see it; cheap to clone.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub name: Arc<str>,
    pub limits: Arc<Tier>,
    counters: Arc<Counters>,
}

/// What is counted for a tenant, over reloads too.
#[derive(Debug, Default)]
struct Counters {
    /// Its clients.
    live: AtomicUsize,
    /// Server connections that its sessions keep to themselves.
    pinned: AtomicUsize,
    last_write: AtomicU64,
}

impl Tenant {
    /// Takes one of the tenant's places for a client.
    ///
    /// Errors: 53300, to be sent in place of the authentication's end, when all are taken.
    pub fn admit(&self) -> Result<ClientPermit, PgError> {
        let most = self.limits.max_clients.unwrap_or(usize::MAX);
        match take(&self.counters.live, most) {
            Ok(()) => Ok(ClientPermit(self.counters.clone())),
            Err(live) => Err(self.full(live, most)),
        }
    }

    /// May a statement bind its session to its server connection?
    ///
    /// Errors: 0A000 where the tenant wants that refused, 53300 where as many as it may have are bound.
    pub fn may_pin(&self) -> Result<(), PgError> {
        let (pinned, most) = (self.counters.pinned.load(Ordering::Relaxed), self.most_pinned());
        match self.limits.pinning {
            Pinning::Refuse => Err(self.refuses_pins()),
            Pinning::Allow if pinned >= most => Err(self.too_many_pinned(pinned, most, STATEMENT)),
            Pinning::Allow => Ok(()),
        }
    }

    /// A session is bound to its server connection.
    ///
    /// Errors: as for [`Self::may_pin`].
    pub fn pin(&self) -> Result<PinPermit, PgError> {
        self.may_pin()?;
        self.take_pin(STATEMENT)
    }

    /// A client replicates, on a server connection of its own. (Whether it may is said for each user, and not by `pinning`.)
    ///
    /// Errors: 53300, fatal, as for [`Self::may_pin`].
    pub fn replicate(&self) -> Result<PinPermit, PgError> {
        let outcome = self.take_pin("A replication connection keeps a server connection to itself.");
        outcome.map_err(|error| PgError { severity: Severity::Fatal, ..error })
    }

    fn take_pin(&self, why: &'static str) -> Result<PinPermit, PgError> {
        let most = self.most_pinned();
        take(&self.counters.pinned, most).map_err(|pinned| self.too_many_pinned(pinned, most, why))?;
        Ok(PinPermit(self.counters.clone()))
    }

    fn most_pinned(&self) -> usize {
        self.limits.max_pinned.unwrap_or(usize::MAX)
    }

    fn refuses_pins(&self) -> PgError {
        let name = &self.name;
        PgError::error("0A000", "this statement makes state that only one server connection has")
            .detail(format!("The tenant \"{name}\" does not let a session keep a server connection to itself (pinning = \"refuse\")."))
            .hint("Do without temporary tables, session-level advisory locks, cursors WITH HOLD and PREPARE, or within one transaction.")
    }

    fn too_many_pinned(&self, pinned: usize, most: usize, why: &'static str) -> PgError {
        let (name, tier) = (&self.name, &self.limits.name);
        let message =
            format!("too many pinned server connections for tenant \"{name}\": {pinned} are pinned, {most} allowed");
        PgError::error("53300", message).detail(why).hint(format!(
            "Let go of such state in other sessions, or raise max_pinned of the tenant or of its tier \"{tier}\"."
        ))
    }

    /// A write of this tenant was answered, at a moment of its cluster's clock (see `cluster::Clock`).
    pub fn wrote(&self, moment: u64) {
        self.counters.last_write.fetch_max(moment, Ordering::AcqRel);
    }

    /// The latest moment given to [`Self::wrote`]; 0 when there was none.
    pub fn last_write(&self) -> u64 {
        self.counters.last_write.load(Ordering::Acquire)
    }

    /// Clients that hold a permit.
    pub fn live_clients(&self) -> usize {
        self.counters.live.load(Ordering::Relaxed)
    }

    fn full(&self, live: usize, most: usize) -> PgError {
        let (name, tier) = (&self.name, &self.limits.name);
        PgError::fatal("53300", format!("too many connections for tenant \"{name}\": {live} are open, {most} allowed"))
            .hint(format!(
                "Close connections that are not in use, use a smaller connection pool in the application, \
                 or raise max_clients of the tenant or of its tier \"{tier}\"."
            ))
    }
}

const STATEMENT: &str = "This statement makes state that only one server connection has.";

/// Takes one of `most`; the error is how many are taken. Only the number itself is shared: no other memory is
/// published with it.
fn take(count: &AtomicUsize, most: usize) -> Result<(), usize> {
    let next = |taken| (taken < most).then(|| taken + 1);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map(drop)
}

/// A client's place within its tenant's `max_clients`, given back when dropped.
#[derive(Debug)]
pub struct ClientPermit(Arc<Counters>);

impl Drop for ClientPermit {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place within its tenant's `max_pinned`, given back when dropped.
#[derive(Debug)]
pub struct PinPermit(Arc<Counters>);

impl Drop for PinPermit {
    fn drop(&mut self) {
        self.0.pinned.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{TenantConfig, from_env};

    fn tier(name: &str, seconds: u64, max_clients: Option<usize>) -> Arc<Tier> {
        Arc::new(Tier {
            name: name.to_owned(),
            statement_timeout: Some(Duration::from_secs(seconds)),
            max_clients,
            consistency: None,
            max_pinned: None,
            pinning: Pinning::Allow,
        })
    }

    /// Name, (user, database, option), limits.
    type Entry = (&'static str, [Option<&'static str>; 3], Arc<Tier>);

    fn config(tenants: &[Entry]) -> Config {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@db/app".to_owned());
        let tenant = |(name, [user, database, option], limits): &Entry| {
            let owned = |text: &Option<&str>| text.map(str::to_owned);
            let matches = TenantMatch { user: owned(user), database: owned(database), option: owned(option) };
            Arc::new(TenantConfig { name: (*name).to_owned(), matches, limits: limits.clone() })
        };
        let tenants = tenants.iter().map(tenant).collect();
        Config { tenants, default_tier: tier("standard", 15, None), ..from_env(&url).unwrap() }
    }

    #[test]
    fn the_first_match_wins_and_everybody_else_is_the_default_tenant() {
        let gold = tier("gold", 60, None);
        let tenants = Tenants::new(&config(&[
            ("both", [Some("a"), Some("app"), None], gold.clone()),
            ("user", [Some("a"), None, None], gold.clone()),
            ("option", [None, None, Some("x")], gold.clone()),
            ("late", [Some("a"), None, Some("x")], gold),
        ]));
        let cases = [
            (("a", "app", None), "both"),
            (("a", "app", Some("x")), "both"),
            (("a", "other", Some("x")), "user"),
            (("b", "app", Some("x")), "option"),
            (("b", "app", Some("y")), "default"),
            (("b", "app", None), "default"),
        ];
        for ((user, database, option), expected) in cases {
            let tenant = tenants.identify(user, database, option);
            assert_eq!(&*tenant.name, expected, "{user} {database} {option:?}");
            let timeout = if expected == "default" { 15 } else { 60 };
            assert_eq!(tenant.limits.statement_timeout, Some(Duration::from_secs(timeout)));
        }
    }

    #[test]
    fn a_full_tenant_refuses_and_names_its_limit() {
        let tenants = Tenants::new(&config(&[("acme", [Some("a"), None, None], tier("small", 15, Some(2)))]));
        let tenant = tenants.identify("a", "app", None);
        let (first, _second) = (tenant.admit().unwrap(), tenant.admit().unwrap());
        let error = tenants.identify("a", "other", None).admit().unwrap_err();
        assert_eq!(error.code, "53300");
        assert_eq!(error.message, "too many connections for tenant \"acme\": 2 are open, 2 allowed");
        assert!(error.hint.unwrap().contains("tier \"small\""));
        drop(first);
        assert_eq!(tenant.live_clients(), 1);
        assert!(tenant.admit().is_ok());
    }

    #[test]
    fn entries_of_one_name_share_their_places() {
        let small = tier("small", 15, Some(1));
        let tenants = Tenants::new(&config(&[
            ("acme", [Some("a"), None, None], small.clone()),
            ("acme", [Some("b"), None, None], small),
        ]));
        let _permit = tenants.identify("a", "app", None).admit().unwrap();
        assert!(tenants.identify("b", "app", None).admit().is_err());
    }

    #[test]
    fn live_clients_survive_a_reload_by_name() {
        let with = |most| config(&[("acme", [Some("a"), None, None], tier("small", 15, Some(most)))]);
        let before = Tenants::new(&with(3));
        let permits: Vec<_> = (0..3).map(|_| before.identify("a", "app", None).admit().unwrap()).collect();
        let after = before.reload(&with(2));
        let tenant = after.identify("a", "app", None);
        assert_eq!(tenant.live_clients(), 3);
        assert!(tenant.admit().is_err());
        drop(permits);
        assert_eq!(tenant.live_clients(), 0);
        assert!(tenant.admit().is_ok());
    }
}
