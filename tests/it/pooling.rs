//! Few server connections for many clients: the modes, the ceilings, the queue, and what becomes of
//! connections that grow old, die, or lose their client.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pgweir::sandbox::{SandboxOptions, User};

use crate::support::primary_only::{backends, config, connect_cuttable, proxy, sqlstate, try_value, value};
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::stage::Stage;
use crate::support::{chain, connect, eventually, fresh_database, say, shared_cluster, start, unique};

/// Which server connection answers. (Whoever asked for it plainly would keep it.)
const PID: &str = "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()";

#[tokio::test]
async fn in_transaction_mode_clients_share_a_connection_between_transactions() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let (one, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    one.batch_execute("BEGIN").await.unwrap();
    let held = value(&one, PID).await;
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&other, PID).await, held);
    assert_eq!(value(&one, PID).await, held);
}

#[tokio::test]
async fn in_session_mode_a_client_keeps_its_connection_and_the_next_gets_it_clean() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nmode = \"session\"").await;
    let one = proxy.connect(&database.name).await;
    let pid = value(&one, PID).await;
    one.batch_execute("SET work_mem = '7MB'; SET app.mine = 'x'; CREATE TEMPORARY TABLE mine (); LISTEN mine")
        .await
        .unwrap();
    one.batch_execute("PREPARE p AS SELECT 1; SELECT pg_advisory_lock(4711)").await.unwrap();
    assert_eq!(value(&one, "SHOW work_mem").await, "7MB");
    assert_eq!(value(&one, PID).await, pid);
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let waiting = tokio::spawn(async move { connect(&url).await });
    drop(one);
    let other = waiting.await.unwrap();
    let left = "SELECT current_setting('work_mem') || coalesce(current_setting('app.mine', true), '') \
        || coalesce(to_regclass('mine')::text, '') || (SELECT count(*) FROM pg_listening_channels()) \
        || (SELECT count(*) FROM pg_prepared_statements) \
        || (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())";
    assert_eq!(value(&other, left).await, "4MB000");
}

/// The process id that a client is told is that of its server process; without `reuse` that serves no other client.
#[tokio::test]
async fn in_session_mode_a_client_is_told_which_process_serves_it() {
    let stage = Stage::set("SELECT 1").await;
    for reuse in [true, false] {
        let config = stage.config(&format!("[pool]\nsize = 1\nmode = \"session\"\nreuse = {reuse}\n")).await;
        let proxy = Proxy::start(&config).await;
        let mut seen = BTreeSet::new();
        for round in 0..3 {
            let (mut client, greeting) = RawClient::start(&stage.endpoint(proxy.port), &[("work_mem", "7MB")]).await;
            let key = greeting.iter().find(|frame| frame.tag == b'K').expect("BackendKeyData");
            let told = i32::from_be_bytes(key.body[..4].try_into().unwrap());
            assert_eq!(client.rows("SELECT pg_backend_pid()").await, [told.to_string()]);
            assert_eq!(client.rows("SHOW work_mem").await, ["7MB"], "round {round}");
            seen.insert(told);
            client.leave().await;
        }
        assert_eq!(seen.len(), if reuse { 1 } else { 3 }, "reuse: {reuse}");
    }
}

#[tokio::test]
async fn in_statement_mode_transactions_are_refused_and_statements_run() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 2\nmode = \"statement\"").await;
    let client = proxy.connect(&database.name).await;
    for begin in ["BEGIN", "START TRANSACTION READ ONLY", "SELECT 1; BEGIN; SELECT 2"] {
        let error = client.simple_query(begin).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!(error.code().code(), "0A000", "{begin}");
        assert!(error.hint().is_some_and(|hint| hint.contains("transaction")), "{error:?}");
    }
    assert_eq!(value(&client, "SELECT 1; SELECT 2").await, "2");
    assert_eq!(client.query_one("SELECT $1::int4", &[&3i32]).await.unwrap().get::<_, i32>(0), 3);
}

/// Twenty server connections and a thousand clients that never pause. The clients' progress is compared
/// at the moment when the first is through: in a fair queue all are then nearly through.
#[tokio::test]
async fn a_thousand_busy_clients_on_twenty_connections_all_come_forward() {
    const CLIENTS: usize = 1000;
    const TRANSACTIONS: usize = 8;
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 20\nqueue_timeout = \"120s\"").await;
    let url: Arc<str> = proxy.url(shared_cluster().await, "postgres", &database.name).into();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS / 50 {
        let some: Vec<_> = (0..50)
            .map(|_| {
                tokio::spawn({
                    let url = url.clone();
                    async move { connect(&url).await }
                })
            })
            .collect();
        for client in some {
            clients.push(client.await.unwrap());
        }
    }
    let progress: Arc<Vec<AtomicUsize>> = Arc::new((0..CLIENTS).map(|_| AtomicUsize::new(0)).collect());
    let start = Arc::new(tokio::sync::Barrier::new(CLIENTS));
    let work = clients.into_iter().enumerate().map(|(index, client)| {
        let (progress, start) = (progress.clone(), start.clone());
        tokio::spawn(async move {
            start.wait().await;
            for _ in 0..TRANSACTIONS {
                client.batch_execute("SELECT pg_sleep(0.001)").await.unwrap();
                progress[index].fetch_add(1, Ordering::Relaxed);
            }
            progress.iter().map(|count| count.load(Ordering::Relaxed)).min().unwrap()
        })
    });
    let work: Vec<_> = work.collect();
    let mut seen = Vec::new();
    for client in work {
        seen.push(client.await.unwrap());
    }
    assert!(progress.iter().all(|count| count.load(Ordering::Relaxed) == TRANSACTIONS));
    // First in, first out: nobody is through before everybody has had most of the turns.
    let behind = TRANSACTIONS - seen.iter().min().unwrap();
    assert!(behind <= 3, "the last was {behind} transactions behind the first");
    let open = backends(&database).await.len();
    assert!(open <= 20, "{open} server connections");
    assert_eq!(proxy.metric(&format!("pgweir_server_connects_total{{database=\"{}\"}}", database.name)), 20.0);
}

#[tokio::test]
async fn a_client_that_waits_too_long_is_told_what_to_do() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"200ms\"").await;
    let (one, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    one.batch_execute("BEGIN").await.unwrap();
    let error = other.simple_query("SELECT 1").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(error.code().code(), "53300");
    assert_eq!(error.severity(), "ERROR");
    assert!(error.detail().is_some_and(|detail| detail.contains("all 1 server connection")), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("queue_timeout") && hint.contains("size")), "{error:?}");
    one.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&other, "SELECT 1").await, "1");
    assert_eq!(other.query_one("SELECT 2", &[]).await.unwrap().get::<_, i32>(0), 2);
}

#[tokio::test]
async fn min_idle_connections_are_there_before_they_are_wanted_and_stay() {
    let database = fresh_database("").await;
    let more = format!("[databases.{}.pool]\nmin_idle = 3\nidle_timeout = \"1s\"", database.name);
    let proxy = proxy(&more).await;
    eventually("three connections are open", async || backends(&database).await.len() == 3).await;
    let clients = [proxy.connect(&database.name).await, proxy.connect(&database.name).await];
    for client in &clients {
        client.batch_execute("BEGIN").await.unwrap();
    }
    assert_eq!(backends(&database).await.len(), 3);
}

#[tokio::test]
async fn what_nobody_uses_is_closed_after_idle_timeout() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nidle_timeout = \"1s\"").await;
    let clients = [proxy.connect(&database.name).await, proxy.connect(&database.name).await];
    for client in &clients {
        client.batch_execute("BEGIN").await.unwrap();
    }
    assert!(backends(&database).await.len() >= 2);
    for client in &clients {
        client.batch_execute("COMMIT").await.unwrap();
    }
    // The catalog's reader looks in from time to time and keeps one in use.
    eventually("the unused ones are closed", async || backends(&database).await.len() <= 1).await;
    assert_eq!(value(&clients[0], "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_connection_is_not_used_beyond_its_lifetime() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nmax_lifetime = \"1s\"").await;
    let client = proxy.connect(&database.name).await;
    let first = value(&client, PID).await;
    eventually("another connection is used", async || value(&client, PID).await != first).await;
    eventually("the old one is closed", async || !backends(&database).await.contains(&first)).await;
}

#[tokio::test]
async fn a_connection_that_is_killed_while_idle_is_replaced_unnoticed() {
    let database = fresh_database("").await;
    for check_after in ["30s", "0"] {
        let proxy = proxy(&format!("[pool]\nsize = 1\ncheck_after = \"{check_after}\"")).await;
        let client = proxy.connect(&database.name).await;
        for _ in 0..5 {
            let pid = value(&client, PID).await;
            database.sql(&format!("SELECT pg_terminate_backend({pid}, 10000)")).await;
            assert_ne!(value(&client, PID).await, pid);
        }
    }
}

#[tokio::test]
async fn a_restart_of_the_primary_costs_only_who_was_in_a_transaction() {
    let sandbox = start(SandboxOptions::default()).await;
    let proxy = Proxy::start(&config(&sandbox, "[pool]\nsize = 3", &["postgres"])).await;
    let url = proxy.url(&sandbox, "postgres", "postgres");
    let (idle, busy) = (connect(&url).await, connect(&url).await);
    assert_eq!(value(&idle, "SELECT 1").await, "1");
    busy.batch_execute("BEGIN").await.unwrap();
    sandbox.primary().restart().await.unwrap();
    let code = busy.simple_query("SELECT 1").await.unwrap_err().code().map(|code| code.code().to_owned());
    assert!(code.as_deref().is_none_or(|code| matches!(code, "57P01" | "08006")), "{code:?}");
    assert_eq!(value(&idle, "SELECT 2").await, "2");
    assert_eq!(value(&connect(&url).await, "SELECT 3").await, "3");
}

#[tokio::test]
async fn while_the_primary_is_down_clients_are_told_and_stay_connected() {
    let sandbox = start(SandboxOptions::default()).await;
    let proxy = Proxy::start(&config(&sandbox, "[pool]\nsize = 3\nqueue_timeout = \"1s\"", &["postgres"])).await;
    let client = connect(&proxy.url(&sandbox, "postgres", "postgres")).await;
    assert_eq!(value(&client, "SELECT 1").await, "1");
    sandbox.primary().stop(pgweir::sandbox::StopMode::Fast).await.unwrap();
    for _ in 0..3 {
        let error = client.simple_query("SELECT 1").await.unwrap_err();
        assert!(matches!(sqlstate(&error), "08006" | "53300"), "{error:?}");
        assert!(error.as_db_error().unwrap().hint().is_some());
    }
    sandbox.primary().start().await.unwrap();
    eventually("it works again", async || try_value(&client, "SELECT 1").await.is_ok()).await;
}

/// The server takes two connections of this user and refuses the third with 53300, while the pool
/// would like five: whoever waits gets one of the two, and nobody the refusal.
#[tokio::test]
async fn a_login_that_fails_costs_no_waiter_while_others_succeed() {
    let cluster = shared_cluster().await;
    let name = format!("narrow_{}", unique());
    cluster.create_users(&[User::new(&name, "secret")]).await.unwrap();
    cluster.primary().psql(&format!("ALTER ROLE {name} CONNECTION LIMIT 2")).await.unwrap();
    let proxy = Proxy::start(&config(cluster, "[pool]\nsize = 5\nqueue_timeout = \"60s\"", &[&name])).await;
    let url: Arc<str> = proxy.url(cluster, &name, "postgres").into();
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(connect(&url).await);
    }
    let work: Vec<_> = clients
        .into_iter()
        .map(|client| {
            tokio::spawn(async move {
                for _ in 0..5 {
                    client.batch_execute("SELECT pg_sleep(0.005)").await.unwrap();
                }
            })
        })
        .collect();
    for client in work {
        client.await.unwrap();
    }
    assert!(proxy.metric("pgweir_server_connect_failures_total") > 0.0);
}

#[tokio::test]
async fn a_wrong_password_for_the_server_is_told_as_the_operators_mistake() {
    let cluster = shared_cluster().await;
    let name = format!("wrong_{}", unique());
    cluster.create_users(&[User::new(&name, "secret")]).await.unwrap();
    let toml = config(cluster, "[pool]\nqueue_timeout = \"2s\"", &[&name]);
    let proxy = Proxy::start(&format!("{toml}server_password = \"not it\"\n")).await;
    let refusal = proxy.refusal(&proxy.url(cluster, &name, "postgres")).await;
    assert_eq!((refusal.code().code(), refusal.severity()), ("28P01", "FATAL"));
    assert!(refusal.message().contains(&name) && refusal.message().contains("primary"), "{refusal:?}");
    assert!(refusal.hint().is_some_and(|hint| hint.contains("server_password")), "{refusal:?}");
    assert!(!format!("{refusal:?}").contains("not it"));
    // A right one, and clients come in: the backoff of the failed logins is not theirs to wait for.
    proxy.reload(&toml).await.unwrap();
    assert_eq!(value(&connect(&proxy.url(cluster, &name, "postgres")).await, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_client_that_vanishes_in_a_transaction_leaves_nothing_behind() {
    let database = fresh_database("CREATE TABLE t (x int); INSERT INTO t VALUES (1)").await;
    let proxy = proxy("[pool]\nsize = 2").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let stages: [&[&str]; 4] = [
        &["BEGIN", "UPDATE t SET x = 2"],
        &["BEGIN", "LOCK t", "SAVEPOINT s", "SELECT 1/0"],
        &["BEGIN; UPDATE t SET x = 2; SELECT pg_advisory_lock(815)"],
        &["CREATE TEMPORARY TABLE mine (); SELECT pg_advisory_lock(815)", "BEGIN", "LOCK t"],
    ];
    for stage in stages {
        let (client, task) = connect_cuttable(&url).await;
        for statement in stage {
            // One of them fails, and is meant to.
            let _ = client.simple_query(statement).await;
        }
        task.abort();
        let other = proxy.connect(&database.name).await;
        assert_eq!(value(&other, "UPDATE t SET x = x RETURNING x").await, "1", "after {stage:?}");
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' \
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually("the advisory lock is gone", async || value(&other, locks).await == "0").await;
    }
    // Both places of the pool can still be taken.
    let clients = [proxy.connect(&database.name).await, proxy.connect(&database.name).await];
    let mut pids = BTreeSet::new();
    for client in &clients {
        client.batch_execute("BEGIN").await.unwrap();
        pids.insert(value(client, PID).await);
    }
    assert_eq!(pids.len(), 2);
}

/// Until then no read is known to be one.
async fn catalog_is_known(proxy: &Proxy, client: &tokio_postgres::Client) {
    eventually("the catalog is known", async || {
        client.batch_execute("SELECT pg_sleep(0)").await.unwrap();
        proxy.metric("pgweir_routing_decisions_total{reason=\"no_replica\"}") > 0.0
    })
    .await;
}

#[tokio::test]
async fn a_client_that_vanishes_in_a_read_or_in_the_queue_costs_no_place() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"30s\"").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    // What is not known to be a read is carried out to its end, as by PostgreSQL itself.
    let client = connect(&url).await;
    catalog_is_known(&proxy, &client).await;
    let (running, running_task) = connect_cuttable(&url).await;
    let (waiting, waiting_task) = connect_cuttable(&url).await;
    let statement = tokio::spawn(async move { running.simple_query("SELECT pg_sleep(600)").await.map(drop) });
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)' AND state = 'active'";
    eventually("it runs", async || database.sql(active).await == "1").await;
    let queued = tokio::spawn(async move { waiting.simple_query("SELECT 1").await.map(drop) });
    let label = format!("pgweir_waiting_clients{{database=\"{}\"}}", database.name);
    eventually("the other waits", async || proxy.metric(&label) >= 1.0).await;
    waiting_task.abort();
    running_task.abort();
    let other = connect(&url).await;
    assert_eq!(value(&other, "SELECT 1").await, "1");
    assert!(statement.await.unwrap().is_err() && queued.await.unwrap().is_err());
    assert_eq!(database.sql(active).await, "0");
}

/// The cancel strikes the first; the other would go on until its server process is ended, which takes longer than others wait.
#[tokio::test]
async fn a_client_that_vanishes_with_a_read_behind_another_costs_no_place() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"3s\"").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let client = connect(&url).await;
    catalog_is_known(&proxy, &client).await;
    let (running, task) = connect_cuttable(&url).await;
    let statements = tokio::spawn(async move {
        let [first, second, third] = ["SELECT pg_sleep(600)", "SELECT pg_sleep(601)", "SELECT pg_sleep(602)"];
        let all = (running.simple_query(first), running.simple_query(second), running.simple_query(third));
        let (first, second, third) = tokio::join!(all.0, all.1, all.2);
        assert!(first.is_err() && second.is_err() && third.is_err());
    });
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60_)' AND state = 'active' \
        AND datname = current_database()";
    eventually("the first runs", async || database.sql(active).await == "1").await;
    task.abort();
    assert_eq!(value(&connect(&url).await, "SELECT 1").await, "1");
    statements.await.unwrap();
    assert_eq!(database.sql(active).await, "0");
}

/// Some drivers prepare with `Flush` and send `Sync` when they execute.
#[tokio::test]
async fn a_client_that_has_prepared_and_waits_holds_nothing() {
    let stage = Stage::set("").await;
    let config = stage.config("[pool]\nsize = 1\nqueue_timeout = \"2s\"").await;
    let alone = config.lines().filter(|line| !line.starts_with("replicas")).collect::<Vec<_>>().join("\n");
    for config in [&config, &alone] {
        let proxy = Proxy::start(config).await;
        let mut idle = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        idle.send(&[say::parse("s", "SELECT 7"), say::describe_statement("s"), say::flush()].concat()).await.unwrap();
        assert_eq!(idle.reader.until(b'T', 1).await.1, None);
        let mut other = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        assert_eq!(other.rows("SELECT 1").await, ["1"]);
        assert_eq!(other.rows("CREATE TEMP TABLE t ON COMMIT DROP AS SELECT 1; SELECT 2").await, ["2"]);
        idle.send(&say::again("s", &[])).await.unwrap();
        let (frames, end) = idle.until_ready(1).await;
        assert_eq!((end, frames.len()), (None, 4), "{frames:?}");
    }
}

/// While the catalog is read, what it speaks of may be dropped.
#[tokio::test]
async fn a_schema_that_keeps_changing_binds_nobody_to_a_connection() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 3\nqueue_timeout = \"20s\"").await;
    let mut changing = Vec::new();
    for number in 0..2 {
        let client = proxy.connect(&database.name).await;
        changing.push(tokio::spawn(async move {
            for _ in 0..150 {
                let change = format!("CREATE VIEW v{number} AS SELECT abs(1) AS a; DROP VIEW v{number}");
                client.batch_execute(&change).await.unwrap();
            }
        }));
    }
    let mut reading = Vec::new();
    for _ in 0..6 {
        let client = proxy.connect(&database.name).await;
        reading.push(tokio::spawn(async move {
            for number in 0..100 {
                assert_eq!(value(&client, &format!("SELECT abs(-{number})")).await, number.to_string());
            }
        }));
    }
    for task in changing.into_iter().chain(reading) {
        task.await.unwrap();
    }
    assert_eq!(proxy.metric("pgweir_session_pins_total{reason=\"hidden\"}"), 0.0);
}

/// The server does that only while nobody is connected: neither clients, who have left, nor pgweir for their sake.
#[tokio::test]
async fn a_database_that_its_clients_have_left_can_be_renamed_copied_and_dropped() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let proxy = Proxy::for_shared_cluster("").await;
    let (renamed, copied) = (format!("{}_renamed", database.name), format!("{} Copied", database.name));
    let admin = proxy.connect("postgres").await;
    for (name, statement) in [
        (&database.name, format!("ALTER DATABASE {} RENAME TO {renamed}", database.name)),
        (&renamed, format!("CREATE DATABASE \"{copied}\" TEMPLATE {renamed}")),
        (&copied, format!("DROP DATABASE \"{copied}\"")),
        (&renamed, format!("ALTER DATABASE {renamed} RENAME TO {}", database.name)),
    ] {
        let client = proxy.connect(name).await;
        for _ in 0..20 {
            assert_eq!(client.query("SELECT x FROM t", &[]).await.unwrap().len(), 1);
        }
        drop(client);
        admin.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{statement}: {}", chain(&error)));
    }
    // Who is connected to it is not disturbed.
    let client = proxy.connect(&database.name).await;
    client.batch_execute("BEGIN").await.unwrap();
    let refused = admin.batch_execute(&format!("DROP DATABASE {}", database.name)).await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "55006");
    client.batch_execute("COMMIT").await.unwrap();
}

/// PostgreSQL ends a session that says goodbye at once, whatever it waits for: so does its server connection.
#[tokio::test]
async fn a_goodbye_in_the_middle_of_something_holds_no_connection() {
    let stage = Stage::set("CREATE TABLE t (x int); GRANT ALL ON t TO PUBLIC").await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 1\nqueue_timeout = \"5s\"").await).await;
    let endpoint = stage.endpoint(proxy.port);
    let goodbye = vec![b'X', 0, 0, 0, 4];
    for (what, messages, tag) in [
        ("COPY data are awaited", vec![say::query("COPY t FROM STDIN")], b'G'),
        (
            "a batch has no end",
            vec![say::parse("", "SELECT 1"), say::bind("", "", &[]), say::execute("", 0), say::flush()],
            b'C',
        ),
        ("a transaction is open", vec![say::query("BEGIN; LOCK t")], b'Z'),
    ] {
        let mut leaving = RawClient::welcome(&endpoint).await;
        leaving.send(&messages.concat()).await.unwrap();
        let (_, end) = leaving.reader.until(tag, 1).await;
        assert_eq!(end, None, "{what}");
        leaving.send(&goodbye).await.unwrap();
        drop(leaving);
        let mut other = RawClient::welcome(&endpoint).await;
        assert_eq!(other.rows("SELECT count(*) FROM t").await, ["0"], "{what}");
    }
}
