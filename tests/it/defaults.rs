//! Ceilings in spite of what a role, a database or a connection string say of them.

use pgweir::sandbox::User;

use crate::ceilings::{cut_off_with, set_config};
use crate::support::primary_only::config;
use crate::support::proxy::Proxy;
use crate::support::stage::Stage;
use crate::support::{connect, fresh_database, say, shared_cluster, unique};

/// What a role, a database or a connection string say of it.
#[tokio::test]
async fn nor_do_defaults_lead_around_it() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let roles = [(); 4].map(|()| format!("lifted_{}", unique()));
    let users: Vec<_> = roles.iter().map(|role| User::new(role, "secret")).collect();
    cluster.create_users(&users).await.unwrap();
    let (name, [by_role, in_database, by_options, by_database]) = (&database.name, &roles);
    database.sql(&format!("ALTER ROLE {by_role} SET statement_timeout = 0")).await;
    database.sql(&format!("ALTER ROLE {in_database} IN DATABASE {name} SET statement_timeout = '1h'")).await;
    database.sql(&format!("ALTER DATABASE {name} SET statement_timeout = '2h'")).await;
    let ceiling = "[tiers.standard]\nstatement_timeout = \"300ms\"\n";
    let all: Vec<&str> = roles.iter().map(String::as_str).collect();
    let proxy = Proxy::start(&config(cluster, ceiling, &all)).await;
    for (role, options) in [
        (by_role, ""),
        (in_database, ""),
        (by_database, ""),
        (by_options, "options=-c%20statement_timeout%3D0"),
        (by_options, "options=--statement-timeout%3D1h%20-c%20statement_timeout%3D2h"),
    ] {
        let client = connect(&format!("{}?{options}", proxy.url(cluster, role, name))).await;
        for _ in 0..2 {
            let error = client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
            let error = error.as_db_error().unwrap();
            assert_eq!(error.code().code(), "57014", "{role} {options}");
            assert_eq!(error.message(), "canceling statement due to statement timeout");
            assert_eq!(error.detail(), Some("The ceiling of tenant \"default\" is 300 ms."));
            // Also behind what the server keeps back until then.
            let behind = client.batch_execute("SELECT 1; SELECT pg_sleep(60)").await.unwrap_err();
            assert_eq!(behind.as_db_error().unwrap().detail(), Some("The ceiling of tenant \"default\" is 300 ms."));
            // Not where the client has asked for less.
            let own =
                client.batch_execute("BEGIN; SET LOCAL statement_timeout = 50; SELECT pg_sleep(60)").await.unwrap_err();
            let own = own.as_db_error().unwrap();
            assert_eq!((own.code().code(), own.detail()), ("57014", None));
            client.batch_execute("ROLLBACK").await.unwrap();
            client.batch_execute("RESET ALL; SET SESSION AUTHORIZATION DEFAULT").await.unwrap();
        }
    }
}

/// Each of the four, as the server's own activity view shows it.
#[tokio::test]
async fn nothing_said_beforehand_leads_around_any_of_them() {
    const ALL: [&str; 3] = ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
    let stage = Stage::set("CREATE TABLE t (x int); INSERT INTO t VALUES (1); GRANT ALL ON t TO PUBLIC; CREATE TABLE locked (x int); GRANT ALL ON locked TO PUBLIC").await;
    for name in ALL {
        let (user, database) = (&stage.user, &stage.database.name);
        stage.database.sql(&format!("ALTER ROLE {user} SET {name} = 0")).await;
        stage.database.sql(&format!("ALTER ROLE {user} IN DATABASE {database} SET {name} = '1h'")).await;
        stage.database.sql(&format!("ALTER DATABASE {database} SET {name} = '2h'")).await;
    }
    let holder = connect(&shared_cluster().await.primary().url("postgres", &stage.database.name)).await;
    holder.batch_execute("BEGIN; LOCK locked").await.unwrap();
    let others = "application_name NOT LIKE 'pgweir %' AND query NOT LIKE '%LOCK locked%'";
    let runs = format!("state = 'active' AND {others}");
    let open = format!("xact_start IS NOT NULL AND state NOT LIKE '%(aborted)' AND {others}");
    let rests = format!("xact_start IS NOT NULL AND {others}");
    let since_wait = "(SELECT min(waitstart) FROM pg_locks WHERE pg_locks.pid = pg_stat_activity.pid AND NOT granted)";
    let (begin, sleep) = (say::query("BEGIN; UPDATE t SET x = x"), say::query("SELECT pg_sleep(60)"));
    for (key, codes, last, over) in [
        ("statement_timeout", &["57014"][..], Some(sleep.clone()), [&*runs, "query_start"]),
        ("transaction_timeout", &["57014", "25P04"], Some(sleep.clone()), [&open, "xact_start"]),
        ("transaction_timeout", &["57014", "25P04"], None, [&open, "xact_start"]),
        ("idle_in_transaction_timeout", &["25P03"], None, [&rests, "state_change"]),
        (
            "lock_timeout",
            &["55P03"],
            Some(say::query("SELECT * FROM locked")),
            ["wait_event_type = 'Lock'", since_wait],
        ),
    ] {
        let text = stage.config(&format!("[tiers.standard]\n{key} = \"400ms\"\n[pool]\nsize = 2\n")).await;
        // Whoever has a replica has more eyes.
        let text: Vec<_> = text.lines().filter(|line| !line.starts_with("replicas = ")).collect();
        let proxy = Proxy::start(&text.join("\n")).await;
        let lifted: String = ALL.map(|name| format!("-c {name}=0 ")).concat();
        for options in ["", &lifted] {
            let in_transaction = last.is_none() || key == "transaction_timeout";
            let opening = if in_transaction { vec![begin.clone()] } else { Vec::new() };
            let said = ALL.map(|name| format!("SELECT set_config('{name}', '0', true)")).join(";");
            let by_number = ALL.map(set_config).to_vec();
            let last = last.clone().unwrap_or_default();
            for more in [Vec::new(), vec![say::query(&said)], by_number] {
                let way = [&opening[..], &more, std::slice::from_ref(&last)].concat();
                cut_off_with(options, &stage, &proxy, &way, codes, over, 0.4).await;
            }
        }
    }
    drop(holder);
}
