//! What a client is greeted with, and in session mode the server connection that is its own from then on.

use std::sync::Arc;
use std::time::Instant;

use super::refusal;
use crate::cluster::{Greeting, GreetingError, Group, Place};
use crate::config::PoolMode;
use crate::metrics::Limit;
use crate::pool::{AcquireError, Lease, Settings};
use crate::tenant::Tenant;
use crate::wire::error::PgError;

/// What a client is greeted with and, in session mode, the server connection that is its own from then on.
pub(super) async fn welcome(
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
pub(super) fn limit(error: &GreetingError, tenant: &Tenant) -> Option<Limit> {
    match error {
        GreetingError::Refused(_) if tenant.is_paused() => Some(Limit::Paused),
        GreetingError::Refused(error) => (error.code == "53300").then_some(Limit::MaxServerConnections),
        GreetingError::Acquire(AcquireError::QueueFull { .. }) => Some(Limit::QueueLength),
        GreetingError::Acquire(AcquireError::Timeout { .. }) => Some(Limit::ServerConnection),
        GreetingError::Acquire(_) | GreetingError::Lost(_) => None,
    }
}

/// What a client is told that cannot be greeted.
pub(super) fn not_greeted(error: GreetingError, group: &Group) -> PgError {
    use crate::wire::error::Severity::Fatal;
    let host = &group.host(Place::Primary).config.name;
    let error = match error {
        GreetingError::Acquire(error) => refusal::acquire(&error, host),
        GreetingError::Refused(error) => error,
        GreetingError::Lost(cause) => refusal::server_lost(host, &cause, false),
    };
    PgError { severity: Fatal, ..error }
}
