//! Follows the primary of clusters whose servers are asked for their roles: when another one has become it, the cluster
//! is made anew with that in its place, as a reload would, and its sessions go on there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::Snapshot;
use crate::cluster::{Claim, Cluster};
use crate::config::Roles;
use crate::listener::Door;

/// How often the monitors' findings are looked at.
const BEAT: Duration = Duration::from_millis(20);
/// Where no cluster is asked: a reload may bring one.
const SLOW_BEAT: Duration = Duration::from_millis(500);

/// What clients are let in with, and who may change it: one at a time.
pub struct Snapshots {
    pub current: watch::Sender<Arc<Snapshot>>,
    pub changing: Mutex<()>,
}

/// Looks again and again, for as long as it is polled.
pub async fn follow(door: Arc<Door>, snapshots: Arc<Snapshots>) {
    let mut contested = Vec::new();
    loop {
        let asked: Vec<_> =
            door.snapshot().clusters().filter(|one| one.config.roles == Roles::Asked).cloned().collect();
        let any = !asked.is_empty();
        for cluster in asked {
            let claims = cluster.claims();
            tell_contest(&cluster, &claims, &mut contested);
            if let Some(elected) = elect(&claims) {
                promote(&door, &snapshots, &cluster, elected).await;
            }
        }
        tokio::time::sleep(if any { BEAT } else { SLOW_BEAT }).await;
    }
}

/// The server that is the primary instead of the first one: of those that say so the one on the highest timeline
/// (PostgreSQL, "Timelines"), since that was promoted last. Where two are on the same, the first one stays.
fn elect(claims: &[Claim]) -> Option<usize> {
    let timeline = |claim: &Claim| match claim {
        Claim::Primary { timeline } => Some(*timeline),
        Claim::Unknown | Claim::Standby => None,
    };
    let claimants = claims.iter().enumerate().filter_map(|(index, claim)| Some((timeline(claim)?, index)));
    let (_, elected) = claimants.max_by_key(|(timeline, index)| (*timeline, std::cmp::Reverse(*index)))?;
    (elected != 0).then_some(elected)
}

/// Makes a server the primary of its cluster.
async fn promote(door: &Arc<Door>, snapshots: &Snapshots, cluster: &Arc<Cluster>, elected: usize) {
    let _one_at_a_time = snapshots.changing.lock().await;
    let before = door.snapshot();
    let Some(next) = before.with_primary(cluster, elected, &door.shared.metrics) else { return };
    let next = Arc::new(next);
    let (name, old) = (&cluster.config.name, &cluster.primary);
    tracing::warn!(cluster = %name, primary = %cluster.host(elected).config.name, before = %old.config.name,
        "another server is the primary: clients go on with it");
    snapshots.current.send_replace(next.clone());
    next.succeed(&before);
    door.shared.metrics.primary_changed(name);
    // Whatever the old one still does, nobody who is told of the new one may hear of it.
    door.shared.registry.fence(&old.config);
}

/// Says once, and loudly, that several servers claim to be the primary.
fn tell_contest(cluster: &Cluster, claims: &[Claim], told: &mut Vec<(String, Vec<usize>)>) {
    let is_primary = |claim: &Claim| matches!(claim, Claim::Primary { .. });
    let claimants: Vec<_> = (0..claims.len()).filter(|&index| is_primary(&claims[index])).collect();
    let name = &cluster.config.name;
    let contest = (name.clone(), claimants.clone());
    if claimants.len() < 2 || told.contains(&contest) {
        return;
    }
    told.retain(|(known, _)| known != name);
    told.push(contest);
    let names: Vec<_> = claimants.iter().map(|&index| cluster.host(index).config.name.as_str()).collect();
    tracing::error!(cluster = %name, servers = names.join(", "),
        "several servers claim to be the primary: the one on the highest timeline is used, the others get no clients. \
         Stop the others, or their writes will be lost");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_timeline_is_elected_and_the_present_primary_stays_where_there_is_none() {
        const fn on(timeline: u32) -> Claim {
            Claim::Primary { timeline }
        }
        for (claims, elected) in [
            (vec![], None),
            (vec![Claim::Unknown, Claim::Standby], None),
            (vec![on(1), Claim::Standby], None),
            (vec![Claim::Unknown, on(2), Claim::Standby], Some(1)),
            (vec![Claim::Standby, Claim::Standby, on(1)], Some(2)),
            (vec![on(1), Claim::Standby, on(2)], Some(2)),
            (vec![on(2), on(1)], None),
            (vec![on(3), on(3)], None),
            (vec![on(1), on(2), on(2)], Some(1)),
        ] {
            assert_eq!(elect(&claims), elected, "{claims:?}");
        }
    }
}
