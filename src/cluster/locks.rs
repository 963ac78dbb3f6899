//! Who waits for a lock on a host for longer than it may: asked by the host's monitor, of those alone who may.
//!
//! The server's own `lock_timeout` comes first. This is for what has lifted that where nobody sees it (in the same message,
//! in code).

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// A server process, and for how long it may wait.
pub type MayWait = (i32, Duration);

/// See the module's page.
#[derive(Debug, Default)]
pub struct Locks {
    state: Mutex<State>,
    asked: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The monitor is to ask for these.
    wanted: Vec<MayWait>,
    /// Processes that were found to have waited for too long.
    found: Vec<i32>,
}

impl Locks {
    /// Has the host asked for these. Returns which of those asked for before have waited for too long.
    pub fn watch(&self, wanted: Vec<MayWait>) -> Vec<i32> {
        let any = !wanted.is_empty();
        let found = {
            let mut state = self.state();
            state.wanted = wanted;
            std::mem::take(&mut state.found)
        };
        if any {
            self.asked.notify_one();
        }
        found
    }

    /// Until there is a question.
    pub(super) fn asked(&self) -> Notified<'_> {
        self.asked.notified()
    }

    /// The question to ask, if there is one (`pg_locks.waitstart`, PostgreSQL 14).
    pub(super) fn question(&self) -> Option<String> {
        let wanted = std::mem::take(&mut self.state().wanted);
        if wanted.is_empty() {
            return None;
        }
        let mut rows = String::new();
        for (pid, most) in wanted {
            let comma = if rows.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(rows, "{comma}({pid}, {})", most.as_millis());
        }
        Some(format!(
            "SELECT waits.pid FROM (VALUES {rows}) AS may (pid, most) JOIN pg_catalog.pg_locks AS waits \
             ON waits.pid OPERATOR(pg_catalog.=) may.pid WHERE NOT waits.granted AND waits.waitstart \
             OPERATOR(pg_catalog.<) (pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) \
             pg_catalog.make_interval(secs => may.most / 1000.0))"
        ))
    }

    pub(super) fn found(&self, pids: impl Iterator<Item = i32>) {
        self.state().found.extend(pids);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_asked_for_once_and_found_once() {
        let locks = Locks::default();
        assert_eq!(locks.question(), None);
        assert!(locks.watch(vec![(7, Duration::from_millis(400)), (8, Duration::from_secs(2))]).is_empty());
        let question = locks.question().unwrap();
        assert!(question.contains("VALUES (7, 400), (8, 2000)"), "{question}");
        assert_eq!(locks.question(), None);
        locks.found([8].into_iter());
        assert_eq!(locks.watch(Vec::new()), [8]);
        assert!(locks.watch(Vec::new()).is_empty());
    }
}
