//! A read-only transaction that has begun on a replica, and in which nothing has run yet, moves to the primary where
//! its first statement belongs there.

use super::leasing::NoLease;
use super::ledger::Status;
use super::{Leased, Session};
use crate::sql::{Class, Effects, Hint, Reason, Verdict};

/// Ends the transaction, and says what it was like.
const LEAVE: &str = "SHOW transaction_isolation; ROLLBACK";

impl Session {
    /// Is there a transaction on a replica in which nothing has run yet?
    pub(super) fn is_opened(&self) -> bool {
        let pristine = |leased: &Leased| leased.pristine && !self.keeps_lease();
        self.ledger.status() == Status::Transaction && self.lease.as_ref().is_some_and(pristine)
    }

    /// Gives the replica back. Returns the statement with which the transaction begins anew elsewhere.
    pub(super) async fn leave_replica(&mut self) -> Result<Option<String>, NoLease> {
        let Some(mut leased) = self.lease.take() else { return Ok(None) };
        self.slot.rests();
        self.ledger.abandon();
        leased.lease.cancel.fence.lowered().await;
        match leased.lease.ask(LEAVE).await {
            Ok(answer) => {
                leased.lease.hand_back();
                let isolation = answer.sets.into_iter().flatten().flatten().flatten().next().unwrap_or_default();
                Ok(Some(format!("BEGIN ISOLATION LEVEL {isolation} READ ONLY")))
            }
            Err(error) => Err(NoLease::Ended(self.lost(leased.place, &error.to_string(), true))),
        }
    }
}

/// Does a statement belong on the primary also within a read-only transaction? What is refused in either place may as
/// well be refused where it is.
pub(super) fn belongs_on_primary(verdict: Verdict) -> bool {
    use Reason::{
        AdvisoryLock, Ddl, FunctionWrites, LargeObject, Maintenance, Notification, OpaqueFunction, PrimaryTransaction,
        Procedure, RunsText, SelectInto, Sequence, ServerControl, ServerSetting, ServerState, Temporary,
        UnavailableRelation, UnknownBuiltin,
    };
    let hinted = verdict.hint == Some(Hint::Replica) && verdict.yields_to_hint();
    let belongs = match verdict.reason {
        AdvisoryLock | FunctionWrites | LargeObject | Maintenance | Notification | OpaqueFunction
        | PrimaryTransaction | Procedure | RunsText | Sequence | ServerControl | ServerSetting | ServerState
        | Temporary | UnavailableRelation | UnknownBuiltin => true,
        // Of temporary tables.
        Ddl | SelectInto => verdict.effects.contains(Effects::STATE.with(Effects::MAYBE_DDL)),
        // The session would stay where it is.
        _ if verdict.effects.contains(Effects::PINS) => true,
        _ => verdict.hint == Some(Hint::Primary),
    };
    belongs && !hinted && (verdict.class == Class::Primary || verdict.hint == Some(Hint::Primary))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::{Catalog, CatalogRows, Classifier};

    #[test]
    fn what_a_standby_answers_otherwise_or_not_at_all_belongs_on_the_primary() {
        let catalog = Catalog::build(1, CatalogRows::default());
        let belongs = |sql: &str| belongs_on_primary(Classifier::new(1 << 16).classify(sql.as_bytes(), &catalog, None));
        for sql in [
            "SELECT pg_is_in_recovery()",
            "SET TRANSACTION READ WRITE",
            "SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
            "SELECT pg_advisory_xact_lock(1)",
            "LISTEN x",
            "CREATE TEMP TABLE t (a int)",
            "LOCK t IN ACCESS SHARE MODE",
            "PREPARE q AS SELECT 1",
            "DECLARE c CURSOR WITH HOLD FOR SELECT 1",
            "/* pgweir: primary */ SELECT 1",
        ] {
            assert!(belongs(sql), "{sql}");
        }
        for sql in [
            "SELECT 1",
            "COMMIT",
            "SAVEPOINT a",
            "SET LOCAL app.tenant = 'x'",
            "INSERT INTO t VALUES (1)",
            "SELECT 1 FROM t FOR UPDATE",
            "DECLARE c CURSOR FOR SELECT 1",
            "/* pgweir: replica */ SELECT pg_is_in_recovery()",
        ] {
            assert!(!belongs(sql), "{sql}");
        }
    }
}
