//! Prepared statements while server connections change hands.

use tokio_postgres::types::Type;

use super::fixture::{DATABASE, Fixture};
use super::talk::{sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Endpoint, Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{chain, say, shared_cluster};

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

/// Nobody notices a change that leaves his rows as they were. Where they have become others, a driver that was told
/// of them would misread them: it is told what PostgreSQL tells it, and all goes well when it prepares again.
#[tokio::test]
async fn a_change_of_the_schema_shows_where_it_changes_the_rows() {
    let fixture = Fixture::start(1, SCHEMA, ONE_CONNECTION, "").await;
    let (client, owner) = (fixture.connect().await, fixture.connect().await);
    let direct = fixture.direct().await;
    let narrow = client.prepare("SELECT x FROM t WHERE x = $1").await.unwrap();
    for (round, past_the_proxy) in [false, true, false, true].into_iter().enumerate() {
        let star = client.prepare("SELECT * FROM t WHERE x = $1").await.unwrap();
        client.query(&star, &[&1_i32]).await.unwrap();
        let change = format!("ALTER TABLE t ADD c{round} int");
        if past_the_proxy { &direct } else { &owner }.batch_execute(&change).await.unwrap();
        fixture.sandbox.wait_replayed().await.unwrap();
        let rows = client.query(&narrow, &[&1_i32]).await;
        assert_eq!(rows.map(|rows| rows[0].len()).map_err(|error| chain(&error)), Ok(1), "{change}");
        for _ in 0..2 {
            let refused = client.query(&star, &[&1_i32]).await.unwrap_err();
            let error = refused.as_db_error().unwrap_or_else(|| panic!("{}", chain(&refused)));
            assert_eq!((error.code().code(), error.routine()), ("0A000", Some("RevalidateCachedQuery")), "{change}");
        }
        let again = client.prepare("SELECT * FROM t WHERE x = $1").await.unwrap();
        assert_eq!(client.query(&again, &[&1_i32]).await.unwrap()[0].len(), round + 2, "{change}");
        // Drivers that are told of the rows with each answer cannot be misled.
        let (port, user, database) = (fixture.proxy.port, "postgres".to_owned(), DATABASE.to_owned());
        let mut raw = RawClient::welcome(&Endpoint { port, user, database }).await;
        let anew = [say::bind("", "s", &["1"]), say::describe_portal(""), say::execute("", 0), say::sync()].concat();
        raw.send(&[say::parse("s", "SELECT * FROM t WHERE x = $1"), anew.clone()].concat()).await.unwrap();
        assert_eq!(tags(&raw.until_ready(1).await.0), "12TDCZ", "{change}");
        fixture.sql(&format!("ALTER TABLE t ALTER c{round} TYPE text")).await;
        fixture.sandbox.wait_replayed().await.unwrap();
        raw.send(&anew).await.unwrap();
        assert_eq!(tags(&raw.until_ready(1).await.0), "2TDCZ", "{change}");
    }
}

/// A connection that parses a statement only now may make of it something else than its client was told of, whether
/// or not anybody has noticed yet that the schema has changed.
#[tokio::test]
async fn a_statement_is_what_its_client_was_told_on_every_connection() {
    for (change, sql) in [
        ("ALTER TABLE t ADD y int DEFAULT 7", "SELECT * FROM t WHERE x = $1"),
        ("ALTER TABLE t ALTER x TYPE int8", "SELECT 1 FROM t WHERE x = $1"),
    ] {
        for replicas in [0, 1] {
            let fixture = Fixture::start(replicas, SCHEMA, "[pool]\nsize = 2", "").await;
            let (client, blocker) = (fixture.connect().await, fixture.connect().await);
            let statement = client.prepare(sql).await.unwrap();
            client.query(&statement, &[&1_i32]).await.unwrap();
            // Takes the only connection there is.
            blocker.batch_execute("BEGIN READ ONLY").await.unwrap();
            blocker.batch_execute("SELECT 1").await.unwrap();
            fixture.sql(change).await;
            fixture.sandbox.wait_replayed().await.unwrap();
            let refused = client.query(&statement, &[&1_i32]).await.unwrap_err();
            let error = refused.as_db_error().unwrap_or_else(|| panic!("{change}: {}", chain(&refused)));
            assert_eq!((error.code().code(), error.routine()), ("0A000", Some("RevalidateCachedQuery")), "{change}");
            blocker.batch_execute("COMMIT").await.unwrap();
            let again = client.prepare(sql).await.unwrap();
            let rows = match again.params() {
                [Type::INT8] => client.query(&again, &[&1_i64]).await,
                _ => client.query(&again, &[&1_i32]).await,
            };
            assert_eq!(rows.map_err(|error| chain(&error)).unwrap().len(), 1, "{change}");
        }
    }
}

/// What one connection has prepared while the schema was another is nothing to go by.
#[tokio::test]
async fn a_schema_that_is_what_it_was_shows_on_every_connection() {
    let fixture = Fixture::start(0, SCHEMA, "[pool]\nsize = 2", "").await;
    let (client, other) = (fixture.connect().await, fixture.connect().await);
    let statement = client.prepare("SELECT x AS z FROM t WHERE x = 1").await.unwrap();
    assert_eq!(client.query(&statement, &[]).await.unwrap().len(), 1);
    // The connection on which that was.
    other.batch_execute("BEGIN; SELECT 1").await.unwrap();
    for _ in 0..2 {
        client.batch_execute("ALTER TABLE t ALTER x TYPE bigint").await.unwrap();
        assert_eq!(sqlstate(&client.query(&statement, &[]).await.unwrap_err()), "0A000");
        client.batch_execute("ALTER TABLE t ALTER x TYPE int").await.unwrap();
        assert_eq!(client.query(&statement, &[]).await.map_err(|error| chain(&error)).unwrap().len(), 1);
    }
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(client.query(&statement, &[]).await.unwrap().len(), 1);
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
    // Well hidden, the question is answered for the server connection, and not for the client's own names.
    let peek = "CREATE FUNCTION peek() RETURNS int LANGUAGE plpgsql AS
        $$ DECLARE n int; BEGIN EXECUTE 'SELECT count(*) FROM pg_prepared_' || 'statements' INTO n; RETURN n; END $$";
    fixture.sql(peek).await;
    let kept: u32 = value(&client, "SELECT peek()").await.parse().unwrap();
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
    let mut round = 0;
    // Until one of them is tried before the catalog has been read again, and a few more.
    while round < 5 || proxy.metric(healed) == 0.0 {
        assert!(round < 200, "none of them was tried on a replica");
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
        round += 1;
    }
    assert_eq!(stage.database.sql("SELECT count(*) FROM t").await.trim(), (2 * round + 1).to_string());
}

fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}
