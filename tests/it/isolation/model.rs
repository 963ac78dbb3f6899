//! What a session has made of its settings, and what becomes of that at the end of its transaction.

use std::collections::BTreeMap;

/// Settings by their lower-case names, as `pg_settings` shows them.
pub type Made = BTreeMap<String, String>;

/// PostgreSQL's rules for `SET`, `SET LOCAL` and `RESET` in transactions and their savepoints.
#[derive(Debug, Default)]
pub struct Model {
    now: Level,
    /// Of the transaction and its savepoints, as they were when those began.
    begun: Vec<Level>,
    /// What a `RESET` goes back to.
    base: Made,
}

#[derive(Debug, Default, Clone)]
struct Level {
    seen: Made,
    /// What a `COMMIT` leaves.
    kept: Made,
}

impl Model {
    pub fn new(base: Made) -> Self {
        Self { now: Level { seen: base.clone(), kept: base.clone() }, begun: Vec::new(), base }
    }

    pub fn seen(&self) -> &Made {
        &self.now.seen
    }

    pub fn set(&mut self, name: &str, value: &str) {
        for made in [&mut self.now.seen, &mut self.now.kept] {
            made.insert(name.to_owned(), value.to_owned());
        }
    }

    /// `SET LOCAL`, which does nothing outside of transactions.
    pub fn set_local(&mut self, name: &str, value: &str) {
        if self.is_in_transaction() {
            self.now.seen.insert(name.to_owned(), value.to_owned());
        }
    }

    pub fn reset(&mut self, name: &str) {
        let base = self.base.get(name).cloned();
        for made in [&mut self.now.seen, &mut self.now.kept] {
            match &base {
                Some(value) => made.insert(name.to_owned(), value.clone()),
                None => made.remove(name),
            };
        }
    }

    /// `BEGIN`, `SAVEPOINT`.
    pub fn begin(&mut self) {
        self.begun.push(self.now.clone());
    }

    pub fn release(&mut self) {
        self.begun.pop().expect("a savepoint");
    }

    pub fn roll_back_to(&mut self) {
        self.now = self.begun.last().expect("a savepoint").clone();
    }

    pub fn commit(&mut self) {
        self.begun.clear();
        self.now.seen = self.now.kept.clone();
    }

    pub fn roll_back(&mut self) {
        self.now = self.begun.drain(..).next().expect("a transaction");
    }

    pub fn is_in_transaction(&self) -> bool {
        !self.begun.is_empty()
    }

    pub fn has_savepoint(&self) -> bool {
        self.begun.len() > 1
    }
}
