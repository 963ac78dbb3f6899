//! The administrators' console, and the lines that say who did what.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::support::primary_only::{config, sqlstate, try_value, value};
use crate::support::process::Process;
use crate::support::proxy::Proxy;
use crate::support::raw::{End, Frame, RawClient};
use crate::support::{TestDatabase, connect, eventually, fresh_database, say, shared_cluster};

const TENANTS: &str = "[tiers.standard]\nstatement_timeout = \"15s\"\n[tenancy]\nidentify = [{ option = \"*\" }]\n\
                       [[tenants]]\nname = \"acme\"\npriority = \"high\"\n[[tenants]]\nname = \"Beta Inc\"\n";

/// Statements that sleep for long.
const RUNNING: &str = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
    AND query LIKE '%sleep(600)%' AND state = 'active' AND pid <> pg_backend_pid()";

struct Stage {
    database: TestDatabase,
    proxy: Proxy,
    console: Client,
}

impl Stage {
    async fn set(more: &str) -> Self {
        let cluster = shared_cluster().await;
        let text = administered(&config(cluster, &format!("{TENANTS}{more}"), &["postgres"]));
        let (database, proxy) = (fresh_database("").await, Proxy::start(&text).await);
        let console = connect(&proxy.url(cluster, "postgres", "pgweir")).await;
        Self { database, proxy, console }
    }

    async fn of_tenant(&self, tenant: &str) -> Client {
        let url = self.proxy.url(shared_cluster().await, "postgres", &self.database.name);
        connect(&format!("{url}?options=-c%20pgweir.tenant%3D{tenant}")).await
    }

    /// One row of `SHOW TENANTS`: a column of a tenant.
    async fn shown(&self, tenant: &str, column: &str) -> Option<String> {
        let messages = self.console.simple_query("SHOW TENANTS").await.unwrap();
        let row = messages.into_iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) if row.get("name") == Some(tenant) => Some(row),
            _ => None,
        });
        row.unwrap_or_else(|| panic!("no tenant {tenant}")).get(column).map(str::to_owned)
    }
}

fn administered(text: &str) -> String {
    text.replace("name = \"postgres\"\npassword", "name = \"postgres\"\nadmin = true\npassword")
}

/// Beside whatever else the test does.
fn runs(client: &Arc<Client>, sql: &'static str) -> JoinHandle<Result<(), tokio_postgres::Error>> {
    let client = client.clone();
    tokio::spawn(async move { client.batch_execute(sql).await })
}

/// As long as it has clients.
#[tokio::test]
async fn it_shows_who_has_left_the_configuration() {
    let stage = Stage::set("").await;
    let acme = stage.of_tenant("acme").await;
    let less = TENANTS.replace("[[tenants]]\nname = \"acme\"\npriority = \"high\"\n", "");
    stage.proxy.reload(&administered(&config(shared_cluster().await, &less, &["postgres"]))).await.unwrap();
    assert_eq!(stage.shown("acme", "clients").await.as_deref(), Some("1"));
    drop(acme);
    eventually("nobody is there any more", async || {
        let messages = stage.console.simple_query("SHOW TENANTS").await.unwrap();
        !messages
            .iter()
            .any(|message| matches!(message, SimpleQueryMessage::Row(row) if row.get("name") == Some("acme")))
    })
    .await;
}

#[tokio::test]
async fn it_shows_what_tenants_do() {
    let stage = Stage::set("").await;
    let acme = stage.of_tenant("acme").await;
    acme.batch_execute("BEGIN; SELECT 1").await.unwrap();
    let shown = async |column| stage.shown("acme", column).await;
    assert_eq!(shown("clients").await.as_deref(), Some("1"));
    eventually("it is idle in a transaction", async || shown("idle_in_transaction").await.as_deref() == Some("1"))
        .await;
    acme.batch_execute("COMMIT").await.unwrap();
    // Counted once the client has its answer.
    eventually("it is counted", async || shown("transactions").await.as_deref() == Some("1")).await;
    assert_eq!(shown("priority").await.as_deref(), Some("high"));
    assert_eq!((shown("statement_timeout").await.as_deref(), shown("max_clients").await), (Some("15s"), None));
    assert_eq!(stage.shown("Beta Inc", "clients").await.as_deref(), Some("0"));
    assert_eq!(stage.shown("default", "clients").await.as_deref(), Some("0"));
    for (show, column, expected) in [
        ("SHOW CLIENTS", "tenant", "acme"),
        ("show pools", "database", &*stage.database.name),
        ("SHOW HOSTS;", "host", "primary"),
        ("SHOW VERSION", "version", "pgweir "),
        ("SHOW HELP", "command", "SHOW TENANTS"),
    ] {
        let messages = stage.console.simple_query(show).await.unwrap();
        let holds = |message: &SimpleQueryMessage| {
            matches!(message, SimpleQueryMessage::Row(row)
            if row.get(column).is_some_and(|value| value.starts_with(expected)))
        };
        assert!(messages.iter().any(holds), "{show}: {messages:?}");
    }
    for (command, code) in [
        ("SELECT 1", "42601"),
        ("PAUSE TENANT nobody", "42704"),
        ("LIMIT TENANT acme max_clients = 0", "22023"),
        ("LIMIT TENANT acme nothing = 1", "22023"),
        ("LIMIT TENANT acme [", "22023"),
    ] {
        let error = stage.console.simple_query(command).await.unwrap_err();
        assert_eq!(sqlstate(&error), code, "{command}");
        assert!(error.as_db_error().unwrap().hint().is_some(), "{command}");
    }
    assert_eq!(sqlstate(&stage.console.query("SHOW TENANTS", &[]).await.unwrap_err()), "0A000");
    stage.console.simple_query("SHOW TENANTS").await.unwrap();
    let used = stage.proxy.metric("pgweir_tenant_transactions_total{tenant=\"acme\"}");
    assert_eq!(used, 1.0);
}

#[tokio::test]
async fn a_paused_tenant_waits_and_others_do_not() {
    let stage = Stage::set("[pool]\nqueue_timeout = \"1s\"\n").await;
    let (acme, beta) = (Arc::new(stage.of_tenant("acme").await), stage.of_tenant("Beta%5C%20Inc").await);
    acme.batch_execute("BEGIN; SELECT 1").await.unwrap();
    stage
        .console
        .simple_query("PAUSE TENANT acme; PAUSE TENANT \"Beta Inc\"; RESUME TENANT \"Beta Inc\"")
        .await
        .unwrap();
    assert_eq!(stage.shown("acme", "paused").await.as_deref(), Some("yes"));
    assert_eq!(value(&beta, "SELECT 1").await, "1");
    // What has begun goes on.
    assert_eq!(value(&acme, "SELECT 2").await, "2");
    acme.batch_execute("COMMIT").await.unwrap();
    let error = acme.batch_execute("SELECT 1").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("53300", "tenant \"acme\" is paused"));
    let waits = runs(&acme, "SELECT 1");
    eventually("it waits", async || stage.shown("acme", "waiting").await.as_deref() == Some("1")).await;
    stage.console.simple_query("RESUME TENANT acme").await.unwrap();
    waits.await.unwrap().unwrap();
    // So does a session that keeps its server connection, which may be cancelled there and goes on afterwards.
    acme.batch_execute("CREATE TEMP TABLE kept AS SELECT 7 AS x").await.unwrap();
    stage.console.simple_query("PAUSE TENANT acme").await.unwrap();
    for ends in ["by itself", "cancelled", "resumed"] {
        let waits = {
            let acme = acme.clone();
            tokio::spawn(async move { try_value(&acme, "SELECT x FROM kept").await })
        };
        eventually("it waits", async || stage.shown("acme", "waiting").await.as_deref() == Some("1")).await;
        match ends {
            "cancelled" => acme.cancel_token().cancel_query(NoTls).await.unwrap(),
            "resumed" => drop(stage.console.simple_query("RESUME TENANT acme").await.unwrap()),
            _ => {}
        }
        match (ends, waits.await.unwrap()) {
            ("by itself", Err(error)) => assert_eq!(sqlstate(&error), "53300"),
            ("cancelled", Err(error)) => assert_eq!(sqlstate(&error), "57014"),
            (_, outcome) => assert_eq!(outcome.unwrap(), "7", "{ends}"),
        }
    }
    let sleeps = runs(&acme, "SELECT pg_sleep(600) FROM kept");
    eventually("it runs", async || stage.database.sql(RUNNING).await == "1").await;
    acme.cancel_token().cancel_query(NoTls).await.unwrap();
    assert_eq!(sqlstate(&sleeps.await.unwrap().unwrap_err()), "57014");
    acme.batch_execute("DROP TABLE kept").await.unwrap();
    // One that waits is killed like any other.
    stage.console.simple_query("PAUSE TENANT acme").await.unwrap();
    let waits = runs(&acme, "SELECT 1");
    eventually("it waits", async || stage.shown("acme", "waiting").await.as_deref() == Some("1")).await;
    stage.console.simple_query("KILL TENANT acme").await.unwrap();
    assert_eq!(sqlstate(&waits.await.unwrap().unwrap_err()), "57P01");
    eventually("it is gone", async || acme.is_closed()).await;
}

#[tokio::test]
async fn a_killed_tenant_is_gone_and_limits_can_be_changed() {
    let stage = Stage::set("").await;
    let (acme, beta) = (Arc::new(stage.of_tenant("acme").await), stage.of_tenant("Beta%5C%20Inc").await);
    let sleeps = runs(&acme, "SELECT pg_sleep(600)");
    eventually("it runs", async || stage.database.sql(RUNNING).await == "1").await;
    stage.console.simple_query("KILL TENANT acme").await.unwrap();
    assert!(sleeps.await.unwrap().is_err());
    eventually("it does not run", async || stage.database.sql(RUNNING).await == "0").await;
    eventually("it is gone", async || acme.is_closed()).await;
    assert_eq!(value(&beta, "SELECT 1").await, "1");

    let limit = async |limit: &str| stage.console.simple_query(&format!("LIMIT TENANT acme {limit}")).await.unwrap();
    limit("max_clients = 1").await;
    limit("rate_limits = [\"3/h\"]").await;
    limit("statement_timeout = '200ms'").await;
    let acme = stage.of_tenant("acme").await;
    let url = stage.proxy.url(shared_cluster().await, "postgres", &stage.database.name);
    let refused = stage.proxy.refusal(&format!("{url}?options=-c%20pgweir.tenant%3Dacme")).await;
    assert_eq!(refused.code().code(), "53300");
    assert_eq!(sqlstate(&acme.batch_execute("SELECT pg_sleep(60)").await.unwrap_err()), "57014");
    acme.batch_execute("SELECT 1; SELECT 2").await.unwrap();
    assert_eq!(sqlstate(&acme.batch_execute("SELECT 1").await.unwrap_err()), "53400");
    // To the next time that the file is read.
    let text = administered(&config(shared_cluster().await, TENANTS, &["postgres"]));
    stage.proxy.reload(&text).await.unwrap();
    assert_eq!(stage.shown("acme", "max_clients").await, None);
    stage.of_tenant("acme").await.batch_execute("SELECT 1").await.unwrap();
}

/// Here they wait for a server that says nothing.
#[tokio::test]
async fn clients_are_killed_that_are_still_being_let_in() {
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("[clusters.main]\nprimary = \"postgres://{}\"\n", mute.local_addr().unwrap());
    let user = "[[users]]\nname = \"ops\"\nauth = \"trust\"\nadmin = true\n";
    for (mode, walsender) in [("transaction", false), ("session", false), ("transaction", true)] {
        let pool = format!("[pool]\nmode = \"{mode}\"\nconnect_timeout = \"1min\"\n");
        let proxy = Proxy::start(&format!("{TENANTS}{pool}{server}{user}")).await;
        let console = connect(&format!("postgres://ops@127.0.0.1:{}/pgweir", proxy.port)).await;
        let mut client = RawClient::open(proxy.port).await;
        let mut startup = vec![("user", "ops"), ("database", "app"), ("options", "-c pgweir.tenant=acme")];
        startup.extend(walsender.then_some(("replication", "true")));
        client.send(&say::startup(&startup)).await.unwrap();
        eventually("it waits", async || {
            let messages = console.simple_query("SHOW CLIENTS").await.unwrap();
            let waits = |message: &SimpleQueryMessage| {
                matches!(message, SimpleQueryMessage::Row(row) if row.get("state") == Some("waiting"))
            };
            messages.iter().any(waits)
        })
        .await;
        let killed = console.simple_query("KILL TENANT acme").await.unwrap();
        assert!(matches!(killed[..], [SimpleQueryMessage::CommandComplete(1)]), "{mode}: {killed:?}");
        let (frames, end) = client.leave().await;
        assert_eq!(frames.last().and_then(Frame::sqlstate).as_deref(), Some("57P01"), "{mode}: {frames:?}");
        assert_eq!(end, End::Closed { inside: 0 }, "{mode}");
        eventually("it is forgotten", async || value(&console, "SHOW CLIENTS").await.is_empty()).await;
    }
}

/// From their next transaction on, by the console and by a reload.
#[tokio::test]
async fn new_limits_hold_for_those_who_are_there() {
    for mode in ["transaction", "session"] {
        let stage = Stage::set(&format!("[pool]\nmode = \"{mode}\"\n")).await;
        let acme = stage.of_tenant("acme").await;
        let own = stage.of_tenant("acme").await;
        own.batch_execute("SET statement_timeout = '7s'; SET work_mem = '5MB'").await.unwrap();
        acme.batch_execute("BEGIN").await.unwrap();
        let limit =
            async |limit: &str| stage.console.simple_query(&format!("LIMIT TENANT acme {limit}")).await.unwrap();
        limit("statement_timeout = '1s'").await;
        acme.batch_execute("SELECT pg_sleep(1.3); COMMIT").await.unwrap();
        for client in [&acme, &own] {
            let error = client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
            assert_eq!(sqlstate(&error), "57014", "{mode}");
            assert_eq!(value(client, "SHOW statement_timeout").await, "1s", "{mode}");
        }
        assert_eq!(value(&own, "SHOW work_mem").await, "5MB");
        limit("settings = { \"app.tenant\" = \"acme\" }").await;
        assert_eq!(value(&acme, "SELECT current_setting('app.tenant')").await, "acme", "{mode}");
        assert_eq!(sqlstate(&acme.batch_execute("SET app.tenant = 'beta'").await.unwrap_err()), "42501");
        limit("statement_timeout = '3s'").await;
        assert_eq!(value(&acme, "SHOW statement_timeout").await, "3s", "{mode}");
        let consistency = async || {
            let rows = acme.query("EXPLAIN ROUTE SELECT 1", &[]).await.unwrap();
            rows.iter().find(|row| row.get::<_, &str>(0) == "consistency").unwrap().get::<_, String>(1)
        };
        limit("consistency = 'eventual'").await;
        assert_eq!((value(&acme, "SELECT 1").await, consistency().await), ("1".into(), "eventual".into()), "{mode}");
        let text = administered(&config(shared_cluster().await, TENANTS, &["postgres"]));
        let text = text.replace("\"15s\"", "\"9s\"") + &format!("[pool]\nmode = \"{mode}\"\n");
        stage.proxy.reload(&text).await.unwrap();
        assert_eq!(value(&acme, "SHOW statement_timeout").await, "9s", "{mode}");
        assert_eq!(consistency().await, "session", "{mode}");
        assert_eq!(value(&acme, "SELECT current_setting('app.tenant', true)").await, "", "{mode}");
    }
}

/// From their next transaction on.
#[tokio::test]
async fn connections_count_that_were_there_before_their_limit() {
    let stage = Stage::set("[pool]\nmode = \"session\"\nqueue_timeout = \"1s\"\n").await;
    let (one, two) = (stage.of_tenant("acme").await, stage.of_tenant("acme").await);
    stage.console.simple_query("LIMIT TENANT acme max_server_connections = 2").await.unwrap();
    for _ in 0..2 {
        one.batch_execute("SELECT 1").await.unwrap();
        two.batch_execute("SELECT 1").await.unwrap();
    }
    let url = stage.proxy.url(shared_cluster().await, "postgres", &stage.database.name);
    let refused = stage.proxy.refusal(&format!("{url}?options=-c%20pgweir.tenant%3Dacme")).await;
    assert_eq!(refused.message(), "too many server connections for tenant \"acme\": 2 are in use, 2 allowed");
    drop(one);
    stage.of_tenant("acme").await.batch_execute("SELECT 1").await.unwrap();
}

/// What a client has asked for itself stays, and what its role has is what it goes back to.
#[tokio::test]
async fn new_limits_leave_what_was_asked_for() {
    let stage = Stage::set("").await;
    stage.database.sql(&format!("ALTER DATABASE {} SET statement_timeout = '5s'", stage.database.name)).await;
    let acme = stage.of_tenant("acme").await;
    let high = stage.of_tenant("acme").await;
    assert_eq!(value(&acme, "SHOW statement_timeout").await, "5s");
    acme.batch_execute("SET statement_timeout = '1s'").await.unwrap();
    high.batch_execute("SET statement_timeout = '1h'").await.unwrap();
    assert_eq!(value(&high, "SHOW statement_timeout").await, "15s");
    for limit in ["max_clients = 50", "statement_timeout = '20s'"] {
        stage.console.simple_query(&format!("LIMIT TENANT acme {limit}")).await.unwrap();
        assert_eq!(value(&acme, "SHOW statement_timeout").await, "1s", "{limit}");
        assert_eq!(value(&high, "SHOW statement_timeout").await, "15s", "{limit}");
    }
    for client in [&acme, &high] {
        client.batch_execute("RESET statement_timeout").await.unwrap();
        assert_eq!(value(client, "SHOW statement_timeout").await, "5s");
    }
}

#[tokio::test]
async fn a_tenant_may_be_called_anything() {
    let stage = Stage::set("[[tenants]]\nname = 'a;\"b'\n[[tenants]]\nname = \"it's\"\n").await;
    for (said, name) in [("\"a;\"\"b\"", "a;\"b"), ("'a;\"b'", "a;\"b"), ("\"it's\"", "it's"), ("'it''s'", "it's")] {
        let paused = async || stage.shown(name, "paused").await;
        stage.console.simple_query(&format!("PAUSE TENANT {said}; SHOW TENANTS")).await.unwrap();
        assert_eq!(paused().await.as_deref(), Some("yes"), "{said}");
        stage.console.simple_query(&format!("resume tenant{said};")).await.unwrap();
        assert_eq!(paused().await.as_deref(), Some("no"), "{said}");
        let limit = format!("LIMIT TENANT {said} settings = {{ \"app.x\" = \"y;'z\" }} /* ; */; SHOW VERSION");
        stage.console.simple_query(&limit).await.unwrap();
    }
    let error = stage.console.simple_query("PAUSE TENANT \"it's").await.unwrap_err();
    assert_eq!(sqlstate(&error), "42601");
}

/// The database of that name is another's.
#[tokio::test]
async fn nobody_else_gets_in() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(&config(cluster, "", &["postgres"])).await;
    let refused = proxy.refusal(&proxy.url(cluster, "postgres", "pgweir")).await;
    assert_eq!((refused.code().code(), refused.message()), ("3D000", "database \"pgweir\" does not exist"));
}

#[tokio::test]
async fn who_did_what_is_in_the_log_whatever_its_level() {
    let cluster = shared_cluster().await;
    let database = fresh_database("").await;
    let limits = "[log]\nformat = \"text\"\n[tiers.standard]\nrate_limits = [\"3/h\"]\nsettings = { \"app.tenant\" = \"x\" }\n\
         statement_timeout = \"1s\"\n";
    let process = Process::start(&administered(&config(cluster, limits, &["postgres"])));
    let (server, port) = (format!(":{}/", cluster.primary().port), format!(":{}/", process.port));
    let to = |database: &str| cluster.primary().url("postgres", database).replace(&server, &port);
    let url = to(&database.name);
    let audit = |part: &str| -> serde_json::Value {
        let line = process.line(part);
        let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(line["target"], "audit", "{line}");
        line
    };
    assert!(tokio_postgres::connect(&format!("{url}?options=-c%20app.tenant%3Dy"), NoTls).await.is_err());
    let line = audit("\"limit\":\"guarded_setting\"");
    assert_eq!((&line["event"], &line["tenant"]), (&"limit".into(), &"default".into()));
    assert_eq!(audit("\"login_refused\"")["reason"], "guarded_setting");
    let client = connect(&url).await;
    client.batch_execute("SET app.tenant = 'y'").await.unwrap_err();
    let line = audit("\"guarded_setting\"");
    assert_eq!(
        (&line["event"], &line["tenant"], &line["user"]),
        (&"limit".into(), &"default".into(), &"postgres".into())
    );
    assert!(line["error"].as_str().is_some_and(|error| error.contains("app.tenant")), "{line}");
    let error = client.batch_execute("SELECT pg_sleep(60)").await.unwrap_err();
    assert_eq!(sqlstate(&error), "57014");
    assert_eq!(audit("\"timeout\"")["event"], "limit");
    for _ in 0..3 {
        let _ = client.batch_execute("SELECT 1").await;
    }
    assert_eq!(audit("\"rate_limit\"")["database"], *database.name);
    let wrong = url.replace("postgres://postgres:", "postgres://postgres:wrong");
    assert!(tokio_postgres::connect(&wrong, tokio_postgres::NoTls).await.is_err());
    let line = audit("\"login_refused\"");
    assert_eq!((&line["reason"], &line["code"]), (&"password".into(), &"28P01".into()));
    let console = connect(&to("pgweir")).await;
    console.simple_query("PAUSE TENANT default").await.unwrap();
    let line = audit("\"administrator\"");
    assert_eq!((&line["command"], &line["outcome"]), (&"PAUSE TENANT default".into(), &"done".into()));
    let long = "x".repeat(9999);
    for command in ["PAUSE TENANTS default", &long] {
        console.simple_query(command).await.unwrap_err();
        let line = audit("\"administrator\"");
        let [said, outcome] = ["command", "outcome"].map(|key| line[key].as_str().unwrap());
        assert!(command.starts_with(said.trim_end_matches('…')) && said.len() < 2000, "{line}");
        assert!(outcome.starts_with("syntax error in \"") && outcome.len() < 2000, "{line}");
    }
}

/// One for the first, and then one a second with their number.
#[tokio::test]
async fn statements_that_wait_for_their_rate_have_a_line() {
    let limits = "[tiers.standard]\nrate_limits = [{ rate = \"20/s\", burst = 1, delay = \"1min\" }]\n";
    let process = Process::start(&config(shared_cluster().await, limits, &["postgres"]));
    let direct = shared_cluster().await.primary().url("postgres", "postgres");
    let server = format!(":{}/", shared_cluster().await.primary().port);
    let client = connect(&direct.replace(&server, &format!(":{}/", process.port))).await;
    let mut counts = Vec::new();
    for _ in 0..2 {
        for _ in 0..30 {
            client.batch_execute("SELECT 1").await.unwrap();
        }
        let line: serde_json::Value = serde_json::from_str(&process.line("\"rate_limit_delay\"")).unwrap();
        assert_eq!((&line["target"], &line["tenant"]), (&"audit".into(), &"default".into()), "{line}");
        counts.push(line["count"].as_u64().unwrap());
    }
    assert!(counts[0] == 1 && counts[1] > 5, "{counts:?}");
}
