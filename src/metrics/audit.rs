//! Lines for whoever has to know who did what: refusals, limits that cut something off, and what administrators do. They go
//! to the log under the target `audit`, always as JSON, whatever the log's level.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The target of audit lines.
pub const AUDIT: &str = "audit";

/// A tenant that is refused the same thing again and again has one line for it in this time, with their number.
const PAUSE: Duration = Duration::from_secs(1);
/// Tenants and kinds that are remembered for that.
const REMEMBERED: usize = 10_000;

/// Whom an event concerns.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub tenant: &'a str,
    pub user: &'a str,
    pub database: &'a str,
}

/// See the module's page.
#[derive(Debug, Default)]
pub struct Audit {
    recent: Mutex<HashMap<(Box<str>, &'static str), Recent>>,
}

#[derive(Debug)]
struct Recent {
    written: Instant,
    /// Events since.
    silent: u64,
}

impl Audit {
    /// A client got a refusal, or was cut off, by one of its tenant's limits.
    pub fn limited(&self, limit: &'static str, who: Who<'_>) {
        if let Some(count) = self.count(limit, who.tenant, Instant::now()) {
            let Who { tenant, user, database } = who;
            tracing::info!(target: AUDIT, event = "limit", limit, tenant, user, database, count);
        }
    }

    /// A client could not log in.
    pub fn not_admitted(&self, reason: &'static str, peer: &str, code: &str, error: &str) {
        tracing::info!(target: AUDIT, event = "login_refused", reason, peer, code, error);
    }

    /// An administrator did something, or could not.
    pub fn administered(&self, user: &str, peer: &str, command: &str, outcome: &str) {
        tracing::info!(target: AUDIT, event = "administrator", user, peer, command, outcome);
    }

    /// How many there were since the last line, if there is to be one now.
    fn count(&self, what: &'static str, tenant: &str, now: Instant) -> Option<u64> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= REMEMBERED {
            recent.retain(|_, recent| now.duration_since(recent.written) < PAUSE);
        }
        match recent.get_mut(&(tenant.into(), what)) {
            Some(recent) if now.duration_since(recent.written) < PAUSE => {
                recent.silent += 1;
                None
            }
            Some(recent) => {
                recent.written = now;
                Some(std::mem::take(&mut recent.silent) + 1)
            }
            None => {
                recent.insert((tenant.into(), what), Recent { written: now, silent: 0 });
                Some(1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_of_one_tenant_has_a_line_a_second_with_their_number() {
        let (audit, start) = (Audit::default(), Instant::now());
        let at = |tenant, what, ms| audit.count(what, tenant, start + Duration::from_millis(ms));
        assert_eq!(at("a", "x", 0), Some(1));
        assert_eq!([at("a", "x", 10), at("a", "x", 900)], [None, None]);
        assert_eq!([at("b", "x", 20), at("a", "y", 30)], [Some(1), Some(1)]);
        assert_eq!(at("a", "x", 1000), Some(3));
        assert_eq!(at("a", "x", 2500), Some(1));
    }
}
