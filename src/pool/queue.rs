//! The pool itself: idle connections, a queue of waiters, and the opening of new connections.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::conn::{Conn, Sequences};
use super::lease::Lease;
use crate::config::{HostConfig, PoolSettings};
use crate::metrics::HostMetrics;
use crate::server::{ConnectError, Login, connect};
use crate::tenant::{Count, Taken};

/// After a failed attempt to connect the next one waits this long, doubled each time up to
/// [`LONGEST_BACKOFF`].
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// PostgreSQL waits for as long as this for others to leave a database (`CountOtherDBBackends`).
const AWAY: Duration = Duration::from_secs(5);

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
    /// Leases and waiters on the whole host, over all pools: what balancing compares.
    pub(super) load: Arc<AtomicUsize>,
    login: Mutex<Login>,
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
    waiters: VecDeque<Waiter>,
    leased: usize,
    connecting: usize,
    failures: u32,
    /// Until then no connection is kept that nobody needs: somebody wants the database to himself.
    left_until: Option<Instant>,
    /// No attempt to connect before this.
    not_before: Option<Instant>,
    closed: bool,
}

#[derive(Debug)]
struct Waiter {
    since: Instant,
    give: oneshot::Sender<Result<Box<Conn>, AcquireError>>,
}

impl State {
    fn open(&self) -> usize {
        self.idle.len() + self.leased + self.connecting
    }

    /// Nobody is to be connected who does not need it.
    fn is_left(&self, now: Instant) -> bool {
        self.waiters.is_empty() && self.left_until.is_some_and(|until| now < until)
    }
}

impl Pool {
    pub fn new(
        key: PoolKey,
        host: Arc<HostConfig>,
        login: Login,
        settings: PoolSettings,
        metrics: HostMetrics,
        load: Arc<AtomicUsize>,
    ) -> Arc<Self> {
        let state = State {
            settings,
            idle: Vec::new(),
            waiters: VecDeque::new(),
            leased: 0,
            connecting: 0,
            failures: 0,
            left_until: None,
            not_before: None,
            closed: false,
        };
        Arc::new(Self {
            key,
            host,
            metrics,
            load,
            login: Mutex::new(login),
            state: Mutex::new(state),
            kept: Count::default(),
        })
    }

    /// An idle connection, if there is one and nobody has waited for longer.
    pub fn try_acquire(self: &Arc<Self>) -> Option<Lease> {
        let mut state = self.state();
        if !state.waiters.is_empty() || state.closed {
            return None;
        }
        while let Some(mut conn) = state.idle.pop() {
            let now = Instant::now();
            // One that was idle for long is checked first, which takes a round trip.
            if now.duration_since(conn.idle_since) > state.settings.check_after {
                state.idle.push(conn);
                return None;
            }
            if conn.is_quiet() && !conn.is_too_old(now) {
                state.leased += 1;
                return Some(Lease::new(conn, self.clone()));
            }
        }
        None
    }

    /// The idle connection that has the values of sequences which this session has taken, if it is idle.
    pub fn try_acquire_of(self: &Arc<Self>, session: i32) -> Option<Lease> {
        let mut state = self.state();
        let at = state.idle.iter().position(|conn| conn.sequences == Sequences::Of(session))?;
        let mut conn = state.idle.remove(at);
        let usable = !state.closed && conn.is_quiet();
        usable.then(|| {
            state.leased += 1;
            Lease::new(conn, self.clone())
        })
    }

    /// A place for one more connection that is kept for the values of its sequences: there are as many as half of the
    /// pool's connections, so that everybody else is served.
    pub fn keep(&self) -> Option<Taken> {
        self.kept.take(self.state().settings.size / 2).ok()
    }

    /// Joins the queue. The place is kept until the returned value is dropped.
    pub fn wait(self: &Arc<Self>) -> Waiting {
        let (give, receive) = oneshot::channel();
        let since = Instant::now();
        let mut state = self.state();
        if state.closed {
            let _ = give.send(Err(AcquireError::Closed));
        } else {
            state.waiters.push_back(Waiter { since, give });
            self.serve_waiters(&mut state);
        }
        let timeout = state.settings.queue_timeout;
        let size = state.settings.size;
        drop(state);
        self.load.fetch_add(1, Ordering::Relaxed);
        Waiting { pool: self.clone(), receive, since, timeout, size }
    }

    pub fn census(&self) -> PoolCensus {
        let state = self.state();
        PoolCensus {
            idle: state.idle.len(),
            leased: state.leased,
            connecting: state.connecting,
            waiting: state.waiters.len(),
            longest_wait: state.waiters.front().map_or(Duration::ZERO, |first| first.since.elapsed()),
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
        for waiter in state.waiters.drain(..) {
            let _ = waiter.give.send(Err(AcquireError::Connect(error.clone())));
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
        for waiter in state.waiters.drain(..) {
            let _ = waiter.give.send(Err(AcquireError::Closed));
        }
    }

    /// Closes what is dead, too old or idle for too long, and opens up to `min_idle`. To be called
    /// about once a second.
    pub fn maintain(self: &Arc<Self>) {
        let mut state = self.state();
        let now = Instant::now();
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
            while state.open() < min_idle {
                self.open_one(&mut state);
            }
        }
        self.serve_waiters(&mut state);
    }

    /// A connection comes back clean.
    pub(super) fn take_back(self: &Arc<Self>, mut conn: Box<Conn>) {
        conn.idle_since = Instant::now();
        conn.kept = None;
        let mut state = self.state();
        state.leased -= 1;
        let surplus = state.open() >= state.settings.size;
        if state.closed || surplus || conn.is_too_old(conn.idle_since) || state.is_left(conn.idle_since) {
            drop(conn);
        } else {
            state.idle.push(conn);
        }
        self.serve_waiters(&mut state);
    }

    /// A connection has passed its check: it goes to the first waiter. Among the idle ones it could be due
    /// for a check again before anybody gets it (`check_after = "0"`).
    fn take_checked(self: &Arc<Self>, mut conn: Box<Conn>) {
        conn.idle_since = Instant::now();
        let mut state = self.state();
        state.leased -= 1;
        if !state.closed && state.open() < state.settings.size {
            self.give(&mut state, conn);
        }
        self.serve_waiters(&mut state);
    }

    /// A leased connection was closed.
    pub(super) fn closed_one(self: &Arc<Self>) {
        let mut state = self.state();
        state.leased -= 1;
        self.serve_waiters(&mut state);
    }

    /// Gives idle connections to the first waiters and opens connections for the rest, as far as
    /// the size allows.
    fn serve_waiters(self: &Arc<Self>, state: &mut State) {
        let now = Instant::now();
        let mut checked = 0;
        while state.waiters.len() > checked {
            let Some(mut conn) = state.idle.pop() else { break };
            if now.duration_since(conn.idle_since) > state.settings.check_after {
                state.leased += 1;
                checked += 1;
                tokio::spawn(check(Lease::new(conn, self.clone())));
            } else if conn.is_quiet() && !conn.is_too_old(now) {
                self.give(state, conn);
            }
        }
        while state.connecting + checked < state.waiters.len() && state.open() < state.settings.size {
            self.open_one(state);
        }
    }

    /// Hands a connection to the first waiter that still wants it, or keeps it.
    fn give(&self, state: &mut State, mut conn: Box<Conn>) {
        while let Some(waiter) = state.waiters.pop_front() {
            match waiter.give.send(Ok(conn)) {
                Ok(()) => {
                    state.leased += 1;
                    return;
                }
                Err(Ok(unwanted)) => conn = unwanted,
                Err(Err(_)) => return,
            }
        }
        if !state.is_left(Instant::now()) {
            state.idle.push(conn);
        }
    }

    fn open_one(self: &Arc<Self>, state: &mut State) {
        state.connecting += 1;
        let wait = state.not_before.map_or(Duration::ZERO, |at| at.saturating_duration_since(Instant::now()));
        let (timeout, lifetime) = (state.settings.connect_timeout, state.settings.max_lifetime);
        let pool = self.clone();
        tokio::spawn(async move {
            let attempt = Attempt { pool: pool.clone() };
            tokio::time::sleep(wait).await;
            let outcome = connect(&pool.host, &pool.login(), timeout).await;
            std::mem::forget(attempt);
            pool.opened(outcome.map(|connected| Box::new(Conn::new(connected, pool.host.clone(), spread(lifetime)))));
        });
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
        while let Some(waiter) = state.waiters.pop_front() {
            if waiter.give.send(Err(AcquireError::Connect(error.clone()))).is_ok() {
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a pool's queue.
#[derive(Debug)]
pub struct Waiting {
    pool: Arc<Pool>,
    receive: oneshot::Receiver<Result<Box<Conn>, AcquireError>>,
    since: Instant,
    timeout: Duration,
    size: usize,
}

impl Waiting {
    /// The lease, or why there is none. Cancel safe: the place is kept.
    pub async fn lease(&mut self) -> Result<Lease, AcquireError> {
        let left = self.timeout.saturating_sub(self.since.elapsed());
        match tokio::time::timeout(left, &mut self.receive).await {
            Ok(Ok(Ok(conn))) => Ok(Lease::new(conn, self.pool.clone())),
            Ok(Ok(Err(error))) => Err(error),
            Ok(Err(_)) => Err(AcquireError::Closed),
            Err(_) => Err(AcquireError::Timeout { waited: self.since.elapsed(), size: self.size }),
        }
    }

    pub fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for Waiting {
    /// Gives back a connection that came in the very moment in which nobody wanted it any more.
    fn drop(&mut self) {
        self.pool.load.fetch_sub(1, Ordering::Relaxed);
        self.receive.close();
        if let Ok(Ok(conn)) = self.receive.try_recv() {
            self.pool.take_back(conn);
        }
    }
}

/// Keeps the count of attempts true when a task is dropped in the middle of one.
struct Attempt {
    pool: Arc<Pool>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.pool.state().connecting -= 1;
    }
}

/// Makes sure that a connection which was idle for long still answers.
async fn check(mut lease: Lease) {
    let patience = lease.pool().settings().connect_timeout;
    if let Ok(Ok(_)) = tokio::time::timeout(patience, lease.ask("")).await {
        let (conn, pool) = lease.into_parts();
        pool.take_checked(conn);
    }
}

/// Up to 10 % less, so that connections opened together are not closed together.
fn spread(lifetime: Duration) -> Duration {
    lifetime.mul_f64(1.0 - rand::random::<f64>() / 10.0)
}
