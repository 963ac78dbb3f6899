//! The one place that wires parts together: a configuration becomes listeners, pools, sessions, and
//! the watches beside them.

mod census;
mod error;
mod files;
mod layouts;
mod queried;
mod readiness;
mod reload;
mod roles;
mod shutdown;
mod snapshot;
mod tenants;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::JoinSet;

pub use error::StartError;
pub use shutdown::Drained;
pub use snapshot::{Snapshot, SnapshotError};

use crate::client::Lasting;
use crate::config::{Config, Listen};
use crate::listener::{self, ClientSocket, Door};
use crate::metrics::{self, Metrics, Ready};
use crate::session::{Shared, enforce_ceilings, leave_silent_replicas};
use census::DoorCensus;
use files::FilesNeeded;
use readiness::Readiness;
use roles::Snapshots;

/// Bytes that the classifier may use to remember what it found out about statements.
const CLASSIFIER_CACHE: usize = 16 << 20;

/// A running proxy. Dropping it ends everything at once; [`App::shutdown`] in order.
pub struct App {
    door: Arc<Door>,
    snapshots: Arc<Snapshots>,
    stopping: watch::Sender<bool>,
    lasting: Lasting,
    readiness: Arc<Readiness>,
    addresses: Vec<SocketAddr>,
    socket_path: Option<PathBuf>,
    metrics_address: Option<SocketAddr>,
    /// One task for each socket; its clients end with it.
    listeners: JoinSet<()>,
    watches: JoinSet<()>,
    http: JoinSet<()>,
    /// Completes when the metrics endpoint may close.
    http_ends: Option<oneshot::Sender<()>>,
}

impl App {
    /// Binds every address and begins to serve. Ports given as 0 are chosen: see [`Self::addresses`].
    /// Needs a runtime with I/O and time, and stays on it.
    ///
    /// Errors: an address that cannot be had, TLS files and accounts that cannot be used.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        files::raise_limit(FilesNeeded::of(&config));
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let lasting = Lasting::default();
        let sockets = bind(&config.listen)?;
        let http_listener = bind_http(&config).await?;
        let shared = Arc::new(Shared::new(metrics.clone(), CLASSIFIER_CACHE, config.log.statements));
        let handshake = snapshot::prepare(config, lasting.clone()).await?;
        let (snapshots, seen) = watch::channel(Arc::new(Snapshot::first(handshake, &metrics)));
        let (stopping, stops) = watch::channel(false);
        let door = Arc::new(Door::new(shared.clone(), seen, stops));
        metrics.set_census(Arc::new(DoorCensus(door.clone())));
        door.snapshot().warm();
        let mut app = Self {
            addresses: sockets.iter().filter_map(ClientSocket::address).collect(),
            socket_path: sockets.iter().find_map(ClientSocket::path).map(Path::to_owned),
            metrics_address: http_listener.as_ref().and_then(|listener| listener.local_addr().ok()),
            readiness: Arc::default(),
            listeners: JoinSet::new(),
            watches: JoinSet::new(),
            http: JoinSet::new(),
            http_ends: None,
            door,
            snapshots: Arc::new(Snapshots { current: snapshots, changing: Mutex::default() }),
            stopping,
            lasting,
        };
        app.watches.spawn(roles::follow(app.door.clone(), app.snapshots.clone()));
        app.watches.spawn(tenants::follow(app.door.clone(), app.snapshots.clone()));
        let door = app.door.clone();
        let replicas = move || {
            let snapshot = door.snapshot();
            snapshot.clusters().flat_map(|cluster| cluster.replicas.clone()).collect()
        };
        app.watches.spawn(leave_silent_replicas(shared.clone(), replicas));
        let door = app.door.clone();
        let hosts = move || {
            let snapshot = door.snapshot();
            snapshot.clusters().flat_map(|cluster| cluster.hosts().cloned().collect::<Vec<_>>()).collect()
        };
        app.watches.spawn(enforce_ceilings(shared, hosts));
        if let Some(listener) = http_listener {
            app.serve_http(listener, metrics);
        }
        for socket in sockets {
            app.listeners.spawn(listener::serve(socket, app.door.clone()));
        }
        Ok(app)
    }

    /// Where clients connect by TCP, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where clients of this machine connect.
    pub fn socket_path(&self) -> Option<&Path> {
        self.socket_path.as_deref()
    }

    /// Where `/metrics`, `/healthz` and `/readyz` are.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// Everything that `/metrics` shows, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.door.shared.metrics.render()
    }

    /// The configuration that holds now.
    pub fn config(&self) -> Arc<Config> {
        self.door.snapshot().config().clone()
    }

    /// Serves until `shutdown` completes, then ends in order.
    pub async fn run_until(self, shutdown: impl Future) -> Drained {
        shutdown.await;
        self.shutdown().await
    }

    fn serve_http(&mut self, listener: TcpListener, metrics: Arc<Metrics>) {
        let readiness = self.readiness.clone();
        self.watches.spawn(readiness::watch(readiness.clone(), self.door.clone()));
        let ready: Ready = Arc::new(move || readiness.get());
        let (ends, ended) = oneshot::channel::<()>();
        self.http_ends = Some(ends);
        self.http.spawn(metrics::serve(listener, metrics, ready, ended));
    }
}

/// The Unix socket bears the port of the first address, as it was bound.
fn bind(listen: &Listen) -> Result<Vec<ClientSocket>, StartError> {
    let tcp = |address: &SocketAddr| {
        ClientSocket::tcp(*address).map_err(|source| StartError::Listen { address: *address, source })
    };
    let mut sockets = listen.addresses.iter().map(tcp).collect::<Result<Vec<_>, _>>()?;
    let port = sockets.first().and_then(ClientSocket::address).map(|address| address.port());
    if let (Some(directory), Some(port)) = (&listen.unix_socket_dir, port) {
        let socket = ClientSocket::unix(directory, port)
            .map_err(|source| StartError::UnixSocket { directory: directory.clone(), source })?;
        sockets.push(socket);
    }
    Ok(sockets)
}

async fn bind_http(config: &Config) -> Result<Option<TcpListener>, StartError> {
    let Some(http) = &config.http else { return Ok(None) };
    match TcpListener::bind(http.address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(source) => Err(StartError::Http { address: http.address, source }),
    }
}

/// For the tests of what is wired together here.
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::config::from_env;

    /// Of a configuration whose server nobody has to reach.
    pub async fn snapshot(metrics: &Arc<Metrics>) -> Snapshot {
        let url = |name: &str| (name == "DATABASE_URL").then(|| "postgres://u:p@127.0.0.1:1/app".to_owned());
        let config = from_env(&url).expect("the environment is complete");
        Snapshot::first(snapshot::prepare(config, Lasting::default()).await.expect("nothing to load"), metrics)
    }
}
