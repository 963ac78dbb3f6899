//! One client's task, from accept to close, and its lines in the log.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::Door;
use super::admission::{Admitted, Newcomer, Walsender, admit};
use super::places::Entry;
use crate::net::Stream;
use crate::session::{Session, replication};
use crate::wire::error::PgError;

/// Serves one client. Dropping the future closes its connections.
pub(super) async fn serve(door: Arc<Door>, stream: Stream, entry: Entry) {
    let connection = door.next_connection();
    // Off by default: a span is entered at every wake-up. The lines below carry the id anyway.
    let span = tracing::debug_span!("client", connection);
    let newcomer = Newcomer { connection, peer: peer(&stream), stream, entry };
    // Boxed, so that the task is no larger for as long as the session lasts.
    let admitted = Box::pin(let_in(&door, newcomer)).instrument(span.clone()).await;
    let Some(Admitted { group, arrival, places }) = admitted else { return };
    let since = Instant::now();
    let outcome = Session::serve(door.shared.clone(), group, arrival).instrument(span).await;
    drop(places);
    has_left(connection, since, outcome);
}

/// A client that may have its session. One that replicates has none: it is served here.
async fn let_in(door: &Door, newcomer: Newcomer) -> Option<Admitted> {
    let connection = newcomer.connection;
    let (admitted, walsender) = admit(door, newcomer).await?;
    let Some(Walsender { mode, login }) = walsender else { return Some(admitted) };
    let Admitted { group, arrival, places: _places } = admitted;
    let since = Instant::now();
    let outcome = replication::serve(door.shared.clone(), group, arrival, mode, login).await;
    has_left(connection, since, outcome);
    None
}

fn has_left(connection: u64, since: Instant, outcome: Result<(), PgError>) {
    let seconds = since.elapsed().as_secs_f64();
    match outcome {
        Ok(()) => tracing::info!(connection, seconds, "client left"),
        Err(error) => tracing::info!(connection, seconds, code = %error.code, %error, "client sent away"),
    }
}

fn peer(stream: &Stream) -> String {
    match stream.peer() {
        Some(peer) => peer.to_string(),
        None if stream.is_unix() => "local".to_owned(),
        None => "gone".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixStream;
    use tokio::sync::watch;

    use super::*;
    use crate::app::testing::snapshot;
    use crate::metrics::Metrics;
    use crate::session::Shared;

    /// What thousands of idle clients cost begins with this.
    #[tokio::test]
    async fn a_clients_task_is_small() {
        let metrics = Metrics::new("test");
        let (_snapshots, seen) = watch::channel(Arc::new(snapshot(&metrics).await));
        let (_stopping, stops) = watch::channel(false);
        let door = Arc::new(Door::new(Arc::new(Shared::new(metrics, 0, false)), seen, stops));
        let entry = door.places.enter(&door.snapshot().config().listen).unwrap();
        let (stream, _peer) = UnixStream::pair().unwrap();
        let task = serve(door, Stream::Unix(stream), entry);
        // Little more than half of the 6 KiB that an idle client may cost altogether.
        assert!(size_of_val(&task) <= 7 << 9, "{} bytes", size_of_val(&task));
    }
}
