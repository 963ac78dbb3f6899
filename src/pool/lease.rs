//! The right to use one server connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use super::conn::{Conn, Unlisted};
use super::fair::Party;
use super::queue::Pool;
use crate::tenant::{Pass, Passes};

/// Dropping a lease closes its connection, whatever happened to the task that held it. Only
/// [`Lease::hand_back`] gives the connection to others; its caller vouches that the ledger is settled,
/// the server idle, and that the connection's books are true.
#[derive(Debug)]
pub struct Lease {
    conn: Option<Box<Conn>>,
    pool: Arc<Pool>,
}

/// Whose a connection is. (With the connection, as leases move about.)
#[derive(Debug)]
pub(super) struct Hold {
    pub party: Party,
    pub since: Instant,
    /// Its tenant's right to it.
    pub pass: Pass,
}

impl Lease {
    /// The pool has counted it.
    pub(super) fn new(mut conn: Box<Conn>, pool: Arc<Pool>, hold: Hold) -> Self {
        pool.budget.load.fetch_add(1, Ordering::Relaxed);
        conn.hold = Some(hold);
        Self { conn: Some(conn), pool }
    }

    /// Its tenant has a limit by now, perhaps: then it counts.
    pub fn counts(&mut self, passes: &Passes) {
        if let Some(hold) = &mut self.hold {
            let pass = std::mem::take(&mut hold.pass).counted();
            hold.pass = pass.unwrap_or_else(|| passes.count());
        }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Makes the connection available to the longest waiting client, or idle. While a cancel request
    /// for it is under way, that happens when the request is over. One that has settings of which nobody knows is closed.
    pub fn hand_back(mut self) {
        if self.unlisted == Unlisted::Any {
            return;
        }
        let Some(conn) = self.conn.take() else { return };
        let fence = &conn.cancel.fence;
        if !fence.is_raised() && !fence.is_broken() {
            return self.pool.take_back(conn);
        }
        let breaks = fence.is_broken();
        // The lease closes the connection, also if the task is dropped on the way.
        self.conn = Some(conn);
        if breaks {
            return;
        }
        let lease = self;
        tokio::spawn(async move {
            let fence = lease.cancel.fence.clone();
            fence.lowered().await;
            lease.hand_back();
        });
    }

    /// Ends the lease without giving the connection to anybody: that is the caller's to do.
    pub(super) fn into_conn(mut self) -> Box<Conn> {
        self.conn.take().expect("a lease has its connection until it is handed back")
    }
}

impl Deref for Lease {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.conn.as_ref().expect("a lease has its connection until it is handed back")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Conn {
        self.conn.as_mut().expect("a lease has its connection until it is handed back")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.budget.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(mut conn) = self.conn.take() {
            let hold = conn.hold.take();
            drop(conn);
            self.pool.closed_one(hold);
        }
    }
}
