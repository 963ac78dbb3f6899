//! A replication connection (PostgreSQL, "Streaming Replication Protocol"): a client of its own walsender. Its
//! conversation is not made of queries, so it is not pooled but passed through, one to one, to the primary.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy};

use super::{Arrival, Ceilings, Registered, Shared, Signal, greet, refusal, relay};
use crate::cluster::{Group, Place};
use crate::metrics::Limit;
use crate::net::stream::Stream;
use crate::pool::{CancelTarget, Purpose};
use crate::server::Login;
use crate::tenant::{Pass, Tenant};
use crate::wire::error::{PgError, Severity};

/// Connects the client to a walsender and carries bytes until one of them leaves. `mode` is the startup parameter
/// `replication` as the client sent it.
///
/// Errors: the server's own where it refuses (no role attribute `REPLICATION`, no line in `pg_hba.conf`), 08006
/// where it cannot be reached, 53300 where it has no connection to spare
/// or the tenant has `max_pinned`, 42501 where its tenant is held to what a walsender is not, 57P01 at a
/// shutdown. The client has been told, save where its tenant is held to that only later: in the middle of a message nothing
/// can be said.
pub async fn serve(
    shared: Arc<Shared>,
    group: Arc<Group>,
    arrival: Arrival,
    mode: String,
    login: Login,
) -> Result<(), PgError> {
    let Arrival { mut stream, mut out, .. } = arrival;
    let tenant = &arrival.tenant;
    let most = if tenant.is_paused() { Limit::Paused } else { Limit::MaxServerConnections };
    let allowed = match (may_replicate(tenant, &mode), tenant.replicate()) {
        (Err(error), _) => Err((Limit::Replication, error)),
        (Ok(()), Err(error)) => Err((Limit::MaxPinned, error)),
        (Ok(()), Ok(pin)) => match tenant.connect_at_once() {
            Err(error) => Err((most, error)),
            Ok(pass) => Ok((pin, pass)),
        },
    };
    let (pin, pass) = match allowed {
        Ok(permit) => permit,
        Err((limit, error)) => {
            tenant.limited(&shared.metrics.audit, limit, [&arrival.user, &arrival.database], "");
            error.encode(&mut out);
            relay::farewell(&mut stream, out).await;
            return Err(error);
        }
    };
    let labels = [arrival.user, arrival.database, arrival.tenant.name.clone()];
    let slot = shared.registry.register(labels, arrival.protocol_minor, Ceilings::default());
    let held = (Registered { shared: shared.clone(), slot: slot.clone() }, pin);
    let outcome = {
        let mut parameters = login.parameters.clone();
        parameters.extend(arrival.settings.into_iter().filter(|(name, _)| !name.starts_with(super::OWN_SETTINGS)));
        parameters.push(("replication".to_owned(), mode.clone()));
        let pool = group.pool(Place::Primary);
        let login = Login { parameters, ..login };
        let patience = pool.settings().connect_timeout;
        slot.waits();
        tokio::select! {
            outcome = pool.budget().connect(Purpose::Service, &pool.host, &login, patience) => {
                outcome.map_err(|error| error.to_client())
            }
            () = slot.is_told(ENDING) => Err(refusal::shutting_down()),
        }
    };
    let mut server = match outcome {
        Ok(server) => server,
        Err(error) => {
            drop(held);
            let error = PgError { severity: Severity::Fatal, ..error };
            error.encode(&mut out);
            relay::farewell(&mut stream, out).await;
            return Err(error);
        }
    };
    shared.registry.renumber(&slot, server.pid);
    shared.metrics.pinned("replication");
    let host = group.host(Place::Primary).config.clone();
    slot.leases(&Arc::new(CancelTarget { host, pid: server.pid, key: server.key, fence: Arc::default() }));
    greet(&mut out, &server.parameters, &slot);
    let passage = async {
        stream.write_all(&out).await?;
        stream.flush().await?;
        server.stream.write_all(&arrival.unread).await?;
        carry(stream, &mut server.stream).await
    };
    tokio::select! {
        // How it ends is nobody's error: they have said to each other what there was to say.
        _ = passage => Ok(()),
        // For the log: in the middle of a message nothing can be said.
        () = slot.is_told(ENDING) => Err(refusal::shutting_down()),
        error = is_wanted_no_more(tenant.clone(), pass, &mode) => {
            tenant.limited(&shared.metrics.audit, Limit::Replication, [&slot.user, &slot.database], "");
            // What it runs would not end with the connection.
            shared.registry.cancel(slot.pid(), slot.key()).await;
            Err(error)
        }
    }
}

/// Returns when its tenant has come to be held to what a walsender is not. Until then it counts for the tenant's server
/// connections, also under a limit that is new.
async fn is_wanted_no_more(mut tenant: Tenant, mut pass: Pass, mode: &str) -> PgError {
    loop {
        tenant.limits_change().await;
        tenant = tenant.with_current_limits();
        pass = pass.counted().unwrap_or_else(|| tenant.passes().count());
        if let Err(error) = may_replicate(&tenant, mode) {
            return error;
        }
    }
}

/// Carries bytes until one of them leaves. A walsender may not notice that its client has: it is not waited for.
async fn carry(client: Stream, server: &mut Stream) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_server, mut to_server) = tokio::io::split(server);
    let mut down = std::pin::pin!(async {
        copy(&mut from_server, &mut to_client).await?;
        to_client.shutdown().await
    });
    let up = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    tokio::select! {
        outcome = &mut down => outcome,
        outcome = up => {
            // A late answer to what the client has said last is lost with it.
            let _ = tokio::time::timeout(LINGER, down).await;
            outcome
        }
    }
}

/// For the server to end what it says.
const LINGER: Duration = Duration::from_secs(1);

/// A walsender has no transaction whose end could be waited for.
const ENDING: u32 = Signal::Shutdown as u32 | Signal::End as u32 | Signal::Kill as u32 | Signal::Fenced as u32;

fn may_replicate(tenant: &Tenant, mode: &str) -> Result<(), PgError> {
    guards_nothing(tenant).and_then(|()| is_held_to_nothing(tenant, mode))
}

/// A walsender of a database runs SQL, of which nothing is seen here.
fn is_held_to_nothing(tenant: &Tenant, mode: &str) -> Result<(), PgError> {
    let limits = &tenant.limits;
    let times = [
        ("statement_timeout", limits.statement_timeout),
        ("transaction_timeout", limits.transaction_timeout),
        ("lock_timeout", limits.lock_timeout),
        ("idle_in_transaction_timeout", limits.idle_in_transaction_timeout),
    ];
    let rates = ("rate_limits", !limits.rate_limits.is_empty());
    let held = times.into_iter().map(|(name, ceiling)| (name, ceiling.is_some())).chain([rates]);
    let held: Vec<_> = held.filter(|(_, held)| *held).map(|(name, _)| name).collect();
    if held.is_empty() || !mode.eq_ignore_ascii_case("database") {
        return Ok(());
    }
    Err(PgError { severity: Severity::Fatal, ..refusal::holds_replication(&tenant.name, &held.join(", ")) })
}

/// What replicates sees every tenant's rows.
fn guards_nothing(tenant: &Tenant) -> Result<(), PgError> {
    let guards = !tenant.limits.settings.is_empty();
    if guards {
        Err(PgError { severity: Severity::Fatal, ..refusal::guards_replication(&tenant.name) })
    } else {
        Ok(())
    }
}
