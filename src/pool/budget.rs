//! The server connections of one host, over all its pools: as many as `max_server_connections`, so that PostgreSQL's own
//! limit is never met.
//!
//! A pool that wants another connection and finds no place asks for one. The host's *keeper*, a task of its own, then
//! closes idle connections of other pools that nobody has needed lately, least recently used first; where that is not
//! enough it says how many each pool may have ([`super::apportion`]), until all have what they want again. Sessions only
//! ever take and give back a place.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::apportion::{Apportion, Claim, weights};
use super::queue::Pool;

/// While there is less than is wanted, what each may have is looked at again so often. (A turn takes longer:
/// [`super::apportion::QUANTUM`].)
const BEAT: Duration = Duration::from_millis(50);
/// And no more often than this, whatever is asked for.
const SHORTEST_BEAT: Duration = Duration::from_millis(2);

/// See the module's page.
#[derive(Debug)]
pub struct Budget {
    /// Leases and waiters over all pools: what balancing compares.
    pub(super) load: AtomicUsize,
    open: AtomicUsize,
    most: usize,
    /// Of these, as many are for pools that are promised more than they have.
    promised: AtomicUsize,
    /// Somebody waits for a place.
    is_short: AtomicBool,
    asked: Notify,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Default for Budget {
    fn default() -> Self {
        let [load, open, promised] = Default::default();
        let (is_short, asked, pools) = Default::default();
        Self { load, open, most: usize::MAX, promised, is_short, asked, pools }
    }
}

/// One server connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Budget>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        if self.0.is_short.load(Ordering::Acquire) {
            self.0.asked.notify_one();
        }
    }
}

impl Budget {
    /// With at most so many connections; `None`: as many as the pools want.
    pub fn new(most: Option<usize>) -> Arc<Self> {
        Arc::new(Self { most: most.unwrap_or(usize::MAX), ..Self::default() })
    }

    /// Leases and waiters on the whole host.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Connections that are open or being opened.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Acquire)
    }

    /// A place for a connection that serves no pool: it counts, and is never refused.
    pub fn place_of_our_own(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Ordering::AcqRel);
        Place(self.clone())
    }

    /// A place for a connection of a pool. `promised`: the pool has less than its tenants are promised. Where there is
    /// none the keeper is asked for one.
    pub(super) fn place(self: &Arc<Self>, promised: bool) -> Option<Place> {
        let kept = if promised { 0 } else { self.promised.load(Ordering::Relaxed) };
        let most = self.most.saturating_sub(kept);
        let next = |open| (open < most).then(|| open + 1);
        match self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, next) {
            Ok(_) => Some(Place(self.clone())),
            Err(_) => {
                self.is_short.store(true, Ordering::Release);
                self.asked.notify_one();
                None
            }
        }
    }

    /// What is promised in one of the pools has changed.
    pub(super) fn look(&self) {
        if self.is_limited() {
            self.asked.notify_one();
        }
    }

    fn is_limited(&self) -> bool {
        self.most != usize::MAX
    }

    pub(super) fn enter(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// The keeper: runs until the host is gone.
    pub async fn keep(budget: Weak<Self>) {
        let base = Instant::now();
        let mut apportion = Apportion::default();
        loop {
            let Some(budget) = budget.upgrade() else { return };
            let is_short = budget.arrange(&mut apportion, base.elapsed().as_micros() as u64);
            let asked = budget.asked.notified();
            match is_short {
                // What is promised changes as clients come and go, too.
                false => drop(tokio::time::timeout(super::fair::ROTATION, asked).await),
                true => drop(tokio::time::timeout(BEAT, asked).await),
            }
            drop(budget);
            tokio::time::sleep(SHORTEST_BEAT).await;
        }
    }

    /// True while there is less than is wanted.
    fn arrange(&self, apportion: &mut Apportion, now: u64) -> bool {
        if !self.is_limited() {
            return false;
        }
        let pools: Vec<_> = {
            let mut pools = self.pools();
            pools.retain(|pool| pool.strong_count() > 0);
            pools.iter().filter_map(Weak::upgrade).collect()
        };
        let mut wants: Vec<_> = pools.iter().map(|pool| pool.wants()).collect();
        self.promised
            .store(wants.iter().map(|wants| wants.claim.least.saturating_sub(wants.open)).sum(), Ordering::Relaxed);
        self.is_short.store(false, Ordering::Release);
        if wants.iter().all(|wants| wants.lacking == 0) {
            pools.iter().for_each(|pool| pool.allow(usize::MAX));
            apportion.rest();
            return false;
        }
        self.is_short.store(true, Ordering::Release);
        self.close_unneeded(&pools, &wants);
        let open: usize = wants.iter().map(|wants| wants.open).sum();
        // What serves no pool is there, too.
        let total = self.most.saturating_sub(self.open().saturating_sub(open));
        let active: Vec<_> = wants.iter_mut().map(|wants| std::mem::take(&mut wants.active)).collect();
        let claim = |(wants, weight): (&Wants, u64)| Claim { weight, ..wants.claim };
        let claims: Vec<_> = wants.iter().zip(weights(&active)).map(claim).collect();
        if claims.iter().map(|claim| claim.needs.max(claim.least)).sum::<usize>() <= total {
            pools.iter().for_each(|pool| pool.allow(usize::MAX));
            return true;
        }
        for (pool, allowed) in pools.iter().zip(apportion.give(total, &claims, now)) {
            pool.allow(allowed);
        }
        true
    }

    /// Closes idle connections that nobody has needed lately, least recently used first, as many as are lacking.
    fn close_unneeded(&self, pools: &[Arc<Pool>], wants: &[Wants]) {
        let lacking: usize = wants.iter().map(|wants| wants.lacking).sum();
        let room = self.most.saturating_sub(self.open());
        let mut unneeded: Vec<_> = pools
            .iter()
            .zip(wants)
            .flat_map(|(pool, wants)| {
                let spare = wants.open.saturating_sub(wants.claim.needs.max(wants.claim.least));
                wants.idle_since.iter().take(spare).map(move |since| (*since, pool))
            })
            .collect();
        unneeded.sort_unstable_by_key(|(since, _)| *since);
        for (since, pool) in unneeded.into_iter().take(lacking.saturating_sub(room)) {
            pool.close_idle_since(since);
        }
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a pool has and wants of its host.
#[derive(Debug)]
pub(super) struct Wants {
    /// Without its weight, which depends on the other pools.
    pub claim: Claim,
    /// The tenants that are active, and their weights.
    pub active: Vec<(Arc<str>, u32)>,
    /// Idle, leased and being opened.
    pub open: usize,
    /// Connections that it would open if it had places.
    pub lacking: usize,
    /// When each idle connection was last used, the earliest first.
    pub idle_since: Vec<Instant>,
}
