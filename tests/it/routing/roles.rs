//! Servers that are asked which of them is the primary: one that is promoted, one that dies, and two that claim it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pgweir::sandbox::{Sandbox, SandboxOptions, Server, StopMode};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::talk::{sqlstate, value};
use crate::support::proxy::{Proxy, config_for};
use crate::support::{chain, connect, eventually, start};

const WRITERS: usize = 6;
const PRIMARY_CHANGES: &str = "pgweir_primary_changes_total{cluster=\"main\"}";

pub struct Fixture {
    pub proxy: Proxy,
    pub sandbox: Sandbox,
}

impl Fixture {
    /// `first` is the number of the server that is listed first; 0 is the primary.
    pub async fn start(replicas: usize, first: usize) -> Self {
        let sandbox = start(SandboxOptions { replicas, ..Default::default() }).await;
        sandbox.primary().psql("CREATE TABLE t (writer int, number int)").await.unwrap();
        sandbox.wait_replayed().await.unwrap();
        let mut servers: Vec<_> = sandbox.servers().iter().collect();
        servers.rotate_left(first);
        let url = |server: &&Server| {
            format!("{{ url = \"postgres://127.0.0.1:{}\", name = \"{}\" }}", server.port, server.name)
        };
        let hosts = format!("hosts = [{}]", servers.iter().map(url).collect::<Vec<_>>().join(", "));
        let configured = config_for(&sandbox, &["postgres"]);
        let lines = configured.lines().filter(|line| !line.starts_with("primary = "));
        let lines = lines.map(|line| if line.starts_with("replicas = ") { &hosts } else { line });
        let proxy = Proxy::start(&lines.fold(String::new(), |text, line| text + line + "\n")).await;
        Self { proxy, sandbox }
    }

    async fn connect(&self) -> Client {
        connect(&self.url()).await
    }

    pub fn url(&self) -> String {
        self.proxy.url(&self.sandbox, "postgres", "postgres")
    }

    async fn replica_is_up(&self, name: &str) {
        let up = format!("pgweir_replica_up{{host=\"{name}\"}}");
        eventually("the standby takes reads", async || self.proxy.metric(&up) == 1.0).await;
    }
}

/// Bytes of WAL that a standby has received.
async fn received(standby: &Server) -> u64 {
    let sql = "SELECT pg_wal_lsn_diff(pg_last_wal_receive_lsn(), '0/0')";
    standby.psql(sql).await.unwrap().trim().parse().unwrap()
}

/// Where a statement runs, by its port.
async fn port(client: &Client) -> String {
    value(client, "/* pgweir: primary */ SELECT current_setting('port')").await
}

#[tokio::test]
async fn the_primary_is_found_wherever_it_is_listed() {
    for first in 0..3 {
        let fixture = Fixture::start(2, first).await;
        let client = fixture.connect().await;
        client.batch_execute("INSERT INTO t VALUES (0, 0)").await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(port(&client).await, fixture.sandbox.primary().port.to_string());
        for replica in fixture.sandbox.replicas() {
            fixture.replica_is_up(&replica.name).await;
        }
        assert_eq!(value(&client, "SELECT count(*) FROM t").await, "1");
    }
}

#[tokio::test]
async fn when_the_primary_dies_writes_go_on_where_a_standby_is_promoted() {
    let fixture = Fixture::start(2, 0).await;
    let [one, two] = fixture.sandbox.replicas() else { panic!("two standbys") };
    let writers = Writers::start(&fixture).await;
    writers.go_on().await;
    fixture.sandbox.primary().kill9().await.unwrap();
    // Who has received more cannot follow who has received less.
    let (heir, other) = if received(one).await >= received(two).await { (one, two) } else { (two, one) };
    heir.promote().await.unwrap();
    writers.go_on().await;
    other.follow(heir).await.unwrap();
    fixture.replica_is_up(&other.name).await;
    writers.go_on().await;
    writers.end(heir).await;
    assert_eq!(fixture.proxy.metric(PRIMARY_CHANGES), 1.0);
}

#[tokio::test]
async fn a_switchover_costs_only_what_is_in_flight() {
    let fixture = Fixture::start(1, 0).await;
    let (old, heir) = (fixture.sandbox.primary(), &fixture.sandbox.replicas()[0]);
    let writers = Writers::start(&fixture).await;
    writers.go_on().await;
    let idle = fixture.connect().await;
    idle.batch_execute("SET application_name = 'idle'").await.unwrap();
    old.stop(StopMode::Fast).await.unwrap();
    heir.promote().await.unwrap();
    old.follow(heir).await.unwrap();
    old.start().await.unwrap();
    writers.go_on().await;
    fixture.replica_is_up(&old.name).await;
    writers.end(heir).await;
    // Who had nothing in flight has noticed nothing.
    assert_eq!(value(&idle, "SHOW application_name").await, "idle");
    assert_eq!(port(&idle).await, heir.port.to_string());
}

/// A standby is promoted while the old primary goes on: nobody may write there any more.
#[tokio::test]
async fn of_two_primaries_the_one_that_was_promoted_last_is_used() {
    let fixture = Fixture::start(1, 0).await;
    let heir = &fixture.sandbox.replicas()[0];
    let (open, other) = (fixture.connect().await, fixture.connect().await);
    open.batch_execute("BEGIN; INSERT INTO t VALUES (1, 1)").await.unwrap();
    assert_eq!(port(&other).await, fixture.sandbox.primary().port.to_string());
    heir.promote().await.unwrap();
    eventually("clients go on with the new one", async || port(&other).await == heir.port.to_string()).await;
    let error = open.batch_execute("COMMIT").await.unwrap_err();
    assert!(error.is_closed() || sqlstate(&error) == "08006", "{}", chain(&error));
    other.batch_execute("INSERT INTO t VALUES (2, 2)").await.unwrap();
    assert_eq!(heir.psql("SELECT writer FROM t").await.unwrap().trim(), "2");
    assert_eq!(fixture.sandbox.primary().psql("SELECT count(*) FROM t").await.unwrap().trim(), "0");
}

/// A standby that has more of the old primary than the one that was promoted follows another history.
#[tokio::test]
async fn a_standby_of_another_history_takes_no_reads() {
    let fixture = Fixture::start(2, 0).await;
    let [heir, other] = fixture.sandbox.replicas() else { panic!("two standbys") };
    let client = fixture.connect().await;
    client.batch_execute("INSERT INTO t VALUES (1, 1)").await.unwrap();
    fixture.sandbox.wait_replayed().await.unwrap();
    heir.kill9().await.unwrap();
    client.batch_execute("INSERT INTO t SELECT 2, n FROM generate_series(1, 20000) n").await.unwrap();
    eventually("the other standby has it", async || {
        other.psql("SELECT count(*) FROM t").await.unwrap().trim() == "20001"
    })
    .await;
    fixture.sandbox.primary().kill9().await.unwrap();
    heir.start().await.unwrap();
    heir.promote().await.unwrap();
    let seen = fixture.connect().await;
    eventually("the lost rows are seen no more", async || value(&seen, "SELECT count(*) FROM t").await == "1").await;
    let up = format!("pgweir_replica_up{{host=\"{}\"}}", other.name);
    eventually("it is out", async || fixture.proxy.metric(&up) == 0.0).await;
    for _ in 0..100 {
        assert_eq!(value(&fixture.connect().await, "SELECT count(*) FROM t").await, "1");
        assert_eq!(fixture.proxy.metric(&up), 0.0);
    }
    // Nor when the new primary has come to where it is.
    seen.batch_execute("INSERT INTO t SELECT 3, n FROM generate_series(1, 40000) n").await.unwrap();
    for _ in 0..100 {
        assert_eq!(value(&fixture.connect().await, "SELECT count(*) FROM t").await, "40001");
        assert_eq!(fixture.proxy.metric(&up), 0.0);
    }
}

/// Clients that write one row after the other, each of them once, whatever becomes of it.
struct Writers {
    ending: Arc<AtomicBool>,
    done: Vec<Arc<AtomicU32>>,
    tasks: Vec<JoinHandle<Result<(), String>>>,
}

impl Writers {
    async fn start(fixture: &Fixture) -> Self {
        let ending = Arc::new(AtomicBool::new(false));
        let done: Vec<_> = (0..WRITERS).map(|_| Arc::<AtomicU32>::default()).collect();
        let write = |(writer, done): (usize, &Arc<AtomicU32>)| {
            tokio::spawn(write(writer, fixture.url(), done.clone(), ending.clone()))
        };
        let tasks = done.iter().enumerate().map(write).collect();
        Self { ending, done, tasks }
    }

    /// Every writer has written some more.
    async fn go_on(&self) {
        let before: Vec<_> = self.done.iter().map(|done| done.load(Ordering::Relaxed)).collect();
        eventually("every writer goes on", async || {
            let ended = self.tasks.iter().any(JoinHandle::is_finished);
            let mut pairs = self.done.iter().zip(&before);
            // One that has ended has something to say, which the end of the test shows.
            ended || pairs.all(|(done, before)| done.load(Ordering::Relaxed) > before + 20)
        })
        .await;
    }

    /// No row was written twice.
    async fn end(self, primary: &Server) {
        self.ending.store(true, Ordering::Relaxed);
        for task in self.tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        let twice = "SELECT count(*) - count(DISTINCT (writer, number)) FROM t";
        assert_eq!(primary.psql(twice).await.unwrap().trim(), "0");
    }
}

/// A server that shuts down ends its connections one after the other: whoever comes back at once may be on one that is
/// about to go.
const MOST_FAILURES: u32 = 2;

/// Only what was in flight when the primary went may fail, and it fails as a lost connection.
async fn write(writer: usize, url: String, done: Arc<AtomicU32>, ending: Arc<AtomicBool>) -> Result<(), String> {
    let mut client = connect(&url).await;
    let mut failures = 0;
    for number in 0.. {
        if ending.load(Ordering::Relaxed) {
            break;
        }
        match client.batch_execute(&format!("INSERT INTO t VALUES ({writer}, {number})")).await {
            Ok(()) => {
                done.fetch_add(1, Ordering::Relaxed);
            }
            Err(error) => {
                let code = error.code().map(|code| code.code());
                failures += 1;
                if failures > MOST_FAILURES || !matches!(code, None | Some("08006" | "57P01" | "57P02")) {
                    return Err(format!("failure {failures} of writer {writer}: {}", chain(&error)));
                }
                client = connect(&url).await;
            }
        }
    }
    Ok(())
}
