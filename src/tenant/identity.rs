//! Who a client belongs to, by what it brings to its login.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::Tenant;
use crate::config::{Config, DEFAULT_TENANT, Pattern, Source, TenantConfig, TenantMatch, Tier, Unknown};
use crate::wire::error::PgError;

/// What a client brings that may say who it belongs to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Traits<'a> {
    /// Without the suffix.
    pub user: &'a str,
    pub database: &'a str,
    pub user_suffix: Option<&'a str>,
    /// The value of `pgweir.tenant`.
    pub option: Option<&'a str>,
    pub application_name: Option<&'a str>,
    pub server_name: Option<&'a str>,
    /// The common name.
    pub certificate: Option<&'a str>,
    /// In the form of RFC 2253.
    pub certificate_subject: Option<&'a str>,
}

impl<'a> Traits<'a> {
    fn of(&self, source: Source) -> Option<&'a str> {
        match source {
            Source::User => Some(self.user),
            Source::Database => Some(self.database),
            Source::UserSuffix => self.user_suffix,
            Source::Option => self.option,
            Source::ApplicationName => self.application_name,
            Source::ServerName => self.server_name,
            Source::Certificate => self.certificate,
            Source::CertificateSubject => self.certificate_subject,
        }
    }

    /// What the `*` of a pattern stands for.
    fn captured(&self, (source, pattern): &(Source, Pattern)) -> Option<&'a str> {
        let found = pattern.captures(self.of(*source)?)?;
        // What follows a backslash belongs to a value still, so that "CN=a\,OU=b" has no OU.
        let torn = found.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        (*source != Source::CertificateSubject || !torn).then_some(found)
    }

    fn hold(&self, matches: &TenantMatch) -> bool {
        matches.conditions.iter().all(|condition| self.captured(condition).is_some())
    }
}

/// Every tenant of one configuration. A reload makes new ones that go on counting where these are.
#[derive(Debug)]
pub struct Tenants {
    /// In the order of the file: the first match wins.
    matches: Vec<(TenantMatch, Tenant)>,
    by_name: BTreeMap<Arc<str>, Tenant>,
    /// Those that there were, of which there may be clients.
    departed: Vec<Tenant>,
    /// Where the name of a tenant is looked for, where no match holds.
    identify: Vec<(Source, Pattern)>,
    default: Tenant,
    unknown: Unknown,
}

impl Tenants {
    pub fn new(config: &Config) -> Self {
        Self::counting_on(config, &[], BTreeMap::new(), &BTreeMap::new())
    }

    /// The tenants of a new configuration, and `more`, which are known by their names. Clients admitted by `self` still count
    /// for the tenant of the same name.
    pub fn reload(&self, config: &Config, more: &[Arc<TenantConfig>]) -> Self {
        Self::counting_on(config, more, self.counters(), &BTreeMap::new())
    }

    /// The same where only `more` is new: what an administrator has limited stays, save of those who have other limits now.
    pub fn with_more(&self, config: &Config, more: &[Arc<TenantConfig>]) -> Self {
        let all = self.by_name.values().chain([&self.default]);
        let limits = all.map(|tenant| (tenant.name.clone(), tenant.limits.clone())).collect();
        Self::counting_on(config, more, self.counters(), &limits)
    }

    /// What is counted, also for those who have left and whose clients are still there.
    fn counters(&self) -> BTreeMap<Arc<str>, Tenant> {
        let departed = self.departed.iter().filter(|tenant| Arc::strong_count(&tenant.counters) > 1);
        let all = departed.chain(self.by_name.values()).chain([&self.default]);
        all.map(|tenant| (tenant.name.clone(), tenant.clone())).collect()
    }

    /// The tenant of a client.
    ///
    /// Errors: 28000 where it has none, and such are refused.
    pub fn identify(&self, traits: &Traits) -> Result<Tenant, PgError> {
        let named = || self.names(traits).find_map(|name| self.by_name.get(name));
        match (self.matched(traits).or_else(named), self.unknown) {
            (Some(tenant), _) => Ok(tenant.with_current_limits()),
            (None, Unknown::Default) => Ok(self.default.with_current_limits()),
            (None, Unknown::Refuse) => Err(self.belongs_to_nobody(traits)),
        }
    }

    /// Would the tenant of a client be the same if there were more that are known by their names? (Of one that brings no name
    /// that is not said.)
    pub fn is_sure(&self, traits: &Traits) -> bool {
        let first = || self.names(traits).next().is_some_and(|name| self.by_name.contains_key(name));
        self.matched(traits).is_some() || first()
    }

    fn matched(&self, traits: &Traits) -> Option<&Tenant> {
        self.matches.iter().find(|(matches, _)| traits.hold(matches)).map(|(_, tenant)| tenant)
    }

    fn names<'a>(&'a self, traits: &'a Traits<'_>) -> impl Iterator<Item = &'a str> {
        self.identify.iter().filter_map(|condition| traits.captured(condition))
    }

    /// The tenant of this name, that of everybody else included, and those that have left.
    pub fn named(&self, name: &str) -> Option<&Tenant> {
        self.present(name).or_else(|| self.departed.iter().find(|tenant| *tenant.name == *name))
    }

    /// The tenant that a client names who may name any, with the limits of now. One that is not known, or has left, is that
    /// of everybody else; `None` where such are refused.
    pub fn find(&self, name: &str) -> Option<Tenant> {
        let default = (self.unknown == Unknown::Default).then_some(&self.default);
        self.present(name).or(default).map(Tenant::with_current_limits)
    }

    fn present(&self, name: &str) -> Option<&Tenant> {
        self.by_name.get(name).or((*self.default.name == *name).then_some(&self.default))
    }

    /// In the order of their names; that of everybody else comes last.
    pub fn all(&self) -> impl Iterator<Item = &Tenant> {
        self.by_name.values().chain([&self.default])
    }

    /// Those of [`Self::all`], and those that have left and have clients.
    pub fn present_or_served(&self) -> impl Iterator<Item = &Tenant> {
        self.all().chain(self.departed.iter().filter(|tenant| tenant.live_clients() > 0))
    }

    /// Those of [`Self::all`], and those that have left, of whom there may be clients.
    pub fn counted(&self) -> impl Iterator<Item = &Tenant> {
        self.departed.iter().chain(self.all())
    }

    fn counting_on(
        config: &Config,
        more: &[Arc<TenantConfig>],
        mut before: BTreeMap<Arc<str>, Tenant>,
        unchanged: &BTreeMap<Arc<str>, Arc<Tier>>,
    ) -> Self {
        let mut tenant = |name: &str, limits: &Arc<Tier>| {
            let counters = before.remove(name).map(|tenant| tenant.counters).unwrap_or_default();
            if unchanged.get(name) != Some(limits) {
                counters.hold_to(limits);
            }
            Tenant { name: name.into(), limits: limits.clone(), counters }
        };
        let named: HashSet<_> = config.tenants.iter().map(|one| &one.name).collect();
        let all = config.tenants.iter().chain(more.iter().filter(|one| !named.contains(&one.name)));
        let tenants: Vec<_> = all.map(|one| (one, tenant(&one.name, &one.limits))).collect();
        let default = tenant(DEFAULT_TENANT, &config.default_tier);
        let matches =
            tenants.iter().flat_map(|(one, tenant)| one.matches.iter().map(|one| (one.clone(), tenant.clone())));
        Self {
            matches: matches.collect(),
            by_name: tenants.iter().map(|(_, tenant)| (tenant.name.clone(), tenant.clone())).collect(),
            departed: before.into_values().collect(),
            identify: config.tenancy.identify.clone(),
            default,
            unknown: config.tenancy.unknown,
        }
    }

    fn belongs_to_nobody(&self, traits: &Traits) -> PgError {
        let brought =
            Source::NAMES.iter().filter_map(|(name, source)| Some(format!("{name} \"{}\"", traits.of(*source)?)));
        let brought = brought.collect::<Vec<_>>().join(", ");
        PgError::fatal("28000", "no tenant for this connection")
            .detail(format!("No tenant of pgweir's configuration is known by any of {brought}."))
            .hint("Connect as one that is known, or see [[tenants]] and [tenancy] in pgweir's configuration.")
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Tenancy, from_env};

    pub fn tier(name: &str, seconds: u64, max_clients: Option<usize>) -> Arc<Tier> {
        let statement_timeout = Some(Duration::from_secs(seconds));
        Arc::new(Tier { statement_timeout, max_clients, ..Tier::unlimited(name) })
    }

    /// Name, matches such as `user=a database=app`, limits.
    pub type Entry<'a> = (&'a str, &'a [&'a str], Arc<Tier>);

    pub fn config(tenants: &[Entry]) -> Config {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@db/app".to_owned());
        let matches = |text: &&str| TenantMatch { conditions: text.split(' ').map(condition).collect() };
        let tenant = |(name, conditions, limits): &Entry| {
            let matches = conditions.iter().map(matches).collect();
            Arc::new(TenantConfig { name: (*name).to_owned(), matches, limits: limits.clone() })
        };
        let tenants = tenants.iter().map(tenant).collect();
        Config { tenants, default_tier: tier("standard", 15, None), ..from_env(&url).unwrap() }
    }

    /// `user=a`.
    fn condition(text: &str) -> (Source, Pattern) {
        let (name, pattern) = text.split_once('=').unwrap();
        let (_, source) = Source::NAMES.into_iter().find(|(known, _)| *known == name).unwrap();
        (source, Pattern::parse(pattern).unwrap())
    }

    pub fn of_user(tenants: &Tenants, user: &str) -> Tenant {
        tenants.identify(&Traits { user, database: "app", ..Traits::default() }).unwrap()
    }

    /// `user=a option=x`.
    fn brought(text: &str) -> Traits<'_> {
        let mut traits = Traits::default();
        for (name, value) in text.split(' ').filter_map(|one| one.split_once('=')) {
            match name {
                "user" => traits.user = value,
                "database" => traits.database = value,
                "suffix" => traits.user_suffix = Some(value),
                "option" => traits.option = Some(value),
                "name" => traits.application_name = Some(value),
                "host" => traits.server_name = Some(value),
                "certificate" => traits.certificate = Some(value),
                "subject" => traits.certificate_subject = Some(value),
                other => panic!("{other}"),
            }
        }
        traits
    }

    #[test]
    fn the_first_match_wins_and_everybody_else_is_the_default_tenant() {
        let gold = tier("gold", 60, None);
        let tenants = Tenants::new(&config(&[
            ("both", &["user=a database=app"], gold.clone()),
            ("user", &["user=a"], gold.clone()),
            ("option", &["option=x"], gold.clone()),
            ("late", &["user=a option=x"], gold.clone()),
            ("hosts", &["server_name=*.eu.example.com", "certificate=eu-*"], gold.clone()),
            ("subjects", &["certificate_subject=CN=*,OU=eu,O=customers"], gold.clone()),
            ("programs", &["application_name=report* user_suffix=night"], gold),
        ]));
        for (traits, expected) in [
            ("user=a database=app", "both"),
            ("user=a database=app option=x", "both"),
            ("user=a database=other option=x", "user"),
            ("user=b database=app option=x", "option"),
            ("user=b database=app option=y", "default"),
            ("user=b database=app", "default"),
            ("user=b database=app host=any.eu.example.com", "hosts"),
            ("user=b database=app host=any.us.example.com", "default"),
            ("user=b database=app certificate=eu-1", "hosts"),
            ("user=b database=app subject=CN=a,OU=eu,O=customers", "subjects"),
            ("user=b database=app subject=CN=a\\,OU=eu,O=customers", "default"),
            ("user=b database=app subject=CN=a,OU=eu,O=customers,C=DE", "default"),
            ("user=b database=app name=reporter suffix=night", "programs"),
            ("user=b database=app name=reporter suffix=day", "default"),
            ("user=b database=app name=reporter", "default"),
        ] {
            let tenant = tenants.identify(&brought(traits)).unwrap();
            assert_eq!(&*tenant.name, expected, "{traits}");
            let timeout = if expected == "default" { 15 } else { 60 };
            assert_eq!(tenant.limits.statement_timeout, Some(Duration::from_secs(timeout)));
        }
    }

    #[test]
    fn a_tenant_is_known_by_its_name_where_no_match_holds() {
        let silver = tier("silver", 30, None);
        let config = Config {
            tenancy: Tenancy {
                identify: [
                    "option=*",
                    "user_suffix=*",
                    "server_name=*.example.com",
                    "certificate_subject=CN=*,O=c",
                    "user=*",
                ]
                .map(condition)
                .to_vec(),
                separator: None,
                unknown: Unknown::Refuse,
                query: None,
            },
            ..config(&[("special", &["user=s"], silver.clone()), ("acme", &[], silver.clone()), ("beta", &[], silver)])
        };
        let tenants = Tenants::new(&config);
        for (traits, expected) in [
            ("user=app database=app option=acme suffix=beta", "acme"),
            // Nobody is called that: the next one may be.
            ("user=app database=app option=nobody suffix=beta", "beta"),
            ("user=app database=app host=beta.example.com", "beta"),
            ("user=app database=app subject=CN=beta,O=c", "beta"),
            ("user=acme database=app subject=CN=beta\\,O=c", "acme"),
            ("user=acme database=app", "acme"),
            ("user=s database=app option=acme", "special"),
        ] {
            assert_eq!(&*tenants.identify(&brought(traits)).unwrap().name, expected, "{traits}");
        }
        let error = tenants.identify(&brought("user=app database=shop suffix=who")).unwrap_err();
        assert_eq!((&*error.code, &*error.message), ("28000", "no tenant for this connection"));
        let detail = error.detail.unwrap();
        assert!(detail.contains("user \"app\", database \"shop\", user_suffix \"who\""), "{detail}");
    }
}
