//! Tenants at work on a pool, under a simulated clock.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;

use super::*;

const MS: u64 = 1_000;
const SECOND: u64 = 1_000 * MS;

/// Clients that ask again as soon as they have their answer.
#[derive(Debug, Clone)]
struct Load {
    name: &'static str,
    weight: u32,
    least: usize,
    clients: usize,
    /// From, and to.
    service: (u64, u64),
    pause: u64,
    from: u64,
}

impl Default for Load {
    fn default() -> Self {
        Self { name: "a", weight: 4, least: 0, clients: 1, service: (MS, MS), pause: 0, from: 0 }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done { client: usize, since: u64 },
    Wants { client: usize },
    Rotates,
}

struct World {
    fair: Fair<(usize, u64)>,
    capacity: usize,
    leased: usize,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    loads: Vec<Load>,
    parties: Vec<Party>,
    /// Of each client, its load.
    clients: Vec<usize>,
    /// Until when they ask again.
    until: u64,
    /// By load.
    waits: Vec<Vec<u64>>,
    used: Vec<u64>,
    /// Clients in the order in which they began to wait.
    queues: Vec<VecDeque<usize>>,
    /// Connections and waiters of each load: now, and the most of the last second, with the last moment of each.
    counts: Vec<usize>,
    history: Vec<VecDeque<(u64, usize)>>,
    held: Vec<usize>,
    random: u64,
}

impl World {
    fn new(capacity: usize, loads: &[Load], until: u64) -> Self {
        let mut fair = Fair::default();
        let terms = |load: &Load| Terms { weight: load.weight, least: load.least, queue_length: usize::MAX };
        let parties = loads.iter().map(|load| fair.join(&load.name.into(), terms(load))).collect();
        let clients: Vec<_> =
            loads.iter().enumerate().flat_map(|(number, load)| std::iter::repeat_n(number, load.clients)).collect();
        let mut events = BinaryHeap::from([Reverse((ROTATION.as_micros() as u64, Event::Rotates))]);
        let wants = |(client, load): (usize, &usize)| Reverse((loads[*load].from, Event::Wants { client }));
        events.extend(clients.iter().enumerate().map(wants));
        let count = loads.len();
        Self {
            fair,
            capacity,
            leased: 0,
            now: 0,
            events,
            loads: loads.to_vec(),
            parties,
            clients,
            until,
            waits: vec![Vec::new(); count],
            used: vec![0; count],
            queues: vec![VecDeque::new(); count],
            counts: vec![0; count],
            history: vec![VecDeque::new(); count],
            held: vec![0; count],
            random: 1,
        }
    }

    /// Until all is done.
    fn run(mut self) -> Self {
        while let Some(Reverse((now, event))) = self.events.pop() {
            self.now = now;
            match event {
                Event::Wants { client } => self.wants(client),
                Event::Done { client, since } => {
                    let load = self.clients[client];
                    self.leased -= 1;
                    self.held[load] -= 1;
                    self.used[load] += now.min(self.until).saturating_sub(since.min(self.until));
                    self.fair.returns(self.parties[load], since, now);
                    if now < self.until {
                        self.events.push(Reverse((now + self.loads[load].pause, Event::Wants { client })));
                    }
                }
                Event::Rotates => {
                    self.fair.rotate();
                    if self.now < self.until + 10 * SECOND {
                        self.events.push(Reverse((now + ROTATION.as_micros() as u64, Event::Rotates)));
                    }
                }
            }
            self.serve();
            self.check();
        }
        assert_eq!((self.fair.waiting(), self.leased), (0, 0), "somebody was forgotten");
        self
    }

    fn room(&self) -> Room {
        Room { free: self.capacity - self.leased, capacity: self.capacity }
    }

    fn wants(&mut self, client: usize) {
        let load = self.clients[client];
        if self.fair.admits(self.parties[load], self.room(), self.now) {
            assert!(self.queues[load].is_empty(), "nobody of its own waits");
            self.waits[load].push(0);
            self.begins(client);
        } else {
            let (_, shed) = self.fair.arrive(self.parties[load], (client, self.now), self.now, usize::MAX, self.room());
            assert_eq!(shed, None);
            self.queues[load].push_back(client);
        }
    }

    fn serve(&mut self) {
        while let Some(party) = self.fair.next(self.room(), self.now) {
            let (client, since) = self.fair.take(party, self.now).unwrap();
            let load = self.clients[client];
            assert_eq!(self.queues[load].pop_front(), Some(client), "first come, first served");
            self.waits[load].push(self.now - since);
            self.begins(client);
        }
    }

    fn begins(&mut self, client: usize) {
        let load = self.clients[client];
        self.leased += 1;
        self.held[load] += 1;
        assert!(self.leased <= self.capacity);
        self.fair.leases(self.parties[load], self.now);
        let (from, to) = self.loads[load].service;
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let time = from + (self.random >> 33) % (to - from + 1);
        self.events.push(Reverse((self.now + time, Event::Done { client, since: self.now })));
    }

    /// Nothing is free while somebody waits, save what others have needed at once within the last second or are promised.
    fn check(&mut self) {
        for load in 0..self.loads.len() {
            let count = self.held[load] + self.queues[load].len();
            let history = &mut self.history[load];
            let before = std::mem::replace(&mut self.counts[load], count);
            for count in [before, count] {
                while history.back().is_some_and(|(_, less)| *less <= count) {
                    history.pop_back();
                }
                history.push_back((self.now, count));
            }
            while history.front().is_some_and(|(when, _)| when + SECOND < self.now) {
                history.pop_front();
            }
        }
        let free = self.room().free;
        let recent = |load: usize| self.history[load].front().map_or(0, |(_, count)| *count);
        let kept = |load: usize| recent(load).max(self.loads[load].least).saturating_sub(self.held[load]);
        let total: usize = (0..self.loads.len()).map(kept).sum();
        for load in (0..self.loads.len()).filter(|load| !self.queues[*load].is_empty()) {
            assert!(free == 0 || free <= total - kept(load), "{} waits while {free} are free", self.loads[load].name);
            assert!(self.held[load] > 0 || free == 0 || total > kept(load));
        }
    }

    fn p99(&self, load: usize) -> u64 {
        let mut waits = self.waits[load].clone();
        waits.sort_unstable();
        waits[waits.len() * 99 / 100]
    }
}

fn flood() -> Load {
    Load { name: "flood", clients: 200, service: (2 * SECOND, 2 * SECOND), ..Load::default() }
}

fn light() -> Load {
    Load { name: "light", clients: 4, from: 5 * SECOND, ..Load::default() }
}

#[test]
fn short_statements_do_not_wait_for_anothers_long_ones() {
    let world = World::new(20, &[flood(), light()], 30 * SECOND).run();
    assert_eq!(world.p99(1), 0);
    // Nobody is cut off: the first has to wait for a statement to end.
    assert!(world.waits[1].iter().max().unwrap() <= &(2 * SECOND), "{:?}", world.waits[1].iter().max());
    assert!(world.waits[1].len() > 90_000, "{}", world.waits[1].len());
    // The other one has all but what the light one needs.
    assert!(world.used[0] > 30 * SECOND * 15, "{:?}", world.used);

    // As one tenant, first come, first served.
    let [flood, light] = [flood(), light()].map(|load| Load { name: "all", ..load });
    let world = World::new(20, &[flood, light], 30 * SECOND).run();
    assert!(world.p99(1) >= 15 * SECOND, "{}", world.p99(1));
}

#[test]
fn what_is_promised_is_there_at_once_and_for_the_first_time() {
    let promised = Load { name: "promised", least: 2, clients: 2, pause: 5 * SECOND, ..light() };
    let world = World::new(20, &[flood(), promised], 30 * SECOND).run();
    assert!(world.waits[1].len() >= 10 && world.waits[1].iter().all(|wait| *wait == 0), "{:?}", world.waits[1]);
}

#[test]
fn heavier_tenants_have_more_of_the_time() {
    let busy = |name, weight| Load { name, weight, clients: 40, service: (MS, 40 * MS), ..Load::default() };
    let world = World::new(7, &[busy("high", 16), busy("normal", 4), busy("low", 1)], 60 * SECOND).run();
    let low = world.used[2] as f64;
    let [high, normal] = [0, 1].map(|load| world.used[load] as f64 / low);
    assert!((14.0..18.0).contains(&high) && (3.5..4.5).contains(&normal), "{high} {normal}");
}

/// Nothing is free.
const FULL: Room = Room { free: 0, capacity: 1 };

#[test]
fn a_full_queue_sends_away_who_has_waited_longest() {
    let mut fair = Fair::default();
    let terms = Terms { weight: 4, least: 0, queue_length: 3 };
    let [a, b] = ["a", "b"].map(|name| fair.join(&name.into(), terms));
    let mut arrive =
        |party, waiter| fair.arrive(party, waiter, 0, 5, FULL).1.map(|shed| (shed.waiter, shed.limit, shed.of_tenant));
    assert_eq!([1, 2, 3].map(|waiter| arrive(a, waiter)), [None; 3]);
    assert_eq!(arrive(a, 4), Some((1, 3, true)));
    assert_eq!([11, 12].map(|waiter| arrive(b, waiter)), [None; 2]);
    // The pool's is full: of those who have most in it.
    let c = fair.join(&"c".into(), terms);
    let (ticket, shed) = fair.arrive(c, 21, 0, 5, FULL);
    assert_eq!(shed, Some(Shed { waiter: 2, limit: 5, of_tenant: false }));
    assert_eq!(fair.waiting(), 5);
    fair.withdraw(c, ticket);
    fair.withdraw(c, ticket);
    assert_eq!(fair.waiting(), 4);
    assert_eq!(fair.drain().collect::<Vec<_>>(), [3, 4, 11, 12]);
}

#[test]
fn those_for_whom_there_is_room_do_not_wait() {
    let mut fair = Fair::default();
    let a = fair.join(&"a".into(), Terms { weight: 4, least: 0, queue_length: 0 });
    let room = Room { free: 3, capacity: 3 };
    assert!((0..3).all(|waiter| fair.arrive(a, waiter, 0, 0, room).1.is_none()));
    let shed = fair.arrive(a, 3, 0, 0, room).1;
    assert_eq!(shed, Some(Shed { waiter: 0, limit: 0, of_tenant: true }));
}

#[test]
fn promises_leave_one_to_everybody() {
    let mut fair = Fair::<u32>::default();
    let [a, _b] = ["a", "b"].map(|name| fair.join(&name.into(), Terms { weight: 4, least: 5, queue_length: 9 }));
    let other = fair.join(&"".into(), Terms { weight: 1, least: 0, queue_length: 9 });
    let room = |free| Room { free, capacity: 10 };
    assert!(fair.admits(other, room(10), 0));
    (0..5).for_each(|_| fair.leases(a, 0));
    assert!(fair.admits(other, room(5), 0) && !fair.admits(other, room(4), 0));
}

#[test]
fn whoever_has_left_is_forgotten() {
    let mut fair = Fair::<u32>::default();
    let terms = Terms { weight: 4, least: 3, queue_length: 3 };
    let a = fair.join(&"a".into(), terms);
    assert_eq!(fair.promised, 3);
    fair.leases(a, 0);
    assert_eq!(fair.promised, 2);
    fair.leave(a);
    assert_eq!(fair.promised, 0);
    assert_eq!(fair.accounts.len(), 1, "its lease has to come back");
    fair.returns(a, 0, 1);
    assert!(fair.admits(a, Room { free: 1, capacity: 1 }, 2));
    (0..3).for_each(|_| fair.rotate());
    assert!(fair.accounts.is_empty() && fair.names.is_empty() && fair.active.is_empty() && fair.weight == 0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Whoever always wants more gets the same of the backend's time, whatever the length of its statements.
    #[test]
    fn the_same_time_for_all_who_want_it(
        capacity in 1usize..12,
        services in proptest::collection::vec((1u64..60, 0u64..60), 2..5),
    ) {
        let names = ["a", "b", "c", "d"];
        let loads: Vec<_> = services.iter().zip(names).map(|((from, more), name)| {
            let service = (from * MS, (from + more) * MS);
            Load { name, clients: capacity * 2, service, ..Load::default() }
        }).collect();
        let world = World::new(capacity, &loads, 20 * SECOND).run();
        let share = capacity as f64 * 20.0 * SECOND as f64 / loads.len() as f64;
        for used in &world.used {
            prop_assert!((*used as f64 / share - 1.0).abs() < 0.05, "{:?} {share}", world.used);
        }
    }

    /// Whatever the tenants do, nobody is forgotten, each is served in the order of its clients, and nothing is left
    /// unused that nobody needs: [`World::run`] sees to that. And nobody starves.
    #[test]
    fn nobody_is_forgotten_and_nobody_starves(
        capacity in 1usize..10,
        tenants in proptest::collection::vec((0usize..3, 0usize..3, 1usize..30, 1u64..300, 0u64..900, 0u64..2000), 1..6),
    ) {
        let names = ["a", "b", "c", "d", "e", "f"];
        let mut promised = 0;
        let loads: Vec<_> = tenants.iter().zip(names).map(|((weight, least, clients, service, pause, from), name)| {
            let least = if promised + least < capacity { *least } else { 0 };
            promised += least;
            let (weight, service) = ([1, 4, 16][*weight], (MS, service * MS));
            Load { name, weight, least, clients: *clients, service, pause: pause * MS, from: from * MS }
        }).collect();
        let world = World::new(capacity, &loads, 20 * SECOND).run();
        // The others' weights are 80 times its own at most, and it has waited for its own clients too.
        for (load, waits) in loads.iter().zip(&world.waits) {
            let longest = waits.iter().max().copied().unwrap_or(0);
            let own = load.clients as u64 * load.service.1 * 90;
            prop_assert!(longest <= 5 * SECOND + own, "{} has waited for {longest} us", load.name);
            prop_assert!(waits.len() >= load.clients);
        }
    }
}
