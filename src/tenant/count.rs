//! Places of which there are so many, taken and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many places are taken. Only the number is shared: no other memory is published with it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Count(Arc<AtomicUsize>);

/// One place, given back when dropped.
#[derive(Debug)]
pub struct Taken(Count);

impl Count {
    /// Takes one of `most`.
    ///
    /// Errors: how many are taken.
    pub fn take(&self, most: usize) -> Result<Taken, usize> {
        let next = |taken| (taken < most).then(|| taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).map(|_| Taken(self.clone()))
    }

    /// How many are taken.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_there_are_and_each_comes_back() {
        let count = Count::default();
        let taken = [count.take(2).unwrap(), count.clone().take(2).unwrap()];
        assert_eq!(count.take(2).unwrap_err(), 2);
        assert_eq!(count.get(), 2);
        drop(taken);
        assert_eq!(count.get(), 0);
        assert!(count.take(0).is_err() && count.take(1).is_ok());
    }
}
