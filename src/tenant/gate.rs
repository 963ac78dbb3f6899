//! As many server connections as a tenant may use at once, on all servers together, and who of it waits for one, in whatever
//! queues.
//!
//! Whoever gives connections out ([`Queue`]) takes a [`Pass`] with each, so that nobody holds one who is still waiting. As
//! soon as there may be more of them the queues are told in which somebody waits, the one first who has waited for longest.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use smallvec::SmallVec;
use tokio::sync::Notify;

use super::{ANY, Counters};

/// What a gate needs beside its [`Counters`], where somebody has to wait.
#[derive(Debug)]
pub struct Gate {
    line: Mutex<Line>,
    /// As many may wait.
    queue_length: AtomicUsize,
    opened: Notify,
}

/// Who waits, in whatever queues.
#[derive(Debug, Default)]
struct Line {
    tickets: u64,
    /// The one first whose time is over first, and of several the one that has come first.
    waiting: BTreeMap<Ticket, Waiting>,
    /// The queues in which they wait, each with how many.
    queues: Vec<(Arc<dyn Queue>, usize)>,
}

/// When its time is over, and which one it is.
type Ticket = (Instant, u64);

#[derive(Debug)]
struct Waiting {
    queue: Arc<dyn Queue>,
    place: u64,
}

/// Where clients of one tenant wait for server connections. To be called without a lock of the queue's being held.
pub trait Queue: Debug + Send + Sync {
    /// Another one for each.
    fn id(&self) -> usize;
    /// There may be passes now for those who wait.
    fn look(&self);
    /// How many wait there, and how many of them are about to be served.
    fn waiting(&self) -> (usize, usize);
    /// Sends away who waits at this place, as more than `limit` do. False where nobody waits there any more.
    fn send_away(&self, place: u64, limit: usize) -> bool;
}

/// A tenant's server connections, for those who give them out; or nobody's, of which there are any number.
#[derive(Debug, Clone, Default)]
pub struct Passes(Option<Arc<Counters>>);

/// The right to one server connection, given back when dropped: that may tell queues, and is to be done without their locks.
/// Without a limit it is not counted.
#[derive(Debug, Default)]
pub struct Pass(Option<Arc<Counters>>);

/// A place among those of its tenant who wait, given up when dropped.
#[derive(Debug)]
pub struct Standing {
    of: Arc<Counters>,
    ticket: Ticket,
}

type Queues = SmallVec<[Arc<dyn Queue>; 4]>;

impl Default for Gate {
    fn default() -> Self {
        let (line, opened) = Default::default();
        Self { line, queue_length: AtomicUsize::new(usize::MAX), opened }
    }
}

impl Passes {
    pub(super) fn of(counters: &Arc<Counters>) -> Self {
        Self(Some(counters.clone()))
    }

    /// As many more could be taken now.
    pub fn left(&self) -> usize {
        self.0.as_ref().map_or(usize::MAX, |of| of.left())
    }

    /// One more, if there may be.
    pub fn take(&self) -> Option<Pass> {
        let Some(of) = &self.0 else { return Some(Pass(None)) };
        if of.is_closed() {
            return None;
        }
        if of.most_taken.load(SeqCst) == ANY {
            return Some(Pass(None));
        }
        let next = |taken| (taken < of.most_taken.load(SeqCst)).then(|| taken + 1);
        of.taken.fetch_update(SeqCst, SeqCst, next).ok().map(|_| Pass(Some(of.clone())))
    }

    /// One more, whether there may be or not: of a connection that was taken when there was no limit.
    pub fn count(&self) -> Pass {
        let Some(of) = self.0.as_ref().filter(|of| of.most_taken.load(SeqCst) != ANY) else { return Pass::default() };
        of.taken.fetch_add(1, SeqCst);
        Pass(Some(of.clone()))
    }

    /// Somebody waits in a queue, up to `until`. Where more wait than may, whose time is over first is sent away.
    pub fn wait(&self, queue: Arc<dyn Queue>, place: u64, until: Instant) -> Option<Standing> {
        let of = self.0.as_ref()?;
        let mut line = of.line();
        let ticket = line.enter(queue.clone(), place, until);
        let waiting = of.count(&line);
        drop(line);
        // There may have been a pass before it was seen that somebody waits for it.
        queue.look();
        let limit = of.gate.queue_length.load(Relaxed);
        if waiting > limit {
            of.shed(limit);
        }
        Some(Standing { of: of.clone(), ticket })
    }
}

impl Pass {
    /// `None` for one that is not counted, as there is no limit.
    pub fn counted(self) -> Option<Self> {
        self.0.is_some().then_some(self)
    }
}

impl Counters {
    /// So many may pass at once from now on, and so many wait; who waits passes where there is room.
    pub fn let_pass(&self, most: Option<usize>, queue_length: Option<usize>) {
        self.most_taken.store(most.map_or(ANY, |most| most.try_into().unwrap_or(ANY)), SeqCst);
        self.gate.queue_length.store(queue_length.unwrap_or(usize::MAX), Relaxed);
        self.look();
    }

    /// Nobody passes until it is opened.
    pub fn close(&self) {
        self.closed.store(true, SeqCst);
    }

    /// Who waits passes.
    pub fn open(&self) {
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

    fn left(&self) -> usize {
        match self.most_taken.load(SeqCst) {
            _ if self.is_closed() => 0,
            ANY => usize::MAX,
            most => most.saturating_sub(self.taken.load(SeqCst)) as usize,
        }
    }

    /// There may be more passes than there were.
    fn look(&self) {
        if self.waiting.load(SeqCst) == 0 {
            return;
        }
        for queue in self.line().queues() {
            // Of the next one they are told again.
            if self.left() == 0 {
                return;
            }
            queue.look();
        }
    }

    /// No more than `limit` may wait beside those who are about to be served.
    fn shed(&self, limit: usize) {
        let queues = self.line().queues();
        let counts = queues.iter().map(|queue| queue.waiting());
        let (waiting, served) = counts.fold((0, 0), |(waiting, served), (more, soon)| (waiting + more, served + soon));
        if waiting <= limit.saturating_add(served.min(self.left())) {
            return;
        }
        loop {
            let first = {
                let mut line = self.line();
                let first = line.waiting.pop_first().map(|(_, first)| line.left(first));
                self.count(&line);
                first
            };
            // One that has been served, and is yet to notice, was none of those who wait.
            if first.is_none_or(|first| first.queue.send_away(first.place, limit)) {
                return;
            }
        }
    }

    fn count(&self, line: &Line) -> usize {
        self.waiting.store(line.waiting.len() as u32, SeqCst);
        line.waiting.len()
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.gate.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(of) = self.0.take() {
            of.taken.fetch_sub(1, SeqCst);
            // Whoever comes to wait after this looks at what is taken after he has said so.
            of.look();
        }
    }
}

impl Drop for Standing {
    fn drop(&mut self) {
        let mut line = self.of.line();
        if let Some(one) = line.waiting.remove(&self.ticket) {
            line.left(one);
            self.of.count(&line);
        }
    }
}

impl Line {
    fn enter(&mut self, queue: Arc<dyn Queue>, place: u64, until: Instant) -> Ticket {
        self.tickets += 1;
        match self.queues.iter_mut().find(|(known, _)| known.id() == queue.id()) {
            Some((_, count)) => *count += 1,
            None => self.queues.push((queue.clone(), 1)),
        }
        let ticket = (until, self.tickets);
        self.waiting.insert(ticket, Waiting { queue, place });
        ticket
    }

    /// One that does not wait any more.
    fn left(&mut self, one: Waiting) -> Waiting {
        let of_it = |(known, _): &(Arc<dyn Queue>, usize)| known.id() == one.queue.id();
        if let Some(at) = self.queues.iter().position(of_it) {
            self.queues[at].1 -= 1;
            if self.queues[at].1 == 0 {
                self.queues.remove(at);
            }
        }
        one
    }

    /// The one first in which somebody has always waited for longest.
    fn queues(&self) -> Queues {
        self.queues.iter().map(|(queue, _)| queue.clone()).collect()
    }
}

#[cfg(test)]
mod tests;
