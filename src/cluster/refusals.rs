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
    /// By fingerprint.
    kept: Mutex<LruCache<u128, Refusal>>,
}

#[derive(Debug)]
struct Refusal {
    /// Of the schema: a function may have been made anew since.
    generation: u64,
    /// The process id of the session that was refused.
    by: i32,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { any: AtomicBool::new(false), kept: Mutex::new(LruCache::new(KEPT)) }
    }
}

impl Refusals {
    pub fn add(&self, text: &[u8], generation: u64, by: i32) {
        let refusal = Refusal { generation, by };
        let fingerprint = fingerprint(text);
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).put(fingerprint, refusal);
        self.any.store(true, Ordering::Release);
    }

    pub fn has(&self, text: &[u8], generation: u64) -> bool {
        if !self.any.load(Ordering::Acquire) {
            return false;
        }
        // Before the lock: texts may be long.
        let fingerprint = fingerprint(text);
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&fingerprint).is_some_and(|refusal| refusal.generation == generation)
    }

    /// The primary has refused what this session was refused by a replica: it was no replica's matter.
    pub fn take_back(&self, by: i32) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let of_session: Vec<_> =
            kept.iter().filter(|(_, refusal)| refusal.by == by).map(|(fingerprint, _)| *fingerprint).collect();
        for fingerprint in of_session {
            kept.pop(&fingerprint);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_known_by_its_form_until_the_schema_changes() {
        let refusals = Refusals::default();
        assert!(!refusals.has(b"SELECT f(1)", 7));
        refusals.add(b"SELECT f(1)", 7, 1);
        assert!(refusals.has(b"select f(2) -- again", 7));
        assert!(!refusals.has(b"SELECT g(1)", 7) && !refusals.has(b"SELECT f(1)", 8));
    }

    #[test]
    fn what_the_primary_refuses_as_well_is_forgotten() {
        let refusals = Refusals::default();
        refusals.add(b"SELECT f(1)", 7, 1);
        refusals.add(b"SELECT g(1)", 7, 2);
        refusals.take_back(1);
        assert!(!refusals.has(b"SELECT f(1)", 7) && refusals.has(b"SELECT g(1)", 7));
    }
}
