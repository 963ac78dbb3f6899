//! Sets up the log: text for people on a terminal, JSON lines for machines; always on standard error. Audit lines are
//! JSON either way.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Log, LogFormat};
use crate::metrics::AUDIT;

/// The environment variable that wins over the file.
const VARIABLE: &str = "RUST_LOG";

/// The log of a process, whose level can change while it runs.
pub struct Logging {
    filter: reload::Handle<EnvFilter, Registry>,
    rust_log: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error(
        "{origin} holds no valid log filter: {error}; expected a level such as \"info\", or \"info,pgweir::pool=debug\""
    )]
    Filter {
        origin: &'static str,
        #[source]
        error: ParseError,
    },
    #[error("the log is set up already: {0}")]
    Twice(#[from] TryInitError),
    #[error("the log's level cannot be changed: {0}")]
    Gone(#[from] reload::Error),
}

impl Logging {
    /// Starts to log. `rust_log` is the value of `RUST_LOG`; an empty one counts as unset. Once per process.
    pub fn start(log: &Log, rust_log: Option<String>) -> Result<Self, LogError> {
        let rust_log = rust_log.filter(|text| !text.trim().is_empty());
        let (filter, handle) = reload::Layer::new(filter(log, rust_log.as_deref())?);
        let rest = filter_fn(|event| event.target() != AUDIT);
        let output = output(log.format).with_filter(filter.and(rest));
        tracing_subscriber::registry().with(output).with(audit()).try_init()?;
        Ok(Self { filter: handle, rust_log })
    }

    /// Takes over the level of a configuration that was read again. The format stays.
    pub fn reload(&self, log: &Log) -> Result<(), LogError> {
        Ok(self.filter.reload(filter(log, self.rust_log.as_deref())?)?)
    }
}

fn filter(log: &Log, rust_log: Option<&str>) -> Result<EnvFilter, LogError> {
    let (origin, text) = match rust_log {
        Some(text) => (VARIABLE, text),
        None => ("log.level", log.level.as_str()),
    };
    EnvFilter::builder().parse(text).map_err(|error| LogError::Filter { origin, error })
}

/// Audit lines, whatever the level.
fn audit<S>() -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let json = fmt::layer().json().flatten_event(true).with_span_list(false).with_current_span(false);
    json.with_writer(io::stderr).with_filter(filter_fn(|event| event.target() == AUDIT)).boxed()
}

/// What is written, below the filter that decides whether.
fn output<S>(format: LogFormat) -> Box<dyn Layer<S> + Send + Sync>
where
    S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a>,
{
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Auto => !terminal,
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    if json {
        fmt::layer().json().flatten_event(true).with_span_list(false).with_writer(io::stderr).boxed()
    } else {
        let colours = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        fmt::layer().compact().with_target(false).with_ansi(colours).with_writer(io::stderr).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(text: &str) -> Log {
        Log { level: text.to_owned(), ..Log::default() }
    }

    #[test]
    fn the_environment_wins_over_the_file() {
        let shown = |log: &Log, rust_log| filter(log, rust_log).unwrap().to_string();
        assert_eq!(shown(&level("warn"), None), "warn");
        assert_eq!(shown(&level("warn"), Some("debug")), "debug");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_refused_by_name() {
        let message = filter(&level("info"), Some("info,=")).unwrap_err().to_string();
        assert!(message.starts_with("RUST_LOG holds no valid log filter"), "{message}");
        let message = filter(&level("a=b=c"), None).unwrap_err().to_string();
        assert!(message.starts_with("log.level holds no valid log filter"), "{message}");
    }
}
