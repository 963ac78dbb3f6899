//! What is there at this moment, for whoever reads the metrics.

use std::collections::HashMap;
use std::sync::Arc;

use crate::cluster::Cluster;
use crate::listener::Door;
use crate::metrics::{Census, CensusSnapshot, ClientCount, ReplicaState, ServerCount, TenantUse, WaitCount};
use crate::tenant::Tenant;

/// Counts what came through a door and where it went.
pub struct DoorCensus(pub Arc<Door>);

impl Census for DoorCensus {
    fn census(&self) -> CensusSnapshot {
        let mut counted =
            CensusSnapshot { clients: clients(&self.0), tenants: tenants(&self.0), ..CensusSnapshot::default() };
        for cluster in self.0.snapshot().clusters() {
            count_servers(cluster, &mut counted);
            count_replicas(cluster, &mut counted);
        }
        counted
    }
}

fn clients(door: &Door) -> Vec<ClientCount> {
    let mut counts = HashMap::new();
    for slot in door.shared.registry.all() {
        *counts.entry((slot.database.clone(), slot.user.clone(), slot.activity())).or_insert(0) += 1;
    }
    let strangers = ClientCount {
        database: String::new(),
        user: String::new(),
        state: "authenticating",
        count: door.places.unauthenticated(),
    };
    let known = counts.into_iter().map(|((database, user, activity), count)| ClientCount {
        database: database.to_string(),
        user: user.to_string(),
        state: activity.label(),
        count,
    });
    known.chain([strangers]).collect()
}

fn tenants(door: &Door) -> Vec<TenantUse> {
    let used = |tenant: &Tenant| TenantUse {
        tenant: tenant.name.to_string(),
        clients: tenant.live_clients(),
        tally: tenant.tally(),
    };
    door.snapshot().tenants.counted().map(used).collect()
}

fn count_servers(cluster: &Cluster, counted: &mut CensusSnapshot) {
    for (key, host, pool) in cluster.census() {
        for (state, count) in [("idle", pool.idle), ("leased", pool.leased), ("connecting", pool.connecting)] {
            counted.servers.push(ServerCount {
                database: key.database.clone(),
                user: key.user.clone(),
                host: host.config.name.clone(),
                role: host.role.label(),
                state,
                count,
            });
        }
        counted.waiting.push(WaitCount {
            database: key.database,
            user: key.user,
            count: pool.waiting,
            longest: pool.longest_wait,
        });
    }
}

fn count_replicas(cluster: &Cluster, counted: &mut CensusSnapshot) {
    let now = cluster.clock.now();
    for host in &cluster.replicas {
        let (lag, lag_bytes) = host.lag(now);
        counted.replicas.push(ReplicaState {
            cluster: cluster.config.name.clone(),
            host: host.config.name.clone(),
            up: host.is_up(),
            lag,
            // Measured together: the one is known when the other is.
            lag_bytes: lag.map(|_| lag_bytes),
        });
    }
}
