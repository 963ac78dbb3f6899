//! Throw-away PostgreSQL clusters: a primary and streaming hot standbys in a temporary directory,
//! for `pgweir demo`, the tests and the benches.
//!
//! ```no_run
//! # async fn example() -> Result<(), pgweir::sandbox::SandboxError> {
//! use pgweir::sandbox::{Sandbox, SandboxOptions};
//!
//! let sandbox = Sandbox::start(SandboxOptions { replicas: 2, ..Default::default() }).await?;
//! sandbox.primary().psql("CREATE TABLE t AS SELECT 1 AS x").await?;
//! sandbox.wait_replayed().await?;
//! assert_eq!(sandbox.replicas()[1].psql("SELECT x FROM t").await?, "1");
//! # Ok(()) }
//! ```
//!
//! Everything is gone when the [`Sandbox`] is dropped, and also when the process that made it is
//! killed (`home.rs` tells how). Started as root, the servers run as `postgres` or `nobody`.
//! Any number of sandboxes, in any number of processes, may live side by side (`port.rs`).

mod account;
mod certificates;
mod error;
mod home;
mod installation;
mod passwords;
mod port;
mod server;
mod sql;
mod tools;
mod users;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use certificates::{Certificates, Identity};
pub use error::SandboxError;
pub use installation::Installation;
pub use port::ReservedPort;
pub use server::{SUPERUSER, Server, StopMode};
pub use users::{Login, User};

use account::Account;
use error::Doing;
use home::Home;
use passwords::Passwords;
use sql::setting;
use tools::Tools;

/// What to start.
#[derive(Debug, Clone)]
pub struct SandboxOptions {
    /// Streaming hot standbys beside the primary.
    pub replicas: usize,
    /// Server parameters, for every server; they win over the sandbox's own.
    pub settings: Vec<(String, String)>,
    /// Lines for `pg_hba.conf`, before the sandbox's own.
    pub hba: Vec<String>,
    /// Makes [`Certificates`] and turns `ssl` on.
    pub tls: bool,
    /// `max_connections` of every server.
    pub max_connections: u32,
    /// Users to make; more can be made later by [`Sandbox::create_users`] or plain SQL.
    pub users: Vec<User>,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self { replicas: 0, settings: Vec::new(), hba: Vec::new(), tls: false, max_connections: 200, users: Vec::new() }
    }
}

/// A running primary with its standbys. Dropping it ends the servers and removes their files.
pub struct Sandbox {
    /// Comes first, so that it is dropped first: it ends all servers at once, then each is waited for.
    home: Home,
    /// The primary first.
    servers: Vec<Server>,
    passwords: Arc<Passwords>,
    certificates: Option<Certificates>,
    tools: Tools,
}

/// How long [`Sandbox::wait_replayed`] waits for one standby.
const REPLAY_LIMIT: Duration = Duration::from_secs(60);

impl Sandbox {
    /// Makes and starts the servers, about a second's work, and waits until all accept connections.
    ///
    /// # Errors
    /// [`SandboxError::NotInstalled`] where there is no PostgreSQL; otherwise what failed, with
    /// the server's log. Nothing stays behind then, nor when the future is dropped half-way.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let mut sandbox = Self::prepare(&options)?;
        sandbox.make_data_directories(&options).await?;
        for server in &sandbox.servers {
            server.launch()?;
        }
        for server in &sandbox.servers {
            server.ready().await?;
        }
        sandbox.primary().psql(&users::create_groups()).await?;
        sandbox.create_users(&options.users).await?;
        Ok(sandbox)
    }

    /// The server that started as primary, whatever has been promoted since.
    pub fn primary(&self) -> &Server {
        &self.servers[0]
    }

    /// The servers that started as standbys.
    pub fn replicas(&self) -> &[Server] {
        &self.servers[1..]
    }

    /// All servers, the primary first.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// The sandbox's directory. Files that are put here are removed with it.
    pub fn directory(&self) -> &Path {
        self.home.path()
    }

    /// The programs that it runs.
    pub fn installation(&self) -> &Installation {
        &self.tools.installation
    }

    /// The authority and the servers' certificate, where `tls` was asked for.
    pub fn certificates(&self) -> Option<&Certificates> {
        self.certificates.as_ref()
    }

    /// The authority's certificate as a file, where `tls` was asked for.
    pub fn authority_file(&self) -> Option<PathBuf> {
        self.certificates.as_ref().map(|_| self.home.path().join("tls/authority.crt"))
    }

    /// Makes users on the primary and waits until the standbys know them.
    pub async fn create_users(&self, users: &[User]) -> Result<(), SandboxError> {
        let sql: String = users.iter().map(User::create).collect();
        self.primary().psql(&sql).await?;
        for user in users {
            self.passwords.remember(user);
        }
        self.wait_replayed().await
    }

    /// Waits until every running standby shows all that the primary has committed before this call.
    pub async fn wait_replayed(&self) -> Result<(), SandboxError> {
        let wanted = self.primary().psql("SELECT pg_current_wal_flush_lsn()").await?;
        for replica in self.replicas().iter().filter(|replica| replica.pid().is_some()) {
            wait_replayed(replica, &wanted).await?;
        }
        Ok(())
    }

    /// Everything that needs no server program: the directory, the ports, the certificates.
    fn prepare(options: &SandboxOptions) -> Result<Self, SandboxError> {
        let installation = Installation::find()?;
        let account = Account::for_this_process()?;
        let home = Home::make(account)?;
        let tools = Tools { installation, account, directory: home.path().to_owned() };
        let passwords = Arc::new(Passwords::default());
        account.make_directory(&home.path().join("run"))?;
        let certificates = options.tls.then(Certificates::generate).transpose()?;
        if let Some(certificates) = &certificates {
            write_certificates(certificates, account, home.path())?;
        }
        let names = std::iter::once("primary".to_owned()).chain((1..=options.replicas).map(|n| format!("replica{n}")));
        let servers = names.map(|name| Server::new(name, tools.clone(), passwords.clone()));
        let servers = servers.collect::<Result<_, _>>()?;
        Ok(Self { home, servers, passwords, certificates, tools })
    }

    /// `initdb` for the primary, and a copy for each standby: before its first start a cluster is a
    /// complete and consistent backup of itself, so this is what `pg_basebackup` would give, sooner.
    async fn make_data_directories(&mut self, options: &SandboxOptions) -> Result<(), SandboxError> {
        let superuser = User::new(SUPERUSER, format!("{:032x}", rand::random::<u128>()));
        self.passwords.remember(&superuser);
        initdb(&self.tools, self.primary().data_directory(), &superuser.password).await?;
        for replica in self.replicas() {
            self.tools.account.make_directory(replica.data_directory())?;
            let mut copy = Command::new("cp");
            copy.arg("-Rp").arg(self.primary().data_directory().join(".")).arg(replica.data_directory());
            copy.current_dir(self.home.path()).stdin(Stdio::null());
            self.tools.account.run(&mut copy);
            tools::output(copy).await?;
        }
        for server in &self.servers {
            self.configure(server, options)?;
        }
        Ok(())
    }

    fn configure(&self, server: &Server, options: &SandboxOptions) -> Result<(), SandboxError> {
        let write = |file: &str, content: &str| self.tools.account.write(&server.data_directory().join(file), content);
        let mut settings = own_settings(server, options);
        if options.tls {
            let tls = self.home.path().join("tls");
            settings.push(("ssl", "on".to_owned()));
            for (name, file) in
                [("ssl_ca_file", "authority.crt"), ("ssl_cert_file", "server.crt"), ("ssl_key_file", "server.key")]
            {
                settings.push((name, tls.join(file).display().to_string()));
            }
        }
        let given = options.settings.iter().map(|(name, value)| (name.as_str(), value.clone()));
        let settings: String = settings.into_iter().chain(given).map(|(name, value)| setting(name, &value)).collect();
        write("postgresql.conf", &settings)?;
        write("pg_hba.conf", &users::hba(&options.hba, options.tls))?;
        if !std::ptr::eq(server, self.primary()) {
            write("postgresql.auto.conf", &setting("primary_conninfo", &server.conninfo(self.primary())))?;
            write("standby.signal", "")?;
        }
        Ok(())
    }
}

async fn initdb(tools: &Tools, data: &Path, password: &str) -> Result<(), SandboxError> {
    let password_file = tools.directory.join("password");
    tools.account.write(&password_file, password)?;
    // The servers' user may not write in the sandbox's directory itself.
    tools.account.make_directory(data)?;
    let mut initdb = tools.server("initdb")?;
    initdb
        .args(["--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C.UTF-8"])
        .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--username", SUPERUSER])
        .arg("--pwfile")
        .arg(&password_file)
        .arg("--pgdata")
        .arg(data);
    tools::output(initdb).await?;
    std::fs::remove_file(&password_file).doing(|| format!("remove {}", password_file.display()))
}

/// Small, quick and deterministic; durability is what throw-away servers can do without.
fn own_settings(server: &Server, options: &SandboxOptions) -> Vec<(&'static str, String)> {
    let mut settings: Vec<(&'static str, String)> = vec![
        ("cluster_name", server.name.clone()),
        ("listen_addresses", "127.0.0.1".to_owned()),
        ("port", server.port.to_string()),
        ("unix_socket_directories", server.socket_dir.display().to_string()),
        ("max_connections", options.max_connections.to_string()),
    ];
    let fixed = [
        ("shared_buffers", "32MB"),
        // In files of ours, where a killed server leaves nothing behind in /dev/shm.
        ("dynamic_shared_memory_type", "mmap"),
        ("fsync", "off"),
        ("full_page_writes", "off"),
        ("timezone", "UTC"),
        ("log_timezone", "UTC"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
        ("password_encryption", "scram-sha-256"),
        // Replication: quick to follow, quick to come back, and enough WAL for a standby that was away.
        ("wal_level", "replica"),
        ("wal_keep_size", "512MB"),
        ("max_wal_senders", "10"),
        ("hot_standby", "on"),
        ("hot_standby_feedback", "on"),
        ("wal_receiver_status_interval", "1s"),
        ("wal_retrieve_retry_interval", "100ms"),
        // A read on a standby may hold replay up for this long; then it is cancelled (40001).
        ("max_standby_streaming_delay", "5s"),
    ];
    settings.extend(fixed.map(|(name, value)| (name, value.to_owned())));
    settings
}

fn write_certificates(certificates: &Certificates, account: Account, home: &Path) -> Result<(), SandboxError> {
    let directory = home.join("tls");
    account.make_directory(&directory)?;
    account.write(&directory.join("authority.crt"), &certificates.authority)?;
    account.write(&directory.join("server.crt"), &certificates.server.certificate)?;
    account.write(&directory.join("server.key"), &certificates.server.key)
}

async fn wait_replayed(replica: &Server, wanted: &str) -> Result<(), SandboxError> {
    let question = format!("SELECT pg_last_wal_replay_lsn(), pg_last_wal_replay_lsn() >= '{wanted}'");
    let deadline = Instant::now() + REPLAY_LIMIT;
    loop {
        let answer = replica.psql(&question).await?;
        let (replayed, enough) = answer.split_once('|').unwrap_or_default();
        if enough == "t" {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(SandboxError::NotReplayed {
                server: replica.name.clone(),
                replayed: replayed.to_owned(),
                wanted: wanted.to_owned(),
                seconds: REPLAY_LIMIT.as_secs(),
            });
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
