//! The load: pgbench for every tenant at once, and one statement that takes too long.

use std::time::{Duration, Instant};

use tokio::process::Command;

use super::Failure;
use super::metrics::Metrics;
use super::scene::{DATABASE, Scene, Tenant};
use crate::sandbox::{Load, PgbenchReport, Protocol, SandboxError, Script, Server};

/// How long each kind of load runs.
const DURATION: Duration = Duration::from_secs(5);
/// When connections are counted: in the middle.
const HALF_TIME: Duration = Duration::from_millis(2_500);

/// What pgbench does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// TPC-B-like transactions: they write, so they belong on the primary.
    Writes,
    /// Single reads, which belong on the standbys.
    Reads,
}

/// One run of all tenants.
pub(super) struct Run {
    pub kind: Kind,
    /// One for each tenant of the scene, in its order.
    pub tenants: Vec<PgbenchReport>,
    pub connections: Connections,
    /// One for each server, the primary first.
    pub hosts: Vec<HostCount>,
}

/// In the middle of a run.
pub(super) struct Connections {
    pub clients: u64,
    /// By pgweir's account.
    pub servers: u64,
    /// By the servers' own (`pg_stat_activity`).
    pub backends: u64,
}

/// The load's statements on one server.
pub(super) struct HostCount {
    pub host: String,
    /// By the server's own account (`pg_stat_statements`).
    pub by_server: u64,
    /// By `pgweir_queries_total`.
    pub by_metrics: u64,
}

impl Kind {
    pub fn clients(self) -> u32 {
        match self {
            Self::Writes => 20,
            Self::Reads => 40,
        }
    }

    fn load(self) -> Load {
        let (script, protocol) = match self {
            Self::Writes => (Script::TpcbLike, Protocol::Extended),
            Self::Reads => (Script::SelectOnly, Protocol::Prepared),
        };
        Load { script, protocol, clients: self.clients(), threads: 1, duration: DURATION, sampling: Some(0.2) }
    }
}

/// Runs one kind of load for every tenant at once.
pub(super) async fn run(scene: &Scene, kind: Kind) -> Result<Run, Failure> {
    scene.sandbox.reset_statistics().await?;
    let before = scene.metrics();
    let load = kind.load();
    let targets: Vec<_> = scene.tenants.iter().map(|tenant| scene.target(tenant)).collect();
    let [first, second, third] = targets.as_slice() else { return Err("the demo has three tenants".into()) };
    let pgbench = |target| scene.sandbox.pgbench(target, &load);
    let (one, two, three, connections) = tokio::try_join!(
        async { Ok::<_, Failure>(pgbench(first).await?) },
        async { Ok(pgbench(second).await?) },
        async { Ok(pgbench(third).await?) },
        count_connections(scene),
    )?;
    let after = scene.metrics();
    let mut hosts = Vec::new();
    for server in scene.sandbox.servers() {
        hosts.push(HostCount {
            host: server.name.clone(),
            by_server: statements_of_the_load(server).await?,
            by_metrics: queries(&after, server).saturating_sub(queries(&before, server)),
        });
    }
    Ok(Run { kind, tenants: vec![one, two, three], connections, hosts })
}

/// The answer to a psql call.
pub(super) struct Answer {
    pub succeeded: bool,
    /// What it printed, errors included, as a user would see it.
    pub text: String,
    pub took: Duration,
}

/// Runs commands in one session through pgweir.
pub(super) async fn psql(scene: &Scene, tenant: &Tenant, commands: &[&str]) -> Result<Answer, SandboxError> {
    let target = scene.target(tenant);
    let mut psql = Command::new(scene.sandbox.installation().program("psql")?);
    psql.args(["-X", "-A", "-t", "-q", "-v", "VERBOSITY=verbose", "-v", "ON_ERROR_STOP=1"])
        .args(["-h", &target.host, "-p", &target.port.to_string(), "-U", &target.user, "-d", &target.database])
        .args(commands.iter().flat_map(|command| ["-c", command]))
        .env("PGPASSWORD", &target.password)
        .kill_on_drop(true);
    let started = Instant::now();
    let output = psql.output().await;
    let output = output.map_err(|source| SandboxError::Io { doing: "run psql".to_owned(), source })?;
    let text = [output.stdout, output.stderr].concat();
    Ok(Answer {
        succeeded: output.status.success(),
        text: String::from_utf8_lossy(&text).trim().to_owned(),
        took: started.elapsed(),
    })
}

/// A tenant asks for more time than it has, after it has tried to lift its limit.
pub(super) async fn overlong_statement(scene: &Scene) -> Result<Answer, Failure> {
    let commands = ["SET statement_timeout = 0", "SELECT pg_sleep(30)"];
    Ok(psql(scene, &scene.trial, &commands).await?)
}

async fn count_connections(scene: &Scene) -> Result<Connections, Failure> {
    tokio::time::sleep(HALF_TIME).await;
    let metrics = scene.metrics();
    let database = [("database", DATABASE)];
    let mut backends = 0;
    for server in scene.sandbox.servers() {
        let question = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND datname = '{DATABASE}' \
             AND application_name <> 'pgweir catalog'"
        );
        backends += server.psql(&question).await?.parse::<u64>()?;
    }
    Ok(Connections {
        clients: metrics.sum("pgweir_clients", &database) as u64,
        servers: metrics.sum("pgweir_server_connections", &database) as u64,
        backends,
    })
}

/// pgbench's statements; what else there is are pgweir's own questions (settings, catalog).
async fn statements_of_the_load(server: &Server) -> Result<u64, Failure> {
    let is_pgbench = |statement: &str| {
        let text = statement.to_ascii_lowercase();
        text.contains("pgbench_") || matches!(text.as_str(), "begin" | "end")
    };
    let counts = server.statement_counts(DATABASE).await?;
    Ok(counts.iter().filter(|count| is_pgbench(&count.statement)).map(|count| count.calls).sum())
}

fn queries(metrics: &Metrics, server: &Server) -> u64 {
    metrics.sum("pgweir_queries_total", &[("database", DATABASE), ("host", &server.name)]) as u64
}
