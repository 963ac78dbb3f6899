//! Session state over shared server connections: settings follow their client and nobody else, and what
//! only one server connection can hold keeps its client there until it is gone.

use std::sync::Arc;

use crate::support::primary_only::{connect_cuttable, proxy, sqlstate, try_value, value};
use crate::support::proxy::Proxy;
use crate::support::raw::{Frame, RawClient};
use crate::support::stage::Stage;
use crate::support::{TestDatabase, connect, eventually, fresh_database, say, shared_cluster, unique};

/// Which server connection answers. (Whoever asked for it plainly would keep it.)
const PID: &str = "SELECT pid FROM pg_stat_activity WHERE pid = pg_backend_pid()";

async fn url(proxy: &Proxy, database: &TestDatabase) -> String {
    proxy.url(shared_cluster().await, "postgres", &database.name)
}

fn pins(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("pgweir_session_pins_total{{reason=\"{reason}\"}}"))
}

/// Each client makes its settings in another way and checks all of them in every transaction, while
/// three server connections go round among ten clients.
#[tokio::test]
async fn settings_follow_their_client_over_shared_connections() {
    const CLIENTS: usize = 10;
    let schemas: String =
        (0..CLIENTS).map(|n| format!("CREATE SCHEMA s{n}; CREATE TABLE s{n}.t AS SELECT {n} AS x;")).collect();
    let database = fresh_database(&schemas).await;
    let proxy = proxy("[pool]\nsize = 3\nqueue_timeout = \"60s\"").await;
    let url: Arc<str> = url(&proxy, &database).await.into();
    let tasks: Vec<_> = (0..CLIENTS)
        .map(|n| {
            let url = url.clone();
            tokio::spawn(async move {
                let client = connect(&format!("{url}?application_name=app{n}")).await;
                let zone = format!("Etc/GMT-{n}");
                client.batch_execute(&format!("SET search_path = s{n}, public; SET timezone = '{zone}'")).await.unwrap();
                for round in 0..15 {
                    let mine = format!("{n}.{round} '\\\" ü");
                    let literal = mine.replace('\'', "''");
                    match round % 4 {
                        0 => client.batch_execute(&format!("SET app.mine = '{literal}'")).await.unwrap(),
                        1 => drop(client.query("SELECT set_config('app.mine', $1, false)", &[&mine]).await.unwrap()),
                        2 => client
                            .batch_execute(&format!("BEGIN; SET app.mine = '{literal}'; COMMIT"))
                            .await
                            .unwrap(),
                        _ => {
                            client.batch_execute(&format!("SET app.mine = '{literal}'")).await.unwrap();
                            let lost = "BEGIN; SET app.mine = 'lost'; SET LOCAL timezone = 'UTC'; ROLLBACK";
                            client.batch_execute(lost).await.unwrap();
                        }
                    }
                    for _ in 0..3 {
                        let seen = "SELECT concat_ws('|', x, current_setting('timezone'), current_setting('application_name'), \
                            current_setting('app.mine'), current_setting('work_mem')) FROM t";
                        assert_eq!(value(&client, seen).await, format!("{n}|{zone}|app{n}|{mine}|4MB"));
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn a_setting_ends_as_postgresql_ends_it() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 2").await;
    let url = format!("{}?options=-c%20work_mem%3D9MB%20-c%20app.tenant%3Dme", url(&proxy, &database).await);
    let (client, other) = (connect(&url).await, proxy.connect(&database.name).await);
    let all = "SELECT concat_ws('|', current_setting('work_mem'), current_setting('app.tenant', true), \
        current_setting('app.other', true))";
    for (statements, wanted) in [
        (&["SET work_mem = '5MB'"][..], "5MB|me|"),
        (&["BEGIN", "SET work_mem = '6MB'", "ROLLBACK"], "5MB|me|"),
        (&["BEGIN", "SET LOCAL work_mem = '6MB'", "COMMIT"], "5MB|me|"),
        (
            &["BEGIN", "SET work_mem = '6MB'", "SAVEPOINT s", "SET work_mem = '7MB'", "ROLLBACK TO s", "COMMIT"],
            "6MB|me|",
        ),
        (&["SET app.other = 'x'"], "6MB|me|x"),
        (&["RESET work_mem"], "9MB|me|x"),
        (&["RESET app.other"], "9MB|me|"),
        (&["SET app.tenant = 'you'"], "9MB|you|"),
        (&["RESET app.tenant"], "9MB|me|"),
        (&["SET app.tenant = 'you'; SET work_mem = '1MB'", "RESET ALL"], "9MB|me|"),
        (&["SET app.tenant = 'you'; SET work_mem = '1MB'; SET app.other = 'x'", "DISCARD ALL"], "9MB|me|"),
        (&["SET work_mem TO DEFAULT"], "9MB|me|"),
    ] {
        for statement in statements {
            client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        }
        // A custom setting that is reset is empty and not gone, as with PostgreSQL on one connection.
        assert_eq!(value(&other, all).await.trim_end_matches('|'), "4MB", "another client's, after {statements:?}");
        let seen = value(&client, all).await;
        assert_eq!(seen.trim_end_matches('|'), wanted.trim_end_matches('|'), "after {statements:?}");
        other.batch_execute("BEGIN").await.unwrap();
        let seen = value(&client, all).await;
        assert_eq!(seen.trim_end_matches('|'), wanted.trim_end_matches('|'), "elsewhere, after {statements:?}");
        other.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn settings_made_inside_functions_are_not_lost_and_not_shared() {
    let database = fresh_database(
        "CREATE FUNCTION become(who text) RETURNS void LANGUAGE plpgsql AS \
         $$ BEGIN PERFORM set_config('app.' || 'who', who, false); PERFORM set_config('work_mem', '3MB', false); END $$;
         CREATE FUNCTION become_sql(who text) RETURNS text LANGUAGE sql AS \
         $$ SELECT set_config('app.who', who, false) $$",
    )
    .await;
    let proxy = proxy("[pool]\nsize = 2").await;
    // The first calls come before the catalog, which tells what a function may do, has been read.
    let who = "SELECT coalesce(current_setting('app.who', true), '')";
    for call in ["SELECT become('ann')", "SELECT become_sql('ann')", "DO $$ BEGIN PERFORM become('ann'); END $$"] {
        let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
        client.simple_query(call).await.unwrap();
        for _ in 0..3 {
            assert_eq!(value(&other, who).await, "", "leaked by {call}");
            assert_eq!(value(&client, who).await, "ann", "lost after {call}");
        }
        drop(client);
        for _ in 0..4 {
            assert_eq!(value(&other, who).await, "", "left behind by {call}");
            assert_eq!(value(&other, "SHOW work_mem").await, "4MB", "left behind by {call}");
        }
    }
}

/// The same of a change of the schema that runs what the one before it has made.
#[tokio::test]
async fn settings_made_by_a_new_event_trigger_are_not_shared() {
    let database = fresh_database(
        "CREATE FUNCTION sets() RETURNS event_trigger LANGUAGE plpgsql AS \
         'BEGIN PERFORM set_config(''work_mem'', ''7MB'', false); END'",
    )
    .await;
    let proxy = proxy("[pool]\nsize = 1\n").await;
    let url = url(&proxy, &database).await;
    let next = connect(&url).await;
    for round in 0..3 {
        let maker = connect(&url).await;
        let made = format!("CREATE EVENT TRIGGER e{round} ON ddl_command_end EXECUTE FUNCTION sets()");
        maker.batch_execute(&made).await.unwrap();
        maker.batch_execute(&format!("CREATE TABLE t{round} ()")).await.unwrap();
        assert_eq!(value(&maker, "SHOW work_mem").await, "7MB");
        drop(maker);
        assert_eq!(value(&next, "SHOW work_mem").await, "4MB", "{round}");
    }
}

/// Right behind a change of the schema, what reaches code without a call: by a view that is known, or by what the session
/// has made itself.
#[tokio::test]
async fn settings_made_without_a_call_are_not_shared_while_the_catalog_is_read() {
    let database = fresh_database(
        "CREATE FUNCTION sets(text) RETURNS text LANGUAGE plpgsql AS \
         'BEGIN PERFORM set_config(''work_mem'', ''7MB'', false); RETURN $1; END'; CREATE VIEW existing AS SELECT sets('x')",
    )
    .await;
    let proxy = proxy("[pool]\nsize = 1\n").await;
    let url = url(&proxy, &database).await;
    let (maker, next) = (connect(&url).await, connect(&url).await);
    assert_eq!(value(&maker, "SELECT sets('x')").await, "x");
    drop(maker);
    for round in 0..3 {
        let operator = "%".repeat(round + 3);
        let made = format!("CREATE OPERATOR {operator} (RIGHTARG = text, FUNCTION = sets)");
        for (change, sql, by_itself) in [
            (format!("CREATE TABLE t{round} ()"), "TABLE existing".to_owned(), false),
            (made, format!("SELECT {operator} text 'x'"), true),
            (
                format!(
                    "CREATE FUNCTION f{round}() RETURNS text LANGUAGE sql AS 'SELECT sets(''x'')'; CREATE VIEW v{round} AS SELECT f{round}()"
                ),
                format!("TABLE v{round}"),
                true,
            ),
        ] {
            let (maker, user) = (connect(&url).await, connect(&url).await);
            maker.batch_execute(&change).await.unwrap();
            let by = if by_itself { &maker } else { &user };
            by.batch_execute(&sql).await.unwrap();
            if by_itself {
                assert_eq!(value(by, "SHOW work_mem").await, "7MB", "{change}");
            }
            drop((maker, user));
            assert_eq!(value(&next, "SHOW work_mem").await, "4MB", "behind {change}");
        }
    }
}

#[tokio::test]
async fn what_one_connection_holds_keeps_the_client_there_until_it_is_gone() {
    let database = fresh_database("CREATE TABLE t AS SELECT generate_series(1, 5) AS x").await;
    for (reason, makes, works, wanted, ends) in [
        ("temporary", "CREATE TEMPORARY TABLE mine AS SELECT 7 AS x", "SELECT x FROM mine", "7", "DROP TABLE mine"),
        ("temporary", "SELECT 8 AS x INTO TEMP mine", "SELECT x FROM mine", "8", "DISCARD TEMP"),
        (
            "temporary",
            "CREATE OPERATOR pg_temp.@#@ (leftarg = int, rightarg = int, function = int4pl)",
            "SELECT 1 OPERATOR(pg_temp.@#@) 2",
            "3",
            "DROP OPERATOR pg_temp.@#@ (int, int)",
        ),
        (
            "temporary",
            "CREATE STATISTICS pg_temp.mine ON x, (x % 2) FROM t",
            "SELECT count(*) FROM pg_statistic_ext WHERE stxname = 'mine'",
            "1",
            "DROP STATISTICS pg_temp.mine",
        ),
        (
            "temporary",
            "CREATE FUNCTION pg_temp.nine() RETURNS int LANGUAGE sql AS 'SELECT 9'",
            "SELECT pg_temp.nine()",
            "9",
            "DROP FUNCTION pg_temp.nine()",
        ),
        (
            "advisory_lock",
            "SELECT pg_advisory_lock(99)",
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
            "1",
            "SELECT pg_advisory_unlock(99)",
        ),
        (
            "holdable_cursor",
            "BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT x FROM t ORDER BY x; COMMIT",
            "FETCH c; MOVE BACKWARD ALL IN c; FETCH c",
            "1",
            "CLOSE c",
        ),
        ("prepare", "PREPARE p AS SELECT x FROM t WHERE x = $1", "EXECUTE p (3)", "3", "DEALLOCATE p"),
    ] {
        let proxy = proxy("[pool]\nsize = 2").await;
        let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
        client.simple_query(makes).await.unwrap_or_else(|error| panic!("{makes}: {error:?}"));
        let pid = value(&client, PID).await;
        for _ in 0..3 {
            assert_ne!(value(&other, PID).await, pid, "another client got the connection of {makes}");
            assert_eq!(value(&client, works).await, wanted, "{works}");
        }
        assert_eq!(pins(&proxy, reason), 1.0, "{makes}");
        client.simple_query(ends).await.unwrap_or_else(|error| panic!("{ends}: {error:?}"));
        // The connection is anybody's again: with both places taken by others in turn, one gets it.
        let third = proxy.connect(&database.name).await;
        other.batch_execute("BEGIN").await.unwrap();
        third.batch_execute("BEGIN").await.unwrap_or_else(|error| panic!("still pinned after {ends}: {error:?}"));
        assert!([value(&other, PID).await, value(&third, PID).await].contains(&pid), "still pinned after {ends}");
        other.batch_execute("COMMIT").await.unwrap();
        third.batch_execute("COMMIT").await.unwrap();
        assert_eq!(value(&client, "SELECT 1").await, "1");
    }
}

/// `lastval()` and `currval()` are the session's own, or not defined as in a session that has taken no value: never
/// another's.
#[tokio::test]
async fn nobody_reads_the_sequence_of_another() {
    let database = fresh_database("CREATE TABLE t (id serial, x int)").await;
    for size in [1, 2] {
        let proxy = proxy(&format!("[pool]\nsize = {size}")).await;
        let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
        let own = || async { value(&client, "INSERT INTO t (x) VALUES (1) RETURNING id").await };
        let others = || async { value(&other, "INSERT INTO t (x) VALUES (2) RETURNING id").await };
        for ask in ["SELECT lastval()", "SELECT currval('t_id_seq')"] {
            for _ in 0..3 {
                let mine = own().await;
                others().await;
                match try_value(&client, ask).await {
                    Ok(seen) => assert_eq!(seen, mine, "{ask}"),
                    Err(error) => assert_eq!(sqlstate(&error), "55000", "{ask}"),
                }
                // Nobody has come in between.
                let mine = own().await;
                assert_eq!(value(&client, ask).await, mine);
                others().await;
                client.batch_execute("BEGIN").await.unwrap();
                match try_value(&client, ask).await {
                    Ok(seen) => assert_eq!(seen, mine, "{ask} in a transaction"),
                    Err(error) => assert_eq!(sqlstate(&error), "55000", "{ask} in a transaction"),
                }
                client.batch_execute("ROLLBACK; BEGIN").await.unwrap();
                let mine = own().await;
                assert_eq!(value(&client, ask).await, mine);
                client.batch_execute("COMMIT").await.unwrap();
            }
        }
    }
}

/// Whoever asks between his transactions keeps the connection, as long as half of them are left for everybody else.
#[tokio::test]
async fn whoever_asks_for_the_values_of_his_sequences_keeps_them() {
    let database = fresh_database("CREATE TABLE t (id serial, x int)").await;
    let proxy = proxy("[pool]\nsize = 4").await;
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(proxy.connect(&database.name).await);
    }
    let insert = async |client| value(client, "INSERT INTO t (x) VALUES (1) RETURNING id").await;
    let asks = ["SELECT lastval()", "SELECT currval('t_id_seq')"];
    // Within the transaction that draws them nothing has to be kept for it.
    clients[0].batch_execute("BEGIN; INSERT INTO t (x) VALUES (1); SELECT lastval(); COMMIT").await.unwrap();
    clients[0].batch_execute("BEGIN").await.unwrap();
    let drawn = insert(&clients[0]).await;
    assert_eq!(value(&clients[0], asks[0]).await, drawn);
    clients[0].batch_execute("COMMIT").await.unwrap();
    assert_eq!(pins(&proxy, "sequence"), 0.0);
    for client in &clients {
        let drawn = insert(client).await;
        assert_eq!(value(client, asks[0]).await, drawn);
    }
    assert_eq!(pins(&proxy, "sequence"), 2.0);
    for round in 0..6 {
        let mut drawn = Vec::new();
        for client in &clients {
            drawn.push(insert(client).await);
        }
        for (client, drawn) in clients.iter().zip(&drawn).take(2) {
            // Also within a transaction, and as often as one likes.
            client.batch_execute(if round % 2 == 0 { "SELECT 1" } else { "BEGIN" }).await.unwrap();
            for ask in asks {
                assert_eq!(value(client, ask).await, *drawn, "round {round}, {ask}");
            }
            client.batch_execute(if round % 2 == 0 { "SELECT 1" } else { "COMMIT" }).await.unwrap();
        }
        match try_value(&clients[2], asks[0]).await {
            Ok(seen) => assert_eq!(seen, drawn[2]),
            Err(error) => assert_eq!(sqlstate(&error), "55000"),
        }
    }
    // What is given up is another's.
    for (index, discard) in ["DISCARD ALL", "discard sequences"].into_iter().enumerate() {
        let gives = &clients[index];
        gives.batch_execute(discard).await.unwrap();
        assert_eq!(sqlstate(&try_value(gives, asks[0]).await.unwrap_err()), "55000", "{discard}");
        gives.batch_execute(discard).await.unwrap();
        for client in clients.iter().filter(|client| !std::ptr::eq(*client, gives)) {
            let drawn = insert(client).await;
            assert_eq!(value(client, asks[1]).await, drawn, "{discard}");
        }
    }
}

/// By its process id a session can be cancelled and ended from another one: that has to hit this session, and nobody
/// else who happens to use the server connection then.
#[tokio::test]
async fn a_session_that_knows_its_server_process_keeps_it() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 2\nqueue_timeout = \"60s\"").await;
    let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    // Who only looks for others keeps nothing.
    for harmless in [
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid()",
        "SELECT count(*) FROM pg_locks WHERE pg_catalog.pg_backend_pid() != pid",
        PID,
    ] {
        client.simple_query(harmless).await.unwrap();
        assert_eq!(pins(&proxy, "process"), 0.0, "{harmless}");
    }
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    assert_eq!(pins(&proxy, "process"), 1.0);
    for _ in 0..3 {
        assert_ne!(value(&other, PID).await, pid.to_string());
    }
    let sleeping = client.simple_query("SELECT pg_sleep(60)");
    let cancelling = async {
        eventually("it sleeps", async || {
            let sql = format!("SELECT state = 'active' FROM pg_stat_activity WHERE pid = {pid}");
            value(&other, &sql).await == "t"
        })
        .await;
        value(&other, &format!("SELECT pg_cancel_backend({pid})")).await
    };
    let (cancelled, struck) = tokio::join!(sleeping, cancelling);
    assert_eq!((sqlstate(&cancelled.unwrap_err()), &*struck), ("57014", "t"));
    assert_eq!(value(&other, &format!("SELECT pg_terminate_backend({pid}, 10000)")).await, "t");
    assert!(client.simple_query("SELECT 1").await.is_err());
    assert_eq!(value(&other, "SELECT 1").await, "1");
}

#[tokio::test]
async fn a_notification_reaches_the_client_that_listens() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 2").await;
    let (client, mut connection) =
        tokio_postgres::connect(&url(&proxy, &database).await, tokio_postgres::NoTls).await.unwrap();
    let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notification(notification) = message {
                tell.send(notification.payload().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute("LISTEN channel").await.unwrap();
    let other = proxy.connect(&database.name).await;
    for payload in ["one", "two"] {
        other.batch_execute(&format!("NOTIFY channel, '{payload}'")).await.unwrap();
        assert_eq!(told.recv().await.as_deref(), Some(payload));
    }
}

/// Also while pgweir asks the listener's connection what it holds. (Of a client without settings of its own: others are
/// told that they listen when that is done.)
#[tokio::test]
async fn no_notification_is_lost_behind_a_listen() {
    let stage = Stage::set("SELECT 1").await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 2").await).await;
    let sender = connect(&shared_cluster().await.primary().url("postgres", &stage.database.name)).await;
    let mut client = RawClient::welcome(&stage.endpoint(proxy.port)).await;
    for round in 0..50 {
        let channel = format!("channel{round}");
        client.send(&say::query(&format!("LISTEN {channel}"))).await.unwrap();
        let (_, end) = client.until_ready(1).await;
        assert_eq!(end, None);
        sender.batch_execute(&format!("NOTIFY {channel}, 'heard'")).await.unwrap();
        let (frames, end) = client.reader.until(b'A', 1).await;
        assert_eq!((frames.len(), end), (1, None), "round {round}");
    }
}

#[tokio::test]
async fn after_its_client_has_left_nothing_is_left() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1\nqueue_timeout = \"60s\"").await;
    let url = url(&proxy, &database).await;
    for politely in [true, false] {
        let (client, task) = connect_cuttable(&url).await;
        for statement in [
            "CREATE TEMPORARY TABLE mine AS SELECT 1 AS x; LISTEN channel; SELECT pg_advisory_lock(5)",
            "PREPARE p AS SELECT 1; BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT",
            "SET work_mem = '5MB'; SET app.mine = 'x'; SET ROLE pg_monitor",
        ] {
            client.simple_query(statement).await.unwrap();
        }
        if !politely {
            task.abort();
        }
        drop(client);
        let other = connect(&url).await;
        let left = "SELECT concat_ws('|', (SELECT count(*) FROM pg_class WHERE relpersistence = 't'), \
            (SELECT count(*) FROM pg_listening_channels()), \
            (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
            (SELECT count(*) FROM pg_prepared_statements WHERE from_sql), (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
            current_setting('work_mem'), coalesce(current_setting('app.mine', true), ''), current_user)";
        assert_eq!(value(&other, left).await, "0|0|0|0|0|4MB||postgres", "politely: {politely}");
    }
}

/// Every connection is taken by somebody with other settings between two statements of the client: what
/// is made at the wrong moment shows.
#[tokio::test]
async fn a_statement_that_fails_leaves_the_settings_as_they_were() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let (client, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    client.batch_execute("SET app.mine = 'a'; SET work_mem = '5MB'").await.unwrap();
    for (statement, code) in [
        ("SET app.mine = 'b'; SELECT 1/0", "22012"),
        ("SET work_mem = 'nonsense'", "22023"),
        ("BEGIN; SET work_mem = '8MB'; SELECT 1/0", "22012"),
        ("SET no_such_setting = 1", "42704"),
    ] {
        assert_eq!(sqlstate(&client.simple_query(statement).await.unwrap_err()), code);
        client.batch_execute("ROLLBACK").await.unwrap();
        assert_eq!(
            value(&other, "SELECT current_setting('work_mem') || coalesce(current_setting('app.mine', true), '')")
                .await,
            "4MB"
        );
        let mine = "SELECT current_setting('work_mem') || current_setting('app.mine')";
        assert_eq!(value(&client, mine).await, "5MBa", "after {statement}");
    }
    eventually("nobody waits", async || proxy.metric("pgweir_waiting_clients") == 0.0).await;
}

/// A role goes with its session from one connection to the next, whatever it may do itself, and with nobody else.
#[tokio::test]
async fn a_role_goes_with_its_session() {
    let (one, two) = (format!("role_{}", unique()), format!("Role {}", unique()));
    let database = fresh_database(&format!(
        "CREATE ROLE {one}; CREATE ROLE \"{two}\"; CREATE TABLE t AS SELECT current_user AS owner; CREATE SCHEMA own;
         CREATE TABLE own.t AS SELECT 'own' AS owner; GRANT ALL ON t TO {one}; GRANT ALL ON own.t TO \"{two}\";
         GRANT USAGE ON SCHEMA own TO \"{two}\""
    ))
    .await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let [first, second, third] =
        [proxy.connect(&database.name).await, proxy.connect(&database.name).await, proxy.connect(&database.name).await];
    // The second of these settings is for superusers only.
    first.batch_execute(&format!("SET work_mem = '5MB'; SET log_statement = 'none'; SET ROLE {one}")).await.unwrap();
    second.batch_execute(&format!("SET search_path = own; SET ROLE \"{two}\"")).await.unwrap();
    for _ in 0..3 {
        let who =
            "SELECT concat_ws('|', current_user, session_user, current_setting('work_mem'), (SELECT owner FROM t))";
        assert_eq!(value(&first, who).await, format!("{one}|postgres|5MB|postgres"));
        assert_eq!(value(&second, who).await, format!("{two}|postgres|4MB|own"));
        assert_eq!(value(&third, who).await, "postgres|postgres|4MB|postgres");
        assert_eq!(value(&first, "SHOW log_statement").await, "none");
    }
    assert_eq!(sqlstate(&second.batch_execute("SELECT * FROM public.t").await.unwrap_err()), "42501");
    first.batch_execute("BEGIN; RESET ROLE; ROLLBACK").await.unwrap();
    assert_eq!(value(&third, "SELECT current_user").await, "postgres");
    assert_eq!(value(&first, "SELECT current_user").await, one);
    first.batch_execute("RESET ROLE").await.unwrap();
    assert_eq!(value(&second, "SELECT current_user").await, two);
    assert_eq!(value(&first, "SELECT current_user || current_setting('work_mem')").await, "postgres5MB");
    assert_eq!(proxy.metric("pgweir_session_pins_total"), 0.0);
    drop((first, second, third));
    database.sql(&format!("DROP OWNED BY {one}, \"{two}\"; DROP ROLE {one}, \"{two}\"")).await;
}

/// Code that shows what it does binds nobody to a connection, and what it makes is the session's.
#[tokio::test]
async fn code_that_hides_nothing_pins_nobody() {
    let database = fresh_database(
        "CREATE TABLE t (x int); CREATE PROCEDURE plain() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); END';
         CREATE PROCEDURE hiding(sql text) LANGUAGE plpgsql AS 'BEGIN EXECUTE sql; END';
         CREATE PROCEDURE locking() LANGUAGE sql AS 'SELECT pg_advisory_lock(7)'",
    )
    .await;
    let proxy = proxy("[pool]\nsize = 2").await;
    let client = proxy.connect(&database.name).await;
    for (sql, reason) in [
        ("DO $$ BEGIN PERFORM 1; UPDATE t SET x = 2; END $$", None),
        ("CALL plain()", None),
        ("DO $$ BEGIN CREATE TEMP TABLE mine (x int); END $$", Some("temporary")),
        ("DO $$ BEGIN PERFORM set_config('app.secret', 'x', false); END $$", Some("hidden")),
        ("CALL hiding('SET app.secret = ''y''')", Some("hidden")),
        ("CALL locking()", Some("advisory_lock")),
    ] {
        let pins = |reason: &str| proxy.metric(&format!("pgweir_session_pins_total{{reason=\"{reason}\"}}"));
        let (before, all) = (pins(reason.unwrap_or_default()), proxy.metric("pgweir_session_pins_total"));
        client.batch_execute(sql).await.unwrap();
        // Behind the question what the session holds.
        client.batch_execute("SELECT 1").await.unwrap();
        let pinned = proxy.metric("pgweir_session_pins_total") - all;
        match reason {
            Some(reason) => assert_eq!((pinned, pins(reason) - before), (1.0, 1.0), "{sql}"),
            None => assert_eq!(pinned, 0.0, "{sql}"),
        }
        client.batch_execute("SELECT pg_advisory_unlock_all()").await.unwrap();
        client.batch_execute("DISCARD ALL").await.unwrap();
    }
}

/// What a name or a constant means is settled when a statement is parsed, under settings of the client's own.
#[tokio::test]
async fn prepared_statements_are_shared_by_those_alone_who_mean_the_same() {
    let database = fresh_database(
        "CREATE SCHEMA one; CREATE TABLE one.t AS SELECT 1 AS x; CREATE SCHEMA two; CREATE TABLE two.t AS SELECT 'b'::text AS x",
    )
    .await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let mut clients = Vec::new();
    for (schema, zone, seen) in [("one", "UTC", "1|1577836800"), ("two", "Asia/Tokyo", "b|1577804400")] {
        let client = proxy.connect(&database.name).await;
        client.batch_execute(&format!("SET search_path = {schema}; SET timezone = '{zone}'")).await.unwrap();
        clients.push((client, seen));
    }
    let sql = "SELECT x || '|' || extract(epoch FROM timestamptz '2020-01-01')::int FROM t";
    for _ in 0..3 {
        for (client, seen) in &clients {
            let statement = client.prepare(sql).await.unwrap();
            for _ in 0..2 {
                let row = client.query_one(&statement, &[]).await.unwrap();
                assert_eq!(row.get::<_, &str>(0), *seen);
            }
        }
    }
}

/// What a client has made at its startup is what a `RESET` goes back to, also within a transaction.
#[tokio::test]
async fn a_reset_within_a_transaction_goes_back_to_the_startup() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let options = "application_name=own&options=-c%20DateStyle%3DSQL%20-c%20work_mem%3D5MB%20-c%20app.x%3Dmine%20-c%20statement_timeout%3D1h";
    let direct = connect(&format!("{}?{options}", cluster.primary().url("postgres", &database.name))).await;
    let through = connect(&format!("{}?{options}", url(&proxy, &database).await)).await;
    let other = proxy.connect(&database.name).await;
    let shown = "SELECT concat_ws('|', current_setting('application_name'), current_setting('DateStyle'), \
        current_setting('work_mem'), current_setting('app.x'), current_setting('statement_timeout'))";
    for script in [
        &["BEGIN", "RESET application_name", "COMMIT"][..],
        &["BEGIN", "SET work_mem = '7MB'", "RESET work_mem", "RESET app.x", "ROLLBACK"],
        &["BEGIN", "RESET ALL", "SAVEPOINT s", "SET DateStyle = German", "RESET ALL", "ROLLBACK TO s", "COMMIT"],
        &["BEGIN", "SET application_name TO DEFAULT", "SET LOCAL work_mem TO DEFAULT", "COMMIT"],
        &["SET work_mem = '6MB'", "BEGIN", "RESET work_mem", "ROLLBACK", "RESET ALL"],
        &["BEGIN", "SET LOCAL app.x = 'other'", "RESET app.x", "COMMIT"],
        &["BEGIN", "RESET statement_timeout", "SELECT 1/0", "ROLLBACK"],
    ] {
        for statement in script {
            let [one, two] = [&direct, &through].map(|client| client.batch_execute(statement));
            let (one, two) = (one.await, two.await);
            assert_eq!(one.is_ok(), two.is_ok(), "{script:?}, {statement}: {two:?}");
            if !script.contains(&"SELECT 1/0") || *statement != "SELECT 1/0" {
                assert_eq!(value(&through, shown).await, value(&direct, shown).await, "{script:?}, after {statement}");
            }
        }
        assert_eq!(value(&other, "SHOW work_mem").await, "4MB");
    }
}

/// What the server has to say to the settings of a startup packet, each client that asks for them is told.
#[tokio::test]
async fn notices_at_login_reach_the_client() {
    let stage = Stage::set("SELECT 1").await;
    let proxy = Proxy::start(&stage.config("[pool]\nsize = 1\n").await).await;
    let (direct, through) = (stage.direct().await, stage.endpoint(proxy.port));
    let long = "a".repeat(70);
    let notices = async |endpoint, parameters: &[(&str, &str)]| {
        let (_client, greeting) = RawClient::start(endpoint, parameters).await;
        assert_eq!(greeting.last().and_then(Frame::status), Some(b'I'), "{greeting:?}");
        let before = greeting.iter().take_while(|frame| frame.tag != b'S');
        before.filter(|frame| frame.tag == b'N').map(|frame| frame.body.clone()).collect::<Vec<_>>()
    };
    let silent = [("application_name", "short"), ("search_path", "nowhere")];
    for parameters in
        [&[("application_name", &*long)][..], &silent, &[("application_name", &long), ("DateStyle", "SQL")]]
    {
        let wanted = notices(&direct, parameters).await;
        assert_eq!(wanted.len(), usize::from(parameters[0].1 == long));
        for _ in 0..3 {
            assert_eq!(notices(&through, parameters).await, wanted, "{parameters:?}");
        }
    }
}
