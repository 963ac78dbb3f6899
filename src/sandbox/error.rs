//! What can go wrong with a throw-away cluster, said so that the reader can put it right.

use std::io;
use std::process::ExitStatus;

/// An error of the sandbox. Server logs and command output are quoted where they explain it.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    #[error(
        "no PostgreSQL installation found: {searched}. Install the server programs: on Debian and Ubuntu \
         `apt-get install postgresql` (the cluster that the package makes for itself is not needed and may be removed), \
         elsewhere any PostgreSQL 14 or later whose `initdb` is on PATH"
    )]
    NotInstalled { searched: String },

    #[error("{program} is not part of the PostgreSQL installation in {bindir}: install the package that has it")]
    MissingProgram { program: String, bindir: String },

    #[error(
        "running as root, and PostgreSQL refuses to run as root: an unprivileged user named {tried} is needed in /etc/passwd"
    )]
    NoUnprivilegedUser { tried: String },

    #[error("could not {doing}: {source}")]
    Io { doing: String, source: io::Error },

    #[error("{program} failed with {status}:\n{output}")]
    Command { program: String, status: ExitStatus, output: String },

    #[error("the {server} server ended with {status} before it accepted connections; the end of its log:\n{log}")]
    Exited { server: String, status: ExitStatus, log: String },

    #[error("the {server} server did not accept connections within {seconds} s; the end of its log:\n{log}")]
    NotReady { server: String, seconds: u64, log: String },

    #[error("the {server} server did not stop within {seconds} s of a {mode} shutdown; the end of its log:\n{log}")]
    NotStopped { server: String, seconds: u64, mode: &'static str, log: String },

    #[error("the {server} server is already running")]
    AlreadyRunning { server: String },

    #[error("the {server} server is not running: start it first")]
    NotRunning { server: String },

    #[error("SQL on the {server} server failed:\n{message}")]
    Sql { server: String, message: String },

    #[error("the {server} server had replayed {replayed} and not yet {wanted} after {seconds} s")]
    NotReplayed { server: String, replayed: String, wanted: String, seconds: u64 },

    #[error("could not make a certificate: {0}")]
    Certificate(#[from] rcgen::Error),

    #[error("pgbench reported no `{missing}`; its output:\n{output}")]
    PgbenchReport { missing: &'static str, output: String },
}

/// Says what was being done when an [`io::Error`] came up.
pub(super) trait Doing<T> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SandboxError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, doing: impl FnOnce() -> String) -> Result<T, SandboxError> {
        self.map_err(|error| SandboxError::Io { doing: doing(), source: error.into() })
    }
}
