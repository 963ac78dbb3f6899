//! `pgweir run` as a process: its signals, its log, its exit code.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::proxy::config_for;
use crate::support::{connect, shared_cluster};

/// The bound is for a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

struct Process {
    child: Child,
    log: Receiver<String>,
    config: PathBuf,
    _directory: tempfile::TempDir,
}

impl Process {
    async fn start(more: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("pgweir.toml");
        let text = format!("{more}\n[log]\nformat = \"json\"\n{}", config_for(shared_cluster().await, &["postgres"]));
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(["run", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, log) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, log, config, _directory: directory }
    }

    /// The next line of the log that holds this.
    fn line(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?} in the log:\n{}", seen.join("\n"))
    }

    fn port(&self) -> u16 {
        let line = self.line("pgweir accepts clients");
        let address = line.split("127.0.0.1:").nth(1).unwrap_or_else(|| panic!("no address: {line}"));
        address.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
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
    let process = Process::start("").await;
    let port = process.port();
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
    let mut process = Process::start("workers = 1\n").await;
    let client = client(process.port()).await;
    client.simple_query("SELECT 1").await.unwrap();
    process.signal(Signal::TERM);
    process.line("every client has finished");
    assert_eq!(process.wait().code(), Some(0));
    assert!(client.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let mut process = Process::start("").await;
    let client = client(process.port()).await;
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
