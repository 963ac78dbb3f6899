//! One client's task, from accept to close, and its lines in the log.

use std::sync::Arc;
use std::time::Instant;

use tracing::Instrument;

use super::Door;
use super::admission::{Admitted, Newcomer, admit};
use super::places::Entry;
use crate::net::Stream;
use crate::session::Session;

/// Serves one client. Dropping the future closes its connections.
pub(super) async fn serve(door: Arc<Door>, stream: Stream, entry: Entry) {
    let connection = door.next_connection();
    // Off by default: a span is entered at every wake-up. The lines below carry the id anyway.
    let span = tracing::debug_span!("client", connection);
    let newcomer = Newcomer { connection, peer: peer(&stream), stream, entry };
    // Boxed, so that the task is no larger for as long as the session lasts.
    let admitted = Box::pin(admit(&door, newcomer)).instrument(span.clone()).await;
    let Some(Admitted { group, arrival, places }) = admitted else { return };
    let since = Instant::now();
    let outcome = Session::serve(door.shared.clone(), group, arrival).instrument(span).await;
    drop(places);
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
