//! `[[users]]`: who may log in and how each proves it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pools::{ANY_DATABASE, reference};
use super::reader::{Item, Section};
use super::secrets::{Form, Surroundings, password, plain_password};
use super::{Listen, Secret, UserAuth, UserConfig};

/// What users refer to.
pub(super) struct UserContext<'a> {
    pub(super) around: &'a Surroundings<'a>,
    pub(super) databases: &'a BTreeSet<String>,
    pub(super) listen: &'a Listen,
}

/// The users that could be read, and the names of all.
pub(super) fn users(item: &Item, context: &UserContext) -> (BTreeMap<String, Arc<UserConfig>>, BTreeSet<String>) {
    let (mut users, mut names) = (BTreeMap::new(), BTreeSet::new());
    for item in item.list() {
        let Some(section) = item.section() else { continue };
        let name_item = section.require("name", "the user's name");
        let name = name_item.as_ref().and_then(|item| item.name());
        if let (Some(item), Some(name)) = (&name_item, &name)
            && !names.insert(name.clone())
        {
            item.error(format!("the user \"{name}\" is in the file already"));
        }
        if let Some(user) = user(name, section, context) {
            users.insert(user.name.clone(), Arc::new(user));
        }
    }
    (users, names)
}

fn user(name: Option<String>, section: Section, context: &UserContext) -> Option<UserConfig> {
    let auth = auth(&section, context);
    let server_user = section.get("server_user").and_then(|item| item.name());
    let server_password = section.get("server_password").and_then(|item| plain_password(&item, context.around));
    let databases = section.get("databases").map(|item| databases(&item, context)).unwrap_or_default();
    let max_clients = section.get("max_clients").and_then(|item| item.count(1..=1_000_000));
    let replication = section.get("replication").and_then(|item| item.boolean()).unwrap_or(server_user.is_none());
    let admin = section.get("admin").and_then(|item| item.boolean()).unwrap_or(false);
    let may_set_tenant = section.get("may_set_tenant").and_then(|item| item.boolean()).unwrap_or(false);
    section.finish();
    let (name, auth) = (name?, auth?);
    Some(UserConfig {
        name,
        auth,
        server_user,
        server_password,
        databases,
        max_clients,
        replication,
        admin,
        may_set_tenant,
    })
}

fn databases(item: &Item, context: &UserContext) -> Vec<String> {
    let items = item.list();
    if items.is_empty() && item.is_list() {
        item.expected::<()>("at least one database (without the key, all are allowed)");
    }
    let any = context.databases.contains(ANY_DATABASE);
    items
        .iter()
        .filter_map(|item| if any { item.name() } else { reference(item, context.databases, "database") })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Method {
    Scram,
    Md5,
    Certificate,
    Trust,
}

const METHODS: [(&str, Method); 4] =
    [("scram", Method::Scram), ("md5", Method::Md5), ("cert", Method::Certificate), ("trust", Method::Trust)];

/// `auth` and `password` together; without `auth`, what the password is good for.
fn auth(section: &Section, context: &UserContext) -> Option<UserAuth> {
    let (auth, password_item) = (section.get("auth"), section.get("password"));
    let method = match &auth {
        Some(item) => Some((item, item.choice(&METHODS)?)),
        None => None,
    };
    if let (Some((_, Method::Certificate | Method::Trust)), Some(item)) = (&method, &password_item) {
        item.error("expected no password with this `auth`; a login to the server takes `server_password`");
    }
    match (method, password_item) {
        (Some((item, Method::Certificate)), _) => certificate(item, context.listen),
        (Some((item, Method::Trust)), _) => trust(item, context.listen),
        (method, Some(item)) => {
            let (secret, form) = password(&item, context.around)?;
            with_password(method.map(|(_, method)| method), secret, form, &item)
        }
        (_, None) => {
            section.error(
                "`password` is missing: expected { env = \"NAME\" }, { file = \"path\" } or a verifier \
                 (or auth = \"cert\" or \"trust\")",
            );
            None
        }
    }
}

fn with_password(method: Option<Method>, secret: Secret, form: Form, item: &Item) -> Option<UserAuth> {
    match (form, method == Some(Method::Md5)) {
        (Form::Plain, false) => Some(UserAuth::Password(secret)),
        (Form::Scram, false) => Some(UserAuth::Scram(secret)),
        (Form::Plain | Form::Md5, true) => Some(UserAuth::Md5(secret)),
        (Form::Md5, false) if method.is_none() => Some(UserAuth::Md5(secret)),
        (Form::Md5, false) => {
            item.error("expected a plain password or a SCRAM verifier with auth = \"scram\", found an md5 hash");
            None
        }
        (Form::Scram, true) => {
            item.error("expected a plain password or an md5 hash with auth = \"md5\", found a SCRAM verifier");
            None
        }
    }
}

fn certificate(item: &Item, listen: &Listen) -> Option<UserAuth> {
    if listen.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none()) {
        item.error("auth = \"cert\" needs `listen.tls.client_ca`, the authorities that sign clients' certificates");
    }
    Some(UserAuth::Certificate)
}

fn trust(item: &Item, listen: &Listen) -> Option<UserAuth> {
    let reachable = listen.addresses.iter().find(|address| !address.ip().is_loopback());
    if let Some(address) = reachable {
        item.warn(format!("anyone who reaches {address} can log in as this user without proof"));
    }
    Some(UserAuth::Trust)
}
