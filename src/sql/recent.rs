//! Verdicts on texts that were judged a moment ago: drivers and mappers send the same few texts over and over, their
//! constants apart. A hit costs a hash of the text.

use std::cell::RefCell;

use xxhash_rust::xxh3::{xxh3_64_with_seed, xxh3_128_with_seed};

use super::Verdict;
use super::catalog::Scope;

/// Places in each thread's memory, of 48 bytes each; every text has one of them, which it takes from whoever had it.
const PLACES: usize = 2048;

thread_local! {
    static MEMORY: RefCell<Vec<Option<(u128, Verdict)>>> = const { RefCell::new(Vec::new()) };
}

/// What one text means under one catalog and `search_path`.
#[derive(Clone, Copy)]
pub struct Key(u128);

impl Key {
    /// `seed` is secret, so that nobody can make two texts that pass for one.
    pub fn new(seed: u64, catalog: u64, scope: Scope<'_>, sql: &[u8]) -> Self {
        let around = match scope {
            Scope::Session(path) => path.map_or(seed, |path| xxh3_64_with_seed(path.as_bytes(), seed)),
            Scope::Any => !seed,
        };
        Self(xxh3_128_with_seed(sql, around ^ catalog))
    }

    pub fn recall(self) -> Option<Verdict> {
        MEMORY.with_borrow(|places| match places.get(self.place()) {
            Some(Some((key, verdict))) if *key == self.0 => Some(*verdict),
            _ => None,
        })
    }

    pub fn remember(self, verdict: Verdict) {
        MEMORY.with_borrow_mut(|places| {
            if places.is_empty() {
                places.resize(PLACES, None);
            }
            places[self.place()] = Some((self.0, verdict));
        });
    }

    fn place(self) -> usize {
        self.0 as usize % PLACES
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::Reason;

    #[test]
    fn a_text_is_recalled_for_its_own_catalog_and_path_alone() {
        let key = |catalog, path| Key::new(1, catalog, Scope::Session(path), b"SELECT 1");
        key(1, None).remember(Verdict::opaque(Reason::Write));
        assert_eq!(key(1, None).recall(), Some(Verdict::opaque(Reason::Write)));
        assert!(key(2, None).recall().is_none() && key(1, Some("a")).recall().is_none());
        assert!(Key::new(2, 1, Scope::Session(None), b"SELECT 1").recall().is_none());
        assert!(Key::new(1, 1, Scope::Any, b"SELECT 1").recall().is_none());
        assert!(Key::new(1, 1, Scope::Session(None), b"SELECT 2").recall().is_none());
    }
}
