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
