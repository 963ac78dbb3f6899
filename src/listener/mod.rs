//! Accepts clients, on every TCP address and on the Unix socket, and gives each a task of its own.

mod admission;
mod client;
mod console;
mod places;
mod socket;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};

pub use places::Places;
pub use socket::ClientSocket;

use crate::app::Snapshot;
use crate::net::Stream;
use crate::session::{FindTenant, Shared};

/// After a failed accept that is for want of something: the connection is still in the backlog, and
/// accepting it again at once would fail again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Between two lines in the log about the same trouble.
const QUIET: Duration = Duration::from_secs(5);

/// What every client comes through.
pub struct Door {
    pub shared: Arc<Shared>,
    pub places: Arc<Places>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    stopping: watch::Receiver<bool>,
    last_connection: AtomicU64,
}

impl Door {
    /// `stopping` turns true when no more clients are wanted.
    pub fn new(
        shared: Arc<Shared>,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self { shared, snapshots, stopping, places: Arc::default(), last_connection: AtomicU64::new(0) }
    }

    /// The configuration that holds for a client who comes now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Finds tenants for a session that may name one.
    fn find_tenant(&self) -> FindTenant {
        let snapshots = self.snapshots.clone();
        Arc::new(move |name| snapshots.borrow().find(name))
    }

    /// Returns once no more clients are wanted.
    async fn stops(&self) {
        // The sender lives as long as the proxy; without it there is nothing to wait for either.
        let _ = self.stopping.clone().wait_for(|stopping| *stopping).await;
    }

    fn next_connection(&self) -> u64 {
        self.last_connection.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// Serves the clients of one socket. After `stopping` it accepts no more, and returns when its last
/// client has left. Dropping it ends all of them.
pub async fn serve(socket: ClientSocket, door: Arc<Door>) {
    let mut clients = JoinSet::new();
    let mut trouble = Trouble::default();
    let stops = door.stops();
    tokio::pin!(stops);
    loop {
        tokio::select! {
            () = &mut stops => break,
            accepted = socket.accept() => match accepted {
                Ok(stream) => receive(stream, &door, &mut clients, &mut trouble),
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    trouble.tell(|| tracing::error!(%error, "cannot accept a client connection"));
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = clients.join_next() => note_end(ended),
        }
    }
    drop(socket);
    while let Some(ended) = clients.join_next().await {
        note_end(ended);
    }
}

fn receive(stream: Stream, door: &Arc<Door>, clients: &mut JoinSet<()>, trouble: &mut Trouble) {
    let metrics = &door.shared.metrics;
    metrics.client_accepted();
    let snapshot = door.snapshot();
    let listen = &snapshot.config().listen;
    match door.places.enter(listen) {
        Some(entry) => drop(clients.spawn(client::serve(door.clone(), stream, entry))),
        None => {
            metrics.client_refused("max_unauthenticated");
            trouble.tell(|| {
                tracing::warn!(
                    limit = listen.max_unauthenticated,
                    "connections are closed: too many have not finished authentication ([listen] max_unauthenticated)"
                );
            });
        }
    }
}

/// A connection that failed before it was accepted concerns nobody else (accept(2)).
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | Interrupted)
}

/// A panic ends its own client only. What it said is in the log already, by the process's panic hook.
fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a client's task has panicked; its connections are closed");
    }
}

/// Keeps one cause from filling the log.
#[derive(Default)]
struct Trouble {
    told: Option<Instant>,
}

impl Trouble {
    fn tell(&mut self, line: impl FnOnce()) {
        if self.told.is_none_or(|told| told.elapsed() >= QUIET) {
            self.told = Some(Instant::now());
            line();
        }
    }
}
