//! Queues of one tenant that share its passes.

use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// One that gives out as many connections as it has, each with a pass.
#[derive(Debug)]
struct Counter {
    passes: Passes,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: usize,
    places: u64,
    waiting: VecDeque<(u64, Sender<Result<Pass, Full>>)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Full;

/// Who waits at one.
struct Guest {
    at: Arc<Counter>,
    place: u64,
    until: Instant,
    told: Receiver<Result<Pass, Full>>,
    _standing: Option<Standing>,
}

impl Counter {
    fn new(of: &Arc<Counters>, free: usize) -> Arc<Self> {
        Arc::new(Self { passes: Passes::of(of), state: Mutex::new(State { free, ..State::default() }) })
    }

    /// All for the same time.
    fn wait(self: &Arc<Self>) -> Guest {
        self.wait_until(Instant::now() + Duration::from_secs(60))
    }

    fn wait_until(self: &Arc<Self>, until: Instant) -> Guest {
        let (tell, told) = channel();
        let place = {
            let mut state = self.state.lock().unwrap();
            state.places += 1;
            let place = state.places;
            state.waiting.push_back((place, tell));
            place
        };
        Guest { _standing: self.passes.wait(self.clone(), place, until), at: self.clone(), place, until, told }
    }

    /// A connection comes back.
    fn returns(&self, pass: Pass) {
        self.state.lock().unwrap().free += 1;
        drop(pass);
        self.look();
    }

    fn free(&self) -> usize {
        self.state.lock().unwrap().free
    }
}

impl Queue for Counter {
    fn id(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn look(&self) {
        let mut unwanted = Vec::new();
        let mut state = self.state.lock().unwrap();
        while state.free > 0
            && !state.waiting.is_empty()
            && let Some(pass) = self.passes.take()
        {
            let Some((_, next)) = state.waiting.pop_front() else { break };
            match next.send(Ok(pass)) {
                Ok(()) => state.free -= 1,
                Err(back) => unwanted.extend(back.0),
            }
        }
        drop(state);
        drop(unwanted);
    }

    fn waiting(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap();
        (state.waiting.len(), state.waiting.len().min(state.free).min(self.passes.left()))
    }

    fn send_away(&self, place: u64, _: usize) -> bool {
        let mut state = self.state.lock().unwrap();
        let Ok(at) = state.waiting.binary_search_by_key(&place, |(place, _)| *place) else { return false };
        state.waiting.remove(at).is_some_and(|(_, tell)| tell.send(Err(Full)).is_ok())
    }
}

impl Guest {
    fn told(&self) -> Option<Result<Pass, Full>> {
        match self.told.try_recv() {
            Err(TryRecvError::Empty) => None,
            told => Some(told.unwrap()),
        }
    }

    fn pass(&self) -> Option<Pass> {
        self.told().map(Result::unwrap)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.at.send_away(self.place, 0);
        if let Ok(Ok(pass)) = self.told.try_recv() {
            self.at.returns(pass);
        }
    }
}

fn limited(most: impl Into<Option<usize>>, queue_length: usize) -> Arc<Counters> {
    let of = Arc::<Counters>::default();
    of.let_pass(most.into(), Some(queue_length));
    of
}

#[test]
fn no_more_than_there_are_and_first_come_first_served() {
    let of = limited(1, 9);
    let [here, there] = [(); 2].map(|()| Counter::new(&of, 5));
    let first = here.passes.take().unwrap();
    let (second, third, fourth) = (here.wait(), there.wait(), here.wait());
    assert_eq!(of.passes(), (1, 3));
    assert!(second.pass().is_none() && third.pass().is_none());
    drop(first);
    let pass = second.pass().unwrap();
    assert!(third.pass().is_none() && fourth.pass().is_none());
    drop(second);
    // Whoever leaves the queue is passed over.
    drop(third);
    here.returns(pass);
    assert_eq!(of.passes(), (1, 1));
    // Also one who leaves with what he was given.
    drop(fourth);
    assert_eq!((of.passes(), here.free(), there.free()), ((0, 0), 5, 5));
    assert!(there.wait().pass().is_some());
}

/// Who waits for a connection keeps none of its tenant's passes from those who wait elsewhere.
#[test]
fn nobody_holds_a_pass_who_waits() {
    let of = limited(1, 9);
    let [busy, idle] = [0, 1].map(|free| Counter::new(&of, free));
    let first = busy.wait();
    assert!(first.pass().is_none());
    let second = idle.wait();
    let pass = second.pass().unwrap();
    // Now it is the pass that is lacking.
    busy.state.lock().unwrap().free += 1;
    busy.look();
    assert!(first.pass().is_none());
    idle.returns(pass);
    assert!(first.pass().is_some());
}

#[test]
fn fewer_places_are_kept_to_while_others_wait() {
    let of = limited(3, 9);
    let counter = Counter::new(&of, 9);
    let mut passes: Vec<_> = (0..3).map(|_| counter.passes.take().unwrap()).collect();
    let waiting: Vec<_> = (0..5).map(|_| counter.wait()).collect();
    of.let_pass(Some(1), Some(9));
    passes.clear();
    for guest in &waiting {
        assert_eq!(of.passes().0, 1);
        drop(guest.pass().unwrap());
    }
    drop(waiting);
    assert_eq!(of.passes(), (0, 0));
    of.let_pass(Some(0), Some(9));
    assert!(counter.passes.left() == 0 && counter.passes.take().is_none());
}

#[test]
fn nobody_passes_while_it_is_closed() {
    for most in [Some(9), None] {
        let of = limited(most, 9);
        let counter = Counter::new(&of, 9);
        let _first = counter.passes.take().unwrap();
        of.close();
        let second = counter.wait();
        of.let_pass(most, Some(9));
        assert!(of.is_closed() && counter.passes.left() == 0 && second.pass().is_none());
        of.open();
        let pass = second.pass().unwrap();
        assert_eq!(pass.counted().is_some(), most.is_some());
        assert!(counter.wait().pass().is_some());
    }
}

#[test]
fn more_than_may_wait_send_away_whose_time_is_over_first_wherever_that_is() {
    let of = limited(1, 2);
    let [here, there] = [(); 2].map(|()| Counter::new(&of, 5));
    let first = here.passes.take().unwrap();
    let (second, third, fourth) = (here.wait(), there.wait(), here.wait());
    assert_eq!(second.told().unwrap().unwrap_err(), Full);
    let fifth = here.wait();
    assert_eq!(third.told().unwrap().unwrap_err(), Full);
    assert!(fourth.told().is_none() && fifth.told().is_none());
    // One that was served, and is yet to notice, does not wait any more.
    drop(first);
    let sixth = there.wait();
    let pass = fourth.pass().unwrap();
    assert!(fifth.told().is_none() && sixth.told().is_none());
    // More places are noticed.
    of.let_pass(Some(3), Some(5));
    assert!(fifth.pass().is_some() && sixth.pass().is_some());
    drop(pass);
}

/// Where others may wait for longer, that is not who has come first.
#[test]
fn whose_time_is_over_first_may_have_come_last() {
    let of = limited(1, 3);
    let [here, there] = [(); 2].map(|()| Counter::new(&of, 5));
    let pass = here.passes.take().unwrap();
    let later = |seconds| Instant::now() + Duration::from_secs(seconds);
    let (first, second, third) = (here.wait_until(later(90)), there.wait_until(later(30)), here.wait_until(later(90)));
    let fourth = there.wait_until(later(30));
    assert_eq!(second.told().unwrap().unwrap_err(), Full);
    let fifth = there.wait_until(later(10));
    assert_eq!(fifth.told().unwrap().unwrap_err(), Full);
    let sixth = here.wait_until(later(90));
    assert_eq!(fourth.told().unwrap().unwrap_err(), Full);
    assert_eq!(of.passes(), (1, 3));
    // They are served as they came.
    drop((second, fourth, fifth, pass));
    for guest in [first, third, sixth] {
        drop(guest.pass().expect("it is next"));
    }
    assert_eq!(of.passes(), (0, 0));
}

#[test]
fn those_who_are_about_to_be_served_do_not_wait() {
    let of = limited(None, 1);
    let counter = Counter::new(&of, 0);
    let guests: Vec<_> = (0..2).map(|_| counter.wait()).collect();
    assert!(guests[0].told().is_some() && guests[1].told().is_none());
    // As while connections are opened.
    let (opening, of) = (Arc::<Opening>::default(), limited(None, 1));
    let passes = Passes::of(&of);
    let wait = |place| {
        opening.places.fetch_add(1, SeqCst);
        passes.wait(opening.clone(), place, Instant::now())
    };
    let _standing: Vec<_> = (0..4).map(wait).collect();
    assert!(!opening.sent_away.load(SeqCst));
    let _fifth = wait(4);
    assert!(opening.sent_away.load(SeqCst));
}

/// Where three are about to be served.
#[derive(Debug, Default)]
struct Opening {
    places: AtomicUsize,
    sent_away: AtomicBool,
}

impl Queue for Opening {
    fn id(&self) -> usize {
        0
    }

    fn look(&self) {}

    fn waiting(&self) -> (usize, usize) {
        (self.places.load(SeqCst), 3)
    }

    fn send_away(&self, place: u64, limit: usize) -> bool {
        assert_eq!((place, limit), (0, 1));
        !self.sent_away.swap(true, SeqCst)
    }
}

#[test]
fn threads_that_come_and_go_are_never_too_many_and_none_is_forgotten() {
    let of = limited(2, 99);
    let inside = AtomicUsize::new(0);
    let counters = [1, 1, 2].map(|free| Counter::new(&of, free));
    let work = |number: usize| {
        for round in 0..3_000 {
            let counter = &counters[(number + round) % counters.len()];
            let guest = counter.wait();
            let told = guest.told.recv_timeout(Duration::from_secs(20)).expect("somebody was forgotten");
            let pass = told.expect("there was room in the queue");
            assert!(inside.fetch_add(1, SeqCst) < 2, "too many");
            std::thread::yield_now();
            inside.fetch_sub(1, SeqCst);
            drop(guest);
            counter.returns(pass);
        }
    };
    std::thread::scope(|scope| (0..6).for_each(|number| drop(scope.spawn(move || work(number)))));
    assert_eq!(of.passes(), (0, 0));
}

/// What happens to one tenant's clients at several queues.
#[derive(Debug, Clone)]
enum Step {
    /// To a queue, with so many seconds left.
    Comes(usize, u64),
    /// Whoever is that number of those who wait.
    Leaves(usize),
    /// The same of those who are served.
    Returns(usize),
    Limit(Option<usize>),
    Close,
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0usize..3, 1u64..5).prop_map(|(at, seconds)| Step::Comes(at, seconds)),
        2 => any::<usize>().prop_map(Step::Leaves),
        5 => any::<usize>().prop_map(Step::Returns),
        1 => proptest::option::of(0usize..6).prop_map(Step::Limit),
        1 => Just(Step::Close),
        2 => Just(Step::Open),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Nobody waits where there are both a pass and a connection, there are never more passes than may be, each queue is
    /// served in its order, and no more wait than may: whose time is over first is sent away.
    #[test]
    fn no_wake_up_is_lost(
        free in proptest::collection::vec(0usize..4, 3),
        queue_length in 1usize..6,
        steps in proptest::collection::vec(step(), 1..80),
    ) {
        let of = limited(Some(2), queue_length);
        let counters: Vec<_> = free.iter().map(|free| Counter::new(&of, *free)).collect();
        let (mut waiting, mut served): (Vec<Guest>, Vec<(Arc<Counter>, Pass)>) = Default::default();
        let (mut most, base) = (Some(2), Instant::now());
        for step in steps {
            match step {
                Step::Comes(at, left) => waiting.push(counters[at].wait_until(base + Duration::from_secs(left))),
                Step::Leaves(number) if !waiting.is_empty() => drop(waiting.remove(number % waiting.len())),
                Step::Returns(number) if !served.is_empty() => {
                    let (counter, pass) = served.remove(number % served.len());
                    counter.returns(pass);
                }
                Step::Limit(limit) => {
                    most = limit;
                    of.let_pass(limit, Some(queue_length));
                }
                Step::Close => of.close(),
                Step::Open => of.open(),
                Step::Leaves(_) | Step::Returns(_) => {}
            }
            let counted = of.passes().0;
            let mut sent_away = Vec::new();
            for guest in std::mem::take(&mut waiting) {
                match guest.told() {
                    None => waiting.push(guest),
                    Some(Err(Full)) => sent_away.push((guest.until, waiting.len())),
                    Some(Ok(pass)) => {
                        prop_assert!(!of.is_closed());
                        let passed_over = |other: &&Guest| other.at.id() == guest.at.id() && other.place < guest.place;
                        prop_assert!(waiting.iter().find(passed_over).is_none());
                        prop_assert!(most.is_none_or(|most| counted <= most), "{counted} {most:?}");
                        served.push((guest.at.clone(), pass));
                    }
                }
            }
            prop_assert!(sent_away.len() <= 1 && waiting.len() <= queue_length, "{} wait", waiting.len());
            for (until, before) in sent_away {
                let is_over_first = |(at, guest): (usize, &Guest)| (until, before) <= (guest.until, at);
                prop_assert!(waiting.iter().enumerate().all(is_over_first), "another's time is over first");
            }
            let left = Passes::of(&of).left();
            prop_assert!(waiting.iter().all(|guest| left == 0 || guest.at.free() == 0), "somebody was forgotten");
            prop_assert_eq!(of.passes().1, waiting.len());
        }
        drop((waiting, served));
        of.open();
        prop_assert_eq!(of.passes(), (0, 0));
    }
}
