//! pgweir beside PgBouncer and beside no proxy at all: throughput, latency, processor time for each
//! transaction, and memory for each idle client, on servers of the benchmark's own.
//!
//! ```text
//! cargo bench --bench compare -- --help
//! ```
//!
//! All proxies run at the same time and are loaded in turn, in an order that moves on with every
//! round, so that whatever else the machine does falls on all of them alike; what counts are the ratios
//! within a round. Idle proxies cost next to nothing meanwhile.

mod cell;
mod contender;
mod idle;
mod load;
mod options;
mod pgbouncer;
mod process;
mod report;
mod setup;
mod weir;

use std::process::ExitCode;

use cell::Cell;
use clap::Parser;
use contender::{Contender, Kind};
use load::Workload;
use options::{Measurement, Options};
use report::Report;
use setup::Setup;

/// What any step may fail with; every error says by itself what was being done.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: &Options) -> Result<()> {
    process::raise_file_limit(options.most_idle_clients())?;
    let kinds = options.kinds();
    let setup = Setup::start(options, kinds.contains(&Kind::PgweirReplicas)).await?;
    let mut report = Report::new(options, &setup).await?;

    let contenders = start(&kinds, options, &setup).await?;
    report.contenders = contenders.iter().map(Contender::title).collect();
    for round in 0..options.rounds {
        for workload in options.measurements().iter().filter_map(Measurement::workload) {
            report.cells.extend(one_round(round, workload, &contenders, options, &setup).await?);
        }
    }
    drop(contenders);

    if options.measurements().contains(&Measurement::Idle) {
        for kind in kinds.iter().filter(|kind| kind.is_proxy()) {
            eprintln!("idle clients: {}", kind.name());
            // A process of its own: what the load left in the allocator is not the idle clients'.
            let contender = Contender::start(*kind, options, &setup).await?;
            report.idle.push(idle::measure(&contender, &options.idle, &setup).await?);
        }
    }
    println!("{report}");
    if let Some(file) = &options.json {
        report.write_json(file)?;
    }
    Ok(())
}

async fn start(kinds: &[Kind], options: &Options, setup: &Setup) -> Result<Vec<Contender>> {
    let mut contenders = Vec::new();
    for kind in kinds {
        contenders.push(Contender::start(*kind, options, setup).await?);
    }
    Ok(contenders)
}

/// Loads every contender that can carry the workload, beginning with another one in each round.
async fn one_round(
    round: usize,
    workload: Workload,
    contenders: &[Contender],
    options: &Options,
    setup: &Setup,
) -> Result<Vec<Cell>> {
    let mut cells = Vec::new();
    for turn in 0..contenders.len() {
        let contender = &contenders[(round + turn) % contenders.len()];
        if !contender.can_carry(workload) {
            continue;
        }
        let figures = load::run(contender, workload, options, setup).await?;
        eprintln!("round {}: {} {}: {figures}", round + 1, contender.title(), workload.name());
        cells.push(Cell { contender: contender.title(), workload: workload.name(), round, figures });
    }
    Ok(cells)
}
