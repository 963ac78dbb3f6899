//! Running the programs of a PostgreSQL installation for a sandbox.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use tokio::io::AsyncWriteExt;

use super::account::Account;
use super::error::{Doing, SandboxError};
use super::installation::Installation;

/// The installation, who runs its servers, and where.
#[derive(Debug, Clone)]
pub(super) struct Tools {
    pub installation: Installation,
    pub account: Account,
    /// The sandbox's directory: every program works in it or below, which is how its processes are
    /// known (see `home.rs`).
    pub directory: PathBuf,
}

impl Tools {
    /// A client program, run as ourselves.
    pub fn client(&self, program: &str) -> Result<Command, SandboxError> {
        let mut command = Command::new(self.installation.program(program)?);
        command.current_dir(&self.directory).stdin(Stdio::null());
        // PGHOST, PGOPTIONS, PGSSLMODE … of whoever runs us are about other servers.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        Ok(command)
    }

    /// A program of the server side, run as the servers' account.
    pub fn server(&self, program: &str) -> Result<Command, SandboxError> {
        let mut command = self.client(program)?;
        self.account.run(&mut command);
        Ok(command)
    }
}

/// Runs a program to its end and gives its standard output.
///
/// # Errors
/// [`SandboxError::Command`] with what it printed, when it did not succeed.
pub(super) async fn output(command: Command) -> Result<String, SandboxError> {
    output_of(command, "").await
}

/// As [`output`], with `input` on its standard input.
pub(super) async fn output_of(mut command: Command, input: &str) -> Result<String, SandboxError> {
    let program = command.get_program().to_string_lossy().into_owned();
    if !input.is_empty() {
        command.stdin(Stdio::piped());
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    // Whoever stops waiting (a test's timeout) does not want it to go on.
    let mut child = command.kill_on_drop(true).spawn().doing(|| format!("start {program}"))?;
    let stdin = child.stdin.take();
    // Both at once: a program that fills its output before it has read all input must not stall.
    let (_, output) = tokio::join!(
        async {
            if let Some(mut stdin) = stdin {
                // A program that ends early says why in its own output.
                let _ = stdin.write_all(input.as_bytes()).await;
            }
        },
        child.wait_with_output()
    );
    let output = output.doing(|| format!("wait for {program}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
    if output.status.success() {
        return Ok(text(&output.stdout));
    }
    let said = [text(&output.stdout), text(&output.stderr)].join("\n").trim().to_owned();
    Err(SandboxError::Command { program, status: output.status, output: said })
}
