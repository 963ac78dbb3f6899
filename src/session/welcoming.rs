//! What a client is greeted with, and in session mode the server connection that is its own from then on.

use std::sync::Arc;
use std::time::Instant;

use super::{Arrival, Shared, Signal, Slot, refusal};
use crate::cluster::{Greeting, GreetingError, Group, Place};
use crate::config::PoolMode;
use crate::metrics::Limit;
use crate::pool::{AcquireError, Lease, Settings};
use crate::tenant::Tenant;
use crate::wire::error::PgError;

/// What a client is greeted with and, in session mode, the server connection that is its own from then on. `group` is
/// another one when its own has been replaced meanwhile.
///
/// Errors: all are fatal; 57P01 when the session was told to end. What its tenant is refused has been counted.
pub(super) async fn welcome(
    shared: &Shared,
    group: &mut Arc<Group>,
    arrival: &Arrival,
    slot: &Slot,
) -> Result<(Arc<Greeting>, Option<Lease>), PgError> {
    const ENDING: u32 = Signal::Shutdown as u32 | Signal::End as u32;
    let Arrival { settings, mode, tenant, .. } = arrival;
    slot.waits();
    let prepared = async {
        loop {
            match (prepare(group, settings, *mode, tenant).await, group.successor()) {
                (Err(GreetingError::Acquire(AcquireError::Closed)), Some(successor)) => *group = successor,
                (outcome, _) => return outcome,
            }
        }
    };
    let outcome = tokio::select! {
        outcome = prepared => outcome,
        () = slot.is_told(ENDING) => return Err(refusal::shutting_down()),
    };
    slot.rests();
    outcome.map_err(|error| {
        if let Some(limit) = limit(&error, tenant) {
            tenant.limited(&shared.metrics.audit, limit, [&arrival.user, &arrival.database], "");
        }
        not_greeted(error, group)
    })
}

async fn prepare(
    group: &Arc<Group>,
    settings: &Settings,
    mode: PoolMode,
    tenant: &Tenant,
) -> Result<(Arc<Greeting>, Option<Lease>), GreetingError> {
    let greeting = group.greeting(settings).await?;
    let lease = match mode {
        PoolMode::Session => Some(lease_for_good(group, tenant).await?),
        PoolMode::Transaction | PoolMode::Statement => None,
    };
    Ok((greeting, lease))
}

async fn lease_for_good(group: &Group, tenant: &Tenant) -> Result<Lease, GreetingError> {
    let (pool, since) = (group.pool(Place::Primary), Instant::now());
    let member = pool.join(tenant);
    let outcome = member.wait(since).lease().await;
    outcome.map_err(|error| match error {
        AcquireError::Timeout { waited, .. } if tenant.is_at_its_most() => {
            GreetingError::Refused(tenant.too_many_connections(waited))
        }
        error => GreetingError::Acquire(error),
    })
}

/// The limit that a client has come up against who cannot be greeted.
fn limit(error: &GreetingError, tenant: &Tenant) -> Option<Limit> {
    match error {
        GreetingError::Refused(_) if tenant.is_paused() => Some(Limit::Paused),
        GreetingError::Refused(error) => (error.code == "53300").then_some(Limit::MaxServerConnections),
        GreetingError::Acquire(AcquireError::QueueFull { .. }) => Some(Limit::QueueLength),
        GreetingError::Acquire(AcquireError::Timeout { .. }) => Some(Limit::ServerConnection),
        GreetingError::Acquire(_) | GreetingError::Lost(_) => None,
    }
}

/// What a client is told that cannot be greeted.
fn not_greeted(error: GreetingError, group: &Group) -> PgError {
    use crate::wire::error::Severity::Fatal;
    let host = &group.host(Place::Primary).config.name;
    let error = match error {
        GreetingError::Acquire(error) => refusal::acquire(&error, host),
        GreetingError::Refused(error) => error,
        GreetingError::Lost(cause) => refusal::server_lost(host, &cause, false),
    };
    PgError { severity: Fatal, ..error }
}
