//! Statements that a replica has refused, though they were taken for reads: the next one like it goes to the primary
//! without asking again.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

use crate::sql::fingerprint;

/// Fingerprints that are kept; each was a mistake of the classifier's, of which there are few.
const KEPT: NonZero<usize> = NonZero::new(1024).unwrap();

/// Of one database and user, the least recently used first out.
#[derive(Debug)]
pub struct Refusals {
    /// There are any: whoever reads does not pay for an empty set.
    any: AtomicBool,
    /// By fingerprint, with the schema's generation: a function may have been made anew since.
    kept: Mutex<LruCache<u128, u64>>,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), kept: Mutex::new(LruCache::new(KEPT)) }
    }
}

impl Refusals {
    pub fn add(&self, text: &[u8], generation: u64) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(fingerprint(text), generation);
        self.any.store(true, Ordering::Release);
    }

    pub fn has(&self, text: &[u8], generation: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&fingerprint(text)) == Some(&generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_known_by_its_form_until_the_schema_changes() {
        let refusals = Refusals::default();
        assert!(!refusals.has(b"SELECT f(1)", 7));
        refusals.add(b"SELECT f(1)", 7);
        assert!(refusals.has(b"select f(2) -- again", 7));
        assert!(!refusals.has(b"SELECT g(1)", 7) && !refusals.has(b"SELECT f(1)", 8));
    }
}
