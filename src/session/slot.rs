//! What the rest of the process may know of a session and do to it: find it by its cancel key, see
//! what it is doing, and send it a signal.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::atomic::{AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use atomic_waker::AtomicWaker;
use rand::RngExt;
use subtle::ConstantTimeEq;
use tokio::sync::Notify;

use super::clock::{Ceilings, Clock, Cut, CutOff, Overrun, Patience};
use crate::config::HostConfig;
use crate::pool::{CancelTarget, Fence, FenceGuard};
use crate::server::cancel::cancel;

/// Bytes of a cancel key under protocol 3.2 (PostgreSQL, "BackendKeyData"); 3.0 has 4.
const LONG_KEY: usize = 32;
const SHORT_KEY: usize = 4;
/// For one cancel request to a server.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// Something that a session is told from outside. Signals are bits, and stay until taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Signal {
    /// The client cancels while it waits in a queue.
    Cancel = 1,
    /// The statement was over its ceiling and its cancel had no effect.
    Kill = 2,
    /// End as soon as no transaction is open.
    Shutdown = 4,
    /// End now, whatever is going on.
    End = 8,
    /// The server at work does not answer any more: what can run elsewhere goes there.
    HostLost = 16,
    /// The server at work is not the primary any more.
    Fenced = 32,
    /// The transaction is over its ceiling, and nothing runs in it.
    TransactionTimeout = 64,
    /// The transaction has waited for its next statement for too long.
    IdleTimeout = 128,
}

/// What a session is doing.
#[derive(Debug)]
enum Place {
    Idle,
    /// For a server connection, or with one that it keeps.
    Waiting(Option<Arc<CancelTarget>>),
    /// The server makes the session's settings, ahead of its batch: a cancel has to wait, or the batch would run without
    /// them.
    Preparing(Arc<CancelTarget>),
    Leased(Arc<CancelTarget>),
}

/// What a cancel strikes.
enum Strikes {
    Nothing,
    /// It is known in a moment.
    NotYet,
    /// What the server connection runs, which is held back until the guard goes.
    Server(Arc<CancelTarget>, FenceGuard),
}

/// One session as others see it.
#[derive(Debug)]
pub struct Slot {
    pid: AtomicI32,
    pub user: Arc<str>,
    pub database: Arc<str>,
    tenant: Mutex<(Arc<str>, Ceilings)>,
    key: Vec<u8>,
    place: Mutex<Place>,
    /// The place has changed for which a cancel waits.
    prepared: Notify,
    signals: AtomicU32,
    waker: AtomicWaker,
    pub clock: Clock,
}

/// For metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Activity {
    Idle,
    Waiting,
    Active,
    IdleInTransaction,
}

impl Activity {
    pub fn label(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Active => "active",
            Self::IdleInTransaction => "idle_in_transaction",
        }
    }
}

impl Slot {
    /// The process id that its client is told.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Relaxed)
    }

    pub fn tenant(&self) -> Arc<str> {
        self.of_tenant().0.clone()
    }

    /// From now on it is held to these.
    pub fn belongs_to(&self, tenant: Arc<str>, ceilings: Ceilings) {
        *self.of_tenant() = (tenant, ceilings);
    }

    /// Those that it is held to now.
    pub fn ceilings(&self) -> Ceilings {
        self.of_tenant().1
    }

    /// Why what has just failed was cancelled, if it was for a ceiling of its tenant.
    pub fn was_cut_off(&self) -> Option<CutOff> {
        self.clock.was_cut_off(self.ceilings(), Instant::now())
    }

    fn of_tenant(&self) -> std::sync::MutexGuard<'_, (Arc<str>, Ceilings)> {
        self.tenant.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the client is told to cancel with.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// Takes the signals that have come; the waker is called when more come.
    pub fn take_signals(&self, waker: &Waker) -> u32 {
        self.waker.register(waker);
        if self.signals.load(Ordering::Acquire) == 0 {
            return 0;
        }
        // A shutdown is not over once it is known.
        self.signals.fetch_and(Signal::Shutdown as u32, Ordering::AcqRel)
    }

    /// Returns when one of these signals has come. Others are forgotten.
    pub async fn is_told(&self, signals: u32) {
        poll_fn(|cx| match self.take_signals(cx.waker()) & signals {
            0 => Poll::Pending,
            _ => Poll::Ready(()),
        })
        .await;
    }

    pub fn send(&self, signal: Signal) {
        self.signals.fetch_or(signal as u32, Ordering::AcqRel);
        self.waker.wake();
    }

    /// A cancel that came for an earlier request does not concern the next one.
    pub fn waits(&self) {
        self.signals.fetch_and(!(Signal::Cancel as u32), Ordering::AcqRel);
        self.goes_to(Place::Waiting(None));
    }

    /// The same with a server connection that it keeps, on which nothing runs.
    pub fn waits_with(&self, target: &Arc<CancelTarget>) {
        self.signals.fetch_and(!(Signal::Cancel as u32), Ordering::AcqRel);
        self.goes_to(Place::Waiting(Some(target.clone())));
    }

    pub fn leases(&self, target: &Arc<CancelTarget>) {
        self.goes_to(Place::Leased(target.clone()));
    }

    /// The same where the session's settings are made first: until it leases, a cancel has to wait.
    pub fn prepares(&self, target: &Arc<CancelTarget>) {
        self.goes_to(Place::Preparing(target.clone()));
    }

    fn goes_to(&self, place: Place) {
        let before = std::mem::replace(&mut *self.place(), place);
        if matches!(before, Place::Preparing(_)) {
            self.prepared.notify_waiters();
        }
    }

    pub fn rests(&self) {
        self.clock.rests();
        self.goes_to(Place::Idle);
    }

    pub fn activity(&self) -> Activity {
        match *self.place() {
            Place::Idle => Activity::Idle,
            Place::Waiting(_) => Activity::Waiting,
            Place::Preparing(_) => Activity::Active,
            Place::Leased(_) if self.clock.is_busy() => Activity::Active,
            Place::Leased(_) if self.clock.is_idle() => Activity::IdleInTransaction,
            Place::Leased(_) => Activity::Idle,
        }
    }

    /// It runs for longer than it may wait for a lock.
    fn may_wait_too_long(self: &Arc<Self>, now: Instant, grace: Duration) -> Option<MayWait> {
        let ceiling = self.ceilings().lock?;
        let since = self.clock.runs_beyond(ceiling + grace, now)?;
        match &*self.place() {
            Place::Leased(target) => Some(MayWait { slot: self.clone(), since, target: target.clone(), ceiling }),
            Place::Idle | Place::Waiting(_) | Place::Preparing(_) => None,
        }
    }

    /// Cuts off what has run since then: by a cancel, and what goes on in spite of that with its server process. True for
    /// the former.
    fn cut_off(self: &Arc<Self>, since: u64, why: CutOff, patience: Patience) -> bool {
        let cut = self.clock.next_cut(since, why, patience);
        match cut {
            Some(Cut::Cancel) => {
                let slot = self.clone();
                tokio::spawn(async move {
                    let goes_on = || slot.clock.runs_since(why) == since;
                    slot.cancel(goes_on).await;
                    if goes_on() {
                        slot.clock.note_cancel(Instant::now());
                    }
                });
            }
            Some(Cut::Kill) => self.send(Signal::Kill),
            None => {}
        }
        cut == Some(Cut::Cancel)
    }

    /// Cancels what the session runs, or waits for, if that is still `wanted` once nobody else can get its connection.
    async fn cancel(&self, wanted: impl Fn() -> bool) {
        let Ok(Strikes::Server(target, _guard)) = tokio::time::timeout(CANCEL_TIMEOUT, self.strikes()).await else {
            return;
        };
        if !wanted() {
            return;
        }
        if let Err(error) = cancel(&target.host, target.pid, &target.key, CANCEL_TIMEOUT).await {
            target.fence.breaks();
            tracing::warn!(host = %target.host.name, %error, "cannot deliver a cancel request");
        }
    }

    /// The server connection to cancel, or the queue is left.
    fn begin_cancel(&self) -> Strikes {
        match &*self.place() {
            Place::Idle => Strikes::Nothing,
            Place::Waiting(_) => {
                self.send(Signal::Cancel);
                Strikes::Nothing
            }
            Place::Preparing(_) => Strikes::NotYet,
            Place::Leased(target) => Strikes::Server(target.clone(), Fence::raise(&target.fence)),
        }
    }

    /// The same, once that is known. What makes settings is never cancelled, whatever keeps it.
    async fn strikes(&self) -> Strikes {
        loop {
            let mut prepared = std::pin::pin!(self.prepared.notified());
            prepared.as_mut().enable();
            match self.begin_cancel() {
                Strikes::NotYet => prepared.await,
                known => return known,
            }
        }
    }

    fn place(&self) -> std::sync::MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was found by [`Registry::enforce_ceilings`].
#[derive(Debug, Default)]
pub struct Overdue {
    /// The tenants of those that were cancelled.
    pub cut_off: Vec<Arc<str>>,
    pub may_wait: Vec<MayWait>,
}

/// A session that runs something for longer than it may wait for a lock. Whether it does wait, the server knows.
#[derive(Debug)]
pub struct MayWait {
    slot: Arc<Slot>,
    since: u64,
    pub target: Arc<CancelTarget>,
    pub ceiling: Duration,
}

impl MayWait {
    /// The same for as long as the statement runs.
    pub fn id(&self) -> (i32, u64) {
        (self.slot.pid(), self.since)
    }

    /// It has waited for too long. True when it is cancelled.
    pub fn cut_off(&self, patience: Patience) -> bool {
        self.slot.cut_off(self.since, CutOff::Lock, patience)
    }
}

/// All sessions of the process by the process id that their clients were told.
#[derive(Debug)]
pub struct Registry {
    base: Instant,
    slots: Mutex<HashMap<i32, Arc<Slot>>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self { base: Instant::now(), slots: Mutex::default() }
    }
}

impl Registry {
    /// A place for a new session, with a key of its own and a process id that no process has.
    pub fn register(
        &self,
        [user, database, tenant]: [Arc<str>; 3],
        protocol_minor: u16,
        ceilings: Ceilings,
    ) -> Arc<Slot> {
        let length = if protocol_minor >= 2 { LONG_KEY } else { SHORT_KEY };
        let mut key = vec![0; length];
        rand::rng().fill(&mut key[..]);
        let mut slots = self.slots();
        let mut pid = invented_pid();
        while slots.contains_key(&pid) {
            pid = invented_pid();
        }
        let slot = Arc::new(Slot {
            pid: AtomicI32::new(pid),
            user,
            database,
            tenant: Mutex::new((tenant, ceilings)),
            key,
            place: Mutex::new(Place::Idle),
            prepared: Notify::new(),
            signals: AtomicU32::new(0),
            waker: AtomicWaker::new(),
            clock: Clock::new(self.base),
        });
        slots.insert(pid, slot.clone());
        slot
    }

    /// Gives a session the process id of its server connection, where no other session has it. To be called before its
    /// client is told.
    pub fn renumber(&self, slot: &Slot, server: i32) {
        let mut slots = self.slots();
        if slots.contains_key(&server) {
            return;
        }
        if let Some(known) = slots.remove(&slot.pid()) {
            slot.pid.store(server, Ordering::Relaxed);
            slots.insert(server, known);
        }
    }

    /// Forgets a session; another one may have its process id by now.
    pub fn unregister(&self, slot: &Slot) {
        let mut slots = self.slots();
        if slots.get(&slot.pid()).is_some_and(|known| std::ptr::eq(&**known, slot)) {
            slots.remove(&slot.pid());
        }
    }

    /// Carries out a client's cancel request. Returns when it can no longer strike: only then may
    /// the connection that brought it be closed, for clients wait for that. A wrong key does nothing
    /// and says nothing.
    pub async fn cancel(&self, pid: i32, key: &[u8]) {
        let slot = self.slots().get(&pid).cloned();
        if let Some(slot) = slot.filter(|slot| bool::from(slot.key.ct_eq(key))) {
            slot.clock.note_asked();
            slot.cancel(|| true).await;
        }
    }

    /// Cuts off what is over its ceiling: what runs by a cancel, and then, with `patience`, by ending its server process; a
    /// transaction in which nothing runs by closing the server connection. To be called many times a second.
    pub fn enforce_ceilings(&self, grace: Duration, patience: Patience) -> Overdue {
        let now = Instant::now();
        let mut overdue = Overdue::default();
        for slot in self.under_way() {
            match slot.clock.over_ceiling(slot.ceilings(), now, grace) {
                None => overdue.may_wait.extend(slot.may_wait_too_long(now, grace)),
                Some(Overrun::Rests(signal)) => slot.send(signal),
                Some(Overrun::Runs(why)) => {
                    if slot.cut_off(slot.clock.runs_since(why), why, patience) {
                        overdue.cut_off.push(slot.tenant());
                    }
                }
            }
        }
        overdue
    }

    /// Tells every session that waits for an answer of this server that there may be none.
    pub fn host_is_lost(&self, host: &Arc<HostConfig>) {
        self.signal_at_work(host, Signal::HostLost);
    }

    /// Ends every session that is at work on a server which is not the primary any more.
    pub fn fence(&self, host: &Arc<HostConfig>) {
        self.signal_at_work(host, Signal::Fenced);
    }

    fn signal_at_work(&self, host: &Arc<HostConfig>, signal: Signal) {
        for slot in self.all() {
            let at_work = match &*slot.place() {
                Place::Leased(target) | Place::Preparing(target) | Place::Waiting(Some(target)) => {
                    Arc::ptr_eq(&target.host, host)
                }
                Place::Idle | Place::Waiting(None) => false,
            };
            if at_work {
                slot.send(signal);
            }
        }
    }

    /// Ends every session of a tenant, and cancels what they run. How many there were.
    pub fn kill(&self, tenant: &str) -> usize {
        let slots: Vec<_> = self.all().into_iter().filter(|slot| *slot.tenant() == *tenant).collect();
        for slot in &slots {
            slot.send(Signal::End);
            let slot = slot.clone();
            tokio::spawn(async move { slot.cancel(|| true).await });
        }
        slots.len()
    }

    /// Those in which something runs or a transaction is open. The others' memory is only read: a count that is taken for each
    /// of thousands would have to be fetched back by the processor that serves its session next.
    fn under_way(&self) -> Vec<Arc<Slot>> {
        self.slots().values().filter(|slot| !slot.clock.is_at_rest()).cloned().collect()
    }

    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.slots().values().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.slots().len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots().is_empty()
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Arc<Slot>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Beyond those that Linux gives (`PID_MAX_LIMIT`): a function that ends the process of this number finds none.
fn invented_pid() -> i32 {
    rand::rng().random_range((1 << 22) + 1..=i32::MAX)
}
