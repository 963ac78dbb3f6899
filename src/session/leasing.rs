//! From a batch to a server connection and back: routing, waiting, making the connection this
//! session's, and finding out whether it may be handed on.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::batch::{self, Batch};
use super::flights::Flights;
use super::ledger::{Awaits, Fate, Status};
use super::listening::Told;
use super::own_names::Own;
use super::slot::Signal;
use super::{Again, Leased, Schema, Session, Withheld, refusal};
use crate::cluster::{Greeting, GreetingError, Group, Moment, Place, Wanted};
use crate::config::{Consistency, PoolMode};
use crate::net::buffer::WriteBuffer;
use crate::pool::{AcquireError, Held, Lease, Member, Sequences, Settings, Terms, difference, probe, settings_now};
use crate::router::{Decision, RouteReason, SessionView, Target, route};
use crate::server::{QueryError, cancel};
use crate::sql::{Class, Effects, TxControl, Verdict};
use crate::tenant::{Entry, Pass, Queued, Tenant};
use crate::wire::author;
use crate::wire::error::{PgError, Severity};

/// Why a batch was not given a server connection.
#[derive(Debug)]
pub(super) enum NoLease {
    /// The client is told; it may go on.
    Refused(PgError),
    /// The client is told, and the connection ends.
    Ended(PgError),
    ClientGone,
}

/// What became of a lease whose batch is settled.
#[derive(Debug)]
pub(super) enum Settled {
    /// It stays with the session or went back to its pool.
    Fine,
    /// The server was lost while it was asked what it holds.
    Lost(PgError),
}

impl Session {
    /// What a function may do to a session only the catalog tells: a batch that calls one waits for it
    /// (after the start, and after the session's own change of the schema) and is then judged again.
    pub(super) async fn await_catalog(&mut self, batch: &Batch) -> bool {
        if !batch.calls || self.group.catalog_is_failing() {
            return false;
        }
        let group = self.group.clone();
        let reading = match self.awaits_catalog.take() {
            Some(reading) if !group.has_read(reading) => reading,
            None if !group.last_catalog().is_loaded() => FIRST_READING,
            _ => return false,
        };
        // What cannot be had in time is not waited for twice.
        let waited = tokio::time::timeout(CATALOG_PATIENCE, group.reading(reading)).await;
        self.intake.ungather();
        waited.is_ok()
    }

    /// Leases a connection for the batch and makes it this session's.
    pub(super) async fn lease_for(&mut self, batch: &Batch) -> Result<(), NoLease> {
        // Boxed, so that those who have no limits are no larger for it.
        if self.tenant.is_rated() {
            Box::pin(self.pay(batch)).await?;
        }
        let asked = Instant::now();
        if self.group.is_closed() {
            self.follow_configuration();
        }
        self.catalog = self.group.catalog();
        let begin = self.leave_replica().await?;
        let (mut lease, place, reason) = match self.find_lease(batch).await {
            // The client is in a transaction that there is no more.
            Err(NoLease::Refused(error)) if begin.is_some() => return Err(NoLease::Ended(error)),
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
        if let Some(begin) = begin {
            self.begin_again(&begin);
        }
        Ok(())
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
    async fn find_lease(&mut self, batch: &Batch) -> Result<(Lease, Place, RouteReason), NoLease> {
        if batch.verdict().effects.contains(Effects::READS_SEQUENCES) {
            self.group.sequences_are_read();
            if batch.verdict().tx == TxControl::None {
                self.state.sequences_are_read();
            }
            let pass = self.may_connect(Instant::now()).await?;
            let pid = self.slot.pid;
            if let Some(mut lease) = self.member(Place::Primary).try_acquire_of(pid) {
                lease.holds_by(pass);
                return Ok((lease, Place::Primary, self.decide(batch).reason));
            }
        }
        let patience = Instant::now() + self.group.failover_wait;
        loop {
            let decision = self.decide(batch);
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
        let limit = if matches!(error, AcquireError::QueueFull { .. }) { "queue_length" } else { "server_connection" };
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
        let since = Instant::now();
        let pass = self.may_connect(since).await.map_err(Err)?;
        let mut lease = match self.member(place).try_acquire() {
            Some(lease) => lease,
            // Boxed, so that those who do not wait are no larger for it.
            None => Box::pin(self.queue(place, since)).await?,
        };
        lease.holds_by(pass);
        Ok(lease)
    }

    async fn queue(&mut self, place: Place, since: Instant) -> Result<Lease, Result<AcquireError, NoLease>> {
        self.slot.waits();
        let mut waiting = self.member(place).wait(since);
        let outcome = self.wait(waiting.lease()).await;
        self.slot.rests();
        outcome.map_err(Err)?.map_err(Ok)
    }

    /// Where its tenant may use so many server connections at once: the right to one more.
    async fn may_connect(&mut self, since: Instant) -> Result<Option<Pass>, NoLease> {
        let queued = match self.tenant.connect() {
            None => return Ok(None),
            Some(Entry::Open(pass)) => return Ok(Some(pass)),
            Some(Entry::Queued(queued)) => queued,
        };
        Box::pin(self.queue_for_right(queued, since)).await.map(Some)
    }

    async fn queue_for_right(&mut self, queued: Queued, since: Instant) -> Result<Pass, NoLease> {
        let tenant = self.tenant.clone();
        let patience = self.group.pool(Place::Primary).settings().queue_timeout;
        self.slot.waits();
        let outcome = self.wait(pass(&tenant, queued, patience, since)).await;
        self.slot.rests();
        outcome?.map_err(|error| {
            self.limited("max_server_connections");
            NoLease::Refused(error)
        })
    }

    /// This client among those that share a pool.
    fn member(&mut self, place: Place) -> &Member {
        if self.members.is_empty() {
            self.members = (0..=self.group.replicas().count()).map(|_| None).collect();
        }
        let join = || self.group.pool(place).join(&self.tenant.name, Terms::of(&self.tenant.limits));
        self.members[place.number()].get_or_insert_with(join)
    }

    /// Waits for something, and for the client: it may cancel or leave.
    pub(super) async fn wait<T>(&mut self, what: impl Future<Output = T>) -> Result<T, NoLease> {
        let slot = self.slot.clone();
        let mut what = std::pin::pin!(what);
        poll_fn(|cx| {
            let signals = slot.take_signals(cx.waker());
            if signals & Signal::Cancel as u32 != 0 {
                return Poll::Ready(Err(NoLease::Refused(refusal::cancelled_in_queue())));
            }
            if signals & Signal::Shutdown as u32 != 0 {
                return Poll::Ready(Err(NoLease::Ended(refusal::shutting_down())));
            }
            if let Poll::Ready(outcome) = what.as_mut().poll(cx) {
                return Poll::Ready(Ok(outcome));
            }
            let _ = self.outbound.poll_flush(cx, &mut self.client);
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
            pristine: place != Place::Primary && self.only_begins(batch),
            told: Told::Nothing,
            ending: false,
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
        match sql.is_empty() {
            true => self.slot.leases(&leased.lease.cancel),
            false => self.slot.prepares(&leased.lease.cancel),
        }
        // A batch must not run with the settings of another tenant, and is sent behind them: one of two is made whatever
        // somebody else cancels on the server.
        if let Some(settings) = settings.filter(|_| !self.tenant.limits.settings.is_empty()) {
            self.try_query(&mut leased, &settings);
            leased.ahead += 1;
        }
        if !sql.is_empty() {
            self.inject(&mut leased, &sql);
            leased.ahead += 1;
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
            // Those who have the same come to share one copy, which is compared at a glance.
            self.state.settings = conn.settings.clone();
        }
        let matter = verdict.effects.contains(Effects::READS_SEQUENCES) || self.group.keeps_sequences_apart();
        if matter && verdict.class == Class::Primary && !conn.sequences.are_at_most(self.slot.pid) {
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
        let foreign = !leased.lease.sequences.are_at_most(self.slot.pid) && !leased.writes;
        if foreign && effects.contains(Effects::READS_SEQUENCES) && self.ledger.status() == Status::Transaction {
            leased.lease.sequences = Sequences::None;
            self.inject(leased, DISCARD_SEQUENCES);
        }
    }

    /// Does a batch begin a transaction, and nothing else?
    fn only_begins(&self, batch: &Batch) -> bool {
        let begins = |verdict: Verdict| matches!(verdict.tx, TxControl::Begin | TxControl::BeginReadOnly);
        batch.complete && batch.synced && batch.verdict.is_some_and(begins) && self.intake.binds() <= 1
    }

    /// The transaction that has begun elsewhere begins here.
    fn begin_again(&mut self, begin: &str) {
        let Some(mut leased) = self.lease.take() else { return };
        leased.flights.clear();
        self.inbound.release();
        self.inject(&mut leased, begin);
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
        self.pass_what_is_heard();
        leased.withheld.tell(&mut self.outbound);
        leased.withheld.reported = false;
        if self.keeps_lease() {
            self.lease = Some(leased);
            return Settled::Fine;
        }
        self.slot.rests();
        if self.state.has_short_timeout() {
            leave_no_timeout(leased.lease).await;
        } else {
            leased.lease.hand_back();
        }
        Settled::Fine
    }

    /// Finds out what the session has made and heard before its client is told that all is over. An error ends it.
    async fn learn(&mut self, leased: &mut Leased, hears_itself: bool) -> Result<(), PgError> {
        let effects = std::mem::replace(&mut self.effects, Effects::NONE);
        let tells_process = effects.contains(Effects::PROCESS) && leased.place == Place::Primary;
        if tells_process && self.mode != PoolMode::Session && self.state.keeps_process() {
            self.shared.metrics.pinned(Held::Process.label());
        }
        if batch::needs_probe(effects) {
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
    async fn leave_no_cancel(&self, leased: &Leased) {
        self.slot.rests();
        leased.lease.cancel.fence.lowered().await;
    }

    /// Whoever asks for the values of his sequences keeps the connection that has them, where there is room for that.
    /// Otherwise he has them for as long as nobody else writes there.
    fn keep_sequences(&mut self, leased: &mut Leased) {
        let has = leased.lease.sequences == Sequences::Of(self.slot.pid) && leased.place == Place::Primary;
        if !self.state.reads_sequences() || !has || self.mode == PoolMode::Session {
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
            let pin = self.tenant.pin().inspect_err(|_| self.limited("max_pinned"))?;
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
            self.inject(leased, &sql);
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
            self.inject(leased, &sql.join(";"));
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
        self.slot.rests();
        if !self.ledger.is_empty() {
            // The connection is closed below; what runs on it is of no use to anybody.
            let target = leased.lease.cancel.clone();
            tokio::spawn(async move { cancel(&target.host, target.pid, &target.key, RESET_TIMEOUT).await });
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
                leased.lease.prepared.clear();
                leased.lease.sequences = Sequences::None;
                leased.lease.hand_back();
            }
        });
    }

    fn count_batch(&self, leased: &Leased) {
        let metrics = &leased.lease.pool().metrics;
        metrics.query_seconds.observe(leased.answered.saturating_duration_since(leased.since).as_secs_f64());
        let now = Instant::now();
        let overhead = leased.overhead + now.saturating_duration_since(leased.answered);
        self.metrics.proxy_overhead_seconds.observe(overhead.as_secs_f64());
        let status = self.ledger.status();
        if status == Status::Idle {
            metrics.transactions.inc();
        }
        self.tenant.worked(leased.answered.saturating_duration_since(leased.since), status == Status::Idle);
        self.slot.statement_ends(now, status);
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
/// For making a connection clean whose client has left.
const RESET_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(5);

/// What a client is greeted with and, in session mode, the server connection that is its own from then on.
pub(super) async fn welcome(
    group: &Arc<Group>,
    settings: &Settings,
    mode: PoolMode,
    tenant: &Tenant,
) -> Result<(Arc<Greeting>, Option<Lease>), GreetingError> {
    let greeting = group.greeting(settings).await?;
    let lease = match mode {
        PoolMode::Session => Some(lease_for_good(group, tenant).await?),
        PoolMode::Transaction | PoolMode::Statement => None,
    };
    Ok((greeting, lease))
}

async fn lease_for_good(group: &Group, tenant: &Tenant) -> Result<Lease, GreetingError> {
    let (pool, since) = (group.pool(Place::Primary), Instant::now());
    let pass = match tenant.connect() {
        None => None,
        Some(Entry::Open(pass)) => Some(pass),
        Some(Entry::Queued(queued)) => {
            let passed = pass(tenant, queued, pool.settings().queue_timeout, since).await;
            Some(passed.map_err(GreetingError::Refused)?)
        }
    };
    let member = pool.join(&tenant.name, Terms::of(&tenant.limits));
    let mut lease = member.wait(since).lease().await.map_err(GreetingError::Acquire)?;
    lease.holds_by(pass);
    Ok(lease)
}

/// Waits until its tenant may use one more server connection.
///
/// Errors: 53300.
async fn pass(tenant: &Tenant, mut queued: Queued, patience: Duration, since: Instant) -> Result<Pass, PgError> {
    match tokio::time::timeout(patience, queued.pass()).await {
        Ok(Ok(pass)) => Ok(pass),
        failed => Err(tenant.too_many_connections(since.elapsed(), failed.is_ok())),
    }
}

/// What a client is told that cannot be greeted.
pub(super) fn not_greeted(error: GreetingError, group: &Group) -> PgError {
    use crate::wire::error::Severity::Fatal;
    let host = &group.host(Place::Primary).config.name;
    let error = match error {
        GreetingError::Acquire(error) => refusal::acquire(&error, host),
        GreetingError::Refused(error) => error,
        GreetingError::Lost(cause) => refusal::server_lost(host, &cause, false),
    };
    PgError { severity: Fatal, ..error }
}
