//! Who waits for a lock on a host, and for how long already: asked of those alone who may have waited for too long.
//!
//! The server's own `lock_timeout` comes first. This is for what has lifted that where nobody sees it (in the same message,
//! in code).

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use tokio::time::timeout;

use super::host::Host;
use crate::pool::{Purpose, Seated};
use crate::server::{Login, QueryError, simple_query};

/// For an answer. Nobody's health depends on it.
const PATIENCE: Duration = Duration::from_secs(2);
/// After an attempt in vain.
const PAUSE: Duration = Duration::from_secs(5);
/// Without a question for so long the connection is closed, and at once where places are short.
const IDLE: Duration = Duration::from_secs(10);
/// Of process ids and times.
const ANSWER_LIMIT: usize = 1 << 20;
/// `undefined_column`: `waitstart` came with PostgreSQL 14.
const UNDEFINED_COLUMN: &str = "42703";

/// See the module's page.
#[derive(Debug, Default)]
pub struct Locks {
    /// As whom to ask: the monitor, or somebody who has a pool there.
    login: std::sync::Mutex<Option<Login>>,
    asker: Mutex<Asker>,
}

#[derive(Default)]
struct Asker {
    connection: Option<Seated>,
    last: Option<Instant>,
    /// When it could not be asked.
    failed: Option<Instant>,
    /// The server cannot say.
    unable: bool,
}

impl Locks {
    pub(super) fn ask_as(&self, login: Login) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = Some(login);
    }

    fn login(&self) -> Option<Login> {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl std::fmt::Debug for Asker {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Asker").field("connected", &self.connection.is_some()).field("unable", &self.unable).finish()
    }
}

impl Asker {
    fn is_wanted_back(&self) -> bool {
        self.connection.as_ref().is_some_and(|connected| connected.stream.is_wanted_back())
    }
}

impl Host {
    /// For how long these server processes have waited for a lock, those that do. `None` where that is not known: the last
    /// question is not answered yet, or this one is not in time.
    pub async fn waits_for_locks(&self, pids: &[i32]) -> Option<HashMap<i32, Duration>> {
        let mut asker = self.locks.asker.try_lock().ok().filter(|asker| !asker.unable)?;
        if asker.failed.is_some_and(|failed| failed.elapsed() < PAUSE) {
            return None;
        }
        let mut connected = match asker.connection.take() {
            Some(connection) => connection,
            None => {
                let mut login = self.locks.login()?;
                login.parameters.push(("application_name".into(), "pgweir locks".into()));
                match self.budget.connect(Purpose::Errand, &self.config, &login, PATIENCE).await {
                    Ok(connected) => connected,
                    Err(error) => {
                        tracing::warn!(host = %self.config.name, %error, "cannot ask who waits for locks");
                        asker.failed = Some(Instant::now());
                        return None;
                    }
                }
            }
        };
        asker.last = Some(Instant::now());
        // A connection that has not answered is closed.
        match timeout(PATIENCE, simple_query(&mut *connected.stream, &question(pids), ANSWER_LIMIT)).await.ok()? {
            Ok(answer) => {
                asker.connection = Some(connected).filter(|connected| !connected.stream.is_wanted_back());
                Some(answer.sets.into_iter().flatten().filter_map(waits).collect())
            }
            Err(QueryError::Server { code, .. }) => {
                asker.unable = code == UNDEFINED_COLUMN;
                None
            }
            Err(QueryError::Broken(_)) => None,
        }
    }

    /// There is nothing to ask.
    pub fn rests_from_locks(&self) {
        if let Ok(mut asker) = self.locks.asker.try_lock()
            && (asker.last.is_some_and(|last| last.elapsed() > IDLE) || asker.is_wanted_back())
        {
            (asker.connection, asker.last) = (None, None);
        }
    }
}

fn question(pids: &[i32]) -> String {
    let pids: Vec<_> = pids.iter().map(i32::to_string).collect();
    format!(
        "SELECT waits.pid, pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) waits.waitstart) \
         FROM pg_catalog.pg_locks AS waits WHERE NOT waits.granted AND waits.pid OPERATOR(pg_catalog.=) \
         ANY ('{{{}}}'::pg_catalog.int4[])",
        pids.join(",")
    )
}

/// A process, and seconds; none for a moment at the beginning of a wait.
fn waits(row: Vec<Option<String>>) -> Option<(i32, Duration)> {
    let [pid, seconds] = row.try_into().ok()?;
    let seconds = seconds.and_then(|seconds| seconds.parse().ok()).unwrap_or(0.0);
    Some((pid?.parse().ok()?, Duration::try_from_secs_f64(seconds).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_a_process_and_how_long_it_waits() {
        let row = |seconds: Option<&str>| waits(vec![Some("7".into()), seconds.map(str::to_owned)]);
        assert_eq!(row(Some("0.25")), Some((7, Duration::from_millis(250))));
        assert_eq!((row(None), row(Some("-0.001"))), (Some((7, Duration::ZERO)), Some((7, Duration::ZERO))));
        assert!(question(&[7, 8]).contains("'{7,8}'::pg_catalog.int4[]"));
    }
}
