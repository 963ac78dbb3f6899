//! Those that are compared: a way to the servers, with the process on that way.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use pgweir::sandbox::{ReservedPort, Target};

use crate::load::Workload;
use crate::options::Options;
use crate::setup::Setup;
use crate::{Result, pgbouncer, weir};

/// Who takes part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// pgbench straight to the primary
    Direct,
    /// Debian's pgbouncer
    Pgbouncer,
    /// The one given by --pgbouncer
    #[value(name = "other-pgbouncer")]
    OtherPgbouncer,
    /// pgweir before the primary alone
    Pgweir,
    /// pgweir with reads on the standbys
    #[value(name = "pgweir-replicas")]
    PgweirReplicas,
}

/// A running contender. Dropping it ends its process.
pub struct Contender {
    pub kind: Kind,
    /// What `--version` says, without the name; empty for none.
    version: String,
    /// Whether named statements survive a change of server connection.
    prepares: bool,
    /// `None`: there is nothing on the way.
    proxy: Option<Proxy>,
    pub target: Target,
}

/// A proxy's process and the port that it listens on.
struct Proxy {
    child: Child,
    port: ReservedPort,
}

/// A proxy to be started: how, and what is known about it.
pub struct Recipe {
    pub command: Command,
    pub version: String,
    pub prepares: bool,
}

const START_LIMIT: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(10);

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Pgbouncer => "pgbouncer",
            Self::OtherPgbouncer => "pgbouncer (other)",
            Self::Pgweir => "pgweir",
            Self::PgweirReplicas => "pgweir+replicas",
        }
    }

    pub fn is_proxy(self) -> bool {
        self != Self::Direct
    }
}

impl Contender {
    /// Starts it and waits until it listens.
    pub async fn start(kind: Kind, options: &Options, setup: &Setup) -> Result<Self> {
        let port = ReservedPort::new()?;
        let recipe = match kind {
            Kind::Direct => {
                return Ok(Self { kind, version: String::new(), prepares: true, proxy: None, target: setup.primary() });
            }
            Kind::Pgbouncer => {
                let path = pgbouncer::installed().ok_or("pgbouncer is not installed: apt-get install pgbouncer")?;
                pgbouncer::recipe(&path, port.get(), options, setup)?
            }
            Kind::OtherPgbouncer => {
                let path = options.pgbouncer.as_ref().ok_or("other-pgbouncer needs --pgbouncer PATH")?;
                pgbouncer::recipe(path, port.get(), options, setup)?
            }
            Kind::Pgweir => weir::recipe(port.get(), false, options, setup)?,
            Kind::PgweirReplicas => weir::recipe(port.get(), true, options, setup)?,
        };
        let target = setup.target(port.get());
        let proxy = Proxy::start(recipe.command, port, setup).await?;
        Ok(Self { kind, version: recipe.version, prepares: recipe.prepares, proxy: Some(proxy), target })
    }

    /// The name in the report.
    pub fn title(&self) -> String {
        format!("{} {}", self.kind.name(), self.version).trim_end().to_owned()
    }

    pub fn can_carry(&self, workload: Workload) -> bool {
        self.prepares || workload != Workload::SelectPrepared
    }

    /// The proxy's process id.
    pub fn pid(&self) -> Option<u32> {
        self.proxy.as_ref().map(|proxy| proxy.child.id())
    }
}

impl Proxy {
    /// The process works in the sandbox's directory, so that it ends with the sandbox however this
    /// one ends.
    async fn start(mut command: Command, port: ReservedPort, setup: &Setup) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        command.current_dir(setup.sandbox.directory()).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().map_err(|error| format!("could not start {program}: {error}"))?;
        let mut proxy = Self { child, port };
        let address = ("127.0.0.1", proxy.port.get());
        let deadline = Instant::now() + START_LIMIT;
        while tokio::net::TcpStream::connect(address).await.is_err() {
            if let Some(status) = proxy.child.try_wait()? {
                return Err(format!("{program} ended with {status} before it listened").into());
            }
            if Instant::now() > deadline {
                return Err(format!("{program} does not listen after {} s", START_LIMIT.as_secs()).into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Neither can fail for a child that nobody has waited for; there is nothing to save.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
