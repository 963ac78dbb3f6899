//! The throw-away clusters that everything else is tested on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pgweir::sandbox::{Load, Login, Protocol, SandboxError, SandboxOptions, Script, Server, StopMode, Target, User};

use crate::support::{chain, connect, eventually, fresh_database, shared_cluster, start};

#[tokio::test]
async fn what_the_primary_commits_shows_on_every_standby() {
    let database = fresh_database("CREATE TABLE t (x int)").await;
    let cluster = shared_cluster().await;
    database.sql("INSERT INTO t VALUES (42)").await;
    cluster.wait_replayed().await.unwrap();
    let mut places = Vec::new();
    for server in cluster.servers() {
        let place = "SELECT x, current_setting('cluster_name'), pg_is_in_recovery() FROM t";
        places.push(database.sql_on(server, place).await);
    }
    assert_eq!(places, ["42|primary|f", "42|replica1|t", "42|replica2|t"]);
}

#[tokio::test]
async fn each_test_has_a_database_of_its_own() {
    let (one, other) = (fresh_database("CREATE TABLE t ()").await, fresh_database("").await);
    assert_eq!(one.sql("SELECT to_regclass('t') IS NOT NULL").await, "t");
    assert_eq!(other.sql("SELECT to_regclass('t') IS NOT NULL").await, "f");
}

#[tokio::test]
async fn a_failed_statement_is_told_with_the_servers_words() {
    let error = shared_cluster().await.primary().psql("SELECT 1;\nSELECT nonsense").await.unwrap_err();
    assert!(matches!(error, SandboxError::Sql { .. }));
    let told = error.to_string();
    assert!(told.contains("primary") && told.contains(":2: ERROR:  column \"nonsense\" does not exist"), "{told}");
}

#[tokio::test]
async fn servers_stop_and_are_killed_and_come_back_on_their_ports() {
    let sandbox = start(SandboxOptions { replicas: 1, ..Default::default() }).await;
    let (primary, replica) = (sandbox.primary(), &sandbox.replicas()[0]);
    let url = replica.url("postgres", "postgres");
    connect(&url).await;

    replica.stop(StopMode::Fast).await.unwrap();
    assert!(tokio_postgres::connect(&url, tokio_postgres::NoTls).await.is_err());
    assert!(matches!(replica.stop(StopMode::Fast).await, Err(SandboxError::NotRunning { .. })));
    primary.psql("CREATE TABLE t AS SELECT 1 AS x").await.unwrap();
    replica.start().await.unwrap();
    assert!(matches!(replica.start().await, Err(SandboxError::AlreadyRunning { .. })));
    sandbox.wait_replayed().await.unwrap();
    assert_eq!(replica.psql("SELECT x FROM t").await.unwrap(), "1");

    // A client in a long statement is a backend that outlives its postmaster, if one lets it.
    let client = connect(&primary.url("postgres", "postgres")).await;
    let sleeping = tokio::spawn(async move { client.simple_query("SELECT pg_sleep(600)").await.map(drop) });
    let active = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'";
    eventually("the statement runs", async || primary.psql(active).await.unwrap() == "1").await;
    primary.kill9().await.unwrap();
    let cut = sleeping.await.unwrap().unwrap_err();
    assert!(cut.as_db_error().is_none(), "a crashed server says no goodbye: {}", chain(&cut));
    primary.start().await.unwrap();
    primary.psql("INSERT INTO t VALUES (2)").await.unwrap();
    sandbox.wait_replayed().await.unwrap();
    assert_eq!(replica.psql("SELECT count(*) FROM t").await.unwrap(), "2");
}

#[tokio::test]
async fn a_paused_standby_is_silent_and_one_with_paused_replay_is_stale() {
    let sandbox = start(SandboxOptions { replicas: 1, ..Default::default() }).await;
    let replica = &sandbox.replicas()[0];

    let client = connect(&replica.url("postgres", "postgres")).await;
    replica.pause().unwrap();
    let mut answer = Box::pin(client.simple_query("SELECT 1"));
    let patience = Duration::from_millis(100);
    assert!(tokio::time::timeout(patience, &mut answer).await.is_err());
    replica.resume().unwrap();
    answer.await.unwrap();

    replica.pause_replay().await.unwrap();
    sandbox.primary().psql("CREATE TABLE t ()").await.unwrap();
    assert_eq!(replica.psql("SELECT to_regclass('t') IS NULL").await.unwrap(), "t");
    replica.resume_replay().await.unwrap();
    sandbox.wait_replayed().await.unwrap();
    assert_eq!(replica.psql("SELECT to_regclass('t') IS NULL").await.unwrap(), "f");
}

#[tokio::test]
async fn a_standby_takes_over_and_the_others_follow() {
    let sandbox = start(SandboxOptions { replicas: 2, ..Default::default() }).await;
    let (old, new, other) = (sandbox.primary(), &sandbox.replicas()[0], &sandbox.replicas()[1]);
    old.stop(StopMode::Fast).await.unwrap();
    new.promote().await.unwrap();
    other.follow(new).await.unwrap();
    old.follow(new).await.unwrap();
    old.start().await.unwrap();
    new.psql("CREATE TABLE t ()").await.unwrap();
    for standby in [old, other] {
        let shown = async || standby.psql("SELECT to_regclass('t') IS NOT NULL").await.unwrap() == "t";
        eventually("the table shows", shown).await;
        assert_eq!(standby.psql("SELECT pg_is_in_recovery()").await.unwrap(), "t", "{}", standby.name);
    }
}

#[tokio::test]
async fn users_log_in_each_in_its_way() {
    let user = |name: &str, login| User::new(name, format!("{name}'s p@ss/word")).login(login);
    let users = vec![
        user("scram", Login::ScramSha256),
        user("hashed", Login::Md5),
        user("clear", Login::Password),
        user("trusted", Login::Trust),
    ];
    let hba = vec!["host all barred 127.0.0.1/32 reject".to_owned()];
    let settings = vec![("work_mem".to_owned(), "5MB".to_owned())];
    let sandbox = start(SandboxOptions { users: users.clone(), hba, settings, ..Default::default() }).await;
    let primary = sandbox.primary();
    for User { name, .. } in &users {
        let client = connect(&primary.url(name, "postgres")).await;
        let row = client.query_one("SELECT current_user::text, current_setting('work_mem')", &[]).await.unwrap();
        assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), (name.as_str(), "5MB"));
    }
    assert_eq!(primary.psql("SELECT rolpassword ~ '^md5' FROM pg_authid WHERE rolname = 'hashed'").await.unwrap(), "t");

    let refused = |url: String| async move {
        let error = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.err().expect("a refusal");
        chain(&error)
    };
    let wrong = refused(format!("postgres://clear:wrong@127.0.0.1:{}/postgres", primary.port)).await;
    assert!(wrong.contains("password authentication failed for user \"clear\""), "{wrong}");
    let barred = refused(primary.url("barred", "postgres")).await;
    assert!(barred.contains("pg_hba.conf rejects connection"), "{barred}");
}

#[tokio::test]
async fn tls_verifies_both_sides() {
    let cluster = shared_cluster().await;
    let name = format!("holder_{}", crate::support::unique());
    cluster.create_users(&[User::new(&name, "").login(Login::Certificate)]).await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let identity = cluster.certificates().unwrap().client(&name).unwrap();
    let (certificate, key) = identity.write(files.path(), "client").unwrap();

    let ask = |host: &str| {
        let conninfo = format!(
            "host={host} hostaddr=127.0.0.1 port={} user={name} dbname=postgres sslmode=verify-full sslrootcert={} sslcert={} sslkey={}",
            cluster.primary().port,
            cluster.authority_file().unwrap().display(),
            certificate.display(),
            key.display(),
        );
        let psql = cluster.installation().program("psql").unwrap();
        let question = "SELECT current_user, ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
        Command::new(psql).env_clear().args(["-XAtc", question, &conninfo]).output().unwrap()
    };
    let good = ask("localhost");
    assert_eq!(String::from_utf8_lossy(&good.stdout).trim(), format!("{name}|t"), "{good:?}");
    let bad = ask("elsewhere.example");
    assert!(String::from_utf8_lossy(&bad.stderr).contains("does not match host name"), "{bad:?}");
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_and_leaves_nothing() {
    let settings = vec![("shared_buffers".to_owned(), "nonsense".to_owned())];
    let failure = pgweir::sandbox::Sandbox::start(SandboxOptions { settings, ..Default::default() }).await;
    let error = failure.err().expect("a failure").to_string();
    assert!(error.contains("invalid value for parameter \"shared_buffers\""), "{error}");
}

#[tokio::test]
async fn dropping_leaves_no_process_and_no_file() {
    let sandbox = start(SandboxOptions { replicas: 1, ..Default::default() }).await;
    let directory = sandbox.directory().to_owned();
    let client = connect(&sandbox.primary().url("postgres", "postgres")).await;
    assert!(working_under(&directory) > 2, "the servers work in their directories");
    // Neither an open connection nor a server that does not react can hold it up.
    sandbox.replicas()[0].pause().unwrap();
    drop(sandbox);
    assert_eq!(working_under(&directory), 0);
    assert!(!directory.exists());
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test]
async fn pgbench_reports_what_the_servers_counted() {
    let users = vec![User::new("bench", "it's secret")];
    let options = SandboxOptions { replicas: 1, statement_statistics: true, users, ..Default::default() };
    let sandbox = start(options).await;
    sandbox.primary().psql("CREATE DATABASE bench OWNER bench").await.unwrap();
    let target = |server: &Server| Target {
        host: "127.0.0.1".to_owned(),
        port: server.port,
        user: "bench".to_owned(),
        password: "it's secret".to_owned(),
        database: "bench".to_owned(),
    };
    sandbox.pgbench_initialize(&target(sandbox.primary()), 1).await.unwrap();
    sandbox.wait_replayed().await.unwrap();
    sandbox.reset_statistics().await.unwrap();

    let load = |script, protocol| Load {
        script,
        protocol,
        clients: 4,
        threads: 2,
        duration: Duration::from_secs(1),
        sampling: Some(1.0),
    };
    let replica = &sandbox.replicas()[0];
    let reads = sandbox.pgbench(&target(replica), &load(Script::SelectOnly, Protocol::Prepared)).await.unwrap();
    let latencies = reads.latencies.unwrap();
    assert_eq!(latencies.samples as u64, reads.transactions);
    assert!(latencies.p50 <= latencies.p99 && reads.tps > 0.0 && reads.failed == 0);
    let most_frequent = replica.statement_counts("bench").await.unwrap().swap_remove(0);
    assert_eq!(most_frequent.statement, "SELECT abalance FROM pgbench_accounts WHERE aid = $1");
    // Clients that are cut off by the end of the run may have been answered uncounted.
    assert!(most_frequent.calls >= reads.transactions && most_frequent.calls <= reads.transactions + 4);

    let writes = sandbox.pgbench(&target(sandbox.primary()), &load(Script::TpcbLike, Protocol::Simple)).await.unwrap();
    let counted = sandbox.primary().statement_counts("bench").await.unwrap();
    let commits = counted.iter().find(|count| count.statement == "END").map_or(0, |count| count.calls);
    assert!(writes.transactions > 0 && commits >= writes.transactions, "{writes:?} {counted:?}");

    let refused = sandbox.pgbench(&target(replica), &load(Script::TpcbLike, Protocol::Simple)).await.unwrap_err();
    assert!(refused.to_string().contains("cannot execute UPDATE in a read-only transaction"), "{refused}");
}

/// How many processes have their working directory under `directory`.
fn working_under(directory: &Path) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let working_directories = processes.filter_map(|process| std::fs::read_link(process.path().join("cwd")).ok());
    working_directories.filter(|working_directory| working_directory.starts_with(directory)).count()
}
