//! The end of a connection on which something runs that nobody waits for any more. Closing its socket does not end what
//! the server does: that goes on until it has something to say.

use std::time::Duration;

use tokio::io::{AsyncWriteExt, copy, sink};
use tokio::time::timeout;

use super::lease::Lease;
use crate::server::{cancel, connect, simple_query};

/// For the server to take what it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// Of the answer to a question whose answer is one word.
const ANSWER_LIMIT: usize = 1 << 10;

impl Lease {
    /// Cancels what runs, and closes the connection once that has ended. What goes on in spite of that for `patience`, as
    /// code may (`EXCEPTION WHEN query_canceled`), is ended with its server process. Until then the connection counts.
    pub async fn end(mut self, patience: Duration) {
        let target = self.cancel.clone();
        // If that can't be had, what follows may.
        let _ = cancel(&target.host, target.pid, &target.key, PATIENCE).await;
        if !self.ends_within(patience).await {
            self.terminate().await;
        }
    }

    /// Ends the server process, whatever it does, and closes the connection.
    pub async fn terminate(mut self) {
        let pid = self.cancel.pid;
        // It cannot be another's process while this connection is open.
        if let Err(reason) = self.ask_to_terminate().await {
            tracing::warn!(host = %self.cancel.host.name, pid, reason, "cannot end a server process");
        }
        self.ends_within(PATIENCE).await;
    }

    /// The server closes the connection when it has done what it was asked.
    async fn ends_within(&mut self, patience: Duration) -> bool {
        let closed = async {
            // It may be gone already.
            let _ = self.stream.shutdown().await;
            let _ = copy(&mut self.stream, &mut sink()).await;
        };
        timeout(patience, closed).await.is_ok()
    }

    /// A role may end its own processes.
    async fn ask_to_terminate(&self) -> Result<(), String> {
        let pool = self.pool();
        let mut login = pool.login();
        login.parameters.push(("application_name".into(), "pgweir end".into()));
        let _place = pool.place_of_our_own();
        let connected = connect(&pool.host, &login, PATIENCE).await;
        let mut connected = connected.map_err(|error| error.to_string())?;
        let sql = format!("SELECT pg_catalog.pg_terminate_backend({})", self.cancel.pid);
        match timeout(PATIENCE, simple_query(&mut connected.stream, &sql, ANSWER_LIMIT)).await {
            Ok(outcome) => outcome.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }
}
