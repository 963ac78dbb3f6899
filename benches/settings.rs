//! What settings of one's own cost: two clients take turns on one server connection, with and without two settings
//! each, which then have to be made each time. In alternation, in one run; the ratio is what counts.
//!
//! `cargo bench --bench settings`; `tests/it/cost.rs` counts the messages.

use std::time::{Duration, Instant};

use pgweir::app::App;
use pgweir::config;
use pgweir::sandbox::{Login, Sandbox, SandboxOptions, User};
use tokio_postgres::{Client, NoTls};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const ROUNDS: usize = 15;
/// Of both clients together, in each round.
const TRANSACTIONS: u32 = 2_000;
const STATEMENT: &str = "SELECT 1";

const NOTHING: [&str; 2] = ["SELECT 1", "SELECT 1"];
const TWO_EACH: [&str; 2] =
    ["SET work_mem = '5MB'; SET timezone = 'Asia/Tokyo'", "SET work_mem = '6MB'; SET timezone = 'Europe/Rome'"];

#[tokio::main]
async fn main() -> Result<()> {
    let users = vec![User::new("bench", "").login(Login::Trust)];
    let sandbox = Sandbox::start(SandboxOptions { replicas: 0, users, ..Default::default() }).await?;
    let app = weir(&sandbox).await?;
    let url = format!("postgres://bench@127.0.0.1:{}/postgres", app.addresses()[0].port());
    let direct = format!("postgres://bench@127.0.0.1:{}/postgres", sandbox.primary().port);
    let pairs = [
        ("direct, a connection each", pair(&direct, NOTHING).await?),
        ("nothing set", pair(&url, NOTHING).await?),
        ("two settings each", pair(&url, TWO_EACH).await?),
    ];
    let mut times = vec![Vec::new(); pairs.len()];
    for _ in 0..ROUNDS {
        for ((_, clients), times) in pairs.iter().zip(&mut times) {
            times.push(take_turns(clients).await?);
        }
    }
    let medians: Vec<Duration> = times.iter_mut().map(|times| median(times)).collect();
    println!("{ROUNDS} rounds of {TRANSACTIONS} transactions, medians:");
    for ((name, _), median) in pairs.iter().zip(&medians) {
        let ratio = median.as_secs_f64() / medians[1].as_secs_f64();
        println!("{name:>28}: {:6.1} us a transaction, {ratio:.2} of \"nothing set\"", median.as_secs_f64() * 1e6);
    }
    Ok(())
}

async fn weir(sandbox: &Sandbox) -> Result<App> {
    let file = sandbox.directory().join("settings.toml");
    let primary = sandbox.primary().port;
    std::fs::write(
        &file,
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[log]\nlevel = \"error\"\n[pool]\nsize = 1\n\
             [clusters.main]\nprimary = \"postgres://127.0.0.1:{primary}\"\n[[users]]\nname = \"bench\"\nauth = \"trust\"\n"
        ),
    )?;
    Ok(App::start(config::load(&file, &|_| None)?).await?)
}

async fn pair(url: &str, settings: [&str; 2]) -> Result<[Client; 2]> {
    let [one, two] = [connect(url).await?, connect(url).await?];
    one.batch_execute(settings[0]).await?;
    two.batch_execute(settings[1]).await?;
    Ok([one, two])
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// One transaction, on average.
async fn take_turns(clients: &[Client; 2]) -> Result<Duration> {
    let since = Instant::now();
    for number in 0..TRANSACTIONS {
        clients[number as usize % 2].simple_query(STATEMENT).await?;
    }
    Ok(since.elapsed() / TRANSACTIONS)
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
