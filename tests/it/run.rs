//! `pgweir run` as a process: its signals, its log, its exit code.

use std::path::Path;
use std::process::Command;

use rustix::process::Signal;

use crate::support::process::Process;
use crate::support::proxy::config_for;
use crate::support::{connect, shared_cluster};

async fn start(more: &str) -> Process {
    let config = config_for(shared_cluster().await, &["postgres"]);
    Process::start(&format!("{more}\n[log]\nformat = \"json\"\n{config}"))
}

async fn client(port: u16) -> tokio_postgres::Client {
    let cluster = shared_cluster().await;
    let direct = cluster.primary().url("postgres", "postgres");
    connect(&direct.replace(&format!(":{}/", cluster.primary().port), &format!(":{port}/"))).await
}

fn append(path: &Path, text: &str) {
    let before = std::fs::read_to_string(path).unwrap();
    std::fs::write(path, before + text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_mistakes_changes_nothing_and_says_why() {
    let process = start("").await;
    let port = process.port;
    let client = client(port).await;
    append(&process.config, "\n[pool]\nsize = 0\ntypo = 1\n");
    process.signal(Signal::HUP);
    assert!(process.line("configuration not reloaded").contains("pool.size"));
    assert!(process.line("configuration not reloaded").contains("pool.typo"));
    client.simple_query("SELECT 1").await.unwrap();

    let text = std::fs::read_to_string(&process.config).unwrap();
    std::fs::write(&process.config, text.replace("size = 0\ntypo = 1", "size = 3")).unwrap();
    process.signal(Signal::HUP);
    process.line("configuration reloaded");
    client.simple_query("SELECT 1").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_it_in_order_with_code_0() {
    // One worker runs on another kind of runtime.
    let mut process = start("workers = 1\n").await;
    let client = client(process.port).await;
    client.simple_query("SELECT 1").await.unwrap();
    process.signal(Signal::TERM);
    process.line("every client has finished");
    assert_eq!(process.wait().code(), Some(0));
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut process = start("").await;
    let client = client(process.port).await;
    client.batch_execute("BEGIN").await.unwrap();
    process.signal(Signal::INT);
    process.line("shutting down");
    process.signal(Signal::INT);
    assert_eq!(process.wait().code(), Some(0));
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = Command::new(env!("CARGO_BIN_EXE_pgweir"))
        .args(["run", "--listen", &address])
        .env("DATABASE_URL", "postgres://u:p@127.0.0.1:1/app")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains(&format!("cannot listen on {address}")) && said.contains("Is pgweir running already?"),
        "{said}"
    );
}

#[tokio::test]
async fn route_says_where_and_why_by_the_databases_own_catalog() {
    let cluster = shared_cluster().await;
    let database = crate::support::fresh_database(
        "CREATE TABLE t (x int); CREATE FUNCTION bump() RETURNS void LANGUAGE sql AS 'UPDATE t SET x = x + 1'",
    )
    .await;
    let directory = tempfile::tempdir().unwrap();
    let config = directory.path().join("pgweir.toml");
    std::fs::write(&config, config_for(cluster, &["postgres"])).unwrap();
    let route = |sql: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
        command.args(["route", "--database", &database.name, "--config"]).arg(&config).arg(sql);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(route("SELECT count(*) FROM t").starts_with("replica (replica1 or replica2)\nbecause it only reads"));
    assert!(route("SELECT bump()").starts_with("primary (primary)\nbecause it reaches a function that writes"));
    assert!(route("INSERT INTO t VALUES (1)").starts_with("primary (primary)\nbecause it writes"));
}
