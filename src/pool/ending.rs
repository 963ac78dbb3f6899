//! The end of a connection on which something runs that nobody waits for any more. Closing its socket does not end what
//! the server does: that goes on until it has something to say.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy, sink};
use tokio::time::timeout;

use super::lease::Lease;
use super::places::Purpose;
use crate::server::{cancel, simple_query};

/// For the server to take what it is asked.
const PATIENCE: Duration = Duration::from_secs(5);
/// A server that has answered and has not closed the connection after this is at what it was sent next.
const MOMENT: Duration = Duration::from_millis(50);
/// One that still answers after this may be at that as well.
const LONG: Duration = Duration::from_millis(500);
/// Before the server is asked again.
const PAUSE: Duration = Duration::from_millis(250);
/// Seconds between the beginning of a server process and that of its connection for us.
const SLACK: f64 = 10.0;
/// Of the answer to a question whose answer is one word.
const ANSWER_LIMIT: usize = 1 << 10;

impl Lease {
    /// Cancels what runs, and what was sent behind it as the server comes to that, and closes the connection once all has
    /// ended. What goes on in spite of that for `patience`, as code may (`EXCEPTION WHEN query_canceled`), is ended with its
    /// server process. Until then the connection counts, and nobody else gets it after: no cancel is too late.
    pub async fn end(mut self, patience: Duration) {
        self.cancels().await;
        if timeout(patience, self.cancels_the_rest()).await.is_err() {
            self.terminate().await;
        }
    }

    /// If that can't be had, what follows may.
    async fn cancels(&self) {
        let target = &self.cancel;
        let _ = cancel(&target.host, target.pid, &target.key, PATIENCE).await;
    }

    async fn cancels_the_rest(&mut self) {
        // It may be gone already.
        let _ = self.stream.shutdown().await;
        while self.goes_on().await {
            self.cancels().await;
        }
    }

    /// True when the server has answered, and is at what it was sent next, or may be; false when it has closed the
    /// connection.
    async fn goes_on(&mut self) -> bool {
        let (mut answer, mut answers) = (vec![0; 8 << 10], None::<Instant>);
        loop {
            let silence = if answers.is_some() { MOMENT } else { Duration::MAX };
            match timeout(silence, self.stream.read(&mut answer)).await {
                Ok(Ok(1..)) if answers.get_or_insert_with(Instant::now).elapsed() < LONG => {}
                Ok(Ok(0) | Err(_)) => return false,
                Ok(Ok(1..)) | Err(_) => return true,
            }
        }
    }

    /// Ends the server process, whatever it does, and closes the connection.
    pub async fn terminate(mut self) {
        // One that waits for the client finds that it has gone.
        let _ = timeout(PATIENCE, self.stream.shutdown()).await;
        let until = Instant::now() + PATIENCE;
        while let Err(reason) = self.ask_to_terminate().await {
            if Instant::now() > until {
                let pid = self.cancel.pid;
                tracing::warn!(host = %self.cancel.host.name, pid, reason, "cannot end a server process");
                return;
            }
            // The server may have no connection to spare.
            if self.ends_within(PAUSE).await {
                return;
            }
        }
        self.ends_within(PATIENCE).await;
    }

    /// The server closes the connection when it has done what it was asked.
    async fn ends_within(&mut self, patience: Duration) -> bool {
        let closed = async {
            // It may be gone already.
            let _ = self.stream.shutdown().await;
            let _ = copy(&mut *self.stream, &mut sink()).await;
        };
        timeout(patience, closed).await.is_ok()
    }

    /// A role may end its own processes.
    async fn ask_to_terminate(&self) -> Result<(), String> {
        let pool = self.pool();
        let mut login = pool.login();
        login.parameters.push(("application_name".into(), "pgweir end".into()));
        let connected = pool.budget().connect(Purpose::Watch, &pool.host, &login, PATIENCE).await;
        let mut connected = connected.map_err(|error| error.to_string())?;
        let sql = self.terminates();
        match timeout(PATIENCE, simple_query(&mut *connected.stream, &sql, ANSWER_LIMIT)).await {
            Ok(Ok(answer)) if answer.sets.iter().flatten().next().is_some() => Ok(()),
            Ok(Ok(_)) => Err("there is no such process".to_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        }
    }

    /// The process of this number that is as old as this connection: behind one name there may be several servers.
    fn terminates(&self) -> String {
        let age = self.age().as_secs_f64();
        format!(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE \
             pid OPERATOR(pg_catalog.=) {} AND pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() \
             OPERATOR(pg_catalog.-) backend_start) BETWEEN {:.1} AND {:.1}",
            self.cancel.pid,
            age - SLACK,
            age + SLACK
        )
    }
}
