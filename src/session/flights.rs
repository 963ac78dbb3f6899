//! Batches under way whose bytes are still held: the one that is answered next, and those sent behind it. As long as
//! the client has seen nothing of an answer, that batch and all behind it can be run again elsewhere.

use std::collections::VecDeque;
use std::sync::Arc;

use super::statements::{Named, Unnamed};

/// Oldest first.
#[derive(Debug, Default)]
pub(super) struct Flights {
    /// Most often there is only one, which costs no storage of its own.
    front: Option<Flight>,
    behind: Option<Box<Behind>>,
}

/// Only a client that pipelines pays for it.
type Behind = VecDeque<Flight>;

#[derive(Debug, Default)]
struct Flight {
    /// Bytes of the client's that are held for it.
    len: usize,
    /// What it has changed in the session's statements.
    before: Option<Box<Before>>,
}

/// What a session's statements were before a batch that may be run again.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// What names stood for, oldest first.
    pub names: Vec<(Arc<[u8]>, Option<Named>)>,
    pub unnamed: Option<Unnamed>,
}

impl Flights {
    /// A batch of `len` bytes, the first.
    pub fn first(len: usize) -> Self {
        Self { front: Some(Flight { len, before: None }), behind: None }
    }

    /// Nothing is held: what is under way stays where it is.
    pub fn is_empty(&self) -> bool {
        self.front.is_none()
    }

    /// Bytes that are held.
    pub fn bytes(&self) -> usize {
        self.front.iter().chain(self.behind.iter().flat_map(|behind| behind.iter())).map(|flight| flight.len).sum()
    }

    /// A batch is sent behind those under way. Where nothing is held of these, they are one that stays.
    pub fn join(&mut self, len: usize) {
        self.front.get_or_insert_default();
        self.behind.get_or_insert_default().push_back(Flight { len, before: None });
    }

    /// What the batch that is being sent changes is remembered here.
    pub fn before(&mut self) -> Option<&mut Before> {
        let newest = self.behind.as_mut().and_then(|behind| behind.back_mut()).or(self.front.as_mut())?;
        Some(newest.before.get_or_insert_default())
    }

    /// The same for the one that is being answered.
    pub fn front_before(&mut self) -> Option<&mut Before> {
        Some(self.front.as_mut()?.before.get_or_insert_default())
    }

    /// The client has seen a part of the answer to the first. Returns how many bytes are held no longer.
    pub fn front_stays(&mut self) -> usize {
        if self.behind.as_ref().is_none_or(|behind| behind.is_empty()) {
            return self.front_is_over();
        }
        self.front.as_mut().map_or(0, |front| std::mem::take(&mut front.len))
    }

    /// The first is answered. Returns how many bytes are held no longer.
    pub fn front_is_over(&mut self) -> usize {
        let next = self.behind.as_mut().and_then(|behind| behind.pop_front());
        std::mem::replace(&mut self.front, next).map_or(0, |front| front.len)
    }

    /// Nothing is run again.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// What they have changed, newest first.
    pub fn undo(self) -> impl Iterator<Item = Before> {
        let oldest_first = self.front.into_iter().chain(self.behind.into_iter().flat_map(|behind| *behind));
        oldest_first.filter_map(|flight| flight.before).map(|before| *before).collect::<Vec<_>>().into_iter().rev()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(flights: &mut Flights, name: &[u8]) {
        flights.before().unwrap().names.push((name.into(), None));
    }

    #[test]
    fn what_is_answered_is_let_go_from_the_front() {
        let mut flights = Flights::first(10);
        flights.join(20);
        flights.join(30);
        assert_eq!(flights.bytes(), 60);
        assert_eq!((flights.front_stays(), flights.bytes()), (10, 50));
        assert_eq!((flights.front_is_over(), flights.bytes()), (0, 50));
        assert_eq!((flights.front_is_over(), flights.bytes()), (20, 30));
        assert_eq!(flights.front_stays(), 30);
        assert!(flights.is_empty());
    }

    #[test]
    fn the_newest_change_is_undone_first() {
        let mut flights = Flights::first(1);
        note(&mut flights, b"a");
        flights.join(1);
        note(&mut flights, b"b");
        flights.front_before().unwrap().names.push((b"c"[..].into(), None));
        let names: Vec<_> = flights.undo().flat_map(|before| before.names.into_iter().rev()).collect();
        let names: Vec<_> = names.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, [b"b", b"c", b"a"]);
    }

    #[test]
    fn behind_a_batch_that_stays_the_next_may_be_held() {
        let mut flights = Flights::default();
        flights.join(7);
        assert_eq!((flights.bytes(), flights.is_empty()), (7, false));
        assert_eq!(flights.front_is_over(), 0);
        assert_eq!((flights.bytes(), flights.is_empty()), (7, false));
    }
}
