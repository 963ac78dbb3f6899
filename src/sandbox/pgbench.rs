//! Load by pgbench, the one that belongs to the servers' installation.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::error::{Doing, SandboxError};
use super::latencies::Latencies;
use super::{Sandbox, tools};

/// Where pgbench connects: a server, or a proxy in front of it. Unlike [`super::Server::url`] it says
/// so in parts, for pgbench takes the password from its environment only.
#[derive(Clone)]
pub struct Target {
    /// Name, address, or directory of a Unix socket.
    pub host: String,
    pub port: u16,
    pub user: String,
    pub password: String,
    pub database: String,
}

/// What each client does, again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// One `SELECT` by primary key.
    SelectOnly,
    /// A transaction of three updates, a select and an insert.
    TpcbLike,
    /// A file of one's own (pgbench, "Custom Scripts").
    File(PathBuf),
}

/// How statements are sent (`--protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// `Query` messages.
    Simple,
    /// `Parse` to `Execute` each time.
    Extended,
    /// A named statement for each, parsed once for each client.
    Prepared,
}

/// One run of pgbench.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub script: Script,
    pub protocol: Protocol,
    pub clients: u32,
    /// Threads of pgbench; at most `clients`.
    pub threads: u32,
    /// Whole seconds, at least one.
    pub duration: Duration,
    /// The share of transactions, from 0 to 1, whose times are kept for [`PgbenchReport::latencies`].
    /// Writing them costs pgbench time, so a run for throughput keeps few.
    pub sampling: Option<f64>,
}

/// What pgbench measured. Times and rate are without the initial connections.
#[derive(Debug, Clone, PartialEq)]
pub struct PgbenchReport {
    /// Transactions that succeeded.
    pub transactions: u64,
    /// Transactions given up for serialization errors or deadlocks (other errors end the run).
    pub failed: u64,
    /// Transactions per second.
    pub tps: f64,
    pub latency_average: Duration,
    pub latency_stddev: Duration,
    /// Where [`Load::sampling`] asked for them and a transaction was sampled.
    pub latencies: Option<Latencies>,
}

impl Sandbox {
    /// Makes and fills pgbench's tables: 100,000 accounts for each unit of `scale`. The user needs
    /// `CREATE` on the database's schema `public`.
    pub async fn pgbench_initialize(&self, target: &Target, scale: u32) -> Result<(), SandboxError> {
        let mut pgbench = self.pgbench_for(target)?;
        pgbench.args(["--initialize", "--quiet", "--scale", &scale.to_string(), &target.database]);
        tools::output(pgbench).await.map(drop)
    }

    /// Runs pgbench, for [`Load::duration`] and the time that connecting takes.
    ///
    /// # Errors
    /// [`SandboxError::Command`] with pgbench's words when a client could not connect or met an
    /// error that aborts it; what the others did is lost then.
    pub async fn pgbench(&self, target: &Target, load: &Load) -> Result<PgbenchReport, SandboxError> {
        let mut pgbench = self.pgbench_for(target)?;
        pgbench.args(load.arguments());
        let logs = tempfile::tempdir_in(self.directory()).doing(|| "make a directory for pgbench's logs".to_owned())?;
        if let Some(rate) = load.sampling {
            pgbench.args(["--log", &format!("--sampling-rate={rate}")]);
            pgbench.arg(format!("--log-prefix={}", logs.path().join("log").display()));
        }
        pgbench.arg(&target.database);
        let mut report = PgbenchReport::parse(&tools::output(pgbench).await?)?;
        report.latencies = Latencies::from_micros(read_logs(logs.path())?);
        Ok(report)
    }

    fn pgbench_for(&self, target: &Target) -> Result<Command, SandboxError> {
        let mut pgbench = self.tools.client("pgbench")?;
        pgbench.args(["--host", &target.host, "--port", &target.port.to_string(), "--username", &target.user]);
        pgbench.env("PGPASSWORD", &target.password).env("PGCONNECT_TIMEOUT", "30");
        Ok(pgbench)
    }
}

/// The password stays out of logs.
impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Target({}@{}:{}/{})", self.user, self.host, self.port, self.database)
    }
}

impl Load {
    fn arguments(&self) -> Vec<String> {
        let script = match &self.script {
            Script::SelectOnly => "--builtin=select-only".to_owned(),
            Script::TpcbLike => "--builtin=tpcb-like".to_owned(),
            Script::File(path) => format!("--file={}", path.display()),
        };
        let protocol = match self.protocol {
            Protocol::Simple => "simple",
            Protocol::Extended => "extended",
            Protocol::Prepared => "prepared",
        };
        vec![
            script,
            format!("--protocol={protocol}"),
            format!("--client={}", self.clients),
            format!("--jobs={}", self.threads.clamp(1, self.clients.max(1))),
            format!("--time={}", self.duration.as_secs().max(1)),
            // Vacuuming first would be the load's first statements.
            "--no-vacuum".to_owned(),
            // Without progress reports there is no standard deviation; none comes this late.
            "--progress=1000000".to_owned(),
        ]
    }
}

impl PgbenchReport {
    /// Reads pgbench's closing report.
    fn parse(output: &str) -> Result<Self, SandboxError> {
        let wanted = |missing| number_after(output, missing).ok_or_else(|| missing_in(output, missing));
        let milliseconds = |missing| wanted(missing).map(|ms| Duration::from_secs_f64(ms / 1e3));
        let transactions = wanted("number of transactions actually processed: ")? as u64;
        if transactions == 0 {
            return Err(missing_in(output, "a transaction: the machine was too busy to finish one in time"));
        }
        Ok(Self {
            transactions,
            // Before PostgreSQL 15 a failure ended the run.
            failed: number_after(output, "number of failed transactions: ").unwrap_or(0.0) as u64,
            tps: wanted("tps = ")?,
            latency_average: milliseconds("latency average = ")?,
            latency_stddev: milliseconds("latency stddev = ")?,
            latencies: None,
        })
    }
}

/// The number behind the label at the beginning of a line.
fn number_after(output: &str, label: &str) -> Option<f64> {
    let value = output.lines().find_map(|line| line.strip_prefix(label))?;
    let end = value.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(value.len());
    value[..end].parse().ok().filter(|number: &f64| number.is_finite())
}

fn missing_in(output: &str, missing: &'static str) -> SandboxError {
    SandboxError::PgbenchReport { missing: missing.trim_end(), output: output.to_owned() }
}

/// The transaction times, in microseconds, of all per-transaction logs in a directory (pgbench,
/// "Per-Transaction Logging": the third column, `failed` for a transaction that was given up).
fn read_logs(directory: &Path) -> Result<Vec<u64>, SandboxError> {
    let mut micros = Vec::new();
    for entry in fs::read_dir(directory).doing(|| format!("list {}", directory.display()))? {
        let path = entry.doing(|| format!("list {}", directory.display()))?.path();
        let log = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        micros.extend(log.lines().filter_map(|line| line.split(' ').nth(2)?.parse::<u64>().ok()));
    }
    Ok(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REPORT: &str = "transaction type: <builtin: select only>
\
        scaling factor: 1
\
        query mode: prepared
\
        number of clients: 8
\
        number of threads: 2
\
        maximum number of tries: 1
\
        duration: 2 s
\
        number of transactions actually processed: 41234
\
        number of failed transactions: 3 (0.007%)
\
        latency average = 0.387 ms
\
        latency stddev = 0.120 ms
\
        initial connection time = 12.345 ms
\
        tps = 20664.500000 (without initial connection time)
";

    #[test]
    fn a_report_is_read() {
        let report = PgbenchReport::parse(REPORT).unwrap();
        assert_eq!((report.transactions, report.failed, report.tps), (41234, 3, 20664.5));
        assert_eq!(report.latency_average, Duration::from_micros(387));
        assert_eq!(report.latency_stddev, Duration::from_micros(120));
    }

    #[test]
    fn a_report_that_lacks_something_says_what() {
        let error = PgbenchReport::parse("transaction type: x\n").unwrap_err().to_string();
        assert!(error.starts_with("pgbench reported no `number of transactions actually processed:`"), "{error}");
        assert!(PgbenchReport::parse(&REPORT.replace("20664.500000", "nan")).is_err());
    }

    #[test]
    fn logs_of_all_threads_are_read_and_failures_left_out() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("log.1"), "0 1 250 0 1700000000 1\n0 2 failed 0 1700000000 2\n").unwrap();
        fs::write(directory.path().join("log.1.1"), "1 1 750 0 1700000000 3\n").unwrap();
        let mut micros = read_logs(directory.path()).unwrap();
        micros.sort_unstable();
        assert_eq!(micros, [250, 750]);
    }
}
