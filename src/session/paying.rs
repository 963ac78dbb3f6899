//! What a tenant's rate limits make of what its client asks for: it goes on, it waits, or it is refused.
//!
//! Within a transaction nothing waits, as others may wait for its locks: as much as might have been waited for goes on at
//! once and is paid for by what comes next, and beyond that a statement is refused. What ends a transaction never is. A message
//! with several transactions is paid for as one, and for the others by what comes next; so are the statements of one that is too
//! long to be looked at.

use std::time::Instant;

use super::Session;
use super::batch::Batch;
use super::leasing::NoLease;
use super::ledger::Status;
use super::request::Request;
use super::statements::Unnamed;
use crate::metrics::Limit;
use crate::sql::{TxControl, statements};
use crate::tenant::Use;
use crate::wire::error::PgError;

impl Session {
    /// Has its tenant any rate limits, also if it has them only by now? Where no tenant's limits have changed, what is counted
    /// for this one need not be fetched from memory to know that.
    pub(super) fn is_rated(&self) -> bool {
        match self.has_current_limits() {
            true => !self.tenant.limits.rate_limits.is_empty(),
            false => self.tenant.is_rated(),
        }
    }

    /// Statements of a simple query, where anybody counts them.
    pub(super) fn counted(&self, text: &[u8]) -> u32 {
        // Of whoever may name another tenant nobody knows yet.
        if !self.is_rated() && self.switching.is_none() {
            return 1;
        }
        self.tenant.is_about_to_pay();
        statements(text)
    }

    /// For a batch that is about to be routed.
    pub(super) async fn pay(&mut self, batch: &Batch) -> Result<(), NoLease> {
        if self.intake.has_paid(batch.len) {
            return Ok(());
        }
        let what = self.unpaid(batch, !self.is_opened());
        let wait = self.tenant.pay(what, Instant::now()).map_err(|error| NoLease::Refused(self.rated(error)))?;
        if !wait.is_zero() {
            self.delayed();
            self.waits();
            let waited = self.wait(tokio::time::sleep(wait)).await;
            self.waits_no_more();
            waited?;
        }
        self.intake.paid(batch.len);
        Ok(())
    }

    /// For a batch that goes where the one before it went: false where it would have to wait.
    pub(super) fn pays_at_once(&mut self, batch: &Batch) -> bool {
        if !self.is_rated() || self.intake.has_paid(batch.len) {
            return true;
        }
        let what = self.unpaid(batch, true);
        let paid = self.tenant.pays_at_once(what, Instant::now());
        if paid {
            self.intake.paid(batch.len);
        }
        paid
    }

    /// For a batch within a transaction, which does not wait. `begins`: the transaction is its tenant's from here on.
    pub(super) fn pays_within(&mut self, batch: &Batch, begins: bool) -> Result<(), PgError> {
        if self.is_rated() && !self.intake.has_paid(batch.len) {
            let what = self.unpaid(batch, begins);
            self.tenant.pay(what, Instant::now()).map_err(|error| self.rated(error))?;
            self.intake.paid(batch.len);
        }
        Ok(())
    }

    /// Its first message may have been paid for by itself, before it was known that it would have to wait for what was
    /// sent before.
    fn unpaid(&self, batch: &Batch, begins: bool) -> Use {
        let first = !self.intake.has_paid(1);
        let statements = batch.statements.saturating_sub(u32::from(!first));
        Use { statements, transactions: u32::from(begins && first) }
    }

    /// For a message, of `len` bytes, that is not part of a batch which was paid for.
    pub(super) fn pay_for(&mut self, request: Request<'_>, len: usize) -> Result<(), PgError> {
        if !self.is_rated() || self.intake.has_paid(len) {
            return Ok(());
        }
        let statements = match request {
            Request::Query(text) => self.counted(text),
            Request::Bind(_) | Request::LongQuery { .. } | Request::FunctionCall(_) => 1,
            _ => return Ok(()),
        };
        self.intake.paid(len);
        let idle = self.ledger.status() == Status::Idle;
        let what = Use { statements, transactions: u32::from(idle && !self.ledger.is_unsynced()) };
        let now = Instant::now();
        let Err(error) = self.tenant.pay(what, now) else { return Ok(()) };
        // What was sent before may have begun a transaction.
        let may_end =
            matches!(self.tx(request), TxControl::End | TxControl::Inside) && !(idle && self.ledger.is_empty());
        if may_end || self.ledger.status() == Status::Failed {
            self.tenant.owe(what, now);
            return Ok(());
        }
        Err(self.rated(error))
    }

    /// A batch was paid for as one transaction, or one statement, and has turned out to be so many more.
    pub(super) fn owes(&self, more: Use) {
        if more != Use::default() && self.is_rated() {
            self.tenant.owe(more, Instant::now());
        }
    }

    /// The same of one whose end nobody sees.
    pub(super) fn owes_for_what_has_run(&self) {
        self.owes(self.slot.clock.batch_is_over(self.ledger.status()));
    }

    fn tx(&mut self, request: Request<'_>) -> TxControl {
        match request {
            Request::Query(text) => self.classify(text).tx,
            Request::Bind(head) => self.tx_of(head.statement),
            _ => TxControl::None,
        }
    }

    fn tx_of(&self, statement: &[u8]) -> TxControl {
        let named = self.names.get(statement).map(|named| named.verdict);
        let verdict = match &self.unnamed {
            Unnamed::Kept { verdict, .. } if statement.is_empty() => Some(*verdict),
            _ => named,
        };
        verdict.map_or(TxControl::None, |verdict| verdict.tx)
    }

    fn delayed(&self) {
        self.tenant.delayed();
        self.audit("rate_limit_delay");
    }

    fn rated(&self, error: PgError) -> PgError {
        self.limited(Limit::RateLimit);
        error
    }
}
