//! Tenants that are at work in several pools of one host, under a simulated clock: [`Fair`] within the pools, and the keeper
//! over them.

use super::super::super::fair::{Fair, Party, Room, Terms, Waits};
use super::super::super::weight::Spread;
use super::*;

/// A tenant's clients, so many in each of some pools. They ask again as soon as they have their answer.
#[derive(Debug, Clone)]
struct Tenant {
    weight: u32,
    /// And for how long they do so: from, and to.
    pools: Vec<(usize, usize, (u64, u64))>,
    /// Of a statement, at most.
    service: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happens {
    Wants { client: usize },
    Done { client: usize, since: u64 },
    Rotates,
    Beats,
}

#[derive(Debug)]
struct Guest {
    client: usize,
    since: u64,
}

impl Waits for Guest {
    fn may_have(&self) -> usize {
        usize::MAX
    }
}

/// Does what [`Pool`] does. Connections are opened and closed in no time.
struct Stand {
    fair: Fair<Guest>,
    allowed: usize,
    idle: Vec<Place>,
    leased: usize,
}

impl Stand {
    fn open(&self) -> usize {
        self.idle.len() + self.leased
    }

    fn room(&self) -> Room {
        let capacity = self.allowed.min(SIZE);
        Room { free: capacity.saturating_sub(self.leased), capacity }
    }

    fn wants(&self, pool: usize, now: Instant) -> Wants {
        let needs = (self.leased + self.fair.waiting()).max(self.fair.recent()).min(SIZE);
        let room = Room { free: SIZE.saturating_sub(self.leased), capacity: SIZE };
        Wants {
            claim: Claim { pool, weight: 0, needs, least: 0 },
            active: self.fair.active().map(|(name, weight)| (name.clone(), weight)).collect(),
            open: self.open(),
            lacking: self.fair.served(room).saturating_sub(self.idle.len()),
            idle_since: vec![now; self.idle.len()],
        }
    }
}

/// As many as a pool may have.
const SIZE: usize = 100;

struct Client {
    tenant: usize,
    pool: usize,
    party: Party,
    times: (u64, u64),
    place: Option<Place>,
}

struct Host {
    budget: Arc<Budget>,
    keeper: Keeper,
    base: Instant,
    now: u64,
    until: u64,
    events: BinaryHeap<Reverse<(u64, Happens)>>,
    stands: Vec<Stand>,
    tenants: Vec<Tenant>,
    clients: Vec<Client>,
    /// What each tenant has used of the time that is looked at.
    from: u64,
    used: Vec<u64>,
    longest: Vec<u64>,
    random: u64,
}

impl Host {
    /// With so many connections for pools.
    fn new(most: usize, pools: usize, tenants: &[Tenant], (from, until): (u64, u64)) -> Self {
        let budget = Arc::<Budget>::default();
        // One is for errands.
        budget.limit(Some(most + 1));
        let stand = |_| Stand { fair: Fair::default(), allowed: usize::MAX, idle: Vec::new(), leased: 0 };
        let mut stands: Vec<_> = (0..pools).map(stand).collect();
        let mut clients = Vec::new();
        for (number, tenant) in tenants.iter().enumerate() {
            for &(pool, count, times) in &tenant.pools {
                let terms = Terms { weight: tenant.weight, least: 0 };
                let party = |_| stands[pool].fair.join(&format!("tenant {number}").into(), terms);
                let parties: Vec<_> = (0..count).map(party).collect();
                clients.extend(parties.into_iter().map(|party| Client {
                    tenant: number,
                    pool,
                    party,
                    times,
                    place: None,
                }));
            }
        }
        let wants = |(client, one): (usize, &Client)| Reverse((one.times.0, Happens::Wants { client }));
        let mut events: BinaryHeap<_> = clients.iter().enumerate().map(wants).collect();
        events.extend([Reverse((0, Happens::Beats)), Reverse((0, Happens::Rotates))]);
        let (used, longest) = (vec![0; tenants.len()], vec![0; tenants.len()]);
        let (keeper, tenants, base) = (Keeper::default(), tenants.to_vec(), Instant::now());
        Self { budget, keeper, base, now: 0, until, events, stands, tenants, clients, from, used, longest, random: 1 }
    }

    fn run(mut self) -> Self {
        let most = self.budget.most().unwrap() - 1;
        while let Some(Reverse((now, event))) = self.events.pop() {
            self.now = now;
            match event {
                Happens::Wants { client } => self.wants(client),
                Happens::Done { client, since } => self.done(client, since),
                Happens::Rotates => {
                    self.stands.iter_mut().for_each(|stand| stand.fair.rotate());
                    self.again(ROTATION, Happens::Rotates);
                }
                Happens::Beats => {
                    self.beats();
                    self.again(BEAT, Happens::Beats);
                }
            }
            assert!(self.budget.open() <= most && self.stands.iter().map(Stand::open).sum::<usize>() <= most);
        }
        assert!(self.stands.iter().all(|stand| stand.leased + stand.fair.everybody() == 0), "somebody was forgotten");
        self
    }

    /// For a while after the clients, who have to be served.
    fn again(&mut self, time: Duration, event: Happens) {
        if self.now < self.until + 100 * SECOND {
            self.events.push(Reverse((self.now + time.as_micros() as u64, event)));
        }
    }

    fn wants(&mut self, client: usize) {
        let Client { pool, party, .. } = self.clients[client];
        let stand = &mut self.stands[pool];
        let (now, room) = (self.now, stand.room());
        if stand.fair.admits(party, room, now)
            && let Some(place) = stand.idle.pop()
        {
            return self.begins(client, place);
        }
        let guest = Guest { client, since: now };
        assert!(stand.fair.arrive(party, guest, u64::MAX, now, usize::MAX, room).1.is_none());
        self.serve(pool);
    }

    fn begins(&mut self, client: usize, place: Place) {
        let Client { pool, party, tenant, .. } = self.clients[client];
        self.clients[client].place = Some(place);
        self.stands[pool].leased += 1;
        self.stands[pool].fair.leases(party, self.now);
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let time = 1 + (self.random >> 33) % self.tenants[tenant].service;
        self.events.push(Reverse((self.now + time, Happens::Done { client, since: self.now })));
    }

    fn done(&mut self, client: usize, since: u64) {
        let Client { pool, party, tenant, times, .. } = self.clients[client];
        self.used[tenant] += self.now.min(self.until).saturating_sub(since.max(self.from));
        let place = self.clients[client].place.take().unwrap();
        let stand = &mut self.stands[pool];
        stand.leased -= 1;
        stand.fair.returns(party, since, self.now);
        if stand.open() < stand.room().capacity {
            stand.idle.push(place);
        }
        self.serve(pool);
        if self.now < times.1.min(self.until) {
            self.events.push(Reverse((self.now, Happens::Wants { client })));
        }
    }

    fn serve(&mut self, pool: usize) {
        loop {
            let stand = &mut self.stands[pool];
            let wanted = stand.fair.served(stand.room()) > stand.idle.len() && stand.open() < stand.room().capacity;
            if wanted && let Some(place) = self.budget.place(false) {
                stand.idle.push(place);
            }
            let Some(place) = stand.idle.pop() else { break };
            let Some(party) = stand.fair.next(stand.room(), self.now) else {
                stand.idle.push(place);
                break;
            };
            let Guest { client, since } = stand.fair.take(party, self.now).unwrap();
            let longest = &mut self.longest[self.clients[client].tenant];
            *longest = (*longest).max(self.now - since);
            self.begins(client, place);
        }
    }

    fn beats(&mut self) {
        let now = self.base + Duration::from_micros(self.now);
        let wants: Vec<_> = self.stands.iter().enumerate().map(|(pool, stand)| stand.wants(pool, now)).collect();
        let plan = self.budget.decide(&mut self.keeper, wants, self.now);
        for &(pool, _) in &plan.close {
            self.stands[pool].idle.pop();
        }
        for pool in 0..self.stands.len() {
            let stand = &mut self.stands[pool];
            stand.allowed = plan.allowed[pool];
            stand.fair.spread(&plan.spread, self.now);
            while stand.open() > stand.room().capacity && stand.idle.pop().is_some() {}
            self.serve(pool);
        }
        assert!(plan.allowed.iter().any(|allowed| *allowed < usize::MAX) || plan.spread == Spread::default());
    }

    /// What each tenant has used, as a part of all.
    fn parts(&self) -> Vec<f64> {
        let all = self.used.iter().sum::<u64>() as f64;
        self.used.iter().map(|used| *used as f64 / all).collect()
    }
}

/// All the time.
fn greedy(weight: u32, pools: &[usize], clients: usize, service: u64, until: u64) -> Tenant {
    let pools = pools.iter().map(|pool| (*pool, clients, (0, until))).collect();
    Tenant { weight, pools, service }
}

#[test]
fn who_is_at_work_in_more_pools_has_no_more_of_the_host() {
    let until = 60 * SECOND;
    for (pools, most) in [(2, 8), (2, 3), (5, 8), (5, 3)] {
        let all: Vec<_> = (0..pools).collect();
        let tenants = [greedy(4, &all, 20, 40 * MS, until), greedy(4, &[pools - 1], 20, 40 * MS, until)];
        let parts = Host::new(most, pools, &tenants, (SECOND, until)).run().parts();
        assert!((parts[1] - 0.5).abs() < 0.05, "{parts:?} of {most} in {pools} pools");
    }
}

/// With its pools it comes and goes.
#[test]
fn who_leaves_a_pool_has_his_whole_weight_in_the_other() {
    let until = 120 * SECOND;
    let mut tenants = [greedy(4, &[0, 1], 20, 40 * MS, until), greedy(4, &[1], 20, 40 * MS, until)];
    tenants[0].pools[0].2 = (0, 30 * SECOND);
    tenants[0].pools[1].2 = (5 * SECOND, until);
    let parts = Host::new(6, 2, &tenants, (40 * SECOND, until)).run().parts();
    assert!((parts[0] - 0.5).abs() < 0.05, "{parts:?}");
    let parts = Host::new(6, 2, &tenants, (10 * SECOND, 30 * SECOND)).run().parts();
    assert!((parts[0] - 0.5).abs() < 0.05, "{parts:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whoever always wants more in all its pools has its weight's part of the host, however many these are. And nobody
    /// starves.
    #[test]
    fn time_on_a_host_by_weight(
        most in 2usize..10,
        pools in 1usize..6,
        tenants in proptest::collection::vec((0usize..3, 1u8..32, 1u64..150), 2..6),
    ) {
        let until = 60 * SECOND;
        let tenants: Vec<_> = tenants.iter().map(|(weight, of, service)| {
            let of: Vec<_> = (0..pools).filter(|pool| of >> pool & 1 == 1 || pools == pool + 1 && of % (1 << pools) == 0).collect();
            greedy([1, 4, 16][*weight], &of, 2 * most, service * MS, until)
        }).collect();
        let host = Host::new(most, pools, &tenants, (SECOND, until)).run();
        let weights: u32 = tenants.iter().map(|tenant| tenant.weight).sum();
        let all = (until - SECOND) as f64 * most as f64;
        // Nobody wakes the keeper here when a turn is over.
        prop_assert!(host.used.iter().sum::<u64>() as f64 > 0.75 * all, "{:?} of {all}", host.used);
        let turn = QUANTUM + SHORT_ROUND + tenants.iter().map(|tenant| tenant.service).max().unwrap_or(0);
        for (at, part) in host.parts().into_iter().enumerate() {
            let fair = f64::from(tenants[at].weight) / f64::from(weights);
            prop_assert!((part - fair).abs() < 0.15 * fair + 0.02, "{part} for {fair}: {:?}", tenants[at]);
            // Others have so many turns to one of its own, of which each of those before it takes one at most.
            let turns = u64::from(weights / tenants[at].weight + 2) * (2 * most * pools) as u64;
            prop_assert!(host.longest[at] <= turn * turns, "{} us: {:?}", host.longest[at], tenants[at]);
        }
    }
}
