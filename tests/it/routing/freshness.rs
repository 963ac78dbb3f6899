//! What a session may see of what was written, while a standby is held back.

use std::time::Duration;

use super::fixture::Fixture;
use super::talk::{pipeline, value};
use crate::support::eventually;

const SCHEMA: &str = "CREATE TABLE t AS SELECT 0 AS x";
const READ: &str = "SELECT x FROM t";

#[tokio::test]
async fn a_session_reads_its_own_writes_and_others_read_on() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let (writer, reader) = (fixture.connect().await, fixture.connect().await);
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    for round in 1..=20 {
        writer.batch_execute(&format!("UPDATE t SET x = {round}")).await.unwrap();
        assert_eq!(value(&writer, READ).await, round.to_string());
        assert_eq!(value(&reader, READ).await, "0", "a session that has not written reads from the replica");
    }
    // The last one of these is a write by the extended protocol and its commit.
    writer.batch_execute("BEGIN; UPDATE t SET x = 21; COMMIT").await.unwrap();
    assert_eq!(value(&writer, READ).await, "21");
    let statement = writer.prepare("UPDATE t SET x = 22").await.unwrap();
    writer.execute(&statement, &[]).await.unwrap();
    assert_eq!(value(&writer, READ).await, "22");
    let both = ["UPDATE t SET x = 23".to_owned(), READ.to_owned()];
    assert_eq!(pipeline(&writer, &both).await.unwrap(), [[Some("23".to_owned())]]);
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    returns_to_replica(&fixture, &writer, "23").await;
}

#[tokio::test]
async fn a_write_hidden_in_a_function_or_a_block_counts() {
    let schema = "CREATE TABLE t AS SELECT 0 AS x;
        CREATE FUNCTION bump() RETURNS void LANGUAGE plpgsql AS 'BEGIN UPDATE t SET x = x + 1; END';
        CREATE PROCEDURE bump_twice() LANGUAGE plpgsql AS 'BEGIN UPDATE t SET x = x + 1; COMMIT; PERFORM bump(); END'";
    let fixture = Fixture::start(1, schema, "", "").await;
    let writer = fixture.connect().await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    for (sql, expected) in [
        ("SELECT bump()", "1"),
        ("DO $$ BEGIN PERFORM bump(); END $$", "2"),
        ("CALL bump_twice()", "4"),
        ("WITH w AS (UPDATE t SET x = x + 1 RETURNING x) SELECT * FROM w", "5"),
        ("EXPLAIN ANALYZE UPDATE t SET x = x + 1", "6"),
        ("PREPARE up AS UPDATE t SET x = x + 1", "6"),
        ("EXECUTE up", "7"),
    ] {
        writer.batch_execute(sql).await.unwrap();
        assert_eq!(value(&writer, READ).await, expected, "{sql}");
    }
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
}

#[tokio::test]
async fn eventual_reads_what_the_replica_has() {
    let fixture = Fixture::start(1, SCHEMA, "", "consistency = \"eventual\"").await;
    let writer = fixture.connect().await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    writer.batch_execute("UPDATE t SET x = 1").await.unwrap();
    assert_eq!(value(&writer, READ).await, "0");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    eventually("the replica has it", async || value(&writer, READ).await == "1").await;
}

#[tokio::test]
async fn a_tenant_reads_what_any_of_its_sessions_wrote() {
    let fixture = Fixture::start(1, SCHEMA, "", "consistency = \"tenant\"").await;
    let (writer, reader) = (fixture.connect().await, fixture.connect().await);
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    for round in 1..=20 {
        writer.batch_execute(&format!("UPDATE t SET x = {round}")).await.unwrap();
        assert_eq!(value(&reader, READ).await, round.to_string());
    }
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    returns_to_replica(&fixture, &reader, "20").await;
}

#[tokio::test]
async fn a_replica_that_is_too_stale_takes_no_reads() {
    let fixture = Fixture::start(1, SCHEMA, "", "max_staleness = \"1s\"").await;
    let (writer, reader) = (fixture.connect().await, fixture.connect().await);
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    writer.batch_execute("UPDATE t SET x = 1").await.unwrap();
    eventually("nobody reads what is older than that", async || value(&reader, READ).await == "1").await;
    for _ in 0..20 {
        assert_eq!(value(&reader, READ).await, "1");
    }
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    returns_to_replica(&fixture, &reader, "1").await;
}

/// What a session has to see may be said for a tenant, by the session at its start or later, and for a statement.
#[tokio::test]
async fn consistency_is_a_matter_of_the_tenant_the_session_or_the_statement() {
    let tenants = "[tiers.standard]
        consistency = \"eventual\"
        [tiers.strict]
        consistency = \"session\"
        [[tenants]]
        name = \"acme\"
        tier = \"strict\"
        match = { option = \"acme\" }";
    let fixture = Fixture::start(1, SCHEMA, tenants, "").await;
    let lax = fixture.connect().await;
    let at_start = |option: &str| format!("{}?options=-c%20pgweir.{option}", fixture.url());
    let strict = crate::support::connect(&at_start("tenant%3Dacme")).await;
    let asked = crate::support::connect(&at_start("consistency%3Dtenant")).await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    for (round, (client, sees)) in [(&lax, false), (&strict, true), (&asked, true)].into_iter().enumerate() {
        let written = (round + 1).to_string();
        client.batch_execute(&format!("UPDATE t SET x = {written}")).await.unwrap();
        let read = value(client, READ).await;
        assert_eq!(read == written, sees, "client {round} reads {read}");
    }
    // Said with SET it holds until it is said otherwise, or the transaction in which it was said is undone.
    lax.batch_execute("UPDATE t SET x = 10").await.unwrap();
    for (sql, sees) in [
        ("SET pgweir.consistency = 'session'", true),
        ("BEGIN; SET pgweir.consistency = 'eventual'; ROLLBACK", true),
        ("SET pgweir.consistency TO Eventual", false),
        ("SELECT set_config('pgweir.consistency', 'tenant', false)", true),
        ("RESET ALL", false),
    ] {
        lax.batch_execute(sql).await.unwrap();
        assert_eq!(value(&lax, READ).await == "10", sees, "{sql}");
    }
    // Said in a comment it holds for the statement.
    assert_eq!(value(&lax, &format!("/* pgweir: consistency=session */ {READ}")).await, "10");
    assert_eq!(value(&lax, READ).await, "0");
    assert_eq!(value(&strict, &format!("{READ} -- pgweir: replica, consistency=eventual")).await, "0");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
}

#[tokio::test]
async fn a_wrong_consistency_is_refused() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    for (sql, code) in [
        ("SET pgweir.consistency = 'sometimes'", "22023"),
        ("SELECT set_config('pgweir.consistency', 'sometimes', false)", "22023"),
        ("SET pgweir.consistancy = 'session'", "42602"),
        ("SET pgweir.tenant = 'acme'", "42501"),
    ] {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(super::talk::sqlstate(&error), code, "{sql}");
    }
    assert_eq!(value(&client, READ).await, "0");
    let url = format!("{}?options=-c%20pgweir.consistency%3Dsometimes", fixture.url());
    let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().expect("it is refused");
    assert_eq!(super::talk::sqlstate(&error), "22023");
}

/// What a session has read it does not miss in its next read, though the other replica is behind and has less to do.
#[tokio::test]
async fn a_session_never_goes_back_in_time() {
    let fixture = Fixture::start(2, SCHEMA, "", "").await;
    let (writer, reader) = (fixture.connect().await, fixture.connect().await);
    let behind = &fixture.sandbox.replicas()[1];
    behind.pause_replay().await.unwrap();
    writer.batch_execute("UPDATE t SET x = 1").await.unwrap();
    eventually("the other replica shows it", async || value(&reader, READ).await == "1").await;
    // Reads that keep the replica busy that is ahead.
    let mut busy = Vec::new();
    for _ in 0..3 {
        let client = fixture.connect().await;
        client.batch_execute("SET pgweir.consistency = 'session'").await.unwrap();
        client.batch_execute("UPDATE t SET x = 1").await.unwrap();
        busy.push(tokio::spawn(async move {
            for _ in 0..30 {
                client.simple_query("/* pgweir: replica */ SELECT pg_sleep(0.02)").await.unwrap();
            }
        }));
    }
    for round in 0..200 {
        assert_eq!(value(&reader, READ).await, "1", "read {round}");
        tokio::time::sleep(Duration::from_millis(round % 5)).await;
    }
    for client in busy {
        client.await.unwrap();
    }
    behind.resume_replay().await.unwrap();
}

/// Each of its reads on the primary shows what no replica is known to show yet; and yet it gets away from there.
#[tokio::test]
async fn a_session_that_never_pauses_returns_to_a_replica_after_a_write() {
    let fixture = Fixture::start(1, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    for round in 1..=5 {
        client.batch_execute(&format!("UPDATE t SET x = {round}")).await.unwrap();
        let mut watch = fixture.watch();
        eventually("the session reads from the replica again", async || {
            assert_eq!(value(&client, READ).await, round.to_string());
            watch.take().on_a_standby(READ)
        })
        .await;
    }
}

#[tokio::test]
async fn where_it_is_asked_for_a_read_waits_until_a_replica_shows_it() {
    let fixture = Fixture::start(1, SCHEMA, "", "freshness_wait = \"60s\"").await;
    let client = fixture.connect().await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    client.batch_execute("UPDATE t SET x = 1").await.unwrap();
    let mut watch = fixture.watch();
    let mut read = std::pin::pin!(value(&client, READ));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut read).await;
    assert!(early.is_err(), "it waits for the replica, and reads {early:?}");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
    assert_eq!(read.await, "1");
    let seen = watch.take();
    assert!(seen.on_a_standby(READ) && !seen.on_primary(READ));
}

/// The session reads from the replica again once that has replayed what it wrote.
async fn returns_to_replica(fixture: &Fixture, client: &tokio_postgres::Client, expected: &str) {
    eventually("the session reads from the replica again", async || {
        let mut watch = fixture.watch();
        assert_eq!(value(client, READ).await, expected);
        tokio::time::sleep(Duration::from_millis(5)).await;
        watch.take().on_a_standby(READ)
    })
    .await;
}
