//! One PostgreSQL server of a sandbox, as a child of this process.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::{Doing, SandboxError};
use super::home::{kill_all_under, signal_under};
use super::passwords::Passwords;
use super::port::ReservedPort;
use super::sql::setting;
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
    data: PathBuf,
    log: PathBuf,
    tools: Tools,
    passwords: Arc<Passwords>,
    postmaster: Mutex<Option<Child>>,
    _reserved: ReservedPort,
}

/// How to shut a server down (PostgreSQL, "Shutting Down the Server").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until every client has gone.
    Smart,
    /// Rolls back and disconnects every client (57P01), then writes a checkpoint.
    Fast,
    /// Quits without a checkpoint; the next start recovers from the WAL.
    Immediate,
}

/// The superuser's name. On the Unix socket it needs no password.
pub const SUPERUSER: &str = "postgres";

/// A loaded machine takes its time; this only bounds the wait for a server that hangs.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

impl Server {
    /// A server that is not running yet, for a data directory that is to be made at
    /// [`Self::data_directory`].
    pub(super) fn new(name: String, tools: Tools, passwords: Arc<Passwords>) -> Result<Self, SandboxError> {
        let reserved = ReservedPort::new()?;
        Ok(Self {
            port: reserved.get(),
            socket_dir: tools.directory.join("run"),
            data: tools.directory.join(&name),
            log: tools.directory.join(format!("{name}.log")),
            postmaster: Mutex::new(None),
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
        self.launch()?;
        self.ready().await
    }

    /// Shuts the server down and waits until it is gone.
    pub async fn stop(&self, mode: StopMode) -> Result<(), SandboxError> {
        let pid = self.pid().ok_or_else(|| SandboxError::NotRunning { server: self.name.clone() })?;
        kill_process(pid, mode.signal()).doing(|| format!("signal the {} server", self.name))?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.reap()?.is_none() {
            if Instant::now() > deadline {
                let (server, seconds) = (self.name.clone(), STOP_LIMIT.as_secs());
                return Err(SandboxError::NotStopped { server, seconds, mode: mode.name(), log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops the server in fast mode and starts it again.
    pub async fn restart(&self) -> Result<(), SandboxError> {
        self.stop(StopMode::Fast).await?;
        self.start().await
    }

    /// Ends the server as a crash of its machine would, save that the files stay: postmaster and
    /// backends at once, with no word to anyone. [`Self::start`] brings it back through recovery.
    pub async fn kill9(&self) -> Result<(), SandboxError> {
        let mut postmaster =
            self.lock().take().ok_or_else(|| SandboxError::NotRunning { server: self.name.clone() })?;
        // The postmaster first, or it would see backends die and begin to recover.
        postmaster.kill().doing(|| format!("kill the {} server", self.name))?;
        kill_all_under(&self.data);
        postmaster.wait().doing(|| format!("wait for the {} server", self.name))?;
        Ok(())
    }

    /// Stops every process of the server in its tracks: connections stay open, connects are accepted
    /// by the kernel, and nothing answers; as a machine that hangs.
    pub fn pause(&self) -> Result<(), SandboxError> {
        let pid = self.pid().ok_or_else(|| SandboxError::NotRunning { server: self.name.clone() })?;
        // The postmaster first: from then on there are no new processes to miss.
        kill_process(pid, Signal::STOP).doing(|| format!("pause the {} server", self.name))?;
        signal_under(&self.data, Signal::STOP);
        Ok(())
    }

    /// Undoes [`Self::pause`].
    pub fn resume(&self) -> Result<(), SandboxError> {
        signal_under(&self.data, Signal::CONT);
        Ok(())
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
            let conninfo = super::sql::literal(&conninfo);
            return self
                .psql(&format!("ALTER SYSTEM SET primary_conninfo = {conninfo};\nSELECT pg_reload_conf();"))
                .await
                .map(drop);
        }
        let path = self.data.join("postgresql.auto.conf");
        let settings = fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
        // The last of several lines for the same parameter holds.
        self.tools.account.write(&path, &(settings + &setting("primary_conninfo", &conninfo)))?;
        self.tools.account.write(&self.data.join("standby.signal"), "")
    }

    /// The postmaster's process id; `None` when the server is not running.
    pub fn pid(&self) -> Option<Pid> {
        // A postmaster that ended by itself is reaped here, so that its id is never signalled later.
        match self.reap() {
            Ok(None) => self.lock().as_ref().map(Pid::from_child),
            _ => None,
        }
    }

    /// The server's data directory.
    pub fn data_directory(&self) -> &std::path::Path {
        &self.data
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Starts the server without waiting for it.
    pub(super) fn launch(&self) -> Result<(), SandboxError> {
        if self.pid().is_some() {
            return Err(SandboxError::AlreadyRunning { server: self.name.clone() });
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let mut log = log.doing(|| format!("open {}", self.log.display()))?;
        let both = writeln!(log, "--- start").and_then(|()| log.try_clone());
        let stderr = both.doing(|| format!("write {}", self.log.display()))?;
        let mut postgres = self.tools.server("postgres")?;
        postgres.arg("-D").arg(&self.data).stdout(log).stderr(stderr);
        // Not in our group: Ctrl-C on the terminal is for us to handle.
        postgres.process_group(0);
        let child = postgres.spawn().doing(|| format!("start the {} server", self.name))?;
        *self.lock() = Some(child);
        Ok(())
    }

    /// Waits until a launched server accepts connections.
    pub(super) async fn ready(&self) -> Result<(), SandboxError> {
        let deadline = Instant::now() + START_LIMIT;
        let server = || self.name.clone();
        while !self.says_ready() {
            if let Some(status) = self.reap()? {
                return Err(SandboxError::Exited { server: server(), status, log: self.log_tail() });
            }
            if Instant::now() > deadline {
                let seconds = START_LIMIT.as_secs();
                return Err(SandboxError::NotReady { server: server(), seconds, log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Where this server finds `primary`, as a libpq connection string.
    pub(super) fn conninfo(&self, primary: &Server) -> String {
        let socket_dir = primary.socket_dir.display();
        format!("host={socket_dir} port={} user={SUPERUSER} application_name={}", primary.port, self.name)
    }

    /// What `pg_ctl` looks at: line 1 of `postmaster.pid` is the process id and line 8 the state
    /// (`src/include/utils/pidfile.h`).
    fn says_ready(&self) -> bool {
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines();
        let pid = lines.next().and_then(|pid| pid.trim().parse::<u32>().ok());
        let state = lines.nth(6).map(str::trim);
        state == Some("ready") && pid.is_some() && pid == self.lock().as_ref().map(Child::id)
    }

    /// The exit status, once the server has ended; forgets it then.
    fn reap(&self) -> Result<Option<ExitStatus>, SandboxError> {
        let mut postmaster = self.lock();
        let Some(child) = postmaster.as_mut() else { return Ok(None) };
        let status = child.try_wait().doing(|| format!("wait for the {} server", self.name))?;
        if status.is_some() {
            *postmaster = None;
        }
        Ok(status)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.postmaster.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    /// The sandbox's directory goes first and ends its processes, so this only waits for our child.
    fn drop(&mut self) {
        if let Some(mut postmaster) = self.lock().take() {
            // Neither can fail for a child that nobody has waited for.
            let _ = postmaster.kill();
            let _ = postmaster.wait();
        }
    }
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Smart => Signal::TERM,
            Self::Fast => Signal::INT,
            Self::Immediate => Signal::QUIT,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// Percent-encodes everything that could end a part of a URL.
pub(super) fn encode(part: &str) -> String {
    percent_encoding::utf8_percent_encode(part, percent_encoding::NON_ALPHANUMERIC).to_string()
}
