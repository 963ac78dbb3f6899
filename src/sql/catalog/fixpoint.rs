//! From a database's rows to its tainted names, to a fixpoint.
//!
//! Starts with what is tainted by itself (built-ins, code that can't be read, sequences, unlogged and foreign
//! tables). Then the bodies and definitions of everything else are judged with the names found so far, by
//! the same lexer that judges statements, until a round finds nothing new. Reasons and effects only grow, so
//! it ends.

use std::collections::{BTreeSet, HashMap};

use super::rows::{CatalogRows, FunctionRow, RelationRow};
use super::{Catalog, Lent, PG_CATALOG, Scope, Signature, Taint, TaintedFunction, builtins, made_up, trust};
use crate::sql::classify::judge;
use crate::sql::keyword::Keyword;
use crate::sql::lexer::Reading;
use crate::sql::names::{self, ANYTHING, Found, Text};
use crate::sql::tokens::Tokens;
use crate::sql::{Effects, Reason, custom_settings};

/// What is known so far about objects, by OID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    functions: HashMap<u32, Found>,
    types: HashMap<u32, Found>,
    relations: HashMap<u32, Found>,
}

/// The first OID that PostgreSQL gives to what users create (`FirstNormalObjectId`).
pub(super) const FIRST_USER_OID: u32 = 16384;

pub(super) fn build(generation: u64, rows: &CatalogRows) -> Catalog {
    let (catalog, known) = settle(base(generation, rows), rows, Known::default(), |_| true);
    with_implied(catalog, rows, &known)
}

/// A catalog of nothing but what reaches the functions that lend this, by OID.
pub(super) fn lenders(mut rows: CatalogRows, lent: HashMap<u32, Lent>) -> Catalog {
    let (base, known) = reaching(&rows, lent);
    // The others would only take room.
    rows.functions.retain(|function| known.functions.contains_key(&function.oid));
    with_known(base, &rows, &known)
}

/// What the code that writes run without naming it reaches of what these functions lend, by OID.
pub(super) fn lent_unasked(rows: &CatalogRows, lent: HashMap<u32, Lent>) -> Lent {
    let (_, known) = reaching(rows, lent);
    let reached = rows.implied.iter().filter_map(|(oid, ..)| known.functions.get(oid));
    reached.fold(Lent::NOTHING, |lent, found| lent | found.lent)
}

/// An empty catalog, and what reaches the functions that lend this.
fn reaching(rows: &CatalogRows, lent: HashMap<u32, Lent>) -> (Catalog, Known) {
    let mut base = Catalog::empty(0);
    for schema in &rows.schemas {
        base.schema(schema.name.as_bytes(), schema.role);
    }
    base.searches_by_default(&rows.default_paths);
    let functions = lent.into_iter().map(|(oid, lent)| (oid, Found { lent, ..Found::default() })).collect();
    let known = Known { functions, ..Known::default() };
    let (_, known) = settle(base.clone(), rows, known, |found| !found.lent.is_nothing());
    (base, known)
}

/// Round after round until one finds nothing new that is to be kept.
fn settle(base: Catalog, rows: &CatalogRows, mut known: Known, keeps: impl Fn(&Found) -> bool) -> (Catalog, Known) {
    loop {
        let catalog = with_known(base.clone(), rows, &known);
        let mut next = round(rows, &catalog, &known);
        for found in [&mut next.functions, &mut next.types, &mut next.relations] {
            found.retain(|_, found| keeps(found));
        }
        if next == known {
            return (catalog, known);
        }
        known = next;
    }
}

/// Schemas and built-ins.
fn base(generation: u64, rows: &CatalogRows) -> Catalog {
    let mut catalog = Catalog::empty(generation);
    catalog.writes_may_notify = rows.writes_may_notify;
    catalog.catches_cancels = rows.catches_cancels;
    catalog.lifts_timeouts = rows.lifts_timeouts;
    for schema in &rows.schemas {
        catalog.schema(schema.name.as_bytes(), schema.role);
    }
    catalog.searches_by_default(&rows.default_paths);
    builtins::add(&mut catalog);
    builtins::add_rows(&mut catalog, &rows.builtins);
    let returns_row = |oid: u32| rows.functions.iter().any(|function| function.oid == oid && function.returns_row);
    catalog.composite_columns = rows.relations.iter().any(|relation| relation.composite_column)
        || rows.operators.iter().any(|operator| returns_row(operator.function));
    catalog.implicit_casts = rows.casts.iter().any(|cast| cast.implicit && cast.source < FIRST_USER_OID);
    for function in rows.functions.iter().filter(|function| function.returns_row) {
        catalog.names.entry(function.name.as_bytes()).returns_row = true;
    }
    for row in rows.types.iter().filter(|row| row.is_enum) {
        catalog.names.entry(row.name.as_bytes()).is_enum = true;
    }
    catalog
}

/// Judges everything once more with the names that `catalog` has.
fn round(rows: &CatalogRows, catalog: &Catalog, known: &Known) -> Known {
    let mut next = known.clone();
    let parts = rows.builtin_parts.iter().map(|(oid, name)| (*oid, name));
    let implied = rows.implied.iter().filter_map(|(oid, name, _)| Some((*oid, name.as_ref()?)));
    for (oid, name) in parts.chain(implied) {
        note(&mut next.functions, oid, judge_builtin(name, catalog));
    }
    for function in &rows.functions {
        note(&mut next.functions, function.oid, judge_function(function, catalog, known));
    }
    for (aggregate, parts) in &rows.aggregates {
        for found in parts.iter().filter_map(|part| known.functions.get(part)) {
            note(&mut next.functions, *aggregate, *found);
        }
    }
    for row in &rows.types {
        let deparsed = Scope::Session(Some(&rows.search_path));
        let checks = row.checks.iter().map(|checks| judge_code(checks.as_bytes(), catalog, deparsed));
        let parts = row.parts.iter().filter_map(|part| known.types.get(part).copied());
        checks.chain(parts).for_each(|found| note(&mut next.types, row.oid, found));
    }
    for (class, function) in &rows.operator_classes {
        if let Some(found) = known.functions.get(function) {
            note(&mut next.types, *class, *found);
        }
    }
    judge_casts(rows, known, &mut next);
    judge_relations(rows, catalog, known, &mut next);
    next
}

fn note(found: &mut HashMap<u32, Found>, oid: u32, new: Found) {
    if new.reason == Reason::Read && new.lent.is_nothing() {
        return;
    }
    let so_far = found.entry(oid).or_insert(new);
    so_far.reason = so_far.reason.worse(new.reason);
    so_far.effects |= new.effects;
    so_far.lent |= new.lent;
}

fn opaque() -> Found {
    Found { reason: Reason::OpaqueFunction, effects: ANYTHING, ..Found::default() }
}

fn worse(one: Found, other: Found) -> Found {
    let (reason, effects) = (one.reason.worse(other.reason), one.effects | other.effects);
    Found { reason, effects, lent: one.lent | other.lent }
}

/// A built-in by its name, whichever of that name it is.
fn judge_builtin(name: &str, catalog: &Catalog) -> Found {
    let taints = catalog.names.get_name(name.as_bytes()).map(|entry| entry.functions.iter()).into_iter().flatten();
    let own = taints.filter(|function| function.taint.schema == PG_CATALOG);
    own.fold(Found::default(), |found, TaintedFunction { taint: Taint { reason, effects, lent, .. }, .. }| {
        worse(found, Found { reason: *reason, effects: *effects, lent: *lent })
    })
}

/// A function by its code, its defaults and the types that it takes and returns.
fn judge_function(function: &FunctionRow, catalog: &Catalog, known: &Known) -> Found {
    if function.aggregate || is_builtin(function) {
        return Found::default();
    }
    let code = match (function.language.as_str(), &function.extension, &function.body) {
        ("sql", _, Some(body)) if is_definition(body) => judge_definition(body.as_bytes(), catalog),
        ("sql", _, Some(body)) => judge_sql(body.as_bytes(), catalog),
        ("plpgsql", _, Some(body)) => judge_code(body.as_bytes(), catalog, Scope::Any),
        ("c" | "internal", Some(extension), _)
            if trust::is_harmless(extension, &function.name, function.volatility) =>
        {
            Found::default()
        }
        _ => opaque(),
    };
    let defaults = function.defaults.iter().map(|defaults| judge_code(defaults.as_bytes(), catalog, Scope::Any));
    let types = function.types.iter().chain([&function.returns]).filter_map(|oid| known.types.get(oid).copied());
    as_function(defaults.chain(types).fold(code, worse))
}

/// Did it come with PostgreSQL? Those of `pg_catalog` are judged by their names, those of `information_schema`
/// only compute.
fn is_builtin(function: &FunctionRow) -> bool {
    function.oid < FIRST_USER_OID
}

/// What a statement does, a function or a view does by being used.
fn as_function(found: Found) -> Found {
    let reason = match found.reason {
        Reason::Write | Reason::Ddl | Reason::RowLock | Reason::SelectInto | Reason::Copy | Reason::Maintenance => {
            Reason::FunctionWrites
        }
        Reason::Malformed | Reason::UnknownStatement | Reason::Oversized | Reason::Procedure => Reason::OpaqueFunction,
        reason => reason,
    };
    // Whoever looks at a view, or at what a function returns, is not taken to look for its server process.
    let process = Effects::PROCESS.with(Effects::PINS);
    let effects =
        if found.effects.intersects(Effects::PROCESS) { found.effects.without(process) } else { found.effects };
    Found { reason, effects, ..found }
}

/// A body in SQL: statements.
fn judge_sql(body: &[u8], catalog: &Catalog) -> Found {
    let tokens = Tokens::read(body, Reading::USUAL);
    if tokens.unterminated || tokens.ambiguous {
        return opaque();
    }
    let judgement = judge(body, &tokens, catalog, Scope::Any);
    let reason = if judgement.reason == Reason::Empty { Reason::Read } else { judgement.reason };
    Found { reason, effects: judgement.effects, lent: judgement.lent }
}

/// PL/pgSQL or an expression.
fn judge_code(code: &[u8], catalog: &Catalog, scope: Scope<'_>) -> Found {
    names::find_in_code(code, catalog, scope).unwrap_or_else(opaque)
}

/// Is this `pg_get_functiondef`'s text, of a function with a body in SQL-standard form?
fn is_definition(body: &str) -> bool {
    body.starts_with("CREATE OR REPLACE ")
}

/// The body in a definition: from `BEGIN ATOMIC` or `RETURN` on.
fn judge_definition(definition: &[u8], catalog: &Catalog) -> Found {
    let tokens = Tokens::read(definition, Reading::USUAL);
    let starts = |at: &usize| {
        let next = tokens.get(at + 1).map_or(Keyword::None, |token| token.keyword);
        let keyword = tokens[*at].keyword;
        keyword == Keyword::Return || (keyword == Keyword::Begin && next == Keyword::Atomic)
    };
    match (0..tokens.len()).find(starts) {
        Some(start) if !tokens.unterminated && !tokens.malformed && !tokens.ambiguous => {
            names::find(definition, &tokens[start..], Text::Code, catalog, Scope::Any)
        }
        _ => opaque(),
    }
}

/// A cast that reaches a tainted function taints the types of the database's own that it joins: a target must be
/// named by an explicit cast, a source is reached through any value of it. Between two built-in types
/// nothing has to be named, and every statement is tainted.
fn judge_casts(rows: &CatalogRows, known: &Known, next: &mut Known) {
    for cast in &rows.casts {
        let Some(found) = known.functions.get(&cast.function).copied() else { continue };
        if cast.target >= FIRST_USER_OID || cast.source < FIRST_USER_OID {
            note(&mut next.types, cast.target, found);
        }
        if cast.source >= FIRST_USER_OID || (cast.implicit && cast.target < FIRST_USER_OID) {
            note(&mut next.types, cast.source, found);
        }
    }
}

/// A trigger's function, which nobody can call (`trigger`, `event_trigger`).
fn is_trigger(function: &FunctionRow) -> bool {
    matches!(function.returns, 2279 | 3838)
}

/// What code does to the session that a write may run without naming it. Functions in C are their superuser's word, and
/// built-ins that change it are all known.
fn with_implied(mut catalog: Catalog, rows: &CatalogRows, known: &Known) -> Catalog {
    let changes_state = |oid: &u32| {
        let found = known.functions.get(oid).filter(|found| found.effects.contains(Effects::STATE));
        found.is_some_and(|found| *oid >= FIRST_USER_OID || found.reason != Reason::UnknownBuiltin)
    };
    let in_c = |oid: u32| {
        let function = rows.functions.iter().find(|function| function.oid == oid);
        function.is_some_and(|function| oid >= FIRST_USER_OID && matches!(function.language.as_str(), "c" | "internal"))
    };
    for (_, _, by_ddl) in rows.implied.iter().filter(|(oid, ..)| changes_state(oid) && !in_c(*oid)) {
        catalog.ddl_changes_state = true;
        catalog.writes_change_state |= !by_ddl;
    }
    if catalog.ddl_changes_state {
        let functions = rows.functions.iter().filter(|function| changes_state(&function.oid));
        let bodies = functions.filter_map(|function| function.body.as_ref());
        // Within the SQL that code puts together, quotes are doubled.
        let texts = bodies.flat_map(|body| [body.clone(), body.replace("''", "'")]);
        let custom: BTreeSet<_> = texts.flat_map(|text| custom_settings(text.as_bytes()).collect::<Vec<_>>()).collect();
        catalog.implied_settings = custom.into_iter().collect();
        let counts = |function: &FunctionRow| changes_state(&function.oid) && !in_c(function.oid);
        catalog.makes_up_settings = made_up::is_in(rows, &catalog, counts);
    }
    catalog
}

fn judge_relations(rows: &CatalogRows, catalog: &Catalog, known: &Known, next: &mut Known) {
    let deparsed = Scope::Session(Some(&rows.search_path));
    let casts_from =
        |oid: u32| rows.casts.iter().any(|cast| cast.source == oid || (cast.implicit && cast.target == oid));
    // A domain over a built-in type checks only what is cast to it by name: as a value it is of its base type.
    let only_checks = |oid: u32| {
        let domain = rows.types.iter().find(|row| row.oid == oid && row.is_domain);
        domain.is_some_and(|row| row.parts.iter().all(|part| *part < FIRST_USER_OID))
            && !casts_from(oid)
            && !rows.operator_classes.iter().any(|(class, _)| *class == oid)
    };
    for relation in &rows.relations {
        let scope = if relation.oid < FIRST_USER_OID { Scope::Session(Some("pg_catalog")) } else { deparsed };
        note(&mut next.relations, relation.oid, judge_relation(relation, catalog, scope));
        for (oid, found) in relation.types.iter().filter_map(|oid| Some((oid, known.types.get(oid)?))) {
            note(&mut next.types, relation.row_type, *found);
            // Values of such a type reach casts, operator classes and checks without its name being written.
            if !only_checks(*oid) {
                note(&mut next.relations, relation.oid, *found);
            }
        }
    }
    for (relation, condition) in &rows.policies {
        note(&mut next.relations, *relation, judge_code(condition.as_bytes(), catalog, deparsed));
    }
    for (relation, function) in &rows.planned {
        if let Some(found) = known.functions.get(function) {
            note(&mut next.relations, *relation, *found);
        }
    }
    for relation in &rows.parents {
        note(&mut next.relations, *relation, Found { reason: Reason::UnavailableRelation, ..Found::default() });
    }
}

fn judge_relation(relation: &RelationRow, catalog: &Catalog, deparsed: Scope<'_>) -> Found {
    if relation.oid < FIRST_USER_OID && builtins::HARMLESS_VIEWS.contains(&relation.name.as_str()) {
        return Found::default();
    }
    let reason = match relation.kind {
        'S' => Reason::Sequence,
        'f' => Reason::UnavailableRelation,
        _ if relation.unlogged => Reason::UnavailableRelation,
        'v' => {
            return relation
                .definition
                .as_ref()
                .map_or_else(opaque, |definition| judge_view(definition.as_bytes(), catalog, deparsed));
        }
        _ => Reason::Read,
    };
    Found { reason, ..Found::default() }
}

/// A view's query, as it is run by whoever reads the view.
fn judge_view(definition: &[u8], catalog: &Catalog, deparsed: Scope<'_>) -> Found {
    let tokens = Tokens::read(definition, Reading::USUAL);
    if tokens.unterminated || tokens.ambiguous {
        return opaque();
    }
    let judgement = judge(definition, &tokens, catalog, deparsed);
    as_function(Found { reason: judgement.reason, effects: judgement.effects, lent: judgement.lent })
}

/// Enters everything known into the table of names.
fn with_known(mut catalog: Catalog, rows: &CatalogRows, known: &Known) -> Catalog {
    let schemas: HashMap<u32, String> = rows.schemas.iter().map(|schema| (schema.oid, schema.name.clone())).collect();
    for function in &rows.functions {
        let Some(schema) = schemas.get(&function.schema) else { continue };
        let schema = catalog.schema(schema.as_bytes(), false);
        let signature = Signature { schema, ..function.signature.clone() };
        let builtin_tainted = is_builtin(function) && catalog.is_tainted("pg_catalog", &function.name);
        let entry = catalog.names.entry(function.name.as_bytes());
        match known.functions.get(&function.oid).filter(|_| !is_builtin(function)) {
            // Whoever makes a trigger names its function.
            Some(found) if is_trigger(function) && found.lent.is_nothing() => {}
            None if is_trigger(function) => {}
            Some(found) => entry.functions.push(TaintedFunction { taint: taint(schema, *found), signature }),
            None if !builtin_tainted => entry.harmless.push(signature),
            None => {}
        }
    }
    for relation in &rows.relations {
        let Some(schema) = schemas.get(&relation.schema) else { continue };
        let schema = catalog.schema(schema.as_bytes(), false);
        if let Some(found) = known.relations.get(&relation.oid) {
            catalog.names.entry(relation.name.as_bytes()).relations.push(taint(schema, *found));
        }
        if let Some(found) = known.types.get(&relation.row_type) {
            for name in [relation.name.clone(), format!("_{}", relation.name)] {
                catalog.names.entry(name.as_bytes()).row_types.push(taint(schema, *found));
            }
        }
    }
    catalog.tainted_types = known.types.keys().copied().collect();
    add_types(&mut catalog, rows, known, &schemas);
    add_operators(&mut catalog, rows, known, &schemas);
    catalog.beyond_ascii = catalog.names.iter().any(|(name, entry)| {
        let tainted = !entry.functions.is_empty() || !entry.relations.is_empty() || !entry.types.is_empty();
        tainted && !name.is_ascii()
    });
    catalog
}

fn taint(schema: u32, found: Found) -> Taint {
    let hidden = if found.effects.contains(Effects::STATE) { Effects::HIDDEN } else { Effects::NONE };
    Taint { schema, reason: found.reason, effects: found.effects | hidden, lent: found.lent }
}

fn add_types(catalog: &mut Catalog, rows: &CatalogRows, known: &Known, schemas: &HashMap<u32, String>) {
    for row in &rows.types {
        let (Some(found), Some(schema)) = (known.types.get(&row.oid), schemas.get(&row.schema)) else { continue };
        let schema = catalog.schema(schema.as_bytes(), false);
        catalog.names.entry(row.name.as_bytes()).types.push(taint(schema, *found));
    }
    // A built-in type is tainted only by somebody's cast; nobody has to write its name.
    let builtin = known.types.iter().find(|(oid, _)| **oid < FIRST_USER_OID);
    catalog.everything = builtin.map(|(_, found)| taint(PG_CATALOG, *found));
}

/// The operators that PostgreSQL derives from keywords (`LIKE`, `BETWEEN`, `IN`, `USING` …).
const IMPLIED: &[&str] = &["=", "<>", "<", "<=", ">", ">=", "~", "~~", "!~~", "~~*", "!~~*"];

fn add_operators(catalog: &mut Catalog, rows: &CatalogRows, known: &Known, schemas: &HashMap<u32, String>) {
    for row in &rows.operators {
        let (Some(found), Some(schema)) = (known.functions.get(&row.function), schemas.get(&row.schema)) else {
            continue;
        };
        let schema = catalog.schema(schema.as_bytes(), false);
        catalog.operators.entry(row.name.as_bytes()).push(taint(schema, *found));
        if IMPLIED.contains(&row.name.as_str()) {
            catalog.implied_operators.push(taint(schema, *found));
        }
    }
}
