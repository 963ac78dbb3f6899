//! A PostgreSQL of the test's own, shared by the tests that run at the same time and stopped
//! behind the last of them. (The sandbox will take this over.)

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Weak};

use pgweir::config::{HostAddress, HostConfig, ServerTls, SslMode};

use crate::certificates::Certificates;

/// One line for each way to log in: users are named after the method that they must use.
const HBA: &str = "\
local all all trust
hostssl all only_tls 127.0.0.1/32 trust
hostnossl all only_plain 127.0.0.1/32 trust
hostssl all certified 127.0.0.1/32 cert
host all scram 127.0.0.1/32 scram-sha-256
host all md5 127.0.0.1/32 md5
host all cleartext 127.0.0.1/32 password
host all trusted 127.0.0.1/32 trust
";

const USERS: &str = "\
CREATE ROLE scram LOGIN PASSWORD 'right';
CREATE ROLE cleartext LOGIN PASSWORD 'right';
SET password_encryption = md5;
CREATE ROLE md5 LOGIN PASSWORD 'right';
CREATE ROLE only_tls LOGIN;
CREATE ROLE only_plain LOGIN;
CREATE ROLE certified LOGIN;
CREATE ROLE trusted LOGIN;
";

pub struct Postgres {
    dir: tempfile::TempDir,
    pub certificates: Certificates,
    pub port: u16,
}

impl Postgres {
    /// The server that is running, or a new one.
    pub fn shared() -> Arc<Self> {
        static RUNNING: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut running = RUNNING.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        running.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start());
            *running = Arc::downgrade(&server);
            server
        })
    }

    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let certificates = Certificates::for_clients(&["certified", "other"]);
        // The port is free now; nobody else is likely to take it before the server does.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { dir, certificates, port };
        server.own(server.dir.path());
        server.run(
            "initdb",
            &["-D", &server.data(), "-A", "trust", "-U", "postgres", "--no-sync", "-E", "UTF8", "--locale=C"],
        );
        server.configure();
        server.run(
            "pg_ctl",
            &["-D", &server.data(), "-w", "-l", &format!("{}/log", server.dir.path().display()), "start"],
        );
        server.run("psql", &["-h", &server.socket_dir(), "-p", &port.to_string(), "-U", "postgres", "-q", "-c", USERS]);
        server
    }

    fn configure(&self) {
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{}'\nfsync = off\nssl = on\n",
            self.port,
            self.socket_dir()
        );
        for (setting, name) in
            [("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key"), ("ssl_ca_file", "ca.crt")]
        {
            let copy = self.dir.path().join(name);
            std::fs::copy(self.certificates.path(name), &copy).unwrap();
            self.own(&copy);
            writeln!(settings, "{setting} = '{}'", copy.display()).unwrap();
        }
        let data = PathBuf::from(self.data());
        std::fs::write(data.join("postgresql.auto.conf"), settings).unwrap();
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
    }

    fn data(&self) -> String {
        format!("{}/data", self.dir.path().display())
    }

    fn socket_dir(&self) -> String {
        self.dir.path().display().to_string()
    }

    /// Over TCP as `localhost`, which the server's certificate names, in a mode.
    pub fn tcp(&self, mode: SslMode) -> HostConfig {
        let tls = ServerTls { mode, root_cert: Some(self.certificates.path("ca.crt")), cert: None, key: None };
        let address = HostAddress::Tcp { host: "localhost".to_owned(), port: self.port };
        HostConfig { name: "test".to_owned(), address, tls, max_server_connections: None }
    }

    pub fn unix(&self) -> HostConfig {
        let path = self.dir.path().join(format!(".s.PGSQL.{}", self.port));
        HostConfig { address: HostAddress::Unix(path), ..self.tcp(SslMode::Require) }
    }

    fn own(&self, path: &Path) {
        if is_root() {
            assert!(Command::new("chown").arg("postgres").arg(path).status().unwrap().success());
        }
    }

    /// Runs one of PostgreSQL's programs, as its user where we are root (initdb refuses root).
    fn run(&self, program: &str, arguments: &[&str]) {
        let program = programs().join(program);
        let mut command = if is_root() {
            let mut command = Command::new("runuser");
            command.args(["-u", "postgres", "--"]).arg(&program);
            command
        } else {
            Command::new(&program)
        };
        // A server that inherits our output keeps the test runner waiting.
        let status = command.args(arguments).current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.unwrap().success(), "{} {arguments:?}", program.display());
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.run("pg_ctl", &["-D", &self.data(), "-w", "-m", "immediate", "stop"]);
    }
}

/// Runs psql until it is logged in. `Ok("in\n")`, or what it complained about.
pub async fn psql(conninfo: &str, password: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new(programs().join("psql"));
    command
        .args(["-X", "-w", "-d", conninfo, "-c", r"\echo in"])
        .env("PGPASSWORD", password)
        .env("PGCONNECT_TIMEOUT", "30");
    let output = command.stdin(Stdio::null()).output().await.unwrap();
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

/// Where Debian keeps PostgreSQL's programs, the newest version first.
fn programs() -> PathBuf {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().expect("no PostgreSQL found: apt-get install postgresql")
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
