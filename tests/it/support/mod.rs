//! What the tests share: one primary with two standbys for the whole run, and a database for each test.

pub mod primary_only;
pub mod process;
pub mod proxy;
pub mod raw;
pub mod say;
pub mod stage;
pub mod tls;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use pgweir::sandbox::{Sandbox, SandboxOptions, Server};
use tokio::sync::OnceCell;

/// The primary and two hot standbys that all tests of this run use. A test that stops, kills or
/// promotes servers, or needs other settings, starts a [`Sandbox`] of its own.
///
/// It sits in a static, and statics are not dropped: the sandbox's watchdog, a shell that sees this
/// process end, stops the servers and removes their files.
pub async fn shared_cluster() -> &'static Sandbox {
    static CLUSTER: OnceCell<Sandbox> = OnceCell::const_new();
    CLUSTER
        .get_or_init(|| async {
            // As many tests as the machine has processors share it, each with pools of its own.
            let options = SandboxOptions {
                replicas: 2,
                tls: true,
                max_connections: 600,
                statement_statistics: true,
                settings: vec![("max_prepared_transactions".to_owned(), "50".to_owned())],
                ..Default::default()
            };
            start(options).await
        })
        .await
}

/// A cluster of the test's own.
pub async fn start(options: SandboxOptions) -> Sandbox {
    Sandbox::start(options).await.unwrap_or_else(|error| panic!("{error}"))
}

/// Makes a database on the shared cluster, runs `schema_sql` in it as superuser, and waits until
/// both standbys have it.
pub async fn fresh_database(schema_sql: &str) -> TestDatabase {
    let cluster = shared_cluster().await;
    let name = format!("test_{}", unique());
    let done = async {
        cluster.primary().psql(&format!("CREATE DATABASE {name} TEMPLATE template0")).await?;
        if !schema_sql.is_empty() {
            cluster.primary().psql_in(&name, schema_sql).await?;
        }
        cluster.wait_replayed().await
    };
    done.await.unwrap_or_else(|error| panic!("making {name}: {error}"));
    TestDatabase { name }
}

/// A number that no one else in this run has; for the names of databases and roles.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A database of one test on the shared cluster, dropped with it.
pub struct TestDatabase {
    pub name: String,
}

impl TestDatabase {
    /// Runs SQL in it as superuser, on the primary.
    pub async fn sql(&self, sql: &str) -> String {
        self.sql_on(shared_cluster().await.primary(), sql).await
    }

    /// Runs SQL in it as superuser, on one of the cluster's servers.
    pub async fn sql_on(&self, server: &Server, sql: &str) -> String {
        server.psql_in(&self.name, sql).await.unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for TestDatabase {
    /// At its best: off the test's thread, and not at all when the run ends first, since the cluster
    /// goes then too.
    fn drop(&mut self) {
        let drop_database = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            // Nobody is left to tell when it fails.
            let _ = runtime.block_on(async { shared_cluster().await.primary().psql(&drop_database).await });
            Ok::<_, std::io::Error>(())
        });
    }
}

/// A direct client connection, driven in the background until it is dropped.
pub async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap_or_else(|error| panic!("connecting: {}", chain(&error)));
    tokio::spawn(connection);
    client
}

/// Waits until `condition` holds. The bound is for a test that would hang, not for one that measures.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within 60 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// An error with all its causes, on one line: tokio-postgres says only "db error" by itself.
pub fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(|error| error.to_string()).collect::<Vec<_>>().join(": ")
}
