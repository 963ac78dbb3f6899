//! What `SHOW` shows.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::show_duration;
use crate::listener::Door;
use crate::session::Activity;

/// Columns and rows, all text.
pub(super) struct Table {
    pub columns: &'static [&'static str],
    pub rows: Vec<Vec<Option<String>>>,
}

fn some(value: impl ToString) -> Option<String> {
    Some(value.to_string())
}

pub(super) fn tenants(door: &Door) -> Table {
    let mut doing: HashMap<(Arc<str>, Activity), usize> = HashMap::new();
    for slot in door.shared.registry.all() {
        *doing.entry((slot.tenant(), slot.activity())).or_default() += 1;
    }
    let snapshot = door.snapshot();
    let row = |tenant: &crate::tenant::Tenant| {
        let limits = tenant.current_limits();
        let does = |activity| some(doing.get(&(tenant.name.clone(), activity)).copied().unwrap_or(0));
        let tally = tenant.tally();
        vec![
            some(&tenant.name),
            some(&limits.name),
            some(limits.priority.name()),
            some(if tenant.is_paused() { "yes" } else { "no" }),
            some(tenant.live_clients()),
            does(Activity::Active),
            does(Activity::IdleInTransaction),
            does(Activity::Waiting),
            some(tenant.pinned()),
            some(tally.transactions),
            some(format!("{:.3}", tally.worked.as_secs_f64())),
            limits.max_clients.and_then(some),
            limits.max_server_connections.and_then(some),
            limits.statement_timeout.map(show_duration),
        ]
    };
    Table {
        columns: &[
            "name",
            "tier",
            "priority",
            "paused",
            "clients",
            "active",
            "idle_in_transaction",
            "waiting",
            "pinned",
            "transactions",
            "backend_seconds",
            "max_clients",
            "max_server_connections",
            "statement_timeout",
        ],
        rows: snapshot.tenants.present_or_served().map(row).collect(),
    }
}

pub(super) fn clients(door: &Door) -> Table {
    let row = |slot: &Arc<crate::session::Slot>| {
        vec![
            some(slot.pid()),
            some(&slot.user),
            some(&slot.database),
            some(slot.tenant()),
            some(slot.activity().label()),
        ]
    };
    let mut slots = door.shared.registry.all();
    slots.sort_unstable_by_key(|slot| slot.pid());
    Table { columns: &["pid", "user", "database", "tenant", "state"], rows: slots.iter().map(row).collect() }
}

pub(super) fn pools(door: &Door) -> Table {
    let mut rows = Vec::new();
    for cluster in door.snapshot().clusters() {
        for (key, host, pool) in cluster.census() {
            rows.push(vec![
                some(&key.database),
                some(&key.user),
                some(&host.config.name),
                some(host.role.label()),
                some(pool.idle),
                some(pool.leased),
                some(pool.connecting),
                some(pool.waiting),
                some(format!("{:.3}", pool.longest_wait.as_secs_f64())),
            ]);
        }
    }
    rows.sort_unstable();
    Table {
        columns: &[
            "database",
            "user",
            "host",
            "role",
            "idle",
            "leased",
            "connecting",
            "waiting",
            "longest_wait_seconds",
        ],
        rows,
    }
}

pub(super) fn hosts(door: &Door) -> Table {
    let mut rows = Vec::new();
    for cluster in door.snapshot().clusters() {
        let now = cluster.clock.now();
        for number in 0..=cluster.replicas.len() {
            let host = cluster.host(number);
            let (lag, _) = host.lag(now);
            rows.push(vec![
                some(&cluster.config.name),
                some(&host.config.name),
                some(host.role.label()),
                some(if host.is_up() { "yes" } else { "no" }),
                some(host.budget.open()),
                host.budget.most().and_then(some),
                lag.filter(|_| number > 0).map(|lag| format!("{:.3}", lag.as_secs_f64())),
            ]);
        }
    }
    Table { columns: &["cluster", "host", "role", "up", "connections", "max_server_connections", "lag_seconds"], rows }
}

pub(super) fn version() -> Table {
    Table { columns: &["version"], rows: vec![vec![some(concat!("pgweir ", env!("CARGO_PKG_VERSION")))]] }
}

pub(super) fn help() -> Table {
    const HELP: [(&str, &str); 9] = [
        ("SHOW TENANTS", "what each tenant does, has used, and is held to"),
        ("SHOW CLIENTS", "every session"),
        ("SHOW POOLS", "server connections by database, user and host"),
        ("SHOW HOSTS", "servers, and how many connections each has"),
        ("SHOW VERSION", "pgweir's"),
        (
            "PAUSE TENANT name",
            "no more of its transactions begin: they wait for up to queue_timeout; names are quoted as in SQL, \"a;b\" or 'a;b'",
        ),
        ("RESUME TENANT name", "they go on"),
        ("KILL TENANT name", "its sessions end at once (57P01), and what they run is cancelled"),
        ("LIMIT TENANT name key = value", "another limit, written as in the configuration, until that is read again"),
    ];
    let row = |(command, what): &(&str, &str)| vec![some(command), some(what)];
    Table { columns: &["command", "what"], rows: HELP.iter().map(row).collect() }
}
