//! The processes of one server: its postmaster, as a child of this process, and the backends below it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::error::{Doing, SandboxError};
use super::home::{kill_all_under, signal_under};
use super::tools::Tools;

/// Starts and ends the server of one data directory. `postgres` runs in the foreground, not under
/// `pg_ctl`, so that its process id is ours to signal and to wait for.
#[derive(Debug)]
pub(super) struct Postmaster {
    /// The server's name, for errors.
    name: String,
    data: PathBuf,
    log: PathBuf,
    tools: Tools,
    child: Mutex<Option<Child>>,
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

/// A loaded machine takes its time; these only bound the wait for a server that hangs.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(5);

impl Postmaster {
    /// Nothing runs yet; the data directory `<sandbox>/<name>` is still to be made.
    pub fn new(name: &str, tools: &Tools) -> Self {
        Self {
            name: name.to_owned(),
            data: tools.directory.join(name),
            log: tools.directory.join(format!("{name}.log")),
            tools: tools.clone(),
            child: Mutex::new(None),
        }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Starts the server without waiting for it.
    pub fn launch(&self) -> Result<(), SandboxError> {
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
    pub async fn ready(&self) -> Result<(), SandboxError> {
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

    /// Shuts the server down and waits until it is gone.
    pub async fn stop(&self, mode: StopMode) -> Result<(), SandboxError> {
        self.signal(mode.signal())?;
        let deadline = Instant::now() + STOP_LIMIT;
        while self.pid().is_some() {
            if Instant::now() > deadline {
                let (server, seconds) = (self.name.clone(), STOP_LIMIT.as_secs());
                return Err(SandboxError::NotStopped { server, seconds, mode: mode.name(), log: self.log_tail() });
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Kills the postmaster and every backend.
    pub fn kill(&self) -> Result<(), SandboxError> {
        let mut child = self.lock().take().ok_or_else(|| self.not_running())?;
        // The postmaster first, or it would see backends die and begin to recover.
        child.kill().doing(|| format!("kill the {} server", self.name))?;
        kill_all_under(&self.data);
        child.wait().doing(|| format!("wait for the {} server", self.name))?;
        Ok(())
    }

    /// Signals the postmaster and then every backend.
    pub fn signal_all(&self, signal: Signal) -> Result<(), SandboxError> {
        // One that is stopped first makes no new processes to miss.
        self.signal(signal)?;
        signal_under(&self.data, signal);
        Ok(())
    }

    /// `None` when the server is not running.
    pub fn pid(&self) -> Option<Pid> {
        // A postmaster that ended by itself is reaped here, so that its id is never signalled later.
        match self.reap() {
            Ok(None) => self.lock().as_ref().map(Pid::from_child),
            _ => None,
        }
    }

    fn signal(&self, signal: Signal) -> Result<(), SandboxError> {
        let pid = self.pid().ok_or_else(|| self.not_running())?;
        kill_process(pid, signal).doing(|| format!("signal the {} server", self.name))
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
        let mut child = self.lock();
        let Some(running) = child.as_mut() else { return Ok(None) };
        let status = running.try_wait().doing(|| format!("wait for the {} server", self.name))?;
        if status.is_some() {
            *child = None;
        }
        Ok(status)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn not_running(&self) -> SandboxError {
        SandboxError::NotRunning { server: self.name.clone() }
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Postmaster {
    /// The sandbox's directory goes first and ends its processes, so this only waits for our child.
    fn drop(&mut self) {
        if let Some(mut child) = self.lock().take() {
            // Neither can fail for a child that nobody has waited for.
            let _ = child.kill();
            let _ = child.wait();
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
