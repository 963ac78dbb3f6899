//! Ending in order: no new clients, idle ones are told, transactions may finish, the rest is ended.

use std::time::Duration;

use super::App;
use crate::session::Signal;

/// How often sessions are told again: one may have come out of its handshake since.
const BEAT: Duration = Duration::from_millis(50);

/// How long clients that are cut off have to read why.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How long what they ran has to end.
const LAST_STATEMENTS: Duration = Duration::from_secs(2);

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Clients whose transactions were still open after `shutdown_timeout`.
    pub ended: usize,
}

impl App {
    /// Accepts no more, tells idle clients 57P01, and waits up to `shutdown_timeout` for the others to
    /// finish their transactions. Dropping the future ends everything at once.
    pub async fn shutdown(mut self) -> Drained {
        let patience = self.config().shutdown_timeout;
        self.readiness.stop("shutting down");
        // The listeners hold receivers for as long as they run: one that is gone needs no word.
        let _ = self.stopping.send(true);
        let finished = tokio::time::timeout(patience, self.drain()).await.is_ok();
        let ended = if finished { 0 } else { self.door.shared.registry.len() };
        if !finished {
            self.door.shared.registry.all().iter().for_each(|slot| slot.send(Signal::End));
            // Time for their last words; who does not listen is not waited for.
            let _ = tokio::time::timeout(LAST_WORDS, self.drain()).await;
        }
        self.listeners.shutdown().await;
        // What they ran ends with them.
        let _ = tokio::time::timeout(LAST_STATEMENTS, self.door.shared.ended()).await;
        for cluster in self.door.snapshot().clusters() {
            cluster.close();
        }
        if let Some(ends) = self.http_ends.take() {
            // It waits for this; if it is gone there is nobody to tell.
            let _ = ends.send(());
        }
        while self.http.join_next().await.is_some() {}
        Drained { ended }
    }

    /// Returns when every socket's last client has left.
    async fn drain(&mut self) {
        loop {
            self.door.shared.registry.all().iter().for_each(|slot| slot.send(Signal::Shutdown));
            tokio::select! {
                ended = self.listeners.join_next() => {
                    if ended.is_none() {
                        return;
                    }
                }
                () = tokio::time::sleep(BEAT) => {}
            }
        }
    }
}
