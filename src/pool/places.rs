//! The places of one host: what its connections are for, how many there may be, and who stands in line for one. A state
//! machine.
//!
//! Pools are given a place or none, and ask again when the keeper says so. Connections of pgweir's own stand in line, in the
//! order in which they came, for one of three [`Purpose`]s. What is free goes first to whoever keeps watch; then to errands, as
//! many as [`Places::few`]; then to services; then to pools. What pools are promised comes before all but the watch and one
//! errand. That one has its place whatever else there is: sessions that hold connections may be waiting for it.

use std::collections::VecDeque;

/// What a connection of pgweir's own is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// What all else depends on: a host's monitor, and the end of a server process that goes on beyond its ceiling.
    Watch,
    /// A question or two. Who keeps the connection for the next ones lets it go when it is wanted back
    /// ([`super::Seat::is_wanted_back`]).
    Errand,
    /// Something that a client wants, for as long as he does: `LISTEN`, replication. At most half of all.
    Service,
}

impl Purpose {
    /// In the order in which they are given what is free.
    const ALL: [Self; 3] = [Self::Watch, Self::Errand, Self::Service];
}

/// What a place is taken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Pool,
    Own(Purpose),
    /// The server is to close its end.
    Leaving,
}

/// See the module's page. `W` is what waits.
#[derive(Debug)]
pub(super) struct Places<W> {
    most: usize,
    pooled: usize,
    leaving: usize,
    /// By purpose.
    own: [usize; 3],
    lines: [VecDeque<(u64, W)>; 3],
    tickets: u64,
    promises: Promises,
    /// Some pool was refused one, and none is known to have got all it wants since.
    short: bool,
}

/// What pools are promised, all of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Promises {
    pub all: usize,
    /// Of these, as many as they do not have.
    pub open: usize,
}

/// What the keeper has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Supply {
    /// Pools may have so many together.
    pub for_pools: usize,
    /// And as many if there were no services: they come after what is promised.
    pub for_promises: usize,
    /// Those that nobody has, or will have in a moment; negative where there are more than there may be.
    pub free: isize,
    /// Of these, as many as are not for pools.
    pub kept: usize,
    /// Who stands in line for one that it is to get before pools do.
    pub owed: usize,
}

impl<W> Places<W> {
    /// With `usize::MAX` there is no limit.
    pub fn new(most: usize) -> Self {
        let (own, lines) = Default::default();
        Self { most, pooled: 0, leaving: 0, own, lines, tickets: 0, promises: Promises::default(), short: false }
    }

    pub fn most(&self) -> usize {
        self.most
    }

    pub fn limit(&mut self, most: usize) {
        self.most = most;
        // The keeper finds out, where there is anything to find out.
        (self.promises, self.short) = Default::default();
    }

    /// Connections that are open, being opened or being closed.
    pub fn open(&self) -> usize {
        self.pooled + self.leaving + self.own.iter().sum::<usize>()
    }

    /// One for a pool. `promised`: it has less than it is promised.
    pub fn take_for_pool(&mut self, promised: bool) -> bool {
        let kept = match promised && self.promises.all > 0 {
            true => self.watched() + self.reserve(),
            false => self.kept() + self.promises.open,
        };
        let taken = self.free() > kept;
        self.pooled += usize::from(taken);
        self.short |= !taken;
        taken
    }

    /// Stands in line, under the number that is returned.
    pub fn ask(&mut self, purpose: Purpose, waiter: W) -> u64 {
        self.tickets += 1;
        self.lines[purpose as usize].push_back((self.tickets, waiter));
        self.tickets
    }

    /// Leaves the line, if it is still there.
    pub fn withdraw(&mut self, purpose: Purpose, ticket: u64) {
        self.lines[purpose as usize].retain(|(other, _)| *other != ticket);
    }

    /// Takes a place for the first in line who may have one.
    pub fn admit(&mut self) -> Option<(Purpose, W)> {
        let purpose = Purpose::ALL.into_iter().find(|purpose| self.may_have_one(*purpose))?;
        let (_, waiter) = self.lines[purpose as usize].pop_front()?;
        self.own[purpose as usize] += 1;
        Some((purpose, waiter))
    }

    /// Its connection is being closed.
    pub fn leaves(&mut self, used: Use) {
        self.gives_back(used);
        self.leaving += 1;
    }

    pub fn gives_back(&mut self, used: Use) {
        let count = match used {
            Use::Pool => &mut self.pooled,
            Use::Own(purpose) => &mut self.own[purpose as usize],
            Use::Leaving => &mut self.leaving,
        };
        *count -= 1;
    }

    /// Somebody lacks a place.
    pub fn is_wanted(&self) -> bool {
        self.short || self.lines.iter().any(|line| !line.is_empty())
    }

    /// Whoever has one for an errand, and nothing to ask at the moment, is to let it go.
    pub fn wants_errands_back(&self) -> bool {
        !self.lines[Purpose::Errand as usize].is_empty() || (self.errands() > 1 && self.is_wanted())
    }

    /// What the keeper has found out.
    pub fn found(&mut self, promises: Promises, short: bool) {
        (self.promises, self.short) = (promises, short);
    }

    pub fn supply(&self) -> Supply {
        let owed_errands = self.owed_errands();
        let watch = self.own[Purpose::Watch as usize] + self.watched();
        let services = self.own[Purpose::Service as usize] + self.owed_services();
        // Those beyond are wanted back.
        let errands = (self.errands().min(self.few()) + owed_errands).max(1);
        Supply {
            for_promises: self.most.saturating_sub(watch + self.few()),
            for_pools: self.most.saturating_sub(watch + services + errands),
            free: self.most.min(isize::MAX as usize) as isize - (self.open() - self.leaving) as isize,
            kept: self.kept(),
            owed: self.watched() + owed_errands + self.owed_services(),
        }
    }

    fn free(&self) -> usize {
        self.most.saturating_sub(self.open())
    }

    fn errands(&self) -> usize {
        self.own[Purpose::Errand as usize]
    }

    /// Errands that come before pools, whatever those want: a sixteenth.
    fn few(&self) -> usize {
        (self.most / 16).max(1)
    }

    /// Errands that there may be: a quarter.
    fn most_errands(&self) -> usize {
        (self.most / 4).max(1)
    }

    /// Services that there may be: half of all, and beside them there is what is promised, and one for everybody else.
    fn most_services(&self) -> usize {
        let watch = self.own[Purpose::Watch as usize] + self.watched();
        (self.most / 2).min(self.most.saturating_sub(watch + self.few() + self.promises.all + 1))
    }

    fn may_have_one(&self, purpose: Purpose) -> bool {
        if self.lines[purpose as usize].is_empty() {
            return false;
        }
        let (free, watched) = (self.free(), self.watched());
        match purpose {
            Purpose::Watch => free > 0,
            Purpose::Errand if self.errands() == 0 => free > watched,
            Purpose::Errand if self.errands() < self.few() => free > watched + self.promises.open,
            Purpose::Errand if self.short || self.errands() >= self.most_errands() => false,
            Purpose::Errand => free > watched + self.promises.open + self.owed_services(),
            Purpose::Service if self.own[Purpose::Service as usize] >= self.most_services() => false,
            Purpose::Service => free > watched + self.promises.open + self.reserve().max(self.owed_errands()),
        }
    }

    /// Who stands in line to keep watch.
    fn watched(&self) -> usize {
        self.lines[Purpose::Watch as usize].len()
    }

    /// The place of the one errand that there may always be.
    fn reserve(&self) -> usize {
        usize::from(self.errands() == 0)
    }

    fn owed_errands(&self) -> usize {
        self.lines[Purpose::Errand as usize].len().min(self.few().saturating_sub(self.errands()))
    }

    fn owed_services(&self) -> usize {
        let room = self.most_services().saturating_sub(self.own[Purpose::Service as usize]);
        self.lines[Purpose::Service as usize].len().min(room)
    }

    /// What is not for pools, save those that are promised more than they have.
    fn kept(&self) -> usize {
        self.watched() + self.reserve().max(self.owed_errands()) + self.owed_services()
    }
}
