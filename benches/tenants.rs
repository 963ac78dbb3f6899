//! What tenants cost: pgweir's processor time for a transaction with 1,000 tenants, and with none, in one run; the ratio is
//! what counts. A thousand clients each time, one of each tenant, a few of which are at work at a time; tenants have a tier
//! with ceilings, a priority and a limit on their connections.
//!
//! A few percent are less than what a machine's other work, and the place that a process got in memory, make up. So the
//! contenders take turns every few thousand transactions, and each round has processes of its own.
//!
//! `cargo bench --bench tenants [-- ROUNDS]`

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgweir::sandbox::{Login, Sandbox, SandboxOptions, User};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

#[allow(dead_code)]
#[path = "compare/process.rs"]
mod process;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const TENANTS: usize = 1_000;
const ROUNDS: usize = 20;
/// Turns of each contender in a round.
const TURNS: usize = 24;
/// In each turn.
const TRANSACTIONS: usize = 2_400;
/// Clients at work at a time.
const AT_WORK: usize = 8;

/// A pgweir process, and its clients.
struct Contender {
    name: &'static str,
    process: Child,
    clients: Vec<Vec<Client>>,
    /// In this round so far.
    time: Duration,
}

impl Drop for Contender {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo says `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    process::raise_file_limit(2 * TENANTS)?;
    let users = vec![User::new("bench", "").login(Login::Trust)];
    let sandbox = Sandbox::start(SandboxOptions { replicas: 0, users, ..Default::default() }).await?;
    let mut times: [Vec<Duration>; 3] = Default::default();
    let mut names = [""; 3];
    for round in 0..rounds {
        let mut contenders = [
            contender(&sandbox, "no tenants", "").await?,
            contender(&sandbox, "1,000 tenants", &tenants("")).await?,
            contender(&sandbox, "1,000 tenants with rate limits", &tenants("rate_limits = [\"1000000/s\"]\n")).await?,
        ];
        names = contenders.each_ref().map(|contender| contender.name);
        for turn in 0..TURNS {
            for offset in 0..contenders.len() {
                let contender = &mut contenders[(round + turn + offset) % 3];
                let time = work(contender).await?;
                contender.time += time;
            }
        }
        for (times, contender) in times.iter_mut().zip(&contenders) {
            times.push(contender.time);
        }
    }
    println!(
        "{rounds} rounds, each with {TURNS} turns of {TRANSACTIONS} transactions (SELECT 1) of {TENANTS} clients, \
         {AT_WORK} at a time:"
    );
    for (name, own) in names.iter().zip(&times) {
        let mut ratios: Vec<_> =
            own.iter().zip(&times[0]).map(|(own, none)| own.as_secs_f64() / none.as_secs_f64()).collect();
        ratios.sort_unstable_by(f64::total_cmp);
        let mut own = own.clone();
        own.sort_unstable();
        println!(
            "{name:>31}: {:5.1} us of processor time a transaction; {:.3} of \"no tenants\" in the same round (median; {:.3} to {:.3})",
            own[own.len() / 2].as_secs_f64() * 1e6 / (TURNS * TRANSACTIONS) as f64,
            ratios[ratios.len() / 2],
            ratios[ratios.len() / 4],
            ratios[ratios.len() * 3 / 4],
        );
    }
    Ok(())
}

fn tenants(more: &str) -> String {
    let tenants: Vec<_> = (0..TENANTS).map(|number| format!("[[tenants]]\nname = \"t{number}\"\n")).collect();
    format!(
        "[tiers.standard]\nstatement_timeout = \"15s\"\ntransaction_timeout = \"60s\"\npriority = \"high\"\n\
         max_server_connections = 10\nmax_clients = 100\n{more}[tenancy]\nidentify = [{{ option = \"*\" }}]\nunknown = \"refuse\"\n{}",
        tenants.concat()
    )
}

async fn contender(sandbox: &Sandbox, name: &'static str, tenants: &str) -> Result<Contender> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let file = sandbox.directory().join(format!("tenants-{port}.toml"));
    let primary = sandbox.primary().port;
    std::fs::write(
        &file,
        format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\n[log]\nlevel = \"error\"\n[pool]\nsize = 20\n{tenants}\
             [clusters.main]\nprimary = \"postgres://127.0.0.1:{primary}\"\n[[users]]\nname = \"bench\"\nauth = \"trust\"\n"
        ),
    )?;
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgweir"));
    let process = command.arg("run").arg("--config").arg(file).stdout(Stdio::null()).env_remove("RUST_LOG").spawn()?;
    let mut contender = Contender { name, process, clients: Vec::new(), time: Duration::ZERO };
    let until = Instant::now() + Duration::from_secs(10);
    let url = |number: usize| {
        let options =
            if tenants.is_empty() { String::new() } else { format!("?options=-c%20pgweir.tenant%3Dt{number}") };
        format!("postgres://bench@127.0.0.1:{port}/postgres{options}")
    };
    while let Err(error) = connect(&url(0)).await {
        if Instant::now() > until {
            return Err(error);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut tasks = JoinSet::new();
    for first in 0..AT_WORK {
        let urls: Vec<_> = (first..TENANTS).step_by(AT_WORK).map(url).collect();
        tasks.spawn(async move {
            let mut clients = Vec::new();
            for url in urls {
                clients.push(connect(&url).await?);
            }
            Result::Ok(clients)
        });
    }
    while let Some(clients) = tasks.join_next().await {
        contender.clients.push(clients??);
    }
    // Once before it counts.
    work(&mut contender).await?;
    Ok(contender)
}

/// The processor time of a turn's transactions.
async fn work(contender: &mut Contender) -> Result<Duration> {
    let pid = contender.process.id();
    let before = process::threads_time(pid)?;
    let mut tasks = JoinSet::new();
    for clients in std::mem::take(&mut contender.clients) {
        tasks.spawn(async move {
            for client in clients.iter().cycle().take(TRANSACTIONS / AT_WORK) {
                client.simple_query("SELECT 1").await?;
            }
            Ok::<_, tokio_postgres::Error>(clients)
        });
    }
    while let Some(clients) = tasks.join_next().await {
        contender.clients.push(clients??);
    }
    Ok(process::threads_time(pid)? - before)
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
