//! `[tenancy]`: how a client's tenant is found by its name where no tenant's `match` holds, and what becomes of a client
//! that has none. Also the patterns of `match`.

use std::time::Duration;

use super::layout::one_database;
use super::listen::{DAY, MILLISECOND};
use super::pools::reference;
use super::reader::{Item, Section, closest};
use super::tenants::Names;

/// What a client brings that may say who it belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    User,
    Database,
    /// What stands behind the separator in the user's name: `acme` in `app@acme`.
    UserSuffix,
    /// The startup option `pgweir.tenant`.
    Option,
    ApplicationName,
    /// The host name that the client asked for in TLS (RFC 6066, "Server Name Indication").
    ServerName,
    /// The common name of the client's certificate.
    Certificate,
    /// The whole subject of that, in the form of RFC 2253.
    CertificateSubject,
}

impl Source {
    /// Every one, by its name in the configuration.
    pub const NAMES: [(&'static str, Self); 8] = [
        ("user", Self::User),
        ("database", Self::Database),
        ("user_suffix", Self::UserSuffix),
        ("option", Self::Option),
        ("application_name", Self::ApplicationName),
        ("server_name", Self::ServerName),
        ("certificate", Self::Certificate),
        ("certificate_subject", Self::CertificateSubject),
    ];
}

/// A text with at most one `*`, which stands for any text that is not empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    before: String,
    /// `None`: there is no `*`.
    after: Option<String>,
}

impl Pattern {
    /// `None` where there is more than one `*`.
    pub fn parse(text: &str) -> Option<Self> {
        let Some((before, after)) = text.split_once('*') else {
            return Some(Self { before: text.to_owned(), after: None });
        };
        (!after.contains('*')).then(|| Self { before: before.to_owned(), after: Some(after.to_owned()) })
    }

    /// This text and no other.
    pub fn exactly(text: String) -> Self {
        Self { before: text, after: None }
    }

    /// Any text that is not empty.
    pub fn any() -> Self {
        Self { before: String::new(), after: Some(String::new()) }
    }

    /// What `*` stands for in a text that matches; the text itself where the pattern has none.
    pub fn captures<'t>(&self, text: &'t str) -> Option<&'t str> {
        match &self.after {
            None => (text == self.before).then_some(text),
            Some(after) => {
                let found = text.strip_prefix(&*self.before)?.strip_suffix(&**after)?;
                (!found.is_empty()).then_some(found)
            }
        }
    }
}

/// What becomes of a client that belongs to no tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// It belongs to the tenant `default`, of the default tier.
    Default,
    Refuse,
}

/// See the module's page.
#[derive(Debug, Clone, PartialEq)]
pub struct Tenancy {
    /// Where the name of a tenant is looked for, the first place first.
    pub identify: Vec<(Source, Pattern)>,
    /// Between a user's name and a tenant's; `None` where no suffix is looked at.
    pub separator: Option<String>,
    pub unknown: Unknown,
    /// Where more tenants come from than the file names.
    pub query: Option<TenantsQuery>,
}

/// A query whose rows are tenants: `name`, `tier`, `database`, `cluster`, and the keys of a tier.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantsQuery {
    pub sql: String,
    /// As clients ask for it.
    pub database: String,
    /// The name of an entry of `[[users]]`.
    pub user: String,
    pub refresh: Duration,
}

impl Default for Tenancy {
    fn default() -> Self {
        Self { identify: Vec::new(), separator: None, unknown: Unknown::Default, query: None }
    }
}

/// `suffixes`: some tenant's `match` looks at a suffix.
pub(super) fn tenancy(section: Option<Section>, suffixes: bool, names: &Names) -> Tenancy {
    let mut tenancy = Tenancy::default();
    let mut separator = None;
    if let Some(section) = section {
        let items = section.get("identify").map(|item| item.list()).unwrap_or_default();
        tenancy.identify = items.iter().filter_map(source).collect();
        separator = section.get("separator").and_then(|item| self::separator(&item));
        let unknown = section.get("unknown");
        tenancy.unknown = unknown.and_then(|item| item.choice(&UNKNOWN)).unwrap_or(Unknown::Default);
        if let Some(item) = section.get("tenants_query") {
            tenancy.query = item.section().and_then(|section| query(section, names));
            if tenancy.identify.is_empty() {
                item.error(
                    "its tenants are known by their names: expected `identify`, which says where those are looked for",
                );
            }
        }
        section.finish();
    }
    let suffixes = suffixes || tenancy.identify.iter().any(|(source, _)| *source == Source::UserSuffix);
    tenancy.separator = suffixes.then(|| separator.unwrap_or_else(|| SEPARATOR.to_owned()));
    tenancy
}

fn query(section: Section, names: &Names) -> Option<TenantsQuery> {
    let sql = section.require("query", "a query such as \"SELECT name, tier FROM tenants\"");
    let sql = sql.and_then(|item| item.string().map(|sql| sql.trim().trim_end_matches(';').to_owned()));
    let database = section.require("database", "the database in which it is asked");
    let database = database.and_then(|item| one_database(&item, names.databases));
    let user = section.require("user", "the user as whom it is asked");
    let user = user.and_then(|item| reference(&item, names.users, "user"));
    let refresh = section.get("refresh").and_then(|item| item.duration(MILLISECOND * 100..=DAY));
    section.finish();
    Some(TenantsQuery { sql: sql?, database: database?, user: user?, refresh: refresh.unwrap_or(REFRESH) })
}

const REFRESH: Duration = Duration::from_secs(30);
const SEPARATOR: &str = "@";
const UNKNOWN: [(&str, Unknown); 2] = [("default", Unknown::Default), ("refuse", Unknown::Refuse)];

/// `"option"`, or `{ server_name = "*.db.example.com" }`.
fn source(item: &Item) -> Option<(Source, Pattern)> {
    if item.is_string() {
        return Some((item.choice(&Source::NAMES)?, Pattern::any()));
    }
    let entries = item.entries();
    let [(name, value)] = &entries[..] else {
        return item
            .expected("a word such as \"option\", or a table of one such as { server_name = \"*.db.example.com\" }");
    };
    let Some((_, source)) = Source::NAMES.iter().find(|(known, _)| known == name) else {
        let near = closest(name, &Source::NAMES.map(|(known, _)| known));
        let hint = near.map(|near| format!(": did you mean `{near}`?")).unwrap_or_default();
        item.error(format!("there is nothing called `{name}` that a tenant is known by{hint}"));
        return None;
    };
    let pattern = pattern(value, *source)?;
    if pattern.after.is_none() {
        return value.expected("a pattern with a `*` in the place of the tenant's name");
    }
    Some((*source, pattern))
}

/// A text with at most one `*`. The names of hosts know no case.
pub(super) fn pattern(item: &Item, source: Source) -> Option<Pattern> {
    let text = item.name()?;
    let text = if source == Source::ServerName { text.to_ascii_lowercase() } else { text };
    if source == Source::CertificateSubject && text.replace("\\,", "").contains(", ") {
        return item
            .expected("a subject as in RFC 2253, such as \"CN=app,OU=acme,O=customers\", without spaces between");
    }
    Pattern::parse(&text).or_else(|| item.expected("a text with at most one `*`"))
}

fn separator(item: &Item) -> Option<String> {
    let text = item.name()?;
    let plain = text.chars().any(|letter| letter.is_alphanumeric() || letter.is_whitespace());
    if plain {
        item.expected("a separator such as \"@\" or \".\", without letters, digits and spaces")
    } else {
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_a_name() {
        for (pattern, text, wanted) in [
            ("*", "acme", Some("acme")),
            ("*", "", None),
            ("*.db.example.com", "acme.db.example.com", Some("acme")),
            ("*.db.example.com", ".db.example.com", None),
            ("*.db.example.com", "db.example.com", None),
            ("app-*-x", "app-acme-x", Some("acme")),
            ("aa*aa", "aaa", None),
            ("acme", "acme", Some("acme")),
            ("acme", "acme2", None),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().captures(text), wanted, "{pattern} {text}");
        }
        assert_eq!(Pattern::parse("*a*"), None);
    }
}
