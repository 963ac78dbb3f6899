//! Tenants: who belongs to which, and that nothing a client sends lifts the ceiling of its tier.

use pgweir::sandbox::{DnType, SandboxOptions, User};

use crate::support::primary_only::{config, proxy, sqlstate, value};
use crate::support::proxy::Proxy;
use crate::support::tls::{Tls, listen_tls};
use crate::support::{connect, eventually, fresh_database, shared_cluster, start, unique};

/// The shipped tiers; the default one and that of `acme` can be filled in.
fn tiers(standard: &str, acme: &str) -> String {
    format!(
        "default_tier = \"standard\"\n[tiers.standard]\nstatement_timeout = \"{standard}\"\n\
         [tiers.enterprise]\nstatement_timeout = \"{acme}\"\n\
         [[tenants]]\nname = \"acme\"\ntier = \"enterprise\"\nmatch = {{ option = \"acme\" }}\n[pool]\nsize = 2\n"
    )
}

const SHOW: &str = "SHOW statement_timeout";

#[tokio::test]
async fn a_client_belongs_to_the_first_tenant_that_matches() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let user = format!("tenant_{}", unique());
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let tenants = format!(
        "{}\n[[tenants]]\nname = \"by_both\"\nmatch = {{ user = \"{user}\", database = \"{}\" }}\nstatement_timeout = \"1111ms\"\n\
         [[tenants]]\nname = \"by_user\"\nmatch = {{ user = \"{user}\" }}\nstatement_timeout = \"2222ms\"\n\
         [[tenants]]\nname = \"by_database\"\nmatch = {{ database = \"{}\" }}\nstatement_timeout = \"3333ms\"\n",
        tiers("15s", "60s"),
        database.name,
        database.name
    );
    let proxy = Proxy::start(&config(cluster, &tenants, &["postgres", &user])).await;
    let acme = "options=-c%20pgweir.tenant%3Dacme";
    for (user, database, option, wanted) in [
        (&*user, &*database.name, "", "1111ms"),
        (&user, "postgres", "", "2222ms"),
        ("postgres", &database.name, "", "3333ms"),
        ("postgres", "postgres", "", "15s"),
        ("postgres", "postgres", acme, "1min"),
        (&user, "postgres", acme, "1min"),
        ("postgres", "postgres", "options=-c%20pgweir.tenant%3Dnobody", "15s"),
    ] {
        let client = connect(&format!("{}?{option}", proxy.url(cluster, user, database))).await;
        assert_eq!(value(&client, SHOW).await, wanted, "{user} {database} {option}");
    }
}

/// Each source of a name in its turn; nobody is let in whose tenant is not known, where that is asked for.
#[tokio::test]
async fn a_client_belongs_to_the_tenant_that_it_names() {
    let cluster = shared_cluster().await;
    let certificates = cluster.certificates().unwrap();
    let files = tempfile::tempdir().unwrap();
    let user = format!("app_{}", unique());
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let tenant = |name: &str, ms: u32| format!("[[tenants]]\nname = \"{name}\"\nstatement_timeout = \"{ms}ms\"\n");
    let tenants = [("acme", 1111), ("local", 2222), ("robot", 3333), ("beta", 4444), (&*user, 5555)];
    let more = format!(
        "{}{}\n[tenancy]\nunknown = \"refuse\"\nseparator = \"+\"\nidentify = [\"user_suffix\", \"option\", \
         {{ application_name = \"*-worker\" }}, \"certificate\", {{ server_name = \"*host\" }}, \"user\"]\n",
        listen_tls(cluster, files.path()),
        tenants.map(|(name, ms)| tenant(name, ms)).concat(),
    );
    let proxy = Proxy::start(&config(cluster, &more, &["postgres", &user])).await;
    let url =
        |user: &str, host: &str, more: &str| format!("postgres://{user}:secret@{host}:{}/postgres?{more}", proxy.port);
    let suffixed = format!("{user}%2Bacme");
    let robot = certificates.client("robot").unwrap();
    for (url, identity, wanted) in [
        (url(&suffixed, "127.0.0.1", ""), None, "1111ms"),
        (url(&suffixed, "127.0.0.1", "options=-c%20pgweir.tenant%3Dbeta"), None, "1111ms"),
        (url(&user, "127.0.0.1", "options=-c%20pgweir.tenant%3Dbeta"), None, "4444ms"),
        (url(&user, "127.0.0.1", "application_name=beta-worker"), None, "4444ms"),
        (url(&user, "127.0.0.1", "application_name=who-worker"), None, "5555ms"),
        (url(&user, "localhost", "sslmode=require"), Some(None), "2222ms"),
        (url(&user, "localhost", "sslmode=require"), Some(Some(&robot)), "3333ms"),
        (url(&user, "127.0.0.1", "sslmode=require"), Some(None), "5555ms"),
    ] {
        let client = match identity {
            Some(identity) => Tls::trusting(certificates, identity).connect(&url).await.unwrap(),
            None => connect(&url).await,
        };
        assert_eq!(value(&client, SHOW).await, wanted, "{url}");
        // The server knows nothing of it.
        assert_eq!(value(&client, "SELECT session_user").await, user);
    }
    let refusal = proxy.refusal(&proxy.url(cluster, "postgres", "postgres")).await;
    assert_eq!((refusal.code().code(), refusal.severity()), ("28000", "FATAL"));
    assert!(refusal.detail().unwrap().contains("user \"postgres\""), "{refusal}");
    // What stands behind an unknown user, or a wrong password, is answered as ever.
    for wrong in [url("nobody%2Bacme", "127.0.0.1", ""), url(&suffixed, "127.0.0.1", "").replace(":secret", ":wrong")] {
        assert_eq!(proxy.refusal(&wrong).await.code().code(), "28P01", "{wrong}");
    }
}

/// Whatever separates it from the name, which may have the separator in it; the server sees the user alone, also where
/// its database is the one of that name.
#[tokio::test]
async fn what_stands_behind_a_users_name_is_for_pgweir_alone() {
    let cluster = shared_cluster().await;
    for (key, separator) in
        [("", "@"), ("separator = \".\"", "."), ("separator = \"+\"", "+"), ("separator = \"--\"", "--")]
    {
        let user = format!("app_{}", unique());
        let parted = format!("{user}{separator}night");
        cluster.create_users(&[User::new(&user, "secret"), User::new(&parted, "secret")]).await.unwrap();
        for name in [&user, &parted] {
            cluster.primary().psql(&format!("CREATE DATABASE \"{name}\"")).await.unwrap();
        }
        let verifier = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{user}'");
        let verifier = cluster.primary().psql(&verifier).await.unwrap();
        let more = format!(
            "[[tenants]]\nname = \"acme\"\nstatement_timeout = \"1111ms\"\nmatch = {{ user_suffix = \"ac*\" }}\n\
             [[tenants]]\nname = \"beta\"\nstatement_timeout = \"2222ms\"\n[[tenants]]\nname = \"night\"\n\
             [[tenants]]\nname = \"{parted}\"\nstatement_timeout = \"3333ms\"\n\
             [tenancy]\nunknown = \"refuse\"\nidentify = [\"user_suffix\", \"user\"]\n{key}\n"
        );
        let text =
            config(cluster, &more, &[&parted]) + &format!("[[users]]\nname = \"{user}\"\npassword = \"{verifier}\"\n");
        let proxy = Proxy::start(&text).await;
        let url = |name: &str, password: &str| {
            let name = name.replace('@', "%40").replace('+', "%2B");
            format!("postgres://{name}:{password}@127.0.0.1:{}", proxy.port)
        };
        for (user, suffix, wanted) in
            [(&user, "acme", "1111ms"), (&user, "beta", "2222ms"), (&parted, "beta", "2222ms"), (&parted, "", "3333ms")]
        {
            let parting = if suffix.is_empty() { "" } else { separator };
            let client = connect(&url(&format!("{user}{parting}{suffix}"), "secret")).await;
            assert_eq!(value(&client, SHOW).await, wanted, "{user}{parting}{suffix}");
            let seen = "SELECT concat_ws(' ', datname, usename, session_user, current_user) FROM pg_stat_activity \
                WHERE pid = pg_backend_pid()";
            assert_eq!(value(&client, seen).await, [&**user; 4].join(" "));
        }
        for (name, password, code) in [
            (format!("{user}{separator}nobody"), "secret", "28000"),
            (format!("{user}{separator}acme"), "wrong", "28P01"),
            (format!("{user}{separator}"), "secret", "28P01"),
            (format!("nobody{separator}acme"), "secret", "28P01"),
        ] {
            assert_eq!(proxy.refusal(&url(&name, password)).await.code().code(), code, "{name}");
        }
    }
}

/// All of its parts count, in their order, and none can be made up within another.
#[tokio::test]
async fn a_client_belongs_to_the_tenant_that_its_certificates_subject_says() {
    let cluster = shared_cluster().await;
    let certificates = cluster.certificates().unwrap();
    let files = tempfile::tempdir().unwrap();
    let more = format!(
        "{}\n[[tenants]]\nname = \"acme\"\nstatement_timeout = \"1111ms\"\nmatch = {{ certificate_subject = \"CN=*,OU=acme,O=customers\" }}\n\
         [[tenants]]\nname = \"beta\"\nstatement_timeout = \"2222ms\"\n\
         [tenancy]\nidentify = [{{ certificate_subject = \"CN=app,OU=*,O=customers\" }}]\n",
        listen_tls(cluster, files.path()),
    );
    let proxy = Proxy::start(&config(cluster, &more, &["postgres"])).await;
    let url = format!("{}?sslmode=require", proxy.url(cluster, "postgres", "postgres"));
    let (organization, unit, name) = (DnType::OrganizationName, DnType::OrganizationalUnitName, DnType::CommonName);
    let customers = (organization.clone(), "customers");
    for (subject, wanted) in [
        (vec![customers.clone(), (unit.clone(), "acme"), (name.clone(), "robot")], "1111ms"),
        (vec![customers.clone(), (unit.clone(), "beta"), (name.clone(), "app")], "2222ms"),
        (vec![customers.clone(), (unit.clone(), "beta"), (name.clone(), "robot")], "0"),
        (vec![(organization.clone(), "others"), (unit.clone(), "acme"), (name.clone(), "robot")], "0"),
        (vec![(unit.clone(), "acme"), customers.clone(), (name.clone(), "robot")], "0"),
        (vec![customers.clone(), (name.clone(), "robot,OU=acme")], "0"),
        (vec![(name.clone(), "robot,OU=acme,O=customers")], "0"),
        (vec![customers.clone(), (name.clone(), "app,OU=beta")], "0"),
        (Vec::new(), "0"),
    ] {
        let identity = certificates.client_of(&subject).unwrap();
        let client = Tls::trusting(certificates, Some(&identity)).connect(&url).await.unwrap();
        assert_eq!(value(&client, SHOW).await, wanted, "{subject:?}");
    }
}

#[tokio::test]
async fn the_servers_own_timeout_cuts_a_statement_off() {
    let database = fresh_database("").await;
    let proxy = proxy(&tiers("15s", "200ms")).await;
    let url =
        format!("{}?options=-c%20pgweir.tenant%3Dacme", proxy.url(shared_cluster().await, "postgres", &database.name));
    let client = connect(&url).await;
    for extended in [false, true] {
        let error = if extended {
            client.query("SELECT pg_sleep(60)", &[]).await.unwrap_err()
        } else {
            client.simple_query("SELECT pg_sleep(60)").await.unwrap_err()
        };
        assert_eq!(sqlstate(&error), "57014");
        assert_eq!(error.as_db_error().unwrap().message(), "canceling statement due to statement timeout");
    }
    assert_eq!(value(&client, "SELECT 1").await, "1");
    assert_eq!(proxy.metric("pgweir_tenant_statement_timeouts_total{tenant=\"acme\"}"), 2.0);
    assert_eq!(proxy.metric("pgweir_tenant_statement_timeouts_total{tenant=\"default\"}"), 0.0);
}

#[tokio::test]
async fn nobody_sets_a_timeout_above_the_ceiling_and_everybody_one_below() {
    let database = fresh_database("").await;
    let proxy = proxy(&tiers("15s", "60s")).await;
    let client = proxy.connect(&database.name).await;
    assert_eq!(value(&client, SHOW).await, "15s");
    for (statement, wanted) in [
        ("SET statement_timeout = 0", "15s"),
        ("SET statement_timeout = '1h'", "15s"),
        ("SET statement_timeout = '2s'", "2s"),
        ("SET SESSION statement_timeout TO DEFAULT", "15s"),
        ("SET \"Statement_Timeout\" = 3000", "3s"),
        ("RESET statement_timeout", "15s"),
        ("SELECT set_config('statement_timeout', '0', false)", "15s"),
        ("SELECT set_config('statement' || '_timeout', '20min', false)", "15s"),
        ("SELECT set_config('statement_timeout', '4s', false)", "4s"),
        ("RESET ALL", "15s"),
        ("UPDATE pg_settings SET setting = '0' WHERE name = 'statement_timeout'", "15s"),
        ("DO $$ BEGIN PERFORM set_config('statement_timeout', '99s', false); END $$", "15s"),
        ("SET statement_timeout = '5s'", "5s"),
        ("DISCARD ALL", "15s"),
    ] {
        client.simple_query(statement).await.unwrap_or_else(|error| panic!("{statement}: {error:?}"));
        assert_eq!(value(&client, SHOW).await, wanted, "after {statement}");
    }
}

#[tokio::test]
async fn nor_within_a_transaction() {
    let database = fresh_database("").await;
    let proxy = proxy(&tiers("15s", "60s")).await;
    let client = proxy.connect(&database.name).await;
    client.batch_execute("BEGIN").await.unwrap();
    for (statement, wanted) in [
        ("SET LOCAL statement_timeout = 0", "15s"),
        ("SET LOCAL statement_timeout = '2s'", "2s"),
        ("SET statement_timeout = 0", "15s"),
        ("SAVEPOINT s; SET LOCAL statement_timeout = '1h'", "15s"),
        ("ROLLBACK TO s", "15s"),
        ("SELECT set_config('statement_timeout', '0', true)", "15s"),
    ] {
        client.simple_query(statement).await.unwrap();
        assert_eq!(value(&client, SHOW).await, wanted, "after {statement}");
    }
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "15s");
    client.batch_execute("BEGIN; SET LOCAL statement_timeout = '1s'; COMMIT").await.unwrap();
    assert_eq!(value(&client, SHOW).await, "15s");
}

#[tokio::test]
async fn startup_options_and_a_roles_defaults_are_held_to_the_ceiling_too() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let user = format!("tenant_{}", unique());
    cluster.create_users(&[User::new(&user, "secret")]).await.unwrap();
    let with_default = async |default: &str, option: &str| {
        cluster.primary().psql(&format!("ALTER ROLE {user} SET statement_timeout = {default}")).await.unwrap();
        let proxy = Proxy::start(&config(cluster, &tiers("15s", "60s"), &[&user])).await;
        let client = connect(&format!("{}?{option}", proxy.url(cluster, &user, &database.name))).await;
        let shown = value(&client, SHOW).await;
        client.batch_execute("SET statement_timeout = '1s'; RESET statement_timeout").await.unwrap();
        assert_eq!(value(&client, SHOW).await, shown, "after RESET; default {default}, option {option}");
        shown
    };
    assert_eq!(with_default("0", "").await, "15s");
    assert_eq!(with_default("'1h'", "").await, "15s");
    assert_eq!(with_default("'3s'", "").await, "3s");
    assert_eq!(with_default("0", "options=-c%20statement_timeout%3D0").await, "15s");
    assert_eq!(with_default("'3s'", "options=-c%20statement_timeout%3D1h").await, "15s");
    assert_eq!(with_default("0", "options=--statement-timeout%3D2000").await, "2s");
}

#[tokio::test]
async fn the_proxys_own_deadline_stands_behind_the_servers() {
    let database = fresh_database("CREATE TABLE t (x int)").await;
    let proxy = proxy(&tiers("300ms", "60s")).await;
    let client = proxy.connect(&database.name).await;
    for (statement, ready) in [
        ("SET statement_timeout = 0; SELECT pg_sleep(60)", "I"),
        ("BEGIN; SET LOCAL statement_timeout = 0; INSERT INTO t VALUES (1); SELECT pg_sleep(60)", "E"),
        ("DO $$ BEGIN PERFORM set_config('statement_timeout', '0', false); END $$; SELECT pg_sleep(60)", "I"),
    ] {
        let error = client.simple_query(statement).await.unwrap_err();
        assert_eq!(sqlstate(&error), "57014", "{statement}: {error:?}");
        assert_eq!(error.as_db_error().unwrap().severity(), "ERROR");
        if ready == "E" {
            assert_eq!(sqlstate(&client.simple_query("SELECT 1").await.unwrap_err()), "25P02");
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        assert_eq!(value(&client, SHOW).await, "300ms", "after {statement}");
    }
    assert_eq!(value(&client, "SELECT count(*) FROM t").await, "0");
    assert_eq!(proxy.metric("pgweir_tenant_statement_timeouts_total{tenant=\"default\"}"), 3.0);
}

/// A timeout so short that it strikes whatever the proxy itself asks on that connection costs neither this
/// session nor the next client of the connection anything.
#[tokio::test]
async fn a_tiny_timeout_strikes_only_whoever_asked_for_it() {
    let database = fresh_database("").await;
    let proxy = proxy("[pool]\nsize = 1").await;
    let (hasty, other) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    for round in 0..40 {
        hasty.simple_query("SET statement_timeout = 1").await.unwrap_or_else(|error| panic!("{error:?}"));
        if let Err(error) = hasty.simple_query("SELECT pg_sleep(0.0005)").await {
            assert_eq!(sqlstate(&error), "57014");
        }
        while let Err(error) = hasty.simple_query("RESET statement_timeout").await {
            assert_eq!(sqlstate(&error), "57014");
        }
        other.simple_query(&format!("SET app.round = '{round}'")).await.unwrap();
        assert_eq!(value(&other, SHOW).await, "0");
    }
}

#[tokio::test]
async fn a_server_that_ignores_the_cancel_is_given_up() {
    let sandbox = start(SandboxOptions::default()).await;
    let proxy = Proxy::start(&config(&sandbox, &tiers("300ms", "60s"), &["postgres"])).await;
    let url = proxy.url(&sandbox, "postgres", "postgres");
    let client = connect(&url).await;
    assert_eq!(value(&client, "SELECT 1").await, "1");
    sandbox.primary().pause().unwrap();
    let error = client.simple_query("SELECT 2").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.severity()), ("57014", "FATAL"));
    assert!(error.detail().is_some_and(|detail| detail.contains("300 ms")), "{error:?}");
    eventually("the client is sent away", async || client.is_closed()).await;
    assert_eq!(proxy.metric("pgweir_tenant_statement_timeouts_total{tenant=\"default\"}"), 1.0);
    sandbox.primary().resume().unwrap();
    assert_eq!(value(&connect(&url).await, "SELECT 3").await, "3");
}

/// Statements that make what only one server connection has, and the SQL that lets go of it.
const PINNING: [(&str, &str); 6] = [
    ("CREATE TEMP TABLE mine (x int)", "DROP TABLE mine"),
    ("SELECT 1 AS x INTO TEMP mine", "DROP TABLE mine"),
    ("SELECT pg_advisory_lock(77)", "SELECT pg_advisory_unlock(77)"),
    ("PREPARE own AS SELECT 1", "DEALLOCATE own"),
    ("BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT 1; COMMIT", "CLOSE c"),
    ("SELECT dynamic('SET app.hidden = 1')", "DISCARD ALL"),
];
const DYNAMIC: &str =
    "CREATE FUNCTION dynamic(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN EXECUTE $1; END'; CREATE TABLE t (x int)";

#[tokio::test]
async fn a_tenant_that_refuses_pins_gets_an_error_before_anything_is_made() {
    let database = fresh_database(DYNAMIC).await;
    let proxy = proxy("[tiers.standard]\npinning = \"refuse\"\n[pool]\nsize = 1").await;
    let client = proxy.connect(&database.name).await;
    client.batch_execute("SELECT 1").await.unwrap();
    for (sql, _) in PINNING {
        let error = client.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), "0A000", "{sql}");
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    // What ends with its transaction is none.
    for sql in [
        "BEGIN; CREATE TEMP TABLE mine (x int) ON COMMIT DROP; COMMIT",
        "BEGIN; DECLARE c CURSOR FOR SELECT 1; FETCH c; CLOSE c; COMMIT",
        "SELECT pg_advisory_xact_lock(77); NOTIFY channel; SET work_mem = '5MB'",
        "LISTEN channel; UNLISTEN channel",
        "DO $$ BEGIN INSERT INTO t VALUES (1); END $$",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {}", crate::support::chain(&error)));
    }
    let extended = client.execute("SELECT pg_advisory_lock(77)", &[]).await.unwrap_err();
    assert_eq!(sqlstate(&extended), "0A000");
    // One that nothing in the text foretells: the session ends with it.
    let trigger = "CREATE FUNCTION makes() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN CREATE TEMP TABLE made (x int); RETURN NEW; END'; CREATE TRIGGER makes BEFORE INSERT ON t
        FOR EACH ROW EXECUTE FUNCTION makes()";
    database.sql(trigger).await;
    client.batch_execute("DO $$ BEGIN INSERT INTO t VALUES (1); END $$").await.unwrap();
    let error = client.batch_execute("SELECT 1").await.unwrap_err();
    assert!(error.is_closed() || sqlstate(&error) == "0A000", "{error:?}");
    let other = proxy.connect(&database.name).await;
    assert_eq!(value(&other, "SELECT count(*) FROM pg_class WHERE relpersistence = 't'").await, "0");
}

#[tokio::test]
async fn a_tenant_has_so_many_pins_and_gets_them_back() {
    let database = fresh_database(DYNAMIC).await;
    let proxy = proxy("[tiers.standard]\nmax_pinned = 1\n[pool]\nsize = 3").await;
    let (one, two) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    for (sql, undo) in PINNING {
        one.batch_execute(sql).await.unwrap();
        // A second piece of state is held by the same connection.
        one.batch_execute("SELECT pg_advisory_lock(78)").await.unwrap();
        let error = two.batch_execute(sql).await.unwrap_err();
        assert_eq!(sqlstate(&error), "53300", "{sql}");
        let message = error.as_db_error().unwrap().message();
        assert_eq!(message, "too many pinned server connections for tenant \"default\": 1 are pinned, 1 allowed");
        two.batch_execute("ROLLBACK").await.unwrap();
        one.batch_execute(undo).await.unwrap();
        one.batch_execute("SELECT pg_advisory_unlock(78)").await.unwrap();
        one.batch_execute("SELECT 1").await.unwrap();
    }
    two.batch_execute("LISTEN channel").await.unwrap();
    drop(two);
    eventually("the place of one that has left is free", async || one.batch_execute("LISTEN channel").await.is_ok())
        .await;
}

/// Those that have used most have series of their own, and nothing of the others is missing in theirs.
#[tokio::test]
async fn counts_of_more_tenants_than_have_series_are_all_in_the_sum() {
    const TENANTS: usize = 105;
    let tenants: String = (0..TENANTS).map(|number| format!("[[tenants]]\nname = \"t{number}\"\n")).collect();
    let tenancy = "[tenancy]\nidentify = [\"option\"]\n[tiers.standard]\nstatement_timeout = \"1s\"\n\
                   rate_limits = [\"1/h\"]\n[pool]\nsize = 4\n";
    let proxy = proxy(&format!("{tenancy}{tenants}")).await;
    let url = proxy.url(shared_cluster().await, "postgres", "postgres");
    let client = async |number: usize| connect(&format!("{url}?options=-c%20pgweir.tenant%3Dt{number}")).await;
    // The last ones to come use most.
    let is_busy = |number: usize| number >= TENANTS - 3;
    let of = |tenant: &str| format!(",tenant=\"{tenant}\"");
    let refused = |of: &str| proxy.metric(&format!("pgweir_tenant_rejections_total{{reason=\"rate_limit\"{of}}}"));
    let timeouts = |of: &str| proxy.metric(&format!("pgweir_tenant_statement_timeouts_total{{{of}}}"));
    let mut idle = None;
    for number in 0..TENANTS {
        let client = client(number).await;
        match is_busy(number) {
            true => assert_eq!(sqlstate(&client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err()), "57014"),
            false => client.batch_execute("SELECT 1").await.unwrap(),
        }
        assert_eq!(sqlstate(&client.batch_execute("SELECT 1").await.unwrap_err()), "53400");
        if number == 0 {
            idle = Some(client);
        }
    }
    assert_eq!((refused(""), timeouts("")), (TENANTS as f64, 3.0));
    for number in TENANTS - 3..TENANTS {
        let of = of(&format!("t{number}"));
        assert_eq!((refused(&of), timeouts(&of)), (1.0, 1.0), "t{number}");
    }
    // Six have none of their own; one is that of everybody else, who has not come.
    assert_eq!((refused(&of("other")), timeouts(&of("other"))), (5.0, 0.0));
    assert_eq!(proxy.metric("pgweir_tenant_transactions_total"), TENANTS as f64);
    // Nor is anything lost of one that leaves while its client is there.
    let less = tenants.replacen("[[tenants]]\nname = \"t0\"\n", "", 1);
    let cluster = shared_cluster().await;
    proxy.reload(&config(cluster, &format!("{tenancy}{less}"), &["postgres"])).await.unwrap();
    assert_eq!(sqlstate(&idle.unwrap().batch_execute("SELECT 1").await.unwrap_err()), "53400");
    assert_eq!(refused(""), 1.0 + TENANTS as f64);
}
