//! One load of one contender by pgbench.

use std::fmt;
use std::time::Duration;

use pgweir::sandbox::{Load, Protocol, Script};
use serde::Serialize;

use crate::contender::Contender;
use crate::options::Options;
use crate::setup::Setup;
use crate::{Result, process};

/// What the clients do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Workload {
    SelectSimple,
    SelectExtended,
    SelectPrepared,
    TpcbSimple,
}

/// What one load came to. Times in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Figures {
    /// Transactions in a second.
    pub tps: f64,
    pub average: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    /// The proxy's processor time for one transaction; `None` without a proxy.
    pub processor: Option<f64>,
}

/// pgbench writes its own log of every transaction that it keeps; a tenth is some ten thousand.
const SAMPLING: f64 = 0.1;

impl Workload {
    pub fn name(self) -> &'static str {
        match self {
            Self::SelectSimple => "select-simple",
            Self::SelectExtended => "select-extended",
            Self::SelectPrepared => "select-prepared",
            Self::TpcbSimple => "tpcb-simple",
        }
    }

    fn load(self, options: &Options) -> Load {
        let (script, protocol) = match self {
            Self::SelectSimple => (Script::SelectOnly, Protocol::Simple),
            Self::SelectExtended => (Script::SelectOnly, Protocol::Extended),
            Self::SelectPrepared => (Script::SelectOnly, Protocol::Prepared),
            Self::TpcbSimple => (Script::TpcbLike, Protocol::Simple),
        };
        let duration = Duration::from_secs(options.seconds);
        Load { script, protocol, clients: options.clients, threads: 2, duration, sampling: Some(SAMPLING) }
    }
}

/// Loads for as long as the options say.
pub async fn run(contender: &Contender, workload: Workload, options: &Options, setup: &Setup) -> Result<Figures> {
    let used = || contender.pid().map(process::processor_time).transpose();
    let before = used()?;
    let report = setup.sandbox.pgbench(&contender.target, &workload.load(options)).await;
    let report = report.map_err(|error| format!("{} under {}: {error}", contender.title(), workload.name()))?;
    let processor = before.zip(used()?).map(|(before, after)| after.saturating_sub(before));
    let latencies = report.latencies.ok_or("pgbench logged no transaction: let it run longer (--seconds)")?;
    Ok(Figures {
        tps: report.tps,
        average: micros(report.latency_average),
        p50: micros(latencies.p50),
        p95: micros(latencies.p95),
        p99: micros(latencies.p99),
        processor: processor.map(|time| micros(time) / report.transactions.max(1) as f64),
    })
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} tps, average {:.0} us", self.tps, self.average)?;
        self.processor.map_or(Ok(()), |processor| write!(f, ", processor {processor:.1} us"))
    }
}
