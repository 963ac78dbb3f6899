//! What a server's error says, in whatever language.

use crate::pool::OUR_NAMES;
use crate::wire::view;

/// SQLSTATEs with which a replica says that a statement cannot run there.
pub(super) const REFUSED: [&str; 3] = ["25006", "0A000", "55000"];
/// Those with which it says that it cannot run there now: what it names is not there yet, or its rows are about to go
/// (a conflict with recovery, PostgreSQL, "Handling Query Conflicts").
const NOT_NOW: [&str; 4] = ["XX000", "42P01", "42883", "40001"];

/// What is looked at of an `ErrorResponse`.
pub(super) struct ServerError {
    pub code: String,
    pub message: String,
    pub fatal: bool,
    /// The server's function that raised it; empty where the frame was cut short.
    routine: String,
}

/// Is it the server's own timeout of statements?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TimedOut {
    No,
    Yes,
    /// That, or a cancel: they share SQLSTATE and routine, and its line is another in every release.
    OrCancelled,
}

impl ServerError {
    /// `frame` may be cut short.
    pub fn read(frame: &[u8]) -> Self {
        let field = |code| String::from_utf8_lossy(view::error_field(frame, code).unwrap_or_default()).into_owned();
        let fatal = matches!(&*field(b'V'), "FATAL" | "PANIC");
        Self { code: field(b'C'), message: field(b'M'), fatal, routine: field(b'R') }
    }

    /// A replica's: the primary may have another answer.
    pub fn is_for_the_primary(&self) -> bool {
        let conflict = self.code == "57014" && self.message.contains("recovery");
        REFUSED.contains(&&*self.code) || NOT_NOW.contains(&&*self.code) || conflict
    }

    pub fn timed_out(&self) -> TimedOut {
        match &*self.code {
            "57014" if self.message.ends_with("statement timeout") => TimedOut::Yes,
            "57014" if self.message.starts_with("canceling ") => TimedOut::No,
            "57014" if matches!(&*self.routine, INTERRUPTED | "") => TimedOut::OrCancelled,
            _ => TimedOut::No,
        }
    }

    /// By the server's own timeout of a wait for a lock. Who does not want to wait is told by other routines.
    pub fn is_lock_timeout(&self) -> bool {
        self.code == "55P03" && (self.routine == INTERRUPTED || self.message.ends_with("lock timeout"))
    }

    /// A statement that the server connection has, but not in the shape that the schema has now; or
    /// that it should have and has not.
    pub fn is_stale_plan(&self) -> bool {
        (self.code == "0A000"
            && (self.routine == "RevalidateCachedQuery"
                || self.message.ends_with("cached plan must not change result type")))
            || (self.code == "26000" && self.message.contains(OUR_NAMES))
    }
}

const INTERRUPTED: &str = "ProcessInterrupts";

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: &str, message: &str, routine: &str) -> ServerError {
        let fields = [("S", "FEHLER"), ("V", "ERROR"), ("C", code), ("M", message), ("R", routine)];
        let fields: String = fields.iter().map(|(name, value)| format!("{name}{value}\0")).collect();
        ServerError::read(&[b"E\0\0\0\0", fields.as_bytes(), b"\0"].concat())
    }

    #[test]
    fn timeouts_are_known_in_any_language() {
        for (code, message, routine, timed_out, of_lock) in [
            ("57014", "canceling statement due to statement timeout", INTERRUPTED, TimedOut::Yes, false),
            ("57014", "canceling statement due to user request", INTERRUPTED, TimedOut::No, false),
            (
                "57014",
                "storniere Anfrage wegen Zeitüberschreitung der Anfrage",
                INTERRUPTED,
                TimedOut::OrCancelled,
                false,
            ),
            ("57014", "storniere Anfrage wegen Benutzeraufforderung", INTERRUPTED, TimedOut::OrCancelled, false),
            ("57014", "annulation de la requête à la demande de l'utilisateur", "", TimedOut::OrCancelled, false),
            ("57014", "genug", "exec_stmt_raise", TimedOut::No, false),
            ("55P03", "canceling statement due to lock timeout", INTERRUPTED, TimedOut::No, true),
            (
                "55P03",
                "ロックのタイムアウトのためステートメントをキャンセルしています",
                INTERRUPTED,
                TimedOut::No,
                true,
            ),
            ("55P03", "could not obtain lock on relation \"t\"", "RangeVarGetRelidExtended", TimedOut::No, false),
            ("55P03", "konnte Sperre für Relation »t« nicht setzen", "RangeVarGetRelidExtended", TimedOut::No, false),
        ] {
            let error = error(code, message, routine);
            assert_eq!((error.timed_out(), error.is_lock_timeout()), (timed_out, of_lock), "{message}");
        }
    }

    #[test]
    fn a_stale_plan_is_known_in_any_language() {
        for (code, message, routine, stale) in [
            ("0A000", "cached plan must not change result type", "RevalidateCachedQuery", true),
            ("0A000", "gecachter Plan darf den Ergebnistyp nicht ändern", "RevalidateCachedQuery", true),
            ("0A000", "ist nicht implementiert", "transformStmt", false),
            ("26000", "vorbereitete Anweisung »pgweir_7« existiert nicht", "FetchPreparedStatement", true),
            ("26000", "vorbereitete Anweisung »mine« existiert nicht", "FetchPreparedStatement", false),
            ("26000", "prepared statement \"pgweir_7\" does not exist", "FetchPreparedStatement", true),
        ] {
            assert_eq!(error(code, message, routine).is_stale_plan(), stale, "{message}");
        }
    }
}
