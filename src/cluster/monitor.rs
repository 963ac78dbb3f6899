//! Watches one host on a connection of its own: does it answer, and where in the WAL is it?

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

use super::Cluster;
use super::freshness::{Lsn, Moment};
use super::host::{Claim, Host, Role};
use crate::config::Roles;
use crate::net::Stream;
use crate::pool::Asking;
use crate::server::{ConnectError, Login, connect, simple_query};

const PATIENCE: Duration = Duration::from_secs(2);
/// Where roles are asked, while no reads come.
const ROLES_BEAT: Duration = Duration::from_millis(100);
/// While no reads come, and between attempts to reach a host that is gone.
const SLOW_BEAT: Duration = Duration::from_millis(500);

/// While nothing is written that reads would have to see.
const QUIET_BEAT: Duration = Duration::from_millis(100);

/// Between two questions while a session waits for what a replica is about to show.
const HURRY: Duration = Duration::from_millis(1);

/// Room for a whole answer: it is read with one call.
const ANSWER: usize = 512;
type Connection = BufReader<Stream>;

/// A position, and the primary's timeline: the first eight digits of a WAL file's name.
const PRIMARY: &str = "SELECT pg_catalog.pg_current_wal_insert_lsn(), \
    pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8) \
    WHERE NOT pg_catalog.pg_is_in_recovery()";
const REPLICA: &str = "SELECT pg_catalog.pg_last_wal_replay_lsn(), NULL WHERE pg_catalog.pg_is_in_recovery()";

/// Runs until the cluster is gone. Its place is kept for it while there is no connection.
pub(super) async fn watch(cluster: Weak<Cluster>, host: Arc<Host>, login: Login, place: Asking) {
    let _place = place.await;
    loop {
        let outcome = connect(&host.config, &login, PATIENCE).await;
        match (cluster.upgrade(), outcome) {
            (None, _) => return,
            (Some(_), Ok(connection)) => {
                host.is_met_again();
                let connection = BufReader::with_capacity(ANSWER, connection.stream);
                let Some(reason) = follow(&cluster, &host, connection).await else { return };
                let Some(cluster) = cluster.upgrade() else { return };
                let reason = reason.into();
                lost(&cluster, &host, ConnectError::Unreachable { host: host.config.name.clone(), reason });
            }
            (Some(cluster), Err(error)) => lost(&cluster, &host, error),
        }
        host.claims(Claim::Unknown);
        tokio::time::sleep(SLOW_BEAT).await;
    }
}

/// Asks again and again until the host does not answer as its role should: why it does not. `None` when
/// the cluster is gone.
async fn follow(cluster: &Weak<Cluster>, host: &Host, mut connection: Connection) -> Option<&'static str> {
    loop {
        let clock = cluster.upgrade()?.clock.clone();
        let asked = if host.role == Role::Primary { clock.asks() } else { clock.now() };
        drop(clock);
        let answer = match ask(&mut connection, host.role).await {
            Ok(answer) => answer,
            Err(reason) => return Some(reason),
        };
        let cluster = cluster.upgrade()?;
        let Some((lsn, timeline)) = answer else {
            let other = match host.role {
                Role::Primary => "it is a standby, and not the primary",
                Role::Replica => "it is not a standby (or has replayed nothing yet)",
            };
            if cluster.config.roles == Roles::Configured {
                return Some(other);
            }
            // Its own word on its role is what the cluster waits for.
            match host.role {
                Role::Primary => host.claims(Claim::Standby),
                Role::Replica => match other_role(&mut connection).await {
                    Ok(claim) => host.claims(claim),
                    Err(reason) => return Some(reason),
                },
            }
            lost(&cluster, host, ConnectError::Unreachable { host: host.config.name.clone(), reason: other.into() });
            drop(cluster);
            tokio::time::sleep(ROLES_BEAT).await;
            continue;
        };
        host.claims(timeline.map_or(Claim::Standby, |timeline| Claim::Primary { timeline }));
        note(&cluster, host, asked, lsn);
        if !host.is_ahead() && host.set_up(true) {
            found(&cluster, host);
        }
        rest(cluster, host, asked, &mut connection).await;
    }
}

/// Until the host is to be asked again.
async fn rest(cluster: Arc<Cluster>, host: &Host, asked: Moment, connection: &mut Connection) {
    let poll = cluster.config.poll_interval;
    let clock = cluster.clock.clone();
    let is_replica = host.role == Role::Replica;
    let reaches = if is_replica { host.fresh_as_of() } else { asked };
    let quiet = cluster.config.max_staleness.map_or(QUIET_BEAT, |staleness| QUIET_BEAT.min(staleness / 2)).max(poll);
    let wanted = cluster.clock_is_wanted();
    let beat = match wanted {
        true if clock.is_demanded_beyond(reaches) => HURRY.min(poll),
        true if is_replica && !host.has_replayed(clock.newest()) => poll,
        // Whoever of them is promoted is waited for.
        _ if cluster.config.roles == Roles::Asked && !cluster.primary.is_up() => poll,
        // A write is a reason to ask the primary, and what it has written more to ask the replicas.
        true => quiet,
        false if cluster.config.roles == Roles::Asked => ROLES_BEAT,
        false => SLOW_BEAT,
    };
    drop(cluster);
    let mut demanded = std::pin::pin!(clock.demanded());
    demanded.as_mut().enable();
    let answered = Instant::now();
    let mut pause = HURRY.min(beat);
    tokio::select! {
        () = tokio::time::sleep_until(clock.next(beat).into()) => return,
        () = demanded => {}
        () = host.lags(), if is_replica => {}
        () = clock.writes(), if !is_replica && wanted => pause = poll,
        // A server says nothing unasked but that it goes, or is gone: the next question finds out.
        _ = connection.fill_buf() => {}
    }
    // A host that was asked just now is not asked again at once, whoever demands it.
    tokio::time::sleep_until(answered + pause).await;
}

/// Where the host is in the WAL, and the timeline of a primary; `None` when it has another role.
async fn ask(connection: &mut Connection, role: Role) -> Result<Option<(Lsn, Option<u32>)>, &'static str> {
    let sql = match role {
        Role::Primary => PRIMARY,
        Role::Replica => REPLICA,
    };
    let answer = match tokio::time::timeout(PATIENCE, simple_query(connection, sql, 4096)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => return Err("the monitor's connection was closed"),
        Err(_) => return Err("it accepts connections and does not answer"),
    };
    let mut columns = answer.sets.into_iter().flatten().flatten();
    let lsn = columns.next().flatten().as_deref().and_then(Lsn::parse);
    let timeline = columns.next().flatten().and_then(|digits| u32::from_str_radix(&digits, 16).ok());
    Ok(lsn.map(|lsn| (lsn.without_header(), timeline)))
}

/// What a host says that was taken for a replica.
async fn other_role(connection: &mut Connection) -> Result<Claim, &'static str> {
    let answer = ask(connection, Role::Primary).await?;
    Ok(answer.and_then(|(_, timeline)| timeline).map_or(Claim::Standby, |timeline| Claim::Primary { timeline }))
}

fn note(cluster: &Cluster, host: &Host, asked: Moment, lsn: Lsn) {
    let clock = &cluster.clock;
    if host.role == Role::Primary {
        clock.sample(asked, lsn);
        for replica in &cluster.replicas {
            if replica.compare(asked, lsn) {
                let reason = "it has replayed what the primary has not written: it must be made anew from the primary";
                let host = replica.config.name.clone();
                lost(cluster, replica, ConnectError::Unreachable { host, reason: reason.into() });
            } else if replica.keeps_up(asked, lsn) {
                clock.advances();
            }
        }
        return;
    }
    host.set_replayed(asked, lsn);
    if let Some((moment, lag)) = clock.reached(lsn) {
        host.set_fresh(moment, lag);
        clock.advances();
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
