//! Keeps a cancel request away from whoever gets the server connection next.
//!
//! A cancel travels on a connection of its own and strikes whatever the server process is doing when
//! it arrives. So a server connection is not handed on until every cancel that was started for it is
//! over (PostgreSQL, "Canceling Requests in Progress").

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::sync::Notify;

use crate::config::HostConfig;

/// Counts the cancel requests under way for one server connection.
#[derive(Debug, Default)]
pub struct Fence {
    under_way: AtomicUsize,
    lowered: Notify,
    broken: AtomicBool,
}

impl Fence {
    /// Holds the connection back until the guard is dropped.
    pub fn raise(self: &std::sync::Arc<Self>) -> FenceGuard {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        FenceGuard(self.clone())
    }

    /// A cancel may still come, nobody knows when: nobody else gets the connection.
    pub fn breaks(&self) {
        self.broken.store(true, Ordering::Release);
    }

    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    pub fn is_raised(&self) -> bool {
        self.under_way.load(Ordering::Acquire) > 0
    }

    /// Returns when no cancel is under way. Cancel safe.
    pub async fn lowered(&self) {
        loop {
            let lowered = self.lowered.notified();
            if !self.is_raised() {
                return;
            }
            lowered.await;
        }
    }
}

/// See [`Fence::raise`].
#[derive(Debug)]
pub struct FenceGuard(std::sync::Arc<Fence>);

impl Drop for FenceGuard {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::AcqRel);
        self.0.lowered.notify_waiters();
    }
}

/// Where a cancel request for a server connection has to go.
#[derive(Debug)]
pub struct CancelTarget {
    pub host: std::sync::Arc<HostConfig>,
    pub pid: i32,
    pub key: Vec<u8>,
    pub fence: std::sync::Arc<Fence>,
}
