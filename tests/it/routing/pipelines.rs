//! Batches that are sent before the one ahead of them is answered, while that fails, runs again or prepares for others:
//! raw bytes through one or two server connections.

use std::time::Duration;

use super::fixture::{DATABASE, Fixture};
use crate::support::raw::{Endpoint, Frame, RawClient};
use crate::support::{eventually, say};

const ONE_CONNECTION: &str = "[pool]\nsize = 1";
/// For replicas to show what a session has just written or read.
const CATCH_UP: Duration = Duration::from_millis(300);

async fn client(fixture: &Fixture) -> RawClient {
    RawClient::welcome(&endpoint(fixture)).await
}

fn endpoint(fixture: &Fixture) -> Endpoint {
    Endpoint { port: fixture.proxy.port, user: "postgres".to_owned(), database: DATABASE.to_owned() }
}

/// Sends messages in one write. Tags up to the `ready`th `ReadyForQuery`, with SQLSTATEs, rows and commands.
async fn talk(client: &mut RawClient, messages: &[Vec<u8>], ready: usize) -> String {
    client.send(&messages.concat()).await.unwrap();
    let (frames, end) = client.until_ready(ready).await;
    assert_eq!(end, None, "after {}", shown(&frames));
    shown(&frames)
}

fn shown(frames: &[Frame]) -> String {
    let text = |frame: &Frame| match frame.tag {
        b'E' => format!("E({})", frame.sqlstate().unwrap_or_default()),
        b'D' => format!("D({})", frame.values().into_iter().flatten().collect::<Vec<_>>().join(",")),
        tag => char::from(tag).to_string(),
    };
    frames.iter().map(text).collect::<Vec<_>>().join(" ")
}

fn parse_and_describe(name: &str, sql: &str) -> Vec<Vec<u8>> {
    vec![say::parse(name, sql), say::describe_statement(name), say::sync()]
}

fn fails() -> Vec<u8> {
    say::bind("", "nosuch", &[])
}

#[tokio::test]
async fn what_comes_behind_a_batch_that_runs_again_is_not_lost() {
    let fixture =
        Fixture::start(1, "CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE w (x int)", ONE_CONNECTION, "").await;
    let (mut other, mut own) = (client(&fixture).await, client(&fixture).await);
    let sql = "SELECT * FROM t";
    for (behind, expected) in [("SELECT 2", "1 2 D(2) C Z"), ("INSERT INTO w VALUES (1)", "1 2 C Z")] {
        // The replica's connection makes something else of it than the client is told on the primary.
        talk(&mut other, &parse_and_describe("s", sql), 1).await;
        talk(&mut other, &[say::again("s", &[])], 1).await;
        fixture.sql("ALTER TABLE t ADD b int DEFAULT 7").await;
        fixture.sandbox.wait_replayed().await.unwrap();
        talk(&mut own, &[say::query("BEGIN")], 1).await;
        talk(&mut own, &parse_and_describe("s", sql), 1).await;
        talk(&mut own, &[say::query("COMMIT")], 1).await;
        tokio::time::sleep(CATCH_UP).await;
        let seen = talk(&mut own, &[say::again("s", &[]), say::batch(behind, &[])], 2).await;
        assert_eq!(seen, format!("2 D(1,7) C Z {expected}"));
        fixture.sql("ALTER TABLE t DROP b").await;
        for client in [&mut other, &mut own] {
            talk(client, &[say::close_statement("s"), say::sync()], 1).await;
        }
    }
    // On the primary: a plan that is out of date, while another statement is being looked at.
    let mut narrow = client(&fixture).await;
    let in_transaction = "/* pgweir: primary */ SELECT * FROM t";
    talk(&mut narrow, &[say::parse("a", in_transaction), say::sync()], 1).await;
    talk(&mut narrow, &[say::again("a", &[])], 1).await;
    talk(&mut narrow, &parse_and_describe("b", "/* pgweir: primary */ SELECT 1, * FROM t"), 1).await;
    fixture.sql("ALTER TABLE t ADD c int DEFAULT 8").await;
    let both = [
        say::bind("", "a", &[]),
        say::execute("", 0),
        say::bind("", "b", &[]),
        say::execute("", 0),
        say::sync(),
        say::batch("INSERT INTO w VALUES (2)", &[]),
    ];
    let seen = talk(&mut narrow, &both, 2).await;
    assert!(seen.ends_with("Z 1 2 C Z"), "{seen}");
}

#[tokio::test]
async fn whoever_describes_and_flushes_is_answered() {
    let fixture = Fixture::start(1, "", ONE_CONNECTION, "").await;
    let (mut one, _) = RawClient::start(&endpoint(&fixture), &[("application_name", "one")]).await;
    let (mut two, _) = RawClient::start(&endpoint(&fixture), &[("application_name", "two")]).await;
    talk(&mut one, &[say::query("SELECT 1")], 1).await;
    for name in ["x", ""] {
        let asked = [say::parse(name, "SELECT 2"), say::describe_statement(name), say::flush()];
        two.send(&asked.concat()).await.unwrap();
        let (frames, end) = two.reader.until(b'T', 1).await;
        assert_eq!((shown(&frames).as_str(), end), ("1 t T", None));
        assert_eq!(talk(&mut two, &[say::again(name, &[])], 1).await, "2 D(2) C Z");
        talk(&mut one, &[say::query("SELECT 1")], 1).await;
    }
}

#[tokio::test]
async fn a_name_means_what_it_means_to_the_server_after_an_error_ahead() {
    let fixture = Fixture::start(0, "CREATE TABLE w (x int)", ONE_CONNECTION, "").await;
    let insert = "INSERT INTO w VALUES (1)";
    let mut holder = client(&fixture).await;
    talk(&mut holder, &[say::parse("b", insert), say::sync()], 1).await;
    let mut own = client(&fixture).await;
    let skipped = [fails(), say::parse("b", insert), say::sync(), say::again("b", &[])];
    assert_eq!(talk(&mut own, &skipped, 2).await, "E(26000) Z E(26000) Z");
    assert_eq!(fixture.sql("SELECT count(*) FROM w").await, "0");
}

#[tokio::test]
async fn the_unnamed_statement_of_another_is_nobodys_after_an_error_ahead() {
    let fixture = Fixture::start(0, "", ONE_CONNECTION, "").await;
    let (mut one, mut two) = (client(&fixture).await, client(&fixture).await);
    for (own, expected) in [("SELECT 1", "E(26000) Z 2 D(1) C Z"), ("", "E(26000) Z E(26000) Z")] {
        if own.is_empty() {
            talk(&mut one, &[say::close_statement(""), say::sync()], 1).await;
        } else {
            talk(&mut one, &[say::parse("", own), say::sync()], 1).await;
        }
        talk(&mut two, &[say::batch("SELECT 'secret'", &[])], 1).await;
        let tried = [fails(), say::bind("", "", &[]), say::sync(), say::again("", &[])];
        assert_eq!(talk(&mut one, &tried, 2).await, expected, "{own}");
    }
}

#[tokio::test]
async fn rows_that_a_driver_does_not_know_are_not_sent_to_it() {
    let schema = "CREATE TABLE t AS SELECT 1 AS a; CREATE TABLE u AS SELECT 2 AS a";
    let fixture = Fixture::start(1, schema, ONE_CONNECTION, "").await;
    let mut own = client(&fixture).await;
    talk(&mut own, &parse_and_describe("s", "SELECT * FROM t"), 1).await;
    talk(&mut own, &parse_and_describe("r", "SELECT * FROM u"), 1).await;
    fixture.sql("ALTER TABLE t ADD b int; ALTER TABLE u ADD b int").await;
    fixture.sandbox.wait_replayed().await.unwrap();
    // Another portal of the batch is described.
    let described = [say::bind("", "", &[]), say::describe_portal(""), say::execute("", 0), say::sync()].concat();
    let mixed = [say::bind("", "s", &[]), say::execute("", 0), say::parse("", "SELECT 5"), described.clone()];
    assert_eq!(talk(&mut own, &mixed, 1).await, "E(0A000) Z");
    // What would have been described behind an error was not.
    let behind = [say::bind("", "s", &[]), say::execute("", 0), say::describe_statement("r"), say::sync()];
    assert_eq!(talk(&mut own, &behind, 1).await, "E(0A000) Z");
    assert_eq!(talk(&mut own, &[say::again("r", &[])], 1).await, "E(0A000) Z");
    let late = [say::bind("", "r", &[]), say::execute("", 0), say::describe_statement("r"), say::sync()];
    assert_eq!(talk(&mut own, &late, 1).await, "E(0A000) Z");
    // Whoever asks for the rows with the portal gets them as they are.
    let asks = [say::bind("", "s", &[]), say::describe_portal(""), say::execute("", 0), say::sync()];
    assert_eq!(talk(&mut own, &asks, 1).await, "2 T D(1) C Z");
}

/// A batch goes where the one before it is only if it would go there by itself.
#[tokio::test]
async fn reads_behind_a_read_see_what_they_have_to_see() {
    let fixture = Fixture::start(1, "CREATE TABLE t (x int)", "", "").await;
    let count = "SELECT count(*) FROM t";
    let (mut own, mut other) = (client(&fixture).await, client(&fixture).await);
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    talk(&mut own, &[say::query("INSERT INTO t VALUES (1)")], 1).await;
    let lax = format!("/* pgweir: consistency=eventual */ {count}");
    let both = [say::query(&lax), say::query(count)];
    assert_eq!(talk(&mut own, &both, 2).await, "T D(0) C Z T D(1) C Z");
    let both = [say::batch(&lax, &[]), say::batch(count, &[])];
    assert_eq!(talk(&mut own, &both, 2).await, "1 2 D(0) C Z 1 2 D(1) C Z");
    let hinted = [say::query(count), say::query(&format!("/* pgweir: primary */ {count}"))];
    assert_eq!(talk(&mut other, &hinted, 2).await, "T D(0) C Z T D(1) C Z");
    let mut third = client(&fixture).await;
    let strict = [say::query("SELECT 1"), say::query(&format!("/* pgweir: consistency=tenant */ {count}"))];
    assert_eq!(talk(&mut third, &strict, 2).await, "T D(1) C Z T D(1) C Z");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
}

/// What a replica cannot run yet runs on the primary, also where more is waiting behind it.
#[tokio::test]
async fn a_read_is_healed_with_others_behind_it() {
    let fixture = Fixture::start(1, "CREATE TABLE w (x int)", "", "").await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    fixture.sql("CREATE TABLE late AS SELECT 1 AS a").await;
    let mut own = client(&fixture).await;
    let both = [say::batch("SELECT a FROM late", &[]), say::query("INSERT INTO w VALUES (1)")];
    assert_eq!(talk(&mut own, &both, 2).await, "1 2 D(1) C Z C Z");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
}

/// Of reads that were sent together those run again from the first on that a standby cannot run, and no other.
#[tokio::test]
async fn a_read_is_healed_behind_others() {
    let fixture = Fixture::start(1, "", ONE_CONNECTION, "").await;
    let replica = &fixture.sandbox.replicas()[0];
    let mut own = client(&fixture).await;
    talk(&mut own, &parse_and_describe("w", "SELECT 7"), 1).await;
    for round in 0..3 {
        let table = format!("late{round}");
        replica.pause_replay().await.unwrap();
        fixture.sql(&format!("CREATE TABLE {table} AS SELECT 5 AS a")).await;
        let name = format!("s{round}");
        let pipeline = [
            say::batch("SELECT 1", &[]),
            say::again("w", &[]),
            say::parse(&name, &format!("SELECT a FROM {table}")),
            say::again(&name, &[]),
            say::close_statement("w"),
            say::parse("w", "SELECT 8"),
            say::sync(),
            say::batch("SELECT 3", &[]),
            say::again("w", &[]),
            say::again(&name, &[]),
        ];
        let mut watch = fixture.watch();
        let expected = "1 2 D(1) C Z 2 D(7) C Z 1 2 D(5) C Z 3 1 Z 1 2 D(3) C Z 2 D(8) C Z 2 D(5) C Z";
        assert_eq!(talk(&mut own, &pipeline, 7).await, expected, "round {round}");
        let seen = watch.take();
        assert!(seen.on_standby(1, "SELECT 1") && !seen.on_primary("SELECT 1"), "round {round}");
        assert!(seen.on_standby(1, &table) && seen.on_primary(&table), "round {round}");
        talk(&mut own, &[say::close_statement("w"), say::parse("w", "SELECT 7"), say::sync()], 1).await;
        assert_eq!(talk(&mut own, &[say::again("w", &[])], 1).await, "2 D(7) C Z");
        replica.resume_replay().await.unwrap();
        fixture.sandbox.wait_replayed().await.unwrap();
        tokio::time::sleep(CATCH_UP).await;
    }
}

/// A standby that goes while it works on the second of three: the first is not asked again.
#[tokio::test]
async fn a_read_behind_others_survives_its_standby() {
    let fixture = Fixture::start(1, "", ONE_CONNECTION, "").await;
    let replica = &fixture.sandbox.replicas()[0];
    let mut own = client(&fixture).await;
    let mut watch = fixture.watch();
    let pipeline = [say::batch("SELECT 11", &[]), say::query("SELECT 12, pg_sleep(1)"), say::batch("SELECT 13", &[])];
    own.send(&pipeline.concat()).await.unwrap();
    eventually("the second is at work", async || watch.take().on_standby(1, "SELECT 12")).await;
    replica.kill9().await.unwrap();
    let (frames, end) = own.until_ready(3).await;
    assert_eq!((shown(&frames).as_str(), end), ("1 2 D(11) C Z T D(12,) C Z 1 2 D(13) C Z", None));
    let seen = watch.take();
    assert!(!seen.on_primary("SELECT 11") && seen.on_primary("SELECT 12") && seen.on_primary("SELECT 13"));
}

/// A batch that is run again binds what it has bound before.
#[tokio::test]
async fn a_batch_that_runs_again_finds_the_unnamed_statement_as_it_was() {
    let fixture = Fixture::start(1, "CREATE TABLE t AS SELECT 'WRONG' AS a", "", "").await;
    let mut own = client(&fixture).await;
    talk(&mut own, &[say::parse("", "SELECT 'right'"), say::sync()], 1).await;
    fixture.sandbox.replicas()[0].pause_replay().await.unwrap();
    fixture.sql("CREATE TABLE late AS SELECT 'WRONG' AS a").await;
    let batch = [
        say::bind("p", "", &[]),
        say::parse("", "SELECT a FROM late"),
        say::bind("", "", &[]),
        say::execute("", 0),
        say::execute("p", 0),
        say::sync(),
    ];
    assert_eq!(talk(&mut own, &batch, 1).await, "2 1 2 D(WRONG) C D(right) C Z");
    fixture.sandbox.replicas()[0].resume_replay().await.unwrap();
}

/// What `FETCH` returns is a matter of the cursor that has the name at the time.
#[tokio::test]
async fn a_fetch_has_the_rows_of_its_cursor() {
    let fixture = Fixture::start(0, "", "[pool]\nsize = 2", "").await;
    let (mut own, mut blocker) = (client(&fixture).await, client(&fixture).await);
    talk(&mut own, &[say::query("BEGIN; DECLARE c CURSOR FOR SELECT 1")], 1).await;
    talk(&mut own, &parse_and_describe("f", "FETCH ALL FROM c"), 1).await;
    assert_eq!(talk(&mut own, &[say::again("f", &[])], 1).await, "2 D(1) C Z");
    talk(&mut own, &[say::query("COMMIT")], 1).await;
    talk(&mut blocker, &[say::query("BEGIN")], 1).await;
    talk(&mut own, &[say::query("BEGIN; DECLARE c CURSOR FOR SELECT 2, 'two'")], 1).await;
    assert_eq!(talk(&mut own, &[say::again("f", &[])], 1).await, "2 D(2,two) C Z");
    talk(&mut own, &[say::query("COMMIT")], 1).await;
}
