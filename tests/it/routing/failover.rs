//! pgbench while the primary changes: only what was in flight fails, and everybody else goes on with the new one.

use std::process::{Output, Stdio};

use pgweir::sandbox::{Server, StopMode};
use tokio::process::{Child, Command};

use super::roles::Fixture;
use crate::support::eventually;

const CLIENTS: usize = 12;
/// Transactions in a second over all clients, which is about one in flight.
const RATE: usize = 60;
/// What a client is told whose transaction was in flight.
const LOST: [&str; 3] = [
    "terminating connection",
    "connection to server primary was lost",
    // pgbench's own words where it finds the connection closed before it has read why.
    "perhaps the backend died while processing",
];

#[tokio::test]
async fn pgbench_goes_on_when_a_standby_is_promoted() {
    let fixture = Fixture::start(1, 0).await;
    let heir = &fixture.sandbox.replicas()[0];
    let load = Pgbench::start(&fixture).await;
    load.goes_on(fixture.sandbox.primary()).await;
    heir.promote().await.unwrap();
    load.goes_on(heir).await;
    // What was written between the promotion and the moment it was noticed is on the old one alone.
    load.end(&[fixture.sandbox.primary(), heir]).await;
}

#[tokio::test]
async fn pgbench_goes_on_when_the_primary_dies_and_a_standby_is_promoted() {
    let fixture = Fixture::start(1, 0).await;
    let heir = &fixture.sandbox.replicas()[0];
    let load = Pgbench::start(&fixture).await;
    load.goes_on(fixture.sandbox.primary()).await;
    fixture.sandbox.primary().kill9().await.unwrap();
    heir.promote().await.unwrap();
    load.goes_on(heir).await;
    // What the standby had not received by then is lost with the primary: it is started again to be asked.
    fixture.sandbox.primary().start().await.unwrap();
    load.end(&[fixture.sandbox.primary(), heir]).await;
}

#[tokio::test]
async fn pgbench_loses_nothing_in_a_switchover() {
    let fixture = Fixture::start(1, 0).await;
    let (old, heir) = (fixture.sandbox.primary(), &fixture.sandbox.replicas()[0]);
    let load = Pgbench::start(&fixture).await;
    load.goes_on(old).await;
    old.stop(StopMode::Fast).await.unwrap();
    heir.promote().await.unwrap();
    load.goes_on(heir).await;
    load.end(&[heir]).await;
}

struct Pgbench {
    process: Child,
}

impl Pgbench {
    /// Clients with short transactions and pauses between them.
    async fn start(fixture: &Fixture) -> Self {
        let script = fixture.sandbox.directory().join("failover.sql");
        let text = "\\set number random(1, 2000000000)\nBEGIN;\nINSERT INTO t VALUES (:client_id, :number);\n\
            SELECT pg_sleep(0.01);\nEND;\n";
        std::fs::write(&script, text).unwrap();
        let url = url::Url::parse(&fixture.url()).unwrap();
        let process = Command::new(fixture.sandbox.installation().program("pgbench").unwrap())
            .args(["-n", "-h", "127.0.0.1", "-U", "postgres", "-p", &url.port().unwrap().to_string()])
            .args([format!("-c{CLIENTS}"), format!("-j{CLIENTS}"), format!("-R{RATE}"), "-T8".into()])
            .args(["-f".as_ref(), script.as_os_str(), "postgres".as_ref()])
            .env_clear()
            .env("PGPASSWORD", url.password().unwrap_or_default())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { process }
    }

    /// Rows are written to this server.
    async fn goes_on(&self, server: &Server) {
        let count = async || server.psql("SELECT count(*) FROM t").await.unwrap().trim().parse::<u32>().unwrap();
        let before = count().await;
        eventually("pgbench's rows come", async || count().await > before + 30).await;
    }

    /// Every transaction that pgbench was told of is on one of the servers, and none on two or twice on one, but those
    /// that were on the first before the second was promoted.
    async fn end(self, servers: &[&Server]) {
        let Output { stdout, stderr, .. } = self.process.wait_with_output().await.unwrap();
        let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
        let processed =
            stdout.lines().find_map(|line| line.strip_prefix("number of transactions actually processed: "));
        let processed: usize = processed.unwrap_or_else(|| panic!("{stdout}\n{stderr}")).trim().parse().unwrap();

        let aborted: Vec<_> = stderr.lines().filter(|line| line.contains(" aborted in command ")).collect();
        assert!(aborted.len() < CLIENTS / 2, "{stderr}");
        for line in &aborted {
            assert!(LOST.iter().any(|lost| line.contains(lost)), "{line}");
        }

        let mut rows = Vec::new();
        for server in servers {
            let text = server.psql("SELECT writer, number FROM t").await.unwrap();
            let mut own: Vec<_> = text.lines().map(ToOwned::to_owned).collect();
            let count = own.len();
            own.sort();
            own.dedup();
            assert_eq!(own.len(), count, "a row was written twice");
            rows.extend(own);
        }
        rows.sort();
        rows.dedup();
        // A commit whose answer was lost may have been carried out.
        let unsure = rows.len().checked_sub(processed);
        assert!(unsure.is_some_and(|unsure| unsure <= aborted.len()), "{} rows, {processed}: {stderr}", rows.len());
    }
}
