//! Tenants at work on a pool, under a simulated clock.

use std::cell::Cell;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::rc::Rc;

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
    /// Connections that it may have, here and elsewhere.
    most: usize,
    clients: usize,
    /// From, and to.
    service: (u64, u64),
    pause: u64,
    from: u64,
    /// A client leaves that has waited for longer.
    patience: Option<u64>,
    /// And goes away after so many answers, to come again.
    answers: usize,
}

impl Default for Load {
    fn default() -> Self {
        let (most, patience, answers) = (usize::MAX, None, usize::MAX);
        let service = (MS, MS);
        Self { name: "a", weight: 4, least: 0, most, clients: 1, service, pause: 0, from: 0, patience, answers }
    }
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Done {
        client: usize,
        since: u64,
    },
    Wants {
        client: usize,
    },
    GivesUp {
        client: usize,
        ticket: u64,
    },
    /// A tenant uses more or less elsewhere.
    Elsewhere {
        load: usize,
    },
    Rotates,
}

/// A client that waits.
#[derive(Debug, PartialEq, Eq)]
struct Guest {
    client: usize,
    since: u64,
    /// What its tenant may have beside what it has.
    left: Rc<Cell<usize>>,
}

impl Waits for Guest {
    fn may_have(&self) -> usize {
        self.left.get()
    }
}

struct World {
    fair: Fair<Guest>,
    capacity: usize,
    queue_length: usize,
    leased: usize,
    now: u64,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    loads: Vec<Load>,
    /// What each load may have beside what it has, and what it has elsewhere.
    left: Vec<Rc<Cell<usize>>>,
    elsewhere: Vec<usize>,
    /// Of each client, its load, its place, and how many answers it has had.
    clients: Vec<(usize, Option<Party>, usize)>,
    /// Until when they ask again.
    until: u64,
    /// By load.
    waits: Vec<Vec<u64>>,
    used: Vec<u64>,
    sent_away: Vec<usize>,
    /// Clients in the order in which they began to wait, and when their time would be over.
    queues: Vec<VecDeque<usize>>,
    until_of: Vec<u64>,
    /// Connections and waiters of each load: now, and the most of the last second, with the last moment of each.
    counts: Vec<usize>,
    history: Vec<VecDeque<(u64, usize)>>,
    held: Vec<usize>,
    random: u64,
}

impl World {
    fn new(capacity: usize, loads: &[Load], until: u64) -> Self {
        let clients: Vec<_> = loads
            .iter()
            .enumerate()
            .flat_map(|(number, load)| std::iter::repeat_n((number, None, 0), load.clients))
            .collect();
        let mut events = BinaryHeap::from([Reverse((ROTATION.as_micros() as u64, Event::Rotates))]);
        let wants =
            |(client, (load, ..)): (usize, &(usize, _, _))| Reverse((loads[*load].from, Event::Wants { client }));
        events.extend(clients.iter().enumerate().map(wants));
        let limited = loads.iter().enumerate().filter(|(_, load)| load.most != usize::MAX);
        events.extend(limited.map(|(load, _)| Reverse((0, Event::Elsewhere { load }))));
        let (count, client_count) = (loads.len(), clients.len());
        let mut world = Self {
            fair: Fair::default(),
            capacity,
            queue_length: usize::MAX,
            leased: 0,
            now: 0,
            events,
            loads: loads.to_vec(),
            left: loads.iter().map(|load| Rc::new(Cell::new(load.most))).collect(),
            elsewhere: vec![0; count],
            clients,
            until,
            waits: vec![Vec::new(); count],
            used: vec![0; count],
            sent_away: vec![0; count],
            queues: vec![VecDeque::new(); count],
            until_of: vec![0; client_count],
            counts: vec![0; count],
            history: vec![VecDeque::new(); count],
            held: vec![0; count],
            random: 1,
        };
        // Those who stay are there from the beginning.
        let stays = |client: &usize| loads[world.clients[*client].0].answers == usize::MAX;
        let stay: Vec<_> = (0..world.clients.len()).filter(stays).collect();
        for client in stay {
            world.party(client);
        }
        world
    }

    /// Until all is done.
    fn run(mut self) -> Self {
        while let Some(Reverse((now, event))) = self.events.pop() {
            self.now = now;
            match event {
                Event::Wants { client } => self.wants(client),
                Event::Done { client, since } => self.done(client, since),
                Event::GivesUp { client, ticket } => self.gives_up(client, ticket),
                Event::Elsewhere { load } => self.elsewhere(load),
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
        assert_eq!((self.fair.everybody(), self.leased), (0, 0), "somebody was forgotten");
        for (_, party, _) in &mut self.clients {
            party.take().into_iter().for_each(|party| self.fair.leave(party));
        }
        (0..3).for_each(|_| self.fair.rotate());
        let Fair { accounts, names, active, weight, least, promised, .. } = &self.fair;
        assert!(accounts.is_empty() && names.is_empty() && active.is_empty(), "those who have left are forgotten");
        assert_eq!((*weight, *least, promised.all, promised.open), (0, 0, 0, 0));
        self
    }

    fn room(&self) -> Room {
        Room { free: self.capacity - self.leased, capacity: self.capacity }
    }

    /// Of a client's tenant, as that is there.
    fn party(&mut self, client: usize) -> Party {
        let (load, party, _) = &mut self.clients[client];
        let Load { name, weight, least, .. } = self.loads[*load];
        *party.get_or_insert_with(|| self.fair.join(&name.into(), Terms { weight, least }))
    }

    fn wants(&mut self, client: usize) {
        let (party, load, room) = (self.party(client), self.clients[client].0, self.room());
        let left = self.left[load].clone();
        if self.fair.admits(party, room, self.now) && left.get() > 0 {
            assert!(self.queues[load].is_empty(), "nobody of its own waits");
            self.waits[load].push(0);
            return self.begins(client);
        }
        self.queues[load].push_back(client);
        // Also of those who are sent away at once.
        self.note(load);
        let guest = Guest { client, since: self.now, left };
        // The queue timeout changes all the time.
        let until = self.now + [4, 2, 1][(self.now / (300 * MS)) as usize % 3] * SECOND;
        self.until_of[client] = until;
        let (ticket, shed) = self.fair.arrive(party, guest, until, self.now, self.queue_length, room);
        // Others may have come to count meanwhile, whose tenant may have more again.
        let bounded = self.fair.waiting() <= self.queue_length.saturating_add(self.fair.served(room));
        assert!(bounded || shed.is_some(), "the queue is bounded");
        if let Some(shed) = shed {
            self.is_sent_away(&shed);
        }
        if let Some(patience) = self.loads[load].patience {
            self.events.push(Reverse((self.now + patience, Event::GivesUp { client, ticket })));
        }
    }

    /// The queue is full: of those who are most by their weight, whose time would be over first.
    fn is_sent_away(&mut self, shed: &Guest) {
        let load = self.clients[shed.client].0;
        let first = self.queues[load].iter().copied().min_by_key(|client| self.until_of[*client]);
        assert_eq!(first, Some(shed.client), "the one of its tenant whose time is over first");
        self.queues[load].retain(|one| *one != shed.client);
        let crowd = |load: usize, more: usize| (self.queues[load].len() + more) * 16 / self.loads[load].weight as usize;
        let may = |other: usize| self.left[other].get() > 0;
        let most = (0..self.loads.len()).filter(|other| may(*other)).map(|other| crowd(other, 0)).max();
        assert!(most.unwrap_or(0) <= crowd(load, 1), "of those who are most");
        self.sent_away[load] += 1;
        self.asks_again(shed.client);
    }

    fn gives_up(&mut self, client: usize, ticket: u64) {
        let (load, party, _) = self.clients[client];
        // It may have been served, and be gone.
        let Some(guest) = party.and_then(|party| self.fair.withdraw(party, ticket)) else { return };
        assert_eq!(guest.client, client);
        self.queues[load].retain(|one| *one != client);
        self.asks_again(client);
    }

    fn done(&mut self, client: usize, since: u64) {
        let load = self.clients[client].0;
        self.leased -= 1;
        self.held[load] -= 1;
        self.used[load] += self.now.min(self.until).saturating_sub(since.min(self.until));
        let party = self.party(client);
        self.fair.returns(party, since, self.now);
        self.has_more(load);
        self.clients[client].2 += 1;
        if self.clients[client].2.is_multiple_of(self.loads[load].answers) {
            let party = self.clients[client].1.take();
            party.into_iter().for_each(|party| self.fair.leave(party));
        }
        self.asks_again(client);
    }

    fn asks_again(&mut self, client: usize) {
        if self.now < self.until {
            let pause = self.loads[self.clients[client].0].pause;
            // Who was not served does not come back at once.
            let pause = if self.queue_length == usize::MAX { pause } else { pause.max(MS) };
            self.events.push(Reverse((self.now + pause, Event::Wants { client })));
        }
    }

    fn elsewhere(&mut self, load: usize) {
        let left = &self.left[load];
        if self.elsewhere[load] > 0 && (self.now >= self.until || self.random.is_multiple_of(2)) {
            self.elsewhere[load] -= 1;
            self.has_more(load);
        } else if left.get() > 0 && self.now < self.until {
            left.set(left.get() - 1);
            self.elsewhere[load] += 1;
        }
        if self.now < self.until || self.elsewhere[load] > 0 {
            let pause = 1 + self.random() % (200 * MS);
            self.events.push(Reverse((self.now + pause, Event::Elsewhere { load })));
        }
    }

    /// A load has one connection less, here or elsewhere.
    fn has_more(&mut self, load: usize) {
        let left = &self.left[load];
        left.set(left.get().saturating_add(1).min(self.loads[load].most));
        if let Some(party) = self.queues[load].front().and_then(|client| self.clients[*client].1) {
            self.fair.look(party, self.now);
        }
    }

    fn serve(&mut self) {
        while let Some(party) = self.fair.next(self.room(), self.now) {
            let Guest { client, since, .. } = self.fair.take(party, self.now).unwrap();
            let load = self.clients[client].0;
            assert_eq!(self.queues[load].pop_front(), Some(client), "first come, first served");
            self.waits[load].push(self.now - since);
            self.begins(client);
        }
    }

    fn begins(&mut self, client: usize) {
        let (load, party) = (self.clients[client].0, self.party(client));
        self.leased += 1;
        self.held[load] += 1;
        assert!(self.leased <= self.capacity);
        let open = |other: usize| if other == load { 0 } else { self.part(other).saturating_sub(self.held[other]) };
        let promised: usize = (0..self.loads.len()).map(open).sum();
        let own = self.held[load] <= self.part(load);
        assert!(own || self.room().free >= promised, "{} takes what is promised to others", self.loads[load].name);
        let left = &self.left[load];
        assert!(left.get() > 0, "{} has more than it may", self.loads[load].name);
        left.set(if self.loads[load].most == usize::MAX { usize::MAX } else { left.get() - 1 });
        self.fair.leases(party, self.now);
        let (from, to) = self.loads[load].service;
        let time = from + self.random() % (to - from + 1);
        self.events.push(Reverse((self.now + time, Event::Done { client, since: self.now })));
    }

    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.random >> 33
    }

    /// What a load is promised, while it is there, as far as that leaves one to everybody.
    fn part(&self, load: usize) -> usize {
        let least = |load: usize| {
            let is_there = self.clients.iter().any(|(of, party, _)| *of == load && party.is_some());
            if is_there { self.loads[load].least } else { 0 }
        };
        let (all, kept) = ((0..self.loads.len()).map(least).sum::<usize>(), self.capacity - 1);
        if all > kept { least(load) * kept / all } else { least(load) }
    }

    /// Those of a load who wait and may have a connection.
    fn may_have(&self, load: usize) -> usize {
        self.queues[load].len().min(self.left[load].get())
    }

    /// What a load has and wants now was needed from the moment before on.
    fn note(&mut self, load: usize) {
        let count = self.held[load] + self.may_have(load);
        let before = std::mem::replace(&mut self.counts[load], count);
        let history = &mut self.history[load];
        for count in [before, count] {
            while history.back().is_some_and(|(_, less)| *less <= count) {
                history.pop_back();
            }
            history.push_back((self.now, count));
        }
    }

    /// Nothing is free while somebody waits, save what others have needed at once within the last second or are promised.
    fn check(&mut self) {
        for load in 0..self.loads.len() {
            self.note(load);
            let history = &mut self.history[load];
            while history.front().is_some_and(|(when, _)| when + SECOND < self.now) {
                history.pop_front();
            }
        }
        let free = self.room().free;
        let recent = |load: usize| self.history[load].front().map_or(0, |(_, count)| *count);
        let kept = |load: usize| recent(load).max(self.part(load)).saturating_sub(self.held[load]);
        let total: usize = (0..self.loads.len()).map(kept).sum();
        for load in (0..self.loads.len()).filter(|load| self.may_have(*load) > 0) {
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

impl Waits for u32 {
    fn may_have(&self) -> usize {
        usize::MAX
    }
}

#[test]
fn a_full_queue_sends_away_whose_time_is_over_first() {
    let mut fair = Fair::<u32>::default();
    let terms = Terms { weight: 4, least: 0 };
    let [a, b] = ["a", "b"].map(|name| fair.join(&name.into(), terms));
    let mut arrive = |party, waiter| fair.arrive(party, waiter, 60, 0, 5, FULL).1;
    assert_eq!([1, 2, 3].map(|waiter| arrive(a, waiter)), [None; 3]);
    assert_eq!([11, 12].map(|waiter| arrive(b, waiter)), [None; 2]);
    // Of those who have most in it.
    assert_eq!(arrive(a, 4), Some(1));
    let c = fair.join(&"c".into(), terms);
    let (ticket, shed) = fair.arrive(c, 21, 60, 0, 5, FULL);
    assert_eq!(shed, Some(2));
    assert_eq!(fair.waiting(), 5);
    assert_eq!([(); 2].map(|()| fair.withdraw(c, ticket)), [Some(21), None]);
    assert_eq!(fair.waiting(), 4);
    // The queue timeout has been lowered, and is what it was again.
    assert_eq!(
        [(13, 20), (14, 60)].map(|(waiter, until)| fair.arrive(b, waiter, until, 0, 5, FULL).1),
        [None, Some(13)]
    );
    assert_eq!(fair.arrive(b, 15, 20, 0, 5, FULL).1, Some(15));
    assert_eq!(fair.drain().collect::<Vec<_>>(), [3, 4, 11, 12, 14]);
}

#[test]
fn those_for_whom_there_is_room_do_not_wait() {
    let mut fair = Fair::<u32>::default();
    let a = fair.join(&"a".into(), Terms { weight: 4, least: 0 });
    let room = Room { free: 3, capacity: 3 };
    assert!((0..3).all(|waiter| fair.arrive(a, waiter, 60, 0, 0, room).1.is_none()));
    assert_eq!((fair.waiting_of(a, room).1, fair.served(room)), (3, 3));
    assert_eq!(fair.arrive(a, 3, 60, 0, 0, room).1, Some(0));
}

/// While nothing is free nobody is next, and who may have no more is not noticed by that.
#[test]
fn who_has_waited_for_both_is_not_forgotten() {
    let mut fair = Fair::default();
    let left = Rc::new(Cell::new(1));
    let a = fair.join(&"a".into(), Terms { weight: 4, least: 0 });
    fair.arrive(a, Guest { client: 0, since: 0, left: left.clone() }, 60, 0, 9, FULL);
    left.set(0);
    (0..3).for_each(|_| fair.rotate());
    left.set(1);
    fair.look(a, 0);
    assert_eq!((fair.waiting(), fair.next(Room { free: 1, capacity: 1 }, 0)), (1, Some(a)));
}

/// Those of a tenant that may have no more are in nobody's way.
#[test]
fn who_may_have_no_more_does_not_count_until_there_is_more() {
    let mut fair = Fair::default();
    let left = Rc::new(Cell::new(1));
    let [a, b] = ["a", "b"].map(|name| fair.join(&name.into(), Terms { weight: 4, least: 0 }));
    let guest = |client| Guest { client, since: 0, left: left.clone() };
    let room = |free| Room { free, capacity: 4 };
    for client in 0..3 {
        assert_eq!(fair.arrive(a, guest(client), 60, 0, 3, room(4)).1, None);
    }
    assert_eq!((fair.served(room(4)), fair.waiting_of(a, room(4)).1), (1, 1));
    assert_eq!(fair.next(room(4), 0), Some(a));
    fair.take(a, 0).unwrap();
    left.set(0);
    fair.leases(a, 0);
    assert_eq!((fair.next(room(3), 0), fair.waiting(), fair.everybody()), (None, 0, 2));
    // Nothing is left to it, nor do more of it fill the queue.
    assert!(fair.admits(b, room(1), 0) && !fair.admits(a, room(3), 0));
    assert_eq!((fair.arrive(a, guest(3), 60, 0, 0, FULL).1, fair.dismiss(0)), (None, None));
    (0..3).for_each(|_| fair.rotate());
    left.set(1);
    assert_eq!(fair.next(room(3), 0), None, "it has not been told");
    fair.look(a, 0);
    assert_eq!((fair.waiting(), fair.next(room(3), 0)), (3, Some(a)));
}

/// What it has used before it shared its weight among pools is as much as it was, also of what it still holds.
#[test]
fn a_part_of_a_weight_counts_from_then_on() {
    let mut fair = Fair::<u32>::default();
    let terms = Terms { weight: 16, least: 0 };
    let [a, b] = ["a", "b"].map(|name| fair.join(&name.into(), terms));
    let room = |free| Room { free, capacity: 6 };
    assert!(fair.admits(a, room(6), 0) && fair.admits(b, room(6), 0));
    (0..3).for_each(|_| fair.leases(a, 0));
    let spread = Spread::of(&[vec![("a".into(), 16)], vec![("a".into(), 16), ("b".into(), 16)]]);
    let spent = |fair: &Fair<u32>, now| fair.accounts[a.0].spent(now * MS);
    assert_eq!(fair.weight, 32 * u64::from(WHOLE));
    fair.spread(&spread, 10 * MS);
    assert_eq!((fair.weight, [10, 20].map(|now| spent(&fair, now))), (24 * u64::from(WHOLE), [30 * MS, 90 * MS]));
    (0..3).for_each(|_| fair.returns(a, 0, 20 * MS));
    assert_eq!(spent(&fair, 30), 90 * MS);
    fair.leases(a, 30 * MS);
    fair.spread(&Spread::default(), 40 * MS);
    assert_eq!((fair.weight, [40, 50].map(|now| spent(&fair, now))), (32 * u64::from(WHOLE), [110 * MS, 120 * MS]));
    // Its share of the connections is another one, too.
    fair.leases(a, 50 * MS);
    assert_eq!(fair.active().map(|(_, weight)| weight).collect::<Vec<_>>(), [16, 16]);
    (0..3).for_each(|_| fair.leases(b, 50 * MS));
    assert!(fair.arrive(b, 0, 60, 50 * MS, 9, room(1)).1.is_none() && fair.admits(a, room(1), 50 * MS));
    fair.spread(&spread, 50 * MS);
    assert!(!fair.admits(a, room(1), 50 * MS));
}

#[test]
fn promises_leave_one_to_everybody() {
    let mut fair = Fair::<u32>::default();
    let [a, _b] = ["a", "b"].map(|name| fair.join(&name.into(), Terms { weight: 4, least: 5 }));
    let other = fair.join(&"".into(), Terms { weight: 1, least: 0 });
    let room = |free| Room { free, capacity: 10 };
    assert!(fair.admits(other, room(10), 0));
    (0..5).for_each(|_| fair.leases(a, 0));
    assert!(fair.admits(other, room(5), 0) && !fair.admits(other, room(4), 0));
}

/// As with the pools of a host.
#[test]
fn promises_that_cannot_all_be_kept_are_cut() {
    let mut fair = Fair::<u32>::default();
    let [a, b] = [("a", 4), ("b", 2)].map(|(name, least)| fair.join(&name.into(), Terms { weight: 4, least }));
    let room = |free| Room { free, capacity: 4 };
    for taken in 0..3 {
        assert!(fair.admits(a, room(4 - taken), 0), "{taken} are taken");
        fair.leases(a, 0);
    }
    assert!(!fair.admits(a, room(1), 0) && fair.admits(b, room(1), 0));
    // With more of them, or without the other, there is more.
    assert!(fair.admits(a, Room { free: 3, capacity: 6 }, 0) && !fair.admits(a, room(1), 0));
    fair.leave(b);
    assert!(fair.admits(a, room(1), 0));
}

#[test]
fn whoever_has_left_is_forgotten() {
    let mut fair = Fair::<u32>::default();
    let terms = Terms { weight: 4, least: 3 };
    let a = fair.join(&"a".into(), terms);
    assert_eq!(fair.promised.open, 3);
    fair.leases(a, 0);
    assert_eq!(fair.promised.open, 2);
    fair.leave(a);
    assert_eq!(fair.promised.open, 0);
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
        let loads = loads(&tenants);
        let world = World::new(capacity, &loads, 20 * SECOND).run();
        // The others' weights are 80 times its own at most, and it has waited for its own clients too.
        for (load, waits) in loads.iter().zip(&world.waits) {
            let longest = waits.iter().max().copied().unwrap_or(0);
            let own = load.clients as u64 * load.service.1 * 90;
            prop_assert!(longest <= 5 * SECOND + own, "{} has waited for {longest} us", load.name);
            prop_assert!(waits.len() >= load.clients);
        }
    }

    /// The same with clients that come and go and do not wait for ever, tenants that may have so many connections here and
    /// elsewhere, and a queue that is bounded.
    #[test]
    fn whoever_comes_and_goes_leaves_nothing_behind(
        capacity in 1usize..10,
        queue_length in proptest::option::of(0usize..40),
        tenants in proptest::collection::vec((0usize..3, 0usize..3, 1usize..30, 1u64..300, 0u64..900, 0u64..2000), 1..6),
        manners in proptest::collection::vec((proptest::option::of(1usize..6), 0u64..3000, 1usize..9), 6),
    ) {
        let mut loads = loads(&tenants);
        for (load, (most, patience, answers)) in loads.iter_mut().zip(&manners) {
            // Who is promised more than it may have keeps that from others.
            load.most = most.map_or(usize::MAX, |most| most.max(load.least));
            load.patience = Some(*patience * MS).filter(|patience| *patience < 2 * SECOND);
            load.answers = *answers;
            load.pause = load.pause.max(MS);
        }
        let world = World { queue_length: queue_length.unwrap_or(usize::MAX), ..World::new(capacity, &loads, 10 * SECOND) };
        let world = world.run();
        let is_bounded = queue_length.is_some();
        prop_assert!(is_bounded || world.sent_away.iter().all(|count| *count == 0));
    }

    /// Time is shared by weight among those who always want more, whoever they are.
    #[test]
    fn time_by_weight(capacity in 2usize..12, weights in proptest::collection::vec(0usize..3, 2..5)) {
        let names = ["a", "b", "c", "d"];
        let loads: Vec<_> = weights.iter().zip(names).map(|(weight, name)| {
            Load { name, weight: [1, 4, 16][*weight], clients: capacity * 2, service: (MS, 30 * MS), ..Load::default() }
        }).collect();
        let world = World::new(capacity, &loads, 60 * SECOND).run();
        let all: u32 = loads.iter().map(|load| load.weight).sum();
        for (load, used) in loads.iter().zip(&world.used) {
            let share = capacity as f64 * 60.0 * SECOND as f64 * f64::from(load.weight) / f64::from(all);
            prop_assert!((*used as f64 / share - 1.0).abs() < 0.1, "{} {:?} {share}", load.name, world.used);
        }
    }
}

fn loads(tenants: &[(usize, usize, usize, u64, u64, u64)]) -> Vec<Load> {
    let names = ["a", "b", "c", "d", "e", "f"];
    let load = |((weight, least, clients, service, pause, from), name): (&(usize, usize, usize, u64, u64, u64), _)| {
        let (weight, service) = ([1, 4, 16][*weight], (MS, service * MS));
        Load {
            name,
            weight,
            least: *least,
            clients: *clients,
            service,
            pause: pause * MS,
            from: from * MS,
            ..Load::default()
        }
    };
    tenants.iter().zip(names).map(load).collect()
}
