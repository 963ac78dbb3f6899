//! Memory of a proxy whose clients have logged in and do nothing.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, NoTls};

use crate::Result;
use crate::contender::Contender;
use crate::process::{self, Memory};
use crate::setup::{DATABASE, IDLE_USER, Setup};

/// What one proxy occupied.
#[derive(Debug, Clone, Serialize)]
pub struct IdleReport {
    pub contender: String,
    /// From no client to the most, freshly logged in.
    pub steps: Vec<Step>,
    /// With the most, after each has run one statement.
    pub used: Step,
    /// Processor time of the proxy for one login by SCRAM-SHA-256, in microseconds.
    pub login: f64,
}

/// Memory at a number of clients.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Step {
    pub clients: usize,
    #[serde(flatten)]
    pub memory: Memory,
    /// Resident bytes for each client beyond those without any; `None` at zero clients.
    pub for_each: Option<f64>,
}

/// Logins, or statements, under way at a time.
const AT_ONCE: usize = 32;

/// What a proxy may do a moment later (free buffers, say) belongs to its idle state.
const SETTLE: Duration = Duration::from_secs(1);

/// Logs clients in step by step and reads the memory in between.
pub async fn measure(contender: &Contender, counts: &[usize], setup: &Setup) -> Result<IdleReport> {
    let pid = contender.pid().ok_or("only a proxy has idle clients")?;
    // Opens a server connection and whatever else is made only once.
    let mut clients = log_in(contender, 1, setup).await?;
    run_one_each(&clients).await?;
    clients.clear();
    tokio::time::sleep(SETTLE).await;
    let empty = process::memory(pid)?;
    let step = |clients: usize, memory: Memory| Step {
        clients,
        memory,
        for_each: (clients > 0).then(|| (memory.rss as f64 - empty.rss as f64) / clients as f64),
    };

    let mut steps = vec![step(0, empty)];
    let before = process::processor_time(pid)?;
    for &count in counts {
        clients.extend(log_in(contender, count.saturating_sub(clients.len()), setup).await?);
        tokio::time::sleep(SETTLE).await;
        steps.push(step(clients.len(), process::memory(pid)?));
    }
    let logins = process::processor_time(pid)?.saturating_sub(before);
    run_one_each(&clients).await?;
    tokio::time::sleep(SETTLE).await;
    let used = step(clients.len(), process::memory(pid)?);
    let login = logins.as_secs_f64() * 1e6 / clients.len().max(1) as f64;
    Ok(IdleReport { contender: contender.title(), steps, used, login })
}

async fn log_in(contender: &Contender, count: usize, setup: &Setup) -> Result<Vec<Arc<Client>>> {
    let mut config = Config::new();
    config.host("127.0.0.1").port(contender.target.port).dbname(DATABASE);
    config.user(IDLE_USER).password(&setup.password).ssl_mode(tokio_postgres::config::SslMode::Disable);
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut logins = JoinSet::new();
    for _ in 0..count {
        let (config, places) = (config.clone(), places.clone());
        logins.spawn(async move {
            let _place = places.acquire().await?;
            let (client, connection) = config.connect(NoTls).await?;
            // It ends with its client.
            tokio::spawn(connection);
            Result::Ok(Arc::new(client))
        });
    }
    let mut clients = Vec::with_capacity(count);
    while let Some(login) = logins.join_next().await {
        clients.push(login?.map_err(|error| format!("logging in to {}: {}", contender.title(), told(&*error)))?);
    }
    Ok(clients)
}

async fn run_one_each(clients: &[Arc<Client>]) -> Result<()> {
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut statements = JoinSet::new();
    for client in clients {
        let (client, places) = (client.clone(), places.clone());
        statements.spawn(async move {
            let _place = places.acquire().await?;
            client.simple_query("SELECT abalance FROM pgbench_accounts WHERE aid = 1").await?;
            Result::Ok(())
        });
    }
    while let Some(statement) = statements.join_next().await {
        statement?.map_err(|error| format!("a statement of an idle client: {}", told(&*error)))?;
    }
    Ok(())
}

/// An error with its causes: tokio-postgres keeps what the server said in them.
fn told(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
