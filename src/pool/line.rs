//! Those of one tenant who wait in one pool: served in the order in which they came, and sent away by when their time is over.

use std::collections::{BTreeSet, VecDeque};

/// See the module's page. `W` is what waits.
#[derive(Debug)]
pub struct Line<W> {
    /// By their tickets, which grow.
    waiters: VecDeque<(Ticket, W)>,
    /// The same tickets by time. The order is another one where the queue timeout has been lowered meanwhile.
    times: BTreeSet<(u64, u64)>,
}

#[derive(Debug, Clone, Copy)]
struct Ticket {
    number: u64,
    /// When its time is over.
    until: u64,
}

impl<W> Default for Line<W> {
    fn default() -> Self {
        Self { waiters: VecDeque::new(), times: BTreeSet::new() }
    }
}

impl<W> Line<W> {
    /// The last. `number` is above all others.
    pub fn enter(&mut self, number: u64, until: u64, waiter: W) {
        self.waiters.push_back((Ticket { number, until }, waiter));
        self.times.insert((until, number));
    }

    pub fn len(&self) -> usize {
        self.waiters.len()
    }

    pub fn is_empty(&self) -> bool {
        self.waiters.is_empty()
    }

    /// Who came first, and its number.
    pub fn first(&self) -> Option<(u64, &W)> {
        self.waiters.front().map(|(ticket, waiter)| (ticket.number, waiter))
    }

    pub fn pop_first(&mut self) -> Option<W> {
        let (ticket, waiter) = self.waiters.pop_front()?;
        self.times.remove(&(ticket.until, ticket.number));
        Some(waiter)
    }

    /// Of those who would be out of time first, who came first.
    pub fn pop_shortest(&mut self) -> Option<W> {
        let (_, number) = *self.times.first()?;
        self.remove(number)
    }

    pub fn remove(&mut self, number: u64) -> Option<W> {
        let at = self.waiters.binary_search_by_key(&number, |(ticket, _)| ticket.number).ok()?;
        let (ticket, waiter) = self.waiters.remove(at)?;
        self.times.remove(&(ticket.until, number));
        Some(waiter)
    }

    /// All of them, as they came.
    pub fn drain(&mut self) -> impl Iterator<Item = W> {
        self.times.clear();
        self.waiters.drain(..).map(|(_, waiter)| waiter)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As with a list that is searched for each.
        #[test]
        fn everybody_leaves_once_and_in_order(steps in proptest::collection::vec((0u8..6, 0u64..9), 1..60)) {
            let (mut line, mut model) = (Line::default(), Vec::<(u64, u64)>::new());
            for (number, (step, until)) in steps.into_iter().enumerate() {
                let number = number as u64;
                let (left, expected) = match step {
                    0..=2 => {
                        line.enter(number, until, number);
                        model.push((until, number));
                        (None, None)
                    }
                    3 => (line.pop_first(), model.first().copied()),
                    4 => (line.pop_shortest(), model.iter().min().copied()),
                    _ => {
                        let one = model.get(until as usize).copied();
                        (line.remove(one.map_or(number, |(_, number)| number)), one)
                    }
                };
                prop_assert_eq!(left, expected.map(|(_, number)| number));
                model.retain(|one| Some(*one) != expected);
                prop_assert_eq!((line.len(), line.is_empty()), (model.len(), model.is_empty()));
                prop_assert_eq!(line.times.len(), model.len());
                prop_assert_eq!(line.first().map(|(number, _)| number), model.first().map(|(_, number)| *number));
            }
            prop_assert!(line.drain().eq(model.iter().map(|(_, number)| *number)) && line.times.is_empty());
        }
    }
}
