//! `pgweir run` as a process of its own: its memory can be weighed, its log read, and signals sent to it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The bound is for a test that would hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// Killed when it is dropped.
pub struct Process {
    /// For clients, on 127.0.0.1.
    pub port: u16,
    /// Its configuration's file.
    pub config: PathBuf,
    child: Child,
    log: Receiver<String>,
    _directory: tempfile::TempDir,
}

impl Process {
    /// Starts it with this configuration, on a free port, and waits until it accepts clients.
    pub fn start(config_toml: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("pgweir.toml");
        fs::write(&config, config_toml).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgweir"))
            .args(["run", "--listen", "127.0.0.1:0", "--config"])
            .arg(&config)
            .env_remove("RUST_LOG")
            .env("RUST_BACKTRACE", "1")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let (send, log) = channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| send.send(line)));
        let port = port(&log);
        Self { port, config, child, log, _directory: directory }
    }

    /// Resident memory in bytes (`VmRSS` of proc(5)).
    pub fn resident(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes: usize = line.trim().trim_end_matches(" kB").parse().unwrap();
        kilobytes << 10
    }

    /// The next line of the log that holds this.
    pub fn line(&self, part: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = Vec::new();
        while let Ok(line) = self.log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?} in the log:\n{}", seen.join("\n"))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// How it has ended, once it has.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Fails when it has ended, or when one of its tasks has panicked.
    pub fn assert_sound(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("pgweir has ended: {status}\n{}", self.log.try_iter().collect::<Vec<_>>().join("\n"));
        }
        let lines: Vec<_> = self.log.try_iter().collect();
        assert!(!lines.iter().any(|line| line.contains("panicked at")), "a panic:\n{}", lines.join("\n"));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn port(log: &Receiver<String>) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    let mut seen = Vec::new();
    while let Ok(line) = log.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        if line.contains("pgweir accepts clients")
            && let Some(address) = line.split("127.0.0.1:").nth(1)
        {
            return address.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap();
        }
        seen.push(line);
    }
    panic!("pgweir does not accept clients:\n{}", seen.join("\n"))
}
