//! Replication connections through the proxy: PostgreSQL's own programs, who may, and how they end.

use std::process::{Output, Stdio};

use pgweir::sandbox::{Login, User};

use crate::support::primary_only::config;
use crate::support::proxy::{Proxy, config_for};
use crate::support::{connect, eventually, fresh_database, shared_cluster, unique};

/// Runs one of PostgreSQL's programs against the proxy.
async fn run(program: &str, url: &str, arguments: &[&str]) -> Output {
    let program = shared_cluster().await.installation().program(program).unwrap();
    tokio::process::Command::new(program).args(["-d", url]).args(arguments).env_clear().output().await.unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[tokio::test]
async fn a_base_backup_is_made_through_the_proxy() {
    let cluster = shared_cluster().await;
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let proxy = Proxy::start(&config_for(cluster, &["postgres"])).await;
    let url = proxy.url(cluster, "postgres", &database.name);
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("backup");
    let target = target.to_str().unwrap();
    let backup = run("pg_basebackup", &url, &["-D", target, "-X", "stream", "-c", "fast"]).await;
    assert!(backup.status.success(), "{}", text(&backup));
    let verify = cluster.installation().program("pg_verifybackup").unwrap();
    let verified = tokio::process::Command::new(verify).arg(target).env_clear().output().await.unwrap();
    assert!(verified.status.success(), "{}", text(&verified));
}

#[tokio::test]
async fn a_walsender_answers_in_both_modes() {
    let cluster = shared_cluster().await;
    let database = fresh_database("CREATE TABLE t AS SELECT 42 AS x").await;
    let proxy = Proxy::start(&config_for(cluster, &["postgres"])).await;
    let identifier = cluster.primary().psql("SELECT system_identifier FROM pg_control_system()").await.unwrap();
    let url = proxy.url(cluster, "postgres", &database.name);
    for (mode, commands, expected) in [
        ("true", "IDENTIFY_SYSTEM", identifier.trim()),
        ("on", "SHOW port", &cluster.primary().port.to_string()),
        ("database", "SELECT x FROM t", "42"),
        ("database", "IDENTIFY_SYSTEM", database.name.as_str()),
    ] {
        let output = run("psql", &format!("{url}?replication={mode}"), &["-AtX", "-c", commands]).await;
        assert!(output.status.success() && text(&output).contains(expected), "{mode}: {}", text(&output));
    }
}

/// The server decides by its own user; where that is another than the client's, the configuration does.
#[tokio::test]
async fn who_may_replicate_is_said_by_the_server_or_the_configuration() {
    let cluster = shared_cluster().await;
    let plain = format!("plain_{}", unique());
    cluster.create_users(&[User::new(&plain, "x").login(Login::ScramSha256)]).await.unwrap();
    let server_password = config_for(cluster, &["postgres"]);
    let server_password = server_password.lines().find_map(|line| line.strip_prefix("password = ")).unwrap();
    let mapped = |name: &str, more: &str| {
        format!(
            "[[users]]\nname = \"{name}\"\npassword = {{ env = \"NONE\" }}\nserver_user = \"postgres\"\n\
             server_password = {server_password}\n{more}\n"
        )
        .replace("password = { env = \"NONE\" }", "auth = \"trust\"")
    };
    let users = mapped("guest", "") + &mapped("keeper", "replication = true");
    let proxy = Proxy::start(&(config(cluster, "", &[&plain]) + &users)).await;
    for (user, password, expected) in [
        (plain.as_str(), "x", "FATAL:  must be superuser or replication role to start walsender"),
        ("guest", "", "FATAL:  permission denied for user \"guest\" to start a replication connection"),
        ("keeper", "", "systemid"),
    ] {
        let url = format!("postgres://{user}:{password}@127.0.0.1:{}/postgres?replication=database", proxy.port);
        let output = run("psql", &url, &["-AX", "-c", "IDENTIFY_SYSTEM"]).await;
        assert!(text(&output).contains(expected), "{user}: {}", text(&output));
    }
}

/// A proxy, and its console.
async fn administered() -> (Proxy, tokio_postgres::Client) {
    let cluster = shared_cluster().await;
    let proxy = Proxy::start(&(config_for(cluster, &["postgres"]) + "admin = true\n")).await;
    let console = connect(&proxy.url(cluster, "postgres", "pgweir")).await;
    (proxy, console)
}

/// A walsender that sleeps, run by psql.
async fn sleeping(proxy: &Proxy, database: &str, mark: &str) -> tokio::process::Child {
    let cluster = shared_cluster().await;
    let url = format!("{}?replication=database", proxy.url(cluster, "postgres", database));
    let sql = format!("SELECT pg_sleep(60) AS {mark}");
    let psql = tokio::process::Command::new(cluster.installation().program("psql").unwrap())
        .args(["-d", &url, "-X", "-c", &sql])
        .env_clear()
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let busy = format!("SELECT count(*) FROM pg_stat_activity WHERE query = '{sql}' AND backend_type = 'walsender'");
    eventually("the walsender is at work", async || cluster.primary().psql(&busy).await.unwrap().trim() == "1").await;
    psql
}

#[tokio::test]
async fn a_shutdown_ends_what_replicates() {
    let database = fresh_database("").await;
    let mut proxy = Proxy::start(&config_for(shared_cluster().await, &["postgres"])).await;
    let psql = sleeping(&proxy, &database.name, "until_shutdown").await;
    proxy.shut_down().await.unwrap();
    let ended = psql.wait_with_output().await.unwrap();
    assert!(!ended.status.success(), "{}", text(&ended));
}

#[tokio::test]
async fn a_cancel_reaches_a_walsender() {
    let database = fresh_database("").await;
    let proxy = Proxy::start(&config_for(shared_cluster().await, &["postgres"])).await;
    let psql = sleeping(&proxy, &database.name, "until_cancel").await;
    let pid = psql.id().unwrap().to_string();
    assert!(tokio::process::Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    let ended = psql.wait_with_output().await.unwrap();
    assert!(text(&ended).contains("canceling statement due to user request"), "{}", text(&ended));
}

/// A walsender runs SQL in which nobody sees to ceilings.
#[tokio::test]
async fn who_has_ceilings_has_no_walsender_that_runs_sql() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let url =
        |proxy: &Proxy, mode: &str| proxy.url(cluster, "postgres", &database.name) + &format!("?replication={mode}");
    for limits in ["statement_timeout = \"1s\"", "rate_limits = [\"9/s\"]"] {
        let config = config_for(cluster, &["postgres"]) + &format!("[tiers.standard]\n{limits}\n");
        let proxy = Proxy::start(&config).await;
        let words = text(&run("psql", &url(&proxy, "database"), &["-AtX", "-c", "SELECT 1"]).await);
        let (name, _) = limits.split_once(' ').unwrap();
        assert!(
            words.contains("permission denied") && words.contains(name) && words.contains("\"default\""),
            "{words}"
        );
        let identified = run("psql", &url(&proxy, "true"), &["-AtX", "-c", "IDENTIFY_SYSTEM"]).await;
        assert!(identified.status.success(), "{}", text(&identified));
    }
}

/// A server connection of its own counts for the tenant like one that a session keeps.
#[tokio::test]
async fn a_tenant_replicates_within_its_limit() {
    let database = fresh_database("").await;
    let cluster = shared_cluster().await;
    let config = config_for(cluster, &["postgres"]) + "[tiers.standard]\nmax_pinned = 1\n";
    let proxy = Proxy::start(&config).await;
    let mut first = sleeping(&proxy, &database.name, "holds_the_only_one").await;
    let url = proxy.url(cluster, "postgres", &database.name) + "?replication=database";
    let refused = run("psql", &url, &["-AtX", "-c", "SELECT 1"]).await;
    let words = text(&refused);
    assert!(
        words.contains("too many pinned server connections for tenant \"default\": 1 are pinned, 1 allowed"),
        "{words}"
    );
    assert!(words.contains("replication connection") && words.contains("max_pinned"), "{words}");
    assert_eq!(proxy.metric("pgweir_session_pins_total{reason=\"replication\"}"), 1.0);
    first.kill().await.unwrap();
    eventually("there is room again", async || run("psql", &url, &["-AtX", "-c", "SELECT 1"]).await.status.success())
        .await;
}

/// Nobody could hold it to those.
#[tokio::test]
async fn limits_that_come_later_end_a_walsender() {
    let database = fresh_database("").await;
    for (limit, mark) in [
        ("statement_timeout = '1s'", "under_a_ceiling"),
        ("rate_limits = [\"9/s\"]", "under_a_rate"),
        ("settings = { \"app.tenant\" = \"x\" }", "under_settings"),
    ] {
        let (proxy, console) = administered().await;
        let psql = sleeping(&proxy, &database.name, mark).await;
        console.simple_query("LIMIT TENANT default max_clients = 9").await.unwrap();
        console.simple_query(&format!("LIMIT TENANT default {limit}")).await.unwrap();
        let ended = psql.wait_with_output().await.unwrap();
        assert!(!ended.status.success(), "{limit}: {}", text(&ended));
        let busy = format!("SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%AS {mark}'");
        let primary = shared_cluster().await.primary();
        eventually("its statement is over", async || primary.psql(&busy).await.unwrap().trim() == "0").await;
        eventually("it is counted", async || {
            proxy.metric("pgweir_tenant_rejections_total{tenant=\"default\",reason=\"replication\"}") == 1.0
        })
        .await;
    }
}

/// As a session does which is there.
#[tokio::test]
async fn a_walsender_goes_on_when_no_more_may_come() {
    let database = fresh_database("").await;
    let (proxy, console) = administered().await;
    let mut psql = sleeping(&proxy, &database.name, "until_killed").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name) + "?replication=database";
    let refused = async || text(&run("psql", &url, &["-AtX", "-c", "SELECT 1"]).await);
    for limit in ["max_pinned = 1", "max_clients = 1"] {
        console.simple_query(&format!("LIMIT TENANT default {limit}")).await.unwrap();
        let (name, _) = limit.split_once(' ').unwrap();
        assert!(refused().await.contains(name), "{limit}");
        console.simple_query(&format!("LIMIT TENANT default {name} = 9")).await.unwrap();
    }
    console.simple_query("LIMIT TENANT default max_server_connections = 1").await.unwrap();
    let full = "too many server connections for tenant \"default\": 1 are in use, 1 allowed";
    eventually("it counts", async || refused().await.contains(full)).await;
    console.simple_query("PAUSE TENANT default").await.unwrap();
    assert!(refused().await.contains("tenant \"default\" is paused"));
    assert_eq!(psql.try_wait().unwrap(), None);
    console.simple_query("KILL TENANT default").await.unwrap();
    assert!(!psql.wait().await.unwrap().success());
}
