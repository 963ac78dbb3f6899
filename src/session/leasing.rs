//! From a batch to a server connection: routing, waiting, and making the connection this session's. `settling.rs` is the
//! way back.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::batch::Batch;
use super::flights::Flights;
use super::ledger::{Awaits, Fate, Status};
use super::listening::Told;
use super::own_names::Own;
use super::slot::Signal;
use super::{Leased, Opened, Schema, Session, Withheld, refusal};
use crate::cluster::{Moment, Place, Wanted};
use crate::config::{Consistency, PoolMode};
use crate::metrics::Limit;
use crate::net::buffer::WriteBuffer;
use crate::pool::{AcquireError, Lease, Member, Sequences, difference};
use crate::router::{Decision, RouteReason, SessionView, Target, route};
use crate::server::QueryError;
use crate::sql::{Class, Effects, Reason, TxControl, Verdict};
use crate::wire::author;
use crate::wire::error::PgError;

/// Why a batch was not given a server connection.
#[derive(Debug)]
pub(super) enum NoLease {
    /// The client is told; it may go on.
    Refused(PgError),
    /// The client is told, and the connection ends.
    Ended(PgError),
    ClientGone,
}

impl Session {
    /// What a function may do to a session only the catalog tells: a batch that calls one waits for it
    /// (after the start, and after the session's own change of the schema) and is then judged again. Where the tenant is strict
    /// or has settings that are held so does any: it may run code by an operator, and by what it writes.
    pub(super) async fn await_catalog(&mut self, batch: &Batch) -> bool {
        let limits = &self.tenant.limits;
        // One change of the schema does not wait for what the one before it has made.
        let reaches = || !limits.settings.is_empty() && !matches!(batch.verdict().reason, Reason::Ddl);
        let waits = batch.calls || limits.strict || reaches();
        if !waits || self.group.catalog_is_failing() {
            return false;
        }
        let group = self.group.clone();
        let reading = match self.awaits_catalog.take() {
            Some(reading) if !group.has_read(reading.get()) => reading.get(),
            None if !group.last_catalog().is_loaded() && !self.catalog_is_late => FIRST_READING,
            _ => return false,
        };
        // What cannot be had in time is not waited for twice.
        let waited = tokio::time::timeout(CATALOG_PATIENCE, group.reading(reading)).await.is_ok();
        match waited {
            true => self.intake.ungather(),
            false => self.catalog_is_late = true,
        }
        waited
    }

    /// Leases a connection for the batch and makes it this session's.
    pub(super) async fn lease_for(&mut self, batch: &Batch) -> Result<(), NoLease> {
        // Of a transaction that has begun that is known.
        if !self.is_opened() {
            self.follows_limits();
            self.works_for_its_tenant().map_err(NoLease::Refused)?;
        }
        // Boxed, so that those who have no limits are no larger for it.
        if self.is_rated() {
            Box::pin(self.pay(batch)).await?;
        }
        if self.keeps_lease() && self.lease.is_some() {
            return Box::pin(self.goes_on_here(batch)).await;
        }
        let asked = Instant::now();
        if self.group.is_closed() {
            self.follow_configuration();
        }
        // Boxed, as few transactions move.
        let anew = if self.lease.is_some() { Box::pin(self.leave_opened(batch)).await? } else { None };
        let moved = anew.as_ref().and_then(|anew| anew.target);
        let (mut lease, place, reason) = match self.find_lease(batch, moved).await {
            // The client is in a transaction that there is no more.
            Err(NoLease::Refused(error)) if anew.is_some() => return Err(NoLease::Ended(error)),
            found => found?,
        };
        if self.depends_on_channels(batch.verdict().effects) {
            let lost = |session: &Self, error: QueryError| session.lost(place, &error.to_string(), false);
            // What was heard before this batch comes before its answer.
            Box::pin(self.catch_up(&mut lease)).await.map_err(|error| NoLease::Ended(lost(self, error)))?;
        }
        self.count_route(place, reason);
        let waited = asked.elapsed();
        self.metrics.wait_seconds.observe(waited.as_secs_f64());
        self.take(lease, place, batch, asked + waited);
        if let Some(anew) = anew {
            self.begin_again(&anew.begin);
        }
        Ok(())
    }

    /// The same where the session keeps its server connection: once its tenant is not paused.
    async fn goes_on_here(&mut self, batch: &Batch) -> Result<(), NoLease> {
        if self.tenant.is_paused() {
            let resumed = self.await_resumption().await;
            match (resumed, self.lease.as_mut().filter(|leased| leased.opened == Opened::Leaves)) {
                // The transaction fails, which has begun.
                (Err(NoLease::Refused(error)), Some(leased)) => {
                    leased.opened = Opened::Refused(Box::new(error));
                    self.intake.ungather();
                    return Ok(());
                }
                (outcome, _) => outcome?,
            }
        }
        let Some(mut leased) = self.lease.take() else { return Ok(()) };
        let begin = match leased.opened {
            Opened::Leaves => Some(self.end_opened(&mut leased).await?),
            Opened::No | Opened::Begun | Opened::Refused(_) => None,
        };
        self.brings_up_to_date(&mut leased).await.map_err(NoLease::Ended)?;
        self.slot.leases(&leased.lease.cancel);
        leased.opened = self.opens(leased.place, batch);
        self.lease = Some(leased);
        self.intake.admit(batch);
        if let Some(begin) = begin {
            self.begin_again(&begin);
        }
        Ok(())
    }

    async fn await_resumption(&mut self) -> Result<(), NoLease> {
        let (tenant, since) = (self.tenant.clone(), Instant::now());
        let patience = self.group.pool(Place::Primary).settings().queue_timeout;
        let resumed = tokio::time::timeout(patience, async move { tenant.resumed().await });
        self.waits();
        let outcome = self.wait(resumed).await;
        self.waits_no_more();
        outcome?.map_err(|_| {
            self.limited(Limit::Paused);
            NoLease::Refused(self.tenant.still_paused(since.elapsed()))
        })
    }

    /// May the session go on at once on the server connection that it keeps?
    pub(super) fn goes_on_at_once(&mut self, batch: &Batch) -> bool {
        let up_to_date = |leased: &Leased| leased.lease.settings == self.state.settings;
        self.is_of_this_tenant()
            && !self.is_held_otherwise()
            && self.lease.as_ref().is_some_and(up_to_date)
            && self.pays_at_once(batch)
    }

    /// Where others leave connections to its tenant they do so for as long as there is a client.
    pub(super) fn joins(&mut self) {
        self.members = Box::default();
        if self.tenant.limits.min_server_connections > 0 {
            let replicas = (0..self.group.replicas().count()).map(Place::Replica);
            for place in std::iter::once(Place::Primary).chain(replicas) {
                self.member(place);
            }
        }
    }

    /// The servers of the configuration have changed: the session goes on with the new ones.
    fn follow_configuration(&mut self) {
        let Some(group) = self.group.successor() else { return };
        self.names.adopt(&group.statements);
        // Moments of another clock: whatever was written was written before now.
        self.last_write = group.clock.now();
        (self.seen, self.home) = (self.last_write, None);
        self.awaits_catalog = None;
        self.group = group;
        self.joins();
    }

    pub(super) fn decide(&self, batch: &Batch) -> Decision {
        if self.mode == PoolMode::Session {
            return Decision { target: Target::Primary, reason: RouteReason::Pinned };
        }
        let view = SessionView {
            in_transaction: None,
            pinned: self.state.is_serializable().then_some(Target::Primary),
            default_read_only: self.state.default_read_only(),
            replicas: self.group.has_replicas(),
        };
        let decision = route(&batch.verdict(), &view);
        if decision.target == Target::Replica && !batch.is_closed() && !view.default_read_only {
            return Decision { target: Target::Primary, reason: RouteReason::Unfinished };
        }
        if decision.target == Target::Replica && batch.refused && !self.refused {
            return Decision { target: Target::Primary, reason: RouteReason::Refused };
        }
        decision
    }

    /// A read tries the replicas one after the other, and then the primary: one that is gone never
    /// costs a read.
    ///
    /// While there is no primary, whoever needs it waits for one, and goes on with the servers of a new configuration.
    ///
    /// `moved`: where a transaction goes on that has begun elsewhere.
    async fn find_lease(
        &mut self,
        batch: &Batch,
        moved: Option<Target>,
    ) -> Result<(Lease, Place, RouteReason), NoLease> {
        if batch.verdict().effects.contains(Effects::READS_SEQUENCES) {
            self.group.sequences_are_read();
            if batch.verdict().tx == TxControl::None {
                self.state.sequences_are_read();
            }
            let pid = self.slot.pid();
            if let Some(lease) = self.member(Place::Primary).try_acquire_of(pid) {
                return Ok((lease, Place::Primary, self.decide(batch).reason));
            }
        }
        let patience = Instant::now() + self.group.failover_wait;
        loop {
            let decision = match moved {
                Some(target) => Decision { target, reason: RouteReason::InTransaction },
                None => self.decide(batch),
            };
            match self.try_lease(decision, &self.wanted(batch)).await {
                Ok(found) => return Ok(found),
                Err(Err(no_lease)) => return Err(no_lease),
                Err(Ok((AcquireError::Closed, _))) if self.group.successor().is_some() => {}
                Err(Ok((AcquireError::Connect(_), Place::Primary))) if Instant::now() < patience => {
                    self.slot.waits();
                    let group = self.group.clone();
                    let waited = self.wait(async move { group.changes().await }).await;
                    self.slot.rests();
                    waited?;
                }
                Err(Ok((error, place))) => return Err(self.not_acquired(&error, place)),
            }
            if self.group.is_closed() {
                self.follow_configuration();
            }
        }
    }

    /// The inner error is that of the pool at a place, the outer one what happened to the client meanwhile.
    async fn try_lease(
        &mut self,
        decision: Decision,
        wanted: &Wanted,
    ) -> Result<(Lease, Place, RouteReason), Result<(AcquireError, Place), NoLease>> {
        let mut reason = decision.reason;
        if decision.target == Target::Replica && self.attempts >= MOST_ATTEMPTS {
            reason = RouteReason::Healed;
        } else if decision.target == Target::Replica {
            loop {
                let Some(place) = self.pick_replica(wanted).await.map_err(Err)? else {
                    reason =
                        if self.group.has_live_replica() { RouteReason::NotFresh } else { RouteReason::ReplicaDown };
                    break;
                };
                match self.acquire(place).await {
                    Ok(lease) => return Ok((lease, place, reason)),
                    Err(Ok(AcquireError::Connect(_))) => {
                        self.group.host(place).set_up(false);
                    }
                    Err(error) => return Err(error.map(|error| (error, place))),
                }
            }
        }
        if self.group.lacks_primary() {
            return Err(Ok((self.group.no_primary(), Place::Primary)));
        }
        match self.acquire(Place::Primary).await {
            Ok(lease) => Ok((lease, Place::Primary, reason)),
            Err(error) => Err(error.map(|error| (error, Place::Primary))),
        }
    }

    /// What a batch has to see.
    pub(super) fn wanted(&self, batch: &Batch) -> Wanted {
        let written = match self.consistency_of(batch) {
            Consistency::Eventual => return Wanted::default(),
            Consistency::Session => self.last_write,
            Consistency::Tenant => self.last_write.max(Moment::from_raw(self.tenant.last_write())),
        };
        Wanted { written, seen: self.seen, home: self.home }
    }

    /// A replica that shows what is wanted, where there is one or is about to be.
    async fn pick_replica(&mut self, wanted: &Wanted) -> Result<Option<Place>, NoLease> {
        let found = self.group.pick_replica(wanted);
        if found.is_some() {
            self.fallbacks = 0;
            return Ok(found);
        }
        // Each read of the primary shows what no replica is known to show yet. A session that reads without a pause
        // would never leave it.
        let returns = self.fallbacks >= RETURNS_AFTER
            && self.group.pick_replica(&Wanted { seen: Moment::NEVER, ..*wanted }).is_some();
        let patience = self.group.freshness_wait.max(if returns { RETURN_WAIT } else { Duration::ZERO });
        self.fallbacks = if returns { 0 } else { self.fallbacks.saturating_add(1) };
        if patience.is_zero() || !self.group.has_live_replica() {
            return Ok(None);
        }
        let (group, wanted) = (self.group.clone(), *wanted);
        let caught_up = async move { tokio::time::timeout(patience, group.await_replica(&wanted)).await.ok() };
        self.slot.waits();
        let outcome = self.wait(caught_up).await;
        self.slot.rests();
        outcome
    }

    fn not_acquired(&self, error: &AcquireError, place: Place) -> NoLease {
        if let AcquireError::Timeout { waited, .. } = error
            && self.tenant.is_at_its_most()
        {
            let paused = self.tenant.is_paused();
            self.limited(if paused { Limit::Paused } else { Limit::MaxServerConnections });
            return NoLease::Refused(self.tenant.too_many_connections(*waited));
        }
        let full = matches!(error, AcquireError::QueueFull { .. });
        let limit = if full { Limit::QueueLength } else { Limit::ServerConnection };
        self.limited(limit);
        let error = refusal::acquire(error, &self.group.host(place).config.name);
        match error.severity {
            crate::wire::error::Severity::Error => NoLease::Refused(error),
            crate::wire::error::Severity::Fatal => NoLease::Ended(error),
        }
    }

    /// A connection of one pool: an idle one at once, or a place in the queue. The inner error is the
    /// pool's, the outer one what happened to the client meanwhile.
    async fn acquire(&mut self, place: Place) -> Result<Lease, Result<AcquireError, NoLease>> {
        match self.member(place).try_acquire() {
            Some(lease) => Ok(lease),
            // Boxed, so that those who do not wait are no larger for it.
            None => Box::pin(self.queue(place)).await,
        }
    }

    async fn queue(&mut self, place: Place) -> Result<Lease, Result<AcquireError, NoLease>> {
        self.slot.waits();
        let session = Some(self.slot.pid());
        let mut waiting = self.member(place).wait_as(session, Instant::now());
        let outcome = self.wait(waiting.lease()).await;
        self.slot.rests();
        outcome.map_err(Err)?.map_err(Ok)
    }

    /// This client among those that share a pool.
    fn member(&mut self, place: Place) -> &Member {
        if self.members.is_empty() {
            self.members = (0..=self.group.replicas().count()).map(|_| None).collect();
        }
        let join = || self.group.pool(place).join(&self.tenant);
        self.members[place.number()].get_or_insert_with(join)
    }

    /// The session waits, perhaps with a server connection that it keeps.
    pub(super) fn waits(&self) {
        match &self.lease {
            Some(leased) => self.slot.waits_with(&leased.lease.cancel),
            None => self.slot.waits(),
        }
    }

    pub(super) fn waits_no_more(&self) {
        match &self.lease {
            Some(leased) => self.slot.leases(&leased.lease.cancel),
            None => self.slot.rests(),
        }
    }

    /// Waits for something, and for the client: it may cancel or leave.
    pub(super) async fn wait<T>(&mut self, what: impl Future<Output = T>) -> Result<T, NoLease> {
        let slot = self.slot.clone();
        let mut what = std::pin::pin!(what);
        poll_fn(|cx| {
            let signals = slot.take_signals(cx.waker());
            if signals & (Signal::Shutdown as u32 | Signal::End as u32) != 0 {
                return Poll::Ready(Err(NoLease::Ended(refusal::shutting_down())));
            }
            if signals & Signal::Fenced as u32 != 0 {
                return Poll::Ready(Err(NoLease::Ended(self.fenced())));
            }
            if signals & Signal::Cancel as u32 != 0 {
                return Poll::Ready(Err(NoLease::Refused(refusal::cancelled_in_queue())));
            }
            if let Poll::Ready(outcome) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            let _ = self.flush_client(cx);
            while self.poll_client(cx).is_ready() {
                if self.client_gone {
                    return Poll::Ready(Err(NoLease::ClientGone));
                }
            }
            Poll::Pending
        })
        .await
    }

    fn count_route(&self, place: Place, reason: RouteReason) {
        let target = usize::from(place != Place::Primary);
        if let Some((_, counters)) = self.shared.routes.iter().find(|(known, _)| *known == reason) {
            counters[target].inc();
        }
    }

    /// The connection becomes this session's: its settings are made, in the same write as the batch.
    fn take(&mut self, lease: Lease, place: Place, batch: &Batch, leased_at: Instant) {
        let repeatable = batch.is_closed()
            && batch.verdict.is_none_or(|verdict| verdict.tx == TxControl::None)
            && self.mode != PoolMode::Session;
        let mut leased = Leased {
            lease,
            place,
            own: Own::default(),
            passing: 0,
            swallowing: false,
            has_unnamed: false,
            flushed: false,
            portals: false,
            ended_early: false,
            bound: None,
            unnamed_portal: None,
            opened: self.opens(place, batch),
            told: Told::Nothing,
            ending: None,
            checking: false,
            batch: 0,
            parsed: Vec::new(),
            renamed: Vec::new(),
            unnamed_changed: 0,
            schema: Schema::Same,
            writes: false,
            untouched: true,
            ahead: 0,
            held_back: WriteBuffer::default(),
            holding_back: false,
            flights: if repeatable { Flights::first(batch.len) } else { Flights::default() },
            again: None,
            withheld: Withheld::default(),
            active: false,
            said_fatal: false,
            write_error: None,
            since: leased_at,
            answered: leased_at,
            overhead: Duration::ZERO,
        };
        if repeatable {
            self.inbound.hold();
        }
        let (settings, other) = self.tell_ahead(&mut leased, batch);
        let sql = [settings.clone(), other].into_iter().flatten().collect::<Vec<_>>().join(";");
        // A batch must not run with the settings of another tenant, and is sent behind them: one of two is made whatever
        // somebody else cancels on the server.
        if let Some(settings) = settings.filter(|_| !self.tenant.limits.settings.is_empty()) {
            self.comes_apart(&mut leased);
            self.try_query(&mut leased, &settings);
        }
        match sql.is_empty() {
            true => self.slot.leases(&leased.lease.cancel),
            false => self.inject_apart(&mut leased, &sql),
        }
        self.lease = Some(leased);
        self.intake.admit(batch);
    }

    /// What the connection has to be told ahead of a batch, so that this one finds it as its session has left it: what
    /// makes its settings, and the rest.
    fn tell_ahead(&mut self, leased: &mut Leased, batch: &Batch) -> (Option<String>, Option<String>) {
        let verdict = batch.verdict();
        let conn = &mut *leased.lease;
        let mut sql = Vec::new();
        let mut settings = None;
        if conn.settings != self.state.settings {
            settings = difference(&conn.settings, &self.state.settings);
            conn.settings = self.state.settings.clone();
        } else if !Arc::ptr_eq(&conn.settings, &self.state.settings) {
            // Those who have the same come to share one copy, which is compared at a glance: of any two the one that lies
            // first in memory, so that all come to the same.
            let shared = std::cmp::min_by_key(&conn.settings, &self.state.settings, |one| Arc::as_ptr(one)).clone();
            conn.settings = shared.clone();
            self.state.settings = shared;
        }
        let matter = verdict.effects.contains(Effects::READS_SEQUENCES) || self.group.keeps_sequences_apart();
        if matter && verdict.class == Class::Primary && !conn.sequences.are_at_most(self.slot.pid()) {
            sql.push(DISCARD_SEQUENCES.to_owned());
            conn.sequences = Sequences::None;
        }
        // A transaction is shown what was listened to before it began, and no more than that. And where another channel is
        // listened to, one connection hears what comes on all of them in its order.
        let shown = verdict.tx != TxControl::None || verdict.effects.contains(Effects::LISTENS);
        let matters = shown && leased.place == Place::Primary && self.listening.is_some();
        if matters || self.depends_on_channels(verdict.effects) {
            sql.push(self.tell_channels());
            leased.told = Told::Everything;
        }
        sql.extend(self.introduce_ahead(leased, verdict, batch.is_closed()));
        (settings, (!sql.is_empty()).then(|| sql.join(";")))
    }

    /// The connection of a client in session mode, from its login on.
    pub(super) fn take_for_good(&mut self, lease: Lease) {
        let nothing = Batch { complete: true, ..Batch::empty() };
        self.take(lease, Place::Primary, &nothing, Instant::now());
    }

    /// Within a transaction that has taken none, no values of sequences are there that others have taken.
    pub(super) fn forget_sequences(&mut self, leased: &mut Leased, effects: Effects) {
        let foreign = !leased.lease.sequences.are_at_most(self.slot.pid()) && !leased.writes;
        if foreign && effects.contains(Effects::READS_SEQUENCES) && self.ledger.status() == Status::Transaction {
            leased.lease.sequences = Sequences::None;
            self.inject(leased, DISCARD_SEQUENCES);
        }
    }

    /// Does a batch begin a transaction, and nothing else, where its first statement may not belong?
    fn opens(&self, place: Place, batch: &Batch) -> Opened {
        let begins = |verdict: Verdict| matches!(verdict.tx, TxControl::Begin | TxControl::BeginReadOnly);
        let only = batch.complete && batch.synced && batch.verdict.is_some_and(begins) && self.intake.binds() <= 1;
        let matters = place != Place::Primary || self.switching.is_some();
        if only && matters { Opened::Begun } else { Opened::No }
    }

    /// The same for a batch on the server connection that the session keeps.
    pub(super) fn opens_here(&mut self, batch: &Batch) {
        let Some(mut leased) = self.lease.take() else { return };
        leased.opened = self.opens(leased.place, batch);
        self.lease = Some(leased);
    }

    /// The transaction that has begun elsewhere begins here.
    fn begin_again(&mut self, begin: &str) {
        let Some(mut leased) = self.lease.take() else { return };
        leased.flights.clear();
        self.inbound.release();
        self.inject_apart(&mut leased, begin);
        self.lease = Some(leased);
    }

    /// Sends a statement of our own; the client does not see its answer.
    pub(super) fn inject(&mut self, leased: &mut Leased, sql: &str) {
        author::query(leased.lease.outbound.bytes(), sql);
        leased.has_unnamed = false;
        self.ledger.push(Awaits::Query, Fate::Swallow, None);
    }

    /// The same where it may fail.
    pub(super) fn try_query(&mut self, leased: &mut Leased, sql: &str) {
        author::query(leased.lease.outbound.bytes(), sql);
        leased.has_unnamed = false;
        self.ledger.push(Awaits::Query, Fate::Try, None);
    }

    /// Sends a statement of our own that no cancel may strike: it comes before whatever the client sends next.
    pub(super) fn inject_apart(&mut self, leased: &mut Leased, sql: &str) {
        self.comes_apart(leased);
        self.inject(leased, sql);
    }

    fn comes_apart(&mut self, leased: &mut Leased) {
        self.slot.prepares(&leased.lease.cancel);
        leased.ahead += 1;
    }
}

/// `currval` and `lastval` are not defined then, until the next `nextval`.
const DISCARD_SEQUENCES: &str = "DISCARD SEQUENCES";

/// A batch is tried on this many servers before it goes to the primary for good.
pub(super) const MOST_ATTEMPTS: u8 = 3;
/// Reads on the primary for want of a fresh replica, after which one waits to get back to the replicas.
const RETURNS_AFTER: u8 = 3;
/// How long: replicas that are not behind show by then what the session has just seen.
const RETURN_WAIT: Duration = Duration::from_millis(5);
/// Any reading of the catalog will do.
const FIRST_READING: u64 = 1;
/// For a catalog that is about to be read.
const CATALOG_PATIENCE: Duration = Duration::from_secs(2);
