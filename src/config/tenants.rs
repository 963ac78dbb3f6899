//! `[tiers]`, `[[tenants]]` and `default_tier`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeTable;

use super::defaults::DEFAULT_TIER;
use super::error::ConfigErrors;
use super::layout::{Layout, layout};
use super::listen::MILLISECOND;
use super::pools::{ANY_DATABASE, reference};
use super::rates::rate_limits;
use super::reader::{Item, Section, one_of};
use super::report::Report;
use super::tenancy::{Pattern, Source, pattern};
use super::{Consistency, Pinning, Priority, TenantConfig, TenantMatch, Tier};

const PRIORITIES: [(&str, Priority); 3] =
    [("high", Priority::High), ("normal", Priority::Normal), ("low", Priority::Low)];
const PINNING: [(&str, Pinning); 2] = [("allow", Pinning::Allow), ("refuse", Pinning::Refuse)];

/// The tenant of a client that no other matches.
pub const DEFAULT_TENANT: &str = "default";

/// What tenants may refer to.
pub(super) struct Names<'a> {
    pub(super) users: &'a BTreeSet<String>,
    pub(super) databases: &'a BTreeSet<String>,
    pub(super) clusters: &'a BTreeSet<String>,
    /// Clients may be known by their tenant's name, so that it needs no `match`.
    pub(super) identify: bool,
}

/// The tiers that the file declares.
pub(super) struct Tiers(BTreeMap<String, Arc<Tier>>);

impl Tiers {
    pub(super) fn read(item: Option<Item>) -> Self {
        let entries = item.map(|item| item.entries()).unwrap_or_default();
        let read = |(name, item): (String, Item)| {
            let mut tier = Tier::unlimited(&name);
            if let Some(section) = item.section() {
                limits(&section, &mut tier);
                section.finish();
            }
            (name, Arc::new(tier))
        };
        Self(entries.into_iter().map(read).collect())
    }

    pub(super) fn into_map(self) -> BTreeMap<String, Arc<Tier>> {
        self.0
    }

    /// The tier of everybody else: the one named, else `standard`; no limits only where the file has no tiers.
    pub(super) fn default_tier(&self, item: Option<Item>, root: &Section) -> Arc<Tier> {
        if let Some(item) = item {
            let tier = self.named(&item).and_then(|name| self.0.get(&name).cloned());
            return tier.unwrap_or_else(|| Arc::new(Tier::unlimited(DEFAULT_TIER)));
        }
        if let Some(tier) = self.0.get(DEFAULT_TIER) {
            return tier.clone();
        }
        if !self.0.is_empty() {
            root.error(format!(
                "`default_tier` is missing: expected the name of a tier for clients that no tenant matches, \
                 since there is none called \"{DEFAULT_TIER}\""
            ));
        }
        Arc::new(Tier::unlimited(DEFAULT_TIER))
    }

    fn named(&self, item: &Item) -> Option<String> {
        reference(item, &self.0.keys().cloned().collect(), "tier")
    }
}

impl Tier {
    /// No limits.
    pub fn unlimited(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            statement_timeout: None,
            transaction_timeout: None,
            lock_timeout: None,
            idle_in_transaction_timeout: None,
            max_clients: None,
            consistency: None,
            max_pinned: None,
            pinning: Pinning::Allow,
            rate_limits: Arc::default(),
            priority: Priority::Normal,
            max_server_connections: None,
            min_server_connections: 0,
            queue_length: None,
            settings: BTreeMap::new(),
            strict: false,
            layout: Layout::default(),
        }
    }
}

/// Limits with some replaced by what `text` says, such as `max_clients = 5`.
///
/// Errors: everything that is wrong with the text.
pub fn limited(limits_now: &Tier, text: &str) -> Result<Tier, ConfigErrors> {
    let report = Report::new("LIMIT", text);
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.error(error.span().as_ref(), "", format!("not TOML: {}", error.message()));
    }
    let mut tier = limits_now.clone();
    if errors.is_empty() {
        let root = Section::root(&report, &document);
        limits(&root, &mut tier);
        root.report_unknown();
    }
    report.finish().map(|_| tier)
}

/// The tenants in the order of the file.
pub(super) fn tenants(item: &Item, tiers: &Tiers, default: &Arc<Tier>, names: &Names) -> Vec<Arc<TenantConfig>> {
    let mut seen = BTreeSet::new();
    let mut tenants: Vec<Arc<TenantConfig>> = Vec::new();
    for item in item.list() {
        let Some(section) = item.section() else { continue };
        let name = section.require("name", "the tenant's name").and_then(|item| tenant_name(&item, &mut seen));
        let tier = section.get("tier").and_then(|item| tiers.0.get(&tiers.named(&item)?).cloned());
        let limits = overridden(&section, tier.unwrap_or_else(|| default.clone()), names);
        let items = match names.identify {
            true => section.get("match"),
            false => section.require("match", "the clients that belong to it, such as { user = \"acme\" }"),
        };
        section.finish();
        let mut matches = Vec::new();
        for item in items.iter().flat_map(|item| item.list_or_one()) {
            let Some(found) = tenant_match(&item, names) else { continue };
            let covers = |earlier: &[TenantMatch]| earlier.iter().any(|earlier| covers(earlier, &found));
            if let Some(earlier) = tenants.iter().find(|earlier| covers(&earlier.matches)) {
                item.warn(format!("never reached: the tenant \"{}\" stands before it and matches first", earlier.name));
            } else if covers(&matches) {
                item.warn("never reached: a match of the same tenant stands before it and matches first");
            }
            matches.push(found);
        }
        if let Some(name) = name {
            tenants.push(Arc::new(TenantConfig { name, matches, limits }));
        }
    }
    tenants
}

fn tenant_name(item: &Item, seen: &mut BTreeSet<String>) -> Option<String> {
    let name = item.name()?;
    if name == DEFAULT_TENANT {
        return item.expected("another name: this is the one of clients that no tenant matches");
    }
    if !seen.insert(name.clone()) {
        item.error(format!("the tenant \"{name}\" is in the file already (`match` takes a list)"));
    }
    Some(name)
}

/// The tier itself where the tenant overrides nothing.
fn overridden(section: &Section, tier: Arc<Tier>, names: &Names) -> Arc<Tier> {
    let mut limited = (*tier).clone();
    limits(section, &mut limited);
    limited.layout = layout(section, names.clusters, names.databases);
    if limited == *tier { tier } else { Arc::new(limited) }
}

fn limits(section: &Section, tier: &mut Tier) {
    let timeout = |key| section.get(key).and_then(|item| timeout(&item));
    let ceilings = [
        ("statement_timeout", &mut tier.statement_timeout),
        ("transaction_timeout", &mut tier.transaction_timeout),
        ("lock_timeout", &mut tier.lock_timeout),
        ("idle_in_transaction_timeout", &mut tier.idle_in_transaction_timeout),
    ];
    for (key, ceiling) in ceilings {
        if let Some(timeout) = timeout(key) {
            *ceiling = (!timeout.is_zero()).then_some(timeout);
        }
    }
    if let Some(count) = section.get("max_clients").and_then(|item| item.count(1..=1_000_000)) {
        tier.max_clients = Some(count);
    }
    if let Some(consistency) = section.get("consistency").and_then(|item| item.choice(&Consistency::NAMES)) {
        tier.consistency = Some(consistency);
    }
    if let Some(count) = section.get("max_pinned").and_then(|item| item.count(1..=1_000_000)) {
        tier.max_pinned = Some(count);
    }
    if let Some(pinning) = section.get("pinning").and_then(|item| item.choice(&PINNING)) {
        tier.pinning = pinning;
    }
    if let Some(priority) = section.get("priority").and_then(|item| item.choice(&PRIORITIES)) {
        tier.priority = priority;
    }
    if let Some(count) = section.get("max_server_connections").and_then(|item| item.count(1..=100_000)) {
        tier.max_server_connections = Some(count);
    }
    if let Some(count) = section.get("min_server_connections").and_then(|item| item.count(0..=10_000)) {
        tier.min_server_connections = count;
    }
    if let (Some(most), least) = (tier.max_server_connections, tier.min_server_connections)
        && least > most
    {
        section
            .error(format!("`min_server_connections` is {least}, more than `max_server_connections`, which is {most}"));
    }
    if let Some(count) = section.get("queue_length").and_then(|item| item.count(0..=1_000_000)) {
        tier.queue_length = Some(count);
    }
    if let Some(item) = section.get("settings") {
        tier.settings.extend(settings(&item));
    }
    if let Some(strict) = section.get("strict").and_then(|item| item.boolean()) {
        tier.strict = strict;
    }
    if let Some(ceiling) = LIFTED_BY_CODE.iter().find(|name| tier.settings.contains_key(**name) && !tier.strict) {
        section.error(format!(
            "`settings` holds {ceiling}, which code of a client's own (DO, CREATE FUNCTION) could lift: expected `strict = true` with it"
        ));
    }
    if let Some(item) = section.get("rate_limits") {
        tier.rate_limits = rate_limits(&item).into();
    }
}

/// Names and values of PostgreSQL's settings and of the application's own.
fn settings(item: &Item) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    for (name, item) in item.entries() {
        let lower = name.to_ascii_lowercase();
        let word = |word: &str| {
            word.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                && word.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        };
        let own = CEILINGS.contains(&&*lower) || lower.starts_with("pgweir.");
        if !lower.split('.').all(word) || lower.split('.').count() > 2 {
            item.error("expected the name of a setting, such as search_path or \"app.current_tenant\"");
        } else if own || NOT_GUARDED.contains(&&*lower) {
            let instead = if own { "a key of the tier's own" } else { "a user of the server's own" };
            item.error(format!("{lower} cannot be held for a tenant: expected {instead} for that"));
        } else if matches!(&*lower, "sort_mem" | "vacuum_mem") {
            item.error("expected its name of today: work_mem or maintenance_work_mem");
        } else if let Some(value) = item.string() {
            settings.push((lower, value.to_owned()));
        }
    }
    settings
}

/// What a session's user is, or what belongs to one transaction, each of which says it for itself, or to the client's driver.
const NOT_GUARDED: [&str; 10] = [
    "session_authorization",
    "is_superuser",
    "client_encoding",
    "transaction_isolation",
    "transaction_read_only",
    "transaction_deferrable",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "default_transaction_deferrable",
    "seed",
];
/// Ceilings behind which nothing else stands.
const LIFTED_BY_CODE: [&str; 1] = ["temp_file_limit"];
/// What has ceilings in place of values.
const CEILINGS: [&str; 4] =
    ["statement_timeout", "lock_timeout", "transaction_timeout", "idle_in_transaction_session_timeout"];

/// PostgreSQL keeps it in whole milliseconds, in 32 bits.
fn timeout(item: &Item) -> Option<Duration> {
    let most = Duration::from_millis(i32::MAX as u64);
    let timeout = item.duration_or_zero(MILLISECOND..=most, "no ceiling")?;
    if timeout.subsec_nanos() % 1_000_000 != 0 {
        return item.expected("whole milliseconds, as PostgreSQL counts them");
    }
    Some(timeout)
}

fn tenant_match(item: &Item, names: &Names) -> Option<TenantMatch> {
    let section = item.section()?;
    let any = names.databases.contains(ANY_DATABASE);
    let mut conditions = Vec::new();
    let mut unread = false;
    for (name, source) in Source::NAMES {
        let Some(item) = section.get(name) else { continue };
        let pattern = match source {
            Source::User => reference(&item, names.users, "user").map(Pattern::exactly),
            Source::Database if any => item.name().map(Pattern::exactly),
            Source::Database => reference(&item, names.databases, "database").map(Pattern::exactly),
            _ => pattern(&item, source),
        };
        // A condition that cannot be read must not become one that always holds.
        unread |= pattern.is_none();
        conditions.extend(pattern.map(|pattern| (source, pattern)));
    }
    if conditions.is_empty() && !unread {
        section.error(format!("expected at least one of {}", one_of(&Source::NAMES.map(|(name, _)| name))));
    }
    section.finish();
    (!unread && !conditions.is_empty()).then_some(TenantMatch { conditions })
}

/// Every client that `later` matches is matched by `earlier`.
fn covers(earlier: &TenantMatch, later: &TenantMatch) -> bool {
    earlier.conditions.iter().all(|condition| later.conditions.contains(condition))
}
