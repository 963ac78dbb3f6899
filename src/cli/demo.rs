//! `pgweir demo`: the proxy at work on servers of its own, and a report of what it did.

mod load;
mod metrics;
mod report;
mod scene;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use scene::Scene;

/// Show the proxy at work on servers of its own
///
/// Starts a primary and two streaming standbys in a temporary directory, pgweir in front of them with
/// three tenants on three tiers, and pgbench load through it; then reports what ran where, how fast,
/// and what a tenant's timeout cut off. Everything is removed at the end, also on Ctrl-C.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct DemoArgs {
    /// Keep running after the report, and print the connection strings and the metrics address
    #[arg(long)]
    pub stay: bool,
}

const AFTER_HELP: &str = "\
Needs PostgreSQL's server programs: initdb on PATH, by `pg_config --bindir`, or under
/usr/lib/postgresql/*/bin (Debian: apt-get install postgresql). As root, the servers run as an
unprivileged user.

Exit codes: 0 done, 1 failed (the reason is on standard error), 2 wrong arguments.";

/// For programs that are on their way out when the demo ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Anything that can go wrong says what it was by itself.
type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Plays the demo; a signal ends it at any point, and everything that it made is removed.
pub fn main(args: &DemoArgs) -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pgweir demo: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = play(args) => outcome,
            // The servers go with the future that is dropped here.
            outcome = interrupted() => outcome,
        }
    });
    runtime.shutdown_timeout(LAST_WORDS);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("pgweir demo: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn play(args: &DemoArgs) -> Result<(), Failure> {
    println!("Starting a primary and two streaming standbys, and pgweir in front of them ...");
    let scene = Scene::set().await?;
    print!("{}", report::cast(&scene));
    let writes = load::run(&scene, load::Kind::Writes).await?;
    let reads = load::run(&scene, load::Kind::Reads).await?;
    let cut = load::overlong_statement(&scene).await?;
    print!("{}", report::summary(&scene, &[writes, reads], &cut));
    if args.stay {
        print!("{}", report::invitation(&scene));
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn interrupted() -> Result<(), Failure> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    println!("\nStopping the servers and removing their files ...");
    Ok(())
}
