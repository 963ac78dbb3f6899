//! Asks a server session what it holds: the settings that were made in it, and the state that only
//! this connection has. Whatever a statement did in whatever way (a function, a `DO` block, a
//! rolled-back `SET`), the server knows.

use std::collections::BTreeSet;

use super::conn::{Conn, Settings};
use super::settings::literal;
use crate::server::query::QueryError;

/// State of a server session that no other connection can be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Held {
    /// `CREATE TEMPORARY …`, `SELECT INTO TEMP`.
    Temporary,
    /// `LISTEN`, where pgweir cannot listen for the session.
    Listen,
    /// `pg_advisory_lock` and its kin.
    AdvisoryLock,
    /// `DECLARE … WITH HOLD`.
    HoldableCursor,
    /// SQL's `PREPARE`.
    Prepare,
    /// `SET SESSION AUTHORIZATION`.
    SessionAuthorization,
    /// The client knows which server process it has (`pg_backend_pid()`): who cancels or ends what that process does is
    /// to hit this session and no other.
    Process,
    /// Values of sequences (`currval`, `lastval`) of a session that has asked for them between its transactions.
    Sequence,
    /// Settings whose names are hidden in code: nothing shows them, `DISCARD ALL` undoes them.
    Hidden,
    /// `LOAD`, `setseed()`: nothing shows it and nothing undoes it.
    Sticky,
}

impl Held {
    pub const ALL: [Self; 10] = [
        Self::Temporary,
        Self::Listen,
        Self::AdvisoryLock,
        Self::HoldableCursor,
        Self::Prepare,
        Self::SessionAuthorization,
        Self::Process,
        Self::Sequence,
        Self::Hidden,
        Self::Sticky,
    ];

    /// For metrics and messages.
    pub fn label(self) -> &'static str {
        match self {
            Self::Temporary => "temporary",
            Self::Listen => "listen",
            Self::AdvisoryLock => "advisory_lock",
            Self::HoldableCursor => "holdable_cursor",
            Self::Prepare => "prepare",
            Self::SessionAuthorization => "session_authorization",
            Self::Process => "process",
            Self::Sequence => "sequence",
            Self::Hidden => "hidden",
            Self::Sticky => "sticky",
        }
    }
}

/// What a server session holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// In the server's own spelling.
    pub settings: Settings,
    pub held: Option<Held>,
    /// What it listens to.
    pub channels: BTreeSet<String>,
    /// [`MARK`] was made and is in force.
    pub marked: bool,
    /// `ParameterStatus` that came with the answer.
    pub reports: Vec<(String, String)>,
    /// Bodies of `NotificationResponse`s that came with the answer, for the client.
    pub notifications: Vec<Vec<u8>>,
}

/// A setting that is made to find out whether a transaction was committed: `on`.
pub const MARK: &str = "pgweir.mark";

/// Names and operators are qualified: the session's `search_path` is the client's.
const HELD: &str = "SELECT CASE \
    WHEN pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND EXISTS (SELECT FROM pg_catalog.pg_depend \
      WHERE refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_namespace'::pg_catalog.regclass \
      AND refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) THEN 'temporary' \
    WHEN EXISTS (SELECT FROM pg_catalog.pg_locks WHERE locktype OPERATOR(pg_catalog.=) 'advisory' \
      AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()) THEN 'advisory_lock' \
    WHEN EXISTS (SELECT FROM pg_catalog.pg_cursors WHERE is_holdable) THEN 'holdable_cursor' \
    WHEN EXISTS (SELECT FROM pg_catalog.pg_prepared_statements WHERE from_sql) THEN 'prepare' \
    WHEN session_user OPERATOR(pg_catalog.<>) ";

/// Asks for these settings alone, which were made in the session; those that there are not are left out.
pub async fn settings_now(conn: &mut Conn, names: &BTreeSet<String>) -> Result<Holdings, QueryError> {
    let names = names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(",");
    let sql =
        format!("SELECT name, pg_catalog.current_setting(name, true) FROM pg_catalog.unnest(ARRAY[{names}]) AS name");
    let answer = conn.ask(&sql).await?;
    let rows = answer.sets.into_iter().flatten();
    let settings = rows.filter_map(|row| {
        let mut columns = row.into_iter();
        Some((columns.next()??, columns.next()??))
    });
    let (reports, notifications) = (answer.reports, answer.notifications);
    Ok(Holdings { settings: settings.collect(), reports, notifications, ..Holdings::default() })
}

/// Asks. `custom` are names of settings that `pg_settings` may not show (`app.tenant`): those that
/// the session has mentioned. Only on a connection that is settled and idle.
pub async fn probe(conn: &mut Conn, login_user: &str, custom: &BTreeSet<String>) -> Result<Holdings, QueryError> {
    let mut sql = String::from(
        "SELECT name, setting FROM pg_catalog.pg_settings WHERE source OPERATOR(pg_catalog.=) 'session' \
         AND name OPERATOR(pg_catalog.<>) ALL (ARRAY['role', 'session_authorization', 'is_superuser', \
         'transaction_isolation', 'transaction_read_only', 'transaction_deferrable']) \
         UNION SELECT 'role', pg_catalog.current_setting('role') \
         WHERE pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none'",
    );
    for name in custom {
        let name = literal(name);
        sql += &format!(
            " UNION SELECT {name}, pg_catalog.current_setting({name}, true) \
             WHERE pg_catalog.current_setting({name}, true) IS NOT NULL"
        );
    }
    sql += &format!(
        "; {HELD}{}::pg_catalog.name THEN 'session_authorization' END, \
         pg_catalog.current_setting('{MARK}', true) OPERATOR(pg_catalog.=) 'on'; \
         SELECT pg_catalog.pg_listening_channels()",
        literal(login_user)
    );
    let answer = conn.ask(&sql).await?;
    let mut sets = answer.sets.into_iter();
    let pairs = sets.next().unwrap_or_default().into_iter().filter_map(|row| {
        let mut columns = row.into_iter().flatten();
        Some((columns.next()?.to_lowercase(), columns.next()?))
    });
    let settings = pairs.collect();
    let mut columns = sets.next().unwrap_or_default().into_iter().flatten();
    let held = columns.next().flatten().and_then(|label| Held::ALL.into_iter().find(|held| held.label() == label));
    let marked = columns.next().flatten().is_some_and(|value| value == "t");
    let channels = sets.next().unwrap_or_default().into_iter().flatten().flatten().collect();
    let (reports, notifications) = (answer.reports, answer.notifications);
    Ok(Holdings { settings, held, channels, marked, reports, notifications })
}
