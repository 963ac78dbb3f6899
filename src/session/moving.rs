//! A transaction in which nothing has run yet begins once more elsewhere where its first statement belongs there: a
//! read-only one that has begun on a replica on the primary, and another tenant's on a connection of that tenant.

use super::batch::Batch;
use super::leasing::NoLease;
use super::ledger::Status;
use super::listening::Told;
use super::{Leased, Opened, Session};
use crate::cluster::Place;
use crate::router::Target;
use crate::sql::{Class, Effects, Hint, Reason, Verdict};

/// Ends the transaction, and says what it was like.
const LEAVE: &str = "SHOW transaction_isolation; SHOW transaction_read_only; SHOW transaction_deferrable; ROLLBACK";
/// The same on a standby, where none writes, and none is serializable.
const LEAVE_STANDBY: &str = "SHOW transaction_isolation; ROLLBACK";

/// A transaction that begins once more.
pub(super) struct Anew {
    /// By this statement.
    pub begin: String,
    /// Where, if not where its first statement belongs.
    pub target: Option<Target>,
}

impl Session {
    /// Is there a transaction in which nothing has run yet, and that may begin elsewhere?
    pub(super) fn is_opened(&self) -> bool {
        let opened = |leased: &Leased| matches!(leased.opened, Opened::Begun | Opened::Leaves);
        self.ledger.status() == Status::Transaction && self.lease.as_ref().is_some_and(opened)
    }

    /// Gives the server connection back on which the transaction has begun.
    pub(super) async fn leave_opened(&mut self, batch: &Batch) -> Result<Option<Box<Anew>>, NoLease> {
        let Some(mut leased) = self.lease.take() else { return Ok(None) };
        let begin = self.end_opened(&mut leased).await?;
        let place = leased.place;
        leased.lease.hand_back();
        let target = match place {
            Place::Primary => Some(Target::Primary),
            Place::Replica(_) if belongs_on_primary(batch.verdict()) => None,
            Place::Replica(_) => Some(Target::Replica),
        };
        Ok(Some(Box::new(Anew { begin, target })))
    }

    /// Ends the transaction in which nothing has run yet. Returns the statement that begins it once more.
    pub(super) async fn end_opened(&mut self, leased: &mut Leased) -> Result<String, NoLease> {
        self.ledger.abandon();
        self.leave_no_cancel(leased).await;
        let leave = if leased.place == Place::Primary { LEAVE } else { LEAVE_STANDBY };
        let left = match leased.lease.ask(leave).await {
            Ok(answer) if leased.told != Told::Nothing => self.listens_no_more(leased).await.map(|()| answer),
            other => other,
        };
        let answer = left.map_err(|error| NoLease::Ended(self.lost(leased.place, &error.to_string(), true)))?;
        self.hear_beside(leased, answer.notifications);
        let mut shown = answer.sets.into_iter().flatten().flatten().flatten();
        let isolation = shown.next().unwrap_or_default();
        let reads = if shown.next().is_none_or(|value| value == "on") { "READ ONLY" } else { "READ WRITE" };
        let defers = if shown.next().is_some_and(|value| value == "on") { "DEFERRABLE" } else { "NOT DEFERRABLE" };
        Ok(format!("BEGIN ISOLATION LEVEL {isolation}, {reads}, {defers}"))
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
