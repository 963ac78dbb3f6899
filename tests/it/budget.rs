//! `max_server_connections`: there are never more, whatever pgweir wants them for, and everybody is served.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pgweir::sandbox::{Sandbox, SandboxOptions};
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::Client;

use crate::support::primary_only::{config, value};
use crate::support::proxy::Proxy;
use crate::support::{connect, eventually, start};

const SCHEMA: &str = "CREATE TABLE t AS SELECT 1 AS x; \
    CREATE FUNCTION doubled(x int) RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 2 * x; END $$";

/// A server of the test's own with so many databases, `d0` and on, where all connections but those of [`direct`] are pgweir's.
async fn server(databases: usize) -> Sandbox {
    let settings = vec![("max_wal_senders".to_owned(), "5".to_owned()), ("wal_level".to_owned(), "replica".to_owned())];
    let sandbox = start(SandboxOptions { settings, ..SandboxOptions::default() }).await;
    for number in 0..databases {
        sandbox.primary().psql(&format!("CREATE DATABASE d{number} TEMPLATE template0")).await.unwrap();
        sandbox.primary().psql_in(&format!("d{number}"), SCHEMA).await.unwrap();
    }
    sandbox
}

async fn direct(sandbox: &Sandbox, database: &str) -> Client {
    connect(&format!("{}?application_name=direct", sandbox.primary().url("postgres", database))).await
}

/// pgweir in front of it, with so many connections.
fn limited(sandbox: &Sandbox, most: usize, more: &str) -> String {
    let text = config(sandbox, more, &["postgres"]);
    text.replace("[clusters.main]", &format!("[clusters.main]\nmax_server_connections = {most}"))
}

/// Looks all the while how many connections of pgweir's there are.
struct Watch {
    most: Arc<AtomicUsize>,
    stopped: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Watch {
    async fn start(sandbox: &Sandbox) -> Self {
        let client = direct(sandbox, "postgres").await;
        let (most, stopped) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let task = {
            let (most, stopped) = (most.clone(), stopped.clone());
            tokio::spawn(async move {
                while stopped.load(Ordering::Relaxed) == 0 {
                    most.fetch_max(connections(&client).await, Ordering::Relaxed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            })
        };
        Self { most, stopped, task }
    }

    /// The most that there ever were.
    async fn end(self) -> usize {
        self.stopped.store(1, Ordering::Relaxed);
        self.task.await.unwrap();
        self.most.load(Ordering::Relaxed)
    }
}

async fn connections(direct: &Client) -> usize {
    let sql = "SELECT count(*) FROM pg_stat_activity \
               WHERE backend_type IN ('client backend', 'walsender') AND application_name <> 'direct'";
    value(direct, sql).await.parse().unwrap()
}

/// Something of everything for which a connection may be wanted.
async fn works(client: &Client, listens: bool) {
    for round in 0..2 {
        if listens {
            client.batch_execute(&format!("LISTEN channel_{round}; NOTIFY channel_{round}")).await.unwrap();
        }
        assert_eq!(value(client, "SELECT doubled(x) FROM t").await, "2");
        client.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(7); COMMIT").await.unwrap();
        client.batch_execute("SELECT pg_advisory_lock(7); SELECT pg_advisory_unlock(7)").await.unwrap();
        client.batch_execute("CREATE OR REPLACE VIEW v AS SELECT doubled(x) FROM t").await.unwrap();
        assert_eq!(value(client, "SELECT pg_sleep(0.01)::text || doubled(x) FROM t").await, "2");
    }
    client.batch_execute("UNLISTEN *").await.unwrap();
}

#[tokio::test]
async fn many_databases_are_served_by_few_connections() {
    const DATABASES: usize = 8;
    let sandbox = server(DATABASES).await;
    let more = "[tiers.standard]\nlock_timeout = \"300ms\"\n[pool]\nqueue_timeout = \"60s\"\n";
    let proxy = Proxy::start(&limited(&sandbox, 4, more)).await;
    let watch = Watch::start(&sandbox).await;
    // Who waits for a lock is found out by a connection of pgweir's own.
    let holder = direct(&sandbox, "d0").await;
    holder.batch_execute("CREATE TABLE locked ()").await.unwrap();
    holder.batch_execute("BEGIN; LOCK locked").await.unwrap();
    let waits = connect(&proxy.url(&sandbox, "postgres", "d0")).await;
    let waits = tokio::spawn(async move {
        let error = waits.batch_execute("SET lock_timeout = 0; LOCK locked").await.unwrap_err();
        assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{error:?}");
    });
    let mut clients = JoinSet::new();
    for number in 0..DATABASES {
        for listens in [number < 3, false] {
            let client = connect(&proxy.url(&sandbox, "postgres", &format!("d{number}"))).await;
            clients.spawn(async move { works(&client, listens).await });
        }
    }
    while let Some(outcome) = clients.join_next().await {
        outcome.unwrap();
    }
    waits.await.unwrap();
    // Reads go on for longer than a catalog is kept unlooked at: the readers take turns with the clients and each other.
    let mut readers = Vec::new();
    for number in 0..DATABASES {
        readers.push(connect(&proxy.url(&sandbox, "postgres", &format!("d{number}"))).await);
    }
    for (number, reader) in readers.iter().enumerate() {
        let direct = direct(&sandbox, &format!("d{number}")).await;
        direct.batch_execute("CREATE FUNCTION late() RETURNS int LANGUAGE sql AS 'SELECT 3'").await.unwrap();
        assert_eq!(value(reader, "SELECT late()").await, "3");
    }
    let most = watch.end().await;
    assert!((3..=4).contains(&most), "{most} connections");
}

/// Two that last are half of four: for a third there is none.
#[tokio::test]
async fn what_lasts_leaves_half_to_the_others_and_is_told_so() {
    let sandbox = server(3).await;
    let proxy = Proxy::start(&limited(&sandbox, 4, "[pool]\nconnect_timeout = \"1s\"\n")).await;
    let watch = Watch::start(&sandbox).await;
    let replicate = async |database: &str| {
        let url = format!("{}?replication=database", proxy.url(&sandbox, "postgres", database));
        let program = sandbox.installation().program("psql").unwrap();
        let mut command = tokio::process::Command::new(program);
        command.args(["-d", &url, "-X", "-c", "SELECT pg_sleep(60)"]).env_clear().kill_on_drop(true);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
    };
    let observer = direct(&sandbox, "postgres").await;
    let walsenders =
        "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND query LIKE '%pg_sleep%'";
    let mut two = Vec::new();
    for database in ["d0", "d1"] {
        two.push(replicate(database).await);
    }
    eventually("two replicate", async || value(&observer, walsenders).await == "2").await;
    let refused = replicate("d2").await.wait_with_output().await.unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        said.contains("has no connection to spare: all 4 of max_server_connections") && said.contains("1s"),
        "{said}"
    );
    assert!(said.contains("HINT:"), "{said}");
    // Everybody else works on; who listens keeps a connection of the pool.
    for database in ["d0", "d1", "d2"] {
        let client = connect(&proxy.url(&sandbox, "postgres", database)).await;
        assert_eq!(value(&client, "SELECT doubled(x) FROM t").await, "2");
        client.batch_execute("LISTEN a").await.unwrap();
    }
    // And where one has gone, another comes.
    two.pop();
    let more = replicate("d2").await;
    eventually("another replicates", async || value(&observer, walsenders).await == "2").await;
    drop((two, more));
    let most = watch.end().await;
    assert!(most <= 4, "{most} connections");
}

/// In two clusters, and before and after a reload.
#[tokio::test]
async fn a_server_has_one_number_of_connections_in_however_many_clusters_it_is() {
    let sandbox = server(4).await;
    let text = |most: usize| {
        let port = sandbox.primary().port;
        limited(&sandbox, most, "[pool]\nqueue_timeout = \"60s\"\nsize = 10\n")
            + &format!("[clusters.other]\nprimary = \"postgres://127.0.0.1:{port}\"\nmax_server_connections = 40\n")
            + "[databases.\"*\"]\ncluster = \"main\"\n[databases.d2]\ncluster = \"other\"\n[databases.d3]\ncluster = \"other\"\n"
    };
    let proxy = Proxy::start(&text(8)).await;
    let flood = async || {
        let mut clients = JoinSet::new();
        for number in 0..4 {
            for _ in 0..8 {
                let client = connect(&proxy.url(&sandbox, "postgres", &format!("d{number}"))).await;
                clients.spawn(async move {
                    for _ in 0..5 {
                        client.batch_execute("SELECT doubled(x), pg_sleep(0.02) FROM t").await.unwrap();
                    }
                });
            }
        }
        clients
    };
    let end = async |mut clients: JoinSet<()>| {
        while let Some(outcome) = clients.join_next().await {
            outcome.unwrap();
        }
    };
    let watch = Watch::start(&sandbox).await;
    let before = flood().await;
    // The sessions of one cluster go over to another one, while they work.
    proxy.reload(&text(7)).await.unwrap();
    let after = flood().await;
    end(before).await;
    end(after).await;
    let most = watch.end().await;
    assert!((6..=8).contains(&most), "{most} connections");
    let observer = direct(&sandbox, "postgres").await;
    eventually("no more than the new number", async || connections(&observer).await <= 7).await;
    let watch = Watch::start(&sandbox).await;
    end(flood().await).await;
    let most = watch.end().await;
    assert!((5..=7).contains(&most), "{most} connections");
}
