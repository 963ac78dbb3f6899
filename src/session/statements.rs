//! The client's prepared statements: its names for them, and what has to be undone when the server
//! did not carry a message out.

use std::collections::HashMap;
use std::sync::Arc;

use crate::pool::{Environment, Shape, Statement, Statements};
use crate::sql::Verdict;

/// A statement as one client knows it.
#[derive(Debug, Clone)]
pub struct Named {
    /// The client's name for it.
    pub name: Arc<[u8]>,
    pub statement: Arc<Statement>,
    /// The schema's generation when the client parsed it, or was last told of its rows.
    pub parsed: u64,
    /// What the client was told of it.
    pub told: Shape,
    /// Judged under the catalog of this generation, and under these settings.
    pub verdict: Verdict,
    pub generation: u64,
    pub environment: Environment,
}

/// A statement that a message is about: what the client calls it, and which one that was at the time.
#[derive(Debug, Clone)]
pub struct Used {
    pub name: Arc<[u8]>,
    pub id: u64,
}

impl Named {
    pub fn used(&self) -> Used {
        Used { name: self.name.clone(), id: self.statement.id() }
    }
}

/// The unnamed statement, which lives until the next `Parse` of it or the next simple `Query`.
#[derive(Debug, Clone, Default)]
pub enum Unnamed {
    #[default]
    None,
    /// Its `Parse` after the name, so that it can be repeated on another connection.
    Kept { identity: Vec<u8>, verdict: Verdict },
    /// Too long to be kept: only the connection that got it has it.
    TooLong,
}

impl Unnamed {
    /// As the client wrote it; empty where there is none, or it is too long to be kept.
    pub fn text(&self) -> &[u8] {
        match self {
            Self::Kept { identity, .. } => crate::wire::view::cstring(identity).map_or(&[], |(text, _)| text),
            Self::None | Self::TooLong => &[],
        }
    }
}

/// What a message changed in our books before the server confirmed it.
#[derive(Debug)]
pub enum Change {
    /// The client's name stood for this before; and the server connection was given a statement.
    Name { name: Box<[u8]>, before: Option<Named>, prepared: Option<u64> },
    /// A server connection was given this statement.
    Prepared(u64),
    /// Nothing; the message was about this statement.
    Uses(Used),
    /// The same, and it expects the rows that the client was told of.
    ReliesOn(Used),
    /// Nothing; it asks what this statement is like on a server connection.
    Checks(Used),
    /// A statement of this cost was closed on a server connection.
    Closed { id: u64, cost: usize },
    /// A `Parse` or `Close` of the unnamed statement: what it was before, where the message may be
    /// skipped, and whether the server connection's was this session's.
    Unnamed { before: Option<Box<Unnamed>>, had: bool },
    /// The server connection's unnamed statement was made this session's.
    HasUnnamed,
}

impl Change {
    /// Of the unnamed statement: what it was before, and whether the connection's was this session's.
    pub fn unnamed_mut(&mut self) -> Option<(Option<&mut Box<Unnamed>>, &mut bool)> {
        match self {
            Self::Unnamed { before, had } => Some((before.as_mut(), had)),
            _ => None,
        }
    }
}

/// The client's names.
#[derive(Debug, Default)]
pub struct Names {
    by_name: HashMap<Box<[u8]>, Named>,
    /// Bytes of text that the names keep alive.
    bytes: usize,
}

impl Names {
    pub fn get(&self, name: &[u8]) -> Option<&Named> {
        self.by_name.get(name)
    }

    pub fn has(&self, name: &[u8]) -> bool {
        self.by_name.contains_key(name)
    }

    pub fn get_mut(&mut self, name: &[u8]) -> Option<&mut Named> {
        self.by_name.get_mut(name)
    }

    /// Sets or (with `None`) removes a name; returns what it stood for.
    pub fn set(&mut self, name: &[u8], named: Option<Named>) -> Option<Named> {
        let cost = |named: &Named| name.len() + named.statement.cost();
        self.bytes += named.as_ref().map_or(0, cost);
        let before = match named {
            Some(named) => self.by_name.insert(name.into(), named),
            None => self.by_name.remove(name),
        };
        self.bytes -= before.as_ref().map_or(0, cost);
        before
    }

    /// Goes on with the statements of another pool.
    pub fn adopt(&mut self, statements: &Statements) {
        for named in self.by_name.values_mut() {
            named.statement = statements.intern(named.statement.identity(), named.statement.environment());
        }
    }

    /// Forgets the others.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &Named) -> bool) {
        let gone: Vec<_> =
            self.by_name.iter().filter(|(name, named)| !keep(name, named)).map(|(name, _)| name.clone()).collect();
        for name in gone {
            self.set(&name, None);
        }
    }

    /// All names, in the order of the alphabet.
    pub fn all(&self) -> Vec<Vec<u8>> {
        let mut names: Vec<_> = self.by_name.keys().map(|name| name.to_vec()).collect();
        names.sort_unstable();
        names
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
