//! Cancel requests: they reach the statement that they are meant for, also in the queue, and never
//! anybody else's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_postgres::NoTls;

use crate::support::primary_only::{proxy, sqlstate, try_value, value};
use crate::support::proxy::Proxy;
use crate::support::tls::Tls;
use crate::support::{TestDatabase, connect, eventually, fresh_database, shared_cluster};

const LONG: &str = "SELECT pg_sleep(600)";

async fn runs(database: &TestDatabase) {
    let active = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query = '{LONG}' AND state = 'active' \
        AND datname = current_database()"
    );
    eventually("the statement runs", async || database.sql(&active).await == "1").await;
}

async fn url(proxy: &Proxy, database: &TestDatabase) -> String {
    proxy.url(shared_cluster().await, "postgres", &database.name)
}

#[tokio::test]
async fn a_running_statement_is_cancelled_and_its_session_goes_on() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let client = Arc::new(connect(&url(&proxy, &database).await).await);
    client.batch_execute("BEGIN").await.unwrap();
    let statement = tokio::spawn({
        let client = client.clone();
        async move { client.simple_query(LONG).await.map(drop) }
    });
    runs(&database).await;
    client.cancel_token().cancel_query(NoTls).await.unwrap();
    let error = statement.await.unwrap().unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to user request");
    assert_eq!(sqlstate(&client.simple_query("SELECT 1").await.unwrap_err()), "25P02");
    client.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_cancel_may_come_over_tls() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let certificates = cluster.certificates().unwrap();
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = certificates.server.write(files.path(), "proxy").unwrap();
    let listen = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{}\", key = \"{}\", required = true }}",
        certificate.display(),
        key.display()
    );
    let proxy = proxy(&listen).await;
    let tls = Tls::trusting(certificates, None);
    let client = Arc::new(tls.connect(&url(&proxy, &database).await).await.unwrap());
    let statement = tokio::spawn({
        let client = client.clone();
        async move { client.query(LONG, &[]).await.map(drop) }
    });
    runs(&database).await;
    client.cancel_token().cancel_query(tls).await.unwrap();
    assert_eq!(sqlstate(&statement.await.unwrap().unwrap_err()), "57014");
    assert_eq!(value(&client, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_client_that_waits_in_the_queue_can_cancel() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"60s\"").await;
    let url = url(&proxy, &database).await;
    let (holder, waiter) = (connect(&url).await, Arc::new(connect(&url).await));
    holder.batch_execute("BEGIN").await.unwrap();
    let waiting = format!("pgweir_clients{{database=\"{}\",state=\"waiting\"}}", database.name);
    for extended in [false, true] {
        let statement = tokio::spawn({
            let client = waiter.clone();
            async move {
                if extended {
                    client.query("SELECT 1", &[]).await.map(drop)
                } else {
                    client.simple_query("SELECT 1").await.map(drop)
                }
            }
        });
        eventually("it waits", async || proxy.metric(&waiting) == 1.0).await;
        waiter.cancel_token().cancel_query(NoTls).await.unwrap();
        let error = statement.await.unwrap().unwrap_err();
        assert_eq!(sqlstate(&error), "57014");
        assert_eq!(proxy.metric(&waiting), 0.0);
    }
    holder.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&waiter, "SELECT 1").await, "1");
}

/// Process id and key as the client was told them.
struct RawClient {
    stream: tokio::net::TcpStream,
    pid: i32,
    key: Vec<u8>,
}

/// Logs in without a password (`auth = "trust"`) and reads up to the first `ReadyForQuery`.
async fn raw_login(port: u16, database: &str) -> RawClient {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut startup = vec![0, 3, 0, 0];
    for word in ["user", "postgres", "database", database, ""] {
        startup.extend(word.as_bytes());
        startup.push(0);
    }
    stream.write_all(&(startup.len() as u32 + 4).to_be_bytes()).await.unwrap();
    stream.write_all(&startup).await.unwrap();
    let (mut pid, mut key) = (0, Vec::new());
    loop {
        let (tag, body) = frame(&mut stream).await;
        match tag {
            b'K' => (pid, key) = (i32::from_be_bytes(body[..4].try_into().unwrap()), body[4..].to_vec()),
            b'Z' => return RawClient { stream, pid, key },
            b'E' => panic!("{}", String::from_utf8_lossy(&body)),
            _ => {}
        }
    }
}

async fn frame(stream: &mut tokio::net::TcpStream) -> (u8, Vec<u8>) {
    let tag = stream.read_u8().await.unwrap();
    let mut body = vec![0; stream.read_u32().await.unwrap() as usize - 4];
    stream.read_exact(&mut body).await.unwrap();
    (tag, body)
}

/// Sends a cancel request and waits until the proxy has closed the connection; it says nothing.
async fn raw_cancel(port: u16, pid: i32, key: &[u8]) {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&(key.len() as u32 + 12).to_be_bytes()).await.unwrap();
    stream.write_all(&80_877_102_u32.to_be_bytes()).await.unwrap();
    stream.write_all(&pid.to_be_bytes()).await.unwrap();
    stream.write_all(key).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn only_the_right_process_id_and_key_together_cancel() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let config = crate::support::primary_only::config(cluster, "", &[]);
    let password = url::Url::parse(&cluster.primary().url("postgres", "postgres")).unwrap();
    let password = password.password().unwrap();
    let trust = format!("[[users]]\nname = \"postgres\"\nauth = \"trust\"\nserver_password = \"{password}\"\n");
    let proxy = Proxy::start(&(config + &trust)).await;
    let mut client = raw_login(proxy.port, &database.name).await;
    let other = raw_login(proxy.port, &database.name).await;
    client.stream.write_all(b"Q").await.unwrap();
    client.stream.write_all(&(LONG.len() as u32 + 5).to_be_bytes()).await.unwrap();
    client.stream.write_all(LONG.as_bytes()).await.unwrap();
    client.stream.write_all(&[0]).await.unwrap();
    runs(&database).await;
    let mut wrong = client.key.clone();
    wrong[0] ^= 1;
    raw_cancel(proxy.port, client.pid, &wrong).await;
    raw_cancel(proxy.port, client.pid, &other.key).await;
    raw_cancel(proxy.port, other.pid, &client.key).await;
    raw_cancel(proxy.port, client.pid, &[&client.key[..], &client.key[..]].concat()).await;
    runs(&database).await;
    let nothing_yet = tokio::time::timeout(Duration::from_millis(50), client.stream.read_u8()).await;
    assert!(nothing_yet.is_err());
    raw_cancel(proxy.port, client.pid, &client.key).await;
    let (tag, body) = loop {
        let (tag, body) = frame(&mut client.stream).await;
        if tag != b'T' {
            break (tag, body);
        }
    };
    let body = String::from_utf8_lossy(&body).into_owned();
    assert!(tag == b'E' && body.contains("57014"), "{body}");
}

#[tokio::test]
async fn a_cancel_of_an_idle_session_does_nothing() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let url = url(&proxy, &database).await;
    let (idle, other) = (connect(&url).await, connect(&url).await);
    assert_eq!(value(&idle, "SELECT 1").await, "1");
    let statement = tokio::spawn(async move { value(&other, "SELECT 'slept' FROM pg_sleep(0.3)").await });
    for _ in 0..10 {
        idle.cancel_token().cancel_query(NoTls).await.unwrap();
    }
    assert_eq!(statement.await.unwrap(), "slept");
    assert_eq!(value(&idle, "SELECT 1").await, "1");
    // Between the statements of a transaction nothing runs either.
    idle.batch_execute("BEGIN").await.unwrap();
    idle.cancel_token().cancel_query(NoTls).await.unwrap();
    assert_eq!(value(&idle, "SELECT 2").await, "2");
    idle.batch_execute("COMMIT").await.unwrap();
}

/// All on one server connection, half of the clients cancelling at any moment: also while others run, while
/// settings are made for them, and while the proxy looks at what a statement left behind.
#[tokio::test]
async fn a_late_cancel_strikes_nobody_else() {
    const PAIRS: usize = 12;
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"120s\"").await;
    let shared_url: Arc<str> = url(&proxy, &database).await.into();
    let struck = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for index in 0..PAIRS {
        let (url, struck) = (shared_url.clone(), struck.clone());
        tasks.push(tokio::spawn(async move {
            let client = connect(&url).await;
            let token = client.cancel_token();
            let over = Arc::new(AtomicBool::new(false));
            let canceller = tokio::spawn({
                let over = over.clone();
                async move {
                    while !over.load(Ordering::Relaxed) {
                        token.cancel_query(NoTls).await.unwrap();
                        tokio::time::sleep(Duration::from_millis(rand::random_range(0..8))).await;
                    }
                }
            });
            for round in 0..30 {
                let statement = match round % 3 {
                    0 => "SELECT pg_sleep(0.003)".to_owned(),
                    1 => format!("SET work_mem = {}", 1000 + index),
                    _ => "BEGIN; SELECT 1; COMMIT".to_owned(),
                };
                match client.simple_query(&statement).await {
                    Ok(_) => {}
                    Err(error) => {
                        assert_eq!(sqlstate(&error), "57014", "{error:?}");
                        struck.fetch_add(1, Ordering::Relaxed);
                        if client.simple_query("ROLLBACK").await.is_err() {
                            assert!(!client.is_closed());
                        }
                    }
                }
            }
            over.store(true, Ordering::Relaxed);
            canceller.await.unwrap();
        }));
        let url = shared_url.clone();
        tasks.push(tokio::spawn(async move {
            let client = connect(&url).await;
            for round in 0..30 {
                client.simple_query("SELECT pg_sleep(0.002)").await.unwrap();
                client.simple_query(&format!("SET app.mine = '{index}.{round}'")).await.unwrap();
                assert_eq!(value(&client, "SHOW app.mine").await, format!("{index}.{round}"));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert!(struck.load(Ordering::Relaxed) > 0, "no cancel met its own statement, so nothing was tested");
}

/// A cancel that meets what the proxy itself asks or sets on the client's connection, behind or before the
/// client's own statement, fails at most a statement, as with PostgreSQL: never the session.
#[tokio::test]
async fn a_cancel_costs_a_statement_and_never_the_session() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 2\nqueue_timeout = \"120s\"").await;
    let shared_url: Arc<str> = url(&proxy, &database).await.into();
    let tasks: Vec<_> = (0..2)
        .map(|index| {
            let url = shared_url.clone();
            tokio::spawn(async move {
                let client = connect(&url).await;
                let token = client.cancel_token();
                let over = Arc::new(AtomicBool::new(false));
                let canceller = tokio::spawn({
                    let over = over.clone();
                    async move {
                        while !over.load(Ordering::Relaxed) {
                            token.cancel_query(NoTls).await.unwrap();
                        }
                    }
                });
                for round in 0..20 {
                    let statement = format!("SET work_mem = {}", 1000 + index * 1000 + round);
                    let set = client.simple_query(&statement).await;
                    let shown = client.simple_query("SELECT 1").await;
                    for error in [set.err(), shown.err()].into_iter().flatten() {
                        assert_eq!(sqlstate(&error), "57014", "{error:?}");
                    }
                }
                over.store(true, Ordering::Relaxed);
                canceller.await.unwrap();
                // tokio-postgres does not wait until a cancel is over: the last ones may still be on their way.
                while let Err(error) = client.simple_query("SELECT 1").await {
                    assert_eq!(sqlstate(&error), "57014", "{error:?}");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

/// It strikes the statement, once that has begun, or nothing.
#[tokio::test]
async fn a_cancel_does_not_strike_what_makes_the_settings() {
    let database = fresh_database("CREATE TEXT SEARCH CONFIGURATION own (COPY = simple)").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let url = url(&proxy, &database).await;
    let (one, two) = (Arc::new(connect(&url).await), connect(&url).await);
    one.batch_execute("SET default_text_search_config = 'public.own'").await.unwrap();
    let direct = connect(&shared_cluster().await.primary().url("postgres", &database.name)).await;
    for _ in 0..3 {
        value(&two, "SELECT 1").await;
        // To make the setting, the server has to look into its catalog, and to wait for that.
        for (from, to) in [("own", "other"), ("other", "own")] {
            direct.batch_execute(&format!("ALTER TEXT SEARCH CONFIGURATION {from} RENAME TO {to}")).await.unwrap();
        }
        direct.batch_execute("BEGIN; LOCK TABLE pg_catalog.pg_ts_config IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let asked = {
            let one = one.clone();
            tokio::spawn(async move { try_value(&one, "SHOW default_text_search_config").await })
        };
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'pg_ts_config'::regclass \
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        eventually("it waits", async || value(&direct, waits).await == "1").await;
        let token = one.cancel_token();
        let cancel = tokio::spawn(async move { token.cancel_query(NoTls).await });
        tokio::time::sleep(Duration::from_millis(200)).await;
        direct.batch_execute("COMMIT").await.unwrap();
        cancel.await.unwrap().unwrap();
        match asked.await.unwrap() {
            Ok(found) => assert_eq!(found, "public.own"),
            Err(error) => assert_eq!(
                error.as_db_error().map(|error| error.message()),
                Some("canceling statement due to user request"),
                "{error:?}"
            ),
        }
        assert_eq!(value(&one, "SHOW default_text_search_config").await, "public.own");
    }
}
