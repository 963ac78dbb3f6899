//! The pool itself: idle connections, those who wait for one, and the opening of new connections.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::apportion::Claim;
use super::budget::{Budget, Wants};
use super::conn::{Conn, Sequences};
use super::fair::{Fair, Party, Room, Terms};
use super::lease::{Hold, Lease};
use super::member::{Member, Waiter};
use super::weight::Spread;
use crate::config::{HostConfig, PoolSettings};
use crate::metrics::HostMetrics;
use crate::server::{ConnectError, Login};
use crate::tenant::{Count, Pass, Passes, Taken, Tenant};

/// After a failed attempt to connect the next one waits this long, doubled each time up to
/// [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// PostgreSQL waits for as long as this for others to leave a database (`CountOtherDBBackends`).
const AWAY: Duration = Duration::from_secs(5);

/// How pgweir itself is called among tenants: no tenant's name is empty.
const OURSELVES: &str = "";

/// What a pool is for. Names as the server knows them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    pub database: String,
    pub user: String,
}

/// Why there is no lease.
#[derive(Debug, Clone)]
pub enum AcquireError {
    /// Nothing came free within the queue timeout; `size` is the pool's.
    Timeout { waited: Duration, size: usize },
    /// More wanted to wait than may, and this one's time would have been over first. `of_tenant`: its tenant's queue was
    /// full, else the pool's.
    QueueFull { waited: Duration, limit: usize, of_tenant: bool },
    /// The server could not be reached or refused the login.
    Connect(Arc<ConnectError>),
    /// The pool is being closed (its host left the configuration).
    Closed,
}

/// Counts for metrics and for balancing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PoolCensus {
    pub idle: usize,
    pub leased: usize,
    pub connecting: usize,
    pub waiting: usize,
    /// How long the first in the queue has been waiting.
    pub longest_wait: Duration,
}

/// Server connections of one database and user on one host.
#[derive(Debug)]
pub struct Pool {
    pub key: PoolKey,
    pub host: Arc<HostConfig>,
    pub metrics: HostMetrics,
    pub(super) budget: Arc<Budget>,
    login: Mutex<Login>,
    /// Times count from here.
    base: Instant,
    state: Mutex<State>,
    /// Connections that sessions keep for the values of their sequences.
    kept: Count,
}

#[derive(Debug)]
struct State {
    settings: PoolSettings,
    /// Last in, first out: the others grow old and are closed. Boxed, because they move between here,
    /// waiters and leases all the time.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<Conn>>,
    /// Who waits, and who is next.
    fair: Fair<Waiter>,
    leased: usize,
    /// Those that are being opened or checked.
    connecting: usize,
    /// As many as there may be while other pools of the host want more than there are.
    allowed: usize,
    /// As many of the host's connections as are left to it whoever wants them: no more than its tenants are promised.
    least: usize,
    failures: u32,
    /// Until then no connection is kept that nobody needs: somebody wants the database to himself.
    left_until: Option<Instant>,
    /// No attempt to connect before this.
    not_before: Option<Instant>,
    closed: bool,
    /// Of connections that were given back. To be dropped without the lock, see [`Locked`].
    freed: SmallVec<[Pass; 2]>,
}

/// The state, locked.
struct Locked<'a>(Option<MutexGuard<'a, State>>);

impl State {
    fn open(&self) -> usize {
        self.idle.len() + self.leased + self.connecting
    }

    /// As many as there may be.
    fn capacity(&self) -> usize {
        self.settings.size.min(self.allowed)
    }

    fn room(&self) -> Room {
        let capacity = self.capacity();
        Room { free: capacity.saturating_sub(self.leased), capacity }
    }

    /// Connections that would be opened for those who wait, beside those that are.
    fn lacking(&self) -> usize {
        let room = Room { free: self.settings.size.saturating_sub(self.leased), capacity: self.settings.size };
        self.fair.served(room).saturating_sub(self.idle.len() + self.connecting)
    }

    /// The idle connection that has the values of sequences which a session has taken.
    fn of_session(&self, session: i32) -> Option<usize> {
        self.idle.iter().position(|conn| conn.sequences == Sequences::Of(session))
    }

    /// The same in place of another one, where there is one.
    fn rather_of(&mut self, session: Option<i32>, conn: Box<Conn>) -> Box<Conn> {
        let at = session.and_then(|session| self.of_session(session));
        let Some(at) = at.filter(|at| self.idle[*at].is_quiet()) else { return conn };
        let own = self.idle.remove(at);
        self.idle.push(conn);
        own
    }

    /// Nobody is to be connected who does not need it.
    fn is_left(&self, now: Instant) -> bool {
        self.fair.waiting() == 0 && self.left_until.is_some_and(|until| now < until)
    }
}

impl Pool {
    pub fn new(
        key: PoolKey,
        host: Arc<HostConfig>,
        login: Login,
        settings: PoolSettings,
        metrics: HostMetrics,
        budget: Arc<Budget>,
    ) -> Arc<Self> {
        let state = State {
            settings,
            idle: Vec::new(),
            fair: Fair::default(),
            leased: 0,
            connecting: 0,
            allowed: usize::MAX,
            least: 0,
            failures: 0,
            left_until: None,
            not_before: None,
            closed: false,
            freed: SmallVec::new(),
        };
        let pool = Arc::new(Self {
            key,
            host,
            metrics,
            budget,
            login: Mutex::new(login),
            base: Instant::now(),
            state: Mutex::new(state),
            kept: Count::default(),
        });
        pool.budget.enter(&pool);
        pool
    }

    /// One more client of a tenant that is to share this pool's connections.
    pub fn join(self: &Arc<Self>, tenant: &Tenant) -> Member {
        let terms = Terms::of(&tenant.limits);
        let party = self.state().fair.join(&tenant.name, terms);
        if terms.least > 0 {
            self.budget.look();
        }
        Member::new(self.clone(), party, tenant.passes())
    }

    /// For questions of our own, which take little time and are asked for by nobody's client.
    pub fn join_as_ourselves(self: &Arc<Self>) -> Member {
        let party = self.state().fair.join(&OURSELVES.into(), Terms { weight: 1, least: 0 });
        Member::new(self.clone(), party, Passes::default())
    }

    pub(super) fn leave(&self, party: Party) {
        self.state().fair.leave(party);
    }

    /// See [`Member::try_acquire`].
    pub(super) fn try_acquire(self: &Arc<Self>, party: Party, passes: &Passes) -> Option<Lease> {
        let now = Instant::now();
        let mut state = self.state();
        if state.closed {
            return None;
        }
        // One that was idle for long is checked first, which takes a round trip. (Asked here already, the processor fetches it
        // from memory together with what is counted for the tenant, and its account.)
        let check_after = state.settings.check_after;
        let is_fresh = |conn: &mut Box<Conn>| now.duration_since(conn.idle_since) <= check_after;
        if !state.idle.last_mut().is_some_and(is_fresh) {
            return None;
        }
        let (room, passes_left) = (state.room(), passes.left());
        if !state.fair.admits(party, room, self.micros(now)) || passes_left == 0 {
            return None;
        }
        while let Some(mut conn) = state.idle.pop_if(is_fresh) {
            if !conn.is_quiet() || conn.is_too_old(now) {
                continue;
            }
            let Some(pass) = passes.take() else {
                state.idle.push(conn);
                return None;
            };
            return Some(self.lease(&mut state, conn, Hold { party, since: now, pass }));
        }
        None
    }

    /// See [`Member::try_acquire_of`].
    pub(super) fn try_acquire_of(self: &Arc<Self>, party: Party, passes: &Passes, session: i32) -> Option<Lease> {
        let mut state = self.state();
        let at = state.of_session(session)?;
        let (now, room) = (Instant::now(), state.room());
        if state.closed || !state.fair.admits(party, room, self.micros(now)) {
            return None;
        }
        let mut conn = state.idle.remove(at);
        if !conn.is_quiet() {
            return None;
        }
        let Some(pass) = passes.take() else {
            state.idle.insert(at, conn);
            return None;
        };
        Some(self.lease(&mut state, conn, Hold { party, since: now, pass }))
    }

    /// A place for one more connection that is kept for the values of its sequences: there are as many as half of the
    /// pool's connections, so that everybody else is served.
    pub fn keep(&self) -> Option<Taken> {
        self.kept.take(self.state().settings.size / 2).ok()
    }

    /// Joins the queue. The number under which it waits, the queue timeout, and the size of the pool.
    pub(super) fn queue(self: &Arc<Self>, party: Party, waiter: Waiter) -> (u64, Duration, usize) {
        let mut state = self.state();
        let (timeout, size) = (state.settings.queue_timeout, state.settings.size);
        if state.closed {
            waiter.refuse(AcquireError::Closed);
            return (0, timeout, size);
        }
        let (now, queue_length, room) = (self.micros(Instant::now()), state.settings.queue_length, state.room());
        let until = self.micros(waiter.since() + timeout);
        let (ticket, shed) = state.fair.arrive(party, waiter, until, now, queue_length, room);
        shed.map(|waiter| waiter.send_away(queue_length, false));
        self.serve_waiters(&mut state);
        (ticket, timeout, size)
    }

    /// Whoever still waits under this number does so no more.
    pub(super) fn withdraw(&self, party: Party, ticket: u64) -> Option<Waiter> {
        self.state().fair.withdraw(party, ticket)
    }

    /// The tenant may have more connections than it could.
    pub(super) fn look(self: &Arc<Self>, party: Party) {
        let mut state = self.state();
        if state.fair.look(party, self.micros(Instant::now())) {
            self.serve_waiters(&mut state);
        }
    }

    /// How many of a tenant wait, and how many of them are about to get a connection.
    pub(super) fn waiting_of(&self, party: Party) -> (usize, usize) {
        let state = self.state();
        state.fair.waiting_of(party, state.room())
    }

    pub fn census(&self) -> PoolCensus {
        let state = self.state();
        PoolCensus {
            idle: state.idle.len(),
            leased: state.leased,
            connecting: state.connecting,
            waiting: state.fair.everybody(),
            longest_wait: state.fair.firsts().map(|first| first.since().elapsed()).max().unwrap_or_default(),
        }
    }

    /// Bytes of statement text that one connection may keep prepared.
    pub fn prepared_limit(&self) -> usize {
        self.state().settings.prepared_cache
    }

    pub fn settings(&self) -> PoolSettings {
        self.state().settings.clone()
    }

    /// Takes effect on what is opened, closed and waited for from now on.
    pub fn reconfigure(self: &Arc<Self>, settings: PoolSettings, login: Login) {
        *self.login.lock().unwrap_or_else(PoisonError::into_inner) = login;
        let mut state = self.state();
        state.settings = settings;
        self.serve_waiters(&mut state);
    }

    pub fn login(&self) -> Login {
        self.login.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets a backoff: the host is known to answer again.
    pub fn host_is_back(self: &Arc<Self>) {
        let mut state = self.state();
        (state.failures, state.not_before) = (0, None);
        self.serve_waiters(&mut state);
    }

    /// Sends every waiter away: the host is known to be gone.
    pub fn host_is_gone(&self, error: &Arc<ConnectError>) {
        let mut state = self.state();
        state.idle.clear();
        for waiter in state.fair.drain() {
            waiter.refuse(AcquireError::Connect(error.clone()));
        }
    }

    /// Closes idle connections, for a while also those that become idle.
    pub fn close_idle(&self) {
        let mut state = self.state();
        state.idle.clear();
        state.left_until = Some(Instant::now() + AWAY);
    }

    /// Closes idle connections and sends waiters away; leased connections close when they come back.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        state.idle.clear();
        for waiter in state.fair.drain() {
            waiter.refuse(AcquireError::Closed);
        }
    }

    /// What it has and wants of its host.
    pub(super) fn wants(&self) -> Wants {
        let state = self.state();
        // Of a closed one nobody gets a connection any more, whatever clients it still has.
        let (least, recent) = if state.closed { (0, 0) } else { (state.fair.least(), state.fair.recent()) };
        let needs = state.leased + state.fair.waiting();
        let claim = Claim {
            pool: std::ptr::from_ref(self) as usize,
            weight: 0,
            needs: needs.max(recent).min(state.settings.size),
            least: least.min(state.settings.size),
        };
        let mut idle_since: Vec<_> = state.idle.iter().map(|conn| conn.idle_since).collect();
        idle_since.sort_unstable();
        let lacking = if state.closed { 0 } else { state.lacking() };
        let active = state.fair.active().filter(|_| !state.closed);
        let active = active.map(|(name, weight)| (name.clone(), weight)).collect();
        Wants { claim, active, open: state.open(), lacking, idle_since }
    }

    /// There may be so many connections from now on, and so many are left to it, while tenants' weights go to so many pools.
    pub(super) fn allow(self: &Arc<Self>, allowed: usize, least: usize, spread: &Spread) {
        let mut state = self.state();
        state.least = least;
        state.fair.spread(spread, self.micros(Instant::now()));
        let before = std::mem::replace(&mut state.allowed, allowed);
        // The end of the list is what is used next.
        while state.open() > state.capacity() && !state.idle.is_empty() {
            state.idle.remove(0);
        }
        if before != allowed || state.fair.waiting() > 0 {
            self.serve_waiters(&mut state);
        }
    }

    /// Closes the idle connection that was used last then.
    pub(super) fn close_idle_since(&self, since: Instant) {
        let mut state = self.state();
        if let Some(at) = state.idle.iter().position(|conn| conn.idle_since == since) {
            state.idle.remove(at);
        }
    }

    /// Closes what is dead, too old or idle for too long, and opens up to `min_idle`. To be called
    /// every [`super::ROTATION`].
    pub fn maintain(self: &Arc<Self>) {
        let mut state = self.state();
        let now = Instant::now();
        state.fair.rotate();
        let spare = state.open().saturating_sub(state.settings.min_idle);
        let idle_timeout = state.settings.idle_timeout;
        let mut may_close = spare;
        // Oldest first: the end of the list is what is used next.
        state.idle.retain_mut(|conn| {
            let dead = !conn.is_quiet() || conn.is_too_old(now);
            let unused = may_close > 0 && now.duration_since(conn.idle_since) >= idle_timeout;
            may_close -= usize::from(may_close > 0 && (dead || unused));
            !(dead || unused)
        });
        let size = state.settings.size;
        while state.open() > size && state.idle.pop().is_some() {}
        let min_idle = state.settings.min_idle.min(size);
        if !state.closed && state.not_before.is_none_or(|at| at <= now) {
            while state.open() < min_idle.min(state.allowed) && self.open_one(&mut state) {}
        }
        self.serve_waiters(&mut state);
    }

    /// A connection comes back clean.
    pub(super) fn take_back(self: &Arc<Self>, mut conn: Box<Conn>) {
        let now = Instant::now();
        conn.idle_since = now;
        conn.kept = None;
        let hold = conn.hold.take();
        let mut state = self.state();
        self.ends(&mut state, hold, now);
        let surplus = state.open() >= state.capacity();
        if state.closed || surplus || conn.is_too_old(now) || state.is_left(now) {
            drop(conn);
        } else {
            state.idle.push(conn);
        }
        self.serve_waiters(&mut state);
    }

    /// A leased connection was closed.
    pub(super) fn closed_one(self: &Arc<Self>, hold: Option<Hold>) {
        let mut state = self.state();
        self.ends(&mut state, hold, Instant::now());
        self.serve_waiters(&mut state);
    }

    /// A connection has passed its check: it goes to whoever is next. Among the idle ones it could be due for a check
    /// again before anybody gets it (`check_after = "0"`).
    fn take_checked(self: &Arc<Self>, mut conn: Box<Conn>) {
        conn.idle_since = Instant::now();
        let mut state = self.state();
        state.connecting -= 1;
        if !state.closed && state.open() < state.capacity() {
            self.give(&mut state, conn);
        }
        self.serve_waiters(&mut state);
    }

    fn lease(self: &Arc<Self>, state: &mut State, conn: Box<Conn>, hold: Hold) -> Lease {
        state.leased += 1;
        state.fair.leases(hold.party, self.micros(hold.since));
        Lease::new(conn, self.clone(), hold)
    }

    fn ends(&self, state: &mut State, hold: Option<Hold>, now: Instant) {
        let Some(hold) = hold else { return };
        state.leased -= 1;
        state.fair.returns(hold.party, self.micros(hold.since), self.micros(now));
        state.freed.extend(hold.pass.counted());
    }

    /// Gives idle connections to those who are next and opens connections for the rest, as far as the size and the
    /// host's places allow.
    fn serve_waiters(self: &Arc<Self>, state: &mut State) {
        if state.fair.waiting() == 0 || state.closed {
            return;
        }
        let now = Instant::now();
        while let Some(mut conn) = state.idle.pop() {
            let Some(party) = state.fair.next(state.room(), self.micros(now)) else {
                state.idle.push(conn);
                break;
            };
            if now.duration_since(conn.idle_since) > state.settings.check_after {
                if state.connecting >= state.fair.served(state.room()) {
                    state.idle.push(conn);
                    return;
                }
                state.connecting += 1;
                tokio::spawn(check(conn, self.clone(), Attempt(Some(self.clone()))));
            } else if conn.is_quiet()
                && !conn.is_too_old(now)
                && let Some(conn) = self.hand_over(state, conn, party, now)
            {
                state.idle.push(conn);
            }
        }
        let wanted = state.fair.served(state.room());
        while state.connecting + state.idle.len() < wanted && state.open() < state.capacity() && self.open_one(state) {}
    }

    /// Hands a connection to whoever is next, or keeps it.
    fn give(self: &Arc<Self>, state: &mut State, mut conn: Box<Conn>) {
        let now = Instant::now();
        while let Some(party) = state.fair.next(state.room(), self.micros(now)) {
            match self.hand_over(state, conn, party, now) {
                None => return,
                Some(unwanted) => conn = unwanted,
            }
        }
        if !state.is_left(now) {
            state.idle.push(conn);
        }
    }

    /// To the tenant's first waiter; the connection comes back where that has just gone, or its tenant has just got another.
    fn hand_over(
        self: &Arc<Self>,
        state: &mut State,
        conn: Box<Conn>,
        party: Party,
        now: Instant,
    ) -> Option<Box<Conn>> {
        let Some(pass) = state.fair.first(party).and_then(Waiter::pass) else { return Some(conn) };
        let waiter = state.fair.take(party, self.micros(now))?;
        let conn = state.rather_of(waiter.session(), conn);
        let lease = self.lease(state, conn, Hold { party, since: now, pass });
        let unwanted = waiter.give(lease)?;
        let mut conn = unwanted.into_conn();
        let hold = conn.hold.take();
        self.ends(state, hold, now);
        Some(conn)
    }

    /// False where the host has no place for it.
    fn open_one(self: &Arc<Self>, state: &mut State) -> bool {
        let promised = state.open() < state.least.min(state.fair.least());
        let Some(place) = self.budget.place(promised) else { return false };
        state.connecting += 1;
        let wait = state.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let (timeout, lifetime) = (state.settings.connect_timeout, state.settings.max_lifetime);
        let pool = self.clone();
        tokio::spawn(async move {
            let attempt = Attempt(Some(pool.clone()));
            tokio::time::sleep(wait).await;
            let outcome = place.connect(&pool.host, &pool.login(), timeout).await;
            attempt.succeeds();
            let conn = |seated| Box::new(Conn::new(seated, pool.host.clone(), spread(lifetime)));
            pool.opened(outcome.map(conn));
        });
        true
    }

    fn opened(self: &Arc<Self>, outcome: Result<Box<Conn>, ConnectError>) {
        let mut state = self.state();
        state.connecting -= 1;
        match outcome {
            Ok(conn) if !state.closed => {
                self.metrics.connects_total.inc();
                (state.failures, state.not_before) = (0, None);
                self.give(&mut state, conn);
            }
            Ok(_) => {}
            Err(error) => self.failed(&mut state, error),
        }
        self.serve_waiters(&mut state);
    }

    /// One failed attempt costs one waiter at most, and none while other connections will come back.
    fn failed(&self, state: &mut State, error: ConnectError) {
        self.metrics.connect_failures.inc();
        let backoff = FIRST_BACKOFF.saturating_mul(1 << state.failures.min(10)).min(LONGEST_BACKOFF);
        state.failures += 1;
        state.not_before = Some(Instant::now() + backoff);
        if state.failures == 1 {
            tracing::warn!(host = %self.host.name, database = %self.key.database, user = %self.key.user, %error, "cannot open a server connection");
        }
        let others = state.idle.len() + state.leased;
        if others > 0 && error.is_transient() {
            return;
        }
        let error = Arc::new(error);
        let now = self.micros(Instant::now());
        while let Some(waiter) = state.fair.dismiss(now) {
            if waiter.refuse(AcquireError::Connect(error.clone())) {
                return;
            }
        }
    }

    fn micros(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.base).as_micros() as u64
    }

    fn state(&self) -> Locked<'_> {
        Locked(Some(self.state.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl Deref for Locked<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        self.0.as_ref().expect("it is locked until it is dropped")
    }
}

impl DerefMut for Locked<'_> {
    fn deref_mut(&mut self) -> &mut State {
        self.0.as_mut().expect("it is locked until it is dropped")
    }
}

impl Drop for Locked<'_> {
    /// Passes tell whoever waits for them, in this pool too.
    fn drop(&mut self) {
        if !self.freed.is_empty() {
            let freed = std::mem::take(&mut self.freed);
            self.0 = None;
            drop(freed);
        }
    }
}

/// A connection that is being opened or checked: where nothing comes of it, it is counted no more.
struct Attempt(Option<Arc<Pool>>);

impl Attempt {
    /// Whoever goes on with the connection counts it.
    fn succeeds(mut self) {
        self.0 = None;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            let mut state = pool.state();
            state.connecting -= 1;
            pool.serve_waiters(&mut state);
        }
    }
}

/// Makes sure that a connection which was idle for long still answers.
async fn check(mut conn: Box<Conn>, pool: Arc<Pool>, attempt: Attempt) {
    let patience = pool.settings().connect_timeout;
    if let Ok(Ok(_)) = tokio::time::timeout(patience, conn.ask("")).await {
        attempt.succeeds();
        pool.take_checked(conn);
    }
}

/// Up to 10 % less, so that connections opened together are not closed together.
fn spread(lifetime: Duration) -> Duration {
    lifetime.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}
