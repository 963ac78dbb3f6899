//! PgBouncer with the settings that make it do what pgweir does in the comparison.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::contender::Recipe;
use crate::options::Options;
use crate::setup::{DATABASE, IDLE_USER, LOAD_USER, Setup};

/// Where Debian puts it, or the PATH says.
pub fn installed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.map(|place| place.join("pgbouncer")).find(|file| file.is_file())
}

/// How to start one on a port.
pub fn recipe(program: &Path, port: u16, options: &Options, setup: &Setup) -> Result<Recipe> {
    let version = version(program)?;
    let prepares = number(&version) >= PREPARES_SINCE;
    let files = Files::write(port, prepares, options, setup)?;
    let mut command = Command::new(program);
    command.arg("--quiet").arg(&files.ini);
    // PgBouncer refuses to run as root, as PostgreSQL does; the servers' account serves for both.
    if rustix::process::geteuid().is_root() {
        command.uid(files.uid).gid(files.gid);
    }
    Ok(Recipe { command, version, prepares })
}

/// The first with `max_prepared_statements`: 1.21.
const PREPARES_SINCE: (u32, u32) = (1, 21);

/// Its configuration in the sandbox's directory.
struct Files {
    ini: PathBuf,
    uid: u32,
    gid: u32,
}

impl Files {
    fn write(port: u16, prepares: bool, options: &Options, setup: &Setup) -> Result<Self> {
        let directory = setup.sandbox.directory();
        let owner = std::fs::metadata(setup.sandbox.primary().data_directory())?;
        let (uid, gid) = (owner.uid(), owner.gid());
        let write = |extension: &str, content: String| -> Result<PathBuf> {
            let path = directory.join(format!("pgbouncer-{port}.{extension}"));
            std::fs::write(&path, content)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
            chown(&path, Some(uid), Some(gid))?;
            Ok(path)
        };
        let users = write("users", format!("\"{LOAD_USER}\" \"\"\n\"{IDLE_USER}\" \"{}\"\n", setup.password))?;
        let lines = [
            format!("host all {LOAD_USER} 127.0.0.1/32 trust"),
            format!("host all {IDLE_USER} 127.0.0.1/32 scram-sha-256"),
        ];
        let hba = write("hba", lines.join("\n") + "\n")?;
        let max_prepared = if prepares { "max_prepared_statements = 200\n" } else { "" };
        let ini = format!(
            "[databases]\n\
             {DATABASE} = host=127.0.0.1 port={server}\n\
             [pgbouncer]\n\
             listen_addr = 127.0.0.1\n\
             listen_port = {port}\n\
             unix_socket_dir =\n\
             pool_mode = transaction\n\
             default_pool_size = {pool}\n\
             max_client_conn = {clients}\n\
             auth_type = hba\n\
             auth_hba_file = {hba}\n\
             auth_file = {users}\n\
             log_connections = 0\n\
             log_disconnections = 0\n\
             {max_prepared}",
            server = setup.sandbox.primary().port,
            pool = options.pool,
            clients = options.most_idle_clients() + 1000,
            hba = hba.display(),
            users = users.display(),
        );
        Ok(Self { ini: write("ini", ini)?, uid, gid })
    }
}

/// `1.18.0` from `PgBouncer 1.18.0`, the first line that `--version` prints.
fn version(program: &Path) -> Result<String> {
    let shown = program.display();
    let output = Command::new(program).arg("--version").output();
    let output = output.map_err(|error| format!("could not run {shown} --version: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().and_then(|line| line.strip_prefix("PgBouncer "));
    Ok(version.ok_or_else(|| format!("{shown} --version does not name a PgBouncer: {text}"))?.trim().to_owned())
}

fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}
