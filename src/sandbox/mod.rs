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
mod initialize;
mod installation;
mod latencies;
mod passwords;
mod pgbench;
mod port;
mod postmaster;
mod server;
mod sql;
mod statistics;
mod tools;
mod users;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use certificates::{Certificates, Identity};
pub use error::SandboxError;
pub use installation::Installation;
pub use latencies::Latencies;
pub use pgbench::{Load, PgbenchReport, Protocol, Script, Target};
pub use port::ReservedPort;
pub use postmaster::StopMode;
pub use rcgen::DnType;
pub use server::{SUPERUSER, Server};
pub use statistics::StatementCount;
pub use users::{Login, User};

use account::Account;
use home::Home;
use passwords::Passwords;
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
    /// Loads `pg_stat_statements` (of PostgreSQL's contrib, part of Debian's package), for
    /// [`Server::statement_counts`].
    pub statement_statistics: bool,
    /// Users to make; more can be made later by [`Sandbox::create_users`] or plain SQL.
    pub users: Vec<User>,
}

impl Default for SandboxOptions {
    fn default() -> Self {
        Self {
            replicas: 0,
            settings: Vec::new(),
            hba: Vec::new(),
            tls: false,
            max_connections: 200,
            statement_statistics: false,
            users: Vec::new(),
        }
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
        let sandbox = Self::prepare(&options)?;
        let superuser = User::new(SUPERUSER, format!("{:032x}", rand::random::<u128>()));
        initialize::data_directories(&sandbox.tools, &sandbox.servers, &superuser.password, &options).await?;
        sandbox.passwords.remember(&superuser);
        for server in &sandbox.servers {
            server.postmaster().launch()?;
        }
        for server in &sandbox.servers {
            server.postmaster().ready().await?;
        }
        sandbox.primary().psql(&users::create_groups()).await?;
        if options.statement_statistics {
            sandbox.primary().psql("CREATE EXTENSION pg_stat_statements").await?;
        }
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
        self.certificates.as_ref().map(|_| self.home.path().join(initialize::AUTHORITY))
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
            initialize::tls_files(certificates, account, home.path())?;
        }
        let names = std::iter::once("primary".to_owned()).chain((1..=options.replicas).map(|n| format!("replica{n}")));
        let servers = names.map(|name| Server::new(name, tools.clone(), passwords.clone()));
        let servers = servers.collect::<Result<_, _>>()?;
        Ok(Self { home, servers, passwords, certificates, tools })
    }
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
