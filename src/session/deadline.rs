//! The proxy's own deadline, behind the server's: one watch over all sessions, which costs a statement
//! nothing but a time stamp.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;

/// How often the watch looks.
const BEAT: Duration = Duration::from_millis(100);
/// The server's own timeout comes first; this long after it the watch acts.
const GRACE: Duration = Duration::from_millis(500);
/// From the cancel request to the closing of the server connection.
const PATIENCE: Duration = Duration::from_secs(5);

/// Holds every session to its tenant's ceiling, for as long as it is polled.
pub async fn enforce_ceilings(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(BEAT).await;
        for tenant in shared.registry.enforce_ceilings(GRACE, PATIENCE) {
            tracing::info!(%tenant, "a statement is cut off by its tenant's ceiling");
        }
    }
}
