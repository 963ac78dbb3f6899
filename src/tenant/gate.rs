//! As many server connections as a tenant may use at once, on all servers together: first in, first out.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

/// See the module's page. Cheap to clone. Outlives reloads.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// Nobody passes. Changed with the state locked; whoever has no limit only looks here.
    closed: AtomicBool,
    opened: Notify,
}

type Give = oneshot::Sender<Result<Pass, Full>>;

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// As many there are, as was last said.
    most: usize,
    tickets: u64,
    /// By the number of their ticket.
    queue: VecDeque<(u64, Give)>,
}

/// The right to one server connection, given back when dropped.
#[derive(Debug)]
pub struct Pass {
    gate: Gate,
}

/// More wanted to wait than may, and this one had waited for longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One that may go on at once, or has to wait.
#[derive(Debug)]
pub enum Entry {
    Open(Pass),
    Queued(Queued),
}

/// A place in the queue, given up when dropped.
#[derive(Debug)]
pub struct Queued {
    gate: Gate,
    ticket: u64,
    receive: oneshot::Receiver<Result<Pass, Full>>,
}

impl Gate {
    /// One of `most`, as soon as there is one; as many as `queue_length` may wait.
    pub fn enter(&self, most: usize, queue_length: usize) -> Entry {
        let mut state = self.state();
        state.most = most;
        if let Some(pass) = self.pass(&mut state) {
            return Entry::Open(pass);
        }
        state.tickets += 1;
        let (give, receive) = oneshot::channel();
        let ticket = state.tickets;
        state.queue.push_back((ticket, give));
        // There may be more places than there were.
        let passes = self.serve(&mut state);
        let shed = if state.queue.len() > queue_length { state.queue.pop_front() } else { None };
        drop(state);
        passes.into_iter().for_each(|(give, pass)| drop(give.send(Ok(pass))));
        shed.into_iter().for_each(|(_, give)| drop(give.send(Err(Full))));
        Entry::Queued(Queued { gate: self.clone(), ticket, receive })
    }

    /// One of `most`, if there is one and nobody waits for it.
    pub fn try_enter(&self, most: usize) -> Option<Pass> {
        let mut state = self.state();
        state.most = most;
        self.pass(&mut state)
    }

    fn pass(&self, state: &mut State) -> Option<Pass> {
        let free = state.queue.is_empty() && state.taken < state.most && !self.is_closed();
        free.then(|| {
            state.taken += 1;
            Pass { gate: self.clone() }
        })
    }

    /// Nobody passes until it is opened.
    pub fn close(&self) {
        let _state = self.state();
        self.0.closed.store(true, Ordering::Release);
    }

    /// There are `most` from now on, and who waits passes.
    pub fn open(&self, most: usize) {
        let state = self.state();
        self.0.closed.store(false, Ordering::Release);
        drop(state);
        self.0.opened.notify_waiters();
        self.look(most);
    }

    /// Returns once it is not closed.
    pub async fn opened(&self) {
        loop {
            let mut opened = std::pin::pin!(self.0.opened.notified());
            opened.as_mut().enable();
            if !self.is_closed() {
                return;
            }
            opened.await;
        }
    }

    pub fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Acquire)
    }

    /// There may be more places than there were.
    pub fn look(&self, most: usize) {
        let mut state = self.state();
        state.most = most;
        let passes = self.serve(&mut state);
        drop(state);
        passes.into_iter().for_each(|(give, pass)| drop(give.send(Ok(pass))));
    }

    /// How many are in use, and how many wait.
    pub fn count(&self) -> (usize, usize) {
        let state = self.state();
        (state.taken, state.queue.len())
    }

    /// Passes for those who are next. To be sent without the lock: one that nobody wants any more comes back.
    fn serve(&self, state: &mut State) -> Vec<(Give, Pass)> {
        let mut passes = Vec::new();
        while state.taken < state.most
            && !self.is_closed()
            && let Some((_, give)) = state.queue.pop_front()
        {
            state.taken += 1;
            passes.push((give, Pass { gate: self.clone() }));
        }
        passes
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let passes = {
            let mut state = self.gate.state();
            state.taken -= 1;
            self.gate.serve(&mut state)
        };
        passes.into_iter().for_each(|(give, pass)| drop(give.send(Ok(pass))));
    }
}

impl Queued {
    /// Cancel safe: the place is kept.
    pub async fn pass(&mut self) -> Result<Pass, Full> {
        // Whoever is in the queue is told something.
        (&mut self.receive).await.unwrap_or(Err(Full))
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.gate.state();
        if let Ok(at) = state.queue.binary_search_by_key(&self.ticket, |(ticket, ..)| *ticket) {
            state.queue.remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queued(entry: Entry) -> Queued {
        match entry {
            Entry::Queued(queued) => queued,
            Entry::Open(_) => panic!("there was room"),
        }
    }

    fn open(entry: Entry) -> Pass {
        match entry {
            Entry::Open(pass) => pass,
            Entry::Queued(_) => panic!("there was no room"),
        }
    }

    #[test]
    fn no_more_than_there_are_and_first_come_first_served() {
        let gate = Gate::default();
        let first = open(gate.enter(1, 2));
        let [mut second, mut third] = [(); 2].map(|()| queued(gate.enter(1, 2)));
        assert_eq!(gate.count(), (1, 2));
        assert!(second.receive.try_recv().is_err());
        drop(first);
        let pass = second.receive.try_recv().unwrap().unwrap();
        assert!(third.receive.try_recv().is_err());
        // Whoever leaves the queue is passed over.
        let fourth = queued(gate.enter(1, 2));
        drop(third);
        drop(pass);
        assert_eq!(gate.count(), (1, 0));
        // Also one who leaves with what he was given.
        drop(fourth);
        assert_eq!(gate.count(), (0, 0));
        open(gate.enter(1, 2));
    }

    #[test]
    fn fewer_places_are_kept_to_while_others_wait() {
        let gate = Gate::default();
        let mut passes: Vec<_> = (0..3).map(|_| open(gate.enter(3, 9))).collect();
        let mut waiting: Vec<_> = (0..5).map(|_| queued(gate.enter(3, 9))).collect();
        gate.look(1);
        passes.clear();
        let passed =
            |waiting: &mut Vec<Queued>| waiting.iter_mut().filter_map(|one| one.receive.try_recv().ok()).count();
        // The first of them, of which the pass is dropped at once: then the next, one by one.
        assert_eq!(gate.count(), (1, 4));
        assert_eq!(passed(&mut waiting), 5);
        assert_eq!(gate.count(), (0, 0));
        assert!(gate.try_enter(0).is_none() && gate.try_enter(1).is_some());
    }

    #[test]
    fn nobody_passes_while_it_is_closed() {
        let gate = Gate::default();
        let _first = open(gate.enter(9, 9));
        gate.close();
        let mut second = queued(gate.enter(9, 9));
        gate.look(9);
        assert!(gate.is_closed() && second.receive.try_recv().is_err());
        gate.open(9);
        assert!(second.receive.try_recv().unwrap().is_ok());
        open(gate.enter(9, 9));
    }

    #[test]
    fn a_full_queue_sends_away_who_has_waited_longest_and_more_places_are_noticed() {
        let gate = Gate::default();
        let _first = open(gate.enter(1, 1));
        let mut second = queued(gate.enter(1, 1));
        let mut third = queued(gate.enter(1, 1));
        assert_eq!(second.receive.try_recv().unwrap().unwrap_err(), Full);
        assert!(third.receive.try_recv().is_err());
        let mut fourth = queued(gate.enter(3, 5));
        assert!(third.receive.try_recv().unwrap().is_ok() && fourth.receive.try_recv().unwrap().is_ok());
        assert_eq!(gate.count(), (1, 0));
    }
}
