//! When a batch is settled: what the session has made on its server connection, and whether that may be handed on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use super::batch;
use super::flights::Flights;
use super::leasing::MOST_ATTEMPTS;
use super::ledger::Status;
use super::listening::Told;
use super::{Again, Leased, Session, refusal};
use crate::cluster::Place;
use crate::config::PoolMode;
use crate::metrics::Limit;
use crate::pool::{Held, Lease, Sequences, Unlisted, difference, probe, settings_now};
use crate::server::QueryError;
use crate::sql::Effects;
use crate::wire::error::{PgError, Severity};

/// What became of a lease whose batch is settled.
#[derive(Debug)]
pub(super) enum Settled {
    /// It stays with the session or went back to its pool.
    Fine,
    /// The server was lost while it was asked what it holds.
    Lost(PgError),
}

impl Session {
    /// Everything is answered. Decides what becomes of the lease.
    pub(super) async fn settle(&mut self) -> Settled {
        let Some(mut leased) = self.lease.take() else { return Settled::Fine };
        self.count_batch(&leased);
        self.seen = self.group.clock.at(leased.answered);
        self.home = self.group.home(leased.place);
        leased.active = false;
        leased.flights.clear();
        leased.ended_early = false;
        leased.own.rests();
        leased.parsed.clear();
        leased.renamed.clear();
        self.attempts = 0;
        self.refused = false;
        self.inbound.release();
        self.intake.settled();
        if self.ledger.status() != Status::Idle {
            self.keep_base(&mut leased);
            self.keep_ceiling(&mut leased);
            self.keep_guarded(&mut leased);
            self.lease = Some(leased);
            return Settled::Fine;
        }
        self.schema_settles(&mut leased);
        let hears_itself = self.hears_itself(&leased);
        if leased.writes {
            self.has_written();
            leased.writes = false;
        }
        if self.ledger.ambiguous() {
            // Dropped, and so closed.
            self.ledger.abandon();
            leased.withheld.tell(&mut self.outbound);
            self.slot.rests();
            return Settled::Fine;
        }
        if let Err(error) = self.learn(&mut leased, hears_itself).await {
            return Settled::Lost(error);
        }
        self.stands();
        self.pass_what_is_heard();
        leased.withheld.tell(&mut self.outbound);
        leased.withheld.reported = false;
        if self.keeps_lease() {
            self.lease = Some(leased);
            return Settled::Fine;
        }
        self.slot.rests();
        match leased.lease.unlisted {
            Unlisted::Any => Box::pin(leave_nothing_unlisted(leased.lease)).await,
            Unlisted::None if self.state.has_short_timeout() => leave_no_timeout(leased.lease).await,
            Unlisted::None => leased.lease.hand_back(),
        }
        Settled::Fine
    }

    /// Finds out what the session has made and heard before its client is told that all is over. An error ends it.
    async fn learn(&mut self, leased: &mut Leased, hears_itself: bool) -> Result<(), PgError> {
        let effects = std::mem::replace(&mut self.effects, Effects::NONE);
        let tells_process = effects.contains(Effects::PROCESS) && leased.place == Place::Primary;
        let mut asks = batch::needs_probe(effects);
        if tells_process && self.mode != PoolMode::Session && self.state.keeps_process() {
            self.shared.metrics.pinned(Held::Process.label());
            // What is listened to elsewhere is listened to there from now on.
            if self.listening.is_some() {
                self.state.ask_everything();
                asks = true;
            }
        }
        if asks {
            self.leave_no_cancel(leased).await;
            // Boxed, so that those who set nothing are no larger for it.
            match Box::pin(self.look(leased)).await {
                Ok(()) => self.state.settled(),
                // The session's own timeout is too short for us: it stays here, and is asked again.
                Err(error) if error.is_cancel() => {
                    self.effects |= effects;
                    self.state.ask_everything();
                    self.pin_unseen();
                }
                Err(error) => return Err(self.lost(leased.place, &error.to_string(), false)),
            }
            self.slot.leases(&leased.lease.cancel);
        } else {
            self.state.settled();
        }
        if leased.told != Told::Nothing {
            self.leave_no_cancel(leased).await;
            let forgotten = Box::pin(self.listens_no_more(leased)).await;
            forgotten.map_err(|error| self.lost(leased.place, &error.to_string(), false))?;
            self.slot.leases(&leased.lease.cancel);
        }
        self.keep_sequences(leased);
        if let Err(error) = self.count_pin() {
            // What it holds goes with the connection.
            leased.withheld.tell(&mut self.outbound);
            return Err(PgError { severity: Severity::Fatal, ..error });
        }
        if hears_itself {
            self.leave_no_cancel(leased).await;
            match Box::pin(self.catch_up(&mut leased.lease)).await {
                Err(error) if !error.is_cancel() => return Err(self.lost(leased.place, &error.to_string(), false)),
                // Where the session's own timeout is too short for us, it hears itself a moment later.
                _ => self.slot.leases(&leased.lease.cancel),
            }
        }
        Ok(())
    }

    /// The client has its answer: a cancel that comes now is late, and may not strike a question of ours.
    pub(super) async fn leave_no_cancel(&self, leased: &Leased) {
        self.slot.rests();
        leased.lease.cancel.fence.lowered().await;
    }

    /// Whoever asks for the values of his sequences keeps the connection that has them, where there is room for that.
    /// Otherwise he has them for as long as nobody else writes there.
    fn keep_sequences(&mut self, leased: &mut Leased) {
        let has = leased.lease.sequences == Sequences::Of(self.slot.pid()) && leased.place == Place::Primary;
        // On a connection that is kept for this alone nothing would know what is listened to elsewhere.
        if !self.state.reads_sequences() || !has || self.listening.is_some() || self.mode == PoolMode::Session {
            leased.lease.kept = None;
            self.state.held = self.state.held.filter(|held| *held != Held::Sequence);
            return;
        }
        if self.state.held.is_some() {
            return;
        }
        if leased.lease.kept.is_none() {
            // Where the tenant may not, that is nobody's error.
            self.pin = self.pin.take().or_else(|| self.tenant.pin().ok());
            leased.lease.kept = self.pin.as_ref().and_then(|_| leased.lease.pool().keep());
            leased.lease.kept.iter().for_each(|_| self.shared.metrics.pinned(Held::Sequence.label()));
        }
        self.state.held = leased.lease.kept.as_ref().map(|_| Held::Sequence);
    }

    /// The tenant's count of connections that sessions keep to themselves follows what this one does.
    fn count_pin(&mut self) -> Result<(), PgError> {
        if self.state.held.is_none() || self.mode == PoolMode::Session {
            self.pin = None;
        } else if self.pin.is_none() {
            let pin = self.tenant.pin().inspect_err(|_| self.limited(Limit::MaxPinned))?;
            self.pin = Some(pin);
        }
        Ok(())
    }

    /// What the connection holds could not be found out.
    fn pin_unseen(&mut self) {
        if self.state.held.is_none() {
            self.state.held = Some(Held::Hidden);
            self.shared.metrics.pinned(Held::Hidden.label());
        }
    }

    /// Asks the server session what it holds after statements that may have changed it, and brings it
    /// to what the session is to have: a `RESET` goes back to the startup packet's values, a timeout
    /// over the tenant's ceiling to the ceiling.
    async fn look(&mut self, leased: &mut Leased) -> Result<(), QueryError> {
        // A simple query drops it.
        leased.has_unnamed = false;
        let user = leased.lease.pool().key.user.clone();
        let made = self.state.take_made();
        let settings_only = made.is_some();
        let mut holdings = match made {
            Some(made) => self.state.holdings_with(settings_now(&mut leased.lease, &made.0).await?),
            None => probe(&mut leased.lease, &user, self.state.mentioned()).await?,
        };
        if leased.own.is_on() {
            self.gather_in(leased).await?;
        }
        let found = Arc::new(holdings.settings.clone());
        let mut reports = std::mem::take(&mut leased.withheld.reports);
        reports.append(&mut holdings.reports);
        let mut notifications = std::mem::take(&mut holdings.notifications);
        let (channels, marked) = (std::mem::take(&mut holdings.channels), holdings.marked);
        let (before, known) = (self.state.held, self.state.settings.clone());
        self.state.take(holdings);
        if let Some(sql) = difference(&found, &self.state.settings) {
            let answer = leased.lease.ask(&sql).await?;
            reports.extend(answer.reports);
            notifications.extend(answer.notifications);
        }
        self.hear_beside(leased, notifications);
        leased.lease.settings = self.state.settings.clone();
        if !settings_only {
            self.take_channels(leased, channels, marked).await?;
        }
        if let Some(held) = self.state.held.filter(|held| before != Some(*held)) {
            self.shared.metrics.pinned(held.label());
        }
        let mut last = BTreeMap::from_iter(reports);
        if leased.withheld.ready && !leased.withheld.reported {
            last.retain(|name, value| known.get(&name.to_lowercase()) != Some(value));
        }
        leased.withheld.reports.extend(last);
        Ok(())
    }

    /// Inside a transaction that has reset settings: those that the client made at its startup are there again.
    fn keep_base(&mut self, leased: &mut Leased) {
        if self.ledger.status() == Status::Transaction
            && let Some(sql) = self.state.base_again()
        {
            self.inject_apart(leased, &sql);
        }
    }

    /// Inside a transaction that has made settings: no timeout above the tenant's ceiling.
    fn keep_ceiling(&mut self, leased: &mut Leased) {
        if self.ledger.status() != Status::Transaction || !self.state.take_timeout_touched() {
            return;
        }
        let keep = |(name, ceiling)| {
            format!(
                "SELECT pg_catalog.set_config(name, '{ceiling}', true) FROM pg_catalog.pg_settings \
                 WHERE name OPERATOR(pg_catalog.=) '{name}' AND NOT (setting::pg_catalog.int4 BETWEEN 1 AND {ceiling})"
            )
        };
        let sql: Vec<_> = self.state.ceilings().map(keep).collect();
        if !sql.is_empty() {
            self.inject_apart(leased, &sql.join(";"));
        }
    }

    /// The batch is to be run again: everything that was sent for it is forgotten.
    pub(super) async fn repeat(&mut self, again: Again) {
        let Some(mut leased) = self.lease.take() else { return };
        self.slot.rests();
        self.start_over(std::mem::take(&mut leased.flights));
        match again {
            Again::OnPrimary => {
                self.attempts = MOST_ATTEMPTS;
                leased.lease.hand_back();
            }
            Again::Prepared => {
                self.attempts += 1;
                // Everything that this connection has prepared is suspect, and what it was told ahead is told anew.
                leased.lease.prepared.clear();
                if leased.lease.ask("DEALLOCATE ALL; UNLISTEN *").await.is_ok() {
                    leased.lease.hand_back();
                }
            }
        }
    }

    /// Forgets what was sent of the batches whose bytes are still held: they are routed again.
    pub(super) fn start_over(&mut self, flights: Flights) {
        for before in flights.undo() {
            if let Some(unnamed) = before.unnamed {
                self.unnamed = unnamed;
            }
            for (name, named) in before.names.into_iter().rev() {
                self.names.set(&name, named);
            }
        }
        self.effects = Effects::NONE;
        self.intake.restart();
        let left = self.inbound.data().len();
        let whole = self.inbound.rewind();
        self.intake.paid(self.inbound.data().len() - left);
        debug_assert!(whole, "what is to be sent again was let go");
    }

    /// What a client is told when its server connection is lost.
    pub(super) fn lost(&self, place: Place, cause: &str, in_transaction: bool) -> PgError {
        refusal::server_lost(&self.group.host(place).config.name, cause, in_transaction)
    }

    /// The client leaves: its connection is made clean, or closed.
    pub(super) async fn release(&mut self) {
        let Some(mut leased) = self.lease.take() else { return };
        self.owes_for_what_has_run();
        self.slot.rests();
        if !self.ledger.is_empty() {
            // What runs is of no use to anybody.
            self.shared.ends(leased.lease.end(RESET_TIMEOUT));
            return;
        }
        let clean = self.ledger.settled() && !self.ledger.ambiguous() && leased.lease.outbound.is_flushed();
        let serves_others = self.mode != PoolMode::Session || leased.lease.pool().settings().reuse;
        if !clean || !serves_others || self.state.held == Some(crate::pool::Held::Sticky) {
            return;
        }
        tokio::spawn(async move {
            let reset = async {
                leased.lease.ask("ROLLBACK").await?;
                leased.lease.ask("DISCARD ALL").await
            };
            if let Ok(Ok(_)) = tokio::time::timeout(RESET_TIMEOUT, reset).await {
                leased.lease.settings = Default::default();
                leased.lease.unlisted = Unlisted::None;
                leased.lease.prepared.clear();
                leased.lease.sequences = Sequences::None;
                leased.lease.hand_back();
            }
        });
    }

    fn count_batch(&self, leased: &Leased) {
        let metrics = &leased.lease.pool().metrics;
        let worked = leased.answered.saturating_duration_since(leased.since);
        metrics.query_seconds.observe(worked.as_secs_f64());
        let now = Instant::now();
        let overhead = leased.overhead + now.saturating_duration_since(leased.answered);
        self.metrics.proxy_overhead_seconds.observe(overhead.as_secs_f64());
        let status = self.ledger.status();
        if status == Status::Idle {
            metrics.transactions.inc();
        }
        self.tenant.worked(worked, status == Status::Idle);
        self.slot.clock.statement_ends(now, status);
    }
}

/// Hands a connection back without its session's timeout, which is so short that it could strike what
/// makes the next client's settings.
async fn leave_no_timeout(mut lease: Lease) {
    lease.cancel.fence.lowered().await;
    if lease.ask("RESET statement_timeout").await.is_ok() {
        Arc::make_mut(&mut lease.settings).remove("statement_timeout");
        lease.hand_back();
    }
}

/// Hands a connection back without any settings, as some of them nobody could name.
async fn leave_nothing_unlisted(mut lease: Lease) {
    lease.cancel.fence.lowered().await;
    if lease.ask("RESET ROLE; RESET ALL").await.is_ok() {
        lease.settings = Default::default();
        lease.unlisted = Unlisted::None;
        lease.hand_back();
    }
}

/// For making a connection clean whose client has left.
const RESET_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);
