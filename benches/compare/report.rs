//! All figures, as tables for people and as JSON for programs.

use std::fmt::{self, Display};
use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::Result;
use crate::cell::{Cell, median, of, ratio};
use crate::idle::IdleReport;
use crate::load::Figures;
use crate::options::{Measurement, Options};
use crate::setup::Setup;

/// What was measured, and where.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub clients: u32,
    pub pool: u32,
    pub scale: u32,
    pub rounds: usize,
    pub seconds: u64,
    pub contenders: Vec<String>,
    #[serde(skip)]
    workloads: Vec<&'static str>,
    pub cells: Vec<Cell>,
    pub idle: Vec<IdleReport>,
}

/// Without it, figures mean nothing.
#[derive(Debug, Serialize)]
pub struct Machine {
    processor: String,
    processors: usize,
    kernel: String,
    server: String,
}

/// pgweir beside one PgBouncer under one workload: medians of the ratios within the rounds.
#[derive(Debug, Serialize)]
struct Ratio {
    workload: &'static str,
    contender: String,
    reference: String,
    tps: Option<f64>,
    processor: Option<f64>,
    p50: Option<f64>,
    p99: Option<f64>,
}

impl Report {
    pub async fn new(options: &Options, setup: &Setup) -> Result<Self> {
        let server = setup.sandbox.primary().psql("SHOW server_version").await?;
        Ok(Self {
            machine: Machine::this(server),
            clients: options.clients,
            pool: options.pool,
            scale: options.scale,
            rounds: options.rounds,
            seconds: options.seconds,
            contenders: Vec::new(),
            workloads: options
                .measurements()
                .iter()
                .filter_map(Measurement::workload)
                .map(|workload| workload.name())
                .collect(),
            cells: Vec::new(),
            idle: Vec::new(),
        })
    }

    /// Writes everything, every round by itself and the ratios, to a file.
    pub fn write_json(&self, file: &Path) -> Result<()> {
        #[derive(Serialize)]
        struct Whole<'a> {
            #[serde(flatten)]
            report: &'a Report,
            ratios: Vec<Ratio>,
        }
        let json = serde_json::to_string_pretty(&Whole { report: self, ratios: self.ratios() })?;
        fs::write(file, json + "\n").map_err(|error| format!("could not write {}: {error}", file.display()).into())
    }

    /// Every pgweir beside every PgBouncer, where both carried the workload.
    fn ratios(&self) -> Vec<Ratio> {
        let named = |name: &'static str| self.contenders.iter().filter(move |title| title.starts_with(name));
        let mut ratios = Vec::new();
        for workload in &self.workloads {
            for contender in named("pgweir") {
                for reference in named("pgbouncer") {
                    let of = |figure: fn(&Figures) -> Option<f64>| {
                        ratio(&self.cells, workload, contender, reference, figure)
                    };
                    let tps = of(|figures| Some(figures.tps));
                    ratios.extend(tps.map(|_| Ratio {
                        workload,
                        contender: contender.clone(),
                        reference: reference.clone(),
                        tps,
                        processor: of(|figures| figures.processor),
                        p50: of(|figures| Some(figures.p50)),
                        p99: of(|figures| Some(figures.p99)),
                    }));
                }
            }
        }
        ratios
    }

    fn load_table(&self, workload: &str) -> Vec<Vec<String>> {
        let heads = ["", "tps", "average", "p50", "p95", "p99", "processor"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for contender in &self.contenders {
            let middle = |figure: fn(&Figures) -> Option<f64>, digits| {
                shown(median(of(&self.cells, contender, workload).filter_map(|cell| figure(&cell.figures))), digits)
            };
            rows.push(vec![
                contender.clone(),
                middle(|figures| Some(figures.tps), 0),
                middle(|figures| Some(figures.average), 0),
                middle(|figures| Some(figures.p50), 0),
                middle(|figures| Some(figures.p95), 0),
                middle(|figures| Some(figures.p99), 0),
                middle(|figures| figures.processor, 1),
            ]);
        }
        rows
    }

    fn ratio_table(&self) -> Vec<Vec<String>> {
        let heads = ["", "tps", "processor", "p50", "p99"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        rows.extend(self.ratios().into_iter().map(|ratio| {
            let title = format!("{}: {} / {}", ratio.workload, ratio.contender, ratio.reference);
            let numbers = [ratio.tps, ratio.processor, ratio.p50, ratio.p99].map(|ratio| shown(ratio, 2));
            std::iter::once(title).chain(numbers).collect()
        }));
        rows
    }

    fn idle_table(&self) -> Vec<Vec<String>> {
        let heads = ["", "clients", "RSS MiB", "PSS MiB", "KiB for each"];
        let mut rows = vec![heads.map(str::to_owned).to_vec()];
        for report in &self.idle {
            let used = format!("{}, each has run one statement", report.contender);
            let steps = report.steps.iter().map(|step| (report.contender.clone(), step));
            rows.extend(steps.chain([(used, &report.used)]).map(|(title, step)| {
                let mebibytes = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
                let for_each = shown(step.for_each.map(|bytes| bytes / 1024.0), 2);
                let (rss, pss) = (mebibytes(step.memory.rss), mebibytes(step.memory.pss));
                vec![title, step.clients.to_string(), rss, pss, for_each]
            }));
        }
        rows
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processor, processors, kernel, server } = &self.machine;
        writeln!(f, "\n{processors} x {processor}, {kernel}, PostgreSQL {server}")?;
        let Self { clients, pool, rounds, seconds, scale, .. } = self;
        writeln!(f, "{clients} clients, pool of {pool}, scale {scale}; medians of {rounds} rounds of {seconds} s")?;
        writeln!(f, "latencies, and the proxy's processor time for a transaction, in microseconds")?;
        for workload in &self.workloads {
            writeln!(f, "\n{workload}")?;
            table(f, &self.load_table(workload))?;
        }
        if self.ratios().iter().any(|ratio| ratio.tps.is_some()) {
            writeln!(f, "\nratios within a round")?;
            table(f, &self.ratio_table())?;
        }
        if !self.idle.is_empty() {
            writeln!(f, "\nmemory of idle clients, logged in by SCRAM-SHA-256")?;
            table(f, &self.idle_table())?;
            for report in &self.idle {
                writeln!(f, "{}: {:.0} us of processor time for a login", report.contender, report.login)?;
            }
        }
        Ok(())
    }
}

impl Machine {
    fn this(server: String) -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Self {
            processor: model.map_or("unknown processor", |(_, model)| model).to_owned(),
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: format!("Linux {}", read("/proc/sys/kernel/osrelease").trim()),
            server,
        }
    }
}

/// The first column to the left, numbers to the right.
fn table(f: &mut fmt::Formatter<'_>, rows: &[Vec<String>]) -> fmt::Result {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
            match column {
                0 => write!(f, "  {cell:<width$}")?,
                _ => write!(f, "  {cell:>width$}")?,
            }
        }
        writeln!(f)?;
    }
    Ok(())
}

fn shown(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}
