//! Watches one host on a connection of its own: does it answer, and where in the WAL is it?

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::freshness::Lsn;
use super::host::{Host, Role};
use super::{Clock, Cluster};
use crate::server::{ConnectError, Connected, Login, connect, simple_query};

const PATIENCE: Duration = Duration::from_secs(2);
/// While no reads come, and between attempts to reach a host that is gone.
const SLOW_BEAT: Duration = Duration::from_millis(500);

/// Between two questions while a session waits for what a replica is about to show.
const HURRY: Duration = Duration::from_millis(1);

const PRIMARY: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn() WHERE NOT pg_catalog.pg_is_in_recovery()";
const REPLICA: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn() WHERE pg_catalog.pg_is_in_recovery()";

/// Runs until the cluster is gone.
pub(super) async fn watch(cluster: Weak<Cluster>, host: Arc<Host>, login: Login) {
    loop {
        let outcome = connect(&host.config, &login, PATIENCE).await;
        match (cluster.upgrade(), outcome) {
            (None, _) => return,
            (Some(_), Ok(mut connection)) => {
                let Some(reason) = follow(&cluster, &host, &mut connection).await else { return };
                let Some(cluster) = cluster.upgrade() else { return };
                let reason = reason.into();
                lost(&cluster, &host, ConnectError::Unreachable { host: host.config.name.clone(), reason });
            }
            (Some(cluster), Err(error)) => lost(&cluster, &host, error),
        }
        tokio::time::sleep(SLOW_BEAT).await;
    }
}

/// Asks again and again until the host does not answer as its role should: why it does not. `None` when
/// the cluster is gone.
async fn follow(cluster: &Weak<Cluster>, host: &Host, connection: &mut Connected) -> Option<&'static str> {
    let sql = match host.role {
        Role::Primary => PRIMARY,
        Role::Replica => REPLICA,
    };
    loop {
        let asked = cluster.upgrade()?.clock.now();
        let answer = tokio::time::timeout(PATIENCE, simple_query(&mut connection.stream, sql, 4096)).await;
        let answer = match answer {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => return Some("the monitor's connection was closed"),
            Err(_) => return Some("it accepts connections and does not answer"),
        };
        let position = answer.sets.into_iter().flatten().flatten().flatten().next();
        // The questions have no row for a host of the other role.
        let Some(lsn) = position.as_deref().and_then(Lsn::parse) else {
            return Some(match host.role {
                Role::Primary => "it is a standby, and configured as the primary",
                Role::Replica => "it is not a standby (or has replayed nothing yet), and configured as a replica",
            });
        };
        let lsn = lsn.without_header();
        let cluster = cluster.upgrade()?;
        note(&cluster.clock, host, asked, lsn);
        let reaches = if host.role == Role::Primary { asked } else { host.fresh_as_of() };
        if host.set_up(true) {
            found(&cluster, host);
        }
        let beat = match cluster.clock_is_wanted() {
            true if cluster.clock.is_demanded_beyond(reaches) => HURRY.min(cluster.config.poll_interval),
            true => cluster.config.poll_interval,
            false => SLOW_BEAT,
        };
        let clock = cluster.clock.clone();
        drop(cluster);
        let mut demanded = std::pin::pin!(clock.demanded());
        demanded.as_mut().enable();
        // A host that was asked just now is not asked again at once, whoever demands it.
        tokio::time::sleep(HURRY.min(beat)).await;
        // Timely or in a hurry, it is asked.
        let _ = tokio::time::timeout(beat.saturating_sub(HURRY), demanded).await;
    }
}

fn note(clock: &Clock, host: &Host, asked: super::Moment, lsn: Lsn) {
    match host.role {
        Role::Primary => clock.sample(asked, lsn),
        Role::Replica => {
            if let Some((moment, lag)) = clock.reached(lsn) {
                host.set_fresh(moment, lag);
                clock.advances();
            }
        }
    }
}

fn found(cluster: &Cluster, host: &Host) {
    tracing::info!(cluster = %cluster.config.name, host = %host.config.name, role = host.role.label(), "host answers");
    for group in cluster.all_groups() {
        group.pools_on(host).for_each(|pool| pool.host_is_back());
    }
}

fn lost(cluster: &Cluster, host: &Host, error: ConnectError) {
    if host.role == Role::Primary {
        cluster.clock.reset();
    }
    // A session may have found out first, but whoever waits for a connection has not been told.
    if host.set_up(false) {
        tracing::warn!(cluster = %cluster.config.name, host = %host.config.name, role = host.role.label(), %error, "host does not answer");
    }
    let error = Arc::new(error);
    for group in cluster.all_groups() {
        group.pools_on(host).for_each(|pool| pool.host_is_gone(&error));
    }
}
