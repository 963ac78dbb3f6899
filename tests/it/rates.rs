//! A tenant's rate limits: what they count, by whatever way it comes, and how what is too much is refused.

use tokio_postgres::Client;

use crate::support::primary_only::{config, proxy, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::raw::RawClient;
use crate::support::stage::Stage;
use crate::support::{connect, eventually, fresh_database, say, shared_cluster};

/// Statements that are let through before one is refused, of at most `most`.
async fn let_through(client: &Client, most: usize) -> usize {
    for count in 0..most {
        if let Err(error) = client.batch_execute("SELECT 1").await {
            assert_eq!(sqlstate(&error), "53400", "{error:?}");
            return count;
        }
    }
    most
}

#[tokio::test]
async fn so_many_an_hour_and_the_next_is_told_when_to_come_again() {
    let database = fresh_database("").await;
    let more = "[tiers.standard]\nrate_limits = [\"20/h\"]\n[[tenants]]\nname = \"acme\"\nrate_limits = [\"5/h\"]\n\
                match = { option = \"acme\" }\n[pool]\nsize = 2\n";
    let proxy = proxy(more).await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let acme = format!("{url}?options=-c%20pgweir.tenant%3Dacme");
    let (one, two, other) = (connect(&acme).await, connect(&acme).await, connect(&url).await);
    for client in [&one, &two, &one, &two, &one] {
        client.batch_execute("SELECT 1").await.unwrap();
    }
    for client in [&one, &two] {
        let error = client.batch_execute("SELECT 1").await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code().code(), error.severity()), ("53400", "ERROR"));
        assert_eq!(error.message(), "rate limit of tenant \"acme\" exceeded: 5 statements per h");
        // A fifth of an hour, less what has gone by.
        let detail = error.detail().unwrap();
        assert!(detail.starts_with("There is room again in 1") && detail.contains("min"), "{detail}");
        assert!(error.hint().unwrap().contains("rate_limits"), "{error:?}");
    }
    assert_eq!(proxy.metric("pgweir_tenant_rejections_total{reason=\"rate_limit\",tenant=\"acme\"}"), 2.0);
    // Another tenant has limits of its own; those of a session do not begin anew with it.
    assert_eq!(let_through(&other, 100).await, 20);
    assert_eq!(let_through(&connect(&acme).await, 100).await, 0);
}

/// However statements come, each counts once.
#[tokio::test]
async fn every_way_counts() {
    let stage = Stage::set("CREATE TABLE t (x int); GRANT ALL ON t TO PUBLIC").await;
    for mode in ["transaction", "session"] {
        for (what, messages, answers, cost) in [
            ("one", say::query("SELECT 1"), 1, 1),
            ("three in one text", say::query("SELECT 1; SELECT ';' ; ; SELECT 3;"), 1, 3),
            (
                "three in a text that is too long to be read",
                say::query(&format!("SELECT 1; SELECT length('{}'); SELECT 3", "a".repeat(1_100_000))),
                1,
                3,
            ),
            ("a batch", say::batch("SELECT 1", &[]), 1, 1),
            ("a batch of two", [say::run("SELECT 1", &[]), say::batch("SELECT 2", &[])].concat(), 1, 2),
            ("batches behind one another", say::batch("SELECT 1", &[]).repeat(4), 4, 4),
            ("writes behind one another", say::batch("INSERT INTO t VALUES (1)", &[]).repeat(4), 4, 4),
            (
                "preparing alone",
                [say::parse("a", "SELECT 1"), say::describe_statement("a"), say::sync()].concat(),
                1,
                0,
            ),
            (
                "one that is prepared",
                [say::parse("b", "SELECT 1"), say::sync(), say::again("b", &[]).repeat(3)].concat(),
                4,
                3,
            ),
            ("a transaction", [say::query("BEGIN"), say::query("SELECT 1"), say::query("COMMIT")].concat(), 3, 3),
            (
                "a portal by pieces",
                {
                    let rows = "SELECT * FROM generate_series(1, 5)";
                    let parts =
                        [say::parse("", rows), say::bind("", "", &[]), say::execute("", 2), say::execute("", 2)];
                    [parts.concat(), say::sync()].concat()
                },
                1,
                1,
            ),
        ] {
            let limit = "[tiers.standard]\nrate_limits = [\"10/h\"]\n";
            let proxy = Proxy::start(&stage.config(&format!("{limit}[pool]\nmode = \"{mode}\"\n")).await).await;
            let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
            client.send(&messages).await.unwrap();
            let (frames, end) = client.until_ready(answers).await;
            assert!(end.is_none() && !frames.iter().any(|frame| frame.tag == b'E'), "{mode}, {what}: {frames:?}");
            let mut left = 0;
            loop {
                let frames = client.query("SELECT 1").await;
                match frames.iter().find_map(|frame| frame.sqlstate()) {
                    None => left += 1,
                    Some(code) => break assert_eq!(code, "53400"),
                }
            }
            assert_eq!(10 - left, cost, "{mode}, {what}");
        }
    }
}

/// Long texts are read for that, up to a bound.
#[tokio::test]
async fn a_long_text_counts_before_it_runs() {
    for (length, refused, left) in [(500_000, Some("53400"), 4), (1_100_000, None, 0)] {
        let text = format!("SELECT '{}'{}", "a".repeat(length), "; SELECT 1".repeat(5));
        let proxy = proxy("[tiers.standard]\nrate_limits = [\"10/h\"]\n").await;
        let client = proxy.connect("postgres").await;
        client.batch_execute(&text).await.unwrap();
        let outcome = client.batch_execute(&text).await;
        assert_eq!(outcome.as_ref().err().map(sqlstate), refused, "{length}");
        assert_eq!(let_through(&client, 20).await, left, "{length}");
    }
}

/// A statement too many fails its transaction, which can be ended all the same; and so can one of a session that keeps
/// its connection.
#[tokio::test]
async fn a_transaction_fails_by_it_and_can_be_ended() {
    let database = fresh_database("CREATE TABLE t (x int)").await;
    for (begin, end) in [("BEGIN", "COMMIT"), ("BEGIN", "ROLLBACK"), ("CREATE TEMP TABLE mine ()", "SELECT 1")] {
        let proxy = proxy("[tiers.standard]\nrate_limits = [\"5/h\"]\n").await;
        for extended in [false, true] {
            // Where the first has used it up, the second is refused at once.
            let client = proxy.connect(&database.name).await;
            let insert = async || match extended {
                true => client.execute("INSERT INTO t VALUES (1)", &[]).await.map(drop),
                false => client.batch_execute("INSERT INTO t VALUES (1)").await,
            };
            let begun = client.batch_execute(begin).await;
            if extended {
                assert_eq!(sqlstate(&begun.unwrap_err()), "53400");
            } else {
                begun.unwrap();
                for _ in 0..4 {
                    insert().await.unwrap();
                }
            }
            assert_eq!(sqlstate(&insert().await.unwrap_err()), "53400");
            let ended = client.batch_execute(end).await;
            match end {
                _ if extended => assert_eq!(sqlstate(&ended.unwrap_err()), "53400"),
                "SELECT 1" => assert_eq!(sqlstate(&ended.unwrap_err()), "53400"),
                _ => ended.unwrap(),
            }
        }
    }
    // Nothing of what was rolled back is there, and everything else.
    assert_eq!(database.sql("SELECT count(*) FROM t").await.trim(), "4");
}

#[tokio::test]
async fn transactions_count_once() {
    let long =
        format!("BEGIN; SELECT '{}'; SAVEPOINT a; ROLLBACK TO a; SELECT 2; ROLLBACK TO a; COMMIT", "x".repeat(30_000));
    let database = fresh_database("").await;
    let limits = "rate_limits = [{ rate = \"5/h\", counts = \"transactions\" }]";
    let proxy = proxy(&format!("[tiers.standard]\n{limits}\n")).await;
    let client = proxy.connect(&database.name).await;
    client.batch_execute("BEGIN; SELECT 1; SELECT 2; COMMIT").await.unwrap();
    // What stands in a long one is read.
    client.batch_execute(&long).await.unwrap();
    for text in ["BEGIN", "SELECT 1", "SELECT 2", "COMMIT"] {
        client.batch_execute(text).await.unwrap();
    }
    client.batch_execute("SELECT 1").await.unwrap();
    // Preparing is no statement, but a transaction.
    client.prepare("SELECT 1").await.unwrap();
    let error = client.batch_execute("BEGIN").await.unwrap_err();
    assert!(error.as_db_error().unwrap().message().ends_with("exceeded: 5 transactions per h"), "{error:?}");
}

/// However many a message has, and wherever one begins where another ends.
#[tokio::test]
async fn transactions_within_a_message_are_counted() {
    let database = fresh_database("").await;
    let chained =
        vec!["BEGIN", "SELECT 1; COMMIT AND CHAIN", "SELECT 1; COMMIT AND CHAIN", "ROLLBACK AND CHAIN", "COMMIT"];
    for texts in [
        vec!["BEGIN; SELECT 1; COMMIT; BEGIN; SELECT 2; COMMIT; BEGIN; ROLLBACK; BEGIN; SELECT 1; COMMIT"],
        vec!["BEGIN", "COMMIT; BEGIN", "SELECT 1; COMMIT; BEGIN; ROLLBACK; BEGIN", "COMMIT"],
        chained,
        // Behind a savepoint the server's words for it are those for a return to the savepoint.
        vec![
            "BEGIN; SAVEPOINT a",
            "ROLLBACK AND CHAIN",
            "SAVEPOINT a; ROLLBACK TO a",
            "ABORT AND CHAIN; ROLLBACK AND CHAIN",
            "ROLLBACK",
        ],
    ] {
        for (limit, left) in [(4, 0), (6, 2)] {
            let limits = format!("rate_limits = [{{ rate = \"{limit}/h\", counts = \"transactions\" }}]");
            let proxy = proxy(&format!("[tiers.standard]\n{limits}\n")).await;
            let client = proxy.connect(&database.name).await;
            for text in &texts {
                client.batch_execute(text).await.unwrap();
            }
            assert_eq!(let_through(&client, 100).await, left, "{texts:?}");
        }
    }
}

/// Nor does it help to leave before the end.
#[tokio::test]
async fn what_has_run_is_paid_for_by_whoever_leaves() {
    let stage = Stage::set("").await;
    for (counts, statement) in [("statements", "SELECT 1;"), ("transactions", "BEGIN; SELECT 1; COMMIT;")] {
        let limits = format!("rate_limits = [{{ rate = \"50/h\", counts = \"{counts}\" }}]");
        let proxy = Proxy::start(&stage.config(&format!("[tiers.standard]\n{limits}\n")).await).await;
        let mut leaving = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        // More than is read.
        let text = format!("{}/* {} */ SELECT pg_sleep(3)", statement.repeat(4000), "x".repeat(1_100_000));
        leaving.send(&say::query(&text)).await.unwrap();
        for _ in 0..400 {
            leaving.frame().await.unwrap();
        }
        drop(leaving);
        let runs = "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^(SELECT 1;|BEGIN; SELECT 1;)' AND state = 'active' AND datname = current_database()";
        // Cut off where that is noticed in its answer, and otherwise when it has run, as whatever may write.
        eventually("it has ended", async || stage.database.sql(runs).await.trim() == "0").await;
        let frames = RawClient::welcome(&stage.endpoint(proxy.port)).await.query("SELECT 1").await;
        assert_eq!(frames.iter().find_map(|frame| frame.sqlstate()).as_deref(), Some("53400"), "{counts}");
    }
}

#[tokio::test]
async fn what_comes_too_early_waits_where_it_may() {
    let database = fresh_database("").await;
    let limits = "rate_limits = [{ rate = \"50/s\", burst = 1, delay = \"60s\" }]";
    for mode in ["transaction", "session"] {
        let proxy = proxy(&format!("[tiers.standard]\n{limits}\n[pool]\nmode = \"{mode}\"\nsize = 2\n")).await;
        let clients = [proxy.connect(&database.name).await, proxy.connect(&database.name).await];
        if mode == "transaction" {
            // One of the two keeps its server connection.
            clients[0].batch_execute("CREATE TEMP TABLE kept (x int)").await.unwrap();
        }
        for _ in 0..10 {
            for client in &clients {
                assert_eq!(value(client, "SELECT 1").await, "1");
            }
        }
        assert!(proxy.metric("pgweir_tenant_delays_total{tenant=\"default\"}") >= 10.0);
        assert_eq!(proxy.metric("pgweir_tenant_rejections_total{reason=\"rate_limit\",tenant=\"default\"}"), 0.0);
        // One who waits can be cancelled, and goes on.
        clients[1].batch_execute(&"SELECT 1;".repeat(2000)).await.unwrap();
        let waiting = clients[0].batch_execute("SELECT 2");
        let cancelling = async {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            clients[0].cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
        };
        let (outcome, ()) = tokio::join!(waiting, cancelling);
        assert_eq!(sqlstate(&outcome.unwrap_err()), "57014");
    }
}

#[tokio::test]
async fn a_reload_gives_nothing_back() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let with = |rate: &str| config(cluster, &format!("[tiers.standard]\nrate_limits = [\"{rate}\"]\n"), &["postgres"]);
    let proxy = Proxy::start(&with("10/h")).await;
    let client = proxy.connect(&database.name).await;
    for _ in 0..8 {
        client.batch_execute("SELECT 1").await.unwrap();
    }
    proxy.reload(&with("10/h")).await.unwrap();
    assert_eq!(let_through(&client, 100).await, 2);
    // Whoever may do more from now on may do so much more, also who is here already.
    proxy.reload(&with("15/h")).await.unwrap();
    assert_eq!(let_through(&client, 100).await, 5);
    assert_eq!(let_through(&proxy.connect(&database.name).await, 100).await, 0);
    // Limits come and go for those who are here.
    proxy.reload(&config(cluster, "", &["postgres"])).await.unwrap();
    assert_eq!(let_through(&client, 100).await, 100);
    proxy.reload(&with("15/h")).await.unwrap();
    assert_eq!(let_through(&client, 100).await, 15);
}

/// The end of a transaction is never refused: that is no way around the limit.
#[tokio::test]
async fn nothing_hides_behind_the_end_of_a_transaction() {
    let stage = Stage::set("SELECT 1").await;
    for (mode, begin) in [("session", ""), ("transaction", "BEGIN"), ("transaction", "CREATE TEMP TABLE mine ()")] {
        let more = format!("[tiers.standard]\nrate_limits = [\"10/h\"]\n[pool]\nmode = \"{mode}\"\n");
        let proxy = Proxy::start(&stage.config(&more).await).await;
        let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
        client.query(begin).await;
        let mut answered = 0;
        for _ in 0..5 {
            let flight = [say::query("COMMIT"), say::query("SELECT 1").repeat(8)].concat();
            client.send(&flight).await.unwrap();
            let (frames, end) = client.until_ready(9).await;
            assert_eq!(end, None, "{mode}, {begin}");
            answered += frames.iter().filter(|frame| frame.tag == b'D').count();
        }
        assert!(answered <= 10, "{mode}, {begin}: {answered}");
    }
}

/// Attempts count, whatever comes of them, and a reload does not begin anew.
#[tokio::test]
async fn so_many_attempts_to_log_in() {
    let cluster = shared_cluster().await;
    let tenancy = "[tenancy]\nseparator = \"+\"\nidentify = [\"user_suffix\"]\n[[tenants]]\nname = \"acme\"\n";
    let with = |limits: &str| {
        config(
            cluster,
            &format!("{tenancy}[listen]\naddress = \"127.0.0.1:0\"\nlogin_limits = {{ {limits} }}\n"),
            &["postgres"],
        )
    };
    for (limits, who, same) in [
        ("per_address = \"4/h\"", "from address 127.0.0.1", "nobody"),
        ("per_user = \"4/h\"", "of user \"postgres\"", "postgres"),
    ] {
        let proxy = Proxy::start(&with(limits)).await;
        let right = proxy.url(cluster, "postgres", "postgres");
        let wrong = format!("postgres://{same}:wrong@127.0.0.1:{}/postgres", proxy.port);
        for url in [&wrong, &right, &wrong] {
            match url == &right {
                true => drop(connect(url).await),
                false => assert_eq!(proxy.refusal(url).await.code().code(), "28P01"),
            }
        }
        proxy.reload(&with(limits)).await.unwrap();
        drop(connect(&right).await);
        for url in [&right, &wrong] {
            let refusal = proxy.refusal(url).await;
            assert_eq!((refusal.code().code(), refusal.severity()), ("53400", "FATAL"));
            assert_eq!(refusal.message(), format!("too many login attempts {who}: 4 per h allowed"));
        }
        eventually("it is counted", async || {
            proxy.metric("pgweir_client_refusals_total{reason=\"login_limits\"}") == 2.0
        })
        .await;
        // By no suffix is anybody another user.
        let suffixed = right.replace("//postgres", "//postgres%2Bacme");
        assert_ne!(suffixed, right);
        assert_eq!(proxy.refusal(&suffixed).await.code().code(), "53400");
        // Another user has his own, but no other address.
        let other = format!("postgres://other:wrong@127.0.0.1:{}/postgres", proxy.port);
        let code = if who.starts_with("from") { "53400" } else { "28P01" };
        assert_eq!(proxy.refusal(&other).await.code().code(), code);
    }
}
