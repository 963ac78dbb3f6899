//! The servers behind everybody, and who logs in.

use pgweir::sandbox::{Login, Sandbox, SandboxOptions, Target, User};

use crate::Result;
use crate::options::Options;

/// The primary, its standbys, and pgbench's tables on them.
pub struct Setup {
    pub sandbox: Sandbox,
    /// Of [`IDLE_USER`].
    pub password: String,
}

/// Loads the servers. Trusted by the proxies as well as by the servers: a SCRAM login costs as much as
/// some hundred transactions, and a load of seconds would measure it with them.
pub const LOAD_USER: &str = "load";

/// Stays idle; logs in to the proxies by SCRAM-SHA-256, as clients do.
pub const IDLE_USER: &str = "idle";

pub const DATABASE: &str = "postgres";

impl Setup {
    /// Starts the servers and fills the tables.
    pub async fn start(options: &Options, replicas: bool) -> Result<Self> {
        let password = "a password of no value".to_owned();
        let users = [LOAD_USER, IDLE_USER].map(|name| User::new(name, &password).login(Login::Trust));
        let settings = [("shared_buffers", "512MB"), ("max_wal_size", "4GB"), ("checkpoint_timeout", "30min")];
        let sandbox = Sandbox::start(SandboxOptions {
            replicas: if replicas { options.replicas } else { 0 },
            settings: settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
            max_connections: 500,
            users: users.into(),
            ..Default::default()
        })
        .await?;
        let setup = Self { sandbox, password };
        setup.fill(options.scale).await?;
        Ok(setup)
    }

    /// The primary itself.
    pub fn primary(&self) -> Target {
        self.target(self.sandbox.primary().port)
    }

    /// Whoever listens on a port of this machine, for the user that loads.
    pub fn target(&self, port: u16) -> Target {
        Target {
            host: "127.0.0.1".to_owned(),
            port,
            user: LOAD_USER.to_owned(),
            password: self.password.clone(),
            database: DATABASE.to_owned(),
        }
    }

    async fn fill(&self, scale: u32) -> Result<()> {
        let primary = self.sandbox.primary();
        // From PostgreSQL 15 on, only the owner may create in the schema `public`.
        primary.psql(&format!("GRANT CREATE ON SCHEMA public TO {LOAD_USER}")).await?;
        self.sandbox.pgbench_initialize(&self.primary(), scale).await?;
        primary.psql(&format!("GRANT SELECT ON pgbench_accounts TO {IDLE_USER}; CHECKPOINT")).await?;
        Ok(self.sandbox.wait_replayed().await?)
    }
}
