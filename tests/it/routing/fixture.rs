//! A cluster whose servers log every statement, with a proxy in front of it.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;

use pgweir::sandbox::{Sandbox, SandboxOptions};

use crate::support::proxy::{Proxy, config_for};
use crate::support::{eventually, start};

/// The database that the tests' clients use; the proxy's monitor and the sandbox use `postgres`.
pub const DATABASE: &str = "app";
/// A read that any healthy replica may run, and that names a function: it does not leave the primary
/// before the proxy has read the database's catalog.
const CANARY: &str = "SELECT upper('canary')";

/// Servers of one test's own: it looks through their logs, holds them back and kills them.
pub struct Fixture {
    pub proxy: Proxy,
    pub sandbox: Sandbox,
    canary: tokio_postgres::Client,
}

impl Fixture {
    /// Ready for reads on replicas. `more` are the configuration's keys and sections besides
    /// `[clusters.main]`; `cluster` are keys of that.
    pub async fn start(replicas: usize, schema: &str, more: &str, cluster: &str) -> Self {
        let sandbox = start(SandboxOptions {
            replicas,
            settings: [("log_statement", "all"), ("max_prepared_transactions", "10")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .to_vec(),
            ..Default::default()
        })
        .await;
        let made = async {
            sandbox.primary().psql(&format!("CREATE DATABASE {DATABASE} TEMPLATE template0")).await?;
            sandbox.primary().psql_in(DATABASE, schema).await?;
            sandbox.wait_replayed().await
        };
        made.await.unwrap_or_else(|error| panic!("{error}"));
        let proxy = Proxy::start(&config(&sandbox, more, cluster)).await;
        let canary = connect(&proxy, &sandbox).await;
        let fixture = Self { proxy, sandbox, canary };
        for index in 1..=replicas {
            let up = format!("pgweir_replica_up{{host=\"replica{index}\"}}");
            eventually("the replica is up", async || fixture.proxy.metric(&up) == 1.0).await;
        }
        fixture.wait_for_reads().await;
        fixture
    }

    /// A client through the proxy.
    pub async fn connect(&self) -> tokio_postgres::Client {
        connect(&self.proxy, &self.sandbox).await
    }

    pub fn url(&self) -> String {
        self.proxy.url(&self.sandbox, "postgres", DATABASE)
    }

    /// A client of the primary itself.
    pub async fn direct(&self) -> tokio_postgres::Client {
        crate::support::connect(&self.sandbox.primary().url("postgres", DATABASE)).await
    }

    /// Runs a script on the primary, past the proxy.
    pub async fn sql(&self, sql: &str) -> String {
        self.sandbox.primary().psql_in(DATABASE, sql).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a session that has not written reads from a replica, also through a function: replicas
    /// are up and the catalog has been read. Without replicas there is nothing to wait for.
    pub async fn wait_for_reads(&self) {
        if self.sandbox.replicas().is_empty() {
            return;
        }
        eventually("reads go to a replica", async || {
            let before = self.reads_routed();
            self.canary.simple_query(CANARY).await.unwrap_or_else(|error| panic!("{}", crate::support::chain(&error)));
            self.reads_routed() > before
        })
        .await;
    }

    fn reads_routed(&self) -> f64 {
        self.proxy.metric("pgweir_routing_decisions_total{target=\"replica\"}")
    }

    /// Starts to watch what the servers run.
    pub fn watch(&self) -> Watch {
        let log = |server: &pgweir::sandbox::Server| self.sandbox.directory().join(format!("{}.log", server.name));
        let mut watch = Watch { logs: self.sandbox.servers().iter().map(|server| (log(server), 0)).collect() };
        watch.take();
        watch
    }
}

/// What each server has been asked by clients of [`DATABASE`], from its log: a server writes a statement
/// there before it runs it, or before it says what is wrong with it.
pub struct Watch {
    /// Each with the length that has been read. The primary first.
    logs: Vec<(PathBuf, u64)>,
}

/// Statements by server, the primary first.
pub struct Seen(Vec<Vec<String>>);

impl Watch {
    /// What was asked since the last call.
    pub fn take(&mut self) -> Seen {
        Seen(self.logs.iter_mut().map(|(path, length)| statements(&news(path, length))).collect())
    }
}

impl Seen {
    pub fn on_primary(&self, sql: &str) -> bool {
        has(&self.0[0], sql)
    }

    /// By the standby's number, from 1.
    pub fn on_standby(&self, number: usize, sql: &str) -> bool {
        has(&self.0[number], sql)
    }

    pub fn on_a_standby(&self, sql: &str) -> bool {
        self.0[1..].iter().any(|statements| has(statements, sql))
    }
}

fn has(statements: &[String], sql: &str) -> bool {
    statements.iter().any(|statement| statement.contains(sql.trim()))
}

/// What was written to a file since it had `length` bytes.
fn news(path: &PathBuf, length: &mut u64) -> String {
    let mut news = Vec::new();
    let mut file = File::open(path).expect("the server has a log");
    file.seek(SeekFrom::Start(*length)).and_then(|_| file.read_to_end(&mut news)).expect("the log can be read");
    *length += news.len() as u64;
    String::from_utf8_lossy(&news).into_owned()
}

/// Every entry of a log that a client of [`DATABASE`] caused, as a text with its statement in it. The lines
/// of one entry but the first begin with a tab.
fn statements(log: &str) -> Vec<String> {
    let whole = log.replace("\n\t", "\u{0}");
    let from_clients = whole.lines().filter(|entry| entry.contains(&format!("@{DATABASE} ")));
    from_clients.map(|entry| entry.replace('\u{0}', "\n")).collect()
}

/// The superuser is trusted, because tests here connect by the hundred.
fn config(sandbox: &Sandbox, more: &str, cluster: &str) -> String {
    let url = url::Url::parse(&sandbox.primary().url("postgres", DATABASE)).unwrap();
    let password = url.password().unwrap_or_default();
    let servers = config_for(sandbox, &[]);
    format!(
        "{more}\n{servers}\n{cluster}\n\
         [[users]]\nname = \"postgres\"\nauth = \"trust\"\nserver_password = \"{password}\"\n"
    )
}

async fn connect(proxy: &Proxy, sandbox: &Sandbox) -> tokio_postgres::Client {
    crate::support::connect(&proxy.url(sandbox, "postgres", DATABASE)).await
}
