//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::contender::Kind;
use crate::load::Workload;

/// Compare pgweir with PgBouncer and with direct connections
///
/// Starts PostgreSQL in a temporary directory and every contender in front of it, loads them in turn with
/// pgbench, and prints medians over the rounds and pgweir's ratios within them. Needs PostgreSQL's
/// server programs and pgbench; Debian's pgbouncer package for the comparison.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub struct Options {
    /// How often each contender is loaded with each workload
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,

    /// Seconds of each load
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..))]
    pub seconds: u64,

    /// Clients of each load
    #[arg(long, default_value_t = 32)]
    pub clients: u32,

    /// Server connections of each proxy's pool
    #[arg(long, default_value_t = 20)]
    pub pool: u32,

    /// pgbench's scale: 100,000 accounts (about 15 MB) each
    #[arg(long, default_value_t = 20)]
    pub scale: u32,

    /// Streaming standbys; with any, pgweir is measured a second time with its reads on them
    #[arg(long, default_value_t = 0)]
    pub replicas: usize,

    /// Numbers of idle clients at which memory is read, from few to many
    #[arg(long, value_delimiter = ',', default_values_t = [1000, 5000])]
    pub idle: Vec<usize>,

    /// What to measure (default: everything)
    #[arg(long, value_delimiter = ',', value_enum)]
    pub only: Vec<Measurement>,

    /// What to put it to (default: everything that is there)
    #[arg(long, value_delimiter = ',', value_enum)]
    pub contenders: Vec<Kind>,

    /// Another PgBouncer, measured beside Debian's; 1.21 or later can carry prepared statements
    #[arg(long, value_name = "PATH")]
    pub pgbouncer: Option<PathBuf>,

    /// Another build of pgweir than the one that belongs to this benchmark
    #[arg(long, value_name = "PATH", default_value = env!("CARGO_BIN_EXE_pgweir"), hide_default_value = true)]
    pub pgweir: PathBuf,

    /// Threads of pgweir (default: its own, one for each processor)
    #[arg(long)]
    pub workers: Option<usize>,

    /// Write all figures to this file
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// What `cargo bench` adds to every benchmark's arguments
    #[arg(long, hide = true)]
    bench: bool,
}

/// One part of the comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Measurement {
    /// One select by primary key, as a `Query` message
    Simple,
    /// The same, parsed each time by the extended protocol
    Extended,
    /// The same, prepared once for each client
    Prepared,
    /// pgbench's TPC-B-like transaction, simple protocol
    Tpcb,
    /// Memory of idle clients
    Idle,
}

impl Measurement {
    /// The load behind it; the idle clients are none.
    pub fn workload(&self) -> Option<Workload> {
        match self {
            Self::Simple => Some(Workload::SelectSimple),
            Self::Extended => Some(Workload::SelectExtended),
            Self::Prepared => Some(Workload::SelectPrepared),
            Self::Tpcb => Some(Workload::TpcbSimple),
            Self::Idle => None,
        }
    }
}

impl Options {
    pub fn measurements(&self) -> &[Measurement] {
        if self.only.is_empty() { Measurement::value_variants() } else { &self.only }
    }

    /// What takes part: what was asked for, or all that this machine and these options allow.
    pub fn kinds(&self) -> Vec<Kind> {
        let present = |kind: &Kind| match kind {
            Kind::OtherPgbouncer => self.pgbouncer.is_some(),
            Kind::PgweirReplicas => self.replicas > 0,
            Kind::Pgbouncer => crate::pgbouncer::installed().is_some(),
            Kind::Direct | Kind::Pgweir => true,
        };
        match self.contenders.as_slice() {
            [] => Kind::value_variants().iter().copied().filter(present).collect(),
            asked => asked.to_vec(),
        }
    }

    pub fn most_idle_clients(&self) -> usize {
        self.idle.iter().copied().max().unwrap_or(0)
    }
}
