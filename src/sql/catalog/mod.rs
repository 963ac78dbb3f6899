//! What a database's own catalog says about names: which functions, relations, types and operators must keep
//! a statement off a standby. Immutable once built; sessions share it by `Arc`.
//!
//! A [`Catalog`] is built from the answers to [`CATALOG_QUERIES`], which any role may ask. Anything that is not
//! provably harmless is *tainted*: the curated built-ins ([`builtins`]), and by a fixpoint over bodies and
//! definitions ([`fixpoint`]) every function, view, policy, domain, cast, operator and aggregate that reaches
//! one.

mod builtins;
mod fixpoint;
mod lent;
mod made_up;
mod queries;
mod rows;
mod trust;
mod unasked;

use std::collections::HashSet;

pub use lent::{Lenders, Lent};
pub use queries::{CATALOG_QUERIES, CATALOG_STAMP_QUERY, SYSTEM_RELATIONS};
pub use rows::{CatalogRows, CatalogRowsError};
use unasked::Unasked;

use super::name::{self, NameTable};
use super::{Effects, Reason};

/// The tainted names of one database.
#[derive(Clone, Debug)]
pub struct Catalog {
    /// No other catalog's.
    id: u64,
    generation: u64,
    loaded: bool,
    names: NameTable<Entry>,
    operators: NameTable<Vec<Taint>>,
    /// Operators that a keyword implies (`LIKE`, `IN` …) and that are tainted.
    implied_operators: Vec<Taint>,
    schemas: Vec<Schema>,
    /// Some relation has a column of a composite type or an array of one, or some operator returns one.
    composite_columns: bool,
    /// Somebody made a cast by which built-in types turn into others unasked.
    implicit_casts: bool,
    /// A tainted name is not ASCII, so that the client's encoding matters.
    beyond_ascii: bool,
    /// Something tainted can be reached without naming anything: nothing is a read.
    everything: Option<Taint>,
    /// `pg_type.oid` of the types whose values reach something tainted.
    tainted_types: HashSet<u32>,
    /// A write may notify without saying so.
    writes_may_notify: bool,
    /// There is code that may catch its own cancellation.
    catches_cancels: bool,
    /// There is code that may make settings of timeouts.
    lifts_timeouts: bool,
    /// A write may change the state of its session without saying so.
    writes_change_state: bool,
    /// The same of a change of the schema.
    ddl_changes_state: bool,
    /// Custom settings (`app.tenant`) that such code makes.
    implied_settings: Vec<String>,
    /// It may make others, under names that it makes up.
    makes_up_settings: bool,
    /// What it makes by names that are written out.
    unasked: Option<Box<Unasked>>,
    /// What lends something to its callers.
    lenders: Option<Box<Lenders>>,
}

/// Everything tainted that one name can stand for.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub functions: Vec<TaintedFunction>,
    /// Overloads of those that are harmless.
    pub harmless: Vec<Signature>,
    pub relations: Vec<Taint>,
    pub types: Vec<Taint>,
    /// Row types of relations, which only count where a type is meant.
    pub row_types: Vec<Taint>,
    /// A function of this name returns a row.
    pub returns_row: bool,
    /// Every type of this name is an enumeration.
    pub is_enum: bool,
}

/// Why a name is tainted, and in which schema.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taint {
    pub schema: SchemaId,
    pub reason: Reason,
    pub effects: Effects,
    /// Only among [`Lenders`].
    pub lent: Lent,
}

/// One tainted overload.
#[derive(Clone, Debug)]
pub struct TaintedFunction {
    pub taint: Taint,
    pub signature: Signature,
}

/// The arguments that an overload takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    pub schema: SchemaId,
    /// Without the arguments that have defaults.
    pub least: usize,
    /// `None` if variadic.
    pub most: Option<usize>,
    /// As many as are declared; empty for a curated built-in, of which any call counts.
    pub arguments: Vec<Argument>,
}

/// The type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// `pg_type.oid`.
    pub oid: u32,
    /// `pg_type.typcategory`.
    pub category: u8,
}

impl Argument {
    /// Can a row be passed here? (A composite type, or a pseudo-type such as `anyelement` or `record`.)
    pub fn takes_row(self) -> bool {
        matches!(self.category, b'C' | b'P')
    }
}

impl Signature {
    /// Can it be called with `count` arguments?
    pub fn takes(&self, count: usize) -> bool {
        count >= self.least && self.most.is_none_or(|most| count <= most)
    }
}

/// An index into the catalog's schemas.
pub type SchemaId = u32;

/// `pg_catalog` in every catalog.
pub const PG_CATALOG: SchemaId = 0;

#[derive(Clone, Debug)]
struct Schema {
    name: Box<[u8]>,
    /// A role has the same name, so `"$user"` may mean it.
    role: bool,
    /// Some role's sessions have it in their path by default. When a server connection began, nobody knows.
    by_default: bool,
}

/// Where an unqualified name is looked up.
#[derive(Clone, Copy, Debug)]
pub enum Scope<'a> {
    /// In the schemas of a session's `search_path`; `None` is PostgreSQL's default, `"$user", public`.
    Session(Option<&'a str>),
    /// In any schema: the body of a function runs with whatever path its caller has.
    Any,
}

impl Catalog {
    /// No catalog yet: only statements that name nothing at all are reads.
    pub fn unloaded() -> Catalog {
        let mut catalog = Catalog::empty(0);
        catalog.loaded = false;
        builtins::add(&mut catalog);
        catalog
    }

    /// The catalog that the rows describe. `generation` is the caller's own count.
    pub fn build(generation: u64, rows: CatalogRows) -> Catalog {
        let catalog = fixpoint::build(generation, &rows);
        let unasked = Unasked::build(&rows, catalog.ddl_changes_state);
        Catalog { unasked, lenders: Lenders::build(rows), ..catalog }
    }

    /// A number that no other catalog has, this one's successors included.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The number that [`Catalog::build`] was given; 0 for an unloaded one.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Has it been loaded from a database?
    pub fn is_loaded(&self) -> bool {
        self.loaded
    }

    /// Is the function, relation or type `schema.name` tainted? For reports and tests.
    pub fn is_tainted(&self, schema: &str, name: &str) -> bool {
        let taints = |entry: &Entry| {
            let functions = entry.functions.iter().map(|function| function.taint);
            let others = entry.relations.iter().chain(&entry.types).chain(&entry.row_types).copied();
            functions.chain(others).any(|taint| &*self.schemas[taint.schema as usize].name == schema.as_bytes())
        };
        self.names.get_name(name.as_bytes()).is_some_and(taints)
    }

    fn empty(generation: u64) -> Catalog {
        Catalog {
            id: rand::random(),
            generation,
            loaded: true,
            names: NameTable::default(),
            operators: NameTable::default(),
            implied_operators: Vec::new(),
            schemas: vec![Schema { name: b"pg_catalog".as_slice().into(), role: false, by_default: false }],
            composite_columns: false,
            implicit_casts: false,
            beyond_ascii: false,
            everything: None,
            tainted_types: HashSet::new(),
            writes_may_notify: true,
            catches_cancels: true,
            lifts_timeouts: true,
            writes_change_state: false,
            ddl_changes_state: false,
            implied_settings: Vec::new(),
            makes_up_settings: false,
            unasked: None,
            lenders: None,
        }
    }

    pub(super) fn entry(&self, hash: u32, text: &[u8]) -> Option<&Entry> {
        self.names.get(hash, text)
    }

    pub(super) fn operator(&self, text: &[u8]) -> &[Taint] {
        if self.operators.is_empty() {
            return &[];
        }
        self.operators.get(name::hash_name(text), text).map_or(&[], Vec::as_slice)
    }

    pub(super) fn implied_operators(&self) -> &[Taint] {
        &self.implied_operators
    }

    pub(super) fn everything(&self) -> Option<Taint> {
        self.everything
    }

    /// Does a value of the type with this OID (`pg_type.oid`) reach something tainted?
    pub fn taints_type(&self, oid: u32) -> bool {
        self.tainted_types.contains(&oid)
    }

    /// May a write send a notification by a trigger or a rule, as far as is known?
    pub fn writes_may_notify(&self) -> bool {
        self.writes_may_notify
    }

    /// Is there code that may catch its own cancellation (`EXCEPTION WHEN query_canceled`), as far as is known?
    pub fn catches_cancels(&self) -> bool {
        self.catches_cancels
    }

    /// Is there code that may lift a timeout of its session's, as far as is known?
    pub fn lifts_timeouts(&self) -> bool {
        self.lifts_timeouts
    }

    /// May a write change the state of its session (its settings, locks …) by what it runs without naming it: triggers,
    /// defaults, checks, rules?
    pub fn writes_change_state(&self) -> bool {
        self.writes_change_state
    }

    /// The same of what changes the schema, by triggers of events too.
    pub fn ddl_changes_state(&self) -> bool {
        self.ddl_changes_state
    }

    /// Custom settings (`app.tenant`) that such code is known to make.
    pub fn implied_settings(&self) -> &[String] {
        &self.implied_settings
    }

    /// May it make others, under names that it makes up?
    pub fn makes_up_settings(&self) -> bool {
        self.makes_up_settings
    }

    /// Which of the settings that are `held` (names in lower case) may a write make by code that it does not name?
    /// `Some(None)` where it may be any. `new`: somebody may have made a trigger of any function.
    pub fn set_unasked(&self, new: bool, held: impl Fn(&str) -> bool) -> Option<Option<&str>> {
        self.unasked.as_ref()?.makes(new, held)
    }

    /// The functions that lend something to their callers, if there are any.
    pub(super) fn lenders(&self) -> Option<&Lenders> {
        self.lenders.as_deref()
    }

    pub(super) fn beyond_ascii(&self) -> bool {
        self.beyond_ascii
    }

    pub(super) fn composite_columns(&self) -> bool {
        self.composite_columns
    }

    pub(super) fn implicit_casts(&self) -> bool {
        self.implicit_casts
    }

    /// May a name in `schema` be meant, written with this qualifier (the token's text) or without one?
    pub(super) fn visible(&self, schema: SchemaId, qualifier: Option<&[u8]>, scope: Scope<'_>) -> bool {
        let schema_name = &*self.schemas[schema as usize].name;
        match (qualifier, scope) {
            (Some(qualifier), _) => name::names(qualifier, schema_name),
            (None, Scope::Any) => true,
            (None, Scope::Session(_)) if schema == PG_CATALOG => true,
            (None, Scope::Session(path)) => self.on_path(schema, path),
        }
    }

    fn on_path(&self, schema: SchemaId, path: Option<&str>) -> bool {
        let Schema { name, role, by_default } = &self.schemas[schema as usize];
        if *by_default {
            return true;
        }
        let Some(path) = path else { return *role || &**name == b"public" };
        path_elements(path).any(|element| match element {
            b"$user" | b"\"$user\"" => *role,
            element => name::names(element, name),
        })
    }

    fn schema(&mut self, name: &[u8], role: bool) -> SchemaId {
        if let Some(at) = self.schemas.iter().position(|schema| &*schema.name == name) {
            self.schemas[at].role |= role;
            return at as SchemaId;
        }
        self.schemas.push(Schema { name: name.into(), role, by_default: false });
        (self.schemas.len() - 1) as SchemaId
    }

    /// `paths`: a `search_path` each line.
    fn searches_by_default(&mut self, paths: &str) {
        let named: HashSet<_> = paths.lines().flat_map(path_elements).map(name::spelled).collect();
        let users = named.contains(&b"$user"[..]);
        for schema in &mut self.schemas {
            schema.by_default |= named.contains(&*schema.name) || (users && schema.role);
        }
    }
}

/// Is `pg_catalog` searched before every other schema? It is unless the path names it later.
pub fn pg_catalog_first(scope: Scope<'_>) -> bool {
    match scope {
        Scope::Session(Some(path)) => {
            let place = path_elements(path).position(|element| name::names(element, b"pg_catalog"));
            place.is_none_or(|place| place == 0)
        }
        Scope::Session(None) => true,
        Scope::Any => true,
    }
}

/// The elements of a `search_path`, each as an identifier token. Quotes may hold commas.
fn path_elements(path: &str) -> impl Iterator<Item = &[u8]> {
    let mut quoted = false;
    path.as_bytes()
        .split(move |&byte| {
            quoted ^= byte == b'"';
            byte == b',' && !quoted
        })
        .map(<[u8]>::trim_ascii)
        .filter(|element| !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_path_decides_what_is_visible() {
        let mut catalog = Catalog::empty(1);
        let public = catalog.schema(b"public", false);
        let audit = catalog.schema(b"audit", false);
        let alice = catalog.schema(b"alice", true);
        let usual = catalog.schema(b"Usual", false);
        let seen = |schema, path| catalog.visible(schema, None, Scope::Session(path));
        assert!(seen(public, None) && seen(alice, None) && !seen(audit, None));
        assert!(seen(audit, Some("Audit, public")) && seen(audit, Some(" \"audit\" ")));
        assert!(!seen(audit, Some("\"Audit\", public")) && !seen(audit, Some("\"x,audit\"")));
        assert!(seen(alice, Some("\"$user\"")) && !seen(public, Some("\"$user\"")));
        assert!(seen(PG_CATALOG, Some("audit")));
        assert!(catalog.visible(audit, Some(b"AUDIT"), Scope::Session(None)));
        catalog.searches_by_default("alice\n\"Usual\", pg_catalog");
        let seen = |schema, path| catalog.visible(schema, None, Scope::Session(path));
        assert!(seen(usual, None) && seen(usual, Some("audit")) && !seen(audit, None) && !seen(public, Some("audit")));
        catalog.searches_by_default("\"$user\"");
        assert!(catalog.visible(alice, None, Scope::Session(Some("audit"))));
        assert!(!catalog.visible(audit, Some(b"public"), Scope::Any));
        assert!(pg_catalog_first(Scope::Session(Some("pg_catalog, audit"))));
        assert!(!pg_catalog_first(Scope::Session(Some("audit, pg_catalog"))));
    }
}
