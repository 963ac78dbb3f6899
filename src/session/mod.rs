//! A session: one client from its greeting to its end, and the server connections that it is lent.
//!
//! One task owns the client's socket and, while it holds a lease, the server's. It gathers a batch
//! (`intake`), has it routed and leased (`leasing`), sends it on (`sending`, and `preparing` for
//! statements with names), relays both ways (`relay`, `replies`) until the `ledger` is settled, and hands
//! the lease back. What may have to be run elsewhere is remembered meanwhile (`flights`, `moving`).

mod batch;
mod clock;
mod deadline;
mod explain;
mod flights;
mod guarding;
mod hearing;
mod intake;
mod introducing;
mod leasing;
pub mod ledger;
mod listening;
mod moving;
mod own_names;
mod paying;
mod preparing;
mod refusal;
mod relay;
pub mod replication;
mod replies;
pub mod request;
mod sending;
mod server_error;
mod settling;
mod slot;
mod state;
mod statements;
mod switching;
mod unseen;
mod welcoming;

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use clock::{Ceilings, CutOff};
pub use deadline::{enforce_ceilings, leave_silent_replicas};
pub use refusal::{guarded, unknown_consistency};
pub use slot::{Activity, Registry, Signal, Slot};
pub use state::CONSISTENCY;

use crate::cluster::{Group, Home, Moment, Place};
use crate::config::{Consistency, PoolMode};
use crate::metrics::{Limit, Metrics, PoolMetrics, Who};
use crate::net::buffer::{ReadBuffer, WriteBuffer};
use crate::net::stream::Stream;
use crate::pool::{Lease, Member, Sequences};
use crate::router::RouteReason;
use crate::sql::{
    Catalog, Class, Classifier, Effects, Reason, SettingNames, TxControl, Verdict, custom_settings, databases_named,
    explained_route, mentions, setting_names,
};
use crate::tenant::{Taken, Tenant, changes};
use crate::wire::author;
use crate::wire::error::PgError;
use crate::wire::frame::backend;
use flights::Flights;
use intake::Intake;
use ledger::Ledger;
use listening::{Listening, Told};
use own_names::Own;
use request::{LONGEST_QUERY, LONGEST_WHOLE, is_long};
use state::{OWN_SETTINGS, State};
use statements::{Change, Names, Unnamed, Used};
pub use switching::{FindTenant, Switching, TENANT};

/// What all sessions of the process share.
pub struct Shared {
    pub classifier: Classifier,
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Log the text of statements.
    pub log_statements: bool,
    routes: Vec<(RouteReason, [prometheus::IntCounter; 2])>,
    /// Shared with whatever is ending server connections.
    endings: Arc<()>,
}

impl Shared {
    /// `cache` is the size of the classifier's cache in bytes.
    pub fn new(metrics: Arc<Metrics>, cache: usize, log_statements: bool) -> Self {
        let counters =
            |reason: RouteReason| ["primary", "replica"].map(|target| metrics.route_counter(target, reason.label()));
        let routes = RouteReason::ALL.iter().map(|&reason| (reason, counters(reason))).collect();
        let (registry, endings) = Default::default();
        Self { classifier: Classifier::new(cache), registry, metrics, log_statements, routes, endings }
    }

    /// Ends a server connection for which no session waits.
    fn ends(&self, ending: impl Future<Output = ()> + Send + 'static) {
        let under_way = self.endings.clone();
        tokio::spawn(async move {
            ending.await;
            drop(under_way);
        });
    }

    /// Returns when no server connection is being ended.
    pub async fn ended(&self) {
        while Arc::strong_count(&self.endings) > 1 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Everything that a client brought from its handshake, and what the configuration says of it.
pub struct Arrival {
    pub stream: Stream,
    /// Bytes that came behind the handshake.
    pub unread: BytesMut,
    /// Messages of the handshake that are not written yet (`AuthenticationOk` is the last).
    pub out: BytesMut,
    pub user: Arc<str>,
    pub database: Arc<str>,
    pub protocol_minor: u16,
    /// Settings of the startup packet, the tenant's ceilings included.
    pub settings: crate::pool::Settings,
    pub tenant: Tenant,
    pub mode: PoolMode,
    /// What its reads have to see where its tenant says nothing of it.
    pub consistency: Consistency,
    /// Where its user may say for which tenant it works.
    pub switching: Option<Box<Switching>>,
}

/// See the module's page.
pub struct Session {
    client: Stream,
    inbound: ReadBuffer,
    outbound: WriteBuffer,
    shared: Arc<Shared>,
    group: Arc<Group>,
    slot: Arc<Slot>,
    tenant: Tenant,
    /// See [`longest_query`].
    longest_query: usize,
    mode: PoolMode,
    /// What its reads have to see, and where its tenant says nothing of it.
    consistency: Consistency,
    usual_consistency: Consistency,
    metrics: PoolMetrics,
    catalog: Arc<Catalog>,
    intake: Intake,
    ledger: Ledger<Change>,
    lease: Option<Leased>,
    /// Its places among those that share pools, by the number of the host, from the first use on.
    members: Box<[Option<Member>]>,
    names: Names,
    unnamed: Unnamed,
    state: State,
    /// For as long as it holds a server connection to itself.
    pin: Option<Taken>,
    /// Who listens for it, where it listens at all.
    listening: Option<Box<Listening>>,
    /// Of what was sent since the server was last known to be idle.
    effects: Effects,
    /// When this session's last write was answered.
    last_write: Moment,
    /// When anything was last answered: the session has seen nothing younger.
    seen: Moment,
    /// Where the session has read last.
    home: Option<Home>,
    /// Reads that went to the primary for want of a fresh replica, since one went to a replica.
    fallbacks: u8,
    /// The client has closed its side.
    client_gone: bool,
    /// Servers that the batch at hand was tried on in vain.
    attempts: u8,
    /// The last of them has refused it.
    refused: bool,
    /// It has waited in vain for the catalog to be read for the first time.
    catalog_is_late: bool,
    /// It has made code that its writes may run without naming it.
    makes_code: bool,
    /// See [`changes`].
    limits_of: u32,
    /// The reading of the catalog that knows what this session has changed.
    awaits_catalog: Option<NonZeroU64>,
    /// Where the client may say for whom it works.
    switching: Option<Box<Switching>>,
}

/// A lease, and what is known of its use.
struct Leased {
    lease: Lease,
    place: Place,
    /// Statements that it has under this session's own names.
    own: Own,
    /// Bytes of the server's current frame that are still to come.
    passing: usize,
    /// That frame is not for the client.
    swallowing: bool,
    /// The connection's unnamed statement is this session's.
    has_unnamed: bool,
    /// The server was asked for the replies that it still had.
    flushed: bool,
    /// There are portals in the batch that is being sent.
    portals: bool,
    /// We have ended the client's batch with a `Sync` of our own, where it had a `Flush`.
    ended_early: bool,
    /// The last portal, by a hash of its name, and its statement.
    bound: Option<(u64, Used)>,
    /// The batch that bound the unnamed portal. `None` also behind a simple `Query`, which has one of its own, and
    /// behind an error.
    unnamed_portal: Option<u32>,
    opened: Opened,
    /// What the session listens to was made known to the server connection.
    told: Told,
    /// The last batch that may end the transaction.
    ending: Option<u32>,
    /// A statement's rows are compared with those that the client knows.
    checking: bool,
    /// The batch that is being sent, by number.
    batch: u32,
    /// Statements that the connection was given since the ledger was last empty, with the batch.
    parsed: Vec<(u64, u32)>,
    /// Names whose meaning has changed since then, by a hash, with the batch.
    renamed: Vec<(u64, u32)>,
    /// The batch that changed the unnamed statement last, the session's or the connection's.
    unnamed_changed: u32,
    /// What was sent and may have changed the schema.
    schema: Schema,
    /// Something that may have written was sent.
    writes: bool,
    /// Statements of ours ahead of the batch that are not answered yet.
    ahead: u8,
    /// Nothing of the answer that comes next has reached the client.
    untouched: bool,
    /// The beginning of an answer that tells nothing yet, while the batch may still run elsewhere.
    held_back: WriteBuffer,
    /// The server's current frame belongs to that.
    holding_back: bool,
    /// Batches whose bytes are still held: running them again elsewhere changes nothing.
    flights: Flights,
    /// Why the batch has to be run again.
    again: Option<Again>,
    /// What the client is told once its settings are right again.
    withheld: Withheld,
    /// Something was sent that nobody has been told is settled.
    active: bool,
    /// The server has said why it closes the connection, and the client knows.
    said_fatal: bool,
    write_error: Option<std::io::Error>,
    /// When the batch was sent on.
    since: Instant,
    /// When the server last completed something.
    answered: Instant,
    /// What the proxy itself had spent on the batch by then.
    overhead: Duration,
}

/// A transaction that may still begin once more on another server connection.
#[derive(Debug, PartialEq, Eq)]
enum Opened {
    /// There is none, or something was sent in it.
    No,
    /// The connection was leased for a batch that only begins it, and nothing was sent behind that.
    Begun,
    /// Its first statement is another tenant's.
    Leaves,
    /// It would be, if that could be: why not.
    Refused(Box<PgError>),
}

/// What the statements of a transaction have done to the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Schema {
    Same,
    /// They may have changed it.
    Suspected,
    Changed,
}

impl Schema {
    fn after(effects: Effects) -> Self {
        match effects {
            _ if effects.contains(Effects::DDL) => Self::Changed,
            _ if effects.contains(Effects::MAYBE_DDL) => Self::Suspected,
            _ => Self::Same,
        }
    }
}

/// A `RESET` goes back to what the client asked for at its startup, which for the server is a setting like any other:
/// the end of such a batch waits until the session has made good for it.
#[derive(Debug, Default)]
struct Withheld {
    /// `ParameterStatus`, name and value.
    reports: Vec<(String, String)>,
    /// `ReadyForQuery`, idle.
    ready: bool,
    /// Other reports of this transaction have reached the client.
    reported: bool,
}

/// Where a batch is run again whose error the client has not seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    /// A replica could not run it.
    OnPrimary,
    /// A statement has to be prepared again.
    Prepared,
}

impl Session {
    /// Greets the client and serves it until it leaves. What ends a session early has been said to the
    /// client; the reason is returned for the log.
    pub async fn serve(shared: Arc<Shared>, mut group: Arc<Group>, arrival: Arrival) -> Result<(), PgError> {
        let labels = [arrival.user.clone(), arrival.database.clone(), arrival.tenant.name.clone()];
        let limits = arrival.tenant.limits.clone();
        let slot = shared.registry.register(labels, arrival.protocol_minor, Ceilings::of(&limits));
        let registered = Registered { shared: shared.clone(), slot: slot.clone() };
        let welcome = Box::pin(welcoming::welcome(&shared, &mut group, &arrival, &slot)).await;
        let Arrival { mut stream, mut out, .. } = arrival;
        let (greeting, lease) = match welcome {
            Ok(welcome) => welcome,
            Err(error) => {
                drop(registered);
                error.encode(&mut out);
                relay::farewell(&mut stream, out).await;
                return Err(error);
            }
        };
        if let Some(lease) = &lease {
            shared.registry.renumber(&slot, lease.cancel.pid);
        }
        greeting.notices.iter().for_each(|notice| author::passed_on(&mut out, backend::NOTICE, notice));
        greet(&mut out, &greeting.parameters, &slot);
        let mut session = Self {
            client: stream,
            inbound: ReadBuffer::default(),
            outbound: WriteBuffer::default(),
            metrics: shared.metrics.pool(&arrival.database, &arrival.user),
            catalog: group.catalog(),
            group,
            slot,
            consistency: arrival.tenant.limits.consistency.unwrap_or(arrival.consistency),
            usual_consistency: arrival.consistency,
            longest_query: longest_query(&arrival.tenant, arrival.switching.is_some()),
            tenant: arrival.tenant,
            mode: arrival.mode,
            intake: Intake::default(),
            ledger: Ledger::default(),
            lease: None,
            members: Box::default(),
            names: Names::default(),
            unnamed: Unnamed::default(),
            state: State::new(&greeting, limits),
            pin: None,
            listening: None,
            effects: Effects::NONE,
            last_write: Moment::NEVER,
            seen: Moment::NEVER,
            home: None,
            fallbacks: 0,
            client_gone: false,
            attempts: 0,
            catalog_is_late: false,
            makes_code: false,
            // They may have changed since they were asked for.
            limits_of: changes().wrapping_sub(1),
            refused: false,
            awaits_catalog: None,
            switching: arrival.switching,
            shared,
        };
        session.joins();
        session.outbound.push(&out);
        session.inbound.preload(&arrival.unread);
        drop((out, arrival.unread, greeting, arrival.settings));
        if let Some(lease) = lease {
            session.take_for_good(lease);
        }
        let outcome = session.run().await;
        drop(registered);
        outcome
    }

    fn classify(&mut self, text: &[u8]) -> Verdict {
        if self.shared.log_statements {
            tracing::info!(pid = self.slot.pid(), statement = %String::from_utf8_lossy(text), "statement");
        }
        if explained_route(text).is_some() {
            // What is sent in its place reads nothing.
            return Verdict::harmless();
        }
        self.follow_catalog();
        self.shared.classifier.classify_in(self.state.scope(), text, &self.catalog)
    }

    /// The lease stays with the session while nothing is going on.
    fn keeps_lease(&self) -> bool {
        self.mode == PoolMode::Session || self.state.held.is_some()
    }

    /// Something was sent that may have changed a setting which the client made at its startup.
    fn may_reset(&self) -> bool {
        batch::needs_probe(self.effects) && self.state.has_startup_settings()
    }

    /// The end of what is under way is told when something else has been seen to.
    fn holds_the_end(&self, leased: &Leased) -> bool {
        // Whoever is told that he listens hears from there on what is heard for him.
        let listens = self.effects.contains(Effects::LISTENS) && self.mode != PoolMode::Session;
        self.may_reset() || listens || self.hears_itself(leased)
    }

    /// Says no to what would do the wrong thing where it would run, or is not wanted.
    fn may_run(&self, leased: &Leased, verdict: Verdict) -> Result<(), PgError> {
        let pins = verdict.effects.contains(Effects::PINS);
        if leased.place != Place::Primary {
            // There, a server process that the client knows is left all the same.
            let stays = pins && !verdict.effects.contains(Effects::PROCESS);
            if stays || matches!(verdict.reason, Reason::AdvisoryLock | Reason::ServerControl) {
                return Err(refusal::not_on_a_replica(verdict.reason.describe()));
            }
        } else if (pins || verdict.effects.contains(Effects::HIDDEN)) && !self.keeps_lease() {
            self.tenant.may_pin().inspect_err(|_| self.limited(Limit::MaxPinned))?;
        }
        if self.mode == PoolMode::Statement && verdict.tx != TxControl::None {
            return Err(refusal::no_transactions());
        }
        Ok(())
    }

    /// Enters into the books what a statement may do.
    fn note(&mut self, leased: &mut Leased, verdict: Verdict, text: &[u8]) -> Result<(), PgError> {
        self.stays_with_tenant(leased, text, verdict)?;
        let unknown = self.unknown_effects(leased, text, verdict);
        self.may_run(leased, verdict)?;
        let implied = self.implied_effects(leased, text, verdict);
        self.guard(text, verdict, unknown, !implied.is_empty())?;
        self.note_unlisted(leased, verdict, unknown);
        let (said, verdict) = (verdict.effects, verdict.with(implied));
        self.forget_sequences(leased, verdict.effects);
        if leased.place == Place::Primary {
            leased.writes |= verdict.class == Class::Primary;
            if verdict.may_take_from_sequence() {
                leased.lease.sequences = Sequences::Of(self.slot.pid());
            }
            self.state.note_timeout(text, verdict);
            self.state.note_discard(text);
        }
        if self.may_catch_cancels(leased, text, verdict) {
            self.slot.clock.note_stubborn();
        }
        let ceiling = self.tenant.limits.statement_timeout.is_some();
        if ceiling && (self.catalog.lifts_timeouts() || state::may_lift_timeouts(text, verdict)) {
            self.slot.clock.note_lifted();
        }
        if matches!(verdict.tx, TxControl::Inside | TxControl::Mixed) {
            if mentions(text, b"savepoint") {
                self.slot.clock.note_savepoint();
            }
            if mentions(text, b"chain") {
                self.slot.clock.note_chain();
            }
        }
        if verdict.reason == Reason::Ddl {
            let databases = databases_named(text);
            if !databases.is_empty() {
                self.group.leave_databases(&databases);
            }
        }
        leased.schema = leased.schema.max(Schema::after(verdict.effects));
        if matches!(verdict.tx, TxControl::End | TxControl::Mixed) {
            leased.ending = Some(leased.batch);
        }
        let verdict = verdict.with(unknown);
        self.effects |= verdict.effects;
        self.tell_within_transaction(leased, verdict.effects);
        self.introduce_itself(leased, verdict);
        if verdict.tx != TxControl::None {
            self.state.enters_transaction();
        }
        if verdict.effects.contains(Effects::DDL) {
            // The code that it makes may be called before the catalog knows of it. In a literal, quotes are doubled.
            let text = String::from_utf8_lossy(text).replace("''", "'");
            self.state.mention(custom_settings(text.as_bytes()));
        }
        let probe = batch::needs_probe(verdict.effects);
        if !probe && !verdict.effects.contains(Effects::LOCAL_SETTING) {
            return Ok(());
        }
        // What is only implied is no matter of names.
        let is_said = batch::needs_probe(said | unknown) || said.contains(Effects::LOCAL_SETTING);
        let names = if is_said { setting_names(text) } else { SettingNames::default() };
        if self.switching.is_none() && names.names.iter().any(|name| name == TENANT) {
            return Err(self.guarded(refusal::may_not_set_tenant()));
        }
        if let Some((name, value)) = names.values.iter().rev().find(|(name, _)| name.starts_with(OWN_SETTINGS)) {
            state::own_setting(name, value)?;
        }
        self.state.note_reset(text, verdict.effects);
        self.state.note_environment(&names, verdict.effects);
        let probe = probe || self.state.leaves_new(&names);
        if probe {
            self.effects |= Effects::STATE;
            self.state.note(text, names, verdict.effects, self.ledger.status() != ledger::Status::Idle);
            if !(unknown | implied).is_empty() {
                self.state.ask_everything();
            }
            if !implied.is_empty() {
                self.state.mention(self.group.last_catalog().implied_settings().iter().cloned());
            }
        }
        Ok(())
    }

    /// The same for a simple query, which may be read whole and be too long all the same for its effects to be known.
    fn note_query(&mut self, leased: &mut Leased, verdict: Verdict, text: &[u8]) -> Result<(), PgError> {
        let is_long = is_long(text) && verdict.class == Class::Primary;
        if is_long {
            self.guard_unseen()?;
        }
        self.guard_undone(text).and_then(|()| self.note(leased, verdict, text))?;
        if is_long {
            self.note_any_effects(leased);
        }
        Ok(())
    }

    /// Says no to what is too long to be looked at, save its beginning, and is not wanted.
    fn may_run_unseen(&mut self, leased: &mut Leased, head: &[u8]) -> Result<(), PgError> {
        self.stays_with_tenant_of(leased, head)?;
        self.guard_unseen()
    }

    /// The generation of the schema as the session's transaction sees it. The odd ones are those of transactions
    /// that have changed it, and nobody else's.
    fn generation(&self, leased: &Leased) -> u64 {
        2 * self.group.schema_generation() + u64::from(leased.schema != Schema::Same)
    }

    /// The transaction is over: whoever is told must not be judged by the old schema.
    fn schema_settles(&mut self, leased: &mut Leased) {
        let schema = std::mem::replace(&mut leased.schema, Schema::Same);
        if schema != Schema::Same {
            // Whether the transaction was committed does not matter then.
            let before = self.generation(leased);
            leased.lease.prepared.outdate(before);
        }
        match schema {
            Schema::Same => {}
            Schema::Suspected => self.group.schema_suspected(),
            Schema::Changed => self.awaits_catalog = NonZeroU64::new(self.group.schema_changed()),
        }
    }

    fn begin_statement(&mut self, leased: &mut Leased) {
        if !std::mem::replace(&mut leased.active, true) {
            let now = Instant::now();
            // A lease that was kept has been idle since, which is nobody's overhead.
            let fresh = leased.since == leased.answered;
            leased.overhead = if fresh { now - leased.since } else { Duration::ZERO };
            leased.since = now;
            self.slot.clock.statement_starts(now);
        } else if !self.ledger.is_skipping() {
            self.slot.clock.goes_on_in_batch(Instant::now);
        }
    }

    /// Of this moment: whoever has to see it reads from what is fresher.
    fn has_written(&mut self) {
        self.last_write = self.group.clock.now();
        self.tenant.wrote(self.last_write.raw());
        self.group.clock.wrote();
    }

    /// Something was refused or cut off by this limit of its tenant.
    fn limited(&self, limit: Limit) {
        self.refused(limit, "");
    }

    /// The same of a setting that is held for the tenant.
    fn guarded(&self, error: PgError) -> PgError {
        self.refused(Limit::GuardedSetting, &error.message);
        error
    }

    fn refused(&self, limit: Limit, error: &str) {
        self.tenant.limited(&self.shared.metrics.audit, limit, [&self.slot.user, &self.slot.database], error);
    }

    /// A line for what has met a limit without being refused by it.
    fn audit(&self, event: &'static str) {
        let [tenant, user, database] = [&self.tenant.name, &self.slot.user, &self.slot.database];
        self.shared.metrics.audit.limited(event, Who { tenant, user, database, error: "" });
    }

    fn tenant_timed_out(&self) {
        self.tenant.timed_out();
        self.audit("timeout");
    }

    fn ceiling_error(&self, over: CutOff) -> PgError {
        let limits = &self.tenant.limits;
        let (code, name, ceiling) = match over {
            CutOff::Statement => ("57014", "statement", limits.statement_timeout),
            CutOff::Transaction => ("57014", "transaction", limits.transaction_timeout),
            CutOff::Lock => ("55P03", "lock", limits.lock_timeout),
        };
        refusal::over_ceiling(code, name, &self.tenant.name, ceiling.unwrap_or(Duration::ZERO))
    }
}

impl Withheld {
    fn tell(&mut self, out: &mut WriteBuffer) {
        for (name, value) in self.reports.drain(..) {
            author::parameter_status(out.bytes(), &name, &value);
        }
        if std::mem::take(&mut self.ready) {
            author::ready_for_query(out.bytes(), b'I');
        }
    }
}

impl Leased {
    /// Whether a batch was carried out is not known yet.
    fn awaits(&self, batch: u32, ledger: &Ledger<Change>) -> bool {
        batch < self.batch && (self.batch - batch) as usize <= ledger.ends_awaited()
    }

    /// Something was sent that may end the transaction, and is not answered yet.
    fn is_ending(&self, ledger: &Ledger<Change>) -> bool {
        self.ending.is_some_and(|batch| batch == self.batch || self.awaits(batch, ledger))
    }

    /// The batch to which an error belongs that comes now.
    fn failing_batch(&self, ledger: &Ledger<Change>) -> u32 {
        self.batch.saturating_sub(ledger.ends_awaited() as u32)
    }

    /// A replica's answer of which the client has seen nothing, to a batch that could be run again.
    fn may_move(&self) -> bool {
        !self.flights.is_empty() && self.untouched && self.place != Place::Primary
    }

    /// The session has no unnamed statement: nor may the connection, on which it would be another's.
    fn forget_unnamed(&mut self, ledger: &mut Ledger<Change>) {
        const CLOSE_UNNAMED: &[u8] = b"C\0\0\0\x06S\0";
        if !self.has_unnamed {
            self.unnamed_changed = self.batch;
            self.lease.outbound.push(CLOSE_UNNAMED);
            ledger.push(ledger::Awaits::Close, ledger::Fate::Swallow, Some(Change::HasUnnamed));
            self.has_unnamed = true;
        }
    }
}

/// Of a simple query that is read whole, in bytes: of a session that may say whose it is, has settings that are held for
/// its tenant, or pays for each statement, whatever stands in it.
fn longest_query(tenant: &Tenant, switches: bool) -> usize {
    let counts = !tenant.limits.settings.is_empty() || !tenant.limits.rate_limits.is_empty();
    if switches || counts { LONGEST_WHOLE } else { LONGEST_QUERY }
}

/// PostgreSQL's order: parameters, the key to cancel with, and the first `ReadyForQuery`.
fn greet(out: &mut BytesMut, parameters: &[(String, String)], slot: &Slot) {
    for (name, value) in parameters {
        author::parameter_status(out, name, value);
    }
    author::backend_key_data(out, slot.pid(), slot.key());
    author::ready_for_query(out, b'I');
}

/// Takes the session out of the registry, however it ends.
struct Registered {
    shared: Arc<Shared>,
    slot: Arc<Slot>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.registry.unregister(&self.slot);
    }
}
