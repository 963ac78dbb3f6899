//! From an accepted connection to a session's [`Arrival`]: the handshake, the ceilings, the tenant, and
//! the pools that serve it.

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::Door;
use super::console::{self, Administrator};
use super::places::{Entry, UserPlace};
use crate::app::Snapshot;
use crate::client::{Accepted, Authenticated, CONSOLE, HandshakeError, accept};
use crate::cluster::Group;
use crate::config::{Config, Consistency, DatabaseConfig, Layout};
use crate::metrics::Limit;
use crate::net::Stream;
use crate::pool::Settings;
use crate::server::connect::Login;
use crate::session::{Arrival, CONSISTENCY, FindTenant, Switching, TENANT, guarded, unknown_consistency};
use crate::sql::renamed;
use crate::tenant::{Taken, Tenant, Traits};
use crate::wire::error::{PgError, Severity};

/// How long a client may take to take an error.
const FAREWELL: Duration = Duration::from_secs(2);

/// An accepted connection.
pub(super) struct Newcomer {
    pub connection: u64,
    pub stream: Stream,
    /// For the log.
    pub peer: String,
    pub entry: Entry,
}

/// A client that may have its session.
pub(super) struct Admitted {
    pub group: Arc<Group>,
    pub arrival: Arrival,
    pub places: PlacesTaken,
}

/// For a client that asks for a walsender: how, and how the server is logged in to.
pub(super) struct Walsender {
    pub mode: String,
    pub login: Login,
}

/// What a client takes up for as long as its session lasts.
pub(super) struct PlacesTaken {
    _entry: Entry,
    _user: UserPlace,
    _tenant: Taken,
}

/// Lets a client in, or carries out a cancel request. `None` when no session comes of it; the client
/// has been told why, and so has the log.
pub(super) async fn admit(door: &Door, newcomer: Newcomer) -> Option<(Admitted, Option<Walsender>)> {
    let Newcomer { connection, stream, peer, mut entry } = newcomer;
    let snapshot = door.snapshot();
    let listen = &snapshot.config().listen;
    if let Err(error) = stream.tune(listen.tcp_keepalive) {
        tracing::debug!(connection, peer, %error, "client gone before its connection was set up");
        return None;
    }
    let local = stream.is_unix();
    let handshake = timeout(listen.startup_timeout, accept(stream, &snapshot.handshake));
    let outcome = tokio::select! {
        outcome = handshake => outcome,
        () = door.stops() => return None,
    };
    let client = match outcome {
        Ok(Ok(Accepted::Client(client))) => client,
        Ok(Ok(Accepted::Cancel { stream, pid, key })) => {
            cancel(door, stream, pid, &key).await;
            return None;
        }
        Ok(Err(error)) => {
            not_accepted(door, connection, &peer, &error);
            return None;
        }
        Err(_) => {
            door.shared.metrics.client_refused("startup_timeout");
            let limit = listen.startup_timeout;
            tracing::info!(connection, peer, ?limit, "client refused: not authenticated within startup_timeout");
            let error = format!("not authenticated within startup_timeout ({limit:?})");
            door.shared.metrics.audit.not_admitted("startup_timeout", &peer, CONNECTION_FAILURE, &error);
            return None;
        }
    };
    if client.user.admin && client.database_name == CONSOLE && client.replication.is_none() {
        tracing::info!(connection, peer, user = client.user.name, "administrator connected");
        // However many clients there are.
        let _ = entry.authenticated(listen);
        let Authenticated { stream, out, unread, user, .. } = *client;
        let administrator = Administrator { stream, out, unread, user: user.name.clone(), peer };
        Box::pin(console::serve(door, administrator)).await;
        return None;
    }
    let tls = client.stream.is_tls();
    match find_place(door, &snapshot, &mut entry, &client) {
        Ok(Place { user: user_place, tenant, permit, group, login, settings, database: served }) => {
            let (user, database) = (&client.user.name, &client.database_name);
            let encryption = if tls {
                "tls"
            } else if local {
                "local"
            } else {
                "none"
            };
            tracing::info!(
                connection,
                peer,
                user,
                database,
                tenant = &*tenant.name,
                encryption,
                "client authenticated"
            );
            let places = PlacesTaken { _entry: entry, _user: user_place, _tenant: permit };
            let find_tenant = client.user.may_set_tenant.then(|| door.find_tenant());
            let walsender = client.replication.clone().map(|mode| Walsender { mode, login });
            Some((
                Admitted {
                    group,
                    arrival: arrival(*client, tenant, settings, &served, find_tenant, &snapshot),
                    places,
                },
                walsender,
            ))
        }
        Err(Refusal { error, reason }) => {
            door.shared.metrics.error(&error.code);
            door.shared.metrics.client_refused(reason);
            let (user, database) = (&client.user.name, &client.database_name);
            tracing::info!(connection, peer, user, database, %error, "client refused");
            door.shared.metrics.audit.not_admitted(reason, &peer, &error.code, &error.message);
            refuse(client.stream, client.out, &error).await;
            None
        }
    }
}

/// The connection is closed only when the cancel can no longer strike: clients wait for that.
async fn cancel(door: &Door, stream: Stream, pid: i32, key: &[u8]) {
    door.shared.metrics.cancelled("received");
    door.shared.registry.cancel(pid, key).await;
    drop(stream);
}

fn not_accepted(door: &Door, connection: u64, peer: &str, error: &HandshakeError) {
    let metrics = &door.shared.metrics;
    match error {
        HandshakeError::Closed => tracing::debug!(connection, peer, "{error}"),
        HandshakeError::Io(_) => {
            metrics.client_refused("lost");
            tracing::debug!(connection, peer, "{error}");
        }
        HandshakeError::Tls(_) => {
            metrics.client_refused("tls");
            tracing::info!(connection, peer, %error, "client refused");
            metrics.audit.not_admitted("tls", peer, CONNECTION_FAILURE, &error.to_string());
        }
        HandshakeError::Refused(refusal) => {
            metrics.error(&refusal.code);
            metrics.client_refused(reason(refusal));
            tracing::info!(connection, peer, error = %refusal, "client refused");
            metrics.audit.not_admitted(reason(refusal), peer, &refusal.code, &refusal.message);
        }
    }
}

/// The SQLSTATE of what ends before it could be told one.
const CONNECTION_FAILURE: &str = "08006";

/// A word for metrics: there are few, so that they can be a label.
fn reason(error: &PgError) -> &'static str {
    match &*error.code {
        "28P01" => "password",
        "28000" => "authorization",
        "08P01" => "protocol",
        "3D000" | "42501" => "database",
        "53300" => "too_many_clients",
        "53400" => "login_limits",
        "57P03" => "not_ready",
        _ => "other",
    }
}

/// What a client is told that is not let in, and a word for metrics.
struct Refusal {
    error: Box<PgError>,
    reason: &'static str,
}

impl From<PgError> for Refusal {
    fn from(error: PgError) -> Self {
        let reason = reason(&error);
        Self { error: error.into(), reason }
    }
}

/// A place under every ceiling, and the pools.
struct Place {
    user: UserPlace,
    tenant: Tenant,
    permit: Taken,
    group: Arc<Group>,
    login: Login,
    settings: Settings,
    database: Arc<DatabaseConfig>,
}

/// Finds a client its place.
fn find_place(door: &Door, snapshot: &Snapshot, entry: &mut Entry, client: &Authenticated) -> Result<Place, Refusal> {
    entry.authenticated(&snapshot.config().listen)?;
    let option = own_option(&client.pgweir_options, TENANT)?;
    if let Some(consistency) = own_option(&client.pgweir_options, CONSISTENCY)?
        && Consistency::named(consistency).is_none()
    {
        return Err(PgError { severity: Severity::Fatal, ..unknown_consistency(consistency) }.into());
    }
    let tenant = snapshot.identify(&traits(client, option))?;
    let (database, name) = serving(snapshot.config(), client, &tenant.limits.layout, &tenant.name)?;
    let user_place = door.places.admit(&client.user)?;
    let permit = tenant.admit().inspect_err(|_| tenant.refused(Limit::MaxClients))?;
    let login = snapshot.login(&client.user, &database, name, client.scram_keys.clone());
    let cluster = snapshot.cluster(&database)?;
    let group = cluster.group(&login, &database.pool);
    let settings = settings(client, &tenant).map_err(|error| {
        let limit = Limit::GuardedSetting;
        tenant.limited(&door.shared.metrics.audit, limit, [&client.user.name, &client.database_name], &error.message);
        Refusal { error: error.into(), reason: limit.name() }
    })?;
    Ok(Place { user: user_place, tenant, permit, group, login, settings, database })
}

/// The database that serves a client, and its name.
fn serving<'a>(
    config: &Config,
    client: &'a Authenticated,
    layout: &'a Layout,
    tenant: &str,
) -> Result<(Arc<DatabaseConfig>, &'a str), Refusal> {
    if *layout == Layout::default() {
        let own = client.database.clone().map_err(|error| PgError::clone(&error))?;
        return Ok((own, &client.database_name));
    }
    let name = layout.database.as_ref().unwrap_or(&client.database_name);
    let own = config.database_in(layout, name).ok_or_else(|| no_database(name, tenant))?;
    Ok((own, name))
}

/// Settings of the startup packet, and those that its tenant's sessions have.
///
/// Errors: 42501 where the client asks for one of the latter.
fn settings(client: &Authenticated, tenant: &Tenant) -> Result<Settings, PgError> {
    // A setting of the session like any other, which it may change.
    let consistency = client.pgweir_options.iter().filter(|(name, _)| name.eq_ignore_ascii_case(CONSISTENCY));
    // PostgreSQL's names of settings know no case. The last of a name wins.
    let own = client.settings.iter().chain(consistency).map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        (renamed(&name).map_or(name, str::to_owned), value.clone())
    });
    let mut settings: Settings = own.collect();
    for (name, value) in &tenant.limits.settings {
        if settings.insert(name.clone(), value.clone()).is_some_and(|asked| asked != *value) {
            return Err(PgError { severity: Severity::Fatal, ..guarded(name, &tenant.name) });
        }
    }
    Ok(settings)
}

fn no_database(name: &str, tenant: &str) -> PgError {
    PgError::fatal("3D000", format!("database \"{name}\" does not exist"))
        .detail(format!("It is the one that serves the tenant \"{tenant}\"."))
        .hint("pgweir serves the databases that its configuration lists.")
}

fn traits<'a>(client: &'a Authenticated, option: Option<&'a str>) -> Traits<'a> {
    let mut names = client.settings.iter().rev().filter(|(name, _)| name.eq_ignore_ascii_case("application_name"));
    Traits {
        user: &client.user.name,
        database: &client.database_name,
        user_suffix: client.user_suffix.as_deref(),
        option,
        application_name: names.next().map(|(_, value)| value.as_str()),
        server_name: client.server_name.as_deref(),
        certificate: client.certificate.as_deref(),
        certificate_subject: client.certificate_subject.as_deref(),
    }
}

/// The value of one of pgweir's own startup options; the last one counts.
///
/// Errors: 22023 for an option of ours that does not exist, which a typing mistake would otherwise
/// turn into the wrong tenant.
fn own_option<'a>(options: &'a [(String, String)], wanted: &str) -> Result<Option<&'a str>, PgError> {
    const KNOWN: [&str; 2] = [TENANT, CONSISTENCY];
    let is_known = |name: &str| KNOWN.iter().any(|known| name.eq_ignore_ascii_case(known));
    if let Some((name, _)) = options.iter().find(|(name, _)| !is_known(name)) {
        return Err(PgError::fatal("22023", format!("unrecognized configuration parameter \"{name}\""))
            .hint(format!("pgweir knows the startup options \"{TENANT}\" and \"{CONSISTENCY}\".")));
    }
    let found = options.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    Ok(found.map(|(_, value)| value.as_str()))
}

fn arrival(
    client: Authenticated,
    tenant: Tenant,
    settings: Settings,
    database: &DatabaseConfig,
    find_tenant: Option<FindTenant>,
    snapshot: &Snapshot,
) -> Arrival {
    Arrival {
        consistency: snapshot.consistency(database),
        mode: database.pool.mode,
        stream: client.stream,
        unread: client.unread,
        out: client.out,
        user: client.user.name.as_str().into(),
        database: client.database_name.into(),
        protocol_minor: client.minor,
        settings,
        switching: find_tenant.map(|find| Switching::new(find, tenant.clone())),
        tenant,
    }
}

async fn refuse(mut stream: Stream, mut out: BytesMut, error: &PgError) {
    error.encode(&mut out);
    // The client may be gone, which changes nothing.
    let _ = timeout(FAREWELL, async {
        stream.write_all(&out).await?;
        stream.shutdown().await
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_option_of_a_name_wins_and_an_unknown_one_is_refused() {
        let options = |names: &[&str]| -> Vec<(String, String)> {
            names.iter().enumerate().map(|(index, name)| (name.to_string(), index.to_string())).collect()
        };
        let tenant = |names: &[&str]| own_option(&options(names), TENANT).map(|value| value.map(str::to_owned));
        assert_eq!(tenant(&[]).unwrap(), None);
        assert_eq!(tenant(&["pgweir.tenant", "PGWEIR.Tenant", "pgweir.consistency"]).unwrap().as_deref(), Some("1"));
        let error = tenant(&["pgweir.tenant", "pgweir.tennant"]).unwrap_err();
        assert!(error.code == "22023" && error.message.contains("pgweir.tennant"), "{error}");
    }
}
