//! The directory of a sandbox and everything that runs in it.
//!
//! One rule says what belongs to a sandbox: *every process whose working directory lies under its
//! directory*. A PostgreSQL server changes into its data directory and its children inherit that,
//! so the rule also finds the backends of a server whose postmaster was killed.
//!
//! `watchdog.sh` cleans up by that rule: a shell that waits for the end of its standard input. [`Home`]
//! closes that when it is dropped; where nothing is dropped (the process was killed, or the sandbox
//! sits in a static), the kernel does. The alternative, a parent-death signal (`PR_SET_PDEATHSIG`), is
//! tied to the *thread* that started the child, and test threads end long before their process; it also
//! removes no directory.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::account::Account;
use super::error::{Doing, SandboxError};

/// Owns the directory of a sandbox; ends its processes and removes it when dropped.
#[derive(Debug)]
pub(super) struct Home {
    /// With all links followed, as the kernel names working directories.
    path: PathBuf,
    watchdog: Child,
}

/// `sun_path` has 108 bytes with the closing zero (unix(7)); `run/.s.PGSQL.65535` is 18 of them,
/// and the directory's own name and separators 12.
const LONGEST_PARENT: usize = 107 - 18 - 12;

/// The kernel may hold a killed process back for as long as a disk does; this bounds the wait.
const KILL_LIMIT: Duration = Duration::from_secs(5);

impl Home {
    /// Makes the directory under the system's temporary directory, or under `/tmp` where that one
    /// is too long for a socket's path or closed to the account.
    pub fn make(account: Account) -> Result<Self, SandboxError> {
        let parent = Some(std::env::temp_dir())
            .filter(|parent| parent.as_os_str().len() <= LONGEST_PARENT && account_can_pass(account, parent))
            .unwrap_or_else(|| PathBuf::from("/tmp"));
        let directory = tempfile::Builder::new()
            .prefix("pgw-")
            .tempdir_in(&parent)
            .doing(|| format!("make a directory in {}", parent.display()))?;
        account.let_through(directory.path())?;
        let path = directory.path().canonicalize().doing(|| "resolve the sandbox's directory".to_owned())?;
        let watchdog = start_watchdog(&path)?;
        let _ours_to_remove_from_here = directory.keep();
        Ok(Self { path, watchdog })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Home {
    /// Takes about as long as an immediate shutdown. Children of this process stay as zombies until they
    /// are waited for.
    fn drop(&mut self) {
        // `wait` closes the watchdog's standard input first.
        if let Err(error) = self.watchdog.wait() {
            tracing::warn!(%error, "could not wait for a sandbox's watchdog");
        }
        if self.path.exists() {
            tracing::warn!(directory = %self.path.display(), "could not remove a sandbox's directory");
        }
    }
}

/// Sends SIGKILL to every process whose working directory is `path` or below until none is left,
/// or for [`KILL_LIMIT`].
pub(super) fn kill_all_under(path: &Path) {
    let deadline = Instant::now() + KILL_LIMIT;
    while signal_under(path, Signal::KILL) > 0 && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Signals every process whose working directory is `path` or below; says how many there were.
pub(super) fn signal_under(path: &Path, signal: Signal) -> usize {
    let processes = processes_under(path);
    for &process in &processes {
        // One that has ended meanwhile needs no signal.
        let _ = kill_process(process, signal);
    }
    processes.len()
}

/// The living processes whose working directory is `path` or below (proc(5)). Zombies have none.
pub(super) fn processes_under(path: &Path) -> Vec<Pid> {
    let process = |entry: std::fs::DirEntry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let working_directory = std::fs::read_link(entry.path().join("cwd")).ok()?;
        working_directory.starts_with(path).then_some(pid)
    };
    std::fs::read_dir("/proc").into_iter().flatten().filter_map(|entry| process(entry.ok()?)).collect()
}

fn start_watchdog(path: &Path) -> Result<Child, SandboxError> {
    Command::new("/bin/sh")
        .args(["-c", include_str!("watchdog.sh"), "pgweir-sandbox-watchdog"])
        .arg(path)
        .current_dir("/")
        // Not in our group: Ctrl-C on the terminal is for us, and the watchdog outlives us.
        .process_group(0)
        .stdin(Stdio::piped())
        // It must not hold our output open for a reader who waits for its end.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .doing(|| "start /bin/sh as the sandbox's watchdog".to_owned())
}

/// Whether the servers' user may pass through every directory on the way.
fn account_can_pass(account: Account, directory: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let open = |ancestor: &Path| ancestor.metadata().is_ok_and(|data| data.permissions().mode() & 0o001 != 0);
    account == Account::Own || (directory.is_absolute() && directory.ancestors().all(open))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(directory: &Path) -> Child {
        Command::new("sleep").arg("600").current_dir(directory).spawn().unwrap()
    }

    #[test]
    fn dropping_ends_the_processes_and_removes_the_directory() {
        let home = Home::make(Account::Own).unwrap();
        let path = home.path().to_owned();
        let inside = path.join("inside");
        std::fs::create_dir(&inside).unwrap();
        let mut sleeper = sleeper(&inside);
        drop(home);
        assert!(!sleeper.wait().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn the_watchdog_cleans_up_when_its_maker_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mut watchdog = start_watchdog(&path).unwrap();
        let mut sleeper = sleeper(&path);
        // What the kernel does when a process ends, however it ends.
        drop(watchdog.stdin.take());
        assert!(!sleeper.wait().unwrap().success());
        assert!(watchdog.wait().unwrap().success());
        assert!(!path.exists());
    }

    #[test]
    fn only_processes_of_the_directory_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        let mut sleeper = sleeper(&path);
        let pid = Pid::from_child(&sleeper);
        assert_eq!(processes_under(&path), [pid]);
        assert_eq!(processes_under(&path.join("elsewhere")), []);
        kill_all_under(&path);
        assert!(!sleeper.wait().unwrap().success());
    }
}
