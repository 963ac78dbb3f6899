//! A client of a tenant among those that share a pool: how it gets a connection, at once or from the queue.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::fair::{Party, Waits};
use super::lease::Lease;
use super::queue::{AcquireError, Pool};
use crate::tenant::{Pass, Passes, Queue, Standing};

/// See [`Pool::join`]. To be kept for as long as the client is there: what its tenant is promised depends on that.
#[derive(Debug)]
pub struct Member {
    pool: Arc<Pool>,
    party: Party,
    passes: Passes,
}

impl Member {
    pub(super) fn new(pool: Arc<Pool>, party: Party, passes: Passes) -> Self {
        Self { pool, party, passes }
    }

    /// An idle connection, if there is one that its tenant may take, and nobody of the tenant has waited for longer.
    pub fn try_acquire(&self) -> Option<Lease> {
        self.pool.try_acquire(self.party, &self.passes)
    }

    /// The connection that has the values of sequences which this session has taken, if it is idle and its tenant may take it.
    pub fn try_acquire_of(&self, session: i32) -> Option<Lease> {
        self.pool.try_acquire_of(self.party, &self.passes, session)
    }

    /// Joins the queue, of which the timeout runs from `since`. The place is kept until the returned value is dropped.
    pub fn wait(&self, since: Instant) -> Waiting {
        self.wait_as(None, since)
    }

    /// The same for a session that is rather given the connection which has the values of its sequences.
    pub fn wait_as(&self, session: Option<i32>, since: Instant) -> Waiting {
        let (give, receive) = oneshot::channel();
        self.pool.budget.load.fetch_add(1, Ordering::Relaxed);
        let waiter = Waiter { since, session, passes: self.passes.clone(), give };
        let (ticket, timeout, size) = self.pool.queue(self.party, waiter);
        let (pool, party) = (self.pool.clone(), self.party);
        let _standing = self.passes.wait(Arc::new(PoolQueue { pool: pool.clone(), party }), ticket, since + timeout);
        Waiting { pool, party, ticket, _standing, receive, since, timeout, size }
    }
}

/// The clients of one tenant that wait in one pool.
#[derive(Debug)]
struct PoolQueue {
    pool: Arc<Pool>,
    party: Party,
}

impl Queue for PoolQueue {
    fn id(&self) -> usize {
        Arc::as_ptr(&self.pool) as usize
    }

    fn look(&self) {
        self.pool.look(self.party);
    }

    fn waiting(&self) -> (usize, usize) {
        self.pool.waiting_of(self.party)
    }

    fn send_away(&self, place: u64, limit: usize) -> bool {
        self.pool.withdraw(self.party, place).is_some_and(|waiter| waiter.send_away(limit, true))
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
    session: Option<i32>,
    passes: Passes,
    give: oneshot::Sender<Result<Lease, AcquireError>>,
}

impl Waiter {
    pub fn since(&self) -> Instant {
        self.since
    }

    /// By the process id that its client was told.
    pub fn session(&self) -> Option<i32> {
        self.session
    }

    /// Its tenant's right to one more connection, if there is one.
    pub fn pass(&self) -> Option<Pass> {
        self.passes.take()
    }

    /// Sends it away, where more wait than may: of its tenant, or else in the pool. False where it waits no more.
    pub fn send_away(self, limit: usize, of_tenant: bool) -> bool {
        let waited = self.since.elapsed();
        self.refuse(AcquireError::QueueFull { waited, limit, of_tenant })
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

impl Waits for Waiter {
    fn may_have(&self) -> usize {
        self.passes.left()
    }
}

/// A place in a pool's queue.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    party: Party,
    ticket: u64,
    /// Among those of its tenant who wait anywhere.
    _standing: Option<Standing>,
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
        drop(self.pool.withdraw(self.party, self.ticket));
        self.receive.close();
        if let Ok(Ok(lease)) = self.receive.try_recv() {
            lease.hand_back();
        }
    }
}
