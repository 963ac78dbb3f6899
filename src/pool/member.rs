//! A client of a tenant among those that share a pool: how it gets a connection, at once or from the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::fair::Party;
use super::lease::Lease;
use super::queue::{AcquireError, Pool};

/// See [`Pool::join`]. To be kept for as long as the client is there: what its tenant is promised depends on that.
#[derive(Debug)]
pub struct Member {
    pool: Arc<Pool>,
    party: Party,
}

impl Member {
    pub(super) fn new(pool: Arc<Pool>, party: Party) -> Self {
        Self { pool, party }
    }

    /// An idle connection, if there is one that its tenant may take, and nobody of the tenant has waited for longer.
    pub fn try_acquire(&self) -> Option<Lease> {
        self.pool.try_acquire(self.party)
    }

    /// The idle connection that has the values of sequences which this session has taken, if it is idle.
    pub fn try_acquire_of(&self, session: i32) -> Option<Lease> {
        self.pool.try_acquire_of(self.party, session)
    }

    /// Joins the queue, of which the timeout runs from `since`. The place is kept until the returned value is dropped.
    pub fn wait(&self, since: Instant) -> Waiting {
        let (give, receive) = oneshot::channel();
        self.pool.budget.load.fetch_add(1, Ordering::Relaxed);
        let (ticket, timeout, size) = self.pool.queue(self.party, Waiter { since, give });
        Waiting { pool: self.pool.clone(), party: self.party, ticket, receive, since, timeout, size }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.pool.leave(self.party);
    }
}

/// What stands in the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    since: Instant,
    give: oneshot::Sender<Result<Lease, AcquireError>>,
}

impl Waiter {
    pub fn since(&self) -> Instant {
        self.since
    }

    /// The lease comes back where nobody waits any more.
    pub fn give(self, lease: Lease) -> Option<Lease> {
        self.give.send(Ok(lease)).err().and_then(Result::ok)
    }

    /// False where nobody waits any more.
    pub fn refuse(self, error: AcquireError) -> bool {
        self.give.send(Err(error)).is_ok()
    }
}

/// A place in a pool's queue.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    party: Party,
    ticket: u64,
    receive: oneshot::Receiver<Result<Lease, AcquireError>>,
    since: Instant,
    timeout: Duration,
    size: usize,
}

impl Waiting {
    /// The lease, or why there is none. Cancel safe: the place is kept.
    pub async fn lease(&mut self) -> Result<Lease, AcquireError> {
        let left = self.timeout.saturating_sub(self.since.elapsed());
        match tokio::time::timeout(left, &mut self.receive).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => Err(AcquireError::Timeout { waited: self.since.elapsed(), size: self.size }),
        }
    }
}

impl Drop for Waiting {
    /// Gives back a connection that came in the very moment in which nobody wanted it any more.
    fn drop(&mut self) {
        self.pool.budget.load.fetch_sub(1, Ordering::Relaxed);
        self.pool.withdraw(self.party, self.ticket);
        self.receive.close();
        if let Ok(Ok(lease)) = self.receive.try_recv() {
            lease.hand_back();
        }
    }
}
