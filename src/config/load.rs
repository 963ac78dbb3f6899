//! From a TOML file to a checked [`Config`], or to every mistake in it at once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use toml::de::DeTable;

use super::clusters::clusters;
use super::defaults::{SHUTDOWN_TIMEOUT, workers};
use super::error::ConfigErrors;
use super::listen::{DAY, MILLISECOND, http, listen, log};
use super::pools::{databases, pool};
use super::reader::{Item, Section};
use super::report::Report;
use super::secrets::Surroundings;
use super::tenancy::{Source, tenancy};
use super::tenants::{Names, Tiers, tenants};
use super::users::{UserContext, users};
use super::{Config, Listen, Log, PoolSettings};

/// Reads and checks a file; `env` looks up the secrets that it takes from the environment.
///
/// Errors: everything that is wrong, in the order of the file. A file whose TOML cannot be read at
/// all gives only the syntax errors.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, ConfigErrors> {
    let source = path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            let report = Report::new(source, "");
            report.error(None, "", format!("cannot read the file: {error}"));
            return Err(report.into_errors());
        }
    };
    let report = Report::new(source, &text);
    let base = path.parent().unwrap_or(Path::new(""));
    match read(&report, &text, &Surroundings { base, env }) {
        Some(config) => Ok(Config { warnings: report.finish()?, ..config }),
        None => Err(report.into_errors()),
    }
}

/// Everything that the text says, as far as it can be read; `None` for what is not TOML.
pub(super) fn read(report: &Report, text: &str, around: &Surroundings) -> Option<Config> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.error(error.span().as_ref(), "", format!("not TOML: {}", error.message()));
    }
    if !errors.is_empty() {
        return None;
    }
    Some(sections(&Section::root(report, &document), around))
}

fn sections(root: &Section, around: &Surroundings) -> Config {
    let listen = table(root.get("listen")).map_or_else(Listen::default, |section| listen(section, around));
    let http = table(root.get("http")).and_then(http);
    let log = table(root.get("log")).map_or_else(Log::default, log);
    let defaults = PoolSettings::default();
    let pool = table(root.get("pool")).map_or_else(|| defaults.clone(), |section| pool(section, &defaults));

    let cluster_item = root.require("clusters", "at least one, such as [clusters.main] with a `primary`");
    let cluster_names = cluster_item.as_ref().map(Item::keys).unwrap_or_default();
    let clusters = cluster_item.map(|item| clusters(&item, around)).unwrap_or_default();
    let database_item = root.get("databases");
    let databases = databases(database_item.clone(), &cluster_names, &pool, root);
    // A database that could not be read still has a name that others may refer to.
    let mut database_names: BTreeSet<String> = databases.keys().cloned().collect();
    database_names.extend(database_item.iter().flat_map(Item::keys));

    let context = UserContext { around, databases: &database_names, listen: &listen };
    let user_item = root.require("users", "at least one [[users]] with a `name`: nobody else can log in");
    let (users, user_names) = user_item.map(|item| users(&item, &context)).unwrap_or_default();

    let tiers = Tiers::read(root.get("tiers"));
    let default_tier = tiers.default_tier(root.get("default_tier"), root);
    let tenancy_item = root.get("tenancy");
    let identify = tenancy_item.iter().any(|item| item.keys().contains("identify"));
    let names = Names { users: &user_names, databases: &database_names, clusters: &cluster_names, identify };
    let tenants = root.get("tenants").map(|item| tenants(&item, &tiers, &default_tier, &names)).unwrap_or_default();
    let looks_at_suffixes =
        tenants.iter().flat_map(|tenant| &tenant.matches).any(|matches| matches.looks_at(Source::UserSuffix));
    let tenancy = tenancy(table(tenancy_item), looks_at_suffixes, &names);

    let no_wait = "no wait";
    let shutdown_timeout =
        root.get("shutdown_timeout").and_then(|item| item.duration_or_zero(MILLISECOND..=DAY, no_wait));
    let threads = root.get("workers").and_then(|item| item.count(1..=1_024));
    root.report_unknown();
    Config {
        listen,
        http,
        log,
        pool,
        clusters,
        databases,
        users,
        tenants,
        tenancy,
        tiers: tiers.into_map(),
        default_tier,
        shutdown_timeout: shutdown_timeout.unwrap_or(SHUTDOWN_TIMEOUT),
        workers: threads.unwrap_or_else(workers),
        warnings: Vec::new(),
    }
}

fn table(item: Option<Item>) -> Option<Section> {
    item?.section()
}
