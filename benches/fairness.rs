//! One tenant floods the servers, another one wants little: what the second one waits, with and without fairness.
//!
//! 200 clients with statements of 2 s and 4 clients with statements of 1 ms (both sleep, so that it is the queue that is
//! measured and not the processor) on 20 server connections, in one run: the four alone; with the flood, as one tenant
//! and so first come, first served; and as two tenants, in one pool, and in two pools of a host that may have 20.
//!
//! `cargo bench --bench fairness [-- SECONDS]`

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use pgweir::app::App;
use pgweir::config;
use pgweir::sandbox::{Login, Sandbox, SandboxOptions, User};
use tokio::task::JoinSet;
use tokio_postgres::{Client, NoTls};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const CONNECTIONS: usize = 20;
const HEAVY: (usize, &str) = (200, "SELECT pg_sleep(2)");
const LIGHT: (usize, &str) = (4, "SELECT pg_sleep(0.001)");
const SECONDS: u64 = 60;
/// Without measuring, so that the flood has risen.
const BEFORE: Duration = Duration::from_secs(5);

/// The users and tenants of heavy and light clients.
struct Layout {
    name: &'static str,
    heavy: Option<&'static str>,
    light: &'static str,
}

const LAYOUTS: [Layout; 4] = [
    Layout { name: "the light tenant alone", heavy: None, light: "one?options=-c%20pgweir.tenant%3Dlight" },
    Layout { name: "all as one tenant (first in, first out)", heavy: Some("one"), light: "one" },
    Layout {
        name: "two tenants in one pool",
        heavy: Some("one?options=-c%20pgweir.tenant%3Dheavy"),
        light: "one?options=-c%20pgweir.tenant%3Dlight",
    },
    Layout { name: "two tenants in two pools of one host", heavy: Some("heavy"), light: "light" },
];

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo says `--bench`.
    let seconds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(SECONDS);
    let users = ["one", "heavy", "light"].map(|user| User::new(user, "").login(Login::Trust)).to_vec();
    let sandbox = Sandbox::start(SandboxOptions { replicas: 0, users, ..Default::default() }).await?;
    println!(
        "{} clients: {}; {} clients: {}; {CONNECTIONS} server connections; {seconds} s each",
        HEAVY.0, HEAVY.1, LIGHT.0, LIGHT.1
    );
    println!("| | light: p50 | p99 | longest | p99, of that alone | light per second | heavy per second |");
    println!("|---|---:|---:|---:|---:|---:|---:|");
    let mut alone = None;
    for layout in &LAYOUTS {
        let app = weir(&sandbox).await?;
        let port = app.addresses()[0].port();
        let (mut times, heavy) = measure(port, layout, Duration::from_secs(seconds)).await?;
        times.sort_unstable();
        let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e3;
        let alone = *alone.get_or_insert(at(99));
        println!(
            "| {} | {:.1} ms | {:.1} ms | {:.1} ms | {:.1} | {:.0} | {:.1} |",
            layout.name,
            at(50),
            at(99),
            at(100),
            at(99) / alone,
            times.len() as f64 / seconds as f64,
            heavy as f64 / seconds as f64,
        );
        drop(app);
    }
    Ok(())
}

async fn weir(sandbox: &Sandbox) -> Result<App> {
    let file = sandbox.directory().join("fairness.toml");
    let primary = sandbox.primary().port;
    let users =
        ["one", "heavy", "light"].map(|user| format!("[[users]]\nname = \"{user}\"\nauth = \"trust\"\n")).concat();
    // Two of the host's connections are pgweir's own: the catalog's readers.
    std::fs::write(
        &file,
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[log]\nlevel = \"error\"\n\
             [pool]\nsize = {CONNECTIONS}\nqueue_timeout = \"10min\"\n[tiers.standard]\n\
             [tenancy]\nidentify = [{{ option = \"*\" }}, {{ user = \"*\" }}]\n\
             [[tenants]]\nname = \"heavy\"\n[[tenants]]\nname = \"light\"\n\
             [clusters.main]\nprimary = \"postgres://127.0.0.1:{primary}\"\nmax_server_connections = {}\n{users}",
            CONNECTIONS + 2,
        ),
    )?;
    Ok(App::start(config::load(&file, &|_| None)?).await?)
}

/// What each statement of the light clients took, and how many the heavy ones ran meanwhile.
async fn measure(port: u16, layout: &Layout, time: Duration) -> Result<(Vec<Duration>, u64)> {
    let url = |user: &str| {
        let (user, options) = user.split_once('?').unwrap_or((user, ""));
        format!("postgres://{user}@127.0.0.1:{port}/postgres?{options}")
    };
    let heavy = Arc::<AtomicU64>::default();
    let mut flood = JoinSet::new();
    for _ in 0..layout.heavy.map_or(0, |_| HEAVY.0) {
        let client = connect(&url(layout.heavy.unwrap_or_default())).await?;
        let heavy = heavy.clone();
        flood.spawn(async move {
            while client.batch_execute(HEAVY.1).await.is_ok() {
                heavy.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let begin = Instant::now() + BEFORE;
    let mut light = JoinSet::new();
    for _ in 0..LIGHT.0 {
        let client = connect(&url(layout.light)).await?;
        light.spawn(ask(client, begin, begin + time));
    }
    tokio::time::sleep(begin.saturating_duration_since(Instant::now())).await;
    let before = heavy.load(Ordering::Relaxed);
    let mut times = Vec::new();
    while let Some(outcome) = light.join_next().await {
        times.extend(outcome??);
    }
    Ok((times, heavy.load(Ordering::Relaxed) - before))
}

/// Again and again until the end.
async fn ask(client: Client, begin: Instant, end: Instant) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while Instant::now() < end {
        let since = Instant::now();
        client.batch_execute(LIGHT.1).await?;
        if since >= begin {
            times.push(since.elapsed());
        }
    }
    Ok(times)
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
