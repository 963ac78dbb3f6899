//! What a tenant's statements and transactions may take, and the ways around that which do not lead anywhere.

use std::time::{Duration, Instant};

use crate::support::primary_only::{proxy, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{connect, eventually, fresh_database, say, shared_cluster};

const SCHEMA: &str = "CREATE TABLE t (x int); INSERT INTO t VALUES (1); GRANT ALL ON t TO PUBLIC;
    CREATE FUNCTION unbound() RETURNS text LANGUAGE sql SET statement_timeout = 0 AS 'SELECT pg_sleep(60)::text';
    CREATE FUNCTION lifted() RETURNS void LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('statement_timeout', '0', false); PERFORM pg_sleep(60); END $$;
    CREATE PROCEDURE commits() LANGUAGE plpgsql AS
    $$ BEGIN SET statement_timeout = 0; COMMIT; PERFORM pg_sleep(60); END $$;
    CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NEW; END $$;
    CREATE TABLE triggered (x int); GRANT ALL ON triggered TO PUBLIC;
    CREATE TRIGGER slow BEFORE INSERT ON triggered FOR EACH ROW EXECUTE FUNCTION slow();
    CREATE VIEW sleepers AS SELECT pg_sleep(60)::text AS x; GRANT SELECT ON sleepers TO PUBLIC;
    CREATE FUNCTION stubborn() RETURNS int LANGUAGE plpgsql AS $$ BEGIN LOOP
    BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
    CREATE FUNCTION secretive(code text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE code; END $$;
    CREATE FUNCTION stubborn_too() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM stubborn(); RETURN NEW; END $$;
    CREATE FUNCTION lift() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN PERFORM set_config('statement_timeout', '0', false); RETURN NEW; END $$;
    CREATE TABLE lifting (x int); GRANT ALL ON lifting TO PUBLIC;
    CREATE TRIGGER lift BEFORE INSERT ON lifting FOR EACH ROW EXECUTE FUNCTION lift();
    CREATE TABLE guarded (x int); GRANT ALL ON guarded TO PUBLIC;
    CREATE TRIGGER stubborn BEFORE INSERT ON guarded FOR EACH ROW EXECUTE FUNCTION stubborn_too()";

/// Seconds for which the server's own view may show what is over a ceiling.
const OVER: f64 = 0.25;
/// The bound is for a test that would hang.
const PATIENCE: Duration = Duration::from_secs(30);
/// Machines are busy: what is shown for longer every time is.
const TRIES: usize = 5;

/// The longest for which the server's own view, by its own clock, shows what `over` says since `since`.
async fn longest(database: &str, over: &str, since: &str, during: impl Future<Output = ()>) -> f64 {
    let primary = shared_cluster().await.primary();
    let direct = connect(&primary.url("postgres", "postgres")).await;
    let shown = format!(
        "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - {since})), 0)::float8 FROM pg_stat_activity \
         WHERE datname = '{database}' AND pid <> pg_backend_pid() AND {over}"
    );
    let (mut during, mut longest) = (std::pin::pin!(during), 0.0_f64);
    let mut over = false;
    loop {
        let now: f64 = direct.query_one(&shown, &[]).await.unwrap().get(0);
        longest = longest.max(now);
        if over && now == 0.0 {
            return longest;
        }
        if over {
            tokio::time::sleep(Duration::from_millis(2)).await;
        } else {
            over = tokio::time::timeout(Duration::from_millis(2), &mut during).await.is_ok();
        }
    }
}

const MANY: &str = "ROLLBACK TO s; SELECT pg_sleep(60); SELECT; SELECT; SELECT; SELECT; SELECT; SELECT; SELECT; SELECT; SELECT; SELECT";
const MADE: &str =
    "CREATE FUNCTION pg_temp.made() RETURNS text LANGUAGE sql SET statement_timeout = 0 AS 'SELECT pg_sleep(60)::text'";

/// `pg_sleep(60)` by its number, without any text.
fn fast_path() -> Vec<u8> {
    const PG_SLEEP: u32 = 2626;
    say::function_call(PG_SLEEP, &[Some(&60_f64.to_be_bytes())])
}

/// `set_config(…, '0', false)` by its number.
pub fn set_config(name: &str) -> Vec<u8> {
    const SET_CONFIG: u32 = 2078;
    say::function_call(SET_CONFIG, &[Some(name.as_bytes()), Some(b"0"), Some(&[0])])
}

/// What is sent, each when what was sent before is answered; the last sleeps for a minute.
fn ways() -> Vec<Vec<Vec<u8>>> {
    let texts = |texts: &[&str]| texts.iter().map(|text| say::query(text)).collect::<Vec<_>>();
    let made_and_called = format!("{MADE}; SELECT pg_temp.made()");
    let mut ways: Vec<_> = [
        &["SELECT pg_sleep(60)"][..],
        &["SET statement_timeout = 0", "SELECT pg_sleep(60)"],
        &["SET SESSION statement_timeout TO '1h'", "SELECT pg_sleep(60)"],
        &["SET statement_timeout = 0; SELECT pg_sleep(60)"],
        &["BEGIN", "SET LOCAL statement_timeout = 0", "SELECT pg_sleep(60)"],
        &["BEGIN; SET LOCAL statement_timeout = 0; SELECT pg_sleep(60)"],
        &["BEGIN", "SAVEPOINT s; SET LOCAL statement_timeout = 0", "ROLLBACK TO s; SELECT pg_sleep(60)"],
        &["SELECT set_config('statement_timeout', '0', false)", "SELECT pg_sleep(60)"],
        &["SELECT set_config('statement_timeout', '0', false), pg_sleep(60)"],
        &["BEGIN", "SELECT set_config('statement_timeout', '0', true)", "SELECT pg_sleep(60)"],
        &["WITH lifted AS MATERIALIZED (SELECT set_config('statement_timeout', '0', false)) SELECT pg_sleep(60) FROM lifted"],
        &["UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'", "SELECT pg_sleep(60)"],
        &["RESET statement_timeout", "SELECT pg_sleep(60)"],
        &["RESET ALL", "SELECT pg_sleep(60)"],
        &["DISCARD ALL", "SELECT pg_sleep(60)"],
        &["SET statement_timeout TO DEFAULT", "SELECT pg_sleep(60)"],
        &["SELECT unbound()"],
        &["SELECT lifted()"],
        &["CALL commits()"],
        &["DO $$ BEGIN PERFORM set_config('statement_timeout', '0', false); PERFORM pg_sleep(60); END $$"],
        &["DO $$ BEGIN EXECUTE 'SET statement_timeout = 0'; COMMIT; PERFORM pg_sleep(60); END $$"],
        &["DO $$ BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN PERFORM pg_sleep(60); END $$"],
        &["COPY t FROM STDIN /* and then asleep */"],
        &["DO $$ BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN SQLSTATE '57014' THEN NULL; END; END LOOP; END $$"],
        &["SELECT stubborn()"],
        &["SELECT secretive('SELECT stubborn()')"],
        &["INSERT INTO guarded VALUES (1)"],
        &["BEGIN", "SELECT stubborn()"],
        &["SELECT pg_sleep(0.2); SELECT pg_sleep(0.2); SELECT pg_sleep(60)"],
        &["INSERT INTO triggered VALUES (1)"],
        &["SELECT * FROM sleepers"],
        &["COPY (SELECT pg_sleep(60)) TO STDOUT"],
        &["CREATE TEMP TABLE made AS SELECT pg_sleep(60)::text"],
        &["EXPLAIN ANALYZE SELECT pg_sleep(60)"],
        &["PREPARE p AS SELECT pg_sleep(60)", "SET statement_timeout = 0", "EXECUTE p"],
        &["BEGIN; DECLARE c CURSOR FOR SELECT pg_sleep(60)", "SET LOCAL statement_timeout = 0; FETCH c"],
        &["CREATE TEMP TABLE mine ()", "SET statement_timeout = 0", "SELECT pg_sleep(60)"],
        &["SET ROLE none", "SET statement_timeout = 0", "SELECT pg_sleep(60)"],
        &["BEGIN; SET LOCAL statement_timeout = 0; SAVEPOINT s", MANY],
        &["INSERT INTO lifting VALUES (1); SELECT pg_sleep(60); SELECT; SELECT; SELECT; SELECT; SELECT; SELECT; SELECT"],
        &["BEGIN", MADE, "SELECT pg_temp.made()"],
        &["BEGIN; SET LOCAL statement_timeout = 0", &made_and_called],
    ]
    .iter()
    .map(|way| texts(way))
    .collect();
    let sleep = say::batch("SELECT pg_sleep(60)", &[]);
    ways.push(vec![sleep.clone()]);
    ways.push(vec![say::batch("SET statement_timeout = 0", &[]), sleep.clone()]);
    // One batch, and batches that do not wait for each other.
    ways.push(vec![[say::run("SET statement_timeout = 0", &[]), sleep.clone()].concat()]);
    ways.push(vec![[say::run("BEGIN", &[]), say::run("SET LOCAL statement_timeout = 0", &[]), sleep.clone()].concat()]);
    ways.push(vec![fast_path()]);
    ways.push(vec![set_config("statement_timeout"), sleep.clone()]);
    // Too long to be looked at.
    let padding = "x".repeat(30_000);
    ways.push(texts(&[&format!("SET statement_timeout = 0; SELECT pg_sleep(60) /* {padding} */")]));
    ways.push(texts(&["BEGIN", &format!("SET LOCAL statement_timeout = 0 /* {padding} */"), "SELECT pg_sleep(60)"]));
    ways.push(vec![say::query("SET statement_timeout = 0"), fast_path()]);
    ways.push(vec![say::query("BEGIN; SET LOCAL statement_timeout = 0"), fast_path()]);
    // Row by row.
    let rows = "SELECT pg_sleep(0.2) FROM generate_series(1, 300)";
    ways.push(vec![[say::parse("", rows), say::bind("", "", &[]), say::execute("", 0), say::sync()].concat()]);
    ways
}

fn code(frames: &[Frame]) -> Option<String> {
    frames.iter().find_map(Frame::sqlstate)
}

#[tokio::test]
async fn no_way_leads_around_the_ceiling_of_a_statement() {
    const CEILING: &str = "[tiers.standard]\nstatement_timeout = \"300ms\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    for way in ways() {
        let runs = "state IN ('active', 'fastpath function call') AND application_name NOT LIKE 'pgweir %'";
        // A fast-path call does not move `query_start`.
        let since = "CASE state WHEN 'active' THEN query_start ELSE state_change END";
        cut_off(&stage, &proxy, &way, &["57014"], [runs, since], 0.3).await;
    }
}

/// In a database of which it is not known that it has such code.
#[tokio::test]
async fn nor_does_code_that_is_made_up_and_catches_its_cancellation() {
    const CEILING: &str = "[tiers.standard]\nstatement_timeout = \"1s\"\n[pool]\nsize = 5\n";
    const RUNS: &str = "CREATE FUNCTION run(code text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE code; END $$";
    const CATCHES: &str =
        "BEGIN LOOP BEGIN PERFORM pg_sleep(60); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END";
    let stage = Stage::set(RUNS).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    // The catalog is there.
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    client.send(&say::query("SELECT run('SELECT 1')")).await.unwrap();
    assert!(code(&client.until_ready(1).await.0).is_none());
    let numbered = CATCHES.replace("query_canceled", "SQLSTATE '57014'");
    let block = format!("DO $x$ {CATCHES} $x$");
    let makes = |name: &str| format!("CREATE FUNCTION {name}() RETURNS void LANGUAGE plpgsql AS $f$ {CATCHES} $f$");
    let traps = "CREATE FUNCTION pg_temp.traps() RETURNS trigger LANGUAGE plpgsql AS \
                 $f$ BEGIN PERFORM made(); RETURN NEW; END $f$; CREATE TEMP TABLE t (id int); \
                 CREATE TRIGGER traps BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION pg_temp.traps()";
    for way in [
        vec![say::query(&format!("SELECT run('{block}')"))],
        vec![say::query(&format!("SELECT run($r$DO $x$ {numbered} $x$$r$)"))],
        vec![say::batch("SELECT run($1)", &[&block])],
        vec![say::query("BEGIN"), say::query(&makes("made")), say::query("SELECT made()")],
        vec![say::query(&format!("{}; SELECT made()", makes("made")))],
        vec![
            say::query("BEGIN"),
            say::query(&makes("made")),
            say::query(traps),
            say::query("INSERT INTO t VALUES (1)"),
        ],
    ] {
        cut_off(
            &stage,
            &proxy,
            &way,
            &["57014"],
            ["state = 'active' AND application_name NOT LIKE 'pgweir %'", "query_start"],
            1.0,
        )
        .await;
    }
}

fn shown(way: &[Vec<u8>]) -> String {
    way.iter().map(|bytes| String::from_utf8_lossy(bytes)).collect::<Vec<_>>().join(" | ")
}

/// Holds that a way around a ceiling, in seconds, ends with one of these errors, and that the server is done with it in
/// time. `over` says what is over it, and since when.
async fn cut_off(stage: &Stage, proxy: &Proxy, way: &[Vec<u8>], codes: &[&str], over: [&str; 2], ceiling: f64) {
    cut_off_with("", stage, proxy, way, codes, over, ceiling).await;
}

/// The same of a client that says `options` at its startup.
pub async fn cut_off_with(
    options: &str,
    stage: &Stage,
    proxy: &Proxy,
    way: &[Vec<u8>],
    codes: &[&str],
    over: [&str; 2],
    ceiling: f64,
) {
    let (what, mut longer) = (format!("{options} {}", shown(way)), Vec::new());
    while longer.len() < TRIES && longer.iter().all(|longer| *longer > OVER) {
        let (mut client, greeting) = RawClient::start(&stage.endpoint(proxy.port), &[("options", options)]).await;
        assert_eq!(greeting.last().and_then(Frame::status), Some(b'I'), "{what}: {greeting:?}");
        let began = Instant::now();
        let (last, first) = way.split_last().unwrap();
        for bytes in first {
            client.send(bytes).await.unwrap();
            let (frames, end) = client.until_ready(1).await;
            assert!(end.is_none() && code(&frames).is_none(), "{what}: {frames:?}");
        }
        let mut ended = false;
        let cut_off = async {
            client.send(last).await.unwrap();
            let error = loop {
                let (frames, end) = tokio::time::timeout(PATIENCE, client.until_ready(1)).await.expect(&what);
                ended = end.is_some();
                match frames.iter().find(|frame| frame.tag == b'E') {
                    Some(error) => break error.clone(),
                    None => assert!(!ended, "{what}: {frames:?}"),
                }
            };
            assert!(error.sqlstate().is_some_and(|code| codes.contains(&&*code)), "{what}: {error:?}");
            let told = error.field(b'D').is_some_and(|detail| detail.contains("tenant \"default\""));
            assert!(told || error.sqlstate().as_deref() != Some("57014"), "{what}: {error:?}");
        };
        longer.push(longest(&stage.database.name, over[0], over[1], cut_off).await - ceiling);
        let took = began.elapsed().as_secs_f64();
        assert!(took > ceiling - 0.01, "{what}: cut off after {took} s");
        // Whoever was only cancelled goes on.
        if !ended {
            client.send(&say::query("ROLLBACK; SELECT 'goes on'")).await.unwrap();
            let goes_on = |frame: &Frame| frame.tag == b'D' && frame.values() == [Some("goes on".to_owned())];
            loop {
                let (frames, end) = tokio::time::timeout(PATIENCE, client.until_ready(1)).await.expect(&what);
                if frames.iter().any(goes_on) {
                    break;
                }
                assert!(end.is_none(), "{what}: it does not go on: {frames:?}");
            }
        }
    }
    assert!(longer.iter().any(|longer| *longer <= OVER), "{what}: the server shows it for so much longer: {longer:?}");
}

/// Which statements of a database are running, or wait for the next one of their transaction.
async fn open(database: &str) -> String {
    let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{database}' AND xact_start IS NOT NULL");
    shared_cluster().await.primary().psql(&sql).await.unwrap().trim().to_owned()
}

#[tokio::test]
async fn a_transaction_ends_at_its_ceiling_whatever_goes_on_in_it() {
    let stage = Stage::set(SCHEMA).await;
    for mode in ["transaction", "session"] {
        let more = format!("[tiers.standard]\ntransaction_timeout = \"400ms\"\n[pool]\nmode = \"{mode}\"\nsize = 2\n");
        let proxy = Proxy::start(&stage.config(&more).await).await;
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        // Short ones are nothing to it, however many.
        for _ in 0..5 {
            client.rows("BEGIN; UPDATE t SET x = x; SELECT pg_sleep(0.1); COMMIT").await;
        }
        client.rows("BEGIN; UPDATE t SET x = x").await;
        let frames = client.query("SELECT pg_sleep(60)").await;
        assert_eq!(code(&frames).as_deref(), Some("57014"), "{frames:?}");
        let error = frames.iter().find(|frame| frame.tag == b'E').unwrap();
        assert_eq!(error.field(b'M').as_deref(), Some("canceling statement due to transaction timeout"));
        assert!(error.field(b'D').unwrap().contains("tenant \"default\" is 400 ms"), "{error:?}");
        // A transaction that has failed is in nobody's way.
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert_eq!(frames.last().unwrap().status(), Some(b'E'));
        assert_eq!(code(&client.query("ROLLBACK").await), None);
        assert_eq!(client.rows("SELECT 1").await, ["1"]);

        // In small pieces, and with nothing at all.
        client.rows("BEGIN").await;
        let ended = loop {
            let (sent, pause) = (client.send(&say::query("SELECT pg_sleep(0.05)")).await, Duration::from_millis(20));
            let (frames, end) = client.until_ready(1).await;
            match (sent, code(&frames), end) {
                (Ok(()), None, None) => tokio::time::sleep(pause).await,
                (_, code, _) => break code,
            }
        };
        assert!(matches!(ended.as_deref(), Some("57014" | "25P04")), "{ended:?}");
        let mut idle = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        idle.rows("BEGIN; UPDATE t SET x = x").await;
        let (frames, end) = idle.until_ready(1).await;
        assert_eq!((code(&frames).as_deref(), end.is_some()), (Some("25P04"), true), "{frames:?}");
        assert_eq!(frames[0].field(b'S').as_deref(), Some("FATAL"));
        eventually("nothing is open on the server", async || open(&stage.database.name).await == "0").await;
    }
}

/// The first row of a portal, in a batch that does not end.
fn fetched() -> Vec<u8> {
    let rows = "SELECT generate_series(1, 10)";
    [say::parse("", rows), say::bind("", "", &[]), say::execute("", 1), say::flush()].concat()
}

#[tokio::test]
async fn no_way_leads_around_the_ceiling_of_a_transaction() {
    const CEILING: &str = "[tiers.standard]\ntransaction_timeout = \"400ms\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let begin = say::query("BEGIN; UPDATE t SET x = x");
    let sleep = || say::query("SELECT pg_sleep(60)");
    let text = |text: &str| say::query(text);
    let run = |sql: &str| say::run(sql, &[]);
    for way in [
        vec![sleep()],
        vec![begin.clone(), sleep()],
        vec![begin.clone(), fast_path()],
        vec![text("BEGIN; UPDATE t SET x = x; SELECT pg_sleep(60)")],
        vec![
            begin.clone(),
            text("SET LOCAL statement_timeout = 0; SET idle_in_transaction_session_timeout = 0"),
            sleep(),
        ],
        vec![begin.clone(), text("SAVEPOINT s"), text("ROLLBACK TO s; SELECT pg_sleep(60)")],
        vec![begin.clone(), text("SELECT pg_sleep(0.1)").repeat(20)],
        vec![text("DO $$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM pg_sleep(0.1); END LOOP; END $$")],
        vec![text("SELECT stubborn()")],
        vec![begin.clone(), text("INSERT INTO guarded VALUES (1)")],
        vec![begin.clone(), text("COPY t FROM STDIN")],
        vec![begin.clone(), text("CREATE TEMP TABLE mine (x int)"), sleep()],
        // Nothing runs.
        vec![begin.clone(), vec![]],
        vec![text("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 10)"), text("FETCH c"), vec![]],
        // The server waits for the end of the batch.
        vec![[run("UPDATE t SET x = x"), say::flush()].concat()],
        vec![begin.clone(), [run("SELECT 1"), say::flush()].concat()],
        vec![fetched()],
    ] {
        // One that has failed is in nobody's way.
        let over = ["xact_start IS NOT NULL AND state NOT LIKE '%(aborted)'", "xact_start"];
        cut_off(&stage, &proxy, &way, &["57014", "25P04"], over, 0.4).await;
    }
    // One that fails again and again, and goes on from a savepoint.
    let long = text(&format!("SAVEPOINT s /* {} */", "x".repeat(30_000)));
    let prepared = vec![unnamed_savepoint(), say::again("b", &[]), say::again("", &[])];
    let at_once = |savepoint| vec![begin.clone(), savepoint];
    for opening in [at_once(text("SAVEPOINT s")), at_once(long), prepared] {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        for message in opening {
            client.send(&message).await.unwrap();
            let (frames, end) = client.until_ready(1).await;
            assert!(end.is_none() && code(&frames).is_none(), "{frames:?}");
        }
        let ended = async {
            loop {
                for sql in ["SELECT 1/0", "ROLLBACK TO s; SELECT pg_sleep(0.05)"] {
                    let sent = client.send(&say::query(sql)).await;
                    let (frames, end) = client.until_ready(1).await;
                    match code(&frames) {
                        Some(code) if code != "22012" => return code,
                        _ => assert!(sent.is_ok() && end.is_none(), "{frames:?}"),
                    }
                }
            }
        };
        let ended = tokio::time::timeout(PATIENCE, ended).await.expect("it goes on for ever");
        assert!(matches!(&*ended, "57014" | "25P04"), "{ended}");
    }
}

/// Prepared before the transaction, with another that begins it.
fn unnamed_savepoint() -> Vec<u8> {
    [say::parse("b", "BEGIN"), say::parse("", "SAVEPOINT s"), say::sync()].concat()
}

/// A server that cannot send hears of no cancel.
#[tokio::test]
async fn nor_does_a_client_that_takes_nothing_of_its_answer() {
    // Row by row, from the first one on.
    const ROWS: &str = "SELECT repeat('x', 1000), generate_series(1, 1000000)";
    const RUNS: &str = "state = 'active' AND query LIKE '%repeat%'";
    let stage = Stage::set(SCHEMA).await;
    for (limit, sql) in [
        ("transaction_timeout", format!("BEGIN; {ROWS}")),
        ("transaction_timeout", format!("BEGIN; COPY ({ROWS}) TO STDOUT")),
        ("statement_timeout", format!("SET statement_timeout = 0; {ROWS}")),
    ] {
        let more = format!("[tiers.standard]\n{limit} = \"1s\"\n[pool]\nsize = 2\n");
        let proxy = Proxy::start(&stage.config(&more).await).await;
        let mut longer = Vec::new();
        while longer.len() < TRIES && longer.iter().all(|longer| *longer > 0.7) {
            let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            let sends = async {
                client.send(&say::query(&sql)).await.unwrap();
                eventually("it runs", async || stage.busy_backends().await.iter().any(|one| one.contains("repeat")))
                    .await;
            };
            longer.push(longest(&stage.database.name, RUNS, "query_start", sends).await - 1.0);
            let (frames, _) = client.until_ready(1).await;
            let error = frames.iter().find(|frame| frame.tag == b'E').unwrap();
            let told = error.field(b'D').is_some_and(|detail| detail.contains("tenant \"default\" is 1000 ms"));
            assert!(told && error.sqlstate().as_deref() == Some("57014"), "{sql}: {error:?}");
        }
        assert!(longer.iter().any(|longer| *longer <= 0.7), "{sql}: {longer:?}");
    }
}

/// What only looks like the end of a transaction, or ends another one.
#[tokio::test]
async fn nor_do_ends_that_are_none_lead_around_it() {
    const CEILING: &str = "[tiers.standard]\ntransaction_timeout = \"1s\"\n[pool]\nsize = 2\n";
    let stage = Stage::set(&format!(
        "{SCHEMA}; CREATE PROCEDURE chains() LANGUAGE plpgsql AS
         $$ BEGIN PERFORM pg_sleep(0.7); ROLLBACK AND CHAIN; COMMIT AND CHAIN; PERFORM pg_sleep(60); END $$"
    ))
    .await;
    let text = |text: &str| say::query(text);
    let batch = |sql: &str| say::batch(sql, &[]);
    let (begin, saves) = (text("BEGIN; UPDATE t SET x = x"), text("SAVEPOINT s; SELECT pg_sleep(0.7)"));
    let sleep = || text("SELECT pg_sleep(60)");
    let long = text(&format!("ROLLBACK TO s /* {} */", "x".repeat(30_000)));
    for mode in ["transaction", "session"] {
        let proxy = Proxy::start(&stage.config(&format!("{CEILING}mode = \"{mode}\"\n")).await).await;
        for way in [
            vec![begin.clone(), saves.clone(), text("ROLLBACK TO s"), sleep()],
            vec![begin.clone(), saves.clone(), batch("ROLLBACK TO SAVEPOINT s"), batch("SELECT pg_sleep(60)")],
            vec![begin.clone(), saves.clone(), text("SELECT 1; ROLLBACK TO s; SELECT 1"), sleep()],
            vec![begin.clone(), saves.clone(), long.clone(), sleep()],
            vec![begin.clone(), saves.clone(), [text("ROLLBACK TO s"), sleep()].concat()],
            vec![
                unnamed_savepoint(),
                say::again("b", &[]),
                say::again("", &[]),
                text("SELECT pg_sleep(0.7)"),
                text("ROLLBACK TO s"),
                sleep(),
            ],
            // The new one has gone on for some time as its message is answered.
            vec![begin.clone(), text("COMMIT AND CHAIN; SELECT pg_sleep(0.7)"), sleep()],
            vec![begin.clone(), text("SELECT pg_sleep(0.2); COMMIT AND CHAIN; SELECT pg_sleep(0.7)"), sleep()],
            vec![begin.clone(), [say::run("COMMIT AND CHAIN", &[]), batch("SELECT pg_sleep(0.7)")].concat(), sleep()],
            vec![begin.clone(), text("SELECT pg_sleep(0.7)"), text("COMMIT AND CHAIN"), sleep()],
            vec![begin.clone(), [text("COMMIT AND CHAIN"), sleep()].concat()],
            vec![begin.clone(), text("COMMIT AND CHAIN"), vec![]],
        ] {
            let over = ["xact_start IS NOT NULL AND state NOT LIKE '%(aborted)'", "xact_start"];
            cut_off(&stage, &proxy, &way, &["57014", "25P04"], over, 1.0).await;
        }
        // All of a message counts, whatever it ends.
        for way in
            [vec![text("CALL chains()")], vec![text("BEGIN; COMMIT; BEGIN; COMMIT AND CHAIN; SELECT pg_sleep(60)")]]
        {
            cut_off(&stage, &proxy, &way, &["57014"], ["state = 'active'", "query_start"], 1.0).await;
        }
        // Sent together: the one that has failed does not take the time of the next with it.
        for ended in [text("ROLLBACK; BEGIN"), text("ROLLBACK AND CHAIN"), batch("ROLLBACK AND CHAIN")] {
            let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            client
                .send(&[batch("BEGIN"), batch("SELECT 1/0"), ended, batch("SELECT pg_sleep(60)")].concat())
                .await
                .unwrap();
            let answers = tokio::time::timeout(PATIENCE, client.until_ready(4));
            let (frames, _) = answers.await.expect("it is cut off");
            let codes: Vec<_> = frames.iter().filter_map(Frame::sqlstate).collect();
            assert_eq!(codes, ["22012", "57014"], "{mode}");
        }
    }
}

#[tokio::test]
async fn chained_transactions_have_their_own_time() {
    const CEILING: &str = "[tiers.standard]\ntransaction_timeout = \"2s\"\n[pool]\nsize = 12\n";
    const SLEEP: &str = "SELECT pg_sleep(0.6)";
    let stage = Stage::set(SCHEMA).await;
    let mut ways = Vec::new();
    for end in ["COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "END AND CHAIN", "ABORT AND CHAIN"] {
        let (sleep, last) = (say::query(SLEEP), say::query(end));
        let apart = [
            vec![sleep.clone(), last.clone()],
            vec![say::batch(SLEEP, &[]), say::batch(end, &[])],
            vec![[say::run(SLEEP, &[]), say::batch(end, &[])].concat()],
            vec![say::query(&format!("{SLEEP}; {end}"))],
        ];
        ways.extend(apart.map(|way| (1, way)));
        ways.push((2, vec![[sleep.clone(), last.clone()].concat()]));
        // Where there may be a savepoint, something may have been rolled back to it.
        if matches!(end, "COMMIT AND CHAIN" | "END AND CHAIN") {
            let long = say::query(&format!("{end} /* {} */", "x".repeat(30_000)));
            ways.push((1, vec![sleep.clone(), long]));
            ways.push((1, vec![say::query("SAVEPOINT s"), sleep, last]));
        }
    }
    for mode in ["transaction", "session"] {
        let proxy = Proxy::start(&stage.config(&format!("{CEILING}mode = \"{mode}\"\n")).await).await;
        let mut all = tokio::task::JoinSet::new();
        for (answers, way) in ways.clone() {
            let endpoint = stage.endpoint(proxy.port);
            all.spawn(async move {
                let mut client = RawClient::welcome(&endpoint).await;
                client.rows("BEGIN").await;
                for message in std::iter::repeat_n(&way, 4).flatten() {
                    client.send(message).await.unwrap();
                    let (frames, closed) = client.until_ready(answers).await;
                    assert!(closed.is_none() && code(&frames).is_none(), "{mode} {}: {frames:?}", shown(&way));
                    assert_eq!(frames.last().unwrap().status(), Some(b'T'), "{mode} {}", shown(&way));
                }
                assert_eq!(code(&client.query("COMMIT").await), None);
            });
        }
        all.join_all().await;
    }
}

/// Many short ones that never let the connection rest are not one long one.
/// The cancel that was meant for one statement may strike the next.
#[tokio::test]
async fn many_short_statements_are_told_of_their_transactions_ceiling() {
    let stage = Stage::set(SCHEMA).await;
    let more = "[tiers.standard]\ntransaction_timeout = \"1s\"\n[pool]\nsize = 20\n";
    let proxy = Proxy::start(&stage.config(more).await).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        clients.spawn(async move {
            client.query("BEGIN").await;
            loop {
                let sent = client.send(&say::query("SELECT 1")).await;
                let (frames, end) = client.until_ready(1).await;
                let error = frames.into_iter().find(|frame| frame.sqlstate().is_some());
                if error.is_some() || end.is_some() || sent.is_err() {
                    return error;
                }
            }
        });
    }
    while let Some(error) = clients.join_next().await {
        let error = error.unwrap().expect("it is told why");
        let [code, message, detail] = [b'C', b'M', b'D'].map(|field| error.field(field).unwrap_or_default());
        assert!(["57014", "25P04"].contains(&&*code) && message.ends_with("transaction timeout"), "{message}");
        assert_eq!(detail, "The ceiling of tenant \"default\" is 1000 ms.", "{message}");
    }
}

#[tokio::test]
async fn transactions_behind_one_another_have_their_own_time() {
    const CEILING: &str = "[tiers.standard]\ntransaction_timeout = \"400ms\"\n[pool]\nsize = 2\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let one = say::query("UPDATE t SET x = x; SELECT pg_sleep(0.1)");
    client.send(&one.repeat(12)).await.unwrap();
    let (frames, end) = client.until_ready(12).await;
    assert!(end.is_none() && code(&frames).is_none(), "{frames:?}");
}

/// The server keeps back the end of a statement that another one follows.
#[tokio::test]
async fn each_statement_of_a_message_has_its_own_time() {
    const CEILING: &str = "[tiers.standard]\nstatement_timeout = \"1s\"\n[pool]\nsize = 2\n";
    let stage = Stage::set("").await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let sleep = "SELECT pg_sleep(0.3)";
    for message in [say::query(&[sleep; 8].join(";")), [say::run(sleep, &[]).repeat(8), say::sync()].concat()] {
        client.send(&message).await.unwrap();
        let (frames, end) = client.until_ready(1).await;
        assert!(end.is_none() && code(&frames).is_none(), "{frames:?}");
        assert_eq!(frames.iter().filter(|frame| frame.tag == b'D').count(), 8);
    }
}

/// Also of one that is long, where it is read.
#[tokio::test]
async fn each_statement_of_a_long_message_has_its_own_time() {
    let database = fresh_database("").await;
    for more in ["settings = { \"app.tenant\" = \"acme\" }", "rate_limits = [\"1000/s\"]"] {
        let proxy = proxy(&format!("[tiers.standard]\nstatement_timeout = \"1s\"\n{more}\n")).await;
        let client = proxy.connect(&database.name).await;
        let text = format!("SELECT length('{}'); {}", "x".repeat(30_000), ["SELECT pg_sleep(0.6)"; 3].join(";"));
        client.batch_execute(&text).await.unwrap_or_else(|error| panic!("{more}: {error:?}"));
    }
}

/// Code of the session's own makes the server's timeout another, where the database has none that could.
#[tokio::test]
async fn what_writes_run_unasked_lifts_no_ceiling() {
    const CEILING: &str = "[tiers.standard]\nstatement_timeout = \"300ms\"\n[pool]\nsize = 2\n";
    let stage = Stage::set("GRANT ALL ON SCHEMA public TO PUBLIC").await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let text = |text: &str| say::query(text);
    let lifts = "set_config('statement_timeout', '0', false)";
    for kind in ["TEMP TABLE", "TABLE"] {
        let name = format!("made_{}", kind.replace(' ', "_"));
        let way = [
            text(&format!("CREATE {kind} IF NOT EXISTS {name} (x text DEFAULT {lifts})")),
            text(&format!("INSERT INTO {name} DEFAULT VALUES")),
            text(&format!("SELECT pg_sleep(60){}", "; SELECT".repeat(40))),
        ];
        cut_off(&stage, &proxy, &way, &["57014"], ["state = 'active'", "query_start"], 0.3).await;
    }
}

/// A statement runs once it is there.
#[tokio::test]
async fn a_slow_upload_is_not_a_slow_statement() {
    const CEILING: &str = "[tiers.standard]\nstatement_timeout = \"300ms\"\n[pool]\nsize = 2\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    uploads_slowly(&stage, &proxy, Duration::from_millis(100)).await;
}

/// A message of eight parts with a pause behind each is answered.
async fn uploads_slowly(stage: &Stage, proxy: &Proxy, pause: Duration) {
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let message = say::query(&format!("SELECT length('{}')", "x".repeat(1 << 20)));
    for part in message.chunks(message.len() / 8 + 1) {
        client.send(part).await.unwrap();
        tokio::time::sleep(pause).await;
    }
    let (frames, end) = client.until_ready(1).await;
    assert!(end.is_none() && code(&frames).is_none(), "{frames:?}");
}

#[tokio::test]
async fn no_way_leads_around_the_ceiling_of_a_wait_in_a_transaction() {
    const CEILING: &str = "[tiers.standard]\nidle_in_transaction_timeout = \"300ms\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let text = |text: &str| say::query(text);
    let run = |sql: &str| say::run(sql, &[]);
    for way in [
        vec![text("BEGIN; UPDATE t SET x = x"), vec![]],
        vec![text("BEGIN"), text("SET idle_in_transaction_session_timeout = 0"), vec![]],
        vec![text("SET idle_in_transaction_session_timeout = 0"), text("BEGIN"), text("SELECT 1"), vec![]],
        vec![text("BEGIN; DECLARE c CURSOR FOR SELECT generate_series(1, 10)"), text("FETCH c"), vec![]],
        vec![text("CREATE TEMP TABLE mine (x int)"), text("BEGIN"), vec![]],
        vec![text("BEGIN READ ONLY"), vec![]],
        vec![say::batch("BEGIN", &[]), say::batch("SAVEPOINT s", &[]), vec![]],
        vec![[run("UPDATE t SET x = x"), say::flush()].concat()],
        vec![text("BEGIN"), [run("SELECT 1"), say::flush()].concat()],
        vec![fetched()],
    ] {
        // A server that waits for the end of a batch calls that active, and does not say since when.
        let over = ["xact_start IS NOT NULL", "state_change"];
        cut_off(&stage, &proxy, &way, &["25P03"], over, 0.3).await;
    }
}

/// Nor does a message that never comes to its end.
#[tokio::test]
async fn a_message_that_comes_in_drops_is_a_wait_in_its_transaction() {
    const CEILING: &str = "[tiers.standard]\nidle_in_transaction_timeout = \"1s\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let long = |tag: u8, body: &[u8]| [&[tag][..], &(100_i32 << 20).to_be_bytes(), body].concat();
    let beginning = vec![b' '; 30_000];
    for (name, message) in [
        ("Query", long(b'Q', &beginning)),
        ("Parse", [&long(b'P', b"\0")[..], &beginning].concat()),
        ("Bind", long(b'B', b"\0p\0\0\0\0\x01\x05\0\0\0")),
        ("FunctionCall", long(b'F', &2078_u32.to_be_bytes())),
    ] {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.query("PREPARE p AS SELECT length($1::text)").await;
        client.query("BEGIN; UPDATE t SET x = x").await;
        client.send(&message).await.unwrap();
        let mut drops = 0;
        let frame = loop {
            tokio::select! {
                frame = client.reader.frame() => break frame,
                () = tokio::time::sleep(Duration::from_millis(200)) => drops += 1,
            }
            assert!(drops < 100, "{name} goes on");
            let _ = client.writer.send(b" ").await;
        };
        let error = frame.unwrap_or_else(|end| panic!("{name}: {end:?}"));
        assert_eq!(error.sqlstate().as_deref(), Some("25P03"), "{name}: {error:?}");
    }
    // Outside of a transaction nobody waits for it.
    uploads_slowly(&stage, &proxy, Duration::from_millis(300)).await;
}

/// Nor one in a batch whose end does not come, of which nobody has said yet that it is in a transaction; nor does what was
/// waited before such a message count for nothing.
#[tokio::test]
async fn a_message_that_comes_in_drops_is_a_wait_in_its_batch() {
    const CEILING: &str = "[tiers.standard]\nidle_in_transaction_timeout = \"2s\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    let flushed = |sql: &str| [say::run(sql, &[]), say::flush()].concat();
    for (begin, pause, parts) in [
        (flushed("BEGIN"), 700, 5),
        (flushed("UPDATE t SET x = x"), 700, 5),
        (flushed("UPDATE t SET x = x"), 1500, 2),
        (say::query("BEGIN; UPDATE t SET x = x"), 1500, 2),
    ] {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.query("PREPARE p AS SELECT length($1::text)").await;
        client.send(&begin).await.unwrap();
        let answered = |frame: &Frame| matches!(frame.status(), Some(b'T')) || (frame.tag == b'C' && begin[0] == b'P');
        while !answered(&client.frame().await.unwrap()) {}
        let message = [say::bind("", "p", &[&"x".repeat(200_000)]), say::flush()].concat();
        for part in message.chunks(message.len() / parts + 1) {
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let _ = client.writer.send(part).await;
        }
        let frame = client.frame().await.unwrap_or_else(|end| panic!("{parts} parts: {end:?}"));
        assert_eq!(frame.sqlstate().as_deref(), Some("25P03"), "{parts} parts: {frame:?}");
    }
    // What was only prepared has not been waited for.
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    let batch = [say::run("SELECT length($1)", &[&"x".repeat(200_000)]), say::sync()].concat();
    for part in batch.chunks(25_000) {
        client.send(part).await.unwrap();
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    let (frames, end) = client.until_ready(1).await;
    assert!(end.is_none() && code(&frames).is_none(), "{frames:?}");
}

/// Nor what the server skips, behind an error whose `Sync` does not come.
#[tokio::test]
async fn what_is_skipped_is_a_wait_in_its_transaction() {
    const CEILING: &str = "[tiers.standard]\nidle_in_transaction_timeout = \"1s\"\n[pool]\nsize = 5\n";
    let stage = Stage::set(SCHEMA).await;
    let proxy = Proxy::start(&stage.config(CEILING).await).await;
    for (begin, skipped) in [
        ("BEGIN; UPDATE t SET x = x", say::execute("", 0)),
        ("BEGIN; SAVEPOINT s; UPDATE t SET x = x", say::bind("", "p", &[&"x".repeat(200_000)])),
        ("SELECT 1", say::run("SELECT 1", &[])),
    ] {
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.query(begin).await;
        client.send(&[say::run("SELECT 1/0", &[]), say::flush()].concat()).await.unwrap();
        while client.frame().await.unwrap().sqlstate().as_deref() != Some("22012") {}
        client.send(&skipped).await.unwrap();
        let frame = client.frame().await.unwrap_or_else(|end| panic!("{begin}: {end:?}"));
        assert_eq!(frame.sqlstate().as_deref(), Some("25P03"), "{begin}: {frame:?}");
    }
}

#[tokio::test]
async fn nobody_waits_in_a_transaction_for_longer_than_he_may() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let proxy = proxy("[tiers.standard]\nidle_in_transaction_timeout = \"300ms\"\n[pool]\nsize = 2\n").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    // Whoever works, or has no transaction, takes his time.
    let client = connect(&url).await;
    client.batch_execute("BEGIN; SELECT pg_sleep(0.5); SELECT 1").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    client.batch_execute("SELECT 1").await.unwrap();
    for lift in ["SELECT 1", "SET idle_in_transaction_session_timeout = 0", "SELECT 1/0"] {
        let client = connect(&url).await;
        client.batch_execute("BEGIN; UPDATE t SET x = x").await.unwrap();
        // One fails.
        let _ = client.batch_execute(lift).await;
        eventually("the client is sent away", async || client.is_closed()).await;
        eventually("nothing is open on the server", async || open(&database.name).await == "0").await;
    }
    let rejected = "pgweir_tenant_rejections_total{reason=\"idle_in_transaction_timeout\",tenant=\"default\"}";
    assert_eq!(proxy.metric(rejected), 3.0);
}

#[tokio::test]
async fn no_way_leads_around_the_ceiling_of_a_wait_for_a_lock() {
    const CEILING: &str = "[tiers.standard]\nlock_timeout = \"300ms\"\n[pool]\nsize = 1\n";
    let stage = Stage::set(&format!(
        "{SCHEMA}; CREATE TABLE locked (x int); GRANT ALL ON locked TO PUBLIC;
         CREATE FUNCTION waits() RETURNS bigint LANGUAGE sql SET lock_timeout = 0 AS 'SELECT count(*) FROM locked';
         CREATE FUNCTION waits_on() RETURNS int LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN LOOP
         BEGIN LOCK locked; EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP; END $$;
         CREATE PROCEDURE commits_and_waits() LANGUAGE plpgsql AS
         $$ BEGIN SET lock_timeout = 0; COMMIT; PERFORM count(*) FROM locked; END $$"
    ))
    .await;
    // Whoever has a replica has more eyes.
    let text = stage.config(CEILING).await;
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with("replicas = ")).collect();
    let proxy = Proxy::start(&text.join("\n")).await;
    let holder = connect(&shared_cluster().await.primary().url("postgres", &stage.database.name)).await;
    holder.batch_execute("BEGIN; LOCK locked; SELECT pg_advisory_lock(7)").await.unwrap();
    let text = |text: &str| say::query(text);
    let reads = || say::query("SELECT * FROM locked");
    let lifted = "SET lock_timeout = 0";
    const PG_ADVISORY_LOCK: u32 = 2880;
    for way in [
        vec![reads()],
        vec![text(lifted), reads()],
        vec![text("SET lock_timeout = 0; SELECT * FROM locked")],
        vec![text("BEGIN"), text("SET LOCAL lock_timeout = 0"), reads()],
        vec![text("BEGIN; SET LOCAL lock_timeout = '1h'; SELECT * FROM locked")],
        vec![text("SELECT set_config('lock_timeout', '0', false), (SELECT count(*) FROM locked)")],
        vec![text(
            "WITH lifted AS MATERIALIZED (SELECT set_config('lock_timeout', '0', true)) SELECT count(*) FROM lifted, (SELECT pg_advisory_xact_lock(7)) AS l",
        )],
        vec![text("UPDATE pg_settings SET setting = '0' WHERE name = 'lock_timeout'; SELECT * FROM locked")],
        vec![text("SET lock_timeout = 0; LOCK locked IN ACCESS EXCLUSIVE MODE")],
        vec![text("SET lock_timeout = 0; SELECT pg_advisory_lock(7)")],
        vec![text(lifted), say::function_call(PG_ADVISORY_LOCK, &[Some(&7_i64.to_be_bytes())])],
        vec![text("SET lock_timeout = 0; INSERT INTO locked VALUES (1)")],
        vec![set_config("lock_timeout"), reads()],
        vec![text(&format!("SET lock_timeout = 0; SELECT * FROM locked /* {} */", "x".repeat(30_000)))],
        vec![text("RESET lock_timeout"), reads()],
        vec![text("RESET ALL"), reads()],
        vec![text("DISCARD ALL"), reads()],
        vec![text("SELECT waits()")],
        vec![text("CALL commits_and_waits()")],
        vec![text("DO $$ BEGIN SET lock_timeout = 0; LOCK locked; END $$")],
        vec![text("SELECT waits_on()")],
        vec![[say::run(lifted, &[]), say::batch("SELECT * FROM locked", &[])].concat()],
        vec![text("CREATE TEMP TABLE mine (x int)"), text("SET lock_timeout = 0; SELECT * FROM locked")],
    ] {
        // A wait that is cut off may be followed by another.
        let over = [
            "wait_event_type = 'Lock'",
            "(SELECT min(waitstart) FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND NOT granted)",
        ];
        cut_off(&stage, &proxy, &way, &["55P03"], over, 0.3).await;
    }
    // What comes next, on the same server connection, is not mistaken for it.
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    for _ in 0..3 {
        let frames = client.query("BEGIN; SET LOCAL lock_timeout = 0; LOCK locked").await;
        assert_eq!(code(&frames).as_deref(), Some("55P03"), "{frames:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(code(&client.query("ROLLBACK").await), None);
        client.rows("SELECT pg_sleep(0.6)").await;
    }
}

#[tokio::test]
async fn nobody_waits_for_a_lock_for_longer_than_he_may() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let proxy = proxy("[tiers.standard]\nlock_timeout = \"400ms\"\n[pool]\nsize = 2\n").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let holder = connect(&shared_cluster().await.primary().url("postgres", &database.name)).await;
    holder.batch_execute("BEGIN; LOCK t").await.unwrap();
    for (lift, shown) in [
        (&["SELECT 1"][..], "400ms"),
        (&["SET lock_timeout = 0"], "400ms"),
        (&["SET lock_timeout = '1h'"], "400ms"),
        (&["SELECT set_config('lock_timeout', '0', false)"], "400ms"),
        (&["RESET lock_timeout"], "400ms"),
        (&["RESET ALL"], "400ms"),
        (&["DISCARD ALL"], "400ms"),
        (&["BEGIN", "SET LOCAL lock_timeout = 0"], "400ms"),
        (&["BEGIN", "SELECT set_config('lock_timeout', '0', true)"], "400ms"),
        (&["BEGIN; SET LOCAL lock_timeout = '2s'"], "400ms"),
        (&["SET lock_timeout = '300ms'"], "300ms"),
        (&["BEGIN", "SET LOCAL lock_timeout = '200ms'"], "200ms"),
    ] {
        for options in ["", "options=-c%20lock_timeout%3D0"] {
            let client = connect(&format!("{url}?{options}")).await;
            for statement in lift {
                client.batch_execute(statement).await.unwrap();
            }
            assert_eq!(value(&client, "SHOW lock_timeout").await, shown, "{lift:?} {options}");
            let error = client.batch_execute("SELECT * FROM t").await.unwrap_err();
            assert_eq!(error.code().map(|code| code.code()), Some("55P03"), "{lift:?} {options}: {error:?}");
            let detail = (shown == "400ms").then_some("The ceiling of tenant \"default\" is 400 ms.");
            assert_eq!(error.as_db_error().unwrap().detail(), detail, "{lift:?} {options}");
        }
    }
}

/// Machines that have German let their servers speak it.
#[tokio::test]
async fn timeouts_are_known_in_the_servers_own_language() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let name = &database.name;
    let in_german = format!("ALTER DATABASE {name} SET lc_messages = ''de_DE.UTF-8''");
    database.sql(&format!("DO $$ BEGIN EXECUTE '{in_german}'; EXCEPTION WHEN OTHERS THEN NULL; END $$")).await;
    let proxy = proxy("[tiers.standard]\nstatement_timeout = \"2s\"\nlock_timeout = \"1s\"\n[pool]\nsize = 2\n").await;
    let holder = connect(&shared_cluster().await.primary().url("postgres", name)).await;
    holder.batch_execute("BEGIN; LOCK t").await.unwrap();
    let client = proxy.connect(name).await;
    let of_statement = Some("The ceiling of tenant \"default\" is 2000 ms.");
    let cases = [
        ("SELECT pg_sleep(60)", "57014", of_statement),
        ("SELECT 1; SELECT pg_sleep(60)", "57014", of_statement),
        ("SELECT * FROM t", "55P03", Some("The ceiling of tenant \"default\" is 1000 ms.")),
        ("BEGIN; LOCK t NOWAIT", "55P03", None),
        ("DO $$ BEGIN PERFORM pg_sleep(0.1); RAISE SQLSTATE '57014'; END $$", "57014", None),
        ("BEGIN; SET LOCAL statement_timeout = 50; SELECT pg_sleep(60)", "57014", None),
        ("BEGIN; DO $$ BEGIN SET LOCAL statement_timeout = 50; END $$; SELECT pg_sleep(60)", "57014", None),
        ("SET work_mem = '5MB'; SELECT pg_sleep(60)", "57014", of_statement),
    ];
    for (sql, code, detail) in cases {
        let error = client.batch_execute(sql).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.detail()), (code, detail), "{sql}: {error:?}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    let counted = || proxy.metric("pgweir_tenant_statement_timeouts_total{tenant=\"default\"}");
    let before = counted();
    assert!(before >= 3.0, "{before}");
    // What a client cancels is not over its ceiling, however long the rest of its message has taken.
    for (sql, seconds) in [("SELECT pg_sleep(60)", 0.5), ("SELECT pg_sleep(1.5); SELECT pg_sleep(1.9)", 2.3)] {
        let cancels = async {
            tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
            client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(client.batch_execute(sql), cancels);
        let error = outcome.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.detail()), ("57014", None), "{sql}: {error:?}");
    }
    assert_eq!(counted(), before);
}
