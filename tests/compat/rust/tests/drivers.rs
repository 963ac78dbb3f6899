//! What users of tokio-postgres and sqlx do that matters to a proxy: statements kept for long, pipelining, transactions,
//! COPY, notifications, pools of many tasks, cancelling.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt, TryStreamExt, future, pin_mut, stream};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};
use sqlx_test::parameters;
use tokio::sync::mpsc;
use tokio_postgres::binary_copy::{BinaryCopyInWriter, BinaryCopyOutStream};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, NoTls};

type Outcome = anyhow::Result<()>;

async fn connect() -> Client {
    heard().await.0
}

/// A client, and what it is told without having asked.
async fn heard() -> (Client, mpsc::UnboundedReceiver<AsyncMessage>) {
    let (client, mut connection) = tokio_postgres::connect(&parameters(), NoTls).await.unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            _ = sender.send(message);
        }
    });
    (client, receiver)
}

async fn notification(receiver: &mut mpsc::UnboundedReceiver<AsyncMessage>) -> (String, String) {
    let wait = async {
        loop {
            if let AsyncMessage::Notification(told) = receiver.recv().await.unwrap() {
                return (told.channel().to_owned(), told.payload().to_owned());
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), wait).await.expect("no notification in time")
}

fn fresh() -> String {
    static LAST: AtomicU32 = AtomicU32::new(0);
    format!("r{}_{}", std::process::id(), LAST.fetch_add(1, Ordering::Relaxed))
}

async fn table(client: &Client, columns: &str) -> String {
    let name = fresh();
    client.batch_execute(&format!("CREATE TABLE {name} ({columns})")).await.unwrap();
    name
}

fn code<T>(result: Result<T, tokio_postgres::Error>) -> SqlState {
    result.err().expect("no error").code().expect("no code").clone()
}

fn options() -> PgConnectOptions {
    std::env::var("DATABASE_URL").unwrap().parse().unwrap()
}

async fn pool(size: u32) -> PgPool {
    PgPoolOptions::new().max_connections(size).connect_with(options()).await.unwrap()
}

fn sqlx_code(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|error| error.code()).unwrap_or_default().into_owned()
}

#[tokio::test]
async fn prepared_statement_used_a_thousand_times() -> Outcome {
    let client = connect().await;
    let statement = client.prepare("SELECT $1::int8 * 2").await?;
    for n in 0..1000i64 {
        assert_eq!(client.query_one(&statement, &[&n]).await?.get::<_, i64>(0), 2 * n);
    }
    Ok(())
}

#[tokio::test]
async fn prepared_statement_describes_itself() -> Outcome {
    let client = connect().await;
    let statement = client.prepare("SELECT $1::int4 AS a, $2::text[] AS b").await?;
    assert_eq!(statement.params(), [Type::INT4, Type::TEXT_ARRAY]);
    assert_eq!(statement.columns().iter().map(|column| column.name()).collect::<Vec<_>>(), ["a", "b"]);
    Ok(())
}

#[tokio::test]
async fn two_thousand_prepared_statements_kept() -> Outcome {
    let client = connect().await;
    let mut statements = Vec::new();
    for n in 0..2000 {
        statements.push(client.prepare(&format!("SELECT {n} + $1::int4")).await?);
    }
    for (n, statement) in statements.iter().enumerate().step_by(7) {
        assert_eq!(client.query_one(statement, &[&1i32]).await?.get::<_, i32>(0), n as i32 + 1);
    }
    Ok(())
}

#[tokio::test]
async fn prepared_statements_dropped() -> Outcome {
    let client = connect().await;
    for n in 0..300 {
        let statement = client.prepare(&format!("SELECT {n}::int4")).await?;
        assert_eq!(client.query_one(&statement, &[]).await?.get::<_, i32>(0), n);
    }
    let left: i64 = client.query_one("SELECT count(*) FROM pg_prepared_statements", &[]).await?.get(0);
    assert!(left < 5, "{left} statements are left");
    Ok(())
}

#[tokio::test]
async fn types_of_the_database_in_prepared_statements() -> Outcome {
    let client = connect().await;
    let name = fresh();
    client.batch_execute(&format!("CREATE TYPE {name} AS ENUM ('low', 'high')")).await?;
    client.batch_execute(&format!("CREATE TYPE {name}_pair AS (a int4, b {name})")).await?;
    let statement =
        client.prepare(&format!("SELECT 'high'::{name}, ROW(1, 'low')::{name}_pair, ARRAY['low']::{name}[]")).await?;
    let names: Vec<_> = statement.columns().iter().map(|column| column.type_().name().to_owned()).collect();
    assert_eq!(names, [name.clone(), format!("{name}_pair"), format!("_{name}")]);
    client.query_one(&statement, &[]).await?;
    Ok(())
}

#[tokio::test]
async fn ddl_between_executions() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4").await;
    client.batch_execute(&format!("INSERT INTO {name} VALUES (1)")).await?;
    let star = client.prepare(&format!("SELECT * FROM {name}")).await?;
    let one = client.prepare(&format!("SELECT a FROM {name}")).await?;
    assert_eq!(client.query(&star, &[]).await?.len(), 1);
    client.batch_execute(&format!("ALTER TABLE {name} ADD b int4")).await?;
    assert_eq!(code(client.query(&star, &[]).await), SqlState::FEATURE_NOT_SUPPORTED);
    assert_eq!(client.query_one(&one, &[]).await?.get::<_, i32>(0), 1);
    client.batch_execute(&format!("ALTER TABLE {name} ALTER a TYPE text")).await?;
    assert_eq!(code(client.query(&one, &[]).await), SqlState::FEATURE_NOT_SUPPORTED);
    Ok(())
}

#[tokio::test]
async fn table_made_again_under_a_prepared_statement() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4").await;
    let read = client.prepare(&format!("SELECT count(*) FROM {name}")).await?;
    for n in 0..5i64 {
        client.batch_execute(&format!("DROP TABLE {name}; CREATE TABLE {name} (a int4, b text)")).await?;
        client.execute(&format!("INSERT INTO {name} SELECT generate_series(1, $1::int8)"), &[&n]).await?;
        assert_eq!(client.query_one(&read, &[]).await?.get::<_, i64>(0), n);
    }
    Ok(())
}

#[tokio::test]
async fn search_path_changes_under_a_prepared_statement() -> Outcome {
    let client = connect().await;
    let name = fresh();
    for schema in ["a", "b"] {
        client
            .batch_execute(&format!(
                "CREATE SCHEMA {name}{schema}; CREATE TABLE {name}{schema}.t AS SELECT '{schema}'::text AS x"
            ))
            .await?;
    }
    client.batch_execute(&format!("SET search_path = {name}a")).await?;
    let read = client.prepare("SELECT x FROM t").await?;
    for schema in ["a", "b", "a"] {
        client.batch_execute(&format!("SET search_path = {name}{schema}")).await?;
        assert_eq!(client.query_one(&read, &[]).await?.get::<_, String>(0), schema);
    }
    Ok(())
}

#[tokio::test]
async fn pipelined_queries() -> Outcome {
    let client = connect().await;
    let statement = client.prepare("SELECT $1::int8").await?;
    let numbers: Vec<i64> = (0..500).collect();
    let queries = numbers.iter().map(|n| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[n]).await.map(|row| row.get::<_, i64>(0)) }
    });
    assert_eq!(future::try_join_all(queries).await?, numbers);
    Ok(())
}

#[tokio::test]
async fn pipelined_preparing() -> Outcome {
    let client = connect().await;
    let queries = (0..200i32).map(|n| {
        let client = &client;
        async move {
            let statement = client.prepare(&format!("SELECT {n} + $1::int4")).await?;
            client.query_one(&statement, &[&n]).await.map(|row| row.get::<_, i32>(0))
        }
    });
    assert_eq!(future::try_join_all(queries).await?, (0..200).map(|n| 2 * n).collect::<Vec<_>>());
    Ok(())
}

#[tokio::test]
async fn pipelined_errors() -> Outcome {
    let client = connect().await;
    let statement = client.prepare("SELECT 10 / $1::int4").await?;
    let numbers: Vec<i32> = (0..100).map(|n| n % 5).collect();
    let results = future::join_all(numbers.iter().map(|n| {
        let (client, statement) = (&client, &statement);
        async move { client.query_one(statement, &[n]).await }
    }))
    .await;
    for (n, result) in numbers.iter().zip(results) {
        match n {
            0 => assert_eq!(code(result), SqlState::DIVISION_BY_ZERO),
            n => assert_eq!(result?.get::<_, i32>(0), 10 / n),
        }
    }
    Ok(())
}

#[tokio::test]
async fn pipelined_writes_and_reads() -> Outcome {
    let client = connect().await;
    let name = table(&client, "n int8").await;
    let insert = client.prepare(&format!("INSERT INTO {name} VALUES ($1)")).await?;
    let count = client.prepare(&format!("SELECT count(*) FROM {name}")).await?;
    for n in 1..=100i64 {
        let parameters: [&(dyn ToSql + Sync); 1] = [&n];
        let (written, read) = future::join(client.execute(&insert, &parameters), client.query_one(&count, &[])).await;
        assert_eq!((written?, read?.get::<_, i64>(0)), (1, n));
    }
    Ok(())
}

#[tokio::test]
async fn pipelined_transaction() -> Outcome {
    let client = connect().await;
    let name = table(&client, "n int4").await;
    let insert = format!("INSERT INTO {name} VALUES (1)");
    let (a, b, c, d) = future::join4(
        client.batch_execute("BEGIN"),
        client.batch_execute(&insert),
        client.batch_execute("ROLLBACK"),
        client.batch_execute(&insert),
    )
    .await;
    (a?, b?, c?, d?);
    assert_eq!(client.query(&format!("SELECT * FROM {name}"), &[]).await?.len(), 1);
    Ok(())
}

#[tokio::test]
async fn pipelined_queries_dropped_unanswered() -> Outcome {
    let client = connect().await;
    for n in 0..50i32 {
        _ = tokio::time::timeout(
            Duration::from_micros(300),
            client.query("SELECT pg_sleep(0.002), repeat('x', 10000)", &[]),
        )
        .await;
        assert_eq!(client.query_one("SELECT $1::int4", &[&n]).await?.get::<_, i32>(0), n);
    }
    Ok(())
}

#[tokio::test]
async fn transaction_commit_rollback_savepoint() -> Outcome {
    let mut client = connect().await;
    let name = table(&client, "n int4").await;
    let insert = client.prepare(&format!("INSERT INTO {name} VALUES ($1)")).await?;
    let mut transaction = client.transaction().await?;
    transaction.execute(&insert, &[&1i32]).await?;
    let savepoint = transaction.transaction().await?;
    savepoint.execute(&insert, &[&2i32]).await?;
    savepoint.rollback().await?;
    let mut savepoint = transaction.savepoint("named").await?;
    savepoint.execute(&insert, &[&3i32]).await?;
    let inner = savepoint.transaction().await?;
    assert_eq!(code(inner.query("SELECT 1/0", &[]).await), SqlState::DIVISION_BY_ZERO);
    inner.rollback().await?;
    savepoint.commit().await?;
    transaction.commit().await?;
    let rows = client.query(&format!("SELECT n FROM {name} ORDER BY n"), &[]).await?;
    assert_eq!(rows.iter().map(|row| row.get(0)).collect::<Vec<i32>>(), [1, 3]);
    Ok(())
}

#[tokio::test]
async fn transaction_dropped_is_rolled_back() -> Outcome {
    let mut client = connect().await;
    let name = table(&client, "n int4").await;
    let transaction = client.transaction().await?;
    transaction.batch_execute(&format!("INSERT INTO {name} VALUES (1)")).await?;
    drop(transaction);
    assert_eq!(client.query(&format!("SELECT * FROM {name}"), &[]).await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn transaction_read_only_deferrable_serializable() -> Outcome {
    let mut client = connect().await;
    let level = tokio_postgres::IsolationLevel::Serializable;
    let transaction =
        client.build_transaction().isolation_level(level).read_only(true).deferrable(true).start().await?;
    let row = transaction
        .query_one("SELECT current_setting('transaction_isolation'), current_setting('transaction_read_only')", &[])
        .await?;
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("serializable", "on"));
    transaction.commit().await?;
    Ok(())
}

#[tokio::test]
async fn portals() -> Outcome {
    let mut client = connect().await;
    let transaction = client.transaction().await?;
    let portal = transaction.bind("SELECT generate_series(1, 10)", &[]).await?;
    let other = transaction.bind("SELECT generate_series(11, 20)", &[]).await?;
    let mut seen = Vec::new();
    for (portal, rows) in [(&portal, 4), (&other, 3), (&portal, 0), (&other, 7)] {
        let rows = transaction.query_portal(portal, rows).await?;
        seen.push(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>());
    }
    assert_eq!(seen, [vec![1, 2, 3, 4], vec![11, 12, 13], vec![5, 6, 7, 8, 9, 10], (14..=20).collect()]);
    transaction.commit().await?;
    Ok(())
}

#[tokio::test]
async fn rows_streamed_and_left() -> Outcome {
    let client = connect().await;
    {
        let rows = client.query_raw("SELECT generate_series(1, 200000)", Vec::<i32>::new()).await?;
        pin_mut!(rows);
        for n in 1..=10 {
            assert_eq!(rows.try_next().await?.unwrap().get::<_, i32>(0), n);
        }
    }
    assert_eq!(client.query_one("SELECT 7", &[]).await?.get::<_, i32>(0), 7);
    Ok(())
}

#[tokio::test]
async fn simple_queries() -> Outcome {
    let client = connect().await;
    let messages = client
        .simple_query(
            "SELECT 1 AS a; CREATE TEMP TABLE own (x int); INSERT INTO own VALUES (1), (2); SELECT x FROM own",
        )
        .await?;
    let rows = messages.iter().filter(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_))).count();
    assert_eq!(rows, 3);
    assert_eq!(code(client.simple_query("SELECT 1; SELECT 1/0; SELECT 2").await), SqlState::DIVISION_BY_ZERO);
    Ok(())
}

#[tokio::test]
async fn query_typed() -> Outcome {
    let client = connect().await;
    let rows = client.query_typed("SELECT $1 + 1, $2", &[(&41i32, Type::INT4), (&"x", Type::TEXT)]).await?;
    assert_eq!((rows[0].get::<_, i32>(0), rows[0].get::<_, &str>(1)), (42, "x"));
    Ok(())
}

#[tokio::test]
async fn copy_in_text() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4, b text").await;
    let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {name} FROM STDIN")).await?;
    pin_mut!(sink);
    for n in 0..2000 {
        sink.feed(format!("{n}\t{}\n", "x".repeat(100)).into()).await?;
    }
    assert_eq!(sink.finish().await?, 2000);
    assert_eq!(client.query_one(&format!("SELECT sum(length(b)) FROM {name}"), &[]).await?.get::<_, i64>(0), 200_000);
    Ok(())
}

#[tokio::test]
async fn copy_in_dropped() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4").await;
    {
        let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {name} FROM STDIN")).await?;
        pin_mut!(sink);
        sink.send("1\n".into()).await?;
    }
    assert_eq!(client.query(&format!("SELECT * FROM {name}"), &[]).await?.len(), 0);
    Ok(())
}

#[tokio::test]
async fn copy_binary_in_and_out() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4, b text").await;
    let sink = client.copy_in(&format!("COPY {name} FROM STDIN BINARY")).await?;
    let writer = BinaryCopyInWriter::new(sink, &[Type::INT4, Type::TEXT]);
    pin_mut!(writer);
    for n in 0..1000i32 {
        writer.as_mut().write(&[&n, &format!("row {n}")]).await?;
    }
    assert_eq!(writer.finish().await?, 1000);
    let out = client.copy_out(&format!("COPY (SELECT a, b FROM {name} ORDER BY a) TO STDOUT BINARY")).await?;
    let rows: Vec<_> = BinaryCopyOutStream::new(out, &[Type::INT4, Type::TEXT]).try_collect().await?;
    assert_eq!(rows.len(), 1000);
    assert_eq!((rows[999].get::<i32>(0), rows[999].get::<&str>(1)), (999, "row 999"));
    Ok(())
}

#[tokio::test]
async fn copy_out_of_what_was_just_written() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4").await;
    for n in 1..=20 {
        client.batch_execute(&format!("INSERT INTO {name} VALUES ({n})")).await?;
        let out = client.copy_out(&format!("COPY {name} TO STDOUT")).await?;
        assert_eq!(
            out.map_ok(|part| part.iter().filter(|&&byte| byte == b'\n').count())
                .try_fold(0, |a, b| future::ok(a + b))
                .await?,
            n
        );
    }
    Ok(())
}

#[tokio::test]
async fn copy_with_a_wrong_row() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4").await;
    let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY {name} FROM STDIN")).await?;
    pin_mut!(sink);
    sink.send("x\n".into()).await?;
    assert_eq!(code(sink.finish().await), SqlState::INVALID_TEXT_REPRESENTATION);
    client.query_one("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn notifications() -> Outcome {
    let (listener, mut told) = heard().await;
    let sender = connect().await;
    listener.batch_execute("LISTEN rust").await?;
    sender.batch_execute("NOTIFY rust, 'a'; NOTIFY rust, 'b'").await?;
    sender.execute("SELECT pg_notify('rust', $1)", &[&"c"]).await?;
    for payload in ["a", "b", "c"] {
        assert_eq!(notification(&mut told).await, ("rust".to_owned(), payload.to_owned()));
    }
    Ok(())
}

#[tokio::test]
async fn notifications_of_oneself_between_queries() -> Outcome {
    let (client, mut told) = heard().await;
    client.batch_execute("LISTEN own_rust").await?;
    for n in 0..20 {
        client.batch_execute(&format!("NOTIFY own_rust, '{n}'")).await?;
        assert_eq!(client.query_one("SELECT 1", &[]).await?.get::<_, i32>(0), 1);
    }
    for n in 0..20 {
        assert_eq!(notification(&mut told).await.1, n.to_string());
    }
    Ok(())
}

#[tokio::test]
async fn notices() -> Outcome {
    let (client, mut told) = heard().await;
    client.batch_execute("DO $$ BEGIN RAISE NOTICE 'hear'; END $$").await?;
    match told.recv().await {
        Some(AsyncMessage::Notice(notice)) => assert_eq!(notice.message(), "hear"),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[tokio::test]
async fn cancel_by_request() -> Outcome {
    let client = connect().await;
    let token = client.cancel_token();
    let (slept, _) = future::join(client.batch_execute("SELECT pg_sleep(20)"), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        token.cancel_query(NoTls).await
    })
    .await;
    assert_eq!(code(slept), SqlState::QUERY_CANCELED);
    client.query_one("SELECT 1", &[]).await?;
    Ok(())
}

#[tokio::test]
async fn cancel_hits_nobody_else() -> Outcome {
    let clients = future::join_all((0..10).map(|_| connect())).await;
    let token = clients[3].cancel_token();
    let (results, _) = future::join(
        future::join_all(clients.iter().map(|client| client.batch_execute("SELECT pg_sleep(1)"))),
        async {
            tokio::time::sleep(Duration::from_millis(400)).await;
            token.cancel_query(NoTls).await
        },
    )
    .await;
    for (n, result) in results.into_iter().enumerate() {
        assert_eq!(result.is_err(), n == 3, "client {n}");
    }
    Ok(())
}

#[tokio::test]
async fn cancel_when_idle_is_harmless() -> Outcome {
    let client = connect().await;
    for _ in 0..10 {
        client.cancel_token().cancel_query(NoTls).await?;
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    client.batch_execute("SELECT pg_sleep(0.1)").await?;
    Ok(())
}

#[tokio::test]
async fn settings_of_sixty_clients() -> Outcome {
    let clients = future::join_all((0..60).map(|_| connect())).await;
    future::try_join_all(clients.iter().enumerate().map(|(n, client)| async move {
        client.batch_execute(&format!("SET application_name = 'client {n}'; SET work_mem = '{}kB'", 64 + n)).await?;
        for _ in 0..5 {
            let row = client
                .query_one("SELECT current_setting('application_name'), current_setting('work_mem')", &[])
                .await?;
            assert_eq!(
                (row.get::<_, String>(0), row.get::<_, String>(1)),
                (format!("client {n}"), format!("{}kB", 64 + n))
            );
        }
        Ok::<_, tokio_postgres::Error>(())
    }))
    .await?;
    Ok(())
}

#[tokio::test]
async fn error_fields() -> Outcome {
    let client = connect().await;
    let name = table(&client, "a int4 CONSTRAINT positive CHECK (a > 0)").await;
    let error = client.execute(&format!("INSERT INTO {name} VALUES ($1)"), &[&0i32]).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!(
        (error.code(), error.constraint(), error.table()),
        (&SqlState::CHECK_VIOLATION, Some("positive"), Some(&*name))
    );
    Ok(())
}

#[tokio::test]
async fn sqlx_statement_cache_overflows() -> Outcome {
    let mut connection = PgConnection::connect_with(&options().statement_cache_capacity(10)).await?;
    for round in 0..3i32 {
        for n in 0..50 {
            let value: i32 = sqlx::query_scalar(AssertSqlSafe(format!("SELECT {n} + $1")))
                .bind(round)
                .fetch_one(&mut connection)
                .await?;
            assert_eq!(value, n + round);
        }
    }
    assert_eq!(connection.cached_statements_size(), 10);
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_prepared_statements").fetch_one(&mut connection).await?;
    assert!(left <= 11, "{left} statements are left");
    Ok(())
}

#[tokio::test]
async fn sqlx_statement_cache_cleared() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    for n in 0..10i32 {
        assert_eq!(sqlx::query_scalar::<_, i32>("SELECT $1").bind(n).fetch_one(&mut connection).await?, n);
        connection.clear_cached_statements().await?;
    }
    Ok(())
}

#[tokio::test]
async fn sqlx_not_persistent() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    for n in 0..50i32 {
        assert_eq!(
            sqlx::query_scalar::<_, i32>("SELECT $1").bind(n).persistent(false).fetch_one(&mut connection).await?,
            n
        );
    }
    Ok(())
}

#[tokio::test]
async fn sqlx_pool_of_many_tasks() -> Outcome {
    let pool = pool(20).await;
    let name = fresh();
    pool.execute(AssertSqlSafe(format!("CREATE TABLE {name} (id int PRIMARY KEY, n int8 NOT NULL)"))).await?;
    pool.execute(AssertSqlSafe(format!("INSERT INTO {name} SELECT n, 100 FROM generate_series(0, 9) n"))).await?;
    let tasks = (0..300i32).map(|n| {
        let (pool, name) = (pool.clone(), name.clone());
        tokio::spawn(async move {
            let mut transaction = pool.begin().await?;
            let mut ids = [n % 10, (n * 7 + 1) % 10];
            ids.sort();
            for (id, by) in ids.into_iter().zip([-1i64, 1]) {
                let update = AssertSqlSafe(format!("UPDATE {name} SET n = n + $1 WHERE id = $2"));
                sqlx::query(update).bind(by).bind(id).execute(&mut *transaction).await?;
            }
            if n % 3 == 0 { transaction.rollback().await } else { transaction.commit().await }
        })
    });
    for task in future::join_all(tasks).await {
        task??;
    }
    let sum: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT sum(n)::int8 FROM {name}"))).fetch_one(&pool).await?;
    assert_eq!(sum, 1000);
    Ok(())
}

#[tokio::test]
async fn sqlx_pool_reads_what_another_connection_wrote() -> Outcome {
    let pool = pool(8).await;
    let name = fresh();
    pool.execute(AssertSqlSafe(format!("CREATE TABLE {name} (n int)"))).await?;
    for n in 1..=50i32 {
        sqlx::query(AssertSqlSafe(format!("INSERT INTO {name} VALUES ($1)"))).bind(n).execute(&pool).await?;
        let found: i32 =
            sqlx::query_scalar(AssertSqlSafe(format!("SELECT max(n) FROM {name}"))).fetch_one(&pool).await?;
        assert_eq!(found, n);
    }
    Ok(())
}

#[tokio::test]
async fn sqlx_transaction_dropped_and_nested() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    let name = fresh();
    connection.execute(AssertSqlSafe(format!("CREATE TABLE {name} (n int)"))).await?;
    let insert = || sqlx::query(AssertSqlSafe(format!("INSERT INTO {name} VALUES (1)")));
    {
        let mut transaction = connection.begin().await?;
        insert().execute(&mut *transaction).await?;
    }
    let mut transaction = connection.begin().await?;
    insert().execute(&mut *transaction).await?;
    {
        let mut nested = transaction.begin().await?;
        insert().execute(&mut *nested).await?;
    }
    transaction.commit().await?;
    let count: i64 =
        sqlx::query_scalar(AssertSqlSafe(format!("SELECT count(*) FROM {name}"))).fetch_one(&mut connection).await?;
    assert_eq!(count, 1);
    Ok(())
}

#[tokio::test]
async fn sqlx_fetch_left_early() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    for _ in 0..5 {
        let mut rows = sqlx::query("SELECT generate_series(1, 20000)").fetch(&mut connection);
        assert_eq!(rows.try_next().await?.unwrap().get::<i32, _>(0), 1);
    }
    assert_eq!(sqlx::query_scalar::<_, i32>("SELECT 5").fetch_one(&mut connection).await?, 5);
    Ok(())
}

#[tokio::test]
async fn sqlx_ddl_between_executions() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    let name = fresh();
    connection.execute(AssertSqlSafe(format!("CREATE TABLE {name} AS SELECT 1 AS a"))).await?;
    let read = || sqlx::query(AssertSqlSafe(format!("SELECT * FROM {name}")));
    read().fetch_one(&mut connection).await?;
    connection.execute(AssertSqlSafe(format!("ALTER TABLE {name} ADD b int"))).await?;
    let error = read().fetch_one(&mut connection).await.unwrap_err();
    assert_eq!(sqlx_code(&error), "0A000");
    connection.clear_cached_statements().await?;
    assert_eq!(read().fetch_one(&mut connection).await?.len(), 2);
    Ok(())
}

#[tokio::test]
async fn sqlx_copy() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    connection.execute("CREATE TEMP TABLE copied (a int, b text)").await?;
    let mut copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
    copy.send("1\tx\n2\ty\n".as_bytes()).await?;
    assert_eq!(copy.finish().await?, 2);
    let copy = connection.copy_in_raw("COPY copied FROM STDIN").await?;
    assert!(copy.abort("no more").await.is_ok());
    let parts: Vec<bytes::Bytes> = connection.copy_out_raw("COPY copied TO STDOUT").await?.try_collect().await?;
    assert_eq!(parts.concat(), b"1\tx\n2\ty\n");
    Ok(())
}

#[tokio::test]
async fn sqlx_listener() -> Outcome {
    let pool = pool(3).await;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen_all(["sqlx_one", "sqlx_two"]).await?;
    sqlx::query("SELECT pg_notify('sqlx_one', 'a'), pg_notify('sqlx_two', 'b')").execute(&pool).await?;
    for expected in [("sqlx_one", "a"), ("sqlx_two", "b")] {
        let told = tokio::time::timeout(Duration::from_secs(5), listener.recv()).await??;
        assert_eq!((told.channel(), told.payload()), expected);
    }
    listener.unlisten("sqlx_one").await?;
    pool.execute("NOTIFY sqlx_one; NOTIFY sqlx_two").await?;
    let told = tokio::time::timeout(Duration::from_secs(5), listener.recv()).await??;
    assert_eq!(told.channel(), "sqlx_two");
    Ok(())
}

#[tokio::test]
async fn sqlx_listener_connects_again() -> Outcome {
    let pool = pool(3).await;
    let mut listener = PgListener::connect_with(&pool).await?;
    listener.listen("sqlx_again").await?;
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut listener).await?;
    sqlx::query("SELECT pg_terminate_backend($1)").bind(pid).execute(&pool).await?;
    assert!(tokio::time::timeout(Duration::from_secs(5), listener.try_recv()).await??.is_none());
    pool.execute("NOTIFY sqlx_again, 'x'").await?;
    let told = tokio::time::timeout(Duration::from_secs(5), listener.recv()).await??;
    assert_eq!(told.payload(), "x");
    Ok(())
}

#[tokio::test]
async fn sqlx_advisory_lock() -> Outcome {
    let pool = pool(4).await;
    let lock = sqlx::postgres::PgAdvisoryLock::new("pgweir");
    let guard = lock.acquire(pool.acquire().await?).await?;
    assert!(lock.try_acquire(pool.acquire().await?).await?.is_right());
    guard.release_now().await?;
    assert!(lock.try_acquire(pool.acquire().await?).await?.is_left());
    Ok(())
}

#[tokio::test]
async fn sqlx_types() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    type Row = (uuid::Uuid, chrono::DateTime<chrono::Utc>, serde_json::Value, Vec<Option<String>>, Vec<u8>);
    let at = chrono::DateTime::from_timestamp(86_400, 0).unwrap();
    let row: Row = sqlx::query_as("SELECT $1, $2, $3, $4, $5")
        .bind(uuid::Uuid::from_u128(7))
        .bind(at)
        .bind(serde_json::json!({"a": [1]}))
        .bind(vec![Some("x".to_owned()), None])
        .bind(vec![0u8, 255])
        .fetch_one(&mut connection)
        .await?;
    assert_eq!(
        row,
        (uuid::Uuid::from_u128(7), at, serde_json::json!({"a": [1]}), vec![Some("x".to_owned()), None], vec![0, 255])
    );
    Ok(())
}

#[tokio::test]
async fn sqlx_enum_made_just_before() -> Outcome {
    let mut connection = PgConnection::connect_with(&options()).await?;
    let name = fresh();
    connection.execute(AssertSqlSafe(format!("CREATE TYPE {name} AS ENUM ('low', 'high')"))).await?;
    let row = sqlx::query(AssertSqlSafe(format!("SELECT 'high'::{name} AS x"))).fetch_one(&mut connection).await?;
    assert_eq!(row.try_get_unchecked::<String, _>(0)?, "high");
    Ok(())
}
