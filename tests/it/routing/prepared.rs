//! Prepared statements while server connections change hands.

use super::fixture::Fixture;
use super::talk::{sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{say, shared_cluster};

/// One server connection for everybody.
const ONE_CONNECTION: &str = "[pool]\nsize = 1";
const SCHEMA: &str = "CREATE TABLE t AS SELECT 1 AS x";

#[tokio::test]
async fn many_clients_share_few_connections() {
    let fixture = Fixture::start(1, SCHEMA, "[pool]\nsize = 2", "").await;
    let mut clients = Vec::new();
    for number in 0..12_i32 {
        let client = fixture.connect().await;
        clients.push(tokio::spawn(async move {
            // The drivers' names for these are the same in every client, the statements are not.
            let own = client.prepare(&format!("SELECT {number} + $1::int4")).await.unwrap();
            let shared = client.prepare("SELECT $1::int4 * 2").await.unwrap();
            let write = client.prepare("INSERT INTO t VALUES ($1) RETURNING x").await.unwrap();
            for round in 0..20 {
                assert_eq!(client.query_one(&own, &[&round]).await.unwrap().get::<_, i32>(0), number + round);
                assert_eq!(client.query_one(&shared, &[&round]).await.unwrap().get::<_, i32>(0), round * 2);
                assert_eq!(client.query_one(&write, &[&round]).await.unwrap().get::<_, i32>(0), round);
            }
        }));
    }
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(fixture.sql("SELECT count(*) FROM t").await, "241");
}

#[tokio::test]
async fn a_change_of_the_schema_between_executions_does_not_show() {
    let fixture = Fixture::start(1, SCHEMA, ONE_CONNECTION, "").await;
    let (client, owner) = (fixture.connect().await, fixture.connect().await);
    let direct = fixture.direct().await;
    for (round, past_the_proxy) in [false, true, false, true].into_iter().enumerate() {
        let statement = client.prepare("SELECT * FROM t WHERE x = $1").await.unwrap();
        client.query(&statement, &[&1_i32]).await.unwrap();
        let change = format!("ALTER TABLE t ADD c{round} int");
        if past_the_proxy { &direct } else { &owner }.batch_execute(&change).await.unwrap();
        fixture.sandbox.wait_replayed().await.unwrap();
        let rows = client.query_raw(&statement, [1_i32]).await;
        assert!(rows.is_ok(), "{change}: {:?}", rows.err());
        let again =
            client.query(&client.prepare("SELECT * FROM t WHERE x = $1").await.unwrap(), &[&1_i32]).await.unwrap();
        assert_eq!(again[0].len(), round + 2, "{change}");
    }
}

#[tokio::test]
async fn inside_a_transaction_a_changed_plan_is_the_clients_to_see() {
    let fixture = Fixture::start(0, SCHEMA, "", "").await;
    let client = fixture.connect().await;
    let statement = client.prepare("SELECT * FROM t").await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    client.batch_execute("BEGIN").await.unwrap();
    client.query(&statement, &[]).await.unwrap();
    client.batch_execute("ALTER TABLE t ADD y int").await.unwrap();
    let refused = client.query(&statement, &[]).await.unwrap_err();
    assert_eq!(sqlstate(&refused), "0A000");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(client.query(&statement, &[]).await.unwrap()[0].len(), 1);
}

#[tokio::test]
async fn statements_beyond_the_cache_are_prepared_again() {
    let more = "[pool]\nsize = 1\nprepared_cache = \"16KiB\"";
    let fixture = Fixture::start(0, SCHEMA, more, "").await;
    let client = fixture.connect().await;
    let mut statements = Vec::new();
    for number in 0..60_i32 {
        statements.push((number, client.prepare(&format!("SELECT {number} + $1::int4")).await.unwrap()));
    }
    for round in 0..3 {
        for (number, statement) in &statements {
            assert_eq!(client.query_one(statement, &[&round]).await.unwrap().get::<_, i32>(0), number + round);
        }
    }
    let kept: u32 = value(&client, "SELECT count(*) FROM pg_prepared_statements").await.parse().unwrap();
    // Each costs about half a KiB besides its text.
    assert!((2..=32).contains(&kept), "{kept} are prepared on the server");
    assert!(fixture.proxy.metric("pgweir_prepared_statement_misses_total") >= 180.0);
}

#[tokio::test]
async fn a_parse_that_failed_is_not_remembered() {
    let fixture = Fixture::start(1, SCHEMA, ONE_CONNECTION, "").await;
    let (client, other) = (fixture.connect().await, fixture.connect().await);
    for sql in ["SELECT x FROM later", "INSERT INTO later VALUES (1)"] {
        for client in [&client, &other] {
            assert_eq!(sqlstate(&client.prepare(sql).await.unwrap_err()), "42P01", "{sql}");
        }
    }
    fixture.sql("CREATE TABLE later (x int)").await;
    for client in [&client, &other] {
        let write = client.prepare("INSERT INTO later VALUES (1)").await.unwrap();
        assert_eq!(client.execute(&write, &[]).await.unwrap(), 1);
        let read = client.prepare("SELECT x FROM later").await.unwrap();
        assert!(!client.query(&read, &[]).await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn a_client_that_closes_a_statement_leaves_it_to_others() {
    let fixture = Fixture::start(1, SCHEMA, ONE_CONNECTION, "").await;
    let (client, other) = (fixture.connect().await, fixture.connect().await);
    let kept = other.prepare("SELECT x FROM t WHERE x = $1").await.unwrap();
    for _ in 0..5 {
        let closed = client.prepare("SELECT x FROM t WHERE x = $1").await.unwrap();
        client.query(&closed, &[&1_i32]).await.unwrap();
        drop(closed);
        assert_eq!(other.query(&kept, &[&1_i32]).await.unwrap().len(), 1);
    }
    client.batch_execute("DEALLOCATE ALL").await.unwrap();
    assert_eq!(other.query(&kept, &[&1_i32]).await.unwrap().len(), 1);
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_eq!(other.query(&kept, &[&1_i32]).await.unwrap().len(), 1);
}

/// Nobody has seen these functions write before they do, on a replica, behind a `Parse` that has succeeded there.
#[tokio::test]
async fn a_batch_that_runs_again_prepares_its_statement_again() {
    let stage = Stage::set(SCHEMA).await;
    stage.database.sql(&format!("GRANT ALL ON t TO {}", stage.user)).await;
    let proxy = Proxy::start(&stage.config("").await).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let healed = "pgweir_routing_decisions_total{target=\"primary\",reason=\"healed\"}";
    for round in 0..5 {
        let body = "INSERT INTO t VALUES (2) RETURNING x";
        stage.database.sql(&format!("CREATE FUNCTION writes{round}() RETURNS int LANGUAGE sql AS '{body}'")).await;
        shared_cluster().await.wait_replayed().await.unwrap();
        let (name, call) = (format!("s{round}"), format!("SELECT writes{round}()"));
        let batch = [say::parse(&name, &call), say::bind("", &name, &[]), say::execute("", 0), say::sync()].concat();
        client.send(&batch).await.unwrap();
        let (frames, end) = client.until_ready(1).await;
        assert_eq!((end, tags(&frames)), (None, "12DCZ".to_owned()), "{frames:?}");
        client.send(&say::again(&name, &[])).await.unwrap();
        let (frames, end) = client.until_ready(1).await;
        assert_eq!((end, tags(&frames)), (None, "2DCZ".to_owned()), "{frames:?}");
    }
    assert!(proxy.metric(healed) > 0.0, "none of them was tried on a replica");
    assert_eq!(stage.database.sql("SELECT count(*) FROM t").await.trim(), "11");
}

fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}
