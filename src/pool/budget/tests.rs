//! Pools and pgweir's own connections on one host, under a simulated clock. The pools are stand-ins that do with their places
//! what [`Pool`] does.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::task::Waker;

use proptest::prelude::*;

use super::super::apportion::{Claim, QUANTUM};
use super::super::fair::ROTATION;
use super::super::places::Supply;
use super::*;

mod shares;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;
/// What a connection takes to be opened, and to be closed by the server.
const OPENING: u64 = 10 * MS;
const CLOSING: u64 = 5 * MS;
/// A reading of a catalog, and the pause until the next.
const READING: u64 = 40 * MS;
const READ_AGAIN: u64 = 500 * MS;
/// Who wants a service waits so long for its place.
const SERVICE_PATIENCE: u64 = 2 * SECOND;
/// What [`Budget::keep`] takes for one round, at most.
const SHORT_ROUND: u64 = BEAT.as_micros() as u64 + SHORTEST_BEAT.as_micros() as u64;

/// Clients of one pool that ask again after a pause.
#[derive(Debug, Clone)]
struct Load {
    weight: u32,
    size: usize,
    least: usize,
    clients: usize,
    /// At most, each.
    service: u64,
    pause: u64,
}

/// What there is beside the pools.
#[derive(Debug, Clone, Copy, Default)]
struct Own {
    monitors: usize,
    databases: usize,
    services: usize,
    /// Ends of server processes, one after the other.
    ends: bool,
    /// One in so many connections dies while it is used.
    deaths: Option<u64>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Wants { client: usize },
    Done { client: usize },
    Opened { pool: usize },
    Closed { place: usize },
    Rotates,
    Asks { own: usize },
    OwnDone { own: usize },
    GivesUp { own: usize, round: usize },
}

/// Does what [`Pool`] does.
struct Stand {
    load: Load,
    allowed: usize,
    least: usize,
    idle: Vec<(Place, Instant)>,
    /// By client.
    leased: HashMap<usize, Place>,
    connecting: VecDeque<Place>,
    waiting: VecDeque<(usize, u64)>,
    peaks: [usize; 2],
    /// Of connections.
    used: u64,
    /// Since when somebody waits though it has less than it is promised, and the longest that this has been.
    below_since: Option<u64>,
    longest_below: u64,
}

impl Stand {
    fn open(&self) -> usize {
        self.idle.len() + self.leased.len() + self.connecting.len()
    }

    fn capacity(&self) -> usize {
        self.load.size.min(self.allowed)
    }

    /// Connections that it would open, with so many in all.
    fn lacking(&self, capacity: usize) -> usize {
        let served = self.waiting.len().min(capacity.saturating_sub(self.leased.len()));
        served.saturating_sub(self.idle.len() + self.connecting.len())
    }

    fn note_peak(&mut self) {
        self.peaks[0] = self.peaks[0].max(self.leased.len() + self.waiting.len());
    }

    fn wants(&self, pool: usize) -> Wants {
        let recent = self.peaks[0].max(self.peaks[1]);
        let needs = (self.leased.len() + self.waiting.len()).max(recent).min(self.load.size);
        let active = (recent > 0).then(|| (format!("tenant {pool}").into(), self.load.weight));
        Wants {
            claim: Claim { pool, weight: 0, needs, least: self.load.least },
            active: active.into_iter().collect(),
            open: self.open(),
            lacking: self.lacking(self.load.size),
            idle_since: self.idle.iter().map(|(_, since)| *since).collect(),
        }
    }
}

/// A connection of pgweir's own.
enum OwnState {
    Away,
    InLine(Asking, u64),
    Busy(Place),
    /// Kept for the next question.
    Idle(Place),
}

struct OwnOne {
    purpose: Purpose,
    state: OwnState,
    /// How often it has asked.
    round: usize,
    /// It stays.
    forever: bool,
}

struct World {
    budget: Arc<Budget>,
    keeper: Keeper,
    base: Instant,
    now: u64,
    until: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    /// When the keeper next looks, and whether it was asked to.
    beat: u64,
    asked: bool,
    most: usize,
    stands: Vec<Stand>,
    /// Of each client, its pool.
    clients: Vec<usize>,
    own: Vec<OwnOne>,
    deaths: Option<u64>,
    leaving: HashMap<usize, Place>,
    last: Plan,
    /// By pool, and by purpose.
    waits: Vec<Vec<u64>>,
    own_waits: HashMap<usize, Vec<u64>>,
    refused_since: Option<u64>,
    longest_refused: u64,
    random: u64,
    places: usize,
}

impl World {
    fn new(most: usize, loads: &[Load], own: Own, until: u64, seed: u64) -> Self {
        let stand = |load: &Load| Stand {
            load: load.clone(),
            allowed: usize::MAX,
            least: 0,
            idle: Vec::new(),
            leased: HashMap::new(),
            connecting: VecDeque::new(),
            waiting: VecDeque::new(),
            peaks: [0, 0],
            used: 0,
            below_since: None,
            longest_below: 0,
        };
        let clients: Vec<_> = loads.iter().enumerate().flat_map(|(pool, load)| vec![pool; load.clients]).collect();
        let one = |purpose, forever| OwnOne { purpose, state: OwnState::Away, round: 0, forever };
        let mut all: Vec<_> = (0..own.monitors).map(|_| one(Purpose::Watch, true)).collect();
        all.extend((0..own.databases).map(|_| one(Purpose::Errand, false)));
        all.extend((0..own.services).map(|_| one(Purpose::Service, false)));
        all.extend(own.ends.then(|| one(Purpose::Watch, false)));
        let budget = Arc::<Budget>::default();
        budget.limit(Some(most));
        let mut world = Self {
            budget,
            keeper: Keeper::default(),
            base: Instant::now(),
            now: 0,
            until,
            events: BinaryHeap::from([Reverse((ROTATION.as_micros() as u64, Event::Rotates))]),
            beat: 0,
            asked: true,
            most,
            stands: loads.iter().map(stand).collect(),
            clients,
            own: all,
            deaths: own.deaths,
            leaving: HashMap::new(),
            last: Plan::default(),
            waits: vec![Vec::new(); loads.len()],
            own_waits: HashMap::new(),
            refused_since: None,
            longest_refused: 0,
            random: seed,
            places: 0,
        };
        for own in 0..world.own.len() {
            let when = if world.own[own].forever { 0 } else { 1 + world.below(SECOND) };
            world.after(when, Event::Asks { own });
        }
        for client in 0..world.clients.len() {
            let when = 1 + world.below(SECOND);
            world.after(when, Event::Wants { client });
        }
        world
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % limit.max(1)
    }

    fn after(&mut self, time: u64, event: Event) {
        self.events.push(Reverse((self.now + time, event)));
    }

    /// Until all is done, and the keeper has seen it.
    fn run(mut self) -> Self {
        loop {
            let next = self.events.peek().map_or(u64::MAX, |Reverse((when, _))| *when);
            if self.beat <= next {
                self.now = self.beat;
                self.beats();
                if next == u64::MAX && !self.last.short && !self.asked {
                    break;
                }
                assert!(self.now < self.until + 4_000 * SECOND, "it does not come to rest");
            } else if let Some(Reverse((now, event))) = self.events.pop() {
                self.now = now;
                self.happens(event);
            }
            self.note_promises();
            self.settle();
            self.note_services();
            self.check();
        }
        let waiting: usize = self.stands.iter().map(|stand| stand.waiting.len() + stand.leased.len()).sum();
        assert_eq!(waiting, 0, "somebody was forgotten");
        assert!(self.stands.iter().all(|stand| stand.allowed == usize::MAX), "nobody lacks anything");
        self
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Wants { client } => {
                let pool = self.clients[client];
                let now = self.now;
                self.stands[pool].waiting.push_back((client, now));
                self.stands[pool].note_peak();
                self.serve(pool);
            }
            Event::Done { client } => self.done(client),
            Event::Opened { pool } => {
                let place = self.stands[pool].connecting.pop_front().unwrap();
                let since = self.instant();
                self.stands[pool].idle.push((place, since));
                self.serve(pool);
            }
            Event::Closed { place } => drop(self.leaving.remove(&place)),
            Event::Rotates => {
                for stand in &mut self.stands {
                    stand.peaks = [stand.leased.len() + stand.waiting.len(), stand.peaks[0]];
                }
                (0..self.stands.len()).for_each(|pool| self.serve(pool));
                if self.now < self.until || self.events.len() > 1 {
                    self.after(ROTATION.as_micros() as u64, Event::Rotates);
                }
            }
            Event::Asks { own } => self.asks(own),
            Event::OwnDone { own } => self.own_done(own),
            Event::GivesUp { own, round } => {
                let one = &mut self.own[own];
                if one.round == round && matches!(one.state, OwnState::InLine(..)) {
                    one.state = OwnState::Away;
                    self.again(own);
                }
            }
        }
    }

    fn done(&mut self, client: usize) {
        let pool = self.clients[client];
        let place = self.stands[pool].leased.remove(&client).unwrap();
        let dies = self.deaths.is_some_and(|one_in| self.below(one_in) == 0);
        let since = self.instant();
        let stand = &mut self.stands[pool];
        match dies || stand.open() >= stand.capacity() {
            true => self.leaves(place),
            false => stand.idle.push((place, since)),
        }
        self.serve(pool);
        if self.now < self.until {
            let pause = self.stands[pool].load.pause;
            let pause = self.below(pause);
            self.after(pause, Event::Wants { client });
        }
    }

    fn serve(&mut self, pool: usize) {
        loop {
            let (now, stand) = (self.now, &mut self.stands[pool]);
            if stand.waiting.is_empty() || stand.leased.len() >= stand.capacity() {
                break;
            }
            let Some((place, _)) = stand.idle.pop() else { break };
            let (client, since) = stand.waiting.pop_front().unwrap();
            stand.leased.insert(client, place);
            stand.note_peak();
            self.waits[pool].push(now - since);
            let service = 1 + self.below(self.stands[pool].load.service);
            self.stands[pool].used += service.min(self.until.saturating_sub(now));
            self.after(service, Event::Done { client });
        }
        while self.stands[pool].lacking(self.stands[pool].capacity()) > 0
            && self.stands[pool].open() < self.stands[pool].capacity()
        {
            let promised = self.stands[pool].open() < self.stands[pool].least;
            let Some(place) = self.budget.place(promised) else { break };
            self.stands[pool].connecting.push_back(place);
            let opening = 1 + self.below(OPENING);
            self.after(opening, Event::Opened { pool });
        }
    }

    fn allow(&mut self, pool: usize, allowed: usize, least: usize) {
        self.stands[pool].least = least;
        let before = std::mem::replace(&mut self.stands[pool].allowed, allowed);
        while self.stands[pool].open() > self.stands[pool].capacity() && !self.stands[pool].idle.is_empty() {
            let (place, _) = self.stands[pool].idle.remove(0);
            self.leaves(place);
        }
        if before != allowed || !self.stands[pool].waiting.is_empty() {
            self.serve(pool);
        }
    }

    fn leaves(&mut self, mut place: Place) {
        assert!(place.leaves());
        self.places += 1;
        self.leaving.insert(self.places, place);
        let closing = self.below(CLOSING);
        self.after(closing, Event::Closed { place: self.places });
    }

    fn asks(&mut self, own: usize) {
        let now = self.now;
        let one = &mut self.own[own];
        one.round += 1;
        let round = one.round;
        match std::mem::replace(&mut one.state, OwnState::Away) {
            OwnState::Idle(place) => {
                one.state = OwnState::Busy(place);
                let time = self.below(READING);
                self.after(time, Event::OwnDone { own });
            }
            _ => {
                let asking = self.budget.ask(one.purpose);
                self.own[own].state = OwnState::InLine(asking, now);
                if self.own[own].purpose == Purpose::Service {
                    self.after(SERVICE_PATIENCE, Event::GivesUp { own, round });
                }
            }
        }
    }

    fn own_done(&mut self, own: usize) {
        let OwnState::Busy(place) = std::mem::replace(&mut self.own[own].state, OwnState::Away) else {
            panic!("it was busy")
        };
        match self.own[own].purpose == Purpose::Errand && !self.budget.wants_errands_back() && self.now < self.until {
            true => self.own[own].state = OwnState::Idle(place),
            false => self.leaves(place),
        }
        self.again(own);
    }

    fn again(&mut self, own: usize) {
        if self.now < self.until {
            let pause = self.below(READ_AGAIN);
            self.after(pause, Event::Asks { own });
        }
    }

    /// Since when a service waits though there are fewer than there may be.
    fn note_services(&mut self) {
        let in_line = |purpose| {
            let in_line = |one: &&OwnOne| one.purpose == purpose && matches!(one.state, OwnState::InLine(..));
            self.own.iter().filter(in_line).count()
        };
        let [watch, _, services] = self.held();
        let kept = watch + in_line(Purpose::Watch) + (self.most / 16).max(1) + self.last.promises.all + 1;
        if in_line(Purpose::Service) == 0 || services >= (self.most / 2).min(self.most.saturating_sub(kept)) {
            self.refused_since = None;
            return;
        }
        let since = *self.refused_since.get_or_insert(self.now);
        self.longest_refused = self.longest_refused.max(self.now - since);
    }

    fn note_promises(&mut self) {
        for stand in &mut self.stands {
            if stand.waiting.is_empty() || stand.leased.len() >= stand.least {
                stand.below_since = None;
                continue;
            }
            let since = *stand.below_since.get_or_insert(self.now);
            stand.longest_below = stand.longest_below.max(self.now - since);
        }
    }

    /// Errands that rest go where they are wanted back, and those in line begin who have been given a place.
    fn settle(&mut self) {
        while self.budget.wants_errands_back() || self.now >= self.until {
            let is_idle = |one: &OwnOne| matches!(one.state, OwnState::Idle(_));
            let Some(own) = self.own.iter().position(is_idle) else { break };
            if let OwnState::Idle(place) = std::mem::replace(&mut self.own[own].state, OwnState::Away) {
                self.leaves(place);
            }
        }
        let mut cx = Context::from_waker(Waker::noop());
        let mut latest = HashMap::<usize, u64>::new();
        for own in 0..self.own.len() {
            let OwnState::InLine(asking, since) = &mut self.own[own].state else { continue };
            let Poll::Ready(place) = Pin::new(asking).poll(&mut cx) else { continue };
            let waited = self.now - *since;
            let purpose = self.own[own].purpose as usize;
            self.own_waits.entry(purpose).or_default().push(waited);
            let latest = latest.entry(purpose).or_default();
            *latest = self.now.saturating_sub(waited).max(*latest);
            self.own[own].state = OwnState::Busy(place);
            let time = match self.own[own].purpose {
                Purpose::Service => self.below(3 * SECOND),
                Purpose::Errand | Purpose::Watch => OPENING + self.below(READING),
            };
            if !self.own[own].forever {
                self.after(time, Event::OwnDone { own });
            }
        }
        for one in &self.own {
            if let OwnState::InLine(_, since) = one.state {
                assert!(
                    latest.get(&(one.purpose as usize)).is_none_or(|latest| since >= *latest),
                    "first come, first served"
                );
            }
        }
        let asked = std::pin::pin!(self.budget.asked.notified()).poll(&mut cx).is_ready();
        if asked && !self.asked {
            self.asked = true;
            self.beat = self.beat.min(self.now + SHORTEST_BEAT.as_micros() as u64);
        }
    }

    fn beats(&mut self) {
        self.asked = false;
        let wants: Vec<_> = self.stands.iter().enumerate().map(|(pool, stand)| stand.wants(pool)).collect();
        let supply = self.budget.places().supply();
        self.check_supply(supply);
        let plan = self.budget.decide(&mut self.keeper, wants.clone(), self.now);
        check_plan(&plan, supply, wants);
        for &(pool, since) in &plan.close {
            let idle = &mut self.stands[pool].idle;
            let at = idle.iter().position(|(_, when)| *when == since).expect("it is idle");
            let (place, _) = idle.remove(at);
            self.leaves(place);
        }
        for pool in 0..self.stands.len() {
            self.allow(pool, plan.allowed[pool], plan.least[pool]);
        }
        let round = if plan.short { BEAT } else { ROTATION };
        self.beat = self.now + round.as_micros() as u64 + SHORTEST_BEAT.as_micros() as u64;
        self.last = plan;
        self.check_given();
    }

    /// It is what is here.
    fn check_supply(&self, supply: Supply) {
        let [watch, errands, services] = self.held();
        let pooled: usize = self.stands.iter().map(Stand::open).sum();
        let free = self.most as isize - (pooled + watch + errands + services) as isize;
        assert_eq!(supply.free, free, "what is being closed will be free");
        assert!(supply.for_pools + watch + services < self.most, "one for an errand: {supply:?}");
        let in_line = |one: &&OwnOne| matches!(one.state, OwnState::InLine(..));
        assert!(supply.owed <= self.own.iter().filter(in_line).count() && supply.kept >= supply.owed);
    }

    /// What is free is given to whoever lacks it.
    fn check_given(&self) {
        let kept = self.budget.places().supply().kept + self.last.promises.open;
        for (pool, stand) in self.stands.iter().enumerate() {
            let lacking = stand.lacking(stand.capacity()).min(stand.capacity().saturating_sub(stand.open()));
            let free = self.most - self.budget.open();
            assert!(lacking == 0 || free <= kept, "pool {pool} lacks {lacking} while {free} are free, {kept} kept");
        }
    }

    /// Connections of pgweir's own, by purpose.
    fn held(&self) -> [usize; 3] {
        let held = |one: &&OwnOne| matches!(one.state, OwnState::Busy(_) | OwnState::Idle(_));
        let own = |purpose| self.own.iter().filter(held).filter(|one| one.purpose == purpose).count();
        [Purpose::Watch, Purpose::Errand, Purpose::Service].map(own)
    }

    fn check(&self) {
        let open = self.budget.open();
        let [watch, errands, services] = self.held();
        let pooled: usize = self.stands.iter().map(Stand::open).sum();
        assert!(open <= self.most, "{open} of {}", self.most);
        assert_eq!(open, pooled + self.leaving.len() + watch + errands + services);
        assert!(errands <= (self.most / 4).max(1) && services <= self.most / 2, "{errands} {services}");
        assert!(self.budget.places().admit().is_none(), "somebody in line might have one");
        // Whoever lacks one is looked after soon.
        let is_lacking = self.stands.iter().any(|stand| stand.lacking(stand.load.size) > 0);
        assert!(!is_lacking || self.asked || self.beat <= self.now + SHORT_ROUND, "nobody looks");
    }

    fn longest(waits: &[u64]) -> u64 {
        waits.iter().max().copied().unwrap_or(0)
    }

    fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }
}

fn check_plan(plan: &Plan, supply: Supply, mut wants: Vec<Wants>) {
    for room in [supply.for_promises, supply.for_pools].map(|there| there.saturating_sub(1)) {
        let promised: usize = wants.iter().map(|wants| wants.claim.least).sum();
        let wants = wants.iter_mut().filter(|_| promised > room);
        wants.for_each(|wants| wants.claim.least = wants.claim.least * room / promised);
    }
    assert!(wants.iter().zip(&plan.least).all(|(wants, least)| wants.claim.least == *least), "its part: {plan:?}");
    let unfulfilled = |wants: &Wants| wants.claim.least.saturating_sub(wants.open);
    assert_eq!(plan.promises.open, wants.iter().map(unfulfilled).sum::<usize>());
    // Those to spare, and those that are closed: least recently used first, as many as are lacking and no more.
    let spare = |wants: &Wants| wants.open.saturating_sub(wants.claim.needs.max(wants.claim.least));
    let mut all: Vec<_> = wants.iter().flat_map(|wants| wants.idle_since.iter().take(spare(wants))).copied().collect();
    all.sort_unstable();
    let closed: Vec<_> = plan.close.iter().map(|(_, since)| *since).collect();
    assert_eq!(closed, all[..closed.len()], "least recently used first");
    for (pool, wants) in wants.iter().enumerate() {
        let closed = plan.close.iter().filter(|(of, _)| *of == pool);
        assert!(closed.clone().count() <= spare(wants), "what is needed is not closed");
        assert!(closed.clone().all(|(_, since)| wants.idle_since.contains(since)));
    }
    let lacking: usize = wants.iter().map(|wants| wants.lacking.max(unfulfilled(wants))).sum();
    let missing = ((lacking + supply.kept) as isize - supply.free).max(0) as usize;
    match plan.short {
        true => assert_eq!(closed.len(), missing.min(all.len())),
        false => assert!(closed.is_empty() && wants.iter().all(|wants| wants.lacking == 0)),
    }
    // Shares: no more than there is, no less than is promised; and none where there is enough.
    if plan.allowed.iter().all(|allowed| *allowed == usize::MAX) {
        return;
    }
    assert!(wants.iter().map(|wants| wants.claim.needs.max(wants.claim.least)).sum::<usize>() > supply.for_pools);
    assert!(plan.allowed.iter().sum::<usize>() <= supply.for_pools, "{plan:?} {supply:?}");
    let kept = |(wants, allowed): (&Wants, &usize)| *allowed >= wants.claim.least;
    assert!(wants.iter().zip(&plan.allowed).all(kept), "what is promised is given: {plan:?}");
}

fn loads() -> impl Strategy<Value = Vec<Load>> {
    let load = (0usize..3, 1usize..8, 0usize..3, 1usize..7, 1u64..200, 0u64..1000);
    let load = load.prop_map(|(weight, size, least, clients, service, pause)| {
        let weight = [1, 4, 16][weight];
        Load { weight, size, least: least.min(size), clients, service: service * MS, pause: pause * MS }
    });
    proptest::collection::vec(load, 1..9)
}

fn own() -> impl Strategy<Value = Own> {
    let deaths = proptest::option::of(2u64..20);
    let own = (0usize..2, 0usize..9, 0usize..6, any::<bool>(), deaths);
    own.prop_map(|(monitors, databases, services, ends, deaths)| Own { monitors, databases, services, ends, deaths })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever happens, there are never more than there may be, nobody is forgotten, what is closed is what nobody
    /// needed for longest, and all is as it was in the end: [`World::run`] sees to that. And everybody has its turn in
    /// a time that can be told.
    #[test]
    fn nobody_is_forgotten_and_nobody_starves(
        most in 3usize..14, loads in loads(), own in own(), seed in any::<u64>(),
    ) {
        let world = World::new(most, &loads, own, 3 * SECOND, seed).run();
        let longest_service = loads.iter().map(|load| load.service).max().unwrap_or(0);
        let weights: u64 = loads.iter().map(|load| u64::from(load.weight)).sum();
        for (load, waits) in loads.iter().zip(&world.waits) {
            // A turn for each of its clients among the others' turns, until they have given back what they have. Ends of
            // processes come in between.
            let turn = QUANTUM + longest_service + SHORT_ROUND + OPENING + CLOSING;
            let turns = (weights / u64::from(load.weight) + 2) * load.clients as u64;
            let longest = World::longest(waits);
            prop_assert!(longest <= SECOND + 2 * turn * turns, "{load:?} has waited for {longest} us");
            prop_assert!(waits.len() >= load.clients);
        }
        // The one that there always is, after all others.
        let own_waits = |purpose| world.own_waits.get(&(purpose as usize)).map_or(0, |waits| World::longest(waits));
        let turn = OPENING + READING + CLOSING + SHORT_ROUND;
        let in_line = (own.databases + usize::from(own.ends)) as u64;
        let longest = own_waits(Purpose::Errand);
        prop_assert!(longest <= in_line * turn, "a catalog's reader has waited for {longest} us");
        // For one that is given back.
        let longest = own_waits(Purpose::Watch);
        prop_assert!(longest <= longest_service + turn, "the watch has waited for {longest} us");
        let longest = world.longest_refused;
        prop_assert!(longest <= longest_service + (in_line + 1) * turn, "a service has waited for {longest} us");
        // What is promised (two at most, one after the other) is there, unless somebody has taken it while it was not known
        // to be missing.
        let longest = world.stands.iter().map(|stand| stand.longest_below).max().unwrap_or(0);
        let taken = if own.ends || own.deaths.is_some() { longest_service + 2 * SHORT_ROUND + CLOSING } else { 0 };
        prop_assert!(longest <= 2 * OPENING + taken, "what was promised has been waited for: {longest} us");
    }
}

fn busy(weight: u32) -> Load {
    Load { weight, size: 50, least: 0, clients: 30, service: 20 * MS, pause: 0 }
}

#[test]
fn heavier_pools_have_more_of_the_time() {
    let world = World::new(8, &[busy(16), busy(4), busy(1)], Own::default(), 60 * SECOND, 1).run();
    let low = world.stands[2].used as f64;
    let [high, normal] = [0, 1].map(|pool| world.stands[pool].used as f64 / low);
    assert!((13.0..19.0).contains(&high) && (3.2..4.8).contains(&normal), "{high} {normal}");
    let all: u64 = world.stands.iter().map(|stand| stand.used).sum();
    assert!(all > 60 * SECOND * 7 * 9 / 10, "{all} us were used");
}

/// Beside catalogs of as many databases. What is promised to each is no whole connection then.
#[test]
fn more_pools_than_connections_take_turns() {
    for least in [0, 1] {
        let (own, load) = (Own { databases: 12, ..Own::default() }, Load { least, ..busy(4) });
        let world = World::new(4, &vec![load; 12], own, 120 * SECOND, 1).run();
        let share = world.stands.iter().map(|stand| stand.used).sum::<u64>() as f64 / 12.0;
        assert!(share > 120.0 * SECOND as f64 * 3.0 / 12.0 * 0.8, "{share} us of each");
        for stand in &world.stands {
            assert!((stand.used as f64 / share - 1.0).abs() < 0.15, "{} of {share}", stand.used);
        }
    }
}

/// Where promises are more than there is, each has its part of them at once, and everybody else his share.
#[test]
fn promises_that_cannot_all_be_kept_keep_nobody_out() {
    let promised = Load { least: 3, clients: 1, service: MS, pause: 3 * SECOND, ..busy(4) };
    let greedy = Load { service: SECOND, ..busy(4) };
    let world = World::new(6, &[promised.clone(), promised, greedy], Own::default(), 60 * SECOND, 1).run();
    for waits in &world.waits[..2] {
        let longest = World::longest(waits);
        assert!(waits.len() > 9 && longest <= 2 * OPENING, "{longest} us");
    }
    // One is kept for errands, and two for each of them.
    let used = world.stands[2].used as f64 / (60.0 * SECOND as f64);
    assert!((0.9..=1.0).contains(&used), "{used}");
}

#[test]
fn a_server_has_one_budget_and_the_least_limit_of_all_that_are_given() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _inside = runtime.enter();
    let address = |port| HostAddress::Tcp { host: "db".to_owned(), port };
    let (budgets, [one, other]) = (Budgets::default(), [address(1), address(2)]);
    let all = [budgets.of(&one), budgets.of(&one), budgets.of(&other)];
    assert!(Arc::ptr_eq(&all[0], &all[1]) && !Arc::ptr_eq(&all[0], &all[2]));
    budgets.limit([(&one, Some(90)), (&other, None), (&one, Some(30)), (&one, None)]);
    assert_eq!(all.each_ref().map(|budget| budget.most()), [Some(30), Some(30), None]);
    budgets.limit([(&one, None), (&other, Some(7))]);
    assert_eq!(all.each_ref().map(|budget| budget.most()), [None, None, Some(7)]);
}

/// One that is lowered closes what is idle, and takes back what is given back.
#[test]
fn a_limit_may_be_lowered() {
    let mut world = World::new(12, &[busy(4), busy(4)], Own::default(), 5 * SECOND, 1);
    world.budget.limit(Some(12));
    let taken: Vec<_> = (0..11).map(|_| world.budget.place(false).unwrap()).collect();
    world.budget.limit(Some(4));
    assert_eq!(world.budget.place(false).map(drop), None);
    assert!(world.budget.places().supply().free < 0);
    drop(taken);
    world.most = 4;
    world.run();
}
