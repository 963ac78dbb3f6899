//! One PostgreSQL server of a sandbox.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use super::error::{Doing, SandboxError};
use super::passwords::Passwords;
use super::port::ReservedPort;
use super::postmaster::{Postmaster, StopMode};
use super::sql::{literal, setting};
use super::tools::{Tools, output_of};

/// A server that can be asked, stopped, killed, paused and started again. Its port stays reserved
/// while it is down, so connecting is refused then.
///
/// Its methods take `&self` and may be called from any task or runtime.
#[derive(Debug)]
pub struct Server {
    /// `primary`, `replica1`, `replica2` …; also its `cluster_name`, so that a client can ask
    /// `current_setting('cluster_name')` where it is.
    pub name: String,
    /// TCP port on 127.0.0.1, and the number in the Unix socket's name.
    pub port: u16,
    /// The directory of the Unix sockets, the same for all servers of a sandbox.
    pub socket_dir: PathBuf,
    postmaster: Postmaster,
    tools: Tools,
    passwords: Arc<Passwords>,
    _reserved: ReservedPort,
}

/// The superuser's name. On the Unix socket it needs no password.
pub const SUPERUSER: &str = "postgres";

const POLL: Duration = Duration::from_millis(5);

impl Server {
    /// A server that is not running yet, for a data directory that is to be made at
    /// [`Self::data_directory`].
    pub(super) fn new(name: String, tools: Tools, passwords: Arc<Passwords>) -> Result<Self, SandboxError> {
        let reserved = ReservedPort::new()?;
        Ok(Self {
            port: reserved.get(),
            socket_dir: tools.directory.join("run"),
            postmaster: Postmaster::new(&name, &tools),
            _reserved: reserved,
            name,
            tools,
            passwords,
        })
    }

    /// `postgres://user:password@127.0.0.1:port/database`, with the password where the sandbox made
    /// the user (and for the superuser `postgres`).
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{}@127.0.0.1:{}/{}", self.passwords.credentials(user), self.port, encode(database))
    }

    /// Runs a script as superuser in the database `postgres`, statement by statement as psql does
    /// (not in one transaction), stopping at the first error. Gives the rows that it returned,
    /// one to a line, columns separated by `|`, without headers.
    pub async fn psql(&self, sql: &str) -> Result<String, SandboxError> {
        self.psql_in("postgres", sql).await
    }

    /// As [`Self::psql`], in another database.
    pub async fn psql_in(&self, database: &str, sql: &str) -> Result<String, SandboxError> {
        let mut psql = self.tools.client("psql")?;
        psql.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-U", SUPERUSER, "-f", "-"])
            .arg("-h")
            .arg(&self.socket_dir)
            .args(["-p", &self.port.to_string(), "-d", database]);
        output_of(psql, sql).await.map_err(|error| match error {
            SandboxError::Command { output, .. } => SandboxError::Sql { server: self.name.clone(), message: output },
            other => other,
        })
    }

    /// Starts the server and waits until it accepts connections (a standby: read-only ones).
    pub async fn start(&self) -> Result<(), SandboxError> {
        self.postmaster.launch()?;
        self.postmaster.ready().await
    }

    /// Shuts the server down and waits until it is gone.
    pub async fn stop(&self, mode: StopMode) -> Result<(), SandboxError> {
        self.postmaster.stop(mode).await
    }

    /// Stops the server in fast mode and starts it again.
    pub async fn restart(&self) -> Result<(), SandboxError> {
        self.stop(StopMode::Fast).await?;
        self.start().await
    }

    /// Ends the server as a crash of its machine would, save that the files stay: postmaster and
    /// backends at once, with no word to anyone. [`Self::start`] brings it back through recovery.
    pub async fn kill9(&self) -> Result<(), SandboxError> {
        self.postmaster.kill()
    }

    /// Stops every process of the server in its tracks: connections stay open, connects are accepted
    /// by the kernel, and nothing answers; as a machine that hangs.
    pub fn pause(&self) -> Result<(), SandboxError> {
        self.postmaster.signal_all(Signal::STOP)
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) -> Result<(), SandboxError> {
        self.postmaster.signal_all(Signal::CONT)
    }

    /// Lets a standby receive WAL without showing it: it becomes stale while it answers.
    pub async fn pause_replay(&self) -> Result<(), SandboxError> {
        self.psql("SELECT pg_wal_replay_pause()").await?;
        while self.psql("SELECT pg_get_wal_replay_pause_state()").await? != "paused" {
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Undoes [`Self::pause_replay`].
    pub async fn resume_replay(&self) -> Result<(), SandboxError> {
        self.psql("SELECT pg_wal_replay_resume()").await.map(drop)
    }

    /// Makes a standby a primary and waits until it is one. Other standbys go on following the old
    /// primary until they are told to [`Self::follow`] this one.
    pub async fn promote(&self) -> Result<(), SandboxError> {
        match self.psql("SELECT pg_promote(true, 60)").await?.as_str() {
            "t" => Ok(()),
            _ => Err(SandboxError::Sql {
                server: self.name.clone(),
                message: "pg_promote() did not finish in 60 s".to_owned(),
            }),
        }
    }

    /// Makes this server a standby of `primary`: a running standby turns to it at once, a stopped
    /// server at its next [`Self::start`]. A former primary can follow only if it was shut down in
    /// order before the other was promoted, else the two histories have parted.
    pub async fn follow(&self, primary: &Server) -> Result<(), SandboxError> {
        let conninfo = self.conninfo(primary);
        if self.pid().is_some() {
            let conninfo = literal(&conninfo);
            return self
                .psql(&format!("ALTER SYSTEM SET primary_conninfo = {conninfo};\nSELECT pg_reload_conf();"))
                .await
                .map(drop);
        }
        let path = self.data_directory().join("postgresql.auto.conf");
        let settings = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        // The last of several lines for the same parameter holds.
        self.tools.account.write(&path, &(settings + &setting("primary_conninfo", &conninfo)))?;
        self.tools.account.write(&self.data_directory().join("standby.signal"), "")
    }

    /// The postmaster's process id; `None` when the server is not running.
    pub fn pid(&self) -> Option<Pid> {
        self.postmaster.pid()
    }

    pub fn data_directory(&self) -> &Path {
        self.postmaster.data()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.postmaster.log()
    }

    pub(super) fn postmaster(&self) -> &Postmaster {
        &self.postmaster
    }

    /// Where this server finds `primary`, as a libpq connection string.
    pub(super) fn conninfo(&self, primary: &Server) -> String {
        let socket_dir = primary.socket_dir.display();
        format!("host={socket_dir} port={} user={SUPERUSER} application_name={}", primary.port, self.name)
    }
}

/// Percent-encodes everything that could end a part of a URL.
pub(super) fn encode(part: &str) -> String {
    percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string()
}
