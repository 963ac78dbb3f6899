//! Explicit transactions, hints, and functions that are new.

use std::time::Duration;

use super::fixture::Fixture;
use super::talk::{Way, prepared_rows, rows, run, sqlstate, value};
use crate::support::{chain, eventually};

const SCHEMA: &str = "CREATE TABLE t AS SELECT 1 AS x; CREATE TABLE log (msg text);
    CREATE FUNCTION here() RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'none' $$;
    CREATE FUNCTION dynamic(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END'";

/// No statement: replicas catch up meanwhile.
const PAUSE: &str = "";

/// Where the last statement with this mark ran.
#[derive(Debug, PartialEq)]
enum Ran {
    OnPrimary,
    OnStandby,
}
use Ran::{OnPrimary, OnStandby};

/// Runs statements on one session; where the marked one among them ran.
async fn place(fixture: &Fixture, statements: &[&str], marked: &str) -> Ran {
    fixture.wait_for_reads().await;
    let client = fixture.connect().await;
    let mut watch = fixture.watch();
    for sql in statements {
        if *sql == PAUSE {
            // What `SET` says is a write of the session's for all that the proxy knows.
            tokio::time::sleep(Duration::from_millis(200)).await;
            continue;
        }
        rows(&client, sql).await.unwrap_or_else(|error| panic!("{sql}: {}", chain(&error)));
    }
    let seen = watch.take();
    match (seen.on_primary(marked), seen.on_a_standby(marked)) {
        (true, false) => OnPrimary,
        (false, true) => OnStandby,
        both => panic!("{statements:?}: (on the primary, on a standby) = {both:?}"),
    }
}

#[tokio::test]
async fn a_transaction_runs_where_its_beginning_allows() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    for (before, begin, expected) in [
        ("", "BEGIN", OnPrimary),
        ("", "START TRANSACTION", OnPrimary),
        ("", "BEGIN ISOLATION LEVEL REPEATABLE READ", OnPrimary),
        ("", "BEGIN READ ONLY", OnStandby),
        ("", "START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY", OnStandby),
        ("", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY", OnPrimary),
        ("", "BEGIN ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE", OnPrimary),
        ("SET default_transaction_read_only = on", "BEGIN", OnStandby),
        ("SET default_transaction_read_only = on", "BEGIN READ WRITE", OnPrimary),
        ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", "BEGIN", OnStandby),
        ("SET default_transaction_isolation = serializable", "BEGIN READ ONLY", OnPrimary),
    ] {
        let statements = [before, PAUSE, begin, "SELECT x FROM t", "COMMIT"];
        assert_eq!(place(&fixture, &statements, "SELECT x FROM t").await, expected, "{before}; {begin}");
    }
}

#[tokio::test]
async fn a_read_only_transaction_on_a_standby_is_whole() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    let mut watch = fixture.watch();
    let refused = client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25006");
    let refused = client.batch_execute("SELECT x FROM t").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    let seen = watch.take();
    assert!(seen.on_a_standby("INSERT INTO t VALUES (2)") && !seen.on_primary("INSERT INTO t VALUES (2)"));
}

/// There a client may ask which server process it has, and does not keep it.
#[tokio::test]
async fn a_server_process_of_a_standby_is_told_and_not_kept() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    client.batch_execute("BEGIN READ ONLY; SELECT x FROM t; SELECT pg_backend_pid(); COMMIT").await.unwrap();
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    client.batch_execute("SELECT x FROM t").await.unwrap();
    client.batch_execute("SELECT pg_backend_pid()").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();
}

/// Where nothing has run yet in a read-only transaction, a statement that a standby would answer otherwise or not at
/// all takes it to the primary.
#[tokio::test]
async fn a_read_only_transaction_moves_to_the_primary_before_its_first_statement() {
    let more = "CREATE UNLOGGED TABLE unlogged AS SELECT 7 AS x; CREATE SEQUENCE counter";
    let fixture = Fixture::start(1, &format!("{SCHEMA}; {more}"), "", "").await;
    let port = fixture.sandbox.primary().port.to_string();
    for (begin, first, expected) in [
        ("BEGIN READ ONLY", "SELECT pg_is_in_recovery()", "f"),
        ("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", "SELECT current_setting('port')", port.as_str()),
        ("START TRANSACTION READ ONLY", "SHOW transaction_read_only", "on"),
        ("BEGIN READ ONLY", "SELECT x FROM unlogged", "7"),
        ("BEGIN READ ONLY", "SELECT last_value FROM counter", "1"),
        ("BEGIN READ ONLY", "SELECT pg_try_advisory_xact_lock(1)", "t"),
    ] {
        for way in [Way::Simple, Way::Unnamed, Way::Named] {
            let client = fixture.connect().await;
            client.batch_execute("SET application_name = 'mover'").await.unwrap();
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut watch = fixture.watch();
            run(&client, way, begin, &[]).await.unwrap();
            run(&client, way, first, &[]).await.unwrap_or_else(|error| panic!("{first}: {}", chain(&error)));
            let seen = watch.take();
            assert!(
                seen.on_a_standby(begin) && seen.on_primary(first) && !seen.on_a_standby(first),
                "{begin}; {way:?}"
            );
            assert_eq!(value(&client, first).await, expected, "{begin}; {first}; {way:?}");
            for (setting, expected) in [
                ("transaction_read_only", "on"),
                (
                    "transaction_isolation",
                    if begin.contains("REPEATABLE") { "repeatable read" } else { "read committed" },
                ),
                ("application_name", "mover"),
            ] {
                assert_eq!(value(&client, &format!("SHOW {setting}")).await, expected, "{begin}; {first}; {way:?}");
            }
            client.batch_execute("COMMIT").await.unwrap();
        }
    }
    let client = fixture.connect().await;
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    client.batch_execute("SET TRANSACTION READ WRITE").await.unwrap();
    client.batch_execute("INSERT INTO log VALUES ('moved')").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&fixture.direct().await, "SELECT count(*) FROM log WHERE msg = 'moved'").await, "1");
    // Once something has run there it stays where it is.
    fixture.wait_for_reads().await;
    let client = fixture.connect().await;
    client.batch_execute("BEGIN READ ONLY").await.unwrap();
    let mut watch = fixture.watch();
    client.batch_execute("SELECT x FROM t").await.unwrap();
    assert_eq!(value(&client, "SELECT pg_is_in_recovery()").await, "t");
    assert!(watch.take().on_a_standby("SELECT x FROM t"));
}

/// What only one server connection has would keep the session on it, and all that it writes.
#[tokio::test]
async fn no_session_is_left_on_a_standby() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    for keeps in ["PREPARE kept AS SELECT 1", "DECLARE kept CURSOR WITH HOLD FOR SELECT 1"] {
        for first in [None, Some("SELECT x FROM t")] {
            let client = fixture.connect().await;
            client.batch_execute("BEGIN READ ONLY").await.unwrap();
            if let Some(first) = first {
                client.batch_execute(first).await.unwrap();
            }
            let kept = client.batch_execute(keeps).await;
            match first {
                Some(_) => assert_eq!(sqlstate(&kept.unwrap_err()), "0A000", "{keeps}"),
                None => kept.unwrap_or_else(|error| panic!("{keeps}: {}", chain(&error))),
            }
            client.batch_execute("COMMIT").await.unwrap();
            client.batch_execute("INSERT INTO log VALUES ('after')").await.unwrap();
        }
    }
}

#[tokio::test]
async fn hints_are_obeyed() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    for (sql, expected) in [
        ("/* pgweir: primary */ SELECT x FROM t", OnPrimary),
        ("SELECT x /* pgweir: primary */ FROM t", OnPrimary),
        ("/* pgweir: replica */ SELECT x FROM t", OnStandby),
        ("/* pgweir: replica */ SELECT pg_is_in_recovery()", OnStandby),
        ("SELECT pg_is_in_recovery()", OnPrimary),
        ("/* pgweir: replica */ INSERT INTO log VALUES ('hinted')", OnPrimary),
        ("/* pgweir: replica */ SELECT pg_advisory_xact_lock(7)", OnPrimary),
        // It may leave something in the session, which then would have to stay there.
        ("/* pgweir: replica */ SELECT dynamic('SELECT 1')", OnPrimary),
    ] {
        assert_eq!(place(&fixture, &[sql], sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn a_function_that_begins_to_write_never_reaches_a_standby() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let change = "CREATE OR REPLACE FUNCTION here() RETURNS text VOLATILE LANGUAGE sql
        AS $$ INSERT INTO log VALUES ('new') RETURNING msg $$";
    let block = format!("DO $do$ BEGIN {change}; END $do$");
    for (way, change) in [(Way::Simple, change), (Way::Unnamed, change), (Way::Named, change), (Way::Simple, &block)] {
        fixture.sql("CREATE OR REPLACE FUNCTION here() RETURNS text STABLE LANGUAGE sql AS $$ SELECT 'none' $$").await;
        fixture.wait_for_reads().await;
        let (owner, other) = (fixture.connect().await, fixture.connect().await);
        let mut watch = fixture.watch();
        run(&owner, way, "SELECT here() AS before", &[]).await.unwrap();
        owner.batch_execute(change).await.unwrap();
        run(&owner, way, "SELECT here() AS own", &[]).await.unwrap();
        run(&other, way, "SELECT here() AS others", &[]).await.unwrap();
        let seen = watch.take();
        assert!(!seen.on_a_standby("AS own") && !seen.on_a_standby("AS others"), "{way:?}");
        assert!(seen.on_primary("AS own") && seen.on_primary("AS others"), "{way:?}");
    }
    assert_eq!(value(&fixture.direct().await, "SELECT count(*) FROM log WHERE msg = 'new'").await, "8");
}

/// The net under the classifier: the standby has announced the columns of its answer when it refuses.
#[tokio::test]
async fn what_a_standby_refuses_after_all_runs_on_the_primary() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let writing = "CREATE OR REPLACE FUNCTION here() RETURNS text LANGUAGE sql
        AS $$ INSERT INTO log VALUES ('healed') RETURNING msg $$";
    fixture.sql(writing).await;
    for way in [Way::Simple, Way::Unnamed, Way::Named] {
        // One that has not written yet.
        let client = fixture.connect().await;
        let mut watch = fixture.watch();
        let hinted = format!("/* pgweir: replica */ SELECT here() AS healed_{way:?}");
        run(&client, way, &hinted, &[]).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        let seen = watch.take();
        assert!(seen.on_a_standby(&hinted) && seen.on_primary(&hinted), "{way:?}");
        // The replica is not asked again, whoever asks.
        let other = fixture.connect().await;
        run(&other, way, &hinted, &[]).await.unwrap();
        let seen = watch.take();
        assert!(!seen.on_a_standby(&hinted) && seen.on_primary(&hinted), "{way:?}");
    }
    assert_eq!(value(&fixture.direct().await, "SELECT count(*) FROM log WHERE msg = 'healed'").await, "6");
    let counted = |reason: &str| {
        fixture.proxy.metric(&format!("pgweir_routing_decisions_total{{target=\"primary\",reason=\"{reason}\"}}"))
    };
    // The named one is prepared there as well.
    assert_eq!((counted("healed"), counted("refused")), (3.0, 4.0));
}

/// What the primary refuses as well says nothing of replicas.
#[tokio::test]
async fn what_every_server_refuses_is_not_remembered() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    for way in [Way::Simple, Way::Unnamed, Way::Named] {
        let client = fixture.connect().await;
        let refused = run(&client, way, "SELECT date_trunc('timezone', now())", &[]).await.unwrap_err();
        assert_eq!(refused.code().unwrap().code(), "0A000", "{way:?}");
        assert_eq!(
            place(&fixture, &["SELECT date_trunc('day', now())"], "date_trunc('day'").await,
            OnStandby,
            "{way:?}"
        );
    }
}

/// A standby cancels whoever reads what it is about to remove. The primary knows no such conflict.
#[tokio::test]
async fn a_read_that_conflicts_with_recovery_runs_on_the_primary() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let replica = &fixture.sandbox.replicas()[0];
    replica.psql("ALTER SYSTEM SET max_standby_streaming_delay = '50ms'").await.unwrap();
    replica.psql("SELECT pg_reload_conf()").await.unwrap();
    for way in [Way::Simple, Way::Unnamed, Way::Named] {
        let client = fixture.connect().await;
        let mut watch = fixture.watch();
        let sql = format!("/* pgweir: replica */ SELECT x, pg_sleep(1) FROM t AS t_{way:?}");
        let mut read = std::pin::pin!(run(&client, way, &sql, &[]));
        eventually("it runs on the standby", async || {
            let _ = tokio::time::timeout(Duration::from_millis(5), &mut read).await;
            watch.take().on_a_standby(&sql)
        })
        .await;
        fixture.sql("BEGIN; LOCK TABLE t; COMMIT").await;
        read.await.unwrap_or_else(|error| panic!("{way:?}: {}", chain(&error)));
        assert!(watch.take().on_primary(&sql), "{way:?}");
    }
}

/// `EXPLAIN ROUTE` in each way of asking says where the statement goes next, and runs nothing of it.
#[tokio::test]
async fn explain_route_says_where_and_why() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    for (statement, host, reason) in [
        ("SELECT x FROM t", "replica1 (replica)", "read: it only reads"),
        ("SELECT x FROM t FOR UPDATE", "primary (primary)", "row_lock: "),
        ("INSERT INTO t VALUES ('it''s \\ 2')", "primary (primary)", "write: "),
        ("/* pgweir: primary */ SELECT 1", "primary (primary)", "hint_primary: "),
        ("BEGIN READ ONLY", "replica1 (replica)", "read_only_transaction: "),
        ("SELEC", "primary (primary)", "unknown_statement: "),
    ] {
        let sql = format!("EXPLAIN ROUTE {statement}");
        let simple = rows(&client, &sql).await.unwrap();
        let prepared = client.prepare(&sql).await.unwrap();
        let named = prepared_rows(&client, &prepared, &[]).await.unwrap();
        let unnamed = client.query_typed(&sql, &[]).await.unwrap();
        assert_eq!((simple.len(), named.len(), unnamed.len()), (6, 6, 6), "{statement}");
        for rows in [&simple, &named] {
            assert_eq!(rows[0], [Some("host".to_owned()), Some(host.to_owned())], "{statement}");
            assert!(rows[1][1].as_ref().is_some_and(|found| found.starts_with(reason)), "{statement}: {rows:?}");
        }
        assert_eq!(unnamed[0].get::<_, String>("value"), host, "{statement}");
    }
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    client.batch_execute("UPDATE t SET x = 2").await.unwrap();
    let why = rows(&client, "EXPLAIN ROUTE SELECT x FROM t").await.unwrap();
    assert!(why[1][1].as_ref().is_some_and(|reason| reason.starts_with("not_fresh: ")), "{why:?}");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    let why = rows(&client, "explain route SELECT x FROM t").await.unwrap();
    assert!(why[1][1].as_ref().is_some_and(|reason| reason.starts_with("in_transaction: ")), "{why:?}");
    client.batch_execute("ROLLBACK").await.unwrap();
}

#[tokio::test]
async fn a_prepared_statement_is_judged_again_when_its_function_changes() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    let statement = client.prepare("SELECT here() AS again").await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    let change = "CREATE OR REPLACE FUNCTION here() RETURNS text VOLATILE LANGUAGE sql
        AS $$ INSERT INTO log VALUES ('again') RETURNING msg $$";
    fixture.connect().await.batch_execute(change).await.unwrap();
    let mut watch = fixture.watch();
    client.query(&statement, &[]).await.unwrap();
    assert!(!watch.take().on_a_standby("AS again"));
}
