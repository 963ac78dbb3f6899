//! The server connections of one host, over all its pools and pgweir's own: as many as `max_server_connections`, so that
//! PostgreSQL's own limit is never met.
//!
//! A pool that wants another connection and finds no place asks for one. The host's *keeper*, a task of its own, then
//! closes idle connections of other pools that nobody has needed lately, least recently used first; where that is not
//! enough it says how many each pool may have, until all have what they want again ([`super::keeper`]). Sessions only
//! ever take and give back a place.
//!
//! A connection of pgweir's own has a place like any other and stands in line for it ([`super::places`]); the keeper makes
//! room for those in line as for pools. A place is given back when the server has closed its end ([`super::seat`]).
//!
//! Hosts with the same address are one server, in whatever clusters they are: they have one budget ([`Budgets`]).

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};

pub(super) use super::keeper::Wants;
use super::keeper::{Keeper, Plan};
use super::places::{Places, Purpose, Use};
use super::queue::Pool;
use super::weight::Spread;
use crate::config::HostAddress;

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
    places: Mutex<Places<oneshot::Sender<Place>>>,
    /// The keeper has something to do.
    asked: Notify,
    /// Places of errands may be wanted back.
    wanted_back: Notify,
    pools: Mutex<Vec<Weak<Pool>>>,
}

impl Default for Budget {
    fn default() -> Self {
        let (load, asked, wanted_back, pools) = Default::default();
        Self { load, places: Mutex::new(Places::new(usize::MAX)), asked, wanted_back, pools }
    }
}

/// One server connection's place, given back when dropped.
#[derive(Debug)]
pub struct Place {
    budget: Arc<Budget>,
    used: Use,
}

impl Place {
    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Its connection is being closed. False where there is no limit, and it does not matter.
    pub(super) fn leaves(&mut self) -> bool {
        let used = std::mem::replace(&mut self.used, Use::Leaving);
        let most = {
            let mut places = self.budget.places();
            places.leaves(used);
            places.most()
        };
        // There may be room for another errand.
        self.budget.admit();
        most != usize::MAX
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.budget.change(|places| places.gives_back(self.used));
    }
}

/// Stands in line for a place, until it has one or is dropped.
#[derive(Debug)]
pub struct Asking {
    budget: Arc<Budget>,
    purpose: Purpose,
    ticket: u64,
    given: oneshot::Receiver<Place>,
}

impl Future for Asking {
    type Output = Place;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Place> {
        let given = Pin::new(&mut self.given).poll(cx);
        given.map(|given| given.expect("who stands in line is given a place"))
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.budget.change(|places| places.withdraw(self.purpose, self.ticket));
    }
}

impl Budget {
    /// There may be at most so many; `None`: as many as the pools want.
    fn limit(self: &Arc<Self>, most: Option<usize>) {
        self.change(|places| places.limit(most.unwrap_or(usize::MAX)));
        match most {
            Some(_) => self.asked.notify_one(),
            None => self.all_pools().iter().for_each(|pool| pool.allow(usize::MAX, usize::MAX, &Spread::default())),
        }
    }

    /// As many as there may be, where there is a limit.
    pub fn most(&self) -> Option<usize> {
        Some(self.places().most()).filter(|most| *most != usize::MAX)
    }

    /// Leases and waiters on the whole host.
    pub fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Connections that are open, being opened or being closed.
    pub fn open(&self) -> usize {
        self.places().open()
    }

    /// Stands in line for a place of a connection that serves no pool.
    pub fn ask(self: &Arc<Self>, purpose: Purpose) -> Asking {
        let (give, given) = oneshot::channel();
        let ticket = self.change(|places| places.ask(purpose, give));
        Asking { budget: self.clone(), purpose, ticket, given }
    }

    /// A place for a connection of a pool. `promised`: the pool has less than it is promised. Where there is
    /// none the keeper is asked for one.
    pub(super) fn place(self: &Arc<Self>, promised: bool) -> Option<Place> {
        let taken = self.places().take_for_pool(promised);
        if !taken {
            self.admit();
            self.asked.notify_one();
        }
        taken.then(|| Place { budget: self.clone(), used: Use::Pool })
    }

    pub(super) fn wants_errands_back(&self) -> bool {
        self.places().wants_errands_back()
    }

    /// Returns when places of errands are wanted back. Cancel safe.
    pub(super) async fn errands_wanted_back(&self) {
        loop {
            let mut wanted_back = std::pin::pin!(self.wanted_back.notified());
            // Before the look: what changes in between is not missed.
            wanted_back.as_mut().enable();
            if self.wants_errands_back() {
                return;
            }
            wanted_back.await;
        }
    }

    /// What is promised in one of the pools has changed.
    pub(super) fn look(&self) {
        if self.most().is_some() {
            self.asked.notify_one();
        }
    }

    pub(super) fn enter(&self, pool: &Arc<Pool>) {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.push(Arc::downgrade(pool));
    }

    /// The keeper: runs until the host is gone.
    async fn keep(budget: Weak<Self>) {
        let base = Instant::now();
        let mut keeper = Keeper::default();
        loop {
            let Some(budget) = budget.upgrade() else { return };
            let is_short = budget.arrange(&mut keeper, base.elapsed().as_micros() as u64);
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
    fn arrange(self: &Arc<Self>, keeper: &mut Keeper, now: u64) -> bool {
        if self.most().is_none() {
            return false;
        }
        let pools = self.all_pools();
        let wants: Vec<_> = pools.iter().map(|pool| pool.wants()).collect();
        let plan = self.decide(keeper, wants, now);
        for (pool, since) in plan.close {
            pools[pool].close_idle_since(since);
        }
        for (pool, (allowed, least)) in pools.iter().zip(plan.allowed.into_iter().zip(plan.least)) {
            pool.allow(allowed, least, &plan.spread);
        }
        plan.short
    }

    fn decide(self: &Arc<Self>, keeper: &mut Keeper, wants: Vec<Wants>, now: u64) -> Plan {
        let plan = {
            let mut places = self.places();
            let plan = keeper.plan(places.supply(), wants, now);
            places.found(plan.promises, plan.short);
            plan
        };
        self.admit();
        plan
    }

    /// Changes what there is, and has those looked after who lack a place.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut Places<oneshot::Sender<Place>>) -> T) -> T {
        let changed = change(&mut self.places());
        self.admit();
        if self.places().is_wanted() {
            self.asked.notify_one();
        }
        changed
    }

    /// Gives those in line what is free.
    fn admit(self: &Arc<Self>) {
        loop {
            let admitted = self.places().admit();
            let Some((purpose, give)) = admitted else { break };
            // Whoever is gone gives it back.
            drop(give.send(Place { budget: self.clone(), used: Use::Own(purpose) }));
        }
        if self.wants_errands_back() {
            self.wanted_back.notify_waiters();
        }
    }

    fn all_pools(&self) -> Vec<Arc<Pool>> {
        let mut pools = self.pools();
        pools.retain(|pool| pool.strong_count() > 0);
        pools.iter().filter_map(Weak::upgrade).collect()
    }

    fn places(&self) -> MutexGuard<'_, Places<oneshot::Sender<Place>>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, Vec<Weak<Pool>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The budgets of servers, by their addresses.
#[derive(Debug, Default)]
pub struct Budgets(Mutex<HashMap<HostAddress, Weak<Budget>>>);

impl Budgets {
    /// That of a server. Its keeper runs for as long as anybody has it.
    pub fn of(&self, address: &HostAddress) -> Arc<Budget> {
        let mut budgets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(budget) = budgets.get(address).and_then(Weak::upgrade) {
            return budget;
        }
        budgets.retain(|_, budget| budget.strong_count() > 0);
        let budget = Arc::<Budget>::default();
        tokio::spawn(Budget::keep(Arc::downgrade(&budget)));
        budgets.insert(address.clone(), Arc::downgrade(&budget));
        budget
    }

    /// What is said of each host, all of them: where several are one server, the least counts.
    pub fn limit<'a>(&self, said: impl IntoIterator<Item = (&'a HostAddress, Option<usize>)>) {
        let mut limits = HashMap::<&HostAddress, Option<usize>>::new();
        for (address, most) in said {
            let limit: &mut Option<usize> = limits.entry(address).or_default();
            *limit = limit.iter().copied().chain(most).min();
        }
        limits.into_iter().for_each(|(address, most)| self.of(address).limit(most));
    }
}

#[cfg(test)]
mod tests;
