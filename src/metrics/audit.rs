//! Lines for whoever has to know who did what: refusals, limits that cut something off, and what administrators do. They go
//! to the log under the target `audit`, always as JSON, whatever the log's level.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The target of audit lines.
pub const AUDIT: &str = "audit";

/// A tenant that is refused the same thing again and again has one line for it in this time, with their number.
const PAUSE: Duration = Duration::from_secs(1);
/// Tenants and kinds that are remembered for that.
const REMEMBERED: usize = 10_000;

/// Bytes of what an administrator has said.
const LONGEST: usize = 1000;

/// Whom an event concerns.
#[derive(Debug, Clone, Copy)]
pub struct Who<'a> {
    pub tenant: &'a str,
    pub user: &'a str,
    pub database: &'a str,
    /// What it was told, where the limit does not say everything: else empty.
    pub error: &'a str,
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
    /// The user, the database and the error of the first of those.
    of: [Box<str>; 3],
}

/// What is written of a limit. The user, the database and the error are those of one event, of so many.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    limit: &'static str,
    tenant: Box<str>,
    user: Box<str>,
    database: Box<str>,
    error: Box<str>,
    count: u64,
}

impl Line {
    fn write(&self) {
        let Self { limit, tenant, user, database, error, count } = self;
        let error = (!error.is_empty()).then_some(&**error);
        tracing::info!(target: AUDIT, event = "limit", limit, %tenant, %user, %database, error, count);
    }
}

impl Audit {
    /// A client got a refusal, was cut off, or has to wait, by one of its tenant's limits.
    pub fn limited(&self, limit: &'static str, who: Who<'_>) {
        if let Some(line) = self.count(limit, who, Instant::now()) {
            line.write();
        }
    }

    /// Writes of what has had no line for long enough. To be called now and then.
    pub fn catch_up(&self) {
        self.kept_back(Instant::now()).iter().for_each(Line::write);
    }

    /// A client could not log in.
    pub fn not_admitted(&self, reason: &'static str, peer: &str, code: &str, error: &str) {
        tracing::info!(target: AUDIT, event = "login_refused", reason, peer, code, error);
    }

    /// An administrator did something, or could not. Of a long command its beginning is written.
    pub fn administered(&self, user: &str, peer: &str, command: &str, outcome: &str) {
        let [command, outcome] = [command, outcome].map(beginning);
        tracing::info!(target: AUDIT, event = "administrator", user, peer, %command, %outcome);
    }

    /// The line of an event, if there is to be one now, with those since the last one.
    fn count(&self, limit: &'static str, who: Who<'_>, now: Instant) -> Option<Line> {
        let Who { tenant, user, database, error } = who;
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.len() >= REMEMBERED {
            recent.retain(|_, recent| recent.silent > 0 || now.duration_since(recent.written) < PAUSE);
        }
        let silent = match recent.get_mut(&(tenant.into(), limit)) {
            Some(recent) if now.duration_since(recent.written) < PAUSE => {
                if recent.silent == 0 {
                    recent.of = [user, database, error].map(Into::into);
                }
                recent.silent += 1;
                return None;
            }
            Some(recent) => {
                recent.written = now;
                std::mem::take(&mut recent.silent)
            }
            None => {
                recent.insert((tenant.into(), limit), Recent { written: now, silent: 0, of: Default::default() });
                0
            }
        };
        let [tenant, user, database, error] = [tenant, user, database, error].map(Into::into);
        Some(Line { limit, tenant, user, database, error, count: silent + 1 })
    }

    /// The lines of events that nothing has followed.
    fn kept_back(&self, now: Instant) -> Vec<Line> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let due =
            recent.iter_mut().filter(|(_, recent)| recent.silent > 0 && now.duration_since(recent.written) >= PAUSE);
        let lines = due.map(|((tenant, limit), recent)| {
            recent.written = now;
            let [user, database, error] = std::mem::take(&mut recent.of);
            Line { limit, tenant: tenant.clone(), user, database, error, count: std::mem::take(&mut recent.silent) }
        });
        lines.collect()
    }
}

fn beginning(text: &str) -> Cow<'_, str> {
    match text.floor_char_boundary(LONGEST) {
        end if end < text.len() => format!("{}…", &text[..end]).into(),
        _ => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_of_one_tenant_has_a_line_a_second_with_their_number() {
        let (audit, start) = (Audit::default(), Instant::now());
        let who = |tenant| Who { tenant, user: "u", database: "d", error: "e" };
        let at = |tenant, what, ms| {
            let line = audit.count(what, who(tenant), start + Duration::from_millis(ms));
            line.map(|line| line.count)
        };
        assert_eq!(at("a", "x", 0), Some(1));
        assert_eq!([at("a", "x", 10), at("a", "x", 900)], [None, None]);
        assert_eq!([at("b", "x", 20), at("a", "y", 30)], [Some(1), Some(1)]);
        assert_eq!(at("a", "x", 1000), Some(3));
        assert_eq!(at("a", "x", 2500), Some(1));
        // Also those that nothing follows.
        assert_eq!([at("a", "x", 2600), at("a", "x", 2700)], [None, None]);
        assert!(audit.kept_back(start + Duration::from_millis(3400)).is_empty());
        let [tenant, user, database, error] = ["a", "u", "d", "e"].map(Into::into);
        let line = Line { limit: "x", tenant, user, database, error, count: 2 };
        assert_eq!(audit.kept_back(start + Duration::from_millis(3500)), [line]);
        assert!(audit.kept_back(start + Duration::from_millis(9000)).is_empty());
    }
}
