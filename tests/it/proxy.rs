//! The whole proxy in front of real servers: letting clients in, ceilings, metrics, reloading, ending.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgweir::sandbox::{Certificates, ReservedPort, User};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::support::proxy::{Proxy, config_for};
use crate::support::{connect, eventually, fresh_database, shared_cluster, unique};

/// A user of the shared cluster's, with a name of its own.
async fn new_user() -> String {
    let name = format!("user_{}", unique());
    shared_cluster().await.create_users(&[User::new(&name, format!("{name}'s password"))]).await.unwrap();
    name
}

/// The error of a statement that fails.
async fn failure(client: &tokio_postgres::Client, sql: &str) -> tokio_postgres::error::DbError {
    let error = client.batch_execute(sql).await.expect_err("a failure");
    error.as_db_error().unwrap_or_else(|| panic!("no answer: {error}")).clone()
}

#[tokio::test]
async fn a_client_logs_in_and_gets_its_answer() {
    let database = fresh_database("CREATE TABLE t AS SELECT 42 AS x").await;
    let proxy = Proxy::for_shared_cluster("").await;
    let client = proxy.connect(&database.name).await;
    client.batch_execute("UPDATE t SET x = x + 1").await.unwrap();
    let row = client.query_one("SELECT x + $1 FROM t", &[&1i32]).await.unwrap();
    assert_eq!(row.get::<_, i32>(0), 44);
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_user_get_the_same_answer() {
    let proxy = Proxy::for_shared_cluster("").await;
    for user in ["postgres", "nobody_of_this_name"] {
        let error = proxy.refusal(&format!("postgres://{user}:wrong@127.0.0.1:{}/postgres", proxy.port)).await;
        assert_eq!(error.code(), &SqlState::INVALID_PASSWORD);
        assert_eq!(error.message(), format!("password authentication failed for user \"{user}\""));
    }
}

#[tokio::test]
async fn one_client_more_than_allowed_is_told_the_limit() {
    let proxy = Proxy::for_shared_cluster("[listen]\naddress = \"127.0.0.1:0\"\nmax_clients = 1\n").await;
    let first = proxy.connect("postgres").await;
    let url = proxy.url(shared_cluster().await, "postgres", "postgres");
    let error = proxy.refusal(&url).await;
    assert_eq!((error.code(), error.severity()), (&SqlState::TOO_MANY_CONNECTIONS, "FATAL"));
    assert_eq!(error.message(), "sorry, too many clients already");
    assert!(error.detail().unwrap().starts_with("The limit is 1 "), "{error:?}");

    // A cancel request is no client and gets through nevertheless.
    let cancel = first.cancel_token();
    let sleeping = tokio::spawn(async move { (failure(&first, "SELECT pg_sleep(600)").await, first) });
    eventually("the statement runs", async || proxy.metric("pgweir_clients{state=\"active\"}") == 1.0).await;
    cancel.cancel_query(NoTls).await.unwrap();
    let (error, first) = sleeping.await.unwrap();
    assert_eq!(error.code(), &SqlState::QUERY_CANCELED);

    drop(first);
    let connects = async || tokio_postgres::connect(&url, NoTls).await.is_ok();
    eventually("the place is free again", connects).await;
}

#[tokio::test]
async fn users_and_tenants_have_ceilings_of_their_own() {
    let (user, cluster) = (new_user().await, shared_cluster().await);
    let more = "[tiers.standard]\nstatement_timeout = \"60s\"\n[tiers.small]\nmax_clients = 1\n\
                [[tenants]]\nname = \"tiny\"\ntier = \"small\"\nmatch = { option = \"tiny\" }\n";
    let config = format!("{more}{}max_clients = 2\n", config_for(cluster, &[&user]));
    let proxy = Proxy::start(&config).await;
    let url = proxy.url(cluster, &user, "postgres");
    let tiny = format!("{url}?options=-c%20pgweir.tenant%3Dtiny");

    let _first = connect(&tiny).await;
    let error = proxy.refusal(&tiny).await;
    assert_eq!(error.code(), &SqlState::TOO_MANY_CONNECTIONS);
    assert_eq!(error.message(), "too many connections for tenant \"tiny\": 1 are open, 1 allowed");
    let _second = connect(&url).await;
    let error = proxy.refusal(&url).await;
    assert_eq!(error.message(), format!("too many connections for role \"{user}\""));
    let counted = "pgweir_tenant_rejections_total{tenant=\"tiny\",reason=\"max_clients\"}";
    assert_eq!(proxy.metric(counted), 1.0);

    let error = proxy.refusal(&format!("{url}?options=-c%20pgweir.tennant%3Dtiny")).await;
    assert_eq!(error.message(), "unrecognized configuration parameter \"pgweir.tennant\"");
}

#[tokio::test]
async fn a_tenants_timeout_cannot_be_lifted() {
    let more = "[tiers.standard]\nstatement_timeout = \"200ms\"\n";
    let proxy = Proxy::for_shared_cluster(more).await;
    let client = proxy.connect("postgres").await;
    client.batch_execute("SET statement_timeout = 0").await.unwrap();
    let error = failure(&client, "SELECT pg_sleep(600)").await;
    assert_eq!(error.code(), &SqlState::QUERY_CANCELED);
    assert_eq!(error.message(), "canceling statement due to statement timeout");
}

#[tokio::test]
async fn strangers_who_say_nothing_take_no_more_than_their_share() {
    let listen = "[listen]\naddress = \"127.0.0.1:0\"\nmax_unauthenticated = 1\nstartup_timeout = \"300ms\"\n";
    let proxy = Proxy::for_shared_cluster(listen).await;
    let mut silent = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    let authenticating = "pgweir_clients{state=\"authenticating\"}";
    eventually("the stranger is counted", async || proxy.metric(authenticating) == 1.0).await;
    let mut second = TcpStream::connect(("127.0.0.1", proxy.port)).await.unwrap();
    assert_eq!(second.read(&mut [0; 64]).await.unwrap_or(0), 0, "closed without a word");
    assert_eq!(silent.read(&mut [0; 64]).await.unwrap(), 0, "closed after startup_timeout");
    eventually("the place is free again", async || proxy.metric(authenticating) == 0.0).await;
    proxy.connect("postgres").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn metrics_and_health_are_served() {
    let database = fresh_database("CREATE TABLE t (x int)").await;
    let proxy = Proxy::for_shared_cluster("").await;
    let client = proxy.connect(&database.name).await;
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    let labels = format!("database=\"{}\",user=\"postgres\"", database.name);
    assert_eq!(proxy.metric(&format!("pgweir_queries_total{{{labels},host=\"primary\",role=\"primary\"}}")), 1.0);
    // Until the catalog has been read, the server is asked what a call may have done, behind the client's answer.
    let idle = format!("pgweir_clients{{{labels},state=\"idle\"}}");
    eventually("the client is idle", async || proxy.metric(&idle) == 1.0).await;

    let (status, text) = proxy.http("/metrics").await;
    assert_eq!(status, 200);
    for family in ["pgweir_server_connections{", "pgweir_replica_up{", "pgweir_waiting_clients{", "pgweir_build_info{"]
    {
        assert!(text.contains(family), "{family} is missing:\n{text}");
    }
    assert_eq!(proxy.http("/healthz").await, (200, "ok\n".to_owned()));
    eventually("it is ready", async || proxy.http("/readyz").await == (200, "ready\n".to_owned())).await;
    assert_eq!(proxy.http("/elsewhere").await.0, 404);
}

#[tokio::test]
async fn without_its_primary_it_lives_but_is_not_ready() {
    let port = ReservedPort::new().unwrap();
    let config = format!(
        "[clusters.main]\nprimary = {{ url = \"postgres://127.0.0.1:{}\", name = \"db1\" }}\n\
         [[users]]\nname = \"app\"\npassword = \"secret\"\n",
        port.get()
    );
    let proxy = Proxy::start(&config).await;
    assert_eq!(proxy.http("/healthz").await.0, 200);
    let reason = "not ready: the primary of cluster main, db1, cannot be reached: ";
    eventually("it says why", async || {
        let (status, text) = proxy.http("/readyz").await;
        status == 503 && text.starts_with(reason)
    })
    .await;
    let url = format!("postgres://app:secret@127.0.0.1:{}/app", proxy.port);
    assert_eq!(proxy.refusal(&url).await.code().code(), "08006");
}

#[tokio::test]
async fn clients_of_this_machine_use_the_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let listen = format!("[listen]\naddress = \"127.0.0.1:0\"\nunix_socket_dir = \"{}\"\n", directory.path().display());
    let mut proxy = Proxy::for_shared_cluster(&listen).await;
    let path = proxy.socket_path.clone().unwrap();
    assert_eq!(path, directory.path().join(format!(".s.PGSQL.{}", proxy.port)));
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o777);

    let url = proxy.url(shared_cluster().await, "postgres", "postgres");
    let mut config: tokio_postgres::Config = url.parse().unwrap();
    let password = config.get_password().unwrap().to_vec();
    config = tokio_postgres::Config::new();
    config.host_path(directory.path()).port(proxy.port).user("postgres").password(password).dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client.simple_query("SELECT 1").await.unwrap();

    proxy.shut_down().await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn a_reload_lets_new_users_in_and_drops_nobody() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let (user, cluster) = (new_user().await, shared_cluster().await);
    let proxy = Proxy::for_shared_cluster("").await;
    let client = proxy.connect(&database.name).await;
    let url = proxy.url(cluster, &user, &database.name);
    assert_eq!(proxy.refusal(&url).await.code(), &SqlState::INVALID_PASSWORD);
    client.batch_execute("BEGIN; UPDATE t SET x = 2").await.unwrap();

    proxy.reload(&config_for(cluster, &["postgres", &user])).await.unwrap();
    connect(&url).await.simple_query("SELECT 1").await.unwrap();
    client.batch_execute("UPDATE t SET x = x + 1; COMMIT").await.unwrap();
    assert_eq!(client.query_one("SELECT x FROM t", &[]).await.unwrap().get::<_, i32>(0), 3);
    assert_eq!(proxy.metric("pgweir_config_reloads_total{outcome=\"ok\"}"), 1.0);
}

#[tokio::test]
async fn a_reload_with_other_servers_drops_nobody() {
    let database = fresh_database("CREATE TABLE t AS SELECT 1 AS x").await;
    let cluster = shared_cluster().await;
    let proxy = Proxy::for_shared_cluster("").await;
    let (idle, busy) = (proxy.connect(&database.name).await, proxy.connect(&database.name).await);
    let statement = idle.prepare("SELECT x + $1::int FROM t").await.unwrap();
    idle.batch_execute("SET application_name = 'stays'").await.unwrap();
    busy.batch_execute("BEGIN; UPDATE t SET x = 2").await.unwrap();

    let all = config_for(cluster, &["postgres"]);
    let without_replicas: Vec<_> = all.lines().filter(|line| !line.starts_with("replicas = ")).collect();
    proxy.reload(&without_replicas.join("\n")).await.unwrap();
    busy.batch_execute("UPDATE t SET x = x + 1; COMMIT").await.unwrap();
    assert_eq!(idle.query_one(&statement, &[&10]).await.unwrap().get::<_, i32>(0), 13);
    let name = idle.query_one("SHOW application_name", &[]).await.unwrap();
    assert_eq!(name.get::<_, &str>(0), "stays");
}

#[tokio::test]
async fn a_reload_that_cannot_be_put_to_work_changes_nothing() {
    let cluster = shared_cluster().await;
    let proxy = Proxy::for_shared_cluster("").await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().display();
    let tls = format!(
        "[listen]\naddress = \"127.0.0.1:0\"\nmax_clients = 7\ntls = {{ certificate = \"{path}\", key = \"{path}\" }}\n"
    );
    let error = proxy.reload(&(tls + &config_for(cluster, &["postgres"]))).await.unwrap_err();
    assert_eq!(error, format!("[listen] tls: TLS certificate {path}: holds no PEM certificate"));
    assert_eq!(proxy.metric("pgweir_config_reloads_total{outcome=\"failed\"}"), 1.0);
    proxy.connect("postgres").await.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test]
async fn a_reload_brings_another_certificate() {
    let cluster = shared_cluster().await;
    let files = tempfile::tempdir().unwrap();
    let config = |certificates: &Certificates, stem: &str| {
        let (certificate, key) = certificates.server.write(files.path(), stem).unwrap();
        std::fs::write(files.path().join(format!("{stem}.ca")), &certificates.authority).unwrap();
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\ntls = {{ certificate = \"{}\", key = \"{}\", required = true }}\n{}",
            certificate.display(),
            key.display(),
            config_for(cluster, &["postgres"])
        )
    };
    let [old, new] = ["old", "new"].map(|stem| config(&Certificates::generate().unwrap(), stem));
    let proxy = Proxy::start(&old).await;
    let url = proxy.url(cluster, "postgres", "postgres");
    let ask = async |authority: &str| {
        let conninfo = format!("{url}?sslmode=verify-full&sslrootcert={}/{authority}.ca", files.path().display());
        let mut psql = tokio::process::Command::new(cluster.installation().program("psql").unwrap());
        psql.env_clear().args(["-XAtc", "SELECT 42", &conninfo]).output().await.unwrap().status.success()
    };
    assert!(ask("old").await && !ask("new").await);
    proxy.reload(&new).await.unwrap();
    assert!(!ask("old").await && ask("new").await);

    let error = proxy.refusal(&format!("{url}?sslmode=disable")).await;
    assert_eq!(error.message(), "connection of user \"postgres\" refused: no encryption");
}

#[tokio::test]
async fn at_the_end_transactions_finish_and_idle_clients_are_told() {
    let database = fresh_database("CREATE TABLE t (x int)").await;
    let mut proxy = Proxy::for_shared_cluster("").await;
    let url = proxy.url(shared_cluster().await, "postgres", &database.name);
    let (_idle, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let idle = tokio::spawn(connection);
    let (busy, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let busy_end = tokio::spawn(connection);
    busy.batch_execute("BEGIN; INSERT INTO t VALUES (1)").await.unwrap();

    let drained = proxy.shut_down();
    let told = |end: Result<Result<(), tokio_postgres::Error>, _>| {
        let end: Result<(), tokio_postgres::Error> = end.unwrap();
        end.unwrap_err().as_db_error().map(|error| (error.code().clone(), error.severity().to_owned()))
    };
    let goodbye = Some((SqlState::ADMIN_SHUTDOWN, "FATAL".to_owned()));
    assert_eq!(told(idle.await.map_err(drop)), goodbye);
    let port = proxy.port;
    eventually("no new clients", async || TcpStream::connect(("127.0.0.1", port)).await.is_err()).await;
    let (status, text) = proxy.http("/readyz").await;
    assert_eq!((status, text.as_str()), (503, "not ready: shutting down\n"));

    busy.batch_execute("INSERT INTO t VALUES (2); COMMIT").await.unwrap();
    assert_eq!(told(busy_end.await.map_err(drop)), goodbye);
    assert_eq!(drained.await.unwrap().ended, 0);
    assert_eq!(database.sql("SELECT count(*) FROM t").await, "2");
}

#[tokio::test]
async fn a_transaction_that_outlasts_the_shutdown_timeout_is_ended() {
    let mut proxy = Proxy::for_shared_cluster("shutdown_timeout = \"200ms\"\n").await;
    let url = proxy.url(shared_cluster().await, "postgres", "postgres");
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
    let end = tokio::spawn(connection);
    client.batch_execute("BEGIN").await.unwrap();
    assert_eq!(proxy.shut_down().await.unwrap().ended, 1);
    let limit = Duration::from_secs(60);
    let end = tokio::time::timeout(limit, end).await.expect("the connection is closed").unwrap();
    assert_eq!(end.unwrap_err().code(), Some(&SqlState::ADMIN_SHUTDOWN));
    assert!(client.is_closed());
}
