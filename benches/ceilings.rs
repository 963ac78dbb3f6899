//! How exact a tenant's ceilings are: for how long the server's own activity view shows what is over one.
//!
//! Each way is tried again and again; `pg_stat_activity` is asked all the while, by the server's clock. The aim is a
//! quarter of a second.
//!
//! `cargo bench --bench ceilings [-- ROUNDS]`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgweir::app::App;
use pgweir::config;
use pgweir::sandbox::{Login, Sandbox, SandboxOptions, User};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

const ROUNDS: usize = 10;
const CEILING: Duration = Duration::from_millis(500);

/// A ceiling, what is tried against it (its name, what comes before it, the SQL), and what is over it in the server's view
/// (a condition, and the column that says since when).
type Way = [&'static str; 6];

const RUNS: &str = "state = 'active'";
const OPEN: &str = "xact_start IS NOT NULL";
const RESTS: &str = "state = 'idle in transaction'";
const LIFT: &str = "SET statement_timeout = 0; SET lock_timeout = 0";

const WAYS: [Way; 9] = [
    ["statement_timeout", "a statement", "", "SELECT pg_sleep(60)", RUNS, "query_start"],
    ["statement_timeout", "SET before it", LIFT, "SELECT pg_sleep(60)", RUNS, "query_start"],
    [
        "statement_timeout",
        "SET in its message",
        "",
        "SET statement_timeout = 0; SELECT pg_sleep(60)",
        RUNS,
        "query_start",
    ],
    [
        "statement_timeout",
        "set_config in a DO block",
        "",
        "DO $$ BEGIN PERFORM set_config('statement_timeout', '0', false); PERFORM pg_sleep(60); END $$",
        RUNS,
        "query_start",
    ],
    ["statement_timeout", "at work", "", "SELECT count(*) FROM generate_series(1, 10000000000)", RUNS, "query_start"],
    ["transaction_timeout", "a statement of it", "BEGIN", "SELECT pg_sleep(60)", OPEN, "xact_start"],
    ["transaction_timeout", "nothing runs in it", "BEGIN", "", OPEN, "xact_start"],
    ["idle_in_transaction_timeout", "nothing runs", "BEGIN", "", RESTS, "state_change"],
    ["lock_timeout", "a lock", "", "SELECT * FROM locked", "wait_event_type = 'Lock'", "query_start"],
];

#[tokio::main]
async fn main() -> Result<()> {
    // Cargo says `--bench`.
    let rounds = std::env::args().skip(1).find_map(|argument| argument.parse().ok()).unwrap_or(ROUNDS);
    let users = vec![User::new("bench", "").login(Login::Trust)];
    let sandbox = Sandbox::start(SandboxOptions { replicas: 0, users, ..Default::default() }).await?;
    sandbox.primary().psql("CREATE TABLE locked (x int); GRANT ALL ON locked TO bench").await?;
    let app = weir(&sandbox).await?;
    let url = format!("postgres://bench@127.0.0.1:{}/postgres", app.addresses()[0].port());
    let direct = connect(&sandbox.primary().url("postgres", "postgres")).await?;
    direct.batch_execute("BEGIN; LOCK TABLE locked").await?;
    println!("Ceilings of {} ms; shown by the server for so much longer, in {rounds} rounds:", CEILING.as_millis());
    for [ceiling, what, before, sql, over, since] in WAYS {
        let mut longer = Vec::new();
        for _ in 0..rounds {
            let client =
                connect(&format!("{url}?options=-c%20pgweir.tenant%3D{ceiling}&application_name=victim")).await?;
            let over = format!(
                "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - {since})), 0) FROM pg_stat_activity \
                 WHERE application_name = 'victim' AND {over}"
            );
            let watch = Watch::start(&sandbox, over).await?;
            client.batch_execute(before).await?;
            if sql.is_empty() {
                tokio::time::sleep(CEILING * 3).await;
            } else if client.batch_execute(sql).await.is_ok() {
                return Err(format!("{ceiling}, {what}: it was not cut off").into());
            }
            longer.push((watch.end().await? - CEILING.as_secs_f64()) * 1e3);
        }
        longer.sort_unstable_by(f64::total_cmp);
        println!(
            "{ceiling:>27}, {what:<24}: {:4.0} ms (median), {:4.0} ms (most)",
            longer[rounds / 2],
            longer[rounds - 1]
        );
    }
    Ok(())
}

/// Asks again and again for how long something has been there.
struct Watch {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<f64>>,
}

impl Watch {
    async fn start(sandbox: &Sandbox, sql: String) -> Result<Self> {
        let client = connect(&sandbox.primary().url("postgres", "postgres")).await?;
        let over = Arc::<AtomicBool>::default();
        let task = tokio::spawn({
            let over = over.clone();
            async move {
                let mut longest = 0.0_f64;
                while !over.load(Ordering::Relaxed) {
                    for message in client.simple_query(&sql).await? {
                        if let SimpleQueryMessage::Row(row) = message {
                            longest = longest.max(row.get(0).unwrap_or("0").parse()?);
                        }
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                Ok(longest)
            }
        });
        Ok(Self { over, task })
    }

    /// The longest in seconds. What was cut off may be shown for a moment still.
    async fn end(self) -> Result<f64> {
        tokio::time::sleep(Duration::from_millis(300)).await;
        self.over.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn weir(sandbox: &Sandbox) -> Result<App> {
    let file = sandbox.directory().join("ceilings.toml");
    let primary = sandbox.primary().port;
    let ceilings = ["statement_timeout", "transaction_timeout", "idle_in_transaction_timeout", "lock_timeout"];
    let tenant = |name: &str| format!("[[tenants]]\nname = \"{name}\"\n{name} = \"{}ms\"\n", CEILING.as_millis());
    std::fs::write(
        &file,
        format!(
            "[listen]\naddress = \"127.0.0.1:0\"\n[log]\nlevel = \"error\"\n[tiers.standard]\n\
             [tenancy]\nidentify = [{{ option = \"*\" }}]\n{}\
             [clusters.main]\nprimary = \"postgres://127.0.0.1:{primary}\"\n[[users]]\nname = \"bench\"\nauth = \"trust\"\n",
            ceilings.map(tenant).concat()
        ),
    )?;
    Ok(App::start(config::load(&file, &|_| None)?).await?)
}

async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
