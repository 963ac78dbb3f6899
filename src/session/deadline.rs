//! What ends a wait that nothing else ends, by watches over all sessions that cost a statement nothing
//! but a time stamp: the proxy's own deadline, behind the server's, and servers that fall silent.

use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use super::slot::Patience;
use crate::cluster::Host;

/// How often the watch looks.
const BEAT: Duration = Duration::from_millis(50);
/// The server's own timeout comes first; this long after it the watch acts.
const GRACE: Duration = Duration::from_millis(50);
/// From the cancel request to the end of the server's process.
const PATIENCE: Patience = Patience { usual: Duration::from_secs(1), stubborn: Duration::from_millis(75) };

/// Holds every session to its tenant's ceiling, for as long as it is polled.
pub async fn enforce_ceilings(shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(BEAT).await;
        for tenant in shared.registry.enforce_ceilings(GRACE, PATIENCE) {
            tracing::info!(%tenant, "a statement is cut off by its tenant's ceiling");
        }
    }
}

/// How often those are looked for who wait for locks.
const LOCKS_BEAT: Duration = Duration::from_millis(75);

/// Holds every session to its tenant's ceiling of waits for locks, for as long as it is polled. The server's own timeout
/// comes first. `hosts` are those of the configuration of the moment.
pub async fn watch_locks(shared: Arc<Shared>, hosts: impl Fn() -> Vec<Arc<Host>>) {
    let mut watched = false;
    loop {
        tokio::time::sleep(LOCKS_BEAT).await;
        let candidates = shared.registry.may_wait_too_long(GRACE);
        let before = std::mem::replace(&mut watched, !candidates.is_empty());
        if !watched && !before {
            continue;
        }
        for host in hosts() {
            let here = candidates.iter().filter(|(target, _)| Arc::ptr_eq(&target.host, &host.config));
            for pid in host.locks.watch(here.map(|(target, ceiling)| (target.pid, *ceiling)).collect()) {
                if shared.registry.waits_too_long(&host.config, pid) {
                    tracing::info!(host = %host.config.name, pid, "a wait for a lock is cut off by its tenant's ceiling");
                }
            }
        }
    }
}

/// How long a host has to be down before the reads that wait for it are run elsewhere, at least: its
/// monitor alone may have lost its connection.
const SILENCE: Duration = Duration::from_secs(1);

/// Frees reads that wait for a replica which accepted them and fell silent, for as long as it is polled.
/// `replicas` are those of the configuration of the moment.
pub async fn leave_silent_replicas(shared: Arc<Shared>, replicas: impl Fn() -> Vec<Arc<Host>>) {
    let mut down_before: Vec<Arc<Host>> = Vec::new();
    loop {
        tokio::time::sleep(SILENCE).await;
        let down: Vec<_> = replicas().into_iter().filter(|host| !host.is_up()).collect();
        for host in down.iter().filter(|host| down_before.iter().any(|before| Arc::ptr_eq(before, host))) {
            shared.registry.host_is_lost(&host.config);
        }
        down_before = down;
    }
}
