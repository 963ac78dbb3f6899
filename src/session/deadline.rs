//! What ends a wait that nothing else ends, by watches over all sessions that cost a statement nothing
//! but a time stamp: the proxy's own deadline, behind the server's, and servers that fall silent.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Shared;
use super::clock::Patience;
use super::slot::MayWait;
use crate::cluster::Host;

/// How often the watch looks.
const BEAT: Duration = Duration::from_millis(50);
/// The server's own timeout comes first; this long after it the watch acts.
const GRACE: Duration = Duration::from_millis(50);
/// How often connections are looked at that were needed for locks.
const TIDIED: Duration = Duration::from_secs(5);
/// From the cancel request to the end of the server's process.
const PATIENCE: Patience = Patience { usual: Duration::from_secs(1), stubborn: Duration::from_millis(75) };

/// Holds every session to its tenant's ceilings, for as long as it is polled. `hosts` are those of the configuration of the
/// moment.
pub async fn enforce_ceilings(shared: Arc<Shared>, hosts: impl Fn() -> Vec<Arc<Host>>) {
    let asked = Arc::<Asked>::default();
    let mut tidied = Instant::now();
    loop {
        tokio::time::sleep(BEAT).await;
        let overdue = shared.registry.enforce_ceilings(GRACE, PATIENCE);
        shared.metrics.audit.catch_up();
        for tenant in overdue.cut_off {
            tracing::info!(%tenant, "a statement is cut off by its tenant's ceiling");
        }
        let mut waiting = asked.due(overdue.may_wait);
        if waiting.is_empty() && tidied.elapsed() < TIDIED {
            continue;
        }
        for host in hosts() {
            let is_here = |one: &mut MayWait| Arc::ptr_eq(&one.target.host, &host.config);
            let here: Vec<_> = waiting.extract_if(.., is_here).collect();
            if here.is_empty() {
                host.rests_from_locks();
            } else {
                tokio::spawn(look_for_locks(host, here, asked.clone()));
            }
        }
        tidied = Instant::now();
    }
}

/// When those are to be asked for again who may wait for a lock: until then they cannot have waited for too long.
#[derive(Default)]
struct Asked(Mutex<HashMap<(i32, u64), Instant>>);

impl Asked {
    /// Those that are to be asked for now, and forgets those that are over.
    fn due(&self, all: Vec<MayWait>) -> Vec<MayWait> {
        let mut again = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !again.is_empty() {
            let ids: HashSet<_> = all.iter().map(MayWait::id).collect();
            again.retain(|id, _| ids.contains(id));
        }
        let now = Instant::now();
        all.into_iter().filter(|one| again.get(&one.id()).is_none_or(|again| *again <= now)).collect()
    }

    fn again(&self, one: &MayWait, when: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(one.id(), when);
    }
}

/// The server's own timeout comes first. This finds those who have lifted it where nobody has seen it.
async fn look_for_locks(host: Arc<Host>, all: Vec<MayWait>, asked: Arc<Asked>) {
    let pids: Vec<_> = all.iter().map(|one| one.target.pid).collect();
    let when = Instant::now();
    let Some(waits) = host.waits_for_locks(&pids).await else { return };
    for one in all {
        let waited = waits.get(&one.target.pid).copied().unwrap_or_default();
        match (one.ceiling + GRACE).saturating_sub(waited) {
            Duration::ZERO if one.cut_off(PATIENCE) => {
                tracing::info!(host = %host.config.name, "a wait for a lock is cut off by its tenant's ceiling");
            }
            Duration::ZERO => {}
            left => asked.again(&one, when + left),
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
