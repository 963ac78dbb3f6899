//! As many server connections as a tenant may use at once, on all servers together: first in, first out.

use std::collections::VecDeque;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, oneshot};

use super::{ANY, Counters};

/// What a gate needs beside its [`Counters`], where somebody has to wait.
#[derive(Debug)]
pub struct Gate {
    queue: Mutex<Queue>,
    /// As many may wait.
    queue_length: AtomicUsize,
    opened: Notify,
}

type Give = oneshot::Sender<Result<Pass, Full>>;

#[derive(Debug, Default)]
struct Queue {
    tickets: u64,
    /// By the number of their ticket.
    waiting: VecDeque<(u64, Give)>,
}

/// The right to one server connection, given back when dropped.
#[derive(Debug)]
pub struct Pass(Arc<Counters>);

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
    of: Arc<Counters>,
    ticket: u64,
    receive: oneshot::Receiver<Result<Pass, Full>>,
}

impl Default for Gate {
    fn default() -> Self {
        let (queue, opened) = Default::default();
        Self { queue, queue_length: AtomicUsize::new(usize::MAX), opened }
    }
}

/// Its passes. They are counted without a lock, and the queue is looked at where somebody is in it.
impl Counters {
    /// Does the gate hold anybody up?
    pub fn holds(&self) -> bool {
        self.most_taken.load(Relaxed) != ANY || self.is_closed()
    }

    /// A pass, as soon as there is one.
    pub fn enter(self: &Arc<Self>) -> Entry {
        if let Some(pass) = self.pass_by() {
            return Entry::Open(pass);
        }
        let (give, receive) = oneshot::channel();
        let mut queue = self.queue();
        queue.tickets += 1;
        let ticket = queue.tickets;
        queue.waiting.push_back((ticket, give));
        self.waiting.store(queue.waiting.len() as u32, SeqCst);
        // One may have come back before it was seen that somebody waits for it.
        let passes = self.serve(&mut queue);
        let full = queue.waiting.len() > self.gate.queue_length.load(Relaxed);
        let shed = if full { queue.waiting.pop_front() } else { None };
        self.waiting.store(queue.waiting.len() as u32, SeqCst);
        drop(queue);
        give_all(passes);
        shed.into_iter().for_each(|(_, give)| drop(give.send(Err(Full))));
        Entry::Queued(Queued { of: self.clone(), ticket, receive })
    }

    /// A pass, if there is one and nobody waits for it.
    pub fn try_enter(self: &Arc<Self>) -> Option<Pass> {
        self.pass_by().or_else(|| {
            // Whoever is in the queue may be about to leave it.
            let queue = self.queue();
            if queue.waiting.is_empty() && !self.is_closed() { self.pass() } else { None }
        })
    }

    /// The same without a look at the queue, where it is known that nobody is in it.
    fn pass_by(self: &Arc<Self>) -> Option<Pass> {
        let free = self.waiting.load(SeqCst) == 0 && !self.is_closed();
        if free { self.pass() } else { None }
    }

    /// So many may pass at once from now on, and so many wait; who waits passes where there is room.
    pub fn let_pass(self: &Arc<Self>, most: Option<usize>, queue_length: Option<usize>) {
        self.most_taken.store(most.map_or(ANY, |most| most.try_into().unwrap_or(ANY)), SeqCst);
        self.gate.queue_length.store(queue_length.unwrap_or(usize::MAX), Relaxed);
        self.look();
    }

    /// Nobody passes until it is opened.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Who waits passes.
    pub fn open(self: &Arc<Self>) {
        self.closed.store(false, SeqCst);
        self.gate.opened.notify_waiters();
        self.look();
    }

    /// Returns once it is not closed.
    pub async fn opened(&self) {
        loop {
            let mut opened = std::pin::pin!(self.gate.opened.notified());
            opened.as_mut().enable();
            if !self.is_closed() {
                return;
            }
            opened.await;
        }
    }

    pub fn is_closed(&self) -> bool {
        self.closed.load(SeqCst)
    }

    /// How many are in use, and how many wait.
    pub fn passes(&self) -> (usize, usize) {
        (self.taken.load(Relaxed) as usize, self.waiting.load(Relaxed) as usize)
    }

    fn pass(self: &Arc<Self>) -> Option<Pass> {
        let next = |taken| (taken < self.most_taken.load(SeqCst)).then(|| taken + 1);
        self.taken.fetch_update(SeqCst, SeqCst, next).ok().map(|_| Pass(self.clone()))
    }

    /// There may be more passes than there were.
    fn look(self: &Arc<Self>) {
        let passes = self.serve(&mut self.queue());
        give_all(passes);
    }

    /// Passes for those who are next. To be sent without the lock: one that nobody wants any more comes back.
    fn serve(self: &Arc<Self>, queue: &mut Queue) -> Vec<(Give, Pass)> {
        let mut passes = Vec::new();
        while !queue.waiting.is_empty()
            && !self.is_closed()
            && let Some(pass) = self.pass()
        {
            let next = queue.waiting.pop_front();
            passes.extend(next.map(|(_, give)| (give, pass)));
        }
        self.waiting.store(queue.waiting.len() as u32, SeqCst);
        passes
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.gate.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn give_all(passes: Vec<(Give, Pass)>) {
    passes.into_iter().for_each(|(give, pass)| drop(give.send(Ok(pass))));
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, SeqCst);
        // Whoever comes to wait after this looks at what is taken after he has said so.
        if self.0.waiting.load(SeqCst) > 0 {
            self.0.look();
        }
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
        let mut queue = self.of.queue();
        if let Ok(at) = queue.waiting.binary_search_by_key(&self.ticket, |(ticket, ..)| *ticket) {
            queue.waiting.remove(at);
            self.of.waiting.store(queue.waiting.len() as u32, SeqCst);
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

    fn limited(most: impl Into<Option<usize>>, queue_length: usize) -> Arc<Counters> {
        let of = Arc::<Counters>::default();
        of.let_pass(most.into(), Some(queue_length));
        of
    }

    #[test]
    fn no_more_than_there_are_and_first_come_first_served() {
        let of = limited(1, 2);
        let first = open(of.enter());
        let [mut second, mut third] = [(); 2].map(|()| queued(of.enter()));
        assert_eq!(of.passes(), (1, 2));
        assert!(second.receive.try_recv().is_err());
        drop(first);
        let pass = second.receive.try_recv().unwrap().unwrap();
        assert!(third.receive.try_recv().is_err());
        // Whoever leaves the queue is passed over.
        let fourth = queued(of.enter());
        drop(third);
        drop(pass);
        assert_eq!(of.passes(), (1, 0));
        // Also one who leaves with what he was given.
        drop(fourth);
        assert_eq!(of.passes(), (0, 0));
        open(of.enter());
    }

    #[test]
    fn fewer_places_are_kept_to_while_others_wait() {
        let of = limited(3, 9);
        let mut passes: Vec<_> = (0..3).map(|_| open(of.enter())).collect();
        let mut waiting: Vec<_> = (0..5).map(|_| queued(of.enter())).collect();
        of.let_pass(Some(1), Some(9));
        passes.clear();
        let passed =
            |waiting: &mut Vec<Queued>| waiting.iter_mut().filter_map(|one| one.receive.try_recv().ok()).count();
        // The first of them, of which the pass is dropped at once: then the next, one by one.
        assert_eq!(of.passes(), (1, 4));
        assert_eq!(passed(&mut waiting), 5);
        assert_eq!(of.passes(), (0, 0));
        assert!(of.try_enter().is_some());
        of.let_pass(Some(0), Some(9));
        assert!(of.holds() && of.try_enter().is_none());
    }

    #[test]
    fn nobody_passes_while_it_is_closed() {
        for most in [Some(9), None] {
            let of = limited(most, 9);
            let _first = open(of.enter());
            of.close();
            let mut second = queued(of.enter());
            of.let_pass(most, Some(9));
            assert!(of.is_closed() && of.holds() && second.receive.try_recv().is_err());
            of.open();
            assert!(second.receive.try_recv().unwrap().is_ok());
            assert_eq!(of.holds(), most.is_some());
            open(of.enter());
        }
    }

    #[test]
    fn a_full_queue_sends_away_who_has_waited_longest_and_more_places_are_noticed() {
        let of = limited(1, 1);
        let _first = open(of.enter());
        let mut second = queued(of.enter());
        let mut third = queued(of.enter());
        assert_eq!(second.receive.try_recv().unwrap().unwrap_err(), Full);
        assert!(third.receive.try_recv().is_err());
        of.let_pass(Some(3), Some(5));
        let _fourth = open(of.enter());
        assert!(third.receive.try_recv().unwrap().is_ok());
        assert_eq!(of.passes(), (2, 0));
    }

    #[test]
    fn threads_that_come_and_go_are_never_too_many_and_none_is_forgotten() {
        let of = limited(2, 99);
        let inside = AtomicUsize::new(0);
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for _ in 0..3_000 {
                let pass = match of.enter() {
                    Entry::Open(pass) => pass,
                    Entry::Queued(mut queued) => runtime.block_on(async {
                        let pass = tokio::time::timeout(std::time::Duration::from_secs(20), queued.pass()).await;
                        pass.expect("somebody was forgotten").expect("there was room in the queue")
                    }),
                };
                assert!(inside.fetch_add(1, SeqCst) < 2, "too many");
                std::thread::yield_now();
                inside.fetch_sub(1, SeqCst);
                drop(pass);
            }
        };
        std::thread::scope(|scope| (0..6).for_each(|_| drop(scope.spawn(work))));
        assert_eq!(of.passes(), (0, 0));
    }

    /// One comes to wait in the moment in which there is room again: whoever does not wait is not sent away for that.
    #[test]
    fn there_is_room_for_who_does_not_wait_while_another_leaves_the_queue() {
        let of = limited(2, 99);
        // As a waiter leaves it that is yet to look whether there is room.
        of.waiting.store(1, SeqCst);
        assert!(of.try_enter().is_some());
    }
}
