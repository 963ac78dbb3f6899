//! Prepared statements that sessions share: one [`Statement`] per text and parameter types, under a
//! server-side name of ours, and per server connection the set of those that it has ([`Prepared`]).

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use lru::LruCache;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// What the names of our statements on server connections begin with.
pub const OUR_NAMES: &str = "pgweir_";

/// Added to a statement's text for what PostgreSQL keeps beside it; a round figure.
const OVERHEAD: usize = 512;

/// The settings under which a statement is parsed: names (`search_path`), the types of its parameters and
/// constants (`TimeZone`, `DateStyle`) are fixed by them (PostgreSQL, "PREPARE").
#[derive(Debug, Clone, Copy)]
pub enum Environment {
    /// By a hash of them.
    Known(u64),
    /// They may have been changed in a way that is not known yet.
    Unknown,
}

impl Environment {
    pub fn is(self, other: Self) -> bool {
        matches!((self, other), (Self::Known(one), Self::Known(two)) if one == two)
    }
}

/// A statement that some client prepared by name.
#[derive(Debug)]
pub struct Statement {
    id: u64,
    environment: Environment,
    server_name: Box<[u8]>,
    /// Its name is a client's.
    own: bool,
    /// Text, NUL, and parameter types: the rest of its `Parse` after the name.
    identity: Box<[u8]>,
}

impl Statement {
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The name that it has on server connections.
    pub fn server_name(&self) -> &[u8] {
        &self.server_name
    }

    /// On the server connection that has it, it goes by its client's name for it ([`Statements::own`]).
    pub fn is_own(&self) -> bool {
        self.own
    }

    /// See [`crate::wire::view::Parse::identity`].
    pub fn identity(&self) -> &[u8] {
        &self.identity
    }

    /// Where it is prepared, it was parsed under these settings.
    pub fn environment(&self) -> Environment {
        self.environment
    }

    /// The statement as the client wrote it.
    pub fn text(&self) -> &[u8] {
        crate::wire::view::cstring(&self.identity).map_or(&[], |(text, _)| text)
    }

    /// Bytes that it is charged for.
    pub fn cost(&self) -> usize {
        self.identity.len() + OVERHEAD
    }
}

/// All statements that clients of one database and user hold, so that those that are equal under equal
/// settings are one.
/// A statement that nobody holds any more is forgotten.
#[derive(Debug, Default)]
pub struct Statements {
    by_hash: Mutex<HashMap<u128, Weak<Statement>>>,
    next: AtomicU64,
}

impl Statements {
    /// The statement with this text and these types. Under settings that are not known it is nobody else's.
    pub fn intern(&self, identity: &[u8], environment: Environment) -> Arc<Statement> {
        let Environment::Known(seed) = environment else { return self.make(identity, environment) };
        let hash = xxh3_128_with_seed(identity, seed);
        let mut by_hash = self.by_hash.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_hash.get(&hash).and_then(Weak::upgrade)
            && *known.identity == *identity
        {
            return known;
        }
        if by_hash.len() == by_hash.capacity() {
            by_hash.retain(|_, statement| statement.strong_count() > 0);
        }
        let made = self.make(identity, environment);
        by_hash.insert(hash, Arc::downgrade(&made));
        made
    }

    /// A statement that is on one server connection under its client's own name, and so is nobody else's.
    pub fn own(&self, identity: &[u8], name: &[u8]) -> Arc<Statement> {
        let (id, environment) = (self.next_id(), Environment::Unknown);
        Arc::new(Statement { id, environment, server_name: name.into(), own: true, identity: identity.into() })
    }

    fn make(&self, identity: &[u8], environment: Environment) -> Arc<Statement> {
        let id = self.next_id();
        let server_name = server_name(id).into_bytes().into();
        Arc::new(Statement { id, environment, server_name, own: false, identity: identity.into() })
    }

    fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// What one server connection has prepared, bounded in bytes, least recently used first out.
#[derive(Debug)]
pub struct Prepared {
    kept: LruCache<u64, Kept>,
    bytes: usize,
}

/// A statement that a server connection has.
#[derive(Debug, Clone, Copy)]
pub struct Kept {
    cost: usize,
    /// See [`Statement::is_own`].
    own: bool,
    /// Its `Parse` brought a notice, as every `Parse` of it would.
    noticed: bool,
    /// The schema's generation when it was parsed.
    pub generation: u64,
    /// It keeps that: where the schema has changed it since, the server fails the statement.
    pub shape: Shape,
}

/// What a `Describe` tells of a statement, each by a hash, where it was told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    pub parameters: Option<u64>,
    pub rows: Option<u64>,
}

impl Shape {
    /// Stands for a description that is too long to be looked at: nobody knows it.
    pub const TOO_LONG: u64 = 0;

    /// Is a statement of this shape what somebody expects who was told `told`? `None` where only a `Describe` can
    /// show it.
    pub fn agrees_with(self, told: Self) -> Option<bool> {
        let pairs = [(self.parameters, told.parameters), (self.rows, told.rows)];
        let expected = || pairs.into_iter().filter(|(_, told)| told.is_some());
        if expected().any(|(known, told)| known.is_some() && known != told) {
            return Some(false);
        }
        expected().all(|(known, _)| known.is_some()).then_some(true)
    }
}

impl Kept {
    fn new(cost: usize, own: bool, generation: u64) -> Self {
        Self { cost, own, noticed: false, generation, shape: Shape::default() }
    }
}

impl Default for Prepared {
    fn default() -> Self {
        Self { kept: LruCache::unbounded(), bytes: 0 }
    }
}

impl Prepared {
    /// The statement, if the connection has it, and not since an earlier generation of the schema than `since`. It
    /// then counts as used.
    pub fn touch(&mut self, id: u64, since: u64) -> Option<Kept> {
        self.kept.get(&id).filter(|kept| kept.generation >= since).copied()
    }

    /// Where to enter what the server tells of it.
    pub fn shape_mut(&mut self, id: u64) -> Option<&mut Shape> {
        self.kept.peek_mut(&id).map(|kept| &mut kept.shape)
    }

    /// True when it has it, and a `Parse` of it could tell the client nothing but that it is complete.
    pub fn touch_silent(&mut self, id: u64, since: u64) -> bool {
        self.kept.get(&id).is_some_and(|kept| !kept.noticed && kept.generation >= since)
    }

    /// Its `Parse` brought a notice.
    pub fn noticed(&mut self, id: u64) {
        if let Some(kept) = self.kept.peek_mut(&id) {
            kept.noticed = true;
        }
    }

    pub fn insert(&mut self, statement: &Statement, generation: u64) {
        self.remove(statement.id);
        self.kept.put(statement.id, Kept::new(statement.cost(), statement.own, generation));
        self.bytes += statement.cost();
    }

    /// It is too old for everybody, and still there.
    pub fn retire(&mut self, id: u64) {
        if let Some(kept) = self.kept.peek_mut(&id) {
            kept.generation = 0;
        }
    }

    pub fn remove(&mut self, id: u64) {
        if let Some(kept) = self.kept.pop(&id) {
            self.bytes -= kept.cost;
        }
    }

    /// The connection has it after all: it was to be closed there, and was not. It is too old for everybody.
    pub fn restore(&mut self, id: u64, cost: usize) {
        if !self.kept.contains(&id) {
            self.kept.put(id, Kept::new(cost, false, 0));
            self.bytes += cost;
        }
    }

    /// What was parsed after this generation of the schema is too old for everybody.
    pub fn outdate(&mut self, after: u64) {
        self.kept.iter_mut().filter(|(_, kept)| kept.generation > after).for_each(|(_, kept)| kept.generation = 0);
    }

    /// Takes out the one that was not used for longest, as long as there are more than `limit` bytes
    /// and more than one statement. The caller closes it on the server. Its id and its cost.
    pub fn evict(&mut self, limit: usize) -> Option<(u64, usize)> {
        if self.bytes <= limit || self.kept.len() <= 1 {
            return None;
        }
        let (id, Kept { cost, .. }) = self.kept.pop_lru()?;
        self.bytes -= cost;
        Some((id, cost))
    }

    pub fn has(&self, id: u64) -> bool {
        self.kept.contains(&id)
    }

    /// Takes out the others.
    pub fn retain(&mut self, keep: impl Fn(u64) -> bool) {
        self.take(|id, _| !keep(id));
    }

    /// Takes out those that have a client's name.
    pub fn forget_own(&mut self) {
        self.take(|_, kept| kept.own);
    }

    /// Takes out those that have a name of ours. Their ids and costs.
    pub fn take_shared(&mut self) -> Vec<(u64, usize)> {
        self.take(|_, kept| !kept.own)
    }

    fn take(&mut self, wanted: impl Fn(u64, &Kept) -> bool) -> Vec<(u64, usize)> {
        let taken = self.kept.iter().filter(|(id, kept)| wanted(**id, kept));
        let taken: Vec<_> = taken.map(|(id, kept)| (*id, kept.cost)).collect();
        taken.iter().for_each(|(id, _)| self.remove(*id));
        taken
    }

    pub fn clear(&mut self) {
        self.kept.clear();
        self.bytes = 0;
    }
}

/// The server-side name of a statement of which only the id is known.
pub fn server_name(id: u64) -> String {
    format!("{OUR_NAMES}{id}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_statements_are_one_until_nobody_holds_them() {
        let statements = Statements::default();
        let usual = Environment::Known(0);
        let first = statements.intern(b"SELECT 1\0\0\0", usual);
        assert_eq!(first.id(), statements.intern(b"SELECT 1\0\0\0", usual).id());
        assert_ne!(first.id(), statements.intern(b"SELECT 2\0\0\0", usual).id());
        let id = first.id();
        drop(first);
        assert_ne!(id, statements.intern(b"SELECT 1\0\0\0", usual).id());
    }

    #[test]
    fn equal_texts_under_other_settings_are_not_one() {
        let statements = Statements::default();
        let id = |environment| statements.intern(b"SELECT timestamptz '2020-01-01'\0\0\0", environment).id();
        let kept = statements.intern(b"SELECT timestamptz '2020-01-01'\0\0\0", Environment::Known(1));
        assert_eq!(kept.id(), id(Environment::Known(1)));
        assert_ne!(kept.id(), id(Environment::Known(2)));
        assert_ne!(id(Environment::Unknown), id(Environment::Unknown));
    }

    #[test]
    fn what_a_transaction_has_parsed_after_its_own_change_is_out_of_date_behind_it() {
        let statements = Statements::default();
        let mut prepared = Prepared::default();
        let [before, inside] = [4, 5].map(|generation| {
            let statement = statements.intern(format!("SELECT {generation}\0\0\0").as_bytes(), Environment::Unknown);
            prepared.insert(&statement, generation);
            statement.id()
        });
        let generations =
            |prepared: &mut Prepared| [before, inside].map(|id| prepared.touch(id, 4).map(|kept| kept.generation));
        assert_eq!(generations(&mut prepared), [Some(4), Some(5)]);
        prepared.outdate(4);
        assert_eq!(generations(&mut prepared), [Some(4), None]);
        prepared.retire(before);
        assert_eq!(generations(&mut prepared), [None, None]);
        assert_eq!(prepared.take_shared().len(), 2);
    }

    #[test]
    fn a_statement_is_as_expected_when_all_that_was_told_is_the_same() {
        let shape = |parameters, rows| Shape { parameters, rows };
        let nothing = Shape::default();
        assert_eq!(nothing.agrees_with(nothing), Some(true));
        assert_eq!(shape(Some(1), Some(2)).agrees_with(nothing), Some(true));
        assert_eq!(nothing.agrees_with(shape(None, Some(2))), None);
        assert_eq!(shape(None, Some(2)).agrees_with(shape(Some(1), Some(2))), None);
        assert_eq!(shape(None, Some(3)).agrees_with(shape(Some(1), Some(2))), Some(false));
        assert_eq!(shape(Some(1), Some(2)).agrees_with(shape(None, Some(2))), Some(true));
        assert_eq!(shape(Some(1), Some(2)).agrees_with(shape(Some(3), Some(2))), Some(false));
    }

    #[test]
    fn the_set_is_bounded_in_bytes() {
        let statements = Statements::default();
        let mut prepared = Prepared::default();
        let made: Vec<_> =
            (0..3).map(|i| statements.intern(format!("SELECT {i}\0\0\0").as_bytes(), Environment::Known(0))).collect();
        made.iter().for_each(|statement| prepared.insert(statement, 1));
        assert!(prepared.touch(made[0].id(), 2).is_none());
        assert!(prepared.touch(made[0].id(), 1).is_some());
        let limit = 2 * made[0].cost();
        assert_eq!(prepared.evict(limit), Some((made[1].id(), made[1].cost())));
        assert_eq!(prepared.evict(limit), None);
        assert!(prepared.touch(made[1].id(), 0).is_none());
    }
}
