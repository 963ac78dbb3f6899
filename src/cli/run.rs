//! `pgweir run`: starts the proxy, follows its signals, and says how it ended.

mod signals;
mod systemd;

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::{Builder, Runtime};

use super::ConfigArgs;
use super::logging::Logging;
use crate::app::{App, Drained};
use crate::config::{Config, ConfigErrors, parse_address};
use signals::{Signal, Signals};

/// Run the proxy
///
/// Listens for clients until SIGTERM or SIGINT. Then it accepts no more, lets running transactions
/// finish for `shutdown_timeout`, and exits. SIGHUP reads the file again without dropping a client; a
/// file with mistakes changes nothing.
#[derive(Debug, Clone, Args)]
#[command(after_long_help = AFTER_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    pub source: ConfigArgs,

    /// Listen here instead of where the configuration says
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub listen: Option<SocketAddr>,
}

const AFTER_HELP: &str = "\
Examples:
  pgweir run --config /etc/pgweir/pgweir.toml
  pgweir run --config pgweir.toml --listen 0.0.0.0:6432
  DATABASE_URL=postgres://app:secret@10.0.0.1/shop pgweir run
  DATABASE_URL=… DATABASE_REPLICA_URLS=postgres://10.0.0.2,postgres://10.0.0.3 pgweir run

Exit codes: 0 stopped by a signal, 1 could not start or failed (the reason is on standard error), 2 wrong arguments.";

/// Serves until a signal ends it.
pub fn main(args: &RunArgs) -> ExitCode {
    let config = match args.load() {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::FAILURE;
        }
    };
    match run(args, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("pgweir: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &RunArgs, config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let logging = Logging::start(&config.log, std::env::var("RUST_LOG").ok())?;
    log_panics();
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let runtime = runtime(config.workers)?;
    let outcome = runtime.block_on(serve(args, &logging, config));
    // Clients that a second signal left behind are not waited for.
    runtime.shutdown_background();
    outcome
}

async fn serve(args: &RunArgs, logging: &Logging, config: Config) -> Result<(), Box<dyn std::error::Error>> {
    // Before the first client: a signal must not find the process without its handlers.
    let mut signals = Signals::new()?;
    let app = App::start(config).await?;
    announce(&app);
    systemd::ready();
    let watchdog = systemd::Watchdog::start();
    let signal = loop {
        match signals.next().await {
            Signal::Hangup => reload(args, logging, &app).await,
            signal => break signal,
        }
    };
    systemd::stopping();
    let patience = app.config().shutdown_timeout;
    tracing::info!(signal = signal.name(), ?patience, "shutting down: a second signal ends at once");
    tokio::select! {
        drained = app.shutdown() => tell_end(drained),
        signal = signals.next_end() => tracing::warn!(signal = signal.name(), "ended at once"),
    }
    drop(watchdog);
    Ok(())
}

/// Reads the configuration again; what is wrong with it changes nothing.
async fn reload(args: &RunArgs, logging: &Logging, app: &App) {
    systemd::reloading();
    match args.load() {
        Ok(config) => {
            let log = config.log.clone();
            for warning in &config.warnings {
                tracing::warn!("{warning}");
            }
            match app.reload(config).await {
                Ok(()) => {
                    if let Err(error) = logging.reload(&log) {
                        tracing::error!("{error}");
                    }
                    tracing::info!("configuration reloaded");
                }
                Err(error) => tracing::error!("configuration not reloaded: {error}"),
            }
        }
        Err(errors) => {
            app.reload_failed();
            for error in errors.iter() {
                tracing::error!("configuration not reloaded: {error}");
            }
        }
    }
    systemd::ready();
}

impl RunArgs {
    /// The configuration, with what the command line says otherwise.
    fn load(&self) -> Result<Config, ConfigErrors> {
        let mut config = self.source.load()?;
        if let Some(address) = self.listen {
            config.listen.addresses = vec![address];
        }
        Ok(config)
    }
}

fn runtime(workers: usize) -> io::Result<Runtime> {
    if workers == 1 {
        // No work stealing between one thread and itself.
        return Builder::new_current_thread().enable_all().build();
    }
    Builder::new_multi_thread().worker_threads(workers).thread_name("pgweir").enable_all().build()
}

fn announce(app: &App) {
    let addresses: Vec<_> = app.addresses().iter().map(ToString::to_string).collect();
    let socket = app.socket_path().map(|path| path.display().to_string());
    let metrics = app.metrics_address().map(|address| format!("http://{address}/metrics"));
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        addresses = addresses.join(", "),
        socket,
        metrics,
        workers = app.config().workers,
        "pgweir accepts clients"
    );
}

fn tell_end(drained: Drained) {
    match drained.ended {
        0 => tracing::info!("every client has finished"),
        ended => tracing::warn!(ended, "clients were cut off: their transactions outlasted shutdown_timeout"),
    }
}

/// A panic becomes one line of the log instead of text between its lines.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(place, message, %backtrace, "panic");
    }));
}

fn address(text: &str) -> Result<SocketAddr, String> {
    parse_address(text).ok_or_else(|| "expected an IP address and a port such as 0.0.0.0:6432 or [::]:6432".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::{Command, FromArgMatches};

    use super::*;

    #[test]
    fn an_address_is_checked_before_anything_starts() {
        let parse = |address: &str| {
            let command = RunArgs::augment_args(Command::new("run"));
            let matches = command.try_get_matches_from(["run", "--listen", address])?;
            RunArgs::from_arg_matches(&matches)
        };
        assert_eq!(parse("[::]:7000").unwrap().listen, Some("[::]:7000".parse().unwrap()));
        assert_eq!(parse("localhost:7000").unwrap().listen, Some("127.0.0.1:7000".parse().unwrap()));
        let error = parse("7000").unwrap_err().to_string();
        assert!(error.contains("expected an IP address and a port such as 0.0.0.0:6432"), "{error}");
    }
}
