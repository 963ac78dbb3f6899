//! Who is served next: tenants share the connections of one pool. A state machine without a clock of its own.
//!
//! Each tenant has an *account* of backend time: connections count for as long as it holds them, those of a heavier
//! tenant for less. (This is deficit round robin with the deficit kept as time that has been used, since what a
//! statement costs is known only when it is over; M. Shreedhar and G. Varghese, 1995; start-time fair queueing, P. Goyal
//! et al., 1996.) Of those who wait the one that has used least is next, and within a tenant who came first.
//!
//! That alone would have a short statement wait for long ones, which nobody interrupts. So a tenant that holds its *fair
//! share* of the connections or more takes none that others, who hold less, have needed a moment ago: as many as each of
//! them has used at once within the last [`ROTATION`] or two are left to it, up to its fair share. What nobody has
//! needed lately anybody may take.
//!
//! While pools want more than their host has, a tenant that is at work in several of them has a part of its weight in each
//! ([`Fair::spread`]), so that it has no more of the host than others.
//!
//! A tenant that may have no more connections, here and elsewhere, is *barred*: those of it who wait count for nothing until
//! somebody says that there is more for it, so that they cost the others nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::cut::Cut;
use super::line::Line;
use super::weight::{HEAVIEST, Spread, WHOLE, Weight};
use crate::config::Tier;

/// What was needed longer ago than this, or twice this, is forgotten ([`super::Pool::maintain`]).
pub const ROTATION: Duration = Duration::from_millis(500);

/// Whoever has not used its share lags behind no further than this: it is not owed more, in microseconds at the greatest
/// weight.
const CREDIT: u64 = 1_000_000;
/// And whoever has used more than its share is this far ahead at most, so that it does not starve.
const DEBT: u64 = 5_000_000;

/// A tenant among those that share a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Party(usize);

/// What a tenant's share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Of the backend time ([`crate::config::Priority::weight`]).
    pub weight: u32,
    /// Connections that are left to it, whoever else wants them, while it has clients.
    pub least: usize,
}

impl Terms {
    pub fn of(tier: &Tier) -> Self {
        Self { weight: tier.priority.weight(), least: tier.min_server_connections }
    }
}

/// What waits.
pub trait Waits {
    /// As many more connections its tenant may have, here and elsewhere. Where that was none, somebody has to tell
    /// ([`Fair::look`]) when it is more.
    fn may_have(&self) -> usize;
}

/// See the module's page. `W` is what waits. Times are microseconds since any one instant.
#[derive(Debug)]
pub struct Fair<W> {
    accounts: Slab<Account<W>>,
    names: HashMap<Arc<str>, usize>,
    /// Those that hold connections, wait, or have done so lately.
    active: Vec<usize>,
    /// What they weigh together, in parts of a [`WHOLE`].
    weight: u64,
    /// What is left to tenants whoever wants it.
    least: usize,
    /// As far as that can be kept.
    promised: Promised,
    /// The account of whoever was served last from the queue.
    level: u64,
    /// Those of tenants that may have more.
    waiting: usize,
    /// The others.
    barred: usize,
    tickets: u64,
}

/// With thousands of tenants none of it is in the processor's cache, and having it there is most of what fairness costs. So
/// what is needed where nobody waits comes first, and fills one of the cache's lines.
#[derive(Debug)]
#[repr(C, align(64))]
struct Account<W> {
    /// When the connections that it holds were taken, added up.
    since: u64,
    /// By connections that were given back, in parts of a microsecond. Less than none where what is held counts for more
    /// than it did when it was taken.
    used: i64,
    leased: usize,
    /// [`Terms::least`].
    least: usize,
    weight: Weight,
    /// Connections held and wanted at once, at most: since the last rotation, and between that and the one before.
    peaks: [u32; 2],
    active: bool,
    /// It may have no more, here and elsewhere: those who wait do not count here.
    barred: bool,
    /// Clients.
    members: usize,
    waiters: Line<W>,
    name: Arc<str>,
}

impl<W: Waits> Account<W> {
    /// What it has used, connections that it holds included.
    fn spent(&self, now: u64) -> u64 {
        self.used.saturating_add_unsigned(self.running(now)).max(0) as u64
    }

    /// What it has used on the connections that it holds.
    fn running(&self, now: u64) -> u64 {
        self.weight.parts((self.leased as u64 * now).saturating_sub(self.since))
    }

    /// It has used as much as before.
    fn weighs(&mut self, weight: Weight, now: u64) {
        let before = self.running(now);
        self.weight = weight;
        self.used = self.used.saturating_add_unsigned(before).saturating_sub_unsigned(self.running(now));
    }

    fn least(&self) -> usize {
        if self.least == 0 || self.members == 0 { 0 } else { self.least }
    }

    /// What it is promised, as far as that is kept.
    fn kept(&self, cut: Cut) -> usize {
        cut.part(self.least())
    }

    /// Of that, as much as it does not hold.
    fn promise(&self, cut: Cut) -> usize {
        self.kept(cut).saturating_sub(self.leased)
    }

    fn recent(&self) -> usize {
        self.peaks[0].max(self.peaks[1]) as usize
    }

    fn note_peak(&mut self, anybody_waits: bool) {
        self.peaks[0] = self.peaks[0].max(self.wanted(anybody_waits));
    }

    /// Connections that it holds, and waits for and may have.
    fn wanted(&self, anybody_waits: bool) -> u32 {
        let waiting = if anybody_waits { self.waiting() } else { 0 };
        u32::try_from(self.leased + waiting).unwrap_or(u32::MAX)
    }

    /// Those of its waiters that may have a connection.
    fn waiting(&self) -> usize {
        match self.waiters.first() {
            Some((_, first)) if !self.barred => self.waiters.len().min(first.may_have()),
            _ => 0,
        }
    }

    fn may_have_more(&self) -> bool {
        self.waiters.first().is_none_or(|(_, first)| first.may_have() > 0)
    }
}

impl<W> Default for Fair<W> {
    fn default() -> Self {
        Self {
            accounts: Slab::new(),
            names: HashMap::new(),
            active: Vec::new(),
            weight: 0,
            least: 0,
            promised: Promised::default(),
            level: 0,
            waiting: 0,
            barred: 0,
            tickets: 0,
        }
    }
}

/// What is free and how much of it is for whom.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Connections that nobody holds, whether they are open or may be opened.
    pub free: usize,
    /// All that there may be.
    pub capacity: usize,
}

/// What tenants are promised, as far as it can be kept.
#[derive(Debug, Clone, Copy, Default)]
struct Promised {
    cut: Cut,
    all: usize,
    /// Of that, as much as they do not hold.
    open: usize,
}

impl Promised {
    fn to<'a, W: Waits + 'a>(accounts: impl Iterator<Item = &'a Account<W>>, cut: Cut) -> Self {
        accounts.fold(Self { cut, ..Self::default() }, |promised, account| Self {
            all: promised.all + account.kept(cut),
            open: promised.open + account.promise(cut),
            ..promised
        })
    }
}

/// What there is, and what of it is promised.
#[derive(Clone, Copy)]
struct Scope {
    free: usize,
    capacity: usize,
    promised: Promised,
}

impl<W: Waits> Fair<W> {
    /// One more client of a tenant. The terms are those of the tenant's latest client.
    pub fn join(&mut self, name: &Arc<str>, terms: Terms) -> Party {
        let accounts = &mut self.accounts;
        let id = *self.names.entry(name.clone()).or_insert_with(|| {
            accounts.insert(Account {
                since: 0,
                used: 0,
                leased: 0,
                least: terms.least,
                weight: Weight::new(terms.weight, 1),
                peaks: [0, 0],
                active: false,
                barred: false,
                members: 0,
                waiters: Line::default(),
                name: name.clone(),
            })
        });
        self.change(id, |account| {
            account.members += 1;
            account.least = terms.least;
            if account.weight.whole != terms.weight {
                account.weight = Weight::new(terms.weight, account.weight.pools);
            }
        });
        Party(id)
    }

    /// A client leaves that holds nothing and does not wait. It may still be owed a lease that is yet to come back.
    pub fn leave(&mut self, Party(id): Party) {
        self.change(id, |account| account.members -= 1);
        self.forget_if_gone(id);
    }

    /// Joins the queue, up to `until`. Who has to leave it instead, if it is full: of the tenant that has most in it, whose
    /// time is over first. Those for whom there is room do not count.
    pub fn arrive(
        &mut self,
        Party(id): Party,
        waiter: W,
        until: u64,
        now: u64,
        queue_length: usize,
        room: Room,
    ) -> (u64, Option<W>) {
        self.tickets += 1;
        let account = &mut self.accounts[id];
        account.waiters.enter(self.tickets, until, waiter);
        if account.barred {
            self.barred += 1;
        } else {
            self.waiting += 1;
            self.wake(id, now);
        }
        match self.accounts[id].may_have_more() {
            true => self.unbar(id, now),
            false => self.bar(id),
        }
        let full = self.waiting > queue_length.saturating_add(self.served(room));
        (self.tickets, if full { self.shed() } else { None })
    }

    fn shed(&mut self) -> Option<W> {
        let id = self.most_in_it()?;
        let waiter = self.accounts[id].waiters.pop_shortest()?;
        self.has_left(id);
        Some(waiter)
    }

    /// The tenant of which most wait, by its weight.
    fn most_in_it(&self) -> Option<usize> {
        let most = |id: &usize| {
            let account = &self.accounts[*id];
            account.weight.parts(account.waiters.len() as u64)
        };
        self.active.iter().copied().filter(|id| !self.accounts[*id].barred).max_by_key(most)
    }

    /// Leaves the queue, if it is still there.
    pub fn withdraw(&mut self, Party(id): Party, ticket: u64) -> Option<W> {
        // By now it may be forgotten.
        let waiter = self.accounts.get_mut(id)?.waiters.remove(ticket)?;
        self.has_left(id);
        Some(waiter)
    }

    /// The tenant may have more than it could: true where others may be served for that.
    pub fn look(&mut self, Party(id): Party, now: u64) -> bool {
        // By now it may be forgotten.
        let more = self.accounts.get(id).is_some_and(|account| account.barred && account.may_have_more());
        if more {
            self.unbar(id, now);
        }
        more
    }

    /// Its waiters do not count.
    fn bar(&mut self, id: usize) {
        let account = &mut self.accounts[id];
        if !std::mem::replace(&mut account.barred, true) {
            let count = account.waiters.len();
            (self.waiting, self.barred) = (self.waiting - count, self.barred + count);
        }
    }

    /// They count again.
    fn unbar(&mut self, id: usize, now: u64) {
        let account = &mut self.accounts[id];
        if std::mem::replace(&mut account.barred, false) {
            let count = account.waiters.len();
            (self.waiting, self.barred) = (self.waiting + count, self.barred - count);
            self.wake(id, now);
        }
    }

    /// A waiter has left its queue.
    fn has_left(&mut self, id: usize) {
        let account = &mut self.accounts[id];
        *(if account.barred { &mut self.barred } else { &mut self.waiting }) -= 1;
        account.barred &= !account.waiters.is_empty();
    }

    /// Whoever comes and does not wait: may it take a connection?
    pub fn admits(&mut self, Party(id): Party, room: Room, now: u64) -> bool {
        self.wake(id, now);
        let scope = self.fit(room);
        let account = &self.accounts[id];
        if account.barred || (self.waiting > 0 && !account.waiters.is_empty()) || room.free == 0 {
            return false;
        }
        let free_of_promises = room.free > scope.promised_to_others(account);
        if free_of_promises && account.leased < self.fair_share(account, scope) {
            return true;
        }
        self.share_of(account, scope, self.reserved(scope)) > 0
    }

    /// The tenant whose first waiter is next, and which is to be given a connection.
    pub fn next(&mut self, room: Room, now: u64) -> Option<Party> {
        while self.waiting > 0 && room.free > 0 {
            let scope = self.fit(room);
            let reserved = self.reserved(scope);
            let next = self.next_of(now, |account| self.share_of(account, scope, reserved) > 0)?;
            if self.accounts[next].may_have_more() {
                return Some(Party(next));
            }
            self.bar(next);
        }
        None
    }

    /// Of those that may have more and have somebody waiting, the one that is next.
    fn next_of(&self, now: u64, may: impl Fn(&Account<W>) -> bool) -> Option<usize> {
        let waiting = self.active.iter().filter(|id| {
            let account = &self.accounts[**id];
            !account.waiters.is_empty() && !account.barred && may(account)
        });
        waiting.min_by_key(|id| self.rank(**id, now)).copied()
    }

    /// The first waiter of a tenant.
    pub fn first(&self, Party(id): Party) -> Option<&W> {
        self.accounts[id].waiters.first().map(|(_, waiter)| waiter)
    }

    /// The first waiter of a tenant, which has come to its turn.
    pub fn take(&mut self, Party(id): Party, now: u64) -> Option<W> {
        self.level = self.level.max(self.accounts[id].spent(now).min(self.level + DEBT));
        self.pop(id)
    }

    /// Sends somebody away: the first waiter of whoever is next, whether there is room or not.
    pub fn dismiss(&mut self, now: u64) -> Option<W> {
        let next = self.next_of(now, |_| true);
        next.and_then(|id| self.pop(id))
    }

    /// How many of those who wait would be given a connection.
    pub fn served(&self, room: Room) -> usize {
        if self.waiting == 0 || room.free == 0 {
            return 0;
        }
        let scope = self.scope(room);
        let reserved = self.reserved(scope);
        let accounts = self.active.iter().map(|id| &self.accounts[*id]);
        let served = accounts.map(|account| account.waiting().min(self.share_of(account, scope, reserved)));
        served.sum::<usize>().min(room.free)
    }

    /// How many of one tenant wait, and how many of them would be given a connection.
    pub fn waiting_of(&self, Party(id): Party, room: Room) -> (usize, usize) {
        let Some(account) = self.accounts.get(id) else { return (0, 0) };
        let scope = self.scope(room);
        let served = account.waiting().min(self.share_of(account, scope, self.reserved(scope)));
        (account.waiters.len(), served)
    }

    pub fn leases(&mut self, Party(id): Party, now: u64) {
        let anybody_waits = self.waiting > 0;
        self.change(id, |account| {
            account.leased += 1;
            account.since += now;
            account.note_peak(anybody_waits);
        });
    }

    /// A connection that was taken at `since` is given back.
    pub fn returns(&mut self, Party(id): Party, since: u64, now: u64) {
        self.change(id, |account| {
            account.leased -= 1;
            account.since -= since;
            account.used = account.used.saturating_add_unsigned(account.weight.parts(now.saturating_sub(since)));
        });
    }

    /// So many pools of the host have a part of each tenant's weight.
    pub fn spread(&mut self, spread: &Spread, now: u64) {
        for at in 0..self.active.len() {
            let account = &self.accounts[self.active[at]];
            let pools = spread.pools(&account.name);
            if pools != account.weight.pools {
                let weight = Weight::new(account.weight.whole, pools);
                self.change(self.active[at], |account| account.weighs(weight, now));
            }
        }
    }

    /// Forgets what was needed long ago.
    pub fn rotate(&mut self) {
        let anybody_waits = self.waiting > 0;
        for id in std::mem::take(&mut self.active) {
            let account = &mut self.accounts[id];
            account.peaks = [account.wanted(anybody_waits), account.peaks[0]];
            if account.recent() > 0 {
                self.active.push(id);
                continue;
            }
            account.active = false;
            self.weight -= account.weight.here();
            // It holds none.
            account.weight = Weight::new(account.weight.whole, 1);
            if !account.waiters.is_empty() {
                // It may have none, as is known now at the latest.
                self.bar(id);
            }
            self.forget_if_gone(id);
        }
    }

    /// Everybody, with who waits for longest first within each tenant.
    pub fn drain(&mut self) -> impl Iterator<Item = W> {
        (self.waiting, self.barred) = (0, 0);
        self.accounts.iter_mut().flat_map(|(_, account)| {
            account.barred = false;
            account.waiters.drain()
        })
    }

    /// Those who wait longest, one of each tenant.
    pub fn firsts(&self) -> impl Iterator<Item = &W> {
        self.accounts.iter().filter_map(|(_, account)| Some(account.waiters.first()?.1))
    }

    /// Those who wait for want of passes included.
    pub fn everybody(&self) -> usize {
        self.waiting + self.barred
    }

    /// Those whose tenant may have more.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Those that are active, and what they weigh, in all pools together.
    pub fn active(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.active.iter().map(|id| &self.accounts[*id]).map(|account| (&account.name, account.weight.whole))
    }

    /// Connections that were needed at once lately.
    pub fn recent(&self) -> usize {
        self.active.iter().map(|id| self.accounts[*id].recent()).sum()
    }

    /// What is left to tenants whoever wants it.
    pub fn least(&self) -> usize {
        self.least
    }

    /// A tenant does something: from now on it counts.
    fn wake(&mut self, id: usize, now: u64) {
        let account = &mut self.accounts[id];
        let spent = account.spent(now);
        let clamped = spent.clamp(self.level.saturating_sub(CREDIT), self.level + DEBT);
        account.used = account.used.saturating_add_unsigned(clamped).saturating_sub_unsigned(spent);
        account.note_peak(self.waiting > 0);
        if !std::mem::replace(&mut account.active, true) {
            self.active.push(id);
            self.weight += account.weight.here();
        }
    }

    fn pop(&mut self, id: usize) -> Option<W> {
        let waiter = self.accounts[id].waiters.pop_first()?;
        self.has_left(id);
        Some(waiter)
    }

    /// Who has used least, and of those who are ahead of all others who has waited longest.
    fn rank(&self, id: usize, now: u64) -> (u64, u64) {
        let account = &self.accounts[id];
        let ticket = account.waiters.first().map_or(u64::MAX, |(ticket, _)| ticket);
        (account.spent(now).min(self.level + DEBT), ticket)
    }

    /// Changes an account, and what follows from it.
    fn change(&mut self, id: usize, change: impl FnOnce(&mut Account<W>)) {
        let (account, Promised { cut, all, open }) = (&mut self.accounts[id], self.promised);
        let (least, weight) = (account.least(), account.weight.here());
        let (all, open) = (all - account.kept(cut), open - account.promise(cut));
        change(account);
        self.least = self.least - least + account.least();
        self.promised = Promised { cut, all: all + account.kept(cut), open: open + account.promise(cut) };
        if account.active {
            self.weight = self.weight - weight + account.weight.here();
        }
    }

    fn forget_if_gone(&mut self, id: usize) {
        let account = &self.accounts[id];
        if account.members == 0 && !account.active && account.leased == 0 {
            self.names.remove(&account.name);
            self.accounts.remove(id);
        }
    }

    /// With what is promised cut to it.
    fn scope(&self, room: Room) -> Scope {
        let cut = Cut::to(room.capacity, self.least);
        let promised = match cut == self.promised.cut {
            true => self.promised,
            false => Promised::to(self.accounts.iter().map(|(_, account)| account), cut),
        };
        Scope { free: room.free, capacity: room.capacity, promised }
    }

    /// The same, for next time as well.
    fn fit(&mut self, room: Room) -> Scope {
        let scope = self.scope(room);
        self.promised = scope.promised;
        scope
    }

    /// The whole connections that a tenant's weight gives it among those who are active, beside what each is promised. As
    /// only whole ones count, something is left for those to whom that gives none.
    fn fair_share(&self, account: &Account<W>, scope: Scope) -> usize {
        let weight = account.weight.here();
        let all = if account.active { self.weight } else { self.weight + weight };
        let shared = scope.capacity.saturating_sub(scope.promised.all) as u64;
        account.kept(scope.promised.cut) + (shared * weight / all.max(1)) as usize
    }

    /// What a tenant has needed lately and does not hold, up to its fair share, beyond what it is promised.
    fn reserve(&self, account: &Account<W>, scope: Scope) -> usize {
        let held = account.leased + account.promise(scope.promised.cut);
        account.recent().min(self.fair_share(account, scope)).saturating_sub(held)
    }

    /// The same of all together.
    fn reserved(&self, scope: Scope) -> usize {
        // Nobody's fair share is a whole connection beside what it is promised.
        if u64::from(HEAVIEST * WHOLE) * (scope.capacity as u64) < self.weight {
            return 0;
        }
        self.active.iter().map(|id| self.reserve(&self.accounts[*id], scope)).sum()
    }

    /// As many of the free ones a tenant may take, if nobody else does.
    fn share_of(&self, account: &Account<W>, scope: Scope, reserved: usize) -> usize {
        let promised = scope.promised_to_others(account);
        let reserved = reserved.saturating_sub(self.reserve(account, scope));
        let fair = self.fair_share(account, scope).saturating_sub(account.leased);
        let below = fair.min(scope.free.saturating_sub(promised));
        let spare = scope.free.saturating_sub(promised + reserved);
        account.promise(scope.promised.cut).min(scope.free).max(below).max(spare)
    }
}

impl Scope {
    /// What others are promised and do not hold.
    fn promised_to_others<W: Waits>(self, account: &Account<W>) -> usize {
        self.promised.open - account.promise(self.promised.cut)
    }
}

#[cfg(test)]
mod tests;
