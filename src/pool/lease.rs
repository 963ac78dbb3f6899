//! The right to use one server connection.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::conn::Conn;
use super::queue::Pool;

/// Dropping a lease closes its connection, whatever happened to the task that held it. Only
/// [`Lease::hand_back`] gives the connection to others; its caller vouches that the ledger is settled,
/// the server idle, and that the connection's books are true.
#[derive(Debug)]
pub struct Lease {
    conn: Option<Box<Conn>>,
    pool: Arc<Pool>,
}

impl Lease {
    pub(super) fn new(conn: Box<Conn>, pool: Arc<Pool>) -> Self {
        pool.load.fetch_add(1, Ordering::Relaxed);
        Self { conn: Some(conn), pool }
    }

    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Makes the connection available to the longest waiting client, or idle. While a cancel request
    /// for it is under way, that happens when the request is over.
    pub fn hand_back(mut self) {
        let Some(conn) = self.conn.take() else { return };
        if !conn.cancel.fence.is_raised() {
            return self.pool.take_back(conn);
        }
        let pool = self.pool.clone();
        // The new lease closes the connection if the task is dropped on the way.
        let lease = Lease::new(conn, pool);
        tokio::spawn(async move {
            let fence = lease.cancel.fence.clone();
            fence.lowered().await;
            lease.hand_back();
        });
    }

    /// Ends the lease without giving the connection to anybody: that is the caller's to do.
    pub(super) fn into_parts(mut self) -> (Box<Conn>, Arc<Pool>) {
        let conn = self.conn.take().expect("a lease has its connection until it is handed back");
        (conn, self.pool.clone())
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
        self.pool.load.fetch_sub(1, Ordering::Relaxed);
        if let Some(conn) = self.conn.take() {
            drop(conn);
            self.pool.closed_one();
        }
    }
}
